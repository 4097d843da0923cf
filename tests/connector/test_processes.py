"""Real processes, killed without warning in the middle of a query: the survivor is clean, the evidence says
what happened, and the next query works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from compute.errors import BayspaceError
from connector import config, connect
from connector.storage import Store
from tests.waiting import settled

OWNER, ASKER, WITNESS, PURPOSE = "sz-trade", "hk-bank", "witness-a", "credit-risk"
SQL = (
    "SELECT count(*) AS n, sum(i.amount) AS s FROM sz-trade.matched i "
    "JOIN hk-bank.credit c ON i.company_id = c.company_id"
)
COMPANIES = 60_000


class Processes:
    """Witness and connectors as processes of their own."""

    def __init__(self, folder):
        self.folder, self.running = folder, {}

    def start(self, name):
        command = ["witness", "serve", str(self.folder / name)]
        if name != WITNESS:
            command = ["connector", "serve", "-c", str(self.folder / name)]
        program = "from connector.cli import main; main()"
        log = (self.folder / f"{name}.log").open("a")
        process = subprocess.Popen(
            [sys.executable, "-c", program, *command], stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout.readline().startswith("ready"), (self.folder / f"{name}.log").read_text()
        self.running[name] = process

    def kill(self, name):
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self):
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(20)

    def store(self, name):
        return Store.open(config.load(self.folder / name).state_url)

    def events(self, name):
        store = self.store(name)
        try:
            found = [e for e in store.exchanges() if e.kind == "query"]
            return [[r.event for r in store.evidence(e.id)] for e in found]
        finally:
            store.close()


@pytest.fixture(scope="module")
def processes(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("processes")
    build = request.getfixturevalue("space_builder")
    build(folder, start=False, companies=COMPANIES, timeout=20)
    running = Processes(folder)
    for name in (WITNESS, OWNER, ASKER):
        running.start(name)
    with connect(folder / ASKER) as asker, connect(folder / OWNER) as owner:
        asked = asker.contract("request", participant=OWNER, offer="matched")[0]
        owner.contract("approve", agreement=asked["negotiation"])
        assert asker.query(SQL, PURPOSE, again=True).table.to_pylist()[0]["n"] == COMPANIES // 2
    yield running
    running.stop()


def ask(processes, failures):
    with connect(processes.folder / ASKER) as asker:
        try:
            asker.query(SQL, PURPOSE, again=True)
        except BayspaceError as error:
            failures.append(error)


@pytest.mark.deep
@pytest.mark.parametrize("victim", [OWNER, ASKER])
def test_kill_nine_in_the_middle_of_a_query(processes, victim):
    survivor = ASKER if victim == OWNER else OWNER
    before = len(processes.events(OWNER))
    failures = []
    asking = threading.Thread(target=ask, args=(processes, failures))
    asking.start()
    assert settled(lambda: processes.events(OWNER)[before:] == [["query.intent"]])
    processes.kill(victim)
    asking.join(60)
    assert failures, "the query was answered before its connector was killed"
    assert settled(lambda: processes.events(survivor)[-1] == ["query.intent", "query.failure"])
    processes.start(victim)
    # what died says so itself when it is back, and knows nothing of a release
    assert settled(lambda: processes.events(victim)[-1] in (["query.intent", "query.failure"], []))
    assert not processes.store(victim).running()
    with connect(processes.folder / ASKER) as asker:
        assert asker.query(SQL, PURPOSE, again=True).table.to_pylist()[0]["n"] == COMPANIES // 2


def test_ctrl_c_at_the_command_line_cancels_on_both_sides(processes):
    before = len(processes.events(OWNER))
    # a shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [
        sys.executable,
        "-c",
        f"{heard}; from connector.cli import main; main()",
        "query",
        "--again",
        SQL,
    ]
    options = ["-c", str(processes.folder / ASKER), "--purpose", PURPOSE]
    asking = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert settled(lambda: processes.events(OWNER)[before:] == [["query.intent"]])
    os.kill(asking.pid, signal.SIGINT)
    _, said = asking.communicate(timeout=30)
    assert asking.returncode == 130
    assert "Traceback" not in said
    for name in (OWNER, ASKER):
        assert settled(lambda name=name: processes.events(name)[-1] == ["query.intent", "query.failure"])


def test_a_connector_whose_witness_died_says_so_and_recovers(processes):
    processes.kill(WITNESS)
    failures = []
    ask(processes, failures)
    assert failures[0].code == "witness.unavailable"
    processes.start(WITNESS)
    time.sleep(1.5)  # the longest wait between two attempts to reconnect
    with connect(processes.folder / ASKER) as asker:
        assert asker.query(SQL, PURPOSE, again=True).receipt.bundle
