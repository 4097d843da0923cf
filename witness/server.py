"""Runs a witness: reads its configuration file, opens the log, serves gRPC over mTLS and tiles over HTTP.

Refuses unknown words in the configuration, a log key that others may read, and a log whose parts
contradict each other. One process per log.
"""

import logging
import os
import re
import stat
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from witness.encoding import EncodingError, b64, system_entropy, unb64
from witness.files import Folder
from witness.keys import ED25519, KeyInvalid, PrivateKey, PublicKey
from witness.log import Log
from witness.note import verifier_key
from witness.registry import Registry
from witness.schema import ID, LINE, Fields, FormatError, matching
from witness.sequencer import Sequencer
from witness.service import Admission, PeerIdentity, Service, certificate_identity
from witness.tileserver import TileServer
from witness.v1 import witness_pb2, witness_pb2_grpc

_log = logging.getLogger(__name__)
CONFIG_FILE = "witness.toml"
_PATH = re.compile(r"[^\x00-\x1f]+")
THREADS = 32
MOST_CALLS = 256
LARGEST_MESSAGE = 10 * 1024 * 1024  # 64 envelopes of 128 KiB and their framing


class ConfigInvalid(ValueError):
    """The configuration file, or a file that it names, is not usable. Says which."""


@dataclass(frozen=True)
class WitnessConfig:
    """What a witness must know. Paths are absolute once loaded."""

    space: str
    participant: str
    origin: str
    grpc_listen: str
    http_listen: str
    data: Path
    database: str | None
    log_key: Path
    tls_key: Path
    tls_certificate: Path
    tls_authority: Path
    members: Path
    operator_key_names: tuple[str, ...]
    folder: Path

    @property
    def operator_keys(self) -> tuple[PublicKey, ...]:
        """The space operator's keys; a key file appears when the first admission is installed."""
        return tuple(_operator_key(name, self.folder) for name in self.operator_key_names)


_TEMPLATE = """\
# Configuration of a bayspace witness. Paths are relative to this file.

# The data space whose evidence is recorded, and this witness's participant id in its member list.
space = "{space}"
participant = "{participant}"

# The log's name in checkpoints (C2SP tlog-checkpoint). It can never change.
origin = "{origin}"

# Where connectors submit evidence (gRPC over mTLS), and where anybody reads the log (plain HTTP).
# Port 0 takes a free port.
grpc_listen = "{grpc_listen}"
http_listen = "{http_listen}"

# The log: tiles, published checkpoint, and the SQLite database unless `database` names another one
# (an SQLAlchemy URL whose driver is installed).
data = "data"
# database = "postgresql+psycopg://witness@localhost/witness"

# The key that signs checkpoints (Ed25519, PEM, readable by the owner only).
log_key = "log-key.pem"

# mTLS: this witness's key and certificate, and the authority of the data space.
tls_key = "tls-key.pem"
tls_certificate = "tls-certificate.pem"
tls_authority = "tls-authority.pem"

# The member list as the space operator signed it. Replace the file to bring in a new version.
members = "members.json"

# The space operator's keys that sign member lists: "ed25519:<base64>", or a PEM file of a public key.
operator_keys = [{operator_keys}]
"""


def write_default(
    folder: Path,
    *,
    space: str,
    participant: str,
    origin: str,
    operator_keys: Sequence[PublicKey | str] = (),
    grpc_listen: str = "127.0.0.1:7443",
    http_listen: str = "127.0.0.1:7080",
) -> str:
    """Writes a commented configuration and a new log key into `folder`; returns the log's vkey.

    Raises ConfigInvalid when a configuration is there already: a log key is never replaced.
    """
    if (folder / CONFIG_FILE).exists() or (folder / "log-key.pem").exists():
        raise ConfigInvalid(f"{folder} already holds a witness")
    key = PrivateKey.from_seed(system_entropy(32))
    vkey = str(verifier_key(origin, key.public))
    named = (k if isinstance(k, str) else f"{k.algorithm}:{b64(k.raw)}" for k in operator_keys)
    keys = ", ".join(f'"{matching(name, LINE, "operator_keys")}"' for name in named)
    text = _TEMPLATE.format(
        space=matching(space, ID, "space"),
        participant=matching(participant, ID, "participant"),
        origin=matching(origin, LINE, "origin"),
        grpc_listen=matching(grpc_listen, LINE, "grpc_listen"),
        http_listen=matching(http_listen, LINE, "http_listen"),
        operator_keys=keys,
    )
    files = Folder(folder)
    files.write("log-key.pem", key.pem(), mode=0o600)
    files.write(CONFIG_FILE, text.encode())
    return vkey


