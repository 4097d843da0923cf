"""Shapes of joint questions by the real protocols in memory: each answer equals DuckDB over both tables."""

# ruff: noqa: E501 - one question a line

from __future__ import annotations

import math
import os
import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from compute.dataset import Column, DatasetInfo
from compute.engine import Limits
from compute.errors import PeerViolation, QueryError
from compute.finish import finish
from compute.inputs import Context
from compute.local import join_input
from compute.planner import prepare
from compute.protocols._release import Gated, Kept
from compute.protocols.base import run_pair
from policy_enforcer.decide import decide
from policy_enforcer.disclosure import Level
from policy_enforcer.facts import LedgerView
from policy_enforcer.load import load

WIDE = 2**62

DEALS = DatasetInfo(
    participant="sz",
    name="deals",
    columns=(
        Column("firm", "string", key=("trim", "casefold")),
        Column("branch", "int64", key=()),
        Column("amount", "decimal(12,2)", bounds=("-1000000", "1000000")),
        Column("big", "int64", bounds=(str(-WIDE), str(WIDE))),
        Column("days", "int64", bounds=("-1000", "1000")),
        Column("paid", "bool"),
        Column("trade", "string"),
        Column("day", "date"),
    ),
    rows_bound=400,
    keys_bound=64,
    commitment="00" * 32,
    disclosure=Level.RECEIVER,
)
FIRMS = DatasetInfo(
    participant="hk",
    name="firms",
    columns=(
        Column("firm", "string", key=("trim", "casefold")),
        Column("branch", "int64", key=()),
        Column("grade", "string"),
        Column("score", "int64", bounds=("0", "1000")),
        Column("since", "date"),
    ),
    rows_bound=100,
    keys_bound=64,
    commitment="11" * 32,
    disclosure=Level.RECEIVER,
)
LIMITS = Limits(threads=1)
CATALOGUE = {info.full_name: info for info in (DEALS, FIRMS)}
NAMES = ["深圳一号", "香港二号", "a", "b", "ß", "公司", "f1", "f2", "f3", "f4", None]


def maybe(r: random.Random, value: Any) -> Any:
    return None if r.random() < 0.15 else value


def deals(r: random.Random, rows: int) -> pa.Table:
    made = [
        {
            "firm": r.choice(NAMES),
            "branch": maybe(r, r.randrange(2)),
            "amount": maybe(r, Decimal(r.randint(-(10**8), 10**8)).scaleb(-2)),
            "big": maybe(r, r.choice([WIDE, -WIDE, r.randint(-WIDE, WIDE)])),
            "days": maybe(r, r.randint(-1000, 1000)),
            "paid": maybe(r, r.random() < 0.5),
            "trade": maybe(r, r.choice(["茶", "钢铁", "IT"])),
            "day": maybe(r, date(1901, 1, 1) + timedelta(days=r.randrange(50_000))),
        }
        for _ in range(rows)
    ]
    return pa.Table.from_pylist(made, schema(DEALS))


def firms(r: random.Random, rows: int) -> pa.Table:
    """Every key once, and two rows without one."""
    places = [(name, branch) for name in NAMES[:-1] for branch in (0, 1)]
    r.shuffle(places)
    once = list({name: (name, branch) for name, branch in places}.values())
    made = [
        {
            "firm": name,
            "branch": branch,
            "grade": maybe(r, r.choice(["甲", "乙"])),
            "score": maybe(r, r.randint(0, 1000)),
            "since": maybe(r, date(1950, 1, 1) + timedelta(days=r.randrange(30_000))),
        }
        for name, branch in [*once[: max(0, rows - 2)], *([(None, 1), (None, None)] if rows else [])]
    ]
    return pa.Table.from_pylist(made, schema(FIRMS))


def schema(info: DatasetInfo) -> pa.Schema:
    kinds = {"string": pa.string(), "int64": pa.int64(), "bool": pa.bool_(), "date": pa.date32()}
    return pa.schema([(c.name, kinds.get(c.type, pa.decimal128(12, 2))) for c in info.columns])


def pair(seed: int, rows: int = 120, own: int = 9) -> dict[str, pa.Table]:
    r = random.Random(seed)
    return {"sz.deals": deals(r, rows), "hk.firms": firms(r, own)}


