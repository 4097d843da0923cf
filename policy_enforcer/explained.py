"""pydantic's findings in the words of the text's author: what is wrong, on which line, what to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from policy_enforcer.model import (
    DUTY_WORDS,
    Assignee,
    ColumnName,
    ConnectorKey,
    DatasetName,
    Declared,
    FederationName,
    Jurisdiction,
    Mask,
    Reference,
    Word,
)
from policy_enforcer.problems import Path, Problem, closest, dotted
from policy_enforcer.yamltree import Tree

Finding = tuple[str, str, str]  # code, sentence, suggestion


def explained(error: ValidationError, tree: Tree, root: type[BaseModel]) -> list[Problem]:
    """One problem per place. `root`: the type of the whole text, which knows the words."""
    problems: dict[str, Problem] = {}
    for details in _own(error.errors(include_url=False)):
        path = _as_written(details["loc"], tree.data)
        if details["type"] == "missing":
            path = (*path, details["loc"][-1])
        line, column = tree.where(path)
        code, sentence, suggestion = _words_for(details, path, root)
        # each member of a union objects once to the same value
        problems.setdefault(dotted(path), Problem(code, sentence, dotted(path), line, column, suggestion))
    return list(problems.values())


def _own(errors: Sequence[Any]) -> list[Any]:
    """Without lists that are "too short" only because their items are wrong."""
    places = [details["loc"] for details in errors]
    return [d for d in errors if d["type"] != "too_short" or not any(_inside(p, d["loc"]) for p in places)]


def _inside(place: Path, outer: Path) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _as_written(location: tuple[int | str, ...], data: Any) -> Path:
    """The part of pydantic's location that is in the text: it adds names of union members."""
    path: Path = ()
    for position, part in enumerate(location, 1):
        step = _step(data, part)
        # a lone word counts as a list of one, so only numbers may follow it; a name would be a union's
        if step is not None and (isinstance(step, dict | list) or not _names(location[position:])):
            data, path = step, (*path, part)
    return path


def _step(data: Any, part: int | str) -> Any:
    if isinstance(data, dict):
        return data.get(part)
    return data[part] if isinstance(data, list) and isinstance(part, int) and part < len(data) else None


def _names(parts: Path) -> bool:
    return any(isinstance(part, str) for part in parts)


def _words_for(details: Any, path: Path, root: type[BaseModel]) -> Finding:
    kind = details["type"]
    if kind == "extra_forbidden":
        suggestion = closest(str(path[-1]), _known_words(path[:-1], root)) or "Remove it."
        if path[:-1] == ("conditions",) and path[-1] in Declared.model_fields:
            suggestion = "Nothing here can check it: write it under `declared`."
        return "policy.unknown-word", "this word is not in the policy language", suggestion
    if kind == "missing" and isinstance(path[-1], str):
        sample = _SAMPLES.get(path[-1], f"{path[-1]}: …")
        return "policy.missing-word", f"{path[-1]!r} must be written", f"Add `{sample}`."
    if kind in _TYPES:
        what, hint = _TYPES[kind]
        if kind == "tuple_type" and _is_word(details["input"]):
            hint = f"Write [{details['input']}]."
        return "policy.wrong-type", f"this must be {what}", hint
    return _SENTENCES.get(kind, _other)(details)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) < 40


_TYPES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "tuple_type": ("a list", "Write [one, another]."),
        "string_type": ("a word", "Put a number in quotes where a word is meant."),
        "int_type": ("a whole number", "Write digits alone, without quotes or a point."),
        "bool_type": ("true or false", "Write true or false, without quotes."),
        "model_type": ("a group of words", "Write {word: value}."),
        "model_attributes_type": ("a group of words", "Write {word: value}."),
        "mapping_type": ("a group of words", "Write {column: value}."),
    }
)
_SAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "policy": "policy: invoices-v1",
        "dataset": "dataset: participant.offer",
        "assignee": "assignee: [participant]",
        "purpose": "purpose: [credit-risk]",
        "analysis": "analysis: {kinds: [aggregate]}",
        "kinds": "kinds: [aggregate]",
        "columns": "columns: [company_id]",
        "disclosure": "disclosure: cardinality",
        "mechanism": "mechanism: discrete-gaussian",
        "rho_per_query": "rho_per_query: 0.05",
        "budget": "budget: {rho: 1.0, per: year}",
        "rho": "rho: 1.0",
        "share_at_most": "share_at_most: 0.7",
        "minimum_difference": "minimum_difference: 10",
        "scope": "scope: total",
        "minimum_participants": "minimum_participants: 3",
        "after": "after: P30D",
        "expect": "expect: permit",
    }
)
"""How a word is written that must be."""


