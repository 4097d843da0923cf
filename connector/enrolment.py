"""Joining a data space, seen from the participant: the request it makes, the admission it installs, the
member list it then lives by.

A request is signed by the evidence keys it names (proof of possession), and a renewal by the keys before
them as well, all of them. An admission is signed by the space's operator and holds certificate, authority
and member list together; its operator key is pinned when the first one is installed. Refuses admissions by
any other operator, certificates for keys that are not ours, and member lists older than the one in force.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from cryptography import x509

from compute.errors import ConfigError
from connector.identity import (
    ROLES,
    Role,
    TlsPaths,
    checked_name,
    load_signing_keys,
    load_tls_key,
    new_signing_keys,
    new_tls_key,
    same_key,
    signing_request,
    split_address,
    tls_key_pem,
    verify_certificate,
    write_private,
)
from witness import canonical, dsse
from witness import members as member_list
from witness.encoding import b64
from witness.keys import (
    ED25519,
    ML_DSA_44,
    KeyInvalid,
    PrivateKey,
    PrivateKeys,
    PublicKey,
    PublicKeys,
    SignatureInvalid,
)
from witness.members import MemberList, MembersInvalid
from witness.schema import ID, LINE, TOKEN, VKEY, Fields, FormatError, text_list

REQUEST_TYPE = "application/vnd.bayspace.enrolment.v1+json"
ADMISSION_TYPE = "application/vnd.bayspace.admission.v1+json"
REQUEST_FILE = "enrolment.json"
_EVIDENCE_FIELDS = {ED25519: "evidence", ML_DSA_44: "evidence_ml_dsa_44"}
_OPERATOR_FIELDS = {ED25519: "operator", ML_DSA_44: "operator_ml_dsa_44"}


@dataclass(frozen=True, slots=True)
class Trust:
    """What a participant holds its peers against: the operator it pinned and the list that one signed."""

    space: str
    operator_key: Path
    members: Path


@dataclass(frozen=True, slots=True)
class Seat:
    """What one participant is in its space, and where its files lie. The same for every role."""

    participant: str
    role: Role
    address: str
    jurisdiction: str
    folder: Path
    tls: TlsPaths
    evidence_key: Path
    trust: Trust
    logs: tuple[str, ...] = ()  # a witness's verifier keys
    tiles: str | None = None  # where a witness serves its tiles


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A request to be a member: what the operator must know, and nothing secret."""

    space: str
    participant: str
    role: Role
    address: str
    jurisdiction: str
    csr: bytes
    evidence: PublicKeys
    logs: tuple[str, ...] = ()
    tiles: str | None = None

    def to_payload(self) -> bytes:
        """The canonical bytes that are signed."""
        fields: dict[str, Any] = {
            "address": self.address,
            "csr": b64(self.csr),
            "jurisdiction": self.jurisdiction,
            "logs": list(self.logs),
            "participant": self.participant,
            "role": self.role,
            "space": self.space,
        }
        fields |= {_EVIDENCE_FIELDS[key.algorithm]: b64(key.raw) for key in self.evidence.keys}
        return canonical.serialise(fields if self.tiles is None else {**fields, "tiles": self.tiles})


@dataclass(frozen=True, slots=True)
class Admission:
    """What the operator answers: certificate and authority (PEM) and the signed member list."""

    space: str
    participant: str
    certificate: bytes
    authority: bytes
    members: dsse.Envelope

    def to_payload(self, operator: PublicKeys) -> bytes:
        """The canonical bytes that the operator signs; they name its keys, for the first contact."""
        fields: dict[str, Any] = {
            "authority": b64(self.authority),
            "certificate": b64(self.certificate),
            "members": self.members.to_json(),
            "participant": self.participant,
            "space": self.space,
        }
        return canonical.serialise(
            fields | {_OPERATOR_FIELDS[key.algorithm]: b64(key.raw) for key in operator.keys}
        )


# --- the request --------------------------------------------------------------------------------------


