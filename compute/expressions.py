"""Scalar expressions of the allow-list, bound to typed columns and written out as canonical DuckDB SQL.

Two rules hold for everything written here. No row can make it fail: an error that depends on data
tells the asker about a row, so arithmetic that may overflow gives NULL (`TRY`), divisors are literals
or NULL instead of zero, and nobody may write a cast of a column. And nothing is guessed: an expression
whose types do not fit is refused with what would fit.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import reduce
from math import prod

from sqlglot import exp

from compute.errors import QueryError
from compute.facts import ColumnRef, Notes
from compute.types import BOOL, DATE, FLOAT64, INT64, STRING, TIMESTAMP, Type

RELEASED = "released"
"""The side of what is computed from released cells rather than from rows."""


@dataclass(frozen=True, slots=True)
class Bound:
    """An expression over the columns of at most one side."""

    sql: str
    type: Type
    sides: frozenset[str]  # the dataset whose columns it reads; empty: constants only
    columns: frozenset[ColumnRef]
    nullable: bool = True
    exact: str = ""  # of integer arithmetic, the same as a HUGEINT: `sql` is NULL beyond 64 bits
    most: int | None = None  # of a figure, if that is proved: no larger, in units of its last digit


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal whose SQL type is that of what it meets."""

    value: int | Decimal | str | bool | date | datetime | None


Operand = Bound | Constant
Leaf = Callable[[exp.Expr], Bound | None]


