"""The exchanged form: closed, canonical, lossless; anything else is refused, never dropped."""

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_enforcer.decide import decide
from policy_enforcer.facts import FederationUse, LedgerView
from policy_enforcer.load import load
from policy_enforcer.model import NotifyDuty, Policy
from policy_enforcer.odrl import CONTEXT, canonical, digest, from_odrl, to_odrl
from policy_enforcer.problems import PolicyError
from policy_enforcer.write import to_yaml
from policy_enforcer.yamltree import parse

VECTOR = Path(__file__).parents[1] / "vectors" / "policy"
EVERYTHING = """\
policy: everything.v1
dataset: sz-trade.invoices
assignee: any
purpose: any
where: {processing: [CN-SZ, HK]}
when: {from: 2026-01-01, until: "2027-12-31T08:00:00+08:00", elapsed: P1Y6M}
uses: {count: 9223372036854775807, rows: 1000000, bytes: 9007199254740993, per: month, max_concurrent: 2}
transfer: {basis: standard-contract, filing: "粤网信 2026-17: \\"a\\"", grade_at_most: 0}
analysis:
  kinds: [aggregate, list]
  join: {columns: [company_id, "税号"], disclosure: rows, required: asker, operators: [and, or]}
  dimensions: [industry, "is large", "年"]
  domains: {industry: [retail, "工业", "yes", "1"], "年": [2025, 2026, 9007199254740993], is large: [true]}
  filters: {amount: [range, "null"], note: pattern, due: [column, membership]}
  measures: {amount: [sum, avg, var], "*": count}
  payload: [note]
  scalar_functions: [date_trunc, coalesce]
  identity: company_id
  minimum_identities: 10
  dominance: {share_at_most: 0.75}
  suppressions: {complementary: true, count: hidden}
  federation: {name: loans, scope: total, minimum_participants: 3, participants: [hk-bank, "role:bank"]}
  max_rows_per_identity: 7
  bounds: {amount: [-0.5, 1000000000], wide: [-99999999999999999999, 99999999999999999999.000000000000000001]}
  weighted: true
  conditional: true
  maximum_peer_keys: 100000
duties:
  - {pass_on: never, declared: true}
  - {log: witness, minimum_witnesses: 2}
  - {notify: owner, declared: true}
  - {delete: result, after: P30D, declared: true}
  - {payment: 5 CNY a query, declared: true}
"""


@pytest.fixture
def everything():
    return load(EVERYTHING)


NOISY = """\
policy: noisy.v1
dataset: sz-trade.invoices
assignee: any
purpose: any
analysis:
  kinds: [aggregate]
  dimensions: [industry]
  domains: {industry: [retail]}
  measures: {amount: sum}
  identity: company_id
  max_rows_per_identity: 7
  max_cells_per_identity: 3
  noise:
    mechanism: discrete-laplace
    rho_per_query: 0.000000001
    budget: {rho: 9007199.254740992, per: week}
    dataset_budget: {rho: 12}
"""
SHARED_NOISE = (
    NOISY.replace("laplace", "gaussian").replace("0.000000001", "0.5")
    + """\
  federation: {name: loans, scope: total, minimum_participants: 3, honest_participants: 3}
"""
)
REST = f"""\
policy: rest.v1
dataset: sz-trade.invoices
assignee: [hk-bank]
purpose: [credit-risk]
where: {{recipients: [HK]}}
when: {{from: "2026-01-01T00:00:00Z", until: 2027-12-31}}
uses: {{count: 9007199254740991, rows: 9007199254740992}}
conditions:
  connectors: ["hk-bank@{"1" * 64}"]
  security_level: 2
  declared: {{application: a, event: b, state: c}}
transfer:
  {{whitelist: "w@{"2" * 64}", negative_list: "n@{"3" * 64}", low_risk: "l@{"4" * 64}", consent: set-1}}
analysis:
  kinds: [aggregate]
  dimensions: [industry, large]
  domains: {{large: [true, 1, "1", false, 0], industry: ["true"]}}
  measures: {{amount: sum}}
  column_disclosure:
    {{industry: {{any: [after-group-by, after-compare]}}, amount: {{"role:bank": after-aggregate}}}}
  identity: company_id
  differencing: {{minimum_difference: 5, window: P30D}}
  templates: ["t@{"5" * 64}", "u@{"6" * 64}"]
masking: {{note: redact}}
duties: [{{log: witness}}, {{notify: owner, declared: true}}]
"""
SAMPLES = {"everything": EVERYTHING, "noise": NOISY, "shared noise": SHARED_NOISE, "the rest": REST}


