"""Record v1: one form only, commitments that hide, claims that show only when disclosed."""

import dataclasses
import hashlib
import hmac
import json

import pytest

from witness import canonical, record
from witness.encoding import b64url
from witness.record import Contract, Data, Disclosure, Exchange, Outcome, Record, Sensitive
from witness.schema import FormatError

START = 1_767_225_600_000  # the space fixture's clock


def test_the_digests_of_rfc_9901():
    # Section 4.2.3's example: the claim `family_name` with its digest.
    assert (
        record.disclosure_digest("WyI2cU1RdlJMNWhhaiIsICJmYW1pbHlfbmFtZSIsICJNw7ZiaXVzIl0")
        == "uutlBuYeMDyjLLTpf6Jxi7yNkEF35jdyWMn9U7b_RYY"
    )


def test_commitment_is_the_stated_hash():
    salt = bytes(range(32))
    expected = hashlib.sha256(b"bayspace/commit/v1/query\x00" + salt + b"SELECT 1").hexdigest()
    assert record.commit("query", salt, b"SELECT 1") == expected
    assert record.commit("plan", salt, b"SELECT 1") != expected
    with pytest.raises(FormatError):
        record.commit("query", salt[:31], b"SELECT 1")
    with pytest.raises(FormatError):
        record.commit("que\x00ry", salt, b"SELECT 1")


def test_tag_is_the_stated_hmac_and_differs_by_author():
    key = b"k" * 32
    tag = record.exchange_tag(key, 3, "hk-bank")
    assert tag == hmac.digest(key, b"bayspace/tag/v1\x00" + (3).to_bytes(8, "big") + b"hk-bank", "sha256")
    others = {record.exchange_tag(key, n, p) for n in (3, 4) for p in ("hk-bank", "sz-trade")}
    assert len(others) == 4


@pytest.mark.parametrize("event", sorted(record.EVENTS))
def test_every_event_reads_back(space, event):
    status = record._STATUS_OF.get(event, "done")
    outcome = Outcome(status, None if status == "done" else "policy.measure")
    sealed = space.seal(event, outcome=outcome)
    again = Record.parse(sealed.payload)
    assert again == sealed.record
    assert again.to_payload() == sealed.payload
    assert len(again.required_signers()) == (2 if event in record.TWO_SIGNED else 1)


def test_the_form_of_version_1_never_changes(space):
    payload = json.loads(space.seal().payload)
    assert sorted(payload) == [
        "_sd",
        "_sd_alg",
        "contract",
        "data",
        "event",
        "exchange",
        "format",
        "members",
        "nonce",
        "outcome",
        "parties",
        "space",
    ]
    assert sorted(payload["parties"][0]) == ["build", "clock", "id", "keys", "role"]
    assert sorted(payload["data"]) == ["commitments", "datasets", "digests", "reveals"]
    assert payload["parties"][0]["clock"] == "2026-01-01T00:00:00.000Z"


def test_full_records_read_back(space):
    data = Data(
        datasets=(record.Dataset("sz-trade", "1" * 64), record.Dataset("hk-bank", "2" * 64)),
        commitments={"query": "3" * 64, "plan": "4" * 64, "masks": "5" * 64},
        digests={"session": "6" * 64, "transcript": "7" * 64},
        protocol="psi_aggregate/1",
        reveals=(record.Reveal("hk-bank", "matched-rows"), record.Reveal("sz-trade", "match-count")),
    )
    sealed = space.seal(data=data)
    assert Record.parse(sealed.payload).data == data


