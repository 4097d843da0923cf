"""Sources: the same rows from every format, read-only, and errors without a cell value."""

from __future__ import annotations

import datetime as dt
import os
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from compute.engine import Limits, ParquetFiles, locked
from compute.errors import ConfigError, DataError
from connector.sources import SourceSpec, open_source

POSTGRES = "BAYSPACE_TEST_POSTGRES"
SECRET = "91440300MA5F-SECRET"

TYPES = {
    "id": "string",
    "n": "int64",
    "x": "float64",
    "amount": "decimal(12,2)",
    "ok": "bool",
    "day": "date",
    "at": "timestamp",
}


def table():
    return pa.table(
        {
            "id": pa.array(["a", None, "深圳", ""]),
            "n": pa.array([1, -2, None, 2**62], pa.int64()),
            "x": pa.array([0.5, None, -1e300, 3.0]),
            "amount": pa.array(
                [Decimal("1.50"), Decimal("-0.01"), None, Decimal("9999999999.99")], pa.decimal128(12, 2)
            ),
            "ok": pa.array([True, False, None, True]),
            "day": pa.array([dt.date(2024, 2, 29), None, dt.date(1969, 12, 31), dt.date(1970, 1, 1)]),
            "at": pa.array(
                [
                    dt.datetime(2024, 2, 29, 1, 2, 3, 456789),
                    None,
                    dt.datetime(1960, 1, 1),
                    dt.datetime(1970, 1, 1),
                ],
                pa.timestamp("us"),
            ),
        }
    )


def spec(**fields):
    return TypeAdapter(SourceSpec).validate_python(fields)


def _write(kind, folder):
    rows = table()
    if kind == "parquet":
        pq.write_table(rows, folder / "t.parquet", row_group_size=2)
    elif kind == "arrow file":
        with pa.ipc.new_file(folder / "t.arrow", rows.schema) as writer:
            writer.write_table(rows)
    elif kind == "arrow stream":
        with pa.ipc.new_stream(folder / "t.arrows", rows.schema) as writer:
            writer.write_table(rows, max_chunksize=3)
    elif kind == "csv":
        (folder / "t.csv").write_text(
            "id,n,x,amount,ok,day,at\n"
            "a,1,0.5,1.50,true,2024-02-29,2024-02-29 01:02:03.456789\n"
            ",-2,,-0.01,false,,\n"
            "深圳,,-1e300,,,1969-12-31,1960-01-01T00:00:00\n"
            '"",4611686018427387904,3,9999999999.99,true,1970-01-01,1970-01-01 00:00:00\n',
            encoding="utf-8",
        )
    else:
        with duckdb.connect(str(folder / "t.duckdb")) as connection:
            connection.register("rows", rows)
            connection.execute('CREATE TABLE "my ""t""" AS SELECT * FROM rows')
            connection.execute("CREATE VIEW v AS SELECT 1 AS one")


SPECS = {
    "parquet": {"kind": "parquet", "path": "t.parquet"},
    "arrow file": {"kind": "arrow", "path": "t.arrow"},
    "arrow stream": {"kind": "arrow", "path": "t.arrows"},
    "csv": {"kind": "csv", "path": "t.csv"},
    "duckdb": {"kind": "duckdb", "path": "t.duckdb", "table": 'my "t"'},
}


@pytest.mark.parametrize("kind", SPECS)
def test_every_format_gives_the_same_rows_as_often_as_asked(kind, tmp_path):
    _write(kind, tmp_path)
    source = open_source(spec(**SPECS[kind]), tmp_path, TYPES)
    assert {name: str(found) for name, found in source.types().items()} == TYPES
    assert source.unsupported == {}
    for _ in range(2):
        assert source.scan().read_all().equals(table())
    assert source.scan(["day", "id"]).read_all().equals(table().select(["day", "id"]))
    assert source.stamp
    assert source.modified
    with pytest.raises(ConfigError):
        source.scan(["none"])


