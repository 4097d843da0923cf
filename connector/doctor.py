"""`bayspace connector doctor`: everything that must hold before a query can run, and what to do where not.

Checks files, certificates, member list, clock, state, disk, data, policies, witnesses and peers. Reads only,
but for one row of the state that is written to see that it can be. A check that itself fails is a finding,
never a crash, and no finding shows a key, a credential or a cell value.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import grpc

from compute.errors import BayspaceError, ConfigError
from connector import datasets, transfer_lists
from connector.config import ConnectorConfig
from connector.enrolment import load_members, operator_keys
from connector.evidence import checked_quorum, demanded_quorum
from connector.identity import (
    channel_credentials,
    channel_options,
    load_certificate,
    load_signing_keys,
    load_tls_key,
    same_key,
    split_address,
    tls_name,
    utc_now,
    verify_certificate,
)
from connector.storage import Store
from policy_enforcer import load as policies
from policy_enforcer import odrl
from policy_enforcer.problems import PolicyError
from witness import dsse
from witness.checks import VerificationFailed
from witness.client import WitnessClient, WitnessRejected, WitnessUnavailable
from witness.members import MemberList, Participant
from witness.note import NoteInvalid
from witness.note import parse as parse_note
from witness.policy import Policy
from witness.record import Record
from witness.schema import FormatError

EXPIRES_SOON = timedelta(days=30)
LIST_IS_OLD = timedelta(days=365)
MOST_SKEW = timedelta(seconds=60)  # half of what a peer refuses
LITTLE_DISK, TOO_LITTLE_DISK = 1 << 30, 100 << 20
DIAL_SECONDS = 3.0
LATE = timedelta(hours=1)

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `remedy` says what to do; empty when all is well."""

    check: str
    status: Status
    sentence: str
    remedy: str = ""


def examine(config: ConnectorConfig, now: datetime | None = None) -> list[Finding]:
    """Run every check; findings in the order in which a person would repair things."""
    moment = now or utc_now()
    found: list[Finding] = []
    for name, check, remedy in _CHECKS:
        try:
            found.extend(check(config, moment))
        except BayspaceError as error:
            found.append(Finding(name, "fail", error.sentence, remedy))
        except PolicyError as error:
            found.append(Finding(name, "fail", str(error), remedy))
        except Exception as error:  # noqa: BLE001  a library's message may quote a value; its type cannot
            found.append(Finding(name, "fail", f"the check itself failed ({type(error).__name__})", remedy))
    return found


# --- who we are ---------------------------------------------------------------------------------------


def _keys(config: ConnectorConfig, _now: datetime) -> Iterator[Finding]:
    key = load_tls_key(config.tls.key)
    evidence = load_signing_keys(config.evidence_key_path)
    ids = ", ".join(f"{key.public.algorithm} {key.public.id[:16]}…" for key in evidence.keys)
    alone = len(evidence.keys) == 1
    remedy = "`bayspace connector rotate` adds an ML-DSA-44 key" if alone else ""
    yield Finding("keys", "warn" if alone else "ok", f"TLS and evidence keys are private ({ids})", remedy)
    if config.tls.certificate.exists() and not same_key(load_certificate(config.tls.certificate), key):
        raise ConfigError("identity.key", "the certificate is for another key than this connector's")


def _certificate(config: ConnectorConfig, now: datetime) -> Iterator[Finding]:
    certificate = load_certificate(config.tls.certificate)
    named = verify_certificate(certificate, load_certificate(config.tls.authority), now)
    if (named.space, named.participant, named.role) != (config.space, config.participant, "connector"):
        raise ConfigError(
            "identity.names", "the certificate names another participant than the configuration"
        )
    left = certificate.not_valid_after_utc - now
    if left < EXPIRES_SOON:
        yield Finding(
            "certificate",
            "warn",
            f"the certificate expires in {left.days} days",
            "rotate keys and enrol again",
        )
    else:
        until = certificate.not_valid_after_utc.date()
        yield Finding("certificate", "ok", f"names {named.participant} of {named.space}, valid until {until}")