def spoil(space, change):
    value = json.loads(space.seal().payload)
    change(value)
    return canonical.serialise(value)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(more=1),
        lambda v: v.pop("nonce"),
        lambda v: v.update(nonce="AAAA"),
        lambda v: v.update(format="bayspace-evidence/v2"),
        lambda v: v.update(_sd_alg="sha-512"),
        lambda v: v.update(event="query.unheard-of"),
        lambda v: v.update(space="GBA"),
        lambda v: v.update(members="ab"),
        lambda v: v.update(contract=None),
        lambda v: v.pop("contract"),
        lambda v: v["contract"].pop("agreement"),
        lambda v: v["contract"].update(policy="AB" * 32),
        lambda v: v["exchange"].update(sequence=1),
        lambda v: v["exchange"].update(sequence=-1),
        lambda v: v["exchange"].update(sequence=True),
        lambda v: v["exchange"].update(previous="a" * 64),
        lambda v: v["exchange"].update(id="x"),
        lambda v: v.update(parties=[]),
        lambda v: v["parties"].pop(),
        lambda v: v["parties"].append(v["parties"][0]),
        lambda v: v["parties"][0].update(role="king"),
        lambda v: v["parties"][0].update(keys=[]),
        lambda v: v["parties"][0].update(keys=v["parties"][1]["keys"]),
        lambda v: v["parties"][0].update(clock="2026-01-01T00:00:00Z"),
        lambda v: v["parties"][0].update(clock="2026-01-01T00:00:00.0Z"),
        lambda v: v["parties"][0].update(clock="2026-02-30T00:00:00.000Z"),
        lambda v: v["parties"][0].update(clock=1),
        lambda v: v["outcome"].update(status="maybe"),
        lambda v: v["outcome"].update(status="refused"),
        lambda v: v["data"].update(commitments={}),
        lambda v: v["data"]["commitments"].update({"Query": "a" * 64}),
        lambda v: v["data"].update(digests=[]),
        lambda v: v["data"].update(rows=7),
        lambda v: v["data"].update(reveals=[{"party": "hk-bank"}]),
        lambda v: v["_sd"].pop(),
        lambda v: v.update(_sd=v["_sd"][::-1]),
        lambda v: v["_sd"].append(v["_sd"][0]),
        lambda v: v.update(_sd=[1] * 16),
        lambda v: v["_sd"].__setitem__(0, v["_sd"][0][:-1] + "B"),
        lambda v: v["_sd"].__setitem__(0, v["_sd"][0] + "="),
        lambda v: v["parties"][0].update(clock="2026-01-01T00:00:00.000"),
        lambda v: v["parties"][0].update(clock="2026-01-01T00:00:00.000+00:00"),
        lambda v: v["parties"][0].update(clock="20260101T000000.000Z"),
        lambda v: v["parties"][0].update(clock="1969-12-31T23:59:59.999Z"),
        lambda v: v.update(_sd=["AAAA"] * 16),
    ],
)
def test_wrong_records_are_refused(space, change):
    with pytest.raises(FormatError):
        Record.parse(spoil(space, change))


def test_not_canonical_or_too_long(space):
    payload = space.seal().payload
    for wrong in (payload + b" ", b"", b"[]", b"1", payload[:-1], b"x" * (record.LARGEST_PAYLOAD + 1)):
        with pytest.raises(FormatError):
            Record.parse(wrong)


def test_an_event_and_its_status_agree(space):
    with pytest.raises(FormatError):
        space.seal("query.refusal", outcome=Outcome("done"))
    with pytest.raises(FormatError):
        space.seal("query.failure", outcome=Outcome("failed"))
    assert space.seal("query.failure", outcome=Outcome("failed", "peer.silent"))


def test_a_request_needs_no_agreement_yet(space):
    assert space.seal("contract.request", contract=Contract("c" * 64, "v1"))
    with pytest.raises(FormatError):
        space.seal("contract.agreement", contract=Contract("c" * 64, "v1"))


FULL = Sensitive(
    correlation="f" * 32,
    purpose=("credit-risk", "授信"),
    data_categories=("invoices",),
    recipient_categories=("banks",),
    source_jurisdictions=("CN-SZ",),
    destination_jurisdictions=("HK",),
    transfer_basis="standard-contract",
    filing_number="粤-2026-0001",
    retain_until="2031-12-31",
    figures={"rows": 200_000, "cells_suppressed": 2},
    budget={"rho": "0.05", "uses": "1"},
)


