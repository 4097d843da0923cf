"""One side's table of each negotiation: where it stands, the terms on it, whose turn it is.

Every move goes through `transitions.py`. Refuses what is not due, another's negotiation, and more than a peer
may pile up.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from compute.errors import ConfigError, PeerViolation, Unavailable
from connector.contract import Agreement, Proposal
from connector.contract_records import NO_TRACE, OFFER, REQUEST, Records
from connector.node import Node
from connector.records import Statement
from connector.state.rows import NegotiationRecord
from connector.transitions import CONSUMER, NEGOTIATION, PROVIDER, Message, State
from witness.schema import HEX16, FormatError, matching

MOST_WAITING_REQUESTS = 32
"""Negotiations that a peer opened and that wait for our people: each is rows and a record, free for it."""
MOST_PROPOSALS = 20
"""Versions of the terms in one negotiation: each is kept, for ever unless who opened it ends it unagreed."""
FEWEST_DIGITS = 8
_OPENINGS = {PROVIDER: REQUEST, CONSUMER: OFFER}
"""The first record of a negotiation that a peer opened, by our role in it."""


@dataclass(frozen=True, slots=True)
class Version:
    """Terms on the table, and whose they are. `published`: the offer's own, asked for as they stand."""

    author: str
    proposal: Proposal
    published: bool = False


