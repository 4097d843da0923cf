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

from compute.dataset import DatasetInfo
from policy_enforcer.disclosure import Disclosure, Level


@dataclass(frozen=True, slots=True)
class Dimension:
    """One grouping expression of one side; `sql` is canonical DuckDB SQL over that side's columns."""

    name: str  # d0, d1, ... unique over both sides
    sql: str
    type: str


@dataclass(frozen=True, slots=True)
class Partial:
    """One additive figure per key and group: SUM over the rows of an integer expression.

    `sql` gives per row an integer: the value times 10**scale, or 1 or 0 when rows are counted.
    """

    name: str  # m0, m1, ...
    sql: str
    scale: int  # the sum divided by 10**scale is in units of the column
    row_bound: int  # |sql| <= row_bound on every row, after clamping
    float: bool = False  # the SQL answer's type is float64 rather than decimal or integer


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


@dataclass(frozen=True, slots=True)
class Output:
    """One column of the answer: SQL over dimensions `d*` and summed partials `m*`."""

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

    def canonical(self) -> bytes:
        """RFC 8785 bytes of the plan."""
        fields = {k: v for k, v in asdict(self).items() if k != "reveals"}
        return rfc8785.dumps(
            {**fields, "level": self.level.word, "reveals": [r.as_json() for r in self.reveals]}
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 over `canonical()`."""
        return hashlib.sha256(b"bayspace plan v1\0" + self.canonical()).digest()


Catalogue = Mapping[str, DatasetInfo]
"""Dataset descriptions by full name."""
