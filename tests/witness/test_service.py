"""The running witness over real gRPC with mTLS and real HTTP: who may submit what, and what comes back."""

import contextlib
import datetime as dt
import hashlib
import http.client
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import hypothesis
import hypothesis.strategies as st
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from tests.waiting import settled
from witness import __main__ as command
from witness import (
    checkpoint,
    door,
    dsse,
    encoding,
    leaf,
    members,
    merkle,
    note,
    record,
    registry,
    sequencer,
    server,
    service,
    tiles,
    tlog_proof,
    verifiers,
)
from witness.client import Busy, WitnessClient, WitnessDishonest, WitnessRejected, WitnessUnavailable
from witness.keys import PrivateKey, PrivateKeys
from witness.log import Log, LogRefused
from witness.quota import Quota
from witness.v1 import witness_pb2 as pb
from witness.v1 import witness_pb2_grpc

NOW = dt.datetime.now(dt.UTC)


class Authority:
    """A certificate authority for one test run."""

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign("authority", self.key.public_key(), [], ca=True)
        self.pem = self.certificate.public_bytes(Encoding.PEM)

    def issue(self, *names):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign("member", key.public_key(), names, ca=False)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem, certificate.public_bytes(Encoding.PEM)

    def _sign(self, name, public, names, *, ca):
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(hours=1))
            .not_valid_after(NOW + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority():
    return Authority()


def urn(participant, space="gba"):
    return x509.UniformResourceIdentifier(f"urn:bayspace:participant:{space}:{participant}")


class Running:
    """A witness in its folder, and clients of it."""

    def __init__(self, space, authority, folder):
        self.space, self.authority, self.folder = space, authority, folder
        self.grpc_port = self.http_port = 0
        self._stop = None

    def configure(self):
        self.vkeys = server.write_default(
            self.folder,
            space="gba",
            participant="witness-a",
            origin="witness.example/gba",
            operator_keys=[self.space.operator.public],
            grpc_listen="127.0.0.1:0",
            http_listen="127.0.0.1:0",
        )
        key, certificate = self.authority.issue(urn("witness-a"), x509.DNSName("localhost"))
        (self.folder / "tls-key.pem").write_bytes(key)
        (self.folder / "tls-certificate.pem").write_bytes(certificate)
        (self.folder / "tls-authority.pem").write_bytes(self.authority.pem)
        (self.folder / "members.json").write_bytes(self.space.member_envelope.to_bytes())

    def start(self):
        ready, self._stop = threading.Event(), threading.Event()

        def listening(grpc_port, http_port):
            self.grpc_port, self.http_port = grpc_port, http_port
            ready.set()

        config = server.load(self.folder)
        self._thread = threading.Thread(target=server.serve, args=(config, self._stop, listening))
        self._thread.start()
        assert ready.wait(10)

    def stop(self):
        if self._stop is not None:
            self._stop.set()
            self._thread.join(10)
            assert not self._thread.is_alive()
        self._stop = None

    @contextlib.contextmanager
    def process(self):
        command = [sys.executable, "-m", "witness", "serve", str(self.folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            words = dict(word.split("=") for word in process.stdout.readline().split()[1:])
            self.grpc_port, self.http_port = int(words["grpc"]), int(words["http"])
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def credentials(self, *names):
        key, certificate = self.authority.issue(*names)
        return grpc.ssl_channel_credentials(self.authority.pem, key, certificate)

    @contextlib.contextmanager
    def channel(self, *names):
        target = f"localhost:{self.grpc_port}"
        with grpc.secure_channel(target, self.credentials(*names)) as channel:
            yield channel

    @contextlib.contextmanager
    def client(self, participant="hk-bank", logs=None, deadline=5.0):
        target = f"localhost:{self.grpc_port}"
        client = WitnessClient(
            target, self.credentials(urn(participant)), logs or self.vkeys, deadline=deadline
        )
        try:
            yield client
        finally:
            client.close()

    def get(self, path, method="GET"):
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, response.headers, body


@pytest.fixture
def running(space, authority, tmp_path):
    space.now = encoding.system_clock()
    space.members = members.successor(None, "gba", space.participants(), space.now - 1000)
    space.member_envelope = members.sign(space.members, [space.operator])
    witness = Running(space, authority, tmp_path / "witness")
    witness.configure()
    witness.start()
    yield witness
    witness.stop()


TAG = bytes(range(32))


def signed(space, *names, **changes):
    return space.sign(space.seal(**changes), *names).to_bytes()


def test_submit_prove_fetch_and_read_the_tiles(running, space):
    envelopes = [signed(space) for _ in range(3)]
    with running.client() as client:
        recorded = client.submit([(e, TAG) for e in envelopes])
        assert [r.index for r in recorded] == [0, 1, 2]
        assert client.submit([(envelopes[1], TAG)])[0].index == 1
        proof = tlog_proof.parse(client.await_proof(envelopes[2], TAG))
        assert proof.index == 2
        digest = hashlib.sha256(envelopes[0]).digest()
        assert client.bundle(digest)[0] == envelopes[0]
        assert client.checkpoint() == running.get("/checkpoint")[2].decode()
    with running.client("sz-trade") as other_party:
        assert other_party.bundle(digest)[0] == envelopes[0]

    head = checkpoint.open_checkpoint(
        note.parse(running.get("/checkpoint")[2].decode()), [note.parse_vkey(vkey) for vkey in running.vkeys]
    )
    hashes_ = tiles.decode_hashes(running.get("/tile/0/000.p/3")[2], 3)
    entries = tiles.decode_bundle(running.get("/tile/entries/000.p/3")[2])
    assert [merkle.leaf_hash(e) for e in entries] == hashes_
    assert merkle.root(3, merkle.nodes_of(hashes_)) == head.root
    assert [leaf.parse(e).envelope for e in entries] == [hashlib.sha256(e).digest() for e in envelopes]


def test_the_public_leaf_says_nothing(running, space):
    with running.client() as client:
        client.submit([(signed(space), TAG)])
    entry = tiles.decode_bundle(running.get("/tile/entries/000.p/1")[2])[0]
    assert len(entry) == leaf.SIZE
    for word in (b"hk-bank", b"sz-trade", b"query"):
        assert word not in entry


def test_each_item_is_answered_by_itself(running, space):
    good = signed(space)
    strangers = space.sign(space.seal(), "hk-bank", "auditor").to_bytes()
    ahead = space.seal(
        "query.result",
        parties=[record.Party("hk-bank", "consumer", keys_of(space), "b" * 64, space.now + 10**7)],
    )
    unknown_list = space.seal(members="0" * 64)
    other_key = record.Party("hk-bank", "consumer", keys_of(space, "auditor"), "b" * 64, space.now)
    foreign = space.seal("query.result", parties=[other_key])
    not_ours = space.seal("query.result", parties=[space.party("sz-trade", "provider")])
    batch = {
        good: 0,
        b"{}": "format",
        good[:-1]: "format",
        strangers: "signature",
        good.replace(b'"sig":"A', b'"sig":"B').replace(b'"sig":"', b'"sig":"AAAA', 1): "signature",
        space.sign(ahead, "hk-bank").to_bytes(): "time",
        space.sign(unknown_list).to_bytes(): "members",
        space.sign(foreign, "auditor").to_bytes(): "key",
        space.sign(not_ours, "sz-trade").to_bytes(): "party",
    }
    with running.client() as client:
        answers = client.submit([(e, TAG) for e in batch])
        assert [a.index if a.rejection is None else a.rejection.reason for a in answers] == list(
            batch.values()
        )
        assert client.submit([(good, b"short")])[0].rejection.reason == "format"
        assert client.submit([(b"x" * 200_000, TAG)])[0].rejection.reason == "format"


def keys_of(space, name="hk-bank"):
    return (space.keys[name].public.id,)


def test_one_sided_records_are_recorded(running, space):
    with running.client() as client:
        assert client.submit([(signed(space, "hk-bank"), TAG)])[0].index == 0


def test_calls_out_of_bounds(running, space):
    with running.client() as client:
        for batch in ([], [(b"", TAG)] * 65):
            with pytest.raises(WitnessRejected) as caught:
                client.submit(batch)
            assert caught.value.reason == "batch"
        with pytest.raises(WitnessRejected) as caught:
            client.await_proof(signed(space), TAG)
        assert caught.value.reason == "unknown"


def test_a_bundle_is_for_parties_only(running, space):
    envelope = signed(space)
    with running.client() as client:
        client.submit([(envelope, TAG)])
    with running.client("auditor") as stranger:
        for digest in (hashlib.sha256(envelope).digest(), bytes(32)):
            with pytest.raises(WitnessRejected) as caught:
                stranger.bundle(digest)
            assert caught.value.reason == "unknown"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([x509.DNSName("hk-bank")], "IDENTITY"),
        ([urn("hk-bank", "other-space")], "IDENTITY"),
        ([urn("hk-bank"), urn("sz-trade")], "IDENTITY"),
        ([x509.DNSName("urn:bayspace:participant:gba:hk-bank")], "IDENTITY"),
        ([urn("nobody")], "MEMBER"),
    ],
)
def test_callers_without_an_identity_or_a_membership(running, names, reason):
    with running.channel(*names) as channel:
        stub = witness_pb2_grpc.WitnessStub(channel)
        for call, request in (
            (stub.SubmitBatch, pb.SubmitBatchRequest()),
            (stub.AwaitProof, pb.AwaitProofRequest()),
            (stub.GetBundle, pb.GetBundleRequest()),
            (stub.GetCheckpoint, pb.GetCheckpointRequest()),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=30)
            info = error_details_pb2.ErrorInfo()
            assert rpc_status.from_call(caught.value).details[0].Unpack(info)
            assert (info.reason, info.domain) == (reason, "bayspace.witness")
        with pytest.raises(grpc.RpcError):
            next(stub.WatchCheckpoints(pb.WatchCheckpointsRequest(), timeout=30))


def test_callers_without_a_certificate(running, authority):
    with grpc.secure_channel(
        f"localhost:{running.grpc_port}", grpc.ssl_channel_credentials(authority.pem)
    ) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            witness_pb2_grpc.WitnessStub(channel).GetCheckpoint(pb.GetCheckpointRequest(), timeout=30)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_watching_checkpoints(running, space):
    with running.client() as client:
        stream = client.watch(deadline=10)
        sizes = [checkpoint.parse(note.parse(next(stream)).text).size]
        client.submit([(signed(space), TAG)])
        sizes.append(checkpoint.parse(note.parse(next(stream)).text).size)
        assert sizes == [0, 1]
        stream.close()


def test_too_many_watchers_are_turned_away_and_leave_room_again(running):
    with running.client() as client, running.client("sz-trade") as other:
        streams = [client.watch(deadline=20) for _ in range(2)]
        for stream in streams:
            next(stream)
        with pytest.raises(WitnessUnavailable):
            next(client.watch(deadline=5))
        assert client.checkpoint()
        assert next(other.watch(deadline=5))  # one member's watchers leave the others' places alone


@pytest.fixture
def nothing():
    """Messages of a call that do not come before the test is over."""
    over = threading.Event()

    def messages():
        over.wait()
        yield b""

    yield messages
    over.set()


def test_who_opens_calls_and_sends_nothing_stops_nobody(running, space, nothing):
    """A thread of the server's waits for each message that never comes: only so many of one member's."""
    with running.channel(urn("sz-trade")) as slow, running.client() as client:
        names = ("bayspace.witness.v1.Witness/SubmitBatch", "grpc.health.v1.Health/Check")
        opened = [slow.stream_unary(f"/{names[n % 2]}").future(nothing()) for n in range(2 * service.THREADS)]
        assert client.submit([(signed(space), TAG)])[0].index == 0
        assert client.checkpoint()
        for call in opened:
            call.cancel()
    with running.client("sz-trade") as again:  # its places are free again

        def answered():
            with contextlib.suppress(WitnessUnavailable):
                return again.checkpoint()

        assert settled(answered)


@pytest.fixture
def all_shared_places_held(running, nothing, monkeypatch):
    """By one member that may hold all but those that are kept: it stands for many that collude."""
    running.stop()
    monkeypatch.setattr(server, "MOST_CALLS_EACH", service.PLACES)
    monkeypatch.setattr(server, "MESSAGE_SECONDS", 120)
    running.start()
    with running.channel(urn("sz-trade")) as slow:
        submit = slow.stream_unary("/bayspace.witness.v1.Witness/SubmitBatch")
        opened = [submit.future(nothing()) for _ in range(service.PLACES)]
        assert settled(lambda: sum(call.done() for call in opened) == service.KEPT_CALLS)
        yield
        for call in opened:
            call.cancel()


@pytest.mark.usefixtures("all_shared_places_held")
def test_members_that_fill_all_places_together_leave_one_to_each_other(running, space):
    with running.client() as client:
        assert client.submit([(signed(space), TAG)])[0].index == 0
        assert client.checkpoint()
        watched = client.watch(deadline=30)
        next(watched)
        with pytest.raises(Busy):
            client.checkpoint()  # until its deadline
        with pytest.raises(Busy):
            client.submit([(signed(space), TAG)], patient=False)
        watched.close()
        assert client.checkpoint()  # asked again until its place is free


@pytest.mark.usefixtures("all_shared_places_held")
def test_strangers_do_not_fill_the_places_that_are_kept_for_members(running, nothing):
    """Whoever is no member any more has its certificate still."""
    with running.channel(urn("former-1")) as first, running.channel(urn("former-2")) as second:
        submit = [
            channel.stream_unary("/bayspace.witness.v1.Witness/SubmitBatch") for channel in (first, second)
        ]
        opened = [each.future(nothing()) for each in submit]
        assert settled(lambda: sum(call.done() for call in opened) == 1)
        assert [call.code() for call in opened if call.done()] == [grpc.StatusCode.RESOURCE_EXHAUSTED]


def test_who_keeps_its_messages_back_loses_its_calls(running, monkeypatch):
    """Also in the middle of a stream: else its places were gone for as long as it likes."""
    running.stop()
    monkeypatch.setattr(server, "MESSAGE_SECONDS", 2)
    running.start()

    over = threading.Event()

    def late(*first):
        yield from first
        over.wait(60)

    info = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    asked = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    with running.channel(urn("sz-trade")) as slow:
        one = slow.stream_unary("/bayspace.witness.v1.Witness/SubmitBatch").future(late())
        many = slow.stream_stream(info)(late(asked))
        assert one.exception(30).code() == grpc.StatusCode.CANCELLED
        assert next(many)
        with pytest.raises(grpc.RpcError) as caught:
            next(many)
        over.set()
        assert caught.value.code() == grpc.StatusCode.CANCELLED


def test_strangers_who_connect_and_say_nothing_stop_nobody(running, space, monkeypatch):
    """Neither for ever, nor by taking the descriptors that the log needs for its files."""
    running.stop()
    monkeypatch.setattr(door, "HANDSHAKE_SECONDS", 10)
    monkeypatch.setattr(door.resource, "getrlimit", lambda _: (6, 6))
    running.start()
    with running.client() as client, contextlib.ExitStack() as opened:
        assert client.submit([(signed(space), TAG)])[0].index == 0
        address = ("127.0.0.1", running.grpc_port)
        strangers = [opened.enter_context(socket.create_connection(address)) for _ in range(5)]
        strangers[-1].settimeout(8)
        assert ended(strangers[-1])  # there is room for two
        assert client.submit([(signed(space), TAG)])[0].index == 1
        strangers[0].settimeout(30)
        assert ended(strangers[0])


def ended(connection):
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def test_too_many_records_to_check_are_refused_as_busy(running, space, monkeypatch):
    monkeypatch.setattr(verifiers, "MOST_WAITING_EACH", 0)
    request = pb.SubmitBatchRequest(
        submissions=[pb.Submission(envelope=signed(space), tag=TAG)] * verifiers.FEWEST
    )
    with running.channel(urn("hk-bank")) as channel, pytest.raises(grpc.RpcError) as caught:
        witness_pb2_grpc.WitnessStub(channel).SubmitBatch(request, timeout=30)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_member_that_brings_too_much_waits_for_tomorrow_and_nobody_else_does(running, space, monkeypatch):
    """Its share of the day is its own; what is recorded already takes nothing of it."""
    running.stop()
    asked, envelopes = [], [signed(space) for _ in range(4)]

    def two_records(each, clock):
        asked.append(each)
        return Quota(2 * len(envelopes[0]), clock)

    monkeypatch.setattr(server, "Quota", two_records)
    file = running.folder / server.CONFIG_FILE
    file.write_text(file.read_text() + "daily_mib = 7\n")
    running.start()
    assert asked == [7 << 20]
    with running.channel(urn("hk-bank")) as mine, running.channel(urn("sz-trade")) as other:

        def submit(channel, *numbers):
            made = [pb.Submission(envelope=envelopes[n], tag=TAG) for n in numbers]
            stub = witness_pb2_grpc.WitnessStub(channel)
            return [r.index for r in stub.SubmitBatch(pb.SubmitBatchRequest(submissions=made)).receipts]

        assert submit(mine, 0, 1) == [0, 1]
        assert submit(mine, 0, 1) == [0, 1]
        with pytest.raises(grpc.RpcError) as caught:
            submit(mine, 1, 2)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "tomorrow" in caught.value.details()
        assert submit(other, 2, 3) == [2, 3]
        assert submit(mine, 2) == [2]


def test_a_share_of_the_day():
    now, tomorrow = 20_000 * 86_400_000, 20_001 * 86_400_000
    clock = iter([now, now, now + 86_399_999, now, now, tomorrow, tomorrow])
    quota = Quota(10, lambda: next(clock))
    quota.take("a", 4)
    quota.take("a", 6)
    with pytest.raises(door.Refusal, match="tomorrow"):
        quota.take("a", 1)
    quota.take("b", 10)
    with pytest.raises(door.Refusal):
        quota.take("c", 11)
    quota.take("a", 10)
    with pytest.raises(door.Refusal):
        quota.take("a", 1)


def test_what_a_busy_witness_does_not_record_takes_nothing_of_the_day(running, space, monkeypatch):
    """Else who floods the witness would have the others use up their days by trying again."""
    running.stop()
    envelope = signed(space)
    monkeypatch.setattr(server, "Quota", lambda _each, clock: Quota(len(envelope), clock))
    running.start()
    request = pb.SubmitBatchRequest(submissions=[pb.Submission(envelope=envelope, tag=TAG)])
    with running.channel(urn("hk-bank")) as channel:
        stub = witness_pb2_grpc.WitnessStub(channel)
        with monkeypatch.context() as full:
            full.setattr(sequencer, "MOST_WAITING_EACH", 0)
            assert "busy" in refused(stub, request)
        with monkeypatch.context() as broken:
            broken.setattr(Log, "append", lambda *_: [][0])
            assert "does not take entries" in refused(stub, request)
        assert stub.SubmitBatch(request).receipts[0].index == 0


def refused(stub, request):
    with pytest.raises(grpc.RpcError) as caught:
        stub.SubmitBatch(request)
    return caught.value.details()


def test_one_member_has_its_share_of_waiting_and_no_more(running):
    """An entry far beyond the log is waited for until the call's deadline."""
    request = pb.AwaitProofRequest(index=10**6)
    surplus = service.MOST_CALLS_EACH - service.MOST_WAITING_CALLS_EACH
    with running.channel(urn("sz-trade")) as greedy, running.channel(urn("hk-bank")) as other:
        stub = witness_pb2_grpc.WitnessStub(greedy)
        waiting = [stub.AwaitProof.future(request, timeout=60) for _ in range(service.MOST_CALLS_EACH)]
        assert settled(lambda: sum(call.done() for call in waiting) == surplus), [
            call.done() for call in waiting
        ]
        with pytest.raises(grpc.RpcError) as caught:
            witness_pb2_grpc.WitnessStub(other).AwaitProof(request, timeout=2)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND  # it has waited, and was not turned away
        refused = [call for call in waiting if call.done()]
        assert len(refused) == surplus
        assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        for call in waiting:
            call.cancel()


def test_a_wait_that_is_given_up_leaves_its_place(running):
    request = pb.AwaitProofRequest(index=10**6)
    surplus = service.MOST_CALLS_EACH - service.MOST_WAITING_CALLS_EACH
    with running.channel(urn("sz-trade")) as channel:
        stub = witness_pb2_grpc.WitnessStub(channel)

        def answer():
            with pytest.raises(grpc.RpcError) as caught:
                stub.AwaitProof(request, timeout=1)
            return caught.value.code()

        waiting = [stub.AwaitProof.future(request) for _ in range(service.MOST_CALLS_EACH)]
        assert settled(lambda: sum(call.done() for call in waiting) == surplus)
        assert answer() == grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in waiting:
            call.cancel()
        assert settled(lambda: answer() == grpc.StatusCode.NOT_FOUND, seconds=service.LONGEST_WAIT / 2)


def test_what_is_recorded_is_neither_checked_nor_refused_again(running, space, monkeypatch):
    envelope, other = signed(space), signed(space)
    with running.client() as client:
        assert client.submit([(envelope, TAG)])[0].index == 0
        checked = []
        monkeypatch.setattr(verifiers, "verdict", lambda data, *_: checked.append(data) or ("key", "no more"))
        assert client.submit([(envelope, TAG)])[0].index == 0
        assert checked == []
        monkeypatch.setattr(Log, "recorded_lately", lambda *_: False)  # as after a restart
        answers = client.submit([(other, TAG), (envelope, TAG)])
        assert [answer.index for answer in answers] == [None, 0]
        assert checked == [other, envelope]


def test_many_callers_at_once(running, space):
    envelopes = [signed(space) for _ in range(120)]
    with running.client() as client, ThreadPoolExecutor(12) as pool:
        indexes = list(pool.map(lambda e: client.submit([(e, TAG)])[0].index, envelopes))
        assert sorted(indexes) == list(range(120))
        for envelope in envelopes[::40]:
            client.await_proof(envelope, TAG)


def test_restart_keeps_everything(running, space):
    envelope = signed(space)
    with running.client() as client:
        client.submit([(envelope, TAG)])
        running.stop()
        with pytest.raises(WitnessUnavailable):
            client.checkpoint()
    running.start()
    with running.client() as client:
        assert client.submit([(envelope, TAG)])[0].index == 0
        client.await_proof(envelope, TAG)


def test_kill_9_while_recording_loses_no_acknowledged_record(running, space):
    """A real process, killed without warning; what it acknowledged is provable by the next one."""
    running.stop()
    acknowledged = []
    for _ in range(2):
        with running.process() as process, running.client() as client, ThreadPoolExecutor(4) as pool:

            def submit(envelope, client=client):
                with contextlib.suppress(WitnessUnavailable):
                    acknowledged.append((envelope, client.submit([(envelope, TAG)])[0].index))

            waiting = [pool.submit(submit, signed(space)) for _ in range(40)]
            waiting[9].result(10)
            process.kill()
            for each in waiting:
                each.result(10)
    assert len(acknowledged) >= 10
    with running.process(), running.client() as client:
        for envelope, index in acknowledged:
            assert tlog_proof.parse(client.await_proof(envelope, TAG)).index == index
            assert client.submit([(envelope, TAG)])[0].index == index


def test_a_proof_is_believed_only_from_the_right_log(running, space):
    envelope = signed(space)
    other = str(note.verifier_key("witness.example/gba", PrivateKey.from_seed(b"o" * 32).public))
    with running.client(logs=[other]) as client:
        client.submit([(envelope, TAG)])
        with pytest.raises(WitnessDishonest):
            client.await_proof(envelope, TAG)
        with pytest.raises(WitnessDishonest):
            client.bundle(hashlib.sha256(envelope).digest())


def test_who_submits_first_under_a_tag_of_its_own_takes_nobodys_proof(running, space, caplog):
    envelope = signed(space)
    with running.client("sz-trade") as first, running.client() as second:
        assert first.submit([(envelope, bytes(32))])[0].index == 0
        assert second.submit([(envelope, TAG)])[0].index == 0
        assert first.await_proof(envelope, bytes(32))
        assert "another tag" not in caplog.text
        assert tlog_proof.parse(second.await_proof(envelope, TAG)).index == 0
        assert "another tag: a co-signer submitted it first, or" in caplog.text


class Liar(witness_pb2_grpc.WitnessServicer):
    """Answers with what it was not asked for."""

    def __init__(self, running, envelope):
        with running.client() as client:
            client.submit([(envelope, TAG)])
            self.proof = client.await_proof(envelope, TAG)
        self.envelope = envelope

    def SubmitBatch(self, request, context):  # noqa: N802
        return pb.SubmitBatchResponse()

    def AwaitProof(self, request, context):  # noqa: N802
        return pb.AwaitProofResponse(proof=self.proof)

    def GetBundle(self, request, context):  # noqa: N802
        return pb.GetBundleResponse(envelope=self.envelope, proof=self.proof)


def test_a_lying_witness_is_not_believed(running, space, authority):
    first, second = signed(space), signed(space)
    liar = grpc.server(ThreadPoolExecutor(2))
    witness_pb2_grpc.add_WitnessServicer_to_server(Liar(running, first), liar)
    key, certificate = authority.issue(urn("witness-a"), x509.DNSName("localhost"))
    credentials = grpc.ssl_server_credentials([(key, certificate)], authority.pem, require_client_auth=True)
    running.grpc_port = liar.add_secure_port("localhost:0", credentials)
    liar.start()
    with running.client() as client:
        assert client.await_proof(first, TAG)  # this one is true
        for lie in (
            lambda: client.submit([(second, TAG)]),
            lambda: client.await_proof(second, TAG),
            lambda: client.bundle(hashlib.sha256(second).digest()),
        ):
            with pytest.raises(WitnessDishonest):
                lie()
    liar.stop(0).wait()


def test_a_new_member_list_takes_effect_and_a_bad_one_does_not(running, space, monkeypatch):
    monkeypatch.setattr(registry, "LONGEST_UNSEEN", 0)
    file = running.folder / "members.json"
    remaining = [p for p in space.participants() if p.id != "sz-trade"]
    second = members.successor(space.members, "gba", remaining, encoding.system_clock() - 1)
    stranger = PrivateKey.from_seed(b"s" * 32)
    with running.client() as client:
        for bad in (b"not a list", members.sign(second, [stranger]).to_bytes()):
            file.write_bytes(bad)
            assert client.submit([(signed(space), TAG)])[0].index is not None
        file.write_bytes(members.sign(second, [space.operator]).to_bytes())
        assert client.submit([(signed(space), TAG)])[0].rejection.reason == "key"
        # An older list does not come back.
        file.write_bytes(space.member_envelope.to_bytes())
        assert client.submit([(signed(space), TAG)])[0].rejection.reason == "key"
    with running.client("sz-trade") as gone, pytest.raises(WitnessRejected) as caught:
        gone.checkpoint()
    assert caught.value.reason == "member"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/tile",
        "/tile/0/000",
        "/tile/0/../0/000.p/1",
        "/tile/0/%2e%2e/000.p/1",
        "/checkpoint/",
        "/checkpoint?x=1",
        "/../witness.sqlite",
        "/tile/../../witness.toml",
        "/witness.sqlite",
        "/tile/entries/000.p/2",
    ],
)
def test_nothing_else_is_served_over_http(running, space, path):
    with running.client() as client:
        client.submit([(signed(space), TAG)])
    assert running.get("/tile/0/000.p/1")[0] == 200
    status, _, body = running.get(path)
    assert status == 404
    assert b"sqlite" not in body


