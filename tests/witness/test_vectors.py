"""Bundles that must verify for ever; their generators still write the same.

The files are kept in tests/vectors/witness and never regenerated: a change that alters what is written here
is a new format version. Every salt, key and clock is fixed, and Ed25519 is deterministic. ML-DSA-44 is not:
its signatures are taken from the file, where they hold.
"""

import contextlib
import dataclasses
import hashlib
from pathlib import Path

import pytest

from tests.witness.conftest import key_of
from witness import bundle, cosignature, dsse, members, note, record, tlog_proof, trust
from witness.bundle import Item
from witness.checks import Requirement
from witness.keys import ML_DSA_44, SIGNATURE_SIZES, PrivateKey, PrivateKeys, SignatureInvalid
from witness.log import Submission
from witness.members import EvidenceKey
from witness.merkle import leaf_hash
from witness.record import Data, Dataset, Reveal, Sensitive, commit
from witness.verify import verify_files

VECTORS = Path(__file__).parent.parent / "vectors" / "witness"
BUNDLE, TRUST = VECTORS / "bundle-v1.json", VECTORS / "trust-v1.json"
BOTH, BOTH_TRUST = VECTORS / "bundle-both-algorithms.json", VECTORS / "trust-both-algorithms.json"
SHOWN, SHOWN_TRUST = VECTORS / "bundle-v3.json", VECTORS / "trust-v3.json"
POLICY = '{"odrl:target":"urn:bayspace:dataset:loans","odrl:uid":"v3 深圳"}'


def salt_of(name):
    return hashlib.sha256(f"salt of {name}".encode()).digest()


def value_of(name):
    return f"SELECT the {name} 一".encode()


EVERY_CLAIM = Sensitive(
    correlation="0123456789abcdef0123456789abcdef",
    purpose=("credit-risk", "授信"),
    data_categories=("invoices",),
    recipient_categories=("banks",),
    source_jurisdictions=("CN-SZ",),
    destination_jurisdictions=("HK",),
    transfer_basis="standard-contract",
    filing_number="粤-2026-0001",
    retain_until="2031-12-31",
    figures={"rows": 200_000, "cells_released": 12, "cells_suppressed": 2},
    budget={"rho": "0.05", "uses": "1"},
)
EVERY_FIELD = Data(
    datasets=(Dataset("sz-trade", "1" * 64), Dataset("hk-bank", "2" * 64)),
    commitments={name: commit(name, salt_of(name), value_of(name)) for name in ("masks", "release")},
    digests={"session": "6" * 64, "transcript": "7" * 64},
    protocol="psi_aggregate/1",
    reveals=(Reveal("hk-bank", "matched-rows"), Reveal("sz-trade", "match-count")),
)


def generate(space, log):
    """An exchange across a key rotation: its last record stands on the second member list."""
    log.append([Submission(leaf_hash(b"%d" % i), b"of others", bytes(32)) for i in range(300)])
    intent = space.seal(sensitive=EVERY_CLAIM)
    release = space.seal("query.release", 1, intent.digest, data=EVERY_FIELD)
    items = [space.item(log, sealed, space.sign(sealed)) for sealed in (intent, release)]

    space.now += 1000
    space.keys["hk-bank"] = space.new_key("hk-bank 2")
    second = members.successor(space.members, space.members.space, space.participants(), space.now)
    first_envelope, second_envelope = space.member_envelope, members.sign(second, [space.operator])
    space.members = second
    space.now += 1000
    result = space.seal("query.result", 2, release.digest, parties=[space.party("hk-bank", "consumer")])
    items.append(space.item(log, result, space.sign(result, "hk-bank")))
    items[-1] = cosigned_by_a_stranger(items[-1])
    return bundle.build(items, [first_envelope, second_envelope])


def cosigned_by_a_stranger(item):
    """The same item with a cosignature line that no trust file of ours knows."""
    proof = tlog_proof.parse(item.proof)
    line = note.NoteSignature("stranger.example/w", b"\x01\x02\x03\x04", bytes(72))
    head = note.Note(proof.checkpoint.text, (*proof.checkpoint.signatures, line))
    changed = tlog_proof.TlogProof(proof.index, proof.path, head, proof.extra)
    return Item(item.envelope, str(changed), item.disclosures, item.openings)


def test_the_first_bundle_verifies_for_ever():
    verified = verify_files(BUNDLE.read_bytes(), TRUST.read_bytes())
    assert [(i.record.event, i.signers, i.one_sided) for i in verified.items] == [
        ("query.intent", ("hk-bank", "sz-trade"), False),
        ("query.release", ("hk-bank", "sz-trade"), False),
        ("query.result", ("hk-bank",), False),
    ]
    assert verified.items[0].opened["query"].decode() == "SELECT the query 一"
    assert verified.items[0].disclosed == EVERY_CLAIM
    assert verified.items[1].record.data == EVERY_FIELD
    assert [m.version for m in verified.members] == [1, 2]


def test_the_generator_still_writes_it(space, log):
    assert generate(space, log) == BUNDLE.read_bytes()
    assert space.trust.to_bytes() == TRUST.read_bytes()


def with_both(space, name):
    """The keys of a member that signs with both algorithms."""
    return PrivateKeys([space.keys[name], key_of(name, ML_DSA_44)])


