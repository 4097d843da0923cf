"""Attacks and misuse in SQL, through the planner and the facts to the decision; and every explanation of it.

tests/vectors/policy/attacks/attacks.yaml says what each must be answered with. `policy test`, `explain`,
`policy matrix`, the refusal that a peer gets and the refusal records in the evidence are asked about each of
them, and must say the same: one verdict, one set of codes, the same columns.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from compute.dataset import DatasetInfo
from compute.errors import PolicyRefusal, QueryError
from compute.plan import Plan
from compute.protocols.base import Frame
from connector import datasets, inquiry, policy_examples, references, transfer_lists
from connector.answering import Answering
from connector.contract import Agreement
from connector.firewall import reasons_from_json
from connector.opening import Opening, RefusalNotice
from connector.stopping import Stop
from connector.terms import milliseconds
from connector.transfer_lists import ROLE
from connector.transport import Headers
from policy_enforcer.codes import REASONS
from policy_enforcer.decide import decide
from policy_enforcer.describe import MatrixRow, matrix
from policy_enforcer.facts import ColumnUse, Decision, LedgerView, Request
from policy_enforcer.known import allowed_by, taken
from policy_enforcer.load import load
from policy_enforcer.model import Policy
from policy_enforcer.moments import first_instant
from policy_enforcer.obligations import obligations
from witness.keys import PrivateKey, PrivateKeys
from witness.members import EvidenceKey, MemberList, Participant

FOLDER = Path(__file__).parents[1] / "vectors" / "policy" / "attacks"
ATTACKS = yaml.safe_load((FOLDER / "attacks.yaml").read_text("utf-8"))
CASES = [(policy, attack) for policy, attacks in ATTACKS.items() for attack in attacks]
IDS = [f"{policy}: {attack['name']}" for policy, attack in CASES]
HOME = {"hk-bank": "HK", "us-fund": "HK", "sz-trade": "CN-SZ", "gz-customs": "CN-GD"}
TRACE = f"00-{'1' * 32}-{'2' * 16}-01"
KEYS = {participant: PrivateKeys.generate(os.urandom) for participant in HOME}
UNSAID = {"budget.exhausted", "budget.dataset-exhausted", "list.jurisdiction"}
"""What `policy test` cannot foresee: an example does not say what was spent, nor where the owner is."""
ISSUER = PrivateKey.from_seed(b"1" * 32).public
ISSUERS = MemberList(
    "test",
    1,
    0,
    (Participant("gd-office", "connector", (EvidenceKey(ISSUER, 0),), "gd:1", "CN", claims=(ROLE,)),),
)
"""Whose lists are believed."""
BY_COLUMN = {
    "join.column-not-allowed",
    "join.column-output",
    "dimension.not-allowed",
    "filter.not-allowed",
    "filter.kind-not-allowed",
    "identity.compared-with-literal",
    "identity.grouped",
    "measure.not-allowed",
    "measure.function-not-allowed",
    "list.column-not-allowed",
    "grade.above-maximum",
    "grade.unknown",
    "category.unknown",
    "category.on-negative-list",
    "category.not-on-whitelist",
    "noise.domain-undeclared",
    "noise.measure",
    "weighted.not-allowed",
    "disclosure.not-allowed",
}
"""Reasons that the matrix shows as well: it has a cell for what they refuse."""


@cache
def policy_of(name: str) -> Policy:
    return load((FOLDER / "policies" / f"{name}.yaml").read_text("utf-8"))


@cache
def documents_of(name: str) -> dict[str, str]:
    return references.read(FOLDER / "policies", policy_of(name))


def description(policy: Policy) -> Path:
    return FOLDER / "datasets" / f"{policy.dataset.split('.')[1]}.yaml"


@cache
def dataset_of(name: str) -> DatasetInfo:
    policy = policy_of(name)
    return datasets.planned(datasets.load(description(policy)), policy.dataset, policy)


class Kept:
    """An evidence store that remembers what it was given."""

    def __init__(self, witnesses: int) -> None:
        self.witnesses = tuple(f"witness-{n}" for n in range(witnesses))
        self.records: list[Any] = []

    def keep(self, _exchange: str, sealed: Any, *_rest: Any) -> None:
        self.records.append(sealed.record)

    def is_open(self, _exchange: str) -> bool:
        return True

    def following(self, _exchange: str) -> tuple[int, None]:
        return len(self.records), None

    def in_the_end(self, write: Any) -> None:
        write()


class Seat:
    """One side's connector as an exchange sees it: who and where it is, what time it is, what was used."""

    space, build = "test", "0" * 64
    members = SimpleNamespace(digest="0" * 64)
    store = SimpleNamespace(
        open_exchange=lambda *_: None,
        exchange=lambda _exchange: None,
        answer=lambda _question: None,
        atomic=nullcontext,
    )

    def __init__(self, participant: str, name: str, attack: dict[str, Any]) -> None:
        policy = policy_of(name)
        self.id, self.key, self._attack = participant, KEYS[participant], attack
        start = policy.when.start if policy.when else None
        self._at = first_instant(attack.get("at") or start or "2026-11-22")
        self.evidence = Kept(attack.get("witnesses", obligations(policy).witnesses))
        self._agreement = Agreement(
            "n",
            self.space,
            policy.owner,
            "hk-bank",
            policy.dataset.split(".")[1],
            dataset_of(name),
            policy,
            0,
            documents_of(name),
        )

    entropy = staticmethod(os.urandom)

    def now(self) -> datetime:
        return self._at

    def key_of(self, participant: str) -> Any:
        return KEYS[participant].public

    def jurisdiction_of(self, participant: str) -> str:
        return {**HOME, **self._attack.get("places", {})}[participant]

    def claims_of(self, _participant: str) -> tuple[str, ...]:
        return ()

    def agreement_about(self, _participant: str, _offer: str) -> Agreement:
        return self._agreement

    def known_agreement(self, _digest: str, **_between: str) -> Agreement:
        return self._agreement

    agreement = known_agreement

    def check_uncharged(self, _peer: str, _agreement: Agreement) -> None: ...

    def note_uncharged(self, _peer: str, _code: str) -> None: ...

    def own_offer(self, _name: str) -> Any:
        return SimpleNamespace(dataset=dataset_of("credit"), policy=policy_of("credit"))

    def uses_of(self, _agreement: Agreement) -> int:
        return int(self._attack.get("uses", 0))

    def losses_of(self, _agreement: Agreement, _at: datetime) -> tuple[int, int]:
        return self._attack.get("loss", 0), self._attack.get("dataset_loss", 0)

    def decide(
        self, policy: Policy, request: Request, agreement: Agreement | None, *, answered: bool
    ) -> Decision:
        if agreement is None:
            return decide(policy, request, LedgerView())
        request = replace(
            request,
            standing={who: frozenset(words) for who, words in self._attack.get("standing", {}).items()},
            connectors={who: frozenset(keys) for who, keys in self._attack.get("connectors", {}).items()},
            origin=self.jurisdiction_of(policy.owner),
            lists=transfer_lists.stated(policy, agreement.documents, ISSUERS),
        )
        used, running = self.uses_of(agreement), self._attack.get("running", 0)
        return decide(
            policy, request, LedgerView(used, running, self._at, *self.losses_of(agreement, self._at))
        )


