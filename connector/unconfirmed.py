"""A message of a negotiation is kept before it is sent and until the other side has signed its record.

Its move is made then; a later message of the other side carries that signature too. After a crash or a lost
reply it is sent again. What the peer refuses for good is not kept (docs/decisions/kept-until-confirmed.md).
"""

from __future__ import annotations

from typing import Any, cast

from compute.errors import BayspaceError, PeerViolation, Unavailable
from connector.contract import Proposal
from connector.contract_records import ACCEPTANCE, OFFER, REQUEST, Records
from connector.negotiation_table import Table
from connector.node import Node
from connector.opening import SignedRecord
from connector.records import reopen
from connector.state.rows import NegotiationRecord, UnsentRecord
from connector.transitions import Message, State
from connector.v1 import negotiation_pb2 as pb
from connector.v1 import negotiation_pb2_grpc

TURNS: dict[str, tuple[Message, type[Any], str]] = {
    "Request": (Message.REQUEST, pb.ContractRequest, REQUEST),
    "Offer": (Message.OFFER, pb.ContractOffer, OFFER),
    "Accept": (Message.ACCEPTANCE, pb.ContractAcceptance, ACCEPTANCE),
    "Finalize": (Message.FINALIZATION, pb.NegotiationEvent, ""),
}
"""What is kept until it is confirmed, by the method that carries it."""


class Messenger:
    """Carries a negotiation's messages to a peer and brings its reply."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def send(self, peer: str, method: str, message: Any) -> pb.NegotiationReply:
        """The reply of the peer's connector. Raises what it failed with."""
        stub = negotiation_pb2_grpc.NegotiationStub(self._node.peers.channel(peer))
        reply = self._node.peers.unary(peer, getattr(stub, method), message)
        return cast(pb.NegotiationReply, reply)


class Unconfirmed:
    """Our messages that were not confirmed yet."""

    def __init__(self, node: Node, records: Records, table: Table, messenger: Messenger) -> None:
        self._node, self._records, self._table, self._messenger = node, records, table, messenger

    def put(self, record: NegotiationRecord, method: str, message: Any, proposal: Proposal) -> None:
        """Keep a message of ours under a fresh record."""
        statement = self._table.turn(TURNS[method][2], record, proposal, self._node.id)
        message.record = self._records.signed(statement.seal(self._node.entropy))
        self._node.store.put_unsent(record.id, method, message.SerializeToString())

    def deliver(self, record: NegotiationRecord) -> NegotiationRecord:
        """Send what is kept unsent, if anything. What the peer refuses for good is not kept."""
        found = self._node.store.unsent(record.id)
        if not found:
            return self._table.find(record.id)
        try:
            self._delivered(record, found[0])
        except Unavailable as error:
            raise Unavailable(
                error.code, f"{error.sentence}. It is kept: bayspace contract resend {record.id[:12]}"
            ) from None
        except BayspaceError as error:
            self._refused(record, found[0], error.code)
            raise
        return self._table.find(record.id)

    def confirmed(self, record: NegotiationRecord, confirmation: bytes) -> NegotiationRecord:
        """The negotiation once a confirmation that rode on the peer's message is taken in."""
        found = self._node.store.unsent(record.id)
        if found and confirmation and found[0].method != "Finalize":
            self._confirm(record, found[0], confirmation)
        return self._table.find(record.id)

    def _delivered(self, record: NegotiationRecord, unsent: UnsentRecord) -> None:
        message = _parsed(unsent)
        try:
            self._confirm(record, unsent, self._messenger.send(record.peer, unsent.method, message).signature)
        except PeerViolation:  # it never got this record, whose clock or member list is stale by now
            if unsent.method == "Finalize":
                raise
            renewed = self._renewed(record, unsent, message)
            self._confirm(
                record, renewed, self._messenger.send(record.peer, renewed.method, _parsed(renewed)).signature
            )

    def _renewed(self, record: NegotiationRecord, unsent: UnsentRecord, message: Any) -> UnsentRecord:
        """The same message under a fresh record."""
        self.put(record, unsent.method, message, self._table.proposed(record, message))
        return self._node.store.unsent(record.id)[0]

    def _confirm(self, record: NegotiationRecord, unsent: UnsentRecord, theirs: bytes) -> None:
        """The peer signed our message's record: keep it and make the move, unless that is done already."""
        message, store = _parsed(unsent), self._node.store
        with store.atomic():
            if not store.drop_unsent(record.id) or unsent.method == "Finalize":
                return
            opening = not store.evidence(record.id)
            sealed, _ = reopen(SignedRecord.parse(message.record))
            proposal = self._table.proposed(record, message)
            self._records.keep(record.id, sealed, record.peer, theirs)
            if not opening:
                self._table.turned(record, TURNS[unsent.method][0], record.role, proposal)

    def _refused(self, record: NegotiationRecord, unsent: UnsentRecord, code: str) -> None:
        """What the peer refused is not sent again; a negotiation that it would have opened is over."""
        store = self._node.store
        with store.atomic():
            if unsent.method == "Finalize" or not store.drop_unsent(record.id):
                return
            if not store.evidence(record.id):  # nothing was agreed, nothing is owed
                store.move_negotiation(record.id, [record.state], State.TERMINATED.value, code=code)
                store.close_exchange(record.id, "failed")


def _parsed(unsent: UnsentRecord) -> Any:
    return TURNS[unsent.method][1].FromString(unsent.body)
