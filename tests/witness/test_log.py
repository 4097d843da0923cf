"""The log: what is acknowledged is provable, heads never contradict each other, rollbacks are refused."""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from witness import checkpoint, leaf, merkle, note, tlog_proof
from witness import log as log_module
from witness.database import Database, LockLost
from witness.files import Folder
from witness.keys import ML_DSA_44, PrivateKey, PrivateKeys
from witness.log import Log, LogRefused, Submission
from witness.merkle import ProofInvalid, leaf_hash

STEPS = ("locked", "tiled", "published")


def some(count, first=0):
    return [
        Submission(leaf_hash(b"%d" % i), b"envelope %d" % i, bytes([i % 256]) * 32)
        for i in range(first, first + count)
    ]


def check_whole(log, known):
    """fsck from outside: known entries are provable in the signed tree, which is the tree of all entries."""
    head = checkpoint.open_checkpoint(log.head, log.vkeys)
    entries = log.database.leaves(0, head.size)
    assert len(entries) == head.size == log.database.count()
    assert merkle.root(head.size, merkle.nodes_of([leaf_hash(e) for e in entries])) == head.root
    for submission, index in [*known.items()][::37] + [*known.items()][-3:]:
        proof = tlog_proof.parse(str(log.prove(index)))
        parsed = leaf.parse(proof.extra)
        assert (parsed.envelope, parsed.tag) == (submission.digest, submission.tag)
        merkle.verify_inclusion(parsed.hash, index, head.size, proof.path, head.root)
        assert log.database.envelope(submission.digest) == submission.envelope
    return head


def test_grows_and_opens_again(open_log):
    log, known, size = open_log(), {}, 0
    for count in (1, 2, 252, 1, 1, 300, 64):
        batch = some(count, size)
        known |= dict(zip(batch, log.append(batch), strict=True))
        size += count
        assert log.size == size
        check_whole(log, dict(list(known.items())[-3:]))
        log = open_log()
    check_whole(log, known)
    public = {str(p.relative_to(log.public.root)) for p in log.public.root.rglob("*") if p.is_file()}
    assert public == {
        "checkpoint",
        "tile/0/000",
        "tile/0/001",
        "tile/0/002.p/45",
        "tile/0/002.p/109",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002.p/45",
        "tile/entries/002.p/109",
    } | {"tile/1/000.p/1"}


def test_duplicates_keep_their_index(open_log):
    log = open_log()
    a, b, c = some(3)
    assert log.append([a, b, a]) == [0, 1, 0]
    assert log.append([b]) == [1]
    assert open_log().append([c, a, c, b]) == [2, 0, 2, 1]


def test_time_never_runs_backwards(open_log, space):
    log = open_log()
    log.append(some(1))
    space.now -= 60_000
    log = open_log()
    log.append(some(1, 1))
    first, second = (leaf.parse(log.database.leaf(i)).received_at for i in (0, 1))
    assert second == first


def test_consistency_between_any_two_sizes(open_log):
    log = open_log()
    heads = []
    for i in range(20):
        log.append(some(i + 1, 1000 * i))
        heads.append(checkpoint.parse(log.head.text))
    for old in heads:
        proof = log.prove_consistency(old.size)
        merkle.verify_consistency(old.size, old.root, heads[-1].size, heads[-1].root, proof)
    with pytest.raises(ProofInvalid):
        log.prove(log.size)


def test_one_process_per_log(open_log, space, tmp_path):
    open_log()
    with pytest.raises(LogRefused, match="another process"):
        Log(tmp_path / "log", "witness.example/gba", PrivateKeys([space.log_key]), space.clock)


class Crash(BaseException):
    """Not an Exception, so that nothing between can handle it."""


def crash_at(name, occurrence=1):
    left = [occurrence]

    def step(reached):
        if reached == name:
            left[0] -= 1
            if not left[0]:
                raise Crash

    return step


@pytest.mark.parametrize("before", [0, 5, 255, 256])
@pytest.mark.parametrize(("step", "occurrence"), [(s, 1) for s in STEPS], ids=lambda v: str(v))
def test_a_crash_at_any_step_loses_nothing_and_forks_nothing(open_log, before, step, occurrence):
    log, known = open_log(), {}
    if before:
        batch = some(before)
        known |= dict(zip(batch, log.append(batch), strict=True))
    first = check_whole(log, {})

    batch = some(260, before)
    with pytest.raises(Crash):
        open_log(step=crash_at(step, occurrence)).append(batch)

    log = open_log()
    second = check_whole(log, known)
    # Whatever was staged has been finished, under the same index, and growth goes on.
    assert log.append(batch) == list(range(before, before + 260))
    assert second.size == before + 260
    if first.size:
        merkle.verify_consistency(
            first.size, first.root, second.size, second.root, log.prove_consistency(first.size)
        )
    known |= dict(zip(batch, range(before, before + 260), strict=True))
    log.append(some(1, 9999))
    check_whole(log, known)


