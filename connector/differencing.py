"""The differencing guard: no two answers to one asker that differ by a few identities.

The owner keeps, per asker and table and over all their agreements, which rows stood behind every cell that
left, as bitmaps. A query is refused, before anything leaves, when one of its cells differs from an earlier
one, or from a union of others, by at least one and fewer than the policy's minimum of identities. The same
rows again are no difference. Of a join the owner sees its own candidates only: there, besides, the asker's
dataset and what the query does to it must be those of every earlier query that could share a row with it.

Refusing says that a difference is small, and nothing of which cell or whom. Not every union is tried, and
askers who share their answers are not known to do so: docs/explanation/threat-model.md.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyroaring import BitMap

from compute.dataset import DatasetInfo
from compute.errors import DataError, PolicyRefusal
from compute.members import Membership
from compute.plan import Plan
from connector.state.rows import ComparedRecord
from connector.storage import Store
from policy_enforcer.facts import Decision, Reason
from policy_enforcer.model import Differencing
from policy_enforcer.moments import later
from witness import canonical

MOST_CELLS = 2048
"""Cells of earlier answers that a query is compared with; an asker with more must wait for the window."""

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Guard:
    """The guard of one query. `who_asks` and `table` name the history that it is compared with."""

    store: Store
    rule: Differencing
    table: str
    who_asks: str
    exchange: str
    layout: str
    asker_side: str
    now: datetime

    def admit(self, members: Membership, leaving: NDArray[np.bool_]) -> None:
        """Compare the cells that are to leave, and keep them. Raises `PolicyRefusal`.

        INVARIANT: one at a time for a table and an asker, so that of two queries that differ by too little
        the second sees the first.
        """
        history = f"{self.table} {self.who_asks}"
        with self.store.atomic():
            self.store.take_turn(self.table)
            names = _Names(self.store, self.table)
            cells = _bitmaps(members, leaving, names.numbered(members))
            earlier = [found for found in self.store.compared(history) if self._counts(found)]
            _Comparison(self, names.identities, cells).against(earlier)
            self.store.add_compared(history, self.exchange, self.layout, self.asker_side, _packed(cells))

    def _counts(self, found: ComparedRecord) -> bool:
        """Is an earlier answer within the window?"""
        window = self.rule.window
        return window is None or later(datetime.fromisoformat(found.at), window) > self.now


class _Comparison:
    """One query's cells beside those of earlier ones."""

    def __init__(self, guard: Guard, identities: NDArray[np.uint64], cells: Sequence[BitMap]) -> None:
        self._guard, self._least = guard, guard.rule.minimum_difference
        self._identities = identities
        # No identity has more rows: more different rows than these cannot be of too few identities.
        _, self._who = np.unique(identities, return_inverse=True)
        repeats = int(np.bincount(self._who).max(initial=1)) if len(identities) else 1
        self._plenty = self._least * repeats
        self._cells = cells

    def against(self, earlier: Sequence[ComparedRecord]) -> None:
        """Raise `PolicyRefusal` where anything differs by too little."""
        guard = self._guard
        answers = [list(_unpacked(found.cells)) for found in earlier]
        if sum(map(len, answers), len(self._cells)) > MOST_CELLS:
            raise _refused("there are more earlier answers than can be compared", "a question later on")
        here = BitMap.union(*self._cells) if self._cells else BitMap()
        comparable = []
        for found, cells in zip(earlier, answers, strict=True):
            if found.layout != guard.layout:  # the same rows have other names: by identities alone
                self._refuse(any(self._differ_in_names(a, b) for a in cells for b in self._cells))
            elif found.asker_side != guard.asker_side and any(here.intersect(cell) for cell in cells):
                raise _refused(
                    "it differs from an earlier one in what the asker brings or does to its own data",
                    "joint questions over one dataset of the asker's, filtered and grouped in one way",
                )
            else:
                comparable.append(cells)
        self._refuse(self._too_close(comparable))

    def _too_close(self, answers: Sequence[Sequence[BitMap]]) -> bool:
        before = [cell for cells in answers for cell in cells]
        new = [*self._cells, *_whole(self._cells)]
        old = [*before, *(whole for cells in answers for whole in _whole(cells))]
        return any(self._few(a, b) for a in new for b in old) or any(
            [
                *(self._few(target, union) for target in new for union in _unions(target, before)),
                *(self._few(target, union) for target in old for union in _unions(target, self._cells)),
                *(self._few(target, union) for target in old for union in self._with_new(target, before)),
            ]
        )

    def _with_new(self, target: BitMap, before: Sequence[BitMap]) -> Iterator[BitMap]:
        """Unions of this query's cells and earlier ones, for an earlier target that they may make up."""
        if any(cell.intersect(target) for cell in self._cells):
            others = [cell for cell in before if cell != target]
            yield from _unions(target, self._cells, others)

    def _few(self, a: BitMap, b: BitMap) -> bool:
        """Do two sets of rows differ, and in those of fewer identities than the minimum?"""
        count = a.symmetric_difference_cardinality(b)
        if not 0 < count < self._plenty:
            return False
        different = np.asarray((a ^ b).to_array(), np.int64)
        return len(np.unique(self._who[different])) < self._least

    def _differ_in_names(self, a: BitMap, b: BitMap) -> bool:
        one, other = (np.unique(self._who[np.asarray(cell.to_array(), np.int64)]) for cell in (a, b))
        return len(np.setxor1d(one, other)) < self._least

    def _refuse(self, close: bool) -> None:
        if close:
            raise _refused(
                f"an answer would differ from what is known already by fewer than {self._least} identities",
                "the same question again, or one that differs by more",
            )


