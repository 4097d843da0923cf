"""A carried document holds only when all of it does, and each way not to hold has a code of its own."""

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from witness import __main__ as program
from witness import bundle, canonical, document, document_text, members, note, record, trust, verify
from witness.checks import VerificationFailed
from witness.keys import PrivateKey

PAPER = "收入证明 income statement, 2026".encode() * 40
DIGEST = hashlib.sha256(PAPER).digest()
ISSUER = "sz-trade"
ORIGIN, START = "witness.example/gba", 1_767_225_600_000  # the log and the beginning of `space`


def key_of(name: str) -> PrivateKey:
    return PrivateKey.from_seed(hashlib.sha256(name.encode()).digest())


class Desk:
    """An issuer's desk: commits to documents in a log and makes carried files of them."""

    def __init__(self, space, log):
        self.space, self.log, self.salts = space, log, iter(bytes([n]) * 32 for n in range(100))

    def item(self, digest: bytes = DIGEST, event: str = document.COMMITTED) -> bundle.Item:
        opening = document.opening_of(digest, next(self.salts))
        sealed = self.space.seal(
            event,
            exchange=record.Exchange(opening.salt[:16].hex(), 0),
            parties=[self.space.party(ISSUER, "issuer")],
            data=document.committed(opening),
            contract=None,
            sensitive=record.Sensitive(data_categories=("income statement",)),
        )
        item = self.space.item(self.log, sealed, self.space.sign(sealed, ISSUER))
        return replace(item, openings=(opening,))

    def carried(self, content: bytes | None = PAPER, digest: bytes = DIGEST) -> bytes:
        return document.build(self.item(digest), [self.space.member_envelope], content)


@pytest.fixture
def desk(space, log) -> Desk:
    return Desk(space, log)


said: list[str] = []
"""Every failure's sentence, as they come."""


def code_of(data: bytes, trusted: trust.Trust, **more: object) -> str:
    with pytest.raises(VerificationFailed) as caught:
        document.verify(data, trusted, **more)
    said.append(caught.value.sentence)
    assert caught.value.sentence.endswith(".")
    return caught.value.code


def repacked(data: bytes, **changes: object) -> bytes:
    """The carried file with other parts and a fresh checksum, as a forger would make it."""
    value = {**canonical.parse(data), **changes}
    body = {name: part for name, part in value.items() if name != "checksum" and part is not None}
    return canonical.serialise({**body, "checksum": hashlib.sha256(canonical.serialise(body)).hexdigest()})


def test_what_the_issuer_committed_to_verifies_offline(desk: Desk) -> None:
    found = document.verify(desk.carried(), desk.space.trust, issuer=ISSUER)
    assert (found.issuer, found.digest, found.content) == (ISSUER, DIGEST, PAPER)
    assert found.issued.disclosed.data_categories == ("income statement",)
    assert found.current is None


def test_the_document_may_travel_beside_the_file(desk: Desk) -> None:
    data = desk.carried(content=None)
    assert PAPER[:20].hex() not in data.hex()
    assert document.verify(data, desk.space.trust, digest=DIGEST).content is None
    assert code_of(data, desk.space.trust) == "document"
    assert code_of(data, desk.space.trust, digest=hashlib.sha256(PAPER + b" ").digest()) == "document"


def test_the_log_and_the_record_hold_nothing_of_the_document(desk: Desk) -> None:
    item = desk.item()
    for form in (PAPER[:30], DIGEST, DIGEST.hex().encode()):
        assert form not in item.envelope.to_bytes() + item.envelope.payload + item.proof.encode()


def test_two_commitments_to_one_document_do_not_look_alike(desk: Desk) -> None:
    first, second = (record.Record.parse(desk.item().envelope.payload) for _ in range(2))
    assert first.data.commitments["document"] != second.data.commitments["document"]


def test_any_changed_byte_is_noticed(desk: Desk) -> None:
    data = desk.carried()
    codes = set()
    for at in range(0, len(data), 97):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        codes.add(code_of(changed, desk.space.trust))
    assert codes == {"altered", "format"}


def test_another_document_under_the_same_opening(desk: Desk) -> None:
    other = repacked(desk.carried(), document=document.b64(PAPER + b"0"))
    assert code_of(other, desk.space.trust) == "document"


def test_another_opening(desk: Desk) -> None:
    data = desk.carried()
    inner = canonical.parse(data)["bundle"]
    inner["items"][0]["openings"][0]["salt"] = document.b64(b"x" * 32)
    assert code_of(repacked(data, bundle=resummed(inner)), desk.space.trust) == "commitment"


