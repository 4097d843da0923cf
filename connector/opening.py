"""The documents of a query's handshake: parsed once, strictly, into frozen values.

open -> accept | refuse -> confirm -> start -> (the protocol's frames) -> sealed, outcome -> receipt -> key.
Refuses every document that does not serialise back to its own bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from compute.dataset import DatasetInfo
from compute.errors import PeerViolation
from compute.federation import MOST_PARTICIPANTS
from compute.pooling import Part
from witness import canonical
from witness.encoding import EncodingError, b64, unb64
from witness.record import Sealed
from witness.schema import HEX16, HEX32, TEXT, Fields, FormatError, matching

TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
MOST_SQL = 100_000
MOST_PURPOSE = 256
_PROTOCOL = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DATASET = re.compile(r"[a-z][a-z0-9-]{1,62}\.[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Opening:
    """What the asker says first. `dataset` describes the asker's own data, when the query joins it."""

    exchange: str  # 16 random bytes, hexadecimal
    exchange_key: bytes  # 32 bytes: whoever holds it finds the exchange's leaves in the public log
    agreement: str  # SHA-256 of the agreement, hexadecimal
    members: str  # digest of the member list the asker holds
    sql: str
    purpose: str
    dataset: DatasetInfo | None
    plan_digest: bytes
    query_salt: bytes
    plan_salt: bytes
    nonce: bytes
    build: str
    clock: int  # ms since 1970
    trace: str  # W3C traceparent
    federation: tuple[Part, ...] = ()  # whose datasets are summed, by participant; empty: one alone is asked
    protocol: str = ""  # the asker's choice; empty: the planner's

    def to_bytes(self) -> bytes:
        """The body of the "open" frame."""
        named = {"protocol": self.protocol} if self.protocol else {}
        return canonical.serialise(
            {
                **named,
                "agreement": self.agreement,
                "build": self.build,
                "clock": self.clock,
                "dataset": None if self.dataset is None else self.dataset.as_json(),
                "exchange": self.exchange,
                "exchange_key": b64(self.exchange_key),
                "federation": [[part.dataset, part.rows_bound] for part in self.federation],
                "members": self.members,
                "nonce": b64(self.nonce),
                "plan_digest": b64(self.plan_digest),
                "plan_salt": b64(self.plan_salt),
                "purpose": self.purpose,
                "query_salt": b64(self.query_salt),
                "sql": self.sql,
                "trace": self.trace,
            }
        )

    @classmethod
    def parse(cls, body: bytes) -> Opening:
        """The opening with exactly these bytes. Raises `PeerViolation`."""
        with _strict(body) as f:
            dataset = f.take("dataset")
            return cls(
                exchange=f.text("exchange", HEX16),
                exchange_key=_bytes32(f, "exchange_key"),
                agreement=f.text("agreement", HEX32),
                members=f.text("members", HEX32),
                sql=_long(f, "sql", MOST_SQL),
                purpose=_purpose(f),
                dataset=None if dataset is None else DatasetInfo.from_json(dataset),
                plan_digest=_bytes32(f, "plan_digest"),
                query_salt=_bytes32(f, "query_salt"),
                plan_salt=_bytes32(f, "plan_salt"),
                nonce=_bytes32(f, "nonce"),
                build=f.text("build", HEX32),
                clock=f.integer("clock"),
                trace=f.text("trace", TRACEPARENT),
                federation=_parts(f),
                protocol=f.optional("protocol", lambda name: f.text(name, _PROTOCOL)) or "",
            )


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A record as its author hands it to the other side: payload, every disclosure and decoy, signature."""

    payload: bytes
    disclosures: tuple[str, ...]
    decoys: tuple[bytes, ...]  # what the other digests are made of
    signature: bytes

    @classmethod
    def of(cls, sealed: Sealed, signature: bytes) -> SignedRecord:
        """The sealed record with the author's signature."""
        shown = tuple(d.encode() for d in sealed.disclosures)
        return cls(sealed.payload, shown, sealed.decoys, signature)

    def as_json(self) -> dict[str, Any]:
        """JSON values for inside another document."""
        return {
            "decoys": [b64(seed) for seed in self.decoys],
            "disclosures": list(self.disclosures),
            "payload": b64(self.payload),
            "signature": b64(self.signature),
        }

    def to_bytes(self) -> bytes:
        """The body of an "outcome" frame."""
        return canonical.serialise(self.as_json())

    @classmethod
    def parse(cls, body: bytes) -> SignedRecord:
        """The record with exactly these bytes. Raises `PeerViolation`."""
        with _strict(body) as f:
            return cls._take(f)

    @classmethod
    def from_json(cls, value: Any) -> SignedRecord:
        """Reads what `as_json` writes. Raises `FormatError`."""
        with Fields(value, "record") as f:
            return cls._take(f)

    @classmethod
    def _take(cls, f: Fields) -> SignedRecord:
        disclosures, decoys = f.items("disclosures"), f.items("decoys")
        if not all(isinstance(d, str) for d in (*disclosures, *decoys)):
            raise FormatError("a disclosure or decoy is no text")
        return cls(f.base64("payload"), tuple(disclosures), tuple(map(unb64, decoys)), f.base64("signature"))


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The owner's answer: its nonce, and the intent it has signed."""

    nonce: bytes
    build: str
    clock: int
    intent: SignedRecord
    repeats: str = ""  # digest of the release record whose answer is given again

    def to_bytes(self) -> bytes:
        """The body of the "accept" frame."""
        body = {
            "build": self.build,
            "clock": self.clock,
            "intent": self.intent.as_json(),
            "nonce": b64(self.nonce),
        }
        return canonical.serialise({**body, "repeats": self.repeats} if self.repeats else body)

    @classmethod
    def parse(cls, body: bytes) -> Acceptance:
        """The acceptance with exactly these bytes. Raises `PeerViolation`."""
        with _strict(body) as f:
            return cls(
                nonce=_bytes32(f, "nonce"),
                build=f.text("build", HEX32),
                clock=f.integer("clock"),
                intent=SignedRecord.from_json(f.take("intent")),
                repeats=f.optional("repeats", lambda name: f.text(name, HEX32)) or "",
            )