def quoted(name: str) -> str:
    """An identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


class Scalar:
    """Binds one clause's expressions; `leaf` answers for columns, or for aggregates in the answer."""

    def __init__(self, leaf: Leaf, notes: Notes, part: str, *, released: bool = False) -> None:
        self._leaf, self._notes, self._part, self._released = leaf, notes, part, released

    def operand(self, node: exp.Expr) -> Operand:
        """Bind an expression or a literal."""
        found = self._leaf(node)
        if found is not None:
            return found
        handler = _HANDLERS.get(type(node))
        if handler is None and isinstance(node, exp.AggFunc | exp.Filter):
            raise self.refuse("expression", "an aggregate has no value for a row; HAVING filters aggregates")
        if handler is None:
            raise self.refuse(
                "expression",
                f"{type(node).__name__.upper()} cannot be used here; docs/reference/sql.md lists what can",
            )
        return handler(self, node)

    def bound(self, node: exp.Expr) -> Bound:
        """Bind an expression; a literal gets its natural type."""
        operand = self.operand(node)
        return operand if isinstance(operand, Bound) else _typed(operand, self)

    def predicate(self, node: exp.Expr) -> Bound:
        """Bind a condition. A truth value that no comparison made counts as compared with a literal."""
        operand = self.operand(node)
        if isinstance(operand, Constant) or not operand.columns:
            self._notes.literals_on_total |= not self._released
        if isinstance(operand, Constant) and operand.value is None:
            return Bound("CAST(NULL AS BOOLEAN)", BOOL, frozenset(), frozenset())
        bound = operand if isinstance(operand, Bound) else _typed(operand, self)
        if bound.type != BOOL:
            raise self.refuse("type", "a condition must be true or false; compare it with something")
        if not isinstance(node.unnest(), _NOTED):
            self._notes.compared(bound.columns, "equality", literal=True, column=False)
        return bound

    def refuse(self, code: str, sentence: str) -> QueryError:
        """An error that names the clause."""
        return QueryError(f"query.{code}", f"in {self._part}: {sentence}")

    def guarded(self, sql: str) -> str:
        """NULL where `sql` leaves its type: an error would tell of a row. What is released may fail."""
        return sql if self._released else f"TRY({sql})"

    def proved(self, kind: Type, most: int | None) -> int | None:
        """Refuse arithmetic over figures that could leave its type, rather than lose an answer to it."""
        highest = 2**63 - 1 if kind == INT64 else 10**kind.precision - 1
        if not self._released or most is None or most <= highest:
            return most
        raise self.refuse(
            "overflow",
            "this arithmetic over figures can leave 64 bits, or 38 digits, as far as is declared of what "
            "they count and add up; write CAST(… AS DOUBLE) around one of the figures",
        )

    def floating(self, number: Constant) -> Operand:
        """CAST(2 AS DOUBLE): beside figures a float; over rows exact, as every number is."""
        if not self._released:
            return number
        return Bound(self.literal(number, FLOAT64), FLOAT64, frozenset(), frozenset(), nullable=False)

    def applied(self, name: str, bound: Bound) -> Bound:
        """Note a scalar function over what it reads."""
        self._notes.applied(bound.columns, name)
        return bound

    def overflowing(self, bound: Bound) -> None:
        """Note what is NULL or infinite for large values: inside COUNT, MIN or MAX that is a comparison."""
        self._notes.defaulted(bound.columns)

    def multiplied(self, a: Operand, b: Operand) -> None:
        """Note a product of two columns inside an aggregate: one of them may select rows."""
        if isinstance(a, Bound) and isinstance(b, Bound) and a.columns and b.columns:
            self._notes.multiplied(a.columns | b.columns)

    def defaulted(self, operands: Sequence[Operand]) -> None:
        """Note that one operand stands in where another is NULL."""
        bounds = [operand for operand in operands if isinstance(operand, Bound)]
        if any(bound.nullable for bound in bounds):
            self._notes.defaulted(frozenset[ColumnRef]().union(*(bound.columns for bound in bounds)))

    def combine(
        self, sql: str, kind: Type, parts: Sequence[Operand], *, nullable: bool | None = None
    ) -> Bound:
        """One expression made of several; they must not read two parties' columns."""
        bounds = [part for part in parts if isinstance(part, Bound)]
        sides = frozenset().union(*(b.sides for b in bounds))
        if len(sides) > 1:
            raise self.refuse(
                "both-sides",
                "one expression reads columns of both parties; only `a.key = b.key` may, which matches after "
                "declared normalisers. Write an expression over each party's columns by itself; what is "
                "grouped by can be put together in SELECT and compared in HAVING",
            )
        columns = frozenset[ColumnRef]().union(*(b.columns for b in bounds))
        null = any(b.nullable for b in bounds) if nullable is None else nullable
        null = null or any(isinstance(p, Constant) and p.value is None for p in parts)
        return Bound(sql, kind, sides, columns, null)

    def align(self, operands: Sequence[Operand]) -> tuple[list[str], Type]:
        """The operands' SQL in the one type that holds them all exactly."""
        types = [_natural(op) for op in operands]
        if all(t is None or _short(t) for t in types) and not any(isinstance(op, Bound) for op in operands):
            return [self._as(op, INT64) for op in operands], INT64
        known = [op.type for op in operands if isinstance(op, Bound)]
        if any(t.temporal for t in known):
            operands = [self._temporal(op) for op in operands]
            types = [_natural(op) for op in operands]
        present = [t for t in types if t is not None]
        common = reduce(self._common, present) if present else INT64
        return [self._as(op, common) for op in operands], common

    def compared(self, operands: Sequence[Operand]) -> list[str]:
        """The operands' SQL in one type. Sums and products are compared at full size, so none is lost."""
        parts, common = self.align(operands)
        exact = [operand.exact if isinstance(operand, Bound) else "" for operand in operands]
        if not any(exact):
            return parts
        wide, cast = common.duckdb, "CAST" if self._released else "TRY_CAST"
        if common == INT64 or common.kind == "decimal":
            wide = f"DECIMAL(38,{common.scale})" if common.scale else "HUGEINT"
        return [f"{cast}({x or part} AS {wide})" for x, part in zip(exact, parts, strict=True)]

    def _temporal(self, operand: Operand) -> Operand:
        """Text next to a date is read as a date."""
        if isinstance(operand, Constant) and isinstance(operand.value, str):
            return Constant(self.moment(operand.value))
        return operand

    def moment(self, text: str) -> date | datetime:
        """A date or timestamp in ISO form."""
        try:
            if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII):
                return date.fromisoformat(text)
            if re.fullmatch(r"\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?", text, re.ASCII):
                return datetime.fromisoformat(text)
        except ValueError:
            pass
        raise self.refuse("literal", "a date is written 'YYYY-MM-DD', a timestamp 'YYYY-MM-DD HH:MM:SS'")

    def _common(self, a: Type, b: Type) -> Type:
        if a == b:
            return a
        if a.numeric and b.numeric:
            return self._common_number(a, b)
        if a.temporal and b.temporal:
            return TIMESTAMP
        raise self.refuse("type", f"{_word(a)} and {_word(b)} are compared or mixed; use the same type")

    def _common_number(self, a: Type, b: Type) -> Type:
        if FLOAT64 in (a, b):
            return FLOAT64
        # A whole number of at most 18 digits beside an integer column stays an integer.
        if all(t == INT64 or _short(t) for t in (a, b)):
            return INT64
        (ia, sa), (ib, sb) = _digits(a), _digits(b)
        whole, scale = max(ia, ib), max(sa, sb)
        if whole + scale > 38 and self._released:
            return Type("decimal", 38, scale)  # a sum is smaller than its type; what does not fit is an error
        if whole + scale > 38:
            raise self.refuse(
                "type",
                "numbers are compared or mixed that need more than 38 digits together; write literals with "
                "fewer digits, or compare columns of like scale",
            )
        return Type("decimal", whole + scale, scale)

    def _as(self, operand: Operand, kind: Type) -> str:
        if isinstance(operand, Constant):
            return self.literal(operand, kind)
        if operand.type == kind:
            return operand.sql
        # Every other conversion widens; a date beyond the range of timestamps does not fit: NULL.
        word = "TRY_CAST" if operand.type == DATE else "CAST"
        return f"{word}({operand.sql} AS {kind.duckdb})"

    def literal(self, constant: Constant, kind: Type) -> str:
        """A literal written in the given type."""
        v = constant.value
        if v is None:
            return f"CAST(NULL AS {kind.duckdb})"
        if isinstance(v, bool) and kind == BOOL:
            return "TRUE" if v else "FALSE"
        if isinstance(v, str) and kind == STRING:
            return "'" + v.replace("'", "''") + "'"
        if kind.temporal and isinstance(v, date):
            return f"CAST('{v}' AS {kind.duckdb})"
        if isinstance(v, int | Decimal) and not isinstance(v, bool) and kind.numeric:
            return _number(v, kind)
        raise self.refuse("type", f"a literal does not have the type it meets, {_word(kind)}")

    def number(self, node: exp.Expr) -> Operand:
        """An operand that is a number."""
        operand = self.operand(node)
        kind = _natural(operand)
        if kind is not None and kind.temporal:
            raise self.refuse(
                "type",
                "a number is needed here. Dates of rows are compared with a date literal, plus or minus an "
                "INTERVAL, or grouped by date_trunc",
            )
        if kind is None or not kind.numeric:
            raise self.refuse("type", "a number is needed here")
        return operand

    def text(self, node: exp.Expr) -> Bound:
        """A bound expression that is text."""
        bound = self.bound(node)
        if bound.type != STRING:
            raise self.refuse("type", "text is needed here")
        return bound

    def whole(self, node: exp.Expr | None, low: int, high: int) -> int:
        """A literal whole number in a range."""
        operand = self.operand(node) if node is not None else None
        value = operand.value if isinstance(operand, Constant) else None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.refuse("literal", f"a whole number between {low} and {high} is needed here")
        return value

    def compare(self, operands: Sequence[Operand], how: str) -> None:
        """Note a comparison between operands; one that no row can change is noted as such."""
        bounds = [op for op in operands if isinstance(op, Bound)]
        distinct = {op.sql if isinstance(op, Bound) else "" for op in operands}
        if len(distinct) < 2 or not any(b.columns for b in bounds):
            self._notes.literals_on_total |= how != "null" and not self._released
        columns = frozenset[ColumnRef]().union(*(b.columns for b in bounds))
        literal = any(isinstance(op, Constant) or not op.columns for op in operands)
        self._notes.compared(columns, how, literal=literal, column=len(bounds) > 1)


