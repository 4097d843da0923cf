"""Identity: names, key files, certificates, and who can talk to whom over real mutual TLS."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from compute.errors import ConfigError, PeerViolation
from connector import config, identity, space
from connector.enrolment import load_members, rotate
from connector.identity import utc_now

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def authority():
    return identity.new_authority("gba", NOW)


@pytest.mark.parametrize("name", ["hk-bank", "a1", "a" * 63])
def test_names_that_may_be_used(name):
    assert identity.checked_name(name) == name


@pytest.mark.parametrize("name", ["", "a", "A1", "1a", "-a", "a_b", "a.b", "a:b", "a" * 64, "銀行", "ab\n"])
def test_names_that_may_not(name):
    with pytest.raises(ConfigError):
        identity.checked_name(name)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("192.0.2.7:7443", ("192.0.2.7", 7443)),
        ("[::1]:1", ("::1", 1)),
        ("data.example.hk:65535", ("data.example.hk", 65535)),
    ],
)
def test_addresses(text, parts):
    assert identity.split_address(text) == parts


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:65536", "ho st:1", "a..b:1", "*.b:1", "host:¹"]
)
def test_addresses_refused(text):
    with pytest.raises(ConfigError):
        identity.split_address(text)


def test_private_keys_are_0600_and_never_replaced(tmp_path):
    path = tmp_path / "tls.key"
    identity.write_private(path, identity.tls_key_pem(identity.new_tls_key()))
    assert path.stat().st_mode & 0o777 == 0o600
    identity.load_tls_key(path)
    with pytest.raises(ConfigError):
        identity.write_private(path, b"")
    path.chmod(0o640)
    with pytest.raises(ConfigError) as caught:
        identity.load_tls_key(path)
    assert caught.value.code == "identity.key-exposed"


def test_an_evidence_key_is_no_tls_key_and_the_reverse(tmp_path):
    tls, evidence = tmp_path / "tls.key", tmp_path / "evidence.key"
    identity.write_private(tls, identity.tls_key_pem(identity.new_tls_key()))
    identity.write_private(evidence, identity.new_signing_keys().pem())
    with pytest.raises(ConfigError):
        identity.load_tls_key(evidence)
    with pytest.raises(ConfigError):
        identity.load_signing_keys(tls)
    with pytest.raises(ConfigError):
        identity.load_signing_keys(tmp_path / "none")
    assert "PRIVATE" not in repr(identity.load_signing_keys(evidence))


def _issue(authority, participant="hk-bank", role="connector", addresses=("192.0.2.7:7443",), key=None):
    request = identity.signing_request(key or identity.new_tls_key(), participant)
    pem = identity.issue(authority, "gba", participant, role, request, addresses, NOW)
    return x509.load_pem_x509_certificate(pem)


def test_a_certificate_names_its_participant_and_addresses(authority):
    certificate = _issue(authority, addresses=("192.0.2.7:7443", "data.example.hk:7443"))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "urn:bayspace:participant:gba:hk-bank"
    ]
    assert names.get_values_for_type(x509.DNSName) == ["hk-bank.gba.bayspace.internal", "data.example.hk"]
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    found = identity.verify_certificate(certificate, authority.certificate, NOW)
    assert (found.space, found.participant, found.role) == ("gba", "hk-bank", "connector")


@pytest.mark.parametrize(
    "address", ["sz-trade.gba.bayspace.internal:1", "SZ-TRADE.gba.Bayspace.Internal:1", "bayspace.internal:1"]
)
def test_an_address_cannot_claim_another_participants_name(authority, address):
    with pytest.raises(ConfigError, match=r"may not lie under"):
        _issue(authority, addresses=(address,))


def test_a_request_must_prove_possession_of_a_p256_key(authority):
    good = x509.load_pem_x509_csr(identity.signing_request(identity.new_tls_key(), "hk-bank"))
    broken = bytearray(good.public_bytes(Encoding.DER))
    broken[-1] ^= 1
    stolen = x509.load_der_x509_csr(bytes(broken)).public_bytes(Encoding.PEM)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hk-bank")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    large = builder.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()).public_bytes(Encoding.PEM)
    edwards = builder.sign(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(Encoding.PEM)
    for request in (stolen, large, edwards, b"nothing"):
        with pytest.raises(ConfigError):
            identity.issue(authority, "gba", "hk-bank", "connector", request, [], NOW)


def test_certificates_of_others_and_of_other_times_do_not_hold(authority):
    certificate = _issue(authority)
    other = identity.new_authority("gba", NOW)
    with pytest.raises(ConfigError) as caught:
        identity.verify_certificate(certificate, other.certificate, NOW)
    assert caught.value.code == "identity.chain"
    for moment in (NOW - timedelta(hours=1), NOW + timedelta(days=identity.CERTIFICATE_DAYS, seconds=1)):
        with pytest.raises(ConfigError) as caught:
            identity.verify_certificate(certificate, authority.certificate, moment)
        assert caught.value.code == "identity.expired"
    with pytest.raises(ConfigError):
        identity.verify_certificate(authority.certificate, authority.certificate, NOW)


# --- over the wire ------------------------------------------------------------------------------------


class _WhoAmI(grpc.GenericRpcHandler):
    def __init__(self, trust, role="connector"):
        self.trust, self.role = trust, role

    def service(self, _details):
        def answer(_request, context):
            try:
                members = load_members(self.trust)
                return identity.peer_participant(context, self.trust.space, members, self.role).encode()
            except PeerViolation as error:
                return error.code.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def gba(tmp_path):
    space.init(tmp_path / "space", "gba")
    seats = {}
    for name in ("sz-trade", "hk-bank"):
        seats[name] = config.init(tmp_path / name, name, "gba", "HK").seat
        space.enrol_local(tmp_path / "space", seats[name])
    return tmp_path, seats


@pytest.fixture
def serve():
    servers = []

    def start(seat, role="connector"):
        server = grpc.server(ThreadPoolExecutor(2), handlers=(_WhoAmI(seat.trust, role),))
        port = server.add_secure_port("127.0.0.1:0", identity.server_credentials(seat.tls))
        server.start()
        servers.append(server)
        return port

    yield start
    for server in servers:
        server.stop(None)


def _ask(port, seat, expected):
    credentials = identity.channel_credentials(seat.tls)
    options = identity.channel_options(seat.trust.space, expected)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        return channel.unary_unary("/x/WhoAmI")(b"", timeout=30).decode()


def test_both_sides_know_whom_they_talk_to(gba, serve):
    _, seats = gba
    port = serve(seats["sz-trade"])
    assert _ask(port, seats["hk-bank"], "sz-trade") == "hk-bank"


def test_the_longest_and_oddest_names_work_on_the_wire(tmp_path, serve):
    name = "a" + "-" * 62
    space.init(tmp_path / "space", name)
    seat = config.init(tmp_path / "odd", name, name, "HK").seat
    space.enrol_local(tmp_path / "space", seat)
    assert _ask(serve(seat), seat, name) == name


def test_a_client_refuses_a_server_that_is_another_participant(gba, serve):
    _, seats = gba
    port = serve(seats["hk-bank"])  # a member, with a certificate of the same space, at the wrong address
    with pytest.raises(grpc.RpcError) as caught:
        _ask(port, seats["hk-bank"], "sz-trade")
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_stranger_and_an_anonymous_caller_are_refused(gba, serve, tmp_path):
    _, seats = gba
    port = serve(seats["sz-trade"])
    space.init(tmp_path / "other", "gba")  # the same name, another authority
    stranger = config.init(tmp_path / "stranger", "hk-bank", "gba", "HK").seat
    space.enrol_local(tmp_path / "other", stranger)
    with pytest.raises(grpc.RpcError):
        _ask(port, stranger, "sz-trade")
    anonymous = grpc.ssl_channel_credentials(seats["hk-bank"].tls.authority.read_bytes())
    options = identity.channel_options("gba", "sz-trade")
    with (
        grpc.secure_channel(f"127.0.0.1:{port}", anonymous, options=options) as channel,
        pytest.raises(grpc.RpcError),
    ):
        channel.unary_unary("/x/WhoAmI")(b"", timeout=30)


def test_a_removed_member_and_a_wrong_role_are_refused(gba, serve):
    folder, seats = gba
    port = serve(seats["sz-trade"])
    assert _ask(serve(seats["sz-trade"], role="witness"), seats["hk-bank"], "sz-trade") == "identity.role"
    space.remove(folder / "space", "hk-bank")
    assert _ask(port, seats["hk-bank"], "sz-trade") == "identity.not-a-member"


def test_a_replaced_certificate_is_refused_and_its_successor_works(gba, serve):
    folder, seats = gba
    bank = seats["hk-bank"]
    port = serve(seats["sz-trade"])
    before = {path: path.read_bytes() for path in (bank.tls.key, bank.tls.certificate)}
    old_list = seats["sz-trade"].trust.members.read_bytes()
    rotate(bank)
    later = utc_now() + timedelta(seconds=2)
    space.enrol_local(folder / "space", bank, now=later)
    assert bank.tls.key.read_bytes() != before[bank.tls.key]
    assert _ask(port, bank, "sz-trade") == "hk-bank"
    new_list = seats["sz-trade"].trust.members.read_bytes()
    seats["sz-trade"].trust.members.write_bytes(old_list)  # a peer that has not had the new list yet
    assert _ask(port, bank, "sz-trade") == "hk-bank"
    seats["sz-trade"].trust.members.write_bytes(new_list)
    for path, data in before.items():
        path.write_bytes(data)
    assert _ask(port, bank, "sz-trade") == "identity.replaced"


def test_a_certificate_for_another_key_is_found_before_the_first_handshake(gba):
    _, seats = gba
    seats["hk-bank"].tls.certificate.replace(seats["sz-trade"].tls.certificate)
    with pytest.raises(ConfigError, match="is not the key of"):
        identity.server_credentials(seats["sz-trade"].tls)
