"""List queries and masks across real connectors: matched rows alone, masked as agreed, gated, evidenced."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest

from compute.errors import ConfigError, DataError, PolicyRefusal, QueryError
from connector import config, datasets
from connector.receipts import trust_file
from connector.storage import Store
from witness.verify import verify_files

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"

POLICY = """\
policy: {offer}-v1
dataset: sz-trade.{offer}
assignee: [hk-bank]
purpose: [credit-risk]
uses: {{count: 1000}}
analysis:
  kinds: [aggregate, list]
  join: {{columns: [company_id], disclosure: rows, operators: [and]}}
  payload: [name, city, phone, founded, capital]
  dimensions: [city, founded]
  filters: {{capital: range, city: [equality]}}
  measures: {{"*": [count], capital: [sum], company_id: [count_distinct]}}
  scalar_functions: [date_trunc, upper]
  identity: company_id
  minimum_identities: {minimum}
{masking}duties: [{{log: witness, minimum_witnesses: 1}}]
"""
MASKING = "masking: {name: keep-first-1, phone: keep-last-4, founded: year, capital: step-1000, city: hash}\n"
COMPANIES = """\
title: {{en: Companies}}
source: {{kind: parquet, path: ../data/companies.parquet}}
rights: {{holder: sz-trade}}
columns:
  company_id: {{type: string, key: [trim, casefold], unique: true}}
  name: {{type: string, width: 40}}
  city: {{type: string, width: 24}}
  phone: {{type: string, width: 11}}
  founded: {{type: date}}
  capital: {{type: "decimal(12,2)", bounds: [0, 1000000]}}
  secret: {{type: string, width: 10}}
offers: {{{offers}}}
"""
OWN_POLICY = """\
policy: accounts-own-v1
dataset: hk-bank.accounts
assignee: [hk-bank]
purpose: [credit-risk]
uses: {count: 1000}
analysis:
  kinds: [aggregate, list]
  join: {columns: [company_id], disclosure: rows, operators: [and]}
  payload: [account]
  dimensions: [rating]
"""
ACCOUNTS = """\
title: {en: Accounts}
source: {kind: parquet, path: ../data/accounts.parquet}
rights: {holder: hk-bank}
columns:
  company_id: {type: string, key: [trim, casefold]}
  account: {type: int64}
  rating: {type: string}
