"""The doctor: a healthy connector has no failure, and each thing that is broken is named with a remedy."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connector import config, datasets, doctor, enrolment, identity, space, transfer_lists
from connector.identity import utc_now
from connector.records import Statement
from connector.storage import Store
from connector.witnesses import init_witness, load_witness, witness_seat
from witness import dsse
from witness.cosignature import cosigner_key
from witness.encoding import system_entropy
from witness.keys import PrivateKey
from witness.record import PAYLOAD_TYPE, Data, Exchange, Outcome, Party, Sensitive
from witness.server import serve

POLICY = """\
policy: t-v1
dataset: hk-bank.t
assignee: any
purpose: any
analysis: {kinds: [aggregate], dimensions: [a]}
"""
DESCRIPTION = """\
title: {en: "t"}
source: {kind: parquet, path: t.parquet}
rights: {holder: "hk-bank"}
columns: {a: {type: int64}}
offers: {t: t.yaml}
"""


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "DIAL_SECONDS", 1.0)
    server = grpc.server(ThreadPoolExecutor(1))
    space.init(tmp_path / "space", "gba")
    bank = config.init(tmp_path / "hk", "hk-bank", "gba", "HK", address="127.0.0.1:1")
    space.enrol_local(tmp_path / "space", bank.seat)
    port = server.add_secure_port("127.0.0.1:0", identity.server_credentials(bank.tls))
    server.start()
    file = bank.folder / config.FILE
    file.write_text(file.read_text().replace("127.0.0.1:1", f"127.0.0.1:{port}"))
    bank = config.load(file)
    enrolment.write_request(bank.seat)
    space.enrol_local(tmp_path / "space", bank.seat)
    pq.write_table(pa.table({"a": [1, 2]}), bank.datasets_folder / "t.parquet")
    (bank.datasets_folder / "t.yaml").write_text(DESCRIPTION)
    (bank.policies_folder / "t.yaml").write_text(POLICY)
    store = Store.open(bank.state_url)
    datasets.add(bank, store, "t")
    store.close()
    yield bank, tmp_path / "space"
    server.stop(None)


def _troubles(bank, now=None):
    return {(f.check, f.status): f for f in doctor.examine(bank, now) if f.status != "ok"}


def _named(found, check, status, words):
    assert words in found[check, status].sentence
    assert found[check, status].remedy


def test_a_healthy_connector(made):
    found = doctor.examine(made[0])
    troubles = [f for f in found if f.status != "ok" and f.check not in {"witness", "disk", "machine"}]
    assert troubles == []
    assert {f.check for f in found} >= {
        "keys",
        "certificate",
        "members",
        "clock",
        "state",
        "data",
        "policies",
        "peers",
    }
    assert all(f.remedy == "" for f in found if f.status == "ok")


def test_exposed_and_foreign_keys(made):
    bank, _ = made
    bank.evidence_key_path.chmod(0o644)
    _named(_troubles(bank), "keys", "fail", "open to other users")
    bank.evidence_key_path.chmod(0o600)
    bank.tls.key.unlink()
    identity.write_private(bank.tls.key, identity.tls_key_pem(identity.new_tls_key()))
    _named(_troubles(bank), "keys", "fail", "another key")


def test_expiry(made):
    bank, _ = made
    soon = utc_now() + timedelta(days=identity.CERTIFICATE_DAYS - 10)
    found = _troubles(bank, soon)
    _named(found, "certificate", "warn", "expires in")
    _named(found, "members", "warn", "version 3")
    late = utc_now() + timedelta(days=identity.CERTIFICATE_DAYS + 1)
    _named(_troubles(bank, late), "certificate", "fail", "not valid at this time")


def test_a_clock_that_is_behind(made):
    found = _troubles(made[0], utc_now() - timedelta(minutes=3))
    _named(found, "clock", "fail", "behind")


def test_before_enrolment_everything_that_needs_it_says_so(tmp_path):
    bank = config.init(tmp_path / "new", "hk-bank", "gba", "HK")
    found = _troubles(bank)
    for check in ("certificate", "members", "peers"):
        assert "enrolment.json" in found[check, "fail"].remedy
    assert ("keys", "fail") not in found


def test_a_removed_member_and_a_changed_address(made):
    bank, folder = made
    file = bank.folder / config.FILE
    file.write_text(file.read_text().replace('address = "127.0.0.1:', 'address = "127.0.0.2:'))
    _named(_troubles(config.load(file)), "members", "warn", "others dial 127.0.0.1")
    space.remove(folder, "hk-bank")
    _named(_troubles(bank), "members", "fail", "removed")


def test_a_list_that_holds_other_keys(made, tmp_path):
    bank, folder = made
    impostor = config.init(tmp_path / "impostor", "hk-bank", "gba", "HK", address=bank.network.address)
    key = bank.evidence_key_path.read_bytes()
    bank.evidence_key_path.write_bytes(impostor.evidence_key_path.read_bytes())
    _named(_troubles(bank), "members", "fail", "evidence key")
    bank.evidence_key_path.write_bytes(key)
    space.enrol(folder, impostor.folder / "enrolment.json", replace_keys=True)
    enrolment.adopt_members(bank.trust, (folder / "members.json").read_bytes())
    _named(_troubles(bank), "members", "fail", "another certificate")


def _of_policies(bank, now=None):
    return {(f.check, f.status): f for f in doctor._policies(bank, now or utc_now())}


def test_what_policies_name(made):
    bank, folder = made
    file, policy = bank.policies_folder / "lists" / "l.json", bank.policies_folder / "t.yaml"
    file.parent.mkdir()
    text = "list: l\nkind: whitelist\ntitle: x\njurisdiction: HK\nfrom: 2026-01-01\nuntil: 2026-12-31\n"
    draft = transfer_lists.draft(text + "categories: [c]\n")
    keys = identity.load_signing_keys(bank.evidence_key_path)
    signed = transfer_lists.sign(draft, "hk-bank", keys, int(utc_now().timestamp() * 1000))
    transfer = f"transfer: {{whitelist: {transfer_lists.reference_of(signed)}}}\nanalysis:"
    policy.write_text(POLICY.replace("analysis:", transfer))
    _named(_of_policies(bank), "policies", "fail", "cannot be read")
    file.write_bytes(signed.encode())
    _named(_of_policies(bank), "policies", "fail", "role:list-issuer")
    space.certify(folder, "hk-bank", ["role:list-issuer"])
    store = Store.open(bank.state_url)
    datasets.add(bank, store, "t")
    store.close()
    last = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    assert ("policies", "fail") not in _of_policies(bank, last)
    _named(_of_policies(bank, last), "policies", "warn", "the list l is in force until 2026-12-31")
    early = datetime(2026, 11, 30, tzinfo=UTC)
    assert ("policies", "ok") in _of_policies(bank, early)
    _named(_of_policies(bank, last + timedelta(days=1)), "policies", "fail", "was in force until")


def test_data_and_policies_that_changed(made):
    bank, _ = made
    pq.write_table(pa.table({"a": [1, 2, 3]}), bank.datasets_folder / "t.parquet")
    policy = bank.policies_folder / "t.yaml"
    policy.write_text(POLICY.replace("t-v1", "t-v2"))
    found = _troubles(bank)
    _named(found, "data", "fail", "changed since")
    _named(found, "policies", "warn", "changed since it was published")
    policy.write_text(POLICY.replace("kinds", "kind"))
    _named(_troubles(bank), "policies", "fail", "not in the policy language")
    policy.unlink()
    _named(_troubles(bank), "policies", "fail", "cannot be read")
    (bank.datasets_folder / "t.yaml").write_text(DESCRIPTION.replace("offers: {t", "offers: {u"))
    policy.write_text(POLICY)
    _named(_troubles(bank), "policies", "warn", "not published")


def test_state_that_cannot_be_used(made):
    bank, _ = made
    file = bank.folder / config.FILE
    file.write_text(file.read_text().replace("state/connector.sqlite", "connector.toml/x"))
    _named(_troubles(config.load(file)), "state", "fail", "cannot be used")


def test_witnesses_and_peers_that_do_not_answer(made, tmp_path):
    bank, folder = made
    other = config.init(tmp_path / "sz", "sz-trade", "gba", "CN-SZ", address="127.0.0.1:1")
    space.enrol_local(folder, other.seat)
    file = bank.folder / config.FILE
    file.write_text(file.read_text() + '\n[[witness]]\nid = "witness-a"\n')
    found = _troubles(config.load(file))
    _named(found, "peers", "warn", "sz-trade does not answer at 127.0.0.1:1")
    _named(found, "witness", "fail", "names no witness witness-a")
    _named(_troubles(bank), "witness", "warn", "no witness is configured")


def test_a_witness_that_answers(made, tmp_path):
    bank, folder = made
    init_witness(tmp_path / "w", "witness-a", "gba", "HK", "log.example/w", "127.0.0.1:0", "127.0.0.1:0")
    space.enrol_local(folder, witness_seat(tmp_path / "w"))
    stop, ready, port = threading.Event(), threading.Event(), []

    def listening(grpc_port, _http):
        port.append(grpc_port)
        ready.set()

    thread = threading.Thread(target=serve, args=(load_witness(tmp_path / "w"), stop, listening))
    thread.start()
    assert ready.wait(10)
    file = bank.folder / config.FILE
    file.write_text(file.read_text() + f'\n[[witness]]\nid = "witness-a"\naddress = "127.0.0.1:{port[0]}"\n')
    findings = [f for f in doctor.examine(config.load(file)) if f.check == "witness"]
    # Another operator's witness is demanded, and nobody has asked it to cosign.
    other = cosigner_key("other.example/w", PrivateKey.from_seed(b"o" * 32))
    (bank.folder / "quorum.policy").write_text(f"witness o {other}\nquorum o\n")
    plain = file.read_text()
    file.write_text(f'{plain}\n[evidence]\nquorum = "quorum.policy"\n')
    uncosigned = _troubles(config.load(file))
    file.write_text(plain)
    stop.set()
    thread.join()
    assert [f.status for f in findings] == ["ok"]
    _named(uncosigned, "witness", "fail", "lacks the cosignatures")
    _named(_troubles(config.load(file)), "witness", "fail", "does not answer")


def _keep_record(bank, clocks, at):
    """One record of both parties, kept at `at` and still waiting for its witness."""
    parties = tuple(
        Party(name, role, (digit * 64,), "0" * 64, int(clock.timestamp() * 1000))
        for (name, clock), role, digit in zip(clocks.items(), ("provider", "consumer"), "ab", strict=True)
    )
    data = Data(commitments={"query": "0" * 64})
    outcome = Outcome("refused", "x")
    statement = Statement(
        "query.refusal", "gba", "0" * 64, Exchange("0" * 32, 0), parties, outcome, data, None, Sensitive()
    )
    payload = statement.seal(system_entropy).payload
    envelope = dsse.sign(PAYLOAD_TYPE, payload, identity.load_signing_keys(bank.evidence_key_path).keys)
    store = Store.open(bank.state_url, clock=lambda: at)
    store.open_exchange("0" * 32, None, "sz-trade", "provider", "query", "0" * 32, bytes(32))
    store.add_evidence("0" * 32, 0, "query.refusal", "0" * 64, envelope.to_bytes(), b"[]", ["witness-a"])
    store.close()


def test_a_peers_clock_and_evidence_that_nobody_fetches(made):
    bank, _ = made
    now = utc_now()
    _keep_record(bank, {"sz-trade": now + timedelta(seconds=90), "hk-bank": now}, now - timedelta(hours=2))
    found = _troubles(bank)
    _named(found, "clock", "warn", "sz-trade was 90 s off")
    _named(found, "state", "warn", "1 evidence records have waited")


def test_little_disk(made, monkeypatch):
    usage = doctor.shutil.disk_usage(made[0].folder)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=50 << 20))
    _named(_troubles(made[0]), "disk", "fail", "50 MiB free")


def test_a_check_that_crashes_is_a_finding_without_the_message(made, monkeypatch):
    def crash(_config, _now):
        raise ValueError("SECRET cell")
        yield

    monkeypatch.setattr(doctor, "_CHECKS", (("data", crash, "look"),))
    (finding,) = doctor.examine(made[0])
    assert (finding.status, finding.remedy) == ("fail", "look")
    assert "SECRET" not in finding.sentence
