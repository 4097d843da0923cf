"""Seven banks, one answer: a monitor asks about loans in Shenzhen, Hong Kong and Macau.

Starts a witness and eight connectors on this machine, as processes. Each bank keeps its loans; the monitor
learns totals over all seven, no bank's part. Every answer is compared with DuckDB on the pooled rows:
released cells are equal, every other cell has fewer borrowers or banks than the policies demand; regressions
are compared with fits by numpy. Then verifies every receipt. Raises `DemoFailed` at the first thing
that is not as it must be.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from compute.errors import PolicyRefusal, QueryError
from connector.api import Answer, Space
from connector.cli.answers import plain
from connector.cli.explained import render
from connector.demo import DemoFailed
from connector.loopback import Loopback
from connector.receipts import trust_file
from witness.verify import verify_files

MONITOR = "gba-monitor"
BANKS = {
    "hk-harbour": "HK",
    "hk-peak": "HK",
    "hk-star": "HK",
    "mo-senado": "MO",
    "sz-bay": "CN-SZ",
    "sz-futian": "CN-SZ",
    "sz-nanshan": "CN-SZ",
}
PURPOSE = "financial-stability"
LOANS = 5000  # of each bank
LEAST_BORROWERS, LEAST_BANKS = 10, 3
SECTORS = ("贸易", "logistics", "旅游", "energy")

POLICY = """\
policy: loans-for-the-region-v1
dataset: {participant}.loans
assignee: [gba-monitor]
purpose: [financial-stability]
where: {{processing: [CN-SZ, HK, MO], recipients: [HK]}}
when: {{until: 2030-12-31}}
uses: {{count: 100, per: month, max_concurrent: 2}}
analysis:
  kinds: [aggregate]
  dimensions: [sector, year]
  domains: {{sector: [贸易, logistics, 旅游, energy], year: [2024, 2025, 2026]}}
  filters: {{principal: range, overdue_days: range}}
  measures: {{"*": [count], year: [min, max], principal: [sum, avg, regr, logistic],
    overdue_days: [avg, stddev, corr, regr], rate: [corr, regr, logistic], defaulted: [logistic]}}
  bounds: {{principal: [0, 10000000], overdue_days: [0, 3650], rate: [0, 1]}}
  identity: borrower
  minimum_identities: 10
  federation: {{name: loans, scope: total, minimum_participants: 3}}
duties: [{{log: witness, minimum_witnesses: 1}}]
"""
DESCRIPTION = """\
title: {{en: Loans, zh: 贷款}}
source: {{kind: parquet, path: ../data/{participant}.parquet}}
rights: {{holder: {participant}}}
columns:
  borrower: {{type: string}}
  sector: {{type: string}}
  year: {{type: int64, bounds: [2000, 2100]}}
  principal: {{type: "decimal(12,2)", bounds: [0, 10000000]}}
  overdue_days: {{type: int64, bounds: [0, 3650]}}
  rate: {{type: float64, scale: 6, bounds: [0, 1]}}
  defaulted: {{type: bool}}
offers: {{loans: loans.yaml}}
"""
QUESTIONS = {
    "1. How much is lent in each sector? Every bank's part stays its own": """\
SELECT sector, COUNT(*) AS loans, SUM(principal) AS lent, AVG(overdue_days) AS overdue, MIN(year) AS since
FROM federation.loans GROUP BY sector""",
    "2. Where are the overdue loans? Small cells are held back, by borrowers and by banks": """\
SELECT year, sector, COUNT(*) AS loans, SUM(principal) AS lent
FROM federation.loans WHERE overdue_days > 60 GROUP BY year, sector""",
    "3. Do dear loans fall overdue? A regression line over seven banks": """\
SELECT COUNT(*) AS loans, CORR(overdue_days, rate) AS r, REGR_SLOPE(overdue_days, rate) AS slope,
       STDDEV_SAMP(overdue_days) AS spread
FROM federation.loans""",
}
LINE = (
    "SELECT linear_regression(overdue_days, [rate, principal]) FROM federation.loans WHERE overdue_days > 0"
)
FIT = "SELECT logistic_regression(defaulted, [rate, principal]) FROM federation.loans"
REFUSED = {
    "6. Who is borrower B0007? Refused": """\
SELECT borrower, SUM(principal) AS lent FROM federation.loans WHERE borrower = 'B0007' GROUP BY borrower""",
    "7. And one bank by itself? Refused": """\
