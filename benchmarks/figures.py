"""RESULTS.md: every benchmark at its goal's size, with machine, commit and command, and a plot over rows.

Each figure comes from a process of its own (`python -m benchmarks.run NAME --json`), so that one benchmark's
memory and caches are not the next one's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, commit, machine

HERE = Path(__file__).parent
GOALS: tuple[tuple[str, str], ...] = (
    ("kernel --rows 262144", ">= 200,000 masks/s per core (IFMA)"),
    ("psi --rows 65536", "<= 1.2 s"),
    ("psi --rows 1048576", "<= 15 s, <= 90 MB, <= 400 MB a party"),
    ("psi_aggregate --rows 1048576", "psi + 3 s"),
    ("psi_aggregate --rows 1048576 --side sender", "reported beside it"),
    ("psi_aggregate --rows 1000000", "reported, for the next line"),
    ("psi_aggregate --rows 10000000 --runs 1", "<= 12 x 10^6 rows, <= 2,560 MB a party"),
    ("private_join_and_compute --rows 1048576", "<= 18 s"),
    ("overhead --rows 1048576", "<= 3 %"),
    ("psi_aggregate --rows 1048576 --in-memory --runs 1", "the time is the kernel's"),
    ("selection_sum --rows 1000000", "<= 1.5 s of CPU, <= 30 bytes a value"),
    ("selection_sum --rows 1000000 --bound 1000000000", "reported"),
    ("selection_sum --rows 1000000 --bound 9223372036854775807", "reported"),
    ("local_aggregate --rows 10000000", "<= 1.3 x DuckDB + 50 ms"),
    ("masked_sum --rows 10000 --parties 16", "<= 3 s"),
    ("he_sum --rows 10000 --parties 16", "<= 10 s"),
    ("catalogue", "p99 <= 50 ms"),
    (
        "witness --rows 16384 --entries 1000000",
        ">= 4,000 records/s, >= 900 unary, published p99 <= 300 ms, cosigned <= 1 s, proof <= 5 ms",
    ),
)


YARDSTICKS: tuple[tuple[str, str, float, str], ...] = (
    ("OpenSSL's X25519, one thread", "kernel", 30_000, "a second"),
    ("DuckDB, 2^20 keys a side, pooled", "floor", 0.131, "s"),
    ("spu-ecdh, 2^20 keys a side", "spu-ecdh", 17.9, "s"),
    ("spu-rr22, 2^20 keys a side", "spu-rr22", 4.24, "s"),
)
"""What others' software did on the machine that the goals were set on (shared/goals.md); here: _yardstick."""
SUMS: tuple[tuple[int, int], ...] = (  # participants, cells
    *((2, 10_000), (8, 10_000), (16, 10_000), (32, 10_000)),
    *((16, 10), (16, 1000), (16, 100_000)),
)


def write_results(options: argparse.Namespace) -> None:
    """Run everything and write RESULTS.md and its plot."""
    found = {command: measured(command, options.runs, options.peers) for command, _ in GOALS}
    rows = [(command, goal, found[command]) for command, goal in GOALS]
    sizes = [2**n for n in range(14, 23, 2) if 2**n <= options.largest]
    curve = {
        name: [
            found.get(f"{name} --rows {n}") or measured(f"{name} --rows {n}", 1, options.peers) for n in sizes
        ]
        for name in ("psi", "psi_aggregate")
    }
    _plot(sizes, curve)
    results = HERE / "RESULTS.md"
    # not measured here: tests/mutation
    _, heading, mutants = results.read_text("utf-8").partition("\n## Mutants")
    page = "\n".join([_page([*rows, *_curves(curve)]), sums(options), rounds(options)])
    results.write_text(page + heading + mutants, encoding="utf-8")


