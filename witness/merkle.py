"""The Merkle tree of RFC 6962 section 2.1: roots, inclusion proofs and consistency proofs over SHA-256.

Every proof is first a list of ranges of leaves; the hash of a range is folded from *perfect* subtrees,
which a caller supplies by (level, index) from memory or from tiles. Verification recomputes the root and
raises `ProofInvalid`; it never answers false.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

# (level, index) -> hash of the perfect subtree over leaves [index * 2^level, (index + 1) * 2^level)
Node = Callable[[int, int], bytes]


class ProofInvalid(ValueError):
    """The proof does not connect what it claims to connect."""


def leaf_hash(entry: bytes) -> bytes:
    """MTH({d}) = SHA-256(0x00 || d)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def nodes_of(leaf_hashes: Sequence[bytes]) -> Node:
    """Perfect subtree hashes computed from leaf hashes held in memory."""

    def node(level: int, index: int) -> bytes:
        return perfect_root(leaf_hashes[index << level : (index + 1) << level])

    return node


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """Root over a power of two of hashes, without recursion."""
    row = list(hashes)
    while len(row) > 1:
        row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]


def root(size: int, node: Node) -> bytes:
    """MTH(D[0:size])."""
    return range_hash(0, size, node) if size else EMPTY_ROOT


def range_hash(start: int, end: int, node: Node) -> bytes:
    """MTH(D[start:end]) for a range that RFC 6962's recursion reaches."""
    hashes = [node(level, index) for level, index in _perfect(start, end)]
    folded = hashes.pop()
    while hashes:
        folded = node_hash(hashes.pop(), folded)
    return folded


def _perfect(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The perfect subtrees of D[start:end], left to right: the binary digits of its length."""
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """PATH(index, D[0:size]): sibling hashes from the leaf up (RFC 6962 section 2.1.1)."""
    if not 0 <= index < size:
        raise ProofInvalid(f"no entry {index} in a tree of {size}")
    return [range_hash(a, b, node) for a, b in _path(index, 0, size)]


def _path(index: int, start: int, end: int) -> list[tuple[int, int]]:
    ranges = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """PROOF(old, D[0:new]): that the first `old` entries have not changed (section 2.1.2)."""
    if not 0 < old <= new:
        raise ProofInvalid(f"no consistency proof from {old} to {new}")
    return [range_hash(a, b, node) for a, b in _subproof(old, new)]


def _subproof(old: int, end: int) -> list[tuple[int, int]]:
    start, whole, ranges = 0, True, []
    while old < end:
        middle = start + _split(end - start)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, whole = middle, False
    return ([] if whole else [(start, end)]) + ranges[::-1]


def _split(count: int) -> int:
    """The largest power of two smaller than `count`, for count > 1."""
    return 1 << ((count - 1).bit_length() - 1)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root_hash: bytes) -> None:
    """Leaf hash `leaf` is entry `index` of the tree of `size` with `root_hash` (RFC 9162 section 2.1.3.2)."""
    if root_from_inclusion(leaf, index, size, proof) != root_hash:
        raise ProofInvalid("the inclusion proof leads to another root")


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root to which the proof leads from leaf hash `leaf`. Raises ProofInvalid for a wrong length."""
    if not 0 <= index < size:
        raise ProofInvalid(f"no entry {index} in a tree of {size}")
    fn, sn, folded = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            raise ProofInvalid("the inclusion proof is too long")
        if fn & 1 or fn == sn:
            folded = node_hash(sibling, folded)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            folded = node_hash(folded, sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise ProofInvalid("the inclusion proof is too short")
    return folded


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """The tree (old, old_root) is a prefix of (new, new_root) (RFC 9162 section 2.1.4.2)."""
    if not 0 < old <= new:
        raise ProofInvalid(f"no consistency proof from {old} to {new}")
    if old == new:
        if proof or old_root != new_root:
            raise ProofInvalid("two roots for one tree size")
        return
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        raise ProofInvalid("the consistency proof is too short")
    if _fold_both(path, old - 1, new - 1) != (old_root, new_root):
        raise ProofInvalid("the consistency proof leads to other roots")


def _fold_both(path: list[bytes], fn: int, sn: int) -> tuple[bytes, bytes]:
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if sn == 0:
            raise ProofInvalid("the consistency proof is too long")
        if fn & 1 or fn == sn:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            new = node_hash(new, sibling)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise ProofInvalid("the consistency proof is too short")
    return old, new
