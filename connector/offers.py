"""Our offers, on record: what was offered since when, and each change of the policy over it.

A record is this participant's own statement: the policy's digest and name, the commitment to the data, and a
salted commitment to the catalogue entry as peers see it, which a receipt may open. So an auditor of the log
can tell which terms stood at a time without asking the owner, and an owner cannot say later that it offered
others. Only the newest version of an offer is recorded: what it was before nobody can state now.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import closing

from compute.dataset import DatasetInfo
from compute.errors import ConfigError
from connector import own_records
from connector.config import ConnectorConfig
from connector.node import Node
from connector.state.rows import OfferRecord
from connector.storage import Store
from connector.transitions import PROVIDER
from policy_enforcer import odrl
from witness.bundle import Opening
from witness.record import SALT_SIZE, Contract, Data, Dataset, commit

OFFERED, CHANGED, KIND = "offer", "policy.change", "offer"


def announce(config: ConnectorConfig) -> list[str]:
    """`record` beside a connector that may be running; nothing where it cannot be done yet.

    Who is not enrolled, say, has published nothing to anybody: its connector records at its start.
    """
    try:
        node = Node(config)
    except ConfigError:
        return []
    with closing(node):
        exchanges = record(node)
        for exchange in exchanges:
            if not json.loads(node.evidence.witnessed(exchange, 0, 0)):
                break  # no witness answers: they wait in the outbox, as all evidence does
    return exchanges


def record(node: Node) -> list[str]:
    """Keep a record of every offer whose newest version has none yet; their exchanges, for delivery."""
    if not node.evidence.witnesses:
        return []
    kept = (_recorded(node, offer) for offer in node.store.offers())
    return [exchange for exchange in kept if exchange is not None]


def _recorded(node: Node, offer: OfferRecord) -> str | None:
    exchange = _exchange(offer.name, offer.version)
    with node.store.atomic():
        if node.store.exchange(exchange) is not None:
            return None
        _keep(node, offer, exchange)
    return exchange


def _keep(node: Node, offer: OfferRecord, exchange: str) -> None:
    before = _before(node.store, offer)
    changed = before is not None and before != offer.policy_digest
    salt = node.entropy(SALT_SIZE)
    own_records.keep(
        node,
        CHANGED if changed else OFFERED,
        KIND,
        PROVIDER,
        exchange,
        Data(
            datasets=(Dataset(node.id, _commitment(offer)),),
            commitments={OFFERED: commit(OFFERED, salt, offer.entry)},
            digests={"policy-before": before} if changed and before is not None else {},
        ),
        contract=Contract(offer.policy_digest, odrl.from_odrl(json.loads(offer.policy)).policy),
        openings=[Opening(OFFERED, salt, offer.entry)],
    )


def _before(store: Store, offer: OfferRecord) -> str | None:
    """The policy's digest in the version of this offer that was recorded last; None where none was."""
    for version in range(offer.version - 1, 0, -1):
        if store.exchange(_exchange(offer.name, version)) is not None:
            earlier = store.offer(offer.name, version)
            return None if earlier is None else earlier.policy_digest
    return None


def _commitment(offer: OfferRecord) -> str:
    return DatasetInfo.from_json(json.loads(offer.entry)["dataset"]).commitment


def _exchange(name: str, version: int) -> str:
    """One for each version of an offer, so that it is recorded once."""
    return hashlib.sha256(f"bayspace offer v1\n{name}\n{version}".encode()).hexdigest()[:32]
