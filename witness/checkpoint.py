"""C2SP tlog-checkpoint (c2sp.org/tlog-checkpoint): a log's tree head as a signed note of three lines.

    <origin>
    <tree size in decimal>
    <root hash in base64>

Refuses extension lines (nobody can audit them), leading zeroes and any text that does not format back to
itself. A `Checkpoint` by itself is a claim; `open_checkpoint` returns it only when the log's key signed it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from witness import note
from witness.encoding import EncodingError, b64, unb64
from witness.keys import PrivateKey
from witness.merkle import HASH_SIZE
from witness.note import Note, NoteInvalid, VerifierKey

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


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


def parse(text: str) -> Checkpoint:
    """The checkpoint with exactly this note text. Raises CheckpointInvalid."""
    lines = text.split("\n")
    if len(lines) != 4 or not lines[0] or lines[3]:
        raise CheckpointInvalid("a checkpoint has three lines: origin, size and root")
    if not _SIZE.fullmatch(lines[1]):
        raise CheckpointInvalid("a checkpoint whose size is not a plain decimal number")
    try:
        root = unb64(lines[2])
    except EncodingError as error:
        raise CheckpointInvalid("a checkpoint whose root is not base64") from error
    if len(root) != HASH_SIZE:
        raise CheckpointInvalid("a checkpoint whose root is not a SHA-256 hash")
    return Checkpoint(lines[0], int(lines[1]), root)


def sign(checkpoint: Checkpoint, key: PrivateKey) -> Note:
    """The checkpoint signed by the log, whose key is named like its origin."""
    text = str(checkpoint)
    return Note(text, (note.sign(text, key, checkpoint.origin),))


def open_checkpoint(signed: Note, logs: Sequence[VerifierKey]) -> Checkpoint:
    """The checkpoint, when a key of `logs` named like its origin signed it. Raises CheckpointInvalid."""
    checkpoint = parse(signed.text)
    keys = [key for key in logs if key.name == checkpoint.origin]
    if not keys:
        raise CheckpointInvalid("the checkpoint is of another log than the known ones")
    try:
        note.verify(signed, keys)
    except NoteInvalid as error:
        raise CheckpointInvalid(f"the checkpoint: {error}") from error
    return checkpoint