def run(
    sql: str,
    tables: dict[str, pa.Table],
    *,
    level: Level = Level.RECEIVER,
    minimum: int = 1,
    asker: str = "hk",
    catalogue: tuple[DatasetInfo, ...] = (DEALS, FIRMS),
) -> tuple[pa.Table, Any]:
    """The answer of a joint question, and what the owner counted."""
    infos = {info.full_name: replace(info, disclosure=level) for info in catalogue}
    prepared = prepare(sql, asker, infos)
    plan = prepared.plan
    assert plan.receiver is not None
    own, theirs = (
        join_input(side, infos[side.dataset], tables[side.dataset], LIMITS)
        for side in (plan.receiver, plan.sender)
    )
    context = Context(b"s" * 32, plan, os.urandom, lambda *_: None, minimum)
    cells, summary = run_pair(
        prepared.protocol.receiver(context, own),
        prepared.protocol.sender(context, theirs, lambda counts: counts >= minimum),
    )
    assert summary.released == cells.table.num_rows
    return finish(plan, cells, LIMITS), (summary, cells)


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    rows = [tuple(row.values()) for row in table.to_pylist()]
    return sorted(rows, key=lambda row: [(v is None, str(type(v)), v if v is not None else 0) for v in row])


def same(mine: pa.Table, theirs: pa.Table) -> None:
    assert mine.schema.types == theirs.schema.types
    assert mine.num_rows == theirs.num_rows
    for left, right in zip(rows_of(mine), rows_of(theirs), strict=True):
        for a, b in zip(left, right, strict=True):
            if isinstance(a, float) and isinstance(b, float):
                assert math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-7) or (math.isnan(a) and math.isnan(b))
            else:
                assert a == b, (left, right)


SEMI = [
    "SELECT d.trade, count(*) n, sum(d.amount) s, avg(d.days) a FROM sz.deals d SEMI JOIN hk.firms f ON d.firm = f.firm GROUP BY 1",
    "SELECT trade, count(*) n, sum(big) s FROM sz.deals SEMI JOIN hk.firms USING (firm) GROUP BY trade",
    "SELECT trade, count(*) n FROM sz.deals d WHERE EXISTS (SELECT 1 FROM hk.firms f WHERE f.firm = d.firm AND f.score > 300 AND grade = '甲') GROUP BY 1",
    "SELECT trade, count(*) n FROM sz.deals d WHERE days > 0 AND NOT NOT EXISTS (SELECT * FROM hk.firms f WHERE f.firm = d.firm AND f.branch = d.branch) GROUP BY 1",
    "SELECT count(*) n, sum(days) s FROM sz.deals WHERE firm IN (SELECT firm FROM hk.firms WHERE score > 300)",
    "SELECT count(*) n, sum(days) s FROM sz.deals WHERE ((firm, branch) IN (SELECT DISTINCT firm, branch FROM hk.firms WHERE score IS NOT NULL)) AND paid",
    # rows of the asker that have a match
    "SELECT grade, count(*) n FROM hk.firms f SEMI JOIN sz.deals d ON f.firm = d.firm GROUP BY 1",
    "SELECT grade, count(*) n, count(DISTINCT firm) k FROM hk.firms WHERE firm IN (SELECT firm FROM sz.deals WHERE days > 0) GROUP BY 1",
    "SELECT year(since) AS y, count(1) AS n FROM hk.firms f WHERE EXISTS (SELECT 1 FROM sz.deals d WHERE d.firm = f.firm AND d.paid) AND score < 900 GROUP BY y ORDER BY n DESC, y LIMIT 3",
]


@pytest.mark.parametrize("level", [Level.RECEIVER, Level.CARDINALITY])
@pytest.mark.parametrize("sql", SEMI)
def test_rows_with_a_match(sql, level, pooled):
    tables = pair(len(sql))
    plain = {**tables, "sz.deals": casefolded(tables["sz.deals"]), "hk.firms": casefolded(tables["hk.firms"])}
    same(run(sql, tables, level=level)[0], pooled(sql, plain))


