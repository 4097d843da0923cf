"""How negotiations and agreements end or pause, whatever the peer answers.

It takes effect here before the peer is told, so neither its answer nor its silence can prevent it, and what
runs under an agreement is interrupted. What the peer does not sign stays one-sided and says so.
"""

from __future__ import annotations

from contextlib import suppress

from compute.errors import BayspaceError, ConfigError
from connector.contract_records import AGREEMENT, OFFER, REQUEST, Records
from connector.negotiation_table import Table
from connector.node import Node
from connector.records import countersigned
from connector.state.rows import NegotiationRecord
from connector.transitions import CONSUMER, NEGOTIATION, PROVIDER, Message, State
from connector.unconfirmed import Messenger, Unconfirmed
from connector.v1 import negotiation_pb2 as pb
from witness.record import Sealed


class Ending:
    """Ends, suspends and resumes."""

    def __init__(
        self, node: Node, records: Records, table: Table, unconfirmed: Unconfirmed, messenger: Messenger
    ) -> None:
        self._node, self._records, self._table = node, records, table
        self._unconfirmed, self._messenger = unconfirmed, messenger

    def terminate(self, negotiation: str, code: str) -> NegotiationRecord:
        """Either side ends a negotiation or an agreement, whatever the peer answers. Safe to repeat."""
        record = self._table.find(negotiation)
        if (
            record.state != State.FINALIZED.value
        ):  # nothing is answered yet; the peer may know less than we do
            with suppress(BayspaceError):
                self._unconfirmed.deliver(record)
        self._ended(record.id, code)
        if self._node.evidence.is_open(record.id):
            self._record_end(self._table.find(record.id))
        return self._table.find(record.id)

    def suspend(self, negotiation: str, *, suspended: bool) -> NegotiationRecord:
        """As provider: stop or resume answering under an agreement. Takes effect here at once.

        A peer that was not told learns of it when it next asks here; until then it shows itself the joint
        answers that it has kept, for which nobody is asked.
        """
        record = self._table.find(negotiation)
        self._table.must_be(record, PROVIDER)
        self._suspended(record, suspended)
        message = pb.AgreementSuspension(negotiation=record.id, suspended=suspended)
        with suppress(BayspaceError):  # who was not told learns it from its next refusal
            self._messenger.send(record.peer, "Suspend", message)
        return record

    def recover(self) -> None:
        """At start-up: what was ended, but not recorded before the process died, is recorded one-sided."""
        for found in self._node.store.exchanges(status="open"):
            record = self._node.store.negotiation(found.id)
            if record is not None and record.state == State.TERMINATED.value:
                self._keep_end(record, self._sealed_end(record), None)

    def on_terminate(self, peer: str, message: pb.NegotiationTermination) -> bytes:
        """The peer ends it. Returns our signature over its record."""
        record = self._table.of(peer, message.negotiation, None)
        if (signed := self._records.signed_before(record.id, message.record)) is not None:
            return signed
        record = self._unconfirmed.confirmed(record, message.confirmation)
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
        self._suspended(self._table.of(peer, negotiation, CONSUMER), suspended)

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
            theirs = self._messenger.send(record.peer, "Terminate", message).signature
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


def _other(role: str) -> str:
    return PROVIDER if role == CONSUMER else CONSUMER