@pytest.mark.parametrize("step", STEPS[:-1])
def test_a_crash_while_recovering_from_a_crash(open_log, step):
    open_log().append(some(3))
    with pytest.raises(Crash):
        open_log(step=crash_at("locked")).append(some(300, 3))
    with pytest.raises(Crash):
        open_log(step=crash_at("locked"))
    if step != "locked":
        with pytest.raises(Crash):
            open_log(step=crash_at(step))
    assert open_log().size == 303
    check_whole(open_log(), {})


def test_a_crash_while_creating_the_log(open_log):
    with pytest.raises(Crash):
        open_log(step=crash_at("created"))
    assert open_log().append(some(1)) == [0]


def test_a_disk_that_was_full_needs_nobody_once_it_has_room(open_log, monkeypatch):
    log = open_log()
    log.append(some(1))
    with monkeypatch.context() as full:
        full.setattr(Folder, "write_all", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            log.append(some(1, 1))
        with pytest.raises(LogRefused, match="still fails"):
            log.append(some(1, 2))
        assert (log.size, log.prove(0).index) == (1, 0)  # what is proved stays proved
    assert log.append(some(1, 2)) == [2]  # behind the batch that was staged, and is finished first
    assert log.append(some(3)) == [0, 1, 2]
    check_whole(log, {})


def failing_once(name):
    """A step at which the disk is full, the first time that it is reached after `arm`."""
    armed = []

    def step(reached):
        if reached in armed:
            armed.remove(reached)
            raise OSError(28, "No space left on device")

    return step, lambda: armed.append(name)


def test_a_disk_that_was_set_back_under_a_running_log_is_refused_for_good(open_log, tmp_path):
    open_log().append(some(1))
    open_log.close()
    shutil.copytree(tmp_path / "log", tmp_path / "old")
    step, fail = failing_once("locked")
    log = open_log(step=step)
    log.append(some(1, 1))
    published = str(log.head)
    for part in ("public", "witness.sqlite"):
        (tmp_path / "log" / part).rename(tmp_path / part)
        (tmp_path / "old" / part).rename(tmp_path / "log" / part)
    for leftover in (tmp_path / "log").glob("witness.sqlite-*"):
        leftover.unlink()
    fail()
    with pytest.raises(OSError, match="No space"):
        log.append(some(1, 2))
    for _ in range(2):
        with pytest.raises(LogRefused):
            log.append(some(1, 3))
    assert str(log.head) == published


def test_a_batch_that_was_signed_and_is_gone_is_refused(open_log, tmp_path, monkeypatch):
    """Its checkpoint may have been read by somebody before the disk failed."""
    log = open_log()
    log.append(some(1))
    with monkeypatch.context() as full:
        full.setattr(Folder, "write_all", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            log.append(some(1, 1))
    with contextlib.closing(sqlite3.connect(tmp_path / "log" / "witness.sqlite")) as database, database:
        database.execute('DELETE FROM entries WHERE "index" = 1')
        database.execute("DELETE FROM staging")
        database.execute("UPDATE lock SET checkpoint = ?", (str(log.head),))
    with pytest.raises(LogRefused, match="rollback"):
        log.append(some(1, 2))


def test_a_log_that_is_refused_while_it_recovers_signs_nothing_more(open_log, monkeypatch):
    step, fail = failing_once("locked")
    log = open_log(step=step)
    fail()
    with pytest.raises(OSError, match="No space"):
        log.append(some(1))
    time_of = log._time_of
    monkeypatch.setattr(log, "_time_of", lambda index: log.refuse() or time_of(index))  # another thread
    for _ in range(2):
        with pytest.raises(LogRefused, match="has stopped"):
            log.append(some(1, 1))
    assert log.size == 1  # the batch that was signed before


def rolled(tmp_path, what):
    """Paths of the parts that a rollback may touch."""
    return {"database": tmp_path / "log" / "witness.sqlite", "tiles": tmp_path / "log" / "public"}[what]


def snapshot(path):
    """The state of a database file or of the tiles, to be put back later."""
    copy = path.with_name(path.name + ".old")
    if path.is_dir():
        shutil.copytree(path, copy)
    else:
        live = sqlite3.connect(path)  # WAL: a plain copy would miss what is in the log file
        live.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        live.close()
        shutil.copy(path, copy)
    return copy


def put_back(path, copy):
    for leftover in path.parent.glob(path.name + "-*"):
        leftover.unlink()
    if path.is_dir():
        shutil.rmtree(path)
        shutil.copytree(copy, path)
    else:
        shutil.copy(copy, path)


@pytest.mark.parametrize(
    ("what", "sentence"), [("database", "published beyond the locked"), ("tiles", "does not follow")]
)
def test_a_rollback_of_one_part_is_refused(open_log, tmp_path, what, sentence):
    log = open_log()
    log.append(some(3))
    copy = snapshot(rolled(tmp_path, what))
    log.append(some(5, 3))
    log.append(some(1, 8))
    open_log.close()
    put_back(rolled(tmp_path, what), copy)
    with pytest.raises(LogRefused, match=sentence):
        open_log()


def test_tiles_that_lag_by_the_staged_batch_are_written_again(open_log, tmp_path):
    """As after a crash before publishing, from which they cannot be told: the same head is published."""
    log, batch = open_log(), some(5, 3)
    log.append(some(3))
    copy = snapshot(rolled(tmp_path, "tiles"))
    known = dict(zip(batch, log.append(batch), strict=True))
    head = log.head
    open_log.close()
    put_back(rolled(tmp_path, "tiles"), copy)
    assert open_log().head == head
    check_whole(open_log(), known)


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ("database", "lost the tree head"),
        ("tiles", "missing or damaged"),
        ("checkpoint", "checkpoint is gone"),
    ],
)
def test_a_lost_part_is_refused(open_log, tmp_path, lost, sentence):
    log = open_log()
    log.append(some(3))
    open_log.close()
    public = tmp_path / "log" / "public"
    if lost == "database":
        for part in (tmp_path / "log").glob("witness.sqlite*"):
            part.unlink()
    elif lost == "tiles":
        shutil.rmtree(public / "tile")
    else:
        (public / "checkpoint").unlink()
    with pytest.raises(LogRefused, match=sentence):
        open_log()


