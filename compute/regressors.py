"""What a logistic regression reads: columns as they are, within the bounds that their owner declares.

An expression has no declared bounds of its own, so none is taken: its owner publishes it as a column.
Refused: what is explained must be 0 or 1; what explains it must have bounds that let it vary.
"""

from __future__ import annotations

from sqlglot import exp

from compute.dataset import Column, DatasetInfo
from compute.errors import QueryError
from compute.inlining import CALLED
from compute.logistic import MOST_STEPS, least_identities
from compute.measures import Measure, scaled_bounds
from compute.plan import Logistic, Regressor
from compute.scope import Scope
from compute.types import BOOL, parse_type

_MOST_BOUND = 1 << 50
"""Twice a value, less both bounds, is still a whole number that a double holds."""


def logistic(scope: Scope, measure: Measure, y: exp.Expr, xs: list[exp.Expr], part: str) -> Logistic:
    """The regression of y on xs. Raises `QueryError`."""
    (info, column), bound = _column(scope, y, part), measure.number(y)
    if parse_type(column.type) != BOOL and (_bounds(info, column, bound.scale) != (0, 1) or bound.scale):
        raise QueryError(
            "query.logistic",
            f"in {part}: what is explained is true or false, or 0 or 1; {column.name} is not declared so",
        )
    made = tuple(_regressor(scope, measure, x, part) for x in xs)
    return Logistic(bound.sql, made, MOST_STEPS, least_identities(len(made), MOST_STEPS))


def _regressor(scope: Scope, measure: Measure, node: exp.Expr, part: str) -> Regressor:
    (info, column), number = _column(scope, node, part), measure.number(node)
    low, high = _bounds(info, column, number.scale)
    if low >= high or max(abs(low), abs(high)) >= _MOST_BOUND:
        raise QueryError(
            "query.logistic",
            f"in {part}: the declared bounds of {column.name} allow one value only, or have more than 50 "
            f"bits; ask {info.participant} for others",
        )
    return Regressor(node.meta.get(CALLED, column.name), number.sql, number.scale, low, high)


def _column(scope: Scope, node: exp.Expr, part: str) -> tuple[DatasetInfo, Column]:
    if not isinstance(node, exp.Column):
        raise QueryError(
            "query.logistic",
            f"in {part}: a logistic regression takes columns as they are; ask their owners to publish what "
            "is computed from them as a column",
        )
    return scope.column(node)


def _bounds(info: DatasetInfo, column: Column, scale: int) -> tuple[int, int]:
    """As whole numbers. INVARIANT: `Measure` has refused a number without bounds."""
    if parse_type(column.type) == BOOL:
        return 0, 1
    if column.bounds is None:
        raise AssertionError(f"{info.full_name}.{column.name} has no bounds")
    return scaled_bounds(column.bounds, scale)
