"""Documents that policies name by digest: read from the owner's folder, carried by offers and agreements.

Templates stand in `policies/templates/<name>.yaml`, lists of the law in `policies/lists/<name>.json`. An
offer's catalogue entry and the agreement carry each document in full, so both sides judge by the same text
for as long as the agreement lives, whatever becomes of the file. Refuses a document that is missing, too
long, unreadable or another than the digest says, and one that no policy named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from compute import templates
from compute.errors import ConfigError
from compute.templates import Template
from connector import transfer_lists
from connector.contract import Agreement
from policy_enforcer.model import Policy
from policy_enforcer.references import LIST, TEMPLATE, name_of, named
from policy_enforcer.transfer_lists import named_lists

MOST_BYTES = 1 << 16
_PLACES = {TEMPLATE: ("templates", ".yaml"), LIST: ("lists", ".json")}


def read(folder: Path, policy: Policy) -> dict[str, str]:
    """The documents that a policy names, from its owner's folder. Raises `ConfigError`."""
    found = {}
    for kind, reference in named(policy):
        place, extension = _PLACES[kind]
        path = folder / place / f"{name_of(reference)}{extension}"
        try:
            found[reference] = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError):
            raise ConfigError("reference.missing", f"{place}/{path.name} cannot be read") from None
    return checked(policy, found)


def checked(policy: Policy, documents: Mapping[str, str]) -> dict[str, str]:
    """These documents, when they are exactly those that the policy names. Raises `ConfigError`."""
    kinds = {reference: kind for kind, reference in named(policy)}
    if set(documents) != set(kinds):
        raise ConfigError("reference.missing", "the documents are not those that the policy names")
    for reference, text in documents.items():
        data = text.encode()
        if len(data) > MOST_BYTES:
            sentence = f"{name_of(reference)} has more than {MOST_BYTES} bytes"
            raise ConfigError("reference.too-long", sentence)
        if hashlib.sha256(data).hexdigest() != reference.partition("@")[2]:
            sentence = f"{name_of(reference)} is not the document whose digest the policy names"
            raise ConfigError("reference.differs", sentence)
        named_as = transfer_lists.reference_of(text) if kinds[reference] == LIST else template(text).reference
        if named_as != reference:
            sentence = f"{name_of(reference)} calls itself otherwise"
            raise ConfigError("reference.differs", sentence)
    return dict(documents)


def templates_of(policy: Policy, documents: Mapping[str, str]) -> list[Template]:
    """The reviewed texts among a policy's documents."""
    return [template(documents[reference]) for reference in policy.analysis.templates]


def template_of(agreement: Agreement, sql: str, asker: str) -> str | None:
    """The reference of the agreed template that this query is an instance of, if any."""
    agreed = templates_of(agreement.policy, agreement.documents)
    return templates.matching(agreed, sql, asker) if agreed else None


def transfer_of(agreement: Agreement) -> dict[str, Any]:
    """What an agreement says of crossing a border, for people: basis, filing, lists, consent, grade."""
    stated = agreement.policy.transfer
    words = {} if stated is None else stated.model_dump(exclude_none=True)
    lists = {
        word: {"reference": named, **transfer_lists.read(agreement.documents[named]).as_json()}
        for word, named in named_lists(agreement.policy).items()
    }
    return {**words, **lists}


@lru_cache(maxsize=256)
def template(text: str) -> Template:
    """A template parsed once: its text never changes."""
    return templates.parse(text)
