"""`python tests/mutation/run.py [MODULE ...]`: which mutants of policy_enforcer no test notices.

Prints a line per survivor and a table of counts. Exit status 1 when a survivor is not in equivalent.yaml, or
something there is no survivor.
"""

from __future__ import annotations

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


def main(targets: tuple[str, ...]) -> int:
    """Run the mutants of these modules."""
    battery, known = Battery(), equivalents()
    failing = battery.failing()
    for name in failing:
        print(f"left out, it fails without any mutant: {name}", file=sys.stderr)
    survivors: set[str] = set()
    print("| module | mutants | killed | not loaded | equal in every decision | survived | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for target in targets:
        began, fates = time.process_time(), Counter[str]()
        for mutant in mutants(target, PACKAGE / f"{target}.py"):
            outcome = fate(battery, mutant)
            if outcome == "survived":
                survivors.add(mutant.name)
                outcome = "equal" if mutant.name in known else outcome
                if outcome == "survived":
                    print(f"survived: {mutant.name} (line {mutant.line})", file=sys.stderr, flush=True)
            fates[outcome] += 1
        cells = (fates[name] for name in ("killed", "not loaded", "equal", "survived"))
        seconds = round(time.process_time() - began)
        print("|", " | ".join(map(str, (target, fates.total(), *cells, seconds))), "|", flush=True)
    stale = {name for name in known if name.split(".")[0] in targets} - survivors
    for name in sorted(stale):
        print(f"no survivor: {name}", file=sys.stderr)
    return 1 if failing or stale or survivors - set(known) else 0


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or TARGETS))
