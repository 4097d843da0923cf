"""Aggregates over columns of both parties: through both real roles of the protocol, against DuckDB over the
pooled tables; what is sent, who learns it, and what is refused."""

# ruff: noqa: E501 - one question a line

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.dataset import Column, DatasetInfo
from compute.engine import Limits
from compute.errors import DataError, PeerViolation, QueryError
from compute.finish import finish
from compute.inputs import Cells, Context, Summary, WeightFigures
from compute.local import join_input
from compute.planner import prepare
from compute.protocols import _aggregate, protocol_named
from compute.protocols.base import run_pair
from compute.selection_sum import ReceiverGroup
from policy_enforcer.disclosure import Fact, Level, Party
from policy_enforcer.obligations import NOTHING_DEMANDED

LIMITS = Limits(threads=1)
ALLOWED = replace(NOTHING_DEMANDED, weighted=True)

SALES = DatasetInfo(
    participant="sz",
    name="sales",
    columns=(
        Column("k", "int64", key=()),
        Column("g", "string"),
        Column("b", "decimal(9,2)", bounds=("-5000", "5000")),
        Column("c", "int64", bounds=("-9", "9")),
        Column("f", "float64", scale=2, bounds=("-10", "10")),
    ),
    rows_bound=64,
    keys_bound=16,
    commitment="00" * 32,
    disclosure=Level.RECEIVER,
)
LOANS = DatasetInfo(
    participant="hk",
    name="loans",
    columns=(
        Column("k", "int64", key=()),
        Column("h", "string"),
        Column("a", "int64", bounds=("-1000000", "1000000")),
        Column("d", "decimal(9,3)", bounds=("-500", "500")),
        Column("p", "bool"),
    ),
    rows_bound=64,
    keys_bound=16,
    commitment="11" * 32,
    disclosure=Level.RECEIVER,
)
JOIN = "hk.loans r JOIN sz.sales s ON r.k = s.k"


def info(base: DatasetInfo, *, unique: bool = False, **changes) -> DatasetInfo:
    columns = tuple(replace(c, unique=unique and c.name == "k") for c in base.columns)
    return replace(base, columns=columns, **changes)


def catalogue(*, r_unique: bool = False, s_unique: bool = False) -> dict[str, DatasetInfo]:
    both = info(LOANS, unique=r_unique), info(SALES, unique=s_unique)
    return {i.full_name: i for i in both}


def loans(rows) -> pa.Table:
    k, h, a, d, p = zip(*rows, strict=True) if rows else ((),) * 5
    return pa.table(
        {
            "k": pa.array(k, pa.int64()),
            "h": pa.array(h, pa.string()),
            "a": pa.array(a, pa.int64()),
            "d": pa.array(d, pa.decimal128(9, 3)),
            "p": pa.array(p, pa.bool_()),
        }
    )


def sales(rows) -> pa.Table:
    k, g, b, c, f = zip(*rows, strict=True) if rows else ((),) * 5
    return pa.table(
        {
            "k": pa.array(k, pa.int64()),
            "g": pa.array(g, pa.string()),
            "b": pa.array(b, pa.decimal128(9, 2)),
            "c": pa.array(c, pa.int64()),
            "f": pa.array(f, pa.float64()),
        }
    )


class Run:
    """One question between the two roles, in memory."""

    def __init__(self, kit, sql, tables, known=None, minimum=1, demands=ALLOWED, seed="s"):
        known = known or catalogue()
        self.prepared = prepare(sql, "hk", known, demands={"sz.sales": demands})
        self.plan, self.minimum, self._kit, self._seed = self.prepared.plan, minimum, kit, seed
        self.asked: list[np.ndarray] = []
        self.own, self.owned = (
            join_input(side, known[side.dataset], tables[side.dataset], LIMITS)
            for side in (self.plan.receiver, self.plan.sender)
        )

    def _gate(self, counts):
        self.asked.append(counts.copy())
        return counts >= self.minimum

    def roles(self):
        def context(party: Party) -> Context:
            entropy = self._kit.Stream(f"{self._seed} {party.value}")
            return Context(b"\1" * 32, self.plan, entropy, lambda *_: None, self.minimum)

        protocol = protocol_named(self.plan.protocol)
        protocol.check(self.plan, self.own)
        return (
            protocol.receiver(context(Party.RECEIVER), self.own),
            protocol.sender(context(Party.SENDER), self.owned, self._gate),
        )

    def cells(self) -> tuple[Cells, Summary]:
        return run_pair(*self.roles())

    def answer(self) -> list[dict]:
        return finish(self.plan, self.cells()[0]).to_pylist()


def close(found, expected) -> bool:
    """Equal; figures of doubles as nearly as DuckDB's own floating point is right."""
    if found is None or expected is None or isinstance(expected, str):
        return found == expected
    if isinstance(expected, float):
        if math.isnan(expected):
            return math.isnan(found)
        return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-6)
    return found == expected


def same(found: list[dict], expected: list[dict], keys: int) -> None:
    def order(row):
        return [(v is None, v) for v in list(row.values())[:keys]]

    found, expected = sorted(found, key=order), sorted(expected, key=order)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert all(close(a, b) for a, b in zip(mine.values(), theirs.values(), strict=True)), (mine, theirs)