def casefolded(table: pa.Table) -> pa.Table:
    """The table with its key as the declared normalisers leave it."""
    folded = [v.strip().casefold() if v is not None else None for v in table["firm"].to_pylist()]
    return table.set_column(table.schema.get_field_index("firm"), "firm", pa.array(folded, pa.string()))


ANTI = [
    # rows of the owner without a match: those without a key too
    "SELECT count(*) n, sum(d.amount) s, avg(d.days) a, var_pop(d.days) v FROM sz.deals d ANTI JOIN hk.firms f ON d.firm = f.firm",
    "SELECT d.trade, count(*) n, sum(d.big) s, count(d.days) c, count(DISTINCT d.firm) k FROM sz.deals d ANTI JOIN hk.firms f ON d.firm = f.firm AND f.score > 500 GROUP BY 1",
    "SELECT trade, date_trunc('year', day) AS y, count(*) n FROM sz.deals d WHERE NOT EXISTS (SELECT 1 FROM hk.firms WHERE firm = d.firm AND branch = d.branch) AND days > 0 GROUP BY 1, 2",
    "SELECT d.trade, sum(d.amount) s FROM sz.deals d LEFT JOIN hk.firms f USING (firm) WHERE f.firm IS NULL GROUP BY 1 HAVING count(*) > 2 ORDER BY s DESC, 1 LIMIT 2",
    # rows of the asker without a match
    "SELECT grade, count(*) n, sum(score) s, avg(score) a, count(DISTINCT firm) k FROM hk.firms f ANTI JOIN sz.deals d ON d.firm = f.firm GROUP BY 1",
    "SELECT count(*) n, count(firm) k, count(score) c, stddev_samp(score) v FROM hk.firms f WHERE NOT EXISTS (SELECT 1 FROM sz.deals d WHERE d.firm = f.firm AND d.days > 900) AND since > DATE '1955-01-01'",
    "SELECT grade, sum(score) FILTER (WHERE f.branch = 1) s, count(*) n FROM sz.deals d RIGHT JOIN hk.firms f ON d.firm = f.firm AND d.paid WHERE d.firm IS NULL GROUP BY 1",
]
LEFT = [
    # the owner's rows are kept
    "SELECT f.grade, count(*) n, sum(d.amount) s, avg(d.days) a FROM sz.deals d LEFT JOIN hk.firms f ON d.firm = f.firm GROUP BY 1",
    "SELECT coalesce(f.grade, '无') AS g, d.trade, count(*) n, sum(d.big) s, count(DISTINCT d.firm) k FROM sz.deals d LEFT OUTER JOIN hk.firms f ON d.firm = f.firm AND f.score > 300 WHERE d.days > -500 GROUP BY 1, 2",
    "SELECT f.score IS NULL AS unknown, count(d.amount) n, max_days FROM sz.deals d LEFT JOIN hk.firms f ON d.firm = f.firm GROUP BY 1".replace(
        ", max_days", ""
    ),
    # the asker's rows are kept
    "SELECT grade, count(*) n, count(d.firm) m, sum(d.amount) s, avg(d.days) a, count(d.paid) p FROM hk.firms f LEFT JOIN sz.deals d ON d.firm = f.firm GROUP BY 1",
    "SELECT f.grade, count(*) n, sum(f.score) s, avg(f.score) a, coalesce(sum(d.amount), 0) t, count(DISTINCT f.firm) k, count(DISTINCT d.firm) m FROM hk.firms f LEFT JOIN sz.deals d ON d.firm = f.firm AND d.days > 500 GROUP BY 1",
    "SELECT f.grade, count(*) n, sum(d.days) FILTER (WHERE d.amount > 0) s, sum(d.days * f.score) x FROM sz.deals d RIGHT JOIN hk.firms f USING (firm) WHERE f.branch = 1 GROUP BY 1",
    "SELECT count(*) FILTER (WHERE d.paid) p, sum(coalesce(f.score, f.score, 0)) s FROM hk.firms f LEFT JOIN sz.deals d ON d.firm = f.firm",
    "SELECT count(*) n, sum(d.big) s, count(f.score) c FROM hk.firms f LEFT JOIN sz.deals d ON d.firm = f.firm AND d.branch = f.branch",
]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.deep) for seed in range(1, 4))])
@pytest.mark.parametrize("sql", [*ANTI, *LEFT])
def test_rows_without_a_match(sql, seed, pooled):
    tables = pair(seed + len(sql), own=7)
    plain = {name: casefolded(table) for name, table in tables.items()}
    same(run(sql, tables)[0], pooled(sql, plain))


