"""Runs a witness: reads its configuration file, opens the log, serves gRPC over mTLS and tiles over HTTP.

Refuses unknown words in the configuration, a log key that others may read, and a log whose parts
contradict each other. One process per log.
"""

import logging
import os
import re
import stat
import threading
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from sqlalchemy.exc import DatabaseError, OperationalError

from witness import checkpoint as checkpoints
from witness import policy as policies
from witness.cosignature import cosigner_key
from witness.cosigner import Cosigner
from witness.database import SchemaTooNew
from witness.door import (
    Doorkeeper,
    Messages,
    PeerIdentity,
    Places,
    certificate_identity,
    connection_limits,
)
from witness.encoding import EncodingError, b64, system_clock, system_entropy, unb64
from witness.files import Folder
from witness.keys import ED25519, ML_DSA_44, KeyInvalid, PrivateKey, PrivateKeys, PublicKey, PublicKeys
from witness.list_records import Author, ListRecords
from witness.log import Log, LogRefused, sqlite_url
from witness.members import MembersInvalid
from witness.memory import COSIGNER_FORGOT, Memory
from witness.metrics import Metrics, MetricsServer
from witness.note import NoteInvalid, check_name
from witness.policy import Policy, PolicyInvalid
from witness.quorum import Quorum
from witness.quota import Quota
from witness.registry import Registry
from witness.retention import Retention
from witness.schema import ID, LINE, Fields, FormatError, matching
from witness.sequencer import Sequencer
from witness.service import KEPT_CALLS, MOST_CALLS_EACH, PLACES, THREADS, Admission, Service, members_only
from witness.sm2 import Sm2PrivateKey
from witness.sm2_key import load as load_sm2_key
from witness.tileserver import TileServer
from witness.v1 import witness_pb2, witness_pb2_grpc
from witness.verifiers import Verifiers

_log = logging.getLogger(__name__)
CONFIG_FILE = "witness.toml"
EVIDENCE_KEY = "evidence-key.pem"
WHAT_TO_DO = "Keep every file, and see docs/reference/evidence.md, 'When the log refuses to run'"
_PATH = re.compile(r"[^\x00-\x1f]+")
MOST_CALLS = 256
MESSAGE_SECONDS = 10.0
"""How long a call may keep a message waiting."""
LARGEST_MESSAGE = 10 * 1024 * 1024  # 64 envelopes of 128 KiB and their framing
DAILY_MIB = 4096


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
    cosigner_name: str | None = None
    cosigner_key: Path | None = None
    cosigns: Path | None = None
    quorum: Path | None = None
    metrics_listen: str | None = None
    retain_days: int | None = None
    daily_mib: int = DAILY_MIB
    sm2_key: Path | None = None
    evidence_key: Path | None = None

    @property
    def operator_keys(self) -> tuple[PublicKey, ...]:
        """The space operator's keys; a key file appears when the first admission is installed."""
        return tuple(key for name in self.operator_key_names for key in _operator_keys(name, self.folder))


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

# The keys that sign checkpoints (Ed25519 and ML-DSA-44, PEM, readable by the owner only).
log_key = "log-key.pem"

# One more signature on each checkpoint, SM2 with SM3, for those who need it (extra `sm2`): a key that
# `openssl genpkey -algorithm SM2` made, readable by the owner only. `keys` prints its verifier key, for trust
# files.
# sm2_key = "sm2-key.pem"

# mTLS: this witness's key and certificate, and the authority of the data space.
tls_key = "tls-key.pem"
tls_certificate = "tls-certificate.pem"
tls_authority = "tls-authority.pem"

# The member list as the space operator signed it. Replace the file to bring in a new version.
members = "members.json"

# The keys with which this witness records each new member list in its log, where the list names them as its
# own. `bayspace witness init` makes them.
# evidence_key = "evidence-key.pem"

# The space operator's keys that sign member lists: "ed25519:<base64>", or a PEM file of a public key.
operator_keys = [{operator_keys}]

# Cosigning other logs (C2SP tlog-witness, `POST /add-checkpoint` on http_listen): the name and keys under
# which this witness cosigns, and a tlog-policy whose `log <vkey> <url>` lines name the logs and where they
# publish. Never a log of one's own.
# cosigner_name = "{host}/witness"
# cosigner_key = "cosigner-key.pem"
# cosigns = "cosigns.policy"

