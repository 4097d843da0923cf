"""How large the noise of an answer is: what its reader must know to use a figure.

The owners' noise is public: its scale is in the plan. Nothing here depends on data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from math import sqrt

from compute.noise import Scale
from compute.plan import Plan, Total
from compute.regression import LINEAR

_FIGURE = re.compile(r"\bf\d+\b", re.ASCII)


def variances(plan: Plan) -> Mapping[str, Fraction]:
    """Of every partial's noise, in its whole units; over a federation that of all participants together."""
    noise, drawn = plan.noise, max(1, len(plan.federation))
    if noise is None:
        return {}
    scales = [("identities", noise.identities), *((p.name, p.noise) for p in plan.sender.partials)]
    return {name: drawn * Scale.parse(noise.mechanism, text).variance for name, text in scales if text}


def variance(total: Total, of: Mapping[str, Fraction]) -> Fraction:
    """Of a total's noise. INVARIANT: under noise a total is of one partial (compute/demands.py)."""
    whole = sum((of.get(name, Fraction(0)) for name in total.partials), Fraction(0))
    return whole * Fraction(1, 10**total.scale) ** 2


def deviations(plan: Plan) -> dict[str, list[float]]:
    """By column of the answer: standard deviations of the noise of the totals behind it, in their order.

    Nothing of a regression's columns, whose standard errors hold it.
    """
    of, figures = variances(plan), {figure.name: figure for figure in plan.figures}
    found: dict[str, list[float]] = {}
    for output in plan.outputs if of else ():
        read = [figures[name] for name in _FIGURE.findall(output.sql)]
        totals = [
            total for figure in read if not figure.function.startswith(LINEAR) for total in figure.totals
        ]
        noised = dict.fromkeys(total for total in totals if variance(total, of))
        if noised:
            found[output.name] = [round(sqrt(variance(total, of)), 6) for total in noised]
    return found
