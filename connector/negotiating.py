"""Contract negotiation over the network: request, agree, verify, finalize, suspend, terminate.

The states and who may move them are `contract.advance`'s; this module carries messages, keeps state and
evidence in one transaction, and can be called again after a crash: every message is idempotent. Both parties
sign the record of the request, of the agreement and of its end. The owner may suspend or terminate at any
time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from compute.errors import ConfigError, PeerViolation, Unavailable
from connector.contract import CONSUMER, PROVIDER, Agreement, Message, State, advance
from connector.node import Node
from connector.opening import SignedRecord
from connector.records import DONE, Statement, agreed, countersigned, reopen, signature
from connector.storage import NegotiationRecord
from connector.terms import milliseconds
from connector.v1 import negotiation_pb2, negotiation_pb2_grpc
from witness.record import Contract, Data, Dataset, Exchange, Outcome, Party, Sealed, Sensitive
from witness.schema import HEX16, FormatError, matching

MOST_CLOCK_DIFFERENCE = 120_000  # ms
EXCHANGE_KEY_BYTES = 32
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
        reply = self._send(provider, "Request", message)
        self._keep(negotiation, sealed, provider, reply.signature)
        return self.find(negotiation)

    def approve(self, negotiation: str) -> NegotiationRecord:
        """As provider: sign the agreement, have it verified and signed, finalize. Safe to repeat."""
        node, record = self._node, self.find(negotiation)
        self._must_be(record, PROVIDER)
        if record.state == State.REQUESTED.value:
            record = self._agree(record)
        if record.state != State.FINALIZED.value:
            raise ConfigError("contract.state", f"the contract is {record.state} and cannot be approved")
        self._send(record.peer, "Finalize", negotiation_pb2.NegotiationEvent(negotiation=record.id))
        node.evidence.wake()
        return record

    def terminate(self, negotiation: str, code: str) -> NegotiationRecord:
        """Either side ends a negotiation or an agreement; it ends here even when the peer is away."""
        record = self.find(negotiation)
        if record.state == State.TERMINATED.value:
            return record
        self._advanced(record, Message.TERMINATION, record.role)
        sealed = self._termination(record, code, self._node.id).seal(self._node.entropy)
        message = negotiation_pb2.NegotiationTermination(
            negotiation=record.id, code=code, record=self._signed(sealed)
        )
        try:
            countersignature = self._send(record.peer, "Terminate", message).signature
        except Unavailable:
            countersignature = b""  # one-sided, and the record says so
        with self._node.store.atomic():
            self._terminated(record, code)
            self._keep(record.id, sealed, record.peer, countersignature)
        return self.find(record.id)

    def suspend(self, negotiation: str, *, suspended: bool) -> NegotiationRecord:
        """As provider: stop or resume answering under an agreement. Takes effect here at once."""
        record = self.find(negotiation)
        self._must_be(record, PROVIDER)
        self._suspended(record, suspended)
        message = negotiation_pb2.AgreementSuspension(negotiation=record.id, suspended=suspended)
        self._send(record.peer, "Suspend", message)
        return record

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
        sealed, theirs = self._received(message.record, expected)
        known = node.store.negotiation(negotiation)
        if known is None:
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
        elif (known.peer, known.role) != (peer, PROVIDER):
            raise PeerViolation("contract.unknown", "this negotiation is not the caller's")
        return signature(sealed, node.key)

    def on_agree(self, peer: str, message: negotiation_pb2.ContractAgreement) -> bytes:
        """The provider signed an agreement. Verify it is what we asked for, and sign it too."""
        node = self._node
        record = self._of(peer, message.negotiation, CONSUMER)
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
        sealed, theirs = self._received(message.record, self._agreement(agreement, peer))
        self._advanced(record, Message.AGREEMENT, PROVIDER)
        if record.state == State.REQUESTED.value:
            with node.store.atomic():
                node.store.move_negotiation(
                    record.id,
                    [State.REQUESTED.value],
                    State.VERIFIED.value,
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
                self._node.store.move_negotiation(record.id, [record.state], State.FINALIZED.value)
                self._in_force(record, Agreement.parse(record.document))

    def on_terminate(self, peer: str, message: negotiation_pb2.NegotiationTermination) -> bytes:
        """The peer ends it. Returns our signature over its record."""
        record = self._of(peer, message.negotiation, None)
        sender = PROVIDER if record.role == CONSUMER else CONSUMER
        self._advanced(record, Message.TERMINATION, sender)
        sealed, theirs = self._received(message.record, self._termination(record, message.code, peer))
        if record.state != State.TERMINATED.value:
            with self._node.store.atomic():
                self._terminated(record, message.code)
                self._keep(record.id, sealed, peer, theirs)
        return signature(sealed, self._node.key)

    def on_suspend(self, peer: str, negotiation: str, *, suspended: bool) -> None:
        """The provider suspended or resumed its agreement with us."""
        self._suspended(self._of(peer, negotiation, CONSUMER), suspended)

    # --- inside ---------------------------------------------------------------------------------------

    def _agree(self, record: NegotiationRecord) -> NegotiationRecord:
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
        )
        sealed = self._agreement(agreement, node.id).seal(node.entropy)
        document = agreement.to_bytes()
        message = negotiation_pb2.ContractAgreement(
            negotiation=record.id, agreement=document, record=self._signed(sealed)
        )
        verification = self._send(record.peer, "Agree", message).signature
        with node.store.atomic():
            node.store.move_negotiation(
                record.id,
                [State.REQUESTED.value],
                State.FINALIZED.value,
                document=document,
                agreement=agreement.digest,
            )
            self._in_force(record, agreement)
            self._keep(record.id, sealed, record.peer, verification)
        return self.find(record.id)

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

    def _terminated(self, record: NegotiationRecord, code: str) -> None:
        store = self._node.store
        store.move_negotiation(record.id, [record.state], State.TERMINATED.value, code=code)
        if record.agreement is not None:
            store.move_agreement(record.agreement, ["active", "suspended"], "terminated")
        store.close_exchange(record.id, "terminated")

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
        sealed, stated = reopen(signed.payload, signed.disclosures)
        # the peer names its own build; everything else must be what we would have written
        agreed(expected.with_build_of_author(stated), stated, MOST_CLOCK_DIFFERENCE)
        return sealed, signed.signature

    def _keep(self, negotiation: str, sealed: Sealed, peer: str, peer_signature: bytes) -> None:
        node = self._node
        envelope = countersigned(sealed, node.key, node.key_of(peer), peer_signature or None)
        node.evidence.keep(negotiation, sealed, envelope)

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
        version = record.offer
        roles = _Roles(node.id, record.peer) if record.role == PROVIDER else _Roles(record.peer, node.id)
        return self._statement(
            "contract.termination",
            self._next(record.id, len(kept)),
            roles,
            Contract(record.policy_digest, version, record.agreement),
            author=author,
            outcome=Outcome("done", code),
        )

    def _next(self, negotiation: str, sequence: int) -> Exchange:
        kept = self._node.store.evidence(negotiation)
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
            Party(id_, role, (node.key_of(id_).id,), node.build if id_ == author else UNSTATED, now)
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


def _id(text: str) -> str:
    try:
        return matching(text, HEX16, "negotiation")
    except FormatError:
        raise PeerViolation("contract.malformed", "a negotiation id is not 32 hexadecimal digits") from None
