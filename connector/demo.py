"""`bayspace demo`: a data space on this machine, narrated. Three real processes, real files, real refusals.

For the demo only, each answer is shown beside the same SQL on the pooled plaintext; released cells must be
equal, every other cell must be one that the owner's policy holds back, or the demo fails.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from compute.errors import PolicyRefusal
from connector.api import Answer, Space
from connector.cli.answers import plain
from connector.cli.explained import render
from connector.demo_data import write_demo_data
from connector.loopback import Loopback
from connector.receipts import trust_file
from witness.checks import VerificationFailed
from witness.verify import verify_files

SPACE, OWNER, ASKER = "gba-demo", "sz-trade", "hk-bank"
PURPOSE = "credit-risk"
MINIMUM_IDENTITIES = 10  # as in demo_files/policies
MOST_ROWS_SHOWN = 24


@dataclass(frozen=True, slots=True)
class Question:
    """One narrated query: its SQL, its grouping columns, and how the plaintext counts identities."""

    title: str
    sql: str
    groups: tuple[str, ...]
    identity: str


SINGLE = Question(
    "(a) an aggregate inside sz-trade's domain; no rows leave it",
    "SELECT quarter, count(*) AS invoices, sum(amount) AS total, avg(overdue_days) AS overdue\n"
    "FROM sz-trade.invoices GROUP BY quarter ORDER BY quarter",
    ("quarter",),
    "company_id",
)
CARDINALITY = Question(
    "(b) a joint aggregate at disclosure level `cardinality`: hk-bank does not learn which customers matched",
    "SELECT i.industry, count(*) AS invoices, sum(i.amount) AS total, avg(i.amount) AS mean\n"
    "FROM sz-trade.invoices i JOIN hk-bank.credit c ON i.company_id = c.company_id\n"
    "GROUP BY i.industry ORDER BY total DESC",
    ("industry",),
    "i.company_id",
)
RECEIVER = Question(
    "(c) a joint aggregate at level `receiver`, grouped by columns of both sides",
    "SELECT c.rating, i.currency, count(*) AS invoices, sum(i.amount) AS total, avg(i.amount) AS mean\n"
    "FROM sz-trade.invoices_matched i JOIN hk-bank.credit c ON i.company_id = c.company_id\n"
    "GROUP BY c.rating, i.currency ORDER BY c.rating, i.currency",
    ("rating", "currency"),
    "i.company_id",
)
REFUSED_TITLE = "(d) a question that the policy refuses"
REFUSED = (
    "SELECT company_name, sum(amount) AS total FROM sz-trade.invoices\n"
    "WHERE company_id = '91440300MA5EXAMPLE' GROUP BY company_name"
)
SMALL = Question(
    "(e) small groups are suppressed, and reported as suppressed",
    "SELECT i.industry, c.region, count(*) AS invoices, sum(i.amount) AS total\n"
    "FROM sz-trade.invoices_matched i JOIN hk-bank.credit c ON i.company_id = c.company_id\n"
    "WHERE i.amount > 400000 GROUP BY i.industry, c.region ORDER BY i.industry, c.region",
    ("industry", "region"),
    "i.company_id",
)


class DemoFailed(Exception):
    """An answer differs from the plaintext, or something was accepted that must not be."""


def run(keep: Path | None, rows: int) -> None:
    """Run the whole demo. Raises `DemoFailed` when anything is not as it must be."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    began = time.monotonic()
    with ExitStack() as stack:
        folder = _folder(keep, stack)
        demo = _Demo(console, folder)
        demo.prepare(rows)
        with console.status("starting three processes"):
            stack.enter_context(demo.space.running())
        demo.narrate()
        demo.space.stop()
        demo.verify_offline()
    console.rule()
    console.print(
        f"[bold green]done in {time.monotonic() - began:.0f} s[/]",
        f"everything is in {folder}" if keep else "",
    )


def _folder(keep: Path | None, stack: ExitStack) -> Path:
    if keep is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bayspace-demo-")))
    return keep.resolve()


