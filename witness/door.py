"""Who calls, and how many calls each may have open: the witness's front door.

gRPC gives a call one of the server's threads before anything of it is known, and keeps it there until the
message has come. `Doorkeeper` asks first who it is and gives it a place, and `Messages` gives the message a
time to come in: who opens calls and sends nothing, or a byte now and then, fills the places of one member,
for a few seconds, and leaves all others alone. Refusals cross the wire with a code, a stable reason and a
sentence; whatever else goes wrong leaves as an opaque reference.
"""

from __future__ import annotations

import logging
import resource
import secrets
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import grpc
from cryptography import x509
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from witness.schema import ID

_log = logging.getLogger(__name__)

DOMAIN = "bayspace.witness"

# The participant id behind a call; raises `Refusal` for a caller without one.
PeerIdentity = Callable[[grpc.ServicerContext], str]
R = TypeVar("R")


class Refusal(Exception):
    """A call refused with a gRPC code, a stable reason and a sentence; these three cross the wire."""

    def __init__(self, code: int, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code, self.reason, self.sentence = code, reason, sentence


def certificate_identity(space: str) -> PeerIdentity:
    """Reads the participant id from the peer's certificate: the URI `urn:bayspace:participant:<space>:<id>`.

    The certificate itself is read, because gRPC's list of alternative names mixes URIs with DNS names.
    """
    prefix = f"urn:bayspace:participant:{space}:"

    def identify(context: grpc.ServicerContext) -> str:
        found: Sequence[Any] = context.auth_context().get("x509_pem_cert", ())
        ids = [uri.removeprefix(prefix) for pem in found for uri in _uris(pem) if uri.startswith(prefix)]
        if len(ids) != 1 or not ID.fullmatch(ids[0]):
            raise Refusal(
                code_pb2.UNAUTHENTICATED,
                "identity",
                "The certificate does not name exactly one participant of this data space.",
            )
        return ids[0]

    return _once_a_call(identify)


def _once_a_call(identify: PeerIdentity) -> PeerIdentity:
    """Asks gRPC once for each call, which takes as long as all else at the door.

    A call stays on the thread that it was given, and is known as long as it lives.
    """
    last = threading.local()

    def identified(context: grpc.ServicerContext) -> str:
        call = getattr(last, "call", None)
        if call is None or call() is not context:
            last.id = identify(context)
            last.call = weakref.ref(context)
        return str(last.id)

    return identified


@lru_cache(maxsize=256)  # every call of a connection brings the same one
def _uris(pem: bytes) -> tuple[str, ...]:
    try:
        names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        return tuple(names.value.get_values_for_type(x509.UniformResourceIdentifier))
    except (ValueError, x509.ExtensionNotFound):
        return ()


class Places:
    """Counts who holds how many of a limited number of places. Raises Refusal when there is none left.

    The last `kept` are for members that hold none: some that fill all others leave each of the rest one.
    """

    def __init__(self, each: int, in_all: int, kept: int = 0) -> None:
        self._each, self._in_all, self._kept = each, in_all, kept
        self._held: Counter[str] = Counter()
        self._taken = 0
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, member: str) -> Iterator[None]:
        """A place for `member`, until the block ends."""
        self.take(member)
        try:
            yield
        finally:
            self.leave(member)

    def take(self, member: str) -> None:
        """One more place."""
        with self._lock:
            own = self._held[member]
            most = self._in_all - self._kept if own else self._in_all
            if own >= self._each or self._taken >= most:
                raise Refusal(code_pb2.RESOURCE_EXHAUSTED, "busy", "Too many calls at once; try again.")
            self._held[member] = own + 1
            self._taken += 1

    def leave(self, member: str) -> None:
        """One place less."""
        with self._lock:
            self._taken -= 1
            self._held[member] -= 1
            if not self._held[member]:
                del self._held[member]


class Gone(Exception):
    """The caller left, or kept its message back until the time for it was over."""


class Messages:
    """Reads what callers send; a call whose message is not here within `seconds` is cancelled.

    Start it, and close it: a thread looks for those that are late.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[int, tuple[float, grpc.ServicerContext]] = {}  # until when
        self._lock, self._closed = threading.Lock(), threading.Event()

    def start(self) -> None:
        """Begin to cut off who does not send."""
        threading.Thread(target=self._watch, name="door", daemon=True).start()

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()

    def read(self, requests: Iterator[R], context: grpc.ServicerContext) -> R | None:
        """The next message; None when the caller has no more. Raises Gone."""
        with self._lock:
            self._waiting[id(context)] = time.monotonic() + self._seconds, context
        try:
            return next(requests, None)
        except Exception:  # noqa: BLE001  grpcio raises a bare Exception when the call is cancelled
            raise Gone from None
        finally:
            with self._lock:
                del self._waiting[id(context)]

    def _watch(self) -> None:
        while not self._closed.wait(self._seconds / 4):
            now = time.monotonic()
            with self._lock:
                late = [context for until, context in self._waiting.values() if until < now]
            for context in late:
                _cut_off(context)


def _cut_off(context: grpc.ServicerContext) -> None:
    try:
        context.cancel()
    except Exception as error:  # noqa: BLE001  one call must not end the watch over all others
        _log.error("a call without its message cannot be ended: %s", type(error).__name__)


MOST_FIELDS = 128
"""Of a message: twice what the largest has, a full batch."""
HANDSHAKE_SECONDS = 10
MOST_CONNECTIONS = 2**16


def connection_limits() -> tuple[tuple[str, int], ...]:
    """Options of a gRPC server: strangers' connections neither stay nor take the descriptors of files.

    Anybody can connect, before any certificate is seen. Half of the process's descriptors are left alone:
    who is connected goes on, and what it sends can be written. Plain HTTP has up to 128 more for each of
    tiles and metrics (plainhttp.py): with fewer than 1,024 descriptors, not enough may be left.
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    half = MOST_CONNECTIONS if descriptors == resource.RLIM_INFINITY else descriptors // 2
    return (
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
        ("grpc.max_allowed_incoming_connections", min(half, MOST_CONNECTIONS)),
    )


