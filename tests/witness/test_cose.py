"""COSE receipts: written and read in one form only, believed only when leaf, path and signature fit."""

import random

import pytest

from witness import cbor, cose, merkle, note, tlog_proof
from witness.cbor import CborInvalid, Tagged
from witness.checkpoint import Checkpoint, sign
from witness.keys import ML_DSA_44, PrivateKey
from witness.leaf import Leaf

ORIGIN = "witness.example/gba"
KEY = PrivateKey.from_seed(b"k" * 32)
LOG = note.verifier_key(ORIGIN, KEY.public)
LEAVES = [Leaf(bytes([n]) * 32, b"t" * 32, n) for n in range(11)]


def proof_of(index: int, size: int = len(LEAVES)) -> tlog_proof.TlogProof:
    nodes = merkle.nodes_of([leaf.hash for leaf in LEAVES[:size]])
    head = sign(Checkpoint(ORIGIN, size, merkle.root(size, nodes)), KEY)
    path = merkle.inclusion_proof(index, size, nodes)
    return tlog_proof.TlogProof(index, tuple(path), head, LEAVES[index].to_bytes())


def forged(receipt: bytes, change, key: PrivateKey = KEY) -> bytes:
    """The receipt with other parts, signed over what it then says."""
    tagged = cbor.decode(receipt)
    protected, proofs = cbor.decode(tagged.value[0]), tagged.value[1]
    change(protected, proofs)
    header = cbor.encode(protected)
    signature = key.sign(cbor.encode(["Signature1", header, b"", merkle.EMPTY_ROOT]))
    return cbor.encode(Tagged(18, [header, proofs, None, signature]))


@pytest.mark.parametrize(("index", "size"), [(0, 1), (0, 11), (5, 11), (10, 11), (3, 8)])
def test_a_receipt_says_what_the_proof_says(index: int, size: int) -> None:
    proof = proof_of(index, size)
    found = cose.verify(cose.sign(proof, KEY), LEAVES[index].hash, [LOG])
    assert (found.origin, found.index, found.size) == (ORIGIN, index, size)


def test_it_has_the_labels_of_rfc_9942() -> None:
    tagged = cbor.decode(cose.sign(proof_of(5), KEY))
    assert tagged.tag == 18
    protected, unprotected, payload, signature = tagged.value
    header = {1: -8, 4: bytes.fromhex(KEY.public.id), 15: {1: ORIGIN}, 395: 1}
    assert (cbor.decode(protected), payload, len(signature)) == (header, None, 64)
    ((blob,),) = unprotected[396].values()
    assert list(unprotected[396]) == [-1]
    assert cbor.decode(blob) == [11, 5, list(proof_of(5).path)]


def test_every_flipped_bit_fails_or_leaves_the_root_and_the_log() -> None:
    receipt = cose.sign(proof_of(5), KEY)
    said = cose.verify(receipt, LEAVES[5].hash, [LOG])
    passed = set()
    for position in range(len(receipt)):
        data = bytearray(receipt)
        data[position] ^= 1 << random.Random(position).randrange(8)
        try:
            found = cose.verify(bytes(data), LEAVES[5].hash, [LOG])
        except cose.ReceiptInvalid:
            continue
        assert (found.origin, found.root) == (said.origin, said.root)
        passed.add(position)
    assert len(passed) <= 2, "only tree size and index are not signed by themselves"


def test_another_leaf_log_or_key_fails() -> None:
    receipt = cose.sign(proof_of(5), KEY)
    other = note.verifier_key(ORIGIN, PrivateKey.from_seed(b"o" * 32).public)
    renamed = note.verifier_key("other.example/log", KEY.public)
    with pytest.raises(cose.ReceiptInvalid, match="did not sign"):
        cose.verify(receipt, LEAVES[4].hash, [LOG])
    for logs in ([other], [renamed], []):
        with pytest.raises(cose.ReceiptInvalid, match="no accepted log"):
            cose.verify(receipt, LEAVES[5].hash, logs)


