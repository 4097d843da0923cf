"""Evidence of one contract: what each of its records states, how it is checked, and how it is kept.

Both sides derive the same statement from what they hold; a peer's record is signed only when it states
exactly that. Refuses a record out of its place in the chain.
"""

from __future__ import annotations

from dataclasses import dataclass

from connector.contract import Agreement
from connector.node import Node
from connector.opening import SignedRecord
from connector.records import DONE, Statement, agreed, countersigned, reopen, signature, signature_in
from connector.state.rows import EvidenceRecord, NegotiationRecord
from connector.terms import milliseconds
from connector.transitions import CONSUMER, PROVIDER
from witness import dsse
from witness.bundle import Opening
from witness.record import Contract, Data, Dataset, Exchange, Outcome, Party, Record, Sealed, Sensitive

REQUEST, OFFER, ACCEPTANCE = "contract.request", "contract.offer", "contract.acceptance"
AGREEMENT, TERMINATION, USAGE = "contract.agreement", "contract.termination", "usage.statement"
NO_TRACE = "0" * 32
"""A contract is no query: it has no trace."""
UNSTATED = "0" * 64
"""Stands for the build of a peer, which only the peer itself can state."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Who is who in a contract."""

    provider: str
    consumer: str


class Records:
    """The records of this participant's contracts."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- what they state ------------------------------------------------------------------------------

    def turn(
        self, event: str, record: NegotiationRecord, policy: str, version: str, author: str
    ) -> Statement:
        """A request, an offer or an acceptance of the policy with this digest and name."""
        return self._statement(
            event, self._next(record.id), self.roles(record), Contract(policy, version), author=author
        )

    def agreement(self, agreement: Agreement, author: str) -> Statement:
        """The agreement that both sides sign."""
        return self._statement(
            AGREEMENT,
            self._next(agreement.negotiation),
            Roles(agreement.provider, agreement.consumer),
            _contract(agreement),
            author=author,
            data=Data(datasets=(Dataset(agreement.provider, agreement.dataset.commitment),)),
        )

    def termination(self, record: NegotiationRecord, code: str, author: str) -> Statement:
        """The end of a negotiation or of an agreement."""
        # the provider keeps an agreement before the consumer has it: it counts once both signed it
        signed = any(kept.event == AGREEMENT for kept in self._kept(record.id))
        agreement = Agreement.parse(record.document or b"") if signed else None
        contract = Contract(record.policy_digest, record.offer) if agreement is None else _contract(agreement)
        return self._statement(
            TERMINATION,
            self._next(record.id),
            self.roles(record),
            contract,
            author=author,
            outcome=Outcome("done", code),
        )

    def usage(self, exchange: str, agreement: Agreement, committed: str) -> Statement:
        """A usage statement: the provider's account of an agreement, as a commitment to its document."""
        return self._statement(
            USAGE,
            Exchange(exchange, 0),
            Roles(agreement.provider, agreement.consumer),
            _contract(agreement),
            author=agreement.provider,
            data=Data(commitments={"statement": committed}),
        )

    def roles(self, record: NegotiationRecord) -> Roles:
        """Who is provider and who consumer of a negotiation."""
        own, peer = self._node.id, record.peer
        return Roles(own, peer) if record.role == PROVIDER else Roles(peer, own)

    # --- signing, checking, keeping -------------------------------------------------------------------

    def signed(self, sealed: Sealed) -> bytes:
        """The record with our signature, as it travels."""
        return SignedRecord.of(sealed, self.signature(sealed)).to_bytes()

    def signature(self, sealed: Sealed) -> bytes:
        """Our signature over a record."""
        return signature(sealed, self._node.key)

    def received(self, record: bytes, expected: Statement) -> tuple[Sealed, bytes]:
        """A peer's record with its signature. Raises `PeerViolation` unless it states what we expect."""
        signed = SignedRecord.parse(record)
        sealed, stated = reopen(signed)
        # the peer names its own build; everything else must be what we would have written
        agreed(expected.with_build_of_author(stated), stated)
        return sealed, signed.signature

    def signed_before(self, exchange: str, record: bytes) -> bytes | None:
        """Our signature on a record that we signed and kept already: its message is a repetition."""
        sealed, _ = reopen(SignedRecord.parse(record))
        kept = [e for e in self._kept(exchange) if e.digest == sealed.digest]
        if not kept:
            return None
        return self._own_signature(kept[0]) or self.signature(sealed)

    def confirmation(self, negotiation: str) -> bytes:
        """Our signature over the last record, where the peer wrote it: its reply may have been lost."""
        kept = self._kept(negotiation)
        if not kept or kept[-1].envelope is None:
            return b""
        author = Record.parse(dsse.parse(kept[-1].envelope).payload).author
        return b"" if author == self._node.id else self._own_signature(kept[-1])

    def keep(
        self,
        exchange: str,
        sealed: Sealed,
        peer: str,
        theirs: bytes | None,
        status: str | None = None,
        openings: tuple[Opening, ...] = (),
    ) -> None:
        """Keep a record with both signatures. `theirs` is None for an end that the peer did not sign.

        Raises `PeerViolation` for a signature that does not hold, as an empty one does not.
        """
        node = self._node
        envelope = countersigned(sealed, node.key, node.key_of(peer), theirs)
        node.evidence.keep(exchange, sealed, envelope, status, openings)

    def _own_signature(self, kept: EvidenceRecord) -> bytes:
        """As it was made; nothing where the record is erased or our keys are others since."""
        envelope, own = dsse.parse(kept.envelope) if kept.envelope else None, self._node.key.public
        if envelope is None or not {key.id for key in own.keys} <= {s.keyid for s in envelope.signatures}:
            return b""
        return signature_in(envelope, own)

    # --- inside ---------------------------------------------------------------------------------------

    def _kept(self, exchange: str) -> list[EvidenceRecord]:
        return self._node.store.evidence(exchange)

    def _next(self, negotiation: str) -> Exchange:
        kept = self._kept(negotiation)
        return Exchange(negotiation, len(kept), kept[-1].digest if kept else None)

    def _statement(
        self,
        event: str,
        exchange: Exchange,
        roles: Roles,
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


def _contract(agreement: Agreement) -> Contract:
    return Contract(agreement.policy_digest.hex(), agreement.policy.policy, agreement.digest)
