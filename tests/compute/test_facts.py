"""Facts: nothing a query does with a column stays hidden from the policies."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from compute.facts import bytes_at_most, rows_at_most
from compute.planner import prepare
from policy_enforcer.facts import ColumnUse
from policy_enforcer.obligations import NOTHING_DEMANDED

JOIN = "sz-trade.invoices i JOIN hk-bank.credit c ON i.company = c.company"
AT = datetime(2026, 11, 21, tzinfo=UTC)


def facts(catalogue, sql, dataset="sz-trade.invoices"):
    return {use.column: use for use in prepare(sql, "hk-bank", catalogue).uses[dataset]}


def single(catalogue, expression):
    return facts(catalogue, f"SELECT {expression} FROM sz-trade.invoices")


def where(catalogue, predicate):
    return facts(catalogue, f"SELECT count(*) FROM sz-trade.invoices WHERE {predicate}")


@pytest.mark.parametrize(
    ("predicate", "column", "how", "literal", "other"),
    [
        ("days = 1", "days", {"equality"}, True, False),
        ("days <> 1", "days", {"equality"}, True, False),
        ("days >= 1", "days", {"range"}, True, False),
        ("days BETWEEN 1 AND 2", "days", {"range"}, True, False),
        ("days IN (1, 2)", "days", {"membership"}, True, False),
        ("days IS NOT NULL", "days", {"null"}, False, False),
        ("company LIKE '深%'", "company", {"pattern"}, True, False),
        ("company NOT ILIKE '深%'", "company", {"pattern"}, True, False),
        ("paid", "paid", {"equality"}, True, False),
        ("NOT paid", "paid", {"equality"}, True, False),
        ("NOT (paid)", "paid", {"equality"}, True, False),
        ("coalesce(paid, FALSE)", "paid", {"equality"}, True, False),
        ("(paid) OR if(days > 1, FALSE, ((paid)))", "paid", {"equality"}, True, False),
        ("paid IS TRUE", "paid", {"equality"}, True, False),
        ("days > lines", "days", {"range"}, False, True),
        ("days IS DISTINCT FROM lines", "lines", {"equality"}, False, True),
        (
            "days = 1 OR (days > 5 AND NOT days IN (7))",
            "days",
            {"equality", "range", "membership"},
            True,
            False,
        ),
        ("nullif(days, 3) IS NULL", "days", {"equality", "null"}, True, False),
    ],
)
def test_filters(catalogue, predicate, column, how, literal, other):
    use = where(catalogue, predicate)[column]
    assert use.filtered == how
    assert (use.compared_with_literal, use.compared_with_column) == (literal, other)


def test_functions_are_named(catalogue):
    found = facts(
        catalogue,
        "SELECT date_trunc('month', day) AS m, year(day) AS y, upper(substr(industry, 1, 2)) AS s, "
        "CASE WHEN days + 1 > 3 THEN 'a' END AS c, sum(amount * coalesce(lines, 0)) AS t, count(*) "
        "FROM sz-trade.invoices GROUP BY 1, 2, 3, 4",
    )
    assert found["day"].functions == {"date_trunc", "extract"}
    assert found["industry"].functions == {"upper", "substr"}
    assert found["days"].functions == {"arithmetic", "case"}
    assert found["days"].filtered == {"range"}
    assert found["amount"].functions == {"arithmetic", "product"}
    assert found["lines"].functions == {"arithmetic", "coalesce", "product"}
    assert all(found[c].grouped for c in ("day", "industry", "days"))
    assert found["amount"].aggregated == found["lines"].aggregated == {"sum"}


@pytest.mark.parametrize(
    ("aggregate", "column", "word"),
    [
        ("sum(days)", "days", "sum"),
        ("avg(amount)", "amount", "avg"),
        ("count(industry)", "industry", "count"),
        ("count(DISTINCT industry)", "industry", "count_distinct"),
        ("min(day)", "day", "min"),
        ("max(company)", "company", "max"),
        ("var_samp(days)", "days", "var"),
        ("stddev_pop(days)", "days", "stddev"),
        ("corr(days, lines)", "lines", "corr"),
        ("regr_slope(days, lines)", "days", "regr"),
        ("covar_samp(days, lines)", "days", "covar"),
        ("sum(loose)", "loose", "sum"),
    ],
)
def test_aggregates(catalogue, aggregate, column, word):
    assert single(catalogue, aggregate)[column] == ColumnUse(column, aggregated=frozenset({word}))


@pytest.mark.parametrize(
    "aggregate",
    [
        "sum(CASE WHEN company = 'x' THEN amount ELSE 0 END)",
        "sum(if(company = 'x', amount, 0))",
        "sum(amount) FILTER (WHERE company = 'x')",
        "avg(CASE company WHEN 'x' THEN amount END)",
        "sum(amount * CASE WHEN company = 'x' THEN 1 ELSE 0 END)",
        "count(CASE WHEN company = 'x' THEN 1 END)",
        "count(nullif(company, 'x'))",
        "count(DISTINCT if(company = 'x', days, 0))",
        "min(CASE company WHEN 'x' THEN days END)",
        "avg(CASE WHEN company = 'x' THEN loose END)",
    ],
)
def test_predicates_inside_aggregates_are_noted(catalogue, aggregate):
    company = single(catalogue, aggregate)["company"]
    assert company.conditional or company.selecting
    assert company.compared_with_literal
    assert company.filtered == {"equality"}


@pytest.mark.parametrize(
    ("aggregate", "marks"),
    [
        ("count(*) FILTER (WHERE days > 3)", {"selecting"}),
        ("count_if(days > 3)", {"selecting"}),
        ("sum(amount) FILTER (WHERE days > 3)", {"selecting"}),
        ("sum(CASE WHEN days > 3 THEN amount END)", {"conditional"}),
        ("sum(CASE WHEN days > 3 THEN amount ELSE NULL END)", {"conditional"}),
        ("sum(if(days > 3, amount, NULL))", {"conditional"}),
        ("sum(CASE WHEN days > 3 THEN amount ELSE 0 END)", {"conditional"}),
        ("count(CASE WHEN days > 3 THEN 1 END)", {"conditional"}),
        ("sum(coalesce(days, 0)) FILTER (WHERE days > 3)", {"conditional", "selecting"}),
    ],
)
def test_which_rows_count_and_which_value_are_told_apart(catalogue, aggregate, marks):
    """Of rows that are left out nobody counts for a minimum; of rows with another value everybody does."""
    days = single(catalogue, aggregate)["days"]
    assert days.compared_with_literal
    assert {mark for mark in ("conditional", "selecting") if getattr(days, mark)} == marks


@pytest.mark.parametrize(
    ("aggregate", "mark"),
    [
        ("count(*) FILTER (WHERE c.active AND (i.days > 3 AND c.score > 1))", "selecting"),
        ("sum(c.score) FILTER (WHERE i.days > 3 AND c.active)", "selecting"),
        ("sum(CASE WHEN c.active AND i.days > 3 THEN 1 END)", "conditional"),
        ("sum(CASE WHEN c.active AND i.days > 3 THEN 1 ELSE 0 END)", "conditional"),
        ("sum(CASE WHEN c.active THEN i.days END)", "conditional"),
    ],
)
def test_a_condition_on_both_sides_inside_an_aggregate_is_one_on_each(catalogue, aggregate, mark):
    asked = f"SELECT {aggregate} FROM {JOIN}"
    assert getattr(facts(catalogue, asked)["days"], mark)
    assert getattr(facts(catalogue, asked, "hk-bank.credit")["active"], mark)


@pytest.mark.parametrize(
    "aggregate",
    [
        "sum(coalesce(days, 0))",
        "avg(amount * coalesce(days, 1))",
        "max(coalesce(days, 0))",
        "min(greatest(days, 0))",
        "count(DISTINCT least(days, 9))",
        "max(coalesce(days, loose))",
    ],
)
def test_a_value_in_place_of_null_inside_an_aggregate_is_a_predicate(catalogue, aggregate):
    """Rows without a value would count for the minimum, and one value among NULLs would be shown."""
    assert single(catalogue, aggregate)["days"].conditional


@pytest.mark.parametrize(
    ("aggregate", "conditional"),
    [
        ("count(DISTINCT loose * 1e37)", True),
        ("count(DISTINCT loose / 1e-37)", True),
        ("max(loose - 1)", True),
        ("count(DISTINCT loose)", False),
    ],
)
def test_what_is_infinite_for_large_values_is_a_predicate(catalogue, aggregate, conditional):
    """How many different values are left tells how many lie above a limit of the asker's choice."""
    assert single(catalogue, aggregate)["loose"].conditional == conditional


