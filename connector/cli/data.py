"""`bayspace dataset`, `catalog` and `policy`: what an owner publishes, and under which terms."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from connector.cli.report import USAGE, Config, Json, configuration, note, print_json, say, show

datasets = typer.Typer(no_args_is_help=True)
policies = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="the dataset's name")]
PolicyFile = Annotated[Path, typer.Argument(help="a policy, YAML or ODRL (.json)")]


# --- datasets -----------------------------------------------------------------------------------------


@datasets.command()
def add(
    name: Name,
    config: Config = Path(),
    source: Annotated[Path | None, typer.Option(help="file or folder; needed the first time")] = None,
    kind: Annotated[
        Literal["parquet", "csv", "arrow", "duckdb", "postgres"] | None,
        typer.Option(help="needed where the file's name does not say it"),
    ] = None,
    table: Annotated[str | None, typer.Option(help="DuckDB file or PostgreSQL: the table")] = None,
    uri_env: Annotated[
        str | None, typer.Option(help="PostgreSQL: environment variable that holds the URI")
    ] = None,
    uri_file: Annotated[str | None, typer.Option(help="PostgreSQL: private file that holds the URI")] = None,
) -> None:
    """Check a dataset against its description and publish its offers; drafts the description at first."""
    from compute.errors import ConfigError, Unavailable
    from connector import datasets as published
    from connector import offers
    from connector.storage import Store

    settings = configuration(config)
    given = {"kind": kind, "path": source and str(source.resolve()), "table": table}
    given |= {"uri_env": uri_env, "uri_file": uri_file}
    wanted = {key: value for key, value in given.items() if value}
    spec = published.source_for(source) if source is not None and kind is None else wanted or None
    store = Store.open(settings.state_url)
    try:
        added = published.add(settings, store, name, spec)
    finally:
        store.close()
    say(
        f"dataset {name} version {added.record.version}: {added.record.rows} rows, "
        f"commitment {added.record.commitment}"
    )
    for offer in added.offers:
        say(
            f"offer {settings.participant}.{offer.name} version {offer.version}, "
            f"policy {offer.policy_digest[:16]}…"
        )
    try:
        for exchange in offers.announce(settings):
            say(f"on record as exchange {exchange}")
    except (ConfigError, Unavailable) as error:  # published it is all the same
        note(f"not on record before the connector's next start: {error.sentence} [{error.code}]")
    if added.drafted:
        say(f"description drafted: declare keys, bounds and offers in {added.description}, then add it again")


@datasets.command("list")
def list_(config: Config = Path(), json: Json = False) -> None:
    """Datasets and the offers that stand over them."""
    from connector.storage import Store

    settings = configuration(config)
    store = Store.open(settings.state_url)
    try:
        offers = store.offers()
        rows = [
            {
                "dataset": d.name,
                "version": d.version,
                "rows": d.rows,
                "commitment": d.commitment if json else f"{d.commitment[:16]}…",
                "offers": [o.name for o in offers if o.dataset == d.name],
                "at": d.at,
            }
            for d in store.datasets()
        ]
    finally:
        store.close()
    show(rows, ["dataset", "version", "rows", "commitment", "offers", "at"], as_json=json)


@datasets.command("show")
def show_(name: Name, config: Config = Path()) -> None:
    """One dataset's catalogue entry, as JSON."""
    from compute.errors import ConfigError
    from connector.storage import Store

    settings = configuration(config)
    store = Store.open(settings.state_url)
    try:
        record = store.dataset(name)
    finally:
        store.close()
    if record is None:
        raise ConfigError("dataset.unknown", f"there is no dataset {name!r}")
    print_json({"version": record.version, "rows": record.rows, **jsonlib.loads(record.entry)})


# --- the catalogue ------------------------------------------------------------------------------------


