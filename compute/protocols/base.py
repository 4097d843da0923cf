"""Roles without sockets: what every joint protocol is made of.

A role is a generator. `yield Frame(...)` sends; `body = yield from receive("kind")` waits; `return`
gives the result. No socket, clock, disk or global randomness: all arrive as arguments. Whatever is
malformed, out of order, truncated or oversized raises `PeerViolation`; nothing is retried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow as pa

from compute.errors import PeerViolation
from compute.frames import FRAME_BYTES, Frame, Gather, Receive, Role, receive, receive_blob, send_blob
from compute.inputs import Cells, Context, Gate, LocalInput, Summary
from compute.plan import Plan, Side
from policy_enforcer.disclosure import Disclosure, Level

T = TypeVar("T")
S = TypeVar("S")

__all__ = [
    "FRAME_BYTES",
    "Cost",
    "Frame",
    "Gather",
    "Protocol",
    "Receive",
    "Role",
    "receive",
    "receive_blob",
    "run_pair",
    "run_round",
    "send_blob",
]


def run_pair(a: Role[T], b: Role[S]) -> tuple[T, S]:
    """Run both roles in memory, delivering frames in order. `PeerViolation` when a role waits for ever."""
    inbox_a: deque[Frame] = deque()
    inbox_b: deque[Frame] = deque()
    left, right = _Runner(a, inbox_a, inbox_b), _Runner(b, inbox_b, inbox_a)
    while not (left.done and right.done):
        if not (left.step() | right.step()):
            raise PeerViolation("peer.silent", "a role waits for a frame that never comes")
    if inbox_a or inbox_b:
        raise PeerViolation("peer.frame-unexpected", "a frame arrived after the end of the protocol")
    return left.result(), right.result()


def run_round(coordinators: Sequence[Role[T]], participants: Sequence[Role[S]]) -> tuple[list[T], list[S]]:
    """Run all exchanges of a federated round in memory. `PeerViolation` as `run_pair`."""
    pairs = []
    for coordinator, participant in zip(coordinators, participants, strict=True):
        here, there = deque[Frame](), deque[Frame]()
        pairs.append((_Runner(coordinator, here, there), _Runner(participant, there, here)))
    while not all(a.done and b.done for a, b in pairs):
        moved = sum(a.step() | b.step() for a, b in pairs)  # each of them steps
        if not moved and not _gathered([a for a, _ in pairs]):
            raise PeerViolation("peer.silent", "a role waits for a frame that never comes")
    return [a.result() for a, _ in pairs], [b.result() for _, b in pairs]


def _gathered(coordinators: Sequence[_Runner[T]]) -> bool:
    """Reduce everybody's bodies for coordinators that all wait for the same ones."""
    kinds = {item.kind if (item := runner.gathering) else None for runner in coordinators}
    if len(kinds) != 1 or None in kinds:
        return False
    items = [item for runner in coordinators if (item := runner.gathering)]
    result = items[0].reduce([item.body for item in items])
    for runner in coordinators:
        runner.answer(result)
    return True


class _Runner(Generic[T]):
    """One role and its inbox; `step` goes as far as the inbox allows."""

    def __init__(self, role: Role[T], inbox: deque[Frame], outbox: deque[Frame]) -> None:
        self._role, self._inbox, self._outbox = role, inbox, outbox
        self._value: list[T] = []
        self.gathering: Gather | None = None
        self._advance(None)

    @property
    def done(self) -> bool:
        return bool(self._value)

    def step(self) -> bool:
        """Deliver waiting frames; True when anything moved."""
        moved = False
        while not self.done and self._inbox and self.gathering is None:
            self._advance(self._inbox.popleft())
            moved = True
        return moved

    def _advance(self, frame: Frame | None) -> None:
        try:
            item = self._role.send(frame)
            while isinstance(item, Frame):
                self._outbox.append(item)
                item = self._role.send(None)
            self.gathering = item if isinstance(item, Gather) else None
        except StopIteration as end:
            self._value.append(end.value)

    def answer(self, result: bytes) -> None:
        """Go on with what everybody's bodies gave."""
        gathering, self.gathering = self.gathering, None
        if gathering is not None:
            self._advance(Frame(gathering.kind, result))

    def result(self) -> T:
        return self._value[0]


@dataclass(frozen=True, slots=True)
class Cost:
    """Estimate for one query at padded sizes: seconds on the reference machine, bytes both ways."""

    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol's declaration: planner, explain, policy, evidence and leakage tests read only this."""

    name: str
    version: int
    level: Level
    joint: bool  # two parties' data take part
    kinds: frozenset[str]  # "aggregate", "list"
    threat_model: str
    reveals: tuple[Disclosure, ...]
    gates: frozenset[str]
    weighted: bool  # can the receiver's own values enter the figures
    cost: Callable[[Plan], Cost]
    parameters: Callable[[Side | None, Side, int], Mapping[str, Any]]  # (receiver, sender, maximum_cells)
    receiver: Callable[[Context, LocalInput | None], Role[Cells]]
    # Joint protocols take a LocalInput; single_domain takes the aggregated table of compute/local.py.
    sender: Callable[[Context, LocalInput | pa.Table, Gate], Role[Summary]]
    # What the receiver's input must be, whatever the peer holds: found before a use is charged.
    check: Callable[[Plan, LocalInput], None] = lambda _plan, _own: None
    reveals_weighted: tuple[Disclosure, ...] = ()  # besides, where the plan sends weights
