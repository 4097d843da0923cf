"""Every aggregate that federations answer, against DuckDB over the pooled rows, and every gate.

The answer is made from the sum of all contributions, which is what either protocol gives the asker.
"""

from __future__ import annotations

import math
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

from compute import extremes, federation, pooling
from compute.dataset import Column, DatasetInfo
from compute.engine import Limits
from compute.errors import QueryError
from compute.facts import Prepared
from compute.federation import Entry, Roster, TotalGate, Totals
from compute.finish import finish
from compute.inputs import Cells
from compute.local import aggregate
from compute.planner import prepare
from compute.pooling import Part
from policy_enforcer.obligations import NOTHING_DEMANDED

LOANS = DatasetInfo(
    participant="bank-0",
    name="loans",
    columns=(
        Column("client", "string"),
        Column("地区", "string"),
        Column("amount", "decimal(12,2)", bounds=("-100000", "100000")),
        Column("overdue", "int64", bounds=("-640", "640")),
        Column("rate", "float64", scale=4, bounds=("-1", "1")),
        Column("nothing", "int64", bounds=("0", "9")),
    ),
    rows_bound=1000,
    keys_bound=1000,
    commitment="00" * 32,
)
TYPES = [pa.string(), pa.string(), pa.decimal128(12, 2), pa.int64(), pa.float64(), pa.int64()]
SCHEMA = pa.schema([(c.name, kind) for c, kind in zip(LOANS.columns, TYPES, strict=True)])
PLACES = ("深圳", "澳门", "Hong Kong")
DEMANDS = replace(NOTHING_DEMANDED, identity="client", domains={"地区": (*PLACES, "nowhere")})


def table(seed: int, rows: int, places: Sequence[str] = PLACES) -> pa.Table:
    """Rows of one bank: about one value in eight is NULL, labels aside; one column has none at all."""
    draw = np.random.default_rng(seed)

    def some(values: list[Any]) -> list[Any]:
        return [None if draw.random() < 0.12 else value for value in values]

    overdue = draw.integers(-600, 600, rows).tolist()
    columns = {
        "client": [f"{seed}-{int(i)}" for i in draw.integers(0, 25, rows)],
        "地区": [places[int(i)] for i in draw.integers(0, len(places), rows)],
        "amount": some([Decimal(int(x)) / 100 for x in draw.integers(-(10**6), 10**6, rows)]),
        "overdue": some(overdue),
        "rate": some([round(x / 2000 + float(draw.normal(0, 0.05)), 4) for x in overdue]),
        "nothing": [None] * rows,
    }
    return pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names})


TABLES = (table(1, 120), table(2, 90), table(3, 0), table(4, 60, PLACES[:1]))


def prepared(sql: str, banks: int = len(TABLES)) -> Prepared:
    parts = [Part(f"bank-{i}.loans", LOANS.rows_bound) for i in range(banks)]
    info = pooling.pooled("loans", LOANS, parts)
    return prepare(sql, "asker", {info.full_name: info}, demands={info.full_name: DEMANDS}, parts=parts)


def round_of(
    question: Prepared, tables: Sequence[pa.Table], local: Sequence[int] = (), total: tuple[int, int] = (1, 1)
) -> Cells:
    """The released cells. `local`: each bank's own minimum; `total`: least identities, least banks."""
    plan, shape = question.plan, pooling.shape(question.plan)
    made = []
    for least, rows in zip(local or [1] * len(tables), tables, strict=True):
        own = aggregate(plan.sender, LOANS, DEMANDS, rows, Limits(threads=1))
        part = pooling.contribution(plan, own, lambda counts, least=least: counts >= least)
        made.append(extremes.hidden(plan, part, os.urandom))
    counted = [sum(column) for column in zip(*(one.counted() for one in made), strict=True)]
    entries = [Entry(f"bank-{i}", "aa", "bb", "cc", *total) for i in range(len(tables))]
    shown = TotalGate.of(Roster(tuple(entries))).released(shape, counted)
    measured = federation.integers(federation.added([federation.words(one.measured(shown)) for one in made]))
    return pooling.cells(plan, extremes.opened(plan, Totals.of(shape, counted, measured)), shown)


def asked(sql: str, tables: Sequence[pa.Table] = TABLES, **gates: Any) -> list[dict[str, Any]]:
    question = prepared(sql, len(tables))
    found: list[dict[str, Any]] = finish(question.plan, round_of(question, tables, **gates)).to_pylist()
    return found


def duck(sql: str, tables: Sequence[pa.Table] = TABLES) -> list[dict[str, Any]]:
    rows = pa.concat_tables(tables)  # noqa: F841  DuckDB reads it
    found: list[dict[str, Any]] = (
        duckdb.sql(sql.replace("federation.loans", "rows")).to_arrow_table().to_pylist()
    )
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) or isinstance(b, float):
        return bool(a is not None and b is not None and np.isclose(float(a), float(b), rtol=1e-9, atol=1e-9))
    return bool(a == b)


