"""The main job on real tables: two parties ask each other about flights, planes and weather of 2013.

Starts a witness and two connectors on this machine, asks seven questions under the policies beside this
file, and compares every answer with DuckDB on the pooled tables: released cells are equal, every other
cell is one that the owner's policy holds back. Then verifies every receipt with no server running. Ends
with a non-zero exit code at the first thing that is not as it must be.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from prepare import Flights, prepare
from rich.console import Console
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from compute.errors import ConfigError, PolicyRefusal, Unavailable
from connector.api import Answer, Receipt, Space
from connector.cli.answers import plain
from connector.cli.explained import render
from connector.loopback import Loopback
from connector.receipts import receipt, trust_file
from connector.storage import Store
from witness.verify import verify_files

HERE = Path(__file__).resolve().parent
AIRLINE, AIRPORT = "airline-ops", "airport-services"
PUNCTUALITY, FLEET = "punctuality", "fleet-planning"
MINIMUM_IDENTITIES = 10  # as in the policies of flights and planes
MOST_ROWS_SHOWN = 20
WITNESS_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Question:
    """A question in SQL, without the clauses that work on released cells: `having` and `order`.

    `identity` is what the owner's policy counts, in the pooled tables' words; `minimum` is 1 where its
    policy has none.
    """

    title: str
    asker: str
    purpose: str
    protocol: str  # the one this question must be answered by: another would disclose something else
    groups: tuple[str, ...]
    cells: str
    order: str
    having: str = ""
    identity: str = "tailnum"
    minimum: int = MINIMUM_IDENTITIES

    @property
    def sql(self) -> str:
        """The question as it is asked."""
        return "\n".join(filter(None, [self.cells, self.having and f"HAVING {self.having}", self.order]))


QUESTIONS = (
    Question(
        title="1. How late is each month? One dataset; no row leaves it",
        asker=AIRPORT,
        purpose=PUNCTUALITY,
        protocol="single_domain",
        groups=("month",),
        cells="SELECT date_trunc('month', flight_date) AS month, COUNT(*) AS flights,\n"
        "       COUNT(arr_delay) AS arrived, AVG(arr_delay) AS late\n"
        "FROM airline-ops.flights\n"
        "GROUP BY month",
        order="ORDER BY month",
    ),
    Question(
        title="2. Who flies old planes, and how far? Joint; it stays hidden which planes matched",
        asker=AIRPORT,
        purpose=PUNCTUALITY,
        protocol="private_join_and_compute",
        groups=("carrier",),
        cells="SELECT f.carrier, COUNT(*) AS flights, AVG(f.distance) AS miles\n"
        "FROM airport-services.planes p JOIN airline-ops.flights f USING (tailnum)\n"
        "WHERE p.year < 1995\n"
        "GROUP BY f.carrier",
        order="ORDER BY flights DESC",
    ),
    Question(
        title="3. Which engines fly from which airport? Joint; grouped by columns of both sides",
        asker=AIRPORT,
        purpose=PUNCTUALITY,
        protocol="psi_aggregate",
        groups=("engine", "origin"),
        cells="SELECT p.engine, f.origin, COUNT(*) AS flights, SUM(f.distance) AS miles\n"
        "FROM airport-services.planes p JOIN airline-ops.flights_matched f USING (tailnum)\n"
        "GROUP BY p.engine, f.origin",
        order="ORDER BY p.engine, f.origin",
    ),
    Question(
        title="4. Which manufacturers' planes arrive late? Joint; HAVING and LIMIT see released cells only",
        asker=AIRPORT,
        purpose=PUNCTUALITY,
        protocol="psi_aggregate",
        groups=("manufacturer",),
        cells="SELECT p.manufacturer, COUNT(*) AS flights, AVG(f.arr_delay) AS late\n"
        "FROM airport-services.planes p JOIN airline-ops.flights_matched f USING (tailnum)\n"
        "GROUP BY p.manufacturer",
        having="flights >= 1000",
        order="ORDER BY late DESC\nLIMIT 5",
    ),
    Question(
        title="5. What does fog cost in each quarter? Joint by airport and hour; filters on both sides",
        asker=AIRPORT,
        purpose=PUNCTUALITY,
        protocol="private_join_and_compute",
        groups=("fog", "quarter"),
        cells="SELECT w.visib < 3 AS fog, date_trunc('quarter', d.flight_date) AS quarter,\n"
        "       COUNT(*) AS flights, COUNT(d.dep_delay) AS departed, AVG(d.dep_delay) AS late\n"
        "FROM airport-services.weather w JOIN airline-ops.departures d\n"
        "  ON w.origin = d.origin AND w.time_hour = d.time_hour\n"
        "WHERE w.precip < 0.1 AND d.distance > 500\n"
        "GROUP BY fog, quarter",
        order="ORDER BY fog, quarter",
        identity="(d.origin, d.time_hour)",
        minimum=1,
    ),
    Question(
        title="6. Who made our long-haul fleet? The airline asks about planes; each counts once",
        asker=AIRLINE,
        purpose=FLEET,
        protocol="psi_aggregate",
        groups=("manufacturer",),
        cells="SELECT p.manufacturer, COUNT(*) AS planes, AVG(p.seats) AS seats, AVG(p.year) AS built\n"
        "FROM airport-services.planes p SEMI JOIN airline-ops.flights_matched f\n"
        "  ON p.tailnum = f.tailnum AND f.distance > 2000\n"
        "WHERE p.year >= 1990\n"
        "GROUP BY p.manufacturer",
        order="ORDER BY planes DESC",
    ),
)

EXPLAINED = QUESTIONS[1]

REFUSED = """\
SELECT tailnum, AVG(arr_delay) AS late, MAX(arr_delay) AS worst
FROM airline-ops.flights
WHERE dest = 'BOS' AND tailnum = 'N14228'
GROUP BY tailnum"""
REFUSED_BECAUSE = {
    ("identity.compared-with-literal", "tailnum"),
    ("identity.grouped", "tailnum"),
    ("measure.function-not-allowed", "arr_delay"),
}


class Mismatch(Exception):
    """Something is not as it must be; nothing in it is a value."""


# --- the pooled tables: what nobody in the data space can do ------------------------------------------


class Pooled:
    """DuckDB over both parties' files at once."""

    def __init__(self, tables: Flights) -> None:
        self._connection = duckdb.connect()
        offers = {
            AIRLINE: dict.fromkeys(("flights", "flights_matched", "departures"), tables.flights),
            AIRPORT: {"planes": tables.planes, "weather": tables.weather},
        }
        for participant, files in offers.items():
            self._connection.sql(f'CREATE SCHEMA "{participant}"')
            for offer, file in files.items():
                self._connection.sql(
                    f"""CREATE VIEW "{participant}"."{offer}" AS FROM read_parquet('{file}')"""
                )

    def cells(self, question: Question) -> pa.Table:
        """Every cell of a question, small ones too, with the number of its identities in `identities`."""
        sql = question.cells
        for participant in (AIRLINE, AIRPORT):
            sql = sql.replace(f"{participant}.", f'"{participant}".')
        identity = question.identity
        if identity == "tailnum" and "JOIN" in sql:
            identity = "p.tailnum"
        sql = sql.replace("SELECT ", f"SELECT COUNT(DISTINCT {identity}) AS identities, ", 1)
        return self._connection.sql(sql).to_arrow_table()

    def released(self, question: Question, cells: pa.Table) -> pa.Table:
        """Of those, what the policy lets through, then HAVING, ORDER BY and LIMIT."""
        conditions = [f"identities >= {question.minimum}", *filter(None, [question.having])]
        order = question.order.replace("p.", "").replace("f.", "")
        sql = f"SELECT * EXCLUDE (identities) FROM cells WHERE {' AND '.join(conditions)} {order}"
        self._connection.register("cells", cells)
        return self._connection.sql(sql).to_arrow_table()


