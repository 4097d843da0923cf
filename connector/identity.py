"""Who a participant is on the wire: P-256 TLS keys, certificates that name it, and the checks on them.

A certificate carries the participant twice: as the URI `urn:bayspace:participant:<space>:<id>`, which a
server reads on every call, and as the DNS name `<id>.<space>.bayspace.internal`, which a client demands
of the server it dials. gRPC for Python does not show a client its server's certificate, so the client
lets TLS itself do the check: `channel_options` overrides the expected name with the participant's, and
the handshake fails for anybody else, wherever the address leads. Only the space's operator issues such
names, and refuses to issue one as a mere address.

TLS keys are P-256 because gRPC's TLS refuses Ed25519 certificates; evidence is signed with other keys,
Ed25519 and ML-DSA-44 together (`witness.keys`), which lie in one file. Refuses private keys that others
than their owner can read.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Literal

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from compute.errors import ConfigError, PeerViolation
from witness.encoding import system_entropy
from witness.keys import KeyInvalid, PrivateKeys
from witness.members import MemberList

Role = Literal["connector", "witness"]
ROLES: tuple[Role, ...] = ("connector", "witness")

CERTIFICATE_DAYS = 397
AUTHORITY_DAYS = 3650
BACKDATED = timedelta(minutes=5)  # a peer whose clock runs slow still accepts a fresh certificate
_SUFFIX = "bayspace.internal"
_NAME = re.compile(r"[a-z][a-z0-9-]{1,62}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a certificate names, and the SHA-256 of that certificate (hexadecimal)."""

    space: str
    participant: str
    role: Role
    fingerprint: str


@dataclass(frozen=True, slots=True)
class TlsPaths:
    """The three files of one end of a mutually authenticated connection."""

    key: Path
    certificate: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """The data space's certificate authority: signs participants, never another authority."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def __repr__(self) -> str:
        return "Authority(…)"


# --- names and addresses ------------------------------------------------------------------------------


def checked_name(text: str, what: str = "participant id") -> str:
    """`text` when it may name a participant or a space: `[a-z][a-z0-9-]{1,62}`. Raises ConfigError."""
    if text == "federation":  # compute/pooling.py's word, which stands before a federation's name in FROM
        raise ConfigError("identity.name", "'federation' stands for several participants in a query")
    if not _NAME.fullmatch(text):
        raise ConfigError(
            "identity.name", f"a {what} is 2 to 63 lower-case letters, digits and hyphens, a letter first"
        )
    return text


def participant_uri(space: str, participant: str) -> str:
    """The URI subject alternative name of a participant's certificate."""
    return f"urn:bayspace:participant:{space}:{participant}"


def tls_name(space: str, participant: str) -> str:
    """The DNS name under which a participant's certificate is demanded by its peers; never resolved."""
    return f"{participant}.{space}.{_SUFFIX}"


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as host and port. Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not port.isascii() or not port.isdecimal() or not 0 <= int(port) < 65536:
        raise ConfigError("identity.address", "an address is host:port, for example 192.0.2.7:7443")
    if not (_is_ip(host) or _HOST.fullmatch(host)):
        raise ConfigError("identity.address", "an address names a host or an IP address before its port")
    return host, int(port)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# --- private keys -------------------------------------------------------------------------------------


def write_private(path: Path, pem: bytes) -> None:
    """Write a new file that only its owner can read; refuses to replace one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigError("identity.key-exists", f"{path.name} exists already; it is not replaced") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())


def read_private(path: Path) -> bytes:
    """The bytes of a key file. Raises ConfigError when it is missing or anybody else may read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & 0o077:
                raise ConfigError(
                    "identity.key-exposed",
                    f"{path} is open to other users: chmod 600 it (and consider rotating it)",
                )
            return file.read()
    except OSError as error:
        raise ConfigError("identity.key-missing", f"the private key {path} cannot be read") from error


