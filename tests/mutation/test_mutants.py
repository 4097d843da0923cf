"""No mutant of policy_enforcer that decides passes the tests: a sample, another one each day.

`python tests/mutation/run.py` tries all of them, which takes some minutes.
"""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
ONE_IN = 8


@pytest.mark.deep
def test_no_mutant_survives():
    seed = datetime.now(UTC).toordinal()
    command = [sys.executable, RUN, "--one-in", str(ONE_IN), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"--one-in {ONE_IN} --seed {seed}\n{done.stdout}{done.stderr}"
