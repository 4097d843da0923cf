"""docs/reference/policy.md says what the code does: its examples run, its tables hold every word and code."""

import re
from pathlib import Path
from textwrap import dedent
from typing import get_args

import pytest
import yaml

from policy_enforcer import check, explained, load, model, odrl, yamltree
from policy_enforcer.codes import REASONS
from policy_enforcer.examples import Example, case, parse_examples, run_examples
from policy_enforcer.load import lint

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "policy.md").read_text("utf-8")
CHINESE = TEXT.split("## 中文摘要")[1]


def blocks():
    return [dedent(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]


def test_the_policy_loads_without_a_warning():
    policy, *_ = blocks()
    assert lint(policy) == ()


def test_the_examples_pass():
    text, *_, examples = blocks()
    policy = load.load(text)
    outcomes = run_examples(policy, [case(policy, example) for example in parse_examples(examples)])
    assert [o for o in outcomes if not o.passed] == []
    assert len(outcomes) == 3
    assert len(QUERIES) == 28


def test_every_reason_code_stands_there_with_its_meaning():
    section = TEXT.split("## Reason codes")[1].split("\n## ")[0]
    assert dict(re.findall(r"\| `([a-z.-]+)` \| (.*) \|", section)) == dict(REASONS)


def test_every_problem_code_stands_there():
    section = TEXT.split("## Problems when loading")[1].split("\n## ")[0]
    sources = [
        Path(module.__file__).read_text("utf-8") for module in (check, explained, load, odrl, yamltree)
    ]
    used = set(re.findall(r'"((?:yaml|policy|odrl)\.[a-z-]+)"', "".join(sources)))
    assert set(re.findall(r"`((?:yaml|policy|odrl)\.[a-z-]+)`", section)) == used


def words_of(group):
    return [field.alias or name for name, field in group.model_fields.items()]


GROUPS = [
    model.Policy,
    model.Where,
    model.When,
    model.Conditions,
    model.Declared,
    model.Uses,
    model.Transfer,
    model.Join,
    model.Analysis,
    model.Noise,
    model.Dominance,
    model.Suppressions,
    model.Differencing,
    model.Federation,
]


@pytest.mark.parametrize("group", [*GROUPS, Example], ids=lambda group: group.__name__)
def test_every_word_stands_there(group):
    assert [word for word in words_of(group) if not re.search(rf"[`.]{word}\b", TEXT)] == []


SECTION = TEXT.split("## Word by word")[1].split("\n## ")[0]
FRAGMENTS = re.findall(r"^#### (.*?)$.*?^```yaml\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)


def merged(data, more):
    inner = {
        k: merged(data[k], v)
        for k, v in more.items()
        if isinstance(v, dict) and isinstance(data.get(k), dict)
    }
    return {**data, **more, **inner}


@pytest.mark.parametrize(("title", "fragment"), FRAGMENTS, ids=[title for title, _ in FRAGMENTS])
def test_every_fragment_loads(title, fragment):
    base = yamltree.parse(
        "policy: p\ndataset: a.b\nassignee: any\npurpose: any\nuses: {count: 1}\n"
        "analysis: {kinds: [aggregate]}\n"
    )
    tree = yamltree.parse(fragment)
    assert not tree.problems
    policy = model.Policy.model_validate(merged(base.data, tree.data))
    assert [*check.errors(policy)] == []
    assert all(re.search(rf"\b{word}\b", fragment) for word in re.findall(r"`([a-z_]+)`", title))


DUTIES = [model.LogDuty, model.NotifyDuty, model.DeleteDuty, model.PassOnDuty, model.PaymentDuty]


def test_every_word_has_a_fragment():
    titles = {word for title, _ in FRAGMENTS for word in re.findall(r"`([a-z_]+)`", title)}
    assert {word for group in (*GROUPS, *DUTIES) for word in words_of(group)} - titles == set()


def test_every_word_is_of_one_kind():
    section = TEXT.split("## How it is read")[1].split("\n## ")[0]
    rows = re.findall(r"^\| \*(.*?)\* \| (.*?) \| .*\|$", section, re.MULTILINE)
    words = [word for _, named in rows for word in re.findall(r"`([a-z_]+)`", named) if word != "analysis"]
    every = [*words_of(model.Policy), *words_of(model.Analysis)]
    assert sorted(words) == sorted({*every} - {"policy", "dataset", "analysis"})


# -- From SQL to words

NEEDS = TEXT.split("## From SQL to words")[1].split("\n## ")[0]
QUERIES = re.findall(r"^\| `(SELECT .*?)` \| (.*) \|$", NEEDS, re.MULTILINE)
COLUMNS = """\
title: {en: t}
source: {kind: parquet, path: t.parquet}
size: {rows: 4096, keys: 1024}
rights: {holder: sz-trade}
columns:
  company_id: {type: string, key: [trim], unique: UNIQUE}
  industry: {type: string, width: 16}
  day: {type: date, key: []}
  paid: {type: date}
  amount: {type: int64, bounds: [0, 1000]}
  tax: {type: int64, bounds: [0, 100]}
  share: {type: int64, bounds: [0, 9]}
  rating: {type: string}
  note: {type: string, nullable: true}
"""


def lines(cell):
    """The policy's lines of one cell: `measures: {"*": [count]}`, `dimensions: [day]`."""
    return [yamltree.parse(line).data for line in re.findall(r"`(.*?)`", cell)]


def answered(sql, words, folder):
    """The codes that `policy test` gives for this query under a policy of these lines."""
    from connector.policy_examples import outcomes

    policy = {
        "policy": "p",
        "dataset": "sz-trade.invoices",
        "assignee": ["hk-bank"],
        "purpose": ["why"],
        "uses": {"count": 9},
        "analysis": {
            key: value for line in ({"kinds": ["aggregate"]}, *words) for key, value in line.items()
        },
    }
    files = {unique: folder / f"{unique}.yaml" for unique in ("true", "false")}
    for unique, file in files.items():
        file.write_text(COLUMNS.replace("UNIQUE", unique), encoding="utf-8")
    text = re.sub(r"\bFROM (t|i)\b", r"FROM sz-trade.invoices \1", sql)
    example = {"name": "q", "sql": re.sub(r"\bJOIN c\b", "JOIN hk-bank.credit c", text), "expect": "permit"}
    if "federation" in sql:
        example["beside"] = ["mo-bank", "gz-bank"]
    own = files["true" if "rows" in str(words) else "false"]
    (found,) = outcomes(
        model.Policy.model_validate(policy),
        yaml.safe_dump({"tests": [example]}),
        "t",
        own,
        f"hk-bank.credit={files['true']}",
    )
    return found.actual


def removed(words):
    """Those lines with one of them, or one entry of one of them, left out."""
    for number, line in enumerate(words):
        ((word, value),) = line.items()
        rest = [*words[:number], *words[number + 1 :]]
        yield rest
        if word in {"measures", "filters"} and len(value) > 1:
            yield from ([*rest, {word: {k: v for k, v in value.items() if k != key}}] for key in value)
        if word in {"scalar_functions", "dimensions"} and len(value) > 1:
            yield from ([*rest, {word: [v for v in value if v != one]}] for one in value)


@pytest.mark.parametrize(("sql", "cell"), QUERIES, ids=[sql[:60] for sql, _ in QUERIES])
def test_a_query_needs_what_stands_beside_it_and_nothing_less(sql, cell, tmp_path):
    words = lines(cell)
    assert words
    assert answered(sql, words, tmp_path) == frozenset()
    assert [fewer for fewer in removed(words) if not answered(sql, fewer, tmp_path)] == []


@pytest.mark.parametrize(
    "words", [model.FilterKind, model.Measure, model.ScalarFunction, model.KnownWay], ids=str
)
def test_every_value_stands_there(words):
    assert [word for word in get_args(words) if f"`{word}`" not in TEXT] == []


def test_the_chinese_table_has_every_word_that_is_enforced():
    words = {*words_of(model.Policy), *words_of(model.Analysis)} - {"analysis"}
    assert [word for word in sorted(words) if f"`{word}" not in CHINESE] == []
