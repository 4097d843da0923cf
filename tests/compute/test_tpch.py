"""TPC-H with customers and orders at one party, lineitem, part and supplier at the other (docs/reference/tpc-h.md).

Every query whose answer is an aggregate over one cross-party join runs through planner and protocol, and
equals DuckDB on the benchmark's own tables. What several tables of one party bring, their owner publishes
as one dataset.
"""

# ruff: noqa: E501 - one line a clause

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from compute.dataset import Column, DatasetInfo
from compute.engine import Limits
from compute.finish import finish
from compute.inputs import Cells, Context
from compute.local import aggregate, join_input
from compute.planner import prepare
from compute.protocols.base import run_pair
from policy_enforcer.disclosure import Level
from policy_enforcer.obligations import NOTHING_DEMANDED

LIMITS = Limits(threads=2)
PARTS = 16  # of the orders of scale factor 0.01, one in sixteen is kept, so that a query takes a moment

ORDERS = """
SELECT o_orderkey AS orderkey, c_nationkey AS nationkey, c_custkey AS custkey, c_name AS customer, c_mktsegment AS segment,
       n_name AS nation, r_name AS region, o_orderdate AS orderdate, o_orderpriority AS priority,
       o_orderstatus AS status, o_shippriority::BIGINT AS shippriority, o_totalprice AS totalprice
FROM orders JOIN customer ON o_custkey = c_custkey JOIN nation ON c_nationkey = n_nationkey
     JOIN region ON n_regionkey = r_regionkey"""
LINES = """
SELECT l_orderkey AS orderkey, s_nationkey AS nationkey, n_name AS nation, r_name AS region, p_type AS type, p_name AS part,
       l_quantity AS quantity, l_extendedprice AS price, l_discount AS discount, l_tax AS tax, ps_supplycost AS supplycost,
       l_returnflag AS returnflag, l_linestatus AS linestatus, l_shipdate AS shipdate, l_commitdate AS commitdate,
       l_receiptdate AS receiptdate, l_shipmode AS shipmode
FROM lineitem JOIN part ON l_partkey = p_partkey JOIN supplier ON l_suppkey = s_suppkey
     JOIN partsupp ON ps_partkey = l_partkey AND ps_suppkey = l_suppkey
     JOIN nation ON s_nationkey = n_nationkey JOIN region ON n_regionkey = r_regionkey"""
LATE = """
SELECT l.l_orderkey AS orderkey, s_name AS supplier, n_name AS nation
FROM lineitem l JOIN supplier ON l.l_suppkey = s_suppkey JOIN nation ON s_nationkey = n_nationkey
WHERE l.l_receiptdate > l.l_commitdate
  AND EXISTS (SELECT 1 FROM lineitem m WHERE m.l_orderkey = l.l_orderkey AND m.l_suppkey <> l.l_suppkey)
  AND NOT EXISTS (SELECT 1 FROM lineitem m WHERE m.l_orderkey = l.l_orderkey AND m.l_suppkey <> l.l_suppkey
                  AND m.l_receiptdate > m.l_commitdate)"""
FILLED = "SELECT l_orderkey AS orderkey, sum(l_quantity)::DECIMAL(15,2) AS quantity FROM lineitem GROUP BY 1"

VIEWS = {"shop.orders": ORDERS, "trade.lines": LINES, "trade.late": LATE, "trade.filled": FILLED}
"""What each owner publishes, as its own SQL over its own tables."""

KEYS = ("orderkey", "nationkey")
UNIQUE = {("shop.orders", "orderkey"), ("trade.filled", "orderkey")}
BOUNDS = {
    "quantity": ("0", "400"),
    "price": ("0", "200000"),
    "discount": ("0", "1"),
    "tax": ("0", "1"),
    "supplycost": ("0", "10000"),
    "totalprice": ("0", "1000000"),
}

