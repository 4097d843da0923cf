"""A step of an append goes wrong, or its process is killed: nothing is lost, no two heads contradict.

A call fails without effect, fails although it took effect, or the process dies at it. Afterwards the log is
opened again, or goes on without, grows, and `fsck` finds it clean. A few calls of each append here; all of
them, the database's included, in test_system_calls.py.
"""

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from witness import checkpoint, files, merkle, note
from witness.fsck import check
from witness.log import LogRefused, Submission

CALLS = ("open", "write", "fsync", "close", "replace", "mkdir")
MODES = ("fails", "fails but took effect", "dies", "dies after")


class Died(BaseException):
    """The process is gone: nothing between may handle it."""


def some(count, first=0):
    envelopes = [b"envelope %d" % n for n in range(first, first + count)]
    return [Submission(hashlib.sha256(data).digest(), data, bytes(32)) for data in envelopes]


class Faults:
    """Counts the system calls and commits of an append, and lets one of them go wrong.

    files.py reaches the disk through `os` only, the database through its commits.
    """

    def __init__(self, monkeypatch):
        self.count, self.at, self.mode, self.open_files = 0, None, "", set()
        self._real = {name: getattr(os, name) for name in CALLS}
        monkeypatch.setattr(files, "os", self)
        for name in ("O_WRONLY", "O_CREAT", "O_TRUNC", "O_RDONLY", "O_DIRECTORY"):
            setattr(self, name, getattr(os, name))
        for name in CALLS:
            setattr(self, name, self._wrapped(name))

    def _wrapped(self, name):
        def call(*arguments):
            return self.pass_through(lambda: self._real[name](*arguments), closing=name == "close")

        return call

    def pass_through(self, act: Callable[[], object], *, closing: bool = False):
        """Does it, or not, as the plan says for this one."""
        self.count += 1
        if self.count != self.at:
            return act()
        if self.mode in ("fails but took effect", "dies after") or closing:
            act()
        raise (Died if self.mode.startswith("dies") else OSError)("planned")

    def plan(self, at, mode):
        self.count, self.at, self.mode = 0, at, mode

    def watch(self, log):
        """The database's commits are calls too."""
        engine = log.database._engine
        real = engine.dialect.do_commit
        engine.dialect.do_commit = lambda connection: self.pass_through(lambda: real(connection))


def heads_of(log):
    """Every checkpoint that this log has signed and let anybody see: published, locked and staged."""
    texts = [str(log.head), log.database.locked()]
    staged = log.database.staged()
    return {checkpoint.parse(note.parse(t).text) for t in [*texts, *([staged.checkpoint] if staged else [])]}


def attempt(log, batch, known):
    """Appends; what was acknowledged is remembered."""
    try:
        known |= {s.digest: i for s, i in zip(batch, log.append(batch), strict=True)}
    except (OSError, Died, LogRefused):
        return False
    return True


def check_everything(log, known, seen):
    head = checkpoint.open_checkpoint(log.head, log.vkeys)
    for digest, index in sorted(known.items(), key=lambda item: -item[1])[:12]:  # fsck hashes them all
        proof = log.prove(index)
        assert proof.extra[1:33] == digest
        merkle.verify_inclusion(merkle.leaf_hash(proof.extra), index, head.size, proof.path, head.root)
    for old in seen:
        assert old.size <= head.size
        if old.size:
            proof = log.prove_consistency(old.size)
            merkle.verify_consistency(old.size, old.root, head.size, head.root, proof)
    assert check(log).findings == ()


def length_of_an_append(open_log, faults, before, size):
    """How many calls an append makes that goes well."""
    log = open_log()
    log.append(some(before)) if before else None
    faults.watch(log)
    faults.plan(None, "")
    log.append(some(size, before))
    return faults.count


