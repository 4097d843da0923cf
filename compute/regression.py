"""`linear_regression(y, [x1, …])`: least squares from exact sums, at the asker.

What leaves an owner are sums over its rows of 1, the columns and their products by two: X'X, X'y, y'y.
The rest is computed here in whole numbers, each figure rounded once, so the answer is that of the same rows
in one place. Where the sums determine no line, the column `fit` says why and the figures are NULL.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import TypeVar

Exact = Fraction | int
T = TypeVar("T", bound=Exact)

LINEAR = "linear:"
"""What a plan's figure of a regression begins with."""

MOST_REGRESSORS = 16
FITTED, TOO_FEW, COLLINEAR = "fitted", "too-few-rows", "collinear"
_LARGEST = Fraction(2) ** 1023


@dataclass(frozen=True, slots=True)
class Fit:
    """One cell's line. Coefficients and errors: of the intercept, then of each x."""

    verdict: str
    coefficients: tuple[Fraction, ...] = ()
    errors: tuple[float, ...] = ()  # standard errors; none without a row to spare
    r2: Fraction | None = None


def pairs(size: int) -> list[tuple[int, int]]:
    """Which products of so many columns are summed, in order; the first column is 1, and counts the rows."""
    return list(combinations_with_replacement(range(size), 2))


def symmetric(sums: Sequence[T]) -> list[list[T]]:
    """The matrix of the sums, which are in the order of `pairs`."""
    size = (math.isqrt(8 * len(sums) + 1) - 1) // 2
    at = dict(zip(pairs(size), sums, strict=True))
    return [[at[min(i, j), max(i, j)] for j in range(size)] for i in range(size)]


def figure(what: str, fit: Fit) -> str | Exact | float | None:
    """One of a line's columns: "fit", "r2", "coefficient:i" or "error:i", where 0 is the intercept."""
    name, _, place = what.partition(":")
    if name == "fit":
        return fit.verdict
    if name == "r2":
        return fit.r2
    found: Sequence[Exact | float] = fit.coefficients if name == "coefficient" else fit.errors
    return found[int(place)] if found else None


def fitted(sums: Sequence[Exact], noise: Sequence[Exact] = ()) -> Fit:
    """The line of one cell: solves X'X b = X'y without rounding.

    `noise`: the variance of each sum's noise, where they carry any; standard errors are of chance and noise.
    """
    gram = symmetric(sums)  # of 1, x1 to xk, y
    size, rows = len(gram) - 1, sums[0]
    if rows < size:
        return Fit(TOO_FEW)
    unit = math.lcm(*(Fraction(x).denominator for x in sums))
    whole = [[int(x * unit) for x in row] for row in gram]
    found = solved([row[:size] for row in whole[:size]], [row[size] for row in whole[:size]])
    if found is None:
        return Fit(COLLINEAR)
    coefficients, inverse = found
    y, yy = gram[size][0], gram[size][size]
    left = yy - sum(b * s for b, s in zip(coefficients, gram[size][:size], strict=True))
    total = Fraction(yy) - Fraction(y) * y / rows
    chance = [max(left, 0) / (rows - size) * unit * inverse[i][i] for i in range(size)] if rows > size else []
    added = _carried(coefficients, [[unit * x for x in row] for row in inverse], noise)
    spread = [a + b for a, b in zip(chance, added, strict=False)]
    if max([*map(abs, coefficients), *spread]) >= _LARGEST:  # no float holds it: a hair from collinear
        return Fit(COLLINEAR)
    r2 = min(max(1 - left / total, Fraction(0)), Fraction(1)) if total > 0 else Fraction(1)
    return Fit(FITTED, tuple(coefficients), tuple(map(math.sqrt, spread)), r2)


def _carried(
    b: Sequence[Fraction], inverse: Sequence[Sequence[Fraction]], noise: Sequence[Exact]
) -> list[Exact]:
    """The variance that the sums' noise gives each coefficient, to first order: δb = G⁻¹ (δg - δG b)."""
    size = len(b)
    found: list[Exact] = [0] * size
    for (i, j), variance in zip(pairs(size + 1), noise, strict=False):
        for m in range(size if i < size else 0):
            if j == size:
                moved = inverse[m][i]
            else:
                moved = inverse[m][i] * b[j] + (inverse[m][j] * b[i] if i != j else 0)
            found[m] += variance * moved * moved
    return found


def solved(a: list[list[int]], b: list[int]) -> tuple[list[Fraction], list[list[Fraction]]] | None:
    """x of a x = b, and a's inverse; None where a, a matrix of products, is singular.

    Gauss and Jordan without fractions (Bareiss 1968): every division by the last pivot comes out even. Pivots
    are leading minors, which are positive for columns that do not depend on each other.
    """
    size, last = len(a), 1
    rows = [[*a[i], b[i], *(int(i == j) for j in range(size))] for i in range(size)]
    for k in range(size):
        pivot = rows[k][k]
        if pivot <= 0:
            return None
        for i in range(size):
            if i != k:
                lead = rows[i][k]
                rows[i] = [(pivot * x - lead * y) // last for x, y in zip(rows[i], rows[k], strict=True)]
        last = pivot
    return (
        [Fraction(row[size], last) for row in rows],
        [[Fraction(x, last) for x in row[size + 1 :]] for row in rows],
    )
