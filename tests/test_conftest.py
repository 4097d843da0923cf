"""The skip rule itself: with BAYSPACE_CI=1 a skip fails the run and says why."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TEST = "import pytest\n@pytest.mark.skipif(True, reason='no such tool')\ndef test_tool(): pass\n"
BODY = "import pytest\ndef test_tool(): pytest.skip('no such tool')\n"
MODULE = "import pytest\npytest.skip('no such tool', allow_module_level=True)\n"
XFAIL = "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_tool(): assert False\n"


def run(folder: Path, source: str, ci: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_tool.py").write_text(source, "utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        env={**os.environ, "BAYSPACE_CI": ci},
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


@pytest.mark.parametrize("source", [TEST, BODY, MODULE])
def test_a_skip_fails_the_full_run_with_its_reason(tmp_path: Path, source: str) -> None:
    result = run(tmp_path, source, "1")
    assert result.returncode not in {0, 5}
    assert "nothing may skip" in result.stdout
    assert "no such tool" in result.stdout


def test_a_skip_is_allowed_elsewhere(tmp_path: Path) -> None:
    assert run(tmp_path, TEST, "0").returncode == 0


def test_an_expected_failure_is_not_a_skip(tmp_path: Path) -> None:
    assert run(tmp_path, XFAIL, "1").returncode == 0
