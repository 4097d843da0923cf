"""The PyPI package witness-log and we cosign each other's logs, asked as C2SP tlog-witness says."""

from __future__ import annotations

import pytest
import witness_log

from witness import note, policy
from witness.checkpoint import Checkpoint
from witness.cosigner import Cosigner
from witness.database import Database
from witness.encoding import b64
from witness.keys import PrivateKeys

pytestmark = pytest.mark.deep
NAME = "witness-log.example/w"
NOW = 1_767_225_600_000


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


def test_we_cosign_their_log_as_it_grows_and_they_accept_it(interop_key) -> None:
    log = witness_log.WitnessLog.generate()
    known = policy.parse(f"log {log.c2sp_vkey(log.canonical_origin())}\nquorum none")
    key = interop_key("cosigner")
    ours = Cosigner("ours.example/w", PrivateKeys([key]), known, Database("sqlite://"), lambda: NOW)
    old = 0
    for more in (1, 4, 300):
        for number in range(more):
            log.append_intent(b"step %d" % number)
        answer = ours.add_checkpoint(log.add_checkpoint_body(old).encode())
        assert answer.status == 200, answer.body
        _, accepted = log.dossier_from_responses([(key.public.raw.hex(), answer.body.decode())])
        assert accepted == 1
        old = log.tree_size()
    assert ours.add_checkpoint(log.add_checkpoint_body(1).encode()).status == 409
    stranger = interop_key("stranger").public.raw.hex()
    assert log.dossier_from_responses([(stranger, answer.body.decode())])[1] == 0