def test_http_headers_and_methods(running, space):
    with running.client() as client:
        client.submit([(signed(space), TAG)])
    status, headers, body = running.get("/checkpoint")
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (
        200,
        "text/plain; charset=utf-8",
        "no-cache",
    )
    status, headers, tile = running.get("/tile/0/000.p/1")
    assert (status, headers["Content-Type"], len(tile)) == (200, "application/octet-stream", 32)
    assert "immutable" in headers["Cache-Control"]
    assert running.get("/checkpoint", "HEAD")[2] == b""
    for method in ("POST", "PUT", "DELETE"):
        assert running.get("/checkpoint", method)[0] == (404 if method == "POST" else 501)
    assert body == running.get("/checkpoint")[2]


def test_health_and_reflection(running):
    with running.channel(urn("hk-bank")) as channel:
        request = health_pb2.HealthCheckRequest(service="bayspace.witness.v1.Witness")
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        listed = next(stub.ServerReflectionInfo(asked, timeout=30)).list_services_response
        assert "bayspace.witness.v1.Witness" in {s.name for s in listed.service}


@pytest.mark.parametrize(
    "message",
    [
        b"\n\0" * 5_000_000,
        b"\x10\1" * (door.MOST_FIELDS + 1),
        b"\xff\xff secret 4711",
        b"\n\x7f",
        b"\xff" * 10_000_000,
    ],
    ids=["empty-submissions", "unknown-fields", "garbage", "cut-off", "endless-number"],
)
def test_a_message_of_too_many_fields_or_none_is_refused_unparsed(running, space, monkeypatch, message):
    with running.channel(urn("hk-bank")) as channel, running.client() as client:
        for method in ("bayspace.witness.v1.Witness/SubmitBatch", "grpc.health.v1.Health/Watch"):
            with pytest.raises(grpc.RpcError) as caught:
                next(channel.unary_stream(f"/{method}")(message, timeout=30))
            assert caught.value.code() == grpc.StatusCode.INTERNAL
            assert "4711" not in str(caught.value)
        assert client.submit([(signed(space), TAG)])[0].index == 0


