"""How much of a run is the kernel: every call into Rust is timed, from outside, for `--profile`.

What remains of the wall time is DuckDB's local part, and Python with its copies. Timing wraps the functions
and classes of `compute._native` while a run lasts; nothing of it exists otherwise.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from compute import _native


@contextmanager
def kernel_seconds() -> Iterator[Counter[str]]:
    """Wall seconds of each kernel function called inside, by name."""
    spent: Counter[str] = Counter()
    before = dict(vars(_native))
    for name, value in before.items():
        if callable(value) and not (isinstance(value, type) and issubclass(value, BaseException)):
            setattr(_native, name, _timed(value, name, spent))
    try:
        yield spent
    finally:
        for name, value in before.items():
            setattr(_native, name, value)


class _Object:
    """An object of the kernel whose methods are timed."""

    def __init__(self, inner: Any, name: str, spent: Counter[str]) -> None:
        self._inner, self._name, self._spent = inner, name, spent

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return _timed(found, f"{self._name}.{name}", self._spent) if callable(found) else found


def _timed(function: Callable[..., Any], name: str, spent: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        bare = [a._inner if isinstance(a, _Object) else a for a in arguments]  # noqa: SLF001
        start = time.perf_counter()
        result = function(*bare, **named)
        spent[name] += time.perf_counter() - start  # type: ignore[assignment]  # typed for whole numbers
        return _Object(result, name, spent) if type(result).__module__ == _native.__name__ else result

    return call
