"""C2SP, sentence by sentence: what the other tests of these formats leave, and the table in docs/reference.

The specifications say MUST; docs/reference/c2sp.md lists each with the test that holds it.
"""

import hashlib
import http.client
import re
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.witness.test_cosigner import (
    KEYS,
    LEAVES,
    LOG,
    NOW,
    ORIGIN,
    Witness,
    head,
    request,
    root_of,
)
from witness import checkpoint, cosignature, note, policy, tiles
from witness.checkpoint import Checkpoint, CheckpointInvalid
from witness.cosigner import Request
from witness.keys import ML_DSA_44, PrivateKey
from witness.note import Note
from witness.policy import PolicyInvalid
from witness.tiles import TileInvalid
from witness.tileserver import TileServer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "c2sp.md"


# --- the table ------------------------------------------------------------------------------------------


def rows() -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text("utf-8").splitlines()
        if re.match(r"\| [A-Z]", line) and "`test_" in line
    ]


def test_every_test_that_the_table_names_is_there() -> None:
    sources = {
        file.name: file.read_text("utf-8")
        for folder in ("witness", "interop")
        for file in (ROOT / "tests" / folder).glob("test_*.py")
    }
    named = [re.findall(r"`(test_[a-z0-9_]+)`(?: in `(test_[a-z0-9_]+\.py)`)?", row[-1]) for row in rows()]
    assert len(named) > 40
    for tests in named:
        assert tests
        for test, file in tests:
            assert any(f"def {test}(" in sources[name] for name in ([file] if file else sources)), test


# --- signed-note ----------------------------------------------------------------------------------------


