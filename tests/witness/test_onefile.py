"""The single-file verifier: the same bytes each time, only `cryptography` needed, the same verdicts."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from witness import onefile

VECTORS = Path(__file__).parents[1] / "vectors" / "witness"
BUNDLE, TRUST = VECTORS / "bundle-v1.json", VECTORS / "trust-v1.json"


@pytest.fixture(scope="module")
def verifier(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("onefile") / "bayspace-verify.pyz"
    assert onefile.main([str(file)]) == 0
    return file


@pytest.fixture(scope="module")
def only_cryptography(tmp_path_factory) -> Path:
    """A folder with `cryptography` and what it needs, and no other package."""
    folder = tmp_path_factory.mktemp("packages")
    for name in ("cryptography", "cffi", "pycparser", "_cffi_backend"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        origin = Path(spec.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (folder / source.name).symlink_to(source)
    return folder


def run(verifier: Path, packages: Path | None, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs it in an interpreter that sees no other installed package, from an empty folder."""
    path = {} if packages is None else {"PYTHONPATH": str(packages)}
    return subprocess.run(
        [sys.executable, "-S", str(verifier), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=verifier.parent,
        env={"PATH": os.environ["PATH"], **path},
    )


def test_it_verifies_the_first_bundle_ever_with_cryptography_alone(verifier, only_cryptography) -> None:
    done = run(verifier, only_cryptography, "verify", BUNDLE, "--trust", TRUST, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verified"] is True


def test_it_fails_like_the_verifier_it_was_made_of(verifier, only_cryptography, tmp_path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_bytes(BUNDLE.read_bytes().replace(b'"checksum":"', b'"checksum":"0', 1))
    done = run(verifier, only_cryptography, "verify", broken, "--trust", TRUST)
    assert done.returncode == 7
    assert done.stderr.startswith("NOT VERIFIED [checksum]")
    assert run(verifier, only_cryptography, "document", BUNDLE, "--trust", TRUST).returncode == 7
    assert run(verifier, only_cryptography, "verify", tmp_path / "none", "--trust", TRUST).returncode == 2


def test_without_cryptography_it_says_what_is_missing(verifier) -> None:
    done = run(verifier, None, "verify", BUNDLE, "--trust", TRUST)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "This verifier needs the Python package cryptography, version 50 or newer.\n"


def test_its_bytes_depend_on_the_sources_only(verifier, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    monkeypatch.chdir(tmp_path)
    umask = os.umask(0o077)
    try:
        assert onefile.main(["again.pyz"]) == 0
    finally:
        os.umask(umask)
    data = verifier.read_bytes()
    assert Path("again.pyz").read_bytes() == data
    assert capsys.readouterr().out == f"{hashlib.sha256(data).hexdigest()}  again.pyz\n"
    times = {entry.date_time for entry in zipfile.ZipFile(verifier).infolist()}
    assert times == {(1980, 1, 1, 0, 0, 0)}


def test_it_holds_the_auditors_modules_and_no_service(verifier) -> None:
    names = set(zipfile.ZipFile(verifier).namelist())
    assert {"__main__.py", "witness/verify.py", "witness/document.py", "witness/merkle.py"} <= names
    assert not {"witness/service.py", "witness/log.py", "witness/database.py", "witness/client.py"} & names


def test_a_module_that_needs_more_is_refused(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "auditor.py").write_text("from witness.other import x\n")
    (tmp_path / "other.py").write_text("import json\nimport grpc\n")
    with pytest.raises(onefile.NotSelfContained, match=r"witness/other\.py imports grpc"):
        onefile._closure(tmp_path)


def test_it_wants_one_file_name(capsys) -> None:
    assert onefile.main([]) == 2
