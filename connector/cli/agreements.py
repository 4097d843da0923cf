"""`bayspace agreement` and `bayspace template`: what is in force, who signed it, what it used, which texts it
allows. What changes an agreement is `bayspace contract`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from connector.cli.report import PEER, Config, Json, configuration, note, print_json, say, show

agreements = typer.Typer(no_args_is_help=True)
templates = typer.Typer(no_args_is_help=True)

Agreement = Annotated[str, typer.Argument(help="agreement or negotiation id, or a unique beginning of one")]
_STATED = ["start", "end", "uses", "rows", "bytes", "loss", "signed", "exchange"]
_TRANSFER = ["transfer", "agreement", "role", "peer", "state", "code", "at"]
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
def transfers(
    agreement: Annotated[str, typer.Argument(help="only this agreement's")] = "",
    config: Config = Path(),
    json: Json = False,
) -> None:
    """The transfer of each query's answer, where it stands, and why it ended."""
    from connector import connect

    with connect(configuration(config)) as space:
        found = space.contract("transfers", agreement=agreement)
    _show_transfers(found, json=json)


@agreements.command()
def stop(
    transfer: Annotated[str, typer.Argument(help="a running transfer's id, or a unique beginning of it")],
    config: Config = Path(),
    json: Json = False,
) -> None:
    """Stop one running query, ours or a peer's; the agreement stays in force."""
    from connector import connect

    with connect(configuration(config)) as space:
        stopped = space.contract("stop", agreement=transfer)
    _show_transfers(stopped, json=json)


@agreements.command()
def statement(
    agreement: Agreement,
    start: Annotated[
        str, typer.Option("--from", help="ISO 8601 with zone; default: when it was agreed")
    ] = "",
    end: Annotated[str, typer.Option("--until", help="the first moment after the period; default: now")] = "",
    config: Config = Path(),
    json: Json = False,
) -> None:
    """As owner: state what was used, for the consumer to sign; differences are shown and not signed."""
    from connector import connect

    with connect(configuration(config)) as space:
        stated = space.contract("state", agreement=agreement, start=start, end=end)[0]
    if json:
        print_json(stated)
    else:
        show([stated], _STATED, as_json=False)
        if not stated["signed"]:
            show(stated["differences"], ["figure", "ours", "theirs"], as_json=False)
    if not stated["signed"]:
        note("not signed: the consumer's account differs")
        raise typer.Exit(PEER)


@agreements.command()
def statements(agreement: Agreement, config: Config = Path(), json: Json = False) -> None:
    """The usage statements that both sides signed; `evidence export` makes a receipt of each."""
    from connector import connect

    with connect(configuration(config)) as space:
        show(space.contract("statements", agreement=agreement), _STATED, as_json=json)


def _show_transfers(found: list[dict[str, Any]], *, json: bool) -> None:
    rows = [{**one, "agreement": (one["agreement"] or "")[:12]} for one in found]
    show(found if json else rows, _TRANSFER, as_json=json)


def _show(found: list[dict[str, Any]], *, json: bool) -> None:
    rows = [
        {
            **one,
            "agreement": (one["agreement"] or "")[:12],
            "signed_by": list(
                dict.fromkeys(s["participant"] for s in one.get("signatures", ()) if s["verified"])
            ),
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
