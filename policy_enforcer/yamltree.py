"""YAML text to plain data with the line and column of every key. A strict subset of YAML.

Refused: anchors, aliases, tags, merge keys, several documents, duplicate keys, empty values, and every
unquoted word that two YAML readers take for different things (`no`, `on`, `0o17`, `1e9`, `1:30`). Dates stay
text; numbers are int or Decimal, never float.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

from policy_enforcer.problems import Path, Problem, dotted

MAXIMUM_CHARACTERS = 256 * 1024
MAXIMUM_DEPTH = 12

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,37})", re.ASCII)
_DECIMAL = re.compile(r"-?(0|[1-9]\d{0,37})\.\d{1,18}", re.ASCII)
_OTHER_READERS = re.compile(
    r"0o[0-7]+|[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+|[yYnN]|[-+]?\.(inf|nan)", re.IGNORECASE | re.ASCII
)
_TEXT_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"}
_RESOLVER = yaml.resolver.Resolver()


@dataclass(slots=True)
class Tree:
    """Plain data, the (line, column) of each path, and what could not be read."""

    data: Any = None
    marks: dict[Path, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, code: str, path: Path, mark: Any, sentence: str, suggestion: str) -> None:
        """Note one problem."""
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        self.problems.append(Problem(code, sentence, dotted(path), line, column, suggestion))

    def where(self, path: Path) -> tuple[int, int]:
        """The position of `path`, or of its nearest written ancestor. A list's item may go by its word."""
        data: Any = self.data
        written: Path = ()
        for part in path:
            step = _index_of(data, part) if isinstance(data, list) and isinstance(part, str) else part
            try:
                data = data[step]
            except (KeyError, IndexError, TypeError):
                break
            written = (*written, step)
        return self.marks.get(written, (1, 1))


def _index_of(items: list[Any], word: str) -> int:
    """Where a list names this word, itself or as a key; out of range when it does not."""
    found = (i for i, item in enumerate(items) if item == word or (isinstance(item, dict) and word in item))
    return next(found, len(items))


def parse(text: str) -> Tree:
    """Read one mapping. Never raises: what is wrong is in `problems`, and then `data` is not to be used."""
    tree = Tree()
    if len(text) > MAXIMUM_CHARACTERS:
        tree.add(
            "yaml.too-large",
            (),
            None,
            f"a policy has at most {MAXIMUM_CHARACTERS} characters",
            "Write two policies, for two offers.",
        )
        return tree
    try:
        events = _plain_events(text, tree)
        if tree.problems:
            return tree
        node = _Composer(events).get_single_node()
    except yaml.MarkedYAMLError as error:
        tree.add("yaml.syntax", (), error.problem_mark, f"this is not YAML: {error.problem}", _SHAPE)
    except (yaml.YAMLError, ValueError, OverflowError):
        # PyYAML lets ValueError out of odd escapes and directives
        tree.add("yaml.syntax", (), None, "this is not YAML text", _SHAPE)
    else:
        if isinstance(node, yaml.MappingNode):
            tree.data = _value(node, (), tree)
        else:
            sentence = "these are no lines of `word: value`"
            tree.add("yaml.not-a-policy", (), None, sentence, "Begin with a word, a colon and a space.")
    return tree


_SHAPE = "Look for a bracket or quote that is not closed, and for lines that do not begin below each other."


def _plain_events(text: str, tree: Tree) -> list[yaml.Event]:
    """Refuse what the composer would resolve silently, before it recurses into anything."""
    events: list[yaml.Event] = []
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        events.append(event)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        refusal = _refused_event(event, depth, documents)
        if refusal:
            tree.add(refusal[0], (), event.start_mark, *refusal[1:])
            break
    return events


class _Composer(yaml.composer.Composer, yaml.resolver.Resolver):
    """PyYAML's composer over events that were read already: scanning is nearly all the work."""

    def __init__(self, events: list[yaml.Event]) -> None:
        yaml.composer.Composer.__init__(self)
        yaml.resolver.Resolver.__init__(self)
        self._events = deque(events)

    def check_event(self, *kinds: type[yaml.Event]) -> bool:
        return isinstance(self._events[0], kinds)

    def peek_event(self) -> yaml.Event:
        return self._events[0]

    def get_event(self) -> yaml.Event:
        return self._events.popleft()


def _refused_event(event: yaml.Event, depth: int, documents: int) -> tuple[str, str, str] | None:
    if getattr(event, "anchor", None) is not None:  # an alias has one, too
        return "yaml.anchor", "anchors and aliases are not read", "Write the value out."
    if getattr(event, "tag", None) is not None:
        return "yaml.tag", "tags are not read", "Write the value alone; in quotes where `!` belongs to it."
    if isinstance(event, yaml.DocumentStartEvent) and (event.version or event.tags):
        return "yaml.tag", "YAML directives are not read", "Remove the lines that begin with `%`."
    if documents > 1:
        return "yaml.several", "one file holds one policy", "Write the second into a file of its own."
    if depth > MAXIMUM_DEPTH:
        return "yaml.too-deep", "nothing in a policy is nested that deep", "Take brackets away."
    return None


def _value(node: yaml.Node, path: Path, tree: Tree) -> Any:
    tree.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, tree)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), tree) for index, item in enumerate(node.value)]
    return _scalar(node, path, tree)


def _mapping(node: yaml.MappingNode, path: Path, tree: Tree) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = _scalar(key_node, path, tree)
        if not isinstance(key, str):
            hint = "Put it in quotes; in braces, also a text that holds a comma."
            tree.add("yaml.key", path, key_node.start_mark, "a key must be a word", hint)
            continue
        here = (*path, key)
        if key in result:
            hint = "Remove one of them, or write both into one."
            tree.add("yaml.duplicate-key", here, key_node.start_mark, "this key is written twice", hint)
        tree.marks[here] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        result[key] = _value(value_node, here, tree)
    return result


def _scalar(node: yaml.Node, path: Path, tree: Tree) -> Any:
    text = node.value
    if not isinstance(node, yaml.ScalarNode):
        return None
    if node.style is not None:
        return text
    if text in {"true", "false"}:
        return text == "true"
    if _WHOLE.fullmatch(text) and text != "-0":
        return int(text)
    if _DECIMAL.fullmatch(text):
        return Decimal(text)
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    if tag == "tag:yaml.org,2002:null":
        hint = "Write one. In braces, a text that holds a comma goes in quotes."
        tree.add("yaml.empty", path, node.start_mark, "this has no value", hint)
    elif tag not in _TEXT_TAGS or _OTHER_READERS.fullmatch(text):
        hint = "Write true or false, a plain decimal number, or put the word in quotes."
        tree.add("yaml.ambiguous", path, node.start_mark, "YAML readers disagree on this unquoted word", hint)
    return text