def _refused(sentence: str, allowed: str) -> PolicyRefusal:
    reason = Reason("gate.differencing", "analysis.differencing", sentence, allowed=allowed)
    return PolicyRefusal(Decision((reason,)))


def _whole(cells: Sequence[BitMap]) -> list[BitMap]:
    """All cells of an answer together, where that is another set."""
    return [BitMap.union(*cells)] if len(cells) > 1 else []


def _unions(target: BitMap, *pools: Sequence[BitMap]) -> Iterator[BitMap]:
    """The union of cells that share no row and lie in the target for the most part: largest first."""
    made, parts = BitMap(), 0
    for pool in pools:
        for cell in sorted(pool, key=len, reverse=True):
            inside = cell.intersection_cardinality(target)
            if 2 * inside > len(cell) and not made.intersect(cell):
                made, parts = made | cell, parts + 1
    if parts > 1:
        yield made


class _Names:
    """Rows by number: what bitmaps are made of. A number, once given, stays."""

    def __init__(self, store: Store, table: str) -> None:
        self._store, self._table = store, table
        rows, identities = store.member_names(table)
        self._rows, self.identities = np.frombuffer(rows, "<u8"), np.frombuffer(identities, "<u8")

    def numbered(self, members: Membership) -> NDArray[np.uint32]:
        """The number of each member; those that are new get one."""
        known = np.argsort(self._rows, kind="stable")
        fresh, first = np.unique(members.row, return_index=True)
        new = ~_found(self._rows, known, fresh)[0]
        if new.any():
            self._add(fresh[new], members.who[first[new]])
            known = np.argsort(self._rows, kind="stable")
        return _found(self._rows, known, members.row)[1].astype(np.uint32)

    def _add(self, rows: NDArray[np.uint64], identities: NDArray[np.uint64]) -> None:
        order = np.lexsort((rows, identities))  # rows of one identity side by side make short bitmaps
        rows, identities = rows[order].astype("<u8"), identities[order].astype("<u8")
        self._store.add_member_names(self._table, len(self._rows), rows.tobytes(), identities.tobytes())
        self._rows = np.concatenate([self._rows, rows])
        self.identities = np.concatenate([self.identities, identities])


def _found(
    rows: NDArray[np.uint64], order: NDArray[np.intp], wanted: NDArray[np.uint64]
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Which of `wanted` are among `rows`, and where."""
    if not len(rows):
        return np.zeros(len(wanted), np.bool_), np.zeros(len(wanted), np.intp)
    at = order[np.minimum(np.searchsorted(rows, wanted, sorter=order), len(rows) - 1)]
    return rows[at] == wanted, at


def _bitmaps(members: Membership, leaving: NDArray[np.bool_], numbers: NDArray[np.uint32]) -> list[BitMap]:
    order = np.argsort(members.cell, kind="stable")
    ends = np.cumsum(np.bincount(members.cell, minlength=members.cells()))
    parts = np.split(numbers[order], ends[:-1])
    return [BitMap(part) for part, leaves in zip(parts, leaving, strict=True) if leaves and len(part)]


def _packed(cells: Iterable[BitMap]) -> bytes:
    bodies = [cell.serialize() for cell in cells]
    return b"".join(_LENGTH.pack(len(body)) + body for body in bodies)


def _unpacked(data: bytes) -> Iterator[BitMap]:
    place = 0
    while place < len(data):
        (length,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size + length
        yield BitMap.deserialize(data[place - length : place])


# --- what is compared


def layout_of(info: DatasetInfo) -> str:
    """Digest of what a row's name is made of: the columns and their types."""
    columns = sorted([column.name, column.type] for column in info.columns)
    return hashlib.sha256(canonical.serialise({"columns": columns})).hexdigest()


def asker_side_of(plan: Plan, info: DatasetInfo | None) -> str:
    """Digest of what decides which of our candidates match: the asker's data and what is done to it."""
    side = plan.receiver
    if side is None or info is None:
        return ""
    does = asdict(side)
    weighing = [p for p in does.pop("partials") if p["name"] in side.weights]
    text = json.dumps([info.commitment, plan.join, plan.kind, does, weighing], sort_keys=True)
    return hashlib.sha256(b"bayspace asker side v1\0" + text.encode()).hexdigest()


def leaving(members: Membership, cells: pa.Table) -> NDArray[np.bool_]:
    """Which of the members' cells are about to leave. Raises `DataError` when not all of these are found."""
    names = members.labels.schema.names
    if not names:
        return np.full(1, cells.num_rows > 0)
    named = {tuple(row.values()) for row in cells.select(names).to_pylist()}
    found = np.array([tuple(row.values()) in named for row in members.labels.to_pylist()], np.bool_)
    if np.count_nonzero(found) != cells.num_rows:
        raise DataError("data.unguarded", "the rows behind a cell are not known, so nothing is released")
    return found
