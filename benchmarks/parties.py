"""Two real connectors and a witness over the same tables, sized to order, for the joint benchmarks."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Result, cpu_of, median, peak_of, reset_peak
from connector.api import Answer
from connector.loopback import Loopback

OWNER, ASKER, PURPOSE = "owner", "asker", "benchmark"
VALUE_BOUND = 10**6
OFFERS = ("cardinality", "receiver", "rows")
"""The owner's offers over its one table: one for each disclosure level there is a protocol for."""

_POLICY = """\
policy: benchmark-{level}
dataset: owner.{offer}
assignee: [asker]
purpose: [benchmark]
uses: {{count: 1000000}}
analysis:
  kinds: [{kinds}]
  join: {{columns: [id], disclosure: {level}, operators: [and]}}
  dimensions: [label]
  payload: [{payload}]
  filters: {{a: range}}
  measures: {{"*": [count], a: [sum, avg, count], b: [sum, avg, count]}}
  identity: id
  minimum_identities: 1
duties: [{{log: witness, minimum_witnesses: 1}}]
"""
_OWN = """\
policy: benchmark-own
dataset: asker.own
assignee: [asker]
purpose: [benchmark]
uses: {count: 1000000}
analysis:
  kinds: [aggregate, list]
  join: {columns: [id], disclosure: rows, operators: [and]}
  dimensions: [label]
  payload: [label]
  identity: id
  minimum_identities: 1
"""
_OWNERS = """\
title: {{en: benchmark}}
source: {{kind: parquet, path: ../data/theirs.parquet}}
rights: {{holder: owner}}
size: {{rows: {rows}, keys: {rows}}}
columns:
  id: {{type: string, key: [], unique: true}}
  label: {{type: int64}}
  a: {{type: int64, bounds: [-{bound}, {bound}]}}
  b: {{type: int64, bounds: [-{bound}, {bound}]}}
offers: {{cardinality: cardinality.yaml, receiver: receiver.yaml, rows: rows.yaml}}
"""
_ASKERS = """\
title: {{en: benchmark}}
source: {{kind: parquet, path: ../data/mine.parquet}}
rights: {{holder: asker}}
size: {{rows: {rows}, keys: {rows}}}
columns:
  id: {{type: string, key: [], unique: true}}
  label: {{type: int64}}
offers: {{own: own.yaml}}
"""


def keys(first: int, count: int) -> pa.Array:
    """Random-looking 16-byte strings: 16 hexadecimal digits of consecutive numbers, mixed one to one."""
    mixed = np.arange(first, first + count, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # SplitMix64's
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    nibbles = (mixed[:, None] >> np.arange(60, -4, -4, dtype=np.uint64)) & np.uint64(15)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles.astype(np.uint8)]
    offsets = np.arange(count + 1, dtype=np.int32) * 16
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits))


def tables(rows: int, overlap: float, groups: int) -> tuple[pa.Table, pa.Table]:
    """The owner's and the asker's tables: `rows` distinct keys a side, `overlap` of them shared, shuffled."""
    rng = np.random.default_rng(7)
    first = rows - round(rows * overlap)
    theirs = pa.table(
        {
            "id": keys(0, rows),
            "label": rng.integers(0, groups, rows),
            "a": rng.integers(-VALUE_BOUND, VALUE_BOUND, rows),
            "b": rng.integers(-VALUE_BOUND, VALUE_BOUND, rows),
        }
    )
    mine = pa.table({"id": keys(first, rows), "label": rng.integers(0, groups, rows)})
    return theirs.take(pa.array(rng.permutation(rows))), mine.take(pa.array(rng.permutation(rows)))


def _policy(level: str) -> str:
    kinds, payload = ("aggregate, list", "a, b") if level == "rows" else ("aggregate", "")
    return _POLICY.format(level=level, offer=level, kinds=kinds, payload=payload)


