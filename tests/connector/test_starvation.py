"""A member that holds on to what it gets: streams, frames it does not read, a catalogue nobody can read."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import replace

import grpc
import pytest

from compute.errors import PeerViolation, Unavailable
from compute.protocols.base import Frame, receive
from connector import service, transport
from connector.identity import channel_credentials, channel_options
from connector.stopping import Stop
from connector.transport import Headers
from connector.v1 import query_pb2_grpc
from tests.waiting import settled

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"


def stream(space, opened):
    """A query stream of the asker's that says nothing."""
    config = space.nodes[ASKER].config
    channel = grpc.secure_channel(
        space.nodes[OWNER].config.network.address,
        channel_credentials(config.tls),
        channel_options("gba", OWNER),
    )
    closing = threading.Event()

    def silence():
        closing.wait(30)
        yield from ()

    opened.append((channel, closing))
    return query_pb2_grpc.JointQueryStub(channel).Run(silence())


def test_one_peer_cannot_hold_every_thread(build_space, monkeypatch):
    monkeypatch.setattr(service, "MOST_STREAMS_OF_A_PEER", 3)
    space, opened = build_space(timeout=4), []
    space.agree("matched")
    calls = [stream(space, opened) for _ in range(8)]
    refused = [call for call in calls if call.code() is grpc.StatusCode.UNAVAILABLE]
    assert len(refused) >= 5  # the others were cut off when they stayed silent
    for channel, closing in opened:
        closing.set()
        channel.close()

    def answered():
        with suppress(Unavailable):
            return space.asker.query("SELECT count(*) AS n FROM sz-trade.matched", PURPOSE).table.num_rows

    assert settled(answered)


def test_peers_that_hold_every_thread_leave_the_owners_people_theirs(build_space, monkeypatch):
    monkeypatch.setattr(service, "THREADS", 2)
    space, opened = build_space(timeout=20), []
    space.agree("matched")
    for _ in range(2):
        stream(space, opened)
    time.sleep(0.5)
    started = time.monotonic()
    assert space.owner.contract("list")
    assert time.monotonic() - started < 10  # not only once the streams were cut off
    for channel, closing in opened:
        closing.set()
        channel.close()


def test_an_asker_that_does_not_read_is_cut_off_and_that_is_recorded():
    cancelled, recorded = threading.Event(), []

    def role():
        try:
            yield Frame("first", b"1")
            yield from receive("never")
        except Unavailable as error:
            recorded.append(error.code)
            raise

    frames = transport.serve(role(), Headers(), iter(()), cancelled.set, 0.05, Stop())
    assert next(frames).kind == "first"
    assert cancelled.wait(30)  # gRPC would now end the call, and close the generator
    frames.close()
    assert recorded == ["peer.stalled"]


def test_an_asker_that_cancels_is_not_called_stalled():
    recorded = []

    def role():
        try:
            yield Frame("first", b"1")
        except GeneratorExit:
            recorded.append("closed")
            raise

    frames = transport.serve(role(), Headers(), iter(()), lambda: None, 30, Stop())
    next(frames)
    frames.close()
    assert recorded == ["closed"]


class Over:
    """A call that ended with a status while the asker was still sending."""

    def __init__(self, error):
        self._error = error

    def __iter__(self):
        return self

    def __next__(self):
        if self._error is None:
            raise StopIteration
        raise self._error

    def is_active(self):
        return False

    def cancel(self):
        pass


class Silent:
    """A call to an owner that neither reads nor answers, until it is cancelled."""

    def __init__(self):
        self.cancelled = threading.Event()

    def __iter__(self):
        return self

    def __next__(self):
        assert self.cancelled.wait(10)
        raise Gone

    def is_active(self):
        return not self.cancelled.is_set()

    def cancel(self):
        self.cancelled.set()


def failed(role, call):
    with pytest.raises(Unavailable) as caught:
        transport.call(role, Headers(), lambda _: call, OWNER, 0.3, lambda _: None, Stop())
    assert call.cancelled.is_set()
    return caught.value.code


def test_an_owner_that_does_not_answer_is_given_up():
    def role():
        yield from receive("never")

    assert failed(role(), Silent()) == "peer.stalled"


def test_an_owner_that_does_not_read_holds_few_frames_and_is_given_up():
    made = []

    def role():
        while True:
            made.append(1)
            yield Frame("more", bytes(1 << 20))

    assert failed(role(), Silent()) == "peer.stalled"
    assert len(made) <= transport.MOST_WAITING + 1  # those that wait, and the one in hand


class Gone(grpc.RpcError):
    def code(self):
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self):
        return ""

    def trailing_metadata(self):
        return ()


@pytest.mark.parametrize(("error", "code"), [(Gone(), "peer.overloaded"), (None, "peer.ended-early")])
def test_the_asker_records_why_the_owner_hung_up(error, code):
    recorded = []

    def role():
        try:
            while True:
                yield Frame("more", b"1")
        except (Unavailable, PeerViolation) as failed:
            recorded.append(failed.code)
            raise

    with pytest.raises((Unavailable, PeerViolation)) as failed:
        transport.call(role(), Headers(), lambda _: Over(error), OWNER, 30, lambda _: None, Stop())
    assert recorded == [failed.value.code] == [code]


ENTRIES = {
    "no title": lambda entry: entry.pop("title"),
    "a title that is no text": lambda entry: entry["title"].update(en=7),
    "a title that rewrites the terminal": lambda entry: entry["title"].update(zh="\x1b[2J"),
    "no holder": lambda entry: entry["rights"].pop("holder"),
    "no dataset": lambda entry: entry.pop("dataset"),
    "nested without end": None,
}


@pytest.mark.parametrize("change", ENTRIES.values(), ids=ENTRIES)
def test_a_catalogue_that_cannot_be_read_spoils_nobody_elses(shared, monkeypatch, change):
    node = shared.nodes[OWNER]
    first, *others = node.offers_of(OWNER)
    entry = json.loads(first.entry)
    if change is not None:
        change(entry)
    spoilt = json.dumps(entry).encode() if change else b"[" * 100_000
    monkeypatch.setattr(node, "offers_of", lambda _: [*others, replace(first, entry=spoilt)])
    offers, unreachable = shared.asker.catalogue()
    assert {offer.participant for offer in offers} == {ASKER}
    assert unreachable == [OWNER]
    with pytest.raises(PeerViolation):
        shared.asker.catalogue(OWNER)


def test_a_large_catalogue_is_read(shared, monkeypatch):
    node = shared.nodes[OWNER]
    offers = [replace(offer, policy_text="#" * 2_000_000) for offer in node.offers_of(OWNER)]
    monkeypatch.setattr(node, "offers_of", lambda _: offers)
    assert len(shared.asker.catalogue(OWNER)[0]) == 3
