"""Federated rounds: exact totals, whose error a tampered round is, and what colluders can see."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute import _native, threshold
from compute import federation as f
from compute.errors import DataError, PeerViolation, QueryError
from compute.federation import Contribution, Entry, Member, Roster, Shape, TotalGate, Totals
from compute.frames import Frame, Receive
from compute.protocols import he_sum, masked_sum, protocol_named
from compute.protocols.base import run_round
from compute.threshold import Parameters
from tests.compute.test_selection_sum_specification import (
    SECRET,
    N,
    Seal,
    plus,
    primes,
    ternary,
    unpacked,
)

SCHEMES = ["masked_sum", "he_sum"]


def _entropy(seed: str) -> Callable[[int], bytes]:
    """A seeded stream: SHAKE-256 of the seed and a counter."""
    count = 0

    def draw(length: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{seed}/{count}".encode()).digest(length)

    return draw


def _sign(name: str) -> Callable[[bytes], bytes]:
    return lambda message: hmac.digest(name.encode(), message, "sha256")


def _verify(name: str, message: bytes, signature: bytes) -> None:
    if not hmac.compare_digest(_sign(name)(message), signature):
        raise PeerViolation("peer.signature", "a participant's signature does not hold")


@dataclass
class Round:
    """A round of `n` participants with roles for one scheme."""

    scheme: str
    n: int
    shape: Shape
    bound: int = 10**6
    seed: str = "round"
    gate: TotalGate = field(default_factory=lambda: TotalGate(1, 1))

    def __post_init__(self) -> None:
        self.names = [f"party-{i:02}" for i in range(self.n)]
        entries = [
            Entry(name, "aa" * 32, "bb" * 32, f"{i:064x}", self.gate.identities, self.gate.participants)
            for i, name in enumerate(self.names)
        ]
        self.roster = Roster(tuple(entries))
        vectors = [self.shape.counted, self.shape.measured]
        self.parameters = Parameters.derive(self.n, self.bound, vectors)

    def member(self, i: int) -> Member:
        entry = self.roster.entries[i]
        return Member(entry, tuple(self.names), _sign(entry.participant), _verify, lambda: None)

    def participant(self, i: int, own: Contribution, member: Member | None = None) -> Any:
        entropy, member = _entropy(f"{self.seed}/{i}"), member or self.member(i)
        if self.scheme == "masked_sum":
            return masked_sum.participant(member, self.shape, own, entropy)
        return he_sum.participant(member, self.shape, self.parameters, own, entropy)

    def coordinator(self, roster: Roster | None = None) -> Any:
        if self.scheme == "masked_sum":
            return masked_sum.coordinator(roster or self.roster, self.shape)
        return he_sum.coordinator(roster or self.roster, self.shape, self.parameters)

    @property
    def keys(self) -> str:
        """The kind of frame in which everybody's signed keys come."""
        return "round-keys" if self.scheme == "masked_sum" else "parts"

    def run(self, contributions: Sequence[Contribution], coordinators: Sequence[Any] | None = None) -> Totals:
        roles = [self.participant(i, own) for i, own in enumerate(contributions)]
        totals, released = run_round(coordinators or [self.coordinator() for _ in range(self.n)], roles)
        assert all(t == totals[0] for t in totals)
        assert all(r == released[0] for r in released)
        return totals[0]


def expected(shape: Shape, gate: TotalGate, contributions: Sequence[Contribution]) -> Totals:
    """The same in plain sums."""
    identities = tuple(sum(c.identities[i] for c in contributions) for i in range(shape.cells))
    parties = tuple(sum(c.identities[i] > 0 for c in contributions) for i in range(shape.cells))
    shown = [
        i >= max(1, gate.identities) and p >= gate.participants
        for i, p in zip(identities, parties, strict=True)
    ]
    measures = tuple(
        tuple(sum(c.measures[m][i] for c in contributions) * shown[i] for i in range(shape.cells))
        for m in range(shape.measures)
    )
    return Totals(identities, parties, measures)


