"""Every page of the console as plain data: the same dict becomes HTML, JSON, or the rows of a CSV file.

Refuses arguments that are not of their form (`WrongRequest`) and answers nothing for what is not there
(`NotFound`). Holds no text for people; words.py has it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from witness import dsse
from witness.console import drawing, lists
from witness.console.health import Standing
from witness.console.index import Filter, Index
from witness.database import Database
from witness.dsse import EnvelopeInvalid
from witness.encoding import b64, format_time, system_clock
from witness.leaf import parse as parse_leaf
from witness.members import Participant
from witness.merkle import ProofInvalid, verify_inclusion
from witness.record import STATUSES, Record, payload_digest
from witness.schema import FormatError

PAGE = 50
MOST_ROWS = 100_000  # of one CSV file
DAY = 24 * 60 * 60 * 1000
HOUR = 60 * 60 * 1000
_HEX16, _HEX32 = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_EVENT = re.compile(r"[a-z][a-z.-]{0,63}")
# What a spreadsheet takes for a formula at the beginning of a cell, also after what ends one elsewhere in the
# world. No value of ours begins so, and a member's could.
_FORMULA = re.compile(r"(^|[;,\t\r\n])(?=[-=+@\t\r\uff0b\uff0d\uff1d\uff20])")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,14}")


class NotFound(Exception):
    """There is no such page, record, exchange, contract or participant."""


class WrongRequest(Exception):
    """An argument is not of its form."""


@dataclass(frozen=True)
class Page:
    """A page: the template that shows it, its data, and the name of the list that is its CSV file."""

    template: str
    data: dict[str, Any]
    rows: str | None = None


@dataclass(frozen=True)
class Asked:
    """A request: what the path names, and the arguments behind the question mark."""

    name: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    everything: bool = False  # for a CSV file: not one page of it, but all

    @property
    def limit(self) -> int:
        """How many rows to show."""
        return MOST_ROWS if self.everything else PAGE

    @property
    def page(self) -> int:
        """Which page of a list, from 1."""
        text = self.arguments.get("page") or "1"
        if not _NUMBER.fullmatch(text) or text == "0":
            raise WrongRequest
        return int(text)

    @property
    def offset(self) -> int:
        """How many rows to skip."""
        return 0 if self.everything else (self.page - 1) * PAGE

    def filter(self) -> Filter:
        """The arguments as a filter. Raises WrongRequest."""
        return Filter(
            search=self._text("q"),
            event=self._matching("event", _EVENT),
            status=self._one_of("status", STATUSES),
            party=self._matching("party", _ID),
            agreement=self._matching("agreement", _HEX32),
            exchange=self._matching("exchange", _HEX16),
            since=self._date("since", 0),
            until=self._date("until", DAY),
            one_sided=self.arguments.get("one_sided") == "1",
        )

    def _text(self, name: str) -> str:
        text = (self.arguments.get(name) or "").strip()
        if len(text) > 128 or not text.isprintable():
            raise WrongRequest
        return text

    def _matching(self, name: str, pattern: re.Pattern[str]) -> str:
        text = self.arguments.get(name) or ""
        if text and not pattern.fullmatch(text):
            raise WrongRequest
        return text

    def _one_of(self, name: str, known: frozenset[str]) -> str:
        text = self.arguments.get(name) or ""
        if text and text not in known:
            raise WrongRequest
        return text

    def _date(self, name: str, add: int) -> int | None:
        text = self.arguments.get(name) or ""
        if not text:
            return None
        try:
            moment = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError as error:
            raise WrongRequest from error
        return int(moment.timestamp()) * 1000 + add


class Pages:
    """The pages about one witness."""

    def __init__(self, index: Index, standing: Standing, database: Database) -> None:
        self._index, self._standing, self._database = index, standing, database

    def frame(self) -> dict[str, Any]:
        """What every page shows around its content."""
        config = self._standing.config
        return {
            "space": config.space,
            "participant": config.participant,
            "origin": config.origin,
            "now": format_time(system_clock()),
            "alarm_count": len(self._standing.alarms()),
            "indexed": self._index.size,
            "sequenced": self._database.count(),
        }

    def overview(self, _asked: Asked) -> Page:
        """Figures, standing and the latest records."""
        now = system_clock()
        start = now - now % HOUR - 23 * HOUR
        hours = self._index.hours(start, HOUR)
        latest = self._index.records(Filter(), 12)
        data = {
            "totals": self._index.totals(),
            "heads": self._heads(),
            "witnesses": self._witnesses(),
            "alarms": self._standing.alarms(),
            "hours": [{"at": format_time(start + n * HOUR), "records": hours.get(n, 0)} for n in range(24)],
            "tally": self._index.tally(start),
            "latest": [_timed(record) for record in latest],
        }
        return Page("overview.html", data, "latest")

    def records(self, asked: Asked) -> Page:
        """Records that match, newest first."""
        wanted = asked.filter()
        found = self._index.records(wanted, asked.limit, asked.offset)
        data = {
            "records": [_timed(record) for record in found],
            "events": self._index.events(),
            **_paging(asked, self._index.count(wanted)),
        }
        return Page("records.html", data, "records")

    def record(self, asked: Asked) -> Page:
        """One record: what it discloses to the witness, and its proof, drawn."""
        if not _NUMBER.fullmatch(asked.name):
            raise WrongRequest
        index = int(asked.name)
        entries = self._database.entries(index, index + 1)
        if not entries:
            raise NotFound
        _, digest, entry = entries[0]
        leaf, held = parse_leaf(entry), self._database.contents(index, index + 1).get(digest)
        data = {
            "index": index,
            "digest": digest.hex(),
            "received_at": format_time(leaf.received_at),
            "tag": leaf.tag.hex(),
            "record": _content(held),
            "erased": held is None,
            "proof": self._proof(index),
        }
        return Page("record.html", data)

    def exchanges(self, asked: Asked) -> Page:
        """Exchanges with a record that matches, newest first."""
        wanted = asked.filter()
        found = self._index.exchanges(wanted, asked.limit, asked.offset)
        data = {
            "exchanges": [_timed(exchange) for exchange in found],
            "events": self._index.events(),
            **_paging(asked, self._index.count_exchanges(wanted)),
        }
        return Page("exchanges.html", data, "exchanges")

    def exchange(self, asked: Asked) -> Page:
        """One exchange, step by step."""
        if not _HEX16.fullmatch(asked.name):
            raise WrongRequest
        steps = self._index.records(Filter(exchange=asked.name), 200, oldest=True)
        if not steps:
            raise NotFound
        return Page("exchange.html", {"exchange": asked.name, "steps": [_timed(s) for s in steps]}, "steps")

    def contracts(self, asked: Asked) -> Page:
        """Agreements that records name."""
        found = self._index.contracts(asked.limit, asked.offset)
        paging = _paging(asked, self._index.totals()["contracts"])
        return Page("contracts.html", {"contracts": [_timed(c) for c in found], **paging}, "contracts")

    def contract(self, asked: Asked) -> Page:
        """One agreement, and the exchanges under it."""
        if not _HEX32.fullmatch(asked.name):
            raise WrongRequest
        wanted = Filter(agreement=asked.name)
        found = self._index.exchanges(wanted, asked.limit, asked.offset)
        if not found:
            raise NotFound
        first = self._index.records(wanted, 1, oldest=True)[0]
        data = {
            "agreement": asked.name,
            "policy": first["policy"],
            "version": first["version"],
            "exchanges": [_timed(exchange) for exchange in found],
            **_paging(asked, self._index.count_exchanges(wanted)),
        }
        return Page("contract.html", data, "exchanges")

    def parties(self, _asked: Asked) -> Page:
        """Participants: members, and whoever records name."""
        members = {member.id: member for member in self._members()}
        seen = {row["party"]: _timed(row) for row in self._index.parties()}
        nothing = dict.fromkeys(("records", "exchanges", "refused", "failed", "one_sided"), 0)
        found = [
            {"party": id_, **nothing, "last_at": None, **seen.get(id_, {}), **_member(members.get(id_))}
            for id_ in sorted(members | seen)
        ]
        return Page("parties.html", {"parties": found}, "parties")

    def party(self, asked: Asked) -> Page:
        """One participant: as the member list has it, and its exchanges."""
        if not _ID.fullmatch(asked.name):
            raise WrongRequest
        member = next((m for m in self._members() if m.id == asked.name), None)
        wanted = Filter(party=asked.name)
        count = self._index.count_exchanges(wanted)
        if member is None and not count:
            raise NotFound
        found = self._index.exchanges(wanted, asked.limit, asked.offset)
        data = {
            "party": asked.name,
            "member": _member(member),
            "keys": [key.to_json() for key in member.keys] if member else [],
            "exchanges": [_timed(exchange) for exchange in found],
            **_paging(asked, count),
        }
        return Page("party.html", data, "exchanges")

    def log(self, _asked: Asked) -> Page:
        """Checkpoints, their signatures, the quorum's witnesses, and the logs that this witness cosigns."""
        quorum = self._standing.quorum()
        data = {
            "heads": self._heads(),
            "log_keys": [str(key) for key in self._standing.log_keys()],
            "quorum": None if quorum is None else quorum.quorum,
            "witnesses": self._witnesses(),
            "others": self._standing.others(),
            "contents": self._database.count_contents(),
            "lists": lists.rows(self._standing, self._database),
        }
        return Page("log.html", data, "witnesses")

    def alarms(self, _asked: Asked) -> Page:
        """What somebody has to look at, with the evidence of contradictions."""
        forks = [{**fork, "seen_at": format_time(fork["seen_at"])} for fork in self._standing.forks()]
        return Page("alarms.html", {"alarms": self._standing.alarms(), "forks": forks}, "alarms")

    # --- files ----------------------------------------------------------------------------------------

    def proof_text(self, index: int) -> str:
        """The tlog-proof of an entry. Raises NotFound."""
        proof = self._standing.prove(index)
        if proof is None:
            raise NotFound
        return str(proof)

    def envelope(self, index: int) -> bytes:
        """The envelope of an entry. Raises NotFound when it has been erased, or never was."""
        entries = self._database.entries(index, index + 1)
        data = self._database.envelope(entries[0][1]) if entries else None
        if data is None:
            raise NotFound
        return data

    # --- parts ----------------------------------------------------------------------------------------

    def _proof(self, index: int) -> dict[str, Any] | None:
        proof, head = self._standing.prove(index), self._standing.counted()
        if proof is None or head.checkpoint is None or proof.extra is None:
            return None
        leaf = parse_leaf(proof.extra)
        try:
            verify_inclusion(leaf.hash, index, head.checkpoint.size, proof.path, head.checkpoint.root)
        except ProofInvalid:
            holds = False
        else:
            holds = True
        path = list(proof.path)
        return {
            "holds": holds,
            "index": index,
            "size": head.checkpoint.size,
            "root": head.checkpoint.root.hex(),
            "leaf_hash": leaf.hash.hex(),
            "path": [
                {"side": side, "sibling": sibling.hex(), "hash": above.hex()}
                for side, sibling, above in drawing.steps(index, head.checkpoint.size, leaf.hash, path)
            ],
            "checkpoint": str(proof.checkpoint),
            "signatures": self._signatures(head),
            "drawing": drawing.draw(index, head.checkpoint.size, leaf.hash, path),
        }

    def _heads(self) -> dict[str, Any]:
        published, counted = self._standing.published(), self._standing.counted()
        quorum = self._standing.quorum()
        return {
            "published": self._head(published),
            "witnessed": self._head(counted),
            "demands_quorum": quorum is not None,
        }

    def _head(self, head: Any) -> dict[str, Any] | None:
        if head.checkpoint is None or head.signed is None:
            return None
        size = head.checkpoint.size
        last = self._database.leaf(size - 1) if size else None
        return {
            "origin": head.checkpoint.origin,
            "size": size,
            "root": b64(head.checkpoint.root),
            "last_entry_at": None if last is None else format_time(parse_leaf(last).received_at),
            "text": str(head.signed),
            "signatures": self._signatures(head),
        }

    def _signatures(self, head: Any) -> list[dict[str, Any]]:
        return [{**line, "at": _seconds(line["at"])} for line in self._standing.signatures(head)]

    def _witnesses(self) -> list[dict[str, Any]]:
        return [{**witness, "at": _seconds(witness["at"])} for witness in self._standing.witnesses()]

    def _members(self) -> tuple[Participant, ...]:
        lists = self._standing.members()
        return lists[-1].participants if lists else ()


