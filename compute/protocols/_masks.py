"""Pairwise masks of a round: what every two participants share, one adds and the other takes off.

    k_ij   = HKDF-SHA256(X25519(x_i, X_j), salt: roster digest, info: scheme, label, ids in order)
    mask_i = sum over j > i of PRG(k_ij) - sum over j < i of PRG(k_ij);    the sum of all mask_i is zero

PRG is ChaCha20 from block 0 under a key used once: X25519 keys live for one round, each vector has a label
of its own. Refused: keys that their participants did not sign for this round, or that give no shared secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from compute import federation as f
from compute.errors import PeerViolation
from compute.federation import Member, Roster
from compute.frames import Frame, Role, receive
from compute.inputs import Entropy

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Masks:
    """One participant's pairwise secrets of a round."""

    scheme: str
    own: str
    secrets: tuple[tuple[str, bytes], ...]  # (other participant, shared X25519 secret)
    salt: bytes

    def __repr__(self) -> str:
        return "<masks>"

    @classmethod
    def between(
        cls, scheme: str, member: Member, roster: Roster, private: X25519PrivateKey, keys: Sequence[bytes]
    ) -> Masks:
        """From everybody's public keys, in roster order. Raises `PeerViolation`."""
        pairs = [pair for pair in zip(roster.names, keys, strict=True) if pair[0] != member.participant]
        try:
            secrets = [
                (name, private.exchange(X25519PublicKey.from_public_bytes(key))) for name, key in pairs
            ]
        except ValueError:  # a point of small order gives the all-zero secret (RFC 7748, section 6.1)
            raise PeerViolation("peer.round-key", "a participant's key gives no shared secret") from None
        return cls(scheme, member.participant, tuple(secrets), roster.digest)

    def masked(self, label: str, vector: bytes) -> bytes:
        """Words modulo 2**128 under this participant's masks for one label. INVARIANT: once per label."""
        pads = [pad if add else f.negated(pad) for add, pad in self.pads(label, len(vector))]
        return f.added([vector, *pads]) if vector else b""

    def pads(self, label: str, length: int) -> Iterator[tuple[bool, bytes]]:
        """With each other participant: do we add or take off, and what. INVARIANT: once per label."""
        for other, secret in self.secrets:
            yield self.own < other, self._stream(other, secret, label, length)

    def _stream(self, other: str, secret: bytes, label: str, length: int) -> bytes:
        pair = [label.encode(), *sorted([self.own.encode(), other.encode()])]
        return stream(secret, self.salt, self.scheme.encode() + b"\0" + f.joined(pair), length)


def stream(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """PRG of HKDF-SHA256(secret, salt, info). INVARIANT: no two uses have the same three."""
    key = HKDF(hashes.SHA256(), 32, salt, info).derive(secret)
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(length))


def fresh(entropy: Entropy) -> tuple[X25519PrivateKey, bytes]:
    """A key for one round, and its public half."""
    private = X25519PrivateKey.from_private_bytes(entropy(KEY_BYTES))
    return private, private.public_key().public_bytes_raw()


def agreed(member: Member, scheme: str, roster: Roster, entropy: Entropy) -> Role[Masks]:
    """Exchange signed keys of this round through the asker."""
    private, public = fresh(entropy)
    yield Frame("round-key", f.signed_key(member, scheme, roster, public))
    most = len(roster.entries) * (4 + f.signed_key_bytes(KEY_BYTES))
    bodies = f.split((yield from f.receive_sized("round-keys", most)))
    keys = f.checked_keys(member, scheme, roster, bodies, public)
    return Masks.between(scheme, member, roster, private, keys)


def relay_keys() -> Role[None]:
    """The asker's side of `agreed`."""
    key = yield from receive("round-key")
    yield from f.send_sized("round-keys", (yield from f.together("round-keys", key, f.joined)))
