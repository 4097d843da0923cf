"""Datasets: nothing is guessed, everything declared is checked, and only rounded figures leave."""

from __future__ import annotations

import datetime as dt
import json
import os
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compute.dataset import DatasetInfo
from compute.engine import Limits, locked
from compute.errors import ConfigError, DataError
from connector import config, datasets
from connector.storage import Store
from policy_enforcer.disclosure import Level
from policy_enforcer.problems import PolicyError
from witness import canonical

POLICY = """\
policy: {offer}-v1
dataset: sz-trade.{offer}
assignee: [hk-bank]
purpose: [credit-risk]
uses: {{count: 100, per: month}}
analysis:
  kinds: [aggregate]
  join: {{columns: [company_id], disclosure: {level}, required: asker, operators: [and]}}
  dimensions: [industry]
  measures: {{amount: [sum, avg, count]}}
  identity: company_id
  minimum_identities: 10
"""

DESCRIPTION = """\
title: {en: "Invoices", zh: "发票"}
source: {kind: parquet, path: ../data/invoices.parquet}
rights: {holder: "sz-trade", may_process: ["hk-bank"], may_trade: []}
quality: [nulls, distinct, freshness]
columns:
  company_id: {type: string, key: [trim, nfkc], grade: 2, description: {en: "code", zh: "统一社会信用代码"}}
  invoice: {type: int64, unique: true, nullable: false}
  industry: {type: string}
  amount: {type: "decimal(12,2)", bounds: [0, 1000000.50]}
offers: {invoices: invoices.yaml, invoices_matched: matched.yaml}
"""


def table(rows=300):
    return pa.table(
        {
            "company_id": [None if n % 100 == 0 else f"C{n % 70}" for n in range(rows)],
            "invoice": pa.array(range(rows), pa.int64()),
            "industry": ["food" if n % 3 else "software" for n in range(rows)],
            "amount": pa.array([Decimal(n) for n in range(rows)], pa.decimal128(12, 2)),
            "secret": ["not described"] * rows,
            "zoned": pa.array([0] * rows, pa.timestamp("us", tz="UTC")),
        }
    )


@pytest.fixture
def node(tmp_path):
    made = config.init(tmp_path / "sz", "sz-trade", "gba", "CN-SZ")
    (made.folder / "data").mkdir()
    pq.write_table(table(), made.folder / "data" / "invoices.parquet")
    for file, offer, level in (
        ("invoices", "invoices", "cardinality"),
        ("matched", "invoices_matched", "receiver"),
    ):
        (made.policies_folder / f"{file}.yaml").write_text(POLICY.format(offer=offer, level=level))
    (made.datasets_folder / "invoices.yaml").write_text(DESCRIPTION)
    store = Store.open(made.state_url)
    yield made, store
    store.close()


def _edit(node, old, new, name="invoices"):
    path = node[0].datasets_folder / f"{name}.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _refused(node, kind, code, name="invoices"):
    with pytest.raises(kind) as caught:
        datasets.add(*node, name)
    assert caught.value.code == code
    assert not node[1].offers()
    return str(caught.value)


def test_two_offers_over_one_table(node):
    added = datasets.add(*node, "invoices")
    assert not added.drafted
    assert [offer.name for offer in added.offers] == ["invoices", "invoices_matched"]
    one, two = (datasets.open_offer(*node, offer.name) for offer in added.offers)
    assert (one.dataset.full_name, one.dataset.disclosure) == ("sz-trade.invoices", Level.CARDINALITY)
    assert (two.dataset.full_name, two.dataset.disclosure) == ("sz-trade.invoices_matched", Level.RECEIVER)
    assert one.dataset.commitment == two.dataset.commitment == added.record.commitment
    assert [column.name for column in one.dataset.columns] == ["company_id", "invoice", "industry", "amount"]
    company, invoice, _, amount = one.dataset.columns
    assert (company.key, company.grade, company.unique) == (("trim", "nfkc"), 2, False)
    assert (invoice.key, invoice.unique, invoice.nullable) == (None, True, False)
    assert amount.bounds == ("0", "1000000.5")
    assert (one.dataset.rows_bound, one.dataset.keys_bound) == (512, 128)
    with locked({"source": one.source}, Limits()) as connection:
        assert connection.sql("SELECT sum(amount) FROM source").fetchall() == [(sum(range(300)),)]


