"""The auditor's commands: `verify` a bundle, `document` verify a carried one. Offline, no account.

They load the standard library and `cryptography`, nothing else, and are what the single-file verifier
consists of (onefile.py). Exit codes: 0 verified, 2 usage or unreadable files, 7 not verified.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from witness import bundle as bundles
from witness import bundle_text, document_text
from witness import document as documents
from witness.document_text import LANGUAGES
from witness.encoding import b64, format_time
from witness.verify import VerificationFailed, Verified, VerifiedItem, verify_files

DONE, USAGE, FAILED = 0, 2, 7
_CANNOT = {"en": "cannot read or write {file}", "zh": "无法读取或写入 {file}"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="bayspace-verify", description=__doc__)
    add_commands(parser.add_subparsers(required=True))
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code


def add_commands(commands: Any) -> None:
    """Adds `verify` and `document` to a parser's commands."""
    _add_verify(commands)
    _add_document(commands)


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser("verify", help="verify a bundle offline (核验回执)")
    verify.add_argument("bundle", type=Path, help="the bundle, or receipt (回执)")
    verify.add_argument(
        "--trust", type=Path, required=True, help="what you trust independently of the bundle (信任文件)"
    )
    verify.add_argument("--accept-one-sided", action="store_true", help="show one-sided records, do not fail")
    verify.add_argument("--language", choices=LANGUAGES, default="en", help="of the answer (语言)")
    verify.add_argument("--format", choices=("text", "json"), default="text")
    verify.set_defaults(run=_verify)


def _add_document(commands: Any) -> None:
    document = commands.add_parser("document", help="verify a carried document offline (核验携带文件)")
    document.add_argument("carried", type=Path, help="the carried file (携带文件)")
    document.add_argument("--trust", type=Path, required=True, help="what you trust (信任文件)")
    document.add_argument(
        "--document", type=Path, help="the document, when it travelled beside (另行携带的文件)"
    )
    document.add_argument("--issuer", help="who must have issued it (预期签发方)")
    document.add_argument("--members", type=Path, help="the member list in force today (现行成员名单)")
    document.add_argument("--out", type=Path, help="write the verified document here (核验后导出文件)")
    document.add_argument("--language", choices=LANGUAGES, default="en", help="of the answer (语言)")
    document.add_argument("--format", choices=("text", "json"), default="text")
    document.set_defaults(run=_document)


def _verify(options: argparse.Namespace) -> int:
    try:
        bundle, trust = _read(options.bundle), _read(options.trust)
    except OSError as error:
        return fail(USAGE, _CANNOT[options.language].format(file=error.filename))
    try:
        verified = verify_files(bundle, trust, accept_one_sided=options.accept_one_sided)
    except VerificationFailed as failure:
        if options.format == "json":
            return _report_failure(failure)
        return fail(FAILED, bundle_text.failed_text(failure, options.language))
    if options.format == "json":
        return _say(json.dumps(to_json(verified)))
    return _say(bundle_text.to_text(verified, options.language))


def _document(options: argparse.Namespace) -> int:
    try:
        data, trust = _read(options.carried), _read(options.trust)
        newest = None if options.members is None else _read(options.members)
        beside = None if options.document is None else options.document.read_bytes()
        digest = None if beside is None else hashlib.sha256(beside).digest()
        verified = documents.verify_files(data, trust, digest=digest, issuer=options.issuer, newest=newest)
        if options.out is not None:
            options.out.write_bytes(verified.content or beside or b"")
    except OSError as error:
        return fail(USAGE, _CANNOT[options.language].format(file=error.filename))
    except VerificationFailed as failure:
        if options.format == "json":
            return _report_failure(failure)
        return fail(FAILED, document_text.failed_text(failure, options.language))
    if options.format == "json":
        return _say(json.dumps(document_text.to_json(verified)))
    return _say(document_text.to_text(verified, options.language))


def _report_failure(failure: VerificationFailed) -> int:
    value = {"code": failure.code, "item": failure.item, "sentence": failure.sentence, "verified": False}
    sys.stdout.write(json.dumps(value) + "\n")
    return FAILED


def fail(code: int, sentence: str) -> int:
    """Says why on standard error; returns the code."""
    _write(sys.stderr, sentence)
    return code


def _say(text: str) -> int:
    _write(sys.stdout, text)
    return DONE


def _write(stream: TextIO, text: str) -> None:
    """Escapes what the stream's encoding lacks: a verdict must not end in a traceback on any terminal."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _read(file: Path) -> bytes:
    """At most one byte more than any file of ours may have: what is larger is refused, not read."""
    with file.open("rb") as opened:
        return opened.read(bundles.LARGEST + 1)


def to_json(verified: Verified) -> dict[str, Any]:
    """What was verified, as one JSON document."""
    return {
        "open_exchanges": list(bundle_text.open_exchanges(verified)),
        "policies": {digest: bundle_text.policy_json(text) for digest, text in verified.policies.items()},
        "records": [_item_json(item) for item in verified.items],
        "unknown_timestamps": verified.unknown_timestamps,
        "verified": True,
    }


def _item_json(item: VerifiedItem) -> dict[str, Any]:
    record = item.record
    return {
        "commitments": dict(record.data.commitments),
        "contract": None if record.contract is None else record.contract.to_json(),
        "cosigners": sorted(item.included.cosigners),
        "digest": item.digest,
        "disclosed": item.disclosed.claims(),
        "event": record.event,
        "exchange": record.exchange.to_json(),
        "index": item.included.index,
        "log": item.included.checkpoint.origin,
        "one_sided": item.one_sided,
        **_opened_json(item.opened),
        "outcome": record.outcome.to_json(),
        "parties": [p.to_json() for p in record.parties],
        "protocol": record.data.protocol,
        "received_at": format_time(item.included.leaf.received_at),
        "receipt": None if item.receipt is None else {"index": item.receipt.index, "size": item.receipt.size},
        "reveals": [r.to_json() for r in record.data.reveals],
        "signers": list(item.signers),
        "space": record.space,
        "timestamps": [{"at": format_time(t.at * 1000), "authority": t.authority} for t in item.timestamps],
    }


def _opened_json(opened: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """Text as text; what is none, such as a result, to the byte."""
    texts, others = {}, {}
    for name, value in opened.items():
        try:
            texts[name] = value.decode()
        except UnicodeDecodeError:
            others[name] = b64(value)
    return {"opened": texts, "opened_base64": others}
