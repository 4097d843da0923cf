"""Group commit: submissions from many callers share one durable append.

One thread owns the log's appends. Callers hand in their submissions and wait; what arrives while an append
runs goes into the next one. Refuses new work (`Busy`) when too much is waiting, instead of growing.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from witness.log import Log, LogRefused, Submission

_Batch = tuple[Sequence[Submission], Future[list[int]]]

LARGEST_APPEND = 2048
MOST_WAITING = 8192


class Busy(RuntimeError):
    """Too many submissions are waiting; try again later."""


class Sequencer:
    """The appending thread of one log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._waiting: list[_Batch] = []
        self._count = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)
        self._thread.start()

    def submit(self, batch: Sequence[Submission]) -> Future[list[int]]:
        """The future indexes of a batch, which is recorded whole or not at all. Raises Busy."""
        future: Future[list[int]] = Future()
        with self._changed:
            if self._closed or self._count + len(batch) > MOST_WAITING:
                raise Busy("the witness has too many submissions waiting")
            self._waiting.append((batch, future))
            self._count += len(batch)
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
        """The oldest waiting batches, up to LARGEST_APPEND submissions; none when closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            taken: list[_Batch] = []
            size = 0
            while self._waiting and (not taken or size + len(self._waiting[0][0]) <= LARGEST_APPEND):
                taken.append(self._waiting.pop(0))
                size += len(taken[-1][0])
            self._count -= size
            return taken