@hypothesis.given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.integers(0, 2**64 - 1) | st.binary())))
def test_fields_are_counted_as_the_encoding_has_them(fields):
    def varint(value):
        rest, low = value >> 7, value & 0x7F
        return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])

    message = b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in fields
    )
    message += b"\x09" + bytes(8) + b"\x15" + bytes(4)  # of fixed sizes
    assert door.has_more_fields(message, len(fields) + 1)
    assert not door.has_more_fields(message, len(fields) + 2)


@hypothesis.given(st.binary(), st.integers(0, 5))
def test_counting_the_fields_of_anything_ends(data, most):
    assert door.has_more_fields(data, most) in (True, False)


def test_a_call_that_is_given_up_keeps_no_append_waiting(running, space, monkeypatch):
    """Nor does the record get lost that was on its way into the log."""
    entered, go, envelope = threading.Event(), threading.Event(), signed(space)
    real = Log.append

    def slow(log, batch):
        entered.set()
        assert go.wait(30)
        return real(log, batch)

    monkeypatch.setattr(Log, "append", slow)
    request = pb.SubmitBatchRequest(submissions=[pb.Submission(envelope=envelope, tag=TAG)])
    with running.channel(urn("hk-bank")) as channel, running.client() as client:
        stub = witness_pb2_grpc.WitnessStub(channel)
        call = stub.SubmitBatch.future(request, timeout=30)
        assert entered.wait(30)
        call.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            stub.SubmitBatch(request, timeout=1)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        go.set()
        assert client.submit([(envelope, TAG)])[0].index == 0
        assert client.submit([(signed(space), TAG)])[0].index == 1


