"""What the text of a policy may be, what names a document, and the words for what is revealed."""

import hashlib
from decimal import Decimal

import pytest

from policy_enforcer import yamltree
from policy_enforcer.decide import security_level
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party
from policy_enforcer.load import lint, load
from policy_enforcer.references import name_of, named, reference
from policy_enforcer.yamltree import Tree, parse

# -- single words


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("false", False),
        ('"true"', "true"),
        ("0", 0),
        ("-1", -1),
        ("9" * 38, int("9" * 38)),
        ("0.5", Decimal("0.5")),
        ("-1.50", Decimal("-1.50")),
        ("1." + "1" * 18, Decimal("1." + "1" * 18)),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T08:00:00+08:00", "2026-01-31T08:00:00+08:00"),
        ("'1'", "1"),
        ('"no"', "no"),
        ("|\n  yes", "yes"),
        ("nan", "nan"),
        ("noo", "noo"),
        ("１２", "１２"),  # digits elsewhere are letters here
        ("１.２", "１.２"),
        ("１e２", "１e２"),
    ],
)
def test_a_word_is_what_every_reader_takes_it_for(written, value):
    tree = parse(f"word: {written}")
    assert tree.problems == []
    assert tree.data == {"word": value}
    assert type(tree.data["word"]) is type(value)


AMBIGUOUS = [
    *("True", "FALSE", "yes", "No", "on", "OFF", "y", "Y", "n", "N", "=", "1:30"),
    *("-0", "007", "+1", "1_000", "0x1F", "0b1", "0o17", "0O17", "1e9", "1E9", "-1e-9", ".5e1"),
    *("1.", ".5", "00.5", ".inf", "-.INF", ".NaN"),
]


@pytest.mark.parametrize("written", [*AMBIGUOUS, "9" * 39, "1." + "1" * 19])
def test_a_word_that_readers_take_for_different_things_is_refused(written):
    assert [(p.code, p.path) for p in parse(f"word: {written}").problems] == [("yaml.ambiguous", "word")]


@pytest.mark.parametrize("written", ["", "~", "null", "Null", "{a: }", "[~]"])
def test_no_value_is_refused(written):
    assert [p.code for p in parse(f"word: {written}").problems] == ["yaml.empty"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1: a", "yaml.key"),
        ("true: a", "yaml.key"),
        ("1.5: a", "yaml.key"),
        ("[a]: b", "yaml.key"),
        ("{a: b}: c", "yaml.key"),
        ("a: {b: 1, c: 2, b: 1}", "yaml.duplicate-key"),
        ("a: 1\n'a': 2", "yaml.duplicate-key"),
        ("a: &x b", "yaml.anchor"),
        ("a: &x [b]", "yaml.anchor"),
        ("a: &x {b: c}", "yaml.anchor"),
        ("a: *x", "yaml.anchor"),
        ("a: !x b", "yaml.tag"),
        ("a: ! b", "yaml.tag"),
        ("a: !!map {}", "yaml.tag"),
        ("a: !!seq []", "yaml.tag"),
        ("%TAG ! tag:x,2026:\n---\na: b", "yaml.tag"),
        ("%YAML 1.2\n---\na: b", "yaml.tag"),
        ("a: b\n---\nc: d", "yaml.several"),
        ("a: [b", "yaml.syntax"),
        ("a: b: c", "yaml.syntax"),
        ("a\tb: [", "yaml.syntax"),
        ('a: "\\UFFFFFFFF"', "yaml.syntax"),
        ('a: "\\U00110000"', "yaml.syntax"),
        ("word", "yaml.not-a-policy"),
        ("# nothing", "yaml.not-a-policy"),
    ],
)
def test_what_no_policy_needs_is_refused(text, code):
    assert [p.code for p in parse(text).problems] == [code]


def test_quoted_keys_are_words():
    assert parse('"1": a\n"no": [b, {c: d}]').data == {"1": "a", "no": ["b", {"c": "d"}]}


