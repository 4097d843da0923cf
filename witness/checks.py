"""The checks of a signed record that the witness makes before it records, and the verifier years later.

Each failure is a `VerificationFailed` with a stable code and one sentence for people. Nothing here answers
false, and nothing else is ever raised for bad input.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from witness import record as records
from witness.dsse import Envelope
from witness.keys import SIGNATURE_SIZES, Check, PublicKey, SignatureInvalid
from witness.members import EvidenceKey, MemberList
from witness.record import Party, Record
from witness.schema import FormatError

# How far a party's clock, or the operator's, may run ahead of the witness's: milliseconds.
CLOCK_TOLERANCE = 5 * 60 * 1000

CODES = (
    "format",  # not a document of a known version, or a byte that does not belong there
    "members",  # the member list is missing, not the space operator's, or of another space
    "key",  # a key that is not the participant's, or was not valid when the record was logged
    "signature",  # a signature does not match, or the author's is missing
    "one-sided",  # both sides should have signed, and one did not
    "checkpoint",  # the log did not sign this checkpoint, or signed two that contradict each other
    "quorum",  # too few witnesses cosigned the checkpoint
    "inclusion",  # the record is not in the tree of the checkpoint
    "chain",  # a record's predecessor is missing or another one
    "time",  # clocks that contradict the order of things
    "disclosure",  # a disclosed claim does not belong to the record
    "commitment",  # an opened value is not what the record committed to
    "policy",  # a policy that no record in the bundle names
    "receipt",  # a COSE receipt is not the log's, or not of this record
    "timestamp",  # a timestamp is of another checkpoint, or does not hold
    "checksum",  # everything signed holds, but the file is not as it was written
)


class VerificationFailed(Exception):
    """Evidence that does not hold. `code` is one of CODES; `item` counts the bundle's records from 0."""

    def __init__(self, code: str, sentence: str, item: int | None = None) -> None:
        super().__init__(sentence)
        self.code, self.sentence, self.item = code, sentence, item


@dataclass(frozen=True)
class Requirement:
    """From `since` on (ms since 1970), logs and parties sign with this algorithm too; with SM2 only logs."""

    algorithm: str
    since: int


def required_at(requirements: Sequence[Requirement], at: int) -> frozenset[str]:
    """The algorithms that must have signed what was recorded at `at`."""
    return frozenset(r.algorithm for r in requirements if r.since <= at)


@dataclass(frozen=True)
class Signed:
    """A record whose signatures hold; `one_sided` when a party that should have signed did not."""

    record: Record
    signers: tuple[str, ...]
    one_sided: bool


def check_signed(
    envelope: Envelope,
    lists: Sequence[MemberList],
    at: int,
    requirements: Sequence[Requirement] = (),
    check: Check = PublicKey.verify,
) -> Signed:
    """The record in `envelope`, recorded at `at` (ms since 1970), against the member lists at hand.

    `check` says of one signature whether it holds.
    """
    if envelope.payload_type != records.PAYLOAD_TYPE:
        raise VerificationFailed("format", "The envelope does not hold an evidence record.")
    try:
        record = Record.parse(envelope.payload)
    except FormatError as error:
        raise VerificationFailed("format", f"The record is malformed: {error}.") from error
    applicable = _lists_for(record, lists, at)
    required = required_at(requirements, at).intersection(SIGNATURE_SIZES)
    _check_signatures(envelope, record, applicable, at, required, check)
    _check_clocks(record, at)
    signed = {s.keyid for s in envelope.signatures}
    signers = tuple(p.id for p in record.parties if signed.issuperset(p.keys))
    return Signed(record, signers, not set(record.required_signers()) <= set(signers))


def _lists_for(record: Record, lists: Sequence[MemberList], at: int) -> list[MemberList]:
    """The list that the record names, and the one in force when it was recorded."""
    named = next((m for m in lists if m.digest == record.members), None)
    if named is None:
        raise VerificationFailed("members", "The member list that the record names is not at hand.")
    if named.space != record.space:
        raise VerificationFailed("members", "The record names the member list of another data space.")
    if named.issued_at > at + CLOCK_TOLERANCE:
        raise VerificationFailed("time", "The member list is younger than the record that names it.")
    in_force = [m for m in lists if m.space == record.space and m.issued_at <= at]
    return [named, max(in_force, key=lambda m: m.version, default=named)]


def _check_signatures(
    envelope: Envelope,
    record: Record,
    lists: list[MemberList],
    at: int,
    required: frozenset[str],
    check: Check,
) -> None:
    owners = {key: party for party in record.parties for key in party.keys}
    missing = {party.id: set(required) for party in owners.values()}
    for signature in envelope.signatures:
        if signature.keyid not in owners:
            raise VerificationFailed("signature", "A key signed the record that none of its parties names.")
        key = _key(owners[signature.keyid], signature.keyid, lists, at)
        try:
            envelope.verify(key.public, check)
        except SignatureInvalid as error:
            raise VerificationFailed(
                "signature", f"The signature of {owners[signature.keyid].id} does not match the record."
            ) from error
        missing[owners[signature.keyid].id].discard(key.public.algorithm)
    for signer in {owners[signature.keyid].id for signature in envelope.signatures}:
        if missing[signer]:
            lacking = " and ".join(sorted(missing[signer]))
            raise VerificationFailed("signature", f"{signer} did not sign with {lacking}, which is required.")
    _check_complete(record, {s.keyid for s in envelope.signatures})


def _check_complete(record: Record, signed: set[str]) -> None:
    for party in record.parties:
        if 0 < len(signed.intersection(party.keys)) < len(party.keys):
            raise VerificationFailed("signature", f"{party.id} signed with some of its keys only.")
    if record.event in records.ONE_SIGNED and not signed.issuperset(record.parties[0].keys):
        raise VerificationFailed("signature", f"{record.author} wrote the record and did not sign it.")


def _key(party: Party, key_id: str, lists: list[MemberList], at: int) -> EvidenceKey:
    """The party's key, valid at `at` by every list that applies."""
    found = [members.key(party.id, key_id) for members in lists]
    keys = [key for key in found if key is not None]
    if len(keys) != len(lists):
        raise VerificationFailed("key", f"The member list gives {party.id} no such evidence key.")
    if not all(key.valid_at(at) for key in keys):
        raise VerificationFailed("key", f"The evidence key of {party.id} was not valid at that time.")
    return keys[0]


def _check_clocks(record: Record, at: int) -> None:
    for party in record.parties:
        if party.clock > at + CLOCK_TOLERANCE:
            raise VerificationFailed("time", f"The clock of {party.id} is ahead of the time of recording.")
