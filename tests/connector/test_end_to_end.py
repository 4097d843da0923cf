"""Questions across real connectors: every answer equals plaintext, every refusal has a reason, every exchange
leaves a receipt that verifies with nothing running."""

from __future__ import annotations

import json
import threading
import time

import pyarrow.parquet as pq
import pytest

from compute.errors import BayspaceError, ConfigError, DataError, PolicyRefusal, QueryError, Unavailable
from connector import datasets
from connector.receipts import receipt, trust_file
from tests.waiting import settled
from witness import dsse
from witness.checks import VerificationFailed
from witness.verify import verify_files

PURPOSE = "credit-risk"
OWNER, ASKER = "sz-trade", "hk-bank"
COMPLETE = ["query.intent", "query.release", "query.result"]

QUESTIONS = {
    "single": "SELECT industry, count(*) AS n, sum(amount) AS s, avg(amount) AS a FROM {i} GROUP BY industry",
    "total": "SELECT count(*) AS n, sum(amount) AS s FROM {i} WHERE amount > 1000",
    "joint": "SELECT i.industry, count(*) AS n, sum(i.amount) AS s, avg(i.amount) AS a FROM {i} i "
    "JOIN {c} c ON i.company_id = c.company_id GROUP BY i.industry",
    "dates": "SELECT date_trunc('year', i.day) AS d, count(*) AS n, sum(i.amount) AS s FROM {i} i "
    "JOIN {c} c ON i.company_id = c.company_id WHERE i.day < DATE '1969-12-31' "
    "GROUP BY date_trunc('year', i.day)",
    "before 1970": "SELECT count(*) AS n, sum(i.amount) AS s FROM {i} i "
    "JOIN {c} c ON i.company_id = c.company_id WHERE i.day < DATE '1971-12-31'",
    "filtered": "SELECT count(*) AS n FROM {i} i JOIN {c} c ON i.company_id = c.company_id "
    "WHERE i.industry IN ('甲业', '丙业') AND i.amount BETWEEN 100 AND 5000",
}
BOTH = (
    "SELECT c.rating, i.industry, count(*) AS n, sum(i.amount) AS s FROM {i} i "
    "JOIN {c} c ON i.company_id = c.company_id GROUP BY c.rating, i.industry"
)


def asked(sql: str, offer: str) -> str:
    return sql.format(i=f"{OWNER}.{offer}", c=f"{ASKER}.credit")


def cells(rows, identities=None):
    """Rows as a set; plaintext rows of fewer than three identities are the ones that must be held back."""
    kept = [row for row in rows if identities is None or row["ids"] >= 3]
    return {tuple((k, str(v)) for k, v in sorted(row.items()) if k != "ids") for row in kept}


def plain(pooled, sql: str):
    counted = "i.company_id" if "JOIN" in sql else "company_id"
    text = sql.replace("SELECT ", f"SELECT count(DISTINCT {counted}) AS ids, ", 1)
    return pooled(text.format(i="invoices", c="credit"))


@pytest.mark.parametrize("offer", ["invoices", "matched"])
@pytest.mark.parametrize("name", QUESTIONS)
def test_released_cells_equal_plaintext_and_the_rest_is_held_back(shared, pooled, name, offer):
    sql = QUESTIONS[name]
    answer = shared.asker.query(asked(sql, offer), PURPOSE)
    expected = plain(pooled, sql)
    assert cells(answer.table.to_pylist()) == cells(expected, identities=True)
    assert answer.suppressed == sum(0 < row["ids"] < 3 for row in expected)


def test_groups_of_both_sides(shared, pooled):
    answer = shared.asker.query(asked(BOTH, "matched"), PURPOSE)
    expected = plain(pooled, BOTH)
    assert cells(answer.table.to_pylist()) == cells(expected, identities=True)
    assert answer.summary["protocol"] == "psi_aggregate"


