"""Released cells are the owner's, gated; whatever a peer sends that is not a release is refused."""

from __future__ import annotations

import pyarrow as pa
import pytest

from compute.errors import DataError, PeerViolation
from compute.inputs import Summary
from compute.protocols import _release
from compute.protocols.base import FRAME_BYTES, Frame
from compute.types import parse_type
from policy_enforcer.disclosure import Party


def table(rows, dimension=True):
    columns = {
        "d1": pa.array([r[0] for r in rows], pa.string()),
        "identities": pa.array([r[1] for r in rows], pa.int64()),
        "m0": pa.array([r[2] for r in rows], pa.decimal128(38, 0)),
    }
    return pa.table(columns if dimension else {k: columns[k] for k in ("identities", "m0")})


ROWS = [("深圳", 12, -7), (None, 3, 10**30), ("香港", 5, 0), ("", 2, None)]


@pytest.fixture
def scene(kit):
    def make(rows=ROWS, minimum=3, dimension=True, maximum=8):
        plan = kit.make_plan("single_domain", sender_dimension=dimension, maximum_cells=maximum)
        return kit.Scene(plan, None, table(rows, dimension), minimum=minimum)

    return make


def test_released_cells_equal_those_the_gate_lets_through(kit, scene):
    outcome, wire = kit.relay(*scene().roles())
    cells = outcome[Party.RECEIVER]
    told = [(label, 1, value) for label, _, value in ROWS[:3]]  # not how many identities there are
    assert sorted(cells.table.to_pylist(), key=str) == sorted(table(told).to_pylist(), key=str)
    assert cells.suppressed == 1
    assert outcome[Party.SENDER] == Summary(3, 1)
    assert [s.frame.kind for s in wire] == ["release"]


@pytest.mark.parametrize("rows", [[], [("a", 2, 5)]])
def test_nothing_released(kit, scene, rows):
    cells = kit.relay(*scene(rows).roles())[0][Party.RECEIVER]
    assert (cells.table.num_rows, cells.suppressed) == (0, len(rows))


@pytest.mark.parametrize("identities", [0, 2])
def test_without_dimensions_a_suppressed_zero_looks_like_a_suppressed_handful(kit, scene, identities):
    outcome, wire = kit.relay(*scene([(None, identities, None)], dimension=False).roles())
    assert (outcome[Party.RECEIVER].table.num_rows, outcome[Party.RECEIVER].suppressed) == (0, 1)
    assert wire == kit.relay(*scene([(None, 0, None)], dimension=False).roles())[1]


def test_the_number_of_identities_stays_with_the_owner(kit, scene):
    first, second = ([("a", n, 5)] for n in (3, 7_000_000))
    assert kit.relay(*scene(first).roles())[1] == kit.relay(*scene(second).roles())[1]


def test_a_group_without_any_identity_is_reported_as_suppressed(kit, scene):
    outcome, _ = kit.relay(*scene([("a", 12, 5), ("b", 0, 3)]).roles())
    assert (outcome[Party.RECEIVER].table.num_rows, outcome[Party.RECEIVER].suppressed) == (1, 1)


def test_suppressed_labels_and_values_are_not_on_the_wire(kit, scene):
    rows = [("secret-label", 2, 987654321), ("shown", 9, 5)]
    wire = kit.relay(*scene(rows).roles())[1]
    body = b"".join(s.frame.body for s in wire)
    assert b"shown" in body
    assert b"secret-label" not in body
    assert (987654321).to_bytes(4, "little") not in body


def test_values_under_nulls_and_outside_slices_are_not_on_the_wire():
    # An Arrow array may hide values: here "hidden" lies under a NULL, "outside" beyond the slice.
    data = pa.py_buffer(b"hiddenshownoutside")
    offsets = pa.py_buffer(b"".join(i.to_bytes(4, "little") for i in (0, 6, 11, 18)))
    whole = pa.StringArray.from_buffers(3, offsets, data, pa.py_buffer(b"\x06"))
    column = whole.slice(0, 2)
    schema = pa.schema([("d1", pa.string())])
    body = _release.encode_table(pa.table({"d1": column}), schema)
    assert b"shown" in body
    assert b"hidden" not in body
    assert b"outside" not in body
    assert _release.decode_table(body, schema, 2)["d1"].to_pylist() == [None, "shown"]


def test_too_many_cells_is_the_owners_fault(kit, scene):
    assert isinstance(kit.relay(*scene(maximum=3).roles())[0][Party.SENDER], DataError)


def deliver(kit, scene, frames):
    """What the receiver makes of these frames."""
    receiver, sender = scene.roles()
    return kit.relay(receiver, sender, lambda _, sent: [kit.Sent(Party.SENDER, f) for f in frames])[0].get(
        Party.RECEIVER
    )


