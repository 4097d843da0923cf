"""The courier: no record, witness or store that fails keeps other evidence from being delivered."""

from __future__ import annotations

import time

import pytest
from sqlalchemy.exc import OperationalError

from connector import evidence
from connector.evidence import Evidence, Witness
from connector.records import countersigned
from connector.storage import Store
from witness.client import Recorded, WitnessRejected, WitnessUnavailable
from witness.keys import PrivateKeys
from witness.record import Exchange, Outcome, Party, seal

KEY = PrivateKeys.generate(bytes)
EXCHANGE = "ab" * 16


class Client:
    """A witness that answers with what it is given: an exception, or nothing more than that it is there."""

    def __init__(self, answer=None):
        self.answer, self.asked = answer, []

    def submit(self, submissions):
        self.asked.append(submissions)
        if isinstance(self.answer, WitnessRejected):
            return [Recorded(None, self.answer)]
        if self.answer is not None:
            raise self.answer
        return [Recorded(0)]

    def await_proof(self, envelope, tag):
        return "proof"

    def close(self):
        pass


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Make the evidence of one connector with these witnesses, and `records` kept in it."""
    monkeypatch.setattr(evidence, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(evidence, "parse_proof", lambda _: type("Proof", (), {"index": 0}))
    opened = []

    def make(records=1, **clients):
        store = Store.open(f"sqlite:///{tmp_path / 'state.db'}")
        kept = Evidence(store, {name: Witness(client, ()) for name, client in clients.items()})
        store.open_exchange(EXCHANGE, None, "hk-bank", "provider", "query", "0" * 32, bytes(32))
        previous = None
        for sequence in range(records):
            sealed = seal(
                event="query.failure",
                space="gba",
                members="ab" * 32,
                exchange=Exchange(EXCHANGE, sequence, previous),
                parties=(Party("sz-trade", "provider", KEY.public.ids, "0" * 64, 1_700_000_000_000),),
                outcome=Outcome("failed", "peer.gone"),
            )
            kept.keep(EXCHANGE, sealed, countersigned(sealed, KEY, None, None))
            previous = sealed.digest
        opened.append((kept, store))
        return kept, store

    yield make
    for kept, store in opened:
        kept.close()
        store.close()


def eventually(holds):
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def statuses(store):
    return {(item.sequence, item.witness): item.status for item in store.receipts(EXCHANGE)}


def test_a_record_that_was_erased_before_it_was_delivered_does_not_stop_the_courier(made):
    kept, store = made(records=2, w=Client())
    store.erase_evidence(EXCHANGE, 0)
    kept.start()
    eventually(lambda: statuses(store) == {(0, "w"): "rejected", (1, "w"): "delivered"})


def test_a_store_that_fails_for_a_while_does_not_stop_the_courier(made, monkeypatch):
    kept, store = made(w=Client())
    real, failures = store.outbox, []

    def outbox(**which):
        if len(failures) < 3:
            failures.append(True)
            raise OperationalError("SELECT", {}, Exception("disk I/O error"))
        return real(**which)

    monkeypatch.setattr(store, "outbox", outbox)
    kept.start()
    eventually(lambda: statuses(store) == {(0, "w"): "delivered"})


@pytest.mark.parametrize(("reason", "tries"), [("signature", 1), ("format", 1), ("time", 3), ("members", 3)])
def test_a_refusal_for_good_is_not_repeated_and_one_that_may_pass_is(made, reason, tries):
    client = Client(WitnessRejected(reason, "no"))
    kept, store = made(w=client)
    kept.start()
    eventually(lambda: len(client.asked) >= tries)
    time.sleep(0.2)
    assert (len(client.asked) == 1) == (tries == 1)
    assert statuses(store) == {(0, "w"): "rejected" if tries == 1 else "pending"}
    assert kept.settle(EXCHANGE, 0.05) == (tries == 1)


def test_what_was_refused_is_tried_once_more_after_a_restart(made):
    kept, store = made(w=Client(WitnessRejected("key", "no")))
    kept.start()
    eventually(lambda: statuses(store) == {(0, "w"): "rejected"})
    again = Evidence(store, {"w": Witness(Client(), ())})
    again.start()
    eventually(lambda: statuses(store) == {(0, "w"): "delivered"})
    again.close()


def test_a_silent_witness_is_asked_once_a_round_and_holds_up_nobody(made, monkeypatch):
    monkeypatch.setattr(evidence, "RETRY_SECONDS", 60)
    silent, well = Client(WitnessUnavailable("no")), Client()
    kept, store = made(records=5, a=silent, b=well)
    kept.start()
    eventually(lambda: list(statuses(store).values()).count("delivered") == 5)
    assert len(silent.asked) == 1
