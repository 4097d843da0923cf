"""A joint result, computed once more from what its receipt opens: what the asker's table says, or refused."""

from __future__ import annotations

import dataclasses
import json

import pyarrow as pa
import pytest

from compute.errors import ConfigError
from connector import recomputing
from connector.asking import arrow_bytes
from connector.receipts import receipt, trust_file
from tests.connector.conftest import ASKER, OWNER, PURPOSE
from tests.connector.test_documents import run
from witness.checks import VerificationFailed
from witness.verify import verify_files

SQL = (
    "SELECT i.industry, c.rating, sum(i.amount) AS total, count(*) AS n FROM sz-trade.{offer} i"
    " JOIN hk-bank.credit c ON i.company_id = c.company_id GROUP BY i.industry, c.rating"
)


@pytest.fixture(scope="module", params=["matched", pytest.param("invoices", marks=pytest.mark.deep)])
def asked(shared, request):
    """An answer, and its exchange at the asker, recorded; under either level of disclosure."""
    answer = shared.asker.query(SQL.format(offer=request.param), PURPOSE)
    exchange = answer.summary["exchange"]
    assert shared.nodes[ASKER].evidence.settle(exchange, 20)
    return shared, exchange, answer


def opened(asked, show=recomputing.SHOWN):
    space, exchange, _ = asked
    node = space.nodes[ASKER]
    return verify_files(receipt(node.store, exchange, show), trust_file(node.config))


def test_masks_and_answer_give_the_result(asked, tmp_path, capsys) -> None:
    space, exchange, answer = asked
    (query,) = recomputing.recomputed(opened(asked))
    assert query.compared == ("total", "n")
    cells = [cell for cell in query.as_json()["cells"] if cell["identities"]]
    wanted = [sorted({str(row["n"]), str(row["total"])}) for row in answer.table.to_pylist()]
    assert wanted
    assert sorted(sorted(set(cell["sums"].values())) for cell in cells) == sorted(wanted)
    assert all(3 <= cell["identities"] <= 60 for cell in cells)
    assert query.result.equals(answer.table)
    bundle, trust = tmp_path / "receipt.json", tmp_path / "trust.json"
    node = space.nodes[ASKER]
    bundle.write_bytes(receipt(node.store, exchange, recomputing.SHOWN))
    trust.write_bytes(trust_file(node.config))
    code, said, _ = run(capsys, "evidence", "recompute", bundle, "--trust", trust, "--json")
    assert (code, json.loads(said)) == (0, [query.as_json()])
    code, said, _ = run(capsys, "evidence", "recompute", bundle, "--trust", trust)
    assert (code, "as the asker asserts it" in said) == (0, True)
    assert "and equal: total, n;" in said
    bundle.write_bytes(receipt(node.store, exchange, ("plan",)))
    code, _, said = run(capsys, "evidence", "recompute", bundle, "--trust", trust)
    assert (code, "[evidence.masks]" in said) == (2, True)


@pytest.mark.parametrize("name", ["masks", "answer"])
def test_what_was_not_signed_before_is_no_opening(asked, name) -> None:
    """An asker that commits to other masks afterwards, or to another answer, in its own record."""
    verified = opened(asked)
    number = next(n for n, i in enumerate(verified.items) if i.record.event == "query.result")
    for made in (lambda v: bytes([v[-1] ^ 1]), lambda v: b""):
        value = verified.items[number].opened[name]
        other = {**verified.items[number].opened, name: value[:-1] + made(value)}
        items = list(verified.items)
        items[number] = dataclasses.replace(items[number], opened=other)
        with pytest.raises(VerificationFailed) as caught:
            recomputing.recomputed(dataclasses.replace(verified, items=tuple(items)))
        assert (caught.value.code, caught.value.item) == ("commitment", number)


def changed(asked, part, **fields) -> bytes:
    plan = json.loads(next(i.opened["plan"] for i in opened(asked).items if "plan" in i.opened))
    plan[part] |= fields
    return json.dumps(plan).encode()


def test_a_table_that_is_invented_is_refused(asked) -> None:
    """Well formed, committed to, signed by the asker: other figures, or rows that are missing or twice."""
    verified, table = opened(asked), asked[2].table
    more = pa.array([n + 1 for n in table["n"].to_pylist()], table["n"].type)
    for lie in (
        table.set_column(3, "n", more),
        table.slice(1),
        pa.concat_tables([table, table.slice(0, 1)]),
        table.rename_columns(["industry", "rating", "other", "n"]),
    ):
        items = [
            dataclasses.replace(i, opened={**i.opened, "result": arrow_bytes(lie)})
            if i.record.event == "query.result"
            else i
            for i in verified.items
        ]
        with pytest.raises(VerificationFailed, match="not what plan, masks and answer give") as caught:
            recomputing.recomputed(dataclasses.replace(verified, items=tuple(items)))
        assert caught.value.code == "commitment"


def test_of_a_part_of_the_rows_each_is_a_cell(shared) -> None:
    sql = SQL.format(offer="matched") + " HAVING count(*) > 3 ORDER BY total LIMIT 1"
    answer = shared.asker.query(sql.replace("count(*) AS n", "avg(i.amount) AS mean"), PURPOSE)
    exchange = answer.summary["exchange"]
    assert shared.nodes[ASKER].evidence.settle(exchange, 20)
    (query,) = recomputing.recomputed(opened((shared, exchange, answer)))
    assert (query.compared, answer.table.num_rows) == (("total",), 1)


def test_parts_that_do_not_fit_and_results_that_are_no_table(asked) -> None:
    verified = opened(asked)
    for event, name, value in (
        ("query.intent", "plan", b'{"parameters":{}}'),
        ("query.intent", "plan", b"\xff"),
        ("query.intent", "plan", changed(asked, "parameters", identity_bits=0, field_bits=[0])),
        ("query.intent", "plan", changed(asked, "sender", partials=[{"name": "m0", "scale": 0}])),
        ("query.result", "result", b"no table"),
    ):
        items = [
            dataclasses.replace(i, opened={**i.opened, name: value}) if i.record.event == event else i
            for i in verified.items
        ]
        with pytest.raises(VerificationFailed) as caught:
            recomputing.recomputed(dataclasses.replace(verified, items=tuple(items)))
        assert caught.value.code == "commitment"


def test_the_owner_cannot_open_the_askers_masks(asked) -> None:
    space, exchange, _ = asked
    node = space.nodes[OWNER]
    assert node.evidence.settle(exchange, 20)
    with pytest.raises(ConfigError, match="nothing here opens answer, masks"):
        receipt(node.store, exchange, ("masks", "answer"))


def test_a_query_over_one_dataset_has_no_masks(shared) -> None:
    with pytest.raises(ConfigError, match="no query of this receipt opens"):
        recomputing.recomputed(opened((shared, single(shared), None), ("plan",)))


def single(shared) -> str:
    sql = "SELECT industry, count(*) AS n FROM sz-trade.open GROUP BY industry"
    exchange = shared.asker.query(sql, PURPOSE).summary["exchange"]
    assert shared.nodes[ASKER].evidence.settle(exchange, 20)
    return str(exchange)
