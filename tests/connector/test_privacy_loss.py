"""Noise and its ledger across two real connectors: asking again and again stops at the budget."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from compute.errors import BayspaceError, PeerViolation, PolicyRefusal, Unavailable
from compute.protocols.base import Frame
from connector import config, datasets
from connector.asking import Asking
from connector.receipts import trust_file
from connector.state.rows import AnswerRecord
from connector.storage import Store
from tests.waiting import settled
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
  join: {{columns: [company_id], disclosure: receiver}}
  dimensions: [industry]
  domains: {{industry: [steel, retail, none]}}
  measures: {{"*": [count], amount: [sum, avg]}}
  identity: company_id
{words}
"""
NOISE = """\
  max_rows_per_identity: 5
  max_cells_per_identity: 2
  noise: {mechanism: discrete-gaussian, rho_per_query: 0.1, budget: {rho: 0.3}, dataset_budget: {rho: 0.5}}
"""
EXACT = {
    "hidden": "  minimum_identities: 3\n  suppressions: {complementary: true, count: hidden}\n",
    "dominant": "  minimum_identities: 3\n  dominance: {share_at_most: 0.5}\n",
}
TABLES = (
    "repeated",
    "selected",
    "forged",
    "averaged",
    "trusted",
    "renewed",
    "failed",
    "raced",
    "joined",
    "plain",
    "counted",
)
SALES = """\
title: {{en: Sales, zh: 销售}}
source: {{kind: parquet, path: ../data/sales.parquet}}
rights: {{holder: sz-trade}}
columns:
  company_id: {{type: string, key: [trim, casefold], nullable: false}}
  industry: {{type: string}}
  amount: {{type: int64, bounds: [0, 100], nullable: false}}
offers: {{{offers}}}
"""
SINGLE = "SELECT industry, sum(amount) AS s, count(*) AS n FROM sz-trade.{} GROUP BY 1 ORDER BY 1"
JOINT = (
    "SELECT c.rating, sum(i.amount) AS s FROM sz-trade.{} i "
    "JOIN hk-bank.credit c ON i.company_id = c.company_id GROUP BY 1"
)


def sales() -> pa.Table:
    """60 companies: 29 in steel, 29 in retail with one that has most of it, two elsewhere."""
    rows = [
        (f"C{n:03d}", "other" if n > 57 else ("steel", "retail")[n % 2], 100 if n == 1 else 2)
        for n in range(60)
    ]
    names = ("company_id", "industry", "amount")
    return pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))


@pytest.fixture(scope="module")
def space(tmp_path_factory, space_builder):
    """One table, registered under a name for each test: each has a lifetime of its own."""
    made = space_builder(tmp_path_factory.mktemp("losses"), start=False)
    settings = config.load(made.folder / OWNER)
    pq.write_table(sales(), settings.folder / "data" / "sales.parquet")
    store = Store.open(settings.state_url)
    for table in TABLES:
        words = EXACT if table == "plain" else {table: NOISE, f"{table}_again": NOISE}
        words = {table: EXACT["hidden"]} if table == "counted" else words
        for offer, said in words.items():
            text = POLICY.format(offer=offer, words=said)
            if offer == "counted":
                text = text.replace("count: 1000,", "count: 1000, rows: 3, bytes: 1000000,")
            (settings.policies_folder / f"{offer}.yaml").write_text(text)
        listed = ", ".join(f"{offer}: {offer}.yaml" for offer in words)
        (settings.datasets_folder / f"{table}.yaml").write_text(SALES.format(offers=listed))
        datasets.add(settings, store, table)
    store.close()
    made.start_witness()
    for name in (OWNER, ASKER):
        made.start(name)
    yield made
    made.close()


def refused(space, sql):
    with pytest.raises(PolicyRefusal) as refusal:
        space.asker.query(sql, PURPOSE)
    return refusal.value.code


