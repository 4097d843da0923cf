"""What ends one running query from outside: its agreement, the clock, our own people, or a caller that left.

The first reason counts: it is what both sides are told and what goes on record. It interrupts what is
computed and wakes whoever waits, so that a query on which no frame moves ends as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from compute.errors import BayspaceError, ConfigError, PolicyRefusal, Unavailable
from policy_enforcer import facts

Reason = Callable[[], BayspaceError]
"""Makes the error anew for each who raises it: one that is kept would keep the frames that it passed."""


def after(seconds: float, act: Callable[[], object]) -> threading.Timer:
    """Do this so many seconds from now, unless it is cancelled. It keeps no process alive."""
    timer = threading.Timer(max(0.0, min(seconds, threading.TIMEOUT_MAX)), act)
    timer.daemon = True
    timer.start()
    return timer


class Stop:
    """Ends one query, or all exchanges of one federated round, once."""

    def __init__(self) -> None:
        self.interrupt = threading.Event()  # for what is computed
        self._reason: Reason | None = None
        self._acts: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def fire(self, reason: Reason) -> None:
        """End it for this reason, unless there is one already."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason, acts = reason, self._acts
            self._acts = []
        self.interrupt.set()
        for act in acts:
            act()

    def on_fire(self, act: Callable[[], object]) -> None:
        """Do this when it is ended; at once where it is ended already."""
        with self._lock:
            if self._reason is None:
                self._acts.append(act)
                return
        act()

    @property
    def error(self) -> BayspaceError | None:
        """Why it was ended, or None."""
        return None if self._reason is None else self._reason()

    def check(self) -> None:
        """Raise the reason when it was ended."""
        if self._reason is not None:
            raise self._reason()


class Stops:
    """What runs in this process, as asker and as owner, and what ends each."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[str, Stop]] = {}  # by exchange: its agreement, and what ends it
        self._lock = threading.Lock()

    @contextmanager
    def held(self, exchange: str, agreement: str, stop: Stop, seconds: float | None = None) -> Iterator[None]:
        """Let it be ended while it runs; after so many seconds the agreement's time is over."""
        clock = None if seconds is None else after(seconds, lambda: stop.fire(_expired))
        with self._lock:
            self._held[exchange] = agreement, stop
        try:
            yield
        finally:
            with self._lock:
                del self._held[exchange]
            if clock is not None:
                clock.cancel()

    def end_agreement(self, agreement: str, reason: Reason) -> None:
        """End everything that runs under an agreement."""
        with self._lock:
            found = [stop for digest, stop in self._held.values() if digest == agreement]
        for stop in found:
            stop.fire(reason)

    def end(self, exchange: str, who: str) -> str:
        """End one query for our own people: its exchange's id, or a unique beginning. Returns the id."""
        with self._lock:
            found = [name for name in self._held if exchange and name.startswith(exchange)]
            if len(found) != 1:
                raise ConfigError("query.not-running", "no query, or more than one, of this id runs here now")
            stop = self._held[found[0]][1]
        stop.fire(lambda: Unavailable("query.stopped", f"{who} stopped the query"))
        return found[0]


def _expired() -> PolicyRefusal:
    reason = facts.Reason("time.expired", "when", "the permission ended while the query ran")
    return PolicyRefusal(facts.Decision((reason,)))
