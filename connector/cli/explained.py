"""An explanation as a person reads it: verdict first, then who learns what, then the plan and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from connector.cli import answers
from connector.cli.report import console

if TYPE_CHECKING:
    from rich.console import Console


def written(found: Mapping[str, Any], kind: str, out: Path | None) -> None:
    """Print an explanation whole (table, json), or its verdict per column (csv, markdown, parquet)."""
    if kind == "table" and out is None:
        render(console(), found)
        return
    verdicts = [
        {
            "dataset": row["dataset"],
            "column": row["column"],
            "used": ", ".join(row["uses"]),
            "mask": row["mask"],
            "known": _known(row),
            "verdict": row["verdict"],
            "reasons": ", ".join(reason["code"] for reason in row["reasons"]),
        }
        for row in found["columns"]
    ]
    answers.written(pa.Table.from_pylist(verdicts), kind, out, found)


def render(console: Console, found: Mapping[str, Any]) -> None:
    """Print an explanation (`Space.explain`)."""
    from rich.table import Table

    protocol = found["protocol"]
    permitted = found["verdict"] == "permit"
    console.print(f"[bold {'green' if permitted else 'red'}]{found['verdict'].upper()}[/]")
    for reason in found["reasons"]:
        place = f" ({reason['column']})" if reason["column"] else ""
        allowed = f"; allowed: {reason['allowed']}" if reason["allowed"] else ""
        console.print(
            f"  {reason['code']}{place}: {reason['sentence']} — {reason['rule']}{allowed}", markup=False
        )
    console.print(
        f"protocol {protocol['name']}, disclosure level {protocol['disclosure']}; {protocol['threat_model']}"
    )
    console.print("[bold]who learns what[/]")
    for event in found["learns"]:
        console.print(f"  - {event['sentence']}", markup=False)
    columns = Table(
        "dataset", "column", "used", "becomes known", "verdict", title="columns", title_justify="left"
    )
    for row in found["columns"]:
        why = "; ".join(reason["code"] for reason in row["reasons"])
        used = [*row["uses"], *([f"masked ({row['mask']})"] if row["mask"] else [])]
        columns.add_row(row["dataset"], row["column"], ", ".join(used), _known(row), why or row["verdict"])
    console.print(columns)
    plan = Table(
        "dataset",
        "rows at most",
        "keys padded to",
        "groups by, or lists",
        "measures",
        title="plan",
        title_justify="left",
    )
    for side in found["plan"]:
        rows, keys = f"{side['rows_at_most']:,}", f"{side['keys_padded_to']:,}" if side["keys"] else "–"
        plan.add_row(
            side["dataset"],
            rows,
            keys,
            ", ".join(side["groups_by"] or side["lists"]),
            str(len(side["measures"])),
        )
    console.print(plan)
    if "federation" in found:
        _federation(console, found["federation"])
    _noise(console, found["noise"])
    _cost(console, found)
    _transfer(console, found["transfer"])
    _declared(console, found["declared"])
    witnesses = ", ".join(found["evidence"]["witnesses"]) or "none"
    console.print(f"evidence: {found['evidence']['demanded']} witness(es) demanded, configured: {witnesses}")


def _cost(console: Console, found: Mapping[str, Any]) -> None:
    """What asking takes of time, network and budgets; nothing where the answer is here already."""
    cost, uses = found["cost"], found["budget"]["uses"]
    limit = (
        f" of {uses['limit']} per {uses['per']}; {uses['left_after']} left after this"
        if uses["limit"]
        else ""
    )
    console.print(
        f"costs about {cost['seconds']} s and {cost['bytes']:,} bytes; 1 use ({uses['used']} used{limit})"
    )
    for what in ("rows", "bytes"):
        if what in found["budget"]:
            size = found["budget"][what]
            console.print(f"counts as {size['costs']:,} {what} of {size['limit']:,} per {size['per']}")
    if "privacy" in found["budget"]:
        privacy = found["budget"]["privacy"]
        if privacy["answered_before"]:
            console.print("answered before: the same answer is given again, with the same noise")
        console.print(
            f"privacy loss: rho {privacy['costs_rho']} ({privacy['mechanism']}); "
            f"{privacy['left_after_rho']} of {privacy['limit_rho']} per {privacy['per']} left after this; "
            f"our queries of this dataset have cost {privacy['dataset_lifetime_rho']} in all"
        )
    if found["answered_at"]:
        console.print(f"answered before, {found['answered_at']}: `query` shows that answer and asks nobody")


def _noise(console: Console, found: Mapping[str, Any]) -> None:
    """How large it is, so that a reader knows what a figure is worth."""
    sizes = [f"{name} {', '.join(f'{size:,.6g}' for size in every)}" for name, every in found.items()]
    if sizes:
        console.print(f"noise of the totals behind a column, one deviation: {'; '.join(sizes)}", markup=False)


def _known(row: Mapping[str, Any]) -> str:
    """To whom a column becomes known, and in which ways; nothing for the asker's own."""
    return "; ".join(f"{who}: {', '.join(ways)}" for who, ways in row["known"].items())


