"""The exchanged form: closed, canonical, lossless; anything else is refused, never dropped."""

import copy
import hashlib
import json
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_enforcer.load import load
from policy_enforcer.model import NotifyDuty
from policy_enforcer.odrl import CONTEXT, canonical, digest, from_odrl, to_odrl
from policy_enforcer.problems import PolicyError
from policy_enforcer.write import to_yaml

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


def test_noise_survives_both_conversions():
    noisy = load(NOISY)
    assert from_odrl(json.loads(canonical(noisy))) == noisy
    assert load(to_yaml(noisy)) == noisy


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
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_profile_does_not_say_is_refused(everything, name):
    document = to_odrl(everything)
    CHANGES[name](document)
    assert set(refused(document)) <= {"odrl.invalid", "odrl.not-canonical", "policy.not-enforceable"}


@pytest.mark.parametrize("document", [None, [], "x", 1, {}, {"permission": 1}, {"permission": [{}]}])
def test_what_is_no_document_is_refused(document):
    assert refused(document) == ["odrl.invalid"]


def test_what_load_refuses_is_refused_here_too(everything):
    demanding = everything.model_copy(update={"duties": (NotifyDuty(notify="owner"),)})
    assert refused(to_odrl(demanding)) == ["policy.not-enforceable"]
    with pytest.raises(PolicyError) as error:
        from_odrl(to_odrl(demanding))
    (problem,) = error.value.problems
    assert (problem.path, problem.line, problem.column) == ("duties.notify", 0, 0)
    assert str(error.value).startswith("policy:duties.notify: the runtime cannot enforce this duty")


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
