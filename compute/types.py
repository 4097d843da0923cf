"""The column types that a query may touch, and what each is in Arrow and in DuckDB.

Anything else (nested, binary, intervals, times of day and of a zone, unsigned beyond 63 bits, half floats,
more than 38 digits) is refused where it enters, because neither join keys nor exact sums are defined for it.
INVARIANT: a value enters exactly or not at all; nobody's nanoseconds are cut off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from compute.errors import ConfigError

Kind = Literal["int64", "float64", "decimal", "string", "bool", "date", "timestamp"]

TYPES = ("int64", "float64", "decimal(p,s)", "string", "bool", "date", "timestamp")
ONE_OF_TYPES = f"one of {', '.join(TYPES)}"

_DUCKDB: dict[str, str] = {
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
}
_ARROW: dict[str, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}
_DECIMAL = re.compile(r"decimal\(([1-9]\d?),(0|[1-9]\d?)\)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Type:
    """One of `TYPES`. `precision` and `scale` belong to decimals and are zero otherwise."""

    kind: Kind
    precision: int = 0
    scale: int = 0

    def __str__(self) -> str:
        return f"decimal({self.precision},{self.scale})" if self.kind == "decimal" else self.kind

    @property
    def duckdb(self) -> str:
        """DuckDB's name."""
        return str(self).upper() if self.kind == "decimal" else _DUCKDB[self.kind]

    @property
    def arrow(self) -> pa.DataType:
        """Arrow's type."""
        return pa.decimal128(self.precision, self.scale) if self.kind == "decimal" else _ARROW[self.kind]

    @property
    def numeric(self) -> bool:
        """Can be added and multiplied."""
        return self.kind in ("int64", "float64", "decimal")

    @property
    def temporal(self) -> bool:
        """A date or a timestamp."""
        return self.kind in ("date", "timestamp")


INT64 = Type("int64")
FLOAT64 = Type("float64")
STRING = Type("string")
BOOL = Type("bool")
DATE = Type("date")
TIMESTAMP = Type("timestamp")
HUGE = Type("decimal", 38, 0)
"""What a sum of integers is, as in DuckDB, where it is a HUGEINT that Arrow shows as decimal128(38, 0)."""


def parse_type(text: str) -> Type:
    """The type of that name. `ConfigError` when it is none of `TYPES`."""
    if text in _DUCKDB:
        return Type(text)  # type: ignore[arg-type]
    found = _DECIMAL.fullmatch(text)
    if found and int(found[1]) <= 38 and int(found[2]) <= int(found[1]):
        return Type("decimal", int(found[1]), int(found[2]))
    raise ConfigError("dataset.type", f"a column's type must be {ONE_OF_TYPES}")


def sum_type(word: str) -> pa.DataType:
    """How a figure of a plan travels: exact integers as decimal128(38, 0), others in their own type."""
    return HUGE.arrow if word == "integer" else parse_type(word).arrow


def type_of_arrow(data: pa.DataType) -> Type | None:
    """The type that a column of an Arrow type has, or None. A value that does not fit it is refused."""
    if pa.types.is_dictionary(data):
        return type_of_arrow(data.value_type)
    if pa.types.is_decimal(data) and 0 <= data.scale <= data.precision <= 38:
        return Type("decimal", data.precision, data.scale)
    if pa.types.is_integer(data) and data != pa.uint64():
        return INT64
    if pa.types.is_timestamp(data) and data.tz is None:
        return TIMESTAMP
    for accepts, result in _FAMILIES:
        if accepts(data):
            return result
    return None


_FAMILIES = (
    (lambda t: pa.types.is_float32(t) or pa.types.is_float64(t), FLOAT64),
    (lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t), STRING),
    (pa.types.is_boolean, BOOL),
    (pa.types.is_date32, DATE),
)


def engine_reads(data: pa.DataType) -> bool:
    """Does DuckDB bring every value of an Arrow type into `type_of_arrow` exactly, or fail?

    It cuts nanoseconds to microseconds without a word, and does not read decimals of 256 bits.
    """
    if pa.types.is_dictionary(data):
        return engine_reads(data.value_type)
    nanoseconds = pa.types.is_timestamp(data) and data.unit == "ns"
    return not nanoseconds and not pa.types.is_decimal256(data)


def instead(data: pa.DataType) -> str:
    """What a column of an Arrow type that `type_of_arrow` refuses, or of nanoseconds, should be cast to."""
    return next((advice for accepts, advice in _INSTEAD if accepts(data)), ONE_OF_TYPES)


_INSTEAD = (
    (lambda t: pa.types.is_dictionary(t), "the type of its values"),
    (lambda t: pa.types.is_timestamp(t) and t.tz is not None, "TIMESTAMP without a zone, all in one zone"),
    (pa.types.is_timestamp, "TIMESTAMP, in whole microseconds"),
    (lambda t: t == pa.uint64(), "BIGINT, or DECIMAL(20,0) where values exceed 63 bits"),
    (pa.types.is_float16, "DOUBLE"),
    (pa.types.is_decimal, "a DECIMAL of at most 38 digits"),
    (pa.types.is_date, "DATE"),
    (pa.types.is_time, "VARCHAR, or a number of seconds"),
    (pa.types.is_duration, "a number of seconds"),
    (lambda t: pa.types.is_nested(t) or pa.types.is_binary(t), "columns of plain types, or leave it out"),
)