def catalog(
    participant: Annotated[str, typer.Argument(help="a participant; all when left out")] = "",
    config: Config = Path(),
    json: Json = False,
) -> None:
    """What participants offer: columns, keys, grades, categories, sizes, rights, disclosure, federation."""
    from connector import connect

    settings = configuration(config)
    with connect(settings) as space:
        offers, unreachable = space.catalogue(participant)
    rows = [_offer_row(offer, settings.language) for offer in offers]
    if json:
        print_json([{**offer.entry, "offer": offer.full_name, "policy": offer.policy} for offer in offers])
    else:
        show(
            rows,
            ["offer", "title", "columns", "rows_at_most", "disclosure", "federation", "holder", "fresh"],
            as_json=False,
        )
    for missing in unreachable:
        note(f"{missing} does not answer")


def _federation(policy: dict[str, Any]) -> str:
    """What the dataset may be summed in, as SQL names it."""
    from policy_enforcer import odrl

    stated = odrl.from_odrl(policy).analysis.federation
    return "" if stated is None else f"federation.{stated.name}"


def _offer_row(offer: Any, language: str) -> dict[str, Any]:
    dataset, title = offer.entry["dataset"], offer.entry["title"]
    marks = [
        f"{c['name']}{' (key)' if c.get('key') is not None else ''}: {c['type']}"
        + (f", grade {c['grade']}" if c.get("grade") is not None else "")
        + (f", {c['category']}" if c.get("category") else "")
        for c in dataset["columns"]
    ]
    return {
        "offer": offer.full_name,
        "title": title.get(language) or title.get("en"),
        "columns": "\n".join(marks),
        "rows_at_most": dataset["rows_bound"],
        "disclosure": dataset["disclosure"],
        "federation": _federation(offer.policy),
        "holder": offer.entry["rights"]["holder"],
        "fresh": offer.entry.get("fresh"),
    }


# --- policies -----------------------------------------------------------------------------------------


@policies.command()
def lint(
    file: PolicyFile,
    dataset: Annotated[Path | None, typer.Option(help="the dataset's description, to check columns")] = None,
    json: Json = False,
) -> None:
    """Errors and warnings, each with its line and a suggestion."""
    from dataclasses import asdict

    from policy_enforcer import load

    columns = None if dataset is None else _described(dataset)
    categories = {name: column.category for name, column in (columns or {}).items()}
    grades = {name: column.grade for name, column in (columns or {}).items()}
    problems = load.lint(_read(file), columns, categories, grades)
    if json:
        print_json([asdict(problem) for problem in problems])
    else:
        for problem in problems:
            say(f"{file}:{problem}")
        if not problems:
            say(f"{file}: nothing to say")
    if any(not problem.warning for problem in problems):
        raise typer.Exit(USAGE)


@policies.command()
def test(
    file: PolicyFile,
    cases: Annotated[
        Path | None, typer.Option(help="expected verdicts; default: NAME.tests.yaml beside the policy")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="the dataset's description; examples in SQL need it")
    ] = None,
    peer: Annotated[
        str | None,
        typer.Option(help="participant.name=DESCRIPTION of the asker's own data, for joins in examples"),
    ] = None,
    json: Json = False,
) -> None:
    """Decide the example queries kept beside the policy and compare with the verdicts expected."""
    from connector.policy_examples import outcomes

    policy = _policy(file)
    beside = cases or file.with_name(f"{file.stem}.tests.yaml")
    found = outcomes(policy, _read(beside), str(beside), dataset, peer, file.parent)
    rows = [
        {
            "example": o.name,
            "passed": o.passed,
            "expected": sorted(o.expected) or ["permit"],
            "decided": sorted(o.actual) or ["permit"],
        }
        for o in found
    ]
    show(rows, ["passed", "example", "expected", "decided"], as_json=json)
    if not all(outcome.passed for outcome in found):
        raise typer.Exit(USAGE)


