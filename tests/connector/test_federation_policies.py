"""What policies say about a federation, between real connectors, and the asker's own rows in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from compute.errors import PolicyRefusal, QueryError
from connector import rounds
from tests.connector.test_federation import (
    ASKER,
    BANKS,
    BY_REGION,
    FIT,
    PURPOSE,
    cells,
    loans,
    publish,
    running,
)

pytestmark = pytest.mark.deep

NOISE = """\
  bounds: {overdue: [-10, 100]}
  max_rows_per_identity: 4
  max_cells_per_identity: 2
  noise: {mechanism: discrete-gaussian, rho_per_query: 0.25, budget: {rho: 0.75}}
"""


def everywhere(**words: str) -> dict[str, dict[str, str]]:
    return {bank.replace("-", "_"): words for bank in BANKS}


def test_noise_is_charged_to_every_ledger_and_stops_at_the_budget(tmp_path: Path) -> None:
    sql = "SELECT region, count(*) AS n FROM federation.loans GROUP BY region"
    with running(tmp_path, **everywhere(more=NOISE)) as made:
        found = made.asker.explain(sql, PURPOSE)
        assert found["verdict"] == "permit"
        assert "rho 0.25" in found["federation"]["participants"][0]["protection"]
        assert "with its noise" in found["federation"]["coalitions"][3]["learns"]
        exact = {row["region"]: row["n"] for row in made.pooled(sql)}
        answers = [made.asker.query(sql, PURPOSE).table.to_pylist() for _ in range(2)]
        for answer in answers:
            for row in answer:  # deviation of three banks: (3 x 2 figures x 16 / 0.5) ^ 1/2 = 14
                assert abs(row["n"] - exact[row["region"]]) < 100
        assert answers[0] != answers[1]
        (fit,) = made.asker.query(FIT, PURPOSE).table.to_pylist()
        assert fit["fit"] in ("fitted", "drowned")
        assert abs(fit["n"] - sum(exact.values())) < 500  # deviation (3 x 41 x 16 / 0.5) ^ 1/2 = 63
        for bank in BANKS:
            (record,) = made.nodes[bank].store.agreements(role="provider", state="active")
            agreement = made.nodes[bank].agreement(record.digest, role="provider", peer=ASKER)
            assert made.nodes[bank].losses_of(agreement, made.nodes[bank].now()) == (750_000_000, 750_000_000)
        with pytest.raises(PolicyRefusal) as refused:
            made.asker.query(sql, PURPOSE)
        assert {reason.code for reason in refused.value.decision.because} == {"budget.exhausted"}


def test_a_bank_keeps_out_what_one_of_its_clients_dominates(tmp_path: Path) -> None:
    share = {"scope": "local", "more": "  dominance: {share_at_most: 0.11}\n"}
    with running(tmp_path, mo_bank=share) as made:
        found = made.asker.explain(BY_REGION, PURPOSE)
        assert "more than 0.11 of a figure" in found["federation"]["participants"][1]["protection"]
        rows = made.tables["mo-bank"]
        held = dominated(rows, 0.11)
        assert held - {"澳门"}
        assert {"深圳", "Hong Kong"} - held
        answer = made.asker.query(BY_REGION, PURPOSE).table.to_pylist()
        kept = [region not in held for region in rows["region"].to_pylist()]
        made.tables["mo-bank"] = rows.filter(pa.array(kept))
        shown = {row["region"] for row in answer}
        assert held & shown
        assert cells(answer) == cells([row for row in made.pooled(BY_REGION) if row["region"] in shown])


def dominated(rows: pa.Table, share: float) -> set[str]:
    """The regions in which one client has more than that of a total behind BY_REGION."""
    part = """
        SELECT region, client, count(*) AS n, count(overdue) AS c, sum(amount) AS s, sum(abs(overdue)) AS o
        FROM rows GROUP BY ALL
    """
    over = " OR ".join(f"max({name}) > {share} * sum({name})" for name in "ncso")
    query = f"SELECT region FROM ({part}) GROUP BY region HAVING {over}"
    return {region for (region,) in duckdb.from_arrow(rows).query("rows", query).fetchall()}


def test_policies_that_demand_different_noise_make_different_plans(tmp_path: Path) -> None:
    more = everywhere(more=NOISE) | {"mo_bank": {"more": NOISE.replace("0.25", "0.5")}}
    with running(tmp_path, **more) as made, pytest.raises(QueryError) as error:
        made.asker.explain(BY_REGION, PURPOSE)
    assert error.value.code == "federation.differs"


def test_only_those_whom_a_policy_names_stand_beside_it(tmp_path: Path) -> None:
    with running(tmp_path, mo_bank={"beside": ", participants: [hk-bank]"}) as made:
        with pytest.raises(PolicyRefusal) as refused:
            made.asker.query(BY_REGION, PURPOSE)
        (reason,) = refused.value.decision.because
        assert (reason.code, reason.column) == ("federation.participant-not-allowed", None)
        assert reason.sentence == "mo-bank: sz-bank would take part beside this dataset"
        assert [made.uses(bank) for bank in BANKS] == [0, 0, 0]


def test_the_askers_own_rows_are_added_to_what_is_released(tmp_path: Path) -> None:
    with running(tmp_path) as made:
        others = made.asker.query(BY_REGION, PURPOSE).table.to_pylist()
        made.tables[ASKER] = loans(ASKER)
        publish(tmp_path, ASKER, made.tables[ASKER], {})
        made.nodes[ASKER]._shown = (0.0, [])  # the catalogue is kept for a moment
        found = made.asker.explain(BY_REGION, PURPOSE)["federation"]
        assert (found["own"]["dataset"], len(found["participants"])) == (f"{ASKER}.loans", len(BANKS))
        answer = made.asker.query(BY_REGION, PURPOSE).table.to_pylist()
        shown = {row["region"] for row in others}
        assert cells(answer) == cells([row for row in made.pooled(BY_REGION) if row["region"] in shown])
        assert [made.uses(bank) for bank in BANKS] == [2, 2, 2]
        assert cells(answer) != cells(others)
        squared = "SELECT count(*) * count(*) AS n FROM federation.loans"
        found = rounds.inquire(made.nodes[ASKER], squared, PURPOSE)
        large = replace(found.own, dataset=replace(found.own.dataset, rows_bound=2**32))
        with pytest.raises(QueryError, match=f"with the rows of {ASKER}.loans: in SELECT") as error:
            rounds._check_figures(made.nodes[ASKER], "loans", squared, large, found.inquiries[0].parts)
        assert error.value.code == "query.overflow"
        with pytest.raises(QueryError) as error:
            made.asker.query(FIT, PURPOSE)
        assert error.value.code == "query.logistic"


def test_an_own_dataset_of_another_shape_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as made:
        publish(tmp_path, ASKER, loans(ASKER), {"most": 20000})
        made.nodes[ASKER]._shown = (0.0, [])
        with pytest.raises(QueryError) as error:
            made.asker.query(BY_REGION, PURPOSE)
        assert error.value.code == "federation.differs"
        assert f"{ASKER}.loans" in error.value.sentence
