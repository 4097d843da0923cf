"""A whole data space in this process: two connectors and a witness over real mutual TLS on loopback.

Data is tiny and adversarial: NULL keys and labels, duplicates, Chinese text, dates before 1970, groups of
one. `space_of` makes a fresh one; `shared` is one for a whole test module.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connector import analyst, config, connect, datasets, space
from connector.api import Space
from connector.node import Node
from connector.service import Server
from connector.storage import Store
from connector.witnesses import init_witness, load_witness, witness_seat
from witness.server import serve

OWNER, ASKER, WITNESS = "sz-trade", "hk-bank", "witness-a"
PURPOSE = "credit-risk"

POLICY = """\
policy: {offer}-v1
dataset: sz-trade.{offer}
assignee: [hk-bank]
purpose: [credit-risk]
uses: {{count: {uses}, per: month, max_concurrent: 2}}
analysis:
  kinds: [aggregate]
  join: {{columns: [company_id], disclosure: {level}, operators: [and]}}
  dimensions: [industry, day]
  filters: {{amount: range, day: range, industry: [equality, membership]}}
  measures: {{"*": [count], amount: [sum, avg, count]}}
  scalar_functions: [date_trunc]
  identity: company_id
  minimum_identities: 3
duties: [{{log: witness, minimum_witnesses: {witnesses}}}]
"""
INVOICES = """\
title: {{en: Invoices, zh: 发票}}
source: {{kind: parquet, path: ../data/invoices.parquet}}
rights: {{holder: sz-trade}}
columns:
  company_id: {{type: string, key: [trim, casefold]}}
  secret_note: {{type: string, grade: 4}}
  industry: {{type: string}}
  day: {{type: date}}
  amount: {{type: "decimal(12,2)", bounds: [0, 1000000]}}
offers: {{{offers}}}
"""
OWN_POLICY = """\
policy: credit-own-use-v1
dataset: hk-bank.credit
assignee: [hk-bank]
purpose: [credit-risk]
uses: {count: 1000000}
analysis:
  kinds: [aggregate]
  join: {columns: [company_id], disclosure: receiver, operators: [and]}
  dimensions: [rating]
  identity: company_id
  minimum_identities: 3
"""
CREDIT = """\
title: {en: Credit, zh: 授信}
source: {kind: parquet, path: ../data/credit.parquet}
rights: {holder: hk-bank}
columns:
  company_id: {type: string, key: [trim, casefold], unique: true}
  rating: {type: string}
offers: {credit: credit.yaml}
"""


def invoices() -> pa.Table:
    """60 companies with 1 to 5 invoices; 甲 has many companies, 丙 only two (always too few)."""
    rows = []
    for company in range(60):
        industry = ("甲业", "乙业")[company % 2] if company < 56 else "丙业" if company < 58 else None
        for number in range(1 + company % 5):
            amount = (
                None if (company, number) == (3, 1) else Decimal(company * 100 + number) + Decimal("0.25")
            )
            rows.append((f"C{company:03d}", "SECRET-VALUE", industry, date(1965 + company, 3, 1), amount))
    rows += [(None, "SECRET-VALUE", "甲业", date(2020, 1, 1), Decimal("7.00")), rows[0]]
    names = ["company_id", "secret_note", "industry", "day", "amount"]
    schema = pa.schema(
        zip(names, [pa.string(), pa.string(), pa.string(), pa.date32(), pa.decimal128(12, 2)], strict=True)
    )
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), schema)


def many(companies: int) -> pa.Table:
    """One invoice of every company: enough work to be killed in the middle of it."""
    table = pa.table({"company_id": [f"C{n:07d}" for n in range(companies)]})
    for column in invoices().schema:
        if column.name != "company_id":
            value = pa.scalar(invoices()[column.name][5].as_py(), column.type)
            table = table.append_column(column, pa.repeat(value, companies))
    return table


def customers(companies: int) -> pa.Table:
    return pa.table(
        {"company_id": [f"c{n:07d}" for n in range(0, companies * 2, 2)], "rating": ["A"] * companies}
    )


def credit() -> pa.Table:
    """Every second company, differently written, a few of the bank's own, and two NULL keys."""
    ids = [f" c{n:03d} " for n in range(0, 60, 2)] + [f"X{n}" for n in range(10)] + [None, None]
    ratings = ["AA" if n % 3 else "B" for n in range(len(ids))]
    return pa.table({"company_id": ids, "rating": ratings})