def _huge(operand: Operand, sql: str) -> str:
    """A whole number as a HUGEINT."""
    exact = operand.exact if isinstance(operand, Bound) else ""
    return exact or f"CAST({sql} AS HUGEINT)"


def _short(kind: Type) -> bool:
    """A whole number of at most 18 digits."""
    return kind.kind == "decimal" and kind.scale == 0 and kind.precision <= 18


def _word(kind: Type) -> str:
    if kind.numeric:
        return "a number"
    return {"string": "text", "bool": "a truth value"}.get(kind.kind, f"a {kind.kind}")


def _digits(kind: Type) -> tuple[int, int]:
    """Digits before and after the point."""
    return (19, 0) if kind == INT64 else (kind.precision - kind.scale, kind.scale)


def _natural(operand: Operand) -> Type | None:
    """The type of an operand; None for NULL."""
    if isinstance(operand, Bound):
        return operand.type
    v = operand.value
    if isinstance(v, bool):
        return BOOL
    if isinstance(v, int | Decimal):
        return _decimal_type(v)
    if isinstance(v, datetime):
        return TIMESTAMP
    if isinstance(v, date):
        return DATE
    return STRING if isinstance(v, str) else None


def _decimal_type(value: int | Decimal) -> Type:
    """The narrowest decimal that holds a number exactly."""
    _, digits, exponent = Decimal(value).as_tuple()
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    return Type("decimal", max(len(digits) + exponent, 0) + scale or 1, scale)


def _number(value: int | Decimal, kind: Type) -> str:
    if kind == FLOAT64:
        return f"CAST({float(value)!r} AS DOUBLE)"
    text = format(Decimal(value), "f")
    return text if kind == INT64 else f"CAST({text} AS {kind.duckdb})"


def _typed(constant: Constant, scalar: Scalar) -> Bound:
    """A constant by itself, in its natural type."""
    natural = _natural(constant)
    if natural is None:
        raise scalar.refuse("literal", "NULL has no type by itself; write a value, or leave it out")
    kind = INT64 if _short(natural) else natural
    return Bound(scalar.literal(constant, kind), kind, frozenset(), frozenset(), nullable=False)


