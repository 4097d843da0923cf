"""`psi_list` and `psi_count`: the owner counts first; what it gives then opens for matched keys alone."""

from __future__ import annotations

import struct
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute import kernel
from compute.errors import DataError, PeerViolation, QueryError
from compute.inputs import Context, Summary
from compute.plan import Dimension, Partial, Side
from compute.protocols import protocol_named, psi, psi_list
from compute.protocols._rows import Layout, text_width
from compute.protocols.base import Frame
from policy_enforcer.disclosure import Fact, Party

BOTH = ["psi_list", "psi_count"]
KEYS = [f"k{i}" for i in range(14)] + ["深圳市", "", None]
TEXTS = ["", "甲", "a longer text", None]
LEFT = [(f"k{i}", "ab"[i % 2]) for i in range(8)]
RIGHT = [(f"k{i}", f"secret {i}", i) for i in range(3, 12)]


def unique_by_key(rows):
    return list({row[0]: row for row in rows}.values())


def run(kit, made):
    outcome, wire = kit.relay(*made.roles())
    for value in outcome.values():
        if isinstance(value, Exception):
            raise value
    return outcome, wire


# --- what they answer


rows = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(TEXTS)), max_size=24)
owned = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(TEXTS), st.none() | st.integers(-(2**63), 2**63 - 1)),
    max_size=24,
)


@settings(max_examples=12, deadline=None)
@given(left=rows, right=owned, minimum=st.integers(1, 4), columns=st.booleans())
def test_a_list_equals_a_plaintext_join(kit, overlap_scene, left, right, minimum, columns):
    right = unique_by_key(right)
    payload = (("d1", "string", 40), ("d2", "int64", 0)) if columns else ()
    made = overlap_scene("psi_list", left, right, minimum=minimum, payload=payload)
    outcome, _ = run(kit, made)
    pairs = [(x, y) for x in left for y in right if x[0] is not None and x[0] == y[0]]
    keys = len({x[0] for x, _ in pairs})
    expected = [(x[1], *(y[1:] if columns else ()), 1) for x, y in pairs] if keys >= minimum else []
    got = [tuple(row.values()) for row in outcome[Party.RECEIVER].table.to_pylist()]
    assert sorted(got, key=repr) == sorted(expected, key=repr)
    passed = keys >= minimum
    assert outcome[Party.SENDER] == Summary(keys if passed else 0, 0 if passed else 1)
    assert outcome[Party.RECEIVER].suppressed == (0 if passed else 1)
    assert made.counts.tolist() == [[keys]]


@settings(max_examples=8, deadline=None)
@given(left=rows, right=owned, minimum=st.integers(1, 4))
def test_a_count_equals_a_plaintext_join(kit, overlap_scene, left, right, minimum):
    left, right = unique_by_key(left), unique_by_key(right)
    outcome, _ = run(kit, overlap_scene("psi_count", left, right, minimum=minimum))
    keys = len({x[0] for x in left} & {y[0] for y in right} - {None})
    expected = [{"identities": keys, "m0": Decimal(keys)}] if keys >= minimum else []
    assert outcome[Party.RECEIVER].table.to_pylist() == expected
    assert outcome[Party.RECEIVER].suppressed == (0 if expected else 1)


@pytest.mark.parametrize("protocol", BOTH)
def test_declared_bytes_are_those_on_the_wire(kit, overlap_scene, protocol):
    made = overlap_scene(protocol, LEFT, RIGHT, bounds=(40_000, 70_000))
    _, wire = run(kit, made)
    sent = sum(len(s.frame.body) for s in wire if s.frame.kind != "release")
    assert protocol_named(protocol).cost(made.plan).bytes == sent


def test_a_key_that_is_not_unique_as_declared_is_the_owners_error(kit, overlap_scene):
    outcome, _ = kit.relay(*overlap_scene("psi_list", LEFT, [*RIGHT, ("k3", "again", 1)]).roles())
    assert isinstance(outcome[Party.SENDER], DataError)
    assert outcome[Party.SENDER].code == "data.not-unique"


def test_a_count_of_rows_relies_on_keys_being_unique_as_declared(kit, overlap_scene):
    made = overlap_scene("psi_count", LEFT, RIGHT)
    cells = made.sender_input.cells
    place = cells.schema.get_field_index("rows")
    twice = cells.set_column(place, "rows", pa.array([2] + [1] * (len(cells) - 1), pa.int64()))
    made.sender_input = replace(made.sender_input, cells=twice)
    outcome, wire = kit.relay(*made.roles())
    assert outcome[Party.SENDER].code == "data.not-unique"
    assert not [s for s in wire if s.author is Party.SENDER]