@pytest.mark.parametrize(
    "change",
    [
        lambda protected, proofs: protected.update({1: -7}),
        lambda protected, proofs: protected.update({395: 2}),
        lambda protected, proofs: protected.update({2: [395]}),
        lambda protected, proofs: protected.pop(395),
        lambda protected, proofs: proofs.update({33: b"more"}),
        lambda protected, proofs: proofs[396].update({-2: []}),
        lambda protected, proofs: proofs[396].update({-1: proofs[396][-1] * 2}),
        lambda protected, proofs: proofs[396].update({-1: []}),
        lambda protected, proofs: proofs[396].update({-1: [cbor.encode([11, 11, []])]}),
        lambda protected, proofs: proofs[396].update({-1: [cbor.encode([11, 5, [b"short"]])]}),
        lambda protected, proofs: proofs[396].update({-1: [cbor.encode([2**64 - 1, 5, []])]}),
        lambda protected, proofs: proofs[396].update({-1: [cbor.encode([1, 0, [b"h" * 32] * 64])]}),
        lambda protected, proofs: proofs.clear(),
    ],
)
def test_other_structures_are_refused(change) -> None:
    with pytest.raises(cose.ReceiptInvalid):
        cose.verify(forged(cose.sign(proof_of(5), KEY), change), LEAVES[5].hash, [LOG])


def test_an_attached_payload_is_refused() -> None:
    tagged = cbor.decode(cose.sign(proof_of(5), KEY))
    tagged.value[2] = b"r" * 32
    with pytest.raises(cose.ReceiptInvalid):
        cose.verify(cbor.encode(tagged), LEAVES[5].hash, [LOG])


def test_no_receipt_is_signed_for_a_proof_that_does_not_hold() -> None:
    good, other = proof_of(5), proof_of(6)
    crossed = tlog_proof.TlogProof(5, other.path, good.checkpoint, good.extra)
    with pytest.raises(cose.ReceiptInvalid):
        cose.sign(crossed, KEY)
    with pytest.raises(cose.ReceiptInvalid):
        cose.sign(good, PrivateKey.from_seed(b"p" * 32, ML_DSA_44))


# --- the encoding -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "encoded"),  # RFC 8949, appendix A
    [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (1000000, "1a000f4240"),
        (18446744073709551615, "1bffffffffffffffff"),
        (-1, "20"),
        (-1000, "3903e7"),
        (None, "f6"),
        (b"\x01\x02\x03\x04", "4401020304"),
        ("水", "63e6b0b4"),
        ([1, [2, 3], [4, 5]], "8301820203820405"),
        ({1: 2, 3: 4}, "a201020304"),
        (Tagged(1, 1363896240), "c11a514b67b0"),
    ],
)
def test_the_standards_examples(value, encoded: str) -> None:
    assert cbor.encode(value).hex() == encoded
    assert cbor.decode(bytes.fromhex(encoded)) == value


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "1817",  # 23 in two bytes
        "f4",  # false
        "fb3ff199999999999a",  # 1.1
        "5f42010243030405ff",  # indefinite length
        "9f01ff",
        "a203040102",  # keys out of order
        "a201020103",  # a key twice
        "a1616101",  # a text key
        "62c328",  # not UTF-8
        "8301",  # ends too early
        "9bffffffffffffffff",  # a count that cannot be
        "0000",  # something behind it
        "81" * 20 + "00",  # nested too deeply
        "1c",
    ],
)
def test_other_encodings_are_refused(encoded: str) -> None:
    with pytest.raises(CborInvalid):
        cbor.decode(bytes.fromhex(encoded))


def test_values_outside_the_subset_are_not_written() -> None:
    for value in (True, 1.5, 2**64, object()):
        with pytest.raises(CborInvalid):
            cbor.encode(value)