@pytest.mark.parametrize("text", SAMPLES.values(), ids=SAMPLES)
def test_what_is_said_survives_both_conversions(text):
    said = load(text)
    assert from_odrl(json.loads(canonical(said))) == said
    assert load(to_yaml(said)) == said


def words_of(model, path=()):
    """Where each word of the language stands; words of duties are not in it."""
    for name, field in model.model_fields.items():
        inner = [
            kind for kind in (field.annotation, *get_args(field.annotation)) if hasattr(kind, "model_fields")
        ]
        here = (*path, field.alias or name)
        yield from words_of(inner[0], here) if inner else [here]


def test_every_word_of_the_language_is_in_a_sample():
    """A word that is lost on the way would permit what it limits."""
    unsaid = {word for word in words_of(Policy) if word != ("duties",)}
    for text in SAMPLES.values():
        data = load(text).model_dump(by_alias=True, exclude_defaults=True)
        unsaid -= {word for word in unsaid if value_at(data, word) is not None}
    assert unsaid == set()


def value_at(data, path):
    for part in path:
        data = data.get(part) if data is not None else None
    return data


def test_every_word_survives_both_conversions(everything):
    assert from_odrl(to_odrl(everything)) == everything
    assert load(to_yaml(everything)) == everything
    assert from_odrl(json.loads(canonical(everything))) == everything


def test_the_digest_is_over_the_rfc_8785_form(everything):
    assert digest(everything) == hashlib.sha256(rfc8785.dumps(to_odrl(everything))).digest()


def test_the_digest_does_not_change_between_versions():
    """Signed agreements hold it: a change here breaks them all."""
    policy = load((VECTOR / "invoices.yaml").read_text("utf-8"))
    document = json.loads((VECTOR / "invoices.odrl.json").read_text("utf-8"))
    assert to_odrl(policy) == document
    assert digest(policy).hex() == (VECTOR / "invoices.digest.txt").read_text("utf-8").split()[-1]


def test_the_form_of_each_value():
    document = to_odrl(load(REST))
    said = {(c["leftOperand"], c["operator"]): c["rightOperand"] for c in constraints(document)}
    assert said["dateTime", "gteq"] == {"@type": "xsd:dateTime", "@value": "2026-01-01T00:00:00Z"}
    assert said["dateTime", "lteq"] == {"@type": "xsd:date", "@value": "2027-12-31"}
    assert said["count", "lteq"] == 9007199254740991  # the last whole number that a double is sure of
    assert said["bay:answeredRows", "lteq"] == {"@type": "xsd:integer", "@value": "9007199254740992"}
    domains = {r["bay:column"]: r for r in refinements(document) if r["leftOperand"] == "bay:domainOf"}
    values = domains["large"]["rightOperand"]
    assert list(map(repr, values)) == ["True", "1", "'1'", "False", "0"]
    target = {key: document["permission"][0][key] for key in ("target", "assigner", "assignee")}
    assert document["prohibition"] == []
    assert target == {
        "target": "urn:bayspace:dataset:sz-trade.invoices",
        "assigner": "urn:bayspace:participant:sz-trade",
        "assignee": ["urn:bayspace:participant:hk-bank"],
    }
    log, notify = document["permission"][0]["duty"]
    assert "bay:declared" not in log
    assert notify["bay:declared"] is True


