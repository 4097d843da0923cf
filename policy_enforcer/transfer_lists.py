"""White list, negative list, low-risk catalogue: which categories of data may leave a jurisdiction.

    whitelist      only these leave: the scope of a filed standard contract, of an assessment that was passed,
                   of a general data list
    negative_list  these do not leave: a free-trade zone's list of what still needs an assessment, a contract
                   or a certification (Provisions on Promoting and Regulating Cross-Border Data Flows of 22
                   March 2024, article 6); whatever is not on it is exempt from the three
    low_risk       these leave although the white list lacks them; never against the negative list

A policy names a list by digest; its content comes as a fact. Refuses a list that is missing, not verified, of
another kind, not in force, about another jurisdiction or destination, and a column without a category.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from unicodedata import normalize

from policy_enforcer.facts import Reason, Request, TransferList
from policy_enforcer.model import OF_THEIR_OWN, Policy
from policy_enforcer.moments import end_instant, first_instant
from policy_enforcer.references import LIST_WORDS, name_of

Found = Mapping[str, TransferList | str]
"""By reference: the list, or the code of the reason why it is not to be trusted."""

UNTRUSTED: Mapping[str, str] = MappingProxyType(
    {
        "list.missing": "is not at hand, or is no list document",
        "list.signature": "is not signed by the keys of its issuer",
        "list.issuer": "is issued by nobody whom the space's operator certifies as role:list-issuer",
    }
)

_TRUSTED: Mapping[str, str] = MappingProxyType(
    {
        "list.missing": "an offer that its owner makes anew with the list beside the policy",
        "list.signature": "a list that its issuer signs anew, with every key that it has",
        "list.issuer": "a list of an issuer whom the operator certifies: bayspace space certify",
    }
)
"""What would make a list trusted, and who can see to it."""


LONGEST_CATEGORY = 128


def category(text: str) -> str:
    """Return `text` if it can be a category; `ValueError` otherwise. It is shown to people on both sides."""
    if not 0 < len(text) <= LONGEST_CATEGORY or not text.isprintable() or text != text.strip():
        raise ValueError("a category is 1 to 128 printable characters, no space around them")
    return text


def within(place: str, allowed: Collection[str]) -> bool:
    """A country covers its subdivisions, never the other way round; what has a code of its own is none."""
    return place in allowed or (place not in OF_THEIR_OWN and place.partition("-")[0] in allowed)


def named_lists(policy: Policy) -> dict[str, str]:
    """The lists that a policy names: word -> reference."""
    words = {word: getattr(policy.transfer, word) for word in LIST_WORDS} if policy.transfer else {}
    return {word: reference for word, reference in words.items() if reference is not None}


def list_reasons(policy: Policy, request: Request) -> Iterator[Reason]:
    """Why a list cannot be gone by, or keeps a column of this request from leaving."""
    unusable = [
        reason
        for word, reference in named_lists(policy).items()
        for reason in _unusable(word, reference, request.lists.get(reference, "list.missing"), request)
    ]
    yield from unusable
    if not unusable:
        for column in sorted({use.column for use in request.columns} - {"*"}):
            yield from column_reasons(policy, column, request.categories.get(column), request.lists)


def column_reasons(policy: Policy, column: str, category: str | None, lists: Found) -> Iterator[Reason]:
    """Why a column of this category does not leave. None does while a list is missing."""
    named = named_lists(policy)
    if not named:
        return
    scope, place = _Scope.of(named, lists), f"transfer.{min(named)}"
    if not all(isinstance(lists.get(reference), TransferList) for reference in named.values()):
        sentence = "a list that the policy names is not at hand"
        yield Reason("list.missing", place, sentence, column, _TRUSTED["list.missing"])
    elif category is None:
        sentence = f"the category of {column} is not declared"
        yield Reason(
            "category.unknown", place, sentence, column, "columns to which the owner gave a category"
        )
    elif alike(category) in scope.negative:
        sentence = f"{column} is of a category on the negative list: {category}"
        allowed = "columns of other categories, or another offer of the owner's"
        yield Reason("category.on-negative-list", "transfer.negative_list", sentence, column, allowed)
    elif scope.allowed is not None and category not in scope.allowed:
        sentence = f"{column} is of a category that the white list lacks: {category}"
        allowed = "columns of " + ", ".join(sorted(scope.allowed))
        yield Reason("category.not-on-whitelist", "transfer.whitelist", sentence, column, allowed)


@dataclass(frozen=True, slots=True)
class _Scope:
    """What the lists of a policy say together."""

    negative: frozenset[str]  # as `alike` writes them
    allowed: frozenset[str] | None  # None: there is no white list

    @classmethod
    def of(cls, named: Mapping[str, str], lists: Found) -> _Scope:
        found = {word: _categories(lists.get(reference)) for word, reference in named.items()}
        nothing: frozenset[str] = frozenset()
        white = found.get("whitelist")
        return cls(
            negative=frozenset(map(alike, found.get("negative_list", nothing))),
            allowed=None if white is None else white | found.get("low_risk", nothing),
        )


def alike(category: str) -> str:
    """Without case and width of letters: a slip in one of them takes nothing off a negative list."""
    return normalize("NFKC", category).casefold()


def _categories(found: TransferList | str | None) -> frozenset[str]:
    return found.categories if isinstance(found, TransferList) else frozenset()


def _unusable(word: str, reference: str, found: TransferList | str, request: Request) -> Iterator[Reason]:
    rule, name = f"transfer.{word}", name_of(reference)
    if isinstance(found, str):
        code = found if found in UNTRUSTED else "list.missing"
        yield Reason(code, rule, f"{name} {UNTRUSTED[code]}", allowed=_TRUSTED[code])
        return
    if found.kind != word:
        sentence = f"{name} is a list of another kind than the owner's policy names it as"
        yield Reason("list.kind", rule, sentence, allowed=f"transfer.{found.kind}")
    yield from _not_in_force(rule, name, found, request)
    yield from _elsewhere(rule, name, found, request)


def _not_in_force(rule: str, name: str, found: TransferList, request: Request) -> Iterator[Reason]:
    if request.at.tzinfo is None:
        yield Reason("time.unknown", rule, "the request's time has no time zone")
    elif request.at < first_instant(found.start):
        yield Reason("list.too-early", rule, f"{name} is not in force yet", allowed=f"from {found.start}")
    elif found.until is not None and request.at >= end_instant(found.until):
        yield Reason("list.expired", rule, f"{name} is out of date", allowed=f"until {found.until}")


def _elsewhere(rule: str, name: str, found: TransferList, request: Request) -> Iterator[Reason]:
    if not within(request.origin, {found.jurisdiction}):
        sentence = f"{name} is about data that leaves {found.jurisdiction}, where the owner is not"
        yield Reason("list.jurisdiction", rule, sentence, allowed=found.jurisdiction)
    reached = {found.jurisdiction, *found.recipients}
    places = request.processing | request.receiving
    known = bool(request.processing and request.receiving)
    if found.recipients and not (known and all(within(place, reached) for place in places)):
        sentence = f"{name} does not reach where the query is computed or its result goes"
        yield Reason("list.destination", rule, sentence, allowed=", ".join(sorted(reached)))