def test_how_deep_a_policy_may_be():
    assert parse("a: " + "[" * 11 + "]" * 11).problems == []
    assert [p.code for p in parse("a: " + "[" * 12 + "]" * 12).problems] == ["yaml.too-deep"]
    assert parse("a: [" + "[], {}, " * 20 + "]").problems == []  # beside one another they are not deep


def test_how_long_a_policy_may_be():
    assert yamltree.MAXIMUM_CHARACTERS == 262144
    yamltree.MAXIMUM_CHARACTERS = 20
    try:
        assert parse("a: '56789 123456789'").problems == []
        assert [p.code for p in parse("a: '56789 1234567890'").problems] == ["yaml.too-large"]
    finally:
        yamltree.MAXIMUM_CHARACTERS = 262144


# -- places

TEXT = """\
one: 1
two:
  list: [x, {k: 5}, yes, 0]
  word: on
"""


def test_problems_stand_where_they_are():
    assert [(p.path, p.line, p.column) for p in parse(TEXT).problems] == [
        ("two.list[2]", 3, 21),
        ("two.word", 4, 9),
    ]
    assert [(p.line, p.column) for p in parse("a: b\n c: [").problems] == [(2, 3)]
    assert [(p.line, p.column) for p in parse("a: b\nc: *d").problems] == [(2, 4)]
    assert [(p.line, p.column) for p in parse('a: "\\U00110001"').problems] == [(1, 1)]
    assert [(p.line, p.column) for p in parse("\n- list").problems] == [(1, 1)]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), (1, 1)),
        (("one",), (1, 1)),
        (("one", "within"), (1, 1)),
        (("two",), (2, 1)),
        (("two", "list"), (3, 3)),
        (("two", "list", 0), (3, 10)),  # by its number, although the last item is 0
        (("two", "list", "x"), (3, 10)),
        (("two", "list", "k"), (3, 13)),
        (("two", "list", 1, "k"), (3, 14)),
        (("two", "list", "elsewhere"), (3, 3)),
        (("two", "list", 4), (3, 3)),
        (("two", "elsewhere", "deeper"), (2, 1)),
        (("elsewhere",), (1, 1)),
    ],
)
def test_a_place_or_its_nearest_ancestor(path, place):
    assert parse(TEXT).where(path) == place


def test_without_a_place_the_first_line_is_named():
    tree = Tree()
    tree.add("code", ("a", 0), None, "sentence", "Write another.")
    (problem,) = tree.problems
    assert (problem.code, problem.path, problem.line, problem.column) == ("code", "a[0]", 1, 1)
    assert tree.where(("a",)) == (1, 1)


# -- what lint adds to what load says

WIDE = """\
policy: p
dataset: a.b
assignee: [c]
purpose: [why]
uses: {count: 5}
analysis:
  kinds: [aggregate, list]
  join: {columns: [k1], disclosure: rows}
  dimensions: [d1]
  payload: [p1]
  filters: {f1: range}
  measures: {m1: sum, "*": count}
  bounds: {b1: [0, 1]}
  column_disclosure: {c1: {any: after-aggregate}}
  identity: k1
  minimum_identities: 3
masking: {p1: redact}
"""


def test_lint_names_every_column_that_the_dataset_lacks():
    unknown = [p for p in lint(WIDE, columns=["x"]) if p.code == "policy.unknown-column"]
    assert [(p.path, p.line) for p in unknown] == [
        ("analysis.join.columns.k1", 8),
        ("analysis.dimensions.d1", 9),
        ("analysis.payload.p1", 10),
        ("analysis.filters.f1", 11),
        ("analysis.measures.m1", 12),
        ("analysis.bounds.b1", 13),
        ("analysis.column_disclosure.c1", 14),
        ("analysis.identity", 15),
        ("masking.p1", 17),
    ]
    assert not any(p.warning for p in unknown)
    alone = [
        line
        for line in WIDE.replace(", list", "").splitlines()
        if line.partition(":")[0].strip()
        not in ("join", "payload", "identity", "minimum_identities", "masking")
    ]
    found = [p.path for p in lint("\n".join(alone), columns=["x"]) if p.code == "policy.unknown-column"]
    named = ("dimensions.d1", "filters.f1", "measures.m1", "bounds.b1", "column_disclosure.c1")
    assert found == [f"analysis.{column}" for column in named]


