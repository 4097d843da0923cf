"""Questions over a federation answer what the same SQL answers over the pooled rows."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute import pooling
from compute.dataset import Column, DatasetInfo
from compute.engine import Limits
from compute.errors import PeerViolation, QueryError
from compute.facts import Prepared
from compute.federation import Entry, Member, Roster, Seat, Totals
from compute.finish import finish
from compute.inputs import Cells, Context
from compute.local import aggregate
from compute.planner import prepare
from compute.pooling import Part
from compute.protocols import PROTOCOLS, _federated, protocol_named
from compute.protocols.base import run_round
from policy_enforcer.obligations import NOTHING_DEMANDED, Obligations

LOANS = DatasetInfo(
    participant="bank-0",
    name="loans",
    columns=(
        Column("client", "string"),
        Column("region", "string"),
        Column("year", "int64", bounds=("1900", "2100")),
        Column("amount", "decimal(12,2)", bounds=("-100000", "100000")),
        Column("overdue", "int64", bounds=("-1000", "1000")),
        Column("rate", "float64", scale=4, bounds=("-1", "1")),
        Column("loose", "float64"),
        Column("opened", "date"),
    ),
    rows_bound=1000,
    keys_bound=1000,
    commitment="00" * 32,
)
REGIONS = ("深圳", "Hong Kong", "澳门", "nowhere")
DEMANDS = replace(NOTHING_DEMANDED, domains={"region": REGIONS, "year": (1969, 2025, 2026)})
TYPES = {
    "client": pa.string(),
    "region": pa.string(),
    "year": pa.int64(),
    "amount": pa.decimal128(12, 2),
    "overdue": pa.int64(),
    "rate": pa.float64(),
    "loose": pa.float64(),
    "opened": pa.date32(),
}


def _table(rng: np.random.Generator, rows: int) -> pa.Table:
    def some(values: Sequence[Any]) -> list[Any]:
        return [None if rng.random() < 0.15 else values[int(rng.integers(len(values)))] for _ in range(rows)]

    columns = {
        "client": some([f"c{i}" for i in range(12)]),
        "region": some([*REGIONS[:3], "elsewhere"]),
        "year": some([1969, 2025, 2026]),
        "amount": some([Decimal(int(rng.integers(-(10**7), 10**7))) / 100 for _ in range(20)]),
        "overdue": some([int(x) for x in rng.integers(-1000, 1000, 20)]),
        "rate": some([int(x) / 10**4 for x in rng.integers(-(10**4), 10**4, 20)]),
        "loose": some([0.5, 1.5]),
        "opened": some([dt.date(1969, 7, 20), dt.date(2026, 1, 1)]),
    }
    return pa.table({name: pa.array(values, TYPES[name]) for name, values in columns.items()})


def _prepared(sql: str, n: int = 3, demands: Obligations = DEMANDS, protocol: str | None = None) -> Prepared:
    parts = [Part(f"bank-{i}.loans", LOANS.rows_bound) for i in range(n)]
    info = pooling.pooled("loans", LOANS, parts)
    wanted = [p for p in PROTOCOLS if protocol in (None, p.name)]
    name = info.full_name
    return prepare(sql, "asker", {name: info}, wanted, {name: demands}, parts)


def _answer(
    prepared: Prepared,
    tables: Sequence[pa.Table],
    local: int = 1,
    least: Sequence[tuple[int, int]] = (),
    identity: str | None = "client",
    shares: Sequence[Fraction | None] = (),
) -> tuple[pa.Table, Cells]:
    """Run a round over these participants' tables.

    By participant, `least`: identities and participants; `shares`: what one identity may hold of a figure.
    """
    plan, names = prepared.plan, [f"bank-{i}" for i in range(len(tables))]
    rules = least or [(1, 1)] * len(tables)
    entries = [
        Entry(name, "aa" * 32, "bb" * 32, f"{i:064x}", *rule)
        for i, (name, rule) in enumerate(zip(names, rules, strict=True))
    ]
    roster = Roster(tuple(entries))
    protocol = protocol_named(plan.protocol)
    receivers, senders = [], []
    for i, table in enumerate(tables):
        base = Context(bytes(32), plan, os.urandom, lambda *_: None, 1)
        receivers.append(protocol.receiver(replace(base, federated=Seat(roster)), None))
        member = Member(entries[i], tuple(names), lambda m: m[:32], lambda *_: None, lambda: None)
        demands = replace(DEMANDS, identity=identity, dominance=shares[i] if shares else None)
        own = aggregate(plan.sender, LOANS, demands, table, Limits(threads=1))
        senders.append(protocol.sender(replace(base, federated=member), own, lambda c: c >= local))
    cells, _ = run_round(receivers, senders)
    return finish(plan, cells[0]), cells[0]


@pytest.mark.parametrize(
    "figure", ["count(*) * count(*)", "count(*) * 10000000", "sum(amount) * sum(amount)"]
)
def test_arithmetic_over_figures_is_proved_for_the_rows_that_are_declared(figure: str) -> None:
    assert _prepared(f"SELECT {figure} AS x FROM federation.loans").plan.outputs[0].name == "x"
    with pytest.raises(QueryError, match=r"query\.overflow"):
        _prepared(f"SELECT {' * '.join([figure] * 5)} AS x FROM federation.loans")


@pytest.mark.parametrize("name", ["masked_sum", "he_sum"])
def test_figures_that_no_release_carries_are_refused_before_anything_is_charged(name: str) -> None:
    plan = _prepared("SELECT region, sum(overdue) AS s FROM federation.loans GROUP BY region").plan
    with pytest.raises(QueryError, match=r"plan\.sums-too-large"):
        protocol_named(name).parameters(None, plan.sender, 2**23)


def _pooled(sql: str, tables: Sequence[pa.Table]) -> list[tuple[Any, ...]]:
    rows = pa.concat_tables(tables)  # noqa: F841  DuckDB reads it
    text = sql.replace("federation.loans", "rows")
    return duckdb.sql(f"SELECT * FROM ({text})").fetchall()


QUERIES = [
    "SELECT count(*) AS n, sum(amount) AS s FROM federation.loans WHERE region IN ('深圳', '澳门')",
    (
        "SELECT region, count(*) AS n, sum(amount) AS s, avg(overdue) AS o FROM federation.loans "
        "WHERE region <> 'elsewhere' GROUP BY region ORDER BY region"
    ),
    (
        "SELECT year, region, var_samp(overdue) AS v, count(overdue) AS c FROM federation.loans "
        "WHERE region <> 'elsewhere' AND year IS NOT NULL GROUP BY year, region ORDER BY year, region"
    ),
    (
        "SELECT covar_pop(amount, overdue) AS c, corr(amount, overdue) AS r, "
        "regr_slope(amount, overdue) AS b, stddev_pop(rate) AS d FROM federation.loans"
    ),
    (
        "SELECT year, sum(amount) / count(*) AS mean FROM federation.loans WHERE opened < DATE '1970-01-01' "
        "AND year IS NOT NULL GROUP BY year HAVING count(*) > 1 ORDER BY mean DESC NULLS LAST, year LIMIT 2"
    ),
    (
        "SELECT region, sum(overdue * overdue) AS q FROM federation.loans WHERE overdue > 0 "
        "AND region <> 'elsewhere' GROUP BY region ORDER BY region"
    ),
]


@pytest.mark.parametrize("protocol", ["masked_sum", "he_sum"])
@pytest.mark.parametrize("sql", QUERIES)
@settings(max_examples=2)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(0, 40), min_size=2, max_size=4))
def test_answers_equal_the_pooled_rows(protocol: str, sql: str, seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    tables = [_table(rng, size) for size in sizes]
    answer, _ = _answer(_prepared(sql, len(tables), protocol=protocol), tables, identity=None)
    expected = _pooled(sql, tables)
    found = [tuple(row.values()) for row in answer.to_pylist()]
    if "GROUP BY" not in sql and sum(sizes) == 0:
        return  # a single cell of nobody is not released
    assert len(found) == len(expected)
    # an average of the federation is rounded once, DuckDB's a few times
    ordered = found if "ORDER BY mean" in sql else sorted(found, key=repr)
    wanted = expected if "ORDER BY mean" in sql else sorted(expected, key=repr)
    assert all(_close(a, b) for a, b in zip(ordered, wanted, strict=True)), (found, expected)


def _close(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return all(
        x == y
        or (isinstance(x, float) and isinstance(y, float) and np.isclose(x, y, rtol=1e-9, equal_nan=True))
        or (x is not None and y is not None and not isinstance(x, str) and abs(float(x) - float(y)) < 1e-6)
        for x, y in zip(a, b, strict=True)
    )


def _few() -> list[pa.Table]:
    def rows(region: str, clients: int) -> pa.Table:
        made: dict[str, list[Any]] = {name: [None] * clients for name in TYPES}
        made |= {"client": [f"c{i}" for i in range(clients)], "region": [region] * clients}
        made |= {"overdue": [1] * clients}
        return pa.table({name: pa.array(values, TYPES[name]) for name, values in made.items()})

    return [
        pa.concat_tables([rows("深圳", 2), rows("澳门", 5)]),
        pa.concat_tables([rows("深圳", 3), rows("Hong Kong", 9)]),
        rows("澳门", 1),
    ]


COUNTED = "SELECT region, count(*) AS n, sum(overdue) AS s FROM federation.loans GROUP BY region ORDER BY n"


@pytest.mark.parametrize("protocol", ["masked_sum", "he_sum"])
def test_a_local_minimum_leaves_small_parts_out(protocol: str) -> None:
    answer, _ = _answer(_prepared(COUNTED, protocol=protocol), _few(), local=3)
    assert sorted(answer["n"].to_pylist()) == [3, 5, 9]


def _amounts(*rows: tuple[str | None, str | None, str | None]) -> pa.Table:
    """Rows of (client, region, amount); the other columns are NULL."""
    made: dict[str, list[Any]] = {name: [None] * len(rows) for name in TYPES}
    for place, name in enumerate(("client", "region", "amount")):
        made[name] = [row[place] for row in rows]
    made["amount"] = [x and Decimal(x) for x in made["amount"]]
    return pa.table({name: pa.array(values, TYPES[name]) for name, values in made.items()})


BY_AMOUNT = "SELECT region, sum(amount) AS s FROM federation.loans GROUP BY region ORDER BY s"
SHARE = Fraction(7, 10)


@pytest.mark.parametrize(
    ("large", "shown", "protocol"),
    [
        ("70", True, "masked_sum"),
        ("70.01", False, "masked_sum"),
        ("70.01", False, "he_sum"),
        ("-90", False, "masked_sum"),
    ],
)
def test_a_part_that_one_of_its_clients_dominates_goes_into_no_total(
    large: str, shown: bool, protocol: str
) -> None:
    """The others' clients make that one small in the total, which nobody sees in time."""
    dominated = _amounts(
        ("a", "深圳", large), ("b", "深圳", "15"), ("c", "深圳", "15"),
        ("a", "澳门", "3"), ("b", "澳门", "2"), ("c", None, "9"),
    )  # fmt: skip
    others = _amounts(*((f"c{i}", place, "500") for i in range(4) for place in ("深圳", "澳门", "nowhere")))
    tables = [dominated, others, others]
    answer, _ = _answer(_prepared(BY_AMOUNT, protocol=protocol), tables, shares=[SHARE, SHARE, None])
    part = Decimal(large) + 30 if shown else 0
    assert {row["region"]: row["s"] for row in answer.to_pylist()} == {
        "nowhere": 4000, "澳门": 4005, "深圳": 4000 + part
    }  # fmt: skip


