"""DuckDB, locked down: what runs our generated SQL over Arrow data that we register, and nothing else.

No file, network, extension, replacement scan, spill file or setting is reachable from inside, whatever
SQL should ever get in. DuckDB's messages quote cell values, so every one is replaced by a sentence.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.dataset

from compute.errors import DataError, Unavailable

Rows: TypeAlias = pa.Table | pa.dataset.Dataset | pa.RecordBatchReader
"""What DuckDB scans: rows in memory, files that Arrow reads, or a stream that can be read once."""

_CONFIG: dict[str, Any] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
    "python_scan_all_frames": False,
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


@contextmanager
def locked(tables: Mapping[str, Rows], limits: Limits) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection over these tables alone. Closes; turns DuckDB's errors into ours."""
    settings: dict[str, Any] = {"threads": limits.threads, "memory_limit": f"{limits.memory_bytes}B"}
    with _firewall(limits), duckdb.connect(":memory:", config={**_CONFIG, **settings}) as connection:
        for name, rows in tables.items():
            connection.register(name, rows)
        connection.execute("SET lock_configuration = true")
        with _interruptible(connection, limits.stop):
            yield connection


@contextmanager
def _firewall(limits: Limits) -> Iterator[None]:
    try:
        yield
    except duckdb.InterruptException:
        raise Unavailable("local.cancelled", "the query was cancelled") from None
    except duckdb.OutOfMemoryException:
        limit = limits.memory_bytes >> 20
        raise DataError("data.memory", f"the local part needs more than its limit of {limit} MiB") from None
    except (duckdb.OutOfRangeException, duckdb.ConversionException):
        raise DataError("data.range", "a column holds values beyond its declared type or bounds") from None
    except (duckdb.Error, pa.ArrowException):
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
