"""Every answer equals DuckDB over the pooled tables: types, NULLs, values; figures of any size are exact."""

# ruff: noqa: E501 - one question a line

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compute.errors import QueryError

INVOICES = pa.schema(
    [
        ("company", pa.string()),
        ("branch", pa.int64()),
        ("amount", pa.decimal128(12, 2)),
        ("days", pa.int64()),
        ("big", pa.int64()),
        ("rate", pa.float64()),
        ("loose", pa.float64()),
        ("paid", pa.bool_()),
        ("industry", pa.string()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us")),
        pa.field("lines", pa.int64(), nullable=False),
    ]
)
CREDIT = pa.schema(
    [
        ("company", pa.string()),
        ("branch", pa.int64()),
        ("grade", pa.string()),
        ("score", pa.int64()),
        ("active", pa.bool_()),
    ]
)

COMPANIES = ["深圳一号", "香港二号", "a", "A", " a", "", "公司公司", "ß", None]


def _random_invoice(r: random.Random) -> dict[str, Any]:
    def maybe(value: Any) -> Any:
        return None if r.random() < 0.15 else value

    return {
        "company": r.choice(COMPANIES),
        "branch": maybe(r.randrange(3)),
        "amount": maybe(Decimal(r.randint(-(10**8), 10**8)).scaleb(-2)),
        "days": maybe(r.choice([-1000, 1000, r.randint(-1000, 1000), r.randint(-5, 5)])),
        "big": maybe(r.choice([2**63 - 1, -(2**63), r.randint(-(2**63), 2**63 - 1)])),
        "rate": maybe(r.randint(-100_000, 100_000) / 1000),
        "loose": maybe(r.uniform(-1e6, 1e6)),
        "paid": maybe(r.random() < 0.5),
        "industry": maybe(r.choice(["茶", "钢铁", "IT", ""])),
        "day": maybe(date(1901, 1, 1) + timedelta(days=r.randrange(70_000))),
        "at": maybe(datetime(1901, 1, 1) + timedelta(microseconds=r.randrange(6 * 10**15))),
        "lines": r.randint(0, 50),
    }


def _random_credit(r: random.Random, *, unique: bool) -> list[dict[str, Any]]:
    places = [(company, branch) for company in COMPANIES[:-2] for branch in ([0] if unique else range(3))]
    return [
        {
            "company": company,
            "branch": branch,
            "grade": r.choice(["甲", "乙", None]),
            "score": r.choice([None, r.randint(0, 1000)]),
            "active": r.choice([True, False, None]),
        }
        for company, branch in places
    ] + [{"company": None, "branch": 1, "grade": "甲", "score": 1, "active": True}]


def tables(rows: int, seed: int, *, unique: bool = True) -> dict[str, pa.Table]:
    r = random.Random(seed)
    credit = _random_credit(r, unique=unique) if rows else []
    return {
        "sz-trade.invoices": pa.Table.from_pylist([_random_invoice(r) for _ in range(rows)], INVOICES),
        "hk-bank.credit": pa.Table.from_pylist(credit, CREDIT),
    }


def ordered(table: pa.Table) -> list[tuple]:
    rows = [tuple(row.values()) for row in table.to_pylist()]
    return sorted(rows, key=lambda row: [(v is None, str(type(v)), v if v is not None else 0) for v in row])


def same(mine: pa.Table, theirs: pa.Table) -> None:
    assert mine.schema.types == theirs.schema.types
    assert mine.num_rows == theirs.num_rows
    for left, right in zip(ordered(mine), ordered(theirs), strict=True):
        for a, b in zip(left, right, strict=True):
            if isinstance(a, float) and isinstance(b, float):
                close = math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-7)
                assert close or (math.isnan(a) and math.isnan(b)), (left, right)
            else:
                assert a == b, (left, right)


FROM = 'FROM "sz-trade".invoices i JOIN "hk-bank".credit c ON i.company = c.company'
BOTH_KEYS = 'FROM "sz-trade".invoices i JOIN "hk-bank".credit c USING (company, branch)'

