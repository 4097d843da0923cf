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
    ("private_join_and_compute --rows 1048576", "<= 18 s"),
    ("overhead --rows 1048576", "<= 3 %"),
    ("selection_sum --rows 1000000", "<= 1.5 s of CPU, <= 30 bytes a value"),
    ("selection_sum --rows 1000000 --bound 1000000000", "reported"),
    ("selection_sum --rows 1000000 --bound 9223372036854775807", "reported"),
    ("local_aggregate --rows 10000000", "<= 1.3 x DuckDB + 50 ms"),
    ("catalogue", "p99 <= 50 ms"),
    ("witness --rows 16384", ">= 4,000 records/s, p99 <= 300 ms"),
)
CURVE = [2**n for n in range(14, 21, 2)]


def write_results(options: argparse.Namespace) -> None:
    """Run everything and write RESULTS.md and its plot."""
    rows = [(command, goal, measured(command, options.runs)) for command, goal in GOALS]
    curve = {name: [measured(f"{name} --rows {n}", 1) for n in CURVE] for name in ("psi", "psi_aggregate")}
    _plot(curve)
    (HERE / "RESULTS.md").write_text(_page(rows), encoding="utf-8")


def measured(command: str, runs: int) -> dict[str, Any]:
    """One benchmark in a process of its own, as its JSON object."""
    arguments = [sys.executable, "-m", "benchmarks.run", *command.split(), "--runs", str(runs), "--json"]
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
    lines += ["", "![time against rows](results.svg)", "", "## Stages", ""]
    for command, _, found in rows:
        if found["stages"]:
            said = ", ".join(f"{stage} {seconds} s" for stage, seconds in found["stages"].items())
            lines.append(f"- `{command}`: {said}")
    return "\n".join(lines) + "\n"


def _row(command: str, goal: str, found: dict[str, Any]) -> str:
    floor = "" if found["floor_seconds"] is None else f"{found['floor_seconds']:.3f}"
    megabytes = f"{found['bytes_total'] / 1e6:.1f}" if found["bytes_total"] else ""
    figures = ", ".join(f"{name} {value:,}" for name, value in found["figures"].items())
    cpu = f"{found['cpu_seconds']:.2f}" if found["cpu_seconds"] else ""
    peak = f"{found['peak_rss_mb']:.0f}" if found["peak_rss_mb"] else ""
    cells = (f"`{command}`", goal, f"{found['seconds']:.3f}", cpu, floor, megabytes, peak, figures)
    return f"| {' | '.join(cells)} |"


def _plot(curve: dict[str, list[dict[str, Any]]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name, found in curve.items():
        axes.plot(CURVE, [f["seconds"] for f in found], marker="o", label=name)
    floors = [f["floor_seconds"] for f in curve["psi"]]
    axes.plot(CURVE, floors, marker="o", linestyle="--", label="DuckDB on pooled plaintext")
    axes.set(xscale="log", yscale="log", xlabel="keys a side", ylabel="seconds")
    axes.set_xticks(CURVE, [f"2^{n.bit_length() - 1}" for n in CURVE])
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(HERE / "results.svg", bbox_inches="tight", metadata={"Date": None})
