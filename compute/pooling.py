"""A question over a federation: the plan of pooled rows, one participant's part, and the answer's cells.

`federation.<name>` stands for the datasets of all its participants, which have one schema. Every figure is a
sum over rows, so totals over participants are totals over the pooled rows. Cells are those of declared
labels: which labels occur is nobody's to tell. Refused: groups without declared labels, figures that are
no sums.

Under noise every participant adds to its own part what its policy demands for its own rows, before anything
else is done with it. So whoever works together learns no more about an identity than its budget says, and
nothing rests on what others add; the total carries the noise of all.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from compute.contributions import grid
from compute.dataset import DatasetInfo
from compute.demands import MOST_SUM, demanded
from compute.errors import DataError, QueryError
from compute.extremes import ANY
from compute.federation import MOST_PARTICIPANTS, Contribution, Shape, Totals
from compute.inputs import Cells, Gate
from compute.plan import Partial, Plan, Side
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


def planned(
    draft: Plan,
    info: DatasetInfo,
    demands: Obligations,
    parts: Sequence[Part],
    bucketed: Mapping[str, tuple[int, ...]],
) -> Plan:
    """The draft over all parts; `bucketed` are the labels of fixed buckets. Raises `QueryError`."""
    plan = demanded(draft, info, demands, bucketed, pooled=True)
    undeclared = [d.sql for d in plan.sender.dimensions if not d.domain]
    if undeclared:
        raise QueryError(
            "query.group-undeclared",
            f"a federation is grouped by columns whose labels its policies declare: "
            f"{', '.join(sorted(demands.domains)) or 'there are none'}",
        )
    if plan.noise is not None:
        _check_noise(plan.sender, len(parts))
    return replace(plan, federation=tuple(part.dataset for part in parts))


def _check_noise(side: Side, participants: int) -> None:
    if not side.partials:
        raise QueryError("query.noise", "the owners' policies add noise, and declare the labels; count rows")
    if any(bound(side, partial, participants) > MOST_SUM for partial in side.partials):
        raise QueryError(
            "query.noise", "a sum with its noise has more than 38 digits; ask for tighter bounds"
        )


def bound(side: Side, partial: Partial, participants: int) -> int:
    """No total of a figure is larger, noise of so many participants included."""
    return partial.row_bound * side.rows_bound + participants * partial.tail


def counts_bound(side: Side, participants: int) -> int:
    """No total of identities is. Their noise is the smallest of all: an identity moves nothing by less."""
    return side.rows_bound + participants * max((partial.tail for partial in side.partials), default=0)


def shape(plan: Plan) -> Shape:
    """The table of a round: declared cells, a measure a partial."""
    return Shape(plan.maximum_cells, len(plan.sender.partials), plan.noise is not None)


def threshold_parameters(side: Side, cells: int) -> Parameters:
    """The threshold key's parameters, for as many participants as there may be: every total is exact."""
    bounds = [bound(side, partial, MOST_PARTICIPANTS) for partial in side.partials]
    vectors = [2 * cells, len(side.partials) * cells]
    most = max([counts_bound(side, MOST_PARTICIPANTS), *bounds])
    return Parameters.derive(MOST_PARTICIPANTS, most, vectors)


def contribution(plan: Plan, table: pa.Table, gate: Gate) -> Contribution:
    """One participant's cells (compute/local.py) in declared order, without those its own gate leaves out.

    In a cell that one identity dominates nobody counts: it is left out, whatever the gate demands.
    """
    places = {row: place for place, row in enumerate(_rows(_labels(plan)))}
    at = [places[row] for row in _rows(table.select([d.name for d in plan.sender.dimensions]))]
    counts = np.zeros(plan.maximum_cells, np.int64)
    counts[at] = table["identities"].to_numpy()
    # under noise a cell without anybody is like any other
    judged = counts if plan.noise is None else np.maximum(counts, 1)
    kept = gate(judged.reshape(1, -1))[0] & (judged > 0)
    columns = []
    for partial in plan.sender.partials:
        column = [0] * plan.maximum_cells
        for place, value in zip(at, table[partial.name].to_pylist(), strict=True):
            column[place] = int(value or 0) if kept[place] else 0
            _check(bound(plan.sender, partial, 1), column[place])
        columns.append(tuple(column))
    shown = None if plan.noise is None else tuple(kept.tolist())
    return Contribution(tuple(np.where(kept, counts, 0).tolist()), tuple(columns), shown)


def _check(most: int, value: int) -> None:
    if abs(value) > most:
        raise DataError("data.bounds", "a sum is beyond what the catalogue's bounds allow")


def cells(plan: Plan, totals: Totals, released: Sequence[bool]) -> Cells:
    """The released cells of all participants together, as `compute/finish.py` takes them."""
    shown = pa.array([at for at, let in enumerate(released) if let], pa.int64())
    labels = _labels(plan)
    columns = {name: labels[name].take(shown) for name in labels.schema.names}
    columns["identities"] = pa.array(totals.identities, pa.int64()).take(shown)
    for partial, sums in zip(plan.sender.partials, totals.measures, strict=True):
        columns[partial.name] = pa.array(sums, SUM_TYPE).take(shown)
    exist = sum(count > 0 or plan.noise is not None for count in totals.identities)
    return Cells(pa.table(columns), exist - len(shown) if plan.says_suppressed else 0)


def _labels(plan: Plan) -> pa.Table:
    """Every combination of declared labels, in the order of the vectors. Without dimensions: no columns."""
    return grid(plan.sender.dimensions) if plan.sender.dimensions else pa.table({})


def _rows(labels: pa.Table) -> list[tuple[Any, ...]]:
    """The labels of each cell; without dimensions there is one cell."""
    columns = [column.to_pylist() for column in labels.columns]
    return list(zip(*columns, strict=True)) if columns else [()]


def with_own(plan: Plan, cells: Cells, own: pa.Table | None) -> Cells:
    """The released cells with the asker's own rows (compute/local.py) in them.

    They are added after the round: no gate counts them, and nobody else learns that there are any.
    """
    if own is None:
        return cells
    names, table = [d.name for d in plan.sender.dimensions], cells.table
    places = {row: place for place, row in enumerate(_rows(own.select(names)))}
    at = [places.get(row) for row in _rows(table.select(names))][: table.num_rows]
    reached = {partial.name for partial in plan.sender.partials if partial.function == ANY}
    for name in ("identities", *(partial.name for partial in plan.sender.partials)):
        ours, theirs = own[name].to_pylist(), table[name].to_pylist()
        add = operator.or_ if name in reached else operator.add
        sums = [add(int(x), 0 if i is None else int(ours[i] or 0)) for i, x in zip(at, theirs, strict=True)]
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(sums, table.schema.field(name).type))
    return Cells(table, cells.suppressed)
