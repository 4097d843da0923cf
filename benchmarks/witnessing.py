"""The witness under load: two-signed records over mutual TLS, until durable, published, cosigned and proved.

The goal counts records of two Ed25519 signatures. Connectors sign with ML-DSA-44 as well: four signatures a
record, which is reported beside it. CPU is that of the witness and of the processes that check signatures.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from benchmarks.measure import Result, cpu_of, peak_of
from connector.enrolment import load_members
from connector.identity import channel_credentials, channel_options, load_evidence_keys, utc_now
from connector.loopback import WITNESS, Loopback
from connector.records import DONE, Statement
from connector.terms import milliseconds
from witness import dsse
from witness.client import Uncosigned, WitnessClient
from witness.keys import PrivateKeys
from witness.log import Log
from witness.log import Submission as Entry
from witness.record import PAYLOAD_TYPE, Contract, Data, Exchange, Party, Sensitive, exchange_tag

NAME, OWNER, ASKER = "benchmark", "owner", "asker"
MEMBERS = {OWNER: "CN-SZ", ASKER: "HK"}
PER_CALL, CLIENTS = 64, 4
UNARY_CLIENTS, UNARY = 32, 2048
SINGLES = 200
COSIGNERS = {"witness-b": "HK", "witness-c": "HK", "witness-d": "HK"}
BUILT_AT_ONCE, PROOFS = 2**15, 500
Submission = tuple[bytes, bytes]


def recorded(rows: int, entries: int) -> Result:
    """Records per second, 64 a call and one a call; how long a single one takes; proofs from a large log."""
    with tempfile.TemporaryDirectory(prefix="bayspace-benchmark-") as folder:
        space = Loopback(Path(folder) / "space", NAME, MEMBERS)
        with space.running():
            result = _recorded(space, rows)
        figures = result.figures | _cosigned(Path(folder) / "cosigned")
        return replace(result, figures=figures | _proved(Path(folder) / "large", entries))


def _recorded(space: Loopback, rows: int) -> Result:
    maker = _Maker(space)
    process = space.processes[WITNESS].pid
    clients, callers = maker.clients([OWNER] * CLIENTS), maker.clients([OWNER, ASKER] * (UNARY_CLIENTS // 2))
    _submit(clients, maker.many(PER_CALL * CLIENTS, 1), PER_CALL)  # what starts with the first batch
    batches = _Load(process, clients, maker.many(rows, 1), PER_CALL)
    both = _Load(process, clients, maker.many(rows // 4, 2), PER_CALL)
    unary = _Load(process, callers, maker.many(min(rows, UNARY), 1), 1)
    figures = {
        "records_per_s": batches.per_s,
        "cpu_us_per_record": batches.cpu_us,
        "both_algorithms_per_s": both.per_s,
        "both_algorithms_cpu_us_per_record": both.cpu_us,
        "unary_per_s": unary.per_s,
        "unary_cpu_us_per_record": unary.cpu_us,
        **_percentiles("published", _until_proved(clients[0], maker.many(SINGLES, 2))),
    }
    for client in (*clients, *callers):
        client.close()
    seconds, cpu, peak = batches.seconds, batches.cpu, peak_of(process)
    return Result("witness", rows, "64 a call", seconds, cpu, peak_rss_mb=peak, figures=figures)


def _cosigned(folder: Path) -> dict[str, float]:
    """From submission to a proof that three local witnesses have cosigned, each with both of its keys."""
    space = Loopback(folder, NAME, MEMBERS, {WITNESS: "CN-SZ", **COSIGNERS})
    quorum = folder / WITNESS / "quorum.policy"
    quorum.write_text(quorum.read_text().replace("group one-of-them any", "group one-of-them all"))
    try:
        for name in (WITNESS, *COSIGNERS):
            space.start(name)
        for name in (WITNESS, *COSIGNERS):
            space.await_ready(name)
        maker = _Maker(space)
        (client,) = maker.clients([OWNER])
        _when_confirmed(client, maker.many(1, 1))
        times = _until_proved(client, maker.many(SINGLES, 2))
        client.close()
        return _percentiles("cosigned", times)
    finally:
        space.stop()


def _when_confirmed(client: WitnessClient, submissions: Sequence[Submission]) -> None:
    """A log takes nothing between its start and its first quorum."""
    until = time.monotonic() + 30
    while True:
        try:
            client.submit(submissions)
            return
        except Uncosigned:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _proved(folder: Path, entries: int) -> dict[str, float]:
    """From an index to the text of its proof, in a log of so many entries (of 16 bytes each)."""
    if not entries:
        return {}
    now = milliseconds(utc_now())
    log = Log(folder, "large.example/log", PrivateKeys.generate(os.urandom), lambda: now)
    try:
        start = time.perf_counter()
        for first in range(0, entries, BUILT_AT_ONCE):
            contents = [n.to_bytes(16, "big") for n in range(first, min(first + BUILT_AT_ONCE, entries))]
            log.append([Entry(sha256(content).digest(), content, bytes(32)) for content in contents])
        built = time.perf_counter() - start
        chosen = random.Random(7).sample(range(entries), min(entries, PROOFS))
        times = [_seconds(lambda index=index: str(log.prove(index))) for index in chosen]
    finally:
        log.close()
    return {"entries": entries, "appended_per_s": round(entries / built), **_percentiles("proof", times)}


class _Load:
    """Submissions sent as fast as they are answered: wall seconds, and the witness's CPU seconds."""

    def __init__(
        self, process: int, clients: Sequence[WitnessClient], submissions: Sequence[Submission], per_call: int
    ) -> None:
        before = _cpu_of_all(process)
        self.seconds = _submit(clients, submissions, per_call)
        self.cpu = _cpu_of_all(process) - before
        self.per_s = round(len(submissions) / self.seconds)
        self.cpu_us = round(self.cpu / len(submissions) * 1e6)


