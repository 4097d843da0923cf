"""A log's SM2 private key from its file. Signing is GmSSL's, in C: the extra `sm2`.

Refuses every form but the one in which `openssl genpkey -algorithm SM2` writes a key.
"""

import base64

from witness.keys import KeyInvalid
from witness.sm2 import SIGNER_ID, Sm2PrivateKey, Sm2PublicKey

# PKCS #8: nothing in it varies but the key.
_BEFORE = bytes.fromhex("3081870201003013 06072a8648ce3d0201 06082a811ccf5501822d 046d306b020101 0420")
_BETWEEN = bytes.fromhex("a144034200")
_HEAD, _TAIL = "-----BEGIN PRIVATE KEY-----\n", "-----END PRIVATE KEY-----\n"


def load(pem: bytes) -> Sm2PrivateKey:
    """The key in this file. Raises KeyInvalid, also where the extra is missing."""
    secret, public = _unpacked(pem)
    try:
        from gmssl_pyx import sm2_sign
    except ImportError as error:
        raise KeyInvalid("signing with SM2 needs the extra `sm2`: pip install 'bayspace[sm2]'") from error
    return Sm2PrivateKey(
        Sm2PublicKey(public), lambda message: sm2_sign(secret, public[1:], message, SIGNER_ID)
    )


def _unpacked(pem: bytes) -> tuple[bytes, bytes]:
    text = pem.decode("ascii", errors="replace")
    try:
        der = base64.b64decode(text.removeprefix(_HEAD).removesuffix(_TAIL), validate=False)
    except ValueError:
        der = b""
    size = len(_BEFORE)
    secret, public = der[size : size + 32], der[size + 32 + len(_BETWEEN) :]
    if not text.startswith(_HEAD) or der != _BEFORE + secret + _BETWEEN + public or len(public) != 65:
        raise KeyInvalid("not an SM2 private key in PEM form, as `openssl genpkey -algorithm SM2` writes it")
    return secret, public
