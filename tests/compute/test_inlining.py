"""WITH and queries in FROM: the same plan and facts as the question over the datasets themselves."""

# ruff: noqa: E501 - one question a line

from __future__ import annotations

import random
import re
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from compute.errors import QueryError
from compute.planner import prepare
from compute.sql import MAX_BYTES
from policy_enforcer.disclosure import Level

T, C = "sz-trade.invoices", "hk-bank.credit"
DEEP = "WITH x0 AS (SELECT days AS a FROM {T})" + "".join(
    f", x{i + 1} AS (SELECT {{}} FROM x{i})" for i in range(14)
)

# A question, and the same one over the datasets themselves.
SAME = {
    f"WITH x AS (SELECT * FROM {T}) SELECT count(*) FROM x": f"SELECT count(*) FROM {T}",
    f"SELECT industry, sum(v) AS s FROM (SELECT industry, days AS v FROM {T} WHERE paid) q WHERE v > 5 GROUP BY industry": f"SELECT industry, sum(days) AS s FROM {T} WHERE paid AND days > 5 GROUP BY industry",
    f"SELECT sum(v) AS s FROM (SELECT CASE WHEN company = 'a' THEN days END AS v FROM {T})": f"SELECT sum(CASE WHEN company = 'a' THEN days END) AS s FROM {T}",
    # a name that shadows a column, a dataset, an alias of the answer
    f"SELECT sum(days) AS s FROM (SELECT amount AS days, days AS amount FROM {T}) x": f"SELECT sum(amount) AS s FROM {T}",
    f"WITH invoices AS (SELECT days FROM {T} WHERE paid) SELECT sum(days) AS s FROM invoices": f"SELECT sum(days) AS s FROM {T} WHERE paid",
    f"SELECT amount AS day, count(*) AS n FROM (SELECT industry AS amount FROM {T}) GROUP BY day": f"SELECT industry AS day, count(*) AS n FROM {T} GROUP BY industry",
    f"WITH a AS (SELECT days AS d FROM {T}), b AS (SELECT d AS days FROM a WHERE d > 1), a2 AS (SELECT days AS d FROM b) SELECT sum(d) AS s FROM a2 WHERE d < 9": f"SELECT sum(days) AS s FROM {T} WHERE days > 1 AND days < 9",
    f"WITH x(a, b) AS (SELECT industry, days FROM {T}) SELECT a, sum(b) AS s FROM x AS y GROUP BY y.a": f"SELECT industry AS a, sum(days) AS s FROM {T} GROUP BY industry",
    f"SELECT x.a, sum(x.days) AS s FROM (SELECT industry AS a, * FROM {T}) AS x GROUP BY ALL ORDER BY A": f"SELECT industry AS a, sum(days) AS s FROM {T} GROUP BY ALL ORDER BY 1",
    # joins
    f"WITH a AS (SELECT company AS k, days FROM {T} WHERE paid), b AS (SELECT company AS k, grade AS g FROM {C} WHERE active) SELECT g, sum(days) AS s FROM a JOIN b USING (k) WHERE k > 'b' GROUP BY g": f"SELECT grade AS g, sum(days) AS s FROM {T} JOIN {C} USING (company) WHERE paid AND active AND company > 'b' GROUP BY g",
    f"SELECT count(*) AS n FROM (SELECT company AS a FROM {T}) x JOIN (SELECT company AS b FROM {C}) y ON x.a = y.b": f"SELECT count(*) AS n FROM {T} i JOIN {C} c ON i.company = c.company",
    f"SELECT count(*) AS n FROM (SELECT company AS k FROM {T}) x JOIN {C} y ON k = company": f"SELECT count(*) AS n FROM {T} i JOIN {C} c ON i.company = c.company",
    f"WITH j AS (SELECT i.days AS d, c.* FROM {T} i JOIN {C} c USING (company) WHERE c.active) SELECT grade, avg(d) AS m FROM j WHERE grade <> 'x' GROUP BY grade HAVING count(*) > 3": f"SELECT grade, avg(days) AS m FROM {T} i JOIN {C} c USING (company) WHERE c.active AND grade <> 'x' GROUP BY grade HAVING count(*) > 3",
    f"SELECT count(*) AS n FROM {T} i WHERE EXISTS (SELECT 1 FROM (SELECT company AS k FROM {C} WHERE active) y WHERE y.k = i.company)": f"SELECT count(*) AS n FROM {T} i WHERE EXISTS (SELECT 1 FROM {C} y WHERE active AND y.company = i.company)",
    f"WITH y AS (SELECT company AS k FROM {C} WHERE active) SELECT sum(days) AS s FROM (SELECT * FROM {T} WHERE company NOT NULL) i WHERE company IN (SELECT k FROM y)": f"SELECT sum(days) AS s FROM {T} i WHERE company NOT NULL AND company IN (SELECT company FROM {C} WHERE active)",
    f"SELECT sum(days) AS s FROM (SELECT * FROM {T} i WHERE EXISTS (SELECT 1 FROM {C} c WHERE c.company = i.company)) WHERE paid": f"SELECT sum(days) AS s FROM {T} i WHERE EXISTS (SELECT 1 FROM {C} c WHERE c.company = i.company) AND paid",
    f"SELECT c.grade, sum(x.v) AS s, count(*) AS n FROM {C} c LEFT JOIN (SELECT company, days - 1 AS v FROM {T} WHERE paid) x USING (company) GROUP BY c.grade": f"SELECT c.grade, sum(i.days - 1) AS s, count(*) AS n FROM {C} c LEFT JOIN {T} i ON c.company = i.company AND i.paid GROUP BY c.grade",
    f"SELECT count(*) AS n FROM {T} i LEFT JOIN (SELECT company AS k FROM {C}) c ON c.k = i.company WHERE c.k IS NULL": f"SELECT count(*) AS n FROM {T} i ANTI JOIN {C} c ON c.company = i.company",
    # a list
    f"SELECT c.company, g FROM (SELECT company, grade AS g FROM {C}) c SEMI JOIN {T} i USING (company)": f"SELECT c.company, grade AS g FROM {C} c SEMI JOIN {T} i USING (company)",
}
REFUSED = {
    f"SELECT sum(days) FROM (SELECT amount AS v FROM {T})": "query.unknown-column",
    f"SELECT invoices.amount, count(*) FROM (SELECT amount FROM {T}) GROUP BY 1": "query.unknown-column",
    f"SELECT {T}.days, count(*) FROM (SELECT days FROM {T}) x GROUP BY 1": "query.unknown-column",
    f"SELECT x.company, count(*) FROM (SELECT days FROM {T}) x GROUP BY company": "query.unknown-column",
    f"SELECT count(*) FROM (SELECT days, amount AS days FROM {T}) WHERE days > 1": "query.ambiguous-column",
    f"SELECT count(*) FROM (SELECT *, days + 1 AS days FROM {T}) WHERE days > 1": "query.ambiguous-column",
    f"SELECT count(*) FROM (SELECT * FROM {T} i JOIN {C} c ON i.company = c.company) WHERE company = 'a'": "query.ambiguous-column",
    "WITH x AS (SELECT * FROM x) SELECT count(*) FROM x": "query.no-dataset",
    f"WITH x AS (SELECT * FROM y), y AS (SELECT * FROM {T}) SELECT count(*) FROM x": "query.derived",
    f"WITH x AS (SELECT * FROM {T}), x AS (SELECT * FROM {T}) SELECT count(*) FROM x": "query.alias",
    f"WITH x AS (SELECT * FROM {T}) SELECT count(*) FROM {T}": "query.derived",
    f"WITH RECURSIVE x AS (SELECT * FROM {T}) SELECT count(*) FROM x": "query.derived",
    f"WITH x AS (SELECT company, sum(days) AS s FROM {T} GROUP BY company) SELECT sum(s) FROM x": "query.derived",
    f"SELECT avg(s) FROM (SELECT sum(days) AS s FROM {T})": "query.derived",
    f"SELECT avg(s) FROM (SELECT linear_regression(days, [lines]) AS s FROM {T})": "query.derived",
    f"SELECT count(*) FROM (SELECT DISTINCT company FROM {T})": "query.derived",
    f"SELECT count(*) FROM (SELECT company FROM {T} ORDER BY days LIMIT 5)": "query.derived",
    f"SELECT count(*) FROM ((SELECT company FROM {T}) LIMIT 5)": "query.derived",
    f"SELECT sum(r) FROM (SELECT row_number() OVER (ORDER BY days) AS r FROM {T})": "query.derived",
    f"SELECT sum(r) FROM (SELECT days AS r FROM {T} QUALIFY row_number() OVER () = 1)": "query.derived",
    f"WITH x AS (SELECT days FROM {T} UNION ALL SELECT days FROM {T}) SELECT sum(days) FROM x": "query.derived",
    f"SELECT count(*) FROM (SELECT i.company FROM {T} i JOIN {C} c USING (company)) x JOIN {C} USING (company)": "query.derived",
    f"WITH x(a, b) AS (SELECT days FROM {T}) SELECT sum(a) FROM x": "query.derived",
    f"WITH x(a) AS (SELECT * FROM {T}) SELECT sum(a) FROM x": "query.derived",
    f"WITH x AS (SELECT company, days FROM {T}) SELECT count(*) FROM x JOIN x AS y USING (company)": "query.asker-not-joined",
    f"SELECT count(*) FROM {C} c, (SELECT * FROM {T} i WHERE i.company = c.company) x": "query.unknown-column",
    f"SELECT c.grade, sum(x.v) FROM {C} c LEFT JOIN (SELECT company, coalesce(days, 0) AS v FROM {T}) x USING (company) GROUP BY 1": "query.left-join",
    f"SELECT c.grade, count(x.v) FROM {C} c LEFT JOIN (SELECT company, 1 AS v FROM {T}) x USING (company) GROUP BY 1": "query.left-join",
    f"SELECT c.g, sum(i.days) FROM {T} i LEFT JOIN (SELECT company, coalesce(grade, '-') AS g FROM {C}) c USING (company) GROUP BY 1": "query.left-join",
    DEEP.format(*["a + a AS a"] * 14, T=T) + " SELECT sum(a) FROM x14": "query.too-",
    DEEP.format(*["*"] * 14, T=T)
    + ", y AS (SELECT * FROM x14), z AS (SELECT * FROM y) SELECT sum(a) FROM z": "query.too-deep",
    DEEP.format(*[f"a{' + 1' * 20} AS a"] * 14, T=T) + " SELECT sum(a) FROM x14": "query.too-deep",
    f"WITH x AS (SELECT company FROM {C}) SELECT count(*) FROM {T} WHERE "
    + " AND ".join(["company IN (SELECT company FROM x)"] * 100): "query.too-deep",
}