def contribution(shape: Shape, rng: np.random.Generator, bound: int) -> Contribution:
    identities = rng.integers(0, 4, shape.cells)
    columns = [
        np.where(identities, rng.integers(-bound, bound + 1, shape.cells), 0) for _ in range(shape.measures)
    ]
    return Contribution(tuple(identities.tolist()), tuple(tuple(column.tolist()) for column in columns))


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=12)
@given(n=st.integers(2, 5), cells=st.integers(1, 5), measures=st.integers(0, 3), seed=st.integers(0, 2**32))
def test_a_round_gives_the_plain_totals(scheme: str, n: int, cells: int, measures: int, seed: int) -> None:
    shape, rng = Shape(cells, measures), np.random.default_rng(seed)
    gate = TotalGate(identities=int(rng.integers(1, 7)), participants=int(rng.integers(1, 4)))
    contributions = [contribution(shape, rng, 10**6) for _ in range(n)]
    round_ = Round(scheme, n, shape, bound=5 * 10**6, seed=str(seed), gate=gate)
    assert round_.run(contributions) == expected(shape, gate, contributions)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sums_at_the_bound_are_exact(scheme: str) -> None:
    shape, bound = Shape(2, 1), 2**100
    own = [Contribution((1, 1), ((bound // 2, -bound // 2),)) for _ in range(2)]
    assert Round(scheme, 2, shape, bound=bound).run(own).measures == ((bound, -bound),)


@pytest.mark.deep
@pytest.mark.parametrize("scheme", SCHEMES)
def test_thirty_two_participants(scheme: str) -> None:
    shape, rng = Shape(3, 1), np.random.default_rng(5)
    contributions = [contribution(shape, rng, 1000) for _ in range(32)]
    round_ = Round(scheme, 32, shape)
    assert round_.run(contributions) == expected(shape, round_.gate, contributions)


def test_seal_with_the_sum_of_the_secrets_opens_the_sum_of_the_ciphertexts(tmp_path: Path) -> None:
    """TenSEAL as the single-key oracle: whoever had all the secrets would read the totals, and no more."""
    parameters = Parameters(N, primes(2), plain_bits=30, flood_bits=0)
    ring, common, seeds = parameters.ring(), b"c" * 32, [bytes([i]) * 32 for i in range(3)]
    parts = [[5, -7, 2**27], [1, 2, -(2**27)], [0, -9, 3]]
    key = _native.threshold_add(
        ring, [_native.ThresholdMember(ring, seed, common).key_share() for seed in seeds]
    )
    first = [
        _native.threshold_first_halves(ring, 30, key, threshold.messages(parameters, part), seed)
        for part, seed in zip(parts, seeds, strict=True)
    ]
    second = [_native.threshold_second_halves(ring, common, seed, 1) for seed in seeds]
    c0, c1 = (
        unpacked(_native.threshold_add(ring, halves), parameters.moduli, N) for halves in (first, second)
    )
    secrets = plus(*(ternary(seed, SECRET, 0, N) for seed in seeds))
    holder = SimpleNamespace(primes=parameters.moduli, plain_bits=30, secret=lambda: secrets)
    opened = Seal(holder, tmp_path).decrypt(c0, c1, parameters.moduli)
    assert opened == [sum(words) % 2**30 for words in zip(*parts, strict=True)] + [0] * (N - 3)


# --- a participant that vanishes -----------------------------------------------------------------------


def _vanishing(role: Any, kind: str) -> Iterator[Any]:
    """A role that sends nothing from its first frame of this kind on, and waits for what never comes."""
    item = next(role)
    while not (isinstance(item, Frame) and item.kind == kind):
        item = role.send((yield item))
    role.close()
    while True:
        yield Receive("nothing")


@pytest.mark.parametrize(
    ("scheme", "n", "kind"),
    [
        *(("masked_sum", 3, kind) for kind in ("round-key", "counts", "release")),
        ("masked_sum", 32, "counts"),
        *(("he_sum", 3, kind) for kind in ("commitment", "part", "counts")),
        ("he_sum", 2, "release"),
        pytest.param("he_sum", 32, "release", marks=pytest.mark.deep),
    ],
)
def test_a_participant_that_vanishes_leaves_no_totals_with_anybody(scheme: str, n: int, kind: str) -> None:
    round_ = Round(scheme, n, Shape(1, 1))
    roles = [round_.participant(i, Contribution((1,), ((1,),))) for i in range(n)]
    roles[1] = _vanishing(roles[1], kind)
    answered, seen = [], []

    def watched() -> Iterator[Any]:
        answered.append((yield from round_.coordinator()))

    def sending(role: Any) -> Iterator[Any]:
        item = next(role)
        while True:
            if isinstance(item, Frame) and item.kind == "counts":
                seen.append(item.body)
            try:
                item = role.send((yield item))
            except StopIteration as end:
                return end.value

    with pytest.raises(PeerViolation) as error:
        run_round([watched() for _ in range(n)], [sending(role) for role in roles])
    assert error.value.code == "peer.silent"
    assert not answered
    if len(seen) == n - 1:  # what the others sent is noise without its mask
        assert f.integers(f.added(seen)) != [n - 1, n - 1]


# --- a coordinator that deviates ------------------------------------------------------------------------


def _rewriting(role: Any, change: Callable[[Frame], Frame]) -> Iterator[Any]:
    """A coordinator whose outgoing frames are changed under way."""
    item = next(role)
    while True:
        try:
            item = role.send((yield change(item) if isinstance(item, Frame) else item))
        except StopIteration as end:
            return end.value


def _deviating(scheme: str, change: Callable[[Frame], Frame], *, only: int = 0) -> None:
    shape = Shape(2, 1)
    round_ = Round(scheme, 3, shape)
    own = [Contribution((2, 3), ((5, 7),)) for _ in range(3)]
    roles = [round_.coordinator() for _ in range(3)]
    roles[only] = _rewriting(roles[only], change)
    round_.run(own, roles)


def _bodies_changed(kind: str, change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Frame], Frame]:
    """A change of a frame that holds everybody's bodies."""
    return lambda frame: Frame(kind, f.joined(change(f.split(frame.body)))) if frame.kind == kind else frame


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_coordinator_cannot_exchange_keys(scheme: str) -> None:
    change = _bodies_changed(
        Round(scheme, 3, Shape(2, 1)).keys, lambda bodies: [bodies[1], bodies[0], bodies[2]]
    )
    with pytest.raises(PeerViolation) as error:
        _deviating(scheme, change)
    assert error.value.code == "peer.signature"


def test_a_coordinator_cannot_have_one_ciphertext_opened() -> None:
    """The classic attack on threshold decryption: one member's ciphertext in place of everybody's."""
    with pytest.raises(PeerViolation) as error:
        _deviating("he_sum", _bodies_changed("parts", lambda bodies: [bodies[0]] * 3))
    assert error.value.code == "peer.signature"


def test_a_coordinator_cannot_show_different_commitments() -> None:
    """What each signs covers all commitments that it saw."""

    def changed(frame: Frame) -> Frame:
        flipped = frame.body[:-1] + bytes([frame.body[-1] ^ 1])
        return Frame(frame.kind, flipped) if frame.kind == "commitments" else frame

    for only, code in ((0, "peer.signature"), (2, "peer.round-key")):  # the third's own is refused by itself
        with pytest.raises(PeerViolation) as error:
            _deviating("he_sum", changed, only=only)
        assert error.value.code == code


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "change",
    [
        lambda r: Roster(r.entries[:2]),
        lambda r: Roster((*r.entries[:2], replace(r.entries[2], participant="party-99"))),
        lambda r: Roster((replace(r.entries[0], session="ff" * 32), *r.entries[1:])),
        lambda r: Roster((replace(r.entries[0], commitment="cc" * 32), *r.entries[1:])),
        lambda r: Roster((replace(r.entries[0], agreement="cc" * 32), *r.entries[1:])),
        lambda r: Roster((replace(r.entries[0], identities=2), *r.entries[1:])),
    ],
)
def test_a_participant_refuses_another_roster(scheme: str, change: Callable[[Roster], Roster]) -> None:
    round_ = Round(scheme, 3, Shape(1, 1))
    role = round_.participant(0, Contribution((1,), ((1,),)))
    next(role)
    with pytest.raises(PeerViolation) as error:
        role.send(Frame("roster", change(round_.roster).canonical()))
    assert error.value.code == "peer.roster"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_different_rosters_give_keys_that_do_not_fit(scheme: str) -> None:
    """A split view: one participant is shown a roster in which another's session differs."""
    round_ = Round(scheme, 3, Shape(1, 1))
    other = replace(round_.roster.entries[2], session="ee" * 32)
    shown = Roster((*round_.roster.entries[:2], other))
    roles = [round_.coordinator(shown), round_.coordinator(), round_.coordinator()]
    with pytest.raises(PeerViolation) as error:
        round_.run([Contribution((1,), ((1,),))] * 3, roles)
    assert error.value.code == "peer.signature"


def test_counts_that_are_no_vector_of_the_round_s_give_totals_that_everybody_refuses() -> None:
    """Behind masks nobody sees whose it was; a sum of anything is no honest round's."""
    round_, own = Round("he_sum", 2, Shape(2, 1)), Contribution((2, 3), ((5, 7),))

    def spoilt(frame: Frame) -> Frame:
        return Frame(frame.kind, b"\xa5" * len(frame.body)) if frame.kind == "counts" else frame

    roles = [round_.participant(0, own), _rewriting(round_.participant(1, own), spoilt)]
    with pytest.raises(PeerViolation) as error:
        run_round([round_.coordinator() for _ in range(2)], roles)
    assert error.value.code == "peer.totals"


def test_a_roster_with_half_a_character_is_refused() -> None:
    entries = [
        asdict(replace(e, agreement="\ud800")) for e in Round("masked_sum", 2, Shape(1, 1)).roster.entries
    ]
    with pytest.raises(PeerViolation):
        Roster.parse(json.dumps(entries, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"[1]", b'[{"participant":1}]', b"\xff", b"[" * 100_000, b"[{}, {}]"]
)
def test_a_roster_of_another_form_is_refused(body: bytes) -> None:
    with pytest.raises(PeerViolation):
        Roster.parse(body)


def test_a_point_of_small_order_is_refused() -> None:
    round_ = Round("masked_sum", 2, Shape(1, 1))
    role = round_.participant(0, Contribution((1,), ((1,),)))
    next(role)
    own = role.send(Frame("roster", round_.roster.canonical())).body
    role.send(None)
    forged = f.signed_key(round_.member(1), masked_sum.SCHEME, round_.roster, bytes(32))
    bodies = f.joined([own, forged])
    role.send(Frame("round-keys-length", len(bodies).to_bytes(8, "big")))
    with pytest.raises(PeerViolation) as error:
        role.send(Frame("round-keys", bodies))
    assert error.value.code == "peer.round-key"


@pytest.mark.parametrize("same", [True, False])
def test_our_own_key_comes_back_unchanged_and_nobody_else_has_it(same: bool) -> None:
    """Also where another key carries our signature, as one of another connection under our name would."""
    round_ = Round("masked_sum", 2, Shape(1, 1))
    role = round_.participant(0, Contribution((1,), ((1,),)))
    next(role)
    own = role.send(Frame("roster", round_.roster.canonical())).body
    role.send(None)
    key = f.split(own)[0] if same else b"\x09".ljust(32, b"\0")
    i = 1 if same else 0
    forged = f.signed_key(round_.member(i), masked_sum.SCHEME, round_.roster, key)
    other = f.signed_key(round_.member(1), masked_sum.SCHEME, round_.roster, b"\x02".ljust(32, b"\0"))
    bodies = f.joined([own, forged] if same else [forged, other])
    role.send(Frame("round-keys-length", len(bodies).to_bytes(8, "big")))
    with pytest.raises(PeerViolation) as error:
        role.send(Frame("round-keys", bodies))
    assert error.value.code == "peer.round-key"


@pytest.mark.parametrize("totals", [[-1, 1], [0, 1], [5, 0], [5, 99]])
def test_totals_of_no_round_are_refused(totals: list[int]) -> None:
    with pytest.raises(PeerViolation):
        TotalGate(1, 1).released(Shape(1, 0), totals)


def test_what_would_wrap_is_not_encrypted() -> None:
    parameters = Parameters.derive(2, 10**6, [2])
    most = parameters.t // 2
    assert len(threshold.messages(parameters, [most - 1, -most])) == parameters.degree
    for word in (most, -most - 1):
        with pytest.raises(DataError) as error:
            threshold.messages(parameters, [word])
        assert error.value.code == "data.bounds"


def test_sums_that_no_standard_modulus_holds_are_refused() -> None:
    with pytest.raises(QueryError):
        Parameters.derive(32, 2**800, [10])


# --- what is seen ---------------------------------------------------------------------------------------


def _frames(round_: Round, contributions: Sequence[Contribution]) -> list[tuple[int, str, bytes]]:
    """Every frame that participants send, in order."""
    seen: list[tuple[int, str, bytes]] = []

    def watched(i: int, role: Any) -> Iterator[Any]:
        item = next(role)
        while True:
            if isinstance(item, Frame):
                seen.append((i, item.kind, item.body))
            try:
                item = role.send((yield item))
            except StopIteration as end:
                return end.value

    roles = [watched(i, round_.participant(i, own)) for i, own in enumerate(contributions)]
    run_round([round_.coordinator() for _ in range(round_.n)], roles)
    return seen


@pytest.mark.parametrize("scheme", SCHEMES)
def test_frames_have_the_same_kinds_and_sizes_whatever_is_contributed(scheme: str) -> None:
    shape = Shape(3, 2)
    round_ = Round(scheme, 3, shape, gate=TotalGate(2, 2))
    nothing = Contribution((0,) * 3, ((0,) * 3,) * 2)
    rng = np.random.default_rng(1)
    full = [contribution(shape, rng, 1000) for _ in range(3)]
    sizes = [
        [(i, kind, len(body)) for i, kind, body in _frames(round_, own)] for own in ([nothing] * 3, full)
    ]
    assert sizes[0] == sizes[1]


def test_colluders_see_of_two_honest_vectors_only_the_sum() -> None:
    """Simulation: with the colluders' secrets taken off, what is left of two honest masked vectors is a
    uniform vector and the sum less it; the same pad explains every pair of vectors with this sum."""
    shape, n = Shape(2, 1), 4
    a, b = Contribution((3, 4), ((10, 20),)), Contribution((5, 1), ((1, 2),))
    c, d = Contribution((5, 1), ((9, 17),)), Contribution((3, 4), ((2, 5),))  # another split of the same sums
    zero = Contribution((0, 0), ((0, 0),))
    views = []
    for first, second in ((a, b), (c, d)):
        frames = _frames(Round("masked_sum", n, shape), [first, second, zero, zero])
        views.append({(i, kind): body for i, kind, body in frames})
    for kind in ("counts", "release"):
        assert views[0][0, kind] != views[1][0, kind]
        strip = 0 if kind == "counts" else 8  # the release is behind its length
        sums = [f.added([view[0, kind][strip:], view[1, kind][strip:]]) for view in views]
        assert sums[0] == sums[1]  # what differs between the worlds is the pad of the honest pair alone
    # everything else the coalition sees is the same in both worlds
    rest = [
        {k: v for k, v in view.items() if k[0] > 1 or k[1] not in {"counts", "release"}} for view in views
    ]
    assert rest[0] == rest[1]


def test_masks_of_different_rounds_and_vectors_differ() -> None:
    shape = Shape(1, 2)
    zero = Contribution((0,), ((0,), (0,)))
    pads = []
    for seed in ("x", "y"):
        for i, kind, body in _frames(Round("masked_sum", 2, shape, seed=seed), [zero, zero]):
            if i == 0 and kind in {"counts", "release"}:
                pads.append(body[-32:])
    assert len(set(pads)) == 4


def test_decryption_shares_hide_their_member_behind_the_flood() -> None:
    """Without the flood a share is c1 * s_i, and division gives the member's secret: with it, it does not.

    The flood bound is proved in compute/threshold.py; here that it is there, uniform and as wide as said.
    """
    shape = Shape(2000, 0)
    round_ = Round("he_sum", 2, shape)
    own = [Contribution((1,) * 2000, ()) for _ in range(2)]
    draws = []
    for seed in ("a", "b"):
        frames = _frames(replace(round_, seed=seed), own)
        draws.append(next(body for i, kind, body in frames if (i, kind) == (0, "counts")))
    assert draws[0] != draws[1]
    parameters = round_.parameters
    noise = 2 * (42 * 2 * parameters.degree + 22) + 1
    opened = parameters.degree * -(-shape.counted // parameters.degree)
    assert opened * noise <= 2 ** (parameters.flood_bits + 1 - 40)
    q = np.prod([float(p) for p in parameters.moduli])
    assert (noise + 2 * 2.0**parameters.flood_bits) * 2 * parameters.t < q


# --- vectors --------------------------------------------------------------------------------------------

VECTORS = Path(__file__).parents[2] / "vectors"


@pytest.mark.parametrize(
    "path", ["masked_sum/basic.txt", "he_sum/basic.txt", "he_sum/version-2.txt", "he_sum/version-3.txt"]
)
def test_vector(path: str) -> None:
    """The same seeds and contributions give the same frames: else the protocol's version must change.

    Of a version that is spoken no more, the totals stand.
    """
    scheme = path.partition("/")[0]
    lines = (VECTORS / path).read_text(encoding="utf-8").splitlines()
    fields = [line.split(": ", 1) for line in lines if line and not line.startswith("#")]
    named = dict(fields)
    parts = [value.split("|") for name, value in fields if name == "participant"]
    contributions = [
        Contribution(tuple(map(int, counts.split(","))), (tuple(map(int, sums.split(","))),))
        for counts, sums in parts
    ]
    shape = Shape(len(contributions[0].identities), 1)
    gate = TotalGate(*map(int, named["minimum"].split("|")))
    round_ = Round(scheme, len(parts), shape, seed=named["seed"], gate=gate)
    assert round_.roster.digest.hex() == named["roster"]
    transcript = hashlib.sha256()
    for i, kind, body in _frames(round_, contributions):
        transcript.update(f.joined([bytes([i]), kind.encode(), body]))
    totals = round_.run(contributions)
    rows = zip(totals.identities, totals.participants, totals.measures[0], strict=True)
    assert ["|".join(map(str, row)) for row in rows] == [v for name, v in fields if name == "expect"]
    if int(named.get("version", 1)) == protocol_named(scheme).version:
        assert transcript.hexdigest() == named["transcript"]
