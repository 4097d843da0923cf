"""A receipt grows parts that other people's tools verify, and stays a receipt."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from compute.errors import ConfigError, Unavailable
from connector import cli, documents
from connector.receipts import _operator_signs_from, asking, extended, receipt, required, trust_file
from witness import bundle, timestamp
from witness.checkpoint import log_key
from witness.checks import Requirement
from witness.keys import ED25519, ML_DSA_44, PrivateKey
from witness.members import CONNECTOR, WITNESS, EvidenceKey, MemberList, Participant, successor
from witness.verify import verify_files

ISSUER = "sz-trade"
VECTOR = Path(__file__).parents[1] / "vectors" / "witness" / "timestamp"


@pytest.fixture(scope="module")
def issued(shared) -> bytes:
    """The receipt of one witnessed record."""
    node = shared.nodes[ISSUER]
    return receipt(node.store, documents.commit(node, b"d" * 32).exchange)


def test_a_cose_receipt_comes_with_a_proof_of_the_same_tree(shared, issued) -> None:
    node = shared.nodes[ISSUER]
    more = extended(issued, None, node.evidence.receipt)
    assert b'"bayspace-bundle/v2"' in more
    (item,) = verify_files(more, trust_file(node.config)).items
    assert item.receipt is not None
    assert item.receipt.index == item.included.index
    assert verify_files(issued, trust_file(node.config)).items[0].receipt is None


def test_a_log_of_no_witness_of_ours_gives_no_receipt(shared) -> None:
    with pytest.raises(Unavailable) as caught:
        shared.nodes[ISSUER].evidence.receipt("other.example/log", b"")
    assert caught.value.code == "witness.other"


@pytest.fixture
def authority():
    """An HTTP server that answers every query with `answer`; and the queries."""

    class Handler(BaseHTTPRequestHandler):
        answer, queries = b"", []

        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/timestamp-query"
            self.queries.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.answer)))
            self.end_headers()
            self.wfile.write(self.answer)

        def log_message(self, *_) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_answer_that_is_no_timestamp_of_ours_is_refused(issued, authority) -> None:
    handler, url = authority
    token = (VECTOR / "token.der").read_bytes()
    granted = b"\x30\x82" + (len(token) + 5).to_bytes(2, "big") + b"\x30\x03\x02\x01\x00" + token
    assert timestamp.token_of(granted) == token
    for answer in (b"", b"<html>", b"\x30\x05\x30\x03\x02\x01\x02", granted):
        handler.answer = answer
        with pytest.raises(Unavailable) as caught:
            extended(issued, asking(url), None)
        assert caught.value.code == "timestamp.answer"
    (item,) = bundle.parse(issued)[0].items
    head = item.proof.split("\n\n")[1] + "\n"
    assert all(timestamp.imprint(head) in query for query in handler.queries)


def test_a_silent_authority_and_wrong_arguments_are_named(
    shared, issued, tmp_path, capsys, monkeypatch
) -> None:
    with pytest.raises(Unavailable) as caught:
        asking("http://127.0.0.1:1")(b"")
    assert caught.value.code == "timestamp.unavailable"
    with pytest.raises(ConfigError) as wrong:
        asking("file:///etc/passwd")
    assert wrong.value.code == "timestamp.url"
    with pytest.raises(ConfigError) as wrong:
        extended(b"{}", None, None)
    assert wrong.value.code == "evidence.bundle"
    (tmp_path / "receipt.json").write_bytes(issued)
    arguments = ["evidence", "extend", str(tmp_path / "receipt.json"), "--out", str(tmp_path / "out.json")]
    folder = ["-c", str(shared.folder / ISSUER)]
    assert run(monkeypatch, *arguments) == 2
    assert run(monkeypatch, *arguments, *folder, "--cose") == 0
    assert b"bundle/v2" in (tmp_path / "out.json").read_bytes()
    trust = ["evidence", "trust", *folder, "--out", str(tmp_path / "trust.json"), "--timestamp-authority"]
    assert run(monkeypatch, *trust, str(VECTOR / "authority.pem")) == 0
    assert b"timestamp_authorities" in (tmp_path / "trust.json").read_bytes()
    assert run(monkeypatch, *trust, str(VECTOR / "checkpoint.txt")) == 2
    assert "[timestamp.authority]" in capsys.readouterr().err


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["bayspace", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_both_algorithms_are_required_once_the_last_key_of_one_has_ended() -> None:
    def key(name: str, algorithm: str, start: int, end: int | None = None) -> EvidenceKey:
        return EvidenceKey(PrivateKey.from_seed(name.encode() * 32, algorithm).public, start, end)

    def since(*keys: EvidenceKey) -> list[Requirement]:
        member = Participant("hk-bank", CONNECTOR, keys, "hk.example:1", "HK")
        return required(MemberList("gba", 1, 0, (member,)))

    pair = (key("b", ED25519, 100), key("c", ML_DSA_44, 100))
    assert since(*pair) == [Requirement(ML_DSA_44, 100)]
    assert since(key("a", ED25519, 0, 700), *pair) == [Requirement(ML_DSA_44, 700)]  # its days of grace
    assert since(key("a", ED25519, 0)) == []


def test_a_logs_second_key_counts_from_when_it_was_announced() -> None:
    """Not from the witness's evidence key, which signs no checkpoint."""
    log = "witness.example/gba"
    alone = str(log_key(log, PrivateKey.from_seed(b"l" * 32)))
    second = str(log_key(log, PrivateKey.from_seed(b"m" * 32, ML_DSA_44)))

    def listed(version: int, at: int, *logs: str) -> MemberList:
        keys = (EvidenceKey(PrivateKey.from_seed(b"w" * 32).public, 0),)
        witness = Participant("witness-a", WITNESS, keys, "w.example:1", "CN-SZ", logs=logs)
        return MemberList("gba", version, at, (witness,))

    first, gained, later = listed(1, 100, alone), listed(2, 500, alone, second), listed(3, 900, alone, second)
    assert required(first) == []
    assert required(gained) == [Requirement(ML_DSA_44, 500)]
    assert required(later, [gained]) == [Requirement(ML_DSA_44, 500)]
    week = 7 * 86_400_000
    assert required(later, [first, gained]) == [Requirement(ML_DSA_44, 500 + week)]  # until it was restarted


def test_the_operators_second_key_is_demanded_at_once_only_of_a_space_that_began_with_it() -> None:
    keys = tuple(PrivateKey.from_seed(b"o" * 32, algorithm).public for algorithm in (ED25519, ML_DSA_44))
    week = 7 * 24 * 3600 * 1000
    plain = successor(None, "gba", [], 1000)
    named = successor(plain, "gba", [], 2000, keys)
    later = successor(named, "gba", [], 3000, keys)
    assert _operator_signs_from((plain,)) == {}
    assert _operator_signs_from((successor(None, "gba", [], 1000, keys),)) == {keys[1]: 1000}
    assert _operator_signs_from((plain, named, later)) == {keys[1]: 2000 + week}
    assert _operator_signs_from((named,)) == {keys[1]: 2000 + week}  # joined then, and never saw the first
