"""Benchmarks between two real connectors (or, in memory, between two bare protocol roles)."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from benchmarks import parties as tables
from benchmarks import peers
from benchmarks.measure import ROOT, Result, counted, cpu_of, cpu_of_self, median, peak_of, peak_of_self
from benchmarks.parties import ASKER, OWNER, ask, parties
from benchmarks.profiling import kernel_seconds
from compute.engine import Limits
from compute.inputs import Context
from compute.local import join_input, row_input
from compute.planner import prepare
from compute.protocols import protocol_named
from compute.protocols.base import run_pair
from connector import datasets
from connector.loopback import Loopback
from connector.storage import Store

_JOIN = "FROM owner.{offer} s JOIN asker.own r ON s.id = r.id"
COUNT = "SELECT count(*) AS n " + _JOIN
LIST = "SELECT r.id " + _JOIN
LISTED = "SELECT r.id, s.a, s.b " + _JOIN
GROUPED = "SELECT {side}.label, count(*) AS n, sum(s.a) AS a, avg(s.a) AS ma, sum(s.b) AS b, avg(s.b) AS mb "
GROUPED += _JOIN + " GROUP BY {side}.label"
LOCAL = "SELECT label, count(*) AS n, sum(a) AS a, avg(b) AS b FROM owner.receiver WHERE a > 0 GROUP BY label"


def psi(options: argparse.Namespace) -> Result:
    """The intersection: a list of the asker's matching keys, or, by `--protocol psi_count`, their number."""
    summed = COUNT.replace("count(*) AS n", "count(*) AS n, sum(s.a) AS a")
    questions = {
        "psi_count": COUNT.format(offer="cardinality"),
        "psi_aggregate": summed.format(offer="receiver"),  # which learns the matches, and sums
        "private_join_and_compute": summed.format(offer="cardinality"),
    }
    sql = questions.get(options.protocol, LIST.format(offer="rows"))
    return _with_peers(options, _joint(options, "psi", sql))


def psi_list(options: argparse.Namespace) -> Result:
    """The same list with two columns of the owner's for each matching key."""
    return _joint(options, "psi_list", LISTED.format(offer="rows"))


def psi_aggregate(options: argparse.Namespace) -> Result:
    """Groups of one side, two measures, level `receiver`."""
    return _joint(options, "psi_aggregate", _grouped(options, "psi_aggregate"))


def private_join_and_compute(options: argparse.Namespace) -> Result:
    """Groups of one side, two measures, level `cardinality`."""
    return _joint(options, "private_join_and_compute", _grouped(options, "private_join_and_compute"))


LEVELS = {"psi_aggregate": "receiver", "private_join_and_compute": "cardinality"}
"""The disclosure level at which the planner chooses a protocol for groups and sums."""


def _grouped(options: argparse.Namespace, protocol: str) -> str:
    offer = LEVELS.get(options.protocol or protocol)
    if offer is None:
        raise SystemExit(f"groups and sums run under {' or '.join(LEVELS)}, not under {options.protocol}")
    return GROUPED.format(offer=offer, side="s" if options.side == "sender" else "r")


def _with_peers(options: argparse.Namespace, result: Result) -> Result:
    found = peers.measured("psi", options.peers, result.rows, options.overlap, options.runs)
    return replace(result, peers=found)


def _joint(options: argparse.Namespace, name: str, sql: str) -> Result:
    rows = options.rows or 2**20
    with parties(rows, options.overlap, options.groups) as space:
        if options.in_memory:
            result = median(_in_memory(space, name, rows, sql) for _ in range(options.runs))
        else:
            result = ask(space, name, rows, sql, options.runs)
    if options.protocol not in (None, result.protocol):
        raise SystemExit(f"{name} runs under {result.protocol} here, not under {options.protocol}")
    return result


def _in_memory(space: Loopback, name: str, rows: int, sql: str) -> Result:
    """Both roles in this process: no network, no policy, no evidence. Bytes are as the receiver sees them."""
    published = _published(space)
    plan = prepare(sql, ASKER, {n: p.dataset for n, p in published.items()}).plan
    protocol = protocol_named(plan.protocol)
    sent = {"receiver": 0, "sender": 0}
    before, start = cpu_of_self(), time.perf_counter()
    part = row_input if plan.kind == "list" else join_input
    with kernel_seconds() as kernel:
        receiver, sender = (
            part(side, published[side.dataset].dataset, published[side.dataset].source, Limits())
            for side in (plan.receiver, plan.sender)
            if side is not None
        )
        local, in_local = time.perf_counter() - start, sum(kernel.values())
        context = Context(os.urandom(32), plan, os.urandom, lambda *_: None, 1)
        run_pair(
            counted(protocol.receiver(context, receiver), sent, "receiver"),
            counted(protocol.sender(context, sender, lambda counts: counts >= 1), sent, "sender"),
        )
    seconds = time.perf_counter() - start
    in_protocol = sum(kernel.values()) - in_local
    stages = {
        "both local parts": local - in_local,
        **{f"kernel: {function}": spent for function, spent in kernel.most_common()},
        "protocol outside the kernel": seconds - local - in_protocol,
    }
    return Result(
        name=name,
        rows=rows,
        protocol=plan.protocol,
        seconds=seconds,
        cpu_seconds=cpu_of_self() - before,
        bytes_sent=sent["receiver"],
        bytes_received=sent["sender"],
        peak_rss_mb=peak_of_self(),
        floor_seconds=tables.floor(space, sql),
        stages={stage: round(spent, 3) for stage, spent in stages.items()},
        figures={
            "kernel_percent": round(100 * sum(kernel.values()) / seconds, 1),
            "kernel_percent_of_protocol": round(100 * in_protocol / (seconds - local), 1),
        },
    )