class Table:
    """The negotiations of one connector, as its state holds them."""

    def __init__(self, node: Node, records: Records) -> None:
        self._node, self._records = node, records

    def find(self, negotiation: str) -> NegotiationRecord:
        """By its id, or by the id of the agreement it led to; a unique beginning of either will do."""
        if (exactly := self._node.store.negotiation(negotiation)) is not None:
            return exactly
        found = [
            n
            for n in self._node.store.negotiations()
            if negotiation and (n.id.startswith(negotiation) or (n.agreement or "").startswith(negotiation))
        ]
        if len(found) != 1:
            raise ConfigError("contract.unknown", "no contract, or more than one, has an id like this")
        return found[0]

    def of(self, peer: str, negotiation: str, role: str | None) -> NegotiationRecord:
        """A negotiation with this peer, in which we have this role. Raises `PeerViolation`."""
        record = self._node.store.negotiation(identifier(negotiation))
        if record is None or record.peer != peer or role not in (None, record.role):
            raise PeerViolation("contract.unknown", "this negotiation is not the caller's")
        return record

    def known(self, peer: str, negotiation: str, role: str) -> NegotiationRecord | None:
        """The negotiation, if there is one; a `PeerViolation` when it is another's."""
        known = self._node.store.negotiation(identifier(negotiation))
        return None if known is None else self.of(peer, negotiation, role)

    @staticmethod
    def must_be(record: NegotiationRecord, role: str) -> None:
        """Raise `ConfigError` where this is for the other role to do."""
        if record.role != role:
            raise ConfigError("contract.role", f"only the {role} of a contract can do this")

    def may(self, record: NegotiationRecord, message: Message) -> None:
        """Raise `ConfigError` when it is not our turn to send `message`."""
        if State(record.state) not in NEGOTIATION.before(message, record.role):
            raise ConfigError("contract.state", f"the contract is {record.state}: this is not due")
        if self._node.store.unsent(record.id):
            raise ConfigError(
                "contract.unsent", f"an earlier message is not confirmed yet: resend {record.id[:12]}"
            )

    def open(
        self,
        negotiation: str,
        role: str,
        peer: str,
        offer: str,
        key: bytes,
        versions: list[Version],
        state: State,
    ) -> None:
        """A negotiation with everything that is on its table. In a transaction."""
        store, digest = self._node.store, versions[-1].proposal.policy_digest
        store.open_exchange(negotiation, None, peer, role, "contract", NO_TRACE, key)
        store.add_negotiation(negotiation, role, peer, offer, digest, state.value)
        for version in versions:
            self.put(negotiation, version)

    def put(self, negotiation: str, version: Version) -> None:
        """The next terms on the table."""
        proposal = version.proposal
        self._node.store.add_proposal(
            negotiation,
            version.author,
            proposal.policy_digest,
            proposal.to_bytes(),
            published=version.published,
        )

    def versions(self, record: NegotiationRecord, author: str = "") -> list[Proposal]:
        """Every version of the terms, or one side's, the one that counts last."""
        kept = self._node.store.proposals(record.id)
        return [Proposal.parse(one.document) for one in kept if author in ("", one.author)]

    def proposed(self, record: NegotiationRecord, message: Any) -> Proposal:
        """The terms that our message is about."""
        embedded = getattr(message, "proposal", b"")
        return Proposal.parse(embedded) if embedded else self.versions(record)[-1]

    def full_name(self, record: NegotiationRecord) -> str:
        """What it is about, as policies name it."""
        return f"{self._records.roles(record).provider}.{record.offer}"

    def turn(self, event: str, record: NegotiationRecord, proposal: Proposal, author: str) -> Statement:
        """What the record of `author`'s message states."""
        return self._records.turn(event, record, proposal.policy_digest, proposal.policy.policy, author)

    def turned(self, record: NegotiationRecord, kind: Message, author: str, proposal: Proposal) -> None:
        """The move that `author`'s message is; other terms are on the table then. In a transaction."""
        after = NEGOTIATION.after(State(record.state), kind, author)
        self.moved(record.id, State(record.state), after, policy_digest=proposal.policy_digest)
        if kind is not Message.ACCEPTANCE:
            self.put(record.id, Version(author, proposal))

    def moved(self, negotiation: str, before: State, after: State, **fields: Any) -> None:
        """Move, or raise `ConfigError` when somebody else moved it meanwhile."""
        if not self._node.store.move_negotiation(negotiation, [before.value], after.value, **fields):
            raise ConfigError("contract.state", "the contract changed meanwhile: look at it again")

    def check_openings(self, opened: NegotiationRecord) -> None:
        """Raise `Unavailable` when the peer has opened too many within a day, or too many that wait.

        Each leaves rows and records for ever, however soon it is ended. In the transaction that opens it.
        """
        self.check_day(opened.peer)
        waiting = self._node.store.count_negotiations(opened.role, opened.peer, opened.state)
        if waiting > MOST_WAITING_REQUESTS:
            sentence = f"{opened.peer} has too many requests waiting for an answer here"
            raise Unavailable("contract.waiting", sentence)

    def check_day(self, peer: str) -> None:
        """Raise `Unavailable` when the peer has opened too many within a day."""
        most, node = self._node.config.limits.negotiations_per_day, self._node
        if node.store.count_opened(peer, _OPENINGS, node.now() - timedelta(days=1)) >= most:
            sentence = f"{peer} opened {most} negotiations here within a day, which is as many as it may"
            raise Unavailable("contract.too-many", sentence)

    def check_room(self, record: NegotiationRecord) -> None:
        """Raise `ConfigError` when the table holds as many versions as it may."""
        if len(self._node.store.proposals(record.id)) >= MOST_PROPOSALS:
            raise ConfigError(
                "contract.proposals", f"a negotiation has at most {MOST_PROPOSALS} versions of terms"
            )

    def check_read(self, record: NegotiationRecord, policy: str) -> None:
        """Terms that the consumer wrote are approved by name: somebody has read them."""
        kept = self._node.store.proposals(record.id)
        if not kept or kept[-1].published or kept[-1].author == PROVIDER:
            return
        if len(policy) < FEWEST_DIGITS or not kept[-1].policy_digest.startswith(policy):
            raise ConfigError(
                "contract.other-terms",
                f"{record.peer} asks for other terms than the offer's: read them with bayspace contract "
                f"terms {record.id[:12]}, then approve with --policy and the digest that it shows",
            )


def versions_of(author: str, proposal: Proposal | None) -> list[Version]:
    """One version of the terms, or none."""
    return [] if proposal is None else [Version(author, proposal)]


def agreement_under(record: NegotiationRecord) -> Agreement:
    """The agreement under negotiation. INVARIANT: from AGREED on there is one."""
    return Agreement.parse(record.document or b"")


def identifier(text: str) -> str:
    """A negotiation's id. Raises `PeerViolation`."""
    try:
        return matching(text, HEX16, "negotiation")
    except FormatError:
        raise PeerViolation("contract.malformed", "a negotiation id is not 32 hexadecimal digits") from None
