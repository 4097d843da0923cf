"""The curve kernel: keys to group elements, group elements to tags, tags to matches.

Every function takes and returns whole Arrow columns, releases the GIL and uses all cores
(``RAYON_NUM_THREADS`` limits them). A column with nulls, of another type, or not of one length
throughout is refused with ``ValueError``; a peer's bad point with ``InvalidPoint``. No message
holds a key, a point or a scalar.

Points are x-coordinates of curve25519, 32 bytes little-endian (RFC 7748). Constant time in the
scalar; see compute/native/src/curve/mod.rs for what timing does show.
"""

import math
import os

import pyarrow as pa

from compute import _native
from compute._native import InvalidPoint

__all__ = [
    "MATCH_MEMORY",
    "POINT_BYTES",
    "InvalidPoint",
    "has_duplicates",
    "hash_to_group",
    "implementation",
    "mask",
    "match",
    "permute",
    "tag_width",
    "truncated_tags",
]

POINT_BYTES = 32

MATCH_MEMORY = 32 << 20
"""Working memory of `match` and `has_duplicates`, 16 bytes an element: 2^20 keys a side in one pass."""

_COLLISION_BITS = 40
_SHORTEST_TAG = 12


def implementation() -> str:
    """The instruction set in use: ``ifma``, ``avx2`` or ``portable``.

    The fastest this CPU has, or the one that ``BAYSPACE_KERNEL`` names. All give the same bytes.
    Raises ValueError if that one is unknown or this CPU lacks it.
    """
    supported = _native.implementations()
    forced = os.environ.get("BAYSPACE_KERNEL")
    if forced is None:
        return supported[0]
    if forced not in supported:
        raise ValueError(f"BAYSPACE_KERNEL={forced!r}: this CPU supports {', '.join(supported)}")
    return forced


def hash_to_group(keys: pa.BinaryArray | pa.LargeBinaryArray, tag: bytes) -> pa.FixedSizeBinaryArray:
    """The x-coordinate of ``curve25519_XMD:SHA-512_ELL2_NU_`` (RFC 9380) of each key, DST = ``tag``.

    The final multiplication by 8 is left to ``mask``, whose clamped scalar clears the cofactor.
    ``tag`` has 1 to 255 bytes.
    """
    wide = pa.types.is_large_binary(keys.type)
    if not (wide or pa.types.is_binary(keys.type)):
        raise ValueError(f"keys must be binary or large_binary, not {keys.type}")
    _refuse_nulls(keys)
    offset_bytes = 8 if wide else 4
    _, offsets, data = keys.buffers()
    bounds = _bytes(offsets)[keys.offset * offset_bytes :][: (len(keys) + 1) * offset_bytes]
    # An empty column may come without any offsets.
    bounds = bounds or memoryview(bytes(offset_bytes))
    points = _native.hash_to_group(implementation(), bounds, offset_bytes, _bytes(data), tag)
    return _column(points, POINT_BYTES)


def mask(points: pa.FixedSizeBinaryArray, scalar: bytes) -> pa.FixedSizeBinaryArray:
    """X25519(clamp(scalar), point) of each point (RFC 7748 section 5); ``scalar`` has 32 bytes.

    Raises InvalidPoint if a point is not canonical (at least p, or bit 255 set) or a result is zero.
    """
    if len(scalar) != POINT_BYTES:
        raise ValueError(f"a scalar has {POINT_BYTES} bytes")
    return _column(_native.mask(implementation(), _packed(points, POINT_BYTES), scalar), POINT_BYTES)


def tag_width(receiver_padded: int, sender_padded: int) -> int:
    """Bytes of a tag such that two sets of these sizes collide with probability below 2^-40."""
    if receiver_padded < 1 or sender_padded < 1:
        raise ValueError("a padded set has at least one element")
    # ceil(log2) of the exact product: no rounding of floats can shorten a tag.
    bits = _COLLISION_BITS + (receiver_padded * sender_padded - 1).bit_length()
    return max(_SHORTEST_TAG, math.ceil(bits / 8))


def truncated_tags(points: pa.FixedSizeBinaryArray, sid: bytes, width: int) -> pa.FixedSizeBinaryArray:
    """SHA-256(sid || point) of each point, its first ``width`` bytes (1 to 32)."""
    return _column(_native.truncated_tags(_packed(points, POINT_BYTES), sid, width), width)


def match(
    left: pa.FixedSizeBinaryArray, right: pa.FixedSizeBinaryArray, *, memory: int = MATCH_MEMORY
) -> tuple[pa.Int64Array, pa.Int64Array]:
    """Positions of equal elements, ascending on the left; ValueError if a side holds one twice.

    Columns that need more than `memory` bytes to sort are read in several passes, each over a share of the
    elements. Beside that there are 4 bytes for each element on the left, and the result.
    """
    if left.type != right.type:
        raise ValueError(f"cannot match {left.type} with {right.type}")
    width = left.type.byte_width
    lefts, rights = _native.matches(_packed(left, width), _packed(right, width), width, memory)
    return _positions(lefts), _positions(rights)


def has_duplicates(column: pa.FixedSizeBinaryArray, *, memory: int = MATCH_MEMORY) -> bool:
    """Whether some element occurs twice; `memory` as in `match`."""
    width = column.type.byte_width
    return _native.has_duplicates(_packed(column, width), width, memory)


def permute(column: pa.FixedSizeBinaryArray, order: pa.Int64Array) -> pa.FixedSizeBinaryArray:
    """Element ``order[i]`` at position i; raises pa.ArrowIndexError outside the column."""
    _refuse_nulls(column)
    _refuse_nulls(order)
    return column.take(order)


def _packed(column: pa.FixedSizeBinaryArray, width: int) -> memoryview:
    """The column's bytes without copying, its slice taken into account."""
    if not pa.types.is_fixed_size_binary(column.type) or column.type.byte_width != width:
        raise ValueError(f"expected fixed_size_binary[{width}], not {column.type}")
    _refuse_nulls(column)
    start = column.offset * width
    return _bytes(column.buffers()[1])[start : start + len(column) * width]


def _bytes(buffer: pa.Buffer | None) -> memoryview:
    return memoryview(b"") if buffer is None else memoryview(buffer).cast("B")


def _refuse_nulls(column: pa.Array) -> None:
    if column.null_count:
        raise ValueError("a column for the kernel holds no nulls")


def _column(packed: bytes, width: int) -> pa.FixedSizeBinaryArray:
    buffers = [None, pa.py_buffer(packed)]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(packed) // width, buffers)


def _positions(packed: bytes) -> pa.Int64Array:
    return pa.Int64Array.from_buffers(pa.int64(), len(packed) // 8, [None, pa.py_buffer(packed)])
