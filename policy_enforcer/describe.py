"""A policy for its readers: what each column may be used for.

The matrix asks the very rules that decide, one column and one use at a time, so it cannot say anything
else than the decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, get_args

from policy_enforcer.columns import COLUMN_RULES, join_column
from policy_enforcer.facts import ColumnUse
from policy_enforcer.model import FilterKind, Measure, Policy
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
    """One row per column of the dataset, plus one for counting rows.

    grades, categories: by column, as its owner declares them; lists: what the policy's lists say.
    """
    columns = {column: (grade, categories.get(column)) for column, grade in grades.items()}
    rows = (_row(policy, column, *declared, lists) for column, declared in columns.items())
    return (*rows, _row(policy, "*", 0, None, lists))


def _row(policy: Policy, column: str, grade: int | None, category: str | None, lists: Found) -> MatrixRow:
    leaves = column == "*" or (
        _graded(policy, grade) and not any(column_reasons(policy, column, category, lists))
    )

    def may(**use: Any) -> bool:
        return leaves and _permitted(policy, ColumnUse(column, **use))

    measured = tuple(m for m in get_args(Measure) if may(aggregated=frozenset({m})))
    return MatrixRow(
        parties=policy.assignee,
        column=column,
        grade=None if column == "*" else grade,
        category=category,
        joined=may(joined=True),
        grouped=may(grouped=True),
        filtered=tuple(kind for kind in get_args(FilterKind) if may(filtered=frozenset({kind}))),
        measured=measured,
        listed=may(listed=True),
        mask=policy.masking.get(column),
        weighted=bool(measured) and may(weighted=True, aggregated=frozenset(measured)),
    )


def _graded(policy: Policy, grade: int | None) -> bool:
    most = policy.transfer.grade_at_most if policy.transfer else None
    return most is None or (grade is not None and grade <= most)


def _permitted(policy: Policy, use: ColumnUse) -> bool:
    return not any(reason for rule in (*COLUMN_RULES, join_column) for reason in rule(policy, use))
