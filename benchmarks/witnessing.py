"""The witness under load: two-signed records over mutual TLS, until durable, published, cosigned and proved.

The goal counts records of two Ed25519 signatures. Connectors sign with ML-DSA-44 as well: four signatures a
record, which is reported beside it. CPU is that of the witness and of the processes that check signatures.

Four members share one process here, on the same cores as the witness. What connectors do elsewhere is done
before the clock starts: signing, and making the bytes of each call. Timed is everything else: gRPC and TLS at
both ends, and all that the witness does until a call is answered, which is when its records are published.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import grpc

from benchmarks.measure import Result, cpu_of, cpu_of_self, median, openssl_x25519, peak_of
from connector.enrolment import load_members
from connector.identity import channel_credentials, channel_options, load_signing_keys, utc_now
from connector.loopback import WITNESS, Loopback
from connector.records import DONE, Statement
from connector.terms import milliseconds
from witness import dsse
from witness.client import Uncosigned, WitnessClient
from witness.keys import PrivateKeys
from witness.log import Log
from witness.log import Submission as Entry
from witness.record import PAYLOAD_TYPE, Contract, Data, Exchange, Party, Sensitive, exchange_tag
from witness.v1 import witness_pb2 as pb

NAME, OWNER, ASKER = "benchmark", "owner", "asker"
MEMBERS = {OWNER: "CN-SZ", ASKER: "HK", "bank": "HK", "customs": "CN-SZ"}
PER_CALL, CALLS_EACH = 64, 4  # and of each member's calls so many at once
UNARY, UNARY_CALLS_EACH = 4096, 16  # 64 clients
SINGLES = 200
COSIGNERS = {"witness-b": "HK", "witness-c": "HK", "witness-d": "HK"}
BUILT_AT_ONCE, PROOFS = 2**15, 500
SUBMIT = "/bayspace.witness.v1.Witness/SubmitBatch"
Submission = tuple[bytes, bytes]
_Calls = Mapping[str, Sequence[bytes]]  # of each member


def recorded(rows: int, entries: int, runs: int) -> Result:
    """Records per second, 64 a call and one a call; how long a single one takes; proofs from a large log.

    Of each load the median of its runs, which take turns; of the yardstick that of all before and after them.
    """
    with tempfile.TemporaryDirectory(prefix="bayspace-benchmark-") as folder:
        space = Loopback(Path(folder) / "space", NAME, MEMBERS)
        try:
            space.start(WITNESS)
            space.await_ready(WITNESS)
            result = _recorded(space, rows, runs)
        finally:
            space.stop()
        figures = result.figures | _cosigned(Path(folder) / "cosigned")
        return replace(result, figures=figures | _proved(Path(folder) / "large", entries))


def _recorded(space: Loopback, rows: int, runs: int) -> Result:
    maker = _Maker(space)
    process = space.processes[WITNESS].pid
    asyncio.run(_sent(maker, maker.calls(PER_CALL * len(MEMBERS), 1, PER_CALL), 1))  # starts processes
    beside = [openssl_x25519(1)]
    taken: list[tuple[_Load, ...]] = []
    for _ in range(runs):
        calls = maker.calls(rows, 1, PER_CALL), maker.calls(rows // 4, 2, PER_CALL)
        single = maker.calls(min(rows, UNARY), 1, 1)
        many = [_load(process, maker, each, CALLS_EACH) for each in calls]
        taken.append((*many, _load(process, maker, single, UNARY_CALLS_EACH)))
        beside.append(openssl_x25519(1))
    batches, both, unary = (median(of_one_kind) for of_one_kind in zip(*taken, strict=True))
    client = maker.client(OWNER)
    figures = {
        "records_per_s": batches.per_s,
        "cpu_us_per_record": batches.cpu_us,
        "both_algorithms_per_s": both.per_s,
        "both_algorithms_cpu_us_per_record": both.cpu_us,
        "unary_per_s": unary.per_s,
        "unary_cpu_us_per_record": unary.cpu_us,
        "unary_clients_cpu_us_per_record": unary.clients_cpu_us,
        "openssl_x25519_per_s": round(statistics.median(beside)),
        **_percentiles("unary", unary.walls),
        **_percentiles("published", _until_proved(client, maker.many(SINGLES, 2))),
    }
    client.close()
    seconds, cpu, peak = batches.seconds, batches.cpu, peak_of(process)
    return Result("witness", batches.records, "64 a call", seconds, cpu, peak_rss_mb=peak, figures=figures)


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
        client = maker.client(OWNER)
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
        times = [_seconds(partial(_written_proof, log, index)) for index in chosen]
    finally:
        log.close()
    return {"entries": entries, "appended_per_s": round(entries / built), **_percentiles("proof", times)}


@dataclass(frozen=True)
class _Load:
    """Calls sent as fast as they are answered: wall and CPU seconds, and the seconds of each call."""

    records: int
    seconds: float
    cpu: float
    clients_cpu: float
    walls: list[float]

    @property
    def per_s(self) -> int:
        return round(self.records / self.seconds)

    @property
    def cpu_us(self) -> int:
        return round(self.cpu / self.records * 1e6)

    @property
    def clients_cpu_us(self) -> int:
        return round(self.clients_cpu / self.records * 1e6)


def _load(process: int, maker: _Maker, calls: _Calls, at_once: int) -> _Load:
    own, its, start = cpu_of_self(), _cpu_of_all(process), time.perf_counter()
    answered = asyncio.run(_sent(maker, calls, at_once))
    seconds = time.perf_counter() - start
    cpu, clients_cpu = _cpu_of_all(process) - its, cpu_of_self() - own
    receipts = [
        receipt for reply, _ in answered for receipt in pb.SubmitBatchResponse.FromString(reply).receipts
    ]
    if any(receipt.WhichOneof("result") != "index" for receipt in receipts):
        raise AssertionError("a record was rejected")
    return _Load(len(receipts), seconds, cpu, clients_cpu, [wall for _, wall in answered])


async def _sent(maker: _Maker, calls: _Calls, at_once: int) -> list[tuple[bytes, float]]:
    """What each call was answered, and when: every member has so many calls open, over one connection."""
    answered: list[tuple[bytes, float]] = []

    async def send(call: Callable[[bytes], Awaitable[bytes]], own: Iterator[bytes]) -> None:
        for request in own:
            start = time.perf_counter()
            reply = await call(request)
            answered.append((reply, time.perf_counter() - start))

    channels = {name: maker.channel(name) for name in calls}
    senders = (
        send(channels[name].unary_unary(SUBMIT, bytes, bytes), own)
        for name, own in ((name, iter(requests)) for name, requests in calls.items())
        for _ in range(at_once)
    )
    await asyncio.gather(*senders)
    await asyncio.gather(*(channel.close() for channel in channels.values()))
    return answered


def _cpu_of_all(pid: int) -> float:
    """CPU seconds of a process and of the processes that it started and that still run (Linux)."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return cpu_of(pid) + sum(cpu_of(int(child)) for one in lists for child in one.read_text().split())


