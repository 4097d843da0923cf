"""Lists of the law: signed documents, whom they are believed of, what they keep from leaving, end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from compute.errors import ConfigError, PolicyRefusal
from connector import config, references, space, transfer_lists
from connector.cli import app
from policy_enforcer.load import load
from witness import dsse
from witness.keys import PrivateKey, PrivateKeys
from witness.members import EvidenceKey, MemberList, Participant
from witness.record import Disclosure

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
NOW = datetime(2026, 11, 22, tzinfo=UTC)
CLOCK = int(NOW.timestamp() * 1000)
KEYS = PrivateKeys([PrivateKey.from_seed(b"1" * 32), PrivateKey.from_seed(b"2" * 32, "ml-dsa-44")])
OTHERS = PrivateKeys([PrivateKey.from_seed(b"3" * 32)])
TEXT = """\
list: gba-2026
kind: whitelist
title: Annex of a filed contract 附件
jurisdiction: CN
recipients: [HK]
from: 2026-01-01
until: 2026-12-31
categories: [trade, 企业登记]
"""


def listed(changes=(), issuer="gd-office", keys=KEYS, at=CLOCK):
    text = TEXT
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    return transfer_lists.sign(transfer_lists.draft(text), issuer, keys, at)


def members(claims=("role:list-issuer",), keys=KEYS, until=None, since=0):
    evidence = tuple(EvidenceKey(key, since, until) for key in keys.public.keys)
    issuer = Participant("gd-office", "connector", evidence, "gd:1", "CN", claims=tuple(claims))
    return MemberList("gba", 1, CLOCK, (issuer,))


SIGNED = listed()


def test_a_signed_list_says_what_its_draft_said():
    document = transfer_lists.verified(SIGNED, members(), NOW, "whitelist")
    assert document.as_json() == {
        "categories": ["trade", "企业登记"],
        "format": "bayspace-list/v1",
        "from": "2026-01-01",
        "id": "gba-2026",
        "issued_at": "2026-11-22T00:00:00.000Z",
        "issuer": "gd-office",
        "jurisdiction": "CN",
        "kind": "whitelist",
        "recipients": ["HK"],
        "title": "Annex of a filed contract 附件",
        "until": "2026-12-31",
    }
    assert transfer_lists.reference_of(SIGNED).startswith("gba-2026@")


def refused(text, *rest, **more):
    with pytest.raises(ConfigError) as error:
        transfer_lists.verified(text, *rest, **more)
    return error.value.code


def test_who_signed_and_when_it_holds():
    only_one = dsse.parse(SIGNED.encode())
    stripped = replace(only_one, signatures=only_one.signatures[:1]).to_bytes().decode()
    assert refused(SIGNED, members(()), NOW) == "list.issuer"
    assert refused(SIGNED, members(("claim:list-issuer", "role:bank")), NOW) == "list.issuer"
    assert refused(listed(issuer="another"), members(), NOW) == "list.issuer"
    assert refused(listed(keys=OTHERS), members(), NOW) == "list.signature"
    assert refused(stripped, members(), NOW) == "list.signature"
    assert refused(SIGNED, members(until=CLOCK), NOW) == "list.signature"
    assert refused(SIGNED, members(since=CLOCK + 1), NOW) == "list.signature"
    assert refused(SIGNED, members(), NOW, "negative_list") == "list.kind"
    assert refused(SIGNED, members(), datetime(2027, 1, 1, tzinfo=UTC)) == "list.expired"
    early = datetime(2025, 12, 31, tzinfo=UTC)
    assert refused(SIGNED, members(), early) == "list.too-early"
    assert transfer_lists.verified(SIGNED, members(), early, early=True).name == "gba-2026"
    # a key that ended later than it signed still proves what it signed then
    assert transfer_lists.verified(SIGNED, members(until=CLOCK + 1), NOW).name == "gba-2026"


def resigned(change):
    payload = json.loads(dsse.parse(SIGNED.encode()).payload)
    change(payload)
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return dsse.sign(transfer_lists.PAYLOAD_TYPE, text.encode(), KEYS.keys).to_bytes().decode()


CHANGES = {
    "nothing": lambda p: p.clear(),
    "another format": lambda p: p.update(format="bayspace-list/v2"),
    "another word": lambda p: p.update(more=1),
    "no kind": lambda p: p.pop("kind"),
    "an unknown kind": lambda p: p.update(kind="greylist"),
    "no category": lambda p: p.update(categories=[]),
    "categories out of order": lambda p: p["categories"].reverse(),
    "a category twice": lambda p: p["categories"].insert(0, "trade"),
    "a category with a space around it": lambda p: p.update(categories=[" trade"]),
    "a category that turns the line": lambda p: p.update(categories=["a\u202eb"]),
    "no beginning": lambda p: p.pop("from"),
    "a beginning in words": lambda p: p.update({"from": "yesterday"}),
    "an impossible day": lambda p: p.update(until="2026-02-30"),
    "a time without a zone": lambda p: p.update(until="2026-12-31T00:00:00"),
    "an end before the beginning": lambda p: p.update(until="2025-12-31"),
    "no recipients in brackets": lambda p: p.update(recipients=[]),
    "a country in small letters": lambda p: p.update(jurisdiction="cn"),
    "a path as its name": lambda p: p.update(id="../x"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_list_has_one_form(name):
    with pytest.raises(ConfigError, match=r"list\.malformed"):
        transfer_lists.read(resigned(CHANGES[name]))


@pytest.mark.parametrize(
    "text", ["", "x", "[]", SIGNED + "\n", SIGNED.replace("bayspace.list", "bayspace.members")]
)
def test_what_is_no_list_is_refused(text):
    with pytest.raises(ConfigError, match=r"list\.malformed"):
        transfer_lists.read(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("kind: whitelist", "kind: greylist"),
        ("until: 2026-12-31", "until: 2025-12-31"),
        ("categories: [trade", "categories: [trade, trade"),
        ("categories: [trade, 企业登记]", "categories: []"),
        ("jurisdiction: CN", "jurisdiction: China"),
        ("title:", "headline:"),
    ],
)
def test_a_draft_is_refused_before_it_is_signed(before, after):
    with pytest.raises(ConfigError, match=r"list\.malformed"):
        listed([(before, after)])


def test_the_draft_that_make_writes_can_be_signed():
    made = transfer_lists.draft(transfer_lists.DRAFT)
    assert transfer_lists.read(transfer_lists.sign(made, "x", KEYS, CLOCK)).name == "example-2026"


def test_what_decisions_are_told():
    named = transfer_lists.reference_of(SIGNED)
    policy = load(
        "policy: p\ndataset: a.b\nassignee: any\npurpose: any\n"
        f"transfer: {{whitelist: {named}}}\nanalysis: {{kinds: [aggregate]}}\n"
    )
    content = transfer_lists.read(SIGNED).content
    assert transfer_lists.stated(policy, {named: SIGNED}, members()) == {named: content}
    assert transfer_lists.stated(policy, {named: SIGNED}, members(())) == {named: "list.issuer"}
    assert transfer_lists.stated(policy, {named: SIGNED}, members(since=CLOCK + 1)) == {
        named: "list.signature"
    }
    assert transfer_lists.stated(policy, {}, members()) == {named: "list.missing"}


# --- between connectors -------------------------------------------------------------------------------

INDUSTRIES = "SELECT industry, count(*) AS n FROM sz-trade.listed GROUP BY industry"
TOTAL = "SELECT sum(amount) AS total FROM sz-trade.listed"
CATEGORIES = {"company_id": "registration", "industry": "registration", "amount": "trade-value"}


def offer_listed(made, kinds, categories=None):
    """Publish the invoices once more under these lists: word -> the file's text."""
    settings = config.load(made.folder / OWNER)
    folder = settings.policies_folder / "lists"
    folder.mkdir(exist_ok=True)
    words = {"basis": "standard-contract", "filing": '"GBA-SC-2026-0042"'}
    for word, text in kinds.items():
        (folder / f"{transfer_lists.read(text).name}.json").write_bytes(text.encode())
        words[word] = transfer_lists.reference_of(text)
    stated = ", ".join(f"{word}: {value}" for word, value in words.items())
    policy = (settings.policies_folder / "open.yaml").read_text().replace("open", "listed")
    policy = policy.replace("analysis:\n", f"transfer: {{{stated}}}\nanalysis:\n")

    def described(text):
        for column, category in (categories or {}).items():
            text = text.replace(f"  {column}: {{", f"  {column}: {{category: {category}, ")
        return text

    made.offer_invoices("listed", policy, described)


