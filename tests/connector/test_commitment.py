"""Commitment: equal content, equal root; anything else, another root; one chunk opens alone."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector import commitment
from witness.merkle import inclusion_proof, leaf_hash, nodes_of, root, verify_inclusion

MASTER = bytes(range(32))


def _reader(table, size=None):
    return pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=size))


def _commit(table, size=None, master=MASTER):
    return commitment.commit(_reader(table, size), master)


def _large():
    rows = 20_000
    return pa.table(
        {
            "id": pa.array([None if n % 7 == 0 else f"公司{n}" for n in range(rows)]),
            "n": pa.array([None if n % 5 == 0 else n - 9 for n in range(rows)]),
            "amount": pa.array([Decimal(n).scaleb(-2) for n in range(rows)], pa.decimal128(12, 2)),
        }
    )


@pytest.mark.parametrize("size", [1, 1000, 8191, 8192, 8193])
def test_batches_do_not_matter(size):
    assert _commit(_large(), size) == _commit(_large())


def test_slices_with_offsets_do_not_matter():
    large = _large()
    inner = (
        pa.concat_tables([large.slice(5, 100), large, large.slice(0, 7)]).combine_chunks().slice(100, 20_000)
    )
    assert _commit(inner, 777) == _commit(large)


def test_a_slice_has_the_bytes_of_its_own_rows():
    batch = pa.record_batch(
        {
            "s": pa.array(["a", "bc", "深圳", "d", ""]),
            "d": pa.array([Decimal(n) for n in range(5)], pa.decimal128(5, 2)),
            "huge": pa.array([Decimal(n) for n in range(5)], pa.decimal128(38, 0)),
            "n": pa.array(range(5), pa.int64()),
            "b": pa.array([True, False, True, True, False]),
        }
    )
    assert commitment.chunk_bytes(batch.slice(1, 3)) == commitment.chunk_bytes(batch.take([1, 2, 3]))


def test_the_value_is_fixed_for_ever():
    """Recomputed here without the code under test, from the definition in the module's docstring."""
    import hashlib
    import hmac
    import struct

    table = pa.table({"id": ["ab", None, ""], "n": [1, -1, None], "ok": [True, None, False]})
    schema = b'[["id","string"],["n","int64"],["ok","bool"]]'
    rows = struct.pack("<q", 3)
    rows += bytes([1, 0, 1]) + struct.pack("<iii", 2, 0, 0) + b"ab"
    rows += bytes([1, 1, 0]) + struct.pack("<qqq", 1, -1, 0)
    rows += bytes([1, 0, 1]) + bytes([1, 0, 0])
    leaves = []
    for index, content in enumerate((schema, rows)):
        salt = hmac.new(MASTER, b"bayspace commitment v1" + struct.pack(">Q", index), "sha256").digest()
        leaves.append(hashlib.sha256(b"\x00" + hashlib.sha256(salt + content).digest()).digest())
    assert _commit(table) == hashlib.sha256(b"\x01" + leaves[0] + leaves[1]).hexdigest()


_COLUMNS = {
    "s": (pa.string(), st.text(max_size=3)),
    "n": (pa.int64(), st.integers(-3, 3)),
    "x": (pa.float64(), st.sampled_from([0.0, 1.5, float("inf"), float("nan")])),
    "d": (pa.decimal128(5, 2), st.integers(-9, 9).map(lambda n: Decimal(n).scaleb(-2))),
    "b": (pa.bool_(), st.booleans()),
    "day": (pa.date32(), st.integers(-2, 2).map(lambda n: dt.date(1970, 1, 3) + dt.timedelta(n))),
    "at": (
        pa.timestamp("us"),
        st.integers(-2, 2).map(lambda n: dt.datetime(1970, 1, 2) + dt.timedelta(0, n)),
    ),
}
_ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | kind for name, (_, kind) in _COLUMNS.items()}), max_size=5
)
_SCHEMA = pa.schema([pa.field(name, kind) for name, (kind, _) in _COLUMNS.items()])


@given(_ROWS, _ROWS)
@settings(max_examples=80, deadline=None)
def test_only_equal_content_has_an_equal_commitment(left, right):
    one, two = (pa.Table.from_pylist(rows, _SCHEMA) for rows in (left, right))
    same = repr(one.to_pylist()) == repr(two.to_pylist())  # repr: NaN equals itself
    assert (_commit(one) == _commit(two)) == same


def test_every_part_of_the_content_counts():
    table = pa.table({"a": ["x", "yz"], "b": [1, 2]})
    roots = {
        _commit(table),
        _commit(table, master=bytes(32)),
        _commit(table.rename_columns(["a", "c"])),
        _commit(table.select(["b", "a"])),
        _commit(table.take([1, 0])),
        _commit(table.slice(0, 1)),
        _commit(table.slice(0, 0)),
        _commit(pa.table({"a": ["xy", "z"], "b": [1, 2]})),
        _commit(pa.table({"a": ["x", "yz"], "b": [1.0, 2.0]})),
    }
    assert len(roots) == 9


def test_one_chunk_opens_without_the_others():
    table = _large()
    chunks = list(commitment.chunks(_reader(table, 1000)))
    contents = [commitment.schema_bytes(table.schema), *map(commitment.chunk_bytes, chunks)]
    leaves = [leaf_hash(commitment.entry(MASTER, i, content)) for i, content in enumerate(contents)]
    node = nodes_of(leaves)
    assert root(len(leaves), node).hex() == _commit(table)
    opened = commitment.entry(MASTER, 2, commitment.chunk_bytes(chunks[1]))
    proof = inclusion_proof(2, len(leaves), node)
    verify_inclusion(leaf_hash(opened), 2, len(leaves), proof, root(len(leaves), node))
    assert len({commitment.salt(MASTER, index) for index in range(100)}) == 100
