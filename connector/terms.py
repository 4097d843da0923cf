"""What one query exchange is about, and what its evidence says: the same values on both sides.

`Terms` are fixed once both have spoken; each record of the exchange is a `Statement` derived from them. The
owner seals intent and release, the asker checks them against its own derivation. No data, no SQL: both stand
in records as salted commitments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from compute.facts import bytes_at_most, rows_at_most
from compute.federation import Entry
from compute.inputs import WeightFigures
from compute.plan import Plan
from compute.session import session_id
from connector.contract import Agreement
from connector.opening import Acceptance, Opening
from connector.records import DONE, Statement
from policy_enforcer import disclosure as d
from policy_enforcer.model import DeleteDuty
from policy_enforcer.moments import later
from policy_enforcer.privacy import rho
from witness import bundle
from witness.keys import PublicKeys
from witness.record import Contract, Data, Dataset, Exchange, Outcome, Party, Reveal, Sensitive, commit

if TYPE_CHECKING:
    from connector.node import Node

WEIGHTS_FEWEST, WEIGHTS_LARGEST = "weights-fewest", "weights-largest-per-mille"
"""Figures about the asker's weights in a release record: as the owner counted, and as the asker attests."""

SESSION_VERSION = "bayspace query v2"
"""Rises when both sides come to state something else of an exchange: no session is of two versions."""


@dataclass(frozen=True, slots=True)
class Side:
    """One participant as the records name it."""

    id: str
    keys: tuple[str, ...]  # ids of its evidence keys
    build: str
    clock: int
    jurisdiction: str
    claims: tuple[str, ...] = ()  # what the space's operator certifies of it


def side_of(node: Node, participant: str, keys: PublicKeys, build: str, clock: int) -> Side:
    """A member as our member list has it. Raises `Unavailable` for a stranger."""
    place, claims = node.jurisdiction_of(participant), node.claims_of(participant)
    return Side(participant, keys.ids, build, clock, place, claims)


