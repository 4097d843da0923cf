"""A member that negotiates in bad faith: without its signature, on and on, about names, under taken ids."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compute.errors import ConfigError, PeerViolation
from connector.contract_records import Records
from connector.negotiating import Negotiating
from connector.opening import SignedRecord
from connector.statements import Statements
from connector.unconfirmed import Messenger
from connector.v1 import negotiation_pb2 as pb

OWNER, ASKER = "sz-trade", "hk-bank"


@pytest.fixture
def owner(shared):
    return Negotiating(shared.nodes[OWNER])


@pytest.fixture
def asker(shared):
    return Negotiating(shared.nodes[ASKER])


def terms(space, old="minimum_identities: 3", new="minimum_identities: 4"):
    text = (space.nodes[OWNER].config.policies_folder / "open.yaml").read_text()
    assert old in text
    return text.replace(old, new)


def in_force(space):
    return [len(node.store.agreements()) for node in space.nodes.values()]


def unsigned(monkeypatch, method):
    """Whoever sends `method` leaves its own signature out of the record."""
    real = Messenger.send

    def send(self, peer, name, message):
        if name == method:
            message.record = replace(SignedRecord.parse(message.record), signature=b"").to_bytes()
        return real(self, peer, name, message)

    monkeypatch.setattr(Messenger, "send", send)


def unsigned_reply(monkeypatch, method):
    """Whoever gets `method` answers with an empty signature."""
    real = Messenger.send

    def send(self, peer, name, message):
        if name == method:
            return pb.NegotiationReply(negotiation=message.negotiation)
        return real(self, peer, name, message)

    monkeypatch.setattr(Messenger, "send", send)


def negotiate(space, owner, asker, until):
    """Request, offer, acceptance, agreement; returns the negotiation before `until` and that act."""
    acts = {
        "Request": lambda _: asker.request(OWNER, "open").id,
        "Offer": lambda n: owner.counter(n, terms(space)).id,
        "Accept": lambda n: asker.accept(n).id,
        "Agree": lambda n: owner.approve(n).id,
        "Terminate": lambda n: asker.terminate(n, "contract.terminated").id,
    }
    negotiation = ""
    for name, act in acts.items():
        if name == until:
            return negotiation, act
        negotiation = act(negotiation)
    raise AssertionError(until)


@pytest.mark.parametrize("method", ["Request", "Offer", "Accept", "Agree"])
@pytest.mark.parametrize("whose", [unsigned, unsigned_reply], ids=["record", "answer"])
def test_nothing_comes_about_without_the_peers_signature(shared, owner, asker, monkeypatch, method, whose):
    before = in_force(shared)
    negotiation, act = negotiate(shared, owner, asker, method)
    receiver = shared.nodes[ASKER if method in ("Offer", "Agree") else OWNER].store
    chain = receiver.evidence(negotiation)
    with monkeypatch.context() as hostile:
        whose(hostile, method)
        with pytest.raises(PeerViolation) as refused:
            act(negotiation)
    assert refused.value.code == "peer.signature"
    assert in_force(shared) == before
    if whose is unsigned:  # the receiver kept nothing
        assert receiver.evidence(negotiation) == chain


def test_an_end_that_its_author_did_not_sign_is_refused(shared, owner, asker, monkeypatch):
    agreement = shared.agree("open")
    with monkeypatch.context() as hostile:
        unsigned(hostile, "Terminate")
        asker.terminate(agreement, "contract.terminated")  # its own end holds for itself alone
    record = owner.find(agreement)
    assert record.state == "FINALIZED"
    assert owner.terminate(record.id, "contract.terminated").state == "TERMINATED"


def test_a_statement_without_the_providers_signature_is_refused(shared, monkeypatch):
    agreement, peers = shared.agree("open"), shared.nodes[OWNER].peers
    real = peers.unary

    def unary(peer, method, message):
        message.record = replace(SignedRecord.parse(message.record), signature=b"").to_bytes()
        return real(peer, method, message)

    with monkeypatch.context() as hostile:
        hostile.setattr(peers, "unary", unary)
        with pytest.raises(PeerViolation, match="signature"):
            Statements(shared.nodes[OWNER]).state(Negotiating(shared.nodes[OWNER]).find(agreement))
    assert shared.asker.contract("statements", agreement=agreement) == []


# --- disk ---------------------------------------------------------------------------------------------


def kept_terms(space, name, negotiation):
    return [len(kept.document) for kept in space.nodes[name].store.proposals(negotiation)]


def test_opening_and_ending_in_turn_leaves_no_terms_behind(shared, owner, asker):
    asked = asker.request(OWNER, "open", terms(shared)).id
    offered = owner.offer(ASKER, "open", terms(shared)).id
    assert all(kept_terms(shared, OWNER, asked))
    asker.terminate(asked, "contract.terminated")
    owner.terminate(offered, "contract.terminated")
    assert kept_terms(shared, OWNER, asked) == [0, 0]
    assert kept_terms(shared, ASKER, offered) == [0]
    assert all(kept_terms(shared, ASKER, asked))  # its own affair
    (seen,) = shared.owner.contract("show", agreement=asked)
    digests = [kept.policy_digest for kept in shared.nodes[ASKER].store.proposals(asked)]
    assert [p["policy_digest"] for p in seen["proposals"]] == digests
    assert {p["text"] for p in seen["proposals"]} == {None}


def test_terms_of_what_was_agreed_or_opened_here_or_rejected_here_stay(shared, owner, asker):
    agreed = owner.find(shared.agree("open")).id
    asker.terminate(agreed, "contract.terminated")
    opened, rejected = owner.offer(ASKER, "open", terms(shared)).id, asker.request(OWNER, "open").id
    asker.terminate(opened, "contract.terminated")
    owner.terminate(rejected, "contract.rejected")
    assert all(length for one in (agreed, opened, rejected) for length in kept_terms(shared, OWNER, one))


# --- names of consent sets ----------------------------------------------------------------------------


def consenting(space, name):
    return terms(space, "analysis:\n", f"transfer: {{consent: {name}}}\nanalysis:\n")


def test_a_consumer_cannot_find_out_which_consent_sets_there_are(shared, owner, asker):
    folder = shared.nodes[OWNER].config.policies_folder / "consents"
    folder.mkdir(exist_ok=True)
    (folder / "there.txt").write_text("C001\n")
    told = []
    for name in ("there", "absent"):
        with pytest.raises(ConfigError) as refused:
            asker.request(OWNER, "open", consenting(shared, name))
        told.append((refused.value.code, refused.value.sentence))
    assert told[0] == told[1]
    assert told[0][0] == "contract.terms"

    asked = asker.request(OWNER, "open").id
    owner.counter(asked, consenting(shared, "there"))  # now the owner has named it
    with pytest.raises(ConfigError, match="consent"):
        asker.counter(asked, terms(shared))  # nor does the consumer take it away
    again = consenting(shared, "there").replace("minimum_identities: 3", "minimum_identities: 5")
    assert asker.counter(asked, again).state == "REQUESTED"
    asker.terminate(asked, "contract.terminated")


# --- ids that are taken -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taken(shared):
    """The id of an exchange of both sides that is no negotiation."""
    agreement = shared.agree("open")
    return shared.owner.contract("state", agreement=agreement)[0]["exchange"], agreement


def test_a_negotiation_under_the_id_of_another_exchange_is_a_violation(shared, owner, taken):
    node, (exchange, _) = shared.nodes[ASKER], taken
    offered = node.offer_of(OWNER, "open")
    message = pb.ContractRequest(
        negotiation=exchange, offer="open", policy_digest=offered.policy_digest, exchange_key=b"k" * 32
    )
    message.record = other_record(shared)
    before = len(shared.nodes[OWNER].store.negotiations())
    with pytest.raises(PeerViolation, match="not the caller's"):
        owner.on_request(ASKER, message)
    assert len(shared.nodes[OWNER].store.negotiations()) == before


def test_a_statement_under_the_id_of_another_exchange_is_a_violation(shared, taken, monkeypatch):
    exchange, agreement = taken
    node = shared.nodes[OWNER]
    real, drawn = node.entropy, []

    def entropy(size):
        drawn.append(size)
        return bytes.fromhex(exchange) if len(drawn) == 1 else real(size)

    monkeypatch.setattr(node, "entropy", entropy)
    with pytest.raises(PeerViolation, match="not the caller's"):
        Statements(shared.nodes[OWNER]).state(Negotiating(shared.nodes[OWNER]).find(agreement))


def other_record(space):
    """A record that can be read and that was not seen before."""
    node = space.nodes[OWNER]
    records = Records(node)
    statement = records.turn("contract.offer", node.store.negotiations()[0], "0" * 64, "none", OWNER)
    return records.signed(statement.seal(node.entropy))