MEASURES = [
    "count(*)",
    "sum(r.a)",
    "count(r.a)",
    "avg(r.d)",
    "sum(s.b)",
    "count(s.b)",
    "sum(r.a * s.b)",
    "avg(r.d * s.c)",
    "count(r.d * s.b)",
    "sum(r.a * s.b - r.d + 2)",
    "sum((1 - r.d) * s.b * 3)",
    "sum(-(r.a * s.c))",
    "sum(coalesce(r.a, 1) * coalesce(s.b, 0.5))",
    "sum(CASE WHEN r.p THEN r.a END * s.c)",
    "count(*) FILTER (WHERE r.p)",
    "sum(s.b) FILTER (WHERE r.p)",
    "sum(r.d) FILTER (WHERE s.c > 0)",
    "count_if(r.a > 0)",
    "var_samp(r.a)",
    "stddev_pop(r.d)",
    "var_pop(r.d * s.c)",
    "covar_pop(r.d, s.c)",
    "covar_samp(s.c, r.d)",
    "corr(r.d, s.c)",
    "corr(r.d, r.a)",
    "corr(s.c, s.b)",
    "regr_slope(s.c, r.d)",
    "regr_intercept(s.c, r.d)",
    "regr_r2(r.d, s.c)",
    "regr_count(r.d, s.b)",
    "regr_avgx(s.c, r.d)",
    "regr_avgy(s.c, r.d)",
    "regr_sxy(s.c, r.d)",
    "sum(r.a) / count(*)",
]
"""What a SELECT item may be over columns of both parties."""

DECIMALS = st.one_of(st.none(), st.integers(-(10**5), 10**5))
KEYS = st.one_of(st.none(), st.integers(0, 8))


@st.composite
def tables(draw, unique_r=False, unique_s=False):
    left = draw(
        st.lists(
            st.tuples(
                KEYS,
                st.sampled_from(["x", "y", None]),
                st.one_of(st.none(), st.integers(-(10**6), 10**6), st.just(0)),
                DECIMALS.map(lambda v: None if v is None else Decimal(v).scaleb(-3)),
                st.sampled_from([True, False, None]),
            ),
            max_size=14,
            unique_by=(lambda row: row[0]) if unique_r else None,
        )
    )
    right = draw(
        st.lists(
            st.tuples(
                KEYS,
                st.sampled_from(["u", "v", None]),
                DECIMALS.map(lambda v: None if v is None else Decimal(v).scaleb(-2)),
                st.one_of(st.none(), st.integers(-9, 9)),
                st.one_of(st.none(), st.integers(-99, 99).map(lambda v: v / 10)),
            ),
            max_size=14,
            unique_by=(lambda row: row[0]) if unique_s else None,
        )
    )
    return {"hk.loans": loans(left), "sz.sales": sales(right)}


GROUPS = [(), ("r.h",), ("s.g",), ("r.h", "s.g")]


def question(measures, groups) -> str:
    items = ", ".join([*groups, *(f"{m} AS m{i}" for i, m in enumerate(measures))])
    return f"SELECT {items} FROM {JOIN}" + (f" GROUP BY {', '.join(groups)}" if groups else "")


def weightless(run: Run) -> bool:
    """Whether every cell that matched was answered: a cell of zero weights alone is held back."""
    return not run.plan.receiver.weights


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_answers_equal_duckdb(kit, pooled, data):
    r_unique, s_unique = data.draw(st.booleans()), data.draw(st.booleans())
    both = data.draw(tables(r_unique, s_unique))
    groups = data.draw(st.sampled_from(GROUPS))
    measures = data.draw(st.lists(st.sampled_from(MEASURES), min_size=1, max_size=3, unique=True))
    sql = question(measures, groups)
    run = Run(kit, sql, both, catalogue(r_unique=r_unique, s_unique=s_unique))
    cells, summary = run.cells()
    found, expected = finish(run.plan, cells).to_pylist(), pooled(sql, both).to_pylist()
    if run.plan.receiver.weights and summary.suppressed:
        # A cell in which a weight column holds zeros only is never answered.
        names = [name.split(".")[1] for name in groups]
        shown = {tuple(row[n] for n in names) for row in found} if groups else set()
        expected = [row for row in expected if tuple(row[n] for n in names) in shown] if groups else []
        found = found if groups else []
    elif not groups and not cells.table.num_rows:
        return  # nothing matched: the one cell is held back
    same(found, expected, len(groups))


@pytest.mark.parametrize(("measure", "groups"), [(m, GROUPS[i % 4]) for i, m in enumerate(MEASURES)])
def test_every_aggregate_over_rows_that_repeat(kit, pooled, measure, groups):
    rng = np.random.default_rng(5)
    left = [
        (
            int(rng.integers(0, 6)),
            "xy"[i % 2],
            int(rng.integers(1, 10**6)),
            Decimal(int(rng.integers(1, 5 * 10**5))).scaleb(-3),
            True,
        )
        for i in range(20)
    ]
    right = [
        (
            int(rng.integers(0, 6)),
            "uv"[i % 2],
            Decimal(int(rng.integers(-500000, 500000))).scaleb(-2),
            int(rng.integers(1, 9)),
            0.5,
        )
        for i in range(20)
    ]
    both = {"hk.loans": loans(left), "sz.sales": sales(right)}
    sql = question([measure], groups)
    run = Run(kit, sql, both)
    same(run.answer(), pooled(sql, both).to_pylist(), len(groups))
