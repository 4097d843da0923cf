"""What the records of a log say, arranged for looking up: by exchange, contract, participant and time.

The witness keeps envelopes encrypted and in one sequence; this reads each once and keeps, in memory only, the
fields that a record discloses to the witness. Content that the witness erases disappears from here at the
next look. Nothing is written anywhere, and a sealed claim is nothing that this could show.
"""

import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from witness import dsse
from witness import leaf as leaves
from witness.database import Database
from witness.dsse import EnvelopeInvalid
from witness.record import Record
from witness.schema import FormatError

STEP = 500
_TABLES = """
CREATE TABLE records (
    "index" INTEGER PRIMARY KEY, digest BLOB NOT NULL, received_at INTEGER NOT NULL, event TEXT,
    exchange TEXT, sequence INTEGER, status TEXT, reason TEXT, agreement TEXT, policy TEXT, version TEXT,
    protocol TEXT, author TEXT, one_sided INTEGER, parties TEXT, held INTEGER NOT NULL);
CREATE TABLE parties (
    party TEXT NOT NULL, "index" INTEGER NOT NULL, PRIMARY KEY (party, "index")) WITHOUT ROWID;
CREATE INDEX by_exchange ON records (exchange);
CREATE INDEX by_agreement ON records (agreement);
CREATE INDEX by_event ON records (event);
CREATE INDEX by_digest ON records (digest);
"""
_FIELDS = (
    *("exchange", "sequence", "event", "status", "reason", "agreement", "policy", "version"),
    *("protocol", "author", "one_sided", "parties"),
)


@dataclass(frozen=True)
class Filter:
    """What to look for; None and the empty string mean anything."""

    search: str = ""
    event: str = ""
    status: str = ""
    party: str = ""
    agreement: str = ""
    exchange: str = ""
    since: int | None = None  # ms since 1970, inclusive
    until: int | None = None  # exclusive
    one_sided: bool = False