def sums(options: argparse.Namespace) -> str:
    """The table of federated sums over participants and cells, with the peers that have one key."""
    lines = [
        "## Federated sums",
        "",
        "All parties in one process, one after the other; identities, participants and one measure of every",
        "cell. The peers add the same three integers a cell under one key that somebody holds: no threshold,",
        "no flood, no gate.",
        "",
        "| participants | cells | by | wall s | CPU s | MB a participant | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for parties, cells in SUMS:
        for name in ("masked_sum", "he_sum"):
            found = measured(f"{name} --rows {cells} --parties {parties}", 1, options.peers)
            lines += [_summed(parties, one) for one in ({**found, "rows": cells}, *found["peers"])]
    return "\n".join(lines) + "\n"


def rounds(options: argparse.Namespace) -> str:
    """The table of the same sums between real connectors, each a process."""
    lines = [
        "## Federated sums between connectors",
        "",
        "A process for every participant, the asker and a witness on this machine: local part, mutual TLS,",
        "policy, ledger and evidence included; COUNT and SUM of every cell. CPU is that of all processes.",
        "",
        "| participants | cells | by | wall s | CPU s | CPU s a participant | MB a participant | DuckDB s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for parties, cells in SUMS:
        for name in ("masked_sum", "he_sum"):
            command = f"federation --rows {cells} --parties {parties} --protocol {name}"
            lines.append(_between(parties, cells, name, measured(command, options.runs, None)))
    return "\n".join(lines) + "\n"


def _between(parties: int, cells: int, name: str, found: dict[str, Any]) -> str:
    if "error" in found:
        return f"| {parties} | {cells:,} | {name} | failed | | | | |"
    figures = found["figures"]
    each = f"{figures['cpu_seconds_per_participant']:.2f} | {figures['bytes_per_participant'] / 1e6:.3f}"
    used = f"{found['seconds']:.2f} | {found['cpu_seconds']:.2f} | {each} | {found['floor_seconds']:.3f}"
    return f"| {parties} | {cells:,} | {name} | {used} |"


def _summed(parties: int, found: dict[str, Any]) -> str:
    if "error" in found:
        return f"| {parties} | {found['rows']:,} | {found['name']} | failed | | | |"
    used = f"{found['seconds']:.3f} | {found['cpu_seconds']:.2f} | {found['bytes_total'] / 1e6 / parties:.3f}"
    return f"| {parties} | {found['rows']:,} | {found['name']} | {used} | {found['peak_rss_mb']:.0f} |"


def _curves(curve: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str, dict[str, Any]]]:
    """The plot's points that are no goal's size: one run each."""
    goals = {command for command, _ in GOALS}
    points = [(f"{name} --rows {one['rows']}", one) for name, found in curve.items() for one in found]
    return [(command, "one run", one) for command, one in points if command not in goals]


def measured(command: str, runs: int, peers: str | None) -> dict[str, Any]:
    """One benchmark in a process of its own, as its JSON object."""
    arguments = [sys.executable, "-m", "benchmarks.run", "--runs", str(runs), *command.split(), "--json"]
    arguments += ["--peers", peers] if peers else []
    print(f"benchmarks.run {command}", file=sys.stderr, flush=True)
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _page(rows: Sequence[tuple[str, str, dict[str, Any]]]) -> str:
    first = rows[0][2]
    lines = [
        "# Results",
        "",
        f"Measured at commit `{commit()}` on {machine()}, {first['cores']} cores, kernel",
        f"`{first['kernel']}`;",
        "both parties and the witness on this machine, loopback, median of the runs. `make bench` writes",
        "this page. Absolute seconds move from machine to machine: compare with the floor (DuckDB, pooled).",
        "",
        "| `python -m benchmarks.run …` | goal | wall s | CPU s | floor s | MB | peak MB a party | figures |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_row(command, goal, found) for command, goal, found in rows]
    lines += ["", "![time against rows](results.svg)", "", *_yardsticks(rows), *_peers(rows), "## Stages", ""]
    for command, _, found in rows:
        if found["stages"]:
            said = ", ".join(f"{stage} {seconds} s" for stage, seconds in found["stages"].items())
            lines.append(f"- `{command}`: {said}")
    return "\n".join(lines) + "\n"


def _yardsticks(rows: Sequence[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """How much slower this machine is than the goals', by software that is not ours."""
    lines = [
        "## This machine beside the goals' machine",
        "",
        "The goals' seconds were set on another machine. How much slower this one is, by others' software:",
        "",
        "| software | there | here | times slower |",
        "| --- | --- | --- | --- |",
    ]
    by_command = {command: found for command, _, found in rows}
    for title, key, there, unit in YARDSTICKS:
        here = _yardstick(by_command, key)
        if here is not None:
            slower = there / here if unit == "a second" else here / there
            lines.append(f"| {title} | {there:,} {unit} | {here:,} {unit} | {slower:.2f} |")
    return [*lines, ""]


def _yardstick(found: dict[str, dict[str, Any]], key: str) -> float | None:
    if key == "kernel":
        return float(found["kernel --rows 262144"]["figures"]["openssl_x25519_per_s"])
    matched = found["psi --rows 1048576"]
    if key == "floor":
        return float(round(matched["floor_seconds"], 3))
    return next((peer.get("seconds") for peer in matched["peers"] if peer["name"] == key), None)


def _peers(rows: Sequence[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """Other people's software beside ours, at the same size unless it says another."""
    lines = [
        "## Peers in the same runs",
        "",
        "| beside | peer | rows | wall s | ours s | CPU s | MB | peak MB a party |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    found = [(command, ours, peer) for command, _, ours in rows for peer in ours["peers"]]
    lines += [_peer(command, ours, peer) for command, ours, peer in found]
    return [*lines, ""] if found else []


def _peer(command: str, ours: dict[str, Any], peer: dict[str, Any]) -> str:
    if "error" in peer:
        return f"| `{command}` | {peer['name']} | {peer['rows']:,} | failed | | | | |"
    megabytes = f"{peer['bytes_total'] / 1e6:.1f}" if peer["bytes_total"] else ""
    same = f"{ours['seconds']:.3f}" if peer["rows"] == ours["rows"] else ""
    cells = (f"`{command}`", peer["name"], f"{peer['rows']:,}", f"{peer['seconds']:.3f}", same)
    used = (f"{peer['cpu_seconds']:.2f}", megabytes, f"{peer['peak_rss_mb']:.0f}")
    return f"| {' | '.join((*cells, *used))} |"


def _row(command: str, goal: str, found: dict[str, Any]) -> str:
    floor = "" if found["floor_seconds"] is None else f"{found['floor_seconds']:.3f}"
    megabytes = f"{found['bytes_total'] / 1e6:.1f}" if found["bytes_total"] else ""
    figures = ", ".join(f"{name} {value:,}" for name, value in found["figures"].items())
    cpu = f"{found['cpu_seconds']:.2f}" if found["cpu_seconds"] else ""
    peak = f"{found['peak_rss_mb']:.0f}" if found["peak_rss_mb"] else ""
    cells = (f"`{command}`", goal, f"{found['seconds']:.3f}", cpu, floor, megabytes, peak, figures)
    return f"| {' | '.join(cells)} |"


def _plot(sizes: Sequence[int], curve: dict[str, list[dict[str, Any]]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name, found in curve.items():
        axes.plot(sizes, [f["seconds"] for f in found], marker="o", label=name)
    for peer in dict.fromkeys(p["name"] for f in curve["psi"] for p in f["peers"]):
        points = {p["rows"]: p.get("seconds") for f in curve["psi"] for p in f["peers"] if p["name"] == peer}
        axes.plot(list(points), list(points.values()), marker=".", linestyle=":", label=peer)
    floors = [f["floor_seconds"] for f in curve["psi"]]
    axes.plot(sizes, floors, marker="o", linestyle="--", label="DuckDB on pooled plaintext")
    axes.set(xscale="log", yscale="log", xlabel="keys a side", ylabel="seconds")
    axes.set_xticks(sizes, [f"2^{n.bit_length() - 1}" for n in sizes])
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(HERE / "results.svg", bbox_inches="tight", metadata={"Date": None})
