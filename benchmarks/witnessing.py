"""The witness under load: two-signed records, 64 a call, over mutual TLS, until durable and published.

The goal counts records of two Ed25519 signatures. Connectors sign with ML-DSA-44 as well: four signatures a
record, which is reported beside it.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measure import Result, cpu_of, peak_of
from connector.enrolment import load_members
from connector.identity import channel_credentials, channel_options, load_evidence_keys, utc_now
from connector.loopback import WITNESS, Loopback
from connector.records import DONE, Statement
from connector.terms import milliseconds
from witness import dsse
from witness.client import WitnessClient
from witness.keys import PrivateKeys
from witness.record import PAYLOAD_TYPE, Contract, Data, Exchange, Party, Sensitive, exchange_tag

OWNER, ASKER = "owner", "asker"
PER_CALL, CLIENTS = 64, 4


def recorded(rows: int) -> Result:
    """Records per second from four clients; then the time of single records until a proof is held."""
    with tempfile.TemporaryDirectory(prefix="bayspace-benchmark-") as folder:
        space = Loopback(Path(folder) / "space", "benchmark", {OWNER: "CN-SZ", ASKER: "HK"})
        with space.running():
            return _recorded(space, rows)


def _recorded(space: Loopback, rows: int) -> Result:
    settings = space.settings(OWNER)
    members = load_members(settings.trust)
    keys = {name: load_evidence_keys(space.settings(name).evidence_key_path) for name in (OWNER, ASKER)}
    classic = {name: PrivateKeys(both.keys[:1]) for name, both in keys.items()}
    envelopes = [_envelope(members.space, members.digest, classic) for _ in range(rows)]
    doubly = [_envelope(members.space, members.digest, keys) for _ in range(rows // 4)]
    witness = members.participant(WITNESS)
    if witness is None:
        raise AssertionError("the space has a witness")
    clients = [
        WitnessClient(
            witness.address,
            channel_credentials(settings.tls),
            witness.logs,
            channel_options(members.space, WITNESS),
        )
        for _ in range(CLIENTS)
    ]
    process = space.processes[WITNESS].pid
    clients[0].checkpoint()
    before = cpu_of(process)
    seconds = _submit(clients, envelopes)
    cpu = cpu_of(process) - before
    double_seconds = _submit(clients, doubly)
    double_cpu = cpu_of(process) - before - cpu
    singles = sorted(
        _until_proved(clients[0], _envelope(members.space, members.digest, keys)) for _ in range(100)
    )
    figures = {
        "records_per_s": round(rows / seconds),
        "cpu_us_per_record": round(cpu / rows * 1e6),
        "both_algorithms_per_s": round(len(doubly) / double_seconds),
        "both_algorithms_cpu_us_per_record": round(double_cpu / len(doubly) * 1e6),
        "published_p50_ms": round(singles[50] * 1e3, 1),
        "published_p99_ms": round(singles[98] * 1e3, 1),
    }
    for client in clients:
        client.close()
    return Result("witness", rows, "64 a call", seconds, cpu, peak_rss_mb=peak_of(process), figures=figures)


def _submit(clients: list[WitnessClient], envelopes: list[tuple[bytes, bytes]]) -> float:
    """Seconds until all are recorded, every client sending the next call when the last is answered."""
    calls = [envelopes[start : start + PER_CALL] for start in range(0, len(envelopes), PER_CALL)]
    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(
            pool.map(lambda numbered: clients[numbered[0] % CLIENTS].submit(numbered[1]), enumerate(calls))
        )
    seconds = time.perf_counter() - start
    if any(item.index is None for answer in answers for item in answer):
        raise AssertionError("a record was rejected")
    return seconds


def _until_proved(client: WitnessClient, submission: tuple[bytes, bytes]) -> float:
    start = time.perf_counter()
    client.submit([submission])
    client.await_proof(*submission)
    return time.perf_counter() - start


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
