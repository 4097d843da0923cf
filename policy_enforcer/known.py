"""In which ways a column becomes known to whom: the lattice of `column_disclosure`.

A recipient is allowed a set of ways. Sets are ordered by inclusion: policies, and entries that fit the same
recipient, meet in what all of them allow. `never` is the empty set, `plaintext` holds every way, and who may
learn which of its values match may also take part in a join that hides it. An expression over several columns
is a use of each of them, so what is computed becomes known only where every column allows it.

Which ways a query takes follows from the facts and, for join keys, from the protocol's `reveals` alone.
Refuses: a recipient whom a column's entries do not name, and a way that one of those that do does not name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import get_args

from policy_enforcer.disclosure import Disclosure, Fact, Party
from policy_enforcer.facts import ColumnUse, Reason, Request
from policy_enforcer.model import ANY, KnownWay, Policy

Ways = frozenset[str]

WAYS: Ways = frozenset(get_args(KnownWay)) - {"plaintext", "never"}
"""Every single way; what a word allows is a set of them."""

_IMPLIED: Mapping[str, Ways] = MappingProxyType(
    {"plaintext": WAYS, "never": frozenset(), "after-join": frozenset({"after-join", "join-hidden"})}
)


def allowed_by(words: Iterable[str]) -> Ways:
    """What a list of words allows: all that one of them does."""
    return frozenset(way for word in words for way in _IMPLIED.get(word, frozenset({word})))


def tolerated(policy: Policy, column: str, names: Iterable[str]) -> Ways:
    """How the column may become known to a recipient with these names (id, roles, claims): the meet.

    Not limited at all where the policy has no entry for the column.
    """
    entries = policy.analysis.column_disclosure.get(column)
    if entries is None:
        return WAYS
    known = {*names, *ANY}
    fitting = [allowed_by(words) for name, words in entries.items() if name in known]
    return frozenset.intersection(*fitting) if fitting else frozenset()


def taken(use: ColumnUse, kind: str, reveals: Iterable[Disclosure], *, takes_part: bool) -> Ways:
    """The ways in which a recipient learns of a column by this use.

    takes_part: its connector runs the protocol and learns what that reveals; others see the result alone.
    """
    events = {event.fact for event in reveals if event.to is Party.RECEIVER}
    matches = kind == "list" or (takes_part and bool(events & {Fact.OWN_MATCHES, Fact.MATCHED_ROWS}))
    compared = use.filtered or use.compared_with_literal or use.compared_with_column
    found = {
        "as-join-payload": use.listed,
        "after-join": use.joined and matches,
        "join-hidden": use.joined and not matches,
        "after-group-by": use.grouped,
        "after-aggregate": use.aggregated or use.weighted,
        "after-compare": compared or use.conditional or use.selecting,
    }
    return frozenset(way for way, holds in found.items() if holds)


def becomes_known(
    use: ColumnUse, kind: str, reveals: Iterable[Disclosure], asker: str, recipients: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Who learns of a column by this use in which ways: every recipient, and the asker by its connector."""
    return {
        who: tuple(sorted(taken(use, kind, reveals, takes_part=who == asker))) or ("never",)
        for who in sorted({*recipients, asker})
    }


def unseen(policy: Policy, request: Request) -> Iterator[Reason]:
    """Why a column of this request must not become known to its asker or one of its recipients."""
    reveals = request.protocol.reveals
    for who in sorted((request.recipients | {request.asker}) - {request.owner}):
        names = {who, *request.standing.get(who, ())}
        for use in request.columns:
            allowed = tolerated(policy, use.column, names)
            for way in sorted(taken(use, request.kind, reveals, takes_part=who == request.asker) - allowed):
                yield Reason(
                    "disclosure.not-allowed",
                    "analysis.column_disclosure",
                    f"{use.column} would become known to {who} {SPOKEN[way]}",
                    use.column,
                    f"{who}: {', '.join(sorted(allowed)) or 'never'}",
                )


SPOKEN: Mapping[str, str] = MappingProxyType(
    {
        "as-join-payload": "as values of matching rows",
        "after-join": "by which of its own values match",
        "join-hidden": "by a join, though not which values match",
        "after-group-by": "as labels of groups",
        "after-aggregate": "in figures over it",
        "after-compare": "by a comparison with it",
        "rank-only": "by its order",
    }
)
