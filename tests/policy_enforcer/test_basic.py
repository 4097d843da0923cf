"""The reference policy permits what it is for."""

from policy_enforcer.decide import decide
from policy_enforcer.load import load
from policy_enforcer.odrl import digest, from_odrl, to_odrl
from policy_enforcer.write import to_yaml


def test_permits_the_joint_query(invoices, joint, ledger):
    assert decide(invoices, joint, ledger).because == ()


def test_permits_the_single_domain_query(invoices, single, ledger):
    assert decide(invoices, single, ledger).because == ()


def test_forms_are_lossless(invoices):
    assert from_odrl(to_odrl(invoices)) == invoices
    assert load(to_yaml(invoices)) == invoices
    assert len(digest(invoices)) == 32