@dataclass
class DataSpace:
    """Running participants, the folder they live in, and what must be stopped."""

    folder: Path
    nodes: dict[str, Node] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    clients: dict[str, Space] = field(default_factory=dict)
    witness_stop: threading.Event = field(default_factory=threading.Event)
    witness_thread: threading.Thread | None = None
    on_close: Callable[[], None] = lambda: None

    def publish(self, name: str, dataset: str, table: pa.Table, text: str, policies: dict[str, str]) -> None:
        """Add a table with its description and its policies, by offer, to a participant's datasets."""
        settings = config.load(self.folder / name)
        (settings.folder / "data").mkdir(exist_ok=True)
        pq.write_table(table, settings.folder / "data" / f"{dataset}.parquet")
        (settings.datasets_folder / f"{dataset}.yaml").write_text(text)
        for offer, policy in policies.items():
            (settings.policies_folder / f"{offer}.yaml").write_text(policy)
        store = Store.open(settings.state_url)
        datasets.add(settings, store, dataset)
        store.close()

    def offer_invoices(self, offer: str, policy: str, described: Callable[[str], str] = str) -> None:
        """Offer the invoices once more, under this policy; `described` changes their description."""
        settings = config.load(self.folder / OWNER)
        (settings.policies_folder / f"{offer}.yaml").write_text(policy)
        file = settings.datasets_folder / "invoices.yaml"
        text = described(file.read_text())
        if offer not in text:
            text = text.replace("offers: {", f"offers: {{{offer}: {offer}.yaml, ")
        file.write_text(text)
        store = Store.open(settings.state_url)
        try:
            datasets.add(settings, store, "invoices")
        finally:
            store.close()

    @property
    def asker(self) -> Space:
        return self.clients[ASKER]

    @property
    def owner(self) -> Space:
        return self.clients[OWNER]

    def agree(self, offer: str) -> str:
        """A contract about one of the owner's offers; its agreement's digest."""
        asked = self.asker.contract("request", participant=OWNER, offer=offer)[0]
        return str(self.owner.contract("approve", agreement=asked["negotiation"])[0]["agreement"])

    def start(self, name: str) -> None:
        node = Node(config.load(self.folder / name))
        server = Server(node)
        server.start()
        self.nodes[name], self.servers[name] = node, server
        self.clients[name] = connect(node.config)

    def start_witness(self) -> None:
        self.witness_stop = threading.Event()
        ready = threading.Event()
        settings = load_witness(self.folder / WITNESS)
        self.witness_thread = threading.Thread(
            target=serve, args=(settings, self.witness_stop, lambda *_: ready.set()), daemon=True
        )
        self.witness_thread.start()
        assert ready.wait(20)

    def stop_witness(self) -> None:
        self.witness_stop.set()
        if self.witness_thread is not None:
            self.witness_thread.join(20)

    def close(self) -> None:
        for name in list(self.servers):
            self.clients[name].close()
            self.servers[name].stop(0)
            self.nodes[name].close()
        self.stop_witness()
        self.on_close()

    def evidence(self, name: str) -> list[list[str]]:
        """The events of every query exchange of one participant, oldest first."""
        store = self.nodes[name].store
        return [
            [record.event for record in store.evidence(exchange.id)]
            for exchange in store.exchanges()
            if exchange.kind == "query"
        ]


@pytest.fixture(autouse=True)
def asked_anew():
    """Tests ask the same joint question more than once, each time anew; test_kept_answers.py does not."""
    with pytest.MonkeyPatch.context() as patch:  # its own: tests undo theirs half-way
        patch.setattr(analyst, "kept", lambda *_: None)
        yield


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@dataclass
class _Prepared:
    """A data space before anything ran in it, to be copied: making one costs ten times as much.

    Copies listen where it says, so only one is lent at a time.
    """

    settings: tuple[int, int, int]
    folder: tempfile.TemporaryDirectory = field(default_factory=tempfile.TemporaryDirectory)
    lent: bool = False

    def copy(self, folder: Path) -> DataSpace:
        self.lent = True
        shutil.copytree(self.folder.name, folder, dirs_exist_ok=True)
        local = folder / "space" / "local.json"  # the only file that says where things are
        local.write_text(local.read_text().replace(self.folder.name, str(folder)))
        return DataSpace(folder, on_close=self._back)

    def _back(self) -> None:
        self.lent = False