def test_a_witness_that_stops_ends_the_calls_that_wait(running):
    with running.channel(urn("hk-bank")) as channel, running.client() as client:
        waits = witness_pb2_grpc.WitnessStub(channel).AwaitProof.future(
            pb.AwaitProofRequest(index=10**6), timeout=60
        )
        watches = client.watch(deadline=60)
        assert next(watches)
        begun = time.monotonic()
        running.stop()
        assert time.monotonic() - begun < 8
        assert waits.code() is not None
        with pytest.raises((WitnessUnavailable, StopIteration)):
            next(watches)


def test_internal_errors_leave_as_a_reference(running, space, monkeypatch):
    from witness.log import Log

    def explode(*_):
        raise ValueError("secret 4711")

    monkeypatch.setattr(Log, "prove", explode)
    with running.channel(urn("hk-bank")) as channel:
        stub = witness_pb2_grpc.WitnessStub(channel)
        stub.SubmitBatch(
            pb.SubmitBatchRequest(submissions=[pb.Submission(envelope=signed(space), tag=TAG)]), timeout=5
        )
        with pytest.raises(grpc.RpcError) as caught:
            stub.AwaitProof(pb.AwaitProofRequest(index=0), timeout=30)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "4711" not in str(caught.value)
    assert "reference" in caught.value.details()


