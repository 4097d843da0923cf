"""Hostile and unsupported SQL is refused by a stable code, and nothing that was typed comes back."""

# ruff: noqa: E501 - one question a line

from __future__ import annotations

import logging
import re

import pytest

from compute.errors import QueryError
from compute.planner import prepare
from compute.sql import MAX_BYTES, parse

T = "sz-trade.invoices"
JOIN = "sz-trade.invoices i JOIN hk-bank.credit c ON i.company = c.company"

HOSTILE = {
    # statements
    "COPY sz-trade.invoices TO 'SECRET.csv'": "query.",
    "ATTACH 'SECRET.db' AS x": "query.not-a-select",
    "INSTALL httpfs": "query.",
    "LOAD httpfs": "query.",
    "PRAGMA database_list": "query.not-a-select",
    "SET threads = 1": "query.not-a-select",
    "EXPLAIN SELECT 1": "query.not-a-select",
    "CREATE TABLE x AS SELECT 1": "query.not-a-select",
    "DROP TABLE x": "query.not-a-select",
    "INSERT INTO x VALUES ('SECRET')": "query.not-a-select",
    "DELETE FROM x": "query.not-a-select",
    "UPDATE x SET a = 'SECRET'": "query.not-a-select",
    "CALL pragma_version()": "query.not-a-select",
    f"SELECT count(*) FROM {T}; SELECT count(*) FROM {T}": "query.one-statement",
    f"SELECT count(*) FROM {T}; DROP TABLE x": "query.one-statement",
    "": "query.one-statement",
    "SELECT FROM WHERE 'SECRET": "query.syntax",
    "VALUES ('SECRET')": "query.",
    "TABLE x": "query.",
    f"SELECT count(*) FROM {T} UNION SELECT 1": "query.not-a-select",
    f"(SELECT count(*) FROM {T})": "query.not-a-select",
    # sources
    "SELECT count(*)": "query.no-dataset",
    "SELECT count(*) FROM 'SECRET.csv'": "query.no-dataset",
    'SELECT count(*) FROM "/etc/passwd"': "query.no-dataset",
    "SELECT count(*) FROM read_csv('SECRET.csv')": "query.",
    "SELECT count(*) FROM range(10)": "query.",
    "SELECT count(*) FROM glob('*')": "query.",
    "SELECT count(*) FROM duckdb_settings()": "query.",
    "SELECT count(*) FROM information_schema.tables": "query.unknown-dataset",
    "SELECT count(*) FROM a.b.c.d": "query.",
    "SELECT count(*) FROM sz-trade.nothing": "query.unknown-dataset",
    "SELECT count(*) FROM (SELECT 1)": "query.no-dataset",
    f"SELECT count(*) FROM (SELECT * FROM {T} UNION SELECT * FROM {T})": "query.derived",
    f"SELECT count(*) FROM ({T})": "query.syntax",
    f"SELECT (SELECT count(*) FROM {T}) FROM {T}": "query.construct",
    f"SELECT sum(d) FROM (SELECT error('SECRET') AS d FROM {T})": "query.",
    f"WITH SECRET AS (SELECT read_csv('SECRET') AS d FROM {T}) SELECT sum(d) FROM SECRET": "query.",
    "WITH x AS (SELECT * FROM glob('SECRET')) SELECT count(*) FROM x": "query.",
    f"WITH x AS (DELETE FROM {T} RETURNING *) SELECT count(*) FROM x": "query.",
    f"SELECT count(*) FROM {T} TABLESAMPLE 5": "query.construct",
    f"SELECT count(*) FROM {T} USING SAMPLE 5": "query.construct",
    f"SELECT count(*) FROM {T} AS t(a, b)": "query.construct",
    f"SELECT count(*) FROM {T} PIVOT (sum(days) FOR paid IN (true))": "query.construct",
    f"SELECT count(*) FROM {T}, LATERAL (SELECT 1)": "query.",
    f"SELECT count(*) FROM {T} i, hk-bank.credit c, hk-bank.credit d": "query.join",
    f"SELECT count(*) FROM {T} i LEFT JOIN hk-bank.credit c ON i.company = c.company": "query.left-join",
    f"SELECT count(*) FROM {T} i CROSS JOIN hk-bank.credit c": "query.join",
    f"SELECT count(*) FROM {T} i NATURAL JOIN hk-bank.credit c": "query.join",
    f"SELECT count(*) FROM {T} i FULL JOIN hk-bank.credit c USING (company)": "query.join",
    f"SELECT count(*) FROM {T} i ASOF JOIN hk-bank.credit c ON i.company = c.company": "query.join",
    f"SELECT count(*) FROM {T} i POSITIONAL JOIN hk-bank.credit c": "query.join",
    f"SELECT count(*) FROM {T} i JOIN hk-bank.credit i ON i.company = i.company": "query.alias",
    f"SELECT count(*) FROM {T} i, hk-bank.credit c": "query.no-join-key",
    f"SELECT count(*) FROM {T} i JOIN {T} j ON i.company = j.company": "query.asker-not-joined",
    "SELECT count(*) FROM hk-bank.credit i JOIN hk-bank.credit j ON i.company = j.company": "query.one-party",
    # rows
    f"SELECT * FROM {T}": "query.",
    f"SELECT company FROM {T}": "query.not-grouped",
    f"SELECT DISTINCT company FROM {T}": "query.construct",
    f"SELECT company, count(*) FROM {T}": "query.not-grouped",
    f"SELECT COLUMNS(*) FROM {T}": "query.",
    f"SELECT count(*), i.* FROM {T} i": "query.",
    f"SELECT #1 FROM {T}": "query.",
    f"SELECT first(company) FROM {T}": "query.construct",
    f"SELECT any_value(company) FROM {T}": "query.construct",
    f"SELECT string_agg(company, ',') FROM {T}": "query.construct",
    f"SELECT list(company) FROM {T}": "query.",
    f"SELECT arg_max(company, days) FROM {T}": "query.construct",
    f"SELECT median(days) FROM {T}": "query.construct",
    f"SELECT mode(company) FROM {T}": "query.",
    f"SELECT approx_count_distinct(company) FROM {T}": "query.construct",
    f"SELECT histogram(company) FROM {T}": "query.",
    f"SELECT count(*) OVER () FROM {T}": "query.construct",
    f"SELECT row_number() OVER (ORDER BY days) FROM {T}": "query.construct",
    f"SELECT count(*) FROM {T} QUALIFY row_number() OVER () = 1": "query.construct",
    # functions and expressions
    f"SELECT count(*) FROM {T} WHERE error('SECRET') IS NULL": "query.",
    f"SELECT count(*) FROM {T} WHERE getenv('HOME') = 'SECRET'": "query.function",
    f"SELECT count(*) FROM {T} WHERE CAST(company AS BIGINT) > 0": "query.cast",
    f"SELECT count(*) FROM {T} WHERE company::INT > 0": "query.cast",
    f"SELECT count(*) FROM {T} WHERE TRY_CAST(company AS INT) > 0": "query.",
    f"SELECT count(*) FROM {T} WHERE 1 / days > 0": "query.division",
    f"SELECT count(*) FROM {T} WHERE days / 0 > 0": "query.division",
    f"SELECT count(*) FROM {T} WHERE days IN (SELECT score FROM hk-bank.credit)": "query.not-a-key",
    f"SELECT count(*) FROM {T} WHERE EXISTS (SELECT 1)": "query.no-dataset",
    f"SELECT count(*) FROM {T} WHERE days = ?": "query.construct",
    f"SELECT count(*) FROM {T} WHERE days = $1": "query.construct",
    f"SELECT count(*) FROM {T} WHERE company ~ 'SECRET'": "query.construct",
    f"SELECT count(*) FROM {T} WHERE company SIMILAR TO 'SECRET'": "query.",
    f"SELECT count(*) FROM {T} WHERE company LIKE industry": "query.pattern",
    f"SELECT count(*) FROM {T} WHERE company LIKE 'x' ESCAPE '!'": "query.construct",
    f"SELECT count(*) FROM {T} WHERE company || industry = 'SECRET'": "query.construct",
    f"SELECT count(*) FROM {T} WHERE company = 5": "query.type",
    f"SELECT count(*) FROM {T} WHERE days = 'SECRET'": "query.type",
    f"SELECT count(*) FROM {T} WHERE day = 'SECRET'": "query.literal",
    f"SELECT count(*) FROM {T} WHERE day = DATE '2024-02-30'": "query.literal",
    f"SELECT count(*) FROM {T} WHERE company": "query.type",
    f'SELECT count(*) FROM {T} WHERE "SECRET" = 1': "query.unknown-column",
    f"SELECT count(*) FROM {T} WHERE SECRET.days = 1": "query.unknown-column",
    f"SELECT count(*) FROM {T} WHERE days = 0x10": "query.syntax",
    f"SELECT count(*) FROM {T} WHERE company = e'SECRET\\n'": "query.construct",
    f"SELECT count(*) FROM {T} WHERE [1, 2] = [1, 2]": "query.expression",
    f"SELECT count(*) FROM {T} WHERE {{'a': 1}} IS NULL": "query.construct",
    f"SELECT count(*) FROM {T} WHERE sum(days) > 1": "query.expression",
    f"SELECT count(*) FROM {T} WHERE random() < 0.5": "query.",
    f"SELECT count(*) FROM {T} WHERE current_date > day": "query.",
    f"SELECT count(*) FROM {T} WHERE now() > at": "query.",
    f"SELECT count(*) FROM {T} WHERE company = '\x00'": "query.syntax",
    f"SELECT count(*) FROM {T} WHERE company = '\ud800'": "query.syntax",
    f"SELECT sum(sum(days)) FROM {T}": "query.measure",
    f"SELECT sum(DISTINCT days) FROM {T}": "query.",
    f"SELECT sum(days ORDER BY days) FROM {T}": "query.",
    f"SELECT count(company, days) FROM {T}": "query.construct",
    f"SELECT sum(company) FROM {T}": "query.type",
    f"SELECT avg(1) FROM {T}": "query.measure",
    f"SELECT sum(round(amount)) FROM {T}": "query.measure",
    # shape
    f"SELECT count(*) FROM {T} GROUP BY 3": "query.ordinal",
    f"SELECT count(*) FROM {T} GROUP BY 1": "query.group",
    f"SELECT count(*) FROM {T} GROUP BY 'SECRET'": "query.ordinal",
    f"SELECT paid, count(*) FROM {T} GROUP BY ROLLUP (paid)": "query.construct",
    f"SELECT paid, count(*) FROM {T} GROUP BY CUBE (paid)": "query.construct",
    f"SELECT paid, count(*) FROM {T} GROUP BY GROUPING SETS ((paid), ())": "query.construct",
    f"SELECT count(*) FROM {T} LIMIT 5 OFFSET 2": "query.construct",
    f"SELECT count(*) FROM {T} LIMIT 5%": "query.construct",
    f"SELECT count(*) FROM {T} LIMIT (SELECT 1)": "query.",
    f"SELECT count(*) FROM {T} ORDER BY 4": "query.ordinal",
    f"SELECT count(*) FROM {T} ORDER BY ALL": "query.",
    f"SELECT count(*) FROM {T} ORDER BY days": "query.not-grouped",
    f"SELECT count(*) FROM {T} FOR UPDATE": "query.construct",
    f"SELECT count(*) INTO x FROM {T}": "query.construct",
    # joins
    f"SELECT count(*) FROM {JOIN} WHERE i.days > c.score": "query.both-sides",
    f"SELECT count(*) FROM {JOIN} OR 1 = 1": "query.both-sides",
    f"SELECT count(*) FROM {T} i JOIN hk-bank.credit c ON i.company = c.company OR i.branch = c.branch": "query.both-sides",
    f"SELECT count(*) FROM {T} i JOIN hk-bank.credit c ON i.company <> c.company": "query.both-sides",
    f"SELECT count(*) FROM {T} i JOIN hk-bank.credit c ON lower(i.company) = c.company": "query.both-sides",
    f"SELECT count(*) FROM {T} i JOIN hk-bank.credit c ON i.industry = c.grade": "query.not-a-key",
    f"SELECT count(*) FROM {T} i JOIN hk-bank.credit c ON i.company = c.branch": "query.key-mismatch",
    f"SELECT count(*) FROM {T} i JOIN hk-bank.credit c USING (days)": "query.unknown-column",
    f"SELECT company FROM {JOIN} GROUP BY company": "query.ambiguous-column",
    f"SELECT sum(CASE WHEN c.active THEN i.days ELSE 0 END) FROM {JOIN}": "query.weighted-not-available",
    f"SELECT min(i.days) FROM {JOIN}": "query.extreme-joint",
    f"SELECT count(DISTINCT i.industry) FROM {JOIN}": "query.count-distinct",
    f"SELECT sum(i.big) FROM {JOIN}": "query.bounds-missing",
    f"SELECT sum(big) * sum(big) FROM {T}": "query.overflow",
    f"SELECT count(*) FROM {T} HAVING sum(big) * coalesce(sum(big), 0) > 1": "query.overflow",
    f"SELECT count(*) FROM {T} ORDER BY count(*) * count(*) * count(*) * count(*) * count(*)": "query.overflow",
    f"SELECT avg(i.loose) FROM {JOIN}": "query.bounds-missing",
    "SELECT avg((loose - 3) * 1e37) FROM sz-trade.invoices": "query.bounds-missing",
    "SELECT sum(coalesce(-(loose * 2), 0)) FROM sz-trade.invoices": "query.bounds-missing",
    "SELECT var_pop(CASE WHEN paid THEN loose / 3 END) FROM sz-trade.invoices": "query.measure",
    "SELECT var_pop(if(paid, loose, loose + days)) FROM sz-trade.invoices": "query.bounds-missing",
}


