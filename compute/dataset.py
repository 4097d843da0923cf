"""What both sides know about a dataset before a query: schema, keys, bounds, sizes, commitment.

This is the public description that catalogue and agreement carry. Planning reads only this, so that
each side derives the same plan alone.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, get_args

from compute.errors import ConfigError, PeerViolation
from compute.keys import Normaliser, check_key
from compute.types import FLOAT64, parse_type
from policy_enforcer.disclosure import Level
from policy_enforcer.transfer_lists import category


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `type` is one of TYPES in `compute/types.py`; bounds are in units of the column."""

    name: str
    type: str  # "int64" | "float64" | "decimal(p,s)" | "string" | "bool" | "date" | "timestamp"
    nullable: bool = True
    scale: int | None = None  # float64 only: decimal digits kept when summed
    bounds: tuple[str, str] | None = None  # declared minimum and maximum, as decimal strings
    grade: int | None = None  # classification grade (分类分级); None: nobody graded it
    key: tuple[Normaliser, ...] | None = None  # normalisers that make it a join key; None: not joinable
    unique: bool = False  # no two rows share a value (NULL aside)
    width: int | None = None  # string only: most UTF-8 bytes of a value; lists pad it to that
    category: str | None = None  # what lists of the law know it by


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A dataset as its catalogue describes it."""

    participant: str
    name: str
    columns: tuple[Column, ...]
    rows_bound: int  # upper bound on rows: the catalogue's size bucket
    keys_bound: int  # upper bound on distinct keys: sets are padded to it
    commitment: str  # hex: salted Merkle root over the content version
    disclosure: Level = Level.HIDDEN  # loosest level its owner tolerates for its join keys

    @property
    def full_name(self) -> str:
        """`participant.dataset`, as SQL names it."""
        return f"{self.participant}.{self.name}"

    def column(self, name: str) -> Column | None:
        """The column of that name, or None."""
        return next((c for c in self.columns if c.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """The description as JSON values; agreements and query openings carry it."""
        return {
            **asdict(self),
            "disclosure": self.disclosure.word,
            "columns": [_column_json(column) for column in self.columns],
        }

    @classmethod
    def from_json(cls, value: Any) -> DatasetInfo:
        """Parse what `as_json` gives. Raises `PeerViolation`: descriptions arrive from peers."""
        try:
            fields = dict(value)
            columns = tuple(_column(c) for c in fields.pop("columns"))
            level = Level.parse(fields.pop("disclosure"))
            info = cls(columns=columns, disclosure=level, **fields)
            _check(info)
        except (TypeError, ValueError, KeyError):
            raise PeerViolation("peer.dataset", "a dataset description cannot be read") from None
        return info


MOST_COLUMNS = 1024
MOST_WIDTH = 4096
MOST_ROWS = 1 << 40


def _column_json(column: Column) -> dict[str, Any]:
    stated = {name: value for name, value in asdict(column).items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in stated.items()}


def _column(value: Any) -> Column:
    fields = dict(value)
    bounds, key = fields.pop("bounds", None), fields.pop("key", None)
    if bounds is not None:
        low, high = bounds
        bounds = (_text(low), _text(high))
    if key is not None:
        key = tuple(key)
        if not set(key) <= set(get_args(Normaliser)):
            raise ValueError("unknown normaliser")
    column = Column(**fields, bounds=bounds, key=key)
    _text(column.name), _text(column.type)
    if not isinstance(column.nullable, bool) or not isinstance(column.unique, bool):
        raise TypeError("a flag is no boolean")
    for number in (column.scale, column.grade):
        if number is not None:
            _whole(number)
    if column.category is not None:
        category(_text(column.category))
    if column.width is not None and (column.type != "string" or not 0 < _whole(column.width) <= MOST_WIDTH):
        raise ValueError("width out of range")
    return column


def _check(info: DatasetInfo) -> None:
    _text(info.participant), _text(info.name), _text(info.commitment)
    names = [column.name for column in info.columns]
    if not 0 < len(names) <= MOST_COLUMNS or len(set(names)) != len(names):
        raise ValueError("columns are not distinct and of bearable number")
    if not 0 < _whole(info.keys_bound) <= MOST_ROWS or not 0 < _whole(info.rows_bound) <= MOST_ROWS:
        raise ValueError("sizes out of range")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise TypeError("not a short text")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError("not a whole number")
    return value


_BOUND = re.compile(r"-?\d{1,38}(\.\d{1,38})?", re.ASCII)


def checked(info: DatasetInfo) -> DatasetInfo:
    """The description, if its columns mean something: planning computes with their bounds and scales.

    Raises `ConfigError`, which names the column: it may be ours or a peer's.
    """
    if len({column.name.casefold() for column in info.columns}) < len(info.columns):
        raise ConfigError("dataset.columns", f"{info.full_name} has columns whose names differ in case only")
    for column in info.columns:
        _check_column(f"{info.full_name}.{column.name}", column)
    return info


def _check_column(name: str, column: Column) -> None:
    kind = parse_type(column.type)
    if column.key is not None:
        check_key(column.key, kind)
    if column.scale is not None and (kind != FLOAT64 or not 0 <= column.scale <= 18):
        raise ConfigError("dataset.scale", f"{name}: only a float has a scale, and it is at most 18")
    if column.bounds is None:
        return
    if not kind.numeric or not all(_BOUND.fullmatch(bound) for bound in column.bounds):
        raise ConfigError(
            "dataset.bounds", f"{name}: bounds are two decimal numbers, for a column of numbers"
        )
    low, high = map(Decimal, column.bounds)
    if low > high:
        raise ConfigError("dataset.bounds", f"{name}: the bounds are in the wrong order")