BRANCHES = "CASE WHEN f.score > 500 THEN d.days WHEN f.grade = '甲' THEN d.days * 2 ELSE 0 END"


@pytest.mark.parametrize(
    "instead",
    [
        "coalesce(sum(d.days) FILTER (WHERE f.score > 500), 0) + coalesce(sum(d.days * 2) FILTER (WHERE f.grade = '甲' AND (f.score > 500) IS NOT TRUE), 0)",
        "sum(d.days * CASE WHEN f.score > 500 THEN 1 WHEN f.grade = '甲' THEN 2 ELSE 0 END)",
    ],
)
def test_a_case_over_both_sides_is_refused_for_what_gives_the_same(instead, pooled):
    sql = "SELECT d.trade, {} AS s FROM sz.deals d JOIN hk.firms f ON d.firm = f.firm GROUP BY 1"
    tables = pair(3)
    with pytest.raises(QueryError, match="FILTER"):
        run(sql.format(f"sum({BRANCHES})"), tables)
    plain = {name: casefolded(table) for name, table in tables.items()}
    same(run(sql.format(instead), tables)[0], pooled(sql.format(f"sum({BRANCHES})"), plain))


PLAIN = tuple(
    replace(info, columns=tuple(replace(c, key=() if c.key is not None else None) for c in info.columns))
    for info in (DEALS, FIRMS)
)
"""The datasets with keys that are compared as they are: DuckDB's own groups are the canonical ones."""


@pytest.mark.parametrize(
    "sql",
    [
        # a condition that no row can change removes rows that are kept, and no matches
        "SELECT count(*) n FROM hk.firms f ANTI JOIN sz.deals d USING (firm) WHERE 1 = 0",
        "SELECT f.grade, count(*) n FROM hk.firms f LEFT JOIN sz.deals d USING (firm) WHERE NULL GROUP BY 1",
        # of two key columns one or the other is NULL, or both
        "SELECT count(*) n, sum(d.days) s FROM sz.deals d ANTI JOIN hk.firms f ON d.firm = f.firm AND d.branch = f.branch",
        "SELECT f.grade, count(*) n FROM sz.deals d LEFT JOIN hk.firms f ON d.firm = f.firm AND d.branch = f.branch GROUP BY 1",
        "SELECT count(*) n, sum(f.score) s FROM hk.firms f ANTI JOIN sz.deals d ON d.firm = f.firm AND d.branch = f.branch",
    ],
)
def test_conditions_on_nothing_and_keys_of_which_a_part_is_null(sql, pooled):
    tables = pair(9, own=9)
    same(run(sql, tables, catalogue=PLAIN)[0], pooled(sql, tables))


CARDINALITY = [ANTI[0], ANTI[1], ANTI[2], LEFT[0], LEFT[2]]


@pytest.mark.parametrize("sql", CARDINALITY)
def test_rows_without_a_match_at_level_cardinality(sql, pooled):
    tables = pair(len(sql), own=7)
    plain = {name: casefolded(table) for name, table in tables.items()}
    same(run(sql, tables, level=Level.CARDINALITY)[0], pooled(sql, plain))


FEW = {ANTI[1], ANTI[4], LEFT[1], LEFT[4]}


@pytest.mark.parametrize(
    "sql", [sql if sql in FEW else pytest.param(sql, marks=pytest.mark.deep) for sql in (*ANTI, *LEFT)]
)
@pytest.mark.parametrize(("rows", "own"), [(0, 7), (20, 0), (0, 0)])
def test_empty_tables(sql, rows, own, pooled):
    tables = pair(1, rows, own)
    same(run(sql, tables)[0], pooled(sql, tables))


