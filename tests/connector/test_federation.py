"""Questions over a federation of real connectors: equal to the pooled rows, or nothing, with evidence."""

from __future__ import annotations

import io
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from compute import federation
from compute.errors import BayspaceError, PeerViolation, PolicyRefusal, QueryError, Unavailable
from compute.pooling import Part
from compute.protocols import masked_sum
from compute.protocols.base import Frame
from connector import analyst, answering, config, connect, datasets, meeting, rounds, space
from connector.alike import unlike
from connector.api import Space
from connector.cli.explained import render
from connector.node import Node
from connector.receipts import trust_file
from connector.service import Server
from connector.stopping import Stop
from connector.storage import Store
from connector.transport import Headers
from connector.v1 import analyst_pb2
from connector.witnesses import init_witness, load_witness, witness_seat
from tests.waiting import settled
from witness import dsse
from witness.record import Record
from witness.server import serve
from witness.verify import verify_files

ASKER, WITNESS = "hk-monitor", "witness-a"
BANKS = {"hk-bank": "HK", "mo-bank": "MO", "sz-bank": "CN-SZ"}
PURPOSE = "credit-risk"
FRAME_SECONDS = 10
REGIONS = ("深圳", "Hong Kong", "澳门")
DESCRIPTION = """\
title: {{en: Loans, zh: 贷款}}
source: {{kind: parquet, path: ../data/loans.parquet}}
rights: {{holder: {bank}}}
columns:
  client: {{type: string}}
  region: {{type: string}}
  year: {{type: int64, bounds: [2000, 2100]}}
  amount: {{type: "decimal(12,2)", bounds: [0, {most}]}}
  overdue: {{type: int64, bounds: [-1000, 1000]}}
  defaulted: {{type: bool}}
offers: {{loans: loans.yaml}}
"""
POLICY = """\
policy: loans-v1
dataset: {bank}.loans
assignee: [hk-monitor]
purpose: [credit-risk]
uses: {{count: {uses}}}
analysis:
  kinds: [aggregate]
  dimensions: [region, year]
  domains: {{region: [深圳, Hong Kong, 澳门], year: [2024, 2025]}}
  filters: {{amount: range, overdue: range}}
  measures: {{"*": [count], amount: [sum, avg, logistic], overdue: [sum, avg, var, covar, corr, regr],
    defaulted: [logistic]}}
  identity: client
  minimum_identities: 5
  federation: {{name: {name}, scope: {scope}, minimum_participants: 2{beside}}}
{more}duties: [{{log: witness, minimum_witnesses: 1}}]
"""
BY_REGION = (
    "SELECT region, count(*) AS n, sum(amount) AS s, avg(overdue) AS o FROM federation.loans GROUP BY region"
)
QUESTIONS = {
    "by region": BY_REGION,
    "moments": "SELECT var_pop(overdue) AS v, avg(amount) AS a, count(*) AS n FROM federation.loans "
    "WHERE amount > 100",
    "two columns": "SELECT year, region, sum(overdue) AS s FROM federation.loans GROUP BY year, region",
}


def loans(bank: str, rows: int = 90) -> pa.Table:
    """Clients of a bank; Macau has few of them anywhere, and none in 2024."""
    draw = random.Random(bank)
    made = []
    for _ in range(rows):
        region = draw.choices(REGIONS, (10, 10, 1))[0]
        year = 2025 if region == "澳门" else draw.choice((2024, 2025))
        amount, overdue = draw.randrange(0, 10**6) / 100, draw.choice((None, -3, 0, 7, 90))
        client, defaulted = f"{bank}-{draw.randrange(80)}-{year}", draw.random() < amount / 10**4
        made.append((client, region, year, f"{amount:.2f}", overdue, defaulted))
    names = ("client", "region", "year", "amount", "overdue", "defaulted")
    table = pa.table(dict(zip(names, map(list, zip(*made, strict=True)), strict=True)))
    return table.set_column(3, "amount", table["amount"].cast(pa.decimal128(12, 2)))


