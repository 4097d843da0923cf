"""From an aggregate of the answer to what each party sums.

The second layer of a question on its way to a plan (compute/planner.py): each aggregate becomes a figure over
partials of one side, or over products of both. Refused: what is no sum over a join, sums that could exceed
their type, and aggregates that read what a LEFT JOIN leaves NULL in a way that SQL would not skip.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import reduce

from sqlglot import exp

from compute import extremes
from compute.dataset import DatasetInfo
from compute.derived import conjuncts
from compute.errors import QueryError
from compute.expressions import Bound, Constant, branched
from compute.finish import TAKES
from compute.inlining import CALLED
from compute.joining import Joining, unwrapped
from compute.logistic import figures
from compute.measures import Measure, Unbounded
from compute.plan import STEP, Logistic, Output, Total
from compute.pooling import Part
from compute.products import (
    IDENTITIES,
    ROWS,
    WEIGHT_CAPACITY,
    Binder,
    Mixed,
    Partials,
    Products,
    multiplied,
    together,
)
from compute.regression import LINEAR, MOST_REGRESSORS, pairs
from compute.regressors import logistic
from compute.sql import LOGISTIC, REGRESSION, regressing
from compute.types import FLOAT64, HUGE, INT64, STRING, Type

_JOINT_CAPACITY = 2**62
"""A joint sum stays below this, so that every partial sum fits 64 bits; larger ones go in limbs."""

_OWN_CAPACITY = 2**124
"""Single-domain sums are HUGEINTs, answered as decimal128(38, 0)."""


_POOLED_ONLY = (
    "is over a federation (FROM federation.<name>), whose owners take its steps together; over one dataset "
    f"or a join ask {REGRESSION}(y, [x1, …])"
)

Conditions = tuple[Bound, ...]
"""What FILTER keeps: pairs of rows in which each of these holds, of one side each."""


class Aggregates:
    """One question's figures, and the partials that they are computed from, while they are collected."""

    def __init__(self, join: Joining, *, repeats: bool, parts: Sequence[Part]) -> None:
        self._join, self._repeats, self.parts = join, repeats, parts
        self.logistic: Logistic | None = None
        self.counts_own = False  # a figure counts rows of the asker, so each must be there once
        capacity = _JOINT_CAPACITY if self._join.receiver is not None else _OWN_CAPACITY
        self.partials = Partials("m", self._join.sender.rows_bound, capacity)
        self.own = Partials(
            "w", self._join.receiver.rows_bound if self._join.receiver else 1, WEIGHT_CAPACITY
        )
        # What the asker adds of its own to a federation's totals, its connector proves to fit.
        self.products = Products(self.partials, self.own, pairs=self._join.sender.rows_bound)

    def multiplicities(self) -> None:
        """How often one key may occur on each side, now that the keys are known."""
        if self._join.receiver is None:
            return
        unique = [
            _any_unique(info, keys)
            for info, keys in zip(self._join.sides(), zip(*self._join.keys, strict=True), strict=True)
        ]
        semi, mine = self._join.kind == "semi", self._join.own_rows
        kept = self._join.kind == "left" and not mine
        repeats = self._repeats and not unique[0] and (mine or kept or self._join.kind == "inner")
        self.own.rows_bound = 1 if unique[0] else self._join.receiver.rows_bound
        self.products = Products(
            self.partials,
            self.own,
            repeats=repeats,
            unique=unique[1] and not kept,  # rows without a match are counted too: by their owner
            pairs=self._most_rows(unique, repeats=repeats),
            exists=semi and mine,
            outer=self._join.kind if mine and self._join.kind in ("left", "anti") else "",
        )

    def _most_rows(self, unique: Sequence[bool], *, repeats: bool) -> int:
        """How many rows of the join a cell has at most; `unique` says whose keys are in one row each."""
        own, other = (info.rows_bound for info in self._join.sides())
        if self._join.kind in ("semi", "anti"):
            return self._join.left.rows_bound
        # Where the asker's keys may not repeat, a row of the owner's counts once in a group.
        pairs = min(other * (own if repeats else 1), own * (1 if unique[1] else other))
        if self._join.kind != "left":
            return pairs
        return pairs + (own if self._join.own_rows else other)  # those without a match too

    def aggregate(self, node: exp.Expr, condition: exp.Expr | None, part: str) -> Bound:
        """An aggregate, of rows that meet FILTER's condition, as an expression over released cells."""
        read = [part for part in (node, condition) if part is not None]
        sides = {self._join.scope.column(c)[0].full_name for n in read for c in n.find_all(exp.Column)}
        self._join.check_visible(sides, part)
        self._left_join_reads(read, sides, part)
        if isinstance(node, exp.ApproxQuantile):
            return self._quantile(node, part)
        keep = self._condition_of(condition, part)
        if isinstance(node, exp.Count):
            return self._count(node, keep, part)
        if isinstance(node, exp.CountIf):
            self._note_rows()
            return self.count_rows([*self._condition_of(node.this, part), *keep])
        if isinstance(node, exp.Min | exp.Max):
            return self._extreme(node, keep, part)
        if type(node) in _PAIRS:
            return self._paired(node, keep, part)
        function = _FUNCTIONS[type(node)]
        try:
            return self._exact(node.this, function, keep, part)
        except Unbounded as unbounded:
            # Where the owner computes alone, DuckDB can aggregate in floating point.
            if self._join.receiver is not None or self.parts:
                raise
            return self._native(node.this, function, keep, part, unbounded)

    def _left_join_reads(self, nodes: Sequence[exp.Expr], sides: set[str], part: str) -> None:
        """In a LEFT JOIN, what an aggregate reads of the right dataset is NULL where nothing matched."""
        if self._join.kind != "left" or self._join.right.full_name not in sides:
            return
        if not self._join.own_rows:
            raise QueryError(
                "query.left-join",
                f"in {part}: a LEFT JOIN that keeps the rows of {self._join.left.full_name} aggregates their "
                "columns; group by yours, or write JOIN to aggregate both",
            )
        strange = {type(found) for node in nodes for found in node.walk()} - _NULL_FOR_NULLS
        if strange:
            raise QueryError(
                "query.left-join",
                f"in {part}: in a LEFT JOIN an aggregate over columns of {self._join.right.full_name} takes "
                "columns, numbers, + - * and comparisons, which are NULL where nothing matched; write "
                "coalesce(SUM(x), 0) for a default, or JOIN for anything else",
            )

    def _condition_of(self, node: exp.Expr | None, part: str) -> Conditions:
        """A predicate inside an aggregate, noted so that a policy can forbid it; each part is of one side."""
        with self._join.notes.predicate_inside_aggregate(selecting=True):
            return tuple(self._join.rows(part).predicate(one) for one in conjuncts(node))

    def _argument(self, node: exp.Expr, part: str) -> Bound:
        """What an aggregate other than a sum is over: any expression over rows."""
        with self._join.notes.inside_aggregate():
            return self._join.rows(part).bound(node)

    def _count(self, node: exp.Count, keep: Conditions, part: str) -> Bound:
        if node.this is None or isinstance(node.this, exp.Star):
            self._note_rows()
            return self.count_rows(keep)
        if isinstance(node.this, exp.Distinct):
            return self._count_distinct(node.this.expressions, keep, part)
        if len({self._join.scope.column(c)[0].full_name for c in node.find_all(exp.Column)}) > 1:
            mixed = self._measured(node.this, "count", keep, part)
            return self._figure("count", [self.products.count(mixed)], INT64)
        bound = self._argument(node.this, part)
        self._join.notes.aggregated(bound.columns, "count")
        if bound.sides != {self._join.sender.full_name}:
            self._note_rows()  # a literal, or the asker's column: rows of the sender are counted
        matched_key = self._join.kind in ("inner", "semi") and self._join.key_side(bound) is not None
        if not bound.nullable or matched_key:  # after the join a key is never NULL
            return self.count_rows(keep)
        present = replace(bound, sql=f"({bound.sql} IS NOT NULL)")
        return self.count_rows([*keep, present])

    def _note_rows(self) -> None:
        """Counting rows is a use of the column `*`: policies name it like any other measure."""
        self._join.notes.aggregated([(self._join.sender.full_name, "*")], "count")

    def count_rows(self, conditions: Sequence[Bound]) -> Bound:
        """How many rows of the join meet all conditions."""
        rows = ROWS
        for condition in conditions:
            rows = rows.where(condition, self._join.receiver.full_name if self._join.receiver else None)
        return self._figure("count", [self.products.count(rows)], INT64)

    def _figure(self, function: str, totals: Sequence[Total], kind: Type, most: int | None = None) -> Bound:
        self.counts_own |= self._join.own_rows
        if kind == INT64:
            self.products.check_count()
            most = self.products.pairs
        return self.partials.figure(function, totals, kind, most)

    def _count_distinct(self, nodes: Sequence[exp.Expr], keep: Conditions, part: str) -> Bound:
        if len(nodes) != 1:
            raise QueryError(
                "query.count-distinct",
                f"in {part}: COUNT(DISTINCT …) takes one column; count the groups of several by grouping",
            )
        bound = self._argument(nodes[0], part)
        self._join.notes.aggregated(bound.columns, "count_distinct")
        if self.parts:
            raise QueryError(
                "query.count-distinct",
                f"in {part}: who occurs at several participants would be counted several times; count rows",
            )
        if self._join.receiver is None:
            name = self.partials.add(_kept(bound.sql, keep), 0, 1, "count_distinct")
            return self.partials.figure("count", [Total((name,))], INT64, self.products.pairs)
        side = self._join.key_side(bound)
        if not keep and len(self._join.keys) == 1 and side is not None:
            # Named by the asker's column or not, keys of the sender are counted.
            self._join.notes.aggregated(
                [(self._join.sender.full_name, self._join.keys[0][1])], "count_distinct"
            )
            return self.partials.figure("count", [self._distinct_keys(side)], INT64, self.products.pairs)
        raise QueryError(
            "query.count-distinct",
            f"in {part}: a joint query counts distinct values of its single join key only, without FILTER; "
            "count others over one dataset, or group by them",
        )

    def _distinct_keys(self, side: DatasetInfo) -> Total:
        """How many keys a cell has: those that matched, and the rest where rows without a match are kept."""
        if self._join.own_rows and self._join.kind == "anti":
            return Total(("own_keys", "identities"), 0, 0, (0, 0), (1, -1))
        return (
            Total(("own_keys",))
            if self._join.own_rows and self._join.kind == "left" and side is self._join.left
            else IDENTITIES
        )

    def _quantile(self, node: exp.ApproxQuantile, part: str) -> Bound:
        operand = self._join.rows(part).operand(node.args["quantile"])
        q = operand.value if isinstance(operand, Constant) else None
        if isinstance(q, bool) or not isinstance(q, int | Decimal) or not 0 <= q <= 1:
            raise QueryError("query.quantile", f"in {part}: approx_quantile takes a number between 0 and 1")
        return self._figure(f"quantile:{q}", [self.products.count(ROWS)], FLOAT64)

    def _extreme(self, node: exp.Expr, keep: Conditions, part: str) -> Bound:
        function = "min" if isinstance(node, exp.Min) else "max"
        if self.parts:
            return self._pooled_extreme(function, unwrapped(node.this), keep, part)
        bound = self._argument(node.this, part)
        self._join.notes.aggregated(bound.columns, function)
        if self._join.receiver is not None:
            raise QueryError(
                "query.extreme-joint",
                f"in {part}: {function.upper()} is not a sum, so no joint protocol computes it; "
                "count rows over fixed buckets instead: GROUP BY width_bucket(column, [edges])",
            )
        name = self.partials.add(_kept(bound.sql, keep), 0, 0, function, str(bound.type))
        return self.partials.figure("value", [Total((name,))], bound.type)

    def _pooled_extreme(self, function: str, node: exp.Expr, keep: Conditions, part: str) -> Bound:
        """Over a federation: whether any row has a value, and how many positions of a scale are reached."""
        column = self._join.scope.column(node) if isinstance(node, exp.Column) else None
        with self._join.notes.inside_aggregate():
            scale = extremes.scale(self._join.rows(part), node, column)
        self._join.notes.aggregated(scale.value.columns, function)
        names = [
            self.partials.add(condition, 0, 1, extremes.ANY, counts_values=first)
            for condition, first in scale.conditions(function, [condition.sql for condition in keep])
        ]
        totals = [Total(tuple(names[:1])), Total(tuple(names[1:]), shifts=(0,) * len(names[1:]))]
        return self.partials.figure(scale.figure(function), totals, scale.type, scale.most)

    def _measured(self, node: exp.Expr, function: str, keep: Conditions, part: str) -> Mixed:
        receiver = self._join.receiver.full_name if self._join.receiver is not None else None
        joint = receiver is not None or bool(self.parts)
        measure = Measure(self._join.rows(part), self._join.scope.column, self._join.notes, joint=joint)
        mixed = Binder(measure, self._join.scope.column, receiver).bind(node)
        if not mixed.columns:
            raise QueryError(
                "query.measure", f"in {part}: an aggregate reads at least one column; use COUNT(*)"
            )
        self._join.notes.aggregated(mixed.columns, function)
        return reduce(lambda kept, condition: kept.where(condition, receiver), keep, mixed)

    def _note_own(self, *measured: Mixed) -> None:
        """A sum of the asker's own values counts the sender's rows."""
        if all(self._join.sender.full_name != dataset for mixed in measured for dataset, _ in mixed.columns):
            self._note_rows()

    def _exact(self, node: exp.Expr, function: str, keep: Conditions, part: str) -> Bound:
        number, products = self._measured(node, _POLICY_WORDS[function], keep, part), self.products
        self._note_own(number)
        if function == "sum":
            # Only whether there was any value matters; where none can be NULL, the cell's count tells.
            products.check(number, part)
            matched = self._join.kind in ("inner", "semi")
            count = IDENTITIES if matched and not number.conditional else products.count(number)
            most = None if number.inexact else products.most(number)
            return self._figure("sum", [count, products.total(number)], _sum_type(number), most)
        totals = [products.count(number), products.total(number)]
        if function != "avg":
            totals.append(products.total(multiplied(number, number)))
        return self._figure(function, totals, FLOAT64)

    def _paired(self, node: exp.Expr, keep: Conditions, part: str) -> Bound:
        """COVAR, CORR, REGR: y first, as in SQL; a NULL in either skips the pair."""
        function = _PAIRS[type(node)]
        word = _POLICY_WORDS[function]
        y, x = together(*(self._measured(arg, word, keep, part) for arg in (node.this, node.expression)))
        self._note_own(y, x)
        sums = {
            "y": lambda: y,
            "x": lambda: x,
            "yy": lambda: multiplied(y, y),
            "xx": lambda: multiplied(x, x),
            "yx": lambda: multiplied(y, x),
        }
        totals = [self.products.count(y)]
        totals += [self.products.total(sums[name]()) for name in TAKES[function]]
        return self._figure(function, totals, INT64 if function == "regr_count" else FLOAT64)

    def regression(
        self, name: str, node: exp.Expr, condition: exp.Expr | None, part: str
    ) -> list[tuple[Output, Bound]]:
        """A line's columns: rows, whether there is one, R², then each coefficient and its standard error."""
        if node.name.lower() == LOGISTIC:
            return self._logistic_regression(name, node, condition, part)
        y, *xs = self._regressed(node, part)
        read = {self._join.scope.column(c)[0].full_name for c in node.find_all(exp.Column)}
        self._join.check_visible(read, part)
        self._left_join_reads([node], read, part)
        keep = self._condition_of(condition, part)
        measured = together(*(self._measured(one, "regr", keep, part) for one in (*xs, y)))
        self._note_own(*measured)
        totals = self._squares(measured)
        names = [
            "intercept",
            *(x.meta.get(CALLED) or _plain_name(x) or f"x{i}" for i, x in enumerate(xs, 1)),
        ]
        found = [
            ("n", self._figure("count", totals[:1], INT64)),
            ("fit", self._figure(f"{LINEAR}fit", totals, STRING)),
            ("r2", self._figure(f"{LINEAR}r2", totals, FLOAT64)),
        ]
        for i, term in enumerate(names):
            found.append((term, self._figure(f"{LINEAR}coefficient:{i}", totals, FLOAT64)))
            found.append((f"{term}_se", self._figure(f"{LINEAR}error:{i}", totals, FLOAT64)))
        return _called(name, REGRESSION, found)

    def _logistic_regression(
        self, name: str, node: exp.Expr, condition: exp.Expr | None, part: str
    ) -> list[tuple[Output, Bound]]:
        """A fit's columns: rows, what became of it, steps, then each coefficient and its standard error."""
        y, *xs = self._regressed(node, part)
        if not self.parts or condition is not None:
            what = _POOLED_ONLY if not self.parts else "takes its conditions in WHERE"
            raise QueryError("query.logistic", f"in {part}: {LOGISTIC} {what}")
        measure = Measure(self._join.rows(part), self._join.scope.column, self._join.notes, joint=True)
        self.logistic = logistic(self._join.scope, measure, y, xs, part)
        named = [self._join.scope.column(column) for column in node.find_all(exp.Column)]
        self._join.notes.aggregated([(info.full_name, column.name) for info, column in named], "logistic")
        sums = figures(len(xs))
        added = [Total((self.partials.add(sql, 0, bound, STEP),)) for sql, bound in sums]
        shown = [("n", "rows", INT64), ("fit", "verdict", STRING), ("steps", "steps", INT64)]
        for j, term in enumerate(["intercept", *(r.name for r in self.logistic.regressors)]):
            shown += [(term, f"coefficient:{j}", FLOAT64), (f"{term}_se", f"error:{j}", FLOAT64)]
        found = [(column, self._shown_of(source, added, kind)) for column, source, kind in shown]
        return _called(name, LOGISTIC, found)

    def _shown_of(self, source: str, sums: Sequence[Total], kind: Type) -> Bound:
        """What the protocol answers under this name (compute/logistic.py), from all sums of the steps."""
        return self.partials.figure("value", [Total((source,)), *sums], kind)

    def _squares(self, measured: Sequence[Mixed]) -> list[Total]:
        """How many pairs of rows, the sums over them, and those of all products by two."""
        products = self.products
        totals = []
        for i, j in pairs(len(measured) + 1):
            if j == 0:
                totals.append(products.count(measured[0]))
            elif i == 0:
                totals.append(products.total(measured[j - 1]))
            else:
                totals.append(products.total(multiplied(measured[i - 1], measured[j - 1])))
        return totals

    def _regressed(self, node: exp.Expr, part: str) -> list[exp.Expr]:
        """What is explained, and by what."""
        y, *rest = node.expressions or [None]
        xs = (
            [x.unnest() for x in rest[0].expressions]
            if len(rest) == 1 and isinstance(rest[0], exp.Array)
            else []
        )
        if y is None or not 1 <= len(xs) <= MOST_REGRESSORS:
            raise QueryError(
                "query.regression",
                f"in {part}: {node.name}(y, [x1, x2]) takes a column and a list of 1 to {MOST_REGRESSORS}",
            )
        if len({one.sql().casefold() for one in (y.unnest(), *xs)}) <= len(xs):
            raise QueryError(
                "query.regression",
                f"in {part}: a column occurs twice, so no coefficient is determined; name each once",
            )
        return [y.unnest(), *xs]

    def _native(
        self, node: exp.Expr, function: str, keep: Conditions, part: str, unbounded: Unbounded
    ) -> Bound:
        """The mean or variance of anything, the sum of floats: a sum of decimals would not be exact."""
        bound = self._argument(node, part)
        if not bound.type.numeric:
            raise QueryError("query.type", f"in {part}: a number is needed here")
        if function == "sum" and bound.type != FLOAT64:
            raise unbounded
        if not _unchanged(node):
            sentence = f"in {part}: {unbounded.sentence}; {_BESIDE_THE_AGGREGATE}"
            raise QueryError("query.bounds-missing", sentence) from None
        self._join.notes.aggregated(bound.columns, _POLICY_WORDS[function])
        value = _kept(f"CAST({bound.sql} AS DOUBLE)", keep)
        name = self.partials.add(value, 0, 0, function, str(FLOAT64))
        return self.partials.figure("value", [Total((name,))], FLOAT64)