def test_problems_of_one_line_come_in_its_order():
    text = WIDE.replace("{count: 5}", "{max_concurrent: 0, count: 0}")
    assert [p.path for p in lint(text)] == ["uses.max_concurrent", "uses.count"]


def test_ways_of_becoming_known_are_a_set():
    one, other = (
        WIDE.replace("after-aggregate", f"[{ways}]")
        for ways in ("after-compare, after-aggregate", "after-aggregate, after-compare")
    )
    assert load(one) == load(other)
    twice = lint(WIDE.replace("after-aggregate", "[after-aggregate, after-aggregate]"))
    assert [(p.code, p.path) for p in twice] == [("policy.bad-value", "analysis.column_disclosure.c1.any")]


KEY = f"a@{'1' * 64}"


@pytest.mark.parametrize(
    ("written", "loads"),
    [
        ("connectors: []", False),
        (f'connectors: ["{KEY}", "{KEY}"]', False),
        (f'connectors: ["{KEY[:-1]}"]', False),
        (f'connectors: ["{KEY}"]', True),
        ("security_level: 0", False),
        ("security_level: 1", True),
        ("security_level: 99", True),
        ("security_level: 100", False),
        ("security_level: true", False),
    ],
)
def test_what_conditions_say(written, loads):
    problems = [p for p in lint(WIDE + f"conditions: {{{written}}}\n") if not p.warning]
    assert (problems == []) is loads


# -- documents named by their digest


def test_a_document_is_named_by_the_digest_of_its_bytes():
    digest = hashlib.sha256("名单".encode()).hexdigest()
    assert reference("list", "名单") == f"list@{digest}"
    assert name_of(f"list@{digest}") == "list"


def test_every_document_of_a_policy_is_named_with_its_kind():
    one, two, three = (f"d{n}@{str(n) * 64}" for n in (1, 2, 3))
    templates = WIDE.replace("analysis:\n", f'analysis:\n  templates: ["{one}", "{two}"]\n')
    assert list(named(load(WIDE))) == []
    assert list(named(load(WIDE + "transfer: {grade_at_most: 1}\n"))) == []
    assert list(named(load(templates))) == [("template", one), ("template", two)]
    lists = f'transfer: {{negative_list: "{two}", whitelist: "{one}", low_risk: "{three}"}}\n'
    assert list(named(load(WIDE + lists))) == [("list", one), ("list", two), ("list", three)]


# -- levels and disclosures


def test_a_security_level_is_the_highest_that_is_certified():
    assert security_level(()) == security_level(("claim:security-level-0", "role:bank")) == 0
    assert (
        security_level(("claim:security-level-2", "claim:security-level-10", "claim:security-level-100"))
        == 10
    )


def test_levels_go_from_hidden_to_rows():
    words = ["hidden", "cardinality", "receiver", "rows"]
    assert [level.word for level in sorted(Level)] == words
    assert [Level.parse(word) for word in words] == [0, 1, 2, 3]
    for word in ("HIDDEN", "public", ""):
        with pytest.raises(KeyError):
            Level.parse(word)


def test_disclosures_are_written_with_their_gate():
    shown = Disclosure(Party.RECEIVER, Fact.RELEASED_CELLS, gated=True)
    assert shown.as_json() == {"to": "receiver", "fact": "released-cells", "gated": True}
    assert Disclosure(Party.SENDER, Fact.PADDED_SIZE).as_json()["gated"] is False
