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
from dataclasses import dataclass
from typing import Any, cast

from compute.errors import BayspaceError, ConfigError, PeerViolation, Unavailable
from connector import datasets, proposals, references
from connector.contract import Agreement, Proposal
from connector.contract_records import ACCEPTANCE, AGREEMENT, OFFER, REQUEST, Records
from connector.node import Node
from connector.opening import SignedRecord
from connector.records import countersigned, reopen
from connector.state.rows import NegotiationRecord, UnsentRecord
from connector.terms import milliseconds
from connector.transitions import CONSUMER, NEGOTIATION, PROVIDER, Message, State
from connector.v1 import negotiation_pb2 as pb
from connector.v1 import negotiation_pb2_grpc
from witness.record import Sealed
from witness.schema import HEX16, FormatError, matching

EXCHANGE_KEY_BYTES = 32
MOST_WAITING_REQUESTS = 32
"""Negotiations that a peer opened and that wait for our people: each is rows and a record, free for it."""
MOST_PROPOSALS = 20
"""Versions of the terms in one negotiation: each is kept, for ever unless who opened it ends it unagreed."""
FEWEST_DIGITS = 8
NO_TRACE = "0" * 32

_TURNS: dict[str, tuple[Message, type[Any], str]] = {
    "Request": (Message.REQUEST, pb.ContractRequest, REQUEST),
    "Offer": (Message.OFFER, pb.ContractOffer, OFFER),
    "Accept": (Message.ACCEPTANCE, pb.ContractAcceptance, ACCEPTANCE),
    "Finalize": (Message.FINALIZATION, pb.NegotiationEvent, ""),
}
"""What is kept until it is confirmed, by the method that carries it."""
_EVENTS = {message: event for message, _, event in _TURNS.values()}


@dataclass(frozen=True, slots=True)
class Version:
    """Terms on the table, and whose they are. `published`: the offer's own, asked for as they stand."""

    author: str
    proposal: Proposal
    published: bool = False