def _called(name: str, function: str, found: Sequence[tuple[str, Bound]]) -> list[tuple[Output, Bound]]:
    """The columns of a fit, behind the name that the query gives it."""
    before = "" if name == function else f"{name}_"
    return [(Output(before + column, bound.sql, str(bound.type)), bound) for column, bound in found]


def _plain_name(node: exp.Expr) -> str:
    return node.name if isinstance(node, exp.Column) else ""


def _kept(sql: str, conditions: Conditions) -> str:
    """A value where all conditions hold."""
    both = " AND ".join(condition.sql for condition in conditions)
    return f"CASE WHEN {both} THEN {sql} END" if conditions else sql


def quantile_column(node: exp.ApproxQuantile) -> exp.Column:
    """Whose quantiles these are. Raises `QueryError`."""
    column = unwrapped(node.this)
    if not isinstance(column, exp.Column):
        raise QueryError("query.quantile", "approx_quantile takes a column and a number between 0 and 1")
    return column


def has_aggregate(node: exp.Expr) -> bool:
    """Whether the expression holds an aggregate."""
    return bool(aggregates_in(node))


def aggregates_in(node: exp.Expr) -> list[exp.Expr]:
    """All aggregates of an expression."""
    return [
        n for n in node.find_all(*AGGREGATES, exp.Anonymous) if isinstance(n, AGGREGATES) or regressing(n)
    ]


