"""What was used, spent, compared and answered.

Counters change by one conditional statement, never by read-then-write.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import delete, func, insert, select, text

from connector.state import tables
from connector.state.database import Database, written
from connector.state.rows import AnswerRecord, ChargeRecord, ComparedRecord

_CHARGE = text(
    "INSERT INTO uses (agreement, period, used) SELECT :agreement, :period, 1 WHERE :most > 0 "
    "ON CONFLICT (agreement, period) DO UPDATE SET used = uses.used + 1 WHERE uses.used < :most"
)

_LOSE = text(
    "INSERT INTO losses (ledger, period, spent) SELECT :ledger, :period, :cost WHERE :cost <= :most "
    "ON CONFLICT (ledger, period) DO UPDATE SET spent = losses.spent + :cost "
    "WHERE losses.spent + :cost <= :most"
)

_TURN = text(
    "INSERT INTO guards (ledger, turn) VALUES (:ledger, 1) "
    "ON CONFLICT (ledger) DO UPDATE SET turn = guards.turn + 1"
)

_KEEP_ANSWER = text(
    'INSERT INTO answers (question, agreement, exchange, digest, body, released, suppressed, "size", until, '
    "at) VALUES (:question, :agreement, :exchange, :digest, :body, :released, :suppressed, :size, :until, "
    ":at) ON CONFLICT (question) DO NOTHING"
)

_OVERFLOWING = text(
    "DELETE FROM answers WHERE question IN (SELECT question FROM (SELECT question, "
    'sum("size") OVER (ORDER BY at DESC, question) AS kept FROM answers) AS newest WHERE kept > :most)'
)


class Ledger(Database):
    """Uses, privacy losses, what queries were about, and answers for when they are asked again."""

    # uses

    def charge(self, agreement: str, period: str, limit: int) -> bool:
        """Count one use of `agreement` in `period`, unless `limit` uses are counted already.

        One statement, so that concurrent callers can never exceed the limit. There is no refund: a
        refund would tell an asker how far its query went.
        """
        return self._run(_CHARGE, agreement=agreement, period=period, most=limit) == 1

    def used(self, agreement: str, period: str) -> int:
        """Uses counted so far."""
        query = select(tables.uses.c.used).where(
            tables.uses.c.agreement == agreement, tables.uses.c.period == period
        )
        with self._reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    def add_charge(self, charge: ChargeRecord) -> None:
        """Keep what an exchange was charged: usage statements list it."""
        with self._writing() as connection:
            self._insert(connection, tables.charges, charge)

    def charges(self, agreement: str, start: int, end: int) -> list[ChargeRecord]:
        """What was charged under an agreement from `start` on and before `end` (ms), in order."""
        query = select(tables.charges).where(
            tables.charges.c.agreement == agreement,
            tables.charges.c.clock >= start,
            tables.charges.c.clock < end,
        )
        return self._all(ChargeRecord, query.order_by(tables.charges.c.clock, tables.charges.c.exchange))

    def count_charges(self, agreement: str, start: int) -> int:
        """How often an agreement was charged from `start` on (ms)."""
        query = select(func.count()).select_from(tables.charges)
        query = query.where(tables.charges.c.agreement == agreement, tables.charges.c.clock >= start)
        with self._reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    # privacy losses

    def lose(self, ledger: str, period: str, cost: int, most: int) -> bool:
        """Spend `cost` billionths of rho, unless more than `most` would be spent then. Never refunded.

        One statement, as in `charge`.
        """
        return self._run(_LOSE, ledger=ledger, period=period, cost=cost, most=most) == 1

    def lost(self, ledger: str, period: str) -> int:
        """Billionths of rho spent so far."""
        query = select(tables.losses.c.spent).where(
            tables.losses.c.ledger == ledger, tables.losses.c.period == period
        )
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
        query = select(tables.member_names.c.rows, tables.member_names.c.identities)
        query = query.where(tables.member_names.c.ledger == ledger).order_by(tables.member_names.c.first)
        with self._reading() as connection:
            found = connection.execute(query).all()
        return b"".join(row[0] for row in found), b"".join(row[1] for row in found)

    def add_member_names(self, ledger: str, first: int, rows: bytes, identities: bytes) -> None:
        """Number more rows, from `first` on."""
        with self._writing() as connection:
            values = {"ledger": ledger, "first": first, "rows": rows, "identities": identities}
            connection.execute(insert(tables.member_names).values(**values))

    def add_compared(self, ledger: str, exchange: str, layout: str, asker_side: str, cells: bytes) -> None:
        """Keep what a query was about."""
        record = ComparedRecord(ledger, exchange, layout, asker_side, cells, self._now())
        with self._writing() as connection:
            self._insert(connection, tables.compared, record)

    def compared(self, ledger: str) -> list[ComparedRecord]:
        """What earlier queries were about, oldest first."""
        query = select(tables.compared).where(tables.compared.c.ledger == ledger)
        return self._all(ComparedRecord, query.order_by(tables.compared.c.at, tables.compared.c.exchange))

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
        ends = None if until is None else written(until)
        size = len(body) + len(question)
        record = AnswerRecord(question, agreement, *first, body, *counts, size, ends, self._now())
        with self.atomic():
            self.forget_answers()
            if self._run(_KEEP_ANSWER, **asdict(record)):
                self._run(_OVERFLOWING, most=most)

    def answer(self, question: str) -> AnswerRecord | None:
        """What was answered to a question, once what has had its time is forgotten."""
        self.forget_answers()
        return self._first(AnswerRecord, select(tables.answers).where(tables.answers.c.question == question))

    def forget_answer(self, question: str) -> None:
        """Delete what was answered to one question."""
        self._run(delete(tables.answers).where(tables.answers.c.question == question))

    def forget_answers(self) -> None:
        """Delete what has had its time, and what was answered under an agreement that was terminated."""
        ended = select(tables.agreements.c.id).where(tables.agreements.c.state == "terminated")
        over = (tables.answers.c.until <= self._now()) | tables.answers.c.agreement.in_(ended)
        with self._reading() as connection:
            found = connection.execute(select(tables.answers.c.question).where(over).limit(1)).first()
        if found is not None:
            self._run(delete(tables.answers).where(over))
