"""Where the exchanges of one federated round wait for each other, each in a thread of its own.

An exchange hands in what its participant sent and goes on with what all of it gives. When one of them fails
or keeps the others waiting, all fail: their calls are cancelled, and nothing is released. Refuses to go on
after that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa
import rfc8785

from compute.errors import BayspaceError, PolicyRefusal, Unavailable
from compute.federation import Entry, Roster, Seat, joined
from policy_enforcer.facts import Decision

FAILED = "federation.participant-failed"


Reduce = Callable[[list[bytes]], bytes]


@dataclass(slots=True)
class _Step:
    """What the exchanges hand in at one point of the round, and what that gives."""

    bodies: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    result: bytes | None = None


class Meeting:
    """The exchanges with `participants`, in roster order. `timeout`: seconds one waits for the others."""

    def __init__(self, participants: Sequence[str], timeout: float) -> None:
        self._participants, self._timeout = tuple(participants), timeout
        self._changed = threading.Condition()
        self._steps: list[_Step] = []
        self._calls: list[Any] = []
        self._failure: tuple[int, BaseException] | None = None
        self._shared: dict[str, Any] = {}
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

    def together(self, place: int, number: int, kind: str, body: bytes, reduce: Reduce) -> bytes:
        """What everybody's bodies of this step, in roster order, give: whoever comes last reduces them.

        Raises `Unavailable` when one does not come.
        """
        with self._changed:
            self._steps += [_Step() for _ in range(number + 1 - len(self._steps))]
            step = self._steps[number]
            step.bodies[place] = kind, body
            last = len(step.bodies) == len(self._participants)
            # a step is over when the next one begins: what it gave is in nobody's way any more
            self._steps[:number] = [_Step() for _ in range(number)]
            self._changed.notify_all()
        if last:
            self._reduce(step, kind, reduce)
        with self._changed:
            self._changed.wait_for(
                lambda: len(step.bodies) == len(self._participants) or self._failure is not None,
                self._timeout,
            )
            self._check(step)
            self._changed.wait_for(lambda: step.result is not None or self._failure is not None)
            self._check(step)
            assert step.result is not None
            return step.result

    def _reduce(self, step: _Step, kind: str, reduce: Reduce) -> None:
        if {kind for kind, _ in step.bodies.values()} != {kind}:
            raise AssertionError("all exchanges of a round gather the same")
        result = reduce([step.bodies[at][1] for at in range(len(self._participants))])
        with self._changed:
            step.result = result
            self._changed.notify_all()

    def _check(self, step: _Step) -> None:
        if self._failure is None and len(step.bodies) == len(self._participants):
            return
        late = [name for at, name in enumerate(self._participants) if at not in step.bodies]
        who = ", ".join(late) if self._failure is None else self._participants[self._failure[0]]
        raise Unavailable(FAILED, f"{who} did not get as far as the others, so nothing was released")

    def shared(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives the first who asks for this; the same for all others."""
        with self._changed:
            if name not in self._shared:
                self._shared[name] = make()
            return self._shared[name]

    def failed_elsewhere(self, place: int) -> bool:
        """Did the round fail in another exchange first?"""
        return self._failure is not None and self._failure[0] != place


class Place:
    """One exchange's place in the meeting."""

    def __init__(self, meeting: Meeting, place: int) -> None:
        self._meeting, self._place, self._step = meeting, place, 0

    def together(self, kind: str, body: bytes, reduce: Reduce) -> bytes:
        """What everybody's bodies give: what a role that gathers goes on with."""
        step, self._step = self._step, self._step + 1
        return self._meeting.together(self._place, step, kind, body, reduce)

    def seat(self, entry: Entry) -> Seat:
        """This exchange's seat, once every participant has accepted: the roster is frozen here."""
        roster = Roster.parse(self.together("roster", rfc8785.dumps(asdict(entry)), _listed))
        return Seat(roster, partial(self._meeting.shared, "cells"))

    def answer(self, make: Callable[[], pa.Table]) -> pa.Table:
        """The round's answer, once nobody can fail any more that would have kept it from being one."""
        self.together("end", b"", joined)
        answer: pa.Table = self._meeting.shared("answer", make)
        return answer

    def blamed(self, code: str) -> str:
        """The code this exchange fails with: not its own where it only went down with the round."""
        return FAILED if self._meeting.failed_elsewhere(self._place) else code


def _listed(entries: list[bytes]) -> bytes:
    return b"[" + b",".join(entries) + b"]"


def named(participant: str, decision: Decision) -> Decision:
    """The decision, each sentence with the participant whose policy gave it."""
    return Decision(tuple(replace(r, sentence=f"{participant}: {r.sentence}") for r in decision.because))
