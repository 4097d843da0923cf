"""A witness as a member of the data space: folder, keys, enrolment. The service itself is `witness`."""

from __future__ import annotations

from pathlib import Path

from compute.errors import ConfigError
from connector.enrolment import Seat, Trust, create_keys, write_request
from connector.identity import TlsPaths, checked_name, split_address
from witness.server import EVIDENCE_KEY, ConfigInvalid, WitnessConfig, load, log_vkeys, write_default

OPERATOR_KEY = "operator.pem"


def init_witness(
    folder: Path,
    participant: str,
    space: str,
    jurisdiction: str,
    origin: str,
    grpc_listen: str,
    http_listen: str,
    address: str | None = None,
    tiles: str | None = None,
) -> str:
    """Make a witness's folder and its enrolment request; returns the log's verifier keys, a line each.

    Refuses a folder that holds a witness: a log's key is never replaced.
    """
    checked_name(participant), checked_name(space, "space name")
    for listen in (grpc_listen, http_listen, address or grpc_listen):
        split_address(listen)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        vkeys = write_default(
            folder,
            space=space,
            participant=participant,
            origin=origin,
            operator_keys=(OPERATOR_KEY,),
            grpc_listen=grpc_listen,
            http_listen=http_listen,
        )
    except ConfigInvalid as error:
        raise ConfigError("witness.exists", str(error)) from error
    place = f"{jurisdiction}\n{address or grpc_listen}\n{tiles or f'http://{http_listen}'}\n"
    (folder / "enrolment.txt").write_text(place, encoding="utf-8")
    seat = witness_seat(folder)
    create_keys(seat)
    write_request(seat)
    return "\n".join(vkeys)


def witness_seat(folder: Path) -> Seat:
    """The witness in `folder` as a member of its space: what enrolment works on."""
    try:
        lines = (folder / "enrolment.txt").read_text(encoding="utf-8").splitlines()
        jurisdiction, address, tiles = lines
    except (OSError, ValueError) as error:
        raise ConfigError(
            "witness.folder", f"{folder} is not a witness's folder as `witness init` makes it"
        ) from error
    config = load_witness(folder)
    return Seat(
        participant=config.participant,
        role="witness",
        address=address,
        jurisdiction=jurisdiction,
        folder=folder,
        tls=TlsPaths(config.tls_key, config.tls_certificate, config.tls_authority),
        evidence_key=folder / EVIDENCE_KEY,
        trust=Trust(config.space, folder / OPERATOR_KEY, config.members),
        logs=_vkeys(config),
        tiles=tiles,
    )


def _vkeys(config: WitnessConfig) -> tuple[str, ...]:
    try:
        return log_vkeys(config)
    except ConfigInvalid as error:
        raise ConfigError("witness.folder", str(error)) from error


def load_witness(folder: Path) -> WitnessConfig:
    """The witness's configuration. Raises `ConfigError`."""
    try:
        return load(folder)
    except ConfigInvalid as error:
        raise ConfigError("witness.config", str(error)) from error
