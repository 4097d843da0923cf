"""The documents do not rot: the tutorial runs, every command is parsed, every code, key and link is checked.

The tutorial's bash blocks are one script, run in an empty folder with free ports put in; the README's Python
snippet is run against the same connectors before they stop.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.exceptions import TyperException

from connector import datasets
from connector.cli import app
from connector.config import ConnectorConfig
from connector.config import _template as connector_template
from tests.pages import ROOT, blocks, printed_by
from witness.server import _TEMPLATE as WITNESS_TEMPLATE

TUTORIAL = ROOT / "docs" / "tutorial" / "two-parties.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
REFERENCE = ROOT / "docs" / "reference"
SNIPPET_HERE = "<!-- The README's Python snippet is run here by tests/test_docs.py. -->"


# --- the tutorial and the README's snippet ------------------------------------------------------------


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory) -> tuple[Path, str]:
    """The folder in which the whole tutorial was run, and everything it printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    before, after = TUTORIAL.read_text("utf-8").split(SNIPPET_HERE)
    (snippet,) = blocks((ROOT / "README.md").read_text("utf-8"), "python")
    commands = [*blocks(before, "bash"), f"python - <<'SNIPPET'\n{snippet}\nSNIPPET", *blocks(after, "bash")]
    return folder, printed_by(folder, commands)


@pytest.mark.deep
def test_the_tutorial_runs_and_answers_what_it_shows(tutorial: tuple[Path, str]) -> None:
    folder, printed = tutorial
    shown = [
        line
        for block in blocks(TUTORIAL.read_text("utf-8"), "text")
        for line in block.splitlines()
        if re.search(r"^│ (food|textiles)|suppressed|^bayspace: |^NOT VERIFIED|^  - [a-z]+\.", line)
    ]
    assert len(shown) >= 9
    said = printed + (folder / "answer.txt").read_text()
    assert [line for line in shown if line not in said] == []


@pytest.mark.deep
def test_the_tutorial_ends_with_a_verified_receipt(tutorial: tuple[Path, str]) -> None:
    folder, printed = tutorial
    assert '"verified": true' in (folder / "verified.json").read_text()
    assert "VERIFIED" in printed
    assert (folder / "receipt.json").stat().st_size > 1000


@pytest.mark.deep
def test_the_readme_snippet_ran(tutorial: tuple[Path, str]) -> None:
    folder, printed = tutorial
    assert "sz-trade.invoices" in printed
    assert (folder / "my-receipt.json").stat().st_size > 1000


# --- commands -----------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[str]:
    """Every `bayspace` command of the bash and console blocks, with its continuation lines."""
    for language in ("bash", "console"):
        for block in blocks(text, language):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                found = re.search(r"(?:^|\$\()(?:\$ |# )?(?:sudo (?:-u \S+ )?)?(?:\S+/)?(bayspace .*)", line)
                if found and not line.startswith("# bayspace"):
                    yield re.split(r" [|&<>]| 2>|\s+\|\|", found[1])[0]


PROGRAM: Any = typer.main.get_command(app)


def parsed(words: list[str]) -> None:
    """Parse one command line as the program would; raises typer's errors."""
    command, context = PROGRAM, PROGRAM.context_class(PROGRAM, info_name="bayspace")
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        if hasattr(command, "commands"):
            context = command.context_class(command, info_name=name, parent=context)
    command.make_context(command.name, list(words), parent=context)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_in_the_documents_parses(page: Path) -> None:
    for line in commands(page.read_text("utf-8")):
        try:
            parsed(shlex.split(line, comments=True)[1:])
        except TyperException as error:
            pytest.fail(f"{line}: {error}")


def test_a_wrong_command_is_found() -> None:
    (line,) = commands("```bash\nbayspace query -c hk-bank --porpoise x 'SELECT 1'\n```\n")
    with pytest.raises(TyperException):
        parsed(shlex.split(line)[1:])


def test_the_units_and_the_container_run_commands_that_exist() -> None:
    run = re.compile(r"(?:ExecStart=\S+/|# .* bayspace )(?:bayspace )?((?:connector|witness) .*)")
    files = (ROOT / "docs" / "how-to" / "files").iterdir()
    lines = [line for file in files for line in run.findall(file.read_text("utf-8"))]
    assert len(lines) >= 3
    for line in lines:
        parsed(shlex.split(line))


