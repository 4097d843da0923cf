"""Checks the signatures of many records at once, in processes of their own.

Checking is most of what a record costs, and a Python process does one thing at a time: with one process for
each core the witness records on all of them. A few records are checked where they are; more, of one call or
of many small ones at the same time, go to the processes in chunks, members in turns.

When a process dies or is stuck, all are replaced and what was under way is checked once more, the part of
each call with nothing beside it: a second death is that caller's error and nobody else's, and nothing was
admitted. A call that is not waited for any more leaves nothing behind but what a process has in hand, and
that counts as its member's until it ends: who asks for more than a member may have waiting is refused
(`Overloaded`). A process knows the member lists as they were when it started, so a newer list means new
processes.
"""

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process

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
LONGEST = 60.0
"""Seconds for a chunk, which takes a tenth of one: then its process is stuck, and is put an end to."""
LOOK = 5.0

# Code and sentence of what is wrong; None: the record holds, and the caller is a party of it.
Verdict = tuple[str, str] | None
_Answer = list[Verdict] | Exception  # to one part


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


class Overloaded(Exception):
    """Too many records of this member are being checked; try again later."""


@dataclass(eq=False)
class _Part:
    """Envelopes of one call that are checked together."""

    peer: str
    envelopes: Sequence[bytes]
    at: int
    verdicts: Future[list[Verdict]] = field(default_factory=Future)
    tries: int = 0


@dataclass(eq=False)
class _Chunk:
    """Parts that one process checks, since when, and the pool that it is of."""

    parts: Sequence[_Part]
    began: float
    pool: ProcessPoolExecutor | None = None


class Verifiers:
    """The processes, which start when much is to be checked at once. Any thread may ask.

    INVARIANT: one thread alone calls the pool, and never with the lock held: a pool that breaks answers with
    locks of its own held.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._here = 0  # envelopes checked where they are
        self._unfinished = Counter[str]()  # envelopes handed over, by member
        self._turns: Turns[_Part] = Turns()
        self._again = deque[_Part]()  # what was under way when a process died
        self._alone = False  # the chunk under way is one of these
        self._under_way: list[_Chunk] = []  # that the processes have
        self._lists: tuple[MemberList, ...] = ()
        self._known: tuple[MemberList, ...] = ()  # to the pool's processes
        self._pool: ProcessPoolExecutor | None = None
        self._starting = self._ready = False  # the pool: a start was asked for; it has answered
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="checking", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the processes, after the chunks under way."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def verdicts(
        self, envelopes: Sequence[bytes], peer: str, lists: tuple[MemberList, ...], at: int, timeout: float
    ) -> list[Verdict]:
        """A verdict on each, in order.

        Raises TimeoutError, Overloaded, or RuntimeError when processes keep dying.
        """
        with self._place_here(len(envelopes)) as here:
            if here:
                self._start_if_wanted(peer, lists, at)
                return [verdict(envelope, peer, lists, at) for envelope in envelopes]
        until = time.monotonic() + timeout
        pieces = (envelopes[first : first + CHUNK] for first in range(0, len(envelopes), CHUNK))
        parts = [_Part(peer, piece, at) for piece in pieces]
        try:
            for part in parts:
                self._hand_over(part, lists)
            return [v for part in parts for v in part.verdicts.result(max(0.0, until - time.monotonic()))]
        finally:
            for part in parts:
                self._take_back(part)

    @contextmanager
    def _place_here(self, count: int) -> Iterator[bool]:
        """Whether so many more are checked where they are: once processes answer, only who comes alone."""
        with self._changed:
            here = self._here + count < 2 if self._ready else count < FEWEST
            self._here += count if here else 0
        try:
            yield here
        finally:
            with self._changed:
                self._here -= count if here else 0

    def _start_if_wanted(self, peer: str, lists: tuple[MemberList, ...], at: int) -> None:
        """Lets processes start, by a chunk of nothing, when many small calls come; nobody waits for them."""
        with self._changed:
            if self._ready or self._starting or self._closed or self._here < FEWEST:
                return
            self._starting = True
        self._hand_over(_Part(peer, (), at), lists)

    def _hand_over(self, part: _Part, lists: tuple[MemberList, ...]) -> None:
        """Lets a part be checked at its member's turn. It counts as the member's until it ends."""
        with self._changed:
            count = len(part.envelopes)
            if self._closed or self._unfinished[part.peer] + count > MOST_WAITING_EACH:
                raise Overloaded("too many records of this member are being checked")
            self._unfinished[part.peer] += count
            if len(lists) > len(self._lists):
                self._lists = lists
            self._turns.put(part.peer, part, count)
            self._changed.notify()
        part.verdicts.add_done_callback(lambda _: self._ended(part))

    def _ended(self, part: _Part) -> None:
        with self._changed:
            self._unfinished[part.peer] -= len(part.envelopes)
            if not self._unfinished[part.peer]:
                del self._unfinished[part.peer]

    def _take_back(self, part: _Part) -> None:
        if part.verdicts.cancel():  # it is not with a process
            with self._changed:
                self._turns.drop(part.peer, part, len(part.envelopes))

    # The thread that gives work to the processes

    def _run(self) -> None:
        while parts := self._take():
            if asked := [p for p in parts if p.tries or p.verdicts.set_running_or_notify_cancel()]:
                self._give(asked)
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _take(self) -> list[_Part]:
        """A chunk, as soon as a process will have time for it; none when closed."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._closed or self._has_time(), LOOK):
                self._end_stuck()
            self._end_stuck()
            if not self._closed:
                self._alone = bool(self._again)
                return [self._again.popleft()] if self._alone else self._turns.take(CHUNK)
            left = [*self._again, *self._turns.take(self._turns.size)]
        _settle(left, [RuntimeError("the witness is stopping")] * len(left))
        return []

    def _has_time(self) -> bool:
        if self._again:
            return not self._under_way
        # one more than there are processes, so that each finds the next when it has done one
        return bool(self._turns) and len(self._under_way) <= (0 if self._alone else _processes())

    def _end_stuck(self) -> None:
        """Ends the processes when one has a chunk for too long: as when it died."""
        late = time.monotonic() - LONGEST
        for pool in {chunk.pool for chunk in self._under_way if chunk.began < late and chunk.pool}:
            _kill(pool)

    def _give(self, parts: Sequence[_Part]) -> None:
        chunk = _Chunk(parts, time.monotonic())
        for part in parts:
            part.tries += 1
        with self._changed:
            self._under_way.append(chunk)
        try:
            chunk.pool = self._current()
            asked = chunk.pool.submit(_verdicts, [(part.envelopes, part.peer, part.at) for part in parts])
        except Exception as error:  # noqa: BLE001  a pool that died, or a machine that starts no process
            self._answered(chunk, RuntimeError(f"no process: {type(error).__name__}"))
        else:
            asked.add_done_callback(lambda done: self._answered(chunk, _outcome(done)))

    def _current(self) -> ProcessPoolExecutor:
        """The pool whose processes know the newest lists."""
        with self._changed:
            pool, lists = self._pool, self._lists
        if pool is None or self._known is not lists:
            if pool is not None:
                pool.shutdown(wait=False)
            pool, self._known = _started(lists), lists
            with self._changed:
                self._pool, self._ready = pool, False
        return pool

    def _answered(self, chunk: _Chunk, answer: Sequence[_Answer] | Exception) -> None:
        died, parts, pool = isinstance(answer, RuntimeError), chunk.parts, chunk.pool
        with self._changed:
            self._under_way.remove(chunk)
            self._starting = False
            if self._pool is pool:  # not one that has been put in its place already
                self._ready = not died
                self._pool = None if died else pool
            again = [part for part in parts if died and part.tries < TRIES and not self._closed]
            self._again += again
            self._changed.notify()
        if not isinstance(answer, Exception):
            _settle(parts, answer)
        else:
            over = [part for part in parts if part not in again]
            _settle(over, [answer] * len(over))


