"""An agreement as people read it: its documents, both signatures checked again, when it ends, what it used.

Nothing here decides or changes anything. A signature that does not hold is shown as such, not hidden.
"""

from __future__ import annotations

from typing import Any

from connector import proposals
from connector.contract import Agreement
from connector.node import Node
from connector.references import transfer_of
from connector.state.rows import AgreementRecord, NegotiationRecord
from connector.terms import moment
from connector.transitions import NEGOTIATION, PROVIDER, Message, State
from policy_enforcer.describe import declared
from witness import dsse
from witness.keys import SignatureInvalid

AGREED = "contract.agreement"
_COMMANDS = {
    Message.REQUEST: "counter",
    Message.OFFER: "counter",
    Message.ACCEPTANCE: "accept",
    Message.AGREEMENT: "approve",
    Message.FINALIZATION: "resend",
    Message.VERIFICATION: "resend",
    Message.TERMINATION: "terminate",
}
"""What our people say so that the message is sent."""
_PAUSING = {"active": "suspend", "suspended": "resume"}
"""And what an owner's people may do with an agreement, by where it stands."""


def shown(node: Node, record: NegotiationRecord) -> dict[str, Any]:
    """Everything about one contract that both sides hold, as JSON values."""
    found = node.store.agreement(record.agreement) if record.agreement else None
    stated = {**summary(node, record), "proposals": proposals.shown(node, record)}
    return stated if found is None else {**stated, **_details(node, record, found)}


def summary(node: Node, record: NegotiationRecord) -> dict[str, Any]:
    """Where one contract stands, and what our people may do next."""
    unsent, found = node.store.unsent(record.id), node.contract_json(record)
    due = [] if unsent else NEGOTIATION.open_to(State(record.state), record.role)
    commands = ["resend", "terminate"] if unsent else [_COMMANDS[message] for message in due]
    pausing = _PAUSING.get(found["agreement_state"]) if record.role == PROVIDER else None
    return {
        **found,
        "unsent": unsent[0].method if unsent else None,
        "you_can": [pausing, *commands] if pausing else commands,
    }


def _details(node: Node, record: NegotiationRecord, found: AgreementRecord) -> dict[str, Any]:
    agreement = Agreement.parse(found.document)
    return {
        "agreed_at": moment(agreement.agreed_at).isoformat(),
        "ends": None if agreement.ends is None else agreement.ends.isoformat(),
        "uses": node.uses_of(agreement),
        "policy": agreement.policy.policy,
        "documents": dict(agreement.documents),
        "transfer": transfer_of(agreement),
        "declared": declared(agreement.policy),
        "templates": list(agreement.policy.analysis.templates),
        "signatures": _signatures(node, record, agreement),
    }


def _signatures(node: Node, record: NegotiationRecord, agreement: Agreement) -> list[dict[str, Any]]:
    """Who signed the record of the agreement with which key, each signature verified now."""
    kept = next((e for e in node.store.evidence(record.id) if e.event == AGREED), None)
    if kept is None or kept.envelope is None:
        return []
    envelope = dsse.parse(kept.envelope)
    keys = [signature.keyid for signature in envelope.signatures]
    return [
        {"participant": who, "key": key, "verified": _verified(node, who, envelope, key)}
        for key in keys
        for who in [_signer(node, agreement, key)]
    ]


def _signer(node: Node, agreement: Agreement, key: str) -> str | None:
    sides = (agreement.provider, agreement.consumer)
    return next((side for side in sides if node.members.key(side, key) is not None), None)


def _verified(node: Node, who: str | None, envelope: dsse.Envelope, key: str) -> bool:
    found = None if who is None else node.members.key(who, key)
    if found is None:
        return False
    try:
        envelope.verify(found.public)
    except SignatureInvalid:
        return False
    return True