def test_the_disclosure_level_of_the_offer_chooses_the_protocol(shared):
    sql = QUESTIONS["joint"]
    assert (
        shared.asker.query(asked(sql, "invoices"), PURPOSE).summary["protocol"] == "private_join_and_compute"
    )
    assert shared.asker.query(asked(sql, "matched"), PURPOSE).summary["protocol"] == "psi_aggregate"


def test_the_protocol_is_chosen_no_looser_than_the_offer_allows(shared):
    sql = QUESTIONS["joint"]
    named = shared.asker.query(asked(sql, "matched"), PURPOSE, protocol="private_join_and_compute")
    assert named.summary["protocol"] == "private_join_and_compute"
    assert cells(named.table.to_pylist()) == cells(
        shared.asker.query(asked(sql, "matched"), PURPOSE).table.to_pylist()
    )
    with pytest.raises(QueryError) as refused:
        shared.asker.query(asked(sql, "invoices"), PURPOSE, protocol="psi_aggregate")
    assert refused.value.code == "protocol.level"


def test_a_receipt_verifies_offline_and_carries_the_trace(shared):
    answer = shared.asker.query(asked(QUESTIONS["joint"], "matched"), PURPOSE)
    trust = trust_file(shared.nodes[ASKER].config)
    verified = verify_files(answer.receipt.bundle, trust)
    assert [item.record.event for item in verified.items] == COMPLETE
    assert {item.disclosed.correlation for item in verified.items} == {answer.trace_id}
    assert set(verified.items[0].signers) == {OWNER, ASKER}
    # both sides hold the same two-signed records
    owners = shared.nodes[OWNER].evidence
    owners.settle(answer.summary["exchange"], 10)
    theirs = verify_files(receipt(shared.nodes[OWNER].store, answer.summary["exchange"]), trust)
    assert [item.digest for item in theirs.items] == [item.digest for item in verified.items[:2]]
    opened = verify_files(receipt(shared.nodes[OWNER].store, answer.summary["exchange"], ["release"]), trust)
    assert len(opened.items[1].opened["release"]) == 32


def test_a_receipt_can_open_query_and_result(shared):
    sql = asked(QUESTIONS["total"], "matched")
    answer = shared.asker.query(sql, PURPOSE)
    store, trust = shared.nodes[ASKER].store, trust_file(shared.nodes[ASKER].config)
    shown = verify_files(receipt(store, answer.summary["exchange"], ["query", "plan", "result"]), trust)
    assert shown.items[0].opened["query"].decode() == sql
    assert json.loads(shown.items[0].opened["plan"])["protocol"] == "single_domain"
    assert b"ARROW" in shown.items[2].opened["result"] or len(shown.items[2].opened["result"]) > 100


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_flipped_bit_is_found(shared, place):
    answer = shared.asker.query(asked(QUESTIONS["total"], "matched"), PURPOSE)
    broken = bytearray(answer.receipt.bundle)
    broken[int(len(broken) * place)] ^= 1
    with pytest.raises(VerificationFailed):
        verify_files(bytes(broken), trust_file(shared.nodes[ASKER].config))


def test_the_evidence_holds_no_name_no_sql_and_no_cell(shared):
    shared.asker.query(asked(QUESTIONS["joint"], "matched"), PURPOSE)
    for node in shared.nodes.values():
        for exchange in node.store.exchanges():
            for record in node.store.evidence(exchange.id):
                payload = dsse.parse(record.envelope).payload.decode()
                for secret in ("SELECT", "甲业", "SECRET-VALUE", "company_id", PURPOSE):
                    assert secret not in payload


def test_a_policy_refusal_names_every_reason_and_becomes_evidence(shared):
    sql = "SELECT secret_note, sum(amount) AS s FROM {i} WHERE company_id = 'C001' GROUP BY secret_note"
    with pytest.raises(PolicyRefusal) as refused:
        shared.asker.query(asked(sql, "matched"), PURPOSE)
    reasons = {(reason.code, reason.column) for reason in refused.value.decision.because}
    assert ("dimension.not-allowed", "secret_note") in reasons
    assert ("identity.compared-with-literal", "company_id") in reasons
    assert shared.evidence(ASKER)[-1] == ["query.refusal"]


