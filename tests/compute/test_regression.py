"""`linear_regression` over a federation is least squares over the pooled rows, or says why it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from compute import pooling, regression
from compute.dataset import Column, DatasetInfo
from compute.engine import Limits
from compute.errors import QueryError
from compute.facts import Prepared
from compute.federation import Totals
from compute.finish import finish
from compute.inputs import Cells
from compute.local import aggregate
from compute.planner import prepare
from compute.pooling import Part
from policy_enforcer.obligations import NOTHING_DEMANDED
from tests.compute.test_shapes import pair, run

LOANS = DatasetInfo(
    participant="bank-0",
    name="loans",
    columns=(
        Column("client", "string"),
        Column("地区", "string"),
        Column("amount", "decimal(12,2)", bounds=("-100000", "100000")),
        Column("overdue", "int64", bounds=("-1000", "1000")),
        Column("rate", "float64", scale=4, bounds=("-1", "1")),
        Column("age", "int64", bounds=("0", "100")),
        Column("n", "int64", bounds=("0", "100")),
    ),
    rows_bound=1000,
    keys_bound=1000,
    commitment="00" * 32,
)
TYPES = [pa.string(), pa.string(), pa.decimal128(12, 2), pa.int64(), pa.float64(), pa.int64(), pa.int64()]
SCHEMA = pa.schema([(c.name, kind) for c, kind in zip(LOANS.columns, TYPES, strict=True)])
DEMANDS = replace(NOTHING_DEMANDED, domains={"地区": ("深圳", "澳门", "香港")})
THREE = "SELECT 地区, linear_regression(overdue, [rate, amount, age]) FROM federation.loans GROUP BY 地区"


def table(seed: int, rows: int, **fixed: list[Any]) -> pa.Table:
    """Rows of one bank, a tenth of the values NULL; none lies in 香港."""
    draw = np.random.default_rng(seed)

    def some(values: Any) -> list[Any]:
        return [None if draw.random() < 0.1 else value for value in values]

    rate = draw.integers(-9999, 9999, rows) / 10**4
    age = draw.integers(18, 90, rows)
    columns = {
        "client": [f"c{i}" for i in range(rows)],
        "地区": [("深圳", "澳门")[i % 2] for i in range(rows)],
        "amount": some([f"{x / 100:.2f}" for x in draw.integers(-9999, 9999, rows)]),
        "overdue": some([int(x) for x in 300 * rate + 2 * age + draw.normal(0, 20, rows)]),
        "rate": some(rate.tolist()),
        "age": some(age.tolist()),
        "n": some(age.tolist()),
        **fixed,
    }
    made = pa.table({name: columns[name] for name in SCHEMA.names})
    return made.cast(SCHEMA)


def prepared(sql: str, banks: int = 3, info: DatasetInfo = LOANS) -> Prepared:
    parts = [Part(f"bank-{i}.loans", info.rows_bound) for i in range(banks)]
    whole = pooling.pooled("loans", info, parts)
    return prepare(sql, "asker", {whole.full_name: whole}, demands={whole.full_name: DEMANDS}, parts=parts)


def answer(question: Prepared, tables: Sequence[pa.Table]) -> list[dict[str, Any]]:
    """The answer from the sum of all contributions, which is what either protocol gives the asker."""
    plan = question.plan
    made = [
        pooling.contribution(
            plan, aggregate(plan.sender, LOANS, DEMANDS, one, Limits(threads=1)), lambda counts: counts >= 1
        )
        for one in tables
    ]
    shape = pooling.shape(plan)
    counted = [sum(column) for column in zip(*(one.counted() for one in made), strict=True)]
    shown = [count > 0 for count in counted[: shape.cells]]
    measured = [sum(column) for column in zip(*(one.measured(shown) for one in made), strict=True)]
    rows: list[dict[str, Any]] = finish(
        plan, pooling.cells(plan, Totals.of(shape, counted, measured), shown)
    ).to_pylist()
    return rows


def least_squares(rows: pa.Table, xs: Sequence[str]) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Coefficients, standard errors, R² and rows by numpy, over the rows without a NULL."""
    names = ["overdue", *xs]
    kept = rows.select(names).drop_null()
    y, *columns = (np.array([float(v) for v in kept[name].to_pylist()]) for name in names)
    x = np.column_stack([np.ones(len(y)), *columns])
    found = np.linalg.lstsq(x, y, rcond=None)[0]
    left = y - x @ found
    spread = np.linalg.inv(x.T @ x) * (left @ left) / (len(y) - x.shape[1])
    centred = y - y.mean()
    return found, np.sqrt(np.diag(spread)), 1 - left @ left / (centred @ centred), len(y)