# --- literals


def _literal(scalar: Scalar, node: exp.Expr) -> Operand:
    if node.is_string:
        return Constant(node.this)
    return Constant(_parse_number(scalar, node.this))


def _parse_number(scalar: Scalar, text: str) -> int | Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise scalar.refuse("literal", "a number cannot be read") from None
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or len(digits) + abs(exponent) > 76:
        raise scalar.refuse("literal", "a number has too many digits")
    plain = Decimal(format(value, "f"))  # 1e3 -> 1000
    if _decimal_type(plain).precision > 38:
        raise scalar.refuse("literal", "a number has more than 38 digits")
    return int(plain) if plain.as_tuple().exponent == 0 else plain


def _cast(scalar: Scalar, node: exp.Expr) -> Operand:
    """DATE '…', TIMESTAMP '…', DECIMAL '…' and the like: typed literals. Columns are not cast."""
    inner = scalar.operand(node.this)
    if not isinstance(inner, Constant):
        return _cast_released(scalar, node, inner)
    target = node.args["to"].this
    text = inner.value
    if target in _TEMPORAL_NAMES and isinstance(text, str):
        moment = scalar.moment(text)
        if target == exp.DType.DATE and isinstance(moment, datetime):
            raise scalar.refuse("literal", "a date is written 'YYYY-MM-DD'")
        return Constant(moment)
    if target in _NUMBER_NAMES and isinstance(text, str | int | Decimal) and not isinstance(text, bool):
        number = Constant(_parse_number(scalar, str(text).strip()))
        return scalar.floating(number) if target in _FLOAT_NAMES else number
    raise scalar.refuse(
        "cast",
        "literals are cast to DATE, TIMESTAMP, BIGINT or DECIMAL; timestamps have no zone, as in the dataset",
    )


def _cast_released(scalar: Scalar, node: exp.Expr, inner: Bound) -> Bound:
    """A released figure may be shown as DOUBLE; a column is never cast, since a cast can fail on a row."""
    if inner.sides == {RELEASED} and inner.type.numeric:
        if node.args["to"].this in _FLOAT_NAMES:
            return replace(inner, sql=f"CAST({inner.sql} AS DOUBLE)", type=FLOAT64, exact="", most=None)
        raise scalar.refuse(
            "cast", "a figure is cast to DOUBLE only; write round(figure, digits) to shorten it"
        )
    raise scalar.refuse(
        "cast",
        "columns are used in their declared type, without a cast; SUM and AVG take truth values as they are",
    )


_TEMPORAL_NAMES = {exp.DType.DATE, exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ, exp.DType.DATETIME}
_FLOAT_NAMES = {exp.DType.DOUBLE, exp.DType.FLOAT}
_NUMBER_NAMES = {exp.DType.BIGINT, exp.DType.INT, exp.DType.INT128, exp.DType.DECIMAL, *_FLOAT_NAMES}


def _negative(scalar: Scalar, node: exp.Expr) -> Operand:
    operand = scalar.number(node.this)
    if isinstance(operand, Constant):
        assert isinstance(operand.value, int | Decimal)
        return Constant(-operand.value if isinstance(operand.value, int) else operand.value.copy_negate())
    whole = operand.type == INT64
    sql = scalar.guarded(f"(-{operand.sql})") if whole else f"(-{operand.sql})"
    exact = f"(-{_huge(operand, operand.sql)})" if whole else ""
    return scalar.applied("arithmetic", replace(operand, sql=sql, nullable=True, exact=exact))


# --- arithmetic


def _arithmetic(scalar: Scalar, node: exp.Expr) -> Operand:
    if isinstance(node.expression, exp.Interval):
        return _shift(scalar, node)
    a, b = scalar.number(node.this), scalar.number(node.expression)
    if isinstance(node, exp.Div | exp.IntDiv | exp.Mod):
        return scalar.applied("arithmetic", _divide(scalar, node, a, b))
    types = [_integer_if_short(_natural(x)) for x in (a, b)]
    kind = _result_type(scalar, node, types)
    sign = _SIGNS[type(node)]
    left, right = (
        scalar.literal(x, t) if isinstance(x, Constant) else x.sql for x, t in zip((a, b), types, strict=True)
    )
    if isinstance(node, exp.Mul):
        scalar.multiplied(a, b)
    if kind == FLOAT64:
        result = scalar.combine(f"({left} {sign} {right})", kind, (a, b))
        scalar.overflowing(result)
        return scalar.applied("arithmetic", result)
    sql = scalar.guarded(f"CAST({left} {sign} {right} AS {kind.duckdb})")
    combined = scalar.combine(sql, kind, (a, b), nullable=True)
    if kind == INT64 or kind.precision == 38:
        scalar.overflowing(combined)
    exact = scalar.guarded(f"({_huge(a, left)} {sign} {_huge(b, right)})") if kind == INT64 else ""
    most = scalar.proved(kind, _result_size(node, kind, (a, b)))
    return scalar.applied("arithmetic", replace(combined, exact=exact, most=most))


