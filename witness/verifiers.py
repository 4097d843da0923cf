"""Checks the signatures of many records at once, in processes of their own.

Checking is most of what a record costs, and a Python process does one thing at a time: with one process for
each core the witness records on all of them. A few records are checked where they are; more, of one call or
of many small ones at the same time, go to the processes in chunks, members in turns.

Each process has a thread here that brings it chunks over a pipe, one at a time, and replaces it when it dies
or is stuck. The part of each call that was in the chunk is then checked once more by itself: a second death
is that caller's error and nobody else's, and nothing was admitted. A call that is not waited for any more
leaves nothing behind but what a process has in hand, and that counts as its member's until it ends: who asks
for more than a member may have waiting is refused (`Overloaded`). A process knows the member lists as they
were when it started, so a newer list means new processes.
"""

import os
import select
import signal
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection

from witness import dsse, sodium
from witness.checks import VerificationFailed, check_signed
from witness.dsse import EnvelopeInvalid
from witness.members import MemberList
from witness.turns import Turns

FEWEST = 8
"""With fewer under way no processes are started: they take memory, and a second until they answer."""
CHUNK = 32
MOST_WAITING_EACH = 1024
"""As many as the calls that one member may have open can bring."""
TRIES = 2
GATHERING = 0.005
"""Seconds that a process waits for a few records to become more: a chunk costs as much as a record."""
ENOUGH = 16
"""Of so many a process waits for no more."""
LONGEST = 20.0
"""Seconds for a chunk, which takes a tenth of one, or a start: then a process is stuck, and is ended."""
PAUSE = 1.0
"""Seconds between two tries to start a process where none starts."""

# Code and sentence of what is wrong; None: the record holds, and the caller is a party of it.
Verdict = tuple[str, str] | None
_Asked = tuple[Sequence[bytes], str, int]  # envelopes, whose, when
_Answer = list[Verdict] | Exception  # to one part

_one_at_a_time = threading.Lock()  # starts and ends: a process reaps others' children too


def verdict(envelope: bytes, peer: str, lists: Sequence[MemberList], at: int) -> Verdict:
    """Whether the record in `envelope` may be recorded for `peer` at time `at`."""
    try:
        signed = check_signed(dsse.parse(envelope), lists, at, check=sodium.verify)
    except EnvelopeInvalid as error:
        return "format", f"The envelope is malformed: {error}."
    except VerificationFailed as error:
        return error.code, error.sentence
    if peer not in {party.id for party in signed.record.parties}:
        return "party", "The caller is not a party of the record."
    return None


def _all_verdicts(
    envelopes: Sequence[bytes], peer: str, lists: Sequence[MemberList], at: int
) -> list[Verdict]:
    return [verdict(envelope, peer, lists, at) for envelope in envelopes]


class Overloaded(Exception):
    """Too many records of this member are being checked; try again later."""


@dataclass(eq=False)
class _Part:
    """Envelopes of one call that are checked together."""

    peer: str
    envelopes: Sequence[bytes]
    at: int
    verdicts: Future[list[Verdict]] = field(default_factory=Future)
    failures: int = 0