@pytest.mark.parametrize("question", SAME)
def test_the_plan_and_the_facts_are_those_of_the_question_written_out(question, catalogue):
    open_to_lists = {name: replace(info, disclosure=Level.ROWS) for name, info in catalogue.items()}
    shown, plain = (prepare(sql, "hk-bank", open_to_lists) for sql in (question, SAME[question]))
    assert replace(shown.plan, outputs=()) == replace(plain.plan, outputs=())
    assert [o.sql for o in shown.plan.outputs] == [o.sql for o in plain.plan.outputs]
    assert [o.name for o in shown.plan.outputs] == [o.name for o in plain.plan.outputs]
    assert (shown.uses, shown.literals_on_total) == (plain.uses, plain.literals_on_total)


@pytest.mark.parametrize("question", REFUSED)
def test_what_a_query_in_between_cannot_do_is_refused_by_name(question, catalogue):
    assert len(question) < MAX_BYTES
    with pytest.raises(QueryError) as refused:
        prepare(question, "hk-bank", catalogue)
    assert refused.value.code.startswith(REFUSED[question])


@pytest.mark.parametrize(
    ("question", "part"),
    [
        (f"SELECT sum(nothing) FROM (SELECT days FROM {T})", "SELECT item 1"),
        (f"SELECT count(*) FROM (SELECT days FROM {T} WHERE nothing > 1)", "a query of WITH or FROM"),
        (f"SELECT count(*) FROM (SELECT days FROM {T}) WHERE nothing > 1", "WHERE"),
        (f"SELECT count(*) FROM (SELECT days FROM {T}) HAVING max(nothing) > 1", "HAVING"),
        (
            f"WITH x AS (SELECT company FROM {C} WHERE grade > 1) SELECT count(*) FROM x JOIN {T} USING (company)",
            "a query of WITH or FROM",
        ),
    ],
)
def test_a_refusal_says_where(question, part, catalogue):
    with pytest.raises(QueryError, match=f"^in {part}: "):
        prepare(question, "hk-bank", catalogue)


