"""To whom a column becomes known, who may ask at all, and policies in sentences."""

from dataclasses import replace

import pytest

from policy_enforcer import prose
from policy_enforcer.describe import declared, matrix
from policy_enforcer.diff import diff
from policy_enforcer.disclosure import Disclosure, Fact, Party
from policy_enforcer.facts import ColumnUse
from policy_enforcer.known import WAYS, allowed_by, becomes_known, tolerated
from policy_enforcer.load import lint, load
from policy_enforcer.obligations import obligations
from policy_enforcer.odrl import from_odrl, to_odrl
from policy_enforcer.problems import PolicyError

KEY = "1" * 64
GRADES = {"company_id": 2, "industry": 0, "quarter": 0, "amount": 2, "year": 0, "due": 0}
LIMITED = """\
  column_disclosure:
    company_id: {any: join-hidden}
    industry: {hk-bank: [after-group-by, after-compare], "role:auditor": after-aggregate}
    amount: {any: after-aggregate, "role:auditor": never}
  identity"""
NOISY = """minimum_identities: 1
  noise: {mechanism: discrete-gaussian, rho_per_query: 0.5, budget: {rho: 1}}
  max_rows_per_identity: 2
  max_cells_per_identity: 1"""
KEPT = f"""\
conditions:
  connectors: [hk-bank@{KEY}]
  security_level: 2
  declared: {{application: risk desk, event: audit, state: supervised}}
transfer"""


@pytest.fixture
def limited_text(invoices_text):
    return invoices_text.replace("  identity", LIMITED, 1).replace("cardinality", "receiver")


@pytest.fixture
def kept_text(invoices_text):
    return invoices_text.replace("transfer", KEPT, 1)


def test_words_are_sets_of_ways():
    assert allowed_by(["plaintext"]) == WAYS
    assert allowed_by(["never"]) == frozenset()
    assert allowed_by(["after-join", "rank-only"]) == {"after-join", "join-hidden", "rank-only"}


def test_entries_that_fit_meet(limited_text):
    policy = load(limited_text)
    assert tolerated(policy, "amount", {"hk-bank"}) == {"after-aggregate"}
    assert tolerated(policy, "amount", {"hk-bank", "role:auditor"}) == frozenset()
    assert tolerated(policy, "industry", {"hk-bank", "role:auditor"}) == frozenset()
    assert tolerated(policy, "industry", {"cn-bank"}) == frozenset()
    assert tolerated(policy, "quarter", {"cn-bank"}) == WAYS


def test_who_learns_by_a_protocol_is_who_takes_part():
    told = (Disclosure(Party.RECEIVER, Fact.OWN_MATCHES),)
    key = ColumnUse("company_id", joined=True)
    assert becomes_known(key, "aggregate", told, "hk-bank", {"hk-bank", "us-fund"}) == {
        "hk-bank": ("after-join",),
        "us-fund": ("join-hidden",),
    }
    assert becomes_known(key, "list", (), "hk-bank", {"us-fund"})["us-fund"] == ("after-join",)
    assert becomes_known(ColumnUse("amount"), "aggregate", told, "hk-bank", ()) == {"hk-bank": ("never",)}


def test_over_a_federation_the_others_learn_what_figures_tell():
    told = (Disclosure(Party.RECEIVER, Fact.RELEASED_CELLS), Disclosure(Party.SENDER, Fact.TOTAL_COUNTS))
    use = ColumnUse("amount", aggregated=frozenset({"logistic"}), filtered=frozenset({"range"}))
    ways = ("after-aggregate", "after-compare")
    assert becomes_known(use, "aggregate", told, "asker", (), {"mo-bank"}) == {"asker": ways, "mo-bank": ways}
    assert becomes_known(use, "aggregate", told[:1], "asker", (), {"mo-bank"})["mo-bank"] == ("never",)
    assert becomes_known(use, "aggregate", told[:1], "asker", (), {"asker"}) == {"asker": ways}


