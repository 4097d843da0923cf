"""A peer that does not follow the protocol gets a refusal and nothing else; the next honest query works.

A relay stands between asker and owner and changes frames on their way; each test says on which way, and
asserts whose error it is, that nothing was released, and that the honest side's evidence says so.
"""

from __future__ import annotations

import dataclasses

import pytest

from compute.errors import BayspaceError, PeerViolation
from connector import inquiry, transport
from connector.v1 import frame_pb2
from tests.waiting import settled

PURPOSE = "credit-risk"
OWNER, ASKER = "sz-trade", "hk-bank"
JOINT = (
    "SELECT i.industry, count(*) AS n, sum(i.amount) AS s FROM sz-trade.{offer} i "
    "JOIN hk-bank.credit c ON i.company_id = c.company_id GROUP BY i.industry"
)


class Responses:
    """The owner's frames, changed on their way to the asker."""

    def __init__(self, call, change):
        self._call, self._frames = call, self._changed(call, change)

    @staticmethod
    def _changed(call, change):
        for number, frame in enumerate(call):
            yield from change(number, frame)

    def __iter__(self):
        return self._frames

    def __next__(self):
        return next(self._frames)

    def __getattr__(self, name):
        return getattr(self._call, name)


def same(_number, frame):
    return [frame]


@pytest.fixture
def relay(monkeypatch):
    """Change frames: `relay(outgoing=..., incoming=...)`, each (number, frame) -> frames."""
    real = transport.call

    def install(outgoing=same, incoming=same):
        def call(role, headers, run, peer, timeout, on_call, stop):
            def changed(requests):
                def out():
                    for number, frame in enumerate(requests):
                        yield from outgoing(number, frame)

                return Responses(run(out()), incoming)

            return real(role, headers, changed, peer, timeout, on_call, stop)

        monkeypatch.setattr(inquiry, "call", call)

    yield install
    monkeypatch.undo()


def copy(frame, **changes):
    fields = {
        "sequence": frame.sequence,
        "kind": frame.kind,
        "transcript": frame.transcript,
        "body": frame.body,
    }
    return frame_pb2.Frame(**{**fields, **changes})