class Doorkeeper(grpc.ServerInterceptor):
    """Calls every handler before the message is there, with a place for the caller, and then reads it.

    Callers that are no members share one member's places: some calls, such as health, are for them too.
    """

    def __init__(self, identify: PeerIdentity, places: Places, messages: Messages) -> None:
        self._identify, self._places, self._messages = identify, places, messages

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of the call, behind the door."""
        found: Any = continuation(handler_call_details)
        if found is None:
            return None
        coding = (_bounded(found.request_deserializer), found.response_serializer)
        if found.stream_stream:
            many = found.stream_stream
            behaviour = self._streaming(lambda requests, context: many(self._all(requests, context), context))
            return grpc.stream_stream_rpc_method_handler(behaviour, *coding)
        if found.unary_stream:
            one = found.unary_stream
            behaviour = self._streaming(lambda requests, context: one(self._only(requests, context), context))
            return grpc.stream_stream_rpc_method_handler(behaviour, *coding)
        return grpc.stream_unary_rpc_method_handler(self._single(found.unary_unary), *coding)

    def _single(self, answer: Callable[[Any, grpc.ServicerContext], R]) -> Callable[..., R]:
        def behaviour(requests: Iterator[Any], context: grpc.ServicerContext) -> R:
            member = self._enter(context)
            try:
                return answer(self._only(requests, context), context)
            finally:
                self._places.leave(member)

        return behaviour

    def _streaming(self, answer: Callable[..., Iterator[R]]) -> Callable[..., Iterator[R]]:
        def behaviour(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[R]:
            member = self._enter(context)
            try:
                yield from answer(requests, context)
            finally:
                self._places.leave(member)

        return behaviour

    def _only(self, requests: Iterator[R], context: grpc.ServicerContext) -> R:
        """The one message of a call that has one."""
        request = self._read(requests, context)
        if request is None:
            abort(context, Refusal(code_pb2.INVALID_ARGUMENT, "batch", "The call came without its message."))
        return request

    def _all(self, requests: Iterator[R], context: grpc.ServicerContext) -> Iterator[R]:
        """The messages of a call that has several, each in time."""
        while (request := self._read(requests, context)) is not None:
            yield request

    def _read(self, requests: Iterator[R], context: grpc.ServicerContext) -> R | None:
        try:
            return self._messages.read(requests, context)
        except Gone:
            abort(context, Refusal(code_pb2.CANCELLED, "gone", "The caller left, or kept its message back."))

    def _enter(self, context: grpc.ServicerContext) -> str:
        """Takes a place, and says whose it is."""
        return guarded(context, lambda: self._take(context))

    def _take(self, context: grpc.ServicerContext) -> str:
        try:
            member = self._identify(context)
        except Refusal:
            member = ""
        self._places.take(member)
        return member


def _bounded(parse: Callable[[bytes], R]) -> Callable[[bytes], R]:
    """Parses messages of few fields only: ten megabytes of empty fields are 300 once they are parsed."""

    def bounded(data: bytes) -> R:
        if has_more_fields(data, MOST_FIELDS):
            raise ValueError("a message of too many fields")
        return parse(data)

    return bounded


def has_more_fields(data: bytes, most: int) -> bool:
    """Whether a protobuf message has more than so many fields, each repetition counted, at its top.

    What is no message may have any number. Source: the Protocol Buffers encoding, wire types 0, 1, 2 and 5.
    """
    at = count = 0
    while at < len(data):
        count += 1
        tag, at = _varint(data, at)
        size = {1: 8, 5: 4}.get(tag & 7, 0)
        if tag & 7 in (0, 2):
            value, at = _varint(data, at)
            size = value if tag & 7 == 2 else 0
        if count > most:
            return True
        at += size
    return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends: with the message, when it is longer than a number can be."""
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    return value, len(data)


def guarded(context: grpc.ServicerContext, answer: Callable[[], R]) -> R:
    """The error firewall: our refusals cross the wire as they are, everything else as a reference id."""
    try:
        return answer()
    except Refusal as refusal:
        abort(context, refusal)
    except Exception:  # noqa: BLE001  nothing unforeseen may reach the wire in its own words
        reference = secrets.token_hex(8)
        _log.exception("internal error %s", reference)
        abort(context, Refusal(code_pb2.INTERNAL, "internal", f"Internal error, reference {reference}."))


def abort(context: grpc.ServicerContext, refusal: Refusal) -> NoReturn:
    """Ends the call with this refusal."""
    info = error_details_pb2.ErrorInfo(reason=refusal.reason.upper(), domain=DOMAIN)
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(code=refusal.code, message=refusal.sentence, details=[detail])
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status returned")
