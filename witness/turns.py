"""What members wait with, handed out in turns: who brings much waits behind itself, and nobody else does.

Not safe for several threads at once: who shares it holds a lock.
"""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Queues of items, one for each member that waits, in the order of their turns."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[tuple[T, int]]] = {}
        self._sizes: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    @property
    def size(self) -> int:
        """The sizes of all items together."""
        return sum(self._sizes.values())

    def size_of(self, member: str) -> int:
        """The sizes of a member's items together."""
        return self._sizes.get(member, 0)

    def put(self, member: str, item: T, size: int) -> None:
        """One more item of a member, behind its others."""
        self._queues.setdefault(member, deque()).append((item, size))
        self._sizes[member] = self.size_of(member) + size

    def take(self, limit: int) -> list[T]:
        """Items up to the size `limit`, a member's oldest at each of its turns; the first of any size."""
        taken: list[T] = []
        while self._queues:
            member, queue = next(iter(self._queues.items()))
            if taken and queue[0][1] > limit:
                break
            item, size = queue.popleft()
            self._less(member, size)
            if queue:  # back to the end of the line
                self._queues[member] = self._queues.pop(member)
            taken.append(item)
            limit -= size
        return taken

    def drop(self, member: str, item: T, size: int) -> None:
        """Takes an item out that is not waited for any more; it may have been handed out already."""
        queue = self._queues.get(member, deque())
        if (item, size) in queue:
            queue.remove((item, size))
            self._less(member, size)

    def _less(self, member: str, size: int) -> None:
        self._sizes[member] -= size
        if not self._queues[member]:
            del self._queues[member], self._sizes[member]
