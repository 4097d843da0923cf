"""What both sides know about a dataset before a query: schema, keys, bounds, sizes, commitment.

This is the public description that catalogue and agreement carry. Planning reads only this, so that
each side derives the same plan alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from compute.keys import Normaliser
from policy_enforcer.disclosure import Level


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `type` is one of TYPES in `compute/types.py`; bounds are in units of the column."""

    name: str
    type: str  # "int64" | "float64" | "decimal(p,s)" | "string" | "bool" | "date" | "timestamp"
    nullable: bool = True
    scale: int | None = None  # float64 only: decimal digits kept when summed
    bounds: tuple[str, str] | None = None  # declared minimum and maximum, as decimal strings
    grade: int = 1  # classification grade (分类分级)
    key: tuple[Normaliser, ...] | None = None  # normalisers that make it a join key; None: not joinable
    unique: bool = False  # no two rows share a value (NULL aside)


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A dataset as its catalogue describes it."""

    participant: str
    name: str
    columns: tuple[Column, ...]
    rows_bound: int  # upper bound on rows: the catalogue's size bucket
    keys_bound: int  # upper bound on distinct keys: sets are padded to it
    commitment: str  # hex: salted Merkle root over the content version
    disclosure: Level = Level.HIDDEN  # loosest level its owner tolerates for its join keys

    @property
    def full_name(self) -> str:
        """`participant.dataset`, as SQL names it."""
        return f"{self.participant}.{self.name}"

    def column(self, name: str) -> Column | None:
        """The column of that name, or None."""
        return next((c for c in self.columns if c.name == name), None)
