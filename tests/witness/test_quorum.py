"""A log and its witnesses: nothing counts before the quorum cosigned; a log that was set back stops."""

import contextlib
import hashlib
import itertools
import shutil
import socket
import threading
import time

import pytest
from cryptography import x509

from tests.witness.test_service import TAG, Running, authority, signed, urn
from witness import __main__ as command
from witness import checkpoint, cosignature, encoding, members, note, policy, server, tlog_proof
from witness import quorum as quorum_
from witness.checks import VerificationFailed
from witness.cosigner import Cosigner, Request, parse_request
from witness.database import Database
from witness.fsck import check
from witness.inclusion import check_inclusion
from witness.keys import PrivateKeys
from witness.log import LogRefused, Submission
from witness.merkle import ProofInvalid
from witness.policy import PolicyInvalid
from witness.quorum import Asked, Quorum, Reply, WitnessRefused

__all__ = ["authority"]
NOW = 1_767_225_600_000


def some(count, first=0):
    envelopes = [b"envelope %d" % n for n in range(first, first + count)]
    return [Submission(hashlib.sha256(data).digest(), data, bytes(32)) for data in envelopes]


def keys_of(seed):
    return PrivateKeys.generate(lambda size: seed.encode().ljust(size, b"."))


class Town:
    """Three witnesses in memory, each behind a call that can fail or lie, and one log's quorum of two."""

    def __init__(self, folder, log_vkeys, quorum="2"):
        self.databases, self.cosigners, self.broken = [], {}, {}
        self._clock = itertools.count(NOW, 1000)
        lines = []
        logs = policy.parse("\n".join([*(f"log {key}" for key in log_vkeys), "quorum none"]))
        for name in ("a", "b", "c"):
            database = Database(f"sqlite:///{folder / name}.sqlite")
            self.databases.append(database)
            made = Cosigner(f"{name}.example/w", keys_of(name), logs, database, self._clock.__next__)
            url = f"http://{name}.example"
            self.cosigners[url] = made
            lines.append(f"witness {name} {made.vkeys[1]} {url}")
        self.policy = policy.parse("\n".join([*lines, f"group g {quorum} a b c", "quorum g"]))

    def connect(self, url):
        def call(method, path, body):
            if (broken := self.broken.get(url)) is not None:
                return broken(method, path, body)
            cosigner = self.cosigners[url]
            if method == "POST":
                answer = cosigner.add_checkpoint(body)
                return Reply(int(answer.status), answer.content_type, answer.body)
            found = cosigner.checkpoint(path.partition("/")[0])
            return Reply(404 if found is None else 200, "text/plain", found or b"")

        return call

    def close(self):
        for database in self.databases:
            database.close()


def silent(*_):
    raise OSError("no answer")


@contextlib.contextmanager
def asking(log, town, alarms=None):
    quorum = Quorum(
        log, town.policy, lambda: NOW, town.connect, (alarms if alarms is not None else []).append
    )
    quorum.start()
    try:
        yield quorum
    finally:
        quorum.close()


@pytest.fixture
def town(open_log, tmp_path):
    vkeys = open_log().vkeys
    made = Town(tmp_path, vkeys)
    open_log.close()
    yield made
    made.close()


def test_entries_count_once_the_quorum_cosigned(open_log, town):
    log = open_log(quorum=town.policy)
    assert log.append(some(3)) == [0, 1, 2]
    assert (log.size, log.witnessed_size, log.witnessed) == (3, 0, None)
    with pytest.raises(ProofInvalid, match="witnessed"):
        log.prove(0)
    with asking(log, town) as quorum:
        log.wait(3, 10)
        assert quorum.confirmed.wait(30)
        assert log.witnessed_size == 3
        town.broken["http://c.example"] = silent  # two of three are enough
        log.append(some(5, 3))
        log.wait(8, 10)
        proof = log.prove(7)
        assert len(town.policy.cosigners(proof.checkpoint)) >= 2
        assert checkpoint.parse(log.read("checkpoint").decode().partition("\n\n")[0] + "\n").size == 8
    log = open_log(quorum=town.policy)  # and after a restart
    assert log.witnessed_size == 8
    assert check(log).findings == ()


def test_too_few_witnesses_mean_not_witnessed(open_log, town):
    for url in ("http://a.example", "http://b.example"):
        town.broken[url] = silent
    log = open_log(quorum=town.policy)
    log.append(some(3))
    with asking(log, town) as quorum:
        log.wait(3, 0.6)
        assert log.witnessed_size == 0
        assert not quorum.confirmed.is_set()
        assert set(quorum.failing) == {"http://a.example", "http://b.example"}
        del town.broken["http://a.example"]
        log.wait(3, 10)
        assert log.witnessed_size == 3