def test_other_encodings_become_canonical_types(tmp_path):
    rows = pa.table(
        {
            "small": pa.array([1, None], pa.int8()),
            "unsigned": pa.array([1, 2**32 - 1], pa.uint32()),
            "single": pa.array([0.5, None], pa.float32()),
            "words": pa.array(["a", "b"], pa.large_string()),
            "dictionary": pa.array(["a", None]).dictionary_encode(),
            "when": pa.array([0, 1_000], pa.timestamp("ns")),
            "nested": pa.array([[1], []]),
            "zoned": pa.array([0, 1], pa.timestamp("us", tz="Asia/Hong_Kong")),
            "binary": pa.array([b"a", b"b"]),
        }
    )
    with pa.ipc.new_file(tmp_path / "t.arrow", rows.schema) as writer:
        writer.write_table(rows)
    source = open_source(spec(kind="arrow", path="t.arrow"), tmp_path)
    assert tuple(source.unsupported) == ("nested", "zoned", "binary")
    found = source.scan().read_all()
    assert found.schema.types == [
        pa.int64(),
        pa.int64(),
        pa.float64(),
        pa.string(),
        pa.string(),
        pa.timestamp("us"),
    ]
    assert found.column("dictionary").to_pylist() == ["a", None]


def test_a_folder_is_one_table_in_the_order_of_names(tmp_path):
    for number in (2, 0, 1):
        pq.write_table(
            pa.table({"n": [number] * 1000}), tmp_path / f"part-{number}.parquet", row_group_size=100
        )
    (tmp_path / "_SUCCESS").touch()
    source = open_source(spec(kind="parquet", path="."), tmp_path)
    assert source.scan().read_all().column("n").to_pylist() == [0] * 1000 + [1] * 1000 + [2] * 1000
    with locked({"t": source.rows(source.schema.names)}, Limits()) as connection:
        assert connection.sql("SELECT count(*), sum(n) FROM t").fetchall() == [(3000, 3000)]


def test_folders_that_would_change_the_table_silently_are_refused(tmp_path):
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"m": [1]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet has another schema"):
        open_source(spec(kind="parquet", path="."), tmp_path)
    (tmp_path / "b.parquet").unlink()
    (tmp_path / "year=2024").mkdir()
    with pytest.raises(ConfigError, match="holds folders"):
        open_source(spec(kind="parquet", path="."), tmp_path)


READ_BY_ARROW = {
    "nanoseconds": (pa.array([1_000], pa.timestamp("ns")), {}),
    "96 bits": (pa.array([dt.datetime(2024, 1, 1)]), {"use_deprecated_int96_timestamps": True}),
}


@pytest.mark.parametrize(("column", "options"), READ_BY_ARROW.values(), ids=READ_BY_ARROW)
def test_what_duckdb_reads_otherwise_arrow_reads(column, options, tmp_path):
    pq.write_table(pa.table({"at": column}), tmp_path / "t.parquet", **options)
    source = open_source(spec(kind="parquet", path="t.parquet"), tmp_path)
    assert not isinstance(source.rows(source.schema.names), ParquetFiles)
    assert source.scan().read_all().num_rows == 1


@pytest.mark.parametrize("folder", ["a*", "[b]", "c?", "{d,e}"])
def test_a_path_that_reads_as_a_pattern_is_left_to_arrow(folder, tmp_path):
    (tmp_path / folder).mkdir()
    pq.write_table(table(), tmp_path / folder / "t.parquet")
    source = open_source(spec(kind="parquet", path=f"{folder}/t.parquet"), tmp_path)
    assert not isinstance(source.rows(source.schema.names), ParquetFiles)
    assert source.scan().read_all().num_rows == 4


