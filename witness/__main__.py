"""The witness without a connector: `python -m witness init|serve|verify`.

An auditor's `verify` loads only the standard library and `cryptography`. Exit codes: 0 done, 2 usage or
configuration, 7 verification failed.
"""

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from witness.encoding import format_time
from witness.verify import VerificationFailed, Verified, VerifiedItem, verify_files

DONE, USAGE, FAILED = 0, 2, 7


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    code: int = options.run(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m witness", description=__doc__)
    commands = parser.add_subparsers(required=True)
    init = commands.add_parser("init", help="write a commented configuration and a new log key")
    init.add_argument("folder", type=Path)
    init.add_argument("--space", required=True, help="the data space whose evidence is recorded")
    init.add_argument("--participant", required=True, help="this witness's id in the member list")
    init.add_argument("--origin", required=True, help="the log's name, such as witness.example/gba")
    init.add_argument("--operator-key", action="append", default=[], help="ed25519:<base64>, or a PEM file")
    init.set_defaults(run=_init)
    serve = commands.add_parser("serve", help="run the witness service")
    serve.add_argument("config", type=Path, help="configuration file, or the folder that holds it")
    serve.set_defaults(run=_serve)
    verify = commands.add_parser("verify", help="verify a bundle offline")
    verify.add_argument("bundle", type=Path)
    verify.add_argument(
        "--trust", type=Path, required=True, help="what you trust independently of the bundle"
    )
    verify.add_argument("--accept-one-sided", action="store_true", help="show one-sided records, do not fail")
    verify.add_argument("--format", choices=("text", "json"), default="text")
    verify.set_defaults(run=_verify)
    return parser


def _init(options: argparse.Namespace) -> int:
    from witness.note import NoteInvalid
    from witness.schema import FormatError
    from witness.server import ConfigInvalid, write_default

    try:
        vkey = write_default(
            options.folder,
            space=options.space,
            participant=options.participant,
            origin=options.origin,
            operator_keys=options.operator_key,
        )
    except (ConfigInvalid, FormatError, NoteInvalid) as error:
        return _fail(USAGE, str(error))
    sys.stdout.write(f"{vkey}\n")
    return DONE


def _serve(options: argparse.Namespace) -> int:
    # Imported here: an auditor has neither gRPC nor SQLAlchemy.
    from witness.log import LogRefused
    from witness.server import ConfigInvalid, load, serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(load(options.config), stop, _ready)
    except (ConfigInvalid, LogRefused) as error:
        return _fail(USAGE, str(error))
    return DONE


def _ready(grpc_port: int, http_port: int) -> None:
    sys.stdout.write(f"ready grpc={grpc_port} http={http_port}\n")
    sys.stdout.flush()


def _verify(options: argparse.Namespace) -> int:
    try:
        bundle, trust = options.bundle.read_bytes(), options.trust.read_bytes()
    except OSError as error:
        return _fail(USAGE, f"cannot read {error.filename}")
    try:
        verified = verify_files(bundle, trust, accept_one_sided=options.accept_one_sided)
    except VerificationFailed as failure:
        return _report_failure(failure, options.format)
    as_json = options.format == "json"
    sys.stdout.write(json.dumps(to_json(verified), ensure_ascii=False) if as_json else to_text(verified))
    sys.stdout.write("\n")
    return DONE


def _report_failure(failure: VerificationFailed, kind: str) -> int:
    if kind == "json":
        value = {"code": failure.code, "item": failure.item, "sentence": failure.sentence, "verified": False}
        sys.stdout.write(json.dumps(value) + "\n")
        return FAILED
    where = "" if failure.item is None else f" (record {failure.item + 1})"
    return _fail(FAILED, f"NOT VERIFIED [{failure.code}]{where}: {failure.sentence}")


def _fail(code: int, sentence: str) -> int:
    sys.stderr.write(sentence + "\n")
    return code


def to_json(verified: Verified) -> dict[str, Any]:
    """What was verified, as one JSON document."""
    return {"records": [_item_json(item) for item in verified.items], "verified": True}


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
        "opened": {name: value.decode(errors="replace") for name, value in item.opened.items()},
        "outcome": record.outcome.to_json(),
        "parties": [p.to_json() for p in record.parties],
        "protocol": record.data.protocol,
        "received_at": format_time(item.included.leaf.received_at),
        "reveals": [r.to_json() for r in record.data.reveals],
        "signers": list(item.signers),
        "space": record.space,
    }


def to_text(verified: Verified) -> str:
    """What was verified, for people."""
    return "\n".join(["VERIFIED", *(_item_text(n, item) for n, item in enumerate(verified.items, 1))])


def _item_text(number: int, item: VerifiedItem) -> str:
    record, head = item.record, item.included.checkpoint
    lines = [
        f"{number}. {record.event}: {record.outcome.status}"
        + (f" ({record.outcome.reason})" if record.outcome.reason else ""),
        f"   exchange {record.exchange.id}, step {record.exchange.sequence}, space {record.space}",
        f"   signed by {', '.join(item.signers)}" + (" — ONE-SIDED" if item.one_sided else ""),
        (
            f"   recorded {format_time(item.included.leaf.received_at)}"
            f" as entry {item.included.index} of {head.origin} (tree of {head.size})"
        ),
        "   cosigned by "
        + (", ".join(sorted(item.included.cosigners)) or "nobody: the log is trusted alone"),
        *(f"   {reveal.party} learned {reveal.what}" for reveal in record.data.reveals),
        *(f"   disclosed {name}: {_plain(value)}" for name, value in item.disclosed.claims().items()),
        *(f"   opened {name}: {_shown(value)}" for name, value in item.opened.items()),
    ]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shown(value: bytes) -> str:
    text = value.decode(errors="replace")
    return text if text.isprintable() else value.hex()


if __name__ == "__main__":
    sys.exit(main())
