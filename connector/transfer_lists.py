"""White lists, negative lists and low-risk catalogues: drafted, signed, read, verified.

A list is one DSSE envelope over canonical JSON, `policies/lists/<id>.json`; a policy names it `id@SHA-256` of
that file. Its issuer is a member that the space's operator certifies as `role:list-issuer`: the authority
itself, or whoever the space trusts to copy an authority's publication faithfully. It signs with its evidence
keys, one signature by each algorithm that it has; the member list says which keys were its own at that time.

    {"categories":[…],"format":"bayspace-list/v1","from":…,"id":…,"issued_at":…,"issuer":…,"jurisdiction":…,
     "kind":"whitelist"|"negative_list"|"low_risk","recipients":[…],"title":…,"until":…}

Refuses every form but that one, a signature of another key, a missing one, and an issuer without the role.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from compute.errors import ConfigError
from connector.enrolment import Trust, load_members
from policy_enforcer.explained import explained
from policy_enforcer.facts import TransferList
from policy_enforcer.model import Closed, Jurisdiction, Moment, Policy, Text, Word
from policy_enforcer.moments import end_instant, first_instant, moment
from policy_enforcer.references import LIST_WORDS, name_of, reference
from policy_enforcer.transfer_lists import UNTRUSTED, category, named_lists
from policy_enforcer.yamltree import parse as parse_yaml
from witness import canonical, dsse
from witness.keys import PrivateKeys, PublicKey, SignatureInvalid
from witness.members import MemberList
from witness.schema import ID, TEXT, Fields, FormatError, matching, present, text_list, utc

PAYLOAD_TYPE = "application/vnd.bayspace.list.v1+json"
FORMAT = "bayspace-list/v1"
ROLE = "role:list-issuer"
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PLACE = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?")
_KIND = re.compile("|".join(LIST_WORDS))
_MOMENT = re.compile(r"[0-9TZ:+-]{10,25}")
Category = Annotated[str, AfterValidator(category)]


def _set(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("the list names something twice")
    return tuple(sorted(values))


class Draft(Closed):
    """A list as its issuer writes it."""

    list: Word
    kind: Literal["whitelist", "negative_list", "low_risk"]
    title: Text
    jurisdiction: Jurisdiction
    recipients: Annotated[tuple[Jurisdiction, ...], AfterValidator(_set)] = ()
    start: Moment = Field(alias="from")
    until: Moment | None = None
    categories: Annotated[tuple[Category, ...], Field(min_length=1, max_length=1024), AfterValidator(_set)]


DRAFT = """\
# A list for policies of this space: `bayspace list sign` signs it. Owners write a category beside a column.
list: example-2026                # a name with a version
kind: whitelist                   # only these leave. negative_list: these do not. low_risk: these may as well
title: What it stands for, where it was published, under which number
jurisdiction: CN                  # which the data leaves
recipients: [HK]                  # where it may go under this list; left out: anywhere
from: 2026-01-01
until: 2027-12-31                 # left out: until a policy names another
categories:
  - company-registration
  - trade-value
"""


@dataclass(frozen=True, slots=True)
class Document:
    """One list: what decisions need, what people read, and the envelope that proves who said it."""

    name: str
    title: str
    issued_at: int
    content: TransferList
    envelope: dsse.Envelope

    def as_json(self) -> dict[str, Any]:
        """What it says, for people and programs."""
        return _fields(self.name, self.title, self.issued_at, self.content)


# --- making -------------------------------------------------------------------------------------------


def draft(text: str) -> Draft:
    """The draft in this YAML. Raises `ConfigError` with every problem's line."""
    tree = parse_yaml(text)
    problems = tree.problems
    if not problems:
        try:
            return Draft.model_validate(tree.data)
        except ValidationError as error:
            problems = explained(error, tree, Draft)
    raise ConfigError("list.malformed", "a list cannot be read: " + "; ".join(map(str, problems)))


def sign(made: Draft, issuer: str, keys: PrivateKeys, issued_at: int) -> str:
    """The signed document: the file's text, to the byte. `issued_at`: ms since 1970."""
    fields = _fields(made.list, made.title, issued_at, content_of(made, issuer))
    payload = canonical.serialise(fields)
    text = dsse.sign(PAYLOAD_TYPE, payload, keys.keys).to_bytes().decode()
    read(text)
    return text


def content_of(made: Draft, issuer: str) -> TransferList:
    """What a draft says once this participant has signed it."""
    return TransferList(
        kind=made.kind,
        issuer=issuer,
        jurisdiction=made.jurisdiction,
        start=made.start,
        categories=frozenset(made.categories),
        until=made.until,
        recipients=frozenset(made.recipients),
    )


def _fields(name: str, title: str, issued_at: int, content: TransferList) -> dict[str, Any]:
    return present(
        {
            "categories": sorted(content.categories),
            "format": FORMAT,
            "from": content.start,
            "id": name,
            "issued_at": utc(issued_at),
            "issuer": content.issuer,
            "jurisdiction": content.jurisdiction,
            "kind": content.kind,
            "recipients": sorted(content.recipients) or None,
            "title": title,
            "until": content.until,
        }
    )


