"""Evidence keys: Ed25519, and ML-DSA-44 for the post-quantum signature beside it.

Who signs with both has signed only when both signatures hold: forging one then takes breaking two schemes
that have nothing in common. `PrivateKeys` and `PublicKeys` are what one signer uses together. A key is
named by the SHA-256 of its SubjectPublicKeyInfo, which binds the algorithm too. Refuses other algorithms
and keys of the wrong size. Verification raises; a private key prints as nothing.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

ED25519 = "ed25519"
ML_DSA_44 = "ml-dsa-44"
SIGNATURE_SIZES = {ED25519: 64, ML_DSA_44: 2420}
_REMEMBERED = 1024
_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----\n?", re.DOTALL)
_PUBLIC: dict[str, type[Ed25519PublicKey] | type[MLDSA44PublicKey]] = {
    ED25519: Ed25519PublicKey,
    ML_DSA_44: MLDSA44PublicKey,
}


class KeyInvalid(ValueError):
    """Not a key of an algorithm that evidence uses."""


class SignatureInvalid(ValueError):
    """The signature was not made by this key over these bytes."""


@dataclass(frozen=True)
class PublicKey:
    """A public key of a named algorithm, in that algorithm's raw encoding."""

    algorithm: str
    raw: bytes

    def __post_init__(self) -> None:
        _ = self._key  # refuse at once what is no key

    @classmethod
    def from_pem(cls, pem: bytes) -> "PublicKey":
        """The key in a SubjectPublicKeyInfo PEM file."""
        try:
            key = load_pem_public_key(pem)
        except ValueError as error:
            raise KeyInvalid("not a public key in PEM form") from error
        for algorithm, kind in _PUBLIC.items():
            if isinstance(key, kind):
                return cls(algorithm, key.public_bytes_raw())
        raise KeyInvalid("evidence is signed with Ed25519 or ML-DSA-44 keys only")

    def pem(self) -> bytes:
        """SubjectPublicKeyInfo PEM."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @cached_property
    def id(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, in hexadecimal."""
        spki = self._key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(spki).hexdigest()

    def verify(self, message: bytes, signature: bytes) -> None:
        """Returns when the signature holds; raises SignatureInvalid otherwise."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature as error:
            raise SignatureInvalid("the signature does not match the key and the content") from error

    @cached_property
    def _key(self) -> Ed25519PublicKey | MLDSA44PublicKey:
        if self.algorithm not in _PUBLIC:
            raise KeyInvalid("an unknown key algorithm")
        try:
            return _PUBLIC[self.algorithm].from_public_bytes(self.raw)
        except ValueError as error:
            raise KeyInvalid(f"not a public key of {self.algorithm}") from error


Check = Callable[[PublicKey, bytes, bytes], None]
"""(key, message, signature): returns when the signature holds, as `PublicKey.verify` does."""


class PrivateKey:
    """A signing key. Its representation shows only the name of its public half."""

    def __init__(self, key: Ed25519PrivateKey | MLDSA44PrivateKey) -> None:
        self._key = key
        algorithm = ED25519 if isinstance(key, Ed25519PrivateKey) else ML_DSA_44
        self.public = PublicKey(algorithm, key.public_key().public_bytes_raw())
        self._made: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.algorithm}, id={self.public.id[:16]}…)"

    @classmethod
    def from_seed(cls, seed: bytes, algorithm: str = ED25519) -> "PrivateKey":
        """The key of a 32-byte seed, which must come from the operating system's generator."""
        if algorithm == ED25519:
            return cls(Ed25519PrivateKey.from_private_bytes(seed))
        if algorithm == ML_DSA_44:
            return cls(MLDSA44PrivateKey.from_seed_bytes(seed))
        raise KeyInvalid("an unknown key algorithm")

    @classmethod
    def from_pem(cls, pem: bytes) -> "PrivateKey":
        """The key in an unencrypted PKCS #8 PEM file."""
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise KeyInvalid("not an unencrypted private key in PEM form") from error
        if not isinstance(key, Ed25519PrivateKey | MLDSA44PrivateKey):
            raise KeyInvalid("evidence is signed with Ed25519 or ML-DSA-44 keys only")
        return cls(key)

    def pem(self) -> bytes:
        """PKCS #8 PEM, unencrypted: write it with mode 0600."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`; the same one when asked again soon.

        ML-DSA draws randomness, and both ends of an exchange must come to the same envelope.
        """
        name = hashlib.sha256(message).digest()
        with self._lock:
            if name not in self._made:
                self._made[name] = self._key.sign(message)
                if len(self._made) > _REMEMBERED:
                    del self._made[next(iter(self._made))]
            return self._made[name]