def test_a_log_that_fails_says_so_and_keeps_nothing_half_said(running, space, monkeypatch):
    from witness.files import Folder

    def full(*_, **__):
        raise OSError("disk full")

    envelope = signed(space)
    with running.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "write", full)
            for _ in range(2):
                with pytest.raises(WitnessUnavailable):
                    client.submit([(envelope, TAG)])
        assert client.submit([(envelope, TAG)])[0].index == 0  # room again: the staged batch is finished
        running.stop()
    running.start()
    with running.client() as client:
        assert client.submit([(envelope, TAG)])[0].index == 0
        assert client.submit([(signed(space), TAG)])[0].index == 1  # and it was recorded once


def test_a_second_witness_on_the_same_log_is_refused(running):
    with pytest.raises(LogRefused):
        server.serve(server.load(running.folder), threading.Event(), lambda *_: None)


def test_configuration_is_not_overwritten_and_fails_closed(running):
    with pytest.raises(server.ConfigInvalid, match="already"):
        running.configure()
    path = running.folder / server.CONFIG_FILE
    good = path.read_text()
    for old, new in (
        ("origin", "orgin"),
        ('space = "gba"', 'space = "No Name"'),
        ('space = "gba"', "space ="),
        ('data = "data"', 'data = "data"\nmore = 1'),
        ('"members.json"', "7"),
    ):
        assert old in good
        path.write_text(good.replace(old, new))
        with pytest.raises(server.ConfigInvalid, match=r"witness\.toml"):
            server.load(running.folder)
    path.write_text(good)
    assert server.load(path).space == "gba"


