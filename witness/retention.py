"""How long contents stay: after `days`, a record's key is destroyed, and only leaf and proofs remain.

Who holds the envelope and its bundle can still prove everything; the witness cannot read it any more. Erases
in small steps, so that recording never waits for it.
"""

import logging
from collections.abc import Callable

from witness import leaf as leaves
from witness.background import Background
from witness.database import Database

_log = logging.getLogger(__name__)

DAY = 24 * 60 * 60 * 1000
PAUSE = 60.0 * 60.0
STEP = 500


class Retention:
    """The thread that erases what is older than `days`. clock: milliseconds since 1970."""

    def __init__(self, database: Database, days: int, clock: Callable[[], int]) -> None:
        self._database, self._days, self._clock = database, days, clock
        self._thread = Background("retention", self._step, "retention failed, and is tried again", PAUSE)

    def start(self) -> None:
        """Begins to erase."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, after the step under way."""
        self._thread.close()

    def erase_expired(self) -> int:
        """Erases every content that is too old; returns how many."""
        before = first_after(self._database, self._clock() - self._days * DAY)
        erased = 0
        while not self._thread.stopping:
            old = self._database.kept(before, STEP)
            # With nothing to erase, this finishes what could not be finished before.
            erased += self._database.erase(old)
            if not old:
                break
        if erased:
            _log.info("retention erased the contents of %d records", erased)
        return erased

    def _step(self) -> float:
        self.erase_expired()
        return PAUSE


def first_after(database: Database, time: int) -> int:
    """The index of the first entry received at `time` or later: times never run backwards in the log."""
    low, high = 0, database.count()
    while low < high:
        middle = (low + high) // 2
        entry = database.leaf(middle)
        if entry is not None and leaves.parse(entry).received_at < time:
            low = middle + 1
        else:
            high = middle
    return low