def test_a_condition_no_row_can_change_is_noted_inside_a_query_too(catalogue):
    asked = f"WITH x AS (SELECT days FROM {T} WHERE 1 = 1) SELECT sum(days) FROM x"
    assert prepare(asked, "hk-bank", catalogue).literals_on_total


def _invoices(r: random.Random) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "company": r.choice(["a", "b", "c", None]),
            "amount": r.choice([None, Decimal(r.randint(-999, 999)).scaleb(-2)]),
            "days": r.choice([None, r.randint(-9, 9)]),
            "paid": r.choice([None, True, False]),
            "industry": r.choice(["茶", "钢", None]),
            "day": date(2024, r.randint(1, 12), 1),
        }
        for _ in range(60)
    ]
    kinds = [pa.string(), pa.decimal128(12, 2), pa.int64(), pa.bool_(), pa.string(), pa.date32()]
    return pa.Table.from_pylist(rows, pa.schema(list(zip(rows[0], kinds, strict=True))))


DIFFERENTIAL = [
    "WITH x AS (SELECT industry AS g, days * 2 AS d, amount FROM T WHERE paid), y AS (SELECT d + 1 AS days, * FROM x WHERE d > -8) SELECT g, sum(days) AS s, count(d) AS n, avg(amount) AS m FROM y GROUP BY g HAVING count(*) > 1 ORDER BY s, g",
    "SELECT b, count(*) AS n, sum(d) AS s FROM (SELECT date_trunc('quarter', day) AS b, coalesce(days, 0) AS d FROM T WHERE company IN ('a', 'b')) WHERE d BETWEEN -5 AND 7 GROUP BY b ORDER BY b",
    "SELECT upper(k) AS u, sum(a) AS s FROM (SELECT company AS k, amount AS a FROM (SELECT * FROM T WHERE NOT paid) AS t) GROUP BY u ORDER BY u",
    "WITH t(a, b) AS (SELECT days, industry FROM T), u AS (SELECT b AS a, a AS b FROM t) SELECT a, max(b) AS m, min(b) AS l FROM u WHERE b IS NOT NULL GROUP BY a ORDER BY 1",
]


