"""`bayspace evidence` and `bayspace witness`: receipts, their offline verification, the witness service."""

from __future__ import annotations

from collections.abc import Sequence
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
    show,
    write_file,
)

app = typer.Typer(no_args_is_help=True)
witnesses = typer.Typer(no_args_is_help=True)
_BESIDE = {
    "en": "trusting {file}: if it came with the bundle, compare it with what the operator publishes",
    "zh": "所用信任文件 {file}:若它与回执一同送来,请与运营方公布的内容核对",
}


# --- receipts -----------------------------------------------------------------------------------------


@app.command("list")
def list_(config: Config = Path(), json: Json = False) -> None:
    """Exchanges of this connector, their records, and whether they are witnessed."""
    with _store(config) as store:
        rows = [_exchange_row(store, exchange) for exchange in store.exchanges()]
    show(rows, ["exchange", "kind", "role", "peer", "status", "records", "witnessed", "at"], as_json=json)


def _exchange_row(store: Any, exchange: Any) -> dict[str, Any]:
    receipts = store.receipts(exchange.id)
    return {
        "exchange": exchange.id,
        "kind": exchange.kind,
        "role": exchange.role,
        "peer": exchange.peer,
        "status": exchange.status,
        "records": [record.event for record in store.evidence(exchange.id)],
        "witnessed": bool(receipts) and all(r.status == "delivered" for r in receipts),
        "trace": exchange.trace_id,
        "at": exchange.at,
    }


@app.command()
def export(
    exchange: Annotated[str, typer.Argument(help="exchange id")],
    out: Annotated[Path, typer.Option(help="the bundle's file")],
    config: Config = Path(),
    show_: Annotated[
        list[str] | None,
        typer.Option(
            "--show",
            help="open a commitment: query, plan, release, result, masks, answer, statement, offer; "
            "or the policy; repeatable",
        ),
    ] = None,
    redacted: Annotated[
        bool, typer.Option("--redacted", help="without purpose, legal basis, sizes, trace id")
    ] = False,
    trust: Annotated[Path | None, typer.Option(help="also write a trust file for the verifier")] = None,
) -> None:
    """Write the receipt of an exchange: one file that anybody verifies offline."""
    from connector.receipts import receipt

    with _store(config) as store:
        bundle = receipt(store, exchange, show_ or (), redacted=redacted)
    write_file(out, bundle)
    if {"masks", "answer"} <= set(show_ or ()):
        note("this receipt tells sums of cells that the owner held back: for auditors, not for the owner")
    say(f"receipt of {exchange} written to {out} ({len(bundle)} bytes)")
    if trust is not None:
        write_file(trust, _trust(config))
        say(f"trust file written to {trust}; an auditor compares it with what the operator publishes")


@app.command("trust")
def trust_(
    out: Annotated[Path, typer.Option(help="the trust file")],
    config: Config = Path(),
    timestamp_authority: Annotated[
        list[Path] | None,
        typer.Option(help="PEM certificate that timestamps must lead to; repeatable"),
    ] = None,
) -> None:
    """Write what this participant trusts (operator key, witnesses' log keys) as a verifier's trust file."""
    write_file(out, _trust(config, [read_file(file) for file in timestamp_authority or ()]))
    say(f"trust file written to {out}")


@app.command()
def extend(
    receipt: Annotated[Path, typer.Argument(help="a receipt")],
    out: Annotated[Path, typer.Option(help="the extended receipt")],
    cose: Annotated[
        bool, typer.Option("--cose", help="add COSE receipts (RFC 9942), which the witness makes")
    ] = False,
    timestamp: Annotated[
        str | None, typer.Option(help="URL of an RFC 3161 authority: add its timestamp of each checkpoint")
    ] = None,
    config: Config = Path(),
) -> None:
    """Add what other people's tools verify: COSE receipts, and timestamps by an independent clock."""
    from compute.errors import ConfigError
    from connector.documents import opened
    from connector.receipts import asking, extended

    if not cose and timestamp is None:
        raise ConfigError("evidence.extend", "say what to add: --cose, --timestamp URL, or both")
    fetch = None if timestamp is None else asking(timestamp)
    data = read_file(receipt)
    if cose:
        with opened(configuration(config)) as node:
            data = extended(data, fetch, node.evidence.receipt)
    else:
        data = extended(data, fetch, None)
    write_file(out, data)
    say(f"extended receipt written to {out} ({len(data)} bytes)")


@app.command()
def trace(
    receipt: Annotated[Path, typer.Argument(help="a receipt")], config: Config = Path(), json: Json = False
) -> None:
    """From a receipt back to contract, policy, query and dataset commitment, as this connector knows them."""
    from connector.tracing import traced

    with _store(config) as store:
        found = traced(store, read_file(receipt))
    if json:
        print_json(found)
        return
    for key, value in found.items():
        say(f"{key}: {value}")