def compare(question: Question, answer: pa.Table, suppressed: int, pooled: Pooled) -> tuple[pa.Table, int]:
    """The pooled cells, and how many of them the policy holds back. Raises `Mismatch`."""
    cells = pooled.cells(question)
    expected = pooled.released(question, cells)
    if not expected.num_rows:
        raise Mismatch(f"no cell of this question may be released, so nothing is compared: {question.title}")
    if answer.schema.names != expected.schema.names or answer.num_rows != expected.num_rows:
        raise Mismatch(
            f"other columns or another number of cells than in the pooled tables: {question.title}"
        )
    for ours, theirs in zip(answer.to_pylist(), expected.to_pylist(), strict=True):
        if not all(_same(ours[name], theirs[name]) for name in theirs):
            raise Mismatch(f"a released cell differs from the pooled tables: {question.title}")
    held_back = sum(count < question.minimum for count in cells["identities"].to_pylist())
    if held_back != suppressed:
        raise Mismatch(f"{suppressed} cells are said to be suppressed, not {held_back}: {question.title}")
    return cells, held_back


def _same(ours: Any, theirs: Any) -> bool:
    """Exact, but for means and ratios: DuckDB adds those in floating point."""
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= 1e-9 * max(1.0, abs(theirs))
    return bool(ours == theirs)