def test_a_count_needs_keys_that_occur_once(kit, overlap_scene):
    plan = overlap_scene("psi_count", LEFT, RIGHT).plan
    for receiver, sender in (
        (plan.receiver, replace(plan.sender, unique=False)),
        (plan.receiver, replace(plan.sender, dimensions=COLUMNS[:1])),
        (replace(plan.receiver, dimensions=COLUMNS[:1]), plan.sender),
        (replace(plan.receiver, totals=True), plan.sender),
        (plan.receiver, replace(plan.sender, partials=(Partial("m0", "v", 0, 1),))),
    ):
        with pytest.raises(QueryError, match="not-a-count"):
            protocol_named("psi_count").parameters(receiver, sender, 1)


# --- what they do not show


def hidden_variants():
    yield LEFT, RIGHT
    yield LEFT, [(k, "x" * 39, -(2**62)) for k, _, _ in RIGHT]  # other payloads, of other lengths
    yield LEFT, [(k, None, None) for k, _, _ in RIGHT]
    yield LEFT, [(f"z{i}", "y", i) for i in range(24)]  # more keys, none shared
    yield [(f"k{i}" * 30, None) for i in range(20)], RIGHT  # other keys and labels of the asker
    yield LEFT, [(k, t, n) for (k, _), (_, t, n) in zip(LEFT, RIGHT, strict=False)]  # all shared


@pytest.mark.parametrize("protocol", BOTH)
def test_frames_do_not_depend_on_anything_hidden(kit, overlap_scene, protocol):
    # The gate holds all back, so that the number of matches is not released either.
    runs = [
        kit.shapes(run(kit, overlap_scene(protocol, left, right, minimum=25, seed=f"{i}"))[1])
        for i, (left, right) in enumerate(hidden_variants())
    ]
    assert all(shapes == runs[0] for shapes in runs)