def test_duckdb_reads_what_arrow_reads(tmp_path):
    folder = tmp_path / "it's" / "year=2024"
    folder.mkdir(parents=True)
    rows = table().append_column("dict", pa.array(["x", None, "y", "x"]).dictionary_encode())
    for name, kind in (("small", pa.int8()), ("wide", pa.uint32()), ("ms", pa.timestamp("ms"))):
        rows = rows.append_column(name, pa.array([1, None, 3, 4]).cast(kind))
    rows = rows.append_column("nested", pa.array([[1], [], None, [2]]))
    pq.write_table(rows, folder / "t.parquet", row_group_size=2)
    source = open_source(spec(kind="parquet", path="t.parquet"), folder)
    assert isinstance(source.rows(source.schema.names), ParquetFiles)
    assert tuple(source.unsupported) == ("nested",)
    with locked({"t": source.rows(source.schema.names)}, Limits(threads=1)) as connection:
        relation = connection.sql("SELECT * FROM t")
        assert relation.columns == source.schema.names  # neither the folder's name nor the nested one
        found = relation.to_arrow_table().cast(source.schema)
    assert found.sort_by("n").equals(source.scan().read_all().sort_by("n"))


def test_names_that_differ_in_capitals_are_refused(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "ID": ["b"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError) as caught:
        open_source(spec(kind="parquet", path="t.parquet"), tmp_path)
    assert caught.value.code == "source.schemas"


def test_csv_is_never_guessed(tmp_path):
    (tmp_path / "t.csv").write_text("code;n\n0012;1\nNA;2\n")
    given = spec(kind="csv", path="t.csv", delimiter=";")
    assert open_source(given, tmp_path).scan().read_all().to_pydict() == {
        "code": ["0012", "NA"],
        "n": ["1", "2"],
    }
    typed = open_source(given, tmp_path, {"code": "string", "n": "int64"})
    assert typed.scan(["n"]).read_all().to_pydict() == {"n": [1, 2]}
    with pytest.raises(ConfigError, match="no column 'm'"):
        open_source(given, tmp_path, {"m": "int64"})


def test_csv_in_gb18030(tmp_path):
    (tmp_path / "t.csv").write_bytes("名称\n深圳市鹏华\n".encode("gb18030"))
    source = open_source(spec(kind="csv", path="t.csv", encoding="gb18030"), tmp_path)
    assert source.scan().read_all().to_pydict() == {"名称": ["深圳市鹏华"]}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"a,b\n1,2\n3,{SECRET}\n", "column 2, line 3"),
        (f"a,b\n1,2\n3\n{SECRET},4\n", ""),
        (f"a,b\n1,2\n3,4,{SECRET}\n", ""),
        (f"a,a\n1,{SECRET}\n", ""),
    ],
)
def test_csv_errors_name_the_place_and_no_value(tmp_path, text, place):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        open_source(spec(kind="csv", path="t.csv"), tmp_path, {"a": "int64", "b": "int64"}).scan().read_all()
    assert place in str(caught.value)
    _says_nothing(caught)


def _says_nothing(caught):
    error = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = None if error.__suppress_context__ else error.__context__