def _bound_by_policy(node, words):
    path = node[0].policies_folder / "invoices.yaml"
    path.write_text(path.read_text() + f"  bounds: {words}\n")


def test_an_offers_policy_narrows_what_sums_are_clamped_to(node):
    _bound_by_policy(node, "{amount: [-5, 200]}")
    datasets.add(*node, "invoices")
    one, two = (datasets.open_offer(*node, name).dataset.column("amount") for name in _OFFERS)
    assert (one.bounds, two.bounds) == (("0", "200"), ("0", "1000000.5"))


@pytest.mark.parametrize("words", ["{amount: [1000001, 1000002]}", "{industry: [0, 1]}"])
def test_bounds_that_cannot_clamp_are_refused(node, words):
    _bound_by_policy(node, words)
    _refused(node, ConfigError, "dataset.bounds")


_OFFERS = ("invoices", "invoices_matched")


def test_the_catalogue_entry_is_canonical_rounded_and_complete(node):
    (offer, _) = datasets.add(*node, "invoices").offers
    entry = canonical.parse(offer.entry)
    assert DatasetInfo.from_json(entry["dataset"]).name == "invoices"
    assert entry["title"] == {"en": "Invoices", "zh": "发票"}
    assert entry["rights"] == {"holder": "sz-trade", "may_process": ["hk-bank"], "may_trade": []}
    assert entry["fresh"] == dt.datetime.now(dt.UTC).date().isoformat()
    company = entry["columns"][0]
    assert (company["nulls"], company["distinct"]) == ("under 5 %", 128)
    assert entry["columns"][1]["nulls"] == "none"
    assert b"not described" not in offer.entry
    figures = offer.entry.replace(entry["dataset"]["commitment"].encode(), b"")
    assert b"300" not in figures, "the exact number of rows stays inside"


def test_figures_are_published_only_where_named(node):
    _edit(node, "quality: [nulls, distinct, freshness]", "quality: []")
    entry = json.loads(datasets.add(*node, "invoices").offers[0].entry)
    assert entry["fresh"] is None
    assert {(c["nulls"], c["distinct"]) for c in entry["columns"]} == {(None, None)}


def test_adding_again_changes_nothing_and_changed_data_makes_a_version(node):
    first = datasets.add(*node, "invoices")
    assert datasets.add(*node, "invoices") == first
    pq.write_table(table(301), node[0].folder / "data" / "invoices.parquet")
    with pytest.raises(DataError, match="changed since it was registered"):
        datasets.open_offer(*node, "invoices")
    second = datasets.add(*node, "invoices")
    assert (first.record.version, second.record.version) == (1, 2)
    assert second.record.commitment != first.record.commitment
    agreed = second.record.commitment
    assert datasets.open_offer(*node, "invoices", agreed).dataset.commitment == agreed
    with pytest.raises(DataError, match="request a new agreement"):
        datasets.open_offer(*node, "invoices", first.record.commitment)
    pq.write_table(table(300), node[0].folder / "data" / "invoices.parquet")
    assert datasets.add(*node, "invoices").record.commitment == first.record.commitment


def test_a_changed_policy_is_a_new_offer_version_over_the_same_data(node):
    first = datasets.add(*node, "invoices")
    path = node[0].policies_folder / "matched.yaml"
    path.write_text(path.read_text().replace("count: 100", "count: 50"))
    second = datasets.add(*node, "invoices")
    assert second.record == first.record
    assert [offer.version for offer in second.offers] == [1, 2]


def test_an_offer_that_is_taken_out_is_withdrawn(node):
    datasets.add(*node, "invoices")
    _edit(node, ", invoices_matched: matched.yaml", "")
    datasets.add(*node, "invoices")
    assert [offer.name for offer in node[1].offers()] == ["invoices"]
    with pytest.raises(ConfigError):
        datasets.open_offer(*node, "invoices_matched")