OUTER_SEMANTICS = {
    # a condition of ON that concerns the kept rows alone would not filter them
    "SELECT count(*) FROM sz.deals d ANTI JOIN hk.firms f ON d.firm = f.firm AND d.days > 1": "query.outer-condition",
    "SELECT count(*) FROM hk.firms f WHERE NOT EXISTS (SELECT 1 FROM sz.deals d WHERE d.firm = f.firm AND f.score > 1)": "query.outer-condition",
    "SELECT f.grade, count(*) FROM sz.deals d LEFT JOIN hk.firms f ON d.firm = f.firm AND d.paid GROUP BY 1": "query.outer-condition",
    # a condition of WHERE on the other side would undo the LEFT JOIN
    "SELECT f.grade, count(*) FROM sz.deals d LEFT JOIN hk.firms f ON d.firm = f.firm WHERE f.score > 1 GROUP BY 1": "query.outer-condition",
    "SELECT f.grade, count(*) FROM sz.deals d LEFT JOIN hk.firms f ON d.firm = f.firm WHERE f.grade IS NULL GROUP BY 1": "query.outer-condition",
    "SELECT d.trade, count(*) FROM sz.deals d LEFT JOIN hk.firms f ON d.firm = f.firm GROUP BY 1": "query.left-join",
    "SELECT d.trade, count(*) FROM hk.firms f LEFT JOIN sz.deals d ON d.firm = f.firm GROUP BY 1": "query.left-join",
    "SELECT f.grade, sum(f.score) FROM sz.deals d LEFT JOIN hk.firms f ON d.firm = f.firm GROUP BY 1": "query.left-join",
    "SELECT f.grade, count(f.firm) FROM sz.deals d LEFT JOIN hk.firms f ON d.firm = f.firm GROUP BY 1": "query.left-join",
    "SELECT f.grade, sum(coalesce(d.days, 5)) FROM hk.firms f LEFT JOIN sz.deals d ON d.firm = f.firm GROUP BY 1": "query.left-join",
    "SELECT count(CASE WHEN d.days IS NULL THEN 1 END) FROM hk.firms f LEFT JOIN sz.deals d ON d.firm = f.firm": "query.left-join",
    "SELECT count(*) FILTER (WHERE d.days IS NULL) FROM hk.firms f LEFT JOIN sz.deals d ON d.firm = f.firm": "query.left-join",
    "SELECT count(*) FROM sz.deals d FULL JOIN hk.firms f ON d.firm = f.firm": "query.join",
    # what the rows are looked up in is gone
    "SELECT f.grade, count(*) FROM sz.deals d ANTI JOIN hk.firms f ON d.firm = f.firm GROUP BY 1": "query.semi-join",
    "SELECT sum(score) FROM sz.deals WHERE firm IN (SELECT firm FROM hk.firms)": "query.semi-join",
    "SELECT sum(d.days) FROM hk.firms f SEMI JOIN sz.deals d ON d.firm = f.firm": "query.semi-join",
    # NULLs decide about NOT IN
    "SELECT count(*) FROM sz.deals WHERE firm NOT IN (SELECT firm FROM hk.firms)": "query.not-in",
    # subqueries of other kinds
    "SELECT count(*) FROM sz.deals WHERE firm IN (SELECT firm FROM hk.firms LIMIT 3)": "query.subquery",
    "SELECT count(*) FROM sz.deals WHERE firm IN (SELECT max(firm) FROM hk.firms)": "query.subquery",
    "SELECT count(*) FROM sz.deals d WHERE EXISTS (SELECT count(*) FROM hk.firms f WHERE f.firm = d.firm)": "query.subquery",
    "SELECT count(*) FROM sz.deals WHERE firm IN (SELECT firm FROM hk.firms UNION SELECT firm FROM hk.firms)": "query.subquery",
    "SELECT count(*) FROM sz.deals d WHERE d.paid OR EXISTS (SELECT 1 FROM hk.firms f WHERE f.firm = d.firm)": "query.construct",
    "SELECT count(*) FROM sz.deals d WHERE firm IN (SELECT firm FROM hk.firms) AND branch IN (SELECT branch FROM hk.firms)": "query.subquery",
    "SELECT count(*) FROM sz.deals d JOIN hk.firms f ON d.firm = f.firm WHERE d.branch IN (SELECT branch FROM hk.firms)": "query.join",
    "SELECT count(*) FROM sz.deals d WHERE EXISTS (SELECT 1 FROM hk.firms f)": "query.no-join-key",
}