def test_only_the_owner_whose_policy_demands_it_leaves_a_dominated_part_out() -> None:
    one = _amounts(("a", "深圳", "5"))
    many = _amounts(*((f"c{i}", "深圳", "1") for i in range(3)))
    found = [
        _answer(_prepared(BY_AMOUNT, 2), [one, many], least=[(1, least)] * 2, shares=shares)[0]
        for shares in ([SHARE, SHARE], [None, SHARE])
        for least in (1, 2)
    ]
    assert [answer["s"].to_pylist() for answer in found] == [[3], [], [8], [8]]


def test_shares_are_of_rows_and_squares_too_and_of_rows_without_an_identity_together() -> None:
    often = _amounts(*(("a", "深圳", "1") for _ in range(8)), ("b", "深圳", "4"), ("c", "深圳", "4"))
    nobody = _amounts(*((None, "深圳", "1") for _ in range(8)), ("b", "深圳", "1"), ("c", "深圳", "1"))
    squares = _amounts(("a", "深圳", "6"), ("b", "深圳", "3"), ("c", "深圳", "1"))
    unknown = _amounts(("a", "深圳", None), ("b", "深圳", None))
    for table, figure, shown in (
        (often, "sum(amount)", False),
        (often, "count(*)", False),
        (nobody, "count(*)", False),
        (squares, "count(*)", True),
        (squares, "sum(amount)", True),
        (squares, "var_pop(amount)", False),
        (unknown, "count(*)", True),
    ):
        sql = f"SELECT {figure} AS f FROM federation.loans"
        answer, _ = _answer(_prepared(sql, 2), [table, table], shares=[SHARE, SHARE])
        assert answer.num_rows == shown, (figure, table)


