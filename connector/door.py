"""Who calls, and how many calls each may have open: a connector's front door.

gRPC gives a call one of the server's threads and, where it has one message, keeps it there until that has
come, before anything of ours has run. Every handler is therefore called first and reads its message then: by
then the caller has a place, and its message a time to come in. Who opens calls and sends nothing fills its
own places, for a few seconds, and leaves all others alone. Refuses a caller that has no place left, and a
call without its message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import grpc

from compute.errors import BayspaceError, PeerViolation, Unavailable
from witness.door import Gone, Messages, Places, Refusal

Authorise = Callable[[grpc.ServicerContext, str], str]
"""(context, method): the id of the caller. Raises a `BayspaceError` for one that may not call this."""
STRANGER = ""
"""Whose places callers share who may call what is for everybody: health and reflection."""
_FOR_EVERYBODY = ("/grpc.health.", "/grpc.reflection.")


@contextmanager
def placed(places: Places, caller: str, what: str) -> Iterator[None]:
    """One of the caller's places, until the block ends. Raises `Unavailable` when it holds its share."""
    with ExitStack() as held:
        try:
            held.enter_context(places.taken(caller))
        except Refusal:
            sentence = f"{caller or 'whoever calls'} has too many {what} open here at once"
            raise Unavailable("peer.overloaded", sentence) from None
        yield


class Door:
    """Lets callers in: `each` so many calls at once, `in_all` of them together. Start it, and close it."""

    def __init__(self, authorise: Authorise, each: int, in_all: int, seconds: float) -> None:
        self._authorise, self._places, self._messages = authorise, Places(each, in_all), Messages(seconds)

    def start(self) -> None:
        """Begin to cut off who does not send its message."""
        self._messages.start()

    def close(self) -> None:
        """Watch no longer."""
        self._messages.close()

    @contextmanager
    def entered(self, context: grpc.ServicerContext, method: str) -> Iterator[None]:
        """A place for the caller, until the block ends. Raises what it is refused with."""
        with placed(self._places, self._caller(context, method), "calls"):
            yield

    def message(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        """The one message of a call that has one."""
        try:
            request = self._messages.read(requests, context)
        except Gone:
            raise Unavailable("peer.gone", "the caller left, or kept its message back") from None
        if request is None:
            raise PeerViolation("peer.malformed", "the call came without its message")
        return request

    def _caller(self, context: grpc.ServicerContext, method: str) -> str:
        if not method.startswith(_FOR_EVERYBODY):
            return self._authorise(context, method)
        with suppress(BayspaceError):
            return self._authorise(context, method)
        return STRANGER