@pytest.mark.parametrize("sql", OUTER_SEMANTICS)
def test_what_would_mean_something_else_is_refused_with_what_works(sql):
    with pytest.raises(QueryError) as caught:
        run(sql, {})
    assert caught.value.code == OUTER_SEMANTICS[sql]
    assert any(word in caught.value.sentence for word in (";", "write", "put", "ask", "takes", ":"))


def test_not_in_is_an_anti_join_where_no_key_is_null(pooled):
    certain = tuple(
        replace(
            info, columns=tuple(replace(c, nullable=False) if c.name == "firm" else c for c in info.columns)
        )
        for info in (DEALS, FIRMS)
    )
    sql = "SELECT trade, count(*) n FROM sz.deals WHERE firm NOT IN (SELECT firm FROM hk.firms WHERE score > 300) GROUP BY 1"
    tables = {name: casefolded(t).filter(pc.is_valid(t["firm"])) for name, t in pair(3).items()}
    same(run(sql, tables, catalogue=certain)[0], pooled(sql, tables))


def few(deals_of: dict[str, list[str | None]], firms_of: list[str]) -> dict[str, pa.Table]:
    """Trades and the firms that deal in them; the asker's firms."""
    rows = [{"trade": trade, "firm": firm} for trade, names in deals_of.items() for firm in names]
    return {
        "sz.deals": pa.Table.from_pylist(rows, schema(DEALS)),
        "hk.firms": pa.Table.from_pylist([{"firm": firm} for firm in firms_of], schema(FIRMS)),
    }


@pytest.mark.parametrize("level", [Level.RECEIVER, Level.CARDINALITY])
def test_the_gate_holds_for_total_matched_and_rest(level):
    """Of a cell of rows without a match: five firms in all, three that match, two that do not, …"""
    names = [f"f{i}" for i in range(12)]
    tables = few(
        {
            "held": names[:7],  # 4 match, 3 rest
            "rest too small": names[:6],  # 4 match, 2 rest
            "match too small": [*names[2:4], *names[4:10]],  # 2 match, 6 rest
            "all match": names[:4],
            "none match": names[4:9],
            "no keys": [None, None, None, None],
        },
        names[:4],
    )
    sql = "SELECT trade, count(*) n FROM sz.deals d ANTI JOIN hk.firms f ON d.firm = f.firm GROUP BY trade"
    answer, (summary, cells) = run(sql, tables, level=level, minimum=3)
    assert answer.to_pylist() == [{"trade": "held", "n": 3}]
    assert (summary.suppressed, cells.suppressed) == (5, 5)
    answer, _ = run(sql, tables, level=level, minimum=1)
    counts = {row["trade"]: row["n"] for row in answer.to_pylist()}
    assert counts == {"held": 3, "rest too small": 2, "match too small": 6, "none match": 5, "no keys": 4}


def test_without_a_group_nothing_tells_a_suppressed_zero_from_a_suppressed_few():
    names = [f"f{i}" for i in range(9)]
    for firms_of in (names[:1], [], names):
        answer, (summary, _) = run(
            "SELECT count(*) n FROM sz.deals d ANTI JOIN hk.firms f ON d.firm = f.firm",
            few({"t": names}, [*firms_of, *(f"x{i}" for i in range(5))]),
            minimum=3,
        )
        assert answer.num_rows == 0
        assert summary.suppressed == 1


def test_an_asker_that_claims_more_matches_than_there_are_is_caught():
    gated = Gated(
        prepare("SELECT count(*) FROM sz.deals d ANTI JOIN hk.firms f USING (firm)", "hk", CATALOGUE).plan,
        lambda counts: counts >= 1,
        Kept(np.array([5]), np.array([1])),
    )
    with pytest.raises(PeerViolation):
        gated(np.array([[7]]))