_PREPARED: list[_Prepared] = []


def build(
    folder: Path, *, uses: int = 1000, timeout: int = 20, start: bool = True, companies: int = 0
) -> DataSpace:
    """A data space; `open` is offered without a witness duty, the other two demand one."""
    settings = (uses, timeout, companies)
    if not start:
        return _prepare(folder, *settings)
    found = next((p for p in _PREPARED if p.settings == settings and not p.lent), None)
    if found is None:
        found = _Prepared(settings)
        _prepare(Path(found.folder.name), *settings)
        _PREPARED.append(found)
    made = found.copy(folder)
    made.start_witness()
    for name in (OWNER, ASKER):
        made.start(name)
    return made


def _prepare(folder: Path, uses: int, timeout: int, companies: int) -> DataSpace:
    ports = dict(zip((OWNER, ASKER, WITNESS, "http"), free_ports(4), strict=True))
    where = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    space.init(folder / "space", "gba")
    init_witness(folder / WITNESS, WITNESS, "gba", "CN-SZ", "w.example/log", where[WITNESS], where["http"])
    for name, place in ((OWNER, "CN-SZ"), (ASKER, "HK")):
        made = config.init(folder / name, name, "gba", place, where[name], witnesses=(WITNESS,))
        file = made.folder / config.FILE
        text = file.read_text()
        assert "frame_timeout_seconds = 60" in text
        file.write_text(text.replace("frame_timeout_seconds = 60", f"frame_timeout_seconds = {timeout}"))
    space.enrol_local(folder / "space", witness_seat(folder / WITNESS))
    for name in (OWNER, ASKER):
        space.enrol_local(folder / "space", config.load(folder / name).seat)
    offers = {"invoices": ("cardinality", 1), "matched": ("receiver", 1)}
    policies = {
        offer: POLICY.format(offer=offer, level=level, witnesses=witnesses, uses=uses)
        for offer, (level, witnesses) in offers.items()
    }
    unwitnessed = POLICY.format(offer="open", level="receiver", witnesses=1, uses=uses)
    policies["open"] = unwitnessed[: unwitnessed.index("duties:")]
    listed = ", ".join(f"{offer}: {offer}.yaml" for offer in ("invoices", "matched", "open"))
    bought, owed = (many(companies), customers(companies)) if companies else (invoices(), credit())
    made_space = DataSpace(folder)
    made_space.publish(OWNER, "invoices", bought, INVOICES.format(offers=listed), policies)
    made_space.publish(ASKER, "credit", owed, CREDIT, {"credit": OWN_POLICY})
    return made_space


@pytest.fixture
def fresh(tmp_path):
    made = build(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    made = build(tmp_path_factory.mktemp("space"))
    for offer in ("invoices", "matched", "open"):
        made.agree(offer)
    yield made
    made.close()


@pytest.fixture
def build_space(tmp_path):
    """Makes fresh data spaces with settings of their own; closes them all."""
    made: list[DataSpace] = []

    def make(**settings) -> DataSpace:
        made.append(build(tmp_path / f"space{len(made)}", **settings))
        return made[-1]

    yield make
    for item in made:
        item.close()


@pytest.fixture(scope="session")
def pooled():
    """Run SQL over both tables at once; keys are compared as the contract normalises them."""
    connection = duckdb.connect()
    connection.register("i", invoices())
    connection.register("c", credit())
    connection.execute(
        "CREATE VIEW invoices AS SELECT * REPLACE (lower(trim(company_id)) AS company_id) FROM i"
    )
    connection.execute(
        "CREATE VIEW credit AS SELECT * REPLACE (lower(trim(company_id)) AS company_id) FROM c"
    )
    yield lambda sql: connection.sql(sql).to_arrow_table().to_pylist()
    connection.close()


@pytest.fixture(scope="session")
def space_builder():
    """`build` itself, for tests that run the participants as processes."""
    return build
