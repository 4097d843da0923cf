"""A joint result computed once more, by an auditor, from what its receipt opens.

The owner answered under masks that the asker had committed to before; both signed that commitment and the
answer. So where the asker opens masks and answer, anybody can subtract one from the other, and hold the sums
of every cell against the asker's own table. Opening the masks tells the owner the sums of the cells that its
gate held back: they are shown to auditors, not to owners.

Of the table, where the receipt opens it, columns that are a sum or count of the owner's alone are compared
with the cells, as a multiset of rows. Labels, derived figures and the asker's own sums stay its word; so does
the whole table of an outer or anti join, of quantiles, and of DISTINCT. Under HAVING a row may be missing.

Refuses receipts that do not open plan, masks and answer, and everything that contradicts what was signed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pyarrow as pa

from compute import selection_sum
from compute.errors import BayspaceError, ConfigError
from compute.finish import plain
from compute.protocols import _aggregate
from compute.protocols._release import SUM_TYPE
from compute.selection_sum import CellSums
from witness.checks import VerificationFailed
from witness.record import SALT_SIZE, commit
from witness.verify import Verified, VerifiedItem

SHOWN = ("plan", "masks", "answer", "result")
_LENGTH = 8
_UNFIT = (BayspaceError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Recomputed:
    """One query's cells in the protocol's order (None: held back), the names of their sums, and its table."""

    exchange: str
    figures: tuple[tuple[str, int], ...]  # name, and decimal digits behind the point
    cells: tuple[CellSums | None, ...]
    result: pa.Table | None  # as the asker asserts it; None where the receipt does not open it
    compared: tuple[str, ...] = ()  # columns of it that are those of the cells

    def as_json(self) -> dict[str, Any]:
        """Sums as digits: they have up to 38."""
        return {
            "exchange": self.exchange,
            "cells": [self._cell(cell) for cell in self.cells if cell is not None],
            "compared": list(self.compared),
        }

    def table(self) -> pa.Table:
        """The cells that are rows of the answer, by the names of the plan's partial sums."""
        shown = [cell for cell in self.cells if cell is not None and cell.count]
        columns = {"identities": pa.array([cell.count for cell in shown], pa.int64())}
        for i, (name, _) in enumerate(self.figures):
            columns[name] = pa.array([Decimal(cell.measures[i]) for cell in shown], SUM_TYPE)
        return pa.table(columns)

    def _cell(self, cell: CellSums) -> dict[str, Any]:
        pairs = zip(self.figures, cell.measures, strict=True)
        sums = {name: format(Decimal(f"{total}e-{scale}"), "f") for (name, scale), total in pairs}
        weighted = [list(map(str, column)) for column in cell.weighted]
        return {"identities": cell.count, "sums": sums, **({"weighted": weighted} if weighted else {})}


def recomputed(verified: Verified) -> list[Recomputed]:
    """Every joint query of a verified bundle. Raises `ConfigError`, `VerificationFailed`."""
    exchanges: dict[str, dict[str, tuple[int, VerifiedItem]]] = {}
    for number, item in enumerate(verified.items):
        exchanges.setdefault(item.record.exchange.id, {})[item.record.event] = (number, item)
    found = [_query(exchange, records) for exchange, records in exchanges.items() if _is_open(records)]
    if not found:
        raise ConfigError("evidence.masks", f"no query of this receipt opens {', '.join(SHOWN[:3])}")
    return found


def _is_open(records: dict[str, tuple[int, VerifiedItem]]) -> bool:
    if not {"query.intent", "query.release", "query.result"} <= set(records):
        return False
    return "plan" in records["query.intent"][1].opened and {"masks", "answer"} <= set(
        records["query.result"][1].opened
    )


def _query(exchange: str, records: dict[str, tuple[int, VerifiedItem]]) -> Recomputed:
    intent, release = records["query.intent"][1], records["query.release"][1]
    number, result = records["query.result"]
    masks, answer = result.opened["masks"], result.opened["answer"]
    if selection_sum.commitment_to(masks).hex() != release.record.data.digests.get("masks"):
        raise VerificationFailed(
            "commitment", "The opened masks are not those that both sides signed.", number
        )
    salt, framed = answer[:SALT_SIZE], answer[SALT_SIZE:]
    whole = len(salt) == SALT_SIZE and commit("release", salt, hashlib.sha256(framed).digest())
    if whole != release.record.data.commitments["release"]:
        raise VerificationFailed(
            "commitment", "The opened answer is not the one that both sides signed.", number
        )
    asserted = _table(result.opened.get("result"), number)
    with _fitting("Plan, masks and answer do not fit together.", number):
        plan = json.loads(intent.opened["plan"])
        cells = _aggregate.recomputed(plan, masks, _unframed(framed))
        figures = tuple((str(p["name"]), _scale(p["scale"])) for p in plan["sender"]["partials"])
        found = Recomputed(exchange, figures, tuple(cells), asserted)
        found.as_json()  # as many figures as the plan has names
    with _fitting("The asker's table is not what plan, masks and answer give.", number):
        return replace(found, compared=_compared(plan, found))


@contextmanager
def _fitting(sentence: str, number: int) -> Iterator[None]:
    """Whatever goes wrong inside does so for what the receipt opens."""
    try:
        yield
    except _UNFIT as error:
        raise VerificationFailed("commitment", sentence, number) from error


def _compared(plan: Mapping[str, Any], found: Recomputed) -> tuple[str, ...]:
    """The columns of the asserted table that hold the cells' sums. Raises ValueError if any differs."""
    table = found.result
    if table is None or not _cell_by_cell(plan):
        return ()
    if table.column_names != [output["name"] for output in plan["outputs"]]:
        raise ValueError("other columns")
    columns = plain(plan, found.table())
    cells = Counter(zip(*columns.values(), strict=True))
    rows = Counter(zip(*(table.column(place).to_pylist() for place in columns), strict=True))
    limit = cells.total() if plan["limit"] is None else plan["limit"]
    whole = plan["having"] is not None or rows.total() == min(limit, cells.total())
    if columns and not (whole and rows <= cells):
        raise ValueError("other rows")
    return tuple(table.column_names[place] for place in columns)


def _cell_by_cell(plan: Mapping[str, Any]) -> bool:
    """Whether each released cell is one row of the answer, before HAVING and LIMIT."""
    outer = plan["sender"]["kept"] or plan["receiver"]["totals"]
    merged = plan["histogram"] is not None or plan["unrepeated"] or plan["federation"]
    return plan["kind"] == "aggregate" and not outer and not merged


def _table(body: bytes | None, number: int) -> pa.Table | None:
    if body is None:
        return None
    try:
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise VerificationFailed("commitment", "The opened result is no table.", number) from error
    return table


def _scale(value: int) -> int:
    if value not in range(39):  # a sum has 38 digits at most
        raise ValueError("no scale of a sum")
    return value


def _unframed(framed: bytes) -> bytes:
    """The release in the frames, each behind its length; its own length comes first."""
    bodies: list[bytes] = []
    at = 0
    while at < len(framed):
        body = at + _LENGTH
        at = body + int.from_bytes(framed[at:body], "big")
        bodies.append(framed[body:at])
    return b"".join(bodies)[_LENGTH:]