@dataclass(frozen=True)
class Judged:
    """The inquiry of the asker's connector with its decision, or the code of a question without one."""

    node: Seat
    inquiry: inquiry.Inquiry | None
    code: str | None = None

    @property
    def reasons(self) -> list[str]:
        return [self.code] if self.inquiry is None else sorted(map(said, self.inquiry.decision.because))


def said(reason: Any) -> str:
    return reason.code + (f"@{reason.column}" if reason.column else "")


@cache
def judged(number: int) -> Judged:
    name, attack = CASES[number]
    node = Seat(attack.get("asker", "hk-bank"), name, attack)
    purpose = attack.get("purpose", policy_of(name).purpose[0])
    try:
        return Judged(node, inquiry.inquire(node, attack["sql"], purpose))
    except QueryError as error:
        return Judged(node, None, error.code)


def expected(attack: dict[str, Any]) -> list[str]:
    return [] if attack["expect"] == "permit" else sorted(attack["expect"])


def test_there_are_enough_of_them():
    assert len(set(IDS)) == len(IDS) >= 120
    answers = {reason.split("@")[0] for _, attack in CASES for reason in expected(attack)}
    assert len(answers & set(REASONS)) >= 35


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_each_is_answered_with_exactly_these_reasons(number):
    assert judged(number).reasons == expected(CASES[number][1])


