"""Why two parts of a federation make different plans: what their owners declare differently.

Names words of descriptions and policies, and columns; no value of either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from compute.dataset import DatasetInfo
from policy_enforcer.model import Policy
from policy_enforcer.obligations import Obligations, obligations

_DESCRIBED = ("type", "nullable", "scale", "bounds")
"""What a description says of a column that sums depend on; each is a field of `Column`."""

_OF_COLUMNS = {"domains": "domains", "bounds": "bounds", "masking": "mask"}
_OF_POLICIES = {
    "identity": "identity",
    "rows_per_identity": "max_rows_per_identity",
    "cells_per_identity": "max_cells_per_identity",
    "suppressions_hidden": "suppressions",
    "noise": "noise or honest_participants",
}
"""A field of `Obligations` -> the policy's word for it."""


class Published(Protocol):
    """An agreement, or an offer of our own."""

    @property
    def dataset(self) -> DatasetInfo:
        """As it is described."""
        ...

    @property
    def policy(self) -> Policy:
        """As it is agreed, or offered."""
        ...


def unlike(columns: Iterable[str], one: Published, other: Published) -> list[str]:
    """What the two say differently of these columns, and of what is demanded of every answer."""
    first, second = obligations(one.policy), obligations(other.policy)
    names = {*columns, *(d.identity for d in (first, second) if d.identity is not None)}
    said = [f"{word} of {name}" for name in sorted(names) for word in _words(name, one, other, first, second)]
    return said + [w for field, w in _OF_POLICIES.items() if getattr(first, field) != getattr(second, field)]


def _words(name: str, one: Published, other: Published, first: Obligations, second: Obligations) -> list[str]:
    """What is said differently of one column, each word once."""

    def words() -> Iterator[str]:
        mine, theirs = one.dataset.column(name), other.dataset.column(name)
        yield from (word for word in _DESCRIBED if getattr(mine, word, None) != getattr(theirs, word, None))
        for field, word in _OF_COLUMNS.items():
            if getattr(first, field).get(name) != getattr(second, field).get(name):
                yield word

    return list(dict.fromkeys(words()))
