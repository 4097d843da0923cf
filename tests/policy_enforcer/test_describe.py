"""What readers see: matrix, diff, obligations, sentences about disclosure."""

import itertools
from dataclasses import replace

import pytest

from policy_enforcer.describe import MatrixRow, matrix
from policy_enforcer.diff import Diff, diff
from policy_enforcer.disclosure import Disclosure, Fact, Party
from policy_enforcer.explain import sentence
from policy_enforcer.facts import TransferList
from policy_enforcer.load import load
from policy_enforcer.model import Federation, Uses
from policy_enforcer.obligations import obligations
from policy_enforcer.prose import described
from policy_enforcer.transfer_lists import category

GRADES = {"company_id": 2, "industry": 1, "amount": 2, "year": 0, "due": 1, "phone": 3, "note": None}


def test_matrix(invoices):
    rows = {row.column: row for row in matrix(invoices, GRADES)}
    assert set(rows) == {*GRADES, "*"}
    assert {name for name, row in rows.items() if row.usable} == {
        "company_id",
        "industry",
        "amount",
        "year",
        "due",
        "*",
    }
    assert [name for name, row in rows.items() if row.joined] == ["company_id"]
    assert [name for name, row in rows.items() if row.grouped] == ["industry"]
    assert rows["company_id"].measured == ("count_distinct",)
    assert rows["company_id"].filtered == ()
    assert rows["industry"].filtered == ("equality", "membership", "null")
    assert rows["amount"].filtered == ("equality", "range")
    assert rows["amount"].measured == ("sum", "avg")
    assert rows["due"].filtered == ("equality", "range", "column")
    assert rows["*"].measured == ("count",)
    assert not any(row.listed or row.weighted for row in rows.values())
    assert rows["amount"].parties == ("hk-bank",)
    assert (rows["phone"].grade, rows["note"].grade, rows["*"].grade) == (3, None, None)


def test_a_grade_above_the_maximum_or_unknown_forbids_everything(invoices):
    rows = {row.column: row for row in matrix(invoices, {"amount": 3, "industry": None, "quarter": 2})}
    assert [name for name, row in rows.items() if row.usable] == ["quarter", "*"]


def test_a_list_has_neither_groups_nor_figures(invoices_text):
    words = "kinds: [list]\n  payload: [note]\n  weighted: true"
    text = invoices_text.replace("kinds: [aggregate]", words).replace("cardinality", "rows")
    rows = {row.column: row for row in matrix(load(text), dict.fromkeys(GRADES, 1))}
    assert [name for name, row in rows.items() if row.grouped or row.measured or row.weighted] == []
    assert ([rows[name].joined for name in ("company_id", "note")], rows["note"].listed) == (
        [True, False],
        True,
    )
    both = matrix(load(text.replace("[list]", "[aggregate, list]")), dict.fromkeys(GRADES, 1))
    assert {row.column for row in both if row.measured} == {"company_id", "amount", "*"}


@pytest.mark.parametrize("use", ["joined", "grouped", "filtered", "measured", "listed"])
def test_one_use_makes_a_column_usable(use):
    nothing = MatrixRow(("a",), "c", None, False, False, (), (), False, False)
    assert not nothing.usable
    assert replace(nothing, **{use: ("x",) if use in {"filtered", "measured"} else True}).usable


def test_weights_show_where_allowed(invoices_text):
    policy = load(invoices_text.replace("  bounds:", "  weighted: true\n  bounds:"))
    assert [row.column for row in matrix(policy, GRADES) if row.weighted] == ["company_id", "amount", "*"]