@dataclass(frozen=True)
class PublicKeys:
    """The public keys that one signer uses together, at most one of each algorithm, Ed25519 first."""

    keys: tuple[PublicKey, ...]

    def __post_init__(self) -> None:
        algorithms = [key.algorithm for key in self.keys]
        if not algorithms or algorithms != sorted(set(algorithms)):
            raise KeyInvalid("a signer has one key, or one of each algorithm")

    @classmethod
    def of(cls, keys: Iterable[PublicKey]) -> "PublicKeys":
        """These keys, in their order."""
        return cls(tuple(sorted(keys, key=lambda key: key.algorithm)))

    @property
    def ids(self) -> tuple[str, ...]:
        """The keys' ids, sorted: as a record's party names them."""
        return tuple(sorted(key.id for key in self.keys))

    @property
    def fingerprint(self) -> str:
        """What people compare: a lone key's id, or one SHA-256 over the ids of both."""
        if len(self.keys) == 1:
            return self.keys[0].id
        return hashlib.sha256("\n".join(["bayspace keys v1", *self.ids]).encode()).hexdigest()

    @classmethod
    def from_pem(cls, pem: bytes) -> "PublicKeys":
        """The keys of a file with one PEM part or two. Raises KeyInvalid."""
        return cls.of(PublicKey.from_pem(part) for part in _PEM.findall(pem) or [pem])

    def pem(self) -> bytes:
        """SubjectPublicKeyInfo PEM of each key."""
        return b"".join(key.pem() for key in self.keys)

    @property
    def signature_size(self) -> int:
        """Bytes of a signature by all of these keys."""
        return sum(SIGNATURE_SIZES[key.algorithm] for key in self.keys)

    def split(self, signature: bytes) -> list[tuple[PublicKey, bytes]]:
        """Each key with its part of a signature that `PrivateKeys.sign` made. Raises SignatureInvalid."""
        if len(signature) != self.signature_size:
            raise SignatureInvalid("the signature is not of the signer's keys, all of them")
        parts, at = [], 0
        for key in self.keys:
            end = at + SIGNATURE_SIZES[key.algorithm]
            parts.append((key, signature[at:end]))
            at = end
        return parts


class PrivateKeys:
    """The signing keys that one signer uses together."""

    def __init__(self, keys: Iterable[PrivateKey]) -> None:
        self.keys = tuple(sorted(keys, key=lambda key: key.public.algorithm))
        self.public = PublicKeys(tuple(key.public for key in self.keys))

    def __repr__(self) -> str:
        return f"PrivateKeys{self.keys}"

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> "PrivateKeys":
        """A fresh key of each algorithm."""
        return cls(PrivateKey.from_seed(entropy(32), algorithm) for algorithm in (ED25519, ML_DSA_44))

    @classmethod
    def from_pem(cls, pem: bytes) -> "PrivateKeys":
        """The keys of a file with one PEM part or several. Raises KeyInvalid."""
        return cls(PrivateKey.from_pem(part) for part in _PEM.findall(pem) or [pem])

    def pem(self) -> bytes:
        """PKCS #8 PEM of each key, unencrypted: write it with mode 0600."""
        return b"".join(key.pem() for key in self.keys)

    def sign(self, message: bytes) -> bytes:
        """The signatures over `message`, one after the other; `PublicKeys.split` takes them apart."""
        return b"".join(key.sign(message) for key in self.keys)