@dataclass(frozen=True, slots=True)
class Terms:
    """One exchange. `plan` is None when the query was refused before there was one."""

    space: str
    opening: Opening
    agreement: Agreement
    plan: Plan | None
    asker: Side
    owner: Side
    repeats: str = ""  # digest of the release record whose answer is given again

    def session_id(self, owner_nonce: bytes) -> bytes:
        """The sid of protocols.md, "Session"."""
        return session_id(
            version=SESSION_VERSION,
            roles=(d.Party.RECEIVER, d.Party.SENDER),
            participants=(self.asker.id, self.owner.id),
            agreement=self.opening.agreement,
            query_digest=bytes.fromhex(self.query_commitment()),
            plan_digest=self.opening.plan_digest,
            nonces=(self.opening.nonce, owner_nonce),
        )

    @property
    def trace_id(self) -> str:
        """The OpenTelemetry trace id that both sides' spans and records carry."""
        return self.opening.trace.split("-")[1]

    def query_commitment(self) -> str:
        """The salted commitment to the SQL text."""
        return commit("query", self.opening.query_salt, self.opening.sql.encode())

    def plan_commitment(self) -> str:
        """The salted commitment to the canonical plan. INVARIANT: there is a plan."""
        if self.plan is None:
            raise AssertionError("no plan to commit to")
        return commit("plan", self.opening.plan_salt, self.plan.canonical())

    def openings(self) -> tuple[bundle.Opening, ...]:
        """What opens the commitments of the intent: for receipts that show query and plan."""
        sql, opening = self.opening.sql.encode(), self.opening
        found = (bundle.Opening("query", opening.query_salt, sql),)
        if self.plan is None:
            return found
        return (*found, bundle.Opening("plan", opening.plan_salt, self.plan.canonical()))

    def accepted(self, acceptance: Acceptance) -> Terms:
        """These terms with what the owner says of itself."""
        owner = replace(self.owner, build=acceptance.build, clock=acceptance.clock)
        return replace(self, owner=owner, repeats=acceptance.repeats)

    @property
    def counted(self) -> set[str]:
        """What the release record counts: nobody signs for another figure."""
        return set(self.figures(0, 0))

    def figures(self, released: int, suppressed: int, weights: WeightFigures | None = None) -> dict[str, int]:
        """The counts in the release record. Of a list, the power of two that its keys fit into."""
        # of a federation's cells each participant knows its own, which are nobody else's to know
        hidden = self.plan is not None and (not self.plan.says_suppressed or bool(self.plan.federation))
        told = {} if hidden else {"cells-suppressed": suppressed}
        if self.plan is not None and self.plan.receiver is not None and self.plan.receiver.weights:
            found = weights or WeightFigures(0, 0)
            told |= {WEIGHTS_FEWEST: found.fewest, WEIGHTS_LARGEST: found.largest}
        return {**self.counts(released), **told}

    def counts(self, released: int) -> dict[str, int]:
        """Those of them that the asker can count, too."""
        if self.plan is not None and self.plan.kind == "list":
            return {"keys-listed-at-most": 1 << (released - 1).bit_length() if released else 0}
        return {"cells-released": released}

    def entry(self, sid: bytes) -> Entry:
        """The owner's entry in the roster of a round. INVARIANT: its policy names the federation."""
        analysis = self.agreement.policy.analysis
        if analysis.federation is None:
            raise AssertionError("no federation is agreed")
        total = analysis.federation.scope == "total"
        return Entry(
            participant=self.owner.id,
            agreement=self.opening.agreement,
            commitment=self.agreement.dataset.commitment,
            session=sid.hex(),
            identities=(analysis.minimum_identities or 1) if total else 1,
            participants=analysis.federation.minimum_participants,
        )

    # --- the records ----------------------------------------------------------------------------------

    def intent(self, sid: bytes) -> Statement:
        """What both sign before anything that depends on data leaves."""
        plan = self.plan
        if plan is None:
            raise AssertionError("an intent has a plan")
        data = Data(
            datasets=self._datasets(),
            commitments={"query": self.query_commitment(), "plan": self.plan_commitment()},
            digests={"session": sid.hex(), **self._repeated()},
            protocol=f"{plan.protocol}/{plan.protocol_version}",
            reveals=self._reveals(),
        )
        sides = {"sender-keys-bound": plan.sender.keys_bound, "sender-rows-bound": plan.sender.rows_bound}
        sides |= {"rows-at-most": rows_at_most(plan), "bytes-at-most": bytes_at_most(plan)}
        if plan.receiver is not None:
            sides["receiver-keys-bound"] = plan.receiver.keys_bound
        exchange = Exchange(self.opening.exchange, 0)
        return self._statement("query.intent", exchange, DONE, data, figures=sides, spent=self._spent())

    def release(
        self, sid: bytes, previous: str, committed: str, digests: dict[str, str], figures: dict[str, int]
    ) -> Statement:
        """What both sign before the key to the sealed answer is handed over."""
        data = Data(
            datasets=self._datasets(),
            commitments={"release": committed},
            digests={"session": sid.hex(), **digests, **self._repeated()},
            protocol=None if self.plan is None else f"{self.plan.protocol}/{self.plan.protocol_version}",
            reveals=self._reveals(),
        )
        exchange = Exchange(self.opening.exchange, 1, previous)
        return self._statement("query.release", exchange, DONE, data, figures=figures, spent=self._spent())

    def result(self, previous: str, committed: dict[str, str], clock: int) -> Statement:
        """The asker's own assertion about the table it ended up with, and what it was computed from."""
        data = Data(commitments=committed)
        exchange = Exchange(self.opening.exchange, 2, previous)
        statement = self._statement("query.result", exchange, DONE, data)
        mine = replace(self._parties()[1], clock=clock)
        return replace(statement, parties=(mine,))

    def refusal(self, code: str, author: Side) -> Statement:
        """One side's statement that a policy refused this query."""
        data = Data(commitments={"query": self.query_commitment()})
        outcome = Outcome("refused", code)
        statement = self._statement("query.refusal", Exchange(self.opening.exchange, 0), outcome, data)
        return replace(statement, parties=self._parties(first=author))

    def failure(self, code: str, author: Side, sequence: int, previous: str | None) -> Statement:
        """One side's statement that the exchange broke off."""
        exchange = Exchange(self.opening.exchange, sequence, previous)
        statement = self._statement("query.failure", exchange, Outcome("failed", code), Data())
        return replace(statement, parties=self._parties(first=author))

    def _spent(self) -> dict[str, str]:
        """What was charged: a use, and the zCDP of the plan's noise, of which the same answer costs none."""
        noise = self.plan.noise if self.plan is not None else None
        loss = {} if noise is None else {"rho": rho(0 if self.repeats else noise.loss)}
        return {**loss, "uses": "1"}

    def _data_categories(self) -> tuple[str, ...]:
        """What the dataset's columns are to the lists of the law, as its description declares them.

        All of them, whichever a query reads: a record of a query that was refused has no plan to ask.
        """
        return tuple(sorted({c.category for c in self.agreement.dataset.columns if c.category is not None}))

    def _retained(self) -> str | None:
        """The day (UTC) on which the result has to be gone, where the policy says when."""
        duties = [duty for duty in self.agreement.policy.duties if isinstance(duty, DeleteDuty)]
        return min(
            (later(moment(self.owner.clock), d.after).date().isoformat() for d in duties), default=None
        )

    def _repeated(self) -> dict[str, str]:
        return {"repeats": self.repeats} if self.repeats else {}

    # --- shared parts ---------------------------------------------------------------------------------

    def _statement(
        self,
        event: str,
        exchange: Exchange,
        outcome: Outcome,
        data: Data,
        figures: dict[str, int] | None = None,
        spent: dict[str, str] | None = None,
    ) -> Statement:
        return Statement(
            event=event,
            space=self.space,
            members=self.opening.members,
            exchange=exchange,
            parties=self._parties(),
            outcome=outcome,
            data=data,
            contract=Contract(
                policy=self.agreement.policy_digest.hex(),
                version=self.agreement.policy.policy,
                agreement=self.opening.agreement,
            ),
            sensitive=Sensitive(
                correlation=self.trace_id,
                purpose=(self.opening.purpose,) if self.opening.purpose else None,
                data_categories=self._data_categories() or None,
                recipient_categories=self.asker.claims or None,
                source_jurisdictions=(self.owner.jurisdiction,),
                destination_jurisdictions=(self.asker.jurisdiction,),
                transfer_basis=self.agreement.transfer_basis,
                filing_number=self.agreement.filing_number,
                retain_until=self._retained() if outcome == DONE else None,
                figures=figures or None,
                budget=spent,
            ),
        )

    def _parties(self, first: Side | None = None) -> tuple[Party, ...]:
        owner = Party(self.owner.id, "provider", self.owner.keys, self.owner.build, self.owner.clock)
        asker = Party(self.asker.id, "consumer", self.asker.keys, self.asker.build, self.asker.clock)
        return (asker, owner) if first is not None and first.id == self.asker.id else (owner, asker)

    def _datasets(self) -> tuple[Dataset, ...]:
        own = (Dataset(self.owner.id, self.agreement.dataset.commitment),)
        joined = self.opening.dataset
        return own if joined is None else (*own, Dataset(self.asker.id, joined.commitment))

    def _reveals(self) -> tuple[Reveal, ...]:
        names = {d.Party.RECEIVER: self.asker.id, d.Party.SENDER: self.owner.id}
        return tuple(
            Reveal(names[e.to], e.fact.value + ("" if e.gated else "+ungated"))
            for e in (self.plan.reveals if self.plan else ())
        )


def milliseconds(at: datetime) -> int:
    """A time as ms since 1970."""
    return int(at.timestamp() * 1000)


def moment(clock: int) -> datetime:
    """The inverse of `milliseconds`."""
    return datetime.fromtimestamp(clock / 1000, UTC)