CHANGES = [
    ("version 2 says the same", "invoices-v1", "invoices-v2", [], [], []),
    ("a measure more", "[sum, avg]", "[sum, avg, max]", ["amount may be measured by max"], [], []),
    (
        "a dimension less",
        "[industry, quarter]",
        "[industry]",
        [],
        [
            "quarter may be filtered by equality",
            "quarter may be filtered by membership",
            "quarter may be filtered by null",
            "quarter may be grouped",
        ],
        [],
    ),
    (
        "another filter",
        "year: equality",
        "year: pattern",
        ["year may be filtered by pattern"],
        ["year may be filtered by equality"],
        [],
    ),
    ("rows no longer counted", ', "*": [count]', "", [], ["rows may be measured by count"], []),
    ("another asker", "[hk-bank]", "[hk-insurer]", ["asking by hk-insurer"], ["asking by hk-bank"], []),
    ("everybody", "[hk-bank]", "any", ["asking by anybody but hk-bank"], [], []),
    ("another purpose", "[credit-risk]", "[credit-risk, audit]", ["purpose audit"], [], []),
    ("fewer places", "[CN-SZ, HK]", "[HK]", [], ["processing in CN-SZ"], []),
    ("places unlimited", "processing: [CN-SZ, HK], ", "", ["processing in any place but CN-SZ, HK"], [], []),
    ("begins later", "2026-01-01", "2026-02-01", [], ["from: 2026-01-01 becomes 2026-02-01"], []),
    ("never ends", ", until: 2027-12-31", "", ["until: 2027-12-31 becomes no end"], [], []),
    (
        "elapses",
        "until: 2027-12-31",
        "until: 2027-12-31, elapsed: P1M",
        [],
        ["when.elapsed: none becomes P1M"],
        [],
    ),
    ("more uses", "count: 200", "count: 300", ["uses.count: 200 per month becomes 300 per month"], [], []),
    ("other uses", "per: month", "per: day", [], [], ["uses.count: 200 per month becomes 200 per day"]),
    (
        "a share",
        "  bounds:",
        "  dominance: {share_at_most: 0.70}\n  bounds:",
        [],
        ["analysis.dominance: none becomes {share_at_most: 0.7}"],
        [],
    ),
    (
        "suppressions",
        "  bounds:",
        "  suppressions: {complementary: true}\n  bounds:",
        [],
        ["analysis.suppressions: none becomes {complementary: true, count: shown}"],
        [],
    ),
    (
        "differencing",
        "  bounds:",
        "  differencing: {minimum_difference: 3}\n  bounds:",
        [],
        ["analysis.differencing: none becomes {minimum_difference: 3}"],
        [],
    ),
    (
        "rows of one company",
        "  bounds:",
        "  max_rows_per_identity: 3\n  max_cells_per_identity: 4\n  bounds:",
        [],
        ["analysis.max_rows_per_identity: none becomes 3", "analysis.max_cells_per_identity: none becomes 4"],
        [],
    ),
    (
        "one reviewed question",
        "  bounds:",
        f"  templates: [a@{'1' * 64}]\n  bounds:",
        [],
        [f"a question that is any but a@{'1' * 64}"],
        [],
    ),
    (
        "another identity",
        "  identity: company_id",
        "  identity: tax_no",
        [],
        [],
        ["analysis.identity: company_id becomes tax_no"],
    ),
    (
        "a mask of what nobody uses",
        "duties",
        "masking: {x: redact}\nduties",
        [],
        [],
        ["masking.x: none becomes redact"],
    ),
    ("more at once", "max_concurrent: 2", "max_concurrent: 3", ["concurrent queries: 2 becomes 3"], [], []),
    ("rows", "count: 200", "count: 200, rows: 9", [], ["uses.rows: any number becomes 9 per month"], []),
    ("lower grade", "grade_at_most: 2", "grade_at_most: 0", [], ["grade of a column: 2 becomes 0"], []),
    (
        "looser level",
        "cardinality",
        "receiver",
        ["disclosure of join keys: cardinality becomes receiver"],
        [],
        [],
    ),
    (
        "no join",
        "  join: {columns: [company_id], disclosure: cardinality, operators: [and]}\n",
        "",
        [],
        [
            "company_id may be joined",
            "join conditions combined with and",
            "disclosure of join keys: cardinality becomes no join",
        ],
        [],
    ),
    (
        "own data required",
        "disclosure: cardinality",
        "disclosure: cardinality, required: asker",
        [],
        ["joining the asker's own data: not required becomes required"],
        [],
    ),
    (
        "smaller groups",
        "minimum_identities: 10",
        "minimum_identities: 5",
        ["minimum of identities: 10 becomes 5"],
        [],
        [],
    ),
    ("no minimum", "  minimum_identities: 10\n", "", ["minimum of identities: 10 becomes none"], [], []),
    (
        "weights",
        "  bounds:",
        "  weighted: true\n  bounds:",
        ["weights of the asker: refused becomes allowed"],
        [],
        [],
    ),
    (
        "fewer keys",
        "maximum_peer_keys: 100000",
        "maximum_peer_keys: 99",
        [],
        ["keys of the other side: 100000 becomes 99"],
        [],
    ),
    (
        "another function",
        "[date_trunc]",
        "[coalesce]",
        ["the scalar function coalesce"],
        ["the scalar function date_trunc"],
        [],
    ),
    ("more witnesses", "minimum_witnesses: 1", "minimum_witnesses: 3", [], ["witnesses: 1 becomes 3"], []),
    (
        "other bounds",
        "[0, 1000000000]",
        "[0, 5]",
        [],
        [],
        ["analysis.bounds.amount: [0, 1000000000] becomes [0, 5]"],
    ),
    ("same bounds otherwise", "[0, 1000000000]", "[0.0, 1000000000.00]", [], [], []),
    (
        "a domain",
        "  bounds:",
        "  domains: {quarter: [q1]}\n  bounds:",
        [],
        [],
        ["analysis.domains.quarter: none becomes [q1]"],
    ),
    (
        "a declared duty",
        "duties: [",
        "duties: [{pass_on: never, declared: true}, ",
        [],
        [],
        ["declared.duties.pass_on: none becomes never"],
    ),
    (
        "a basis",
        "grade_at_most: 2",
        "grade_at_most: 2, basis: x",
        [],
        [],
        ["declared.transfer.basis: none becomes x"],
    ),
    (
        "another dataset",
        "sz-trade.invoices",
        "sz-trade.orders",
        [],
        [],
        ["dataset: sz-trade.invoices becomes sz-trade.orders"],
    ),
]


