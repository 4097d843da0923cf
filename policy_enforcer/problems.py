"""What is wrong with a policy text, where, and what to write instead. Every message is for its author."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

Path = tuple[str | int, ...]
"""A place in a policy: ("analysis", "measures", "amount", 0)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. `line` and `column` count from 1; 0 where there is no text (a policy read from ODRL)."""

    code: str
    sentence: str
    path: str = ""
    line: int = 0
    column: int = 0
    suggestion: str | None = None
    warning: bool = False

    def __str__(self) -> str:
        place = f"{self.line}:{self.column}: " if self.line else ""
        key = f"{self.path}: " if self.path else ""
        hint = f" {self.suggestion}" if self.suggestion else ""
        return f"{place}{'warning: ' if self.warning else ''}{key}{self.sentence}.{hint} [{self.code}]"


class PolicyError(Exception):
    """This policy cannot be loaded. Nothing of it is in force."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(f"{source}:{problem}" for problem in problems))
        self.source = source
        self.problems = tuple(problems)


def dotted(path: Path) -> str:
    """`analysis.measures.amount[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def closest(word: str, known: Iterable[str]) -> str | None:
    """`Did you mean 'dimensions'?` or the list of what is known."""
    words = sorted(known)
    near = get_close_matches(word, words, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known here: {', '.join(words)}." if words else None
