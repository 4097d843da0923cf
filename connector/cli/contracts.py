"""`bayspace contract`: terms, from the first request to the end of the agreement.

A negotiation is one table with terms on it. `list` says what each side may do next, `terms` what changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from connector.cli.report import Config, Json, configuration, print_json, say, show

contracts = typer.Typer(no_args_is_help=True)

Contract = Annotated[str, typer.Argument(help="negotiation or agreement id, or a unique beginning of one")]
Offer = Annotated[str, typer.Argument(help="participant.offer")]
Terms = Annotated[Path | None, typer.Option(help="a policy (YAML) instead of the offer's")]
_COLUMNS = ["negotiation", "role", "peer", "offer", "state", "agreement_state", "agreement", "you_can"]


@contracts.command()
def request(offer: Offer, terms: Terms = None, config: Config = Path(), json: Json = False) -> None:
    """Ask a participant for a contract about one of its offers, on its terms or on yours."""
    participant, name = _named(offer)
    _contract(config, json, "request", participant=participant, offer=name, terms=_text(terms))


@contracts.command()
def draft(
    offer: Offer,
    out: Annotated[Path, typer.Option(help="write to this file")],
    config: Config = Path(),
) -> None:
    """Write an offer's terms as YAML, to be changed and requested with --terms."""
    from compute.errors import ConfigError
    from connector import connect
    from policy_enforcer import odrl, write

    participant, name = _named(offer)
    with connect(configuration(config)) as space:
        found = [o for o in space.catalogue(participant)[0] if o.name == name]
    if not found:
        raise ConfigError("offer.unknown", f"{participant} offers nothing named {name!r}")
    if out.exists():
        raise ConfigError("file.exists", f"{out} is there already")
    out.write_text(write.to_yaml(odrl.from_odrl(found[0].policy)), encoding="utf-8")
    say(f"terms of {offer} written to {out}")
    say(f"next: change them, then bayspace contract request {offer} --terms {out}")


@contracts.command("offer")
def offer_(
    offer: Annotated[str, typer.Argument(help="the offer's name")],
    to: Annotated[str, typer.Option(help="participant id of the consumer")],
    terms: Terms = None,
    config: Config = Path(),
    json: Json = False,
) -> None:
    """As owner: offer a participant a contract, on the offer's terms or on others."""
    _contract(config, json, "offer", participant=to, offer=offer.rpartition(".")[2], terms=_text(terms))


@contracts.command()
def counter(
    contract: Contract,
    terms: Annotated[Path, typer.Option(help="a policy (YAML): your terms")],
    config: Config = Path(),
    json: Json = False,
) -> None:
    """Answer the terms on the table with others: a request of the consumer's, or an offer of the owner's."""
    _contract(config, json, "counter", agreement=contract, terms=_text(terms))


@contracts.command()
def accept(contract: Contract, config: Config = Path(), json: Json = False) -> None:
    """As consumer: accept the owner's offer; its people approve then."""
    _contract(config, json, "accept", agreement=contract)


@contracts.command()
def approve(
    contract: Contract,
    policy: Annotated[
        str, typer.Option(help="the first digits of the terms' digest, where they are the consumer's")
    ] = "",
    config: Config = Path(),
    json: Json = False,
) -> None:
    """As owner: sign what was requested or accepted; both signatures put it in force."""
    _contract(config, json, "approve", agreement=contract, policy=policy)


@contracts.command()
def reject(contract: Contract, config: Config = Path(), json: Json = False) -> None:
    """Decline what is on the table."""
    _contract(config, json, "reject", agreement=contract)


@contracts.command()
def resend(contract: Contract, config: Config = Path(), json: Json = False) -> None:
    """Send again what the other side did not confirm."""
    _contract(config, json, "resend", agreement=contract)


@contracts.command("list")
def list_(config: Config = Path(), json: Json = False) -> None:
    """Contracts, where they stand, and what you can do next."""
    _contract(config, json, "list")


@contracts.command("show")
def show_(contract: Contract, config: Config = Path()) -> None:
    """One contract as JSON, with everything that was on the table."""
    _contract(config, True, "show", agreement=contract)


@contracts.command("terms")
def terms_(contract: Contract, config: Config = Path(), json: Json = False) -> None:
    """Every version of the terms: whose it is, what it changes, and the last one in full."""
    from connector import connect

    with connect(configuration(config)) as space:
        versions = space.contract("show", agreement=contract)[0]["proposals"]
    if json:
        print_json(versions)
        return
    for version in versions:
        _version(version)
    if versions and versions[-1]["text"] is not None:
        say(versions[-1]["text"].rstrip("\n"))


@contracts.command()
def suspend(contract: Contract, config: Config = Path(), json: Json = False) -> None:
    """As owner: stop answering under an agreement; running queries end without a release."""
    _contract(config, json, "suspend", agreement=contract)


@contracts.command()
def resume(contract: Contract, config: Config = Path(), json: Json = False) -> None:
    """As owner: answer again under a suspended agreement."""
    _contract(config, json, "resume", agreement=contract)


@contracts.command()
def terminate(contract: Contract, config: Config = Path(), json: Json = False) -> None:
    """End a negotiation or an agreement, for ever, from either side."""
    _contract(config, json, "terminate", agreement=contract)


def _version(version: dict[str, Any]) -> None:
    own = ", the offer's own" if version["published"] else ""
    policy = version["policy"] or "terms that are not kept: who asked for them ended it"
    say(f"{version['sequence']}. {version['author']}: {policy}{own}")
    say(f"   digest {version['policy_digest']}")
    changes = version["changes"]
    if changes is None:
        return
    for word in ("allowed", "forbidden", "other"):
        for sentence in changes[word]:
            say(f"   {word}: {sentence}")
    if not any(changes.values()):
        say("   says the same as the version before")


def _named(offer: str) -> tuple[str, str]:
    from compute.errors import ConfigError

    participant, dot, name = offer.partition(".")
    if not dot or not name:
        raise ConfigError("offer.name", "an offer is written participant.offer")
    return participant, name


def _text(terms: Path | None) -> str:
    """A policy's text, checked here first: errors name its line."""
    from compute.errors import ConfigError
    from policy_enforcer import load

    if terms is None:
        return ""
    try:
        text = terms.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("file.unreadable", f"{terms} cannot be read") from error
    load.load(text, str(terms))
    return text


def _contract(config: Path, as_json: bool, action: str, **which: str) -> None:
    from connector import connect

    with connect(configuration(config)) as space:
        found = space.contract(action, **which)
    rows = [
        found_
        if as_json
        else {
            **found_,
            "negotiation": found_["negotiation"][:12],
            "agreement": (found_["agreement"] or "")[:12],
        }
        for found_ in found
    ]
    show(rows, _COLUMNS, as_json=as_json)