@pytest.mark.parametrize("purpose", ["", "marketing"])
def test_the_purpose_counts(shared, purpose):
    with pytest.raises(PolicyRefusal) as refused:
        shared.asker.query(asked(QUESTIONS["total"], "matched"), purpose)
    assert refused.value.decision.because[0].rule == "purpose"


def test_explain_says_what_would_happen_and_charges_nothing(shared):
    sql = asked(BOTH, "matched")
    before = shared.asker.explain(sql, PURPOSE)
    again = shared.asker.explain(sql, PURPOSE, "zh")
    assert before["verdict"] == "permit"
    assert before["budget"]["uses"]["used"] == again["budget"]["uses"]["used"]
    assert "连接器" in again["learns"][-1]["sentence"]
    assert {row["column"] for row in before["columns"]} == {"*", "company_id", "industry", "amount", "rating"}
    refused = shared.asker.explain(sql, "marketing")
    assert refused["verdict"] == "refuse"


def test_explain_and_the_evidence_name_the_same_disclosures(shared):
    sql = asked(BOTH, "matched")
    explained = {(event["who"], event["fact"]) for event in shared.asker.explain(sql, PURPOSE)["learns"]}
    answer = shared.asker.query(sql, PURPOSE)
    verified = verify_files(answer.receipt.bundle, trust_file(shared.nodes[ASKER].config))
    recorded = {(r.party, r.what.removesuffix("+ungated")) for r in verified.items[0].record.data.reveals}
    assert explained == recorded


def test_uses_run_out_at_the_owner(build_space):
    space = build_space(uses=2)
    space.agree("matched")
    sql = asked(QUESTIONS["total"], "matched")
    for _ in range(2):
        space.asker.query(sql, PURPOSE)
    with pytest.raises(PolicyRefusal) as refused:
        space.asker.query(sql, PURPOSE)
    assert refused.value.code == "uses.exhausted"
    assert space.evidence(OWNER)[-1] == ["query.refusal"]  # the owner decided, the asker could not know
    assert space.evidence(ASKER)[-1] == ["query.refusal"]


