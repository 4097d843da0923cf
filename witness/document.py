"""The carried document, version 1: a document, its opening, and the proof that its issuer recorded it.

An issuer records `document.commitment`: SHA-256(label || salt || SHA-256(document)), so that neither the log
nor whoever sees the record learns the document or can guess it. The holder carries one file: the document
and the bundle that opens the commitment. A verifier on the other side of a border needs that file and its
own trust file; neither issuer nor log is asked. The document may also travel beside the file.

Refuses a file with unknown fields, more than one record, and everything that does not hold, each with its
own code. What it cannot say is whether the document is true: it says who stands by it, since when.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from witness import bundle as bundles
from witness import canonical, dsse
from witness import trust as trusts
from witness import verify as verifier
from witness.bundle import Bundle, Item, Opening
from witness.checks import VerificationFailed
from witness.dsse import Envelope, EnvelopeInvalid
from witness.encoding import b64, format_time
from witness.members import MemberList
from witness.record import Data, Record, commit
from witness.schema import Fields, FormatError
from witness.trust import Trust
from witness.verify import VerifiedItem

FORMAT = "bayspace-document/v1"
COMMITTED, VERIFIED = "document.commitment", "document.verification"
NAME = "document"
ISSUANCE = "issuance"
CODES = (  # beside those of a bundle (checks.CODES)
    "altered",  # a byte of the carried file changed since it was made
    "issuer",  # another issuer than expected, or one that the data space does not know
    "revoked",  # the issuer, or the issuer's key, has been withdrawn since
    "document",  # not the document that was committed to
)
LARGEST_DOCUMENT = 40 * 1024 * 1024
LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True)
class Carried:
    """A carried file: the bundle with the opened commitment, and the document unless it travels beside."""

    bundle: bytes
    document: bytes | None
    intact: bool = True


@dataclass(frozen=True)
class VerifiedDocument:
    """A document that holds: its SHA-256, its bytes when the file carries them, and the issuer's record.

    current: version of the newer member list by which the issuer still stands; None when none was given.
    """

    digest: bytes
    content: bytes | None
    issued: VerifiedItem
    current: int | None

    @property
    def issuer(self) -> str:
        """The participant that stands by the document."""
        return self.issued.record.author


def opening_of(digest: bytes, salt: bytes) -> Opening:
    """What opens the commitment to a document with this SHA-256."""
    return Opening(NAME, salt, digest)


def committed(opening: Opening) -> Data:
    """What the issuer's record holds about the document."""
    return Data(commitments={NAME: commit(NAME, opening.salt, opening.value)})


def checked(openings: Sequence[Opening]) -> Data:
    """What a verifier's record holds: own salts, so that it links to nothing until it is opened."""
    return Data(commitments={o.name: commit(o.name, o.salt, o.value) for o in openings})


def presented(data: bytes, digest: bytes | None) -> dict[str, bytes] | None:
    """What a carried file presents, whether it holds or not: its document and the record of its issuance.

    None when it is so broken that there is nothing to name.
    """
    try:
        carried = parse(data)
        payload = bundles.parse(carried.bundle)[0].items[0].envelope.payload
    except FormatError:
        return None
    found = digest if carried.document is None else hashlib.sha256(carried.document).digest()
    return None if found is None else {NAME: found, ISSUANCE: hashlib.sha256(payload).digest()}


def check_size(document: bytes) -> None:
    """Raises FormatError for a document that no carried file holds."""
    if len(document) > LARGEST_DOCUMENT:
        raise FormatError(f"a carried document is at most {LARGEST_DOCUMENT} bytes; let it travel beside")


def build(item: Item, members: Sequence[Envelope], document: bytes | None) -> bytes:
    """A carried file's bytes. document: None to let it travel beside. Raises FormatError."""
    if document is not None:
        check_size(document)
    body = _body(bundles.build([item], members), document)
    return canonical.serialise({**body, "checksum": _checksum(body)})


def parse(data: bytes) -> Carried:
    """The carried file in `data`; `intact` says whether its checksum matches. Raises FormatError."""
    if len(data) > LARGEST:
        raise FormatError(f"a carried file is at most {LARGEST} bytes")
    try:
        value = canonical.parse(data)
    except canonical.CanonicalError as error:
        raise FormatError(str(error)) from error
    with Fields(value, "the carried file") as f:
        f.literal("format", FORMAT)
        checksum, bundle = f.take("checksum"), f.take("bundle")
        document = f.optional("document", f.base64)
    body = _body(canonical.serialise(bundle), document)
    return Carried(canonical.serialise(bundle), document, checksum == _checksum(body))


