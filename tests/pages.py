"""Runs the commands of a page of the documents as a reader would: its bash blocks are one script."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PORTS = re.compile(r"\b(744[0-4]|7543|7580)\b")
WAITING = re.compile(r"until grep -q \^ready \S+; do sleep 0\.1; done")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def printed_by(folder: Path, commands: Sequence[str]) -> str:
    """What a page's commands print, one after the other in an empty folder, on free ports, in bounded time.

    Fails with everything they printed and logged where one of them fails.
    """
    script = "\n".join(["set -euo pipefail", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT", *commands])
    # xdist sets COLUMNS to 80; a reader's pipe is as wide as it is
    variables = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        ["timeout", "-k", "10", "400", "bash", "-c", _on_free_ports(_bounded(script))],
        cwd=folder,
        env={
            **variables,
            "PATH": f"{_programs(folder)}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    logs = "".join(log.read_text("utf-8") for log in folder.glob("*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{logs}"
    return done.stdout


def _bounded(script: str) -> str:
    """A page waits for programs to be ready, for ever; not so its test."""
    bounded, count = WAITING.subn(r'timeout 60 bash -c "\g<0>"', script)
    assert count
    return bounded


def _on_free_ports(script: str) -> str:
    """Each of the page's ports is a free one, the same each time."""
    held = {port: socket.create_server(("127.0.0.1", 0)) for port in sorted(set(PORTS.findall(script)))}
    free = {port: str(one.getsockname()[1]) for port, one in held.items()}
    for one in held.values():
        one.close()
    return PORTS.sub(lambda match: free[match[0]], script)


def _programs(folder: Path) -> Path:
    """`bayspace` and `python` of this interpreter, whether or not they are installed as programs."""
    programs = folder / ".programs"
    programs.mkdir()
    for name, rest in (("bayspace", "-c 'from connector.cli import main; main()'"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {rest} "$@"\n')
        (programs / name).chmod(0o755)
    return programs
