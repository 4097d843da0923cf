"""Noise over a federation: each participant's own, whatever the others do; the total carries all of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from statistics import fmean, pvariance

import pyarrow as pa
import pytest

from compute import pooling
from compute.dataset import Column, DatasetInfo
from compute.engine import Limits
from compute.errors import PeerViolation, QueryError
from compute.facts import Prepared
from compute.federation import Contribution, Entry, Member, Roster, Seat, Shape, TotalGate
from compute.inputs import Cells, Context
from compute.local import aggregate
from compute.planner import prepare
from compute.pooling import Part
from compute.protocols import PROTOCOLS, _federated, protocol_named
from compute.protocols.base import run_round
from policy_enforcer.obligations import NOTHING_DEMANDED, NoiseDemand, Obligations

LABELS = tuple(f"行业{i}" for i in range(150))
LOANS = DatasetInfo(
    participant="bank-0",
    name="loans",
    columns=(
        Column("client", "string", nullable=False),
        Column("sector", "string", nullable=False),
        Column("amount", "int64", nullable=False, bounds=("0", "10")),
    ),
    rows_bound=1000,
    keys_bound=1000,
    commitment="00" * 32,
)
RHO = NoiseDemand("discrete-gaussian", 10**9 // 2)
DEMANDS = replace(
    NOTHING_DEMANDED,
    identity="client",
    domains={"sector": LABELS},
    rows_per_identity=2,
    cells_per_identity=2,
    bounds={"amount": (Decimal(0), Decimal(10))},
    noise=RHO,
)
BY_SECTOR = "SELECT sector, count(*) AS n FROM federation.loans GROUP BY sector"
NOBODY = pa.table(
    {
        "client": pa.array([], pa.string()),
        "sector": pa.array([], pa.string()),
        "amount": pa.array([], pa.int64()),
    }
)


def seeded(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def prepared(
    sql: str, demands: Obligations = DEMANDS, banks: int = 3, protocol: str | None = None
) -> Prepared:
    parts = [Part(f"bank-{i}.loans", LOANS.rows_bound) for i in range(banks)]
    info = pooling.pooled("loans", LOANS, parts)
    able = [p for p in PROTOCOLS if protocol in (None, p.name)]
    return prepare(sql, "asker", {info.full_name: info}, able, {info.full_name: demands}, parts)


def contributed(
    question: Prepared, rows: pa.Table, demands: Obligations = DEMANDS, least: int = 1, seed: int = 0
) -> Contribution:
    own = aggregate(question.plan.sender, LOANS, demands, rows, Limits(threads=1))
    context = Context(bytes(32), question.plan, seeded(seed), lambda *_: None, least)
    return _federated.own_part(context, own, lambda counts: counts >= least)


def people(sector: str, number: int) -> pa.Table:
    return pa.table(
        {"client": [f"c{i}" for i in range(number)], "sector": [sector] * number, "amount": [5] * number}
    )


def test_each_part_carries_the_noise_of_its_own_policy_and_the_total_that_of_all() -> None:
    question = prepared(BY_SECTOR)
    (figure,) = question.plan.sender.partials
    # two rows of one identity in one cell: sensitivity 2, squared 4, over twice rho
    assert Fraction(figure.noise) == Fraction(4) / (2 * Fraction(1, 2)) == 4
    parts = [contributed(question, people(LABELS[0], 40), seed=i) for i in range(3)]
    for part in parts:
        (counts,) = part.measures
        assert 2.4 < pvariance(counts[1:]) < 5.6
        assert abs(counts[0] - 40) < 4 * 2
    totals = [sum(column) for column in zip(*(part.measures[0] for part in parts), strict=True)]
    assert 7.2 < pvariance(totals[1:]) < 16.8
    assert abs(fmean(totals[1:])) < 1.2


def test_nobody_can_tell_an_empty_cell_or_an_empty_bank() -> None:
    question = prepared(BY_SECTOR)
    some, none = (contributed(question, rows) for rows in (people(LABELS[0], 40), NOBODY))
    assert some.counted() == none.counted() == [1] * 300
    assert any(none.measures[0])


@pytest.mark.parametrize("noise", [RHO, NoiseDemand("discrete-laplace", 10**8)])
def test_a_minimum_counts_with_noise(noise: NoiseDemand) -> None:
    demands = replace(DEMANDS, minimum_identities=10, noise=noise)
    question = prepared(BY_SECTOR, demands)
    local = contributed(question, people(LABELS[0], 100), demands, least=10)
    kept = [place for place, count in enumerate(local.identities) if count]
    assert 0 in kept
    assert all(local.identities[place] >= 10 for place in kept)
    assert local.counted()[150:] == [int(place in kept) for place in range(150)]
    total = contributed(question, people(LABELS[0], 100), demands)
    assert total.counted()[150:] == [1] * 150
    assert min(total.identities) < 0 < max(total.identities)


def test_noise_larger_than_any_sum_of_rows_has_its_place() -> None:
    demands = replace(DEMANDS, noise=NoiseDemand("discrete-gaussian", 1))
    question = prepared(BY_SECTOR, demands, protocol="he_sum")
    side, (figure,) = question.plan.sender, question.plan.sender.partials
    part = contributed(question, NOBODY, demands)
    largest = max(map(abs, part.measures[0]))
    assert side.rows_bound < largest <= pooling.bound(side, figure, 1) < pooling.bound(side, figure, 3)
    parameters = pooling.threshold_parameters(side, len(LABELS))
    assert parameters.t // 2 > side.rows_bound + 64 * figure.tail  # as many participants as there may be


def test_totals_below_zero_are_possible_under_noise_alone() -> None:
    gate = TotalGate(5, 2)
    assert gate.released(Shape(3, 1, noisy=True), [-3, 0, 6, 3, 3, 3]) == [False, False, True]
    for totals in ([-3, 3], [0, 3]):
        with pytest.raises(PeerViolation):
            gate.released(Shape(1, 1), totals)
    with pytest.raises(PeerViolation):
        gate.released(Shape(1, 1, noisy=True), [1, 0])


@pytest.mark.parametrize("protocol", ["masked_sum", "he_sum"])
def test_a_round_under_noise(protocol: str) -> None:
    demands = replace(DEMANDS, domains={"sector": LABELS[:3]}, minimum_identities=10)
    question = prepared(
        "SELECT sector, sum(amount) AS s FROM federation.loans GROUP BY sector", demands, 2, protocol
    )
    entries = [Entry(f"bank-{i}", "aa", "bb", f"{i:064x}", 10, 1) for i in range(2)]
    roster, names = Roster(tuple(entries)), ("bank-0", "bank-1")
    role = protocol_named(protocol)
    receivers, senders = [], []
    for i, entry in enumerate(entries):
        base = Context(bytes(32), question.plan, seeded(i), lambda *_: None, 1)
        receivers.append(role.receiver(replace(base, federated=Seat(roster)), None))
        member = Member(entry, names, lambda m: m[:32], lambda *_: None, lambda: None)
        own = aggregate(question.plan.sender, LOANS, demands, people(LABELS[0], 400), Limits(threads=1))
        senders.append(role.sender(replace(base, federated=member), own, lambda counts: counts >= 1))
    answers, _ = run_round(receivers, senders)
    cells: Cells = answers[0]
    assert cells.table["d0"].to_pylist()[0] == LABELS[0]
    assert cells.table.num_rows + cells.suppressed == 3
    assert 0 < abs(int(cells.table["m0"][0].as_py()) - 2 * 400 * 5) < 6 * 2 * 2**0.5 * 20


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT sector FROM federation.loans GROUP BY sector", "query.noise"),
        ("SELECT client, count(*) AS n FROM federation.loans GROUP BY client", "query.group-undeclared"),
        ("SELECT count(DISTINCT client) AS n FROM federation.loans", "query.count-distinct"),
    ],
)
def test_what_noise_over_a_federation_cannot_answer(sql: str, code: str) -> None:
    with pytest.raises(QueryError) as error:
        prepared(sql, replace(DEMANDS, minimum_identities=10))
    assert error.value.code == code
