"""No word of a policy is left out: each changes what `describe` says, the digest, the diff."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from policy_enforcer import odrl
from policy_enforcer.diff import diff
from policy_enforcer.load import load
from policy_enforcer.model import Analysis, FilterKind, Measure, Policy
from policy_enforcer.moments import Period
from policy_enforcer.odrl import digest
from policy_enforcer.prose import described
from policy_enforcer.wording import mask, span, spoken
from policy_enforcer.write import to_yaml
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


@pytest.mark.parametrize("place", sorted(PLACES))
def test_every_word_is_signed_and_compared(place: str) -> None:
    without = replaced(ALL, place.split("."), PLACES[place])
    assert digest(without) != digest(ALL)
    assert diff(ALL, without).empty == diff(without, ALL).empty == (place == "policy")


def test_no_word_is_lost_between_the_forms() -> None:
    assert Policy.model_validate(odrl._data_of(odrl.to_odrl(ALL))) == ALL
    assert Policy.model_validate(parse(to_yaml(ALL)).data) == ALL


NAMES = {
    "asker",
    "why",
    "owner",
    "HK",
    "amount",
    "note",
    "year",
    "customers",
    "loans",
    "arithmetic",
    "product",
}
NAMES |= {"us-fund", "hk-bank", "mo-bank", "sz-bank", "rho", "FILTER", "UTC"}


def test_chinese_sentences_have_no_english_words_but_names() -> None:
    written = {word for text in said(ALL, "zh") for word in re.findall(r"[A-Za-z][A-Za-z_-]+", text)}
    assert written - NAMES == set()
    assert not any("{" in text for lang in ("en", "zh") for text in said(ALL, lang))


@pytest.mark.parametrize("words", [FilterKind, Measure, Period], ids=str)
def test_every_word_of_a_closed_list_is_said_in_both_languages(words: Any) -> None:
    for lang in ("en", "zh"):
        assert len({spoken(word, lang) for word in get_args(words)}) == len(get_args(words))  # type: ignore[arg-type]
    assert not any(spoken(word, "zh").isascii() for word in get_args(words))


@pytest.mark.parametrize(
    ("written", "english", "chinese"),
    [
        ("P30D", "30 days", "30 天"),
        ("P1Y6M", "1 year 6 months", "1 年 6 个月"),
        ("P2W", "2 weeks", "2 周"),
        ("PT12H", "12 hours", "12 小时"),
        ("P0Y1DT01H05M", "1 day 1 hour 5 minutes", "1 天 1 小时 5 分钟"),
        ("P1MT1M", "1 month 1 minute", "1 个月 1 分钟"),
    ],
)
def test_durations_are_said_in_words(written: str, english: str, chinese: str) -> None:
    assert (span(written, "en"), span(written, "zh")) == (english, chinese)


@pytest.mark.parametrize(
    ("written", "english"),
    [
        ("redact", "nothing is seen"),
        ("hash", "codes that are equal for equal values"),
        ("quarter", "year and quarter alone"),
        ("keep-first-4", "the first 4 characters alone"),
        ("keep-last-12", "the last 12 characters alone"),
        ("step-0.5", "rounded down to multiples of 0.5"),
    ],
)
def test_masks_are_said_in_words(written: str, english: str) -> None:
    assert mask(written, "en") == english
    assert not mask(written, "zh").isascii()


def sentences(text: str, **grades: int | None) -> list[str]:
    return [one for _, found in described(load(text), grades) for one in found]


def test_what_no_grade_and_what_a_list_mean(invoices_text: str) -> None:
    found = sentences(invoices_text, amount=2, year=None, due=3)
    assert "year: nothing, it has no grade" in found
    assert "due: nothing, its grade is 3" in found
    assert "rows, by hk-bank: figures (count)" in found
    assert "groups with fewer than 10 distinct company_id are not shown" in found
    listed = invoices_text.replace("kinds: [aggregate]", "kinds: [list]\n  payload: [note]").replace(
        "cardinality", "rows"
    )
    found = sentences(listed, amount=1, note=1, industry=1)
    assert "nothing is listed where fewer than 10 distinct company_id match" in found
    assert not any("groups with fewer" in text for text in found)
    assert [text for text in found if text.startswith("the asker")] == [
        "the asker's connector learns which of its own keys sz-trade also has, after the owner's thresholds",
        "the asker learns the agreed columns of sz-trade's matched rows, after the owner's thresholds",
    ]
    assert (
        sum(text.startswith("the asker") for text in sentences(listed.replace("[list]", "[aggregate, list]")))
        > 1
    )
    # groups and figures are of aggregates, which this policy does not know
    assert "amount, by hk-bank: compared (equal to a value, above or below a value)" in found
    assert "industry, by hk-bank: compared (equal to a value, one of several values, missing or not)" in found
    assert "rows, by hk-bank: nothing" in found


def test_no_space_stands_between_chinese_words() -> None:
    assert [text for text in said(ALL, "zh") if re.search(r"[\u4e00-\u9fff] [\u4e00-\u9fff]", text)] == []


def test_what_is_left_open_is_said(invoices_text: str) -> None:
    keys = "whoever brings every key that there may be learns which of them this dataset has"
    without = invoices_text.replace("  maximum_peer_keys: 100000\n", "")
    assert keys not in sentences(without)
    assert keys not in sentences(invoices_text.replace("cardinality", "receiver"))
    assert keys in sentences(without.replace("cardinality", "receiver"))
    one = "a group, or a list, of one is shown"
    assert one not in sentences(invoices_text.replace("minimum_identities: 10", "minimum_identities: 2"))
    assert one in sentences(invoices_text.replace("minimum_identities: 10", "minimum_identities: 1"))
    any_number = "any number of queries"
    assert any_number not in sentences(invoices_text)
    assert any_number in sentences(
        without.replace("count: 200, ", "").replace("[and]}", "[and]}\n  templates: [a@" + "1" * 64 + "]")
    )


def test_no_word_of_an_analysis_is_missing_here() -> None:
    assert ALL.analysis.model_fields_set == {*Analysis.model_fields}
    assert ALL.model_fields_set == {*Policy.model_fields}