offers: {accounts: accounts.yaml}
"""
USING = "FROM sz-trade.plain c {} hk-bank.accounts a USING (company_id) "
JOIN = "FROM hk-bank.accounts a JOIN sz-trade.{offer} c ON a.company_id = c.company_id "


def companies() -> pa.Table:
    ids = [f"C{n:03d}" for n in range(40)]
    return pa.table(
        {
            "company_id": [*ids, None],
            "name": [None if n == 4 else f"公司{n}" for n in range(40)] + ["no key"],
            "city": [["深圳", "Dongguan", ""][n % 3] for n in range(40)] + ["nowhere"],
            "phone": [f"138{n:08d}" for n in range(40)] + ["0"],
            "founded": pa.array([date(1950 + 2 * n, 1 + n % 12, 3) for n in range(40)] + [None], pa.date32()),
            "capital": pa.array(
                [Decimal(n * 731) + Decimal("0.25") for n in range(40)] + [None], pa.decimal128(12, 2)
            ),
            "secret": ["SECRET"] * 41,
        }
    )


def accounts() -> pa.Table:
    """Two accounts for one company, spelt differently; some with no company, some with no counterpart."""
    ids = [f" c{n:03d}" for n in range(0, 60, 5)] + ["C005 ", None]
    return pa.table(
        {
            "company_id": ids,
            "account": range(100, 100 + len(ids)),
            "rating": ["AB"[n % 2] for n in range(len(ids))],
        }
    )


@pytest.fixture(scope="module")
def space(shared):
    owner = {
        offer: POLICY.format(offer=offer, minimum=minimum, masking=masks)
        for offer, minimum, masks in (
            ("plain", 3, ""),
            ("strict", 9, ""),
            ("masked", 3, MASKING),
            ("again", 3, MASKING),
        )
    }
    offers = ", ".join(f"{offer}: {offer}.yaml" for offer in owner)
    shared.publish(OWNER, "companies", companies(), COMPANIES.format(offers=offers), owner)
    shared.publish(ASKER, "accounts", accounts(), ACCOUNTS, {"accounts": OWN_POLICY})
    for offer in ("plain", "strict", "masked", "again"):
        shared.agree(offer)
    return shared


@pytest.fixture(scope="module")
def duck():
    import duckdb

    connection = duckdb.connect()
    for name, table in (("c", companies()), ("a", accounts())):
        connection.register(f"raw_{name}", table)
        connection.execute(
            f"CREATE TABLE {name} AS SELECT * REPLACE (lower(trim(company_id)) AS company_id) FROM raw_{name}"
        )
    yield lambda sql: connection.sql(sql).to_arrow_table().to_pylist()
    connection.close()


PLAIN = "FROM a JOIN c ON a.company_id = c.company_id "
LISTS = {
    "columns of both": (
        "SELECT a.account, c.name, c.city, c.phone, c.founded, c.capital ",
        "ORDER BY a.account",
    ),
    "key only": ("SELECT a.account ", "ORDER BY 1"),
    "the owner's filter": ("SELECT a.account, c.capital ", "WHERE c.capital > 10000 ORDER BY c.capital DESC"),
    "the asker's filter": (
        "SELECT c.name, a.rating ",
        "WHERE a.rating = 'A' ORDER BY a.account DESC LIMIT 3",
    ),
    "distinct": ("SELECT DISTINCT c.city ", "ORDER BY c.city"),
    "functions": (
        "SELECT a.account, upper(c.city) AS u, date_trunc('year', c.founded) AS y ",
        "ORDER BY c.capital, a.account",
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_equal_plaintext(space, duck, name):
    head, tail = LISTS[name]
    answer = space.asker.query(head + JOIN.format(offer="plain") + tail, PURPOSE)
    assert answer.table.to_pylist() == duck(head + PLAIN + tail)
    assert answer.summary["protocol"] == "psi_list"
    assert answer.summary["disclosure"] == "rows"
    assert answer.suppressed == 0


def test_using_shows_the_askers_spelling_and_semi_join_lists_either_side(space):
    sql = "SELECT company_id, c.name " + USING.format("JOIN") + "ORDER BY account"
    answer = space.asker.query(sql, PURPOSE)
    assert answer.table["company_id"].to_pylist()[:2] == [" c000", " c005"]
    answer = space.asker.query("SELECT c.name " + USING.format("SEMI JOIN") + "ORDER BY c.phone", PURPOSE)
    assert answer.table["name"].to_pylist() == [f"公司{n}" for n in range(0, 40, 5)]
    answer = space.asker.query(
        "SELECT a.account FROM hk-bank.accounts a WHERE EXISTS "
        "(SELECT 1 FROM sz-trade.plain c WHERE c.company_id = a.company_id) ORDER BY 1",
        PURPOSE,
    )
    assert answer.table["account"].to_pylist() == [*range(100, 108), 112]


def test_too_few_matches_release_nothing(space):
    answer = space.asker.query("SELECT a.account, c.name " + JOIN.format(offer="strict"), PURPOSE)
    assert (answer.table.num_rows, answer.suppressed) == (0, 1)


@pytest.mark.parametrize(("offer", "counted"), [("plain", [8]), ("strict", [])])
def test_a_count_of_the_overlap_is_gated_before_the_asker_learns_a_match(space, offer, counted):
    answer = space.asker.query(
        "SELECT count(DISTINCT c.company_id) AS n " + JOIN.format(offer=offer), PURPOSE
    )
    assert answer.summary["protocol"] == "psi_count"
    assert answer.summary["disclosure"] == "cardinality"
    assert answer.table["n"].to_pylist() == counted
    assert answer.suppressed == (0 if counted else 1)


def test_the_evidence_says_rows_and_a_rounded_count(space):
    answer = space.asker.query("SELECT a.account, c.name " + JOIN.format(offer="plain"), PURPOSE)
    verified = verify_files(answer.receipt.bundle, trust_file(space.nodes[ASKER].config))
    release = verified.items[1]
    assert dict(release.disclosed.figures) == {"keys-listed-at-most": 8, "cells-suppressed": 0}
    reveals = {(reveal.party, reveal.what) for reveal in release.record.data.reveals}
    assert (ASKER, "matched-rows") in reveals
    assert (ASKER, "own-matches") in reveals
    assert (OWNER, "cell-match-counts+ungated") in reveals


def test_masked_values_are_all_that_leaves(space, duck):
    columns = "a.account, c.name, c.city, c.phone, c.founded, c.capital "
    answer = space.asker.query(
        f"SELECT {columns}" + JOIN.format(offer="masked") + "ORDER BY a.account", PURPOSE
    )
    plain = duck(f"SELECT {columns}{PLAIN} ORDER BY a.account")
    hashes = {}
    for row, truth in zip(answer.table.to_pylist(), plain, strict=True):
        assert row["name"] == (None if truth["name"] is None else "公*")
        assert row["phone"] == "*" + truth["phone"][-4:]
        assert row["founded"] == truth["founded"].replace(month=1, day=1)
        assert row["capital"] == truth["capital"] // 1000 * 1000
        assert len(row["city"]) == 32
        assert hashes.setdefault(row["city"], truth["city"]) == truth["city"]
    assert len(hashes) == 3
    again = space.asker.query("SELECT DISTINCT c.city " + JOIN.format(offer="again"), PURPOSE)
    assert not {r["city"] for r in again.table.to_pylist()} & set(hashes)


def test_masks_stand_before_filters_groups_and_sums(space):
    one = space.asker.query(
        "SELECT c.founded, count(*) AS n, sum(c.capital) AS s FROM sz-trade.masked c "
        "WHERE c.capital >= 20000 GROUP BY c.founded",
        PURPOSE,
    )
    assert one.table.num_rows == 0  # one company a year: all held back
    total = space.asker.query("SELECT sum(c.capital) AS s FROM sz-trade.masked c", PURPOSE)
    assert total.table["s"].to_pylist() == [sum(Decimal(n * 731 // 1000 * 1000) for n in range(40))]


def test_explain_names_masks_paddings_and_who_learns_what(space):
    found = space.asker.explain("SELECT a.account, c.name, c.phone " + JOIN.format(offer="masked"), PURPOSE)
    assert (found["verdict"], found["kind"]) == ("permit", "list")
    masks = {row["column"]: row["mask"] for row in found["columns"] if row["dataset"] == "sz-trade.masked"}
    assert masks == {"company_id": None, "name": "keep-first-1", "phone": "keep-last-4"}
    owner = next(side for side in found["plan"] if side["dataset"] == "sz-trade.masked")
    assert owner["padded"] == {'"name"': 5, '"phone"': 17}
    assert owner["lists"] == ['"name"', '"phone"']
    learns = " ".join(event["sentence"] for event in found["learns"])
    assert "agreed columns of sz-trade's matched rows, after the owner's thresholds" in learns
    assert json.dumps(found)


REFUSED = {
    "not in the payload": ("SELECT c.secret " + JOIN, PolicyRefusal, "list.column-not-allowed"),
    "the owner's key": ("SELECT c.company_id " + JOIN, QueryError, "query.list-key"),
    "ordered by what is not listed": ("SELECT a.account " + JOIN + "ORDER BY c.secret", PolicyRefusal, None),
    "a function": ("SELECT lower(c.name) " + JOIN, PolicyRefusal, "function.not-allowed"),
    "a filter": ("SELECT a.account " + JOIN + "WHERE c.name = 'x'", PolicyRefusal, "filter.not-allowed"),
    "alone": ("SELECT c.name FROM sz-trade.{offer} c", QueryError, "query.not-grouped"),
    "both sides": ("SELECT a.account + c.capital " + JOIN, QueryError, "query.both-sides"),
    "repeating keys": (
        "SELECT a.account FROM hk-bank.accounts a JOIN sz-trade.matched m ON a.company_id = m.company_id",
        QueryError,
        "query.list-key-repeats",
    ),
    "distinct in another order": (
        "SELECT DISTINCT a.rating " + JOIN + "ORDER BY a.account",
        QueryError,
        "query.distinct-order",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(space, name):
    sql, kind, code = REFUSED[name]
    with pytest.raises(kind) as caught:
        space.asker.query(sql.format(offer="plain"), PURPOSE)
    codes = {caught.value.code}
    if isinstance(caught.value, PolicyRefusal):
        codes = {reason.code for reason in caught.value.decision.because}
    assert (code or "list.column-not-allowed") in codes


BAD = {
    "masking: {name: year}": "masking.type",
    "masking: {capital: keep-last-4}": "masking.type",
    "masking: {phone: step-10}": "masking.type",
    "masking: {capital: step-0.001}": "masking.type",
    "masking: {capital: step-10000000000}": "masking.type",
}


@pytest.mark.parametrize("line", BAD)
def test_masks_that_do_not_fit_are_refused_when_published(space, line):
    settings = config.load(space.folder / OWNER)
    (settings.policies_folder / "bad.yaml").write_text(
        POLICY.format(offer="bad", minimum=3, masking=line + "\n")
    )
    refused(settings, "companies.yaml", COMPANIES.format(offers="bad: bad.yaml"), ConfigError, BAD[line])


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("width: 40", "", ConfigError),
        ("name: {type: string, width: 40}", "name: {type: string, width: 6}", DataError),
    ],
)
def test_listed_text_needs_a_width_that_holds(space, before, after, kind):
    settings = config.load(space.folder / OWNER)
    (settings.policies_folder / "bad.yaml").write_text(POLICY.format(offer="bad", minimum=3, masking=""))
    text = COMPANIES.format(offers="bad: bad.yaml").replace(before, after).replace("string, }", "string}")
    refused(settings, "companies.yaml", text, kind, "dataset.width")


def refused(settings, file, text, kind, code):
    path = settings.datasets_folder / file
    kept = path.read_text()
    path.write_text(text)
    store = Store.open(settings.state_url)
    try:
        with pytest.raises(kind) as caught:
            datasets.add(settings, store, "companies")
    finally:
        store.close()
        path.write_text(kept)
    assert caught.value.code == code
