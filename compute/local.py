"""The local part: one side of a plan over the participant's own rows, in DuckDB over Arrow.

`join_input` gives what a joint protocol works on: canonical keys and per-key sums. `aggregate` gives
the cells of a single-domain query. Both refuse data that does not fit what the catalogue declares
(types, number of rows, number of keys): sizes are padded to those bounds, and exactness rests on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from compute import contributions, kernel, masking, members, outer
from compute.dataset import Column, DatasetInfo
from compute.engine import Limits, ParquetFiles, Rows, locked, select
from compute.errors import DataError
from compute.expressions import quoted
from compute.inputs import LocalInput
from compute.keys import canonical_keys
from compute.plan import Logistic, Partial, Side
from compute.types import INT64, Type, engine_reads, instead, parse_type, sum_type, type_of_arrow
from policy_enforcer.obligations import NOTHING_DEMANDED, Obligations

Source: TypeAlias = "pa.Table | pa.dataset.Dataset | ParquetFiles | Callable[[], pa.RecordBatchReader]"
"""A participant's rows: whole in memory, files that Arrow or DuckDB scans, or a fresh stream per call."""

ONE = "CAST(1 AS BIGINT)"
"""How a plan counts rows."""

_ROWS = 'count(*) AS "rows"'

_PASS_ROWS = 1 << 19
_MOST_PASSES = 4
"""Rows to group at a time, and how often they are read for it at most."""

_BATCH = 1 << 17
"""Rows in hand at a time between DuckDB and the keys: more is not faster, and keys are wide."""


def join_input(
    side: Side,
    info: DatasetInfo,
    source: Source,
    limits: Limits,
    demands: Obligations = NOTHING_DEMANDED,
) -> LocalInput:
    """Filter, group by key and dimensions, sum; then canonical keys. Rows without a key are dropped.

    `demands` bounds what one identity contributes, before anything is summed.
    """
    rows = _opened(source)
    keys = [quoted(name) for name in side.keys]
    selected = [*keys, *(d.sql for d in side.dimensions)]
    alone = _unique(side, info)  # no key in two rows: nothing to add up, no hash table of all keys
    figures = [f"CAST(coalesce({_value(p, alone)}, 0) AS BIGINT) AS {p.name}" for p in side.partials]
    columns = [*_named(selected), *figures, 'CAST(1 AS BIGINT) AS "rows"' if alone else _ROWS]
    limited = contributions.limited(demands) and contributions.repeated(info, demands)
    passes = 1 if alone or limited or isinstance(rows, pa.RecordBatchReader) else _passes(side)
    present = [] if side.kept or side.totals else [f"{key} IS NOT NULL" for key in keys]
    view, where = _view(info, rows.schema, demands), [*side.filters, *present]
    if limited:
        view, where = contributions.bounded(view, where, side, _holding(info, demands), demands), []
    queries = [
        select(
            columns,
            view,
            [*where, *_part(keys, number, passes)],
            "" if alone else _group_by(len(selected)),
        )
        for number in range(passes)
    ]
    with locked({"source": rows}, limits) as connection:
        readers = (connection.sql(query).to_arrow_reader(_BATCH) for query in queries)
        rows = _scanned(side, info, readers)
    made = _input(side, info, rows, limits, demands)
    if side.optional:
        made = replace(made, absent=outer.absent_label(side, info, limits))
    pa.default_memory_pool().release_unused()  # else Arrow keeps what reading took for the whole query
    return made


def row_input(
    side: Side,
    info: DatasetInfo,
    source: Source,
    limits: Limits,
    demands: Obligations = NOTHING_DEMANDED,
) -> LocalInput:
    """Filter; canonical keys and what each row shows in a list query. Rows without a key are dropped."""
    rows, keys = _opened(source), [quoted(name) for name in side.keys]
    columns = _named([*keys, *(d.sql for d in side.dimensions)])
    where = [*side.filters, *(f"{key} IS NOT NULL" for key in keys)]
    schema = pa.schema([(d.name, parse_type(d.type).arrow) for d in side.dimensions])
    found: list[pa.LargeBinaryArray] = []
    shown: list[pa.RecordBatch] = []
    with locked({"source": rows}, limits) as connection:
        for batch in connection.sql(
            select(columns, _view(info, rows.schema, demands), where)
        ).to_arrow_reader(_BATCH):
            key, rest = _keys(side, info, batch), batch.select(batch.schema.names[len(keys) :])
            found.append(key.drop_null())
            shown.append(rest.filter(key.is_valid()) if key.null_count else rest)
            if sum(map(len, found)) > side.rows_bound:
                raise _too_many_rows(side)
            pa.default_memory_pool().release_unused()  # what reading the files took
    labels = schema.empty_table()
    if shown:
        # The copy lets go of DuckDB's batches, which hold the raw keys as well.
        labels = pa.Table.from_batches(shown).rename_columns(schema.names).cast(schema).combine_chunks()
        shown.clear()
    made = _listed(side, found, labels)
    found.clear()
    pa.default_memory_pool().release_unused()
    return made


