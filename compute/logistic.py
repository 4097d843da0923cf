"""`logistic_regression(y, [x1, …])` over a federation: Newton's steps from sums that all owners see alike.

For coefficients b every owner sums, over its rows, g = Σ x (y - p) and H = Σ p (1 - p) x x', where
p = 1 / (1 + exp(-b·x)). From the totals each of them computes b + H⁻¹ g, from 0 on, in whole numbers: so all
have the same next b, and nobody names one. Where no b is best, or none can be told, the verdict says so.

    u_j    (2 x_j - low_j - high_j) / (high_j - low_j), within [-1, 1] by the declared bounds;  u_0 = 1
    g_j    Σ round(2^48 (y - p) u_j)                 |term| <= 2^48
    H_jl   Σ round(2^48 p (1 - p) u_j u_l)           |term| <= 2^46
    b_j    a whole number of 2^-32, |b_j| < 2^20

A row's terms are made from IEEE doubles by + - * / alone, in the order written here, so that the same rows
give the same sums on every machine; no library's exp takes part.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compute.errors import PeerViolation
from compute.plan import Logistic, Regressor
from compute.regression import pairs, solved, symmetric

MOST_STEPS = 25
NOISY_STEPS = 8
"""Under noise each step takes its part of the loss, whether it is needed or not."""

FITTED, COLLINEAR, SEPARATED, DROWNED = "fitted", "collinear", "separated", "drowned"
_VERDICTS = ("", FITTED, COLLINEAR, SEPARATED, DROWNED)
"""As an answer numbers them; "" is a cell that a gate held back."""

GRADIENT, CURVATURE = 1 << 48, 1 << 46
"""No row's term is larger."""

_COEFFICIENT_BITS = 32
_MOST_COEFFICIENT = 1 << (20 + _COEFFICIENT_BITS)
_SETTLED_BITS = 16
_MOST_INFLATION = 1 << 32
"""H_00 (H⁻¹)_jj of a column that varies, beside what the others give of it, by 1/65,000 of its bounds."""

_BLOCK = 1 << 16


def figures(regressors: int) -> list[tuple[str, int]]:
    """(what it is, bound of a row's term) of every sum of a step: g, then H."""
    terms = [(f"x{j} * (y - p)", GRADIENT) for j in range(regressors + 1)]
    return terms + [(f"x{i} * x{j} * p * (1 - p)", CURVATURE) for i, j in pairs(regressors + 1)]


def least_identities(regressors: int, steps: int) -> int:
    """As many as sums may be shown: were there fewer rows than sums, these might be solved for them."""
    return steps * len(figures(regressors))


# --- one owner's rows ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one owner in which nothing is NULL: u of every regressor, and y."""

    u: tuple[NDArray[np.float64], ...]
    y: NDArray[np.float64]

    @classmethod
    def of(cls, logistic: Logistic, table: pa.Table) -> Rows:
        """From the whole numbers y, x1, … of compute/local.py."""
        columns = [_scaled(r, table[f"x{i}"].to_numpy()) for i, r in enumerate(logistic.regressors, 1)]
        return cls(tuple(columns), table["y"].to_numpy().astype(np.float64))

    def sums(self, b: Sequence[int]) -> list[int]:
        """g and H of these rows at b."""
        totals = [0] * len(figures(len(self.u)))
        for start in range(0, len(self.y), _BLOCK):
            block = slice(start, start + _BLOCK)
            terms = _terms(_coefficients(b), [u[block] for u in self.u], self.y[block])
            totals = [total + _exact_sum(term) for total, term in zip(totals, terms, strict=True)]
        return totals


def _scaled(regressor: Regressor, values: NDArray[np.int64]) -> NDArray[np.float64]:
    """u: exact whole numbers, then one division. INVARIANT: within [-1, 1], as rounding is monotone."""
    found: NDArray[np.float64] = (2 * values - (regressor.low + regressor.high)).astype(np.float64) / float(
        regressor.high - regressor.low
    )
    return found


def _coefficients(b: Sequence[int]) -> list[float]:
    """As doubles, which hold them exactly."""
    return [value / (1 << _COEFFICIENT_BITS) for value in b]