@pytest.mark.parametrize("path", ["tile/0/000.p/3", "tile/entries/000.p/3", "checkpoint"])
def test_a_damaged_right_edge_is_refused(open_log, path):
    log = open_log()
    log.append(some(3))
    data = bytearray(log.public.read(path))
    data[-5] ^= 1
    log.public.write(path, bytes(data))
    with pytest.raises(LogRefused):
        open_log()


def test_a_damaged_tile_above_the_leaves_is_refused(open_log):
    log = open_log()
    log.append(some(300))
    log.public.write("tile/1/000.p/1", leaf_hash(b"another"))
    with pytest.raises(LogRefused, match="do not make the published tree"):
        open_log()


def execute(tmp_path, statement):
    database = sqlite3.connect(tmp_path / "log" / "witness.sqlite")
    database.execute(statement)
    database.commit()
    database.close()


def test_a_database_that_lost_entries_is_refused(open_log, tmp_path):
    open_log().append(some(3))
    open_log.close()
    execute(tmp_path, 'DELETE FROM entries WHERE "index" = 1')
    with pytest.raises(LogRefused, match="does not hold the entries"):
        open_log()


def test_staged_entries_that_were_altered_are_not_published(open_log, tmp_path):
    open_log().append(some(3))
    with pytest.raises(Crash):
        open_log(step=crash_at("locked")).append(some(3, 3))
    open_log.close()
    execute(
        tmp_path, 'UPDATE entries SET leaf = (SELECT leaf FROM entries WHERE "index" = 0) WHERE "index" = 4'
    )
    with pytest.raises(LogRefused, match="do not make the tree"):
        open_log()


def test_a_batch_that_schema_1_left_staged_before_its_lock_is_finished(open_log, tmp_path):
    log = open_log()
    log.append(some(3))
    published = str(log.head)
    with pytest.raises(Crash):
        open_log(step=crash_at("locked")).append(some(3, 3))
    open_log.close()
    with contextlib.closing(Database(f"sqlite:///{tmp_path / 'log' / 'witness.sqlite'}")) as database:
        database.advance(database.locked(), published)
    assert check_whole(open_log(), {}).size == 6


