"""An agreement that ends, is suspended or used up while a query runs: no key leaves, and it is on record."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from compute.errors import DataError, PeerViolation, PolicyRefusal, QueryError
from connector import datasets, inquiry
from connector.negotiating import Negotiating
from connector.node import Node
from connector.opening import Opening
from connector.transport import Headers

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
SQL = "SELECT count(*) AS n FROM sz-trade.{}"
JOINT = "SELECT count(*) AS n FROM sz-trade.matched i JOIN hk-bank.credit c ON i.company_id = c.company_id"


def when_sent(monkeypatch, kind, action):
    """Do something at the owner just before its frame of this kind leaves."""
    real = Headers.wrap

    def wrap(self, frame):
        if frame.kind == kind:
            action()
        return real(self, frame)

    monkeypatch.setattr(Headers, "wrap", wrap)


def ends(space):
    return [space.evidence(name)[-1] for name in (OWNER, ASKER)]


@pytest.mark.parametrize("end", ["terminated", "suspended"])
@pytest.mark.parametrize("kind", ["start", "tags", "outcome"])
def test_an_end_stops_the_query_at_its_next_frame(build_space, monkeypatch, kind, end):
    space = build_space()
    agreement = space.agree("matched")
    owner, done = Negotiating(space.nodes[OWNER]), []

    def stop():
        if not done:
            done.append(True)
            if end == "terminated":
                owner.terminate(agreement, "contract.terminated")
            else:
                owner.suspend(agreement, suspended=True)

    when_sent(monkeypatch, kind, stop)
    with pytest.raises(PolicyRefusal) as refused:
        space.asker.query(JOINT, PURPOSE)
    assert refused.value.code == f"agreement.{end}"
    assert done
    assert ends(space)[0] == ["query.intent", "query.failure"]
    assert ends(space)[1][0] == "query.intent"
    assert ends(space)[1][-1] == "query.failure"
    assert not any(
        e.status == "open" for n in space.nodes.values() for e in n.store.exchanges() if e.kind == "query"
    )
    assert not space.nodes[OWNER].store.running()


@pytest.mark.parametrize("end", ["terminated", "suspended"])
def test_an_end_interrupts_what_the_owner_computes(fresh, monkeypatch, end):
    """The local part does not run to its end first: it is stopped while it runs, and says why."""
    agreement = fresh.agree("matched")
    owner, real, waited = Negotiating(fresh.nodes[OWNER]), Node.own_input, []

    def slow(self, prepared, dataset, agreed, interrupt):
        if self.id != OWNER:
            return real(self, prepared, dataset, agreed, interrupt)
        if end == "terminated":
            owner.terminate(agreement, "contract.terminated")
        else:
            owner.suspend(agreement, suspended=True)
        waited.append(interrupt.wait(10))
        return real(self, prepared, dataset, agreed, interrupt)

    monkeypatch.setattr(Node, "own_input", slow)
    with pytest.raises(PolicyRefusal) as refused:
        fresh.asker.query(JOINT, PURPOSE)
    assert refused.value.code == f"agreement.{end}"
    assert waited == [True]
    assert ends(fresh)[0] == ["query.intent", "query.failure"]


def offer_for_a_day(space):
    """A third offer over the same table, whose permission ends a day after signing."""
    settings = space.nodes[OWNER].config
    policy = (settings.policies_folder / "open.yaml").read_text()
    (settings.policies_folder / "brief.yaml").write_text(
        policy.replace("sz-trade.open", "sz-trade.brief").replace("open-v1", "brief-v1")
        + "when: {elapsed: P1D}\n"
    )
    description = settings.datasets_folder / "invoices.yaml"
    description.write_text(description.read_text().replace("offers: {", "offers: {brief: brief.yaml, "))
    datasets.add(settings, space.nodes[OWNER].store, "invoices")


@pytest.mark.parametrize("kind", ["start", "outcome"])
def test_a_permission_that_runs_out_meanwhile_releases_nothing(fresh, monkeypatch, kind):
    offer_for_a_day(fresh)
    fresh.agree("brief")
    assert fresh.asker.query(SQL.format("brief"), PURPOSE).table.num_rows == 1
    node = fresh.nodes[OWNER]
    real = node.now
    when_sent(monkeypatch, kind, lambda: monkeypatch.setattr(node, "now", lambda: real() + timedelta(days=2)))
    with pytest.raises(PolicyRefusal) as refused:
        fresh.asker.query(SQL.format("brief"), PURPOSE)
    assert refused.value.code == "time.expired"
    assert ends(fresh)[0] == ["query.intent", "query.failure"]
    assert "query.result" not in ends(fresh)[1]


def test_two_queries_and_one_use_left(build_space, monkeypatch):
    """Both were permitted; the charge lets one through, and the other's end is on record on both sides."""
    space = build_space(uses=1)
    space.agree("matched")
    monkeypatch.setattr(space.nodes[OWNER].store, "used", lambda *_: 0)
    assert space.asker.query(SQL.format("matched"), PURPOSE).table.num_rows == 1
    with pytest.raises(PolicyRefusal) as refused:
        space.asker.query(SQL.format("matched"), PURPOSE)
    assert refused.value.code == "uses.exhausted"
    assert ends(space) == [["query.intent", "query.failure"]] * 2


def test_a_failure_before_the_first_frame_leaves_nothing_open(fresh, monkeypatch):
    fresh.agree("matched")
    monkeypatch.setattr(inquiry, "_local", lambda *_: (_ for _ in ()).throw(DataError("data.local", "no")))
    with pytest.raises(DataError):
        fresh.asker.query(JOINT, PURPOSE)
    assert [e.status for e in fresh.nodes[ASKER].store.exchanges() if e.kind == "query"] == ["failed"]


@pytest.mark.parametrize("purpose", ["credit-risk\n[forged]", "\u202ecredit", "x" * 300])
def test_a_purpose_that_no_record_can_state_is_refused_at_once(shared, purpose):
    before = [shared.evidence(OWNER), shared.evidence(ASKER)]
    with pytest.raises(QueryError) as refused:
        shared.asker.query(SQL.format("matched"), purpose)
    assert refused.value.code == "query.purpose"
    assert [shared.evidence(OWNER), shared.evidence(ASKER)] == before


@pytest.mark.parametrize("purpose", ["credit-risk\n[forged]", "\u202ecredit"])
def test_the_owner_refuses_such_a_purpose_too(shared, purpose):
    """Or its own refusal of the query could not be put on record."""
    node = shared.nodes[ASKER]
    asked = inquiry.inquire(node, SQL.format("matched"), PURPOSE)
    opening = inquiry.opening_of(node, asked, "00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    assert Opening.parse(opening.to_bytes()) == opening
    with pytest.raises(PeerViolation) as refused:
        Opening.parse(replace(opening, purpose=purpose).to_bytes())
    assert refused.value.code == "peer.malformed"
