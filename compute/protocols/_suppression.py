"""Complementary suppression: no cell that is held back can be computed from a margin and the cells beside it.

Whoever may ask for cells may ask for their totals too. So in every line of cells (all labels equal but one)
that holds something back, at least two cells are held back, one of which would have passed the gate: what a
margin then gives covers at least as many identities as a released cell. The smallest is taken. Lines are
looked at one by one until none changes; what several margins give together is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Codes = Sequence[NDArray[np.int64]]
"""Per dimension, the number of each cell's label."""


def complemented(
    allowed: NDArray[np.bool_], exists: NDArray[np.bool_], counts: NDArray[np.int64], codes: Codes
) -> NDArray[np.bool_]:
    """Return what may still leave of `allowed`. All arrays are flat, one entry a cell."""
    passing, kept = allowed, allowed.copy()
    lines = [line for line in _lines(codes) if len(line) > 1]
    changed = True
    while changed:
        changed = False
        for line in lines:
            changed |= _another(line, passing, kept, exists, counts)
    return kept


def _another(
    line: NDArray[np.int64],
    passing: NDArray[np.bool_],
    kept: NDArray[np.bool_],
    exists: NDArray[np.bool_],
    counts: NDArray[np.int64],
) -> bool:
    """Hold back the smallest cell of a line that needs one more; False when it needs none, or has none."""
    held = line[exists[line] & ~kept[line]]
    left = line[kept[line]]
    if not len(held) or not len(left) or (len(held) > 1 and passing[held].any()):
        return False
    kept[left[np.argmin(counts[left])]] = False
    return True


def _lines(codes: Codes) -> Iterator[NDArray[np.int64]]:
    """The cells that differ in one dimension only, for each dimension."""
    for varied in range(len(codes)):
        fixed = [code for place, code in enumerate(codes) if place != varied]
        if not fixed:
            yield np.arange(len(codes[varied]))
            continue
        _, line_of = np.unique(np.stack(fixed), axis=1, return_inverse=True)
        order = np.argsort(line_of.reshape(-1), kind="stable")
        edges = np.flatnonzero(np.diff(line_of.reshape(-1)[order])) + 1
        yield from np.split(order, edges)