_BESIDE_THE_AGGREGATE = (
    "without them arithmetic in an aggregate could overflow, which tells how large the largest value is: "
    "aggregate the column itself and calculate with the result, as in AVG(x) * 2 - 1"
)


def _unchanged(node: exp.Expr | None) -> bool:
    """Does the expression only choose between values as they are in columns, or in the text?

    INVARIANT: the asker cannot scale what is added up in floating point. By a factor of its choice a sum
    would overflow or not, and the factor at which it begins to is the largest value.
    """
    if isinstance(node, exp.Paren | exp.Neg):
        return _unchanged(node.this)
    if isinstance(node, exp.Coalesce):
        return all(map(_unchanged, (node.this, *node.expressions)))
    if isinstance(node, exp.Case | exp.If):
        branches, otherwise = branched(node)
        return all(_unchanged(value) for _, value in branches) and (
            otherwise is None or _unchanged(otherwise)
        )
    return isinstance(node, exp.Column | exp.Literal | exp.Null)


def _any_unique(info: DatasetInfo, keys: Iterable[str]) -> bool:
    """Is some part of a key declared to occur once?"""
    return any((column := info.column(key)) is not None and column.unique for key in keys)


def _sum_type(number: Mixed) -> Type:
    if number.inexact:
        return FLOAT64
    if number.scale > 30:
        raise QueryError(
            "query.overflow", "a sum has more than 30 digits after the point; multiply fewer decimals"
        )
    return Type("decimal", 38, number.scale) if number.scale else HUGE