def _terms(
    b: Sequence[float], us: Sequence[NDArray[np.float64]], y: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """Every row's terms of g and H, as whole numbers."""
    z = np.full(len(y), b[0])
    for coefficient, u in zip(b[1:], us, strict=True):
        z = z + coefficient * u
    p = probability(z)
    columns = [np.ones(len(y)), *us]
    for u in columns:
        yield np.rint((y - p) * u * GRADIENT)
    weight = p * (1 - p)
    for i, j in pairs(len(columns)):
        yield np.rint(weight * columns[i] * columns[j] * GRADIENT)


def _exact_sum(values: NDArray[np.float64]) -> int:
    """Halves of 24 bits: 2^16 of them stay far below 2^63."""
    whole = values.astype(np.int64)
    return (int((whole >> 24).sum()) << 24) + int((whole & 0xFFFFFF).sum())


_LOG2E = float.fromhex("0x1.71547652b82fep+0")
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")  # its last 32 bits are 0: times a whole number it is exact
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_TAYLOR = tuple((-1) ** i / math.factorial(i) for i in range(13, -1, -1))
_FARTHEST = 64.0
"""exp(-64) < 2^-92: beyond it no term differs."""


def probability(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-z)), to within 2^-51, and 1/2 at 0: basic operations in one order, no library's exp.

    exp(-t) = 2^-m exp(-r), |r| <= ln 2 / 2, m = floor(t log2 e + 1/2); exp(-r) by 14 terms of its series.
    """
    t = np.minimum(np.abs(z), _FARTHEST)
    m = np.floor(t * _LOG2E + 0.5)
    r = (t - m * _LN2_HIGH) - m * _LN2_LOW
    series = np.full(len(z), _TAYLOR[0])
    for coefficient in _TAYLOR[1:]:
        series = series * r + coefficient
    e = np.ldexp(series, -m.astype(np.int32))
    found: NDArray[np.float64] = np.where(z < 0, e, 1.0) / (1.0 + e)
    return found


# --- what every owner makes of the totals -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class State:
    """Where the steps stand; the same at every owner, since it is computed from the same totals."""

    b: tuple[int, ...]
    steps: int = 0
    rows: int = 0  # that count, in all: known after the first step
    verdict: str = ""
    inverse: tuple[tuple[Fraction, ...], ...] = ()  # of the last H
    step: tuple[int, ...] = ()  # that led to b
    gradient: tuple[int, ...] = ()  # where that step began

    @classmethod
    def start(cls, plan: Logistic) -> State:
        """All coefficients 0."""
        return cls((0,) * (len(plan.regressors) + 1))

    def after(self, plan: Logistic, totals: Sequence[int], noise: Sequence[Fraction]) -> State:
        """One step on. `noise`: the variance of each total's noise; none without noise."""
        size = len(self.b)
        gradient, curvature = list(totals[:size]), symmetric(totals[size:])
        # every row's p (1 - p) is 1/4 at b = 0: the first total of H counts the rows
        rows = self.rows if self.steps else round(Fraction(curvature[0][0], CURVATURE))
        before = replace(self, steps=self.steps + 1, rows=rows)
        if not noise and self._overshot(gradient):
            return before.halved(plan)
        found = solved(curvature, gradient)
        if found is None or _inflated(curvature, found[1]):
            return replace(before, verdict=_undetermined(self.steps, noisy=bool(noise)))
        step = tuple(round(x * (1 << _COEFFICIENT_BITS)) for x in found[0])
        b = tuple(x + d for x, d in zip(self.b, step, strict=True))
        inverse = tuple(map(tuple, found[1]))
        made = replace(before, b=b, inverse=inverse, step=step, gradient=tuple(gradient))
        if any(abs(x) >= _MOST_COEFFICIENT for x in b):
            return replace(made, verdict=DROWNED if noise else SEPARATED)
        return replace(made, verdict=_verdict(plan, made, noise))

    def _overshot(self, gradient: Sequence[int]) -> bool:
        """Does the likelihood fall at the step's end half as steeply as it rose where the step began?"""
        return bool(self.step) and 2 * _dot(gradient, self.step) < -_dot(self.gradient, self.step)

    def halved(self, plan: Logistic) -> State:
        """Half of the last step in its place."""
        half = tuple(d >> 1 for d in self.step)
        b = tuple(x - d + h for x, d, h in zip(self.b, self.step, half, strict=True))
        return replace(self, b=b, step=half, verdict=SEPARATED if self.steps == plan.steps else "")


