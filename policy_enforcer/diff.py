"""What a new version of a policy allows, forbids, or changes otherwise.

INVARIANT: whatever the new version permits and the old one refused has a sentence in `allowed` or `other`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType

from pydantic import BaseModel

from policy_enforcer.describe import MatrixRow, declared, matrix
from policy_enforcer.disclosure import Level
from policy_enforcer.known import allowed_by
from policy_enforcer.model import ANY, Federation, Policy, Uses, plain
from policy_enforcer.moments import end_instant, first_instant
from policy_enforcer.obligations import obligations


@dataclass(slots=True)
class Diff:
    """Sentences. `other` is neither looser nor tighter: what only law enforces, and incomparable limits."""

    allowed: list[str] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """True when both versions say the same, their names aside."""
        return not (self.allowed or self.forbidden or self.other)


def diff(old: Policy, new: Policy) -> Diff:
    """Compare two versions of a policy for one dataset."""
    result = Diff()
    _compare_choices(result, old, new)
    _compare_grants(result, old, new)
    _compare_limits(result, old, new)
    for word in ("count", "rows", "bytes"):
        _compare_allowance(result, word, old.uses, new.uses)
    _compare_named(result, old, new)
    _compare_companions(result, old.analysis.federation, new.analysis.federation)
    _compare_known(result, old.analysis.column_disclosure, new.analysis.column_disclosure)
    for label, part in _OTHERS.items():
        result.other += _differences(label, part(old), part(new))
    return result


# -- choices: a closed list, or no limit at all

_CHOICES: Mapping[str, tuple[str, Callable[[Policy], Collection[str] | None]]] = MappingProxyType(
    {
        "asking by": ("anybody", lambda p: None if p.assignee == ANY else p.assignee),
        "purpose": ("anything", lambda p: None if p.purpose == ANY else p.purpose),
        "processing in": ("any place", lambda p: p.where.processing if p.where else None),
        "recipients in": ("any place", lambda p: p.where.recipients if p.where else None),
        "a connector with": ("any key", lambda p: p.conditions.connectors if p.conditions else None),
        "a question that is": ("any", lambda p: p.analysis.templates or None),
    }
)


def _compare_choices(result: Diff, old: Policy, new: Policy) -> None:
    for label, (unlimited, named) in _CHOICES.items():
        _compare_choice(result, f"{label} {unlimited} but", label, named(old), named(new))


def _compare_choice(
    result: Diff, rest: str, label: str, old: Collection[str] | None, new: Collection[str] | None
) -> None:
    if old is None and new is not None:
        result.forbidden.append(f"{rest} {', '.join(sorted(new))}")
    elif old is not None and new is None:
        result.allowed.append(f"{rest} {', '.join(sorted(old))}")
    elif old is not None and new is not None:
        result.allowed += [f"{label} {name}" for name in sorted(set(new) - set(old))]
        result.forbidden += [f"{label} {name}" for name in sorted(set(old) - set(new))]


def _compare_companions(result: Diff, old: Federation | None, new: Federation | None) -> None:
    """Who and how many may stand beside the dataset, where both versions take part in a federation."""
    if old is None or new is None:
        return
    label = "standing beside it in a federation:"
    _compare_choice(result, f"{label} anybody but", label, old.participants, new.participants)
    was, becomes = old.minimum_participants, new.minimum_participants
    if was != becomes:
        sentence = f"participants behind a group of a federation: {was} becomes {becomes}"
        (result.allowed if becomes < was else result.forbidden).append(sentence)
    result.other += _differences("analysis.federation.scope", old.scope, new.scope)


# -- grants: what a column, function or kind may be used for


def _columns(policy: Policy) -> Iterator[str]:
    analysis = policy.analysis
    yield from (*analysis.dimensions, *analysis.filters, *analysis.measures, *analysis.payload)
    yield from analysis.join.columns if analysis.join else ()


def _compare_grants(result: Diff, old: Policy, new: Policy) -> None:
    columns = {*_columns(old), *_columns(new)}
    before, after = set(_grants(old, columns)), set(_grants(new, columns))
    result.allowed += sorted(after - before)
    result.forbidden += sorted(before - after)


def _grants(policy: Policy, columns: Collection[str]) -> Iterator[str]:
    analysis = policy.analysis
    yield from (f"{kind} analyses" for kind in analysis.kinds)
    yield from (f"the scalar function {name}" for name in analysis.scalar_functions)
    operators = analysis.join.operators if analysis.join else ()
    yield from (f"join conditions combined with {word}" for word in operators)
    if analysis.federation is not None:
        yield f"taking part in the federation {analysis.federation.name}"
    else:
        yield "questions over this dataset without a federation"
    # grades and recipients are limits of their own, below
    alike = analysis.model_copy(update={"column_disclosure": {}})
    ungraded = policy.model_copy(update={"transfer": None, "analysis": alike})
    for row in matrix(ungraded, dict.fromkeys(sorted({*columns} - {"*"}))):
        yield from _row_grants(row)


def _row_grants(row: MatrixRow) -> Iterator[str]:
    name = "rows" if row.column == "*" else row.column if row.mask is None else f"{row.column} ({row.mask})"
    yield from (f"{name} may be {use}" for use in ("joined", "grouped", "listed") if getattr(row, use))
    yield from (f"{name} may be filtered by {kind}" for kind in row.filtered)
    yield from (f"{name} may be measured by {measure}" for measure in row.measured)


# -- limits: a rank in which more is looser, and how to show the limit

Limit = tuple[Callable[[Policy], float], Callable[[Policy], object]]


def _compare_limits(result: Diff, old: Policy, new: Policy) -> None:
    for label, (rank, show) in _LIMITS.items():
        was, becomes = rank(old), rank(new)
        if was != becomes:
            sentence = f"{label}: {show(old)} becomes {show(new)}"
            (result.allowed if becomes > was else result.forbidden).append(sentence)


def _most(number: int | None) -> float:
    return math.inf if number is None else number


def _begins(policy: Policy) -> float:
    start = policy.when.start if policy.when else None
    return math.inf if start is None else -first_instant(start).timestamp()


def _ends(policy: Policy) -> float:
    until = policy.when.until if policy.when else None
    return math.inf if until is None else end_instant(until).timestamp()


def _grade(policy: Policy) -> int | None:
    return policy.transfer.grade_at_most if policy.transfer else None


def _security_level(policy: Policy) -> int:
    return (policy.conditions and policy.conditions.security_level) or 0


def _disclosure(policy: Policy) -> float:
    join = policy.analysis.join
    return -1 if join is None else Level.parse(join.disclosure)


def _needs_asker(policy: Policy) -> bool:
    return bool(policy.analysis.join and policy.analysis.join.required)


def _shares(policy: Policy) -> int:
    noise = obligations(policy).noise
    return 1 if noise is None else noise.shares


_LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "from": (_begins, lambda p: (p.when and p.when.start) or "always"),
        "until": (_ends, lambda p: (p.when and p.when.until) or "no end"),
        "concurrent queries": (
            lambda p: _most(p.uses.max_concurrent if p.uses else None),
            lambda p: (p.uses and p.uses.max_concurrent) or "any number",
        ),
        "security level": (
            lambda p: -_security_level(p),
            lambda p: _security_level(p) or "none",
        ),
        "grade of a column": (
            lambda p: _most(_grade(p)),
            lambda p: "any" if _grade(p) is None else _grade(p),
        ),
        "disclosure of join keys": (
            _disclosure,
            lambda p: p.analysis.join.disclosure if p.analysis.join else "no join",
        ),
        "joining the asker's own data": (
            lambda p: not _needs_asker(p),
            lambda p: "required" if _needs_asker(p) else "not required",
        ),
        "weights of the asker": (
            lambda p: p.analysis.weighted,
            lambda p: "allowed" if p.analysis.weighted else "refused",
        ),
        "conditions inside aggregates": (
            lambda p: p.analysis.conditional,
            lambda p: "allowed" if p.analysis.conditional else "refused",
        ),
        "participants whose noise is ours": (_shares, lambda p: _shares(p) if _shares(p) > 1 else "none"),
        "keys of the other side": (
            lambda p: _most(p.analysis.maximum_peer_keys),
            lambda p: p.analysis.maximum_peer_keys or "any number",
        ),
        "minimum of identities": (
            lambda p: -(p.analysis.minimum_identities or 0),
            lambda p: p.analysis.minimum_identities or "none",
        ),
        "witnesses": (lambda p: -obligations(p).witnesses, lambda p: obligations(p).witnesses),
    }
)


# -- how much may be asked and answered: comparable where both versions count over the same period


def _compare_allowance(result: Diff, word: str, old: Uses | None, new: Uses | None) -> None:
    was, becomes = (_allowance(uses, word) for uses in (old, new))
    if was == becomes:
        return
    shown = [f"{number} per {per}" if number else "any number" for number, per in (was, becomes)]
    sentence = f"uses.{word}: {shown[0]} becomes {shown[1]}"
    if was[0] is not None and becomes[0] is not None and was[1] != becomes[1]:
        result.other.append(sentence)
    else:
        (result.allowed if _most(becomes[0]) > _most(was[0]) else result.forbidden).append(sentence)


def _allowance(uses: Uses | None, word: str) -> tuple[int | None, str | None]:
    number = getattr(uses, word, None)
    return (number, uses.per if uses is not None and number is not None else None)


# -- who learns of a column: entries meet, so a further one may limit those whom another fits as well


Audiences = Mapping[str, Mapping[str, Collection[str]]]


def _compare_known(result: Diff, old: Audiences, new: Audiences) -> None:
    for column in sorted({*old, *new}):
        was, becomes = old.get(column), new.get(column)
        if was is None and becomes is not None:
            result.forbidden.append(f"{column} becomes known to nobody but {_audience(becomes)}")
        elif was is not None and becomes is None:
            result.allowed.append(f"{column} becomes known to others than {_audience(was)}")
        if was is not None and becomes is not None:
            for who in sorted({*was, *becomes}):
                _compare_ways(result, f"{column} known to {who}", was.get(who), becomes.get(who))


def _audience(entries: Mapping[str, Collection[str]]) -> str:
    return "; ".join(f"{who} ({', '.join(entries[who])})" for who in sorted(entries))


def _compare_ways(result: Diff, label: str, old: Collection[str] | None, new: Collection[str] | None) -> None:
    if old is None or new is None:
        changed = old != new
        words = [", ".join(ways) if ways is not None else "not named" for ways in (old, new)]
        result.other += [f"{label}: {words[0]} becomes {words[1]}"] if changed else []
        return
    before, after = allowed_by(old), allowed_by(new)
    result.allowed += [f"{label}: {way}" for way in sorted(after - before)]
    result.forbidden += [f"{label}: {way}" for way in sorted(before - after)]


# -- limits without an order: naming one forbids, taking it away allows, another one may go either way


def _compare_named(result: Diff, old: Policy, new: Policy) -> None:
    for label, (named, forbids) in _NAMED.items():
        was, becomes = named(old), named(new)
        if was is not None and becomes is not None:
            result.other += _differences(label, was, becomes)
        elif was != becomes:
            sentence = f"{label}: {_written(was)} becomes {_written(becomes)}"
            (result.forbidden if (was is None) == forbids else result.allowed).append(sentence)


Part = Callable[[Policy], object]


def _transfer(word: str) -> Part:
    return lambda policy: getattr(policy.transfer, word, None)


def _analysis(word: str) -> Part:
    return lambda policy: getattr(policy.analysis, word)


_NAMED: Mapping[str, tuple[Part, bool]] = MappingProxyType(
    {
        "when.elapsed": (lambda p: p.when.elapsed if p.when else None, True),
        "transfer.consent": (_transfer("consent"), True),
        "transfer.whitelist": (_transfer("whitelist"), True),
        "transfer.negative_list": (_transfer("negative_list"), True),
        "transfer.low_risk": (_transfer("low_risk"), False),
        "analysis.identity": (_analysis("identity"), True),
        "analysis.dominance": (_analysis("dominance"), True),
        "analysis.suppressions": (_analysis("suppressions"), True),
        "analysis.differencing": (_analysis("differencing"), True),
        "analysis.max_rows_per_identity": (_analysis("max_rows_per_identity"), True),
        "analysis.max_cells_per_identity": (_analysis("max_cells_per_identity"), True),
    }
)
"""Words, and whether naming one where none was named forbids."""


# -- the rest: any change is worth a look

_OTHERS: Mapping[str, Part] = MappingProxyType(
    {
        "dataset": lambda p: p.dataset,
        "analysis.bounds": _analysis("bounds"),
        "analysis.domains": _analysis("domains"),
        "analysis.noise": _analysis("noise"),
        "masking": lambda p: p.masking,
        "declared": declared,
    }
)


def _differences(place: str, old: object, new: object) -> Iterator[str]:
    """A sentence for each word below that is another one."""
    if _has_words(old) or _has_words(new):
        before, after = _words_of(old), _words_of(new)
        for word in dict.fromkeys((*before, *after)):
            yield from _differences(f"{place}.{word}", before.get(word), after.get(word))
    elif old != new:
        yield f"{place}: {_written(old)} becomes {_written(new)}"


def _has_words(value: object) -> bool:
    return isinstance(value, BaseModel | Mapping)


def _words_of(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, BaseModel | Mapping) else {}


def _written(value: object) -> str:
    """As YAML writes it on one line."""
    if value is None or value == ():
        return "none"
    if isinstance(value, BaseModel | Mapping):
        words = ((word, item) for word, item in dict(value).items() if item is not None)
        return "{" + ", ".join(f"{word}: {_written(item)}" for word, item in words) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return plain(value) if isinstance(value, Decimal) else str(value)
