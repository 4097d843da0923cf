"""Who stands behind each cell of a query: what the differencing guard compares, and nothing that leaves.

A member is one row of one identity, both written as keyed 64-bit names. Rows, and not identities alone:
two questions about the same people that differ in one row of one of them differ by that person. Rows of
the same content are one member, for no question can tell them apart. The names hang on the unmasked row
and on a key that stays with its owner, and on no version of DuckDB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compute.dataset import DatasetInfo
from compute.engine import select
from compute.expressions import quoted


@dataclass(frozen=True, slots=True)
class Membership:
    """The members of each cell: `labels` has a row for each cell, the arrays one entry for each member."""

    labels: pa.Table
    cell: NDArray[np.int32]  # into labels
    row: NDArray[np.uint64]
    who: NDArray[np.uint64]  # 0: nobody; rows without an identity are judged as if they were one

    def cells(self) -> int:
        """How many cells there are; one where nothing is grouped."""
        return max(1, int(self.labels.num_rows))


def marked(
    declared: str, info: DatasetInfo, shown: Sequence[str], identity: str, key: bytes
) -> tuple[str, str, str]:
    """`declared` with its columns as `shown` and two more, and their names: the row's and its identity's."""
    taken = {column.name.casefold() for column in info.columns}
    row, who = (_fresh(word, taken) for word in ("row", "who"))
    everything = ", ".join(_text(column.name) for column in sorted(info.columns, key=lambda c: c.name))
    name = quoted(identity)
    someone = f"md5_number_upper('{key.hex()} who ' || CAST({name} AS VARCHAR))"
    marks = [
        f"md5_number_upper('{key.hex()} row ' || concat({everything})) AS {row}",
        f"CASE WHEN {name} IS NULL THEN 0 ELSE {someone} END AS {who}",
    ]
    return f"({select([*shown, *marks], declared)})", row, who


def _text(column: str) -> str:
    """A column's value in words that no other values run into."""
    value = f"CAST({quoted(column)} AS VARCHAR)"
    return f"coalesce(length({value}) || ':' || {value}, 'n')"


def _fresh(word: str, taken: set[str]) -> str:
    while word in taken:
        word += "_"
    return quoted(word)
