"""Fixed buckets: histograms that are grouped by, and quantiles read off one.

`width_bucket(x, low, high, n)` and `width_bucket(x, [edges])` number the bucket of a value as in SQL: how
many edges it has reached. Each bucket is a group, so the owner's gate judges it like any other cell; a
policy permits it as the measure `histogram` of the column. `approx_quantile(x, q)` groups by 64 equal
buckets over the declared bounds and is off by one bucket's width at most, values beyond the bounds aside.
Refused: edges that are not ascending literals.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import ceil

from sqlglot import exp

from compute.dataset import Column, DatasetInfo
from compute.errors import QueryError
from compute.expressions import Bound, Constant, Scalar
from compute.plan import Histogram
from compute.types import FLOAT64, INT64, Type, parse_type

MOST_EDGES = 256
QUANTILE_BUCKETS = 64

Edge = Decimal | date


def bucket(scalar: Scalar, node: exp.WidthBucket) -> Bound:
    """The number of a value's bucket: 0 below the first edge, NULL for NULL."""
    value = scalar.bound(node.this)
    return _numbered(scalar, value, edges(scalar, node, value.type))


def numbers(scalar: Scalar, node: exp.WidthBucket) -> tuple[int, ...]:
    """The numbers that `bucket` may give."""
    return tuple(range(len(edges(scalar, node, scalar.bound(node.this).type)) + 1))


def edges(scalar: Scalar, node: exp.WidthBucket, kind: Type) -> list[Edge]:
    """The ascending edges of the buckets of a value of this type."""
    if not (kind.numeric or kind.temporal):
        raise scalar.refuse("histogram", "width_bucket takes a number, a date or a timestamp")
    equal = node.args.get("max_value") is not None
    return _equal(scalar, node, kind) if equal else _listed(scalar, node)


def _numbered(scalar: Scalar, value: Bound, steps: Sequence[Edge]) -> Bound:
    whens = []
    for number, edge in enumerate(steps):
        (left, right), _ = scalar.align((value, Constant(edge)))
        whens.append(f"WHEN {left} < {right} THEN {number}")
    sql = f"CASE WHEN {value.sql} IS NULL THEN NULL {' '.join(whens)} ELSE {len(steps)} END"
    return scalar.combine(f"CAST({sql} AS BIGINT)", INT64, (value,))


def _listed(scalar: Scalar, node: exp.WidthBucket) -> list[Edge]:
    array = node.args["min_value"]
    items = array.expressions if isinstance(array, exp.Array) else []
    found = [_edge(scalar, item) for item in items]
    if not 1 <= len(found) <= MOST_EDGES or len({type(e) for e in found}) != 1:
        raise scalar.refuse("histogram", f"width_bucket takes [edges], 1 to {MOST_EDGES} of one type")
    if any(not a < b for a, b in pairwise(found)):  # type: ignore[operator]
        raise scalar.refuse("histogram", "the edges of width_bucket are ascending")
    return found


def _edge(scalar: Scalar, node: exp.Expr) -> Edge:
    operand = scalar.operand(node)
    value = operand.value if isinstance(operand, Constant) else None
    if isinstance(value, str):
        value = scalar.moment(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = Decimal(value)
    if not isinstance(value, Decimal | date):
        raise scalar.refuse("histogram", "the edges of width_bucket are literals: numbers or dates")
    return value


def _equal(scalar: Scalar, node: exp.WidthBucket, kind: Type) -> list[Edge]:
    low, high = (_edge(scalar, node.args[name]) for name in ("min_value", "max_value"))
    count = scalar.whole(node.args.get("num_buckets"), 1, MOST_EDGES - 1)
    if not isinstance(low, Decimal) or not isinstance(high, Decimal) or not low < high or not kind.numeric:
        raise scalar.refuse(
            "histogram",
            "width_bucket(x, low, high, n) takes numbers, low below high; dates take [edges]",
        )
    return equal_edges(low, high, count, kind)


def equal_edges(low: Decimal, high: Decimal, count: int, kind: Type) -> list[Edge]:
    """The count + 1 edges of equal buckets, each rounded up to what a value of that type can reach."""
    start, width = Fraction(low), (Fraction(high) - Fraction(low)) / count
    found = [start + i * width for i in range(count + 1)]
    if kind == FLOAT64:
        return [Decimal(repr(float(edge))) for edge in found]
    digits = kind.scale if kind.kind == "decimal" else 0
    return [Decimal(ceil(edge * 10**digits)).scaleb(-digits) for edge in found]


# --- quantiles


def quantile_buckets(
    scalar: Scalar, column: Bound, info: DatasetInfo, declared: Column
) -> tuple[Bound, Histogram]:
    """The buckets that quantiles of a column are read off; its bounds must be declared."""
    if not parse_type(declared.type).numeric:
        raise scalar.refuse("type", "approx_quantile takes a column of numbers")
    if declared.bounds is None:
        raise QueryError(
            "query.bounds-missing",
            f"{info.full_name} declares no bounds for {declared.name}, which a quantile's buckets span; ask "
            f"{info.participant} to declare them, or group by width_bucket(x, [edges])",
        )
    low, high = (Decimal(bound) for bound in declared.bounds)
    if low == high:
        raise scalar.refuse("histogram", "the declared bounds leave one value only; use AVG")
    inner = equal_edges(low, high, QUANTILE_BUCKETS, column.type)[1:-1]
    found = _numbered(scalar, column, inner)
    return found, Histogram("", format(low, "f"), format(high, "f"), QUANTILE_BUCKETS)


def quantile(histogram: Histogram, counts: dict[int, int], q: Fraction) -> float | None:
    """The value of rank ceil(q n), as if the values of a bucket lay evenly in it. None: there is none."""
    counts = {number: count for number, count in counts.items() if count > 0}  # with noise, some are below
    n = sum(counts.values())
    if not n:
        return None
    low = Fraction(histogram.low)
    width = (Fraction(histogram.high) - low) / histogram.buckets
    rank, below = max(1, ceil(q * n)), 0
    for number in sorted(counts):
        if below + counts[number] >= rank:
            return float(low + width * (number + Fraction(rank - below, counts[number])))
        below += counts[number]
    return None
