"""The local part: declared data only, no way out of the engine, no value in any message."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import date, datetime

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from compute.dataset import Column, DatasetInfo
from compute.engine import Limits, locked
from compute.errors import DataError, Unavailable
from compute.local import aggregate, join_input
from compute.plan import Dimension, Partial, Side
from policy_enforcer.obligations import NOTHING_DEMANDED, Obligations


def counting(identity: str) -> Obligations:
    """The demands of a policy that names an identity and nothing else."""
    return replace(NOTHING_DEMANDED, identity=identity)


LIMITS = Limits(threads=1)
INFO = DatasetInfo(
    participant="sz",
    name="t",
    columns=(
        Column("k", "string", key=("trim", "nfkc", "casefold")),
        Column("g", "string"),
        Column("v", "int64", bounds=("-10", "10")),
    ),
    rows_bound=10,
    keys_bound=4,
    commitment="00",
)
SIDE = Side(
    dataset="sz.t",
    keys=("k",),
    filters=(),
    dimensions=(Dimension("d0", '"g"', "string"),),
    partials=(Partial("m0", '"v"', 0, 10), Partial("m1", "CAST(1 AS BIGINT)", 0, 1)),
    keys_bound=4,
    rows_bound=10,
)
ROWS = pa.table(
    {
        "k": ["a", "Ａ ", "b", None, "a", "c"],
        "g": ["茶", "茶", None, "茶", "钢", "茶"],
        "v": pa.array([1, 2, 3, 4, None, None], pa.int64()),
    }
)


def cells(found):
    labels = found.labels.to_pylist()
    texts = [key[5:].decode() for key in found.keys.to_pylist()]
    return {
        (texts[row["key"]], labels[row["group"]].get("d0")): (row["m0"], row["m1"], row["rows"])
        for row in found.cells.to_pylist()
    }


EXPECTED = {("a", "茶"): (3, 2, 2), ("b", None): (3, 1, 1), ("a", "钢"): (0, 1, 1), ("c", "茶"): (0, 1, 1)}


def test_keys_that_become_one_are_summed():
    found = join_input(SIDE, INFO, ROWS, LIMITS)
    assert cells(found) == EXPECTED
    assert found.groups == 3
    assert len(set(found.keys.to_pylist())) == len(found.keys) == 3
    assert found.labels.to_pylist() == [{"d0": "茶"}, {"d0": "钢"}, {"d0": None}]
    types = {name: str(found.cells.schema.field(name).type) for name in found.cells.column_names}
    assert types == {"key": "int32", "group": "int32", "m0": "int64", "m1": "int64", "rows": "int64"}


def test_every_kind_of_source(tmp_path):
    pq.write_table(ROWS, tmp_path / "t.parquet")
    encoded = ROWS.set_column(1, "g", ROWS["g"].dictionary_encode())
    narrow = ROWS.set_column(2, "v", ROWS["v"].cast(pa.int16()))
    for source in (
        encoded,
        narrow,
        pa.dataset.dataset(tmp_path / "t.parquet"),
        lambda: pa.RecordBatchReader.from_batches(ROWS.schema, ROWS.to_batches(max_chunksize=2)),
    ):
        assert cells(join_input(SIDE, INFO, source, LIMITS)) == EXPECTED


def test_large_tables_are_grouped_in_passes(tmp_path):
    rows = pa.table(
        {"k": [f"key {i % 300}" for i in range(900)], "g": ["茶"] * 900, "v": pa.array([1] * 900, pa.int64())}
    )
    pq.write_table(rows, tmp_path / "t.parquet")
    side = replace(SIDE, rows_bound=1 << 21, keys_bound=300)
    source = pa.dataset.dataset(tmp_path / "t.parquet")
    found = cells(join_input(side, INFO, source, LIMITS))
    assert found == {(f"key {i}", "茶"): (3, 3, 3) for i in range(300)}
    with pytest.raises(DataError, match="more rows"):  # rows count over all passes
        join_input(replace(side, rows_bound=(1 << 19) + 1), INFO, pa.concat_tables([rows] * 600), LIMITS)


def test_no_dimension_and_no_rows():
    side = replace(SIDE, dimensions=())
    found = join_input(side, INFO, ROWS.slice(0, 0), LIMITS)
    assert (len(found.keys), found.groups, found.cells.num_rows, found.labels.num_columns) == (0, 1, 0, 0)
    assert join_input(SIDE, INFO, ROWS.slice(0, 0), LIMITS).groups == 0


def test_a_semi_join_counts_each_key_once():
    side = replace(SIDE, dimensions=(), partials=(), distinct=True)
    assert set(join_input(side, INFO, ROWS, LIMITS).cells["rows"].to_pylist()) == {1}


def test_columns_named_like_ours_do_not_interfere():
    info = replace(
        INFO,
        columns=(
            Column("k", "string", key=()),
            Column("x1", "string"),
            Column("m0", "int64"),
            Column("rows", "int64"),
        ),
    )
    rows = pa.table({"k": ["a", "b"], "x1": ["p", "q"], "m0": [5, 6], "rows": [7, 8]})
    side = replace(
        SIDE,
        dimensions=(Dimension("d0", 'upper("x1")', "string"),),
        partials=(Partial("m0", '"rows"', 0, 10),),
    )
    found = join_input(side, info, rows, LIMITS)
    assert sorted(found.cells["m0"].to_pylist()) == [7, 8]
    assert found.labels.to_pylist() == [{"d0": "P"}, {"d0": "Q"}]


def test_text_that_no_normaliser_reads_is_no_key():
    columns = tuple(replace(c, key=("date",) if c.name == "k" else None) for c in INFO.columns)
    rows = ROWS.set_column(
        0, "k", pa.array(["2024-01-02", "20240102", "soon", None, "2024-02-30", "1900-01-01"])
    )
    found = join_input(SIDE, replace(INFO, columns=columns), rows, LIMITS)
    assert len(found.keys) == 2
    assert sorted(found.cells["rows"].to_pylist()) == [1, 2]


def test_a_unique_key_gives_the_same_and_a_false_claim_does_no_harm():
    columns = tuple(replace(c, unique=c.name == "k") for c in INFO.columns)
    assert cells(join_input(SIDE, replace(INFO, columns=columns), ROWS, LIMITS)) == EXPECTED


def refused(code, call):
    with pytest.raises(DataError) as caught:
        call()
    assert caught.value.code == code
    assert "SECRET" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_data_that_does_not_fit_its_declaration():
    def run(side=SIDE, info=INFO, rows=ROWS):
        return lambda: join_input(side, info, rows, LIMITS)

    refused("data.too-many-rows", run(replace(SIDE, rows_bound=4)))
    refused("data.too-many-keys", run(replace(SIDE, keys_bound=2)))
    refused("data.column-missing", run(rows=ROWS.drop_columns(["g"])))
    refused("data.type", run(rows=ROWS.set_column(2, "v", pa.array(["SECRET"] * 6))))
    refused("data.type", run(rows=ROWS.set_column(2, "v", pa.array([1.5] * 6))))
    refused("data.type", run(rows=ROWS.set_column(2, "v", pa.array([2**63] * 6, pa.uint64()))))
    dated = replace(INFO, columns=(*INFO.columns[:2], Column("v", "timestamp")))
    nanoseconds = ROWS.set_column(2, "v", pa.array([1_000] * 6, pa.timestamp("ns")))
    refused("data.type", run(info=dated, rows=nanoseconds))  # DuckDB would cut them off without a word
    huge = replace(SIDE, partials=(Partial("m0", '"v" * 9223372036854775807', 0, 1),))
    refused("data.range", run(huge))


def test_duckdbs_messages_never_get_out():
    rows = pa.table({"k": ["SECRET"], "g": ["SECRET"], "v": pa.array([1], pa.int64())})
    side = replace(SIDE, filters=('CAST("g" AS BIGINT) > 0',))
    refused("data.range", lambda: join_input(side, INFO, rows, LIMITS))
    refused("data.local", lambda: join_input(replace(SIDE, filters=('error("g")',)), INFO, rows, LIMITS))
    refused(
        "data.local",
        lambda: aggregate(replace(SIDE, filters=("nonsense",)), INFO, NOTHING_DEMANDED, rows, LIMITS),
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/hostname')",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM '/etc/hostname'",
        "COPY t TO 'out.csv'",
        "ATTACH 'x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 8",
        "SET enable_external_access = true",
        "RESET memory_limit",
        "SELECT * FROM outside",
        "EXPORT DATABASE 'x'",
    ],
)
def test_the_engine_reaches_nothing_outside(sql):
    outside = pa.table({"a": [1]})  # a replacement scan would find it
    with pytest.raises(DataError), locked({"t": ROWS}, LIMITS) as connection:
        connection.sql(sql).to_arrow_table()
    assert outside.num_rows == 1


def test_memory_is_limited_and_nothing_is_spilled():
    rows = pa.table({"a": pa.array(range(2_000_000), pa.int64())})
    with (
        pytest.raises(DataError) as caught,
        locked({"t": rows}, Limits(threads=1, memory_bytes=8 << 20)) as connection,
    ):
        connection.sql("SELECT a, count(*) FROM t GROUP BY a").to_arrow_table()
    assert caught.value.code == "data.memory"


def test_a_query_can_be_cancelled():
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    start = time.monotonic()
    with pytest.raises(Unavailable) as caught, locked({}, Limits(threads=1, stop=stop)) as connection:
        connection.sql(
            "SELECT sum(a.range * b.range) FROM range(10000000) a, range(1000000) b"
        ).to_arrow_table()
    assert caught.value.code == "local.cancelled"
    assert time.monotonic() - start < 20


def test_single_domain_counts_identities():
    found = aggregate(replace(SIDE, keys=()), INFO, counting("k"), ROWS, LIMITS).sort_by("d0").to_pylist()
    assert [(row["d0"], row["identities"], int(row["m0"]), int(row["m1"])) for row in found] == [
        ("茶", 3, 7, 4),
        ("钢", 1, 0, 1),
        (None, 1, 3, 1),
    ]
    assert aggregate(replace(SIDE, keys=()), INFO, NOTHING_DEMANDED, ROWS, LIMITS).num_rows == 3
    refused("data.column-missing", lambda: aggregate(SIDE, INFO, counting("nothing"), ROWS, LIMITS))


def test_too_many_groups_are_refused():
    refused(
        "data.too-many-groups",
        lambda: aggregate(SIDE, INFO, NOTHING_DEMANDED, ROWS, Limits(threads=1, maximum_groups=2)),
    )


def test_old_and_extreme_values():
    info = replace(
        INFO,
        columns=(
            Column("k", "int64", key=()),
            Column("d", "date"),
            Column("t", "timestamp"),
            Column("f", "float64"),
        ),
    )
    rows = pa.table(
        {
            "k": pa.array([2**63 - 1, -(2**63)], pa.int64()),
            "d": pa.array([date(1, 1, 1), date(1969, 12, 31)]),
            "t": pa.array([datetime(1066, 10, 14, 9), datetime(1969, 12, 31, 23)], pa.timestamp("us")),
            "f": [-0.0, 0.0],
        }
    )
    dimension = Dimension("d0", '("f" + 0.0e0)', "float64")
    found = join_input(replace(SIDE, dimensions=(dimension,), partials=()), info, rows, LIMITS)
    assert found.groups == 1
    assert [key[5:] for key in sorted(found.keys.to_pylist())] == [
        b"\x7f" + b"\xff" * 7,
        b"\x80" + b"\x00" * 7,
    ]


def test_duckdb_still_quotes_values_in_messages():
    """Why the firewall exists; if this ever fails, the firewall stays."""
    with pytest.raises(duckdb.ConversionException, match="SECRET"):
        duckdb.sql("SELECT CAST('SECRET' AS BIGINT)").fetchall()
