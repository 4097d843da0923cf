"""What a witness keeps and lets go: erasure, retention, old schemas, PostgreSQL; and whose turn it is."""

import contextlib
import hashlib
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from witness import __main__ as command
from witness import checkpoint, database, leaf, merkle, server, tlog_proof
from witness import sequencer as sequencing
from witness.database import EraseUnfinished, Fork, SchemaTooNew
from witness.door import Places, Refusal
from witness.fsck import check
from witness.log import Submission
from witness.retention import DAY, Retention, first_after
from witness.sequencer import LARGEST_APPEND, MOST_WAITING_EACH, Busy, Sequencer

POSTGRES = "BAYSPACE_TEST_POSTGRES"


def some(count, first=0):
    envelopes = [b"envelope %d of somebody" % n for n in range(first, first + count)]
    return [Submission(hashlib.sha256(data).digest(), data, bytes(32)) for data in envelopes]


def check_proof(log, submission):
    proof = tlog_proof.parse(str(log.prove(log.database.indexes([submission.digest])[submission.digest])))
    head = checkpoint.open_checkpoint(proof.checkpoint, log.vkeys)
    assert leaf.parse(proof.extra).envelope == submission.digest
    merkle.verify_inclusion(merkle.leaf_hash(proof.extra), proof.index, head.size, proof.path, head.root)


def test_erasing_takes_the_content_and_leaves_every_proof(open_log, tmp_path):
    log, batch = open_log(), some(5)
    log.append(batch)
    gone, kept = batch[2], batch[3]
    everything = b"".join(p.read_bytes() for p in (tmp_path / "log").glob("witness.sqlite*"))
    assert gone.envelope not in everything  # encrypted at rest, under a key of its own
    key = sqlite3.connect(tmp_path / "log" / "witness.sqlite").execute(
        "SELECT key FROM content_keys WHERE digest = ?", (gone.digest,)
    )
    key = key.fetchone()[0]
    assert log.database.erase([gone.digest]) == 1
    assert log.database.erase([gone.digest]) == 0
    assert log.database.envelope(gone.digest) is None
    assert log.database.envelope(kept.digest) == kept.envelope
    for submission in batch:
        check_proof(log, submission)
    assert log.append([gone]) == [2]  # its place is not given away
    report = check(log)
    assert (report.findings, report.contents) == ((), 4)
    open_log.close()
    assert key not in b"".join(p.read_bytes() for p in (tmp_path / "log").glob("witness.sqlite*"))


def test_an_erasure_that_a_reader_keeps_from_ending_is_not_called_done(open_log, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY", 40)
    monkeypatch.setattr(database, "ERASE_TRIES", 2)
    log, batch = open_log(), some(3)
    log.append(batch)
    file = tmp_path / "log" / "witness.sqlite"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as reader:
        (key,) = reader.execute(
            "SELECT key FROM content_keys WHERE digest = ?", (batch[0].digest,)
        ).fetchone()
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entries").fetchone()
        with pytest.raises(EraseUnfinished):
            log.database.erase([batch[0].digest])
        assert log.append(some(1, 3)) == [3]  # recording goes on beside it
        reader.execute("COMMIT")
    assert log.database.envelope(batch[0].digest) is None
    assert Retention(log.database, 5, lambda: 0).erase_expired() == 0  # and ends what was left
    assert key not in b"".join(p.read_bytes() for p in file.parent.glob("witness.sqlite*"))


def test_fsck_finds_a_content_that_was_changed(open_log, tmp_path):
    log = open_log()
    log.append(some(3))
    open_log.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "log" / "witness.sqlite")) as direct, direct:
        direct.execute("UPDATE contents SET sealed = zeroblob(40) WHERE rowid = 2")
    (finding,) = check(open_log()).findings
    assert "content is not what its leaf commits to" in finding


def test_fsck_finds_a_damaged_tile_that_a_start_does_not_read(open_log):
    log = open_log()
    log.append(some(600))
    for path, word in (("tile/0/000", "not made of the entries"), ("tile/entries/001", "damaged")):
        data = log.public.read(path)
        log.public.write(path, b"\x01" * len(data))
        log = open_log()  # the right edge is whole
        assert any(word in finding for finding in check(log).findings), path
        log.public.write(path, data)
    assert check(log).findings == ()


@pytest.mark.parametrize(
    ("harm", "finding"),
    [
        ("DELETE FROM contents WHERE rowid = 2", "entry 1: its content is not what its leaf commits to"),
        ("UPDATE content_keys SET key = zeroblob(32) WHERE rowid = 2", "entry 1: its content"),
        (
            "UPDATE entries SET envelope = zeroblob(32) WHERE rowid = 2",
            "entry 1: its leaf commits to another",
        ),
        ("INSERT INTO members VALUES (1, x'00')", "member list 1 of the database cannot be read"),
        ("INSERT INTO cosigned VALUES ('o.example', 1, 'x')", "cosigned last of log o.example"),
    ],
)
def test_fsck_finds_harm_in_each_table(open_log, tmp_path, harm, finding):
    log = open_log()
    log.append(some(3))
    with contextlib.closing(sqlite3.connect(tmp_path / "log" / "witness.sqlite")) as other:
        other.execute(harm)
        other.commit()
    assert finding in "\n".join(check(log).findings)