@dataclass(frozen=True, slots=True)
class RefusalNotice:
    """The owner's refusal: every reason, and the record it has signed about it."""

    reasons: str  # JSON of the reasons, as `firewall.reasons_from_json` reads it
    record: SignedRecord

    def to_bytes(self) -> bytes:
        """The body of the "refuse" frame."""
        return canonical.serialise({"reasons": self.reasons, "record": self.record.as_json()})

    @classmethod
    def parse(cls, body: bytes) -> RefusalNotice:
        """The notice with exactly these bytes. Raises `PeerViolation`."""
        with _strict(body) as f:
            return cls(
                reasons=_long(f, "reasons", MOST_SQL),
                record=SignedRecord.from_json(f.take("record")),
            )


class _strict:  # noqa: N801  reads as a statement: `with _strict(body) as f`
    """Fields of a canonical JSON object; every fault in it is the peer's."""

    def __init__(self, body: bytes) -> None:
        try:
            self._fields = Fields(canonical.parse(body), "document")
        except (canonical.CanonicalError, FormatError):
            raise _malformed() from None

    def __enter__(self) -> Fields:
        return self._fields.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, FormatError | EncodingError):
            raise _malformed() from None
        if kind is None:
            try:
                self._fields.__exit__(None, None, None)
            except FormatError:
                raise _malformed() from None


def _malformed() -> PeerViolation:
    return PeerViolation("peer.malformed", "the peer sent a document that is not of the agreed form")


def _long(f: Fields, name: str, most: int) -> str:
    text = f.take(name)
    if not isinstance(text, str) or len(text) > most:
        raise FormatError(f"{name} is no text of at most {most} characters")
    return text


def checked_purpose(text: str) -> str:
    """A purpose that evidence can state, or none. Raises `FormatError`."""
    if text and (len(text) > MOST_PURPOSE or not TEXT.fullmatch(text)):
        raise FormatError(f"a purpose is a line of at most {MOST_PURPOSE} characters")
    return text


def _purpose(f: Fields) -> str:
    # One that no record could state would leave the refusal of the query without evidence.
    return checked_purpose(_long(f, "purpose", MOST_PURPOSE))


def _parts(f: Fields) -> tuple[Part, ...]:
    """None, or two and more datasets of different participants, in their order."""
    parts = tuple(_part(item) for item in f.items("federation"))
    names = [part.participant for part in parts]
    if names != sorted(set(names)) or len(parts) > MOST_PARTICIPANTS or len(parts) == 1:
        raise FormatError("federation is no list of different participants' datasets")
    return parts


def _part(item: Any) -> Part:
    if not isinstance(item, list) or len(item) != 2:
        raise FormatError("a part of a federation is a dataset and its rows")
    name, rows = item
    if not isinstance(rows, int) or isinstance(rows, bool) or not 0 <= rows < 1 << 48:
        raise FormatError("a part's rows are no number that a dataset has")
    return Part(matching(name, _DATASET, "federation"), rows)


def _bytes32(f: Fields, name: str) -> bytes:
    value = unb64(str(f.take(name)))
    if len(value) != 32:
        raise FormatError(f"{name} is not 32 bytes")
    return value
