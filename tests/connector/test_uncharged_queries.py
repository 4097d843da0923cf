"""Queries that end uncharged: how many are put on record; and ends that could not be written at once."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta

import pytest

from compute.errors import PolicyRefusal, Unavailable
from connector import evidence, inquiry
from connector.transport import Headers
from policy_enforcer.facts import Decision
from tests.waiting import settled
from witness import dsse
from witness.record import Record

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
SQL = "SELECT count(*) AS n FROM sz-trade.{}"


def queries(node):
    return [e for e in node.store.exchanges() if e.kind == "query"]


def allow(node, most):
    limits = node.config.limits.model_copy(update={"uncharged_queries_per_day": most})
    node.config = node.config.model_copy(update={"limits": limits})


def leave(space, monkeypatch):
    """Open a query, and leave once it is accepted."""
    with monkeypatch.context() as leaving:
        real = Headers.wrap

        def wrap(self, frame):
            if frame.kind == "confirm":
                raise Unavailable("test.left", "the asker leaves")
            return real(self, frame)

        leaving.setattr(Headers, "wrap", wrap)
        with pytest.raises(Unavailable):
            space.asker.query(SQL.format("open"), PURPOSE)
        last = queries(space.nodes[OWNER])[-1]
        assert settled(lambda: space.nodes[OWNER].store.exchange(last.id).status == "failed")


def test_so_many_refusals_are_put_on_record_in_a_day_and_what_is_charged_does_not_count(shared, monkeypatch):
    node = shared.nodes[OWNER]
    allow(node, 2)
    for _ in range(3):
        assert shared.asker.query(SQL.format("open"), PURPOSE).table.num_rows == 1
    with monkeypatch.context() as hostile:
        hostile.setattr(inquiry.Inquiry, "decision", property(lambda _: Decision(())))
        with pytest.raises(PolicyRefusal, match=r"purpose\.not-allowed"):
            shared.asker.query(SQL.format("open"), "marketing")
    leave(shared, monkeypatch)
    agreement = node.agreement(queries(node)[-1].agreement, role="provider", peer=ASKER)
    kept = len(queries(node))
    for offer in ("open", "matched"):  # under any agreement
        with pytest.raises(Unavailable) as refused:
            shared.asker.query(SQL.format(offer), PURPOSE)
        assert refused.value.code == "query.too-many"
    assert len(queries(node)) == kept
    real = node.now
    monkeypatch.setattr(node, "now", lambda: real() + timedelta(days=1))
    monkeypatch.setattr("connector.records.MOST_CLOCK_DIFFERENCE", 10**9)
    node.check_uncharged(ASKER, agreement)
    monkeypatch.undo()
    allow(node, 3)
    assert shared.asker.query(SQL.format("open"), PURPOSE).table.num_rows == 1


def test_while_too_many_run_refusals_are_bounded_and_keep_nobody_out_afterwards(shared):
    node = shared.nodes[OWNER]
    allow(node, 1000)
    shared.asker.query(SQL.format("open"), PURPOSE)
    agreement = queries(node)[-1].agreement
    counted = node.store.lost(*node._uncharged(ASKER, ""))
    allow(node, counted + 2)
    for number in range(2):  # as many as the policy lets run
        assert node.store.start_query(f"another {number}", agreement, 2, 10)
    for _ in range(counted + 2):
        with pytest.raises(PolicyRefusal, match=r"uses\.concurrent"):
            shared.asker.query(SQL.format("open"), PURPOSE)
    kept = len(queries(node))
    with pytest.raises(Unavailable) as refused:
        shared.asker.query(SQL.format("open"), PURPOSE)
    assert (refused.value.code, len(queries(node))) == ("query.too-many", kept)
    for number in range(2):
        node.store.finish_query(f"another {number}")
    assert shared.asker.query(SQL.format("open"), PURPOSE).table.num_rows == 1
    assert node.store.lost(*node._uncharged(ASKER, "")) == counted


@pytest.mark.parametrize("code", ["state.busy", None])
def test_what_ends_for_a_trouble_of_the_owners_does_not_count(shared, monkeypatch, code):
    node = shared.nodes[OWNER]
    allow(node, 1000)
    counted = node.store.lost(*node._uncharged(ASKER, ""))

    def broken(*_, **__):
        raise ValueError if code is None else Unavailable(code, "ask again later")

    monkeypatch.setattr(node, "decide", broken)
    with pytest.raises(Unavailable):
        shared.asker.query(SQL.format("open"), PURPOSE)
    assert settled(lambda: node.store.exchange(queries(node)[-1].id).status == "failed")
    assert node.store.lost(*node._uncharged(ASKER, "")) == counted


def test_a_commit_that_nobody_heard_of_is_followed_by_the_failure(shared, monkeypatch):
    node = shared.nodes[OWNER]
    allow(node, 1000)
    real = node.store.atomic

    @contextmanager
    def breaking():
        with real():
            yield
        committed = getattr(node.store._current, "connection", None) is None
        kept = node.store.evidence(queries(node)[-1].id)
        if committed and [record.event for record in kept] == ["query.intent"]:
            raise Unavailable("state.unreachable", "the connection broke")

    monkeypatch.setattr(node.store, "atomic", breaking)
    with pytest.raises(Unavailable, match="the connection broke"):
        shared.asker.query(SQL.format("open"), PURPOSE)
    exchange = queries(node)[-1].id
    assert settled(lambda: node.store.exchange(exchange).status == "failed")
    first, last = node.store.evidence(exchange)
    stated = Record.parse(dsse.parse(last.envelope).payload).exchange
    assert (last.event, stated.sequence, stated.previous) == ("query.failure", 1, first.digest)


@pytest.mark.parametrize("who", [OWNER, ASKER])
def test_what_ends_while_the_disk_is_full_is_on_record_once_there_is_room(shared, monkeypatch, who):
    """Without a restart; and the query that ended holds no place among those that run."""
    store, full = shared.nodes[who].store, []
    real_writing, real_wrap = store._writing, Headers.wrap

    @contextmanager
    def writing():
        if full:
            raise Unavailable("state.full", "the disk is full")
        with real_writing() as connection:
            yield connection

    def wrap(self, frame):
        if frame.kind == "outcome":
            full.append(True)
        return real_wrap(self, frame)

    monkeypatch.setattr(evidence, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(store, "_writing", writing)
    with monkeypatch.context() as once:
        once.setattr(Headers, "wrap", wrap)
        with pytest.raises(Unavailable) as told:
            shared.asker.query(SQL.format("open"), PURPOSE)
    assert told.value.code == "state.full"
    exchange = queries(shared.nodes[who])[-1].id
    assert store.exchange(exchange).status == "open"
    assert len(store.running()) == (who == OWNER)
    full.clear()
    assert settled(lambda: store.exchange(exchange).status == "failed" and not store.running())
    last = store.evidence(exchange)[-1]
    outcome = Record.parse(dsse.parse(last.envelope).payload).outcome
    assert (last.event, outcome.reason) == ("query.failure", "state.full")
    assert shared.asker.query(SQL.format("open"), PURPOSE).table.num_rows == 1
