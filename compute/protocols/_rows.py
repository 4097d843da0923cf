"""Rows as bytes of one width: what a list query's payload is padded to, so that no length tells a value.

A row is its columns in the plan's order. A column is one byte (1: there is a value, 0: NULL, all else zero)
and the value: fixed types as they are in Arrow, text as two bytes of length and as many bytes as the plan
pads it to. Refused: text that is longer, rows or tables beyond what a list may be; from a peer, anything
that `encode` does not write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compute.errors import DataError, QueryError
from compute.plan import Dimension, Side
from compute.protocols._release import malformed
from compute.types import BOOL, STRING, Type, parse_type

MOST_ROW_BYTES = 4096
MOST_TABLE_BYTES = 1 << 29
"""Largest padded row, and largest padded table: what a receiver holds until the release comes."""

_FIXED = {"int64": 8, "float64": 8, "decimal": 16, "bool": 1, "date": 4, "timestamp": 8}

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a padded row."""

    columns: tuple[Dimension, ...]

    @classmethod
    def of(cls, sender: Side) -> Layout:
        """The columns that a sender's side brings to a list. Raises `QueryError` when they are too many."""
        layout = cls(sender.dimensions)
        if layout.row_bytes > MOST_ROW_BYTES:
            raise QueryError(
                "plan.list-too-wide",
                f"a listed row has more than {MOST_ROW_BYTES} bytes; list fewer columns",
            )
        if layout.row_bytes * sender.keys_bound > MOST_TABLE_BYTES:
            most = MOST_TABLE_BYTES // layout.row_bytes
            raise QueryError(
                "plan.list-too-large",
                f"rows of {layout.row_bytes} bytes are listed from {most} keys at most; list fewer columns",
            )
        return layout

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; 0 when the list shows nothing of the sender's columns."""
        return sum(_width(column) for column in self.columns)

    @property
    def schema(self) -> pa.Schema:
        """The columns in Arrow."""
        return pa.schema([(column.name, parse_type(column.type).arrow) for column in self.columns])

    def encode(self, table: pa.Table) -> Bytes:
        """One row of bytes for each row of the table."""
        parts = [_packed(table[c.name].cast(parse_type(c.type).arrow), c) for c in self.columns]
        return np.concatenate(parts, axis=1) if parts else np.zeros((table.num_rows, 0), np.uint8)

    def decode(self, rows: Bytes) -> pa.Table:
        """What `encode` wrote. Raises `PeerViolation` for anything else."""
        columns, start = [], 0
        for column in self.columns:
            end = start + _width(column)
            columns.append(_unpacked(rows[:, start:end], column))
            start = end
        table = pa.table(columns, schema=self.schema)
        try:
            table.validate(full=True)
        except pa.ArrowException:
            raise malformed() from None
        if not np.array_equal(self.encode(table), rows):
            raise malformed()
        return table


def text_width(columns: Sequence[int], literals: Sequence[int]) -> int:
    """Bytes that text made of columns of these widths, by the functions of the allow-list, always fits.

    Changing case can make two bytes of three, never more than twice as many; nothing joins texts.
    """
    return max([2 * width for width in columns] + list(literals))


def _width(column: Dimension) -> int:
    kind = parse_type(column.type)
    return 1 + (2 + column.width if kind == STRING else _FIXED[kind.kind])


def _packed(values: pa.ChunkedArray, column: Dimension) -> Bytes:
    whole = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
    kind = parse_type(column.type)
    out = np.zeros((len(whole), _width(column)), np.uint8)
    if not len(whole):
        return out
    valid = whole.is_valid().to_numpy(zero_copy_only=False)
    out[:, 0] = valid
    if kind == STRING:
        _pack_text(whole, valid, out[:, 1:], column)
    else:
        out[:, 1:] = np.where(valid[:, None], _raw(whole, kind), 0)
    return out


def _raw(values: pa.Array, kind: Type) -> Bytes:
    """The values' own bytes, in the order of the rows; under a NULL they are not defined."""
    if kind == BOOL:
        return np.asarray(values.fill_null(False).to_numpy(zero_copy_only=False), np.uint8).reshape(-1, 1)
    width = _FIXED[kind.kind]
    data = np.frombuffer(values.buffers()[1], np.uint8)
    return data[values.offset * width : (values.offset + len(values)) * width].reshape(-1, width)


def _pack_text(values: pa.Array, valid: NDArray[np.bool_], out: Bytes, column: Dimension) -> None:
    text = values.cast(pa.large_string())
    ends = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    lengths = np.where(valid, np.diff(ends), 0)
    if int(lengths.max(initial=0)) > column.width:
        raise DataError(
            "data.text-too-long", "a listed text is longer than the `width` that its column declares"
        )
    out[:, :2] = lengths.astype(">u2").view(np.uint8).reshape(-1, 2)
    data = np.frombuffer(text.buffers()[2] or b"", np.uint8)
    rows = np.repeat(np.arange(len(text)), lengths)
    inside = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    out[rows, 2 + inside] = data[np.repeat(ends[:-1], lengths) + inside]


def _unpacked(rows: Bytes, column: Dimension) -> pa.Array:
    kind = parse_type(column.type)
    valid = rows[:, 0] != 0
    bits = pa.py_buffer(np.packbits(valid, bitorder="little"))
    if kind == STRING:
        return _unpack_text(rows[:, 1:], bits, column)
    if kind == BOOL:
        return pa.array(rows[:, 1] != 0, mask=~valid)
    data = pa.py_buffer(np.ascontiguousarray(rows[:, 1:]))
    return pa.Array.from_buffers(kind.arrow, len(rows), [bits, data])


def _unpack_text(rows: Bytes, valid: pa.Buffer, column: Dimension) -> pa.Array:
    lengths = np.ascontiguousarray(rows[:, :2]).view(">u2").reshape(-1).astype(np.int64)
    if int(lengths.max(initial=0)) > column.width:
        raise malformed()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise malformed()
    inside = np.arange(column.width)[None, :] < lengths[:, None]
    data = pa.py_buffer(np.ascontiguousarray(rows[:, 2:][inside]))
    return pa.Array.from_buffers(
        pa.string(), len(rows), [valid, pa.py_buffer(offsets.astype(np.int32)), data]
    )
