"""Contract negotiation over the network: request, offer, accept, agree, verify, finalize, suspend, terminate.

States and who may move them are in `transitions.py`; this module carries messages, keeps state and evidence
in one transaction, and can be called again after a crash or a lost reply. A message is kept before it is sent
and until the other side has signed its record, and its move is made then; a later message of the other side
carries that signature too. Every message is idempotent, and an agreement that was sent is sent again byte for
byte. Both parties sign the record of each move. The owner may suspend or terminate at any time: that takes
effect before the peer is told, so no answer of the peer's, nor its silence, can prevent it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from compute.errors import BayspaceError, ConfigError, PeerViolation
from connector import proposals, references
from connector.agreeing import Agreeing
from connector.contract import Agreement, Proposal
from connector.contract_records import ACCEPTANCE, Records
from connector.ending import Ending
from connector.negotiation_table import Table, Version, agreement_under, identifier, versions_of
from connector.node import Node
from connector.state.rows import NegotiationRecord
from connector.transitions import CONSUMER, NEGOTIATION, PROVIDER, Message, State
from connector.unconfirmed import TURNS, Messenger, Unconfirmed
from connector.v1 import negotiation_pb2 as pb

EXCHANGE_KEY_BYTES = 32
_EVENTS = {message: event for message, _, event in TURNS.values()}


class Negotiating:
    """Both sides of contract negotiation for one connector."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._records = Records(node)
        messenger = Messenger(node)
        self._table = Table(node, self._records)
        self._unconfirmed = Unconfirmed(node, self._records, self._table, messenger)
        self._agreeing = Agreeing(node, self._records, self._table, messenger)
        self._ending = Ending(node, self._records, self._table, self._unconfirmed, messenger)
        # as they are in `negotiation_table` and `ending`
        self.find = self._table.find
        self.terminate, self.suspend = self._ending.terminate, self._ending.suspend
        self.on_terminate, self.on_suspend = self._ending.on_terminate, self._ending.on_suspend
        self.recover = self._ending.recover

    def request(self, provider: str, offer: str, terms: str = "") -> NegotiationRecord:
        """As consumer: ask `provider` for a contract about its offer, on its terms or on these (YAML)."""
        offered = self._node.offer_of(provider, offer)
        proposal = proposals.of_offer(offered)
        own = proposals.drafted(self._node, f"{provider}.{offer}", terms, [proposal]) if terms else None
        versions = [Version(PROVIDER, proposal, published=True), *versions_of(CONSUMER, own)]
        message = pb.ContractRequest(
            offer=offer,
            policy_digest=offered.policy_digest,
            proposal=b"" if own is None else own.to_bytes(),
        )
        return self._opened(provider, versions, "Request", message)

    def offer(self, consumer: str, offer: str, terms: str = "") -> NegotiationRecord:
        """As provider: offer `consumer` a contract about our offer, on its terms or on these (YAML)."""
        node = self._node
        proposal = proposals.of_offer(node.own_offer(offer))
        own = proposals.drafted(node, f"{node.id}.{offer}", terms, [proposal]) if terms else None
        node.key_of(consumer)  # a member
        versions = [Version(PROVIDER, proposal, published=own is not None), *versions_of(PROVIDER, own)]
        message = pb.ContractOffer(offer=offer, proposal=(own or proposal).to_bytes())
        return self._opened(consumer, versions, "Offer", message)

    def counter(self, negotiation: str, terms: str) -> NegotiationRecord:
        """Answer the terms on the table with others (YAML): a provider's offer or a consumer's request."""
        record = self._table.find(negotiation)
        method = "Offer" if record.role == PROVIDER else "Request"
        self._table.may(record, TURNS[method][0])
        self._table.check_room(record)
        proposal = proposals.drafted(
            self._node, self._table.full_name(record), terms, self._table.versions(record)
        )
        kind = TURNS[method][1]
        return self._take_turn(
            record, method, kind(negotiation=record.id, proposal=proposal.to_bytes()), proposal
        )

    def accept(self, negotiation: str) -> NegotiationRecord:
        """As consumer: accept the provider's offer. Its people approve then."""
        record = self._table.find(negotiation)
        self._table.must_be(record, CONSUMER)
        if any(unsent.method == "Accept" for unsent in self._node.store.unsent(record.id)):
            return self._unconfirmed.deliver(record)
        self._table.may(record, Message.ACCEPTANCE)
        return self._take_turn(
            record, "Accept", pb.ContractAcceptance(negotiation=record.id), self._table.versions(record)[-1]
        )

    def resend(self, negotiation: str) -> NegotiationRecord:
        """Send again what the other side did not confirm. Safe to repeat."""
        record = self._table.find(negotiation)
        if record.role == PROVIDER and record.state == State.AGREED.value:
            return self.approve(record.id)
        return self._unconfirmed.deliver(record)

    def approve(self, negotiation: str, policy: str = "") -> NegotiationRecord:
        """As provider: sign the agreement, have it verified and signed, finalize. Safe to repeat.

        `policy`: the beginning of the digest of the terms that were read, where those are the consumer's.
        """
        node, record = self._node, self._table.find(negotiation)
        self._table.must_be(record, PROVIDER)
        if record.state in (State.REQUESTED.value, State.ACCEPTED.value):
            self._table.check_read(record, policy)
        if record.state in (State.REQUESTED.value, State.ACCEPTED.value, State.AGREED.value):
            record = self._agreeing.agree(record)
        if record.state != State.FINALIZED.value:
            raise ConfigError("contract.state", f"the contract is {record.state} and cannot be approved")
        record = self._unconfirmed.deliver(record)
        node.evidence.wake()
        return record

    def resume(self) -> None:
        """Once peers can be reached: what a crash or a lost reply left half done is sent again."""
        waiting = {unsent.negotiation for unsent in self._node.store.unsent()}
        for record in self._node.store.negotiations():
            half = (record.role, record.state) == (PROVIDER, State.AGREED.value)
            if half or record.id in waiting:
                with suppress(BayspaceError):  # its people see it in `contract list`
                    self.resend(record.id)

    def on_request(self, peer: str, message: pb.ContractRequest) -> bytes:
        """A consumer asks, or answers our offer with other terms. Returns our signature."""
        known = self._table.known(peer, message.negotiation, PROVIDER)
        if (
            signed := self._records.signed_before(identifier(message.negotiation), message.record)
        ) is not None:
            return signed
        if known is not None:
            return self._on_terms(known, message, Message.REQUEST)
        offered = self._node.own_offer(message.offer)
        if message.policy_digest != offered.policy_digest:
            raise ConfigError("contract.policy-changed", "the offer's policy has changed: read it again")
        name = f"{self._node.id}.{message.offer}"
        terms = proposals.of_offer(offered)
        own = proposals.received(self._node, name, message.proposal, terms) if message.proposal else None
        published = Version(PROVIDER, terms, published=True)
        return self._on_opening(peer, message, [published, *versions_of(CONSUMER, own)], Message.REQUEST)

    def on_offer(self, peer: str, message: pb.ContractOffer) -> bytes:
        """A provider offers, or answers our request with other terms. Returns our signature."""
        known = self._table.known(peer, message.negotiation, CONSUMER)
        if (
            signed := self._records.signed_before(identifier(message.negotiation), message.record)
        ) is not None:
            return signed
        if known is not None:
            return self._on_terms(known, message, Message.OFFER)
        proposal = proposals.received(self._node, f"{peer}.{message.offer}", message.proposal, None)
        return self._on_opening(peer, message, [*versions_of(PROVIDER, proposal)], Message.OFFER)

    def on_accept(self, peer: str, message: pb.ContractAcceptance) -> bytes:
        """The consumer accepts our offer. Returns our signature over its record."""
        record = self._table.of(peer, message.negotiation, PROVIDER)
        if (signed := self._records.signed_before(record.id, message.record)) is not None:
            return signed
        record = self._unconfirmed.confirmed(record, message.confirmation)
        after = NEGOTIATION.after(State(record.state), Message.ACCEPTANCE, CONSUMER)
        expected = self._table.turn(ACCEPTANCE, record, self._table.versions(record)[-1], peer)
        sealed, theirs = self._records.received(message.record, expected)
        with self._node.store.atomic():
            self._table.moved(record.id, State(record.state), after)
            self._records.keep(record.id, sealed, peer, theirs)
        return self._records.signature(sealed)

    def on_agree(self, peer: str, message: pb.ContractAgreement) -> bytes:
        """The provider signed an agreement. Verify it is what we asked for or accepted, and sign it too."""
        node = self._node
        record = self._table.of(peer, message.negotiation, CONSUMER)
        if (signed := self._records.signed_before(record.id, message.record)) is not None:
            return signed
        record = self._unconfirmed.confirmed(record, message.confirmation)
        agreement = Agreement.parse(message.agreement)
        asked = (node.space, record.id, peer, node.id, record.offer, record.policy_digest)
        got = (
            agreement.space,
            agreement.negotiation,
            agreement.provider,
            agreement.consumer,
            agreement.offer,
            agreement.policy_digest.hex(),
        )
        if asked != got or agreement.dataset.full_name != agreement.full_name:
            raise PeerViolation("contract.differs", "the agreement is not the one that was asked for")
        try:
            references.checked(agreement.policy, agreement.documents)
        except ConfigError as error:
            raise PeerViolation("contract.differs", f"the agreement: {error.sentence}") from None
        agreed = NEGOTIATION.after(State(record.state), Message.AGREEMENT, PROVIDER)
        after = NEGOTIATION.after(agreed, Message.VERIFICATION, CONSUMER)
        sealed, theirs = self._records.received(message.record, self._records.agreement(agreement, peer))
        with node.store.atomic():
            self._table.moved(
                record.id,
                State(record.state),
                after,
                document=message.agreement,
                agreement=agreement.digest,
            )
            self._records.keep(record.id, sealed, peer, theirs)
        return self._records.signature(sealed)

    def on_finalize(self, peer: str, negotiation: str) -> None:
        """The provider has both signatures: the agreement is in force."""
        record = self._table.of(peer, negotiation, CONSUMER)
        if record.state == State.FINALIZED.value:  # a repetition
            return
        after = NEGOTIATION.after(State(record.state), Message.FINALIZATION, PROVIDER)
        with self._node.store.atomic():
            self._table.moved(record.id, State(record.state), after)
            self._agreeing.in_force(record, agreement_under(record))

    def _opened(self, peer: str, versions: list[Version], method: str, message: Any) -> NegotiationRecord:
        """A negotiation that we open: kept with its first message, which is sent then."""
        negotiation, key = self._node.entropy(16).hex(), self._node.entropy(EXCHANGE_KEY_BYTES)
        role = CONSUMER if method == "Request" else PROVIDER
        message.negotiation, message.exchange_key = negotiation, key
        state = NEGOTIATION.after(None, TURNS[method][0], role)
        with self._node.store.atomic():
            self._table.open(negotiation, role, peer, message.offer, key, versions, state)
            record = self._table.find(negotiation)
            self._unconfirmed.put(record, method, message, versions[-1].proposal)
        return self._unconfirmed.deliver(record)

    def _take_turn(
        self, record: NegotiationRecord, method: str, message: Any, proposal: Proposal
    ) -> NegotiationRecord:
        """Keep our message, then send it; once it is confirmed, the move is made."""
        message.confirmation = self._records.confirmation(record.id)
        self._unconfirmed.put(record, method, message, proposal)
        return self._unconfirmed.deliver(record)

    def _on_opening(self, peer: str, message: Any, versions: list[Version], kind: Message) -> bytes:
        """A peer opens a negotiation with its request or its offer."""
        negotiation, store = identifier(message.negotiation), self._node.store
        role, author = (PROVIDER, CONSUMER) if kind is Message.REQUEST else (CONSUMER, PROVIDER)
        if len(message.exchange_key) != EXCHANGE_KEY_BYTES:
            raise PeerViolation("contract.malformed", "an exchange key is 32 bytes")
        state = NEGOTIATION.after(None, kind, author)
        with self._node.telemetry.span("negotiation", peer=peer):
            if store.exchange(negotiation) is None:  # no repetition: too many take nobody's turn to write
                self._table.check_day(peer)
            with store.atomic():
                if (signed := self._records.signed_before(negotiation, message.record)) is not None:
                    return signed  # the same message came twice at once
                if store.exchange(negotiation) is not None:  # a query's, say: it is no id for another one
                    raise PeerViolation("contract.unknown", "this negotiation is not the caller's")
                self._table.open(
                    negotiation, role, peer, message.offer, message.exchange_key, versions, state
                )
                record = self._table.of(peer, negotiation, role)
                expected = self._table.turn(_EVENTS[kind], record, versions[-1].proposal, peer)
                sealed, theirs = self._records.received(message.record, expected)
                self._table.check_openings(record)
                self._records.keep(negotiation, sealed, peer, theirs)
        return self._records.signature(sealed)

    def _on_terms(self, record: NegotiationRecord, message: Any, kind: Message) -> bytes:
        """The peer answers with other terms."""
        author = CONSUMER if kind is Message.REQUEST else PROVIDER
        record = self._unconfirmed.confirmed(record, message.confirmation)
        NEGOTIATION.after(State(record.state), kind, author)
        self._table.check_room(record)
        ours = self._table.versions(record, record.role)
        last = ours[-1] if ours else None
        proposal = proposals.received(self._node, self._table.full_name(record), message.proposal, last)
        expected = self._table.turn(_EVENTS[kind], record, proposal, record.peer)
        sealed, theirs = self._records.received(message.record, expected)
        with self._node.store.atomic():
            self._records.keep(record.id, sealed, record.peer, theirs)
            self._table.turned(record, kind, author, proposal)
        return self._records.signature(sealed)
