"""Reviewed queries across real connectors: what is agreed, what is asked, what is refused by either side."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from compute import templates
from compute.errors import ConfigError, PeerViolation, PolicyRefusal
from connector import config, inquiry, references
from connector.cli import app
from connector.contract import Agreement

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
TEMPLATE = """\
template: by-industry
title: Sum of the larger invoices by industry
parameters:
  least: {type: integer, least: 0, most: 1000}
sql: |
  SELECT i.industry, sum(i.amount) AS total, count(*) AS n
  FROM sz-trade.reviewed i JOIN asker.credit c ON i.company_id = c.company_id
  WHERE i.amount > $least
  GROUP BY i.industry
"""
REFERENCE = templates.parse(TEMPLATE).reference
SQL = (
    "SELECT i.industry, sum(i.amount) AS total, count(*) AS n FROM sz-trade.reviewed i "
    "JOIN hk-bank.credit c ON i.company_id = c.company_id WHERE i.amount > {} GROUP BY i.industry"
)


def offer_reviewed(space, text=TEMPLATE, reference=REFERENCE):
    """Publish the invoices once more, to be asked by template alone."""
    settings = config.load(space.folder / OWNER)
    policy = (settings.policies_folder / "matched.yaml").read_text().replace("matched", "reviewed")
    policy = policy.replace("analysis:\n", f"analysis:\n  templates: [{reference}]\n")
    (settings.policies_folder / "templates").mkdir(exist_ok=True)
    (settings.policies_folder / "templates" / "by-industry.yaml").write_text(text)
    space.offer_invoices("reviewed", policy)


@pytest.fixture(scope="module")
def reviewed(shared):
    offer_reviewed(shared)
    shared.agree("reviewed")
    # the agreement carries the text: what becomes of the file does not matter
    shutil.rmtree(config.load(shared.folder / OWNER).policies_folder / "templates")
    return shared


def test_an_instance_is_answered_and_explained(reviewed, pooled):
    expected = pooled(
        "SELECT industry, sum(amount) AS total, count(*) AS n FROM invoices JOIN credit USING (company_id) "
        "WHERE amount > 100 GROUP BY industry HAVING count(DISTINCT company_id) >= 3"
    )
    answer = reviewed.asker.query(SQL.format(100), purpose=PURPOSE)
    assert sorted(answer.table.to_pylist(), key=str) == sorted(expected, key=str)
    assert reviewed.asker.explain(SQL.format(7), PURPOSE)["template"] == REFERENCE


@pytest.mark.parametrize(
    "sql", [SQL.format(1001), SQL.format(5) + " LIMIT 1", SQL.format("5 AND i.amount < 7")]
)
def test_another_query_is_refused_by_the_asker_s_connector(reviewed, sql):
    with pytest.raises(PolicyRefusal) as refused:
        reviewed.asker.query(sql, purpose=PURPOSE)
    assert [reason.code for reason in refused.value.decision.because] == ["template.not-matched"]


def test_and_by_the_owner_s_whatever_the_asker_s_says(reviewed, monkeypatch):
    monkeypatch.setattr(inquiry, "template_of", lambda *_: REFERENCE)
    with pytest.raises(PolicyRefusal) as refused:
        reviewed.asker.query(SQL.format(1001), purpose=PURPOSE)
    assert refused.value.code == "template.not-matched"
    assert reviewed.evidence(OWNER)[-1] == ["query.refusal"]


def test_asked_by_name_and_parameters(reviewed, monkeypatch):
    monkeypatch.setenv("BAYSPACE_CONFIG", str(reviewed.folder / ASKER))
    listed = CliRunner().invoke(app, ["template", "list", "--json"], catch_exceptions=False)
    assert [row["template"] for row in json.loads(listed.stdout)] == [REFERENCE]
    command = ["query", "--template", "by-industry", "--with", "least=100", "--purpose", PURPOSE]
    asked = CliRunner().invoke(app, [*command, "--format", "json"], catch_exceptions=False)
    answer = reviewed.asker.query(SQL.format(100), purpose=PURPOSE)
    assert asked.exit_code == 0
    assert len(json.loads(asked.stdout)["rows"]) == len(answer.table)
    with pytest.raises(ConfigError, match=r"template\.parameter"):
        CliRunner().invoke(app, [*command, "--with", "least=-1"], catch_exceptions=False)
    with pytest.raises(ConfigError, match=r"query\.text"):
        CliRunner().invoke(app, [*command, "SELECT 1"], catch_exceptions=False)


def test_agreements_show_documents_and_both_signatures(reviewed, monkeypatch):
    for name in (OWNER, ASKER):
        monkeypatch.setenv("BAYSPACE_CONFIG", str(reviewed.folder / name))
        listed = json.loads(CliRunner().invoke(app, ["agreement", "list", "--json"]).stdout)
        (found,) = [one for one in listed if one["offer"] == "reviewed"]
        assert found["documents"] == {REFERENCE: TEMPLATE}
        assert {(s["participant"], s["verified"]) for s in found["signatures"]} == {
            (OWNER, True),
            (ASKER, True),
        }
        table = CliRunner().invoke(app, ["agreement", "list"], env={"COLUMNS": "200"}, catch_exceptions=False)
        assert "sz-trade, hk-bank" in table.stdout or "hk-bank, sz-trade" in table.stdout


def agreement_of(space):
    record = next(a for a in space.nodes[ASKER].store.agreements() if a.offer == "reviewed")
    return Agreement.parse(record.document)


@pytest.mark.parametrize(
    "documents", [{}, {REFERENCE: TEMPLATE + "\n"}, {REFERENCE: TEMPLATE, "more@" + "0" * 64: TEMPLATE}]
)
def test_documents_are_exactly_those_that_the_policy_names(reviewed, documents):
    with pytest.raises(ConfigError, match=r"reference\."):
        references.checked(agreement_of(reviewed).policy, documents)


def test_an_agreement_s_documents_are_texts(reviewed):
    document = agreement_of(reviewed).to_bytes()
    value = json.loads(document)
    for wrong in ({}, {"x": 1}, []):
        changed = json.dumps({**value, "documents": wrong}, sort_keys=True, separators=(",", ":"))
        with pytest.raises(PeerViolation, match=r"contract\.malformed"):
            Agreement.parse(changed.encode())


def test_a_text_that_was_changed_is_not_published(fresh):
    with pytest.raises(ConfigError, match=r"reference\.differs"):
        offer_reviewed(fresh, TEMPLATE.replace("most: 1000", "most: 1001"))
    with pytest.raises(ConfigError, match=r"reference\.missing"):
        offer_reviewed(fresh, reference="other@" + REFERENCE.partition("@")[2])


def test_the_command_prints_what_a_policy_writes(tmp_path):
    file = tmp_path / "by-industry.yaml"
    file.write_text(TEMPLATE)
    done = CliRunner().invoke(app, ["template", "digest", str(file)], catch_exceptions=False)
    assert done.stdout.strip() == REFERENCE
