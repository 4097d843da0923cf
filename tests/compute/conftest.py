"""Shared by the planner's, the local part's and the protocols' tests: two parties' tables, and the
executable specification of every joint protocol, in plain SQL over both local inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from compute.dataset import Column, DatasetInfo
from compute.engine import Limits
from compute.facts import Prepared
from compute.finish import finish
from compute.inputs import Cells, LocalInput
from compute.local import aggregate, join_input
from compute.plan import Plan
from compute.planner import prepare
from policy_enforcer.disclosure import Level
from policy_enforcer.obligations import NOTHING_DEMANDED

INVOICES = DatasetInfo(
    participant="sz-trade",
    name="invoices",
    columns=(
        Column("company", "string", key=()),
        Column("branch", "int64", key=()),
        Column("amount", "decimal(12,2)", bounds=("-1000000", "1000000")),
        Column("days", "int64", bounds=("-1000", "1000")),
        Column("big", "int64"),
        Column("rate", "float64", scale=3, bounds=("-100", "100")),
        Column("loose", "float64"),
        Column("paid", "bool"),
        Column("industry", "string"),
        Column("day", "date"),
        Column("at", "timestamp"),
        Column("lines", "int64", nullable=False, bounds=("0", "50")),
    ),
    rows_bound=10_000,
    keys_bound=1_000,
    commitment="00" * 32,
    disclosure=Level.RECEIVER,
)
CREDIT = DatasetInfo(
    participant="hk-bank",
    name="credit",
    columns=(
        Column("company", "string", key=()),
        Column("branch", "int64", key=()),
        Column("grade", "string"),
        Column("score", "int64", bounds=("0", "1000")),
        Column("active", "bool"),
    ),
    rows_bound=10_000,
    keys_bound=1_000,
    commitment="11" * 32,
    disclosure=Level.RECEIVER,
)
CATALOGUE = {info.full_name: info for info in (INVOICES, CREDIT)}
LIMITS = Limits(threads=1)


@cache
def _duckdb() -> duckdb.DuckDBPyConnection:
    """One for all tests: starting another takes longer than most of these questions."""
    return duckdb.connect(":memory:")


def _plaintext_join(plan: Plan, receiver: LocalInput, sender: LocalInput) -> Cells:
    """What a joint protocol computes, on plaintext: per pair of groups, the distinct matching keys and the
    sender's sums over them. A key that the receiver holds in two rows of a group would count twice."""
    assert all(rows == 1 for rows in receiver.cells["rows"].to_pylist())
    connection = _duckdb()
    for name, side in (("r", receiver), ("s", sender)):
        connection.register(f"{name}_keys", pa.table({"at": range(len(side.keys)), "bytes": side.keys}))
        connection.register(f"{name}_cells", side.cells)
    columns = ['r."group" AS rg', 's."group" AS sg', "count(DISTINCT s.key) AS identities"]
    columns += [f"sum({p.name}) AS {p.name}" for p in plan.sender.partials]
    joined = connection.sql(
        f"SELECT {', '.join(columns)} FROM r_cells r JOIN r_keys ON r.key = r_keys.at "
        "JOIN s_keys ON s_keys.bytes = r_keys.bytes JOIN s_cells s ON s.key = s_keys.at GROUP BY 1, 2"
    ).to_arrow_table()
    if joined.num_rows == 0 and receiver.labels.num_columns + sender.labels.num_columns == 0:
        zero = {name: [0] for name in joined.column_names}
        joined = pa.table(zero, schema=joined.schema)  # without dimensions SQL answers one row
    cells: dict[str, Any] = {}
    for side, index in ((receiver, joined["rg"]), (sender, joined["sg"])):
        for name in side.labels.column_names:
            cells[name] = side.labels[name].take(index)
    cells["identities"] = joined["identities"]
    for partial in plan.sender.partials:
        cells[partial.name] = joined[partial.name].cast(pa.decimal128(38, 0))
    return Cells(pa.table(cells), 0)


def _answer(prepared: Prepared, tables: dict[str, pa.Table], catalogue: dict[str, DatasetInfo]) -> pa.Table:
    """A question answered without cryptography, through every other step."""
    plan = prepared.plan
    sender = plan.sender
    info = catalogue[sender.dataset]
    if plan.receiver is None:
        table = aggregate(sender, info, NOTHING_DEMANDED, tables[sender.dataset], LIMITS)
        return finish(plan, Cells(table, 0))
    own = plan.receiver
    inputs = (
        join_input(own, catalogue[own.dataset], tables[own.dataset], LIMITS),
        join_input(sender, info, tables[sender.dataset], LIMITS),
    )
    return finish(plan, _plaintext_join(plan, *inputs))


def _pooled(sql: str, tables: dict[str, pa.Table]) -> pa.Table:
    """The same SQL over both tables in one DuckDB."""
    connection = _duckdb()
    connection.begin()
    try:
        for name, table in tables.items():
            schema, bare = name.split(".")
            connection.register("incoming", table)
            connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
            connection.execute(f'CREATE TABLE "{schema}".{bare} AS SELECT * FROM incoming')
        return connection.sql(sql).to_arrow_table()
    finally:
        connection.rollback()


@pytest.fixture(scope="session")
def catalogue() -> dict[str, DatasetInfo]:
    return CATALOGUE


@pytest.fixture(scope="session")
def plaintext_join() -> Callable[[Plan, LocalInput, LocalInput], Cells]:
    return _plaintext_join


@pytest.fixture(scope="session")
def answer() -> Callable[[str, dict[str, pa.Table]], pa.Table]:
    def run(sql: str, tables: dict[str, pa.Table], catalogue: dict[str, DatasetInfo] = CATALOGUE) -> pa.Table:
        return _answer(prepare(sql, "hk-bank", catalogue), tables, catalogue)

    return run


@pytest.fixture(scope="session")
def pooled() -> Callable[[str, dict[str, pa.Table]], pa.Table]:
    return _pooled