def test_init_without_a_connector(tmp_path, capsys):
    words = ["init", str(tmp_path / "w"), "--space", "gba", "--participant", "witness-b"]
    assert command.main([*words, "--origin", "two words"]) == 2
    assert command.main([*words, "--origin", "b.example/gba", "--operator-key", "operator.pem"]) == 0
    vkey, second = map(note.parse_vkey, capsys.readouterr().out.split())
    config = server.load(tmp_path / "w")
    assert (config.origin, config.participant) == (vkey.name, "witness-b") == ("b.example/gba", "witness-b")
    assert PrivateKeys.from_pem(config.log_key.read_bytes()).public.keys == (vkey.public, second.public)
    assert command.main([*words, "--origin", "b.example/gba"]) == 2


def test_operator_keys_as_text_or_as_pem_file(running, space):
    running.stop()
    path = running.folder / server.CONFIG_FILE
    good = path.read_text()
    assert server.load(path).operator_keys == (space.operator.public,)
    listed = good[good.index("operator_keys = [") :].strip()
    for wrong in ('["rsa:AAAA"]', '["ed25519:AAAA"]', '["ed25519:!"]', '["operator.pem"]'):
        path.write_text(good.replace(listed, f"operator_keys = {wrong}"))
        with pytest.raises(server.ConfigInvalid, match="operator"):
            server.serve(server.load(path), threading.Event(), lambda *_: None)
    pem = space.operator._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (running.folder / "operator.pem").write_bytes(pem)
    assert server.load(path).operator_keys == (space.operator.public,)


def test_a_log_key_that_others_may_read_is_refused(running):
    running.stop()
    key = running.folder / "log-key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o640)
    with pytest.raises(server.ConfigInvalid, match="chmod"):
        server.serve(server.load(running.folder), threading.Event(), lambda *_: None)


def test_envelope_digest_is_what_dsse_says(space):
    envelope = space.sign(space.seal())
    assert hashlib.sha256(envelope.to_bytes()).digest() == dsse.parse(envelope.to_bytes()).digest
