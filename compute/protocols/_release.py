"""The revealing frames: the last ones the owner sends, all of kind "release", and the tables in them.

What the peer sent is read by the schema that the plan gives, never by the peer's own. Refused: another
schema, other row counts, compressed buffers, data that Arrow's full validation does not accept, anything
after the end, anything above `RELEASE_BYTES`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compute.errors import DataError, PeerViolation
from compute.inputs import Entropy, Gate
from compute.noise import Scale
from compute.plan import Plan
from compute.protocols._suppression import Codes, complemented
from compute.protocols.base import FRAME_BYTES, Role, receive, send_blob

RELEASE = "release"
RELEASE_BYTES = 1 << 26
"""Largest release: what a peer may make us hold. A million cells of a few columns fit."""

SUM_TYPE = pa.decimal128(38, 0)
_END = b"\xff\xff\xff\xff\0\0\0\0"  # end of an Arrow IPC stream
_LENGTH = struct.Struct(">Q")


def send_release(data: bytes) -> Role[None]:
    """Send the release behind its length, in as many frames as it needs."""
    if len(data) > RELEASE_BYTES:
        raise DataError("data.release-too-large", "the answer is larger than one release may be")
    yield from send_blob(RELEASE, _LENGTH.pack(len(data)) + data)


def receive_release() -> Role[bytes]:
    """Receive what `send_release` sent."""
    first = yield from receive(RELEASE)
    if len(first) < _LENGTH.size:
        raise malformed()
    length = _LENGTH.unpack_from(first)[0] + _LENGTH.size
    if length > RELEASE_BYTES + _LENGTH.size or len(first) != min(length, FRAME_BYTES):
        raise malformed()
    parts = [first[_LENGTH.size :]]
    for start in range(FRAME_BYTES, length, FRAME_BYTES):
        parts.append((yield from receive(RELEASE, min(FRAME_BYTES, length - start))))
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Kept:
    """The owner's own groups where its rows without a match are answered: the first row of the cells."""

    identities: NDArray[np.int64]  # that count (have values), in each group, matched or not
    keyless: NDArray[np.int64]  # 1 where a group has rows without a key: one slot, and no identity


def scales(plan: Plan) -> list[Scale]:
    """The noise of each figure, under a policy that adds some. Raises `DataError`: fail closed."""
    assert plan.noise is not None
    declared = plan.receiver is None and all(dimension.domain for dimension in plan.sender.dimensions)
    if not all(partial.noise for partial in plan.sender.partials):
        raise DataError("data.without-noise", "a figure of this plan carries no noise; nothing is released")
    if plan.sender.dimensions and not declared:
        raise DataError("data.without-noise", "which groups there are carries no noise; nothing is released")
    return [Scale.parse(plan.noise.mechanism, partial.noise) for partial in plan.sender.partials]


def noised(plan: Plan, cells: pa.Table, entropy: Entropy, uncounted: int) -> pa.Table:
    """The cells with their noise, drawn once. What a minimum counts is noised too: it shows in what leaves.

    Where no minimum counts identities there are `uncounted` in every cell.
    """
    noise = plan.noise
    if noise is None:
        return cells
    for partial, scale in zip(plan.sender.partials, scales(plan), strict=True):
        cells = _replaced(cells, partial.name, _adding(scale, entropy))
    if not noise.identities:
        return _replaced(cells, "identities", lambda _value: uncounted)
    return _replaced(cells, "identities", _adding(Scale.parse(noise.mechanism, noise.identities), entropy))


def _adding(scale: Scale, entropy: Entropy) -> Callable[[Any], int]:
    return lambda value: int(value) + scale.draw(entropy)


def _replaced(cells: pa.Table, name: str, change: Callable[[Any], int]) -> pa.Table:
    place = cells.schema.get_field_index(name)
    values = [change(value) for value in cells[name].to_pylist()]
    return cells.set_column(place, name, pa.array(values, cells.schema.field(name).type))


