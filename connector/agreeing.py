"""The provider's last word: an agreement is fixed, signed by both, and in force.

It is kept before it is sent, so that another attempt sends the same bytes. Refuses an offer that has changed
since it was asked for.
"""

from __future__ import annotations

from compute.errors import ConfigError, PeerViolation
from connector import datasets, proposals
from connector.contract import Agreement, Proposal
from connector.contract_records import Records
from connector.negotiation_table import Table, agreement_under
from connector.node import Node
from connector.opening import SignedRecord
from connector.records import reopen
from connector.state.rows import NegotiationRecord
from connector.terms import milliseconds
from connector.transitions import CONSUMER, NEGOTIATION, PROVIDER, Message, State
from connector.unconfirmed import Messenger
from connector.v1 import negotiation_pb2 as pb
from witness.record import Sealed


class Agreeing:
    """Puts agreements in force."""

    def __init__(self, node: Node, records: Records, table: Table, messenger: Messenger) -> None:
        self._node, self._records, self._table, self._messenger = node, records, table, messenger

    def agree(self, record: NegotiationRecord) -> NegotiationRecord:
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
        agreement = agreement_under(record)
        verified = NEGOTIATION.after(State.AGREED, Message.VERIFICATION, CONSUMER)
        after = NEGOTIATION.after(verified, Message.FINALIZATION, PROVIDER)
        finalize = pb.NegotiationEvent(negotiation=record.id).SerializeToString()
        with self._node.store.atomic():
            self._table.moved(record.id, State.AGREED, after, agreement=agreement.digest)
            self.in_force(record, agreement)
            self._records.keep(record.id, sealed, record.peer, verification)
            self._node.store.put_unsent(record.id, "Finalize", finalize)
        return self._table.find(record.id)

    def in_force(self, record: NegotiationRecord, agreement: Agreement) -> None:
        """Keep an agreement that both signed: queries are answered under it. In a transaction."""
        self._node.store.add_agreement(
            agreement.digest,
            record.role,
            record.peer,
            record.offer,
            agreement.to_bytes(),
            agreement.digest,
        )

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
        self._table.moved(
            record.id,
            State(record.state),
            NEGOTIATION.after(State(record.state), Message.AGREEMENT, PROVIDER),
            document=agreement.to_bytes(),
            evidence=self._records.signed(self._records.agreement(agreement, node.id).seal(node.entropy)),
        )
        return self._table.find(record.id)

    def _sealed_again(self, record: NegotiationRecord) -> NegotiationRecord:
        """The same agreement under a fresh record."""
        sealed = self._records.agreement(agreement_under(record), self._node.id).seal(self._node.entropy)
        self._table.moved(record.id, State.AGREED, State.AGREED, evidence=self._records.signed(sealed))
        return self._table.find(record.id)

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
        reply = self._messenger.send(record.peer, "Agree", message)
        return sealed, reply.signature