FIGURES = "count(*) AS n, sum(overdue) AS s, avg(overdue) AS a, count(overdue) AS c"
BY_PLACE_AND_YEAR = f"SELECT region, year, {FIGURES} FROM {{}} GROUP BY region, year ORDER BY region, year"


def _undominated(table: pa.Table, share: str) -> pa.Table:
    """The rows in cells of which no client holds more of a figure, and some a value, as DuckDB adds up."""
    declared = ", ".join(f"'{region}'" for region in REGIONS)
    query = f"""
        WITH shown AS (SELECT * FROM "table" WHERE region IN ({declared}) AND year IS NOT NULL),
        part AS (
            SELECT region, year, client, count(*) AS n, count(overdue) AS c, sum(abs(overdue)) AS s
            FROM shown GROUP BY ALL
        ),
        held AS (
            SELECT region, year FROM part GROUP BY ALL
            HAVING max(n) > {share} * sum(n) OR max(c) > {share} * sum(c) OR max(s) > {share} * sum(s)
            OR count(client) FILTER (WHERE c > 0) = 0
        )
        SELECT * FROM shown WHERE (region, year) NOT IN (FROM held)
    """
    return duckdb.from_arrow(table).query("table", query).to_arrow_table()


@pytest.mark.parametrize(("seed", "share"), [(1, "0.3"), pytest.param(2, "0.9", marks=pytest.mark.deep)])
def test_the_answer_is_that_of_the_parts_that_nobody_dominates(seed: int, share: str) -> None:
    rng = np.random.default_rng(seed)
    tables = [_table(rng, rows) for rows in (200, 60, 20, 0)]
    prepared = _prepared(BY_PLACE_AND_YEAR.format("federation.loans"), 4)
    answer, _ = _answer(prepared, tables, shares=[Fraction(share)] * 4)
    rows = pa.concat_tables([_undominated(table, share) for table in tables])  # noqa: F841
    expected = duckdb.sql(BY_PLACE_AND_YEAR.format("rows")).to_arrow_table().to_pylist()
    assert _sorted(answer.to_pylist()) == _sorted(expected)


