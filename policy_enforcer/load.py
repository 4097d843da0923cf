"""Policy text to `Policy`, or every problem with its line, key and a suggestion. Takes text, reads no file.

Refuses whatever it does not understand: a policy is loaded whole or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from policy_enforcer import check
from policy_enforcer.model import DUTY_WORDS, Policy
from policy_enforcer.problems import Path, PolicyError, Problem, closest, dotted
from policy_enforcer.yamltree import Tree, parse


def load(text: str, source: str = "policy") -> Policy:
    """Return the policy that `text` says; `PolicyError` lists everything that is wrong with it."""
    policy, problems = _read(text)
    if policy is None or problems:
        raise PolicyError(source, problems)
    return policy


def lint(text: str, columns: Collection[str] | None = None) -> tuple[Problem, ...]:
    """Errors and warnings, in the order of the text. `columns`: the dataset's, to find misspelt ones."""
    policy, problems = _read(text)
    if policy is not None:
        tree = parse(text)
        problems += [_placed(finding, tree, warning=True) for finding in check.warnings(policy)]
        problems += [_placed(finding, tree) for finding in _missing_columns(policy, columns)]
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))


def _read(text: str) -> tuple[Policy | None, list[Problem]]:
    tree = parse(text)
    if tree.problems:
        return None, tree.problems
    try:
        policy = Policy.model_validate(tree.data)
    except ValidationError as error:
        return None, [_explained(details, tree) for details in error.errors(include_url=False)]
    return policy, [_placed(finding, tree) for finding in check.errors(policy)]


def _placed(finding: check.Finding, tree: Tree, *, warning: bool = False) -> Problem:
    line, column = tree.where(finding[1])
    return check.as_problem(finding, line=line, column=column, warning=warning)


def _missing_columns(policy: Policy, columns: Collection[str] | None) -> Iterator[check.Finding]:
    if columns is None:
        return
    for path, column in _named_columns(policy):
        if column not in columns and column != "*":
            yield "policy.unknown-column", path, "the dataset has no such column", closest(column, columns)


def _named_columns(policy: Policy) -> Iterator[tuple[Path, str]]:
    analysis = policy.analysis
    for word in ("dimensions", "payload", "filters", "measures", "bounds"):
        yield from ((("analysis", word, column), column) for column in getattr(analysis, word))
    if analysis.join is not None:
        yield from ((("analysis", "join", "columns", column), column) for column in analysis.join.columns)
    if analysis.identity is not None:
        yield ("analysis", "identity"), analysis.identity


def _explained(details: Any, tree: Tree) -> Problem:
    """One pydantic error as a problem in the author's words."""
    path = _as_written(details["loc"], tree.data)
    line, column = tree.where(path)
    code, sentence, suggestion = _words_for(details, path)
    return Problem(code, sentence, dotted(path), line, column, suggestion)


def _as_written(location: tuple[int | str, ...], data: Any) -> Path:
    """The part of pydantic's location that is in the text: it adds names of union members."""
    path: list[int | str] = []
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            continue
        path.append(part)
    missing = location[-1] if location and isinstance(data, dict) and location[-1] not in path else None
    return (
        (*path, missing) if isinstance(missing, str) and missing in _known_words(tuple(path)) else tuple(path)
    )


def _words_for(details: Any, path: Path) -> tuple[str, str, str | None]:
    kind, context, given = details["type"], details.get("ctx", {}), details["input"]
    if kind == "extra_forbidden":
        return (
            "policy.unknown-word",
            "this word is not in the policy language",
            closest(str(path[-1]), _known_words(path[:-1])),
        )
    if kind == "missing":
        return "policy.missing-word", f"{path[-1] if path else 'a word'!r} must be written", None
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return (
            "policy.unknown-word",
            "this duty is not in the policy language",
            f"Known here: {', '.join(DUTY_WORDS)}.",
        )
    if kind == "literal_error":
        return "policy.unknown-value", "this value is not in the policy language", _expected(context, given)
    if kind.endswith("_type"):
        return (
            "policy.wrong-type",
            f"this must be {_A_TYPE.get(kind, 'of another type')}",
            _list_hint(kind, given),
        )
    if kind == "value_error":
        return "policy.bad-value", str(context["error"]), None
    if kind == "string_pattern_mismatch":
        return (
            "policy.bad-value",
            "this is not written as such a name must be",
            f"It must match {context['pattern']}",
        )
    return "policy.bad-value", details["msg"], None


_A_TYPE = {
    "tuple_type": "a list",
    "string_type": "a word; put numbers and dates in quotes where a word is meant",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "model_type": "a group of words",
    "mapping_type": "a group of words",
    "dict_type": "a group of words",
}


def _list_hint(kind: str, given: Any) -> str | None:
    return f"Write [{given}]." if kind == "tuple_type" and isinstance(given, str) else None


def _expected(context: Mapping[str, Any], given: Any) -> str | None:
    words = [word.strip("' ") for word in context["expected"].replace(" or ", ", ").split(",")]
    return closest(str(given), words)


def _known_words(path: Path) -> list[str]:
    """The words the language has at `path`; empty where columns are named."""
    groups: list[type[BaseModel]] = [Policy]
    for part in path:
        steps = [group.model_fields for group in groups]
        found = [f.annotation for fields in steps for name, f in fields.items() if (f.alias or name) == part]
        groups = groups if isinstance(part, int) else [g for a in found for g in _groups(a)]
    return sorted({field.alias or name for group in groups for name, field in group.model_fields.items()})


def _groups(annotation: Any) -> list[type[BaseModel]]:
    """The word groups inside an annotation such as `tuple[Join | None, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [group for argument in get_args(annotation) for group in _groups(argument)]
