"""Shared pieces of the protocol tests: seeded entropy, small plans, a mutating relay, plaintext joins."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from compute.inputs import Cells, Context, LocalInput
from compute.plan import Dimension, Output, Partial, Plan, Side
from compute.protocols import PROTOCOLS
from compute.protocols.base import Frame, Receive, Role
from compute.session import Header, Transcript
from compute.types import parse_type
from policy_enforcer.disclosure import Party

Row = tuple[Any, ...]  # (key, dimension, measure...); key None never matches


class Stream:
    """Deterministic entropy; what a role drew can be drawn again by the same seed."""

    def __init__(self, seed: str) -> None:
        self._seed, self._drawn = seed.encode(), 0

    def __call__(self, n: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(self._seed + self._drawn.to_bytes(8, "big")).digest(n)


def aggregate(rows: Sequence[Row], dimension: str | None, measures: int) -> LocalInput:
    """The long table of a local part, computed in plain Python."""
    keys: dict[bytes, int] = {}
    labels: dict[Any, int] = {}
    cells: dict[tuple[int, int], list[int]] = {}
    if dimension is None:
        labels[()] = 0
    for key, label, *values in rows:
        if key is None:
            continue
        cell = (
            keys.setdefault(key.encode(), len(keys)),
            labels.setdefault(() if dimension is None else label, len(labels)),
        )
        sums = cells.setdefault(cell, [0] * (measures + 1))
        for i, value in enumerate([1, *values]):
            sums[i] += value
    columns: dict[str, Any] = {
        "key": pa.array([k for k, _ in cells], pa.int32()),
        "group": pa.array([g for _, g in cells], pa.int32()),
        "rows": pa.array([s[0] for s in cells.values()], pa.int64()),
    }
    for i in range(measures):
        columns[f"m{i}"] = pa.array([s[1 + i] for s in cells.values()], pa.int64())
    names = pa.table({"none": [0]}).select([])
    if dimension is not None:
        names = pa.table({dimension: pa.array(list(labels), pa.string())})
    return LocalInput(pa.array(list(keys), pa.large_binary()), pa.table(columns), names, len(labels))


@dataclass
class Scene:
    """Both inputs and the contexts of one run."""

    plan: Plan
    receiver_input: LocalInput | None
    sender_input: LocalInput | pa.Table
    seed: str = "seed"
    minimum: int = 1
    group_minimum: int | None = None  # None: as the gate's
    sender_seed: str | None = None  # None: as the receiver's

    def gate(self, counts: np.ndarray) -> np.ndarray:
        self.counts = counts.copy()
        return counts >= self.minimum

    def context(self, party: Party) -> Context:
        sid = hashlib.sha256(b"sid" + self.seed.encode()).digest()
        seed = self.sender_seed if party is Party.SENDER and self.sender_seed else self.seed
        minimum = self.minimum if self.group_minimum is None else self.group_minimum
        return Context(sid, self.plan, Stream(f"{seed} {party.value}"), lambda *_: None, minimum)

    def roles(self) -> tuple[Role[Cells], Role[Any]]:
        protocol = next(p for p in PROTOCOLS if p.name == self.plan.protocol)
        return (
            protocol.receiver(self.context(Party.RECEIVER), self.receiver_input),
            protocol.sender(self.context(Party.SENDER), self.sender_input, self.gate),
        )


def make_plan(
    protocol: str,
    *,
    receiver_dimension: bool = True,
    sender_dimension: bool = True,
    measures: int = 1,
    bounds: tuple[int, int] = (24, 24),
    maximum_cells: int = 64,
    row_bound: int = 1000,
) -> Plan:
    """A plan of one dimension a side at most, and `measures` sums of the sender."""
    declared = next(p for p in PROTOCOLS if p.name == protocol)
    partials = tuple(Partial(f"m{i}", f"v{i}", 0, row_bound) for i in range(measures))

    def side(name: str, number: int, has: bool, of: tuple[Partial, ...], bound: int) -> Side:
        dimensions = (Dimension(f"d{number}", "label", "string"),) if has else ()
        return Side(name, ("k",) if declared.joint else (), (), dimensions, of, bound, 4 * bound)

    receiver = side("hk.r", 0, receiver_dimension, (), bounds[0]) if declared.joint else None
    sender = side("sz.s", 1, sender_dimension, partials, bounds[1])
    return Plan(
        protocol=protocol,
        protocol_version=declared.version,
        level=declared.level,
        asker="hk",
        owner="sz",
        receiver=receiver,
        sender=sender,
        outputs=(Output("n", "identities", "int64"),),
        having=None,
        order_by=(),
        limit=None,
        maximum_cells=maximum_cells,
        parameters=declared.parameters(receiver, sender, maximum_cells),
        reveals=declared.reveals,
    )


@dataclass
class Sent:
    """One frame on the wire and who wrote it."""

    author: Party
    frame: Frame


def relay(
    a: Role[Any], b: Role[Any], touch: Callable[[int, Sent], list[Sent]] = lambda _, sent: [sent]
) -> tuple[dict[Party, Any], list[Sent]]:
    """Run receiver `a` and sender `b`; `touch(i, frame i)` says what is delivered in its place.

    Returns the results, or the exception, by party, and every frame written. A party whose peer died
    or who waits for ever is absent.
    """
    roles = {Party.RECEIVER: a, Party.SENDER: b}
    inbox: dict[Party, deque[Frame]] = {party: deque() for party in Party}
    outcome: dict[Party, Any] = {}
    wire: list[Sent] = []

    def step(party: Party, value: Frame | None) -> None:
        try:
            item = roles[party].send(value)
            while isinstance(item, Frame):
                wire.append(Sent(party, item))
                for sent in touch(len(wire) - 1, wire[-1]):
                    inbox[other(sent.author)].append(sent.frame)
                item = roles[party].send(None)
            assert isinstance(item, Receive)
        except StopIteration as end:
            outcome[party] = end.value
        except Exception as error:  # noqa: BLE001 - the test looks at it
            outcome[party] = error

    for party in Party:
        step(party, None)
    while any(inbox[party] and party not in outcome for party in Party):
        for party in Party:
            if inbox[party] and party not in outcome:
                step(party, inbox[party].popleft())
    return outcome, wire


def transcribed(role: Role[Any], transcript: Transcript) -> Role[Any]:
    """The role as the transport drives it: each body behind the header that the transcript gives it."""
    try:
        item = role.send(None)
        while True:
            if isinstance(item, Frame):
                header = transcript.sending(item)
                yield Frame(item.kind, header.sequence.to_bytes(8, "big") + header.digest + item.body)
                item = role.send(None)
                continue
            got = yield item
            assert got is not None
            frame = Frame(got.kind, got.body[40:])
            transcript.receiving(Header(int.from_bytes(got.body[:8], "big"), got.body[8:40]), frame)
            item = role.send(frame)
    except StopIteration as end:
        return end.value


def shapes(wire: list[Sent]) -> list[tuple[Party, str, int]]:
    """What an eavesdropper and the peer's transport see of a run."""
    return [(sent.author, sent.frame.kind, len(sent.frame.body)) for sent in wire]


