"""Plans: both sides derive the same one; roles, bounds, limbs and the choice of protocol."""

# ruff: noqa: E501 - one question a line

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pyarrow as pa
import pytest

from compute.dataset import Column
from compute.engine import Limits
from compute.errors import ConfigError, QueryError
from compute.finish import answer_schema, finish
from compute.inputs import Cells
from compute.local import join_input
from compute.planner import plan, prepare
from compute.protocols import PROTOCOLS, candidates
from compute.protocols.base import Cost
from compute.types import parse_type
from policy_enforcer.disclosure import Level

JOIN = "sz-trade.invoices i JOIN hk-bank.credit c ON i.company = c.company"


def with_info(catalogue, name, **changes):
    return {**catalogue, name: replace(catalogue[name], **changes)}


def test_both_sides_derive_the_same_digest(catalogue):
    sql = f"SELECT c.grade, sum(i.amount) FROM {JOIN} WHERE i.days > 3 GROUP BY 1 HAVING count(*) > 2"
    reordered = dict(reversed(catalogue.items()))
    assert plan(sql, "hk-bank", catalogue).digest == plan(sql, "hk-bank", reordered).digest
    other = plan(sql.replace("> 3", "> 4"), "hk-bank", catalogue)
    assert other.digest != plan(sql, "hk-bank", catalogue).digest


def test_who_asks_decides_who_sends(catalogue):
    sql = f"SELECT count(*) FROM {JOIN}"
    mine, theirs = plan(sql, "hk-bank", catalogue), plan(sql, "sz-trade", catalogue)
    assert (mine.receiver.dataset, mine.sender.dataset) == ("hk-bank.credit", "sz-trade.invoices")
    assert (theirs.receiver.dataset, theirs.sender.dataset) == ("sz-trade.invoices", "hk-bank.credit")
    alone = plan("SELECT count(*) FROM sz-trade.invoices", "hk-bank", catalogue)
    assert (alone.receiver, alone.owner, alone.protocol) == (None, "sz-trade", "single_domain")
    assert plan("SELECT count(*) FROM hk-bank.credit", "hk-bank", catalogue).owner == "hk-bank"


def test_written_order_of_keys_and_sides_does_not_matter(catalogue):
    one = plan(
        "SELECT count(*) FROM sz-trade.invoices i JOIN hk-bank.credit c USING (company, branch)",
        "hk-bank",
        catalogue,
    )
    two = plan(
        "SELECT count(*) FROM hk-bank.credit c, sz-trade.invoices i WHERE c.company = i.company AND (i.branch = c.branch)",
        "hk-bank",
        catalogue,
    )
    assert one.sender.keys == one.receiver.keys == ("company", "branch")
    assert one.digest == two.digest


def test_the_level_both_tolerate_limits_the_protocol(catalogue):
    sql = f"SELECT i.industry, count(*) FROM {JOIN} GROUP BY 1"
    strict = with_info(catalogue, "sz-trade.invoices", disclosure=Level.CARDINALITY)
    assert plan(sql, "hk-bank", strict).protocol == "private_join_and_compute"
    hidden = with_info(catalogue, "hk-bank.credit", disclosure=Level.HIDDEN)
    with pytest.raises(QueryError, match=r"cardinality.*hk-bank\.credit") as caught:
        plan(sql, "hk-bank", hidden)
    assert caught.value.code == "protocol.level"
    single = with_info(catalogue, "sz-trade.invoices", disclosure=Level.HIDDEN)
    assert plan("SELECT count(*) FROM sz-trade.invoices", "hk-bank", single).protocol == "single_domain"


def test_missing_bounds_name_the_owner(catalogue):
    with pytest.raises(QueryError, match="ask sz-trade") as caught:
        plan(f"SELECT sum(i.big) FROM {JOIN}", "hk-bank", catalogue)
    assert caught.value.code == "query.bounds-missing"


