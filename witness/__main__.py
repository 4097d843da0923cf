"""The witness without a connector: `python -m witness init|serve|verify|document`.

An auditor's `verify` loads only the standard library and `cryptography`. Exit codes: 0 done, 2 usage or
configuration, 7 verification failed.
"""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from witness.auditor import DONE, USAGE, add_commands, fail


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    code: int = options.run(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m witness", description=__doc__)
    commands = parser.add_subparsers(required=True)
    init = commands.add_parser("init", help="write a commented configuration and a new log key")
    init.add_argument("folder", type=Path)
    init.add_argument("--space", required=True, help="the data space whose evidence is recorded")
    init.add_argument("--participant", required=True, help="this witness's id in the member list")
    init.add_argument("--origin", required=True, help="the log's name, such as witness.example/gba")
    init.add_argument("--operator-key", action="append", default=[], help="ed25519:<base64>, or a PEM file")
    init.set_defaults(run=_init)
    serve = commands.add_parser("serve", help="run the witness service")
    serve.add_argument("config", type=Path, help="configuration file, or the folder that holds it")
    serve.set_defaults(run=_serve)
    add_commands(commands)
    return parser


def _init(options: argparse.Namespace) -> int:
    from witness.note import NoteInvalid
    from witness.schema import FormatError
    from witness.server import ConfigInvalid, write_default

    try:
        vkey = write_default(
            options.folder,
            space=options.space,
            participant=options.participant,
            origin=options.origin,
            operator_keys=options.operator_key,
        )
    except (ConfigInvalid, FormatError, NoteInvalid) as error:
        return fail(USAGE, str(error))
    sys.stdout.write(f"{vkey}\n")
    return DONE


def _serve(options: argparse.Namespace) -> int:
    # Imported here: an auditor has neither gRPC nor SQLAlchemy.
    from witness.log import LogRefused
    from witness.server import ConfigInvalid, load, serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(load(options.config), stop, _ready)
    except (ConfigInvalid, LogRefused) as error:
        return fail(USAGE, str(error))
    return DONE


def _ready(grpc_port: int, http_port: int) -> None:
    sys.stdout.write(f"ready grpc={grpc_port} http={http_port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
