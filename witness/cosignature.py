"""C2SP tlog-cosignature (c2sp.org/tlog-cosignature): what witnesses sign beside a log's checkpoint.

A cosignature line holds `timestamp (uint64) || signature`. Type 0x04 (Ed25519) signs

    cosignature/v1
    time <timestamp>
    <the checkpoint's text>

and type 0x06 (ML-DSA-44) signs the structure `cosigned_message`, which a log also uses for its own
post-quantum signature (tlog-checkpoint, "Signatures"). Refuses to sign without a time.
"""

from witness.encoding import EncodingError, unb64
from witness.keys import ED25519, PrivateKey, SignatureInvalid
from witness.note import (
    TYPE_COSIGNATURE_ED25519,
    TYPE_COSIGNATURE_ML_DSA_44,
    Note,
    NoteInvalid,
    NoteSignature,
    VerifierKey,
    verifier_key,
)

_LATEST = 2**63 - 1


def cosigner_key(name: str, key: PrivateKey) -> VerifierKey:
    """The verifier key under which `sign` signs."""
    ed25519 = key.public.algorithm == ED25519
    kind = TYPE_COSIGNATURE_ED25519 if ed25519 else TYPE_COSIGNATURE_ML_DSA_44
    return verifier_key(name, key.public, kind)


def sign(text: str, key: PrivateKey, name: str, timestamp: int) -> NoteSignature:
    """The cosignature line over a checkpoint's text at `timestamp` (seconds since 1970)."""
    if not 0 < timestamp <= _LATEST:
        raise NoteInvalid("a cosignature needs a possible time")
    vkey = cosigner_key(name, key)
    signature = key.sign(message(vkey, text, timestamp))
    return NoteSignature(vkey.name, vkey.id, timestamp.to_bytes(8, "big") + signature)


def message(key: VerifierKey, text: str, timestamp: int) -> bytes:
    """The bytes that a cosigner signs for a checkpoint's text at `timestamp` (seconds since 1970)."""
    if key.type == TYPE_COSIGNATURE_ED25519:
        return f"cosignature/v1\ntime {timestamp}\n{text}".encode()
    try:
        named, size, root = text.split("\n")[:3]
        end, hashed = int(size).to_bytes(8, "big"), unb64(root)
    except (ValueError, OverflowError, EncodingError) as error:
        raise NoteInvalid("a cosigned text that is no checkpoint") from error
    name, origin = key.name.encode(), named.encode()
    if len(name) > 255 or len(origin) > 255:
        raise NoteInvalid("a name too long for an ML-DSA-44 cosignature")
    return b"".join(
        [
            b"subtree/v1\n\0",
            bytes([len(name)]) + name,
            timestamp.to_bytes(8, "big"),
            bytes([len(origin)]) + origin,
            (0).to_bytes(8, "big"),
            end,
            hashed,
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
