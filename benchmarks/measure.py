"""What a benchmark measures and how it says so: wall and CPU seconds, bytes, peak memory, machine, commit."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from compute.frames import Frame, Role

T = TypeVar("T")

TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Result:
    """One benchmark at one size: the median of its runs. Bytes are body bytes, seen by the receiver."""

    name: str
    rows: int
    protocol: str
    seconds: float
    cpu_seconds: float  # all parties together
    bytes_sent: int = 0
    bytes_received: int = 0
    peak_rss_mb: float = 0.0  # the largest party
    floor_seconds: float | None = None  # DuckDB on the same tables in the same run
    stages: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)  # what belongs to this benchmark only
    peers: list[dict[str, Any]] = field(default_factory=list)  # other people's software on the same work

    def document(self) -> dict[str, object]:
        """The JSON object of the command line."""
        from compute import kernel

        return {
            **asdict(self),
            "bytes_total": self.bytes_sent + self.bytes_received,
            "rows_per_s": round(self.rows / self.seconds) if self.seconds else None,
            "kernel": kernel.implementation(),
            "cores": os.cpu_count(),
            "commit": commit(),
        }


def commit() -> str:
    """The commit that is measured, marked when the tree differs from it."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()


class Timed(Protocol):
    """What took some wall seconds."""

    @property
    def seconds(self) -> float: ...  # noqa: D102


Run = TypeVar("Run", bound=Timed)


def median(runs: Iterable[Run]) -> Run:
    """The run with the median wall time."""
    ordered = sorted(runs, key=lambda run: run.seconds)
    return ordered[len(ordered) // 2]


def counted(role: Role[T], sent: dict[str, int], name: str) -> Role[T]:
    """The role itself; what it sends is added to `sent[name]`, in body bytes."""
    item = role.send(None)
    while True:
        if isinstance(item, Frame):
            sent[name] += len(item.body)
        try:
            item = role.send((yield item))
        except StopIteration as end:
            return cast(T, end.value)


def timed(work: Callable[[], object], runs: int) -> tuple[float, float]:
    """Median wall and CPU seconds of `work` in this process."""
    walls, cpus = [], []
    for _ in range(runs):
        before = cpu_of_self()
        start = time.perf_counter()
        work()
        walls.append(time.perf_counter() - start)
        cpus.append(cpu_of_self() - before)
    return statistics.median(walls), statistics.median(cpus)


def openssl_x25519(runs: int) -> float:
    """Exchanges per second of OpenSSL's X25519 in one thread: how fast this machine is."""
    own, other = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
    exchanges = 10_000
    seconds, _ = timed(lambda: [own.exchange(other) for _ in range(exchanges)], runs)
    return exchanges / seconds


def cpu_of_self() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_of_self() -> float:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_of(pid: int) -> float:
    """Peak resident memory of a process in MiB (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def reset_peak(pid: int) -> None:
    """Start measuring a process's peak anew (Linux)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def machine() -> str:
    """The processor, as /proc/cpuinfo names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def printed(result: Result) -> str:
    """The result for people."""
    document = result.document()
    lines = [f"{key:>16}: {value}" for key, value in document.items() if value not in (None, {}, 0)]
    return "\n".join(lines)


def as_json(result: Result) -> str:
    """One JSON object."""
    return json.dumps(result.document())