JOINT = [
    f"SELECT count(*) AS n, sum(i.amount) AS s, avg(i.days) AS a {FROM}",
    f"SELECT c.grade, i.industry, count(*) n, count(i.days), sum(i.days), sum(i.lines) {FROM} GROUP BY 1, 2",
    f"SELECT date_trunc('month', i.day) AS m, avg(i.amount) AS a {FROM} GROUP BY m",
    f"SELECT extract(year FROM i.at) AS y, quarter(i.day) AS q, count(*) {FROM} GROUP BY ALL",
    f"SELECT c.active, sum(i.rate) AS s, avg(i.rate) {FROM} WHERE i.days BETWEEN -500 AND 500 GROUP BY c.active",
    f"SELECT i.industry, count(DISTINCT c.company) AS k {FROM} GROUP BY i.industry",
    f"SELECT i.industry, sum(i.amount * (1 - i.rate)) AS s {FROM} GROUP BY i.industry",
    f"SELECT sum(CASE WHEN i.paid THEN i.amount ELSE 0 END) AS s, count(*) FILTER (WHERE i.days > 3) AS n {FROM}",
    f"SELECT c.grade, sum(i.days) FILTER (WHERE i.industry IN ('茶', 'IT')) AS s {FROM} GROUP BY 1",
    f"SELECT i.days < 0 AS early, count(*) AS n {FROM} WHERE i.company LIKE '%号' OR i.company = 'a' GROUP BY early",
    f"SELECT c.grade AS g, sum(i.amount) / count(*) AS r, count(*) * 2 + 1 AS x {FROM} GROUP BY g",
    f"SELECT var_samp(i.days) a, var_pop(i.amount) b, stddev(i.rate) c, stddev_pop(i.days) d {FROM}",
    f"SELECT covar_pop(i.days, i.lines) a, covar_samp(i.days, i.amount) b, corr(i.amount, i.days) c {FROM}",
    f"SELECT coalesce(c.grade, '无') AS g, sum(coalesce(i.days, 7)) AS s {FROM} GROUP BY 1",
    f"SELECT floor(i.days / 100) AS bucket, count(*) {FROM} GROUP BY bucket HAVING count(*) > 1",
    f"SELECT i.industry, sum(i.amount) s, c.grade, avg(i.lines) {BOTH_KEYS} GROUP BY 1, 3",
    f"SELECT branch, i.paid, count(*) n, sum(i.days) s {BOTH_KEYS} GROUP BY ALL",
    'SELECT i.industry, count(*) n, sum(i.amount) s FROM "sz-trade".invoices i SEMI JOIN "hk-bank".credit c ON i.company = c.company AND c.score > 500 GROUP BY 1',
    'SELECT sum(i.days) s FROM "sz-trade".invoices i, "hk-bank".credit c WHERE i.company = c.company AND c.active',
]

SINGLE = [
    "SELECT count(*), sum(big), sum(amount), avg(days), min(day), max(industry), avg(loose) FROM T",
    'SELECT industry, paid, count(*) AS n, sum(days) AS s, min(amount), max("at") FROM T GROUP BY ALL',
    "SELECT substr(company, 1, 1) AS c, count(DISTINCT industry) AS k, sum(loose) AS s FROM T GROUP BY c",
    "SELECT CASE WHEN days < 0 THEN 'early' WHEN days < 10 THEN 'soon' ELSE 'late' END AS b, count(*) FROM T GROUP BY b",
    "SELECT date_trunc('week', \"at\") AS w, year(day) AS y, count(*) FROM T WHERE day >= DATE '1970-01-01' GROUP BY 1, 2",
    "SELECT count(*) FROM T WHERE day < DATE '2000-02-29' + INTERVAL '1' YEAR AND NOT (paid OR days IS NULL)",
    "SELECT count(*) FROM T WHERE big > 9223372036854775806 OR big = -9223372036854775808",
    "SELECT round(amount, 1) AS r, ceil(rate) AS c, count(*) FROM T GROUP BY 1, 2",
    "SELECT var_samp(days), stddev(loose), corr(days, lines), regr_slope(days, lines), regr_r2(days, lines) FROM T",
    "SELECT industry, lines, regr_slope(days, lines), regr_intercept(days, lines), regr_r2(days, lines) FROM T GROUP BY ALL",
    "SELECT regr_intercept(amount, days), covar_samp(rate, days), var_pop(rate) FROM T",
    "SELECT lower(industry) AS l, upper(industry) AS u, length(company) AS n, count(paid) FROM T GROUP BY ALL",
    "SELECT days // 7 AS w, days % 7 AS d, count(paid) AS p FROM T GROUP BY ALL",
    "SELECT nullif(industry, 'IT') AS i, greatest(days, lines) AS g, sum(lines) FROM T GROUP BY ALL",
    "SELECT industry FROM T WHERE amount > 1.5 AND rate <> 0 AND days < 2.5 GROUP BY industry",
    "SELECT sum(paid) AS p, sum(-days + 2 * lines) AS x, avg(amount - days) AS y FROM T",
    "SELECT count(*) FROM T WHERE industry IS DISTINCT FROM 'IT' AND paid IS NOT TRUE AND amount = days",
]


