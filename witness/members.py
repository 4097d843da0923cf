"""The member list of a data space: who takes part, and which evidence keys and certificates are theirs.

The space operator signs it (DSSE); each new list has the next version and names its predecessor's digest,
so that successive lists are the key history. Refuses unknown fields, unsorted or repeated participants,
a key listed for two participants, and a key id that is not the key's own.

Version 2 is version 1 with `claims` of members. It is written only where a member has some, so that whoever
reads version 1 goes on reading lists without them; version 1 is read for ever.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from witness import canonical, dsse
from witness.encoding import b64
from witness.keys import KeyInvalid, PrivateKey, PublicKey, SignatureInvalid
from witness.note import TYPE_SM2, NoteInvalid, parse_vkey
from witness.schema import HEX32, ID, LINE, TOKEN, Fields, FormatError, matching, present, text_list, utc

PAYLOAD_TYPE = "application/vnd.bayspace.members.v1+json"
PAYLOAD_TYPE_2 = "application/vnd.bayspace.members.v2+json"
FORMAT, FORMAT_2 = "bayspace-members/v1", "bayspace-members/v2"
CONNECTOR, WITNESS, OPERATOR = "connector", "witness", "operator"
_ROLES = frozenset({CONNECTOR, WITNESS, OPERATOR})
CLAIM = re.compile(r"(role|claim):[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class MembersInvalid(ValueError):
    """The member list is malformed or not signed by the space operator."""


@dataclass(frozen=True)
class EvidenceKey:
    """A public key with the time (ms since 1970, end exclusive) during which it signs evidence."""

    public: PublicKey
    valid_from: int
    valid_until: int | None = None

    @property
    def id(self) -> str:
        """The key's id: what a DSSE signature names."""
        return self.public.id

    def valid_at(self, time: int) -> bool:
        """Whether the key may sign evidence that was recorded at `time`."""
        return self.valid_from <= time and (self.valid_until is None or time < self.valid_until)

    def to_json(self) -> dict[str, Any]:
        """The key as it stands in the list."""
        return present(
            {
                "algorithm": self.public.algorithm,
                "id": self.id,
                "public": b64(self.public.raw),
                "valid_from": utc(self.valid_from),
                "valid_until": None if self.valid_until is None else utc(self.valid_until),
            }
        )

    @classmethod
    def from_json(cls, value: Any) -> "EvidenceKey":
        """Reads what `to_json` writes. Raises FormatError."""
        with Fields(value, "key") as f:
            named = f.text("id", HEX32)
            try:
                public = PublicKey(f.text("algorithm", ID), f.base64("public"))
            except KeyInvalid as error:
                raise FormatError(f"key is {error}") from error
            key = cls(public, f.time("valid_from"), f.optional("valid_until", f.time))
        if key.id != named:
            raise FormatError("key.id is not the id of that key")
        return key


@dataclass(frozen=True)
class Participant:
    """One member: evidence keys, address `host:port`, jurisdiction, SHA-256 of its TLS certificate.

    A witness also has the verifier keys of its log (C2SP vkeys; their name is the log's origin) and the
    URL prefix under which its tiles are served.
    """

    id: str
    role: str
    keys: tuple[EvidenceKey, ...]
    address: str
    jurisdiction: str
    certificate: str | None = None
    logs: tuple[str, ...] = ()
    tiles: str | None = None
    claims: tuple[str, ...] = ()  # what the operator certifies of it: role:bank, claim:iso-27001

    def to_json(self) -> dict[str, Any]:
        """The participant as it stands in the list."""
        return present(
            {
                "address": self.address,
                "certificate": self.certificate,
                "claims": list(self.claims) or None,
                "id": self.id,
                "jurisdiction": self.jurisdiction,
                "keys": [k.to_json() for k in self.keys],
                "logs": list(self.logs),
                "role": self.role,
                "tiles": self.tiles,
            }
        )

    @classmethod
    def from_json(cls, value: Any) -> "Participant":
        """Reads what `to_json` writes. Raises FormatError."""
        with Fields(value, "participant") as f:
            participant = cls(
                id=f.text("id", ID),
                role=f.text("role", ID),
                keys=tuple(EvidenceKey.from_json(k) for k in f.items("keys")),
                address=f.text("address", LINE),
                jurisdiction=f.text("jurisdiction", TOKEN),
                certificate=f.optional("certificate", lambda name: f.text(name, HEX32)),
                logs=tuple(_vkey(v) for v in f.items("logs")),
                tiles=f.optional("tiles", lambda name: f.text(name, LINE)),
                claims=f.optional("claims", lambda name: _claims(f.take(name))) or (),
            )
        if participant.role not in _ROLES:
            raise FormatError("participant.role is not a role that this version knows")
        return participant


def _claims(value: Any) -> tuple[str, ...]:
    claims = text_list(value, CLAIM, "participant.claims")
    if not claims or list(claims) != sorted(set(claims)):
        raise FormatError("participant.claims are not some sorted and distinct words")
    return claims


