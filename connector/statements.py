"""Usage statements: what an agreement's queries used in a period, signed by both sides.

The provider accounts from what it charged; the consumer derives the same account from what it asked, and
signs only when both are equal to the byte. Where they differ it shows its own account instead, and nothing is
signed. A statement is a record like any other: kept, witnessed, exported and verified offline as a receipt.
Refuses statements about other agreements, about the future, and records that commit to another document.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import rfc8785

from compute.errors import ConfigError, PeerViolation
from compute.facts import bytes_at_most, rows_at_most
from connector.contract import Agreement
from connector.contract_records import NO_TRACE, USAGE, Records
from connector.evidence import openings_of
from connector.node import Node
from connector.records import MOST_CLOCK_DIFFERENCE
from connector.state.rows import ChargeRecord, NegotiationRecord
from connector.terms import Terms, milliseconds, moment
from connector.transitions import CONSUMER, PROVIDER
from connector.v1 import negotiation_pb2 as pb
from connector.v1 import negotiation_pb2_grpc
from policy_enforcer.privacy import billionths, rho
from witness import canonical
from witness.bundle import Opening
from witness.record import commit
from witness.schema import HEX16, HEX32, ID, Fields, FormatError, matching

FORMAT = "bayspace-usage/v1"
KIND = "statement"
MOST_STATEMENTS = 1000
"""Signed under one agreement: each is a row and a record, free for the provider."""
_SALT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Account:
    """What was charged under an agreement from `start` on and before `end` (ms since 1970)."""

    agreement: str
    provider: str
    consumer: str
    start: int
    end: int
    uses: int
    rows: int
    size: int  # bytes
    loss: str  # rho
    exchanges: tuple[tuple[str, str], ...]  # id, and digest of the intent that both signed

    @classmethod
    def of(
        cls, node: Node, agreement: Agreement, period: tuple[int, int], charges: list[ChargeRecord]
    ) -> Account:
        """The account of these charges."""
        return cls(
            agreement=agreement.digest,
            provider=agreement.provider,
            consumer=agreement.consumer,
            start=period[0],
            end=period[1],
            uses=len(charges),
            rows=sum(charge.rows for charge in charges),
            size=sum(charge.bytes for charge in charges),
            loss=rho(sum(charge.loss for charge in charges)),
            exchanges=tuple((charge.exchange, _intent(node, charge.exchange)) for charge in charges),
        )

    def to_bytes(self) -> bytes:
        """RFC 8785 bytes of the statement."""
        return rfc8785.dumps(
            {
                "agreement": self.agreement,
                "bytes": self.size,
                "consumer": self.consumer,
                "end": self.end,
                "exchanges": [list(pair) for pair in self.exchanges],
                "format": FORMAT,
                "loss": self.loss,
                "provider": self.provider,
                "rows": self.rows,
                "start": self.start,
                "uses": self.uses,
            }
        )

    @classmethod
    def parse(cls, document: bytes) -> Account:
        """The account with exactly these bytes. Raises `PeerViolation`."""
        try:
            with Fields(canonical.parse(document), "statement") as f:
                f.literal("format", FORMAT)
                found = cls(
                    agreement=f.text("agreement", HEX32),
                    provider=f.text("provider", ID),
                    consumer=f.text("consumer", ID),
                    start=f.integer("start"),
                    end=f.integer("end"),
                    uses=f.integer("uses"),
                    rows=f.integer("rows"),
                    size=f.integer("bytes"),
                    loss=str(f.take("loss")),
                    exchanges=tuple(_pair(item) for item in f.items("exchanges")),
                )
        except (canonical.CanonicalError, FormatError):
            raise _unreadable() from None
        if found.to_bytes() != document:
            raise _unreadable()
        return found

    def as_json(self) -> dict[str, Any]:
        """For people: the document with moments instead of milliseconds."""
        found: dict[str, Any] = json.loads(self.to_bytes())
        return {**found, "start": moment(self.start).isoformat(), "end": moment(self.end).isoformat()}


def charged(terms: Terms) -> ChargeRecord:
    """What an exchange costs: the owner keeps it with the charge, the asker when it signs the intent."""
    if terms.plan is None:
        raise AssertionError("a query that runs has a plan")
    noise = terms.agreement.policy.analysis.noise
    loss = 0 if noise is None or terms.repeats else billionths(noise.rho_per_query)
    return ChargeRecord(
        exchange=terms.opening.exchange,
        agreement=terms.opening.agreement,
        clock=terms.owner.clock,
        rows=rows_at_most(terms.plan),
        bytes=bytes_at_most(terms.plan),
        loss=loss,
    )


class Statements:
    """Both sides of usage statements for one connector."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._records = Records(node)

    def state(self, record: NegotiationRecord, start: str = "", end: str = "") -> dict[str, Any]:
        """As provider: account for an agreement's period and have the consumer sign the same account.

        `start`, `end`: ISO 8601; without them from the agreement's first moment until now.
        """
        if record.role != PROVIDER:
            raise ConfigError("contract.role", "only the provider of a contract states what was used")
        node, agreement = self._node, _agreement(self._node, record)
        period = self._period(agreement, start, end)
        account = Account.of(node, agreement, period, node.store.charges(agreement.digest, *period))
        exchange, key, salt = node.entropy(16).hex(), node.entropy(32), node.entropy(_SALT_BYTES)
        document = account.to_bytes()
        statement = self._records.usage(exchange, agreement, commit(KIND, salt, document))
        sealed = statement.seal(node.entropy)
        stub = negotiation_pb2_grpc.NegotiationStub(node.peers.channel(record.peer))
        message = pb.UsageStatement(
            exchange=exchange,
            exchange_key=key,
            statement=document,
            salt=salt,
            record=self._records.signed(sealed),
        )
        reply = node.peers.unary(record.peer, stub.State, message)
        if not reply.signature:
            theirs = Account.parse(reply.statement)
            return {**account.as_json(), "signed": False, "differences": _differences(account, theirs)}
        opening = (Opening(KIND, salt, document),)
        with node.store.atomic():
            node.store.open_exchange(exchange, agreement.digest, record.peer, PROVIDER, KIND, NO_TRACE, key)
            self._records.keep(exchange, sealed, record.peer, reply.signature, "stated", opening)
        return {**account.as_json(), "signed": True, "exchange": exchange}

    def on_state(self, peer: str, message: pb.UsageStatement) -> pb.UsageReply:
        """As consumer: sign the provider's account if it is ours too; otherwise show ours."""
        exchange, account = _id(message.exchange), Account.parse(message.statement)
        agreement = self._stated(peer, account)
        if (signed := self._records.signed_before(exchange, message.record)) is not None:
            return pb.UsageReply(signature=signed)
        ours = self._ours(agreement, account)
        if ours != account:
            return pb.UsageReply(statement=ours.to_bytes())
        if (len(message.exchange_key), len(message.salt)) != (32, _SALT_BYTES):
            raise _unreadable()
        self._check_room(agreement)
        expected = self._records.usage(exchange, agreement, commit(KIND, message.salt, message.statement))
        sealed, theirs = self._records.received(message.record, expected)
        opening, store = (Opening(KIND, message.salt, message.statement),), self._node.store
        with store.atomic():
            if store.exchange(exchange) is not None:  # a query's, say: it is no id for another one
                raise PeerViolation("contract.unknown", "this exchange is not the caller's to open")
            store.open_exchange(
                exchange, agreement.digest, peer, CONSUMER, KIND, NO_TRACE, message.exchange_key
            )
            self._records.keep(exchange, sealed, peer, theirs, "stated", opening)
        return pb.UsageReply(signature=self._records.signature(sealed))

    def kept(self, record: NegotiationRecord) -> list[dict[str, Any]]:
        """The statements that both signed under an agreement, oldest first."""
        if record.agreement is None:
            return []
        return [
            {**Account.parse(opening.value).as_json(), "signed": True, "exchange": exchange.id}
            for exchange in self._node.store.exchanges(kind=KIND, agreement=record.agreement)
            for opening in self._openings(exchange.id)
        ]

    # --- inside ---------------------------------------------------------------------------------------

    def _stated(self, peer: str, account: Account) -> Agreement:
        """The agreement that an account is about. Raises `PeerViolation` when it is not `peer`'s with us."""
        found = self._node.store.agreement(account.agreement)
        if found is None or (found.role, found.peer) != (CONSUMER, peer):
            raise PeerViolation("contract.unknown", "this agreement is not the caller's")
        if account.end > milliseconds(self._node.now()) + MOST_CLOCK_DIFFERENCE:
            raise PeerViolation("statement.period", "a statement is about a time that is not over")
        return Agreement.parse(found.document)

    def _ours(self, agreement: Agreement, account: Account) -> Account:
        """Our own account of the same period.

        We cannot know of a query that broke off whether it was charged: there the provider's word stands.
        What it lists we must have signed for, and what we were answered it must list.
        """
        store, listed = self._node.store, {exchange for exchange, _ in account.exchanges}
        charges = store.charges(agreement.digest, account.start, account.end)
        counted = [c for c in charges if c.exchange in listed or self._answered(c.exchange)]
        return Account.of(self._node, agreement, (account.start, account.end), counted)

    def _answered(self, exchange: str) -> bool:
        found = self._node.store.exchange(exchange)
        return found is not None and found.status == "released"

    def _check_room(self, agreement: Agreement) -> None:
        signed = self._node.store.exchanges(kind=KIND, agreement=agreement.digest)
        if len(signed) >= MOST_STATEMENTS:
            raise ConfigError("statement.too-many", f"{MOST_STATEMENTS} statements are signed already")

    def _openings(self, exchange: str) -> Iterable[Opening]:
        for kept in self._node.store.evidence(exchange):
            if kept.event == USAGE:
                yield from openings_of(kept)

    def _period(self, agreement: Agreement, start: str, end: str) -> tuple[int, int]:
        now = milliseconds(self._node.now())
        first = _clock(start) if start else agreement.agreed_at
        last = _clock(end) if end else now
        if not first < last <= now:
            raise ConfigError("statement.period", "a statement's period begins before it ends, and is over")
        return first, last


