"""Consent sets and certified roles across real connectors."""

from __future__ import annotations

from decimal import Decimal

import pytest

from compute.errors import ConfigError, PolicyRefusal
from connector import config, datasets, space
from connector.storage import Store
from witness.members import MemberList
from witness.schema import FormatError

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
ALONE = "SELECT count(*) AS n, sum(amount) AS total FROM sz-trade.consented"
JOINED = (
    "SELECT count(*) AS n, sum(i.amount) AS total FROM sz-trade.consented i "
    "JOIN hk-bank.credit c ON i.company_id = c.company_id"
)


def publish(made, changes):
    settings = config.load(made.folder / OWNER)
    policy = (settings.policies_folder / "open.yaml").read_text().replace("open", "consented")
    for before, after in changes.items():
        assert before in policy
        policy = policy.replace(before, after)
    (settings.policies_folder / "consented.yaml").write_text(policy)
    file = settings.datasets_folder / "invoices.yaml"
    if "consented" not in file.read_text():
        file.write_text(file.read_text().replace("offers: {", "offers: {consented: consented.yaml, "))
    store = Store.open(settings.state_url)
    try:
        datasets.add(settings, store, "invoices")
    finally:
        store.close()


def consent(made, companies):
    folder = config.load(made.folder / OWNER).policies_folder / "consents"
    folder.mkdir(exist_ok=True)
    (folder / "customers.txt").write_text("".join(f"{company}\n" for company in companies))


def figures(made, sql):
    (row,) = made.asker.query(sql, purpose=PURPOSE).table.to_pylist()
    return row["n"], row["total"]


def test_rows_without_consent_never_enter_a_query(fresh, pooled):
    consenting = {"analysis:\n": "transfer: {consent: customers}\nanalysis:\n"}
    with pytest.raises(ConfigError, match=r"consent\.missing"):
        publish(fresh, consenting)
    some = [f"C{n:03d}" for n in range(10)]
    consent(fresh, ["", *some, "C999"])
    publish(fresh, consenting)
    fresh.agree("consented")
    where = "lower(trim(company_id)) IN ({})".format(", ".join(f"'{c.lower()}'" for c in some))
    (alone,) = pooled(f"SELECT count(*) AS n, sum(amount) AS total FROM invoices WHERE {where}")
    (both,) = pooled(
        f"SELECT count(*) AS n, sum(amount) AS total FROM (SELECT * FROM invoices WHERE {where}) "
        "JOIN credit USING (company_id)"
    )
    assert figures(fresh, ALONE) == (alone["n"], Decimal(alone["total"]))
    assert figures(fresh, JOINED) == (both["n"], Decimal(both["total"]))
    consent(fresh, some[:4])  # the others took it back
    assert figures(fresh, ALONE)[0] < alone["n"]
    consent(fresh, some[:2])  # fewer than the minimum
    assert fresh.asker.query(ALONE, purpose=PURPOSE).suppressed == 1


def test_a_role_is_what_the_operator_certifies(fresh):
    publish(fresh, {"assignee: [hk-bank]": "assignee: [role:bank]"})
    fresh.agree("consented")
    with pytest.raises(PolicyRefusal) as refused:
        figures(fresh, ALONE)
    assert refused.value.code == "assignee.not-allowed"
    members = space.certify(fresh.folder / "space", ASKER, ["role:bank", "claim:iso-27001"])
    assert members.participant(ASKER).claims == ("claim:iso-27001", "role:bank")
    assert figures(fresh, ALONE)[0] > 0
    space.certify(fresh.folder / "space", ASKER, [])
    with pytest.raises(PolicyRefusal):
        figures(fresh, ALONE)
    with pytest.raises(ConfigError, match=r"space\.claim"):
        space.certify(fresh.folder / "space", ASKER, ["bank"])


@pytest.mark.parametrize(
    "claims", ["[]", '["role:b","role:a"]', '["role:a","role:a"]', '["bank"]', '"role:a"']
)
def test_claims_have_one_form(tmp_path, claims):
    made = space.init(tmp_path / "space", "gba")
    payload = made.members.to_payload()
    rest = '"id":"a","jurisdiction":"HK","keys":[],"logs":[],"role":"connector"}'

    def listed(text):
        participant = '{"address":"a:1","claims":' + text + "," + rest
        return payload.replace(b'"participants":[]', f'"participants":[{participant}]'.encode())

    with pytest.raises(FormatError):
        MemberList.parse(listed(claims))
    assert MemberList.parse(listed('["role:a"]')).participant("a").claims == ("role:a",)