def test_control_a_released_match_does_change_the_release(kit, overlap_scene):
    fewer = run(kit, overlap_scene("psi_list", LEFT, RIGHT[1:]))[1]
    assert kit.shapes(fewer) != kit.shapes(run(kit, overlap_scene("psi_list", LEFT, RIGHT))[1])
    # ... but not where the list has no columns of the owner's: a bit for every place, matched or not
    shapes = [
        kit.shapes(run(kit, overlap_scene("psi_list", LEFT, r, payload=()))[1]) for r in (RIGHT, RIGHT[1:])
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("protocol", BOTH)
def test_the_receiver_gets_nothing_of_a_match_before_the_gate(kit, overlap_scene, protocol):
    """Until S's gate is asked, S has sent its own masked points and nothing else."""
    made = overlap_scene(protocol, LEFT, RIGHT)
    sent = []

    def gate(counts):
        made.counts = counts
        sent.extend(kinds)
        return counts >= 1

    kinds = []
    receiver = made.roles()[0]
    sender = protocol_named(protocol).sender(made.context(Party.SENDER), made.sender_input, gate)
    kit.relay(receiver, sender, lambda _, s: kinds.append((s.author, s.frame.kind)) or [s])
    assert {kind for author, kind in sent if author is Party.SENDER} == {"sender-points"}


class Eye:
    """What the receiver of one run could work with: every frame, its scalar, the slot behind each tag."""

    def __init__(self, kit, made):
        self.outcome, self.wire = run(kit, made)
        self.sid = made.context(Party.RECEIVER).sid
        self.layout = Layout.of(made.plan.sender)
        self.size = made.plan.sender.keys_bound
        entropy = kit.Stream(f"{made.seed} receiver")
        entropy(8 * made.plan.receiver.keys_bound)  # the order of its places
        self.scalar = entropy(32)

    def frames(self, kind):
        return b"".join(s.frame.body for s in self.wire if s.frame.kind == kind)

    @property
    def sealed(self):
        return np.frombuffer(self.frames("list-rows"), np.uint8).reshape(self.size, -1)

    @property
    def released(self):
        body = self.frames("release")[16 + 3 :]  # length, head, 24 bits
        count = len(body) // 36
        return psi.unpacked(body[4 * count :], 32)

    def readable(self, points):
        """Which slots some key among these points opens, for whatever row it would be."""
        found = {}
        for point in points.to_pylist():
            key = psi.unpacked(point, 32)
            opened = self.sealed ^ psi_list._stream(self.sid, key, self.layout.row_bytes)
            for slot, row in enumerate(opened):
                try:
                    found[slot] = self.layout.decode(row.reshape(1, -1)).to_pylist()[0]
                except PeerViolation:
                    continue
        return found


def test_unmatched_rows_stay_closed_to_everything_the_receiver_can_compute(kit, overlap_scene):
    eye = Eye(kit, overlap_scene("psi_list", LEFT, RIGHT))
    undo = psi.inverse(eye.scalar)
    mine, theirs = (psi.unpacked(eye.frames(f"{who}-points"), 32) for who in ("receiver", "sender"))
    known = [mine, theirs, eye.released]
    once = [kernel.mask(points, scalar) for points in known for scalar in (eye.scalar, undo)]
    reach = pa.concat_arrays([*known, *once])
    opened = eye.readable(reach)
    matched = {f"secret {i}" for i in range(3, 8)}
    assert {row["d1"] for row in opened.values()} == matched
    assert b"secret" not in b"".join(s.frame.body for s in eye.wire)


def test_control_with_the_senders_scalar_every_row_opens(kit, overlap_scene, monkeypatch):
    scalars, mask = [], kernel.mask

    def spy(points, scalar):
        scalars.append(scalar)
        return mask(points, scalar)

    monkeypatch.setattr(kernel, "mask", spy)
    eye = Eye(kit, overlap_scene("psi_list", LEFT, RIGHT))
    monkeypatch.undo()
    theirs = psi.unpacked(eye.frames("sender-points"), 32)
    opened = {}
    for scalar in set(scalars):
        opened |= eye.readable(kernel.mask(theirs, scalar))
    # dummies are rows of zeros: NULLs
    texts = [row["d1"] for row in opened.values()]
    assert {t for t in texts if t} == {t for _, t, _ in RIGHT}
    assert len(opened) == 24


def test_held_back_rows_are_random_bytes(kit, overlap_scene, monkeypatch):
    scalars, mask = [], kernel.mask
    monkeypatch.setattr(kernel, "mask", lambda points, scalar: scalars.append(scalar) or mask(points, scalar))
    eye = Eye(kit, overlap_scene("psi_list", LEFT, RIGHT, minimum=9))
    monkeypatch.undo()
    theirs = psi.unpacked(eye.frames("sender-points"), 32)
    assert not any(eye.readable(mask(theirs, scalar)) for scalar in set(scalars))
    assert eye.frames("release")[16:] == bytes(3)


def test_the_sender_cannot_tell_which_of_its_slots_matched(kit, overlap_scene, monkeypatch):
    """The number of the tag that matched is uniform over sessions, whatever S's slot was."""
    found, match = [], psi.match

    def spy(left, right):
        pairs = match(left, right)
        found.append((int(pairs[0][0]), int(pairs[1][0])))
        return pairs

    monkeypatch.setattr(psi, "match", spy)
    for i in range(200):
        made = overlap_scene("psi_count", [("a", "g")], [("a", "h", 1), ("c", "h", 1)], bounds=(4, 4))
        made.seed, made.sender_seed = f"receiver {i}", "the sender's order stays"
        made.context = same_session(made)
        run(kit, made)
    for place in (0, 1):
        counts = np.bincount([pair[place] for pair in found], minlength=4)
        assert ((counts - 50) ** 2 / 50).sum() < 31  # exceeded with probability below 1e-6


def same_session(made):
    original = made.context
    sid = bytes(32)

    def context(party):
        given = original(party)
        return Context(sid, given.plan, given.entropy, given.progress, given.minimum_group)

    return context


def test_what_they_declare():
    for name in BOTH:
        declared = protocol_named(name)
        assert {d.fact for d in declared.reveals if d.to is Party.SENDER} == {
            Fact.CELL_MATCH_COUNTS,
            Fact.PADDED_SIZE,
        }
        ungated = {d.fact for d in declared.reveals if d.to is Party.RECEIVER and not d.gated}
        assert ungated == {Fact.SUPPRESSED_CELLS, Fact.PADDED_SIZE}


# --- who deviates


def changed(kit, kind, edit):
    def touch(_, sent):
        if sent.frame.kind != kind:
            return [sent]
        return [kit.Sent(sent.author, Frame(kind, edit(sent.frame.body)))]

    return touch


def test_a_tag_sent_twice_is_refused(kit, overlap_scene):
    made = overlap_scene("psi_count", LEFT, RIGHT)
    outcome, wire = kit.relay(*made.roles(), changed(kit, "receiver-tags", lambda b: b[12:24] + b[12:]))
    assert outcome[Party.SENDER].code == "peer.repeated-point"
    assert "release" not in {s.frame.kind for s in wire}


def test_a_receiver_that_hides_tags_only_lowers_the_count(kit, overlap_scene):
    made = overlap_scene("psi_count", LEFT, RIGHT)
    kit.relay(*made.roles(), changed(kit, "receiver-tags", lambda b: bytes(range(12)) + b[12:]))
    assert made.counts.item() <= 5


def test_invented_tags_match_nothing(kit, overlap_scene):
    made = overlap_scene("psi_count", LEFT, RIGHT)
    noise = np.random.default_rng(1).bytes(24 * 12)
    kit.relay(*made.roles(), changed(kit, "receiver-tags", lambda _: noise))
    assert made.counts.item() == 0


FORGED = {
    "a place beyond the set": lambda b: b[:16] + b"\xff\xff\xff" + b[19:],
    "a dummy's place": lambda b: b[:16] + bytes(x ^ 0xFF for x in b[16:19]) + (b[19:] * 9)[: 36 * 19],
    "no room for the points": lambda b: b[:-1] + b"",
    "held back and released": lambda b: b[:15] + b"\x01" + b[16:],
    "unknown verdict": lambda b: b[:8] + b"\x02" + b[9:],
    "one tag twice": lambda b: b[:19] + b[19:23] * 2 + b[27:],
    "a tag beyond the set": lambda b: b[:19] + struct.pack(">I", 24) + b[23:],
    "no point": lambda b: b[:-32] + b"\xff" * 32,
    "a point of small order": lambda b: b[:-32] + b"\x01" + bytes(31),
    "another point": lambda b: b[:-32] + b"\x09" + bytes(31),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_release_that_no_honest_owner_writes_is_refused(kit, overlap_scene, name):
    def edit(body):
        made = FORGED[name](body)
        return struct.pack(">Q", len(made) - 8) + made[8:]

    outcome, _ = kit.relay(*overlap_scene("psi_list", LEFT, RIGHT).roles(), changed(kit, "release", edit))
    assert isinstance(outcome[Party.RECEIVER], PeerViolation)


# --- the inverse of a clamped scalar


P, A24 = 2**255 - 19, 121_665


def ladder(k, u):
    x, z = fraction(k, u)
    return x * pow(z, P - 2, P) % P


def fraction(k, u):
    """x([k]P), z for any k >= 0, clamped or not: RFC 7748 section 5 over Python's integers."""
    x2, z2, x3, z3 = 1, 0, u, 1
    for t in reversed(range(max(k.bit_length(), 1))):
        if k >> t & 1:
            x2, x3, z2, z3 = x3, x2, z3, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        x3, z3 = pow(da + cb, 2, P), u * pow(da - cb, 2, P) % P
        x2, z2 = aa * bb % P, (aa - bb) * (aa + A24 * (aa - bb)) % P
        if k >> t & 1:
            x2, x3, z2, z3 = x3, x2, z3, z2
    return x2, z2


def clamp(scalar):
    return int.from_bytes(scalar, "little") & ~(1 << 255) & ~7 | 1 << 254


@settings(max_examples=10, deadline=None)
@given(scalar=st.binary(min_size=32, max_size=32), other=st.binary(min_size=32, max_size=32), key=st.binary())
def test_the_inverse_undoes_a_mask_in_the_prime_subgroup(scalar, other, key):
    undo = psi.inverse(scalar)
    assert clamp(undo) == int.from_bytes(undo, "little")  # clamping leaves it alone
    assert clamp(undo) * clamp(scalar) % psi.ORDER in (1, psi.ORDER - 1)
    raw = kernel.hash_to_group(pa.array([key], pa.binary()), b"test")
    inside = kernel.mask(raw, other)
    assert kernel.mask(kernel.mask(inside, scalar), undo) == inside
    # The product of three masks, as the protocol has it: a's is undone whatever order they came in.
    u = int.from_bytes(raw[0].as_py(), "little")
    doubled = kernel.mask(kernel.mask(raw, scalar), other)
    opened = kernel.mask(doubled, undo)
    assert int.from_bytes(opened[0].as_py(), "little") == ladder(clamp(other), u)


def test_outside_the_prime_subgroup_it_need_not():
    """Why a is undone after a clamped scalar only: the map leaves the cofactor in, and a takes it away."""
    raw = kernel.hash_to_group(pa.array([f"{i}".encode() for i in range(40)], pa.binary()), b"test")
    scalar = bytes(range(32))
    back = kernel.mask(kernel.mask(raw, scalar), psi.inverse(scalar))
    same = sum(a == b for a, b in zip(raw.to_pylist(), back.to_pylist(), strict=True))
    inside = sum(fraction(psi.ORDER, int.from_bytes(x, "little"))[1] == 0 for x in raw.to_pylist())
    assert same == inside < 40


# --- rows of one width


COLUMNS = (
    Dimension("d1", "a", "string", 12),
    Dimension("d2", "b", "int64"),
    Dimension("d3", "c", "decimal(12,2)"),
    Dimension("d4", "d", "bool"),
    Dimension("d5", "e", "date"),
    Dimension("d6", "f", "timestamp"),
    Dimension("d7", "g", "float64"),
)
LAYOUT = Layout(COLUMNS)
values = st.tuples(
    st.none() | st.text("ab深\0", max_size=4),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.decimals(-(10**9), 10**9, places=2),
    st.none() | st.booleans(),
    st.none() | st.dates(),
    st.none() | st.datetimes(),
    st.none() | st.floats(allow_nan=False),
)


def table(found):
    columns = list(zip(*found, strict=True)) if found else [[] for _ in COLUMNS]
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, LAYOUT.schema, strict=True)], schema=LAYOUT.schema
    )