@pytest.mark.parametrize("sql", JOINT)
def test_joint_equals_pooled(sql, answer, pooled):
    unique = "USING (company, branch)" not in sql and "SEMI" not in sql
    data = tables(300, len(sql), unique=unique)
    same(answer(sql, data), pooled(sql, data))


@pytest.mark.parametrize("sql", SINGLE)
def test_single_domain_equals_plain(sql, answer, pooled):
    sql = sql.replace("FROM T", 'FROM "sz-trade".invoices')
    data = {"sz-trade.invoices": tables(300, len(sql))["sz-trade.invoices"]}
    same(answer(sql, data), pooled(sql, data))


@pytest.mark.parametrize("sql", [JOINT[0], JOINT[1], JOINT[11], SINGLE[0], SINGLE[1], SINGLE[8]])
def test_empty_tables_answer_like_sql(sql, answer, pooled):
    sql = sql.replace("FROM T", 'FROM "sz-trade".invoices')
    same(answer(sql, tables(0, 0)), pooled(sql, tables(0, 0)))


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.integers(1, 12), seed=st.integers(0, 10**9))
def test_small_random_tables(rows, seed, answer, pooled):
    sql = f"SELECT c.grade, i.industry, count(*) n, sum(i.amount) s, avg(i.days) a {FROM} GROUP BY 1, 2"
    same(answer(sql, tables(rows, seed)), pooled(sql, tables(rows, seed)))


def test_one_row_has_no_sample_variance(answer, pooled):
    sql = 'SELECT var_samp(days) a, stddev(days) b, var_pop(days) c, covar_samp(days, lines) d FROM "sz-trade".invoices'
    one = [{"days": 3, "lines": 1}]
    data = {"sz-trade.invoices": pa.Table.from_pylist(one, INVOICES)}
    same(answer(sql, data), pooled(sql, data))


FIGURES = [
    f"SELECT c.grade, sum(i.days) * sum(i.lines) AS a, coalesce(sum(i.amount), 0) * 3 - count(*) AS b, -count(*) + 1 AS c, abs(sum(i.days)) * 2 AS d {FROM} GROUP BY 1",
    f"SELECT (sum(i.amount) + 0.5) * (count(*) - 2) AS a, floor(sum(i.amount)) * 10 AS b, CASE WHEN count(*) > 3 THEN sum(i.days) ELSE 7 END * 2 AS c, nullif(count(*), 0) * 2 AS d {FROM}",
    f"SELECT year(i.day) * 100 + month(i.day) AS ym, count(*) n {FROM} GROUP BY year(i.day), month(i.day)",
    'SELECT CAST(max(big) AS DOUBLE) - min(big) AS span, max(days) - min(days) AS small, CAST(sum(big) AS DOUBLE) * sum(big) AS s, sum(big) * CAST(1e30 AS DOUBLE) AS t FROM "sz-trade".invoices',
]


