"""The selection sum end to end: exact at its bounds, gated by counts, refusing whatever is malformed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.protocols.base import run_pair
from compute.selection_sum import (
    Answers,
    CellSums,
    Opening,
    Parameters,
    ReceiverGroup,
    SenderGroup,
    Shape,
    SumBound,
    open_answers,
    receiver,
    sender,
)


def seeded(seed: object) -> Callable[[int], bytes]:
    """Reproducible entropy: a counter hashed with the seed."""
    calls = 0

    def draw(count: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(count)

    return draw


def column(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def release_all(counts: np.ndarray) -> np.ndarray:
    return np.ones_like(counts, np.bool_)


def run(
    parameters: Parameters,
    shape: Shape,
    senders: list[SenderGroup],
    receivers: list[ReceiverGroup],
    gate=release_all,
) -> tuple[Answers, Opening]:
    return run_pair(
        sender(parameters, shape, senders, gate, seeded("s")),
        receiver(parameters, shape, receivers, seeded("r")),
    )


def sums(parameters: Parameters, shape: Shape, *args, **kwargs) -> dict[tuple[int, int], CellSums]:
    answers, opening = run(parameters, shape, *args, **kwargs)
    return open_answers(parameters, shape, opening, answers.encode(parameters, shape))


def expected(senders: list[SenderGroup], receivers: list[ReceiverGroup]) -> dict[tuple[int, int], CellSums]:
    """The same sums in Python integers."""
    cells = {}
    for r, mine in enumerate(receivers):
        for s, theirs in enumerate(senders):
            vectors = [dict.fromkeys(map(int, mine.positions), 1)]
            vectors += [dict(zip(map(int, mine.positions), map(int, w), strict=True)) for w in mine.weights]
            fields = [dict.fromkeys(map(int, theirs.positions), 1)]
            fields += [
                dict(zip(map(int, theirs.positions), map(int, v), strict=True)) for v in theirs.measures
            ]
            table = [[sum(w * f.get(p, 0) for p, w in v.items()) for f in fields] for v in vectors]
            cells[r, s] = CellSums(table[0][0], tuple(table[0][1:]), tuple(map(tuple, table[1:])))
    return cells


@st.composite
def problems(draw) -> tuple[Parameters, Shape, list[SenderGroup], list[ReceiverGroup]]:
    slots = draw(st.sampled_from([1, 7, 200, 4096, 4097, 9000]))
    measures = draw(st.integers(0, 3))
    limits = [draw(st.sampled_from([1, 1000, 2**40, 2**62])) for _ in range(measures)]
    heaviest = draw(st.sampled_from([None, 1, 50, 2**33]))
    shape = Shape(
        draw(st.integers(1, 3)), draw(st.integers(1, 2)), 0 if heaviest is None else draw(st.integers(0, 2))
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32)))

    def some() -> np.ndarray:
        return np.flatnonzero(random.random(slots) < random.choice([0, 0.1, 1])).astype(np.int64)

    senders = []
    for _ in range(shape.sender_groups):
        where = some()
        senders.append(
            SenderGroup(where, tuple(random.integers(-b, b, len(where), np.int64, True) for b in limits))
        )
    receivers = []
    for _ in range(shape.receiver_groups):
        where, w = some(), heaviest or 0
        weights = tuple(
            random.integers(-w, w, len(where), np.int64, True) for _ in range(shape.weight_columns)
        )
        receivers.append(ReceiverGroup(where, weights))
    parameters = Parameters.derive(
        slots=slots,
        returned=shape.selections * shape.sender_groups,
        bounds=[SumBound(limit * slots) for limit in limits],
        weight_bound=heaviest,
    )
    return parameters, shape, senders, receivers


@settings(max_examples=40, deadline=None)
@given(problems())
def test_sums_are_exact(problem) -> None:
    parameters, shape, senders, receivers = problem
    assert sums(parameters, shape, senders, receivers) == expected(senders, receivers)