@settings(max_examples=16, deadline=None)
@given(st.lists(values, max_size=6))
def test_rows_go_there_and_back(found):
    encoded = LAYOUT.encode(table(found))
    assert encoded.shape == (len(found), LAYOUT.row_bytes)
    assert LAYOUT.decode(encoded).to_pylist() == table(found).to_pylist()


def test_slices_and_chunks_are_rows_like_others():
    whole = table([("甲", 1, Decimal("1.25"), True, date(2000, 1, 1), datetime(2000, 1, 1), 0.5)] * 5)
    parts = pa.concat_tables([whole.slice(1, 2), whole.slice(3)])
    assert np.array_equal(LAYOUT.encode(parts), LAYOUT.encode(whole)[:4])


def test_what_lies_under_a_null_does_not_leave():
    """Arrow does not say what a NULL's bytes are: a filter, or a CASE, may have left the value there."""
    null = pa.py_buffer(b"\x00")
    number = pa.Array.from_buffers(pa.int64(), 1, [null, pa.py_buffer(struct.pack("<q", 4711))])
    offsets = pa.py_buffer(struct.pack("<ii", 0, 6))
    text = pa.Array.from_buffers(pa.string(), 1, [null, offsets, pa.py_buffer(b"secret")])
    encoded = Layout(COLUMNS[:2]).encode(pa.table({"d1": text, "d2": number}))
    assert not encoded.any()


