"""RFC 3161 timestamps: a token by OpenSSL (tests/vectors) holds for its checkpoint and authority."""

import random
from pathlib import Path

import pytest
from cryptography import x509

from witness import der, timestamp
from witness.timestamp import AuthorityUnknown, TimestampInvalid

VECTOR = Path(__file__).parents[1] / "vectors" / "witness" / "timestamp"
TOKEN = (VECTOR / "token.der").read_bytes()
TEXT = (VECTOR / "checkpoint.txt").read_text("utf-8")
AUTHORITY = x509.load_pem_x509_certificate((VECTOR / "authority.pem").read_bytes())


def test_the_token_says_who_and_when() -> None:
    found = timestamp.verify(TOKEN, TEXT, [AUTHORITY])
    assert found == timestamp.Timestamp("CN=Test TSA", 1795302287)
    assert timestamp.imprinted(TOKEN) == timestamp.imprint(TEXT)


def test_another_checkpoint_or_authority_does_not_hold() -> None:
    with pytest.raises(TimestampInvalid, match="another checkpoint"):
        timestamp.verify(TOKEN, TEXT.replace("\n5\n", "\n6\n"), [AUTHORITY])
    with pytest.raises(AuthorityUnknown):
        timestamp.verify(TOKEN, TEXT, [])


def test_a_changed_token_says_the_same_or_nothing() -> None:
    """Bytes that no signature covers (other certificates in it) may change; what it says may not."""
    said = timestamp.verify(TOKEN, TEXT, [AUTHORITY])
    drawn = random.Random(3)
    refused = 0
    for position in range(0, len(TOKEN), 3):
        data = bytearray(TOKEN)
        data[position] ^= 1 << drawn.randrange(8)
        try:
            assert timestamp.verify(bytes(data), TEXT, [AUTHORITY]) == said
        except TimestampInvalid:
            refused += 1
    assert refused > len(TOKEN) // 3 // 2


def test_a_cut_or_padded_token_is_none() -> None:
    for data in (TOKEN[:-1], TOKEN + b"\0", b"", b"\x30\x80", TOKEN[:40], b"\x30" + b"\x84\xff\xff\xff\xff"):
        with pytest.raises(TimestampInvalid):
            timestamp.verify(data, TEXT, [AUTHORITY])
    with pytest.raises(TimestampInvalid, match="at most"):
        timestamp.verify(TOKEN + bytes(timestamp.LARGEST_TOKEN), TEXT, [AUTHORITY])


def test_a_query_asks_for_sha_256_and_the_certificate() -> None:
    reader = der.only(timestamp.query(TEXT, b"\xff" * 8), der.SEQUENCE)
    assert reader.integer() == 1
    hashed = reader.inside(der.SEQUENCE)
    assert hashed.inside(der.SEQUENCE).oid() == "2.16.840.1.101.3.4.2.1"
    assert hashed.take(der.OCTETS).content == timestamp.imprint(TEXT)
    assert reader.integer() == 2**64 - 1
    assert reader.take(0x01).content == b"\xff"
    reader.end()


def test_a_refusal_is_told_apart() -> None:
    refused = der.element(der.SEQUENCE, der.element(der.SEQUENCE, der.integer(2)))
    with pytest.raises(TimestampInvalid, match="PKI status 2"):
        timestamp.token_of(refused)
    with pytest.raises(TimestampInvalid, match="no timestamp response"):
        timestamp.token_of(b"<html>")
    granted = der.element(der.SEQUENCE, der.element(der.SEQUENCE, der.integer(0)), TOKEN)
    assert timestamp.token_of(granted) == TOKEN


@pytest.mark.parametrize(
    "encoded",
    [
        "0281015a",  # a length in too many bytes
        "028000",  # an indefinite length
        "02020001",  # a padded integer
        "0200",  # an integer of no bytes
        "1f0101",  # a tag beyond 30
        "0203ff",  # ends too early
        "03015a",  # another type
    ],
)
def test_other_encodings_are_refused(encoded: str) -> None:
    with pytest.raises(der.DerInvalid):
        der.Reader(bytes.fromhex(encoded)).integer()


def test_integers_and_identifiers_read_back() -> None:
    for value in (0, 1, 127, 128, 255, 256, 2**64):
        assert der.Reader(der.integer(value)).integer() == value
    assert der.Reader(bytes.fromhex("06092a864886f70d010702")).oid() == "1.2.840.113549.1.7.2"
    assert len(der.element(der.OCTETS, bytes(300))) == 304
    assert der.Reader(der.element(der.OID, b"\x69\x83" + b"\x80" * 17 + b"\x00")).oid().startswith("2.25.")
    for content in ("2a86", "802a", "2a8001", "2a" + "ff" * 60_000 + "01"):
        with pytest.raises(der.DerInvalid):
            der.Reader(der.element(der.OID, bytes.fromhex(content))).oid()


@pytest.mark.parametrize(
    "text", ["2026112119243Z", "20261121192413.x1Z", "20261121192413+0000", "20261321192413Z"]
)
def test_a_time_that_is_not_to_the_second_in_utc_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        timestamp._time(text)
