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


def test_sql_needs_the_description():
    text = "tests: [{name: a, sql: SELECT count(*) AS n FROM sz-trade.invoices, expect: permit}]"
    with pytest.raises(ConfigError):
        outcomes(POLICY, text, "tests", None, None)
