"""The bundle of format version 1 that must verify for ever; its generator still writes the same bytes.

The files are kept in tests/vectors/witness and never regenerated: a change that alters what is written here
is a new format version. Ed25519 is deterministic and every salt, key and clock is fixed.
"""

import hashlib
from pathlib import Path

from witness import bundle, members, note, tlog_proof
from witness.bundle import Item
from witness.log import Submission
from witness.merkle import leaf_hash
from witness.record import Data, Dataset, Reveal, Sensitive, commit
from witness.verify import verify_files

VECTORS = Path(__file__).parent.parent / "vectors" / "witness"
BUNDLE, TRUST = VECTORS / "bundle-v1.json", VECTORS / "trust-v1.json"


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
