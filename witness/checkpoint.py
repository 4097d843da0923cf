"""C2SP tlog-checkpoint (c2sp.org/tlog-checkpoint): a log's tree head as a signed note of three lines.

    <origin>
    <tree size in decimal>
    <root hash in base64>

Refuses extension lines (nobody can audit them), leading zeroes and any text that does not format back to
itself. A `Checkpoint` by itself is a claim; `open_checkpoint` returns it only when the log's key signed it.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from witness import cosignature, note
from witness.encoding import EncodingError, b64, unb64
from witness.keys import ED25519, PrivateKey
from witness.merkle import HASH_SIZE
from witness.note import TYPE_SM2, Note, NoteInvalid, NoteSignature, VerifierKey
from witness.sm2 import Sm2PrivateKey

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
LARGEST_SIZE = 2**63 - 1  # what databases and other people's integers hold


LogKey = PrivateKey | Sm2PrivateKey


class CheckpointInvalid(ValueError):
    """Not a checkpoint, or not one signed by the log."""


@dataclass(frozen=True)
class Checkpoint:
    """Origin, tree size and root hash."""

    origin: str
    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{b64(self.root)}\n"


def parse(text: str, *, extensions: bool = False) -> Checkpoint:
    """The checkpoint with exactly this note text. Raises CheckpointInvalid.

    extensions: other logs may add extension lines; who cosigns them says nothing about those.
    """
    lines = text.split("\n")
    if extensions and len(lines) > 4 and all(lines[3:-1]):
        del lines[3:-1]
    if len(lines) != 4 or not lines[0] or lines[3]:
        raise CheckpointInvalid("a checkpoint has three lines: origin, size and root")
    if not _SIZE.fullmatch(lines[1]) or int(lines[1]) > LARGEST_SIZE:
        raise CheckpointInvalid("a checkpoint whose size is not a plain decimal number")
    try:
        root = unb64(lines[2])
    except EncodingError as error:
        raise CheckpointInvalid("a checkpoint whose root is not base64") from error
    if len(root) != HASH_SIZE:
        raise CheckpointInvalid("a checkpoint whose root is not a SHA-256 hash")
    return Checkpoint(lines[0], int(lines[1]), root)


def sign(checkpoint: Checkpoint, *keys: LogKey, timestamp: int = 0) -> Note:
    """The checkpoint signed by the log, whose keys are named like its origin.

    Ed25519 and SM2 sign the note itself; ML-DSA-44 signs as tlog-checkpoint recommends (type 0x06),
    which takes the time, in seconds since 1970.
    """
    text = str(checkpoint)
    return Note(text, tuple(_line(text, key, checkpoint.origin, timestamp) for key in keys))


def _line(text: str, key: LogKey, origin: str, timestamp: int) -> NoteSignature:
    if isinstance(key, Sm2PrivateKey) or key.public.algorithm == ED25519:
        return note.sign(text, key, origin)
    return cosignature.sign(text, key, origin, timestamp)


def log_key(origin: str, key: LogKey) -> VerifierKey:
    """The verifier key of a log's signing key."""
    if isinstance(key, Sm2PrivateKey):
        return note.verifier_key(origin, key.public, TYPE_SM2)
    if key.public.algorithm == ED25519:
        return note.verifier_key(origin, key.public)
    return cosignature.cosigner_key(origin, key)


def open_checkpoint(
    signed: Note, logs: Sequence[VerifierKey], required: Collection[str] = (), *, extensions: bool = False
) -> Checkpoint:
    """The checkpoint, when a key of `logs` named like its origin signed it. Raises CheckpointInvalid.

    required: algorithms with which a known key must have signed. A known key's line that does not hold
    refuses the note, whatever else holds.
    """
    checkpoint = parse(signed.text, extensions=extensions)
    keys = [key for key in logs if key.name == checkpoint.origin]
    if not keys:
        raise CheckpointInvalid("the checkpoint is of another log than the known ones")
    try:
        algorithms = {key.public.algorithm for key in keys if _signed_by(signed, key)}
    except NoteInvalid as error:
        raise CheckpointInvalid(str(error)) from error
    if not algorithms:
        raise CheckpointInvalid("no known key signed the checkpoint")
    if not algorithms.issuperset(required):
        raise CheckpointInvalid("the checkpoint lacks a signature of an algorithm that is required")
    return checkpoint


def _signed_by(signed: Note, key: VerifierKey) -> bool:
    """Whether this key signed; raises NoteInvalid when its line is there and does not hold."""
    if not key.signs_text:
        return cosignature.cosigned_at(signed, key) is not None
    return bool(signed.by(key)) and bool(note.verify(signed, [key]))
