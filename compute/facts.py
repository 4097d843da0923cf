"""What a query does with every column it names, as facts for the policies of both datasets.

Facts are noted while the SQL is bound, at the place that understands each node, so no later reading
can miss one. A column that occurs anywhere has an entry. Facts hold column names and closed words,
never a literal, a value or SQL text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from compute.dataset import DatasetInfo
from compute.plan import Dimension, Plan
from policy_enforcer.facts import ColumnUse, FederationUse, ProtocolUse, Request

if TYPE_CHECKING:  # protocols plan and bind by what is noted here
    from compute.protocols.base import Protocol

ColumnRef = tuple[str, str]
"""(participant.dataset, column)."""


@dataclass(slots=True)
class _Noted:
    """The facts about one column, while they are collected."""

    filtered: set[str] = field(default_factory=set)
    aggregated: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    marks: set[str] = field(default_factory=set)  # the boolean facts that hold


class Notes:
    """Collects facts. What is noted inside an aggregate's predicate is marked: selecting or conditional."""

    def __init__(self) -> None:
        self._columns: dict[ColumnRef, _Noted] = {}
        self.literals_on_total = False
        self._inside: frozenset[str] = frozenset()
        self._aggregated = False

    @contextmanager
    def predicate_inside_aggregate(self, *, selecting: bool) -> Iterator[None]:
        """FILTER, COUNT_IF, CASE under a sum: everything that is read meanwhile decides what counts.

        `selecting`: rows that do not meet it have no value, so that nobody counts them for a minimum.
        """
        outer = self._inside
        self._inside = outer | {"selecting" if selecting else "conditional"}
        try:
            yield
        finally:
            self._inside = outer

    @contextmanager
    def inside_aggregate(self) -> Iterator[None]:
        """COUNT(CASE …), MIN(nullif(…)): here every comparison is a predicate inside an aggregate."""
        outer, self._aggregated = self._aggregated, True
        try:
            yield
        finally:
            self._aggregated = outer

    def seen(self, columns: Iterable[ColumnRef]) -> Iterable[_Noted]:
        """Entries of these columns, made if they are new."""
        for column in sorted(columns):
            entry = self._columns.setdefault(column, _Noted())
            entry.marks |= self._inside
            yield entry

    def compared(self, columns: Iterable[ColumnRef], how: str, *, literal: bool, column: bool) -> None:
        """A comparison over these columns, with a literal, with another column, or both."""
        for entry in self.seen(columns):
            entry.filtered.add(how)
            if self._aggregated:
                entry.marks.add("conditional")
            if literal:
                entry.marks.add("compared_with_literal")
            if column:
                entry.marks.add("compared_with_column")

    def defaulted(self, columns: Iterable[ColumnRef]) -> None:
        """A value in place of NULL, or NULL in place of one: inside an aggregate it says which rows count."""
        if self._aggregated:
            self.marked(columns, "conditional")

    def multiplied(self, columns: Iterable[ColumnRef]) -> None:
        """A product of columns; in a condition or a group it is like any other arithmetic."""
        if self._aggregated:
            self.applied(columns, "product")

    def applied(self, columns: Iterable[ColumnRef], function: str) -> None:
        """A scalar function over these columns."""
        for entry in self.seen(columns):
            entry.functions.add(function)

    def aggregated(self, columns: Iterable[ColumnRef], function: str) -> None:
        """An aggregate over these columns."""
        for entry in self.seen(columns):
            entry.aggregated.add(function)

    def marked(self, columns: Iterable[ColumnRef], mark: str) -> None:
        """One of the boolean facts: joined, grouped."""
        for entry in self.seen(columns):
            entry.marks.add(mark)

    def uses(self, dataset: str) -> tuple[ColumnUse, ...]:
        """What the query does with each column of that dataset, in the order of their names."""
        return tuple(
            ColumnUse(
                column=column,
                filtered=frozenset(entry.filtered),
                aggregated=frozenset(entry.aggregated),
                functions=frozenset(entry.functions),
                **dict.fromkeys(sorted(entry.marks), True),
            )
            for (owner, column), entry in sorted(self._columns.items())
            if owner == dataset
        )


def rows_at_most(plan: Plan) -> int:
    """How many rows an answer may have, or, in a list, how many of the owner's rows may leave."""
    if plan.kind == "list":
        return plan.sender.rows_bound
    if plan.receiver is not None or plan.noise is not None or plan.federation:
        return plan.maximum_cells  # groups of two sides, or declared ones, which are answered empty too
    return min(plan.maximum_cells, plan.sender.rows_bound)


