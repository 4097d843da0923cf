"""Usage statements: both accounts are one document, or nothing is signed. Transfers: what evidence says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from compute.errors import ConfigError, PeerViolation, PolicyRefusal
from connector import receipts
from connector.negotiating import Negotiating
from connector.state.rows import ExchangeRecord
from connector.statements import Account, Statements
from connector.transfers import transfer, transfers
from connector.transport import Headers
from connector.v1 import negotiation_pb2 as pb
from tests.waiting import settled
from witness import bundle
from witness.verify import verify_files

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
SQL = "SELECT count(*) AS n FROM sz-trade.matched WHERE amount > {}"
JOINT = "SELECT count(*) AS n FROM sz-trade.matched i JOIN hk-bank.credit c ON i.company_id = c.company_id"


@pytest.fixture(scope="module")
def used(shared):
    """An agreement with two answered queries, one refused, and one that the owner stopped."""
    agreement = shared.agree("matched")
    shared.asker.query(SQL.format(1), PURPOSE)
    shared.asker.query(JOINT, PURPOSE)
    with pytest.raises(PolicyRefusal):
        shared.asker.query(
            "SELECT secret_note, count(*) AS n FROM sz-trade.matched GROUP BY secret_note", PURPOSE
        )
    return shared, agreement


def state(space, agreement, **period):
    return space.owner.contract("state", agreement=agreement, **period)[0]


def test_both_sign_one_account_which_anybody_verifies_offline(used):
    space, agreement = used
    stated = state(space, agreement)
    assert stated["signed"]
    assert stated["uses"] == 2
    assert stated["rows"] == 2
    assert stated["bytes"] > 0
    assert stated["loss"] == "0"
    assert len(stated["exchanges"]) == 2
    kept = [client.contract("statements", agreement=agreement)[-1] for client in (space.owner, space.asker)]
    assert kept == [stated] * 2
    node = space.nodes[ASKER]
    assert node.evidence.settle(stated["exchange"], 20)
    receipt = receipts.receipt(node.store, stated["exchange"], ["statement"])
    parsed, _ = bundle.parse(receipt)
    (opening,) = parsed.items[0].openings
    assert json.loads(opening.value)["uses"] == 2
    trust = receipts.trust_file(node.config)
    assert verify_files(receipt, trust).items


def test_a_negotiation_without_an_agreement_has_neither_statements_nor_transfers(used):
    space, agreement = used
    assert state(space, agreement)["signed"]
    asked = space.asker.contract("request", participant=OWNER, offer="open")[0]["negotiation"]
    for action in ("statements", "transfers"):
        assert space.asker.contract(action, agreement=agreement)
        assert space.asker.contract(action, agreement=asked) == []


def test_a_period_holds_what_began_in_it(used):
    space, agreement = used
    stated = state(space, agreement)
    later = state(space, agreement, start=stated["end"])
    assert (later["signed"], later["uses"], later["exchanges"]) == (True, 0, [])
    for start, end in (
        (stated["end"], stated["start"]),
        ("2026-01-01", ""),
        ("", "2999-01-01T00:00:00+00:00"),
    ):
        with pytest.raises(ConfigError) as refused:
            state(space, agreement, start=start, end=end)
        assert refused.value.code == "statement.period"


WRONG = {
    "a use too few": lambda found: found[:-1],
    "rows too many": lambda found: [replace(found[0], rows=found[0].rows + 1), *found[1:]],
    "bytes too many": lambda found: [replace(found[0], bytes=found[0].bytes + 1), *found[1:]],
    "loss too much": lambda found: [replace(found[0], loss=1), *found[1:]],
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_an_account_that_differs_is_shown_and_not_signed(used, monkeypatch, wrong):
    space, agreement = used
    store = space.nodes[OWNER].store
    before = [
        len(client.contract("statements", agreement=agreement)) for client in (space.owner, space.asker)
    ]
    real = store.charges
    monkeypatch.setattr(store, "charges", lambda *period: wrong(real(*period)))
    stated = state(space, agreement)
    assert not stated["signed"]
    assert stated["differences"]
    after = [len(client.contract("statements", agreement=agreement)) for client in (space.owner, space.asker)]
    assert after == before


def test_a_query_that_never_was_is_not_signed_for(used, monkeypatch):
    space, agreement = used
    store, real = space.nodes[OWNER].store, Account.of

    def invented(node, *rest):
        found = real(node, *rest)
        if node is not space.nodes[OWNER]:
            return found
        return replace(found, uses=found.uses + 1, exchanges=(*found.exchanges, ("f" * 32, "0" * 64)))

    monkeypatch.setattr(Account, "of", invented)
    stated = state(space, agreement)
    assert {d["figure"] for d in stated["differences"]} == {"uses", "exchange"}
    assert not stated["signed"]
    assert store.charges(agreement, 0, 2**62)


def test_a_statement_about_another_agreement_or_of_another_shape_is_refused(used):
    space, agreement = used
    statements = Statements(space.nodes[ASKER])
    record = Negotiating(space.nodes[OWNER]).find(agreement)
    with pytest.raises(ConfigError):
        statements.state(Negotiating(space.nodes[ASKER]).find(agreement))
    account = Account(agreement, OWNER, ASKER, 0, 1, 0, 0, 0, "0", ())
    future = replace(account, end=2**53 - 1)
    unknown = replace(account, agreement="0" * 64)
    for document, code in (
        (b"{}", "statement.malformed"),
        (account.to_bytes() + b" ", "statement.malformed"),
        (future.to_bytes(), "statement.period"),
        (unknown.to_bytes(), "contract.unknown"),
    ):
        with pytest.raises(PeerViolation) as violated:
            statements.on_state(
                record.role and OWNER, pb.UsageStatement(exchange="a" * 32, statement=document)
            )
        assert violated.value.code == code


# --- transfers ----------------------------------------------------------------------------------------


def test_what_ran_is_listed_with_where_it_stands(used):
    space, agreement = used
    for client in (space.owner, space.asker):
        found = client.contract("transfers", agreement=agreement)
        assert [one["state"] for one in found] == [
            "COMPLETED",
            "COMPLETED",
            *["TERMINATED"] * (len(found) - 2),
        ]
    asked = space.asker.contract("request", participant=OWNER, offer="open")[0]["negotiation"]
    assert space.asker.contract("transfers", agreement=asked) == []  # nothing is agreed there
    assert len(space.asker.contract("transfers")) >= 2
    space.asker.contract("terminate", agreement=asked)
    ended = space.owner.contract("transfers", agreement=agreement)[2:]
    assert all(one["code"] for one in ended)


def test_a_suspension_is_seen_while_the_query_runs_and_ends_it(shared, monkeypatch):
    agreement = shared.agree("matched")
    owner, store, seen = Negotiating(shared.nodes[OWNER]), shared.nodes[OWNER].store, []
    real = Headers.wrap

    def wrap(self, frame):
        if frame.kind == "tags" and not seen:
            seen.append([one["state"] for one in transfers(store, agreement)])
            owner.suspend(agreement, suspended=True)
            seen.append([one["state"] for one in transfers(store, agreement)])
        return real(self, frame)

    monkeypatch.setattr(Headers, "wrap", wrap)
    with pytest.raises(PolicyRefusal) as refused:
        shared.asker.query(JOINT.replace("count(*)", "count(i.amount)"), PURPOSE)
    assert refused.value.code == "agreement.suspended"
    assert seen == [["STARTED"], ["SUSPENDED"]]
    ended = [("TERMINATED", "agreement.suspended")]  # the asker hears of it before its record is written
    assert settled(lambda: [(one["state"], one["code"]) for one in transfers(store, agreement)] == ended)
    owner.terminate(agreement, "contract.terminated")


def test_a_process_that_died_before_anything_was_agreed(shared):
    store = shared.nodes[OWNER].store
    found = ExchangeRecord("e" * 32, None, ASKER, "provider", "query", "0" * 32, b"", "failed", "")
    assert transfer(store, found)["state"] == "TERMINATED"
    assert transfer(store, replace(found, status="open"))["state"] == "REQUESTED"
