"""The documents of a contract, without I/O: what one side proposes, and what both agreed on.

Each is one canonical document. A proposal embeds a policy and the documents it names in full; an agreement
the dataset description too, and both parties sign the evidence record that carries its digest. Who may send
what when is in `transitions.py`.
Refuses every document that does not parse to its own bytes, and every policy that the loader refuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import rfc8785

from compute.dataset import DatasetInfo
from compute.errors import ConfigError, PeerViolation
from policy_enforcer import odrl
from policy_enforcer.model import Policy
from policy_enforcer.moments import end_instant, first_instant, later
from policy_enforcer.problems import PolicyError
from witness import canonical
from witness.schema import HEX16, ID, Fields, FormatError

FORMAT = "bayspace-agreement/v1"
PROPOSAL_FORMAT = "bayspace-proposal/v1"
MOST_PROPOSAL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Proposal:
    """Terms on the table: a policy in full with the documents it names."""

    policy: Policy
    documents: Mapping[str, str] = field(default_factory=dict)

    @property
    def policy_digest(self) -> str:
        """SHA-256 over the policy's canonical form, in hexadecimal."""
        return odrl.digest(self.policy).hex()

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes of the proposal."""
        stated = {"documents": dict(self.documents)} if self.documents else {}
        return rfc8785.dumps({**stated, "format": PROPOSAL_FORMAT, "policy": odrl.to_odrl(self.policy)})

    @classmethod
    def parse(cls, document: bytes) -> Proposal:
        """The proposal with exactly these bytes. Raises `PeerViolation`, and `ConfigError` where our loader
        refuses its policy.
        """
        if len(document) > MOST_PROPOSAL_BYTES:
            raise PeerViolation("contract.malformed", f"a proposal has more than {MOST_PROPOSAL_BYTES} bytes")
        try:
            with Fields(canonical.parse(document), "proposal") as f:
                f.literal("format", PROPOSAL_FORMAT)
                documents = f.optional("documents", f.take)
                policy = odrl.from_odrl(_object(f.take("policy")))
        except (canonical.CanonicalError, FormatError):
            raise PeerViolation("contract.malformed", "a proposal cannot be read as what it says") from None
        except PolicyError as error:  # of a newer version, say
            raise unacceptable(error) from None
        found = cls(policy, {} if documents is None else _texts(documents))
        if found.to_bytes() != document:
            raise PeerViolation("contract.malformed", "a proposal is not in its canonical form")
        return found


@dataclass(frozen=True)
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
    def ends(self) -> datetime | None:
        """The first instant at which nothing is answered under it any more; None: its policy sets no end."""
        return end_of(self.policy, self.agreed_at)

    def runs_at(self, now: datetime) -> bool:
        """Whether its policy's time has begun and is not over."""
        when, ends = self.policy.when, self.ends
        begun = when is None or when.start is None or first_instant(when.start) <= now
        return begun and (ends is None or now < ends)

    @cached_property
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

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the document, in hexadecimal: the agreement's id everywhere."""
        # Kept: a query asks for it dozens of times. INVARIANT: nothing changes inside an agreement.
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


def end_of(policy: Policy, agreed_at: int) -> datetime | None:
    """When an agreement of that time (ms since 1970) under this policy ends; None: never by itself."""
    when, ends = policy.when, []
    if when is not None and when.until is not None:
        ends.append(end_instant(when.until))
    if when is not None and when.elapsed is not None:
        ends.append(later(datetime.fromtimestamp(agreed_at / 1000, UTC), when.elapsed))
    return min(ends, default=None)


def unacceptable(error: PolicyError) -> ConfigError:
    """Proposed terms that the loader refuses, by the first thing that is wrong with them."""
    first = error.problems[0]
    return ConfigError("contract.terms", f"the proposed policy is refused: {first.path}: {first.sentence}")


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
