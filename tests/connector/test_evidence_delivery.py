"""The courier: no record, witness or store that fails keeps other evidence from being delivered."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import closing
from dataclasses import replace

import pytest
from sqlalchemy.exc import OperationalError

from compute.errors import ConfigError, PeerViolation, Unavailable
from connector import evidence
from connector.config import ConnectorConfig
from connector.evidence import Evidence, Witness, checked_quorum, demanded_quorum
from connector.records import countersigned
from connector.storage import Store
from tests.waiting import settled
from witness import cosignature
from witness.client import Recorded, Uncosigned, WitnessRejected, WitnessUnavailable
from witness.keys import PrivateKeys
from witness.log import Log, Submission
from witness.policy import parse
from witness.record import Exchange, Outcome, Party, seal

KEY = PrivateKeys.generate(bytes)
EXCHANGE = "ab" * 16


class Client:
    """A witness that answers with what it is given: an exception, or nothing more than that it is there."""

    def __init__(self, answer=None, proof="proof"):
        self.answer, self.proof, self.asked, self.patience = answer, proof, [], []

    def submit(self, submissions, *, patient):
        self.asked.append(submissions)
        self.patience.append(patient)
        if isinstance(self.answer, WitnessRejected):
            return [Recorded(None, self.answer)]
        if self.answer is not None:
            raise self.answer
        return [Recorded(0)]

    def await_proof(self, envelope, tag, *, patient):
        self.patience.append(patient)
        if isinstance(self.proof, Exception):
            raise self.proof
        return self.proof

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


def statuses(store):
    return {(item.sequence, item.witness): item.status for item in store.receipts(EXCHANGE)}


def test_a_record_that_was_erased_before_it_was_delivered_does_not_stop_the_courier(made):
    kept, store = made(records=2, w=Client())
    store.erase_evidence(EXCHANGE)
    kept.start()
    assert settled(lambda: statuses(store) == {(0, "w"): "rejected", (1, "w"): "rejected"})


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
    assert settled(lambda: statuses(store) == {(0, "w"): "delivered"})


@pytest.mark.parametrize(("reason", "tries"), [("signature", 1), ("format", 1), ("time", 3), ("members", 3)])
def test_a_refusal_for_good_is_not_repeated_and_one_that_may_pass_is(made, reason, tries):
    client = Client(WitnessRejected(reason, "no"))
    kept, store = made(w=client)
    kept.start()
    assert settled(lambda: len(client.asked) >= tries)
    time.sleep(0.2)
    assert (len(client.asked) == 1) == (tries == 1)
    assert statuses(store) == {(0, "w"): "rejected" if tries == 1 else "pending"}
    assert kept.settle(EXCHANGE, 0.05) == (tries == 1)


def test_what_was_refused_is_tried_once_more_after_a_restart(made):
    kept, store = made(w=Client(WitnessRejected("key", "no")))
    kept.start()
    assert settled(lambda: statuses(store) == {(0, "w"): "rejected"})
    again = Evidence(store, {"w": Witness(Client(), ())})
    again.start()
    assert settled(lambda: statuses(store) == {(0, "w"): "delivered"})
    again.close()


def test_a_silent_witness_is_asked_once_a_round_and_holds_up_nobody(made, monkeypatch):
    monkeypatch.setattr(evidence, "RETRY_SECONDS", 60)
    silent, well = Client(WitnessUnavailable("no")), Client()
    kept, store = made(records=5, a=silent, b=well)
    kept.start()
    assert settled(lambda: list(statuses(store).values()).count("delivered") == 5)
    assert len(silent.asked) == 1


@pytest.mark.parametrize(("demanded", "patient"), [(0, False), (1, True)])
def test_a_busy_witness_is_asked_again_only_for_what_waits_for_it(made, demanded, patient):
    client = Client()
    kept, _ = made(w=client)
    kept.witnessed(EXCHANGE, 0, demanded)
    assert client.patience == [patient, patient]


def test_the_courier_asks_a_busy_witness_once_a_round(made):
    client = Client()
    kept, _ = made(w=client)
    kept.start()
    assert settled(lambda: len(client.patience) == 2)
    assert client.patience == [False, False]


# --- cosignatures that this connector demands -----------------------------------------------------------

COSIGNER = PrivateKeys.generate(lambda size: b"c" * size)


def test_what_is_recorded_without_the_demanded_cosignatures_is_not_final(made):
    client = Client(proof=Uncosigned("too few"))
    kept, store = made(w=client)
    with pytest.raises(Unavailable) as refused:
        kept.witnessed(EXCHANGE, 0, 1)
    assert refused.value.code == "witness.quorum"
    assert statuses(store) == {(0, "w"): "pending"}
    client.proof = "proof"  # cosigned meanwhile
    assert b'"w":"proof"' in kept.witnessed(EXCHANGE, 0, 1)
    assert statuses(store) == {(0, "w"): "delivered"}


@pytest.fixture
def logged(made, tmp_path, monkeypatch):
    """A kept record in a log; its evidence as a connector with a quorum sees it, and its proof."""
    kept, store = made()
    with closing(Log(tmp_path / "log", "log.example/x", KEY, lambda: 1_700_000_000_000)) as log:
        delivery = kept._delivery(EXCHANGE, 0)
        log.append([Submission(hashlib.sha256(delivery.envelope).digest(), delivery.envelope, delivery.tag)])
        proof, vkeys = log.prove(0), tuple(map(str, log.vkeys))
    made_quorum = parse(quorum_text("other.example/w"))
    asker = Evidence(store, {"w": Witness(Client(), vkeys, checked_quorum(made_quorum, "w", vkeys))})
    return asker, proof, vkeys


def quorum_text(name):
    keys = [cosignature.cosigner_key(name, key) for key in COSIGNER.keys]
    lines = [f"witness w{n} {key}" for n, key in enumerate(keys)]
    return "\n".join([*lines, "group all-of-it all w0 w1", "quorum all-of-it"])


def cosigned(proof, name):
    head = proof.checkpoint
    lines = [cosignature.sign(head.text, key, name, 1_700_000_000) for key in COSIGNER.keys]
    return replace(proof, checkpoint=replace(head, signatures=(*head.signatures, *lines)))


def test_an_asker_starts_only_on_a_proof_with_the_cosignatures_that_it_demands(logged):
    asker, proof, _ = logged
    whole = cosigned(proof, "other.example/w")
    half = replace(whole, checkpoint=replace(whole.checkpoint, signatures=whole.checkpoint.signatures[:-1]))

    def proven(shown):
        asker.proven(EXCHANGE, 0, json.dumps({"w": str(shown)}).encode(), 1)

    for uncosigned in (proof, half, cosigned(proof, "log.example/w")):
        with pytest.raises(Unavailable) as refused:
            proven(uncosigned)
        assert refused.value.code == "witness.quorum"
    with pytest.raises(PeerViolation):  # a proof of something else is the peer's fault all the same
        proven(replace(whole, index=1))
    proven(whole)


def test_a_quorum_that_can_never_be_is_refused_at_the_start(logged, tmp_path):
    _, _, vkeys = logged
    with pytest.raises(ConfigError) as refused:
        checked_quorum(parse(quorum_text("log.example/w")), "w", vkeys)
    assert refused.value.code == "evidence.quorum"
    config = ConnectorConfig(
        participant="hk-bank",
        space="gba",
        jurisdiction="HK",
        network={"listen": "127.0.0.1:1", "address": "127.0.0.1:1"},
        evidence={"quorum": "quorum.policy"},
    )
    config._folder = tmp_path
    for text in (None, "quorum none", f"log {vkeys[0]}\n{quorum_text('a.example')}", "quorum who"):
        if text is not None:
            (tmp_path / "quorum.policy").write_text(text)
        with pytest.raises(ConfigError) as refused:
            demanded_quorum(config)
        assert refused.value.code == "evidence.quorum"
    (tmp_path / "quorum.policy").write_text(quorum_text("a.example/w"))
    assert set(demanded_quorum(config).witnesses) == {"w0", "w1"}
