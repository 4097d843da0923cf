"""Checks the signatures of many records at once, in processes of their own.

Checking is most of what a record costs, and a Python process does one thing at a time: with one process for
each core the witness records on all of them. A process knows the member lists as they were when it
started, so a newer list means new processes. When one dies, all are replaced and what was under way is
checked once more; a second death is the caller's error, and nothing was admitted. A call that is not waited
for any more leaves nothing behind but what a process has in hand, and that counts as its member's until it
ends: who asks for more than a member may have waiting is refused (`Overloaded`).
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process

from witness import dsse
from witness.checks import VerificationFailed, check_signed
from witness.dsse import EnvelopeInvalid
from witness.members import MemberList

FEWEST = 8
"""Fewer are checked where they are: handing them over would cost more than it saves."""
CHUNK = 32
MOST_WAITING_EACH = 1024
"""As many as the calls that one member may have open can bring."""

# Code and sentence of what is wrong; None: the record holds, and the caller is a party of it.
Verdict = tuple[str, str] | None


def verdict(envelope: bytes, peer: str, lists: Sequence[MemberList], at: int) -> Verdict:
    """Whether the record in `envelope` may be recorded for `peer` at time `at`."""
    try:
        signed = check_signed(dsse.parse(envelope), lists, at)
    except EnvelopeInvalid as error:
        return "format", f"The envelope is malformed: {error}."
    except VerificationFailed as error:
        return error.code, error.sentence
    if peer not in {party.id for party in signed.record.parties}:
        return "party", "The caller is not a party of the record."
    return None


class Overloaded(Exception):
    """Too many records of this member are being checked; try again later."""


class Verifiers:
    """The processes, which start with the first large batch. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting, self._counting = Counter[str](), threading.Lock()  # envelopes in the pool, by member
        self._lists: tuple[MemberList, ...] = ()
        self._pool: ProcessPoolExecutor | None = None

    def close(self) -> None:
        """Ends the processes, after the chunks under way."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def verdicts(
        self, envelopes: Sequence[bytes], peer: str, lists: tuple[MemberList, ...], at: int, timeout: float
    ) -> list[Verdict]:
        """A verdict on each, in order.

        Raises TimeoutError, Overloaded, or RuntimeError when processes keep dying.
        """
        if len(envelopes) < FEWEST:
            return [verdict(envelope, peer, lists, at) for envelope in envelopes]
        pool = self._pool_of(lists)
        try:
            return self._asked(pool, envelopes, peer, at, timeout)
        except RuntimeError:  # a process died, or a newer list came in between
            self._drop(pool)
            return self._asked(self._pool_of(lists), envelopes, peer, at, timeout)

    def _asked(
        self, pool: ProcessPoolExecutor, envelopes: Sequence[bytes], peer: str, at: int, timeout: float
    ) -> list[Verdict]:
        until = time.monotonic() + timeout
        futures: list[Future[list[Verdict]]] = []
        try:
            for first in range(0, len(envelopes), CHUNK):
                futures.append(self._submitted(pool, envelopes[first : first + CHUNK], peer, at))
            return [v for future in futures for v in future.result(max(0.0, until - time.monotonic()))]
        finally:
            for future in futures:
                future.cancel()

    def _submitted(
        self, pool: ProcessPoolExecutor, chunk: Sequence[bytes], peer: str, at: int
    ) -> Future[list[Verdict]]:
        """A chunk's verdicts to come. It counts as the member's until it ends or is cancelled."""
        self._count(peer, len(chunk))
        try:
            future = pool.submit(_verdicts, chunk, peer, at)
        except RuntimeError:
            self._count(peer, -len(chunk))
            raise
        future.add_done_callback(lambda _: self._count(peer, -len(chunk)))
        return future

    def _count(self, peer: str, more: int) -> None:
        with self._counting:
            if more > 0 and self._waiting[peer] + more > MOST_WAITING_EACH:
                raise Overloaded("too many records of this member are being checked")
            self._waiting[peer] += more
            if not self._waiting[peer]:
                del self._waiting[peer]

    def _pool_of(self, lists: tuple[MemberList, ...]) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None or lists is not self._lists:
                if self._pool is not None:
                    self._pool.shutdown(wait=False)
                self._lists, self._pool = lists, _started(lists)
            return self._pool

    def _drop(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is pool:  # not one that another thread has put in its place already
                pool.shutdown(wait=False)
                self._pool = None


def _started(lists: Sequence[MemberList]) -> ProcessPoolExecutor:
    # Not forked: a fork of a process with threads may hold their locks for ever.
    return ProcessPoolExecutor(
        len(os.sched_getaffinity(0)),
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


def _verdicts(envelopes: Sequence[bytes], peer: str, at: int) -> list[Verdict]:
    return [verdict(envelope, peer, _lists, at) for envelope in envelopes]