def _vkey(value: Any) -> str:
    if not isinstance(value, str):
        raise FormatError("participant.logs holds something other than a vkey")
    try:
        key = parse_vkey(value)
    except NoteInvalid as error:
        raise FormatError(f"participant.logs: {error}") from error
    if key.type == TYPE_SM2:  # who reads these versions need not know it: it stands in trust files
        raise FormatError("participant.logs holds an SM2 key, which is for trust files")
    return value


@dataclass(frozen=True)
class MemberList:
    """The members of `space` from `issued_at` (ms since 1970) until the next version."""

    space: str
    version: int
    issued_at: int
    participants: tuple[Participant, ...]
    previous: str | None = None

    @property
    def format(self) -> str:
        """The oldest version that can say this."""
        return FORMAT_2 if any(p.claims for p in self.participants) else FORMAT

    @property
    def payload_type(self) -> str:
        """What an envelope of this list says that it holds."""
        return PAYLOAD_TYPE_2 if self.format == FORMAT_2 else PAYLOAD_TYPE

    def to_payload(self) -> bytes:
        """The canonical bytes that the operator signs."""
        return canonical.serialise(
            present(
                {
                    "format": self.format,
                    "issued_at": utc(self.issued_at),
                    "participants": [p.to_json() for p in self.participants],
                    "previous": self.previous,
                    "space": self.space,
                    "version": self.version,
                }
            )
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the payload, in hexadecimal: what records and successors name."""
        return hashlib.sha256(self.to_payload()).hexdigest()

    def participant(self, id_: str) -> Participant | None:
        """The member with this id."""
        return self._by_id.get(id_)

    def key(self, participant: str, key_id: str) -> EvidenceKey | None:
        """The member's evidence key with this id."""
        return self._keys.get((participant, key_id))

    @cached_property
    def _by_id(self) -> dict[str, Participant]:
        return {p.id: p for p in self.participants}

    @cached_property
    def _keys(self) -> dict[tuple[str, str], EvidenceKey]:
        return {(p.id, k.id): k for p in self.participants for k in p.keys}

    @classmethod
    def parse(cls, payload: bytes) -> "MemberList":
        """The list with exactly these bytes. Raises FormatError. Says nothing about its signature."""
        try:
            value = canonical.parse(payload)
        except canonical.CanonicalError as error:
            raise FormatError(f"the member list is {error}") from error
        with Fields(value, "member list") as f:
            version = f.take("format")
            members = cls(
                space=f.text("space", ID),
                version=f.integer("version"),
                issued_at=f.time("issued_at"),
                participants=tuple(Participant.from_json(p) for p in f.items("participants")),
                previous=f.optional("previous", lambda name: f.text(name, HEX32)),
            )
        if version != members.format:
            raise FormatError("the member list is of an unknown version, or misnames its own")
        _check(members)
        return members


def _check(members: MemberList) -> None:
    ids = [p.id for p in members.participants]
    keys = [k.id for p in members.participants for k in p.keys]
    if ids != sorted(set(ids)):
        raise FormatError("participants are not sorted by distinct ids")
    if len(set(keys)) != len(keys):
        raise FormatError("an evidence key is listed twice")
    if members.version < 1 or (members.version == 1) != (members.previous is None):
        raise FormatError("only version 1 has no predecessor")


def successor(
    old: MemberList | None, space: str, participants: Iterable[Participant], issued_at: int
) -> MemberList:
    """The list that follows `old` (None: the first), with `participants` in the canonical order."""
    return MemberList(
        space=matching(space, ID, "space"),
        version=old.version + 1 if old else 1,
        issued_at=issued_at,
        participants=tuple(sorted(participants, key=lambda p: p.id)),
        previous=old.digest if old else None,
    )


def sign(members: MemberList, operator_keys: Iterable[PrivateKey]) -> dsse.Envelope:
    """The list in an envelope signed by the space operator. Raises FormatError for a list not of its form."""
    payload = members.to_payload()
    MemberList.parse(payload)
    return dsse.sign(members.payload_type, payload, operator_keys)


def verify(envelope: dsse.Envelope, operator_keys: Sequence[PublicKey]) -> MemberList:
    """The list, when every signature on it is an operator's. Raises MembersInvalid."""
    known = {key.id: key for key in operator_keys}
    if envelope.payload_type not in (PAYLOAD_TYPE, PAYLOAD_TYPE_2):
        raise MembersInvalid("the envelope holds something other than a member list")
    try:
        for signature in envelope.signatures:
            envelope.verify(known[signature.keyid])
        members = MemberList.parse(envelope.payload)
    except KeyError as error:
        raise MembersInvalid("a key that is not the space operator's signed the member list") from error
    except (SignatureInvalid, FormatError) as error:
        raise MembersInvalid(f"the member list: {error}") from error
    if envelope.payload_type != members.payload_type:
        raise MembersInvalid("the envelope holds a member list of another version than it says")
    return members
