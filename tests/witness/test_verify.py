"""The offline verifier: every way in which evidence can fail has its code, and no byte is without effect."""

import base64
import dataclasses
import hashlib
import io
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from policy_enforcer.disclosure import Fact
from witness import __main__ as command
from witness import (
    auditor,
    bundle,
    bundle_text,
    canonical,
    checkpoint,
    checks,
    cose,
    dsse,
    evidence_words,
    members,
    note,
    record,
    timestamp,
    tlog_proof,
    trust,
)
from witness.keys import ML_DSA_44, PrivateKey, PrivateKeys
from witness.log import Log
from witness.schema import FormatError
from witness.verify import VerificationFailed, verify, verify_files

ORIGIN = "witness.example/gba"
VECTORS = Path(__file__).parent.parent / "vectors" / "witness"
BUNDLE, TRUST = (VECTORS / "bundle-v1.json").read_bytes(), (VECTORS / "trust-v1.json").read_bytes()


def fails(code, data, trusted, item=None):
    with pytest.raises(VerificationFailed) as caught:
        verify(data, trusted)
    assert (caught.value.code, caught.value.item) == (code, item), caught.value.sentence
    assert caught.value.sentence.endswith(".")
    return caught.value.sentence


def rebuilt(data, change):
    """The bundle after `change` to its JSON, with the checksum made right again."""
    value = json.loads(data)
    change(value)
    value.pop("checksum", None)
    return canonical.serialise({**value, "checksum": bundle._checksum(value)})


def test_a_whole_exchange_verifies(space, log):
    verified = verify(space.bundle(log), space.trust)
    assert [i.record.event for i in verified.items] == ["query.intent", "query.release", "query.result"]
    assert [i.included.index for i in verified.items] == [0, 1, 2]
    assert verified.items[2].signers == ("hk-bank",)
    assert verified.items[0].disclosed.figures == {"rows": 1000}
    assert verified.items[1].opened == {"release": "SELECT the release 一".encode()}


def test_every_flipped_byte_fails_and_in_no_other_way():
    trusted = trust.parse(TRUST)
    verify(BUNDLE, trusted)
    seen = set()
    for position in [*range(0, len(BUNDLE), 37), *range(200), *range(len(BUNDLE) - 200, len(BUNDLE))]:
        mask = random.Random(position).choice([1, 2, 4, 8, 16, 32, 64, 128, 255])
        data = bytearray(BUNDLE)
        data[position] ^= mask
        with pytest.raises(VerificationFailed) as caught:
            verify(bytes(data), trusted)
        seen.add(caught.value.code)
    # An envelope's flipped byte already breaks its inclusion; the test below keeps inclusion out of it.
    assert seen >= {"format", "inclusion", "checkpoint", "checksum", "disclosure", "commitment", "members"}


@pytest.mark.deep
def test_every_flipped_signed_byte_fails_even_with_a_right_checksum():
    """The checksum protects nobody from a forger, so the signatures must hold alone."""
    trusted, drawn = trust.parse(TRUST), random.Random(7)
    for path in strings_of(json.loads(BUNDLE)):
        for _ in range(6):

            def change(value, path=path):
                *way, last = path
                for step in way:
                    value = value[step]
                value[last] = flipped(value[last], drawn)

            data = rebuilt(BUNDLE, change)
            with pytest.raises(VerificationFailed):
                verify(data, trusted)


def strings_of(value, path=()):
    """Paths of all strings but the checksum and the proofs (one has a line that no trusted key signed)."""
    if isinstance(value, str) and path[-1] not in ("proof", "checksum"):
        yield path
    elif isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from strings_of(value[key], (*path, key))


def flipped(text, drawn):
    place = drawn.randrange(len(text))
    other = drawn.choice([c for c in "Aa0b9+/=-_ x" if c != text[place]])
    return text[:place] + other + text[place + 1 :]


