"""libsodium beside OpenSSL on signatures that are on the edge: of points of small order, not canonical, torn.

The cases are those of Chalkias, Garillot and Nikolaenko, "Taming the many EdDSAs" (2020), made here with the
plain arithmetic of RFC 8032, section 5.1.
"""

from hashlib import sha512
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witness import sodium
from witness.keys import ED25519, ML_DSA_44, KeyInvalid, PrivateKey, PublicKey, SignatureInvalid

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
BASE = (15112221349535400772501151409588531511454012693041857206046113283949847762202, 4 * pow(5, -1, P) % P)
NEUTRAL = (0, 1)


def add(one, other):
    (x, y), (u, v) = one, other
    k = D * x * u * y * v % P
    return (x * v + u * y) * pow(1 + k, -1, P) % P, (y * v + x * u) * pow(1 - k, -1, P) % P


def times(scalar, point):
    total = NEUTRAL
    while scalar:
        total = add(total, point) if scalar & 1 else total
        point, scalar = add(point, point), scalar >> 1
    return total


def encoded(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def decoded(encoding):
    y = int.from_bytes(encoding, "little") & (2**255 - 1)
    x = root((y * y - 1) * pow(D * y * y + 1, -1, P) % P)
    return (x if x & 1 == encoding[31] >> 7 else P - x), y


def root(square):
    x = pow(square, (P + 3) // 8, P)
    return x if (x * x - square) % P == 0 else x * pow(2, (P - 1) // 4, P) % P


def small_order():
    """The eight points of the curve whose order divides eight."""
    y = 2
    while True:
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = root(square)
        if (x * x - square) % P == 0 and times(4, generator := times(L, (x, y))) != NEUTRAL:
            return [times(n, generator) for n in range(8)]
        y += 1


SMALL = small_order()
NOT_CANONICAL = [(y | sign << 255).to_bytes(32, "little") for y in range(P, 2**255) for sign in (0, 1)]


def signed(a, r, key_point, nonce_point, message, beyond=0):
    """A public key and a signature of these points, which have the scalars a and r but for small order."""
    key, nonce = encoded(key_point), encoded(nonce_point)
    h = int.from_bytes(sha512(nonce + key + message).digest(), "little")
    return key, nonce + ((r + h * a) % L + beyond * L).to_bytes(32, "little")


def holds(check, raw, message, signature):
    try:
        check(PublicKey(ED25519, raw), message, signature)
    except (SignatureInvalid, KeyInvalid):
        return False
    return True


def both(raw, message, signature):
    return holds(sodium.verify, raw, message, signature), holds(PublicKey.verify, raw, message, signature)


def cases():
    random = Random(8032)
    large = [(scalar, times(scalar, BASE)) for scalar in (0, random.randrange(L), random.randrange(L))]
    for (a, key), (r, nonce), more_a, more_r, beyond in product(large, large, SMALL, SMALL, (0, 1)):
        message = random.randbytes(8)
        yield message, *signed(a, r, add(key, more_a), add(nonce, more_r), message, beyond)
    scalar, nonce = large[1]
    for odd in NOT_CANONICAL:
        message = random.randbytes(8)
        yield message, odd, encoded(nonce) + scalar.to_bytes(32, "little")
        yield message, encoded(BASE), odd + scalar.to_bytes(32, "little")
        yield message, odd, odd + bytes(32)


def test_nothing_is_accepted_that_openssl_refuses():
    verdicts = [both(raw, message, signature) for message, raw, signature in cases()]
    assert (True, False) not in verdicts
    # the cases do tell the two apart, and some of them hold
    assert {(True, True), (False, True), (False, False)} == set(verdicts)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_honest_signatures_hold(seed, message):
    key = PrivateKey.from_seed(seed)
    assert both(key.public.raw, message, key.sign(message)) == (True, True)


@given(st.integers(0, 64 * 8 - 1), st.binary(max_size=40))
def test_one_bit_more_is_refused(bit, message):
    key = PrivateKey.from_seed(bytes(range(32)))
    torn = bytearray(key.sign(message))
    torn[bit // 8] ^= 1 << bit % 8
    assert both(key.public.raw, message, bytes(torn)) == (False, False)


@pytest.mark.parametrize("size", [0, 1, 63, 65])
def test_signatures_of_another_size_are_refused(size):
    key = PrivateKey.from_seed(bytes(32))
    with pytest.raises(SignatureInvalid):
        sodium.verify(key.public, b"message", (key.sign(b"message") + b"m")[:size])


@pytest.mark.parametrize("size", [0, 1, 63, 65, 70])
def test_nothing_of_the_message_passes_as_the_signature_or_the_other_way_round(size):
    """libsodium reads both as one text: where the message begins is ours to say."""
    key = PrivateKey.from_seed(bytes(32))
    text = key.sign(b"a longer message") + b"a longer message"
    assert both(key.public.raw, text[64:], text[:64]) == (True, True)
    assert both(key.public.raw, text[size:], text[:size]) == (False, False)


def test_other_algorithms_are_openssls():
    key = PrivateKey.from_seed(bytes(32), ML_DSA_44)
    sodium.verify(key.public, b"message", key.sign(b"message"))
    with pytest.raises(SignatureInvalid):
        sodium.verify(key.public, b"massage", key.sign(b"message"))


def test_a_build_that_verifies_with_the_cofactor_is_not_imported(monkeypatch):
    """The signature holds where both sides of the equation are multiplied by eight, and not otherwise."""
    sodium.check_build()
    nonce, s = sodium._ONLY_WITH_COFACTOR[:32], sodium._ONLY_WITH_COFACTOR[32:]
    key, nonce_point, h = (*map(decoded, (sodium._KEY, nonce)), sha512(nonce + sodium._KEY).digest())
    left = times(int.from_bytes(s, "little"), BASE)
    right = add(nonce_point, times(int.from_bytes(h, "little"), key))
    assert left != right
    assert times(8, left) == times(8, right)
    monkeypatch.setattr(sodium, "crypto_sign_open", lambda *_: b"")
    with pytest.raises(ImportError, match="cofactor"):
        sodium.check_build()
