"""A participant destroys its own copies of one exchange's records; digests and proofs stay.

What it erases it can show nobody any more, and not read itself. That a record of this digest was logged at
that time stays provable, and whoever has another copy (the other side, a witness, a receipt) can still show
the content. Refuses an exchange that is not over; a contract is over once it is terminated.
"""

from __future__ import annotations

from dataclasses import dataclass

from compute.errors import ConfigError
from connector.storage import Store


@dataclass(frozen=True, slots=True)
class Erasable:
    """What the store still has of an exchange."""

    exchange: str
    records: int
    readable: int
    logged: int  # by a witness: that they existed then is provable for ever


def erasable(store: Store, exchange: str) -> Erasable:
    """What erasing would concern. Raises `ConfigError` for an unknown exchange, or one that is not over."""
    found, kept = store.exchange(exchange), store.evidence(exchange)
    if found is None or not kept:
        raise ConfigError("evidence.unknown", "there is no evidence of an exchange with this id")
    if found.status == "open":
        raise ConfigError("evidence.open", "the exchange is not over; a contract is once it is terminated")
    logged = {r.sequence for r in store.receipts(exchange) if r.status == "delivered"}
    readable = sum(record.envelope is not None for record in kept)
    return Erasable(exchange, len(kept), readable, len(logged))


def confirmed(found: Erasable, *, yes: bool) -> None:
    """Raise `ConfigError`, which says what would go, until somebody has said yes."""
    if not yes:
        raise ConfigError(
            "evidence.confirm",
            f"this would erase {found.readable} of {found.records} records for good; a witness logged "
            f"{found.logged}. No receipt of this exchange could be made here any more. Nothing was erased: "
            "--yes erases",
        )