def test_the_opening_of_another_document_of_the_same_issuer(desk: Desk) -> None:
    data, other = desk.carried(), desk.carried(b"other", hashlib.sha256(b"other").digest())
    inner, foreign = canonical.parse(data)["bundle"], canonical.parse(other)["bundle"]
    inner["items"][0]["openings"] = foreign["items"][0]["openings"]
    assert code_of(repacked(data, bundle=resummed(inner)), desk.space.trust) == "commitment"


def resummed(inner: dict[str, object]) -> dict[str, object]:
    body = {name: part for name, part in inner.items() if name != "checksum"}
    return {**body, "checksum": hashlib.sha256(canonical.serialise(body)).hexdigest()}


def test_another_log(desk: Desk) -> None:
    other = str(note.verifier_key("other.example/log", key_of("other log").public))
    trusted = trust.of_logs(desk.space.trust.space, [desk.space.operator.public], [other])
    assert code_of(desk.carried(), trusted) == "checkpoint"


def test_a_log_of_the_same_name_with_another_key(desk: Desk) -> None:
    other = str(note.verifier_key(ORIGIN, key_of("other log").public))
    trusted = trust.of_logs(desk.space.trust.space, [desk.space.operator.public], [other])
    assert code_of(desk.carried(), trusted) == "checkpoint"


def test_another_data_space(desk: Desk) -> None:
    stranger = trust.of_logs("other", [desk.space.operator.public], [desk.space.vkey])
    assert code_of(desk.carried(), stranger) == "members"
    forged = trust.of_logs("gba", [key_of("no operator").public], [desk.space.vkey])
    assert code_of(desk.carried(), forged) == "members"


def test_another_issuer_than_the_expected_one(desk: Desk) -> None:
    assert code_of(desk.carried(), desk.space.trust, issuer="hk-bank") == "issuer"


def test_an_issuer_that_the_data_space_does_not_know(space, open_log) -> None:
    space.keys[ISSUER] = key_of("a stranger")
    assert code_of(Desk(space, open_log()).carried(), space.trust) == "issuer"


def newest(space, participants: list[members.Participant], version: int = 2) -> object:
    made = members.MemberList("gba", version, START, tuple(participants), space.members.digest)
    return members.sign(made, [space.operator])


def test_an_issuer_that_has_left(desk: Desk) -> None:
    data, space = desk.carried(), desk.space
    left = [p for p in space.members.participants if p.id != ISSUER]
    assert code_of(data, space.trust, newest=newest(space, left)) == "revoked"
    assert "no longer a member" in said[-1]
    stays = newest(space, list(space.members.participants))
    assert document.verify(data, space.trust, newest=stays).current == 2
    assert document.verify(data, space.trust, newest=space.member_envelope).current == 1


def test_a_key_that_was_withdrawn(desk: Desk) -> None:
    data, space = desk.carried(), desk.space

    def until(time: int) -> list[members.Participant]:
        return [
            replace(p, keys=tuple(replace(k, valid_until=time) for k in p.keys)) if p.id == ISSUER else p
            for p in space.members.participants
        ]

    assert code_of(data, space.trust, newest=newest(space, until(START))) == "revoked"
    rotated = newest(space, until(START + 10**9))
    assert document.verify(data, space.trust, newest=rotated).current == 2


def test_a_member_list_older_than_the_documents(desk: Desk) -> None:
    space, first = desk.space, desk.space.member_envelope
    space.members = members.successor(space.members, "gba", space.participants(), START)
    space.member_envelope = members.sign(space.members, [space.operator])
    assert code_of(desk.carried(), space.trust, newest=first) == "members"
    assert "get the newest" in said[-1]


def test_a_rival_member_list_is_no_newest_one(desk: Desk) -> None:
    rival = members.MemberList("gba", 2, START, desk.space.members.participants, "0" * 64)
    forged = members.sign(rival, [desk.space.operator])
    assert code_of(desk.carried(), desk.space.trust, newest=forged) == "members"


def test_a_bundle_of_something_else_is_no_document(desk: Desk) -> None:
    wrapped = repacked(desk.carried(), bundle=canonical.parse(desk.space.bundle(desk.log)))
    assert code_of(wrapped, desk.space.trust) == "format"
    unopened = replace(desk.item(), openings=())
    assert (
        code_of(document.build(unopened, [desk.space.member_envelope], PAPER), desk.space.trust) == "format"
    )


