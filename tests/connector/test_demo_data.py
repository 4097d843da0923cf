"""The demo's data and policies: same seed, same bytes; valid codes; the awkward values of real tables."""

from __future__ import annotations

import hashlib
import time
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import connector
from connector.demo_data import USCC_ALPHABET, DemoData, write_demo_data
from policy_enforcer.load import lint, load

POLICIES = Path(connector.__file__).with_name("demo_files") / "policies"


def uscc_check_character(code17: str) -> str:
    """GB 32100-2015: 31 - (sum of value x weight mod 31), the weights being powers of 3."""
    total = sum(USCC_ALPHABET.index(c) * pow(3, i, 31) for i, c in enumerate(code17))
    return USCC_ALPHABET[-total % 31]


def is_uscc(code: str) -> bool:
    well_formed = len(code) == 18 and code[2:8].isdecimal() and set(code) <= set(USCC_ALPHABET)
    return well_formed and uscc_check_character(code[:17]) == code[17]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    return write_demo_data(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def sql(demo: DemoData) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.register("invoices", pq.read_table(demo.invoices))
    connection.register("credit", pq.read_table(demo.credit))
    return connection


def one(sql: duckdb.DuckDBPyConnection, query: str) -> tuple:
    row = sql.execute(query).fetchone()
    assert row is not None
    return row


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_check_character_of_the_standards_own_example() -> None:
    # GB 32100-2015 works 91350100M000100Y4 through: the sum is 1640, 1640 mod 31 = 28, 31 - 28 = 3.
    assert uscc_check_character("91350100M000100Y4") == "3"


@pytest.mark.parametrize("code", ["91350100M000100Y43", "91110000600037341L", "91110108551385082Q"])
def test_published_codes_are_valid(code: str) -> None:
    assert is_uscc(code)


@pytest.mark.parametrize(
    "code",
    [
        "91350100M000100Y4Z",  # the standard's example of a wrong one
        "91350100M000100Y34",  # two characters swapped
        "91350100M000100Y4",  # short
        "91350100M000100y43",  # lower case
        "9135010AM000100Y43",  # a letter in the division code
        "",
    ],
)
def test_wrong_codes_are_refused(code: str) -> None:
    assert not is_uscc(code)


def test_every_generated_code_is_valid_down_to_its_organisation_code(demo: DemoData) -> None:
    codes = {
        code
        for path in (demo.invoices, demo.credit)
        for code in pc.unique(pq.read_table(path)["company_id"]).drop_null().to_pylist()
    }
    assert len(codes) == demo.invoice_companies + demo.credit_companies - demo.shared_companies
    assert all(map(is_uscc, codes))
    assert all(_organisation_check(code[8:16]) == code[16] for code in codes)


def _organisation_check(body: str) -> str:
    """GB 11714, written out once more: M000100Y has check character 4."""
    total = sum(int(c, 36) * w for c, w in zip(body, (3, 7, 9, 10, 5, 8, 4, 2), strict=True))
    return "0123456789X"[-total % 11]


def test_the_organisation_check_agrees_with_the_standards_example() -> None:
    assert _organisation_check("M000100Y") == "4"


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        write_demo_data(tmp_path / str(i), rows=2_000, seed=seed) for i, seed in enumerate((7, 7, 8))
    )
    assert digest(first.invoices) == digest(again.invoices)
    assert digest(first.credit) == digest(again.credit)
    assert digest(first.invoices) != digest(other.invoices)


def test_figures_are_what_the_files_hold(demo: DemoData, sql: duckdb.DuckDBPyConnection) -> None:
    assert one(sql, "SELECT count(*), count(DISTINCT company_id) FROM invoices") == (200_000, 20_000)
    assert one(sql, "SELECT count(DISTINCT company_id) FROM credit") == (15_000,)
    shared = one(sql, "SELECT count(DISTINCT i.company_id) FROM invoices i JOIN credit USING (company_id)")
    assert shared == (9_000,)
    figures = (demo.invoice_rows, demo.invoice_companies, demo.credit_companies, demo.shared_companies)
    assert figures == (200_000, 20_000, 15_000, 9_000)


def test_schemas(demo: DemoData) -> None:
    text, day, integer = pa.string(), pa.date32(), pa.int64()
    assert dict(_schema(demo.invoices)) == {
        "company_id": text,
        "company_name": text,
        "industry": text,
        "invoice_date": day,
        "quarter": text,
        "amount": pa.decimal128(12, 2),
        "overdue_days": integer,
        "currency": text,
    }
    assert dict(_schema(demo.credit)) == {
        "company_id": text,
        "rating": text,
        "exposure": pa.decimal128(14, 2),
        "region": text,
        "founded": day,
        "since": day,
    }


def _schema(path: Path) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in pq.read_schema(path)]