def test_a_value_in_place_of_null_outside_aggregates_is_none(catalogue):
    found = facts(
        catalogue,
        "SELECT coalesce(days, 0) AS d, coalesce(sum(amount), 0) AS s FROM sz-trade.invoices GROUP BY 1",
    )
    assert not any(use.conditional for use in found.values())


def test_only_the_predicates_own_columns_are_marked(catalogue):
    found = single(catalogue, "avg(CASE WHEN paid THEN loose END), sum(days)")
    assert found["paid"].conditional
    assert not found["days"].conditional


def test_joins_and_the_other_side(catalogue):
    sql = f"SELECT c.grade, count(*) FROM {JOIN} WHERE c.score > 5 GROUP BY 1 ORDER BY 1"
    mine, theirs = facts(catalogue, sql, "hk-bank.credit"), facts(catalogue, sql)
    assert mine["company"].joined
    assert theirs["company"].joined
    assert mine["grade"].grouped
    assert mine["score"].filtered == {"range"}
    assert set(theirs) == {"company", "*"}
    assert theirs["*"] == ColumnUse("*", aggregated=frozenset({"count"}))


@pytest.mark.parametrize(
    ("predicate", "marked"),
    [
        ("1 = 1", True),
        ("TRUE", True),
        ("days > 3 OR 1 = 1", True),
        ("days > 3 OR TRUE", True),
        ("days = days", True),
        ("NULL", True),
        ("'a' IN ('a')", True),
        ("coalesce(NULL, TRUE)", True),
        ("1 BETWEEN 0 AND 2", True),
        ("days > 3", False),
        ("days = lines", False),
        ("days IS NULL", False),
    ],
)
def test_constant_predicates_are_marked(catalogue, predicate, marked):
    prepared = prepare(f"SELECT count(*) FROM sz-trade.invoices WHERE {predicate}", "hk-bank", catalogue)
    assert prepared.literals_on_total is marked


