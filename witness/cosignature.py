"""C2SP tlog-cosignature (c2sp.org/tlog-cosignature): what other witnesses sign beside a log's checkpoint.

A cosignature line holds `timestamp (uint64) || signature`. Type 0x04 (Ed25519) signs

    cosignature/v1
    time <timestamp>
    <the checkpoint's text>

and type 0x06 (ML-DSA-44) signs the structure `cosigned_message`. Here they are verified only.
"""

from witness import checkpoint as checkpoints
from witness.keys import SignatureInvalid
from witness.note import TYPE_COSIGNATURE_ED25519, Note, NoteInvalid, VerifierKey

_LATEST = 2**63 - 1


def message(key: VerifierKey, text: str, timestamp: int) -> bytes:
    """The bytes that a cosigner signs for a checkpoint's text at `timestamp` (seconds since 1970)."""
    if key.type == TYPE_COSIGNATURE_ED25519:
        return f"cosignature/v1\ntime {timestamp}\n{text}".encode()
    head = checkpoints.parse(text)
    name, origin = key.name.encode(), head.origin.encode()
    if len(name) > 255 or len(origin) > 255:
        raise NoteInvalid("a name too long for an ML-DSA-44 cosignature")
    return b"".join(
        [
            b"subtree/v1\n\0",
            bytes([len(name)]) + name,
            timestamp.to_bytes(8, "big"),
            bytes([len(origin)]) + origin,
            (0).to_bytes(8, "big"),
            head.size.to_bytes(8, "big"),
            head.root,
        ]
    )


def cosigned_at(signed: Note, key: VerifierKey) -> int | None:
    """When `key` cosigned the checkpoint (seconds since 1970); None if it did not.

    Raises NoteInvalid when its line is there and does not hold.
    """
    times = []
    for line in signed.by(key):
        timestamp = int.from_bytes(line.signature[:8], "big")
        if len(line.signature) <= 8 or timestamp > _LATEST:
            raise NoteInvalid("a cosignature without a possible timestamp")
        try:
            key.public.verify(message(key, signed.text, timestamp), line.signature[8:])
        except SignatureInvalid as error:
            raise NoteInvalid("a known witness's cosignature does not match the checkpoint") from error
        times.append(timestamp)
    return max(times, default=None)