# --- reading ------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def read(text: str) -> Document:
    """What a list says; about its signatures, nothing. Raises `ConfigError`."""
    try:
        envelope = dsse.parse(text.encode())
        if envelope.payload_type != PAYLOAD_TYPE:
            raise FormatError("the envelope holds something other than a list")
        with Fields(canonical.parse(envelope.payload), "list") as f:
            f.literal("format", FORMAT)
            return Document(
                name=f.text("id", _WORD),
                title=f.text("title", TEXT),
                issued_at=f.time("issued_at"),
                content=_content(f),
                envelope=envelope,
            )
    except ValueError as error:  # of JSON, envelope, fields and moments alike
        raise ConfigError("list.malformed", f"a list cannot be read: {error}") from None


def _content(f: Fields) -> TransferList:
    content = TransferList(
        kind=f.text("kind", _KIND),
        issuer=f.text("issuer", ID),
        jurisdiction=f.text("jurisdiction", _PLACE),
        start=_moment(f, "from"),
        categories=frozenset(map(category, _distinct(f, "categories", TEXT))),
        until=f.optional("until", lambda name: _moment(f, name)),
        recipients=f.optional("recipients", lambda name: _distinct(f, name, _PLACE)) or frozenset(),
    )
    if content.until is not None and first_instant(content.start) >= end_instant(content.until):
        raise FormatError("the list ends before it begins")
    return content


def _moment(f: Fields, name: str) -> str:
    return moment(matching(f.take(name), _MOMENT, f"list.{name}"))


def _distinct(f: Fields, name: str, pattern: re.Pattern[str]) -> frozenset[str]:
    found = text_list(f.take(name), pattern, f"list.{name}")
    if not found or list(found) != sorted(set(found)):
        raise FormatError(f"list.{name} are not some sorted and distinct words")
    return frozenset(found)


# --- trusting -----------------------------------------------------------------------------------------


def distrust(document: Document, members: MemberList) -> str | None:
    """The code of the reason why a list is not to be trusted; None when it is."""
    issuer = members.participant(document.content.issuer)
    if issuer is None or ROLE not in issuer.claims:
        return "list.issuer"
    keys = tuple(key.public for key in issuer.keys if key.valid_at(document.issued_at))
    return None if _signed(document.envelope.to_bytes(), keys) else "list.signature"


@lru_cache(maxsize=256)
def _signed(envelope: bytes, keys: tuple[PublicKey, ...]) -> bool:
    """Whether these keys made every signature, at least one with each of their algorithms."""
    parsed = dsse.parse(envelope)
    known = {key.id: key for key in keys}
    try:
        for signature in parsed.signatures:
            parsed.verify(known[signature.keyid])
    except (KeyError, SignatureInvalid):
        return False
    used = {known[signature.keyid].algorithm for signature in parsed.signatures}
    return used == {key.algorithm for key in keys}


def stated(
    policy: Policy, documents: Mapping[str, str], members: MemberList
) -> dict[str, TransferList | str]:
    """What decisions are told of the lists that a policy names, verified against this member list."""
    return {named: _stated(documents.get(named), members) for named in named_lists(policy).values()}


def _stated(text: str | None, members: MemberList) -> TransferList | str:
    if text is None:  # of our own policy, whose lists do not bind us
        return "list.missing"
    document = read(text)
    return distrust(document, members) or document.content


def unverified(policy: Policy, documents: Mapping[str, str]) -> dict[str, TransferList]:
    """What the lists say, for tools that work on files without a space."""
    return {named: read(documents[named]).content for named in named_lists(policy).values()}


def check(trust: Trust, policy: Policy, documents: Mapping[str, str], now: datetime) -> None:
    """Raise `ConfigError` when a policy names a list that no query could go by. Later ones are welcome."""
    named = named_lists(policy)
    if not named:
        return
    members = load_members(trust)
    for word, one in named.items():
        verified(documents[one], members, now, word, early=True)


def ending(policy: Policy, documents: Mapping[str, str], by: datetime) -> Iterator[str]:
    """A sentence for each list that a policy names and that is out of force by then."""
    for named, content in unverified(policy, documents).items():
        if content.until is not None and by >= end_instant(content.until):
            yield f"the list {name_of(named)} is in force until {content.until}"


def verified(
    text: str, members: MemberList, now: datetime, kind: str | None = None, *, early: bool = False
) -> Document:
    """The list in this text, trusted and in force. `early`: also before it begins. Raises `ConfigError`."""
    document = read(text)
    content, name = document.content, document.name
    if code := distrust(document, members):
        raise ConfigError(code, f"{name} {UNTRUSTED[code]}")
    if kind not in (None, content.kind):
        raise ConfigError("list.kind", f"{name} is no {kind}: name it as transfer.{content.kind}")
    if content.until is not None and now >= end_instant(content.until):
        raise ConfigError("list.expired", f"{name} was in force until {content.until}")
    if not early and now < first_instant(content.start):
        raise ConfigError("list.too-early", f"{name} is in force from {content.start}")
    return document


def reference_of(text: str) -> str:
    """What a policy writes to name this document."""
    return reference(read(text).name, text)