def example(name: str, attack: dict[str, Any]) -> dict[str, Any]:
    """The attack as a test file beside the policy would write it."""
    policy, seat = policy_of(name), Seat(attack.get("asker", "hk-bank"), name, attack)
    said_of_it = ("name", "sql", "asker", "purpose", "at", "uses", "running", "standing", "connectors")
    receiving = {seat.jurisdiction_of(seat.id)}
    return {
        **{word: attack[word] for word in said_of_it if word in attack},
        "receiving": sorted(receiving),
        "processing": sorted(receiving | {seat.jurisdiction_of(policy.owner)}),
        "witnesses": len(seat.evidence.witnesses),
        "expect": sorted(foreseen(attack) & set(REASONS)) or "permit",
    }


def foreseen(attack: dict[str, Any]) -> set[str]:
    return {reason.split("@")[0] for reason in expected(attack)} - UNSAID


@pytest.mark.parametrize("name", ATTACKS)
def test_policy_test_says_the_same(name):
    policy = policy_of(name)
    text = yaml.safe_dump({"tests": [example(name, attack) for attack in ATTACKS[name]]}, allow_unicode=True)
    peer = f"hk-bank.credit={FOLDER / 'datasets' / 'credit.yaml'}"
    outcomes = policy_examples.outcomes(policy, text, "tests", description(policy), peer, FOLDER / "policies")
    for attack, found in zip(ATTACKS[name], outcomes, strict=True):
        # a connector counts the participants before it plans
        counted = foreseen(attack) == {"query.participants"} and found.actual
        assert counted or found.actual == foreseen(attack), attack["name"]


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_explain_says_the_same(number):
    found, attack = judged(number), CASES[number][1]
    if found.inquiry is None:
        return  # `explain` raises what a query raises: both are `inquire`
    shown = inquiry.explanation(found.node, found.inquiry, "zh")
    assert shown["verdict"] == ("refuse" if expected(attack) else "permit")
    assert sorted(said(SimpleNamespace(**reason)) for reason in shown["reasons"]) == expected(attack)
    refused = {reason.split("@")[1] for reason in expected(attack) if "@" in reason}
    dataset = policy_of(CASES[number][0]).dataset
    verdicts = {row["column"]: row["verdict"] for row in shown["columns"] if row["dataset"] == dataset}
    joint_only = {"company_id", "信用代码"}  # the identity a gate counts need not be read by the query
    assert {column for column, verdict in verdicts.items() if verdict == "refuse"} == refused & set(verdicts)
    assert refused - set(verdicts) <= joint_only
    if not expected(attack):
        recorded_as_shown(found, shown)


def recorded_as_shown(found: Judged, shown: dict[str, Any]) -> None:
    """The intent that both sign states who learns what, and by which protocol, as `explain` does."""
    assert found.inquiry is not None
    terms = inquiry.opened(found.node, found.inquiry, inquiry.opening_of(found.node, found.inquiry, TRACE))
    stated = terms.intent(bytes(32)).data
    learns = [(event["who"], event["fact"], event["gated"]) for event in shown["learns"]]
    said = [(e.party, e.what.removesuffix("+ungated"), "+" not in e.what) for e in stated.reveals]
    assert said == learns
    assert stated.protocol == f"{shown['protocol']['name']}/{shown['protocol']['version']}"


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_the_matrix_says_the_same(number):
    found, policy = judged(number), policy_of(CASES[number][0])
    if found.inquiry is None:
        return
    grades = {column.name: column.grade for column in dataset_of(CASES[number][0]).columns}
    categories = {column.name: column.category for column in dataset_of(CASES[number][0]).columns}
    said = transfer_lists.unverified(policy, documents_of(CASES[number][0]))
    rows = matrix(policy, grades, categories, said)
    names = {found.node.id, "any", *CASES[number][1].get("standing", {}).get(found.node.id, ())}
    mine = [row for row in rows if names & set(row.parties)] or rows
    reasons = {r.column for r in found.inquiry.decision.because if r.code in BY_COLUMN and r.column}
    uses = found.inquiry.prepared.uses[policy.dataset]
    # groups under noise go by their values as they stand, for which the matrix has no cell
    changed = {use.column for use in uses if use.functions and policy.analysis.noise}
    plan = found.inquiry.prepared.plan
    refused = {
        use.column
        for use in uses
        for row in mine
        if row.column == use.column and not shown_in(row, use, plan)
    }
    assert refused - changed == reasons - changed