def new_tls_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def tls_key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 PEM of a TLS key, unencrypted: `write_private` it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_tls_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in a file that only its owner can read. Raises ConfigError."""
    try:
        key = load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError("identity.key", f"{path} is not an unencrypted private key in PEM form") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError("identity.key", f"{path} is not a P-256 key, which TLS here needs")
    return key


def new_signing_keys() -> PrivateKeys:
    """Fresh keys of a signer, Ed25519 and ML-DSA-44: a participant's for its evidence, or the operator's."""
    return PrivateKeys.generate(system_entropy)


def load_signing_keys(path: Path) -> PrivateKeys:
    """A signer's keys in a file that only its owner can read, one or both. Raises ConfigError."""
    try:
        return PrivateKeys.from_pem(read_private(path))
    except KeyInvalid as error:
        raise ConfigError("identity.key", f"{path}: {error}") from error


# --- certificates -------------------------------------------------------------------------------------


def signing_request(key: ec.EllipticCurvePrivateKey, participant: str) -> bytes:
    """A PEM certificate request: it proves possession of the key; the operator decides every name."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, participant)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM)


def new_authority(space: str, now: datetime) -> Authority:
    """A certificate authority of path length 0 for one data space."""
    key = new_tls_key()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, space),
            x509.NameAttribute(NameOID.COMMON_NAME, "bayspace CA"),
        ]
    )
    usage = _key_usage(signs_certificates=True)
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


def issue(
    authority: Authority,
    space: str,
    participant: str,
    role: Role,
    csr_pem: bytes,
    addresses: Sequence[str],
    now: datetime,
) -> bytes:
    """A PEM certificate for the key of `csr_pem`, naming `participant` and its addresses.

    Takes only the key from the request. Raises ConfigError when the request does not prove possession,
    is not P-256, or an address claims a name that only participants carry.
    """
    checked_name(space, "space name"), checked_name(participant)
    public = _requested_key(csr_pem)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, space),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, participant),
        ]
    )
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    usage = _key_usage(signs_certificates=False)
    certificate = (
        _builder(authority.certificate.subject, subject, public, now, CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(both, critical=False)
        .add_extension(_alternative_names(space, participant, addresses), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
        .sign(authority.key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def _requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_pem_x509_csr(csr_pem)
    except ValueError as error:
        raise ConfigError("identity.request", "the certificate request is not a PEM request") from error
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError("identity.request", "the certificate request is not for a P-256 key")
    if not request.is_signature_valid:
        raise ConfigError("identity.request", "the certificate request is not signed by its own key")
    return key


def _builder(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(space: str, participant: str, addresses: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(participant_uri(space, participant)),
        x509.DNSName(tls_name(space, participant)),
    ]
    for host in dict.fromkeys(split_address(address)[0].lower() for address in addresses):
        if host.rstrip(".").endswith(_SUFFIX):  # or one participant could pose as another
            raise ConfigError("identity.address", f"an address may not lie under {_SUFFIX}")
        names.append(x509.IPAddress(ipaddress.ip_address(host)) if _is_ip(host) else x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def load_certificate(path: Path) -> x509.Certificate:
    """The one certificate of a PEM file. Raises ConfigError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError("identity.certificate-missing", f"the certificate {path} cannot be read") from error
    except ValueError as error:
        raise ConfigError("identity.certificate", f"{path} is not a certificate in PEM form") from error


def certificate_fingerprint(pem: bytes) -> str:
    """SHA-256 over the DER form, in hexadecimal: how a member list pins a certificate."""
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex()


def verify_certificate(certificate: x509.Certificate, authority: x509.Certificate, now: datetime) -> Identity:
    """Whom `certificate` names, once it holds. Raises ConfigError: issuer, dates, names."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise ConfigError(
            "identity.chain", "the certificate was not issued by this data space's authority"
        ) from error
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ConfigError("identity.expired", "the certificate is not valid at this time")
    return named_by(certificate)


def named_by(certificate: x509.Certificate) -> Identity:
    """The participant a certificate names: its single URI. Raises ConfigError on any other form."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise ConfigError("identity.names", "the certificate names no participant") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    parts = uris[0].split(":") if len(uris) == 1 else []
    if len(parts) != 5 or parts[:3] != ["urn", "bayspace", "participant"] or len(units) != 1:
        raise ConfigError("identity.names", "the certificate does not name exactly one participant and role")
    space, participant, role = checked_name(parts[3]), checked_name(parts[4]), str(units[0].value)
    if role not in ROLES:
        raise ConfigError("identity.names", "the certificate names a role that does not exist")
    return Identity(space, participant, role, certificate.fingerprint(hashes.SHA256()).hex())


