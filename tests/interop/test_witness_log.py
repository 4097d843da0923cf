"""The witness of the PyPI package witness-log cosigns our checkpoints, asked as C2SP tlog-witness says."""

from __future__ import annotations

import pytest
import witness_log

from witness import note, policy
from witness.checkpoint import Checkpoint
from witness.encoding import b64

pytestmark = pytest.mark.deep
NAME = "witness-log.example/w"


@pytest.fixture
def theirs(published, tmp_path):
    state = str(tmp_path / "state.json")
    witness_log.WitnessService.create_state(state)
    service = witness_log.WitnessService.new(NAME, b"7" * 32, state)
    assert service.add_log(published.log.origin, published.vkeys[0])
    return service


def request(published, old: int, head: Checkpoint | None = None) -> str:
    """The body of add-checkpoint: from which size on, the consistency proof, the checkpoint."""
    size = (head or published.head).size
    proof = published.log.prove_consistency(old, size) if old else []
    signed = published.checkpoint if head is None else published.signed(head)
    return "\n".join([f"old {old}", *map(b64, proof), "", signed])


def test_it_cosigns_and_we_accept_it(published, theirs, cosigned_note) -> None:
    status, lines = theirs.handle_add_checkpoint(request(published, 0), 1_767_225_700)
    assert status == 200, lines
    assert cosigned_note(published.checkpoint + lines, theirs.vkey()) == [1_767_225_700]
    rules = [f"log {published.vkeys[0]}", f"witness w {theirs.vkey()}", "quorum w"]
    asked = policy.parse("\n".join(rules))
    assert asked.satisfied_by(asked.cosigners(note.parse(published.checkpoint + lines)).keys())


def test_it_accepts_our_consistency_proof_from_a_cosigned_size(published, theirs) -> None:
    assert theirs.handle_add_checkpoint(request(published, 0))[0] == 200
    size = published.head.size
    status, said = theirs.handle_add_checkpoint(request(published, published.heads[1].size))
    assert (status, said.strip()) == (409, str(size))
    assert theirs.handle_add_checkpoint(request(published, size))[0] == 200


def test_it_follows_our_log_as_it_grows(published, theirs, cosigned_note) -> None:
    old = 0
    for head in published.heads:
        status, lines = theirs.handle_add_checkpoint(request(published, old, head))
        assert status == 200, lines
        assert all(cosigned_note(published.signed(head) + lines, theirs.vkey()))
        old = head.size


def test_it_refuses_what_is_not_ours(published, theirs) -> None:
    forged = request(published, 0).replace(b64(published.head.root), b64(b"x" * 32))
    assert theirs.handle_add_checkpoint(forged)[0] in {400, 403, 422}
    other = request(published, 0).replace(published.log.origin, "other.example/log")
    assert theirs.handle_add_checkpoint(other)[0] in {403, 404}