WHEN = "when: {from: 2026-01-01, until: 2027-12-31}\n"
WHERE = "where: {processing: [CN-SZ, HK], recipients: [HK]}\n"
CHANGES += [
    (
        "no time",
        WHEN,
        "",
        ["from: 2026-01-01 becomes always", "until: 2027-12-31 becomes no end"],
        [],
        [],
    ),
    (
        "no places",
        WHERE,
        "",
        ["processing in any place but CN-SZ, HK", "recipients in any place but HK"],
        [],
        [],
    ),
    ("no grades", "transfer: {grade_at_most: 2}\n", "", ["grade of a column: 2 becomes any"], [], []),
    (
        "no keys",
        "  maximum_peer_keys: 100000\n",
        "",
        ["keys of the other side: 100000 becomes any number"],
        [],
        [],
    ),
    ("any number at once", ", max_concurrent: 2", "", ["concurrent queries: 2 becomes any number"], [], []),
    (
        "lists",
        "kinds: [aggregate]\n  join: {columns: [company_id], disclosure: cardinality, ",
        (
            "kinds: [aggregate, list]\n  payload: [note]\n"
            "  join: {columns: [company_id, tax_no], disclosure: rows, "
        ),
        [
            "list analyses",
            "note may be listed",
            "tax_no may be joined",
            "disclosure of join keys: cardinality becomes rows",
        ],
        [],
        [],
    ),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[0])
def test_diff(invoices_text, invoices, change):
    _, before, after, allowed, forbidden, other = change
    assert before in invoices_text
    new = load(invoices_text.replace(before, after))
    found = diff(invoices, new)
    assert (found.allowed, found.forbidden, found.other) == (allowed, forbidden, other)
    assert found.empty == (not allowed and not forbidden and not other)
    back = diff(new, invoices)
    assert len(back.allowed) == len(forbidden)
    assert len(back.forbidden) == len(allowed)


def test_declared_labels_are_said_to_be_the_only_ones_where_they_are(invoices_text):
    """Without noise and federation a group has whatever label the data has."""
    declared = invoices_text.replace("  bounds:", "  domains: {industry: [food]}\n  bounds:")
    federation = "federation: {name: loans, scope: local, minimum_participants: 3}"
    pooled = declared.replace("  bounds:", f"  {federation}\n  bounds:")
    only = "groups have only the labels that are declared of: industry"
    assert [only in str(described(load(text), {})) for text in (declared, pooled)] == [False, True]


