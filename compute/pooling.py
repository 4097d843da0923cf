"""A question over a federation: the plan of pooled rows, one participant's part, and the answer's cells.

`federation.<name>` stands for the datasets of all its participants, which have one schema. Every figure is a
sum over rows, so totals over participants are totals over the pooled rows. Cells are those of declared
labels: which labels occur is nobody's to tell. Refused: groups without declared labels, figures that are
no sums, noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from compute.contributions import grid
from compute.dataset import DatasetInfo
from compute.demands import counting, with_domains
from compute.errors import DataError, QueryError
from compute.federation import MOST_PARTICIPANTS, Contribution, Shape, Totals
from compute.inputs import Cells, Gate
from compute.plan import Plan, Side
from compute.protocols._release import SUM_TYPE
from compute.threshold import Parameters
from policy_enforcer.obligations import Obligations

FEDERATION = "federation"
"""What stands before a federation's name in FROM, in place of a participant."""


@dataclass(frozen=True, slots=True)
class Part:
    """One participant's dataset in a federation."""

    dataset: str  # participant.dataset
    rows_bound: int

    @property
    def participant(self) -> str:
        """Whose it is."""
        return self.dataset.split(".", 1)[0]


def pooled(name: str, own: DatasetInfo, parts: Sequence[Part]) -> DatasetInfo:
    """The description of all parts together, from one of them. Raises `QueryError`."""
    if len(parts) < 2:
        raise QueryError(
            "query.federation", f"{FEDERATION}.{name} has fewer than two datasets with an agreement in force"
        )
    rows = sum(part.rows_bound for part in parts)
    return replace(
        own, participant=FEDERATION, name=name, rows_bound=rows, keys_bound=rows, commitment="00" * 32
    )


def planned(draft: Plan, info: DatasetInfo, demands: Obligations, parts: Sequence[Part]) -> Plan:
    """The draft over all parts. Raises `QueryError`."""
    if demands.noise is not None:
        raise QueryError("query.noise", "noise over a federation is not available; ask one participant alone")
    plan = with_domains(counting(draft), info, demands)
    undeclared = [d.sql for d in plan.sender.dimensions if not d.domain]
    if undeclared:
        raise QueryError(
            "query.group-undeclared",
            f"a federation is grouped by columns whose labels its policies declare: "
            f"{', '.join(sorted(demands.domains)) or 'there are none'}",
        )
    return replace(plan, federation=tuple(part.dataset for part in parts))


def shape(plan: Plan) -> Shape:
    """The table of a round: declared cells, a measure a partial."""
    return Shape(plan.maximum_cells, len(plan.sender.partials))


def threshold_parameters(side: Side, cells: int) -> Parameters:
    """The threshold key's parameters, for as many participants as there may be: every total is exact."""
    bounds = [partial.row_bound * side.rows_bound for partial in side.partials]
    vectors = [2 * cells, len(side.partials) * cells]
    return Parameters.derive(MOST_PARTICIPANTS, max([side.rows_bound, *bounds]), vectors)


def contribution(plan: Plan, table: pa.Table, gate: Gate) -> Contribution:
    """One participant's cells (compute/local.py) in declared order, without those its own gate leaves out."""
    places = _places(plan)
    names = [d.name for d in plan.sender.dimensions]
    at = (
        [places[row] for row in zip(*(table[name].to_pylist() for name in names), strict=True)]
        if names
        else [0]
    )
    counts = np.zeros(plan.maximum_cells, np.int64)
    counts[at] = table["identities"].to_numpy()
    kept = gate(counts.reshape(1, -1))[0] & (counts > 0)
    columns = []
    for partial in plan.sender.partials:
        column = [0] * plan.maximum_cells
        for place, value in zip(at, table[partial.name].to_pylist(), strict=True):
            column[place] = int(value or 0) if kept[place] else 0
            _check(partial.row_bound * plan.sender.rows_bound, column[place])
        columns.append(tuple(column))
    return Contribution(tuple(np.where(kept, counts, 0).tolist()), tuple(columns))


def _check(bound: int, value: int) -> None:
    if abs(value) > bound:
        raise DataError("data.bounds", "a sum is beyond what the catalogue's bounds allow")


def cells(plan: Plan, totals: Totals, released: Sequence[bool]) -> Cells:
    """The released cells of all participants together, as `compute/finish.py` takes them."""
    shown = pa.array([at for at, let in enumerate(released) if let], pa.int64())
    labels = grid(plan.sender.dimensions) if plan.sender.dimensions else None
    columns = {} if labels is None else {name: labels[name].take(shown) for name in labels.schema.names}
    columns["identities"] = pa.array(totals.identities, pa.int64()).take(shown)
    for partial, sums in zip(plan.sender.partials, totals.measures, strict=True):
        columns[partial.name] = pa.array(sums, SUM_TYPE).take(shown)
    exist = sum(count > 0 for count in totals.identities)
    return Cells(pa.table(columns), exist - len(shown) if plan.says_suppressed else 0)


def _places(plan: Plan) -> dict[tuple[Any, ...], int]:
    """Where each combination of labels stands."""
    labels = grid(plan.sender.dimensions) if plan.sender.dimensions else None
    if labels is None:
        return {}
    rows = zip(*(labels[name].to_pylist() for name in labels.schema.names), strict=True)
    return {row: place for place, row in enumerate(rows)}