def test_a_policy_that_requires_a_join_refuses_rows_without_a_match():
    def decision(sql: str) -> list[str]:
        found = prepare(sql, "hk", CATALOGUE).requests(
            recipients=frozenset({"hk"}), purpose="audit", at=datetime(2026, 11, 21, tzinfo=UTC)
        )["sz.deals"]
        return [reason.code for reason in decide(POLICY, found, LedgerView()).because]

    assert decision("SELECT count(*) FROM sz.deals d ANTI JOIN hk.firms f ON d.firm = f.firm") == [
        "join.required"
    ]
    kept = "SELECT f.grade, count(*) FROM sz.deals d LEFT JOIN hk.firms f ON d.firm = f.firm GROUP BY 1"
    assert decision(kept) == ["join.required"]
    assert decision("SELECT count(*) FROM sz.deals d SEMI JOIN hk.firms f ON d.firm = f.firm") == []
    assert decision("SELECT count(*) FROM hk.firms f ANTI JOIN sz.deals d ON d.firm = f.firm") == []
    assert (
        decision("SELECT grade, count(*) FROM hk.firms f LEFT JOIN sz.deals d ON d.firm = f.firm GROUP BY 1")
        == []
    )


POLICY = load(
    """
policy: deals-v1
dataset: sz.deals
assignee: [hk]
purpose: any
uses: {count: 9, per: month}
analysis:
  kinds: [aggregate]
  join: {columns: [firm], disclosure: receiver, required: asker}
  measures: {"*": [count]}
"""
)


# --- buckets

BUCKETS = "CREATE MACRO width_bucket(x, edges) AS CASE WHEN x IS NULL THEN NULL ELSE len(list_filter(edges, lambda e: x >= e)) END"

HISTOGRAMS = {
    "d.days, [-500, 0, 250, 251]": "d.days, [-500, 0, 250, 251]",
    "d.amount, [-0.5, 0, 1000.25]": "d.amount, [-0.5, 0, 1000.25]",
    "d.amount, -1000000, 1000000, 3": "d.amount * 3, [-3000000, -1000000, 1000000, 3000000]",
    "d.days, -1000, 1000, 7": "d.days * 7, [-7000, -5000, -3000, -1000, 1000, 3000, 5000, 7000]",
    "d.big, [0, 4611686018427387904]": "d.big, [0, 4611686018427387904]",
    "d.day, [DATE '1950-01-01', '1969-12-31', DATE '1999-12-31']": "d.day, [DATE '1950-01-01', DATE '1969-12-31', DATE '1999-12-31']",
    "f.score, 0, 1000, 4": "f.score * 4, [0, 1000, 2000, 3000, 4000]",
}


@pytest.mark.parametrize("arguments", HISTOGRAMS)
def test_histograms(arguments, pooled):
    tables = pair(len(arguments))
    sql = "SELECT width_bucket({}) AS bucket, count(*) n, sum(d.days) s FROM sz.deals d JOIN hk.firms f ON d.firm = f.firm GROUP BY bucket"
    plain = {name: casefolded(table) for name, table in tables.items()}
    with duckdb.connect(":memory:") as connection:
        for name, table in plain.items():
            connection.register("incoming", table)
            connection.execute(f"CREATE SCHEMA {name[:2]}; CREATE TABLE {name} AS SELECT * FROM incoming")
        connection.execute(BUCKETS)
        truth = connection.sql(sql.format(HISTOGRAMS[arguments])).to_arrow_table()
    mine = run(sql.format(arguments), tables)[0]
    same(mine, truth.cast(mine.schema))


def test_buckets_are_a_measure_and_no_dimension():
    uses = prepare(
        "SELECT width_bucket(d.days, [1, 5]) AS b, count(*) FROM sz.deals d JOIN hk.firms f USING (firm) GROUP BY b",
        "hk",
        CATALOGUE,
    ).uses["sz.deals"]
    days = next(use for use in uses if use.column == "days")
    assert (days.aggregated, days.grouped) == ({"histogram"}, False)