def plain(data: dict[str, Any]) -> dict[str, Any]:
    """A page's data as its JSON twin has it: all but the drawing, which is made of the path."""
    proof = data.get("proof")
    if not isinstance(proof, dict):
        return data
    return {**data, "proof": {name: value for name, value in proof.items() if name != "drawing"}}


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The rows of a CSV file, with their names first."""
    if not rows:
        return []
    names = list(rows[0])
    return [names, *([_cell(row.get(name)) for name in names] for row in rows)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        value = " ".join(str(v["id"]) if isinstance(v, dict) else str(v) for v in value)
    return _FORMULA.sub(r"\1'", str(value))


def _content(data: bytes | None) -> dict[str, Any] | None:
    """What the record in an envelope says; nothing when it is erased, damaged or of a later version."""
    if data is None:
        return None
    try:
        envelope = dsse.parse(data)
        record = Record.parse(envelope.payload)
    except (EnvelopeInvalid, FormatError):
        return None
    signers = {s.keyid for s in envelope.signatures}
    said: dict[str, Any] = {
        "event": record.event,
        "space": record.space,
        "members": record.members,
        "exchange": record.exchange.to_json(),
        "outcome": record.outcome.to_json(),
        "contract": None if record.contract is None else record.contract.to_json(),
        "data": record.data.to_json(),
        "sealed_claims": len(record.sealed),
        "payload_digest": payload_digest(envelope.payload),
        "parties": [
            {**party.to_json(), "signed": signers.issuperset(party.keys)} for party in record.parties
        ],
    }
    signed = {party["id"] for party in said["parties"] if party["signed"]}
    said["one_sided"] = not signed.issuperset(record.required_signers())
    return said


def _member(member: Participant | None) -> dict[str, Any]:
    if member is None:
        return {"member_role": None, "jurisdiction": None, "address": None}
    return {"member_role": member.role, "jurisdiction": member.jurisdiction, "address": member.address}


def _paging(asked: Asked, count: int) -> dict[str, Any]:
    return {"count": count, "page": asked.page, "pages": max(1, -(-count // PAGE))}


def _timed(values: dict[str, Any]) -> dict[str, Any]:
    """Times as every document writes them."""
    times = {name for name in values if name.endswith("_at")}
    return {n: format_time(v) if n in times and v is not None else v for n, v in values.items()}


def _seconds(at: int | None) -> str | None:
    return None if at is None else format_time(at * 1000)
