"""The executable specification of both BFV schemes, and the key holder's attacks on the selection sum.

`Specification` is the selection sum in Python integers, byte for byte what the kernel does; it can leave out
a protecting step. `Threshold` is the same for federated sums. Each attack is the sender's: it knows its
secret key, every uniform polynomial, every error and every value. Each must fail against the scheme, and
succeed once the step that stops it is out.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as seal
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from compute import _native, selection_sum
from compute.selection_sum import Parameters

N = 64
BLOCK_UNIFORM, KEY_UNIFORM, BLOCK_ERROR, SECRET, KEY_ERROR, MASK_SECRET, MASK_ERROR, FLOOD = range(1, 9)
SENDER_SECRET, SENDER_PUBLIC, RECEIVER = b"s" * 32, b"p" * 32, b"r" * 32

Poly = list[int]


def stream(seed: bytes, purpose: int, index: int) -> Iterator[int]:
    """Bytes of ChaCha20 (RFC 8439), counter 0, nonce = purpose || index."""
    nonce = bytes(4) + purpose.to_bytes(4, "little") + index.to_bytes(8, "little")
    cipher = Cipher(ChaCha20(seed, nonce), mode=None).encryptor()
    while True:
        yield from cipher.update(bytes(4096))


def take(bytes_: Iterator[int], count: int) -> int:
    return int.from_bytes(bytes(next(bytes_) for _ in range(count)), "little")


def uniform(p: int, seed: bytes, purpose: int, index: int, n: int) -> Poly:
    source, bits = stream(seed, purpose, index), p.bit_length()
    out: Poly = []
    while len(out) < n:
        candidate = take(source, -(-bits // 8)) % (1 << bits)
        if candidate < p:
            out.append(candidate)
    return out


def ternary(seed: bytes, purpose: int, index: int, n: int) -> Poly:
    source, out = stream(seed, purpose, index), []
    while len(out) < n:
        byte = next(source)
        if byte < 255:
            out.append(byte % 3 - 1)
    return out


def errors(seed: bytes, purpose: int, index: int, n: int) -> Poly:
    source, half = stream(seed, purpose, index), (1 << 21) - 1
    draws = [take(source, 6) for _ in range(n)]
    return [(x & half).bit_count() - (x >> 21 & half).bit_count() for x in draws]


def multiply(x: Poly, y: Poly, q: int) -> Poly:
    """In Z_q[X]/(X^N + 1)."""
    out = [0] * len(x)
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            sign = 1 if i + j < len(x) else -1
            out[(i + j) % len(x)] += sign * a * b
    return [c % q for c in out]


def psi(p: int, n: int) -> int:
    """The power of the smallest x >= 2 that has order 2N."""
    return next(r for x in range(2, p) if pow(r := pow(x, (p - 1) // (2 * n), p), n, p) == p - 1)


def points(p: int, n: int, root: int | None = None) -> list[int]:
    """Where transformed values are evaluations: psi^(2 reversed(k) + 1)."""
    width, root = n.bit_length() - 1, root or psi(p, n)
    return [pow(root, 2 * int(f"{k:0{width}b}"[::-1], 2) + 1, p) for k in range(n)]


def evaluate(x: Poly, p: int, root: int | None = None) -> Poly:
    return [sum(c * pow(point, i, p) for i, c in enumerate(x)) % p for point in points(p, len(x), root)]


def interpolate(values: Poly, p: int) -> Poly:
    n, inverse = len(values), pow(len(values), -1, p)
    nodes = [pow(point, -1, p) for point in points(p, n)]
    return [
        inverse * sum(v * pow(node, i, p) for v, node in zip(values, nodes, strict=True)) % p
        for i in range(n)
    ]


def crt(residues: list[int], primes: tuple[int, ...]) -> int:
    q = prod(primes)
    return sum(r * (q // p) * pow(q // p, -1, p) for r, p in zip(residues, primes, strict=True)) % q


def packed(poly: Poly, primes: tuple[int, ...]) -> bytes:
    out = b""
    for p in primes:
        bits = p.bit_length()
        joined = sum((c % p) << (bits * i) for i, c in enumerate(poly))
        out += joined.to_bytes(len(poly) * bits // 8, "little")
    return out


def unpacked(data: bytes, primes: tuple[int, ...], n: int) -> Poly:
    columns = []
    for p in primes:
        bits, length = p.bit_length(), n * p.bit_length() // 8
        joined, data = int.from_bytes(data[:length], "little"), data[length:]
        columns.append([joined >> (bits * i) & ((1 << bits) - 1) for i in range(n)])
    return [crt(list(residues), primes) for residues in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Specification:
    primes: tuple[int, ...]
    plain_bits: int
    n: int = N

    @property
    def q(self) -> int:
        return prod(self.primes)

    def public(self, seed: bytes, purpose: int, index: int) -> Poly:
        """Coefficients modulo q of a polynomial whose transformed values come from a seed."""
        parts = [
            interpolate(uniform(p, seed, purpose, index << 8 | i, self.n), p)
            for i, p in enumerate(self.primes)
        ]
        return [crt(list(residues), self.primes) for residues in zip(*parts, strict=True)]

    def block_index(self, column: int, block: int) -> int:
        return column << 32 | block

    def scaled(self, m: int) -> int:
        """round(q m / t), halves upwards."""
        return (2 * self.q * m + (1 << self.plain_bits)) >> (self.plain_bits + 1)

    def secret(self) -> Poly:
        return ternary(SENDER_SECRET, SECRET, 0, self.n)

    def public_key(self) -> Poly:
        a_s = multiply(self.public(SENDER_PUBLIC, KEY_UNIFORM, 0), self.secret(), self.q)
        e = errors(SENDER_SECRET, KEY_ERROR, 0, self.n)
        return [(x - y) % self.q for x, y in zip(e, a_s, strict=True)]

    def encrypt(self, column: int, block: int, messages: Poly) -> Poly:
        index = self.block_index(column, block)
        a_s = multiply(self.public(SENDER_PUBLIC, BLOCK_UNIFORM, index), self.secret(), self.q)
        e = errors(SENDER_SECRET, BLOCK_ERROR, index, self.n)
        return [(self.scaled(m) + x - y) % self.q for m, x, y in zip(messages, e, a_s, strict=True)]

    def weighted(self, column: int, c0: list[Poly], weights: list[Poly]) -> tuple[Poly, Poly]:
        """All of (sum c0 w, sum a w), with every block's weights reversed."""
        sums = ([0] * self.n, [0] * self.n)
        for block, (c, w) in enumerate(zip(c0, weights, strict=True)):
            a = self.public(SENDER_PUBLIC, BLOCK_UNIFORM, self.block_index(column, block))
            for total, poly in zip(sums, (c, a), strict=True):
                for i, x in enumerate(multiply(poly, w[::-1], self.q)):
                    total[i] = (total[i] + x) % self.q
        return sums

    def fresh_zero(self, cell: int) -> tuple[Poly, Poly]:
        """The public-key encryption of zero, without an error on the first half: the flood covers it."""
        u = ternary(RECEIVER, MASK_SECRET, cell, self.n)
        e = errors(RECEIVER, MASK_ERROR, cell, self.n)
        a_u = multiply(self.public(SENDER_PUBLIC, KEY_UNIFORM, 0), u, self.q)
        return multiply(self.public_key(), u, self.q), [(x + y) % self.q for x, y in zip(a_u, e, strict=True)]

    def switched(self, x: int, kept: int) -> int:
        """Divide by the last primes one after the other, rounding to the nearest each time."""
        for i in range(len(self.primes), kept, -1):
            p, rest = self.primes[i - 1], prod(self.primes[: i - 1])
            centred = (x % p) - p if x % p > p // 2 else x % p
            x = (x - centred) // p % rest
        return x

    def answer(
        self, column: int, c0: list[Poly], weights: list[Poly], cell: int, addend: int, kept: int
    ) -> bytes:
        head, c1 = self.weighted(column, c0, weights)
        zero = self.fresh_zero(cell)
        top = self.switched((head[-1] + zero[0][-1] + addend) % self.q, kept)
        c1 = [self.switched((x + y) % self.q, kept) for x, y in zip(c1, zero[1], strict=True)]
        heads = b"".join((top % p).to_bytes(8, "little") for p in self.primes[:kept])
        return heads + packed(c1, self.primes[:kept])


