"""A joint result computed once more, by an auditor, from what its receipt opens.

The owner answered under masks that the asker had committed to before; both signed that commitment and the
answer. So where the asker opens masks and answer, anybody can subtract one from the other, and hold the sums
of every cell against the asker's own table. Opening the masks tells the owner the sums of the cells that its
gate held back: they are shown to auditors, not to owners.

Refuses receipts that do not open plan, masks and answer, and everything that contradicts what was signed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from compute import selection_sum
from compute.errors import ConfigError, PeerViolation
from compute.protocols import _aggregate
from compute.selection_sum import CellSums
from witness.checks import VerificationFailed
from witness.record import SALT_SIZE, commit
from witness.verify import Verified, VerifiedItem

SHOWN = ("plan", "masks", "answer", "result")
_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Recomputed:
    """One query's cells in the protocol's order (None: held back), the names of their sums, and its table."""

    exchange: str
    figures: tuple[tuple[str, int], ...]  # name, and decimal digits behind the point
    cells: tuple[CellSums | None, ...]
    result: pa.Table | None  # as the asker asserts it; None where the receipt does not open it

    def as_json(self) -> dict[str, Any]:
        """Sums as digits: they have up to 38."""
        return {
            "exchange": self.exchange,
            "cells": [self._cell(cell) for cell in self.cells if cell is not None],
        }

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
    try:
        plan = json.loads(intent.opened["plan"])
        cells = _aggregate.recomputed(plan, masks, _unframed(framed))
        figures = tuple((str(p["name"]), _scale(p["scale"])) for p in plan["sender"]["partials"])
    except (PeerViolation, KeyError, ValueError, TypeError, RecursionError) as error:
        raise VerificationFailed(
            "commitment", "Plan, masks and answer do not fit together.", number
        ) from error
    return Recomputed(exchange, figures, tuple(cells), _table(result.opened.get("result"), number))


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
    while framed:
        size = int.from_bytes(framed[:_LENGTH], "big")
        bodies.append(framed[_LENGTH : _LENGTH + size])
        framed = framed[_LENGTH + size :]
    return b"".join(bodies)[_LENGTH:]
