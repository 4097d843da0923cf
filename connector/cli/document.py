"""`bayspace document`: a document that a person carries across a border, checked there against the log."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer

from connector.cli.report import (
    UNVERIFIED,
    Config,
    Json,
    Language,
    configuration,
    note,
    print_json,
    read_file,
    say,
    write_file,
)

app = typer.Typer(no_args_is_help=True)

Document = Annotated[Path, typer.Argument(help="the document, of any kind (任意格式的文件)")]
Beside = Annotated[
    bool,
    typer.Option("--beside", help="the document travels beside the carried file, not in it (文件另行携带)"),
]


@app.command()
def commit(
    document: Document,
    config: Config = Path(),
    out: Annotated[Path | None, typer.Option(help="also write the carried file (同时生成携带文件)")] = None,
    beside: Beside = False,
    category: Annotated[
        list[str] | None, typer.Option(help="what kind of document it is; repeatable (文件类别)")
    ] = None,
    purpose: Annotated[list[str] | None, typer.Option(help="what it is for; repeatable (用途)")] = None,
    retain_until: Annotated[str | None, typer.Option(help="YYYY-MM-DD (保存期限)")] = None,
    json: Json = False,
) -> None:
    """Record a salted commitment to a document: the log learns nothing of it (签发:登记文件的加盐承诺)."""
    from compute.errors import BayspaceError, ConfigError
    from connector import documents
    from witness.record import Sensitive
    from witness.schema import FormatError

    claims = Sensitive(
        data_categories=tuple(category) if category else None,
        purpose=tuple(purpose) if purpose else None,
        retain_until=retain_until,
    )
    try:
        claims.claims()
    except FormatError as error:
        raise ConfigError("document.claim", str(error)) from error
    content = read_file(document)
    digest = hashlib.sha256(content).digest()
    if out is not None and not beside:
        documents.check_size(content)  # before anything is on record
    with documents.opened(configuration(config)) as node:
        recorded = documents.commit(node, digest, claims)
        try:
            if out is not None:
                write_file(out, documents.open_(node, recorded.exchange, content, beside=beside))
        except BayspaceError:
            note(
                f"on record all the same: bayspace document open {recorded.exchange} … makes the carried file"
            )
            raise
    if json:
        print_json({"exchange": recorded.exchange, "sha256": digest.hex(), "witnesses": recorded.witnesses})
        return
    say(f"committed under exchange {recorded.exchange}, recorded by {recorded.witnesses} witness(es)")
    say(f"carried file written to {out}" if out else f"next: bayspace document open {recorded.exchange} …")


@app.command("open")
def open_(
    exchange: Annotated[str, typer.Argument(help="the exchange that `commit` printed (签发时得到的编号)")],
    document: Document,
    out: Annotated[Path, typer.Option(help="the carried file (携带文件)")],
    config: Config = Path(),
    beside: Beside = False,
) -> None:
    """Write the carried file: document, opening and proof, for its holder (为持有人生成携带文件)."""
    from connector import documents

    content = read_file(document)
    with documents.opened(configuration(config)) as node:
        write_file(out, documents.open_(node, exchange, content, beside=beside))
    say(f"carried file written to {out}")


@app.command()
def verify(
    carried: Annotated[Path, typer.Argument(help="the carried file (携带文件)")],
    document: Annotated[
        Path | None, typer.Option(help="the document, when it travelled beside (另行携带的文件)")
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option(help="what you trust; default: what this participant's member list says (信任文件)"),
    ] = None,
    members: Annotated[
        Path | None, typer.Option(help="the member list in force today, with --trust (现行成员名单)")
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="who must have issued it (预期签发方)")] = None,
    out: Annotated[
        Path | None, typer.Option(help="write the document here once it is verified (核验后导出文件)")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="record that it was verified, and the outcome (登记核验结果)")
    ] = False,
    language: Language = "en",
    config: Config = Path(),
    json: Json = False,
) -> None:
    """Verify a carried document, offline but for --record (核验携带文件)."""
    from connector import documents
    from witness.checks import VerificationFailed
    from witness.document_text import failed_text

    data = read_file(carried)
    content = None if document is None else read_file(document)
    digest = None if content is None else hashlib.sha256(content).digest()
    needs_node = record or trust is None
    failure: VerificationFailed | None = None
    recorded: str | None = None
    with documents.perhaps(config if needs_node else None) as node:
        try:
            found = documents.verify(
                data,
                node,
                trust=None if trust is None else read_file(trust),
                members=None if members is None else read_file(members),
                digest=digest,
                issuer=issuer,
            )
        except VerificationFailed as error:
            failure = error
        if record and node is not None:
            recorded = documents.record_verification(node, data, digest, failure).exchange
    if failure is not None:
        _report_failure(failure, recorded, failed_text(failure, language), as_json=json)
    if out is not None:
        write_file(out, found.content or content or b"")
    _report(found, recorded, language, as_json=json)


def _report(found: Any, recorded: str | None, language: str, *, as_json: bool) -> None:
    from witness.document_text import to_json, to_text

    if as_json:
        print_json({**to_json(found), "recorded": recorded})
        return
    say(to_text(found, language))
    if recorded is not None:
        say(f"   recorded as exchange {recorded}")


def _report_failure(failure: Any, recorded: str | None, text: str, *, as_json: bool) -> None:
    if as_json:
        document = {"code": failure.code, "sentence": failure.sentence}
        print_json({"error": document, "recorded": recorded, "verified": False})
    note(text)
    if recorded is not None:
        note(f"   recorded as exchange {recorded}")
    raise typer.Exit(UNVERIFIED)