@pytest.mark.parametrize("name", ["tile/0/000.p/2", "tile/entries/000.p/2"])
def test_fsck_finds_harm_in_tiles_of_earlier_sizes_which_are_served_still(open_log, name):
    log = open_log()
    log.append(some(2))
    log.append(some(3, 2))
    assert check(log).findings == ()
    file = log.public.root / name
    kept = file.read_bytes()
    for harmed in (kept[:-1], bytes([*kept[:-1], kept[-1] ^ 1]), kept + kept, b""):
        file.write_bytes(harmed)
        assert check(log).findings == (f"{name} is not how the tree was at that size",)
    file.write_bytes(kept)
    (log.public.root / "tile" / "0" / ".000.new").write_bytes(b"")  # of a write that never ended
    assert check(log).findings == ()
    (log.public.root / "tile" / "0" / "000").write_bytes(bytes(8192))
    assert check(log).findings == ("tile/0/000 is not how the tree was at that size",)


def test_what_is_too_old_is_erased(open_log, space):
    log = open_log()
    log.append(some(3))
    space.now += 10 * DAY
    log.append(some(2, 3))
    retention = Retention(log.database, 5, lambda: space.now)
    assert first_after(log.database, space.now - 5 * DAY) == 3
    assert retention.erase_expired() == 3
    assert retention.erase_expired() == 0
    assert log.database.count_contents() == 2
    check_proof(log, some(1)[0])


def test_a_database_of_schema_1_opens_and_goes_on(open_log, tmp_path):
    """As it was before contents were encrypted: no version, envelopes in the clear."""
    log, batch = open_log(), some(3)
    log.append(batch)
    open_log.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "log" / "witness.sqlite")) as old, old:
        for submission in batch:
            old.execute("INSERT INTO envelopes VALUES (?, ?)", (submission.digest, submission.envelope))
        for table in ("contents", "content_keys", "cosigned", "forks", "schema_version"):
            old.execute(f"DROP TABLE {table}")
    log = open_log()
    assert [log.database.envelope(s.digest) for s in batch] == [s.envelope for s in batch]
    assert log.append([*batch, *some(2, 3)]) == [0, 1, 2, 3, 4]
    assert log.database.erase([batch[0].digest]) == 1
    assert log.database.envelope(batch[0].digest) is None
    assert check(log).findings == ()


def test_a_database_of_a_newer_program_is_left_alone(open_log, tmp_path):
    open_log()
    open_log.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "log" / "witness.sqlite")) as newer, newer:
        newer.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(SchemaTooNew):
        open_log()


@pytest.mark.outside
def test_the_log_in_postgresql(open_log, space, tmp_path):
    if POSTGRES not in os.environ:
        pytest.skip(f"{POSTGRES} does not name a PostgreSQL database")
    url = os.environ[POSTGRES].replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    log, batch = open_log(database=url), some(300)
    assert log.append(batch) == list(range(300))
    log = open_log(database=url)
    assert log.append([*batch[:2], *some(1, 300)]) == [0, 1, 300]
    assert log.database.envelope(batch[7].digest) == batch[7].envelope
    assert log.database.erase([batch[7].digest]) == 1
    fork = Fork(log.origin, True, "a\n\nx", "b\n\ny", 1)
    assert [log.database.keep_fork(fork) for _ in range(2)] == [True, False]
    assert log.database.forks() == [fork]
    assert [log.database.cosign("o", None, 1, "n") for _ in range(2)] == [True, False]
    assert log.database.cosign("o", "n", 2, "m")
    assert not log.database.cosign("o", "n", 3, "k")
    report = check(log)
    assert (report.contents, report.size) == (300, 301)
    (finding,) = report.findings  # the "m" that stands for a checkpoint
    assert "cosigned last of log o" in finding


def test_the_commands_of_an_operator(tmp_path, capsys):
    folder = tmp_path / "w"
    made = ["init", str(folder), "--space", "gba", "--participant", "w", "--origin", "w.example/log"]
    assert command.main(made) == 0
    config = server.load(folder)
    with contextlib.closing(server.open_log(config)) as log:
        log.append(some(2))
        head = log.head
    assert command.main(["fsck", str(folder)]) == 0
    assert command.main(["erase", str(folder), some(1)[0].digest.hex()]) == 0
    capsys.readouterr()
    assert command.main(["erase", str(folder), some(1)[0].digest.hex()]) == 0  # asked again
    assert capsys.readouterr().out == "erased 0 of 1; 1 erased already\n"
    assert command.main(["erase", str(folder), some(1)[0].digest.hex(), "00" * 32]) == 2
    assert capsys.readouterr().out == "erased 0 of 2; 1 erased already; 1 not recorded here\n"
    assert command.main(["fsck", str(folder), "--format", "json"]) == 0
    assert '"contents": 1' in capsys.readouterr().out
    assert command.main(["keys", str(folder)]) == 0
    assert [line.split("+")[0] for line in capsys.readouterr().out.splitlines()] == ["log w.example/log"] * 2
    assert command.main(["keys", str(folder), "--add-ml-dsa-44"]) == 0  # it has one, and keeps it
    with contextlib.closing(server.open_log(config)) as log:
        log.database.keep_fork(Fork("other.example/log", True, "a\n\nx", "b\n\ny", 1))
        assert log.head == head
    assert command.main(["fsck", str(folder)]) == 9
    assert "ALARM: log other.example/log signed two trees" in capsys.readouterr().out
    (folder / "data/public/tile/0/000.p/2").unlink()
    assert command.main(["fsck", str(folder)]) == 8


