"""A policy back to YAML: what `load` reads again as the same policy."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import yaml

from policy_enforcer.model import ANY, Policy, plain

_BARE = re.compile(r"[A-Za-z][A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_RESERVED = {"true", "false", "yes", "no", "on", "off", "null"}


class _Dumper(yaml.SafeDumper):
    """Quotes every word that some YAML reader might take for something else; writes no aliases."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    bare = _BARE.fullmatch(text) and text.lower() not in _RESERVED
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if bare else '"')


def _number(dumper: _Dumper, number: Decimal) -> yaml.Node:
    text = plain(number)
    return dumper.represent_scalar(f"tag:yaml.org,2002:{'float' if '.' in text else 'int'}", text)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(Decimal, _number)


def to_yaml(policy: Policy) -> str:
    """The policy in the order of the language's reference, without words that only repeat a default."""
    data = policy.model_dump(by_alias=True, exclude_defaults=True)
    for word in ("assignee", "purpose"):
        data[word] = "any" if data[word] == ANY else data[word]
    return yaml.dump(
        _plain(data), Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
