"""The exchanged form of a policy: a closed ODRL 2.2 profile in JSON-LD, and the digest that is signed.

Real ODRL terms are used where they mean the same (purpose, spatial, dateTime, elapsedTime, count, delete,
inform, compensate, distribute); everything else carries our own prefix `bay:`. Analysis words are
*refinements* of the action `bay:analyse`, limits are *constraints* of the permission. Source: ODRL
Information Model 2.2 (W3C Recommendation, 15 February 2018).

`from_odrl` accepts only a document that `to_odrl` writes, byte for byte in RFC 8785 form: an unknown
operand, operator, action or key is refused, never dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import rfc8785
from pydantic import ValidationError

from policy_enforcer import check
from policy_enforcer.model import Policy, plain
from policy_enforcer.problems import PolicyError, Problem, dotted

PROFILE = "urn:bayspace:policy:v1"
CONTEXT: tuple[str | Mapping[str, str], ...] = (
    "http://www.w3.org/ns/odrl.jsonld",
    MappingProxyType({"bay": PROFILE + ":", "xsd": "http://www.w3.org/2001/XMLSchema#"}),
)
"""What gives the terms their meaning. Never fetched: documents carry exactly this or are refused."""

Path = tuple[str, ...]
Document = dict[str, Any]

_EXACT = 2**53 - 1


@dataclass(frozen=True, slots=True)
class _Term:
    """One word of the language as an ODRL constraint."""

    path: Path
    left: str
    operator: str
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _literal(kind: str, value: str) -> Document:
    return {"@type": kind, "@value": value}


def _lexical(value: Any) -> Any:
    return value["@value"]  # text; anything else shows when it is written again


def _write_whole(value: int) -> Any:
    # RFC 8785 numbers are doubles: beyond 2**53 only text is exact
    return value if abs(value) <= _EXACT else _literal("xsd:integer", str(value))


def _read_whole(value: Any) -> int:
    return value if isinstance(value, int) else int(_lexical(value))


def _write_moment(value: str) -> Document:
    return _literal("xsd:dateTime" if "T" in value else "xsd:date", value)


def _write_number(value: Decimal) -> Document:
    return _literal("xsd:decimal", plain(value))


def _write_domain(values: Any) -> list[Any]:
    return [_write_whole(v) if isinstance(v, int) else v for v in values]  # a boolean is itself


def _read_domain(values: Any) -> list[Any]:
    return [v if isinstance(v, str) else _read_whole(v) for v in values]


def _same(value: Any) -> Any:
    return value


def _words(path: str, left: str) -> _Term:
    return _Term(tuple(path.split(".")), left, "isAnyOf", list, list)


def _word(path: str, left: str, operator: str = "eq") -> _Term:
    return _Term(tuple(path.split(".")), left, operator, _same, _same)


def _whole(path: str, left: str, operator: str = "lteq") -> _Term:
    return _Term(tuple(path.split(".")), left, operator, _write_whole, _read_whole)


def _number(path: str, left: str, operator: str = "lteq") -> _Term:
    return _Term(tuple(path.split(".")), left, operator, _write_number, _lexical)


def _moment(path: str, left: str, operator: str) -> _Term:
    return _Term(tuple(path.split(".")), left, operator, _write_moment, _lexical)


def _duration(path: str, left: str) -> _Term:
    def write(value: str) -> Document:
        return _literal("xsd:duration", value)

    return _Term(tuple(path.split(".")), left, "lteq", write, _lexical)


_CONSTRAINTS = (
    _words("purpose", "purpose"),
    _words("where.processing", "spatial"),
    _words("where.recipients", "bay:recipientJurisdiction"),
    _moment("when.from", "dateTime", "gteq"),
    _moment("when.until", "dateTime", "lteq"),
    _duration("when.elapsed", "elapsedTime"),
    _whole("uses.count", "count"),
    _whole("uses.rows", "bay:answeredRows"),
    _whole("uses.bytes", "bay:answeredBytes"),
    _word("uses.per", "bay:countingPeriod"),
    _whole("uses.max_concurrent", "bay:concurrentUses"),
    _words("conditions.connectors", "bay:connector"),
    _whole("conditions.security_level", "bay:securityLevel", "gteq"),
    _word("conditions.declared.application", "bay:declaredApplication"),
    _word("conditions.declared.event", "bay:declaredEvent"),
    _word("conditions.declared.state", "bay:declaredState"),
    _word("transfer.basis", "bay:transferBasis"),
    _word("transfer.filing", "bay:transferFiling"),
    _word("transfer.whitelist", "bay:whitelist"),
    _word("transfer.negative_list", "bay:negativeList"),
    _word("transfer.low_risk", "bay:lowRiskCatalogue"),
    _word("transfer.consent", "bay:consentSet"),
    _whole("transfer.grade_at_most", "bay:grade"),
)
_REFINEMENTS = (
    _words("analysis.kinds", "bay:kind"),
    _words("analysis.join.columns", "bay:joinColumn"),
    _word("analysis.join.disclosure", "bay:disclosureLevel", "lteq"),
    _word("analysis.join.required", "bay:joinedData"),
    _words("analysis.join.operators", "bay:joinOperator"),
    _words("analysis.dimensions", "bay:dimension"),
    _words("analysis.payload", "bay:payloadColumn"),
    _words("analysis.scalar_functions", "bay:scalarFunction"),
    _word("analysis.identity", "bay:identityColumn"),
    _whole("analysis.minimum_identities", "bay:identities", "gteq"),
    _number("analysis.dominance.share_at_most", "bay:dominantShare"),
    _word("analysis.suppressions.complementary", "bay:complementarySuppression"),
    _word("analysis.suppressions.count", "bay:suppressionCount"),
    _word("analysis.noise.mechanism", "bay:noiseMechanism"),
    _number("analysis.noise.rho_per_query", "bay:rhoPerQuery"),
    _number("analysis.noise.budget.rho", "bay:rho"),
    _word("analysis.noise.budget.per", "bay:budgetPeriod"),
    _number("analysis.noise.dataset_budget.rho", "bay:datasetRho"),
    _whole("analysis.max_rows_per_identity", "bay:rowsPerIdentity"),
    _whole("analysis.max_cells_per_identity", "bay:cellsPerIdentity"),
    _word("analysis.weighted", "bay:weighted"),
    _word("analysis.conditional", "bay:conditionalMeasures"),
    _whole("analysis.maximum_peer_keys", "bay:peerKeys"),
    _whole("analysis.differencing.minimum_difference", "bay:identityDifference", "gteq"),
    _duration("analysis.differencing.window", "bay:differencingWindow"),
    _words("analysis.templates", "bay:template"),
    _word("analysis.federation.name", "bay:federation"),
    _word("analysis.federation.scope", "bay:federationScope"),
    _whole("analysis.federation.minimum_participants", "bay:participants", "gteq"),
    _words("analysis.federation.participants", "bay:coParticipant"),
    _whole("analysis.federation.honest_participants", "bay:honestParticipants", "gteq"),
)
_PER_COLUMN = (
    _Term(("analysis", "domains"), "bay:domainOf", "isAnyOf", _write_domain, _read_domain),
    _Term(("analysis", "filters"), "bay:filterOf", "isAnyOf", list, list),
    _Term(("analysis", "measures"), "bay:measureOf", "isAnyOf", list, list),
    _Term(
        ("analysis", "bounds"),
        "bay:valueOf",
        "bay:within",
        lambda pair: [_write_number(number) for number in pair],
        lambda pair: [_lexical(number) for number in pair],
    ),
    _Term(("masking",), "bay:maskOf", "eq", _same, _same),
)
_KNOWN = _Term(("analysis", "column_disclosure"), "bay:knownOf", "isAnyOf", list, list)
"""Per column and recipient."""


def to_odrl(policy: Policy) -> Document:
    """The policy as a JSON-LD document of plain dicts, lists, strings, booleans and exact integers."""
    data = policy.model_dump(by_alias=True, exclude_defaults=True)
    target = {
        "target": f"urn:bayspace:dataset:{policy.dataset}",
        "assigner": f"urn:bayspace:participant:{policy.owner}",
        "assignee": [_party_to_urn(who) for who in policy.assignee],
    }
    refinements = [*_written(_REFINEMENTS, data), *_written_per_column(data), *_written_known(data)]
    duties = data.get("duties", ())
    permission = {
        **target,
        "action": [{"rdf:value": {"@id": "bay:analyse"}, "refinement": refinements}],
        "constraint": list(_written(_CONSTRAINTS, data)),
        "duty": [_duty_to_odrl(duty) for duty in duties if "pass_on" not in duty],
    }
    return {
        "@context": [c if isinstance(c, str) else dict(c) for c in CONTEXT],
        "@type": "Offer",
        "uid": f"urn:bayspace:offer:{policy.dataset}:{policy.policy}",
        "profile": PROFILE,
        "permission": [permission],
        "prohibition": [{**target, **_duty_to_odrl(duty)} for duty in duties if "pass_on" in duty],
    }


def from_odrl(document: Any) -> Policy:
    """Read what `to_odrl` writes. `PolicyError` for anything else, and for what `load` would refuse."""
    try:
        policy = Policy.model_validate(_data_of(document))
        unchanged = rfc8785.dumps(document) == canonical(policy)
    except ValidationError as error:
        problems = [Problem("odrl.invalid", d["msg"], dotted(d["loc"])) for d in error.errors()]
        raise _refused(problems) from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError):
        # ValueError includes rfc8785's errors for numbers that are not exact
        raise _refused(
            [Problem("odrl.invalid", "this is not a policy of the bayspace ODRL profile")]
        ) from None
    if not unchanged:
        sentence = "the document says more than the profile has words for, or says it in another form"
        raise _refused([Problem("odrl.not-canonical", sentence)])
    problems = [check.as_problem(finding) for finding in check.errors(policy)]
    if problems:
        raise _refused(problems)
    return policy


def canonical(policy: Policy) -> bytes:
    """RFC 8785 bytes of the ODRL form: what agreements embed and sign."""
    return rfc8785.dumps(to_odrl(policy))


def digest(policy: Policy) -> bytes:
    """SHA-256 over `canonical`: two policies have the same digest only if they say the same."""
    return hashlib.sha256(canonical(policy)).digest()


def _refused(problems: list[Problem]) -> PolicyError:
    return PolicyError("policy", problems)


def _party_to_urn(who: str) -> str:
    return f"urn:bayspace:{who if who == 'any' or ':' in who else 'participant:' + who}"


def _party_of_urn(urn: str) -> str:
    return urn.removeprefix("urn:bayspace:").removeprefix("participant:")


def _written(terms: tuple[_Term, ...], data: Document) -> Iterator[Document]:
    for term in terms:
        value: Any = data
        for part in term.path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            yield _constraint(term, value)


def _written_per_column(data: Document) -> Iterator[Document]:
    for term in _PER_COLUMN:
        columns = data if len(term.path) == 1 else data[term.path[0]]
        for column, value in sorted(columns.get(term.path[-1], {}).items()):
            yield {**_constraint(term, value), "bay:column": column}


def _written_known(data: Document) -> Iterator[Document]:
    for column, entries in sorted(data["analysis"].get("column_disclosure", {}).items()):
        for who, ways in sorted(entries.items()):
            recipient = _party_to_urn(who)
            yield {**_constraint(_KNOWN, ways), "bay:column": column, "bay:recipient": recipient}


def _constraint(term: _Term, value: Any) -> Document:
    return {"leftOperand": term.left, "operator": term.operator, "rightOperand": term.write(value)}


_TERMS = {(term.left, term.operator): term for term in (*_CONSTRAINTS, *_REFINEMENTS, *_PER_COLUMN, _KNOWN)}


def _data_of(document: Any) -> Document:
    """The policy's plain data; whatever is not understood here shows when it is written again."""
    permission = document["permission"][0]
    dataset = permission["target"].removeprefix("urn:bayspace:dataset:")
    data: Document = {
        "policy": document["uid"].removeprefix(f"urn:bayspace:offer:{dataset}:"),
        "dataset": dataset,
        "assignee": [_party_of_urn(urn) for urn in permission["assignee"]],
    }
    for constraint in (*permission["action"][0]["refinement"], *permission["constraint"]):
        term = _TERMS[constraint["leftOperand"], constraint["operator"]]
        column = (constraint["bay:column"],) if "bay:column" in constraint else ()
        if term is _KNOWN:
            column = (*column, _party_of_urn(constraint["bay:recipient"]))
        _put(data, (*term.path, *column), term.read(constraint["rightOperand"]))
    rules = (*permission["duty"], *document["prohibition"])
    return {**data, "duties": [_duty_of_odrl(rule) for rule in rules]}


