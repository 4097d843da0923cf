"""From released cells to the answer: exact figures, then HAVING, ORDER BY and LIMIT, at the asker.

Every figure is computed from whole numbers of any size and rounded once, so a joint answer equals the
same SQL over the pooled rows. Only what was released comes in; nothing here sees a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa

from compute.accuracy import variance, variances
from compute.engine import Limits, locked, select
from compute.errors import DataError, QueryError
from compute.extremes import HIGHEST, LOWEST, extreme
from compute.histograms import quantile
from compute.inputs import Cells
from compute.plan import Figure, Histogram, Plan, Total
from compute.regression import LINEAR, Fit, fitted
from compute.regression import figure as regression
from compute.types import Type, parse_type

_EXACT = Context(prec=80)

Exact = Fraction | int
Function = Callable[..., Exact | float | str | None]


def finish(plan: Plan, cells: Cells, limits: Limits | None = None) -> pa.Table:
    """The answer's table. Its rows are in ORDER BY's order, then in that of the dimensions."""
    table = cells.table
    dimensions = [
        d.name for side in (plan.receiver, plan.sender) if side is not None for d in side.dimensions
    ]
    if plan.histogram is not None:
        dimensions.remove(plan.histogram.dimension)
        columns = _quantiles(plan, plan.histogram, cells, dimensions)
    else:
        columns = {name: table[name] for name in (*dimensions, "identities")}
        columns |= _figures(plan, table)
    outputs = [
        f"CAST({output.sql} AS {parse_type(output.type).duckdb}) AS x{i}"
        for i, output in enumerate(plan.outputs)
    ]
    having = [plan.having] if plan.having is not None else []
    order = ", ".join([*plan.order_by, *(f"{name} ASC NULLS LAST" for name in dimensions)])
    ordered = f"ORDER BY {order}" if order else ""
    limit = f" LIMIT {plan.limit}" if plan.limit is not None else ""
    source = "(SELECT DISTINCT * FROM cells)" if plan.unrepeated else "cells"
    query = select(outputs, source, having, ordered + limit)
    schema = answer_schema(plan)
    answer = _computed(query, pa.table(columns), limits or Limits(threads=1))
    return answer.rename_columns(schema.names).cast(schema)


def _computed(query: str, cells: pa.Table, limits: Limits) -> pa.Table:
    """Arithmetic over figures. The planner proved that sums and counts fit; of single values nobody can."""
    try:
        with locked({"cells": cells}, limits) as connection:
            return connection.sql(query).to_arrow_table()
    except DataError as error:
        if error.code != "data.range":
            raise
        raise QueryError(
            "query.overflow",
            "arithmetic over the answer's values leaves 64 bits, or 38 digits; write CAST(… AS DOUBLE) "
            "around one of them",
        ) from None


def _quantiles(
    plan: Plan, histogram: Histogram, cells: Cells, dimensions: list[str]
) -> dict[str, pa.ChunkedArray | pa.Array]:
    """The groups that are shown, and quantiles of each over its buckets that were released."""
    found: dict[tuple[Any, ...], dict[int, int]] = {}
    if not dimensions and not cells.suppressed:
        found[()] = {}
    table = cells.table
    rows = _totals(plan.figures[0].totals[0], table)
    shown = (
        zip(*(table[name].to_pylist() for name in dimensions), strict=True)
        if dimensions
        else [()] * len(rows)
    )
    for key, number, count in zip(shown, table[histogram.dimension].to_pylist(), rows, strict=True):
        counts = found.setdefault(key, {})
        if number is not None:
            counts[number] = int(count)
    columns = {
        name: pa.array([key[i] for key in found], table.schema.field(name).type)
        for i, name in enumerate(dimensions)
    }
    columns["identities"] = pa.array([0] * len(found), pa.int64())
    for figure in plan.figures:
        q = Fraction(figure.function.removeprefix("quantile:"))
        columns[figure.name] = pa.array([quantile(histogram, c, q) for c in found.values()], pa.float64())
    return columns


def answer_schema(plan: Plan) -> pa.Schema:
    """The columns of the answer."""
    return pa.schema([(output.name, parse_type(output.type).arrow) for output in plan.outputs])


PLAIN = frozenset({"count", "sum", "regr_count"})
_MOST_BITS = 1024  # of a shift; limbs of a sum need far fewer


def plain(plan: Mapping[str, Any], cells: pa.Table) -> dict[int, list[Any]]:
    """The columns of the answer, by place, that are a sum or count over `cells` and nothing else.

    plan: its canonical form, as a record's opened `plan` has it. Raises KeyError, TypeError, ValueError.
    """
    figures, known, found = {f["name"]: f for f in plan["figures"]}, set(cells.column_names), {}
    for place, output in enumerate(plan["outputs"]):
        figure = figures.get(output["sql"])
        if figure is None or figure["function"] not in PLAIN or figure["type"] != output["type"]:
            continue
        totals, kind = [_stated(total) for total in figure["totals"]], parse_type(figure["type"])
        if all(known.issuperset(total.partials) for total in totals):
            function = FUNCTIONS[figure["function"]]
            found[place] = [_typed(function(*sums), kind) for sums in _rows(totals, cells)]
    return found


def _stated(total: Mapping[str, Any]) -> Total:
    base, shifts, scale = total["base_bits"], tuple(total["shifts"]), total["scale"]
    if not all(bits in range(_MOST_BITS) for bits in (base, *shifts)) or scale not in range(39):
        raise ValueError("no total of a plan")
    return Total(tuple(total["partials"]), base, scale, shifts, tuple(total["signs"]))


def _figures(plan: Plan, table: pa.Table) -> dict[str, pa.Array]:
    """Every figure for every cell; those of one line read the same fits, so a cell is solved once."""
    lines, noise = {f.totals for f in plan.figures if f.function.startswith(LINEAR)}, variances(plan)
    fits = {totals: _fits(totals, table, noise) for totals in lines}
    return {figure.name: _column(figure, table, fits) for figure in plan.figures}


def _fits(totals: Sequence[Total], table: pa.Table, noise: Mapping[str, Fraction]) -> list[Fit]:
    """A line for every cell."""
    of = [variance(total, noise) for total in totals] if noise else []
    return [fitted(sums, of) for sums in _rows(totals, table)]


def _column(figure: Figure, table: pa.Table, fits: Mapping[tuple[Total, ...], Sequence[Fit]]) -> pa.Array:
    kind = parse_type(figure.type)
    if figure.function == "value":
        return table[figure.totals[0].partials[0]].cast(kind.arrow)
    if figure.function.startswith(LINEAR):
        what = figure.function.removeprefix(LINEAR)
        values = [regression(what, fit) for fit in fits[figure.totals]]
    elif figure.function.startswith((HIGHEST, LOWEST)):
        values = [extreme(figure.function, *sums) for sums in _rows(figure.totals, table)]
    else:
        values = [FUNCTIONS[figure.function](*sums) for sums in _rows(figure.totals, table)]
    return pa.array([_typed(value, kind) for value in values], kind.arrow)


def _rows(totals: Sequence[Total], table: pa.Table) -> Iterator[tuple[Exact, ...]]:
    """What a function takes, cell by cell."""
    return zip(*(_totals(total, table) for total in totals), strict=True)


def _totals(total: Total, table: pa.Table) -> list[Exact]:
    """An exact number for every cell, from its limbs."""
    parts = [[int(v) for v in table[name].to_pylist()] for name in total.partials]
    shifts = total.shifts or [total.base_bits * i for i in range(len(parts))]
    signs = total.signs or [1] * len(parts)
    whole = [
        sum(sign * (v << shift) for v, shift, sign in zip(values, shifts, signs, strict=True))
        for values in zip(*parts, strict=True)
    ]
    return [Fraction(v, 10**total.scale) for v in whole] if total.scale else list(whole)


def _typed(value: Exact | float | str | None, kind: Type) -> Any:
    if value is None or isinstance(value, str):
        return value
    if kind.kind == "decimal":
        scaled = Fraction(value) * 10**kind.scale
        assert scaled.denominator == 1
        if abs(scaled) >= 10**38:
            raise DataError("data.range", "a sum has more than 38 digits; ask for sums over fewer rows")
        return _EXACT.scaleb(Decimal(scaled.numerator), -kind.scale)
    return float(value) if kind.kind == "float64" else int(value)


# --- aggregates from totals; n is how many rows had a value
#
# Totals with noise may be those of no rows: counts below one, squares that add up to less than nothing. What
# is computed from them stays within what SQL could answer, which changes nothing for exact totals.


def _count(n: Exact) -> Exact:
    return n


def _sum(n: Exact, s: Exact) -> Exact | None:
    return s if n else None


def _average(n: Exact, s: Exact) -> Exact | None:
    return Fraction(s) / n if n > 0 else None  # a count with noise may be negative


def _deviations(n: Exact, a: Exact, b: Exact, ab: Exact) -> Fraction:
    """Sum over the rows of (a - mean a)(b - mean b)."""
    return Fraction(ab) - Fraction(a) * b / n


def _variance(sample: int) -> Callable[..., Exact | None]:
    def function(n: Exact, s: Exact, q: Exact) -> Exact | None:
        return max(_deviations(n, s, s, q), Fraction(0)) / (n - sample) if n > sample else None

    return function


def _deviation(sample: int) -> Callable[..., float | None]:
    variance = _variance(sample)

    def function(n: Exact, s: Exact, q: Exact) -> float | None:
        squared = variance(n, s, q)
        return None if squared is None else math.sqrt(squared)

    return function


def _covariance(sample: int) -> Callable[..., Exact | None]:
    def function(n: Exact, y: Exact, x: Exact, yx: Exact) -> Exact | None:
        return _deviations(n, y, x, yx) / (n - sample) if n > sample else None

    return function


def _correlation(n: Exact, y: Exact, x: Exact, yy: Exact, xx: Exact, yx: Exact) -> float | None:
    if n <= 0:
        return None
    syy, sxx, syx = _deviations(n, y, y, yy), _deviations(n, x, x, xx), _deviations(n, y, x, yx)
    # DuckDB says NaN where a column does not vary.
    return math.copysign(math.sqrt(_share(syx, syy, sxx)), syx) if syy > 0 and sxx > 0 else math.nan


def _share(syx: Exact, syy: Exact, sxx: Exact) -> Fraction:
    """The share of one column's variation that the other explains."""
    return min(Fraction(syx * syx) / (syy * sxx), Fraction(1))