def test_sixteen_post_quantum_signatures_are_read_and_cosigned(tmp_path) -> None:
    others = [PrivateKey.from_seed(bytes([n]) * 32, ML_DSA_44) for n in range(16)]
    text = head(5).text
    lines = [cosignature.sign(text, key, f"w{n}.example", NOW // 1000) for n, key in enumerate(others)]
    crowded = Note(text, (*lines, *head(5).signatures))
    assert note.parse(str(crowded)) == crowded
    made = Witness(f"sqlite:///{tmp_path / 'w.sqlite'}")
    with closing(made.database):
        assert made.code(str(Request(0, (), crowded)).encode()) == 200


@pytest.mark.parametrize("name", ["a\u00a0b", "a\u2003b", "a\u3000b", "a+b", ""])
def test_key_names_without_unicode_spaces_or_plus(name) -> None:
    with pytest.raises(note.NoteInvalid):
        note.verifier_key(name, LOG.public)


# --- tlog-checkpoint ------------------------------------------------------------------------------------


def test_a_size_that_no_integer_holds_is_no_checkpoint(tmp_path) -> None:
    assert checkpoint.parse(str(Checkpoint("o", 2**63 - 1, b"r" * 32))).size == 2**63 - 1
    beyond = Checkpoint(ORIGIN, 2**63, b"r" * 32)
    with pytest.raises(CheckpointInvalid, match="size"):
        checkpoint.parse(str(beyond))
    signed = Note(str(beyond), (note.sign(str(beyond), LOG, ORIGIN),))
    made = Witness(f"sqlite:///{tmp_path / 'w.sqlite'}")
    with closing(made.database):
        assert made.code(str(Request(0, (), signed)).encode()) == 400


def test_extension_lines_are_not_empty() -> None:
    text = str(Checkpoint("o", 1, b"r" * 32))
    assert checkpoint.parse(f"{text}one\ntwo\n", extensions=True).size == 1
    for wrong in (f"{text}\n", f"{text}one\n\n", f"{text}\none\n", f"{text}one\n"):
        with pytest.raises(CheckpointInvalid):
            checkpoint.parse(wrong, extensions=wrong != f"{text}one\n")


# --- tlog-tiles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [256, 257, 999])
def test_a_partial_tile_is_narrower_than_a_full_one(width) -> None:
    for level in ("0", "entries"):
        with pytest.raises(TileInvalid):
            tiles.parse_path(f"tile/{level}/000.p/{width}")


# --- tlog-policy ----------------------------------------------------------------------------------------


def witness_key(number: int) -> note.VerifierKey:
    key = PrivateKey.from_seed(number.to_bytes(32, "big"))
    return note.verifier_key(f"w{number}.example", key.public, note.TYPE_COSIGNATURE_ED25519)


def test_a_policy_of_32_logs_witnesses_and_groups() -> None:
    logs = [
        note.verifier_key(f"l{n}.example", PrivateKey.from_seed(bytes([n]) * 32).public) for n in range(32)
    ]
    lines = [f"log {key}" for key in logs]
    lines += [f"witness w{n} {witness_key(n + 1000)} https://w{n}.example/" for n in range(32)]
    lines += [f"group g{n} any w{n}" for n in range(32)]
    everybody = " ".join(f"g{n}" for n in range(32))
    made = policy.parse("\n".join([*lines, f"group all-of-them 32 {everybody}", "quorum all-of-them"]))
    assert made.satisfied_by({f"w{n}" for n in range(32)})
    assert not made.satisfied_by({f"w{n}" for n in range(31)})


def test_octets_beyond_ascii_are_opaque_in_names_urls_and_comments() -> None:
    key = witness_key(1)
    kelvin = "\u212a".encode()  # looks like K, and is another name
    text = b"# \xff\xfe\nwitness K %b\nwitness %b %b https://\xe4.example/\nquorum %b\n"
    made = policy.read(text % (str(key).encode(), kelvin, str(witness_key(2)).encode(), kelvin))
    assert not made.satisfied_by({"K"})
    assert made.satisfied_by({"\u212a"})
    with pytest.raises(PolicyInvalid, match="line 1"):  # a key's name is UTF-8 in any note
        policy.read(b"witness K \xff%b\nquorum K\n" % str(key).encode())
    for control in (b"\x0b", b"\x7f", b"\x00", b"\r"):
        with pytest.raises(PolicyInvalid, match="control"):
            policy.read(b"quorum none" + control)


# --- tlog-witness over HTTP -----------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path):
    """A cosigner behind HTTP: a function of (method, path, body) to (status, type, body), one connection."""
    made = Witness(f"sqlite:///{tmp_path / 'w.sqlite'}")

    def nothing(path):
        raise FileNotFoundError(path)

    server = TileServer("127.0.0.1", 0, nothing, made.cosigner)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

    def ask(method, path, body=None):
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read()

    ask.connection = connection
    yield ask
    connection.close()
    server.shutdown()
    thread.join()
    server.server_close()
    made.database.close()


def test_the_answers_on_the_wire(asked) -> None:
    digest = hashlib.sha256(ORIGIN.encode()).hexdigest()
    assert asked("GET", f"/{digest}/checkpoint")[0] == 404  # never cosigned yet
    status, _, body = asked("POST", "/add-checkpoint", request(0, 5))
    socket = asked.connection.sock
    assert status == 200
    lines = body.decode().splitlines(keepends=True)
    assert all(re.fullmatch(r"— witness\.example/w \S+\n", line) for line in lines)
    assert len(lines) == 2
    again = asked("POST", "/add-checkpoint", request(0, 8))
    assert (again[0], again[1], again[2]) == (409, "text/x.tlog.size", b"5\n")
    assert asked("POST", "/add-checkpoint", b"old")[0] == 400
    assert asked("POST", "/add-checkpoint", request(5, 8, proof=()))[0] == 422
    elsewhere = str(Request(0, (), head(5, origin="other.example/log"))).encode()
    assert asked("POST", "/add-checkpoint", elsewhere)[0] == 404
    stranger = note.sign(head(8).text, PrivateKey.from_seed(b"s" * 32), ORIGIN)
    assert (
        asked("POST", "/add-checkpoint", str(Request(5, (), Note(head(8).text, (stranger,)))).encode())[0]
        == 403
    )
    status, kind, body = asked("GET", f"/{digest}/checkpoint")
    assert (status, kind) == (200, "text/plain; charset=utf-8")
    kept = note.parse(body.decode())
    names = [line.name for line in kept.signatures]
    assert names == [ORIGIN, ORIGIN, "witness.example/w", "witness.example/w"]
    assert "".join(lines) in body.decode()  # the very cosignatures that were answered
    assert asked.connection.sock is socket  # one connection for all of it
    assert asked("GET", f"/{digest.upper()}/checkpoint")[0] == 404
    assert asked("POST", "/sign-subtree", b"subtree 0 1\n")[0] == 404  # optional, and not offered


def test_the_order_of_the_checks(asked) -> None:
    """Where two things are wrong at once, the answer is the first one of the specification's order."""
    beyond = Note(head(8).text, (note.sign(head(8).text, PrivateKey.from_seed(b"s" * 32), ORIGIN),))
    assert asked("POST", "/add-checkpoint", request(0, 5))[0] == 200
    cases = [
        (str(Request(9, (), head(8, origin="other.example/log"))).encode(), 404),  # unknown before sizes
        (str(Request(9, (), beyond)).encode(), 403),  # a false signature before sizes
        (str(Request(9, (b"h" * 32,), head(8))).encode(), 400),  # old beyond the checkpoint before 409
        (str(Request(3, (b"h" * 32,), head(8))).encode(), 409),  # another size before the proof
    ]
    for body, status in cases:
        assert asked("POST", "/add-checkpoint", body)[0] == status


def test_a_witness_signs_whole_trees_with_its_time_only(tmp_path) -> None:
    made = Witness(f"sqlite:///{tmp_path / 'w.sqlite'}")
    with closing(made.database):
        _, _, body = made.post(request(0, 5))
    (line,) = (s for s in note.parse(f"{head(5).text}\n{body}").signatures if len(s.signature) > 2000)
    key = cosignature.cosigner_key("witness.example/w", KEYS.keys[1])
    seconds = int.from_bytes(line.signature[:8], "big")
    assert seconds == NOW // 1000 > 0
    message = cosignature.message(key, head(5).text, seconds)
    tail = (0).to_bytes(8, "big") + (5).to_bytes(8, "big") + root_of(LEAVES[:5])
    assert message == b"".join(
        [
            b"subtree/v1\n\0",
            b"\x11witness.example/w",
            seconds.to_bytes(8, "big"),
            b"\x0e",
            ORIGIN.encode(),
            tail,
        ]
    )
    key.public.verify(message, line.signature[8:])