def test_a_strangers_cosignature_may_go_but_not_change_unnoticed():
    trusted = trust.parse(TRUST)
    line = json.loads(BUNDLE)["items"][2]["proof"].splitlines(keepends=True)[-1]
    assert line.startswith("— stranger.example/w ")
    altered = BUNDLE.replace(b"/w AQIDBAAA", b"/w AQIDBAAB")
    assert altered != BUNDLE
    fails("checksum", altered, trusted)
    verify(
        rebuilt(BUNDLE, lambda v: v["items"][2].update(proof=v["items"][2]["proof"].replace(line, ""))),
        trusted,
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        BUNDLE[:-1],
        BUNDLE + b"\n",
        BUNDLE.replace(b"bundle/v1", b"bundle/v2"),
    ],
)
def test_format(data):
    fails("format", data, trust.parse(TRUST))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(items=[]),
        lambda v: v.update(more=1),
        lambda v: v.pop("members"),
        lambda v: v["items"][0].pop("openings"),
        lambda v: v["items"][0].update(proof=1),
        lambda v: v["items"][0].update(disclosures=[1]),
        lambda v: v["items"][0]["openings"][0].update(salt="AAAA"),
        lambda v: v["items"][0]["envelope"].update(signatures=[]),
    ],
)
def test_format_of_parts(change):
    fails("format", rebuilt(BUNDLE, change), trust.parse(TRUST))


def item_of(space, log, sealed, *names):
    return space.item(log, sealed, space.sign(sealed, *names))


def bundle_of(space, *items, lists=None):
    return bundle.Bundle(items, tuple(lists or [space.member_envelope])).to_bytes()


def test_signature_of_another_key(space, log):
    sealed = space.seal()
    good = space.sign(sealed)
    swapped = tuple(
        dsse.Signature(s.keyid, t.sig) for s, t in zip(good.signatures, good.signatures[::-1], strict=True)
    )
    item = space.item(log, sealed, dsse.Envelope(good.payload_type, good.payload, swapped))
    fails("signature", bundle_of(space, item), space.trust, 0)


def test_signature_of_somebody_who_is_no_party(space, log):
    item = item_of(space, log, space.seal(), "hk-bank", "sz-trade", "auditor")
    fails("signature", bundle_of(space, item), space.trust, 0)


def test_author_who_did_not_sign(space, log):
    item = item_of(space, log, space.seal("query.result"), "sz-trade")
    assert "hk-bank" in fails("signature", bundle_of(space, item), space.trust, 0)


def test_one_sided(space, log):
    data = bundle_of(space, item_of(space, log, space.seal(), "sz-trade"))
    assert "hk-bank did not sign" in fails("one-sided", data, space.trust, 0)
    item = verify(data, space.trust, accept_one_sided=True).items[0]
    assert (item.one_sided, item.signers) == (True, ("sz-trade",))


def test_one_signature_is_whole_where_one_is_expected(space, log):
    refusal = space.seal("query.refusal", outcome=record.Outcome("refused", "policy.measure"))
    both = space.seal("query.refusal", outcome=record.Outcome("refused", "policy.measure"))
    items = [item_of(space, log, refusal, "hk-bank"), item_of(space, log, both)]
    verified = verify(bundle_of(space, *items), space.trust)
    assert [(i.one_sided, i.signers) for i in verified.items] == [
        (False, ("hk-bank",)),
        (False, ("hk-bank", "sz-trade")),
    ]


def test_members_of_another_operator_or_space(space, log):
    item = item_of(space, log, space.seal())
    stranger = PrivateKey.from_seed(b"s" * 32)
    fails("members", bundle_of(space, item, lists=[members.sign(space.members, [stranger])]), space.trust)
    other = dataclasses.replace(space.members, space="other")
    fails("members", bundle_of(space, item, lists=[members.sign(other, [space.operator])]), space.trust)
    second = members.successor(space.members, "gba", space.participants(), space.now + 1)
    lists = [members.sign(second, [space.operator])]
    fails("members", bundle_of(space, item, lists=lists), space.trust, 0)  # the named list is missing


def test_record_of_another_space(space, log):
    item = item_of(space, log, space.seal(space="other"))
    fails("members", bundle_of(space, item), space.trust, 0)


def test_member_lists_in_disorder_or_forked(space, log):
    item = item_of(space, log, space.seal())
    second = members.successor(space.members, "gba", space.participants(), space.now + 1)
    fork = dataclasses.replace(second, previous="a" * 64)
    for lists in ([second, space.members], [space.members, fork], [space.members, space.members]):
        envelopes = [members.sign(each, [space.operator]) for each in lists]
        fails("members", bundle_of(space, item, lists=envelopes), space.trust)


def test_key_that_the_list_does_not_give(space, log):
    space.keys["hk-bank"] = PrivateKey.from_seed(b"n" * 32)
    fails("key", bundle_of(space, item_of(space, log, space.seal())), space.trust, 0)


