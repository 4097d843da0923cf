"""New member lists are entries of the log: once each, provable, and only where they can be verified."""

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from witness import __main__ as command
from witness import bundle_text, dsse, fsck, members, server, trust
from witness.database import Database
from witness.keys import PrivateKeys
from witness.list_records import Author, ListRecords
from witness.log import Log
from witness.registry import Registry
from witness.sequencer import Sequencer
from witness.verify import verify_files

OPERATOR, WITNESS = (PrivateKeys.generate(lambda size, seed=seed: seed * size) for seed in (b"o", b"w"))
NOW = 1_767_225_600_000


@pytest.fixture
def witness(tmp_path, space):
    """A witness's folder, its open log, and a registry; `look` records what is new."""
    folder = tmp_path / "w"
    vkeys = server.write_default(
        folder,
        space="gba",
        participant="witness-a",
        origin="w.example/log",
        operator_keys=OPERATOR.public.keys[:1],
    )
    config = server.load(folder)
    keys = PrivateKeys.from_pem(config.log_key.read_bytes())
    log = Log(config.data, config.origin, keys, lambda: NOW)
    sequencer = Sequencer(log)

    def list_after(old, *, evidence=WITNESS.public.keys, valid_from=0):
        listed = [
            replace(p, keys=tuple(members.EvidenceKey(k, valid_from) for k in evidence), logs=vkeys)
            if p.id == "witness-a"
            else p
            for p in space.participants()
        ]
        made = members.successor(old, "gba", listed, NOW - 1000, OPERATOR.public.keys)
        (folder / "members.json").write_bytes(members.sign(made, OPERATOR.keys).to_bytes())
        return made

    def recording(confirmed=lambda: True, clock=lambda: NOW):
        registry = Registry(log.database, folder / "members.json", "gba", OPERATOR.public.keys)
        author = Author("gba", "witness-a", WITNESS, clock)
        return ListRecords(author, log.database, registry, sequencer, confirmed)

    def look(confirmed=lambda: True):
        records = recording(confirmed)
        records.record_newest()
        records.record_newest()
        return log.size

    yield SimpleNamespace(
        folder=folder, vkeys=vkeys, log=log, list_after=list_after, look=look, recording=recording
    )
    sequencer.close()
    with contextlib.suppress(OSError):
        log.close()


def test_each_new_list_is_recorded_once(witness, tmp_path, capsys):
    first = witness.list_after(None)
    assert witness.look(lambda: False) == 0  # the log takes nothing before its quorum
    assert witness.look() == witness.look() == 1
    second = witness.list_after(first)
    assert witness.look() == witness.look() == 2
    assert fsck.check(witness.log).findings == ()
    for leaf in witness.log.database.leaves(0, 2):
        assert b"witness-a" not in leaf
        assert bytes.fromhex(second.digest) not in leaf
    assert command.main(["lists", str(witness.folder), "--format", "json"]) == 0
    newest, oldest = json.loads(capsys.readouterr().out)
    assert (newest["version"], newest["digest"], newest["entry"]) == (2, second.digest, 1)
    assert (oldest["entry"], oldest["operator_signs"]) == (0, ["ed25519", "ml-dsa-44"])
    bundle, trusted = tmp_path / "lists.json", trust.of_logs("gba", OPERATOR.public.keys, witness.vkeys)
    assert command.main(["lists", str(witness.folder), "--out", str(bundle)]) == 0
    assert "version 2" in capsys.readouterr().out
    verified = verify_files(bundle.read_bytes(), trusted.to_bytes())
    assert [dict(i.record.data.digests) for i in verified.items] == [
        {"member-list": m.digest} for m in (first, second)
    ]
    for language, said in (("en", "member list version 2"), ("zh", "第 2 版成员名单")):
        assert said in bundle_text.to_text(verified, language)


def test_a_crash_before_the_log_had_it_makes_no_second_record(witness, monkeypatch):
    witness.list_after(None)
    with monkeypatch.context() as patch:
        patch.setattr(Sequencer, "submit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            witness.look()
    kept = []
    monkeypatch.setattr(Database, "keep_own_record", lambda _, made: kept.append(made))
    assert (witness.look(), kept) == (1, [])


def test_a_list_that_does_not_name_this_witness_is_not_recorded(witness, caplog):
    witness.list_after(None, evidence=())
    assert witness.look() == 0
    assert "is not recorded: it does not give this witness its evidence keys" in caplog.text
    assert command.main(["lists", str(witness.folder), "--out", "unused"]) == 2


def test_a_list_from_an_operator_whose_clock_is_ahead_is_recorded_when_its_keys_are_valid(witness, caplog):
    now = [NOW]
    witness.list_after(None, valid_from=NOW + 1500)
    records = witness.recording(clock=lambda: now[0])
    for _ in range(2):
        records.record_newest()
    assert (witness.log.size, caplog.text.count("was not valid at that time")) == (0, 1)
    now[0] += 1500
    records.record_newest()
    assert witness.log.size == 1


def test_a_kept_record_that_would_not_verify_any_more_is_not_sent(witness, monkeypatch, caplog):
    witness.list_after(None, valid_from=NOW)
    with monkeypatch.context() as patch:
        patch.setattr(Sequencer, "submit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            witness.look()
    records = witness.recording(clock=lambda: NOW - 1)  # a clock that was set back
    records.record_newest()
    assert witness.log.size == 0
    assert "was not valid at that time" in caplog.text
    assert witness.look() == 1


def test_only_who_signed_and_when_is_said(witness):
    listed = witness.list_after(None)
    witness.look()
    (content,) = witness.log.database.contents(0, 1).values()
    envelope = dsse.parse(content)
    assert len(envelope.signatures) == 2
    assert listed.digest.encode() in envelope.payload
    assert b"hk-bank" not in envelope.payload
