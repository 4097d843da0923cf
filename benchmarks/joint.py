"""Benchmarks between two real connectors (or, in memory, between two bare protocol roles)."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks import parties as tables
from benchmarks.measure import Result, cpu_of_self, median, peak_of_self
from benchmarks.parties import ASKER, OWNER, ask, parties
from compute.engine import Limits
from compute.inputs import Context
from compute.local import join_input
from compute.planner import prepare
from compute.protocols import protocol_named
from compute.protocols.base import run_pair
from connector import datasets
from connector.storage import Store

_JOIN = "FROM owner.{offer} s JOIN asker.own r ON s.id = r.id"
COUNT = "SELECT count(*) AS n " + _JOIN
GROUPED = "SELECT {side}.label, count(*) AS n, sum(s.a) AS a, avg(s.a) AS ma, sum(s.b) AS b, avg(s.b) AS mb "
GROUPED += _JOIN + " GROUP BY {side}.label"
LOCAL = "SELECT label, count(*) AS n, sum(a) AS a, avg(b) AS b FROM owner.receiver WHERE a > 0 GROUP BY label"


def psi(options: argparse.Namespace) -> Result:
    """Counting the intersection at level `receiver`: matching, with the smallest answer there is."""
    return _joint(options, "psi", COUNT.format(offer="receiver"))


def psi_aggregate(options: argparse.Namespace) -> Result:
    """Groups of one side, two measures, level `receiver`."""
    return _joint(options, "psi_aggregate", GROUPED.format(offer="receiver", side=_side(options)))


def private_join_and_compute(options: argparse.Namespace) -> Result:
    """Groups of one side, two measures, level `cardinality`."""
    sql = GROUPED.format(offer="cardinality", side=_side(options))
    return _joint(options, "private_join_and_compute", sql)


def _side(options: argparse.Namespace) -> str:
    return "s" if options.side == "sender" else "r"


def _joint(options: argparse.Namespace, name: str, sql: str) -> Result:
    rows = options.rows or 2**20
    if options.in_memory:
        return _in_memory(options, name, rows, sql)
    with parties(rows, options.overlap, options.groups) as space:
        return ask(space, name, rows, sql, options.runs)


def _in_memory(options: argparse.Namespace, name: str, rows: int, sql: str) -> Result:
    """Both roles in this process: no network, no policy, no evidence."""
    results = []
    with parties(rows, options.overlap, options.groups) as space:
        published = {}
        for participant, offers in ((OWNER, ("receiver", "cardinality")), (ASKER, ("own",))):
            settings = space.settings(participant)
            store = Store.open(settings.state_url)
            for offer in offers:
                published[f"{participant}.{offer}"] = datasets.open_offer(settings, store, offer)
            store.close()
        prepared = prepare(sql, ASKER, {n: p.dataset for n, p in published.items()})
        plan = prepared.plan
        for _ in range(options.runs):
            before, start = cpu_of_self(), time.perf_counter()
            sides = [
                join_input(side, published[side.dataset].dataset, published[side.dataset].source, Limits())
                for side in (plan.receiver, plan.sender)
                if side is not None
            ]
            context = Context(os.urandom(32), plan, os.urandom, lambda *_: None, 1)
            protocol = protocol_named(plan.protocol)
            local = time.perf_counter() - start
            run_pair(
                protocol.receiver(context, sides[0]),
                protocol.sender(context, sides[1], lambda counts: counts >= 1),
            )
            seconds = time.perf_counter() - start
            results.append(
                Result(
                    name=name,
                    rows=rows,
                    protocol=plan.protocol,
                    seconds=seconds,
                    cpu_seconds=cpu_of_self() - before,
                    peak_rss_mb=peak_of_self(),
                    floor_seconds=tables.floor(space, sql),
                    stages={"both local parts": round(local, 3), "protocol": round(seconds - local, 3)},
                )
            )
    return median(results)


def local_aggregate(options: argparse.Namespace) -> Result:
    """A single-domain query through both connectors; the floor is DuckDB on the same Parquet file."""
    rows = options.rows or 10**7
    with parties(rows, options.overlap, options.groups) as space:
        result = ask(space, "local_aggregate", rows, LOCAL, options.runs)
        path = space.settings(OWNER).folder / "data" / "theirs.parquet"
        return Result(**{**vars(result), "floor_seconds": _parquet_floor(path, options.runs)})


def _parquet_floor(path: object, runs: int) -> float:
    import duckdb

    # like the connector, count the identities that the gate needs
    sql = LOCAL.replace("count(*) AS n", "count(*) AS n, count(DISTINCT id) AS ids")
    sql = sql.replace("owner.receiver", f"read_parquet('{path}')")
    walls = []
    for _ in range(runs):
        with duckdb.connect(config={"threads": 2}) as connection:
            start = time.perf_counter()
            connection.sql(sql).fetchall()
            walls.append(time.perf_counter() - start)
    return statistics.median(walls)


def catalogue(options: argparse.Namespace) -> Result:
    """Unary calls to one connector from 64 threads with a channel each. Rows: calls."""
    calls = options.rows or 3200
    with parties(1024, options.overlap, options.groups) as space:
        clients = [space.connect(ASKER) for _ in range(64)]

        def one(number: int) -> float:
            start = time.perf_counter()
            clients[number % 64].catalogue(ASKER)
            return time.perf_counter() - start

        with ThreadPoolExecutor(64) as pool:
            list(pool.map(one, range(128)))  # connections are made before anything is timed
            start = time.perf_counter()
            walls = sorted(pool.map(one, range(calls)))
        seconds = time.perf_counter() - start
        for client in clients:
            client.close()
    percentiles = {"p50_ms": walls[len(walls) // 2] * 1e3, "p99_ms": walls[int(len(walls) * 0.99)] * 1e3}
    figures = {name: round(value, 2) for name, value in percentiles.items()}
    return Result("catalogue", calls, "unary", seconds, 0.0, figures=figures)


def overhead(options: argparse.Namespace) -> Result:
    """What policy and evidence add: the query's span less its local parts and its protocol."""
    rows = options.rows or 2**20
    with parties(rows, options.overlap, options.groups) as space:
        result = ask(space, "overhead", rows, GROUPED.format(offer="receiver", side="r"), options.runs)
    stages = result.stages
    work = stages[f"{OWNER}: protocol"] + stages[f"{OWNER}: local part"] + stages[f"{ASKER}: local part"]
    added = result.seconds - work
    figures = {"added_seconds": round(added, 3), "added_percent": round(100 * added / result.seconds, 2)}
    return Result(**{**vars(result), "figures": figures})
