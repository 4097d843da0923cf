"""What a protocol role works on and what it returns: whole Arrow columns, no SQL, no policy.

INVARIANT: keys are canonical, distinct and never NULL; every (key, group) pair occurs once in `cells`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compute.federation import Member, Seat
from compute.plan import Plan

Entropy = Callable[[int], bytes]
"""Fresh random bytes: `os.urandom` in service, a seeded stream in tests."""

Gate = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""The owner's release gate: exact identity counts (receiver groups x sender groups) -> which may leave.

Called once, before the revealing frame. It raises to refuse the whole release."""

Progress = Callable[[str, int, int], None]
"""(stage, done, total): counts only, for people who wait."""


def unwatched(_stage: str, _done: int, _total: int) -> None:
    """The progress that nobody waits for."""


@dataclass(frozen=True, slots=True)
class LocalInput:
    """One side of a join after its local part. In a list query `labels` has a row for each of its rows.

    A list query's `cells` has their `key` alone.
    """

    keys: pa.LargeBinaryArray  # canonical key bytes, n <= side.keys_bound
    # A kept sender's rows without a key have the key `len(keys)`, whose place in the padded set is a dummy's.
    cells: pa.Table  # key: int32 into keys; group: int32 into labels; m0, m1, ...: int64; rows: int64
    labels: pa.Table  # one row per group; columns are the side's dimension names
    groups: int  # rows of labels; 1 with no dimension (labels then has no columns)
    # Of a receiver with totals, `labels` also has own_rows and own_keys: what a group has, matched or not.
    absent: pa.Table | None = None  # LEFT JOIN: one row, the label of a row that is not there


@dataclass(frozen=True, slots=True)
class Context:
    """What the session hands a role besides its input."""

    sid: bytes  # 32 bytes, fresh; in every domain-separation tag
    plan: Plan
    entropy: Entropy
    progress: Progress
    minimum_group: int  # keys a receiver's group must have before anything about it is answered; 0: any
    complementary: bool = False  # the owner holds back a second cell where a margin would give the first
    scratch: Path | None = None  # the folder for tags that are too many for memory; None: they stay there
    audit: Callable[[pa.Table], None] | None = None  # of an owner alone: sees what leaves; raises to refuse
    federated: Seat | Member | None = None  # our place in a federated round: the asker's, or a participant's


@dataclass(frozen=True, slots=True)
class Cells:
    """What the receiver holds after the release.

    `table`: d* of both sides, `identities` (int64, exact), m* (decimal128(38, 0) sums); released cells only.
    """

    table: pa.Table
    suppressed: int  # non-empty cells that the owner's gate held back
    keys: int | None = None  # list queries: the matched keys, which is what the owner counts as released
    masks: bytes | None = field(default=None, repr=False)  # opens the receiver's commitment to its masks

    @property
    def released(self) -> int:
        """What the owner counts as released: cells, or the matched keys of a list."""
        return self.table.num_rows if self.keys is None else self.keys


@dataclass(frozen=True, slots=True)
class Summary:
    """What the sender may record about its own release: counts, never values."""

    released: int
    suppressed: int
    weights: WeightFigures | None = None  # of the receiver's weights, where the plan has any


@dataclass(frozen=True, slots=True)
class WeightFigures:
    """What both sides sign about the receiver's weights."""

    fewest: int  # weights that are not zero behind a released cell, as the sender counted them; 0: no cell
    largest: int  # the receiver's word: most that one |weight| is of a group's sum of |weights|, per mille
