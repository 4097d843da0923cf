"""A receipt: everything one exchange left behind, as the bundle that `evidence verify` reads offline.

Refuses to make a receipt of records that no witness has recorded yet: it would prove nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import replace
from http.client import HTTPException
from urllib.request import Request, urlopen

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from compute.errors import ConfigError, Unavailable
from connector.config import ConnectorConfig
from connector.contract import Agreement, Proposal
from connector.enrolment import load_members, operator_keys
from connector.evidence import demanded_quorum
from connector.space import GRACE
from connector.storage import Store
from policy_enforcer import odrl
from witness import bundle, checkpoint, dsse, timestamp, tlog_proof
from witness.bundle import Item, Opening
from witness.checks import Requirement
from witness.encoding import system_entropy
from witness.keys import ML_DSA_44, PublicKey
from witness.members import WITNESS, MemberList, Participant
from witness.note import parse_vkey
from witness.record import Record
from witness.schema import FormatError
from witness.trust import NO_QUORUM, of_logs

POLICY = "policy"
"""What is shown by this name is no opening: the policies themselves, whose digests stand in the records."""
TIMESTAMP_SECONDS = 30.0
_GRACE_MS = int(GRACE.total_seconds() * 1000)
Fetch = Callable[[bytes], bytes]
"""Sends an RFC 3161 query to an authority and returns its answer."""
Receipts = Callable[[str, bytes], tuple[str, bytes]]
"""(log's origin, envelope) -> a fresh proof and its COSE receipt: `Evidence.receipt`."""


def receipt(store: Store, exchange: str, show: Collection[str] = (), *, redacted: bool = False) -> bytes:
    """The bundle of an exchange.

    show: names of commitments to open ("query", "plan", "result"), and "policy" for the policies in full;
    redacted: leave out the sensitive claims.
    Raises `ConfigError` for an unknown exchange or a name that nothing here opens, `Unavailable` when a
    record is not witnessed yet.
    """
    return receipt_of([exchange], store, show, redacted=redacted)


def receipt_of(
    exchanges: Collection[str], store: Store, show: Collection[str] = (), *, redacted: bool = False
) -> bytes:
    """The bundle of several exchanges: of a round over a federation, one with each participant.

    Raises as `receipt`.
    """
    items, lists = [], set[str]()
    for exchange in exchanges:
        found, named = _items(store, exchange, show, redacted=redacted)
        items += found
        lists |= named
    members = [dsse.parse(envelope) for digest, envelope in store.member_lists() if digest in lists]
    policies = _policies(store, items) if POLICY in show else []
    _check_shown(show, items, policies)
    return bundle.build(items, members, policies=policies)


def _check_shown(show: Collection[str], items: Sequence[Item], policies: Sequence[str]) -> None:
    """Raise `ConfigError` for a name that opens nothing: who hands over a receipt must know what it shows."""
    opened = {opening.name for item in items for opening in item.openings} | ({POLICY} if policies else set())
    if missing := sorted(set(show) - opened):
        raise ConfigError("evidence.show", f"nothing here opens {', '.join(missing)} of these records")


def _policies(store: Store, items: Sequence[Item]) -> list[str]:
    """The policies that records name, canonical, as far as they are kept here."""
    records = [Record.parse(item.envelope.payload) for item in items]
    named = {r.contract.policy: r for r in records if r.contract is not None}
    found = ((digest, _policy(store, digest, record)) for digest, record in named.items())
    return [
        policy.decode()
        for digest, policy in found  # an older form of ours, written anew, is not what was signed
        if policy is not None and hashlib.sha256(policy).hexdigest() == digest
    ]


def _policy(store: Store, digest: str, record: Record) -> bytes | None:
    """One policy: of an agreement, of an offer of ours, or of terms that were on the table."""
    contract = record.contract
    agreement = store.agreement(contract.agreement) if contract is not None and contract.agreement else None
    if agreement is not None:
        return odrl.canonical(Agreement.parse(agreement.document).policy)
    if (offered := store.offered_policy(digest)) is not None:
        return offered
    for proposal in store.proposals(record.exchange.id):
        if proposal.policy_digest == digest and proposal.document:
            return odrl.canonical(Proposal.parse(proposal.document).policy)
    return None


def _items(
    store: Store, exchange: str, show: Collection[str], *, redacted: bool
) -> tuple[list[Item], set[str]]:
    """One exchange's records, and the member lists they stand on."""
    kept = store.evidence(exchange)
    if not kept:
        raise ConfigError("evidence.unknown", "there is no evidence of an exchange with this id")
    proofs = {r.sequence: r.proof for r in store.receipts(exchange) if r.proof is not None}
    items, lists = [], set()
    for record in kept:
        if record.envelope is None or record.disclosures is None:
            raise ConfigError("evidence.erased", "a record of this exchange has been erased")
        if record.sequence not in proofs:
            raise Unavailable(
                "witness.pending", "a record of this exchange is not witnessed yet: try again later"
            )
        envelope, private = dsse.parse(record.envelope), json.loads(record.disclosures)
        openings = [Opening.from_json(o) for o in private["openings"] if o["name"] in show]
        disclosures = () if redacted else tuple(private["disclosures"])
        items.append(Item(envelope, proofs[record.sequence].decode(), disclosures, tuple(openings)))
        lists.add(Record.parse(envelope.payload).members)
    return items, lists


def extended(data: bytes, fetch: Fetch | None, receipts: Receipts | None) -> bytes:
    """A bundle with COSE receipts and timestamps of its checkpoints; None leaves either out.

    A receipt comes with a fresh proof, of the same tree. Raises `ConfigError` for something else than a
    bundle, `Unavailable` when an authority or a witness does not answer as it must.
    """
    try:
        found, _ = bundle.parse(data)
    except FormatError as error:
        raise ConfigError("evidence.bundle", f"not a bundle: {error}") from None
    items = found.items if receipts is None else tuple(_with_receipt(i, receipts) for i in found.items)
    heads = dict.fromkeys(tlog_proof.parse(item.proof).checkpoint.text for item in items)
    kept = found.timestamps if receipts is None else ()  # fresh proofs are of other checkpoints
    tokens = kept if fetch is None else tuple(_stamp(head, fetch) for head in heads)
    return bundle.build(items, found.members, tokens, found.policies)


def _with_receipt(item: Item, receipts: Receipts) -> Item:
    origin = checkpoint.parse(tlog_proof.parse(item.proof).checkpoint.text).origin
    proof, receipt = receipts(origin, item.envelope.to_bytes())
    return replace(item, proof=proof, receipt=receipt)


def _stamp(head: str, fetch: Fetch) -> bytes:
    try:
        token = timestamp.token_of(fetch(timestamp.query(head, system_entropy(8))))
        if timestamp.imprinted(token) != timestamp.imprint(head):
            raise timestamp.TimestampInvalid("it is of something else")
    except timestamp.TimestampInvalid as error:
        raise Unavailable("timestamp.answer", f"the authority's answer is no timestamp: {error}") from None
    return token


def asking(url: str) -> Fetch:
    """Asks a timestamp authority over HTTP (RFC 3161 section 3.4). Raises `Unavailable`, `ConfigError`."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError("timestamp.url", "a timestamp authority has an http or https address")

    def fetch(query: bytes) -> bytes:
        request = Request(url, query, {"Content-Type": "application/timestamp-query"})  # noqa: S310
        try:
            with urlopen(request, timeout=TIMESTAMP_SECONDS) as answer:  # noqa: S310  http(s), see above
                data: bytes = answer.read(timestamp.LARGEST_TOKEN + 1)
        except (OSError, HTTPException) as error:
            why = f"the timestamp authority does not answer ({type(error).__name__})"
            raise Unavailable("timestamp.unavailable", why) from None
        return data

    return fetch


def trust_file(config: ConnectorConfig, authorities: Collection[bytes] = ()) -> bytes:
    """What this participant trusts, as a verifier's trust file: operator key, log keys, its own quorum.

    authorities: certificates (PEM) to which the certificates of timestamp authorities must lead.
    """
    operator = operator_keys(config.trust)
    if operator is None:
        raise ConfigError("enrolment.not-installed", "install an admission first: no operator key is known")
    members = load_members(config.trust)
    logs = [vkey for participant in members.participants for vkey in participant.logs]
    if not logs:
        raise ConfigError("witness.unknown", "the member list names no witness")
    certificates = tuple(_certificate(pem) for pem in authorities)
    demanded_quorum(config)  # refuses what is no quorum
    path = config.quorum_path
    quorum = NO_QUORUM if path is None else path.read_bytes().decode(errors="replace")
    known = _known_lists(config)
    since = _operator_signs_from((*known, members))
    # A second key without a date is demanded of all lists; the first list that names it will introduce it.
    keys = [key for key in operator.keys if key.algorithm != ML_DSA_44 or key in since]
    trust = of_logs(config.space, keys, logs, required(members, known), quorum)
    return replace(trust, timestamp_authorities=certificates, operator_since=since).to_bytes()


def _known_lists(config: ConnectorConfig) -> list[MemberList]:
    """Every member list that this connector has kept; each was verified before."""
    with closing(Store.open(config.state_url)) as store:
        return [MemberList.parse(dsse.parse(envelope).payload) for _, envelope in store.member_lists()]


def required(members: MemberList, known: Collection[MemberList] = ()) -> list[Requirement]:
    """From when on every log and every member signs with ML-DSA-44 too; nothing while one does not yet.

    known: earlier lists, which say when a log's second key was first announced.
    """
    since = [
        _log_signs_from(member, (*known, members)) if member.role == WITNESS else _member_signs_from(member)
        for member in members.participants
    ]
    dated = [at for at in since if at is not None]
    return [Requirement(ML_DSA_44, max(dated))] if dated and len(dated) == len(since) else []


def _member_signs_from(member: Participant) -> int | None:
    starts = [key.valid_from for key in member.keys if key.public.algorithm == ML_DSA_44]
    if not starts:
        return None
    # A key from before still signs for its days of grace, alone: what it signs then verifies, too.
    before = [key for key in member.keys if key.valid_from < min(starts)]
    return max([min(starts), *(key.valid_until or 0 for key in before)])


def _log_signs_from(witness: Participant, lists: Sequence[MemberList]) -> int | None:
    """When the log's second key was announced, and some days later if it had run without it before."""
    keys = {vkey for vkey in witness.logs if parse_vkey(vkey).public.algorithm == ML_DSA_44}
    if not keys:
        return None
    found = [(m.issued_at, m.participant(witness.id)) for m in lists]
    announced = min(at for at, member in found if member is not None and keys.intersection(member.logs))
    alone = any(at < announced for at, member in found if member is not None and member.logs)
    return announced + (_GRACE_MS if alone else 0)


def _operator_signs_from(lists: Sequence[MemberList]) -> dict[PublicKey, int]:
    """From when on records stand on lists that the operator's second key signed, too."""
    naming = [m for m in lists if m.operator_keys]
    if not naming:
        return {}
    naming.sort(key=lambda m: m.version)
    first, newest = naming[0], naming[-1]
    # Records on a list before it, which we may never have seen, can wait in an outbox for a while.
    since = first.issued_at + (_GRACE_MS if first.previous is not None else 0)
    return {key: since for key in newest.operator_keys if key.algorithm == ML_DSA_44}


def _certificate(pem: bytes) -> bytes:
    try:
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    except ValueError:
        raise ConfigError("timestamp.authority", "a timestamp authority is not a PEM certificate") from None
