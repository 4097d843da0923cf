"""The selection sum end to end: exact at its bounds, gated by counts, refusing whatever is malformed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute import _native
from compute.errors import DataError, PeerViolation
from compute.protocols.base import Frame, run_pair
from compute.selection_sum import (
    STANDARD,
    Answers,
    CellSums,
    DoesNotFit,
    Opening,
    Parameters,
    ReceiverGroup,
    SenderGroup,
    Shape,
    SumBound,
    open_answers,
    receiver,
    sender,
)


def seeded(seed: object) -> Callable[[int], bytes]:
    """Reproducible entropy: a counter hashed with the seed."""
    calls = 0

    def draw(count: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(count)

    return draw


def column(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def release_all(counts: np.ndarray) -> np.ndarray:
    return np.ones_like(counts, np.bool_)


def run(
    parameters: Parameters,
    shape: Shape,
    senders: list[SenderGroup],
    receivers: list[ReceiverGroup],
    gate=release_all,
) -> tuple[Answers, Opening]:
    return run_pair(
        sender(parameters, shape, senders, gate, seeded("s")),
        receiver(parameters, shape, receivers, seeded("r")),
    )


def sums(parameters: Parameters, shape: Shape, *args, **kwargs) -> dict[tuple[int, int], CellSums]:
    answers, opening = run(parameters, shape, *args, **kwargs)
    return open_answers(parameters, shape, opening, answers.encode(parameters, shape))


def expected(senders: list[SenderGroup], receivers: list[ReceiverGroup]) -> dict[tuple[int, int], CellSums]:
    """The same sums in Python integers."""
    cells = {}
    for r, mine in enumerate(receivers):
        for s, theirs in enumerate(senders):
            vectors = [dict.fromkeys(map(int, mine.positions), 1)]
            vectors += [dict(zip(map(int, mine.positions), map(int, w), strict=True)) for w in mine.weights]
            fields = [dict.fromkeys(map(int, theirs.positions), 1)]
            fields += [
                dict(zip(map(int, theirs.positions), map(int, v), strict=True)) for v in theirs.measures
            ]
            table = [[sum(w * f.get(p, 0) for p, w in v.items()) for f in fields] for v in vectors]
            cells[r, s] = CellSums(table[0][0], tuple(table[0][1:]), tuple(map(tuple, table[1:])))
    return cells


@st.composite
def problems(draw) -> tuple[Parameters, Shape, list[SenderGroup], list[ReceiverGroup]]:
    slots = draw(st.sampled_from([1, 7, 200, 4096, 4097, 9000]))
    measures = draw(st.integers(0, 3))
    limits = [draw(st.sampled_from([1, 1000, 2**40, 2**62])) for _ in range(measures)]
    heaviest = draw(st.sampled_from([None, 1, 50, 2**33]))
    shape = Shape(
        draw(st.integers(1, 3)), draw(st.integers(1, 2)), 0 if heaviest is None else draw(st.integers(0, 2))
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32)))

    def some() -> np.ndarray:
        return np.flatnonzero(random.random(slots) < random.choice([0, 0.1, 1])).astype(np.int64)

    senders = []
    for _ in range(shape.sender_groups):
        where = some()
        senders.append(
            SenderGroup(where, tuple(random.integers(-b, b, len(where), np.int64, True) for b in limits))
        )
    receivers = []
    for _ in range(shape.receiver_groups):
        where, w = some(), heaviest or 0
        weights = tuple(
            random.integers(-w, w, len(where), np.int64, True) for _ in range(shape.weight_columns)
        )
        receivers.append(ReceiverGroup(where, weights))
    parameters = Parameters.derive(
        slots=slots,
        returned=shape.selections * shape.sender_groups,
        bounds=[SumBound(limit * slots) for limit in limits],
        weight_bound=heaviest,
    )
    return parameters, shape, senders, receivers


@settings(max_examples=16, deadline=None)
@given(problems())
def test_sums_are_exact(problem) -> None:
    parameters, shape, senders, receivers = problem
    assert sums(parameters, shape, senders, receivers) == expected(senders, receivers)


def everywhere(slots: int) -> np.ndarray:
    return np.arange(slots, dtype=np.int64)


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 2**19, 1, 0])
@pytest.mark.parametrize("weight", [None, 1, 2**60])
def test_the_largest_declared_sum_does_not_wrap(value: int, weight: int | None) -> None:
    slots = 5000
    shape = Shape(1, 1, 0 if weight is None else 2)
    parameters = Parameters.derive(
        slots=slots, returned=shape.selections, bounds=[SumBound(abs(value) * slots)] * 2, weight_bound=weight
    )
    senders = [SenderGroup(everywhere(slots), (np.full(slots, value), np.full(slots, value)))]
    heavy = np.full(slots, weight or 0)
    receivers = [ReceiverGroup(everywhere(slots), () if weight is None else (heavy, -heavy))]
    assert sums(parameters, shape, senders, receivers) == expected(senders, receivers)


def test_wide_plaintexts_use_larger_rings() -> None:
    slots, degrees = 33_000, set()
    for measures in (1, 3, 5, 9):
        parameters = Parameters.derive(slots=slots, returned=1, bounds=[SumBound(2**63 * slots)] * measures)
        degrees.add(parameters.degree)
        values = tuple(np.full(slots, -(2**63) + i) for i in range(measures))
        senders, receivers = [SenderGroup(everywhere(slots), values)], [ReceiverGroup(everywhere(slots)[::3])]
        assert sums(parameters, Shape(1, 1), senders, receivers) == expected(senders, receivers)
    assert degrees == {8192, 16384, 32768}


@pytest.mark.parametrize(
    "arguments",
    [
        {"slots": 0},
        {"slots": 2**32},
        {"returned": 0},
        {"returned": 10**5},  # the receiver's memory
        {"bounds": [SumBound(2**800)]},
        {"bounds": [SumBound(0, 2**800)]},
        {"bounds": [SumBound(-1)]},
        {"weight_bound": 0},
        {"weight_bound": 2**61},
        {"selected": 0},
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict) -> None:
    with pytest.raises(DoesNotFit):
        Parameters.derive(**({"slots": 1000, "returned": 1, "bounds": [SumBound(1000)]} | arguments))


@settings(max_examples=24, deadline=None)
@given(
    slots=st.integers(1, 2**31),
    returned=st.integers(1, 100),
    magnitudes=st.lists(st.integers(0, 2**100), max_size=4),
    weight_bound=st.one_of(st.none(), st.integers(1, 2**40)),
)
def test_parameters_meet_the_standard_and_their_own_proof(slots, returned, magnitudes, weight_bound) -> None:
    bounds = [SumBound(m, m // 7) for m in magnitudes]
    p = Parameters.derive(slots=slots, returned=returned, bounds=bounds, weight_bound=weight_bound)
    W = weight_bound or 1
    assert p.q.bit_length() <= STANDARD[p.degree]
    assert len(set(p.moduli)) == len(p.moduli)
    assert all(m % (2 * p.degree) == 1 and m < 2**50 for m in p.moduli)
    # Sums: every field holds its largest value.
    most = slots if weight_bound is None else 2 * W * slots
    assert most < 2**p.identity_bits
    assert all(2 * (W * b.magnitude + b.tail) < 2**bits for b, bits in zip(bounds, p.field_bits, strict=True))
    # Flood: C answers, each shifted by at most E, stay within 2^-40 of unshifted ones.
    E = 43 * W * slots / 2 + 42 * p.degree + 1
    assert returned * E / 2 ** (p.flood_bits + 1) <= 2**-40
    # Decryption: (E + flood) q'/q + N + 1 < q' / 2t, in exact integers.
    worst = p.noise_bound + 2**p.flood_bits
    assert 2 * p.t * (worst * p.q_kept + (p.degree + 1) * p.q) < p.q * p.q_kept


@pytest.mark.parametrize("weight_bound", [None, 1000])
def test_measured_noise_stays_within_its_bound(weight_bound: int | None) -> None:
    """Of the kernel's own answers, before flood and switch: the noise budget is measured, not only proved."""
    slots, magnitude = 20_000, 2**19
    p = Parameters.derive(
        slots=slots, returned=1, bounds=[SumBound(slots * magnitude)], weight_bound=weight_bound
    )
    random = np.random.default_rng(11)
    values = random.integers(-magnitude, magnitude, slots, np.int64)
    weights = None if weight_bound is None else random.choice([-weight_bound, weight_bound], slots)
    ring = _native.SelectionRing("portable", p.degree, p.moduli)
    key = _native.SelectionKey(ring, p.plain_bits, bytes(32), bytes(32))
    selection = (everywhere(slots), weights)
    sums = _native.SelectionSums(ring, bytes(32), key.public_key(), 1, slots, [selection])
    for block in range(p.blocks):
        here = values[block * p.degree : (block + 1) * p.degree]
        sent = key.encrypt(0, block, 1, everywhere(len(here)), [(p.identity_bits, here)])
        sums.absorb(0, block, 1, sent)
    opened = key.open(len(p.moduli), sums.finish(0, 0, b"s" * 32, [0] * len(p.moduli), len(p.moduli)))
    x = sum(r * (p.q // m) * pow(p.q // m, -1, m) for r, m in zip(opened, p.moduli, strict=True))
    ones = np.ones(slots, np.int64) if weights is None else weights
    plain = (int(ones.sum()) + (int(ones @ values) << p.identity_bits)) % p.t
    noise = (x - (2 * p.q * plain + p.t) // (2 * p.t) + p.q // 2) % p.q - p.q // 2
    assert 2**8 < abs(noise) <= p.noise_bound


def small() -> tuple[Parameters, Shape, list[SenderGroup], list[ReceiverGroup]]:
    parameters = Parameters.derive(
        slots=100, returned=24, bounds=[SumBound(10_000, 500)], weight_bound=9, selected=60
    )
    senders = [
        SenderGroup(column(0, 1, 50, 99), (column(10, -20, 30, 40),)),
        SenderGroup(column(1, 2), (column(7, 8),)),
    ]
    receivers = [
        ReceiverGroup(column(1, 50), (column(9, -9),)),
        ReceiverGroup(column(), (column(),)),
    ]
    return parameters, Shape(2, 2, 1), senders, receivers


def test_the_gate_sees_exact_counts_once_and_decides_every_cell() -> None:
    parameters, shape, senders, receivers = small()
    asked = []

    def gate(counts: np.ndarray) -> np.ndarray:
        asked.append(counts.tolist())
        return counts >= 2

    answers, opening = run(parameters, shape, senders, receivers, gate)
    assert asked == [[[2, 1], [0, 0]]]
    assert set(answers.masked) == {(0, 0)}
    encoded = answers.encode(parameters, shape)
    assert open_answers(parameters, shape, opening, encoded) == {(0, 0): expected(senders, receivers)[0, 0]}
    # A suppressed cell is zeros: neither its count nor its masked sums leave.
    assert not any(encoded[len(encoded) // 4 :])
    everything, _ = run(parameters, shape, senders, receivers)
    assert len(everything.encode(parameters, shape)) == len(encoded)


def test_the_gate_is_asked_about_the_fewest_weights_that_are_not_zero() -> None:
    parameters, shape, senders, _ = small()
    asked = []

    def gate(counts: np.ndarray) -> np.ndarray:
        asked.append(counts.tolist())
        return counts >= 2

    # Both groups select three slots; one weight of the second is not zero: it would isolate a row.
    receivers = [
        ReceiverGroup(column(0, 1, 50), (column(9, -9, 1),)),
        ReceiverGroup(column(0, 1, 50), (column(0, 9, 0),)),
    ]
    answers, _ = run(parameters, shape, senders, receivers, gate)
    assert asked == [[[3, 1], [1, 1]]]
    assert answers.counts.tolist() == [[3, 1], [3, 1]]
    assert answers.supports[:, :, 0].tolist() == answers.least.tolist() == [[3, 1], [1, 1]]
    assert set(answers.masked) == {(0, 0)}


def test_a_gate_that_refuses_ends_the_role() -> None:
    parameters, shape, senders, receivers = small()

    def gate(counts: np.ndarray) -> np.ndarray:
        raise DataError("test.refused", "refused")

    with pytest.raises(DataError, match="refused"):
        run(parameters, shape, senders, receivers, gate)
    with pytest.raises(DataError):
        run(parameters, shape, senders, receivers, lambda counts: np.ones(1, np.bool_))


def test_frames_do_not_depend_on_what_is_hidden() -> None:
    """Only vectors and values change: kinds, order and lengths of all frames stay."""

    def transcript(senders: list[SenderGroup], receivers: list[ReceiverGroup]) -> list[tuple[str, int]]:
        sent = []

        def watched(role):
            item = next(role)
            while True:
                if isinstance(item, Frame):
                    sent.append((item.kind, len(item.body)))
                reply = yield item
                try:
                    item = role.send(reply)
                except StopIteration as end:
                    return end.value

        run_pair(
            watched(sender(parameters, shape, senders, release_all, seeded(1))),
            watched(receiver(parameters, shape, receivers, seeded(2))),
        )
        return sent

    parameters, shape, senders, receivers = small()
    nothing = [ReceiverGroup(column(), (column(),))] * 2
    zeros = [SenderGroup(column(), (column(),))] * 2
    assert transcript(senders, receivers) == transcript(senders, nothing) == transcript(zeros, receivers)


def test_noise_of_the_sender_arrives_exactly_and_never_beyond_its_tail() -> None:
    parameters, shape, senders, receivers = small()
    answers, opening = run(parameters, shape, senders, receivers)
    plain = expected(senders, receivers)
    for sign in (1, -1):
        noisy = answers.noised(
            parameters, lambda r, s, k, sign=sign: (sign * 500,) if k == 0 else (0, -sign * 499)
        )
        for cell, sums_ in open_answers(parameters, shape, opening, noisy.encode(parameters, shape)).items():
            assert sums_.measures == (plain[cell].measures[0] + sign * 500,)
            assert sums_.weighted == ((plain[cell].weighted[0][0], plain[cell].weighted[0][1] - sign * 499),)
    for bad in ((501,), (-501,), (), (1, 1)):
        with pytest.raises(DataError):
            answers.noised(parameters, lambda r, s, k, bad=bad: bad if k == 0 else (0, 0))
    with pytest.raises(DataError):
        answers.noised(parameters, lambda r, s, k: (0,) if k == 0 else (1, 0))


def test_the_commitment_opens() -> None:
    parameters, shape, senders, receivers = small()
    answers, opening = run(parameters, shape, senders, receivers)
    counted, whole = -(-sum(parameters.field_bits) // 8), -(-parameters.plain_bits // 8)
    widths = [counted, counted, whole]  # selection, where the weight is not zero, weight
    totals = b"".join(
        mask.to_bytes(width, "little")
        for row in opening.masks
        for cell in row
        for mask, width in zip(cell, widths, strict=True)
    )
    digest = hashlib.sha256(b"bayspace mask totals v1" + opening.salt + totals).digest()
    assert digest == opening.commitment == answers.commitment
    assert "mask" not in repr(opening)
    assert str(opening.masks[0][0][0]) not in repr(opening)


@pytest.mark.parametrize(
    "group",
    [
        SenderGroup(column(0, 1), ()),
        SenderGroup(column(0, 1), (column(1, 2), column(1, 2))),
        SenderGroup(column(0, 1), (column(1),)),
        SenderGroup(column(0, 1), (column(5_000, -5_001),)),
        SenderGroup(column(0), (column(-(2**63)),)),
        SenderGroup(column(1, 0), (column(1, 2),)),
        SenderGroup(column(1, 1), (column(1, 2),)),
        SenderGroup(column(-1, 1), (column(1, 2),)),
        SenderGroup(column(0, 100), (column(1, 2),)),
    ],
)
def test_own_data_outside_the_declaration_never_leaves(group: SenderGroup) -> None:
    parameters, shape, senders, receivers = small()
    with pytest.raises(DataError):
        run(parameters, shape, [senders[0], group], receivers)


@pytest.mark.parametrize(
    "group",
    [
        ReceiverGroup(column(0, 1)),
        ReceiverGroup(column(0, 1), (column(1),)),
        ReceiverGroup(column(0, 1), (column(10, 0),)),
        ReceiverGroup(column(0, 1), (column(0, -(2**63)),)),
        ReceiverGroup(column(1, 0), (column(1, 1),)),
        ReceiverGroup(column(0, 100), (column(1, 1),)),
        ReceiverGroup(everywhere(61), (everywhere(61) * 0,)),
    ],
)
def test_own_selections_outside_the_declaration_never_leave(group: ReceiverGroup) -> None:
    parameters, shape, senders, receivers = small()
    with pytest.raises(DataError):
        run(parameters, shape, senders, [receivers[0], group])


def test_groups_and_weights_stay_within_the_plan() -> None:
    parameters, shape, senders, receivers = small()
    for wrong in (Shape(2, 3, 1), Shape(3, 2, 1), Shape(2, 2, 2)):
        with pytest.raises(DataError):
            run(parameters, wrong, senders, receivers)
    unweighted = Parameters.derive(slots=100, returned=12, bounds=[SumBound(10_000)])
    with pytest.raises(DataError):
        run(unweighted, shape, senders, receivers)


def tampered(role, kind: str, change: Callable[[bytes], bytes | None]):
    """The role, with its first frame of this kind changed (or dropped, for None)."""
    item, pending = next(role), True
    while True:
        if isinstance(item, Frame) and item.kind == kind and pending:
            pending = False
            body = change(item.body)
            reply = None if body is None else (yield Frame(kind, body))
        else:
            reply = yield item
        try:
            item = role.send(reply)
        except StopIteration as end:
            return end.value


SENDER_KINDS = ["selection-seed", "selection-key", "selection-columns"]
RECEIVER_KINDS = ["selection-commitment", "selection-sums"]


def run_tampered(kind: str, change: Callable[[bytes], bytes | None], problem=None) -> tuple[Answers, Opening]:
    parameters, shape, senders, receivers = problem or small()
    left = sender(parameters, shape, senders, release_all, seeded("s"))
    right = receiver(parameters, shape, receivers, seeded("r"))
    if kind in SENDER_KINDS:
        return run_pair(tampered(left, kind, change), right)
    return run_pair(left, tampered(right, kind, change))


@pytest.mark.parametrize("kind", SENDER_KINDS + RECEIVER_KINDS)
@pytest.mark.parametrize(
    "change", [lambda body: body[:-1], lambda body: body + b"\0", lambda body: b"", lambda body: None]
)
def test_wrong_lengths_and_missing_frames_are_the_peers_fault(kind, change) -> None:
    with pytest.raises(PeerViolation):
        run_tampered(kind, change)


@pytest.mark.parametrize("kind", ["selection-key", "selection-columns", "selection-sums"])
def test_residues_that_are_not_below_their_prime_are_refused(kind) -> None:
    with pytest.raises(PeerViolation):
        run_tampered(kind, lambda body: body[:-8] + b"\xff" * 8)


def test_a_head_that_is_not_below_its_prime_is_refused() -> None:
    with pytest.raises(PeerViolation):
        run_tampered("selection-sums", lambda body: b"\xff" * 8 + body[8:])


def test_noise_beyond_the_bound_is_refused() -> None:
    """An answer whose noise is just inside the bound decrypts; twice the bound is noticed."""
    parameters, _shape, _senders, _receivers = small()
    budget = parameters.q_kept // (2 * parameters.t)
    bound = parameters.returned_noise * parameters.q_kept // parameters.q + parameters.degree + 1
    assert 3 * bound < budget, "the case needs room between the bound and the wrap"

    def shifted(by: int) -> Callable[[bytes], bytes]:
        def change(body: bytes) -> bytes:
            heads = [
                (int.from_bytes(body[8 * i : 8 * i + 8], "little") + by) % p
                for i, p in enumerate(parameters.moduli[: parameters.kept])
            ]
            return b"".join(head.to_bytes(8, "little") for head in heads) + body[8 * parameters.kept :]

        return change

    answers, _opening = run_tampered("selection-sums", shifted(0))
    assert answers.counts[0, 0] == 2
    for by in (2 * bound, -2 * bound, budget, -budget):
        with pytest.raises(PeerViolation):
            run_tampered("selection-sums", shifted(by))


def test_an_impossible_count_is_refused() -> None:
    """The receiver adds 2^6 - 1 to a count (61 would be one slot too many)."""
    parameters, _shape, _senders, _receivers = small()

    def change(body: bytes) -> bytes:
        by = (2 * parameters.q_kept * 61 + parameters.t) // (2 * parameters.t)
        heads = [
            (int.from_bytes(body[8 * i : 8 * i + 8], "little") + by) % p
            for i, p in enumerate(parameters.moduli[: parameters.kept])
        ]
        return b"".join(head.to_bytes(8, "little") for head in heads) + body[8 * parameters.kept :]

    with pytest.raises(PeerViolation, match="count"):
        run_tampered("selection-sums", change)


def test_answers_from_another_session_do_not_open_to_its_sums() -> None:
    """Replay: a release frame of another session is masked by other masks."""
    parameters, shape, senders, receivers = small()
    first, _ = run(parameters, shape, senders, receivers)
    _, other = run_pair(
        sender(parameters, shape, senders, release_all, seeded("s2")),
        receiver(parameters, shape, receivers, seeded("r2")),
    )
    opened = open_answers(parameters, shape, other, first.encode(parameters, shape))
    plain = expected(senders, receivers)
    assert all(opened[cell].measures != plain[cell].measures for cell in plain)


def test_malformed_answers_are_refused() -> None:
    parameters, shape, senders, receivers = small()
    answers, opening = run(parameters, shape, senders, receivers, lambda counts: counts >= 2)
    good = answers.encode(parameters, shape)
    row = len(good) // 4
    bad = {
        "short": good[:-1],
        "long": good + b"\0",
        "flag": b"\2" + good[1:],
        "count": good[:1] + (61).to_bytes(8, "little") + good[9:],
        "suppressed with a value": good[: row + 1] + b"\1" + good[row + 2 :],
        "too wide": good[: row - 1] + b"\xff" + good[row:],
    }
    assert 8 * (row - 9) > sum(parameters.field_bits) + parameters.plain_bits + 7, "no spare bits to set"
    for data in bad.values():
        with pytest.raises(PeerViolation):
            open_answers(parameters, shape, opening, data)


def test_both_sides_derive_the_same_canonical_parameters() -> None:
    parameters = small()[0]
    again = small()[0]
    assert parameters.canonical() == again.canonical()
    assert len({str(p.canonical()) for p in (parameters, replace(parameters, flood_bits=3))}) == 2


def recorded(role, kind: str, bodies: list[bytes]):
    """The role, with the bodies of its frames of one kind copied into a list."""
    item = next(role)
    while True:
        if isinstance(item, Frame) and item.kind == kind:
            bodies.append(item.body)
        reply = yield item
        try:
            item = role.send(reply)
        except StopIteration as end:
            return end.value


def test_every_answer_of_the_role_is_flooded() -> None:
    """The key holder's view of 60 answers: noise spread over the whole flood, not over its own errors."""
    cells = 60
    parameters = Parameters.derive(slots=50, returned=cells, bounds=[SumBound(50)])
    seeds, bodies = [], []

    def entropy(count: int) -> bytes:
        seeds.append(seeded("sender")(count + len(seeds))[:count])
        return seeds[-1]

    receivers = [ReceiverGroup(column(i % 50)) for i in range(cells)]
    left = sender(
        parameters,
        Shape(cells, 1),
        [SenderGroup(everywhere(50), (everywhere(50) % 2,))],
        release_all,
        entropy,
    )
    answers, _ = run_pair(
        left, recorded(receiver(parameters, Shape(cells, 1), receivers, seeded(3)), "selection-sums", bodies)
    )
    assert len(bodies) == cells
    assert (answers.counts == 1).all()
    ring = _native.SelectionRing("portable", parameters.degree, parameters.moduli)
    key = _native.SelectionKey(ring, parameters.plain_bits, seeds[1], seeds[0])
    noise = []
    for body in bodies:
        q, t, x = parameters.q_kept, parameters.t, 0
        for residue, p in zip(key.open(parameters.kept, body), parameters.moduli, strict=False):
            x += residue * (q // p) * pow(q // p, -1, p)
        centred = (x * t + q // 2) % q - q // 2  # t * noise, since q * plain vanishes modulo q
        noise.append(centred / t * parameters.q / q / 2**parameters.flood_bits)
    assert max(map(abs, noise)) < 1.01
    assert max(noise) > 0.8
    assert min(noise) < -0.8
    assert abs(np.mean(noise)) < 4 / np.sqrt(3 * cells)


def test_no_draw_of_entropy_is_used_twice_or_left_out() -> None:
    """Another seed anywhere changes what is sent; equal selections give unrelated answers."""
    parameters, shape, senders, receivers = small()

    def frames(sender_seed: object, receiver_seed: object) -> list[bytes]:
        bodies: list[bytes] = []
        run_pair(
            recorded(
                sender(parameters, shape, senders, release_all, seeded(sender_seed)),
                "selection-columns",
                bodies,
            ),
            recorded(receiver(parameters, shape, receivers, seeded(receiver_seed)), "selection-sums", bodies),
        )
        return bodies

    first, again, other_sender, other_receiver = frames(1, 2), frames(1, 2), frames(3, 2), frames(1, 4)
    assert first == again
    assert not set(first) & set(other_sender)
    assert first[:2] == other_receiver[:2]
    assert not set(first[2:]) & set(other_receiver[2:])
    assert len(set(first)) == len(first)