def shown_in(row: MatrixRow, use: ColumnUse, plan: Plan) -> bool:
    """True when the matrix allows every use that it has a cell for."""
    known = taken(use, plan.kind, plan.reveals, takes_part=True) - {"after-compare"}
    return (
        row.usable
        and known <= allowed_by(row.known)
        and use.filtered <= set(row.filtered)
        and use.aggregated <= set(row.measured)
        and row.joined >= use.joined
        and row.grouped >= use.grouped
        and row.listed >= use.listed
        and (row.weighted >= use.weighted or not row.measured)
    )


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_the_owners_refusal_and_both_records_say_the_same(number):
    found, attack = judged(number), CASES[number][1]
    if found.inquiry is None:
        return
    terms = inquiry.opened(found.node, found.inquiry, inquiry.opening_of(found.node, found.inquiry, TRACE))
    owner = Seat(policy_of(CASES[number][0]).owner, *CASES[number])
    answering = Answering(owner, found.node.id, Headers(), Stop())
    decision = answering._decision(terms, found.inquiry.prepared)
    mine = found.inquiry.decisions[terms.agreement.full_name]
    assert decision == mine
    if not expected(attack):
        return
    answering._terms = terms
    notice = RefusalNotice.parse(next(answering._refuse(PolicyRefusal(decision))).body)
    assert reasons_from_json(notice.reasons) == decision
    inquiry.record_refusal(found.node, terms, found.inquiry.decision)
    for record in (*owner.evidence.records, *found.node.evidence.records[-1:]):
        assert record.event == "query.refusal"
        assert (record.outcome.status, record.outcome.reason) == ("refused", decision.because[0].code)


def planned(attack: dict[str, Any]) -> bool:
    return all(reason.split("@")[0] in REASONS for reason in expected(attack))


UNPLANNED = [number for number, (_, attack) in enumerate(CASES) if not planned(attack)]


@pytest.mark.parametrize("number", UNPLANNED, ids=[IDS[n] for n in UNPLANNED])
def test_an_owner_that_is_asked_all_the_same_puts_the_same_code_on_record(number):
    """A question without a plan is refused by every connector alike, also where the asker's would not."""
    (code,) = expected(CASES[number][1])
    refused = refused_by_the_owner(number)
    assert code in (refused, "query.participants")  # the asker counts them before it plans


@pytest.mark.parametrize(
    ("protocol", "code"), [("psi_aggregate", "protocol.level"), ("psi_of_later", "protocol.unknown")]
)
def test_an_owner_refuses_a_named_protocol_by_itself(protocol, code):
    """Whatever the asker's connector thinks: its own policy tolerates less, or it has none of that name."""
    stricter = "private_join_and_compute"
    found = ((n, judged(n).inquiry) for n in range(len(CASES)))
    number = next(n for n, one in found if one and one.prepared.plan.protocol == stricter)
    assert refused_by_the_owner(number, protocol) == code


def refused_by_the_owner(number: int, protocol: str = "") -> str:
    """The code with which the owner fails what an asker opens that plans nothing itself; it is on record."""
    name, attack = CASES[number]
    asker = judged(number).node
    opening = Opening(
        exchange="0" * 32,
        exchange_key=bytes(32),
        agreement="0" * 64,
        members=asker.members.digest,
        sql=attack["sql"],
        purpose=policy_of(name).purpose[0],
        dataset=dataset_of("credit") if "hk-bank.credit" in attack["sql"] else None,
        plan_digest=bytes(32),
        query_salt=bytes(32),
        plan_salt=bytes(32),
        nonce=bytes(32),
        build=asker.build,
        clock=milliseconds(asker.now()),
        trace=TRACE,
        protocol=protocol,
    )
    owner = Seat(policy_of(name).owner, name, attack)
    role = Answering(owner, asker.id, Headers(), Stop()).run()
    role.send(None)
    with pytest.raises(QueryError) as refused:
        role.send(Frame("open", opening.to_bytes()))
    (record,) = owner.evidence.records
    assert (record.event, record.outcome.reason) == ("query.failure", refused.value.code)
    return refused.value.code
