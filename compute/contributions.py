"""What one identity may contribute to a query, enforced before anything is summed.

Per identity at most so many cells and, of the rows in those, at most so many rows: which ones depends on a
hash of them, so the same question keeps the same rows, and on nobody else's rows, so that adding or taking
away one identity changes no other's part (what the sensitivity of compute/demands.py rests on). Rows
without an identity belong to nobody and are left out.

Dominance, the other question about single identities, is answered by a second grouping: the largest part
that one identity of a cell has in each figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from math import isfinite

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compute.dataset import DatasetInfo
from compute.demands import SUMMED, labels
from compute.engine import Limits, locked, select
from compute.expressions import quoted
from compute.extremes import ANY
from compute.plan import Dimension, Partial, Side
from policy_enforcer.obligations import Obligations

_UNBOUNDED = 2**62


def limited(demands: Obligations) -> bool:
    """Does the policy bound contributions at all?"""
    return demands.rows_per_identity is not None or demands.cells_per_identity is not None


def repeated(info: DatasetInfo, demands: Obligations) -> bool:
    """Can an identity have more than one row? Not where its column repeats no value, as was checked."""
    return not any(column.unique for column in info.columns if column.name == demands.identity)


def bounded(view: str, where: Sequence[str], side: Side, info: DatasetInfo, demands: Obligations) -> str:
    """The rows of `view` that meet `where` and its identities' bounds, as a relation of the same columns."""
    assert demands.identity is not None
    identity = quoted(demands.identity)
    names = [quoted(column.name) for column in info.columns]
    cell, row = _fresh(info, "cell"), _fresh(info, "row")
    dimensions = [d.sql for d in side.dimensions]
    # The hash spreads an identity's cells evenly; the values break its ties, so that a rank is one cell.
    order = ", ".join([f"hash({', '.join(dimensions)})", *dimensions]) if dimensions else "1"
    ranked = f"dense_rank() OVER (PARTITION BY {identity} ORDER BY {order}) AS {cell}"
    cells = select([*names, ranked], view, [*where, f"{identity} IS NOT NULL"])
    numbered = f"row_number() OVER (PARTITION BY {identity} ORDER BY hash({', '.join(names)})) AS {row}"
    within = select(
        [*names, numbered], f"({cells})", [f"{cell} <= {demands.cells_per_identity or _UNBOUNDED}"]
    )
    return f"({select(names, f'({within})', [f'{row} <= {demands.rows_per_identity or _UNBOUNDED}'])})"


def _fresh(info: DatasetInfo, word: str) -> str:
    """A column name that the dataset does not have."""
    taken = {column.name.casefold() for column in info.columns}
    while word in taken:
        word += "_"
    return quoted(word)


def bounded_keys(cells: pa.Table, demands: Obligations, limits: Limits) -> pa.Table:
    """The rows of a join input's cells within the bounds of their *keys*.

    Values that differ become one key once normalised: together they are one identity.
    """
    names = [quoted(name) for name in cells.schema.names]
    group = 'hash("group"), "group"'
    ranked = f'dense_rank() OVER (PARTITION BY "key" ORDER BY {group}) AS "of cell"'
    summed = (
        f'sum("rows") OVER (PARTITION BY "key" ORDER BY {group}, hash({", ".join(names)}) '
        'ROWS UNBOUNDED PRECEDING) AS "up to"'
    )
    query = select(
        names,
        f"({select([*names, ranked, summed], 'cells')})",
        [
            f'"of cell" <= {demands.cells_per_identity or _UNBOUNDED}',
            f'"up to" <= {demands.rows_per_identity or _UNBOUNDED}',
        ],
    )
    with locked({"cells": cells}, limits) as connection:
        return connection.sql(query).to_arrow_table().cast(cells.schema)


# --- who stands behind a figure


def valued(side: Side, demands: Obligations) -> list[str]:
    """For each figure the rows that it is computed from, where a minimum holds for who is behind them.

    A column that is NULL nearly everywhere shows one identity's value in a cell of many.
    """
    if demands.identity is None or demands.noise is not None:
        return []
    # Over a federation another's minimum may be of totals, to which we add: the plan marks its figures.
    if demands.minimum_identities == 1 and not any(p.counts_values for p in side.partials):
        return []
    return sorted({condition for p in side.partials if (condition := _with_value(p))})


def counted(demands: Obligations, conditions: Sequence[str]) -> str:
    """How many identities a gate counts in a cell: with conditions, of that with the fewest."""
    if demands.identity is None:
        return "count(*)"
    everybody = f"count(DISTINCT {quoted(demands.identity)})"
    counts = [f"{everybody} FILTER (WHERE {condition})" for condition in conditions]
    return f"least({', '.join([everybody, *counts])})" if counts else everybody