def test_it_is_least_squares_over_the_pooled_rows_of_each_group() -> None:
    tables = [table(seed, rows) for seed, rows in ((1, 60), (2, 41), (3, 0))]
    pooled = pa.concat_tables(tables)
    found = answer(prepared(THREE), tables)
    assert [row["地区"] for row in found] == ["深圳", "澳门"]
    for row in found:
        rows = pooled.filter(pa.compute.equal(pooled["地区"], row["地区"]))
        coefficients, errors, r2, n = least_squares(rows, ["rate", "amount", "age"])
        assert list(row)[1:6] == ["n", "fit", "r2", "intercept", "intercept_se"]
        assert (row["n"], row["fit"]) == (n, "fitted")
        names = ["intercept", "rate", "amount", "age"]
        assert np.allclose([row[name] for name in names], coefficients, rtol=1e-9)
        assert np.allclose([row[f"{name}_se"] for name in names], errors, rtol=1e-9)
        assert np.isclose(row["r2"], r2, rtol=1e-9)


def test_a_cell_is_solved_once_for_all_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[Sequence[Any]] = []
    whole = regression.fitted
    monkeypatch.setattr("compute.finish.fitted", lambda sums, *_: solved.append(sums) or whole(sums))
    found = answer(prepared(THREE), [table(seed, rows) for seed, rows in ((1, 60), (2, 41), (3, 0))])
    assert len(solved) == len(found) == 2


def test_with_one_column_it_is_the_line_of_duckdb() -> None:
    tables = [table(seed, 50) for seed in (4, 5)]
    rows = pa.concat_tables(tables)  # noqa: F841  DuckDB reads it
    (found,) = answer(prepared("SELECT linear_regression(overdue, [age]) FROM federation.loans", 2), tables)
    line = "regr_count(y, x), regr_slope(y, x), regr_intercept(y, x), regr_r2(y, x)"
    expected = duckdb.sql(f"SELECT {line} FROM (SELECT overdue AS y, age AS x FROM rows)").fetchall()[0]
    names = ("n", "age", "intercept", "r2")
    assert np.allclose([found[name] for name in names], [float(x) for x in expected], rtol=1e-9)


def test_terms_may_be_sums_and_products_and_the_columns_keep_apart() -> None:
    sql = "SELECT linear_regression(overdue, [n, n * n, rate - age]) AS a FROM federation.loans"
    (found,) = answer(prepared(sql, 2), [table(6, 80), table(7, 80)])
    assert {"a_n", "a_n_1", "a_x2", "a_x3_se"} < set(found)
    assert isinstance(found["a_n"], int)  # rows; the column of that name comes after
    assert isinstance(found["a_n_1"], float)


def test_the_order_may_name_a_figure() -> None:
    sql = THREE + " ORDER BY r2 DESC LIMIT 1"
    tables = [table(8, 60), table(9, 60)]
    every = answer(prepared(THREE, 2), tables)
    assert answer(prepared(sql, 2), tables) == [max(every, key=lambda row: row["r2"])]


@pytest.mark.parametrize(
    ("rows", "fit"),
    [
        ({"age": [30, 40, 50, 60], "n": [16, 21, 26, 31]}, "collinear"),
        ({"age": [30, 40, 50, 60], "n": [7, 7, 7, 7]}, "collinear"),
        ({"age": [30, 40, None, None], "n": [1, 7, 1, 9]}, "too-few-rows"),
        ({"age": [None] * 4, "n": [None] * 4}, "too-few-rows"),
        ({"age": [30, 40, 50, None], "n": [1, 9, 3, 4]}, "fitted"),
    ],
)
def test_what_determines_no_line_says_why(rows: dict[str, list[Any]], fit: str) -> None:
    one = table(10, 4, overdue=[3, 1, 4, 1], **rows)
    sql = "SELECT linear_regression(overdue, [age, n]) FROM federation.loans"
    (found,) = answer(prepared(sql, 2), [one.slice(0, 1), one.slice(1)])
    assert found["fit"] == fit
    figures = [v for name, v in found.items() if name not in ("n", "fit") and not name.endswith("_se")]
    assert all((figure is None) == (fit != "fitted") for figure in figures)
    assert found["age_se"] is None  # even three rows leave none over


def test_a_line_through_what_does_not_vary_explains_all_of_it() -> None:
    fit = regression.fitted((4, 10, 12, 30, 30, 36))
    assert (fit.r2, fit.errors) == (1, (0.0, 0.0))


def test_a_standard_error_that_no_float_holds_is_no_figure() -> None:
    assert regression.fitted((3, 1, 0, 1, 0, 2**1100)).verdict == regression.COLLINEAR
    assert regression.fitted((3, 1, 0, 1, 0, 2**900)).verdict == regression.FITTED