def _sorted(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted(
        (row["region"], row["year"], row["n"], row["s"], row["c"], row["a"] and round(float(row["a"]), 9))
        for row in rows
    )


@pytest.mark.parametrize(("hidden", "told"), [(False, 1), (True, 0)])
def test_how_many_cells_were_held_back_is_told_unless_a_policy_hides_it(hidden: bool, told: int) -> None:
    prepared = _prepared(COUNTED, demands=replace(DEMANDS, suppressions_hidden=hidden))
    _, cells = _answer(prepared, _few(), least=[(6, 1)] * 3)
    assert cells.suppressed == told


def test_who_has_no_value_does_not_help_anothers_total_minimum() -> None:
    """One participant demands three identities of a total, the other nothing at all of its own cells."""
    many, one = _few()[1].slice(3, 9), _few()[2]
    silent = many.set_column(many.schema.get_field_index("overdue"), "overdue", pa.nulls(9, pa.int64()))
    sql = "SELECT count(*) AS n, sum(overdue) AS s FROM federation.loans"
    for tables, rows in (([silent, one], 0), ([many, one], 1)):
        answer, _ = _answer(_prepared(sql, 2), tables, least=[(1, 1), (3, 1)])
        assert answer.num_rows == rows


@pytest.mark.parametrize(
    "totals", [Totals((2**100,), (3,), ((1,), (1,), (1,))), Totals((3,), (3,), ((1,), (2**126,), (1,)))]
)
def test_totals_that_no_rows_give_are_refused(totals: Totals) -> None:
    plan = _prepared("SELECT count(*) AS n, sum(overdue) AS s FROM federation.loans").plan
    entries = [Entry(f"bank-{i}", "aa", "bb", "cc", 1, 1) for i in range(3)]
    context = Context(bytes(32), plan, os.urandom, lambda *_: None, 1, federated=Seat(Roster(tuple(entries))))
    with pytest.raises(PeerViolation) as error:
        _federated.answered(context, totals)
    assert error.value.code == "peer.totals"


@pytest.mark.parametrize("protocol", ["masked_sum", "he_sum"])
def test_the_strictest_total_minimum_of_all_policies_holds(protocol: str) -> None:
    prepared = _prepared(COUNTED, protocol=protocol)
    answer, cells = _answer(prepared, _few(), least=[(1, 1), (6, 1), (1, 2)])
    assert answer.to_pylist() == [{"region": "澳门", "n": 6, "s": 6}]
    assert cells.suppressed == 2


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT client, count(*) FROM federation.loans GROUP BY client", "query.group-undeclared"),
        ("SELECT upper(region), count(*) FROM federation.loans GROUP BY 1", "query.group-undeclared"),
        ("SELECT max(amount) FROM federation.loans", "query.extreme-joint"),
        ("SELECT count(DISTINCT client) FROM federation.loans", "query.count-distinct"),
        ("SELECT sum(loose) FROM federation.loans", "query.bounds-missing"),
    ],
)
def test_what_no_sum_answers_is_refused(sql: str, code: str) -> None:
    with pytest.raises(QueryError) as error:
        _prepared(sql)
    assert error.value.code == code


