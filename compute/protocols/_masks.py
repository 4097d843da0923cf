"""Pairwise masks: streams that every two participants of a round share, one adds and the other takes off.

    k_ij = HKDF-SHA256(X25519(x_i, X_j), salt: roster digest, info: scheme, label, ids in order)
    pad_i = sum over j > i of PRG(k_ij) - sum over j < i of PRG(k_ij);    the sum of all pad_i is zero

PRG is ChaCha20 from block 0 under a key used once: X25519 keys live for one round, and each vector has its own
label. Refused: keys that give no shared secret.
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
    def agreed(
        cls, scheme: str, member: Member, roster: Roster, private: X25519PrivateKey, keys: Sequence[bytes]
    ) -> Masks:
        """With everybody's public keys, in roster order. Raises `PeerViolation`."""
        others = [
            (name, key) for name, key in zip(roster.names, keys, strict=True) if name != member.participant
        ]
        try:
            secrets = tuple(
                (other, private.exchange(X25519PublicKey.from_public_bytes(key))) for other, key in others
            )
        except ValueError:  # a point of small order gives the all-zero secret (RFC 7748, section 6.1)
            raise PeerViolation("peer.round-key", "a participant's key gives no shared secret") from None
        return cls(scheme, member.participant, secrets, roster.digest)

    def pads(self, label: str, length: int) -> Iterator[tuple[bool, bytes]]:
        """For each other participant whether we add, and the stream. INVARIANT: once per label."""
        for other, secret in self.secrets:
            yield self.own < other, self._stream(other, secret, label, length)

    def _stream(self, other: str, secret: bytes, label: str, length: int) -> bytes:
        pair = [label.encode(), *sorted([self.own.encode(), other.encode()])]
        info = self.scheme.encode() + b"\0" + f.joined(pair)
        key = HKDF(hashes.SHA256(), 32, self.salt, info).derive(secret)
        return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(length))
