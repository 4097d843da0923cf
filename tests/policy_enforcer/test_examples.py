"""Examples kept beside a policy: a short form of facts, exact expectations, mistakes with their line."""

import pytest

from policy_enforcer.examples import case, parse_examples, run_examples
from policy_enforcer.facts import TransferList
from policy_enforcer.load import load
from policy_enforcer.model import Transfer
from policy_enforcer.problems import PolicyError

EXAMPLES = """\
tests:
  - name: turnover per industry
    join: company_id
    group: industry
    measure: {amount: sum, "*": count}
    expect: permit
  - name: turnover per industry, alone
    group: [industry]
    measure: {amount: [sum, avg]}
    expect: permit
  - name: filters and functions
    filter: {amount: range, year: equality, due: column}
    functions: {quarter: date_trunc}
    group: quarter
    expect: permit
  - name: grouping by company
    group: company_id
    expect: [identity.grouped]
  - name: looking for one company
    filter: {company_id: equality}
    measure: {"*": count}
    expect: [identity.compared-with-literal]
  - name: level receiver
    join: company_id
    level: receiver
    measure: {"*": count}
    expect: [protocol.level]
  - name: a join that is not on the identity
    join: tax_no
    measure: {"*": count}
    expect: [join.column-not-allowed, gate.minimum-identities.unavailable]
  - name: everything at once
    asker: us-fund
    recipients: [us-fund]
    purpose: marketing
    at: 2030-01-01
    kind: list
    list: phone
    weighted: amount
    conditional: amount
    join: company_id
    join_operators: or
    processing: US
    receiving: [US]
    grades: {phone: 3}
    peer_keys: 100001
    witnesses: 0
    uses: 200
    running: 2
    expect: [assignee.not-allowed, recipient.not-allowed, purpose.not-allowed, time.expired, kind.not-allowed,
      list.column-not-allowed, weighted.not-allowed, column.use-unknown, aggregate.conditional,
      join.operator-not-allowed, where.processing, where.recipients, grade.above-maximum, peer-keys.too-many,
      witness.too-few, uses.exhausted, uses.concurrent]
"""


def outcomes(policy, text):
    return run_examples(policy, [case(policy, example) for example in parse_examples(text)])


def test_examples_meet_their_expectations(invoices):
    found = outcomes(invoices, EXAMPLES)
    assert len(found) == 8
    assert [outcome.name for outcome in found if not outcome.passed] == []


def test_columns_of_no_said_category_are_of_one_that_may_leave(invoices):
    """A negative list takes off the white list what it names in other letters too."""
    named = {word: f"{word}@{'1' * 64}" for word in ("whitelist", "negative_list")}
    policy = invoices.model_copy(update={"transfer": Transfer(**named)})
    lists = {
        named["whitelist"]: TransferList("whitelist", "x", "CN", "2026-01-01", frozenset({"A", "b"})),
        named["negative_list"]: TransferList("negative_list", "x", "CN", "2026-01-01", frozenset({"a"})),
    }
    text = "tests: [{name: alone, group: industry, measure: {amount: sum}, expect: permit}]"
    (found,) = run_examples(policy, [case(policy, *parse_examples(text), lists)])
    assert found.passed, found.actual


def test_a_wrong_expectation_fails(invoices):
    wrong = EXAMPLES.replace("expect: permit", "expect: [purpose.missing]", 1)
    wrong = wrong.replace("[identity.grouped]", "permit")
    failed = [outcome for outcome in outcomes(invoices, wrong) if not outcome.passed]
    assert [(o.expected, o.actual) for o in failed] == [
        ({"purpose.missing"}, set()),
        (set(), {"identity.grouped"}),
    ]


def test_what_an_example_leaves_out_is_as_the_policy_wants_it(invoices_text):
    text = invoices_text.replace("[hk-bank]", "any").replace("[credit-risk]", "any")
    text = text.replace("minimum_witnesses: 1", "minimum_witnesses: 3").replace(
        "from: 2026-01-01, ", "elapsed: P1D, "
    )
    found = outcomes(load(text), "tests: [{name: one, measure: {amount: sum}, expect: permit}]")
    assert [outcome.actual for outcome in found] == [frozenset()]


def test_differencing_is_held_by_what_gates_alone_and_joint(invoices_text):
    asked = "measure: {amount: sum}, expect: permit}"
    text = f"tests: [{{name: one, {asked}, {{name: two, join: company_id, {asked}]"
    guarded = load(
        invoices_text.replace(
            "  identity: company_id", "  differencing: {minimum_difference: 10}\n  identity: company_id"
        )
    )
    assert [outcome.actual for outcome in outcomes(guarded, text)] == [frozenset(), frozenset()]


def test_examples_with_sql_are_kept_for_the_connector(invoices):
    (example,) = parse_examples('tests: [{name: one, sql: "SELECT 1", expect: [column.use-unknown]}]')
    assert (example.sql, example.expect) == ("SELECT 1", ("column.use-unknown",))
    with pytest.raises(PolicyError, match="only a plan has"):
        case(invoices, example)


@pytest.mark.parametrize(
    ("before", "after", "line", "path", "words"),
    [
        ("    group: [industry]", "    gruop: [industry]", 8, "tests[1].gruop", "'group'"),
        ("[identity.grouped]", "[identity.groupd]", 18, "tests[3].expect", "reason codes"),
        ("[identity.grouped]", "refuse", 18, "tests[3].expect", "list"),
        ("kind: list", "kind: lists", 37, "tests[7].kind", "'list'"),
        ("witnesses: 0", "witnesses: -1", 47, "tests[7].witnesses", "greater"),
        (
            "    expect: permit\n  - name: turnover per industry, alone",
            "  - name: x",
            2,
            "tests[0].expect",
            "written",
        ),
        ("tests:", "test:", 1, "test", "'tests'"),
    ],
)
def test_mistakes_are_found_where_they_are(before, after, line, path, words):
    assert before in EXAMPLES
    with pytest.raises(PolicyError) as error:
        parse_examples(EXAMPLES.replace(before, after, 1), "x.tests.yaml")
    problem = next(p for p in error.value.problems if p.path == path)
    assert problem.line == line
    assert words in f"{problem.sentence} {problem.suggestion}"


@pytest.mark.parametrize("text", ["", "tests: []", "tests: {}", "- a", "tests: &x []"])
def test_what_is_no_test_file_is_refused(text):
    with pytest.raises(PolicyError):
        parse_examples(text)
