"""The error firewall: the only place where an exception becomes words on the wire.

Our own errors cross with their stable code and sentence. Everything else (library messages carry cell
values) becomes an opaque reference; the local log gets the exception's type and where it was raised,
never its message.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from compute.errors import (
    BayspaceError,
    ConfigError,
    DataError,
    PeerViolation,
    PolicyRefusal,
    QueryError,
    Unavailable,
)
from connector.door import Door
from policy_enforcer.facts import Decision, Reason
from witness.schema import TEXT, TOKEN

_log = logging.getLogger(__name__)

DOMAIN = "bayspace"

_FAULTS: dict[str, tuple[type[BayspaceError], int]] = {
    "query": (QueryError, code_pb2.INVALID_ARGUMENT),
    "config": (ConfigError, code_pb2.FAILED_PRECONDITION),
    "data": (DataError, code_pb2.FAILED_PRECONDITION),
    "peer": (PeerViolation, code_pb2.ABORTED),
    "policy": (PolicyRefusal, code_pb2.PERMISSION_DENIED),
    "unavailable": (Unavailable, code_pb2.UNAVAILABLE),
}

_TRANSPORT_CODES = {
    grpc.StatusCode.UNAVAILABLE: ("peer.unavailable", "does not answer"),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("peer.timeout", "did not answer in time"),
    grpc.StatusCode.CANCELLED: ("peer.cancelled", "cancelled the exchange"),
    grpc.StatusCode.UNAUTHENTICATED: ("peer.unauthenticated", "does not accept our certificate"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: ("peer.overloaded", "is at its limit of concurrent work; try again"),
}


def status_of(error: BaseException) -> status_pb2.Status:
    """The gRPC status that crosses the wire for this exception."""
    if not isinstance(error, BayspaceError):
        return _opaque(error)
    fault, (_, code) = next((f, t) for f, t in _FAULTS.items() if isinstance(error, t[0]))
    metadata = {"fault": fault, "sentence": error.sentence}
    if isinstance(error, PolicyRefusal):
        metadata["reasons"] = reasons_to_json(error.decision)
    return _status(code, error.sentence, error.code, metadata)


def error_of(error: grpc.RpcError, peer: str) -> BayspaceError:
    """The exception behind a status that `peer` answered with; its own words only where it is one of ours."""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return _ours(info, peer)
    code, words = _TRANSPORT_CODES.get(error.code(), ("peer.failed", "failed"))
    return Unavailable(code, f"{peer} {words}")


def reasons_to_json(decision: Decision) -> str:
    """The reasons of a refusal as JSON text."""
    return json.dumps([asdict(reason) for reason in decision.because], ensure_ascii=False)


def reasons_from_json(text: str) -> Decision:
    """Parse the refusal reasons a peer sent; a violation where they are not what we send ourselves."""
    try:
        because = tuple(Reason(**item) for item in json.loads(text))
        readable = all(_readable(reason) for reason in because)
    except (ValueError, TypeError, RecursionError):
        raise PeerViolation("peer.malformed", "the peer refused with reasons that cannot be read") from None
    if not because or not readable:
        raise PeerViolation("peer.malformed", "the peer refused without a reason that can be read")
    return Decision(because)


def _readable(reason: Reason) -> bool:
    """Codes that evidence can state; words that cannot rewrite a terminal's line."""
    words = (reason.rule, reason.sentence, reason.column, reason.allowed)
    return TOKEN.fullmatch(reason.code) is not None and all(
        word is None or (isinstance(word, str) and _PRINTABLE.fullmatch(word)) for word in words
    )


_PRINTABLE = re.compile(TEXT.pattern.removesuffix("{1,512}") + "{0,65536}")
"""Lists of what is allowed grow longer than evidence's texts."""


def _ours(info: error_details_pb2.ErrorInfo, peer: str) -> BayspaceError:
    fault, sentence = info.metadata.get("fault", ""), info.metadata.get("sentence", "")
    if fault == "policy":
        return PolicyRefusal(reasons_from_json(info.metadata.get("reasons", "")))
    if not TOKEN.fullmatch(info.reason) or not _PRINTABLE.fullmatch(sentence):
        return PeerViolation("peer.malformed", f"{peer} failed with an error that cannot be read")
    kind = _FAULTS.get(fault, (Unavailable, 0))[0]
    return kind(info.reason, sentence or f"{peer} failed")


def _opaque(error: BaseException) -> status_pb2.Status:
    reference = secrets.token_hex(6)
    frames = " <- ".join(f"{f.name}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)))
    _log.error("internal error %s: %s in %s", reference, type(error).__name__, frames)
    sentence = f"internal error, reference {reference}: ask the operator of that connector"
    return _status(code_pb2.INTERNAL, sentence, "internal", {"fault": "unavailable", "sentence": sentence})


def _status(code: int, sentence: str, reason: str, metadata: dict[str, str]) -> status_pb2.Status:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    return status_pb2.Status(code=code, message=sentence, details=[detail])


class Firewall(grpc.ServerInterceptor):
    """Lets a call in through the door, and turns every exception into a status.

    `pools`: services that have threads of their own, by full name.
    """

    def __init__(self, door: Door, pools: Mapping[str, ThreadPoolExecutor] | None = None) -> None:
        self._door, self._pools = door, pools or {}

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wrap the handler; unknown methods are left to gRPC."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        if handler.response_streaming:
            make, guarded = grpc.stream_stream_rpc_method_handler, self._streaming
        else:
            make, guarded = grpc.stream_unary_rpc_method_handler, self._unary
        wrapped = guarded(self._of_requests(handler), method)
        wrapped.experimental_thread_pool = self._pools.get(method.split("/")[1])  # type: ignore[attr-defined]
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    def _of_requests(self, handler: Any) -> Callable[..., Any]:
        """The handler's behaviour as one that reads its requests itself."""
        if handler.request_streaming:
            found: Callable[..., Any] = handler.stream_stream or handler.stream_unary
            return found
        answer = handler.unary_stream or handler.unary_unary
        return lambda requests, context: answer(self._door.message(requests, context), context)

    def _unary(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        def call(requests: Any, context: grpc.ServicerContext) -> Any:
            try:
                with self._door.entered(context, method):
                    return behaviour(requests, context)
            except Exception as error:  # noqa: BLE001  the firewall is where everything must stop
                _abort(context, error)

        return call

    def _streaming(self, behaviour: Callable[..., Iterator[Any]], method: str) -> Callable[..., Any]:
        def call(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                with self._door.entered(context, method):
                    yield from behaviour(requests, context)
            except Exception as error:  # noqa: BLE001
                _abort(context, error)

        return call


def _abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    context.abort_with_status(rpc_status.to_status(status_of(error)))
    raise AssertionError("abort_with_status raises")
