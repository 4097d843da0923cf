"""`python tests/mutation/run.py [MODULE ...]`: which mutants of policy_enforcer no test notices.

Prints a line per survivor and a table of counts. Exit status 1 when a survivor is not in equivalent.yaml, or
something there is no survivor. `--one-in N --seed S` tries a sample of them, the same for the same seed;
`--write` puts the rows of a whole run into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from battery import PACKAGE, TARGETS, Battery, equivalents, installed
from mutants import Mutant, mutants


def fate(battery: Battery, mutant: Mutant) -> str:
    """What became of it: not loaded, killed, or survived."""
    try:
        with installed(mutant.module, mutant.code):
            return "killed" if battery.first_failure(mutant.module) else "survived"
    except Exception:  # noqa: BLE001  nothing runs with a module that does not load
        return "not loaded"


def main(targets: tuple[str, ...], one_in: int, seed: int, *, write: bool) -> int:
    """Run the mutants of these modules, or a sample of them."""
    battery, known, chosen = Battery(), equivalents(), random.Random(seed)
    failing = battery.failing()
    for name in failing:
        print(f"left out, it fails without any mutant: {name}", file=sys.stderr)
    survivors: set[str] = set()
    print(HEAD)
    for target in targets:
        began, fates = time.process_time(), Counter[str]()
        for mutant in mutants(target, PACKAGE / f"{target}.py"):
            if chosen.randrange(one_in):
                continue
            outcome = fate(battery, mutant)
            if outcome == "survived":
                survivors.add(mutant.name)
                outcome = "equal" if mutant.name in known else outcome
                if outcome == "survived":
                    print(f"survived: {mutant.name} (line {mutant.line})", file=sys.stderr, flush=True)
            fates[outcome] += 1
        cells = (fates[name] for name in ("killed", "not loaded", "equal", "survived"))
        seconds = round(time.process_time() - began)
        row = f"| {' | '.join(map(str, (target, fates.total(), *cells, seconds)))} |"
        print(row, flush=True)
        if write:
            _written(target, row)
    found_all = one_in == 1
    stale = {name for name in known if found_all and name.split(".")[0] in targets} - survivors
    for name in sorted(stale):
        print(f"no survivor: {name}", file=sys.stderr)
    return 1 if failing or stale or survivors - set(known) else 0


HEAD = """\
| module | mutants | killed | not loaded | equal in every decision | survived | CPU s |
| --- | --- | --- | --- | --- | --- | --- |"""
RESULTS = Path(__file__).parents[2] / "benchmarks" / "RESULTS.md"


def _written(target: str, row: str) -> None:
    """The module's row of the table in benchmarks/RESULTS.md, in the place of the one before."""
    before, head, rows = RESULTS.read_text("utf-8").partition(HEAD)
    kept = [line for line in rows.splitlines() if line and not re.match(rf"\| {target} \|", line)]
    RESULTS.write_text("\n".join([before + head, *sorted([*kept, row])]) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Which mutants of policy_enforcer no test notices.")
    parser.add_argument("modules", nargs="*", default=TARGETS)
    parser.add_argument("--one-in", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    given = _options()
    if given.write and given.one_in > 1:
        sys.exit("--write is for whole runs")
    sys.exit(main(tuple(given.modules), given.one_in, given.seed, write=given.write))