@app.command()
def erase(
    exchange: Annotated[str, typer.Argument(help="exchange id")],
    yes: Annotated[bool, typer.Option("--yes", help="do it: this cannot be undone")] = False,
    config: Config = Path(),
    json: Json = False,
) -> None:
    """Destroy this connector's own copies of an exchange's records; their digests and proofs stay."""
    from connector.erasure import confirmed, erasable

    with _store(config) as store:
        found = erasable(store, exchange)
        if found.readable:
            confirmed(found, yes=yes)
        erased = store.erase_evidence(exchange)
    if json:
        print_json({"exchange": exchange, "erased": erased, "records": found.records, "logged": found.logged})
        return
    if not found.readable:
        say(f"erased already: no record of {exchange} can be read here any more")
    else:
        say(f"erased {erased} of {found.records} records of {exchange}")
    say(f"{found.logged} of them stay provable by digest and time: a witness logged them")
    say("the other side, witnesses and whoever has a receipt keep their own copies: ask them too")


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="the bundle to verify (回执文件)")],
    trust: Annotated[
        Path | None,
        typer.Option(
            help="what you trust independently of the bundle; default: trust.json beside it (信任文件)"
        ),
    ] = None,
    accept_one_sided: Annotated[
        bool,
        typer.Option("--accept-one-sided", help="show records that one side never signed (接受单方签名)"),
    ] = False,
    language: Language = "en",
    json: Json = False,
) -> None:
    """Verify a bundle offline: no server, no account, no connector (离线核验回执)."""
    from witness.auditor import to_json
    from witness.bundle_text import failed_text, to_text
    from witness.checks import VerificationFailed
    from witness.verify import verify_files

    trusted = bundle.with_name("trust.json") if trust is None else trust
    if trust is None:
        note(_BESIDE[language].format(file=trusted))
    try:
        verified = verify_files(read_file(bundle), read_file(trusted), accept_one_sided=accept_one_sided)
    except VerificationFailed as failure:
        if json:
            raise
        note(failed_text(failure, language))
        raise typer.Exit(UNVERIFIED) from None
    if json:
        print_json(to_json(verified))
    else:
        say(to_text(verified, language))


@app.command()
def recompute(
    receipt: Annotated[Path, typer.Argument(help="a receipt that opens plan, masks and answer")],
    trust: Annotated[Path, typer.Option(help="what you trust independently of the receipt")],
    json: Json = False,
) -> None:
    """Compute a joint result once more: the owner's masked answer, less the masks that the asker opens.

    Sums and counts of the asker's table are compared with it, where the receipt opens `result`.
    """
    from connector.recomputing import recomputed
    from witness.evidence_words import visible
    from witness.verify import verify_files

    found = recomputed(verify_files(read_file(receipt), read_file(trust)))
    if json:
        print_json([query.as_json() for query in found])
        return
    for query in found:
        cells = query.as_json()["cells"]
        rows = [
            {"identities": c["identities"], **{visible(k): v for k, v in c["sums"].items()}} for c in cells
        ]
        names = ["identities", *(visible(name) for name in dict(query.figures))]
        show(rows, names, as_json=False, title=f"recomputed: {query.exchange}")
        if query.result is not None:
            asserted = [
                {visible(k): visible(str(v)) for k, v in row.items()} for row in query.result.to_pylist()
            ]
            columns = [visible(name) for name in query.result.column_names]
            show(asserted, columns, as_json=False, title="as the asker asserts it")
        compared = ", ".join(visible(name) for name in query.compared) or "nothing"
        say(
            f"compared with the asker's table, and equal: {compared}; whatever else it says is its word alone"
        )


# --- the witness service ------------------------------------------------------------------------------


@witnesses.command()
def init(
    folder: Annotated[Path, typer.Argument(help="the witness's folder; made if it does not exist")],
    participant: Annotated[str, typer.Option(help="participant id of the witness")],
    space: Annotated[str, typer.Option(help="the data space's name")],
    jurisdiction: Annotated[str, typer.Option(help="where it runs: HK, CN-SZ, ...")],
    origin: Annotated[str, typer.Option(help="the log's name for ever, e.g. witness.example.org/log2026")],
    listen: Annotated[str, typer.Option(help="gRPC, mutual TLS")] = "127.0.0.1:7543",
    http: Annotated[str, typer.Option(help="the public log: tiles over plain HTTP")] = "127.0.0.1:7580",
    address: Annotated[str | None, typer.Option(help="host:port that others dial; default: --listen")] = None,
) -> None:
    """Make a witness's folder: configuration, log key, enrolment request."""
    from connector.witnesses import init_witness

    vkey = init_witness(folder, participant, space, jurisdiction, origin, listen, http, address)
    say(f"witness {participant} made in {folder}")
    say(f"log verifier key: {vkey}")
    say(f"next: the space's operator answers {folder / 'enrolment.json'} (bayspace space enroll)")


@witnesses.command()
def rotate(folder: Annotated[Path, typer.Argument(help="the witness's folder")]) -> None:
    """Make new TLS and evidence keys and a request for them; the log's key is never replaced."""
    from connector import enrolment
    from connector.witnesses import witness_seat

    path = enrolment.rotate(witness_seat(folder))
    say(f"new keys made; the present ones stay in force. The operator answers {path} (bayspace space enroll)")
    say("then install the admission (bayspace space install) and restart the witness")


@witnesses.command()
def serve(folder: Annotated[Path, typer.Argument(help="the witness's folder")]) -> None:
    """Run the witness until it is interrupted."""
    import logging

    from compute.errors import ConfigError
    from connector.cli.connectors import ready, until_signalled
    from connector.witnesses import load_witness
    from witness.log import LogRefused
    from witness.server import WHAT_TO_DO, ConfigInvalid
    from witness.server import serve as run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        run(
            load_witness(folder),
            until_signalled(),
            lambda grpc, http: ready(f"ready grpc={grpc} http={http}"),
        )
    except ConfigInvalid as error:
        raise ConfigError("witness.config", str(error)) from error
    except LogRefused as error:
        raise ConfigError("witness.config", f"the log refuses to run: {error}. {WHAT_TO_DO}") from error


def _store(config: Path) -> Any:
    from contextlib import closing

    from connector.storage import Store

    return closing(Store.open(configuration(config).state_url))


def _trust(config: Path, authorities: Sequence[bytes] = ()) -> bytes:
    from connector.receipts import trust_file

    return trust_file(configuration(config), authorities)