def test_key_that_was_withdrawn_before_the_record_was_logged(space, log):
    sealed = space.seal()
    space.now += 10
    remaining = [p for p in space.participants() if p.id != "hk-bank"]
    second = members.successor(space.members, "gba", remaining, space.now)
    space.now += 10
    item = item_of(space, log, sealed)
    lists = [space.member_envelope, members.sign(second, [space.operator])]
    fails("key", bundle_of(space, item, lists=lists), space.trust, 0)


def test_records_from_before_a_withdrawal_still_verify(space, log):
    item = item_of(space, log, space.seal())
    second = members.successor(space.members, "gba", [], space.now + 10)
    verify(
        bundle_of(space, item, lists=[space.member_envelope, members.sign(second, [space.operator])]),
        space.trust,
    )


def test_expired_key(space, log):
    space.now += 20 * 365 * 86_400_000
    limited = [
        dataclasses.replace(p, keys=tuple(dataclasses.replace(k, valid_until=space.now) for k in p.keys))
        for p in space.participants()
    ]
    space.members = members.successor(None, "gba", limited, space.now - 1000)
    space.member_envelope = members.sign(space.members, [space.operator])
    fails("key", bundle_of(space, item_of(space, log, space.seal())), space.trust, 0)


def test_two_keys_of_one_party_must_both_sign(space, log):
    second = PrivateKey.from_seed(b"p" * 32, ML_DSA_44)
    first = space.keys["hk-bank"]
    both = [
        dataclasses.replace(p, keys=(*p.keys, members.EvidenceKey(second.public, space.now - 1)))
        if p.id == "hk-bank"
        else p
        for p in space.participants()
    ]
    space.members = members.successor(None, "gba", both, space.now - 1000)
    space.member_envelope = members.sign(space.members, [space.operator])
    party = dataclasses.replace(
        space.party("hk-bank", "consumer"), keys=tuple(sorted([first.public.id, second.public.id]))
    )
    sealed = space.seal("query.result", parties=[party])
    whole = dsse.sign(record.PAYLOAD_TYPE, sealed.payload, [first, second])
    assert verify(bundle_of(space, space.item(log, sealed, whole)), space.trust).items[0].signers == (
        "hk-bank",
    )
    half = dsse.sign(record.PAYLOAD_TYPE, sealed.payload, [first])
    fails("signature", bundle_of(space, space.item(log, sealed, half)), space.trust, 0)
    intent = space.seal(parties=[space.party("sz-trade", "provider"), party])
    both = dsse.sign(record.PAYLOAD_TYPE, intent.payload, [space.keys["sz-trade"], first])
    fails("signature", bundle_of(space, space.item(log, intent, both)), space.trust, 0)


def test_the_operators_second_key_is_demanded_from_a_time_on(space, log):
    second = PrivateKey.from_seed(b"o" * 32, ML_DSA_44)
    keys = (space.operator.public, second.public)
    before = bundle_of(space, item_of(space, log, space.seal()))
    verify(before, space.trust)
    since = space.now + 1000
    trusted = dataclasses.replace(space.trust, operator_keys=keys, operator_since={second.public: since})
    trusted = trust.parse(trusted.to_bytes())
    assert trusted.operator_since == {second.public: since}
    verify(before, trusted)  # on record before that time
    space.now = since
    fails("members", bundle_of(space, item_of(space, log, space.seal())), trusted, 0)
    first = space.member_envelope
    space.members = members.successor(space.members, "gba", space.participants(), space.now, keys)
    space.member_envelope = members.sign(space.members, [space.operator, second])
    item = item_of(space, log, space.seal())
    lists = [first, space.member_envelope]
    for known in (trusted, space.trust):  # also for an auditor who never heard of the second key
        verify(bundle_of(space, item, lists=lists), known)
    half = members.successor(space.members, "gba", space.participants(), space.now)
    lists.append(members.sign(half, [space.operator]))
    fails("members", bundle_of(space, item, lists=lists), space.trust)


