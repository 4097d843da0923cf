"""Shapes of joint questions across two real connectors, over TPC-H's tables: answers equal DuckDB on the pooled
tables, and policies judge what each shape does."""

# ruff: noqa: E501 - one question a line

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from compute.errors import PolicyRefusal, QueryError

pytestmark = pytest.mark.deep  # the same shapes run in memory in tests/compute/test_shapes.py

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
POLICY = """\
policy: {offer}-v1
dataset: sz-trade.{offer}
assignee: [hk-bank]
purpose: [credit-risk]
uses: {{count: 1000, per: month}}
analysis:
  kinds: [aggregate]
  join: {{columns: [orderkey], disclosure: cardinality{required}}}
  dimensions: [shipmode, returnflag]
  filters: {{shipdate: range, commitdate: [range, column], receiptdate: [range, column]}}
  measures: {{"*": [count], orderkey: [count], price: [sum, avg], discount: [sum], quantity: [histogram]}}
  scalar_functions: [arithmetic, product]
  identity: orderkey
  minimum_identities: 5
"""
LINES = """\
title: {en: Lines, zh: 明细}
source: {kind: parquet, path: ../data/lines.parquet}
rights: {holder: sz-trade}
columns:
  orderkey: {type: int64, key: []}
  shipmode: {type: string}
  returnflag: {type: string}
  quantity: {type: "decimal(15,2)", bounds: [0, 64]}
  price: {type: "decimal(15,2)", bounds: [0, 200000]}
  discount: {type: "decimal(15,2)", bounds: [0, 1]}
  shipdate: {type: date}
  commitdate: {type: date}
  receiptdate: {type: date}
offers: {lines: lines.yaml, overlap: overlap.yaml}
"""
OWN = """\
policy: orders-v1
dataset: hk-bank.orders
assignee: [hk-bank]
purpose: [credit-risk]
uses: {count: 1000}
analysis:
  kinds: [aggregate]
  join: {columns: [orderkey], disclosure: cardinality}
"""
ORDERS = """\
title: {en: Orders, zh: 订单}
source: {kind: parquet, path: ../data/orders.parquet}
rights: {holder: hk-bank}
columns:
  orderkey: {type: int64, key: [], unique: true}
  priority: {type: string}
  orderdate: {type: date}
offers: {orders: orders.yaml}
"""
TABLES = {
    "lines": """SELECT l_orderkey AS orderkey, l_shipmode AS shipmode, l_returnflag AS returnflag, l_quantity AS quantity,
                l_extendedprice AS price, l_discount AS discount, l_shipdate AS shipdate, l_commitdate AS commitdate,
                l_receiptdate AS receiptdate FROM lineitem""",
    # the asker has three in four of the orders
    "orders": """SELECT o_orderkey AS orderkey, o_orderpriority AS priority, o_orderdate AS orderdate FROM orders
                 WHERE o_orderkey % 4 > 0""",
}


