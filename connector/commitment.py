"""A salted commitment to a table's content: one digest that binds, and that opens chunk by chunk.

    entry_0     = SHA-256(salt_0 || canonical JSON of the column names and types)
    entry_(i+1) = SHA-256(salt_(i+1) || canonical bytes of rows [8192 i, 8192 (i + 1)))
    salt_i      = HMAC-SHA-256(master, "bayspace commitment v1" || i as 8 bytes, big-endian)
    commitment  = RFC 6962 Merkle tree head over entry_0, entry_1, ...

The same rows in the same order give the same commitment whatever the file format, batch size or Arrow
encoding. Opening one chunk shows its own salt only, so that no sibling can be guessed. The master salt is
never published. Refuses nothing by itself: rows come in canonical types from `connector.sources`.

Canonical bytes of a chunk: rows as 8 bytes; then per column a byte per row (1: present), then the values,
little-endian (NULLs as zero): int64, float64 (one NaN), timestamp in microseconds 8 bytes; date 4; bool 1;
decimal 16, two's complement; strings as 4-byte lengths and then the UTF-8 text of all rows.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import rfc8785

from compute.types import type_of_arrow
from witness.merkle import leaf_hash, nodes_of, root

CHUNK_ROWS = 8192
_LABEL = b"bayspace commitment v1"


def commit(reader: pa.RecordBatchReader, master: bytes) -> str:
    """The commitment to the reader's rows, in hexadecimal. Streams; keeps 32 bytes per 8,192 rows."""
    leaves = [leaf_hash(entry) for entry in _entries(reader, master)]
    return root(len(leaves), nodes_of(leaves)).hex()


def salt(master: bytes, index: int) -> bytes:
    """The salt of one entry: what opening that entry shows."""
    return hmac.digest(master, _LABEL + index.to_bytes(8, "big"), "sha256")


def entry(master: bytes, index: int, content: bytes) -> bytes:
    """One entry of the tree."""
    return hashlib.sha256(salt(master, index) + content).digest()


def _entries(reader: pa.RecordBatchReader, master: bytes) -> Iterator[bytes]:
    yield entry(master, 0, schema_bytes(reader.schema))
    for index, chunk in enumerate(chunks(reader), 1):
        yield entry(master, index, chunk_bytes(chunk))


def schema_bytes(schema: pa.Schema) -> bytes:
    """Column names and types, in order, as canonical JSON."""
    return rfc8785.dumps([[name, str(type_of_arrow(schema.field(name).type))] for name in schema.names])


def chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in chunks of exactly CHUNK_ROWS, the last one shorter; none for an empty table."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        start = 0
        while count + batch.num_rows - start >= CHUNK_ROWS:
            taken = CHUNK_ROWS - count
            yield pa.concat_batches([*held, batch.slice(start, taken)])
            held, count, start = [], 0, start + taken
        if start < batch.num_rows:
            held.append(batch.slice(start))
            count += batch.num_rows - start
    if held:
        yield pa.concat_batches(held)


def chunk_bytes(chunk: pa.RecordBatch) -> bytes:
    """The canonical bytes of one chunk."""
    parts = [chunk.num_rows.to_bytes(8, "little")]
    for column in chunk.columns:
        parts.append(column.is_valid().cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes())
        parts.extend(_values(column))
    return b"".join(parts)


def _values(column: pa.Array) -> list[bytes]:
    if pa.types.is_string(column.type):
        filled = pc.fill_null(column, "")
        lengths = pc.binary_length(filled).to_numpy(zero_copy_only=False)
        return [lengths.astype("<i4").tobytes(), _text(filled)]
    if pa.types.is_decimal(column.type):
        wide = pc.fill_null(column, pa.scalar(0, column.type)).cast(pa.decimal128(38, column.type.scale))
        return [_fixed(wide, 16)]
    if pa.types.is_boolean(column.type):
        return [pc.fill_null(column, False).cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes()]
    if pa.types.is_floating(column.type):
        values = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False)
        return [np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes()]
    if pa.types.is_date32(column.type):
        return [
            pc.fill_null(column.cast(pa.int32()), 0).to_numpy(zero_copy_only=False).astype("<i4").tobytes()
        ]
    return [pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False).astype("<i8").tobytes()]


def _text(column: pa.StringArray) -> bytes:
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    data = column.buffers()[2]
    return b"" if data is None else memoryview(data)[offsets[0] : offsets[-1]].tobytes()


def _fixed(column: pa.Array, width: int) -> bytes:
    start = column.offset * width
    return memoryview(column.buffers()[1])[start : start + len(column) * width].tobytes()