def test_both_operator_keys_without_a_date_have_signed_every_list(space, log):
    second = PrivateKey.from_seed(b"o" * 32, ML_DSA_44)
    keys = (space.operator.public, second.public)
    trusted = trust.parse(dataclasses.replace(space.trust, operator_keys=keys).to_bytes())
    fails("members", bundle_of(space, item_of(space, log, space.seal())), trusted, 0)
    space.members = members.successor(space.members, "gba", space.participants(), space.now, keys)
    space.member_envelope = members.sign(space.members, [space.operator, second])
    item = item_of(space, log, space.seal())
    verify(bundle_of(space, item, lists=[space.member_envelope]), trusted)


def test_inclusion_of_another_envelope(space, log):
    first, second = item_of(space, log, space.seal()), item_of(space, log, space.seal())
    swapped = dataclasses.replace(first, proof=second.proof)
    fails("inclusion", bundle_of(space, swapped), space.trust, 0)


def test_inclusion_with_a_changed_leaf_index_or_path(space, log):
    items = [item_of(space, log, space.seal()) for _ in range(3)]
    proof = tlog_proof.parse(items[2].proof)
    later = dataclasses.replace(proof, extra=proof.extra[:-1] + bytes([proof.extra[-1] ^ 1]))
    shifted = dataclasses.replace(proof, index=proof.index - 1)
    shorter = dataclasses.replace(proof, path=proof.path[1:])
    for wrong in (later, shifted, shorter):
        item = dataclasses.replace(items[2], proof=str(wrong))
        fails("inclusion", bundle_of(space, item), space.trust, 0)
    for extra in (None, proof.extra[:-1], b"\x02" + proof.extra[1:]):
        item = dataclasses.replace(items[2], proof=str(dataclasses.replace(proof, extra=extra)))
        fails("format", bundle_of(space, item), space.trust, 0)


def test_checkpoint_of_another_log(space, log):
    item = item_of(space, log, space.seal())
    proof = tlog_proof.parse(item.proof)
    head = checkpoint.parse(proof.checkpoint.text)
    stranger = PrivateKey.from_seed(b"s" * 32)
    for wrong in (
        checkpoint.sign(head, stranger),
        checkpoint.sign(dataclasses.replace(head, origin="other.example"), space.log_key),
        note.Note(str(dataclasses.replace(head, size=head.size + 1)), proof.checkpoint.signatures),
    ):
        forged = dataclasses.replace(item, proof=str(dataclasses.replace(proof, checkpoint=wrong)))
        fails("checkpoint", bundle_of(space, forged), space.trust, 0)


def cosign(space, item, key, late=0):
    from witness.cosignature import message

    proof = tlog_proof.parse(item.proof)
    vkey = note.verifier_key("w.example", key.public, note.TYPE_COSIGNATURE_ED25519)
    seconds = space.now // 1000 - late
    signature = key.sign(message(vkey, proof.checkpoint.text, seconds))
    line = note.NoteSignature(vkey.name, vkey.id, seconds.to_bytes(8, "big") + signature)
    head = note.Note(proof.checkpoint.text, (*proof.checkpoint.signatures, line))
    return vkey, dataclasses.replace(item, proof=str(dataclasses.replace(proof, checkpoint=head)))


