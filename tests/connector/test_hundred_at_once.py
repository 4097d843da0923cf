"""A hundred simultaneous queries of one connector against a count of ten, in SQLite and PostgreSQL.

After it both sides account for the same ten and sign, and the contract ends: everything that a state keeps.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import pytest
from sqlalchemy import create_engine, text

from compute.errors import PolicyRefusal, Unavailable
from connector import analyst, config
from tests.waiting import settled

OWNER, ASKER, PURPOSE = "sz-trade", "hk-bank", "credit-risk"
POSTGRES = "BAYSPACE_TEST_POSTGRES"
SQL = "SELECT count(*) AS n FROM sz-trade.ten WHERE amount > {}"


def postgres_url(name: str) -> str:
    """A schema of this participant's own, empty."""
    where = os.environ[POSTGRES].replace("postgresql:", "postgresql+psycopg:")
    schema = "hundred_" + name.replace("-", "_")
    engine = create_engine(where)
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    engine.dispose()
    return f"{where}?options=-csearch_path%3D{schema}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.outside)])
def space(request, tmp_path, monkeypatch, space_builder):
    if request.param == "postgres":
        if POSTGRES not in os.environ:
            pytest.skip(f"{POSTGRES} does not name a PostgreSQL database")
        real = config.init

        def init(folder: Path, participant: str, *rest, **more):
            made = real(folder, participant, *rest, **more)
            file = made.folder / config.FILE
            sqlite = 'url = "sqlite:///state/connector.sqlite"'
            assert sqlite in file.read_text()
            file.write_text(file.read_text().replace(sqlite, f'url = "{postgres_url(participant)}"'))
            return config.load(made.folder)

        monkeypatch.setattr(config, "init", init)
    monkeypatch.setattr(analyst, "RECEIPT_SECONDS", 0)  # no witness runs, to save its work
    made = space_builder(tmp_path, start=False, timeout=60)
    for name in (OWNER, ASKER):
        made.start(name)
    yield made
    made.close()


def answered(space, number):
    """How one query ended; one that found no place at the owner asks again, as it is told to."""
    for _ in range(100):
        try:
            space.asker.query(SQL.format(number), PURPOSE)
        except PolicyRefusal as refusal:
            return refusal.code
        except Unavailable as error:
            if error.code != "peer.overloaded":
                raise
            sleep(0.2)
        else:
            return "answered"
    return "never got a place"


@pytest.mark.deep
def test_exactly_ten_run_and_both_sides_sign_for_them(space):
    owner = space.nodes[OWNER]
    policy = (owner.config.policies_folder / "open.yaml").read_text().replace("open", "ten")
    space.offer_invoices("ten", policy.replace("count: 1000", "count: 10").replace(", max_concurrent: 2", ""))
    limits = owner.config.limits.model_copy(update={"maximum_joint_queries": 64})
    owner.config = owner.config.model_copy(update={"limits": limits})
    agreement = space.agree("ten")
    with ThreadPoolExecutor(100) as threads:
        found = list(threads.map(lambda number: answered(space, number), range(100)))
    assert {code: found.count(code) for code in found} == {"answered": 10, "uses.exhausted": 90}
    assert settled(lambda: all(e.status != "open" for e in owner.store.exchanges() if e.kind == "query"))
    status = [e.status for e in owner.store.exchanges() if e.kind == "query"]
    assert (status.count("released"), len(owner.store.running())) == (10, 0)
    stated = space.owner.contract("state", agreement=agreement)[0]
    assert (stated["signed"], stated["uses"]) == (True, 10)
    ended = space.owner.contract("terminate", agreement=agreement)[0]
    assert (ended["state"], ended["agreement_state"]) == ("TERMINATED", "terminated")
    assert answered(space, 0) == "agreement.none"