class Verifiers:
    """The processes, which start when much is to be checked at once. Any thread may ask."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._here = 0  # envelopes checked where they are
        self._unfinished = Counter[str]()  # envelopes handed over, by member
        self._turns: Turns[_Part] = Turns()
        self._again = deque[_Part]()  # what a process had when it died
        self._lists: tuple[MemberList, ...] = ()
        self._wanted = False  # processes: from the first time that much was to be checked
        self._ready = set[_Process]()  # those that have answered
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="checking", daemon=True) for _ in range(_processes())
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends the processes, after the chunks under way."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        with self._changed:
            left = self._all()
        self._settle(left, [RuntimeError("the witness is stopping") for _ in left])

    def verdicts(
        self, envelopes: Sequence[bytes], peer: str, lists: tuple[MemberList, ...], at: int, timeout: float
    ) -> list[Verdict]:
        """A verdict on each, in order.

        Raises TimeoutError, Overloaded, or RuntimeError when processes keep dying.
        """
        if self._begin_here(len(envelopes)):
            try:
                self._start_if_wanted(lists)
                return _all_verdicts(envelopes, peer, lists, at)
            finally:
                self._end_here(len(envelopes))
        until = time.monotonic() + timeout
        pieces = (envelopes[first : first + CHUNK] for first in range(0, len(envelopes), CHUNK))
        parts = [_Part(peer, piece, at) for piece in pieces]
        handed: list[_Part] = []
        try:
            for part in parts:
                self._hand_over(part, lists)
                handed.append(part)
            return [v for part in parts for v in part.verdicts.result(max(0.0, until - time.monotonic()))]
        finally:
            for part in handed:
                self._take_back(part)

    def _begin_here(self, count: int) -> bool:
        """Whether so many more are checked where they are: once processes answer, only who comes alone."""
        with self._changed:
            alone = not (self._here or self._unfinished)
            here = count < (FEWEST if not self._ready else 2 if alone else 1)
            self._here += count if here else 0
        return here

    def _end_here(self, count: int) -> None:
        with self._changed:
            self._here -= count

    def _start_if_wanted(self, lists: tuple[MemberList, ...]) -> None:
        """Lets processes start when many small calls come, which do not wait for them."""
        with self._changed:
            if self._here >= FEWEST:
                self._want(lists)

    def _want(self, lists: tuple[MemberList, ...]) -> None:
        """Lets every thread start its process, or a new one where there is a newer list."""
        if len(lists) > len(self._lists):
            self._lists = lists
        elif self._wanted:
            return
        self._wanted = True
        self._changed.notify_all()

    def _hand_over(self, part: _Part, lists: tuple[MemberList, ...]) -> None:
        """Lets a part be checked at its member's turn. It counts as the member's until it ends."""
        with self._changed:
            count = len(part.envelopes)
            if self._closed.is_set() or self._unfinished[part.peer] + count > MOST_WAITING_EACH:
                raise Overloaded("too many records of this member are being checked")
            self._unfinished[part.peer] += count
            self._want(lists)
            first = not self._turns
            self._turns.put(part.peer, part, count)
            if first or self._turns.size >= ENOUGH:
                self._changed.notify()

    def _take_back(self, part: _Part) -> None:
        if part.verdicts.cancel():  # it is not with a process
            with self._changed:
                self._turns.drop(part.peer, part, len(part.envelopes))
                self._finished(part)

    def _finished(self, part: _Part) -> None:
        self._unfinished[part.peer] -= len(part.envelopes)
        if not self._unfinished[part.peer]:
            del self._unfinished[part.peer]

    # The threads that bring work to the processes, each to its own

    def _run(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._closed.is_set())
        while not self._closed.is_set():
            try:
                process = _Process(self._lists)
            except Exception as error:  # noqa: BLE001  a machine that starts none
                self._without_process(error)
            else:
                self._work(process)

    def _without_process(self, error: Exception) -> None:
        """What waits is told so, unless others are there to check it; and the next try is a little later."""
        with self._changed:
            parts = [] if self._ready else self._all()
        self._settle(parts, [_no_process(error) for _ in parts])
        self._closed.wait(PAUSE)

    def _work(self, process: "_Process") -> None:
        """Brings it chunks until it ends, or there is a newer list."""
        with self._changed:
            self._ready.add(process)
        parts: list[_Part] = []
        try:
            while parts := self._take(process):
                answers = process.verdicts([(part.envelopes, part.peer, part.at) for part in parts])
                self._settle(parts, answers)
                parts = []
        except Exception as error:  # noqa: BLE001  it died, or is stuck
            self._failed(parts, error)
        finally:
            with self._changed:
                self._ready.discard(process)
            process.end()

    def _take(self, process: "_Process") -> list[_Part]:
        """What it is to check together; none when it is not to go on."""
        with self._changed:
            while not self._over(process):
                self._changed.wait_for(lambda: self._over(process) or self._again or self._turns)
                if not self._again:
                    self._changed.wait_for(
                        lambda: self._over(process) or self._turns.size >= ENOUGH, GATHERING
                    )
                if self._over(process) or not process.alive:
                    break
                parts = [self._again.popleft()] if self._again else self._asked(CHUNK)
                if self._turns:
                    self._changed.notify()
                if parts:
                    return parts
            self._changed.notify()  # what woke this one is for another now
            return []

    def _over(self, process: "_Process") -> bool:
        return self._closed.is_set() or self._lists is not process.lists

    def _asked(self, limit: int) -> list[_Part]:
        """Those at their turn that are still waited for."""
        return [p for p in self._turns.take(limit) if p.verdicts.set_running_or_notify_cancel()]

    def _all(self) -> list[_Part]:
        left = [*self._again, *self._asked(self._turns.size)]
        self._again.clear()
        return left

    def _failed(self, parts: Sequence[_Part], error: Exception) -> None:
        for part in parts:
            part.failures += 1
        over = [part for part in parts if part.failures == TRIES]
        with self._changed:
            self._again += [part for part in parts if part.failures < TRIES]
            self._changed.notify_all()
        self._settle(over, [_no_process(error) for _ in over])

    def _settle(self, parts: Sequence[_Part], answers: Sequence[_Answer]) -> None:
        with self._changed:
            for part in parts:
                self._finished(part)
        for part, answer in zip(parts, answers, strict=True):
            if isinstance(answer, Exception):
                part.verdicts.set_exception(answer)
            else:
                part.verdicts.set_result(answer)


def _no_process(error: Exception) -> RuntimeError:
    return RuntimeError(f"no process: {type(error).__name__}")


def _processes() -> int:
    return len(os.sched_getaffinity(0))


class _Process:
    """A process that checks, a chunk at a time, with these lists. One thread's."""

    def __init__(self, lists: tuple[MemberList, ...]) -> None:
        """Starts it, and waits until it answers. Raises OSError or EOFError when it does not."""
        self.lists = lists
        context = get_context("spawn")  # a fork of a process with threads may hold their locks for ever
        self._pipe, theirs = context.Pipe()
        _give_up_after(LONGEST, self._pipe)
        self._process = context.Process(target=_check, args=(theirs,), daemon=True)
        with theirs, _one_at_a_time:
            self._process.start()
        self._speaks = select.poll()
        self._speaks.register(self._pipe, select.POLLIN)
        try:
            self._pipe.send([members.to_payload() for members in lists])
            self._pipe.recv()
        except BaseException:
            self.end()
            raise

    @property
    def alive(self) -> bool:
        """Whether it runs, as long as nothing is asked: it does not speak of itself."""
        return not self._speaks.poll(0)

    def verdicts(self, parts: Sequence[_Asked]) -> list[_Answer]:
        """Of each part its verdicts. Raises OSError or EOFError when it died or is stuck: end it then."""
        self._pipe.send(parts)
        answers: list[_Answer] = self._pipe.recv()
        return answers

    def end(self) -> None:
        """Ends it, whatever it does."""
        self._pipe.close()
        with _one_at_a_time:
            self._process.kill()
            self._process.join()


def _give_up_after(seconds: float, pipe: Connection) -> None:
    """Whoever sends or receives on this end for longer gets a BlockingIOError."""
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))  # a struct timeval
    with socket.socket(fileno=os.dup(pipe.fileno())) as end:
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            end.setsockopt(socket.SOL_SOCKET, option, limit)


# In such a process


def _check(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the witness, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError):  # we are to end
        lists = tuple(MemberList.parse(payload) for payload in pipe.recv())
        pipe.send(None)
        while True:
            pipe.send([_of_part(envelopes, peer, lists, at) for envelopes, peer, at in pipe.recv()])


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # it was killed: nobody is left to end us


def _of_part(envelopes: Sequence[bytes], peer: str, lists: Sequence[MemberList], at: int) -> _Answer:
    """The verdicts, or what went wrong: nobody else's records shall fail with it."""
    try:
        return _all_verdicts(envelopes, peer, lists, at)
    except Exception as error:  # noqa: BLE001  nothing is expected; its words stay here
        return RuntimeError(f"checking ended with {type(error).__name__}")
