"""Our offers, on record: what was offered since when, and each change of the policy over it.

A record is this participant's own statement: the policy's digest and name, the commitment to the data, and a
salted commitment to the catalogue entry as peers see it, which a receipt may open. So an auditor of the log
can tell which terms stood at a time without asking the owner, and an owner cannot say later that it offered
others. Only the newest version of an offer is recorded: what it was before nobody can state now.
"""

from __future__ import annotations

import json
import logging
from contextlib import closing, suppress

from compute.dataset import DatasetInfo
from compute.errors import PeerViolation, Unavailable
from connector import own_records
from connector.config import ConnectorConfig
from connector.node import Node
from connector.state.rows import OfferRecord
from connector.transitions import PROVIDER
from policy_enforcer import odrl
from policy_enforcer.problems import PolicyError
from witness.bundle import Opening
from witness.record import SALT_SIZE, Contract, Data, Dataset, commit

OFFERED, CHANGED, KIND = "offer", "policy.change", "offer"

_log = logging.getLogger(__name__)


def announce(config: ConnectorConfig) -> list[str]:
    """`record` beside a connector that may be running, and delivered where a witness answers.

    Raises `ConfigError` or `Unavailable` where it cannot be done now: its connector records at its start.
    """
    with closing(Node(config)) as node:
        exchanges = record(node)
        _deliver(node, exchanges)
    return exchanges


def _deliver(node: Node, exchanges: list[str]) -> None:
    """At once, while witnesses answer; else they wait in the outbox, as all evidence does."""
    with suppress(Unavailable):
        for exchange in exchanges:
            if not json.loads(node.evidence.witnessed(exchange, 0, 0)):
                break


def record(node: Node) -> list[str]:
    """Keep a record of every offer whose newest version has none yet; their exchanges, for delivery."""
    if not node.evidence.witnesses:
        return []
    kept = (_recorded(node, offer) for offer in node.store.offers())
    return [exchange for exchange in kept if exchange is not None]


def _recorded(node: Node, offer: OfferRecord) -> str | None:
    try:
        with own_records.once(node, _version(offer.name, offer.version)) as exchange:
            if exchange is not None:
                _keep(node, offer, exchange)
    except (PolicyError, PeerViolation) as error:  # an older version's: it must not keep us from starting
        _log.error("offer %s is not on record, it cannot be read: %s", offer.name, type(error).__name__)
        return None
    return exchange


def _keep(node: Node, offer: OfferRecord, exchange: str) -> None:
    before = _before(node, offer)
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


def _before(node: Node, offer: OfferRecord) -> str | None:
    """The policy's digest in the version of this offer that was recorded last; None where none was."""
    for version in range(offer.version - 1, 0, -1):
        if own_records.recorded(node, _version(offer.name, version)):
            earlier = node.store.offer(offer.name, version)
            return None if earlier is None else earlier.policy_digest
    return None


def _commitment(offer: OfferRecord) -> str:
    return DatasetInfo.from_json(json.loads(offer.entry)["dataset"]).commitment


def _version(name: str, version: int) -> str:
    """What the record of one version of an offer is kept once under, whoever else starts at the same time."""
    return f"offer {name} {version}"
