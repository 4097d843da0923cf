"""One connector's folder and its `connector.toml`: typed, commented, complete.

Everything a connector needs lies in one folder: configuration, keys, member list, state, dataset
descriptions, policies. Relative paths count from that folder, so it can be moved whole.
Refuses unknown keys and wrong types with file, line and key, and never repeats a value: a state URL may
hold a password.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from compute.errors import ConfigError
from connector.enrolment import Seat, Trust, create_keys, write_request
from connector.identity import TlsPaths, checked_name, split_address

FILE = "connector.toml"


def _address(text: str) -> str:
    _as_value_error(split_address, text)
    return text


def _name(text: str) -> str:
    _as_value_error(checked_name, text)
    return text


def _space_name(text: str) -> str:
    _as_value_error(lambda name: checked_name(name, "space name"), text)
    return text


def _as_value_error(check: Any, text: str) -> None:
    try:
        check(text)
    except ConfigError as error:
        raise ValueError(error.sentence) from error


Address = Annotated[str, AfterValidator(_address)]
Name = Annotated[str, AfterValidator(_name)]
SpaceName = Annotated[str, AfterValidator(_space_name)]
Jurisdiction = Annotated[str, Field(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Network(_Strict):
    """Where this connector listens, and the address that others dial."""

    listen: Address
    address: Address


class IdentityFiles(_Strict):
    """Keys, certificates and the member list, as paths from the connector's folder."""

    tls_key: str = "keys/tls.key"
    tls_certificate: str = "keys/tls.pem"
    authority: str = "keys/authority.pem"
    evidence_key: str = "keys/evidence.key"
    operator_key: str = "keys/operator.pem"
    members: str = "members.json"


class State(_Strict):
    """The database of agreements, uses and evidence."""

    url: str = "sqlite:///state/connector.sqlite"


class Witness(_Strict):
    """One witness service this connector submits evidence to; its keys come from the member list."""

    id: Name
    address: Address | None = None  # None: the member list's


class Evidence(_Strict):
    """What this connector demands of evidence before it is final."""

    quorum: str | None = None  # a tlog-policy: whose cosignatures a log's checkpoint must carry


class Limits(_Strict):
    """What this connector may use of its machine, and how long it waits for a peer."""

    memory_mib: Annotated[int, Field(ge=64)] = 2048
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    maximum_joint_queries: Annotated[int, Field(ge=1, le=256)] = 4
    frame_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    negotiations_per_day: Annotated[int, Field(ge=1)] = 100  # that one peer may open here
    uncharged_queries_per_day: Annotated[int, Field(ge=1)] = 1000  # of one peer: refused, or broken off


class Telemetry(_Strict):
    """Where spans go: a file of JSON lines, an OTLP collector, both or neither."""

    spans: str | None = None
    otlp_endpoint: str | None = None


