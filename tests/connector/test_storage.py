"""Storage: counters under concurrency, one transaction for state and evidence, erasure, kill -9."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from time import sleep

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from compute.errors import ConfigError, Unavailable
from connector.identity import utc_now
from connector.state import exchanges, tables
from connector.state.rows import ChargeRecord
from connector.storage import Store
from witness import database

POSTGRES = "BAYSPACE_TEST_POSTGRES"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.outside)])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'state.sqlite'}"
        return
    if POSTGRES not in os.environ:
        pytest.skip(f"{POSTGRES} does not name a PostgreSQL database")
    where = os.environ[POSTGRES].replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(where)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    yield where


@pytest.fixture
def store(url):
    opened = Store.open(url)
    yield opened
    opened.close()


def _exchange(store, exchange="e1"):
    store.open_exchange(exchange, None, "hk-bank", "provider", "query", "0" * 32, bytes(32))


def test_a_hundred_threads_against_ten_uses_charge_exactly_ten(store):
    together = threading.Barrier(20)

    def charge(number):
        if number < 20:
            together.wait()
        return store.charge("a1", "2026-11", 10)

    with ThreadPoolExecutor(20) as pool:
        charged = list(pool.map(charge, range(100)))
    assert sum(charged) == 10
    assert store.used("a1", "2026-11") == 10


def test_a_charge_counts_per_agreement_and_period_and_zero_allows_nothing(store):
    assert not store.charge("a1", "2026-11", 0)
    assert store.charge("a1", "2026-11", 1)
    assert not store.charge("a1", "2026-11", 1)
    assert store.charge("a1", "2026-12", 1)
    assert store.charge("a2", "2026-11", 1)
    assert store.used("a3", "2026-11") == 0


def test_a_hundred_losses_at_once_spend_a_budget_for_ten_exactly(store):
    together = threading.Barrier(20)

    def lose(number):
        if number < 20:
            together.wait()
        return store.lose("agreement a1", "year 2026", 100_000_000, 1_000_000_000)

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(lose, range(100))) == 10
    assert store.lost("agreement a1", "year 2026") == 1_000_000_000


def test_a_loss_that_does_not_fit_is_not_spent_in_part(store):
    assert not store.lose("a", "p", 11, 10)
    assert store.lost("a", "p") == 0
    assert store.lose("a", "p", 7, 10)
    assert not store.lose("a", "p", 4, 10)
    assert store.lose("a", "p", 3, 10)
    assert store.lost("a", "p") == 10
    assert store.lost("a", "q") == store.lost("b", "p") == 0


def test_the_first_schema_gains_what_came_since(url):
    Store.open(url).close()
    with create_engine(url).begin() as connection:
        since = " ".join(statement for made in tables.MIGRATIONS.values() for statement in made)
        for table in re.findall(r"CREATE TABLE (\w+)", since):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("DROP INDEX exchanges_of_a_peer"))
        connection.execute(text("ALTER TABLE agreements ADD COLUMN valid_until TEXT"))
        connection.execute(text("UPDATE schema_version SET version = 1"))
    opened = Store.open(url)
    assert inspect(opened._engine).has_index("exchanges", "exchanges_of_a_peer")
    assert inspect(opened._engine).has_index("charges", "charges_of_an_agreement")
    assert opened.lose("a", "p", 1, 1)
    opened.add_member_names("t", 0, b"\0\1", b"\2\3")
    opened.add_compared("t", "e", "", "", b"\0")
    assert opened.member_names("t") == (b"\0\1", b"\2\3")
    assert [found.cells for found in opened.compared("t")] == [b"\0"]
    opened.add_proposal("n", "consumer", "d", b"{}", published=False)
    opened.put_unsent("n", "Request", b"\0")
    opened.add_charge(ChargeRecord("e", "a", 7, 1, 2, 3))
    assert [found.sequence for found in opened.proposals("n")] == [0]
    assert [found.body for found in opened.unsent("n")] == [b"\0"]
    assert [found.loss for found in opened.charges("a", 7, 8)] == [3]
    assert not opened.charges("a", 0, 7)
    assert [opened.count_charges("a", start) for start in (0, 7, 8)] == [1, 1, 0]
    opened.close()


def test_who_takes_a_turn_sees_what_the_one_before_kept(store):
    held = threading.Event()

    def compare(name):
        with store.atomic():
            store.take_turn("table")
            seen = len(store.compared("table"))
            if not held.is_set():
                held.set()
                sleep(0.2)  # the other one is waiting for its turn by now
            store.add_compared("table", name, "layout", "", b"cells")
        return seen

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(compare, "a")
        assert held.wait(10)
        assert sorted([pool.submit(compare, "b").result(), first.result()]) == [0, 1]
    store.add_member_names("table", 0, b"1", b"2")
    store.add_member_names("table", 1, b"3", b"4")
    assert store.member_names("table") == (b"13", b"24")
    with pytest.raises(AssertionError):
        store.take_turn("table")


def test_concurrent_starts_respect_both_limits(store):
    def start(number):
        return store.start_query(f"q{number}", f"a{number % 2}", per_agreement=2, total=3)

    with ThreadPoolExecutor(16) as pool:
        started = list(pool.map(start, range(32)))
    assert sum(started) == 3
    assert all(len(store.running(f"a{n}")) <= 2 for n in (0, 1))
    store.finish_query(store.running()[0].query)
    assert len(store.running()) == 2
    assert len(store.clear_running()) == 2
    assert store.running() == []


def test_state_change_and_evidence_are_written_together_or_not_at_all(store):
    store.add_agreement("a1", "provider", "hk-bank", "invoices", b"{}", "00")
    _exchange(store)
    with pytest.raises(RuntimeError), store.atomic():  # noqa: PT012
        assert store.move_agreement("a1", ["active"], "suspended")
        store.add_evidence("e1", 0, "suspension", "d0", b"envelope", b"[]", ["witness-a"])
        assert store.agreement("a1").state == "suspended"
        raise RuntimeError
    assert store.agreement("a1").state == "active"
    assert store.evidence("e1") == []
    assert store.outbox() == []


def test_the_outbox_goes_from_pending_to_delivered(store):
    _exchange(store)
    store.add_evidence("e1", 0, "intent", "d0", b"envelope", b"[]", ["witness-a", "witness-b"])
    assert [item.witness for item in store.outbox()] == ["witness-a", "witness-b"]
    store.mark_attempt("e1", 0, "witness-a")
    store.mark_delivered("e1", 0, "witness-a", 7, b"proof")
    assert [item.witness for item in store.outbox()] == ["witness-b"]
    (done,) = store.outbox(status="delivered")
    assert (done.index, done.proof, done.attempts) == (7, b"proof", 1)
    assert len(store.receipts("e1")) == 2


def test_a_sequence_number_is_used_once(store):
    _exchange(store)
    store.add_evidence("e1", 0, "intent", "d0", b"one", b"[]")
    with pytest.raises(IntegrityError) as caught:
        store.add_evidence("e1", 0, "intent", "recognisable", b"two", b"[]")
    assert "recognisable" not in str(caught.value)


def test_erasing_destroys_the_content_and_keeps_digest_and_proof(store, url, tmp_path):
    _exchange(store)
    store.add_evidence("e1", 0, "release", "d0", b"envelope text", b"[disclosed]", ["witness-a"])
    store.mark_delivered("e1", 0, "witness-a", 3, b"proof")
    (kept,) = store.evidence("e1")
    assert (kept.envelope, kept.disclosures) == (b"envelope text", b"[disclosed]")
    with store._reading() as connection:
        key = connection.execute(text("SELECT key FROM evidence_keys")).scalar()
    assert store.erase_evidence("e1") == 1
    assert store.erase_evidence("e1") == 0
    (erased,) = store.evidence("e1")
    assert (erased.envelope, erased.disclosures, erased.digest) == (None, None, "d0")
    assert store.receipts("e1")[0].proof == b"proof"
    for file in tmp_path.iterdir():
        assert b"envelope text" not in file.read_bytes()
        assert bytes(key) not in file.read_bytes()


def test_what_a_reader_keeps_in_the_write_ahead_log_is_not_called_erased(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'state.sqlite'}"
    monkeypatch.setattr(exchanges, "BUSY_SECONDS", 0)
    monkeypatch.setattr(database, "ERASE_TRIES", 2)
    with closing(Store.open(url)) as store, closing(Store.open(url)) as other:
        _exchange(store)
        store.add_evidence("e1", 0, "release", "d0", b"envelope text", b"[]")
        with other._reading() as connection:
            connection.execute(text("SELECT * FROM evidence_keys")).all()
            with pytest.raises(ConfigError) as unfinished:
                store.erase_evidence("e1")
        assert unfinished.value.code == "evidence.erase-unfinished"
        assert store.erase_evidence("e1") == 0
        assert (tmp_path / "state.sqlite-wal").stat().st_size == 0


def test_of_two_equal_answers_or_lists_at_once_one_is_kept(store, url):
    with closing(Store.open(url)) as other, ThreadPoolExecutor(1) as pool:
        with store.atomic():
            store.keep_answer("q", "a", ("e1", "d"), b"first", (1, 0), None, 1000)
            store.keep_members("m", 1, b"first")

            def second():
                with other.atomic():
                    other.keep_answer("q", "a", ("e2", "d"), b"second", (1, 0), None, 1000)
                    other.keep_members("m", 1, b"second")

            waiting = pool.submit(second)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
        waiting.result(10)
        assert other.answer("q").body == b"first"
        assert other.member_lists() == [("m", b"first")]


def test_answers_of_the_version_before_are_forgotten(url):
    with closing(Store.open(url)) as store:
        store.keep_answer("q", "a", ("e1", "d"), b"", (1, 0), None, 1000)
    with create_engine(url).begin() as connection:
        connection.execute(text("DROP INDEX exchanges_of_a_peer"))
        connection.execute(text("DROP INDEX charges_of_an_agreement"))
        connection.execute(text("ALTER TABLE agreements ADD COLUMN valid_until TEXT"))  # which version 5 had
        connection.execute(text("UPDATE schema_version SET version = 5"))
    with closing(Store.open(url)) as store:
        assert store.answer("q") is None


def test_an_erased_exchange_leaves_no_kept_answer(store):
    _exchange(store)
    store.keep_answer("q", "a", ("e1", "d"), b"body", (1, 0), None, 1000)
    store.erase_evidence("e1")
    assert store.answer("q") is None


def test_negotiation_moves_only_from_the_states_given(store):
    store.add_negotiation("n1", "provider", "hk-bank", "invoices", "digest", "REQUESTED")
    assert not store.move_negotiation("n1", ["OFFERED"], "ACCEPTED")
    assert store.move_negotiation("n1", ["REQUESTED"], "AGREED", document=b"{}", agreement="a1")
    assert store.move_negotiation("n1", ["AGREED"], "VERIFIED", evidence=b"{}")
    found = store.negotiation("n1")
    assert (found.state, found.document, found.evidence, found.agreement) == ("VERIFIED", b"{}", b"{}", "a1")
    assert store.negotiation("n2") is None
    assert [n.id for n in store.negotiations()] == ["n1"]


def test_datasets_and_offers_are_versioned(store):
    first = store.add_dataset("invoices", "{}", b"{}", "aa", b"s" * 32, 5)
    second = store.add_dataset("invoices", "{}", b"{}", "bb", b"s" * 32, 6)
    assert (first.version, second.version) == (1, 2)
    assert store.dataset("invoices") == second
    assert store.dataset("invoices", 1) == first
    assert store.datasets() == [second]
    assert "ssss" not in repr(second)
    store.add_offer("matched", "invoices", 1, b"{}", b"{}", "policy: x", "p1")
    offer = store.add_offer("matched", "invoices", 2, b"{}", b"{}", "policy: x", "p2")
    assert store.offers() == [offer]
    store.withdraw_offer("matched")
    assert store.offers() == []
    assert store.offer("matched").withdrawn
    with pytest.raises(IntegrityError):
        store.add_offer("other", "nothing", 1, b"{}", b"{}", "", "")


def test_offers_are_never_staler_than_the_last_commit_of_anybody(store, url):
    other = Store.open(url)  # as another process would: `bayspace dataset add` beside a serving connector
    other.add_dataset("invoices", "{}", b"{}", "aa", b"s" * 32, 5)
    for version in (1, 2, 3):
        assert [o.version for o in store.offers()] == ([version - 1] if version > 1 else [])
        other.add_offer("matched", "invoices", 1, b"{}", b"{}", "policy: x", "p1")
        assert [o.version for o in store.offers()] == [version]
    with pytest.raises(RuntimeError), store.atomic():  # noqa: PT012
        store.withdraw_offer("matched")
        assert store.offers() == []
        raise RuntimeError
    assert [o.version for o in store.offers()] == [3]
    other.withdraw_offer("matched")
    assert store.offers() == []
    other.close()


def test_an_exchange_has_one_outcome(store):
    _exchange(store)
    assert store.close_exchange("e1", "released")
    assert not store.close_exchange("e1", "failed")
    assert [e.id for e in store.exchanges(status="released")] == ["e1"]
    assert store.exchanges(status="open") == []


def test_a_newer_schema_is_refused_and_an_older_one_migrates(url, monkeypatch):
    Store.open(url).close()
    newest = tables.VERSION
    monkeypatch.setattr(tables, "VERSION", newest + 1)
    monkeypatch.setitem(tables.MIGRATIONS, newest + 1, ("CREATE TABLE later (id INTEGER)",))
    migrated = Store.open(url)
    with migrated._reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM later")).scalar() == 0
    migrated.close()
    monkeypatch.setattr(tables, "VERSION", newest)
    with pytest.raises(ConfigError, match="newer"):
        Store.open(url)


def test_an_unusable_database_is_a_configuration_error_without_its_url(tmp_path):
    (tmp_path / "file").write_text("no database, but long enough to be looked at as one" * 50)
    with pytest.raises(ConfigError) as caught:
        Store.open(f"sqlite:///{tmp_path / 'file'}")
    assert caught.value.code == "state.unusable"
    with pytest.raises(ConfigError) as caught:
        Store.open("postgresql+nothing://user:hunter2@localhost/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("where", ["sqlite://", "sqlite:///:memory:"])
def test_a_state_that_would_not_survive_is_refused(where):
    with pytest.raises(ConfigError, match="outlive"):
        Store.open(where)


def test_the_state_file_is_private(tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'deep' / 'state.sqlite'}")
    store.charge("a", "p", 1)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "deep").iterdir()}
    assert modes == {0o600}
    store.close()


_VICTIM = """
import sys
from connector.storage import Store
from witness import database
store = Store.open(sys.argv[1])
while store.charge("a1", "p", 10**6) and store.lose("a1", "p", 3, 10**9):
    print(store.used("a1", "p"), flush=True)
