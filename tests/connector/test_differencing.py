"""The differencing guard across two real connectors: attacks succeed without it; what stays possible."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compute.errors import DataError, PolicyRefusal
from compute.members import Membership
from connector import config, datasets
from connector.differencing import Guard, leaving
from connector.storage import Store
from policy_enforcer.model import Differencing

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"

POLICY = """\
policy: {offer}-v1
dataset: sz-trade.{offer}
assignee: [hk-bank]
purpose: [credit-risk]
uses: {{count: 1000, per: month}}
analysis:
  kinds: [aggregate]
  join: {{columns: [company_id], disclosure: receiver}}
  dimensions: [region, industry]
  filters: {{staff: range, region: equality, day: range}}
  measures: {{"*": [count], amount: [sum, avg]}}
  identity: company_id
  minimum_identities: 5
{words}
"""
GUARD = "  differencing: {minimum_difference: 5, window: P30D}\n"
OFFERS = ("free", "predicates", "tracker", "padding", "margins", "rows", "joined", "keys", "mixed", "renewed")
SALES = """\
title: {{en: Sales, zh: 销售}}
source: {{kind: parquet, path: ../data/{offer}.parquet}}
rights: {{holder: sz-trade}}
columns:
  company_id: {{type: string, key: [trim, casefold], nullable: false}}
  region: {{type: string}}
  industry: {{type: string}}
  staff: {{type: int64, nullable: false, bounds: [0, 1000]}}
  day: {{type: int64, nullable: false, bounds: [0, 1000]}}
  amount: {{type: int64, bounds: [0, 100000], nullable: false}}
offers: {{{offer}: {offer}.yaml}}
"""
VICTIM = 1


def companies() -> list[tuple]:
    """60 companies with two rows each: company n has n of staff, and only two are in mining."""
    return [
        (
            f"C{n:03d}",
            ("north", "south")[n % 2],
            "mining" if n in (7, 9) else "retail",
            n,
            day,
            1000 * day + n,
        )
        for n in range(1, 61)
        for day in (1, 2)
    ]


def secret(days=(1, 2)) -> int:
    return sum(1000 * day + VICTIM for day in days)


@pytest.fixture(scope="module")
def space(tmp_path_factory, space_builder):
    """One table, registered under a name for each test: each has a history of its own."""
    made = space_builder(tmp_path_factory.mktemp("differences"), start=False)
    names = ("company_id", "region", "industry", "staff", "day", "amount")
    table = pa.table(dict(zip(names, zip(*companies(), strict=True), strict=True)))
    for offer in OFFERS:
        policy = POLICY.format(offer=offer, words="" if offer == "free" else GUARD)
        made.publish(OWNER, offer, table, SALES.format(offer=offer), {offer: policy})
    bring(made, range(1, 61), Store.open(config.load(made.folder / ASKER).state_url))
    made.start_witness()
    for name in (OWNER, ASKER):
        made.start(name)
    for offer in OFFERS:
        made.agree(offer)
    yield made
    made.close()


def bring(space, numbers, store) -> None:
    """The asker's own table with exactly these companies."""
    settings = config.load(space.folder / ASKER)
    rows = [(f"C{n:03d}", "AB"[n % 2]) for n in numbers]
    table = pa.table({"company_id": [r[0] for r in rows], "rating": [r[1] for r in rows]})
    pq.write_table(table, settings.folder / "data" / "credit.parquet")
    datasets.add(settings, store, "credit")


def total(space, offer, where="", tail="") -> int | None:
    """The sum that the owner answers, or None when the guard refuses."""
    sql = f"SELECT sum(amount) AS s FROM sz-trade.{offer} {where} {tail}"
    answer = answered(space, sql)
    return None if answer is None else answer[0]


