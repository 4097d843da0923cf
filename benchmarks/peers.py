"""Other people's software on the same work, where it is installed: run in its own process, never imported.

    spu             SecretFlow's PSI between two processes, CSV to CSV: RR22 and ECDH over curve25519
    openmined-psi   OpenMined's PSI over P-256, both roles in one process
    phe             python-paillier: encrypt n integers, add the selected, decrypt
    phe-sums        over participants: each encrypts three integers a cell under one key, all are added
    tenseal-sums    the same with TenSEAL's BFV vectors: one key, nothing flooded

Keys are n a side, 16-byte strings, shared as `--overlap` says. A peer that would run for minutes is measured
at fewer rows, and says at how many. As a program, this file is one peer's run under that peer's interpreter,
so it imports nothing of ours: `python peers.py PEER ROWS OVERLAP PARTIES`.
"""

from __future__ import annotations

import csv
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 900
"""What one run of a peer may take."""


class Peer(NamedTuple):
    """One peer's way of doing a benchmark's work."""

    name: str
    module: str  # what must be importable for it
    most_rows: int  # where a run takes about a quarter of a minute
    run: Callable[[int, float, int], dict[str, Any]]  # rows, overlap, parties


def measured(
    benchmark: str, interpreter: str | None, rows: int, overlap: float, runs: int, parties: int = 2
) -> list[dict[str, Any]]:
    """Every peer of this benchmark that `interpreter` (default: ours) has: the median of its runs."""
    program = interpreter or sys.executable
    return [
        _median(program, peer, (min(rows, peer.most_rows), overlap, parties), runs)
        for peer in PEERS.get(benchmark, ())
        if _installed(program, peer.module)
    ]


def _installed(program: str, module: str) -> bool:
    question = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([program, "-c", question], capture_output=True, check=False).returncode == 0


def _median(program: str, peer: Peer, work: tuple[int, float, int], runs: int) -> dict[str, Any]:
    command = [program, str(Path(__file__).resolve()), peer.name, *map(str, work)]
    rows, found = work[0], []
    for _ in range(runs):
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode != 0:
            return {"name": peer.name, "rows": rows, "error": done.stderr.strip().splitlines()[-1:]}
        found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    middle = statistics.median_low([run["seconds"] for run in found])
    return {"name": peer.name, "rows": rows, **next(run for run in found if run["seconds"] == middle)}


# --- one run, under the peer's interpreter ------------------------------------------------------------


def _keys(first: int, count: int) -> list[str]:
    mixed = [f"{(n * 0x9E3779B97F4A7C15) % 2**64:016x}" for n in range(first, first + count)]
    random.Random(first).shuffle(mixed)
    return mixed


def _sides(rows: int, overlap: float) -> tuple[list[str], list[str]]:
    return _keys(0, rows), _keys(rows - round(rows * overlap), rows)


def _spu(protocol: str) -> Callable[[int, float, int], dict[str, Any]]:
    """Two processes over loopback; the clock runs from their start line to the slower one's end."""

    def run(rows: int, overlap: float, _parties: int) -> dict[str, Any]:
        import socket

        with tempfile.TemporaryDirectory(prefix="bayspace-peer-") as folder:
            for name, keys in zip(("0", "1"), _sides(rows, overlap), strict=True):
                with (Path(folder) / f"{name}.csv").open("w", newline="") as file:
                    csv.writer(file).writerows([["id"], *([key] for key in keys)])
            ports = []
            for _ in range(2):
                with socket.create_server(("127.0.0.1", 0)) as taken:
                    ports.append(str(taken.getsockname()[1]))
            command = [sys.executable, str(Path(__file__).resolve()), "spu-party", protocol, folder, *ports]
            parties = [subprocess.Popen([*command, rank], stdout=subprocess.DEVNULL) for rank in ("0", "1")]
            if any(party.wait() for party in parties):
                raise AssertionError("a party of the peer failed")
            said = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in ("0", "1")]
        if any(one["matches"] != round(rows * overlap) for one in said):
            raise AssertionError("the peer counted another overlap")
        return {
            "seconds": max(one["seconds"] for one in said),
            "cpu_seconds": sum(one["cpu_seconds"] for one in said),
            "peak_rss_mb": max(one["peak_rss_mb"] for one in said),
            "bytes_total": None,  # its link does not count them
        }

    return run


def _spu_party(protocol: str, folder: str, left: str, right: str, rank: str) -> None:
    from spu import libspu, psi

    address = libspu.link.Desc()
    for number, port in enumerate((left, right)):
        address.add_party(f"party{number}", f"127.0.0.1:{port}")
    link = libspu.link.create_brpc(address, int(rank))
    config = psi.PsiExecuteConfig(
        protocol_conf=psi.PsiProtocolConfig(
            protocol=psi.parse_protocol(protocol),
            receiver_rank=0,
            broadcast_result=True,
            ecdh_params=psi.EcdhParams(curve=psi.EllipticCurveType.CURVE_25519),
        ),
        input_params=psi.InputParams(path=f"{folder}/{rank}.csv", selected_keys=["id"], keys_unique=True),
        output_params=psi.OutputParams(path=f"{folder}/{rank}.out.csv"),
    )
    link.barrier()
    start, before = time.perf_counter(), _cpu()
    report = psi.psi_execute(config, link)
    seconds = time.perf_counter() - start
    link.stop_link()
    said = {**_used(seconds, before), "matches": report.intersection_count}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(said))  # its log goes to standard output