def _put(data: Document, path: Path, value: Any) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
    data[path[-1]] = value


def _duty_to_odrl(duty: Document) -> Document:
    action, refinements = _DUTIES_OUT[next(iter(duty))](duty)  # its own word is its first
    declared = {"bay:declared": True} if duty.get("declared") else {}
    return {"action": [{"rdf:value": {"@id": action}, "refinement": refinements}], **declared}


def _refinement(left: str, operator: str, value: Any) -> list[Document]:
    return [{"leftOperand": left, "operator": operator, "rightOperand": value}]


_DUTIES_OUT: Mapping[str, Callable[[Document], tuple[str, list[Document]]]] = MappingProxyType(
    {
        "log": lambda d: ("bay:log", _refinement("bay:witnesses", "gteq", d.get("minimum_witnesses", 1))),
        "notify": lambda d: ("inform", _refinement("recipient", "eq", d["notify"])),
        "delete": lambda d: (
            "delete",
            _refinement("elapsedTime", "lteq", _literal("xsd:duration", d["after"])),
        ),
        "pass_on": lambda _d: ("distribute", []),
        "payment": lambda d: ("compensate", _refinement("bay:payment", "eq", d["payment"])),
    }
)
_DUTIES_IN: Mapping[str, Callable[[Any], Document]] = MappingProxyType(
    {
        "bay:log": lambda value: {"log": "witness", "minimum_witnesses": value},
        "inform": lambda value: {"notify": value},
        "delete": lambda value: {"delete": "result", "after": _lexical(value)},
        "distribute": lambda _value: {"pass_on": "never"},
        "compensate": lambda value: {"payment": value},
    }
)


def _duty_of_odrl(rule: Any) -> Document:
    action = rule["action"][0]
    refinements = action["refinement"]
    value = refinements[0]["rightOperand"] if refinements else None
    duty = _DUTIES_IN[action["rdf:value"]["@id"]](value)
    return {**duty, **({"declared": True} if "bay:declared" in rule else {})}
