"""EXISTS and IN over a second dataset: conditions of WHERE that are semi and anti joins in other words.

`[NOT] EXISTS (SELECT … FROM b.x WHERE …)` and `a.k [NOT] IN (SELECT k FROM b.x WHERE …)` are lifted out of
WHERE, once per question. Refused: subqueries under OR or inside expressions, and anything in them that
could change whether or what they find: aggregates, GROUP BY, HAVING, LIMIT, joins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from compute.errors import QueryError


@dataclass(frozen=True, slots=True)
class Subquery:
    """A lifted subquery. `outer` and `inner` are the two sides of IN, pair by pair; empty for EXISTS."""

    negated: bool
    select: exp.Select
    outer: tuple[exp.Expr, ...] = ()
    inner: tuple[exp.Expr, ...] = ()

    @property
    def table(self) -> exp.Expr:
        """What it selects from."""
        start = self.select.args.get("from_")
        if start is None:
            raise QueryError("query.no-dataset", "FROM must name a dataset as participant.dataset")
        table: exp.Expr = start.this
        return table


def lifted(conditions: Sequence[exp.Expr]) -> tuple[list[exp.Expr], Subquery | None]:
    """The conditions without the one that is a subquery, and that one."""
    rest, found = [], []
    for condition in conditions:
        subquery = _subquery(condition)
        if subquery is None:
            rest.append(condition)
        else:
            found.append(subquery)
    if len(found) > 1:
        raise QueryError("query.subquery", "WHERE holds more than one subquery; ask one question for each")
    return rest, found[0] if found else None


def _subquery(condition: exp.Expr) -> Subquery | None:
    node, negated = condition.unnest(), False
    while isinstance(node, exp.Not):
        node, negated = node.this.unnest(), not negated
    if isinstance(node, exp.Exists) and isinstance(node.this, exp.Select):
        _plain(node.this)
        return Subquery(negated, node.this)
    if isinstance(node, exp.In) and isinstance(query := node.args.get("query"), exp.Subquery):
        return _membership(negated, node.this.unnest(), query.this)
    return None


def _membership(negated: bool, left: exp.Expr, select: exp.Expr) -> Subquery:
    """`a IN (SELECT b …)` and `(a, b) IN (SELECT c, d …)`."""
    if not isinstance(select, exp.Select):
        raise _refused()
    _plain(select)
    outer = tuple(left.expressions) if isinstance(left, exp.Tuple) else (left,)
    inner = tuple(item.unalias() for item in select.expressions)
    if len(outer) != len(inner) or not all(isinstance(item, exp.Column) for item in (*outer, *inner)):
        raise QueryError(
            "query.subquery", "IN (SELECT …) compares key columns: as many of them on the left as in SELECT"
        )
    select.set("expressions", list(inner))
    return Subquery(negated, select, outer, inner)


_KEPT = {"expressions", "from_", "where", "distinct"}


def _plain(select: exp.Select) -> None:
    """One dataset, one WHERE. What stands in SELECT must not be able to make a row where there is none."""
    select.set("distinct", None)  # it changes neither whether there is a row nor which values occur
    extra = any(value and name not in _KEPT for name, value in select.args.items())
    simple = all(isinstance(item.unalias(), _LISTED) for item in select.expressions)
    if extra or not simple:
        raise _refused()


_LISTED = (exp.Column, exp.Literal, exp.Star, exp.Boolean, exp.Null)


def _refused() -> QueryError:
    return QueryError(
        "query.subquery",
        "a subquery is EXISTS (SELECT 1 FROM dataset WHERE …) or key IN (SELECT key FROM dataset WHERE …), "
        "without aggregates, GROUP BY, LIMIT or joins; prepare anything else as a dataset of its owner's",
    )
