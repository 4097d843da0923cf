"""The plan of a query: what each party computes locally, what is joined, revealed and released.

A plan is derived from the query text, the agreement and the two dataset descriptions alone, so both
sides derive the same one; `digest` is what the first frame carries. It holds no data. It does hold
the query's literals, so it is committed to with a salt in evidence and never logged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import rfc8785

from policy_enforcer.disclosure import Disclosure, Fact, Level


@dataclass(frozen=True, slots=True)
class Dimension:
    """One grouping expression of one side, or, in a list query, one column that its matched rows bring.

    `sql` is canonical DuckDB SQL over that side's columns.
    """

    name: str  # d0, d1, ... unique over both sides
    sql: str
    type: str
    width: int = 0  # text of the sender's in a list query: the bytes that every value is padded to
    domain: tuple[str | bool | int, ...] = ()  # under noise: the declared labels, all of which are answered


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
    counts_values: bool = False  # rows with a value: a minimum holds for the identities behind them too
    noise: str = ""  # the scale of what the owner adds to it (compute/noise.py); "": nothing
    tail: int = 0  # no noise is larger


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
    weights: tuple[str, ...] = ()  # the receiver's partials that weight the sender's; others it sums itself
    weight_bound: int | None = None  # most |sum| of such a partial over the rows of one key and group
    repeats: bool = False  # a key may be in several rows of a receiver's group: the plan counts them
    unique: bool = False  # no two rows share a key, as the catalogue declares
    kept: bool = False  # sender: its rows without a match are summed too, as LEFT and ANTI JOIN want
    totals: bool = False  # receiver: its rows are answered whether they match or not
    optional: bool = False  # receiver: where it has no row, its columns are NULL


@dataclass(frozen=True, slots=True)
class Total:
    """An exact number per cell: (sum over i of partials[i] * 2**shift) / 10**scale.

    shift is shifts[i], or base_bits * i where there are none. A partial is m* of the sender, w* of the
    receiver, `identities`, or `w0:m1`: over the keys of a cell, the sum of the product of the two.
    Of a receiver with totals also `all:w0`, `own_rows` and `own_keys`: over its group, matched or not.
    """

    partials: tuple[str, ...]  # without shifts: limbs, from the lowest up
    base_bits: int = 0
    scale: int = 0
    shifts: tuple[int, ...] = ()
    signs: tuple[int, ...] = ()  # 1 or -1 for each partial; none: all are added


@dataclass(frozen=True, slots=True)
class Figure:
    """One aggregate of the answer, computed per released cell from exact totals."""

    name: str  # f0, f1, ...
    function: str  # one of compute/finish.py's FUNCTIONS
    totals: tuple[Total, ...]  # what the function takes, in its order
    type: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """The buckets that quantiles are read off: a dimension that the answer does not show."""

    dimension: str  # d*: 0 to buckets - 1, or NULL
    low: str
    high: str
    buckets: int


@dataclass(frozen=True, slots=True)
class Output:
    """One column of the answer: SQL over dimensions `d*` and figures `f*`."""

    name: str
    sql: str
    type: str


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of a plan. Each partial says its own scale."""

    mechanism: Literal["discrete-gaussian", "discrete-laplace"]
    loss: int  # of the whole query, in billionths of rho (zCDP)
    identities: str  # scale for the identities that a minimum counts; "": none is counted, or exactly


@dataclass(frozen=True, slots=True)
class Regressor:
    """A column of a logistic regression: `sql` is its value times 10**scale, within low to high, or NULL."""

    name: str  # of the answer's column
    sql: str
    scale: int
    low: int
    high: int


STEP = "step"
"""The function of a partial that is the sum of a step: its `sql` names what is added up, and is not run."""


@dataclass(frozen=True, slots=True)
class Logistic:
    """A logistic regression over the rows in which nothing is NULL. The sums of a step are the partials."""

    outcome: str  # SQL: 1, 0 or NULL
    regressors: tuple[Regressor, ...]
    steps: int  # at most; under noise, exactly
    identities: int  # fewer in all, and nothing is summed


@dataclass(frozen=True)
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
    histogram: Histogram | None = None
    join: str = "inner"  # or "semi", "anti", "left"
    kind: str = "aggregate"  # or "list": matched rows, one row of the answer for each
    unrepeated: bool = False  # SELECT DISTINCT of a list
    noise: Noise | None = None
    federation: tuple[
        str, ...
    ] = ()  # participants' datasets whose rows are pooled; the sender is any of them
    logistic: Logistic | None = None

    def canonical(self) -> bytes:
        """RFC 8785 bytes of the plan."""
        return self._canonical

    @cached_property
    def _canonical(self) -> bytes:
        # Kept: a query asks for it six times. INVARIANT: nothing changes inside a plan.
        fields = {k: v for k, v in asdict(self).items() if k != "reveals"}
        if self.logistic is None:  # so that no other plan's digest changed when there was this
            del fields["logistic"]
        words = {"level": self.level.word, "reveals": [r.as_json() for r in self.reveals]}
        return rfc8785.dumps(_plain({**fields, **words}))

    @property
    def says_suppressed(self) -> bool:
        """Is the asker told how many cells were held back?"""
        return any(event.fact == Fact.SUPPRESSED_CELLS for event in self.reveals)

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
