"""Group commit: submissions from many callers share one durable append.

One thread owns the log's appends. Callers hand in their submissions and wait; what arrives while an append
runs goes into the next one. An append costs milliseconds however small it is (signatures, syncs), so one that
could begin waits for the submissions that are being checked, but not for long; who comes alone waits for
nobody. Members take turns, batch by batch, so that who floods waits behind itself. Refuses new work (`Busy`)
when too much is waiting, of one member or in all, instead of growing.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from witness.log import Log, LogRefused, Submission
from witness.turns import Turns

_Batch = tuple[Sequence[Submission], Future[list[int]]]

LARGEST_APPEND = 2048
MOST_WAITING = 8192
MOST_WAITING_EACH = 2048
LONGEST_GATHERING = 0.02
"""Seconds: what a member that sends much, or slow work, can add to the time of all others."""


class Busy(RuntimeError):
    """Too many submissions are waiting; try again later."""


class Sequencer:
    """The appending thread of one log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._waiting: Turns[_Batch] = Turns()
        self._changed = threading.Condition()
        self._coming = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many submissions wait."""
        return self._waiting.size

    @contextmanager
    def coming(self) -> Iterator[None]:
        """While the block lasts, a submission is on its way here: the next append waits for it a little."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                if not self._coming:
                    self._changed.notify()

    def submit(self, batch: Sequence[Submission], member: str = "") -> Future[list[int]]:
        """The future indexes of a member's batch, recorded whole or not at all. Raises Busy."""
        future: Future[list[int]] = Future()
        with self._changed:
            own = self._waiting.size_of(member) + len(batch)
            if self._closed or own > MOST_WAITING_EACH or self.waiting + len(batch) > MOST_WAITING:
                raise Busy("the witness has too many submissions waiting")
            first = not self._waiting
            self._waiting.put(member, (batch, future), len(batch))
            if first or self._gathered():
                self._changed.notify()
        return future

    def close(self) -> None:
        """Finishes what is waiting and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while taken := self._take():
            try:
                indexes = self._log.append([s for batch, _ in taken for s in batch])
            except Exception as error:  # noqa: BLE001  every caller must hear of it, whatever it is
                refusal = LogRefused("the append failed")
                refusal.__cause__ = error
                for _, future in taken:
                    future.set_exception(refusal)
                continue
            for batch, future in taken:
                future.set_result(indexes[: len(batch)])
                indexes = indexes[len(batch) :]

    def _take(self) -> list[_Batch]:
        """Waiting batches, a member's oldest at each of its turns, up to LARGEST_APPEND submissions.

        None when closed and empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
            self._changed.wait_for(self._gathered, LONGEST_GATHERING)
            return self._waiting.take(LARGEST_APPEND)

    def _gathered(self) -> bool:
        return not self._coming or self._closed or self.waiting >= LARGEST_APPEND