def test_a_draft_declares_no_key_no_bound_and_no_offer(node):
    source = datasets.source_for(node[0].folder / "data" / "invoices.parquet")
    added = datasets.add(*node, "drafted", source)
    assert added.drafted
    assert added.offers == ()
    text = added.description.read_text()
    description = datasets.load(added.description)
    assert "zoned" not in description.columns
    assert '# "zoned": of a type that no query can touch' in text
    assert all(c.key is None and c.bounds is None and not c.unique for c in description.columns.values())
    assert datasets.add(*node, "drafted").record == added.record
    with pytest.raises(ConfigError, match="there is no nothing"):
        datasets.add(*node, "nothing")


@pytest.mark.parametrize("kind", ["csv", "arrow", "duckdb"])
def test_a_source_that_is_a_stream_is_drafted_checked_and_published(node, kind):
    """Parquet alone is files to DuckDB; every other kind is read as a stream."""
    folder = node[0].folder / "data"
    if kind == "csv":
        (folder / "t.csv").write_text("company,amount\na,1.50\na,2.50\nb,\n")
    source = {"kind": kind, "path": str(folder / f"t.{kind}")}
    if kind == "duckdb":
        source["table"] = "t"
        with duckdb.connect(source["path"]) as connection:
            connection.execute("CREATE TABLE t (company VARCHAR, amount VARCHAR)")
            connection.execute("INSERT INTO t VALUES ('a', '1.50'), ('a', '2.50'), ('b', NULL)")
    if kind == "arrow":
        rows = pa.table({"company": ["a", "a", "b"], "amount": ["1.50", "2.50", None]})
        with pa.ipc.new_stream(source["path"], rows.schema) as writer:
            writer.write_table(rows)
    added = datasets.add(*node, "t", source)
    assert added.drafted
    assert added.record.rows == 3
    assert datasets.add(*node, "t").record == added.record


def test_a_source_that_cannot_be_read_leaves_no_draft(node):
    with pytest.raises(ConfigError):
        datasets.add(*node, "gone", {"kind": "parquet", "path": "nowhere.parquet"})
    with pytest.raises(ConfigError) as caught:
        datasets.add(*node, "gone", {"kind": "postgres", "table": "t", "uri": "postgresql://u:hunter2@h/d"})
    assert "hunter2" not in str(caught.value)
    assert not (node[0].datasets_folder / "gone.yaml").exists()


@pytest.mark.parametrize(
    ("old", "new", "kind", "code"),
    [
        ("bounds: [0, 1000000.50]", "bounds: [0, 298.99]", DataError, "dataset.bounds"),
        ("bounds: [0, 1000000.50]", "bounds: [1, 1000]", DataError, "dataset.bounds"),
        ("bounds: [0, 1000000.50]", "bounds: [1000, 1]", ConfigError, "dataset.bounds"),
        ("industry: {type: string}", "industry: {type: string, unique: true}", DataError, "dataset.unique"),
        (
            "industry: {type: string}",
            "industry: {type: string, bounds: [0, 1]}",
            ConfigError,
            "dataset.bounds",
        ),
        ("industry: {type: string}", "industry: {type: string, scale: 2}", ConfigError, "dataset.scale"),
        ("industry: {type: string}", "industry: {type: int64}", ConfigError, "dataset.type"),
        ("industry: {type: string}", "industry: {type: text}", ConfigError, "dataset.type"),
        ("industry: {type: string}", "sector: {type: string}", PolicyError, None),
        ("  invoice:", "  invoce:", ConfigError, "dataset.column"),
        ("  invoice:", "  zoned:", ConfigError, "dataset.column"),
        ("grade: 2,", "grade: 2, nullable: false,", DataError, "dataset.null"),
        ("key: [trim, nfkc], ", "", ConfigError, "dataset.not-a-key"),
        ('{type: "decimal(12,2)", ', '{type: "decimal(12,2)", key: [], ', ConfigError, "key.type"),
        ("quality:", "size: {rows: 299}\nquality:", DataError, "dataset.size"),
        ("quality:", "size: {keys: 69}\nquality:", DataError, "dataset.size"),
        ("invoices: invoices.yaml", "invoices: none.yaml", ConfigError, "dataset.policy"),
        ("invoices: invoices.yaml", "invoices: matched.yaml", ConfigError, "dataset.policy"),
        ("invoices: invoices.yaml", "Invoices: invoices.yaml", ConfigError, "dataset.name"),
    ],
)
def test_what_does_not_hold_is_refused_and_nothing_is_registered(node, old, new, kind, code):
    _edit(node, old, new)
    if kind is PolicyError:
        with pytest.raises(PolicyError, match="no such column"):
            datasets.add(*node, "invoices")
        return
    message = _refused(node, kind, code)
    assert "299" not in message.replace("[0, 299", "")
    assert "C6" not in message


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("grade: 2", "grad: 2", "invoices.yaml:6: columns.company_id.grad: unknown key"),
        ("unique: true", 'unique: "true"', "invoices.yaml:7: columns.invoice.unique"),
        ("path: ../data/invoices.parquet", "pth: x", "invoices.yaml:2: source.pth: unknown key"),
        ("[trim, nfkc]", "[trim, guess]", "invoices.yaml:6: columns.company_id.key.1"),
        ("grade: 2", "grade: no", "6:"),
        ("  industry: {type: string}", "  invoice: {type: string}", "8:"),
    ],
)
def test_mistakes_in_a_description_are_named_with_line_and_key(node, old, new, place):
    _edit(node, old, new)
    assert place in _refused(node, ConfigError, "dataset.description")