def one_crash(open_log, faults, tmp_path, before, size, at, mode):
    """A fresh log; one call of one append goes wrong; then recovery."""
    open_log.close()
    open_log.folder = tmp_path / f"log-{before}-{at}-{mode}"
    known, batch = {}, some(size, before)
    log = open_log()
    if before:
        attempt(log, some(before), known)
    seen = heads_of(log)
    faults.watch(log)
    faults.plan(at, mode)
    done = attempt(log, batch, known)
    faults.plan(None, "")
    assert not done or mode == "fails"  # a delete that fails after publishing, say
    seen |= heads_of(log)
    log = open_log()
    seen |= heads_of(log)
    check_everything(log, known, seen)
    again = log.append(batch)  # the submitter, who heard nothing, tries again
    assert again == list(range(before, before + size))
    log.append(some(1, before + size))
    check_everything(log, known | {s.digest: i for s, i in zip(batch, again, strict=True)}, seen)


def one_failure(open_log, faults, tmp_path, before, size, at, mode, second=None):
    """One call of one append fails, and maybe one of the next attempt; the log goes on without a restart."""
    open_log.close()
    open_log.folder = tmp_path / f"going-{before}-{at}-{mode}-{second}"
    known, batch = {}, some(size, before)
    log = open_log()
    attempt(log, some(before), known)
    faults.watch(log)
    faults.plan(at, mode)
    done = attempt(log, batch, known)
    seen = heads_of(log)
    if second is not None and not done:
        faults.plan(second, mode)
        attempt(log, batch, known)
        seen |= heads_of(log)
    faults.plan(None, "")
    assert log.append(batch) == list(range(before, before + size))
    log.append(some(1, before + size))
    check_everything(log, known, seen)
    check_everything(open_log(), known, seen)


@pytest.mark.parametrize("mode", MODES[:2])
def test_after_a_failure_the_log_goes_on_by_itself(open_log, monkeypatch, tmp_path, mode):
    faults = Faults(monkeypatch)
    for at in (1, 9):
        one_failure(open_log, faults, tmp_path, 3, 4, at, mode, 2)


def test_what_a_start_would_refuse_is_not_resumed(open_log, monkeypatch):
    faults = Faults(monkeypatch)
    log = open_log()
    log.append(some(3))
    faults.plan(1, "fails")
    assert not attempt(log, some(2, 3), {})
    faults.plan(None, "")
    (log.public.root / "checkpoint").unlink()
    for _ in range(2):
        with pytest.raises(LogRefused):
            log.append(some(2, 3))


@pytest.mark.parametrize("mode", MODES)
def test_a_few_calls_of_an_append(open_log, monkeypatch, tmp_path, mode):
    faults = Faults(monkeypatch)
    calls = length_of_an_append(open_log, faults, 3, 4)
    assert calls > 15
    for at in sorted({1, 2, *random.Random(mode).sample(range(3, calls), 3), calls}):
        one_crash(open_log, faults, tmp_path, 3, 4, at, mode)


KILLED = """
import hashlib, os, sys
from pathlib import Path
from witness.keys import PrivateKey, PrivateKeys
from witness.log import Log, Submission

folder, step, occurrence = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
left = [occurrence]

def die(reached):
    if reached == step:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), 9)

keys = PrivateKeys.generate(lambda size: b"k" * size)
log = Log(folder, "witness.example/gba", keys, lambda: 1_700_000_000_000, step=die)
for n in range(40):
    data = [b"%d-%d-%d" % (occurrence, n, i) for i in range(20)]
    batch = [Submission(hashlib.sha256(d).digest(), d, bytes(32)) for d in data]
    for digest, index in zip(batch, log.append(batch)):
        print(digest.digest.hex(), index, flush=False)
    sys.stdout.flush()
"""


@pytest.mark.deep
@pytest.mark.parametrize("step", ["locked", "tiled", "published"])
def test_kill_9_at_every_step(tmp_path, step):
    from witness.keys import PrivateKeys
    from witness.log import Log

    known, seen = {}, set()
    keys = PrivateKeys.generate(lambda size: b"k" * size)
    for occurrence in (1, 2, 15, 30):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "log"), step, str(occurrence)]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert ended.returncode == -9, ended.stderr
        known |= {bytes.fromhex(d): int(i) for d, i in (line.split() for line in ended.stdout.splitlines())}
        log = Log(tmp_path / "log", "witness.example/gba", keys, lambda: 1_700_000_000_000)
        try:
            seen |= heads_of(log)
            check_everything(log, known, seen)
        finally:
            log.close()
