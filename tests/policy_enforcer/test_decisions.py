"""The vectors under tests/vectors/policy: each request gets exactly the reasons that stand there."""

from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from policy_enforcer import decide as deciding
from policy_enforcer.codes import REASONS
from policy_enforcer.columns import COLUMN_RULES
from policy_enforcer.decide import decide
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party
from policy_enforcer.facts import ColumnUse, FederationUse, LedgerView, ProtocolUse, Request, TransferList
from policy_enforcer.load import load
from policy_enforcer.model import Policy

FOLDER = Path(__file__).parents[1] / "vectors" / "policy"
POLICY = yaml.safe_load((FOLDER / "invoices.yaml").read_text("utf-8"))
VECTORS = yaml.safe_load((FOLDER / "decisions.yaml").read_text("utf-8"))
MORE = yaml.safe_load((FOLDER / "privacy.yaml").read_text("utf-8"))
FEDERATED = yaml.safe_load((FOLDER / "federation.yaml").read_text("utf-8"))
CONTRACTS = yaml.safe_load((FOLDER / "contracts.yaml").read_text("utf-8"))
LISTS = yaml.safe_load((FOLDER / "lists.yaml").read_text("utf-8"))
KNOWN = yaml.safe_load((FOLDER / "known.yaml").read_text("utf-8"))
EDGES = yaml.safe_load((FOLDER / "edges.yaml").read_text("utf-8"))
SHAPES = {
    **VECTORS["shapes"],
    **MORE["shapes"],
    **FEDERATED["shapes"],
    **CONTRACTS["shapes"],
    **LISTS["shapes"],
    **KNOWN["shapes"],
}
SETS = {"recipients", "join_operators", "processing", "receiving", "filtered", "aggregated", "functions"}


def changed(data, changes):
    data = deepcopy(data)
    for dotted, value in changes.items():
        group = data
        *path, last = dotted.split(".")
        for word in path:
            group = group.setdefault(word, {})
        if value is None:
            group.pop(last, None)
        else:
            group[last] = value
    return data


def policy_of(case, shape):
    data = changed(changed(POLICY, shape.get("policy", {})), case.get("policy", {}))
    for word in ("from", "until"):
        if word in data.get("when", {}):
            data["when"][word] = str(data["when"][word])
    return Policy.model_validate(data)


def as_sets(fields):
    return {name: frozenset(value) if name in SETS else value for name, value in fields.items()}


def protocol_of(case, shape):
    fields = {**VECTORS["protocol"], **shape.get("protocol", {}), **case.get("protocol", {})}
    level = Level.parse(fields["level"]) if isinstance(fields["level"], str) else fields["level"]
    reveals = tuple(
        Disclosure(Party(to), Fact(fact) if fact in set(Fact) else fact, gated=bool(gated))
        for to, fact, *gated in fields["reveals"]
    )
    return ProtocolUse(fields["name"], fields["version"], level, reveals, frozenset(fields["gates"]))


def request_of(case, shape):
    fields = {**VECTORS["request"], **shape.get("request", {}), **case.get("request", {})}
    columns = (*fields.pop("columns"), *case.get("add", ()))
    fields["at"] = datetime.fromisoformat(fields["at"])
    fields["identity_columns"] = tuple(fields["identity_columns"])
    uses = tuple(ColumnUse(**as_sets(use)) for use in columns)
    if fields.get("federation"):
        name, participants, *others = fields["federation"]
        fields["federation"] = FederationUse(name, participants, frozenset(others))
    fields["lists"] = {name: list_of(found) for name, found in fields.get("lists", {}).items()}
    return Request(**as_sets(fields), columns=uses, protocol=protocol_of(case, shape))


def list_of(found):
    if isinstance(found, str):
        return found
    sets = {name: frozenset(found.get(name, ())) for name in ("categories", "recipients")}
    return TransferList(**{**found, **sets})