class ConnectorConfig(_Strict):
    """A connector's whole configuration; paths come out absolute through the properties."""

    participant: Name
    space: SpaceName
    jurisdiction: Jurisdiction
    language: Literal["en", "zh"] = "en"
    network: Network
    identity: IdentityFiles = IdentityFiles()
    state: State = State()
    witness: tuple[Witness, ...] = Field(default=(), strict=False)  # TOML has lists, not tuples
    evidence: Evidence = Evidence()
    limits: Limits = Limits()
    telemetry: Telemetry = Telemetry()
    _folder: Path = PrivateAttr(default=Path())

    @property
    def folder(self) -> Path:
        """The connector's folder."""
        return self._folder

    @property
    def tls(self) -> TlsPaths:
        """The files of this connector's end of a TLS connection."""
        files = self.identity
        return TlsPaths(
            self.path(files.tls_key), self.path(files.tls_certificate), self.path(files.authority)
        )

    @property
    def seat(self) -> Seat:
        """This connector as a member of its space: what enrolment works on."""
        return Seat(
            self.participant,
            "connector",
            self.network.address,
            self.jurisdiction,
            self._folder,
            self.tls,
            self.evidence_key_path,
            self.trust,
        )

    @property
    def trust(self) -> Trust:
        """The operator this connector trusts and the member list in force: for `enrolment.Members`."""
        return Trust(self.space, self.operator_key_path, self.members_path)

    @property
    def evidence_key_path(self) -> Path:
        """The private key that signs evidence."""
        return self.path(self.identity.evidence_key)

    @property
    def members_path(self) -> Path:
        """The signed member list last installed."""
        return self.path(self.identity.members)

    @property
    def operator_key_path(self) -> Path:
        """The public key of the space's operator, pinned when the first admission was installed."""
        return self.path(self.identity.operator_key)

    @property
    def state_url(self) -> str:
        """The database URL, with a SQLite file's path made absolute."""
        file = self.state.url.removeprefix("sqlite:///")
        return self.state.url if file == self.state.url else f"sqlite:///{self.path(file)}"

    @property
    def quorum_path(self) -> Path | None:
        """The tlog-policy of demanded cosignatures, or None."""
        return None if self.evidence.quorum is None else self.path(self.evidence.quorum)

    @property
    def scratch_folder(self) -> Path:
        """Where files without a name go, for what does not fit into memory."""
        return self._folder / "state"

    @property
    def spans_path(self) -> Path | None:
        """The span file, or None."""
        return None if self.telemetry.spans is None else self.path(self.telemetry.spans)

    @property
    def datasets_folder(self) -> Path:
        """Dataset descriptions: `<name>.yaml`."""
        return self._folder / "datasets"

    @property
    def policies_folder(self) -> Path:
        """Policies: one file per offer."""
        return self._folder / "policies"

    def path(self, relative: str) -> Path:
        """A path of this configuration, counted from the connector's folder."""
        return self._folder / relative


def load(path: Path) -> ConnectorConfig:
    """The configuration in a folder or a `connector.toml`. Raises ConfigError with line and key."""
    file = path / FILE if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("config.missing", f"no configuration can be read at {file}") from error
    try:
        config = ConnectorConfig.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("config.syntax", f"{file}: not TOML{_position(str(error))}") from error
    except ValidationError as error:
        raise ConfigError("config.invalid", f"{file}: {_explain(error, text)}") from None
    config._folder = file.resolve().parent  # noqa: SLF001 - the model's own attribute, set once here
    return config


def init(
    folder: Path,
    participant: str,
    space: str,
    jurisdiction: str,
    listen: str = "127.0.0.1:7443",
    address: str | None = None,
    witnesses: tuple[str, ...] = (),
) -> ConnectorConfig:
    """Make a connector's folder: configuration, fresh keys and the enrolment request for the operator.

    Refuses a folder that has a configuration. Once the operator has answered: `enrolment.install`.
    """
    file = folder / FILE
    if file.exists():
        raise ConfigError("config.exists", f"{file} exists already; it is not replaced")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("keys", "state", "datasets", "policies", "telemetry"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    text = _template(participant, space, jurisdiction, listen, address or listen, witnesses)
    file.write_text(text, encoding="utf-8")
    try:
        config = load(file)
    except ConfigError:
        file.unlink()  # a wrong argument leaves no half-made connector behind
        raise
    create_keys(config.seat)
    write_request(config.seat)
    return config


def _position(message: str) -> str:
    found = re.search(r"\(at line (\d+), column (\d+)\)", message)
    return f" (line {found[1]}, column {found[2]})" if found else ""


def _explain(error: ValidationError, text: str) -> str:
    said = []
    for item in error.errors(include_input=False, include_url=False, include_context=False):
        key = ".".join(str(part) for part in item["loc"])
        line = _line_of(text, [str(part) for part in item["loc"]])
        why = (
            "unknown key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        )
        said.append(f"line {line}: {key}: {why}" if line else f"{key}: {why}")
    return "; ".join(said)


def _line_of(text: str, key: list[str]) -> int | None:
    """The line that sets `key`, found by table headers: enough for a file of plain tables."""
    *tables, last = key
    wanted = [part for part in tables if not part.isdecimal()]
    wanted_index = next((int(part) for part in tables if part.isdecimal()), 0)
    current: list[str] = []
    seen = -1
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([\w.-]+)\s*\]\]?", line)
        if header:
            current = header[1].split(".")
            seen += current == wanted
            if current == [*wanted, last]:
                return number
        elif (
            current == wanted
            and max(seen, 0) == wanted_index
            and re.match(rf"\s*{re.escape(last)}\s*=", line)
        ):
            return number
    return None