def _listed(side: Side, found: Sequence[pa.LargeBinaryArray], labels: pa.Table) -> LocalInput:
    """Numbered keys and their rows, one group each."""
    keys = pa.concat_arrays([pa.array([], pa.large_binary()), *found])
    distinct, index = (
        _numbered(keys) if _may_hold_twice(keys) else (keys, np.arange(len(keys), dtype=np.int32))
    )
    if len(distinct) > side.keys_bound:
        raise _too_many_keys(side)
    if side.distinct:  # which keys there are is all that counts
        index, labels = np.arange(len(distinct), dtype=np.int32), labels.slice(0, len(distinct))
    return LocalInput(distinct, pa.table({"key": index}), labels, len(index))


def aggregate(
    side: Side, info: DatasetInfo, demands: Obligations, source: Source, limits: Limits
) -> pa.Table:
    """Cells of a single-domain query: d*, `identities` that a gate counts (rows without any), m*.

    Where one identity dominates a cell, nobody counts. Under noise every declared cell is there.
    """
    conditions = contributions.valued(side, demands)
    table = _grouped(side, info, demands, source, limits, conditions)
    if conditions and pc.any(table["missing"]).as_py():
        # Counting distinct identities once more for each figure costs as much as the query itself.
        table = _grouped(side, info, demands, source, limits, conditions, each=True)
    if demands.dominance is not None:
        table = _undominated(table, demands.dominance)
    schema = aggregate_schema(side)
    return table.select(range(len(schema))).rename_columns(schema.names).cast(schema)


def _grouped(
    side: Side,
    info: DatasetInfo,
    demands: Obligations,
    source: Source,
    limits: Limits,
    conditions: Sequence[str],
    *,
    each: bool = False,
) -> pa.Table:
    """The cells. `identities` are all, and `missing` says where a row does not meet `conditions`; with
    `each`, they are those with rows that do, for the condition with the fewest."""
    rows, view_of = _opened(source), _holding(info, demands)
    tables: dict[str, Rows] = {"source": rows}
    view, where = _view(info, rows.schema, demands), list(side.filters)
    declared = [d for d in side.dimensions if d.domain]
    if declared:
        tables["labels"] = contributions.grid(declared)
        where += contributions.inside(declared)
    if contributions.limited(demands):
        view, where = contributions.bounded(view, where, side, view_of, demands), []
    dimensions = [d.sql for d in side.dimensions]
    figures = [
        f"{contributions.counted(demands, conditions if each else ())} AS identities",
        *(f"{_figure(p)} AS {p.name}" for p in side.partials),
    ]
    missing = [f"NOT bool_and({' AND '.join(conditions)}) AS missing"] if conditions else []
    groups = prod(len(d.domain) for d in side.dimensions) or limits.maximum_groups  # where all are declared
    most = f"{_group_by(len(dimensions))} LIMIT {groups + 1}"
    query = select([*_named(dimensions), *figures, _ROWS, *missing], view, where, most)
    if demands.dominance is not None:
        query = contributions.shared(query, view, where, side, demands)
    if declared:
        shares = contributions.shares(side) if demands.dominance is not None else []
        query = contributions.on_grid(query, side, shares, conditions=bool(conditions))
    with locked(tables, limits) as connection:
        table = connection.sql(query).to_arrow_table()
    if table.num_rows > groups:
        raise DataError(
            "data.too-many-groups",
            f"the answer has more than {groups} groups; group more coarsely",
        )
    _check_rows(table["rows"], side)
    return table