def test_the_matrix_has_a_row_for_each_audience(limited_text):
    rows = [
        row
        for row in matrix(load(limited_text), GRADES)
        if row.column in ("industry", "amount", "company_id")
    ]
    assert [(row.column, row.parties, row.known) for row in rows] == [
        ("company_id", ("hk-bank",), ("join-hidden",)),
        ("industry", ("hk-bank",), ("after-compare", "after-group-by")),
        ("industry", ("role:auditor",), ("never",)),
        ("amount", ("hk-bank",), ("after-aggregate",)),
        ("amount", ("role:auditor",), ("never",)),
    ]
    assert rows[1].grouped
    assert not rows[2].grouped
    assert rows[3].filtered == ()  # though `filters` names a range


def test_the_matrix_says_how_columns_become_known_without_entries(invoices_text):
    def known(text):
        return {row.column: row.known for row in matrix(load(text), GRADES)}

    assert known(invoices_text)["company_id"] == ("after-aggregate", "join-hidden")
    assert known(invoices_text)["quarter"] == ("after-compare", "after-group-by")
    assert "after-join" in known(invoices_text.replace("cardinality", "receiver"))["company_id"]
    assert known(invoices_text.replace("[0, 1000000000]", "[0, 9]").replace("2}", "1}"))["amount"] == (
        "never",
    )


def test_everybody_and_those_who_are_named(invoices_text):
    text = invoices_text.replace("[hk-bank]", "any").replace(
        "  identity", "  column_disclosure: {year: {us-fund: after-compare}}\n  identity", 1
    )
    rows = [row for row in matrix(load(text), GRADES) if row.column == "year"]
    assert [(row.parties, row.filtered) for row in rows] == [(("any",), ()), (("us-fund",), ("equality",))]


def test_planners_learn_from_whom_matches_are_hidden(limited_text):
    assert obligations(load(limited_text)).matches_hidden_from == {"any"}
    some = limited_text.replace("{any: join-hidden}", "{hk-bank: after-join, us-fund: join-hidden}")
    assert obligations(load(some)).matches_hidden_from == {"us-fund"}


def problems(text):
    return [
        (p.code, p.path, p.line) for p in lint(text) if p.code != "policy.advice" or "disclosure" in p.path
    ]


@pytest.mark.parametrize(
    ("old", "new", "code", "path"),
    [
        ("{any: join-hidden}", "{}", "policy.bad-value", "company_id"),
        ("{any: join-hidden}", "{any: []}", "policy.bad-value", "company_id.any"),
        ("{any: join-hidden}", "{any: hidden}", "policy.unknown-value", "company_id.any"),
        ("{any: join-hidden}", "{any: [plaintext, after-join]}", "policy.contradiction", "company_id.any"),
        ("{any: join-hidden}", "{any: [after-join, never]}", "policy.contradiction", "company_id.any"),
        ("{any: join-hidden}", "{sz-trade: after-join}", "policy.contradiction", "company_id.sz-trade"),
        ("{any: join-hidden}", "{any: rank-only}", "policy.advice", "company_id.any"),
        ("{any: join-hidden}", "{hk-bnk: after-join}", "policy.advice", "company_id.hk-bnk"),
    ],
)
def test_lint_finds_what_cannot_be_meant(limited_text, old, new, code, path):
    found = [found for found in problems(limited_text.replace(old, new)) if path in found[1]]
    assert found == [(code, f"analysis.column_disclosure.{path}", 17)]


