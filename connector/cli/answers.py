"""Answers as a table, JSON, CSV, Markdown or Parquet."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from compute.errors import ConfigError
from connector.cli.report import console

if TYPE_CHECKING:
    from connector.api import Answer


def written(table: pa.Table, kind: str, out: Path | None, as_json: Any) -> None:
    """Print a table as `kind`, or write it to `out`; `as_json` is what stands for it in JSON."""
    if kind == "parquet":
        _parquet(table, out)
    elif kind == "table" and out is None:
        console().print(as_table(table))
    else:
        text = (
            json.dumps(as_json, ensure_ascii=False, indent=2) + "\n"
            if kind == "json"
            else _TEXTS[kind](table)
        )
        emit(text, out)


def emit(text: str, out: Path | None) -> None:
    """Print a text, or write it to `out`."""
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")


def _parquet(table: pa.Table, out: Path | None) -> None:
    import pyarrow.parquet as pq

    if out is None:
        raise ConfigError("format.parquet", "Parquet is binary: name a file with --out")
    pq.write_table(table, out)


def document(answer: Answer) -> dict[str, Any]:
    """The answer as one JSON document: columns, rows, what was suppressed, where the evidence is."""
    return {
        "columns": [{"name": f.name, "type": str(f.type)} for f in answer.table.schema],
        "rows": [[_json_value(v) for v in row.values()] for row in answer.table.to_pylist()],
        "cells_suppressed": answer.suppressed,
        "trace_id": answer.trace_id,
        **answer.summary,
    }


def as_table(table: pa.Table) -> Any:
    """A rich table; numbers to the right."""
    import pyarrow.types as types
    from rich.table import Table

    drawn = Table()
    for field in table.schema:
        numeric = (
            types.is_integer(field.type) or types.is_decimal(field.type) or types.is_floating(field.type)
        )
        drawn.add_column(field.name, justify="right" if numeric else "left", overflow="fold")
    for row in table.to_pylist():
        drawn.add_row(*(plain(value) for value in row.values()))
    return drawn


def plain(value: Any) -> str:
    """A value for people; NULL is shown as such."""
    if value is None:
        return "NULL"
    if isinstance(value, float):
        if 0 < abs(value) < 0.01:  # a coefficient per cent of a large amount, say: four decimals show 0
            return f"{value:.4g}"
        return f"{value:,.4f}".rstrip("0").rstrip(".")
    return str(value)


def _json_value(value: Any) -> Any:
    return value if isinstance(value, int | float | bool | str | None) else str(value)


def _csv(table: pa.Table) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(table.schema.names)
    writer.writerows([["" if v is None else v for v in row.values()] for row in table.to_pylist()])
    return sink.getvalue()


def _markdown(table: pa.Table) -> str:
    names = table.schema.names
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in table.to_pylist():
        cells = (plain(value).replace("|", "\\|").replace("\n", " ") for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


_TEXTS: dict[str, Callable[[pa.Table], str]] = {"csv": _csv, "markdown": _markdown, "table": _markdown}