# The witnesses that must cosign this log's checkpoints before an entry counts as witnessed: a tlog-policy
# with `witness <name> <vkey> <url>` lines and a quorum. Without one, entries count when they are published.
# quorum = "quorum.policy"

# Metrics for the operator (Prometheus text), on an address that the public does not reach.
# metrics_listen = "127.0.0.1:7081"

# Contents of records are erased after so many days; leaves and proofs stay for ever.
# retain_days = 3650

# MiB of new records that each member may bring in a day (UTC), so that nobody fills the disk for all others.
# daily_mib = 4096
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
) -> tuple[str, ...]:
    """Writes a commented configuration, log keys and cosigner keys into `folder`; returns the log's vkeys.

    Raises ConfigInvalid when a configuration is there already: a log key is never replaced.
    """
    if (folder / CONFIG_FILE).exists() or (folder / "log-key.pem").exists():
        raise ConfigInvalid(f"{folder} already holds a witness")
    keys = PrivateKeys.generate(system_entropy)
    vkeys = tuple(str(checkpoints.log_key(origin, key)) for key in keys.keys)
    named = (k if isinstance(k, str) else f"{k.algorithm}:{b64(k.raw)}" for k in operator_keys)
    operators = ", ".join(f'"{matching(name, LINE, "operator_keys")}"' for name in named)
    text = _TEMPLATE.format(
        space=matching(space, ID, "space"),
        participant=matching(participant, ID, "participant"),
        origin=matching(origin, LINE, "origin"),
        host=policies.operator_of(origin),
        grpc_listen=matching(grpc_listen, LINE, "grpc_listen"),
        http_listen=matching(http_listen, LINE, "http_listen"),
        operator_keys=operators,
    )
    files = Folder(folder)
    files.write("log-key.pem", keys.pem(), mode=0o600)
    files.write("cosigner-key.pem", PrivateKeys.generate(system_entropy).pem(), mode=0o600)
    files.write(CONFIG_FILE, text.encode())
    return vkeys


def add_post_quantum_key(config: WitnessConfig) -> None:
    """Gives a log of Ed25519 alone its ML-DSA-44 key, for the next start. Doing it again changes nothing."""
    keys = _private_keys(config.log_key, "log_key")
    if len(keys.keys) == 1:
        added = PrivateKey.from_seed(system_entropy(32), ML_DSA_44)
        together = PrivateKeys([*keys.keys, added])
        Folder(config.log_key.parent).write(config.log_key.name, together.pem(), mode=0o600)


def renew_cosigner_key(config: WitnessConfig) -> None:
    """Gives the cosigner new keys, for the next start; the old ones are gone.

    Who lost what it cosigned must never sign with them again (memory.py).
    """
    if config.cosigner_key is None:
        raise ConfigInvalid("cosigner_key: this witness does not cosign")
    _private_keys(config.cosigner_key, "cosigner_key")
    fresh = PrivateKeys.generate(system_entropy)
    Folder(config.cosigner_key.parent).write(config.cosigner_key.name, fresh.pem(), mode=0o600)
    Folder(config.data).delete(COSIGNER_FORGOT)


def log_vkeys(config: WitnessConfig) -> tuple[str, ...]:
    """The verifier keys of the configured log."""
    keys = _private_keys(config.log_key, "log_key").keys
    return tuple(str(checkpoints.log_key(config.origin, key)) for key in keys)


def load(path: Path) -> WitnessConfig:
    """The configuration in `path` (the file, or its folder). Raises ConfigInvalid."""
    file = path / CONFIG_FILE if path.is_dir() else path
    try:
        return _read(tomllib.loads(file.read_text()), file.parent.resolve())
    except (OSError, tomllib.TOMLDecodeError, FormatError, EncodingError, KeyInvalid, NoteInvalid) as error:
        raise ConfigInvalid(f"{file}: {error}") from error


def _read(value: Any, base: Path) -> WitnessConfig:
    with Fields(value, "the configuration") as f:

        def path(name: str) -> Path:
            return base / f.text(name, _PATH)

        daily = f.optional("daily_mib", f.integer)
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
            cosigner_name=f.optional("cosigner_name", lambda name: check_name(f.text(name, LINE))),
            cosigner_key=f.optional("cosigner_key", path),
            cosigns=f.optional("cosigns", path),
            quorum=f.optional("quorum", path),
            metrics_listen=f.optional("metrics_listen", lambda name: f.text(name, LINE)),
            retain_days=f.optional("retain_days", f.integer),
            daily_mib=DAILY_MIB if daily is None else daily,
            sm2_key=f.optional("sm2_key", path),
            evidence_key=f.optional("evidence_key", path) or _made_with_the_folder(base),
        )