@pytest.mark.parametrize("level", [Level.RECEIVER, Level.CARDINALITY])
def test_quantiles_are_off_by_a_bucket_at_most(level):
    tables = pair(5, rows=390)
    sql = "SELECT d.trade, approx_quantile(d.days, 0.5) m, approx_quantile(d.days, 0) a, approx_quantile(d.days, 1) z FROM sz.deals d JOIN hk.firms f ON d.firm = f.firm GROUP BY d.trade ORDER BY m DESC"
    answer = run(sql, tables, level=level)[0].to_pylist()
    with_key = {name for name in casefolded(tables["hk.firms"])["firm"].to_pylist() if name}
    values: dict[str | None, list[int]] = {}
    for row in casefolded(tables["sz.deals"]).to_pylist():
        if row["firm"] in with_key and row["days"] is not None:
            values.setdefault(row["trade"], []).append(row["days"])
    assert {row["trade"] for row in answer} == set(values) != set()
    for row in answer:
        ranked = sorted(values[row["trade"]])
        exact = (ranked[(len(ranked) + 1) // 2 - 1], ranked[0], ranked[-1])
        for found, right in zip((row["m"], row["a"], row["z"]), exact, strict=True):
            assert abs(found - right) <= 2000 / 64


def test_a_quantile_of_nothing_is_null():
    sql = "SELECT approx_quantile(d.days, 0.9) q FROM sz.deals d JOIN hk.firms f ON d.firm = f.firm"
    assert run(sql, pair(1, 0, 0))[0].to_pylist() == [{"q": None}]


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("approx_quantile(d.days, 0.5), count(*)", "query.quantile"),
        ("approx_quantile(d.days, 0.5), approx_quantile(d.big, 0.5)", "query.quantile"),
        ("approx_quantile(d.days, 2)", "query.quantile"),
        ("approx_quantile(d.days + 1, 0.5)", "query.quantile"),
        ("approx_quantile(d.trade, 0.5)", "query.type"),
        ("median(d.days)", "query.construct"),
        ("count(*) FILTER (WHERE width_bucket(d.days, [1]) = 1)", "query.expression"),
    ],
)
def test_quantiles_refused(expression, code):
    with pytest.raises(QueryError) as caught:
        run(f"SELECT {expression} FROM sz.deals d JOIN hk.firms f USING (firm)", {})
    assert caught.value.code == code


@pytest.mark.parametrize(
    "arguments",
    [
        "d.days, []",
        "d.days, [2, 1]",
        "d.days, 5, 1, 3",
        "d.trade, [1]",
        "d.days, [d.big]",
        "d.days, 0, 10, 1000",
    ],
)
def test_buckets_refused(arguments):
    with pytest.raises(QueryError):
        run(
            f"SELECT width_bucket({arguments}) b, count(*) FROM sz.deals d JOIN hk.firms f USING (firm) GROUP BY b",
            {},
        )


def test_where_some_keys_were_not_asked_about_nobody_can_tell_what_has_no_match():
    """At level `cardinality` a small group of the asker's is left out; its matches are no rows without one."""
    names = [f"f{i}" for i in range(12)]
    tables = few({"t": names}, names[:5])
    grades = pa.array(["甲"] * 4 + ["乙"], pa.string())
    tables["hk.firms"] = tables["hk.firms"].set_column(2, "grade", grades)
    sql = "SELECT f.grade, count(*) n FROM sz.deals d LEFT JOIN hk.firms f ON d.firm = f.firm GROUP BY 1"
    answer, (summary, cells) = run(sql, tables, level=Level.CARDINALITY, minimum=3)
    assert answer.to_pylist() == [{"grade": "甲", "n": 4}]
    assert (summary.suppressed, cells.suppressed) == (1, 2)
    anti = "SELECT count(*) n FROM sz.deals d ANTI JOIN hk.firms f ON d.firm = f.firm AND f.grade = '乙'"
    assert run(anti, tables, level=Level.CARDINALITY, minimum=3)[0].num_rows == 0


@pytest.mark.parametrize("level", [Level.RECEIVER, Level.CARDINALITY])
def test_as_many_keys_as_declared_and_rows_without_one(level):
    names = [f"f{i}" for i in range(DEALS.keys_bound)]
    tables = few({"t": [*names, None, None]}, names[:10])
    sql = (
        "SELECT count(*) n, count(DISTINCT d.firm) k FROM sz.deals d ANTI JOIN hk.firms f ON d.firm = f.firm"
    )
    rest = DEALS.keys_bound - 10
    assert run(sql, tables, level=level)[0].to_pylist() == [{"n": rest + 2, "k": rest}]
