"""C2SP signed-note (c2sp.org/signed-note): text signed by one or more keys, one signature line each.

    <text, ending in a newline>
    <empty line>
    — <key name> base64(32-bit key id || signature)

A parser of notes keeps every line and trusts none; `verify` returns the signatures of *known* keys, ignores
lines of unknown keys as the specification demands, and refuses the whole note when a known key's line fails
or none is known. Signature types: 0x01 (Ed25519), and the cosignatures 0x04 (Ed25519) and 0x06 (ML-DSA-44)
of cosignature.py, which sign other bytes than the text. SM2 has no number of its own, so its type is 0xff and
a longer name; it signs the text as Ed25519 does.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from witness.encoding import EncodingError, b64, unb64
from witness.keys import ED25519, ML_DSA_44, KeyInvalid, PrivateKey, PublicKey, SignatureInvalid
from witness.sm2 import SM2, Sm2PrivateKey, Sm2PublicKey

TYPE_ED25519 = 0x01
TYPE_COSIGNATURE_ED25519 = 0x04
TYPE_COSIGNATURE_ML_DSA_44 = 0x06
TYPE_SM2 = 0xFF
_SM2_NAME = b"bayspace/sm2-sm3/v1"
_ALGORITHM = {
    TYPE_ED25519: ED25519,
    TYPE_COSIGNATURE_ED25519: ED25519,
    TYPE_COSIGNATURE_ML_DSA_44: ML_DSA_44,
    TYPE_SM2: SM2,
}
_OVER_THE_TEXT = frozenset({TYPE_ED25519, TYPE_SM2})
MOST_SIGNATURES = 64
LARGEST_NOTE = 1024 * 1024
_DASH = "— "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class NoteInvalid(ValueError):
    """Not a signed note, not a verifier key, or not signed by a known key."""


@dataclass(frozen=True)
class VerifierKey:
    """A named public key of a signature type; its text form is the *vkey*."""

    name: str
    type: int
    public: PublicKey | Sm2PublicKey

    @property
    def id(self) -> bytes:
        """SHA-256(name || 0x0A || type || public key)[:4]."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._typed).digest()[:4]

    @property
    def signs_text(self) -> bool:
        """Whether it signs a note's text, and not the other bytes of a cosignature."""
        return self.type in _OVER_THE_TEXT

    @property
    def _typed(self) -> bytes:
        return bytes([self.type]) + (_SM2_NAME if self.type == TYPE_SM2 else b"") + self.public.raw

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{b64(self._typed)}"


def verifier_key(name: str, public: PublicKey | Sm2PublicKey, kind: int = TYPE_ED25519) -> VerifierKey:
    """The verifier key of a name and public key. Raises NoteInvalid for an impossible name or type."""
    if _ALGORITHM.get(kind) != public.algorithm:
        raise NoteInvalid("a signature type that does not belong to the key's algorithm")
    return VerifierKey(check_name(name), kind, public)


def parse_vkey(text: str) -> VerifierKey:
    """The verifier key with exactly this text. Raises NoteInvalid."""
    name, _, rest = text.partition("+")
    _, _, encoded = rest.partition("+")
    try:
        material = unb64(encoded)
        key = verifier_key(name, _public(material[0], material[1:]), material[0])
        whole = str(key)
    except (EncodingError, IndexError, KeyError, KeyInvalid, UnicodeEncodeError) as error:
        raise NoteInvalid("not a verifier key of a known signature type") from error
    if whole != text:
        raise NoteInvalid("a verifier key whose id does not match")
    return key


def _public(kind: int, raw: bytes) -> PublicKey | Sm2PublicKey:
    if kind == TYPE_SM2:
        return Sm2PublicKey(raw.removeprefix(_SM2_NAME))
    return PublicKey(_ALGORITHM[kind], raw)


def check_name(name: str) -> str:
    """`name` when it can name a key: not empty, no space, no plus, no control character."""
    if not name or "+" in name or any(c.isspace() or c < " " for c in name):
        raise NoteInvalid("a key name that is empty or has a space or a plus")
    return name


@dataclass(frozen=True)
class NoteSignature:
    """One signature line, of a known or an unknown key."""

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {b64(self.key_id + self.signature)}\n"


@dataclass(frozen=True)
class Note:
    """A note's text, which ends in a newline, and its signature lines in their order."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def __str__(self) -> str:
        return self.text + "\n" + "".join(map(str, self.signatures))

    def by(self, key: VerifierKey) -> tuple[NoteSignature, ...]:
        """The lines that name this key; the same line counts once, however often a stranger repeats it."""
        found = (s for s in self.signatures if (s.name, s.key_id) == (key.name, key.id))
        return tuple(dict.fromkeys(found))


def parse(text: str) -> Note:
    """The note with exactly this text. Raises NoteInvalid."""
    if len(text) > LARGEST_NOTE or _CONTROL.search(text):
        raise NoteInvalid("too long for a note, or with control characters")
    body, separator, tail = text.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise NoteInvalid("a note without signatures")
    lines = tail[:-1].split("\n")
    if len(lines) > MOST_SIGNATURES:
        raise NoteInvalid(f"a note with more than {MOST_SIGNATURES} signatures")
    return Note(body + "\n", tuple(_line(line) for line in lines))


def _line(line: str) -> NoteSignature:
    if not line.startswith(_DASH) or line.count(" ") != 2:
        raise NoteInvalid("a line that is no signature line")
    _, name, encoded = line.split(" ")
    try:
        data = unb64(encoded)
    except EncodingError as error:
        raise NoteInvalid("a signature line that is not base64") from error
    if len(data) <= 4:
        raise NoteInvalid("a signature line without a signature")
    return NoteSignature(check_name(name), data[:4], data[4:])


def sign(text: str, key: PrivateKey | Sm2PrivateKey, name: str) -> NoteSignature:
    """A plain signature line over the text: type 0x01 (Ed25519), or SM2."""
    vkey = verifier_key(name, key.public, TYPE_SM2 if isinstance(key, Sm2PrivateKey) else TYPE_ED25519)
    return NoteSignature(vkey.name, vkey.id, key.sign(text.encode()))


def verify(note: Note, known: Sequence[VerifierKey]) -> list[VerifierKey]:
    """The known keys that signed the note's text, at least one. Raises NoteInvalid."""
    signed = []
    for key in known:
        if not key.signs_text:
            continue
        for line in note.by(key):
            try:
                key.public.verify(note.text.encode(), line.signature)
            except SignatureInvalid as error:
                raise NoteInvalid("a known key's signature does not match the note") from error
            signed.append(key)
    if not signed:
        raise NoteInvalid("no known key signed the note")
    return signed
