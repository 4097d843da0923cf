"""Examples kept beside a policy (`<name>.tests.yaml`) and what they expect of it.

    tests:
      - name: turnover per industry
        kind: aggregate
        level: cardinality
        join: [company_id]
        group: [industry]
        measure: {amount: sum, "*": count}
        expect: permit
      - name: no grouping by company
        group: [company_id]
        expect: [identity.grouped]

What an example does not say is taken to be as the policy wants it: the first assignee asks for the first
purpose, from an allowed place, in time, with a protocol that can gate. So an example speaks of one thing.
An example with `sql` instead of facts is for the connector, which derives the facts from the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationError

from policy_enforcer.codes import REASONS
from policy_enforcer.decide import decide
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party
from policy_enforcer.explained import explained
from policy_enforcer.facts import ColumnUse, FederationUse, LedgerView, ProtocolUse, Request, TransferList
from policy_enforcer.model import ANY, Closed, ColumnName, Moment, Policy, Text
from policy_enforcer.moments import first_instant
from policy_enforcer.obligations import obligations
from policy_enforcer.problems import PolicyError, Problem
from policy_enforcer.references import name_of
from policy_enforcer.transfer_lists import alike, named_lists
from policy_enforcer.yamltree import parse

_NO_LISTS: Mapping[str, TransferList] = MappingProxyType({})


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _permit(value: object) -> object:
    return [] if value == "permit" else value


def _known_codes(codes: tuple[str, ...]) -> tuple[str, ...]:
    if not set(codes) <= set(REASONS):
        raise ValueError("`expect` is permit, or a list of reason codes from docs/reference/policy.md")
    return codes


Words = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Count = Annotated[int, Strict(), Field(ge=0)]
Uses = Mapping[ColumnName, Words]


class Example(Closed):
    """One example. `expect` is empty for a query that is to be permitted."""

    name: Text
    expect: Annotated[tuple[str, ...], BeforeValidator(_permit), AfterValidator(_known_codes)]
    sql: Text | None = None
    asker: str | None = None
    recipients: Words | None = None
    purpose: str | None = None
    at: Moment | None = None
    kind: Literal["aggregate", "list"] = "aggregate"
    level: Literal["hidden", "cardinality", "receiver", "rows"] | None = None
    join: Words = ()
    join_operators: Words = ()
    group: Words = ()
    filter: Uses = Field(default={})
    measure: Uses = Field(default={})
    list: Words = ()
    functions: Uses = Field(default={})
    weighted: Words = ()
    conditional: Words = ()
    selecting: Words = ()
    processing: Words | None = None
    receiving: Words | None = None
    grades: Mapping[ColumnName, Count] = Field(default={})
    categories: Mapping[ColumnName, str] = Field(default={})
    standing: Mapping[str, Words] = Field(default={})
    connectors: Mapping[str, Words] = Field(default={})
    peer_keys: Count | None = None
    beside: Words = ()
    template: str | None = None
    witnesses: Count | None = None
    uses: Count = 0
    running: Count = 0


class _File(Closed):
    tests: Annotated[tuple[Example, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one example expected and what the policy decided."""

    name: str
    expected: frozenset[str]
    actual: frozenset[str]

    @property
    def passed(self) -> bool:
        """True when exactly the expected reasons came, none for a permission."""
        return self.expected == self.actual


def parse_examples(text: str, source: str = "tests") -> tuple[Example, ...]:
    """Read a test file; `PolicyError` lists everything that is wrong with it, with lines."""
    tree = parse(text)
    if tree.problems:
        raise PolicyError(source, tree.problems)
    try:
        return _File.model_validate(tree.data).tests
    except ValidationError as error:
        raise PolicyError(source, explained(error, tree, _File)) from None


def run_examples(
    policy: Policy, examples: Sequence[tuple[str, Request, LedgerView, frozenset[str]]]
) -> tuple[Outcome, ...]:
    """Decide every (name, request, ledger, expected codes)."""
    return tuple(
        Outcome(name, expected, frozenset(reason.code for reason in decide(policy, request, ledger).because))
        for name, request, ledger, expected in examples
    )


def case(
    policy: Policy, example: Example, lists: Mapping[str, TransferList] = _NO_LISTS
) -> tuple[str, Request, LedgerView, frozenset[str]]:
    """The facts of an example, as `run_examples` takes them. `PolicyError` when it holds `sql` instead.

    lists: those that the policy names, by reference.
    """
    if example.sql is not None:
        sentence = f"the example {example.name!r} holds SQL, whose facts only a plan has"
        raise PolicyError("tests", [Problem("examples.sql", sentence)])
    at = _instant(policy, example.at, lists)
    ledger = LedgerView(example.uses, example.running, agreed=at)
    return example.name, _request(policy, example, at, lists), ledger, frozenset(example.expect)


def _instant(policy: Policy, given: str | None, lists: Mapping[str, TransferList]) -> datetime:
    """When policy and lists have begun, unless the example says another time."""
    if given:
        return first_instant(given)
    starts = [policy.when.start] if policy.when and policy.when.start else []
    begun = [first_instant(start) for start in (*starts, *(found.start for found in lists.values()))]
    return max(begun, default=datetime(2000, 1, 1, tzinfo=UTC))