@pytest.fixture(scope="module")
def plaintext(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tpch")
    tool = Path(sys.executable).with_name("tpchgen-cli")
    command = [tool, "parquet", "-s", "0.001", f"--output-dir={folder}", "--quiet", "-T", "orders,lineitem"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    connection = duckdb.connect()
    for name in ("orders", "lineitem"):
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM '{folder}/{name}.parquet'")
    for name, sql in TABLES.items():
        connection.execute(f"CREATE VIEW {name}_ AS {sql}")
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory, space_builder, plaintext):
    folder = tmp_path_factory.mktemp("shapes")
    made = space_builder(folder, start=False)
    required = {"lines": "", "overlap": ", required: asker"}
    policies = {offer: POLICY.format(offer=offer, required=words) for offer, words in required.items()}
    lines, orders = (plaintext.table(f"{name}_").to_arrow_table() for name in ("lines", "orders"))
    made.publish(OWNER, "lines", lines, LINES, policies)
    made.publish(ASKER, "orders", orders, ORDERS, {"orders": OWN})
    made.start_witness()
    for name in (OWNER, ASKER):
        made.start(name)
    for offer in required:
        made.agree(offer)
    yield made
    made.close()


QUESTIONS = [
    # TPC-H 4
    """SELECT o.priority, count(*) AS n FROM {orders} o WHERE o.orderdate >= DATE '1993-07-01' AND o.orderdate < DATE '1994-07-01'
       AND EXISTS (SELECT * FROM {lines} l WHERE l.orderkey = o.orderkey AND l.commitdate < l.receiptdate) GROUP BY 1 ORDER BY 1""",
    # TPC-H 12, by groups
    """SELECT l.shipmode, o.priority IN ('1-URGENT', '2-HIGH') AS high, count(*) AS n, sum(l.price * (1 - l.discount)) AS revenue
       FROM {orders} o JOIN {lines} l ON o.orderkey = l.orderkey
       WHERE l.shipmode IN ('MAIL', 'SHIP') AND l.commitdate < l.receiptdate AND l.receiptdate >= DATE '1994-01-01' GROUP BY 1, 2 ORDER BY 1, 2""",
    "SELECT l.returnflag, count(*) AS n, sum(l.price) AS s FROM {lines} l ANTI JOIN {orders} o ON l.orderkey = o.orderkey GROUP BY 1 ORDER BY 1",
    "SELECT o.priority, count(*) AS n, avg(l.price) AS a FROM {lines} l LEFT JOIN {orders} o ON l.orderkey = o.orderkey AND o.orderdate < DATE '1995-01-01' GROUP BY 1 ORDER BY 1 NULLS LAST",
    "SELECT o.priority, count(*) AS n, count(l.orderkey) AS m, sum(l.price) AS s FROM {orders} o LEFT JOIN {lines} l ON l.orderkey = o.orderkey AND l.shipdate < DATE '1995-01-01' GROUP BY 1 ORDER BY 1",
]


@pytest.mark.parametrize("sql", QUESTIONS)
def test_answers_equal_duckdb(two, plaintext, sql):
    answer = two.asker.query(sql.format(lines=f"{OWNER}.lines", orders=f"{ASKER}.orders"), PURPOSE)
    truth = plaintext.sql(sql.format(lines="lines_", orders="orders_")).to_arrow_table()
    assert answer.suppressed == 0
    assert rounded(answer.table) == rounded(truth)


def rounded(table):
    return [
        {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in table.to_pylist()
    ]


def test_buckets_need_their_permission_only(two, plaintext):
    sql = "SELECT {} AS b, count(*) AS n FROM {} l SEMI JOIN {} o ON l.orderkey = o.orderkey GROUP BY b ORDER BY b"
    buckets = "width_bucket(l.quantity, [10, 20, 40])"
    answer = two.asker.query(sql.format(buckets, f"{OWNER}.lines", f"{ASKER}.orders"), PURPOSE)
    plain = "(l.quantity >= 10)::BIGINT + (l.quantity >= 20)::BIGINT + (l.quantity >= 40)::BIGINT"
    assert (
        answer.table.to_pylist()
        == plaintext.sql(sql.format(plain, "lines_", "orders_")).to_arrow_table().to_pylist()
    )
    with pytest.raises(PolicyRefusal) as refused:
        two.asker.query(sql.format("l.quantity", f"{OWNER}.lines", f"{ASKER}.orders"), PURPOSE)
    assert [reason.code for reason in refused.value.decision.because] == ["dimension.not-allowed"]


def test_arithmetic_over_groups_that_leaves_64_bits_fails_by_its_code_and_on_record(two):
    sql = f"SELECT year(o.orderdate) * 999999999999999999 AS x, count(*) AS n FROM {ASKER}.orders o JOIN {OWNER}.lines l ON l.orderkey = o.orderkey GROUP BY year(o.orderdate)"
    with pytest.raises(QueryError, match="AS DOUBLE") as refused:
        two.asker.query(sql, PURPOSE)
    assert refused.value.code == "query.overflow"
    assert two.evidence(ASKER)[-1][-1] == "query.failure"
    answer = two.asker.query(sql.replace("* 9", "* CAST(9").replace(" AS x", " AS DOUBLE) AS x"), PURPOSE)
    assert answer.table.num_rows > 5


@pytest.mark.parametrize("sql", [QUESTIONS[2], QUESTIONS[3]])
def test_where_a_join_is_required_rows_without_a_match_are_refused(two, sql):
    with pytest.raises(PolicyRefusal) as refused:
        two.asker.query(sql.format(lines=f"{OWNER}.overlap", orders=f"{ASKER}.orders"), PURPOSE)
    assert [(r.code, r.allowed) for r in refused.value.decision.because] == [
        ("join.required", "rows that match: JOIN, SEMI JOIN, EXISTS")
    ]
