"""Nobody signs what it cannot read: hidden claims, wrong clocks, figures it did not see, forged reasons."""

from __future__ import annotations

import dataclasses
import json

import pytest

from compute.errors import PeerViolation, Unavailable
from connector import answering, evidence
from connector.firewall import reasons_from_json
from connector.opening import SignedRecord
from connector.records import Statement, reopen, signature
from connector.terms import Terms
from witness.keys import PrivateKeys
from witness.record import Contract, Data, Disclosure, Exchange, Outcome, Party, Record, Sealed, Sensitive

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
SQL = "SELECT count(*) AS n FROM sz-trade.matched"
KEY = PrivateKeys.generate(bytes)


def statement():
    return Statement(
        "query.failure",
        "gba",
        "ab" * 32,
        Exchange("cd" * 16, 0),
        (Party(OWNER, "provider", KEY.public.ids, "0" * 64, 1_700_000_000_000),),
        Outcome("failed", "peer.gone"),
        Data(),
        Contract("ef" * 32, "v1"),
        Sensitive(purpose=("credit-risk",)),
    )


def entropy():
    drawn = iter(range(1, 10_000))
    return lambda size: next(drawn).to_bytes(size, "big")


def test_an_honest_record_opens():
    sealed = statement().seal(entropy())
    again, stated = reopen(SignedRecord.parse(SignedRecord.of(sealed, signature(sealed, KEY)).to_bytes()))
    assert (again, stated) == (sealed, statement())


def test_a_claim_that_hides_among_the_decoys_is_not_countersigned():
    """Its author could show it later, over our signature, instead of the one we saw."""
    honest = statement().seal(entropy())
    hidden = Disclosure(b"\7" * 32, "purpose", ["marketing"])
    kept = [d.digest for d in honest.disclosures]
    others = [digest for digest in honest.record.sealed if digest not in kept][1:]
    record = dataclasses.replace(honest.record, sealed=tuple(sorted([*kept, *others, hidden.digest])))
    payload = record.to_payload()
    forged = Sealed(Record.parse(payload), payload, honest.disclosures, honest.decoys)
    with pytest.raises(PeerViolation) as refused:
        reopen(SignedRecord.of(forged, signature(forged, KEY)))
    assert refused.value.code == "peer.evidence"
    with pytest.raises(PeerViolation):  # nor by leaving out the decoy that it replaced
        reopen(SignedRecord.of(dataclasses.replace(forged, decoys=honest.decoys[1:]), signature(forged, KEY)))


def asked(space):
    return space.asker.query(SQL, PURPOSE)


def test_an_owner_whose_clock_is_elsewhere_gets_no_signature(shared, monkeypatch):
    """Both its acceptance and its record state the same wrong time."""
    monkeypatch.setattr(answering, "milliseconds", lambda at: int(at.timestamp() * 1000) - 3_600_000)
    monkeypatch.setattr(answering, "check_clock", lambda *_: None)
    with pytest.raises(PeerViolation) as refused:
        asked(shared)
    assert refused.value.code == "peer.clock"
    assert shared.evidence(ASKER)[-1] == ["query.failure"]


@pytest.mark.parametrize(
    ("figures", "code"),
    [
        ({"cells-released": 1, "cells-suppressed": 0, "rows-released": 10**6}, "peer.evidence"),
        ({"cells-released": 1}, "peer.evidence"),
        ({"cells-released": 7, "cells-suppressed": 0}, "peer.figures"),
    ],
)
def test_figures_that_the_asker_did_not_see_are_not_left_standing(shared, monkeypatch, figures, code):
    real = Terms.release

    def release(self, sid, previous, committed, digests, stated):
        own = stated == {"cells-released": 1, "cells-suppressed": 0}
        return real(self, sid, previous, committed, digests, figures if own else stated)

    monkeypatch.setattr(answering.Terms, "release", release)
    with pytest.raises(PeerViolation) as refused:
        asked(shared)
    assert refused.value.code == code
    assert shared.evidence(ASKER)[-1][-1] == "query.failure"


@pytest.mark.parametrize("reason", ["no code at all", "x" * 200, "", "a\nb"])
def test_an_unreadable_error_of_the_owner_is_on_record_all_the_same(shared, monkeypatch, reason):
    def accept(*_):
        raise Unavailable(reason, "go away")

    monkeypatch.setattr(answering.Answering, "_accept", accept)
    monkeypatch.setattr(answering.Answering, "_failed", lambda *_: None)
    with pytest.raises(PeerViolation) as failed:
        asked(shared)
    assert failed.value.code == "peer.malformed"
    assert shared.evidence(ASKER)[-1] == ["query.failure"]


REASON = {"code": "a.b", "rule": "uses", "sentence": "no", "column": None, "allowed": None}


@pytest.mark.parametrize(
    "changed",
    [
        {"code": 7},
        {"code": "a b"},
        {"sentence": None, "code": "a\x1b[2J"},
        {"sentence": "\x1b[2Jall is well"},
        {"allowed": ["everything"]},
        {"column": "a\u202eb"},
    ],
)
def test_reasons_that_could_rewrite_a_terminal_are_refused(changed):
    assert reasons_from_json(json.dumps([REASON])).because[0].code == "a.b"
    with pytest.raises(PeerViolation):
        reasons_from_json(json.dumps([REASON | changed]))


def test_reasons_nested_without_end_are_refused():
    with pytest.raises(PeerViolation):
        reasons_from_json("[" * 100_000)


def test_a_leaf_under_another_tag_is_no_proof(shared, monkeypatch):
    """Whoever holds the exchange's key must find its leaves in the public log."""
    real = evidence.exchange_tag
    owner = shared.nodes[OWNER].evidence
    delivery = type(owner)._delivery

    def other(self, exchange, sequence):
        found = delivery(self, exchange, sequence)
        if self is not owner:
            return found
        return dataclasses.replace(found, tag=real(b"another key".ljust(32), sequence, OWNER))

    monkeypatch.setattr(shared.nodes[ASKER].store, "outbox", lambda **_: [])  # or it might come first
    monkeypatch.setattr(type(owner), "_delivery", other)
    with pytest.raises(PeerViolation) as refused:
        asked(shared)
    assert refused.value.code == "peer.proof"
