"""Where the exchanges of one federated round wait for each other, each in a thread of its own.

An exchange hands in what its participant sent and goes on with everybody's. When one of them fails or keeps
the others waiting, all fail: their calls are cancelled, and nothing is released. Refuses to go on after that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import rfc8785

from compute.errors import BayspaceError, PolicyRefusal, Unavailable
from compute.federation import Entry, Roster, Seat, joined
from policy_enforcer.facts import Decision

FAILED = "federation.participant-failed"


class Meeting:
    """The exchanges with `participants`, in roster order. `timeout`: seconds one waits for the others."""

    def __init__(self, participants: Sequence[str], timeout: float) -> None:
        self._participants, self._timeout = tuple(participants), timeout
        self._changed = threading.Condition()
        self._steps: list[dict[int, tuple[str, bytes]]] = []
        self._calls: list[Any] = []
        self._failure: tuple[int, BaseException] | None = None
        self._answer: pa.Table | None = None
        self._cancelled = False

    def called(self, call: Any) -> None:
        """Note a call, to cancel it when the round fails."""
        with self._changed:
            self._calls.append(call)
            over = self._cancelled or self._failure is not None
        if over:
            call.cancel()

    def fail(self, place: int, error: BaseException) -> None:
        """End the round; the first failure is the one that it is told by."""
        with self._changed:
            if self._failure is None:
                self._failure = place, error
            calls = list(self._calls)
            self._changed.notify_all()
        for call in calls:
            call.cancel()

    def cancel(self) -> None:
        """The analyst does not want the answer any more: all calls end, and their exchanges fail."""
        with self._changed:
            calls, self._cancelled = list(self._calls), True
        for call in calls:
            call.cancel()

    def raise_failure(self) -> None:
        """Raise what the round failed by, with the participant's name, if it did."""
        if self._failure is None:
            return
        place, error = self._failure
        name = self._participants[place]
        if isinstance(error, PolicyRefusal):
            raise PolicyRefusal(named(name, error.decision))
        if isinstance(error, BayspaceError):
            sentence = f"the exchange with {name} failed, so nothing was released: {error.sentence}"
            raise Unavailable(FAILED, f"{sentence} [{error.code}]")
        raise error

    def wait(self, place: int, step: int, kind: str, body: bytes) -> list[bytes]:
        """Everybody's bodies of this step, in roster order. Raises `Unavailable` when one does not come."""
        with self._changed:
            self._steps += [{} for _ in range(step + 1 - len(self._steps))]
            bodies = self._steps[step]
            bodies[place] = kind, body
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: len(bodies) == len(self._participants) or self._failure is not None, self._timeout
            )
            self._check(bodies)
            # a step is over when the next one begins: its bodies are in nobody's way any more
            self._steps[:step] = [{} for _ in range(step)]
        if {kind for kind, _ in bodies.values()} != {kind}:
            raise AssertionError("all exchanges of a round gather the same")
        return [bodies[at][1] for at in range(len(self._participants))]

    def _check(self, bodies: dict[int, tuple[str, bytes]]) -> None:
        if self._failure is None and len(bodies) == len(self._participants):
            return
        late = [name for at, name in enumerate(self._participants) if at not in bodies]
        who = ", ".join(late) if self._failure is None else self._participants[self._failure[0]]
        raise Unavailable(FAILED, f"{who} did not get as far as the others, so nothing was released")

    def shared(self, make: Callable[[], pa.Table]) -> pa.Table:
        """What `make` gives the first who asks; the same for all others."""
        with self._changed:
            if self._answer is None:
                self._answer = make()
            return self._answer

    def failed_elsewhere(self, place: int) -> bool:
        """Did the round fail in another exchange first?"""
        return self._failure is not None and self._failure[0] != place


class Place:
    """One exchange's place in the meeting."""

    def __init__(self, meeting: Meeting, place: int) -> None:
        self._meeting, self._place, self._step = meeting, place, 0

    def gather(self, kind: str, body: bytes) -> bytes:
        """Everybody's bodies, joined: what a role that gathers goes on with."""
        return joined(self._wait(kind, body))

    def seat(self, entry: Entry) -> Seat:
        """This exchange's seat, once every participant has accepted: the roster is frozen here."""
        entries = self._wait("roster", rfc8785.dumps(asdict(entry)))
        return Seat(Roster.parse(b"[" + b",".join(entries) + b"]"), self._place)

    def _wait(self, kind: str, body: bytes) -> list[bytes]:
        step, self._step = self._step, self._step + 1
        return self._meeting.wait(self._place, step, kind, body)

    def answer(self, make: Callable[[], pa.Table]) -> pa.Table:
        """The round's answer, once nobody can fail any more that would have kept it from being one."""
        self._wait("end", b"")
        return self._meeting.shared(make)

    def blamed(self, code: str) -> str:
        """The code this exchange fails with: not its own where it only went down with the round."""
        return FAILED if self._meeting.failed_elsewhere(self._place) else code


def named(participant: str, decision: Decision) -> Decision:
    """The decision, each sentence with the participant whose policy gave it."""
    return Decision(tuple(replace(r, sentence=f"{participant}: {r.sentence}") for r in decision.because))
