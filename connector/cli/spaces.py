"""`bayspace space`: run by the operator of the data space, on files, without a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from connector.cli.report import Json, say, show

app = typer.Typer(no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="the data space's folder")]


@app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="the space's name: lower-case letters, digits, hyphens")],
) -> None:
    """Make a data space: certificate authority, operator key, empty member list."""
    from connector import space

    made = space.init(folder, name)
    say(f"data space {made.name} made in {folder}; operator key id {made.operator_key_id}")
    say("participants compare this id when they install their first admission")


@app.command()
def enroll(
    folder: Folder,
    participant: Annotated[
        Path, typer.Argument(help="a participant's folder on this machine, or its enrolment.json")
    ],
    address: Annotated[str | None, typer.Option(help="overrides the address in the request")] = None,
    jurisdiction: Annotated[str | None, typer.Option(help="overrides the request's jurisdiction")] = None,
    replace_keys: Annotated[
        bool, typer.Option("--replace-keys", help="accept new keys of a member that lost its own")
    ] = False,
) -> None:
    """Answer an enrolment request with a certificate and a new member list.

    For a folder on this machine everything is installed at once; for a request file the admission to carry
    back is written beside the space's history.
    """
    from connector import space

    if participant.is_dir() and not (address or jurisdiction or replace_keys):
        members = space.enrol_local(folder, _seat(participant))
        say(f"enrolled; member list version {members.version}: {_ids(members)}")
        return
    request = participant / "enrolment.json" if participant.is_dir() else participant
    path = space.enrol(folder, request, address=address, jurisdiction=jurisdiction, replace_keys=replace_keys)
    say(f"admission written to {path}; the participant installs it with `bayspace space install`")


@app.command()
def install(
    participant: Annotated[Path, typer.Argument(help="the participant's folder")],
    admission: Annotated[Path, typer.Argument(help="the admission, or a newer member list")],
    operator: Annotated[
        str | None, typer.Option(help="the operator's key id, as the operator told you over another channel")
    ] = None,
) -> None:
    """Install an admission (or a newer member list) that the operator sent."""
    from compute.errors import ConfigError
    from connector import enrolment
    from connector.identity import utc_now

    seat = _seat(participant)
    try:
        data = admission.read_bytes()
    except OSError as error:
        raise ConfigError("enrolment.admission", f"{admission} cannot be read") from error
    if b'"application/vnd.bayspace.members' in data[:200_000] and b"admission" not in data[:200]:
        adopted = enrolment.adopt_members(seat.trust, data)
        say("member list installed" if adopted else "this member list is in force already")
        return
    members = enrolment.install(seat, data, utc_now(), operator)
    known = enrolment.operator_keys(seat.trust)
    say(f"installed; member list version {members.version}: {_ids(members)}")
    say(f"operator key id {known.fingerprint if known else ''}: compare it with the operator's")


@app.command("list")
def list_(folder: Folder, json: Json = False) -> None:
    """Members: roles, addresses, jurisdictions, keys."""
    from connector import space

    opened = space.open_space(folder)
    rows: list[dict[str, Any]] = [
        {
            "id": p.id,
            "role": p.role,
            "jurisdiction": p.jurisdiction,
            "address": p.address,
            "key_ids": [key.id for key in p.keys],
            "keys": ", ".join(_validity(key) for key in p.keys),
            "certificate": p.certificate,
            "claims": list(p.claims),
        }
        for p in opened.members.participants
    ]
    if not json:
        say(f"data space {opened.name}, member list version {opened.members.version}")
        say(f"operator key id {opened.operator_key_id}")
    show(rows, ["id", "role", "claims", "jurisdiction", "address", "keys"], as_json=json)


@app.command()
def remove(folder: Folder, participant: Annotated[str, typer.Argument(help="participant id")]) -> None:
    """Take a member off the list."""
    from connector import space

    members = space.remove(folder, participant)
    say(f"member list version {members.version}: {_ids(members)}")


@app.command()
def certify(
    folder: Folder,
    participant: Annotated[str, typer.Argument(help="participant id")],
    claim: Annotated[
        list[str] | None, typer.Option(help="role:NAME or claim:NAME, once for each; none takes all away")
    ] = None,
) -> None:
    """Say which roles and claims of a member you have verified; policies name them as assignees."""
    from connector import space

    members = space.certify(folder, participant, claim or ())
    found = members.participant(participant)
    say(f"member list version {members.version}: {participant} {', '.join(found.claims if found else ())}")


@app.command("add-ml-dsa-44")
def add_ml_dsa_44(folder: Folder) -> None:
    """Give the operator of an older space its post-quantum key: from then on it signs with both."""
    from connector import space

    before = space.listing(folder).version
    members = space.add_post_quantum_key(folder)
    if members.version == before:
        say(f"the operator signs with Ed25519 and ML-DSA-44 already (member list version {before})")
        return
    say(
        f"member list version {members.version} names both keys of the operator: send it to every participant"
    )
    say(
        f"operator key id, for participants that join from now on: {space.open_space(folder).operator_key_id}"
    )


def _seat(folder: Path) -> Any:
    from connector.witnesses import witness_seat

    if (folder / "witness.toml").exists():
        return witness_seat(folder)
    from connector.cli.report import configuration

    return configuration(folder).seat


def _validity(key: Any) -> str:
    from witness.encoding import format_time

    until = "" if key.valid_until is None else f" until {format_time(key.valid_until)[:10]}"
    return f"{key.id[:16]}… since {format_time(key.valid_from)[:10]}{until}"


def _ids(members: Any) -> str:
    return ", ".join(p.id for p in members.participants) or "nobody"
