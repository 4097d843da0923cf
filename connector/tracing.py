"""From a receipt back to what it is about: contract, policy, query, dataset, as this connector's state knows.

Shows SQL and policy texts only from this participant's own state; a receipt holds commitments alone.
"""

from __future__ import annotations

from typing import Any

from compute.errors import ConfigError
from connector.contract import Agreement
from connector.evidence import openings_of
from connector.storage import Store
from witness import bundle as bundles
from witness.record import Record
from witness.schema import FormatError


def traced(store: Store, receipt: bytes) -> dict[str, Any]:
    """What a receipt's exchange was. Raises `ConfigError` when the file is none of this connector's."""
    try:
        parsed, _ = bundles.parse(receipt)
        records = [Record.parse(item.envelope.payload) for item in parsed.items]
    except FormatError as error:
        raise ConfigError("evidence.receipt", "the file is not a receipt") from error
    first = records[0]
    exchange = store.exchange(first.exchange.id)
    if exchange is None:
        raise ConfigError("evidence.unknown", "this connector took no part in the receipt's exchange")
    found: dict[str, Any] = {
        "exchange": exchange.id,
        "trace": exchange.trace_id,
        "status": exchange.status,
        "events": [record.event for record in records],
        "parties": list(dict.fromkeys(party.id for record in records for party in record.parties)),
        "protocol": first.data.protocol,
        "datasets": {d.holder: d.commitment for record in records for d in record.data.datasets},
    }
    exchanges = list(dict.fromkeys(record.exchange.id for record in records))
    if len(exchanges) > 1:  # a round over a federation: the agreement below is the first participant's
        found["exchanges"] = exchanges
    return found | _agreement(store, exchange.agreement) | _openings(store, exchange.id)


def _agreement(store: Store, digest: str | None) -> dict[str, Any]:
    record = store.agreement(digest) if digest else None
    if record is None:
        return {"agreement": digest}
    agreement = Agreement.parse(record.document)
    return {
        "agreement": record.digest,
        "agreement_state": record.state,
        "offer": agreement.full_name,
        "policy": agreement.policy.policy,
        "policy_digest": agreement.policy_digest.hex(),
    }


def _openings(store: Store, exchange: str) -> dict[str, Any]:
    """The query text, where this connector kept the opening of its commitment."""
    for record in store.evidence(exchange):
        for opening in openings_of(record):
            if opening.name == "query":
                return {"query": opening.value.decode()}
    return {}
