"""COSE receipts of inclusion (RFC 9942): the log's signature over a root, with the path that leads to it.

    18([ << {1: -8, 4: key id, 15: {1: origin}, 395: 1} >>,     EdDSA, kid, issuer, RFC9162_SHA256
         {396: {-1: [ << [tree size, leaf index, [path]] >> ]}},
         null, signature ])

For tools that speak COSE. The same tree and the same Ed25519 key as the checkpoint's; the payload, the root,
is detached, so that nothing is believed but what the leaf and the path lead to. Refuses other algorithms,
other verifiable data structures, other labels, attached payloads, and any encoding but the one written here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from witness import checkpoint as checkpoints
from witness.cbor import CborInvalid, Tagged, decode, encode
from witness.keys import ED25519, PrivateKey, PublicKey, SignatureInvalid
from witness.leaf import parse as parse_leaf
from witness.merkle import HASH_SIZE, ProofInvalid, root_from_inclusion
from witness.note import VerifierKey
from witness.tlog_proof import LONGEST_PATH, TlogProof

_SIGN1 = 18
_ALG, _KID, _CLAIMS, _VDS, _VDP = 1, 4, 15, 395, 396
_EDDSA, _ISSUER, _RFC9162_SHA256, _INCLUSION = -8, 1, 1, -1


class ReceiptInvalid(ValueError):
    """Not a receipt of inclusion, or one that no accepted log signed for this leaf."""


@dataclass(frozen=True)
class Receipt:
    """What a receipt that holds says: which log had the leaf in the tree with this root.

    Index and size are the path's: RFC 9942 signs the root alone, and another size can lead to the same root.
    Whoever needs them compares them with the checkpoint's.
    """

    origin: str
    index: int
    size: int
    root: bytes


def sign(proof: TlogProof, key: PrivateKey) -> bytes:
    """The receipt of the entry that this proof is about, signed by the log's Ed25519 key.

    Raises ReceiptInvalid for a proof that does not hold: a wrong receipt could never be recalled.
    """
    head = checkpoints.parse(proof.checkpoint.text)
    if key.public.algorithm != ED25519:
        raise ReceiptInvalid("receipts are signed with Ed25519")
    if _root(proof.index, head.size, proof.path, parse_leaf(proof.extra or b"").hash) != head.root:
        raise ReceiptInvalid("the proof does not lead to the checkpoint's root")
    protected = encode(_header(head.origin, key.public))
    path = encode([head.size, proof.index, list(proof.path)])
    signature = key.sign(_signed(protected, head.root))
    return encode(Tagged(_SIGN1, [protected, {_VDP: {_INCLUSION: [path]}}, None, signature]))


def verify(data: bytes, leaf_hash: bytes, logs: Sequence[VerifierKey]) -> Receipt:
    """What the receipt says about the entry with this leaf hash. Raises ReceiptInvalid."""
    try:
        protected, path, signature = _parts(decode(data))
        size, index, hashes = _path(decode(path))
        log = _log(protected, logs)
    except CborInvalid as error:
        raise ReceiptInvalid(f"the receipt is {error}") from error
    root = _root(index, size, hashes, leaf_hash)
    try:
        log.public.verify(_signed(protected, root), signature)
    except SignatureInvalid as error:
        raise ReceiptInvalid("the log did not sign the root that this entry leads to") from error
    return Receipt(log.name, index, size, root)


def _header(origin: str, key: PublicKey) -> dict[int, Any]:
    kid = bytes.fromhex(key.id)
    return {_ALG: _EDDSA, _KID: kid, _CLAIMS: {_ISSUER: origin}, _VDS: _RFC9162_SHA256}


def _signed(protected: bytes, payload: bytes) -> bytes:
    """Sig_structure of RFC 9052 section 4.4. It begins with 0x84, which no checkpoint does."""
    return encode(["Signature1", protected, b"", payload])


def _parts(value: Any) -> tuple[bytes, bytes, bytes]:
    match value:
        case Tagged(
            tag=18, value=[bytes() as protected, {396: {-1: [bytes() as path]}}, None, bytes() as sig]
        ):
            if value.value[1] == {_VDP: {_INCLUSION: [path]}}:
                return protected, path, sig
    raise ReceiptInvalid("not a receipt with one inclusion proof and a detached payload")


def _path(value: Any) -> tuple[int, int, list[bytes]]:
    match value:
        case [int() as size, int() as index, [*hashes]] if 0 <= index < size < 1 << 63:
            if len(hashes) <= LONGEST_PATH and all(_is_hash(h) for h in hashes):
                return size, index, hashes
    raise ReceiptInvalid("not an inclusion proof of RFC9162_SHA256")


def _is_hash(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == HASH_SIZE


def _log(protected: bytes, logs: Sequence[VerifierKey]) -> VerifierKey:
    """The log whose header this is: an unknown label in it might change the meaning, so none is allowed."""
    header = decode(protected)
    for log in logs:
        if (
            isinstance(log.public, PublicKey)
            and log.public.algorithm == ED25519
            and header == _header(log.name, log.public)
        ):
            return log
    raise ReceiptInvalid("no accepted log made this receipt, or its header is not as we know it")


def _root(index: int, size: int, path: Sequence[bytes], leaf_hash: bytes) -> bytes:
    try:
        return root_from_inclusion(leaf_hash, index, size, list(path))
    except ProofInvalid as error:
        raise ReceiptInvalid(f"the entry does not lead to a root: {error}") from error