@pytest.mark.parametrize("question", DIFFERENTIAL)
def test_answers_equal_duckdbs(question, catalogue, answer):
    rows = _invoices(random.Random(question))
    info = replace(
        catalogue[T], columns=tuple(c for c in catalogue[T].columns if c.name in rows.column_names)
    )
    found = answer(question.replace("FROM T", f"FROM {T}"), {T: rows}, {T: info})
    with duckdb.connect(":memory:") as connection:
        connection.register("T", rows)
        expected = connection.sql(question).to_arrow_table()
    assert found.to_pylist() == expected.to_pylist()


@pytest.mark.parametrize("function", ["bool_and", "bool_or"])
def test_what_is_advised_instead_of_truth_of_all_or_any_answers_alike(function, catalogue, answer):
    with pytest.raises(QueryError) as refused:
        prepare(f"SELECT {function}(paid) FROM {T}", "hk-bank", catalogue)
    advised = re.search(r"COUNT\(\*\) FILTER .* [=>] 0", refused.value.sentence)[0].replace("…", "paid")
    cells = {"all": [True, True], "none": [False, None], "some": [True, False, None], "known": [True, None]}
    rows = pa.table(
        {
            "industry": [name for name, values in cells.items() for _ in values],
            "paid": [value for values in cells.values() for value in values],
        }
    )
    info = replace(
        catalogue[T], columns=tuple(c for c in catalogue[T].columns if c.name in rows.column_names)
    )
    question = "SELECT industry, {} AS x FROM {} GROUP BY industry ORDER BY industry"
    found = answer(question.format(advised, T), {T: rows}, {T: info})
    with duckdb.connect(":memory:") as connection:
        connection.register("T", rows)
        expected = connection.sql(question.format(f"{function}(paid)", "T")).to_arrow_table()
    assert found.to_pylist() == expected.to_pylist()


def test_a_regression_is_named_by_what_the_question_calls_its_columns(catalogue):
    asked = f"SELECT linear_regression(y, [x, z]) FROM (SELECT days AS y, lines * 2 AS x, rate AS z FROM {T})"
    names = [output.name for output in prepare(asked, "hk-bank", catalogue).plan.outputs]
    assert names[3:] == ["intercept", "intercept_se", "x", "x_se", "z", "z_se"]
