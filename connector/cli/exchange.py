"""`bayspace explain` and `query`: what crosses the border, through one's own connector."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from connector.cli.report import Config, configuration, console, note, say

Sql = Annotated[str, typer.Argument(help="the question; - reads it from standard input")]
Purpose = Annotated[str, typer.Option(help="the purpose you declare; it is bound into the evidence")]
TemplateName = Annotated[str, typer.Option("--template", help="a reviewed query instead of the text")]
Given = Annotated[list[str] | None, typer.Option("--with", help="name=value: a parameter of the template")]
ProtocolName = Annotated[
    str, typer.Option("--protocol", help="the protocol that is to answer, instead of the cheapest")
]
Format = Literal["table", "json", "csv", "markdown", "parquet"]


# --- questions ----------------------------------------------------------------------------------------


def explain(
    sql: Sql = "",
    config: Config = Path(),
    purpose: Purpose = "",
    template: TemplateName = "",
    given: Given = None,
    protocol: ProtocolName = "",
    format: Annotated[
        Format, typer.Option("--format", help="all but table and json: the verdict per column")
    ] = "table",
    out: Annotated[Path | None, typer.Option(help="write to this file")] = None,
    language: Annotated[Literal["en", "zh"] | None, typer.Option(help="of the sentences")] = None,
) -> None:
    """Show plan, verdict per column, who learns what, and cost, before anything runs."""
    from connector import connect
    from connector.cli.explained import written as explained

    with connect(configuration(config)) as space:
        asked = _asked(space, sql, template, given)
        explained(space.explain(asked, purpose, language, protocol=protocol), format, out)


def query(
    sql: Sql = "",
    config: Config = Path(),
    purpose: Purpose = "",
    template: TemplateName = "",
    given: Given = None,
    protocol: ProtocolName = "",
    format: Annotated[Format, typer.Option("--format", help="of the answer")] = "table",
    out: Annotated[Path | None, typer.Option(help="write the answer to this file")] = None,
    receipt: Annotated[Path | None, typer.Option(help="write the receipt to this file")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="ask anew what this connector has an answer to: it is charged")
    ] = False,
) -> None:
    """Ask, and print the answer. Ctrl-C cancels on both sides."""
    from compute.errors import ConfigError
    from connector import connect
    from connector.cli.answers import document, written

    if format == "parquet" and out is None:
        raise ConfigError("format.parquet", "Parquet is binary: name a file with --out")
    with connect(configuration(config)) as space, _progress() as watch:
        asked = _asked(space, sql, template, given)
        answer = space.query(asked, purpose, watch, again=again, protocol=protocol)
    written(answer.table, format, out, document(answer))
    if receipt is not None:
        if answer.receipt.bundle:
            answer.receipt.save(receipt)
        else:
            note("the receipt is not witnessed yet: export it later with `bayspace evidence export`")
    if format in ("table", "markdown") or out is not None:
        _summarise(answer, receipt)


_FEW = "fewer identities than the owner's policy demands"
_POOLED = "fewer identities, or fewer participants, than the owners' policies demand"
_SUPPRESSED = {
    "masked_sum": _POOLED,
    "he_sum": _POOLED,
    "logistic_steps": "fewer identities than the owners' policies, or a fit of so many columns, demand, "
    "in all or without the largest part (`bayspace explain` says how many)",
}


def _summarise(answer: Any, receipt: Path | None) -> None:
    told = note if not sys.stdout.isatty() else say
    if answer.summary["answered_at"]:
        told(
            f"answered before, {answer.summary['answered_at']}: this is that answer. Nothing was asked or "
            "charged; --again asks anew"
        )
    if answer.suppressed is None:
        told("the owner's policy hides how many cells were suppressed")
    elif answer.suppressed:
        told(f"{answer.suppressed} cell(s) suppressed: {_SUPPRESSED.get(answer.summary['protocol'], _FEW)}")
    told(
        f"protocol {answer.summary['protocol']} ({answer.summary['disclosure']}), "
        f"{_exchanges(answer.summary['exchanges'])}, trace {answer.trace_id}"
        + (f", receipt {receipt}" if receipt is not None and answer.receipt.bundle else "")
    )


def _exchanges(ids: Sequence[str]) -> str:
    """One, or the first of a federation's: `evidence list` shows all, and the receipt holds them."""
    return f"exchange {ids[0]}" + (f" and {len(ids) - 1} more" if len(ids) > 1 else "")


def _asked(space: Any, sql: str, template: str, given: list[str] | None) -> str:
    """The question: as it stands, or what a template is with these values."""
    from compute.errors import ConfigError

    if bool(sql) == bool(template) or (sql and given):
        raise ConfigError("query.text", "write the question, or name a --template and its values --with")
    if sql:
        return _text(sql)
    pairs = [pair.partition("=") for pair in given or ()]
    if not all(equals for _, equals, _ in pairs):
        raise ConfigError("template.parameter", "a value is written --with name=value")
    filled: str = space.filled(template, {name: value for name, _, value in pairs})
    return filled


def _text(sql: str) -> str:
    return sys.stdin.read() if sql == "-" else sql


@contextmanager
def _progress() -> Any:
    """A progress line on standard error while a person watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=None)

        def watch(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total or None)

        yield watch
