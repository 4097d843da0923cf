"""Signatures checked in processes: the same verdicts as in place, a death survived, no orphan left."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from tests.waiting import settled
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
    monkeypatch.setattr(verifiers, "_processes", lambda: 1)  # each takes a second to start
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
    with pytest.raises(RuntimeError, match="no process"):
        checking.verdicts([b"{}"] * FEWEST, "hk-bank", (space.members,), space.now, 1)


class Pool:
    """A pool whose chunks end when the test says so."""

    def __init__(self, *_):
        self.asked, self.chunks = [], []

    def submit(self, _, parts):
        self.asked.append([(peer, len(envelopes)) for envelopes, peer, _ in parts])
        self.chunks.append(Future())
        return self.chunks[-1]

    def shutdown(self, **_):
        pass

    def end(self, number):
        self.chunks[number].set_result([[None] * count for _, count in self.asked[number]])

    def has(self, count):
        return settled(lambda: len(self.chunks) == count)


@pytest.fixture
def pool(checking, monkeypatch):
    made = Pool()
    monkeypatch.setattr(verifiers, "_started", lambda _lists: made)
    monkeypatch.setattr(verifiers, "_processes", lambda: 1)
    monkeypatch.setattr(verifiers, "CHUNK", 4)
    return made


def test_calls_that_expired_leave_nothing_behind_and_keep_nobody_out(checking, space, pool, monkeypatch):
    monkeypatch.setattr(verifiers, "MOST_WAITING_EACH", 10)
    lists = (space.members,)

    def ask(peer, timeout=0.2):
        checking.verdicts([b"{}"] * FEWEST, peer, lists, space.now, timeout)

    with pytest.raises(TimeoutError):
        ask("hk-bank")
    assert pool.asked == [[("hk-bank", 4)]] * 2  # under way, and counted: eight and four are too many
    for _ in range(2):
        with pytest.raises(Overloaded):
            ask("hk-bank")
        with pytest.raises(TimeoutError):
            ask("sz-trade", 0)
    assert not checking._turns  # what nobody waits for any more does not wait
    pool.end(0), pool.end(1)
    assert not checking._unfinished
    with pytest.raises(TimeoutError):
        ask("hk-bank", 0)


@pytest.fixture
def dying(checking, pool, monkeypatch):
    """A pool in which every chunk with `kill` in it dies, and takes along whatever is under way beside it."""

    def submit(_, parts):
        chunk = Future()
        pool.asked.append([(peer, len(envelopes)) for envelopes, peer, _ in parts])
        if any(b"kill" in envelopes for envelopes, _, _ in parts):
            chunk.set_exception(BrokenProcessPool("died"))
        else:
            chunk.set_result([[None] * len(envelopes) for envelopes, _, _ in parts])
        return chunk

    monkeypatch.setattr(pool, "submit", submit)
    checking._ready = True
    return pool


def test_a_record_that_kills_its_process_fails_nobody_elses(checking, dying):
    evil, honest = (verifiers._Part(*part, 0) for part in (("hk-bank", [b"kill"]), ("sz-trade", [b"good"])))
    with checking._changed:  # both wait when the thread wakes
        checking._hand_over(evil, ())
        checking._hand_over(honest, ())
    assert honest.verdicts.result(5) == [None]
    with pytest.raises(RuntimeError, match="died"):
        evil.verdicts.result(5)
    assert dying.asked == [
        [("hk-bank", 1), ("sz-trade", 1)],
        [("hk-bank", 1)],
        [("sz-trade", 1)],
    ]
    assert checking.verdicts([b"good"] * 2, "hk-bank", (), 0, 5) == [None] * 2  # and it goes on
    assert not checking._unfinished


def test_what_was_beside_a_death_is_checked_with_nothing_beside_it(checking, space, pool):
    with ThreadPoolExecutor(3) as threads:
        ask = functools.partial(checking.verdicts, lists=(), at=0, timeout=10)
        calls = [threads.submit(ask, [b"{}"] * FEWEST, peer) for peer in ("hk-bank", "sz-trade")]
        assert pool.has(2)
        assert settled(lambda: checking._turns.size == 2 * FEWEST - 8)
        for chunk in pool.chunks[:2]:
            chunk.set_exception(BrokenProcessPool("died"))
        for count in (3, 4):
            assert pool.has(count)
            time.sleep(0.03)
            assert len(pool.chunks) == count
            pool.end(count - 1)
        assert pool.has(6)
        pool.end(4), pool.end(5)
        assert [call.result(5) for call in calls] == [[None] * FEWEST] * 2


def test_a_process_that_is_stuck_is_ended_and_its_member_may_ask_again(checking, space, pool, monkeypatch):
    monkeypatch.setattr(verifiers, "LONGEST", 0.0)
    monkeypatch.setattr(verifiers, "LOOK", 0.01)
    monkeypatch.setattr(
        verifiers, "_kill", lambda _: pool.chunks[-1].set_exception(BrokenProcessPool("killed"))
    )
    checking._ready = True
    with pytest.raises(RuntimeError, match="killed"):
        checking.verdicts([b"{}"] * 2, "hk-bank", (space.members,), space.now, 10)
    assert len(pool.chunks) == 2
    assert not checking._unfinished


def test_many_small_calls_share_a_chunk_and_members_take_turns(checking, space, pool):
    lists = (space.members,)
    checking._pool, checking._known, checking._lists = pool, lists, lists
    checking._ready = True

    def ask(peer, count):
        return checking.verdicts([b"{}"] * count, peer, lists, space.now, 10)

    with ThreadPoolExecutor(20) as threads:
        flood = threads.submit(ask, "hk-bank", 16)
        assert pool.has(2)
        others = [threads.submit(ask, "sz-trade", 2)]
        assert settled(lambda: checking._turns.size == 10)
        others.append(threads.submit(ask, "auditor", 2))
        assert settled(lambda: checking._turns.size == 12)
        for number in range(5):
            pool.end(number)
            assert pool.has(min(5, number + 3))
        assert flood.result(5) == [None] * 16
        assert [other.result(5) for other in others] == [[None] * 2] * 2
    assert pool.asked == [
        *[[("hk-bank", 4)]] * 3,
        [("sz-trade", 2), ("auditor", 2)],
        [("hk-bank", 4)],
    ]


def test_small_calls_start_processes_and_do_not_wait_for_them(checking, space, pool, monkeypatch):
    go, entered = threading.Event(), threading.Semaphore(0)

    def verdict(*_):
        entered.release()
        assert go.wait(30)

    monkeypatch.setattr(verifiers, "verdict", verdict)
    ask = functools.partial(checking.verdicts, [b"{}"], "hk-bank", (space.members,), space.now, 10)
    with ThreadPoolExecutor(20) as threads:
        calls = [threads.submit(ask) for _ in range(FEWEST - 1)]
        assert all(entered.acquire(timeout=30) for _ in calls)
        assert not pool.chunks
        calls += [threads.submit(ask) for _ in range(3)]
        assert all(entered.acquire(timeout=30) for _ in range(3))  # no process has answered yet
        assert pool.has(1)
        assert pool.asked == [[("hk-bank", 0)]]
        pool.end(0)
        assert settled(lambda: checking._ready)
        calls.append(threads.submit(ask))
        assert pool.has(2)
        pool.end(1)
        go.set()
        assert [call.result(5) for call in calls] == [[None]] * len(calls)


def test_a_record_that_cannot_be_checked_fails_nobody_elses(monkeypatch):
    def verdict(envelope, *_):
        if envelope == b"bad":
            raise KeyError("a secret")

    monkeypatch.setattr(verifiers, "verdict", verdict)
    good, bad = verifiers._verdicts([([b"good"], "a", 0), ([b"bad"], "b", 0)])
    assert good == [None]
    assert isinstance(bad, RuntimeError)
    assert "secret" not in str(bad)


def test_what_waits_when_the_witness_stops_is_told_so(checking, space, pool):
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(checking.verdicts, [b"{}"] * 12, "hk-bank", (space.members,), space.now, 10)
        assert pool.has(2)
        checking.close()
        pool.end(0), pool.end(1)
        with pytest.raises(RuntimeError, match="stopping"):
            asked.result(5)


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
    assert settled(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