def test_quorum(space, log):
    item = item_of(space, log, space.seal())
    vkey, cosigned = cosign(space, item, PrivateKey.from_seed(b"w" * 32))
    text = f"log {space.vkey}\nwitness W {vkey}\nquorum W"
    strict = dataclasses.replace(space.trust, policy_text=text)
    fails("quorum", bundle_of(space, item), strict, 0)
    verified = verify(bundle_of(space, cosigned), strict)
    assert verified.items[0].included.cosigners == {"W": space.now // 1000}
    # A line that names the witness's key but does not hold refuses the checkpoint.
    broken = dataclasses.replace(cosigned, proof=rewritten_last_line(cosigned.proof))
    fails("quorum", bundle_of(space, broken), strict, 0)


def test_a_record_is_not_younger_than_who_vouches_for_it(space, log, monkeypatch):
    """A log cannot date an entry ahead, into the time of another key, past its witnesses' clocks."""
    item, key = item_of(space, log, space.seal()), PrivateKey.from_seed(b"w" * 32)
    vkey, early = cosign(space, item, key, late=302)
    text = f"log {space.vkey}\nwitness W {vkey}\nquorum W"
    strict = dataclasses.replace(space.trust, policy_text=text)
    fails("time", bundle_of(space, early), strict, 0)
    verify(bundle_of(space, cosign(space, item, key, late=290)[1]), strict)
    # Nor than a timestamp of its tree.
    head = tlog_proof.parse(item.proof).checkpoint.text
    stamp = timestamp.Timestamp("CN=TSA", space.now // 1000 - 302)
    monkeypatch.setattr(timestamp, "imprinted", lambda _token: timestamp.imprint(head))
    monkeypatch.setattr(timestamp, "verify", lambda *_: stamp)
    fails("time", bundle.build([item], [space.member_envelope], [b"token"]), space.trust, 0)


def rewritten_last_line(proof):
    parsed = tlog_proof.parse(proof)
    *others, last = parsed.checkpoint.signatures
    wrong = dataclasses.replace(last, signature=last.signature[:-1] + bytes([last.signature[-1] ^ 1]))
    head = note.Note(parsed.checkpoint.text, (*others, wrong))
    return str(dataclasses.replace(parsed, checkpoint=head))


def test_chain(space, log):
    intent = space.seal()
    release = space.seal("query.release", 1, intent.digest)
    first, second = item_of(space, log, intent), item_of(space, log, release)
    verify(bundle_of(space, first, second), space.trust)
    fails("chain", bundle_of(space, second), space.trust, 0)
    fails("chain", bundle_of(space, second, first), space.trust, 0)
    fails("chain", bundle_of(space, first, first), space.trust, 1)
    gap = item_of(space, log, space.seal("query.release", 2, intent.digest))
    fails("chain", bundle_of(space, first, gap), space.trust, 1)
    foreign = space.seal("query.release", exchange=record.Exchange("d" * 32, 1, intent.digest))
    fails("chain", bundle_of(space, first, item_of(space, log, foreign)), space.trust, 1)


def test_a_log_that_signed_two_trees(space, log, tmp_path):
    """Same key, same origin, another history: each record holds by itself, together they show the fork."""
    records = [space.seal("query.intent", exchange=record.Exchange(c * 32, 0)) for c in "abc"]
    other = Log(tmp_path / "other", log.origin, PrivateKeys([space.log_key]), space.clock)
    first = item_of(space, log, records[0])
    same_size = item_of(space, other, records[1])
    item_of(space, other, records[2])
    same_index = dataclasses.replace(same_size, proof=str(other.prove(0)))
    other.close()
    for forked in (same_size, same_index):
        verify(bundle_of(space, forked), space.trust)
        fails("checkpoint", bundle_of(space, first, forked), space.trust, 1)


def test_a_bundle_that_stops_before_its_exchange_did_says_so(space, log, tmp_path, capsys):
    whole = space.exchange()
    items = [space.item(log, *made) for made in whole]
    (tmp_path / "trust.json").write_bytes(space.trust.to_bytes())
    told = "exchange " + "e" * 32 + ": this bundle does not show what came of it"
    for shown, said in ((items, False), (items[:2], False), (items[:1], True)):
        (tmp_path / "bundle.json").write_bytes(bundle_of(space, *shown))
        command.main(["verify", str(tmp_path / "bundle.json"), "--trust", str(tmp_path / "trust.json")])
        assert (told in capsys.readouterr().out) is said


def test_the_command_speaks_chinese_and_has_a_sentence_for_every_code(tmp_path, capsys):
    trusted = ["--trust", str(VECTORS / "trust-v1.json"), "--language", "zh"]
    assert command.main(["verify", str(VECTORS / "bundle-v1.json"), *trusted]) == 0
    assert capsys.readouterr().out.startswith("核验通过\n1. 查询意向 query.intent: 完成 done\n   交换 ")
    (tmp_path / "broken.json").write_bytes(BUNDLE.replace(b'"checksum":"', b'"checksum":"0', 1)[:-1] + b"}")
    assert command.main(["verify", str(tmp_path / "broken.json"), *trusted]) == 7
    assert capsys.readouterr().err.startswith("核验未通过 [")
    for code in checks.CODES:
        said = bundle_text.failed_text(VerificationFailed(code, "Detail.", 0), "zh")
        assert re.fullmatch(rf"核验未通过 \[{code}\].*第 1 条.*[一-龥]{{4}}.*Detail\..*", said), said


def test_time(space, log):
    ahead = dataclasses.replace(
        space.party("hk-bank", "consumer"), clock=space.now + checks.CLOCK_TOLERANCE + 60_000
    )
    sealed = space.seal("query.result", parties=[ahead])
    fails("time", bundle_of(space, item_of(space, log, sealed, "hk-bank")), space.trust, 0)

    intent = space.seal()
    first = item_of(space, log, intent)
    space.now -= checks.CLOCK_TOLERANCE + 60_000
    back = space.seal("query.release", 1, intent.digest)
    fails("time", bundle_of(space, first, item_of(space, log, back)), space.trust, 1)


def test_member_list_younger_than_the_record(space, log):
    later = members.successor(None, "gba", space.participants(), space.now + checks.CLOCK_TOLERANCE + 60_000)
    space.members, space.member_envelope = later, members.sign(later, [space.operator])
    fails("time", bundle_of(space, item_of(space, log, space.seal())), space.trust, 0)


def test_disclosure(space, log):
    one, other = (item_of(space, log, space.seal()) for _ in range(2))
    for wrong in (other.disclosures, (*one.disclosures, one.disclosures[0]), ("AAAA",), ("!",)):
        item = dataclasses.replace(one, disclosures=wrong)
        fails("disclosure", bundle_of(space, item), space.trust, 0)
    none = dataclasses.replace(one, disclosures=())
    assert verify(bundle_of(space, none), space.trust).items[0].disclosed.claims() == {}


def test_commitment(space, log):
    item = item_of(space, log, space.seal())
    first, second = item.openings
    for wrong in (
        (dataclasses.replace(first, value=b"another"),),
        (dataclasses.replace(first, salt=second.salt),),
        (dataclasses.replace(first, name="release"),),
        (first, first),
    ):
        broken = dataclasses.replace(item, openings=wrong)
        fails("commitment", bundle_of(space, broken), space.trust, 0)


def test_policy(space, log):
    """A policy in full is one that a record names, once."""
    text = '{"odrl:uid":"v3 \u202e深圳"}'
    digest = hashlib.sha256(text.encode()).hexdigest()
    contract = record.Contract(digest, "v3", "a" * 64)
    item = item_of(space, log, space.seal(contract=contract))
    shown = bundle.build([item], [space.member_envelope], policies=[text])
    assert b'"bayspace-bundle/v3"' in shown
    verified = verify(shown, space.trust)
    assert verified.policies == {digest: text}
    said = bundle_text.to_text(verified)
    assert f"policy {digest}, in full:\n   | {{\n   |  " in said
    assert "v3 \\u{202e}深圳" in said
    assert auditor.to_json(verified)["policies"] == {digest: json.loads(text)}
    for wrong in ([text + " "], [text, text], [text, "{}"]):
        fails("policy", bundle.build([item], [space.member_envelope], policies=wrong), space.trust)
    fails("format", rebuilt(shown, lambda v: v.update(policies=[])), space.trust)
    fails("format", rebuilt(shown, lambda v: v.update(policies=[1])), space.trust)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"limit":1,"limit":100}',
        '{"a":[{"limit":1,"limit":1}]}',
        '{"limit":NaN}',
        '{"limit":-Infinity}',
        '{"limit":1e400}',
        '{"limit":0.10000000000000000001}',
        '{"limit":1e-99999999999999999999}',
        '"VERIFIED"',
    ],
)
def test_a_policy_that_parsing_would_change_is_shown_as_its_text(text):
    """What was verified is the text: who reads the terms must not be shown others."""
    assert bundle_text.policy_json(text) == text
    assert bundle_text._policy_lines(text) == [f"   | {text}"]