def refusal(made, sql):
    with pytest.raises(PolicyRefusal) as refused:
        made.asker.query(sql, purpose=PURPOSE)
    return [(reason.code, reason.column) for reason in refused.value.decision.because]


def test_lists_between_connectors(fresh, monkeypatch):
    """Drafted, signed and verified by commands; refused, answered, shown, and withdrawn with the role."""
    monkeypatch.setenv("BAYSPACE_CONFIG", str(fresh.folder / ASKER))
    draft, file = fresh.folder / "draft.yaml", fresh.folder / "gba-2026.json"
    assert CliRunner().invoke(app, ["list", "make", str(draft)]).exit_code == 0
    draft.write_text(TEXT.replace("[trade, 企业登记]", "[registration]").replace("until: 2026-12-31\n", ""))
    signed = CliRunner().invoke(app, ["list", "sign", str(draft), "--out", str(file)], catch_exceptions=False)
    text = file.read_bytes().decode()
    assert signed.stdout.strip() == transfer_lists.reference_of(text)
    with pytest.raises(ConfigError, match=r"list\.issuer"):
        offer_listed(fresh, {"whitelist": text}, CATEGORIES)
    with pytest.raises(ConfigError, match=r"list\.issuer"):
        CliRunner().invoke(app, ["list", "verify", str(file)], catch_exceptions=False)
    space.certify(fresh.folder / "space", ASKER, ["role:list-issuer"])
    verified = CliRunner().invoke(app, ["list", "verify", str(file)], catch_exceptions=False)
    assert f"whitelist signed by {ASKER}, in force from 2026-01-01\n" in verified.stdout
    shown = json.loads(CliRunner().invoke(app, ["list", "show", str(file), "--json"]).stdout)
    assert (shown["reference"], shown["categories"]) == (signed.stdout.strip(), ["registration"])
    with pytest.raises(ConfigError, match=r"list\.kind"):
        offer_listed(fresh, {"negative_list": text})
    offer_listed(fresh, {"whitelist": text})
    fresh.agree("listed")

    assert len(fresh.asker.query(INDUSTRIES, purpose=PURPOSE).table) > 0
    assert refusal(fresh, TOTAL) == [("category.not-on-whitelist", "amount")]
    explained = fresh.asker.explain(TOTAL, PURPOSE)
    assert [reason["code"] for reason in explained["reasons"]] == ["category.not-on-whitelist"]
    assert explained["transfer"]["filing"] == "GBA-SC-2026-0042"
    assert explained["transfer"]["whitelist"]["issuer"] == ASKER
    printed = CliRunner().invoke(app, ["explain", TOTAL, "--purpose", PURPOSE], catch_exceptions=False)
    assert "transfer basis: standard-contract (declared by the owner)" in printed.stdout
    assert f"whitelist: gba-2026 of {ASKER}, from 2026-01-01: Annex" in printed.stdout
    (agreement,) = (
        found
        for found in json.loads(CliRunner().invoke(app, ["agreement", "list", "--json"]).stdout)
        if found["offer"] == "listed"
    )
    assert agreement["transfer"]["basis"] == "standard-contract"
    assert agreement["documents"] == {signed.stdout.strip(): text}

    for side in (OWNER, ASKER):  # the records of the query that was answered
        store = fresh.nodes[side].store
        records = [record for exchange in store.exchanges() for record in store.evidence(exchange.id)]
        intent = next(record for record in records if record.event == "query.intent")
        told = [Disclosure.decode(text) for text in json.loads(intent.disclosures)["disclosures"]]
        said = {disclosure.name: disclosure.value for disclosure in told}
        assert (said["transfer_basis"], said["filing_number"]) == ("standard-contract", "GBA-SC-2026-0042")

    space.certify(fresh.folder / "space", ASKER, [])
    assert refusal(fresh, INDUSTRIES) == [("list.issuer", None)]


def test_a_list_in_another_file_than_its_name_says(tmp_path):
    named = transfer_lists.reference_of(SIGNED).replace("gba-2026", "other")
    policy = load(
        "policy: p\ndataset: a.b\nassignee: any\npurpose: any\n"
        f"transfer: {{whitelist: {named}}}\nanalysis: {{kinds: [aggregate]}}\n"
    )
    with pytest.raises(ConfigError, match=r"reference\.missing"):
        references.read(tmp_path, policy)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "other.json").write_bytes(SIGNED.encode())
    with pytest.raises(ConfigError, match=r"reference\.differs"):
        references.read(tmp_path, policy)