@pytest.mark.parametrize(
    ("minimum", "entries", "named"),
    [
        ("minimum_identities: 1", "{any: join-hidden}", ["any"]),
        ("", "{any: join-hidden}", ["any"]),
        (
            "minimum_identities: 1",
            "{any: join-hidden, us-fund: [after-group-by, join-hidden]}",
            ["any", "us-fund"],
        ),
        (
            "minimum_identities: 1",
            "{hk-bank: after-join, us-fund: join-hidden}",
            ["us-fund"],
        ),  # who sees the result alone
        ("minimum_identities: 1", "{hk-bank: after-join, us-fund: plaintext, cn-bank: never}", []),
        ("minimum_identities: 2", "{any: join-hidden}", []),
        (NOISY, "{any: join-hidden}", []),
    ],
)
def test_matches_are_hidden_only_where_no_group_of_one_is_shown(limited_text, minimum, entries, named):
    text = limited_text.replace("minimum_identities: 10", minimum)
    found = [
        p.path for p in lint(text.replace("{any: join-hidden}", entries)) if p.code == "policy.contradiction"
    ]
    assert found == [f"analysis.column_disclosure.company_id.{who}" for who in named]


def test_lint_finds_limits_of_columns_that_nothing_uses(limited_text):
    told = lint(limited_text.replace("amount: {any", "phone: {any"), columns=[*GRADES])
    assert {(p.code, p.path) for p in told if "phone" in p.path} == {
        ("policy.unknown-column", "analysis.column_disclosure.phone"),
        ("policy.advice", "analysis.column_disclosure.phone"),
    }


@pytest.mark.parametrize(
    ("old", "new", "path", "hint"),
    [
        ("security_level: 2", "security_level: 0", "conditions.security_level", None),
        ("security_level: 2", "event: audit", "conditions.event", "write it under `declared`"),
        ("security_level: 2", "sekurity_level: 2", "conditions.sekurity_level", "security_level"),
        (f"hk-bank@{KEY}", "hk-bank", "conditions.connectors[0]", None),
        ("{application: risk desk, event: audit, state: supervised}", "{}", "conditions.declared", None),
    ],
)
def test_conditions_that_do_not_load(kept_text, old, new, path, hint):
    with pytest.raises(PolicyError) as error:
        load(kept_text.replace(old, new))
    (problem,) = error.value.problems
    assert problem.path == path
    assert hint is None or hint in (problem.suggestion or "")


def test_several_join_columns_without_and_are_warned_of(invoices_text):
    several = invoices_text.replace("[company_id], d", "[company_id, tax_no], d")
    assert lint(several) == ()
    told = lint(several.replace(", operators: [and]", ""))
    assert [p.path for p in told] == ["analysis.join.columns"]


def test_what_is_declared_is_said_to_be(kept_text):
    text = kept_text.replace("{grade", "{basis: contract, grade").replace(
        "duties: [", "duties: [{delete: result, after: P30D, declared: true}, "
    )
    assert declared(load(text)) == {
        "transfer.basis": "contract",
        "conditions.declared.application": "risk desk",
        "conditions.declared.event": "audit",
        "conditions.declared.state": "supervised",
        "duties.delete": "result after P30D",
    }
    told = {p.path for p in lint(text) if "declared only" in p.sentence}
    assert {*declared(load(text))} == told


def test_conditions_inside_aggregates_are_warned_of(invoices_text):
    text = invoices_text.replace("  identity", "  conditional: true\n  identity", 1)
    assert [p.path for p in lint(text)] == ["analysis.conditional"]
    guarded = text.replace("conditional", "differencing: {minimum_difference: 9}\n  conditional")
    with pytest.raises(PolicyError, match="differencing compares"):
        load(guarded)


def test_odrl_says_the_same_and_nothing_else(limited_text, kept_text):
    assert from_odrl(to_odrl(load(kept_text))) == load(kept_text)
    document = to_odrl(load(limited_text))
    assert from_odrl(document) == load(limited_text)
    known = [c for c in document["permission"][0]["action"][0]["refinement"] if "bay:recipient" in c]
    assert len(known) == 5
    for one in known:
        one["bay:recipient"] = one["bay:recipient"].removeprefix("urn:bayspace:")
        with pytest.raises(PolicyError):
            from_odrl(document)


def changes(old, new):
    found = diff(load(old), load(new))
    return found.allowed, found.forbidden, found.other


