"""How much each member may bring in a day: nobody fills the disk of a log that all need.

Counted in memory: a restart begins the day anew. Refuses a call that goes beyond, whole.
"""

import threading
from collections import Counter
from collections.abc import Callable

from google.rpc import code_pb2

from witness.door import Refusal

_DAY = 24 * 60 * 60 * 1000


class Quota:
    """Bytes of new records, `each` for every member and day (UTC). `clock`: ms since 1970."""

    def __init__(self, each: int, clock: Callable[[], int]) -> None:
        self._each, self._clock = each, clock
        self._day = 0
        self._brought: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, member: str, count: int) -> None:
        """So many bytes more. Raises Refusal, and counts nothing, when they are too many for today."""
        today = self._clock() // _DAY
        with self._lock:
            if today != self._day:
                self._day, self._brought = today, Counter()
            if self._brought[member] + count > self._each:
                sentence = (
                    "This member has brought as many bytes as it may in a day (UTC); submit again tomorrow."
                )
                raise Refusal(code_pb2.RESOURCE_EXHAUSTED, "quota", sentence)
            self._brought[member] += count

    def give_back(self, member: str, count: int) -> None:
        """Of what was taken, so much was not recorded."""
        with self._lock:
            self._brought[member] = max(0, self._brought[member] - count)
