"""How the command line speaks: tables for people, one JSON document for programs, an exit code for both."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from connector.config import ConnectorConfig

DONE, USAGE, REFUSED, DATA, PEER, UNAVAILABLE, UNVERIFIED = 0, 2, 3, 4, 5, 6, 7

Config = Annotated[
    Path,
    typer.Option(
        "--config", "-c", envvar="BAYSPACE_CONFIG", help="connector.toml, or the folder that holds it"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document")]
Language = Annotated[Literal["en", "zh"], typer.Option(help="of the answer (语言)")]


def console(*, stderr: bool = False) -> Console:
    """A rich console that does not wrap what goes into a file."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else int(os.environ.get("COLUMNS", "200"))
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not stream.isatty())


def configuration(path: Path) -> ConnectorConfig:
    """Load a connector's configuration."""
    from connector.config import load

    return load(path)


def read_file(file: Path) -> bytes:
    """A file's content. Raises `ConfigError`."""
    from compute.errors import ConfigError

    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError("file.unreadable", f"{file} cannot be read") from error


def write_file(file: Path, data: bytes) -> None:
    """Write a file. Raises `ConfigError`."""
    from compute.errors import ConfigError

    try:
        file.write_bytes(data)
    except OSError as error:
        raise ConfigError("file.unwritable", f"{file} cannot be written") from error


def show(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, title: str = ""
) -> None:
    """A table of `columns`, or all the rows as JSON."""
    if as_json:
        print_json(list(rows))
        return
    from rich.table import Table
    from rich.text import Text  # others' words are no markup

    table = Table(title=Text(title) if title else None, title_justify="left")
    for column in columns:
        table.add_column(Text(column.replace("_", " ")), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_plain(row.get(column))) for column in columns))
    console().print(table)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def say(sentence: str) -> None:
    """A sentence for the person at the keyboard."""
    sys.stdout.write(sentence + "\n")


def note(sentence: str) -> None:
    """A sentence that must not mix with the output."""
    sys.stderr.write(sentence + "\n")


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)


@contextmanager
def failing() -> Iterator[None]:
    """Turn our errors into a sentence on standard error and the exit code that belongs to them."""
    try:
        yield
    except KeyboardInterrupt:
        note("interrupted; the query was cancelled on both sides")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(DONE)
    except Exception as error:
        code, document = explained(error)
        if code is None:
            raise
        if _wants_json():
            print_json({"error": document})
        note(f"bayspace: {document['sentence']} [{document['code']}]")
        for reason in document.get("reasons", []):
            place = f" ({reason['column']})" if reason.get("column") else ""
            allowed = f"; allowed: {reason['allowed']}" if reason.get("allowed") else ""
            note(f"  - {reason['code']}{place}: {reason['sentence']} — rule {reason['rule']}{allowed}")
        sys.exit(code)


def explained(error: Exception) -> tuple[int | None, dict[str, Any]]:
    """The exit code of one of our errors with its stable code and sentence; None for a defect of ours."""
    from dataclasses import asdict

    from compute import errors
    from policy_enforcer.problems import PolicyError
    from witness.checks import VerificationFailed

    if isinstance(error, PolicyError):
        return USAGE, {"code": "policy.invalid", "sentence": str(error)}
    if isinstance(error, VerificationFailed):
        return UNVERIFIED, {"code": error.code, "sentence": error.sentence, "record": error.item}
    codes: dict[type[errors.BayspaceError], int] = {
        errors.QueryError: USAGE,
        errors.ConfigError: USAGE,
        errors.PolicyRefusal: REFUSED,
        errors.DataError: DATA,
        errors.PeerViolation: PEER,
        errors.Unavailable: UNAVAILABLE,
    }
    for kind, code in codes.items():
        if isinstance(error, kind):
            document: dict[str, Any] = {"code": error.code, "sentence": error.sentence}
            if isinstance(error, errors.PolicyRefusal):
                document["reasons"] = [asdict(reason) for reason in error.decision.because]
            return code, document
    return None, {}


def _wants_json() -> bool:
    arguments = sys.argv[1:]
    pairs = set(itertools.pairwise(arguments))
    return bool({"--json", "--format=json"} & set(arguments)) or ("--format", "json") in pairs