# --- the story ----------------------------------------------------------------------------------------


class Example:
    """One run: publish, agree, ask, compare, verify."""

    def __init__(self, console: Console, folder: Path) -> None:
        self._console, self._folder = console, folder
        self._space = Loopback(folder, "nyc-air", {AIRLINE: "US-NY", AIRPORT: "US-NJ"})
        self._receipts: list[Path] = []
        self._pooled: Pooled

    def run(self, rows: int | None) -> None:
        """Everything, in order. Raises `Mismatch`, or what the data space raises."""
        self._publish(prepare(self._folder / "tables", rows))
        with self._space.running():
            self._agree()
            with self._space.connect(AIRPORT) as airport, self._space.connect(AIRLINE) as airline:
                spaces = {AIRPORT: airport, AIRLINE: airline}
                self._explain(spaces[EXPLAINED.asker])
                for question in QUESTIONS:
                    self._ask(spaces[question.asker], question)
                self._refused(airport)
        self._verify()

    def _publish(self, tables: Flights) -> None:
        self._step("Two parties publish, each under its own policies")
        for participant, dataset, data in (
            (AIRLINE, "flights", tables.flights),
            (AIRPORT, "planes", tables.planes),
            (AIRPORT, "weather", tables.weather),
        ):
            self._offer(participant, dataset, data)
        held = {p: self._space.settings(p).folder / "data" for p in (AIRLINE, AIRPORT)}
        # Another description of the same file: a move onto itself changes nothing.
        self._offer(AIRLINE, "departures", held[AIRLINE] / "flights.parquet")
        self._pooled = Pooled(
            Flights(
                held[AIRLINE] / "flights.parquet",
                held[AIRPORT] / "planes.parquet",
                held[AIRPORT] / "weather.parquet",
            )
        )

    def _offer(self, participant: str, dataset: str, data: Path) -> None:
        ours = HERE / participant
        description = (ours / "datasets" / f"{dataset}.yaml").read_text("utf-8")
        policies = {p.name: p.read_text("utf-8") for p in (ours / "policies").glob(f"{dataset}*.yaml")}
        added = self._space.publish(participant, dataset, data, description, policies)
        offers = ", ".join(f"{participant}.{offer.name}" for offer in added.offers)
        self._say(f"  {dataset}: {added.record.rows:,} rows, offered as [bold]{offers}[/]")

    def _agree(self) -> None:
        self._step("Contracts: the agreement carries the owner's policy, signed by both")
        for consumer, provider, offer in (
            (AIRPORT, AIRLINE, "flights"),
            (AIRPORT, AIRLINE, "flights_matched"),
            (AIRPORT, AIRLINE, "departures"),
            (AIRLINE, AIRPORT, "planes"),
        ):
            asked, agreed, agreement = self._space.agree(consumer, provider, offer)
            self._say(f"  {consumer} about {provider}.{offer}: {asked} → {agreed} {agreement[:16]}…")

    def _explain(self, space: Space) -> None:
        self._step("Before anything runs: who would learn what")
        self._sql(EXPLAINED.sql)
        render(self._console, space.explain(EXPLAINED.sql, EXPLAINED.purpose))

    def _ask(self, space: Space, question: Question) -> None:
        self._step(question.title)
        self._sql(question.sql)
        began = time.monotonic()
        answer = space.query(question.sql, question.purpose)
        seconds = time.monotonic() - began
        if answer.summary["protocol"] != question.protocol:
            raise Mismatch(f"answered by another protocol than {question.protocol}: {question.title}")
        cells, held_back = compare(question, answer.table, answer.suppressed, self._pooled)
        self._show(question, answer, cells)
        sent = answer.summary["bytes_sent"] + answer.summary["bytes_received"]
        self._say(
            f"{question.asker} asked · {question.protocol} · {seconds:.1f} s · {sent:,} bytes\n"
            f"[green]equal to the pooled tables[/]: {answer.table.num_rows} cells; {held_back} suppressed"
        )
        if not answer.receipt.bundle:
            raise Mismatch("the receipt was not witnessed in time")
        self._keep(answer.receipt, f"receipt-{question.title[0]}.json")

    def _keep(self, kept: Receipt, name: str) -> None:
        kept.save(self._folder / name)
        self._receipts.append(self._folder / name)

    def _show(self, question: Question, answer: Answer, cells: pa.Table) -> None:
        """The answer, then what only this example can see: the cells that were held back."""
        figures = [name for name in answer.table.schema.names if name not in question.groups]
        table = Table(*question.groups, *figures)
        for row in answer.table.to_pylist()[:MOST_ROWS_SHOWN]:
            table.add_row(*(_shown(value) for value in row.values()))
        for row in cells.sort_by([(name, "ascending") for name in question.groups]).to_pylist():
            if row["identities"] < question.minimum and table.row_count < MOST_ROWS_SHOWN:
                labels = [f"[dim]{_shown(row[name])}[/]" for name in question.groups]
                table.add_row(*labels, *["[yellow]suppressed[/]"] * len(figures))
        self._console.print(table)

    def _refused(self, space: Space) -> None:
        self._step("7. What about this one plane? Refused, with every reason at once")
        self._sql(REFUSED)
        try:
            space.query(REFUSED, PUNCTUALITY)
        except PolicyRefusal as refusal:
            table = Table("code", "column", "why", "allowed instead")
            for reason in refusal.decision.because:
                table.add_row(reason.code, reason.column, reason.sentence, reason.allowed)
            self._console.print(table)
            if {(r.code, r.column) for r in refusal.decision.because} != REFUSED_BECAUSE:
                raise Mismatch("refused for other reasons than the policy gives") from None
            self._keep_refusal()
            return
        raise Mismatch("a question was answered that the policy forbids")

    def _keep_refusal(self) -> None:
        """A refusal leaves evidence too; it reaches the witness after the asker was told."""
        store = Store.open(self._space.settings(AIRPORT).state_url)
        try:
            (refused,) = store.exchanges(status="refused")
            for _ in range(WITNESS_SECONDS * 10):
                with suppress(Unavailable):
                    self._keep(Receipt(receipt(store, refused.id)), "receipt-7-refused.json")
                    return
                time.sleep(0.1)
        finally:
            store.close()
        raise Mismatch("the refusal was not witnessed in time")

    def _verify(self) -> None:
        self._step("Every receipt, verified offline: no connector and no witness is running")
        trust = trust_file(self._space.settings(AIRPORT))
        for path in self._receipts:
            verified = verify_files(path.read_bytes(), trust)
            events = " → ".join(item.record.event for item in verified.items)
            signers = ", ".join(verified.items[0].signers)
            self._say(f"  [green]verified[/] {path.name}: {events}; signed by {signers}")

    def _step(self, title: str) -> None:
        self._console.rule(f"[bold]{title}", align="left")

    def _say(self, text: str) -> None:
        self._console.print(text)

    def _sql(self, sql: str) -> None:
        self._console.print(Panel(Syntax(sql, "sql", background_color="default"), expand=False))


def _shown(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else plain(value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example; exit with 1 when an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new folder in which everything stays")
    parser.add_argument("--rows", type=int, help="about so many of the 336,776 flights, evenly spread")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    began = time.monotonic()
    with ExitStack() as stack:
        folder = options.keep and options.keep.resolve()
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bayspace-flights-")))
        try:
            Example(console, folder).run(options.rows)
        except (Mismatch, ConfigError) as failure:
            sys.exit(f"examples/flights: {failure}")
    console.rule()
    console.print(f"[bold green]{len(QUESTIONS)} answers equal, in {time.monotonic() - began:.0f} s[/]")


if __name__ == "__main__":
    main()