@contextmanager
def parties(rows: int, overlap: float, groups: int) -> Iterator[Loopback]:
    """A running data space over fresh tables of this size, with both offers agreed."""
    with tempfile.TemporaryDirectory(prefix="bayspace-benchmark-") as folder:
        root = Path(folder)
        space = Loopback(root / "space", "benchmark", {OWNER: "CN-SZ", ASKER: "HK"})
        theirs, mine = tables(rows, overlap, groups)
        pq.write_table(theirs, root / "theirs.parquet")
        pq.write_table(mine, root / "mine.parquet")
        offers = {f"{level}.yaml": _policy(level) for level in OFFERS}
        owners = _OWNERS.format(rows=rows, bound=VALUE_BOUND)
        space.publish(OWNER, "theirs", root / "theirs.parquet", owners, offers)
        space.publish(ASKER, "mine", root / "mine.parquet", _ASKERS.format(rows=rows), {"own.yaml": _OWN})
        with space.running():
            for offer in OFFERS:
                space.agree(ASKER, OWNER, offer)
            yield space


def ask(space: Loopback, name: str, rows: int, sql: str, runs: int) -> Result:
    """The median of `runs` queries through the asker's connector, with the plaintext floor beside it."""
    results = []
    for run in range(runs):
        answer, _, found = metered(space, name, rows, sql, run)
        plain, spans = floor(space, sql), stages(space, answer.trace_id)
        figures = {"cells": answer.table.num_rows}
        results.append(replace(found, floor_seconds=plain, stages=spans, figures=figures))
    return median(results)


def metered(
    space: Loopback, name: str, rows: int, sql: str, run: int, protocol: str = ""
) -> tuple[Answer, dict[str, float], Result]:
    """One query through the asker's connector: its answer, each process's CPU seconds, and what it took.

    What was answered is not computed again: each run asks anew, and under another name, since over its
    data alone an owner gives the answer that it gave.
    """
    members = {name: process.pid for name, process in space.processes.items()}
    for pid in members.values():
        reset_peak(pid)
    before = {name: cpu_of(pid) for name, pid in members.items()}
    with space.connect(ASKER) as client:
        start = time.perf_counter()
        asked = sql.replace("count(*) AS n", f"count(*) AS n{run}")
        answer = client.query(asked, PURPOSE, again=True, protocol=protocol)
        seconds = time.perf_counter() - start
    if answer.summary["bytes_received"] == 0 or answer.summary["answered_at"] is not None:
        raise AssertionError("this answer was had before")
    used = {name: cpu_of(pid) - before[name] for name, pid in members.items()}
    result = Result(
        name=name,
        rows=rows,
        protocol=answer.summary["protocol"],
        seconds=seconds,
        cpu_seconds=sum(used.values()),
        bytes_sent=answer.summary["bytes_sent"],
        bytes_received=answer.summary["bytes_received"],
        peak_rss_mb=max(peak_of(pid) for pid in members.values()),
    )
    return answer, used, result


def floor(space: Loopback, sql: str) -> float:
    """The same SQL in DuckDB over both files in memory, two threads: nothing can be faster."""
    with duckdb.connect(config={"threads": 2}) as connection:
        views = [(f"owner.{offer}", OWNER, "theirs") for offer in OFFERS]
        for view, participant, file in (*views, ("asker.own", ASKER, "mine")):
            path = space.settings(participant).folder / "data" / f"{file}.parquet"
            sql = sql.replace(view, file)
            connection.sql(f"CREATE TABLE IF NOT EXISTS {file} AS FROM read_parquet('{path}')")
        start = time.perf_counter()
        connection.sql(sql).to_arrow_table()
        return time.perf_counter() - start


def stages(space: Loopback, trace: str) -> dict[str, float]:
    """Seconds of every span of a query, by participant and stage, from the span files of both sides."""
    found: dict[str, float] = {}
    for participant in (ASKER, OWNER):
        path = space.settings(participant).spans_path
        if path is None or not path.exists():
            continue
        for line in path.read_text().splitlines():
            span = json.loads(line)
            if span["trace"] == trace:
                found[f"{participant}: {span['name']}"] = round(span["seconds"], 3)
    return found