def load(path: Path) -> WitnessConfig:
    """The configuration in `path` (the file, or its folder). Raises ConfigInvalid."""
    file = path / CONFIG_FILE if path.is_dir() else path
    try:
        return _read(tomllib.loads(file.read_text()), file.parent.resolve())
    except (OSError, tomllib.TOMLDecodeError, FormatError, EncodingError, KeyInvalid) as error:
        raise ConfigInvalid(f"{file}: {error}") from error


def _read(value: Any, base: Path) -> WitnessConfig:
    with Fields(value, "the configuration") as f:
        return WitnessConfig(
            space=f.text("space", ID),
            participant=f.text("participant", ID),
            origin=f.text("origin", LINE),
            grpc_listen=f.text("grpc_listen", LINE),
            http_listen=f.text("http_listen", LINE),
            data=base / f.text("data", _PATH),
            database=f.optional("database", lambda name: f.text(name, LINE)),
            log_key=base / f.text("log_key", _PATH),
            tls_key=base / f.text("tls_key", _PATH),
            tls_certificate=base / f.text("tls_certificate", _PATH),
            tls_authority=base / f.text("tls_authority", _PATH),
            members=base / f.text("members", _PATH),
            operator_key_names=tuple(matching(k, LINE, "operator_keys") for k in f.items("operator_keys")),
            folder=base,
        )


def _operator_key(text: str, base: Path) -> PublicKey:
    if text.endswith(".pem"):
        return PublicKey.from_pem(_file(base / text))
    algorithm, _, encoded = text.partition(":")
    return PublicKey(algorithm, unb64(encoded))


def serve(
    config: WitnessConfig,
    stop: threading.Event,
    ready: Callable[[int, int], None],
    identify: PeerIdentity | None = None,
) -> None:
    """Serves until `stop` is set. Calls `ready(grpc port, http port)` once both listen.

    Raises ConfigInvalid, or LogRefused when the log must not run.
    """
    log = Log(config.data, config.origin, _log_key(config.log_key), _now, config.database)
    try:
        sequencer = Sequencer(log)
        try:
            _serve(config, log, sequencer, stop, ready, identify or certificate_identity(config.space))
        finally:
            sequencer.close()
    finally:
        log.close()


def _serve(
    config: WitnessConfig,
    log: Log,
    sequencer: Sequencer,
    stop: threading.Event,
    ready: Callable[[int, int], None],
    identify: PeerIdentity,
) -> None:
    try:
        operator_keys = config.operator_keys
    except (EncodingError, KeyInvalid) as error:
        raise ConfigInvalid(f"operator_keys: {error}") from error
    registry = Registry(log.database, config.members, config.space, operator_keys)
    service = Service(log, sequencer, Admission(registry, _now), identify)
    server, port = _grpc_server(service, _credentials(config), config.grpc_listen)
    host, http_port = _address(config.http_listen)
    public = TileServer(host, http_port, log.public.read)
    thread = threading.Thread(target=public.serve_forever, name="tiles", daemon=True)
    server.start()
    thread.start()
    try:
        _log.info(
            "witness %s serves gRPC on port %d, tiles on port %d", config.participant, port, public.port
        )
        ready(port, public.port)
        stop.wait()
    finally:
        service.stop()
        server.stop(grace=5).wait()
        public.shutdown()
        public.server_close()


def _grpc_server(
    service: Service, credentials: grpc.ServerCredentials, listen: str
) -> tuple[grpc.Server, int]:
    server = grpc.server(
        ThreadPoolExecutor(THREADS, thread_name_prefix="rpc"),
        maximum_concurrent_rpcs=MOST_CALLS,
        options=[
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
            ("grpc.so_reuseport", 0),  # two witnesses on one port must fail, not share
        ],
    )
    name = witness_pb2.DESCRIPTOR.services_by_name["Witness"].full_name
    witness_pb2_grpc.add_WitnessServicer_to_server(service, server)
    checks = health.HealthServicer()
    for served in (name, ""):
        checks.set(served, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((name, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        return server, server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise ConfigInvalid(f"grpc_listen: cannot listen on {listen}") from error


def _credentials(config: WitnessConfig) -> grpc.ServerCredentials:
    key, certificate, authority = (
        _file(path) for path in (config.tls_key, config.tls_certificate, config.tls_authority)
    )
    return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)


def _log_key(path: Path) -> PrivateKey:
    pem = _file(path)
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigInvalid(f"log_key: {path} may be read by others; chmod 600 it")
    try:
        key = PrivateKey.from_pem(pem)
    except KeyInvalid as error:
        raise ConfigInvalid(f"log_key: {path}: {error}") from error
    if key.public.algorithm != ED25519:
        raise ConfigInvalid("log_key: checkpoints are signed with Ed25519")
    return key


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(f"cannot read {path}") from error


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        raise ConfigInvalid(f"http_listen: {listen} is not host:port")
    return host.strip("[]"), int(port)


def _now() -> int:
    return time.time_ns() // 1_000_000
