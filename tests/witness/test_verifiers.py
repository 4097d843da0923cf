"""Signatures checked in processes: the same verdicts as in place, a death survived, no orphan left."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from witness import members, verifiers
from witness.verifiers import FEWEST, Overloaded, Verifiers, verdict


@pytest.fixture
def checking():
    made = Verifiers()
    yield made
    made.close()


def processes(checking):
    return list(checking._pool._processes.values())


def test_the_same_verdicts_as_in_place_also_after_a_death_and_a_newer_list(checking, space, monkeypatch):
    monkeypatch.setattr(verifiers, "CHUNK", 5)  # the order of several chunks
    good = space.sign(space.seal()).to_bytes()
    spoilt = space.sign(space.seal(), "hk-bank", "auditor").to_bytes()
    foreign = space.seal("query.result", parties=[space.party("sz-trade", "provider")])
    batch = [good, b"{}", spoilt, space.sign(foreign, "sz-trade").to_bytes(), good[:-1], good] * 2
    lists = (space.members,)
    here = [verdict(envelope, "hk-bank", lists, space.now) for envelope in batch]
    assert [wrong and wrong[0] for wrong in here[:6]] == [
        None,
        *("format", "signature", "party", "format"),
        None,
    ]
    assert checking.verdicts(batch, "hk-bank", lists, space.now, 30) == here
    first = processes(checking)
    for process in first:
        os.kill(process.pid, signal.SIGKILL)
    assert checking.verdicts(batch, "hk-bank", lists, space.now, 30) == here
    assert {p.pid for p in first}.isdisjoint(p.pid for p in processes(checking))
    shorter = [p for p in space.participants() if p.id != "sz-trade"]
    newer = (space.members, members.successor(space.members, "gba", shorter, space.now - 1))
    assert {wrong and wrong[0] for wrong in checking.verdicts(batch, "hk-bank", newer, space.now, 30)} == {
        *("key", "format", "signature"),
    }


def test_processes_that_keep_dying_admit_nothing(checking, space, monkeypatch):
    class Dying:
        def submit(self, *_):
            raise RuntimeError("dead")

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(verifiers, "_started", lambda _lists: Dying())
    with pytest.raises(RuntimeError, match="dead"):
        checking.verdicts([b"{}"] * FEWEST, "hk-bank", (space.members,), space.now, 1)


class Stuck:
    """A pool whose processes have the first chunk of all in hand, and never end it."""

    def __init__(self):
        self.chunks = []

    def submit(self, *_):
        self.chunks.append(Future())
        if len(self.chunks) == 1:
            self.chunks[0].set_running_or_notify_cancel()
        return self.chunks[-1]

    def shutdown(self, **_):
        pass


def test_calls_that_expired_leave_nothing_behind_and_keep_nobody_out(checking, space, monkeypatch):
    monkeypatch.setattr(verifiers, "CHUNK", 4)
    monkeypatch.setattr(verifiers, "MOST_WAITING_EACH", 10)
    pool = Stuck()
    monkeypatch.setattr(verifiers, "_started", lambda _lists: pool)

    lists = (space.members,)

    def ask(peer):
        checking.verdicts([b"{}"] * FEWEST, peer, lists, space.now, 0)

    with pytest.raises(TimeoutError):
        ask("hk-bank")
    for _ in range(3):  # its first chunk is under way, and counts: four and eight are too many
        with pytest.raises(Overloaded):
            ask("hk-bank")
        with pytest.raises(TimeoutError):
            ask("sz-trade")
    assert [chunk.cancelled() for chunk in pool.chunks] == [False, *[True] * (len(pool.chunks) - 1)]
    pool.chunks[0].set_result([None] * 4)
    with pytest.raises(TimeoutError):
        ask("hk-bank")
    assert not checking._waiting


ORPHANS = """
import os
from witness.verifiers import Verifiers
made = Verifiers()
made.verdicts([b"{}"] * 64, "a", (), 0, 60)
print(*made._pool._processes, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.deep
def test_a_witness_that_is_killed_leaves_no_process_behind():
    ended = subprocess.run(
        [sys.executable, "-c", ORPHANS],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert ended.returncode == -9, ended.stderr
    pids = [int(pid) for pid in ended.stdout.split()]
    assert pids
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