def _published(space: Loopback) -> dict[str, datasets.Published]:
    published = {}
    for participant, offers in ((OWNER, tables.OFFERS), (ASKER, ("own",))):
        settings = space.settings(participant)
        store = Store.open(settings.state_url)
        for offer in offers:
            published[f"{participant}.{offer}"] = datasets.open_offer(settings, store, offer)
        store.close()
    return published


def local_aggregate(options: argparse.Namespace) -> Result:
    """A single-domain query through both connectors; the floor is DuckDB on the same Parquet file."""
    rows = options.rows or 10**7
    with parties(rows, options.overlap, options.groups) as space:
        result = ask(space, "local_aggregate", rows, LOCAL, options.runs)
        path = space.settings(OWNER).folder / "data" / "theirs.parquet"
        return replace(result, floor_seconds=_parquet_floor(path, options.runs))


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
    """Unary calls to one connector from 64 clients, in four processes. Rows: calls.

    The floor is gRPC itself: as many calls to a server that answers as many bytes and does nothing.
    """
    calls = options.rows or 6400
    with parties(1024, options.overlap, options.groups) as space:
        asked = [_round_of_calls(space, calls, space.processes[ASKER].pid) for _ in range(options.runs)]
        peak = peak_of(space.processes[ASKER].pid)
        with _nothing(space) as (pid, port):
            floors = [_round_of_calls(space, calls, pid, port) for _ in range(options.runs)]
    seconds, cpu, walls = _middle(asked)
    floor_seconds, _, floor = _middle(floors)
    figures = {
        "p50_ms": _percentile(walls, 0.5),
        "p99_ms": _percentile(walls, 0.99),
        "floor_p99_ms": _percentile(floor, 0.99),
    }
    return Result("catalogue", calls, "unary", seconds, cpu, 0, 0, peak, floor_seconds, figures=figures)


Round = tuple[float, float, list[float]]
"""Wall seconds, CPU seconds of the server, and each call's seconds in ascending order."""

CALLERS, CLIENTS = 4, 16


def _middle(rounds: list[Round]) -> Round:
    return sorted(rounds, key=lambda one: _percentile(one[2], 0.99))[len(rounds) // 2]


def _percentile(walls: list[float], share: float) -> float:
    return round(walls[int(len(walls) * share)] * 1e3, 2)


@contextmanager
def _nothing(space: Loopback) -> Iterator[tuple[int, str]]:
    """A gRPC server under the asker's certificate that does nothing: its process and its port."""
    with space.connect(ASKER) as client:
        size = sum(len(json.dumps([offer.entry, offer.policy])) for offer in client.catalogue(ASKER)[0])
    folder = str(space.settings(ASKER).folder)
    with _process("-m", "benchmarks.calling", folder, str(size)) as server:
        yield server.pid, server.stdout.readline().strip()


@contextmanager
def _process(*arguments: str) -> Iterator[Any]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, **pipes) as process:
        yield process
        process.communicate("\n")


def _round_of_calls(space: Loopback, calls: int, server: int, port: str = "") -> Round:
    folder = str(space.settings(ASKER).folder)
    arguments = (
        "-m",
        "benchmarks.calling",
        folder,
        str(CLIENTS),
        str(calls // CALLERS),
        *filter(None, [port]),
    )
    with ExitStack() as stack:
        callers = [stack.enter_context(_process(*arguments)) for _ in range(CALLERS)]
        for caller in callers:
            caller.stdout.readline()  # connected
        before, start = cpu_of(server), time.perf_counter()
        for caller in callers:
            caller.stdin.write("go\n")
            caller.stdin.flush()
        walls = sorted(wall for caller in callers for wall in json.loads(caller.stdout.readline()))
        return time.perf_counter() - start, cpu_of(server) - before, walls


def overhead(options: argparse.Namespace) -> Result:
    """What policy and evidence add: the query's span less its local parts and its protocol."""
    rows = options.rows or 2**20
    with parties(rows, options.overlap, options.groups) as space:
        result = ask(space, "overhead", rows, GROUPED.format(offer="receiver", side="r"), options.runs)
    stages = result.stages
    work = stages[f"{OWNER}: protocol"] + stages[f"{OWNER}: local part"] + stages[f"{ASKER}: local part"]
    added = result.seconds - work
    figures = {"added_seconds": round(added, 3), "added_percent": round(100 * added / result.seconds, 2)}
    return replace(result, figures=figures)