def test_a_log_gains_a_second_key_and_signs_its_head_again(open_log, space):
    log = open_log()
    log.append(some(3))
    old, before = log.vkeys, log.head
    keys = PrivateKeys([space.log_key, PrivateKey.from_seed(b"q" * 32, ML_DSA_44)])
    for step in ("signed again", "nowhere"):
        with contextlib.suppress(Crash):
            open_log(keys=keys, step=crash_at(step))
    log = open_log(keys=keys)
    assert log.head.text == before.text
    head = checkpoint.open_checkpoint(log.head, log.vkeys, ["ed25519", "ml-dsa-44"])
    assert head.size == 3
    assert checkpoint.open_checkpoint(log.head, old) == head  # who knows the first key alone still can
    log.append(some(1, 3))
    checkpoint.open_checkpoint(log.head, log.vkeys, ["ed25519", "ml-dsa-44"])
    with pytest.raises(checkpoint.CheckpointInvalid, match="required"):
        checkpoint.open_checkpoint(before, log.vkeys, ["ml-dsa-44"])


def test_another_key_or_origin_does_not_continue_the_log(open_log, space, tmp_path):
    log = open_log()
    log.append(some(1))
    open_log.close()
    for origin, key in (("other.example", space.log_key), (log.origin, PrivateKey.from_seed(b"z" * 32))):
        with pytest.raises(LogRefused, match="key did not sign"):
            Log(tmp_path / "log", origin, PrivateKeys([key]), space.clock)


def test_two_signed_roots_for_one_size_are_a_fork(open_log, space):
    log = open_log()
    log.append(some(2))
    other = checkpoint.sign(checkpoint.Checkpoint(log.origin, 2, leaf_hash(b"fork")), space.log_key)
    log.public.write("checkpoint", str(other).encode())
    with pytest.raises(LogRefused, match="fork"):
        open_log()


def test_the_lock_moves_only_from_the_head_last_seen(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    database.create("one")
    database.advance("one", "two")
    with pytest.raises(LockLost):
        database.advance("one", "three")
    assert database.locked() == "two"
    database.close()


def test_a_batch_whose_lock_was_lost_is_never_published(open_log):
    log = open_log()
    log.append(some(1))
    before = str(log.head)
    log.database.advance(before, "someone else's head")
    with pytest.raises(LockLost):
        log.append(some(1, 1))
    assert str(log.head) == before == log.public.read("checkpoint").decode()


def test_checkpoints_are_the_only_thing_signed(open_log, space):
    log = open_log()
    log.append(some(1))
    assert note.verify(note.parse(log.public.read("checkpoint").decode()), log.vkeys) == list(log.vkeys)


def test_a_file_is_synced_before_it_gets_its_name_and_its_folder_after(tmp_path, monkeypatch):
    done = []
    descriptors = {}
    real_open, real_replace = os.open, os.replace

    def opened(path, *rest, **more):
        descriptor = real_open(path, *rest, **more)
        descriptors[descriptor] = Path(path).name
        return descriptor

    def replaced(source, target):
        done.append(f"rename {target.name}")
        return real_replace(source, target)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(f"sync {descriptors[descriptor]}"))
    monkeypatch.setattr(os, "replace", replaced)
    Folder(tmp_path / "root").write("a/file", b"x")
    assert done == ["sync root", "sync .file.new", "rename file", "sync a"]


def test_files_stay_in_their_folder(tmp_path):
    folder = Folder(tmp_path / "f")
    for path in ("../x", "/etc/x", "a/../../x"):
        with pytest.raises(ValueError, match="leaves"):
            folder.write(path, b"")
        with pytest.raises(ValueError, match="leaves"):
            folder.read(path)
    folder.write("a/b/c", b"1", mode=0o600)
    assert folder.read("a/b/c") == b"1"
    assert (tmp_path / "f/a/b/c").stat().st_mode & 0o777 == 0o600


def test_a_log_remembers_the_newest_of_what_it_recorded(log, monkeypatch):
    monkeypatch.setattr(log_module, "REMEMBERED", 3)
    batch = [Submission(bytes([n]) * 32, b"%d" % n, bytes(32)) for n in range(4)]
    log.append(batch)
    assert [log.recorded_lately(s.digest) for s in batch] == [False, True, True, True]