def _with_value(partial: Partial) -> str:
    """The rows that a figure is computed from; "" where all of them are, or another figure says which."""
    if partial.function == ANY:  # of a scale's positions the first says who has a value
        return f"({partial.sql}) IS NOT NULL" if partial.counts_values else ""
    if partial.counts_values:
        return f"({partial.sql}) <> 0"
    return f"({partial.sql}) IS NOT NULL" if partial.function != "sum" else ""


def shared(query: str, rows: str, where: Sequence[str], side: Side, demands: Obligations) -> str:
    """`query` with, beside each cell, the largest part of one identity in each figure, and the whole."""
    assert demands.identity is not None
    summed = _summed(side)
    dimensions = [d.sql for d in side.dimensions]
    named = [f"{sql} AS x{i}" for i, sql in enumerate(dimensions)]
    parts = [f"sum(abs({_exactly(p)})) AS s{i}" for i, p in enumerate(summed)]
    groups = ", ".join(str(i + 1) for i in range(len(dimensions) + 1))
    each = select([*named, f"{quoted(demands.identity)} AS who", *parts], rows, where, f"GROUP BY {groups}")
    keys = [f"x{i}" for i in range(len(dimensions))]
    figures = [f"max(s{i}) AS most{i}, sum(s{i}) AS whole{i}" for i in range(len(summed))]
    cells = select(
        [*keys, *figures, "1 AS one"], f"({each})", tail=f"GROUP BY {', '.join(keys)}" if keys else ""
    )
    same = " AND ".join(f"c.{key} IS NOT DISTINCT FROM o.{key}" for key in keys) or "TRUE"
    columns = ["c.*", *(f"o.{name}" for name in shares(side))]
    return select(columns, f"({query}) AS c JOIN ({cells}) AS o ON {same}")


def shares(side: Side) -> list[str]:
    """The columns that `shared` adds: of each figure the largest part and the whole."""
    return [f"{name}{i}" for i in range(len(_summed(side))) for name in ("most", "whole")]


def _summed(side: Side) -> list[Partial]:
    """The figures of which an identity holds a share."""
    return [p for p in side.partials if p.function.startswith(SUMMED)]


def _exactly(partial: Partial) -> str:
    return f"CAST({partial.sql} AS HUGEINT)" if partial.type == "integer" else partial.sql


def dominated(figures: pa.Table, share: Fraction) -> NDArray[np.bool_]:
    """The cells in which one identity holds more than that share of a figure. Columns: most0, whole0, ..."""
    found = np.zeros(len(figures), np.bool_)
    for i in range(figures.num_columns // 2):
        most, whole = figures[f"most{i}"].to_pylist(), figures[f"whole{i}"].to_pylist()
        found |= np.array([_over(m, w, share) for m, w in zip(most, whole, strict=True)], np.bool_)
    return found


def _over(most: Decimal | float | None, whole: Decimal | float, share: Fraction) -> bool:
    """Whether the largest part exceeds the share; of a float that is no number, nobody can tell: it does."""
    if most is None:
        return False
    return not (isfinite(most) and isfinite(whole)) or Fraction(most) > share * Fraction(whole)


# --- declared labels


def grid(dimensions: Sequence[Dimension]) -> pa.Table:
    """Every combination of the declared labels, one row each; columns are named as the dimensions."""
    lists = [labels(dimension) for dimension in dimensions]
    places = np.indices([len(found) for found in lists]).reshape(len(lists), -1)
    columns = [found.take(pa.array(at)) for found, at in zip(lists, places, strict=True)]
    return pa.table(columns, names=[d.name for d in dimensions])


def inside(dimensions: Sequence[Dimension]) -> list[str]:
    """Conditions that keep the rows of declared labels."""
    return [f"{d.sql} IN ({select([d.name], 'labels')})" for d in dimensions]


def on_grid(query: str, side: Side, more: Sequence[str], *, conditions: bool) -> str:
    """The cells of `query` on every combination of `labels`, empty ones too: zeros, and nothing `missing`.

    `more`: further columns of `query`, NULL in empty cells.
    """
    names = [d.name for d in side.dimensions]
    zeros = [f"coalesce(c.{name}, 0) AS {name}" for name in ("identities", *(p.name for p in side.partials))]
    same = " AND ".join(f"c.x{i} = g.{name}" for i, name in enumerate(names))
    columns = [*(f"g.{name} AS {name}" for name in names), *zeros, 'coalesce(c."rows", 0) AS "rows"']
    columns += [f"c.{name}" for name in more]
    if conditions:
        columns.append("coalesce(c.missing, FALSE) AS missing")
    return select(columns, f"labels AS g LEFT JOIN ({query}) AS c ON {same}")
