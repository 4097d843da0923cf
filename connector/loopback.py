"""A whole data space on this machine: one operator, one witness or several, some connectors, as processes.

Several witnesses cosign each other's logs, and the connectors demand that: no log counts alone.

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from compute.errors import ConfigError, Unavailable
from connector import config, datasets, space
from connector.api import Space, connect
from connector.stopping import after
from connector.storage import Store
from connector.witnesses import init_witness, load_witness, witness_seat
from witness.server import CONFIG_FILE, WitnessConfig, cosigner_vkeys, log_vkeys

START_SECONDS = 60.0
WITNESS = "witness-a"
ONE_WITNESS: Mapping[str, str] = {WITNESS: "CN-SZ"}


class Loopback:
    """A data space in `folder`, which must be empty or not exist."""

    def __init__(
        self,
        folder: Path,
        name: str,
        connectors: Mapping[str, str],
        witnesses: Mapping[str, str] = ONE_WITNESS,
        *,
        threads: int = 2,
    ) -> None:
        """Make the space and its members: both mappings are of participant ids to jurisdictions."""
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError("loopback.folder", f"{folder} is not empty: name a new folder")
        self.folder, self.connectors, self.witnesses = folder, tuple(connectors), tuple(witnesses)
        self.processes: dict[str, subprocess.Popen[str]] = {}
        ports = iter(_free_ports(len(connectors) + 2 * len(witnesses)))
        space.init(folder / "space", name)
        for witness, jurisdiction in witnesses.items():
            grpc, http = (f"127.0.0.1:{next(ports)}" for _ in range(2))
            origin = f"{_host(witness, name)}/log"
            init_witness(folder / witness, witness, name, jurisdiction, origin, grpc, http)
            space.enrol_local(folder / "space", witness_seat(folder / witness))
        quorum = _cosign_each_other(folder, name, self.witnesses) if len(witnesses) > 1 else None
        for participant, jurisdiction in connectors.items():
            listen = f"127.0.0.1:{next(ports)}"
            made = config.init(
                folder / participant, participant, name, jurisdiction, listen, witnesses=self.witnesses
            )
            file = made.folder / config.FILE
            text = file.read_text(encoding="utf-8")
            text = text.replace("\nthreads = 2", f"\nthreads = {threads}")
            if quorum is not None:
                text += '\n[evidence]\nquorum = "quorum.policy"\n'
                (made.folder / "quorum.policy").write_text(quorum, encoding="utf-8")
            file.write_text(text, encoding="utf-8")
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
        """Run witnesses and connectors; they are stopped whatever happens."""
        everybody = (*self.witnesses, *self.connectors)
        try:
            for name in everybody:
                self.start(name)
            for name in everybody:
                self.await_ready(name)
            yield
        finally:
            self.stop()

    def start(self, name: str) -> None:
        """Start one member; `await_ready` waits until it serves."""
        command = ["witness", "serve", str(self.folder / name)]
        if name not in self.witnesses:
            command = ["connector", "serve", "-c", str(self.folder / name)]
        with (self.folder / f"{name}.log").open("a") as log:
            program = [sys.executable, "-c", "from connector.cli import main; main()", *command]
            self.processes[name] = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=log, text=True)

    def stop(self, *names: str) -> None:
        """Stop these processes, or all."""
        stopped = [self.processes.pop(name) for name in names or tuple(self.processes)]
        for process in stopped:
            process.send_signal(signal.SIGTERM)
        for process in stopped:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def connect(self, participant: str) -> Space:
        """A client of one connector."""
        return connect(self.settings(participant))

    def agree(self, consumer: str, provider: str, offer: str) -> tuple[str, str, str]:
        """A contract about an offer: the states it went through, and the agreement's digest."""
        with self.connect(consumer) as asking, self.connect(provider) as owning:
            asked = asking.contract("request", participant=provider, offer=offer)[0]
            agreed = owning.contract("approve", agreement=asked["negotiation"])[0]
        return asked["state"], agreed["state"], agreed["agreement"]

    def await_ready(self, name: str) -> None:
        """Return once a started member serves. Raises `Unavailable`."""
        process = self.processes[name]
        late = after(START_SECONDS, process.kill)
        try:
            line = process.stdout.readline() if process.stdout else ""
        finally:
            late.cancel()
        if not line.startswith("ready"):
            raise Unavailable("loopback.start", f"{name} did not start: see {self.folder / f'{name}.log'}")


def _host(witness: str, space_name: str) -> str:
    """Who operates a witness: what its keys' names begin with."""
    return f"{witness}.{space_name}.example"


def _cosign_each_other(folder: Path, space_name: str, witnesses: Sequence[str]) -> str:
    """Let every witness cosign the others' logs and ask them for its own; the quorum for connectors.

    Any other operator will do: its two keys, Ed25519 and ML-DSA-44, together.
    """
    for witness in witnesses:
        with (folder / witness / CONFIG_FILE).open("a", encoding="utf-8") as file:
            file.write(f'\ncosigner_name = "{_host(witness, space_name)}/witness"\n')
            file.write('cosigner_key = "cosigner-key.pem"\ncosigns = "cosigns.policy"\n')
            file.write('quorum = "quorum.policy"\n')
    configs = {witness: load_witness(folder / witness) for witness in witnesses}
    for witness in witnesses:
        others = {name: config for name, config in configs.items() if name != witness}
        logs = [
            f"log {vkey} http://{config.http_listen}"
            for config in others.values()
            for vkey in log_vkeys(config)
        ]
        (folder / witness / "cosigns.policy").write_text("\n".join([*logs, "quorum none\n"]), "utf-8")
        (folder / witness / "quorum.policy").write_text(_quorum(others), "utf-8")
    return _quorum(configs)


def _quorum(witnesses: Mapping[str, WitnessConfig]) -> str:
    """A tlog-policy: any one of these witnesses, with both of its keys."""
    lines = []
    for name, made in witnesses.items():
        keys = dict(zip(("ed25519", "ml-dsa-44"), cosigner_vkeys(made), strict=True))
        url = f"http://{made.http_listen}"
        lines += [f"witness {name}-{algorithm} {vkey} {url}" for algorithm, vkey in keys.items()]
        lines.append(f"group {name} all {' '.join(f'{name}-{algorithm}' for algorithm in keys)}")
    return "\n".join([*lines, f"group one-of-them any {' '.join(witnesses)}", "quorum one-of-them\n"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
