"""Two hosts: two network namespaces with a wire between them, members enrolled by carried files alone.

One host has the owner's connector and the witness, the other the asker's connector; the operator's folder is
on neither. The commands are those of docs/how-to/two-hosts.md, run as processes. Needs root and iproute2.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from connector.config import load

ROOT = Path(__file__).parents[2]
SHENZHEN, HONG_KONG = "10.201.7.1", "10.201.7.2"
START_SECONDS = 60

pytestmark = [
    pytest.mark.deep,
    pytest.mark.outside,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed"),
]

POLICY = """\
policy: invoices-v1
dataset: sz-trade.invoices
assignee: [hk-bank]
purpose: [credit-risk]
where: {processing: [CN-SZ, HK], recipients: [HK]}
uses: {count: 10, per: month}
analysis:
  kinds: [aggregate]
  join: {columns: [company_id], disclosure: cardinality}
  dimensions: [industry]
  measures: {"*": [count], amount: [sum]}
  identity: company_id
  minimum_identities: 3
duties: [{log: witness, minimum_witnesses: 1}]
"""
INVOICES = """\
title: {en: Invoices, zh: 发票}
source: {kind: csv, path: ../data.csv}
rights: {holder: sz-trade}
columns:
  company_id: {type: string, key: [trim, casefold]}
  industry: {type: string}
  amount: {type: int64, bounds: [0, 1000]}
offers: {invoices: invoices.yaml}
"""
OWN_POLICY = """\
policy: credit-v1
dataset: hk-bank.credit
assignee: [hk-bank]
purpose: [credit-risk]
uses: {count: 10}
analysis:
  kinds: [aggregate]
  join: {columns: [company_id], disclosure: cardinality}