def test_a_federation_of_one_is_refused() -> None:
    with pytest.raises(QueryError) as error:
        _prepared("SELECT count(*) FROM federation.loans", n=1)
    assert error.value.code == "query.federation"


def test_participants_and_what_they_bring_are_in_the_digest() -> None:
    sql = "SELECT count(*) FROM federation.loans"
    digests = {_prepared(sql, n).plan.digest for n in (2, 3, 4)}
    assert len(digests) == 3


def test_a_participant_that_fills_a_held_back_cell_is_noticed() -> None:
    prepared = _prepared(COUNTED, protocol="masked_sum")
    from compute import federation

    honest = federation.Contribution.measured
    federation.Contribution.measured = lambda self, released: honest(self, [True] * len(released))  # type: ignore[method-assign]
    try:
        with pytest.raises(PeerViolation) as error:
            _answer(prepared, _few(), least=[(6, 1)] * 3)
    finally:
        federation.Contribution.measured = honest  # type: ignore[method-assign]
    assert error.value.code == "peer.totals"


def test_a_federation_has_a_hundred_thousand_cells_and_no_more_than_fit() -> None:
    sql = "SELECT region, year, count(*) AS n FROM federation.loans GROUP BY region, year"
    labels = tuple(map(str, range(1000)))
    for years, fits in ((100, True), (140, False)):
        demands = replace(DEMANDS, domains={"region": labels, "year": tuple(range(years))})
        if not fits:
            with pytest.raises(QueryError, match="131072"):
                _prepared(sql, demands=demands)
            continue
        plan = _prepared(sql, demands=demands).plan
        assert plan.maximum_cells == 100_000
        rows = aggregate(plan.sender, LOANS, demands, _few()[0], Limits(threads=1))
        assert rows.num_rows == 100_000
