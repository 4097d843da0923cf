"""The transfer of each query's answer, as the Dataspace Protocol names its states.

A state is not kept a second time: it is what the exchange's evidence leads to in the transfer table. The
intent that both signed starts it, the answer completes it, a refusal or a failure terminates it; while the
owner has suspended the agreement, what is running is suspended. A query cannot be continued, its keys are
gone: what was suspended ends terminated, and is asked again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from connector.state.rows import EvidenceRecord, ExchangeRecord
from connector.storage import Store
from connector.transitions import CONSUMER, PROVIDER, TRANSFER, TransferMessage, TransferState
from witness import dsse
from witness.record import Record

SUSPENDED = "agreement.suspended"
_COMPLETES = {PROVIDER: "query.release", CONSUMER: "query.result"}
"""Handing over the key completes it for the provider, the answer for the consumer."""


def transfers(store: Store, agreement: str | None) -> list[dict[str, Any]]:
    """Every transfer, or one agreement's, oldest first."""
    return [transfer(store, exchange) for exchange in store.exchanges(kind="query", agreement=agreement)]


def transfer(store: Store, exchange: ExchangeRecord) -> dict[str, Any]:
    """One transfer: where it stands, and why it ended."""
    kept = store.evidence(exchange.id)
    state, code = TRANSFER.after(None, TransferMessage.REQUEST, CONSUMER), None
    for message, sender, reason in _messages(store, exchange, kept):
        state, code = TRANSFER.after(state, message, sender), reason
    return {
        "transfer": exchange.id,
        "agreement": exchange.agreement,
        "role": exchange.role,
        "peer": exchange.peer,
        "state": state.value,
        "code": code if state is TransferState.TERMINATED else None,
        "trace": exchange.trace_id,
        "at": exchange.at,
    }


def _messages(
    store: Store, exchange: ExchangeRecord, kept: list[EvidenceRecord]
) -> Iterator[tuple[TransferMessage, str, str | None]]:
    """What was sent after the request, by whom, and for which reason."""
    for record in kept:
        if record.event == "query.intent":
            yield TransferMessage.START, PROVIDER, None
        elif record.event == _COMPLETES[exchange.role]:
            yield TransferMessage.COMPLETION, exchange.role, None
        elif record.event in ("query.refusal", "query.failure"):
            sender, reason = _ending(record, exchange.role)
            if reason == SUSPENDED and len(kept) > 1:
                yield TransferMessage.SUSPENSION, PROVIDER, None
            yield TransferMessage.TERMINATION, sender, reason
    if not kept and exchange.status != "open":  # it died before anything was agreed
        yield TransferMessage.TERMINATION, exchange.role, None
    if len(kept) == 1 and exchange.status == "open" and _is_suspended(store, exchange):
        yield TransferMessage.SUSPENSION, PROVIDER, None


def _ending(record: EvidenceRecord, own: str) -> tuple[str, str | None]:
    """Who ended it and why; of an erased record only that it ended is left."""
    if record.envelope is None:
        return own, None
    found = Record.parse(dsse.parse(record.envelope).payload)
    return found.parties[0].role, found.outcome.reason


def _is_suspended(store: Store, exchange: ExchangeRecord) -> bool:
    agreement = store.agreement(exchange.agreement) if exchange.agreement else None
    return agreement is not None and agreement.state == "suspended"
