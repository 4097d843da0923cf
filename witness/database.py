"""The log's database: the sequence of entries, the staging mark, and the lock on the signed tree head; and
what this witness has seen of other logs.

SQLite (WAL, synchronous FULL) or PostgreSQL by URL, through SQLAlchemy Core. Every method is one
transaction. It refuses to move a lock from any head but the one the caller last saw, and a schema that is
newer than this program.

An envelope lies encrypted under a key of its own: destroying the key erases the content, in this database
and in every copy of its large table, and leaves sequence, leaves and proofs as they are.
"""

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any
from urllib.parse import quote

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

_metadata = MetaData()
_entries = Table(
    "entries",
    _metadata,
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("envelope", LargeBinary(32), nullable=False, unique=True),
    Column("leaf", LargeBinary, nullable=False),
)
# Contents stand apart from the sequence, so that they can go while every proof stays. Schema 1 kept them
# unencrypted in `envelopes`; what it wrote there stays readable.
_envelopes = Table(
    "envelopes",
    _metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("envelope", LargeBinary, nullable=False),
)
_contents = Table(
    "contents",
    _metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)
_content_keys = Table(
    "content_keys",
    _metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("key", LargeBinary(32), nullable=False),
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
# The newest checkpoint of each other log that this witness cosigned, and every contradiction it met.
_cosigned = Table(
    "cosigned",
    _metadata,
    Column("origin", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("checkpoint", Text, nullable=False),
)
_forks = Table(
    "forks",
    _metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("origin", Text, nullable=False),
    Column("proved", Integer, nullable=False),
    Column("first", Text, nullable=False),
    Column("second", Text, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)
# What this witness records itself, by exchange: sent to the log again after a crash, it must be the same.
_own_records = Table(
    "own_records",
    _metadata,
    Column("exchange", Text, primary_key=True),
    Column("envelope", LargeBinary, nullable=False),
    Column("tag", LargeBinary(32), nullable=False),
)
_schema = Table("schema_version", _metadata, Column("version", Integer, primary_key=True))

# What every append executes, built once: building a statement costs more than executing it.
_INDEXES = select(_entries.c.envelope, _entries.c.index).where(
    _entries.c.envelope.in_(bindparam("digests", expanding=True))
)
_INSERT_ENTRIES, _INSERT_CONTENTS, _INSERT_KEYS = insert(_entries), insert(_contents), insert(_content_keys)
_DELETE_MARK, _INSERT_MARK = delete(_staging), insert(_staging)
_MOVE_LOCK = (
    update(_lock)
    .where(_lock.c.id == 1, _lock.c.checkpoint == bindparam("old"))
    .values(checkpoint=bindparam("new"))
)

SCHEMA_VERSION = 3
_MIGRATIONS: dict[int, tuple[str, ...]] = {2: (), 3: ()}
"""Statements that lead from the version before; new tables are created where they are missing. Schema 1,
which did not say its version, had `entries`, `envelopes`, `staging`, `lock` and `members`."""
BUSY = 10_000  # milliseconds that a connection waits for another
ERASE_TRIES, ERASE_PAUSE = 20, 0.1
MOST_FORKS = 256  # of one origin and kind: enough to prove it, and a log gone mad cannot fill the disk


class LockLost(RuntimeError):
    """The locked tree head is not the one this process last saw: another process writes the same log."""


class EraseUnfinished(RuntimeError):
    """Keys are deleted, but the disk still holds them: nobody may call them destroyed yet."""


class SchemaTooNew(RuntimeError):
    """A newer program has written this database; this one does not touch it."""


class SchemaOther(RuntimeError):
    """No database of this program's schema is there to read: start the witness, which makes it."""


@dataclass(frozen=True)
class Row:
    """One sequenced entry: its leaf, and the envelope that the leaf commits to, with the key to seal it."""

    index: int
    digest: bytes
    leaf: bytes
    envelope: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Fork:
    """Two notes of one log that contradict each other. Proved: two roots for one size, both signed.

    Not proved: the log sent a checkpoint without showing that it extends the one cosigned before.
    """

    origin: str
    proved: bool
    first: str
    second: str
    seen_at: int

    @property
    def digest(self) -> bytes:
        """What tells one contradiction from another: the two texts, however often they were signed."""
        texts = (signed.partition("\n\n")[0] for signed in (self.first, self.second))
        return hashlib.sha256("\n\n".join(texts).encode()).digest()


@dataclass(frozen=True)
class OwnRecord:
    """A record by this witness: its exchange, the envelope, and the tag of its leaf."""

    exchange: str
    envelope: bytes = field(repr=False)
    tag: bytes


@dataclass(frozen=True)
class Staged:
    """A batch [first, size) that is sequenced, and the signed checkpoint that will publish it."""

    first: int
    size: int
    checkpoint: str


class Database:
    """The tables, over one engine.

    read_only: never write, beside the process that does; raises SchemaOther instead of making tables.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._engine = _reading_engine(url) if read_only else _engine(url)
        try:
            if read_only:
                self._check_schema()
            else:
                self._migrate()
        except BaseException:
            self._engine.dispose()
            raise

    def _check_schema(self) -> None:
        try:
            found = self._scalar(select(_schema.c.version))
        except SQLAlchemyError as error:
            raise SchemaOther("there is no witness's database to read, or an older one") from error
        if found != SCHEMA_VERSION:
            raise SchemaOther("the witness's database was written by another version")

    def _migrate(self) -> None:
        with self._engine.begin() as connection:
            old = inspect(connection).has_table(_lock.name)
            _metadata.create_all(connection)
            found: int | None = connection.execute(select(_schema.c.version)).scalar_one_or_none()
            if found is None:
                found = 1 if old else SCHEMA_VERSION
                connection.execute(insert(_schema).values(version=found))
            if found > SCHEMA_VERSION:
                raise SchemaTooNew("the witness's database was written by a newer version")
            for version in range(found + 1, SCHEMA_VERSION + 1):
                for statement in _MIGRATIONS[version]:
                    connection.execute(text(statement))
                connection.execute(update(_schema).values(version=version))

    def close(self) -> None:
        """Lets go of all connections."""
        self._engine.dispose()

    def reconnect(self) -> None:
        """Begins with new connections, after one that may be in no good state."""
        self._engine.dispose()

    def locked(self) -> str | None:
        """The locked checkpoint; None for a log that does not exist yet."""
        found: str | None = self._scalar(select(_lock.c.checkpoint))
        return found

    def create(self, checkpoint: str) -> None:
        """Locks the first checkpoint of a new log."""
        with self._engine.begin() as connection:
            connection.execute(insert(_lock).values(id=1, checkpoint=checkpoint))

    def stage(self, rows: Sequence[Row], staged: Staged, locked: str) -> None:
        """Sequences a batch and moves the lock from `locked` to its checkpoint, all of it or nothing.

        The mark of the batch before goes with it: that batch is published. Raises LockLost.
        """
        entries = [{"index": r.index, "envelope": r.digest, "leaf": r.leaf} for r in rows]
        contents = [{"digest": r.digest, "sealed": _seal(r)} for r in rows]
        keys = [{"digest": r.digest, "key": r.key} for r in rows]
        mark = {"first": staged.first, "size": staged.size, "checkpoint": staged.checkpoint}
        with self._engine.begin() as connection:
            connection.execute(_INSERT_ENTRIES, entries)
            connection.execute(_INSERT_CONTENTS, contents)
            connection.execute(_INSERT_KEYS, keys)
            connection.execute(_DELETE_MARK)
            connection.execute(_INSERT_MARK, mark)
            self._move_lock(connection, locked, staged.checkpoint)

    def advance(self, old: str, new: str) -> None:
        """Compare-and-swap of the locked checkpoint. Raises LockLost."""
        with self._engine.begin() as connection:
            self._move_lock(connection, old, new)

    @staticmethod
    def _move_lock(connection: Connection, old: str, new: str) -> None:
        moved = connection.execute(_MOVE_LOCK, {"old": old, "new": new})
        if moved.rowcount != 1:
            raise LockLost("another process has moved this log's tree head")

    def staged(self) -> Staged | None:
        """The batch that is not dropped yet."""
        with self._engine.connect() as connection:
            row = connection.execute(
                select(_staging).order_by(_staging.c.first.desc()).limit(1)
            ).one_or_none()
        return None if row is None else Staged(row.first, row.size, row.checkpoint)

    def count(self) -> int:
        """How many entries are sequenced."""
        return self._scalar(select(func.count()).select_from(_entries)) or 0

    def count_contents(self, before: int | None = None) -> int:
        """How many contents are kept, neither erased nor expired; of the entries below index `before`."""
        counts: list[ColumnElement[int]] = []
        for table in (_content_keys, _envelopes):
            counts.append(select(func.count()).select_from(table).scalar_subquery())
            if before is not None:  # counted from the end, where there are few
                joined = table.join(_entries, _entries.c.envelope == table.c.digest)
                later = select(func.count()).select_from(joined).where(_entries.c.index >= before)
                counts.append(-later.scalar_subquery())
        return self._scalar(select(sum(counts[1:], counts[0]))) or 0  # one statement sees one state

    def leaves(self, first: int, size: int) -> list[bytes]:
        """The leaves [first, size)."""
        query = select(_entries.c.leaf).where(_entries.c.index >= first, _entries.c.index < size)
        with self._engine.connect() as connection:
            return list(connection.execute(query.order_by(_entries.c.index)).scalars())

    def indexes(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Where these envelopes are recorded already."""
        with self._engine.connect() as connection:
            found = connection.execute(_INDEXES, {"digests": list(digests)})
            return {row[0]: row[1] for row in found}

    def leaf(self, index: int) -> bytes | None:
        """The leaf at an index."""
        found: bytes | None = self._scalar(select(_entries.c.leaf).where(_entries.c.index == index))
        return found

    def envelope(self, digest: bytes) -> bytes | None:
        """The envelope with this digest; None when it is unknown, or erased."""
        keyed = select(_contents.c.sealed, _content_keys.c.key).join_from(
            _contents, _content_keys, _contents.c.digest == _content_keys.c.digest
        )
        with self._engine.connect() as connection:
            row = connection.execute(keyed.where(_contents.c.digest == digest)).one_or_none()
        if row is not None:
            return AESGCM(row.key).decrypt(_ONCE, row.sealed, digest)
        query = select(_envelopes.c.envelope).where(_envelopes.c.digest == digest)
        found: bytes | None = self._scalar(query)
        return found

    def erase(self, digests: Iterable[bytes]) -> int:
        """Destroys the keys of these envelopes; returns how many contents that erased.

        Leaves, sequence and proofs stay: what is gone is what the leaf committed to. Raises EraseUnfinished
        when the keys are deleted but not overwritten yet; erasing anything again, or nothing, ends it.
        """
        erased = 0
        with self._engine.begin() as connection:
            for digest in digests:
                keys = connection.execute(delete(_content_keys).where(_content_keys.c.digest == digest))
                plain = connection.execute(delete(_envelopes).where(_envelopes.c.digest == digest))
                connection.execute(delete(_contents).where(_contents.c.digest == digest))
                erased += keys.rowcount + plain.rowcount
        if not write_ahead_log_emptied(self._engine, BUSY):
            raise EraseUnfinished("deleted keys are still in the write-ahead log: another program reads it")
        return erased

    def kept(self, before: int, limit: int = 1000) -> list[bytes]:
        """Digests of entries below index `before` whose content is not erased, at most `limit`."""
        held = select(_content_keys.c.digest).union_all(select(_envelopes.c.digest)).subquery()
        query = select(_entries.c.envelope).join(held, held.c.digest == _entries.c.envelope)
        query = query.where(_entries.c.index < before).order_by(_entries.c.index).limit(limit)
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def contents(self, first: int, size: int) -> dict[bytes, bytes | None]:
        """The envelopes of the entries [first, size) that are kept, by digest; None if damaged or lost."""
        keyed = _content_keys.join(_entries, _entries.c.envelope == _content_keys.c.digest)
        keyed = keyed.outerjoin(_contents, _contents.c.digest == _content_keys.c.digest)
        sealed = select(_content_keys.c.digest, _contents.c.sealed, _content_keys.c.key).select_from(keyed)
        plain = select(_envelopes).join(_entries, _entries.c.envelope == _envelopes.c.digest)
        here = (_entries.c.index >= first, _entries.c.index < size)
        with self._engine.connect() as connection:
            kept = {row.digest: row.envelope for row in connection.execute(plain.where(*here))}
            return kept | {row.digest: _unsealed(row) for row in connection.execute(sealed.where(*here))}

    def entries(self, first: int, size: int) -> list[tuple[int, bytes, bytes]]:
        """Index, digest and leaf of the entries [first, size)."""
        query = select(_entries.c.index, _entries.c.envelope, _entries.c.leaf)
        query = query.where(_entries.c.index >= first, _entries.c.index < size).order_by(_entries.c.index)
        with self._engine.connect() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]

    # What this witness knows of other logs

    def cosigned(self, origin: str) -> str | None:
        """The newest checkpoint of this log that was cosigned, with the cosignatures."""
        found: str | None = self._scalar(select(_cosigned.c.checkpoint).where(_cosigned.c.origin == origin))
        return found

    def all_cosigned(self) -> dict[str, str]:
        """The newest cosigned checkpoint of every log."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(_cosigned.c.origin, _cosigned.c.checkpoint))
            return {row.origin: row.checkpoint for row in rows}

    def cosign(self, origin: str, old: str | None, size: int, checkpoint: str) -> bool:
        """Compare-and-swap of the newest cosigned checkpoint; False when it is not `old` any more."""
        with self._engine.begin() as connection:
            if old is None:
                values = {"origin": origin, "size": size, "checkpoint": checkpoint}
                return _inserted(connection, _cosigned, values)
            where = (_cosigned.c.origin == origin, _cosigned.c.checkpoint == old)
            changes = {"size": size, "checkpoint": checkpoint}
            return bool(connection.execute(update(_cosigned).where(*where).values(**changes)).rowcount == 1)

    def keep_fork(self, fork: Fork) -> bool:
        """Keeps the proof of a contradiction; False when it is kept already, or when there are plenty."""
        with self._engine.begin() as connection:
            # Counted apart: a log must not be able to crowd out a proof with suspicions.
            same = (_forks.c.origin == fork.origin, _forks.c.proved == int(fork.proved))
            many = select(func.count()).select_from(_forks).where(*same)
            if connection.execute(many).scalar_one() >= MOST_FORKS:
                return False
            values = {f.name: getattr(fork, f.name) for f in fields(fork)}
            values |= {"proved": int(fork.proved), "digest": fork.digest}
            return _inserted(connection, _forks, values)

    def forks(self) -> list[Fork]:
        """Every contradiction kept, oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(_forks).order_by(_forks.c.seen_at))
            return [Fork(r.origin, bool(r.proved), r.first, r.second, r.seen_at) for r in rows]

    def add_members(self, version: int, envelope: bytes) -> None:
        """Keeps a member list."""
        with self._engine.begin() as connection:
            connection.execute(insert(_members).values(version=version, envelope=envelope))

    def member_lists(self) -> list[bytes]:
        """All member lists kept, oldest first."""
        query = select(_members.c.envelope).order_by(_members.c.version)
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def own_record(self, exchange: str) -> OwnRecord | None:
        """What this witness recorded, or was about to record, as this exchange."""
        with self._engine.connect() as connection:
            row = connection.execute(
                select(_own_records).where(_own_records.c.exchange == exchange)
            ).one_or_none()
        return None if row is None else OwnRecord(row.exchange, row.envelope, row.tag)

    def keep_own_record(self, made: OwnRecord) -> None:
        """Keeps a record of this witness's own, before it is sent to the log."""
        values = {"exchange": made.exchange, "envelope": made.envelope, "tag": made.tag}
        with self._engine.begin() as connection:
            connection.execute(insert(_own_records).values(values))

    def _scalar(self, query: Any) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one_or_none()


def _inserted(connection: Connection, table: Table, values: dict[str, Any]) -> bool:
    """Inserts a row unless its key is there; whether it did: of two at once, one comes first."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).values(**values).on_conflict_do_nothing()
    return connection.execute(statement.returning(*table.primary_key.columns)).first() is not None


_ONCE = bytes(12)
"""The nonce: each key seals one envelope, ever."""


def _seal(row: Row) -> bytes:
    return AESGCM(row.key).encrypt(_ONCE, row.envelope, row.digest)


def _unsealed(row: Any) -> bytes | None:
    if row.sealed is None:  # its key is there, so it was not erased
        return None
    try:
        return AESGCM(row.key).decrypt(_ONCE, row.sealed, row.digest)
    except InvalidTag:
        return None


def _engine(url: str) -> Engine:
    engine = create_engine(url, hide_parameters=True)  # errors must not quote envelopes
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _durable_sqlite)
    return engine


def _reading_engine(url: str) -> Engine:
    """Read-only as the database enforces it, so that no defect of a reader can become a write."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        options = {"options": "-c default_transaction_read_only=on"}
        return create_engine(parsed, hide_parameters=True, connect_args=options)
    file = f"file:{quote(parsed.database or '')}?mode=ro"
    creator = partial(_read_only, file)
    return create_engine("sqlite://", hide_parameters=True, poolclass=QueuePool, creator=creator)


def _read_only(file: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, uri=True, timeout=10, check_same_thread=False)
    connection.execute("PRAGMA query_only=ON")
    return connection


def write_ahead_log_emptied(engine: Engine, busy: int) -> bool:
    """Whether nothing deleted is left in SQLite's write-ahead log; other databases have none.

    In short tries: while a reader stops it, writers wait too. `busy`: the milliseconds that this engine's
    connections wait for another.
    """
    if engine.dialect.name != "sqlite":
        return True
    with closing(engine.raw_connection()) as raw, closing(raw.cursor()) as cursor:
        cursor.execute(f"PRAGMA busy_timeout={busy // ERASE_TRIES}")
        try:
            for _ in range(ERASE_TRIES):
                stopped, _frames, _moved = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if not stopped:
                    return True
                time.sleep(ERASE_PAUSE)
        finally:
            cursor.execute(f"PRAGMA busy_timeout={busy}")
    return False


def _durable_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA busy_timeout={BUSY}")
    cursor.execute("PRAGMA secure_delete=ON")  # a key that is deleted is overwritten
    cursor.close()
