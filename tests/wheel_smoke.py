"""Run by `.ci/run` in a fresh environment that holds only the installed wheel: is everything in it?

Usage: python wheel_smoke.py CHECKOUT. Fails when anything is loaded from the checkout, when a file that
the code reads is missing, or when the auditor's verifier needs more than `cryptography`.
"""

import importlib
import json
import subprocess
import sys
import time
from importlib.metadata import entry_points, files
from importlib.resources import as_file
from importlib.resources import files as resources
from pathlib import Path

PACKAGES = ("connector", "policy_enforcer", "compute", "witness")
AUDITOR_NEEDS = {"cryptography", "cffi", "_cffi_backend", "witness"}


def fresh(code: str) -> str:
    """What this code prints in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def check_location(checkout: Path) -> None:
    for name in (*PACKAGES, "compute._native", "connector.v1.query_pb2_grpc", "witness.v1.witness_pb2_grpc"):
        module = importlib.import_module(name)
        assert module.__file__, f"{name} is not a package of files"
        path = Path(module.__file__).resolve()
        assert path.is_relative_to(sys.prefix), f"{name} comes from outside the environment"
        assert not path.is_relative_to(checkout), f"{name} comes from the checkout"


def check_contents() -> None:
    installed = {str(path) for path in files("bayspace") or ()}
    assert {f"{name}/py.typed" for name in PACKAGES} <= installed
    assert {"witness/console/templates/base.html", "witness/console/static/console.css"} <= installed
    top = {path.split("/")[0] for path in installed if not path.startswith("..")}
    strange = {name for name in top - set(PACKAGES) if not name.startswith("bayspace-")}
    assert not strange, f"the wheel installs more than our packages: {strange}"
    assert not [path for path in installed if path.endswith((".rs", "Cargo.toml"))]
    scripts = {script.name: script.value for script in entry_points(group="console_scripts")}
    assert scripts["bayspace"] == "connector.cli:main"


def check_demo_files() -> None:
    load = importlib.import_module("policy_enforcer.load").load
    with as_file(resources("connector") / "demo_files" / "policies") as folder:
        texts = {path.name: path.read_text("utf-8") for path in folder.glob("*.yaml")}
    for name in ("invoices.yaml", "invoices_matched.yaml", "credit.yaml"):
        assert load(texts[name]).dataset


def check_auditor() -> None:
    """An auditor's machine has `cryptography` and our `witness`; nothing else may be loaded."""
    code = (
        "import json, sys; before = set(sys.modules); import witness.__main__, witness.verify;"
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    loaded = {name for name in json.loads(fresh(code)) if name not in sys.stdlib_module_names}
    extra = {name for name in loaded - AUDITOR_NEEDS if not name.startswith("_")}
    assert not extra, f"the verifier loads {extra}"


def import_seconds() -> float:
    """Seconds to import the command line, best of five."""
    code = "import time; t = time.perf_counter(); import connector.cli; print(time.perf_counter() - t)"
    return min(float(fresh(code)) for _ in range(5))


def main() -> None:
    start = time.perf_counter()
    check_location(Path(sys.argv[1]).resolve())
    check_contents()
    check_demo_files()
    check_auditor()
    print(f"importing the command line takes {import_seconds():.3f} s (goal: 0.3 s)")
    print(f"the wheel is complete ({time.perf_counter() - start:.1f} s)")


if __name__ == "__main__":
    main()
