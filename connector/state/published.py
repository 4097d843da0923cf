"""Datasets, offers and member lists: versions are added, none is changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from threading import Lock
from typing import Any

from sqlalchemy import Engine, Select, Table, func, select, text, update

from connector.state import tables
from connector.state.database import Database
from connector.state.rows import DatasetRecord, OfferRecord

_KEEP_MEMBERS = text(
    "INSERT INTO members (digest, version, envelope) VALUES (:digest, :version, :envelope) "
    "ON CONFLICT (digest) DO NOTHING"
)


class Published(Database):
    """What is registered and offered, and who the members were."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        super().__init__(engine, clock)
        self._kept_offers: tuple[int | None, tuple[OfferRecord, ...]] | None = None
        self._watching = Lock()
        self._watch: Any = None  # a connection that never writes: its stamp changes with all that others do

    def close(self) -> None:
        """Give back every connection."""
        with self._watching:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
        super().close()

    # datasets and offers

    def add_dataset(
        self, name: str, source: str, entry: bytes, commitment: str, master_salt: bytes, rows: int
    ) -> DatasetRecord:
        """Register the next version of a dataset."""
        with self._writing() as connection:
            version = self._next_version(connection, tables.datasets, name)
            record = DatasetRecord(name, version, source, entry, commitment, master_salt, rows, self._now())
            self._insert(connection, tables.datasets, record)
        return record

    def dataset(self, name: str, version: int | None = None) -> DatasetRecord | None:
        """One version of a dataset; the newest when `version` is None."""
        query = (
            select(tables.datasets)
            .where(tables.datasets.c.name == name)
            .order_by(tables.datasets.c.version.desc())
        )
        if version is not None:
            query = query.where(tables.datasets.c.version == version)
        return self._first(DatasetRecord, query)

    def datasets(self) -> list[DatasetRecord]:
        """The newest version of every dataset, by name."""
        return self._all(DatasetRecord, _newest(tables.datasets))

    def add_offer(
        self,
        name: str,
        dataset: str,
        dataset_version: int,
        entry: bytes,
        policy: bytes,
        policy_text: str,
        policy_digest: str,
    ) -> OfferRecord:
        """Publish the next version of an offer."""
        with self._writing() as connection:
            version = self._next_version(connection, tables.offers, name)
            record = OfferRecord(
                name,
                version,
                dataset,
                dataset_version,
                entry,
                policy,
                policy_text,
                policy_digest,
                False,
                self._now(),
            )
            self._insert(connection, tables.offers, record)
        return record

    def offer(self, name: str, version: int | None = None) -> OfferRecord | None:
        """One version of an offer; the newest when `version` is None (even a withdrawn one)."""
        query = (
            select(tables.offers).where(tables.offers.c.name == name).order_by(tables.offers.c.version.desc())
        )
        if version is not None:
            query = query.where(tables.offers.c.version == version)
        return self._first(OfferRecord, query)

    def offers(self) -> list[OfferRecord]:
        """The newest version of every offer that is not withdrawn, by name.

        Every catalogue call asks: they are read again only when somebody, here or in another process, has
        committed something since. INVARIANT: the stamp is older than what is kept under it.
        """
        stamp = self._stamp()
        kept = self._kept_offers
        if stamp is None or kept is None or kept[0] != stamp:
            found = self._all(OfferRecord, _NEWEST_OFFERS)
            kept = (stamp, tuple(offer for offer in found if not offer.withdrawn))
            self._kept_offers = kept
        return list(kept[1])

    def offered_policy(self, digest: str) -> bytes | None:
        """The canonical form of a policy that some version of an offer stood under."""
        query = select(tables.offers.c.policy).where(tables.offers.c.policy_digest == digest).limit(1)
        with self._reading() as connection:
            found: bytes | None = connection.execute(query).scalar()
            return found

    def withdraw_offer(self, name: str) -> None:
        """Stop offering `name`; agreements that exist keep their terms."""
        self._run(update(tables.offers).where(tables.offers.c.name == name).values(withdrawn=True))

    # member lists

    def keep_members(self, digest: str, version: int, envelope: bytes) -> None:
        """Keep a signed member list: the receipts of its time need it for ever."""
        self._run(_KEEP_MEMBERS, digest=digest, version=version, envelope=envelope)

    def member_lists(self) -> list[tuple[str, bytes]]:
        """Digest and envelope of every member list kept, oldest first."""
        query = select(tables.members.c.digest, tables.members.c.envelope).order_by(tables.members.c.version)
        with self._reading() as connection:
            return [(row.digest, row.envelope) for row in connection.execute(query)]

    # inside

    def _stamp(self) -> int | None:
        """Another number after every commit; None where that cannot be told, or this thread has written."""
        if self._engine.dialect.name != "sqlite" or getattr(self._current, "connection", None) is not None:
            return None
        with self._watching:
            if self._watch is None:
                self._watch = self._engine.raw_connection()
            with closing(self._watch.cursor()) as cursor:
                return int(cursor.execute("PRAGMA data_version").fetchone()[0])


def _newest(table: Table) -> Select[Any]:
    latest = select(table.c.name, func.max(table.c.version).label("version")).group_by(table.c.name)
    newest = latest.subquery()
    same = (table.c.name == newest.c.name) & (table.c.version == newest.c.version)
    return select(table).join(newest, same).order_by(table.c.name)


_NEWEST_OFFERS = _newest(tables.offers)
