"""Canonical join keys: agreed bytes, never guessed.

A key is one part per join column, in the plan's order: a type tag, the length of the value in four
bytes, the value. No two tuples of values give the same bytes, and an integer never equals the text of
its digits. Text is UTF-8 after the declared normalisers in their order. NULL in any part never matches,
nor does text that a normaliser cannot read (`date`, `e164`): such rows get no key.

Refuses: floats, decimals and truth values as keys, normalisers on anything but text, `t2s`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from compute.errors import ConfigError
from compute.types import DATE, INT64, STRING, TIMESTAMP, Type

Normaliser = Literal["trim", "nfkc", "casefold", "digits", "e164", "date", "t2s"]

_TAGS = {"int64": 1, "string": 2, "date": 3, "timestamp": 4}
"""First byte of a part. Fixed for ever: peers of different versions compare these bytes."""


def check_key(normalisers: Sequence[Normaliser], kind: Type) -> None:
    """`ConfigError` unless a column of this type can be a key under these normalisers."""
    if kind.kind not in _TAGS:
        raise ConfigError("key.type", f"a column of type {kind} cannot be a join key; use {', '.join(_TAGS)}")
    if normalisers and kind != STRING:
        raise ConfigError("key.normaliser", f"normalisers apply to text; a key of type {kind} takes none")
    for name in normalisers:
        if name == "t2s":
            # Conversion depends on a dictionary and its version; a wrong one silently loses matches.
            raise ConfigError(
                "key.normaliser", "t2s is not available; convert the column before publishing it"
            )
        if name not in get_args(Normaliser):
            raise ConfigError("key.normaliser", f"a normaliser is one of {', '.join(get_args(Normaliser))}")
    if "date" in normalisers and normalisers[-1] != "date":
        raise ConfigError("key.normaliser", "date gives a date, so it must be the last normaliser")


def canonical_keys(
    columns: Sequence[pa.Array], normalisers: Sequence[Sequence[Normaliser]], types: Sequence[Type]
) -> pa.LargeBinaryArray:
    """One key per row over equally long columns; NULL where the row has no key."""
    parts = [_part(*args) for args in zip(columns, normalisers, types, strict=True)]
    if len(parts) == 1:
        return parts[0]
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()), null_handling="emit_null")


def _part(column: pa.Array, normalisers: Sequence[Normaliser], kind: Type) -> pa.LargeBinaryArray:
    check_key(normalisers, kind)
    if kind == STRING:
        text = column.cast(pa.large_string())
        for name in normalisers:
            text = _NORMALISERS[name](text)
        if not pa.types.is_date(text.type):
            return _text_part(text)
        column, kind = text, DATE
    return _fixed_part(column, kind)


def _text_part(text: pa.Array) -> pa.LargeBinaryArray:
    values = text.cast(pa.large_binary())
    lengths = pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    heads = _packed(_TAGS["string"], lengths, 0)
    return pc.binary_join_element_wise(
        heads, values, pa.scalar(b"", pa.large_binary()), null_handling="emit_null"
    )


def _fixed_part(column: pa.Array, kind: Type) -> pa.LargeBinaryArray:
    """Integers, days since 1970 and microseconds since 1970: eight bytes, two's complement, big-endian."""
    carrier = {INT64: pa.int64(), DATE: pa.int32(), TIMESTAMP: pa.int64()}[kind]
    numbers = column.cast(kind.arrow).view(carrier).cast(pa.int64())
    values = numbers.fill_null(0).to_numpy(zero_copy_only=False)
    packed = _packed(_TAGS[kind.kind], np.full(len(values), 8), 8, values)
    return pc.if_else(numbers.is_valid(), packed, pa.scalar(None, pa.large_binary()))


def _packed(
    tag: int, lengths: NDArray[np.int64], width: int, values: NDArray[np.int64] | None = None
) -> pa.LargeBinaryArray:
    """Rows of tag, four bytes of length, and `width` bytes of value."""
    size = 5 + width
    rows = np.empty((len(lengths), size), np.uint8)
    rows[:, 0] = tag
    rows[:, 1:5] = lengths.astype(">u4").view(np.uint8).reshape(-1, 4)
    if values is not None:
        rows[:, 5:] = values.astype(">i8").view(np.uint8).reshape(-1, 8)
    offsets = np.arange(len(lengths) + 1, dtype=np.int64) * size
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(rows)]
    )


def _casefold(text: pa.Array) -> pa.Array:
    """Unicode case folding. Arrow only lowers, which is the same for ASCII and not for ß."""
    lowered = pc.utf8_lower(text)
    foreign = pc.invert(pc.string_is_ascii(text)).fill_null(False)
    if not pc.any(foreign).as_py():
        return lowered
    folded = [value.casefold() for value in text.filter(foreign).to_pylist()]
    return pc.replace_with_mask(lowered, foreign, pa.array(folded, pa.large_string()))


def _nfkc(text: pa.Array) -> pa.Array:
    return pc.utf8_normalize(text, form="NFKC")


def _digits(text: pa.Array) -> pa.Array:
    """ASCII digits only, full-width ones converted; no digit at all is no key."""
    kept = pc.replace_substring_regex(_nfkc(text), "[^0-9]", "")
    return _where(kept, pc.not_equal(kept, pa.scalar("", pa.large_string())))


def _e164(text: pa.Array) -> pa.Array:
    """+ and 8 to 15 digits. 00 means +; a number without country code is not guessed: no key."""
    bare = pc.replace_substring_regex(_nfkc(text), r"[\s().\-/]", "")
    plus = pc.replace_substring_regex(bare, "^00", "+")
    return _where(plus, pc.match_substring_regex(plus, r"^\+[1-9][0-9]{7,14}$"))


_DATE = r"^\s*(?P<y>[0-9]{4})(?:-|/|\.|年)?(?P<m>[0-9]{1,2})(?:-|/|\.|月)?(?P<d>[0-9]{1,2})日?\s*$"
_STRICT = r"^\s*([0-9]{8}|[0-9]{4}([-/.])[0-9]{1,2}[-/.][0-9]{1,2}|[0-9]{4}年[0-9]{1,2}月[0-9]{1,2}日)\s*$"


def _date(text: pa.Array) -> pa.Array:
    """2024-03-01, 2024/3/1, 2024.3.1, 20240301 or 2024年3月1日; anything else is no key."""
    plain = _nfkc(text)
    plain = _where(plain, pc.match_substring_regex(plain, _STRICT))
    fields = pc.extract_regex(plain, _DATE)
    year, month, day = (pc.struct_field(fields, [i]).cast(pa.int64()) for i in range(3))
    valid = fields.is_valid().to_numpy(zero_copy_only=False)
    y, m, d = (f.fill_null(1).to_numpy(zero_copy_only=False) for f in (year, month, day))
    valid &= (y >= 1) & (m >= 1) & (m <= 12) & (d >= 1)
    months = np.where(valid, (y - 1970) * 12 + m - 1, 0).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + np.where(valid, d - 1, 0)
    valid &= days.astype("datetime64[M]") == months  # 31 April is no date
    return pa.array(days.astype(np.int64).astype(np.int32), mask=~valid).view(pa.date32())


def _where(text: pa.Array, keep: pa.Array) -> pa.Array:
    return pc.if_else(keep, text, pa.scalar(None, text.type))


_NORMALISERS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "trim": pc.utf8_trim_whitespace,
    "nfkc": _nfkc,
    "casefold": _casefold,
    "digits": _digits,
    "e164": _e164,
    "date": _date,
}
