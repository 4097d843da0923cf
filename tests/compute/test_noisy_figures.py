"""Variances, correlations, regressions, histograms and quantiles of noised sums: their cost and worth."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from math import exp, pi
from statistics import pvariance
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute import regression
from compute.accuracy import deviations, variance, variances
from compute.dataset import Column, DatasetInfo
from compute.errors import QueryError
from compute.finish import FUNCTIONS, TAKES
from compute.noise import BILLION, LEAST_SHARE, Scale, Sensitivity
from compute.planner import prepare
from policy_enforcer.obligations import NoiseDemand
from tests.compute.test_federated_noise import BY_SECTOR, DEMANDS, LABELS, contributed, people, prepared

RHO = 10**9 // 2
LOSS = Fraction(RHO, BILLION)
ROWS = 2  # of one identity
SHARED = replace(DEMANDS, noise=NoiseDemand("discrete-gaussian", RHO, 3), minimum_identities=10)


@settings(max_examples=60)
@given(st.lists(st.integers(-(10**6), 10**6), min_size=6, max_size=6))
def test_totals_of_no_rows_give_figures_that_rows_could_have(sums: list[int]) -> None:
    totals = dict(zip(("y", "x", "yy", "xx", "yx"), sums[1:], strict=True))
    for name, function in FUNCTIONS.items():
        takes = TAKES.get(name, {"count": (), "sum": ("y",), "avg": ("y",)}.get(name, ("y", "yy")))
        found = function(sums[0], *(totals[one] for one in takes))
        assert found is None or isinstance(found, int | float | Fraction)
        if found is not None and name.startswith(("var", "stddev", "regr_sxx", "regr_syy", "regr_r2")):
            assert found >= 0
        if found is not None and name in ("corr", "regr_r2"):
            assert math.isnan(found) or abs(found) <= 1
    fit = regression.fitted([sums[0], totals["x"], totals["y"], totals["xx"], totals["yx"], totals["yy"]])
    assert fit.r2 is None or 0 <= fit.r2 <= 1


@pytest.mark.parametrize(
    ("figure", "squares"),
    [
        ("var_pop(amount)", (1, 10, 100)),
        ("stddev_samp(amount)", (1, 10, 100)),
        ("corr(amount, amount * 2)", (1, 10, 20, 100, 400, 200)),
        ("linear_regression(amount, [amount * amount])", (1, 10, 100, 1000, 10_000)),
    ],
)
def test_a_figure_costs_what_all_its_sums_together_cost(figure: str, squares: tuple[int, ...]) -> None:
    """Of a sum of rows of at most b an identity moves ROWS b: over all sums (that / deviation)^2 is 2 rho."""
    side = prepared(f"SELECT {figure} FROM federation.loans").plan.sender
    assert sorted(partial.row_bound for partial in side.partials) == sorted(squares)
    each = [(ROWS * partial.row_bound) ** 2 / Fraction(partial.noise) for partial in side.partials]
    assert sum(each) == 2 * LOSS


def test_buckets_are_groups_that_are_all_answered() -> None:
    plan = prepared(
        "SELECT width_bucket(amount, [2, 5]) AS b, count(*) AS n FROM federation.loans GROUP BY 1"
    ).plan
    assert plan.sender.dimensions[0].domain == (0, 1, 2)
    quantile = prepared("SELECT approx_quantile(amount, 0.5) AS q FROM federation.loans").plan
    assert quantile.maximum_cells == 64
    assert all(partial.noise for partial in quantile.sender.partials)


def test_noise_on_what_has_no_bounds_is_refused_before_anything_is_charged() -> None:
    info = DatasetInfo("sz", "t", (Column("client", "string"), Column("x", "float64")), 100, 100, "00" * 32)
    for figure in ("avg(x)", "var_pop(x)"):
        with pytest.raises(QueryError) as error:
            prepare(f"SELECT {figure} FROM sz.t", "hk", {"sz.t": info}, demands={"sz.t": DEMANDS})
        assert (error.value.code, "bounds" in error.value.sentence) == ("query.noise", True)


# --- what it is worth


def test_the_noise_behind_each_column_is_said() -> None:
    figures = "count(*) AS n, avg(amount) AS a, sum(amount) / 2 AS h"
    plan = prepared(f"SELECT sector, {figures} FROM federation.loans GROUP BY sector").plan
    found = deviations(plan)
    one = math.sqrt(3 * Fraction(plan.sender.partials[0].noise))
    assert list(found) == ["n", "a", "h"]
    assert found["n"] == [pytest.approx(one)]
    assert found["a"] == [pytest.approx(one), pytest.approx(10 * one)]
    assert found["h"] == [pytest.approx(10 * one)]
    line = prepared("SELECT linear_regression(amount, [amount * amount]) FROM federation.loans").plan
    assert list(deviations(line)) == ["n"]


def test_standard_errors_hold_the_noise() -> None:
    """Coefficients of noised sums scatter around those of exact ones by what the noise carries into them."""
    draw = np.random.default_rng(4)
    x = draw.uniform(0, 10, 2000).round(1)
    rows = np.stack([np.ones_like(x), x, 3 + 2 * x])  # no chance: all that is left is noise
    gram = rows @ rows.T
    exact = [gram[i][j] for i, j in regression.pairs(3)]
    noise = [25.0, 400.0, 400.0, 2500.0, 2500.0, 2500.0]
    misses: list[Any] = []
    for _ in range(150):
        sums = [Fraction(s + draw.normal(0, v**0.5)) for s, v in zip(exact, noise, strict=True)]
        fit = regression.fitted(sums, [Fraction(v) for v in noise])
        a, b = fit.coefficients
        inverse = np.linalg.inv(gram[:2, :2])
        carried = regression._carried(
            (Fraction(3), Fraction(2)), [[Fraction(v) for v in r] for r in inverse], noise
        )
        misses.append([(float(a) - 3) / carried[0] ** 0.5, (float(b) - 2) / carried[1] ** 0.5])
        assert all(error**2 >= 0.8 * c for error, c in zip(fit.errors, carried, strict=True))
    assert np.abs(np.mean(np.square(misses), axis=0) - 1).max() < 0.5  # chance: 0.12 is one deviation


# --- shares


@pytest.mark.parametrize("shares", [2, 3, 64])
def test_shares_together_are_one_noise(shares: int) -> None:
    whole = Scale.of("discrete-gaussian", RHO - 1, 4, Sensitivity(9, 81))
    share = Scale.of("discrete-gaussian", RHO, 4, Sensitivity(9, 81), shares)
    assert share.parameter == max(whole.parameter / shares, LEAST_SHARE)
    with pytest.raises(ValueError, match="shared"):
        Scale.of("discrete-laplace", RHO, 4, Sensitivity(9, 81), shares)


def test_what_a_sum_of_shares_costs_beyond_a_gaussian_has_room() -> None:
    """Proposition 14 of Kairouz, Liu and Steinke 2021, for the least variance, the most shares and cells."""
    tau = 10 * sum(exp(-2 * pi**2 * LEAST_SHARE * k / (k + 1)) for k in range(1, 64))
    assert tau * 2**40 < 1e-19 < 1 / BILLION


def test_over_a_federation_a_part_carries_a_share_and_the_total_the_whole() -> None:
    question = prepared(BY_SECTOR, SHARED)
    whole = prepared(BY_SECTOR, replace(SHARED, noise=NoiseDemand("discrete-gaussian", RHO)))
    for one, all_ in zip(question.plan.sender.partials, whole.plan.sender.partials, strict=True):
        assert (
            1 < 3 * Fraction(one.noise) / Fraction(all_.noise) < 1 + Fraction(1, 10**8)
            or Fraction(one.noise) == 8
        )
    scale = Fraction(question.plan.sender.partials[0].noise)
    parts = [contributed(question, people(LABELS[0], 40), SHARED, seed=i).measures[0] for i in range(3)]
    totals = [sum(column) for column in zip(*parts, strict=True)]
    assert 0.6 < pvariance(totals[1:]) / (3 * scale) < 1.4
    (counted,) = {variance(figure.totals[0], variances(question.plan)) for figure in question.plan.figures}
    assert counted == 3 * scale


def test_over_one_s_own_rows_alone_the_noise_is_whole() -> None:
    info = DatasetInfo("sz", "loans", prepared(BY_SECTOR).datasets[0].columns, 1000, 1000, "00" * 32)
    sql = "SELECT sector, count(*) AS n FROM sz.loans GROUP BY sector"
    plans = [
        prepare(sql, "hk", {"sz.loans": info}, demands={"sz.loans": replace(SHARED, noise=noise)}).plan
        for noise in (SHARED.noise, NoiseDemand("discrete-gaussian", RHO))
    ]
    assert plans[0].digest == plans[1].digest
