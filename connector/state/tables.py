"""The tables of a connector's state, their version, and how an older one becomes the present one.

The same on SQLite and PostgreSQL. A migration is never changed once it is released: add the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

METADATA = MetaData()


def _table(name: str, *columns: Column[Any], key: Sequence[str], **more: Any) -> Table:
    extra = [ForeignKeyConstraint(*more["refers"])] if "refers" in more else []
    return Table(name, METADATA, *columns, PrimaryKeyConstraint(*key), *extra)


def _text(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, Text, nullable=nullable)


def _int(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, BigInteger, nullable=nullable)


def _blob(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, LargeBinary, nullable=nullable)


schema = _table("schema_version", Column("version", Integer, nullable=False), key=["version"])
turnstile = _table("turnstile", _int("id"), _int("turn"), key=["id"])
datasets = _table(
    "datasets",
    *(_text("name"), _int("version"), _text("source"), _blob("entry"), _text("commitment")),
    *(_blob("master_salt"), _int("rows"), _text("at")),
    key=["name", "version"],
)
offers = _table(
    "offers",
    *(_text("name"), _int("version"), _text("dataset"), _int("dataset_version"), _blob("entry")),
    *(_blob("policy"), _text("policy_text"), _text("policy_digest")),
    *(Column("withdrawn", Boolean, nullable=False), _text("at")),
    key=["name", "version"],
    refers=(["dataset", "dataset_version"], ["datasets.name", "datasets.version"]),
)
negotiations = _table(
    "negotiations",
    *(_text("id"), _text("role"), _text("peer"), _text("offer"), _text("policy_digest"), _text("state")),
    *(_blob("document", nullable=True), _blob("evidence", nullable=True), _text("agreement", nullable=True)),
    *(_text("code", nullable=True), _text("at")),
    key=["id"],
)
proposals = _table(
    "proposals",
    *(_text("negotiation"), _int("sequence"), _text("author"), _text("policy_digest"), _blob("document")),
    *(Column("published", Boolean, nullable=False), _text("at")),
    key=["negotiation", "sequence"],
)
unsent = _table(
    "unsent", _text("negotiation"), _text("method"), _blob("body"), _text("at"), key=["negotiation"]
)
agreements = _table(
    "agreements",
    *(_text("id"), _text("role"), _text("peer"), _text("offer"), _blob("document"), _text("digest")),
    *(_text("state"), _text("at")),
    key=["id"],
)
uses = _table("uses", _text("agreement"), _text("period"), _int("used"), key=["agreement", "period"])
losses = _table("losses", _text("ledger"), _text("period"), _int("spent"), key=["ledger", "period"])
charges = _table(
    "charges",
    *(_text("exchange"), _text("agreement"), _int("clock"), _int("rows"), _int("bytes"), _int("loss")),
    key=["exchange"],
)
charged_under = Index("charges_of_an_agreement", charges.c.agreement, charges.c.clock)
guards = _table("guards", _text("ledger"), _int("turn"), key=["ledger"])
member_names = _table(
    "member_names",
    *(_text("ledger"), _int("first"), _blob("rows"), _blob("identities")),
    key=["ledger", "first"],
)
compared = _table(
    "compared",
    *(_text("ledger"), _text("exchange"), _text("layout"), _text("asker_side"), _blob("cells"), _text("at")),
    key=["ledger", "exchange"],
)
answers = _table(
    "answers",
    *(_text("question"), _text("agreement"), _text("exchange"), _text("digest"), _blob("body")),
    *(_int("released"), _int("suppressed"), _int("size"), _text("until", nullable=True), _text("at")),
    key=["question"],
)
running = _table("running", _text("query"), _text("agreement"), _text("at"), key=["query"])
exchanges = _table(
    "exchanges",
    *(_text("id"), _text("agreement", nullable=True), _text("peer"), _text("role"), _text("kind")),
    *(_text("trace_id"), _blob("key"), _text("status"), _text("at")),
    key=["id"],
)
opened_by = Index("exchanges_of_a_peer", exchanges.c.peer, exchanges.c.at)
evidence = _table(
    "evidence",
    *(_text("exchange"), _int("sequence"), _text("event"), _text("digest")),
    *(_blob("envelope"), _blob("disclosures"), _text("at")),  # sealed
    key=["exchange", "sequence"],
    refers=(["exchange"], ["exchanges.id"]),
)
evidence_keys = _table(
    "evidence_keys", _text("exchange"), _int("sequence"), _blob("key"), key=["exchange", "sequence"]
)
outbox = _table(
    "outbox",
    *(_text("exchange"), _int("sequence"), _text("witness"), _text("status"), _int("attempts")),
    *(_int("index", nullable=True), _blob("proof", nullable=True), _text("at")),
    key=["exchange", "sequence", "witness"],
    refers=(["exchange", "sequence"], ["evidence.exchange", "evidence.sequence"]),
)
members = _table("members", _text("digest"), _int("version"), _blob("envelope"), key=["digest"])
VERSION = 9
MIGRATIONS: dict[int, tuple[str, ...]] = {
    2: (
        (
            "CREATE TABLE losses (ledger TEXT NOT NULL, period TEXT NOT NULL, spent BIGINT NOT NULL, "
            "PRIMARY KEY (ledger, period))"
        ),
    ),
    3: (  # SQLite keeps bytes in a column of any type
        "CREATE TABLE guards (ledger TEXT NOT NULL, turn BIGINT NOT NULL, PRIMARY KEY (ledger))",
        (
            'CREATE TABLE member_names (ledger TEXT NOT NULL, "first" BIGINT NOT NULL, '
            '"rows" BYTEA NOT NULL, identities BYTEA NOT NULL, PRIMARY KEY (ledger, "first"))'
        ),
        (
            "CREATE TABLE compared (ledger TEXT NOT NULL, exchange TEXT NOT NULL, layout TEXT NOT NULL, "
            "asker_side TEXT NOT NULL, cells BYTEA NOT NULL, at TEXT NOT NULL, "
            "PRIMARY KEY (ledger, exchange))"
        ),
    ),
    4: (
        (
            "CREATE TABLE proposals (negotiation TEXT NOT NULL, sequence BIGINT NOT NULL, "
            "author TEXT NOT NULL, policy_digest TEXT NOT NULL, document BYTEA NOT NULL, "
            "published BOOLEAN NOT NULL, at TEXT NOT NULL, PRIMARY KEY (negotiation, sequence))"
        ),
        (
            "CREATE TABLE unsent (negotiation TEXT NOT NULL, method TEXT NOT NULL, body BYTEA NOT NULL, "
            "at TEXT NOT NULL, PRIMARY KEY (negotiation))"
        ),
        (
            "CREATE TABLE charges (exchange TEXT NOT NULL, agreement TEXT NOT NULL, clock BIGINT NOT NULL, "
            '"rows" BIGINT NOT NULL, bytes BIGINT NOT NULL, loss BIGINT NOT NULL, PRIMARY KEY (exchange))'
        ),
    ),
    5: (
        (
            "CREATE TABLE answers (question TEXT NOT NULL, agreement TEXT NOT NULL, exchange TEXT NOT NULL, "
            "digest TEXT NOT NULL, body BYTEA NOT NULL, released BIGINT NOT NULL, "
            'suppressed BIGINT NOT NULL, "size" BIGINT NOT NULL, until TEXT, at TEXT NOT NULL, '
            "PRIMARY KEY (question))"
        ),
    ),
    6: ("DELETE FROM answers",),  # kept beyond their agreement's end, and in another form
    7: ("ALTER TABLE agreements DROP COLUMN valid_until",),  # the policy in the document says when it ends
    8: ("CREATE INDEX exchanges_of_a_peer ON exchanges (peer, at)",),
    9: ("CREATE INDEX charges_of_an_agreement ON charges (agreement, clock)",),
}
"""Statements that lead from the version before to the one they are listed under."""