def test_a_value_that_does_not_fit_its_canonical_type_is_named_by_column(tmp_path):
    pq.write_table(pa.table({"at": pa.array([1], pa.timestamp("ns"))}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="'at'"):
        open_source(spec(kind="parquet", path="t.parquet"), tmp_path).scan().read_all()


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + SECRET.encode() * 100 + b"PAR1")
    (tmp_path / "t.arrow").write_bytes(SECRET.encode() * 100)
    (tmp_path / "t.duckdb").write_bytes(SECRET.encode() * 100)
    for given in (
        spec(kind="parquet", path="t.parquet"),
        spec(kind="arrow", path="t.arrow"),
        spec(kind="duckdb", path="t.duckdb", table="t"),
    ):
        with pytest.raises(DataError) as caught:
            open_source(given, tmp_path)
        _says_nothing(caught)
        with pytest.raises(ConfigError, match="there is no"):
            open_source(given, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no"):
        open_source(spec(kind="parquet", path="empty"), tmp_path)


def test_a_duckdb_source_is_a_table_and_read_only(tmp_path):
    _write("duckdb", tmp_path)
    before = (tmp_path / "t.duckdb").read_bytes()
    for name in ("v", "none", "duckdb_settings()", 'x"; DROP TABLE t; --'):
        with pytest.raises(ConfigError, match="has no table"):
            open_source(spec(kind="duckdb", path="t.duckdb", table=name), tmp_path)
    first = open_source(spec(**SPECS["duckdb"]), tmp_path)
    one, two = first.scan(["n"]), first.scan(["id"])
    assert one.read_all().num_rows == two.read_all().num_rows == 4
    assert (tmp_path / "t.duckdb").read_bytes() == before


def test_a_specification_is_closed():
    for wrong in (
        {"kind": "parquet", "path": "x", "query": "SELECT 1"},
        {"kind": "postgres", "table": "t", "uri": "postgresql://user:hunter2@host/db"},
        {"kind": "ibis", "path": "x"},
    ):
        with pytest.raises(ValidationError):
            spec(**wrong)


def test_postgres_credentials_are_never_in_the_description(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_URI", raising=False)
    for given, code in (
        ({}, "source.credentials"),
        ({"uri_env": "NO_SUCH_URI"}, "source.credentials"),
        ({"uri_file": "uri"}, "identity.key-missing"),
    ):
        with pytest.raises(ConfigError) as caught:
            open_source(spec(kind="postgres", table="t", **given), tmp_path)
        assert caught.value.code == code
    (tmp_path / "uri").write_text("postgresql://user:hunter2@127.0.0.1:1/db")
    with pytest.raises(ConfigError) as caught:
        open_source(spec(kind="postgres", table="t", uri_file="uri"), tmp_path)
    assert caught.value.code == "identity.key-exposed"
    (tmp_path / "uri").chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        open_source(spec(kind="postgres", table="t", uri_file="uri"), tmp_path)
    assert caught.value.code == "source.unreachable"
    assert "hunter2" not in str(caught.value)


@pytest.fixture
def database(monkeypatch):
    if POSTGRES not in os.environ:
        pytest.skip(f"{POSTGRES} does not name a PostgreSQL database")
    from adbc_driver_postgresql import dbapi

    uri = os.environ[POSTGRES].replace("postgresql+psycopg:", "postgresql:")
    monkeypatch.setenv("BAYSPACE_TEST_URI", uri)
    with dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute('DROP SCHEMA IF EXISTS "my data" CASCADE')
        cursor.execute('CREATE SCHEMA "my data"')
        yield cursor
        cursor.execute('DROP SCHEMA "my data" CASCADE')


@pytest.mark.outside
def test_postgres_gives_the_same_rows(database, tmp_path):
    database.execute(
        'CREATE TABLE "my data".t (id varchar(20), n bigint, x double precision, amount numeric(12,2), '
        "ok boolean, day date, at timestamp, small smallint, bare numeric, zoned timestamptz, raw bytea)"
    )
    database.execute(
        """INSERT INTO "my data".t (id, n, x, amount, ok, day, at) VALUES
        ('a', 1, 0.5, 1.50, true, '2024-02-29', '2024-02-29 01:02:03.456789'),
        (NULL, -2, NULL, -0.01, false, NULL, NULL),
        ('深圳', NULL, -1e300, NULL, NULL, '1969-12-31', '1960-01-01'),
        ('', 4611686018427387904, 3, 9999999999.99, true, '1970-01-01', '1970-01-01')"""
    )
    given = spec(kind="postgres", schema="my data", table="t", uri_env="BAYSPACE_TEST_URI")
    source = open_source(given, tmp_path)
    assert tuple(source.unsupported) == ("bare", "zoned", "raw")
    assert str(source.types()["small"]) == "int64"
    for _ in range(2):
        assert source.scan(list(TYPES)).read_all().equals(table())
    ordered = spec(kind="postgres", schema="my data", table="t", uri_env="BAYSPACE_TEST_URI", order=("n",))
    assert open_source(ordered, tmp_path).scan(["n"]).read_all().column("n").to_pylist() == [
        -2,
        1,
        2**62,
        None,
    ]


@pytest.mark.outside
def test_postgres_is_read_only_and_its_errors_quote_nothing(database, tmp_path):
    database.execute('CREATE TABLE "my data".t (amount numeric(12,2))')
    database.execute("INSERT INTO \"my data\".t VALUES ('NaN')")
    database.execute('CREATE VIEW "my data".v AS SELECT 1 AS one')
    given = {"kind": "postgres", "schema": "my data", "uri_env": "BAYSPACE_TEST_URI"}
    with pytest.raises(DataError, match="'amount'"):
        open_source(spec(table="t", **given), tmp_path).scan().read_all()
    for name in ("v", "none", "t; DROP TABLE t"):
        with pytest.raises(ConfigError, match="has no table"):
            open_source(spec(table=name, **given), tmp_path)
    source = open_source(spec(table="t", **given), tmp_path)
    database.execute('DROP TABLE "my data".t')
    with pytest.raises(DataError) as caught:
        source.scan().read_all()
    assert "my data" not in str(caught.value)


NARROWED = {
    "nanoseconds": (pa.array([1_001], pa.timestamp("ns")), "in whole microseconds"),
    "seconds": (pa.array([2**55], pa.timestamp("s")), "in whole microseconds"),
    "year ten thousand": (pa.array([2_932_897], pa.date32()), "years 1 to 9999"),
    "infinite date": (pa.array([2**31 - 1], pa.date32()), "infinite"),
    "infinite moment": (pa.array([2**63 - 1], pa.timestamp("us")), "infinite"),
}


@pytest.mark.parametrize("case", NARROWED)
def test_a_value_that_would_lose_something_is_refused_wherever_it_is_read(case, tmp_path):
    column, remedy = NARROWED[case]
    rows = pa.table({"at": column, "n": [1]})
    with pa.ipc.new_file(tmp_path / "t.arrow", rows.schema) as writer:
        writer.write_table(rows)
    source = open_source(spec(kind="arrow", path="t.arrow"), tmp_path)
    with pytest.raises(DataError, match=f"'at'.*{remedy}") as refused:
        source.scan(["at"]).read_all()
    assert refused.value.code == "source.value"
    assert source.scan(["n"]).read_all().num_rows == 1
    if case == "nanoseconds":  # DuckDB would cut them off: it gets a stream, and says what that says
        stream = source.rows(["at"])
        with (
            pytest.raises(DataError, match=r"'at'.*microseconds"),
            locked({"t": stream()}, Limits(threads=1)) as db,
        ):
            db.sql('SELECT max("at") FROM t').fetchall()


def test_what_no_type_holds_says_what_to_cast_it_to(tmp_path):
    rows = pa.table(
        {
            "half": pa.array([1.5]).cast(pa.float16()),
            "wide": pa.array([2**64 - 1], pa.uint64()),
            "zoned": pa.array([0], pa.timestamp("us", tz="UTC")),
            "digits": pa.array([Decimal(10) ** 40], pa.decimal256(50, 0)),
        }
    )
    with pa.ipc.new_file(tmp_path / "t.arrow", rows.schema) as writer:
        writer.write_table(rows)
    casts = open_source(spec(kind="arrow", path="t.arrow"), tmp_path).unsupported
    assert casts["half"] == "DOUBLE"
    assert "DECIMAL(20,0)" in casts["wide"]
    assert "without a zone" in casts["zoned"]
    assert "38 digits" in casts["digits"]


def test_whole_numbers_of_128_bits_are_exact_or_refused(tmp_path):
    """DuckDB gives Arrow their bits as a decimal of 38 digits, whatever they hold."""
    with duckdb.connect(str(tmp_path / "t.duckdb")) as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT (2::HUGEINT ** 100)::HUGEINT AS fits, "
            "340282366920938463463374607431768211455::UHUGEINT AS wraps"
        )
    source = open_source(spec(kind="duckdb", path="t.duckdb", table="t"), tmp_path)
    assert source.scan(["fits"]).read_all()["fits"].to_pylist() == [2**100]
    with pytest.raises(DataError, match=r"'wraps' is UHUGEINT.*38 digits"):
        source.scan(["wraps"]).read_all()
