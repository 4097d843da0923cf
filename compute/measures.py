"""What is summed: a row's value as an exact integer, whose size is proved before any row is read.

A column is clamped to its declared bounds and scaled to a whole number; sums, differences, products
and CASE keep that form and carry a bound on its absolute value along. Nothing here can wrap: where the
bound is unknown the measure is refused, and the message names who has to declare it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from functools import reduce

from sqlglot import exp

from compute.dataset import Column, DatasetInfo
from compute.derived import conjuncts
from compute.errors import QueryError
from compute.expressions import Bound, Constant, Scalar, branched, quoted
from compute.facts import ColumnRef, Notes
from compute.types import BOOL, FLOAT64, INT64, Type, parse_type

LIMIT = 2**126
"""Largest absolute value of a row's integer: DuckDB's HUGEINT with a bit to spare."""

_EXACT = Context(prec=200)  # the default context rounds to 28 digits

Resolve = Callable[[exp.Column], tuple[DatasetInfo, Column]]
"""The column that a name means, or `QueryError`."""


@dataclass(frozen=True, slots=True)
class Number:
    """`sql` gives value * 10**scale as an integer, at most `magnitude` in absolute value, or NULL."""

    sql: str
    scale: int
    magnitude: int
    inexact: bool  # floats took part: the answer is a float
    sides: frozenset[str]
    columns: frozenset[ColumnRef]
    nullable: bool
    huge: bool = False  # `sql` is a HUGEINT, else a BIGINT
    alias: str = ""  # a column that is NULL exactly where this is, if there is one

    @property
    def present(self) -> str:
        """A condition that holds where there is a value."""
        return f"({self.alias or self.sql} IS NOT NULL)"


class Unbounded(QueryError):
    """A column is measured whose size nobody declared."""


class Measure:
    """Binds the argument of SUM, AVG, VAR and the like."""

    def __init__(self, scalar: Scalar, resolve: Resolve, notes: Notes, *, joint: bool) -> None:
        self._scalar, self._resolve, self._notes, self._joint = scalar, resolve, notes, joint

    def number(self, node: exp.Expr) -> Number:
        """Bind an expression that is summed."""
        if isinstance(node, exp.Column):
            return self._noted(_leaf(*self._resolve(node), joint=self._joint))
        if isinstance(node, exp.Paren):
            return self.number(node.this)
        if isinstance(node, exp.Add | exp.Sub | exp.Mul):
            return self._arithmetic(node)
        if isinstance(node, exp.Neg):
            inner = self.number(node.this)
            return replace(inner, sql=f"(-{_wide(inner, inner.magnitude)})", huge=_is_huge(inner.magnitude))
        if isinstance(node, exp.Case | exp.If):
            return self._case(node)
        if isinstance(node, exp.Coalesce) and node.expressions:
            return reduce(self._coalesced, map(self.number, (node.this, *node.expressions)))
        return self._constant(node)

    def _noted(self, number: Number) -> Number:
        """No column is summed without an entry in the facts."""
        list(self._notes.seen(number.columns))
        return number

    def _constant(self, node: exp.Expr) -> Number:
        if isinstance(node, exp.Distinct):
            raise self._scalar.refuse(
                "measure", "only COUNT takes DISTINCT; group by the column to see its distinct values"
            )
        if isinstance(node, exp.Literal | exp.Cast | exp.Boolean):
            value = self._scalar.operand(node)
            if isinstance(value, Constant) and isinstance(value.value, int | Decimal):
                return _literal(value.value)
        raise self._scalar.refuse(
            "measure",
            "an aggregate takes columns and numbers with + - *, CASE and COALESCE; put other functions into "
            "GROUP BY, divide the aggregate, and count where a condition holds by COUNT(*) FILTER (WHERE …)",
        )

    def _arithmetic(self, node: exp.Expr) -> Number:
        a, b = self.number(node.this), self.number(node.expression)
        if isinstance(node, exp.Mul):
            scale, magnitude, sign = a.scale + b.scale, a.magnitude * b.magnitude, "*"
        else:
            a, b = _rescaled((a, b))
            scale, magnitude = a.scale, a.magnitude + b.magnitude
            sign = "+" if isinstance(node, exp.Add) else "-"
        if magnitude > LIMIT:
            raise too_large(a.columns | b.columns)
        left, right = (_wide(n, magnitude) for n in (a, b))
        merged = self._merged((a, b))
        self._notes.applied(merged.columns, "arithmetic")
        if isinstance(node, exp.Mul):
            self.multiplied(a.columns, b.columns)
        sql = f"({left} {sign} {right})"
        return replace(merged, sql=sql, scale=scale, magnitude=magnitude, huge=_is_huge(magnitude))

    def multiplied(self, first: frozenset[ColumnRef], second: frozenset[ColumnRef]) -> None:
        """Note a product of two columns of one dataset: SUM(amount * flag) sums over some rows only."""
        datasets = {dataset for dataset, _ in first} & {dataset for dataset, _ in second}
        both = frozenset(column for column in first | second if column[0] in datasets)
        self._notes.applied(both, "arithmetic")
        self._notes.applied(both, "product")

    def _case(self, node: exp.Expr) -> Number:
        """CASE WHEN … THEN number …: a predicate inside an aggregate, and noted as one.

        Not as one that selects rows: an ELSE lets rows count for a minimum that add nothing.
        """
        branches, default = branched(node)
        with self._notes.predicate_inside_aggregate(selecting=False):
            conditions = [self._scalar.predicate(condition) for condition, _ in branches]
            results = [value for _, value in branches] + ([default] if default is not None else [])
            numbers = _rescaled([self.number(r) for r in results if not isinstance(r, exp.Null)])
        if not numbers:
            raise self._scalar.refuse("measure", "every branch of a CASE is NULL")
        merged = self._merged([*numbers, *conditions])
        parts = iter(numbers)
        sqls = ["NULL" if isinstance(r, exp.Null) else _wide(next(parts), merged.magnitude) for r in results]
        other = sqls.pop() if default is not None else "NULL"
        whens = " ".join(f"WHEN {c.sql} THEN {v}" for c, v in zip(conditions, sqls, strict=True))
        nullable = merged.nullable or other == "NULL" or "NULL" in sqls
        return replace(merged, sql=f"CASE {whens} ELSE {other} END", nullable=nullable)

    def inside_predicate(self) -> AbstractContextManager[None]:
        """What is read meanwhile decides what counts."""
        return self._notes.predicate_inside_aggregate(selecting=False)

    def conditions(self, node: exp.Expr) -> list[Bound]:
        """The parts of a predicate inside an aggregate, each over one side."""
        with self.inside_predicate():
            return [self._scalar.predicate(part) for part in conjuncts(node)]

    def _coalesced(self, first: Number, second: Number) -> Number:
        a, b = _rescaled((first, second))
        merged = self._merged((a, b))
        self._notes.applied(merged.columns, "coalesce")
        if a.nullable:
            self._notes.marked(merged.columns, "conditional")  # CASE WHEN a IS NULL THEN b ELSE a END
        sql = f"coalesce({_wide(a, merged.magnitude)}, {_wide(b, merged.magnitude)})"
        return replace(merged, sql=sql, nullable=a.nullable and b.nullable)

    def _merged(self, parts: Sequence[Number | Bound]) -> Number:
        """What holds for an expression made of these: one side, largest magnitude, common scale."""
        numbers = [p for p in parts if isinstance(p, Number)]
        sides = frozenset[str]().union(*(p.sides for p in parts))
        if len(sides) > 1:
            raise self._scalar.refuse("weighted-not-available", _WEIGHTED)
        return Number(
            "",
            numbers[0].scale,
            max(n.magnitude for n in numbers),
            any(n.inexact for n in numbers),
            sides,
            frozenset[ColumnRef]().union(*(p.columns for p in parts)),
            any(n.nullable for n in numbers),
            _is_huge(max(n.magnitude for n in numbers)),
        )


_WEIGHTED = (
    "CASE with several branches and COALESCE read columns of one party only; add, subtract and multiply "
    "those of both, and put conditions into FILTER (WHERE …)"
)


def named(columns: Iterable[ColumnRef]) -> str:
    """Columns as people write them."""
    return ", ".join(f"{dataset}.{column}" for dataset, column in sorted(columns))


def too_large(columns: Iterable[ColumnRef]) -> QueryError:
    """Arithmetic that could leave its type on a row, whatever the rows turn out to hold."""
    return QueryError(
        "query.overflow",
        f"this arithmetic can exceed 126 bits, as far as is declared of {named(columns)}; ask the owner to "
        "declare (tighter) bounds, or aggregate the columns by themselves",
    )


def square(number: Number, other: Number) -> Number:
    """The product of two numbers, or the square of one."""
    magnitude = number.magnitude * other.magnitude
    sql = f"({_wide(number, magnitude)} * {_wide(other, magnitude)})"
    columns, huge = number.columns | other.columns, _is_huge(magnitude)
    return replace(
        number, sql=sql, scale=number.scale + other.scale, magnitude=magnitude, columns=columns, huge=huge
    )


def _leaf(info: DatasetInfo, column: Column, *, joint: bool) -> Number:
    """A column as a whole number, clamped to its bounds."""
    kind, name = parse_type(column.type), quoted(column.name)
    read = (frozenset({info.full_name}), frozenset({(info.full_name, column.name)}))
    if kind == BOOL:
        return Number(f"CAST({name} AS BIGINT)", 0, 1, False, *read, column.nullable, alias=name)
    if not kind.numeric:
        raise QueryError("query.type", f"{column.name} is not a number; count it, or group by it")
    scale = column.scale if kind == FLOAT64 else kind.scale
    bounds = column.bounds or (None if joint else _range(kind))
    if bounds is None or scale is None:
        raise Unbounded("query.bounds-missing", _unbounded(info, column, kind))
    low, high = scaled_bounds(bounds, scale)
    magnitude = max(abs(low), abs(high))
    if magnitude > LIMIT:
        raise QueryError(
            "query.overflow", f"{info.full_name} declares bounds for {column.name} beyond 126 bits"
        )
    sql, huge = _clamped(name, kind, scale, low, high), kind != INT64 and _is_huge(magnitude)
    float_ = kind == FLOAT64  # NaN counts as NULL, so a float is never without NULLs
    alias = "" if float_ else name
    return Number(sql, scale, magnitude, float_, *read, column.nullable or float_, huge, alias)


def _range(kind: Type) -> tuple[str, str] | None:
    """What the type itself bounds; enough where the owner sums alone, in 127 bits."""
    if kind == INT64:
        return str(-(2**63)), str(2**63 - 1)
    if kind.kind == "decimal" and kind.precision <= 37:
        top = format(_EXACT.scaleb(Decimal(10**kind.precision - 1), -kind.scale), "f")
        return f"-{top}", top
    return None


def _unbounded(info: DatasetInfo, column: Column, kind: Type) -> str:
    what = "bounds and a scale" if kind == FLOAT64 and column.scale is None else "bounds"
    return (
        f"{info.full_name} declares no {what} for {column.name}, so a sum of it cannot be proved to fit; "
        f"ask {info.participant} to declare them, or count rows instead"
    )


def scaled_bounds(bounds: tuple[str, str], scale: int) -> tuple[int, int]:
    """Bounds times 10**scale, as the whole numbers between them."""
    low, high = (_EXACT.scaleb(Decimal(bound), scale) for bound in bounds)
    return (
        int(low.to_integral_value(ROUND_CEILING, _EXACT)),
        int(high.to_integral_value(ROUND_FLOOR, _EXACT)),
    )


def _clamped(name: str, kind: Type, scale: int, low: int, high: int) -> str:
    """CASE rather than least/greatest, which skip NULLs. TRY_CAST, as DuckDB may evaluate it on any row."""
    lowest, highest = _integer(low), _integer(high)
    if kind == INT64:
        edges = ((">", highest, high), ("<", lowest, low))
        clipped = [f"WHEN {name} {sign} {edge} THEN {edge}" for sign, edge, value in edges if _fits(value)]
        return f"CASE {' '.join(clipped)} ELSE {name} END" if clipped else name
    target = "HUGEINT" if _is_huge(max(abs(low), abs(high))) else "BIGINT"
    unit = 10**scale
    if kind == FLOAT64:
        scaled = f"{name} * {unit}.0e0"
        clips = f"WHEN {scaled} >= {high}.0e0 THEN {highest} WHEN {scaled} <= {low}.0e0 THEN {lowest}"
        return f"CASE WHEN isnan({name}) THEN NULL {clips} ELSE TRY_CAST(round({scaled}) AS {target}) END"
    # Decimals of at most 18 digits are 64-bit integers inside DuckDB, and eight times as fast.
    digits = max(len(str(max(abs(low), abs(high)))), scale)
    narrow = digits + len(str(unit)) <= 18
    edge = max(kind.precision, digits)
    width = digits if narrow else edge + scale
    # Beyond 38 digits the product would fail on a row: then the digits are read without their point.
    whole = (
        f"TRY_CAST(TRY_CAST({name} AS DECIMAL({width},{scale})) * {unit} AS {target})"
        if width <= 38
        else f"TRY_CAST(replace(CAST({name} AS VARCHAR), '.', '') AS {target})"
    )
    top, bottom = (
        f"CAST({_EXACT.scaleb(Decimal(v), -scale):f} AS DECIMAL({edge},{scale}))" for v in (high, low)
    )
    return f"CASE WHEN {name} > {top} THEN {highest} WHEN {name} < {bottom} THEN {lowest} ELSE {whole} END"


def _fits(bound: int) -> bool:
    """Is a bound inside the 64-bit range, so that comparing with it says anything?"""
    return -(2**63) < bound < 2**63 - 1


def _integer(value: int) -> str:
    return f"CAST({value} AS {'HUGEINT' if _is_huge(abs(value)) else 'BIGINT'})"


def _literal(value: int | Decimal) -> Number:
    exponent = Decimal(value).as_tuple().exponent
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    scaled = int(_EXACT.scaleb(Decimal(value), scale))
    sql, huge = _integer(scaled), _is_huge(abs(scaled))
    return Number(sql, scale, abs(scaled), False, frozenset(), frozenset(), False, huge)


def _rescaled(numbers: Sequence[Number]) -> list[Number]:
    """The numbers at their largest scale."""
    scale = max((n.scale for n in numbers), default=0)
    return [times(n, 10 ** (scale - n.scale), scale) for n in numbers]


def times(number: Number, factor: int, scale: int) -> Number:
    """The number times a whole number, as a number of that scale."""
    if factor == 1:
        return number
    magnitude = number.magnitude * abs(factor)
    if magnitude > LIMIT:
        raise too_large(number.columns)
    sql = f"({_wide(number, magnitude)} * {_integer(factor)})"
    return replace(number, sql=sql, magnitude=magnitude, scale=scale, huge=_is_huge(magnitude))


def _wide(number: Number, magnitude: int) -> str:
    """The number's SQL in a type that holds `magnitude`."""
    return f"CAST({number.sql} AS HUGEINT)" if _is_huge(magnitude) and not number.huge else number.sql


def _is_huge(magnitude: int) -> bool:
    return magnitude >= 2**63