def _transfer(console: Console, stated: Mapping[str, Any], whose: str = "") -> None:
    """Basis and filing as declared; what lists and consent do; nothing where the policy says nothing."""
    for word in ("basis", "filing"):
        if word in stated:
            console.print(f"{whose}transfer {word}: {stated[word]} (declared by the owner)", markup=False)
    for word in ("whitelist", "negative_list", "low_risk"):
        if word in stated:
            one = stated[word]
            when = f"from {one['from']}" + (f" until {one['until']}" if "until" in one else "")
            line = f"{whose}{word}: {one['id']} of {one['issuer']}, {when}: {one['title']}"
            console.print(line, markup=False)
    if "consent" in stated:
        line = f"{whose}consent: only rows of identities in the owner's set {stated['consent']}"
        console.print(line, markup=False)


def _declared(console: Console, stated: Mapping[str, str], whose: str = "") -> None:
    """What the owner states and no software enforces; basis and filing stand with the transfer."""
    for place, text in stated.items():
        if not place.startswith("transfer."):
            console.print(f"{whose}{place}: {text} (declared: not enforced by software)", markup=False)


def _federation(console: Console, found: Mapping[str, Any]) -> None:
    """Whose rows are summed, what colluding participants would learn, and what was chosen."""
    from rich.table import Table

    parts = Table("participant", "dataset", "verdict", title="federation", title_justify="left")
    protected: dict[str, list[str]] = {}
    for part in found["participants"]:
        parts.add_row(part["participant"], part["dataset"], part["verdict"])
        protected.setdefault(part["protection"], []).append(part["participant"])
    console.print(parts)
    for protection, names in protected.items():
        console.print(f"  {', '.join(names)}: {protection}", markup=False)
    for part in found["participants"]:
        _transfer(console, part["transfer"], f"{part['participant']}: ")
        _declared(console, part["declared"], f"{part['participant']}: ")
    if found["own"] is not None:
        console.print(found["own"]["sentence"], markup=False)
    console.print("[bold]who learns what by working together[/]")
    for coalition in found["coalitions"]:
        console.print(f"  - {coalition['who']}: {coalition['learns']}", markup=False)
    console.print(found["assumes"], markup=False)
    console.print(found["why"], markup=False)
    for protocol in found["protocols"]:
        if "refused" in protocol:
            why = f"{protocol['because']} ({protocol['refused']})"
            console.print(f"  {protocol['name']}: not possible: {why}", markup=False)
            continue
        chosen = "chosen, as the cheapest" if protocol["chosen"] else "possible"
        console.print(
            f"  {protocol['name']}: {chosen}; about {protocol['seconds']} s and {protocol['bytes']:,} bytes",
            markup=False,
        )