def _openmined(rows: int, overlap: float, _parties: int) -> dict[str, Any]:
    from private_set_intersection.python import DataStructure, client, server

    theirs, mine = _sides(rows, overlap)
    start, before = time.perf_counter(), _cpu()
    owner, asker = server.CreateWithNewKey(True), client.CreateWithNewKey(True)
    setup = owner.CreateSetupMessage(0.0, rows, theirs, DataStructure.RAW)
    request = asker.CreateRequest(mine)
    response = owner.ProcessRequest(request)
    matches = len(asker.GetIntersection(setup, response))
    seconds = time.perf_counter() - start
    if matches != round(rows * overlap):
        raise AssertionError("the peer counted another overlap")
    sent = sum(message.ByteSize() for message in (setup, request, response))
    return {**_used(seconds, before), "bytes_total": sent}


def _paillier(rows: int, overlap: float, _parties: int) -> dict[str, Any]:
    import phe

    numbers = random.Random(7)
    values = [numbers.randrange(-(2**19) + 1, 2**19) for _ in range(rows)]
    chosen = [numbers.random() < overlap for _ in range(rows)]
    public, private = phe.generate_paillier_keypair(n_length=2048)
    start, before = time.perf_counter(), _cpu()
    column = [public.encrypt(value) for value in values]
    selected = [cell for cell, taken in zip(column, chosen, strict=True) if taken]
    total = private.decrypt(sum(selected[1:], selected[0]))
    seconds = time.perf_counter() - start
    if total != sum(value for value, taken in zip(values, chosen, strict=True) if taken):
        raise AssertionError("the peer's sum is wrong")
    return {**_used(seconds, before), "bytes_total": rows * 512}


def _cells(rows: int, parties: int) -> list[list[int]]:
    """Of each party, what a federated sum adds up: identities, whether it contributes, and a measure."""
    return [[3] * rows + [1] * rows + list(range(-rows // 2, rows - rows // 2)) for _ in range(parties)]


def _paillier_sums(rows: int, _overlap: float, parties: int) -> dict[str, Any]:
    import phe

    vectors = _cells(rows, parties)
    public, private = phe.generate_paillier_keypair(n_length=2048)
    start, before = time.perf_counter(), _cpu()
    columns = [[public.encrypt(value) for value in vector] for vector in vectors]
    found = [private.decrypt(sum(column[1:], column[0])) for column in zip(*columns, strict=True)]
    seconds = time.perf_counter() - start
    if found != [parties * value for value in vectors[0]]:
        raise AssertionError("the peer's sums are wrong")
    return {**_used(seconds, before), "bytes_total": (parties + 1) * 3 * rows * 512}


def _tenseal_sums(rows: int, _overlap: float, parties: int) -> dict[str, Any]:
    import tenseal

    degree, plain = 8192, 1099511480321  # 40 bits, 1 modulo 2 * degree
    vectors = _cells(rows, parties)
    private = tenseal.context(tenseal.SCHEME_TYPE.BFV, degree, plain)
    public = private.copy()
    public.make_context_public()
    start, before = time.perf_counter(), _cpu()
    sent, totals = 0, []
    for at in range(0, 3 * rows, degree):
        parts = [tenseal.bfv_vector(public, vector[at : at + degree]).serialize() for vector in vectors]
        total = tenseal.bfv_vector_from(public, parts[0])
        for part in parts[1:]:
            total += tenseal.bfv_vector_from(public, part)
        opened = total.serialize()
        totals += tenseal.bfv_vector_from(private, opened).decrypt()
        sent += sum(map(len, parts)) + len(opened)
    seconds = time.perf_counter() - start
    if totals != [parties * value for value in vectors[0]]:
        raise AssertionError("the peer's sums are wrong")
    return {**_used(seconds, before), "bytes_total": sent}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _used(seconds: float, before: float) -> dict[str, Any]:
    status = Path("/proc/self/status").read_text()  # not getrusage's: that starts at what the caller held
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(_cpu() - before, 3),
        "peak_rss_mb": round(peak, 1),
    }


PEERS: dict[str, tuple[Peer, ...]] = {
    "psi": (
        Peer("spu-rr22", "spu", 2**22, _spu("PROTOCOL_RR22")),
        Peer("spu-ecdh", "spu", 2**20, _spu("PROTOCOL_ECDH")),
        Peer("openmined-psi", "private_set_intersection", 2**14, _openmined),
    ),
    "selection_sum": (Peer("phe", "phe", 256, _paillier),),
    "he_sum": (
        Peer("phe-sums", "phe", 10, _paillier_sums),
        Peer("tenseal-sums", "tenseal", 100_000, _tenseal_sums),
    ),
}


if __name__ == "__main__":
    if sys.argv[1] == "spu-party":
        _spu_party(*sys.argv[2:])
    else:
        asked = next(peer for peers in PEERS.values() for peer in peers if peer.name == sys.argv[1])
        print(json.dumps(asked.run(int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))))
