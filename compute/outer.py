"""Rows without a match: what a local part brings besides where one side of a join is kept whole.

A kept *sender* (its rows without a match are summed) brings its rows without a key too: they match
nothing, as in SQL. They share one number, that of no key. A *receiver* whose rows are answered whether
they match or not brings what each of its groups has in all; only its keys take part in the protocol.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from compute.dataset import DatasetInfo
from compute.engine import Limits, locked, select
from compute.expressions import quoted
from compute.inputs import LocalInput
from compute.plan import Side
from compute.types import HUGE, parse_type

NO_KEY = pa.scalar(b"", pa.large_binary())
"""Stands for a missing key until keys are numbered; a canonical key is never empty."""


def set_apart(
    distinct: pa.LargeBinaryArray, index: NDArray[np.int32]
) -> tuple[pa.LargeBinaryArray, NDArray[np.int32]]:
    """Keys without NO_KEY, whose number becomes len(keys)."""
    place = pc.index(distinct, NO_KEY).as_py()
    if place < 0:
        return distinct, index
    keys = pa.concat_arrays([distinct[:place], distinct[place + 1 :]])
    numbers = np.arange(len(distinct), dtype=np.int32)
    numbers[place + 1 :] -= 1
    numbers[place] = len(keys)
    return keys, numbers[index]


def with_totals(own: LocalInput) -> LocalInput:
    """The labels with own_rows, own_keys and sums of each group; the cells without the rows of no key."""
    group, rows, keyed = (
        own.cells["group"].to_numpy(),
        own.cells["rows"].to_numpy(),
        own.cells["key"].to_numpy() < len(own.keys),
    )
    columns = {name: own.labels[name] for name in own.labels.column_names}
    columns |= {
        "own_rows": _sums(rows, group, own.groups),
        "own_keys": _sums(np.ones(int(keyed.sum()), np.int64), group[keyed], own.groups),
    }
    figures = [name for name in own.cells.column_names if name not in ("key", "group", "rows")]
    columns |= {f"all:{name}": _sums(own.cells[name].to_numpy(), group, own.groups) for name in figures}
    labels = pa.table(columns)
    return replace(own, cells=own.cells.filter(pa.array(keyed)), labels=labels)


def _sums(values: NDArray[np.int64], group: NDArray[np.int32], groups: int) -> pa.Array:
    """The sum in each group, exactly: the halves of 2^31 values cannot overflow."""
    high, low = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
    np.add.at(high, group, values >> 32)
    np.add.at(low, group, values & 0xFFFFFFFF)
    whole = [(h << 32) + x for h, x in zip(high.tolist(), low.tolist(), strict=True)]
    return pa.array([Decimal(v) for v in whole], HUGE.arrow)


def absent_label(side: Side, info: DatasetInfo, limits: Limits) -> pa.Table:
    """The dimensions of a row that is not there: all its columns are NULL."""
    nulls = [f"CAST(NULL AS {parse_type(c.type).duckdb}) AS {quoted(c.name)}" for c in info.columns]
    named = [f"{d.sql} AS {d.name}" for d in side.dimensions]
    schema = pa.schema([(d.name, parse_type(d.type).arrow) for d in side.dimensions])
    with locked({}, limits) as connection:
        found = connection.sql(select(named, f"({select(nulls, '(SELECT 1)')})")).to_arrow_table()
    return found.cast(schema)