def test_every_flipped_bit_is_refused_or_changes_only_a_value(kit, scene):
    wire = kit.relay(*scene([("a", 12, 5)]).roles())[1]
    body = wire[0].frame.body
    for position in range(len(body)):
        flipped = bytearray(body)
        flipped[position] ^= 1 << (position % 8)
        got = deliver(kit, scene(), [Frame("release", bytes(flipped))])
        assert (
            got is None
            or isinstance(got, PeerViolation)
            or got.table.schema.names == ["d1", "identities", "m0"]
        )
        if position < 8:
            assert got is None or isinstance(got, PeerViolation)


def test_truncated_and_extended_releases_are_refused(kit, scene):
    body = kit.relay(*scene().roles())[1][0].frame.body
    for changed in [body[:cut] for cut in range(0, len(body), 7)] + [body + b"\0"]:
        assert isinstance(deliver(kit, scene(), [Frame("release", changed)]), PeerViolation)


def test_other_rows_or_schema_than_announced_are_refused(kit, scene):
    body = kit.relay(*scene().roles())[1][0].frame.body
    for released, suppressed in [(2, 1), (4, 1), (3, 9), (2**63, 0)]:
        head = released.to_bytes(8, "big") + suppressed.to_bytes(8, "big")
        assert isinstance(
            deliver(kit, scene(), [Frame("release", body[:8] + head + body[24:])]), PeerViolation
        )
    other = kit.relay(*scene(dimension=False, rows=ROWS[:1]).roles())[1][0].frame.body
    assert isinstance(deliver(kit, scene(), [Frame("release", other)]), PeerViolation)


def test_bytes_after_the_end_and_invalid_text_are_refused():
    schema = pa.schema([("d1", pa.string())])
    body = _release.encode_table(pa.table({"d1": ["text"]}), schema)
    assert _release.decode_table(body, schema, 1)["d1"].to_pylist() == ["text"]
    for wrong in (body + body[-8:], body + b"\0", body[:-8], body.replace(b"text", b"te\xff\xff")):
        with pytest.raises(PeerViolation):
            _release.decode_table(wrong, schema, 1)


def test_compressed_buffers_are_refused():
    schema = pa.schema([("d1", pa.string())])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(pa.table({"d1": ["a" * 100_000]}))
    with pytest.raises(PeerViolation):
        _release.decode_table(bytes(sink.getvalue()), schema, 1)


def test_a_release_without_its_head_is_refused(kit, scene):
    short = (4).to_bytes(8, "big") + bytes(4)
    assert isinstance(deliver(kit, scene(), [Frame("release", short)]), PeerViolation)


def test_the_order_of_cells_says_nothing_about_the_owners_rows(kit, scene):
    orders = set()
    for i in range(30):
        made = scene(ROWS[:3], minimum=1)
        made.seed = f"{i}"
        orders.add(tuple(kit.relay(*made.roles())[0][Party.RECEIVER].table["m0"].to_pylist()))
    assert len(orders) == 6


def test_oversized_announcements_are_refused_at_once(kit, scene):
    huge = (_release.RELEASE_BYTES + 1).to_bytes(8, "big") + bytes(FRAME_BYTES - 8)
    assert isinstance(deliver(kit, scene(), [Frame("release", huge)]), PeerViolation)
    assert isinstance(deliver(kit, scene(), [Frame("release", bytes(FRAME_BYTES + 1))]), PeerViolation)
    assert isinstance(deliver(kit, scene(), [Frame("release", b"")]), PeerViolation)
    assert isinstance(deliver(kit, scene(), [Frame("tags", b"")]), PeerViolation)


def test_release_over_several_frames(kit, scene):
    rows = [(str(i) * 300_000, 9, i) for i in range(8)]
    outcome, wire = kit.relay(*scene(rows).roles())
    assert len(wire) > 1
    assert {s.frame.kind for s in wire} == {"release"}
    assert all(len(s.frame.body) <= FRAME_BYTES for s in wire)
    assert sorted(outcome[Party.RECEIVER].table["m0"].to_pylist()) == list(range(8))


def test_every_type_of_dimension_survives(kit):
    words = {
        "int64": [1, None],
        "float64": [0.5, None],
        "string": ["深", None],
        "bool": [True, None],
        "decimal(10,2)": [None, None],
        "date": [None, None],
        "timestamp": [None, None],
    }
    for word, values in words.items():
        schema = pa.schema([("d1", parse_type(word).arrow)])
        columns = pa.table({"d1": pa.array(values, schema.field(0).type)})
        assert _release.decode_table(_release.encode_table(columns, schema), schema, 2).equals(columns)
