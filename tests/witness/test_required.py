"""From a time on both algorithms must have signed; what was recorded before verifies with what it has."""

import dataclasses

import pytest

from tests.witness.conftest import ORIGIN, START, key_of
from witness import bundle, checkpoint, dsse, members, note, record, trust
from witness.checks import Requirement, VerificationFailed
from witness.keys import ED25519, ML_DSA_44, PrivateKeys
from witness.schema import FormatError
from witness.verify import verify

BOTH = (ED25519, ML_DSA_44)


def signers(name):
    return PrivateKeys([key_of(name, algorithm) for algorithm in BOTH])


def made(space, log, algorithms):
    """The receiver's result, signed with keys of these algorithms, in a bundle."""
    keys = [key for key in signers("hk-bank").keys if key.public.algorithm in algorithms]
    party = record.Party("hk-bank", "consumer", tuple(sorted(k.public.id for k in keys)), "b" * 64, space.now)
    sealed = space.seal("query.failure", parties=[party], outcome=record.Outcome("failed", "x"))
    envelope = dsse.sign(record.PAYLOAD_TYPE, sealed.payload, keys)
    return bundle.build([space.item(log, sealed, envelope)], [space.member_envelope])


@pytest.fixture
def doubly(space, open_log):
    """Members and log with both keys; what the auditor trusts, as a function of what it requires."""
    people = [
        dataclasses.replace(
            person, keys=tuple(members.EvidenceKey(k.public, START - 1000) for k in signers(person.id).keys)
        )
        if person.role == members.CONNECTOR
        else person
        for person in space.participants()
    ]
    space.members = members.successor(None, space.members.space, people, START - 1000)
    space.member_envelope = members.sign(space.members, [space.operator])
    keys = PrivateKeys([space.log_key, key_of("log", ML_DSA_44)])
    log = open_log(keys=keys)

    def trusting(*require):
        return trust.of_logs("gba", [space.operator.public], [str(v) for v in log.vkeys], require)

    return log, trusting


def test_both_where_both_are_required(space, doubly):
    log, trusting = doubly
    (item,) = verify(made(space, log, BOTH), trusting(Requirement(ML_DSA_44, START))).items
    assert item.signers == ("hk-bank",)


def test_one_alone_only_before_the_time(space, doubly):
    log, trusting = doubly
    alone = made(space, log, (ED25519,))
    verify(alone, trusting())
    verify(alone, trusting(Requirement(ML_DSA_44, space.now + 1)))
    with pytest.raises(VerificationFailed, match="ml-dsa-44") as failed:
        verify(alone, trusting(Requirement(ML_DSA_44, START)))
    assert failed.value.code == "signature"


def test_a_checkpoint_of_one_key_only_before_the_time(space, open_log, doubly):
    _, trusting = doubly
    log = open_log(keys=PrivateKeys([space.log_key]))  # somebody with the Ed25519 key alone
    signed = made(space, log, BOTH)
    verify(signed, trusting())
    with pytest.raises(VerificationFailed, match="required") as failed:
        verify(signed, trusting(Requirement(ML_DSA_44, START)))
    assert failed.value.code == "checkpoint"


def test_a_false_second_signature_fails_even_where_it_is_not_required(space, doubly):
    log, _ = doubly
    line = log.head.signatures[1]
    false = note.NoteSignature(line.name, line.key_id, line.signature[:-1] + bytes([line.signature[-1] ^ 1]))
    with pytest.raises(checkpoint.CheckpointInvalid):
        checkpoint.open_checkpoint(note.Note(log.head.text, (log.head.signatures[0], false)), log.vkeys)


def test_the_trust_file_carries_it(doubly):
    _, trusting = doubly
    made = trusting(Requirement(ML_DSA_44, START))
    assert trust.parse(made.to_bytes()).require == (Requirement(ML_DSA_44, START),)
    with pytest.raises(FormatError, match="does not know"):
        trust.parse(made.to_bytes().replace(b'"ml-dsa-44"', b'"ml-dsa-45"'))
    assert ORIGIN in made.policy_text
