"""The asker's own columns in joint queries, across two real connectors: answers equal plaintext, permissions
decide, what was attested is signed, and the asker's own data error costs no use."""

from __future__ import annotations

from decimal import Decimal
from math import ceil

import duckdb
import pyarrow as pa
import pytest

from compute.errors import DataError, PeerViolation, PolicyRefusal, QueryError
from connector.asking import Asking
from connector.receipts import trust_file
from witness.verify import verify_files

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"

POLICY = """\
policy: {offer}-v1
dataset: sz-trade.{offer}
assignee: [hk-bank]
purpose: [credit-risk]
uses: {{count: 1000, per: month}}
analysis:
  kinds: [aggregate]
  join: {{columns: [company], disclosure: {level}}}
  dimensions: [industry]
  measures: {{"*": [count], late: [sum, avg, corr, covar, regr]}}
  identity: company
  minimum_identities: 3
{extra}"""
SALES = """\
title: {en: Sales, zh: 销售}
source: {kind: parquet, path: ../data/sales.parquet}
rights: {holder: sz-trade}
columns:
  company: {type: string, key: [trim]}
  industry: {type: string}
  late: {type: int64, bounds: [-100, 100]}
offers: {weighted: weighted.yaml, plain: plain.yaml, strict: strict.yaml}
"""
OWN = """\
policy: loans-v1
dataset: hk-bank.{offer}
assignee: [hk-bank]
purpose: [credit-risk]
uses: {{count: 1000}}
analysis:
  kinds: [aggregate]
  join: {{columns: [company], disclosure: receiver}}
"""
LOANS = """\
title: {{en: Loans, zh: 贷款}}
source: {{kind: parquet, path: ../data/{offer}.parquet}}
rights: {{holder: hk-bank}}
columns:
  company: {{type: string, key: [trim]}}
  grade: {{type: string}}
  amount: {{type: "decimal(12,2)", bounds: [0, 1000000]}}
offers: {{{offer}: {offer}.yaml}}
"""


def sales() -> pa.Table:
    rows = [(f"C{n % 20}", "甲乙"[n % 2], None if n % 7 == 0 else n % 30 - 9) for n in range(60)]
    return pa.table(dict(zip(["company", "industry", "late"], zip(*rows, strict=True), strict=True)))


def loans(repeat: int) -> pa.Table:
    rows = [
        (f"C{n % 24}", "AB"[n % 24 % 2], None if n % 5 == 0 else Decimal(n * 1000) + Decimal("0.25"))
        for n in range(24 * repeat)
    ]
    company, grade, amount = zip(*rows, strict=True)
    return pa.table({"company": company, "grade": grade, "amount": pa.array(amount, pa.decimal128(12, 2))})


@pytest.fixture(scope="module")
def two(tmp_path_factory, space_builder):
    folder = tmp_path_factory.mktemp("weights")
    made = space_builder(folder, start=False)
    kinds = {
        "weighted": ("receiver", "  weighted: true\n"),
        "plain": ("receiver", ""),
        "strict": ("cardinality", ""),
    }
    policies = {o: POLICY.format(offer=o, level=level, extra=extra) for o, (level, extra) in kinds.items()}
    made.publish(OWNER, "sales", sales(), SALES, policies)
    for offer, repeat in (("loans", 1), ("lines", 3)):
        own = {offer: OWN.format(offer=offer)}
        made.publish(ASKER, offer, loans(repeat), LOANS.format(offer=offer), own)
    made.start_witness()
    for name in (OWNER, ASKER):
        made.start(name)
    for offer in kinds:
        made.agree(offer)
    yield made
    made.close()


@pytest.fixture(scope="module")
def plaintext():
    connection = duckdb.connect()
    connection.register("sales", sales())
    connection.register("loans", loans(1))
    connection.register("lines", loans(3))
    yield lambda sql: connection.sql(sql).to_arrow_table().to_pylist()
    connection.close()


def asked(sql: str, offer: str) -> str:
    return sql.format(s=f"{OWNER}.{offer}", loans=f"{ASKER}.loans", lines=f"{ASKER}.lines")


JOIN = "FROM {s} s JOIN {loans} r ON r.company = s.company"
MANY = "FROM {s} s JOIN {lines} r ON r.company = s.company"
QUESTIONS = [
    f"SELECT sum(r.amount * s.late) AS x, count(*) AS n {JOIN}",
    f"SELECT r.grade, avg(r.amount) AS x, sum(s.late) AS y {MANY} GROUP BY r.grade ORDER BY 1",
    f"SELECT s.industry, sum(r.amount) AS x, count(*) AS n {MANY} GROUP BY s.industry ORDER BY 1",
    (
        "SELECT regr_slope(s.late, r.amount) AS x, regr_avgy(s.late, r.amount) AS y, "
        f"corr(r.amount, s.late) AS z {MANY}"
    ),
    # rows of the owner's that match count three times; those without a match are kept
    (
        "SELECT r.grade, count(*) AS n, sum(s.late) AS x, avg(s.late) AS y FROM {s} s LEFT JOIN {lines} r "
        "ON r.company = s.company AND r.company < 'C15' GROUP BY r.grade ORDER BY 1"
    ),
]