class Index:
    """The records of one database. `refresh` reads what is new; everything else answers at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript(_TABLES)
        self.size = 0

    def close(self) -> None:
        """Forgets everything."""
        self._connection.close()

    def refresh(self) -> bool:
        """Reads up to STEP new entries, and forgets what was erased; whether there may be more to read."""
        entries = self._database.entries(self.size, self.size + STEP)
        held = self._database.contents(self.size, self.size + STEP)
        read = [(index, digest, leaf, _record(held.get(digest))) for index, digest, leaf in entries]
        with self._lock, self._connection:
            for index, digest, leaf, (record, signers) in read:
                place = (index, digest, leaves.parse(leaf).received_at, digest in held)
                self._add(place, record, signers)
            self.size += len(read)
        self._forget_erased()
        return len(entries) == STEP

    def _add(
        self, place: tuple[int, bytes, int, bool], record: Record | None, signers: frozenset[str]
    ) -> None:
        values: dict[str, Any] = dict(zip(("index", "digest", "received_at", "held"), place, strict=True))
        if record is not None:
            values |= _values(record, signers)
            parties = [(party.id, place[0]) for party in record.parties]
            self._connection.executemany("INSERT INTO parties VALUES (?, ?)", parties)
        names = ", ".join(f'"{name}"' for name in values)
        marks = ", ".join("?" * len(values))
        self._connection.execute(f"INSERT INTO records ({names}) VALUES ({marks})", list(values.values()))  # noqa: S608  our own names

    def _forget_erased(self) -> None:
        """Contents never come back: fewer than were read here, readable or not, means that some have gone."""
        with self._lock:
            known = self._one("SELECT count(*) FROM records WHERE held")
        if known <= self._database.count_contents(self.size):
            return
        kept = self._kept()
        with self._lock, self._connection:
            rows = self._connection.execute('SELECT "index", digest FROM records WHERE held')
            gone = [(row["index"],) for row in rows.fetchall() if row["digest"] not in kept]
            nothing = ", ".join(f"{name} = NULL" for name in _FIELDS)
            self._connection.executemany(f'UPDATE records SET held = 0, {nothing} WHERE "index" = ?', gone)  # noqa: S608
            self._connection.executemany('DELETE FROM parties WHERE "index" = ?', gone)

    def _kept(self) -> set[bytes]:
        return set(self._database.kept(self.size, limit=self.size + 1))

    # --- looking up -----------------------------------------------------------------------------------

    def records(
        self, wanted: Filter, limit: int, offset: int = 0, *, oldest: bool = False
    ) -> list[dict[str, Any]]:
        """Records that match, newest first (or oldest first), as plain values."""
        where, values = _where(wanted)
        order = "ASC" if oldest else "DESC"
        query = f'SELECT * FROM records r {where} ORDER BY r."index" {order} LIMIT ? OFFSET ?'  # noqa: S608
        return [_plain(row) for row in self._all(query, [*values, limit, offset])]

    def count(self, wanted: Filter) -> int:
        """How many records match."""
        where, values = _where(wanted)
        with self._lock:
            return self._one(f"SELECT count(*) FROM records r {where}", values)  # noqa: S608

    def exchanges(self, wanted: Filter, limit: int, offset: int = 0) -> list[dict[str, Any]]:
        """Exchanges with a record that matches, newest first: their events, participants and outcome."""
        where, values = _where(wanted, "r.exchange IS NOT NULL")
        query = (
            f'SELECT r.exchange AS exchange, max(r."index") AS newest FROM records r {where}'  # noqa: S608
            " GROUP BY r.exchange ORDER BY newest DESC LIMIT ? OFFSET ?"
        )
        found = self._all(query, [*values, limit, offset])
        return [self._exchange(row["exchange"]) for row in found]

    def _exchange(self, exchange: str) -> dict[str, Any]:
        steps = self.records(Filter(exchange=exchange), 200, oldest=True)
        last = steps[-1]
        names = {party["id"]: party["role"] for step in steps for party in step["parties"]}
        return {
            "exchange": exchange,
            "events": [step["event"] for step in steps],
            "parties": [{"id": id_, "role": role} for id_, role in names.items()],
            "status": last["status"],
            "reason": last["reason"],
            "one_sided": any(step["one_sided"] for step in steps),
            "agreement": next((s["agreement"] for s in steps if s["agreement"]), None),
            "first_at": steps[0]["received_at"],
            "last_at": last["received_at"],
            "indexes": [step["index"] for step in steps],
        }

    def count_exchanges(self, wanted: Filter) -> int:
        """How many exchanges have a record that matches."""
        where, values = _where(wanted, "r.exchange IS NOT NULL")
        with self._lock:
            return self._one(f"SELECT count(DISTINCT r.exchange) FROM records r {where}", values)  # noqa: S608

    def contracts(self, limit: int, offset: int = 0) -> list[dict[str, Any]]:
        """Agreements that records name, the latest used first."""
        query = """SELECT agreement, policy, version, count(*) AS records,
            count(DISTINCT exchange) AS exchanges, sum(status = 'refused') AS refused,
            sum(status = 'failed') AS failed, min(received_at) AS first_at, max(received_at) AS last_at
            FROM records WHERE agreement IS NOT NULL
            GROUP BY agreement ORDER BY last_at DESC LIMIT ? OFFSET ?"""
        found = [dict(row) for row in self._all(query, [limit, offset])]
        return [{**row, "parties": self._parties_of(row["agreement"])} for row in found]

    def _parties_of(self, agreement: str) -> list[str]:
        query = """SELECT DISTINCT p.party FROM parties p JOIN records r ON r."index" = p."index"
            WHERE r.agreement = ? ORDER BY p.party"""
        return [row["party"] for row in self._all(query, [agreement])]

    def parties(self) -> list[dict[str, Any]]:
        """Participants that records name, and how much of what they were part of."""
        query = """SELECT p.party AS party, count(*) AS records, count(DISTINCT r.exchange) AS exchanges,
            sum(r.status = 'refused') AS refused, sum(r.status = 'failed') AS failed,
            sum(r.one_sided) AS one_sided, max(r.received_at) AS last_at
            FROM parties p JOIN records r ON r."index" = p."index" GROUP BY p.party ORDER BY p.party"""
        return [dict(row) for row in self._all(query)]

    def events(self) -> list[str]:
        """The kinds of events there are."""
        query = "SELECT DISTINCT event FROM records WHERE event IS NOT NULL ORDER BY event"
        return [row["event"] for row in self._all(query)]

    def tally(self, since: int) -> dict[str, int]:
        """Since a time (ms since 1970): how many records of each event."""
        query = """SELECT event, count(*) AS n FROM records
            WHERE received_at >= ? AND event IS NOT NULL GROUP BY event"""
        return {row["event"]: row["n"] for row in self._all(query, [since])}

    def hours(self, since: int, width: int) -> dict[int, int]:
        """How many records were received in each span of `width` ms since `since`, by the span's number."""
        query = """SELECT (received_at - ?) / ? AS span, count(*) AS n FROM records
            WHERE received_at >= ? GROUP BY span"""
        return {row["span"]: row["n"] for row in self._all(query, [since, width, since])}

    def totals(self) -> dict[str, int]:
        """Figures over everything."""
        query = """SELECT count(*) AS records, count(DISTINCT exchange) AS exchanges,
            count(DISTINCT agreement) AS contracts, total(NOT held) AS erased,
            total(one_sided) AS one_sided, total(status = 'refused') AS refused,
            total(status = 'failed') AS failed FROM records"""
        return {name: int(value) for name, value in dict(self._all(query)[0]).items()}

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def _one(self, query: str, values: Sequence[Any] = ()) -> int:
        found: int = self._connection.execute(query, values).fetchone()[0]
        return found