def answered(space, sql) -> list[int] | None:
    """The sums of an answer, or None when the guard refuses, which says nothing of rows and conditions."""
    refusal = None
    try:
        return [int(value) for value in space.asker.query(sql, PURPOSE).table["s"].to_pylist()]
    except PolicyRefusal as error:
        refusal = error
    assert refusal.code == "gate.differencing"
    assert not any(word in str(refusal) for word in ("C001", "staff", "region", "north"))
    return None


def joint(space, offer, where="", group="") -> int | None:
    what = f"{group}, " if group else ""
    sql = (
        f"SELECT {what}sum(i.amount) AS s FROM sz-trade.{offer} i "
        f"JOIN hk-bank.credit c ON i.company_id = c.company_id {where} {f'GROUP BY {group}' if group else ''}"
    )
    answer = answered(space, sql)
    return None if answer is None else sum(answer)


def less(a, b):
    return None if a is None or b is None else a - b


# --- attacks


def predicates(space, offer):
    """Two questions whose conditions differ by one company."""
    return less(total(space, offer), total(space, offer, "WHERE staff > 1"))


def tracker(space, offer):
    """Denning and Schloerer's general tracker T = north: q(C or T) + q(C or not T) - q(T) - q(not T)."""
    either = [total(space, offer, f"WHERE staff < 2 OR region = '{r}'") for r in ("north", "south")]
    each = [total(space, offer, f"WHERE region = '{r}'") for r in ("north", "south")]
    return None if None in (*either, *each) else sum(either) - sum(each)


def padding(space, offer):
    """Three questions about disjoint groups, and one about all of them and one company more."""
    parts = [total(space, offer, f"WHERE staff >= {low} AND staff < {low + 10}") for low in (2, 12, 22)]
    whole = total(space, offer, "WHERE staff < 32")
    return None if None in (*parts, whole) else whole - sum(parts)


def rows(space, offer):
    """The same companies in both: the conditions differ by one row of one of them."""
    every = total(space, offer)
    return less(every, total(space, offer, "WHERE staff > 1 OR day < 2"))


ATTACKS = {predicates: secret(), tracker: secret(), padding: secret(), rows: secret(days=(2,))}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_that_succeeds_without_the_guard_fails_with_it(space, attack):
    assert attack(space, "free") == ATTACKS[attack]
    assert attack(space, attack.__name__) is None
    assert space.evidence(OWNER)[-1][-1] in ("query.failure", "query.release")


def test_a_group_held_back_does_not_follow_from_the_total(space):
    by_industry = "SELECT industry, sum(amount) AS s FROM sz-trade.{} GROUP BY 1"
    shown = space.asker.query(by_industry.format("free"), PURPOSE)
    mining = sum(row[5] for row in companies() if row[2] == "mining")
    assert shown.suppressed == 1
    assert total(space, "free") - int(shown.table["s"].to_pylist()[0]) == mining
    space.asker.query(by_industry.format("margins"), PURPOSE)
    assert total(space, "margins") is None


def test_the_asker_removes_one_key_of_its_own(space):
    before = joint(space, "free"), joint(space, "keys")
    assert before[0] == before[1] == joint(space, "keys")  # the same again is no difference
    store = space.nodes[ASKER].store
    bring(space, [n for n in range(1, 61) if n != VICTIM], store)
    assert before[0] - joint(space, "free") == secret()
    assert joint(space, "keys") is None
    bring(space, range(1, 61), store)


def test_the_asker_filters_or_groups_its_own_data_otherwise(space):
    assert joint(space, "joined") is not None
    assert joint(space, "joined", "WHERE c.company_id <> 'C001'") is None
    assert joint(space, "joined", group="c.rating") is None
    assert joint(space, "joined", "WHERE i.staff > 1") is None  # our own candidates: but for one
    assert joint(space, "joined", "WHERE i.staff > 30") is not None


def test_a_join_beside_a_question_to_the_owner_alone(space):
    assert total(space, "mixed", "WHERE staff < 31") is not None
    assert joint(space, "mixed", "WHERE i.staff < 30") is None
    assert joint(space, "mixed", "WHERE i.staff > 30") is not None  # about nobody of those


