"""Federated sums between real connectors: a process each, mutual TLS, policy, ledger, evidence, a witness."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from math import isqrt
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Result, median
from benchmarks.parties import ASKER, metered
from connector.loopback import WITNESS, Loopback

ROWS_PER_CELL, BOUND = 3, 10**4
SQL = "SELECT a, b, count(*) AS n, sum(v) AS s FROM federation.sums GROUP BY a, b"

_POLICY = """\
policy: benchmark-{bank}
dataset: {bank}.sums
assignee: [asker]
purpose: [benchmark]
uses: {{count: 1000000}}
analysis:
  kinds: [aggregate]
  dimensions: [a, b]
  domains: {{a: {a}, b: {b}}}
  measures: {{"*": [count], v: [sum]}}
  identity: who
  minimum_identities: 1
  federation: {{name: sums, scope: total, minimum_participants: 2}}
duties: [{{log: witness, minimum_witnesses: 1}}]
"""
_DESCRIPTION = """\
title: {{en: benchmark}}
source: {{kind: parquet, path: ../data/{bank}.parquet}}
rights: {{holder: {bank}}}
columns:
  who: {{type: int64}}
  a: {{type: int64, bounds: [0, {a}]}}
  b: {{type: int64, bounds: [0, {b}]}}
  v: {{type: int64, bounds: [-{bound}, {bound}]}}
offers: {{sums: sums.yaml}}
"""


def federation(options: argparse.Namespace) -> Result:
    """One question over `--parties` participants and `--rows` cells, by `--protocol`; the first warms up."""
    cells, protocol = options.rows or 10_000, options.protocol or "masked_sum"
    with _running(options.parties, cells) as (space, floor):
        _asked(space, cells, protocol, floor, 0)
        return median(_asked(space, cells, protocol, floor, run) for run in range(1, options.runs + 1))


def _asked(space: Loopback, cells: int, protocol: str, floor: float, run: int) -> Result:
    answer, used, found = metered(space, "federation", cells, SQL, run, protocol)
    if answer.table.num_rows != cells:
        raise AssertionError("the federated answer has not every cell")
    banks = [name for name in used if name not in (ASKER, WITNESS)]
    figures = {
        "parties": len(banks),
        "bytes_per_participant": round((found.bytes_sent + found.bytes_received) / len(banks)),
        "cpu_seconds_per_participant": round(sum(used[name] for name in banks) / len(banks), 3),
        "cpu_seconds_of_the_asker": round(used[ASKER], 3),
    }
    return replace(found, floor_seconds=floor, figures=figures)


@contextmanager
def _running(parties: int, cells: int) -> Iterator[tuple[Loopback, float]]:
    """A federation with every agreement in force, and the same question's time in DuckDB on all rows."""
    banks = [f"bank-{i:02}" for i in range(parties)]
    with tempfile.TemporaryDirectory(prefix="bayspace-federation-") as folder:
        root = Path(folder)
        places = {ASKER: "HK", **dict.fromkeys(banks, "CN-SZ")}
        space = Loopback(root / "space", "benchmark", places, threads=1)
        tables = [_table(seed, *_sides(cells)) for seed in range(parties)]
        for bank, table in zip(banks, tables, strict=True):
            _published(space, root, bank, table, *_sides(cells))
        with space.running():
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(lambda bank: space.agree(ASKER, bank, "sums"), banks))
            yield space, _floor(tables)


def _sides(cells: int) -> tuple[int, int]:
    """How many labels each of two dimensions has: as near to each other as they multiply to the cells."""
    a = max(d for d in range(1, isqrt(cells) + 1) if cells % d == 0)
    return a, cells // a


def _table(seed: int, a: int, b: int) -> pa.Table:
    """Three rows of as many people in every cell."""
    draw, place = np.random.default_rng(seed), np.repeat(np.arange(a * b), ROWS_PER_CELL)
    values = draw.integers(-BOUND, BOUND, len(place))
    return pa.table({"who": np.arange(len(place)), "a": place // b, "b": place % b, "v": values})


def _published(space: Loopback, root: Path, bank: str, table: pa.Table, a: int, b: int) -> None:
    file = root / f"{bank}.parquet"
    pq.write_table(table, file)
    policy = _POLICY.format(bank=bank, a=list(range(a)), b=list(range(b)))
    description = _DESCRIPTION.format(bank=bank, a=a, b=b, bound=BOUND)
    space.publish(bank, "sums", file, description, {"sums.yaml": policy})


def _floor(tables: list[pa.Table]) -> float:
    rows = pa.concat_tables(tables)  # noqa: F841  DuckDB reads it
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.sql("CREATE TABLE pooled AS FROM rows")
        start = time.perf_counter()
        connection.sql(SQL.replace("federation.sums", "pooled")).to_arrow_table()
        return time.perf_counter() - start