def charged_at_once(node, agreement, times, size=1):
    """What becomes of so many charges of a row and `size` bytes, from twenty threads."""

    def charge(_number):
        try:
            with node.store.atomic():
                node.charge(agreement, 1, size)
        except PolicyRefusal as refusal:
            return refusal.code
        return "charged"

    with ThreadPoolExecutor(20) as pool:
        return list(pool.map(charge, range(times)))


def variants(offer):
    """The same figures under other names: another question each time, and so another draw."""
    for number in range(100):
        yield SINGLE.format(offer).replace("AS s", f"AS s{number}")


def test_an_average_over_many_answers_stops_at_the_budget(space):
    space.agree("averaged")
    asked = list(variants("averaged"))[:4]
    before = space.asker.explain(asked[0], PURPOSE)["budget"]["privacy"]
    assert (before["costs_rho"], before["left_after_rho"], before["limit_rho"]) == ("0.1", "0.2", "0.3")
    answers = [space.asker.query(sql, PURPOSE) for sql in asked[:3]]
    assert len({str([list(row.values()) for row in answer.table.to_pylist()]) for answer in answers}) == 3
    assert all(answer.table["industry"].to_pylist() == ["none", "retail", "steel"] for answer in answers)
    assert refused(space, asked[3]) == "budget.exhausted"
    after = space.asker.explain(asked[3], PURPOSE)["budget"]["privacy"]
    assert (after["spent_rho"], after["left_after_rho"], after["dataset_lifetime_rho"]) == ("0.3", "0", "0.3")
    verified = verify_files(answers[0].receipt.bundle, trust_file(space.nodes[ASKER].config))
    assert [item.disclosed.budget for item in verified.items] == [
        {"rho": "0.1", "uses": "1"},
        {"rho": "0.1", "uses": "1"},
        None,
    ]


def test_the_same_question_gives_the_same_answer_and_costs_a_use_but_no_privacy(space, monkeypatch):
    digest = space.agree("repeated")
    sql, owner = SINGLE.format("repeated"), space.nodes[OWNER]
    first = space.asker.query(sql, PURPOSE)
    # other spelling, same plan; and nothing is computed
    monkeypatch.setattr(owner, "own_input", None)
    again = [space.asker.query(text, PURPOSE) for text in (sql, sql.replace("SELECT", "select  "), sql)]
    assert all(answer.table.equals(first.table) for answer in again)
    agreement = owner.agreement(digest, role="provider", peer=ASKER)
    assert owner.uses_of(agreement) == 4
    for node in space.nodes.values():
        assert node.losses_of(agreement, node.now())[0] == 100_000_000
    trust = trust_file(space.nodes[ASKER].config)
    original, repeat = (verify_files(a.receipt.bundle, trust).items for a in (first, again[0]))
    assert [item.record.data.digests.get("repeats") for item in repeat[:2]] == [original[1].digest] * 2
    assert [item.disclosed.budget for item in repeat[:2]] == [{"rho": "0", "uses": "1"}] * 2


@pytest.mark.deep
def test_fifty_answers_average_to_the_first_one(space):
    space.agree("repeated")
    sql = SINGLE.format("repeated").replace("AS s", "AS figure")
    figures = [space.asker.query(sql, PURPOSE).table["figure"].to_pylist() for _ in range(50)]
    assert all(found == figures[0] for found in figures)


def test_a_joint_question_is_computed_noised_and_charged_again(space):
    # what the asker selects is its own, so that equal noise would cancel
    digest = space.agree("selected")
    sql = JOINT.format("selected").replace("c.rating, ", "").replace("GROUP BY 1", "")
    first, second = (space.asker.query(sql, PURPOSE).table for _ in range(2))
    owner = space.nodes[OWNER]
    agreement = owner.agreement(digest, role="provider", peer=ASKER)
    assert first != second
    assert owner.losses_of(agreement, owner.now())[0] == 200_000_000