def _unknown_value(details: Any) -> Finding:
    words = [word.strip("' ") for word in details["ctx"]["expected"].replace(" or ", ", ").split(",")]
    suggestion = closest(str(details["input"]), words) or "Write another one."
    return "policy.unknown-value", "this value is not in the policy language", suggestion


def _unknown_duty(_details: Any) -> Finding:
    known = f"Known here: {', '.join(DUTY_WORDS)}."
    return "policy.unknown-word", "this duty is not in the policy language", known


def _own_words(details: Any) -> Finding:
    """Of the language's own checks, which say what is wrong or what to write."""
    text = str(details["ctx"]["error"])
    if text.startswith("write "):
        return "policy.bad-value", "this is not written as it must be", f"{text[0].upper()}{text[1:]}."
    return "policy.bad-value", text, "Remove one." if "twice" in text else "Write another one."


def _pattern(details: Any) -> Finding:
    pattern = details["ctx"]["pattern"]
    hint = _HINTS.get(pattern, f"Must match {pattern}.")
    return "policy.bad-value", "this is not a name of the kind needed", hint


def _pattern_of(kind: Any) -> str:
    """The form of a type of names."""
    return next(str(rule.pattern) for rule in kind.__metadata__ if getattr(rule, "pattern", None))


_LETTERS = "letters a to z, digits, `-`, `_`"
_HINTS: Mapping[str, str] = MappingProxyType(
    {
        _pattern_of(Word): f"Write {_LETTERS} and `.`, 64 at most, a letter or digit first.",
        _pattern_of(Reference): (
            "Write name@SHA-256, as `bayspace list show` or `bayspace template digest` prints it."
        ),
        _pattern_of(Assignee): f"Write a participant's id ({_LETTERS}), `role:bank` or `claim:iso-27001`.",
        _pattern_of(DatasetName): f"Write participant.offer: each of {_LETTERS}.",
        _pattern_of(Jurisdiction): "Write a code of ISO 3166 in capitals: CN, CN-SZ, HK.",
        _pattern_of(ColumnName): "Write the column's name as the dataset's description has it.",
        _pattern_of(FederationName): "Write small letters a to z, digits, `-`, `_`.",
        _pattern_of(Mask): (
            "Write redact, hash, year, quarter, month, keep-first-N, keep-last-N or step-N, N a number."
        ),
        _pattern_of(ConnectorKey): "Write participant@key, as `bayspace space list --json` prints its keys.",
    }
)
"""What to write where a name has another form."""


def _too_few(details: Any) -> Finding:
    pair = details["type"] == "missing"
    hint = "Write two numbers: [least, most]." if pair else "Write at least one, or remove the word."
    return "policy.bad-value", "something is missing in this list", hint


def _other(details: Any) -> Finding:
    limits = details.get("ctx", {})
    known = ((word, limits[name]) for name, word in _LIMITS.items() if name in limits)
    hint = " and ".join(f"{word} {limit}" for word, limit in known)
    return "policy.bad-value", details["msg"].lower(), f"Write {hint or 'another one'}."


_LIMITS: Mapping[str, str] = MappingProxyType(
    {
        "ge": "no less than",
        "le": "no more than",
        "min_length": "at least this many:",
        "max_length": "at most this many:",
    }
)


_SENTENCES: Mapping[str, Callable[[Any], Finding]] = MappingProxyType(
    {
        "literal_error": _unknown_value,
        "union_tag_invalid": _unknown_duty,
        "union_tag_not_found": _unknown_duty,
        "value_error": _own_words,
        "missing": _too_few,
        "too_short": _too_few,
        "string_pattern_mismatch": _pattern,
    }
)


def _known_words(path: Path, root: type[BaseModel]) -> list[str]:
    """The words the language has at `path`; empty where columns are named."""
    groups = [root]
    for part in path:
        fields = [item for group in groups for item in group.model_fields.items()]
        found = [field.annotation for name, field in fields if (field.alias or name) == part]
        groups = groups if isinstance(part, int) else [g for a in found for g in _groups(a)]
    return sorted({field.alias or name for group in groups for name, field in group.model_fields.items()})


def _groups(annotation: Any) -> list[type[BaseModel]]:
    """The word groups inside an annotation such as `tuple[Join | None, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [group for argument in get_args(annotation) for group in _groups(argument)]
