"""The C2SP formats against the specifications' own examples, and against every wrong form of them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witness import checkpoint, cosignature, note, policy, tlog_proof
from witness.checkpoint import Checkpoint, CheckpointInvalid
from witness.keys import ML_DSA_44, PrivateKey
from witness.merkle import leaf_hash
from witness.note import NoteInvalid
from witness.policy import PolicyInvalid
from witness.tlog_proof import TlogProof, TlogProofInvalid

# c2sp.org/signed-note, "Example"
VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n"
    "\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1"
    "Yu72IneyaQM=\n"
)
LOG = PrivateKey.from_seed(b"l" * 32)
WITNESS = PrivateKey.from_seed(b"w" * 32)
PQ = PrivateKey.from_seed(b"p" * 32, ML_DSA_44)
HEAD = Checkpoint("example.com/log", 7, leaf_hash(b"root"))
LOG_VKEY = note.verifier_key("example.com/log", LOG.public)


def test_the_specifications_example():
    parsed = note.parse(NOTE)
    assert str(parsed) == NOTE
    assert note.verify(parsed, [note.parse_vkey(VKEY)]) == [note.parse_vkey(VKEY)]
    assert str(note.parse_vkey(VKEY)) == VKEY


def test_our_notes_are_what_other_implementations_write():
    # Ed25519 is deterministic: signing again must give the same line.
    signed = checkpoint.sign(HEAD, LOG)
    assert str(note.parse(str(signed))) == str(signed)
    assert checkpoint.open_checkpoint(note.parse(str(signed)), [LOG_VKEY]) == HEAD


def test_lines_of_unknown_keys_are_ignored():
    unknown = note.NoteSignature("someone.else", b"abcd", b"whatever")
    signed = checkpoint.sign(HEAD, LOG)
    both = note.Note(signed.text, (unknown, *signed.signatures))
    assert checkpoint.open_checkpoint(note.parse(str(both)), [LOG_VKEY]) == HEAD


def test_same_name_and_other_id_is_an_unknown_key():
    other = note.NoteSignature("example.com/log", b"abcd", b"x" * 64)
    signed = checkpoint.sign(HEAD, LOG)
    checkpoint.open_checkpoint(note.Note(signed.text, (*signed.signatures, other)), [LOG_VKEY])
    with pytest.raises(CheckpointInvalid):
        checkpoint.open_checkpoint(note.Note(signed.text, (other,)), [LOG_VKEY])


def test_a_line_that_is_repeated_is_verified_once(monkeypatch):
    signed, verified = checkpoint.sign(HEAD, LOG), []
    monkeypatch.setattr(type(LOG.public), "verify", lambda *_: verified.append(1))
    crowd = note.Note(signed.text, signed.signatures * 60)
    checkpoint.open_checkpoint(crowd, [LOG_VKEY])
    assert len(verified) == 1


def test_a_known_keys_wrong_line_refuses_the_note():
    signed = checkpoint.sign(HEAD, LOG)
    wrong = note.NoteSignature(LOG_VKEY.name, LOG_VKEY.id, b"x" * 64)
    with pytest.raises(CheckpointInvalid):
        checkpoint.open_checkpoint(note.Note(signed.text, (*signed.signatures, wrong)), [LOG_VKEY])


def test_a_checkpoint_of_another_origin_is_refused_although_the_key_signed_it():
    text = str(Checkpoint("example.com/other", 7, leaf_hash(b"root")))
    signed = note.Note(text, (note.sign(text, LOG, "example.com/log"),))
    with pytest.raises(CheckpointInvalid):
        checkpoint.open_checkpoint(signed, [LOG_VKEY])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no signature\n",
        "text\n\n",
        "text\n\nnot a signature\n",
        NOTE[:-1],
        NOTE.replace("— ", "- "),
        NOTE.replace("— example", "—  example"),
        NOTE.replace("Uw2Q", "Uw2 Q"),
        NOTE.replace("aQM=", "aQM"),
        NOTE.replace("aQM=", "aQN="),
        NOTE.replace("This", "Th\tis"),
        NOTE.replace("This", "Th\ris"),
        NOTE.replace("— example.com/foo", "— exa+mple"),
        "text\n\n— name YWJjZA==\n",
        "text\n" + NOTE[NOTE.index("\n\n") :] * 70,
    ],
)
def test_wrong_forms_of_a_note(text):
    with pytest.raises(NoteInvalid):
        note.verify(note.parse(text), [note.parse_vkey(VKEY)])


def test_the_text_may_contain_empty_lines():
    text = "a\n\nb\n\n\n"
    signed = note.Note(text, (note.sign(text, LOG, "k"),))
    parsed = note.parse(str(signed))
    assert parsed == signed
    assert note.verify(parsed, [note.verifier_key("k", LOG.public)])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        VKEY.replace("530d903a", "530d903b"),
        VKEY.replace("530d903a", "530D903A"),
        VKEY.replace("+Aek", "+Bek"),
        VKEY.replace("example.com/foo", "exa mple"),
        VKEY[:-4],
        "+" + VKEY.partition("+")[2],
    ],
)
def test_wrong_verifier_keys(text):
    with pytest.raises(NoteInvalid):
        note.parse_vkey(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n7\n", "\n07\n"),
        ("\n7\n", "\n-7\n"),
        ("\n7\n", "\n+7\n"),
        ("\n7\n", "\n７\n"),
        ("\n7\n", "\n\n"),
        ("example.com/log\n", "\n"),
        ("=\n", "=\nextension\n"),
        ("=\n", "\n"),
    ],
)
def test_wrong_checkpoints(old, new):
    with pytest.raises(CheckpointInvalid):
        checkpoint.parse(str(HEAD).replace(old, new))


def test_empty_tree_has_size_0():
    assert checkpoint.parse(str(Checkpoint("o", 0, b"r" * 32))).size == 0


@given(
    st.integers(0, 2**62), st.lists(st.binary(min_size=32, max_size=32), max_size=63), st.none() | st.binary()
)
def test_proofs_read_back(index, path, extra):
    proof = TlogProof(index, tuple(path), checkpoint.sign(HEAD, LOG), extra)
    assert tlog_proof.parse(str(proof)) == proof
    assert str(tlog_proof.parse(str(proof))) == str(proof)


def test_layout_of_a_proof():
    text = str(TlogProof(5, (b"a" * 32,), checkpoint.sign(HEAD, LOG), b"extra"))
    assert re.fullmatch(
        r"c2sp\.org/tlog-proof@v1\nextra ZXh0cmE=\nindex 5\n[A-Za-z0-9+/]{43}=\n\n"
        r"example\.com/log\n7\n[A-Za-z0-9+/]{43}=\n\n— example\.com/log \S+\n",
        text,
    )
    assert "extra" not in str(TlogProof(5, (), checkpoint.sign(HEAD, LOG)))


PROOF = str(TlogProof(5, (b"a" * 32,), checkpoint.sign(HEAD, LOG), b"extra"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@v1", "@v2"),
        ("index 5", "index 05"),
        ("index 5", "index  5"),
        ("index 5\n", ""),
        ("extra ZXh0cmE=", "extra ZXh0cmF="),
        ("extra ZXh0cmE=\nindex 5", "index 5\nextra ZXh0cmE="),
        ("extra ", "Extra "),
        ("index 5\n", "index 5\nYQ==\n"),
        ("\n\nexample", "\nexample"),
    ],
)
def test_wrong_proofs(old, new):
    assert old in PROOF
    with pytest.raises(TlogProofInvalid):
        tlog_proof.parse(PROOF.replace(old, new))


def cosigned(signed, key, kind, name, timestamp=1_700_000_000):
    vkey = note.verifier_key(name, key.public, kind)
    signature = key.sign(cosignature.message(vkey, signed.text, timestamp))
    line = note.NoteSignature(name, vkey.id, timestamp.to_bytes(8, "big") + signature)
    return note.Note(signed.text, (*signed.signatures, line)), vkey


def test_the_cosignature_specifications_message():
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    key = note.verifier_key("w", WITNESS.public, note.TYPE_COSIGNATURE_ED25519)
    assert cosignature.message(key, text, 1679315147).decode() == "cosignature/v1\ntime 1679315147\n" + text


@pytest.mark.parametrize(
    ("key", "kind"),
    [(WITNESS, note.TYPE_COSIGNATURE_ED25519), (PQ, note.TYPE_COSIGNATURE_ML_DSA_44)],
)
def test_cosignatures(key, kind):
    signed, vkey = cosigned(checkpoint.sign(HEAD, LOG), key, kind, "witness.example/w1")
    assert cosignature.cosigned_at(note.parse(str(signed)), vkey) == 1_700_000_000
    assert cosignature.cosigned_at(checkpoint.sign(HEAD, LOG), vkey) is None
    later = note.NoteSignature(
        vkey.name, vkey.id, (1_700_000_001).to_bytes(8, "big") + signed.signatures[-1].signature[8:]
    )
    with pytest.raises(NoteInvalid):
        cosignature.cosigned_at(note.Note(signed.text, (later,)), vkey)
    short = note.NoteSignature(vkey.name, vkey.id, b"12345678")
    with pytest.raises(NoteInvalid):
        cosignature.cosigned_at(note.Note(signed.text, (short,)), vkey)


def test_a_cosignature_beyond_the_last_timestamp():
    signed, vkey = cosigned(
        checkpoint.sign(HEAD, LOG), WITNESS, note.TYPE_COSIGNATURE_ED25519, "w.example", 2**63
    )
    with pytest.raises(NoteInvalid, match="timestamp"):
        cosignature.cosigned_at(signed, vkey)


def vkey_of(name, kind=note.TYPE_COSIGNATURE_ED25519):
    key = PrivateKey.from_seed(name.encode().ljust(32, b"."))
    return note.verifier_key(name, key.public, kind)


GROUPS = f"""
# the specification's example
log {LOG_VKEY}
witness X1 {vkey_of("x1")}
witness X2 {vkey_of("x2")} https://x2.example/
witness X3 {vkey_of("x3")}
group X-witnesses 2 X1 X2 X3

