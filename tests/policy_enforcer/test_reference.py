"""docs/reference/policy.md says what the code does: its examples run, its tables hold every word and code."""

import re
from pathlib import Path
from textwrap import dedent
from typing import get_args

import pytest

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


def test_every_word_has_a_fragment():
    titles = {word for title, _ in FRAGMENTS for word in re.findall(r"`([a-z_]+)`", title)}
    top = [
        model.Policy,
        model.Where,
        model.When,
        model.Uses,
        model.Conditions,
        model.Transfer,
        model.Join,
        model.Analysis,
    ]
    assert {word for group in top for word in words_of(group)} - titles == set()


@pytest.mark.parametrize(
    "words", [model.FilterKind, model.Measure, model.ScalarFunction, model.KnownWay], ids=str
)
def test_every_value_stands_there(words):
    assert [word for word in get_args(words) if f"`{word}`" not in TEXT] == []


def test_the_chinese_table_has_every_word_that_is_enforced():
    later = {
        "templates",
        "masking",
    }
    top = [w for w in words_of(model.Policy) if w not in {"analysis", *later}]
    analysis = [w for w in words_of(model.Analysis) if w not in later]
    assert [word for word in (*top, *analysis) if f"`{word}" not in CHINESE] == []