def test_a_policy_that_parsing_keeps_is_laid_out():
    assert bundle_text.policy_json('{"limit":0.1,"more":[1e21,-3]}') == {"limit": 0.1, "more": [1e21, -3]}


def test_payload_of_another_type(space, log):
    sealed = space.seal("query.result", parties=[space.party("hk-bank", "consumer")])
    envelope = dsse.sign("text/plain", sealed.payload, [space.keys["hk-bank"]])
    fails("format", bundle_of(space, space.item(log, sealed, envelope)), space.trust, 0)


def test_receipt(space, log):
    item, other = (item_of(space, log, space.seal(exchange=record.Exchange(n * 32, 0))) for n in "ab")
    proofs = [tlog_proof.parse(i.proof) for i in (item, other)]
    mine, theirs = (cose.sign(proof, space.log_key) for proof in proofs)
    (verified,) = verify(bundle_of(space, dataclasses.replace(item, receipt=mine)), space.trust).items
    assert verified.receipt == cose.Receipt(ORIGIN, 0, 1, verified.included.checkpoint.root)
    stranger = cose.sign(proofs[0], PrivateKey.from_seed(b"s" * 32))
    later = cose.sign(log.prove(0), space.log_key)
    for wrong in (theirs, stranger, later, mine[:-1], b""):
        fails("receipt", bundle_of(space, dataclasses.replace(item, receipt=wrong)), space.trust, 0)