def create_keys(seat: Seat) -> None:
    """Make the seat's private keys. Refuses to replace one."""
    write_private(seat.tls.key, tls_key_pem(new_tls_key()))
    write_private(seat.evidence_key, new_signing_keys().pem())


def write_request(seat: Seat) -> Path:
    """Write the enrolment request for the seat's present keys; returns its path."""
    return _write_request(seat, seat.tls.key, load_signing_keys(seat.evidence_key))


def rotate(seat: Seat) -> Path:
    """Make the next TLS and evidence keys and a request for them; `install` puts them in force.

    A participant of Ed25519 alone thereby gets its ML-DSA-44 key.
    """
    key, evidence = _next(seat.tls.key), _next(seat.evidence_key)
    for path, pem in ((key, tls_key_pem(new_tls_key())), (evidence, new_signing_keys().pem())):
        path.unlink(missing_ok=True)  # a rotation that was never answered is replaced
        write_private(path, pem)
    return _write_request(seat, key, load_signing_keys(evidence), load_signing_keys(seat.evidence_key).keys)


def _write_request(
    seat: Seat, tls_key: Path, evidence: PrivateKeys, before: Sequence[PrivateKey] = ()
) -> Path:
    request = Enrolment(
        seat.trust.space,
        seat.participant,
        seat.role,
        seat.address,
        seat.jurisdiction,
        signing_request(load_tls_key(tls_key), seat.participant),
        evidence.public,
        seat.logs,
        seat.tiles,
    )
    path = seat.folder / REQUEST_FILE
    signed = dsse.sign(REQUEST_TYPE, request.to_payload(), [*evidence.keys, *before])
    replace_file(path, signed.to_bytes())
    return path


def read_request(data: bytes, current: Sequence[PublicKey] = ()) -> Enrolment:
    """The request in these bytes, signed by the keys it names and, when given, all of `current`.

    Raises ConfigError.
    """
    try:
        envelope = dsse.parse(data)
        request = _parse_request(envelope)
        for key in request.evidence.keys:
            envelope.verify(key)
    except (dsse.EnvelopeInvalid, FormatError, KeyInvalid, SignatureInvalid) as error:
        raise ConfigError(
            "enrolment.request", f"the enrolment request cannot be accepted: {error}"
        ) from error
    if not all(_signed(envelope, key) for key in current):
        raise ConfigError(
            "enrolment.not-the-member",
            "the participant is a member already, and its present evidence keys did not sign this request",
        )
    return request


def _keys(f: Fields, names: Mapping[str, str]) -> PublicKeys:
    named = {algorithm: f.optional(name, f.base64) for algorithm, name in names.items()}
    return PublicKeys.of(PublicKey(algorithm, raw) for algorithm, raw in named.items() if raw is not None)


def _signed(envelope: dsse.Envelope, key: PublicKey) -> bool:
    try:
        envelope.verify(key)
    except SignatureInvalid:
        return False
    return True


def _parse_request(envelope: dsse.Envelope) -> Enrolment:
    if envelope.payload_type != REQUEST_TYPE:
        raise FormatError("it is not an enrolment request")
    with Fields(_canonical(envelope.payload), "request") as f:
        role = f.text("role", ID)
        request = Enrolment(
            space=checked_name(f.text("space", ID), "space name"),
            participant=checked_name(f.text("participant", ID)),
            role=cast(Role, role),
            address=f.text("address", LINE),
            jurisdiction=f.text("jurisdiction", TOKEN),
            csr=f.base64("csr"),
            evidence=_keys(f, _EVIDENCE_FIELDS),
            logs=text_list(f.take("logs"), VKEY, "request.logs"),
            tiles=f.optional("tiles", lambda name: f.text(name, LINE)),
        )
    if role not in ROLES:
        raise FormatError("request.role is not a role that this version knows")
    split_address(request.address)
    return request


# --- the admission ------------------------------------------------------------------------------------


def sign_admission(admission: Admission, operator: PrivateKeys) -> bytes:
    """The admission as the file that a participant installs."""
    return dsse.sign(ADMISSION_TYPE, admission.to_payload(operator.public), operator.keys).to_bytes()