def test_a_prohibition_says_about_what_and_whom(everything):
    document = to_odrl(everything)
    (prohibition,) = document["prohibition"]
    for key in ("target", "assigner", "assignee"):
        assert prohibition[key] == document["permission"][0][key]
    assert prohibition["bay:declared"] is True


def test_a_refusal_shows_nothing_that_was_written(everything):
    document = to_odrl(everything)
    document["permission"][0]["constraint"][2]["rightOperand"]["@value"] = "SECRET"
    with pytest.raises(PolicyError) as error:
        from_odrl(document)
    assert "SECRET" not in str(error.value)


def test_real_odrl_terms_are_used_where_they_exist(everything):
    document = to_odrl(everything)
    permission = document["permission"][0]
    operands = {c["leftOperand"] for c in permission["constraint"]}
    assert {"purpose", "spatial", "dateTime", "elapsedTime", "count"} <= operands
    actions = [rule["action"][0]["rdf:value"]["@id"] for rule in permission["duty"]]
    assert actions == ["bay:log", "inform", "delete", "compensate"]
    assert document["prohibition"][0]["action"][0]["rdf:value"]["@id"] == "distribute"
    assert document["@context"][0] == CONTEXT[0]


def test_large_numbers_are_exact_text(everything):
    constraints = to_odrl(everything)["permission"][0]["constraint"]
    count = next(c for c in constraints if c["leftOperand"] == "count")
    assert count["rightOperand"] == {"@type": "xsd:integer", "@value": "9223372036854775807"}


def refused(document):
    with pytest.raises(PolicyError) as error:
        from_odrl(document)
    return [problem.code for problem in error.value.problems]


def constraints(document):
    return document["permission"][0]["constraint"]


def refinements(document):
    return document["permission"][0]["action"][0]["refinement"]


CHANGES = {
    "another key": lambda d: d.update(comment="x"),
    "no prohibition": lambda d: d.pop("prohibition"),
    "another context": lambda d: d.update({"@context": "http://www.w3.org/ns/odrl.jsonld"}),
    "a second permission": lambda d: d["permission"].append(copy.deepcopy(d["permission"][0])),
    "no permission": lambda d: d.update(permission=[]),
    "unknown operand": lambda d: constraints(d)[0].update(leftOperand="industry"),
    "unknown operator": lambda d: constraints(d)[0].update(operator="isNoneOf"),
    "a constraint twice": lambda d: constraints(d).append(constraints(d)[0]),
    "constraints in another order": lambda d: constraints(d).reverse(),
    "a constraint more": lambda d: constraints(d)[0].update(unit="x"),
    "a constraint among the refinements": lambda d: refinements(d).append(constraints(d).pop()),
    "a set in another order": lambda d: constraints(d)[1]["rightOperand"].reverse(),
    "a number as text": lambda d: refinements(d)[10].update(rightOperand="10"),
    "another type of literal": lambda d: constraints(d)[2]["rightOperand"].update({"@type": "xsd:string"}),
    "true for one": lambda d: d["permission"][0]["duty"][0]["action"][0]["refinement"][0].update(
        rightOperand=True
    ),
    "unknown action": lambda d: d["permission"][0]["action"][0]["rdf:value"].update({"@id": "use"}),
    "unknown duty": lambda d: d["permission"][0]["duty"][0]["action"][0]["rdf:value"].update(
        {"@id": "attribute"}
    ),
    "a duty undeclared": lambda d: d["permission"][0]["duty"][1].pop("bay:declared"),
    "another target": lambda d: d["permission"][0].update(target="urn:bayspace:dataset:x.y"),
    "another assigner": lambda d: d["permission"][0].update(assigner="urn:bayspace:participant:x"),
    "another assignee": lambda d: d["permission"][0].update(assignee=["hk-bank"]),
    "another profile": lambda d: d.update(profile="urn:bayspace:policy:v2"),
    "another type": lambda d: d.update({"@type": "Set"}),
    "another uid": lambda d: d.update(uid="urn:x"),
    "a number that is not exact": lambda d: constraints(d).append({"leftOperand": 1e400}),
    "a column nobody named": lambda d: refinements(d)[0].update({"bay:column": "x"}),
    "a measure of nothing": lambda d: refinements(d)[-3].pop("bay:column"),
    "nothing but null": lambda d: d.update(permission=None),
    "no assigner beside the prohibition": lambda d: d["prohibition"][0].pop("assigner"),
    "a literal without text": lambda d: constraints(d)[2]["rightOperand"].update({"@value": 1}),
    "a day that is none": lambda d: constraints(d)[2]["rightOperand"].update({"@value": "soon"}),
    "a number that is none": lambda d: count_of(d)["rightOperand"].update({"@value": "many"}),
    "a number that is a number already": lambda d: count_of(d)["rightOperand"].update({"@value": 5}),
    "a target that is none": lambda d: d["permission"][0].update(target=None),
    "declared false": lambda d: d["permission"][0]["duty"][1].update({"bay:declared": False}),
}


