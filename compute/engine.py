"""DuckDB, locked down: one SELECT of our generated SQL at a time, over rows that we name, and nothing else.

Rows are Arrow data that we register, or local Parquet files that DuckDB reads by itself: exactly those files,
as they were when they were opened. No other file, network, extension, replacement scan, spill file or setting
is reachable from inside, whatever SQL should ever get in, and nothing but a SELECT runs, so the files cannot
be written. DuckDB's messages quote cell values, so every one is replaced by a sentence.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa

from compute.errors import BayspaceError, DataError, Unavailable


@dataclass(frozen=True, slots=True)
class ParquetFiles:
    """Local Parquet files of one schema that DuckDB reads itself. INVARIANT: no path reads as a pattern."""

    paths: tuple[Path, ...]  # absolute
    schema: pa.Schema  # the columns that queries may touch, in the files' own types
    stamp: str  # `stamp_of` the files when they were opened


Rows: TypeAlias = "pa.Table | pa.dataset.Dataset | pa.RecordBatchReader | ParquetFiles"
"""What DuckDB scans: rows in memory, files that Arrow or DuckDB reads, or a stream that can be read once."""

_CONFIG: dict[str, Any] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
    "python_scan_all_frames": False,
    "enable_external_file_cache": False,  # pages of a file that is read once
    "temp_directory": "",  # rows of a domain are never written to a disk that nobody named
    "preserve_insertion_order": False,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one local part may use. `stop` is set by whoever cancels; the query then ends within a moment."""

    threads: int = 2
    memory_bytes: int = 2 << 30
    maximum_groups: int = 65_536
    stop: threading.Event | None = None


def select(columns: Sequence[str], source: str, where: Sequence[str] = (), tail: str = "") -> str:
    """A SELECT of generated parts: what a plan holds, never the text that somebody typed."""
    filtered = ["WHERE", " AND ".join(where)] if where else []
    return " ".join(["SELECT", ", ".join(columns), "FROM", source, *filtered, tail])


def stamp_of(paths: Iterable[Path]) -> str:
    """Name, size and time of change of files: differs whenever they may have changed. Raises OSError."""
    found = [(path.name, path.stat()) for path in paths]
    return ";".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in found)


class Connection:
    """What `locked` gives: SELECTs over the tables it was opened with."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """The rows of one SELECT. Raises DataError for any other statement."""
        kinds = [statement.type for statement in self._connection.extract_statements(query)]
        if kinds != [duckdb.StatementType.SELECT]:
            raise DataError("data.local", "the local part is not one SELECT")
        return self._connection.sql(query)


_starting = ThreadPoolExecutor(1, thread_name_prefix="engine")
_spare: deque[Future[duckdb.DuckDBPyConnection]] = deque(maxlen=1)


def warm() -> None:
    """Start the next `locked`'s DuckDB now, beside other work: it takes as long as a small query."""
    if not _spare:
        _spare.append(_starting.submit(_started))


def _started() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config=_CONFIG)


def _instance() -> duckdb.DuckDBPyConnection:
    try:
        return _spare.pop().result()
    except IndexError:
        return _started()


@contextmanager
def locked(tables: Mapping[str, Rows], limits: Limits) -> Iterator[Connection]:
    """A connection over these tables alone. Closes; turns DuckDB's errors into ours.

    Raises DataError when a file changed meanwhile: what was read is then no one content.
    """
    files = [rows for rows in tables.values() if isinstance(rows, ParquetFiles)]
    found: list[BayspaceError] = []
    with _firewall(limits, found), _instance() as connection:
        connection.execute(f"SET threads = {limits.threads}")
        connection.execute(f"SET memory_limit = '{limits.memory_bytes}B'")
        paths = [str(path) for rows in files for path in rows.paths]
        connection.execute(f"SET allowed_paths = {_list(paths)}")
        # Only now: DuckDB takes the list of exceptions while access is still open.
        connection.execute("SET enable_external_access = false")
        for name, rows in tables.items():
            if isinstance(rows, ParquetFiles):
                connection.execute(f"CREATE VIEW {name} AS {_scan(rows)}")
            else:
                streamed = isinstance(rows, pa.RecordBatchReader)
                connection.register(name, _watched(rows, found) if streamed else rows)
        connection.execute("SET lock_configuration = true")
        with _interruptible(connection, limits.stop):
            yield Connection(connection)
    for rows in files:
        _check_unchanged(rows)


def _watched(reader: pa.RecordBatchReader, found: list[BayspaceError]) -> pa.RecordBatchReader:
    """The same stream. DuckDB makes one text of whatever a stream raises: what we said ourselves is kept."""

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except BayspaceError as error:
            found.append(error)
            raise

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def _scan(rows: ParquetFiles) -> str:
    columns = ['"' + name.replace('"', '""') + '"' for name in rows.schema.names]
    paths = _list([str(path) for path in rows.paths])
    # A folder called `year=2024` would add a column.
    return select(columns, f"read_parquet({paths}, hive_partitioning = false)")


def _list(texts: Sequence[str]) -> str:
    quoted = ["'" + text.replace("'", "''") + "'" for text in texts]
    return f"[{', '.join(quoted)}]"


def _check_unchanged(rows: ParquetFiles) -> None:
    try:
        unchanged = stamp_of(rows.paths) == rows.stamp
    except OSError:
        unchanged = False
    if not unchanged:
        raise DataError("dataset.changed", "the data changed while it was read: run `bayspace dataset add`")


@contextmanager
def _firewall(limits: Limits, found: Sequence[BayspaceError]) -> Iterator[None]:
    """`found`: what a stream of rows said was wrong with them."""
    try:
        yield
    except duckdb.InterruptException:
        raise Unavailable("local.cancelled", "the query was cancelled") from None
    except duckdb.OutOfMemoryException:
        limit = limits.memory_bytes >> 20
        raise DataError("data.memory", f"the local part needs more than its limit of {limit} MiB") from None
    except (duckdb.OutOfRangeException, duckdb.ConversionException):
        raise DataError("data.range", "a column holds values beyond its declared type or bounds") from None
    except (
        duckdb.Error,
        pa.ArrowException,
        OSError,
    ):  # Arrow's streams pass all that went wrong on as OSError
        if limits.stop is not None and limits.stop.is_set():
            raise Unavailable("local.cancelled", "the query was cancelled") from None
        if found:
            raise found[0] from None
        raise DataError("data.local", "the local part failed on this participant's own data") from None


@contextmanager
def _interruptible(connection: duckdb.DuckDBPyConnection, stop: threading.Event | None) -> Iterator[None]:
    """Watch `stop` while the query runs; DuckDB is interrupted from another thread."""
    if stop is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):  # the other event waits: a query that is done waits for nobody
            if stop.is_set():
                connection.interrupt()

    watcher = threading.Thread(target=watch, daemon=True, name="bayspace-local-stop")
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