def _undominated(table: pa.Table, share: Fraction) -> pa.Table:
    """Nobody counts in a cell that one identity dominates, so that no gate releases it."""
    figures = table.select([name for name in table.schema.names if name.startswith(("most", "whole"))])
    held = pa.array(contributions.dominated(figures, share))
    place = table.schema.get_field_index("identities")
    return table.set_column(place, "identities", pc.if_else(held, 0, table["identities"]))


def membership(
    side: Side, info: DatasetInfo, demands: Obligations, source: Source, limits: Limits, key: bytes
) -> members.Membership:
    """Who stands behind each cell of a single-domain query; of a joint one, who could before the join.

    INVARIANT: no demand bounds contributions, so every row that meets the filters is in its cell.
    """
    rows = _opened(source)
    assert demands.identity is not None
    assert not contributions.limited(demands)
    _holding(info, demands)
    declared = f"({select([_declared(info, column, rows.schema) for column in info.columns], 'source')})"
    shown = [_shown(column, demands) for column in info.columns]
    view, row, who = members.marked(declared, info, shown, demands.identity, key)
    present = [] if side.kept else [f"{quoted(name)} IS NOT NULL" for name in side.keys]
    where = [*side.filters, *present]
    columns = _named([*(d.sql for d in side.dimensions), row, who])
    with locked({"source": rows}, limits) as connection:
        query = select(columns, view, where, _group_by(len(columns)))
        found = connection.sql(query).to_arrow_table().combine_chunks()
    count = len(side.dimensions)
    numbered = [_numbered(found.column(i).combine_chunks()) for i in range(count)]
    labels, cell = _groups(side, numbered, found.num_rows)
    names = [found.column(count + i).to_numpy().astype(np.uint64) for i in range(2)]
    return members.Membership(labels, cell, names[0], names[1])


def observations(
    side: Side, logistic: Logistic, info: DatasetInfo, demands: Obligations, source: Source, limits: Limits
) -> pa.Table:
    """The rows that a logistic regression is over: `who` (a number for an identity), y, x1, x2, …"""
    rows, view_of = _opened(source), _holding(info, demands)
    named = [("y", logistic.outcome), *((f"x{i}", r.sql) for i, r in enumerate(logistic.regressors, 1))]
    view = _view(info, rows.schema, demands)
    where = [*side.filters, *(f"({sql}) IS NOT NULL" for _, sql in named)]
    if contributions.limited(demands):
        view, where = contributions.bounded(view, where, side, view_of, demands), []
    who = "row_number() OVER ()"  # without an identity to count, each row counts
    if demands.identity is not None:
        identity = quoted(demands.identity)
        who = f"CASE WHEN {identity} IS NOT NULL THEN hash({identity}) END"
    columns = [f"CAST({who} AS UBIGINT) AS who", *(f"CAST({sql} AS BIGINT) AS {name}" for name, sql in named)]
    with locked({"source": rows}, limits) as connection:
        table = connection.sql(select(columns, view, where)).to_arrow_table()
    if table.num_rows > side.rows_bound:
        raise _too_many_rows(side)
    return table


def aggregate_schema(side: Side) -> pa.Schema:
    """The columns that `aggregate` answers."""
    dimensions = [(d.name, parse_type(d.type).arrow) for d in side.dimensions]
    sums = [(p.name, sum_type(p.type)) for p in side.partials]
    return pa.schema([*dimensions, ("identities", pa.int64()), *sums])


# --- SQL over one source


def _unique(side: Side, info: DatasetInfo) -> bool:
    """Does a key column hold no value twice, as declared? It is checked again when keys are numbered."""
    return any(column.unique for column in info.columns if column.name in side.keys)


