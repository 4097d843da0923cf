"""Threshold BFV for sums, N of N (Mouchet et al. 2020/304): parameters, and words to ciphertexts and back.

One coefficient holds one word; only ciphertexts under one key are added, at most one of each member. The
secret is the sum of all members' secrets and exists nowhere. Refuses parameters outside the Homomorphic
Encryption Standard (128 bits, ternary secrets) as revised, and any sum that could wrap.

    key      p_i = -(a s_i) + e_i;   b = sum of p_i;   s = sum of s_i
    cipher   c0 = b u + e0 + round(q m / t),   c1 = a u + e1
    share    d_i = (sum of c1) s_i + f_i,   f_i uniform in [-2^beta, 2^beta)
    sum      round(t (sum of c0 + sum of d_i) / q) mod t

Noise, worst case, P members, degree N: every |e| <= 21, |u|, |s_i| <= 1, so of one ciphertext
|e_pk u + e0 + e1 s| <= 21 P N + 21 + 21 P N, and 1/2 for the rounding; P of them, and 1/2 for the last:
E = P (42 P N + 22) + 1. Flood: K coefficients are opened in a round, each share shifted by at most E;
the statistical distance is K E / 2^(beta + 1) <= 2^-40. Decryption is exact while E + P 2^beta < q / 2t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compute import _native, kernel
from compute.errors import DataError, QueryError
from compute.selection_sum import STANDARD, STATISTICAL_BITS

_PRIME_BITS = 50


@dataclass(frozen=True, slots=True)
class Parameters:
    """What all members must agree on; a function of public numbers alone."""

    degree: int  # N
    moduli: tuple[int, ...]
    plain_bits: int  # log2 t
    flood_bits: int  # beta

    @classmethod
    def derive(cls, members: int, bound: int, vectors: Sequence[int]) -> Parameters:
        """The smallest ring in which sums with |sum| <= `bound` are exact.

        `vectors` are the lengths of all vectors opened in one round. Raises `QueryError`.
        """
        plain_bits = bound.bit_length() + 1
        for degree, most in STANDARD.items():
            opened = degree * sum(-(-length // degree) for length in vectors)
            noise = members * (42 * members * degree + 22) + 1
            flood_bits = ((opened * noise << (STATISTICAL_BITS - 1)) - 1).bit_length()
            least = (noise + (members << flood_bits) << plain_bits + 1).bit_length() + 1
            count = -(-least // _PRIME_BITS)
            moduli = tuple(_native.selection_primes(degree, max(-(-least // count), 20), count))
            if len(moduli) == count and least <= prod(moduli).bit_length() <= most:
                return cls(degree, moduli, plain_bits, flood_bits)
        raise QueryError(
            "plan.threshold-sum-does-not-fit",
            f"sums of {plain_bits} bits exceed the largest standard modulus",
        )

    @classmethod
    def planned(cls, parameters: Mapping[str, Any]) -> Parameters:
        """Those that `canonical` put into a plan: ours, since every side makes the plan itself."""
        return cls(**{**parameters, "moduli": tuple(parameters["moduli"])})

    @property
    def t(self) -> int:
        """The plaintext modulus."""
        return 1 << self.plain_bits

    @property
    def polynomial_bytes(self) -> int:
        """Length of one packed polynomial: a key share, and half a ciphertext's block."""
        return sum(p.bit_length() for p in self.moduli) * self.degree // 8

    def blocks(self, length: int) -> int:
        """Ciphertexts of a vector of this many words."""
        return -(-length // self.degree)

    def ciphertext_bytes(self, length: int) -> int:
        """Length of all c0, or all c1, of a vector."""
        return self.blocks(length) * self.polynomial_bytes

    def residue_bytes(self, length: int) -> int:
        """Length of a vector's polynomials as residues of 64 bits, which sums of 64 members fit."""
        return 8 * self.blocks(length) * self.degree * len(self.moduli)

    def canonical(self) -> dict[str, int | list[int]]:
        """What enters the plan's digest."""
        return {
            "degree": self.degree,
            "moduli": list(self.moduli),
            "plain_bits": self.plain_bits,
            "flood_bits": self.flood_bits,
        }

    def ring(self) -> _native.SelectionRing:
        """The kernel's tables."""
        return _ring(kernel.implementation(), self.degree, self.moduli)


@lru_cache(maxsize=4)  # all exchanges of a round work in one ring
def _ring(implementation: str, degree: int, moduli: tuple[int, ...]) -> _native.SelectionRing:
    return _native.SelectionRing(implementation, degree, moduli)


def messages(parameters: Parameters, words: Sequence[int]) -> NDArray[np.uint64]:
    """Integers modulo t as the kernel takes them: whole blocks of little-endian words.

    Raises `DataError` for one that t does not hold: nothing wraps.
    """
    t, width = parameters.t, 8 * -(-parameters.plain_bits // 64)
    if any(not -t <= 2 * word < t for word in words):
        raise DataError("data.bounds", "a sum is beyond what the catalogue's bounds allow")
    plain = b"".join([(word % t).to_bytes(width, "little") for word in words])
    whole = parameters.blocks(len(words)) * parameters.degree * width
    return np.frombuffer(plain.ljust(whole, b"\0"), dtype="<u8")


def residues(ring: _native.SelectionRing, columns: Sequence[bytes]) -> NDArray[np.uint64]:
    """The residues, 64 bits each, of the sum of packed columns."""
    return np.frombuffer(_native.threshold_residues(ring, _native.threshold_add(ring, columns)), dtype="<u8")


def opened(parameters: Parameters, found: NDArray[np.uint64], length: int) -> list[int]:
    """The sums in [-t/2, t/2) from the residues of all c0 and everybody's decryption shares, added up."""
    if not length:
        return []
    primes = len(parameters.moduli)
    by_coefficient = found.reshape(-1, primes, parameters.degree).transpose(0, 2, 1).reshape(-1, primes)
    q = prod(parameters.moduli)
    basis = [q // p * pow(q // p, -1, p) for p in parameters.moduli]  # Chinese remainders
    sums = []
    for row in by_coefficient[:length].tolist():
        x = sum(r * e for r, e in zip(row, basis, strict=True)) % q
        m = (2 * parameters.t * x + q) // (2 * q) % parameters.t
        sums.append(m - parameters.t if m >= parameters.t // 2 else m)
    return sums