def _differences(ours: Account, theirs: Account) -> list[dict[str, Any]]:
    """Figure by figure; of the exchanges, those that one side has and the other has not, or otherwise."""
    found = [
        {"figure": figure, "ours": getattr(ours, name), "theirs": getattr(theirs, name)}
        for figure, name in (("uses", "uses"), ("rows", "rows"), ("bytes", "size"), ("loss", "loss"))
        if getattr(ours, name) != getattr(theirs, name)
    ]
    mine, others = set(ours.exchanges), set(theirs.exchanges)
    return [*found, *_only(mine - others, "ours"), *_only(others - mine, "theirs")]


def _only(pairs: Collection[tuple[str, str]], whose: str) -> list[dict[str, Any]]:
    empty = {"figure": "exchange", "ours": None, "theirs": None}
    return [{**empty, whose: exchange} for exchange, _ in sorted(pairs)]


def _agreement(node: Node, record: NegotiationRecord) -> Agreement:
    found = node.store.agreement(record.agreement) if record.agreement else None
    if found is None:
        raise ConfigError("contract.state", "nothing was agreed yet, so nothing was used")
    return Agreement.parse(found.document)


def _intent(node: Node, exchange: str) -> str:
    kept = node.store.evidence(exchange)
    if not kept:
        raise AssertionError("a charge without its intent")
    return kept[0].digest


def _clock(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ConfigError("statement.period", "a moment is written 2026-11-01T00:00:00+00:00, with its zone")
    return milliseconds(found)


def _pair(item: Any) -> tuple[str, str]:
    if not isinstance(item, list) or len(item) != 2:
        raise FormatError("an exchange is not its id and a digest")
    return matching(item[0], HEX16, "exchange"), matching(item[1], HEX32, "intent")


def _id(text: str) -> str:
    try:
        return matching(text, HEX16, "exchange")
    except FormatError:
        raise _unreadable() from None


def _unreadable() -> PeerViolation:
    return PeerViolation("statement.malformed", "a usage statement cannot be read as what it says it is")
