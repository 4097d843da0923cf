"""Examples in SQL are decided by the plan they would have, against descriptions alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import connector
from compute.errors import ConfigError
from connector.policy_examples import outcomes
from policy_enforcer.load import load

FILES = Path(connector.__file__).with_name("demo_files")
POLICY = load((FILES / "policies" / "invoices.yaml").read_text())
DATASET = FILES / "datasets" / "invoices.yaml"
PEER = f"hk-bank.credit={FILES / 'datasets' / 'credit.yaml'}"


def decided(text: str) -> list[tuple[bool, frozenset[str]]]:
    return [(o.passed, o.actual) for o in outcomes(POLICY, text, "tests", DATASET, PEER)]


def test_the_demos_examples_hold():
    text = (FILES / "policies" / "invoices.tests.yaml").read_text()
    assert all(passed for passed, _ in decided(text))


def test_an_example_that_expects_otherwise_fails():
    text = "tests: [{name: a, sql: SELECT count(*) AS n FROM sz-trade.invoices, expect: [purpose.missing]}]"
    assert decided(text) == [(False, frozenset())]


FEDERATED = """\
tests:
  - {name: sums, sql: "SELECT industry, sum(amount) AS s FROM federation.trade GROUP BY industry", beside: [a, b], expect: permit}
  - {name: a stranger, sql: "SELECT sum(amount) AS s FROM federation.trade", beside: [a, c], expect: [federation.participant-not-allowed]}
  - {name: few, sql: "SELECT sum(amount) AS s FROM federation.trade", beside: a, expect: [federation.too-few]}
  - {name: other, sql: "SELECT sum(amount) AS s FROM federation.tax", beside: [a, b], expect: [federation.not-allowed]}
  - {name: facts, beside: [a, b], measure: {amount: sum}, expect: permit}
  - {name: strange facts, beside: [a, c], measure: {amount: sum}, expect: [federation.participant-not-allowed]}
"""  # noqa: E501


def test_examples_over_a_federation():
    text = (FILES / "policies" / "invoices.yaml").read_text()
    words = "  federation: {name: trade, scope: local, minimum_participants: 3, participants: [a, b]}\n"
    words += "  domains: {industry: [retail]}\n"
    policy = load(text.replace("analysis:\n", "analysis:\n" + words))
    found = outcomes(policy, FEDERATED, "tests", DATASET, PEER)
    assert [(o.name, o.actual) for o in found if not o.passed] == []
    (alone,) = outcomes(
        POLICY, "tests: [{name: a, beside: [b, c], measure: {amount: sum}, expect: permit}]", "t", None, None
    )
    assert "federation.not-allowed" in alone.actual


DOMINATED = """\
tests:
  - {name: sums, sql: "SELECT industry, sum(amount) AS s FROM federation.trade GROUP BY industry", beside: [a, b], expect: permit}
  - {name: largest, sql: "SELECT max(width_bucket(amount, [10, 100])) AS m FROM federation.trade", beside: [a, b], expect: [gate.dominance.unavailable]}
  - {name: facts, beside: [a, b], measure: {amount: sum}, expect: permit}
  - {name: largest of facts, beside: [a, b], measure: {amount: max}, expect: [gate.dominance.unavailable]}
  - {name: steps of facts, beside: [a, b], measure: {amount: logistic}, expect: [gate.dominance.unavailable]}
"""  # noqa: E501


@pytest.mark.parametrize("scope", ["local", "total"])
def test_examples_over_a_federation_under_dominance(scope):
    text = (FILES / "policies" / "invoices.yaml").read_text()
    words = f"  federation: {{name: trade, scope: {scope}, minimum_participants: 3}}\n"
    words += "  domains: {industry: [retail]}\n  dominance: {share_at_most: 0.7}\n"
    policy = load(text.replace("analysis:\n", "analysis:\n" + words))
    found = {o.name: o.actual for o in outcomes(policy, DOMINATED, "tests", DATASET, PEER)}
    refused = {"gate.dominance.unavailable"}
    assert {name for name, codes in found.items() if refused <= codes} == (
        {*found} if scope == "total" else {"largest", "largest of facts", "steps of facts"}
    )


def test_sql_needs_the_description():
    text = "tests: [{name: a, sql: SELECT count(*) AS n FROM sz-trade.invoices, expect: permit}]"
    with pytest.raises(ConfigError):
        outcomes(POLICY, text, "tests", None, None)