def _made_with_the_folder(base: Path) -> Path | None:
    """The evidence keys of a folder that `bayspace witness init` made, also before they could be named."""
    return base / EVIDENCE_KEY if (base / EVIDENCE_KEY).exists() else None


def _operator_keys(text: str, base: Path) -> tuple[PublicKey, ...]:
    if text.endswith(".pem"):
        return PublicKeys.from_pem(_file(base / text)).keys
    algorithm, _, encoded = text.partition(":")
    return (PublicKey(algorithm, unb64(encoded)),)


def sm2_vkeys(config: WitnessConfig) -> tuple[str, ...]:
    """The verifier key of the configured log's SM2 signature, for trust files; none without such a key."""
    key = _sm2_key(config)
    return () if key is None else (str(checkpoints.log_key(config.origin, key)),)


def _sm2_key(config: WitnessConfig) -> Sm2PrivateKey | None:
    if config.sm2_key is None:
        return None
    try:
        return load_sm2_key(_secret(config.sm2_key, "sm2_key"))
    except KeyInvalid as error:
        raise ConfigInvalid(f"sm2_key: {config.sm2_key}: {error}") from error


def cosigner_vkeys(config: WitnessConfig) -> tuple[str, ...]:
    """The verifier keys under which the configured witness cosigns; none when it does not."""
    if config.cosigner_name is None or config.cosigner_key is None:
        return ()
    keys = _private_keys(config.cosigner_key, "cosigner_key").keys
    return tuple(str(cosigner_key(config.cosigner_name, key)) for key in keys)


def database_url(config: WitnessConfig) -> str:
    """Where the configured witness's database lies."""
    return config.database or sqlite_url(config.data)


def open_log(config: WitnessConfig) -> Log:
    """The configured log. Raises ConfigInvalid, or LogRefused when it must not run."""
    quorum = None if config.quorum is None else _policy(config.quorum)
    keys = _private_keys(config.log_key, "log_key")
    try:
        return Log(
            config.data, config.origin, keys, system_clock, config.database, quorum, sm2=_sm2_key(config)
        )
    except SchemaTooNew as error:
        raise ConfigInvalid(f"database: {error}") from error
    except OperationalError as error:
        raise ConfigInvalid(f"database: cannot be used now ({type(error.orig).__name__})") from error
    except DatabaseError as error:
        raise LogRefused("the database is damaged") from error


def serve(
    config: WitnessConfig,
    stop: threading.Event,
    ready: Callable[[int, int], None],
    identify: PeerIdentity | None = None,
) -> None:
    """Serves until `stop` is set. Calls `ready(grpc port, http port)` once both listen.

    Raises ConfigInvalid, or LogRefused when the log must not run, or not any more.
    """
    log = open_log(config)
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
    with ExitStack() as running:
        cosigner, memory = _cosigner(config, log) or (None, None)
        quorum = _quorum(config, log)
        registry = _registry(config, log, operator_keys)
        identify = members_only(identify, registry)
        confirmed = None if quorum is None else quorum.confirmed.is_set
        verifiers = Verifiers()
        running.callback(verifiers.close)
        admission = Admission(registry, log, verifiers, system_clock)
        quota = Quota(config.daily_mib << 20, system_clock)
        service = Service(log, sequencer, admission, quota, identify, confirmed)
        messages = Messages(MESSAGE_SECONDS)
        door = Doorkeeper(identify, Places(MOST_CALLS_EACH, PLACES, KEPT_CALLS), messages)
        server, port = _grpc_server(service, door, _credentials(config), config.grpc_listen)
        public = TileServer(*_address(config.http_listen), log.read, cosigner)
        running.callback(public.server_close)
        _start_http(public, "tiles", running)
        if config.metrics_listen is not None:
            metrics = Metrics(log, sequencer, quorum, memory)
            _start_http(MetricsServer(*_address(config.metrics_listen), metrics), "metrics", running)
        lists = _list_records(config, log, registry, sequencer, confirmed)
        for part in (quorum, memory, _retention(config, log), lists):
            if part is not None:
                part.start()
                running.callback(part.close)
        messages.start()
        running.callback(messages.close)
        server.start()
        running.callback(lambda: server.stop(grace=5).wait())
        running.callback(service.stop)
        _log.info("%s serves gRPC on port %d, tiles on port %d", config.participant, port, public.port)
        ready(port, public.port)
        _until(stop, quorum)