SELECT sector, SUM(principal) AS lent FROM hk-harbour.loans GROUP BY sector""",
}


def loans(bank: str, rows: int) -> pa.Table:
    """A bank's book. Borrowers are with several banks; two banks only lend to energy."""
    draw = random.Random(bank)  # noqa: S311  made-up loans, the same each time
    sectors = SECTORS if bank in ("sz-bay", "hk-star") else SECTORS[:3]
    made: dict[str, list[Any]] = {
        name: [] for name in ("borrower", "sector", "year", "principal", "overdue_days", "rate", "defaulted")
    }
    for _ in range(rows):
        rate = draw.randrange(20_000, 120_000) / 10**6
        made["borrower"].append(f"B{draw.randrange(5000):04d}")
        made["sector"].append(draw.choice(sectors))
        made["year"].append(draw.choices((2024, 2025, 2026), (9, 9, 1))[0])
        made["principal"].append(f"{draw.randrange(10**5, 10**8) / 100:.2f}")
        made["overdue_days"].append(
            None if draw.random() < 0.1 else max(0, int(draw.gauss(600 * rate - 20, 40)))
        )
        made["rate"].append(rate)
        made["defaulted"].append(draw.random() < 1 / (1 + math.exp(4 - 30 * rate)))
    table = pa.table(made)
    place = table.schema.get_field_index("principal")
    return table.set_column(place, "principal", table["principal"].cast(pa.decimal128(12, 2)))


def prepared(folder: Path, rows: int) -> tuple[Loopback, pa.Table]:
    """A data space with all books published, and the pooled rows that nobody in it has."""
    net = Loopback(folder / "space", "gba", {MONITOR: "HK", **BANKS}, threads=1)
    books = []
    for bank in BANKS:
        table = loans(bank, rows)
        file = folder / f"{bank}.parquet"
        pq.write_table(table, file)
        description = DESCRIPTION.format(participant=bank)
        net.publish(bank, "loans", file, description, {"loans.yaml": POLICY.format(participant=bank)})
        books.append(table.append_column("bank", pa.array([bank] * rows)))
    return net, pa.concat_tables(books)


def compare(sql: str, answer: Answer, pooled: pa.Table) -> int:
    """How many cells were held back. Raises `DemoFailed` unless the answer is the pooled one without them."""
    counted = "COUNT(DISTINCT bank || borrower) AS ids, COUNT(DISTINCT bank) AS banks"
    with duckdb.connect() as plaintext:
        plaintext.register("loans", pooled)
        text = sql.replace("SELECT ", f"SELECT {counted}, ", 1).replace("federation.loans", "loans")
        found = plaintext.sql(text).to_arrow_table().to_pylist()
    shown = [row for row in found if row.pop("ids") >= LEAST_BORROWERS and row["banks"] >= LEAST_BANKS]
    expected = [{name: value for name, value in row.items() if name != "banks"} for row in shown]
    if not _equal(expected, answer.table.to_pylist()):
        raise DemoFailed("the answer differs from the pooled rows")
    if answer.suppressed != len(found) - len(shown):
        raise DemoFailed("another number of cells was held back than the policies say")
    return len(found) - len(shown)


def _equal(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> bool:
    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(value) for value in row.values() if isinstance(value, str | int))

    if len(expected) != len(found):
        return False
    pairs = zip(sorted(expected, key=key), sorted(found, key=key), strict=True)
    return all(list(a) == list(b) and all(_close(a[name], b[name]) for name in a) for a, b in pairs)


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-9 * max(1.0, abs(a))
    return bool(a == b)


def ask(console: Console, monitor: Space, title: str, sql: str, pooled: pa.Table) -> Answer:
    """Ask one question and compare its answer."""
    console.rule(title)
    started = time.perf_counter()
    answer = monitor.query(sql, PURPOSE)
    seconds = time.perf_counter() - started
    held = compare(sql, answer, pooled)
    for row in answer.table.to_pylist():
        console.print("  " + ", ".join(f"{name} {plain(value)}" for name, value in row.items()), markup=False)
    console.print(
        f"  {answer.summary['protocol']}, {seconds:.2f} s: equal to the pooled rows; {held} cell(s) held back"
    )
    return answer