def test_diff_of_who_stands_beside_in_a_federation(invoices):
    def beside(*names):
        words = {"name": "loans", "scope": "local", "minimum_participants": 2}
        federation = Federation(**words, participants=names or None)
        return invoices.model_copy(
            update={"analysis": invoices.analysis.model_copy(update={"federation": federation})}
        )

    anybody, two, one = beside(), beside("a", "b"), beside("a")
    assert diff(anybody, two).forbidden == ["standing beside it in a federation: anybody but a, b"]
    assert diff(two, anybody).allowed == ["standing beside it in a federation: anybody but a, b"]
    assert diff(one, two).allowed == ["standing beside it in a federation: b"]
    assert diff(two, one).forbidden == ["standing beside it in a federation: b"]
    assert not any(found.other for found in (diff(anybody, two), diff(one, two)))
    joined, left = diff(invoices, one), diff(one, invoices)
    assert joined.allowed == left.forbidden == ["taking part in the federation loans"]
    assert joined.forbidden == left.allowed == ["questions over this dataset without a federation"]


def test_diff_of_federations(invoices):
    def summed(**words):
        named = Federation(**{"name": "loans", "scope": "local", "minimum_participants": 3, **words})
        return invoices.model_copy(
            update={"analysis": invoices.analysis.model_copy(update={"federation": named})}
        )

    fewer = "participants behind a group of a federation: 3 becomes 2"
    assert diff(summed(), summed(minimum_participants=2)) == Diff(allowed=[fewer])
    more = "participants behind a group of a federation: 3 becomes 4"
    assert diff(summed(), summed(minimum_participants=4)) == Diff(forbidden=[more])
    scope = "analysis.federation.scope: local becomes total"
    assert diff(summed(), summed(scope="total")) == Diff(other=[scope])


def test_diff_says_what_changes_inside_a_group_of_words(invoices_text):
    bounded = "  max_rows_per_identity: 5\n  max_cells_per_identity: 1\n  domains: {quarter: [q1, q2]}\n"
    noise = "  noise: {mechanism: discrete-gaussian, rho_per_query: 0.05, budget: {rho: 1.0, per: year}}\n"
    old = load(invoices_text.replace("  bounds:", bounded + noise + "  bounds:"))
    new = load(
        invoices_text.replace("  bounds:", bounded + noise + "  bounds:")
        .replace("0.05", "0.1")
        .replace("1.0, per: year", "2, per: week")
        .replace("[q1, q2]", "[q2, true, 7]")
    )
    assert diff(old, new) == Diff(
        other=[
            "analysis.domains.quarter: [q1, q2] becomes [q2, true, 7]",
            "analysis.noise.rho_per_query: 0.05 becomes 0.1",
            "analysis.noise.budget.rho: 1 becomes 2",
            "analysis.noise.budget.per: year becomes week",
        ]
    )
    limited = old.model_copy(
        update={"analysis": old.analysis.model_copy(update={"noise": None, "max_rows_per_identity": 6})}
    )
    assert diff(old, limited).other == [
        "analysis.max_rows_per_identity: 5 becomes 6",
        "analysis.noise.mechanism: discrete-gaussian becomes none",
        "analysis.noise.rho_per_query: 0.05 becomes none",
        "analysis.noise.budget.rho: 1 becomes none",
        "analysis.noise.budget.per: year becomes none",
    ]


@pytest.mark.parametrize("word", ["rows", "bytes"])
def test_diff_of_what_may_be_answered(invoices, word):
    def limited(**uses):
        return invoices.model_copy(update={"uses": Uses(count=200, max_concurrent=2, **uses)})

    few, more = limited(**{word: 5, "per": "month"}), limited(**{word: 50, "per": "month"})
    assert diff(few, more) == Diff(allowed=[f"uses.{word}: 5 per month becomes 50 per month"])
    assert diff(more, few) == Diff(forbidden=[f"uses.{word}: 50 per month becomes 5 per month"])
    daily = diff(few, limited(**{word: 50, "per": "day"}))
    assert (daily.allowed, daily.forbidden) == ([], [])
    assert f"uses.{word}: 5 per month becomes 50 per day" in daily.other
    assert diff(few, limited(**{word: 5, "per": "day"})).other
    assert diff(few, limited()) == Diff(
        allowed=[f"uses.{word}: 5 per month becomes any number"],
        other=["uses.count: 200 per month becomes 200 per agreement"],
    )