def _template(
    participant: str, space: str, jurisdiction: str, listen: str, address: str, witnesses: tuple[str, ...]
) -> str:
    listed = "".join(f'\n[[witness]]\nid = "{_quoted(name)}"\n' for name in witnesses)
    return _TEMPLATE.format(
        participant=_quoted(participant),
        space=_quoted(space),
        jurisdiction=_quoted(jurisdiction),
        listen=_quoted(listen),
        address=_quoted(address),
        witnesses=listed or '# [[witness]]\n# id = "witness-a"\n',
    )


def _quoted(text: str) -> str:
    if not text.isprintable():
        raise ConfigError("config.invalid", "a name, jurisdiction or address holds a control character")
    return text.replace("\\", "\\\\").replace('"', '\\"')


_TEMPLATE = """\
# A bayspace connector. Relative paths count from this file's folder. Unknown keys are errors.
# `bayspace connector doctor` checks everything here and says what to do.

participant = "{participant}"         # this participant's id in the data space: [a-z][a-z0-9-]{{1,62}}
space = "{space}"               # the data space it belongs to
jurisdiction = "{jurisdiction}"        # where this connector computes, as policies name it: HK, CN-SZ, ...
language = "en"               # what people are shown first: en or zh

[network]
listen = "{listen}"    # interface and port this connector serves on
address = "{address}"   # what other participants dial; goes into certificate and member list

# Where keys and certificates lie; these are the defaults. Private keys must be mode 0600.
[identity]
tls_key = "keys/tls.key"              # P-256, made by `connector init`; never leaves this machine
tls_certificate = "keys/tls.pem"      # issued by the space's operator
authority = "keys/authority.pem"      # the data space's CA
evidence_key = "keys/evidence.key"    # Ed25519, signs evidence; never leaves this machine
operator_key = "keys/operator.pem"    # whose signature the member list must carry
members = "members.json"              # the signed member list

# Agreements, uses, evidence. For PostgreSQL: postgresql+psycopg://user@host/database
# (extra `postgres`; leave the password to ~/.pgpass or PGPASSFILE).
[state]
url = "sqlite:///state/connector.sqlite"

# Witness services that record evidence. A policy that demands a witness refuses to run without one.
# The address and keys come from the member list; `address` overrides the former.
{witnesses}
# Cosignatures that a witness's log must carry before evidence is final: a tlog-policy with `witness`, `group`
# and `quorum` lines. A witness never counts for a log of its own operator.
# [evidence]
# quorum = "quorum.policy"

[limits]
memory_mib = 2048             # for the local engine
threads = 2
maximum_joint_queries = 4     # at once, over all agreements
frame_timeout_seconds = 60    # a peer that is silent for longer has failed
negotiations_per_day = 100    # that one participant may open here: each is on record for ever
uncharged_queries_per_day = 1000   # of one participant, refused or broken off: they are on record, too

# Spans hold counts, durations and ids only. Remove `spans` to write none.
[telemetry]
spans = "telemetry/spans.jsonl"
# otlp_endpoint = "http://127.0.0.1:4317"    # extra `otlp`
"""
