"""DSSE against securesystemslib, in both directions."""

import json

import pytest
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from witness import canonical, dsse
from witness.dsse import EnvelopeInvalid
from witness.keys import ML_DSA_44, KeyInvalid, PrivateKey, PublicKey, SignatureInvalid

KIND = "application/vnd.bayspace.evidence.v1+json"
ALICE, BOB = (PrivateKey.from_seed(name * 32) for name in (b"a", b"b"))
PQ = PrivateKey.from_seed(b"p" * 32, ML_DSA_44)


def theirs(key):
    public = {"public": key.raw.hex()}
    return SSlibKey(key.id, "ed25519", "ed25519", public)


def test_pae_of_the_specification():
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_they_verify_our_envelopes():
    envelope = dsse.sign(KIND, b'{"a":1}', [ALICE, BOB])
    parsed = TheirEnvelope.from_dict(json.loads(envelope.to_bytes()))
    assert parsed.pae() == dsse.pae(KIND, b'{"a":1}')
    keys = [theirs(ALICE.public), theirs(BOB.public)]
    assert set(parsed.verify(keys, 2)) == {ALICE.public.id, BOB.public.id}
    parsed.payload += b" "
    with pytest.raises(VerificationError):
        parsed.verify(keys, 2)


def test_we_verify_what_they_serialise():
    envelope = dsse.sign(KIND, "供方".encode(), [ALICE, BOB])
    again = dsse.from_json(TheirEnvelope.from_dict(json.loads(envelope.to_bytes())).to_dict())
    assert again == envelope
    again.verify(ALICE.public)
    again.verify(BOB.public)


def test_the_order_of_signing_does_not_show():
    one = dsse.sign(KIND, b"x", [ALICE])
    both = one.with_signatures([dsse.make_signature(KIND, b"x", BOB)])
    assert both.to_bytes() == dsse.sign(KIND, b"x", [BOB, ALICE]).to_bytes()
    assert dsse.parse(both.to_bytes()).digest == both.digest != one.digest


def test_ml_dsa_beside_ed25519():
    envelope = dsse.sign(KIND, b"x", [ALICE, PQ])
    envelope.verify(PQ.public)
    with pytest.raises(SignatureInvalid):
        dsse.Envelope(KIND, b"y", envelope.signatures).verify(PQ.public)


def test_wrong_key_wrong_type_wrong_body():
    envelope = dsse.sign(KIND, b"x", [ALICE])
    with pytest.raises(SignatureInvalid):
        envelope.verify(BOB.public)
    for other in (
        dsse.Envelope(KIND, b"y", envelope.signatures),
        dsse.Envelope("t", b"x", envelope.signatures),
    ):
        with pytest.raises(SignatureInvalid):
            other.verify(ALICE.public)


def spoilt(**changes):
    value = dsse.sign(KIND, b"x", [ALICE]).to_json()
    return {name: item for name, item in {**value, **changes}.items() if item is not None}


SIGNATURE = spoilt()["signatures"][0]


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        spoilt(payload=None),
        spoilt(more=1),
        spoilt(payload="eA"),
        spoilt(payload="eB=="),
        spoilt(payload=1),
        spoilt(payloadType=1),
        spoilt(signatures=[]),
        spoilt(signatures={}),
        spoilt(signatures=[SIGNATURE, SIGNATURE]),
        spoilt(signatures=[{**SIGNATURE, "keyid": SIGNATURE["keyid"].upper()}]),
        spoilt(signatures=[{**SIGNATURE, "keyid": "ab"}]),
        spoilt(signatures=[{**SIGNATURE, "cert": ""}]),
        spoilt(signatures=["x"]),
    ],
)
def test_wrong_forms_are_refused(value):
    with pytest.raises(EnvelopeInvalid):
        dsse.from_json(value)


def test_only_the_canonical_bytes_are_an_envelope():
    data = dsse.sign(KIND, b"x", [ALICE]).to_bytes()
    with pytest.raises(EnvelopeInvalid):
        dsse.parse(data + b"\n")
    with pytest.raises(EnvelopeInvalid):
        dsse.parse(json.dumps(json.loads(data)).encode())


def test_the_short_way_of_reading_takes_nothing_that_a_reader_of_json_does_not():
    data = dsse.sign("t", b"xyz", [ALICE]).to_bytes()
    inserted = (b'"', b"\\", b"\\/", b"=", b" ", b"\xff", b"\\u0041", b",", b"}", b'"sig":""', b"")
    for at in range(len(data)):
        for piece in inserted:
            spoilt = data[:at] + piece + data[at + (not piece) :]
            try:
                read = dsse.from_json(canonical.parse(spoilt))
            except (EnvelopeInvalid, canonical.CanonicalError):
                read = None
            try:
                assert dsse.parse(spoilt) == read
            except EnvelopeInvalid:
                assert read is None
    many = dsse.sign(KIND, b"x", [PrivateKey.from_seed(bytes([n]) * 32) for n in range(16)]).to_bytes()
    assert dsse._plain(many) == dsse.from_json(canonical.parse(many))
    assert dsse._plain(data) == dsse.from_json(canonical.parse(data))


def test_signatures_out_of_order_are_refused():
    envelope = dsse.sign(KIND, b"x", [ALICE, BOB])
    with pytest.raises(EnvelopeInvalid):
        dsse.Envelope(KIND, b"x", envelope.signatures[::-1])


def test_keys():
    assert PrivateKey.from_pem(ALICE.pem()).public == ALICE.public
    assert PrivateKey.from_pem(PQ.pem()).public == PQ.public
    assert "61616161" not in repr(ALICE)
    for algorithm, raw in (("rsa", b"x"), ("ed25519", b"x"), ("ml-dsa-44", b"x")):
        with pytest.raises(KeyInvalid):
            PublicKey(algorithm, raw)
    with pytest.raises(KeyInvalid):
        PrivateKey.from_pem(b"-----BEGIN NOTHING-----")
    with pytest.raises(KeyInvalid):
        PrivateKey.from_seed(b"x" * 32, "rsa")