@pytest.mark.parametrize("sql", HOSTILE)
def test_refused_by_code_and_without_what_was_typed(sql, catalogue, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(QueryError) as caught:
        prepare(sql, "hk-bank", catalogue)
    assert caught.value.code.startswith(HOSTILE[sql])
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "SECRET" not in caplog.text


ADVICE = {
    "SELECT * FROM {join}": "name the columns",
    "SELECT i.* FROM {join}": "name the columns",
    "SELECT count(*) FROM {join} WHERE count(*) > 3": "HAVING",
    "SELECT count(*) FROM {join} WHERE i.day + 1 > i.day": "INTERVAL",
    "SELECT count(*) FROM {join} WHERE i.at > now()": "TIMESTAMP '",
    "SELECT count(*) FROM {join} WHERE i.day > current_date": "DATE '",
    "SELECT count(*) FROM {join} WHERE i.at AT TIME ZONE 'UTC' > '2024-01-01'": "without zone",
    "SELECT count(*) FROM {join} WHERE i.at > TIMESTAMPTZ '2024-01-01 00:00:00+08'": "no zone",
    "SELECT count(*) FROM {join} WHERE i.paid OR c.active": "HAVING",
    "SELECT count(*) FROM {join} WHERE lower(i.company) = lower(c.company)": "normalisers",
    "SELECT count(*) FROM {join} WHERE (i.company, i.branch) = (c.company, c.branch)": "joined by AND",
    "SELECT sum(i.days::INT) FROM {join}": "without a cast",
    "SELECT avg(i.days)::DECIMAL(9,2) FROM {join}": "round(",
    "SELECT sum(DISTINCT i.days) FROM {join}": "group by",
    "SELECT sum(i.days ORDER BY i.days) FROM {join}": "leave it out",
    "SELECT sum(i.days > 3) FROM {join}": "FILTER",
    "SELECT count(i.days, c.score) FROM {join}": "one column",
    "SELECT i.paid AS x, c.active AS x, count(*) FROM {join} GROUP BY ALL ORDER BY x": "alias",
    "SELECT sum(i.days) % 7 FROM {join}": "floor(",
    "SELECT count(*) FROM {join} WHERE i.industry = $$x$$": "single quotes",
    "SELECT i.paid, count(*) FROM {join} GROUP BY 1 ORDER BY ALL": "ORDER BY 1, 2",
    "SELECT NULL AS x, count(*) FROM {join}": "write a value",
    "SELECT bool_and(i.paid) FROM {join}": "COUNT(*) FILTER",
    "SELECT count(*) FROM {join} WHERE i.paid = 1": "a truth value and a number",
    "SELECT coalesce(i.industry, c.grade) AS x, count(*) FROM {join} GROUP BY 1": "put together in SELECT",
    "SELECT sum(i.amount) * sum(i.amount) * sum(i.amount) * sum(i.amount) FROM {join}": "AS DOUBLE",
    "SELECT count(*)\nFROM {join}\nWHERE (i.days": "near line 3, column",
    "SELECT count(*) FROM {join} WHERE i.industry = 'x": "has no end",
    "SELECT count(*) FROM {join} WHERE i.nothing = 1": "in WHERE: a column is named",
    "SELECT sum(i.nothing) FROM {join}": "in SELECT item 1: a column is named",
    "SELECT count(*) FROM {join} GROUP BY company": "in GROUP BY item 1: company exists in both",
    "SELECT count(*) FROM {join} HAVING sum(i.big) > 1": "in HAVING: sz-trade.invoices declares no bounds",
    "SELECT sum(CASE WHEN c.active THEN i.days WHEN i.paid THEN 1 END) FROM {join}": "multiply by a CASE",
}


@pytest.mark.parametrize("sql", ADVICE)
def test_a_refusal_names_what_works_instead(sql, catalogue):
    with pytest.raises(QueryError, match=re.escape(ADVICE[sql])):
        prepare(sql.format(join=JOIN), "hk-bank", catalogue)


BOMBS = {
    "parentheses": "SELECT count(*) FROM sz-trade.invoices WHERE " + "(" * 3000 + "1=1" + ")" * 3000,
    "not": "SELECT count(*) FROM sz-trade.invoices WHERE " + "NOT " * 5000 + "paid",
    "minus": "SELECT count(*) FROM sz-trade.invoices WHERE days = " + "- " * 5000 + "1",
    "case": "SELECT " + "CASE WHEN paid THEN " * 900 + "1" + " END" * 900 + " FROM sz-trade.invoices",
    "or": "SELECT count(*) FROM sz-trade.invoices WHERE " + " OR ".join(["days = 1"] * 2000),
    "plus": "SELECT sum(" + " + ".join(["days"] * 3000) + ") FROM sz-trade.invoices",
    "joins": "SELECT count(*) FROM sz-trade.invoices " + "JOIN hk-bank.credit USING (company) " * 500,
    "nested": "SELECT " * 2000,
    "brackets": "SELECT " + "[" * 4000,
    "long": "SELECT count(*) FROM sz-trade.invoices -- " + "x" * MAX_BYTES,
    "tokens": "SELECT count(*) FROM sz-trade.invoices WHERE days IN (" + "1," * 20000 + "1)",
    "items": "SELECT " + ",".join(["count(*)"] * 500) + " FROM sz-trade.invoices",
    "digits": "SELECT count(*) FROM sz-trade.invoices WHERE days = " + "9" * 20000,
    "exponent": "SELECT count(*) FROM sz-trade.invoices WHERE days = 1e999999999",
    "product": "SELECT sum(" + " * ".join(["amount"] * 20) + ") FROM sz-trade.invoices",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name, catalogue):
    with pytest.raises(QueryError):
        prepare(BOMBS[name], "hk-bank", catalogue)


def test_conjunctions_may_be_long(catalogue):
    where = " AND ".join(f"days <> {n}" for n in range(100))
    assert (
        len(prepare(f"SELECT count(*) FROM {T} WHERE {where}", "hk-bank", catalogue).plan.sender.filters)
        == 100
    )


@pytest.mark.parametrize(
    "source",
    [
        "sz-trade.invoices",
        '"sz-trade".invoices',
        '"sz-trade"."invoices"',
        "SZ-Trade.Invoices",
        "/* who */ sz-trade.invoices AS x",
        "sz-trade . invoices",
    ],
)
def test_datasets_can_be_named_without_quotes(source, catalogue):
    plan = prepare(f"SELECT count(*) FROM {source} -- a comment", "hk-bank", catalogue).plan
    assert plan.sender.dataset == "sz-trade.invoices"


def test_hyphens_outside_from_are_still_subtraction():
    select = parse("SELECT sum(a-b.c) FROM x-1.y b WHERE a-b.c > 1 GROUP BY a-b.c").select
    assert select[0].node.sql() == "SUM(a - b.c)"


def test_names_of_answers_are_unique_and_readable():
    items = parse(
        "SELECT a AS 行业, count(*), count(*), sum(b), sum(b), 1 + sum(c), count(*) FROM p.d"
    ).select
    names = [item.name for item in items]
    assert names[:4] == ["行业", "count_star()", "count_star()_1", "sum(b)"]
    others = parse("SELECT count(DISTINCT a), count(a), var_pop(b), stddev(b) FROM p.d").select
    assert [item.name for item in others] == ["count(DISTINCT a)", "count(a)", "var_pop(b)", "stddev(b)"]
    assert len(set(names)) == len(names)