@policies.command()
def matrix(
    file: PolicyFile,
    dataset: Annotated[
        Path | None, typer.Option(help="the dataset's description, for columns and grades")
    ] = None,
    json: Json = False,
) -> None:
    """Party by column by what it may do."""
    from dataclasses import asdict

    from connector import references, transfer_lists
    from policy_enforcer.describe import matrix as matrix_of

    policy = _policy(file)
    described = {} if dataset is None else _described(dataset)
    columns = described or dict.fromkeys(_columns_of(policy))
    grades = {name: c and c.grade for name, c in columns.items()}
    categories = {name: c and c.category for name, c in columns.items()}
    lists = transfer_lists.unverified(policy, references.read(file.parent, policy))
    rows = [asdict(row) for row in matrix_of(policy, grades, categories, lists)]
    shown = [
        "parties",
        "column",
        "known",
        "grade",
        "category",
        "joined",
        "grouped",
        "filtered",
        "measured",
        "listed",
        "weighted",
        "mask",
    ]
    show(rows, shown, as_json=json)


@policies.command()
def describe(
    file: PolicyFile,
    dataset: Annotated[Path | None, typer.Option(help="the dataset's description, for all columns")] = None,
    language: Annotated[Literal["en", "zh"], typer.Option(help="of the sentences")] = "en",
    json: Json = False,
) -> None:
    """The policy in sentences: who may ask what, what is kept back, what it opens, what only people keep."""
    from policy_enforcer.prose import described

    policy = _policy(file)
    # without the description no grade is known, and the sentence about the highest one has to do
    grades = dict.fromkeys(_columns_of(policy), 0)
    if dataset is not None:
        grades = {name: column.grade for name, column in _described(dataset).items()}
    found = described(policy, grades, language)
    if json:
        print_json([{"heading": heading, "sentences": sentences} for heading, sentences in found])
        return
    for heading, sentences in found:
        say("\n".join((heading, *(f"  - {sentence}" for sentence in sentences))))


@policies.command()
def diff(
    old: Annotated[Path, typer.Argument()], new: Annotated[Path, typer.Argument()], json: Json = False
) -> None:
    """What a new version allows, forbids, or changes otherwise."""
    from dataclasses import asdict

    from policy_enforcer.diff import diff as difference

    found = difference(_policy(old), _policy(new))
    if json:
        print_json(asdict(found))
        return
    for word, sentences in (
        ("allowed", found.allowed),
        ("forbidden", found.forbidden),
        ("other", found.other),
    ):
        for sentence in sentences:
            say(f"{word}: {sentence}")
    if found.empty:
        say("both versions say the same")


@policies.command()
def convert(
    file: PolicyFile, out: Annotated[Path | None, typer.Option(help="write to this file")] = None
) -> None:
    """YAML to ODRL, or ODRL (.json) to YAML; nothing is lost."""
    from policy_enforcer import odrl, write

    policy = _policy(file)
    if file.suffix == ".json":
        text = write.to_yaml(policy)
    else:
        text = jsonlib.dumps(odrl.to_odrl(policy), ensure_ascii=False, indent=2) + "\n"
    if out is None:
        say(text.rstrip("\n"))
    else:
        out.write_text(text, encoding="utf-8")


@policies.command()
def schema(out: Annotated[Path | None, typer.Option(help="write to this file")] = None) -> None:
    """The JSON Schema of the YAML form: editors complete and check policies with it."""
    from policy_enforcer.model import json_schema

    text = jsonlib.dumps(json_schema(), ensure_ascii=False, indent=2)
    if out is None:
        say(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")


def _described(description: Path) -> Any:
    from connector.datasets import load

    return load(description).columns


def _columns_of(policy: Any) -> list[str]:
    analysis = policy.analysis
    named = [*analysis.dimensions, *analysis.filters, *analysis.measures, *analysis.payload]
    named += analysis.join.columns if analysis.join else ()
    return sorted({column for column in named if column != "*"})


def _policy(file: Path) -> Any:
    from policy_enforcer import load, odrl

    text = _read(file)
    return odrl.from_odrl(jsonlib.loads(text)) if file.suffix == ".json" else load.load(text, str(file))


def _read(file: Path) -> str:
    from compute.errors import ConfigError

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("file.unreadable", f"{file} cannot be read") from error
