"""`bayspace connector`: set up, run, check. And `bayspace demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from connector.cli.report import USAGE, Config, Json, configuration, note, say, show

app = typer.Typer(no_args_is_help=True)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="the connector's folder; made if it does not exist")],
    participant: Annotated[str, typer.Option(help="participant id: lower-case letters, digits, hyphens")],
    space: Annotated[str, typer.Option(help="the data space's name")],
    jurisdiction: Annotated[str, typer.Option(help="where it computes, as policies name it: HK, CN-SZ, ...")],
    listen: Annotated[str, typer.Option(help="interface and port to serve on")] = "127.0.0.1:7443",
    address: Annotated[str | None, typer.Option(help="host:port that others dial; default: --listen")] = None,
    witness: Annotated[list[str] | None, typer.Option(help="participant id of a witness; repeatable")] = None,
) -> None:
    """Make a connector's folder: commented configuration, fresh keys, enrolment request."""
    from connector import config

    made = config.init(folder, participant, space, jurisdiction, listen, address, tuple(witness or ()))
    say(f"connector {made.participant} made in {folder}")
    say(f"next: the space's operator answers {folder / 'enrolment.json'} (bayspace space enroll)")


class _WithoutPandas:
    """Arrow loads pandas wherever it is installed: 50 MB in each connector, and nothing of ours uses it."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)


@app.command()
def serve(config: Config = Path()) -> None:
    """Run the connector until it is interrupted."""
    import logging

    sys.meta_path.insert(0, _WithoutPandas())
    from connector.node import Node
    from connector.service import run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    node = Node(configuration(config))
    run(node, until_signalled(), lambda port: ready(f"ready grpc={port}"))


@app.command()
def rotate(config: Config = Path()) -> None:
    """Make new keys, and a request for them signed by the present ones, which stay in force until then."""
    from connector import enrolment

    path = enrolment.rotate(configuration(config).seat)
    say(f"new keys made; the present ones stay in force. The operator answers {path} (bayspace space enroll)")
    say("then install the admission (bayspace space install) and restart the connector")


@app.command()
def doctor(config: Config = Path(), json: Json = False) -> None:
    """Check keys, certificates, member list, state, data, policies, witnesses; say what to do."""
    from connector.doctor import examine

    findings = examine(configuration(config))
    rows: list[dict[str, Any]] = [
        {"check": f.check, "status": f.status, "finding": f.sentence, "do": f.remedy} for f in findings
    ]
    show(rows, ["status", "check", "finding", "do"], as_json=json)
    if any(f.status == "fail" for f in findings):
        raise typer.Exit(USAGE)


def demo(
    keep: Annotated[Path | None, typer.Option(help="leave everything in this folder")] = None,
    rows: Annotated[int, typer.Option(min=1000, help="invoices to generate")] = 200_000,
    federation: Annotated[bool, typer.Option("--federation", help="seven banks, one answer")] = False,
) -> None:
    """Two connectors and a witness answer joint queries under policy on this machine, narrated."""
    if federation:
        from connector import federation_demo

        if keep is not None:
            raise typer.BadParameter("the demo of a federation keeps nothing", param_hint="--keep")
        federation_demo.run(federation_demo.LOANS)
        return
    from connector.demo import run

    run(keep, rows)


def until_signalled() -> Any:
    """An event that SIGINT and SIGTERM set."""
    import signal
    import threading

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def ready(line: str) -> None:
    """Tell whoever started this process, at once, that it serves."""
    say(line)
    sys.stdout.flush()
    note("serving; Ctrl-C stops")