FIGURES = [
    "count(*)",
    "count(overdue)",
    "sum(amount)",
    "avg(rate)",
    "var_pop(overdue)",
    "var_samp(amount)",
    "stddev_pop(rate)",
    "stddev_samp(overdue)",
    "covar_pop(amount, overdue)",
    "covar_samp(rate, overdue)",
    "corr(overdue, rate)",
    "regr_slope(overdue, rate)",
    "regr_intercept(overdue, rate)",
    "regr_r2(overdue, rate)",
    "regr_count(overdue, rate)",
    "regr_avgx(overdue, rate)",
    "regr_avgy(overdue, rate)",
    "regr_sxx(overdue, rate)",
    "regr_syy(overdue, rate)",
    "regr_sxy(overdue, rate)",
    "sum(overdue) / count(*)",
]


def test_every_figure_of_every_place_is_that_of_the_pooled_rows() -> None:
    shown = ", ".join(f"{figure} AS f{i}" for i, figure in enumerate(FIGURES))
    sql = f"SELECT 地区, {shown} FROM federation.loans GROUP BY 地区 ORDER BY 地区"
    found, expected = asked(sql), duck(sql)
    assert [row["地区"] for row in found] == [row["地区"] for row in expected] == sorted(PLACES)
    wrong = [
        (FIGURES[int(name[1:])], a[name], b[name])
        for a, b in zip(found, expected, strict=True)
        for name in a
        if name != "地区" and not same(a[name], b[name])
    ]
    assert not wrong


HALF = Fraction(1, 2 * 10**4)  # of a unit of rate's scale


def with_rates(rates: Sequence[Sequence[float]]) -> list[pa.Table]:
    """The banks' tables with these rates in place of theirs, one place only."""
    made = []
    for one, values in zip(TABLES, rates, strict=True):
        filled = table(5, len(values), PLACES[:1])
        at = filled.schema.get_field_index("rate")
        made.append(filled.set_column(at, "rate", pa.array(list(values), pa.float64())))
        assert made[-1].schema == one.schema
    return made


REALS = (
    "SELECT sum(rate) AS s, avg(rate) AS a, stddev_pop(rate) AS d, var_pop(rate) AS v, "
    "covar_pop(rate, overdue) AS c"
)


def test_floats_are_off_by_no_more_than_is_stated() -> None:
    """docs/reference/sql.md, "How far rounded floats lead": in exact fractions, floats between the steps."""
    draw = np.random.default_rng(11)
    tables = with_rates([draw.uniform(-1, 1, rows).tolist() for rows in (90, 60, 0, 30)])
    (found,) = asked(f"{REALS} FROM federation.loans", tables)
    pooled = pa.concat_tables(tables).to_pylist()
    x = [Fraction(row["rate"]) for row in pooled]
    h, mean = HALF + Fraction(1, 2**53), sum(x) / len(x)
    deviation = math.sqrt(sum((one - mean) ** 2 for one in x) / len(x))
    pairs = [(Fraction(row["rate"]), row["overdue"]) for row in pooled if row["overdue"] is not None]
    mx, my = (Fraction(sum(column)) / len(pairs) for column in zip(*pairs, strict=True))
    covariance = sum((a - mx) * (b - my) for a, b in pairs) / len(pairs)
    spread = math.sqrt(sum((b - my) ** 2 for _, b in pairs) / len(pairs))
    for name, exact, most in (
        ("s", sum(x), len(x) * h),
        ("a", mean, h),
        ("d", deviation, h),
        ("v", deviation**2, h * (2 * deviation + h)),
        ("c", covariance, h * spread),
    ):
        assert 0 < abs(found[name] - float(exact)) <= float(most) + 1e-12


@pytest.mark.parametrize("rate", [0.12344999, -0.12345001])
def test_floats_that_all_lie_half_a_unit_off_reach_the_bound(rate: float) -> None:
    tables = with_rates([[rate] * rows for rows in (90, 60, 0, 30)])
    (found,) = asked("SELECT sum(rate) AS s, avg(rate) AS a FROM federation.loans", tables)
    assert 0.99 * 180 * float(HALF) < abs(found["s"] - 180 * rate) <= 180 * float(HALF)
    assert 0.99 * float(HALF) < abs(found["a"] - rate) <= float(HALF)


def test_a_figure_that_nobody_has_a_value_of_holds_its_cells_back() -> None:
    """The minimum is for identities with a value of every figure, and one is the least of it."""
    sql = "SELECT 地区, count(*) AS n, sum(nothing) AS s FROM federation.loans GROUP BY 地区"
    cells = round_of(prepared(sql), TABLES)
    assert (cells.table.num_rows, cells.suppressed) == (0, 0)


