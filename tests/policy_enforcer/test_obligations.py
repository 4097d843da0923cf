"""Every demand of a policy reaches the runtime; what a policy does not demand is not demanded."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest

from policy_enforcer.model import Policy
from policy_enforcer.obligations import NOTHING_DEMANDED, NoiseDemand, obligations

PLAIN = {
    "policy": "p",
    "dataset": "owner.data",
    "assignee": "any",
    "purpose": "any",
    "analysis": {"kinds": ["aggregate"]},
}


def demanded(duties=(), masking=None, **analysis):
    data = {
        **PLAIN,
        "analysis": {**PLAIN["analysis"], **analysis},
        "duties": list(duties),
        "masking": masking or {},
    }
    return obligations(Policy.model_validate(data))


def test_nothing_is_demanded_where_nothing_is_said():
    assert demanded() == NOTHING_DEMANDED
    assert NOTHING_DEMANDED.minimum_identities == 1
    assert NOTHING_DEMANDED.witnesses == 0


def test_every_demand_is_passed_on():
    found = demanded(
        identity="k",
        minimum_identities=7,
        bounds={"v": ["-1.5", "2"]},
        dimensions=["d"],
        domains={"d": ["a", 1, True]},
        max_rows_per_identity=50,
        max_cells_per_identity=4,
        dominance={"share_at_most": "0.7"},
        suppressions={"complementary": True, "count": "hidden"},
        weighted=True,
        masking={"name": "redact"},
        duties=[{"log": "witness", "minimum_witnesses": 3}, {"notify": "owner", "declared": True}],
    )
    assert (found.identity, found.minimum_identities, found.witnesses) == ("k", 7, 3)
    assert found.bounds == {"v": (Decimal("-1.5"), Decimal(2))}
    assert found.domains == {"d": ("a", 1, True)}
    assert (found.rows_per_identity, found.cells_per_identity) == (50, 4)
    assert found.dominance == Fraction(7, 10)
    assert (found.complementary, found.suppressions_hidden, found.weighted) == (True, True, True)
    assert found.masking == {"name": "redact"}


def test_groups_are_bounded_where_answers_are_counted():
    def limited(**uses):
        return obligations(Policy.model_validate({**PLAIN, "uses": uses})).answers_limited

    assert limited(rows=5)
    assert limited(bytes=5)
    assert not limited(count=5)


def test_the_strictest_of_several_witness_duties_counts():
    assert demanded(duties=[{"log": "witness", "minimum_witnesses": n} for n in (1, 4, 2)]).witnesses == 4


def test_one_word_about_suppressions_is_not_the_other():
    complementary = demanded(suppressions={"complementary": True})
    hidden = demanded(suppressions={"count": "hidden"})
    assert (complementary.complementary, complementary.suppressions_hidden) == (True, False)
    assert (hidden.complementary, hidden.suppressions_hidden) == (False, True)


def test_noise_costs_billionths_of_rho():
    words = {"mechanism": "discrete-laplace", "rho_per_query": "0.05", "budget": {"rho": "1"}}
    noise = demanded(identity="k", noise=words).noise
    assert noise is not None
    assert (noise.mechanism, noise.loss, noise.shares) == ("discrete-laplace", 50_000_000, 1)
    assert noise == NoiseDemand("discrete-laplace", 50_000_000)  # the owner's noise alone is all of it


@pytest.mark.parametrize(("honest", "shares"), [({}, 1), ({"honest_participants": 3}, 2)])
def test_noise_is_shared_by_all_but_one_of_those_who_are_honest(honest, shares):
    """That one sees the totals, and its own share is no secret to it."""
    words = {"mechanism": "discrete-gaussian", "rho_per_query": "0.05", "budget": {"rho": "1"}}
    federation = {"name": "loans", "scope": "total", "minimum_participants": 4, **honest}
    noise = demanded(identity="k", noise=words, federation=federation).noise
    assert noise is not None
    assert noise.shares == shares


def test_matches_are_hidden_from_who_is_named_and_from_everybody_where_anybody_is():
    named = replace(NOTHING_DEMANDED, matches_hidden_from=frozenset({"us-fund"}))
    anybody = replace(NOTHING_DEMANDED, matches_hidden_from=frozenset({"any"}))
    assert [named.hides_matches_from(who) for who in ("us-fund", "hk-bank")] == [True, False]
    assert anybody.hides_matches_from("hk-bank")
    assert not NOTHING_DEMANDED.hides_matches_from("hk-bank")
