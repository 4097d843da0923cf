"""RESULTS.md: every benchmark at its goal's size, with machine, commit and command, and a plot over rows.

Each figure comes from a process of its own (`python -m benchmarks.run NAME --json`), so that one benchmark's
memory and caches are not the next one's. One that fails is a row that says so, and the run fails at its end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, machine

HERE = Path(__file__).parent
X25519 = "openssl_x25519_per_s"
MATCHED = "psi --rows 1048576"
IFMA = "kernel --rows 262144 --threads 1"
AVX2 = "kernel --rows 65536 --threads 1 --kernel avx2"
PORTABLE = "kernel --rows 65536 --threads 1 --kernel portable"
WITNESS = "witness --rows 16384 --entries 1000000"
GOALS: tuple[tuple[str, str], ...] = (
    ("kernel --rows 262144", "all cores together"),
    (IFMA, ">= 200,000 masks/s per core (IFMA)"),
    (AVX2, ">= 60,000"),
    (PORTABLE, ">= 20,000"),
    ("psi --rows 65536", "<= 1.2 s"),
    (MATCHED, "<= 15 s, <= 90 MB, <= 400 MB a party"),
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
    ("selection_sum --rows 1000000 --weight 1073741823", "reported: one weight column"),
    ("selection_sum --rows 1000000 --weight 64", "reported: rows for each key"),
    ("local_aggregate --rows 10000000", "<= 1.3 x DuckDB + 50 ms"),
    ("masked_sum --rows 10000 --parties 16", "<= 3 s"),
    ("he_sum --rows 10000 --parties 16", "<= 10 s"),
    ("catalogue", "p99 <= 50 ms"),
    (
        WITNESS,
        ">= 4,000 records/s, >= 900 unary, published p99 <= 300 ms, cosigned <= 1 s, proof <= 5 ms",
    ),
    ("import", "<= 0.3 s"),
)


YARDSTICKS: tuple[tuple[str, str, str, float, str], ...] = (
    ("OpenSSL's X25519, one thread", "kernel --rows 262144", X25519, 30_000, "a second"),
    ("DuckDB, 2^20 keys a side, pooled", MATCHED, "floor_seconds", 0.131, "s"),
    ("spu-ecdh, 2^20 keys a side", MATCHED, "spu-ecdh", 17.9, "s"),
    ("spu-rr22, 2^20 keys a side", MATCHED, "spu-rr22", 4.24, "s"),
)
"""What others' software did where the goals were set (shared/goals.md), and in which run it is found here."""
RATIOS: tuple[tuple[str, str, float, str, str, float], ...] = (
    ("psi --rows 65536", "seconds", 1.2, "psi --rows 65536", "spu-ecdh", 1.5),
    (MATCHED, "seconds", 15, MATCHED, "spu-ecdh", 17.9),
    ("psi_aggregate --rows 1048576", "seconds", 18, MATCHED, "spu-ecdh", 17.9),
    ("private_join_and_compute --rows 1048576", "seconds", 18, MATCHED, "spu-ecdh", 17.9),
    (IFMA, "masks_per_s", 200_000, IFMA, X25519, 30_000),
    (AVX2, "masks_per_s", 60_000, AVX2, X25519, 30_000),
    (PORTABLE, "masks_per_s", 20_000, PORTABLE, X25519, 30_000),
    (WITNESS, "records_per_s", 4_000, WITNESS, X25519, 30_000),
    (WITNESS, "unary_per_s", 900, WITNESS, X25519, 30_000),
)
"""Goals in seconds or per second; beside what, found in which run, and what that did where they were set."""
SUMS: tuple[tuple[int, int], ...] = (  # participants, cells
    *((2, 10_000), (8, 10_000), (16, 10_000), (32, 10_000)),
    *((16, 10), (16, 1000), (16, 100_000)),
)


MUTANTS = """\
## Mutants of policy_enforcer

`python tests/mutation/run.py` makes small mistakes in the code one at a time and runs the decision vectors,
the tests of loading, values, dates and obligations and a corpus with the independent evaluator's verdicts
against each; `--write` writes these rows. `make deep` tries one in eight, others each day.

"""

Row = tuple[str, str, dict[str, Any]]
"""A command, its goal, and the JSON object that it printed."""


def write_results(options: argparse.Namespace) -> int:
    """Run everything, write RESULTS.md and its plot; 1 when a benchmark failed."""
    found = {command: measured(command, options.runs, options.peers) for command, _ in GOALS}
    rows = [(command, goal, found[command]) for command, goal in GOALS]
    sizes = [2**n for n in range(14, 23, 2) if 2**n <= options.largest]
    curve = {
        name: [
            found.get(f"{name} --rows {n}") or measured(f"{name} --rows {n}", 1, options.peers) for n in sizes
        ]
        for name in ("psi", "psi_aggregate")
    }
    results = HERE / "RESULTS.md"
    tables = [_page([*rows, *_curves(sizes, curve)]), sums(options), rounds(options)]
    page = "\n".join([*tables, MUTANTS]) + _mutants(results.read_text("utf-8"))
    _plot(curve)  # last, like the page: until then the tree is that of the commit
    results.write_text(page, encoding="utf-8")
    return int("| failed |" in page)


def _mutants(page: str) -> str:
    """The rows that tests/mutation wrote: they are not measured here."""
    _, head, rows = page.partition("| module | mutants |")
    return head + rows


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
            lines += [_summed(parties, one) for one in (found, *found["peers"])]
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