def _registry(config: WitnessConfig, log: Log, operator_keys: Sequence[PublicKey]) -> Registry:
    try:
        return Registry(log.database, config.members, config.space, operator_keys)
    except MembersInvalid as error:
        raise ConfigInvalid(f"members: a list that this witness has kept: {error}") from error


def _until(stop: threading.Event, quorum: Quorum | None) -> None:
    while not stop.wait(0.5):
        if quorum is not None and quorum.contradicted.is_set():
            raise LogRefused("a witness holds a later tree of this log: a rollback, or a fork; see fsck")


def _start_http(server: ThreadingHTTPServer, name: str, running: ExitStack) -> None:
    # 0.05: how long a stop may wait for it
    threading.Thread(target=server.serve_forever, args=(0.05,), name=name, daemon=True).start()
    running.callback(server.shutdown)


def _cosigner(config: WitnessConfig, log: Log) -> tuple[Cosigner, Memory] | None:
    named = (config.cosigner_name, config.cosigner_key, config.cosigns)
    name, key, cosigns = named
    if name is None or key is None or cosigns is None:
        if any(part is not None for part in named):
            raise ConfigInvalid("cosigner_name, cosigner_key and cosigns are set together or not at all")
        return None
    keys, logs = _private_keys(key, "cosigner_key"), _policy(cosigns)
    try:
        vkeys = [cosigner_key(name, key) for key in keys.keys]
        memory = Memory(vkeys, logs, log.database, Folder(config.data))
        return Cosigner(name, keys, logs, log.database, system_clock, objection=memory.objection), memory
    except PolicyInvalid as error:
        raise ConfigInvalid(f"{cosigns}: {error}") from error


def _quorum(config: WitnessConfig, log: Log) -> Quorum | None:
    if config.quorum is None or not log.needs_quorum:
        return None
    try:
        return Quorum(log, _policy(config.quorum), system_clock)
    except PolicyInvalid as error:
        raise ConfigInvalid(f"{config.quorum}: {error}") from error


def _retention(config: WitnessConfig, log: Log) -> Retention | None:
    return None if config.retain_days is None else Retention(log.database, config.retain_days, system_clock)


def _list_records(
    config: WitnessConfig,
    log: Log,
    registry: Registry,
    sequencer: Sequencer,
    confirmed: Callable[[], bool] | None,
) -> ListRecords | None:
    if config.evidence_key is None:
        return None
    keys = _private_keys(config.evidence_key, "evidence_key")
    author = Author(config.space, config.participant, keys, system_clock)
    return ListRecords(author, log.database, registry, sequencer, confirmed or (lambda: True))


def _policy(path: Path) -> Policy:
    try:
        return policies.read(_file(path))
    except PolicyInvalid as error:
        raise ConfigInvalid(f"{path}: {error}") from error


def _grpc_server(
    service: Service, door: Doorkeeper, credentials: grpc.ServerCredentials, listen: str
) -> tuple[grpc.Server, int]:
    server = grpc.server(
        ThreadPoolExecutor(THREADS, thread_name_prefix="rpc"),
        interceptors=[door],
        maximum_concurrent_rpcs=MOST_CALLS,
        options=[
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
            ("grpc.so_reuseport", 0),  # two witnesses on one port must fail, not share
            *connection_limits(),
        ],
    )
    name = witness_pb2.DESCRIPTOR.services_by_name["Witness"].full_name
    witness_pb2_grpc.add_WitnessServicer_to_server(service, server)
    checks = health.HealthServicer(experimental_non_blocking=False)  # watched behind the door, like all
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


def _secret(path: Path, what: str) -> bytes:
    pem = _file(path)
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigInvalid(f"{what}: {path} may be read by others; chmod 600 it")
    return pem


def _private_keys(path: Path, what: str) -> PrivateKeys:
    pem = _secret(path, what)
    try:
        keys = PrivateKeys.from_pem(pem)
    except KeyInvalid as error:
        raise ConfigInvalid(f"{what}: {path}: {error}") from error
    if keys.keys[0].public.algorithm != ED25519:
        raise ConfigInvalid(f"{what}: checkpoints are signed with Ed25519, and ML-DSA-44 beside it")
    return keys


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