def test_timestamp(space, log):
    """The vector's token is of another log's checkpoint; that it holds is tested in test_timestamp.py."""
    item = item_of(space, log, space.seal())
    token = (VECTORS / "timestamp" / "token.der").read_bytes()
    for tokens in ([token], [token[:-1]], [b"no token"]):
        fails("timestamp", bundle.build([item], [space.member_envelope], tokens), space.trust)


def test_a_bundle_is_of_the_oldest_version_that_can_say_it(space, log):
    item = item_of(space, log, space.seal())
    receipt = cose.sign(tlog_proof.parse(item.proof), space.log_key)
    plain, extended = (bundle_of(space, i) for i in (item, dataclasses.replace(item, receipt=receipt)))
    assert (b'"bayspace-bundle/v1"' in plain, b'"bayspace-bundle/v2"' in extended) == (True, True)
    for data, name in ((plain, "bayspace-bundle/v2"), (extended, "bayspace-bundle/v1"), (plain, "v3")):
        fails("format", rebuilt(data, lambda v, name=name: v.update(format=name)), space.trust)
    fails("format", rebuilt(plain, lambda v: v.update(timestamps=[])), space.trust)
    fails("format", rebuilt(extended, lambda v: v.update(timestamps=["?"])), space.trust)


def test_timestamp_authorities_in_the_trust_file(space):
    certificate = x509.load_pem_x509_certificate((VECTORS / "timestamp" / "authority.pem").read_bytes())
    der = certificate.public_bytes(Encoding.DER)
    named = dataclasses.replace(space.trust, timestamp_authorities=(der,))
    assert trust.parse(named.to_bytes()) == named
    with pytest.raises(FormatError):
        trust.parse(dataclasses.replace(named, timestamp_authorities=(der[:-1],)).to_bytes())


def test_all_codes_are_tested():
    source = Path(__file__).read_text()
    assert [code for code in checks.CODES if f'fails("{code}"' not in source] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(operator_keys=[]),
        lambda v: v.update(policy=["quorum none"]),
        lambda v: v["policy"].pop(),
        lambda v: v["policy"].append("more"),
        lambda v: v.update(policy=["quorum none\n"]),
        lambda v: v.update(space=""),
        lambda v: v.update(format="x"),
        lambda v: v.update(more=1),
        lambda v: v["operator_keys"][0].update(public="AAAA"),
        lambda v: v["operator_keys"][0].update(algorithm="rsa"),
    ],
)
def test_wrong_trust_files(change):
    value = json.loads(TRUST)
    change(value)
    with pytest.raises(FormatError):
        trust.parse(json.dumps(value).encode())
    with pytest.raises(VerificationFailed):
        verify_files(BUNDLE, json.dumps(value).encode())


