"""A document crosses the border in somebody's hand: issued here, checked there, both recorded."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest

from compute.errors import ConfigError
from connector import cli, documents
from connector.receipts import receipt, trust_file
from witness.checks import VerificationFailed
from witness.verify import verify_files

ISSUER, VERIFIER = "sz-trade", "hk-bank"
PAPER = "完税证明 tax certificate".encode() * 100


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        _main(*map(str, arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def _main(*arguments: str) -> None:
    before, sys.argv = sys.argv, ["bayspace", *arguments]
    try:
        cli.main()
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    file = tmp_path_factory.mktemp("paper") / "paper.pdf"
    file.write_bytes(PAPER)
    return file


def test_issued_carried_verified_and_recorded(shared, paper, tmp_path, capsys) -> None:
    carried, out = tmp_path / "carried.json", tmp_path / "out.pdf"
    issue = ["document", "commit", paper, "-c", shared.folder / ISSUER, "--out", carried]
    code, said, _ = run(capsys, *issue, "--category", "税务", "--purpose", "开户")
    assert (code, "recorded by 1 witness" in said) == (0, True)
    check = ["document", "verify", carried, "-c", shared.folder / VERIFIER]
    code, said, _ = run(capsys, *check, "--issuer", ISSUER, "--out", out, "--record", "--language", "zh")
    assert code == 0
    assert "核验通过\n   签发方 sz-trade" in said
    assert "data_categories: 税务" in said
    assert out.read_bytes() == PAPER
    code, _, err = run(capsys, *check, "--issuer", "witness-a", "--record")
    assert (code, "NOT VERIFIED [issuer]" in err) == (7, True)
    store = shared.nodes[VERIFIER].store
    kept = [e for e in store.exchanges() if e.kind == "document"]
    assert [e.status for e in kept] == ["done", "failed"]


def test_both_records_are_receipts_and_say_nothing_of_the_document(shared, paper, tmp_path) -> None:
    issuer, verifier = shared.nodes[ISSUER], shared.nodes[VERIFIER]
    digest = hashlib.sha256(PAPER).digest()
    issued = documents.commit(issuer, digest)
    carried = documents.open_(issuer, issued.exchange, PAPER)
    found = documents.verify(carried, verifier, issuer=ISSUER)
    assert found.current == verifier.members.version
    checked = documents.record_verification(verifier, carried, None, None)
    for node, recorded in ((issuer, issued), (verifier, checked)):
        bundle = receipt(node.store, recorded.exchange)
        assert digest.hex().encode() not in bundle
        (item,) = verify_files(bundle, trust_file(node.config)).items
        assert item.record.outcome.status == "done"
        assert len(item.record.parties) == 1
    opened = receipt(verifier.store, checked.exchange, ("document", "issuance"))
    (item,) = verify_files(opened, trust_file(verifier.config)).items
    assert item.opened == {"document": digest, "issuance": bytes.fromhex(found.issued.digest)}


def test_a_failed_verification_says_why_in_its_record(shared, paper) -> None:
    issuer, verifier = shared.nodes[ISSUER], shared.nodes[VERIFIER]
    issued = documents.commit(issuer, hashlib.sha256(PAPER).digest())
    beside = documents.open_(issuer, issued.exchange, PAPER, beside=True)
    with pytest.raises(VerificationFailed) as caught:
        documents.verify(beside, verifier, digest=b"0" * 32)
    recorded = documents.record_verification(verifier, beside, b"0" * 32, caught.value)
    (item,) = verify_files(receipt(verifier.store, recorded.exchange), trust_file(verifier.config)).items
    assert (item.record.outcome.status, item.record.outcome.reason) == ("failed", "document")
    with pytest.raises(ConfigError, match="holds no document"):
        documents.record_verification(verifier, b"{}", None, caught.value)


def test_own_copies_are_erased_once_somebody_says_yes(shared, capsys) -> None:
    issuer = shared.nodes[ISSUER]
    issued = documents.commit(issuer, hashlib.sha256(PAPER).digest())
    erase = ("evidence", "erase", issued.exchange, "-c", shared.folder / ISSUER)
    code, _, error = run(capsys, *erase)
    assert (code, "evidence.confirm" in error) == (2, True)
    assert issuer.store.evidence(issued.exchange)[0].envelope
    issuer.evidence.settle(issued.exchange, 20)
    for erased in (1, 0):
        code, out, _ = run(capsys, *erase, "--yes", "--json")
        assert (code, json.loads(out)) == (
            0,
            {"exchange": issued.exchange, "erased": erased, "records": 1, "logged": 1},
        )
    code, out, _ = run(capsys, *erase)  # nothing is left that a yes could cost
    assert (code, "erased already" in out) == (0, True)
    with pytest.raises(ConfigError) as gone:
        receipt(issuer.store, issued.exchange)
    assert gone.value.code == "evidence.erased"


def test_the_verifier_of_receipts_speaks_both_languages(shared, tmp_path, capsys) -> None:
    issuer = shared.nodes[ISSUER]
    issued = documents.commit(issuer, hashlib.sha256(PAPER).digest())
    (tmp_path / "receipt.json").write_bytes(receipt(issuer.store, issued.exchange))
    (tmp_path / "trust.json").write_bytes(trust_file(issuer.config))
    check = ("evidence", "verify", tmp_path / "receipt.json", "--language")
    code, said, _ = run(capsys, *check, "zh")
    assert (code, said.startswith("核验通过")) == (0, True)
    (tmp_path / "receipt.json").write_bytes(b"{}")
    code, _, said = run(capsys, *check, "zh")
    assert (code, said.splitlines()[-1].startswith("核验未通过 [format]")) == (7, True)
    code, _, said = run(capsys, *check, "en")
    assert (code, said.splitlines()[-1].startswith("NOT VERIFIED [format]")) == (7, True)
    assert f"trusting {tmp_path / 'trust.json'}" in said  # which nobody named
    assert run(capsys, *check, "fr")[0] == 2


def test_what_is_not_over_or_in_force_is_not_erased(shared, capsys) -> None:
    store = shared.nodes[ISSUER].store
    store.open_exchange("0" * 32, None, VERIFIER, "provider", "query", "", b"k" * 32)
    store.add_evidence("0" * 32, 0, "query.intent", "d0", b"", b"")
    in_force = next(n.id for n in store.negotiations() if n.agreement)
    for exchange, refused in (("0" * 32, "open"), (in_force, "open"), ("1" * 32, "unknown")):
        code, _, error = run(capsys, "evidence", "erase", exchange, "--yes", "-c", shared.folder / ISSUER)
        assert (code, f"evidence.{refused}" in error) == (2, True)
    store.close_exchange("0" * 32, "failed")


def test_only_the_committed_document_is_opened(shared, paper) -> None:
    issuer = shared.nodes[ISSUER]
    issued = documents.commit(issuer, hashlib.sha256(PAPER).digest())
    with pytest.raises(ConfigError) as caught:
        documents.open_(issuer, issued.exchange, PAPER + b" ")
    assert caught.value.code == "document.other"
    with pytest.raises(ConfigError) as caught:
        documents.open_(issuer, "0" * 32, PAPER)
    assert caught.value.code == "document.unknown"
    assert issuer.store.erase_evidence(issued.exchange)
    with pytest.raises(ConfigError) as caught:
        documents.open_(issuer, issued.exchange, PAPER)
    assert caught.value.code == "evidence.erased"


def test_a_silent_witness_delays_the_carried_file_and_loses_nothing(fresh, paper, tmp_path, capsys) -> None:
    fresh.stop_witness()
    issue = ["document", "commit", paper, "-c", fresh.folder / ISSUER]
    code, said, _ = run(capsys, *issue, "--json")
    exchange = json.loads(said)["exchange"]
    assert (code, json.loads(said)["witnesses"]) == (0, 0)
    out = tmp_path / "carried.json"
    open_it = ["document", "open", exchange, paper, "-c", fresh.folder / ISSUER, "--out", out]
    code, _, err = run(capsys, *open_it)
    assert (code, "[witness.pending]" in err, out.exists()) == (6, True, False)
    fresh.start_witness()
    code, _, _ = run(capsys, *open_it)
    assert code == 0
    trust = tmp_path / "trust.json"
    trust.write_bytes(trust_file(fresh.nodes[VERIFIER].config))
    code, said, _ = run(capsys, "document", "verify", out, "--trust", trust, "--json")
    found = json.loads(said)
    assert (code, found["issuer"], found["current_members"]) == (0, ISSUER, None)


def test_a_member_that_was_removed_no_longer_stands(fresh, paper, tmp_path, capsys) -> None:
    from connector import enrolment, space

    carried = tmp_path / "carried.json"
    code, _, _ = run(capsys, "document", "commit", paper, "-c", fresh.folder / ISSUER, "--out", carried)
    assert code == 0
    space.remove(fresh.folder / "space", ISSUER)
    verifier = fresh.nodes[VERIFIER].config
    enrolment.adopt_members(verifier.seat.trust, (fresh.folder / "space" / "members.json").read_bytes())
    code, said, _ = run(capsys, "document", "verify", carried, "-c", fresh.folder / VERIFIER, "--json")
    assert (code, json.loads(said)["error"]["code"]) == (7, "revoked")


def test_wrong_arguments_are_named(shared, paper, tmp_path, capsys) -> None:
    folder = shared.folder / ISSUER
    for arguments, wanted in (
        (["commit", paper, "-c", folder, "--retain-until", "soon"], "document.claim"),
        (["commit", tmp_path / "none", "-c", folder], "file.unreadable"),
        (["commit", paper, "-c", folder, "--out", tmp_path / "no" / "where"], "file.unwritable"),
    ):
        code, _, err = run(capsys, "document", *arguments)
        assert (code, f"[{wanted}]" in err) == (2, True), err


def test_without_a_configured_witness_nothing_is_committed(shared, monkeypatch) -> None:
    node = shared.nodes[ISSUER]
    monkeypatch.setattr(node.evidence, "_witnesses", {})
    with pytest.raises(ConfigError, match="no witness"):
        documents.commit(node, b"0" * 32)