@settings(max_examples=24, deadline=None)
@given(values, st.integers(0, LAYOUT.row_bytes - 1), st.integers(1, 255))
def test_only_what_is_written_is_read(row, place, change):
    encoded = LAYOUT.encode(table([row])).copy()
    encoded[0, place] ^= change
    try:
        again = LAYOUT.decode(encoded)
    except PeerViolation:
        return
    assert np.array_equal(LAYOUT.encode(again), encoded)


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="text-too-long"):
        LAYOUT.encode(table([("thirteen....!", *[None] * 6)]))
    side = Side("p.d", ("k",), (), (Dimension("d1", "a", "string", 5000),), (), 10, 10)
    with pytest.raises(QueryError, match="list-too-wide"):
        Layout.of(side)
    side = Side("p.d", ("k",), (), (Dimension("d1", "a", "string", 4000),), (), 1 << 20, 10)
    with pytest.raises(QueryError, match="list-too-large"):
        Layout.of(side)
    many = Side("p.d", ("k",), (), (Dimension("d1", "a", "bool"),), (), 1 << 22, 10)
    with pytest.raises(QueryError, match="list-too-large"):
        protocol_named("psi_list").parameters(many, many, 1)


def test_text_made_of_columns_has_room():
    assert text_width([10, 3], [25]) == 25
    assert text_width([10], []) == 20
    assert len(("Ⱥ" * 5).lower().encode()) <= text_width([len(("Ⱥ" * 5).encode())], [])
