"""Go's sumdb and transparency-dev's formats and merkle accept our log, and we accept their cosignatures."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from witness import note, policy
from witness.encoding import b64
from witness.note import verifier_key

pytestmark = [pytest.mark.deep, pytest.mark.outside]
SOURCE = Path(__file__).parent / "go"
NEEDED = (1, 25)


def go() -> str:
    """A Go toolchain that is new enough. Skips when there is none."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if found is None:
        pytest.skip("needs a Go toolchain, 1.25 or newer (Debian: golang)")
    said = subprocess.run([found, "version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"go(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < NEEDED:
        pytest.skip(f"needs Go 1.25 or newer; this is {said.strip()}")
    return found


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The checker, built from its pinned modules; the module proxy is as the environment sets it."""
    binary = tmp_path_factory.mktemp("go") / "interop"
    environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    built = subprocess.run(
        [go(), "build", "-trimpath", "-o", str(binary), "."],
        cwd=SOURCE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return binary


@pytest.fixture
def question(published) -> dict[str, Any]:
    """What the program is asked about our log, as it is."""
    old = published.heads[2]
    return {
        "Folder": str(published.folder),
        "Origin": published.log.origin,
        "Vkeys": published.vkeys,
        "Proofs": [str(proof) for proof in published.proofs],
        "OldSize": old.size,
        "OldRoot": b64(old.root),
        "Consistency": [b64(h) for h in published.log.prove_consistency(old.size)],
        "Policy": "",
        "Unsatisfied": "",
    }


def ask(program: Path, question: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program)], input=json.dumps(question), capture_output=True, text=True, check=False
    )


def test_every_entry_proof_and_signature_of_ours_holds_there(program, question, published) -> None:
    assert len(published.vkeys) == 2
    done = ask(program, question)
    assert done.returncode == 0, done.stderr


def test_their_cosignatures_hold_here(program, question, published, cosigned_note) -> None:
    answer = json.loads(ask(program, question).stdout)
    classic, quantum = answer["Vkeys"]
    assert all(cosigned_note(answer["Checkpoint"], classic, quantum))
    rules = [f"log {published.vkeys[0]}", f"witness go {classic}", f"witness pq {quantum}"]
    asked = policy.parse("\n".join([*rules, "group both all go pq", "quorum both"]))
    assert asked.satisfied_by(asked.cosigners(note.parse(answer["Checkpoint"])).keys())


def test_our_policy_means_the_same_there(program, question, published, tmp_path) -> None:
    answer = json.loads(ask(program, question).stdout)
    classic, _ = answer["Vkeys"]
    shutil.copytree(published.folder, tmp_path / "cosigned")
    (tmp_path / "cosigned" / "checkpoint").write_text(answer["Checkpoint"], "utf-8")
    stranger = verifier_key("x.example/w", note.parse_vkey(classic).public, 4)
    rule = "witness w {} https://w.example\nquorum w\n"
    asked = {
        **question,
        "Folder": str(tmp_path / "cosigned"),
        "Policy": rule.format(classic),
        "Unsatisfied": rule.format(stranger),
    }
    done = ask(program, asked)
    assert done.returncode == 0, done.stderr
    swapped = {**asked, "Policy": asked["Unsatisfied"], "Unsatisfied": ""}
    assert "judged otherwise" in ask(program, swapped).stderr


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("OldRoot", lambda q: b64(b"x" * 32)),
        ("Consistency", lambda q: q["Consistency"][1:]),
        (
            "Proofs",
            lambda q: [q["Proofs"][1], *q["Proofs"][:-1], q["Proofs"][0].replace("index 0", "index 1")],
        ),
        ("Vkeys", lambda q: q["Vkeys"][1:]),
        ("Origin", lambda q: "other.example/log"),
    ],
)
def test_the_program_can_say_no(program, question, name, change) -> None:
    done = ask(program, {**question, name: change(question)})
    assert (done.returncode, bool(done.stderr)) == (1, True)


def test_a_damaged_tile_is_noticed_there(program, question, published, tmp_path) -> None:
    shutil.copytree(published.folder, tmp_path / "log")
    tile = tmp_path / "log" / "tile" / "0" / "000"
    data = bytearray(tile.read_bytes())
    data[40] ^= 1
    tile.write_bytes(data)
    assert ask(program, {**question, "Folder": str(tmp_path / "log")}).returncode == 1