@dataclass
class Federation:
    """Banks, an asker and a witness, in this process, over mutual TLS on loopback."""

    folder: Path
    tables: dict[str, pa.Table]
    nodes: dict[str, Node] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    clients: dict[str, Space] = field(default_factory=dict)
    witness_stop: threading.Event = field(default_factory=threading.Event)

    @property
    def asker(self) -> Space:
        return self.clients[ASKER]

    def pooled(self, sql: str, least: int = 0) -> list[dict[str, Any]]:
        """The same SQL over all rows; only cells of at least as many clients."""
        rows = pa.concat_tables(self.tables.values())  # noqa: F841  DuckDB reads it
        text = sql.replace("SELECT ", "SELECT count(DISTINCT client) AS ids, ", 1)
        found = duckdb.sql(text.replace("federation.loans", "rows")).to_arrow_table().to_pylist()
        return [{k: v for k, v in row.items() if k != "ids"} for row in found if row["ids"] >= least]

    def events(self, name: str) -> list[list[str]]:
        """The events of every query exchange of one participant, oldest first."""
        store = self.nodes[name].store
        return [[r.event for r in store.evidence(e.id)] for e in store.exchanges() if e.kind == "query"]

    def failures(self) -> list[str | None]:
        """The code of each query exchange's last record at the asker, oldest first."""
        store = self.nodes[ASKER].store
        last = [store.evidence(e.id)[-1].envelope for e in store.exchanges() if e.kind == "query"]
        return [Record.parse(dsse.parse(envelope).payload).outcome.reason for envelope in last if envelope]

    def uses(self, bank: str) -> int:
        """How often a bank charged the asker."""
        store = self.nodes[bank].store
        (agreement,) = store.agreements(role="provider", state="active")
        return store.used(agreement.digest, "agreement")


@contextmanager
def running(folder: Path, **changes: dict[str, Any]) -> Iterator[Federation]:
    """A federation with agreements in force. `changes`: what a bank's policy or description says else."""
    made = build(folder, changes)
    try:
        start(made)
        yield made
    finally:
        for name in list(made.servers):
            made.clients[name].close()
            made.servers[name].stop(0)
            made.nodes[name].close()
        made.witness_stop.set()


def build(folder: Path, changes: dict[str, dict[str, Any]]) -> Federation:
    members = {ASKER: "HK", **BANKS}
    ports = iter(free_ports(len(members) + 2))
    space.init(folder / "space", "gba")
    where = [f"127.0.0.1:{next(ports)}" for _ in range(2)]
    init_witness(folder / WITNESS, WITNESS, "gba", "CN-SZ", "w.example/log", *where)
    space.enrol_local(folder / "space", witness_seat(folder / WITNESS))
    for name, place in members.items():
        made = config.init(
            folder / name, name, "gba", place, f"127.0.0.1:{next(ports)}", witnesses=(WITNESS,)
        )
        file = made.folder / config.FILE
        said = f"frame_timeout_seconds = {FRAME_SECONDS}"
        file.write_text(file.read_text().replace("frame_timeout_seconds = 60", said))
        space.enrol_local(folder / "space", made.seat)
    tables = {bank: loans(bank) for bank in BANKS}
    for bank in BANKS:
        publish(folder, bank, tables[bank], changes.get(bank.replace("-", "_"), {}))
    return Federation(folder, tables)


def publish(folder: Path, bank: str, table: pa.Table, changes: dict[str, Any]) -> None:
    words = {"bank": bank, "uses": 50, "name": "loans", "scope": "total", "most": 10000}
    words |= {"beside": "", "more": "", **changes}
    settings = config.load(folder / bank)
    (settings.folder / "data").mkdir()
    pq.write_table(table, settings.folder / "data" / "loans.parquet")
    (settings.datasets_folder / "loans.yaml").write_text(DESCRIPTION.format(**words), encoding="utf-8")
    (settings.policies_folder / "loans.yaml").write_text(POLICY.format(**words), encoding="utf-8")
    store = Store.open(settings.state_url)
    datasets.add(settings, store, "loans")
    store.close()


