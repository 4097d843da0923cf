"""A whole data space on this machine: one operator, one witness, some connectors, as processes on loopback.

For the demo, the examples, the benchmarks and the tests. Everything is real (keys, certificates, processes,
mutual TLS, evidence); only the operator is on the same machine as everybody else, which a real one must
not be.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from compute.errors import ConfigError, Unavailable
from connector import config, datasets, space
from connector.api import Space, connect
from connector.storage import Store
from connector.witnesses import init_witness, witness_seat

START_SECONDS = 60.0
WITNESS = "witness-a"


class Loopback:
    """A data space in `folder`, which must be empty or not exist."""

    def __init__(self, folder: Path, name: str, connectors: Mapping[str, str], *, threads: int = 2) -> None:
        """Make the space and its members: `connectors` maps participant ids to jurisdictions."""
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError("loopback.folder", f"{folder} is not empty: name a new folder")
        self.folder, self.connectors = folder, tuple(connectors)
        self.processes: dict[str, subprocess.Popen[str]] = {}
        ports = iter(_free_ports(len(connectors) + 2))
        space.init(folder / "space", name)
        grpc, http = (f"127.0.0.1:{next(ports)}" for _ in range(2))
        init_witness(folder / WITNESS, WITNESS, name, "CN-SZ", f"{WITNESS}.{name}.example/log", grpc, http)
        space.enrol_local(folder / "space", witness_seat(folder / WITNESS))
        for participant, jurisdiction in connectors.items():
            listen = f"127.0.0.1:{next(ports)}"
            made = config.init(
                folder / participant, participant, name, jurisdiction, listen, witnesses=(WITNESS,)
            )
            file = made.folder / config.FILE
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace("\nthreads = 2", f"\nthreads = {threads}"), encoding="utf-8")
            space.enrol_local(folder / "space", made.seat)

    def settings(self, participant: str) -> config.ConnectorConfig:
        """One connector's configuration."""
        return config.load(self.folder / participant)

    def publish(
        self, participant: str, dataset: str, data: Path, description: str, policies: Mapping[str, str]
    ) -> datasets.Added:
        """Move a data file to its owner and publish it; `policies` are texts by file name.

        The description names the data as `../data/<file name>`.
        """
        settings = self.settings(participant)
        (settings.folder / "data").mkdir(exist_ok=True)
        shutil.move(data, settings.folder / "data" / data.name)
        (settings.datasets_folder / f"{dataset}.yaml").write_text(description, encoding="utf-8")
        for file, text in policies.items():
            (settings.policies_folder / file).write_text(text, encoding="utf-8")
        store = Store.open(settings.state_url)
        try:
            return datasets.add(settings, store, dataset)
        finally:
            store.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run witness and connectors; they are stopped whatever happens."""
        try:
            for name in (WITNESS, *self.connectors):
                self.start(name)
            for name in (WITNESS, *self.connectors):
                self._await_ready(name)
            yield
        finally:
            self.stop()

    def start(self, name: str) -> None:
        """Start one member; `running` waits until it serves."""
        command = ["witness", "serve", str(self.folder / name)]
        if name != WITNESS:
            command = ["connector", "serve", "-c", str(self.folder / name)]
        program = "from connector.cli import main; main()"
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", program, *command], stdout=subprocess.PIPE, stderr=log, text=True
            )

    def stop(self) -> None:
        """Stop every process."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        self.processes = {}

    def connect(self, participant: str) -> Space:
        """A client of one connector."""
        return connect(self.settings(participant))

    def agree(self, consumer: str, provider: str, offer: str) -> tuple[str, str, str]:
        """A contract about an offer: the states it went through, and the agreement's digest."""
        with self.connect(consumer) as asking, self.connect(provider) as owning:
            asked = asking.contract("request", participant=provider, offer=offer)[0]
            agreed = owning.contract("approve", agreement=asked["negotiation"])[0]
        return asked["state"], agreed["state"], agreed["agreement"]

    def _await_ready(self, name: str) -> None:
        process = self.processes[name]
        late = threading.Timer(START_SECONDS, process.kill)
        late.start()
        try:
            line = process.stdout.readline() if process.stdout else ""
        finally:
            late.cancel()
        if not line.startswith("ready"):
            raise Unavailable("loopback.start", f"{name} did not start: see {self.folder / f'{name}.log'}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
