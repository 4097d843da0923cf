"""Masks as policy words: what loads, what contradicts itself, and what readers and other connectors see."""

import pytest

from policy_enforcer.describe import matrix
from policy_enforcer.diff import diff
from policy_enforcer.load import lint, load
from policy_enforcer.obligations import obligations
from policy_enforcer.odrl import digest, from_odrl, to_odrl
from policy_enforcer.problems import PolicyError
from policy_enforcer.write import to_yaml

MASKED = "masking: {industry: hash, amount: step-1000}\n"
GOOD = [
    "redact",
    "hash",
    "year",
    "quarter",
    "month",
    "keep-first-1",
    "keep-last-99",
    "step-1",
    "step-1000",
    "step-0.5",
    "step-2.000001",
]
BAD = [
    "Redact",
    "keep-last-0",
    "keep-last-100",
    "keep-middle-1",
    "keep-last",
    "step-0",
    "step-0.0",
    "step-1.50",
    "step--1",
    "step-01",
    "step-1e3",
    "day",
    "hash-md5",
    "none",
    "",
]


def problems(text):
    with pytest.raises(PolicyError) as caught:
        load(text)
    return [(problem.code, problem.path) for problem in caught.value.problems]


@pytest.mark.parametrize("mask", GOOD)
def test_a_mask_loads_and_goes_there_and_back(invoices_text, mask):
    policy = load(f'{invoices_text}masking: {{amount: "{mask}"}}\n')
    assert policy.masking == {"amount": mask}
    assert obligations(policy).masking == {"amount": mask}
    assert obligations(policy).mask_salt == b""
    again = from_odrl(to_odrl(policy))
    assert again == policy == load(to_yaml(policy))
    assert digest(again) == digest(policy) != digest(load(invoices_text))


@pytest.mark.parametrize("mask", BAD)
def test_what_is_no_mask_does_not_load(invoices_text, mask):
    assert problems(f'{invoices_text}masking: {{amount: "{mask}"}}\n') == [
        ("policy.bad-value", "masking.amount")
    ]


def test_what_a_join_or_a_count_needs_is_not_masked(invoices_text):
    found = problems(f"{invoices_text}masking: {{company_id: hash}}\n")
    assert found == [("policy.contradiction", "masking.company_id")]


def test_a_payload_holds_no_key(invoices_text):
    listed = invoices_text.replace("kinds: [aggregate]", "kinds: [aggregate, list]\n  payload: [company_id]")
    listed = listed.replace("disclosure: cardinality", "disclosure: rows")
    assert problems(listed) == [("policy.contradiction", "analysis.payload.company_id")]


def test_lint_finds_masks_of_nothing(invoices_text):
    found = {p.path: p for p in lint(f"{invoices_text}masking: {{phone: redact}}\n")}
    assert found["masking.phone"].warning
    assert "no query may use" in found["masking.phone"].sentence
    unknown = lint(f"{invoices_text}masking: {{amuont: hash}}\n", ["amount", "company_id"])
    assert ("policy.unknown-column", "masking.amuont") in {(p.code, p.path) for p in unknown}


def test_matrix_and_diff_say_which_mask(invoices_text):
    plain, masked = load(invoices_text), load(invoices_text + MASKED)
    rows = {row.column: row.mask for row in matrix(masked, dict.fromkeys(["industry", "amount", "year"]))}
    assert rows == {"industry": "hash", "amount": "step-1000", "year": None, "*": None}
    more = diff(masked, plain)
    assert "amount may be measured by sum" in more.allowed
    assert "amount (step-1000) may be measured by sum" in more.forbidden
    other = diff(masked, load(invoices_text + MASKED.replace("1000", "10")))
    assert "amount (step-10) may be measured by sum" in other.allowed
