"""No mutant of columns.py, moments.py and obligations.py passes the tests: in a process of its own.

`python tests/mutation/run.py` tries the other modules as well.
"""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")


@pytest.mark.deep
@pytest.mark.parametrize("module", ["columns", "moments", "obligations"])
def test_no_mutant_survives(module):
    done = subprocess.run([sys.executable, RUN, module], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
