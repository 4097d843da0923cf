"""A step that a thread repeats until it is closed. Refuses to end because a step failed: it tries again."""

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Background:
    """Repeats `step`, which returns the seconds to wait before the next one, or None when there is none.

    A step that raises is tried again after `pause` seconds; `trouble` says in the log what does not work.
    """

    def __init__(self, name: str, step: Callable[[], float | None], trouble: str, pause: float) -> None:
        self._step, self._trouble, self._pause = step, trouble, pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, after the step under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def stopping(self) -> bool:
        """Whether a long step should come to its end."""
        return self._stop.is_set()

    def _run(self) -> None:
        wait: float | None = 0.0
        while wait is not None and not self._stop.wait(wait):
            wait = self._once()

    def _once(self) -> float | None:
        try:
            return self._step()
        except Exception as error:  # noqa: BLE001  a full disk or a busy database, say; nothing else would go on
            _log.error("%s: %s", self._trouble, type(error).__name__)
            return self._pause
