"""The data space's operator: certificate authority, signed member list, admissions.

A space is a folder, which belongs on a machine of its own: whoever reads its keys can make members.
Nothing here runs as a service. Requests come in as files, admissions and member lists go out as files;
participants on the same machine are served directly. Every list and every admission ever made is kept.

Refuses a request whose keys are not proved, a second participant under a name that is taken, and an
evidence key that another member uses. Removing a member takes effect where the next list is installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from compute.errors import ConfigError
from connector.enrolment import (
    REQUEST_FILE,
    Admission,
    Enrolment,
    Seat,
    Trust,
    adopt_members,
    install,
    read_request,
    replace_file,
    sign_admission,
)
from connector.identity import (
    Authority,
    certificate_fingerprint,
    checked_name,
    issue,
    load_certificate,
    load_signing_keys,
    load_tls_key,
    new_authority,
    new_signing_keys,
    tls_key_pem,
    utc_now,
    write_private,
)
from witness import dsse
from witness import members as member_list
from witness.encoding import system_entropy
from witness.files import Folder
from witness.keys import ML_DSA_44, PrivateKey, PrivateKeys
from witness.members import EvidenceKey, MemberList, MembersInvalid, Participant

GRACE = timedelta(days=7)
"""How long a replaced evidence key still signs: until its owner has installed the new admission."""


@dataclass(frozen=True, slots=True)
class Space:
    """An opened space folder."""

    folder: Path
    authority: Authority
    operator: PrivateKeys
    members: MemberList

    @property
    def name(self) -> str:
        """The space's name."""
        return self.members.space

    @property
    def operator_key_id(self) -> str:
        """What participants compare at their first installation."""
        return self.operator.public.fingerprint


def init(folder: Path, name: str, now: datetime | None = None) -> Space:
    """Make a space: CA, operator key and an empty member list. Refuses a folder that holds one."""
    now = now or utc_now()
    if _members_file(folder).exists():
        raise ConfigError("space.exists", f"{folder} holds a data space already")
    authority = new_authority(checked_name(name, "space name"), now)
    operator = new_signing_keys()
    for path in (folder, folder / "keys", folder / "history"):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(folder / "keys" / "ca.key", tls_key_pem(authority.key))
    replace_file(folder / "ca.pem", authority.certificate.public_bytes(Encoding.PEM))
    write_private(folder / "keys" / "operator.key", operator.pem())
    first = member_list.successor(None, name, [], _milliseconds(now), operator.public.keys)
    _publish(folder, operator, first)
    return open_space(folder)


def open_space(folder: Path) -> Space:
    """The space in `folder`, its list verified. Raises ConfigError."""
    if not _members_file(folder).exists():
        raise ConfigError("space.missing", f"{folder} holds no data space: run `bayspace space init`")
    operator = load_signing_keys(folder / "keys" / "operator.key")
    authority = Authority(load_tls_key(folder / "keys" / "ca.key"), load_certificate(folder / "ca.pem"))
    try:
        envelope = dsse.parse(_members_file(folder).read_bytes())
        members = member_list.verify(envelope, operator.public.keys)
    except (OSError, dsse.EnvelopeInvalid, MembersInvalid) as error:
        raise ConfigError("space.members", f"{_members_file(folder)} is not this operator's list") from error
    return Space(folder, authority, operator, members)


def enrol(
    folder: Path,
    request_file: Path,
    *,
    address: str | None = None,
    jurisdiction: str | None = None,
    replace_keys: bool = False,
    now: datetime | None = None,
) -> Path:
    """Answer an enrolment request: a new member list, and the admission file to carry back.

    `address` and `jurisdiction` override what the request says. A member's renewal must be signed by its
    present evidence key; `replace_keys` waives that for a member that lost its keys, whose old keys then
    end at once.
    """
    now = now or utc_now()
    space = open_space(folder)
    request = _request(space, request_file, replace_keys)
    request = replace(
        request, address=address or request.address, jurisdiction=jurisdiction or request.jurisdiction
    )
    certificate = issue(
        space.authority, space.name, request.participant, request.role, request.csr, [request.address], now
    )
    others = [p for p in space.members.participants if p.id != request.participant]
    member = _member(space.members, request, certificate, replace_keys, now)
    if any(key.id in request.evidence.ids for other in others for key in other.keys):
        raise ConfigError("space.key-taken", "another member uses this evidence key")
    members, envelope = _follow(space, [*others, member], now)
    authority = (folder / "ca.pem").read_bytes()
    admission = Admission(space.name, request.participant, certificate, authority, envelope)
    path = folder / "history" / f"admission-{request.participant}-{members.version}.json"
    replace_file(path, sign_admission(admission, space.operator))
    return path


def enrol_local(folder: Path, seat: Seat, *, now: datetime | None = None) -> MemberList:
    """Enrol a participant of this machine in one go, and hand the new list to the others enrolled so."""
    now = now or utc_now()
    admission = enrol(folder, seat.folder / REQUEST_FILE, now=now)
    members = install(seat, admission.read_bytes(), now, open_space(folder).operator_key_id)
    _distribute(folder, members.space)
    _remember(folder, seat.trust)
    return members