def _members(config: ConnectorConfig, now: datetime) -> Iterator[Finding]:
    members = load_members(config.trust)
    issued = _moment(members.issued_at)
    us = members.participant(config.participant)
    if us is None:
        raise ConfigError("members.absent", "the member list does not hold this participant: it was removed")
    named = verify_certificate(
        load_certificate(config.tls.certificate), load_certificate(config.tls.authority), now
    )
    if us.certificate != named.fingerprint:
        raise ConfigError(
            "members.certificate", "the member list holds another certificate than this connector's"
        )
    ours = load_signing_keys(config.evidence_key_path).public
    listed = [members.key(us.id, id_) for id_ in ours.ids]
    if not all(key is not None and key.valid_at(int(now.timestamp() * 1000)) for key in listed):
        raise ConfigError(
            "members.key", "the member list does not hold this connector's evidence key as valid"
        )
    operator = operator_keys(config.trust)
    said = f"version {members.version} of {issued.date()}, {len(members.participants)} members, operator "
    old = now - issued > LIST_IS_OLD
    remedy = "ask the operator whether there is a newer one" if old else ""
    yield Finding(
        "members", "warn" if old else "ok", said + (operator.fingerprint if operator else ""), remedy
    )
    if us.address != config.network.address:
        yield Finding(
            "members",
            "warn",
            f"others dial {us.address}, the configuration says {config.network.address}",
            "change network.address, or write a new enrolment request",
        )


def _clock(config: ConnectorConfig, now: datetime) -> Iterator[Finding]:
    issued = _moment(load_members(config.trust).issued_at)
    if issued - now > MOST_SKEW:
        yield Finding(
            "clock", "fail", "this clock is behind the member list's signature", "synchronise the clock"
        )
    with closing(Store.open(config.state_url)) as store:
        skews = dict(_skews(store, config.participant))
    for peer, skew in skews.items():
        if abs(skew) > MOST_SKEW:
            said = f"at the last exchange {peer} was {abs(skew).total_seconds():.0f} s off"
            yield Finding("clock", "warn", said, "synchronise both clocks")
    if issued - now <= MOST_SKEW and all(abs(skew) <= MOST_SKEW for skew in skews.values()):
        yield Finding("clock", "ok", f"agrees with the member list and {len(skews)} peers")


def _skews(store: Store, own: str) -> Iterator[tuple[str, timedelta]]:
    """Each peer's clock against ours, from the last record that both signed."""
    for exchange in store.exchanges()[-64:]:
        for kept in store.evidence(exchange.id):
            if kept.envelope is None:
                continue
            try:
                clocks = {p.id: p.clock for p in Record.parse(dsse.parse(kept.envelope).payload).parties}
            except (dsse.EnvelopeInvalid, FormatError):
                continue
            if len(clocks) == 2 and own in clocks and exchange.peer in clocks:
                yield exchange.peer, timedelta(milliseconds=clocks[exchange.peer] - clocks[own])


# --- what we stand on ---------------------------------------------------------------------------------


def _state(config: ConnectorConfig, now: datetime) -> Iterator[Finding]:
    with closing(Store.open(config.state_url)) as store:
        store.probe()
        waiting = store.outbox()
    yield Finding("state", "ok", "the database can be written")
    late = [item for item in waiting if now - _parsed(item.at) > LATE]
    if late:
        said = f"{len(late)} evidence records have waited for a witness for more than an hour"
        yield Finding("state", "warn", said, "see the witness findings; run `bayspace connector serve`")


def _machine(config: ConnectorConfig, _now: datetime) -> Iterator[Finding]:
    free = shutil.disk_usage(config.folder).free
    status: Status = "fail" if free < TOO_LITTLE_DISK else "warn" if free < LITTLE_DISK else "ok"
    yield Finding("disk", status, f"{free >> 20} MiB free", "" if status == "ok" else "make room")
    cores, memory = os.cpu_count() or 1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    if config.limits.threads > cores:
        yield Finding("machine", "warn", f"limits.threads exceeds this machine's {cores} cores", "lower it")
    if config.limits.memory_mib > memory:
        yield Finding("machine", "warn", f"limits.memory_mib exceeds this machine's {memory} MiB", "lower it")


def _data(config: ConnectorConfig, _now: datetime) -> Iterator[Finding]:
    with closing(Store.open(config.state_url)) as store:
        for record in store.datasets():
            try:
                source = datasets.open_dataset(config, store, record.name)
                for _ in source.scan(source.schema.names[:1]):
                    break
            except BayspaceError as error:
                yield Finding(
                    "data", "fail", f"{record.name}: {error.sentence}", "repair it, then add it again"
                )
            else:
                yield Finding(
                    "data", "ok", f"{record.name}, version {record.version}: readable and unchanged"
                )


def _policies(config: ConnectorConfig, now: datetime) -> Iterator[Finding]:
    with closing(Store.open(config.state_url)) as store:
        published = {offer.name: offer.policy_digest for offer in store.offers()}
    for path in sorted(config.datasets_folder.glob("*.yaml")):
        for offer, file in datasets.load(path).offers.items():
            yield _policy(config, offer, file, published.get(offer), now)


