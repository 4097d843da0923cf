"""`bayspace list`: signed lists of the law that policies name by digest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from connector.cli.report import Config, Json, configuration, print_json, say

app = typer.Typer(no_args_is_help=True)

ListFile = Annotated[Path, typer.Argument(help="a signed list, JSON: policies/lists/NAME.json")]


@app.command()
def make(out: Annotated[Path, typer.Argument(help="the draft to write, YAML")]) -> None:
    """Write a draft of a list, to be filled in."""
    from compute.errors import ConfigError
    from connector.transfer_lists import DRAFT

    if out.exists():
        raise ConfigError("file.exists", f"{out} exists: nothing was written")
    out.write_text(DRAFT, encoding="utf-8")
    say(f"draft written to {out}: fill it in, then `bayspace list sign {out} --out NAME.json`")


@app.command()
def sign(
    draft: Annotated[Path, typer.Argument(help="the draft, YAML")],
    out: Annotated[Path, typer.Option(help="write the signed list to this file: NAME.json")],
    config: Config = Path(),
) -> None:
    """As issuer: sign a list with this participant's evidence keys; prints how a policy names it."""
    from connector import transfer_lists
    from connector.identity import load_signing_keys, utc_now

    settings = configuration(config)
    made = transfer_lists.draft(_read(draft))
    keys = load_signing_keys(settings.evidence_key_path)
    text = transfer_lists.sign(made, settings.participant, keys, int(utc_now().timestamp() * 1000))
    out.write_bytes(text.encode())
    say(transfer_lists.reference_of(text))


@app.command()
def show(file: ListFile, json: Json = False) -> None:
    """What a list says, and how a policy names it. Verifies nothing."""
    from connector import transfer_lists

    text = _read(file)
    reference, said = transfer_lists.reference_of(text), transfer_lists.read(text).as_json()
    if json:
        print_json({"reference": reference, **said})
        return
    say(f"{reference} (signatures not verified: `bayspace list verify`)")
    for name, value in said.items():
        say(f"  {name}: {', '.join(value) if isinstance(value, list) else value}")


@app.command()
def verify(file: ListFile, config: Config = Path(), json: Json = False) -> None:
    """Check a list's signatures, its issuer and its dates against this participant's member list."""
    from connector import transfer_lists
    from connector.enrolment import load_members
    from connector.identity import utc_now

    text = _read(file)
    found = transfer_lists.verified(text, load_members(configuration(config).trust), utc_now())
    reference, content = transfer_lists.reference_of(text), found.content
    if json:
        print_json({"verified": True, "reference": reference, **found.as_json()})
        return
    until = f" until {content.until}" if content.until else ""
    say(f"{reference}: {content.kind} signed by {content.issuer}, in force from {content.start}{until}")


def _read(file: Path) -> str:
    from compute.errors import ConfigError

    try:
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("file.unreadable", f"{file} cannot be read") from error