REFERENCE, ANOTHER = "gba@" + "1" * 64, "gba@" + "2" * 64


@pytest.mark.parametrize(
    ("word", "limits"), [("consent", True), ("whitelist", True), ("negative_list", True), ("low_risk", False)]
)
def test_diff_of_consent_and_lists(invoices, word, limits):
    one, two = ("set-1", "set-2") if word == "consent" else (REFERENCE, ANOTHER)

    def naming(value):
        return invoices.model_copy(update={"transfer": invoices.transfer.model_copy(update={word: value})})

    added, removed = diff(invoices, naming(one)), diff(naming(one), invoices)
    sentences = [[f"transfer.{word}: none becomes {one}"], [f"transfer.{word}: {one} becomes none"]]
    found = [added.forbidden, removed.allowed] if limits else [added.allowed, removed.forbidden]
    assert found == sentences
    assert added.other == removed.other == []
    replaced = diff(naming(one), naming(two))
    assert replaced.other == [f"transfer.{word}: {one} becomes {two}"]
    assert replaced.allowed == replaced.forbidden == []


@pytest.mark.parametrize("text", ["a", "x" * 128, "企业登记/信用", "trade value"])
def test_what_a_category_is(text):
    assert category(text) == text


@pytest.mark.parametrize("text", ["", "x" * 129, " a", "a ", "a\nb", "a\u202eb", "\ud800"])
def test_what_no_category_is(text):
    with pytest.raises(ValueError, match="128 printable"):
        category(text)


def test_matrix_of_lists(invoices):
    transfer = invoices.transfer.model_copy(update={"whitelist": REFERENCE})
    listed = invoices.model_copy(update={"transfer": transfer})
    categories = {"company_id": "a", "industry": "b", "amount": "a"}
    said = {REFERENCE: TransferList("whitelist", "x", "CN", "2026-01-01", frozenset({"a"}))}
    rows = {row.column: row for row in matrix(listed, GRADES, categories, said)}
    assert {name for name, row in rows.items() if row.usable} == {"company_id", "amount", "*"}
    assert (rows["amount"].category, rows["phone"].category) == ("a", None)
    both = listed.model_copy(update={"transfer": transfer.model_copy(update={"negative_list": ANOTHER})})
    for missing in ({}, said):
        assert {row.column for row in matrix(both, GRADES, categories, missing) if row.usable} == {"*"}


def test_obligations(invoices, invoices_text):
    demands = obligations(invoices)
    assert (demands.identity, demands.minimum_identities, demands.witnesses) == ("company_id", 10, 1)
    assert [str(bound) for bound in demands.bounds["amount"]] == ["0", "1000000000"]
    free = invoices_text.replace("  minimum_identities: 10\n", "").replace("duties", "# duties")
    assert (obligations(load(free)).minimum_identities, obligations(load(free)).witnesses) == (1, 0)


NAMES = {Party.RECEIVER: "hk-bank", Party.SENDER: "sz-trade"}


def test_sentences_name_both_parties_and_the_gate():
    event = Disclosure(Party.RECEIVER, Fact.OWN_MATCHES)
    assert sentence(event, NAMES) == (
        "hk-bank's connector learns which of its own keys sz-trade also has, before any threshold"
    )
    assert (
        sentence(event, NAMES, "zh") == "hk-bank 的连接器获知自己的哪些键 sz-trade 也有(在任何阈值检查之前)"
    )
    gated = Disclosure(Party.SENDER, Fact.RELEASED_CELLS, gated=True)
    assert sentence(gated, NAMES) == "sz-trade learns the cells of the result, after the owner's thresholds"


def test_every_event_has_its_own_sentence_in_both_languages():
    events = [
        Disclosure(to, fact, gated) for to, fact, gated in itertools.product(Party, Fact, (True, False))
    ]
    for lang in ("en", "zh"):
        sentences = [sentence(event, NAMES, lang) for event in events]
        assert len(set(sentences)) == len(events)
        assert not any("{" in text for text in sentences)
