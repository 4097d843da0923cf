"""Carried documents from the participants' side: an issuer records a commitment, a verifier what it found.

Nothing of the document is kept here: the store holds its salted commitment's opening (salt and SHA-256),
sealed like every disclosure, so that erasing the record erases the last way to tell which document it was.
The records go to the witnesses at once; what a witness did not take waits in the outbox like all evidence.
Refuses to make a carried file before a witness has recorded the commitment: it would prove nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compute.errors import ConfigError
from connector import own_records
from connector.config import ConnectorConfig, load
from connector.evidence import openings_of
from connector.node import Node
from connector.receipts import receipt, trust_file
from witness import bundle as bundles
from witness import document as documents
from witness.bundle import Opening
from witness.checks import VerificationFailed
from witness.document import VerifiedDocument
from witness.record import SALT_SIZE, Data, Outcome, Sensitive
from witness.schema import FormatError

KIND, ISSUER, VERIFIER = "document", "issuer", "verifier"


@dataclass(frozen=True, slots=True)
class Recorded:
    """The exchange of a record, and how many witnesses hold it already."""

    exchange: str
    witnesses: int


@contextmanager
def opened(config: ConnectorConfig) -> Iterator[Node]:
    """A participant's node for one command. The connector may be running beside it."""
    node = Node(config)
    try:
        yield node
    finally:
        node.close()


@contextmanager
def perhaps(config: Path | None) -> Iterator[Node | None]:
    """`opened` when there is a configuration to open: whoever brings a trust file needs none."""
    if config is None:
        yield None
        return
    with opened(load(config)) as node:
        yield node


def check_size(document: bytes) -> None:
    """Raise `ConfigError` unless the document fits into a carried file."""
    try:
        documents.check_size(document)
    except FormatError as error:
        raise ConfigError("document.size", str(error)) from error


def commit(node: Node, digest: bytes, claims: Sensitive | None = None) -> Recorded:
    """Record this participant's commitment to the document with this SHA-256.

    claims: what the carried file will say of it (categories, purpose, retention). Raises `ConfigError`.
    """
    opening = documents.opening_of(digest, node.entropy(SALT_SIZE))
    data, done = documents.committed(opening), Outcome("done")
    return _record(node, documents.COMMITTED, ISSUER, data, done, [opening], claims)


def open_(node: Node, exchange: str, document: bytes, *, beside: bool = False) -> bytes:
    """The carried file of a recorded commitment; beside: the document itself is not packed into it.

    Raises `ConfigError` for another document or exchange, `Unavailable` while no witness has recorded it.
    """
    kept = node.store.evidence(exchange)
    if not kept or kept[0].event != documents.COMMITTED:
        raise ConfigError("document.unknown", "this participant has issued no document under this exchange")
    if kept[0].disclosures is None:
        raise ConfigError("evidence.erased", "the record of this document has been erased")
    if openings_of(kept[0])[0].value != hashlib.sha256(document).digest():
        raise ConfigError("document.other", "this is not the document that this exchange committed to")
    node.evidence.witnessed(exchange, 0, 0)
    issued, _ = bundles.parse(receipt(node.store, exchange, (documents.NAME,)))
    try:
        return documents.build(issued.items[0], issued.members, None if beside else document)
    except FormatError as error:
        raise ConfigError("document.size", str(error)) from error


def verify(
    data: bytes,
    node: Node | None,
    *,
    trust: bytes | None = None,
    members: bytes | None = None,
    digest: bytes | None = None,
    issuer: str | None = None,
) -> VerifiedDocument:
    """`witness.document.verify`; what is not given is taken from `node`: its trust, its member list."""
    if node is not None and trust is None:
        trust = trust_file(node.config)
    if node is not None and members is None:
        _ = node.members  # verified, and kept for the record's receipt
        members = node.config.members_path.read_bytes()
    if trust is None:
        raise ConfigError("document.trust", "name a trust file, or a participant whose trust to use")
    return documents.verify_files(data, trust, digest=digest, issuer=issuer, newest=members)


def record_verification(
    node: Node, data: bytes, digest: bytes | None, failure: VerificationFailed | None
) -> Recorded:
    """Record that this participant verified a carried file, and what came of it.

    The record commits to the document and to the issuer's record under salts of its own. Raises
    `ConfigError` when the file is so broken that there is nothing to commit to.
    """
    presented = documents.presented(data, digest)
    if presented is None:
        raise ConfigError("document.nothing", "the file holds no document to record a verification of")
    openings = [Opening(name, node.entropy(SALT_SIZE), value) for name, value in presented.items()]
    outcome = Outcome("done") if failure is None else Outcome("failed", failure.code)
    data_ = documents.checked(openings)
    return _record(node, documents.VERIFIED, VERIFIER, data_, outcome, openings, None)


def _record(
    node: Node,
    event: str,
    role: str,
    data: Data,
    outcome: Outcome,
    openings: Sequence[Opening],
    claims: Sensitive | None,
) -> Recorded:
    if not node.evidence.witnesses:
        raise ConfigError("witness.unknown", "the configuration names no witness, and a record needs one")
    exchange = node.entropy(16).hex()
    own_records.keep(
        node, event, KIND, role, exchange, data, outcome=outcome, openings=openings, sensitive=claims
    )
    return Recorded(exchange, len(json.loads(node.evidence.witnessed(exchange, 0, 0))))
