"""Where a dataset's rows come from: Parquet, CSV, Arrow IPC, a DuckDB file, a PostgreSQL table.

A `Source` has a canonical schema (the types of `compute/types.py`) and can be scanned any number of times,
column by column, as record batches in the source's own order. Nothing is guessed: CSV columns are strings
until the dataset description gives them types. Columns of other types are listed in `unsupported` and
never read.

Refuses a folder whose files differ in schema (Arrow would fill in NULLs), folders in folders, views, and
credentials inside a description. Opened read-only. An error names file, column and row, never a value:
the libraries' own messages quote cells, so none of them is passed on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from compute.engine import ParquetFiles, stamp_of
from compute.errors import BayspaceError, ConfigError, DataError
from compute.local import Source as Rows
from compute.types import ONE_OF_TYPES, TIMESTAMP, Type, engine_reads, instead, parse_type, type_of_arrow
from connector.identity import read_private

BATCH_ROWS = 65_536


class _Spec(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Parquet(_Spec):
    """A Parquet file, or a folder of them with one schema, read in the order of their names."""

    kind: Literal["parquet"]
    path: str


class Csv(_Spec):
    """A CSV file with a header (or a folder of them); an empty unquoted field is NULL."""

    kind: Literal["csv"]
    path: str
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    null: tuple[str, ...] = Field(default=("",), strict=False)
    encoding: Literal["utf-8", "gb18030"] = "utf-8"


class Arrow(_Spec):
    """An Arrow IPC file or stream (a folder: files of the file format)."""

    kind: Literal["arrow"]
    path: str


class DuckDb(_Spec):
    """One table of a DuckDB database file."""

    kind: Literal["duckdb"]
    path: str
    table: str


class Postgres(_Spec):
    """One table of a PostgreSQL database. The URI lies in an environment variable or a private file."""

    kind: Literal["postgres"]
    table: str
    db_schema: str = Field(default="public", alias="schema")
    uri_env: str | None = None
    uri_file: str | None = None
    order: tuple[str, ...] = Field(default=(), strict=False)  # columns that fix the order of rows


SourceSpec = Annotated[Parquet | Csv | Arrow | DuckDb | Postgres, Field(discriminator="kind")]

EXTENSIONS: Mapping[str, str] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".duckdb": "duckdb",
}


@dataclass(frozen=True, slots=True)
class Source:
    """An opened source. `schema` holds the readable columns in their canonical Arrow types."""

    schema: pa.Schema
    unsupported: Mapping[str, str]  # columns whose types no query may touch, and what to cast each to
    modified: datetime | None  # when the data last changed, if the source can tell
    stamp: str | None  # changes whenever the data may have changed; None: the source cannot tell
    files: Any  # the files in their own types, for an engine that pushes filters down; None: only a stream
    _read: Callable[[list[str]], pa.RecordBatchReader] = field(repr=False)

    def types(self) -> dict[str, Type]:
        """Each readable column's type."""
        found = {name: type_of_arrow(self.schema.field(name).type) for name in self.schema.names}
        return {name: kind for name, kind in found.items() if kind is not None}

    def rows(self, columns: Sequence[str]) -> Rows:
        """What the local part takes: files where filters can be pushed down, else a way to a stream of these
        columns."""
        return partial(self.scan, columns) if self.files is None else cast(Rows, self.files)

    def scan(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """The rows of `columns` (all when None), in that order, in canonical types.

        Raises ConfigError for an unknown column; reading raises DataError.
        """
        names = list(self.schema.names if columns is None else columns)
        unknown = [name for name in names if name not in self.schema.names]
        if unknown:
            raise ConfigError("source.column", f"the source has no readable column {unknown[0]!r}")
        schema = pa.schema([self.schema.field(name) for name in names])
        with _without_values("the source"):
            reader = self._read(names)
        return pa.RecordBatchReader.from_batches(schema, _canonical(reader, schema))


def open_source(spec: SourceSpec, base: Path, types: Mapping[str, str] | None = None) -> Source:
    """Open what `spec` names; paths count from `base`. `types` are the declared types of CSV columns.

    Raises ConfigError when it is not there or not of that kind, DataError when files contradict each other.
    """
    with _without_values("the source"):
        if isinstance(spec, DuckDb):
            return _duckdb(spec, _existing(base / spec.path))
        if isinstance(spec, Postgres):
            return _postgres(spec, base)
        if isinstance(spec, Csv):
            return _csv(spec, _files(base / spec.path, ".csv"), types or {})
        if isinstance(spec, Arrow):
            files = _files(base / spec.path, ".arrow", ".feather")
            return _arrow_stream(files[0]) if _is_stream(files) else _arrow_files(files)
        return _parquet(_files(base / spec.path, ".parquet"))


# --- files --------------------------------------------------------------------------------------------


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ConfigError("source.missing", f"there is no {path}")
    return path


def _files(path: Path, *extensions: str) -> list[Path]:
    if not _existing(path).is_dir():
        return [path]
    shown = sorted(entry for entry in path.iterdir() if not entry.name.startswith((".", "_")))
    if any(entry.is_dir() for entry in shown):
        # Partition columns would live in folder names: leaving them out silently would change the table.
        raise ConfigError("source.folders", f"{path} holds folders; one folder of files is what can be read")
    files = [entry for entry in shown if entry.suffix in extensions]
    if not files:
        raise ConfigError("source.missing", f"{path} holds no {' or '.join(extensions)} file")
    return files


def _arrow_dataset(files: Sequence[Path], file_format: Any) -> Any:
    # Ten megabytes that a connector over Parquet does not need to answer queries.
    import pyarrow.dataset

    return pyarrow.dataset.dataset([str(file) for file in files], format=file_format)


def _arrow_files(files: list[Path]) -> Source:
    dataset = _arrow_dataset(files, "ipc")
    _check_schemas(files, [fragment.physical_schema for fragment in dataset.get_fragments()])

    def read(names: list[str]) -> pa.RecordBatchReader:
        return dataset.scanner(columns=names, batch_size=BATCH_ROWS).to_reader()

    return _source(dataset.schema, read, files, dataset)


def _pushed(dataset: Any, readable: Sequence[str]) -> Any:
    """The files for an engine that reads them by itself; None where it would cut off what they hold."""
    return dataset if all(engine_reads(dataset.schema.field(name).type) for name in readable) else None


def _parquet(files: list[Path]) -> Source:
    from pyarrow import parquet

    footers = [parquet.read_metadata(file).schema for file in files]
    schemas = [footer.to_arrow_schema() for footer in footers]
    _check_schemas(files, schemas)

    def read(names: list[str]) -> pa.RecordBatchReader:
        scanner = _arrow_dataset(files, "parquet").scanner(columns=names, batch_size=BATCH_ROWS)
        return cast(pa.RecordBatchReader, scanner.to_reader())

    paths = tuple(file.parent.resolve() / file.name for file in files)
    if not (all(_PLAIN_PATH.fullmatch(str(path)) for path in paths) and all(map(_duckdb_reads, footers))):
        return _source(schemas[0], read, files, _arrow_dataset(files, "parquet"))
    source = _source(schemas[0], read, files, None)
    readable = pa.schema([schemas[0].field(name) for name in source.schema.names])
    return replace(source, files=ParquetFiles(paths, readable, source.stamp or ""))


def _check_schemas(files: Sequence[Path], schemas: Sequence[pa.Schema]) -> None:
    for file, schema in zip(files, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise DataError("source.schemas", f"{file.name} has another schema than {files[0].name}")


_PLAIN_PATH = re.compile(r"[^*?\[\]{}\\\x00-\x1f\ud800-\udfff]+")
"""A path that DuckDB takes as it stands: others it would read as a pattern, or they are no text."""

_LOGICAL = {
    "int64": ("NONE", "INT"),
    "float64": ("NONE",),
    "bool": ("NONE",),
    "string": ("STRING",),
    "decimal": ("DECIMAL",),
    "date": ("DATE",),
    "timestamp": ("TIMESTAMP",),
}


def _duckdb_reads(footer: Any) -> bool:
    """Does DuckDB read every column that queries may touch as Arrow does?

    Not so: timestamps in nanoseconds or in 96 bits, text that is JSON or an enumeration, and names that a
    nested column shares.
    """
    raw = footer.to_arrow_schema()
    columns = {footer.column(index).path: footer.column(index) for index in range(len(footer))}
    return len(columns) == len(footer) and all(
        kind is None or (name in columns and _reads_alike(kind, field.type, columns[name]))
        for name, field in zip(raw.names, raw, strict=True)
        for kind in [type_of_arrow(field.type)]
    )


def _reads_alike(kind: Type, raw: pa.DataType, column: Any) -> bool:
    fine = not pa.types.is_timestamp(raw) or raw.unit != "ns"
    return fine and column.physical_type != "INT96" and column.logical_type.type in _LOGICAL[kind.kind]


def _source(
    raw: pa.Schema, read: Callable[[list[str]], pa.RecordBatchReader], files: list[Path], pushed: Any
) -> Source:
    schema, unsupported = _canonical_schema(raw)
    modified = datetime.fromtimestamp(max(file.stat().st_mtime for file in files), UTC)
    files_ = pushed and _pushed(pushed, schema.names)
    return Source(schema, unsupported, modified, stamp_of(files), files_, read)


def _is_stream(files: list[Path]) -> bool:
    if len(files) > 1:
        return False
    with files[0].open("rb") as file:
        return file.read(6) != b"ARROW1"


def _arrow_stream(file: Path) -> Source:
    def read(names: list[str]) -> pa.RecordBatchReader:
        reader = pa.ipc.open_stream(pa.memory_map(str(file)))
        kept = pa.schema([reader.schema.field(name) for name in names])
        return pa.RecordBatchReader.from_batches(kept, (batch.select(names) for batch in reader))

    with pa.ipc.open_stream(pa.memory_map(str(file))) as reader:
        schema = reader.schema
    return _source(schema, read, [file], None)


def _csv(spec: Csv, files: list[Path], types: Mapping[str, str]) -> Source:
    from pyarrow import csv

    reading = csv.ReadOptions(encoding=spec.encoding)
    parsing = csv.ParseOptions(delimiter=spec.delimiter, newlines_in_values=True)
    header = _csv_header(files, reading, parsing)
    if set(types) - set(header):
        missing = min(set(types) - set(header))
        raise ConfigError("source.column", f"{files[0].name} has no column {missing!r}")
    declared = {name: parse_type(types[name]).arrow if name in types else pa.string() for name in header}
    converting = csv.ConvertOptions(
        column_types=declared,
        null_values=list(spec.null),
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        true_values=["true"],
        false_values=["false"],
    )
    # One thread: errors then know their row, and the order of rows is the file's.
    serial = csv.ReadOptions(encoding=spec.encoding, use_threads=False)

    def read(names: list[str]) -> pa.RecordBatchReader:
        schema = pa.schema([pa.field(name, declared[name]) for name in names])
        return pa.RecordBatchReader.from_batches(schema, batches(names))

    def batches(names: list[str]) -> Iterator[pa.RecordBatch]:
        for file in files:
            with csv.open_csv(file, serial, parsing, converting) as reader:
                for batch in reader:
                    yield batch.select(names)

    schema = pa.schema([pa.field(name, kind) for name, kind in declared.items()])
    return _source(schema, read, files, None)


def _csv_header(files: list[Path], reading: Any, parsing: Any) -> list[str]:
    from pyarrow import csv

    headers = []
    for file in files:
        with csv.open_csv(file, reading, parsing) as reader:
            headers.append(list(reader.schema.names))
    if any(header != headers[0] for header in headers):
        raise DataError("source.schemas", "the CSV files have different headers")
    if len(set(headers[0])) != len(headers[0]):
        raise DataError("source.schemas", f"{files[0].name} names a column twice")
    return headers[0]


# --- databases ----------------------------------------------------------------------------------------


_DUCKDB_HUGE = (
    "SELECT column_name, data_type FROM duckdb_columns() "
    "WHERE schema_name = 'main' AND table_name = ? AND data_type IN ('HUGEINT', 'UHUGEINT')"
)
_DUCKDB_TABLE = "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'main' AND table_name = ?"


def _duckdb(spec: DuckDb, path: Path) -> Source:
    import duckdb

    @contextmanager
    def connect() -> Iterator[Any]:
        locked: dict[str, str | bool | int | float | list[str]] = {
            "enable_external_access": "false",
            "autoload_known_extensions": "false",
            "lock_configuration": "true",
        }
        with duckdb.connect(str(path), read_only=True, config=locked) as connection:
            yield connection

    with connect() as connection:
        if connection.execute(_DUCKDB_TABLE, [spec.table]).fetchall() != [(1,)]:
            raise ConfigError("source.table", f"{path.name} has no table {spec.table!r} in its main schema")
        schema = connection.sql(f"SELECT * FROM main.{_quoted(spec.table)} LIMIT 0").to_arrow_table().schema  # noqa: S608
        # Arrow gets the 128 bits of both as a decimal of 38 digits, whatever they hold.
        huge = dict(connection.execute(_DUCKDB_HUGE, [spec.table]).fetchall())

    def read(names: list[str]) -> pa.RecordBatchReader:
        kept = pa.schema([schema.field(name) for name in names])
        return pa.RecordBatchReader.from_batches(kept, batches(names))

    def batches(names: list[str]) -> Iterator[pa.RecordBatch]:
        with connect() as connection:
            _check_huge(connection, spec.table, {name: huge[name] for name in names if name in huge})
            chosen = ", ".join(_quoted(name) for name in names)
            relation = connection.sql(f"SELECT {chosen} FROM main.{_quoted(spec.table)}")  # noqa: S608
            yield from relation.to_arrow_reader(BATCH_ROWS)

    return _source(schema, read, [path], None)


def _check_huge(connection: Any, table: str, columns: Mapping[str, str]) -> None:
    """Whole numbers of 128 bits have up to 39 digits, and decimals hold 38. Raises `DataError`."""
    for name, kind in columns.items():
        beyond = f"TRY_CAST({_quoted(name)} AS DECIMAL(38,0)) IS NULL AND {_quoted(name)} IS NOT NULL"
        query = f"SELECT count(*) FROM main.{_quoted(table)} WHERE {beyond}"  # noqa: S608
        if connection.execute(query).fetchall() != [(0,)]:
            raise DataError(
                "source.value",
                f"column {name!r} is {kind} and holds a value of more than 38 digits; "
                "cast it to DOUBLE, or leave the row out, in a table of its own",
            )


_POSTGRES_TYPES: Mapping[str, str] = {
    "int2": "int64",
    "int4": "int64",
    "int8": "int64",
    "float4": "float64",
    "float8": "float64",
    "text": "string",
    "varchar": "string",
    "bpchar": "string",
    "bool": "bool",
    "date": "date",
    "timestamp": "timestamp",
}
_POSTGRES_INSTEAD: Mapping[str, str] = {
    "numeric": "numeric(p,s) with at most 38 digits",
    "timestamptz": "timestamp without a zone, all in one zone: column AT TIME ZONE 'UTC'",
}
_POSTGRES_COLUMNS = (
    "SELECT a.attname, t.typname, a.atttypmod FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
    "JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p') "
    "AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
)
_POSTGRES_SESSION = (
    "SET default_transaction_read_only = on",
    # Both change the order in which rows of an unchanged table arrive, and so its commitment.
    "SET synchronize_seqscans = off",
    "SET max_parallel_workers_per_gather = 0",
)


def _postgres(spec: Postgres, base: Path) -> Source:
    uri = _postgres_uri(spec, base)

    @contextmanager
    def connect() -> Iterator[Any]:
        with _postgres_connection(uri) as connection, connection.cursor() as cursor:
            for statement in _POSTGRES_SESSION:
                cursor.execute(statement)
            yield cursor

    with connect() as cursor:
        cursor.execute(_POSTGRES_COLUMNS, [spec.db_schema, spec.table])
        rows = cursor.fetchall()
    if not rows:
        raise ConfigError("source.table", f"the database has no table {spec.db_schema}.{spec.table}")
    kinds = {name: _postgres_type(kind, modifier) for name, kind, modifier in rows}
    readable = {name: parse_type(kind) for name, kind in kinds.items() if kind is not None}
    if set(spec.order) - set(kinds):
        raise ConfigError("source.column", "`order` names a column that the table does not have")
    schema = pa.schema([pa.field(name, kind.arrow) for name, kind in readable.items()])

    def read(names: list[str]) -> pa.RecordBatchReader:
        # Decimals travel as text, exactly; `_canonical` parses them.
        fields = [
            pa.field(n, pa.string() if readable[n].kind == "decimal" else readable[n].arrow) for n in names
        ]
        return pa.RecordBatchReader.from_batches(pa.schema(fields), batches(names, pa.schema(fields)))

    def batches(names: list[str], fields: pa.Schema) -> Iterator[pa.RecordBatch]:
        with connect() as cursor:
            cursor.execute(_postgres_select(spec, names, readable))
            for batch in cursor.fetch_record_batch():
                yield batch.cast(fields)

    other = [(name, kind) for name, kind, _ in rows if kinds[name] is None]
    refused = {name: _POSTGRES_INSTEAD.get(kind, ONE_OF_TYPES) for name, kind in other}
    return Source(schema, refused, None, None, None, read)


def _postgres_select(spec: Postgres, names: list[str], types: Mapping[str, Type]) -> str:
    chosen = ", ".join(f"{_quoted(n)}::text" if types[n].kind == "decimal" else _quoted(n) for n in names)
    order = " ORDER BY " + ", ".join(_quoted(name) for name in spec.order) if spec.order else ""
    return f"SELECT {chosen} FROM {_quoted(spec.db_schema)}.{_quoted(spec.table)}{order}"  # noqa: S608


def _postgres_type(kind: str, modifier: int) -> str | None:
    if kind != "numeric":
        return _POSTGRES_TYPES.get(kind)
    # numeric(p,s) is stored as ((p << 16) | s) + 4; without both it has no exact type here.
    precision, scale = (modifier - 4) >> 16, (modifier - 4) & 0xFFFF
    return f"decimal({precision},{scale})" if modifier > 4 and scale <= precision <= 38 else None


def _postgres_uri(spec: Postgres, base: Path) -> str:
    if (spec.uri_env is None) == (spec.uri_file is None):
        raise ConfigError("source.credentials", "a postgres source names either uri_env or uri_file")
    if spec.uri_file is not None:
        return read_private(base / spec.uri_file).decode().strip()
    uri = os.environ.get(spec.uri_env or "")
    if not uri:
        raise ConfigError("source.credentials", f"the environment variable {spec.uri_env} is not set")
    return uri


def _postgres_connection(uri: str) -> Any:
    try:
        from adbc_driver_postgresql import dbapi
    except ImportError as error:
        raise ConfigError("source.extra", "PostgreSQL sources need the extra: bayspace[postgres]") from error
    try:
        return dbapi.connect(uri, autocommit=True)
    except dbapi.Error as error:
        raise ConfigError(
            "source.unreachable", "the PostgreSQL server of this source cannot be reached"
        ) from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# --- canonical types and silent errors ----------------------------------------------------------------


def _canonical_schema(raw: pa.Schema) -> tuple[pa.Schema, dict[str, str]]:
    if len({name.casefold() for name in raw.names}) != len(raw.names):
        # DuckDB takes `a` and `A` for one column: a policy over one would open the other.
        raise DataError("source.schemas", "the source names a column twice, but for capitals")
    kinds = {name: type_of_arrow(raw.field(name).type) for name in raw.names}
    fields = [pa.field(name, kind.arrow) for name, kind in kinds.items() if kind is not None]
    return pa.schema(fields), {n: instead(raw.field(n).type) for n, kind in kinds.items() if kind is None}


def _canonical(reader: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with _without_values("the source"):
        for batch in reader:
            yield pa.record_batch([_cast(batch.column(n), schema.field(n)) for n in schema.names], schema)


def _cast(column: pa.Array, wanted: pa.Field) -> pa.Array:
    kind = type_of_arrow(wanted.type)
    try:
        exact = column if column.type == wanted.type else column.cast(wanted.type)
    except pa.ArrowException:
        raise DataError(
            "source.value",
            f"column {wanted.name!r} holds a value that {kind} cannot hold exactly; cast it, rounded as you "
            f"mean it, to {instead(wanted.type) if kind == TIMESTAMP else kind}, and write the data again",
        ) from None
    if kind is not None and kind.temporal:
        _check_years(exact, wanted.name)
    return exact


_FIRST_DAY, _LAST_DAY = ((day - date(1970, 1, 1)).days for day in (date.min, date.max))
_DAY = 86_400_000_000


def _check_years(column: pa.Array, name: str) -> None:
    """Infinity, and years that calendars of other programs do not have, are no dates to anybody else."""
    days = pa.types.is_date(column.type)
    low, high = (_FIRST_DAY, _LAST_DAY) if days else (_FIRST_DAY * _DAY, (_LAST_DAY + 1) * _DAY - 1)
    found = pc.min_max(column.view(pa.int32() if days else pa.int64()))
    least, most = found["min"].as_py(), found["max"].as_py()
    if least is not None and not low <= least <= most <= high:
        raise DataError(
            "source.value",
            f"column {name!r} holds a date outside the years 1 to 9999, or an infinite one; write NULL, "
            "or the date that is meant",
        )


@contextmanager
def _without_values(what: str) -> Iterator[None]:
    """Turn every library's error into ours; `from None`, since a traceback would print the original."""
    try:
        yield
    except (BayspaceError, GeneratorExit):
        raise
    except Exception as error:  # noqa: BLE001  pyarrow, duckdb and ADBC have no common base
        raise DataError("source.unreadable", f"{what} cannot be read{_place(str(error))}") from None


def _place(message: str) -> str:
    column = re.search(r"column #(\d+)", message)
    row = re.search(r"Row #(\d+)", message)
    said = [f"column {int(column[1]) + 1}" if column else "", f"line {row[1]}" if row else ""]
    return "".join(f", {part}" for part in said if part)
