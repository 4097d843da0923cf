"""Negotiations with all that was on their table, messages not confirmed yet, and agreements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, func, or_, select, update

from connector.state import tables
from connector.state.database import Database, written
from connector.state.rows import AgreementRecord, NegotiationRecord, ProposalRecord, UnsentRecord


class Contracts(Database):
    """Negotiations and agreements."""

    # negotiations

    def add_negotiation(
        self, negotiation: str, role: str, peer: str, offer: str, policy_digest: str, state: str
    ) -> NegotiationRecord:
        """Start a negotiation."""
        record = NegotiationRecord(
            negotiation, role, peer, offer, policy_digest, state, None, None, None, None, self._now()
        )
        with self._writing() as connection:
            self._insert(connection, tables.negotiations, record)
        return record

    def negotiation(self, negotiation: str) -> NegotiationRecord | None:
        """One negotiation."""
        return self._first(
            NegotiationRecord, select(tables.negotiations).where(tables.negotiations.c.id == negotiation)
        )

    def negotiations(self) -> list[NegotiationRecord]:
        """Every negotiation, oldest first."""
        query = select(tables.negotiations).order_by(tables.negotiations.c.at, tables.negotiations.c.id)
        return self._all(NegotiationRecord, query)

    def count_negotiations(self, role: str, peer: str, state: str) -> int:
        """How many with this peer stand in this state, where we have this role."""
        columns = tables.negotiations.c
        where = (columns.role == role, columns.peer == peer, columns.state == state)
        with self._reading() as connection:
            return int(connection.execute(select(func.count()).where(*where)).scalar() or 0)

    def count_opened(self, peer: str, openings: Mapping[str, str], since: datetime) -> int:
        """How many a peer opened since then. `openings`: the event of their first record, by our role."""
        exchanges, evidence = tables.exchanges.c, tables.evidence.c
        first = (evidence.exchange == exchanges.id) & (evidence.sequence == 0)
        theirs = [(exchanges.role == role) & (evidence.event == name) for role, name in openings.items()]
        query = select(func.count()).select_from(tables.exchanges.join(tables.evidence, first))
        query = query.where(exchanges.peer == peer, exchanges.at >= written(since), or_(*theirs))
        with self._reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    def move_negotiation(
        self,
        negotiation: str,
        allowed_from: Sequence[str],
        state: str,
        *,
        document: bytes | None = None,
        evidence: bytes | None = None,
        agreement: str | None = None,
        code: str | None = None,
        policy_digest: str | None = None,
    ) -> bool:
        """Go to `state` if the present state is one of `allowed_from`; None leaves a field as it is."""
        given = {"document": document, "evidence": evidence, "agreement": agreement, "code": code}
        given["policy_digest"] = policy_digest
        changes = {name: value for name, value in given.items() if value is not None}
        where = (tables.negotiations.c.id == negotiation, tables.negotiations.c.state.in_(allowed_from))
        changed = self._run(
            update(tables.negotiations).where(*where).values(state=state, at=self._now(), **changes)
        )
        return changed == 1

    def add_proposal(
        self, negotiation: str, author: str, policy_digest: str, document: bytes, *, published: bool
    ) -> None:
        """Put the next terms on the table."""
        with self._writing() as connection:
            where = tables.proposals.c.negotiation == negotiation
            sequence = connection.execute(
                select(func.count()).select_from(tables.proposals).where(where)
            ).scalar()
            record = ProposalRecord(
                negotiation, int(sequence or 0), author, policy_digest, document, published, self._now()
            )
            self._insert(connection, tables.proposals, record)

    def proposals(self, negotiation: str) -> list[ProposalRecord]:
        """Everything that was on the table, in order."""
        query = select(tables.proposals).where(tables.proposals.c.negotiation == negotiation)
        return self._all(ProposalRecord, query.order_by(tables.proposals.c.sequence))

    def drop_proposals(self, negotiation: str) -> None:
        """Forget the documents of everything that was on the table; their digests stay."""
        self._run(
            update(tables.proposals).where(tables.proposals.c.negotiation == negotiation).values(document=b"")
        )

    def put_unsent(self, negotiation: str, method: str, body: bytes) -> None:
        """Keep a message until it is confirmed, instead of the one that was kept before."""
        with self.atomic():
            self.drop_unsent(negotiation)
            with self._writing() as connection:
                self._insert(connection, tables.unsent, UnsentRecord(negotiation, method, body, self._now()))

    def drop_unsent(self, negotiation: str) -> bool:
        """It is confirmed, or over; False when it was already."""
        return self._run(delete(tables.unsent).where(tables.unsent.c.negotiation == negotiation)) == 1

    def unsent(self, negotiation: str | None = None) -> list[UnsentRecord]:
        """Messages that the other side did not confirm yet, oldest first."""
        query = select(tables.unsent).order_by(tables.unsent.c.at, tables.unsent.c.negotiation)
        if negotiation is not None:
            query = query.where(tables.unsent.c.negotiation == negotiation)
        return self._all(UnsentRecord, query)

    # agreements

    def add_agreement(
        self,
        agreement: str,
        role: str,
        peer: str,
        offer: str,
        document: bytes,
        digest: str,
    ) -> AgreementRecord:
        """Keep a finalised agreement, active."""
        record = AgreementRecord(agreement, role, peer, offer, document, digest, "active", self._now())
        with self._writing() as connection:
            self._insert(connection, tables.agreements, record)
        return record

    def agreement(self, agreement: str) -> AgreementRecord | None:
        """One agreement."""
        return self._first(
            AgreementRecord, select(tables.agreements).where(tables.agreements.c.id == agreement)
        )

    def agreements(self, *, role: str | None = None, state: str | None = None) -> list[AgreementRecord]:
        """Agreements, oldest first; of one role or in one state when given."""
        query = select(tables.agreements).order_by(tables.agreements.c.at, tables.agreements.c.id)
        if role is not None:
            query = query.where(tables.agreements.c.role == role)
        if state is not None:
            query = query.where(tables.agreements.c.state == state)
        return self._all(AgreementRecord, query)

    def move_agreement(self, agreement: str, allowed_from: Sequence[str], state: str) -> bool:
        """Go to `state` if the present state is one of `allowed_from`."""
        where = (tables.agreements.c.id == agreement, tables.agreements.c.state.in_(allowed_from))
        return self._run(update(tables.agreements).where(*where).values(state=state)) == 1