def primes(count: int, bits: int = 45, n: int = N) -> tuple[int, ...]:
    return tuple(_native.selection_primes(n, bits, count))


def kernel(spec: Specification, implementation: str = "portable") -> _native.SelectionKey:
    ring = _native.SelectionRing(implementation, spec.n, spec.primes)
    return _native.SelectionKey(ring, spec.plain_bits, SENDER_SECRET, SENDER_PUBLIC)


def kernel_sums(
    spec: Specification, packed_blocks: bytes, weights: np.ndarray, implementation: str = "portable"
) -> _native.SelectionSums:
    """The kernel's sums of one column with one selection."""
    ring = _native.SelectionRing(implementation, spec.n, spec.primes)
    positions = np.flatnonzero(weights).astype(np.int64)
    selection = (positions, np.ascontiguousarray(weights[positions]))
    sums = _native.SelectionSums(ring, SENDER_PUBLIC, kernel(spec).public_key(), 1, len(weights), [selection])
    sums.absorb(0, 0, len(weights) // spec.n, packed_blocks)
    return sums


@pytest.mark.parametrize("implementation", _native.implementations())
@pytest.mark.parametrize(
    ("count", "bits", "plain_bits", "n"),
    [(1, 50, 20, 8), (2, 45, 44, 16), (3, 42, 63, 16), (3, 50, 64, 16), (4, 47, 65, 8), (6, 50, 200, 16)],
)
def test_the_kernel_does_what_the_specification_says(
    count: int, bits: int, plain_bits: int, n: int, implementation: str
) -> None:
    spec = Specification(primes(count, bits, n), plain_bits, n)
    key, random = kernel(spec, implementation), np.random.default_rng(plain_bits)
    assert key.public_key() == packed(spec.public_key(), spec.primes)
    blocks, shift = 3, plain_bits // 3
    positions = np.flatnonzero(random.random(blocks * n) < 0.7).astype(np.int64)
    values = random.integers(-(2**63), 2**63, len(positions), np.int64)
    weights = random.integers(-(2**60), 2**60, blocks * n, np.int64) * random.integers(0, 2, blocks * n)
    messages = [0] * (blocks * n)
    for p, v in zip(positions, values, strict=True):
        messages[p] = (1 + (int(v) << shift)) % (1 << plain_bits)
    c0 = [spec.encrypt(0, b, messages[b * n : (b + 1) * n]) for b in range(blocks)]
    sent = key.encrypt(0, 0, blocks, positions, [(shift, values)])
    assert sent == b"".join(packed(c, spec.primes) for c in c0)
    sums = kernel_sums(spec, sent, weights, implementation)
    split = [[int(w) for w in weights[b * n : (b + 1) * n]] for b in range(blocks)]
    for kept in range(1, count + 1):
        addend = random.integers(0, 2**40, count).tolist()
        answer = sums.finish(0, 0, RECEIVER, addend, kept)
        assert answer == spec.answer(0, c0, split, 0, crt(addend, spec.primes), kept)
        head = crt(
            [int.from_bytes(answer[8 * i : 8 * i + 8], "little") for i in range(kept)], spec.primes[:kept]
        )
        c1 = unpacked(answer[8 * kept :], spec.primes[:kept], n)
        opened = (head + multiply(c1, spec.secret(), prod(spec.primes[:kept]))[-1]) % prod(spec.primes[:kept])
        assert key.open(kept, answer) == [opened % p for p in spec.primes[:kept]]


def test_columns_and_blocks_have_uniform_polynomials_and_errors_of_their_own() -> None:
    spec = Specification(primes(1), 20, 16)
    key, nothing = kernel(spec), np.zeros(0, np.int64)
    seen = {key.encrypt(column, block, 1, nothing, []) for column in range(3) for block in range(3)}
    assert len(seen) == 9
    assert key.encrypt(2, 0, 3, nothing, []) == b"".join(key.encrypt(2, b, 1, nothing, []) for b in range(3))
    for column, block in ((0, 1), (2, 2)):
        assert key.encrypt(column, block, 1, nothing, []) == packed(
            spec.encrypt(column, block, [0] * 16), spec.primes
        )


# ---- the threshold scheme of federated sums ---------------------------------------------------------


def flood(seed: bytes, block: int, flood_bits: int, n: int) -> Poly:
    """Uniform in [-2^flood_bits, 2^flood_bits): whole words of the stream, the last one cut."""
    source, words = stream(seed, FLOOD, block), -(-(flood_bits + 1) // 64)
    return [take(source, 8 * words) % (1 << (flood_bits + 1)) - (1 << flood_bits) for _ in range(n)]


def plus(*polynomials: Poly) -> Poly:
    return [sum(column) for column in zip(*polynomials, strict=True)]


@dataclass(frozen=True)
class Threshold:
    """compute/threshold.py's equations in Python integers; each block is one polynomial modulo q."""

    spec: Specification
    common: bytes

    def secret(self, member: bytes) -> Poly:
        return ternary(member, SECRET, 0, self.spec.n)

    def product(self, x: Poly, y: Poly) -> Poly:
        return multiply(x, y, self.spec.q)

    def key_share(self, member: bytes) -> Poly:
        a_s = self.product(self.spec.public(self.common, KEY_UNIFORM, 0), self.secret(member))
        return plus(errors(member, KEY_ERROR, 0, self.spec.n), [-x for x in a_s])

    def ciphertext(self, key: Poly, messages: Poly, seed: bytes, block: int) -> tuple[Poly, Poly]:
        u = ternary(seed, MASK_SECRET, block, self.spec.n)
        e0, e1 = (errors(seed, purpose, block, self.spec.n) for purpose in (BLOCK_ERROR, MASK_ERROR))
        scaled = [self.spec.scaled(m) for m in messages]
        common = self.spec.public(self.common, KEY_UNIFORM, 0)
        return plus(self.product(key, u), e0, scaled), plus(self.product(common, u), e1)

    def decryption_share(self, member: bytes, c1: Poly, seed: bytes, block: int, flood_bits: int) -> Poly:
        return plus(self.product(c1, self.secret(member)), flood(seed, block, flood_bits, self.spec.n))


@pytest.mark.parametrize("implementation", _native.implementations())
@pytest.mark.parametrize(("count", "bits", "plain_bits", "n"), [(2, 45, 20, 16), (4, 50, 65, 8)])
def test_the_kernel_of_the_threshold_scheme_does_what_the_specification_says(
    count: int, bits: int, plain_bits: int, n: int, implementation: str
) -> None:
    spec, blocks, random = Specification(primes(count, bits, n), plain_bits, n), 2, np.random.default_rng(n)
    scheme, ring = Threshold(spec, b"c" * 32), _native.SelectionRing(implementation, n, spec.primes)
    t, limbs, names = 1 << plain_bits, -(-plain_bits // 64), (b"x" * 32, b"y" * 32)
    members = [_native.ThresholdMember(ring, name, scheme.common) for name in names]

    def all_packed(polynomials: list[Poly]) -> bytes:
        return b"".join(packed(polynomial, spec.primes) for polynomial in polynomials)

    shares = [scheme.key_share(name) for name in names]
    assert [member.key_share() for member in members] == [packed(share, spec.primes) for share in shares]
    key, messages = plus(*shares), [int.from_bytes(random.bytes(9), "big") % t for _ in range(blocks * n)]
    halves = [scheme.ciphertext(key, messages[b * n : (b + 1) * n], RECEIVER, b) for b in range(blocks)]
    c1 = _native.threshold_second_halves(ring, scheme.common, RECEIVER, blocks)
    assert c1 == all_packed([second for _, second in halves])
    words = np.frombuffer(b"".join(m.to_bytes(8 * limbs, "little") for m in messages), "<u8")
    sum_of_keys = _native.threshold_add(ring, [member.key_share() for member in members])
    c0 = _native.threshold_first_halves(ring, plain_bits, sum_of_keys, words, RECEIVER)
    assert c0 == all_packed([first for first, _ in halves])

    total = all_packed([plus(*halves[b]) for b in range(blocks)])
    assert _native.threshold_add(ring, [c0, c1]) == total
    residues = [x % p for pair in halves for p in spec.primes for x in plus(*pair)]
    assert np.frombuffer(_native.threshold_residues(ring, total), "<u8").tolist() == residues

    for flood_bits in (3, 63, 64, 70):
        opened = [
            member.decryption_share(c1, name, flood_bits) for member, name in zip(members, names, strict=True)
        ]
        parts = [
            [scheme.decryption_share(name, halves[b][1], name, b, flood_bits) for b in range(blocks)]
            for name in names
        ]
        assert opened == [all_packed(part) for part in parts]
        if spec.q >> (plain_bits + flood_bits + 4):  # room for the floods: all shares together decrypt
            sums = [plus(halves[b][0], *(part[b] for part in parts)) for b in range(blocks)]
            plain = [(2 * t * (x % spec.q) + spec.q) // (2 * spec.q) % t for s in sums for x in s]
            assert plain == messages


# ---- attacks of the key holder ----------------------------------------------------------------------


def bits(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, n, np.int64)


def divided(c1: Poly, spec: Specification) -> Poly:
    """c1 / a_0 in the ring, per prime; what remains if c1 was a_0 times the reversed selection."""
    parts = []
    for i, p in enumerate(spec.primes):
        a = uniform(p, SENDER_PUBLIC, BLOCK_UNIFORM, i, spec.n)
        values = evaluate([c % p for c in c1], p)
        parts.append(interpolate([v * pow(x, -1, p) for v, x in zip(values, a, strict=True)], p))
    return [crt(list(r), spec.primes) for r in zip(*parts, strict=True)][::-1]


def test_division_by_the_senders_own_polynomial() -> None:
    """Stopped by the fresh public-key encryption of zero."""
    spec, selection = Specification(primes(2), 20), bits(1)
    key = kernel(spec)
    sent = key.encrypt(0, 0, 1, np.arange(N, dtype=np.int64), [])
    c0 = [unpacked(sent, spec.primes, N)]
    without = spec.weighted(0, c0, [selection.tolist()])[1]
    assert divided(without, spec) == selection.tolist()

    answer = kernel_sums(spec, sent, selection).finish(0, 0, RECEIVER, [0, 0], 2)
    c1 = unpacked(answer[16:], spec.primes, N)
    quotient = np.array([min(x, spec.q - x) for x in divided(c1, spec)], dtype=object)
    assert all(quotient > spec.q >> 40)  # nothing small, let alone 0 or 1
    zero = spec.fresh_zero(0)[1]
    assert c1 == [(x + y) % spec.q for x, y in zip(without, zero, strict=True)]


def test_reading_the_counts_polynomial_coefficient_by_coefficient() -> None:
    """Stopped by returning a single coefficient of the product: the others hold running sums of the mask."""
    spec, selection = Specification(primes(2), 20), bits(2)
    key = kernel(spec)
    sent = key.encrypt(0, 0, 1, np.arange(N, dtype=np.int64), [])
    head, c1 = spec.weighted(0, [unpacked(sent, spec.primes, N)], [selection.tolist()])
    zero = spec.fresh_zero(0)
    # Left out: a whole ciphertext comes back, freshly masked in c1 but with all of c0.
    whole = [(x + y) % spec.q for x, y in zip(head, zero[0], strict=True)]
    c1 = [(x + y) % spec.q for x, y in zip(c1, zero[1], strict=True)]
    product = multiply(c1, spec.secret(), spec.q)
    t = 1 << spec.plain_bits
    plain = [
        (2 * t * ((x + y) % spec.q) + spec.q) // (2 * spec.q) % t for x, y in zip(whole, product, strict=True)
    ]
    assert plain[-1] == selection.sum()
    # (1 + X + ... ) w: neighbouring coefficients differ by twice one coefficient of w.
    differences = [(plain[i] - plain[i - 1]) % t for i in range(1, N)]
    assert [d // 2 for d in differences[::-1]] == selection[: N - 1].tolist()

    # As it is: selections with equal counts open to equal plaintexts, and one coefficient is all there is.
    opened = set()
    for seed in range(20):
        other = np.random.default_rng(seed).permutation(selection)
        answer = kernel_sums(spec, sent, other).finish(
            0, 0, hashlib.sha256(bytes([seed])).digest(), [0, 0], 2
        )
        assert len(answer) == 2 * 8 + len(packed([0] * N, spec.primes))
        x = crt(key.open(2, answer), spec.primes)
        opened.add((2 * t * x + spec.q) // (2 * spec.q) % t)
    assert opened == {int(selection.sum())}


def test_subtracting_the_answers_of_two_cells() -> None:
    """Stopped by an encryption of zero of its own for every cell: a shared one would cancel."""
    spec, first, second = Specification(primes(2), 20), bits(4), bits(5)
    sent = kernel(spec).encrypt(0, 0, 1, np.arange(N, dtype=np.int64), [])
    ring = _native.SelectionRing("portable", N, spec.primes)
    selections = [(np.flatnonzero(w).astype(np.int64), None) for w in (first, second)]
    sums = _native.SelectionSums(ring, SENDER_PUBLIC, kernel(spec).public_key(), 1, N, selections)
    sums.absorb(0, 0, 1, sent)

    def difference(left: bytes, right: bytes) -> Poly:
        pairs = zip(*(unpacked(x[16:], spec.primes, N) for x in (left, right)), strict=True)
        quotient = divided([(x - y) % spec.q for x, y in pairs], spec)
        return [x - spec.q if x > spec.q // 2 else x for x in quotient]

    # Left out: both cells on the encryption of zero number 0.
    c0 = [unpacked(sent, spec.primes, N)]
    shared = [spec.answer(0, c0, [w.tolist()], 0, 0, 2) for w in (first, second)]
    assert difference(*shared) == (first - second).tolist()
    own = [sums.finish(0, selection, RECEIVER, [0, 0], 2) for selection in (0, 1)]
    assert min(map(abs, difference(*own))) > spec.q >> 40


def regression(flood_bits: int, sessions: int = 1500) -> tuple[float, float]:
    """Least squares of the opened noise on the sender's own errors: (share of slots guessed, z-score).

    The receiver asks about the same selection in every session. Against it, the sender regresses
    noise = sum w_j (e_j + rounding_j) + rest on the e_j + rounding_j that it knows.
    """
    spec, selection = Specification(primes(3), 20), bits(3)
    ring, everywhere = _native.SelectionRing("portable", N, spec.primes), np.arange(N, dtype=np.int64)
    positions = np.flatnonzero(selection).astype(np.int64)
    parameters = Parameters(N, N, None, 1, (), N, spec.primes, 3, flood_bits, 20, ())
    entropy_calls = iter(range(10**9))

    def entropy(count: int) -> bytes:
        return hashlib.shake_256(b"flood %d" % next(entropy_calls)).digest(count)

    rounding = (spec.scaled(1) << spec.plain_bits) - spec.q  # 2^20 times the rounding of a one
    known, noise = np.zeros((sessions, N)), np.zeros(sessions)
    for session in range(sessions):
        seed = hashlib.sha256(b"sender %d" % session).digest()
        key = _native.SelectionKey(ring, spec.plain_bits, seed, seed)
        sums = _native.SelectionSums(ring, seed, key.public_key(), 1, N, [(positions, None)])
        sums.absorb(0, 0, 1, key.encrypt(0, 0, 1, everywhere, []))
        addend = selection_sum._flood(parameters, entropy) if flood_bits else 0
        answer = sums.finish(0, 0, entropy(32), [addend % p for p in spec.primes], 3)
        opened = crt(key.open(3, answer), spec.primes)
        centred = (opened - spec.scaled(int(selection.sum())) + spec.q // 2) % spec.q - spec.q // 2
        known[session] = np.array(errors_fast(seed, BLOCK_ERROR, 0, N)) + rounding / 2**20
        noise[session] = centred
    noise = noise / (np.abs(noise).max() or 1)
    centred_known = known - known.mean(axis=0)
    estimate, *_ = np.linalg.lstsq(centred_known, noise - noise.mean(), rcond=None)
    ones, zeros = estimate[selection == 1], estimate[selection == 0]
    spread = np.sqrt(ones.var() / len(ones) + zeros.var() / len(zeros))
    order = np.zeros(N, np.int64)
    order[np.argsort(estimate)[N - selection.sum() :]] = 1
    return float((order == selection).mean()), float((ones.mean() - zeros.mean()) / spread)


def errors_fast(seed: bytes, purpose: int, index: int, n: int) -> Poly:
    """As `errors`, from one buffer."""
    nonce = bytes(4) + purpose.to_bytes(4, "little") + index.to_bytes(8, "little")
    data = Cipher(ChaCha20(seed, nonce), mode=None).encryptor().update(bytes(6 * n))
    half = (1 << 21) - 1
    draws = [int.from_bytes(data[6 * i : 6 * i + 6], "little") for i in range(n)]
    return [(x & half).bit_count() - (x >> 21 & half).bit_count() for x in draws]


def test_regressing_the_returned_noise_on_the_senders_errors() -> None:
    """Stopped by the flood."""
    guessed, z = regression(flood_bits=0)
    assert guessed > 0.95
    assert z > 10
    flood_bits = Parameters.derive(slots=N, returned=1, bounds=[]).flood_bits
    guessed, z = regression(flood_bits)
    assert abs(guessed - 0.5) < 0.25  # 64 guesses of a fair coin
    assert abs(z) < 4


def test_a_flood_as_wide_as_the_noise_would_not_do() -> None:
    """The regression still finds the selection under a flood of the size of what it is to hide."""
    assert regression(flood_bits=6)[1] > 6


def test_known_weakness_a_deviating_receiver_reads_the_key_in_enough_cells() -> None:
    """Gates rest on a semi-honest receiver: what it returns may be a question about the key instead of a sum.

    Every answer carries a count that passes any minimum and as many coefficients of the secret as fit beside
    it. With the secret all columns of the session are open (docs/explanation/selection-sum.md).
    """
    spec, count_bits = Specification(primes(3), 30), 7
    parameters = Parameters(
        N, N, None, 64, (selection_sum.SumBound(1 << 20),), N, spec.primes, 3, 64, count_bits, (23,)
    )
    key, values = kernel(spec), np.random.default_rng(8).integers(-1000, 1000, N, np.int64)
    sent = key.encrypt(0, 0, 1, np.arange(N, dtype=np.int64), [(count_bits, values)])

    def asked(first: int, last: int) -> tuple[int, list[int]]:
        """What the owner reads as a count, and coefficients first to last of its secret."""
        c1 = [0] * N
        for place, i in enumerate(range(first, last)):
            c1[N - 1 - i] = spec.scaled(1 << (count_bits + 2 * place))
        # One more for each digit: none is negative.
        head = spec.scaled(50 + sum(1 << (count_bits + 2 * place) for place in range(last - first)))
        heads = b"".join((head % p).to_bytes(8, "little") for p in spec.primes)
        masked = selection_sum._decrypt(parameters, key, heads + packed(c1, spec.primes))
        digits = masked >> count_bits
        return masked % (1 << count_bits), [(digits >> (2 * j)) % 4 - 1 for j in range(last - first)]

    answers = [asked(first, min(first + 11, N)) for first in range(0, N, 11)]
    assert {count for count, _ in answers} == {50}
    secret = [digit for _, digits in answers for digit in digits]
    assert secret == spec.secret()

    a = spec.public(SENDER_PUBLIC, BLOCK_UNIFORM, spec.block_index(0, 0))
    (c0,) = [unpacked(sent, spec.primes, N)]
    opened = [(x + y) % spec.q for x, y in zip(c0, multiply(a, secret, spec.q), strict=True)]
    t = 1 << spec.plain_bits
    plain = [(2 * t * x + spec.q) // (2 * spec.q) % t for x in opened]
    assert plain == [(1 + (int(v) << count_bits)) % t for v in values]


def test_the_flood_is_uniform_over_its_whole_range() -> None:
    """Kolmogorov and Smirnov at 0.01 %: a bias of the flood would be a bias of the proof."""
    parameters = Parameters(N, N, None, 1, (), N, (), 0, 64, 20, ())
    count = 20_000
    source = np.random.default_rng(5)
    drawn = np.sort([selection_sum._flood(parameters, source.bytes) / 2.0**65 + 0.5 for _ in range(count)])
    grid = np.arange(count) / count
    distance = max(np.abs(drawn - grid).max(), np.abs(drawn - grid - 1 / count).max())
    assert distance < 2.23 / np.sqrt(count)


def test_masks_are_uniform_so_that_a_suppressed_sum_stays_hidden() -> None:
    """What the sender decrypts above the count is one of 2^bits values, each as likely as any other."""
    parameters = Parameters(N, N, None, 1, (selection_sum.SumBound(3),), N, (), 0, 64, 4, (3,))
    source = np.random.default_rng(6)
    drawn = [
        selection_sum._draw_masks(parameters, selection_sum.Shape(1, 1), source.bytes).masks[0][0][0]
        for _ in range(8000)
    ]
    counts = np.bincount(drawn, minlength=8)
    assert len(counts) == 8
    assert ((counts - 1000) ** 2 / 1000).sum() < 29.9  # chi-squared, 7 degrees of freedom, 0.01 %


# ---- somebody else's implementation -----------------------------------------------------------------
#
# Microsoft SEAL, through TenSEAL, with our primes and our secret key. Only its file format is written here.


def saved(body: bytes) -> bytes:
    """SEAL's header: magic, its own length, version 4.3, no compression, reserved, total length."""
    return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 0, 0, 16 + len(body)) + body


def words(values: list[int]) -> bytes:
    """SEAL's DynArray."""
    return saved(struct.pack(f"<Q{len(values)}Q", len(values), *values))


def minimal_root(p: int, n: int) -> int:
    """The smallest primitive 2N-th root of one, which is SEAL's choice."""
    return min(pow(psi(p, n), odd, p) for odd in range(1, 2 * n, 2))


class Seal:
    """A SEAL context over our primes, and a decryptor that holds our secret."""

    def __init__(self, spec: Specification, folder: Path) -> None:
        settings_primes = (
            *spec.primes,
            primes(len(spec.primes) + 1)[-1],
        )  # SEAL keeps the last for key switching
        settings = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
        settings.set_poly_modulus_degree(N)
        settings.set_coeff_modulus([seal.Modulus(p) for p in settings_primes])
        settings.set_plain_modulus(1 << spec.plain_bits)
        self.context = seal.SEALContext(settings, True, seal.SEC_LEVEL_TYPE.NONE)
        self.path = folder / "seal"
        values = [x for p in settings_primes for x in evaluate(spec.secret(), p, minimal_root(p, N))]
        key = seal.SecretKey()
        body = struct.pack("<4QQd", *self.context.key_parms_id(), len(values), 1.0) + words(values)
        self.path.write_bytes(saved(body))
        key.load(self.context, str(self.path))
        self.decryptor = seal.Decryptor(self.context, key)

    def decrypt(self, c0: Poly, c1: Poly, moduli: tuple[int, ...]) -> Poly:
        """Plaintext coefficients of (c0, c1) modulo the product of the moduli."""
        level = self.context.first_context_data()
        while len(level.parms().coeff_modulus()) > len(moduli):
            level = level.next_context_data()
        values = [c % p for poly in (c0, c1) for p in moduli for c in poly]
        body = struct.pack("<4Q?QQQdQ", *level.parms_id(), False, 2, N, len(moduli), 1.0, 1) + words(values)
        self.path.write_bytes(saved(body))
        ciphertext, plain = seal.Ciphertext(self.context), seal.Plaintext()
        ciphertext.load(self.context, str(self.path))
        self.decryptor.decrypt(ciphertext, plain)
        count = plain.coeff_count()
        return [plain.data(i) for i in range(count)] + [0] * (N - count)


def test_seal_decrypts_columns_and_answers(tmp_path: Path) -> None:
    spec, random = Specification(primes(3), 50), np.random.default_rng(7)
    key, oracle, t = kernel(spec), Seal(spec, tmp_path), 1 << 50
    values = random.integers(-(2**30), 2**30, 2 * N, np.int64)
    weights = random.integers(0, 2, 2 * N, np.int64)
    sent = key.encrypt(0, 0, 2, np.arange(2 * N, dtype=np.int64), [(10, values)])
    blocks = np.array([1 + (int(v) << 10) for v in values], dtype=object).reshape(2, N) % t
    length = len(sent) // 2
    for block in range(2):
        a = spec.public(SENDER_PUBLIC, BLOCK_UNIFORM, spec.block_index(0, block))
        c0 = unpacked(sent[block * length :][:length], spec.primes, N)
        assert oracle.decrypt(c0, a, spec.primes) == blocks[block].tolist()
    mask = int(random.integers(0, t >> 10)) << 10
    addend = spec.scaled(mask) + int(random.integers(-(2**40), 2**40))
    expected = (int(weights.sum()) + (int((values * weights).sum()) << 10) + mask) % t
    for kept in (2, 3):
        moduli = spec.primes[:kept]
        answer = kernel_sums(spec, sent, weights).finish(
            0, 0, RECEIVER, [addend % p for p in spec.primes], kept
        )
        head = crt([int.from_bytes(answer[8 * i : 8 * i + 8], "little") for i in range(kept)], moduli)
        c1 = unpacked(answer[8 * kept :], moduli, N)
        assert oracle.decrypt([0] * (N - 1) + [head], c1, moduli)[-1] == expected
