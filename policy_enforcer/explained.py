"""pydantic's findings in the words of the text's author: what is wrong, on which line, what to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from policy_enforcer.model import DUTY_WORDS, Declared
from policy_enforcer.problems import Path, Problem, closest, dotted
from policy_enforcer.yamltree import Tree

Finding = tuple[str, str, str | None]  # code, sentence, suggestion


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
        suggestion = closest(str(path[-1]), _known_words(path[:-1], root))
        if path[:-1] == ("conditions",) and path[-1] in Declared.model_fields:
            suggestion = "Nothing here can check it: write it under `declared`."
        return "policy.unknown-word", "this word is not in the policy language", suggestion
    if kind == "missing" and isinstance(path[-1], str):
        return "policy.missing-word", f"{path[-1]!r} must be written", None
    if kind in _TYPES:
        hint = f"Write [{details['input']}]." if kind == "tuple_type" and _is_word(details["input"]) else None
        return "policy.wrong-type", f"this must be {_TYPES[kind]}", hint
    return _SENTENCES.get(kind, _other)(details)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) < 40


_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "tuple_type": "a list",
        "string_type": "a word; put numbers in quotes where a word is meant",
        "int_type": "a whole number",
        "bool_type": "true or false",
        "model_type": "a group of words",
        "model_attributes_type": "a group of words",
        "mapping_type": "a group of words",
    }
)


def _unknown_value(details: Any) -> Finding:
    words = [word.strip("' ") for word in details["ctx"]["expected"].replace(" or ", ", ").split(",")]
    suggestion = closest(str(details["input"]), words)
    return "policy.unknown-value", "this value is not in the policy language", suggestion


def _unknown_duty(_details: Any) -> Finding:
    known = f"Known here: {', '.join(DUTY_WORDS)}."
    return "policy.unknown-word", "this duty is not in the policy language", known


def _own_words(details: Any) -> Finding:
    return "policy.bad-value", str(details["ctx"]["error"]), None


def _pattern(details: Any) -> Finding:
    pattern = details["ctx"]["pattern"]
    hint = f"Must match {pattern}"
    if pattern.endswith(_DIGEST):
        hint = "Write name@SHA-256, as `bayspace list show` or `bayspace template digest` prints it."
    return "policy.bad-value", "this is not a name of the kind needed", hint


_DIGEST = "@[0-9a-f]{64}$"


def _too_few(_details: Any) -> Finding:
    return "policy.bad-value", "something is missing in this list", None


def _other(details: Any) -> Finding:
    return "policy.bad-value", details["msg"].lower(), None


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
