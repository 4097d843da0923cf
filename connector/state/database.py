"""One database and its transactions: SQLite (default) or PostgreSQL by URL, through the same code.

Each method of a store is one transaction; several become one inside `with store.atomic():`. SQLite runs in
WAL mode with synchronous=FULL: what a method returned from is still there after kill -9 or a power cut.
Refuses a schema that is newer than this program. Errors never show parameters.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    Table,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from compute.errors import ConfigError, Unavailable
from connector.identity import utc_now
from connector.state import tables
from witness.encoding import format_time

T = TypeVar("T")

_log = logging.getLogger(__name__)
_FULL = frozenset({sqlite3.SQLITE_FULL, "53100"})  # SQLite's code, PostgreSQL's disk_full
_BUSY = frozenset({sqlite3.SQLITE_BUSY, "55P03", "40P01"})  # lock_not_available, deadlock_detected
_AWAY = frozenset({None, "53300", "57P01", "57P02", "57P03"})
"""PostgreSQL's: no connection came about, or too many are open, or the server is going down or coming up."""

_PROBED = {
    "state.busy": "is kept locked by others",
    "state.full": "has a full disk",
    "state.unreachable": "does not answer",
}
BUSY_SECONDS = 30  # that a connection waits for another


@contextmanager
def _passing() -> Iterator[None]:
    """What passes is told from other troubles: a full disk, a database that is busy, or away for a while.

    Nothing of the transaction was kept, unless the connection broke while it was committed: nobody hears of
    that, so whoever records how something ended asks the state what it follows.
    """
    try:
        yield
    except (OperationalError, PoolTimeout) as error:
        found = _passes(error)
        if found is None:
            raise
        code, log, why = found
        _log.error("the state database %s", log)
        raise Unavailable(code, why) from error


def _passes(error: OperationalError | PoolTimeout) -> tuple[str, str, str] | None:
    """Code, words for our log, and the sentence for whoever asked; None for what does not pass."""
    origin = error.orig if isinstance(error, OperationalError) else None
    code = getattr(origin, "sqlite_errorcode", getattr(origin, "sqlstate", "not PostgreSQL's"))
    if code in _BUSY or origin is None:
        log = "stayed locked: too much is written at once"
        return "state.busy", log, "a connector's state is busy: it kept nothing of this; ask again later"
    if code in _FULL:
        why = "a connector's disk is full: it kept nothing of this; its operator makes room, then ask again"
        return "state.full", "has a full disk: make room; nothing is lost", why
    if code in _AWAY or str(code).startswith("08"):
        why = "a connector does not reach its state, so it answers nothing; its operator sees to it"
        return "state.unreachable", "does not answer", why
    return None


class Database:
    """What every part of the state works with. Safe to share between threads; close it when done."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock
        self._current = threading.local()

    @classmethod
    def open(cls, url: str, clock: Callable[[], datetime] = utc_now) -> Self:
        """Open or create the state at `url`. Raises ConfigError when it cannot be used."""
        try:
            engine = _engine(url)
            store = cls(engine, clock)
            store._migrate()
        except Unavailable as error:
            why = f"the state database cannot be used: it {_PROBED[error.code]}: check state.url"
            raise ConfigError("state.unusable", why) from error
        except (SQLAlchemyError, OSError, ImportError) as error:
            why = f"the state database cannot be used ({type(error).__name__}): check state.url"
            raise ConfigError("state.unusable", why) from error
        return store

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    def probe(self) -> None:
        """Write one row and commit: returns only when the state can be written. Raises ConfigError."""
        try:
            self._run(update(tables.turnstile).values(turn=tables.turnstile.c.turn + 1))
        except (SQLAlchemyError, Unavailable) as error:
            why = f"the state database cannot be written ({type(error).__name__})"
            if isinstance(error, Unavailable):
                why = f"the state database cannot be written: it {_PROBED[error.code]}"
            raise ConfigError("state.unusable", why) from error

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Everything this thread writes inside is one transaction: all of it or, on an error, nothing."""
        with self._writing():
            yield

    def after_commit(self, act: Callable[[], None]) -> None:
        """Do this once what this thread is writing can be read by others; at once outside a transaction."""
        if getattr(self._current, "connection", None) is None:
            act()
        else:
            self._current.after.append(act)

    # for the parts of the state

    def _now(self) -> str:
        return written(self._clock())

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        held: Connection | None = getattr(self._current, "connection", None)
        if held is not None:
            yield held
            return
        self._current.after = []
        with _passing(), self._engine.begin() as connection:
            self._current.connection = connection
            try:
                yield connection
            finally:
                self._current.connection = None
        for act in self._current.after:
            act()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        held: Connection | None = getattr(self._current, "connection", None)
        if held is not None:
            yield held
            return
        with _passing(), self._engine.connect().execution_options(reading=True) as connection:
            yield connection

    def _insert(self, connection: Connection, table: Table, record: Any) -> None:
        connection.execute(insert(table).values(**asdict(record)))

    def _run(self, statement: Any, **parameters: Any) -> int:
        with self._writing() as connection:
            return connection.execute(statement, parameters or None).rowcount

    def _first(self, kind: type[T], query: Select[Any]) -> T | None:
        found = self._all(kind, query.limit(1))
        return found[0] if found else None

    def _all(self, kind: type[T], query: Select[Any]) -> list[T]:
        with self._reading() as connection:
            return [kind(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001

    def _next_version(self, connection: Connection, table: Table, name: str) -> int:
        newest = select(func.max(table.c.version)).where(table.c.name == name)
        return int(connection.execute(newest).scalar() or 0) + 1

    def _migrate(self) -> None:
        with self._writing() as connection:
            if not inspect(connection).has_table(tables.schema.name):
                tables.METADATA.create_all(connection)
                connection.execute(insert(tables.schema).values(version=tables.VERSION))
                connection.execute(insert(tables.turnstile).values(id=1, turn=0))
                return
            found = int(connection.execute(select(func.max(tables.schema.c.version))).scalar_one())
            if found > tables.VERSION:
                raise ConfigError("state.newer", "the state was written by a newer version of bayspace")
            for version in range(found + 1, tables.VERSION + 1):
                for statement in tables.MIGRATIONS[version]:
                    connection.execute(text(statement))
                connection.execute(update(tables.schema).values(version=version))


def _engine(url: str) -> Engine:
    where = make_url(url)
    # hide_parameters: a driver's message would otherwise quote what was being written.
    if not where.drivername.startswith("sqlite"):
        engine = create_engine(where, hide_parameters=True, pool_pre_ping=True, max_overflow=20)
        event.listen(engine, "connect", _postgres_connect)
        return engine
    if not where.database or where.database == ":memory:":
        raise ConfigError("state.unusable", "the state must outlive the process: state.url names no file")
    _own_file(Path(where.database))
    engine = create_engine(
        where, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS}, max_overflow=-1
    )
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _own_file(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # WAL files take over this mode


def _postgres_connect(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:  # without it a row that somebody holds is waited for, for ever
        cursor.execute(f"SET lock_timeout = '{int(BUSY_SECONDS * 1000)}ms'")
    connection.commit()


def _sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_sqlite_begin` says, not by guessing
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Connection) -> None:
    # A writer takes the write lock at once: upgrading a read lock later fails without waiting.
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def written(at: datetime) -> str:
    """A moment as the state keeps it: RFC 3339, so that text compares as time does."""
    return format_time(int(at.timestamp() * 1000))
