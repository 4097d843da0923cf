"""A log of ours, made once, for tools written elsewhere to judge."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from witness import checkpoint, note
from witness.checkpoint import Checkpoint
from witness.keys import ED25519, ML_DSA_44, PrivateKey, PrivateKeys
from witness.leaf import Leaf
from witness.log import Log, Submission
from witness.tlog_proof import TlogProof

ORIGIN = "witness.example/interop"
BATCHES = (1, 255, 1, 143, 200)  # tiles full to the last hash, just begun, and partial at the edge
NOW = 1_767_225_600_000


def key_of(name: str, algorithm: str = ED25519) -> PrivateKey:
    return PrivateKey.from_seed(hashlib.sha256(name.encode()).digest(), algorithm)


@dataclass(frozen=True)
class Published:
    """A published log: its folder, keys, leaves, heads after each batch, and a proof of every entry."""

    log: Log
    folder: Path
    heads: tuple[Checkpoint, ...]
    leaves: tuple[Leaf, ...]
    proofs: tuple[TlogProof, ...]

    @property
    def head(self) -> Checkpoint:
        return self.heads[-1]

    @property
    def checkpoint(self) -> str:
        return (self.folder / "checkpoint").read_text("utf-8")

    def signed(self, head: Checkpoint) -> str:
        """A head of this log as it once was published."""
        return str(checkpoint.sign(head, key_of("log")))

    @property
    def vkeys(self) -> list[str]:
        return [str(vkey) for vkey in self.log.vkeys]


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interop-log")
    clock = iter(range(NOW, NOW + 10**6))
    keys = PrivateKeys([key_of("log"), key_of("log", ML_DSA_44)])
    log = Log(folder, ORIGIN, keys, lambda: next(clock))
    heads, entry = [], 0
    for size in BATCHES:
        batch = [submission(entry + n) for n in range(size)]
        log.append(batch)
        entry += size
        heads.append(checkpoint.parse(log.head.text))
    proofs = tuple(log.prove(index) for index in range(entry))
    leaves = tuple(Leaf(*parts(proof.extra or b"")) for proof in proofs)
    yield Published(log, folder / "public", tuple(heads), leaves, proofs)
    log.close()


def parts(leaf: bytes) -> tuple[bytes, bytes, int]:
    return leaf[1:33], leaf[33:65], int.from_bytes(leaf[65:], "big")


def submission(number: int) -> Submission:
    envelope = b"envelope %d" % number
    digest = hashlib.sha256(envelope).digest()
    return Submission(digest, envelope, hashlib.sha256(b"tag" + digest).digest())


@pytest.fixture(scope="session")
def interop_key():
    """The fixed key of a name; `log` is the log's Ed25519 key."""
    return key_of


@pytest.fixture(scope="session")
def cosigned_note():
    """The notes's known cosigners, by their verifier keys."""

    def read(text: str, *vkeys: str) -> list[int | None]:
        from witness.cosignature import cosigned_at

        return [cosigned_at(note.parse(text), note.parse_vkey(vkey)) for vkey in vkeys]

    return read
