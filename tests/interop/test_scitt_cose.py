"""scitt-cose reads our COSE receipts, and we read the receipts that it makes of the same tree."""

from __future__ import annotations

import cbor2
import pytest
import scitt_cose.receipt as theirs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from witness import cose
from witness.keys import PrivateKey

pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def key(interop_key) -> PrivateKey:
    return interop_key("log")


def pem(key: PrivateKey) -> bytes:
    public = Ed25519PublicKey.from_public_bytes(key.public.raw)
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_our_receipts_hold_there(published, key) -> None:
    for proof in (*published.proofs[:3], *published.proofs[254:258], published.proofs[-1]):
        result = theirs.verify_receipt(
            cose.sign(proof, key), leaf_entry_hex=(proof.extra or b"").hex(), log_public_key_pem=pem(key)
        )
        assert result.ok, result.errors
        assert (result.leaf_index, result.tree_size) == (proof.index, published.head.size)
        assert (result.root, result.issuer) == (published.head.root.hex(), published.log.origin)


def test_they_refuse_ours_for_another_entry_or_key(published, key, interop_key) -> None:
    receipt = cose.sign(published.proofs[5], key)
    other = published.leaves[6].to_bytes().hex()
    assert not theirs.verify_receipt(receipt, leaf_entry_hex=other, log_public_key_pem=pem(key)).ok
    own, stranger = published.leaves[5].to_bytes().hex(), pem(interop_key("stranger"))
    assert not theirs.verify_receipt(receipt, leaf_entry_hex=own, log_public_key_pem=stranger).ok


def test_their_receipts_say_what_ours_do(published, key) -> None:
    """They write the header's labels in another order, so the bytes and the signatures differ."""
    entries = [leaf.to_bytes().hex() for leaf in published.leaves]
    for index in (0, 255, 256, len(entries) - 1):
        made = theirs.build_receipt(
            leaf_entry_hex=entries[index],
            leaf_index=index,
            tree_entries_hex=entries,
            alg="EdDSA",
            log_private_key_pem=key.pem(),
            iss=published.log.origin,
            kid=bytes.fromhex(key.public.id),
        )
        one, other = (
            cbor2.loads(receipt).value for receipt in (made, cose.sign(published.proofs[index], key))
        )
        assert cbor2.loads(one[0]) == cbor2.loads(other[0])
        assert one[1:3] == other[1:3]
