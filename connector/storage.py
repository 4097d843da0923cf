"""Everything of a connector that must survive: offers, contracts, uses, running queries, evidence, outbox.

One module, one schema, the same SQL on SQLite (default) and PostgreSQL (by URL). Each method is one
transaction; several become one inside `with store.atomic():`, which is how a state change and the
evidence that proves it are written together. SQLite runs in WAL mode with synchronous=FULL: what a
method returned from is still there after kill -9 or a power cut.

Counters change by one conditional statement, never by read-then-write. Evidence is sealed under a key of
its own; deleting that key erases the content and leaves every proof valid. Refuses a schema that is newer
than this program. Errors never show parameters.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Select,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from compute.errors import ConfigError
from connector.identity import utc_now
from witness.database import write_ahead_log_emptied
from witness.encoding import format_time, system_entropy

T = TypeVar("T")

BUSY_SECONDS = 30  # that a connection waits for another

# --- records ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """One version of a registered table. `master_salt` opens its commitment and never leaves."""

    name: str
    version: int
    source: str  # JSON of the source specification, without credentials
    entry: bytes  # canonical JSON: the description that offers publish
    commitment: str
    master_salt: bytes
    rows: int
    at: str

    def __repr__(self) -> str:
        return f"DatasetRecord({self.name!r}, version={self.version})"


@dataclass(frozen=True, slots=True)
class OfferRecord:
    """One version of an offer: a dataset version under a policy."""

    name: str
    version: int
    dataset: str
    dataset_version: int
    entry: bytes  # canonical JSON of the catalogue entry, as peers see it
    policy: bytes  # canonical form, which `policy_digest` is over
    policy_text: str  # the owner's YAML
    policy_digest: str
    withdrawn: bool
    at: str


@dataclass(frozen=True, slots=True)
class NegotiationRecord:
    """One contract negotiation, in a state of the Dataspace Protocol."""

    id: str
    role: str  # "provider" | "consumer"
    peer: str
    offer: str
    policy_digest: str
    state: str
    document: bytes | None  # the agreement under negotiation
    evidence: bytes | None  # the record exchanged so far
    agreement: str | None
    code: str | None  # why it was terminated
    at: str


@dataclass(frozen=True, slots=True)
class ProposalRecord:
    """Terms that one side put on the table of a negotiation."""

    negotiation: str
    sequence: int
    author: str  # "provider" | "consumer"
    policy_digest: str
    document: bytes
    published: bool  # the offer's own terms
    at: str


@dataclass(frozen=True, slots=True)
class UnsentRecord:
    """A message of a negotiation that the other side did not confirm yet."""

    negotiation: str
    method: str
    body: bytes
    at: str


@dataclass(frozen=True, slots=True)
class AgreementRecord:
    """A signed agreement. `state` is active, suspended or terminated; that it ran out its policy says."""

    id: str
    role: str
    peer: str
    offer: str
    document: bytes
    digest: str
    state: str
    valid_until: str | None
    at: str


@dataclass(frozen=True, slots=True)
class ChargeRecord:
    """What one exchange was charged under its agreement; at the asker: what the owner may charge for it."""

    exchange: str
    agreement: str
    clock: int  # the owner's, ms since 1970, as the intent states it
    rows: int
    bytes: int
    loss: int  # billionths of rho


@dataclass(frozen=True, slots=True)
class RunningRecord:
    """A query that is running now."""

    query: str
    agreement: str
    at: str


@dataclass(frozen=True, slots=True)
class ComparedRecord:
    """What one query was about, as the differencing guard compares it with later ones."""

    ledger: str
    exchange: str
    layout: str  # digest of the columns that rows were named by
    asker_side: str  # digest of what the asker brought and did to its own data; "": nothing
    cells: bytes
    at: str

    def __repr__(self) -> str:
        return f"ComparedRecord({self.exchange!r})"


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """What left in answer to a question, for when it is asked again. An asker keeps no `body`."""

    question: str
    agreement: str
    exchange: str
    digest: str  # of the release record
    body: bytes
    released: int
    suppressed: int
    size: int
    until: str | None  # when it is deleted; None: when the agreement is terminated
    at: str

    def __repr__(self) -> str:
        return f"AnswerRecord({self.exchange!r})"


@dataclass(frozen=True, slots=True)
class ExchangeRecord:
    """One exchange with a peer: what its evidence records hang on."""

    id: str
    agreement: str | None
    peer: str
    role: str
    kind: str
    trace_id: str
    key: bytes  # finds the exchange's leaves in a public log; shown to nobody else
    status: str  # "open" | "released" | "refused" | "failed" | ...
    at: str

    def __repr__(self) -> str:
        return f"ExchangeRecord({self.id!r}, status={self.status!r})"


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """One evidence record of an exchange. `envelope` and `disclosures` are None once erased."""

    exchange: str
    sequence: int
    event: str
    digest: str
    envelope: bytes | None
    disclosures: bytes | None
    at: str


@dataclass(frozen=True, slots=True)
class OutboxRecord:
    """What one witness has still to be told, or has confirmed: `index` and `proof` once delivered."""

    exchange: str
    sequence: int
    witness: str
    status: str  # "pending" | "delivered" | "rejected": refused for good
    attempts: int
    index: int | None
    proof: bytes | None
    at: str


# --- schema -------------------------------------------------------------------------------------------

_metadata = MetaData()


def _table(name: str, *columns: Column[Any], key: Sequence[str], **more: Any) -> Table:
    extra = [ForeignKeyConstraint(*more["refers"])] if "refers" in more else []
    return Table(name, _metadata, *columns, PrimaryKeyConstraint(*key), *extra)


def _text(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, Text, nullable=nullable)


def _int(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, BigInteger, nullable=nullable)


def _blob(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, LargeBinary, nullable=nullable)


_schema = _table("schema_version", Column("version", Integer, nullable=False), key=["version"])
_turnstile = _table("turnstile", _int("id"), _int("turn"), key=["id"])
_datasets = _table(
    "datasets",
    *(_text("name"), _int("version"), _text("source"), _blob("entry"), _text("commitment")),
    *(_blob("master_salt"), _int("rows"), _text("at")),
    key=["name", "version"],
)
_offers = _table(
    "offers",
    *(_text("name"), _int("version"), _text("dataset"), _int("dataset_version"), _blob("entry")),
    *(_blob("policy"), _text("policy_text"), _text("policy_digest")),
    *(Column("withdrawn", Boolean, nullable=False), _text("at")),
    key=["name", "version"],
    refers=(["dataset", "dataset_version"], ["datasets.name", "datasets.version"]),
)
_negotiations = _table(
    "negotiations",
    *(_text("id"), _text("role"), _text("peer"), _text("offer"), _text("policy_digest"), _text("state")),
    *(_blob("document", nullable=True), _blob("evidence", nullable=True), _text("agreement", nullable=True)),
    *(_text("code", nullable=True), _text("at")),
    key=["id"],
)
_proposals = _table(
    "proposals",
    *(_text("negotiation"), _int("sequence"), _text("author"), _text("policy_digest"), _blob("document")),
    *(Column("published", Boolean, nullable=False), _text("at")),
    key=["negotiation", "sequence"],
)
_unsent = _table(
    "unsent", _text("negotiation"), _text("method"), _blob("body"), _text("at"), key=["negotiation"]
)
_agreements = _table(
    "agreements",
    *(_text("id"), _text("role"), _text("peer"), _text("offer"), _blob("document"), _text("digest")),
    *(_text("state"), _text("valid_until", nullable=True), _text("at")),
    key=["id"],
)
_uses = _table("uses", _text("agreement"), _text("period"), _int("used"), key=["agreement", "period"])
_losses = _table("losses", _text("ledger"), _text("period"), _int("spent"), key=["ledger", "period"])
_charges = _table(
    "charges",
    *(_text("exchange"), _text("agreement"), _int("clock"), _int("rows"), _int("bytes"), _int("loss")),
    key=["exchange"],
)
_guards = _table("guards", _text("ledger"), _int("turn"), key=["ledger"])
_member_names = _table(
    "member_names",
    *(_text("ledger"), _int("first"), _blob("rows"), _blob("identities")),
    key=["ledger", "first"],
)
_compared = _table(
    "compared",
    *(_text("ledger"), _text("exchange"), _text("layout"), _text("asker_side"), _blob("cells"), _text("at")),
    key=["ledger", "exchange"],
)
_answers = _table(
    "answers",
    *(_text("question"), _text("agreement"), _text("exchange"), _text("digest"), _blob("body")),
    *(_int("released"), _int("suppressed"), _int("size"), _text("until", nullable=True), _text("at")),
    key=["question"],
)
_running = _table("running", _text("query"), _text("agreement"), _text("at"), key=["query"])
_exchanges = _table(
    "exchanges",
    *(_text("id"), _text("agreement", nullable=True), _text("peer"), _text("role"), _text("kind")),
    *(_text("trace_id"), _blob("key"), _text("status"), _text("at")),
    key=["id"],
)
_evidence = _table(
    "evidence",
    *(_text("exchange"), _int("sequence"), _text("event"), _text("digest")),
    *(_blob("envelope"), _blob("disclosures"), _text("at")),  # sealed
    key=["exchange", "sequence"],
    refers=(["exchange"], ["exchanges.id"]),
)
_evidence_keys = _table(
    "evidence_keys", _text("exchange"), _int("sequence"), _blob("key"), key=["exchange", "sequence"]
)
_outbox = _table(
    "outbox",
    *(_text("exchange"), _int("sequence"), _text("witness"), _text("status"), _int("attempts")),
    *(_int("index", nullable=True), _blob("proof", nullable=True), _text("at")),
    key=["exchange", "sequence", "witness"],
    refers=(["exchange", "sequence"], ["evidence.exchange", "evidence.sequence"]),
)
_members = _table("members", _text("digest"), _int("version"), _blob("envelope"), key=["digest"])
SCHEMA_VERSION = 6
_MIGRATIONS: dict[int, tuple[str, ...]] = {
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
}
"""Statements that lead from the version before to the one they are listed under."""

_CHARGE = text(
    "INSERT INTO uses (agreement, period, used) SELECT :agreement, :period, 1 WHERE :most > 0 "
    "ON CONFLICT (agreement, period) DO UPDATE SET used = uses.used + 1 WHERE uses.used < :most"
)

_OVERFLOWING = text(
    "DELETE FROM answers WHERE question IN (SELECT question FROM (SELECT question, "
    'sum("size") OVER (ORDER BY at DESC, question) AS kept FROM answers) AS newest WHERE kept > :most)'
)

_KEEP_ANSWER = text(
    'INSERT INTO answers (question, agreement, exchange, digest, body, released, suppressed, "size", until, '
    "at) VALUES (:question, :agreement, :exchange, :digest, :body, :released, :suppressed, :size, :until, "
    ":at) ON CONFLICT (question) DO NOTHING"
)

_KEEP_MEMBERS = text(
    "INSERT INTO members (digest, version, envelope) VALUES (:digest, :version, :envelope) "
    "ON CONFLICT (digest) DO NOTHING"
)

_TURN = text(
    "INSERT INTO guards (ledger, turn) VALUES (:ledger, 1) "
    "ON CONFLICT (ledger) DO UPDATE SET turn = guards.turn + 1"
)

_LOSE = text(
    "INSERT INTO losses (ledger, period, spent) SELECT :ledger, :period, :cost WHERE :cost <= :most "
    "ON CONFLICT (ledger, period) DO UPDATE SET spent = losses.spent + :cost "
    "WHERE losses.spent + :cost <= :most"
)


# --- the store ----------------------------------------------------------------------------------------


class Store:
    """A connector's state. Safe to share between threads; close it when done."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock
        self._current = threading.local()
        self._kept_offers: tuple[int | None, tuple[OfferRecord, ...]] | None = None
        self._watching = threading.Lock()
        self._watch: Any = None  # a connection that never writes: its stamp changes with all that others do

    @classmethod
    def open(cls, url: str, clock: Callable[[], datetime] = utc_now) -> Self:
        """Open or create the state at `url`. Raises ConfigError when it cannot be used."""
        try:
            engine = _engine(url)
            store = cls(engine, clock)
            store._migrate()
        except (SQLAlchemyError, OSError, ImportError) as error:
            why = f"the state database cannot be used ({type(error).__name__}): check state.url"
            raise ConfigError("state.unusable", why) from error
        return store

    def close(self) -> None:
        """Give back every connection."""
        with self._watching:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
        self._engine.dispose()

    def probe(self) -> None:
        """Write one row and commit: returns only when the state can be written. Raises ConfigError."""
        try:
            self._run(update(_turnstile).values(turn=_turnstile.c.turn + 1))
        except SQLAlchemyError as error:
            why = f"the state database cannot be written ({type(error).__name__})"
            raise ConfigError("state.unusable", why) from error

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Everything this thread writes inside is one transaction: all of it or, on an error, nothing."""
        with self._writing():
            yield

    def after_commit(self, act: Callable[[], None]) -> None:
        """Do this once what this thread is writing can be read by others; at once outside a transaction."""
        if getattr(self._current, "connection", None) is None:
            act()
        else:
            self._current.after.append(act)

    # datasets and offers

    def add_dataset(
        self, name: str, source: str, entry: bytes, commitment: str, master_salt: bytes, rows: int
    ) -> DatasetRecord:
        """Register the next version of a dataset."""
        with self._writing() as connection:
            version = self._next_version(connection, _datasets, name)
            record = DatasetRecord(name, version, source, entry, commitment, master_salt, rows, self._now())
            self._insert(connection, _datasets, record)
        return record

    def dataset(self, name: str, version: int | None = None) -> DatasetRecord | None:
        """One version of a dataset; the newest when `version` is None."""
        query = select(_datasets).where(_datasets.c.name == name).order_by(_datasets.c.version.desc())
        if version is not None:
            query = query.where(_datasets.c.version == version)
        return self._first(DatasetRecord, query)

    def datasets(self) -> list[DatasetRecord]:
        """The newest version of every dataset, by name."""
        return self._all(DatasetRecord, _newest(_datasets))

    def add_offer(
        self,
        name: str,
        dataset: str,
        dataset_version: int,
        entry: bytes,
        policy: bytes,
        policy_text: str,
        policy_digest: str,
    ) -> OfferRecord:
        """Publish the next version of an offer."""
        with self._writing() as connection:
            version = self._next_version(connection, _offers, name)
            record = OfferRecord(
                name,
                version,
                dataset,
                dataset_version,
                entry,
                policy,
                policy_text,
                policy_digest,
                False,
                self._now(),
            )
            self._insert(connection, _offers, record)
        return record

    def offer(self, name: str, version: int | None = None) -> OfferRecord | None:
        """One version of an offer; the newest when `version` is None (even a withdrawn one)."""
        query = select(_offers).where(_offers.c.name == name).order_by(_offers.c.version.desc())
        if version is not None:
            query = query.where(_offers.c.version == version)
        return self._first(OfferRecord, query)

    def offers(self) -> list[OfferRecord]:
        """The newest version of every offer that is not withdrawn, by name.

        Every catalogue call asks: they are read again only when somebody, here or in another process, has
        committed something since. INVARIANT: the stamp is older than what is kept under it.
        """
        stamp = self._stamp()
        kept = self._kept_offers
        if stamp is None or kept is None or kept[0] != stamp:
            found = self._all(OfferRecord, _NEWEST_OFFERS)
            kept = (stamp, tuple(offer for offer in found if not offer.withdrawn))
            self._kept_offers = kept
        return list(kept[1])

    def withdraw_offer(self, name: str) -> None:
        """Stop offering `name`; agreements that exist keep their terms."""
        self._run(update(_offers).where(_offers.c.name == name).values(withdrawn=True))

    # negotiations

    def add_negotiation(
        self, negotiation: str, role: str, peer: str, offer: str, policy_digest: str, state: str
    ) -> NegotiationRecord:
        """Start a negotiation."""
        record = NegotiationRecord(
            negotiation, role, peer, offer, policy_digest, state, None, None, None, None, self._now()
        )
        with self._writing() as connection:
            self._insert(connection, _negotiations, record)
        return record

    def negotiation(self, negotiation: str) -> NegotiationRecord | None:
        """One negotiation."""
        return self._first(NegotiationRecord, select(_negotiations).where(_negotiations.c.id == negotiation))

    def negotiations(self) -> list[NegotiationRecord]:
        """Every negotiation, oldest first."""
        query = select(_negotiations).order_by(_negotiations.c.at, _negotiations.c.id)
        return self._all(NegotiationRecord, query)

    def count_negotiations(self, role: str, peer: str, state: str) -> int:
        """How many with this peer stand in this state, where we have this role."""
        columns = _negotiations.c
        where = (columns.role == role, columns.peer == peer, columns.state == state)
        with self._reading() as connection:
            return int(connection.execute(select(func.count()).where(*where)).scalar() or 0)

    def move_negotiation(
        self,
        negotiation: str,
        allowed_from: Sequence[str],
        state: str,
        *,
        document: bytes | None = None,
        evidence: bytes | None = None,
        agreement: str | None = None,
        code: str | None = None,
        policy_digest: str | None = None,
    ) -> bool:
        """Go to `state` if the present state is one of `allowed_from`; None leaves a field as it is."""
        given = {"document": document, "evidence": evidence, "agreement": agreement, "code": code}
        given["policy_digest"] = policy_digest
        changes = {name: value for name, value in given.items() if value is not None}
        where = (_negotiations.c.id == negotiation, _negotiations.c.state.in_(allowed_from))
        changed = self._run(
            update(_negotiations).where(*where).values(state=state, at=self._now(), **changes)
        )
        return changed == 1

    def add_proposal(
        self, negotiation: str, author: str, policy_digest: str, document: bytes, *, published: bool
    ) -> None:
        """Put the next terms on the table."""
        with self._writing() as connection:
            where = _proposals.c.negotiation == negotiation
            sequence = connection.execute(select(func.count()).select_from(_proposals).where(where)).scalar()
            record = ProposalRecord(
                negotiation, int(sequence or 0), author, policy_digest, document, published, self._now()
            )
            self._insert(connection, _proposals, record)

    def proposals(self, negotiation: str) -> list[ProposalRecord]:
        """Everything that was on the table, in order."""
        query = select(_proposals).where(_proposals.c.negotiation == negotiation)
        return self._all(ProposalRecord, query.order_by(_proposals.c.sequence))

    def drop_proposals(self, negotiation: str) -> None:
        """Forget the documents of everything that was on the table; their digests stay."""
        self._run(update(_proposals).where(_proposals.c.negotiation == negotiation).values(document=b""))

    def put_unsent(self, negotiation: str, method: str, body: bytes) -> None:
        """Keep a message until it is confirmed, instead of the one that was kept before."""
        with self.atomic():
            self.drop_unsent(negotiation)
            with self._writing() as connection:
                self._insert(connection, _unsent, UnsentRecord(negotiation, method, body, self._now()))

    def drop_unsent(self, negotiation: str) -> bool:
        """It is confirmed, or over; False when it was already."""
        return self._run(delete(_unsent).where(_unsent.c.negotiation == negotiation)) == 1

    def unsent(self, negotiation: str | None = None) -> list[UnsentRecord]:
        """Messages that the other side did not confirm yet, oldest first."""
        query = select(_unsent).order_by(_unsent.c.at, _unsent.c.negotiation)
        if negotiation is not None:
            query = query.where(_unsent.c.negotiation == negotiation)
        return self._all(UnsentRecord, query)

    # agreements

    def add_agreement(
        self,
        agreement: str,
        role: str,
        peer: str,
        offer: str,
        document: bytes,
        digest: str,
        valid_until: str | None,
    ) -> AgreementRecord:
        """Keep a finalised agreement, active."""
        record = AgreementRecord(
            agreement, role, peer, offer, document, digest, "active", valid_until, self._now()
        )
        with self._writing() as connection:
            self._insert(connection, _agreements, record)
        return record

    def agreement(self, agreement: str) -> AgreementRecord | None:
        """One agreement."""
        return self._first(AgreementRecord, select(_agreements).where(_agreements.c.id == agreement))

    def agreements(self, *, role: str | None = None, state: str | None = None) -> list[AgreementRecord]:
        """Agreements, oldest first; of one role or in one state when given."""
        query = select(_agreements).order_by(_agreements.c.at, _agreements.c.id)
        if role is not None:
            query = query.where(_agreements.c.role == role)
        if state is not None:
            query = query.where(_agreements.c.state == state)
        return self._all(AgreementRecord, query)

    def move_agreement(self, agreement: str, allowed_from: Sequence[str], state: str) -> bool:
        """Go to `state` if the present state is one of `allowed_from`."""
        where = (_agreements.c.id == agreement, _agreements.c.state.in_(allowed_from))
        return self._run(update(_agreements).where(*where).values(state=state)) == 1

    # uses

    def charge(self, agreement: str, period: str, limit: int) -> bool:
        """Count one use of `agreement` in `period`, unless `limit` uses are counted already.

        One statement, so that concurrent callers can never exceed the limit. There is no refund: a
        refund would tell an asker how far its query went.
        """
        return self._run(_CHARGE, agreement=agreement, period=period, most=limit) == 1

    def used(self, agreement: str, period: str) -> int:
        """Uses counted so far."""
        query = select(_uses.c.used).where(_uses.c.agreement == agreement, _uses.c.period == period)
        with self._reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    def add_charge(self, charge: ChargeRecord) -> None:
        """Keep what an exchange was charged: usage statements list it."""
        with self._writing() as connection:
            self._insert(connection, _charges, charge)

    def charges(self, agreement: str, start: int, end: int) -> list[ChargeRecord]:
        """What was charged under an agreement from `start` on and before `end` (ms), in order."""
        query = select(_charges).where(
            _charges.c.agreement == agreement, _charges.c.clock >= start, _charges.c.clock < end
        )
        return self._all(ChargeRecord, query.order_by(_charges.c.clock, _charges.c.exchange))

    # privacy losses

    def lose(self, ledger: str, period: str, cost: int, most: int) -> bool:
        """Spend `cost` billionths of rho, unless more than `most` would be spent then. Never refunded.

        One statement, as in `charge`.
        """
        return self._run(_LOSE, ledger=ledger, period=period, cost=cost, most=most) == 1

    def lost(self, ledger: str, period: str) -> int:
        """Billionths of rho spent so far."""
        query = select(_losses.c.spent).where(_losses.c.ledger == ledger, _losses.c.period == period)
        with self._reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    # what queries were about

    def take_turn(self, ledger: str) -> None:
        """Wait for whoever compares on `ledger`, and hold it until this transaction ends."""
        if getattr(self._current, "connection", None) is None:
            raise AssertionError("a turn outside a transaction ends at once")
        self._run(_TURN, ledger=ledger)

    def member_names(self, ledger: str) -> tuple[bytes, bytes]:
        """The names of the rows that have a number, in their order, and those of their identities."""
        query = select(_member_names.c.rows, _member_names.c.identities)
        query = query.where(_member_names.c.ledger == ledger).order_by(_member_names.c.first)
        with self._reading() as connection:
            found = connection.execute(query).all()
        return b"".join(row[0] for row in found), b"".join(row[1] for row in found)

    def add_member_names(self, ledger: str, first: int, rows: bytes, identities: bytes) -> None:
        """Number more rows, from `first` on."""
        with self._writing() as connection:
            values = {"ledger": ledger, "first": first, "rows": rows, "identities": identities}
            connection.execute(insert(_member_names).values(**values))

    def add_compared(self, ledger: str, exchange: str, layout: str, asker_side: str, cells: bytes) -> None:
        """Keep what a query was about."""
        record = ComparedRecord(ledger, exchange, layout, asker_side, cells, self._now())
        with self._writing() as connection:
            self._insert(connection, _compared, record)

    def compared(self, ledger: str) -> list[ComparedRecord]:
        """What earlier queries were about, oldest first."""
        query = select(_compared).where(_compared.c.ledger == ledger)
        return self._all(ComparedRecord, query.order_by(_compared.c.at, _compared.c.exchange))

    # what was answered

    def keep_answer(
        self,
        question: str,
        agreement: str,
        first: tuple[str, str],
        body: bytes,
        counts: tuple[int, int],
        until: datetime | None,
        most: int,
    ) -> None:
        """Keep an answer, unless one is kept; of all the newest, with `most` bytes together.

        Of two at once the first is kept. What has had its time is forgotten.
        """
        ends = None if until is None else _written(until)
        size = len(body) + len(question)
        record = AnswerRecord(question, agreement, *first, body, *counts, size, ends, self._now())
        with self.atomic():
            self.forget_answers()
            if self._run(_KEEP_ANSWER, **asdict(record)):
                self._run(_OVERFLOWING, most=most)

    def answer(self, question: str) -> AnswerRecord | None:
        """What was answered to a question, once what has had its time is forgotten."""
        self.forget_answers()
        return self._first(AnswerRecord, select(_answers).where(_answers.c.question == question))

    def forget_answers(self) -> None:
        """Delete what has had its time, and what was answered under an agreement that was terminated."""
        ended = select(_agreements.c.id).where(_agreements.c.state == "terminated")
        over = (_answers.c.until <= self._now()) | _answers.c.agreement.in_(ended)
        with self._reading() as connection:
            found = connection.execute(select(_answers.c.question).where(over).limit(1)).first()
        if found is not None:
            self._run(delete(_answers).where(over))

    def released(self, agreement: str, digest: str) -> bool:
        """Whether a release record of this digest was kept for a query under the agreement."""
        joined = _evidence.join(_exchanges, _evidence.c.exchange == _exchanges.c.id)
        query = select(_evidence.c.digest).select_from(joined)
        query = query.where(_evidence.c.digest == digest, _evidence.c.event == "query.release")
        with self._reading() as connection:
            return connection.execute(query.where(_exchanges.c.agreement == agreement)).first() is not None

    # running queries

    def start_query(self, query: str, agreement: str, per_agreement: int, total: int) -> bool:
        """Register a running query, unless its agreement or the connector runs as many as it may."""
        with self._writing() as connection:
            # Every starter changes this row first, so that counting and inserting cannot interleave.
            connection.execute(update(_turnstile).values(turn=_turnstile.c.turn + 1))
            running = [row.agreement for row in connection.execute(select(_running.c.agreement))]
            if len(running) >= total or running.count(agreement) >= per_agreement:
                return False
            self._insert(connection, _running, RunningRecord(query, agreement, self._now()))
        return True

    def finish_query(self, query: str) -> None:
        """The query ended, however it ended."""
        self._run(delete(_running).where(_running.c.query == query))

    def running(self, agreement: str | None = None) -> list[RunningRecord]:
        """Queries running now, oldest first."""
        query = select(_running).order_by(_running.c.at, _running.c.query)
        if agreement is not None:
            query = query.where(_running.c.agreement == agreement)
        return self._all(RunningRecord, query)

    def clear_running(self) -> list[RunningRecord]:
        """At start-up: forget the queries of a process that died, and return them for their evidence."""
        with self.atomic():
            left = self.running()
            self._run(delete(_running))
        return left

    # exchanges, evidence, outbox

    def open_exchange(
        self, exchange: str, agreement: str | None, peer: str, role: str, kind: str, trace_id: str, key: bytes
    ) -> ExchangeRecord:
        """Start an exchange with a peer."""
        record = ExchangeRecord(exchange, agreement, peer, role, kind, trace_id, key, "open", self._now())
        with self._writing() as connection:
            self._insert(connection, _exchanges, record)
        return record

    def exchange(self, exchange: str) -> ExchangeRecord | None:
        """One exchange."""
        return self._first(ExchangeRecord, select(_exchanges).where(_exchanges.c.id == exchange))

    def exchanges(self, *, status: str | None = None) -> list[ExchangeRecord]:
        """Exchanges, oldest first; with one status when given."""
        query = select(_exchanges).order_by(_exchanges.c.at, _exchanges.c.id)
        if status is not None:
            query = query.where(_exchanges.c.status == status)
        return self._all(ExchangeRecord, query)

    def close_exchange(self, exchange: str, status: str) -> bool:
        """Set the outcome of an open exchange; False when it has one already."""
        where = (_exchanges.c.id == exchange, _exchanges.c.status == "open")
        return self._run(update(_exchanges).where(*where).values(status=status)) == 1

    def add_evidence(
        self,
        exchange: str,
        sequence: int,
        event_type: str,
        digest: str,
        envelope: bytes,
        disclosures: bytes,
        witnesses: Sequence[str] = (),
    ) -> None:
        """Keep a record, sealed, and put it into the outbox for each of `witnesses`."""
        name, key = _record_name(exchange, sequence), system_entropy(32)
        sealed = [_seal(key, name, part, body) for part, body in enumerate((envelope, disclosures))]
        record = EvidenceRecord(exchange, sequence, event_type, digest, sealed[0], sealed[1], self._now())
        with self._writing() as connection:
            self._insert(connection, _evidence, record)
            connection.execute(insert(_evidence_keys).values(exchange=exchange, sequence=sequence, key=key))
            for witness in witnesses:
                item = OutboxRecord(exchange, sequence, witness, "pending", 0, None, None, self._now())
                self._insert(connection, _outbox, item)

    def evidence(self, exchange: str) -> list[EvidenceRecord]:
        """The records of an exchange, in order."""
        keyed = _evidence.outerjoin(
            _evidence_keys,
            (_evidence.c.exchange == _evidence_keys.c.exchange)
            & (_evidence.c.sequence == _evidence_keys.c.sequence),
        )
        query = select(_evidence, _evidence_keys.c.key).select_from(keyed)
        query = query.where(_evidence.c.exchange == exchange).order_by(_evidence.c.sequence)
        with self._reading() as connection:
            return [_unsealed(dict(row._mapping)) for row in connection.execute(query)]  # noqa: SLF001

    def erase_evidence(self, exchange: str) -> int:
        """Destroy the keys of an exchange's records, and its kept answer; how many keys there were.

        The contents are gone then; digests and proofs stay. Raises `ConfigError` when the keys are deleted
        but not overwritten yet: erasing once more ends it.
        """
        if getattr(self._current, "connection", None) is not None:
            raise AssertionError("erasing empties the write-ahead log, which an open transaction holds")
        with self.atomic():
            self._run(delete(_answers).where(_answers.c.exchange == exchange))
            erased = self._run(delete(_evidence_keys).where(_evidence_keys.c.exchange == exchange))
        if not write_ahead_log_emptied(self._engine, BUSY_SECONDS * 1000):
            why = (
                "deleted keys are still in the write-ahead log, which another program reads: erase once more"
            )
            raise ConfigError("evidence.erase-unfinished", why)
        return erased

    def outbox(self, *, status: str = "pending", witness: str | None = None) -> list[OutboxRecord]:
        """What witnesses have still to be told (or, by status, have confirmed), oldest first."""
        query = select(_outbox).where(_outbox.c.status == status)
        if witness is not None:
            query = query.where(_outbox.c.witness == witness)
        return self._all(OutboxRecord, query.order_by(_outbox.c.at, _outbox.c.exchange, _outbox.c.sequence))

    def receipts(self, exchange: str) -> list[OutboxRecord]:
        """Every witness's word on the records of one exchange, delivered or not."""
        query = select(_outbox).where(_outbox.c.exchange == exchange)
        return self._all(OutboxRecord, query.order_by(_outbox.c.sequence, _outbox.c.witness))

    def mark_attempt(self, exchange: str, sequence: int, witness: str) -> None:
        """A delivery is being tried."""
        self._run(
            update(_outbox)
            .where(*_outbox_key(exchange, sequence, witness))
            .values(attempts=_outbox.c.attempts + 1)
        )

    def mark_delivered(self, exchange: str, sequence: int, witness: str, index: int, proof: bytes) -> None:
        """The witness logged the record at `index`. Once more with a newer proof replaces the proof."""
        changes = {"status": "delivered", "index": index, "proof": proof}
        self._run(update(_outbox).where(*_outbox_key(exchange, sequence, witness)).values(**changes))

    def mark_rejected(self, exchange: str, sequence: int, witness: str) -> None:
        """The witness refuses the record for good."""
        where = (*_outbox_key(exchange, sequence, witness), _outbox.c.status == "pending")
        self._run(update(_outbox).where(*where).values(status="rejected"))

    def requeue(self) -> None:
        """What was refused is to be tried again."""
        self._run(update(_outbox).where(_outbox.c.status == "rejected").values(status="pending"))

    # member lists

    def keep_members(self, digest: str, version: int, envelope: bytes) -> None:
        """Keep a signed member list: the receipts of its time need it for ever."""
        self._run(_KEEP_MEMBERS, digest=digest, version=version, envelope=envelope)

    def member_lists(self) -> list[tuple[str, bytes]]:
        """Digest and envelope of every member list kept, oldest first."""
        query = select(_members.c.digest, _members.c.envelope).order_by(_members.c.version)
        with self._reading() as connection:
            return [(row.digest, row.envelope) for row in connection.execute(query)]

    # inside

    def _now(self) -> str:
        return _written(self._clock())

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        held: Connection | None = getattr(self._current, "connection", None)
        if held is not None:
            yield held
            return
        self._current.after = []
        with self._engine.begin() as connection:
            self._current.connection = connection
            try:
                yield connection
            finally:
                self._current.connection = None
        for act in self._current.after:
            act()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        held: Connection | None = getattr(self._current, "connection", None)
        if held is not None:
            yield held
            return
        with self._engine.connect().execution_options(reading=True) as connection:
            yield connection

    def _stamp(self) -> int | None:
        """Another number after every commit; None where that cannot be told, or this thread has written."""
        if self._engine.dialect.name != "sqlite" or getattr(self._current, "connection", None) is not None:
            return None
        with self._watching:
            if self._watch is None:
                self._watch = self._engine.raw_connection()
            with closing(self._watch.cursor()) as cursor:
                return int(cursor.execute("PRAGMA data_version").fetchone()[0])

    def _insert(self, connection: Connection, table: Table, record: Any) -> None:
        connection.execute(insert(table).values(**asdict(record)))

    def _run(self, statement: Any, **parameters: Any) -> int:
        with self._writing() as connection:
            return connection.execute(statement, parameters or None).rowcount

    def _first(self, kind: type[T], query: Select[Any]) -> T | None:
        found = self._all(kind, query.limit(1))
        return found[0] if found else None

    def _all(self, kind: type[T], query: Select[Any]) -> list[T]:
        with self._reading() as connection:
            return [kind(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001

    def _next_version(self, connection: Connection, table: Table, name: str) -> int:
        newest = select(func.max(table.c.version)).where(table.c.name == name)
        return int(connection.execute(newest).scalar() or 0) + 1

    def _migrate(self) -> None:
        with self._writing() as connection:
            if not inspect(connection).has_table(_schema.name):
                _metadata.create_all(connection)
                connection.execute(insert(_schema).values(version=SCHEMA_VERSION))
                connection.execute(insert(_turnstile).values(id=1, turn=0))
                return
            found = int(connection.execute(select(func.max(_schema.c.version))).scalar_one())
            if found > SCHEMA_VERSION:
                raise ConfigError("state.newer", "the state was written by a newer version of bayspace")
            for version in range(found + 1, SCHEMA_VERSION + 1):
                for statement in _MIGRATIONS[version]:
                    connection.execute(text(statement))
                connection.execute(update(_schema).values(version=version))


def _engine(url: str) -> Engine:
    where = make_url(url)
    # hide_parameters: a driver's message would otherwise quote what was being written.
    if not where.drivername.startswith("sqlite"):
        return create_engine(where, hide_parameters=True, pool_pre_ping=True, max_overflow=20)
    if not where.database or where.database == ":memory:":
        raise ConfigError("state.unusable", "the state must outlive the process: state.url names no file")
    _own_file(Path(where.database))
    engine = create_engine(
        where, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS}, max_overflow=-1
    )
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _own_file(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # WAL files take over this mode


def _sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_sqlite_begin` says, not by guessing
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Connection) -> None:
    # A writer takes the write lock at once: upgrading a read lock later fails without waiting.
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _written(at: datetime) -> str:
    return format_time(int(at.timestamp() * 1000))


def _newest(table: Table) -> Select[Any]:
    latest = select(table.c.name, func.max(table.c.version).label("version")).group_by(table.c.name)
    newest = latest.subquery()
    same = (table.c.name == newest.c.name) & (table.c.version == newest.c.version)
    return select(table).join(newest, same).order_by(table.c.name)


_NEWEST_OFFERS = _newest(_offers)


def _outbox_key(exchange: str, sequence: int, witness: str) -> tuple[Any, ...]:
    return (_outbox.c.exchange == exchange, _outbox.c.sequence == sequence, _outbox.c.witness == witness)


def _record_name(exchange: str, sequence: int) -> bytes:
    return f"{exchange}/{sequence}".encode()


def _seal(key: bytes, name: bytes, part: int, body: bytes) -> bytes:
    # The key is fresh per record and the nonce is the part's number: no pair occurs twice.
    return AESGCM(key).encrypt(part.to_bytes(12, "big"), body, name)


def _unsealed(row: dict[str, Any]) -> EvidenceRecord:
    key: bytes | None = row.pop("key")
    name = _record_name(row["exchange"], row["sequence"])
    for part, field in enumerate(("envelope", "disclosures")):
        opened = None if key is None else AESGCM(key).decrypt(part.to_bytes(12, "big"), row[field], name)
        row[field] = opened
    return EvidenceRecord(**row)
