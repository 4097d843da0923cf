"""The engine over files: exactly these, only read, and as they were; whatever SQL gets in."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compute import engine
from compute.engine import Limits, ParquetFiles, locked, stamp_of
from compute.errors import DataError

LIMITS = Limits(threads=1)
SETTINGS = "SELECT name, value FROM duckdb_settings()"
ROWS = pa.table({"a": [1, 2, 3], "hidden": ["SECRET"] * 3})


@pytest.fixture
def files(tmp_path):
    pq.write_table(ROWS, tmp_path / "t.parquet")
    pq.write_table(ROWS, tmp_path / "other.parquet")
    (tmp_path / "other.csv").write_text("a\nSECRET\n")
    paths = (tmp_path / "t.parquet",)
    return ParquetFiles(paths, pa.schema([("a", pa.int64())]), stamp_of(paths))


def test_the_files_are_read(files):
    with locked({"t": files}, LIMITS) as connection:
        assert connection.sql("SELECT sum(a) FROM t").fetchall() == [(6,)]


WAYS_OUT = {
    "a file beside it": "SELECT * FROM read_parquet('{folder}/other.parquet')",
    "by way of it": "SELECT * FROM read_parquet('{folder}/t.parquet/../other.parquet')",
    "a pattern": "SELECT * FROM read_parquet('{folder}/*.parquet')",
    "a list": "SELECT * FROM read_parquet(['{folder}/t.parquet', '{folder}/other.parquet'])",
    "another format": "SELECT * FROM read_csv('{folder}/other.csv')",
    "a replacement scan": "SELECT * FROM '{folder}/other.parquet'",
    "the folder": "SELECT * FROM glob('{folder}/*')",
    "a program's environment": "SELECT * FROM read_text('/proc/self/environ')",
    "a column nobody declared": "SELECT hidden FROM t",
    "writing over it": "COPY (SELECT 7 AS a) TO '{folder}/t.parquet' (FORMAT parquet, USE_TMP_FILE false)",
    "attaching it": "ATTACH '{folder}/t.parquet' AS u",
    "more paths": "SET allowed_paths = ['{folder}/other.parquet']",
    "two statements": "SELECT 1; COPY (SELECT 7) TO '{folder}/t.parquet' (USE_TMP_FILE false)",
    "a new table": "CREATE TABLE u AS SELECT 1",
    "nothing": "",
}


@pytest.mark.parametrize("sql", WAYS_OUT.values(), ids=WAYS_OUT)
def test_nothing_else_is_reached_and_nothing_is_written(sql, files):
    before = files.paths[0].read_bytes()
    with pytest.raises(DataError) as caught, locked({"t": files}, LIMITS) as connection:
        connection.sql(sql.format(folder=files.paths[0].parent)).to_arrow_table()
    assert "SECRET" not in str(caught.value)
    assert str(files.paths[0].parent) not in str(caught.value)
    assert files.paths[0].read_bytes() == before


def test_what_the_lock_is_for(files):
    """Why only a SELECT runs: DuckDB would write over a file that it may read."""
    with duckdb.connect() as connection:
        connection.execute(f"SET allowed_paths = ['{files.paths[0]}']")
        connection.execute("SET enable_external_access = false")
        connection.execute(f"COPY (SELECT 7 AS a) TO '{files.paths[0]}' (FORMAT parquet, USE_TMP_FILE false)")
    assert pq.read_table(files.paths[0]).num_rows == 1


def _rewritten(path):
    pq.write_table(ROWS, path, compression="none")


@pytest.mark.parametrize("change", [_rewritten, Path.unlink], ids=["rewritten", "taken away"])
def test_a_file_that_changes_while_it_is_read_is_refused(change, files):
    def read():
        with locked({"t": files}, LIMITS) as connection:
            connection.sql("SELECT sum(a) FROM t").fetchall()
            change(files.paths[0])

    with pytest.raises(DataError) as caught:
        read()
    assert caught.value.code == "dataset.changed"


def test_a_connection_started_in_advance_is_locked_like_any_other(files):
    engine.warm()
    engine.warm()  # one is enough
    limits = Limits(threads=1, memory_bytes=64 << 20)
    with locked({"t": files}, limits) as connection:
        settings = dict(connection.sql(SETTINGS).fetchall())
        assert settings["threads"] == "1"
        assert settings["memory_limit"] == "64.0 MiB"
        assert settings["enable_external_access"] == settings["python_enable_replacements"] == "false"
        assert settings["lock_configuration"] == "true"
        assert connection.sql("SELECT sum(a) FROM t").fetchall() == [(6,)]
    with locked({}, limits) as connection:  # no spare is left, and this one sees no file
        assert (
            dict(connection.sql("SELECT name, value FROM duckdb_settings()").fetchall())["allowed_paths"]
            == "[]"
        )


def test_a_damaged_file_is_an_error_of_ours(files):
    content = bytearray(files.paths[0].read_bytes())
    content[4:40] = bytes(36)
    files.paths[0].write_bytes(content)
    with pytest.raises(DataError) as caught, locked({"t": files}, LIMITS) as connection:
        connection.sql("SELECT sum(a) FROM t").fetchall()
    assert caught.value.code in {"data.local", "data.memory"}
    assert str(files.paths[0].parent) not in str(caught.value)