def start(made: Federation) -> None:
    ready = threading.Event()
    witness = load_witness(made.folder / WITNESS)
    args = (witness, made.witness_stop, lambda *_: ready.set())
    threading.Thread(target=serve, args=args, daemon=True).start()
    assert ready.wait(20)
    for name in (ASKER, *BANKS):
        node = Node(config.load(made.folder / name))
        server = Server(node)
        server.start()
        made.nodes[name], made.servers[name], made.clients[name] = node, server, connect(node.config)
    for bank in BANKS:
        agreed(made, bank)


def agreed(made: Federation, bank: str) -> None:
    asked = made.asker.contract("request", participant=bank, offer="loans")[0]
    made.clients[bank].contract("approve", agreement=asked["negotiation"])


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with running(tmp_path_factory.mktemp("federation")) as made:
        yield made


def cells(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    return {
        tuple((k, f"{v:.9g}" if isinstance(v, float) else str(v)) for k, v in sorted(row.items()))
        for row in rows
    }


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_equal_the_pooled_rows(shared: Federation, name: str) -> None:
    answer = shared.asker.query(QUESTIONS[name], PURPOSE)
    assert cells(answer.table.to_pylist()) == cells(shared.pooled(QUESTIONS[name], least=5))
    assert answer.summary["protocol"] in ("masked_sum", "he_sum")
    assert len(set(answer.summary["exchanges"])) == len(BANKS)


FIT = "SELECT logistic_regression(defaulted, [amount]) FROM federation.loans"


def test_a_logistic_regression_is_that_of_the_pooled_rows(shared: Federation) -> None:
    before = [shared.uses(bank) for bank in BANKS]
    answer = shared.asker.query(FIT, PURPOSE)
    (found,) = answer.table.to_pylist()
    rows = pa.concat_tables(shared.tables.values())
    y, x = (np.array([float(v) for v in rows[name].to_pylist()]) for name in ("defaulted", "amount"))
    b, columns = np.zeros(2), np.column_stack([np.ones(len(x)), x / 10**4])
    for _ in range(20):
        p = 1 / (1 + np.exp(-columns @ b))
        b = b + np.linalg.solve((columns * (p * (1 - p))[:, None]).T @ columns, columns.T @ (y - p))
    assert (found["n"], found["fit"]) == (len(y), "fitted")
    assert np.allclose([found["intercept"], found["amount"] * 10**4], b, rtol=1e-7)
    assert [shared.uses(bank) for bank in BANKS] == [n + 1 for n in before]  # once, for all steps
    verified = verify_files(answer.receipt.bundle, trust_file(shared.nodes[ASKER].config))
    figures = [i.disclosed.figures for i in verified.items if i.record.event == "query.release"]
    assert figures == [{"cells-released": 1}] * len(BANKS)


def test_what_is_explained_of_a_logistic_regression(shared: Federation) -> None:
    found = shared.asker.explain(FIT, PURPOSE)
    assert found["verdict"] == "permit"
    assert [p["name"] for p in found["federation"]["protocols"]] == ["logistic_steps"]
    assert "sums of every step" in found["federation"]["coalitions"][1]["learns"]
    assert "only with 125 identities" in found["federation"]["why"]
    learns = {(event["who"], event["fact"]) for event in found["learns"]}
    assert ("each participant", "step-totals") in learns
    assert (ASKER, "total-counts") not in learns
    refused = FIT.replace("amount", "overdue")
    with pytest.raises(PolicyRefusal) as error:
        shared.asker.query(refused, PURPOSE)
    assert [r.code for r in error.value.decision.because] == ["measure.function-not-allowed"]


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["shared-key-length", "commitment", "more", "part", "sealed"])
def test_a_participant_that_vanishes_in_a_fit_releases_nothing(
    shared: Federation, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    failing(monkeypatch, "mo-bank", kind)
    with pytest.raises(Unavailable) as error:
        shared.asker.query(FIT, PURPOSE)
    assert error.value.code == "federation.participant-failed"
    mine = shared.events(ASKER)[-len(BANKS) :]
    assert [events[-1] for events in mine] == ["query.failure"] * len(BANKS)
    assert not any("query.result" in events for events in mine)
    monkeypatch.undo()
    assert shared.asker.query(FIT, PURPOSE).table.num_rows == 1


def test_one_receipt_holds_every_exchange_of_the_round(shared: Federation) -> None:
    answer = shared.asker.query(BY_REGION, PURPOSE)
    verified = verify_files(answer.receipt.bundle, trust_file(shared.nodes[ASKER].config))
    records = [item.record for item in verified.items]
    assert [r.event for r in records] == ["query.intent", "query.release", "query.result"] * len(BANKS)
    assert {p.id for r in records for p in r.parties} == {ASKER, *BANKS}
    assert len({r.data.digests["roster"] for r in records if r.event == "query.release"}) == 1
    assert {item.disclosed.correlation for item in verified.items} == {answer.trace_id}
    figures = [i.disclosed.figures for i in verified.items if i.record.event == "query.release"]
    assert figures == [{"cells-released": answer.table.num_rows}] * len(BANKS)


def test_explain_says_who_learns_what_by_colluding_with_whom(shared: Federation) -> None:
    before = [shared.uses(bank) for bank in BANKS]
    found = shared.asker.explain(BY_REGION, PURPOSE)
    assert found["verdict"] == "permit"
    assert [p["participant"] for p in found["federation"]["participants"]] == sorted(BANKS)
    chosen = [p["name"] for p in found["federation"]["protocols"] if p["chosen"]]
    assert chosen == [found["protocol"]["name"]] == [found["federation"]["protocols"][0]["name"]]
    assert [one["who"] for one in found["federation"]["coalitions"]] == [
        "hk-monitor alone",
        "any participants without hk-monitor",
        "hk-monitor and all participants but two",
        "hk-monitor and all participants but one",
    ]
    assert "sum of the two others" in found["federation"]["coalitions"][2]["learns"]
    # counts are shown before the gate, so whoever takes the others' off has those of cells held back too
    assert "in every cell, released or not" in found["federation"]["coalitions"][3]["learns"]
    assert found["federation"]["own"] is None
    assert found["federation"]["participants"][0]["protection"] == (
        "its part goes into totals with at least 2 participants; of at least 5 identities in all"
    )
    assert found["transfer"] == {}
    assert [part["transfer"] for part in found["federation"]["participants"]] == [{}] * len(BANKS)
    chinese = shared.asker.explain(BY_REGION, PURPOSE, "zh")
    assert "每个参与方" in json_of(chinese["learns"])
    assert "无论是否放行" in chinese["federation"]["coalitions"][3]["learns"]
    page = printed(chinese)
    assert [
        word for word in ("准许", "合谋时谁获知什么", "各方连接器均遵守协议", "剩余次数") if word not in page
    ] == []
    assert [shared.uses(bank) for bank in BANKS] == before


def printed(found: dict[str, Any]) -> str:
    written = io.StringIO()
    render(Console(file=written, width=400), found)
    return written.getvalue()


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ({"mo-bank.loans"}, "mo-bank.loans: there is no such column"),
        ({f"{bank}.loans" for bank in BANKS}, "there is no such column"),
    ],
)
def test_who_cannot_plan_a_question_that_others_can_is_named(
    shared: Federation, monkeypatch: pytest.MonkeyPatch, lacking: set[str], said: str
) -> None:
    planned = rounds.prepared_by

    def prepared(node: Node, name: str, sql: str, by: Any, *rest: Any) -> Any:
        if by.full_name in lacking:
            raise QueryError("query.unknown-column", "there is no such column")
        return planned(node, name, sql, by, *rest)

    monkeypatch.setattr(rounds, "prepared_by", prepared)
    with pytest.raises(QueryError) as error:
        rounds.inquire(shared.nodes[ASKER], BY_REGION, PURPOSE)
    assert (error.value.code, error.value.sentence) == ("query.unknown-column", said)


