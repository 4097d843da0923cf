"""Contracts when messages are lost or the peer misbehaves: nothing stays stuck, the owner can always end."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import timedelta

import pytest

from compute.errors import BayspaceError, ConfigError, PeerViolation, PolicyRefusal, Unavailable
from connector import negotiation_table
from connector.ending import Ending
from connector.negotiating import Negotiating
from connector.storage import Store
from connector.unconfirmed import Messenger
from connector.v1 import negotiation_pb2
from tests.waiting import settled
from witness import dsse
from witness.record import Record

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
SQL = "SELECT count(*) AS n FROM sz-trade.matched"


@pytest.fixture
def owner(fresh):
    return Negotiating(fresh.nodes[OWNER])


@pytest.fixture
def asker(fresh):
    return Negotiating(fresh.nodes[ASKER])


def losing_replies(monkeypatch, *methods):
    """The peer gets these messages, but its answer is lost."""
    real = Messenger.send

    def send(self, peer, method, message):
        reply = real(self, peer, method, message)
        if method in methods:
            raise Unavailable("peer.unavailable", "the answer was lost")
        return reply

    monkeypatch.setattr(Messenger, "send", send)


def kept(node, exchange):
    return [(r.event, r.digest) for r in node.store.evidence(exchange)]


def test_an_agreement_whose_answer_was_lost_is_approved_again(fresh, owner, asker, monkeypatch):
    asked = asker.request(OWNER, "matched")
    with monkeypatch.context() as lost:
        losing_replies(lost, "Agree")
        with pytest.raises(Unavailable):
            owner.approve(asked.id)
    assert asker.find(asked.id).state == "VERIFIED"
    assert not fresh.nodes[OWNER].store.agreements()
    assert owner.approve(asked.id).state == asker.find(asked.id).state == "FINALIZED"
    assert kept(fresh.nodes[OWNER], asked.id) == kept(fresh.nodes[ASKER], asked.id)
    assert fresh.asker.query(SQL, PURPOSE).table.num_rows == 1


def test_an_agreement_that_never_arrived_is_sent_again_although_its_record_is_old(
    fresh, owner, asker, monkeypatch
):
    asked = asker.request(OWNER, "matched")
    with monkeypatch.context() as before:
        before.setattr(
            Messenger, "send", lambda *_: (_ for _ in ()).throw(Unavailable("peer.gone", "it is away"))
        )
        node = fresh.nodes[OWNER]
        real = node.now
        before.setattr(node, "now", lambda: real() - timedelta(hours=1))
        with pytest.raises(Unavailable):
            owner.approve(asked.id)
    assert owner.approve(asked.id).state == asker.find(asked.id).state == "FINALIZED"


@pytest.mark.parametrize("method", ["Request", "Finalize", "Terminate"])
def test_other_lost_answers_leave_no_contract_stuck(fresh, owner, asker, monkeypatch, method):
    with monkeypatch.context() as lost:
        losing_replies(lost, method)
        try:
            asked = asker.request(OWNER, "matched").id
            owner.approve(asked)
        except Unavailable:
            asked = fresh.nodes[ASKER].store.negotiations()[0].id
        owner.terminate(asked, "contract.terminated")
    owner.terminate(asked, "contract.terminated")
    assert owner.find(asked).state == asker.find(asked).state == "TERMINATED"
    assert not any(e.status == "open" for n in fresh.nodes.values() for e in n.store.exchanges())
    assert fresh.agree("matched")


ANSWERS = {
    "a violation": PeerViolation("peer.evidence", "no"),
    "a refusal to answer": Unavailable("internal", "no"),
    "a bad signature": b"\1" * 64,
    "no signature": b"",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("action", ["terminate", "suspend"])
def test_a_peer_cannot_prevent_the_owner_from_stopping(shared, monkeypatch, action, answer):
    owner, agreement = Negotiating(shared.nodes[OWNER]), shared.agree("matched")

    def send(_self, _peer, _method, message):
        if isinstance(answer, BayspaceError):
            raise answer
        return negotiation_pb2.NegotiationReply(negotiation=message.negotiation, signature=answer)

    with monkeypatch.context() as hostile:
        hostile.setattr(Messenger, "send", send)
        if action == "terminate":
            ended = owner.terminate(agreement, "contract.terminated")
        else:
            ended = owner.suspend(agreement, suspended=True)
    store = shared.nodes[OWNER].store
    assert agreement not in [a.digest for a in store.agreements(role="provider", state="active")]
    with pytest.raises(PolicyRefusal) as refused:
        shared.asker.query(SQL, PURPOSE)  # the asker still believes in it
    assert refused.value.code == f"agreement.{'terminated' if action == 'terminate' else 'suspended'}"
    assert [e[-1] for e in (shared.evidence(OWNER), shared.evidence(ASKER))] == [["query.refusal"]] * 2
    if action == "terminate":
        last = store.evidence(ended.id)[-1]
        assert last.event == "contract.termination"
        assert len(dsse.parse(last.envelope).signatures) == 2  # one-sided, both of its keys
        assert store.exchange(ended.id).status == "terminated"


def test_both_may_end_it_at_once(fresh, owner, asker, monkeypatch):
    agreement = fresh.agree("matched")
    real, crossed = Messenger.send, []

    def send(self, peer, method, message):
        if method == "Terminate" and not crossed:
            crossed.append(True)
            asker.terminate(agreement, "contract.other")  # while the owner's message is on its way
        return real(self, peer, method, message)

    monkeypatch.setattr(Messenger, "send", send)
    ended = owner.terminate(agreement, "contract.terminated")
    for node in fresh.nodes.values():
        assert node.store.exchange(ended.id).status == "terminated"
        last = node.store.evidence(ended.id)[-1]
        assert last.event == "contract.termination"
        assert len(dsse.parse(last.envelope).signatures) == 4


def test_an_end_that_was_not_recorded_before_a_crash_is_recorded_at_the_next_start(fresh, owner, monkeypatch):
    agreement = fresh.agree("matched")
    with monkeypatch.context() as crash:
        crash.setattr(Ending, "_record_end", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            owner.terminate(agreement, "contract.terminated")
    node, found = fresh.nodes[OWNER], owner.find(agreement)
    assert not node.store.agreements(role="provider", state="active")
    owner.recover()
    record = node.store.evidence(found.id)[-1]
    assert Record.parse(dsse.parse(record.envelope).payload).outcome.reason == "contract.terminated"
    assert node.store.exchange(found.id).status == "terminated"


def test_a_request_nobody_answered_waits_and_is_sent_again(fresh, asker, owner, monkeypatch):
    with monkeypatch.context() as away:
        away.setattr(
            Messenger, "send", lambda *_: (_ for _ in ()).throw(Unavailable("peer.gone", "it is away"))
        )
        with pytest.raises(Unavailable, match="resend"):
            asker.request(OWNER, "matched")
    (found,) = fresh.asker.contract("list")
    assert (found["state"], found["unsent"]) == ("REQUESTED", "Request")
    assert found["you_can"] == ["resend", "terminate"]
    asker.resume()
    assert owner.approve(found["negotiation"]).state == "FINALIZED"


def test_a_request_that_is_refused_is_over(fresh, asker, monkeypatch):
    with monkeypatch.context() as stale:
        stale.setattr(
            Messenger,
            "send",
            lambda *_: (_ for _ in ()).throw(ConfigError("contract.policy-changed", "no")),
        )
        with pytest.raises(ConfigError):
            asker.request(OWNER, "matched")
    (found,) = fresh.nodes[ASKER].store.negotiations()
    assert (found.state, found.code) == ("TERMINATED", "contract.policy-changed")
    assert not fresh.nodes[ASKER].store.unsent()


def test_a_peer_cannot_pile_up_requests(fresh, owner, asker, monkeypatch):
    monkeypatch.setattr(negotiation_table, "MOST_WAITING_REQUESTS", 2)
    first = asker.request(OWNER, "matched")
    asker.request(OWNER, "matched")
    with pytest.raises(Unavailable) as refused:
        asker.request(OWNER, "matched")
    assert refused.value.code == "contract.waiting"
    owner.approve(first.id)
    assert asker.request(OWNER, "matched").state == "REQUESTED"


def test_opening_and_ending_in_turn_has_an_end(fresh, owner, asker):
    """What is ended is on record all the same; so a peer's openings are counted, and nobody else's."""
    node = fresh.nodes[OWNER]

    def allow(most):
        limits = node.config.limits.model_copy(update={"negotiations_per_day": most})
        node.config = node.config.model_copy(update={"limits": limits})

    allow(2)
    for _ in range(2):
        asker.terminate(asker.request(OWNER, "matched").id, "contract.terminated")
    with (
        closing(Store.open(node.config.state_url)) as other,
        other.atomic(),  # whose turn to write it is
        pytest.raises(Unavailable) as refused,
    ):
        asker.request(OWNER, "matched")
    assert refused.value.code == "contract.too-many"
    last = json.loads(node.config.spans_path.read_text().splitlines()[-1])
    assert (last["name"], last["attributes"]["error"]) == ("negotiation", "contract.too-many")
    assert owner.offer(ASKER, "matched").state == "OFFERED"
    allow(3)
    asker.resume()
    assert [n.state for n in node.store.negotiations() if n.role == "provider"].count("REQUESTED") == 1


@pytest.mark.deep
def test_a_connector_that_starts_sends_what_was_not_confirmed(fresh, asker, owner, monkeypatch):
    with monkeypatch.context() as lost:
        losing_replies(lost, "Request")
        with pytest.raises(Unavailable):
            asker.request(OWNER, "matched")
    node = fresh.nodes[ASKER]
    (negotiation,) = node.store.negotiations()
    assert node.store.unsent(negotiation.id)
    fresh.clients[ASKER].close()
    fresh.servers[ASKER].stop(0)
    node.close()
    fresh.start(ASKER)
    assert settled(lambda: not fresh.nodes[ASKER].store.unsent())
    assert kept(fresh.nodes[OWNER], negotiation.id) == kept(fresh.nodes[ASKER], negotiation.id)
    assert owner.approve(negotiation.id).state == "FINALIZED"
