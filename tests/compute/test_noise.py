"""The samplers against the exact distributions, at fixed seeds: the oracle sums and draws nothing."""

import hashlib
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import count
from math import exp, isqrt, pi

import pytest

from compute.noise import BILLION, Scale, Sensitivity

GAUSSIAN, LAPLACE = "discrete-gaussian", "discrete-laplace"


def stream(seed):
    """Bytes that depend on the seed alone."""
    blocks = (hashlib.sha256(f"{seed} {i}".encode()).digest() for i in count())
    pool = bytearray()

    def entropy(n):
        while len(pool) < n:
            pool.extend(next(blocks))
        taken = bytes(pool[:n])
        del pool[:n]
        return taken

    return entropy


def mass(mechanism, parameter, reach):
    """The exact probability of every integer up to `reach`, to 50 digits."""
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(parameter.numerator) / Decimal(parameter.denominator)
        power = (lambda x: x * x / (2 * exact)) if mechanism == GAUSSIAN else (lambda x: abs(x) / exact)
        weights = {x: (-power(Decimal(x))).exp() for x in range(-reach, reach + 1)}
        total = sum(weights.values())
        return {x: weight / total for x, weight in weights.items()}


def chi_square(drawn, expected, draws):
    """Pearson's statistic and its degrees of freedom; places expected fewer than ten times are one place."""
    seen = dict.fromkeys(expected, 0)
    for x in drawn:
        seen[x] += 1
    common = [x for x, p in expected.items() if p * draws >= 10]
    pairs = [(seen[x], expected[x] * draws) for x in common]
    rare = draws - sum(p for _, p in pairs)
    if rare > 1:
        pairs.append((draws - sum(s for s, _ in pairs), rare))
    return float(sum((s - p) ** 2 / p for s, p in pairs)), len(pairs) - 1


@pytest.mark.parametrize(
    ("mechanism", "parameter"),
    [
        (GAUSSIAN, Fraction(1, 3)),
        (GAUSSIAN, Fraction(1)),
        (GAUSSIAN, Fraction(50, 7)),
        (GAUSSIAN, Fraction(225)),
        (LAPLACE, Fraction(1, 2)),
        (LAPLACE, Fraction(1)),
        (LAPLACE, Fraction(22, 7)),
    ],
)
def test_draws_follow_the_exact_distribution(mechanism, parameter):
    draws, entropy = 4000, stream(f"{mechanism} {parameter}")
    scale = Scale(mechanism, parameter)
    statistic, freedom = chi_square(
        [scale.draw(entropy) for _ in range(draws)], mass(mechanism, parameter, scale.tail), draws
    )
    # mean `freedom`, variance 2 `freedom`: five deviations and a little for the skew of few degrees
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5 + 5, (statistic, freedom)


def test_the_test_would_notice_another_variance():
    draws, entropy = 4000, stream("wrong")
    wrong = Scale(GAUSSIAN, Fraction(9))
    statistic, freedom = chi_square(
        [x for x in (wrong.draw(entropy) for _ in range(draws)) if abs(x) <= 30],
        mass(GAUSSIAN, Fraction(7), 30),
        draws,
    )
    assert statistic > freedom + 5 * (2 * freedom) ** 0.5 + 5


@pytest.mark.parametrize("mechanism", [GAUSSIAN, LAPLACE])
def test_large_scales_have_the_right_spread(mechanism):
    entropy = stream(f"large {mechanism}")
    scale = Scale.of(mechanism, BILLION // 20, 3, Sensitivity(50 * 10**9, (50 * 10**9) ** 2))
    drawn = [scale.draw(entropy) for _ in range(600)]
    variance = scale.parameter if mechanism == GAUSSIAN else 2 * scale.parameter**2
    assert abs(Fraction(sum(x * x for x in drawn), 600) / variance - 1) < Fraction(3, 10)
    assert abs(sum(drawn)) < 5 * isqrt(int(variance) * 600)
    assert max(map(abs, drawn)) <= scale.tail


@pytest.mark.parametrize(("variance", "shares"), [(Fraction(1, 2), 2), (Fraction(1), 3), (Fraction(8), 2)])
def test_a_sum_of_shares_is_as_near_to_one_gaussian_as_compute_noise_says(variance, shares):
    """Both distributions to 60 digits: their logarithms are less than tau / 2 apart, and not much less."""
    reach = int(30 * float(variance) ** 0.5)
    one = mass(GAUSSIAN, variance, reach)
    with localcontext() as context:
        context.prec = 60
        total = one
        for _ in range(shares - 1):
            wider, total = total, dict.fromkeys(range(-reach, reach + 1), Decimal(0))
            for x, p in wider.items():
                for y in range(max(-reach, -reach - x), min(reach, reach - x) + 1):
                    total[x + y] += p * one[y]
        whole = mass(GAUSSIAN, shares * variance, shares * reach)
        apart = max(abs((total[x] / whole[x]).ln()) for x in range(-reach // 3, reach // 3))
    terms = [exp(-2 * pi**2 * float(variance) * j / (j + 1)) for j in range(1, shares)]
    assert terms[-1] < apart < 5 * sum(terms)


def test_scales_spend_what_they_are_given():
    rho, figures = 50_000_000, 2
    some = [Sensitivity(6, 36), Sensitivity(4, 4)]
    gaussian = [Scale.of(GAUSSIAN, rho, figures, s).parameter for s in some]
    assert sum(s.l2_squared / v for s, v in zip(some, gaussian, strict=True)) == Fraction(2 * rho, BILLION)
    laplace = [Scale.of(LAPLACE, rho, figures, s).parameter for s in some]
    epsilon = sum(s.l1 / t for s, t in zip(some, laplace, strict=True))
    assert 0 <= Fraction(2 * rho, BILLION) - epsilon**2 < Fraction(1, 10**9)  # rounded down, never up


def test_a_tail_is_beyond_reach():
    assert Scale(GAUSSIAN, Fraction(100)).tail == 141
    assert Scale(LAPLACE, Fraction(3, 2)).tail == 148
    assert sum(p for x, p in mass(GAUSSIAN, Fraction(2), 40).items() if abs(x) > 20) < Decimal(2) ** -128


def test_no_scale_no_noise_and_no_bytes():
    assert Scale(GAUSSIAN, Fraction(0)).draw(lambda _n: pytest.fail("asked for bytes")) == 0


def test_a_scale_survives_writing():
    scale = Scale.of(LAPLACE, 7, 3, Sensitivity(5, 25))
    assert Scale.parse(LAPLACE, scale.text) == scale


@pytest.mark.parametrize(("rho", "figures"), [(0, 1), (-1, 1), (1, 0)])
def test_nothing_is_spent_on_nothing(rho, figures):
    with pytest.raises(ValueError, match="positive"):
        Scale.of(GAUSSIAN, rho, figures, Sensitivity(1, 1))
