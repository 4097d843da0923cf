"""A receipt: everything one exchange left behind, as the bundle that `evidence verify` reads offline.

Refuses to make a receipt of records that no witness has recorded yet: it would prove nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from compute.errors import ConfigError, Unavailable
from connector.config import ConnectorConfig
from connector.enrolment import load_members, pinned_operator
from connector.storage import Store
from witness import bundle, dsse
from witness.bundle import Item, Opening
from witness.record import Record
from witness.trust import of_logs


def receipt(store: Store, exchange: str, show: Collection[str] = (), *, redacted: bool = False) -> bytes:
    """The bundle of an exchange.

    show: names of commitments to open ("query", "plan", "result"); redacted: leave out the sensitive claims.
    Raises `ConfigError` for an unknown exchange, `Unavailable` when a record is not witnessed yet.
    """
    kept = store.evidence(exchange)
    if not kept:
        raise ConfigError("evidence.unknown", "there is no evidence of an exchange with this id")
    proofs = {r.sequence: r.proof for r in store.receipts(exchange) if r.proof is not None}
    items, lists = [], set()
    for record in kept:
        if record.envelope is None or record.disclosures is None:
            raise ConfigError("evidence.erased", "a record of this exchange has been erased")
        if record.sequence not in proofs:
            raise Unavailable(
                "witness.pending", "a record of this exchange is not witnessed yet: try again later"
            )
        envelope, private = dsse.parse(record.envelope), json.loads(record.disclosures)
        openings = [Opening.from_json(o) for o in private["openings"] if o["name"] in show]
        disclosures = () if redacted else tuple(private["disclosures"])
        items.append(Item(envelope, proofs[record.sequence].decode(), disclosures, tuple(openings)))
        lists.add(Record.parse(envelope.payload).members)
    members = [dsse.parse(envelope) for digest, envelope in store.member_lists() if digest in lists]
    return bundle.build(items, members)


def trust_file(config: ConnectorConfig) -> bytes:
    """What this participant trusts, as a verifier's trust file: operator key and witnesses' log keys."""
    operator = pinned_operator(config.trust)
    if operator is None:
        raise ConfigError("enrolment.not-installed", "install an admission first: no operator key is known")
    members = load_members(config.trust)
    logs = [vkey for participant in members.participants for vkey in participant.logs]
    if not logs:
        raise ConfigError("witness.unknown", "the member list names no witness")
    return of_logs(config.space, [operator], logs).to_bytes()
