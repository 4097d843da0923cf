"""What a policy demands of a release, from the question to the answer: noise, bounds, dominance, minimum."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import count

import numpy as np
import pyarrow as pa
import pytest

from compute import contributions
from compute.dataset import Column, DatasetInfo
from compute.engine import Limits
from compute.errors import DataError, QueryError
from compute.finish import finish
from compute.inputs import Cells, Context
from compute.local import aggregate, join_input
from compute.noise import BILLION
from compute.planner import prepare
from compute.protocols import protocol_named
from compute.protocols._suppression import complemented
from compute.protocols.base import run_pair
from policy_enforcer.disclosure import Level
from policy_enforcer.obligations import NOTHING_DEMANDED, NoiseDemand, Obligations

LIMITS = Limits(threads=1)
INFO = DatasetInfo(
    participant="sz",
    name="t",
    columns=(
        Column("who", "string", nullable=False, key=("casefold",)),
        Column("area", "string"),
        Column("year", "int64"),
        Column("amount", "int64", bounds=("0", "100")),
        Column("spare", "int64", bounds=("0", "100")),
    ),
    rows_bound=10_000,
    keys_bound=1000,
    commitment="00" * 32,
    disclosure=Level.RECEIVER,
)
OWN = DatasetInfo(
    participant="hk",
    name="own",
    columns=(Column("who", "string", nullable=False, key=("casefold",)), Column("grade", "string")),
    rows_bound=1000,
    keys_bound=100,
    commitment="11" * 32,
    disclosure=Level.RECEIVER,
)
CATALOGUE = {"sz.t": INFO, "hk.own": OWN}
COUNTED = replace(NOTHING_DEMANDED, identity="who", minimum_identities=3)
NOISY = replace(
    COUNTED,
    minimum_identities=1,
    domains={"area": ("n", "s", "w"), "year": (2025, 2026)},
    rows_per_identity=4,
    cells_per_identity=2,
    noise=NoiseDemand("discrete-gaussian", BILLION // 2),
)
MECHANISMS = ["discrete-gaussian", "discrete-laplace"]


def stream(seed):
    blocks = (hashlib.shake_256(f"{seed} {i}".encode()).digest(1 << 14) for i in count())
    pool = bytearray()

    def entropy(n):
        while len(pool) < n:
            pool.extend(next(blocks))
        taken = bytes(pool[:n])
        del pool[:n]
        return taken

    return entropy


def rows(*given):
    """(who, area, year, amount, spare)"""
    names = ("who", "area", "year", "amount", "spare")
    kinds = (pa.string(), pa.string(), pa.int64(), pa.int64(), pa.int64())
    return pa.table(
        {n: pa.array([r[i] for r in given], k) for i, (n, k) in enumerate(zip(names, kinds, strict=True))}
    )


def planned(sql, demands):
    return prepare(sql, "hk", CATALOGUE, demands={"sz.t": demands}).plan


def released(sql, demands: Obligations, data, seed="seed") -> Cells:
    """What the asker holds after a query over `data` alone."""
    plan = planned(sql, demands)
    own = aggregate(plan.sender, INFO, demands, data, LIMITS)
    contexts = (
        Context(bytes(32), plan, stream(f"{seed} {i}"), lambda *_: None, 1, demands.complementary)
        for i in range(2)
    )
    protocol = protocol_named("single_domain")
    cells, _ = run_pair(
        protocol.receiver(next(contexts), None),
        protocol.sender(next(contexts), own, lambda counts: counts >= demands.minimum_identities),
    )
    finish(plan, cells)
    return cells


def answered(sql, demands, data, seed="seed"):
    plan = planned(sql, demands)
    return finish(plan, released(sql, demands, data, seed)).to_pylist()


# --- minimum on identities with a value


SPARSE = rows(*((f"p{i}", "n", 2025, 7, 42 if i == 0 else None) for i in range(5)))


@pytest.mark.parametrize(
    "figure", ["sum(spare)", "avg(spare)", "max(spare)", "count(spare)", "var_samp(spare)"]
)
def test_a_value_that_is_nearly_always_missing_is_not_shown_by_a_cell_of_many(figure):
    sql = f"SELECT area, {figure} AS f FROM sz.t GROUP BY 1"
    assert answered(sql, COUNTED, SPARSE) == []
    assert released(sql, COUNTED, SPARSE).suppressed == 1
    everybody = SPARSE.set_column(4, "spare", pa.array([1, 2, 3, 4, 5]))
    assert len(answered(sql, COUNTED, everybody)) == 1


def test_columns_without_gaps_count_everybody():
    assert answered("SELECT sum(amount) AS f, count(*) AS n FROM sz.t", COUNTED, SPARSE) == [
        {"f": 35, "n": 5}
    ]


def test_rows_of_one_person_are_one_identity_with_a_value():
    data = rows(
        *(("p0", "n", 2025, 1, i) for i in range(5)), *((f"p{i}", "n", 2025, 1, None) for i in range(4))
    )
    assert answered("SELECT sum(spare) AS f FROM sz.t", COUNTED, data) == []


# --- dominance


DOMINANT = replace(COUNTED, dominance=Fraction(7, 10))


@pytest.mark.parametrize(("large", "shown"), [(70, True), (71, False), (100, False), (10, True)])
def test_a_cell_that_one_identity_dominates_is_held_back(large, shown):
    data = rows(
        ("a", "n", 2025, large // 2, 1), ("a", "n", 2025, large - large // 2, 1), ("b", "n", 2025, 15, 1),
        ("c", "n", 2025, 15, 1), *((f"p{i}", "s", 2025, 20, 1) for i in range(4)),
    )  # fmt: skip
    found = answered("SELECT area, sum(amount) AS f FROM sz.t GROUP BY 1 ORDER BY 1", DOMINANT, data)
    assert [row["area"] for row in found] == (["n", "s"] if shown else ["s"])
    assert released("SELECT area, sum(amount) FROM sz.t GROUP BY 1", DOMINANT, data).suppressed == (not shown)


def test_shares_are_of_absolute_values_and_labels_may_be_missing():
    data = rows(("a", None, 2025, 90, 1), ("b", None, 2025, 5, 1), ("c", None, 2025, 5, 1))
    assert answered("SELECT area, sum(0 - amount) AS f FROM sz.t GROUP BY 1", DOMINANT, data) == []
    assert answered("SELECT sum(amount) AS f FROM sz.t", DOMINANT, data) == []
    assert answered("SELECT area, count(*) AS f FROM sz.t GROUP BY 1", DOMINANT, data) == [
        {"area": None, "f": 3}
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nobody_can_tell_a_share_of_what_is_no_number(value):
    figures = pa.table({"most0": [value, 0.5, None], "whole0": [value, 1.0, None]})
    assert contributions.dominated(figures, Fraction(7, 10)).tolist() == [True, False, False]


# --- complementary suppression


def complementary(table):
    """A table of counts with a minimum of 3: what of it leaves."""
    counts = np.array(table)
    codes = [code.ravel() for code in np.indices(counts.shape)]
    flat = counts.ravel()
    kept = complemented(flat >= 3, flat > 0, flat, codes)
    return kept.reshape(counts.shape).astype(int).tolist()


@pytest.mark.parametrize(
    ("table", "kept"),
    [
        ([5, 4, 9], [1, 1, 1]),
        ([5, 2, 9], [0, 0, 1]),
        ([5, 2, 9, 1], [0, 0, 1, 0]),  # two small ones together may be below the minimum
        ([2, 1], [0, 0]),
        ([5, 0, 9], [1, 0, 1]),  # nobody there is no secret here
        ([[5, 2, 9], [6, 7, 8], [9, 9, 9]], [[0, 0, 1], [0, 0, 1], [1, 1, 1]]),
        ([[2, 9], [9, 9]], [[0, 0], [0, 0]]),
    ],
)
def test_no_cell_follows_from_a_margin(table, kept):
    assert complementary(table) == kept


def test_every_line_that_holds_back_holds_back_two_and_one_that_would_have_passed():
    random = np.random.default_rng(5)
    for _ in range(60):
        counts = random.integers(0, 12, (4, 3, 3))
        codes = [code.ravel() for code in np.indices(counts.shape)]
        flat = counts.ravel()
        kept = complemented(flat >= 3, flat > 0, flat, codes).reshape(counts.shape)
        assert not (kept & (counts < 3)).any()
        for axis in range(3):
            held, passing = (counts > 0) & ~kept, (counts >= 3) & ~kept
            some = held.any(axis) & kept.any(axis)
            assert (held.sum(axis)[some] >= 2).all()
            assert passing.any(axis)[some].all()


def test_complementary_suppression_reaches_the_answer():
    data = rows(
        *((f"p{i}{area}", area, 2025, 1, 1) for area, n in (("n", 2), ("s", 4), ("w", 6)) for i in range(n))
    )
    sql = "SELECT area, sum(amount) AS f FROM sz.t GROUP BY 1 ORDER BY 1"
    assert [row["area"] for row in answered(sql, COUNTED, data)] == ["s", "w"]
    both = replace(COUNTED, complementary=True)
    assert [row["area"] for row in answered(sql, both, data)] == ["w"]
    assert released(sql, both, data).suppressed == 2


def test_the_number_of_suppressed_cells_is_hidden_where_the_policy_says_so():
    hidden = replace(COUNTED, suppressions_hidden=True)
    sql = "SELECT area, sum(amount) FROM sz.t GROUP BY 1"
    data = rows(("a", "n", 2025, 1, 1), *((f"p{i}", "s", 2025, 1, 1) for i in range(3)))
    assert (released(sql, COUNTED, data).suppressed, released(sql, hidden, data).suppressed) == (1, 0)
    assert planned(sql, COUNTED).says_suppressed
    assert not planned(sql, hidden).says_suppressed
    assert planned(sql, COUNTED).digest != planned(sql, hidden).digest


# --- contributions


def shares(data, demands=NOISY):
    """Rows per cell that enter the sums."""
    plan = planned("SELECT area, year, count(*) FROM sz.t GROUP BY 1, 2", demands)
    exact = aggregate(plan.sender, INFO, demands, data, LIMITS)
    return {(r["d0"], r["d1"]): int(r["m0"]) for r in exact.to_pylist() if r["m0"]}


def test_an_identity_enters_with_so_many_rows_and_cells_and_no_more():
    many = [("a", "n", 2025, 1, 1)] * 9
    assert sum(shares(rows(*many)).values()) == 4
    spread = [("a", area, year, i, 1) for i in range(5) for area in "nsw" for year in (2025, 2026)]
    assert sum(shares(rows(*spread)).values()) == 4
    found = shares(rows(*spread), replace(NOISY, rows_per_identity=100))
    assert sorted(found.values()) == [5, 5]
    assert shares(rows(*reversed(spread)), replace(NOISY, rows_per_identity=100)) == found


def test_adding_one_identity_changes_nobody_elses_part():
    random = np.random.default_rng(3)

    def of(who, n):
        return [
            (who, "nsw"[random.integers(3)], 2025 + random.integers(2), int(random.integers(100)), 1)
            for _ in range(n)
        ]

    others = [row for i in range(20) for row in of(f"p{i}", 8)]
    one = of("x", 30)
    before, after = Counter(shares(rows(*others))), Counter(shares(rows(*others, *one)))
    assert after - before == Counter(shares(rows(*one)))
    assert not before - after


def test_rows_without_an_identity_or_a_declared_label_belong_to_nobody():
    data = rows(
        (None, "n", 2025, 1, 1),
        ("a", "elsewhere", 2025, 1, 1),
        ("a", None, 2025, 1, 1),
        ("b", "n", 2025, 1, 1),
    )
    assert shares(data) == {("n", 2025): 1}


def test_bounds_hold_without_noise_too():
    plain = replace(NOISY, noise=None)
    assert answered("SELECT count(*) AS n FROM sz.t", plain, rows(*[("a", "n", 2025, 1, 1)] * 9)) == [
        {"n": 4}
    ]


def test_in_a_join_values_that_become_one_key_share_its_bound():
    demands = replace(NOISY, cells_per_identity=1, rows_per_identity=3)
    plan = planned("SELECT sum(t.amount) FROM hk.own o JOIN sz.t t ON o.who = t.who", demands)
    data = rows(
        *([("A", "n", 2025, 1, 1)] * 3), *([("a", "n", 2025, 1, 1)] * 3), *([("b", "n", 2025, 1, 1)] * 2)
    )
    own = join_input(plan.sender, INFO, data, LIMITS, demands)
    assert sorted(own.cells["rows"].to_pylist()) == [2, 3]
    assert len(own.keys) == 2


def test_in_a_join_a_key_counts_in_so_many_cells():
    demands = replace(NOISY, noise=None, cells_per_identity=2, rows_per_identity=100)
    plan = planned(
        "SELECT t.area, sum(t.amount) FROM hk.own o JOIN sz.t t ON o.who = t.who GROUP BY 1", demands
    )
    data = rows(*(("a", area, 2025, 1, 1) for area in "nswxyz"), *(("b", area, 2025, 1, 1) for area in "ns"))
    own = join_input(plan.sender, INFO, data, LIMITS, demands)
    assert Counter(own.cells["key"].to_pylist()) == {0: 2, 1: 2}


def test_an_identity_column_that_is_unique_needs_no_bound():
    assert contributions.repeated(INFO, NOISY)
    unique = replace(INFO, columns=(replace(INFO.columns[0], unique=True), *INFO.columns[1:]))
    assert not contributions.repeated(unique, NOISY)


# --- noise


CELLS = "SELECT area, year, sum(amount) AS s, count(*) AS n, avg(amount) AS a FROM sz.t GROUP BY 1, 2"


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_declared_cell_is_answered_also_the_empty_ones(mechanism):
    demands = replace(NOISY, noise=NoiseDemand(mechanism, BILLION))
    for data in (rows(), SPARSE):
        found = answered(CELLS, demands, data)
        assert {(row["area"], row["year"]) for row in found} == {(a, y) for a in "nsw" for y in (2025, 2026)}
        assert all(row["s"] is not None for row in found)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_released_figures_scatter_around_the_truth_as_much_as_the_loss_allows(mechanism):
    years = tuple(range(2000, 2400))
    demands = replace(NOISY, noise=NoiseDemand(mechanism, BILLION // 2), domains={"year": years})
    sql = "SELECT year, sum(amount) AS s, count(*) AS n FROM sz.t GROUP BY 1"
    data = rows(*((f"p{i}", "n", 2025, i, 1) for i in range(100)))
    found = answered(sql, demands, data)
    for name, partial, truth in zip("sn", planned(sql, demands).sender.partials, (4950, 100), strict=True):
        noise = [int(row[name]) - (truth if row["year"] == 2025 else 0) for row in found]
        scale = float(Fraction(partial.noise))
        variance = scale if mechanism == "discrete-gaussian" else 2 * scale**2
        assert abs(np.mean(noise)) < 5 * (variance / len(noise)) ** 0.5
        assert abs(np.var(noise) / variance - 1) < 0.4
        assert len(set(noise)) > 20


def test_the_loss_of_all_figures_together_is_what_the_policy_says():
    plan = planned(CELLS, NOISY)
    rows_most = 4
    spent = sum(
        Fraction((rows_most * p.row_bound) ** 2) / (2 * Fraction(p.noise)) for p in plan.sender.partials
    )
    assert spent == Fraction(1, 2)
    with_minimum = planned(CELLS, replace(NOISY, minimum_identities=5))
    spent = sum(
        Fraction((rows_most * p.row_bound) ** 2) / (2 * Fraction(p.noise))
        for p in with_minimum.sender.partials
    ) + Fraction(2) / (2 * Fraction(with_minimum.noise.identities))
    assert spent == Fraction(1, 2)


def test_a_minimum_under_noise_is_held_against_a_noisy_count():
    years = tuple(range(2000, 2300))
    demands = replace(NOISY, minimum_identities=5, domains={"year": years})
    data = rows(*((f"p{i} {year}", "n", year, 1, 1) for i in range(5) for year in years[:150]))
    found = answered("SELECT year, sum(amount) AS s FROM sz.t GROUP BY 1", demands, data)
    passed = Counter(row["year"] < 2150 for row in found)
    assert 60 < passed[True] < 110  # five of five: about as often as not
    assert passed[False] < 30  # nobody, and a standard deviation of two


def test_noise_is_fresh_at_every_answer():
    found = [str(answered(CELLS, NOISY, SPARSE, seed)) for seed in range(3)]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT count(DISTINCT t.who) FROM hk.own o JOIN sz.t t ON o.who = t.who", "query.noise"),
        ("SELECT sum(amount * amount * amount * amount * amount * amount * amount) FROM sz.t", None),
        ("SELECT o.grade, sum(t.amount) FROM hk.own o LEFT JOIN sz.t t ON o.who = t.who GROUP BY 1", "query"),
    ],
)
def test_what_no_noise_hides_is_not_planned(sql, why):
    if why is None:
        assert planned(sql, NOISY).sender.partials[0].tail > 10**14
        return
    with pytest.raises(QueryError) as refused:
        planned(sql, NOISY)
    assert refused.value.code.startswith(why)


@pytest.mark.parametrize("figure", ["max(amount)", "var_samp(amount)", "count(DISTINCT area)"])
def test_a_figure_without_noise_never_leaves(figure):
    """The decision refuses these queries; this is what happens if it did not."""
    plan = planned(f"SELECT {figure} AS f FROM sz.t", NOISY)
    if any(not p.noise for p in plan.sender.partials):
        with pytest.raises(DataError) as refused:
            released(f"SELECT {figure} AS f FROM sz.t", NOISY, SPARSE)
        assert refused.value.code == "data.without-noise"


def test_identities_may_be_counted_with_noise():
    plan = planned("SELECT count(DISTINCT who) AS n FROM sz.t", NOISY)
    assert Fraction(plan.sender.partials[0].noise) == Fraction(2)  # two cells at most: 2 / (2 rho)
    assert type(answered("SELECT count(DISTINCT who) AS n FROM sz.t", NOISY, SPARSE)[0]["n"]) is int


def test_labels_that_do_not_fit_their_column_are_refused():
    with pytest.raises(QueryError) as refused:
        planned(CELLS, replace(NOISY, domains={"area": ("n",), "year": ("2025",)}))
    assert refused.value.code == "query.domain"


def test_the_plan_commits_to_the_noise():
    louder = replace(NOISY, noise=NoiseDemand("discrete-gaussian", BILLION))
    assert planned(CELLS, NOISY).digest != planned(CELLS, louder).digest
    assert planned(CELLS, NOISY).maximum_cells == 6


# --- joint queries


def jointly(sql, demands: Obligations, data, own, seed="seed") -> Cells:
    """What the asker holds after a join of `own` (who, grade) with `data`, by a real protocol."""
    plan = planned(sql, demands)
    inputs = (
        join_input(
            plan.receiver, OWN, pa.table({"who": [r[0] for r in own], "grade": [r[1] for r in own]}), LIMITS
        ),
        join_input(plan.sender, INFO, data, LIMITS, demands),
    )
    contexts = [
        Context(
            bytes(32),
            plan,
            stream(f"{seed} {i}"),
            lambda *_: None,
            demands.minimum_identities,
            demands.complementary,
        )
        for i in range(2)
    ]
    protocol = protocol_named(plan.protocol)
    cells, _ = run_pair(
        protocol.receiver(contexts[0], inputs[0]),
        protocol.sender(contexts[1], inputs[1], lambda counts: counts >= demands.minimum_identities),
    )
    return cells


PEOPLE = [(f"p{i}", "good" if i < 5 else "bad") for i in range(10)]
BY_GRADE = "SELECT o.grade, {} FROM hk.own o JOIN sz.t t ON o.who = t.who GROUP BY 1 ORDER BY 1"


def test_in_a_join_too_a_value_that_is_nearly_always_missing_is_not_shown():
    data = rows(*((f"p{i}", "n", 2025, 7, 42 if i in (0, 5, 6, 7) else None) for i in range(10)))
    for figure in ("sum(t.spare) AS f", "avg(t.spare) AS f, count(*) AS n"):
        sql = BY_GRADE.format(figure)
        cells = jointly(sql, COUNTED, data, PEOPLE)
        assert [row["grade"] for row in finish(planned(sql, COUNTED), cells).to_pylist()] == ["bad"]
        assert cells.suppressed == 1
        assert cells.table["identities"].to_pylist() == [5]
    everybody = finish(
        planned(BY_GRADE.format("count(*) AS n"), COUNTED),
        jointly(BY_GRADE.format("count(*) AS n"), COUNTED, data, PEOPLE),
    )
    assert everybody.to_pylist() == [{"grade": "bad", "n": 5}, {"grade": "good", "n": 5}]


@pytest.mark.parametrize(
    ("with_values", "shown"),
    [
        (range(10), [None, "good"]),
        ([*range(5), 9], ["good"]),  # one value among those without a match
        ([0, *range(5, 10)], []),  # the rest, less the total, would be one value
        ([*range(5), 7, 8, 9], [None, "good"]),
    ],
)
def test_rows_without_a_match_need_enough_values_too(with_values, shown):
    data = rows(*((f"p{i}", "n", 2025, 7, 42 if i in with_values else None) for i in range(10)))
    sql = "SELECT o.grade, sum(t.spare) AS f FROM sz.t t LEFT JOIN hk.own o ON t.who = o.who GROUP BY 1"
    cells = jointly(sql, COUNTED, data, PEOPLE[:5])
    found = [row["grade"] for row in finish(planned(sql, COUNTED), cells).to_pylist()]
    assert sorted(found, key=str) == shown
    if with_values == range(10):
        assert cells.suppressed == 0


def test_a_minimum_costs_fields_only_where_values_may_be_missing():
    assert planned(BY_GRADE.format("count(*) AS n"), COUNTED).parameters.get("valued", 0) == 0
    assert planned(BY_GRADE.format("sum(t.spare) AS f"), COUNTED).parameters["valued"] == 1
    assert planned(BY_GRADE.format("sum(t.spare) AS f"), NOTHING_DEMANDED).parameters.get("valued", 0) == 0


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_in_a_join_sums_carry_noise_that_the_plan_has_room_for(mechanism):
    demands = replace(NOISY, noise=NoiseDemand(mechanism, BILLION // 2))
    data = rows(*((f"p{i}", "n", 2025, 7, None) for i in range(10)))
    sql = BY_GRADE.format("sum(t.amount) AS s, count(*) AS n")
    plan = planned(sql, demands)
    assert [bound[1] for bound in plan.parameters["bounds"]] == [str(p.tail) for p in plan.sender.partials]
    cells = jointly(sql, demands, data, PEOPLE)
    again = jointly(sql, demands, data, PEOPLE, "another seed")
    assert cells.table["identities"].to_pylist() == [5, 5]  # of a level below hidden: known anyway
    for partial, truth in zip(plan.sender.partials, (35, 5), strict=True):
        noise = [int(v) - truth for found in (cells, again) for v in found.table[partial.name].to_pylist()]
        assert all(abs(x) <= partial.tail for x in noise)
        assert len(set(noise)) > 1
    assert len(finish(plan, cells)) == 2


def test_under_noise_a_key_of_the_asker_counts_in_one_group():
    data = rows(("p0", "n", 2025, 7, None))
    with pytest.raises(DataError) as refused:
        jointly(BY_GRADE.format("sum(t.amount) AS s"), NOISY, data, [("p0", "good"), ("p0", "bad")])
    assert refused.value.code == "data.key-in-several-groups"


def test_complementary_and_hidden_suppression_in_a_join():
    data = rows(*((f"p{i}", "n", 2025, 7, 1) for i in range(10)))
    own = [(f"p{i}", grade) for i, grade in enumerate("aabbbccccc")]
    sql = BY_GRADE.format("sum(t.amount) AS s")
    assert jointly(sql, COUNTED, data, own).suppressed == 1
    both = replace(COUNTED, complementary=True)
    assert (jointly(sql, both, data, own).suppressed, len(jointly(sql, both, data, own).table)) == (2, 1)
    assert jointly(sql, replace(both, suppressions_hidden=True), data, own).suppressed == 0