def _policy(config: ConnectorConfig, offer: str, file: str, digest: str | None, now: datetime) -> Finding:
    add = "run `bayspace dataset add`"
    try:
        policy = policies.load((config.policies_folder / file).read_text(encoding="utf-8"), file)
    except (OSError, UnicodeDecodeError):
        return Finding("policies", "fail", f"{offer}: policies/{file} cannot be read", "put it there")
    except PolicyError as error:
        return Finding("policies", "fail", f"{offer}: {error}", "run `bayspace policy lint`")
    try:
        named = datasets.check_named(config, policy, now)
    except ConfigError as error:
        return Finding("policies", "fail", f"{offer}: {error.sentence}", "put what it names in its place")
    if digest is None:
        return Finding("policies", "warn", f"{offer}: described but not published", add)
    if odrl.digest(policy).hex() != digest:
        return Finding("policies", "warn", f"{offer}: policies/{file} changed since it was published", add)
    for ending in transfer_lists.ending(policy, named, now + EXPIRES_SOON):
        return Finding("policies", "warn", f"{offer}: {ending}", "name the list that follows it")
    return Finding("policies", "ok", f"{offer}: policy {policy.policy} loads and is the one published")


# --- who we need --------------------------------------------------------------------------------------


def _witnesses(config: ConnectorConfig, _now: datetime) -> Iterator[Finding]:
    if not config.witness:
        remedy = "name one under [[witness]], unless no policy demands it"
        yield Finding("witness", "warn", "no witness is configured", remedy)
    members, quorum = load_members(config.trust), demanded_quorum(config)
    for configured in config.witness:
        member = members.participant(configured.id)
        if member is None or member.role != "witness" or not member.logs:
            yield Finding(
                "witness",
                "fail",
                f"the member list names no witness {configured.id}",
                "enrol it, or correct the id",
            )
        else:
            demanded = checked_quorum(quorum, member.id, member.logs)
            yield _witness(config, member, configured.address or member.address, demanded)


def _witness(config: ConnectorConfig, member: Participant, address: str, quorum: Policy | None) -> Finding:
    options = channel_options(config.space, member.id)
    credentials = channel_credentials(config.tls)
    try:
        with closing(WitnessClient(address, credentials, member.logs, options, DIAL_SECONDS)) as client:
            signed = parse_note(client.checkpoint())
            cosigned = quorum is None or quorum.satisfied_by(quorum.cosigners(signed).keys())
    except (WitnessUnavailable, WitnessRejected, VerificationFailed, NoteInvalid):
        return Finding(
            "witness",
            "fail",
            f"{member.id} does not answer at {address}",
            f"is it running? Does {address} lead there?",
        )
    if not cosigned:
        said = f"the checkpoint of {member.id} lacks the cosignatures that [evidence] quorum demands"
        remedy = "its operator's quorum must ask these witnesses; are they running?"
        return Finding("witness", "fail", said, remedy)
    return Finding("witness", "ok", f"{member.id} answers at {address}")


def _peers(config: ConnectorConfig, _now: datetime) -> Iterator[Finding]:
    members = load_members(config.trust)
    connectors = [member for member in members.participants if member.role == "connector"]
    with ThreadPoolExecutor(8) as pool:
        yield from pool.map(lambda member: _peer(config, members, member), connectors)


def _peer(config: ConnectorConfig, members: MemberList, member: Participant) -> Finding:
    own = member.id == config.participant
    who = "this connector" if own else member.id
    options = channel_options(members.space, member.id)
    with grpc.secure_channel(member.address, channel_credentials(config.tls), options=options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=DIAL_SECONDS)
        except grpc.FutureTimeoutError:
            host, port = split_address(member.address)
            name = tls_name(members.space, member.id)
            remedy = (
                "start it with `bayspace connector serve`" if own else f"check the way to {host}, port {port}"
            )
            return Finding("peers", "warn", f"{who} does not answer at {member.address} as {name}", remedy)
    return Finding("peers", "ok", f"{who} answers at {member.address}")


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _parsed(at: str) -> datetime:
    return datetime.fromisoformat(at)


_Check = Callable[[ConnectorConfig, datetime], Iterator[Finding]]
_ENROL = "let the operator answer enrolment.json and install the admission"
_CHECKS: tuple[tuple[str, _Check, str], ...] = (
    ("keys", _keys, "restore the key, or rotate keys and enrol again"),
    ("certificate", _certificate, _ENROL),
    ("members", _members, _ENROL),
    ("clock", _clock, _ENROL),
    ("state", _state, "check state.url, its permissions and its disk"),
    ("disk", _machine, "check the connector's folder"),
    ("data", _data, "check state.url"),
    ("policies", _policies, "correct the description"),
    ("witness", _witnesses, _ENROL),
    ("peers", _peers, _ENROL),
)
