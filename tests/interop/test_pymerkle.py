"""pymerkle, an RFC 9162 tree by other hands, finds the same roots, paths and consistency proofs."""

from __future__ import annotations

import pytest
from pymerkle import InmemoryTree, InvalidProof, verify_consistency, verify_inclusion

from witness import merkle

pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def theirs(published) -> InmemoryTree:
    tree = InmemoryTree(algorithm="sha256")
    for leaf in published.leaves:
        tree.append_entry(leaf.to_bytes())
    return tree


def test_roots_are_equal_at_every_size(published, theirs) -> None:
    hashes = [leaf.hash for leaf in published.leaves]
    for size in range(1, len(hashes) + 1):
        assert theirs.get_root(size) == merkle.root(size, merkle.nodes_of(hashes[:size]))
    for head in published.heads:
        assert theirs.get_root(head.size) == head.root


def test_inclusion_paths_are_equal(published, theirs) -> None:
    size = published.head.size
    for proof in published.proofs:
        made = theirs.prove_inclusion(proof.index + 1, size)
        assert made.path[0] == published.leaves[proof.index].hash
        assert tuple(made.path[1:]) == proof.path
        verify_inclusion(made.path[0], published.head.root, made)
    other = theirs.prove_inclusion(1, size)
    with pytest.raises(InvalidProof):
        verify_inclusion(published.leaves[1].hash, published.head.root, other)


def test_our_tree_is_consistent_by_their_proofs(published, theirs) -> None:
    for old in published.heads[:-1]:
        made = theirs.prove_consistency(old.size, published.head.size)
        verify_consistency(old.root, published.head.root, made)
        with pytest.raises(InvalidProof):
            verify_consistency(published.head.root, old.root, made)
