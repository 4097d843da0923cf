"""Signatures checked in processes: the same verdicts as in place, a death survived, no orphan left."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.waiting import settled
from witness import members, verifiers
from witness.verifiers import ENOUGH, FEWEST, Overloaded, Verifiers, verdict


def with_processes(count, monkeypatch):
    monkeypatch.setattr(verifiers, "_processes", lambda: count)
    made = Verifiers()
    yield made
    made.close()


@pytest.fixture
def checking(monkeypatch):
    """One process at a time: each takes a second to start."""
    yield from with_processes(1, monkeypatch)


def asked(checking, envelopes, peer="hk-bank", lists=(), at=0, timeout=30):
    return checking.verdicts(envelopes, peer, lists, at, timeout)


def processes():
    return multiprocessing.active_children()


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
    assert asked(checking, batch, lists=lists, at=space.now) == here
    (first,) = processes()
    os.kill(first.pid, signal.SIGKILL)
    assert asked(checking, batch, lists=lists, at=space.now) == here
    (second,) = processes()
    assert second.pid != first.pid
    shorter = [p for p in space.participants() if p.id != "sz-trade"]
    newer = (space.members, members.successor(space.members, "gba", shorter, space.now - 1))
    found = asked(checking, batch, lists=newer, at=space.now)
    assert {wrong and wrong[0] for wrong in found} == {"key", "format", "signature"}
    checking.close()
    assert not processes()


def test_a_process_that_does_not_answer_is_ended(checking):
    assert asked(checking, [b"{}"] * FEWEST)
    (process,), (started,) = checking._ready, processes()
    verifiers._give_up_after(1.0, process._pipe)
    os.kill(started.pid, signal.SIGSTOP)
    large = [b"x" * 100_000] * FEWEST  # more than a pipe takes before it is read
    assert {code for code, _ in asked(checking, large, timeout=90)} == {"format"}
    assert started.pid not in {other.pid for other in processes()}


def test_a_process_that_dies_while_it_starts_is_ended(checking, monkeypatch):
    """Also with lists that fill the pipe to it."""
    ended, real = [], verifiers._Process.end

    def end(process):
        ended.append(process)
        real(process)

    class Lists:
        def to_payload(self):
            return b"x" * 500_000  # no list: it cannot be read

    monkeypatch.setattr(verifiers._Process, "end", end)
    with pytest.raises(RuntimeError, match="no process"):
        asked(checking, [b"{}"] * FEWEST, lists=(Lists(), Lists()))
    assert len(ended) == 1
    assert not processes()


def test_a_machine_that_starts_no_process_admits_nothing(checking, monkeypatch):
    def none(_lists):
        raise OSError("no memory")

    monkeypatch.setattr(verifiers, "_Process", none)
    with pytest.raises(RuntimeError, match="no process: OSError"):
        asked(checking, [b"{}"] * FEWEST)
    assert not checking._unfinished


@pytest.fixture
def two(monkeypatch):
    yield from with_processes(2, monkeypatch)


def test_a_process_that_does_not_start_fails_nobody_where_another_one_works(two, monkeypatch):
    real, tries = verifiers._Process, []

    def every_other(lists):
        tries.append(lists)
        if len(tries) > 1:
            raise OSError("no memory")
        return real(lists)

    monkeypatch.setattr(verifiers, "PAUSE", 0.0)
    monkeypatch.setattr(verifiers, "_Process", every_other)
    with two._changed:
        two._want(())
    assert settled(lambda: two._ready)
    with ThreadPoolExecutor(16) as threads:
        calls = [threads.submit(asked, two, [b"{}"] * 32, f"member {n % 8}") for n in range(64)]
        assert {len(call.result(30)) for call in calls} == {32}
    assert settled(lambda: len(tries) > 3)  # and it is tried again


def test_nothing_is_lost_when_all_die_while_nothing_is_asked(two):
    assert asked(two, [b"{}"] * FEWEST)
    assert settled(lambda: len(two._ready) == 2)
    killed = {process.pid for process in processes()}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert settled(lambda: not killed & {process.pid for process in processes()})
    assert len(asked(two, [b"{}"] * FEWEST)) == FEWEST


def test_what_finds_its_process_dead_leaves_the_work_to_the_other(two, monkeypatch):
    """Who waits is served at once, and not by the process that is to replace the dead one."""
    assert asked(two, [b"{}"] * FEWEST)
    assert settled(lambda: len(two._ready) == 2)
    may_start, real = threading.Event(), verifiers._Process

    def late(lists):
        assert may_start.wait(30)
        return real(lists)

    monkeypatch.setattr(verifiers, "_Process", late)
    os.kill(processes()[0].pid, signal.SIGKILL)
    assert settled(lambda: len(processes()) == 1)
    try:
        for _ in range(4):  # whichever is woken
            assert asked(two, [b"{}"] * FEWEST, timeout=20)
    finally:
        may_start.set()


def test_a_newer_list_is_not_checked_with_by_who_has_the_older(checking, space, monkeypatch):
    """Also by a process that was waiting for a few records to become more."""
    monkeypatch.setattr(verifiers, "GATHERING", 1.0)
    good = space.sign(space.seal()).to_bytes()
    assert asked(checking, [good] * FEWEST, lists=(space.members,), at=space.now) == [None] * FEWEST
    shorter = [p for p in space.participants() if p.id != "sz-trade"]
    newer = (space.members, members.successor(space.members, "gba", shorter, space.now - 1))
    with ThreadPoolExecutor(1) as threads:
        few = threads.submit(asked, checking, [good] * 2, lists=(space.members,), at=space.now)
        assert settled(lambda: checking._turns.size == 2)
        found = asked(checking, [good] * FEWEST, lists=newer, at=space.now)
        assert {code for code, _ in found} == {"key"}
        assert {code for code, _ in few.result(30)} == {"key"}


class Chunks:
    """Processes whose chunks end when the test says so."""

    def __init__(self):
        self.asked, self.answers, self.started, self.ended = [], [], 0, 0
        self.may_start = threading.Event()
        self.may_start.set()

    def process(self, lists):
        self.started += 1
        assert self.may_start.wait(30)
        return Held(self, lists)

    def end(self, number):
        self.answers[number].set_result([[None] * count for _, count in self.asked[number]])

    def dies(self, number):
        self.answers[number].set_exception(EOFError())

    def has(self, count):
        return settled(lambda: len(self.answers) == count)


class Held:
    alive = True

    def __init__(self, chunks, lists):
        self.chunks, self.lists = chunks, lists

    def verdicts(self, parts):
        self.chunks.asked.append([(peer, len(envelopes)) for envelopes, peer, _ in parts])
        self.chunks.answers.append(answer := Future())
        return answer.result(60)

    def end(self):
        self.chunks.ended += 1


@pytest.fixture
def chunks(checking, monkeypatch):
    made = Chunks()
    monkeypatch.setattr(verifiers, "_Process", made.process)
    monkeypatch.setattr(verifiers, "CHUNK", 4)
    return made


def test_calls_that_expired_leave_nothing_behind_and_keep_nobody_out(checking, chunks, monkeypatch):
    monkeypatch.setattr(verifiers, "MOST_WAITING_EACH", 10)
    with pytest.raises(TimeoutError):
        asked(checking, [b"{}"] * FEWEST, timeout=2)
    assert chunks.asked == [[("hk-bank", 4)]]  # under way, and counted: eight and four are too many
    for _ in range(2):
        with pytest.raises(Overloaded):
            asked(checking, [b"{}"] * FEWEST)
        with pytest.raises(TimeoutError):
            asked(checking, [b"{}"] * FEWEST, "sz-trade", timeout=0.1)
    assert not checking._turns  # what nobody waits for any more does not wait
    assert dict(checking._unfinished) == {"hk-bank": 4}
    chunks.end(0)
    assert settled(lambda: not checking._unfinished)
    with pytest.raises(TimeoutError):
        asked(checking, [b"{}"] * FEWEST, timeout=2)
    chunks.end(1)


def test_a_record_that_kills_its_process_fails_nobody_elses(checking, chunks):
    """What was in the chunk beside it is checked again, each call's part by itself, with another process."""
    checking._ready.add("another")  # so that two are handed over
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(asked, checking, [b"{}"] * 2, "auditor")
        assert chunks.has(1)
        evil = threads.submit(asked, checking, [b"kill"] * 2)
        assert settled(lambda: checking._turns.size == 2)
        honest = threads.submit(asked, checking, [b"good"] * 2, "sz-trade")
        assert settled(lambda: checking._turns.size == 4)
        chunks.end(0)
        assert chunks.has(2)
        chunks.dies(1)
        for number, dies in ((2, True), (3, False)):
            assert chunks.has(number + 1)
            (chunks.dies if dies else chunks.end)(number)
        assert first.result(30) == honest.result(30) == [None] * 2
        with pytest.raises(RuntimeError, match="no process: EOFError"):
            evil.result(30)
    members_in_turn = [("hk-bank", 2), ("sz-trade", 2)]
    assert chunks.asked == [[("auditor", 2)], members_in_turn, *([part] for part in members_in_turn)]
    assert (chunks.started, chunks.ended) == (3, 2)
    assert not checking._unfinished