def test_what_cannot_be_opened_says_so_and_what_to_do(tmp_path, capsys):
    folder = tmp_path / "w"
    command.main(["init", str(folder), "--space", "gba", "--participant", "w", "--origin", "w.example/log"])
    server.open_log(server.load(folder)).close()
    (folder / "data/witness.sqlite").write_bytes(b"not a database" * 400)
    for name, code in (("serve", 2), ("fsck", 8)):
        capsys.readouterr()
        assert command.main([name, str(folder)]) == code
        said = capsys.readouterr().err
        assert "the database is damaged" in said
        assert "When the log refuses to run" in said
    shutil.rmtree(folder / "data")
    server.open_log(server.load(folder)).close()
    with contextlib.closing(sqlite3.connect(folder / "data/witness.sqlite")) as connection, connection:
        connection.execute("UPDATE schema_version SET version = 99")
    assert command.main(["serve", str(folder)]) == 2
    assert "newer version" in capsys.readouterr().err
    page = (Path(__file__).parents[2] / "docs/reference/evidence.md").read_text("utf-8")
    assert "## When the log refuses to run" in page


# --- whose turn it is --------------------------------------------------------------------------------


class Paused:
    """A log whose appends wait until they may go on, and are remembered."""

    def __init__(self):
        self.go, self.entered, self.appends = threading.Event(), threading.Event(), []

    def append(self, batch):
        self.entered.set()
        assert self.go.wait(10)
        self.appends.append([submission.envelope for submission in batch])
        return list(range(len(batch)))


def test_who_floods_waits_behind_itself():
    log = Paused()
    sequencer = Sequencer(log)
    first = sequencer.submit([Submission(b"", b"first", b"")], "flood")
    assert log.entered.wait(30)
    flood = [
        sequencer.submit([Submission(b"", b"flood", b"")] * 64, "flood")
        for _ in range(MOST_WAITING_EACH // 64)
    ]
    with pytest.raises(Busy):
        sequencer.submit([Submission(b"", b"flood", b"")], "flood")
    other = sequencer.submit([Submission(b"", b"other", b"")], "other")  # has its place all the same
    assert sequencer.waiting == MOST_WAITING_EACH + 1
    log.go.set()
    for future in (first, other, *flood):
        future.result(10)
    sequencer.close()
    assert b"other" in log.appends[1][:65]  # at its turn, not after the flood
    assert all(len(batch) <= LARGEST_APPEND for batch in log.appends)


def test_an_append_waits_for_what_is_being_checked_but_not_for_long(monkeypatch):
    log = Paused()
    log.go.set()
    monkeypatch.setattr(sequencing, "LONGEST_GATHERING", 10)
    sequencer = Sequencer(log)
    alone = sequencer.submit([Submission(b"", b"alone", b"")], "a")
    assert alone.result(5) == [0]  # at once
    with sequencer.coming():
        with sequencer.coming():
            first = sequencer.submit([Submission(b"", b"first", b"")], "a")
        second = sequencer.submit([Submission(b"", b"second", b"")], "b")
        assert not first.done()
    first.result(5), second.result(5)
    assert log.appends == [[b"alone"], [b"first", b"second"]]
    monkeypatch.setattr(sequencing, "LONGEST_GATHERING", 0.001)
    with sequencer.coming():
        sequencer.submit([Submission(b"", b"third", b"")], "a").result(5)
    monkeypatch.setattr(sequencing, "LONGEST_GATHERING", 10)
    with sequencer.coming():
        last = sequencer.submit([Submission(b"", b"last", b"")], "a")
        sequencer.close()
    assert last.result(0) == [0]


def test_the_last_places_are_for_members_that_hold_none():
    places = Places(3, 4, kept=2)
    places.take("a")
    places.take("a")
    with pytest.raises(Refusal):
        places.take("a")
    places.take("b")
    with pytest.raises(Refusal):
        places.take("b")
    places.take("c")
    with pytest.raises(Refusal):
        places.take("d")
    places.leave("a")
    places.take("d")


def test_places_are_limited_for_each_and_in_all():
    places = Places(2, 3)
    with places.taken("a"), places.taken("a"):
        with pytest.raises(Refusal):
            places.take("a")
        places.take("b")
        with pytest.raises(Refusal):
            places.take("c")
        places.leave("b")
        places.take("c")
        places.leave("c")
    places.take("a")
