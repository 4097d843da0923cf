"""Questions made at random, over columns with awkward names, types and values: by the real protocols in memory,
each answer equals DuckDB over both tables, or is refused by a code."""

# ruff: noqa: E501 - one kind of expression a line

from __future__ import annotations

import math
import os
import random
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from compute.dataset import Column, DatasetInfo
from compute.engine import Limits
from compute.errors import BayspaceError
from compute.finish import finish
from compute.inputs import Context
from compute.local import join_input
from compute.planner import prepare
from compute.protocols.base import run_pair
from compute.types import parse_type
from policy_enforcer.disclosure import Level
from policy_enforcer.obligations import NOTHING_DEMANDED

pytestmark = pytest.mark.deep

LIMITS = Limits(threads=1)
TOP = 2**62
KEYS = (Column("firm", "string", key=()), Column("branch", "int64", key=()))
DEALS = DatasetInfo(
    "sz",
    "deals",
    (
        *KEYS,
        Column("amount", "decimal(12,2)", bounds=("-1000000", "1000000")),
        Column("big", "int64", bounds=(str(-TOP), str(TOP))),
        Column("rate", "float64", scale=3, bounds=("-100", "100")),
        Column("paid", "bool"),
        Column("trade", "string"),
        Column("day", "date"),
        Column("at", "timestamp"),
        Column("nil", "int64", bounds=("0", "9")),
        Column("order", "int64", nullable=False, bounds=("0", "50")),
        Column('a"b 额', "decimal(30,10)", bounds=("-10000000000", "10000000000")),
        Column("m0", "int64", bounds=("-9", "9")),
    ),
    600,
    64,
    "00" * 32,
    Level.RECEIVER,
)
FIRMS = DatasetInfo(
    "hk",
    "firms",
    (
        *KEYS,
        Column("等级", "string"),
        Column("score", "int64", bounds=("0", "1000")),
        Column("share", "decimal(5,4)", bounds=("-1", "1")),
        Column("f0", "float64", scale=2, bounds=("-50", "50")),
        Column("active", "bool"),
        Column("since", "date"),
        Column("seen", "timestamp"),
        Column("group", "int64", nullable=False, bounds=("-3", "3")),
    ),
    200,
    64,
    "11" * 32,
    Level.RECEIVER,
)
NAMES = ["深圳一号", "a", "b", "ß", "公司", "f1", "f2", "f3", "", " f1", None]
DRAWN = {
    "string": lambda r, _c: r.choice(["茶", "IT", ""]),
    "bool": lambda r, _c: r.random() < 0.5,
    "date": lambda r, _c: date(1901, 1, 1) + timedelta(days=r.randrange(50_000)),
    "timestamp": lambda r, _c: (
        datetime(1969, 12, 30) + timedelta(seconds=r.randrange(400_000), microseconds=r.choice([0, 1]))
    ),
    "int64": lambda r, c: r.choice([int(c.bounds[0]), r.randint(*map(int, c.bounds)), int(c.bounds[1])]),
    "float64": lambda r, c: r.randint(*(int(b) * 10**c.scale for b in c.bounds)) / 10**c.scale,
    "decimal": lambda r, c: Decimal(
        r.randint(*(int(b) * 10 ** parse_type(c.type).scale for b in c.bounds))
    ).scaleb(-parse_type(c.type).scale),
}


def table(r: random.Random, info: DatasetInfo, rows: int, *, unique: bool) -> pa.Table:
    names: list[str | None] = [r.choice(NAMES) for _ in range(rows)]
    if unique:
        names = r.sample(NAMES[:-1], min(rows, len(NAMES) - 1)) + [None, None][:rows]
    made = [{"firm": name, "branch": r.choice([0, 1, None]), **values(r, info)} for name in names]
    return pa.Table.from_pylist(made, pa.schema([(c.name, parse_type(c.type).arrow) for c in info.columns]))


def values(r: random.Random, info: DatasetInfo) -> dict[str, Any]:
    return {
        c.name: None
        if c.name == "nil" or (c.nullable and r.random() < 0.15)
        else DRAWN[parse_type(c.type).kind](r, c)
        for c in info.columns[2:]
    }


