"""Ed25519 verification by libsodium, in half the time that OpenSSL takes: the witness checks every signature.

INVARIANT: it accepts nothing that OpenSSL refuses, so nothing is recorded that an auditor could not verify.
The other way round it need not hold: libsodium also refuses keys and nonces of small order (of which any
signature is anybody's), which no honest signer makes. Builds that verify with the cofactor accept more than
OpenSSL: with one of those this module refuses to be imported.
"""

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from witness.keys import ED25519, SIGNATURE_SIZES, PublicKey, SignatureInvalid

_KEY = bytes.fromhex("00a69c9a74af090b422797aa2311cfa3db429196584d50c6aacfe9a02a99bc8a")
_ONLY_WITH_COFACTOR = bytes.fromhex(
    "880268cdc144372b933a44d854fe4d444c6cdc4299e686f30032b2994f7fee3e"  # R, with a point of order 8 in it
    "72f2dc4cb2202eab4681834de1fbacf3b55561e147f02ed6e3c613d1f55d6803"
)


def verify(key: PublicKey, message: bytes, signature: bytes) -> None:
    """As `PublicKey.verify`, which it calls for every other algorithm."""
    if key.algorithm != ED25519:
        return key.verify(message, signature)
    if len(signature) != SIGNATURE_SIZES[ED25519]:  # libsodium is told nothing of where the message begins
        raise SignatureInvalid("the signature has another size than the algorithm's")
    try:
        crypto_sign_open(signature + message, key.raw)
    except (BadSignatureError, ValueError) as error:
        raise SignatureInvalid("the signature does not match the key and the content") from error


def check_build() -> None:
    """Raises ImportError when this libsodium accepts what OpenSSL refuses."""
    try:
        verify(PublicKey(ED25519, _KEY), b"", _ONLY_WITH_COFACTOR)
    except SignatureInvalid:
        return
    raise ImportError(
        "this build of libsodium verifies Ed25519 with the cofactor, which auditors' software does not: "
        "install PyNaCl from its wheel, in the version of constraints.txt"
    )


check_build()
