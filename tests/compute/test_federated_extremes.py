"""MIN and MAX over a federation: those of the pooled rows, and nothing else to be seen of anybody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from compute import extremes, federation, pooling
from compute.engine import Limits
from compute.errors import PeerViolation, QueryError
from compute.federation import Contribution, Totals
from compute.finish import finish
from compute.local import aggregate
from compute.planner import prepare
from compute.pooling import Part
from compute.protocols import PROTOCOLS, he_sum
from policy_enforcer.facts import ColumnUse
from tests.compute import test_pooling as pooled_rounds
from tests.compute.test_federation_answers import (
    DEMANDS,
    FIGURES,
    LOANS,
    TABLES,
    asked,
    duck,
    prepared,
    round_of,
    table,
)

NUMBERED = "width_bucket(overdue, -640, 640, 16)"
BY_HAND = "CASE WHEN overdue IS NULL THEN NULL ELSE 1 + (overdue + 640) // 80 END"
TOP = "SELECT max(width_bucket(overdue, [0, 300])) AS b FROM federation.loans"


def test_each_place_has_the_extremes_of_the_pooled_rows() -> None:
    sql = (
        f"SELECT 地区, count(*) AS n, max({NUMBERED}) AS top, min({NUMBERED}) AS least, "
        f"max({NUMBERED}) FILTER (WHERE rate < 0) AS some FROM federation.loans "
        f"GROUP BY 地区 HAVING max({NUMBERED}) > 0 ORDER BY top, 地区"
    )
    found = asked(sql)
    assert found == duck(sql.replace(NUMBERED, BY_HAND))
    assert len({(row["top"], row["least"], row["some"]) for row in found}) > 1
    asked_for_amounts = "SELECT min(width_bucket(amount, [-9990, 0, 9990])) AS a FROM federation.loans"
    (low,) = duck("SELECT min(amount) AS low FROM federation.loans")
    assert asked(asked_for_amounts) == [{"a": int(low["low"] >= -9990)}]


def test_a_column_of_few_values_has_its_own_scale_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round of masked_sum over years from 2020 to 2030; what lies beyond them counts as the bound."""
    columns = [
        replace(column, bounds=("2020", "2030")) if column.name == "year" else column
        for column in pooled_rounds.LOANS.columns
    ]
    monkeypatch.setattr(pooled_rounds, "LOANS", replace(pooled_rounds.LOANS, columns=tuple(columns)))
    sql = (
        "SELECT region, max(year) AS a, min(year) AS b FROM federation.loans GROUP BY region ORDER BY region"
    )
    question = pooled_rounds._prepared(sql, n=2)
    assert question.plan.protocol == "masked_sum"
    tables = [years((2026, None)), years((2024, None, 1969))]
    answer, _ = pooled_rounds._answer(question, tables)
    assert answer.to_pylist() == [{"region": "深圳", "a": 2026, "b": 2020}]
    assert answer.schema.field("a").type == pa.int64()


def years(values: tuple[int | None, ...]) -> pa.Table:
    made: dict[str, list[Any]] = {name: [None] * len(values) for name in pooled_rounds.TYPES}
    made |= {"client": ["a"] * len(values), "region": ["深圳"] * len(values), "year": list(values)}
    return pa.table({name: pa.array(made[name], kind) for name, kind in pooled_rounds.TYPES.items()})


def drawn(*words: int) -> Any:
    """Entropy that gives these words."""
    left: Iterator[int] = iter(words)
    return lambda _size: (next(left) % 2**128).to_bytes(16, "little")


def test_a_position_shows_that_it_is_reached_and_neither_by_whom_nor_by_how_many() -> None:
    """For every sum but zero there are as many draws of the participants' words, whoever they are: all
    but one are free, and the last makes the sum. So it is simulated from the answer by one uniform word."""
    plan, seen = prepared(TOP).plan, 0x0123456789ABCDEF << 60
    nobody = Contribution((3,), ((1,), (0,), (0,)))
    reaching = Contribution((3,), ((1,), (1,), (0,)))
    free = (5, 2**127 + 3)
    for number in (1, 2, 3):
        words = [*free[: number - 1], seen - sum(free[: number - 1])]
        parts = [extremes.hidden(plan, reaching, drawn(1, word)) for word in words]
        parts += [extremes.hidden(plan, nobody, drawn(1))] * (3 - number)
        total = federation.added([federation.words(part.measured([True])) for part in parts])
        assert [x % 2**128 for x in federation.integers(total)[1:]] == [seen, 0]


def test_a_word_is_never_zero_and_always_fresh() -> None:
    plan = prepared(TOP).plan
    own = extremes.hidden(plan, Contribution((3,), ((1,), (1,), (0,))), drawn(0, 7, 0, 0, 9))
    assert own.measures == ((7,), (9,), (0,))


def test_a_position_without_the_one_before_it_is_refused() -> None:
    plan = prepared(TOP).plan
    assert extremes.opened(plan, Totals((3,), (1,), ((8,), (-5,), (0,)))).measures == ((1,), (1,), (0,))
    with pytest.raises(PeerViolation) as error:
        extremes.opened(plan, Totals((3,), (1,), ((8,), (0,), (5,))))
    assert error.value.code == "peer.totals"