_FUNCTIONS: dict[type[exp.Expr], str] = {
    exp.Sum: "sum",
    exp.Avg: "avg",
    exp.Variance: "var_samp",
    exp.VariancePop: "var_pop",
    exp.Stddev: "stddev_samp",
    exp.StddevSamp: "stddev_samp",
    exp.StddevPop: "stddev_pop",
}
_PAIRS: dict[type[exp.Expr], str] = {
    exp.CovarPop: "covar_pop",
    exp.CovarSamp: "covar_samp",
    exp.Corr: "corr",
    exp.RegrSlope: "regr_slope",
    exp.RegrIntercept: "regr_intercept",
    exp.RegrR2: "regr_r2",
    exp.RegrCount: "regr_count",
    exp.RegrAvgy: "regr_avgy",
    exp.RegrAvgx: "regr_avgx",
    exp.RegrSyy: "regr_syy",
    exp.RegrSxx: "regr_sxx",
    exp.RegrSxy: "regr_sxy",
}
_NULL_FOR_NULLS: set[type[exp.Expr]] = {
    *(exp.Column, exp.Identifier, exp.Literal, exp.Paren, exp.Neg, exp.Add, exp.Sub, exp.Mul, exp.Distinct),
    *(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between, exp.In, exp.Like, exp.ILike, exp.And),
    *(exp.Cast, exp.DataType, exp.Boolean, exp.Star),
    *_FUNCTIONS,
    *_PAIRS,
    *(exp.Count, exp.CountIf),
}
"""What is NULL, and no condition that holds, where all columns are NULL."""
AGGREGATES: tuple[type[exp.Expr], ...] = (
    exp.ApproxQuantile,
    exp.Count,
    exp.CountIf,
    exp.Min,
    exp.Max,
    *_FUNCTIONS,
    *_PAIRS,
)
_POLICY_WORDS = {name: name.split("_")[0] for name in (*_FUNCTIONS.values(), *_PAIRS.values())}