def install(seat: Seat, data: bytes, now: datetime, operator_key_id: str | None = None) -> MemberList:
    """Check an admission and put it in force; returns the member list.

    At the first installation there is nothing to hold the operator's keys against: pass `operator_key_id`,
    as the operator told it over another channel, or compare it afterwards (`bayspace space list` and
    `connector doctor` both print it). Raises ConfigError and changes nothing when anything is wrong.
    """
    admission, operator = _read_admission(data, operator_keys(seat.trust), operator_key_id)
    certificate, authority = _certificates(admission)
    named = verify_certificate(certificate, authority, now)
    if (named.space, named.participant, named.role) != (seat.trust.space, seat.participant, seat.role):
        raise ConfigError("enrolment.other-participant", "the admission is for another participant")
    tls_key = _the_one(seat.tls.key, lambda path: same_key(certificate, load_tls_key(path)))
    members = _verified(admission.members, seat.trust.space, operator)
    _check_newer(_current(seat.trust, operator), members)
    entry = members.participant(seat.participant)
    listed = {key.id for key in entry.keys} if entry else set()
    if entry is None or entry.certificate != named.fingerprint:
        raise ConfigError("enrolment.members", "the member list does not hold the admission's certificate")
    evidence = _the_one(seat.evidence_key, lambda path: listed.issuperset(load_signing_keys(path).public.ids))
    replace_file(seat.trust.operator_key, operator.pem())
    replace_file(seat.tls.authority, admission.authority)
    replace_file(seat.tls.certificate, admission.certificate)
    # Renamed over the old keys, which are thereby destroyed: nobody may sign with them any more.
    for used, path in ((tls_key, seat.tls.key), (evidence, seat.evidence_key)):
        if used != path:
            used.rename(path)
    replace_file(seat.trust.members, admission.members.to_bytes())
    return members


def adopt_members(trust: Trust, data: bytes) -> bool:
    """Take over a newer member list, whoever carried it; False when it is the one in force.

    Raises ConfigError for a list that is older, forked or not the pinned operator's.
    """
    operator = operator_keys(trust)
    if operator is None:
        raise ConfigError("enrolment.not-installed", "install an admission first: no operator key is known")
    try:
        envelope = dsse.parse(data)
    except dsse.EnvelopeInvalid as error:
        raise ConfigError("enrolment.members", f"the member list cannot be read: {error}") from error
    members, current = _verified(envelope, trust.space, operator), _current(trust, operator)
    if current is not None and current.digest == members.digest:
        return False
    _check_newer(current, members)
    replace_file(trust.members, data)
    return True


def _read_admission(
    data: bytes, known: PublicKeys | None, operator_key_id: str | None
) -> tuple[Admission, PublicKeys]:
    try:
        envelope = dsse.parse(data)
        if envelope.payload_type != ADMISSION_TYPE:
            raise FormatError("it is not an admission")
        with Fields(_canonical(envelope.payload), "admission") as f:
            operator = _keys(f, _OPERATOR_FIELDS)
            admission = Admission(
                space=f.text("space", ID),
                participant=f.text("participant", ID),
                certificate=f.base64("certificate"),
                authority=f.base64("authority"),
                members=dsse.from_json(f.take("members")),
            )
        for key in operator.keys:
            envelope.verify(key)
    except (dsse.EnvelopeInvalid, FormatError, KeyInvalid, SignatureInvalid) as error:
        raise ConfigError("enrolment.admission", f"the admission cannot be accepted: {error}") from error
    ours = known is None or set(operator.keys).issuperset(known.keys)  # it may have got its second key since
    if not ours or operator_key_id not in (None, operator.fingerprint):
        raise ConfigError("enrolment.operator", "the admission is signed by another operator than expected")
    return admission, operator


def _certificates(admission: Admission) -> tuple[x509.Certificate, x509.Certificate]:
    try:
        return (
            x509.load_pem_x509_certificate(admission.certificate),
            x509.load_pem_x509_certificate(admission.authority),
        )
    except ValueError as error:
        raise ConfigError("enrolment.admission", "the admission holds an unreadable certificate") from error


