"""RFC 3161 timestamps of a checkpoint: that a log's tree stood when an authority's clock said so.

The imprint is SHA-256 of the checkpoint's text (its three lines, without signatures). A token is verified
offline, with `cryptography` alone: the CMS signature (RFC 5652) by a certificate that is made for
timestamping only, that the token's ESSCertIDv2 names (RFC 5816), and that leads to an authority of the trust
file at the time that the token states. Refuses other digests than SHA-2 and tokens with several signers.
Asking for a token is `query` and `token_of`; fetching it is the caller's.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from witness import der
from witness.der import DerInvalid, Reader, context, element, only

T = TypeVar("T")
_SIGNED_DATA, _TST_INFO = "1.2.840.113549.1.7.2", "1.2.840.113549.1.9.16.1.4"
_CONTENT_TYPE, _MESSAGE_DIGEST = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
_CERTIFICATE, _CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.12", "1.2.840.113549.1.9.16.2.47"
_SHA256 = "2.16.840.1.101.3.4.2.1"
_SHA256_OID = element(der.OID, bytes.fromhex("608648016503040201"))
_HASHES: dict[str, hashes.HashAlgorithm] = {
    _SHA256: hashes.SHA256(),
    "2.16.840.1.101.3.4.2.2": hashes.SHA384(),
    "2.16.840.1.101.3.4.2.3": hashes.SHA512(),
}
# What our reader and the library's say of malformed bytes.
_MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
LARGEST_TOKEN = 64 * 1024
_TIME = re.compile(r"([0-9]{14})(?:\.[0-9]+)?Z")


class TimestampInvalid(ValueError):
    """Not a timestamp of this checkpoint, or not one that an accepted authority made."""


class AuthorityUnknown(TimestampInvalid):
    """A timestamp whose authority the trust file does not name: it says nothing to this verifier."""


@dataclass(frozen=True)
class Timestamp:
    """What a token that holds says: the authority's name, and when (seconds since 1970)."""

    authority: str
    at: int


@dataclass(frozen=True)
class _Token:
    info: bytes
    certificates: tuple[x509.Certificate, ...]
    digest: hashes.HashAlgorithm
    attributes: bytes
    signature: bytes


def imprint(checkpoint: str) -> bytes:
    """What is timestamped: SHA-256 of a checkpoint's text."""
    return hashlib.sha256(checkpoint.encode()).digest()


def query(checkpoint: str, nonce: bytes) -> bytes:
    """A TimeStampReq for this checkpoint, which asks for the authority's certificate too."""
    algorithm = element(der.SEQUENCE, _SHA256_OID, element(der.NULL))
    hashed = element(der.SEQUENCE, algorithm, element(der.OCTETS, imprint(checkpoint)))
    number = der.integer(int.from_bytes(nonce, "big"))
    return element(der.SEQUENCE, der.integer(1), hashed, number, element(0x01, b"\xff"))


def token_of(response: bytes) -> bytes:
    """The token in a TimeStampResp. Raises TimestampInvalid when the authority did not grant one."""
    try:
        outer = only(response, der.SEQUENCE)
        status = outer.inside(der.SEQUENCE).integer()
        if status not in (0, 1):
            raise TimestampInvalid(f"the authority refused with PKI status {status}")
        token = outer.take(der.SEQUENCE).encoded
        outer.end()
    except DerInvalid as error:
        raise TimestampInvalid(f"the answer is no timestamp response: {error}") from error
    return token


def imprinted(token: bytes) -> bytes:
    """The SHA-256 that a token is about. Says nothing about who made it. Raises TimestampInvalid."""
    return _read(lambda: _info(_signed_data(token).info)[0])


def verify(token: bytes, checkpoint: str, authorities: Sequence[x509.Certificate]) -> Timestamp:
    """Who timestamped this checkpoint, and when. Raises TimestampInvalid."""
    return _read(lambda: _verify(token, checkpoint, authorities))


def _read(read: Callable[[], T]) -> T:
    """What `read` returns; whatever malformed bytes make it raise becomes TimestampInvalid."""
    try:
        return read()
    except TimestampInvalid:
        raise
    except _MALFORMED as error:
        raise TimestampInvalid("not a timestamp token of a form that this version knows") from error


def _verify(token: bytes, checkpoint: str, authorities: Sequence[x509.Certificate]) -> Timestamp:
    # 1. The token is one signed TSTInfo about this checkpoint.
    parsed = _signed_data(token)
    hashed, at = _info(parsed.info)
    if hashed != imprint(checkpoint):
        raise TimestampInvalid("the timestamp is of another checkpoint")
    # 2. The certificate it names leads to an accepted authority, and is for timestamping only.
    signer = _signer(parsed)
    _check_chain(signer, parsed.certificates, authorities, at)
    # 3. That certificate's key signed it.
    _check_signature(signer, parsed)
    return Timestamp(signer.subject.rfc4514_string(), int(at.timestamp()))


def _signed_data(token: bytes) -> _Token:
    if len(token) > LARGEST_TOKEN:
        raise TimestampInvalid(f"a timestamp is at most {LARGEST_TOKEN} bytes")
    outer = only(token, der.SEQUENCE)
    if outer.oid() != _SIGNED_DATA:
        raise TimestampInvalid("not CMS signed data")
    data = outer.inside(context(0)).inside(der.SEQUENCE)
    data.integer()
    data.take(der.SET)  # digest algorithms: each signer names its own
    content = data.inside(der.SEQUENCE)
    if content.oid() != _TST_INFO:
        raise TimestampInvalid("the signed data is no timestamp")
    info = content.inside(context(0)).take(der.OCTETS).content
    held = data.optional(context(0))
    data.optional(context(1))  # revocation lists: five years on, the authority's status then is what counts
    signers = data.inside(der.SET)
    digest, attributes, signature = _signer_info(signers.inside(der.SEQUENCE))
    signers.end()
    certificates = tuple(_certificates(Reader(held.content if held else b"")))
    return _Token(info, certificates, digest, attributes, signature)