_SIGNS: dict[type[exp.Expr], str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*"}


def _integer_if_short(kind: Type | None) -> Type:
    """Whole literals count as integers in arithmetic, as in DuckDB."""
    assert kind is not None
    return INT64 if _short(kind) else kind


def _result_type(scalar: Scalar, node: exp.Expr, types: Sequence[Type]) -> Type:
    a, b = types
    if FLOAT64 in (a, b):
        return FLOAT64
    if a == b == INT64:
        return INT64
    (ia, sa), (ib, sb) = _digits(a), _digits(b)
    if isinstance(node, exp.Mul):
        whole, scale = ia + ib, sa + sb
    else:
        whole, scale = max(ia, ib) + 1, max(sa, sb)
    if scale > 38:
        raise scalar.refuse(
            "type", "a product has more than 38 digits after the point; multiply fewer decimals"
        )
    return Type("decimal", min(38, whole + scale), scale)


def _result_size(node: exp.Expr, kind: Type, operands: Sequence[Operand]) -> int | None:
    """How large the result may be, in units of its last digit; None where nobody knows of an operand."""
    if isinstance(node, exp.Mul):
        scales = [t.scale for op in operands if (t := _natural(op)) is not None]
        sizes = [_size(op, scale) for op, scale in zip(operands, scales, strict=True)]
    else:
        sizes = [_size(op, kind.scale) for op in operands]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    return prod(known) if isinstance(node, exp.Mul) else sum(known)


def _size(operand: Operand, scale: int) -> int | None:
    """How large a number may be, in units of 10**-scale."""
    if isinstance(operand, Bound):
        return None if operand.most is None else operand.most * 10 ** (scale - operand.type.scale)
    number = isinstance(operand.value, int | Decimal) and not isinstance(operand.value, bool)
    return abs(int(Fraction(operand.value) * 10**scale)) if number else None  # type: ignore[arg-type]


def _largest(operands: Sequence[Operand], kind: Type) -> int | None:
    """How large one of these may be that are chosen between; NULL is no number."""
    sizes = [_size(op, kind.scale) for op in operands if _natural(op) is not None]
    known = [size for size in sizes if size is not None]
    return max(known, default=0) if len(known) == len(sizes) else None


def _divide(scalar: Scalar, node: exp.Expr, a: Operand, b: Operand) -> Bound:
    """Division gives a float, as in DuckDB; by zero it gives NULL. Over rows the divisor is a literal."""
    if isinstance(b, Bound) and b.sides != {RELEASED}:
        raise scalar.refuse(
            "division", "rows may be divided by a literal only; divide one aggregate by another"
        )
    if isinstance(b, Constant) and b.value == 0:
        raise scalar.refuse("division", "the divisor is zero")
    if isinstance(node, exp.Div):
        left, right = (scalar._as(x, FLOAT64) for x in (a, b))  # noqa: SLF001
        divisor = right if isinstance(b, Constant) else f"NULLIF({right}, CAST(0 AS DOUBLE))"
        nullable = _null(a) or isinstance(b, Bound)
        result = scalar.combine(f"({left} / {divisor})", FLOAT64, (a, b), nullable=nullable)
        if _natural(a) == FLOAT64:  # of whole numbers and decimals the first quotient always fits
            scalar.overflowing(result)
        return result
    (left, right), kind = scalar.align((a, b))
    if kind != INT64:
        raise scalar.refuse("division", "// and % take integers, not sums; write floor(a / b)")
    sign = "//" if isinstance(node, exp.IntDiv) else "%"
    divisor = right if isinstance(b, Constant) else f"NULLIF({right}, 0)"
    return scalar.combine(scalar.guarded(f"({left} {sign} {divisor})"), INT64, (a, b), nullable=True)


def _null(operand: Operand) -> bool:
    return operand.nullable if isinstance(operand, Bound) else operand.value is None


def _shift(scalar: Scalar, node: exp.Expr) -> Operand:
    """A date literal plus or minus an interval, computed here."""
    start = scalar.operand(node.this)
    if isinstance(start, Constant) and isinstance(start.value, str):
        start = Constant(scalar.moment(start.value))
    if not isinstance(start, Constant) or not isinstance(start.value, date):
        raise scalar.refuse(
            "interval", "an interval is added to a date literal; compare the column with the result"
        )
    interval = node.expression
    unit = interval.args["unit"].name.lower().rstrip("s") if interval.args.get("unit") else ""
    count = interval.this.name if isinstance(interval.this, exp.Literal) else ""
    if unit not in _UNITS or not re.fullmatch(r"-?\d{1,5}", count, re.ASCII):
        raise scalar.refuse(
            "interval", "an interval is a whole number of days, weeks, months, quarters or years"
        )
    sign = -1 if isinstance(node, exp.Sub) else 1
    try:
        return Constant(
            _moved(start.value, sign * int(count) * _UNITS[unit], months=unit not in ("day", "week"))
        )
    except (ValueError, OverflowError):
        raise scalar.refuse("interval", "the date is outside the years 1 to 9999") from None


_UNITS = {"day": 1, "week": 7, "month": 1, "quarter": 3, "year": 12}


def _moved(start: date, amount: int, *, months: bool) -> date:
    if not months:
        return start + timedelta(days=amount)
    year, month = divmod(start.year * 12 + start.month - 1 + amount, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return start.replace(year=year, month=month + 1, day=min(start.day, last))


# --- conditions


def _comparison(scalar: Scalar, node: exp.Expr) -> Bound:
    operator, how = _COMPARISONS[type(node)]
    operands = (scalar.operand(node.this), scalar.operand(node.expression))
    result = scalar.combine(_compared(scalar, operands, operator), BOOL, operands)
    scalar.compare(operands, how)
    return result


def _compared(scalar: Scalar, operands: Sequence[Operand], operator: str) -> str:
    left, right = scalar.compared(operands)
    return f"({left} {operator} {right})"


_COMPARISONS: dict[type[exp.Expr], tuple[str, str]] = {
    exp.EQ: ("=", "equality"),
    exp.NEQ: ("<>", "equality"),
    exp.NullSafeEQ: ("IS NOT DISTINCT FROM", "equality"),
    exp.NullSafeNEQ: ("IS DISTINCT FROM", "equality"),
    exp.GT: (">", "range"),
    exp.GTE: (">=", "range"),
    exp.LT: ("<", "range"),
    exp.LTE: ("<=", "range"),
}


def _between(scalar: Scalar, node: exp.Expr) -> Bound:
    operands = tuple(scalar.operand(node.args[part]) for part in ("this", "low", "high"))
    value, low, high = scalar.compared(operands)
    result = scalar.combine(f"({value} BETWEEN {low} AND {high})", BOOL, operands)
    scalar.compare(operands, "range")
    return result


def _membership(scalar: Scalar, node: exp.Expr) -> Bound:
    if not node.expressions:
        raise scalar.refuse("membership", "IN takes a list of literals")
    members = tuple(scalar.operand(item) for item in node.expressions)
    if any(isinstance(member, Bound) for member in members):
        raise scalar.refuse("membership", "IN takes a list of literals")
    operands = (scalar.operand(node.this), *members)
    value, *listed = scalar.compared(operands)
    result = scalar.combine(f"({value} IN ({', '.join(listed)}))", BOOL, operands)
    scalar.compare(operands, "membership")
    return result


def _is(scalar: Scalar, node: exp.Expr) -> Bound:
    operand = scalar.bound(node.this)
    if isinstance(node.expression, exp.Null):
        scalar.compare((operand,), "null")
        return scalar.combine(f"({operand.sql} IS NULL)", BOOL, (operand,), nullable=False)
    if not isinstance(node.expression, exp.Boolean) or operand.type != BOOL:
        raise scalar.refuse("type", "IS is followed by NULL, or by TRUE or FALSE after a condition")
    scalar.compare((operand, Constant(True)), "equality")
    word = "TRUE" if node.expression.this else "FALSE"
    return scalar.combine(f"({operand.sql} IS {word})", BOOL, (operand,), nullable=False)


def _like(scalar: Scalar, node: exp.Expr) -> Bound:
    value, pattern = scalar.text(node.this), scalar.operand(node.expression)
    if not isinstance(pattern, Constant) or not isinstance(pattern.value, str):
        raise scalar.refuse("pattern", "LIKE takes a literal pattern")
    word = ("NOT " if node.args.get("negate") else "") + ("ILIKE" if isinstance(node, exp.ILike) else "LIKE")
    scalar.compare((value, pattern), "pattern")
    return scalar.combine(f"({value.sql} {word} {scalar.literal(pattern, STRING)})", BOOL, (value,))


def _logical(scalar: Scalar, node: exp.Expr) -> Bound:
    a, b = scalar.predicate(node.this), scalar.predicate(node.expression)
    return scalar.combine(f"({a.sql} {'AND' if isinstance(node, exp.And) else 'OR'} {b.sql})", BOOL, (a, b))


def _not(scalar: Scalar, node: exp.Expr) -> Bound:
    inner = scalar.predicate(node.this)
    return replace(inner, sql=f"(NOT {inner.sql})")


def branched(node: exp.Expr) -> tuple[list[tuple[exp.Expr, exp.Expr]], exp.Expr | None]:
    """What CASE or IF chooses between: conditions with their values, and what is left; None: NULL."""
    if isinstance(node, exp.If):
        return [(node.this, node.args["true"])], node.args.get("false")
    subject = node.this
    return [
        (
            branch.this if subject is None else exp.EQ(this=subject, expression=branch.this),
            branch.args["true"],
        )
        for branch in node.args["ifs"]
    ], node.args.get("default")


def _case(scalar: Scalar, node: exp.Expr) -> Bound:
    """CASE and IF. A missing ELSE is NULL."""
    branches, otherwise = branched(node)
    conditions = [scalar.predicate(condition) for condition, _ in branches]
    results = [scalar.operand(value) for _, value in branches]
    results.append(scalar.operand(otherwise) if otherwise is not None else Constant(None))
    (*values, other), kind = scalar.align(results)
    whens = " ".join(f"WHEN {c.sql} THEN {v}" for c, v in zip(conditions, values, strict=True))
    null = any(_null(result) for result in results)
    bound = scalar.combine(f"CASE {whens} ELSE {other} END", kind, (*conditions, *results), nullable=null)
    return scalar.applied("case", replace(bound, most=_largest(results, kind)))


# --- functions


def _choice(name: str) -> Callable[[Scalar, exp.Expr], Bound]:
    """COALESCE, GREATEST, LEAST: several operands of one type; DuckDB's skip NULLs, all three."""

    def bind(scalar: Scalar, node: exp.Expr) -> Bound:
        operands = [scalar.operand(item) for item in (node.this, *node.expressions)]
        parts, kind = scalar.align(operands)
        null = all(_null(op) for op in operands)
        scalar.defaulted(operands)
        bound = scalar.combine(f"{name}({', '.join(parts)})", kind, operands, nullable=null)
        return scalar.applied(name, replace(bound, most=_largest(operands, kind)))

    return bind


def _nullif(scalar: Scalar, node: exp.Expr) -> Bound:
    operands = (scalar.operand(node.this), scalar.operand(node.expression))
    parts, kind = scalar.align(operands)
    scalar.compare(operands, "equality")
    bound = scalar.combine(f"nullif({', '.join(parts)})", kind, operands, nullable=True)
    return scalar.applied("nullif", replace(bound, most=_largest(operands[:1], kind)))


def _rounding(name: str) -> Callable[[Scalar, exp.Expr], Bound]:
    def bind(scalar: Scalar, node: exp.Expr) -> Bound:
        operand = scalar.number(node.this)
        bound = operand if isinstance(operand, Bound) else _typed(operand, scalar)
        places = scalar.whole(node.args["decimals"], 0, 18) if node.args.get("decimals") is not None else 0
        if bound.type.kind == "decimal":
            kept = min(places, bound.type.scale)
            # One more digit before the point: rounding 99.9 up needs it.
            whole = min(38 - kept, bound.type.precision - bound.type.scale + 1)
            kind = Type("decimal", whole + kept, kept)
            sql = scalar.guarded(f"CAST({name}({bound.sql}{f', {kept}' if kept else ''}) AS {kind.duckdb})")
        else:
            kind = bound.type
            sql = bound.sql if kind == INT64 else f"{name}({bound.sql}{f', {places}' if places else ''})"
        most = None if bound.most is None else -(-bound.most // 10 ** (bound.type.scale - kind.scale))
        return scalar.applied(name, replace(bound, sql=sql, type=kind, most=most))

    return bind


def _abs(scalar: Scalar, node: exp.Expr) -> Bound:
    bound = scalar.bound(node.this)
    if not bound.type.numeric:
        raise scalar.refuse("type", "a number is needed here")
    return scalar.applied(
        "abs", replace(bound, sql=scalar.guarded(f"abs({bound.sql})"), nullable=True, exact="")
    )


def _text_function(name: str) -> Callable[[Scalar, exp.Expr], Bound]:
    def bind(scalar: Scalar, node: exp.Expr) -> Bound:
        bound = scalar.text(node.this)
        kind = INT64 if name == "length" else STRING
        return scalar.applied(name, replace(bound, sql=f"{name}({bound.sql})", type=kind))

    return bind


def _trim(scalar: Scalar, node: exp.Expr) -> Bound:
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or "").upper(), "trim")
    bound = scalar.text(node.this)
    return scalar.applied("trim", replace(bound, sql=f"{name}({bound.sql})"))


def _substring(scalar: Scalar, node: exp.Expr) -> Bound:
    bound = scalar.text(node.this)
    start = scalar.whole(node.args.get("start"), -1_000_000, 1_000_000)
    length = f", {scalar.whole(node.args['length'], 0, 1_000_000)}" if node.args.get("length") else ""
    return scalar.applied("substr", replace(bound, sql=f"substr({bound.sql}, {start}{length})"))


def _end(name: str) -> Callable[[Scalar, exp.Expr], Bound]:
    def bind(scalar: Scalar, node: exp.Expr) -> Bound:
        bound = scalar.text(node.this)
        count = scalar.whole(node.expression, 0, 1_000_000)
        return scalar.applied("substr", replace(bound, sql=f"{name}({bound.sql}, {count})"))

    return bind


_TRUNCATED = ("year", "quarter", "month", "week", "day", "hour")
_PARTS = ("year", "quarter", "month", "week", "day", "dayofweek", "isodow", "hour")


def _date_trunc(scalar: Scalar, node: exp.Expr) -> Bound:
    bound, unit = _dated(scalar, node.this), node.args["unit"].name.lower()
    if unit not in _TRUNCATED:
        raise scalar.refuse("function", f"date_trunc takes one of {', '.join(_TRUNCATED)}")
    sql = f"TRY(date_trunc('{unit}', {bound.sql}))"
    return scalar.applied("date_trunc", replace(bound, sql=f"TRY_CAST({sql} AS TIMESTAMP)", type=TIMESTAMP))


def _date_part(scalar: Scalar, unit: str, node: exp.Expr) -> Bound:
    bound = _dated(scalar, node)
    unit = {"dow": "dayofweek", "dayofmonth": "day"}.get(unit.lower(), unit.lower())
    if unit not in _PARTS:
        raise scalar.refuse("function", f"extract takes one of {', '.join(_PARTS)}")
    return scalar.applied("extract", replace(bound, sql=f"date_part('{unit}', {bound.sql})", type=INT64))


def _extract(scalar: Scalar, node: exp.Expr) -> Bound:
    return _date_part(scalar, node.this.name, node.expression)


def _named_part(unit: str) -> Callable[[Scalar, exp.Expr], Bound]:
    return lambda scalar, node: _date_part(scalar, unit, node.this)


def _anonymous(scalar: Scalar, node: exp.Expr) -> Bound:
    """date_part(unit, column), which sqlglot leaves unparsed. `compute/sql.py` let no other name pass."""
    if len(node.expressions) != 2 or not isinstance(node.expressions[0], exp.Literal):
        raise scalar.refuse("function", "write extract(unit FROM column)")
    return _date_part(scalar, node.expressions[0].name, node.expressions[1])


def _dated(scalar: Scalar, node: exp.Expr) -> Bound:
    bound = scalar.bound(node)
    if not bound.type.temporal:
        raise scalar.refuse("type", "a date or timestamp is needed here")
    return bound


_NOTED = (*_COMPARISONS, exp.Between, exp.In, exp.Is, exp.Like, exp.ILike, exp.And, exp.Or, exp.Not)
"""Conditions that note by themselves what they compare."""

_HANDLERS: dict[type[exp.Expr], Callable[[Scalar, exp.Expr], Operand]] = {
    exp.Literal: _literal,
    exp.Boolean: lambda _, node: Constant(bool(node.this)),
    exp.Null: lambda _, __: Constant(None),
    exp.Cast: _cast,
    exp.Neg: _negative,
    exp.Paren: lambda scalar, node: scalar.operand(node.this),
    **dict.fromkeys((exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod), _arithmetic),
    **dict.fromkeys(_COMPARISONS, _comparison),
    exp.Between: _between,
    exp.In: _membership,
    exp.Is: _is,
    exp.Like: _like,
    exp.ILike: _like,
    exp.And: _logical,
    exp.Or: _logical,
    exp.Not: _not,
    exp.Case: _case,
    exp.If: _case,
    exp.Coalesce: _choice("coalesce"),
    exp.Greatest: _choice("greatest"),
    exp.Least: _choice("least"),
    exp.Nullif: _nullif,
    exp.Floor: _rounding("floor"),
    exp.Ceil: _rounding("ceil"),
    exp.Round: _rounding("round"),
    exp.Abs: _abs,
    exp.Lower: _text_function("lower"),
    exp.Upper: _text_function("upper"),
    exp.Length: _text_function("length"),
    exp.Trim: _trim,
    exp.Substring: _substring,
    exp.Left: _end("left"),
    exp.Right: _end("right"),
    exp.DateTrunc: _date_trunc,
    exp.TimestampTrunc: _date_trunc,
    exp.Extract: _extract,
    exp.Anonymous: _anonymous,
    exp.Year: _named_part("year"),
    exp.Quarter: _named_part("quarter"),
    exp.Month: _named_part("month"),
    exp.Week: _named_part("week"),
    exp.Day: _named_part("day"),
    exp.DayOfMonth: _named_part("day"),
    exp.DayOfWeek: _named_part("dayofweek"),
    exp.DayOfWeekIso: _named_part("isodow"),
    exp.Hour: _named_part("hour"),
}