def regress(console: Console, monitor: Space, pooled: pa.Table) -> Answer:
    """A line over all books, from the sums of products that the banks release together."""
    console.rule("4. What makes a loan overdue? Rate and size, with standard errors, over seven banks")
    answer = monitor.query(LINE, PURPOSE)
    (row,) = answer.table.to_pylist()
    loans = pooled.filter(pc.greater(pooled["overdue_days"], 0))
    names = ("overdue_days", "rate", "principal")
    y, *xs = (loans[name].cast(pa.float64()).to_numpy() for name in names)
    columns = np.column_stack([np.ones(len(y)), *xs])
    unit = np.abs(columns).max(
        axis=0
    )  # floats lose eight digits where columns differ a million times in size
    expected = np.linalg.lstsq(columns / unit, y, rcond=None)[0] / unit
    if row["n"] != len(y) or not np.allclose([row[c] for c in _TERMS], expected, rtol=1e-9):
        raise DemoFailed("the line differs from that of the pooled rows")
    for term in _TERMS:
        console.print(f"  {term} {row[term]:.6g}, standard error {row[f'{term}_se']:.2g}", markup=False)
    console.print(f"  R² {row['r2']:.3f} over {row['n']:,} loans: equal to least squares by numpy")
    return answer


def fit(console: Console, monitor: Space, pooled: pa.Table) -> Answer:
    """Log-odds over all books, in steps that the banks take together: the monitor sees the last one."""
    console.rule("5. Which loans default? Rate and size again, by logistic regression")
    answer = monitor.query(FIT, PURPOSE)
    (row,) = answer.table.to_pylist()
    y, rate, principal = (
        pooled[name].cast(pa.float64()).to_numpy() for name in ("defaulted", "rate", "principal")
    )
    unit = np.array([1, 1, 1e6])
    x, expected = np.column_stack([np.ones(len(y)), rate, principal]) / unit, np.zeros(3)
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ expected))
        expected += np.linalg.solve((x * (p * (1 - p))[:, np.newaxis]).T @ x, x.T @ (y - p))
    if row["n"] != len(y) or not np.allclose([row[c] for c in _TERMS] * unit, expected, atol=1e-6):
        raise DemoFailed("the fit differs from that of the pooled rows")
    for term in _TERMS:
        console.print(f"  {term} {row[term]:.6g}, standard error {row[f'{term}_se']:.2g}", markup=False)
    console.print(
        f"  {row['fit']} in {row['steps']} steps over {row['n']:,} loans: equal to Newton's method by numpy"
    )
    return answer


_TERMS = ("intercept", "rate", "principal")


def verify(console: Console, net: Loopback, answers: list[Answer]) -> None:
    """Every receipt offline: one file, with the records of all seven exchanges."""
    trust = trust_file(net.settings(MONITOR))
    for number, answer in enumerate(answers, 1):
        verified = verify_files(answer.receipt.bundle, trust)
        signers = {signer for item in verified.items for signer in item.signers}
        if signers != {MONITOR, *BANKS}:
            raise DemoFailed("a participant did not sign its part of a receipt")
        console.print(f"  verified receipt {number}: {len(verified.items)} records, {len(signers)} signers")


def refused(console: Console, monitor: Space, title: str, sql: str) -> None:
    """What no bank allows is refused before anything leaves."""
    console.rule(title)
    try:
        monitor.query(sql, PURPOSE)
    except (PolicyRefusal, QueryError) as error:
        console.print(f"  refused: {error.code}")
        return
    raise DemoFailed("a question about one borrower, or one bank, was answered")


def run(rows: int, console: Console | None = None) -> None:
    """Run it all in a temporary folder; `rows` are the loans of each bank. Raises `DemoFailed`."""
    console = console or Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="bayspace-federation-") as folder:
        net, pooled = prepared(Path(folder), rows)
        with net.running(), net.connect(MONITOR) as monitor:
            for bank in BANKS:
                net.agree(MONITOR, bank, "loans")
            console.print(f"{len(BANKS)} banks, {len(pooled):,} loans; agreements in force")
            render(console, monitor.explain(next(iter(QUESTIONS.values())), PURPOSE))
            answers = [ask(console, monitor, title, sql, pooled) for title, sql in QUESTIONS.items()]
            answers += [regress(console, monitor, pooled), fit(console, monitor, pooled)]
            for title, sql in REFUSED.items():
                refused(console, monitor, title, sql)
        verify(console, net, answers)
    console.print(f"{len(answers)} answers equal, {len(answers)} receipts verified")