witness Y1\t{vkey_of("y1")}
  witness Y2 {vkey_of("y2")}
group Y-witnesses any Y1 Y2

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


@pytest.mark.parametrize(
    ("cosigners", "enough"),
    [
        ({"X1", "X3", "Y2"}, True),
        ({"X1", "X2", "X3"}, False),
        ({"X1", "Y1", "Y2"}, False),
        ({"X1", "X2", "X3", "Y1", "Y2"}, True),
        (set(), False),
    ],
)
def test_quorums(cosigners, enough):
    assert policy.parse(GROUPS).satisfied_by(cosigners) is enough


def test_quorum_none_and_quorum_of_one():
    assert policy.parse("quorum none").satisfied_by(set())
    one = policy.parse(f"witness W {vkey_of('w')}\nquorum W")
    assert one.satisfied_by({"W"})
    assert not one.satisfied_by(set())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"log {LOG_VKEY}", "without a quorum"),
        ("quorum none\nquorum none", "line 2"),
        ("quorum W", "line 1"),
        (f"quorum none\nlog {LOG_VKEY}\nlog {LOG_VKEY}", "line 3"),
        (f"log {vkey_of('w')}\nquorum none", "line 1"),
        (f"witness W {LOG_VKEY}\nquorum W", "line 1"),
        (f"witness none {vkey_of('w')}\nquorum none", "line 1"),
        (f"witness W {vkey_of('w')}\nwitness W {vkey_of('v')}\nquorum W", "line 2"),
        (f"witness W {vkey_of('w')}\ngroup G 2 W\nquorum G", "line 2"),
        (f"witness W {vkey_of('w')}\ngroup G 0 W\nquorum G", "line 2"),
        (f"witness W {vkey_of('w')}\ngroup G most W\nquorum G", "line 2"),
        (f"witness W {vkey_of('w')}\ngroup G any W W\nquorum G", "line 2"),
        (f"witness W {vkey_of('w')}\ngroup G any\nquorum W", "line 2"),
        (f"witness W {vkey_of('w')}\ngroup G any G\nquorum W", "line 2"),
        ("quorum none\nsomething else", "line 2"),
        ("quorum\u00a0none", "line 1"),
        ("quorum none\r\n", "control"),
    ],
)
def test_policies_fail_closed(text, line):
    with pytest.raises(PolicyInvalid, match=line):
        policy.parse(text)


def test_a_log_does_not_witness_itself():
    same = note.verifier_key("w", LOG.public, note.TYPE_COSIGNATURE_ED25519)
    with pytest.raises(PolicyInvalid, match="listed twice"):
        policy.parse(f"log {LOG_VKEY}\nwitness W {same}\nquorum W")


def test_a_quorum_demanded_of_one_log():
    elsewhere = policy.parse(
        f"witness a {vkey_of('a.example')}\nwitness b {vkey_of('b.example')}\ngroup g any a b\nquorum g"
    )
    assert elsewhere.of_logs([str(LOG_VKEY)]).logs == (LOG_VKEY,)
    at_a = note.verifier_key("a.example/log", LOG.public)
    assert elsewhere.of_logs([str(at_a)]).satisfied_by({"b"})
    alone = policy.parse(f"witness a {vkey_of('a.example')}\nquorum a")
    with pytest.raises(PolicyInvalid, match="own operator"):
        alone.of_logs([str(at_a)])
    same = note.verifier_key("c.example/w", LOG.public, note.TYPE_COSIGNATURE_ED25519)
    with pytest.raises(PolicyInvalid, match="key of the log"):
        policy.parse(f"witness c {same}\nquorum c").of_logs([str(LOG_VKEY)])
