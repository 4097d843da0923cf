"""Loading: whatever is not understood is refused, with its line, its key and what to write instead."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policy_enforcer.load import lint, load
from policy_enforcer.model import Policy, json_schema
from policy_enforcer.odrl import from_odrl, to_odrl
from policy_enforcer.problems import PolicyError
from policy_enforcer.write import to_yaml
from policy_enforcer.yamltree import MAXIMUM_CHARACTERS


def told(text, columns=None):
    """What lint says. Whatever that is, it says what to write instead."""
    problems = lint(text, columns)
    assert [str(problem) for problem in problems if not problem.suggestion] == []
    return problems


def found(text, columns=None):
    return [problem for problem in told(text, columns) if not problem.warning]


def advice(text):
    return [problem for problem in told(text) if problem.warning]


# what is replaced, by what -> line, key, code, something in the suggestion or sentence
MISTAKES = [
    ("dimensions:", "dimensons:", 12, "analysis.dimensons", "policy.unknown-word", "'dimensions'"),
    ("cardinality", "cardinalty", 11, "analysis.join.disclosure", "policy.unknown-value", "'cardinality'"),
    ("amount: range", "amount: ranges", 13, "analysis.filters.amount", "policy.unknown-value", "'range'"),
    ("[sum, avg]", "[sum, average]", 14, "analysis.measures.amount[1]", "policy.unknown-value", "'avg'"),
    ("date_trunc", "date_trnc", 15, "analysis.scalar_functions[0]", "policy.unknown-value", "'date_trunc'"),
    ("kinds: [aggregate]", "kinds: aggregate", 10, "analysis.kinds", "policy.wrong-type", "[aggregate]"),
    ("kinds: [aggregate]", "kinds: []", 10, "analysis.kinds", "policy.bad-value", "missing"),
    ("count: 200", 'count: "200"', 7, "uses.count", "policy.wrong-type", "whole number"),
    ("count: 200", "count: 0", 7, "uses.count", "policy.bad-value", "greater"),
    ("count: 200", "count: 1.5", 7, "uses.count", "policy.wrong-type", "whole number"),
    ("count: 200", "count: true", 7, "uses.count", "policy.wrong-type", "whole number"),
    ("count: 200", "count:", 7, "uses.count", "yaml.empty", "no value"),
    ("count: 200", "count: 1e3", 7, "uses.count", "yaml.ambiguous", "plain decimal"),
    ("count: 200", "count: 0x10", 7, "uses.count", "yaml.ambiguous", "plain decimal"),
    ("count: 200", "count: 0o17", 7, "uses.count", "yaml.ambiguous", "plain decimal"),
    ("count: 200", "count: 017", 7, "uses.count", "yaml.ambiguous", "plain decimal"),
    ("count: 200", "count: 2_00", 7, "uses.count", "yaml.ambiguous", "plain decimal"),
    ("count: 200", "count: 3:20", 7, "uses.count", "yaml.ambiguous", "plain decimal"),
    ("count: 200", "count: .inf", 7, "uses.count", "yaml.ambiguous", "plain decimal"),
    ("recipients: [HK]", "recipients: [NO]", 5, "where.recipients[0]", "yaml.ambiguous", "quotes"),
    ("recipients: [HK]", "recipients: [hk]", 5, "where.recipients[0]", "policy.bad-value", "ISO 3166"),
    ("recipients: [HK]", "recipients: [CN-HK]", 5, "where.recipients.CN-HK", "policy.bad-value", "Write HK"),
    ("recipients: [HK]", "recipients: []", 5, "where.recipients", "policy.bad-value", "missing"),
    ("until: 2027-12-31", "until: 2027-13-31", 6, "when.until", "policy.bad-value", "month"),
    ("until: 2027-12-31", "until: 2027-12-31T10:00:00", 6, "when.until", "policy.bad-value", "offset"),
    ("until: 2027-12-31", "until: 31/12/2027", 6, "when.until", "policy.bad-value", "Write a date"),
    ("until: 2027-12-31", "until: 2025-12-31", 6, "when.until", "policy.contradiction", "before it begins"),
    ("until: 2027-12-31", "elapsed: 6 months", 6, "when.elapsed", "policy.bad-value", "P6M"),
    ("from: 2026-01-01", "form: 2026-01-01", 6, "when.form", "policy.unknown-word", "'from'"),
    ("purpose: [credit-risk]\n", "", 1, "purpose", "policy.missing-word", "must be written"),
    ("assignee: [hk-bank]\n", "", 1, "assignee", "policy.missing-word", "must be written"),
    ("assignee: [hk-bank]", "assignee: [hk-bank, any]", 3, "assignee", "policy.contradiction", "alone"),
    ("assignee: [hk-bank]", "assignee: [a, b, a]", 3, "assignee", "policy.bad-value", "twice"),
    (
        "dataset: sz-trade.invoices",
        "dataset: invoices",
        2,
        "dataset",
        "policy.bad-value",
        "participant.offer",
    ),
    ("  identity: company_id\n", "", 16, "analysis.minimum_identities", "policy.contradiction", "identity"),
    (
        "[industry, quarter]",
        "[industry, company_id]",
        12,
        "analysis.dimensions.company_id",
        "policy.contradiction",
        "output",
    ),
    (
        "year: equality",
        "company_id: equality",
        13,
        "analysis.filters.company_id",
        "policy.contradiction",
        "literals",
    ),
    (
        "company_id: [count_distinct]",
        "company_id: [max]",
        14,
        "analysis.measures.company_id",
        "policy.contradiction",
        "count",
    ),
    ('"*": [count]', '"*": [sum]', 14, "analysis.measures.*", "policy.contradiction", "rows"),
    ("[0, 1000000000]", "[5, 4]", 18, "analysis.bounds.amount", "policy.contradiction", "above"),
    ("[0, 1000000000]", "[5]", 18, "analysis.bounds.amount[1]", "policy.bad-value", "missing"),
    ("[0, 1000000000]", "[0, ten]", 18, "analysis.bounds.amount[1]", "policy.bad-value", "decimal"),
    (
        "  minimum_identities: 10",
        "  weighted: yes",
        17,
        "analysis.weighted",
        "yaml.ambiguous",
        "true or false",
    ),
    (
        "  minimum_identities: 10",
        "  domains: {region: [a]}",
        17,
        "analysis.domains.region",
        "policy.contradiction",
        "dimension",
    ),
    (
        "  minimum_identities: 10",
        "  domains: {quarter: [1, 1]}",
        17,
        "analysis.domains.quarter",
        "policy.bad-value",
        "twice",
    ),
    ("  minimum_identities: 10", "  payload: [note]", 17, "analysis.payload", "policy.contradiction", "list"),
    ("kinds: [aggregate]", "kinds: [list]", 10, "analysis.kinds", "policy.contradiction", "payload"),
    (
        "uses: {count: 200, per: month, max_concurrent: 2}",
        "uses: {max_concurrent: 2}",
        11,
        "analysis.join",
        "policy.joint-unlimited",
        "uses",
    ),
    (
        "uses: {count: 200, per: month, max_concurrent: 2}",
        "uses: {}",
        7,
        "uses",
        "policy.contradiction",
        "nothing",
    ),
    ("{log: witness, minimum_witnesses: 1}", "{lgo: witness}", 20, "duties[0]", "policy.unknown-word", "log"),
    (
        "minimum_witnesses: 1",
        "min_witnesses: 1",
        20,
        "duties[0].min_witnesses",
        "policy.unknown-word",
        "minimum_witnesses",
    ),
    (
        "{log: witness, minimum_witnesses: 1}",
        "{notify: owner}",
        20,
        "duties.notify",
        "policy.not-enforceable",
        "declared: true",
    ),
    (
        "{log: witness, minimum_witnesses: 1}",
        "{log: witness}, {log: witness}",
        20,
        "duties",
        "policy.bad-value",
        "twice",
    ),
    (
        "{log: witness, minimum_witnesses: 1}",
        "{delete: result}",
        20,
        "duties[0].after",
        "policy.missing-word",
        "after",
    ),
    ("policy: invoices-v1", "policy: &x invoices-v1", 1, "", "yaml.anchor", "Write the value out"),
    ("policy: invoices-v1", "policy: !!str invoices-v1", 1, "", "yaml.tag", "tags"),
    ("purpose: [credit-risk]", "policy: again", 4, "policy", "yaml.duplicate-key", "twice"),
    ("purpose: [credit-risk]", "on: [credit-risk]", 4, "", "yaml.ambiguous", "quotes"),
    ("purpose: [credit-risk]", "? [a]\n: b", 4, "", "yaml.key", "a key must be a word"),
    ("purpose: [credit-risk]", "purpose: [credit-risk", 5, "", "yaml.syntax", "not YAML"),
    ("purpose: [credit-risk]", "--- \npurpose: [credit-risk]", 4, "", "yaml.several", "one policy"),
    ("purpose: [credit-risk]", "<<: {purpose: [credit-risk]}", 4, "", "yaml.ambiguous", "quotes"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m[4]} {m[1][:30]}")
def test_each_mistake_is_found_where_it_is(invoices_text, mistake):
    before, after, line, path, code, words = mistake
    assert invoices_text.count(before) >= 1
    problems = found(invoices_text.replace(before, after, 1))
    assert [(p.line, p.path, p.code) for p in problems][:1] == [(line, path, code)]
    assert words in f"{problems[0].sentence} {problems[0].suggestion}"
    with pytest.raises(PolicyError, match=re.escape(f"[{code}]")):
        load(invoices_text.replace(before, after, 1))


@pytest.mark.parametrize("digest", ["", "@", "@" + "0" * 63, "@" + "A" * 64, "@" + "0" * 65])
def test_a_template_is_named_by_its_digest(invoices_text, digest):
    words = "  templates: [credit-exposure-by-industry{}]\n  minimum_identities"
    text = invoices_text.replace("  minimum_identities", words.format(digest))
    assert [(p.code, p.path) for p in found(text)] == [("policy.bad-value", "analysis.templates[0]")]
    named = invoices_text.replace("  minimum_identities", words.format("@" + "0" * 64))
    assert load(named).analysis.templates == ("credit-exposure-by-industry@" + "0" * 64,)


def test_roles_and_consent_load(invoices_text):
    assert load(invoices_text.replace("[hk-bank]", "[role:bank, claim:iso]")).assignee[0] == "claim:iso"
    consent = invoices_text.replace("grade_at_most: 2", "grade_at_most: 2, consent: set-1")
    assert load(consent).transfer.consent == "set-1"
    nobody = consent.replace("  identity: company_id\n", "").replace("  minimum_identities: 10\n", "")
    assert [(p.code, p.path) for p in found(nobody)] == [("policy.contradiction", "transfer.consent")]


def test_lists_load_and_a_low_risk_catalogue_needs_a_white_list_to_exempt_from(invoices_text):
    named = "gba-2026@" + "0" * 64
    for words in (f"whitelist: {named}", f"negative_list: {named}", f"whitelist: {named}, low_risk: {named}"):
        load(invoices_text.replace("grade_at_most: 2", words))
    listed = invoices_text.replace("grade_at_most: 2", f"whitelist: {named}")
    columns = dict.fromkeys(("company_id", "industry", "quarter", "amount", "year", "due"), "trade")
    assert lint(listed, columns, columns) == ()
    assert lint(invoices_text, columns, {**columns, "amount": None}) == ()
    told = lint(listed, columns, {**columns, "year": None, "elsewhere": None})
    assert [(p.path, p.warning) for p in told] == [("analysis.filters.year", True)]
    (problem,) = found(invoices_text.replace("grade_at_most: 2", "whitelist: gba-2026"))
    assert (problem.code, problem.path) == ("policy.bad-value", "transfer.whitelist")
    assert "bayspace list show" in problem.suggestion
    alone = invoices_text.replace("grade_at_most: 2", f"low_risk: {named}, negative_list: {named}")
    assert [(p.code, p.path) for p in found(alone)] == [("policy.contradiction", "transfer.low_risk")]


@pytest.mark.parametrize(
    "duty", ["notify: owner", "delete: result, after: P30D", "pass_on: never", "payment: 5 CNY a query"]
)
def test_declared_duties_load_and_are_shown_as_such(invoices_text, duty):
    text = invoices_text.replace("duties: [", f"duties: [{{{duty}, declared: true}}, ")
    load(text)
    word = duty.split(":")[0]
    assert [(p.path, p.line) for p in advice(text)] == [(f"duties.{word}", 20)]


@pytest.mark.parametrize(
    ("before", "after", "path", "words"),
    [
        ("minimum_identities: 10", "minimum_identities: 2", "analysis.minimum_identities", "below 3"),
        ("  minimum_identities: 10\n", "", "analysis", "group of one"),
        ("  identity: company_id", "  identity: owner", "analysis.identity", "no join column"),
        (", until: 2027-12-31", "", "when", "never ends"),
        ("when: {from: 2026-01-01, until: 2027-12-31}\n", "", "", "never ends"),
        ("where: {processing: [CN-SZ, HK], recipients: [HK]}\n", "", "", "jurisdiction"),
        ("[hk-bank]", "any", "assignee", "every participant"),
        ("[credit-risk]", "any", "purpose", "every purpose"),
        ("duties: [{log: witness, minimum_witnesses: 1}]\n", "", "", "witness"),
        ("  bounds:", "  weighted: true\n  bounds:", "analysis.weighted", "level receiver"),
        ("grade_at_most: 2", "grade_at_most: 2, basis: standard-contract", "transfer.basis", "declared"),
    ],
)
def test_lint_warns(invoices_text, before, after, path, words):
    assert advice(invoices_text) == []
    text = invoices_text.replace(before, after)
    assert words in next(p for p in advice(text) if p.path == path).sentence
    load(text)


SMALL = """\
policy: small
dataset: owner.data
assignee: [asker]
purpose: [why]
{more}
analysis:
  kinds: [{kinds}]
{words}
"""


def small(*words, kinds="aggregate", more="uses: {count: 5}"):
    return SMALL.format(kinds=kinds, more=more, words="\n".join(f"  {word}" for word in words))


LIST = ("payload: [note]", "measures: {v: sum}")


@pytest.mark.parametrize(
    "text",
    [
        small("measures: {v: sum}"),
        small("measures: {v: sum}", "bounds: {v: [5, 5]}"),
        small("measures: {v: sum}", more="when: {until: 2027-12-31}"),
        small("measures: {v: sum}", more="when: {from: 2027-12-31}"),
        small("measures: {v: sum}", more="when: {from: 2027-12-31, until: 2027-12-31}"),
        small("measures: {v: sum}", "join: {columns: [k], disclosure: hidden}"),
        small("identity: k", "measures: {k: count, '*': count}"),
        small("dimensions: [k]"),
        small(*LIST, "join: {columns: [k], disclosure: rows}", kinds="list"),
        small(*LIST, "join: {columns: [k], disclosure: rows}", kinds="list, aggregate"),
    ],
)
def test_what_contradicts_nothing_loads(text):
    assert load(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (small(*LIST, kinds="list"), "analysis.kinds"),
        (small(*LIST, "join: {columns: [k], disclosure: receiver}", kinds="list"), "analysis.kinds"),
        (small("join: {columns: [k], disclosure: rows}", kinds="list"), "analysis.kinds"),
        (small("join: {columns: [k], disclosure: rows}", "dimensions: [k]"), "analysis.dimensions.k"),
        (small("join: {columns: [k], disclosure: rows}", "measures: {k: max}"), "analysis.measures.k"),
        (small("identity: k", "dimensions: [k]"), "analysis.dimensions.k"),
        (small("identity: k", "measures: {k: [count, min]}"), "analysis.measures.k"),
        (small(more="purpose: [why, any]").replace("purpose: [why]\n", ""), "purpose"),
        (small(more="where: {}"), "where"),
        (small(more="when: {}"), "when"),
        (small(more="uses: {}"), "uses"),
        (small(more="uses: {per: month}"), "uses"),
        (small(more="transfer: {}"), "transfer"),
        (small(more="conditions: {}"), "conditions"),
        (small(more="conditions: {declared: {}}"), "conditions.declared"),
    ],
)
def test_contradictions_do_not_load(text, path):
    assert [(p.code, p.path) for p in found(text) if not p.warning][:1] == [("policy.contradiction", path)]


def test_advice_is_given_only_where_it_applies():
    def about(text):
        return {problem.path for problem in advice(text)}

    joined = "join: {columns: [k], disclosure: rows}"
    assert "analysis" in about(small("identity: k", "minimum_identities: 5"))  # no measure
    assert "analysis" not in about(small("identity: k", "minimum_identities: 5", "measures: {v: sum}"))
    minimum = ("payload: [note]", joined, "identity: k", "minimum_identities: 5")
    assert "analysis" not in about(small(*minimum, kinds="list"))
    assert "analysis.identity" not in about(small("identity: other", "minimum_identities: 5"))
    assert "analysis.identity" not in about(small("identity: other", joined))
    assert "analysis.identity" in about(small("identity: other", joined, "minimum_identities: 5"))
    assert "transfer.filing" in about(small(more='transfer: {filing: "1"}'))
    listed = ("payload: [note]", joined, "measures: {v: sum}", "dimensions: [g]")
    figures = {"analysis.measures", "analysis.dimensions"}
    assert figures <= about(small(*listed, kinds="list"))
    assert not figures & about(small(*listed, kinds="list, aggregate"))
    counted = "join: {columns: [k], disclosure: cardinality}"
    for more in ((joined,), (joined.replace("rows", "receiver"),)):
        assert "analysis.join.disclosure" in about(small(*more))
        assert "analysis.join.disclosure" not in about(small(*more, "maximum_peer_keys: 9"))
    assert "analysis.join.disclosure" not in about(small(counted))
    assert "analysis.filters.k" in about(small(counted, "filters: {k: equality, v: range}"))
    assert "analysis.filters.v" not in about(small(counted, "filters: {k: equality, v: range}"))
    assert "analysis.filters.k" not in about(small("filters: {k: equality}"))
    summed = "federation: {name: loans, scope: local, minimum_participants: 3}"
    assert "analysis.federation.name" in about(small(summed, counted))
    assert "analysis.federation.name" not in about(small(summed))
    noise = "noise: {mechanism: discrete-gaussian, rho_per_query: 0.1, budget: {rho: 1}"
    bounded = ("identity: k", "max_rows_per_identity: 1", "max_cells_per_identity: 1")
    assert "analysis.noise" in about(small(*bounded, noise + "}"))
    assert "analysis.noise" not in about(small(*bounded, noise + ", dataset_budget: {rho: 2}}"))


def test_lint_knows_which_columns_nobody_graded(invoices_text):
    columns = ("company_id", "industry", "quarter", "amount", "year", "due")
    graded = dict.fromkeys(columns, 1)
    assert lint(invoices_text, columns, None, graded) == ()
    (problem,) = lint(invoices_text, columns, None, {**graded, "year": None, "elsewhere": None})
    assert (problem.path, problem.warning) == ("analysis.filters.year", True)
    free = invoices_text.replace("transfer: {grade_at_most: 2}\n", "")
    assert lint(free, columns, None, dict.fromkeys(columns)) == ()
    stated = lint(
        invoices_text.replace("grade_at_most: 2", "basis: x"), columns, None, dict.fromkeys(columns)
    )
    assert [problem.path for problem in stated] == ["transfer.basis"]


def test_lint_knows_the_datasets_columns(invoices_text):
    columns = ["company_id", "industry", "amount", "year", "due", "quater"]
    problems = found(invoices_text, columns)
    assert [(p.path, p.line, p.suggestion) for p in problems] == [
        ("analysis.dimensions.quarter", 12, "Did you mean 'quater'?")
    ]


def test_every_problem_is_reported_at_once_in_the_order_of_the_text(invoices_text):
    text = invoices_text.replace("dimensions", "dimension").replace("per: month", "per: moon")
    assert [p.line for p in found(text)] == [7, 12]
    with pytest.raises(PolicyError) as error:
        load(text, "offers/invoices.yaml")
    first, second = str(error.value).splitlines()
    assert first.startswith("offers/invoices.yaml:7:20: uses.per: this value is not in the policy language.")
    assert second.endswith("Did you mean 'dimensions'? [policy.unknown-word]")


def test_order_of_sets_does_not_matter(invoices_text, invoices):
    swapped = invoices_text.replace("[industry, quarter]", "[quarter, industry]").replace(
        "[sum, avg]", "[avg, sum]"
    )
    assert load(swapped) == invoices


def test_numbers_are_exact(invoices_text):
    text = invoices_text.replace("[0, 1000000000]", "[-0.10, 12345678901234567890.123456789]")
    low, high = load(text).analysis.bounds["amount"]
    assert (str(low), str(high)) == ("-0.1", "12345678901234567890.123456789")


def test_a_policy_is_a_mapping_of_bounded_size_and_depth():
    for text, code in [
        ("", "yaml.not-a-policy"),
        ("- a", "yaml.not-a-policy"),
        ("a: " + "[" * 50 + "]" * 50, "yaml.too-deep"),
        ("#" * (MAXIMUM_CHARACTERS + 1), "yaml.too-large"),
        ('a: "\\UFFFFFFFF"', "yaml.syntax"),
        ("a: \x00", "yaml.syntax"),
        ("%YAML 1.1\n---\na: b", "yaml.tag"),
    ]:
        assert [p.code for p in found(text)] == [code]


def test_a_policy_cannot_be_changed_after_loading(invoices):
    with pytest.raises(ValueError, match="frozen"):
        invoices.dataset = "other.data"


def test_the_json_schema_is_closed_and_knows_every_word():
    schema = json_schema()
    groups = [schema, *schema["$defs"].values()]
    assert all(g["additionalProperties"] is False for g in groups if g.get("type") == "object")
    assert set(schema["properties"]) == {field.alias or name for name, field in Policy.model_fields.items()}
    assert schema["required"] == ["policy", "dataset", "assignee", "purpose", "analysis"]
    assert "from" in schema["$defs"]["When"]["properties"]


PIECES = """
policy dataset assignee purpose analysis kinds aggregate join columns disclosure rows uses count duties log
witness when from until 2026-01-01 any yes 1 1.5 ~ - : , [ ] { } & * ! | > ' \" # % @ null
"""
WORDS = st.sampled_from([*PIECES.split(), "\n", "\t"])


def problems_of(text):
    try:
        load(text)
    except PolicyError as error:
        return error.problems
    return None


@settings(max_examples=120, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(WORDS, max_size=40).map(" ".join)))
@example("a: &a [*a]")
@example("? : ")
@example("{a: b, a: c}")
@example("a: 2026-99-99")
@example("? {a: b}\n: c")
def test_any_text_loads_or_is_refused_with_a_place(text):
    problems = problems_of(text)
    assert problems is None or problems
    assert all(p.code and p.sentence and not p.warning for p in problems or ())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_policy_is_refused_or_still_consistent(data):
    """One character replaced or dropped: refused, or a policy that can be written and read again."""
    position = data.draw(st.integers(0, len(GOOD) - 1))
    letter = data.draw(st.sampled_from(["", " ", ":", "[", "]", "-", "x", "0", "#", "\n", "*", "&", "'"]))
    damaged = GOOD[:position] + letter + GOOD[position + 1 :]
    if problems_of(damaged) is None:
        policy = load(damaged)
        assert policy.analysis.minimum_identities is None or policy.analysis.identity is not None
        assert load(to_yaml(policy)) == policy == from_odrl(to_odrl(policy))


GOOD = """\
policy: small
dataset: owner.data
assignee: [asker]
purpose: [why]
uses: {count: 5}
analysis:
  kinds: [aggregate]
  join: {columns: [k], disclosure: cardinality}
  measures: {v: sum}
  identity: k
  minimum_identities: 5