def _written_proof(log: Log, index: int) -> str:
    return str(log.prove(index))


def _until_proved(client: WitnessClient, submissions: Sequence[Submission]) -> list[float]:
    def one(submission: Submission) -> None:
        client.submit([submission])
        client.await_proof(*submission)

    return [_seconds(partial(one, submission)) for submission in submissions]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _percentiles(what: str, seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return {f"{what}_p50_ms": round(p50 * 1e3, 1), f"{what}_p99_ms": round(p99 * 1e3, 1)}


class _Maker:
    """Connections to a space's witness, and records that two of its members have signed."""

    def __init__(self, space: Loopback) -> None:
        self._space = space
        self._members = load_members(space.settings(OWNER).trust)
        self._keys = {name: load_signing_keys(space.settings(name).evidence_key_path) for name in MEMBERS}
        witness = self._members.participant(WITNESS)
        if witness is None:
            raise AssertionError("the space has a witness")
        self._address, self._logs = witness.address, witness.logs
        self._options = channel_options(self._members.space, WITNESS)

    def client(self, name: str) -> WitnessClient:
        """A client for this member."""
        return WitnessClient(self._address, self._credentials(name), self._logs, self._options)

    def channel(self, name: str) -> grpc.aio.Channel:
        """A connection of this member."""
        return grpc.aio.secure_channel(self._address, self._credentials(name), self._options)

    def _credentials(self, name: str) -> grpc.ChannelCredentials:
        return channel_credentials(self._space.settings(name).tls)

    def calls(self, count: int, algorithms: int, per_call: int) -> _Calls:
        """At least so many records as the bytes of full calls, an equal share for each member."""
        each = range(math.ceil(count / len(MEMBERS) / per_call))
        return {name: [_request(self.many(per_call, algorithms, name)) for _ in each] for name in MEMBERS}

    def many(self, count: int, algorithms: int, name: str = OWNER) -> list[Submission]:
        """So many records of this member and the next, signed with the first or with both algorithms."""
        names = (*MEMBERS, *MEMBERS)
        other = names[names.index(name) + 1]
        keys = {party: PrivateKeys(self._keys[party].keys[:algorithms]) for party in (name, other)}
        return [_envelope(self._members.space, self._members.digest, keys) for _ in range(count)]


def _request(submissions: Sequence[Submission]) -> bytes:
    made = [pb.Submission(envelope=envelope, tag=tag) for envelope, tag in submissions]
    return pb.SubmitBatchRequest(submissions=made).SerializeToString()


def _envelope(space: str, members: str, keys: dict[str, PrivateKeys]) -> tuple[bytes, bytes]:
    now = milliseconds(utc_now())
    parties = tuple(
        Party(name, role, keys[name].public.ids, "0" * 64, now)
        for name, role in zip(keys, ("provider", "consumer"), strict=True)
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
    return envelope.to_bytes(), exchange_tag(os.urandom(32), 0, parties[0].id)
