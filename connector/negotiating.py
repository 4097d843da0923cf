"""Contract negotiation over the network: request, agree, verify, finalize, suspend, terminate.

The states and who may move them are `contract.advance`'s; this module carries messages, keeps state and
evidence in one transaction, and can be called again after a crash or a lost reply: every message is
idempotent, and an agreement that was sent is sent again byte for byte. Both parties sign the record of the
request, of the agreement and of its end. The owner may suspend or terminate at any time: that takes effect
before the peer is told, so no answer of the peer's, nor its silence, can prevent it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from compute.errors import BayspaceError, ConfigError, PeerViolation, Unavailable
from connector import references
from connector.contract import CONSUMER, PROVIDER, Agreement, Message, State, advance
from connector.node import Node
from connector.opening import SignedRecord
from connector.records import DONE, Statement, agreed, countersigned, reopen, signature, signature_in
from connector.storage import NegotiationRecord
from connector.terms import milliseconds
from connector.v1 import negotiation_pb2, negotiation_pb2_grpc
from witness import dsse
from witness.record import Contract, Data, Dataset, Exchange, Outcome, Party, Sealed, Sensitive
from witness.schema import HEX16, FormatError, matching

EXCHANGE_KEY_BYTES = 32
MOST_WAITING_REQUESTS = 32
"""Requests of one peer that wait for our people's answer: each is a row and a record, free for who asks."""
NO_TRACE = "0" * 32
UNSTATED = "0" * 64
"""Stands for the build of a peer, which only the peer itself can state."""


@dataclass(frozen=True, slots=True)
class _Roles:
    provider: str
    consumer: str


