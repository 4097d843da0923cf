"""SM2 with SM3 as one more line of a checkpoint: the standard's example, OpenSSL both ways, what counts."""

import base64
import dataclasses
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.witness.conftest import ORIGIN, START, key_of
from witness import __main__ as command
from witness import bundle, checkpoint, note, policy, server, sm2, sm2_key, trust
from witness.checks import Requirement
from witness.keys import ED25519, ML_DSA_44, KeyInvalid, PrivateKeys, SignatureInvalid
from witness.sm2 import SM2, Sm2PrivateKey, Sm2PublicKey
from witness.verify import VerificationFailed, verify

# GB/T 32918.5: the example over the recommended curve, with the id 1234567812345678.
POINT = bytes.fromhex(
    "04 09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020"
    "CCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13"
)
SIGNATURE = bytes.fromhex(
    "F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3"
    "B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA"
)
PRIVATE = bytes.fromhex("3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8")


def pem_of(private=PRIVATE, point=POINT):
    der = sm2_key._BEFORE + private + sm2_key._BETWEEN + point
    return (sm2_key._HEAD + base64.encodebytes(der).decode() + sm2_key._TAIL).encode()


def key():
    pytest.importorskip("gmssl_pyx", reason="signing needs the extra sm2")
    return sm2_key.load(pem_of())


def test_the_standards_example():
    Sm2PublicKey(POINT).verify(b"message digest", SIGNATURE)


@pytest.mark.parametrize("at", [0, 31, 32, 63])
def test_a_changed_bit_does_not_hold(at):
    changed = bytearray(SIGNATURE)
    changed[at] ^= 1
    with pytest.raises(SignatureInvalid):
        Sm2PublicKey(POINT).verify(b"message digest", bytes(changed))


def test_impossible_signatures_and_points():
    public, order = Sm2PublicKey(POINT), sm2._N
    r, s = SIGNATURE[:32], SIGNATURE[32:]
    zero, whole = bytes(32), order.to_bytes(32, "big")
    opposite = ((order - int.from_bytes(r, "big")) % order).to_bytes(32, "big")  # r + s = 0
    for wrong in (zero + s, r + zero, whole + s, r + whole, r + opposite, SIGNATURE + b"\0", b"", r):
        with pytest.raises(SignatureInvalid):
            public.verify(b"message digest", wrong)
    for wrong in (POINT[:-1], POINT[1:], b"\x02" + POINT[1:], POINT[:-1] + b"\x14", b"\x04" + bytes(64)):
        with pytest.raises(KeyInvalid):
            Sm2PublicKey(wrong)


def test_a_point_and_its_opposite_meet_at_infinity():
    x, y = sm2._G
    assert sm2._add((x, y, 1), (x, sm2._P - y, 1))[2] == 0
    assert sm2._add(sm2._INFINITY, (x, y, 1)) == (x, y, 1)
    one = sm2._add((x, y, 1), (x, y, 1))
    other = sm2._add((x, y, 1), (x * 4 % sm2._P, y * 8 % sm2._P, 2))  # the same point, written otherwise
    assert one[0] * other[2] ** 2 % sm2._P == other[0] * one[2] ** 2 % sm2._P


def test_where_sm3_is_missing_no_key_is_accepted(monkeypatch):
    monkeypatch.setattr(hashes, "SM3", lambda: hashes.SHAKE128(32))
    monkeypatch.setattr(hashes, "Hash", _unsupported)
    with pytest.raises(KeyInvalid, match="cannot be checked here"):
        Sm2PublicKey(POINT)


def _unsupported(*_):
    raise sm2.UnsupportedAlgorithm("sm3")


def test_private_keys_in_one_form_only(monkeypatch):
    for wrong in (b"", b"x", pem_of()[:-30], pem_of(point=POINT[:-1]), pem_of(private=PRIVATE[1:])):
        with pytest.raises(KeyInvalid, match="genpkey"):
            sm2_key.load(wrong)
    monkeypatch.setitem(sys.modules, "gmssl_pyx", None)
    with pytest.raises(KeyInvalid, match=r"bayspace\[sm2\]"):
        sm2_key.load(pem_of())
    assert PRIVATE.hex() not in repr(Sm2PrivateKey(Sm2PublicKey(POINT), bytes))


def test_what_does_not_verify_never_leaves():
    wrong = Sm2PrivateKey(Sm2PublicKey(POINT), lambda _: bytes.fromhex("3006020101020101"))
    with pytest.raises(SignatureInvalid):
        wrong.sign(b"checkpoint")


def test_its_verifier_key_is_of_the_private_type_and_reads_back():
    vkey = note.verifier_key(ORIGIN, Sm2PublicKey(POINT), note.TYPE_SM2)
    assert note.parse_vkey(str(vkey)) == vkey
    material = note.unb64(str(vkey).split("+", 2)[2])
    assert material == b"\xffbayspace/sm2-sm3/v1" + POINT
    other = note.b64(b"\xffsomebody/else" + POINT)
    for wrong in (str(vkey).replace(vkey.id.hex(), "00000000"), f"{ORIGIN}+{vkey.id.hex()}+{other}"):
        with pytest.raises(note.NoteInvalid):
            note.parse_vkey(wrong)


