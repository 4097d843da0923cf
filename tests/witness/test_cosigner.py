"""C2SP tlog-witness: exactly the answers of the specification, one cosignature chain per log, forks kept."""

import hashlib
import threading
from contextlib import ExitStack, closing

import pytest

from witness import checkpoint, cosignature, database, merkle, note, policy
from witness.checkpoint import Checkpoint
from witness.cosigner import Cosigner, Request
from witness.database import Database
from witness.files import Folder
from witness.keys import ED25519, ML_DSA_44, PrivateKey, PrivateKeys
from witness.memory import COSIGNER_FORGOT, Memory
from witness.merkle import leaf_hash
from witness.note import Note, NoteInvalid, NoteSignature
from witness.quorum import Reply

ORIGIN = "log.example/hk"
LOG = PrivateKey.from_seed(b"l" * 32)
LOG_PQ = PrivateKey.from_seed(b"l" * 32, ML_DSA_44)
KEYS = PrivateKeys([PrivateKey.from_seed(b"w" * 32, a) for a in (ED25519, ML_DSA_44)])
NOW = 1_767_225_600_000
LEAVES = [leaf_hash(b"%d" % i) for i in range(40)]
OTHERS = [leaf_hash(b"other %d" % i) for i in range(40)]
SIZE = "text/x.tlog.size"


def log_policy(*keys, origin=ORIGIN):
    lines = [f"log {checkpoint.log_key(origin, key)}" for key in keys or (LOG, LOG_PQ)]
    return policy.parse("\n".join([*lines, "quorum none"]))


def root_of(leaves):
    return merkle.root(len(leaves), merkle.nodes_of(leaves))