def _the_one(path: Path, fits: Callable[[Path], bool]) -> Path:
    """The successor of `path` or `path` itself, whichever the admission is about."""
    for candidate in (_next(path), path):
        if candidate.exists() and fits(candidate):
            return candidate
    raise ConfigError("enrolment.other-key", f"the admission is for another key than {path.name}")


def _next(path: Path) -> Path:
    return path.with_name(f"{path.name}.next")


# --- the member list in force -------------------------------------------------------------------------


class Members:
    """The member list in force, read again whenever its file changes. Safe to share between threads."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._list: MemberList | None = None

    def current(self) -> MemberList:
        """The verified list. Raises ConfigError when there is none that the pinned operator signed."""
        with self._lock:
            stamp = self._file_stamp()
            if self._list is None or stamp != self._stamp:
                self._list, self._stamp = load_members(self._trust), stamp
            return self._list

    def _file_stamp(self) -> tuple[int, int, int]:
        try:
            found = self._trust.members.stat()
        except OSError as error:
            raise ConfigError(
                "enrolment.not-installed", f"no member list at {self._trust.members}: install an admission"
            ) from error
        return found.st_mtime_ns, found.st_ino, found.st_size


def load_members(trust: Trust) -> MemberList:
    """The member list on disk, signed by the pinned operator. Raises ConfigError."""
    operator = _pinned(trust)
    found = _current(trust, operator) if operator else None
    if found is None:
        raise ConfigError(
            "enrolment.not-installed",
            f"not enrolled yet: let the operator answer {REQUEST_FILE}, then install the admission",
        )
    return found


def operator_keys(trust: Trust) -> PublicKeys | None:
    """The operator's keys that this participant trusts; None before the first installation.

    Those of the first admission; and the second one, once a list that the first one signed has named it.
    """
    pinned = _pinned(trust)
    current = _current(trust, pinned) if pinned else None
    return PublicKeys(current.operator_keys) if current and current.operator_keys else pinned


def _pinned(trust: Trust) -> PublicKeys | None:
    if not trust.operator_key.exists():
        return None
    try:
        return PublicKeys.from_pem(trust.operator_key.read_bytes())
    except (OSError, KeyInvalid) as error:
        raise ConfigError(
            "enrolment.operator", f"{trust.operator_key} does not hold public keys in PEM form"
        ) from error


def _current(trust: Trust, operator: PublicKeys) -> MemberList | None:
    if not trust.members.exists():
        return None
    try:
        envelope = dsse.parse(trust.members.read_bytes())
    except (OSError, dsse.EnvelopeInvalid) as error:
        raise ConfigError("enrolment.members", f"{trust.members} is not a signed member list") from error
    # One from before the operator had its second key is in force until the next.
    return _verified(envelope, trust.space, operator, settled=False)


def _verified(
    envelope: dsse.Envelope, space: str, operator: PublicKeys, *, settled: bool = True
) -> MemberList:
    """The list, which names all the keys of an operator that has two when they are settled."""
    both = operator.keys if settled and len(operator.keys) > 1 else ()
    try:
        members = member_list.verify(envelope, operator.keys, both)
    except MembersInvalid as error:
        raise ConfigError("enrolment.members", str(error)) from error
    if members.space != space:
        raise ConfigError("enrolment.members", "the member list is another data space's")
    return members


def _check_newer(current: MemberList | None, offered: MemberList) -> None:
    if current is None or current.digest == offered.digest:
        return
    if offered.version <= current.version:  # else a removed member could bring itself back
        raise ConfigError(
            "enrolment.rollback", "the member list is older than the one in force, or its rival"
        )
    if offered.version == current.version + 1 and offered.previous != current.digest:
        raise ConfigError("enrolment.fork", "the member list does not follow from the one in force")


# --- files --------------------------------------------------------------------------------------------


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a reader sees the old or the new content, after a crash too."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _canonical(payload: bytes) -> Any:
    try:
        return canonical.parse(payload)
    except canonical.CanonicalError as error:
        raise FormatError(f"it is {error}") from error