def test_an_asker_that_died_after_its_receipt_gets_the_answer_when_it_asks_again(space, monkeypatch):
    """What the owner keeps for a receipt, the asker has a record of, however it died."""
    digest, (owner, asker) = space.agree("repeated"), (space.nodes[OWNER], space.nodes[ASKER])
    real = Asking._exchange_receipt

    def dying(self, *given):
        role, arrived = real(self, *given), None
        while True:
            item = role.send(arrived)
            arrived = yield item
            if isinstance(item, Frame) and item.kind == "receipt":
                assert settled(lambda: not owner.evidence.is_open(self._terms.opening.exchange))
                raise Unavailable("peer.gone", "killed")

    with monkeypatch.context() as killed:
        killed.setattr(Asking, "_exchange_receipt", dying)
        killed.setattr(Asking, "_failed", lambda *_: None)  # whoever is dead writes nothing more
        killed.setattr(asker.store, "close_exchange", lambda *_: False)
        with pytest.raises(Unavailable):
            space.asker.query(SINGLE.format("repeated"), PURPOSE)
    asker.store.keep_answer("over", digest, ("", ""), b"", (0, 0), datetime(2020, 1, 1, tzinfo=UTC), 1000)
    asker.recover()
    with asker.store._reading() as connection:
        assert not connection.execute(text("SELECT 1 FROM answers WHERE question = 'over'")).all()
    assert space.evidence(ASKER)[-1] == ["query.intent", "query.release", "query.failure"]
    assert space.evidence(OWNER)[-1] == ["query.intent", "query.release"]
    answer = space.asker.query(SINGLE.format("repeated"), PURPOSE)
    assert answer.table["industry"].to_pylist() == ["none", "retail", "steel"]
    agreement = owner.agreement(digest, role="provider", peer=ASKER)
    for node in (owner, asker):
        assert node.losses_of(agreement, node.now())[0] == 100_000_000
    assert verify_files(answer.receipt.bundle, trust_file(asker.config)).items


def test_an_owner_cannot_repeat_what_it_never_answered(space, monkeypatch):
    space.agree("forged")
    kept = AnswerRecord("0" * 64, "", "", "1" * 64, b"", 0, 0, 0, None, "")
    monkeypatch.setattr(space.nodes[OWNER].store, "answer", lambda _question: kept)
    with pytest.raises(PeerViolation) as violation:
        space.asker.query(SINGLE.format("forged"), PURPOSE)
    assert violation.value.code == "peer.repeats"


def test_the_owner_decides_what_is_left_whatever_the_asker_remembers(space, monkeypatch):
    space.agree("trusted")
    monkeypatch.setattr(space.nodes[ASKER], "note_loss", lambda _agreement: None)
    first, *others = list(variants("trusted"))[:4]
    for sql in (first, *others[:2]):
        space.asker.query(sql, PURPOSE)
    assert refused(space, others[2]) == "budget.exhausted"
    assert space.evidence(OWNER)[-1] == ["query.refusal"]


def test_renewals_and_other_offers_of_the_table_share_its_lifetime(space):
    space.agree("renewed")
    for sql in list(variants("renewed"))[:3]:
        space.asker.query(sql, PURPOSE)
    space.agree("renewed")  # renewed: a budget of its own again
    space.asker.query(JOINT.format("renewed"), PURPOSE)
    space.agree("renewed_again")
    one, other = list(variants("renewed_again"))[:2]
    space.asker.query(one, PURPOSE)
    assert refused(space, other) == "budget.dataset-exhausted"
    assert (
        space.asker.explain(one, PURPOSE)["budget"]["privacy"]["costs_rho"] == "0"
    )  # the same is still given
    owner = space.nodes[OWNER].store
    assert owner.lost("dataset renewed", "dataset") == 500_000_000


def test_a_hundred_charges_at_once_take_the_bytes_that_are_left_and_no_more(space):
    node = space.nodes[OWNER]
    agreement = node.agreement(space.agree("raced"), role="provider", peer=ASKER)
    agreed = agreement.policy
    exact = agreed.analysis.model_copy(update={"noise": None})
    uses = agreed.uses.model_copy(update={"bytes": 10_999})
    limited = replace(agreement, policy=agreed.model_copy(update={"uses": uses, "analysis": exact}))

    found = charged_at_once(node, limited, 100, size=1_000)
    assert (found.count("charged"), set(found)) == (10, {"charged", "bytes.exhausted"})
    assert node.bytes_of(limited, node.now()) == 10_000
    assert node.uses_of(limited) == 10