class Gated:
    """The owner's gate, called once, remembering what it decided.

    A cell of rows without a match tells three groups apart, since it is a total less what matched: the
    total, the matched ones, the rest. The gate judges the smallest of them. None at all is judged like one:
    what nobody has may be said where one may be shown.
    """

    def __init__(self, plan: Plan, gate: Gate, kept: Kept | None = None, codes: Codes | None = None) -> None:
        """`codes`: of every cell, where the owner demands complementary suppression."""
        self._gate, self._kept, self._codes = gate, kept, codes
        self._totals = plan.receiver is not None and plan.receiver.totals
        # Without dimensions SQL answers one row even over nothing: that cell exists, and a
        # suppressed zero must not look different from a suppressed handful. An owner alone has a cell
        # for every group of its rows, also where the identity of all of them is NULL.
        # A list is one cell as well, whatever columns its rows have.
        joint = plan.receiver is not None and (plan.receiver.dimensions or plan.sender.dimensions)
        # Its rows stay where nothing matches, so each of an asker's groups that are kept is a cell.
        self._always = not joint or self._totals or plan.kind == "list"
        self.released = self.suppressed = 0

    def __call__(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which cells may leave; a pair of groups without a match is no cell at all."""
        exists = np.full(counts.shape, fill_value=True) if self._always else counts > 0
        passed = self._gate(self._judged(counts))
        if self._kept is not None:
            exists[0] |= ~passed[0]  # held back, a group that matched as a whole looks like any other
        allowed = passed & exists
        if allowed.shape != counts.shape or allowed.dtype != np.bool_:
            raise ValueError("a gate returns one boolean per cell")
        if self._codes:
            flat = complemented(allowed.ravel(), exists.ravel(), counts.ravel(), self._codes)
            allowed = flat.reshape(counts.shape)
        self.released = int(np.count_nonzero(allowed))
        self.suppressed = int(np.count_nonzero(exists & ~allowed))
        return allowed

    def _judged(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the gate is asked about: identities, for each cell."""
        if self._totals:
            return np.maximum(counts, 1)
        if self._kept is None:
            return counts
        rest = np.maximum(counts[0] - self._kept.keyless, 0)
        matched = self._kept.identities - rest
        if np.any(matched < 0):
            raise PeerViolation("peer.selection-sum-count", "a returned count is impossible")
        smallest = np.minimum.reduce([np.maximum(n, 1) for n in (self._kept.identities, rest, matched)])
        return np.concatenate([smallest[np.newaxis], counts[1:]])


def codes_of(labels: pa.Table) -> Codes:
    """Per column, the number of each row's value; NULL is one."""
    encoded = [labels[name].combine_chunks().dictionary_encode("encode") for name in labels.schema.names]
    return [column.indices.to_numpy().astype(np.int64) for column in encoded]


def encode_table(table: pa.Table, schema: pa.Schema) -> bytes:
    """One record batch in an Arrow IPC stream.

    The arrays are built anew from their values: an array cut out of another may carry, under its
    NULLs or beyond its slice, values that were never to leave.
    """
    if not len(schema):  # labels of a side without dimensions
        return b""
    columns = [pa.array(table[field.name].to_pylist(), type=field.type) for field in schema]
    return _write(pa.RecordBatch.from_arrays(columns, schema=schema))


def decode_table(data: bytes, schema: pa.Schema, rows: int) -> pa.Table:
    """Read what `encode_table` wrote for this schema and number of rows, and nothing else."""
    if not len(schema):
        if data:
            raise malformed()
        return pa.table({})
    source = pa.BufferReader(data)
    try:
        if not pa.ipc.read_schema(pa.ipc.read_message(source)).equals(schema, check_metadata=True):
            raise malformed()
        message = pa.ipc.read_message(source)
        if message.type != "record batch" or _compressed(message.metadata.to_pybytes()):
            raise malformed()
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, struct.error, EOFError):
        raise malformed() from None
    if batch.num_rows != rows or source.read() != _END:
        raise malformed()
    return pa.Table.from_batches([batch])


def _write(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _compressed(metadata: bytes) -> bool:
    """Whether a record batch message announces compressed buffers, which could unpack to anything.

    Reads Message.header (field 2), then RecordBatch.compression (field 3), of Arrow's Message.fbs.
    """
    message = struct.unpack_from("<I", metadata, 0)[0]
    header = _field(metadata, message, 2)
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    return _field(metadata, batch, 3) != 0


def _field(buffer: bytes, table: int, number: int) -> int:
    """Position of a flatbuffer table's field, 0 when it is absent."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    entry = 4 + 2 * number
    if vtable < 0 or entry >= struct.unpack_from("<H", buffer, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", buffer, vtable + entry)[0]
    return table + offset if offset else 0


def malformed() -> PeerViolation:
    """The error for a release that the plan's schema cannot read."""
    return PeerViolation("peer.malformed-release", "the peer's release is not in the agreed form")
