"""C2SP tlog-proof (c2sp.org/tlog-proof): an entry's inclusion in a signed checkpoint, offline.

    c2sp.org/tlog-proof@v1
    extra <base64>             (left out when there is none)
    index <n>
    <sibling hash in base64>   (leaf to root)
    <empty line>
    <checkpoint, verbatim>

Refuses any text that does not format back to itself. `extra` is not authenticated by the format; ours is
the public leaf, which the verifier hashes and so authenticates.
"""

import re
from dataclasses import dataclass

from witness import note
from witness.encoding import EncodingError, b64, unb64
from witness.merkle import HASH_SIZE
from witness.note import Note, NoteInvalid

_HEADER = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")
LONGEST_PATH = 63


class TlogProofInvalid(ValueError):
    """Not a tlog-proof."""


@dataclass(frozen=True)
class TlogProof:
    """Entry index, sibling hashes from the leaf up, the signed checkpoint, and optional extra data."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: Note
    extra: bytes | None = None

    def __str__(self) -> str:
        extra = [] if self.extra is None else [f"extra {b64(self.extra)}"]
        lines = [_HEADER, *extra, f"index {self.index}", *map(b64, self.path), "", str(self.checkpoint)]
        return "\n".join(lines)


def parse(text: str) -> TlogProof:
    """The proof with exactly this text. Raises TlogProofInvalid."""
    head, separator, checkpoint = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or lines.pop(0) != _HEADER:
        raise TlogProofInvalid(f"a proof that does not begin with {_HEADER}")
    try:
        extra = (
            unb64(lines.pop(0).removeprefix("extra ")) if lines and lines[0].startswith("extra ") else None
        )
        index = _index(lines)
        path = tuple(unb64(line) for line in lines)
        proof = TlogProof(index, path, note.parse(checkpoint), extra)
    except (EncodingError, NoteInvalid) as error:
        raise TlogProofInvalid(f"a proof with {error}") from error
    if len(path) > LONGEST_PATH or any(len(sibling) != HASH_SIZE for sibling in path):
        raise TlogProofInvalid("a proof whose path is not one of SHA-256 hashes")
    return proof


def _index(lines: list[str]) -> int:
    match = _INDEX.fullmatch(lines.pop(0)) if lines else None
    if not match:
        raise TlogProofInvalid("a proof without an index")
    return int(match[1])
