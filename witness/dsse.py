"""DSSE v1 envelopes (github.com/secure-systems-lab/dsse): several signatures over identical bytes.

    PAE(type, body) = "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body

An envelope is canonical JSON with standard base64, and its signatures are sorted by key id, so equal
content gives equal bytes and one digest. Refuses other encodings, no signature, and two of one key.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from witness import canonical
from witness.encoding import EncodingError, b64, unb64, unhex
from witness.keys import Check, PrivateKey, PublicKey, SignatureInvalid

MOST_SIGNATURES = 16
_KEYID = re.compile(rb"[0-9a-f]{64}")
_KIND = re.compile(rb"[A-Za-z0-9/.+-]*")
_SIGNATURE = b'{"keyid":"%b","sig":"%b"}'


class EnvelopeInvalid(ValueError):
    """Not a canonical DSSE envelope."""


@dataclass(frozen=True)
class Signature:
    """One signature and the id (64 hexadecimal digits) of the key that made it."""

    keyid: str
    sig: bytes


@dataclass(frozen=True)
class Envelope:
    """A payload with its type and its signatures, sorted by key id."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def __post_init__(self) -> None:
        ids = [s.keyid for s in self.signatures]
        if not 0 < len(ids) <= MOST_SIGNATURES:
            raise EnvelopeInvalid(f"an envelope carries 1 to {MOST_SIGNATURES} signatures")
        if ids != sorted(set(ids)):
            raise EnvelopeInvalid("signatures are not sorted by distinct key ids")

    def with_signatures(self, more: Iterable[Signature]) -> "Envelope":
        """The same payload with further signatures; refuses a second signature of one key."""
        together = sorted([*self.signatures, *more], key=lambda s: s.keyid)
        return replace(self, signatures=tuple(together))

    def to_json(self) -> dict[str, Any]:
        """The envelope as DSSE's JSON object."""
        return {
            "payload": b64(self.payload),
            "payloadType": self.payload_type,
            "signatures": [{"keyid": s.keyid, "sig": b64(s.sig)} for s in self.signatures],
        }

    def to_bytes(self) -> bytes:
        """Canonical JSON of the envelope: what is sent, stored and digested."""
        return canonical.serialise(self.to_json())

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical envelope: what the log's leaf commits to."""
        return hashlib.sha256(self.to_bytes()).digest()

    def verify(self, key: PublicKey, check: Check = PublicKey.verify) -> None:
        """Returns when `key` signed the payload; raises SignatureInvalid otherwise."""
        for signature in self.signatures:
            if signature.keyid == key.id:
                return check(key, pae(self.payload_type, self.payload), signature.sig)
        raise SignatureInvalid("no signature by this key")


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def make_signature(payload_type: str, payload: bytes, key: PrivateKey) -> Signature:
    """One party's signature, to be sent to the other or put into an envelope."""
    return Signature(key.public.id, key.sign(pae(payload_type, payload)))


def sign(payload_type: str, payload: bytes, keys: Iterable[PrivateKey]) -> Envelope:
    """An envelope signed by all of `keys`."""
    made = [make_signature(payload_type, payload, key) for key in keys]
    return Envelope(payload_type, payload, tuple(sorted(made, key=lambda s: s.keyid)))


def parse(data: bytes) -> Envelope:
    """The envelope with exactly these bytes. Raises EnvelopeInvalid."""
    try:
        return _plain(data) or from_json(canonical.parse(data))
    except canonical.CanonicalError as error:
        raise EnvelopeInvalid(str(error)) from error


def _plain(data: bytes) -> Envelope | None:
    """The envelope, read by its quotation marks; None for one that takes a reader of JSON."""
    strings = data.split(b'"', 8 * MOST_SIGNATURES + 11)
    body, kind, keyids, made = strings[3:4], strings[7:8], strings[13::8], strings[17::8]
    if not kind or not _KIND.fullmatch(kind[0]) or not all(map(_KEYID.fullmatch, keyids)):
        return None
    # INVARIANT: nothing in it has a second encoding: no escapes, no spaces, names in their order.
    signatures = b",".join(map(_SIGNATURE.__mod__, zip(keyids, made, strict=False)))
    if data != b'{"payload":"%b","payloadType":"%b","signatures":[%b]}' % (body[0], kind[0], signatures):
        return None
    try:
        signed = [Signature(k.decode(), unb64(s.decode())) for k, s in zip(keyids, made, strict=True)]
        return Envelope(kind[0].decode(), unb64(body[0].decode()), tuple(signed))
    except (EncodingError, UnicodeDecodeError):
        return None


def from_json(value: Any) -> Envelope:
    """The envelope of a parsed JSON object. Raises EnvelopeInvalid."""
    if not isinstance(value, dict) or set(value) != {"payload", "payloadType", "signatures"}:
        raise EnvelopeInvalid("an envelope has payload, payloadType and signatures, and nothing else")
    kind, body, signatures = value["payloadType"], value["payload"], value["signatures"]
    if not isinstance(kind, str) or not isinstance(body, str) or not isinstance(signatures, list):
        raise EnvelopeInvalid("an envelope's fields have the wrong types")
    try:
        return Envelope(kind, unb64(body), tuple(_signature(s) for s in signatures))
    except EncodingError as error:
        raise EnvelopeInvalid(str(error)) from error


def _signature(value: Any) -> Signature:
    if not isinstance(value, dict) or set(value) != {"keyid", "sig"}:
        raise EnvelopeInvalid("a signature has keyid and sig, and nothing else")
    keyid, sig = value["keyid"], value["sig"]
    if not isinstance(keyid, str) or not isinstance(sig, str):
        raise EnvelopeInvalid("a signature's fields have the wrong types")
    return Signature(unhex(keyid, 32).hex(), unb64(sig))
