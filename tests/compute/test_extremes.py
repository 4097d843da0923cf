"""Numbers at the ends of their types: every sum is exact or refused, and no row decides which."""

from __future__ import annotations

from dataclasses import replace
from decimal import Context, Decimal

import pyarrow as pa
import pytest

from compute.dataset import Column, DatasetInfo
from compute.errors import QueryError
from compute.planner import prepare
from policy_enforcer.disclosure import Level
from policy_enforcer.obligations import NOTHING_DEMANDED

LEAST, MOST = -(2**63), 2**63 - 1
MANY = 1 << 40
WIDE = Context(prec=60)


@pytest.fixture
def ask(answer):
    """The figures of one question over one column x."""

    def run(figures: str, column: Column, data: pa.DataType, values: list, rows_bound: int = 10) -> list:
        info = DatasetInfo("sz", "t", (column,), rows_bound, 10, "00" * 32)
        table = pa.table({"x": pa.array(values, data)})
        return list(
            answer(f"SELECT {figures} FROM sz.t", {"sz.t": table}, {"sz.t": info}).to_pylist()[0].values()
        )

    return run


@pytest.mark.parametrize("rows_bound", [10, MANY])
def test_squares_of_the_largest_integers_are_exact(ask, rows_bound):
    values = [LEAST, LEAST, MOST]
    mean, square = sum(values) / 3, sum(v * v for v in values)
    variance = (square - sum(values) ** 2 / 3) / 3
    got = ask("sum(x), avg(x), var_pop(x)", Column("x", "int64"), pa.int64(), values, rows_bound)
    assert got == [sum(values), pytest.approx(mean), pytest.approx(variance)]


@pytest.mark.parametrize("product", ["x * x", "CASE WHEN x > 0 THEN x * x END", "-(x * x)"])
def test_a_sum_that_could_exceed_38_digits_is_refused_before_any_row_is_read(ask, product):
    with pytest.raises(QueryError, match=r"declared of sz\.t\.x .* AVG and COUNT") as refused:
        ask(f"sum({product})", Column("x", "int64"), pa.int64(), [1])
    assert refused.value.code == "query.overflow"
    with pytest.raises(QueryError, match=r"126 bits.* sz\.t\.x"):
        ask("avg(x * x * x)", Column("x", "int64"), pa.int64(), [1])


def test_what_the_declarations_prove_is_exact_to_the_last_digit(ask):
    column = Column("x", "int64")
    assert ask("sum(x * x)", column, pa.int64(), [LEAST], rows_bound=1) == [2**126]
    assert ask("avg(x * x), var_pop(x)", column, pa.int64(), [LEAST, LEAST]) == [2.0**126, 0]
    bounded = Column("x", "int64", bounds=("-4000000000", "4000000000"))
    values = [4 * 10**9] * 9
    assert ask("sum(x * x)", bounded, pa.int64(), values, MANY) == [144 * 10**18]


@pytest.mark.parametrize(("rows", "repeats"), [(1 << 31, True), (1 << 32, False)])
def test_rows_of_a_join_are_counted_key_by_key_only_while_an_int64_holds_them(rows, repeats):
    columns = (Column("k", "int64", key=()), Column("x", "int64", bounds=("0", "1")))
    infos = {
        f"{who}.t": DatasetInfo(who, "t", columns, rows, 10, "00" * 32, Level.RECEIVER)
        for who in ("sz", "hk")
    }
    demands = {"sz.t": replace(NOTHING_DEMANDED, weighted=True)}
    ask = "SELECT count(*) FROM sz.t s JOIN hk.t r ON s.k = r.k"
    plan = prepare(ask, "hk", infos, demands=demands).plan
    assert plan.receiver is not None
    assert plan.receiver.repeats == repeats


@pytest.mark.parametrize(
    ("precision", "scale", "edge"),
    [
        (38, 2, "1" + "0" * 35),
        (38, 10, "1" + "0" * 25),
        (30, 15, "1" + "0" * 14),
        (37, 0, "9" * 37),
        (18, 18, "0.5"),
    ],
)
def test_wide_decimals_are_clamped_and_summed_exactly(ask, precision, scale, edge):
    largest, small = 9 * 10 ** (precision - 1), -5  # in units of the last digit
    values = [WIDE.scaleb(Decimal(v), -scale) for v in (largest, small)]
    column = Column("x", f"decimal({precision},{scale})", bounds=(f"-{edge}", edge))
    got = ask("sum(x)", column, pa.decimal128(precision, scale), [*values, None], rows_bound=9)
    top = int(WIDE.scaleb(Decimal(edge), scale))
    assert WIDE.scaleb(got[0], scale) == min(largest, top) + small


@pytest.mark.parametrize("condition", ["x * 4 > 0", "x + x > 1.5", "-(x + x) BETWEEN -2e19 AND -2"])
def test_comparisons_lose_no_row_to_a_sum_or_product_beyond_64_bits(ask, condition):
    counted = f"count(*) FILTER (WHERE {condition})"
    assert ask(counted, Column("x", "int64"), pa.int64(), [MOST, LEAST, 1, None]) == [2]


@pytest.mark.parametrize("figure", ["sum(s.x * s.x)", "sum(s.x * r.x)", "sum(s.x * s.x) - sum(r.x)"])
def test_a_sum_over_a_join_that_could_exceed_38_digits_is_refused_before_anything_runs(figure):
    columns = (Column("k", "int64", key=()), Column("x", "int64", bounds=(str(LEAST), str(MOST))))
    infos = {
        f"{who}.t": DatasetInfo(who, "t", columns, 10, 10, "00" * 32, Level.RECEIVER) for who in ("sz", "hk")
    }
    ask = f"SELECT {figure} FROM sz.t s JOIN hk.t r ON s.k = r.k"
    with pytest.raises(QueryError, match="38 digits"):
        prepare(ask, "hk", infos)
    assert prepare("SELECT sum(s.x), sum(r.x) FROM sz.t s JOIN hk.t r ON s.k = r.k", "hk", infos)


def test_sums_that_no_parameters_hold_are_refused_with_what_works():
    columns = (Column("k", "int64", key=()), Column("x", "int64", bounds=(str(LEAST), str(MOST))))
    infos = {
        f"{who}.t": DatasetInfo(who, "t", columns, MANY, 10, "00" * 32, Level.RECEIVER)
        for who in ("sz", "hk")
    }
    ask = "SELECT corr(s.x, r.x) FROM sz.t s JOIN hk.t r ON s.k = r.k"
    with pytest.raises(QueryError, match="fewer aggregates at a time"):
        prepare(ask, "hk", infos)


def test_a_sum_of_decimals_that_no_bound_holds_is_refused_rather_than_rounded(ask):
    column, data = Column("x", "decimal(38,2)"), pa.decimal128(38, 2)
    assert ask("avg(x)", column, data, [Decimal("1.50")]) == [1.5]
    with pytest.raises(QueryError, match="bounds"):
        ask("sum(x)", column, data, [Decimal("1.50")])


@pytest.mark.parametrize(
    "column",
    [
        Column("x", "decimal(10,8)", bounds=("0", "1" + "0" * 37)),
        Column("x", "float64", scale=18, bounds=("0", "1" + "0" * 20)),
    ],
)
def test_bounds_beyond_126_bits_are_refused_before_anything_runs(ask, column):
    with pytest.raises(QueryError, match="126 bits"):
        ask("sum(x)", column, pa.float64(), [])