def test_sensitive_claims_open_one_by_one(space):
    sealed = space.seal(sensitive=FULL)
    assert len(sealed.disclosures) == len(dataclasses.fields(Sensitive))
    opened = record.open_disclosures(sealed.record, [d.encode() for d in sealed.disclosures])
    assert opened == FULL
    for disclosure in sealed.disclosures:
        one = record.open_disclosures(sealed.record, [disclosure.encode()])
        stated = {k: v for k, v in dataclasses.asdict(one).items() if v is not None}
        assert list(stated) == [disclosure.name]


def test_neither_values_nor_presence_of_claims_show(space):
    full, empty = space.seal(sensitive=FULL), space.seal(sensitive=Sensitive())
    assert len(full.payload) == len(empty.payload)
    assert len(full.record.sealed) == len(empty.record.sealed) == record.SEALED_CLAIMS
    for secret in ("credit-risk", "授信", "standard-contract", "粤-2026-0001", "200000", "f" * 32):
        assert secret.encode() not in full.payload
    assert full.payload != space.seal(sensitive=FULL).payload  # fresh salts and nonce every time


@pytest.mark.parametrize(
    "claims",
    [
        {"rows": 1},
        {"purpose": "credit-risk"},
        {"purpose": ["line\nbreak"]},
        {"purpose": ["\u202etxet"]},
        {"purpose": [""]},
        {"correlation": "xyz"},
        {"figures": {"rows": -1}},
        {"figures": {"rows": 0.5}},
        {"figures": {"rows": "1"}},
        {"figures": {"Rows": 1}},
        {"figures": []},
        {"budget": {"rho": 1}},
        {"budget": {"rho": "0.50"}},
        {"budget": {"rho": "1e3"}},
        {"budget": {"rho": "01"}},
        {"budget": {"rho": "-0"}},
        {"retain_until": "2031-13-01"},
        {"source_jurisdictions": ["CN SZ"]},
    ],
)
def test_wrong_claims_are_refused(claims):
    with pytest.raises(FormatError):
        Sensitive.from_claims(claims)


def test_foreign_and_repeated_disclosures_are_refused(space):
    one, other = space.seal(), space.seal()
    mine = one.disclosures[0].encode()
    with pytest.raises(FormatError, match="belong"):
        record.open_disclosures(other.record, [mine])
    with pytest.raises(FormatError, match="twice"):
        record.open_disclosures(one.record, [mine, mine])


@pytest.mark.parametrize(
    "value",
    [
        b"x",
        b"[]",
        b'["c2FsdA","purpose",["a"]]',
        b'["' + b64url(b"s" * 32).encode() + b'","purpose"]',
        b'["' + b64url(b"s" * 32).encode() + b'", "purpose",["a"]]',
        b'["' + b64url(b"s" * 32).encode() + b'","unknown",["a"]]',
        b'[1,"purpose",["a"]]',
        b'{"0":1}',
    ],
)
def test_wrong_disclosures_are_refused(value):
    with pytest.raises(FormatError):
        Disclosure.decode(b64url(value))
    with pytest.raises(FormatError):
        Disclosure.decode(b64url(value) + "=")


def test_secrets_do_not_print(space):
    sealed = space.seal()
    assert "credit-risk" not in repr(sealed)
    assert repr(sealed.record.nonce) not in repr(sealed)


def test_the_chain_names_payloads(space):
    first = space.seal()
    second = space.seal("query.release", 1, first.digest)
    assert second.record.exchange == Exchange("e" * 32, 1, hashlib.sha256(first.payload).hexdigest())


def test_clock_is_milliseconds(space):
    assert Record.parse(space.seal().payload).parties[0].clock == START