def verify_files(
    data: bytes,
    trust: bytes,
    *,
    digest: bytes | None = None,
    issuer: str | None = None,
    newest: bytes | None = None,
) -> VerifiedDocument:
    """`verify` on the bytes of the files."""
    try:
        trusted = trusts.parse(trust)
    except FormatError as error:
        raise VerificationFailed("format", f"The trust file is malformed: {error}.") from error
    try:
        members = None if newest is None else dsse.parse(newest)
    except EnvelopeInvalid as error:
        raise VerificationFailed("members", f"The member list is malformed: {error}.") from error
    return verify(data, trusted, digest=digest, issuer=issuer, newest=members)


def verify(
    data: bytes,
    trust: Trust,
    *,
    digest: bytes | None = None,
    issuer: str | None = None,
    newest: Envelope | None = None,
) -> VerifiedDocument:
    """The document of a carried file, verified offline. Raises VerificationFailed.

    digest: SHA-256 of a document that travelled beside the file. issuer: who must have issued it.
    newest: the member list in force today, which tells whether the issuer still stands.
    """
    # 1. The file is whole, and holds one record: a commitment to one document.
    carried = _intact(data)
    bundle, record = _the_commitment(carried.bundle)
    # 2. The issuer is the expected one, and a member of the data space.
    lists = verifier.check_members(bundle, trust)
    _check_issuer(record, lists, issuer)
    # 3. The log, the signature and the opening hold.
    issued = verifier.verify(carried.bundle, trust).items[0]
    # 4. The issuer's key has not been withdrawn since.
    current = None if newest is None else _check_standing(issued, bundle, trust, newest)
    # 5. The document is the one that was committed to.
    return _check_document(carried, issued, digest, current)


def _intact(data: bytes) -> Carried:
    try:
        carried = parse(data)
    except FormatError as error:
        raise VerificationFailed("format", f"The carried file is malformed: {error}.") from error
    if not carried.intact:
        raise VerificationFailed(
            "altered", "The carried file is not as it was made: a byte of it changed on the way."
        )
    return carried


def _the_commitment(data: bytes) -> tuple[Bundle, Record]:
    try:
        bundle, _ = bundles.parse(data)
        record = Record.parse(bundle.items[0].envelope.payload)
    except FormatError as error:
        raise VerificationFailed("format", f"The carried file's bundle is malformed: {error}.") from error
    names = [opening.name for opening in bundle.items[0].openings]
    if len(bundle.items) != 1 or record.event != COMMITTED or names != [NAME]:
        raise VerificationFailed("format", "The carried file does not hold one opened document commitment.")
    return bundle, record


def _check_issuer(record: Record, lists: Sequence[MemberList], expected: str | None) -> None:
    author = record.parties[0]
    if expected is not None and author.id != expected:
        raise VerificationFailed("issuer", f"The document was issued by {author.id}, not by {expected}.")
    named = [members for members in lists if members.digest == record.members]
    known = [m for m in named if all(m.key(author.id, key) for key in author.keys)]
    if named and not known:
        raise VerificationFailed("issuer", f"The data space knows no issuer {author.id} with such a key.")


def _check_standing(issued: VerifiedItem, bundle: Bundle, trust: Trust, newest: Envelope) -> int:
    """The version of the newest list, when by it the issuer still stands and the key was valid."""
    (current,) = verifier.check_members(replace(bundle, members=(newest,)), trust)
    if current.version < verifier.check_members(bundle, trust)[-1].version:
        raise VerificationFailed("members", "Your member list is older than the document's: get the newest.")
    verifier.check_members(replace(bundle, members=_appended(bundle.members, newest)), trust)
    author = issued.record.parties[0]
    if current.participant(author.id) is None:
        raise VerificationFailed(
            "revoked", f"{author.id} is no longer a member of the data space (list {current.version})."
        )
    at = issued.included.leaf.received_at
    keys = [current.key(author.id, key) for key in author.keys]
    if not all(key is not None and key.valid_at(at) for key in keys):
        raise VerificationFailed(
            "revoked",
            f"The key of {author.id} was withdrawn as of a time before {format_time(at)}, when the document"
            f" was recorded (list {current.version}).",
        )
    return current.version


def _appended(members: tuple[Envelope, ...], newest: Envelope) -> tuple[Envelope, ...]:
    return members if newest.payload == members[-1].payload else (*members, newest)


def _check_document(
    carried: Carried, issued: VerifiedItem, digest: bytes | None, current: int | None
) -> VerifiedDocument:
    found = digest if carried.document is None else hashlib.sha256(carried.document).digest()
    if found is None:
        raise VerificationFailed("document", "The document does not travel in this file: name it beside it.")
    if found != issued.opened[NAME] or digest not in (None, found):
        raise VerificationFailed("document", "This is not the document that was committed to.")
    return VerifiedDocument(found, carried.document, issued, current)


def _body(bundle: bytes, document: bytes | None) -> dict[str, Any]:
    body: dict[str, Any] = {"bundle": canonical.parse(bundle), "format": FORMAT}
    return body if document is None else {**body, "document": b64(document)}


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical.serialise(body)).hexdigest()
