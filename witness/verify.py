"""The offline verifier: a bundle and a trust file in, the verified records out, or `VerificationFailed`.

Needs only the standard library and `cryptography`: no network, no account, no connector. It trusts the
trust file and nothing in the bundle. Each failure has its own code (checks.CODES) and sentence.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cryptography.x509 import load_der_x509_certificate

from witness import bundle as bundles
from witness import cose, timestamp
from witness import members as member_lists
from witness import trust as trusts
from witness.bundle import Bundle, Item
from witness.checks import CLOCK_TOLERANCE, CODES, Signed, VerificationFailed, check_signed
from witness.cose import Receipt
from witness.inclusion import Included, check_inclusion
from witness.keys import ML_DSA_44
from witness.leaf import Leaf
from witness.members import MemberList, MembersInvalid
from witness.record import Record, Sensitive, commit, open_disclosures, payload_digest
from witness.schema import FormatError
from witness.timestamp import Timestamp
from witness.trust import Trust

__all__ = ["CODES", "VerificationFailed", "Verified", "VerifiedItem", "verify", "verify_files"]


@dataclass(frozen=True)
class VerifiedItem:
    """One record that holds: who signed, where it is logged, what was disclosed and opened."""

    record: Record
    digest: str
    signers: tuple[str, ...]
    one_sided: bool
    included: Included
    disclosed: Sensitive
    opened: Mapping[str, bytes]
    receipt: Receipt | None = None
    timestamps: tuple[Timestamp, ...] = ()


@dataclass(frozen=True)
class Verified:
    """A bundle that holds: its records in order, and the member lists they stand on.

    unknown_timestamps: how many are by authorities that the trust file does not name; they say nothing.
    policies: in full, by the digest that a record names.
    """

    items: tuple[VerifiedItem, ...]
    members: tuple[MemberList, ...]
    unknown_timestamps: int = 0
    policies: Mapping[str, str] = field(default_factory=dict)


def verify_files(bundle: bytes, trust: bytes, *, accept_one_sided: bool = False) -> Verified:
    """`verify` on the bytes of both files."""
    try:
        trusted = trusts.parse(trust)
    except FormatError as error:
        why = str(error).removeprefix("the trust file: ")
        raise VerificationFailed("format", f"The trust file is malformed: {why}.") from error
    return verify(bundle, trusted, accept_one_sided=accept_one_sided)


def verify(data: bytes, trust: Trust, *, accept_one_sided: bool = False) -> Verified:
    """Everything in the bundle, verified. Raises VerificationFailed at the first thing that does not hold.

    accept_one_sided: return records that one side never signed (marked so) instead of failing.
    """
    # 1. The file is a bundle of a known version in canonical form.
    bundle, intact = _parse(data)
    # 2. The space operator signed every member list, and they form one history.
    lists = check_members(bundle, trust)
    # 3. Each record by itself: log, signatures, disclosures, openings.
    items = tuple(
        _check_item(number, item, lists, trust, accept_one_sided) for number, item in enumerate(bundle.items)
    )
    # 4. No log signed two trees that contradict each other.
    _check_trees(items)
    # 5. Every record stands behind the one that it follows, down to its exchange's first.
    _check_chains(items)
    # 6. The timestamps of authorities that are trusted hold, each for a checkpoint of this bundle.
    items, unknown = _check_timestamps(items, bundle, trust)
    # 7. Every policy is one that a record names.
    policies = _check_policies(items, bundle)
    # 8. Not one byte has changed, even where no signature reaches.
    if not intact:
        raise VerificationFailed("checksum", "The file was altered in a place that no signature covers.")
    return Verified(items, tuple(lists), unknown, policies)


def _parse(data: bytes) -> tuple[Bundle, bool]:
    try:
        return bundles.parse(data)
    except FormatError as error:
        raise VerificationFailed("format", f"The bundle is malformed: {error}.") from error


def check_members(bundle: Bundle, trust: Trust) -> list[MemberList]:
    """The bundle's member lists: the operator's, and one history. Raises VerificationFailed."""
    lists: list[MemberList] = []
    try:
        for envelope in bundle.members:
            settled = lists[-1].operator_keys if lists else ()
            lists.append(member_lists.verify(envelope, trust.operator_keys, settled))
    except MembersInvalid as error:
        why = str(error).removeprefix("the member list: ")
        raise VerificationFailed("members", f"The member list does not hold: {why}.") from error
    for members in lists:
        if members.space != trust.space:
            raise VerificationFailed("members", "A member list is of another data space.")
    for old, new in itertools.pairwise(lists):
        if new.version <= old.version or new.issued_at < old.issued_at:
            raise VerificationFailed("members", "The member lists are not in the order of their versions.")
        if new.version == old.version + 1 and new.previous != old.digest:
            raise VerificationFailed("members", "A member list names another predecessor: a fork.")
    return lists


def _check_item(
    number: int, item: Item, lists: Sequence[MemberList], trust: Trust, accept_one_sided: bool
) -> VerifiedItem:
    try:
        return _check_record(item, lists, trust, accept_one_sided)
    except VerificationFailed as failure:
        raise VerificationFailed(failure.code, failure.sentence, number) from failure


def _check_record(
    item: Item, lists: Sequence[MemberList], trust: Trust, accept_one_sided: bool
) -> VerifiedItem:
    # 3a. An accepted log holds the envelope, under a checkpoint with the required quorum.
    included = check_inclusion(item.proof, item.envelope.to_bytes(), trust.policy, trust.require)
    # 3b. The parties' keys signed the record and were theirs when it was logged.
    signed = check_signed(item.envelope, lists, included.leaf.received_at, trust.require)
    if signed.one_sided and not accept_one_sided:
        raise VerificationFailed("one-sided", _one_sided(signed))
    # 3c. The operator signed the list that the record names with every key that it had by then.
    _check_operator(signed.record, lists, trust, included.leaf.received_at)
    # 3d. What is disclosed and opened is what was signed.
    return VerifiedItem(
        record=signed.record,
        digest=payload_digest(item.envelope.payload),
        signers=signed.signers,
        one_sided=signed.one_sided,
        included=included,
        disclosed=_check_disclosures(signed.record, item),
        opened=_check_openings(signed.record, item),
        receipt=_check_receipt(item, included, trust),
    )


def _check_operator(record: Record, lists: Sequence[MemberList], trust: Trust, at: int) -> None:
    named = next(members for members in lists if members.digest == record.members)
    lacking = [k for k, since in trust.operator_since.items() if since <= at and k not in named.operator_keys]
    if trust.operator_signs_with_both and not named.operator_keys:
        lacking = [key for key in trust.operator_keys if key.algorithm == ML_DSA_44]
    if lacking:
        raise VerificationFailed(
            "members",
            f"The space operator did not sign the member list with {lacking[0].algorithm}, as it must.",
        )


def _one_sided(signed: Signed) -> str:
    missing = [id_ for id_ in signed.record.required_signers() if id_ not in signed.signers]
    return f"The record is one-sided: {', '.join(missing)} did not sign it."


def _check_disclosures(record: Record, item: Item) -> Sensitive:
    try:
        return open_disclosures(record, item.disclosures)
    except FormatError as error:
        raise VerificationFailed("disclosure", f"A disclosure does not hold: {error}.") from error


def _check_openings(record: Record, item: Item) -> Mapping[str, bytes]:
    opened: dict[str, bytes] = {}
    for opening in item.openings:
        committed = record.data.commitments.get(opening.name)
        if committed != commit(opening.name, opening.salt, opening.value) or opening.name in opened:
            raise VerificationFailed(
                "commitment", f"What is opened as {opening.name} is not what the record committed to."
            )
        opened[opening.name] = opening.value
    return opened


def _check_receipt(item: Item, included: Included, trust: Trust) -> Receipt | None:
    if item.receipt is None:
        return None
    try:
        receipt = cose.verify(item.receipt, included.leaf.hash, trust.policy.logs)
    except cose.ReceiptInvalid as error:
        raise VerificationFailed("receipt", f"The COSE receipt does not hold: {error}.") from error
    head = included.checkpoint
    if receipt != cose.Receipt(head.origin, included.index, head.size, head.root):
        raise VerificationFailed("receipt", "The COSE receipt is of another place than the log's proof.")
    return receipt


def _check_timestamps(
    items: tuple[VerifiedItem, ...], bundle: Bundle, trust: Trust
) -> tuple[tuple[VerifiedItem, ...], int]:
    """The items with the timestamps of their checkpoints, and how many tokens are of unknown authorities."""
    authorities = [load_der_x509_certificate(c) for c in trust.timestamp_authorities]
    texts = {timestamp.imprint(text): text for text in (str(i.included.checkpoint) for i in items)}
    found: dict[str, list[Timestamp]] = {}
    unknown = 0
    for token in bundle.timestamps:
        try:
            text = texts.get(timestamp.imprinted(token))
            if text is None:
                raise timestamp.TimestampInvalid("it is of a checkpoint that is not in the bundle")
            found.setdefault(text, []).append(timestamp.verify(token, text, authorities))
        except timestamp.AuthorityUnknown:
            unknown += 1
        except timestamp.TimestampInvalid as error:
            raise VerificationFailed("timestamp", f"A timestamp does not hold: {error}.") from error
    stamped = [found.get(str(item.included.checkpoint), []) for item in items]
    for number, (item, stamps) in enumerate(zip(items, stamped, strict=True)):
        if any(s.at * 1000 < item.included.leaf.received_at - CLOCK_TOLERANCE for s in stamps):
            raise VerificationFailed(
                "time", "The tree was timestamped before the log got the record.", number
            )
    return tuple(replace(i, timestamps=tuple(t)) for i, t in zip(items, stamped, strict=True)), unknown


def _check_policies(items: Sequence[VerifiedItem], bundle: Bundle) -> Mapping[str, str]:
    named = {item.record.contract.policy for item in items if item.record.contract is not None}
    found = {hashlib.sha256(text.encode()).hexdigest(): text for text in bundle.policies}
    if not named.issuperset(found) or len(found) != len(bundle.policies):
        raise VerificationFailed("policy", "A policy in the bundle is none that its records name.")
    return found


def _check_trees(items: Sequence[VerifiedItem]) -> None:
    """One root for each size of a log, one leaf at each index: anything else is a fork that it signed."""
    roots: dict[tuple[str, int], bytes] = {}
    leaves: dict[tuple[str, int], Leaf] = {}
    for number, item in enumerate(items):
        place, head = item.included, item.included.checkpoint
        same_root = roots.setdefault((head.origin, head.size), head.root) == head.root
        same_leaf = leaves.setdefault((head.origin, place.index), place.leaf) == place.leaf
        if not same_root or not same_leaf:
            raise VerificationFailed(
                "checkpoint", "The log signed two trees that contradict each other.", number
            )


def _check_chains(items: Sequence[VerifiedItem]) -> None:
    """Every record but an exchange's first follows one that stands before it, in sequence and in time."""
    passed: dict[str, Record] = {}
    for number, item in enumerate(items):
        if item.digest in passed:
            raise VerificationFailed("chain", "The bundle holds a record twice.", number)
        passed[item.digest] = item.record
        previous = item.record.exchange.previous
        if previous is None:
            continue
        if previous not in passed:
            raise VerificationFailed("chain", "The record before this one is missing.", number)
        _check_step(number, passed[previous], item.record)


def _check_step(number: int, before: Record, after: Record) -> None:
    if after.exchange.id != before.exchange.id or after.exchange.sequence != before.exchange.sequence + 1:
        raise VerificationFailed("chain", "The record does not follow the one that it names.", number)
    clocks = {party.id: party.clock for party in before.parties}
    for party in after.parties:
        if party.clock < clocks.get(party.id, 0) - CLOCK_TOLERANCE:
            raise VerificationFailed("time", f"The clock of {party.id} ran backwards.", number)
