# The Rust half. Columns are packed, contiguous buffers of bytes; see compute/native/src/columns.rs.

from collections.abc import Sequence
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

# compute/kernel.py only:

class InvalidPoint(ValueError): ...

def implementations() -> list[str]: ...
def mask(with_: str, column: memoryview, scalar: bytes, /) -> bytes: ...
def hash_to_group(
    with_: str, offsets: memoryview, offset_bytes: int, data: memoryview, tag: bytes, /
) -> bytes: ...
def truncated_tags(column: memoryview, sid: bytes, width: int, /) -> bytes: ...
def matches(left: memoryview, right: memoryview, width: int, memory: int, /) -> tuple[bytes, bytes]: ...
def has_duplicates(column: memoryview, width: int, memory: int, /) -> bool: ...

# compute/selection_sum.py only:

def selection_primes(degree: int, bits: int, count: int) -> list[int]: ...

@final
class SelectionRing:
    def __new__(cls, with_: str, degree: int, moduli: Sequence[int]) -> Self: ...

@final
class SelectionKey:
    def __new__(
        cls, ring: SelectionRing, plain_bits: int, secret_seed: bytes, public_seed: bytes
    ) -> Self: ...
    def public_key(self) -> bytes: ...
    def encrypt(
        self,
        column_number: int,
        first_block: int,
        blocks: int,
        positions: NDArray[np.int64],
        fields: Sequence[tuple[int, NDArray[np.int64]]],
    ) -> bytes: ...
    def open(self, kept: int, answer: bytes) -> list[int]: ...

@final
class SelectionSums:
    def __new__(
        cls,
        ring: SelectionRing,
        public_seed: bytes,
        public_key: bytes,
        columns: int,
        slots: int,
        selections: Sequence[tuple[NDArray[np.int64], NDArray[np.int64] | None]],
    ) -> Self: ...
    def absorb(self, column_number: int, first_block: int, blocks: int, packed: bytes) -> None: ...
    def finish(
        self, column_number: int, selection: int, seed: bytes, addend: Sequence[int], kept: int
    ) -> bytes: ...

# compute/threshold.py only:

@final
class ThresholdMember:
    def __new__(cls, ring: SelectionRing, secret_seed: bytes, common_seed: bytes) -> Self: ...
    def key_share(self) -> bytes: ...
    def decryption_share(self, c1: bytes, seed: bytes, flood_bits: int) -> bytes: ...

def threshold_second_halves(
    ring: SelectionRing, common_seed: bytes, seed: bytes, blocks: int
) -> bytes: ...
def threshold_first_halves(
    ring: SelectionRing, plain_bits: int, public_key: bytes, messages: NDArray[np.uint64], seed: bytes
) -> bytes: ...
def threshold_add(ring: SelectionRing, columns: Sequence[bytes]) -> bytes: ...
def threshold_residues(ring: SelectionRing, column: bytes) -> bytes: ...
