"""The bare selection sum, both roles in one process: CPU seconds, bytes and peak memory as one JSON object.

`python benchmarks/selection_sum.py --rows 1000000 --bound 524288`. Half of the slots are selected, split
evenly over the receiver's groups. The sums are compared with numpy's before anything is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from compute.protocols.base import Frame, Role, run_pair
from compute.selection_sum import (
    Parameters,
    ReceiverGroup,
    SenderGroup,
    Shape,
    SumBound,
    open_answers,
    receiver,
    sender,
)


class Meter:
    """CPU seconds inside one role, and the bytes it sends."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.bytes = 0

    def watch(self, role: Role[Any]) -> Iterator[Any]:
        """The same role, metered."""
        reply = None
        while True:
            started = time.process_time()
            try:
                item = role.send(reply)
            except StopIteration as end:
                return end.value
            finally:
                self.seconds += time.process_time() - started
            if isinstance(item, Frame):
                self.bytes += len(item.body)
            reply = yield item


def measure(rows: int, bound: int, groups: int, measures: int) -> dict[str, Any]:
    """Run once over random data."""
    random = np.random.default_rng(rows)
    columns = tuple(random.integers(-bound, bound, rows, np.int64, endpoint=True) for _ in range(measures))
    chosen = random.integers(0, 2 * groups, rows)
    selected = [np.flatnonzero(chosen == group).astype(np.int64) for group in range(groups)]
    parameters = Parameters.derive(slots=rows, returned=groups, bounds=[SumBound(bound * rows)] * measures)
    shape, theirs, ours = Shape(groups, 1), Meter(), Meter()
    own = [SenderGroup(np.arange(rows, dtype=np.int64), columns)]
    started = time.perf_counter()
    answers, opening = run_pair(
        theirs.watch(sender(parameters, shape, own, lambda counts: counts > 0, os.urandom)),
        ours.watch(receiver(parameters, shape, [ReceiverGroup(p) for p in selected], os.urandom)),
    )
    cells = open_answers(parameters, shape, opening, answers.encode(parameters, shape))
    seconds = time.perf_counter() - started
    for group, positions in enumerate(selected):
        exact = tuple(sum(column[positions].tolist()) for column in columns)
        if cells[group, 0].measures != exact or cells[group, 0].count != len(positions):
            raise SystemExit("the sums are wrong")
    return {
        "name": "selection_sum",
        "rows": rows,
        "bound": bound,
        "groups": groups,
        "measures": measures,
        "seconds": round(seconds, 4),
        "cpu_seconds": round(theirs.seconds + ours.seconds, 4),
        "sender_cpu_seconds": round(theirs.seconds, 4),
        "receiver_cpu_seconds": round(ours.seconds, 4),
        "bytes_total": theirs.bytes + ours.bytes,
        "bytes_per_value": round((theirs.bytes + ours.bytes) / rows / measures, 2),
        "degree": parameters.degree,
        "modulus_bits": parameters.q.bit_length(),
        "plain_bits": parameters.plain_bits,
        "flood_bits": parameters.flood_bits,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Print the median run of three (by CPU seconds)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--bound", type=int, default=1 << 19, help="largest absolute value")
    parser.add_argument("--groups", type=int, default=1, help="receiver-side groups")
    parser.add_argument("--measures", type=int, default=1)
    arguments = parser.parse_args()
    runs = [measure(arguments.rows, arguments.bound, arguments.groups, arguments.measures) for _ in range(3)]
    print(json.dumps(sorted(runs, key=lambda run: run["cpu_seconds"])[1]))


if __name__ == "__main__":
    main()
