"""The plan of a query: what each party computes locally, what is joined, revealed and released.

A plan is derived from the query text, the agreement and the two dataset descriptions alone, so both
sides derive the same one; `digest` is what the first frame carries. It holds no data. It does hold
the query's literals, so it is committed to with a salt in evidence and never logged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import rfc8785

from policy_enforcer.disclosure import Disclosure, Level


@dataclass(frozen=True, slots=True)
class Dimension:
    """One grouping expression of one side; `sql` is canonical DuckDB SQL over that side's columns."""

    name: str  # d0, d1, ... unique over both sides
    sql: str
    type: str


@dataclass(frozen=True, slots=True)
class Partial:
    """One figure per key and group: in a joint query always SUM over the rows of an integer expression.

    `sql` gives per row an integer (the value times 10**scale, or 1 or 0 when rows are counted) or NULL,
    which adds nothing. In single-domain queries `function` may be another aggregate of DuckDB; where
    the figure is no integer, `type` says what it is.
    """

    name: str  # m0, m1, ...
    sql: str
    scale: int  # the sum divided by 10**scale is in units of the column
    row_bound: int  # |sql| <= row_bound on every row, after clamping; 0 where `type` is not "integer"
    function: str = "sum"  # single-domain only: "min", "max", "count_distinct", "var_samp", ...
    type: str = "integer"  # or one of TYPES


@dataclass(frozen=True, slots=True)
class Side:
    """What one party computes over its own dataset before the protocol starts."""

    dataset: str  # participant.dataset
    keys: tuple[str, ...]  # join columns, in the order both sides share; empty: no join
    filters: tuple[str, ...]  # canonical SQL predicates, all of which must hold
    dimensions: tuple[Dimension, ...]
    partials: tuple[Partial, ...]
    keys_bound: int
    rows_bound: int
    distinct: bool = False  # a key counts once however many rows share it: SEMI JOIN


@dataclass(frozen=True, slots=True)
class Total:
    """An exact number per cell: (sum over i of partials[i] * 2**(base_bits * i)) / 10**scale."""

    partials: tuple[str, ...]  # m* from the lowest limb up, or "identities"
    base_bits: int = 0
    scale: int = 0


@dataclass(frozen=True, slots=True)
class Figure:
    """One aggregate of the answer, computed per released cell from exact totals."""

    name: str  # f0, f1, ...
    function: str  # one of compute/finish.py's FUNCTIONS
    totals: tuple[Total, ...]  # what the function takes, in its order
    type: str


@dataclass(frozen=True, slots=True)
class Output:
    """One column of the answer: SQL over dimensions `d*` and figures `f*`."""

    name: str
    sql: str
    type: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything both sides must agree on. `receiver` asks; `sender` owns the data that is asked about."""

    protocol: str
    protocol_version: int
    level: Level
    asker: str
    owner: str
    receiver: Side | None  # None: single-domain query
    sender: Side
    outputs: tuple[Output, ...]
    having: str | None
    order_by: tuple[str, ...]
    limit: int | None
    maximum_cells: int  # most cells (receiver groups x sender groups) this plan may release
    parameters: Mapping[str, Any]  # protocol parameters, e.g. of the selection sum
    reveals: tuple[Disclosure, ...]
    figures: tuple[Figure, ...] = ()  # what `outputs`, `having` and `order_by` are computed from

    def canonical(self) -> bytes:
        """RFC 8785 bytes of the plan."""
        fields = {k: v for k, v in asdict(self).items() if k != "reveals"}
        words = {"level": self.level.word, "reveals": [r.as_json() for r in self.reveals]}
        return rfc8785.dumps(_plain({**fields, **words}))

    @property
    def digest(self) -> bytes:
        """SHA-256 over `canonical()`."""
        return hashlib.sha256(b"bayspace plan v1\0" + self.canonical()).digest()


def _plain(value: Any) -> Any:
    """JSON as RFC 8785 allows it: integers beyond 2**53 become strings of their digits."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, int) and abs(value) > 2**53 - 1:
        return str(value)
    return value
