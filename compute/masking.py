"""Masks: what stands in for a column's values for everything that somebody else's query does with it.

A mask is part of the view that the owner's connector queries: filters compare with the masked value, groups
are formed by it, sums add it, lists show it, and the unmasked one is not there to be read. The planner sees
the masked column's type and bounds, and no join key. Refused: a mask that does not fit its column's type.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import ROUND_FLOOR, Decimal

from compute.dataset import Column, DatasetInfo
from compute.errors import ConfigError
from compute.expressions import quoted
from compute.types import DATE, FLOAT64, INT64, Type, parse_type

HASH_CHARACTERS = 32
"""128 bits in hexadecimal: that any two of 2^34 values share a mask has a probability below 2^-60."""

_KEEP = re.compile(r"keep-(first|last)-(\d+)", re.ASCII)
_HASHED = {"string", "int64", "decimal", "date", "timestamp"}  # two truth values need no guessing


def described(info: DatasetInfo, masks: Mapping[str, str]) -> DatasetInfo:
    """The dataset as a query sees it. Raises `ConfigError` where a mask does not fit."""
    if not masks:
        return info
    columns = tuple(masked(c, masks[c.name]) if c.name in masks else c for c in info.columns)
    return replace(info, columns=columns)


def masked(column: Column, mask: str) -> Column:
    """A column under a mask: its type, bounds and width are those of the masked values."""
    seen = replace(column, nullable=True, unique=False, key=None)
    if mask == "redact":
        return replace(seen, width=1 if column.type == "string" else None)
    if mask == "hash":
        return _hashed(column, mask, seen)
    if kept := _KEEP.fullmatch(mask):
        if column.type != "string":
            raise _unfit(column, mask, "is no text")
        return replace(seen, width=1 + 4 * int(kept[2]))  # a character of UTF-8 has at most four bytes
    kind = parse_type(column.type)
    if mask in ("year", "quarter", "month"):
        if not kind.temporal:
            raise _unfit(column, mask, "is no date or timestamp")
        return seen
    step = _step(column, mask, kind)
    if column.bounds is None:
        return seen
    low = (Decimal(column.bounds[0]) / step).to_integral_value(ROUND_FLOOR) * step
    return replace(seen, bounds=(format(low, "f"), column.bounds[1]))


def expression(column: Column, mask: str, salt: bytes) -> str:
    """The masked value in SQL, over the unmasked column. Values of one column and salt stay comparable."""
    name, kind = quoted(column.name), parse_type(column.type)
    masked(column, mask)
    if mask == "redact":
        return f"CAST(NULL AS {kind.duckdb})"
    if mask == "hash":
        # The prefix has one length, so no two pairs of salt and value are one text.
        return f"left(sha256('{_salted(salt, column)}' || CAST({name} AS VARCHAR)), {HASH_CHARACTERS})"
    if kept := _KEEP.fullmatch(mask):
        end = f"'*' || right({name}, {kept[2]})" if kept[1] == "last" else f"left({name}, {kept[2]}) || '*'"
        # Of a value no longer than what is kept, nothing is: all of it would be shown.
        return f"CASE WHEN length({name}) > {kept[2]} THEN {end} WHEN {name} IS NOT NULL THEN '*' END"
    if mask in ("year", "quarter", "month"):
        target = "DATE" if kind == DATE else "TIMESTAMP"
        return f"TRY_CAST(TRY(date_trunc('{mask}', {name})) AS {target})"
    return _stepped(name, kind, _step(column, mask, kind))


def _hashed(column: Column, mask: str, seen: Column) -> Column:
    if parse_type(column.type).kind not in _HASHED:
        raise _unfit(column, mask, "is of a type whose values have no one spelling, or are two only")
    return replace(seen, type="string", scale=None, bounds=None, width=HASH_CHARACTERS)


def _salted(salt: bytes, column: Column) -> str:
    """What each value of one column is hashed behind. Never nothing: it could be guessed."""
    if len(salt) < 32:
        raise ConfigError("masking.salt", "a hash mask needs the agreement's salt of 32 bytes")
    return hmac.new(salt, column.name.encode(), hashlib.sha256).hexdigest()


def _step(column: Column, mask: str, kind: Type) -> Decimal:
    step = Decimal(mask.removeprefix("step-"))
    if not kind.numeric:
        raise _unfit(column, mask, "is no number")
    exponent = step.as_tuple().exponent
    places = -exponent if isinstance(exponent, int) else 0
    if places > (kind.scale if kind.kind == "decimal" else 0):
        raise _unfit(column, mask, "does not have as many digits after the point")
    if kind.kind == "decimal" and step >= Decimal(10) ** (kind.precision - kind.scale):
        raise _unfit(column, mask, "holds smaller numbers only")
    return step


def _stepped(name: str, kind: Type, step: Decimal) -> str:
    """The multiple of `step` below or at the value; NULL where the type does not hold it."""
    if kind == FLOAT64:
        return f"(floor({name} / CAST({step} AS DOUBLE)) * CAST({step} AS DOUBLE))"
    by = f"CAST({step} AS {'HUGEINT' if kind == INT64 else kind.duckdb})"
    value = f"CAST({name} AS HUGEINT)" if kind == INT64 else name
    # % takes the sign of what is divided
    rest = f"({value} % {by})"
    below = f"CASE WHEN {rest} < 0 THEN {value} - {rest} - {by} ELSE {value} - {rest} END"
    return f"TRY_CAST(TRY({below}) AS {kind.duckdb})"


def _unfit(column: Column, mask: str, why: str) -> ConfigError:
    return ConfigError("masking.type", f"the mask {mask} does not fit {column.name}, which {why}")