def test_rounded_floats_move_a_coefficient_by_no_more_than_the_bound() -> None:
    """The bound of docs/reference/sql.md, where only x is rounded."""
    draw = np.random.default_rng(11)
    rate = draw.uniform(-1, 1, 200)
    overdue = [int(x) for x in 250 * rate + draw.normal(0, 5, 200)]
    one = table(12, 200, rate=rate.tolist(), overdue=overdue)
    (found,) = answer(
        prepared("SELECT linear_regression(overdue, [rate]) FROM federation.loans", 2), [one, one.slice(0, 0)]
    )
    y, exact = np.array(overdue, float), np.column_stack([np.ones(200), rate])
    rounded = np.column_stack([np.ones(200), np.round(rate, 4)])
    b = np.linalg.lstsq(exact, y, rcond=None)[0]
    inverse, half = np.linalg.inv(rounded.T @ rounded), np.array([0, 0.5e-4])
    bound = (
        np.abs(inverse @ rounded.T).sum(1) * (half @ np.abs(b))
        + np.abs(inverse) @ half * np.abs(y - exact @ b).sum()
    )
    moved = np.abs(np.array([found["intercept"], found["rate"]]) - b)
    assert np.all(moved <= bound)
    assert np.all(moved > 1e-12)
    assert bound[1] < 0.2


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("linear_regression(overdue, [age, age])", "query.regression"),
        ("linear_regression(overdue, [overdue])", "query.regression"),
        ("linear_regression(overdue, age)", "query.regression"),
        ("linear_regression(overdue, [])", "query.regression"),
        ("linear_regression(overdue)", "query.regression"),
        ("linear_regression([age], [overdue])", "query.measure"),
        ("linear_regression(overdue, [age]) + 1", "query.regression"),
        ("linear_regression(overdue, [client])", "query.type"),
        ("linear_regression(overdue, [max(age)])", "query.measure"),
        ("linear_regression(overdue, [age]), approx_quantile(age, 0.5)", "query.quantile"),
        ("count(*) AS c, linear_regression(overdue, [age]) OVER ()", "query.construct"),
        (
            "count(*) AS c FROM federation.loans WHERE linear_regression(overdue, [age]) > 1 --",
            "query.function",
        ),
        (
            "count(*) AS c FROM federation.loans HAVING linear_regression(overdue, [age]) > 1 --",
            "query.regression",
        ),
        ("sum(linear_regression(overdue, [age]))", "query.measure"),
        ("age FROM federation.loans GROUP BY linear_regression(overdue, [age]), age --", "query.group"),
    ],
)
def test_what_it_is_not_is_refused(sql: str, code: str) -> None:
    with pytest.raises(QueryError) as error:
        prepared(f"SELECT {sql} FROM federation.loans" if "--" not in sql else f"SELECT {sql}")
    assert error.value.code == code


def test_policies_see_a_regression_over_every_column() -> None:
    question = prepared("SELECT linear_regression(overdue, [age, rate * rate]) FROM federation.loans")
    uses = {use.column: use for use in question.uses["federation.loans"]}
    assert {name for name, use in uses.items() if use.aggregated == {"regr"}} == {"overdue", "age", "rate"}
    assert not any(use.conditional for use in uses.values())
    kept = prepared("SELECT linear_regression(overdue, [age]) FILTER (WHERE n > 3) FROM federation.loans")
    assert [use.column for use in kept.uses["federation.loans"] if use.selecting] == ["n"]


def test_one_owner_answers_it_too() -> None:
    sql = "SELECT linear_regression(overdue, [rate, age]) FROM bank-0.loans"
    plan = prepare(sql, "asker", {LOANS.full_name: LOANS}).plan
    one = table(13, 90)
    cells = aggregate(plan.sender, LOANS, NOTHING_DEMANDED, one, Limits(threads=1))
    (found,) = finish(plan, Cells(cells, 0)).to_pylist()
    coefficients, errors, r2, n = least_squares(one, ["rate", "age"])
    assert np.allclose([found[x] for x in ("intercept", "rate", "age")], coefficients, rtol=1e-9)
    assert np.allclose([found["age_se"], found["r2"], found["n"]], [errors[2], r2, n], rtol=1e-9)


def test_a_join_may_have_columns_of_both_sides() -> None:
    tables = pair(17)
    joined = "FROM sz.deals d JOIN hk.firms f ON d.firm = f.firm"
    answered, _ = run(f"SELECT linear_regression(d.amount, [d.days, f.score]) {joined}", tables)
    (found,) = answered.to_pylist()
    deals, firms = tables["sz.deals"], tables["hk.firms"]  # noqa: F841  DuckDB reads them
    text = "FROM deals d JOIN firms f ON lower(trim(d.firm)) = lower(trim(f.firm))"
    rows = duckdb.sql(f"SELECT amount AS overdue, days, score {text}").to_arrow_table()
    coefficients, errors, r2, n = least_squares(rows, ["days", "score"])
    assert found["n"] == n > 20
    assert np.allclose([found[x] for x in ("intercept", "days", "score")], coefficients, rtol=1e-9)
    assert np.allclose([found[f"{x}_se"] for x in ("intercept", "days", "score")], errors, rtol=1e-9)
    assert np.isclose(found["r2"], r2)
