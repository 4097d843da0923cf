"""Calls that are opened and left open: their caller's places alone are filled, and not for long."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from compute.errors import PeerViolation
from connector.door import Door
from connector.firewall import Firewall, error_of

SECONDS = 1.0


class Methods(grpc.GenericRpcHandler):
    """One of each kind, over plain bytes."""

    def service(self, call):
        return {
            "/a/One": grpc.unary_unary_rpc_method_handler(lambda message, _: message),
            "/a/Many": grpc.unary_stream_rpc_method_handler(lambda message, _: iter([message] * 3)),
            "/grpc.health.v1.Health/Check": grpc.unary_unary_rpc_method_handler(lambda message, _: message),
        }.get(call.method)


@pytest.fixture(scope="module")
def channel():
    def authorise(context, method):
        who = dict(context.invocation_metadata()).get("who", "")
        if not who or (who == "bob" and method == "/a/Many"):
            raise PeerViolation("peer.not-allowed", "no")
        return who

    door = Door(authorise, each=2, in_all=100, seconds=SECONDS)
    server = grpc.server(ThreadPoolExecutor(4), [Methods()], [Firewall(door)])
    port = server.add_insecure_port("127.0.0.1:0")
    door.start()
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as found:
        yield found
    server.stop(0).wait()
    door.close()


def asked(channel, who, method="/a/One"):
    return channel.unary_unary(method)(b"hello", metadata=[("who", who)], timeout=30)


def opened(channel, who, method="/a/One"):
    """A call that never sends its message."""
    return channel.stream_unary(method).future(iter(threading.Event().wait, True), metadata=[("who", who)])


def refused(call):
    with pytest.raises(grpc.RpcError) as failed:
        call()
    return error_of(failed.value, "it").code


@pytest.mark.parametrize("method", ["/a/One", "/grpc.health.v1.Health/Check"])
def test_open_calls_hold_their_callers_places_alone_and_not_for_long(channel, method):
    began = time.monotonic()
    held = [opened(channel, "eve", method) for _ in range(12)]
    assert asked(channel, "alice") == b"hello"
    assert time.monotonic() - began < SECONDS
    codes = sorted(refused(call.result) for call in held)
    assert codes == ["peer.cancelled"] * 2 + ["peer.overloaded"] * 10
    assert asked(channel, "eve") == b"hello"


def test_a_call_without_its_message_is_refused(channel):
    call = channel.stream_unary("/a/One")
    assert refused(lambda: call(iter(()), metadata=[("who", "eve")])) == "peer.malformed"


def test_answers_that_are_streams_come_through(channel):
    many = channel.unary_stream("/a/Many")
    assert list(many(b"x", metadata=[("who", "alice")])) == [b"x"] * 3
    assert refused(lambda: list(many(b"x", metadata=[("who", "bob")]))) == "peer.not-allowed"


def test_health_is_for_everybody_and_nothing_else_is(channel):
    assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=30) == b""
    assert refused(lambda: channel.unary_unary("/a/One")(b"", timeout=30)) == "peer.not-allowed"