@pytest.mark.parametrize("sql", FIGURES)
def test_arithmetic_over_figures(sql, answer, pooled):
    data = tables(300, len(sql))
    data = data if "hk-bank" in sql else {"sz-trade.invoices": data["sz-trade.invoices"]}
    same(answer(sql, data), pooled(sql, data))


INVOICED = 'FROM "sz-trade".invoices'
WIDEST = {"sz-trade.invoices": pa.Table.from_pylist([{"big": -(2**63)}, {"big": 2**63 - 1}], INVOICES)}


@pytest.mark.parametrize(
    "rest", ["max(big) - min(big) AS x FROM T", "-min(big) AS x FROM T", "big * 2 AS x FROM T GROUP BY big"]
)
def test_what_leaves_64_bits_is_an_error_and_never_null(rest, answer):
    """Nobody declares how large MIN, MAX and the values of a group are; DuckDB fails on these too."""
    with pytest.raises(QueryError, match="AS DOUBLE") as caught:
        answer(f"SELECT {rest}".replace("FROM T", INVOICED), WIDEST)
    assert caught.value.code == "query.overflow"


Known = dict[str, Fraction | None]
WHOLE = ["sum(days)", "sum(amount)", "sum(big)", "count(*)", "count(days)", "3", "0.25", "123456789012"]


def _calculated(r: random.Random, depth: int) -> tuple[str, Callable[[Known], Fraction | None]]:
    """Random arithmetic over figures, and what it is in whole numbers of any size."""
    if not depth:
        leaf = r.choice(WHOLE)
        return leaf, lambda known: known[leaf] if leaf in known else Fraction(leaf)
    (a, f), (b, g), sign = _calculated(r, depth - 1), _calculated(r, r.randrange(depth)), r.choice("+-*")

    def both(known: Known) -> Fraction | None:
        x, y = f(known), g(known)
        return None if x is None or y is None else {"+": x + y, "-": x - y, "*": x * y}[sign]

    def first(known: Known) -> Fraction | None:
        x = f(known)
        return Fraction(15, 2) if x is None else -abs(x)

    return r.choice([(f"({a} {sign} {b})", both), (f"coalesce(-abs({a}), 7.5)", first)])


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(40))
def test_random_arithmetic_over_figures_is_exact_or_refused(seed, answer):
    r = random.Random(seed)
    sql, exactly = _calculated(r, 3)
    largest = {"days": 1000, "amount": Decimal(10**6), "big": 2**63 - 1, "lines": 0}
    rows = [{k: v * r.choice([-1, 1, 1]) for k, v in largest.items()} for _ in range(r.choice([0, 1, 40]))]
    known: Known = {f"sum({k})": sum((Fraction(row[k]) for row in rows), Fraction(0)) for k in largest}
    known |= dict.fromkeys(("count(*)", "count(days)"), Fraction(len(rows)))
    known = known if rows else {k: None if "sum" in k else Fraction(0) for k in known}
    data = {"sz-trade.invoices": pa.Table.from_pylist(rows, INVOICES)}
    try:
        found = answer(f"SELECT {sql} AS x, count(*) AS n {INVOICED}", data).column("x").to_pylist()
    except QueryError as refused:
        found = refused.sentence
    if isinstance(found, str):
        assert found.startswith("in SELECT item 1: this arithmetic over figures can leave")
    else:
        assert [None if x is None else Fraction(x) for x in found] == [exactly(known)]


def test_arithmetic_is_compared_at_full_size(answer):
    sql = f"SELECT big, count(*) AS n {INVOICED} GROUP BY big HAVING big * 2 > 0"
    assert answer(sql, WIDEST).column("n").to_pylist() == [1]


def test_order_having_and_limit(answer, pooled):
    data = tables(300, 7)
    sql = f"SELECT i.industry AS x, count(*) AS n, sum(i.days) {FROM} GROUP BY x HAVING sum(i.lines) > 10 ORDER BY 2 DESC, x"
    mine, theirs = answer(f"{sql} LIMIT 3", data), pooled(f"{sql} LIMIT 3", data)
    assert mine.column("n").to_pylist() == theirs.column("n").to_pylist()
    assert mine.column("x").to_pylist() == theirs.column("x").to_pylist()


