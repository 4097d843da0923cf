"""An agreement that ends, is suspended or used up while a query runs: no key leaves, and it is on record."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from compute.errors import BayspaceError, ConfigError, DataError, PeerViolation, PolicyRefusal, QueryError
from connector import analyst, datasets, inquiry, rounds
from connector.contract import Agreement
from connector.negotiating import Negotiating
from connector.node import Node
from connector.opening import Opening
from connector.transport import Headers
from tests.waiting import settled
from witness import dsse
from witness.record import Record

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
    """The events of the last query on both sides, once both have recorded its end."""
    assert settled(lambda: all(e.status != "open" for n in space.nodes.values() for e in queries(n)))
    return [space.evidence(name)[-1] for name in (OWNER, ASKER)]


def queries(node):
    return [e for e in node.store.exchanges() if e.kind == "query"]


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
    assert not space.nodes[OWNER].store.running()


@pytest.mark.parametrize("end", ["terminated", "suspended"])
def test_an_end_interrupts_what_the_owner_computes(fresh, monkeypatch, end):
    """The local part does not run to its end first: it is stopped while it runs, and says why."""
    agreement = fresh.agree("matched")
    owner, real, waited = Negotiating(fresh.nodes[OWNER]), Node.own_input, SimpleQueue()

    def slow(self, prepared, dataset, agreed, interrupt):
        if self.id != OWNER:
            return real(self, prepared, dataset, agreed, interrupt)
        if end == "terminated":
            owner.terminate(agreement, "contract.terminated")
        else:
            owner.suspend(agreement, suspended=True)
        waited.put(interrupt.wait(10))
        return real(self, prepared, dataset, agreed, interrupt)

    monkeypatch.setattr(Node, "own_input", slow)
    with pytest.raises(PolicyRefusal) as refused:
        fresh.asker.query(JOINT, PURPOSE)
    assert refused.value.code == f"agreement.{end}"
    assert waited.get(timeout=10)  # the refusal may reach the asker before
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


def test_a_contract_whose_time_is_over_is_shown_as_expired(fresh, monkeypatch):
    offer_for_a_day(fresh)
    fresh.agree("brief")
    for name in (OWNER, ASKER):
        real = fresh.nodes[name].now
        assert shown(fresh, name) == ("active", True)
        monkeypatch.setattr(fresh.nodes[name], "now", lambda real=real: real() + timedelta(days=2))
        assert shown(fresh, name) == ("expired", False)
    fresh.owner.contract("terminate", agreement=fresh.owner.contract("list")[0]["negotiation"])
    assert shown(fresh, OWNER) == shown(fresh, ASKER) == ("terminated", False)


def shown(space, name):
    (found,) = space.clients[name].contract("list")
    return found["agreement_state"], found["in_force"]


def test_a_renewal_ahead_of_its_time_does_not_replace_what_still_runs(fresh, monkeypatch):
    policy = (fresh.nodes[OWNER].config.policies_folder / "open.yaml").read_text()
    now, later = fresh.agree("open"), datetime.now(UTC) + timedelta(days=3)
    fresh.offer_invoices("open", f"{policy}when: {{from: {later.date()}}}\n")
    renewed, node = fresh.agree("open"), fresh.nodes[ASKER]
    assert node.agreement_about(OWNER, "open").digest == now
    monkeypatch.setattr(node, "now", lambda: later)
    assert node.agreement_about(OWNER, "open").digest == renewed


def test_a_round_asks_each_participant_under_what_runs_now():
    """The renewal of one was signed ahead of its time; the first agreement of another is over."""

    def agreed(provider, number, runs):
        policy = SimpleNamespace(analysis=SimpleNamespace(federation=SimpleNamespace(name="loans")))
        full_name = f"{provider}.loans"
        return SimpleNamespace(
            provider=provider, full_name=full_name, policy=policy, digest=number, runs_at=lambda _: runs
        )

    held = [agreed("a-bank", 1, True), agreed("b-bank", 2, False), agreed("b-bank", 3, True)]
    held.append(agreed("a-bank", 4, False))
    node = SimpleNamespace(now=lambda: datetime.now(UTC), agreements_in_force=lambda: held)
    assert [found.digest for found in rounds._agreements(node, "loans")] == [1, 3]
    held += [agreed("over-bank", 5, False), agreed("next-month-bank", 6, False)]
    assert [found.digest for found in rounds._agreements(node, "loans")] == [1, 3]
    del held[1:3]
    with pytest.raises(QueryError, match=r"not begun: next-month-bank\.loans, over-bank\.loans"):
        rounds._agreements(node, "loans")


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
    assert [e.status for e in queries(fresh.nodes[ASKER])] == ["failed"]


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


def test_a_named_protocol_is_told_the_owner_who_plans_by_it(shared):
    node = shared.nodes[ASKER]
    alone, named = SQL.format("matched"), "single_domain"
    asked = [inquiry.inquire(node, alone, PURPOSE, name) for name in ("", named)]
    openings = [inquiry.opening_of(node, one, "00-" + "1" * 32 + "-" + "2" * 16 + "-01") for one in asked]
    assert [Opening.parse(opening.to_bytes()).protocol for opening in openings] == ["", named]
    assert b'"protocol"' not in openings[0].to_bytes()  # as before there was a name
    for name in ("", "He_sum", "x" * 65):
        body = openings[1].to_bytes().replace(b'"single_domain"', f'"{name}"'.encode())
        with pytest.raises(PeerViolation) as refused:
            Opening.parse(body)
        assert refused.value.code == "peer.malformed"


# --- while no frame moves -----------------------------------------------------------------------------


class Silent:
    """A query of the asker's that stands still before its frame of this kind, until it is let go."""

    def __init__(self, space, monkeypatch, kind, sql):
        self.let_go, self._stands, self._space, self.error = threading.Event(), threading.Event(), space, None
        real = Headers.wrap

        def wrap(headers, frame):
            if frame.kind == kind:
                self._stands.set()
                assert self.let_go.wait(20)
            return real(headers, frame)

        monkeypatch.setattr(Headers, "wrap", wrap)
        self._thread = threading.Thread(target=self._ask, args=(sql,))
        self._thread.start()
        assert self._stands.wait(10)
        self.exchange = queries(space.nodes[OWNER])[-1].id

    def _ask(self, sql):
        try:
            self._space.asker.query(sql, PURPOSE)
        except BayspaceError as error:
            self.error = error

    def over(self, node):
        """The event and the reason that a side recorded last, which it must while the asker is silent."""
        assert settled(
            lambda: node.store.exchange(self.exchange).status != "open", seconds=15
        )  # a frame has 20
        last = node.store.evidence(self.exchange)[-1]
        return last.event, Record.parse(dsse.parse(last.envelope).payload).outcome.reason

    def close(self):
        self.let_go.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def silent(shared, monkeypatch):
    made = []

    def start(kind, sql):
        made.append(Silent(shared, monkeypatch, kind, sql))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_an_end_is_not_kept_waiting_by_a_silent_asker(shared, silent):
    agreement = shared.agree("matched")
    query = silent("receipt", SQL.format("matched"))
    Negotiating(shared.nodes[OWNER]).terminate(agreement, "contract.terminated")
    assert query.over(shared.nodes[OWNER]) == ("query.failure", "agreement.terminated")
    query.close()
    assert query.error.code == "agreement.terminated"
    assert query.over(shared.nodes[ASKER]) == ("query.failure", "agreement.terminated")