def flip(frame):
    body = bytearray(frame.body or b"\0")
    body[len(body) // 2] ^= 1
    return copy(frame, body=bytes(body))


CHANGES = {
    "dropped": lambda frame: [],
    "duplicated": lambda frame: [frame, frame],
    "truncated": lambda frame: [copy(frame, body=frame.body[:-1])],
    "one bit flipped": lambda frame: [flip(frame)],
    "oversized": lambda frame: [copy(frame, body=frame.body + bytes(transport.WIRE_BYTES))],
    "renamed": lambda frame: [copy(frame, kind="release")],
    "renumbered": lambda frame: [copy(frame, sequence=frame.sequence + 1)],
    "without its transcript": lambda frame: [copy(frame, transcript=b"")],
}


def on(target, change):
    return lambda number, frame: change(frame) if number == target else [frame]


def honest_query_works(space, offer):
    assert space.asker.query(JOINT.format(offer=offer), PURPOSE).table.num_rows


def some_now(cases, now):
    """Every case, those that are not for `make test` marked as deep: `now` takes a case."""
    return [case if now(*case) else pytest.param(*case, marks=pytest.mark.deep) for case in cases]


OFFERS = ("invoices", "matched")
FRAMES = (1, 2, 4)
TO_OWNER = [
    (change, frame, offer)
    for change in CHANGES
    for frame in FRAMES
    for offer in OFFERS
    if change != "dropped" or (frame, offer) == (4, "matched")  # costs a frame timeout
]


def with_this_offer(change, frame, offer):
    """One offer for each change of each frame, the other one for the next: the codec is the same."""
    turn = list(CHANGES).index(change) + FRAMES.index(frame)
    return change != "dropped" and offer == OFFERS[turn % 2]


@pytest.mark.parametrize(("change", "frame", "offer"), some_now(TO_OWNER, with_this_offer))
def test_a_changed_frame_to_the_owner_is_refused(shared, relay, offer, change, frame):
    """Frame 1 is the confirmation; 2 and 4 belong to the protocol."""
    relay(outgoing=on(frame, CHANGES[change]))
    with pytest.raises(BayspaceError):
        shared.asker.query(JOINT.format(offer=offer), PURPOSE)
    assert settled(
        lambda: shared.evidence(OWNER)[-1] in (["query.failure"], ["query.intent", "query.failure"])
    )


KINDS = ("accept", "start", "sealed", "outcome", "key")
NO_HARM = {
    ("accept", "without its transcript"),  # frames of the handshake carry none
    ("key", "duplicated"),  # nothing is read after the key
}
TO_ASKER = [
    (kind, change)
    for kind in KINDS
    for change in CHANGES
    if change != "dropped" and (kind, change) not in NO_HARM
]


def where_it_counts(kind, change):
    """Changes of what a kind says, for each kind; changes around it, which one codec finds, for one."""
    return change in ("truncated", "one bit flipped") or kind == "outcome"


@pytest.mark.parametrize(("kind", "change"), some_now(TO_ASKER, where_it_counts))
def test_a_changed_frame_to_the_asker_is_refused(shared, relay, change, kind):
    relay(incoming=lambda _number, frame: CHANGES[change](frame) if frame.kind == kind else [frame])
    with pytest.raises(BayspaceError) as failed:
        shared.asker.query(JOINT.format(offer="matched"), PURPOSE)
    assert "SECRET" not in str(failed.value)
    assert "query.result" not in shared.evidence(ASKER)[-1]


@pytest.mark.parametrize("offer", OFFERS)
def test_after_all_these_violations_an_honest_query_works(shared, offer):
    honest_query_works(shared, offer)


def test_frames_out_of_order_are_refused(shared, relay):
    held = []

    def swap(number, frame):
        if number == 2:
            held.append(frame)
            return []
        return [frame, *held] if number == 3 else [frame]

    relay(outgoing=swap)
    with pytest.raises(BayspaceError) as failed:
        shared.asker.query(JOINT.format(offer="matched"), PURPOSE)
    assert isinstance(failed.value, PeerViolation)
    assert "query.release" not in shared.evidence(OWNER)[-1]


def test_the_owners_own_frames_sent_back_are_refused(shared, relay):
    seen = []

    def record(_number, frame):
        seen.append(frame)
        return [frame]

    relay(incoming=record, outgoing=lambda n, frame: [seen[-1]] if n == 2 else [frame])
    with pytest.raises(BayspaceError):
        shared.asker.query(JOINT.format(offer="matched"), PURPOSE)
    assert "query.release" not in shared.evidence(OWNER)[-1]


def test_a_wrong_plan_digest_is_refused_before_anything_is_charged(shared, monkeypatch):
    real = inquiry.opening_of
    monkeypatch.setattr(
        inquiry, "opening_of", lambda *a: dataclasses.replace(real(*a), plan_digest=bytes(32))
    )
    node = shared.nodes[OWNER]
    used = {
        a.digest: node.uses_of(node.agreement(a.digest, role="provider", peer=ASKER))
        for a in node.store.agreements()
    }
    with pytest.raises(PeerViolation) as refused:
        shared.asker.query(JOINT.format(offer="matched"), PURPOSE)
    assert refused.value.code == "peer.plan-digest"
    assert used == {
        a.digest: node.uses_of(node.agreement(a.digest, role="provider", peer=ASKER))
        for a in node.store.agreements()
    }


def test_a_replayed_opening_is_refused(shared, monkeypatch):
    real, kept = inquiry.opening_of, []

    def opening(*arguments):
        kept.append(real(*arguments))
        return kept[-1]

    monkeypatch.setattr(inquiry, "opening_of", opening)
    shared.asker.query(JOINT.format(offer="matched"), PURPOSE)
    store = shared.nodes[ASKER].store
    monkeypatch.setattr(inquiry, "opening_of", lambda *_: kept[0])
    monkeypatch.setattr(store, "open_exchange", lambda *_: None)
    with pytest.raises(PeerViolation) as refused:
        shared.asker.query(JOINT.format(offer="matched"), PURPOSE)
    assert refused.value.code == "peer.replay"


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("agreement", "ab" * 32, "agreement.unknown"),
        ("members", "ab" * 32, "members.differ"),
        ("clock", 1, "peer.clock"),
        ("purpose", "marketing", "purpose.not-allowed"),
        ("sql", "SELECT count(*) AS n FROM hk-bank.credit", None),
        ("exchange_key", b"short", None),
        ("nonce", b"", None),
        ("trace", "nonsense", None),
    ],
)
def test_an_opening_with_other_facts_is_refused(shared, monkeypatch, field, value, code):
    """The asker's own checks are left out by changing the opening after them."""
    real = inquiry.opening_of
    monkeypatch.setattr(inquiry, "opening_of", lambda *a: dataclasses.replace(real(*a), **{field: value}))
    if field == "trace":
        monkeypatch.setattr("connector.terms.Terms.trace_id", "0" * 32)
    with pytest.raises(BayspaceError) as refused:
        shared.asker.query(JOINT.format(offer="matched"), PURPOSE)
    assert code is None or refused.value.code == code
    assert "query.release" not in (shared.evidence(OWNER) or [[]])[-1] or field != "sql"


def test_an_asker_cannot_pass_off_somebody_elses_data_as_its_own(shared, monkeypatch):
    real = inquiry.opening_of

    def opening(*arguments):
        made = real(*arguments)
        return dataclasses.replace(made, dataset=dataclasses.replace(made.dataset, participant="sz-trade"))

    monkeypatch.setattr(inquiry, "opening_of", opening)
    with pytest.raises(PeerViolation):
        shared.asker.query(JOINT.format(offer="matched"), PURPOSE)


def test_an_asker_that_claims_any_number_of_keys_is_refused(shared, monkeypatch):
    real = inquiry.opening_of

    def opening(*arguments):
        made = real(*arguments)
        return dataclasses.replace(made, dataset=dataclasses.replace(made.dataset, keys_bound=1 << 39))

    monkeypatch.setattr(inquiry, "opening_of", opening)
    with pytest.raises(PeerViolation) as refused:
        shared.asker.query(JOINT.format(offer="matched"), PURPOSE)
    assert refused.value.code == "peer.keys"


def test_a_stalled_peer_times_out(build_space, relay):
    space = build_space(timeout=4)
    space.agree("matched")
    relay(outgoing=lambda number, frame: [] if number >= 2 else [frame])
    with pytest.raises(BayspaceError):
        space.asker.query(JOINT.format(offer="matched"), PURPOSE)
    assert settled(lambda: space.evidence(OWNER)[-1] == ["query.intent", "query.failure"])
    assert not space.nodes[OWNER].store.running()
    relay(incoming=lambda _number, frame: [] if frame.kind == "outcome" else [frame])
    with pytest.raises(BayspaceError):
        space.asker.query(JOINT.format(offer="matched"), PURPOSE)
    assert "query.result" not in space.evidence(ASKER)[-1]
    relay()
    honest_query_works(space, "matched")