def test_concurrent_questions_never_exceed_the_policy(shared):
    """Six at once under an agreement that allows two: the others are refused, none fails otherwise."""
    outcomes = []

    def ask():
        try:
            shared.asker.query(asked(QUESTIONS["joint"], "matched"), PURPOSE)
            outcomes.append("answered")
        except PolicyRefusal as refusal:
            outcomes.append(refusal.code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {"answered", "uses.concurrent"}
    assert "answered" in outcomes
    assert shared.asker.query(asked(QUESTIONS["total"], "matched"), PURPOSE).table.num_rows == 1


def test_without_an_agreement_nothing_is_asked(fresh):
    with pytest.raises(PolicyRefusal) as refused:
        fresh.asker.query(asked(QUESTIONS["total"], "matched"), PURPOSE)
    assert refused.value.code == "agreement.none"
    assert fresh.evidence(OWNER) == []


def test_a_suspended_agreement_answers_nothing_until_it_is_resumed(fresh):
    agreement = fresh.agree("matched")
    sql = asked(QUESTIONS["total"], "matched")
    assert fresh.owner.contract("list")[0]["you_can"] == ["suspend", "terminate"]
    (suspended,) = fresh.owner.contract("suspend", agreement=agreement)
    assert (suspended["agreement_state"], suspended["you_can"]) == ("suspended", ["resume", "terminate"])
    assert fresh.asker.contract("list")[0]["you_can"] == ["terminate"]
    with pytest.raises(PolicyRefusal) as refused:
        fresh.asker.query(sql, PURPOSE)
    assert refused.value.code == "agreement.suspended"
    fresh.owner.contract("resume", agreement=agreement)
    assert fresh.asker.query(sql, PURPOSE).table.num_rows == 1
    fresh.asker.contract("terminate", agreement=agreement)
    with pytest.raises(PolicyRefusal):
        fresh.asker.query(sql, PURPOSE)
    contract = fresh.owner.contract("show", agreement=agreement)[0]
    assert (contract["state"], contract["agreement_state"]) == ("TERMINATED", "terminated")


def test_a_rejected_request_is_over(fresh):
    asked_for = fresh.asker.contract("request", participant=OWNER, offer="matched")[0]
    fresh.owner.contract("reject", agreement=asked_for["negotiation"])
    assert fresh.asker.contract("show", agreement=asked_for["negotiation"])[0]["state"] == "TERMINATED"
    with pytest.raises(ConfigError):
        fresh.owner.contract("approve", agreement=asked_for["negotiation"])


def test_only_the_owner_approves(fresh):
    asked_for = fresh.asker.contract("request", participant=OWNER, offer="matched")[0]
    with pytest.raises(ConfigError):
        fresh.asker.contract("approve", agreement=asked_for["negotiation"])


def test_a_policy_that_demands_a_witness_does_not_run_without_one(fresh):
    fresh.agree("matched")
    fresh.agree("open")
    fresh.stop_witness()
    with pytest.raises(Unavailable) as failed:
        fresh.asker.query(asked(QUESTIONS["joint"], "matched"), PURPOSE)
    assert failed.value.code == "witness.unavailable"
    assert not any("query.release" in events for events in fresh.evidence(OWNER))
    # an offer without the duty answers; its evidence waits and is delivered once the witness is back
    answer = fresh.asker.query(asked(QUESTIONS["joint"], "open"), PURPOSE)
    assert answer.table.num_rows
    assert not answer.receipt.bundle
    fresh.start_witness()
    assert fresh.nodes[ASKER].evidence.settle(answer.summary["exchange"], 30)
    bundle = receipt(fresh.nodes[ASKER].store, answer.summary["exchange"])
    assert verify_files(bundle, trust_file(fresh.nodes[ASKER].config))


def test_an_agreement_is_about_the_version_it_was_made_for(fresh):
    """The owner publishes other data under the same offer: the old agreement does not reach it."""
    fresh.agree("matched")
    sql = asked(QUESTIONS["total"], "matched")
    before = fresh.asker.query(sql, PURPOSE).table
    settings, store = fresh.nodes[OWNER].config, fresh.nodes[OWNER].store
    file = settings.folder / "data" / "invoices.parquet"
    pq.write_table(pq.read_table(file).slice(0, 50), file)
    datasets.add(settings, store, "invoices")
    with pytest.raises(BayspaceError):
        fresh.asker.query(sql, PURPOSE)
    fresh.agree("matched")
    assert fresh.asker.query(sql, PURPOSE).table != before


def test_data_that_changed_since_it_was_published_is_not_served(fresh):
    fresh.agree("matched")
    file = fresh.folder / OWNER / "data" / "invoices.parquet"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DataError) as failed:
        fresh.asker.query(asked(QUESTIONS["total"], "matched"), PURPOSE)
    assert failed.value.code == "data.unanswerable"  # why is the owner's own affair, and in its evidence
    assert fresh.evidence(OWNER)[-1] == ["query.intent", "query.failure"]


def test_closing_the_stream_cancels_the_owners_end_and_leaves_evidence(shared, monkeypatch):
    """What Ctrl-C does: the analyst's call ends, the owner's end stops, both sides record the failure."""
    entered, proceed = threading.Event(), threading.Event()
    node = shared.nodes[OWNER]
    real = node.own_input

    def slow(*arguments):
        entered.set()
        proceed.wait(10)
        return real(*arguments)

    monkeypatch.setattr(node, "own_input", slow)
    call = shared.asker._stub.Query(_request(asked(QUESTIONS["joint"], "matched")))
    assert entered.wait(20)
    call.cancel()
    time.sleep(0.3)
    proceed.set()
    failed = ["query.intent", "query.failure"]
    assert settled(lambda: [shared.evidence(name)[-1] for name in (OWNER, ASKER)] == [failed, failed])
    monkeypatch.undo()
    assert not node.store.running()
    assert shared.asker.query(asked(QUESTIONS["joint"], "matched"), PURPOSE).table.num_rows