@pytest.mark.parametrize(
    ("described", "demanded", "said"),
    [
        ({}, {}, []),
        ({"type": "int64"}, {}, ["type of amount"]),
        ({"bounds": ("0", "7")}, {"bounds": {"amount": ("0", "7")}}, ["bounds of amount"]),
        ({}, {"domains": {"region": ("深圳",)}}, ["domains of region"]),
        ({}, {"identity": "region"}, ["identity"]),
        ({"grade": 3}, {"minimum_identities": 9}, []),  # no part of a plan
    ],
)
def test_what_two_parts_declare_differently_is_named(
    shared: Federation, described: dict[str, Any], demanded: dict[str, Any], said: list[str]
) -> None:
    held = shared.nodes[ASKER].agreements_in_force()
    one, other = held[0], held[1]
    columns = tuple(replace(c, **described) if c.name == "amount" else c for c in other.dataset.columns)
    analysis = other.policy.analysis.model_copy(update=demanded)
    changed = replace(
        other,
        dataset=replace(other.dataset, columns=columns),
        policy=other.policy.model_copy(update={"analysis": analysis}),
    )
    assert unlike({"*", "amount", "region"}, one, changed) == said


def test_a_bank_of_a_federation_is_not_asked_alone(shared: Federation) -> None:
    """Its own figures would be what the federation is there to hide."""
    before = shared.uses("hk-bank")
    with pytest.raises(PolicyRefusal) as error:
        shared.asker.query("SELECT region, sum(amount) AS s FROM hk-bank.loans GROUP BY region", PURPOSE)
    assert [reason.code for reason in error.value.decision.because] == ["federation.too-few"]
    assert error.value.decision.because[0].allowed == "federation.loans"
    assert shared.uses("hk-bank") == before