def test_invoices_have_nulls_duplicates_and_skew(sql: duckdb.DuckDBPyConnection) -> None:
    total, ids, amounts, overdue = one(
        sql, "SELECT count(*), count(company_id), count(amount), count(overdue_days) FROM invoices"
    )
    assert 0.003 < (total - ids) / total < 0.007
    assert 0.007 < (total - amounts) / total < 0.013
    assert 0.3 < overdue / total < 0.7
    (copies,) = one(
        sql, "SELECT count(*) - (SELECT count(*) FROM (SELECT DISTINCT * FROM invoices)) FROM invoices"
    )
    assert copies == 400
    (most,) = one(sql, "SELECT max(n) FROM (SELECT count(*) n FROM invoices GROUP BY company_id)")
    (middle,) = one(sql, "SELECT median(n) FROM (SELECT count(*) n FROM invoices GROUP BY company_id)")
    assert most > 40 * middle
    (mean, median) = one(sql, "SELECT avg(amount), median(amount) FROM invoices")
    assert mean > 3 * float(median)


def test_values_keep_their_declared_bounds(sql: duckdb.DuckDBPyConnection) -> None:
    low, high = one(sql, "SELECT min(amount), max(amount) FROM invoices")
    assert 0 < low < high <= 1_000_000_000
    assert one(sql, "SELECT min(overdue_days) > 0, max(overdue_days) <= 3650 FROM invoices") == (True, True)
    first, last = one(sql, "SELECT min(invoice_date), max(invoice_date) FROM invoices")
    assert (first, last) == (date(2024, 1, 1), date(2026, 9, 30))
    (wrong,) = one(
        sql,
        "SELECT count(*) FROM invoices WHERE quarter <> year(invoice_date) || 'Q' || quarter(invoice_date)",
    )
    assert wrong == 0


def test_a_company_has_one_name_and_one_industry(sql: duckdb.DuckDBPyConnection) -> None:
    (most,) = one(
        sql,
        "SELECT max(n) FROM (SELECT count(DISTINCT company_name || industry) n FROM invoices "
        "WHERE company_id IS NOT NULL GROUP BY company_id)",
    )
    assert most == 1
    assert one(sql, "SELECT count(*) FROM invoices WHERE NOT ends_with(company_name, '有限公司')") == (0,)


def test_rare_industries_fall_below_ten_companies_when_joined(sql: duckdb.DuckDBPyConnection) -> None:
    groups = sql.execute(
        "SELECT industry, count(DISTINCT i.company_id) FROM invoices i JOIN credit USING (company_id)"
        " GROUP BY industry"
    ).fetchall()
    small = {industry for industry, companies in groups if companies < 10}
    assert small == {"aerospace", "salvage"}
    assert len(groups) == 12


def test_credit_keys_are_unique_apart_from_nulls(sql: duckdb.DuckDBPyConnection) -> None:
    rows, ids, distinct = one(
        sql, "SELECT count(*), count(company_id), count(DISTINCT company_id) FROM credit"
    )
    assert ids == distinct
    assert 0 < rows - ids < 50


def test_credit_has_old_companies_and_every_rating(sql: duckdb.DuckDBPyConnection) -> None:
    old, early, backwards = one(
        sql,
        "SELECT count(*) FILTER (founded < DATE '1970-01-01'), count(*) FILTER (since < DATE '1970-01-01'),"
        " count(*) FILTER (since < founded) FROM credit",
    )
    assert old > 100
    assert early > 10
    assert backwards == 0
    assert one(sql, "SELECT count(DISTINCT rating), count(DISTINCT region) FROM credit") == (8, 10)
    assert one(sql, "SELECT min(exposure) >= 0, max(exposure) < 100000000000 FROM credit") == (True, True)


def test_companies_with_worse_ratings_pay_later(sql: duckdb.DuckDBPyConnection) -> None:
    late = dict(
        sql.execute(
            "SELECT rating, avg(overdue_days) FROM invoices JOIN credit USING (company_id) GROUP BY 1"
        ).fetchall()
    )
    assert late["AA"] < late["BBB"] < late["B"]


def test_small_tables_scale_and_tiny_ones_are_refused(tmp_path: Path) -> None:
    small = write_demo_data(tmp_path, rows=1_000)
    assert pq.read_metadata(small.invoices).num_rows == 1_000
    assert (small.invoice_companies, small.credit_companies, small.shared_companies) == (100, 75, 45)
    with pytest.raises(ValueError):
        write_demo_data(tmp_path, rows=999)


def test_two_hundred_thousand_rows_take_less_than_three_seconds(tmp_path: Path) -> None:
    start = time.process_time()
    write_demo_data(tmp_path)
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("name", "dataset", "disclosure"),
    [
        ("invoices", "sz-trade.invoices", "cardinality"),
        ("invoices_matched", "sz-trade.invoices_matched", "receiver"),
        ("credit", "hk-bank.credit", "receiver"),
    ],
)
def test_policies_load_without_a_warning_and_name_real_columns(
    demo: DemoData, name: str, dataset: str, disclosure: str
) -> None:
    text = (POLICIES / f"{name}.yaml").read_text("utf-8")
    table = demo.credit if name == "credit" else demo.invoices
    assert lint(text, columns=pq.read_schema(table).names) == ()
    policy = load(text)
    assert policy.dataset == dataset
    assert policy.analysis.join is not None
    assert policy.analysis.join.disclosure == disclosure
    assert policy.analysis.minimum_identities == 10
    assert "company_name" not in text.split("policy:")[1]