class Negotiating:
    """Both sides of contract negotiation for one connector."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- what our own people do -----------------------------------------------------------------------

    def request(self, provider: str, offer: str) -> NegotiationRecord:
        """As consumer: ask `provider` for a contract about its offer."""
        node = self._node
        offered = node.offer_of(provider, offer)
        negotiation, exchange_key = node.entropy(16).hex(), node.entropy(32)
        node.store.open_exchange(negotiation, None, provider, CONSUMER, "contract", NO_TRACE, exchange_key)
        node.store.add_negotiation(
            negotiation, CONSUMER, provider, offer, offered.policy_digest.hex(), State.REQUESTED.value
        )
        statement = self._statement(
            "contract.request",
            Exchange(negotiation, 0),
            _Roles(provider, node.id),
            Contract(offered.policy_digest.hex(), offered.policy.policy),
            author=node.id,
        )
        sealed = statement.seal(node.entropy)
        message = negotiation_pb2.ContractRequest(
            negotiation=negotiation,
            offer=offer,
            policy_digest=offered.policy_digest,
            record=self._signed(sealed),
            exchange_key=exchange_key,
        )
        try:
            reply = self._send(provider, "Request", message)
            self._keep(negotiation, sealed, provider, reply.signature)
        except BayspaceError as error:
            self._never_asked(negotiation, error.code)
            raise
        return self.find(negotiation)

    def approve(self, negotiation: str) -> NegotiationRecord:
        """As provider: sign the agreement, have it verified and signed, finalize. Safe to repeat."""
        node, record = self._node, self.find(negotiation)
        self._must_be(record, PROVIDER)
        if record.state in (State.REQUESTED.value, State.AGREED.value):
            record = self._agree(record)
        if record.state != State.FINALIZED.value:
            raise ConfigError("contract.state", f"the contract is {record.state} and cannot be approved")
        self._send(record.peer, "Finalize", negotiation_pb2.NegotiationEvent(negotiation=record.id))
        node.evidence.wake()
        return record

    def terminate(self, negotiation: str, code: str) -> NegotiationRecord:
        """Either side ends a negotiation or an agreement, whatever the peer answers. Safe to repeat."""
        record = self.find(negotiation)
        self._advanced(record, Message.TERMINATION, record.role)
        self._ended(record.id, code)
        if self._node.evidence.is_open(record.id):
            self._record_end(self.find(record.id))
        return self.find(record.id)

    def suspend(self, negotiation: str, *, suspended: bool) -> NegotiationRecord:
        """As provider: stop or resume answering under an agreement. Takes effect here at once."""
        record = self.find(negotiation)
        self._must_be(record, PROVIDER)
        self._suspended(record, suspended)
        message = negotiation_pb2.AgreementSuspension(negotiation=record.id, suspended=suspended)
        with suppress(BayspaceError):  # a peer that was not told learns it from its next query's refusal
            self._send(record.peer, "Suspend", message)
        return record

    def recover(self) -> None:
        """At start-up: what was ended, but not recorded before the process died, is recorded one-sided."""
        for found in self._node.store.exchanges(status="open"):
            record = self._node.store.negotiation(found.id)
            if record is not None and record.state == State.TERMINATED.value:
                self._keep_end(record, self._sealed_end(record), b"")

    # --- what the peer says ---------------------------------------------------------------------------

    def on_request(self, peer: str, message: negotiation_pb2.ContractRequest) -> bytes:
        """A consumer asks. Returns our signature over its request record."""
        node = self._node
        negotiation = _id(message.negotiation)
        if len(message.exchange_key) != EXCHANGE_KEY_BYTES:
            raise PeerViolation("contract.malformed", "an exchange key is 32 bytes")
        offered = node.own_offer(message.offer)
        if message.policy_digest != offered.policy_digest:
            raise ConfigError("contract.policy-changed", "the offer's policy has changed: read it again")
        expected = self._statement(
            "contract.request",
            Exchange(negotiation, 0),
            _Roles(node.id, peer),
            Contract(offered.policy_digest.hex(), offered.policy.policy),
            author=peer,
        )
        known = node.store.negotiation(negotiation)
        if known is not None and (known.peer, known.role) != (peer, PROVIDER):
            raise PeerViolation("contract.unknown", "this negotiation is not the caller's")
        if (signed := self._signed_before(negotiation, message.record)) is not None:
            return signed
        sealed, theirs = self._received(message.record, expected)
        if known is None:
            self._check_waiting(peer)
            with node.store.atomic():
                node.store.open_exchange(
                    negotiation, None, peer, PROVIDER, "contract", NO_TRACE, message.exchange_key
                )
                node.store.add_negotiation(
                    negotiation,
                    PROVIDER,
                    peer,
                    message.offer,
                    offered.policy_digest.hex(),
                    State.REQUESTED.value,
                )
                self._keep(negotiation, sealed, peer, theirs)
        else:
            raise PeerViolation("contract.out-of-order", "this negotiation was requested before")
        return signature(sealed, node.key)

    def on_agree(self, peer: str, message: negotiation_pb2.ContractAgreement) -> bytes:
        """The provider signed an agreement. Verify it is what we asked for, and sign it too."""
        node = self._node
        record = self._of(peer, message.negotiation, CONSUMER)
        if (signed := self._signed_before(record.id, message.record)) is not None:
            return signed
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
        sealed, theirs = self._received(message.record, self._agreement(agreement, peer))
        self._advanced(record, Message.AGREEMENT, PROVIDER)
        with node.store.atomic():
            self._moved(
                record.id,
                State.REQUESTED,
                State.VERIFIED,
                document=message.agreement,
                agreement=agreement.digest,
            )
            self._keep(record.id, sealed, peer, theirs)
        return signature(sealed, node.key)

    def on_finalize(self, peer: str, negotiation: str) -> None:
        """The provider has both signatures: the agreement is in force."""
        record = self._of(peer, negotiation, CONSUMER)
        self._advanced(record, Message.FINALIZATION, PROVIDER)
        if record.state == State.VERIFIED.value and record.document is not None:
            with self._node.store.atomic():
                self._moved(record.id, State.VERIFIED, State.FINALIZED)
                self._in_force(record, Agreement.parse(record.document))

    def on_terminate(self, peer: str, message: negotiation_pb2.NegotiationTermination) -> bytes:
        """The peer ends it. Returns our signature over its record."""
        record = self._of(peer, message.negotiation, None)
        if (signed := self._signed_before(record.id, message.record)) is not None:
            return signed
        sender = PROVIDER if record.role == CONSUMER else CONSUMER
        self._advanced(record, Message.TERMINATION, sender)
        sealed, theirs = self._received(message.record, self._termination(record, message.code, peer))
        with self._node.store.atomic():
            self._ended(record.id, message.code)
            self._keep_end(record, sealed, theirs)
        return signature(sealed, self._node.key)

    def on_suspend(self, peer: str, negotiation: str, *, suspended: bool) -> None:
        """The provider suspended or resumed its agreement with us."""
        self._suspended(self._of(peer, negotiation, CONSUMER), suspended)

    # --- inside ---------------------------------------------------------------------------------------

    def _check_waiting(self, peer: str) -> None:
        waiting = [
            n
            for n in self._node.store.negotiations()
            if (n.role, n.peer, n.state) == (PROVIDER, peer, State.REQUESTED.value)
        ]
        if len(waiting) >= MOST_WAITING_REQUESTS:
            raise Unavailable("contract.waiting", f"{peer} has too many requests waiting for an answer here")

    def _agree(self, record: NegotiationRecord) -> NegotiationRecord:
        """Have the agreement signed by the consumer, then put it in force.

        The agreement is kept before it is sent: its document holds the time, so another attempt would
        otherwise send a different agreement than the one that the consumer may have signed already.
        """
        if record.state == State.REQUESTED.value:
            record = self._drafted(record)
            sealed, verification = self._verified(record)
        else:
            try:
                sealed, verification = self._verified(record)
            except PeerViolation:  # it never got that record, whose clock or member list is stale by now
                sealed, verification = self._verified(self._sealed_again(record))
        agreement = _document(record)
        with self._node.store.atomic():
            self._moved(record.id, State.AGREED, State.FINALIZED, agreement=agreement.digest)
            self._in_force(record, agreement)
            self._keep(record.id, sealed, record.peer, verification)
        return self.find(record.id)

    def _drafted(self, record: NegotiationRecord) -> NegotiationRecord:
        """Fix the agreement over the offer as it is now. Raises `ConfigError` when that has changed."""
        node = self._node
        offered = node.own_offer(record.offer)
        if offered.policy_digest.hex() != record.policy_digest:
            raise ConfigError(
                "contract.policy-changed", "the offer's policy has changed since it was asked for"
            )
        agreement = Agreement(
            negotiation=record.id,
            space=node.space,
            provider=node.id,
            consumer=record.peer,
            offer=record.offer,
            dataset=offered.dataset,
            policy=offered.policy,
            agreed_at=milliseconds(node.now()),
            documents=offered.documents,
        )
        self._moved(
            record.id,
            State.REQUESTED,
            State.AGREED,
            document=agreement.to_bytes(),
            evidence=self._signed(self._agreement(agreement, node.id).seal(node.entropy)),
        )
        return self.find(record.id)

    def _sealed_again(self, record: NegotiationRecord) -> NegotiationRecord:
        """The same agreement under a fresh record."""
        sealed = self._agreement(_document(record), self._node.id).seal(self._node.entropy)
        self._moved(record.id, State.AGREED, State.AGREED, evidence=self._signed(sealed))
        return self.find(record.id)

    def _verified(self, record: NegotiationRecord) -> tuple[Sealed, bytes]:
        """Send the agreement as it is kept; its record and the consumer's signature."""
        document, evidence = record.document or b"", record.evidence or b""
        sealed, _ = reopen(SignedRecord.parse(evidence))
        message = negotiation_pb2.ContractAgreement(
            negotiation=record.id, agreement=document, record=evidence
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

    def _never_asked(self, negotiation: str, code: str) -> None:
        """A request that the provider did not sign is over: nothing was agreed, nothing is owed."""
        with self._node.store.atomic():
            store = self._node.store
            store.move_negotiation(negotiation, [State.REQUESTED.value], State.TERMINATED.value, code=code)
            store.close_exchange(negotiation, "failed")

    def _ended(self, negotiation: str, code: str) -> None:
        """Nothing is answered under it any more, from this moment."""
        store = self._node.store
        with store.atomic():
            store.move_negotiation(
                negotiation,
                [s.value for s in State if s is not State.TERMINATED],
                State.TERMINATED.value,
                code=code,
            )
            record = store.negotiation(negotiation)
            if record is not None and record.agreement is not None:
                store.move_agreement(record.agreement, ["active", "suspended"], "terminated")

    def _record_end(self, record: NegotiationRecord) -> None:
        """Have the peer sign the record of the end; what it does not sign stays one-sided and says so."""
        sealed = self._sealed_end(record)
        message = negotiation_pb2.NegotiationTermination(
            negotiation=record.id, code=record.code or "", record=self._signed(sealed)
        )
        try:
            theirs = self._send(record.peer, "Terminate", message).signature
            countersigned(sealed, self._node.key, self._node.key_of(record.peer), theirs)
        except BayspaceError:
            theirs = b""
        self._keep_end(record, sealed, theirs)

    def _sealed_end(self, record: NegotiationRecord) -> Sealed:
        node = self._node
        return self._termination(record, record.code or "contract.terminated", node.id).seal(node.entropy)

    def _keep_end(self, record: NegotiationRecord, sealed: Sealed, theirs: bytes) -> None:
        """Close the exchange with this record, unless the peer's record of the same end came first."""
        with self._node.store.atomic():
            if self._node.evidence.is_open(record.id):
                self._keep(record.id, sealed, record.peer, theirs, "terminated")

    def _moved(self, negotiation: str, before: State, after: State, **fields: Any) -> None:
        """Move, or raise `ConfigError` when somebody else moved it meanwhile."""
        if not self._node.store.move_negotiation(negotiation, [before.value], after.value, **fields):
            raise ConfigError("contract.state", "the contract changed meanwhile: look at it again")

    def _suspended(self, record: NegotiationRecord, suspended: bool) -> None:
        if record.agreement is None or record.state != State.FINALIZED.value:
            raise ConfigError("contract.state", "only an agreement in force can be suspended or resumed")
        before, after = ("active", "suspended") if suspended else ("suspended", "active")
        self._node.store.move_agreement(record.agreement, [before, after], after)

    def _advanced(self, record: NegotiationRecord, message: Message, sender: str) -> State:
        return advance(State(record.state), message, sender)

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

    def _of(self, peer: str, negotiation: str, role: str | None) -> NegotiationRecord:
        record = self._node.store.negotiation(_id(negotiation))
        if record is None or record.peer != peer or role not in (None, record.role):
            raise PeerViolation("contract.unknown", "this negotiation is not the caller's")
        return record

    @staticmethod
    def _must_be(record: NegotiationRecord, role: str) -> None:
        if record.role != role:
            raise ConfigError("contract.role", f"only the {role} of a contract can do this")

    def _send(self, peer: str, method: str, message: Any) -> negotiation_pb2.NegotiationReply:
        stub = negotiation_pb2_grpc.NegotiationStub(self._node.peers.channel(peer))
        reply = self._node.peers.unary(peer, getattr(stub, method), message)
        return cast(negotiation_pb2.NegotiationReply, reply)

    # --- records --------------------------------------------------------------------------------------

    def _signed(self, sealed: Sealed) -> bytes:
        return SignedRecord.of(sealed, signature(sealed, self._node.key)).to_bytes()

    def _received(self, record: bytes, expected: Statement) -> tuple[Sealed, bytes]:
        signed = SignedRecord.parse(record)
        sealed, stated = reopen(signed)
        # the peer names its own build; everything else must be what we would have written
        agreed(expected.with_build_of_author(stated), stated)
        return sealed, signed.signature

    def _signed_before(self, negotiation: str, record: bytes) -> bytes | None:
        """Our signature on a record that we signed and kept already: its message is a repetition."""
        sealed, _ = reopen(SignedRecord.parse(record))
        kept = [e.envelope for e in self._node.store.evidence(negotiation) if e.digest == sealed.digest]
        if not kept:
            return None
        if kept[0] is None:  # erased since
            return signature(sealed, self._node.key)
        return signature_in(dsse.parse(kept[0]), self._node.key.public)

    def _keep(
        self, negotiation: str, sealed: Sealed, peer: str, theirs: bytes, status: str | None = None
    ) -> None:
        node = self._node
        envelope = countersigned(sealed, node.key, node.key_of(peer), theirs or None)
        node.evidence.keep(negotiation, sealed, envelope, status)

    def _agreement(self, agreement: Agreement, author: str) -> Statement:
        return self._statement(
            "contract.agreement",
            self._next(agreement.negotiation, 1),
            _Roles(agreement.provider, agreement.consumer),
            Contract(agreement.policy_digest.hex(), agreement.policy.policy, agreement.digest),
            author=author,
            data=Data(datasets=(Dataset(agreement.provider, agreement.dataset.commitment),)),
        )

    def _termination(self, record: NegotiationRecord, code: str, author: str) -> Statement:
        node = self._node
        kept = node.store.evidence(record.id)
        # the provider keeps an agreement before the consumer has it: it counts once both signed it
        agreement = _document(record) if len(kept) > 1 else None
        version = record.offer if agreement is None else agreement.policy.policy
        roles = _Roles(node.id, record.peer) if record.role == PROVIDER else _Roles(record.peer, node.id)
        return self._statement(
            "contract.termination",
            self._next(record.id, len(kept)),
            roles,
            Contract(record.policy_digest, version, None if agreement is None else agreement.digest),
            author=author,
            outcome=Outcome("done", code),
        )

    def _next(self, negotiation: str, sequence: int) -> Exchange:
        kept = self._node.store.evidence(negotiation)
        if len(kept) < sequence:
            raise PeerViolation("contract.out-of-order", "a record of this negotiation is missing")
        return Exchange(negotiation, sequence, kept[sequence - 1].digest if sequence else None)

    def _statement(
        self,
        event: str,
        exchange: Exchange,
        roles: _Roles,
        contract: Contract,
        *,
        author: str,
        data: Data | None = None,
        outcome: Outcome = DONE,
    ) -> Statement:
        node = self._node
        now = milliseconds(node.now())
        both = [
            Party(id_, role, node.key_of(id_).ids, node.build if id_ == author else UNSTATED, now)
            for id_, role in ((roles.provider, PROVIDER), (roles.consumer, CONSUMER))
        ]
        return Statement(
            event=event,
            space=node.space,
            members=node.members.digest,
            exchange=exchange,
            parties=tuple(sorted(both, key=lambda party: party.id != author)),
            outcome=outcome,
            data=data or Data(),
            contract=contract,
            sensitive=Sensitive(),
        )


def _document(record: NegotiationRecord) -> Agreement:
    """The agreement under negotiation. INVARIANT: from AGREED on there is one."""
    return Agreement.parse(record.document or b"")


def _id(text: str) -> str:
    try:
        return matching(text, HEX16, "negotiation")
    except FormatError:
        raise PeerViolation("contract.malformed", "a negotiation id is not 32 hexadecimal digits") from None