def lying_signature(_method, _path, body):
    text = body.decode().partition("\n\n")[2].partition("\n\n")[0] + "\n"
    forger = keys_of("forger")
    line = cosignature.sign(text, forger.keys[1], "a.example/w", NOW // 1000)
    honest = cosignature.cosigner_key("a.example/w", keys_of("a").keys[1])
    return Reply(200, "text/plain", str(note.NoteSignature(line.name, honest.id, line.signature)).encode())


def without_a_clock(_method, _path, body):
    text = body.decode().partition("\n\n")[2].partition("\n\n")[0] + "\n"
    return Reply(
        200,
        "text/plain",
        str(cosignature.sign(text, keys_of("a").keys[1], "a.example/w", NOW // 1000 - 400)).encode(),
    )


def on_a_longer_text(_method, _path, body):
    text = body.decode().partition("\n\n")[2].partition("\n\n")[0] + "\n"
    line = cosignature.sign(f"{text}\nx\n", keys_of("a").keys[1], "a.example/w", NOW // 1000)
    return Reply(200, "text/plain", f"x\n\n{line}".encode())


def unforeseen(*_):
    raise ValueError("unforeseen")


@pytest.mark.parametrize(
    "lie",
    [
        lying_signature,
        on_a_longer_text,
        unforeseen,
        without_a_clock,
        lambda *_: Reply(200, "text/plain", b""),
        lambda *_: Reply(200, "text/plain", b"\xff"),
        lambda *_: Reply(500, "text/html", b"<h1>"),
        lambda *_: Reply(409, "text/x.tlog.size", b"x"),
        lambda *_: Reply(409, "text/x.tlog.size", b"1\n"),  # for ever
        lambda *_: Reply(409, "text/plain", b"3\n"),
        lambda *_: Reply(422, "text/plain", b""),
        lambda *_: Reply(409, "text/x.tlog.size", b"999\n"),  # larger than the log, without proof
    ],
)
def test_one_witness_that_lies_counts_for_nothing_and_stops_nobody(open_log, town, lie):
    town.broken["http://a.example"] = lie
    log = open_log(quorum=town.policy)
    log.append(some(3))
    with asking(log, town) as quorum:
        log.wait(3, 10)
        assert set(town.policy.cosigners(log.witnessed)) == {"b", "c"}
        assert not quorum.contradicted.is_set()
        assert log.append(some(1, 3)) == [3]


def test_a_witness_that_made_up_a_larger_size_is_asked_again(open_log, town):
    def once(method, _path, _body):
        if method == "POST":
            return Reply(409, "text/x.tlog.size", b"999\n")
        del town.broken["http://a.example"]  # looked at once; honest from then on
        return Reply(404, "text/plain", b"")

    town.broken |= {"http://a.example": once, "http://c.example": silent}
    log = open_log(quorum=town.policy)
    log.append(some(3))
    with asking(log, town):
        log.wait(3, 10)
    assert set(town.policy.cosigners(log.witnessed)) == {"a", "b"}


def test_a_witness_that_forgot_what_it_cosigned_is_an_alarm(open_log, town, tmp_path, caplog):
    log = open_log(quorum=town.policy)
    log.append(some(3))

    def asked():
        return {
            url: Asked(log, [c.vkeys[1]], town.connect(url), lambda: NOW) for url, c in town.cosigners.items()
        }

    first = asked()
    assert log.cosigned(log.head, [line for witness in first.values() for line in witness.cosign(log.head)])
    after_a_start = asked()
    log.append(some(2, 3))
    town.databases.append(Database(f"sqlite:///{tmp_path / 'restored.sqlite'}"))
    town.cosigners["http://b.example"]._database = town.databases[-1]
    for known in (after_a_start, first):
        for witness in known.values():
            witness.cosign(log.head)
    assert [witness.forgot for witness in after_a_start.values()] == [False, True, False]
    assert caplog.text.count("b.example/w has forgotten what it cosigned") == 1


@pytest.mark.parametrize("started", [False, True], ids=["while it runs", "after a start"])
def test_who_is_on_the_line_cannot_make_a_witness_look_forgetful(open_log, town, started, caplog):
    """Names a smaller size than the witness does, and has it cosign all the same."""
    log = open_log(quorum=town.policy)
    log.append(some(3))
    url, cosigner = next(iter(town.cosigners.items()))
    answer, asked = town.connect(url), []
    witness = Asked(log, [cosigner.vkeys[1]], answer, lambda: NOW)
    others = [Asked(log, [c.vkeys[1]], town.connect(u), lambda: NOW) for u, c in town.cosigners.items()]
    assert log.cosigned(log.head, [line for each in (witness, *others[1:]) for line in each.cosign(log.head)])
    if started:
        witness = Asked(log, [cosigner.vkeys[1]], answer, lambda: NOW)
    log.append(some(2, 3))

    def between(method, path, body):
        request = parse_request(body)
        asked.append((request.old, checkpoint.parse(request.signed.text).size))
        if request.old:
            return Reply(409, "text/x.tlog.size", b"0\n")
        proof = tuple(log.prove_consistency(3, 5)) if asked[-1][1] == 5 else ()
        reply = answer(method, path, str(Request(3, proof, request.signed)).encode())
        return reply if reply.status == 200 else Reply(409, "text/x.tlog.size", b"0\n")

    witness._call = between
    assert witness.cosign(log.head)
    assert asked == [(3, 5), (0, 0), (0, 5)]
    assert not witness.forgot
    assert "cosigned from size 0 though it cosigned size 3 before" in caplog.text
    witness._call = answer
    log.append(some(2, 5))
    caplog.clear()
    assert witness.cosign(log.head)
    assert not caplog.records


def test_a_smaller_size_that_nobody_signed_is_no_alarm(open_log, town):
    log = open_log(quorum=town.policy)
    log.append(some(3))
    url, cosigner = next(iter(town.cosigners.items()))
    witness = Asked(log, [cosigner.vkeys[1]], town.connect(url), lambda: NOW)
    witness.cosign(log.head)
    log.append(some(2, 3))
    town.broken[url] = lambda *_: Reply(409, "text/x.tlog.size", b"0\n")
    with pytest.raises(WitnessRefused, match="changes with every request"):
        witness.cosign(log.head)
    assert not witness.forgot
    del town.broken[url]
    assert witness.cosign(log.head)
    assert not witness.forgot


def test_a_witness_that_never_ends_its_answer_holds_up_nobody(open_log, town, monkeypatch):
    monkeypatch.setattr(quorum_, "ROUND", 0.3)
    never = threading.Event()
    town.broken["http://a.example"] = lambda *_: never.wait() and Reply(500, "", b"")
    log = open_log(quorum=town.policy)
    with asking(log, town) as quorum:
        for size in range(1, 9):
            log.append(some(1, size))
            log.wait(size, 10)
            time.sleep(0.06)
        assert log.witnessed_size == 8
        assert set(quorum.failing) == {"http://a.example"}
        began = time.monotonic()
    assert time.monotonic() - began < 2
    never.set()


def test_a_log_that_was_set_back_whole_stops_before_it_forks(open_log, town, tmp_path):
    log = open_log(quorum=town.policy)
    log.append(some(3))
    open_log.close()
    shutil.copytree(tmp_path / "log", tmp_path / "old")
    log = open_log(quorum=town.policy)
    log.append(some(5, 3))
    with asking(log, town):
        log.wait(8, 10)
    open_log.close()
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "old").rename(tmp_path / "log")

    alarms = []
    log = open_log(quorum=town.policy)  # alone it cannot know
    assert log.size == 3
    with asking(log, town, alarms) as quorum:
        assert quorum.contradicted.wait(10)
        assert not quorum.confirmed.is_set()
    with pytest.raises(LogRefused):
        log.append(some(1, 99))
    assert [fork.origin for fork in alarms] == [log.origin]
    assert check(log).forks


def test_tiles_and_database_set_back_beside_a_witnessed_checkpoint(open_log, town, tmp_path):
    log = open_log(quorum=town.policy)
    log.append(some(3))
    open_log.close()
    shutil.copytree(tmp_path / "log", tmp_path / "old")
    log = open_log(quorum=town.policy)
    log.append(some(5, 3))
    with asking(log, town):
        log.wait(8, 10)
    open_log.close()
    kept = (tmp_path / "log" / "witnessed").read_bytes()
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "old").rename(tmp_path / "log")
    (tmp_path / "log" / "witnessed").write_bytes(kept)
    with pytest.raises(LogRefused, match="rollback of database and tiles"):
        open_log(quorum=town.policy)


def test_a_fork_of_one_size_is_proved_by_the_witness(open_log, town, tmp_path):
    log = open_log(quorum=town.policy)
    log.append(some(3))
    with asking(log, town):
        log.wait(3, 10)
    open_log.close()
    open_log.folder = tmp_path / "other"
    alarms = []
    log = open_log(quorum=town.policy)
    log.append(some(3, 50))
    with asking(log, town, alarms) as quorum:
        assert quorum.contradicted.wait(10)
    assert alarms[0].proved
    assert all(database.forks()[0].proved for database in town.databases if database.forks())
    assert any(database.forks() for database in town.databases)


def test_a_contradiction_that_comes_after_the_quorum_stops_the_log_at_once(open_log, town, monkeypatch):
    log = open_log(quorum=town.policy)
    log.append(some(3))
    late, cosign, alarms = threading.Event(), quorum_.Asked.cosign, []

    def slow(asked, head):
        if asked is not asking_c:
            return cosign(asked, head)
        late.wait(10)
        raise quorum_.Contradicted(str(log.head))

    monkeypatch.setattr(quorum_.Asked, "cosign", slow)
    quorum = Quorum(log, town.policy, lambda: NOW, town.connect, alarms.append)
    asking_c = quorum._asked["http://c.example"]
    quorum.start()
    try:
        log.wait(3, 10)
        assert quorum.confirmed.wait(30)
        assert not quorum.contradicted.is_set()
        late.set()  # nothing more is signed
        assert quorum.contradicted.wait(30)
    finally:
        quorum.close()
    assert len(alarms) == 1
    with pytest.raises(LogRefused):
        log.append(some(1, 99))


def test_ones_own_operator_never_counts(open_log, space):
    own = keys_of("own")
    vkey = cosignature.cosigner_key("witness.example/w", own.keys[1])
    text = f"witness own {vkey} http://localhost:1\nquorum own"
    log = open_log(quorum=policy.parse(text))
    digest = hashlib.sha256(b"envelope").digest()
    log.append([Submission(digest, b"envelope", bytes(32))])
    line = cosignature.sign(log.head.text, own.keys[1], "witness.example/w", NOW // 1000)
    assert log.cosigned(log.head, [line]) is False
    with pytest.raises(PolicyInvalid, match="no quorum is possible"):
        Quorum(log, policy.parse(text), lambda: NOW)
    # Nor at the auditor's.
    trusted = policy.parse(f"log {log.vkeys[0]}\n{text}")
    both = note.Note(log.head.text, (*log.head.signatures, line))
    proof = tlog_proof.TlogProof(0, (), both, log.database.leaf(0))
    with pytest.raises(VerificationFailed, match="Too few"):
        check_inclusion(str(proof), b"envelope", trusted)


def test_witnesses_without_an_address_make_no_quorum(open_log):
    vkey = cosignature.cosigner_key("a.example/w", keys_of("a").keys[0])
    with pytest.raises(PolicyInvalid, match="no quorum is possible"):
        Quorum(open_log(), policy.parse(f"witness a {vkey}\nquorum a"), lambda: NOW)


# --- two logs that cosign each other, as processes -----------------------------------------------------


class City(Running):
    """A log and witness of one city, started as a process of its own."""

    def __init__(self, space, authority, folder, host, port):
        super().__init__(space, authority, folder)
        self.host, self.http_port = host, port

    def configure(self):
        self.vkeys = server.write_default(
            self.folder,
            space="gba",
            participant=f"witness-{self.host[:2]}",
            origin=f"{self.host}/log",
            operator_keys=[self.space.operator.public],
            grpc_listen="127.0.0.1:0",
            http_listen=f"127.0.0.1:{self.http_port}",
        )
        key, certificate = self.authority.issue(urn("witness-a"), x509.DNSName("localhost"))
        (self.folder / "tls-key.pem").write_bytes(key)
        (self.folder / "tls-certificate.pem").write_bytes(certificate)
        (self.folder / "tls-authority.pem").write_bytes(self.authority.pem)
        (self.folder / "members.json").write_bytes(self.space.member_envelope.to_bytes())
        with (self.folder / "witness.toml").open("a") as file:
            file.write(f'cosigner_name = "{self.host}/witness"\ncosigner_key = "cosigner-key.pem"\n')
            file.write('cosigns = "cosigns.policy"\nquorum = "quorum.policy"\n')

    def cosigned_by(self, other):
        ours = self.keys()
        theirs = other.keys()
        url = f"http://127.0.0.1:{other.http_port}"
        logs = [f"log {vkey} {url}" for vkey in theirs["log"]]
        (self.folder / "cosigns.policy").write_text("\n".join([*logs, "quorum none\n"]))
        lines = [f"witness w{n} {vkey} {url}" for n, vkey in enumerate(theirs["cosigner"])]
        (self.folder / "quorum.policy").write_text(
            "\n".join([*lines, "group both all w0 w1", "quorum both\n"])
        )
        assert len(ours["log"]) == len(ours["cosigner"]) == 2

    def keys(self):
        config = server.load(self.folder)
        return {"log": server.log_vkeys(config), "cosigner": server.cosigner_vkeys(config)}


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for found in held:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in held]
    for found in held:
        found.close()
    return ports


def test_shenzhen_and_hong_kong_cosign_each_other(space, authority, tmp_path, capsys):
    space.now = encoding.system_clock()
    space.members = members.successor(None, "gba", space.participants(), space.now - 1000)
    space.member_envelope = members.sign(space.members, [space.operator])
    cities = [
        City(space, authority, tmp_path / host, host, port)
        for host, port in zip(("sz.example", "hk.example"), free_ports(2), strict=True)
    ]
    for city in cities:
        city.folder.mkdir()
        city.configure()
    for city, other in (cities, cities[::-1]):
        city.cosigned_by(other)
    envelope = signed(space)
    with cities[0].process():
        # Hong Kong is down: Shenzhen takes nothing that could turn out to be a fork.
        with cities[0].client() as client, pytest.raises(Exception, match="UNAVAILABLE"):
            client.submit([(envelope, TAG)])
        with cities[1].process():
            for city in cities:
                deadline = time.monotonic() + 20
                while True:
                    try:
                        with city.client() as client:
                            assert client.submit([(envelope, TAG)])[0].index == 0
                            proof = client.await_proof(envelope, TAG, deadline=10)
                            break
                    except Exception:
                        if time.monotonic() > deadline:
                            raise
                        time.sleep(0.2)
                trusted = policy.parse(
                    "\n".join(
                        [*(f"log {v}" for v in city.vkeys), (city.folder / "quorum.policy").read_text()]
                    )
                )
                place = check_inclusion(proof, envelope, trusted)
                assert set(place.cosigners) == {"w0", "w1"}
    for city in cities:
        assert command.main(["fsck", str(city.folder)]) == 0
    said = capsys.readouterr().out
    assert said.count("1 entries, 1 contents kept; clean") == 2
    assert "cosigned log sz.example/log last at size 1, 20" in said


def test_a_witness_that_fills_the_note_with_its_own_lines_spoils_no_proof(open_log, town):
    def wordy(_method, _path, body):
        text = body.decode().partition("\n\n")[2].partition("\n\n")[0] + "\n"
        times = range(NOW // 1000, NOW // 1000 + note.MOST_SIGNATURES)
        lines = (cosignature.sign(text, keys_of("a").keys[1], "a.example/w", at) for at in times)
        return Reply(200, "text/plain", "".join(map(str, lines)).encode())

    town.broken |= {"http://a.example": wordy, "http://c.example": silent}
    log = open_log(quorum=town.policy)
    log.append(some(3))
    with asking(log, town):
        log.wait(3, 10)
    proof = tlog_proof.parse(str(log.prove(2)))  # read back as a verifier would
    assert set(town.policy.cosigners(proof.checkpoint)) == {"a", "b"}
    assert open_log(quorum=town.policy).witnessed_size == 3


def test_a_damaged_witnessed_checkpoint_or_tile_below_it_refuses_to_run(open_log, town, tmp_path):
    log = open_log(quorum=town.policy)
    log.append(some(300))
    with asking(log, town):
        log.wait(300, 10)
    log.append(some(300, 300))
    open_log.close()
    (tmp_path / "log" / "public" / "tile" / "0" / "001").rename(tmp_path / "tile")
    with pytest.raises(LogRefused, match="witnessed tree are missing"):
        open_log(quorum=town.policy)
    (tmp_path / "tile").rename(tmp_path / "log" / "public" / "tile" / "0" / "001")
    (tmp_path / "log" / "witnessed").write_bytes(b"\xff")
    with pytest.raises(LogRefused, match="witnessed checkpoint is damaged"):
        open_log(quorum=town.policy)
    (tmp_path / "log" / "public" / "checkpoint").write_bytes(b"\xff")
    with pytest.raises(LogRefused, match="published checkpoint is damaged"):
        open_log(quorum=town.policy)