def _slope(n: Exact, y: Exact, x: Exact, xx: Exact, yx: Exact) -> Exact | float | None:
    if n <= 0:
        return None
    sxx = _deviations(n, x, x, xx)
    # NaN as in DuckDB, whose other regression functions are NULL where x does not vary.
    return _deviations(n, y, x, yx) / sxx if sxx > 0 else math.nan


def _intercept(n: Exact, y: Exact, x: Exact, xx: Exact, yx: Exact) -> Exact | None:
    sxx = _deviations(n, x, x, xx) if n > 0 else 0
    return Fraction(y - _deviations(n, y, x, yx) / sxx * x) / n if sxx > 0 else None


def _r2(n: Exact, y: Exact, x: Exact, yy: Exact, xx: Exact, yx: Exact) -> Exact | None:
    sxx = _deviations(n, x, x, xx) if n > 0 else 0
    if sxx <= 0:
        return None
    syy, syx = _deviations(n, y, y, yy), _deviations(n, y, x, yx)
    return _share(syx, syy, sxx) if syy > 0 else 1


def _squares(n: Exact, a: Exact, aa: Exact) -> Exact | None:
    return max(_deviations(n, a, a, aa), Fraction(0)) if n > 0 else None


def _crossed(n: Exact, y: Exact, x: Exact, yx: Exact) -> Exact | None:
    return _deviations(n, y, x, yx) if n > 0 else None