_OVERHEAD = 1 << 12
"""Bytes of a release besides its cells: lengths, schemas, padding."""

_FIGURE_BYTES = 64
_TEXT_BYTES = 256
"""Text that neither a domain nor a width limits: with longer labels an answer outgrows what was charged."""


def bytes_at_most(plan: Plan) -> int:
    """How many bytes an answer may have as it leaves: 64 for each figure, number and date of each row."""
    dimensions = plan.sender.dimensions
    weights = 1 + (len(plan.receiver.weights) if plan.receiver is not None else 0)
    figures = _FIGURE_BYTES * weights * (1 + len(plan.sender.partials))
    fixed = _OVERHEAD * (1 + len(dimensions) + len(plan.sender.partials))
    if plan.kind == "list" and plan.receiver is not None:
        fixed += plan.receiver.keys_bound // 8 + 1  # a bit for each of the asker's keys
    return fixed + rows_at_most(plan) * (figures + sum(map(_label_bytes, dimensions)))


def _label_bytes(dimension: Dimension) -> int:
    if dimension.type != "string":
        return _FIGURE_BYTES
    declared = [dimension.width, *(len(str(value).encode()) for value in dimension.domain)]
    return _FIGURE_BYTES + (max(declared) or _TEXT_BYTES)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan with the facts that each dataset's policy decides on."""

    plan: Plan
    protocol: Protocol
    datasets: tuple[DatasetInfo, ...]  # every dataset the query names
    uses: dict[str, tuple[ColumnUse, ...]]  # by participant.dataset
    literals_on_total: bool

    def requests(
        self,
        *,
        recipients: frozenset[str],
        purpose: str | None,
        at: datetime,
        witnesses: int = 0,
        processing: frozenset[str] = frozenset(),
        receiving: frozenset[str] = frozenset(),
        query_template: str | None = None,
        part: str | None = None,
    ) -> dict[str, Request]:
        """One request for each dataset's policy, by `participant.dataset`.

        `part`: the dataset whose policy is asked, where the query is over a federation.
        """
        return {
            part or info.full_name: Request(
                dataset=part or info.full_name,
                owner=part.split(".", 1)[0] if part else info.participant,
                asker=self.plan.asker,
                recipients=recipients,
                purpose=purpose,
                at=at,
                kind=self.plan.kind,
                columns=self.uses[info.full_name],
                protocol=self._protocol_use(),
                joint=self.plan.receiver is not None,
                asker_data=any(d.participant == self.plan.asker for d in self.datasets),
                join_operators=frozenset({"and"} if len(self.plan.sender.keys) > 1 else ()),
                identity_columns=self._identities(info),
                peer_keys=self._peer_keys(info),
                query_template=query_template,
                witnesses=witnesses,
                processing=processing,
                receiving=receiving,
                grades={c.name: c.grade for c in info.columns if c.grade is not None},
                categories={c.name: c.category for c in info.columns if c.category is not None},
                federation=self._federation(info, part),
                unmatched=self.plan.sender.kept and info.full_name == self.plan.sender.dataset,
                rows_at_most=rows_at_most(self.plan),
                bytes_at_most=bytes_at_most(self.plan),
                literals_on_total=self.literals_on_total,
            )
            for info in self.datasets
        }

    def _federation(self, info: DatasetInfo, part: str | None) -> FederationUse | None:
        if not self.plan.federation:
            return None
        others = frozenset(name.split(".", 1)[0] for name in self.plan.federation if name != part)
        return FederationUse(info.name, len(self.plan.federation), others)

    def _protocol_use(self) -> ProtocolUse:
        p = self.protocol
        return ProtocolUse(p.name, p.version, p.level, self.plan.reveals, p.gates)

    def _identities(self, info: DatasetInfo) -> tuple[str, ...]:
        """Columns whose distinct values the owner's gate can count for this query.

        Alone, the owner counts any column. In a join only keys are counted: a composite key counts
        tuples, of which there may be more than distinct values of one part, unless that part is unique.
        """
        if self.plan.receiver is None:
            return tuple(column.name for column in info.columns)
        sides = (self.plan.receiver, self.plan.sender)
        keys = next(side.keys for side in sides if side.dataset == info.full_name)
        unique = {column.name for column in info.columns if column.unique}
        return keys if len(keys) == 1 else tuple(key for key in keys if key in unique)

    def _peer_keys(self, info: DatasetInfo) -> int:
        return sum(other.keys_bound for other in self.datasets if other.full_name != info.full_name)
