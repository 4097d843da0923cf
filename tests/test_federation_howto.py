"""The page about federations: its commands are run in an empty folder, and answer what the page shows."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import ROOT, _programs, blocks

pytestmark = pytest.mark.deep

PAGE = ROOT / "docs" / "how-to" / "ask-a-federation.md"
WAITING = r'timeout 60 bash -c "\g<0>"'
PORTS = re.compile(r"\b(744[0-3]|7543|7580)\b")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Everything that the page's commands print."""
    folder = tmp_path_factory.mktemp("federation-howto")
    script = "\n".join(
        [
            "set -euo pipefail",
            "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT",
            *blocks(PAGE.read_text("utf-8"), "bash"),
        ]
    )
    done = subprocess.run(
        ["timeout", "-k", "10", "400", "bash", "-c", _on_free_ports(_bounded(script))],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if name != "COLUMNS"},  # xdist sets it to 80
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
    """The page waits for programs to be ready, for ever; not so its test."""
    bounded, count = re.subn(r"until grep -q \^ready \S+; do sleep 0\.1; done", WAITING, script)
    assert count
    return bounded


def _on_free_ports(script: str) -> str:
    held = {port: socket.create_server(("127.0.0.1", 0)) for port in sorted(set(PORTS.findall(script)))}
    free = {port: str(one.getsockname()[1]) for port, one in held.items()}
    for one in held.values():
        one.close()
    return PORTS.sub(lambda match: free[match[0]], script)


def test_the_page_shows_what_is_printed(ran: str) -> None:
    shown = [line.strip() for block in blocks(PAGE.read_text("utf-8"), "text") for line in block.splitlines()]
    said = [line.strip() for line in ran.splitlines()]
    assert len(shown) >= 15
    assert [line for line in shown if line not in said and line != "…"] == []


def test_what_is_answered_refused_and_verified(ran: str) -> None:
    assert ran.count("[federation.participant-failed]") == 1
    assert "[federation.participants-changed]" in ran
    assert ran.count("VERIFIED") == 1
    assert ran.count("query.release: done") == 3  # one receipt, each bank's record