class _Demo:
    def __init__(self, console: Console, folder: Path) -> None:
        self._console, self._folder = console, folder
        self.space = Loopback(folder, SPACE, {OWNER: "CN-SZ", ASKER: "HK"})
        self._receipts: list[Path] = []

    def _step(self, title: str) -> None:
        self._console.rule(f"[bold]{title}", align="left")

    def _say(self, text: str) -> None:
        self._console.print(text)

    # --- setting up -----------------------------------------------------------------------------------

    def prepare(self, rows: int) -> None:
        """A data space with three members, generated data, published offers."""
        self._step("A data space: one operator, two connectors, one witness")
        where = self._folder / "space"
        self._say(f"certificate authority, keys, certificates and a signed member list: {where}")
        self._step("1. Generated data, and what is offered of it")
        with self._console.status("generating invoices and credit exposures"):
            data = write_demo_data(self._folder / "data", rows)
        self._say(
            f"sz-trade: {data.invoice_rows:,} invoices of {data.invoice_companies:,} companies; "
            f"hk-bank: {data.credit_companies:,} customers; {data.shared_companies:,} companies at both"
        )
        ours = files("connector") / "demo_files"
        with self._console.status("checking and publishing"):
            self._publish(ours, OWNER, "invoices", data.invoices)
            self._publish(ours, ASKER, "credit", data.credit)

    def _publish(self, ours: Traversable, participant: str, dataset: str, data: Path) -> None:
        description = (ours / "datasets" / f"{dataset}.yaml").read_text("utf-8")
        names = [file.name for file in (ours / "policies").iterdir() if file.name.startswith(dataset)]
        policies = {name: (ours / "policies" / name).read_text("utf-8") for name in names}
        for offer in self.space.publish(participant, dataset, data, description, policies).offers:
            self._say(f"  offer [bold]{participant}.{offer.name}[/], policy {offer.policy_digest[:16]}…")

    # --- the story ------------------------------------------------------------------------------------

    def narrate(self) -> None:
        """Contracts, explain, queries, refusals."""
        self._say("running: " + ", ".join(f"{n} ({p.pid})" for n, p in self.space.processes.items()))
        self._step("2. hk-bank asks for contracts; both sign; the agreement carries the policy")
        for offer in ("invoices", "invoices_matched"):
            asked, agreed, agreement = self.space.agree(ASKER, OWNER, offer)
            self._say(f"  {OWNER}.{offer}: {asked} → {agreed}, agreement {agreement[:16]}…")
        with self.space.connect(ASKER) as asker:
            self._step("3. explain: before anything runs")
            self._sql(CARDINALITY.sql)
            render(self._console, asker.explain(CARDINALITY.sql, PURPOSE))
            self._step("4. Questions over gRPC, each beside the same SQL on the pooled plaintext")
            for number, question in enumerate((SINGLE, CARDINALITY, RECEIVER)):
                self._ask(asker, question, f"receipt-{'abc'[number]}.json")
            self._refused(asker)
            self._ask(asker, SMALL, "receipt-e.json")

    def _sql(self, sql: str) -> None:
        self._console.print(Panel(Syntax(sql, "sql", background_color="default"), expand=False))

    def _ask(self, asker: Space, question: Question, receipt: str) -> None:
        self._say(f"\n[bold]{question.title}[/]")
        self._sql(question.sql)
        began = time.monotonic()
        with self._console.status("asking") as status:
            answer = asker.query(question.sql, PURPOSE, lambda stage, *_: status.update(f"asking: {stage}"))
        seconds = time.monotonic() - began
        self._compare(question, answer)
        sent = answer.summary["bytes_sent"] + answer.summary["bytes_received"]
        self._say(
            f"{answer.summary['protocol']} · {seconds:.2f} s · {sent:,} bytes · "
            f"{answer.suppressed} cell(s) suppressed · trace {answer.trace_id}"
        )
        path = self._folder / receipt
        if not answer.receipt.bundle:
            raise DemoFailed("the receipt was not witnessed in time")
        answer.receipt.save(path)
        self._receipts.append(path)

    def _compare(self, question: Question, answer: Answer) -> None:
        """Show answer and plaintext side by side. Released cells are equal, all others are held back."""
        expected = self._plaintext(question)
        got = {_key(row, question.groups): row for row in answer.table.to_pylist()}
        figures = [name for name in answer.table.schema.names if name not in question.groups]
        table = Table(
            *question.groups,
            *(f"{name}: answer" for name in figures),
            *(f"{name}: plaintext" for name in figures),
        )
        held_back = 0
        for row in expected.to_pylist():
            found = got.pop(_key(row, question.groups), None)
            few = row["__identities"] < MINIMUM_IDENTITIES
            if (found is None) != few or (
                found is not None and any(not _same(found[n], row[n]) for n in figures)
            ):
                raise DemoFailed("the answer differs from the plaintext")
            held_back += few
            shown = (
                ["[yellow]suppressed[/]"] * len(figures)
                if found is None
                else [plain(found[n]) for n in figures]
            )
            table.add_row(
                *(plain(row[n]) for n in question.groups), *shown, *(plain(row[n]) for n in figures)
            )
        if got or held_back != answer.suppressed:
            raise DemoFailed(
                "the answer has cells that the plaintext has not, or reports another suppression"
            )
        self._console.print(table)
        if expected.num_rows > MOST_ROWS_SHOWN:
            self._say(f"… and {expected.num_rows - MOST_ROWS_SHOWN} more rows, compared but not shown")
        self._say(f"[green]equal[/]: {answer.table.num_rows} released cells, {held_back} suppressed")

    def _plaintext(self, question: Question) -> pa.Table:
        """The same SQL over both files at once: what nobody in the data space can do."""
        invoices = self._folder / OWNER / "data" / "invoices.parquet"
        credit = self._folder / ASKER / "data" / "credit.parquet"
        sql = question.sql
        for name, file in (
            (f"{OWNER}.invoices_matched", invoices),
            (f"{OWNER}.invoices", invoices),
            (f"{ASKER}.credit", credit),
        ):
            sql = sql.replace(name, f"read_parquet('{file}')")
        sql = sql.replace("SELECT ", f"SELECT count(DISTINCT {question.identity}) AS __identities, ", 1)
        with duckdb.connect() as pooled:
            return pooled.sql(sql).to_arrow_table()

    def _refused(self, asker: Space) -> None:
        self._say(f"\n[bold]{REFUSED_TITLE}[/]")
        self._sql(REFUSED)
        try:
            asker.query(REFUSED, PURPOSE)
        except PolicyRefusal as refusal:
            table = Table("code", "column", "why", "allowed instead")
            for r in refusal.decision.because:
                table.add_row(r.code, r.column or "", r.sentence, r.allowed or "")
            self._console.print(table)
            self._say("[green]refused[/] with these reasons; the refusal is evidence too")
            return
        raise DemoFailed("a question was answered that the policy forbids")

    def verify_offline(self) -> None:
        """No process runs any more: the receipts and the trust file are all there is."""
        self._step("5. Receipts, verified offline with no server running")
        trust = self._folder / "trust.json"
        trust.write_bytes(trust_file(self.space.settings(ASKER)))
        for path in self._receipts:
            verified = verify_files(path.read_bytes(), trust.read_bytes())
            events = " → ".join(item.record.event for item in verified.items)
            signers = ", ".join(verified.items[0].signers)
            self._say(f"  [green]verified[/] {path.name}: {events}; signed by {signers}")
        broken = bytearray(self._receipts[0].read_bytes())
        broken[len(broken) // 2] ^= 1
        try:
            verify_files(bytes(broken), trust.read_bytes())
        except VerificationFailed as failure:
            self._say(f"  one flipped byte: [red]{failure.sentence}[/] ({failure.code})")
            return
        raise DemoFailed("a receipt with a flipped byte was accepted")


def _key(row: dict[str, Any], groups: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[name] for name in groups)


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) or isinstance(theirs, float):
        return ours is theirs or abs(float(ours) - float(theirs)) <= 1e-9 * max(1.0, abs(float(theirs)))
    return bool(ours == theirs)