def _cpu_of_all(pid: int) -> float:
    """CPU seconds of a process and of the processes that it started and that still run (Linux)."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return cpu_of(pid) + sum(cpu_of(int(child)) for one in lists for child in one.read_text().split())


def _submit(clients: Sequence[WitnessClient], submissions: Sequence[Submission], per_call: int) -> float:
    """Seconds until all are recorded, every client sending the next call when the last is answered."""
    calls = [submissions[first : first + per_call] for first in range(0, len(submissions), per_call)]

    def send(number: int) -> bool:
        mine = calls[number :: len(clients)]
        return all(item.index is not None for call in mine for item in clients[number].submit(call))

    start = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        recorded = list(pool.map(send, range(len(clients))))
    seconds = time.perf_counter() - start
    if not all(recorded):
        raise AssertionError("a record was rejected")
    return seconds


def _until_proved(client: WitnessClient, submissions: Sequence[Submission]) -> list[float]:
    def one(submission: Submission) -> None:
        client.submit([submission])
        client.await_proof(*submission)

    return [_seconds(lambda submission=submission: one(submission)) for submission in submissions]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _percentiles(what: str, seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return {f"{what}_p50_ms": round(p50 * 1e3, 1), f"{what}_p99_ms": round(p99 * 1e3, 1)}


class _Maker:
    """Clients of a space's witness, and records that its two members have signed."""

    def __init__(self, space: Loopback) -> None:
        self._space = space
        self._members = load_members(space.settings(OWNER).trust)
        self._keys = {name: load_evidence_keys(space.settings(name).evidence_key_path) for name in MEMBERS}

    def clients(self, names: Sequence[str]) -> list[WitnessClient]:
        """A client for each of these members, over a connection of its own."""
        witness = self._members.participant(WITNESS)
        if witness is None:
            raise AssertionError("the space has a witness")
        return [
            WitnessClient(
                witness.address,
                channel_credentials(self._space.settings(name).tls),
                witness.logs,
                # a channel option of its own keeps gRPC from sharing one connection among all
                (*channel_options(self._members.space, WITNESS), ("bayspace.number", number)),
            )
            for number, name in enumerate(names)
        ]

    def many(self, count: int, algorithms: int) -> list[Submission]:
        """So many records, signed with the first or with both algorithms."""
        keys = {name: PrivateKeys(both.keys[:algorithms]) for name, both in self._keys.items()}
        return [_envelope(self._members.space, self._members.digest, keys) for _ in range(count)]


def _envelope(space: str, members: str, keys: dict[str, PrivateKeys]) -> tuple[bytes, bytes]:
    now = milliseconds(utc_now())
    parties = tuple(
        Party(name, role, keys[name].public.ids, "0" * 64, now)
        for name, role in ((OWNER, "provider"), (ASKER, "consumer"))
    )
    statement = Statement(
        event="contract.request",
        space=space,
        members=members,
        exchange=Exchange(os.urandom(16).hex(), 0),
        parties=parties,
        outcome=DONE,
        data=Data(),
        contract=Contract("0" * 64, "benchmark"),
        sensitive=Sensitive(),
    )
    sealed = statement.seal(os.urandom)
    envelope = dsse.sign(PAYLOAD_TYPE, sealed.payload, [key for both in keys.values() for key in both.keys])
    return envelope.to_bytes(), exchange_tag(os.urandom(32), 0, OWNER)
