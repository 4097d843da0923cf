"""Documents that a policy names by digest: reviewed templates, lists of the law.

`name@digest`: the name is for people, the digest (SHA-256 of the file's bytes) is what counts, so changing
one character of a document makes a policy that names another. Agreements carry the documents in full.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from policy_enforcer.model import Policy

TEMPLATE, LIST = "template", "list"
LIST_WORDS = ("whitelist", "negative_list", "low_risk")


def reference(name: str, text: str) -> str:
    """What a policy writes to name this document."""
    return f"{name}@{hashlib.sha256(text.encode()).hexdigest()}"


def name_of(reference: str) -> str:
    """The part for people."""
    return reference.partition("@")[0]


def named(policy: Policy) -> Iterator[tuple[str, str]]:
    """Every document that a policy names: (kind, reference)."""
    yield from ((TEMPLATE, template) for template in policy.analysis.templates)
    for word in LIST_WORDS:
        found = getattr(policy.transfer, word) if policy.transfer is not None else None
        if found is not None:
            yield LIST, found