def test_literals_never_appear_in_errors_but_columns_do(catalogue):
    with pytest.raises(QueryError, match="amount") as caught:
        plan("SELECT count(*) FROM sz-trade.invoices WHERE 李四 = 'SECRET'", "hk-bank", catalogue)
    assert "李四" not in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_row_bounds_follow_from_declared_bounds(catalogue):
    found = plan(
        f"SELECT sum(i.amount * i.days - 3 * i.lines) AS s, avg(i.rate) FROM {JOIN}", "hk-bank", catalogue
    )
    bounds = {p.scale: p.row_bound for p in found.sender.partials if p.row_bound > 1}
    assert bounds == {2: 10**8 * 1000 + 3 * 50 * 100, 3: 100_000}
    assert found.maximum_cells == 1


def test_large_sums_go_in_limbs_and_come_back_exact(catalogue, plaintext_join):
    bounds = (str(-(2**63)), str(2**63 - 1))
    columns = tuple(
        replace(c, bounds=bounds) if c.name == "big" else c for c in catalogue["sz-trade.invoices"].columns
    )
    wide = with_info(catalogue, "sz-trade.invoices", columns=columns)
    asked = plan(f"SELECT sum(i.big) AS s, var_pop(i.big) AS v, avg(i.big) AS a FROM {JOIN}", "hk-bank", wide)
    rows = asked.sender.rows_bound
    assert all(p.row_bound * rows < 2**62 for p in asked.sender.partials)
    values = [2**63 - 1, -(2**63), 2**63 - 1, -5, 7, 2**62 + 1]
    empty = {c.name: pa.nulls(6, _arrow(c)) for c in columns}
    invoices = pa.table({**empty, "company": ["a"] * 6, "big": values, "lines": [0] * 6})
    credit = pa.table({"company": ["a"], "branch": [1], "grade": ["x"], "score": [1], "active": [True]})
    limits = Limits(threads=1)
    inputs = (
        join_input(asked.receiver, wide["hk-bank.credit"], credit, limits),
        join_input(asked.sender, wide["sz-trade.invoices"], invoices, limits),
    )
    answer = finish(asked, plaintext_join(asked, *inputs)).to_pylist()[0]
    mean = Decimal(sum(values)) / 6
    assert int(answer["s"]) == sum(values)
    assert answer["a"] == float(mean)
    assert answer["v"] == pytest.approx(float(sum((v - mean) ** 2 for v in values) / 6), rel=1e-15)


def test_numbers_beyond_53_bits_travel_as_text(catalogue):
    asked = plan("SELECT sum(big) FROM sz-trade.invoices", "hk-bank", catalogue)
    assert b'"row_bound":"9223372036854775808"' in asked.canonical()


def _arrow(column: Column) -> pa.DataType:
    return parse_type(column.type).arrow


def test_values_beyond_their_bounds_are_clamped(catalogue, answer):
    columns = catalogue["sz-trade.invoices"].columns
    rows = {c.name: pa.nulls(3, _arrow(c)) for c in columns}
    rows |= {
        "lines": pa.array([0, 0, 0], pa.int64()),
        "days": pa.array([5000, -5000, 1], pa.int64()),
        "rate": pa.array([float("inf"), float("-inf"), float("nan")]),
        "amount": pa.array([Decimal("9999999999.99"), Decimal("1.00"), None], pa.decimal128(12, 2)),
    }
    found = answer(
        "SELECT sum(days) a, sum(rate) b, count(rate) c, avg(rate) d, sum(amount) e FROM sz-trade.invoices",
        {"sz-trade.invoices": pa.table(rows)},
    )
    assert found.to_pylist() == [{"a": 1, "b": 0.0, "c": 3, "d": 0.0, "e": Decimal("1000001.00")}]


def test_equal_aggregates_share_partials(catalogue):
    found = plan(
        f"SELECT sum(i.days), avg(i.days), count(i.days), sum(i.days) / count(*), stddev(i.days) FROM {JOIN}",
        "hk-bank",
        catalogue,
    )
    assert len(found.sender.partials) == 4  # present, sum, rows, squares