"""
CREDIT = """\
title: {en: Credit, zh: 授信}
source: {kind: csv, path: ../data.csv}
rights: {holder: hk-bank}
columns: {company_id: {type: string, key: [trim, casefold], unique: true}}
offers: {credit: credit.yaml}
"""
SQL = (
    "SELECT i.industry, count(*) AS n, sum(i.amount) AS total FROM sz-trade.invoices i "
    "JOIN hk-bank.credit c ON i.company_id = c.company_id GROUP BY i.industry"
)


class Host:
    """One machine: a network namespace with one address."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    def command(self, *words: str) -> list[str]:
        program = [sys.executable, "-c", "from connector.cli import main; main()"]
        return ["ip", "netns", "exec", self.name, *program, *words]

    def run(self, *words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, *words: str) -> Iterator[None]:
        with (self.folder / "serve.log").open("a") as log:
            process = subprocess.Popen(
                self.command(*words),
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        late = threading.Timer(START_SECONDS, process.kill)
        late.start()
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready"), (self.folder / "serve.log").read_text()
            late.cancel()
            yield
        finally:
            late.cancel()
            process.terminate()
            process.wait(20)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host, Host]]:
    """Shenzhen and Hong Kong, joined by one wire, and an operator's office without any network."""
    mark = os.getpid()
    made = []
    for place in ("sz", "hk", "office"):
        (tmp_path / place).mkdir()
        made.append(Host(f"bayspace-{place}-{mark}", tmp_path / place))
    try:
        try:
            for host in made:
                ip("netns", "add", host.name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
        shenzhen, hong_kong, _ = made
        ends = f"bs{mark}a", f"bs{mark}b"
        ip(
            "link",
            "add",
            ends[0],
            "netns",
            shenzhen.name,
            "type",
            "veth",
            "peer",
            ends[1],
            "netns",
            hong_kong.name,
        )
        for host, end, address in ((shenzhen, ends[0], SHENZHEN), (hong_kong, ends[1], HONG_KONG)):
            ip("-n", host.name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", host.name, "link", "set", end, "up")
            ip("-n", host.name, "link", "set", "lo", "up")
        yield tuple(made)
    finally:
        for host in made:
            subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True)


def carry(source: Path, target: Path) -> Path:
    """What a person does with a file and a memory stick."""
    shutil.copy(source, target)
    return target


def admit(office: Host, host: Host, name: str, operator_key: str) -> None:
    """Request to the office, admission back."""
    request = carry(host.folder / name / "enrolment.json", office.folder / f"{name}.json")
    said = office.run("space", "enroll", "space", str(request))
    admission = carry(
        Path(office.folder / said.split()[3].rstrip(";")), host.folder / f"{name}-admission.json"
    )
    host.run("space", "install", name, str(admission), "--operator", operator_key)


def test_two_hosts_answer_a_joint_query_with_a_receipt(hosts: tuple[Host, Host, Host]) -> None:
    shenzhen, hong_kong, office = hosts
    said = office.run("space", "init", "space", "--name", "gba")
    operator_key = said.split("key id ")[1].split()[0]
    sz, hk = f"{SHENZHEN}:7443", f"{HONG_KONG}:7443"
    space = ("--space", "gba", "--jurisdiction")
    shenzhen.run(
        *("witness", "init", "witness-a", "--participant", "witness-a", *space, "CN-SZ"),
        *("--origin", "witness-a.example/gba", "--listen", f"{SHENZHEN}:7543", "--http", f"{SHENZHEN}:7580"),
    )
    for host, name, place, address in ((shenzhen, "sz-trade", "CN-SZ", sz), (hong_kong, "hk-bank", "HK", hk)):
        host.run(
            *("connector", "init", name, "--participant", name, *space, place),
            *("--listen", address, "--witness", "witness-a"),
        )
    for host, name in ((shenzhen, "witness-a"), (shenzhen, "sz-trade"), (hong_kong, "hk-bank")):
        admit(office, host, name, operator_key)
    # Earlier members get the list that has everybody: both sides of an exchange must hold the same one.
    for host, name in ((shenzhen, "witness-a"), (shenzhen, "sz-trade")):
        newest = carry(office.folder / "space" / "members.json", host.folder / "members.json")
        host.run("space", "install", name, str(newest))
    publish(shenzhen, "sz-trade", "invoices", INVOICES, POLICY, ["company_id,industry,amount", *invoices()])
    publish(hong_kong, "hk-bank", "credit", CREDIT, OWN_POLICY, ["company_id", *(f"c{i}" for i in range(9))])
    with ExitStack() as stack:
        stack.enter_context(shenzhen.serving("witness", "serve", "witness-a"))
        stack.enter_context(shenzhen.serving("connector", "serve", "-c", "sz-trade"))
        stack.enter_context(hong_kong.serving("connector", "serve", "-c", "hk-bank"))
        hong_kong.run("contract", "request", "sz-trade.invoices", "-c", "hk-bank")
        asked = json.loads(shenzhen.run("contract", "list", "-c", "sz-trade", "--json"))[0]
        shenzhen.run("contract", "approve", asked["negotiation"], "-c", "sz-trade")
        found = json.loads(hong_kong.run("connector", "doctor", "-c", "hk-bank", "--json"))
        wrong = [f for f in found if f["status"] == "fail" or (f["check"] == "peers" and f["do"])]
        assert wrong == []
        answered = json.loads(
            hong_kong.run(
                *("query", "-c", "hk-bank", "--purpose", "credit-risk", "--format", "json"),
                *("--receipt", "receipt.json", SQL),
            )
        )
        hong_kong.run("evidence", "trust", "-c", "hk-bank", "--out", "trust.json")
    assert [[str(cell) for cell in row] for row in answered["rows"]] == [["food", "8", "36"]]
    assert answered["cells_suppressed"] == 1
    for name in ("receipt.json", "trust.json"):
        carry(hong_kong.folder / name, office.folder / name)
    verified = json.loads(office.run("evidence", "verify", "receipt.json", "--json"))
    assert [record["event"] for record in verified["records"]] == [
        "query.intent",
        "query.release",
        "query.result",
    ]
    assert {key.name for key in (office.folder / "space" / "keys").iterdir()} == {"ca.key", "operator.key"}
    assert load(hong_kong.folder / "hk-bank").network.address == hk


def invoices() -> list[str]:
    """Companies 1 to 8 in food, 0 and 9 in software; the bank knows 0 to 8."""
    return [f"C{i},{'food' if 1 <= i <= 8 else 'software'},{i}" for i in range(10)]


def publish(host: Host, name: str, dataset: str, description: str, policy: str, lines: list[str]) -> None:
    folder = host.folder / name
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    (folder / "datasets" / f"{dataset}.yaml").write_text(description)
    (folder / "policies" / f"{dataset}.yaml").write_text(policy)
    host.run("dataset", "add", dataset, "-c", name)