def test_keys_that_are_one_after_normalisation_are_not_unique(node):
    rows = pa.table({"id": ["a", "Ａ ", "b"], "x": [0.5, 1.0, float("nan")]})
    pq.write_table(rows, node[0].folder / "data" / "t.parquet")
    path = node[0].datasets_folder / "t.yaml"
    text = (
        'title: {en: "t"}\nsource: {kind: parquet, path: ../data/t.parquet}\nrights: {holder: "sz"}\n'
        "columns: {id: {type: string, unique: true, key: [trim, nfkc]}, x: {type: float64}}\n"
    )
    path.write_text(text)
    datasets.add(*node, "t")
    path.write_text(text.replace("[trim, nfkc]", "[trim, nfkc, casefold]"))
    _refused(node, DataError, "dataset.unique", "t")
    path.write_text(text.replace("x: {type: float64}", "x: {type: float64, bounds: [0, 1]}"))
    _refused(node, DataError, "dataset.bounds", "t")


def test_two_datasets_cannot_share_an_offer_name(node):
    datasets.add(*node, "invoices")
    path = node[0].datasets_folder / "other.yaml"
    path.write_text(DESCRIPTION)
    with pytest.raises(ConfigError) as caught:
        datasets.add(*node, "other")
    assert caught.value.code == "dataset.offer-taken"
    assert node[1].dataset("other") is None


def test_a_touched_source_is_noticed(node):
    datasets.add(*node, "invoices")
    file = node[0].folder / "data" / "invoices.parquet"
    os.utime(file, (1, 1))
    with pytest.raises(DataError) as caught:
        datasets.open_dataset(*node, "invoices")
    assert caught.value.code == "dataset.changed"
    with pytest.raises(ConfigError):
        datasets.open_dataset(*node, "nothing")


@pytest.mark.parametrize(
    ("count", "bucket"), [(0, 1), (1, 1), (2, 2), (3, 4), (1 << 20, 1 << 20), ((1 << 20) + 1, 1 << 21)]
)
def test_buckets(count, bucket):
    assert datasets._bucket(count) == bucket


def test_a_file_says_what_it_is(tmp_path):
    for name, kind in (("a.csv", "csv"), ("a.arrows", "arrow"), ("a.parquet", "parquet")):
        (tmp_path / name).touch()
        assert datasets.source_for(tmp_path / name)["kind"] == kind
    (tmp_path / "a.txt").touch()
    for path in (tmp_path / "a.txt", tmp_path):
        with pytest.raises(ConfigError):
            datasets.source_for(path)