def test_a_record_of_another_event_is_no_issuance(desk: Desk) -> None:
    item = desk.item(event=document.VERIFIED)
    carried = document.build(item, [desk.space.member_envelope], PAPER)
    assert code_of(carried, desk.space.trust) == "format"


def test_an_unknown_field_or_version_is_refused(desk: Desk) -> None:
    data = desk.carried()
    assert code_of(repacked(data, extra=1), desk.space.trust) == "format"
    assert code_of(repacked(data, format="bayspace-document/v2"), desk.space.trust) == "format"
    assert code_of(b"{}", desk.space.trust) == "format"


def test_a_document_too_large_to_pack_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "LARGEST_DOCUMENT", 10)
    with pytest.raises(document.FormatError, match="beside"):
        desk.carried()


def test_the_bundle_inside_is_an_ordinary_one(desk: Desk) -> None:
    (item,) = verify.verify(document.parse(desk.carried()).bundle, desk.space.trust).items
    assert item.opened == {"document": DIGEST}


def test_a_verifiers_record_links_to_nothing_until_it_is_opened(desk: Desk) -> None:
    data = desk.carried()
    presented = document.presented(data, None)
    assert presented is not None
    assert presented["document"] == DIGEST
    openings = [bundle.Opening(name, b"s" * 32, value) for name, value in presented.items()]
    made = document.checked(openings)
    issued = record.Record.parse(bundle.parse(document.parse(data).bundle)[0].items[0].envelope.payload)
    assert set(made.commitments) == {"document", "issuance"}
    assert not set(made.commitments.values()) & set(issued.data.commitments.values())
    assert document.presented(b"broken", None) is None


# --- for people -------------------------------------------------------------------------------------


def files(desk: Desk, folder: Path) -> tuple[str, str]:
    (folder / "carried.json").write_bytes(desk.carried())
    (folder / "trust.json").write_bytes(desk.space.trust.to_bytes())
    return str(folder / "carried.json"), str(folder / "trust.json")


def test_the_command_says_it_in_both_languages(desk: Desk, tmp_path: Path, capsys) -> None:
    carried, trusted = files(desk, tmp_path)
    out = tmp_path / "paper.pdf"
    assert program.main(["document", carried, "--trust", trusted, "--out", str(out)]) == 0
    assert "VERIFIED\n   issued by sz-trade" in capsys.readouterr().out
    assert out.read_bytes() == PAPER
    assert program.main(["document", carried, "--trust", trusted, "--language", "zh"]) == 0
    assert "核验通过" in capsys.readouterr().out
    arguments = ["document", carried, "--trust", trusted, "--issuer", "hk-bank"]
    assert program.main(arguments) == 7
    assert capsys.readouterr().err.startswith("NOT VERIFIED [issuer]: ")
    assert program.main([*arguments, "--language", "zh", "--out", str(tmp_path / "never")]) == 7
    assert capsys.readouterr().err.startswith("核验未通过 [issuer]: 签发方")
    assert not (tmp_path / "never").exists()


def test_the_command_answers_programs_too(desk: Desk, tmp_path: Path, capsys) -> None:
    carried, trusted = files(desk, tmp_path)
    assert program.main(["document", carried, "--trust", trusted, "--format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verified"], said["issuer"], said["document_sha256"]) == (True, ISSUER, DIGEST.hex())
    arguments = ["document", carried, "--trust", trusted, "--issuer", "x", "--format", "json"]
    assert program.main(arguments) == 7
    assert json.loads(capsys.readouterr().out)["code"] == "issuer"
    assert program.main(["document", str(tmp_path / "none"), "--trust", trusted]) == 2


def test_every_code_has_a_chinese_sentence() -> None:
    for code in (*verify.CODES, *document.CODES):
        text = document_text.failed_text(VerificationFailed(code, "English."), "zh")
        assert re.fullmatch(rf"核验未通过 \[{code}\]: .*[一-龥]{{4}}.*。\(English\.\)", text), text


def test_every_code_of_a_document_is_tested_here() -> None:
    source = Path(__file__).read_text("utf-8")
    assert [code for code in document.CODES if f'"{code}"' not in source] == []


def test_verifying_needs_only_cryptography(desk: Desk, tmp_path: Path) -> None:
    carried, trusted = files(desk, tmp_path)
    script = (
        "import sys\nfrom witness.__main__ import main\n"
        f"assert main(['document', {carried!r}, '--trust', {trusted!r}]) == 0\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "foreign = roots - set(sys.stdlib_module_names) - {'witness', 'cryptography', '_cffi_backend'}\n"
        "print(sorted(n for n in foreign if not n.startswith('_')), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
