"""Which member lists a running witness believes, and that it remembers them."""

import contextlib
import dataclasses

import pytest
from sqlalchemy.exc import OperationalError

from witness import members
from witness import registry as registries
from witness.database import Database
from witness.keys import ML_DSA_44, PrivateKey
from witness.registry import Registry


@pytest.fixture(autouse=True)
def always_looking(monkeypatch):
    monkeypatch.setattr(registries, "LONGEST_UNSEEN", 0)


@pytest.fixture
def opened(space, tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    file = tmp_path / "members.json"

    def open_():
        return Registry(database, file, "gba", [space.operator.public])

    yield open_, file
    database.close()


def versions(registry):
    return [m.version for m in registry.lists()]


def test_lists_are_taken_up_in_order_and_remembered(opened, space):
    open_, file = opened
    registry = open_()
    assert versions(registry) == []
    file.write_bytes(space.member_envelope.to_bytes())
    assert versions(registry) == [1]
    second = members.successor(space.members, "gba", [], space.now)
    file.write_bytes(members.sign(second, [space.operator]).to_bytes())
    assert versions(registry) == [1, 2]
    file.unlink()
    assert versions(registry) == versions(open_()) == [1, 2]


def test_a_new_list_is_seen_before_long(opened, space, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(registries, "LONGEST_UNSEEN", 0.05)
    monkeypatch.setattr(registries.time, "monotonic", lambda: now[0])
    open_, file = opened
    registry = open_()
    assert versions(registry) == []
    file.write_bytes(space.member_envelope.to_bytes())
    now[0] += 0.04
    assert versions(registry) == []
    now[0] += 0.02
    assert versions(registry) == [1]


def test_what_is_refused_changes_nothing(opened, space):
    open_, file = opened
    file.write_bytes(space.member_envelope.to_bytes())
    registry = open_()
    second = members.successor(space.members, "gba", [], space.now)
    other_space = dataclasses.replace(second, space="other")
    same_version = dataclasses.replace(space.members, issued_at=space.now)
    stranger = PrivateKey.from_seed(b"s" * 32)
    for bad in (
        b"",
        b"{}",
        members.sign(second, [stranger]).to_bytes(),
        members.sign(other_space, [space.operator]).to_bytes(),
        members.sign(same_version, [space.operator]).to_bytes(),
    ):
        file.write_bytes(bad)
        assert versions(registry) == [1]
    assert registry.lists() == (space.members,)


def test_an_operator_who_signs_with_two_keys_is_not_half_of_them_any_more(opened, space):
    open_, file = opened
    second = PrivateKey.from_seed(b"2" * 32, ML_DSA_44)
    both = (space.operator.public, second.public)
    file.write_bytes(space.member_envelope.to_bytes())
    registry = open_()
    named = members.successor(space.members, "gba", [], space.now, both)
    file.write_bytes(members.sign(named, [space.operator, second]).to_bytes())
    assert versions(registry) == [1, 2]
    half = members.successor(named, "gba", [], space.now)
    file.write_bytes(members.sign(half, [space.operator]).to_bytes())
    assert versions(registry) == versions(open_()) == [1, 2]


def test_who_knows_both_keys_takes_no_new_list_of_one_of_them(opened, space, tmp_path, caplog):
    open_, file = opened
    second = PrivateKey.from_seed(b"2" * 32, ML_DSA_44)
    both = (space.operator.public, second.public)
    file.write_bytes(space.member_envelope.to_bytes())
    with contextlib.closing(Database(f"sqlite:///{tmp_path / 'new.sqlite'}")) as database:
        assert versions(Registry(database, file, "gba", both)) == []
        assert "both of the operator's are known here" in caplog.text
        named = members.successor(space.members, "gba", [], space.now, both)
        file.write_bytes(members.sign(named, [space.operator, second]).to_bytes())
        assert versions(Registry(database, file, "gba", both)) == [2]
    file.write_bytes(space.member_envelope.to_bytes())
    registry = open_()
    assert versions(Registry(registry._database, file, "gba", both)) == [1]  # taken up before


def test_a_list_that_the_database_could_not_keep_is_taken_up_at_the_next_look(opened, space, monkeypatch):
    open_, file = opened
    registry = open_()
    file.write_bytes(space.member_envelope.to_bytes())

    def locked(*_):
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    with monkeypatch.context() as patch:
        patch.setattr(Database, "add_members", locked)
        with pytest.raises(OperationalError):
            registry.lists()
    assert versions(registry) == versions(open_()) == [1]