def count_of(document):
    return next(c for c in constraints(document) if c["leftOperand"] == "count")


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_profile_does_not_say_is_refused(everything, name):
    document = to_odrl(everything)
    CHANGES[name](document)
    assert set(refused(document)) <= {"odrl.invalid", "odrl.not-canonical", "policy.not-enforceable"}


DEEP: list = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "document",
    [None, [], "x", 1, {}, {"permission": 1}, {"permission": [{}]}, {"permission": [{"target": 1}]}],
)
def test_what_is_no_document_is_refused(document):
    assert refused(document) == ["odrl.invalid"]


def test_what_is_nested_without_end_is_refused(everything):
    document = to_odrl(everything)
    document["comment"] = DEEP
    assert refused(document) == ["odrl.invalid"]


def test_what_load_refuses_is_refused_here_too(everything):
    demanding = everything.model_copy(update={"duties": (NotifyDuty(notify="owner"),)})
    assert refused(to_odrl(demanding)) == ["policy.not-enforceable"]
    with pytest.raises(PolicyError) as error:
        from_odrl(to_odrl(demanding))
    (problem,) = error.value.problems
    assert (problem.path, problem.line, problem.column) == ("duties.notify", 0, 0)
    assert str(error.value).startswith("policy:duties.notify: the runtime cannot enforce this duty")


@pytest.mark.parametrize(
    ("old", "new"),
    [("recipients: [HK]", "recipients: [CN-HK]"), ("minimum_identities: 10", "OLD")],
    ids=["a place with a code of its own", "a participant called any"],
)
def test_a_stored_policy_with_a_word_that_is_refused_now_is_read_and_refuses(invoices_text, joint, old, new):
    federation = "federation: {name: loans, scope: local, minimum_participants: 2, participants: [any]}"
    text = invoices_text.replace(old, new.replace("OLD", f"{old}\n  {federation}"))
    with pytest.raises(PolicyError):
        load(text)
    stored = Policy.model_validate(parse(text).data)
    assert from_odrl(json.loads(canonical(stored))) == stored
    asked = replace(joint, federation=FederationUse("loans", 2, frozenset({"hk-bank"})))
    codes = {reason.code for reason in decide(stored, asked, LedgerView()).because}
    assert codes & {"where.recipients", "federation.participant-not-allowed"}
    assert "policy.not-enforceable" not in codes


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_put_anywhere_is_refused_or_said_exactly(data):
    document = to_odrl(load(EVERYTHING))
    holder, place = data.draw(st.sampled_from(list(places(document))))
    holder[place] = data.draw(JSON)
    try:
        policy = from_odrl(document)
    except PolicyError:
        return
    assert canonical(policy) == rfc8785.dumps(document)


def places(value):
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])
