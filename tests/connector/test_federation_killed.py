"""Processes of a federated round, killed without warning where they would have sent a frame of some kind.

Nothing is released to anybody, everybody's records end, what had started is charged, and the next round
works.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from compute.errors import BayspaceError, PolicyRefusal
from connector import config, connect
from connector.storage import Store
from tests.connector.test_federation import (
    ASKER,
    BANKS,
    BY_REGION,
    PURPOSE,
    WITNESS,
    Federation,
    build,
    cells,
)
from tests.waiting import settled

pytestmark = pytest.mark.deep

VICTIM = "mo-bank"
PROGRAM = """
import os, pathlib, signal, sys
from compute.frames import Frame
from connector import answering, asking

dies = pathlib.Path(sys.argv.pop())

def dying(whole):
    def run(self):
        role = whole(self)
        step = lambda: role.send(None)
        while True:
            try:
                item = step()
            except StopIteration as end:
                return end.value
            if isinstance(item, Frame) and item.kind == dies.read_text():
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                frame = yield item
                step = lambda: role.send(frame)
            except GeneratorExit:
                role.close()
                raise
            except BaseException as error:
                thrown = error
                step = lambda: role.throw(thrown)
    return run

answering.Answering.run = dying(answering.Answering.run)
asking.Asking.run = dying(asking.Asking.run)
from connector.cli import main
main()
"""


class Processes:
    """The federation's connectors and its witness, each a process."""

    def __init__(self, made: Federation) -> None:
        self.made, self._running = made, dict[str, subprocess.Popen[str]]()

    def start(self, *names: str) -> None:
        """Start them side by side, and wait until they are ready."""
        for name in names:
            self._running[name] = self._started(name)
        for name in names:
            output = self._running[name].stdout
            assert output is not None
            assert output.readline().startswith("ready"), (self.made.folder / f"{name}.log").read_text()

    def _started(self, name: str) -> subprocess.Popen[str]:
        kind = "witness" if name == WITNESS else "connector"
        where = [str(self.made.folder / name)] if name == WITNESS else ["-c", str(self.made.folder / name)]
        self.dies_at(name, "")
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            kind,
            "serve",
            *where,
            str(self.made.folder / f"{name}.dies"),
        ]
        with (self.made.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)

    def dies_at(self, name: str, kind: str) -> None:
        """Let a connector kill itself where it would send a frame of this kind."""
        (self.made.folder / f"{name}.dies").write_text(kind)

    def dead(self, name: str) -> None:
        """Wait for a process that kills itself."""
        assert self._running.pop(name).wait(20) == -9

    def close(self) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(20)

    def events(self, name: str) -> list[list[str]]:
        """Of every query exchange of one connector, oldest first."""
        store = Store.open(config.load(self.made.folder / name).state_url)
        try:
            queries = [e for e in store.exchanges() if e.kind == "query"]
            return [[record.event for record in store.evidence(e.id)] for e in queries]
        finally:
            store.close()

    def uses(self, bank: str) -> int:
        store = Store.open(config.load(self.made.folder / bank).state_url)
        try:
            (agreement,) = store.agreements(role="provider", state="active")
            return store.used(agreement.digest, "agreement")
        finally:
            store.close()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    running = Processes(build(tmp_path_factory.mktemp("killed"), {}))
    try:
        running.start(WITNESS, ASKER, *BANKS)
        with connect(running.made.folder / ASKER) as asker:
            for bank in BANKS:
                asked = asker.contract("request", participant=bank, offer="loans")[0]
                with connect(running.made.folder / bank) as owner:
                    owner.contract("approve", agreement=asked["negotiation"])
        yield running
    finally:
        running.close()


def asked(processes: Processes) -> list[dict[str, object]]:
    with connect(processes.made.folder / ASKER) as asker:
        return asker.query(BY_REGION, PURPOSE, again=True).table.to_pylist()


def ended_events(events: Callable[[], list[list[str]]]) -> list[list[str]]:
    """These events, once every exchange has ended; of what died before its first record there is none."""
    assert settled(lambda: all(not found or found[-1] in ENDS for found in events())), events()
    return events()


ENDS = ("query.failure", "query.release")


@pytest.mark.parametrize(
    ("victim", "kind"),
    [
        *((VICTIM, kind) for kind in ("accept", "start", "counts", "sealed", "key")),
        *((ASKER, kind) for kind in ("totals", "receipt")),
    ],
)
def test_kill_nine_releases_nothing(processes: Processes, victim: str, kind: str) -> None:
    earlier = {name: len(processes.events(name)) for name in (ASKER, *BANKS)}
    before = {bank: processes.uses(bank) for bank in BANKS}
    processes.dies_at(victim, kind)
    with pytest.raises(BayspaceError) as error:
        asked(processes)
    processes.dead(victim)
    if victim == VICTIM:
        assert error.value.code == "federation.participant-failed"
        assert VICTIM in error.value.sentence
    processes.start(victim)  # what died says so itself when it is back
    ended = {
        name: ended_events(lambda name=name: processes.events(name)[earlier[name] :])
        for name in (ASKER, *BANKS)
    }
    assert all(events for name in ended for events in ended[name] if name != victim)
    assert not any("query.result" in events for events in ended[ASKER])
    for bank in BANKS:
        assert processes.uses(bank) - before[bank] == sum("query.intent" in one for one in ended[bank])


def test_the_next_round_is_a_query_of_its_own(processes: Processes) -> None:
    before = [processes.uses(bank) for bank in BANKS]
    assert cells(asked(processes)) == cells(processes.made.pooled(BY_REGION, least=5))
    assert [processes.uses(bank) for bank in BANKS] == [uses + 1 for uses in before]


def test_a_round_without_the_one_that_died_is_refused_where_it_was_in_an_answer(processes: Processes) -> None:
    with connect(processes.made.folder / ASKER) as asker:
        held = {one["peer"]: one["negotiation"] for one in asker.contract("list")}
        asker.contract("terminate", agreement=held[VICTIM])
    with pytest.raises(PolicyRefusal) as refused:
        asked(processes)
    assert {reason.code for reason in refused.value.decision.because} == {"federation.participants-changed"}
