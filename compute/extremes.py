"""The largest and the smallest value over a federation: how far rows reach on a scale that the plan fixes.

A sum tells no maximum, but whether it is zero. At every position of the scale each participant has a word
modulo 2**128: uniform among all but zero, fresh, where one of its rows reaches it, else zero. The sum of k
such words is zero with a probability below 2**-127 (k > 1; never for k = 1); given that it is not, it is
uniform among all but zero, whatever k is. So what the asker sees of a position can be made from "somebody
reaches it" alone: neither who does nor how many. An answer is wrong with that probability for each position.

Positions are the edges of `width_bucket(x, …)`, or the values between the bounds of a column that has few.
Refused: everything else, with the buckets that would do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from fractions import Fraction
from itertools import pairwise

from sqlglot import exp

from compute.dataset import Column, DatasetInfo
from compute.errors import PeerViolation, QueryError
from compute.expressions import Bound, Constant, Scalar
from compute.federation import WORD_BYTES, Contribution, Totals
from compute.histograms import MOST_EDGES, edges
from compute.inputs import Entropy
from compute.measures import scaled_bounds
from compute.plan import Plan, Side
from compute.types import INT64, Type, parse_type

ANY = "bool_or"
"""The function of a partial that is 1 where some row meets its condition, else 0: what a scale is made of."""

HIGHEST, LOWEST = "highest:", "lowest:"
_BUCKETS = 64
_EXACT = Context(prec=80)


@dataclass(frozen=True, slots=True)
class Scale:
    """Ascending edges: a value is `start` and one unit more for each edge that it has reached."""

    value: Bound
    edges: tuple[str, ...]  # conditions that hold below each edge
    start: int
    digits: int  # a unit is 10**-digits
    type: Type

    @property
    def most(self) -> int:
        """No value is larger, in units of its last digit."""
        return max(abs(self.start), abs(self.start + len(self.edges)))

    def conditions(self, function: str, keep: Sequence[str]) -> list[tuple[str, bool]]:
        """That a row has a value, which is marked; then each position for "min" or "max", nearest first."""
        present = f"({' AND '.join([f'({self.value.sql} IS NOT NULL)', *keep])})"
        if function == "max":
            reached = [f"(NOT {below})" for below in self.edges]
        else:
            reached = list(reversed(self.edges))
        shown = [f"CASE WHEN {' AND '.join(keep)} THEN {one} END" if keep else one for one in reached]
        return [(f"CASE WHEN {present} THEN TRUE END", True), *((one, False) for one in shown)]

    def figure(self, function: str) -> str:
        """The function of the figure, as `extreme` reads it."""
        if function == "max":
            return f"{HIGHEST}{self.start}:{self.digits}"
        return f"{LOWEST}{self.start + len(self.edges)}:{self.digits}"


def scale(scalar: Scalar, node: exp.Expr, named: tuple[DatasetInfo, Column] | None) -> Scale:
    """The scale of what MIN or MAX takes: buckets, or the column that is `named`. Raises `QueryError`."""
    if isinstance(node, exp.WidthBucket):
        value = scalar.bound(node.this)
        return _scale(scalar, value, edges(scalar, node, value.type), 0, 0, INT64)
    if named is None:
        raise _unscaled(scalar, "what is computed here", "width_bucket(expression, [edges])")
    column = named[1]
    value, kind = scalar.bound(node), parse_type(column.type)
    if not (kind == INT64 or kind.kind == "decimal") or column.bounds is None:
        raise _unscaled(scalar, column.name, f"width_bucket({column.name}, [edges])")
    digits = kind.scale if kind.kind == "decimal" else 0
    low, high = scaled_bounds(column.bounds, digits)
    if not 0 < high - low <= MOST_EDGES:
        bounds = ", ".join(column.bounds)
        raise _unscaled(scalar, column.name, f"width_bucket({column.name}, {bounds}, {_BUCKETS})")
    steps = [_EXACT.scaleb(Decimal(step), -digits) for step in range(low + 1, high + 1)]
    return _scale(scalar, value, steps, low, digits, kind)


def _scale(
    scalar: Scalar, value: Bound, steps: Sequence[object], start: int, digits: int, kind: Type
) -> Scale:
    below = []
    for step in steps:
        (left, right), _ = scalar.align((value, Constant(step)))  # type: ignore[arg-type]
        below.append(f"({left} < {right})")
    return Scale(value, tuple(below), start, digits, kind)


def _unscaled(scalar: Scalar, what: str, instead: str) -> QueryError:
    return scalar.refuse(
        "extreme-joint",
        f"over a federation MIN and MAX are read off a scale of at most {MOST_EDGES} steps, and {what} has "
        f"none; ask for MIN or MAX of {instead}, which says the bucket",
    )


# --- a round


def hidden(plan: Plan, own: Contribution, entropy: Entropy) -> Contribution:
    """A participant's part with a fresh word at every position that its rows reach."""
    if not scaled(plan.sender):
        return own
    columns = zip(plan.sender.partials, own.measures, strict=True)
    drawn = [
        tuple(_word(entropy) if reached else 0 for reached in column) if partial.function == ANY else column
        for partial, column in columns
    ]
    return replace(own, measures=tuple(drawn))


def _word(entropy: Entropy) -> int:
    """Uniform among all words but zero."""
    while True:
        if word := int.from_bytes(entropy(WORD_BYTES), "little"):
            return word


def opened(plan: Plan, totals: Totals) -> Totals:
    """The totals with 1 for every position that somebody reaches. Raises `PeerViolation` for a gap."""
    if not scaled(plan.sender):
        return totals
    columns = zip(plan.sender.partials, totals.measures, strict=True)
    found = [
        tuple(int(word != 0) for word in column) if partial.function == ANY else column
        for partial, column in columns
    ]
    _check(plan, {p.name: column for p, column in zip(plan.sender.partials, found, strict=True)})
    return replace(totals, measures=tuple(found))


def _check(plan: Plan, columns: dict[str, tuple[int, ...]]) -> None:
    """Whoever reaches a position reaches all before it."""
    for names in _scales(plan):
        reached = [columns[name] for name in names]
        if any(b > a for near, far in pairwise(reached) for a, b in zip(near, far, strict=True)):
            raise PeerViolation("peer.totals", "a participant reaches a position without one before it")


def scaled(sender: Side) -> bool:
    """Is MIN or MAX on a scale asked of this side?"""
    return any(partial.function == ANY for partial in sender.partials)


def _scales(plan: Plan) -> Iterator[list[str]]:
    """The partials of each figure that is an extreme, nearest position first."""
    for figure in plan.figures:
        if figure.function.startswith((HIGHEST, LOWEST)):
            yield [name for total in figure.totals for name in total.partials]


# --- the answer


def extreme(function: str, present: Fraction | int, reached: Fraction | int) -> Fraction | int | None:
    """MIN or MAX of a cell from whether it has any value and how many positions are reached."""
    kind, start, digits = function.split(":")
    if not present:
        return None
    units = int(start) + (int(reached) if f"{kind}:" == HIGHEST else -int(reached))
    return Fraction(units, 10 ** int(digits)) if int(digits) else units
