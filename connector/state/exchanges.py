"""Queries that run, exchanges with peers, their evidence, and what witnesses have still to be told.

Evidence is sealed under a key of its own; deleting that key erases the content and leaves every proof valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import delete, insert, select, update

from compute.errors import ConfigError
from connector.state import tables
from connector.state.database import BUSY_SECONDS, Database
from connector.state.rows import EvidenceRecord, ExchangeRecord, OutboxRecord, RunningRecord
from witness.database import write_ahead_log_emptied
from witness.encoding import system_entropy


class Exchanges(Database):
    """Running queries, exchanges, evidence and the outbox."""

    # running queries

    def start_query(self, query: str, agreement: str, per_agreement: int, total: int) -> bool:
        """Register a running query, unless its agreement or the connector runs as many as it may."""
        with self._writing() as connection:
            # Every starter changes this row first, so that counting and inserting cannot interleave.
            connection.execute(update(tables.turnstile).values(turn=tables.turnstile.c.turn + 1))
            running = [row.agreement for row in connection.execute(select(tables.running.c.agreement))]
            if len(running) >= total or running.count(agreement) >= per_agreement:
                return False
            self._insert(connection, tables.running, RunningRecord(query, agreement, self._now()))
        return True

    def finish_query(self, query: str) -> None:
        """The query ended, however it ended."""
        self._run(delete(tables.running).where(tables.running.c.query == query))

    def running(self, agreement: str | None = None) -> list[RunningRecord]:
        """Queries running now, oldest first."""
        query = select(tables.running).order_by(tables.running.c.at, tables.running.c.query)
        if agreement is not None:
            query = query.where(tables.running.c.agreement == agreement)
        return self._all(RunningRecord, query)

    def clear_running(self) -> list[RunningRecord]:
        """At start-up: forget the queries of a process that died, and return them for their evidence."""
        with self.atomic():
            left = self.running()
            self._run(delete(tables.running))
        return left

    # exchanges, evidence, outbox

    def open_exchange(
        self, exchange: str, agreement: str | None, peer: str, role: str, kind: str, trace_id: str, key: bytes
    ) -> ExchangeRecord:
        """Start an exchange with a peer."""
        record = ExchangeRecord(exchange, agreement, peer, role, kind, trace_id, key, "open", self._now())
        with self._writing() as connection:
            self._insert(connection, tables.exchanges, record)
        return record

    def exchange(self, exchange: str) -> ExchangeRecord | None:
        """One exchange."""
        return self._first(ExchangeRecord, select(tables.exchanges).where(tables.exchanges.c.id == exchange))

    def exchanges(
        self, *, status: str | None = None, kind: str | None = None, agreement: str | None = None
    ) -> list[ExchangeRecord]:
        """Exchanges, oldest first; with one status, of one kind, under one agreement when given."""
        query = select(tables.exchanges).order_by(tables.exchanges.c.at, tables.exchanges.c.id)
        for name, value in {"status": status, "kind": kind, "agreement": agreement}.items():
            if value is not None:
                query = query.where(tables.exchanges.c[name] == value)
        return self._all(ExchangeRecord, query)

    def close_exchange(self, exchange: str, status: str) -> bool:
        """Set the outcome of an open exchange; False when it has one already."""
        where = (tables.exchanges.c.id == exchange, tables.exchanges.c.status == "open")
        return self._run(update(tables.exchanges).where(*where).values(status=status)) == 1

    def add_evidence(
        self,
        exchange: str,
        sequence: int,
        event_type: str,
        digest: str,
        envelope: bytes,
        disclosures: bytes,
        witnesses: Sequence[str] = (),
    ) -> None:
        """Keep a record, sealed, and put it into the outbox for each of `witnesses`."""
        name, key = _record_name(exchange, sequence), system_entropy(32)
        sealed = [_seal(key, name, part, body) for part, body in enumerate((envelope, disclosures))]
        record = EvidenceRecord(exchange, sequence, event_type, digest, sealed[0], sealed[1], self._now())
        with self._writing() as connection:
            self._insert(connection, tables.evidence, record)
            connection.execute(
                insert(tables.evidence_keys).values(exchange=exchange, sequence=sequence, key=key)
            )
            for witness in witnesses:
                item = OutboxRecord(exchange, sequence, witness, "pending", 0, None, None, self._now())
                self._insert(connection, tables.outbox, item)

    def evidence(self, exchange: str) -> list[EvidenceRecord]:
        """The records of an exchange, in order."""
        keyed = tables.evidence.outerjoin(
            tables.evidence_keys,
            (tables.evidence.c.exchange == tables.evidence_keys.c.exchange)
            & (tables.evidence.c.sequence == tables.evidence_keys.c.sequence),
        )
        query = select(tables.evidence, tables.evidence_keys.c.key).select_from(keyed)
        query = query.where(tables.evidence.c.exchange == exchange).order_by(tables.evidence.c.sequence)
        with self._reading() as connection:
            return [_unsealed(dict(row._mapping)) for row in connection.execute(query)]  # noqa: SLF001

    def erase_evidence(self, exchange: str) -> int:
        """Destroy the keys of an exchange's records, and its kept answer; how many keys there were.

        The contents are gone then; digests and proofs stay. Raises `ConfigError` when the keys are deleted
        but not overwritten yet: erasing once more ends it.
        """
        if getattr(self._current, "connection", None) is not None:
            raise AssertionError("erasing empties the write-ahead log, which an open transaction holds")
        with self.atomic():
            self._run(delete(tables.answers).where(tables.answers.c.exchange == exchange))
            erased = self._run(
                delete(tables.evidence_keys).where(tables.evidence_keys.c.exchange == exchange)
            )
        if not write_ahead_log_emptied(self._engine, BUSY_SECONDS * 1000):
            why = (
                "deleted keys are still in the write-ahead log, which another program reads: erase once more"
            )
            raise ConfigError("evidence.erase-unfinished", why)
        return erased

    def outbox(self, *, status: str = "pending", witness: str | None = None) -> list[OutboxRecord]:
        """What witnesses have still to be told (or, by status, have confirmed), oldest first."""
        query = select(tables.outbox).where(tables.outbox.c.status == status)
        if witness is not None:
            query = query.where(tables.outbox.c.witness == witness)
        return self._all(
            OutboxRecord,
            query.order_by(tables.outbox.c.at, tables.outbox.c.exchange, tables.outbox.c.sequence),
        )

    def receipts(self, exchange: str) -> list[OutboxRecord]:
        """Every witness's word on the records of one exchange, delivered or not."""
        query = select(tables.outbox).where(tables.outbox.c.exchange == exchange)
        return self._all(OutboxRecord, query.order_by(tables.outbox.c.sequence, tables.outbox.c.witness))

    def mark_attempt(self, exchange: str, sequence: int, witness: str) -> None:
        """A delivery is being tried."""
        self._run(
            update(tables.outbox)
            .where(*_outbox_key(exchange, sequence, witness))
            .values(attempts=tables.outbox.c.attempts + 1)
        )

    def mark_delivered(self, exchange: str, sequence: int, witness: str, index: int, proof: bytes) -> None:
        """The witness logged the record at `index`. Once more with a newer proof replaces the proof."""
        changes = {"status": "delivered", "index": index, "proof": proof}
        self._run(update(tables.outbox).where(*_outbox_key(exchange, sequence, witness)).values(**changes))

    def mark_rejected(self, exchange: str, sequence: int, witness: str) -> None:
        """The witness refuses the record for good."""
        where = (*_outbox_key(exchange, sequence, witness), tables.outbox.c.status == "pending")
        self._run(update(tables.outbox).where(*where).values(status="rejected"))

    def requeue(self) -> None:
        """What was refused is to be tried again."""
        self._run(update(tables.outbox).where(tables.outbox.c.status == "rejected").values(status="pending"))

    def released(self, agreement: str, digest: str) -> bool:
        """Whether a release record of this digest was kept for a query under the agreement."""
        joined = tables.evidence.join(tables.exchanges, tables.evidence.c.exchange == tables.exchanges.c.id)
        query = select(tables.evidence.c.digest).select_from(joined)
        query = query.where(tables.evidence.c.digest == digest, tables.evidence.c.event == "query.release")
        with self._reading() as connection:
            return (
                connection.execute(query.where(tables.exchanges.c.agreement == agreement)).first() is not None
            )


def _outbox_key(exchange: str, sequence: int, witness: str) -> tuple[Any, ...]:
    return (
        tables.outbox.c.exchange == exchange,
        tables.outbox.c.sequence == sequence,
        tables.outbox.c.witness == witness,
    )


def _record_name(exchange: str, sequence: int) -> bytes:
    return f"{exchange}/{sequence}".encode()


def _seal(key: bytes, name: bytes, part: int, body: bytes) -> bytes:
    # The key is fresh per record and the nonce is the part's number: no pair occurs twice.
    return AESGCM(key).encrypt(part.to_bytes(12, "big"), body, name)


def _unsealed(row: dict[str, Any]) -> EvidenceRecord:
    key: bytes | None = row.pop("key")
    name = _record_name(row["exchange"], row["sequence"])
    for part, field in enumerate(("envelope", "disclosures")):
        opened = None if key is None else AESGCM(key).decrypt(part.to_bytes(12, "big"), row[field], name)
        row[field] = opened
    return EvidenceRecord(**row)
