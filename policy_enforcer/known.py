"""In which ways a column becomes known to whom: the lattice of `column_disclosure`.

A recipient is allowed a set of ways. Sets are ordered by inclusion: policies, and entries that fit the same
recipient, meet in what all of them allow. `never` is the empty set, `plaintext` holds every way, and who may
learn which of its values match may also take part in a join that hides it. An expression over several columns
is a use of each of them, so what is computed becomes known only where every column allows it.

Which ways a query takes follows from the facts and, for join keys, from the protocol's `reveals` alone. Over
a federation the connectors of the other participants learn totals, so they are judged like recipients.
Refuses: a recipient whom a column's entries do not name, a way that one of those that do does not name, and
participants of a federation who are not known.
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


def overheard(use: ColumnUse, kind: str, reveals: Iterable[Disclosure]) -> Ways:
    """The ways in which another participant of a federation learns of a column by this use.

    Totals of identities, and of the steps of a fit, are figures like those of the result: over the same
    columns, of the same groups, of the rows that the same comparisons leave.
    """
    told = any(event.to is Party.SENDER for event in reveals)
    return taken(use, kind, (), takes_part=False) if told else frozenset()


def becomes_known(
    use: ColumnUse,
    kind: str,
    reveals: Iterable[Disclosure],
    asker: str,
    recipients: Iterable[str],
    others: Iterable[str] = (),
) -> dict[str, tuple[str, ...]]:
    """Who learns of a column by this use in which ways: recipients, the asker, `others` of a federation."""
    reveals, receiving = tuple(reveals), {*recipients, asker}
    found = {who: taken(use, kind, reveals, takes_part=who == asker) for who in receiving}
    found |= {who: overheard(use, kind, reveals) for who in {*others} - receiving}
    return {who: tuple(sorted(ways)) or ("never",) for who, ways in sorted(found.items())}


def unseen(policy: Policy, request: Request) -> Iterator[Reason]:
    """Why a column of this request must not become known to somebody who would learn of it."""
    kind, reveals = request.kind, request.protocol.reveals
    receiving = (request.recipients | {request.asker}) - {request.owner}
    for who in sorted(receiving):
        for use in request.columns:
            ways = taken(use, kind, reveals, takes_part=who == request.asker)
            yield from _exceeding(policy, request, who, use, ways)
    others = request.federation.others if request.federation is not None else frozenset()
    for who in sorted(others - receiving):
        for use in request.columns:
            yield from _exceeding(policy, request, who, use, overheard(use, kind, reveals))
    yield from _unnamed(policy, request)


def _exceeding(policy: Policy, request: Request, who: str, use: ColumnUse, ways: Ways) -> Iterator[Reason]:
    allowed = tolerated(policy, use.column, {who, *request.standing.get(who, ())})
    for way in sorted(ways - allowed):
        yield _reason(use, f"to {who} {SPOKEN[way]}", f"{who}: {', '.join(sorted(allowed)) or 'never'}")


def _unnamed(policy: Policy, request: Request) -> Iterator[Reason]:
    """A limited column, and participants of a federation who are not all known."""
    asked = request.federation
    if asked is None or len(asked.others) == asked.participants - 1:
        return
    for use in request.columns:
        if use.column in policy.analysis.column_disclosure:
            yield _reason(use, "to participants of whom it is not known who they are", "participants by name")


def _reason(use: ColumnUse, how: str, allowed: str) -> Reason:
    sentence, rule = f"{use.column} would become known {how}", "analysis.column_disclosure"
    return Reason("disclosure.not-allowed", rule, sentence, use.column, allowed)


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
