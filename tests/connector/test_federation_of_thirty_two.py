"""Thirty-two connectors and an asker, over mutual TLS: the pooled answer, and nothing where one goes away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compute.errors import BayspaceError
from tests.connector import test_federation as three
from tests.connector.test_federation import ASKER, PURPOSE, Federation, cells

pytestmark = pytest.mark.deep

BANKS = {f"bank-{i:02}": ("HK", "MO", "CN-SZ")[i % 3] for i in range(32)}
VICTIM = "bank-17"
SQL = (
    "SELECT region, count(*) AS n, sum(amount) AS s, avg(overdue) AS o, max(year) AS y FROM federation.loans "
    "GROUP BY region"
)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(three, "BANKS", BANKS)
        patch.setattr(three, "POLICY", three.POLICY.replace("measures: {{", "measures: {{year: [max], "))
        patch.setattr(three, "FRAME_SECONDS", 300)  # all of them share one interpreter
        with three.running(tmp_path_factory.mktemp("many")) as made:
            yield made


def test_the_answer_is_that_of_all_rows_and_each_is_charged_once(many: Federation) -> None:
    answer = many.asker.query(SQL, PURPOSE)
    assert cells(answer.table.to_pylist()) == cells(many.pooled(SQL, least=5))
    assert answer.summary["protocol"] == "masked_sum"
    assert {many.uses(bank) for bank in BANKS} == {1}


@pytest.mark.parametrize("kind", ["counts", "key"])  # of three, test_federation.py tries every step
def test_whoever_goes_away_at_any_step_nothing_is_released(
    many: Federation, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    used = {bank: many.uses(bank) for bank in BANKS}
    known = {name: len(many.events(name)) for name in (ASKER, *BANKS)}
    three.failing(monkeypatch, VICTIM, kind)
    with pytest.raises(BayspaceError):
        many.asker.query(SQL, PURPOSE)
    monkeypatch.undo()
    mine = many.events(ASKER)[known[ASKER] :]
    assert not any("query.result" in events for events in mine)
    for bank in BANKS:  # whoever started is charged, and nobody else
        started = sum("query.intent" in events for events in many.events(bank)[known[bank] :])
        assert many.uses(bank) - used[bank] == started


def test_after_that_the_question_is_answered(many: Federation) -> None:
    assert cells(many.asker.query(SQL, PURPOSE).table.to_pylist()) == cells(many.pooled(SQL, least=5))