def test_the_answers_schema_is_known_before(catalogue):
    found = plan(
        f"SELECT c.grade AS g, sum(i.amount) AS s, avg(i.days) > 3 AS b FROM {JOIN} GROUP BY 1",
        "hk-bank",
        catalogue,
    )
    assert answer_schema(found) == pa.schema(
        [("g", pa.string()), ("s", pa.decimal128(38, 2)), ("b", pa.bool_())]
    )
    none = pa.schema([("d0", pa.string()), ("identities", pa.int64())]).empty_table()
    sums = {p.name: pa.nulls(0, pa.decimal128(38, 0)) for p in found.sender.partials}
    empty = pa.table({**{n: none[n] for n in none.column_names}, **sums})
    assert finish(found, Cells(empty, 3)).schema == answer_schema(found)


def test_a_division_by_zero_is_null_and_an_average_of_nothing_too(answer, catalogue):
    columns = catalogue["sz-trade.invoices"].columns
    rows = {c.name: pa.nulls(2, _arrow(c)) for c in columns} | {"lines": pa.array([0, 0], pa.int64())}
    found = answer(
        "SELECT sum(days) AS s, sum(lines) / count(days) AS r, avg(days) AS a FROM sz-trade.invoices",
        {"sz-trade.invoices": pa.table(rows)},
    )
    assert found.to_pylist() == [{"s": None, "r": None, "a": None}]


def test_a_protocol_that_cannot_hold_the_sums_is_passed_over(catalogue):
    def refuse(*_):
        raise QueryError("query.overflow", "too large")

    sql = f"SELECT sum(i.days) FROM {JOIN}"
    able = [p for p in PROTOCOLS if p.joint]
    crippled = [replace(p, parameters=refuse) if p.name == "psi_aggregate" else p for p in able]
    assert prepare(sql, "hk-bank", catalogue, crippled).plan.protocol == "private_join_and_compute"
    with pytest.raises(QueryError, match="too large"):
        prepare(sql, "hk-bank", catalogue, [replace(p, parameters=refuse) for p in able])


def test_the_asker_may_name_the_protocol(catalogue):
    sql = f"SELECT sum(i.days) FROM {JOIN}"
    assert prepare(sql, "hk-bank", catalogue).plan.protocol == "psi_aggregate"
    named = prepare(sql, "hk-bank", catalogue, candidates("private_join_and_compute"))
    assert (named.plan.protocol, named.protocol.name) == ("private_join_and_compute",) * 2
    assert candidates() == candidates("") == PROTOCOLS


STRICT = "sz-trade.invoices tolerates at most 'cardinality'"
UNFIT = "answers no question of this shape"


@pytest.mark.parametrize(
    ("name", "sql", "code", "said"),
    [
        ("he_summ", f"SELECT count(*) FROM {JOIN}", "protocol.unknown", "there are single_domain, psi_aggregate"),
        ("he_sum", f"SELECT count(*) FROM {JOIN}", "protocol.none", f"he_sum {UNFIT}"),
        ("psi_list", f"SELECT count(*) FROM {JOIN}", "protocol.none", f"psi_list {UNFIT}"),
        ("psi_count", "SELECT count(*) FROM sz-trade.invoices", "protocol.none", f"psi_count {UNFIT}"),
        ("psi_count", f"SELECT sum(i.days) FROM {JOIN}", "plan.not-a-count", "keys that do not repeat"),
        ("private_join_and_compute", f"SELECT sum(c.score) FROM {JOIN}", "query.weighted-not-available", "'receiver'; name that one or none, or"),
    ],
)  # fmt: skip
def test_why_a_named_protocol_does_not_answer(catalogue, name, sql, code, said):
    with pytest.raises(QueryError) as refused:
        prepare(sql, "hk-bank", catalogue, candidates(name))
    assert refused.value.code == code
    assert said in refused.value.sentence