def _request(sql):
    from connector.v1 import analyst_pb2

    return analyst_pb2.QueryRequest(sql=sql, purpose=PURPOSE)


HOSTILE = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "COPY (SELECT 1) TO '/tmp/out.csv'",
    "ATTACH '/tmp/other.db' AS other",
    "SELECT sum(amount) FROM sz-trade.matched; DROP TABLE x",
    "SELECT pg_read_file('/etc/passwd') FROM sz-trade.matched",
    "SELECT getenv('HOME'), count(*) FROM sz-trade.matched GROUP BY 1",
    "SELECT sum(amount) FROM sz-trade.matched WHERE secret_note = (SELECT max(day) FROM sz-trade.matched)",
    "SELECT count(*) FROM sz-trade.matched WHERE company_id IN (SELECT secret_note FROM sz-trade.matched)",
    "SELECT sum(CASE WHEN company_id = 'C001' THEN amount ELSE 0 END) FROM sz-trade.matched",
    "SELECT sum(amount) FILTER (WHERE secret_note LIKE 'SECRET%') FROM sz-trade.matched",
    "SELECT count(*) FROM sz-trade.matched WHERE CAST(secret_note AS INTEGER) > 0",
    "SELECT count(*) FROM sz-trade.matched WHERE 1 / (amount - 100.25) > 0",
    "SELECT error(secret_note) FROM sz-trade.matched",
    "SELECT company_id, count(*) FROM sz-trade.matched GROUP BY company_id",
    "SELECT min(secret_note) FROM sz-trade.matched",
    "SELECT string_agg(secret_note, ',') FROM sz-trade.matched",
    "SELECT count(*) FROM sz-trade.matched m JOIN hk-bank.credit c ON m.secret_note = c.rating",
    "SELECT count(*) FROM sz-trade.matched HAVING count(*) < (SELECT 1)",
    "PRAGMA database_list",
    "SELECT 1",
    "",
    "SELECT sum(amount) FROM sz-trade.matched WHERE " + "(" * 3000 + "amount > 1" + ")" * 3000,
]


@pytest.mark.parametrize("sql", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_sql_is_refused_without_a_cell_value(shared, sql):
    released = shared.evidence(OWNER)
    with pytest.raises((QueryError, PolicyRefusal)) as refused:
        shared.asker.query(sql, PURPOSE)
    said = str(refused.value) + json.dumps(
        [r.sentence for r in refused.value.decision.because]
        if isinstance(refused.value, PolicyRefusal)
        else []
    )
    for secret in ("SECRET", "甲业", "C001", "root:"):
        assert secret not in said
    assert shared.evidence(OWNER) == released


def test_a_stranger_and_a_peer_cannot_use_the_analysts_service(shared):
    """hk-bank's certificate opens its own connector's analyst service, never the owner's."""
    import grpc

    from connector.identity import channel_credentials, channel_options
    from connector.v1 import analyst_pb2, analyst_pb2_grpc

    config = shared.nodes[ASKER].config
    target = shared.nodes[OWNER].config.network.address
    channel = grpc.secure_channel(target, channel_credentials(config.tls), channel_options("gba", OWNER))
    with pytest.raises(grpc.RpcError) as refused:
        analyst_pb2_grpc.AnalystStub(channel).Contract(analyst_pb2.ContractCommand(action="list"), timeout=10)
    assert refused.value.code() is grpc.StatusCode.ABORTED
    channel.close()
