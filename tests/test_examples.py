"""The examples run as a user runs them, on fewer rows; and their comparison with plaintext can fail."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from connector import datasets, transfer_lists
from connector.policy_examples import outcomes
from policy_enforcer.load import lint, load

FLIGHTS = Path(__file__).resolve().parent.parent / "examples" / "flights"


@pytest.mark.deep
def test_flights_runs_and_every_receipt_is_verified() -> None:
    command = [sys.executable, str(FLIGHTS / "run.py"), "--rows", "12000"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "6 answers equal" in ran.stdout
    assert ran.stdout.count("equal to the pooled tables") == 6
    assert ran.stdout.count("  verified receipt-") == 7
    assert "query.refusal" in ran.stdout


@pytest.mark.deep
def test_federation_runs_over_eight_connectors() -> None:
    command = [sys.executable, str(FLIGHTS.parent / "federation" / "run.py"), "--rows", "2000"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("equal to the pooled rows") == 3
    assert ran.stdout.count("verified receipt ") == 5
    assert "refused: query.group-undeclared" in ran.stdout
    assert "refused: federation.too-few" in ran.stdout


@pytest.mark.deep
def test_two_logs_cosign_each_other_and_nothing_counts_without() -> None:
    command = [sys.executable, str(FLIGHTS.parent / "cosigning" / "run.py"), "--rows", "1000"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("  answered: ") == 2
    assert "refused: witness.quorum" in ran.stdout
    assert ran.stdout.count("cosigned by witness-hk-ed25519, witness-hk-ml-dsa-44") == 6
    assert 'without the cosignatures: "quorum"' in ran.stdout


POLICIES = FLIGHTS.parent / "policies"


@pytest.mark.parametrize("name", ["cross-border", "consent", "templates", "roles", "audiences"])
def test_policies_decide_as_the_examples_beside_them_say(name: str) -> None:
    folder, invoices = POLICIES / "policies", POLICIES / "datasets" / "invoices.yaml"
    text = (folder / f"{name}.yaml").read_text("utf-8")
    columns = datasets.load(invoices).columns
    stated = {"transfer.basis", "transfer.filing", "conditions.declared.application"}
    assert {problem.path for problem in lint(text, columns)} <= stated
    policy, tests = load(text), (folder / f"{name}.tests.yaml").read_text("utf-8")
    peer = f"hk-bank.credit={POLICIES / 'datasets' / 'credit.yaml'}"
    found = outcomes(policy, tests, name, invoices, peer, folder)
    assert [outcome for outcome in found if not outcome.passed] == []
    assert {bool(outcome.expected) for outcome in found} == {True, False}


@pytest.mark.parametrize(
    ("name", "dataset", "peer", "stated"),
    [
        ("discharged", "patients", "hk-insurer.claims", {"duties.delete", "duties.pass_on"}),
        ("declared", "declarations", None, set()),
    ],
)
def test_policies_of_other_trades_too(name: str, dataset: str, peer: str | None, stated: set[str]) -> None:
    folder, described = POLICIES / "policies", POLICIES / "datasets" / f"{dataset}.yaml"
    text = (folder / f"{name}.yaml").read_text("utf-8")
    columns = datasets.load(described).columns
    grades = {column: spec.grade for column, spec in columns.items()}
    assert {problem.path for problem in lint(text, columns, None, grades)} == stated
    own = peer and f"{peer}={POLICIES / 'datasets' / (peer.partition('.')[2] + '.yaml')}"
    tests = (folder / f"{name}.tests.yaml").read_text("utf-8")
    found = outcomes(load(text), tests, name, described, own, folder)
    assert [outcome for outcome in found if not outcome.passed] == []
    assert {bool(outcome.expected) for outcome in found} == {True, False}


def test_the_signed_lists_are_their_drafts() -> None:
    files = sorted((POLICIES / "policies" / "lists").glob("*.yaml"))
    assert len(files) == 3
    for file in files:
        said = transfer_lists.read(file.with_suffix(".json").read_text("utf-8"))
        made = transfer_lists.draft(file.read_text("utf-8"))
        assert (said.name, said.title) == (made.list, made.title)
        assert said.content == transfer_lists.content_of(made, said.content.issuer)


@pytest.fixture(scope="module")
def run() -> Iterator[ModuleType]:
    """The example's module, imported as `python examples/flights/run.py` would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FLIGHTS)
        import run

        yield run
    for name in ("run", "prepare"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def pooled(run: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> object:
    return run.Pooled(run.prepare(tmp_path_factory.mktemp("flights"), 12000))


def test_the_right_answer_is_equal(run: ModuleType, pooled: object) -> None:
    for question in run.QUESTIONS:
        right, few = _right(pooled, question)
        assert run.compare(question, right, few, pooled)[1] == few


def test_the_page_shows_the_questions_that_are_asked(run: ModuleType) -> None:
    page = (FLIGHTS / "README.md").read_text("utf-8")
    for sql in (*(question.sql for question in run.QUESTIONS), run.REFUSED):
        assert f"```sql\n{sql}\n```" in page


@pytest.mark.parametrize("number", range(1, 7))
def test_a_wrong_answer_is_a_mismatch(run: ModuleType, pooled: object, number: int) -> None:
    question = run.QUESTIONS[number - 1]
    right, few = _right(pooled, question)
    for wrong, suppressed in (
        (_one_more(right, "flights" if "flights" in right.column_names else "planes"), few),
        (right.slice(0, right.num_rows - 1), few),
        (right.drop_columns(right.column_names[-1]), few),
        (right, few + 1),
    ):
        with pytest.raises(run.Mismatch):
            run.compare(question, wrong, suppressed, pooled)


def test_a_small_group_that_was_shown_is_a_mismatch(run: ModuleType, pooled: object) -> None:
    question = run.QUESTIONS[2]
    cells = pooled.cells(question)
    shown = cells.drop_columns("identities").sort_by([(name, "ascending") for name in question.groups])
    assert shown.num_rows > pooled.released(question, cells).num_rows
    with pytest.raises(run.Mismatch):
        run.compare(question, shown, 0, pooled)


def test_a_mismatch_ends_with_a_failure(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def differs(*_: object) -> None:
        raise run.Mismatch("a released cell differs")

    monkeypatch.setattr(run.Example, "run", differs)
    with pytest.raises(SystemExit) as ended:
        run.main(["--keep", str(tmp_path / "kept")])
    assert ended.value.code not in (0, None)


def _right(pooled: object, question: object) -> tuple[pa.Table, int]:
    """The answer as it must be, and how many cells it leaves out."""
    cells = pooled.cells(question)
    few = pc.sum(pc.less(cells["identities"], question.minimum)).as_py()
    return pooled.released(question, cells), few


def _one_more(table: pa.Table, column: str) -> pa.Table:
    """The same table with one count one too high."""
    values = table[column].to_pylist()
    changed = pa.array([values[0] + 1, *values[1:]], table.schema.field(column).type)
    return table.set_column(table.column_names.index(column), column, changed)
