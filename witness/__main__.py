"""The witness without a connector: `python -m witness init|serve|fsck|keys|lists|erase|console|verify|…`.

An auditor's `verify` loads only the standard library and `cryptography`. Exit codes: 0 done, 2 usage or
configuration, 7 verification failed, 8 fsck found damage, 9 fsck found that a log signed what cannot be.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from witness.auditor import DONE, USAGE, add_commands, fail

DAMAGED, FORKED = 8, 9


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
    fsck = commands.add_parser("fsck", help="read everything that a stopped witness keeps, and compare")
    fsck.add_argument("config", type=Path)
    fsck.add_argument("--format", choices=("text", "json"), default="text")
    fsck.set_defaults(run=_fsck)
    keys = commands.add_parser("keys", help="print the log's and the cosigner's verifier keys")
    keys.add_argument("config", type=Path)
    keys.add_argument("--add-ml-dsa-44", action="store_true", help="give the log its post-quantum key first")
    keys.add_argument("--renew-cosigner", action="store_true", help="replace the cosigner's keys first")
    keys.set_defaults(run=_keys)
    lists = commands.add_parser("lists", help="which member lists are on record, since when")
    lists.add_argument("config", type=Path)
    lists.add_argument("--format", choices=("text", "json"), default="text")
    lists.add_argument("--out", type=Path, help="write their records as a bundle, for `verify`")
    lists.set_defaults(run=_lists)
    erase = commands.add_parser("erase", help="erase a record's content; its leaf and proofs stay")
    erase.add_argument("config", type=Path)
    erase.add_argument("digest", nargs="+", help="SHA-256 of the envelope, in hexadecimal")
    erase.set_defaults(run=_erase)
    console = commands.add_parser("console", help="read-only web pages (needs the extra `console`)")
    console.add_argument("--folder", type=Path, required=True, help="the witness's folder or configuration")
    console.add_argument("--listen", default="127.0.0.1:7082", help="host:port; whoever reaches it may read")
    console.add_argument(
        "--host", action="append", default=[], help="a name under which a proxy passes it on"
    )
    console.set_defaults(run=_console)
    add_commands(commands)
    return parser


def _init(options: argparse.Namespace) -> int:
    from witness.note import NoteInvalid
    from witness.schema import FormatError
    from witness.server import ConfigInvalid, write_default

    try:
        vkeys = write_default(
            options.folder,
            space=options.space,
            participant=options.participant,
            origin=options.origin,
            operator_keys=options.operator_key,
        )
    except (ConfigInvalid, FormatError, NoteInvalid) as error:
        return fail(USAGE, str(error))
    sys.stdout.write("".join(f"{vkey}\n" for vkey in vkeys))
    return DONE


def _serve(options: argparse.Namespace) -> int:
    # Imported here: an auditor has neither gRPC nor SQLAlchemy.
    from witness.log import LogRefused
    from witness.server import WHAT_TO_DO, ConfigInvalid, load, serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(load(options.config), stop, _ready)
    except LogRefused as error:
        return fail(USAGE, f"the log refuses to run: {error}. {WHAT_TO_DO}")
    except ConfigInvalid as error:
        return fail(USAGE, str(error))
    except OSError as error:
        return fail(USAGE, f"cannot start or go on: {error.strerror} ({error.filename or 'network'})")
    return DONE


def _fsck(options: argparse.Namespace) -> int:
    from sqlalchemy.exc import DatabaseError

    from witness import fsck
    from witness.log import LogRefused
    from witness.note import parse_vkey
    from witness.server import WHAT_TO_DO, ConfigInvalid, cosigner_vkeys, load, open_log

    try:
        config = load(options.config)
        with contextlib.closing(open_log(config)) as log:
            report = fsck.check(log, [parse_vkey(vkey) for vkey in cosigner_vkeys(config)])
    except ConfigInvalid as error:
        return fail(USAGE, str(error))
    except LogRefused as error:
        return fail(DAMAGED, f"the log does not open: {error}. {WHAT_TO_DO}")
    except DatabaseError:
        return fail(DAMAGED, f"the database cannot be read to its end: it is damaged. {WHAT_TO_DO}")
    as_json = options.format == "json"
    sys.stdout.write((json.dumps(dataclasses.asdict(report)) if as_json else str(report)) + "\n")
    if report.findings:
        return DAMAGED
    return FORKED if report.forks else DONE


def _keys(options: argparse.Namespace) -> int:
    from witness.server import (
        ConfigInvalid,
        add_post_quantum_key,
        cosigner_vkeys,
        load,
        log_vkeys,
        renew_cosigner_key,
        sm2_vkeys,
    )

    try:
        config = load(options.config)
        if options.add_ml_dsa_44:
            add_post_quantum_key(config)
        if options.renew_cosigner:
            renew_cosigner_key(config)
        lines = [f"log {vkey}" for vkey in (*log_vkeys(config), *sm2_vkeys(config))]
        lines += [f"cosigner {vkey}" for vkey in cosigner_vkeys(config)]
    except ConfigInvalid as error:
        return fail(USAGE, str(error))
    sys.stdout.write("\n".join(lines) + "\n")
    return DONE


def _lists(options: argparse.Namespace) -> int:
    from witness.console import lists
    from witness.console.health import Standing
    from witness.database import Database, SchemaOther
    from witness.encoding import system_clock
    from witness.server import ConfigInvalid, database_url, load

    try:
        config = load(options.config)
        with contextlib.closing(Database(database_url(config), read_only=True)) as database:
            standing = Standing(config, database, system_clock)
            rows = lists.rows(standing, database)
            if options.out is not None:
                options.out.write_bytes(lists.bundle(standing, database))
    except (ConfigInvalid, SchemaOther, lists.Unproved) as error:
        return fail(USAGE, str(error))
    except OSError as error:
        return fail(USAGE, f"cannot write {error.filename}")
    as_json = options.format == "json"
    sys.stdout.write(json.dumps(rows) + "\n" if as_json else "".join(f"{_list_line(row)}\n" for row in rows))
    return DONE


def _list_line(row: dict[str, Any]) -> str:
    entry = "not on record here" if row["entry"] is None else f"entry {row['entry']}, {row['received_at']}"
    keys = " and ".join(row["operator_signs"])
    return (
        f"version {row['version']}, issued {row['issued_at']}, {row['members']} members, "
        f"signed with {keys}: {entry}"
    )


def _erase(options: argparse.Namespace) -> int:
    from witness.database import Database, EraseUnfinished
    from witness.server import ConfigInvalid, database_url, load

    try:
        digests = list(dict.fromkeys(bytes.fromhex(digest) for digest in options.digest))
        with contextlib.closing(Database(database_url(load(options.config)))) as database:
            recorded = len(database.indexes(digests))
            erased = database.erase(digests)
    except (ConfigInvalid, ValueError) as error:
        return fail(USAGE, str(error))
    except EraseUnfinished as error:
        return fail(
            USAGE, f"not erased for good: {error}. End that program and erase again, until this is not said"
        )
    sys.stdout.write(f"erased {erased} of {len(digests)}{_not_erased(erased, recorded, len(digests))}\n")
    return DONE if recorded == len(digests) else USAGE


def _not_erased(erased: int, recorded: int, asked: int) -> str:
    """Why it was not all of them: asking twice is no mistake, asking for what was never here is one."""
    before, unknown = recorded - erased, asked - recorded
    said = [f"{before} erased already"] if before else []
    return "".join(f"; {part}" for part in [*said, *([f"{unknown} not recorded here"] if unknown else [])])


def _console(options: argparse.Namespace) -> int:
    from witness.database import SchemaOther
    from witness.server import ConfigInvalid, load

    try:
        from witness.console.app import run
    except ImportError:
        return fail(USAGE, "the console needs the extra `console`: pip install 'bayspace[console]'")
    try:
        run(load(options.folder), options.listen, options.host, _console_ready)
    except (ConfigInvalid, SchemaOther) as error:
        return fail(USAGE, str(error))
    except ValueError:
        return fail(USAGE, f"--listen: {options.listen} is not host:port")
    return DONE


def _console_ready(url: str) -> None:
    sys.stdout.write(f"ready {url}\n")
    sys.stdout.flush()


def _ready(grpc_port: int, http_port: int) -> None:
    sys.stdout.write(f"ready grpc={grpc_port} http={http_port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
