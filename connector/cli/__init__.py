"""The `bayspace` command: forms and exit codes are fixed, others script against them.

Exit codes: 0 done, 2 usage or configuration, 3 refused by policy, 4 data error, 5 peer violation, 6 peer or
witness unavailable, 7 verification failed. With `--format json` standard output holds one JSON document and
nothing else, also when the command fails.
"""

from __future__ import annotations

import sys

import typer

from connector.cli import agreements, connectors, contracts, data, document, evidence, exchange, lists, spaces
from connector.cli.report import failing

app = typer.Typer(
    name="bayspace",
    help="A privacy-preserving runtime for trusted data spaces: rows stay, questions cross.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(spaces.app, name="space", help="The data space's operator: CA, evidence keys, member list.")
app.add_typer(connectors.app, name="connector", help="Set up, run and check a connector.")
app.add_typer(data.datasets, name="dataset", help="Publish data under a policy.")
app.add_typer(data.policies, name="policy", help="Check, test, compare and convert policies.")
app.add_typer(contracts.contracts, name="contract", help="Terms: request, counter, approve, suspend, end.")
app.add_typer(agreements.agreements, name="agreement", help="What is in force, who signed it, what it used.")
app.add_typer(agreements.templates, name="template", help="Reviewed queries with parameters.")
app.add_typer(lists.app, name="list", help="Signed lists of the law that policies name by digest.")
app.add_typer(evidence.witnesses, name="witness", help="Set up and run a witness service.")
app.add_typer(evidence.app, name="evidence", help="Receipts: list, export, trace, verify.")
app.add_typer(document.app, name="document", help="Documents that people carry: commit, open, verify.")
app.command()(data.catalog)
app.command()(exchange.explain)
app.command()(exchange.query)
app.command()(connectors.demo)


def main() -> None:
    """Run one command; every error of ours becomes a sentence and its exit code."""
    with failing():
        app(prog_name="bayspace")
    sys.exit(0)