CROSS: dict[str, tuple[str, str]] = {
    "Q3": (
        """SELECT o.orderkey AS o, sum(l.price * (1 - l.discount)) AS revenue, o.orderdate, o.shippriority
           FROM shop.orders o JOIN trade.lines l ON o.orderkey = l.orderkey
           WHERE o.segment = 'BUILDING' AND o.orderdate < DATE '1995-03-15' AND l.shipdate > DATE '1995-03-15'
           GROUP BY o.orderkey, o.orderdate, o.shippriority ORDER BY revenue DESC, o.orderdate LIMIT 10""",
        """SELECT l_orderkey, sum(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate, o_shippriority::BIGINT
           FROM customer, orders, lineitem
           WHERE c_mktsegment = 'BUILDING' AND c_custkey = o_custkey AND l_orderkey = o_orderkey
             AND o_orderdate < DATE '1995-03-15' AND l_shipdate > DATE '1995-03-15'
           GROUP BY l_orderkey, o_orderdate, o_shippriority ORDER BY revenue DESC, o_orderdate LIMIT 10""",
    ),
    "Q4": (
        """SELECT o.priority, count(*) AS n FROM shop.orders o
           WHERE o.orderdate >= DATE '1993-07-01' AND o.orderdate < DATE '1993-07-01' + INTERVAL '3' MONTH
             AND EXISTS (SELECT * FROM trade.lines l WHERE l.orderkey = o.orderkey AND l.commitdate < l.receiptdate)
           GROUP BY o.priority ORDER BY o.priority""",
        """SELECT o_orderpriority, count(*) FROM orders
           WHERE o_orderdate >= DATE '1993-07-01' AND o_orderdate < DATE '1993-07-01' + INTERVAL '3' MONTH
             AND EXISTS (SELECT * FROM lineitem WHERE l_orderkey = o_orderkey AND l_commitdate < l_receiptdate)
           GROUP BY o_orderpriority ORDER BY o_orderpriority""",
    ),
    "Q5": (
        """SELECT l.nation, sum(l.price * (1 - l.discount)) AS revenue
           FROM shop.orders o JOIN trade.lines l ON o.orderkey = l.orderkey AND o.nationkey = l.nationkey
           WHERE l.region = 'ASIA' AND o.orderdate >= DATE '1994-01-01' AND o.orderdate < DATE '1995-01-01'
           GROUP BY l.nation ORDER BY revenue DESC""",
        """SELECT n_name, sum(l_extendedprice * (1 - l_discount)) AS revenue
           FROM customer, orders, lineitem, supplier, nation, region
           WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND l_suppkey = s_suppkey AND c_nationkey = s_nationkey
             AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = 'ASIA'
             AND o_orderdate >= DATE '1994-01-01' AND o_orderdate < DATE '1995-01-01'
           GROUP BY n_name ORDER BY revenue DESC""",
    ),
    "Q7": (
        """SELECT l.nation AS supp_nation, o.nation AS cust_nation, year(l.shipdate) AS l_year, sum(l.price * (1 - l.discount)) AS revenue
           FROM shop.orders o JOIN trade.lines l ON o.orderkey = l.orderkey
           WHERE l.nation IN ('FRANCE', 'GERMANY') AND o.nation IN ('FRANCE', 'GERMANY')
             AND l.shipdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31'
           GROUP BY supp_nation, cust_nation, l_year HAVING l.nation <> o.nation ORDER BY 1, 2, 3""",
        """SELECT n1.n_name, n2.n_name, extract(year FROM l_shipdate), sum(l_extendedprice * (1 - l_discount)) AS revenue
           FROM supplier, lineitem, orders, customer, nation n1, nation n2
           WHERE s_suppkey = l_suppkey AND o_orderkey = l_orderkey AND c_custkey = o_custkey
             AND s_nationkey = n1.n_nationkey AND c_nationkey = n2.n_nationkey
             AND ((n1.n_name = 'FRANCE' AND n2.n_name = 'GERMANY') OR (n1.n_name = 'GERMANY' AND n2.n_name = 'FRANCE'))
             AND l_shipdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31'
           GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
    ),
    "Q8": (
        """SELECT year(o.orderdate) AS o_year, sum(l.price * (1 - l.discount)) FILTER (WHERE l.nation = 'BRAZIL') / sum(l.price * (1 - l.discount)) AS share
           FROM shop.orders o JOIN trade.lines l ON o.orderkey = l.orderkey
           WHERE o.region = 'AMERICA' AND o.orderdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31' AND l.type LIKE '%STEEL'
           GROUP BY o_year ORDER BY o_year""",
        """SELECT extract(year FROM o_orderdate) AS y,
                  sum(l_extendedprice * (1 - l_discount)) FILTER (WHERE n2.n_name = 'BRAZIL') / sum(l_extendedprice * (1 - l_discount))
           FROM part, supplier, lineitem, orders, customer, nation n1, nation n2, region
           WHERE p_partkey = l_partkey AND s_suppkey = l_suppkey AND l_orderkey = o_orderkey AND o_custkey = c_custkey
             AND c_nationkey = n1.n_nationkey AND n1.n_regionkey = r_regionkey AND r_name = 'AMERICA' AND s_nationkey = n2.n_nationkey
             AND o_orderdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31' AND p_type LIKE '%STEEL'
           GROUP BY y ORDER BY y""",
    ),
    "Q9": (
        """SELECT l.nation, year(o.orderdate) AS o_year, sum(l.price * (1 - l.discount) - l.supplycost * l.quantity) AS profit
           FROM shop.orders o JOIN trade.lines l ON o.orderkey = l.orderkey WHERE l.part LIKE '%green%'
           GROUP BY l.nation, o_year ORDER BY 1, 2 DESC""",
        """SELECT n_name, extract(year FROM o_orderdate) AS y, sum(l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity)
           FROM part, supplier, lineitem, partsupp, orders, nation
           WHERE s_suppkey = l_suppkey AND ps_suppkey = l_suppkey AND ps_partkey = l_partkey AND p_partkey = l_partkey
             AND o_orderkey = l_orderkey AND s_nationkey = n_nationkey AND p_name LIKE '%green%'
           GROUP BY n_name, y ORDER BY 1, 2 DESC""",
    ),
    "Q10": (
        """SELECT o.custkey, o.customer, o.nation, sum(l.price * (1 - l.discount)) AS revenue
           FROM shop.orders o JOIN trade.lines l ON o.orderkey = l.orderkey
           WHERE o.orderdate >= DATE '1993-10-01' AND o.orderdate < DATE '1994-01-01' AND l.returnflag = 'R'
           GROUP BY ALL ORDER BY revenue DESC LIMIT 20""",
        """SELECT c_custkey, c_name, n_name, sum(l_extendedprice * (1 - l_discount)) AS revenue
           FROM customer, orders, lineitem, nation
           WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND c_nationkey = n_nationkey
             AND o_orderdate >= DATE '1993-10-01' AND o_orderdate < DATE '1994-01-01' AND l_returnflag = 'R'
           GROUP BY ALL ORDER BY revenue DESC LIMIT 20""",
    ),
    "Q12": (
        """SELECT l.shipmode, o.priority IN ('1-URGENT', '2-HIGH') AS high, count(*) AS n
           FROM shop.orders o JOIN trade.lines l ON o.orderkey = l.orderkey
           WHERE l.shipmode IN ('MAIL', 'SHIP') AND l.commitdate < l.receiptdate AND l.shipdate < l.commitdate
             AND l.receiptdate >= DATE '1994-01-01' AND l.receiptdate < DATE '1995-01-01'
           GROUP BY l.shipmode, high ORDER BY 1, 2""",
        """SELECT l_shipmode, o_orderpriority IN ('1-URGENT', '2-HIGH') AS high, count(*)
           FROM orders, lineitem
           WHERE o_orderkey = l_orderkey AND l_shipmode IN ('MAIL', 'SHIP') AND l_commitdate < l_receiptdate
             AND l_shipdate < l_commitdate AND l_receiptdate >= DATE '1994-01-01' AND l_receiptdate < DATE '1995-01-01'
           GROUP BY l_shipmode, high ORDER BY 1, 2""",
    ),
    "Q12 as written": (
        """SELECT l.shipmode, sum(CASE WHEN o.priority = '1-URGENT' OR o.priority = '2-HIGH' THEN 1 ELSE 0 END) AS high,
                  sum(CASE WHEN o.priority <> '1-URGENT' AND o.priority <> '2-HIGH' THEN 1 ELSE 0 END) AS low
           FROM shop.orders o JOIN trade.lines l ON o.orderkey = l.orderkey
           WHERE l.shipmode IN ('MAIL', 'SHIP') AND l.commitdate < l.receiptdate AND l.shipdate < l.commitdate
             AND l.receiptdate >= DATE '1994-01-01' AND l.receiptdate < DATE '1995-01-01'
           GROUP BY l.shipmode ORDER BY l.shipmode""",
        """SELECT l_shipmode, sum(CASE WHEN o_orderpriority = '1-URGENT' OR o_orderpriority = '2-HIGH' THEN 1 ELSE 0 END),
                  sum(CASE WHEN o_orderpriority <> '1-URGENT' AND o_orderpriority <> '2-HIGH' THEN 1 ELSE 0 END)
           FROM orders, lineitem
           WHERE o_orderkey = l_orderkey AND l_shipmode IN ('MAIL', 'SHIP') AND l_commitdate < l_receiptdate
             AND l_shipdate < l_commitdate AND l_receiptdate >= DATE '1994-01-01' AND l_receiptdate < DATE '1995-01-01'
           GROUP BY l_shipmode ORDER BY l_shipmode""",
    ),
    "Q18": (
        """SELECT o.customer, o.custkey, o.orderkey, o.orderdate, o.totalprice, sum(f.quantity) AS quantity
           FROM shop.orders o JOIN trade.filled f ON o.orderkey = f.orderkey WHERE f.quantity > 250
           GROUP BY ALL ORDER BY o.totalprice DESC, o.orderdate LIMIT 100""",
        """SELECT c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice, sum(l_quantity)
           FROM customer, orders, lineitem
           WHERE o_orderkey IN (SELECT l_orderkey FROM lineitem GROUP BY l_orderkey HAVING sum(l_quantity) > 250)
             AND c_custkey = o_custkey AND o_orderkey = l_orderkey
           GROUP BY ALL ORDER BY o_totalprice DESC, o_orderdate LIMIT 100""",
    ),
    "Q21": (
        """SELECT l.supplier, count(*) AS n FROM shop.orders o JOIN trade.late l ON o.orderkey = l.orderkey
           WHERE o.status = 'F' AND l.nation = 'SAUDI ARABIA' GROUP BY l.supplier ORDER BY n DESC, 1 LIMIT 100""",
        """SELECT s_name, count(*) AS n FROM supplier, lineitem l1, orders, nation
           WHERE s_suppkey = l1.l_suppkey AND o_orderkey = l1.l_orderkey AND o_orderstatus = 'F' AND l1.l_receiptdate > l1.l_commitdate
             AND EXISTS (SELECT * FROM lineitem l2 WHERE l2.l_orderkey = l1.l_orderkey AND l2.l_suppkey <> l1.l_suppkey)
             AND NOT EXISTS (SELECT * FROM lineitem l3 WHERE l3.l_orderkey = l1.l_orderkey AND l3.l_suppkey <> l1.l_suppkey
                             AND l3.l_receiptdate > l3.l_commitdate)
             AND s_nationkey = n_nationkey AND n_name = 'SAUDI ARABIA'
           GROUP BY s_name ORDER BY n DESC, 1 LIMIT 100""",
    ),
}
"""Name: our question, and TPC-H's own."""


ALONE: dict[str, tuple[str, str]] = {
    "Q1": (
        """SELECT returnflag, linestatus, sum(quantity), sum(price), sum(price * (1 - discount)),
                  sum(price * (1 - discount) * (1 + tax)), avg(quantity), avg(price), avg(discount), count(*)
           FROM trade.lines WHERE shipdate <= DATE '1998-12-01' - INTERVAL '90' DAY GROUP BY 1, 2 ORDER BY 1, 2""",
        """SELECT l_returnflag, l_linestatus, sum(l_quantity), sum(l_extendedprice), sum(l_extendedprice * (1 - l_discount)),
                  sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)), avg(l_quantity), avg(l_extendedprice), avg(l_discount), count(*)
           FROM lineitem WHERE l_shipdate <= DATE '1998-12-01' - INTERVAL '90' DAY GROUP BY 1, 2 ORDER BY 1, 2""",
    ),
    "Q6": (
        """SELECT sum(price * discount) AS revenue FROM trade.lines WHERE shipdate >= DATE '1994-01-01'
           AND shipdate < DATE '1995-01-01' AND discount BETWEEN 0.05 AND 0.07 AND quantity < 24""",
        """SELECT sum(l_extendedprice * l_discount) FROM lineitem WHERE l_shipdate >= DATE '1994-01-01'
           AND l_shipdate < DATE '1995-01-01' AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24""",
    ),
    "Q14": (
        """SELECT 100.00 * sum(price * (1 - discount)) FILTER (WHERE type LIKE 'PROMO%') / sum(price * (1 - discount)) AS promo
           FROM trade.lines WHERE shipdate >= DATE '1995-09-01' AND shipdate < DATE '1995-10-01'""",
        """SELECT 100.00 * sum(CASE WHEN p_type LIKE 'PROMO%' THEN l_extendedprice * (1 - l_discount) ELSE 0 END)
                  / sum(l_extendedprice * (1 - l_discount)) FROM lineitem, part
           WHERE l_partkey = p_partkey AND l_shipdate >= DATE '1995-09-01' AND l_shipdate < DATE '1995-10-01'""",
    ),
}
"""The trader's own, which it answers alone."""


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> duckdb.DuckDBPyConnection:
    """TPC-H's tables, fewer orders; the owners' datasets as views of them."""
    folder = tmp_path_factory.mktemp("tpch")
    tool = Path(sys.executable).with_name("tpchgen-cli")
    command = [tool, "parquet", "--scale-factor=0.01", f"--output-dir={folder}", "--quiet"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    connection = duckdb.connect(":memory:", config={"threads": 2})
    for path in sorted(folder.glob("*.parquet")):
        cut = {"orders": "o_orderkey", "lineitem": "l_orderkey"}.get(path.stem)
        where = f"WHERE {cut} // 32 % {PARTS} = 0" if cut else ""
        connection.execute(f"CREATE TABLE {path.stem} AS SELECT * FROM '{path}' {where}")
    return connection


@pytest.fixture(scope="module")
def published(database) -> tuple[dict[str, DatasetInfo], dict[str, pa.Table]]:
    """The datasets and what their catalogue says of them."""
    tables = {name: database.sql(view).to_arrow_table() for name, view in VIEWS.items()}
    return {name: described(name, table) for name, table in tables.items()}, tables


def described(name: str, table: pa.Table) -> DatasetInfo:
    def kind(data: pa.DataType) -> str:
        if pa.types.is_decimal(data):
            return f"decimal({data.precision},{data.scale})"
        return {"date32[day]": "date", "string_view": "string"}.get(str(data), str(data))

    columns = tuple(
        Column(
            field.name,
            kind(field.type),
            nullable=False,
            bounds=BOUNDS.get(field.name),
            key=() if field.name in KEYS else None,
            unique=(name, field.name) in UNIQUE,
        )
        for field in table.schema
    )
    participant, dataset = name.split(".")
    return DatasetInfo(participant, dataset, columns, 16_384, 2_048, "00" * 32, Level.RECEIVER)


def ask(sql: str, published: Any, asker: str = "shop") -> pa.Table:
    """The answer, by whatever protocol the planner chooses."""
    infos, tables = published
    prepared = prepare(sql, asker, infos)
    plan = prepared.plan
    context = Context(b"t" * 32, plan, os.urandom, lambda *_: None, 1)
    own, theirs = (
        join_input(side, infos[side.dataset], tables[side.dataset], LIMITS)
        for side in (plan.receiver, plan.sender)
    )
    cells, _ = run_pair(
        prepared.protocol.receiver(context, own),
        prepared.protocol.sender(context, theirs, lambda counts: counts >= 1),
    )
    return finish(plan, cells, LIMITS)


SLOW = {"Q18": pytest.mark.deep}  # an answer for each of two thousand orders


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in CROSS])
def test_cross_party_queries_equal_duckdb(name, published, database):
    ours, theirs = CROSS[name]
    mine, truth = ask(ours, published), database.sql(theirs).to_arrow_table()
    assert truth.num_rows
    assert mine.schema.types == truth.schema.types
    for left, right in zip(rows(mine), rows(truth), strict=True):
        for a, b in zip(left, right, strict=True):
            assert math.isclose(a, b, rel_tol=1e-12) if isinstance(a, float) else a == b


@pytest.mark.parametrize("name", ALONE)
def test_what_the_trader_answers_alone_equals_duckdb(name, published, database):
    infos, tables = published
    ours, theirs = ALONE[name]
    plan = prepare(ours, "shop", infos).plan
    assert plan.protocol == "single_domain"
    side = plan.sender
    cells = aggregate(side, infos[side.dataset], NOTHING_DEMANDED, tables[side.dataset], LIMITS)
    mine, truth = finish(plan, Cells(cells, 0), LIMITS), database.sql(theirs).to_arrow_table()
    for left, right in zip(rows(mine), rows(truth), strict=True):
        for a, b in zip(left, right, strict=True):
            assert math.isclose(a, b, rel_tol=1e-12) if isinstance(a, float) else a == b


def rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
