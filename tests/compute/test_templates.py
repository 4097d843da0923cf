"""Which queries are an instance of a reviewed text, and which texts can be reviewed at all."""

from pathlib import Path

import pytest

from compute import templates
from compute.errors import ConfigError

TEXT = """\
template: exposure
title: Exposure by industry
parameters:
  least: {type: decimal, least: -5, most: 100.5}
  day: {type: date, least: 2020-01-01, most: 2026-12-31}
  word: {type: text, values: ["a'b", c]}
  most: {type: integer, values: [1, 2]}
sql: |
  SELECT i.industry, sum(i.amount) AS total -- $least of asker.x
  FROM sz-trade.invoices i JOIN asker.credit c ON i.company_id = c.company_id
  WHERE i.amount > $least AND i.day >= CAST($day AS DATE) AND i.industry IN ($word, '$word')
  GROUP BY i.industry HAVING sum(i.amount) > $least LIMIT $most
"""
TEMPLATE = templates.parse(TEXT)
VALUES = {"least": "-3", "day": "2021-02-03", "word": "a'b", "most": "2"}
QUERY = TEMPLATE.filled(VALUES, "hk-bank")


def matched(sql, asker="hk-bank"):
    return templates.matching([TEMPLATE], sql, asker) == TEMPLATE.reference


def test_what_is_filled_in_is_an_instance():
    assert matched(QUERY)
    assert "IN ('a''b', '$word')" in QUERY
    assert 'JOIN "hk-bank".credit' in QUERY


def test_layout_comments_and_quotes_are_free():
    laid_out = QUERY.replace("-- $least of asker.x", "/* why */").replace("\n", "  ")
    assert matched(laid_out.replace('"hk-bank"', "hk-bank").replace("SELECT", "select"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("> -3 AND", "> -4 AND"),  # one parameter has one value
        ("-3", "-6"),
        ("-3", "'-3'"),
        ("-3", "- -3"),
        ("-3", "(-3)"),
        ("-3", "-3.0 + 1"),
        ("-3", "i.amount"),
        ("-3", "1e2"),
        ("2021-02-03", "2027-01-01"),
        ("2021-02-03", "20210203"),
        ("a''b", "d"),
        ("'$word'", "'c'"),
        ("LIMIT 2", "LIMIT 3"),
        ("LIMIT 2", ""),
        ("AS total", "AS sum"),
        ("SELECT i.industry,", "SELECT i.industry, i.industry,"),
        ("GROUP BY i.industry", "GROUP BY i.company_id"),
        ("sum(i.amount) AS", "avg(i.amount) AS"),
        ("JOIN", "LEFT JOIN"),
        ("SELECT", "SELECT DISTINCT"),
        ("i.amount > -3 AND", "i.amount >= -3 AND"),
        ("invoices", "others"),
        ('"hk-bank"', "asker"),
        ("WHERE", "WHERE 1 = 1 AND"),
        ("HAVING", "; SELECT"),
    ],
)
def test_anything_else_is_another_query(before, after):
    assert before in QUERY
    assert not matched(QUERY.replace(before, after))


def test_the_asker_s_place_is_the_asker_s():
    assert not matched(QUERY, asker="cn-bank")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {**VALUES, "more": "1"},
        {**VALUES, "least": "-5.01"},
        {**VALUES, "least": "1 OR 1=1"},
        {**VALUES, "least": "--1"},
        {**VALUES, "least": "\u0661"},
        {**VALUES, "word": "a''b"},
        {**VALUES, "most": "1.0"},
        {**VALUES, "day": "2021-2-3"},
    ],
)
def test_values_that_were_not_reviewed_are_refused(values):
    with pytest.raises(ConfigError, match=r"template\.parameter"):
        TEMPLATE.filled(values, "hk-bank")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("title: Exposure by industry\n", ""),
        ("template: exposure", "template: ../exposure"),
        ("least: -5, most: 100.5", "least: -5"),
        ("least: -5, most: 100.5", "values: [true]"),
        ("least: -5, most: 100.5", "values: [[1]]"),
        ("type: decimal", "type: float"),
        ('{type: text, values: ["a\'b", c]}', "{type: text, least: a, most: b}"),
        ("  most: {type: integer, values: [1, 2]}\n", ""),
        ("LIMIT $most", ""),
        ("LIMIT $most", "LIMIT $most; DROP"),
        ("sum(i.amount) AS", "$word(i.amount) AS"),
        ("SELECT i.industry", "SELECT random()"),
    ],
)
def test_texts_that_nobody_can_review_are_refused(before, after):
    assert before in TEXT
    with pytest.raises(ConfigError, match=r"template\.(malformed|sql|parameters?)"):
        templates.parse(TEXT.replace(before, after))


def test_a_template_without_parameters_is_one_query():
    plain = templates.parse("template: t\ntitle: T\nsql: SELECT count(*) FROM a.b\n")
    assert templates.matching([plain], "SELECT  COUNT(*) FROM a.b", "x") == plain.reference
    assert templates.matching([plain], "SELECT count(*) FROM a.c", "x") is None
    assert templates.matching([], "SELECT count(*) FROM a.b", "x") is None


def test_the_template_in_the_reference_can_be_reviewed():
    page = Path(__file__).parents[2] / "docs" / "reference" / "policy.md"
    section = page.read_text("utf-8").split("## Templates")[1]
    template = templates.parse(section.split("```yaml\n")[1].split("```")[0])
    assert set(template.parameters) == {"least", "since", "place"}
