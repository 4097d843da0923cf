"""A joint question that was answered is answered from what the asker has; nobody is asked or charged."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest

from compute.errors import PolicyRefusal
from connector import inquiry, kept_answers
from connector.negotiating import Negotiating
from policy_enforcer.facts import Decision, Reason
from policy_enforcer.model import Transfer
from witness import bundle

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
JOINT = (
    "SELECT {0}, count(*) AS n FROM sz-trade.matched i JOIN hk-bank.credit c ON i.company_id = c.company_id"
    " GROUP BY {0}"
)
SQL = JOINT.format("rating")


@pytest.fixture(autouse=True)
def asked_anew():
    """Here answers are kept."""


def left(space):
    """What asking leaves behind: the exchanges of both sides, and the uses that are charged."""
    found = [[e.id for e in space.nodes[n].store.exchanges() if e.kind == "query"] for n in (OWNER, ASKER)]
    agreement = inquiry.inquire(space.nodes[ASKER], SQL, PURPOSE).agreement
    return found, space.nodes[OWNER].uses_of(agreement)


def test_the_answer_that_is_kept_is_shown_and_nobody_is_asked(shared):
    first = shared.asker.query(SQL, PURPOSE)
    assert first.summary["answered_at"] is None
    before = left(shared)
    again = shared.asker.query(SQL.replace(" FROM", "\n  FROM"), PURPOSE)
    assert left(shared) == before
    assert again.summary["answered_at"]
    assert again.table.equals(first.table)
    assert again.summary["exchanges"] == first.summary["exchanges"]
    assert (again.suppressed, again.trace_id) == (first.suppressed, first.trace_id)
    assert bundle.parse(again.receipt.bundle) == bundle.parse(first.receipt.bundle)
    told = shared.asker.explain(SQL, PURPOSE)
    assert told["answered_at"] == again.summary["answered_at"]
    assert told["budget"]["uses"]["used"] == before[1]


def test_asked_anew_it_is_charged_and_the_newer_answer_is_shown_from_then_on(shared):
    first = shared.asker.query(SQL, PURPOSE)
    _, charged = left(shared)
    newer = shared.asker.query(SQL, PURPOSE, again=True)
    assert newer.summary["answered_at"] is None
    assert newer.summary["exchange"] != first.summary["exchange"]
    assert left(shared)[1] == charged + 1
    assert shared.asker.query(SQL, PURPOSE).summary["exchange"] == newer.summary["exchange"]


def test_what_another_protocol_answered_is_not_shown_for_the_one_that_is_named(shared):
    first, named = shared.asker.query(SQL, PURPOSE), "private_join_and_compute"
    _, charged = left(shared)
    other = shared.asker.query(SQL, PURPOSE, protocol=named)
    assert (other.summary["answered_at"], other.summary["protocol"]) == (None, named)
    assert left(shared)[1] == charged + 1
    for name, answer in (("", first), (first.summary["protocol"], first), (named, other)):
        shown = shared.asker.query(SQL, PURPOSE, protocol=name)
        assert shown.summary["answered_at"]
        assert shown.summary["exchange"] == answer.summary["exchange"]
        assert shown.summary["protocol"] == answer.summary["protocol"]
    assert left(shared)[1] == charged + 1
    assert shared.asker.explain(SQL, PURPOSE, protocol=named)["answered_at"]


OTHERS = {
    "another output": JOINT.format("industry"),
    "another filter": SQL.replace(" GROUP", " WHERE c.rating <> 'AA' GROUP"),
    "another limit": f"{SQL} ORDER BY rating LIMIT 1",
}


def test_our_data_our_purpose_and_every_clause_make_the_question(shared):
    """Each is another question; so is what is asked of other agreements together."""
    node = shared.nodes[ASKER]
    asked = [inquiry.inquire(node, sql, PURPOSE) for sql in (SQL, *OTHERS.values())]
    names = {inquiry.question_of(one) for one in asked}
    agreement, plan, own = asked[0].agreement, asked[0].prepared.plan, asked[0].own.dataset
    other = replace(agreement, negotiation="0" * 32)
    names |= {
        kept_answers.question_of(agreement, plan, "", own),
        kept_answers.question_of(agreement, plan, PURPOSE, None),
        kept_answers.question_of(agreement, plan, PURPOSE, replace(own, commitment="0" * 64)),
        kept_answers.question_of(other, plan, PURPOSE, own),
        kept_answers.question_of(agreement, plan, PURPOSE, own, [agreement, other]),
    }
    assert len(names) == len(asked) + 5
    assert "" not in names


def test_nothing_is_kept_where_consent_may_be_withdrawn_or_the_owner_gives_its_answer_again(shared):
    node = shared.nodes[ASKER]
    asked = inquiry.inquire(node, SQL, PURPOSE)
    policy = asked.agreement.policy.model_copy(update={"transfer": Transfer(consent="clients")})
    consented = replace(asked.agreement, policy=policy)
    plan = asked.prepared.plan
    assert kept_answers.question_of(consented, plan, PURPOSE, None) == ""
    assert kept_answers.question_of(asked.agreement, plan, PURPOSE, None, [asked.agreement, consented]) == ""
    ours = asked.own.policy.model_copy(update={"transfer": Transfer(consent="clients")})
    assert inquiry.question_of(replace(asked, own=replace(asked.own, policy=ours))) == ""
    alone = inquiry.inquire(node, "SELECT count(*) AS n FROM sz-trade.matched", PURPOSE)
    assert inquiry.question_of(alone) == ""


def test_an_erased_answer_is_a_new_question(shared):
    first = shared.asker.query(SQL, PURPOSE)
    shared.nodes[ASKER].store.erase_evidence(first.summary["exchange"])
    assert shared.asker.query(SQL, PURPOSE).summary["answered_at"] is None


def test_exchanges_of_different_rounds_are_no_answer(shared, monkeypatch):
    """Not even of one trace, which whoever asks may have begun."""
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    monkeypatch.setattr(shared.nodes[ASKER].telemetry, "query_span", lambda _: nullcontext(trace))
    first, second = (shared.asker.query(sql, PURPOSE) for sql in (SQL, OTHERS["another limit"]))
    store = shared.nodes[ASKER].store
    names = [
        inquiry.question_of(inquiry.inquire(shared.nodes[ASKER], sql, PURPOSE))
        for sql in (SQL, OTHERS["another limit"])
    ]
    assert kept_answers.kept(store, names[:1]).exchanges == (first.summary["exchange"],)
    assert kept_answers.kept(store, names[1:]).exchanges == (second.summary["exchange"],)
    assert kept_answers.kept(store, names) is None
    assert kept_answers.kept(store, [names[0], "unknown"]) is None


@pytest.mark.parametrize(("code", "shown"), [("uses.exhausted", True), ("purpose.not-allowed", False)])
def test_a_refusal_counts_but_for_what_another_asking_would_use_up(shared, monkeypatch, code, shown):
    shared.asker.query(SQL, PURPOSE)
    refusal = Decision((Reason(code, "rule", "no"),))
    monkeypatch.setattr(inquiry.Inquiry, "decision", property(lambda _: refusal))
    if shown:
        assert shared.asker.query(SQL, PURPOSE).summary["answered_at"]
        return
    with pytest.raises(PolicyRefusal):
        shared.asker.query(SQL, PURPOSE)


def test_it_ends_with_the_agreement(shared):
    asked = inquiry.inquire(shared.nodes[ASKER], SQL, PURPOSE)
    shared.asker.query(SQL, PURPOSE)
    store, name = shared.nodes[ASKER].store, inquiry.question_of(asked)
    assert kept_answers.kept(store, [name])
    Negotiating(shared.nodes[OWNER]).terminate(asked.agreement.negotiation, "contract.terminated")
    assert kept_answers.kept(store, [name]) is None
