"""Words that need arithmetic or each other: noise, budgets, contribution bounds, dominance.

Privacy loss is zCDP and is counted in whole billionths of rho, so that a budget is spent exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from policy_enforcer.model import Analysis, Federation, Policy, plain
from policy_enforcer.problems import Path

BILLION = 10**9
MOST_LOSS = 2**53
"""Billionths of rho that any figure of a policy may name: far beyond what protects anybody."""

Contradiction = tuple[Path, str, str]


def billionths(number: Decimal) -> int:
    """A loss in billionths of rho. INVARIANT: the policy loaded, so it is a whole number of them."""
    return int(number * BILLION)


def rho(loss: int) -> str:
    """A loss as policies and evidence write it; less than nothing is nothing."""
    return plain(Decimal(max(0, loss)).scaleb(-9))


def words_apart(policy: Policy) -> Iterator[Contradiction]:
    """What these words contradict, or lack."""
    analysis = policy.analysis
    yield from _identified(analysis)
    if analysis.dominance is not None and not 0 < analysis.dominance.share_at_most < 1:
        yield ("analysis", "dominance"), "a share lies between 0 and 1, both left out", "Write 0.7, say."
    if analysis.suppressions is not None and not any(
        (analysis.suppressions.complementary, analysis.suppressions.count == "hidden")
    ):
        yield ("analysis", "suppressions"), "this limits nothing", "Add `complementary: true`, or remove it."
    if analysis.differencing is not None:
        yield from _comparable(analysis)
    if analysis.federation is not None and analysis.federation.honest_participants is not None:
        yield from _shared(analysis, analysis.federation)
    if analysis.noise is not None:
        yield from _bounded(analysis)
        yield from _exact_beside_noise(analysis)
        yield from _losses(analysis)


def _identified(analysis: Analysis) -> Iterator[Contradiction]:
    for word in ("dominance", "noise", "differencing", "max_rows_per_identity", "max_cells_per_identity"):
        if getattr(analysis, word) is not None and analysis.identity is None:
            hint = "Add `identity: <column>`."
            yield ("analysis", word), "this is about identities: say which column they are", hint


def _comparable(analysis: Analysis) -> Iterator[Contradiction]:
    path = ("analysis", "differencing")
    assert analysis.differencing is not None
    if analysis.differencing.minimum_difference < 2:
        yield (
            (*path, "minimum_difference"),
            "any difference is at least one identity: this limits nothing",
            "Write 2 or more.",
        )
    if "list" in analysis.kinds:
        yield ("analysis", "kinds"), "a list shows single rows: there is nothing to compute", "Remove `list`."
    if analysis.noise is not None:
        return
    if analysis.conditional:
        sentence = (
            "differencing compares the rows behind groups, of which a condition inside SUM leaves some out"
        )
        yield ("analysis", "conditional"), sentence, "Remove it: the same condition in WHERE is compared."
    for word in ("max_rows_per_identity", "max_cells_per_identity"):
        if getattr(analysis, word) is not None:
            sentence = (
                "which rows a bound leaves out is another matter in each query, so none can be compared"
            )
            yield ("analysis", word), sentence, "Remove it, or add `noise`, which needs it."


def _shared(analysis: Analysis, federation: Federation) -> Iterator[Contradiction]:
    """Shares of noise: of a sum that is noise again, in totals alone, and of as many as are there."""
    path, noise, honest = (
        ("analysis", "federation", "honest_participants"),
        analysis.noise,
        federation.honest_participants,
    )
    assert honest is not None
    if noise is None:
        yield path, "there is no noise to share", "Add `noise`, or remove it."
    elif noise.mechanism != "discrete-gaussian":
        sentence = "shares of Laplace noise do not add up to Laplace noise"
        yield path, sentence, "Write `mechanism: discrete-gaussian`, or remove it."
    elif noise.rho_per_query * BILLION <= 1:
        yield path, "a billionth of rho goes to the shares' not being exactly Gaussian in sum", "Allow more."
    if honest < 3:
        sentence = "one of two sees the totals and can take its own share off: the other's would stand alone"
        yield path, sentence, "Write 3 or more, or remove it: your noise is then whole by itself."
    if honest > federation.minimum_participants:
        sentence = "a round may have fewer participants than these"
        yield path, sentence, f"Demand `minimum_participants: {honest}`."
    if federation.scope != "total":
        # whether a cell of ours counts would show, with but a share of noise on it
        yield (
            path,
            "a minimum of our own cells is judged with our share of noise alone",
            "Write `scope: total`.",
        )


def _bounded(analysis: Analysis) -> Iterator[Contradiction]:
    for word in ("max_rows_per_identity", "max_cells_per_identity"):
        if getattr(analysis, word) is None:
            sentence = f"noise hides what one identity adds, which {word} must limit"
            yield ("analysis", "noise"), sentence, f"Add for example `{word}: 4`."


def _exact_beside_noise(analysis: Analysis) -> Iterator[Contradiction]:
    if analysis.dominance is not None:
        sentence = "dominance looks at exact values, and what it holds back tells about them despite noise"
        yield ("analysis", "dominance"), sentence, "Noise protects the largest identity already: remove it."
    if analysis.suppressions is not None and analysis.suppressions.complementary:
        sentence = "under noise nothing that is held back can be computed from the rest"
        yield ("analysis", "suppressions"), sentence, "Remove `complementary`."
    if "list" in analysis.kinds:
        yield ("analysis", "kinds"), "a list shows exact values, which noise was to prevent", "Remove `list`."
    if analysis.weighted:
        yield (
            ("analysis", "weighted"),
            "weights are not bounded, so no noise hides them",
            "Remove `weighted`.",
        )


def _losses(analysis: Analysis) -> Iterator[Contradiction]:
    noise = analysis.noise
    assert noise is not None
    budgets = [("budget", noise.budget.rho)]
    if noise.dataset_budget is not None:
        budgets.append(("dataset_budget", noise.dataset_budget.rho))
    for word, number in (("rho_per_query", noise.rho_per_query), *budgets):
        loss = number * BILLION
        if loss != int(loss) or not 0 < loss <= MOST_LOSS:
            sentence = "privacy loss is a positive number with at most nine digits after the point"
            yield ("analysis", "noise", word), sentence, "Write 0.05, say."
    for word, number in budgets:
        if number < noise.rho_per_query:
            hint = f"Write {plain(noise.rho_per_query)} or more."
            yield ("analysis", "noise", word), "the budget does not suffice for a single query", hint