def head(size, leaves=LEAVES, origin=ORIGIN, keys=(LOG, LOG_PQ)):
    root = root_of(leaves[:size])
    return checkpoint.sign(Checkpoint(origin, size, root), *keys, timestamp=NOW // 1000)


def proof(old, new, leaves=LEAVES):
    return tuple(merkle.consistency_proof(old, new, merkle.nodes_of(leaves[:new]))) if 0 < old < new else ()


def request(old, new, leaves=LEAVES, **changes):
    return str(Request(old, changes.get("proof", proof(old, new, leaves)), head(new, leaves))).encode()


class Witness:
    def __init__(self, url, logs=None):
        self.alarms = []
        self.database = Database(url)
        self.cosigner = Cosigner(
            "witness.example/w", KEYS, logs or log_policy(), self.database, lambda: NOW, self.alarms.append
        )

    def post(self, body):
        answer = self.cosigner.add_checkpoint(body)
        return int(answer.status), answer.content_type, answer.body.decode()

    def code(self, body):
        return self.post(body)[0]

    @property
    def size(self):
        kept = self.database.cosigned(ORIGIN)
        return None if kept is None else checkpoint.parse(note.parse(kept).text).size


@pytest.fixture
def witness(tmp_path):
    made = Witness(f"sqlite:///{tmp_path / 'w.sqlite'}")
    with closing(made.database):
        yield made


def test_cosigns_what_grows_with_both_kinds_of_key(witness):
    for old, new in ((0, 5), (5, 5), (5, 8), (8, 33)):
        status, kind, body = witness.post(request(old, new))
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        signed = note.parse(f"{head(new).text}\n{body}")
        assert [cosignature.cosigned_at(signed, key) for key in witness.cosigner.vkeys] == [NOW // 1000] * 2
        assert all(line.startswith("— witness.example/w ") for line in body.splitlines())
    assert witness.size == 33
    assert witness.alarms == []


def test_an_empty_log_can_be_cosigned(witness):
    assert witness.code(request(0, 0)) == 200
    assert witness.code(request(0, 0)) == 200
    assert witness.code(request(0, 3)) == 200
    assert witness.code(request(0, 0)) == 409


def changed_signature(signed, number):
    lines = list(signed.signatures)
    line = lines[number]
    lines[number] = NoteSignature(
        line.name, line.key_id, line.signature[:-1] + bytes([line.signature[-1] ^ 1])
    )
    return Note(signed.text, tuple(lines))


def spoiled():
    """Requests to a witness that cosigned size 5, with the code that the specification gives each."""
    good = request(5, 8)
    text = good.decode()
    stranger = PrivateKey.from_seed(b"s" * 32)
    other_origin = head(8, origin="other.example/log")
    empty = checkpoint.sign(Checkpoint(ORIGIN, 0, b"x" * 32), LOG)
    unsigned = Note(head(8).text, (note.sign(head(8).text, stranger, ORIGIN),))
    yield "no body", b"", 400
    yield "not utf-8", b"\xff" + good, 400
    yield "no old line", text.partition("\n")[2].encode(), 400
    yield "leading zero", text.replace("old 5", "old 05").encode(), 400
    yield "plus", text.replace("old 5", "old +5").encode(), 400
    yield "two spaces", text.replace("old 5", "old  5").encode(), 400
    yield "carriage return", text.replace("old 5", "old 5\r").encode(), 400
    yield "no empty line", text.replace("\n\n", "\n", 1).encode(), 400
    yield "proof line not base64", text.replace("old 5\n", "old 5\n!\n").encode(), 400
    yield "proof line not a hash", text.replace("old 5\n", "old 5\nAAAA\n").encode(), 400
    yield "64 proof lines", request(5, 8, proof=(b"h" * 32,) * 64), 400
    yield "note cut off", good[:-5], 400
    yield "old beyond the checkpoint", request(9, 8, proof=()), 400
    yield "origin unknown", str(Request(5, (), other_origin)).encode(), 404
    yield "signed by a stranger", str(Request(5, (), unsigned)).encode(), 403
    yield "Ed25519 line false", str(Request(5, (), changed_signature(head(8), 0))).encode(), 403
    yield "ML-DSA line false", str(Request(5, (), changed_signature(head(8), 1))).encode(), 403
    yield "old too small", request(3, 8), 409
    yield "old too large", request(7, 8), 409
    yield "first request again", request(0, 8), 409
    yield "empty tree with a root", str(Request(0, (), empty)).encode(), 422
    yield "proof missing", request(5, 8, proof=()), 422
    yield "proof of other sizes", request(5, 8, proof=proof(4, 8)), 422
    yield "proof too long", request(5, 8, proof=(*proof(5, 8), b"h" * 32)), 422
    yield "proof where sizes are equal", request(5, 5, proof=(b"h" * 32,)), 422
    yield "another tree", request(5, 8, OTHERS), 422
    yield "another tree of that size", request(5, 5, OTHERS), 422


@pytest.mark.parametrize(("body", "code"), [c[1:] for c in spoiled()], ids=[c[0] for c in spoiled()])
def test_refuses_with_the_codes_of_the_specification(witness, body, code):
    assert witness.code(request(0, 5)) == 200
    status, kind, answer = witness.post(body)
    assert status == code
    if code == 409:
        assert (kind, answer) == (SIZE, "5\n")
    assert "—" not in answer
    assert witness.size == 5
    assert witness.code(request(5, 8)) == 200  # and goes on as if nothing had been


def test_a_proof_from_nothing_must_be_empty(witness):
    assert witness.code(request(0, 5, proof=(b"h" * 32,))) == 422
    assert witness.size is None
    assert witness.post(request(2, 5))[::2] == (409, "0\n")


def test_lines_of_unknown_keys_and_extension_lines_do_not_disturb(tmp_path):
    text = f"{head(5).text}extended\n"
    signed = Note(
        text, (note.sign(text, PrivateKey.from_seed(b"s" * 32), ORIGIN), note.sign(text, LOG, ORIGIN))
    )
    made = Witness(f"sqlite:///{tmp_path / 'w.sqlite'}", log_policy(LOG))
    with closing(made.database):
        status, _, body = made.post(str(Request(0, (), signed)).encode())
        assert status == 200
        cosigned = note.parse(f"{text}\n{body}")
        assert all(cosignature.cosigned_at(cosigned, key) for key in made.cosigner.vkeys)


def test_two_roots_of_one_size_are_kept_as_proof(witness):
    witness.code(request(0, 5))
    assert witness.code(request(5, 5, OTHERS)) == 422
    assert witness.code(request(3, 5, OTHERS, proof=())) == 409  # whatever else is wrong with the request
    (fork,) = witness.database.forks()
    assert witness.alarms == [fork]
    roots = {
        checkpoint.open_checkpoint(note.parse(signed), log_policy().logs).root
        for signed in (fork.first, fork.second)
    }
    assert fork.proved
    assert roots == {head_root(5, LEAVES), head_root(5, OTHERS)}


def head_root(size, leaves):
    return checkpoint.parse(head(size, leaves).text).root


def test_growth_that_is_not_shown_is_kept_as_a_suspicion(witness):
    witness.code(request(0, 5))
    assert witness.code(request(5, 8, OTHERS)) == 422
    (fork,) = witness.database.forks()
    assert (fork.origin, fork.proved) == (ORIGIN, False)


def test_suspicions_do_not_crowd_out_a_proof(witness, monkeypatch):
    monkeypatch.setattr(database, "MOST_FORKS", 2)
    witness.code(request(0, 5))
    for size in (8, 9, 10):
        witness.code(request(5, size, OTHERS))
    witness.code(request(5, 5, OTHERS))
    assert [fork.proved for fork in witness.database.forks()] == [False, False, True]


def test_what_nobody_known_signed_is_not_kept(witness):
    witness.code(request(0, 5))
    false = checkpoint.sign(Checkpoint(ORIGIN, 5, b"x" * 32), PrivateKey.from_seed(b"s" * 32))
    assert witness.code(str(Request(5, (), false)).encode()) == 403
    assert witness.database.forks() == []


def test_a_log_that_repeats_its_signature_cannot_blind_the_witness(witness):
    signed = head(5)
    wordy = Note(signed.text, signed.signatures[:1] * note.MOST_SIGNATURES)
    assert witness.code(str(Request(0, (), wordy)).encode()) == 200
    assert witness.size == 5  # what is kept can be read again
    assert witness.code(request(5, 5, OTHERS)) == 422
    assert [fork.proved for fork in witness.database.forks()] == [True]


def test_the_newest_checkpoint_is_for_monitors(witness):
    digest = hashlib.sha256(ORIGIN.encode()).hexdigest()
    assert witness.cosigner.checkpoint(digest) is None
    witness.code(request(0, 5))
    signed = note.parse(witness.cosigner.checkpoint(digest).decode())
    assert checkpoint.open_checkpoint(signed, log_policy().logs).size == 5
    assert all(cosignature.cosigned_at(signed, key) for key in witness.cosigner.vkeys)
    assert witness.cosigner.checkpoint("0" * 64) is None


def test_at_once_only_one_history_is_cosigned(tmp_path):
    """Two trees of one size, many threads: one of them wins, whatever the order."""
    made = Witness(f"sqlite:///{tmp_path / 'w.sqlite'}")
    with closing(made.database):
        barrier, codes = threading.Barrier(8), []

        def ask(number):
            barrier.wait()
            codes.append((number % 2, made.code(request(0, 5, (LEAVES, OTHERS)[number % 2]))))

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({tree for tree, code in codes if code == 200}) == 1
        assert {code for _, code in codes} <= {200, 409, 422}


def test_never_a_log_of_its_own_operator(tmp_path):
    with (
        closing(Database(f"sqlite:///{tmp_path / 'w.sqlite'}")) as database,
        pytest.raises(policy.PolicyInvalid, match="own operator"),
    ):
        Cosigner("log.example/witness", KEYS, log_policy(), database, lambda: NOW)


def test_a_cosignature_needs_a_time():
    with pytest.raises(NoteInvalid, match="time"):
        cosignature.sign(head(5).text, KEYS.keys[1], "w.example", 0)


def test_keys_of_both_kinds_in_one_file():
    again = PrivateKeys.from_pem(KEYS.pem())
    assert again.public == KEYS.public
    for key, part in KEYS.public.split(KEYS.sign(b"message")):
        key.verify(b"message", part)


# --- what was cosigned, and is forgotten ----------------------------------------------------------------


class Remembering:
    """A witness whose memory is looked at; the log publishes what `published` holds, or nothing."""

    def __init__(self, folder, keys=KEYS, published=None, url=" http://log.example"):
        self.folder, self.published = folder, published
        self.database = Database(f"sqlite:///{folder / 'w.sqlite'}")
        lines = [f"log {checkpoint.log_key(ORIGIN, key)}{url}" for key in (LOG, LOG_PQ)]
        logs = policy.parse("\n".join([*lines, "quorum none"]))
        vkeys = [cosignature.cosigner_key("witness.example/w", key) for key in keys.keys]
        self.memory = Memory(vkeys, logs, self.database, Folder(folder), self.connect)
        self.cosigner = Cosigner(
            "witness.example/w", keys, logs, self.database, lambda: NOW, objection=self.memory.objection
        )

    def connect(self, _url):
        def call(method, path, _body):
            assert (method, path) == ("GET", "checkpoint")
            if self.published is None:
                raise OSError
            return Reply(200, "text/plain", self.published)

        return call

    def code(self, old, new):
        return int(self.cosigner.add_checkpoint(request(old, new)).status)


@pytest.fixture
def remembering(tmp_path):
    with ExitStack() as opened:

        def again(**changes):
            made = Remembering(tmp_path, **changes)
            opened.callback(made.database.close)
            return made

        yield again


def cosigned_head(size, *, leaves=LEAVES, keys=KEYS):
    signed = head(size, leaves)
    lines = [cosignature.sign(signed.text, key, "witness.example/w", NOW // 1000) for key in keys.keys]
    return str(Note(signed.text, (*signed.signatures, *lines))).encode()


def test_a_log_with_a_url_is_looked_at_before_it_is_cosigned(remembering):
    witness = remembering()
    witness.memory.look(ORIGIN)  # it does not answer
    assert (witness.code(0, 5), witness.code(3, 5)) == (
        503,
        409,
    )  # and the specification's answers come first
    for published in (
        b"<html>",
        str(head(0, origin="other.example/log")).encode(),
        str(head(0, keys=[KEYS.keys[0]])).encode(),
    ):
        witness.published = published
        witness.memory.look(ORIGIN)
        assert witness.code(0, 5) == 503
    witness.published = str(head(0)).encode()
    witness.memory.look(ORIGIN)
    assert witness.code(0, 5) == 200
    for known in (cosigned_head(5), cosigned_head(3), str(head(20)).encode()):
        again = remembering(published=known)
        again.memory.look(ORIGIN)
        assert again.code(5, 5) == 200
    assert remembering(url="").code(5, 6) == 200  # nobody to be asked


@pytest.mark.parametrize("shown", [cosigned_head(9), cosigned_head(5, leaves=OTHERS)])
def test_who_forgot_what_it_cosigned_cosigns_nothing_until_it_has_new_keys(remembering, shown):
    witness = remembering(published=str(head(0)).encode())
    witness.memory.look(ORIGIN)
    assert witness.code(0, 5) == 200
    restored = remembering(published=shown)
    assert not restored.memory.forgotten
    restored.memory.look(ORIGIN)
    assert (restored.memory.forgotten, restored.code(5, 6)) == (True, 503)
    again = remembering(url="", published=str(head(9)).encode())  # the log shows it no more
    assert (again.memory.forgotten, again.code(5, 6)) == (True, 503)
    fresh = PrivateKeys([PrivateKey.from_seed(b"n" * 32, a) for a in (ED25519, ML_DSA_44)])
    renewed = remembering(published=shown, keys=fresh)
    renewed.memory.look(ORIGIN)
    assert (renewed.memory.forgotten, renewed.code(5, 6)) == (False, 200)


@pytest.mark.parametrize("kept", [b"\xff", b"", b"no note\n", b"not a\n\n\xe2\x80\x94 a AAAAAAAA\n"])
def test_a_kept_note_that_cannot_be_read_counts_for_a_loss(remembering, tmp_path, kept, caplog):
    (tmp_path / COSIGNER_FORGOT).write_bytes(kept)
    witness = remembering(url="")
    assert (witness.memory.forgotten, witness.code(0, 5)) == (True, 503)
    assert "cannot be read, and counts for a loss" in caplog.text


def test_a_line_that_only_names_this_witness_shows_nothing(remembering):
    signed = head(9)
    line = cosignature.sign(signed.text, KEYS.keys[0], "witness.example/w", NOW // 1000)
    false = NoteSignature(line.name, line.key_id, line.signature[:-1] + bytes([line.signature[-1] ^ 1]))
    witness = remembering(published=str(Note(signed.text, (*signed.signatures, false))).encode())
    witness.memory.look(ORIGIN)
    assert (witness.memory.forgotten, witness.code(0, 5)) == (False, 200)