def _request(policy: Policy, example: Example, at: datetime, lists: Mapping[str, TransferList]) -> Request:
    asker = example.asker or next(iter(policy.assignee))
    joint, columns = bool(example.join), _columns(example)
    identity = policy.analysis.identity
    reached = sorted({place for one in lists.values() for place in one.recipients or {one.jurisdiction}})
    countable = identity is not None and (not joint or identity in example.join)
    return Request(
        dataset=policy.dataset,
        owner=policy.owner,
        asker=asker,
        recipients=frozenset(example.recipients or (asker,)),
        purpose=example.purpose or (None if policy.purpose == ANY else policy.purpose[0]),
        at=at,
        kind=example.kind,
        columns=columns,
        protocol=_protocol(policy, example, asker),
        joint=joint,
        asker_data=joint,
        join_operators=frozenset(example.join_operators),
        identity_columns=(identity,) if identity and countable else (),
        peer_keys=1 if example.peer_keys is None else example.peer_keys,
        query_template=_template(policy, example),
        witnesses=obligations(policy).witnesses if example.witnesses is None else example.witnesses,
        standing=_standing(policy, example, {asker, *(example.recipients or ())}),
        connectors=_connectors(policy, example),
        processing=_places(example.processing, (policy.where and policy.where.processing) or reached),
        receiving=_places(example.receiving, (policy.where and policy.where.recipients) or reached),
        rows_at_most=1,
        bytes_at_most=1,
        grades={**{use.column: 0 for use in columns}, **example.grades},
        categories={**{use.column: _permitted(policy, lists) for use in columns}, **example.categories},
        origin=next((found.jurisdiction for found in lists.values()), ""),
        lists=lists,
        federation=_federation(policy, example),
    )


def _standing(policy: Policy, example: Example, who: set[str]) -> dict[str, frozenset[str]]:
    """What the example says is certified; of others the security level that the policy demands."""
    level = policy.conditions.security_level if policy.conditions else None
    demanded = frozenset({f"claim:security-level-{level}"}) if level else frozenset[str]()
    said = {one: frozenset(words) for one, words in example.standing.items()}
    return {**dict.fromkeys(who, demanded), **said}


def _connectors(policy: Policy, example: Example) -> dict[str, frozenset[str]]:
    """The keys of connectors that the policy names, and of those that the example says have others."""
    named = (policy.conditions.connectors or ()) if policy.conditions else ()
    found = {who: frozenset({key}) for who, _, key in (entry.partition("@") for entry in named)}
    return {**found, **{who: frozenset(keys) for who, keys in example.connectors.items()}}


def _federation(policy: Policy, example: Example) -> FederationUse | None:
    """The policy's federation with the participants that an example says stand beside."""
    if not example.beside:
        return None
    named = policy.analysis.federation
    return FederationUse(
        named.name if named is not None else "", 1 + len(example.beside), frozenset(example.beside)
    )


def _permitted(policy: Policy, lists: Mapping[str, TransferList]) -> str:
    """A category that the policy's lists let through, if there is one."""
    said = {word: lists[name].categories for word, name in named_lists(policy).items() if name in lists}
    forbidden = {alike(category) for category in said.get("negative_list", ())}
    allowed = (category for category in said.get("whitelist", ()) if alike(category) not in forbidden)
    return min(allowed, default="of no list")


def _template(policy: Policy, example: Example) -> str | None:
    """The policy's first template; of one that an example names, the reference that the policy has."""
    reviewed = policy.analysis.templates
    if example.template is None:
        return next(iter(reviewed), None)
    return next((one for one in reviewed if name_of(one) == example.template), None)


def _places(given: Sequence[str] | None, allowed: Sequence[str] | None) -> frozenset[str]:
    return frozenset(allowed or () if given is None else given)


def _protocol(policy: Policy, example: Example, asker: str) -> ProtocolUse:
    level = Level.parse(example.level) if example.level else _planned_level(policy, example, asker)
    fact = Fact.MATCHED_ROWS if level == Level.ROWS else Fact.RELEASED_CELLS
    reveals = [Disclosure(Party.RECEIVER, fact, gated=True)]
    if level == Level.RECEIVER:
        reveals.append(Disclosure(Party.RECEIVER, Fact.OWN_MATCHES))
    return ProtocolUse("example", 1, level, tuple(reveals), _gates(example))


def _planned_level(policy: Policy, example: Example, asker: str) -> Level:
    """What a join may disclose; to an aggregate's asker who must not learn what matches, less."""
    join = policy.analysis.join
    if join is None or not example.join:
        return Level.HIDDEN
    hidden = obligations(policy).hides_matches_from(asker) and example.kind == "aggregate"
    return min(Level.parse(join.disclosure), Level.CARDINALITY if hidden else Level.ROWS)


def _gates(example: Example) -> frozenset[str]:
    """Those of single-domain, joint and federated protocols."""
    fitted = example.beside and any("logistic" in named for named in example.measure.values())
    beside = {"minimum-participants"} if example.beside else set[str]()
    shared = set[str]() if example.join or fitted else {"dominance"}
    guarded = {"differencing"} if example.kind == "aggregate" and not example.beside else set[str]()
    return frozenset({"minimum-identities", "noise", *beside, *shared, *guarded})


def _columns(example: Example) -> tuple[ColumnUse, ...]:
    named = (example.join, example.group, example.filter, example.measure, example.list)
    others = (example.functions, example.weighted, example.conditional, example.selecting)
    names = dict.fromkeys(name for group in (*named, *others) for name in group)
    return tuple(_use(example, name) for name in names)


def _use(example: Example, name: str) -> ColumnUse:
    kinds = frozenset(example.filter.get(name, ()))
    return ColumnUse(
        column=name,
        filtered=kinds - {"column"},
        compared_with_literal=bool(kinds - {"column", "null"}),
        compared_with_column="column" in kinds,
        joined=name in example.join,
        grouped=name in example.group,
        listed=name in example.list,
        aggregated=frozenset(example.measure.get(name, ())),
        conditional=name in example.conditional,
        selecting=name in example.selecting,
        functions=frozenset(example.functions.get(name, ())),
        weighted=name in example.weighted,
    )
