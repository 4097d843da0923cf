"""Answers as a table, JSON, CSV, Markdown or Parquet."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connector.cli.report import print_json

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

    from connector.api import Answer


def written(answer: Answer, kind: str, out: Path | None, console: Callable[[], Console]) -> None:
    """Print the answer, or write it to `out`."""
    if kind == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(answer.table, out)
    elif kind == "table" and out is None:
        console().print(as_table(answer.table))
    elif kind == "json" and out is None:
        print_json(document(answer))
    else:
        text = {"csv": _csv, "json": _json, "markdown": _markdown, "table": _markdown}[kind](answer)
        if out is None:
            sys.stdout.write(text)
        else:
            out.write_text(text, encoding="utf-8")


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
        return f"{value:,.4f}".rstrip("0").rstrip(".")
    return str(value)


def _json_value(value: Any) -> Any:
    return value if isinstance(value, int | float | bool | str | None) else str(value)


def _json(answer: Answer) -> str:
    import json

    return json.dumps(document(answer), ensure_ascii=False, indent=2) + "\n"


def _csv(answer: Answer) -> str:
    import csv

    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(answer.table.schema.names)
    writer.writerows([["" if v is None else v for v in row.values()] for row in answer.table.to_pylist()])
    return sink.getvalue()


def _markdown(answer: Answer) -> str:
    names = answer.table.schema.names
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in answer.table.to_pylist():
        cells = (plain(value).replace("|", "\\|").replace("\n", " ") for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