def next_list(space, *, operator=(), claims=()):
    """The member list that follows, where everybody has both keys."""
    space.now += 1000
    since = space.now - 2000
    people = [
        dataclasses.replace(
            p, keys=tuple(EvidenceKey(k.public, since) for k in with_both(space, p.id).keys), claims=claims
        )
        if p.role == members.CONNECTOR
        else p
        for p in space.participants()
    ]
    named = [key.public for key in operator]
    space.members = members.successor(space.members, space.members.space, people, space.now, named)
    space.now += 1000
    return members.sign(space.members, operator or [space.operator])


def record_with_both(space, log, event, sequence, previous, roles, facts):
    """A record signed by these members with both keys, cosigned by one witness, with its COSE receipt."""
    parties = [
        record.Party(name, role, with_both(space, name).public.ids, "b" * 64, space.now)
        for name, role in roles.items()
    ]
    sealed = space.seal(event, sequence, previous, parties=parties, **facts)
    keys = [key for name in roles for key in with_both(space, name).keys]
    item = space.item(log, sealed, dsse.sign(record.PAYLOAD_TYPE, sealed.payload, keys))
    proof = tlog_proof.parse(item.proof)
    city = [key_of("city"), key_of("city", ML_DSA_44)]
    lines = [cosignature.sign(proof.checkpoint.text, k, "city.example/w", space.now // 1000) for k in city]
    head = note.Note(proof.checkpoint.text, (*proof.checkpoint.signatures, *lines))
    cosigned = dataclasses.replace(proof, checkpoint=head)
    return sealed, dataclasses.replace(item, proof=str(cosigned), receipt=log.receipt(cosigned))


def generate_shown(space, open_log):
    """The same exchange under a policy that the bundle shows in full."""
    contract = record.Contract(hashlib.sha256(POLICY.encode()).hexdigest(), "v3", "a" * 64)
    return generate_both(space, open_log, [POLICY], contract=contract)


def generate_both(space, open_log, policies=(), **facts):
    """An exchange over member lists of all three versions, and the trust of who demands everything."""
    log = open_log(keys=PrivateKeys([space.log_key, key_of("log", ML_DSA_44)]))
    operator = [space.operator, key_of("operator", ML_DSA_44)]
    both = {"hk-bank": "consumer", "sz-trade": "provider"}
    lists = [space.member_envelope, next_list(space, claims=("role:bank",))]
    intent, first = record_with_both(space, log, "query.intent", 0, None, both, facts)
    lists.append(next_list(space, operator=operator))
    since = space.members.issued_at
    release, second = record_with_both(space, log, "query.release", 1, intent.digest, both, facts)
    alone = {"hk-bank": "consumer"}
    _, third = record_with_both(space, log, "query.result", 2, release.digest, alone, facts)
    city = [cosignature.cosigner_key("city.example/w", key_of("city", a)) for a in ("ed25519", ML_DSA_44)]
    quorum = "\n".join(
        [*(f"witness w{n} {key}" for n, key in enumerate(city)), "group g all w0 w1", "quorum g"]
    )
    trusted = trust.of_logs(
        "gba",
        [key.public for key in operator],
        [str(key) for key in log.vkeys],
        [Requirement(ML_DSA_44, intent.record.parties[0].clock)],
        quorum,
    )
    trusted = dataclasses.replace(trusted, operator_since={operator[1].public: since})
    return bundle.build([first, second, third], lists, policies=policies), trusted.to_bytes()


def ml_dsa_signatures(data):
    """Every ML-DSA-44 signature in a bundle."""
    made, _ = bundle.parse(data)
    for envelope in (*made.members, *(item.envelope for item in made.items)):
        yield from (s.sig for s in envelope.signatures if len(s.sig) == SIGNATURE_SIZES[ML_DSA_44])
    for item in made.items:
        yield from (line.signature[8:] for line in tlog_proof.parse(item.proof).checkpoint.signatures)


@pytest.mark.parametrize(
    ("data", "trusted", "policies"),
    [(BOTH, BOTH_TRUST, {}), (SHOWN, SHOWN_TRUST, {hashlib.sha256(POLICY.encode()).hexdigest(): POLICY})],
    ids=["version 2", "version 3"],
)
def test_the_bundle_signed_with_both_algorithms_verifies_for_ever(data, trusted, policies):
    verified = verify_files(data.read_bytes(), trusted.read_bytes())
    assert verified.policies == policies
    assert [m.format[-2:] for m in verified.members] == ["v1", "v2", "v3"]
    assert [i.signers for i in verified.items] == [("hk-bank", "sz-trade")] * 2 + [("hk-bank",)]
    assert all(set(i.included.cosigners) == {"w0", "w1"} and i.receipt for i in verified.items)


@pytest.mark.parametrize(
    ("generator", "data", "trusted"),
    [(generate_both, BOTH, BOTH_TRUST), (generate_shown, SHOWN, SHOWN_TRUST)],
    ids=["version 2", "version 3"],
)
def test_the_generator_still_writes_it_with_both(space, open_log, monkeypatch, generator, data, trusted):
    sign, made = PrivateKey.sign, list(ml_dsa_signatures(data.read_bytes()))

    def again(key, message):
        for signature in made if key.public.algorithm == ML_DSA_44 else ():
            with contextlib.suppress(SignatureInvalid):
                key.public.verify(message, signature)
                return signature
        return sign(key, message)

    monkeypatch.setattr(PrivateKey, "sign", again)
    assert generator(space, open_log) == (data.read_bytes(), trusted.read_bytes())
