"""Every system call of an append and of a start goes wrong once: crashing.py, over failing_calls.c."""

import datetime as dt
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(
        sys.platform != "linux" or not shutil.which("cc"), reason="takes Linux and a C compiler"
    ),
]


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory):
    """The environment of a process whose calls go wrong."""
    library = tmp_path_factory.mktemp("library") / "failing_calls.so"
    built = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, HERE / "failing_calls.c", "-ldl"]
    subprocess.run(built, check=True)
    return {**os.environ, "LD_PRELOAD": str(library)}


@pytest.mark.parametrize(
    ("before", "size", "share"),
    [(0, 3, 16), (254, 3, 8), (256, 300, 16)],
    ids=["a new log", "a tile fills up", "several tiles"],
)
def test_nothing_acknowledged_is_lost_and_nothing_contradicts(tmp_path, preloaded, before, size, share):
    figures = [str(n) for n in (before, size, share, dt.date.today().toordinal())]
    words = [sys.executable, "-m", "tests.witness.crashing", tmp_path, *figures]
    done = subprocess.run(words, env=preloaded, cwd=HERE.parents[1], capture_output=True, text=True)
    said = f"crashing FOLDER {' '.join(figures)}\n{done.stdout[-300:]}{done.stderr}"
    assert done.returncode == 0, said