def json_of(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT count(*) FROM federation.leases", "query.federation"),
        ("SELECT count(*) FROM federation.loans a JOIN hk-bank.loans b ON a.client = b.client", "query"),
        ("SELECT client, count(*) FROM federation.loans GROUP BY client", "query.group-undeclared"),
    ],
)
def test_what_cannot_be_asked(shared: Federation, sql: str, code: str) -> None:
    with pytest.raises(QueryError) as error:
        shared.asker.query(sql, PURPOSE)
    assert error.value.code.startswith(code)


def test_a_policy_refusal_is_one_of_all_and_charges_nobody(shared: Federation) -> None:
    before = [shared.uses(bank) for bank in BANKS]
    with pytest.raises(PolicyRefusal) as refused:
        shared.asker.query(BY_REGION, "marketing")
    assert [reason.code for reason in refused.value.decision.because] == ["purpose.not-allowed"]
    assert shared.events(ASKER)[-len(BANKS) :] == [["query.refusal"]] * len(BANKS)
    assert [shared.uses(bank) for bank in BANKS] == before


# --- what goes wrong ----------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, bank: str, kind: str) -> None:
    """Let a bank's connector go away where it would have sent a frame of this kind."""
    whole = answering.Answering.run

    def run(self: answering.Answering) -> Any:
        role = whole(self)
        item = role.send(None)
        try:
            while True:
                if self._node.id == bank and isinstance(item, Frame) and item.kind == kind:
                    raise Unavailable("peer.gone", "the connector was stopped")
                frame = yield item
                try:
                    item = role.send(frame)
                except StopIteration:
                    return
        finally:
            role.close()

    monkeypatch.setattr(answering.Answering, "run", run)


LATER = [pytest.param(kind, marks=pytest.mark.deep) for kind in ("start", "counts", "sealed", "outcome")]


