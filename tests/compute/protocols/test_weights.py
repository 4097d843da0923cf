"""Aggregates over columns of both parties: through both real roles of the protocol, against DuckDB over the
pooled tables; what is sent, who learns it, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute import selection_sum
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
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party
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
    "count(*) FILTER (WHERE r.a > 0)",
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

CONDITIONS = [
    "count(*) FILTER (WHERE r.p AND s.c > 4)",
    "sum(s.b) FILTER (WHERE (s.c > 2 AND r.p) AND (r.a > 0 OR r.d < 1))",
    "corr(r.d, s.c) FILTER (WHERE r.p AND s.c > 2)",
    "sum(CASE WHEN r.p THEN s.c END)",
    "avg(CASE WHEN s.c > 4 AND r.p THEN r.a * s.b ELSE NULL END)",
    "avg(CASE WHEN r.p AND s.c > 4 THEN 3 ELSE 0 END)",
    "sum(if(s.c > 4, r.d, NULL) * s.b) FILTER (WHERE r.p)",
]
"""The same under conditions on both."""

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


def equals_duckdb(kit, pooled, data):
    r_unique, s_unique = data.draw(st.booleans()), data.draw(st.booleans())
    both = data.draw(tables(r_unique, s_unique))
    groups = data.draw(st.sampled_from(GROUPS))
    measures = data.draw(
        st.lists(st.sampled_from(MEASURES + CONDITIONS), min_size=1, max_size=3, unique=True)
    )
    sql = question(measures, groups)
    run = Run(kit, sql, both, catalogue(r_unique=r_unique, s_unique=s_unique))
    cells, summary = run.cells()
    found, expected = finish(run.plan, cells).to_pylist(), pooled(sql, both).to_pylist()
    if groups or cells.table.num_rows:
        assert cells.suppressed == summary.suppressed == 0
        same(found, expected, len(groups))
    else:  # nothing matched: the one cell is held back
        assert cells.suppressed == 1


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_answers_equal_duckdb(kit, pooled, data):
    equals_duckdb(kit, pooled, data)


@pytest.mark.deep
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_many_answers_equal_duckdb(kit, pooled, data):
    equals_duckdb(kit, pooled, data)


@pytest.mark.parametrize(
    ("measures", "groups"),
    [
        *((MEASURES[i::4], g) for i, g in enumerate(GROUPS)),
        (CONDITIONS[::3], ("r.h",)),
        pytest.param(CONDITIONS[1::3], ("s.g",), marks=pytest.mark.deep),
        pytest.param(CONDITIONS[2::3], (), marks=pytest.mark.deep),
    ],
)
def test_every_aggregate_over_rows_that_repeat(kit, pooled, measures, groups):
    rng = np.random.default_rng(5)
    left = [
        (
            int(rng.integers(0, 6)),
            "xy"[i % 2],
            int(rng.integers(1, 10**6)),
            Decimal(int(rng.integers(1, 5 * 10**5))).scaleb(-3),
            (True, False, True, None)[i // 2 % 4],
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
    sql = question(measures, groups)
    run = Run(kit, sql, both)
    same(run.answer(), pooled(sql, both).to_pylist(), len(groups))


# --- rows without a match

KEEPING = "FROM sz.sales s LEFT JOIN hk.loans r ON r.k = s.k"
KEPT = [
    f"SELECT r.h, count(*) n, sum(s.b) x, avg(s.c) a, count(DISTINCT s.k) k {KEEPING} GROUP BY r.h",
    f"SELECT r.h, s.g, count(s.c) n, sum(s.c) FILTER (WHERE s.b > 0) x {KEEPING} AND r.p GROUP BY 1, 2",
    f"SELECT coalesce(r.h, 'x') AS h, sum(s.b * s.c) x, corr(s.b, s.c) r, count(*) n {KEEPING} GROUP BY 1",
]


@pytest.mark.parametrize(
    ("sql", "unique"),
    [
        (KEPT[0], False),
        *(pytest.param(sql, u, marks=pytest.mark.deep) for sql in KEPT for u in (sql != KEPT[0], True)),
    ],
)
def test_rows_that_are_kept_count_as_often_as_they_match(kit, pooled, sql, unique):
    """Labels of rows that match may be NULL, too: SQL makes one group of them and of rows without a match."""
    rng = np.random.default_rng(len(sql))
    left = [
        (int(k), "xy"[i % 2] if i % 3 else None, i, None, i % 4 > 0)
        for i, k in enumerate(rng.integers(0, 5, 14))
    ]
    keys = rng.permutation(12) if unique else rng.integers(0, 8, 12)
    right = [
        (int(k), "uv"[i % 2], Decimal(int(b)).scaleb(-2), i % 5 or None, 0.5)
        for i, (k, b) in enumerate(zip(keys, rng.integers(-999, 999, 12), strict=True))
    ]
    right += [(None, "u", Decimal(7), 3, None), (None, "u", None, 4, None)]
    both = {"hk.loans": loans([*left, (None, "x", 5, None, True)]), "sz.sales": sales(right)}
    run = Run(kit, sql, both, catalogue(s_unique=unique))
    assert run.plan.receiver is not None
    assert run.plan.receiver.weights
    same(run.answer(), pooled(sql, both).to_pylist(), 1 + ("s.g" in sql))


def test_the_gate_judges_rows_without_a_match_with_their_total_and_what_matched(kit):
    """Of 12 keys 8 match, twice each: the rest, 4, is the smallest of the three, however rows count."""
    left = [(k, "x", 1, None, True) for k in range(8) for _ in range(2)]
    both = {"hk.loans": loans(left), "sz.sales": sales([(k, "u", None, 1, None) for k in range(12)])}
    sql = f"SELECT r.h, count(*) n, sum(s.c) x {KEEPING} GROUP BY r.h"
    shown = {least: Run(kit, sql, both, minimum=least).answer() for least in (4, 5)}
    rest, matched = {"h": None, "n": 4, "x": 4}, {"h": "x", "n": 16, "x": 16}
    assert sorted(shown[4], key=str) == sorted([rest, matched], key=str)
    assert shown[5] == [matched]


def test_without_the_owners_word_rows_that_repeat_are_no_left_join(kit):
    both = {"hk.loans": loans([(1, "x", 1, None, True)] * 2), "sz.sales": sales([(1, "u", None, 1, None)])}
    with pytest.raises(DataError, match=r"weighted: true.*data\.asker-key-not-unique"):
        Run(kit, KEPT[0], both, demands=NOTHING_DEMANDED).roles()


# --- what is planned, revealed and demanded


def planned(sql, known=None, demands=ALLOWED):
    return prepare(sql, "hk", known or catalogue(), demands={"sz.sales": demands})


WEIGHTS = Disclosure(Party.SENDER, Fact.WEIGHT_FIGURES)


def test_what_needs_only_the_matches_is_summed_by_the_asker_itself():
    known = catalogue(s_unique=True)
    found = planned(
        f"SELECT r.h, sum(r.a), count(*), avg(r.d) FROM {JOIN} GROUP BY 1", known, NOTHING_DEMANDED
    )
    assert found.plan.receiver.partials
    assert found.plan.receiver.weights == ()
    assert WEIGHTS not in found.plan.reveals
    assert not any(use.weighted for use in found.uses["sz.sales"])
    # The owner's rows are counted by it, and its policy has to allow that.
    assert {u.column: u.aggregated for u in found.uses["sz.sales"]}["*"] == {"count"}


def test_weights_are_a_fact_for_the_policy_and_a_disclosure():
    for sql in (
        f"SELECT sum(r.a * s.c) FROM {JOIN}",
        f"SELECT corr(r.a, s.c) FROM {JOIN}",
        f"SELECT s.g, sum(r.a) FROM {JOIN} GROUP BY 1",
    ):
        found = planned(sql, catalogue(r_unique=True, s_unique=True), NOTHING_DEMANDED)
        assert found.plan.receiver.weights
        assert WEIGHTS in found.plan.reveals
        marked = {use.column for use in found.uses["sz.sales"] if use.weighted}
        assert marked == ({"*"} if "s.g" in sql else {"c"})


def test_a_question_without_weights_is_planned_as_it_was():
    found = planned(f"SELECT r.h, sum(s.b), count(*) FROM {JOIN} GROUP BY 1", catalogue(r_unique=True))
    assert found.plan.receiver.partials == found.plan.receiver.weights == ()
    assert found.plan.parameters["weight_bound"] is None
    assert WEIGHTS not in found.plan.reveals


def test_rows_that_repeat_are_counted_where_the_policy_allows_it(kit, pooled):
    both = {
        "hk.loans": loans([(1, "x", 5, None, True)] * 2),
        "sz.sales": sales([(1, "u", Decimal(3), 1, 0.5)] * 2),
    }
    sql = f"SELECT count(*) AS n, sum(s.b) AS s FROM {JOIN}"
    assert Run(kit, sql, both).answer() == pooled(sql, both).to_pylist() == [{"n": 4, "s": Decimal(12)}]
    with pytest.raises(DataError, match=r"data\.asker-key-not-unique"):
        Run(kit, sql, both, demands=NOTHING_DEMANDED).roles()
    # Where the owner's keys do not repeat, no weight is needed to count the asker's rows.
    once = both | {"sz.sales": both["sz.sales"].slice(0, 1)}
    counted = Run(
        kit, f"SELECT count(*) AS n FROM {JOIN}", once, catalogue(s_unique=True), demands=NOTHING_DEMANDED
    )
    assert counted.answer() == [{"n": 2}]
    assert not counted.plan.receiver.weights


def test_a_sender_whose_key_repeats_although_declared_unique_answers_nothing(kit):
    both = {
        "hk.loans": loans([(1, "x", 5, None, True)]),
        "sz.sales": sales([(1, "u", Decimal(3), 1, 0.5)] * 2),
    }
    run = Run(kit, f"SELECT sum(r.a) AS s FROM {JOIN}", both, catalogue(s_unique=True))
    outcome, wire = kit.relay(*run.roles())
    assert outcome[Party.SENDER].code == "data.not-unique"
    assert all(sent.author is Party.RECEIVER for sent in wire)


def test_rows_looked_up_by_a_semi_join_are_summed_once(kit, pooled):
    both = {
        "hk.loans": loans([(1, "x", 5, None, True), (1, "y", 7, None, True), (2, "x", 9, None, True)]),
        "sz.sales": sales([(1, "u", None, None, None)] * 3),
    }
    sql = "SELECT sum(r.a) AS s, count(*) AS n FROM hk.loans r SEMI JOIN sz.sales s ON r.k = s.k"
    run = Run(kit, sql, both, demands=NOTHING_DEMANDED)
    assert run.answer() == pooled(sql, both).to_pylist() == [{"s": 12, "n": 2}]


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("sum(CASE WHEN r.p THEN s.c ELSE 0 END)", "query.weighted-not-available"),
        ("sum(CASE WHEN r.p THEN s.c ELSE 1 END)", "query.weighted-not-available"),
        ("sum(CASE WHEN r.p THEN s.c WHEN s.c > 1 THEN r.a END)", "query.weighted-not-available"),
        ("sum(CASE r.a WHEN s.c THEN 1 END)", "query.both-sides"),
        ("sum(CASE WHEN r.p OR s.c > 1 THEN r.a END)", "query.both-sides"),
        ("count(*) FILTER (WHERE r.p OR s.c > 1)", "query.both-sides"),
        ("count(*) FILTER (WHERE r.a > s.c)", "query.both-sides"),
        ("sum(coalesce(r.a, s.c))", "query.weighted-not-available"),
        ("max(r.a)", "query.extreme-joint"),
        ("sum(r.h * s.c)", "query.type"),
        ("sum((r.a + s.c) * (r.a + s.c) * (r.a + s.c) * (r.a + s.c) * (r.a + s.c))", "query.measure"),
    ],
)
def test_what_no_sum_of_products_is_says_so(sql, code):
    with pytest.raises(QueryError) as caught:
        planned(f"SELECT {sql} FROM {JOIN}")
    assert caught.value.code == code


def test_an_overflow_is_refused_when_it_is_planned():
    wide = ("-" + "9" * 37, "9" * 37)
    known = {
        name: replace(
            i,
            columns=tuple(
                replace(c, bounds=wide, type="decimal(37,0)") if c.name in "ab" else c for c in i.columns
            ),
        )
        for name, i in catalogue().items()
    }
    for measure in ("sum(r.a * s.b)", "var_pop(r.a)"):
        with pytest.raises(QueryError) as caught:
            planned(f"SELECT {measure} FROM {JOIN}", known)
        assert caught.value.code == "query.overflow"


def test_a_stricter_level_names_what_would_do():
    strict = {**catalogue(), "sz.sales": info(SALES, disclosure=Level.CARDINALITY)}
    with pytest.raises(QueryError, match=r"psi_aggregate.*'receiver'.*sz\.sales \(cardinality\)") as caught:
        planned(f"SELECT sum(r.a) FROM {JOIN}", strict)
    assert caught.value.code == "query.weighted-not-available"
    assert planned(f"SELECT sum(s.c) FROM {JOIN}", strict).plan.protocol == "private_join_and_compute"


def test_limbs_of_both_sides_come_back_exact(kit, pooled):
    wide = ("-" + "9" * 17, "9" * 17)
    known = {
        name: replace(
            i,
            columns=tuple(replace(c, bounds=wide, type="int64") if c.name in "ab" else c for c in i.columns),
        )
        for name, i in catalogue().items()
    }
    top = 10**17 - 1
    left = loans([(1, "x", top, None, True), (1, "x", -7, None, True), (2, "x", -top, None, True)])
    right = pa.table(
        {**{c: sales([(1, "u", None, 1, 0.1)] * 3)[c] for c in "gcf"}, "k": [1, 2, 2], "b": [top, top, -3]}
    )
    both = {"hk.loans": left, "sz.sales": right.select(list("kgbcf"))}
    sql = f"SELECT sum(CAST(r.a AS HUGEINT) * s.b) AS s FROM {JOIN}"
    run = Run(kit, sql.replace("CAST(r.a AS HUGEINT)", "r.a"), both, known)
    assert any(":" in name for t in run.plan.figures[0].totals for name in t.partials)
    assert max(len(t.partials) for t in run.plan.figures[0].totals) > 3
    assert run.answer() == pooled(sql, both).to_pylist()


# --- what leaks, and what an attack gains

ISOLATE = f"SELECT r.h, sum(r.a * s.c) AS s, count(*) AS n FROM {JOIN} GROUP BY r.h"
ONCE = catalogue(r_unique=True, s_unique=True)


def parties(weights, values=(1, 2, 3, 4, 5, 6)):
    return {
        "hk.loans": loans([(k, "x", w, None, True) for k, w in enumerate(weights)]),
        "sz.sales": sales([(k, "u", None, v, None) for k, v in enumerate(values)]),
    }


def test_one_weight_that_is_not_zero_does_not_isolate_a_row(kit):
    run = Run(kit, ISOLATE, parties([0, 0, 9, 0, 0, 0]), ONCE, minimum=3)
    cells, summary = run.cells()
    assert (cells.table.num_rows, cells.suppressed) == (0, 1)
    assert [counts.tolist() for counts in run.asked] == [[[1]]]
    assert summary == Summary(0, 1, WeightFigures(0, 167))  # six values that are not NULL weigh the same
    # NULL weighs nothing either, and three that do are enough.
    cells, summary = Run(kit, ISOLATE, parties([None, 3, 3, 3, 0, 0]), ONCE, minimum=3).cells()
    assert cells.table.num_rows == 1
    assert summary == Summary(1, 0, WeightFigures(3, 334))


def test_what_the_asker_sums_itself_isolates_no_row_either(kit):
    sql = f"SELECT r.h, sum(r.a) AS s FROM {JOIN} GROUP BY r.h"
    left = [(k, "x", 9 if k == 2 else 0, None, True) for k in range(6)]
    left += [(k + 6, "y", k, None, True) for k in range(6)]
    both = {"hk.loans": loans(left), "sz.sales": sales([(k, "u", None, 1, None) for k in range(12)])}
    run = Run(kit, sql, both, ONCE, minimum=3, demands=NOTHING_DEMANDED)
    cells, summary = run.cells()
    assert not run.plan.receiver.weights
    assert finish(run.plan, cells).to_pylist() == [{"h": "y", "s": 15}]
    assert (cells.suppressed, summary) == (1, Summary(1, 0))
    # Alone it is one cell, which the owner counts as held back.
    alone = Run(kit, f"SELECT sum(r.a) FILTER (WHERE r.a = 9) AS s FROM {JOIN}", both, ONCE, minimum=3)
    cells, summary = alone.cells()
    assert (cells.table.num_rows, cells.suppressed, summary) == (0, 1, Summary(0, 1))
    assert alone.asked[0].tolist() == [[0]]


def test_a_cell_of_zeros_counts_as_held_back(kit):
    run = Run(kit, ISOLATE, parties([0, 0, 0, 0, 0, 0]), ONCE, minimum=3)
    cells, summary = run.cells()
    assert cells.suppressed == summary.suppressed == 1
    # Without a minimum nothing is hidden: what nobody has is judged like one.
    assert Run(kit, ISOLATE, parties([0, 0, 0, 0, 0, 0]), ONCE).answer() == [{"h": "x", "s": 0, "n": 6}]


def test_the_owner_sees_how_many_weights_count_in_each_of_its_groups(kit):
    rows = [(k, "u" if k < 4 else "v", None, 1, None) for k in range(6)]
    both = parties([5, 0, 1, 2, 0, 3]) | {"sz.sales": sales(rows)}
    run = Run(kit, f"SELECT s.g, sum(r.a) AS s FROM {JOIN} GROUP BY 1", both, ONCE)
    run.cells()
    assert sorted(run.asked[0].ravel().tolist()) == [1, 3]


@pytest.mark.parametrize("share", [0, 199, 1001])
def test_figures_that_contradict_the_counts_are_refused(kit, share):
    run = Run(kit, ISOLATE, parties([7, 1, 1, 1, 1]), ONCE, minimum=3)

    def lie(_, sent):
        changed = sent.frame.kind == "weight-figures"
        return (
            [replace(sent, frame=kit.Frame("weight-figures", share.to_bytes(8, "big")))]
            if changed
            else [sent]
        )

    outcome, wire = kit.relay(*run.roles(), lie)
    assert isinstance(outcome[Party.SENDER], PeerViolation)
    assert outcome[Party.SENDER].code == "peer.weight-figures"
    assert not any(sent.frame.kind == "release" for sent in wire)


def test_figures_that_are_missing_are_refused(kit):
    run = Run(kit, ISOLATE, parties([7, 1, 1, 1, 1]), ONCE)
    outcome, _ = kit.relay(
        *run.roles(), lambda _, sent: [] if sent.frame.kind == "weight-figures" else [sent]
    )
    assert not outcome  # both wait until the transport ends it


def test_more_weights_than_selected_slots_are_refused(kit, monkeypatch):
    original = selection_sum._vectors

    def forged(group):
        mask, *weights = original(group)
        return [(mask[0][:1], None), *weights]

    monkeypatch.setattr(selection_sum, "_vectors", forged)
    outcome, _ = kit.relay(*Run(kit, ISOLATE, parties([1, 1, 1]), ONCE).roles())
    assert outcome[Party.SENDER].code == "peer.selection-sum-count"


def test_weights_beyond_their_bound_never_leave(kit):
    run = Run(kit, ISOLATE, parties([1, 1, 1]), ONCE)
    heavy = pa.array([1, 1, run.plan.receiver.weight_bound + 1], pa.int64())
    place = run.own.cells.schema.get_field_index(run.plan.receiver.weights[0])
    run.own = replace(run.own, cells=run.own.cells.set_column(place, run.plan.receiver.weights[0], heavy))
    outcome, wire = kit.relay(*run.roles())
    assert isinstance(outcome[Party.RECEIVER], DataError)
    assert outcome[Party.RECEIVER].code == "data.weights"
    assert not any(sent.frame.kind == "selection-sums" for sent in wire)


def test_values_of_the_asker_are_clamped_to_its_bounds(kit):
    both = parties([10**9, 1, 1], (1, 1, 1))
    assert Run(kit, f"SELECT sum(r.a * s.c) AS s FROM {JOIN}", both, ONCE).answer() == [{"s": 10**6 + 2}]


def test_frames_do_not_depend_on_weights_values_or_matches(kit):
    variants = [
        parties([1, 2, 3, 4, 5, 6]),
        parties([9, 9, 9, 9, 9, 9], (9, -9, 9, -9, 9, -9)),
        parties([0, 0, 0, 1, 1, 1]),
        parties([1, 2, 3, 4, 5, 6], ()),
        parties([1]),
    ]
    wires = []
    for i, both in enumerate(variants):
        run = Run(
            kit, ISOLATE, both, ONCE, minimum=17, seed=f"{i}"
        )  # nothing leaves: the release has no label
        run.owned = replace(run.owned, groups=1)
        wires.append(kit.shapes(kit.relay(*run.roles())[1]))
    assert all(shapes == wires[0] for shapes in wires)
    plain = Run(kit, ISOLATE.replace("r.a * s.c", "s.c"), variants[0], ONCE, minimum=17)
    assert kit.shapes(kit.relay(*plain.roles())[1]) != wires[0]  # control: weight columns are declared


def test_the_share_of_the_largest_weight_is_exact_and_rounds_up():
    def of(*weights):
        return ReceiverGroup(np.arange(len(weights)), (np.array(weights, np.int64),))

    assert _aggregate.largest_share([of(1, -1, 1)], 1) == 334
    assert _aggregate.largest_share([of(1, 1, 1), of(-9, 1)], 1) == 900
    assert _aggregate.largest_share([of(1, 1, 1), of(-9, 1)], 3) == 334  # two weights are never answered
    assert _aggregate.largest_share([of(*[2**59] * 4)], 1) == 250
    assert _aggregate.largest_share([of(0, 0)], 1) == 0
    assert _aggregate.exact_sum(np.array([2**62] * 8 + [-1])) == 2**65 - 1
