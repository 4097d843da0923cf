"""Consent sets and certified roles across real connectors."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest

from compute.dataset import Column, DatasetInfo
from compute.errors import ConfigError, DataError, PolicyRefusal
from compute.types import parse_type
from connector import config, space
from connector.consent import consented as rows_of_consent
from policy_enforcer.load import load
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
    made.offer_invoices("consented", policy)


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


def test_nobody_is_told_how_many_rows_consent_left_out(fresh):
    """Sets of which one leaves out more: plan, explanation, answer and receipt differ in nothing else."""
    everybody = [f"C{n:03d}" for n in range(64)]
    consent(fresh, everybody)
    publish(fresh, {"analysis:\n": "transfer: {consent: customers}\nanalysis:\n"})
    fresh.agree("consented")
    sql = "SELECT count(*) AS n FROM sz-trade.consented WHERE amount > 999999"
    told = []
    for companies in (everybody, everybody[:3]):
        consent(fresh, companies)
        answer = fresh.asker.query(sql, purpose=PURPOSE)
        explained = fresh.asker.explain(sql, PURPOSE)
        explained["budget"].pop("uses")
        told.append((answer.table.to_pylist(), answer.suppressed, explained, sorted(answer.summary)))
    assert told[0] == told[1]
    assert told[0][2]["transfer"] == {"consent": "customers"}

    # one withdraws, and the asker asks again: the difference would be that one's
    guarded = "transfer: {consent: customers}\nanalysis:\n  differencing: {minimum_difference: 5}\n"
    publish(fresh, {"analysis:\n": guarded})
    fresh.agree("consented")
    consent(fresh, everybody)
    assert figures(fresh, ALONE)[0] > 0
    consent(fresh, everybody[1:])
    with pytest.raises(PolicyRefusal) as refused:
        figures(fresh, ALONE)
    assert refused.value.code == "gate.differencing"


class Held:
    """A source of one batch."""

    def __init__(self, kind, values):
        self._table = pa.table({"id": pa.array(values, kind), "n": range(len(values))})
        self.schema = self._table.schema

    def scan(self):
        return self._table.to_reader()


def kept(tmp_path, lines, values, key, kind="string"):
    column = Column("id", kind, key=key)
    dataset = DatasetInfo("a", "b", (column, Column("n", "int64")), 64, 64, "0" * 64)
    policy = load(
        "policy: p\ndataset: a.b\nassignee: any\npurpose: any\ntransfer: {consent: set-1}\n"
        "analysis: {kinds: [aggregate], identity: id}\n"
    )
    (tmp_path / "consents").mkdir(exist_ok=True)
    (tmp_path / "consents" / "set-1.txt").write_bytes(lines.encode())
    source = Held(parse_type(kind).arrow, values)
    rows = rows_of_consent(source, dataset, policy, tmp_path)
    return [row["n"] for row in rows().read_all().to_pylist()]


VALUES = ["C001", " c001 ", "C002", None, "", "张三", "張三", "C001", "straße"]


def test_identities_are_compared_as_joins_compare_them(tmp_path):
    key = ("trim", "nfkc", "casefold")
    assert kept(tmp_path, "C001\n", VALUES, key) == [0, 1, 7]
    assert kept(tmp_path, "c001 \r\n\r\n张三\r\n", VALUES, key) == [0, 1, 5, 7]
    assert kept(tmp_path, "\ufeffSTRASSE\n", VALUES, key) == [8]
    assert kept(tmp_path, "", VALUES, key) == []
    assert kept(tmp_path, "13800138000\n", ["138-0013-8000", "138", None], ("digits",)) == [0]
    assert kept(tmp_path, "7\n", [7, 8, None], (), "int64") == [0]


def test_without_a_key_letter_for_letter(tmp_path):
    assert kept(tmp_path, "C001\n张三\nC003", VALUES, None) == [0, 5, 7]
    assert kept(tmp_path, "7\n", [7, 8, None], None, "int64") == [0]


@pytest.mark.parametrize(("key", "kind", "line"), [(("digits",), "string", "nobody"), ((), "int64", "x")])
def test_a_line_that_is_no_identity_stops_everything(tmp_path, key, kind, line):
    with pytest.raises(DataError, match=r"data\.consent"):
        kept(tmp_path, f"7\n{line}\n", [], key, kind)


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
    payload = made.members.to_payload().replace(b"bayspace-members/v1", b"bayspace-members/v2")
    rest = '"id":"a","jurisdiction":"HK","keys":[],"logs":[],"role":"connector"}'

    def listed(text):
        participant = '{"address":"a:1","claims":' + text + "," + rest
        return payload.replace(b'"participants":[]', f'"participants":[{participant}]'.encode())

    with pytest.raises(FormatError):
        MemberList.parse(listed(claims))
    assert MemberList.parse(listed('["role:a"]')).participant("a").claims == ("role:a",)
