"""`policy describe` leaves nothing out: every word of a policy changes what is said, or is listed here."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from policy_enforcer.model import Analysis, Policy
from policy_enforcer.prose import described
from policy_enforcer.yamltree import parse

GRADES = {"k": 1, "g": 1, "amount": 2, "note": 1, "year": 1}
EVERYTHING = f"""\
policy: everything
dataset: owner.data
assignee: [asker]
purpose: [why]
where: {{processing: [HK], recipients: [HK]}}
when: {{from: 2026-01-01, until: 2027-12-31, elapsed: P1M}}
uses: {{count: 9, rows: 10, bytes: 11, per: month, max_concurrent: 2}}
conditions:
  connectors: [asker@{"1" * 64}]
  security_level: 2
  declared: {{application: a, event: b, state: c}}
transfer: {{basis: x, filing: y, whitelist: w@{"1" * 64}, negative_list: n@{"2" * 64}, low_risk: l@{"3" * 64},
  consent: customers, grade_at_most: 2}}
analysis:
  kinds: [aggregate, list]
  join: {{columns: [k], disclosure: receiver, required: asker, operators: [and]}}
  dimensions: [g]
  domains: {{g: [a, b]}}
  filters: {{year: equality}}
  measures: {{amount: [sum, logistic], "*": [count]}}
  column_disclosure: {{g: {{asker: after-group-by}}, k: {{us-fund: join-hidden, asker: after-join}}}}
  scalar_functions: [arithmetic, product]
  identity: k
  minimum_identities: 5
  max_rows_per_identity: 3
  max_cells_per_identity: 2
  bounds: {{amount: [0, 10]}}
  suppressions: {{count: hidden}}
  differencing: {{minimum_difference: 4, window: P9D}}
  conditional: true
  maximum_peer_keys: 100
  noise: {{mechanism: discrete-gaussian, rho_per_query: 0.05, budget: {{rho: 1, per: year}},
    dataset_budget: {{rho: 2}}}}
  federation: {{name: loans, scope: total, minimum_participants: 4, participants: [mo-bank, hk-bank, sz-bank],
    honest_participants: 3}}
  templates: [t@{"4" * 64}]
  weighted: true
  dominance: {{share_at_most: 0.5}}
  payload: [note]
masking: {{year: step-5}}
duties: [{{log: witness, minimum_witnesses: 2}}, {{pass_on: never, declared: true}}]
"""
SILENT = {
    "policy": "a name",
    "dataset": "whoever asks for the sentences named it",
    "analysis.kinds": "columns say what may be listed",
    "analysis.noise.mechanism": "how noise is drawn changes nothing of what it hides",
}
OTHERWISE: dict[str, Any] = {
    "policy": "other",
    "dataset": "owner.others",
    "assignee": ("any",),
    "purpose": ("any",),
    "analysis.kinds": ("list",),
    "analysis.join.columns": ("g",),
    "analysis.join.disclosure": "cardinality",
    "analysis.noise.mechanism": "discrete-laplace",
    "analysis.noise.rho_per_query": 7,
    "analysis.noise.budget.rho": 7,
    "analysis.noise.dataset_budget.rho": 7,
    "analysis.differencing.minimum_difference": 7,
    "analysis.federation.name": "leases",
    "analysis.federation.scope": "local",
    "analysis.federation.minimum_participants": 7,
    "analysis.dominance.share_at_most": Decimal("0.7"),
}


def places(group: BaseModel, path: str = "") -> dict[str, Any]:
    """Every word that the policy writes, and what else could stand there."""
    found: dict[str, Any] = {}
    for name in group.model_fields_set:
        field, here, value = type(group).model_fields[name], f"{path}{name}", getattr(group, name)
        if here in OTHERWISE or not field.is_required():
            found[here] = OTHERWISE.get(here, field.get_default())
        if isinstance(value, BaseModel):
            found |= places(value, f"{here}.")
    return found


def replaced(group: BaseModel, path: list[str], value: Any) -> Any:
    first, *rest = path
    return group.model_copy(update={first: replaced(getattr(group, first), rest, value) if rest else value})


ALL = Policy.model_validate(parse(EVERYTHING).data)  # more than loads: not all of it can stand together
PLACES = places(ALL)


def said(policy: Policy, lang: Any) -> list[Any]:
    return [sentence for _, sentences in described(policy, GRADES, lang) for sentence in sentences]


@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_word_is_said(place: str, lang: str) -> None:
    without = replaced(ALL, place.split("."), PLACES[place])
    assert (said(without, lang) == said(ALL, lang)) == (place in SILENT)


def test_no_word_of_an_analysis_is_missing_here() -> None:
    assert ALL.analysis.model_fields_set == {*Analysis.model_fields}
    assert ALL.model_fields_set == {*Policy.model_fields}