"""


def test_what_was_charged_survives_kill_9(url):
    process = subprocess.Popen([sys.executable, "-c", _VICTIM, url], stdout=subprocess.PIPE, text=True)
    seen = 0
    while seen < 25:
        seen = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split("\n")
    process.wait()
    complete = [int(line) for line in rest[:-1] if line]
    store = Store.open(url)
    assert store.used("a1", "p") >= max([seen, *complete])
    assert store.lost("a1", "p") >= 3 * max([seen, *complete])
    assert store.charge("a1", "p", 10**6)
    store.close()


def test_what_follows_a_commit_sees_what_was_written(store):
    seen = []

    def look():
        with ThreadPoolExecutor(1) as other:
            seen.append(other.submit(lambda: [n.id for n in store.negotiations()]).result())

    with store.atomic():
        store.add_negotiation("n1", "provider", "hk-bank", "invoices", "digest", "REQUESTED")
        store.after_commit(look)
        assert not seen
    assert seen == [["n1"]]

    def fail():
        with store.atomic():
            store.after_commit(look)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert len(seen) == 1
    store.after_commit(look)
    assert len(seen) == 2


def test_a_state_that_stays_locked_is_told_and_keeps_nothing(url, monkeypatch):
    monkeypatch.setattr("connector.state.database.BUSY_SECONDS", 0.1)
    with closing(Store.open(url)) as store, closing(Store.open(url)) as other:
        with store.atomic():
            assert store.charge("a1", "p", 2)
            with pytest.raises(Unavailable) as busy:
                other.charge("a1", "p", 2)
        assert busy.value.code == "state.busy"
        assert other.used("a1", "p") == 1
        assert other.charge("a1", "p", 2)


def test_a_server_that_is_away_is_told_without_its_address():
    pytest.importorskip("psycopg")
    where = "postgresql+psycopg://somebody@127.0.0.1:1/none"
    with closing(Store(create_engine(where, hide_parameters=True), utc_now)) as store:
        for act in (lambda: store.used("a1", "p"), lambda: store.charge("a1", "p", 1)):
            with pytest.raises(Unavailable) as away:
                act()
            assert away.value.code == "state.unreachable"
            assert "somebody" not in str(away.value)
        with pytest.raises(ConfigError, match="does not answer"):
            store.probe()
    with pytest.raises(ConfigError, match="does not answer"):
        Store.open(where)


@pytest.mark.outside
@pytest.mark.skipif(POSTGRES not in os.environ, reason=f"{POSTGRES} does not name a PostgreSQL database")
def test_a_connection_that_is_cut_keeps_nothing_and_another_one_is_made():
    with closing(Store.open(os.environ[POSTGRES].replace("postgresql:", "postgresql+psycopg:"))) as store:

        def charge_and_die() -> None:
            with store.atomic():
                store.charge("cut", "p", 9)
                store._run(text("SELECT pg_terminate_backend(pg_backend_pid())"))

        with pytest.raises(Unavailable) as cut:
            charge_and_die()
        assert cut.value.code == "state.unreachable"
        assert store.used("cut", "p") == 0
        assert store.charge("cut", "p", 9)


def test_a_full_disk_is_told_and_needs_nothing_but_room(tmp_path):
    with closing(Store.open(f"sqlite:///{tmp_path / 'state.sqlite'}")) as store:
        store.open_exchange("e1", None, "sz-trade", "consumer", "query", "t", b"k" * 32)
        with store._engine.connect() as connection:
            (pages,) = connection.exec_driver_sql("PRAGMA page_count").one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        done: list[str] = []

        def fill() -> None:
            with store.atomic():
                store.after_commit(lambda: done.append("kept"))
                for number in range(500):
                    store.add_evidence("e1", number, "query.intent", f"d{number}", b"x" * 4096, b"", ())

        with pytest.raises(Unavailable) as full:
            fill()
        assert full.value.code == "state.full"
        assert "x" * 10 not in str(full.value)
        with store._engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages * 1000}")
        store.add_evidence("e1", 0, "query.intent", "d0", b"x" * 4096, b"", ())
        assert ([r.digest for r in store.evidence("e1")], done) == (["d0"], [])