def test_the_clock_ends_a_query_on_which_no_frame_moves(shared, silent, monkeypatch):
    shared.agree("matched")
    soon = timedelta(seconds=3)  # time to get as far as that, and less than the frame timeout
    monkeypatch.setattr(Agreement, "ends", property(lambda _: datetime.now(UTC) + soon))
    query = silent("receipt", SQL.format("matched"))
    assert query.over(shared.nodes[OWNER]) == ("query.failure", "time.expired")
    query.close()
    assert query.error.code == "time.expired"
    assert not shared.nodes[OWNER].store.running()


@pytest.mark.parametrize("who", [OWNER, ASKER])
def test_either_sides_people_stop_one_query(shared, silent, monkeypatch, who):
    monkeypatch.setattr(analyst, "STOPPED_SECONDS", 0.5)  # the asker's end stands still
    shared.agree("matched")
    query = silent("receipt", SQL.format("matched"))
    (stopped,) = shared.clients[who].contract("stop", agreement=query.exchange[:12])
    if who == OWNER:
        assert (stopped["state"], stopped["code"]) == ("TERMINATED", "query.stopped")
    query.close()
    assert query.error.code == "query.stopped"
    expected = {OWNER: "query.stopped", ASKER: "peer.gone"}[who]
    assert query.over(shared.nodes[OWNER]) == ("query.failure", expected)
    assert query.over(shared.nodes[ASKER]) == ("query.failure", "query.stopped")
    with pytest.raises(ConfigError, match=r"query\.not-running"):
        shared.clients[who].contract("stop", agreement=query.exchange)
    assert shared.asker.query(SQL.format("matched"), PURPOSE).table.num_rows == 1  # and no other


def test_the_asker_keeps_the_intent_before_the_owner_can_charge_for_it(shared, silent):
    shared.agree("matched")
    query = silent("confirm", SQL.format("matched"))
    assert [e.event for e in shared.nodes[ASKER].store.evidence(query.exchange)] == ["query.intent"]
    assert shared.nodes[OWNER].store.evidence(query.exchange) == []