class Words:
    """Expressions over one side's columns."""

    def __init__(self, r: random.Random, alias: str) -> None:
        self.r, self.alias = r, alias
        deals = alias == "d"
        self.small = (
            ["d.amount", "d.m0", "d.rate", 'd."order"']
            if deals
            else ["f.score", "f.share", "f.f0", 'f."group"']
        )
        self.numbers = [*self.small, *(["d.big", "d.nil", 'd."a""b 额"'] if deals else [])]
        self.whole = ["d.m0", 'd."order"', "d.branch"] if deals else ["f.score", 'f."group"', "f.branch"]
        self.text = ["d.trade", "d.firm"] if deals else ['f."等级"', "f.firm"]
        self.flag, self.day, self.moment = (
            ("d.paid", "d.day", "d.at") if deals else ("f.active", "f.since", "f.seen")
        )

    def condition(self, depth: int = 0) -> str:
        r, n, i, t = (self.r, *map(self.r.choice, (self.numbers, self.whole, self.text)))
        if depth < 2 and r.random() < 0.3:
            return f"({self.condition(depth + 1)} {r.choice(['AND', 'OR', 'AND NOT'])} {self.condition(2)})"
        return r.choice(
            [
                f"{n} > {r.choice(['0', '1.5', '-3', '9223372036854775808', '0.001'])}",
                f"{i} NOT BETWEEN {r.randint(-5, 3)} AND {r.randint(3, 400)}",
                f"{t} {r.choice(['', 'NOT '])}IN ('茶', 'a', 'f1', {r.choice(['NULL', chr(39) * 2])})",
                f"{t} NOT LIKE '%1%'",
                f"{t} IS {r.choice(['', 'NOT '])}NULL",
                f"{self.flag} IS {r.choice(['', 'NOT '])}{r.choice(['TRUE', 'FALSE', 'NULL'])}",
                self.flag,
                f"{self.day} < '1970-01-01'",
                f"{self.moment} >= TIMESTAMP '1970-01-01 00:00:00'",
                f"coalesce({i}, -1) <= nullif({i}, 2)",
                f"{i} IS DISTINCT FROM {r.randint(0, 2)}",
                f"CASE WHEN {self.flag} THEN {i} > 1 ELSE {n} IS NULL END",
            ]
        )

    def label(self) -> str:
        r, i, t = (self.r, *map(self.r.choice, (self.whole, self.text)))
        return r.choice(
            [
                *(
                    t,
                    t,
                    self.flag,
                    self.condition(),
                    f"year({self.day}) // 20",
                    f"{i} % 3",
                    f"coalesce({t}, '-')",
                ),
                f"extract(hour FROM {self.moment})",
                f"date_trunc('year', {self.day})",
                f"upper(left({t}, 2))",
                f"if({self.flag}, 1, 22)",
                f"CASE {i} WHEN 0 THEN 'zero' WHEN 1 THEN '一' END",
            ]
        )


def measured(r: random.Random, sides: list[Words], depth: int = 0) -> str:
    if depth < 2 and r.random() < 0.35:
        return f"({measured(r, sides, depth + 1)} {r.choice('+-*')} {measured(r, sides, depth + 1)})"
    side = r.choice(sides)
    column = r.choice(side.small)
    return r.choice(
        [
            column,
            column,
            column,
            f"coalesce({column}, 1)",
            f"CASE WHEN {side.condition(2)} THEN {column} END",
            "1.5",
        ]
    )


def aggregate(r: random.Random, sides: list[Words]) -> str:
    side = r.choice(sides)
    x, y = measured(r, sides), r.choice(r.choice(sides).small)
    keep = f" FILTER (WHERE {side.condition(2)})" if r.random() < 0.2 else ""
    one = r.choice(
        [
            f"sum({x})",
            f"avg({x})",
            f"count({x})",
            f"sum({r.choice(side.numbers)})",
            f"count({r.choice(side.text)})",
        ]
    )
    spread = f"{r.choice(['var_pop', 'var_samp', 'stddev_pop', 'stddev_samp'])}({r.choice(side.small)})"
    two = f"{r.choice(['covar_pop', 'covar_samp', 'corr', 'regr_slope', 'regr_intercept', 'regr_r2', 'regr_avgx', 'regr_sxy'])}({r.choice(side.small)}, {y})"
    return r.choice(
        [
            "count(*)" + keep,
            one + keep,
            one + keep,
            spread + keep,
            two + keep,
            f"count(DISTINCT {side.alias}.firm)",
            f"coalesce(sum({y}), 0) / nullif(count(*), 0)",
        ]
    )


