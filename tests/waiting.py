"""Waiting for what another thread or process is about to do."""

from __future__ import annotations

import time
from collections.abc import Callable


def settled(true: Callable[[], object], seconds: float = 30.0) -> bool:
    """Whether this comes true within so many seconds: generous, as other tests run beside it."""
    late = time.monotonic() + seconds
    while not (now := true()) and time.monotonic() < late:
        time.sleep(0.01)
    return bool(now)