@pytest.mark.parametrize(
    ("aggregate", "column", "word"),
    [("count(c.company)", "*", "count"), ("count(DISTINCT c.company)", "company", "count_distinct")],
)
def test_counting_by_the_askers_key_is_noted_for_the_owner(catalogue, aggregate, column, word):
    found = facts(catalogue, f"SELECT {aggregate} FROM {JOIN}")
    assert found[column].aggregated == {word}


def test_requests_for_both_policies(catalogue):
    prepared = prepare(f"SELECT c.grade, sum(i.amount) FROM {JOIN} GROUP BY 1", "hk-bank", catalogue)
    found = prepared.requests(
        recipients=frozenset({"hk-bank"}),
        purpose="credit-risk",
        at=AT,
        witnesses=1,
        processing=frozenset({"HK"}),
    )
    invoices, credit = found["sz-trade.invoices"], found["hk-bank.credit"]
    assert (invoices.owner, invoices.asker, invoices.joint, invoices.asker_data) == (
        "sz-trade",
        "hk-bank",
        True,
        True,
    )
    assert (credit.owner, credit.peer_keys, invoices.peer_keys) == ("hk-bank", 1000, 1000)
    assert invoices.identity_columns == credit.identity_columns == ("company",)
    assert invoices.protocol.name == prepared.plan.protocol
    assert invoices.protocol.reveals == prepared.plan.reveals
    assert invoices.join_operators == frozenset()
    assert (invoices.purpose, invoices.witnesses, invoices.at) == ("credit-risk", 1, AT)
    assert invoices.grades == {}  # nobody graded a column