def test_many_small_calls_share_a_chunk_and_members_take_turns(checking, chunks):
    checking._ready.add("another")
    with ThreadPoolExecutor(3) as threads:
        flood = threads.submit(asked, checking, [b"{}"] * 16)
        assert chunks.has(1)
        others = [threads.submit(asked, checking, [b"{}"] * 2, "sz-trade")]
        assert settled(lambda: checking._turns.size == 14)
        others.append(threads.submit(asked, checking, [b"{}"] * 2, "auditor"))
        assert settled(lambda: checking._turns.size == 16)
        for number in range(5):
            assert chunks.has(number + 1)
            chunks.end(number)
        assert flood.result(30) == [None] * 16
        assert [other.result(30) for other in others] == [[None] * 2] * 2
    assert chunks.asked == [
        *[[("hk-bank", 4)]] * 2,
        [("sz-trade", 2), ("auditor", 2)],
        *[[("hk-bank", 4)]] * 2,
    ]


def test_a_few_records_wait_a_little_for_more(checking, chunks, monkeypatch):
    monkeypatch.setattr(verifiers, "CHUNK", 32)
    monkeypatch.setattr(verifiers, "GATHERING", 30.0)
    checking._ready.add("another")
    with ThreadPoolExecutor(ENOUGH) as threads:
        calls = [threads.submit(asked, checking, [b"{}"] * 2) for _ in range(ENOUGH // 2)]
        assert chunks.has(1)  # long before the time is over
        chunks.end(0)
        assert [call.result(30) for call in calls] == [[None] * 2] * len(calls)
    assert chunks.asked == [[("hk-bank", 2)] * (ENOUGH // 2)]


def test_small_calls_start_a_process_and_do_not_wait_for_it(checking, chunks, monkeypatch):
    go, entered = threading.Event(), threading.Semaphore(0)

    def verdict(*_):
        entered.release()
        assert go.wait(30)

    monkeypatch.setattr(verifiers, "verdict", verdict)
    chunks.may_start.clear()
    ask = functools.partial(asked, checking, [b"{}"])
    with ThreadPoolExecutor(20) as threads:
        calls = [threads.submit(ask) for _ in range(FEWEST - 1)]
        assert all(entered.acquire(timeout=30) for _ in calls)
        assert not chunks.started
        calls += [threads.submit(ask) for _ in range(3)]
        assert all(entered.acquire(timeout=30) for _ in range(3))  # no process has answered yet
        assert settled(lambda: chunks.started == 1)
        chunks.may_start.set()
        assert settled(lambda: checking._ready)
        assert not chunks.asked
        calls.append(threads.submit(ask))
        assert chunks.has(1)
        chunks.end(0)
        go.set()
        assert [call.result(30) for call in calls] == [[None]] * len(calls)


def test_a_record_that_cannot_be_checked_fails_nobody_elses(monkeypatch):
    def verdict(envelope, *_):
        if envelope == b"bad":
            raise KeyError("a secret")

    monkeypatch.setattr(verifiers, "verdict", verdict)
    assert verifiers._of_part([b"good"], "a", (), 0) == [None]
    bad = verifiers._of_part([b"bad"], "b", (), 0)
    assert isinstance(bad, RuntimeError)
    assert "secret" not in str(bad)


def test_what_waits_when_the_witness_stops_is_told_so(checking, chunks):
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(asked, checking, [b"{}"] * 12)
        assert chunks.has(1)
        closing = threads.submit(checking.close)
        assert settled(checking._closed.is_set)
        chunks.end(0)
        with pytest.raises(RuntimeError, match="stopping"):
            call.result(30)
        closing.result(30)
    with pytest.raises(Overloaded):
        asked(checking, [b"{}"] * 12)
    assert (chunks.started, chunks.ended) == (1, 1)


ORPHANS = """
import multiprocessing, os
from witness.verifiers import Verifiers
made = Verifiers()
made.verdicts([b"{}"] * 64, "a", (), 0, 60)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
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
