"""Who calls, and how many calls each may have open: a connector's front door.

gRPC gives a call one of the server's threads and, where it has one message, keeps it there until that has
come, before anything of ours has run. Every handler is therefore called first and reads its message then: by
then the caller has a place, and its message a time to come in. Who opens calls and sends nothing fills its
own places, for a few seconds, and leaves all others alone. Refuses a caller that has no place left, and a
call without its message.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc

from compute.errors import BayspaceError, PeerViolation, Unavailable
from witness.door import Places, Refusal

_log = logging.getLogger(__name__)

Authorise = Callable[[grpc.ServicerContext, str], str]
"""(context, method): the id of the caller. Raises a `BayspaceError` for one that may not call this."""
STRANGER = ""
"""Whose places callers share who may call what is for everybody: health and reflection."""
_FOR_EVERYBODY = ("/grpc.health.", "/grpc.reflection.")


@contextmanager
def placed(places: Places, caller: str, what: str) -> Iterator[None]:
    """One of the caller's places, until the block ends. Raises `Unavailable` when it holds its share."""
    try:
        places.take(caller)
    except Refusal:
        sentence = f"{caller or 'whoever calls'} has too many {what} open here at once"
        raise Unavailable("peer.overloaded", sentence) from None
    try:
        yield
    finally:
        places.leave(caller)


class Door:
    """Lets callers in: `each` so many calls at once, `in_all` of them together. Start it, and close it."""

    def __init__(self, authorise: Authorise, each: int, in_all: int, seconds: float) -> None:
        self._authorise, self._places, self._seconds = authorise, Places(each, in_all), seconds
        self._waiting: dict[int, tuple[float, grpc.ServicerContext]] = {}  # until when, for its message
        self._lock, self._closed = threading.Lock(), threading.Event()

    def start(self) -> None:
        """Begin to cut off who does not send its message."""
        threading.Thread(target=self._watch, name="door", daemon=True).start()

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()

    @contextmanager
    def entered(self, context: grpc.ServicerContext, method: str) -> Iterator[None]:
        """A place for the caller, until the block ends. Raises what it is refused with."""
        with placed(self._places, self._caller(context, method), "calls"):
            yield

    def message(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        """The one message of a call that has one."""
        with self._lock:
            self._waiting[id(context)] = time.monotonic() + self._seconds, context
        try:
            request = next(requests, None)
        except Exception:  # noqa: BLE001  grpcio raises a bare Exception when the call is cancelled
            raise Unavailable("peer.gone", "the caller left, or kept its message back") from None
        finally:
            with self._lock:
                del self._waiting[id(context)]
        if request is None:
            raise PeerViolation("peer.malformed", "the call came without its message")
        return request

    def _caller(self, context: grpc.ServicerContext, method: str) -> str:
        if not method.startswith(_FOR_EVERYBODY):
            return self._authorise(context, method)
        with suppress(BayspaceError):
            return self._authorise(context, method)
        return STRANGER

    def _watch(self) -> None:
        while not self._closed.wait(self._seconds / 4):
            now = time.monotonic()
            with self._lock:
                late = [context for until, context in self._waiting.values() if until < now]
            for context in late:
                self._cut_off(context)

    def _cut_off(self, context: grpc.ServicerContext) -> None:
        try:
            context.cancel()
        except Exception as error:  # noqa: BLE001  one call must not end the watch over all others
            _log.error("a call without its message cannot be ended: %s", type(error).__name__)