@pytest.fixture
def signed(space, open_log):
    """A log with three kinds of signature, one record in it, and trust in the keys that are named."""
    made = PrivateKeys([space.log_key, key_of("log", ML_DSA_44)])
    log = open_log(keys=made, sm2=key())
    sealed = space.seal()
    data = bundle.build([space.item(log, sealed, space.sign(sealed))], [space.member_envelope])
    keys = dict(zip((ED25519, ML_DSA_44, SM2), map(str, log.vkeys), strict=True))

    def trusting(*algorithms, require=()):
        return trust.of_logs("gba", [space.operator.public], [keys[a] for a in algorithms], require)

    return log, data, trusting


def test_who_knows_the_key_checks_the_line_and_who_does_not_ignores_it(signed):
    log, data, trusting = signed
    for algorithms in ((ED25519,), (SM2,), (ED25519, ML_DSA_44, SM2)):
        verify(data, trusting(*algorithms))
    line = log.head.by(log.vkeys[2])[0]
    false = dataclasses.replace(line, signature=line.signature[:-1] + bytes([line.signature[-1] ^ 1]))
    head = dataclasses.replace(log.head, signatures=(*log.head.signatures[:2], false))
    checkpoint.open_checkpoint(head, log.vkeys[:2])
    with pytest.raises(checkpoint.CheckpointInvalid):
        checkpoint.open_checkpoint(head, log.vkeys)


def test_it_can_be_required_of_logs_and_never_of_parties(signed, space, open_log):
    _, data, trusting = signed
    strict = trusting(ED25519, SM2, require=(Requirement(SM2, START),))
    assert trust.parse(strict.to_bytes()) == strict
    verify(data, strict)
    log = open_log()  # without its SM2 key from now on
    sealed = space.seal()
    later = bundle.build([space.item(log, sealed, space.sign(sealed))], [space.member_envelope])
    with pytest.raises(VerificationFailed, match="required") as failed:
        verify(later, strict)
    assert failed.value.code == "checkpoint"
    verify(later, trusting(ED25519, SM2))


def test_a_log_gains_and_loses_it_without_a_fork(space, open_log):
    log = open_log()
    log.append([space.submission(space.sign(space.seal()))])
    log = open_log(sm2=key())
    assert len(log.head.signatures) == 2
    assert len(open_log().head.signatures) == 2  # the line stays on what it signed
    log = open_log()
    log.append([space.submission(space.sign(space.seal()))])
    assert len(log.head.signatures) == 1


def test_a_witness_is_configured_with_it(tmp_path, capsys):
    key()
    server.write_default(tmp_path, space="gba", participant="w", origin=ORIGIN)
    (tmp_path / "sm2-key.pem").write_bytes(pem_of())
    (tmp_path / "sm2-key.pem").chmod(0o600)
    with (tmp_path / "witness.toml").open("a") as file:
        file.write('\nsm2_key = "sm2-key.pem"\n')
    assert command.main(["keys", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    kinds = [policy.parse(f"{line}\nquorum none").logs[0].type for line in printed if line.startswith("log ")]
    assert kinds == [note.TYPE_ED25519, note.TYPE_COSIGNATURE_ML_DSA_44, note.TYPE_SM2]
    assert len(server.log_vkeys(server.load(tmp_path))) == 2  # what goes into the member list
    (tmp_path / "sm2-key.pem").chmod(0o644)
    assert command.main(["keys", str(tmp_path)]) == 2
    assert "may be read by others" in capsys.readouterr().err


# --- OpenSSL --------------------------------------------------------------------------------------------


@pytest.fixture
def openssl(tmp_path):
    program = shutil.which("openssl")
    listed = program and subprocess.run(
        [program, "list", "-public-key-algorithms"], capture_output=True, text=True
    )
    if not listed or "SM2" not in listed.stdout:
        pytest.skip("no openssl with SM2")

    def run(*arguments):
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path)
        return done.returncode == 0, done.stdout + done.stderr

    return run


def der_of(signature):
    return encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))


IDENTITY = "distid:1234567812345678"


@pytest.mark.deep
def test_openssl_verifies_our_line_and_we_verify_its(openssl, tmp_path):
    pytest.importorskip("gmssl_pyx")
    assert openssl("genpkey", "-algorithm", "SM2", "-out", "key.pem")[0]
    assert openssl("pkey", "-in", "key.pem", "-pubout", "-out", "public.pem")[0]
    ours = sm2_key.load((tmp_path / "key.pem").read_bytes())
    head = checkpoint.Checkpoint("log.example/hk", 7, b"r" * 32)
    (line,) = checkpoint.sign(head, ours).signatures
    (tmp_path / "text").write_text(str(head))
    (tmp_path / "signature").write_bytes(der_of(line.signature))
    verified = (
        "dgst",
        "-sm3",
        "-verify",
        "public.pem",
        "-sigopt",
        IDENTITY,
        "-signature",
        "signature",
        "text",
    )
    assert openssl(*verified) == (True, "Verified OK\n")
    (tmp_path / "text").write_text(str(dataclasses.replace(head, size=8)))
    assert not openssl(*verified)[0]
    for n in range(20):
        (tmp_path / "text").write_bytes(b"%d" % n * n)
        assert openssl("dgst", "-sm3", "-sign", "key.pem", "-sigopt", IDENTITY, "-out", "theirs", "text")[0]
        r, s = sm2.decode_dss_signature((tmp_path / "theirs").read_bytes())
        ours.public.verify(b"%d" % n * n, r.to_bytes(32, "big") + s.to_bytes(32, "big"))
