"""The connector's server: catalogue, negotiation, query streams, and the participant's own analysts.

Every call is authenticated by mutual TLS and checked against the member list; the `Analyst` service answers
to this participant's own certificate alone. Everything that goes wrong leaves through the error firewall.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from sys import maxsize
from typing import Any

import grpc
import pyarrow as pa
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from compute.errors import ConfigError, PeerViolation
from connector import offers, rotation
from connector.analyst import Analyst
from connector.answering import Answering
from connector.door import Door, placed
from connector.firewall import Firewall
from connector.identity import server_credentials
from connector.negotiating import Negotiating
from connector.node import Node
from connector.statements import Statements
from connector.stopping import Stop
from connector.transitions import State
from connector.transport import WIRE_BYTES, Headers, gone, serve
from connector.v1 import (
    analyst_pb2,
    analyst_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    frame_pb2,
    negotiation_pb2,
    negotiation_pb2_grpc,
    query_pb2,
    query_pb2_grpc,
)
from witness.door import Places, connection_limits

_log = logging.getLogger(__name__)

THREADS = 64
ANALYST_THREADS = 12
"""Of their own: no peer can keep a participant's own people from their connector. Fewer than the streams
that a peer lets us have: it may still be ending some of ours when our next questions come."""
MOST_CALLS_OF_A_PEER = 24
"""Calls of any kind that one caller may have open at once."""
MESSAGE_SECONDS = 10.0
"""How long a call may keep its one message waiting."""
MOST_STREAMS_OF_A_PEER = 16
"""Query streams of one peer at once: each holds a thread, also before it counts as a running query."""
_OPTIONS = (
    ("grpc.max_receive_message_length", WIRE_BYTES + 65536),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class _Catalog(catalog_pb2_grpc.CatalogServicer):
    def __init__(self, node: Node) -> None:
        self._node = node

    def ListOffers(self, request: Any, context: Any) -> catalog_pb2.ListOffersResponse:  # noqa: N802, ARG002
        return catalog_pb2.ListOffersResponse(offers=[o.message for o in self._node.offers_of(self._node.id)])


class _Negotiation(negotiation_pb2_grpc.NegotiationServicer):
    def __init__(self, node: Node) -> None:
        self._node, self._negotiating = node, Negotiating(node)
        self._statements = Statements(node)

    def Request(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        signature = self._negotiating.on_request(self._node.caller(context), request)
        return _reply(request.negotiation, State.REQUESTED, signature)

    def Offer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        signature = self._negotiating.on_offer(self._node.caller(context), request)
        return _reply(request.negotiation, State.OFFERED, signature)

    def Accept(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        signature = self._negotiating.on_accept(self._node.caller(context), request)
        return _reply(request.negotiation, State.ACCEPTED, signature)

    def Agree(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        signature = self._negotiating.on_agree(self._node.caller(context), request)
        return _reply(request.negotiation, State.VERIFIED, signature)

    def Finalize(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._negotiating.on_finalize(self._node.caller(context), request.negotiation)
        return _reply(request.negotiation, State.FINALIZED)

    def Terminate(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        signature = self._negotiating.on_terminate(self._node.caller(context), request)
        return _reply(request.negotiation, State.TERMINATED, signature)

    def Suspend(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._negotiating.on_suspend(
            self._node.caller(context), request.negotiation, suspended=request.suspended
        )
        return _reply(request.negotiation, State.FINALIZED)

    def State(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._statements.on_state(self._node.caller(context), request)


class _JointQuery(query_pb2_grpc.JointQueryServicer):
    def __init__(self, node: Node) -> None:
        self._node = node
        self._places = Places(MOST_STREAMS_OF_A_PEER, maxsize)  # in all: as many as the door lets in

    def Run(  # noqa: N802
        self, request_iterator: Iterator[frame_pb2.Frame], context: grpc.ServicerContext
    ) -> Iterator[frame_pb2.Frame]:
        stop, headers, caller = Stop(), Headers(), self._node.caller(context)
        context.add_callback(partial(stop.fire, gone))
        with placed(self._places, caller, "queries"):
            role = Answering(self._node, caller, headers, stop).run()
            timeout = self._node.config.limits.frame_timeout_seconds
            yield from serve(role, headers, request_iterator, context.cancel, timeout, stop)


def _reply(negotiation: str, state: State, signature: bytes = b"") -> negotiation_pb2.NegotiationReply:
    return negotiation_pb2.NegotiationReply(negotiation=negotiation, state=state.value, signature=signature)


class Server:
    """A running connector. `start` returns once it listens; `stop` lets running calls end or cancels them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._door = Door(self._authorise, MOST_CALLS_OF_A_PEER, THREADS + ANALYST_THREADS, MESSAGE_SECONDS)
        self._analysts = ThreadPoolExecutor(ANALYST_THREADS, thread_name_prefix="analyst")
        self._server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="call"),
            interceptors=[Firewall(self._door, {_ANALYST: self._analysts})],
            options=(*_OPTIONS, *connection_limits()),
            maximum_concurrent_rpcs=4 * THREADS,
        )
        self._health = health.HealthServicer()
        query_pb2_grpc.add_JointQueryServicer_to_server(_JointQuery(node), self._server)
        catalog_pb2_grpc.add_CatalogServicer_to_server(_Catalog(node), self._server)
        negotiation_pb2_grpc.add_NegotiationServicer_to_server(_Negotiation(node), self._server)
        analyst_pb2_grpc.add_AnalystServicer_to_server(Analyst(node), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(_SERVICES, self._server)
        address = node.config.network.listen
        self.port = self._bound(address)

    def start(self) -> None:
        """Record the failures of a process that died, new keys and what is offered, then serve."""
        self._node.recover()
        rotation.record(self._node)
        offers.record(self._node)
        Negotiating(self._node).recover()
        self._node.evidence.start()
        self._door.start()
        self._server.start()
        threading.Thread(target=self._resume, name="contracts", daemon=True).start()
        for service in _SERVICES:
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def _resume(self) -> None:
        """Send what peers did not confirm, while calls are answered already."""
        try:
            Negotiating(self._node).resume()
        except Exception as error:  # noqa: BLE001  it can be done by hand; a person sees it in `contract list`
            _log.error("contracts cannot be resumed now: %s", type(error).__name__)

    def stop(self, grace: float) -> None:
        """Refuse new calls, give running ones `grace` seconds, then cancel them."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait()
        self._door.close()
        self._analysts.shutdown(wait=False)

    def _bound(self, address: str) -> int:
        try:
            port = self._server.add_secure_port(address, server_credentials(self._node.config.tls))
        except RuntimeError:
            port = 0
        if port == 0:
            raise ConfigError("network.listen", f"cannot listen on {address}: is the port taken?")
        return int(port)

    def _authorise(self, context: grpc.ServicerContext, method: str) -> str:
        caller = self._node.caller(context)
        if method.startswith(f"/{_ANALYST}/") and caller != self._node.id:
            raise PeerViolation("peer.not-allowed", "this service answers to its own participant only")
        return caller


_ANALYST = analyst_pb2.DESCRIPTOR.services_by_name["Analyst"].full_name
_SERVICES: tuple[str, ...] = (
    catalog_pb2.DESCRIPTOR.services_by_name["Catalog"].full_name,
    negotiation_pb2.DESCRIPTOR.services_by_name["Negotiation"].full_name,
    query_pb2.DESCRIPTOR.services_by_name["JointQuery"].full_name,
    _ANALYST,
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)


_M_TRIM_THRESHOLD = -1
"""Of malloc.h. Setting it also keeps glibc from raising the size above which a block is mapped by itself."""


def _settle_memory() -> None:
    """Take what was imported out of the collector's sight: it stays, and would be searched amid calls."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    # Arrow's own allocator keeps what was freed: 60 MB more at a query's peak
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(OSError, AttributeError):  # where the C library is not glibc
        # Large blocks go back to the system when they are freed: 20 MB less at a query's peak.
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, 128 << 10)


def run(node: Node, stop: threading.Event, ready: Callable[[int], None]) -> None:
    """Serve until `stop` is set. `ready` is called with the port once calls are answered."""
    server = Server(node)
    server.start()
    _settle_memory()
    ready(server.port)
    stop.wait()
    server.stop(grace=2.0)
    node.close()