def rounded(rows):
    return [{k: round(v, 9) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


@pytest.mark.parametrize("sql", QUESTIONS)
def test_answers_equal_plaintext(two, plaintext, sql):
    answer = two.asker.query(asked(sql, "weighted"), PURPOSE)
    expected = plaintext(sql.format(s="sales", loans="loans", lines="lines"))
    assert rounded(answer.table.to_pylist()) == rounded(expected)
    assert answer.suppressed == 0
    assert answer.summary["protocol"] == "psi_aggregate"


def test_both_sign_what_was_counted_and_attested(two):
    answer = two.asker.query(asked(QUESTIONS[0], "weighted"), PURPOSE)
    records = verify_files(answer.receipt.bundle, trust_file(two.nodes[ASKER].config)).items
    assert set(records[1].signers) == {OWNER, ASKER}
    figures = records[1].disclosed.figures
    assert set(figures) == {
        "cells-released",
        "cells-suppressed",
        "weights-fewest",
        "weights-largest-per-mille",
    }
    # Of 24 loans 20 match and 16 of those have an amount; the largest is 19000.25.
    assert figures["weights-fewest"] == 16
    matched = [row["amount"] for row in loans(1).to_pylist()[:20] if row["amount"]]
    assert figures["weights-largest-per-mille"] == ceil(1000 * max(matched) / sum(matched))
    reveals = {(r.party, r.what) for r in records[0].record.data.reveals}
    assert (OWNER, "weight-figures+ungated") in reveals


@pytest.mark.parametrize("sql", [QUESTIONS[0], QUESTIONS[2]])
def test_without_the_permission_the_refusal_names_it(two, sql):
    with pytest.raises(PolicyRefusal) as refused:
        two.asker.query(asked(sql, "plain"), PURPOSE)
    assert {(r.code, r.rule) for r in refused.value.decision.because} == {
        ("weighted.not-allowed", "analysis.weighted")
    }
    with pytest.raises(QueryError, match=r"psi_aggregate.*'receiver'"):
        two.asker.query(asked(sql, "strict"), PURPOSE)


def test_explain_says_what_the_owner_learns_of_the_weights(two):
    told = two.asker.explain(asked(QUESTIONS[0], "weighted"), PURPOSE)
    sentences = [event["sentence"] for event in told["learns"] if event["fact"] == "weight-figures"]
    assert len(sentences) == 1
    assert OWNER in sentences[0]
    assert "weights" in sentences[0]
    plain = two.asker.explain(asked(f"SELECT sum(s.late) AS x, r.grade {JOIN} GROUP BY 2", "plain"), PURPOSE)
    assert not any(event["fact"] == "weight-figures" for event in plain["learns"])


def test_a_key_that_repeats_is_found_before_a_use_is_charged(two, plaintext):
    sql = f"SELECT sum(s.late) AS x {MANY}"
    node = two.nodes[ASKER]
    agreement = node.agreement_about(OWNER, "plain")
    before = node.uses_of(agreement), two.evidence(OWNER)
    with pytest.raises(DataError) as caught:
        two.asker.query(asked(sql, "plain"), PURPOSE)
    assert caught.value.code == "data.asker-key-not-unique"
    assert (node.uses_of(agreement), two.evidence(OWNER)) == before
    # Where the policy allows weights, rows are counted instead.
    answer = two.asker.query(asked(sql, "weighted"), PURPOSE)
    assert answer.table.to_pylist() == plaintext(sql.format(s="sales", lines="lines"))


def test_the_asker_signs_no_other_figures_than_it_attested(two, monkeypatch):
    monkeypatch.setattr("connector.releases._Envelope.observe", _misheard)
    with pytest.raises(PeerViolation, match="attested"):
        two.asker.query(asked(QUESTIONS[0], "weighted"), PURPOSE)
    assert two.evidence(ASKER)[-1][-1] == "query.failure"


def _misheard(self, frame):
    if frame is not None and frame.kind == "selection-commitment":
        self._masks = frame.body.hex()
    if frame is not None and frame.kind == "weight-figures":
        self.largest_weight = 1


@pytest.mark.parametrize(
    ("figures", "fine"),
    [
        ({"cells-released": 1, "weights-fewest": 3, "weights-largest-per-mille": 400}, True),
        ({"cells-released": 0, "weights-fewest": 0, "weights-largest-per-mille": 400}, True),
        ({"cells-released": 1, "weights-fewest": 2, "weights-largest-per-mille": 400}, False),
        ({"cells-released": 1, "weights-fewest": 0, "weights-largest-per-mille": 400}, False),
        ({"cells-released": 1, "weights-fewest": 3, "weights-largest-per-mille": 401}, False),
    ],
)
def test_what_the_asker_signs_about_its_weights(two, figures, fine):
    asking = Asking.__new__(Asking)
    asking._terms = type("T", (), {"agreement": two.nodes[ASKER].agreement_about(OWNER, "weighted")})()
    if fine:
        asking._check_weights(figures, 400)
    else:
        with pytest.raises(PeerViolation):
            asking._check_weights(figures, 400)
