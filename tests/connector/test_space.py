"""Space and enrolment: two hosts with carried files, renewal, removal, and what an impostor tries."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

import pytest

from compute.errors import ConfigError
from connector import config, enrolment, identity, space
from connector.identity import utc_now
from witness import dsse, members
from witness.keys import ML_DSA_44, PrivateKey, PrivateKeys

OPERATOR_2 = PrivateKey.from_seed(b"o" * 32, ML_DSA_44)


@pytest.fixture
def operator(tmp_path):
    space.init(tmp_path / "space", "gba")
    return tmp_path / "space"


@pytest.fixture
def make(tmp_path):
    def connector(name, address="127.0.0.1:7443", folder=None):
        return config.init(tmp_path / (folder or name), name, "gba", "HK", address=address).seat

    return connector


def _code(call, *arguments, **named):
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **named)
    return caught.value.code


def test_two_hosts_with_carried_files(operator, make, tmp_path):
    seat = make("hk-bank", "192.0.2.7:7443")
    carried = shutil.copy(seat.folder / enrolment.REQUEST_FILE, tmp_path / "carried.json")
    admission = space.enrol(operator, tmp_path / "carried.json", jurisdiction="HK-1")
    members = enrolment.install(seat, admission.read_bytes(), utc_now())
    (member,) = members.participants
    assert (member.id, member.role, member.address, member.jurisdiction) == (
        "hk-bank",
        "connector",
        "192.0.2.7:7443",
        "HK-1",
    )
    assert {k.id for k in member.keys} == set(identity.load_signing_keys(seat.evidence_key).public.ids)
    assert enrolment.Members(seat.trust).current() == space.listing(operator) == members
    assert b"PRIVATE" not in admission.read_bytes() + carried.read_bytes()


def test_on_one_machine_earlier_members_learn_of_later_ones(operator, make):
    first, second = make("sz-trade"), make("hk-bank")
    space.enrol_local(operator, first)
    watched = enrolment.Members(first.trust)
    assert [p.id for p in watched.current().participants] == ["sz-trade"]
    space.enrol_local(operator, second)
    assert [p.id for p in watched.current().participants] == ["hk-bank", "sz-trade"]
    space.remove(operator, "hk-bank")
    assert [p.id for p in watched.current().participants] == ["sz-trade"]
    assert len(list((operator / "history").glob("members-*.json"))) == 4


def test_a_folder_holds_one_space_and_one_connector(operator, make):
    assert _code(space.init, operator, "gba") == "space.exists"
    make("hk-bank")
    assert _code(make, "hk-bank") == "config.exists"
    assert _code(space.listing, operator / "nothing") == "space.missing"


def test_rotation_keeps_the_history_of_keys(operator, make):
    seat = make("hk-bank")
    space.enrol_local(operator, seat)
    before = identity.load_signing_keys(seat.evidence_key).public.ids
    enrolment.rotate(seat)
    now = utc_now()
    members = space.enrol_local(operator, seat, now=now)
    after = identity.load_signing_keys(seat.evidence_key).public.ids
    old, new = members.participant("hk-bank").keys[:2], members.participant("hk-bank").keys[2:]
    assert [tuple(sorted(key.id for key in keys)) for keys in (old, new)] == [before, after]
    assert {key.public.algorithm for key in new} == {"ed25519", "ml-dsa-44"}
    for key in old:
        assert key.valid_at(int(now.timestamp() * 1000)), "evidence on its way stays valid"
        assert not key.valid_at(int((now + space.GRACE).timestamp() * 1000))
    assert not list(seat.folder.rglob("*.next"))


def test_a_renewal_needs_the_present_evidence_key(operator, make):
    seat = make("hk-bank")
    space.enrol_local(operator, seat)
    impostor = make("hk-bank", folder="impostor")
    request = impostor.folder / enrolment.REQUEST_FILE
    assert _code(space.enrol, operator, request) == "enrolment.not-the-member"
    now = utc_now()
    space.enrol(operator, request, replace_keys=True, now=now)  # the operator decided that keys were lost
    *old, new, _ = space.listing(operator).participant("hk-bank").keys
    assert {key.valid_until for key in old} == {new.valid_from} == {int(now.timestamp() * 1000)}


def test_a_request_that_was_changed_or_is_for_another_space_is_refused(operator, make, tmp_path):
    seat = make("hk-bank")
    request = seat.folder / enrolment.REQUEST_FILE
    envelope = json.loads(request.read_text())
    payload = dsse.parse(request.read_bytes()).payload.replace(b"hk-bank", b"sz-bank")
    changed = dsse.parse(request.read_bytes())
    forged = dsse.Envelope(changed.payload_type, payload, changed.signatures)
    (tmp_path / "forged.json").write_bytes(forged.to_bytes())
    assert _code(space.enrol, operator, tmp_path / "forged.json") == "enrolment.request"
    (tmp_path / "spaced.json").write_text(json.dumps(envelope, indent=1))
    assert _code(space.enrol, operator, tmp_path / "spaced.json") == "enrolment.request"
    assert _code(space.enrol, operator, tmp_path / "none.json") == "space.request"
    space.init(tmp_path / "other", "otherspace")
    assert _code(space.enrol, tmp_path / "other", request) == "space.other"


def test_two_members_cannot_share_an_evidence_key(operator, make):
    seat, thief = make("hk-bank"), make("sz-trade")
    space.enrol_local(operator, seat)
    shutil.copy(seat.evidence_key, thief.evidence_key)
    enrolment.write_request(thief)
    request = thief.folder / enrolment.REQUEST_FILE
    assert _code(space.enrol, operator, request) == "space.key-taken"


def test_the_first_operator_is_pinned(operator, make, tmp_path):
    seat = make("hk-bank")
    request = seat.folder / enrolment.REQUEST_FILE
    space.init(tmp_path / "rival", "gba")
    rival = space.enrol(tmp_path / "rival", request).read_bytes()
    ours = space.enrol(operator, request).read_bytes()
    expected = space.open_space(operator).operator_key_id
    assert _code(enrolment.install, seat, rival, utc_now(), expected) == "enrolment.operator"
    assert not seat.trust.members.exists()
    enrolment.install(seat, ours, utc_now(), expected)
    assert _code(enrolment.install, seat, rival, utc_now()) == "enrolment.operator"
    rival_list = (tmp_path / "rival" / "members.json").read_bytes()
    assert _code(enrolment.adopt_members, seat.trust, rival_list) == "enrolment.members"


@pytest.fixture
def older(operator):
    """A space whose operator signs with Ed25519 alone, as all did once."""
    made = space.open_space(operator)
    first = PrivateKeys(made.operator.keys[:1])
    (operator / "keys" / "operator.key").write_bytes(first.pem())
    listed = members.successor(None, "gba", [], made.members.issued_at)
    (operator / "members.json").write_bytes(members.sign(listed, first.keys).to_bytes())
    return operator


def test_an_older_operator_gets_its_second_key_and_members_learn_it_from_the_list(older, make, tmp_path):
    seat, carried = make("hk-bank"), make("sz-trade")
    space.enrol_local(older, seat)
    admission = space.enrol(older, carried.folder / enrolment.REQUEST_FILE).read_bytes()
    enrolment.install(carried, admission, utc_now(), space.open_space(older).operator_key_id)
    alone = shutil.copy(older / "keys" / "operator.key", tmp_path / "stolen")
    assert len(enrolment.operator_keys(seat.trust).keys) == 1
    named = space.add_post_quantum_key(older)
    assert space.add_post_quantum_key(older) == named
    assert enrolment.adopt_members(carried.trust, (older / "members.json").read_bytes())
    for trust in (seat.trust, carried.trust):
        assert enrolment.operator_keys(trust).fingerprint == space.open_space(older).operator_key_id
    # From now on the Ed25519 key alone makes neither a list nor an admission.
    stolen = PrivateKeys.from_pem(alone.read_bytes())
    forged = members.sign(members.successor(named, "gba", [], named.issued_at), stolen.keys).to_bytes()
    assert _code(enrolment.adopt_members, seat.trust, forged) == "enrolment.members"
    assert _code(enrolment.install, carried, admission, utc_now()) == "enrolment.operator"
    enrolment.install(
        carried, space.enrol(older, carried.folder / enrolment.REQUEST_FILE).read_bytes(), utc_now()
    )


def test_a_second_key_without_its_list_is_announced_at_the_next_try(older):
    first = space.open_space(older).operator
    (older / "keys" / "operator.key").write_bytes(PrivateKeys([*first.keys, OPERATOR_2]).pem())
    named = space.add_post_quantum_key(older)
    assert named.operator_keys == (*first.public.keys, OPERATOR_2.public)


def test_an_admission_for_somebody_else_or_other_keys_is_refused(operator, make):
    seat, other = make("hk-bank"), make("sz-trade")
    admission = space.enrol(operator, other.folder / enrolment.REQUEST_FILE).read_bytes()
    assert _code(enrolment.install, seat, admission, utc_now()) == "enrolment.other-participant"
    namesake = make("sz-trade", folder="namesake")
    assert _code(enrolment.install, namesake, admission, utc_now()) == "enrolment.other-key"
    assert _code(enrolment.install, other, admission + b" ", utc_now()) == "enrolment.admission"
    late = utc_now() + timedelta(days=identity.CERTIFICATE_DAYS + 1)
    assert _code(enrolment.install, other, admission, late) == "identity.expired"


def test_an_older_list_is_never_taken_back(operator, make):
    seat = make("hk-bank")
    space.enrol_local(operator, seat)
    old = seat.trust.members.read_bytes()
    space.enrol_local(operator, make("sz-trade"))
    assert enrolment.adopt_members(seat.trust, seat.trust.members.read_bytes()) is False
    assert _code(enrolment.adopt_members, seat.trust, old) == "enrolment.rollback"
    seat.trust.members.write_bytes(seat.trust.members.read_bytes()[:-1])
    assert _code(enrolment.Members(seat.trust).current) == "enrolment.members"


def test_a_forked_list_is_refused(operator, make, tmp_path):
    seat = make("hk-bank")
    space.enrol_local(operator, seat)
    shutil.copytree(operator, tmp_path / "copy")
    space.enrol(operator, make("sz-trade").folder / enrolment.REQUEST_FILE)
    space.enrol(tmp_path / "copy", make("sz-port").folder / enrolment.REQUEST_FILE)
    (tmp_path / "copy" / "local.json").unlink()
    assert enrolment.adopt_members(seat.trust, (operator / "members.json").read_bytes())
    space.remove(tmp_path / "copy", "sz-port")  # version 4, whose predecessor is the copy's version 3
    forked = (tmp_path / "copy" / "members.json").read_bytes()
    assert _code(enrolment.adopt_members, seat.trust, forked) == "enrolment.fork"


def test_before_installation_there_are_no_members(make):
    seat = make("hk-bank")
    assert _code(enrolment.Members(seat.trust).current) == "enrolment.not-installed"
    assert _code(enrolment.load_members, seat.trust) == "enrolment.not-installed"
    assert _code(enrolment.adopt_members, seat.trust, b"{}") == "enrolment.not-installed"


def test_an_operator_whose_list_was_changed_stops(operator):
    (operator / "members.json").write_bytes(b"{}")
    assert _code(space.listing, operator) == "space.members"