def test_a_query_that_fails_afterwards_is_not_given_back(space, monkeypatch):
    space.agree("failed")

    def fail(*_args):
        raise MemoryError

    monkeypatch.setattr(space.nodes[OWNER], "own_input", fail)
    with pytest.raises(Exception):  # noqa: B017
        space.asker.query(SINGLE.format("failed"), PURPOSE)
    assert space.nodes[OWNER].store.lost("dataset failed", "dataset") == 100_000_000


def test_a_hundred_charges_at_once_spend_the_budget_and_no_more(space):
    digest = space.agree("raced")
    node = space.nodes[OWNER]
    agreement = node.agreement(digest, role="provider", peer=ASKER)

    found = charged_at_once(node, agreement, 100)
    assert found.count("charged") == 3
    assert set(found) == {"charged", "budget.exhausted"}
    assert node.store.lost("dataset raced", "dataset") == 300_000_000
    assert node.uses_of(agreement) == 3  # what was refused has not used anything


def test_what_noise_does_not_cover_is_refused_with_its_reason(space):
    space.agree("joined")
    grouped = JOINT.replace("c.rating", "i.industry").format("joined")
    assert refused(space, grouped) == "noise.joint-dimension"
    assert space.nodes[OWNER].store.lost("dataset joined", "dataset") == 0


def test_suppressions_are_hidden_from_the_asker_and_its_evidence(space):
    space.agree("hidden")
    answer = space.asker.query(SINGLE.format("hidden"), PURPOSE)
    assert answer.suppressed is None
    assert answer.table.num_rows == 1  # steel or retail: the other covers for the two elsewhere
    verified = verify_files(answer.receipt.bundle, trust_file(space.nodes[ASKER].config))
    assert verified.items[1].disclosed.figures == {"cells-released": 1}
    assert {reveal.what for reveal in verified.items[0].record.data.reveals} == {"released-cells"}


def test_a_dominated_group_is_held_back_and_a_join_refused(space):
    space.agree("dominant")
    answer = space.asker.query(SINGLE.format("dominant"), PURPOSE)
    assert (answer.table["industry"].to_pylist(), answer.suppressed) == (["steel"], 2)
    assert refused(space, JOINT.format("dominant")) == "gate.dominance.unavailable"
    assert Fraction(answer.table["s"].to_pylist()[0]) == 58


def test_rows_are_charged_by_what_the_plan_allows_and_stop_at_the_limit(space, monkeypatch):
    digest = space.agree("counted")
    one = "SELECT sum(amount) AS s FROM sz-trade.counted"
    assert space.asker.explain(one, PURPOSE)["budget"]["rows"] == {"costs": 1, "limit": 3, "per": "month"}
    assert space.asker.explain(one, PURPOSE)["budget"]["bytes"]["limit"] == 1_000_000
    # as many groups as a plan has room for
    assert refused(space, SINGLE.format("counted")) == "rows.exhausted"
    space.asker.query(one, PURPOSE)
    with monkeypatch.context() as patched:
        patched.setattr("connector.answering.bytes_at_most", lambda _plan: 10)
        with pytest.raises(BayspaceError) as larger:
            space.asker.query(one.replace("AS s", "AS larger"), PURPOSE)
    assert larger.value.code == "data.unanswerable"
    node = space.nodes[OWNER]
    agreement = node.agreement(digest, role="provider", peer=ASKER)

    found = charged_at_once(node, agreement, 20)
    assert (found.count("charged"), set(found)) == (1, {"charged", "rows.exhausted"})
    assert refused(space, one) == "rows.exhausted"
    assert node.uses_of(agreement) == 3
    assert node.rows_of(agreement, node.now()) == 3