def test_a_histogram_of_each_place_is_that_of_the_pooled_rows() -> None:
    buckets = "width_bucket(overdue, [-100, 0, 250]) AS b"
    sql = f"SELECT 地区, {buckets}, count(*) AS n FROM federation.loans GROUP BY 地区, b"
    numbered = (
        "CASE WHEN overdue >= 250 THEN 3 WHEN overdue >= 0 THEN 2 WHEN overdue >= -100 THEN 1 ELSE 0 END"
    )
    rows = duck(
        f"SELECT 地区, {numbered} AS b, count(*) AS n FROM federation.loans WHERE overdue IS NOT NULL "
        "GROUP BY 地区, b ORDER BY 地区, b"
    )
    assert asked(sql + " ORDER BY 地区, b") == rows
    equal = "width_bucket(overdue, -640, 640, 4) AS b"
    ranged = f"SELECT {equal}, count(*) AS n FROM federation.loans GROUP BY 1 ORDER BY 1"
    assert [row["b"] for row in asked(ranged)] == [1, 2, 3, 4]


def test_quantiles_are_off_by_one_bucket_at_most() -> None:
    shown = "approx_quantile(overdue, 0.25) AS low, approx_quantile(overdue, 0.5) AS mid"
    sql = f"SELECT {shown} FROM federation.loans"
    ((found,), (exact,)) = asked(sql), duck(sql.replace("approx_quantile", "quantile_disc"))
    assert all(abs(found[name] - exact[name]) <= 1280 / 64 for name in ("low", "mid"))
    each = asked("SELECT 地区, approx_quantile(overdue, 0.9) AS q FROM federation.loans GROUP BY 地区")
    assert {row["地区"] for row in each} == set(PLACES)


def test_buckets_that_few_are_in_are_left_out_of_a_quantile() -> None:
    few = [one.slice(0, 20) for one in TABLES]
    sql = "SELECT approx_quantile(overdue, 0.5) AS q FROM federation.loans"
    assert asked(sql, few, total=(5, 1)) == []
    assert asked(sql, few)[0]["q"] is not None


COUNTS = "SELECT 地区, count(*) AS n, count(overdue) AS v FROM federation.loans GROUP BY 地区 ORDER BY 地区"


def test_a_bank_all_of_whose_cells_are_too_small_adds_nothing() -> None:
    sizes = [{row["地区"]: row for row in duck(COUNTS, [one])} for one in TABLES]
    found = asked(COUNTS, local=[1, 1000, 1, 1])
    for row in found:
        others = [sizes[i].get(row["地区"], {"n": 0})["n"] for i in (0, 2, 3)]
        assert row["n"] == sum(others)


def test_a_bank_without_rows_is_no_participant_behind_a_cell() -> None:
    assert [row["地区"] for row in asked(COUNTS, total=(1, 3))] == ["深圳"]
    assert asked(COUNTS, total=(1, 4)) == []
    question = prepared(COUNTS)
    assert round_of(question, TABLES, total=(1, 3)).suppressed == 2


def test_own_and_total_minima_stand_beside_each_other() -> None:
    clients = "count(DISTINCT client) FILTER (WHERE overdue IS NOT NULL)"
    sizes = [
        duck(f"SELECT 地区, {clients} AS c FROM federation.loans GROUP BY 地区", [one]) for one in TABLES
    ]
    least = 20
    kept = [{row["地区"]: row["c"] for row in rows if row["c"] >= least} for rows in sizes]
    totals = {place: sum(bank.get(place, 0) for bank in kept) for place in PLACES}
    assert sorted(set(totals.values())) != [0]
    for total in (1, max(totals.values()), max(totals.values()) + 1):
        found = [row["地区"] for row in asked(COUNTS, local=[least] * 4, total=(total, 1))]
        assert found == sorted(place for place, count in totals.items() if count >= max(1, total))


def test_the_askers_own_rows_go_into_released_cells_alone() -> None:
    question, mine = prepared(COUNTS), table(9, 80)
    own = aggregate(question.plan.sender, LOANS, DEMANDS, mine, Limits(threads=1))
    cells = round_of(question, TABLES, total=(1, 3))
    found = finish(question.plan, pooling.with_own(question.plan, cells, own)).to_pylist()
    expected = [row for row in duck(COUNTS, [*TABLES, mine]) if row["地区"] == "深圳"]
    assert found == expected
    whole = prepared("SELECT count(*) AS n, avg(rate) AS r FROM federation.loans")
    nobody = round_of(whole, TABLES, total=(10**6, 1))
    own = aggregate(whole.plan.sender, LOANS, DEMANDS, mine, Limits(threads=1))
    assert finish(whole.plan, pooling.with_own(whole.plan, nobody, own)).num_rows == 0


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        (
            "SELECT width_bucket(upper(client), ['a']), count(*) FROM federation.loans GROUP BY 1",
            "query.histogram",
        ),
        ("SELECT overdue, count(*) FROM federation.loans GROUP BY overdue", "query.group-undeclared"),
    ],
)
def test_what_is_no_sum_is_refused(sql: str, code: str) -> None:
    with pytest.raises(QueryError) as error:
        prepared(sql)
    assert error.value.code == code
