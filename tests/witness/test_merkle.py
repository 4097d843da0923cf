"""RFC 6962 trees against the specification's recursion, and against its well-known vectors."""

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witness import merkle
from witness.merkle import ProofInvalid, leaf_hash, node_hash

# The entries, roots and proofs of the Certificate Transparency reference implementation.
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
CONSISTENCY = {
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
NODE = merkle.nodes_of([leaf_hash(e) for e in ENTRIES])


def naive_root(entries):
    """MTH, word for word from RFC 6962 section 2.1."""
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return leaf_hash(entries[0])
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return node_hash(naive_root(entries[:k]), naive_root(entries[k:]))


def naive_path(m, entries):
    """PATH, word for word from section 2.1.1."""
    if len(entries) == 1:
        return []
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if m < k:
        return [*naive_path(m, entries[:k]), naive_root(entries[k:])]
    return [*naive_path(m - k, entries[k:]), naive_root(entries[:k])]


def naive_proof(m, entries, whole=True):
    """SUBPROOF, word for word from section 2.1.2."""
    n = len(entries)
    if m == n:
        return [] if whole else [naive_root(entries)]
    k = 1
    while k * 2 < n:
        k *= 2
    if m <= k:
        return [*naive_proof(m, entries[:k], whole), naive_root(entries[k:])]
    return [*naive_proof(m - k, entries[k:], False), naive_root(entries[:k])]


@pytest.mark.parametrize("size", range(1, 9))
def test_published_roots(size):
    assert merkle.root(size, NODE).hex() == ROOTS[size - 1] == naive_root(ENTRIES[:size]).hex()


def test_root_of_nothing():
    assert merkle.root(0, NODE) == hashlib.sha256(b"").digest()


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_published_inclusion_proofs(index, size):
    assert [h.hex() for h in merkle.inclusion_proof(index, size, NODE)] == INCLUSION[index, size]


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_published_consistency_proofs(old, new):
    assert [h.hex() for h in merkle.consistency_proof(old, new, NODE)] == CONSISTENCY[old, new]


@given(st.integers(1, 130), st.data())
def test_proofs_are_the_specifications_and_verify(size, data):
    entries = [i.to_bytes(2, "big") for i in range(size)]
    hashes = [leaf_hash(e) for e in entries]
    node = merkle.nodes_of(hashes)
    root = naive_root(entries)
    assert merkle.root(size, node) == root

    index = data.draw(st.integers(0, size - 1))
    path = merkle.inclusion_proof(index, size, node)
    assert path == naive_path(index, entries)
    merkle.verify_inclusion(hashes[index], index, size, path, root)

    old = data.draw(st.integers(1, size))
    proof = merkle.consistency_proof(old, size, node)
    assert proof == naive_proof(old, entries)
    merkle.verify_consistency(old, naive_root(entries[:old]), size, root, proof)


@given(st.integers(2, 70), st.data())
def test_altered_proofs_do_not_verify(size, data):
    hashes = [leaf_hash(bytes([i])) for i in range(size)]
    node = merkle.nodes_of(hashes)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size - 1))
    path = merkle.inclusion_proof(index, size, node)
    proof = merkle.consistency_proof(old, size, node)
    root, old_root = merkle.root(size, node), merkle.root(old, node)
    for bad in altered(path):
        with pytest.raises(ProofInvalid):
            merkle.verify_inclusion(hashes[index], index, size, bad, root)
    with pytest.raises(ProofInvalid):
        merkle.verify_inclusion(hashes[index], (index + 1) % size, size, path, root)
    for bad in altered(proof):
        with pytest.raises(ProofInvalid):
            merkle.verify_consistency(old, old_root, size, root, bad)
    with pytest.raises(ProofInvalid):
        merkle.verify_consistency(old, leaf_hash(b"other"), size, root, proof)
    with pytest.raises(ProofInvalid):
        merkle.verify_consistency(old, old_root, size, leaf_hash(b"other"), proof)


def altered(proof):
    yield [*proof, leaf_hash(b"one more")]
    if proof:
        yield proof[:-1]
        yield proof[1:]
        place = random.Random(len(proof)).randrange(len(proof))
        yield [*proof[:place], leaf_hash(b"another"), *proof[place + 1 :]]


def test_a_root_that_fits_a_path_of_the_wrong_length_is_still_refused():
    leaf, other = leaf_hash(b"leaf"), leaf_hash(b"other")
    with pytest.raises(ProofInvalid, match="too short"):
        merkle.verify_inclusion(leaf, 0, 2, [], leaf)
    with pytest.raises(ProofInvalid, match="too long"):
        merkle.verify_inclusion(leaf, 0, 1, [other], node_hash(other, leaf))
    with pytest.raises(ProofInvalid, match="too short"):
        merkle.verify_consistency(1, leaf, 3, leaf, [])
    with pytest.raises(ProofInvalid, match="too long"):
        merkle.verify_consistency(1, leaf, 2, node_hash(other, node_hash(leaf, other)), [other, other])
    with pytest.raises(ProofInvalid, match="too short"):
        merkle.verify_consistency(3, leaf, 5, leaf, [])


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_no_inclusion_outside_the_tree(index, size):
    with pytest.raises(ProofInvalid):
        merkle.inclusion_proof(index, size, NODE)
    with pytest.raises(ProofInvalid):
        merkle.verify_inclusion(leaf_hash(b""), index, size, [], leaf_hash(b""))


@pytest.mark.parametrize(("old", "new"), [(0, 3), (4, 3), (-1, 3)])
def test_no_consistency_backwards_or_from_nothing(old, new):
    with pytest.raises(ProofInvalid):
        merkle.consistency_proof(old, new, NODE)
    with pytest.raises(ProofInvalid):
        merkle.verify_consistency(old, b"", new, b"", [])


def test_one_size_has_one_root():
    root = merkle.root(5, NODE)
    merkle.verify_consistency(5, root, 5, root, [])
    with pytest.raises(ProofInvalid):
        merkle.verify_consistency(5, root, 5, leaf_hash(b"fork"), [])
    with pytest.raises(ProofInvalid):
        merkle.verify_consistency(5, root, 5, root, [root])
