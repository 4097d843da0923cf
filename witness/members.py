"""The member list of a data space: who takes part, and which evidence keys and certificates are theirs.

The space operator signs it (DSSE); each new list has the next version and names its predecessor's digest,
so that successive lists are the key history. Refuses unknown fields, unsorted or repeated participants,
a key listed for two participants, and a key id that is not the key's own.

Version 2 is version 1 with `claims` of members. It is written only where a member has some, so that whoever
reads version 1 goes on reading lists without them; version 1 is read for ever. Version 3 also names the keys
with which the operator signs it, Ed25519 and ML-DSA-44: from such a list on, every list names both and is
signed by both. So who holds the operator's Ed25519 key alone learns the other one from it.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from witness import canonical, dsse
from witness.encoding import b64
from witness.keys import ED25519, ML_DSA_44, KeyInvalid, PrivateKey, PublicKey, SignatureInvalid
from witness.note import TYPE_SM2, NoteInvalid, parse_vkey
from witness.schema import HEX32, ID, LINE, TOKEN, Fields, FormatError, matching, present, text_list, utc

PAYLOAD_TYPE = "application/vnd.bayspace.members.v1+json"
PAYLOAD_TYPE_2 = "application/vnd.bayspace.members.v2+json"
PAYLOAD_TYPE_3 = "application/vnd.bayspace.members.v3+json"
FORMAT, FORMAT_2, FORMAT_3 = "bayspace-members/v1", "bayspace-members/v2", "bayspace-members/v3"
_TYPES = {FORMAT: PAYLOAD_TYPE, FORMAT_2: PAYLOAD_TYPE_2, FORMAT_3: PAYLOAD_TYPE_3}
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
    """The members of `space` from `issued_at` (ms since 1970) until the next version.

    operator_keys: with which the space's operator signs it, one of each algorithm; none in versions 1 and 2.
    """

    space: str
    version: int
    issued_at: int
    participants: tuple[Participant, ...]
    previous: str | None = None
    operator_keys: tuple[PublicKey, ...] = ()

    @property
    def format(self) -> str:
        """The oldest version that can say this."""
        if self.operator_keys:
            return FORMAT_3
        return FORMAT_2 if any(p.claims for p in self.participants) else FORMAT

    @property
    def payload_type(self) -> str:
        """What an envelope of this list says that it holds."""
        return _TYPES[self.format]

    def to_payload(self) -> bytes:
        """The canonical bytes that the operator signs."""
        return canonical.serialise(
            present(
                {
                    "format": self.format,
                    "issued_at": utc(self.issued_at),
                    "operator_keys": [_key_json(k) for k in self.operator_keys] or None,
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
            raise FormatError(str(error)) from error
        with Fields(value, "member list") as f:
            version = f.take("format")
            members = cls(
                space=f.text("space", ID),
                version=f.integer("version"),
                issued_at=f.time("issued_at"),
                participants=tuple(Participant.from_json(p) for p in f.items("participants")),
                previous=f.optional("previous", lambda name: f.text(name, HEX32)),
                operator_keys=f.optional("operator_keys", lambda name: _operator_keys(f.items(name))) or (),
            )
        if version != members.format:
            raise FormatError("the member list is of an unknown version, or misnames its own")
        _check(members)
        return members


def _key_json(key: PublicKey) -> dict[str, str]:
    return {"algorithm": key.algorithm, "public": b64(key.raw)}


def _operator_keys(values: list[Any]) -> tuple[PublicKey, ...]:
    keys = []
    for value in values:
        with Fields(value, "operator key") as f:
            try:
                keys.append(PublicKey(f.text("algorithm", ID), f.base64("public")))
            except KeyInvalid as error:
                raise FormatError(f"operator key: {error}") from error
    if [key.algorithm for key in keys] != [ED25519, ML_DSA_44]:
        raise FormatError("operator_keys are not one Ed25519 and one ML-DSA-44 key")
    return tuple(keys)


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
    old: MemberList | None,
    space: str,
    participants: Iterable[Participant],
    issued_at: int,
    operator_keys: Sequence[PublicKey] = (),
) -> MemberList:
    """The list that follows `old` (None: the first), with `participants` in the canonical order.

    It names the operator's keys where there are two.
    """
    return MemberList(
        space=matching(space, ID, "space"),
        version=old.version + 1 if old else 1,
        issued_at=issued_at,
        participants=tuple(sorted(participants, key=lambda p: p.id)),
        previous=old.digest if old else None,
        operator_keys=tuple(operator_keys) if len(operator_keys) > 1 else (),
    )


def sign(members: MemberList, operator_keys: Iterable[PrivateKey]) -> dsse.Envelope:
    """The list in an envelope signed by the space operator. Raises FormatError for a list not of its form."""
    payload = members.to_payload()
    MemberList.parse(payload)
    return dsse.sign(members.payload_type, payload, operator_keys)


def names_both(keys: Iterable[PublicKey]) -> bool:
    """Whether keys of both algorithms are there: who knows an operator's takes no list of one of them."""
    return {key.algorithm for key in keys}.issuperset((ED25519, ML_DSA_44))


def verify(
    envelope: dsse.Envelope, operator_keys: Sequence[PublicKey], settled: Sequence[PublicKey] = ()
) -> MemberList:
    """The list, when every signature on it is an operator's and none is missing. Raises MembersInvalid.

    settled: keys that an earlier list named, which this one must name, too. What a list names has signed it.
    """
    if envelope.payload_type not in _TYPES.values():
        raise MembersInvalid("the envelope holds something other than a member list")
    try:
        members = MemberList.parse(envelope.payload)
        _check_operator(members, operator_keys, settled)
        known = {key.id: key for key in (*operator_keys, *members.operator_keys)}
        for signature in envelope.signatures:
            envelope.verify(known[signature.keyid])
    except KeyError as error:
        raise MembersInvalid("a key that is not the space operator's signed the member list") from error
    except (SignatureInvalid, FormatError) as error:
        raise MembersInvalid(f"the member list: {error}") from error
    signed = {signature.keyid for signature in envelope.signatures}
    if not signed.issuperset(key.id for key in members.operator_keys):
        raise MembersInvalid("a key that the member list names as its operator's did not sign it")
    if envelope.payload_type != members.payload_type:
        raise MembersInvalid("the envelope holds a member list of another version than it says")
    return members


def _check_operator(
    members: MemberList, operator_keys: Sequence[PublicKey], settled: Sequence[PublicKey]
) -> None:
    """A list adds an algorithm to the operator's; it neither replaces a known key nor drops one.

    INVARIANT: what names keys names one of each algorithm, so also the known one, which must sign it.
    """
    named = set(members.operator_keys)
    if not named.issuperset(settled):
        raise MembersInvalid("the member list does not name the operator's keys, as one before it did")
    known = {key.algorithm for key in operator_keys}
    if any(key.algorithm in known and key not in operator_keys for key in named):
        raise MembersInvalid("the member list names another key as the operator's than the one that is known")
