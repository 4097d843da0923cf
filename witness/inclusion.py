"""That a log which the verifier accepts holds a given envelope: leaf, checkpoint, quorum and path.

The steps of C2SP tlog-proof, "Verifying a tlog proof", in an order that gives every failure its own code.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from witness import checkpoint as checkpoints
from witness import leaf as leaves
from witness import tlog_proof
from witness.checkpoint import Checkpoint, CheckpointInvalid
from witness.checks import CLOCK_TOLERANCE, Requirement, VerificationFailed, required_at
from witness.leaf import Leaf, LeafInvalid
from witness.merkle import ProofInvalid, verify_inclusion
from witness.note import Note, NoteInvalid
from witness.policy import Policy
from witness.tlog_proof import TlogProof, TlogProofInvalid


@dataclass(frozen=True)
class Included:
    """An envelope's place in a log: index, public leaf, checkpoint, and who cosigned it when (seconds)."""

    index: int
    leaf: Leaf
    checkpoint: Checkpoint
    cosigners: Mapping[str, int]


def check_inclusion(
    proof: str, envelope: bytes, policy: Policy, requirements: Sequence[Requirement] = ()
) -> Included:
    """The envelope's place in an accepted log. Raises VerificationFailed."""
    # 1. The proof is a tlog-proof whose extra line is the public leaf of this envelope.
    parsed, leaf = _parse(proof)
    if leaf.envelope != hashlib.sha256(envelope).digest():
        raise VerificationFailed("inclusion", "The log's entry is of another envelope than this one.")
    # 2. An accepted log signed the checkpoint.
    head = _check_log(parsed.checkpoint, policy, required_at(requirements, leaf.received_at))
    # 3. Enough known witnesses cosigned it, not before the log says it received the entry.
    cosigners = _check_quorum(parsed.checkpoint, policy, leaf.received_at)
    # 4. The leaf is in the checkpoint's tree.
    try:
        verify_inclusion(leaf.hash, parsed.index, head.size, parsed.path, head.root)
    except ProofInvalid as error:
        raise VerificationFailed("inclusion", f"The record is not in the log: {error}.") from error
    return Included(parsed.index, leaf, head, cosigners)


def _parse(proof: str) -> tuple[TlogProof, Leaf]:
    try:
        parsed = tlog_proof.parse(proof)
        return parsed, leaves.parse(parsed.extra or b"")
    except (TlogProofInvalid, LeafInvalid) as error:
        raise VerificationFailed("format", f"The log's proof is malformed: {error}.") from error


def _check_log(signed: Note, policy: Policy, required: Collection[str]) -> Checkpoint:
    try:
        return checkpoints.open_checkpoint(signed, policy.logs, required)
    except CheckpointInvalid as error:
        raise VerificationFailed("checkpoint", f"No accepted log signed this: {error}.") from error


def _check_quorum(signed: Note, policy: Policy, received_at: int) -> Mapping[str, int]:
    try:
        cosigners = policy.cosigners(signed)
    except NoteInvalid as error:
        raise VerificationFailed("quorum", f"A cosignature does not hold: {error}.") from error
    if not policy.satisfied_by(cosigners.keys()):
        raise VerificationFailed("quorum", "Too few of the trusted witnesses cosigned the checkpoint.")
    timely = {n: at for n, at in cosigners.items() if at * 1000 >= received_at - CLOCK_TOLERANCE}
    if not policy.satisfied_by(timely.keys()):
        raise VerificationFailed(
            "time", "By the witnesses' clocks the tree was cosigned before the record was received."
        )
    return timely
