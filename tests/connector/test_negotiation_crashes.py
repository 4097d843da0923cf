"""A negotiation with a counter-offer, killed between every two of its steps: it goes on, and ends the same.

The messages are carried by a second transport, a call in this process: nothing of the negotiation knows gRPC.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest
from sqlalchemy import event

from connector.negotiating import Negotiating
from connector.unconfirmed import Messenger
from witness import dsse

OWNER, ASKER = "sz-trade", "hk-bank"
_CALLS = {
    "Request": "on_request",
    "Offer": "on_offer",
    "Accept": "on_accept",
    "Agree": "on_agree",
    "Terminate": "on_terminate",
}


class Killed(BaseException):
    """The process is gone."""


class Clockwork:
    """Counts the steps of this thread, and kills it at one of them."""

    def __init__(self) -> None:
        self.left, self.steps, self._thread = -1, 0, threading.get_ident()

    def tick(self, *_):
        if threading.get_ident() != self._thread:
            return
        self.steps += 1
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.fixture
def clockwork(shared, monkeypatch):
    """Every commit, and every message before it is sent and after it was answered, is a step."""
    made = Clockwork()

    def send(self, peer, method, message):
        made.tick()
        there = Negotiating(shared.nodes[peer])
        if method == "Finalize":
            there.on_finalize(self._node.id, message.negotiation)
            signature = b""
        else:
            signature = getattr(there, _CALLS[method])(self._node.id, message)
        made.tick()
        return SimpleNamespace(signature=signature)

    monkeypatch.setattr(Messenger, "send", send)
    engines = [node.store._engine for node in shared.nodes.values()]
    for engine in engines:
        event.listen(engine, "commit", made.tick)
    yield made
    for engine in engines:
        event.remove(engine, "commit", made.tick)


def go_on(space, known):
    """What people would do next, from whatever both sides hold: until one new contract is in force."""
    owner, asker = (Negotiating(space.nodes[name]) for name in (OWNER, ASKER))
    settings = space.nodes[OWNER].config
    wider = (settings.policies_folder / "open.yaml").read_text()
    middle = wider.replace("minimum_identities: 3", "minimum_identities: 4")
    owner.resume()
    asker.resume()
    new = [n for n in space.nodes[ASKER].store.negotiations() if n.id not in known]
    negotiation = new[0].id if new else asker.request(OWNER, "open", wider.replace(": 3", ": 2")).id
    for _ in range(4):
        state = owner.find(negotiation).state
        if state == "REQUESTED":
            owner.counter(negotiation, middle)
        elif state == "OFFERED":
            asker.accept(negotiation)
        else:
            owner.approve(negotiation)
    return negotiation


def known_to(space):
    return {n.id for n in space.nodes[ASKER].store.negotiations()}


@pytest.mark.deep
def test_killed_between_any_two_steps_it_goes_on_and_ends_the_same(shared, clockwork):
    go_on(shared, known_to(shared))
    steps = clockwork.steps
    assert steps > 20
    for at in range(1, steps + 1):
        known, clockwork.left = known_to(shared), at
        with suppress(Killed):
            go_on(shared, known)
        clockwork.left = -1
        negotiation = go_on(shared, known)
        assert len(known_to(shared) - known) == 1, at
        chains = []
        for node in shared.nodes.values():
            found = node.store.negotiation(negotiation)
            assert found.state == "FINALIZED", at
            assert node.store.agreement(found.agreement).state == "active"
            kept = node.store.evidence(negotiation)
            chains.append([(e.event, e.digest, len(dsse.parse(e.envelope).signatures)) for e in kept])
            assert not node.store.unsent(), at
        assert chains[0] == chains[1], at
        assert [e for e, _, _ in chains[0]] == [
            "contract.request",
            "contract.offer",
            "contract.acceptance",
            "contract.agreement",
        ], at
        assert {signatures for _, _, signatures in chains[0]} == {4}