def test_diff_of_audiences(invoices_text, limited_text):
    loose = invoices_text.replace("cardinality", "receiver")
    allowed, forbidden, other = changes(loose, limited_text)
    assert (allowed, other) == ([], [])
    assert forbidden[1] == "company_id becomes known to nobody but any (join-hidden)"
    assert changes(limited_text, loose)[0][1] == "company_id becomes known to others than any (join-hidden)"
    wider = limited_text.replace("{any: join-hidden}", "{any: after-join}")
    assert changes(limited_text, wider) == (["company_id known to any: after-join"], [], [])
    assert changes(wider, limited_text) == ([], ["company_id known to any: after-join"], [])
    more = limited_text.replace("{any: join-hidden}", "{any: join-hidden, us-fund: never}")
    sentence = "company_id known to us-fund: not named becomes never"
    assert changes(limited_text, more) == ([], [], [sentence])


def test_diff_of_conditions(invoices_text, kept_text):
    allowed, forbidden, other = changes(invoices_text, kept_text)
    assert allowed == []
    assert other == [
        "declared.conditions.declared.application: none becomes risk desk",
        "declared.conditions.declared.event: none becomes audit",
        "declared.conditions.declared.state: none becomes supervised",
    ]
    assert forbidden == [f"a connector with any key but hk-bank@{KEY}", "security level: none becomes 2"]
    text = invoices_text.replace("  identity", "  conditional: true\n  identity", 1)
    assert changes(invoices_text, text) == (["conditions inside aggregates: refused becomes allowed"], [], [])


def test_a_policy_in_sentences(limited_text, kept_text):
    said = dict(prose.described(load(limited_text), GRADES))
    columns = said["What each column may be used for"]
    assert "industry, by role:auditor: nothing" in columns
    assert "company_id, by hk-bank: join key, never shown" in columns
    assert not any(
        "which of its own keys" in one for one in said["What the asker's connector may learn in a join"]
    )
    kept = dict(prose.described(load(kept_text), GRADES))
    assert "only on the occasion: audit" in kept["Not enforced by software: people keep it"]
    assert "only who is certified at security level 2 or higher" in kept["Who may ask, and when"]


def test_what_is_said_of_grades(invoices):
    def about(grade):
        (said,) = [
            one
            for heading, sentences in prose.described(invoices, {"amount": grade})
            for one in sentences
            if one.startswith("amount")
        ]
        return said

    ways = "compared (equal to a value, above or below a value); figures (sum, average)"
    assert about(2) == f"amount, by hk-bank: {ways}"
    assert about(None) == "amount: nothing, it has no grade"
    assert about(3) == "amount: nothing, its grade is 3"


def test_sentences_in_both_languages_say_as_much(limited_text, kept_text):
    for text in (limited_text, kept_text.replace("  identity", "  conditional: true\n  identity", 1)):
        english, chinese = (prose.described(load(text), GRADES, lang) for lang in ("en", "zh"))
        assert [len(sentences) for _, sentences in english] == [len(sentences) for _, sentences in chinese]
        assert all(one != other for (one, _), (other, _) in zip(english, chinese, strict=True))


def test_what_a_policy_opens_is_said(invoices):
    analysis = invoices.analysis.model_copy(
        update={
            "conditional": True,
            "weighted": True,
            "minimum_identities": None,
            "scalar_functions": ("product",),
        }
    )
    opened = invoices.model_copy(update={"analysis": analysis, "when": None})
    beware = dict(prose.described(opened, GRADES))["What this opens"]
    assert len(beware) == 5
    assert "What this opens" not in dict(prose.described(invoices, GRADES))


def test_a_column_use_says_apart_what_selects_and_what_replaces():
    use = replace(ColumnUse("amount", aggregated=frozenset({"sum"})), selecting=True)
    assert becomes_known(use, "aggregate", (), "hk-bank", ())["hk-bank"] == (
        "after-aggregate",
        "after-compare",
    )