def ledger_of(case, shape):
    fields = {**VECTORS["ledger"], **shape.get("ledger", {}), **case.get("ledger", {})}
    agreed = fields.pop("agreed")
    return LedgerView(**fields, agreed=datetime.fromisoformat(agreed) if agreed else None)


def inputs(case):
    shape = SHAPES.get(case.get("shape"), {})
    return policy_of(case, shape), request_of(case, shape), ledger_of(case, shape)


def expected(case):
    return [] if case["expect"] == "permit" else sorted(case["expect"])


def codes(decision):
    return sorted(r.code + (f"@{r.column}" if r.column else "") for r in decision.because)


CASES = [
    *VECTORS["cases"],
    *EDGES["cases"],
    *MORE["cases"],
    *FEDERATED["cases"],
    *CONTRACTS["cases"],
    *LISTS["cases"],
    *KNOWN["cases"],
]


def test_there_are_enough_cases_and_names_tell_them_apart():
    assert len({case["name"] for case in CASES}) == len(CASES) >= 120


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_reasons(case):
    decision = decide(*inputs(case))
    assert codes(decision) == expected(case)
    assert decision.permitted == (case["expect"] == "permit")


def test_the_start_policy_loads():
    text = (FOLDER / "invoices.yaml").read_text("utf-8")
    assert load(text) == policy_of({}, {})