def other(party: Party) -> Party:
    return Party.SENDER if party is Party.RECEIVER else Party.RECEIVER


class Kit:
    """What tests take from here."""

    Stream, Scene, Sent, Frame = Stream, Scene, Sent, Frame
    aggregate = staticmethod(aggregate)
    make_plan = staticmethod(make_plan)
    relay = staticmethod(relay)
    other = staticmethod(other)
    transcribed = staticmethod(transcribed)
    shapes = staticmethod(shapes)


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit


PAYLOAD = (("d1", "string", 40), ("d2", "int64", 0))


def rows_input(rows: Sequence[Row], columns: Sequence[tuple[str, str, int]]) -> LocalInput:
    """The local part of a list or a count: every row with a key is a group of its own."""
    rows = [row for row in rows if row[0] is not None]
    keys = list(dict.fromkeys(row[0] for row in rows))
    number = {key: i for i, key in enumerate(keys)}
    cells = {
        "key": pa.array([number[row[0]] for row in rows], pa.int32()),
        "group": pa.array(range(len(rows)), pa.int32()),
        "rows": pa.array([1] * len(rows), pa.int64()),
        "m0": pa.array([1] * len(rows), pa.int64()),
    }
    values = {
        name: pa.array([row[1 + i] for row in rows], parse_type(kind).arrow)
        for i, (name, kind, _) in enumerate(columns)
    }
    labels = pa.table(values) if columns else pa.table({"none": [0] * len(rows)}).select([])
    packed = pa.array([key.encode() for key in keys], pa.large_binary())
    return LocalInput(packed, pa.table(cells), labels, len(rows))


@pytest.fixture(scope="session")
def overlap_scene() -> Callable[..., Scene]:
    """`psi_list` or `psi_count` over rows (key, label) of R and (key, text, number) of S."""

    def make(
        protocol: str,
        left: Sequence[Row],
        right: Sequence[Row],
        *,
        minimum: int = 1,
        seed: str = "s",
        bounds: tuple[int, int] = (24, 24),
        payload: Sequence[tuple[str, str, int]] = PAYLOAD,
    ) -> Scene:
        declared = next(p for p in PROTOCOLS if p.name == protocol)
        listed = protocol == "psi_list"
        mine, theirs = ((("d0", "string", 0),), tuple(payload)) if listed else ((), ())
        sides = []
        for name, columns, bound in (("hk.r", mine, bounds[0]), ("sz.s", theirs, bounds[1])):
            dimensions = tuple(Dimension(n, n, kind, width) for n, kind, width in columns)
            of = (Partial("m0", "CAST(1 AS BIGINT)", 0, 1),) if name == "sz.s" and not listed else ()
            sides.append(Side(name, ("k",), (), dimensions, of, bound, 4 * bound, unique=name == "sz.s"))
        plan = Plan(
            protocol=protocol,
            protocol_version=declared.version,
            level=declared.level,
            asker="hk",
            owner="sz",
            receiver=sides[0],
            sender=sides[1],
            outputs=(),
            having=None,
            order_by=(),
            limit=None,
            maximum_cells=1,
            parameters=declared.parameters(sides[0], sides[1], 1),
            reveals=declared.reveals,
            kind="list" if listed else "aggregate",
        )
        return Scene(plan, rows_input(left, mine), rows_input(right, theirs), seed, minimum)

    return make


@pytest.fixture(scope="session")
def scene() -> Callable[..., Scene]:
    """A joint query over rows (key, label) of the receiver and (key, label, measure...) of the sender."""

    def make(
        protocol: str,
        left: Sequence[Row],
        right: Sequence[Row],
        *,
        r_dim: bool = True,
        s_dim: bool = True,
        measures: int = 1,
        minimum: int = 1,
        group_minimum: int | None = None,
        seed: str = "s",
        **plan: Any,
    ) -> Scene:
        made = make_plan(
            protocol, receiver_dimension=r_dim, sender_dimension=s_dim, measures=measures, **plan
        )
        own = aggregate(left, "d0" if r_dim else None, 0)
        owned = aggregate(right, "d1" if s_dim else None, measures)
        return Scene(made, own, owned, seed, minimum, group_minimum)

    return make
