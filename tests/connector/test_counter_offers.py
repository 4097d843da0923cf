"""Terms that both sides change: request, offer, request again, acceptance, agreement. The owner reads before
anything of the consumer's is signed; every move is made once, whatever is lost on the way.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from compute.errors import ConfigError, PeerViolation, PolicyRefusal, Unavailable
from connector.contract import Agreement
from connector.contract_records import Records
from connector.negotiating import Negotiating
from connector.opening import SignedRecord
from connector.records import countersigned, reopen
from connector.transitions import CONSUMER, NEGOTIATION, PROVIDER, TRANSFER, Message, State
from connector.unconfirmed import Messenger
from connector.v1 import negotiation_pb2 as pb
from witness import dsse
from witness.record import Record

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
SQL = "SELECT count(*) AS n FROM sz-trade.open"


def terms(space, **changes):
    """The policy of `open`, with these words changed."""
    settings = space.nodes[OWNER].config
    text = (settings.policies_folder / "open.yaml").read_text()
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    return text


WIDER = {"minimum": ("minimum_identities: 3", "minimum_identities: 2")}
MIDDLE = {"minimum": ("minimum_identities: 3", "minimum_identities: 4")}


def states(space, negotiation):
    return [space.nodes[name].store.negotiation(negotiation).state for name in (OWNER, ASKER)]


def chains(space, negotiation):
    """The records of both sides, each with its number of signatures."""
    found = []
    for name in (OWNER, ASKER):
        kept = space.nodes[name].store.evidence(negotiation)
        found.append([(e.event, e.digest, len(dsse.parse(e.envelope).signatures)) for e in kept])
    return found


def test_a_consumer_asks_for_other_terms_and_gets_the_owners_counter_offer(shared):
    asked = shared.asker.contract("request", participant=OWNER, offer="open", terms=terms(shared, **WIDER))[0]
    negotiation = asked["negotiation"]
    (seen,) = shared.owner.contract("show", agreement=negotiation)
    assert [p["author"] for p in seen["proposals"]] == [OWNER, ASKER]
    assert seen["you_can"] == ["counter", "approve", "terminate"]
    changes = seen["proposals"][-1]["changes"]
    assert "minimum of identities: 3 becomes 2" in changes["allowed"][0]
    assert not changes["forbidden"]

    offered = shared.owner.contract("counter", agreement=negotiation, terms=terms(shared, **MIDDLE))[0]
    assert offered["state"] == "OFFERED"
    (seen,) = shared.asker.contract("show", agreement=negotiation)
    assert seen["you_can"] == ["counter", "accept", "terminate"]
    assert "minimum_identities: 4" in seen["proposals"][-1]["text"]
    again = shared.asker.contract("counter", agreement=negotiation, terms=terms(shared, **WIDER))[0]
    assert again["state"] == "REQUESTED"
    shared.owner.contract("counter", agreement=negotiation, terms=terms(shared, **MIDDLE))
    assert shared.asker.contract("accept", agreement=negotiation)[0]["state"] == "ACCEPTED"
    assert states(shared, negotiation) == ["ACCEPTED"] * 2
    agreed = shared.owner.contract("approve", agreement=negotiation)[0]
    assert states(shared, negotiation) == ["FINALIZED"] * 2

    (details,) = shared.asker.contract("show", agreement=agreed["agreement"])
    assert details["policy_digest"] == seen["proposals"][-1]["policy_digest"]
    ours, theirs = chains(shared, negotiation)
    assert ours == theirs
    assert [event for event, _, _ in ours] == [
        "contract.request",
        "contract.offer",
        "contract.request",
        "contract.offer",
        "contract.acceptance",
        "contract.agreement",
    ]
    assert {signatures for _, _, signatures in ours} == {4}  # two keys each
    assert shared.asker.query(SQL, PURPOSE).table.num_rows == 1


def test_the_terms_agreed_on_rule_and_not_the_published_ones(shared):
    """The owner agrees to a use less than it publishes: the second query is refused."""
    once = terms(shared, uses=("count: 1000", "count: 1"))
    negotiation = shared.asker.contract("request", participant=OWNER, offer="open", terms=once)[0][
        "negotiation"
    ]
    digest = shared.owner.contract("show", agreement=negotiation)[0]["proposals"][-1]["policy_digest"]
    shared.owner.contract("approve", agreement=negotiation, policy=digest[:8])
    shared.asker.query(SQL, PURPOSE)
    with pytest.raises(PolicyRefusal) as refused:
        shared.asker.query("SELECT count(*) AS n FROM sz-trade.open WHERE industry = '甲业'", PURPOSE)
    assert refused.value.code == "uses.exhausted"


def test_nobody_approves_the_consumers_terms_unread(shared):
    asked = shared.asker.contract("request", participant=OWNER, offer="open", terms=terms(shared, **WIDER))[0]
    for policy in ("", "0" * 64, asked["policy_digest"][:7]):
        with pytest.raises(ConfigError) as refused:
            shared.owner.contract("approve", agreement=asked["negotiation"], policy=policy)
        assert refused.value.code == "contract.other-terms"
    assert states(shared, asked["negotiation"]) == ["REQUESTED"] * 2


def test_the_owner_may_offer_first(shared):
    offered = shared.owner.contract("offer", participant=ASKER, offer="open", terms=terms(shared, **MIDDLE))[
        0
    ]
    assert states(shared, offered["negotiation"]) == ["OFFERED"] * 2
    with pytest.raises(ConfigError):
        shared.owner.contract("approve", agreement=offered["negotiation"])
    shared.asker.contract("accept", agreement=offered["negotiation"])
    shared.owner.contract("approve", agreement=offered["negotiation"])
    assert shared.asker.query(SQL, PURPOSE).table.num_rows == 1


BAD = {
    "about another dataset": ("sz-trade.open", "sz-trade.matched", "contract.terms"),
    "an unknown word": ("minimum_identities: 3", "minimum_identitys: 3", "contract.terms"),
    "an unknown column": ("dimensions: [industry, day]", "dimensions: [industry, region]", "contract.terms"),
    "no key": ("join: {columns: [company_id]", "join: {columns: [secret_note]", "dataset.not-a-key"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_terms_that_either_loader_refuses_reach_no_table(shared, bad):
    old, new, code = bad
    before = len(shared.nodes[OWNER].store.negotiations())
    with pytest.raises(ConfigError) as refused:
        shared.asker.contract("request", participant=OWNER, offer="open", terms=terms(shared, bad=(old, new)))
    assert refused.value.code == code
    assert len(shared.nodes[OWNER].store.negotiations()) == before
    assert not shared.nodes[ASKER].store.unsent()


# --- the tables ---------------------------------------------------------------------------------------


def test_every_other_move_of_either_table_is_refused():
    for machine, code in ((NEGOTIATION, "contract.out-of-order"), (TRANSFER, "transfer.out-of-order")):
        kinds = {type(message) for _, message, _ in machine.moves}
        places = {type(state) for state, _, _ in machine.moves if state}
        (messages,), (known,) = kinds, places
        refused = 0
        for state, message, sender in itertools.product([None, *known], messages, (PROVIDER, CONSUMER, "")):
            if (state, message, sender) in machine.moves:
                assert machine.after(state, message, sender) is machine.moves[state, message, sender]
                continue
            with pytest.raises(PeerViolation) as violated:
                machine.after(state, message, sender)
            assert violated.value.code == code
            refused += 1
        assert refused == (len(known) + 1) * len(messages) * 3 - len(machine.moves)


def test_the_tables_are_the_protocols():
    """Dataspace Protocol 2025-1: the moves besides termination, written down a second time."""
    moves = {
        (before, message.name, sender, after.value)
        for (before, message, sender), after in NEGOTIATION.moves.items()
        if message is not Message.TERMINATION
    }
    assert moves == {
        (None, "REQUEST", "consumer", "REQUESTED"),
        (None, "OFFER", "provider", "OFFERED"),
        ("REQUESTED", "OFFER", "provider", "OFFERED"),
        ("OFFERED", "REQUEST", "consumer", "REQUESTED"),
        ("OFFERED", "ACCEPTANCE", "consumer", "ACCEPTED"),
        ("REQUESTED", "AGREEMENT", "provider", "AGREED"),
        ("ACCEPTED", "AGREEMENT", "provider", "AGREED"),
        ("AGREED", "VERIFICATION", "consumer", "VERIFIED"),
        ("VERIFIED", "FINALIZATION", "provider", "FINALIZED"),
    }
    for state, sender in itertools.product(set(State) - {State.TERMINATED}, (PROVIDER, CONSUMER)):
        assert NEGOTIATION.after(state, Message.TERMINATION, sender) is State.TERMINATED
    assert len(NEGOTIATION.moves) == 9 + 2 * 6


# --- lost messages and crashes ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Offer", "Accept"])
def test_a_lost_answer_is_made_good_by_the_next_message(shared, monkeypatch, method):
    owner, asker = Negotiating(shared.nodes[OWNER]), Negotiating(shared.nodes[ASKER])
    negotiation = asker.request(OWNER, "open").id
    real = Messenger.send

    def losing(self, peer, name, message):
        reply = real(self, peer, name, message)
        if name == method:
            raise Unavailable("peer.unavailable", "the answer was lost")
        return reply

    with monkeypatch.context() as lost:
        lost.setattr(Messenger, "send", losing)
        if method == "Offer":
            with pytest.raises(Unavailable):
                owner.counter(negotiation, terms(shared, **MIDDLE))
            assert states(shared, negotiation) == ["REQUESTED", "OFFERED"]
        else:
            owner.counter(negotiation, terms(shared, **MIDDLE))
            with pytest.raises(Unavailable):
                asker.accept(negotiation)
            assert states(shared, negotiation) == ["ACCEPTED", "OFFERED"]
    if method == "Offer":
        asker.accept(negotiation)
    owner.approve(negotiation)
    assert states(shared, negotiation) == ["FINALIZED"] * 2
    ours, theirs = chains(shared, negotiation)
    assert ours == theirs
    assert {signatures for _, _, signatures in ours} == {4}
    assert not any(node.store.unsent() for node in shared.nodes.values())


def test_a_message_twice_moves_once(shared, monkeypatch):
    owner, asker = Negotiating(shared.nodes[OWNER]), Negotiating(shared.nodes[ASKER])
    real = Messenger.send

    def twice(self, peer, name, message):
        first = real(self, peer, name, message)
        second = real(self, peer, name, message)
        assert first == second
        return second

    monkeypatch.setattr(Messenger, "send", twice)
    negotiation = asker.request(OWNER, "open", terms(shared, **WIDER)).id
    owner.counter(negotiation, terms(shared, **MIDDLE))
    asker.accept(negotiation)
    owner.approve(negotiation)
    owner.terminate(negotiation, "contract.terminated")
    assert states(shared, negotiation) == ["TERMINATED"] * 2
    assert [len(chain) for chain in chains(shared, negotiation)] == [5] * 2


def test_a_repeated_message_is_answered_although_its_record_was_erased(shared, monkeypatch):
    owner, asker, sent = Negotiating(shared.nodes[OWNER]), Negotiating(shared.nodes[ASKER]), []
    real = Messenger.send
    monkeypatch.setattr(Messenger, "send", lambda *call: sent.append(call[-1]) or real(*call))
    negotiation = asker.request(OWNER, "open").id
    assert owner.on_request(ASKER, sent[0]) == owner.on_request(ASKER, sent[0])
    assert shared.nodes[OWNER].store.erase_evidence(negotiation)
    sealed, _ = reopen(SignedRecord.parse(sent[0].record))
    key, theirs = shared.nodes[ASKER].key, shared.nodes[ASKER].key_of(OWNER)
    assert countersigned(sealed, key, theirs, owner.on_request(ASKER, sent[0]))
    asker.terminate(negotiation, "contract.terminated")


@pytest.mark.parametrize("who", [OWNER, ASKER])
@pytest.mark.parametrize("after", ["request", "counter", "accept"])
def test_either_side_ends_it_in_any_state(shared, who, after):
    owner, asker = Negotiating(shared.nodes[OWNER]), Negotiating(shared.nodes[ASKER])
    negotiation = asker.request(OWNER, "open").id
    if after != "request":
        owner.counter(negotiation, terms(shared, **MIDDLE))
    if after == "accept":
        asker.accept(negotiation)
    Negotiating(shared.nodes[who]).terminate(negotiation, "contract.terminated")
    assert states(shared, negotiation) == ["TERMINATED"] * 2
    ours, theirs = chains(shared, negotiation)
    assert ours == theirs
    assert ours[-1][0] == "contract.termination"
    for act in (
        lambda: owner.counter(negotiation, terms(shared, **MIDDLE)),
        lambda: asker.accept(negotiation),
        lambda: owner.approve(negotiation),
    ):
        with pytest.raises(ConfigError):
            act()


def test_a_record_names_the_policy_that_was_on_the_table(shared):
    asked = shared.asker.contract("request", participant=OWNER, offer="open", terms=terms(shared, **WIDER))[0]
    (kept,) = shared.nodes[OWNER].store.evidence(asked["negotiation"])
    record = Record.parse(dsse.parse(kept.envelope).payload)
    assert record.contract is not None
    assert record.contract.policy == asked["policy_digest"]
    assert record.author == ASKER


def drawn(machine):
    """The table as the reference shows it: a line for each state and message."""
    lines = {}
    for (before, message, sender), after in machine.moves.items():
        name = "–" if before is None else before.value
        lines.setdefault((name, message.value, after.value), []).append(sender)
    width = max(len(message) for _, message, _ in lines)
    return "".join(
        f"{before:<11}{'either' if len(senders) == 2 else senders[0]:<9}{message:<{width}}  ─▶ {after}\n"
        for (before, message, after), senders in lines.items()
    )


@pytest.mark.parametrize("machine", [NEGOTIATION, TRANSFER], ids=["negotiation", "transfer"])
def test_the_reference_shows_the_tables(machine):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "wire.md").read_text("utf-8")
    assert f"```\n{drawn(machine)}```" in page, drawn(machine)


def test_a_connector_refuses_every_message_that_is_not_due(shared):
    """Each message to the side that receives it, in each state that the table does not have for it."""
    owner, asker = Negotiating(shared.nodes[OWNER]), Negotiating(shared.nodes[ASKER])
    negotiation = asker.request(OWNER, "open").id
    proposal = shared.nodes[OWNER].store.proposals(negotiation)[-1].document
    agreement = fixed_agreement(shared, negotiation)
    record = other_record(shared)
    calls = {
        Message.REQUEST: (owner, ASKER, "on_request", pb.ContractRequest(proposal=proposal)),
        Message.OFFER: (asker, OWNER, "on_offer", pb.ContractOffer(proposal=proposal)),
        Message.ACCEPTANCE: (owner, ASKER, "on_accept", pb.ContractAcceptance()),
        Message.AGREEMENT: (asker, OWNER, "on_agree", pb.ContractAgreement(agreement=agreement)),
    }
    refused = 0
    for state, (message, (side, peer, call, body)) in itertools.product(State, calls.items()):
        sender = PROVIDER if peer == OWNER else CONSUMER
        if (state, message, sender) in NEGOTIATION.moves:
            continue
        body.negotiation, body.record = negotiation, record
        for node in shared.nodes.values():
            node.store.move_negotiation(negotiation, [s.value for s in State], state.value)
        with pytest.raises(PeerViolation) as violated:
            getattr(side, call)(peer, body)
        assert violated.value.code == "contract.out-of-order", (state, message)
        assert states(shared, negotiation) == [state.value] * 2
        refused += 1
    for state in set(State) - {State.VERIFIED, State.FINALIZED}:  # the latter: a repetition
        shared.nodes[ASKER].store.move_negotiation(negotiation, [s.value for s in State], state.value)
        with pytest.raises(PeerViolation) as violated:
            asker.on_finalize(OWNER, negotiation)
        assert violated.value.code == "contract.out-of-order"
    assert refused == 4 * len(State) - 5
    assert len(shared.nodes[OWNER].store.evidence(negotiation)) == 1
    for node in shared.nodes.values():
        node.store.move_negotiation(negotiation, [s.value for s in State], "TERMINATED")


def other_record(space):
    """A record that can be read and is nobody's turn."""
    node = space.nodes[OWNER]
    records = Records(node)
    (found,) = (n for n in node.store.negotiations()[:1])
    statement = records.turn("contract.offer", found, "0" * 64, "none", OWNER)
    return records.signed(statement.seal(node.entropy))


def fixed_agreement(space, negotiation):
    """What the owner would have signed."""
    node, found = space.nodes[OWNER], space.nodes[OWNER].store.negotiation(negotiation)
    offered = node.own_offer("open")
    return Agreement(
        negotiation=negotiation,
        space=node.space,
        provider=OWNER,
        consumer=ASKER,
        offer=found.offer,
        dataset=offered.dataset,
        policy=offered.policy,
        agreed_at=1,
    ).to_bytes()
