"""Examples beside a policy, decided: facts as they stand, and SQL by way of the plan it would have.

An example in SQL goes through the same parser, planner and facts as a real query, against the dataset's
description alone; no data is read. A question that cannot be planned is decided with its own code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from compute import pooling
from compute import sql as sqltext
from compute.dataset import DatasetInfo
from compute.errors import ConfigError, QueryError
from compute.facts import Prepared
from compute.planner import prepare
from compute.pooling import Part
from compute.templates import matching
from connector import datasets, references, transfer_lists
from policy_enforcer.examples import Example, Outcome, case, parse_examples, run_examples
from policy_enforcer.model import Policy
from policy_enforcer.obligations import obligations


def outcomes(
    policy: Policy, text: str, source: str, dataset: Path | None, peer: str | None, folder: Path = Path()
) -> tuple[Outcome, ...]:
    """Every example of a test file, decided.

    dataset: the description of the policy's dataset; peer: `participant.name=DESCRIPTION` of what is joined;
    folder: where the documents are that the policy names.
    """
    catalogue = _catalogue(policy, dataset, peer)
    documents = references.read(folder, policy) if policy.transfer or policy.analysis.templates else {}
    lists = transfer_lists.unverified(policy, documents)
    found: list[Outcome] = []
    for example in parse_examples(text, source):
        if example.sql is None:
            found += run_examples(policy, [case(policy, example, lists)])
        else:
            found.append(_planned(policy, example, catalogue, documents))
    return tuple(found)


def _planned(
    policy: Policy, example: Example, catalogue: dict[str, DatasetInfo], documents: Mapping[str, str]
) -> Outcome:
    if policy.dataset not in catalogue:
        raise ConfigError(
            "examples.dataset",
            f"the example {example.name!r} is SQL: name the dataset's description (--dataset)",
        )
    # everything but the query itself is as the policy wants it, exactly as for examples in facts
    lists = transfer_lists.unverified(policy, documents)
    name, facts, ledger, expected = case(policy, _without_sql(example), lists)
    try:
        prepared = _prepared(policy, example, catalogue, facts.asker)
    except QueryError as error:
        return Outcome(name, expected, frozenset({error.code}))
    request = prepared.requests(
        recipients=facts.recipients,
        purpose=facts.purpose,
        at=facts.at,
        witnesses=facts.witnesses,
        processing=facts.processing,
        receiving=facts.receiving,
        query_template=matching(references.templates_of(policy, documents), example.sql or "", facts.asker),
        part=policy.dataset if example.beside else None,
    )[policy.dataset]
    request = replace(
        request,
        asker=facts.asker,
        standing=facts.standing,
        connectors=facts.connectors,
        categories={**request.categories, **example.categories},
        origin=facts.origin,
        lists=lists,
    )
    return run_examples(policy, [(name, request, ledger, expected)])[0]


def _prepared(policy: Policy, example: Example, catalogue: Mapping[str, DatasetInfo], asker: str) -> Prepared:
    """The plan of an example's SQL; over a federation, with equal datasets of those who stand beside."""
    sql, demands = example.sql or "", obligations(policy)
    if not example.beside:
        return prepare(sql, asker, catalogue, demands={policy.dataset: demands})
    own = catalogue[policy.dataset]
    parts = sorted(f"{who}.{own.name}" for who in {policy.owner, *example.beside})
    name = sqltext.parse(sql).sources[0].dataset.casefold()
    whole = pooling.pooled(name, own, [Part(part, own.rows_bound) for part in parts])
    return prepare(
        sql,
        asker,
        {whole.full_name: whole},
        demands={whole.full_name: demands},
        parts=[Part(part, own.rows_bound) for part in parts],
    )


def _without_sql(example: Example) -> Example:
    """The example without its SQL: what else it says about asker, time and ledger."""
    return example.model_copy(update={"sql": None})


def _catalogue(policy: Policy, dataset: Path | None, peer: str | None) -> dict[str, DatasetInfo]:
    catalogue = {}
    if dataset is not None:
        catalogue[policy.dataset] = datasets.planned(datasets.load(dataset), policy.dataset, policy)
    if peer is not None:
        name, equals, path = peer.partition("=")
        if not equals or "." not in name:
            raise ConfigError("examples.peer", "--peer is written participant.name=DESCRIPTION")
        catalogue[name] = datasets.planned(datasets.load(Path(path)), name, None)
    return catalogue