def _record(data: bytes | None) -> tuple[Record | None, frozenset[str]]:
    """The record in an envelope and the keys that signed it; none when it is erased or of a later version."""
    if data is None:
        return None, frozenset()
    try:
        envelope = dsse.parse(data)
        return Record.parse(envelope.payload), frozenset(s.keyid for s in envelope.signatures)
    except (EnvelopeInvalid, FormatError):
        return None, frozenset()


def _values(record: Record, signers: frozenset[str]) -> dict[str, Any]:
    signed = {party.id for party in record.parties if signers.issuperset(party.keys)}
    contract = record.contract
    parties = [{"id": p.id, "role": p.role, "signed": p.id in signed} for p in record.parties]
    return {
        "event": record.event,
        "exchange": record.exchange.id,
        "sequence": record.exchange.sequence,
        "status": record.outcome.status,
        "reason": record.outcome.reason,
        "agreement": contract and contract.agreement,
        "policy": contract and contract.policy,
        "version": contract and contract.version,
        "protocol": record.data.protocol,
        "author": record.author,
        "one_sided": int(not signed.issuperset(record.required_signers())),
        "parties": json.dumps(parties),
    }


def _plain(row: sqlite3.Row) -> dict[str, Any]:
    values = dict(row)
    values["digest"] = values["digest"].hex()
    values["parties"] = json.loads(values["parties"] or "[]")
    values["one_sided"] = bool(values["one_sided"])
    values["erased"] = not values.pop("held")
    return values


def _where(wanted: Filter, *more: str) -> tuple[str, list[Any]]:
    """The SQL of a filter, and its values: never a value inside the SQL."""
    parts, values = list(more), []
    for column in ("event", "status", "agreement", "exchange"):
        if value := getattr(wanted, column):
            parts.append(f"r.{column} = ?")
            values.append(value)
    if wanted.party:
        parts.append('r."index" IN (SELECT "index" FROM parties WHERE party = ?)')
        values.append(wanted.party)
    if wanted.one_sided:
        parts.append("r.one_sided = 1")
    for sign, time in ((">=", wanted.since), ("<", wanted.until)):
        if time is not None:
            parts.append(f"r.received_at {sign} ?")
            values.append(time)
    if wanted.search:
        part, found = _search(wanted.search)
        parts.append(part)
        values += found
    return ("WHERE " + " AND ".join(parts) if parts else "", values)


def _search(text: str) -> tuple[str, list[Any]]:
    """Any of the identifiers that people copy: entry number, or the beginning of a name or a digest."""
    begins = text.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    columns = (
        "r.exchange",
        "r.agreement",
        "r.policy",
        "r.event",
        "r.reason",
        "r.protocol",
        "lower(hex(r.digest))",
    )
    parts = [f"{column} LIKE ? ESCAPE '\\'" for column in columns]
    parts.append("""r."index" IN (SELECT "index" FROM parties WHERE party LIKE ? ESCAPE '\\')""")
    values: list[Any] = [begins] * len(parts)
    if text.isdecimal() and len(text) < 19:
        parts.append('r."index" = ?')
        values.append(int(text))
    return "(" + " OR ".join(parts) + ")", values