def test_composite_keys_do_not_pass_for_identities_of_one_part(catalogue):
    sql = "SELECT count(*) FROM sz-trade.invoices i JOIN hk-bank.credit c USING (company, branch)"
    request = prepare(sql, "hk-bank", catalogue).requests(recipients=frozenset(), purpose=None, at=AT)
    assert request["sz-trade.invoices"].identity_columns == ()
    assert request["sz-trade.invoices"].join_operators == {"and"}


def test_alone_any_column_can_be_the_identity(catalogue):
    prepared = prepare("SELECT count(*) FROM sz-trade.invoices", "hk-bank", catalogue)
    request = prepared.requests(recipients=frozenset(), purpose=None, at=AT)["sz-trade.invoices"]
    assert "company" in request.identity_columns
    assert (request.joint, request.asker_data, request.peer_keys) == (False, False, 0)


def test_no_literal_is_in_the_facts(catalogue):
    sql = f"SELECT count(*) FROM {JOIN} WHERE i.industry = 'SECRET' AND i.days IN (424242)"
    prepared = prepare(sql, "hk-bank", catalogue)
    shown = repr(prepared.uses) + repr(prepared.requests(recipients=frozenset(), purpose=None, at=AT))
    assert "SECRET" not in shown
    assert "424242" not in shown


LIMITED = replace(NOTHING_DEMANDED, answers_limited=True, domains={"industry": ("food", "steel", "retail")})


@pytest.mark.parametrize(
    ("groups", "demands", "rows"),
    [
        ("", LIMITED, 1),
        ("GROUP BY industry", LIMITED, 4),
        ("GROUP BY industry, paid LIMIT 1", LIMITED, 12),
        ("GROUP BY industry, width_bucket(days, [0, 30])", LIMITED, 16),
        ("GROUP BY industry, upper(industry)", LIMITED, 10_000),
        ("GROUP BY branch", LIMITED, 10_000),
        ("GROUP BY industry", replace(LIMITED, answers_limited=False), 10_000),
    ],
)
def test_alone_an_answer_is_charged_by_the_groups_there_can_be(catalogue, groups, demands, rows):
    sql = f"SELECT count(*), sum(amount) FROM sz-trade.invoices {groups}"
    plan = prepare(sql, "hk-bank", catalogue, demands={"sz-trade.invoices": demands}).plan
    assert rows_at_most(plan) == rows
    if rows < 10_000:
        assert plan.maximum_cells == rows  # more groups do not leave
        assert 200 * bytes_at_most(plan) <= 10_000_000  # the example in docs/reference/policy.md


def test_joint_an_answer_is_charged_by_the_room_of_its_protocol(catalogue):
    sql = f"SELECT i.industry, count(*) FROM {JOIN} GROUP BY 1"
    plan = prepare(sql, "hk-bank", catalogue, demands={"sz-trade.invoices": LIMITED}).plan
    assert rows_at_most(plan) == plan.maximum_cells > 4


def test_a_minimum_holds_for_the_figures_that_count_values(catalogue):
    sql = (
        "SELECT count(days), count(*), sum(lines), sum(CASE WHEN paid THEN 1 ELSE 0 END), "
        "count(*) FILTER (WHERE paid) FROM sz-trade.invoices"
    )

    def marked(minimum):
        demands = replace(NOTHING_DEMANDED, identity="company", minimum_identities=minimum)
        plan = prepare(sql, "hk-bank", catalogue, demands={"sz-trade.invoices": demands}).plan
        return [p.sql for p in plan.sender.partials if p.counts_values]

    assert len(marked(2)) == 2
    assert all(sql.endswith("THEN 1 ELSE 0 END") for sql in marked(2))
    assert marked(1) == []