class Negotiating:
    """Both sides of contract negotiation for one connector."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._records = Records(node)

    # --- what our own people do -----------------------------------------------------------------------

    def request(self, provider: str, offer: str, terms: str = "") -> NegotiationRecord:
        """As consumer: ask `provider` for a contract about its offer, on its terms or on these (YAML)."""
        offered = self._node.offer_of(provider, offer)
        proposal = proposals.of_offer(offered)
        own = proposals.drafted(self._node, f"{provider}.{offer}", terms, [proposal]) if terms else None
        versions = [Version(PROVIDER, proposal, published=True), *_version(CONSUMER, own)]
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
        versions = [Version(PROVIDER, proposal, published=own is not None), *_version(PROVIDER, own)]
        message = pb.ContractOffer(offer=offer, proposal=(own or proposal).to_bytes())
        return self._opened(consumer, versions, "Offer", message)

    def counter(self, negotiation: str, terms: str) -> NegotiationRecord:
        """Answer the terms on the table with others (YAML): a provider's offer or a consumer's request."""
        record = self.find(negotiation)
        method = "Offer" if record.role == PROVIDER else "Request"
        self._may(record, _TURNS[method][0])
        self._check_versions(record)
        proposal = proposals.drafted(self._node, self._full_name(record), terms, self._on_the_table(record))
        kind = _TURNS[method][1]
        return self._take_turn(
            record, method, kind(negotiation=record.id, proposal=proposal.to_bytes()), proposal
        )

    def accept(self, negotiation: str) -> NegotiationRecord:
        """As consumer: accept the provider's offer. Its people approve then."""
        record = self.find(negotiation)
        self._must_be(record, CONSUMER)
        if any(unsent.method == "Accept" for unsent in self._node.store.unsent(record.id)):
            return self._deliver(record)
        self._may(record, Message.ACCEPTANCE)
        return self._take_turn(
            record, "Accept", pb.ContractAcceptance(negotiation=record.id), self._on_the_table(record)[-1]
        )

    def resend(self, negotiation: str) -> NegotiationRecord:
        """Send again what the other side did not confirm. Safe to repeat."""
        record = self.find(negotiation)
        if record.role == PROVIDER and record.state == State.AGREED.value:
            return self.approve(record.id)
        return self._deliver(record)

    def approve(self, negotiation: str, policy: str = "") -> NegotiationRecord:
        """As provider: sign the agreement, have it verified and signed, finalize. Safe to repeat.

        `policy`: the beginning of the digest of the terms that were read, where those are the consumer's.
        """
        node, record = self._node, self.find(negotiation)
        self._must_be(record, PROVIDER)
        if record.state in (State.REQUESTED.value, State.ACCEPTED.value):
            self._check_read(record, policy)
        if record.state in (State.REQUESTED.value, State.ACCEPTED.value, State.AGREED.value):
            record = self._agree(record)
        if record.state != State.FINALIZED.value:
            raise ConfigError("contract.state", f"the contract is {record.state} and cannot be approved")
        record = self._deliver(record)
        node.evidence.wake()
        return record

    def terminate(self, negotiation: str, code: str) -> NegotiationRecord:
        """Either side ends a negotiation or an agreement, whatever the peer answers. Safe to repeat."""
        record = self.find(negotiation)
        if (
            record.state != State.FINALIZED.value
        ):  # nothing is answered yet; the peer may know less than we do
            with suppress(BayspaceError):
                self._deliver(record)
        self._ended(record.id, code)
        if self._node.evidence.is_open(record.id):
            self._record_end(self.find(record.id))
        return self.find(record.id)

    def suspend(self, negotiation: str, *, suspended: bool) -> NegotiationRecord:
        """As provider: stop or resume answering under an agreement. Takes effect here at once."""
        record = self.find(negotiation)
        self._must_be(record, PROVIDER)
        self._suspended(record, suspended)
        message = pb.AgreementSuspension(negotiation=record.id, suspended=suspended)
        with suppress(BayspaceError):  # a peer that was not told learns it from its next query's refusal
            self._send(record.peer, "Suspend", message)
        return record

    def recover(self) -> None:
        """At start-up: what was ended, but not recorded before the process died, is recorded one-sided."""
        for found in self._node.store.exchanges(status="open"):
            record = self._node.store.negotiation(found.id)
            if record is not None and record.state == State.TERMINATED.value:
                self._keep_end(record, self._sealed_end(record), None)

    def resume(self) -> None:
        """Once peers can be reached: what a crash or a lost reply left half done is sent again."""
        waiting = {unsent.negotiation for unsent in self._node.store.unsent()}
        for record in self._node.store.negotiations():
            half = (record.role, record.state) == (PROVIDER, State.AGREED.value)
            if half or record.id in waiting:
                with suppress(BayspaceError):  # its people see it in `contract list`
                    self.resend(record.id)

    # --- what the peer says ---------------------------------------------------------------------------

    def on_request(self, peer: str, message: pb.ContractRequest) -> bytes:
        """A consumer asks, or answers our offer with other terms. Returns our signature."""
        known = self._known(peer, message.negotiation, PROVIDER)
        if (signed := self._records.signed_before(_id(message.negotiation), message.record)) is not None:
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
        return self._on_opening(peer, message, [published, *_version(CONSUMER, own)], Message.REQUEST)

    def on_offer(self, peer: str, message: pb.ContractOffer) -> bytes:
        """A provider offers, or answers our request with other terms. Returns our signature."""
        known = self._known(peer, message.negotiation, CONSUMER)
        if (signed := self._records.signed_before(_id(message.negotiation), message.record)) is not None:
            return signed
        if known is not None:
            return self._on_terms(known, message, Message.OFFER)
        proposal = proposals.received(self._node, f"{peer}.{message.offer}", message.proposal, None)
        return self._on_opening(peer, message, [*_version(PROVIDER, proposal)], Message.OFFER)

    def on_accept(self, peer: str, message: pb.ContractAcceptance) -> bytes:
        """The consumer accepts our offer. Returns our signature over its record."""
        record = self._of(peer, message.negotiation, PROVIDER)
        if (signed := self._records.signed_before(record.id, message.record)) is not None:
            return signed
        record = self._confirmed(record, message.confirmation)
        after = NEGOTIATION.after(State(record.state), Message.ACCEPTANCE, CONSUMER)
        expected = self._turn(ACCEPTANCE, record, self._on_the_table(record)[-1], peer)
        sealed, theirs = self._records.received(message.record, expected)
        with self._node.store.atomic():
            self._moved(record.id, State(record.state), after)
            self._records.keep(record.id, sealed, peer, theirs)
        return self._records.signature(sealed)

    def on_agree(self, peer: str, message: pb.ContractAgreement) -> bytes:
        """The provider signed an agreement. Verify it is what we asked for or accepted, and sign it too."""
        node = self._node
        record = self._of(peer, message.negotiation, CONSUMER)
        if (signed := self._records.signed_before(record.id, message.record)) is not None:
            return signed
        record = self._confirmed(record, message.confirmation)
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
            self._moved(
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
        record = self._of(peer, negotiation, CONSUMER)
        if record.state == State.FINALIZED.value:  # a repetition
            return
        after = NEGOTIATION.after(State(record.state), Message.FINALIZATION, PROVIDER)
        with self._node.store.atomic():
            self._moved(record.id, State(record.state), after)
            self._in_force(record, _document(record))

    def on_terminate(self, peer: str, message: pb.NegotiationTermination) -> bytes:
        """The peer ends it. Returns our signature over its record."""
        record = self._of(peer, message.negotiation, None)
        if (signed := self._records.signed_before(record.id, message.record)) is not None:
            return signed
        record = self._confirmed(record, message.confirmation)
        if not self._node.evidence.is_open(record.id):  # open: ours of the same end is on its way
            NEGOTIATION.after(State(record.state), Message.TERMINATION, _other(record.role))
        expected = self._records.termination(record, message.code, peer)
        sealed, theirs = self._records.received(message.record, expected)
        with self._node.store.atomic():
            self._ended(record.id, message.code)
            self._keep_end(record, sealed, theirs)
            self._forget(record)
        return self._records.signature(sealed)

    def on_suspend(self, peer: str, negotiation: str, *, suspended: bool) -> None:
        """The provider suspended or resumed its agreement with us."""
        self._suspended(self._of(peer, negotiation, CONSUMER), suspended)

    # --- a turn of ours -------------------------------------------------------------------------------

    def _opened(self, peer: str, versions: list[Version], method: str, message: Any) -> NegotiationRecord:
        """A negotiation that we open: kept with its first message, which is sent then."""
        negotiation, key = self._node.entropy(16).hex(), self._node.entropy(EXCHANGE_KEY_BYTES)
        role = CONSUMER if method == "Request" else PROVIDER
        message.negotiation, message.exchange_key = negotiation, key
        state = NEGOTIATION.after(None, _TURNS[method][0], role)
        with self._node.store.atomic():
            self._open(negotiation, role, peer, message.offer, key, versions, state)
            record = self.find(negotiation)
            self._put_unsent(record, method, message, versions[-1].proposal)
        return self._deliver(record)

    def _take_turn(
        self, record: NegotiationRecord, method: str, message: Any, proposal: Proposal
    ) -> NegotiationRecord:
        """Keep our message, then send it; once it is confirmed, the move is made."""
        message.confirmation = self._records.confirmation(record.id)
        self._put_unsent(record, method, message, proposal)
        return self._deliver(record)

    def _put_unsent(self, record: NegotiationRecord, method: str, message: Any, proposal: Proposal) -> None:
        """Keep a message of ours under a fresh record."""
        statement = self._turn(_TURNS[method][2], record, proposal, self._node.id)
        message.record = self._records.signed(statement.seal(self._node.entropy))
        self._node.store.put_unsent(record.id, method, message.SerializeToString())

    def _deliver(self, record: NegotiationRecord) -> NegotiationRecord:
        """Send what is kept unsent, if anything. What the peer refuses for good is not kept."""
        found = self._node.store.unsent(record.id)
        if not found:
            return self.find(record.id)
        try:
            self._delivered(record, found[0])
        except Unavailable as error:
            raise Unavailable(
                error.code, f"{error.sentence}. It is kept: bayspace contract resend {record.id[:12]}"
            ) from None
        except BayspaceError as error:
            self._refused(record, found[0], error.code)
            raise
        return self.find(record.id)

    def _delivered(self, record: NegotiationRecord, unsent: UnsentRecord) -> None:
        message = _parsed(unsent)
        try:
            self._confirm(record, unsent, self._send(record.peer, unsent.method, message).signature)
        except PeerViolation:  # it never got this record, whose clock or member list is stale by now
            if unsent.method == "Finalize":
                raise
            renewed = self._renewed(record, unsent, message)
            self._confirm(
                record, renewed, self._send(record.peer, renewed.method, _parsed(renewed)).signature
            )

    def _renewed(self, record: NegotiationRecord, unsent: UnsentRecord, message: Any) -> UnsentRecord:
        """The same message under a fresh record."""
        self._put_unsent(record, unsent.method, message, self._proposed(record, message))
        return self._node.store.unsent(record.id)[0]

    def _confirm(self, record: NegotiationRecord, unsent: UnsentRecord, theirs: bytes) -> None:
        """The peer signed our message's record: keep it and make the move, unless that is done already."""
        message, store = _parsed(unsent), self._node.store
        with store.atomic():
            if not store.drop_unsent(record.id) or unsent.method == "Finalize":
                return
            opening = not store.evidence(record.id)
            sealed, _ = reopen(SignedRecord.parse(message.record))
            proposal = self._proposed(record, message)
            self._records.keep(record.id, sealed, record.peer, theirs)
            if not opening:
                self._turned(record, _TURNS[unsent.method][0], record.role, proposal)

    def _confirmed(self, record: NegotiationRecord, confirmation: bytes) -> NegotiationRecord:
        """The negotiation once a confirmation that rode on the peer's message is taken in."""
        found = self._node.store.unsent(record.id)
        if found and confirmation and found[0].method != "Finalize":
            self._confirm(record, found[0], confirmation)
        return self.find(record.id)

    def _refused(self, record: NegotiationRecord, unsent: UnsentRecord, code: str) -> None:
        """What the peer refused is not sent again; a negotiation that it would have opened is over."""
        store = self._node.store
        with store.atomic():
            if unsent.method == "Finalize" or not store.drop_unsent(record.id):
                return
            if not store.evidence(record.id):  # nothing was agreed, nothing is owed
                store.move_negotiation(record.id, [record.state], State.TERMINATED.value, code=code)
                store.close_exchange(record.id, "failed")

    # --- a turn of the peer's -------------------------------------------------------------------------

    def _on_opening(self, peer: str, message: Any, versions: list[Version], kind: Message) -> bytes:
        """A peer opens a negotiation with its request or its offer."""
        negotiation, store = _id(message.negotiation), self._node.store
        role, author = (PROVIDER, CONSUMER) if kind is Message.REQUEST else (CONSUMER, PROVIDER)
        if len(message.exchange_key) != EXCHANGE_KEY_BYTES:
            raise PeerViolation("contract.malformed", "an exchange key is 32 bytes")
        state = NEGOTIATION.after(None, kind, author)
        with store.atomic():
            if (signed := self._records.signed_before(negotiation, message.record)) is not None:
                return signed  # the same message came twice at once
            if store.exchange(negotiation) is not None:  # a query's, say: it is no id for another one
                raise PeerViolation("contract.unknown", "this negotiation is not the caller's")
            self._open(negotiation, role, peer, message.offer, message.exchange_key, versions, state)
            record = self._of(peer, negotiation, role)
            expected = self._turn(_EVENTS[kind], record, versions[-1].proposal, peer)
            sealed, theirs = self._records.received(message.record, expected)
            self._check_waiting(record)
            self._records.keep(negotiation, sealed, peer, theirs)
        return self._records.signature(sealed)

    def _on_terms(self, record: NegotiationRecord, message: Any, kind: Message) -> bytes:
        """The peer answers with other terms."""
        author = CONSUMER if kind is Message.REQUEST else PROVIDER
        record = self._confirmed(record, message.confirmation)
        NEGOTIATION.after(State(record.state), kind, author)
        self._check_versions(record)
        ours = self._on_the_table(record, record.role)
        last = ours[-1] if ours else None
        proposal = proposals.received(self._node, self._full_name(record), message.proposal, last)
        expected = self._turn(_EVENTS[kind], record, proposal, record.peer)
        sealed, theirs = self._records.received(message.record, expected)
        with self._node.store.atomic():
            self._records.keep(record.id, sealed, record.peer, theirs)
            self._turned(record, kind, author, proposal)
        return self._records.signature(sealed)

    def _turned(self, record: NegotiationRecord, kind: Message, author: str, proposal: Proposal) -> None:
        """The move that `author`'s message is; other terms are on the table then. In a transaction."""
        after = NEGOTIATION.after(State(record.state), kind, author)
        self._moved(record.id, State(record.state), after, policy_digest=proposal.policy_digest)
        if kind is not Message.ACCEPTANCE:
            self._put(record.id, Version(author, proposal))

    # --- inside ---------------------------------------------------------------------------------------

    def _open(
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
            self._put(negotiation, version)

    def _put(self, negotiation: str, version: Version) -> None:
        proposal = version.proposal
        self._node.store.add_proposal(
            negotiation,
            version.author,
            proposal.policy_digest,
            proposal.to_bytes(),
            published=version.published,
        )

    def _turn(self, event: str, record: NegotiationRecord, proposal: Proposal, author: str) -> Any:
        return self._records.turn(event, record, proposal.policy_digest, proposal.policy.policy, author)

    def _proposed(self, record: NegotiationRecord, message: Any) -> Proposal:
        """The terms that our message is about."""
        embedded = getattr(message, "proposal", b"")
        return Proposal.parse(embedded) if embedded else self._on_the_table(record)[-1]

    def _on_the_table(self, record: NegotiationRecord, author: str = "") -> list[Proposal]:
        """Every version of the terms, or one side's, the one that counts last."""
        kept = self._node.store.proposals(record.id)
        return [Proposal.parse(one.document) for one in kept if author in ("", one.author)]

    def _full_name(self, record: NegotiationRecord) -> str:
        return f"{self._records.roles(record).provider}.{record.offer}"

    def _check_waiting(self, opened: NegotiationRecord) -> None:
        """Raise `Unavailable` when the peer has opened too many, this one included."""
        waiting = self._node.store.count_negotiations(opened.role, opened.peer, opened.state)
        if waiting > MOST_WAITING_REQUESTS:
            sentence = f"{opened.peer} has too many requests waiting for an answer here"
            raise Unavailable("contract.waiting", sentence)

    def _check_versions(self, record: NegotiationRecord) -> None:
        if len(self._node.store.proposals(record.id)) >= MOST_PROPOSALS:
            raise ConfigError(
                "contract.proposals", f"a negotiation has at most {MOST_PROPOSALS} versions of terms"
            )

    def _check_read(self, record: NegotiationRecord, policy: str) -> None:
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

    def _agree(self, record: NegotiationRecord) -> NegotiationRecord:
        """Have the agreement signed by the consumer, then put it in force.

        The agreement is kept before it is sent: its document holds the time, so another attempt would
        otherwise send a different agreement than the one that the consumer may have signed already.
        """
        if record.state != State.AGREED.value:
            record = self._drafted(record)
            sealed, verification = self._verified(record)
        else:
            try:
                sealed, verification = self._verified(record)
            except PeerViolation:  # it never got that record, whose clock or member list is stale by now
                sealed, verification = self._verified(self._sealed_again(record))
        agreement = _document(record)
        verified = NEGOTIATION.after(State.AGREED, Message.VERIFICATION, CONSUMER)
        after = NEGOTIATION.after(verified, Message.FINALIZATION, PROVIDER)
        finalize = pb.NegotiationEvent(negotiation=record.id).SerializeToString()
        with self._node.store.atomic():
            self._moved(record.id, State.AGREED, after, agreement=agreement.digest)
            self._in_force(record, agreement)
            self._records.keep(record.id, sealed, record.peer, verification)
            self._node.store.put_unsent(record.id, "Finalize", finalize)
        return self.find(record.id)

    def _drafted(self, record: NegotiationRecord) -> NegotiationRecord:
        """Fix the agreement over the offer as it is now. Raises `ConfigError` when that has changed."""
        node = self._node
        offered = node.own_offer(record.offer)
        kept = node.store.proposals(record.id)
        terms, dataset = proposals.of_offer(offered), offered.dataset
        if kept and not kept[-1].published:
            terms = Proposal.parse(kept[-1].document)
            dataset = datasets.info_under(node.store, node.id, record.offer, terms.policy)
        elif offered.policy_digest.hex() != record.policy_digest:
            raise ConfigError(
                "contract.policy-changed", "the offer's policy has changed since it was asked for"
            )
        agreement = Agreement(
            negotiation=record.id,
            space=node.space,
            provider=node.id,
            consumer=record.peer,
            offer=record.offer,
            dataset=dataset,
            policy=terms.policy,
            agreed_at=milliseconds(node.now()),
            documents=terms.documents,
        )
        self._moved(
            record.id,
            State(record.state),
            NEGOTIATION.after(State(record.state), Message.AGREEMENT, PROVIDER),
            document=agreement.to_bytes(),
            evidence=self._records.signed(self._records.agreement(agreement, node.id).seal(node.entropy)),
        )
        return self.find(record.id)

    def _sealed_again(self, record: NegotiationRecord) -> NegotiationRecord:
        """The same agreement under a fresh record."""
        sealed = self._records.agreement(_document(record), self._node.id).seal(self._node.entropy)
        self._moved(record.id, State.AGREED, State.AGREED, evidence=self._records.signed(sealed))
        return self.find(record.id)

    def _verified(self, record: NegotiationRecord) -> tuple[Sealed, bytes]:
        """Send the agreement as it is kept; its record and the consumer's signature."""
        document, evidence = record.document or b"", record.evidence or b""
        sealed, _ = reopen(SignedRecord.parse(evidence))
        message = pb.ContractAgreement(
            negotiation=record.id,
            agreement=document,
            record=evidence,
            confirmation=self._records.confirmation(record.id),
        )
        reply = self._send(record.peer, "Agree", message)
        return sealed, reply.signature

    def _in_force(self, record: NegotiationRecord, agreement: Agreement) -> None:
        self._node.store.add_agreement(
            agreement.digest,
            record.role,
            record.peer,
            record.offer,
            agreement.to_bytes(),
            agreement.digest,
            None,
        )

    def _ended(self, negotiation: str, code: str) -> None:
        """Nothing is answered under it any more, from this moment."""
        store = self._node.store
        open_states = [state.value for state in NEGOTIATION.before(Message.TERMINATION, PROVIDER)]
        with store.atomic():
            store.move_negotiation(negotiation, open_states, State.TERMINATED.value, code=code)
            store.drop_unsent(negotiation)
            record = store.negotiation(negotiation)
            if record is not None and record.agreement is not None:
                store.move_agreement(record.agreement, ["active", "suspended"], "terminated")
                self._stopped(record.agreement)

    def _record_end(self, record: NegotiationRecord) -> None:
        """Have the peer sign the record of the end; what it does not sign stays one-sided and says so."""
        sealed = self._sealed_end(record)
        message = pb.NegotiationTermination(
            negotiation=record.id,
            code=record.code or "",
            record=self._records.signed(sealed),
            confirmation=self._records.confirmation(record.id),
        )
        theirs: bytes | None
        try:
            theirs = self._send(record.peer, "Terminate", message).signature
            countersigned(sealed, self._node.key, self._node.key_of(record.peer), theirs)
        except BayspaceError:
            theirs = None
        self._keep_end(record, sealed, theirs)

    def _sealed_end(self, record: NegotiationRecord) -> Sealed:
        code = record.code or "contract.terminated"
        return self._records.termination(record, code, self._node.id).seal(self._node.entropy)

    def _keep_end(self, record: NegotiationRecord, sealed: Sealed, theirs: bytes | None) -> None:
        """Close the exchange with this record, unless the peer's record of the same end came first."""
        with self._node.store.atomic():
            if self._node.evidence.is_open(record.id):
                self._records.keep(record.id, sealed, record.peer, theirs, "terminated")

    def _forget(self, record: NegotiationRecord) -> None:
        """What the peer opened and ended, and nobody agreed to, keeps digests of its terms, not their bytes.

        It no longer counts as waiting: opening and ending in turn would fill our disk otherwise.
        """
        events = [kept.event for kept in self._node.store.evidence(record.id)]
        opening = REQUEST if record.role == PROVIDER else OFFER
        if events[0] == opening and AGREEMENT not in events:
            self._node.store.drop_proposals(record.id)

    def _moved(self, negotiation: str, before: State, after: State, **fields: Any) -> None:
        """Move, or raise `ConfigError` when somebody else moved it meanwhile."""
        if not self._node.store.move_negotiation(negotiation, [before.value], after.value, **fields):
            raise ConfigError("contract.state", "the contract changed meanwhile: look at it again")

    def _suspended(self, record: NegotiationRecord, suspended: bool) -> None:
        if record.agreement is None or record.state != State.FINALIZED.value:
            raise ConfigError("contract.state", "only an agreement in force can be suspended or resumed")
        before, after = ("active", "suspended") if suspended else ("suspended", "active")
        self._node.store.move_agreement(record.agreement, [before, after], after)
        if suspended:
            self._stopped(record.agreement)

    def _stopped(self, agreement: str) -> None:
        """Once that is written: what runs under the agreement is interrupted, and finds why."""
        self._node.store.after_commit(lambda: self._node.stop_queries(agreement))

    def find(self, negotiation: str) -> NegotiationRecord:
        """By its id, or by the id of the agreement it led to; a unique beginning of either will do."""
        found = [
            n
            for n in self._node.store.negotiations()
            if negotiation and (n.id.startswith(negotiation) or (n.agreement or "").startswith(negotiation))
        ]
        if len(found) != 1:
            raise ConfigError("contract.unknown", "no contract, or more than one, has an id like this")
        return found[0]

    def _known(self, peer: str, negotiation: str, role: str) -> NegotiationRecord | None:
        """The negotiation, if there is one; a `PeerViolation` when it is another's."""
        known = self._node.store.negotiation(_id(negotiation))
        return None if known is None else self._of(peer, negotiation, role)

    def _of(self, peer: str, negotiation: str, role: str | None) -> NegotiationRecord:
        record = self._node.store.negotiation(_id(negotiation))
        if record is None or record.peer != peer or role not in (None, record.role):
            raise PeerViolation("contract.unknown", "this negotiation is not the caller's")
        return record

    @staticmethod
    def _must_be(record: NegotiationRecord, role: str) -> None:
        if record.role != role:
            raise ConfigError("contract.role", f"only the {role} of a contract can do this")

    def _may(self, record: NegotiationRecord, message: Message) -> None:
        """Raise `ConfigError` when it is not our turn to send `message`."""
        if State(record.state) not in NEGOTIATION.before(message, record.role):
            raise ConfigError("contract.state", f"the contract is {record.state}: this is not due")
        if self._node.store.unsent(record.id):
            raise ConfigError(
                "contract.unsent", f"an earlier message is not confirmed yet: resend {record.id[:12]}"
            )

    def _send(self, peer: str, method: str, message: Any) -> pb.NegotiationReply:
        stub = negotiation_pb2_grpc.NegotiationStub(self._node.peers.channel(peer))
        reply = self._node.peers.unary(peer, getattr(stub, method), message)
        return cast(pb.NegotiationReply, reply)


def _version(author: str, proposal: Proposal | None) -> list[Version]:
    return [] if proposal is None else [Version(author, proposal)]


def _other(role: str) -> str:
    return PROVIDER if role == CONSUMER else CONSUMER


def _parsed(unsent: UnsentRecord) -> Any:
    return _TURNS[unsent.method][1].FromString(unsent.body)


def _document(record: NegotiationRecord) -> Agreement:
    """The agreement under negotiation. INVARIANT: from AGREED on there is one."""
    return Agreement.parse(record.document or b"")


def _id(text: str) -> str:
    try:
        return matching(text, HEX16, "negotiation")
    except FormatError:
        raise PeerViolation("contract.malformed", "a negotiation id is not 32 hexadecimal digits") from None