def test_answers_have_an_order_of_their_own(answer):
    """Ties and questions without ORDER BY come out the same every time, by the dimensions."""
    sql = f"SELECT i.industry AS x, count(*) AS n {FROM} GROUP BY x"
    assert answer(sql, tables(300, 7)).column("x").to_pylist() == ["", "IT", "茶", "钢铁", None]


class Questions:
    """Random questions over a small grammar of what docs/reference/sql.md allows."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)

    def number(self) -> str:
        column = self.r.choice(["i.days", "i.LINES", "i.amount", "i.rate"])
        return self.r.choice([column, column, f"({column} * 2 - 7)", f"coalesce({column}, 0)", f"-{column}"])

    def text(self) -> str:
        column = self.r.choice(["i.industry", "i.company"])
        whole = [column, f"lower({column})", f"substr({column}, 1, 1)", f"coalesce({column}, '无')"]
        return self.r.choice([*whole, f"nullif({column}, 'a')"])

    def condition(self, depth: int = 0) -> str:
        if depth < 3 and self.r.random() < 0.5:
            left, right = self.condition(depth + 1), self.condition(depth + 1)
            return self.r.choice(
                [f"({left} AND {right})", f"({left} OR {right})", f"NOT ({left})", f"NOT {left}"]
            )
        other = self.r.choice(["3", "-0.5", "NULL", self.number()])
        sign = self.r.choice(["=", "<>", "<", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"])
        plain = [f"{self.number()} {sign} {other}", f"{self.number()} NOT BETWEEN -100 AND 50"]
        texts = [
            f"{self.text()} NOT IN ('a', '茶')",
            f"{self.text()} ILIKE '_'",
            f"{self.text()} IN (NULL, 'IT')",
        ]
        truths = ["i.paid", "i.paid IS NOT TRUE", f"{self.number()} IS NULL", "coalesce(i.paid, FALSE)"]
        return self.r.choice([*plain, *texts, *truths, "i.day >= DATE '1999-01-31' + INTERVAL '1' MONTH"])

    def dimension(self) -> str:
        case = f"CASE WHEN {self.condition(2)} THEN {self.text()} ELSE '其他' END"
        dates = ["date_trunc('quarter', i.day)", "year(i.at)", "date_trunc('week', i.at)"]
        return self.r.choice([self.text(), f"({self.condition(2)})", case, "i.branch", *dates])

    def figure(self) -> str:
        plain = ["count(*)", f"count({self.text()})", f"sum({self.number()})", f"avg({self.number()})"]
        case = f"sum(CASE WHEN {self.condition(2)} THEN i.amount ELSE 0 END)"
        return self.r.choice(
            [*plain, case, f"sum(i.lines) FILTER (WHERE {self.condition(2)})", "var_pop(i.days)"]
        )

    def sql(self, source: str) -> str:
        dimensions = [self.dimension() for _ in range(self.r.randrange(3))]
        items = [*dimensions, self.figure(), self.figure()]
        named = ", ".join(f"{item} AS x{i}" for i, item in enumerate(items))
        having = self.r.choice(["", "", " HAVING count(i.days) > 1"])
        where = f" WHERE {self.condition()} AND {self.condition(2)}"
        group = f" GROUP BY {', '.join(map(str, range(1, len(dimensions) + 1)))}" if dimensions else ""
        return f"SELECT {named} {source}{where}{group}{having}"


@pytest.mark.parametrize("seed", range(24))
def test_random_questions_equal_pooled(seed, answer, pooled):
    source = [
        FROM,
        f"{FROM} AND c.score > 300",
        'FROM "sz-trade".invoices i',
        FROM.replace("JOIN", "SEMI JOIN"),
    ][seed % 4]
    sql = Questions(seed).sql(source).replace("i.at", 'i."at"')
    data = tables(80, seed)
    same(answer(sql, data), pooled(sql, data))
