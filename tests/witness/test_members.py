"""The member list binds evidence keys to participants; its successors are the key history."""

import json
from dataclasses import replace

import pytest

from witness import canonical, dsse, members
from witness.keys import ML_DSA_44, PrivateKey
from witness.members import EvidenceKey, MemberList, MembersInvalid, Participant
from witness.schema import FormatError

START = 1_767_225_600_000  # the space fixture's clock


def key_of(name, algorithm="ed25519"):
    return PrivateKey.from_seed(name.encode().ljust(32, b"."), algorithm)


def test_signed_and_read_back(space):
    again = members.verify(dsse.parse(space.member_envelope.to_bytes()), [space.operator.public])
    assert again == space.members
    assert again.to_payload() == space.members.to_payload()
    assert again.participant("hk-bank").jurisdiction == "HK"
    assert again.participant("nobody") is None
    key = space.keys["hk-bank"].public
    assert again.key("hk-bank", key.id).public == key
    assert again.key("sz-trade", key.id) is None
    assert again.key("nobody", key.id) is None


def test_successors_name_their_predecessor(space):
    second = members.successor(space.members, space.members.space, space.participants(), START)
    assert (second.version, second.previous) == (2, space.members.digest)
    members.verify(members.sign(second, [space.operator]), [space.operator.public])


def test_only_the_operator_signs(space):
    stranger = key_of("stranger")
    for envelope in (
        members.sign(space.members, [stranger]),
        members.sign(space.members, [space.operator, stranger]),
        replace(space.member_envelope, payload=space.member_envelope.payload.replace(b"HK", b"US")),
        dsse.sign("another/type", space.members.to_payload(), [space.operator]),
        dsse.sign(members.PAYLOAD_TYPE, b"{}", [space.operator]),
    ):
        with pytest.raises(MembersInvalid):
            members.verify(envelope, [space.operator.public])


def test_two_operator_keys_while_rotating(space):
    new = key_of("operator 2")
    envelope = members.sign(space.members, [space.operator, new])
    members.verify(envelope, [space.operator.public, new.public])


OPERATOR_2 = key_of("operator", ML_DSA_44)


def named(space, second=OPERATOR_2):
    """The list that names both keys of the operator."""
    return replace(space.members, operator_keys=(space.operator.public, second.public))


def test_an_operator_with_two_keys_signs_with_both_and_names_them(space):
    members_3 = named(space)
    envelope = members.sign(members_3, [space.operator, OPERATOR_2])
    assert (members_3.format, envelope.payload_type) == (members.FORMAT_3, members.PAYLOAD_TYPE_3)
    both = [space.operator.public, OPERATOR_2.public]
    for known in (both[:1], both):  # who held the first key alone learns the second
        assert members.verify(dsse.parse(envelope.to_bytes()), known, both) == members_3
    assert members.verify(space.member_envelope, both) == space.members  # from before


def test_a_list_that_is_not_the_whole_operators_is_refused(space):
    other, first = key_of("another operator", ML_DSA_44), space.operator.public
    both = [first, OPERATOR_2.public]
    whole = members.sign(named(space), [space.operator, OPERATOR_2])
    half = members.sign(named(space), [space.operator])
    rival = members.sign(named(space, other), [space.operator, other])
    for envelope, known, settled, why in (
        (half, [first], [], "did not sign it"),
        (whole, [key_of("stranger").public], [], "another key"),
        (rival, both, [], "another key"),
        (rival, [first], both, "does not name"),
        (space.member_envelope, both, both, "does not name"),
    ):
        with pytest.raises(MembersInvalid, match=why):
            members.verify(envelope, known, settled)


def test_operator_keys_are_one_of_each_algorithm(space):
    for keys in ([space.operator], [OPERATOR_2], [OPERATOR_2, space.operator]):
        wrong = replace(space.members, operator_keys=tuple(key.public for key in keys))
        with pytest.raises(FormatError, match="operator_keys"):
            MemberList.parse(wrong.to_payload())


@pytest.mark.parametrize(
    ("start", "end", "time", "valid"),
    [(10, None, 9, False), (10, None, 10, True), (10, 20, 19, True), (10, 20, 20, False)],
)
def test_validity_is_half_open(start, end, time, valid):
    assert EvidenceKey(key_of("x").public, start, end).valid_at(time) is valid


def test_optional_fields_read_back(space):
    full = Participant(
        id="zz",
        role=members.WITNESS,
        keys=(
            EvidenceKey(key_of("a").public, START, START + 1),
            EvidenceKey(key_of("a", ML_DSA_44).public, START),
        ),
        address="zz.example:1",
        jurisdiction="CN-SZ",
        certificate="f" * 64,
        logs=(space.vkey,),
        tiles="https://zz.example/log/",
    )
    listed = members.successor(None, "gba", [full], START)
    assert MemberList.parse(listed.to_payload()) == listed


def test_a_list_with_claims_is_version_2_and_one_without_is_version_1_for_ever(space):
    assert space.members.format == members.FORMAT
    assert b"members/v1" in space.members.to_payload()
    first, *others = space.members.participants
    told = replace(space.members, participants=(replace(first, claims=("role:bank",)), *others))
    envelope = members.sign(told, [space.operator])
    assert (told.format, envelope.payload_type) == (members.FORMAT_2, members.PAYLOAD_TYPE_2)
    assert members.verify(dsse.parse(envelope.to_bytes()), [space.operator.public]) == told
    for wrong in (
        told.to_payload().replace(b"members/v2", b"members/v1"),  # who knows version 1 alone would fail
        space.members.to_payload().replace(b"members/v1", b"members/v2"),
    ):
        with pytest.raises(FormatError, match="version"):
            MemberList.parse(wrong)
    misnamed = dsse.sign(members.PAYLOAD_TYPE, told.to_payload(), [space.operator])
    with pytest.raises(MembersInvalid, match="version"):
        members.verify(misnamed, [space.operator.public])


def spoil(space, change):
    value = json.loads(space.members.to_payload())
    change(value)
    return canonical.serialise(value)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(more=1),
        lambda v: v.update(format="x"),
        lambda v: v.update(version=0),
        lambda v: v.update(version=2),
        lambda v: v.update(previous="a" * 64),
        lambda v: v.update(participants=v["participants"][::-1]),
        lambda v: v.update(participants=[v["participants"][0]] * 2),
        lambda v: v["participants"][0].update(role="king"),
        lambda v: v["participants"][0].update(address="two words"),
        lambda v: v["participants"][0].update(keys=v["participants"][1]["keys"]),
        lambda v: v["participants"][0]["keys"][0].update(id="a" * 64),
        lambda v: v["participants"][0]["keys"][0].update(algorithm="rsa"),
        lambda v: v["participants"][0]["keys"][0].update(public="AAAA"),
        lambda v: v["participants"][0]["keys"][0].update(valid_until=None),
        lambda v: v["participants"][-1].update(logs=["not a vkey"]),
        lambda v: v["participants"][-1].update(logs=[1]),
        lambda v: v["participants"][-1].update(tiles=""),
    ],
)
def test_wrong_lists_are_refused(space, change):
    with pytest.raises(FormatError):
        MemberList.parse(spoil(space, change))


def test_only_a_well_formed_list_is_signed(space):
    with pytest.raises(FormatError):
        members.sign(replace(space.members, space="No Name"), [space.operator])
    with pytest.raises(FormatError):
        MemberList.parse(b"[]")