def _curves(sizes: Sequence[int], curve: dict[str, list[dict[str, Any]]]) -> list[Row]:
    """The plot's points that are no goal's size: one run each."""
    goals = {command for command, _ in GOALS}
    points = [
        (f"{name} --rows {rows}", one)
        for name, found in curve.items()
        for rows, one in zip(sizes, found, strict=True)
    ]
    return [(command, "one run", one) for command, one in points if command not in goals]


def measured(command: str, runs: int, peers: str | None) -> dict[str, Any]:
    """One benchmark in a process of its own, as its JSON object; `error` where it failed."""
    arguments = [sys.executable, "-m", "benchmarks.run", "--runs", str(runs), *command.split(), "--json"]
    arguments += ["--peers", peers] if peers else []
    print(f"benchmarks.run {command}", file=sys.stderr, flush=True)
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{command} failed:\n{done.stderr}", file=sys.stderr, flush=True)
        return _failed(*command.split())
    print(done.stdout, end="", file=sys.stderr, flush=True)  # what a run that is broken off has found
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _failed(name: str, *options: str) -> dict[str, Any]:
    """What a table needs to say of a benchmark that did not run."""
    rows = int(options[options.index("--rows") + 1]) if "--rows" in options else 0
    return {"name": name, "rows": rows, "error": True, "peers": []}


def _page(rows: Sequence[Row]) -> str:
    ran = [row for row in rows if "error" not in row[2]]
    commit, kernel, cores = (_all(ran, key) for key in ("commit", "kernel", "cores"))
    lines = [
        "# Results",
        "",
        f"Measured at commit `{commit}` on {machine()}, {cores} cores, kernel `{kernel}`;",
        "both parties and the witness on this machine, loopback, median of the runs. `make bench` writes",
        "this page. Absolute seconds move from machine to machine: compare with the floor (DuckDB, pooled).",
        "",
        "| `python -m benchmarks.run …` | goal | wall s | CPU s | floor s | MB | peak MB a party | figures |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_row(command, goal, found) for command, goal, found in rows]
    lines += [
        "",
        "![time against rows](results.svg)",
        "",
        *_yardsticks(ran),
        *_ratios(ran),
        *_peers(ran),
        "## Stages",
        "",
    ]
    for command, _, found in ran:
        if found["stages"]:
            said = ", ".join(f"{stage} {seconds} s" for stage, seconds in found["stages"].items())
            lines.append(f"- `{command}`: {said}")
    return "\n".join(lines) + "\n"


def _all(ran: Sequence[Row], key: str) -> str:
    """What all benchmarks say of themselves: one thing, unless somebody committed meanwhile."""
    return ", ".join(dict.fromkeys(str(found[key]) for _, _, found in ran))


def _yardsticks(rows: Sequence[Row]) -> list[str]:
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
    for title, command, name, there, unit in YARDSTICKS:
        here = _figure(by_command, command, name)
        if here is not None:
            slower = there / here if unit == "a second" else here / there
            lines.append(f"| {title} | {there:,} {unit} | {here:,.5g} {unit} | {slower:.2f} |")
    return [*lines, ""]


def _ratios(rows: Sequence[Row]) -> list[str]:
    """Our figures over those of others' software in the same run, as on the goals' machine."""
    lines = [
        "## Goals as ratios",
        "",
        "Ours over others' in one run: of seconds at most the goal's ratio, of the others at least that.",
        "",
        "| command | figure | goal there | beside | goal's ratio | ours here | beside it here | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    by_command = {command: found for command, _, found in rows}
    for command, figure, goal, run, beside, there in RATIOS:
        ours, other = _figure(by_command, command, figure), _figure(by_command, run, beside)
        if ours and other:
            said = f"| `{command}` | {figure} | {goal:,} | {beside} {there:,} | {goal / there:.3f} "
            here = " | ".join(f"{one:,.0f}" if one >= 1000 else f"{one:.3f}" for one in (ours, other))
            lines.append(f"{said}| {here} | {ours / other:.3f} |")
    return [*lines, ""]


def _figure(found: dict[str, dict[str, Any]], command: str, name: str) -> float | None:
    """A figure of a benchmark, or the seconds of a peer beside it."""
    row: dict[str, Any] = found.get(command, {"peers": []})
    seconds = {peer["name"]: peer.get("seconds") for peer in row["peers"]}
    here: float | None = {**row, **row.get("figures", {}), **seconds}.get(name)
    return here


def _peers(rows: Sequence[Row]) -> list[str]:
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
    if "error" in found:
        return f"| `{command}` | {goal} | failed | | | | | |"
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
    ran = {name: [f for f in found if "error" not in f] for name, found in curve.items()}
    sizes = sorted({f["rows"] for found in ran.values() for f in found})
    for name, found in ran.items():
        axes.plot([f["rows"] for f in found], [f["seconds"] for f in found], marker="o", label=name)
    for peer in dict.fromkeys(p["name"] for f in ran["psi"] for p in f["peers"]):
        points = {p["rows"]: p.get("seconds") for f in ran["psi"] for p in f["peers"] if p["name"] == peer}
        axes.plot(list(points), list(points.values()), marker=".", linestyle=":", label=peer)
    floors = {f["rows"]: f["floor_seconds"] for f in ran["psi"]}
    axes.plot(
        list(floors), list(floors.values()), marker="o", linestyle="--", label="DuckDB on pooled plaintext"
    )
    axes.set(xscale="log", yscale="log", xlabel="keys a side", ylabel="seconds")
    axes.set_xticks(sizes, [f"2^{n.bit_length() - 1}" for n in sizes])
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(HERE / "results.svg", bbox_inches="tight", metadata={"Date": None})
