"""OpenSSL's timestamps of our checkpoints hold here; our queries are understood; rfc3161-client agrees."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import rfc3161_client
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from witness import bundle, checkpoint, note, timestamp, tlog_proof, trust
from witness.timestamp import AuthorityUnknown, TimestampInvalid
from witness.verify import verify

pytestmark = [pytest.mark.deep, pytest.mark.outside]
spec = spec_from_file_location("authority", Path(__file__).with_name("authority.py"))
assert spec is not None
authority = module_from_spec(spec)
assert spec.loader is not None
spec.loader.exec_module(authority)
Authority = authority.Authority


@pytest.fixture(scope="module")
def text(published) -> str:
    return str(checkpoint.parse(note.parse(published.checkpoint).text))


def stamp(made, text: str) -> bytes:
    return timestamp.token_of(made.answer(timestamp.query(text, b"\x80" + b"n" * 7)))


@pytest.mark.parametrize(("kind", "digest"), [("ec", "sha256"), ("rsa", "sha256"), ("rsa", "sha512")])
def test_openssls_tokens_hold_here_and_there(tmp_path, text, kind, digest) -> None:
    made = Authority(tmp_path, kind=kind, digest=digest)
    token = stamp(made, text)
    found = timestamp.verify(token, text, [made.ca])
    assert found.authority == "CN=Test TSA"
    assert abs(found.at - datetime.now(UTC).timestamp()) < 60
    (tmp_path / "checkpoint.txt").write_text(text)
    (tmp_path / "token.der").write_bytes(token)
    verify = ("-verify", "-data", "checkpoint.txt", "-in", "token.der", "-token_in", "-CAfile", "ca.pem")
    assert "Verification: OK" in made.openssl(*verify)
    (tmp_path / "checkpoint.txt").write_text(text + " ")
    with pytest.raises(subprocess.CalledProcessError):
        made.openssl(*verify)


def test_rfc3161_client_reads_our_query_and_the_answer_as_we_do(tmp_path, text) -> None:
    made = Authority(tmp_path)
    answer = made.answer(timestamp.query(text, b"\x01" * 8))
    response = rfc3161_client.decode_timestamp_response(answer)
    verifier = rfc3161_client.VerifierBuilder().add_root_certificate(made.ca).build()
    assert verifier.verify_message(response, text.encode())
    found = timestamp.verify(timestamp.token_of(answer), text, [made.ca])
    assert response.tst_info.gen_time == datetime.fromtimestamp(found.at, UTC)


def test_another_authority_is_unknown(tmp_path, text) -> None:
    made, other = Authority(tmp_path / "one"), Authority(tmp_path / "other")
    with pytest.raises(AuthorityUnknown):
        timestamp.verify(stamp(made, text), text, [other.ca])
    assert timestamp.verify(stamp(made, text), text, [other.ca, made.ca])


def test_a_certificate_for_something_else_does_not_count(tmp_path, text, monkeypatch) -> None:
    made = Authority(tmp_path)
    token = stamp(made, text)
    wrong = Authority(tmp_path / "wrong", purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    loose = Authority(tmp_path / "loose", critical=False)
    for other in (wrong, loose):
        with pytest.raises(TimestampInvalid, match="for timestamping"):
            timestamp._check_purpose(other.certificate)
    assert timestamp.verify(token, text, [made.ca])


def test_an_authority_whose_time_is_over_is_unknown(tmp_path, text) -> None:
    ended = datetime.now(UTC) - timedelta(days=2 * 365 + 10)
    made = Authority(tmp_path, begin=ended, years=2)
    with pytest.raises(AuthorityUnknown, match="at that time"):
        timestamp.verify(stamp(made, text), text, [made.ca])


def test_a_timestamped_bundle_verifies_and_says_when(tmp_path, stamped) -> None:
    data, trusted, text = stamped
    made = Authority(tmp_path)
    token = stamp(made, text)
    parsed, _ = bundle.parse(data)
    whole = bundle.build(parsed.items, parsed.members, [token])
    known = replace(trusted, timestamp_authorities=(made.ca.public_bytes(Encoding.DER),))
    verified = verify(whole, known)
    assert [t.authority for item in verified.items for t in item.timestamps] == ["CN=Test TSA"]
    assert verify(whole, trusted).unknown_timestamps == 1
    assert verify(whole, trusted).items[0].timestamps == ()


@pytest.fixture
def stamped():
    """The first bundle ever, what it is verified with, and its checkpoint's text."""
    vectors = Path(__file__).parents[1] / "vectors" / "witness"
    data = (vectors / "bundle-v1.json").read_bytes()
    heads = {tlog_proof.parse(item.proof).checkpoint.text for item in bundle.parse(data)[0].items}
    return data, trust.parse((vectors / "trust-v1.json").read_bytes()), heads.pop()