def _passes(side: Side) -> int:
    """In how many passes to group: DuckDB's table of one pass is what is held beside the result."""
    return min(_MOST_PASSES, -(-side.rows_bound // _PASS_ROWS))


def _part(keys: Sequence[str], number: int, passes: int) -> list[str]:
    """The keys of one pass. DuckDB lays its table out by the hash's other bits: these fill it evenly."""
    return [f"(hash({', '.join(keys)}) >> 32) % {passes} = {number}"] if passes > 1 else []


def _value(partial: Partial, alone: bool) -> str:
    return partial.sql if alone else _aggregate(partial)


def _opened(source: Source) -> Rows:
    return source() if callable(source) else source


def _view(info: DatasetInfo, schema: pa.Schema, demands: Obligations) -> str:
    """The source with exactly the declared columns in their declared types, masked as demanded.

    INVARIANT: nothing that a query brings is computed below this: it cannot name what a mask hides.
    """
    view = f"({select([_declared(info, column, schema) for column in info.columns], 'source')})"
    if not demands.masking:
        return view
    return f"({select([_shown(column, demands) for column in info.columns], view)})"


def _shown(column: Column, demands: Obligations) -> str:
    mask, name = demands.masking.get(column.name), quoted(column.name)
    return name if mask is None else f"{masking.expression(column, mask, demands.mask_salt)} AS {name}"


def _declared(info: DatasetInfo, column: Column, schema: pa.Schema) -> str:
    kind = parse_type(column.type)
    if schema.get_field_index(column.name) < 0:
        raise DataError(
            "data.column-missing", f"{info.full_name} has no column {column.name}, or has it twice"
        )
    data = schema.field(column.name).type
    actual = type_of_arrow(data)
    if actual is None or not _widens(actual, kind):
        raise DataError(
            "data.type", f"{info.full_name}.{column.name} is not of its declared type {column.type}"
        )
    if not engine_reads(data):
        raise DataError(
            "data.type",
            f"{info.full_name}.{column.name} is {data}, not read exactly; cast it to {instead(data)}",
        )
    name = quoted(column.name)
    return name if data == kind.arrow else f"CAST({name} AS {kind.duckdb}) AS {name}"


def _widens(actual: Type, declared: Type) -> bool:
    """Does every value of one type have an exact equal in the other?"""
    if actual == declared:
        return True
    if declared.kind != "decimal" or actual.kind not in ("decimal", "int64"):
        return False
    whole, scale = (19, 0) if actual == INT64 else (actual.precision - actual.scale, actual.scale)
    return declared.scale >= scale and declared.precision - declared.scale >= whole


def _holding(info: DatasetInfo, demands: Obligations) -> DatasetInfo:
    """The description, when it has the identity that the demands are about."""
    if demands.identity is not None and info.column(demands.identity) is None:
        raise DataError("data.column-missing", f"{info.full_name} declares no column {demands.identity}")
    return info


def _named(expressions: Sequence[str]) -> list[str]:
    """Output names by position; grouping goes by ordinal, so a column of the same name cannot interfere."""
    return [f"{sql} AS x{i}" for i, sql in enumerate(expressions)]


def _group_by(count: int) -> str:
    return f"GROUP BY {', '.join(str(i + 1) for i in range(count))}" if count else ""


def _aggregate(partial: Partial) -> str:
    if partial.sql == ONE:
        return "count(*)"
    if partial.function == "count_distinct":
        return f"count(DISTINCT {partial.sql})"
    return f"{partial.function}({partial.sql})"


def _figure(partial: Partial) -> str:
    """Sums of integers are 0 where there is nothing to sum; other aggregates are NULL."""
    return f"coalesce({_aggregate(partial)}, 0)" if partial.type == "integer" else _aggregate(partial)


# --- keys and groups


class _Rows:
    """The rows that have a key: canonical keys, the codes of each dimension, and figures.

    Each column grows in one buffer of its own. What Arrow takes over from DuckDB is a whole batch, kept as
    long as one column of it is: raw keys and raw labels would stay beside their canonical form.
    """

    def __init__(self, side: Side) -> None:
        self._keys, self._ends = bytearray(), bytearray(8)
        self._figures = {name: bytearray() for name in (*(p.name for p in side.partials), "rows")}
        self._kinds = [parse_type(d.type).arrow for d in side.dimensions]
        self._labels: list[list[pa.DictionaryArray]] = [[] for _ in self._kinds]

    def add(self, keys: pa.LargeBinaryArray, batch: pa.RecordBatch) -> None:
        """More rows: their keys, and a batch of dimensions and figures in the plan's order. No NULL keys."""
        ends = np.frombuffer(keys.buffers()[1], np.int64)[keys.offset : keys.offset + len(keys) + 1]
        base = len(self._keys) - int(ends[0])
        self._keys += memoryview(keys.buffers()[2] or b"")[int(ends[0]) : int(ends[-1])]
        self._ends += (ends[1:] + base).tobytes()
        for chunks, kind, column in zip(self._labels, self._kinds, batch.columns, strict=False):
            chunks.append(column.cast(kind).dictionary_encode())
        for figures, column in zip(self._figures.values(), batch.columns[len(self._kinds) :], strict=True):
            figures += column.to_numpy().tobytes()

    def keys(self) -> pa.LargeBinaryArray:
        """All keys, in one array over the buffers that grew."""
        buffers = [None, pa.py_buffer(self._ends), pa.py_buffer(self._keys)]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self._ends) // 8 - 1, buffers)

    def figures(self) -> dict[str, pa.Array]:
        """All figures, 64-bit integers without NULLs."""
        return {
            name: pa.Array.from_buffers(pa.int64(), len(values) // 8, [None, pa.py_buffer(values)])
            for name, values in self._figures.items()
        }

    def labels(self) -> list[tuple[pa.Array, NDArray[np.int32]]]:
        """Per dimension its distinct values (NULL is one) and, per row, the number of its value."""
        return [_unified(chunks, kind) for chunks, kind in zip(self._labels, self._kinds, strict=True)]


def _unified(chunks: Sequence[pa.DictionaryArray], kind: pa.DataType) -> tuple[pa.Array, NDArray[np.int32]]:
    column = pa.chunked_array(chunks, pa.dictionary(pa.int32(), kind)).unify_dictionaries()
    if not column.num_chunks:
        return pa.array([], kind), np.empty(0, np.int32)
    values = column.chunk(0).dictionary
    codes = [chunk.indices.fill_null(len(values)).to_numpy() for chunk in column.chunks]
    if column.null_count:
        values = pa.concat_arrays([values, pa.nulls(1, kind)])
    return values, np.concatenate(codes)


def _scanned(side: Side, info: DatasetInfo, readers: Iterable[pa.RecordBatchReader]) -> _Rows:
    """Canonical keys and the other columns of the rows that have a key; raw keys go as they come."""
    rows, total = _Rows(side), 0
    for reader in readers:
        others = reader.schema.names[len(side.keys) :]
        for batch in reader:
            total += pc.sum(batch["rows"]).as_py() or 0
            if total > side.rows_bound:
                raise _too_many_rows(side)
            key, other = _keys(side, info, batch), batch.select(others)
            if key.null_count and (side.kept or side.totals):
                key = key.fill_null(outer.NO_KEY)
            elif key.null_count:
                key, other = key.drop_null(), other.filter(key.is_valid())
            rows.add(key, other)
            pa.default_memory_pool().release_unused()  # what reading the files took, beside DuckDB's table
    return rows


def _input(side: Side, info: DatasetInfo, rows: _Rows, limits: Limits, demands: Obligations) -> LocalInput:
    keys = rows.keys()
    # Of several key columns each may be NULL in its own rows: all these rows share one missing key.
    without = (side.kept or side.totals) and len(side.keys) > 1
    repeats = (bool(side.dimensions) or _may_repeat(side, info) or without) and _may_hold_twice(keys)
    distinct, index = _numbered(keys) if repeats else (keys, np.arange(len(keys), dtype=np.int32))
    if side.kept or side.totals:
        distinct, index = outer.set_apart(distinct, index)
    if len(distinct) > side.keys_bound - side.kept:
        raise _too_many_keys(side)
    labels, group = _groups(side, rows.labels(), len(keys))
    cells = pa.table({"key": index, "group": group, **rows.figures()})
    if len(distinct) < len(cells) and contributions.limited(demands):
        cells = contributions.bounded_keys(cells, demands, limits)
    if len(distinct) < len(cells) and (_may_repeat(side, info) or side.kept or side.totals):
        cells = _merged(cells, [p.name for p in side.partials], limits)
    whole = LocalInput(distinct, cells, labels, len(labels) if side.dimensions else 1)
    if side.totals:
        whole = outer.with_totals(whole)
        cells = whole.cells
    if side.distinct:
        place = cells.schema.get_field_index("rows")
        cells = cells.set_column(place, "rows", pa.array(np.ones(len(cells), np.int64)))
    return replace(whole, cells=cells)


def _check_rows(rows: pa.ChunkedArray, side: Side) -> None:
    if (pc.sum(rows).as_py() or 0) > side.rows_bound:
        raise _too_many_rows(side)


def _too_many_rows(side: Side) -> DataError:
    return DataError("data.too-many-rows", f"{side.dataset} has more rows than its catalogue declares")


def _too_many_keys(side: Side) -> DataError:
    return DataError(
        "data.too-many-keys", f"{side.dataset} has more distinct keys than its catalogue declares"
    )


def _may_repeat(side: Side, info: DatasetInfo) -> bool:
    """Can two rows have the same key and group: values that became one key, or a false `unique`?"""
    return _unique(side, info) or any(info_column.key for info_column in _key_columns(side, info))


def _key_columns(side: Side, info: DatasetInfo) -> list[Column]:
    found = [info.column(name) for name in side.keys]
    return [column for column in found if column is not None]


def _keys(side: Side, info: DatasetInfo, batch: pa.RecordBatch) -> pa.LargeBinaryArray:
    """The canonical key of each row."""
    columns = _key_columns(side, info)
    values = [batch.column(i) for i in range(len(side.keys))]
    types = [parse_type(column.type) for column in columns]
    return canonical_keys(values, [column.key or () for column in columns], types)


def _numbered(values: pa.Array) -> tuple[pa.Array, NDArray[np.int32]]:
    """Distinct values (NULL counts as one) and, per row, the number of its value."""
    encoded = values.dictionary_encode(null_encoding="encode")
    return encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)


_HEADER = 5
"""Bytes of a key's first tag and length (`compute/keys.py`): the same in all keys of one length."""


def _may_hold_twice(keys: pa.LargeBinaryArray) -> bool:
    """Whether keys of one length, as most are, repeat: by sorting, in a tenth of what a hash table takes.

    True when it cannot tell; numbering finds out.
    """
    ends = np.frombuffer(keys.buffers()[1], np.int64)[keys.offset : keys.offset + len(keys) + 1]
    width = int(ends[1] - ends[0]) if len(keys) else 0
    if width <= _HEADER or np.any(np.diff(ends) != width):
        return len(keys) > 1
    rows = np.frombuffer(keys.buffers()[2], np.uint8)[ends[0] : ends[-1]].reshape(-1, width)
    values = pa.py_buffer(np.ascontiguousarray(rows[:, _HEADER:]))
    kind = pa.binary(width - _HEADER)
    return kernel.has_duplicates(pa.FixedSizeBinaryArray.from_buffers(kind, len(keys), [None, values]))


def _groups(
    side: Side, dimensions: Sequence[tuple[pa.Array, NDArray[np.int32]]], rows: int
) -> tuple[pa.Table, NDArray[np.int32]]:
    """Labels in ascending order of their values, and the group of each row.

    The order is that of the labels themselves: first appearance would say something about the rows.
    """
    if not dimensions:
        return pa.table({"none": [0]}).select([]), np.zeros(rows, np.int32)
    group, taken = dimensions[0][1], [np.arange(len(dimensions[0][0]))]
    for values, codes in dimensions[1:]:
        # Renumbering after each dimension keeps the product below rows x distinct values.
        present, group = _renumbered(group.astype(np.int64) * max(1, len(values)) + codes)
        taken = [*(codes[present // max(1, len(values))] for codes in taken), present % max(1, len(values))]
    names = [d.name for d in side.dimensions]
    columns = [values.take(pa.array(codes)) for (values, _), codes in zip(dimensions, taken, strict=True)]
    labels = pa.table(columns, names=names)
    order = pc.sort_indices(labels, sort_keys=[(name, "ascending") for name in names]).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return labels.take(pa.array(order)), rank[group]


def _renumbered(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The codes that occur, ascending, and per row the place of its code among them."""
    largest = int(codes.max(initial=0))
    if largest > _TABLE:
        present, places = np.unique(codes, return_inverse=True)
        return present, places.reshape(-1).astype(np.int32)
    occurs = np.zeros(largest + 1, np.bool_)
    occurs[codes] = True
    return np.flatnonzero(occurs), (np.cumsum(occurs, dtype=np.int32) - 1)[codes]


_TABLE = 1 << 22
"""Largest code for which a table is made; beyond it, codes are sorted."""


def _merged(cells: pa.Table, sums: Sequence[str], limits: Limits) -> pa.Table:
    """One row per key and group, after normalisers made several values one key."""
    added = [f"CAST(sum({name}) AS BIGINT) AS {name}" for name in (*sums, '"rows"')]
    with locked({"cells": cells}, limits) as connection:
        query = select(['"key"', '"group"', *added], "cells", tail=_group_by(2))
        return connection.sql(query).to_arrow_table()
