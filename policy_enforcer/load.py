"""Policy text to `Policy`, or every problem with its line, key and a suggestion. Takes text, reads no file.

Refuses whatever it does not understand: a policy is loaded whole or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pydantic import ValidationError

from policy_enforcer import check
from policy_enforcer.explained import explained
from policy_enforcer.model import Policy
from policy_enforcer.problems import Path, PolicyError, Problem, closest
from policy_enforcer.transfer_lists import named_lists
from policy_enforcer.yamltree import Tree, parse


def load(text: str, source: str = "policy") -> Policy:
    """Return the policy that `text` says; `PolicyError` lists everything that is wrong with it."""
    policy, problems = _read(parse(text))
    if policy is None or problems:
        raise PolicyError(source, problems)
    return policy


def lint(
    text: str,
    columns: Collection[str] | None = None,
    categories: Mapping[str, str | None] | None = None,
    grades: Mapping[str, int | None] | None = None,
) -> tuple[Problem, ...]:
    """Errors and warnings, in the order of the text.

    columns: the dataset's, to find misspelt ones; categories: theirs, which lists of the law go by; grades.
    """
    tree = parse(text)
    policy, problems = _read(tree)
    if policy is not None:
        problems += [_placed(finding, tree, warning=True) for finding in check.warnings(policy)]
        problems += [_placed(finding, tree) for finding in _missing_columns(policy, columns)]
        unsorted = (*_uncategorised(policy, categories or {}), *_ungraded(policy, grades or {}))
        problems += [_placed(finding, tree, warning=True) for finding in unsorted]
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))


def _read(tree: Tree) -> tuple[Policy | None, list[Problem]]:
    if tree.problems:
        return None, tree.problems
    try:
        policy = Policy.model_validate(tree.data)
    except ValidationError as error:
        return None, explained(error, tree, Policy)
    found = (*check.errors(policy), *check.meaningless(policy))
    return policy, [_placed(finding, tree) for finding in found]


def _placed(finding: check.Finding, tree: Tree, *, warning: bool = False) -> Problem:
    line, column = tree.where(finding[1])
    return check.as_problem(finding, line=line, column=column, warning=warning)


def _missing_columns(policy: Policy, columns: Collection[str] | None) -> Iterator[check.Finding]:
    if columns is None:
        return
    for path, column in _named_columns(policy):
        if column not in columns and column != "*":
            instead = closest(column, columns) or "Describe its columns."
            yield "policy.unknown-column", path, "the dataset has no such column", instead


def _uncategorised(policy: Policy, categories: Mapping[str, str | None]) -> Iterator[check.Finding]:
    for path, column in _named_columns(policy) if named_lists(policy) else ():
        if column in categories and categories[column] is None:
            sentence = "the column has no category, so no list lets it leave"
            yield "policy.advice", path, sentence, "Add `category` to it in the dataset's description."


def _ungraded(policy: Policy, grades: Mapping[str, int | None]) -> Iterator[check.Finding]:
    if policy.transfer is None or policy.transfer.grade_at_most is None:
        return
    for path, column in _named_columns(policy):
        if column in grades and grades[column] is None:
            sentence = "the column has no grade, so `grade_at_most` refuses it"
            yield "policy.advice", path, sentence, "Add `grade` to it in the dataset's description."


def _named_columns(policy: Policy) -> Iterator[tuple[Path, str]]:
    analysis = policy.analysis
    for word in ("dimensions", "payload", "filters", "measures", "bounds", "column_disclosure"):
        yield from ((("analysis", word, column), column) for column in getattr(analysis, word))
    yield from ((("masking", column), column) for column in policy.masking)
    if analysis.join is not None:
        yield from ((("analysis", "join", "columns", column), column) for column in analysis.join.columns)
    if analysis.identity is not None:
        yield ("analysis", "identity"), analysis.identity
