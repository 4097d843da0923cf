"""The console shows what records disclose, in two languages; it writes nothing and needs no script."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the extra `console`")
pytest.importorskip("jinja2", reason="needs the extra `console`")

from sqlalchemy import create_engine, text
from sqlalchemy.exc import InternalError, OperationalError

from witness import checkpoint, cosignature, dsse, members, merkle, note, policy, record
from witness.checkpoint import Checkpoint
from witness.console import app as web
from witness.console import drawing, words
from witness.database import Database, Fork, SchemaOther
from witness.keys import ML_DSA_44, PrivateKey, PrivateKeys
from witness.log import Log, Submission
from witness.server import load, open_log, write_default

NOW = 1_767_225_600_000
PAGES = ("/", "/records", "/exchanges", "/contracts", "/parties", "/log", "/alarms")
AGREEMENT = "a" * 64
TEMPLATES = sorted((Path(web.__file__).parent / "templates").glob("*.html"))


def key_of(name: str, algorithm: str = "ed25519") -> PrivateKey:
    return PrivateKey.from_seed(hashlib.sha256(name.encode()).digest(), algorithm)


COSIGNERS = {"hk": key_of("hk"), "auditor": key_of("auditor", ML_DSA_44)}
PARTIES = {name: key_of(name) for name in ("hk-bank", "sz-trade")}


@dataclass
class Made:
    """A witness's folder with some exchanges in its log, and the exchanges' ids."""

    folder: Path
    exchanges: list[str]
    digests: list[bytes]


def sealed(
    event: str, exchange: str, number: int, previous: str | None, outcome: record.Outcome
) -> record.Sealed:
    needed = record.REQUIRED_COMMITMENTS.get(event, frozenset())
    roles = (("sz-trade", "provider"), ("hk-bank", "consumer"))
    return record.seal(
        event=event,
        space="gba",
        members="0" * 64,
        exchange=record.Exchange(exchange, number, previous),
        parties=[record.Party(n, role, (PARTIES[n].public.id,), "b" * 64, NOW) for n, role in roles],
        outcome=outcome,
        data=record.Data(commitments=dict.fromkeys(needed, "c" * 64), protocol="psi_aggregate/1"),
        contract=record.Contract("d" * 64, "v1", AGREEMENT),
        sensitive=record.Sensitive(purpose=("SECRET-PURPOSE",)),
    )


def make(folder: Path, exchanges: int = 40) -> Made:
    operator = key_of("operator")
    keys = write_default(
        folder,
        space="gba",
        participant="witness-sz",
        origin="sz.example/log",
        operator_keys=[operator.public],
    )
    cosigners = {name: cosignature.cosigner_key(f"{name}.example/w", key) for name, key in COSIGNERS.items()}
    rules = [
        f"log {keys[0]}",
        *(f"witness {n} {k}" for n, k in cosigners.items()),
        "group all all hk auditor",
    ]
    (folder / "quorum.policy").write_text("\n".join([*rules, "quorum all"]))
    config = folder / "witness.toml"
    config.write_text(config.read_text().replace("# quorum =", "quorum ="))
    listed = [
        members.Participant(n, members.CONNECTOR, (members.EvidenceKey(k.public, 0),), f"{n}.example:1", "HK")
        for n, k in PARTIES.items()
    ]
    witness = members.Participant("witness-sz", members.WITNESS, (), "w:1", "CN-SZ", logs=tuple(keys))
    signed = members.sign(members.successor(None, "gba", [*listed, witness], 0), [operator]).to_bytes()
    settings = load(folder)
    log = Log(
        settings.data,
        settings.origin,
        PrivateKeys.from_pem(settings.log_key.read_bytes()),
        lambda: NOW,
        quorum=policy.parse((folder / "quorum.policy").read_text()),
    )
    log.database.add_members(1, signed)
    made = Made(folder, [], [])
    for n in range(exchanges):
        append(log, made, n)
    head = log.head
    log.cosigned(head, [cosignature.sign(head.text, k, f"{n}.example/w", 9) for n, k in COSIGNERS.items()])
    log.close()
    return made


def append(log: Log, made: Made, number: int) -> None:
    """A whole exchange, a refused one, or one that the consumer never signed."""
    exchange = hashlib.sha256(b"%d" % number).hexdigest()[:32]
    made.exchanges.append(exchange)
    if number % 5 == 4:
        refusal = sealed("query.refusal", exchange, 0, None, record.Outcome("refused", "identity.minimum"))
        batch = [dsse.sign(record.PAYLOAD_TYPE, refusal.payload, [PARTIES["sz-trade"]])]
    else:
        intent = sealed("query.intent", exchange, 0, None, record.Outcome("done"))
        release = sealed("query.release", exchange, 1, intent.digest, record.Outcome("done"))
        signers = list(PARTIES.values()) if number % 7 else [PARTIES["sz-trade"]]
        batch = [
            dsse.sign(record.PAYLOAD_TYPE, intent.payload, PARTIES.values()),
            dsse.sign(record.PAYLOAD_TYPE, release.payload, signers),
        ]
    made.digests += [envelope.digest for envelope in batch]
    log.append([Submission(e.digest, e.to_bytes(), b"t" * 32) for e in batch])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return make(tmp_path_factory.mktemp("console") / "witness")


def opened(folder: Path) -> web.Console:
    console = web.Console(load(folder), lambda: NOW + 1000)
    while console.index.refresh():
        pass
    return console


@pytest.fixture(scope="module")
def console(made):
    found = opened(made.folder)
    yield found
    found.close()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(
    console: web.Console, url: str, method: str = "GET", host: str = "127.0.0.1", **headers: str
) -> Answer:
    """One request, straight through the application."""
    path, _, query = url.partition("?")
    sent: list[dict] = []
    named = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http", "method": method, "path": path, "query_string": query.encode(), "scheme": "http",
        "headers": [(n.encode(), v.encode()) for n, v in named.items()], "http_version": "1.1",
        "root_path": "", "raw_path": path.encode(), "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip

    waiting = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop()

    async def send(message: dict) -> None:
        sent.append(message)

    application = web.application(console, web.hosts_of("127.0.0.1:7082", []))
    asyncio.run(application(scope, receive, send))
    headers_ = {n.decode(): v.decode() for n, v in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers_, b"".join(m.get("body", b"") for m in sent[1:]))


def every_page(made: Made) -> list[str]:
    return [
        *PAGES, "/records/0", "/records/9", f"/exchanges/{made.exchanges[0]}", f"/contracts/{AGREEMENT}",
        "/parties/hk-bank", "/parties/witness-sz", "/records?q=query", "/records?one_sided=1",
    ]  # fmt: skip


def test_every_page_reads_in_both_languages(console, made) -> None:
    for page in every_page(made):
        english, chinese = (
            ask(console, page, accept_language=wish) for wish in ("en-GB,zh;q=0.5", "zh-CN,en")
        )
        assert (english.status, chinese.status) == (200, 200), page
        assert "Witness console" in english.text
        assert "见证控制台" in chinese.text
        assert 'lang="zh-Hans"' in chinese.text
    chinese = ask(console, "/records/0", accept_language="zh").text
    assert '<span title="query.intent">查询意向</span>' in chinese
    assert '<span title="consumer">消费方</span>' in chinese


INLINE = re.compile(r"<style|\sstyle=|\son[a-z]+=|<script(?! src=\"/static/htmx)|(src|href)=\"http")


def test_no_page_needs_a_script_or_anything_from_elsewhere(console, made) -> None:
    for page in every_page(made):
        answer = ask(console, page)
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert not INLINE.search(answer.text)
    assert ask(console, "/static/htmx.min.js").status == 200
    assert b"Zero-Clause BSD" in ask(console, "/static/htmx.LICENSE").body


def test_no_sealed_claim_shows(console, made) -> None:
    for page in [*every_page(made), "/records.json", "/records/0.json", "/exchanges.csv"]:
        assert "SECRET-PURPOSE" not in ask(console, page).text


def test_each_page_has_its_json_twin(console, made) -> None:
    for page in every_page(made):
        path, _, query = page.partition("?")
        answer = ask(console, f"{path if path != '/' else '/overview'}.json?{query}")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), page
        json.loads(answer.text)
    found = json.loads(ask(console, "/records/0.json").text)
    assert found["record"]["event"] == "query.intent"
    assert found["proof"]["holds"] is True
    assert found["proof"]["path"][-1]["hash"] == found["proof"]["root"]
    assert {s["by"] for s in found["proof"]["signatures"]} == {"log", "witness"}
    assert all(s["holds"] for s in found["proof"]["signatures"])


def test_lists_are_csv_files_with_every_row(console, made) -> None:
    count = json.loads(ask(console, "/records.json").text)["count"]
    answer = ask(console, "/records.csv")
    rows = list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"))))
    assert answer.body.startswith(b"\xef\xbb\xbf")
    assert len(rows) == count == len(made.digests) > 50
    assert rows[0]["parties"] == "sz-trade hk-bank"
    for page in ("exchanges", "contracts", "parties", f"exchanges/{made.exchanges[0]}"):
        assert ask(console, f"/{page}.csv").status == 200
    assert ask(console, "/records/0.csv").status == 404


def test_a_cell_never_becomes_a_formula() -> None:
    rows = [
        {"a": "=1+1", "b": "@x", "c": ["-2"], "d": None, "e": True, "f": "x;=1", "g": "\uff1d1", "h": "a-1"}
    ]
    assert web.table(rows)[1] == ["'=1+1", "'@x", "'-2", "", "yes", "x;'=1", "'\uff1d1", "a-1"]


def test_searching_and_filtering(console, made) -> None:
    def count(arguments: str) -> int:
        return json.loads(ask(console, f"/records.json?{arguments}").text)["count"]

    exchange, digest = made.exchanges[1], made.digests[3].hex()
    assert count("status=refused") == count("event=query.refusal") == count("q=identity") == 8
    assert count(f"q={exchange[:9]}") == count(f"exchange={exchange}") == 2
    assert count(f"q={digest[:12].upper()}") == 1
    assert count("q=hk-b") == count("party=hk-bank") == count("") == len(made.digests)
    assert count("q=3") >= 1
    assert count("one_sided=1") == 5
    assert count("since=2026-01-01&until=2026-01-01") == len(made.digests)
    assert count("since=2026-01-02") == count("q=%25") == count("q=_") == 0
    assert ask(console, "/records?q=<script>alert(1)</script>").text.count("&lt;script&gt;") >= 1


@pytest.mark.parametrize(
    "url",
    [
        "/records?status=x", "/records?party=../x", "/records?since=yesterday", "/records?page=0",
        "/records?page=x", "/records?agreement=1", "/records?event=A", "/records?q=%00", "/records/x",
        "/records/00",
        "/exchanges/1", "/contracts/zz", "/parties/A",
    ],
)  # fmt: skip
def test_arguments_that_are_not_of_their_form_are_refused(console, url) -> None:
    assert ask(console, url).status == 400


@pytest.mark.parametrize(
    "url",
    [
        "/nothing", "/records/99999", "/exchanges/" + "f" * 32, "/contracts/" + "f" * 64, "/parties/nobody",
        "/records/99999/envelope", "/static/../app.py", "/static/nothing",
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_found(console, url) -> None:
    assert ask(console, url).status == 404


def test_it_only_reads(console, made) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert ask(console, "/records", method).status == 405
    assert ask(console, "/records", "HEAD").status == 200
    with pytest.raises(OperationalError, match="readonly"):
        console._database.erase([made.digests[0]])


def test_another_host_name_is_refused(console) -> None:
    assert ask(console, "/", host="evil.example").status == 400
    assert web.hosts_of("10.0.0.1:7082", ["console.example"]) == ["10.0.0.1", "console.example"]


def test_a_path_that_is_no_page_becomes_no_link(console) -> None:
    for path in ("//evil.example/x", "/\\evil.example/x"):
        page = ask(console, path)
        assert page.status == 404
        assert "evil" not in page.text


def test_the_language_switch_is_remembered(console) -> None:
    switched = ask(console, "/?lang=zh")
    assert switched.headers["set-cookie"].startswith("language=zh;")
    assert "见证控制台" in ask(console, "/log", cookie="language=zh").text
    assert "Witness console" in ask(console, "/log", cookie="language=xx").text


def test_files_of_a_record(console, made) -> None:
    proof = ask(console, "/records/0/tlog-proof")
    assert proof.text.startswith("c2sp.org/tlog-proof@v1\n")
    assert hashlib.sha256(ask(console, "/records/0/envelope").body).digest() == made.digests[0]


def test_an_internal_error_says_nothing_of_itself(console, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("SECRET")

    monkeypatch.setattr(console.index, "totals", broken)
    answer = ask(console, "/contracts")
    assert (answer.status, "SECRET" in answer.text) == (500, False)


# --- a log that changes, or is damaged ----------------------------------------------------------------


@pytest.fixture
def changing(tmp_path) -> Made:
    return make(tmp_path / "witness", 5)


def test_what_is_erased_disappears(changing) -> None:
    console = opened(changing.folder)
    database = Database(f"sqlite:///{changing.folder / 'data' / 'witness.sqlite'}")
    assert database.erase([changing.digests[0]]) == 1
    console.index.refresh()
    found = json.loads(ask(console, f"/records.json?exchange={changing.exchanges[0]}").text)
    assert [r["event"] for r in found["records"]] == ["query.release"]
    assert "erased" in ask(console, "/records/0").text
    assert json.loads(ask(console, "/records/0.json").text)["proof"]["holds"] is True
    assert json.loads(ask(console, "/overview.json").text)["totals"]["erased"] == 1
    console.close()
    database.close()


def test_what_is_erased_disappears_beside_records_that_nobody_can_read(changing) -> None:
    """A record of a later version counts as kept and is not shown: it must not hide that another has gone."""
    config = load(changing.folder)
    later = [Submission(hashlib.sha256(b"%d" % n).digest(), b"%d" % n, b"t" * 32) for n in range(3)]
    with contextlib.closing(open_log(config)) as log:
        log.append(later)
        console = opened(changing.folder)
        assert log.database.erase([changing.digests[0]]) == 1
        # And while the log grows: an entry that the console has not read yet counts for nothing.
        log.append([Submission(hashlib.sha256(b"x").digest(), b"x", b"t" * 32)])
        console.index._forget_erased()
    found = json.loads(ask(console, f"/records.json?exchange={changing.exchanges[0]}").text)
    assert [r["event"] for r in found["records"]] == ["query.release"]
    console.close()


def alarms(console: web.Console) -> set[str]:
    assert ask(console, "/alarms").status == ask(console, "/").status == 200
    return {alarm["code"] for alarm in json.loads(ask(console, "/alarms.json").text)["alarms"]}


def test_alarms(changing) -> None:
    console = opened(changing.folder)
    assert alarms(console) == set()
    database = Database(f"sqlite:///{changing.folder / 'data' / 'witness.sqlite'}")
    heads = (Checkpoint("x.example/log", 3, root * 32) for root in (b"1", b"2"))
    one, two = (str(checkpoint.sign(head, key_of("x"))) for head in heads)
    database.keep_fork(Fork("x.example/log", True, one, two, NOW))
    assert alarms(console) == {"fork.proved"}
    assert one.splitlines()[2] in ask(console, "/alarms").text
    public = changing.folder / "data" / "public" / "checkpoint"
    public.write_text(public.read_text().replace("\n— sz.example/log ", "\n— sz.example/log AAAA", 1))
    assert "checkpoint.signature" in alarms(console)
    public.write_text("nonsense")
    assert "checkpoint.unreadable" in alarms(console)
    beyond = Checkpoint("sz.example/log", 999, b"r" * 32)
    public.write_text(str(checkpoint.sign(beyond, key_of("x"))))
    assert "log.rollback" in alarms(console)
    (changing.folder / "quorum.policy").write_text("nonsense")
    assert "quorum.unreadable" in alarms(console)
    database.close()
    console.close()


def test_entries_that_wait_for_cosignatures_are_an_alarm(changing) -> None:
    (changing.folder / "data" / "witnessed").unlink()
    console = opened(changing.folder)
    assert alarms(console) == set()
    assert "too few" not in ask(console, "/records/0").text
    assert "enough witnesses" in ask(console, "/records/0").text
    console.pages._standing._clock = lambda: NOW + 120_000
    assert alarms(console) == {"quorum.late"}
    console.close()


def test_there_must_be_a_database_to_read(tmp_path) -> None:
    with pytest.raises(SchemaOther):
        Database(f"sqlite:///{tmp_path / 'none.sqlite'}", read_only=True)
    assert list(tmp_path.iterdir()) == []


# --- parts ----------------------------------------------------------------------------------------------


def test_the_drawn_path_leads_to_the_root_for_every_entry() -> None:
    hashes = [hashlib.sha256(bytes([n])).digest() for n in range(40)]
    for size in range(1, 40):
        nodes = merkle.nodes_of(hashes[:size])
        for index in range(size):
            path = merkle.inclusion_proof(index, size, nodes)
            found = drawing.steps(index, size, hashes[index], path)
            assert (found[-1][2] if found else hashes[index]) == merkle.root(size, nodes)
            drawn = drawing.draw(index, size, hashes[index], path)
            assert len(drawn["boxes"]) == 1 + 2 * len(path)
            assert all(
                0 < box["x"] < drawn["width"] and 0 < box["y"] < drawn["height"] for box in drawn["boxes"]
            )


def test_every_word_that_a_template_uses_is_there_in_both_languages() -> None:
    used = set()
    for template in TEMPLATES:
        text = template.read_text("utf-8")
        used |= set(re.findall(r"\bw\.([a-z_]+)", text)) | set(re.findall(r"\bw\[\"([a-z_.]+)\"\]", text))
    english, chinese = (words.words(language) for language in words.LANGUAGES)
    assert used <= set(english)
    assert all(english.values())
    assert all(re.search(r"[\u4e00-\u9fff]", text) for name, text in chinese.items() if name not in SAME)


SAME = {"copy_json", "copy_csv", "of", "language"}


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh", "zh"),
        ("zh-HK,en;q=0.8", "zh"),
        ("fr,en", "en"),
        ("en;q=0.1,zh-CN;q=0.9", "zh"),
        ("zh;q=x", "en"),
    ],
)
def test_the_browsers_preference(header: str, language: str) -> None:
    assert words.preferred(header) == language


# --- a real browser ---------------------------------------------------------------------------------------


@pytest.fixture
def served(made):
    command = [
        sys.executable,
        "-m",
        "witness",
        "console",
        "--folder",
        str(made.folder),
        "--listen",
        "127.0.0.1:0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline() if process.stdout else ""
        assert line.startswith("ready http://127.0.0.1:"), line
        url = line.split()[1].rstrip("/")
        while json.loads(read(f"{url}/overview.json"))["totals"]["records"] < len(made.digests):
            time.sleep(0.1)
        yield url
        process.terminate()


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()


def browse(url: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Chromium's own view of a page: the DOM it built, and its log."""
    return subprocess.run(
        [
            *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--enable-logging=stderr", "--window-size=1360,900", "--virtual-time-budget=2000"),
            *(f"--user-data-dir={folder / 'profile'}", "--disable-background-networking", *more, url),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


@pytest.mark.deep
@pytest.mark.outside
def test_chromium_shows_the_pages_and_misses_nothing(served, made, tmp_path) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("needs chromium (Debian: chromium)")
    for page in ("/", "/records/0", "/exchanges"):
        seen = browse(f"{served}{page}", tmp_path, "--dump-dom")
        assert "CONSOLE" not in seen.stderr, seen.stderr  # neither a blocked resource nor a script's error
        assert "sz-trade" in seen.stdout
    assert "<svg" in browse(f"{served}/records/0", tmp_path, "--dump-dom").stdout
    shot = tmp_path / "overview.png"
    browse(f"{served}/?lang=zh", tmp_path, f"--screenshot={shot}")
    assert shot.stat().st_size > 40_000


def test_the_published_note_is_read_as_it_stands(made) -> None:
    assert note.parse((made.folder / "data" / "public" / "checkpoint").read_text("utf-8")).signatures


@pytest.mark.outside
def test_postgresql_lets_the_console_read_and_nothing_else() -> None:
    url = os.environ.get("BAYSPACE_TEST_POSTGRES")
    if not url:
        pytest.skip("needs a PostgreSQL: set BAYSPACE_TEST_POSTGRES to its URL")
    name = f"console_{os.getpid()}"
    server = create_engine(
        url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    own = server.url.set(database=name).render_as_string(hide_password=False)
    writing = Database(own)
    writing.create("the first checkpoint")
    reading = Database(own, read_only=True)
    try:
        assert reading.locked() == "the first checkpoint"
        with pytest.raises(InternalError, match="read-only"):
            reading.advance("the first checkpoint", "another")
    finally:
        reading.close()
        writing.close()
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}"))
        server.dispose()
