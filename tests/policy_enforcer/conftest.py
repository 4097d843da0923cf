"""Shared: the reference policy, a request it permits, and a way to change either."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from policy_enforcer.disclosure import Disclosure, Fact, Level, Party
from policy_enforcer.facts import ColumnUse, LedgerView, ProtocolUse, Request
from policy_enforcer.load import load

INVOICES = """\
policy: invoices-v1
dataset: sz-trade.invoices
assignee: [hk-bank]
purpose: [credit-risk]
where: {processing: [CN-SZ, HK], recipients: [HK]}
when: {from: 2026-01-01, until: 2027-12-31}
uses: {count: 200, per: month, max_concurrent: 2}
transfer: {grade_at_most: 2}
analysis:
  kinds: [aggregate]
  join: {columns: [company_id], disclosure: cardinality, operators: [and]}
  dimensions: [industry, quarter]
  filters: {amount: range, year: equality, due: [range, column]}
  measures: {amount: [sum, avg], "*": [count], company_id: [count_distinct]}
  scalar_functions: [date_trunc]
  identity: company_id
  minimum_identities: 10
  bounds: {amount: [0, 1000000000]}
  maximum_peer_keys: 100000
duties: [{log: witness, minimum_witnesses: 1}]
"""


@pytest.fixture
def invoices_text():
    return INVOICES


@pytest.fixture
def invoices():
    return load(INVOICES)


@pytest.fixture
def joint():
    """Sum and count per industry over companies both know, at level cardinality: permitted."""
    protocol = ProtocolUse(
        "private_join_and_compute",
        1,
        Level.CARDINALITY,
        (
            Disclosure(Party.RECEIVER, Fact.RELEASED_CELLS, gated=True),
            Disclosure(Party.RECEIVER, Fact.CELL_MATCH_COUNTS),
            Disclosure(Party.SENDER, Fact.CELL_MATCH_COUNTS),
            Disclosure(Party.SENDER, Fact.PADDED_SIZE),
        ),
        frozenset({"minimum-identities"}),
    )
    return Request(
        dataset="sz-trade.invoices",
        owner="sz-trade",
        asker="hk-bank",
        recipients=frozenset({"hk-bank"}),
        purpose="credit-risk",
        at=datetime(2026, 11, 21, 12, tzinfo=UTC),
        kind="aggregate",
        columns=(
            ColumnUse("company_id", joined=True),
            ColumnUse("industry", grouped=True),
            ColumnUse("amount", aggregated=frozenset({"sum"})),
            ColumnUse("*", aggregated=frozenset({"count"})),
        ),
        protocol=protocol,
        joint=True,
        asker_data=True,
        identity_columns=("company_id",),
        peer_keys=16384,
        witnesses=1,
        processing=frozenset({"CN-SZ", "HK"}),
        receiving=frozenset({"HK"}),
        grades={"company_id": 2, "industry": 1, "amount": 2, "quarter": 1, "year": 1, "due": 1},
    )


@pytest.fixture
def single(joint):
    """The same question over one domain."""
    protocol = ProtocolUse(
        "single_domain",
        1,
        Level.HIDDEN,
        (Disclosure(Party.RECEIVER, Fact.RELEASED_CELLS, gated=True),),
        frozenset({"minimum-identities", "dominance"}),
    )
    columns = tuple(use for use in joint.columns if not use.joined)
    return replace(joint, columns=columns, protocol=protocol, joint=False, asker_data=False, peer_keys=0)


@pytest.fixture
def ledger():
    return LedgerView(uses=3, running=0, agreed=datetime(2026, 10, 1, tzinfo=UTC))
