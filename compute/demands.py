"""What the owner's policy demands of a release, worked into the plan that both sides derive.

Noise: every partial gets its scale, so that all figures of all cells together lose what the policy says a
query costs; labels are those the policy declares, because which labels there are would tell who is there.
A minimum: which partials count rows with a value, so that it holds for the identities behind them too.

Refused: figures that no noise of that size hides. What the policy itself forbids under noise is left for
the decision, which says why; a plan with a figure without noise is never released (protocols/_release.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from types import MappingProxyType

import pyarrow as pa

from compute.dataset import DatasetInfo
from compute.errors import QueryError
from compute.expressions import quoted
from compute.noise import Scale, Sensitivity
from compute.plan import STEP, Dimension, Figure, Noise, Partial, Plan, Total
from compute.types import parse_type
from policy_enforcer.disclosure import Fact
from policy_enforcer.obligations import Obligations

IDENTITIES = Total(("identities",))

MOST_SUM = 10**38 - 1
"""Single-domain sums travel as decimal128(38, 0)."""


def demanded(
    draft: Plan,
    info: DatasetInfo,
    demands: Obligations,
    bucketed: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    *,
    pooled: bool = False,
) -> Plan:
    """The draft under the policy of `info`, the sender's dataset. Raises `QueryError`.

    `bucketed`: the numbers of fixed buckets, by the dimension's name.
    `pooled`: over a federation another's minimum may be of totals, so its figures stay marked.
    """
    plan = draft if pooled or demands.minimum_identities > 1 else _unmarked(draft)
    if demands.noise is not None:
        plan = _noised(plan, demands, pooled=pooled)
    if demands.noise is not None or pooled:
        return _with_domains(plan, info, demands, bucketed)
    return _limited(plan, info, demands, bucketed) if demands.answers_limited else plan


def _unmarked(plan: Plan) -> Plan:
    """The plan where no minimum holds for the identities behind a figure."""
    return _with_partials(plan, [replace(partial, counts_values=False) for partial in plan.sender.partials])


def _limited(
    plan: Plan, info: DatasetInfo, demands: Obligations, bucketed: Mapping[str, tuple[int, ...]]
) -> Plan:
    """The plan with room for as many groups as declared labels and buckets make, with NULL one more each.

    An answer is charged by its room (compute/facts.py); what has more groups than that does not leave.
    """
    if plan.receiver is not None:
        return plan
    labels = {
        quoted(c.name): 2 if c.type == "bool" else len(demands.domains.get(c.name, ())) for c in info.columns
    }
    counts = [labels.get(d.sql, len(bucketed.get(d.name, ()))) for d in plan.sender.dimensions]
    if not all(counts):
        return plan
    return replace(plan, maximum_cells=min(plan.maximum_cells, prod(count + 1 for count in counts)))


def hiding(plan: Plan, demands: Obligations) -> Plan:
    """The plan without the disclosure that a policy may hide."""
    if not demands.suppressions_hidden:
        return plan
    return replace(plan, reveals=tuple(e for e in plan.reveals if e.fact != Fact.SUPPRESSED_CELLS))


def _noised(plan: Plan, demands: Obligations, *, pooled: bool) -> Plan:
    noise, identity = demands.noise, demands.identity
    assert noise is not None
    if identity is None or demands.rows_per_identity is None or demands.cells_per_identity is None:
        raise QueryError("query.noise", "the owner's policy sets noise without bounding contributions")
    if plan.receiver is not None and (
        plan.receiver.repeats or plan.receiver.partials or plan.receiver.totals or plan.sender.kept
    ):
        raise QueryError(
            "query.noise",
            "the owner's policy adds noise, so a joint query sums its columns over matching rows, each of "
            "the asker's keys once; aggregate no columns of your own, and write JOIN or SEMI JOIN",
        )
    plan = _needed(replace(plan, figures=tuple(_present(figure) for figure in plan.figures)))
    rows, cells = demands.rows_per_identity, min(demands.cells_per_identity, demands.rows_per_identity)
    once, shares = Sensitivity(cells, cells), noise.shares if pooled else 1
    gated = plan.receiver is None and demands.minimum_identities > 1
    moved = {p.name: _moved(p, identity, rows, once) for p in plan.sender.partials}
    steps = plan.logistic.steps if plan.logistic is not None else 1
    count = steps * sum(found is not None for found in moved.values()) + gated
    partials = []
    for partial in plan.sender.partials:
        if partial.function.startswith(SUMMED) and partial.type != "integer":
            raise QueryError(
                "query.noise",
                "the owner's policy adds noise, which grows with a column's bounds, and one that is measured "
                "has none; ask the owner to declare bounds, of a float with a scale",
            )
        sensitivity = moved[partial.name]
        if sensitivity is not None:
            scale = Scale.of(noise.mechanism, noise.loss, count, sensitivity, shares)
            partial = replace(partial, noise=scale.text, tail=scale.tail)
            _check_size(plan, partial)
        partials.append(partial)
    identities = Scale.of(noise.mechanism, noise.loss, count, once, shares).text if gated else ""
    return _with_partials(replace(plan, noise=Noise(noise.mechanism, noise.loss, identities)), partials)


SUMMED = ("sum", "avg", "var", "stddev")
"""What the functions begin with to which an identity adds as much as its values are large."""


def _present(figure: Figure) -> Figure:
    """Under noise every cell has a figure: whether anybody has a value is not told by a NULL."""
    if figure.function == "sum":
        return replace(figure, totals=(IDENTITIES, *figure.totals[1:]))
    if IDENTITIES in figure.totals:
        raise QueryError(
            "query.noise", "the owner's policy adds noise, and a number of matches would be exact; count rows"
        )
    return figure


def _needed(plan: Plan) -> Plan:
    """Without partials that no figure is computed from any more: each would take its part of the loss."""
    totals = [total for figure in plan.figures for total in figure.totals]
    if any(len(total.partials) > 1 for total in totals):
        raise QueryError(
            "query.noise", "noise on a sum this large would drown it; ask the owner to declare tighter bounds"
        )
    names = {name for total in totals for name in total.partials}
    return _with_partials(plan, [p for p in plan.sender.partials if p.name in names])


def _moved(partial: Partial, identity: str, rows: int, once: Sensitivity) -> Sensitivity | None:
    """How far one identity moves a figure over all cells; None where that has no bound.

    At most `rows` rows of an identity enter, each in one cell and each at most `row_bound`, so the figure
    moves by at most rows * row_bound in all, and by most when all of them lie in one cell.
    """
    if partial.function == "count_distinct" and partial.sql == quoted(identity):
        return once
    if partial.function not in ("sum", STEP) or partial.type != "integer":
        return None
    most = rows * max(1, partial.row_bound)
    return Sensitivity(most, most * most)


def _check_size(plan: Plan, partial: Partial) -> None:
    if plan.receiver is None and partial.row_bound * plan.sender.rows_bound + partial.tail > MOST_SUM:
        raise QueryError(
            "query.noise", "a sum with its noise has more than 38 digits; ask for tighter bounds"
        )


def _with_partials(plan: Plan, partials: Sequence[Partial]) -> Plan:
    return replace(plan, sender=replace(plan.sender, partials=tuple(partials)))


def _with_domains(
    plan: Plan, info: DatasetInfo, demands: Obligations, bucketed: Mapping[str, tuple[int, ...]]
) -> Plan:
    """The sender's dimensions with the labels that are declared, and as many cells as these make.

    `bucketed`: the numbers of fixed buckets, by the dimension's name. Raises `QueryError`.
    """
    if plan.receiver is not None or not plan.sender.dimensions:
        return plan
    domains = {quoted(c.name): (c.type, demands.domains.get(c.name, ())) for c in info.columns}
    dimensions = [
        _declared(d, *domains.get(d.sql, (d.type, bucketed.get(d.name, ())))) for d in plan.sender.dimensions
    ]
    cells = prod(len(d.domain) or 1 for d in dimensions)
    if cells > plan.maximum_cells:
        raise QueryError(
            "query.too-many-groups", f"the declared groups make {cells} cells, more than {plan.maximum_cells}"
        )
    sender = replace(plan.sender, dimensions=tuple(dimensions))
    return replace(plan, sender=sender, maximum_cells=cells)


def _declared(dimension: Dimension, kind: str, domain: tuple[str | bool | int, ...]) -> Dimension:
    try:
        labels(replace(dimension, type=kind, domain=domain))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        raise QueryError(
            "query.domain", "the owner's policy declares values of a group that are not of its column's type"
        ) from None
    return replace(dimension, domain=domain)


def labels(dimension: Dimension) -> pa.Array:
    """The declared labels in the column's type. Raises what Arrow raises when one is not of it."""
    kind = parse_type(dimension.type).arrow
    if not dimension.domain:
        return pa.array([], kind)
    written = _WRITTEN.get(parse_type(dimension.type).kind)
    if any(type(value) is not written for value in dimension.domain):
        raise TypeError("a label of another type")
    return pa.array(dimension.domain).cast(kind)


_WRITTEN: Mapping[str, type] = MappingProxyType(
    {"string": str, "date": str, "timestamp": str, "int64": int, "bool": bool}
)
"""How a policy writes labels of each type; others have none."""
