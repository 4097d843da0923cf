"""What a connector knows of whoever asks when it judges: keys and claims of the member list, at that time."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from connector.node import Node
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party
from policy_enforcer.facts import ColumnUse, ProtocolUse, Request
from policy_enforcer.load import load
from witness.keys import PrivateKey
from witness.members import EvidenceKey, MemberList, Participant

ONE, TWO = (PrivateKey.from_seed(bytes([n]) * 32).public for n in (1, 2))
AT = datetime(2026, 6, 1, tzinfo=UTC)
THEN = int(AT.timestamp() * 1000)
POLICY = load(
    "policy: p\ndataset: sz-trade.invoices\nassignee: [hk-bank]\npurpose: any\n"
    f"conditions: {{connectors: [hk-bank@{ONE.id}], security_level: 2}}\n"
    'analysis: {kinds: [aggregate], measures: {"*": [count]}}\n'
)


def codes(keys, claims, at=AT):
    """Why a node refuses to count rows for hk-bank with these keys and claims in its member list."""
    bank = Participant("hk-bank", "connector", tuple(keys), "hk:1", "HK", claims=tuple(claims))
    node = SimpleNamespace(members=MemberList("space", 1, 0, (bank,)), jurisdiction_of=lambda _: "CN-SZ")
    request = Request(
        dataset="sz-trade.invoices",
        owner="sz-trade",
        asker="hk-bank",
        recipients=frozenset({"hk-bank"}),
        purpose=None,
        at=at,
        kind="aggregate",
        columns=(ColumnUse("*", aggregated=frozenset({"count"})),),
        protocol=ProtocolUse(
            "p", 1, Level.HIDDEN, (Disclosure(Party.RECEIVER, Fact.RELEASED_CELLS, gated=True),), frozenset()
        ),
        joint=False,
        asker_data=False,
        connectors={"hk-bank": frozenset({ONE.id})},  # whatever a plan says, the member list counts
    )
    return [reason.code for reason in Node.decide(node, POLICY, request, None).because]


@pytest.mark.parametrize(
    ("keys", "claims", "expected"),
    [
        ([EvidenceKey(ONE, 0)], ["claim:security-level-2"], []),
        ([EvidenceKey(ONE, 0)], ["claim:security-level-1"], ["security-level.too-low"]),
        ([EvidenceKey(TWO, 0)], ["claim:security-level-3"], ["connector.not-allowed"]),
        (
            [EvidenceKey(ONE, 0), EvidenceKey(TWO, THEN)],
            ["claim:security-level-2"],
            ["connector.not-allowed"],
        ),
        ([EvidenceKey(ONE, 0), EvidenceKey(TWO, 0, THEN)], ["claim:security-level-2"], []),
        ([EvidenceKey(ONE, 0), EvidenceKey(TWO, THEN + 1)], ["claim:security-level-2"], []),
        ([EvidenceKey(ONE, 0, THEN)], ["claim:security-level-2"], ["connector.not-allowed"]),
    ],
)
def test_the_member_list_says_which_connector_and_how_secure(keys, claims, expected):
    assert codes(keys, claims) == expected


def test_a_key_that_comes_later_counts_from_then_on():
    keys = [EvidenceKey(ONE, 0), EvidenceKey(TWO, THEN + 1000)]
    assert codes(keys, ["claim:security-level-2"]) == []
    later = AT + timedelta(seconds=1)
    assert codes(keys, ["claim:security-level-2"], later) == ["connector.not-allowed"]
