"""Benchmarks without connectors: kernel, selection sum, witness, start of the command line."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks import peers
from benchmarks.measure import Result, counted, cpu_of_self, median, openssl_x25519, peak_of_self, timed
from compute import kernel as native
from compute import selection_sum as sums
from compute.protocols.base import run_pair


def kernel(options: argparse.Namespace) -> Result:
    """Masks and hashes per second on all cores; with `--threads 1`, of one core that has no other work.

    OpenSSL's X25519 is the same scalar multiplication, one at a time.
    """
    rows = options.rows or 2**18
    keys = pa.array([n.to_bytes(16, "big") for n in range(rows)], pa.large_binary())
    points = native.hash_to_group(keys, b"benchmark")
    scalar = os.urandom(32)
    hashing, _ = timed(lambda: native.hash_to_group(keys, b"benchmark"), options.runs)
    masking, cpu = timed(lambda: native.mask(points, scalar), options.runs)
    tags = native.truncated_tags(points, bytes(32), 16)
    matching, _ = timed(lambda: native.match(tags, tags), options.runs)
    cores = int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count() or 1))
    figures = {
        "masks_per_s": round(rows / masking),
        "masks_per_s_per_core": round(rows / masking / cores),
        "hashes_per_s": round(rows / hashing),
        "matches_per_s": round(rows / matching),
        "threads": cores,
        "openssl_x25519_per_s": round(openssl_x25519(options.runs)),
    }
    return Result("kernel", rows, "curve25519", masking, cpu, peak_rss_mb=peak_of_self(), figures=figures)


def selection_sum(options: argparse.Namespace) -> Result:
    """One group, one measure: encrypt, send, mask, sum, flood, return, decrypt. CPU is both parties'.

    With `--weight`, the receiver brings a column of weights as well. Bytes a value are of both directions.
    """
    rows, heaviest = options.rows or 10**6, options.weight or None
    rng = np.random.default_rng(3)
    values = rng.integers(-options.bound, options.bound, rows, endpoint=True)
    chosen = np.flatnonzero(rng.random(rows) < 0.5).astype(np.int64)
    weights = (rng.integers(-heaviest, heaviest, len(chosen), endpoint=True),) if heaviest else ()
    shape, magnitude = sums.Shape(1, 1, len(weights)), options.bound * rows
    parameters = sums.Parameters.derive(
        slots=rows,
        selected=rows,
        returned=shape.selections,
        bounds=[sums.SumBound(magnitude)],
        weight_bound=heaviest,
    )
    group = sums.SenderGroup(np.arange(rows, dtype=np.int64), (values,))
    selected = sums.ReceiverGroup(chosen, weights)
    due = _sums(values[chosen].astype(object), [w.astype(object) for w in weights])
    results = []
    for _ in range(options.runs):
        sent = {"sender": 0, "receiver": 0}
        start, before = time.perf_counter(), cpu_of_self()
        sender = sums.sender(parameters, shape, [group], lambda counts: counts >= 0, os.urandom)
        receiver = sums.receiver(parameters, shape, [selected], os.urandom)
        answers, opening = run_pair(counted(sender, sent, "sender"), counted(receiver, sent, "receiver"))
        opened = sums.open_answers(parameters, shape, opening, answers.encode(parameters, shape))
        seconds, cpu = time.perf_counter() - start, cpu_of_self() - before
        if opened[0, 0] != due:
            raise AssertionError("the selection sum is wrong")
        figures = {
            "bytes_per_value": round(sum(sent.values()) / rows, 2),
            "q_bits": parameters.q.bit_length(),
            "degree": parameters.degree,
            "plain_bits": parameters.plain_bits,
        }
        results.append(
            Result(
                "selection_sum",
                rows,
                f"bfv, |value| <= {options.bound}",
                seconds,
                cpu,
                sent["receiver"],
                sent["sender"],
                peak_of_self(),
                figures=figures,
            )
        )
    found = peers.measured("selection_sum", options.peers, rows, 0.5, options.runs)
    return replace(median(results), peers=found)


def _sums(values: NDArray[np.object_], weights: list[NDArray[np.object_]]) -> sums.CellSums:
    """What the cell must hold, in Python's integers."""
    weighted = tuple((int(w.sum()), int((w * values).sum())) for w in weights)
    return sums.CellSums(len(values), (int(values.sum()),), weighted)


def witness(options: argparse.Namespace) -> Result:
    """Records with two signatures verified, durable, published, cosigned and proved."""
    from benchmarks.witnessing import recorded

    return recorded(options.rows or 8192, options.entries, options.runs)


def imported(options: argparse.Namespace) -> Result:
    """The command line, imported by a fresh interpreter; the floor is one that imports nothing."""

    def start(program: str) -> float:
        return timed(lambda: subprocess.run([sys.executable, "-c", program], check=True), options.runs)[0]

    return Result("import", 1, "connector.cli", start("import connector.cli"), 0.0, floor_seconds=start(""))