def _outcome(chunk: Future[list[_Answer]]) -> Sequence[_Answer] | Exception:
    try:
        return chunk.result(0)
    except CancelledError:
        return RuntimeError("the witness is stopping")
    except Exception as error:  # noqa: BLE001  whoever asked must hear of it, whatever it is
        return error


def _settle(parts: Sequence[_Part], answers: Sequence[_Answer]) -> None:
    for part, answer in zip(parts, answers, strict=True):
        if isinstance(answer, Exception):
            part.verdicts.set_exception(answer)
        else:
            part.verdicts.set_result(answer)


def _processes() -> int:
    return len(os.sched_getaffinity(0))


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):  # noqa: SLF001  there is no public way
        process.kill()


def _started(lists: Sequence[MemberList]) -> ProcessPoolExecutor:
    # Not forked: a fork of a process with threads may hold their locks for ever.
    return ProcessPoolExecutor(
        _processes(),
        mp_context=get_context("spawn"),
        initializer=_prepare,
        initargs=([members.to_payload() for members in lists],),
    )


# In a process of the pool

_lists: tuple[MemberList, ...] = ()


def _prepare(payloads: Sequence[bytes]) -> None:
    global _lists
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the witness, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _lists = tuple(MemberList.parse(payload) for payload in payloads)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # it was killed: nobody is left to end us


def _verdicts(parts: Sequence[tuple[Sequence[bytes], str, int]]) -> list[_Answer]:
    """Of each part its verdicts, or what went wrong: nobody else's records shall fail with it."""
    return [_of_part(*part) for part in parts]


def _of_part(envelopes: Sequence[bytes], peer: str, at: int) -> _Answer:
    try:
        return [verdict(envelope, peer, _lists, at) for envelope in envelopes]
    except Exception as error:  # noqa: BLE001  nothing is expected; its words stay here
        return RuntimeError(f"checking ended with {type(error).__name__}")