"""


NOISE = "noise: {{mechanism: discrete-gaussian, rho_per_query: {}, budget: {{rho: {}, per: year}}{}}}"
BOUNDED = "max_rows_per_identity: 50, max_cells_per_identity: 4"


def with_words(text, *words):
    """The policy with more words in `analysis`."""
    return text.replace(
        "  minimum_identities", "".join(f"  {word}\n" for word in words) + "  minimum_identities"
    )


def test_noise_loads_with_what_it_needs(invoices_text):
    words = ("max_rows_per_identity: 50", "max_cells_per_identity: 4")
    for noise in (
        NOISE.format("0.05", "1", ""),
        NOISE.format("0.000000001", "1", ", dataset_budget: {rho: 1}"),
    ):
        assert load(with_words(invoices_text, noise, *words)).analysis.noise is not None
    assert load(with_words(invoices_text, *words)).analysis.max_cells_per_identity == 4
    assert load(with_words(invoices_text, "dominance: {share_at_most: 0.7}")).analysis.dominance is not None
    assert load(with_words(invoices_text, "suppressions: {complementary: true}")).analysis.suppressions


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ([NOISE.format("0.05", "1", "")], "analysis.noise"),
        ([NOISE.format("0.05", "1", ""), "max_rows_per_identity: 5"], "analysis.noise"),
        ([NOISE.format("0.0000000001", "1", ""), *BOUNDED.split(", ")], "analysis.noise.rho_per_query"),
        ([NOISE.format("0", "1", ""), *BOUNDED.split(", ")], "analysis.noise.rho_per_query"),
        ([NOISE.format("-1", "1", ""), *BOUNDED.split(", ")], "analysis.noise.rho_per_query"),
        ([NOISE.format("0.05", "0.04", ""), *BOUNDED.split(", ")], "analysis.noise.budget"),
        ([NOISE.format("1", "100000000000", ""), *BOUNDED.split(", ")], "analysis.noise.budget"),
        (
            [NOISE.format("0.05", "1", ", dataset_budget: {rho: 0.01}"), *BOUNDED.split(", ")],
            "analysis.noise.dataset_budget",
        ),
        (
            [NOISE.format("0.05", "1", ""), *BOUNDED.split(", "), "dominance: {share_at_most: 0.7}"],
            "analysis.dominance",
        ),
        (
            [NOISE.format("0.05", "1", ""), *BOUNDED.split(", "), "suppressions: {complementary: true}"],
            "analysis.suppressions",
        ),
        ([NOISE.format("0.05", "1", ""), *BOUNDED.split(", "), "weighted: true"], "analysis.weighted"),
        (["dominance: {share_at_most: 1}"], "analysis.dominance"),
        (["dominance: {share_at_most: 0}"], "analysis.dominance"),
        (["suppressions: {count: shown}"], "analysis.suppressions"),
    ],
)
def test_noise_and_dominance_that_cannot_be_meant(invoices_text, words, path):
    problems = found(with_words(invoices_text, *words))
    assert {(p.code, p.path) for p in problems} == {("policy.contradiction", path)}


@pytest.mark.parametrize(
    "words",
    [
        ["dominance: {share_at_most: 0.7}"],
        ["max_rows_per_identity: 5"],
        ["differencing: {minimum_difference: 3}"],
    ],
)
def test_what_is_about_identities_names_them(invoices_text, words):
    text = with_words(invoices_text, *words).replace("  identity: company_id\n", "")
    text = text.replace("  minimum_identities: 10\n", "")
    assert [p.path for p in found(text)] == [f"analysis.{words[0].split(':')[0]}"]


DIFFERENCING = "differencing: {minimum_difference: 10, window: P30D}"


def test_a_differencing_guard_loads(invoices_text):
    assert load(with_words(invoices_text, DIFFERENCING)).analysis.differencing is not None
    noise = (NOISE.format("0.05", "1", ""), *BOUNDED.split(", "))
    assert load(with_words(invoices_text, DIFFERENCING, *noise)).analysis.differencing is not None


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ([DIFFERENCING.replace("10", "1")], "analysis.differencing.minimum_difference"),
        ([DIFFERENCING, "max_rows_per_identity: 5"], "analysis.max_rows_per_identity"),
        ([DIFFERENCING, "max_cells_per_identity: 5"], "analysis.max_cells_per_identity"),
    ],
)
def test_a_differencing_guard_that_cannot_be_meant(invoices_text, words, path):
    problems = found(with_words(invoices_text, *words))
    assert [(p.code, p.path) for p in problems] == [("policy.contradiction", path)]


def test_lists_beside_a_differencing_guard_cannot_be_meant(invoices_text):
    text = with_words(invoices_text, DIFFERENCING, "payload: [quarter]")
    text = text.replace("kinds: [aggregate]", "kinds: [aggregate, list]").replace(
        "disclosure: cardinality", "disclosure: rows"
    )
    assert [(p.code, p.path) for p in found(text)] == [("policy.contradiction", "analysis.kinds")]


def test_lint_says_what_makes_noise_large_or_useless(invoices_text):
    words = (NOISE.format("0.05", "1", ""), *BOUNDED.split(", "))
    text = with_words(invoices_text, *words).replace("  bounds: {amount: [0, 1000000000]}\n", "")
    paths = [problem.path for problem in advice(text)]
    assert [path for path in paths if path.startswith("analysis.")] == [
        *(f"analysis.dimensions.{column}" for column in load(text).analysis.dimensions),
        "analysis.measures.amount",
        "analysis.noise",
    ]


def test_lint_says_that_dominance_ends_joins(invoices_text):
    paths = [problem.path for problem in advice(with_words(invoices_text, "dominance: {share_at_most: 0.7}"))]
    assert "analysis.dominance" in paths


@pytest.mark.parametrize(("scope", "warned"), [("local", False), ("total", True)])
def test_lint_says_that_dominance_ends_totals(invoices_text, scope, warned):
    federation = f"federation: {{name: loans, scope: {scope}, minimum_participants: 3}}"
    found = [p.path for p in advice(with_words(invoices_text, federation, "dominance: {share_at_most: 0.7}"))]
    assert ("analysis.federation.scope" in found) == warned
    without = [p.path for p in advice(with_words(invoices_text, federation))]
    assert "analysis.federation.scope" not in without


@pytest.mark.parametrize(
    ("words", "path", "warned"),
    [
        (["suppressions: {complementary: true}"], "analysis.suppressions.complementary", True),
        (["suppressions: {count: hidden}"], "analysis.suppressions.complementary", False),
        (["differencing: {minimum_difference: 10, window: P30D}"], "analysis.differencing", True),
        (
            [
                "differencing: {minimum_difference: 10, window: P30D}",
                NOISE.format("0.05", "1", ""),
                *BOUNDED.split(", "),
            ],
            "analysis.differencing",
            False,
        ),
    ],
)
def test_lint_says_what_ends_a_federation(invoices_text, words, path, warned):
    federation = "federation: {name: loans, scope: local, minimum_participants: 3}"
    assert (path in [p.path for p in advice(with_words(invoices_text, federation, *words))]) == warned
    assert path not in [p.path for p in advice(with_words(invoices_text, *words))]


def noised(text, rho="0.05", budget="1", *more):
    return with_words(text, NOISE.format(rho, budget, ""), *BOUNDED.split(", "), *more)


def test_noise_limits_joins_in_the_place_of_uses(invoices_text):
    text = invoices_text.replace("count: 200, per: month, ", "")
    assert [p.code for p in found(text)] == ["policy.joint-unlimited"]
    assert load(noised(text)).uses.count is None


def test_keys_may_be_counted_in_both_ways(invoices_text):
    load(invoices_text.replace("company_id: [count_distinct]", "company_id: [count, count_distinct]"))


def test_noise_beside_what_looks_at_no_value(invoices_text):
    load(noised(invoices_text, "0.05", "1", "suppressions: {count: hidden}"))
    listed = noised(invoices_text, "0.05", "1", "payload: [quarter]").replace(
        "[aggregate]", "[aggregate, list]"
    )
    problems = found(listed.replace("disclosure: cardinality", "disclosure: rows"))
    assert [p.path for p in problems] == ["analysis.kinds"]


def test_the_first_and_the_last_loss(invoices_text):
    for rho, budget in (("0.05", "0.05"), ("0.000000001", "9007199.254740992")):
        load(noised(invoices_text, rho, budget))
    assert found(noised(invoices_text, "0.05", "9007199.254740993"))


@pytest.mark.parametrize("word", ["noise", "max_cells_per_identity"])
def test_what_bounds_identities_names_them(invoices_text, word):
    text = noised(invoices_text) if word == "noise" else with_words(invoices_text, f"{word}: 5")
    text = text.replace("  identity: company_id\n", "").replace("  minimum_identities: 10\n", "")
    assert f"analysis.{word}" in [p.path for p in found(text)]


@pytest.mark.parametrize(
    ("least", "participants", "loads"),
    [
        (3, "[hk-bank, mo-bank]", True),
        (3, "[hk-bank]", False),
        (3, "[sz-trade, hk-bank]", False),  # the owner is one of the three anyway
        (4, '[hk-bank, "role:bank"]', True),  # of a role there may be any number
        (4, '["role:bank"]', True),
        (3, "[any, hk-bank]", False),  # absent, the word lets any member take part
    ],
)
def test_a_federation_names_enough_who_may_stand_beside(invoices_text, least, participants, loads):
    named = f"minimum_participants: {least}, participants: {participants}"
    words = f"federation: {{name: loans, scope: local, {named}}}"
    problems = [(p.code, p.path) for p in found(with_words(invoices_text, words))]
    assert problems == ([] if loads else [("policy.contradiction", "analysis.federation.participants")])


@pytest.mark.parametrize("duty", ["pass_on: never", "payment: 5 CNY", "delete: result, after: P1D"])
def test_what_only_law_enforces_is_declared_to_be_so(invoices_text, duty):
    text = invoices_text.replace("duties: [", f"duties: [{{{duty}}}, ")
    assert [p.code for p in found(text)] == ["policy.not-enforceable"]