def _certificates(held: Reader) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(e.encoded) for e in held if e.tag == der.SEQUENCE]


def _signer_info(signer: Reader) -> tuple[hashes.HashAlgorithm, bytes, bytes]:
    signer.integer()
    signer.any()  # which certificate: the signed attribute says it, and this does not
    digest = _digest(signer.inside(der.SEQUENCE).oid())
    attributes = signer.take(context(0)).content
    signer.take(der.SEQUENCE)  # the signature algorithm: the key and the digest determine it
    return digest, attributes, signer.take(der.OCTETS).content


def _digest(oid: str) -> hashes.HashAlgorithm:
    if oid not in _HASHES:
        raise TimestampInvalid("a digest other than SHA-2")
    return _HASHES[oid]


def _info(data: bytes) -> tuple[bytes, datetime]:
    """Imprint and time of a TSTInfo."""
    info = only(data, der.SEQUENCE)
    if info.integer() != 1:
        raise TimestampInvalid("a timestamp of another version than 1")
    info.oid()  # the authority's policy
    hashed = info.inside(der.SEQUENCE)
    if hashed.inside(der.SEQUENCE).oid() != _SHA256:
        raise TimestampInvalid("the timestamp's imprint is not SHA-256")
    digest = hashed.take(der.OCTETS).content
    info.integer()  # its serial number
    return digest, _time(info.take(der.GENERALIZED_TIME).content.decode("ascii"))


def _time(text: str) -> datetime:
    match = _TIME.fullmatch(text)
    if not match:
        raise TimestampInvalid("the timestamp's time is not UTC to the second")
    return datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def _signer(token: _Token) -> x509.Certificate:
    """The one certificate that the signed attributes name; the attributes are about this content."""
    named = _attributes(token.attributes)
    if _CONTENT_TYPE not in named or Reader(named[_CONTENT_TYPE]).oid() != _TST_INFO:
        raise TimestampInvalid("the signed attributes are of another content")
    if named.get(_MESSAGE_DIGEST) != element(der.OCTETS, _hash(token.digest, token.info)):
        raise TimestampInvalid("the signed attributes are of another content")
    digest, name = _named_certificate(named)
    for certificate in token.certificates:
        if certificate.fingerprint(digest) == name:
            return certificate
    raise TimestampInvalid("the authority's certificate is not in the token: ask with a certificate request")


def _attributes(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for item in Reader(data):
        attribute = Reader(item.content)
        name, values = attribute.oid(), attribute.inside(der.SET)
        attribute.end()
        if name in found:
            raise TimestampInvalid("a signed attribute stands twice")
        found[name] = values.any().encoded
        values.end()
    return found


def _named_certificate(attributes: dict[str, bytes]) -> tuple[hashes.HashAlgorithm, bytes]:
    """Digest and value of the ESSCertIDv2, or of the SHA-1 ESSCertID of older authorities."""
    newer = attributes.get(_CERTIFICATE_V2)
    data = newer or attributes.get(_CERTIFICATE)
    if data is None:
        raise TimestampInvalid("the timestamp does not say which certificate signed it")
    first = only(data, der.SEQUENCE).inside(der.SEQUENCE).inside(der.SEQUENCE)
    if newer is None:
        return hashes.SHA1(), first.take(der.OCTETS).content  # noqa: S303  it names; the chain decides
    algorithm = first.optional(der.SEQUENCE)
    digest = _HASHES[_SHA256] if algorithm is None else _digest(Reader(algorithm.content).oid())
    return digest, first.take(der.OCTETS).content


def _check_chain(
    signer: x509.Certificate,
    others: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    at: datetime,
) -> None:
    _check_purpose(signer)
    if not authorities:
        raise AuthorityUnknown("the trust file names no timestamp authority")
    verifier = (
        PolicyBuilder()
        .store(Store(list(authorities)))
        .time(at)
        .extension_policies(
            ca_policy=ExtensionPolicy.webpki_defaults_ca(),
            ee_policy=ExtensionPolicy.permit_all().require_present(
                x509.ExtendedKeyUsage, Criticality.CRITICAL, None
            ),
        )
        .build_client_verifier()
    )
    try:
        verifier.verify(signer, [c for c in others if c != signer])
    except VerificationError as error:
        raise AuthorityUnknown(
            "the timestamp's certificate does not lead to an authority of the trust file at that time"
        ) from error


def _check_purpose(signer: x509.Certificate) -> None:
    """RFC 3161 section 2.3: one extended key usage, timestamping, and critical."""
    try:
        usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except (x509.ExtensionNotFound, ValueError) as error:
        raise TimestampInvalid("the certificate is not for timestamping") from error
    if not usage.critical or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise TimestampInvalid("the certificate is not for timestamping only")


def _check_signature(signer: x509.Certificate, token: _Token) -> None:
    # RFC 5652 section 5.4: what is signed carries the tag of a SET, not the implicit one that travels.
    signed = element(der.SET, token.attributes)
    key: Any = signer.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(token.signature, signed, padding.PKCS1v15(), token.digest)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(token.signature, signed, ec.ECDSA(token.digest))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(token.signature, signed)
        else:
            raise TimestampInvalid("the authority signs with an algorithm that this version does not know")
    except InvalidSignature as error:
        raise TimestampInvalid("the authority's signature does not hold") from error


def _hash(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    return hashlib.new(algorithm.name, data).digest()