def remove(folder: Path, participant: str, now: datetime | None = None) -> MemberList:
    """Take a member off the list; participants of this machine get the new list at once."""
    space = open_space(folder)
    if space.members.participant(participant) is None:
        raise ConfigError("space.no-member", "there is no member of that name")
    others = [p for p in space.members.participants if p.id != participant]
    return _renewed(space, others, now)


def certify(folder: Path, participant: str, claims: Iterable[str], now: datetime | None = None) -> MemberList:
    """Say in a new list which roles and claims a member has, in place of those before."""
    space = open_space(folder)
    member = space.members.participant(participant)
    if member is None:
        raise ConfigError("space.no-member", "there is no member of that name")
    wanted = tuple(sorted(set(claims)))
    if not all(member_list.CLAIM.fullmatch(claim) for claim in wanted):
        raise ConfigError("space.claim", "a claim is written role:name or claim:name")
    others = [p for p in space.members.participants if p.id != participant]
    return _renewed(space, [*others, replace(member, claims=wanted)], now)


def add_post_quantum_key(folder: Path, now: datetime | None = None) -> MemberList:
    """The list that names both of the operator's keys, made now if there is none, and the second key too.

    For a space from before the operator signed with ML-DSA-44. Doing it again changes nothing.
    """
    space = open_space(folder)
    if len(space.operator.keys) == 1:
        added = PrivateKey.from_seed(system_entropy(32), ML_DSA_44)
        together = PrivateKeys([*space.operator.keys, added])
        Folder(folder / "keys").write("operator.key", together.pem(), mode=0o600)
        space = open_space(folder)
    if space.members.operator_keys:
        return space.members
    return _renewed(space, space.members.participants, now)


def listing(folder: Path) -> MemberList:
    """The member list in force."""
    return open_space(folder).members


def _request(space: Space, path: Path, replace_keys: bool) -> Enrolment:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError("space.request", f"the enrolment request {path} cannot be read") from error
    claimed = read_request(data)
    if claimed.space != space.name:
        raise ConfigError("space.other", "the enrolment request is for another data space")
    known = space.members.participant(claimed.participant)
    if known is None or replace_keys:
        return claimed
    if known.role != claimed.role:
        raise ConfigError("space.name-taken", "a member of another role has this name")
    return read_request(data, [key.public for key in known.keys if key.valid_until is None])


def _member(
    members: MemberList, request: Enrolment, certificate: bytes, replaced: bool, now: datetime
) -> Participant:
    known = members.participant(request.participant)
    ends = _milliseconds(now if replaced else now + GRACE)
    before = {key.id: key for key in known.keys} if known else {}
    fresh = [before.pop(key.id, EvidenceKey(key, _milliseconds(now))) for key in request.evidence.keys]
    ended = [_ended(key, ends) for key in before.values()]
    return Participant(
        id=request.participant,
        role=request.role,
        keys=(*ended, *fresh),
        address=request.address,
        jurisdiction=request.jurisdiction,
        certificate=certificate_fingerprint(certificate),
        logs=request.logs,
        tiles=request.tiles,
        claims=known.claims if known else (),
    )


def _ended(key: EvidenceKey, at: int) -> EvidenceKey:
    return key if key.valid_until is not None and key.valid_until <= at else replace(key, valid_until=at)


def _renewed(space: Space, participants: Iterable[Participant], now: datetime | None) -> MemberList:
    """The next list, published and handed to the participants of this machine."""
    members, _ = _follow(space, participants, now or utc_now())
    _distribute(space.folder, space.name)
    return members


def _follow(
    space: Space, participants: Iterable[Participant], now: datetime
) -> tuple[MemberList, dsse.Envelope]:
    members = member_list.successor(
        space.members, space.name, participants, _milliseconds(now), space.operator.public.keys
    )
    return members, _publish(space.folder, space.operator, members)


def _publish(folder: Path, operator: PrivateKeys, members: MemberList) -> dsse.Envelope:
    envelope = member_list.sign(members, operator.keys)
    replace_file(folder / "history" / f"members-{members.version}.json", envelope.to_bytes())
    replace_file(_members_file(folder), envelope.to_bytes())
    return envelope


def _members_file(folder: Path) -> Path:
    return folder / "members.json"


def _milliseconds(now: datetime) -> int:
    return int(now.timestamp() * 1000)


# Which participants live on this machine: only so that they get new lists without being asked.


def _distribute(folder: Path, space: str) -> None:
    for trust in _local(folder, space):
        if trust.members.exists():
            adopt_members(trust, _members_file(folder).read_bytes())


def _remember(folder: Path, trust: Trust) -> None:
    known = {str(t.members.resolve()): str(t.operator_key.resolve()) for t in _local(folder, trust.space)}
    known[str(trust.members.resolve())] = str(trust.operator_key.resolve())
    replace_file(folder / "local.json", json.dumps(known, indent=1).encode())


def _local(folder: Path, space: str) -> list[Trust]:
    file = folder / "local.json"
    named: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    return [Trust(space, Path(operator_key), Path(members)) for members, operator_key in named.items()]