def test_what_differs_by_enough_is_answered_and_a_renewal_forgets_nothing(space):
    everybody = total(space, "renewed")
    assert everybody == total(space, "renewed")
    assert less(everybody, total(space, "renewed", "WHERE staff > 5")) is not None  # by five companies
    assert total(space, "renewed", "WHERE staff > 20") is not None
    assert total(space, "renewed", "WHERE day < 2") is not None  # other rows of all of them
    space.agree("renewed")
    assert total(space, "renewed", "WHERE staff > 4") is None


# --- the guard alone


@pytest.fixture
def guard(tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'state.db'}")
    rule = Differencing(minimum_difference=3, window="P30D")
    yield Guard(store, rule, "dataset t", "hk-bank", "0", "columns", "", store._clock())
    store.close()


def members(*cells) -> Membership:
    """Cells of rows; row r is of identity r // 2."""
    numbers = [r for cell in cells for r in cell]
    labels = pa.table({"d0": list(range(len(cells)))})
    cell = np.repeat(np.arange(len(cells), dtype=np.int32), [len(cell) for cell in cells])
    who = np.array([1000 + r // 2 for r in numbers], np.uint64)
    return Membership(labels, cell, np.array(numbers, np.uint64), who)


def admit(guard, exchange, *cells, **changes) -> bool:
    try:
        replace(guard, exchange=exchange, **changes).admit(members(*cells), np.full(len(cells), True))
    except PolicyRefusal:
        return False
    return True


def test_of_two_at_once_that_differ_by_too_little_one_passes(guard):
    for attempt in range(5):
        history = {"who_asks": f"asker-{attempt}"}
        gate = Barrier(2)

        def ask(cell, gate=gate, attempt=attempt, history=history):
            gate.wait()
            return admit(guard, f"{attempt} {len(cell)}", cell, **history)

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(ask, [range(100), range(2, 100)])) == [False, True]


def test_identities_are_counted_and_not_rows(guard):
    assert admit(guard, "1", range(100))
    assert not admit(guard, "2", range(4, 100))
    assert admit(guard, "3", range(6, 100))
    assert admit(guard, "4", range(100))


def test_another_asker_has_a_history_of_its_own(guard):
    assert admit(guard, "1", range(100))
    assert admit(guard, "2", range(2, 100), who_asks="mo-customs")


def test_the_window_ends(guard):
    assert admit(guard, "1", range(100))
    late = guard.now + timedelta(days=29)
    assert not admit(guard, "2", range(2, 100), now=late)
    assert admit(guard, "3", range(2, 100), now=late + timedelta(days=2))


def test_without_a_window_nothing_is_forgotten(guard):
    forever = replace(guard, rule=Differencing(minimum_difference=3))
    assert admit(forever, "1", range(100))
    assert not admit(forever, "2", range(2, 100), now=guard.now + timedelta(days=3650))


def test_rows_that_were_renamed_are_compared_by_identity(guard):
    assert admit(guard, "1", range(0, 100, 2))
    assert not admit(guard, "2", range(3, 100, 2), layout="one column more")
    assert admit(guard, "3", range(7, 100, 2), layout="one column more")


def test_a_difference_between_an_earlier_answer_and_parts_of_this_one(guard):
    assert admit(guard, "1", range(100))
    assert not admit(guard, "2", range(50), range(52, 100))


def test_an_earlier_total_less_an_earlier_part(guard):
    """All less the last third is the first two, but for one: none of the three differ by little."""
    assert admit(guard, "1", range(90))
    assert admit(guard, "2", range(60, 90))
    assert not admit(guard, "3", range(2, 60))


def test_cells_without_known_rows_do_not_leave():
    found = members(range(10), range(10, 20))
    assert leaving(found, pa.table({"d0": [1]})).tolist() == [False, True]
    with pytest.raises(DataError) as error:
        leaving(found, pa.table({"d0": [2]}))
    assert error.value.code == "data.unguarded"
