"""Every system call of an append and of a start goes wrong once: crashing.py, over failing_calls.c."""

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
    words = [sys.executable, "-m", "tests.witness.crashing", tmp_path, *map(str, (before, size, share))]
    done = subprocess.run(words, env=preloaded, cwd=HERE.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