def every_command(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from every_command(inner, f"{path} {name}")
    else:
        yield path, command


def test_every_command_and_option_is_in_the_reference() -> None:
    page = (REFERENCE / "command-line.md").read_text("utf-8")
    missing = []
    for path, command in every_command(PROGRAM, "bayspace"):
        section = re.search(rf"^### `{path}(?= |`).*?(?=^##|\Z)", page, re.DOTALL | re.MULTILINE)
        if section is None:
            missing.append(path)
            continue
        options = [option for p in command.params if p.param_type_name == "option" for option in p.opts]
        missing += [
            f"{path} {o}" for o in options if o.startswith("--") and o != "--help" and o not in section[0]
        ]
    assert missing == []


# --- codes --------------------------------------------------------------------------------------------

ERRORS = {"QueryError", "ConfigError", "DataError", "PeerViolation", "Unavailable", "Unbounded", "_refused"}
RECORDED = {"_failed", "terminate", "Outcome"}
CODE = re.compile(r"[a-z]+(-[a-z]+)*(\.[a-z]+(-[a-z]+)*)+")


def raised_codes() -> set[str]:
    """Every stable code that is raised as an error or recorded as a reason, read from the sources."""
    found: set[str] = set()
    for package in ("connector", "compute", "witness"):
        for file in (ROOT / package).rglob("*.py"):
            if file.parent.name == "v1":
                continue
            tree = ast.parse(file.read_text("utf-8"))
            found |= {code for call in ast.walk(tree) if isinstance(call, ast.Call) for code in _codes(call)}
            if file.name == "firewall.py":
                found |= {c.value for c in _constants(tree) if re.fullmatch(r"peer\.[a-z]+", c.value)}
    return found


def _codes(call: ast.Call) -> Iterator[str]:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if name == "refuse" and call.args and isinstance(call.args[0], ast.Constant):
        yield f"query.{call.args[0].value}"
    elif name in ERRORS | RECORDED or (name == "__init__" and isinstance(call.func, ast.Attribute)):
        for argument in call.args[:2]:
            for constant in _constants(argument):
                if CODE.fullmatch(constant.value):
                    yield constant.value


def _constants(node: ast.AST) -> Iterator[ast.Constant]:
    return (n for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def documented_codes() -> set[str]:
    """The codes in the first column of the tables of error-codes.md."""
    text = (REFERENCE / "error-codes.md").read_text("utf-8")
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return {code for cell in cells for code in re.findall(r"`([^`]+)`", cell)}


def test_every_error_code_is_in_the_reference() -> None:
    codes = raised_codes()
    assert len(codes) > 120
    assert sorted(codes - documented_codes()) == []


BUILT = {"agreement.suspended", "agreement.terminated", "agreement.expired", "internal"}
"""Codes that the sources put together, or that stand alone without a dot."""


def test_the_reference_lists_no_code_that_is_gone() -> None:
    text = "\n".join(
        file.read_text("utf-8")
        for p in ("connector", "compute", "witness")
        for file in (ROOT / p).rglob("*.py")
    )
    gone = {code for code in documented_codes() - BUILT if f'"{code}"' not in text}
    assert {code for code in gone if not (code.startswith("query.") and f'"{code[6:]}"' in text)} == set()


# --- configuration ------------------------------------------------------------------------------------


def test_every_configuration_key_is_in_the_reference() -> None:
    page = (REFERENCE / "configuration.md").read_text("utf-8")
    keys = set(ConnectorConfig.model_fields)
    for field in ConnectorConfig.model_fields.values():
        inner = getattr(field.annotation, "model_fields", None)
        keys |= {f"{name}" for name in inner or ()}
    keys |= set(re.findall(r"^(?:# )?([a-z_]+) = ", WITNESS_TEMPLATE, re.MULTILINE))
    assert {"memory_mib", "participant", "log_key", "database"} <= keys
    assert sorted(key for key in keys if f"`{key}`" not in page) == []


def test_the_configuration_shown_is_one_that_loads() -> None:
    page = (REFERENCE / "configuration.md").read_text("utf-8")
    ours, witness = blocks(page, "toml")
    ConnectorConfig.model_validate(tomllib.loads(ours))
    made = tomllib.loads(connector_template("a-b", "gba", "HK", "0.0.0.0:7443", "a:7443", ("w-a",)))
    assert set(tomllib.loads(ours)) == set(made)
    keys = set(re.findall(r"^([a-z_]+) = ", WITNESS_TEMPLATE, re.MULTILINE))
    assert set(tomllib.loads(witness)) == keys


def test_the_dataset_description_shown_is_one_that_loads(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "add-a-dataset.md").read_text("utf-8")
    (shown,) = blocks(page, "yaml")
    (tmp_path / "shown.yaml").write_text(shown, "utf-8")
    assert set(datasets.load(tmp_path / "shown.yaml").columns) == {"company_id", "amount", "rate", "issued"}
    for source in re.findall(r"\| `(\{kind: [^`]*\})` \|", page):
        text = shown.replace("{kind: parquet, path: ../data/invoices.parquet}", source.replace("…", "x"))
        assert source.split()[1].strip(",") in text
        (tmp_path / "shown.yaml").write_text(text, "utf-8")
        datasets.load(tmp_path / "shown.yaml")


# --- the wire -----------------------------------------------------------------------------------------


def test_every_frame_kind_is_in_the_wire_reference() -> None:
    page = (REFERENCE / "wire.md").read_text("utf-8")
    kinds: set[str] = set()
    for package in ("connector", "compute"):
        for file in (ROOT / package).rglob("*.py"):
            for call in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(call, ast.Call) and _sends(call) and call.args:
                    kinds |= {
                        c.value for c in _constants(call.args[0]) if isinstance(call.args[0], ast.Constant)
                    }
    assert {"open", "accept", "sealed", "key"} <= kinds
    assert sorted(kind for kind in kinds if f"`{kind}`" not in page) == []


def _sends(call: ast.Call) -> bool:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    return name in {"Frame", "Receive", "receive", "send_blob", "receive_blob"}


# --- the map ------------------------------------------------------------------------------------------


def test_the_map_names_modules_that_exist_and_every_package_in_full() -> None:
    """A module that is not on the map has no place yet, or the map has gone stale."""
    tree = blocks((ROOT / "ARCHITECTURE.md").read_text("utf-8"), "")[0]
    named = set(re.findall(r"\b([a-z0-9_]+\.py)\b", tree))
    packages = ("connector", "compute", "policy_enforcer", "witness")
    there = {f.name for p in packages for f in (ROOT / p).glob("*.py")} | {"base.py"}
    assert sorted(named - there) == []
    assert sorted(name for name in there - named if not name.startswith("__")) == []


# --- links --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}
