"""Appends to a log, and starts of one, in which one system call goes wrong; and a look at what is left.

    python -m tests.witness.crashing FOLDER BEFORE SIZE SHARE TURN

with failing_calls.c preloaded: a log of BEFORE entries gets SIZE more, and is started when a process died in
the middle of that. Every call of both goes wrong in every way that differs. A run tries one in SHARE of these
cases; another TURN, others, and after SHARE of them a death at another of LEFT_AT.
"""

import contextlib
import ctypes
import hashlib
import itertools
import os
import shutil
import sys
import traceback
from enum import IntEnum
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from witness import checkpoint, merkle, note
from witness.fsck import check
from witness.keys import PrivateKeys
from witness.log import Log, LogRefused, Submission

CALLS = ctypes.CDLL(None)
CALLS.plan.argtypes, CALLS.seen.restype = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int], ctypes.c_char_p
MOST = ctypes.c_int.in_dll(CALLS, "most").value
KEYS = PrivateKeys.generate(lambda size: b"k" * size)
EXPECTED = (OSError, SQLAlchemyError, LogRefused)


class Mode(IntEnum):
    """As in failing_calls.c."""

    WELL, FAILS, FAILS_AFTER, FAILS_HALF_WAY, DIES, DIES_HALF_WAY = range(6)


# Steps of an append that leave a start something to finish: nothing of the batch is written, or its tiles.
LEFT_AT = ("locked", "tiled")

# What differs on the disk or in the process: a death after a call is one before the next that changes it.
MODES = {
    "w": list(Mode)[1:],
    "c": (Mode.FAILS, Mode.FAILS_AFTER, Mode.DIES),
    "l": (Mode.FAILS, Mode.FAILS_AFTER),
    "r": (Mode.FAILS,),
}


def some(count, first=0):
    envelopes = [b"envelope %d" % n for n in range(first, first + count)]
    return [Submission(hashlib.sha256(data).digest(), data, bytes(32)) for data in envelopes]


@contextlib.contextmanager
def opened(folder, **options):
    log = Log(folder, "witness.example/gba", KEYS, lambda: 1_767_225_600_000, **options)
    try:
        yield log
    finally:
        log.close()


@contextlib.contextmanager
def planned(folder, at, mode):
    CALLS.plan(str(folder).encode(), at, mode)
    try:
        yield
    finally:
        calls = CALLS.seen().decode()
        CALLS.plan(b"", 0, Mode.WELL)
        say("calls", calls)


def say(*words):
    """To the parent, at once: the next call may be the last."""
    print(*words, flush=True)


def in_a_child(work, *arguments):
    """What `work` said, though it may have died."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, sys.stdout.fileno())
        try:
            work(*arguments)
        except BaseException:  # noqa: BLE001  the parent shows it
            say(traceback.format_exc())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


def append(folder, at, mode, batch):
    """One append of which a call goes wrong; who survives that goes on without a start."""
    with opened(folder) as log:
        with planned(folder, at, mode), contextlib.suppress(*EXPECTED):
            for submission, index in zip(batch, log.append(batch), strict=True):
                say("recorded", submission.digest.hex(), index)
        say("head", str(log.head).encode().hex())
        assert log.append(batch)[-1] == log.size - 1
        say("went on")


def start(folder, at, mode, _batch):
    """A start of which a call goes wrong."""
    with planned(folder, at, mode), contextlib.suppress(*EXPECTED), opened(folder):
        pass
    say("went on")


def killed(folder, batch, step):
    """Leaves a batch locked, its tiles written or not, and its checkpoint not published."""
    with opened(folder, step=lambda name: os._exit(0) if name == step else None) as log:
        log.append(batch)
    raise AssertionError(f"no append comes to the step {step}")


def head_of(text):
    return checkpoint.parse(note.parse(text).text)


def published(folder):
    """What anybody can read before the next start."""
    with contextlib.suppress(FileNotFoundError):
        return head_of((folder / "public" / "checkpoint").read_text())
    return None


def check_all(log, known, seen):
    head = checkpoint.open_checkpoint(log.head, log.vkeys)
    for digest, index in known.items():
        proof = log.prove(index)
        assert proof.extra[1:33] == digest
        merkle.verify_inclusion(merkle.leaf_hash(proof.extra), index, head.size, proof.path, head.root)
    for old in seen:
        if old is not None and old.size:
            proof = log.prove_consistency(old.size)
            merkle.verify_consistency(old.size, old.root, head.size, head.root, proof)
    assert check(log).findings == ()


def one(base, act, at, mode, before, batch):
    """One case, from a copy of `base` to a log that has grown on."""
    folder = base.with_name("tried")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    seen = {published(folder)}
    said = in_a_child(act, folder, at, mode, batch)
    assert ("went on" in said) == (mode < Mode.DIES), said
    words = [line.split() for line in said.splitlines() if line]
    known = {bytes.fromhex(w[1]): int(w[2]) for w in words if w[0] == "recorded"}
    seen |= {published(folder), *(head_of(bytes.fromhex(w[1]).decode()) for w in words if w[0] == "head")}
    with opened(folder) as log:
        check_all(log, known, seen)
        assert log.append(batch) == list(range(before, before + len(batch)))
        log.append(some(1, before + len(batch)))
        check_all(log, known, seen)


def calls_of(base, act, batch):
    """A letter for each call of an act that goes well, as in failing_calls.c."""
    folder = base.with_name("counted")
    shutil.copytree(base, folder)
    said = in_a_child(act, folder, 0, Mode.WELL, batch)
    assert "went on" in said, said
    shutil.rmtree(folder)
    return next(line.split()[1] for line in said.splitlines() if line.startswith("calls"))


def main(root, before, size, share, turn):
    grown, cut, empty = root / "grown", root / "cut", root / "empty"
    batch = some(size, before)
    empty.mkdir(parents=True)
    with opened(grown) as log:
        log.append(some(before))
    shutil.copytree(grown, cut)
    assert not in_a_child(killed, cut, batch, LEFT_AT[turn // share % len(LEFT_AT)])
    turns, tried = itertools.count(turn), 0
    for base, act in ((grown, append), (cut, start), *(() if before else ((empty, start),))):
        calls = calls_of(base, act, batch)
        print(act.__name__, "on", base.name, len(calls), "calls", flush=True)
        assert set(calls) == set(MODES), f"calls of these kinds alone pass here: {sorted(set(calls))}"
        assert len(calls) < MOST, "failing_calls.c did not count them all"
        for at, kind in enumerate(calls, 1):
            for mode in MODES[kind]:
                if next(turns) % share == 0:
                    print("call", at, kind, mode.name, flush=True)
                    one(base, act, at, mode, before, batch)
                    tried += 1
    assert tried


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
