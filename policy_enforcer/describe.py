"""A policy for its readers: what each column may be used for, and what only people keep.

The matrix asks the very rules that decide, one column and one use at a time, so it cannot say anything
else than the decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, get_args

from policy_enforcer.columns import COLUMN_RULES, join_column
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party
from policy_enforcer.facts import ColumnUse
from policy_enforcer.known import Ways, taken, tolerated
from policy_enforcer.model import ANY, FilterKind, LogDuty, Measure, Policy
from policy_enforcer.transfer_lists import Found, column_reasons

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """What the parties of this policy may do with one column."""

    parties: tuple[str, ...]
    column: str
    grade: int | None
    joined: bool
    grouped: bool
    filtered: tuple[str, ...]  # in aggregates; in lists a dimension that is not in `payload` needs `filters`
    measured: tuple[str, ...]
    listed: bool
    weighted: bool
    known: tuple[str, ...] = ()  # in which ways it becomes known to them: words of `column_disclosure`
    mask: str | None = None  # what stands in for its values, for all of the above
    category: str | None = None  # what lists know it by

    @property
    def usable(self) -> bool:
        """True when anything at all may be done with it."""
        return bool(self.joined or self.grouped or self.filtered or self.measured or self.listed)


def matrix(
    policy: Policy,
    grades: Mapping[str, int | None],
    categories: Mapping[str, str | None] = _NOTHING,
    lists: Found = _NOTHING,
) -> tuple[MatrixRow, ...]:
    """One row per column of the dataset, plus one for counting rows; more where recipients differ.

    grades, categories: by column, as its owner declares them; lists: what the policy's lists say.
    """
    columns = {column: (grade, categories.get(column)) for column, grade in grades.items()}
    asked = {**columns, "*": (0, None)}
    return tuple(
        _row(policy, column, *declared, lists, parties, tolerates)
        for column, declared in asked.items()
        for tolerates, parties in _audiences(policy, column).items()
    )


def _audiences(policy: Policy, column: str) -> dict[Ways, tuple[str, ...]]:
    """The parties of a policy by how the column may become known to them."""
    entries = policy.analysis.column_disclosure.get(column, {})
    named = [who for who in entries if ":" in who or policy.assignee == ANY]
    found: dict[Ways, tuple[str, ...]] = {}
    for who in dict.fromkeys((*policy.assignee, *named)):
        tolerates = tolerated(policy, column, {who})
        found[tolerates] = (*found.get(tolerates, ()), who)
    return found


def _row(
    policy: Policy,
    column: str,
    grade: int | None,
    category: str | None,
    lists: Found,
    parties: tuple[str, ...],
    tolerates: Ways,
) -> MatrixRow:
    leaves = column == "*" or (
        _graded(policy, grade) and not any(column_reasons(policy, column, category, lists))
    )

    known = set[str]()

    def may(**uses: Any) -> bool:
        use = ColumnUse(column, **uses)
        ways = [taken(use, "aggregate", reveals, takes_part=True) for reveals in _protocols(policy)]
        bearable = [found for found in ways if found <= tolerates]
        permitted = leaves and bool(bearable) and _permitted(policy, use)
        known.update(*bearable if permitted else ())
        return permitted

    aggregates = "aggregate" in policy.analysis.kinds  # a list has neither groups nor figures
    measured = tuple(m for m in get_args(Measure) if aggregates and may(aggregated=frozenset({m})))
    row = MatrixRow(
        parties=parties,
        column=column,
        grade=None if column == "*" else grade,
        category=category,
        joined=may(joined=True),
        grouped=aggregates and may(grouped=True),
        filtered=tuple(kind for kind in get_args(FilterKind) if may(filtered=frozenset({kind}))),
        measured=measured,
        listed=may(listed=True),
        mask=policy.masking.get(column),
        weighted=bool(measured) and may(weighted=True, aggregated=frozenset(measured)),
    )
    return replace(row, known=tuple(sorted(known)) or ("never",))


def _protocols(policy: Policy) -> tuple[tuple[Disclosure, ...], ...]:
    """What the strictest and the loosest protocol reveal to the asker that the policy tolerates."""
    join = policy.analysis.join
    matches = join is not None and Level.parse(join.disclosure) >= Level.RECEIVER
    return ((), (Disclosure(Party.RECEIVER, Fact.OWN_MATCHES),)) if matches else ((),)


def declared(policy: Policy) -> dict[str, str]:
    """What a policy states and no software enforces, by its place in the policy: people keep it."""
    transfer, conditions = policy.transfer, policy.conditions
    said = {f"transfer.{word}": getattr(transfer, word, None) for word in ("basis", "filing")}
    named = conditions.declared if conditions is not None else None
    for word in ("application", "event", "state"):
        said[f"conditions.declared.{word}"] = getattr(named, word, None)
    for duty in policy.duties:
        if not isinstance(duty, LogDuty):
            words = duty.model_dump(exclude={"declared"}).values()
            said[f"duties.{duty.word}"] = " after ".join(words)
    return {place: text for place, text in said.items() if text is not None}


def _graded(policy: Policy, grade: int | None) -> bool:
    most = policy.transfer.grade_at_most if policy.transfer else None
    return most is None or (grade is not None and grade <= most)


def _permitted(policy: Policy, use: ColumnUse) -> bool:
    return not any(reason for rule in (*COLUMN_RULES, join_column) for reason in rule(policy, use))
