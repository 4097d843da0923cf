"""Agreements and their negotiation, without I/O: documents, states, and who may send what when.

States and messages are those of the Dataspace Protocol 2025-1 (contract negotiation); the transition table
below is the only place that allows a move. An agreement is one canonical document: the policy, the documents
it names and the dataset description are embedded in full, both parties sign the evidence record that carries
its digest.
Refuses every transition that is not in the table, and every agreement that does not parse to its own bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import rfc8785

from compute.dataset import DatasetInfo
from compute.errors import PeerViolation
from policy_enforcer import odrl
from policy_enforcer.model import Policy
from policy_enforcer.problems import PolicyError
from witness import canonical
from witness.schema import HEX16, ID, Fields, FormatError

FORMAT = "bayspace-agreement/v1"


class State(StrEnum):
    """Where a negotiation stands (Dataspace Protocol 2025-1, contract negotiation states)."""

    REQUESTED = "REQUESTED"
    AGREED = "AGREED"
    VERIFIED = "VERIFIED"
    FINALIZED = "FINALIZED"
    TERMINATED = "TERMINATED"


class Message(StrEnum):
    """What a side can send."""

    AGREEMENT = "agreement"
    VERIFICATION = "verification"
    FINALIZATION = "finalization"
    TERMINATION = "termination"


PROVIDER, CONSUMER = "provider", "consumer"

TRANSITIONS: dict[tuple[State, Message], tuple[str, State]] = {
    (State.REQUESTED, Message.AGREEMENT): (PROVIDER, State.AGREED),
    (State.AGREED, Message.VERIFICATION): (CONSUMER, State.VERIFIED),
    (State.VERIFIED, Message.FINALIZATION): (PROVIDER, State.FINALIZED),
    (State.REQUESTED, Message.TERMINATION): ("either", State.TERMINATED),
    (State.AGREED, Message.TERMINATION): ("either", State.TERMINATED),
    (State.VERIFIED, Message.TERMINATION): ("either", State.TERMINATED),
    (State.FINALIZED, Message.TERMINATION): ("either", State.TERMINATED),
}


def advance(state: State, message: Message, sender: str) -> State:
    """The state after `sender` (provider or consumer) sent `message`.

    A repeated message leaves the state as it is. Raises `PeerViolation` for any other move.
    """
    if any(state is after and m is message for (_, m), (_, after) in TRANSITIONS.items()):
        return state
    who, after = TRANSITIONS.get((state, message), ("nobody", state))
    if who not in (sender, "either"):
        raise PeerViolation(
            "contract.out-of-order", f"a {sender} may not send {message.value} in state {state.value}"
        )
    return after


@dataclass(frozen=True, slots=True)
class Agreement:
    """A contract agreement: who may ask what of which dataset version, under which policy."""

    negotiation: str
    space: str
    provider: str
    consumer: str
    offer: str  # the name SQL uses is provider.offer
    dataset: DatasetInfo
    policy: Policy
    agreed_at: int  # ms since 1970
    documents: Mapping[str, str] = field(default_factory=dict)  # reference -> text: what the policy names

    @property
    def full_name(self) -> str:
        """`provider.offer`, as SQL names it."""
        return f"{self.provider}.{self.offer}"

    @property
    def policy_digest(self) -> bytes:
        """SHA-256 over the policy's canonical ODRL form."""
        return odrl.digest(self.policy)

    @property
    def transfer_basis(self) -> str | None:
        """The legal basis that the policy declares, if any."""
        return self.policy.transfer.basis if self.policy.transfer else None

    @property
    def filing_number(self) -> str | None:
        """The filing number that the policy declares, if any."""
        return self.policy.transfer.filing if self.policy.transfer else None

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes of the agreement."""
        stated = {"documents": dict(self.documents)} if self.documents else {}
        return rfc8785.dumps(
            {
                **stated,
                "agreed_at": self.agreed_at,
                "consumer": self.consumer,
                "dataset": self.dataset.as_json(),
                "format": FORMAT,
                "negotiation": self.negotiation,
                "offer": self.offer,
                "policy": odrl.to_odrl(self.policy),
                "provider": self.provider,
                "space": self.space,
            }
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the document, in hexadecimal: the agreement's id everywhere."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def parse(cls, document: bytes) -> Agreement:
        """The agreement with exactly these bytes. Raises `PeerViolation`."""
        try:
            with Fields(canonical.parse(document), "agreement") as f:
                agreement = cls._take(f)
        except (canonical.CanonicalError, FormatError, PolicyError):
            raise _unreadable() from None
        if agreement.to_bytes() != document:
            raise _unreadable()
        return agreement

    @classmethod
    def _take(cls, f: Fields) -> Agreement:
        f.literal("format", FORMAT)
        documents = f.optional("documents", f.take)
        return cls(
            negotiation=f.text("negotiation", HEX16),
            space=f.text("space", ID),
            provider=f.text("provider", ID),
            consumer=f.text("consumer", ID),
            offer=f.text("offer", ID),
            dataset=DatasetInfo.from_json(f.take("dataset")),
            policy=odrl.from_odrl(_object(f.take("policy"))),
            agreed_at=f.integer("agreed_at"),
            documents={} if documents is None else _texts(documents),
        )


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError("policy is not an object")
    return value


def _texts(value: Any) -> dict[str, str]:
    found = _object(value)
    if not found or not all(isinstance(text, str) for text in found.values()):
        raise FormatError("documents are not texts by reference")
    return found


def _unreadable() -> PeerViolation:
    return PeerViolation("contract.malformed", "an agreement cannot be read as what it says it is")
