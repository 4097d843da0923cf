"""Exact discrete Gaussian and Laplace noise: integers and exact fractions only, fresh bytes as an argument.

No float takes part, so no rounding of one can tell what was noised (Mironov 2012). The samplers are those
of Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy" (NeurIPS 2020,
arXiv:2004.00010), algorithms 1 to 3. A draw beyond `tail` is drawn again, so that sums over noise can be
proved to fit; that moves the distribution by less than 2^-128.

What a scale is worth, for an identity that is added or taken away with all its rows:

    discrete-gaussian   k figures of L2 sensitivity D_i, variances k D_i^2 / (2 rho): rho-zCDP together
                        (theorem 14 there: the sum over i of D_i^2 / variance_i is 2 rho)
    shared by h         each adds a discrete Gaussian of variance k D_i^2 / (2 rho' h), at least 8. A sum of
                        those is none, but its logarithm is nowhere more than tau / 2 from that of one,
                        tau = 10 sum over j < h of exp(-2 pi^2 v j / (j + 1)), so it costs rho' + tau d for d
                        cells (Kairouz, Liu and Steinke 2021, arXiv:2102.06387, theorem 1, proposition 14):
                        tau is below 10^-31 for variances v >= 8 and h <= 64, so tau d is below 10^-19 for all
                        cells of all figures, fewer than 2^40. rho' = rho - 10^-9 leaves room for it
    discrete-laplace    k figures of L1 sensitivity D_i, scales k D_i / epsilon: epsilon-DP together, which
                        is epsilon^2 / 2 -zCDP (Bun and Steinke 2016, proposition 1.4); epsilon^2 <= 2 rho
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from typing import Literal

Entropy = Callable[[int], bytes]
Mechanism = Literal["discrete-gaussian", "discrete-laplace"]

BILLION = 10**9
"""Privacy loss is counted in billionths of rho."""

LEAST_SHARE = 8
"""Least variance of a share: from here on a sum of shares is as good as one Gaussian."""

_ROOT = 10**12
"""Digits of epsilon, which is rounded down."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How far one identity can move a figure over all cells together."""

    l1: int
    l2_squared: int


@dataclass(frozen=True, slots=True)
class Scale:
    """The noise of one figure: a variance (Gaussian) or a scale (Laplace), both exact."""

    mechanism: Mechanism
    parameter: Fraction

    @classmethod
    def of(
        cls, mechanism: Mechanism, rho: int, figures: int, sensitivity: Sensitivity, shares: int = 1
    ) -> Scale:
        """The noise of one of `figures` figures that together may lose `rho` billionths of zCDP.

        `shares`: it is one of so many, each drawn by somebody else, which together are that noise.
        """
        if shares > 1:
            whole = cls.of(mechanism, rho - 1, figures, sensitivity)
            if mechanism != "discrete-gaussian":
                raise ValueError("only Gaussian noise is shared")
            return cls(mechanism, max(whole.parameter / shares, Fraction(LEAST_SHARE)))
        if rho <= 0 or figures <= 0:
            raise ValueError("privacy loss and figures are positive")
        if mechanism == "discrete-gaussian":
            return cls(mechanism, Fraction(figures * sensitivity.l2_squared * BILLION, 2 * rho))
        epsilon = Fraction(isqrt(2 * rho * _ROOT**2 // BILLION), _ROOT)
        return cls(mechanism, figures * sensitivity.l1 / epsilon)

    @classmethod
    def parse(cls, mechanism: Mechanism, text: str) -> Scale:
        """What `text` wrote."""
        return cls(mechanism, Fraction(text))

    @property
    def text(self) -> str:
        """The parameter as a fraction, for the plan."""
        return str(self.parameter)

    @property
    def tail(self) -> int:
        """No draw is larger; one in 2^128 would be.

        Gaussian: P(|X| > 14 sigma) <= 2 exp(-98). Laplace: P(|X| > 98 t) <= 2 exp(-98). 2 exp(-98) < 2^-140.
        """
        if self.mechanism == "discrete-gaussian":
            return isqrt(196 * self.parameter.numerator // self.parameter.denominator) + 1
        return int(98 * self.parameter) + 1

    @property
    def variance(self) -> Fraction:
        """Of a draw. Of a Laplace one at most that: on whole numbers it is less, by no more than 1/6."""
        return self.parameter if self.mechanism == "discrete-gaussian" else 2 * self.parameter**2

    def draw(self, entropy: Entropy) -> int:
        """One exact draw."""
        if not self.parameter:
            return 0
        bits = _Bits(entropy)
        while True:
            x = self._drawn(bits)
            if abs(x) <= self.tail:
                return x

    def _drawn(self, bits: _Bits) -> int:
        if self.mechanism == "discrete-gaussian":
            return _gaussian(self.parameter, bits)
        return _laplace(self.parameter, bits)


class _Bits:
    """Uniform integers from injected bytes, taken in larger pieces: a draw needs a hundred small ones."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy, self._pool, self._left = entropy, 0, 0

    def _take(self, count: int) -> int:
        if self._left < count:
            fresh = max(32, -(-count // 8))
            self._pool |= int.from_bytes(self._entropy(fresh), "little") << self._left
            self._left += 8 * fresh
        taken = self._pool & ((1 << count) - 1)
        self._pool >>= count
        self._left -= count
        return taken

    def below(self, n: int) -> int:
        """Uniform in 0..n-1, by rejection."""
        bits = (n - 1).bit_length()
        while True:
            drawn = self._take(bits)
            if drawn < n:
                return drawn

    def bernoulli(self, p: Fraction) -> bool:
        """True with probability p."""
        return self.below(p.denominator) < p.numerator


def _bernoulli_exp(gamma: Fraction, bits: _Bits) -> bool:
    """True with probability exp(-gamma), gamma >= 0. Algorithm 1."""
    while gamma > 1:
        if not _bernoulli_exp(Fraction(1), bits):
            return False
        gamma -= 1
    k = 1
    while bits.bernoulli(gamma / k):
        k += 1
    return k % 2 == 1


def _laplace(scale: Fraction, bits: _Bits) -> int:
    """Integer x with probability proportional to exp(-|x| / scale). Algorithm 2, scale = t / s."""
    t, s = scale.numerator, scale.denominator
    while True:
        u = bits.below(t)
        if not _bernoulli_exp(Fraction(u, t), bits):
            continue
        v = 0
        while _bernoulli_exp(Fraction(1), bits):
            v += 1
        magnitude = (u + t * v) // s
        negative = bits.bernoulli(Fraction(1, 2))
        if not (negative and magnitude == 0):  # zero has one sign
            return -magnitude if negative else magnitude


def _gaussian(variance: Fraction, bits: _Bits) -> int:
    """Integer x with probability proportional to exp(-x^2 / (2 variance)). Algorithm 3."""
    t = isqrt(variance.numerator // variance.denominator) + 1
    while True:
        y = _laplace(Fraction(t), bits)
        away = abs(y) - variance / t
        if _bernoulli_exp(away * away / (2 * variance), bits):
            return y