def test_a_named_protocol_discloses_no_more_than_the_owner_tolerates(catalogue):
    strict = with_info(catalogue, "sz-trade.invoices", disclosure=Level.CARDINALITY)
    with pytest.raises(QueryError) as refused:
        prepare(f"SELECT count(*) FROM {JOIN}", "hk-bank", strict, candidates("psi_aggregate"))
    assert refused.value.code == "protocol.level"
    assert refused.value.sentence.startswith(f"psi_aggregate needs disclosure level 'receiver'; {STRICT}")


def test_descriptions_that_mean_nothing_are_refused(catalogue):
    def refused(code, **changes):
        columns = tuple(
            replace(c, **changes) if c.name == "days" else c for c in catalogue["sz-trade.invoices"].columns
        )
        with pytest.raises(ConfigError) as caught:
            plan(
                f"SELECT count(*) FROM {JOIN}",
                "hk-bank",
                with_info(catalogue, "sz-trade.invoices", columns=columns),
            )
        assert caught.value.code == code

    refused("dataset.type", type="decimal(40,2)")
    refused("dataset.type", type="blob")
    refused("dataset.bounds", bounds=("1e9", "2"))
    refused("dataset.bounds", bounds=("a", "b"))
    refused("dataset.bounds", bounds=("5", "1"))
    refused("dataset.bounds", bounds=("0", "9" * 60))
    refused("dataset.scale", scale=3)
    refused("dataset.scale", type="float64", scale=10**9)
    refused("key.type", type="float64", key=())
    refused("dataset.columns", name="AMOUNT")


@pytest.mark.parametrize(
    "rest", ["WHERE c.active", "GROUP BY c.grade", "WHERE c.company = 'x'", "GROUP BY lower(c.grade)"]
)
def test_after_a_semi_join_the_right_side_is_gone(catalogue, rest):
    sql = (
        f"SELECT count(*) FROM sz-trade.invoices i SEMI JOIN hk-bank.credit c ON i.company = c.company {rest}"
    )
    with pytest.raises(QueryError) as caught:
        plan(sql, "hk-bank", catalogue)
    assert caught.value.code == "query.semi-join"


def test_a_column_named_like_the_other_sides_key_is_no_key(catalogue):
    columns = (*catalogue["hk-bank.credit"].columns, Column("firm", "string", key=()))
    renamed = tuple(
        replace(c, name={"company": "firm", "industry": "company"}.get(c.name, c.name))
        for c in catalogue["sz-trade.invoices"].columns
    )
    other = with_info(
        with_info(catalogue, "sz-trade.invoices", columns=renamed), "hk-bank.credit", columns=columns
    )
    sql = "SELECT count(i.company) AS n FROM sz-trade.invoices i JOIN hk-bank.credit c ON i.firm = c.company"
    assert any('"company" IS NOT NULL' in p.sql for p in plan(sql, "hk-bank", other).sender.partials)
    key = sql.replace("i.company", "i.firm")
    assert [p.sql for p in plan(key, "hk-bank", other).sender.partials] == ["CAST(1 AS BIGINT)"]


def test_group_by_all_leaves_literals_alone(catalogue):
    found = plan(
        "SELECT 'x' AS label, industry, count(*) FROM sz-trade.invoices GROUP BY ALL", "hk-bank", catalogue
    )
    assert [d.sql for d in found.sender.dimensions] == ['"industry"']


def test_the_planned_cells_shrink_until_the_protocol_can_hold_them(catalogue):
    def picky(_receiver, _sender, cells):
        if cells > 300:
            raise QueryError("plan.selection-sum-does-not-fit", "too large")
        return {"cells": cells}

    able = [replace(p, parameters=picky, cost=lambda _: Cost(1.0, 1)) for p in PROTOCOLS if p.joint]
    sql = f"SELECT i.industry, count(*) FROM {JOIN} GROUP BY 1"
    assert prepare(sql, "hk-bank", catalogue, able).plan.maximum_cells == 256
    assert prepare(f"SELECT count(*) FROM {JOIN}", "hk-bank", catalogue, able).plan.maximum_cells == 1