def test_every_reason_code_is_expected_somewhere():
    seen = {code.split("@")[0] for case in CASES for code in expected(case)}
    assert seen == set(REASONS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_reasons_are_sentences_with_a_rule_and_no_literal(case):
    for reason in decide(*inputs(case)).because:
        assert reason.code in REASONS
        assert reason.rule
        assert reason.sentence
        assert not reason.sentence.endswith(".")


OWNERS = "nothing under this policy: its owner takes the word out, or publishes a second offer"
WAYS_OUT = {
    "a stranger receives": ["hk-bank, hk-insurer"],
    "another purpose": ["credit-risk"],
    "a second before it begins": ["from 2026-01-01"],
    "six months after signing": ["P6M from signing"],
    "no use left": ["200 per month"],
    "a third query at once": ["2 at once"],
    "one witness of two": ["at least 2"],
    "computed elsewhere": ["CN-SZ, HK"],
    "a list where aggregates are allowed": ["aggregate"],
    "another join column": ["company_id, tax_no"],
    "the asker's data is required": ["a join on company_id, tax_no"],
    "no operator allowed": [
        "one condition alone; the owner may add `operators: [and]` to the policy's `join`"
    ],
    "labels to the one who may only compare": ["hk-insurer: after-compare"],
    "two entries fit and one forbids": ["hk-bank: never"],
    "a lower level than demanded": ["level 2 or higher; the space's operator certifies it"],
    "rows chosen inside an aggregate": ["the condition in WHERE"],
    "another value in place is not permitted by that": ["the condition in FILTER (WHERE …)"],
    "level receiver where cardinality is tolerated": ["a protocol at level cardinality or stricter"],
    "level cardinality where hidden is demanded": ["a protocol at level hidden"],
    "too large a key set": ["at most 100000"],
    "a count of something else": ["a join on company_id alone, or a query over this dataset alone"],
    "another dimension": ["industry, quarter"],
    "a range over a dimension": ["equality, membership, null"],
    "another filter column": ["amount, due, industry, note, paid, quarter, year"],
    "identity against a literal": ["amount, due, industry, note, paid, quarter, year"],
    "one of two may not be compared": ["due, paid"],
    "another measure column": ["*, amount, company_id"],
    "maximum where not listed": ["avg, sum"],
    "another function": ["coalesce, date_trunc"],
    "a list of another column": ["note"],
    "a grade above the maximum": ["columns of grade 2 or lower"],
    "an instance of no template": ["by-industry"],
    "a column that the white list lacks": ["columns of registration, trade"],
    "a white list before its time": ["from 2026-01-01"],
    "a white list the day after": ["until 2026-12-31"],
    "a white list of another country's data": ["CN"],
    "a computation farther away than the white list": ["CN, HK"],
    "a negative list named as a white list": ["transfer.negative_list"],
    "a policy without a federation": ["queries over this dataset alone"],
    "the dataset alone although it is offered to a federation": ["federation.loans"],
    "another federation": ["federation.loans"],
    "dominance by a protocol that does not look": ["queries over this dataset alone"],
    "dominance by a protocol that sees no cells": ["sums, counts and what is computed from them"],
    "dominance of the dataset alone that is in a federation": [
        "sums over federation.loans",
        "federation.loans",
    ],
    "dominance over a federation that is not named": ["queries over this dataset alone"] * 2,
    "identities that no gate counts": ["sums over federation.loans"],
    "differences over a federation": [OWNERS],
    "answers that no guard compares": ["aggregates over this dataset alone, or joined with the asker's"],
    "a federation under complementary suppression": [OWNERS],
    "a join with what answers in a federation only": [
        "sums over federation.loans",
        "a join on no column: this dataset may not be joined",
        "sums over federation.loans: it may not be joined at all",
        "federation.loans",
    ],
    "dominance of a total": ["`scope: local`: shares of this dataset's own cells"],
    "the largest value under dominance over a federation": ["sums, counts and what is computed from them"],
    "a list with a label compared alone": ["amount, due, note, paid, year"],
    "a list with a label compared beside another payload": ["amount, due, note, paid, region, year"],
    "one row more than is left": ["100 rows per month"],
    "one byte more than is left": ["5000 bytes per month"],
}


@pytest.mark.parametrize("name", WAYS_OUT)
def test_reasons_say_what_would_be_allowed_instead(name):
    (case,) = [case for case in CASES if case["name"] == name]
    assert [reason.allowed for reason in decide(*inputs(case)).because] == WAYS_OUT[name]


def test_counting_rows_is_refused_in_its_own_words():
    (case,) = [case for case in CASES if case["name"] == "counting rows where not listed"]
    assert [reason.sentence for reason in decide(*inputs(case)).because] == ["rows may not be counted"]


def all_codes():
    return [codes(decide(*inputs(case))) for case in CASES]


@pytest.mark.deep
@pytest.mark.parametrize("name", ["_ALWAYS", "_OWN_USE", "_RULES"])
def test_every_rule_is_needed(monkeypatch, name):
    """Leaving any one rule out changes the answer to some vector: each is tested."""
    before, rules = all_codes(), getattr(deciding, name)
    for rule in rules:
        monkeypatch.setattr(deciding, name, tuple(other for other in rules if other is not rule))
        assert all_codes() != before, rule.__name__


def test_every_column_rule_is_needed(monkeypatch):
    before = all_codes()
    for rule in COLUMN_RULES:
        rules = tuple(other for other in COLUMN_RULES if other is not rule)
        monkeypatch.setattr(deciding, "COLUMN_RULES", rules)
        assert all_codes() != before, rule.__name__


def test_the_meet_keeps_every_reason(invoices, joint, ledger):
    one = decide(invoices, replace(joint, purpose=None), ledger)
    two = decide(invoices, replace(joint, witnesses=0), ledger)
    assert [r.code for r in one.meet(two).because] == ["purpose.missing", "witness.too-few"]
    assert not one.meet(decide(invoices, joint, ledger)).permitted


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("a billionth too little is left", "0.05, and 0.049999999 of rho 1 per year is left"),
        ("the budget is spent", "0.05, and 0 of rho 1 per year is left"),
        ("more was spent than there was", "0.05, and 0 of rho 1 per year is left"),
        ("the dataset's budget is spent", "0.05, and 0.049999999 is left of the dataset's"),
        ("one row more than is left", "may answer 41 rows, and 40 are left"),
        ("one row where more were used than may be", "and 0 are left"),
        ("one row where fewer than none were used", "and 0 are left"),
    ],
)
def test_what_is_left_is_said(name, left):
    (case,) = (case for case in CASES if case["name"] == name)
    (reason,) = decide(*inputs(case)).because
    assert left in reason.sentence
