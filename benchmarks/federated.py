"""Benchmarks of federated sums: all roles of one round in this process, keys signed and checked."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks import peers
from benchmarks.measure import Result, counted, cpu_of_self, median, peak_of_self
from compute.federation import MOST_PARTICIPANTS, Contribution, Entry, Member, Roster, Shape, Totals
from compute.frames import Role
from compute.protocols import he_sum as threshold_sum
from compute.protocols import masked_sum as pairwise_sum
from compute.protocols.base import run_round
from compute.threshold import Parameters

ROWS_OF_EACH, ROW_BOUND = 10**6, 10**4


def masked_sum(options: argparse.Namespace) -> Result:
    """Pairwise masks: seconds of the whole round, of all parties one after the other on this machine."""
    return median(_once(options, "masked_sum") for _ in range(options.runs))


def he_sum(options: argparse.Namespace) -> Result:
    """The same sums under a threshold key."""
    result = median(_once(options, "he_sum") for _ in range(options.runs))
    found = peers.measured("he_sum", options.peers, result.rows, 0.5, options.runs, options.parties)
    return replace(result, peers=found)


def _once(options: argparse.Namespace, protocol: str) -> Result:
    parties, cells = options.parties, options.rows or 10_000
    shape = Shape(cells, 1)
    own = Contribution(tuple([3] * cells), (tuple(range(-cells // 2, cells - cells // 2)),))
    members, roster = _members(parties)
    sent = {"asker": 0, "participants": 0}
    start, before = time.perf_counter(), cpu_of_self()
    roles = [_roles(protocol, roster, member, shape, own) for member in members]
    askers = [counted(asker, sent, "asker") for asker, _ in roles]
    participants = [counted(participant, sent, "participants") for _, participant in roles]
    totals, _ = run_round(askers, participants)
    seconds, cpu = time.perf_counter() - start, cpu_of_self() - before
    if any(found.measures[0] != tuple(parties * value for value in own.measures[0]) for found in totals):
        raise AssertionError("the federated sum is wrong")
    figures = {
        "parties": parties,
        "bytes_per_participant": round(sum(sent.values()) / parties),
        "cpu_seconds_per_participant": round(cpu / parties, 3),
    }
    return Result(
        protocol,
        cells,
        protocol,
        seconds,
        cpu,
        sent["asker"],
        sent["participants"],
        peak_of_self(),
        figures=figures,
    )


def _roles(
    protocol: str, roster: Roster, member: Member, shape: Shape, own: Contribution
) -> tuple[Role[Totals], Role[list[bool]]]:
    if protocol == "masked_sum":
        return pairwise_sum.coordinator(roster, shape), pairwise_sum.participant(
            member, shape, own, os.urandom
        )
    largest = len(roster.entries) * ROWS_OF_EACH * ROW_BOUND
    parameters = Parameters.derive(MOST_PARTICIPANTS, largest, [shape.counted, shape.measured])
    return (
        threshold_sum.coordinator(roster, shape, parameters),
        threshold_sum.participant(member, shape, parameters, own, os.urandom),
    )


def _members(parties: int) -> tuple[list[Member], Roster]:
    names = [f"party-{i:02}" for i in range(parties)]
    keys = {name: Ed25519PrivateKey.generate() for name in names}

    def verify(name: str, message: bytes, signature: bytes) -> None:
        keys[name].public_key().verify(signature, message)

    entries = [Entry(name, "aa" * 32, "bb" * 32, os.urandom(32).hex(), 1, 1) for name in names]
    members = [
        Member(entry, tuple(names), keys[entry.participant].sign, verify, lambda: None) for entry in entries
    ]
    return members, Roster(tuple(entries))