@pytest.mark.parametrize(
    "kind", ["accept", *(pytest.param(kind, marks=pytest.mark.deep) for kind in ("round-key", "key")), *LATER]
)
def test_a_participant_that_goes_away_releases_nothing_and_leaves_evidence(
    shared: Federation, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    before = {bank: shared.uses(bank) for bank in BANKS}
    earlier = {bank: len(shared.events(bank)) for bank in BANKS}
    failing(monkeypatch, "mo-bank", kind)
    with pytest.raises(Unavailable) as error:
        shared.asker.query(BY_REGION, PURPOSE)
    assert error.value.code == "federation.participant-failed"
    assert "mo-bank" in error.value.sentence
    mine = shared.events(ASKER)[-len(BANKS) :]
    assert [events[-1] for events in mine] == ["query.failure"] * len(BANKS)
    assert not any("query.result" in events for events in mine)
    codes = shared.failures()[-len(BANKS) :]
    assert codes.count("federation.participant-failed") == len(BANKS) - 1
    for bank in BANKS:  # whatever its part was, its end is on record; one may not have been reached at all
        assert settled(
            lambda bank=bank: all(
                events and events[-1] in ("query.failure", "query.release")
                for events in shared.events(bank)[earlier[bank] :]
            )
        )
    assert shared.events("mo-bank")[-1][-1] == ("query.release" if kind == "key" else "query.failure")
    charged = [shared.uses(bank) - before[bank] for bank in BANKS]
    assert shared.uses("mo-bank") - before["mo-bank"] == (kind != "accept")
    if kind not in ("start", "round-key"):  # whether the others had started by then, the machine decides
        assert charged == [0 if kind == "accept" else 1] * len(BANKS)
    monkeypatch.undo()
    again = shared.asker.query(BY_REGION, PURPOSE)  # a new query, charged again
    assert cells(again.table.to_pylist()) == cells(shared.pooled(BY_REGION, least=5))
    assert [shared.uses(bank) - before[bank] for bank in BANKS] == [n + 1 for n in charged]


@pytest.mark.deep
def test_a_participant_that_falls_silent_fails_the_round(
    shared: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = masked_sum.agreed

    def silent(member: Any, scheme: Any, roster: Any, entropy: Any) -> Any:
        if member.participant == "mo-bank":
            time.sleep(FRAME_SECONDS + 2)  # longer than the asker waits
        return (yield from honest(member, scheme, roster, entropy))

    monkeypatch.setattr(masked_sum, "agreed", silent)
    with pytest.raises(Unavailable) as error:
        shared.asker.query(BY_REGION, PURPOSE)
    assert error.value.code == "federation.participant-failed"
    assert not any("query.release" in events for events in shared.events(ASKER)[-len(BANKS) :])


def test_a_question_that_is_cancelled_ends_every_exchange(
    shared: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, cancelled = masked_sum.agreed, threading.Event()

    def late(member: Any, scheme: Any, roster: Any, entropy: Any) -> Any:
        if member.participant == "mo-bank":
            assert cancelled.wait(30)
        return (yield from honest(member, scheme, roster, entropy))

    monkeypatch.setattr(masked_sum, "agreed", late)
    before = len(shared.events(ASKER))
    query = shared.asker._stub.Query(analyst_pb2.QueryRequest(sql=BY_REGION, purpose=PURPOSE))

    def on_all_sides(*events: str) -> bool:
        theirs = [shared.events(bank)[-1:] for bank in BANKS]
        return [*theirs, shared.events(ASKER)[before:]] == [[[*events]]] * 3 + [[[*events]] * 3]

    assert settled(lambda: on_all_sides("query.intent"))
    query.cancel()
    cancelled.set()
    assert settled(lambda: on_all_sides("query.intent", "query.failure"))


def test_rosters_that_differ_fail_the_round(shared: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bytes] = []

    def send(roster: federation.Roster) -> Any:
        entries = list(roster.entries)
        if not shown:  # one participant is shown another's entry with a smaller minimum
            at = 0 if entries[0].participant == "hk-bank" else 1
            entries[at] = replace(entries[at], identities=1)
        shown.append(b"")
        yield Frame("roster", federation.Roster(tuple(entries)).canonical())

    monkeypatch.setattr(federation, "send_roster", send)
    with pytest.raises(Unavailable) as error:
        shared.asker.query(BY_REGION, PURPOSE)
    assert "peer.ro" in error.value.sentence
    assert not any("query.release" in events for events in shared.events(ASKER)[-len(BANKS) :])


def test_a_key_of_the_round_that_its_participant_did_not_sign_fails_it(
    shared: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = meeting.Place.together

    def exchanged(self: meeting.Place, kind: str, body: bytes, reduce: Any) -> bytes:
        if kind == "round-keys":
            body = body[:8] + bytes([body[8] ^ 1]) + body[9:]
        return honest(self, kind, body, reduce)

    monkeypatch.setattr(meeting.Place, "together", exchanged)
    with pytest.raises(Unavailable) as error:
        shared.asker.query(BY_REGION, PURPOSE)
    assert "[peer.round-key]" in error.value.sentence


def test_the_threshold_protocol_answers_the_same_where_it_is_named(shared: Federation) -> None:
    told = shared.asker.explain(BY_REGION, PURPOSE, protocol="he_sum")
    assert (told["protocol"]["name"], told["protocol"]["named"]) == ("he_sum", True)
    chosen = {one["name"]: one["chosen"] for one in told["federation"]["protocols"]}
    assert chosen == {"masked_sum": False, "he_sum": True}
    assert told["federation"]["why"].endswith("he_sum is taken, because it was named:")
    assert "he_sum: chosen, as it was named; about" in printed(told)
    chinese = printed(shared.asker.explain(BY_REGION, PURPOSE, "zh", protocol="he_sum"))
    said = ("该协议由提问时指定", "采用提问时指定的 he_sum", "he_sum: 选用(由提问时指定)")
    assert [word for word in said if word not in chinese] == []
    answer = shared.asker.query(BY_REGION, PURPOSE, protocol="he_sum")
    assert answer.summary["protocol"] == "he_sum"
    assert cells(answer.table.to_pylist()) == cells(shared.pooled(BY_REGION, least=5))


TOP = "SELECT max(width_bucket(amount, [10, 1000])) AS m FROM federation.loans"


@pytest.mark.parametrize(
    ("sql", "name", "code"),
    [
        (BY_REGION, "he-sum", "protocol.unknown"),
        (BY_REGION, "single_domain", "protocol.none"),
        (FIT, "he_sum", "protocol.none"),
        (TOP, "he_sum", "plan.extreme-threshold"),
    ],
)
def test_a_named_protocol_that_does_not_answer_says_why(
    shared: Federation, sql: str, name: str, code: str
) -> None:
    before = len(shared.events(ASKER))
    for ask in (shared.asker.explain, shared.asker.query):
        with pytest.raises(QueryError) as error:
            ask(sql, PURPOSE, protocol=name)
        assert error.value.code == code
    assert len(shared.events(ASKER)) == before


@pytest.mark.deep
def test_a_local_minimum_holds_for_each_participants_own_cells(tmp_path: Path) -> None:
    with running(tmp_path, **{bank.replace("-", "_"): {"scope": "local"} for bank in BANKS}) as made:
        answer = made.asker.query(BY_REGION, PURPOSE).table.to_pylist()
        parts = f"SELECT split_part(client, '-', 1) AS b, {BY_REGION[7:]}, b"
        large = made.pooled(parts, least=5)
        expected = {r: sum(x["n"] for x in large if x["region"] == r) for r in REGIONS}
        behind = {r: sum(x["region"] == r for x in large) for r in REGIONS}
        assert {row["region"]: row["n"] for row in answer} == {
            r: n for r, n in expected.items() if behind[r] >= 2
        }


def test_a_round_that_was_answered_is_shown_again_and_nobody_is_asked(
    shared: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyst, "kept", rounds.kept)
    first = shared.asker.query(BY_REGION, PURPOSE)
    charged = [shared.uses(bank) for bank in BANKS]
    again = shared.asker.query(BY_REGION, PURPOSE)
    assert again.summary["answered_at"]
    assert again.table.equals(first.table)
    assert again.summary["exchanges"] == first.summary["exchanges"]
    assert [shared.uses(bank) for bank in BANKS] == charged
    asked = rounds.inquire(shared.nodes[ASKER], BY_REGION, PURPOSE)
    assert isinstance(asked, rounds.Round)
    names = rounds.questions_of(asked)
    assert len(set(names)) == len(BANKS)
    shared.nodes[ASKER].store.forget_answer(names[-1])  # the shares of one bank alone are no round
    assert rounds.kept(shared.nodes[ASKER], asked) is None


def test_an_asker_does_not_stand_among_those_that_protect_each_other(shared: Federation) -> None:
    node = shared.nodes["sz-bank"]
    (record,) = node.store.agreements(role="provider", state="active")
    agreement = node.known_agreement(record.id, role="provider", peer=ASKER)
    parts = (Part(agreement.full_name, agreement.dataset.rows_bound), Part(f"{ASKER}.loans", 1))
    role = answering.Answering(node, ASKER, Headers(), Stop())
    with pytest.raises(PeerViolation, match=r"peer\.federation"):
        role._asked(agreement, SimpleNamespace(federation=parts, sql=BY_REGION))


def test_participants_that_refuse_or_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An asker that ends a round when it has the totals asks no other participants under its agreements."""

    def cut() -> None:
        raise PeerViolation("peer.cut", "the totals are all that this asker wanted")

    changes = {"mo_bank": {"uses": 1}}
    with running(tmp_path, **changes) as made:
        with monkeypatch.context() as patched:
            patched.setattr(masked_sum, "receive_release", cut)
            with pytest.raises(BayspaceError):
                made.asker.query(BY_REGION, PURPOSE)
        with pytest.raises(PolicyRefusal) as refused:
            made.asker.query(BY_REGION, PURPOSE)
        (reason,) = refused.value.decision.because
        assert reason.code == "uses.exhausted"
        assert reason.sentence.startswith("mo-bank: ")
        assert [made.uses(bank) for bank in BANKS] == [1, 1, 1]
        mine = dict(zip(sorted(BANKS), made.events(ASKER)[-3:], strict=True))
        assert sorted(events[-1] for events in mine.values()) == [
            "query.failure",
            "query.failure",
            "query.refusal",
        ]
        held = {one["peer"]: one["negotiation"] for one in made.asker.contract("list")}
        made.asker.contract("terminate", agreement=held.pop("mo-bank"))
        with pytest.raises(PolicyRefusal) as refused:
            made.asker.query("SELECT count(*) AS n FROM federation.loans", PURPOSE)
        assert {reason.code for reason in refused.value.decision.because} == {
            "federation.participants-changed"
        }
        assert [made.uses(bank) for bank in held] == [1, 1]
        for bank in held:
            made.asker.contract("terminate", agreement=held[bank])
            agreed(made, bank)
        # without the average: of the two banks' clients in Macau fewer than five have a value for it
        sums = BY_REGION.replace(", avg(overdue) AS o", "")
        table = made.asker.query(sums, PURPOSE).table
        made.tables.pop("mo-bank")
        assert cells(table.to_pylist()) == cells(made.pooled(sums, least=5))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"mo_bank": {"most": 20000}}, "federation.differs"),
        ({"mo_bank": {"name": "leases"}, "sz_bank": {"name": "leases"}}, "query.federation"),
    ],
)
def test_a_federation_whose_parts_do_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, dict[str, Any]], code: str
) -> None:
    with running(tmp_path, **changes) as made, pytest.raises(QueryError) as error:
        made.asker.explain(BY_REGION, PURPOSE)
    assert error.value.code == code
    assert code != "federation.differs" or "they differ in: bounds of amount." in error.value.sentence