def same_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether `certificate` was issued for `key`."""
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate.public_key().public_bytes(*spki) == key.public_key().public_bytes(*spki)


# --- gRPC ---------------------------------------------------------------------------------------------


def server_credentials(paths: TlsPaths) -> grpc.ServerCredentials:
    """Credentials of a server that demands a certificate of the same data space from every caller."""
    key, chain, root = _tls_files(paths)
    return grpc.ssl_server_credentials([(key, chain)], root_certificates=root, require_client_auth=True)


def channel_credentials(paths: TlsPaths) -> grpc.ChannelCredentials:
    """Credentials of a caller. Use together with `channel_options`, which names the expected server."""
    key, chain, root = _tls_files(paths)
    return grpc.ssl_channel_credentials(root_certificates=root, private_key=key, certificate_chain=chain)


def channel_options(space: str, participant: str) -> tuple[tuple[str, str], ...]:
    """Channel options under which only `participant` can answer.

    INVARIANT: TLS compares this name with the server's certificate, so a channel made with these options
    talks to that participant or to nobody.
    """
    return (("grpc.ssl_target_name_override", tls_name(checked_name(space), checked_name(participant))),)


def peer_participant(
    context: grpc.ServicerContext, space: str, members: MemberList, role: Role = "connector"
) -> str:
    """The id of the member that calls. Raises PeerViolation for anybody who is not one in that role.

    TLS has verified chain and possession; here the certificate must also be the one the member list
    pins. One issued after that list passes too: its owner installed a renewal before we had the list.
    """
    pem = _peer_pem(context)
    found = _identity_of_pem(pem)
    member = members.participant(found.participant)
    if found.space != space or found.space != members.space or member is None:
        raise PeerViolation("identity.not-a-member", "the caller is not in this data space's member list")
    if not found.role == member.role == role:
        raise PeerViolation("identity.role", "the caller does not have the role that this call is for")
    if member.certificate != found.fingerprint and _issued(pem) <= members.issued_at:
        raise PeerViolation("identity.replaced", "the caller's certificate was replaced or withdrawn")
    return found.participant


def _peer_pem(context: grpc.ServicerContext) -> bytes:
    found = context.auth_context().get("x509_pem_cert", ())
    if len(found) != 1:
        raise PeerViolation("identity.unauthenticated", "the caller showed no certificate")
    return bytes(found[0])


@lru_cache(maxsize=1024)
def _issued(pem: bytes) -> int:
    before = x509.load_pem_x509_certificate(pem).not_valid_before_utc
    return int((before + BACKDATED).timestamp() * 1000)


@lru_cache(maxsize=1024)
def _identity_of_pem(pem: bytes) -> Identity:
    try:
        return named_by(x509.load_pem_x509_certificate(pem))
    except (ValueError, ConfigError) as error:
        raise PeerViolation("identity.names", "the caller's certificate names no participant") from error


def _tls_files(paths: TlsPaths) -> tuple[bytes, bytes, bytes]:
    # Loaded as objects first: gRPC accepts anything here and fails at the first handshake, without a reason.
    key, certificate = load_tls_key(paths.key), load_certificate(paths.certificate)
    if not same_key(certificate, key):
        raise ConfigError("identity.key", f"{paths.key} is not the key of {paths.certificate}")
    chain = certificate.public_bytes(Encoding.PEM)
    return tls_key_pem(key), chain, load_certificate(paths.authority).public_bytes(Encoding.PEM)


def utc_now() -> datetime:
    """The machine's clock, for the callers that may use it."""
    return datetime.now(UTC)