def test_the_command(tmp_path, capsys):
    paths = [str(VECTORS / "bundle-v1.json"), "--trust", str(VECTORS / "trust-v1.json")]
    assert command.main(["verify", *paths]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("VERIFIED\n1. query.intent: done\n")
    assert "opened query: SELECT the query 一" in shown
    assert "cosigned by nobody" in shown
    assert command.main(["verify", *paths, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"][2]["event"] == "query.result"

    bad = tmp_path / "bad.json"
    bad.write_bytes(BUNDLE.replace(b"/w AQIDBAAA", b"/w AQIDBAAB"))
    assert command.main(["verify", str(bad), *paths[1:]]) == 7
    assert "NOT VERIFIED [checksum]" in capsys.readouterr().err
    assert command.main(["verify", str(bad), *paths[1:], "--format", "json"]) == 7
    assert json.loads(capsys.readouterr().out)["code"] == "checksum"
    assert command.main(["verify", str(tmp_path / "none"), *paths[1:], "--language", "zh"]) == 2
    assert capsys.readouterr().err.startswith("无法读取")


def test_a_trust_file_may_have_a_byte_order_mark_and_not_every_size():
    assert trust.parse(b"\xef\xbb\xbf" + TRUST) == trust.parse(TRUST)
    with pytest.raises(FormatError, match="more than"):
        trust.parse(TRUST + b" " * trust.LARGEST)


def test_malformed_files_are_called_what_they_are():
    for data, said in (
        (b"[" * 100_000, "nested too deeply"),
        (b"{", "not JSON"),
        (b'{"a":1,"a":1}', "repeats"),
    ):
        with pytest.raises(VerificationFailed, match=f"^The bundle is malformed: [a-zA-Z ]*{said}"):
            verify_files(data, TRUST)


def test_an_auditor_needs_only_the_standard_library_and_cryptography():
    script = f"""
import sys
allowed = set(sys.stdlib_module_names) | {{"witness", "cryptography", "_cffi_backend", "__main__"}}
from witness.__main__ import main
code = main(["verify", {str(VECTORS / "bundle-v1.json")!r}, "--trust", {str(VECTORS / "trust-v1.json")!r}])
found = {{name.partition(".")[0] for name in sys.modules}} - allowed
print([n for n in sorted(found) if not n.startswith("_")])
sys.exit(code)
"""
    # -S -E would hide the environment itself; -I keeps site's own start-up files out of the question.
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_code_in_a_record_has_words():
    assert {fact.value for fact in Fact} == set(evidence_words.LEARNED)
    codes = record.EVENTS | record.ROLES | record.STATUSES
    codes |= {field.name for field in dataclasses.fields(record.Sensitive)}
    assert codes <= set(evidence_words.CHINESE)
    assert evidence_words.learned("own-matches+ungated", "zh").endswith(
        "(自己的哪些键匹配,在任何放行检查之前)"
    )
    assert evidence_words.learned("something-new+ungated", "en") == "something-new+ungated"
    assert evidence_words.said("query.intent", "en") == "query.intent"


def test_what_is_disclosed_is_shown_as_json_and_not_as_python_writes_it():
    shown = evidence_words.plain(["a", True, None, {"k": "深圳"}])
    assert shown == 'a, true, null, {"k": "深圳"}'


def test_nothing_that_is_shown_is_invisible_or_looks_like_a_line_of_ours():
    assert evidence_words.plain("a\u061cb\u200d\u202e\U000e0041\u3164") == (
        "a\\u{061c}b\\u{200d}\\u{202e}\\u{e0041}\\u{3164}"
    )
    assert evidence_words.plain("深圳　市 ①") == "深圳　市 ①"
    forged = b"SELECT 1\n2. query.release: done\x1b[2K\r3."
    lines = evidence_words.opened(forged, "en").split("\n")
    assert lines == ["", "   | SELECT 1", "   | 2. query.release: done\\u{001b}[2K", "   | 3."]


def test_what_is_no_text_is_opened_by_its_digest_and_to_the_byte_for_programs():
    assert evidence_words.opened(b"\xff" * 32, "en") == "ff" * 32
    large = b"\xff" * 1000
    assert evidence_words.opened(large, "zh").startswith("1000 字节,SHA-256 ")
    assert auditor._opened_json({"query": "一".encode(), "result": large}) == {
        "opened": {"query": "一"},
        "opened_base64": {"result": base64.b64encode(large).decode()},
    }


def test_a_terminal_that_lacks_characters_still_gets_the_verdict(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    files = [str(VECTORS / "bundle-v1.json"), "--trust", str(VECTORS / "trust-v1.json")]
    assert command.main(["verify", *files, "--language", "zh"]) == 0
    stream.flush()
    assert stream.buffer.getvalue().startswith(b"\\u6838\\u9a8c\\u901a\\u8fc7\n1. ")


def test_json_is_json_on_any_terminal(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(auditor, "to_json", lambda _: {"opened": "é 深 😀"})
    files = [str(VECTORS / "bundle-v1.json"), "--trust", str(VECTORS / "trust-v1.json")]
    assert command.main(["verify", *files, "--format", "json"]) == 0
    stream.flush()
    assert json.loads(stream.buffer.getvalue()) == {"opened": "é 深 😀"}


def test_a_file_that_is_larger_than_any_bundle_is_not_read_whole(tmp_path, capsys):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 34)
    trusted = ["--trust", str(VECTORS / "trust-v1.json")]
    assert command.main(["verify", str(tmp_path / "large"), *trusted]) == 7
    assert "at most" in capsys.readouterr().err