def _dot(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(x * y for x, y in zip(one, other, strict=True))


def _inflated(curvature: Sequence[Sequence[int]], inverse: Sequence[Sequence[Fraction]]) -> bool:
    """Does a column vary by no more than rounding beside what the others give of it?"""
    return any(curvature[0][0] * row[j] > _MOST_INFLATION for j, row in enumerate(inverse))


def _undetermined(steps: int, *, noisy: bool) -> str:
    """Why H cannot be solved: at b = 0 it is X'X / 4; later its weights have gone to 0."""
    if noisy:
        return DROWNED
    return SEPARATED if steps else COLLINEAR


def _verdict(plan: Logistic, state: State, noise: Sequence[Fraction]) -> str:
    """ "" for one more step. Where no b is best, every step adds about 1 to some b·x, and none settles."""
    last = state.steps == plan.steps
    if noise:
        return "" if not last else _noisy_verdict(state, noise)
    small = [max(1 << _COEFFICIENT_BITS, abs(x)) >> _SETTLED_BITS for x in state.b]
    if all(abs(d) <= most for d, most in zip(state.step, small, strict=True)):
        return FITTED
    return SEPARATED if last else ""


def _noisy_verdict(state: State, noise: Sequence[Fraction]) -> str:
    """Fitted, where the last step is no larger than what chance and noise explain."""
    size = len(state.step)
    units = [[int(i == j) for i in range(size)] for j in range(size)]
    most = [4 * _error(state, unit, noise) * (1 << _COEFFICIENT_BITS) for unit in units]
    return FITTED if all(abs(d) <= m for d, m in zip(state.step, most, strict=True)) else DROWNED


def _error(state: State, of: Sequence[Fraction | int], noise: Sequence[Fraction]) -> float:
    """The standard error of Σ of_j b_j: a' (H⁻¹ + H⁻¹ V H⁻¹) a, with V the variance of the noise in g."""
    y = [sum((x * a for x, a in zip(row, of, strict=True)), Fraction(0)) for row in state.inverse]
    variance = GRADIENT * sum((a * x for a, x in zip(of, y, strict=True)), Fraction(0))
    variance += sum((v * x * x for v, x in zip(noise, y, strict=False)), Fraction(0))
    return math.sqrt(max(variance, Fraction(0)))


# --- the answer ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fit:
    """What leaves. Coefficients and errors are of the intercept and the columns as they are declared."""

    verdict: str = ""
    steps: int = 0
    rows: int = 0
    coefficients: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()

    @classmethod
    def of(cls, plan: Logistic, state: State, noise: Sequence[Fraction]) -> Fit:
        """Out of the units of the steps: each figure rounded once, an error twice."""
        made = cls(state.verdict, state.steps, state.rows)
        if state.verdict != FITTED:
            return made
        weights = _weights(plan)
        values = [sum(a * x for a, x in zip(row, state.b, strict=True)) for row in weights]
        coefficients = tuple(float(Fraction(value) / (1 << _COEFFICIENT_BITS)) for value in values)
        return replace(
            made, coefficients=coefficients, errors=tuple(_error(state, row, noise) for row in weights)
        )

    def to_bytes(self, regressors: int) -> bytes:
        """Of one length, whatever the verdict."""
        size = regressors + 1
        numbers = [*self.coefficients, *self.errors] or [0.0] * (2 * size)
        return _layout(size).pack(_VERDICTS.index(self.verdict), self.steps, self.rows, *numbers)

    @classmethod
    def parse(cls, plan: Logistic, body: bytes) -> Fit:
        """What `to_bytes` wrote. Raises `PeerViolation`."""
        size = len(plan.regressors) + 1
        if len(body) == _layout(size).size:
            verdict, steps, rows, *numbers = _layout(size).unpack(body)
            if verdict < len(_VERDICTS) and steps <= plan.steps and all(map(math.isfinite, numbers)):
                shown = numbers if _VERDICTS[verdict] == FITTED else []
                found = cls(_VERDICTS[verdict], steps, rows, tuple(shown[:size]), tuple(shown[size:]))
                if found.to_bytes(size - 1) == body:
                    return found
        raise PeerViolation("peer.malformed-release", "the peer's release is not in the agreed form")

    def table(self, regressors: int) -> pa.Table:
        """The answer's one cell, as figures name its columns; none where a gate held it back."""
        named = {
            "identities": pa.array([0], pa.int64()),  # how many is the owners' to know
            "rows": pa.array([self.rows], pa.int64()),
            "steps": pa.array([self.steps], pa.int64()),
            "verdict": pa.array([self.verdict]),
        }
        for word, found in (("coefficient", self.coefficients), ("error", self.errors)):
            shown = found or [None] * (regressors + 1)
            named |= {f"{word}:{j}": pa.array([x], pa.float64()) for j, x in enumerate(shown)}
        return pa.table(named).slice(0, 1 if self.verdict else 0)


def _layout(size: int) -> struct.Struct:
    return struct.Struct(f">BBq{2 * size}d")


def _weights(plan: Logistic) -> list[list[Fraction]]:
    """Each answered coefficient as a sum over b: u = (2 · 10^scale x - low - high) / (high - low)."""
    spans = [Fraction(1, r.high - r.low) for r in plan.regressors]
    middles = [-(r.low + r.high) * span for r, span in zip(plan.regressors, spans, strict=True)]
    rows = [[Fraction(1), *middles]]
    for j, (regressor, span) in enumerate(zip(plan.regressors, spans, strict=True), 1):
        unit = 2 * 10**regressor.scale * span
        rows.append([unit if i == j else Fraction(0) for i in range(len(middles) + 1)])
    return rows