def test_who_has_no_value_helps_no_minimum() -> None:
    """Identities behind a maximum are those with a value of it, as behind a sum."""
    clients = "count(DISTINCT client) FILTER (WHERE overdue IS NOT NULL)"
    counts = [duck(f"SELECT {clients} AS n FROM federation.loans", [one])[0]["n"] for one in TABLES]
    everybody = [
        duck("SELECT count(DISTINCT client) AS n FROM federation.loans", [one])[0]["n"] for one in TABLES
    ]
    silent = TABLES[0].set_column(3, "overdue", pa.nulls(TABLES[0].num_rows, pa.int64()))
    assert sum(counts[1:]) < sum(everybody)
    least = sum(counts[1:]) + 1
    assert asked(TOP, [silent, *TABLES[1:]], total=(least, 1)) == []
    assert asked(TOP, [silent, *TABLES[1:]], total=(least - 1, 1)) != []


def test_the_askers_own_rows_reach_further_or_not() -> None:
    sql = f"SELECT max({NUMBERED}) AS top, min({NUMBERED}) AS least FROM federation.loans"
    question, mine = prepared(sql), table(9, 80)
    own = aggregate(question.plan.sender, LOANS, DEMANDS, mine, Limits(threads=1))
    cells = pooling.with_own(question.plan, round_of(question, TABLES), own)
    assert finish(question.plan, cells).to_pylist() == duck(sql.replace(NUMBERED, BY_HAND), [*TABLES, mine])


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        ("min(overdue)", "width_bucket(overdue, -640, 640, 64)"),
        ("max(rate)", "width_bucket(rate, [edges])"),
        ("max(overdue + 1)", "width_bucket(expression, [edges])"),
        ("max(client)", "width_bucket(client, [edges])"),
    ],
)
def test_what_has_no_scale_is_refused_with_what_has(what: str, instead: str) -> None:
    with pytest.raises(QueryError, match="scale") as error:
        prepared(f"SELECT {what} FROM federation.loans")
    assert (error.value.code, instead in error.value.sentence) == ("query.extreme-joint", True)


def test_a_threshold_key_adds_no_words_of_128_bits() -> None:
    assert prepared(TOP).plan.protocol == "masked_sum"
    parts = [Part(f"bank-{i}.loans", LOANS.rows_bound) for i in range(3)]
    info = pooling.pooled("loans", LOANS, parts)
    names = {info.full_name: info}
    with pytest.raises(QueryError) as error:
        prepare(TOP, "asker", names, [he_sum.PROTOCOL], {info.full_name: DEMANDS}, parts)
    assert error.value.code == "plan.extreme-threshold"
    assert prepare(TOP, "asker", names, PROTOCOLS, {info.full_name: DEMANDS}, parts)


def test_the_policy_names_the_function() -> None:
    (uses,) = prepared(TOP).uses.values()
    assert [(use.column, use.aggregated, use.conditional) for use in uses] == [("overdue", {"max"}, False)]


def use_of(sql: str, column: str = "overdue") -> ColumnUse:
    (uses,) = prepared(sql).uses.values()
    (found,) = [use for use in uses if use.column == column]
    return found


@pytest.mark.parametrize("function", ["min", "max"])
@pytest.mark.parametrize(
    ("value", "functions"),
    [
        ("CASE WHEN overdue = 7 THEN amount ELSE -10000 END", {"case"}),
        ("if(overdue > 17, amount, -10000)", {"case"}),
        ("nullif(overdue, 5)", {"nullif"}),
        ("coalesce(overdue, 5)", {"coalesce"}),
        ("greatest(overdue, 5)", {"greatest"}),
        ("amount * overdue", {"arithmetic", "product"}),
    ],
)
def test_what_chooses_between_values_under_an_extreme_is_a_condition(
    function: str, value: str, functions: set[str]
) -> None:
    """Else one query for each value of `overdue` reads the amount of the one row that has it."""
    use = use_of(f"SELECT {function}(width_bucket({value}, -10000, 10000, 250)) AS b FROM federation.loans")
    assert use.functions == functions
    assert use.conditional or "product" in functions
    plain = use_of(f"SELECT {function}(width_bucket(overdue, [0, 300])) AS b FROM federation.loans")
    assert not plain.conditional
    assert plain.filtered == plain.functions == frozenset()


@pytest.mark.parametrize("aggregate", [*FIGURES, "max(width_bucket(overdue, [0, 300]))"])
def test_no_figure_of_a_federation_takes_a_condition_unmarked(aggregate: str) -> None:
    """Whatever the aggregate: where it answers over a CASE at all, the policy sees a condition."""
    for column in {"overdue", "rate", "amount"}:
        asked_with = aggregate.replace(column, f"(CASE WHEN nothing = 1 THEN {column} ELSE 0 END)")
        if asked_with != aggregate:
            assert use_of(f"SELECT {asked_with} AS x FROM federation.loans", "nothing").conditional