def question(r: random.Random) -> str:
    kind = r.choice(
        ["JOIN"] * 4 + ["SEMI JOIN", "ANTI JOIN", "LEFT JOIN", "RIGHT JOIN", "EXISTS", "NOT EXISTS"]
    )
    kept, looked_up = (Words(r, alias) for alias in r.sample(["d", "f"], 2))
    named = {"d": "sz.deals d", "f": "hk.firms f"}
    for alias in named:
        if r.random() < 0.15:
            named[alias] = f"(SELECT * FROM {named[alias]} WHERE {Words(r, alias).condition()}) {alias}"
    on = " AND ".join(f"d.{key} = f.{key}" for key in r.choice([["firm"], ["firm"], ["firm", "branch"]]))
    inner = f" AND {looked_up.condition()}" if r.random() < 0.3 else ""
    both = [kept, looked_up]
    shown = both if kind == "JOIN" else r.choice([both, [kept]]) if kind[0] in "LR" else [kept]
    labels = [r.choice(shown).label() for _ in range(r.choice([0, 1, 1, 2]))]
    figures = [aggregate(r, shown) for _ in range(r.choice([1, 2, 3]))]
    where = [r.choice(both if kind == "JOIN" else [kept]).condition() for _ in range(r.randrange(3))]
    source = f"{named[kept.alias]} {kind} {named[looked_up.alias]} ON {on}{inner}"
    if kind == "RIGHT JOIN":
        source = f"{named[looked_up.alias]} {kind} {named[kept.alias]} ON {on}{inner}"
    if kind.endswith("EXISTS"):
        source = named[kept.alias]
        where.append(f"{kind} (SELECT 1 FROM {named[looked_up.alias]} WHERE {on}{inner})")
    items = [f"{sql} AS x{i}" for i, sql in enumerate([*labels, *figures])]
    clauses = [
        f"SELECT {', '.join(items)} FROM {source}",
        *([f"WHERE {' AND '.join(where)}"] if where else []),
    ]
    if labels:
        clauses.append(f"GROUP BY {r.choice(['ALL', ', '.join(str(i + 1) for i in range(len(labels)))])}")
    if r.random() < 0.3:
        one = r.choice(shown)
        clauses.append(
            f"HAVING {r.choice(['count(*) > 1', f'sum({r.choice(one.small)}) > 0.5 OR count(*) = 2'])}"
        )
    if labels and r.random() < 0.4:  # by all labels, so that there is one order
        names = r.sample([f"x{i}" for i in range(len(labels))], len(labels))
        ways = ["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]
        clauses.append(
            f"ORDER BY {', '.join(name + r.choice(ways) for name in names)} LIMIT {r.randrange(9)}"
        )
    return " ".join(clauses)


def answered(sql: str, asker: str, infos: dict[str, DatasetInfo], tables: dict[str, pa.Table]) -> pa.Table:
    prepared = prepare(
        sql, asker, infos, demands={n: replace(NOTHING_DEMANDED, weighted=True) for n in infos}
    )
    plan = prepared.plan
    assert plan.receiver is not None
    own, theirs = (
        join_input(side, infos[side.dataset], tables[side.dataset], LIMITS)
        for side in (plan.receiver, plan.sender)
    )
    context = Context(b"s" * 32, plan, os.urandom, lambda *_: None, 1)
    receiver = prepared.protocol.receiver(context, own)
    cells, _ = run_pair(receiver, prepared.protocol.sender(context, theirs, lambda counts: counts >= 1))
    return finish(plan, cells, LIMITS)


def rows_of(found: pa.Table, sql: str) -> list[tuple[Any, ...]]:
    rows = [tuple(row.values()) for row in found.to_pylist()]
    if "ORDER BY" in sql:
        return rows
    return sorted(
        rows,
        key=lambda row: [
            (v is None, v != v, str(type(v)), round(v, 4) if isinstance(v, float) else v) for v in row
        ],
    )


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-8, abs_tol=1e-6) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


REFUSED = {
    *("query.left-join", "query.measure", "query.count-distinct", "query.weighted-not-available"),
    *("data.asker-key-not-unique", "data.key-in-several-groups", "plan.selection-sum-does-not-fit"),
}


@pytest.mark.parametrize("seed", range(8))
def test_random_questions_equal_duckdb_or_are_refused(seed, pooled):
    r = random.Random(seed)
    unique = seed % 2 == 0
    firm = replace(KEYS[0], unique=unique)
    infos = {"sz.deals": DEALS, "hk.firms": replace(FIRMS, columns=(firm, *FIRMS.columns[1:]))}
    tables = {
        "sz.deals": table(r, DEALS, r.choice([8, 90]), unique=False),
        "hk.firms": table(r, FIRMS, r.choice([4, 12]), unique=unique),
    }
    asked = [(question(r), r.choice(["hk", "hk", "sz"])) for _ in range(12)]
    assert sum(equal(sql, asker, infos, tables, pooled) for sql, asker in asked) >= 4


def equal(
    sql: str, asker: str, infos: dict[str, DatasetInfo], tables: dict[str, pa.Table], pooled: Any
) -> bool:
    """Whether the question was answered; then its answer is DuckDB's."""
    try:
        mine = answered(sql, asker, infos, tables)
    except BayspaceError as refusal:
        if refusal.code in REFUSED:
            return False
        raise AssertionError(sql) from refusal
    if not mine.num_rows and "GROUP BY" not in sql:
        return False  # nobody matched, and a cell of nobody is held back
    truth = rows_of(pooled(sql, tables), sql)
    assert mine.num_rows == len(truth), sql
    for left, right in zip(rows_of(mine, sql), truth, strict=True):
        assert all(map(alike, left, right)), (sql, left, right)
    return True
