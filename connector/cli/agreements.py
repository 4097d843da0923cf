"""`bayspace agreement` and `bayspace template`: what is in force, who signed it, which texts it allows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from connector.cli.report import Config, Json, configuration, print_json, say, show

agreements = typer.Typer(no_args_is_help=True)
templates = typer.Typer(no_args_is_help=True)

Agreement = Annotated[str, typer.Argument(help="agreement or negotiation id, or a unique beginning of one")]
_COLUMNS = ["agreement", "role", "peer", "offer", "agreement_state", "uses", "ends", "signed_by"]


@agreements.command("list")
def list_(config: Config = Path(), json: Json = False) -> None:
    """Agreements, who signed them, uses, and when they end."""
    from connector import connect

    with connect(configuration(config)) as space:
        found = [
            space.contract("show", agreement=contract["negotiation"])[0]
            for contract in space.contract("list")
            if contract["agreement_state"]
        ]
    _show(found, json=json)


@agreements.command("show")
def show_(agreement: Agreement, config: Config = Path()) -> None:
    """One agreement as JSON, with its documents and both signatures, each checked again."""
    from connector import connect

    with connect(configuration(config)) as space:
        print_json(space.contract("show", agreement=agreement)[0])


@agreements.command()
def suspend(agreement: Agreement, config: Config = Path(), json: Json = False) -> None:
    """As owner: stop answering; running queries end without a release."""
    _do("suspend", agreement, config, json=json)


@agreements.command()
def resume(agreement: Agreement, config: Config = Path(), json: Json = False) -> None:
    """As owner: answer again under a suspended agreement."""
    _do("resume", agreement, config, json=json)


@agreements.command()
def terminate(agreement: Agreement, config: Config = Path(), json: Json = False) -> None:
    """End it, for ever, from either side."""
    _do("terminate", agreement, config, json=json)


def _do(action: str, agreement: str, config: Path, *, json: bool) -> None:
    from connector import connect

    with connect(configuration(config)) as space:
        space.contract(action, agreement=agreement)
        _show(space.contract("show", agreement=agreement), json=json)


def _show(found: list[dict[str, Any]], *, json: bool) -> None:
    rows = [
        {
            **one,
            "agreement": (one["agreement"] or "")[:12],
            "signed_by": [s["participant"] for s in one.get("signatures", ()) if s["verified"]],
        }
        for one in found
    ]
    show(found if json else rows, _COLUMNS, as_json=json)


# --- templates ----------------------------------------------------------------------------------------


@templates.command()
def digest(
    files: Annotated[list[Path], typer.Argument(help="templates, YAML: policies/templates/NAME.yaml")],
) -> None:
    """Check templates and print how a policy names them: name@digest."""
    from compute.errors import ConfigError
    from compute.templates import parse

    for file in files:
        try:
            text = file.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("file.unreadable", f"{file} cannot be read") from error
        say(parse(text).reference)


@templates.command("list")
def templates_(config: Config = Path(), json: Json = False) -> None:
    """The reviewed queries that agreements in force let you ask, with their parameters."""
    from connector import connect

    with connect(configuration(config)) as space:
        found = space.templates()
    rows = [
        {
            "template": template.name if not json else template.reference,
            "offer": offer,
            "title": template.title,
            "parameters": [f"{name}: {p.allowed}" for name, p in sorted(template.parameters.items())],
            "sql": template.sql,
        }
        for offer, template in found
    ]
    show(rows, ["template", "offer", "title", "parameters"], as_json=json)
