"""A scratch column gives back its bytes, from memory or from a file that nobody can find."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from compute.errors import ConfigError
from compute.scratch import Column

DATA = bytes(range(240))


@pytest.mark.parametrize("in_memory", [0, 239, 240])
@pytest.mark.parametrize("step", [1, 7, 240])
def test_what_went_in_comes_out(tmp_path: Path, in_memory: int, step: int) -> None:
    column = Column(12, 20, tmp_path, in_memory)
    for start in range(0, 240, step):
        column.append(memoryview(DATA)[start : start + step])
        assert not list(tmp_path.iterdir())  # the file has no name
    array = column.array()
    assert array.type == pa.binary(12)
    assert b"".join(array.to_pylist()) == DATA


def test_without_a_directory_nothing_is_written() -> None:
    column = Column(12, 20, None, 0)
    column.append(DATA)
    assert b"".join(column.array().to_pylist()) == DATA


@pytest.mark.parametrize("in_memory", [0, 240])
def test_another_length_than_announced_is_refused(tmp_path: Path, in_memory: int) -> None:
    column = Column(12, 20, tmp_path, in_memory)
    column.append(DATA[:-1])
    with pytest.raises(ValueError, match="fewer"):
        column.array()
    with pytest.raises(ValueError, match="more"):
        column.append(b"ab")


def test_an_empty_column_is_empty(tmp_path: Path) -> None:
    assert len(Column(12, 0, tmp_path, 0).array()) == 0


def test_a_folder_that_is_not_there_is_the_operators_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        Column(12, 20, tmp_path / "absent", 0)
    assert refusal.value.code == "config.scratch"


FULL = """
import resource, signal, sys
from pathlib import Path
from compute.errors import ConfigError
from compute.scratch import Column
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
column = Column(16, 1 << 14, Path(sys.argv[1]), 0)
try:
    for _ in range(4):
        column.append(bytes(1 << 16))
except ConfigError as error:
    print(error.code)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes here")
def test_a_full_disk_is_an_error_and_no_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, os.fspath(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "config.scratch\n"
    assert not list(tmp_path.iterdir())
