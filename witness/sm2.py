"""SM2 with SM3 (GB/T 32918.2; RFC 8998 section 3.2.1): one more signature of a log, for those who need it.

    Z = SM3(ENTL || ID || a || b || G || P)        ID = 1234567812345678
    e = SM3(Z || M);  t = r + s;  (x, _) = [s]G + [t]P;  valid when e + x = r   (mod n, r, s and t not zero)

Verifying needs nothing but SM3, which `cryptography` has: it handles public values only, so plain Python will
do. Signing handles a secret and is left to GmSSL (sm2_key.py). A signature is r || s, 64 bytes. Refuses
points that are not on the curve.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from witness.keys import KeyInvalid, SignatureInvalid

SM2 = "sm2"
SIGNER_ID = b"1234567812345678"
_P = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
_A = _P - 3
_B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
_N = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
_G = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)

Point = tuple[int, int, int]
"""Jacobian coordinates: (X / Z^2, Y / Z^3); Z = 0 is the point at infinity."""
_INFINITY: Point = (1, 1, 0)
Sign = Callable[[bytes], bytes]


def _sm3(*parts: bytes) -> bytes:
    try:
        digest = hashes.Hash(hashes.SM3())
    except UnsupportedAlgorithm as error:
        raise KeyInvalid("SM2 cannot be checked here: this build of `cryptography` has no SM3") from error
    for part in parts:
        digest.update(part)
    return digest.finalize()


@dataclass(frozen=True)
class Sm2PublicKey:
    """A point of the curve, as 0x04 || x || y."""

    raw: bytes
    algorithm = SM2

    def __post_init__(self) -> None:
        x, y = self._point
        if max(x, y) >= _P or (y * y - (x * x + _A) * x - _B) % _P:
            raise KeyInvalid("not a public key of sm2")
        _ = self._identity  # refuse at once where SM3 is missing

    def verify(self, message: bytes, signature: bytes) -> None:
        """Returns when the signature holds; raises SignatureInvalid otherwise."""
        r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
        t = (r + s) % _N
        if len(signature) != 64 or not 0 < r < _N or not 0 < s < _N or t == 0:
            raise SignatureInvalid("not a signature of sm2")
        e = int.from_bytes(_sm3(self._identity, message), "big")
        x = _both(s, _G, t, self._point)
        if x is None or (e + x - r) % _N:
            raise SignatureInvalid("the signature does not match the key and the content")

    @property
    def _point(self) -> tuple[int, int]:
        if len(self.raw) != 65 or self.raw[0] != 4:
            raise KeyInvalid("not a public key of sm2")
        return int.from_bytes(self.raw[1:33], "big"), int.from_bytes(self.raw[33:], "big")

    @cached_property
    def _identity(self) -> bytes:
        """Z: who signs, over which curve."""
        curve = b"".join(value.to_bytes(32, "big") for value in (_A, _B, *_G))
        return _sm3((8 * len(SIGNER_ID)).to_bytes(2, "big"), SIGNER_ID, curve, self.raw[1:])


def _both(s: int, g: tuple[int, int], t: int, p: tuple[int, int]) -> int | None:
    """The x of [s]G + [t]P, both scalars walked at once; None at infinity."""
    one, other = (*g, 1), (*p, 1)
    table = {(1, 0): one, (0, 1): other, (1, 1): _add(one, other)}
    sum_: Point = _INFINITY
    for bit in range(255, -1, -1):
        sum_ = _add(sum_, sum_)
        pair = (s >> bit & 1, t >> bit & 1)
        if any(pair):
            sum_ = _add(sum_, table[pair])
    x, _, z = sum_
    return None if z == 0 else x * pow(z, -2, _P) % _P


def _add(p: Point, q: Point) -> Point:
    """P + Q, also where they are equal, opposite or at infinity."""
    (x1, y1, z1), (x2, y2, z2) = p, q
    if z1 == 0 or z2 == 0:
        return q if z1 == 0 else p
    u1, u2 = x1 * z2 * z2 % _P, x2 * z1 * z1 % _P
    s1, s2 = y1 * z2**3 % _P, y2 * z1**3 % _P
    h, r = (u2 - u1) % _P, (s2 - s1) % _P
    if h == 0:
        return _INFINITY if r else _double(p)
    h2 = h * h % _P
    h3, v = h2 * h % _P, u1 * h2 % _P
    x = (r * r - h3 - 2 * v) % _P
    return x, (r * (v - x) - s1 * h3) % _P, z1 * z2 * h % _P


def _double(p: Point) -> Point:
    x, y, z = p
    if y == 0:
        return _INFINITY
    m = (3 * x * x + _A * pow(z, 4, _P)) % _P
    s = 4 * x * y * y % _P
    x3 = (m * m - 2 * s) % _P
    return x3, (m * (s - x3) - 8 * pow(y, 4, _P)) % _P, 2 * y * z % _P


class Sm2PrivateKey:
    """A log's SM2 key; `sign` answers in DER. Its representation shows only that it is one."""

    def __init__(self, public: Sm2PublicKey, sign: Sign) -> None:
        self.public, self._sign = public, sign

    def __repr__(self) -> str:
        return "Sm2PrivateKey()"

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`, r || s; it is verified before it leaves."""
        r, s = decode_dss_signature(self._sign(message))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        self.public.verify(message, signature)
        return signature
