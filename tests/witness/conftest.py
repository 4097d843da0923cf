"""A small data space with fixed keys and clock, its log, and bundles made from it."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from witness import bundle, dsse, keys, members, note, record, trust
from witness.log import Log, Submission

START = 1_767_225_600_000  # 2026-01-01T00:00:00.000Z
ORIGIN = "witness.example/gba"
SPACE = "gba"


def entropy_of(seed: str) -> Callable[[int], bytes]:
    """A deterministic stream of bytes: SHA-256(seed || counter)."""
    counter = iter(range(1 << 30))

    def draw(size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += hashlib.sha256(f"{seed}/{next(counter)}".encode()).digest()
        return data[:size]

    return draw


def key_of(name: str, algorithm: str = keys.ED25519) -> keys.PrivateKey:
    return keys.PrivateKey.from_seed(hashlib.sha256(f"test key of {name}".encode()).digest(), algorithm)


@dataclass
class Space:
    """Keys, member lists and a clock; makes signed records of one exchange."""

    now: int = START
    entropy: Callable[[int], bytes] = field(default_factory=lambda: entropy_of("space"))

    def __post_init__(self) -> None:
        self.operator, self.log_key = key_of("operator"), key_of("log")
        self.keys = {name: key_of(name) for name in ("hk-bank", "sz-trade", "auditor")}
        self.vkey = str(note.verifier_key(ORIGIN, self.log_key.public))
        self.members = members.successor(None, SPACE, self.participants(), START - 1000)
        self.member_envelope = members.sign(self.members, [self.operator])
        self.trust = trust.of_logs(SPACE, [self.operator.public], [self.vkey])

    def participants(self) -> list[members.Participant]:
        connectors = [
            members.Participant(
                id=name,
                role=members.CONNECTOR,
                keys=(members.EvidenceKey(key.public, START - 1000),),
                address=f"{name}.example:7443",
                jurisdiction="HK" if name == "hk-bank" else "CN-SZ",
            )
            for name, key in self.keys.items()
        ]
        log = members.Participant(
            "witness-a", members.WITNESS, (), "witness.example:7443", "CN-SZ", logs=(self.vkey,)
        )
        return [*connectors, log]

    def new_key(self, name: str) -> keys.PrivateKey:
        return key_of(name)

    def clock(self) -> int:
        self.now += 1
        return self.now

    def party(self, name: str, role: str) -> record.Party:
        return record.Party(name, role, (self.keys[name].public.id,), "b" * 64, self.now)

    def seal(
        self, event: str = "query.intent", sequence: int = 0, previous: str | None = None, **changes: object
    ) -> record.Sealed:
        needed = record.REQUIRED_COMMITMENTS.get(event, frozenset())
        facts: dict[str, object] = {
            "event": event,
            "space": SPACE,
            "members": self.members.digest,
            "exchange": record.Exchange("e" * 32, sequence, previous),
            "parties": [self.party("hk-bank", "consumer"), self.party("sz-trade", "provider")],
            "outcome": record.Outcome("done"),
            "data": record.Data(commitments={n: record.commit(n, salt_of(n), value_of(n)) for n in needed}),
            "contract": record.Contract("c" * 64, "v3", "a" * 64),
            "sensitive": record.Sensitive(
                correlation="f" * 32, purpose=("credit-risk",), figures={"rows": 1000}, budget={"rho": "0.05"}
            ),
            "entropy": self.entropy,
        }
        return record.seal(**{**facts, **changes})

    def sign(self, sealed: record.Sealed, *names: str) -> dsse.Envelope:
        signers = [self.keys[name] for name in names or ("hk-bank", "sz-trade")]
        return dsse.sign(record.PAYLOAD_TYPE, sealed.payload, signers)

    def submission(self, envelope: dsse.Envelope) -> Submission:
        return Submission(envelope.digest, envelope.to_bytes(), b"t" * 32)

    def exchange(self) -> list[tuple[record.Sealed, dsse.Envelope]]:
        """Intent and release, signed by both, and the receiver's own result."""
        intent = self.seal()
        release = self.seal("query.release", 1, intent.digest)
        result = self.seal("query.result", 2, release.digest, parties=[self.party("hk-bank", "consumer")])
        return [
            (intent, self.sign(intent)),
            (release, self.sign(release)),
            (result, self.sign(result, "hk-bank")),
        ]

    def item(self, log: Log, sealed: record.Sealed, envelope: dsse.Envelope) -> bundle.Item:
        """Logs the envelope and puts it, with all there is to open, into a bundle item."""
        index = log.append([self.submission(envelope)])[0]
        return bundle.Item(
            envelope,
            str(log.prove(index)),
            tuple(d.encode() for d in sealed.disclosures),
            tuple(
                bundle.Opening(name, salt_of(name), value_of(name)) for name in sealed.record.data.commitments
            ),
        )

    def bundle(self, log: Log) -> bytes:
        """The whole exchange as a bundle."""
        return bundle.build([self.item(log, *made) for made in self.exchange()], [self.member_envelope])


def salt_of(name: str) -> bytes:
    return hashlib.sha256(f"salt of {name}".encode()).digest()


def value_of(name: str) -> bytes:
    return f"SELECT the {name} 一".encode()


@pytest.fixture
def space() -> Space:
    return Space()


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power, so syncing would only cost time; its order has a test of its own."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Opener:
    """Opens (again) the log in the test's folder; there is one open log at a time."""

    def __init__(self, space: Space, folder: Path) -> None:
        self.space, self.folder = space, folder
        self.log: Log | None = None

    def __call__(self, **options: object) -> Log:
        self.close()
        if not self.folder.exists():
            self.space.now -= 1  # creating a log reads the clock, which it did not when the vectors were made
        signing = options.pop("keys", keys.PrivateKeys([self.space.log_key]))
        self.log = Log(self.folder, ORIGIN, signing, self.space.clock, **options)
        return self.log

    def close(self) -> None:
        if self.log is not None:
            self.log.close()
        self.log = None


@pytest.fixture
def open_log(space: Space, tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(space, tmp_path / "log")
    yield opener
    opener.close()


@pytest.fixture
def log(open_log: Opener) -> Log:
    return open_log()
