"""What the records of a query say of the law: categories, who receives, until when, and what was charged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from connector.contract import Agreement
from connector.opening import Opening
from connector.terms import Side, Terms
from policy_enforcer.model import DeleteDuty

NOON = 1_767_268_800_000  # 2026-01-01T12:00:00Z


def terms(
    *duties: DeleteDuty, claims: tuple[str, ...] = (), categories: tuple[str | None, ...] = ()
) -> Terms:
    columns = [SimpleNamespace(category=category) for category in categories]
    agreement = SimpleNamespace(
        dataset=SimpleNamespace(columns=columns, commitment="c" * 64),
        policy=SimpleNamespace(policy="v1", duties=duties),
        policy_digest=b"p" * 32,
        transfer_basis=None,
        filing_number=None,
    )
    opening = SimpleNamespace(
        exchange="e" * 32, members="m" * 64, agreement="a" * 64, sql="", query_salt=b"s" * 32, purpose="",
        trace="00-" + "f" * 32 + "-" + "0" * 16 + "-01",
    )  # fmt: skip
    asker = Side("hk-bank", (), "b" * 64, NOON, "HK", claims)
    owner = Side("sz-trade", (), "b" * 64, NOON, "CN-SZ", ("role:never-said",))
    return Terms("gba", cast(Opening, opening), cast(Agreement, agreement), None, asker, owner)


def test_categories_are_those_of_the_owners_columns_and_of_the_asker() -> None:
    found = terms(claims=("role:bank",), categories=("trade", None, "customs", "trade"))
    said = found.result("p" * 64, {"result": "0" * 64}, NOON).sensitive
    assert (said.data_categories, said.recipient_categories) == (("customs", "trade"), ("role:bank",))
    said = terms(categories=(None,)).result("p" * 64, {"result": "0" * 64}, NOON).sensitive
    assert (said.data_categories, said.recipient_categories, said.retain_until) == (None, None, None)


def test_the_first_duty_to_delete_is_the_last_day_and_what_was_refused_has_none() -> None:
    duties = [DeleteDuty(delete="result", after=after, declared=True) for after in ("P30D", "PT13H", "P1Y")]
    found = terms(*duties)
    assert found.result("p" * 64, {"result": "0" * 64}, NOON).sensitive.retain_until == "2026-01-02"
    assert found.refusal("purpose.other", found.asker).sensitive.retain_until is None