FUNCTIONS: dict[str, Function] = {
    "count": _count,
    "sum": _sum,
    "avg": _average,
    "var_pop": _variance(0),
    "var_samp": _variance(1),
    "stddev_pop": _deviation(0),
    "stddev_samp": _deviation(1),
    "covar_pop": _covariance(0),
    "covar_samp": _covariance(1),
    "corr": _correlation,
    "regr_slope": _slope,
    "regr_intercept": _intercept,
    "regr_r2": _r2,
    "regr_count": _count,
    "regr_avgy": _average,
    "regr_avgx": _average,
    "regr_syy": _squares,
    "regr_sxx": _squares,
    "regr_sxy": _crossed,
}
"""What a `Figure` may be, besides "value", a partial as it is, "quantile:q" over a plan's histogram,
"linear:…" (compute/regression.py), and "highest:…" and "lowest:…" (compute/extremes.py)."""

TAKES: dict[str, tuple[str, ...]] = {
    "covar_pop": ("y", "x", "yx"),
    "covar_samp": ("y", "x", "yx"),
    "corr": ("y", "x", "yy", "xx", "yx"),
    "regr_slope": ("y", "x", "xx", "yx"),
    "regr_intercept": ("y", "x", "xx", "yx"),
    "regr_r2": ("y", "x", "yy", "xx", "yx"),
    "regr_count": (),
    "regr_avgy": ("y",),
    "regr_avgx": ("x",),
    "regr_syy": ("y", "yy"),
    "regr_sxx": ("x", "xx"),
    "regr_sxy": ("y", "x", "yx"),
}
"""The sums that a function of two columns takes after the number of pairs."""
