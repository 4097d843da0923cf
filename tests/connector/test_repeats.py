"""What was answered is kept as long, as large and as much as it may be, and for exactly one question."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from compute.errors import DataError
from connector import repeats
from connector.contract import end_of
from connector.storage import Store
from policy_enforcer.load import load

NOW = datetime(2026, 11, 22, tzinfo=UTC)
POLICY = """\
policy: p
dataset: owner.data
assignee: [asker]
purpose: any
transfer: {consent: clients}
analysis: {kinds: [aggregate], measures: {"*": [count]}, identity: company}
duties: [{delete: result, after: P30D, declared: true}, {delete: result, after: P1D, declared: true}]
"""
PLAN = SimpleNamespace(receiver=None, federation=(), digest=b"1" * 32)


@pytest.fixture
def clock():
    return SimpleNamespace(now=NOW)


@pytest.fixture
def store(tmp_path, clock):
    made = Store.open(f"sqlite:///{tmp_path / 'state.sqlite'}", lambda: clock.now)
    yield made
    made.close()


def agreement(policy=POLICY, digest="a" * 64):
    made = load(policy)
    return SimpleNamespace(digest=digest, policy=made, ends=end_of(made, int(NOW.timestamp() * 1000)))


def keep(store, question, made, frames=(b"one", b"", b"two"), exchange="1" * 32):
    repeats.keep(store, question, made, (exchange, "d" * 64), frames, (3, 1), store._clock())


def test_the_first_answer_stays_and_comes_back_frame_by_frame(store):
    keep(store, "q", agreement())
    keep(store, "q", agreement(), frames=(b"another",), exchange="2" * 32)
    found = store.answer("q")
    assert repeats.frames_of(found) == [b"one", b"", b"two"]
    assert (found.exchange, found.released, found.suppressed) == ("1" * 32, 3, 1)
    assert "one" not in repr(found)
    with pytest.raises(DataError, match=r"state\.answer"):  # our own fault, and nobody else's
        repeats.frames_of(replace(found, body=found.body[:-1]))


def test_it_is_deleted_when_the_first_of_the_policys_duties_says(store, clock):
    keep(store, "q", agreement())
    clock.now = NOW + timedelta(days=1, milliseconds=-1)
    assert store.answer("q")
    clock.now = NOW + timedelta(days=1)
    assert store.answer("q") is None


def test_without_such_a_duty_it_is_deleted_with_the_agreement(store, clock):
    forever = POLICY[: POLICY.index("duties")]
    store.add_agreement("a" * 64, "provider", "asker", "data", b"", "a" * 64)
    keep(store, "q", agreement(forever))
    clock.now = NOW + timedelta(days=900)
    store.move_agreement("a" * 64, ["active"], "suspended")
    assert store.answer("q")
    store.move_agreement("a" * 64, ["suspended"], "terminated")
    assert store.answer("q") is None


@pytest.mark.parametrize("when", ["{elapsed: PT12H}", "{until: '2026-11-22T12:00:00Z', elapsed: P2D}"])
def test_it_is_deleted_when_the_agreement_runs_out_and_nobody_asks(store, clock, when):
    keep(store, "q", agreement(f"{POLICY}when: {when}\n"))
    assert store.answer("q").until == "2026-11-22T12:00:00.000Z"
    clock.now = NOW + timedelta(hours=12)
    keep(store, "another", agreement())
    with store._reading() as connection:
        assert connection.execute(text("SELECT question FROM answers")).scalars().all() == ["another"]


def test_what_ends_after_all_dates_that_can_be_written_is_kept(store):
    keep(store, "q", agreement(POLICY[: POLICY.index("duties")] + "when: {until: 9999-12-31}\n"))
    assert store.answer("q").until is None


def test_large_answers_and_the_oldest_of_many_are_not_kept(store, clock, monkeypatch):
    keep(store, "large", agreement(), frames=(bytes(repeats.MOST_BYTES),))
    assert store.answer("large") is None
    monkeypatch.setattr(repeats, "MOST_KEPT", 250)
    for number in range(4):
        clock.now = NOW + timedelta(seconds=number)
        keep(store, f"q{number}", agreement(), frames=(bytes(90),))
    assert [store.answer(f"q{number}") is not None for number in range(4)] == [False, False, True, True]


def test_another_agreement_plan_or_consent_set_is_another_question(tmp_path):
    made = agreement()
    (tmp_path / "consents").mkdir()
    file = tmp_path / "consents" / "clients.txt"
    file.write_text("a\nb\n")
    before = repeats.consents_of(made.policy, tmp_path)
    file.write_text("a\n")
    after = repeats.consents_of(made.policy, tmp_path)
    other = SimpleNamespace(**{**vars(PLAN), "digest": b"2" * 32})
    questions = [
        repeats.question_of(made, PLAN, before),
        repeats.question_of(made, PLAN, after),
        repeats.question_of(made, other, before),
        repeats.question_of(agreement(digest="b" * 64), PLAN, before),
    ]
    assert len(set(questions)) == 4
    assert repeats.question_of(made, PLAN, before) == questions[0]


def test_only_what_the_owner_computes_alone_is_repeated():
    assert repeats.repeatable(PLAN)
    assert not repeats.repeatable(SimpleNamespace(receiver=object(), federation=()))
    assert not repeats.repeatable(SimpleNamespace(receiver=None, federation=("a.x", "b.x")))
