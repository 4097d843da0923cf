"""The log's database: the sequence of entries, the staging mark, and the lock on the signed tree head.

SQLite (WAL, synchronous FULL) or PostgreSQL by URL, through SQLAlchemy Core. Every method is one
transaction. It refuses to move the lock from any head but the one the caller last saw.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)

_metadata = MetaData()
_entries = Table(
    "entries",
    _metadata,
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("envelope", LargeBinary(32), nullable=False, unique=True),
    Column("leaf", LargeBinary, nullable=False),
)
# The envelopes stand apart from the sequence, so that content can go while every proof stays.
_envelopes = Table(
    "envelopes",
    _metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("envelope", LargeBinary, nullable=False),
)
_staging = Table(
    "staging",
    _metadata,
    Column("first", BigInteger, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("checkpoint", Text, nullable=False),
)
_lock = Table(
    "lock",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("checkpoint", Text, nullable=False),
)
_members = Table(
    "members",
    _metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("envelope", LargeBinary, nullable=False),
)


class LockLost(RuntimeError):
    """The locked tree head is not the one this process last saw: another process writes the same log."""


@dataclass(frozen=True)
class Row:
    """One sequenced entry: its leaf, and the envelope that the leaf commits to."""

    index: int
    digest: bytes
    leaf: bytes
    envelope: bytes


@dataclass(frozen=True)
class Staged:
    """A batch [first, size) that is sequenced, and the signed checkpoint that will publish it."""

    first: int
    size: int
    checkpoint: str


class Database:
    """The tables, over one engine."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        _metadata.create_all(self._engine)

    def close(self) -> None:
        """Lets go of all connections."""
        self._engine.dispose()

    def locked(self) -> str | None:
        """The locked checkpoint; None for a log that does not exist yet."""
        found: str | None = self._scalar(select(_lock.c.checkpoint))
        return found

    def create(self, checkpoint: str) -> None:
        """Locks the first checkpoint of a new log."""
        with self._engine.begin() as connection:
            connection.execute(insert(_lock).values(id=1, checkpoint=checkpoint))

    def stage(self, rows: Sequence[Row], staged: Staged) -> None:
        """Sequences a batch durably, together with the checkpoint that will publish it."""
        entries = [{"index": r.index, "envelope": r.digest, "leaf": r.leaf} for r in rows]
        contents = [{"digest": r.digest, "envelope": r.envelope} for r in rows]
        mark = {"first": staged.first, "size": staged.size, "checkpoint": staged.checkpoint}
        with self._engine.begin() as connection:
            connection.execute(insert(_entries), entries)
            connection.execute(insert(_envelopes), contents)
            connection.execute(insert(_staging), mark)

    def advance(self, old: str, new: str) -> None:
        """Compare-and-swap of the locked checkpoint. Raises LockLost."""
        with self._engine.begin() as connection:
            moved = connection.execute(
                update(_lock).where(_lock.c.id == 1, _lock.c.checkpoint == old).values(checkpoint=new)
            )
            if moved.rowcount != 1:
                raise LockLost("another process has moved this log's tree head")

    def staged(self) -> Staged | None:
        """The batch that is not dropped yet."""
        with self._engine.connect() as connection:
            row = connection.execute(
                select(_staging).order_by(_staging.c.first.desc()).limit(1)
            ).one_or_none()
        return None if row is None else Staged(row.first, row.size, row.checkpoint)

    def drop_staged(self) -> None:
        """Forgets the staging mark, once its batch is published."""
        with self._engine.begin() as connection:
            connection.execute(delete(_staging))

    def count(self) -> int:
        """How many entries are sequenced."""
        return self._scalar(select(func.count()).select_from(_entries)) or 0

    def leaves(self, first: int, size: int) -> list[bytes]:
        """The leaves [first, size)."""
        query = select(_entries.c.leaf).where(_entries.c.index >= first, _entries.c.index < size)
        with self._engine.connect() as connection:
            return list(connection.execute(query.order_by(_entries.c.index)).scalars())

    def indexes(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Where these envelopes are recorded already."""
        query = select(_entries.c.envelope, _entries.c.index).where(_entries.c.envelope.in_(digests))
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def leaf(self, index: int) -> bytes | None:
        """The leaf at an index."""
        found: bytes | None = self._scalar(select(_entries.c.leaf).where(_entries.c.index == index))
        return found

    def envelope(self, digest: bytes) -> bytes | None:
        """The envelope with this digest."""
        query = select(_envelopes.c.envelope).where(_envelopes.c.digest == digest)
        found: bytes | None = self._scalar(query)
        return found

    def add_members(self, version: int, envelope: bytes) -> None:
        """Keeps a member list."""
        with self._engine.begin() as connection:
            connection.execute(insert(_members).values(version=version, envelope=envelope))

    def member_lists(self) -> list[bytes]:
        """All member lists kept, oldest first."""
        query = select(_members.c.envelope).order_by(_members.c.version)
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def _scalar(self, query: Any) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one_or_none()


def _engine(url: str) -> Engine:
    engine = create_engine(url, hide_parameters=True)  # errors must not quote envelopes
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _durable_sqlite)
    return engine


def _durable_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()
