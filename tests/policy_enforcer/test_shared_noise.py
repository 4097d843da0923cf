"""`honest_participants`: what it needs, what it demands, and how a change of it reads."""

from __future__ import annotations

import pytest

from policy_enforcer.diff import diff
from policy_enforcer.load import lint, load
from policy_enforcer.obligations import NoiseDemand, obligations
from policy_enforcer.odrl import from_odrl, to_odrl
from policy_enforcer.prose import Language, described

POLICY = """\
policy: shared
dataset: owner.loans
assignee: [asker]
purpose: [why]
analysis:
  kinds: [aggregate]
  measures: {amount: [sum, var]}
  bounds: {amount: [0, 10]}
  identity: client
  minimum_identities: 5
  max_rows_per_identity: 2
  max_cells_per_identity: 1
  noise: {mechanism: discrete-gaussian, rho_per_query: 0.5, budget: {rho: 1}}
  federation: {name: loans, scope: total, minimum_participants: 4, honest_participants: 3}
"""


def test_it_is_a_share_of_noise_and_survives_its_signed_form() -> None:
    policy = load(POLICY)
    assert obligations(policy).noise == NoiseDemand("discrete-gaussian", 500_000_000, 2)
    assert from_odrl(to_odrl(policy)) == policy


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("minimum_participants: 4", "minimum_participants: 2"),
        ("honest_participants: 3", "honest_participants: 2"),
        ("discrete-gaussian", "discrete-laplace"),
        ("scope: total", "scope: local"),
        ("rho_per_query: 0.5", "rho_per_query: 0.000000001"),
        ("  noise: {mechanism: discrete-gaussian, rho_per_query: 0.5, budget: {rho: 1}}\n", ""),
    ],
)
def test_what_it_cannot_stand_beside(old: str, new: str) -> None:
    problems = [problem.path for problem in lint(POLICY.replace(old, new)) if not problem.warning]
    assert problems == ["analysis.federation.honest_participants"]


def test_a_billionth_of_rho_is_left_over() -> None:
    assert [
        p for p in lint(POLICY.replace("rho_per_query: 0.5", "rho_per_query: 0.000000002")) if not p.warning
    ] == []


def test_a_larger_number_allows_more() -> None:
    more, fewer = load(POLICY.replace("honest_participants: 3", "honest_participants: 4")), load(POLICY)
    whole = load(POLICY.replace(", honest_participants: 3", ""))
    assert [diff(*pair).forbidden for pair in ((fewer, more), (whole, fewer))] == [[], []]
    assert [len(diff(*pair).allowed) for pair in ((fewer, more), (whole, fewer))] == [1, 1]
    assert len(diff(more, whole).forbidden) == 1


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_readers_are_told_what_it_rests_on(lang: Language) -> None:
    texts = (POLICY, POLICY.replace(", honest_participants: 3", ""))
    with_, without = ({one for _, said in described(load(text), {}, lang) for one in said} for text in texts)
    assert [sentence.count("3") for sentence in with_ - without] == [1]
