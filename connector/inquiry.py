"""An analyst's question on its way to another connector: resolve names, plan, decide, explain, ask.

The asker's own connector derives plan and decision too, so a question that must be refused is refused here,
with the same reasons, before anything leaves. It trusts no verdict of the other side's, only its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from compute import sql as sqltext
from compute.accuracy import deviations
from compute.dataset import DatasetInfo
from compute.errors import PolicyRefusal, QueryError
from compute.facts import Prepared, bytes_at_most, rows_at_most
from compute.inputs import LocalInput, Progress
from compute.planner import prepare
from compute.pooling import Part
from compute.protocols import candidates
from compute.protocols.base import Role
from connector import kept_answers, repeats
from connector.asking import Answer, Asking
from connector.contract import Agreement
from connector.node import Node, Offered
from connector.opening import Opening, checked_purpose
from connector.records import countersigned
from connector.references import template_of, transfer_of
from connector.stopping import Stop
from connector.terms import Terms, milliseconds, side_of
from connector.threat_models import threat_model
from connector.transport import Headers, call
from connector.v1 import query_pb2_grpc
from policy_enforcer.describe import declared
from policy_enforcer.disclosure import Party
from policy_enforcer.explain import Language, sentence
from policy_enforcer.facts import ColumnUse, Decision, Reason
from policy_enforcer.known import becomes_known
from policy_enforcer.model import Policy
from policy_enforcer.obligations import obligations
from policy_enforcer.privacy import billionths, rho
from witness.schema import FormatError


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A question that could be planned, with the decision of every policy it meets."""

    sql: str
    purpose: str
    agreement: Agreement
    own: Offered | None  # our own dataset that the query joins
    prepared: Prepared
    decisions: Mapping[str, Decision]  # by participant.dataset
    template: str | None = None  # the agreed template it is an instance of
    parts: tuple[Part, ...] = ()  # of the federation that the agreement's dataset is asked about as one of
    answered: bool = False  # before, under the same agreement
    protocol: str = ""  # that the asker named; empty: the planner chose

    @property
    def decision(self) -> Decision:
        """The meet: every policy must permit."""
        return Decision(tuple(reason for d in self.decisions.values() for reason in d.because))

    def mask(self, dataset: str, column: str) -> str | None:
        """What stands in for a column's values; the asker's own data is not masked for itself."""
        own = self.own is not None and dataset == self.own.dataset.full_name
        return None if own else self.agreement.policy.masking.get(column)


def inquire(node: Node, sql: str, purpose: str, protocol: str = "") -> Inquiry:
    """Resolve, plan and judge a question. Raises `QueryError` and, without an agreement, `PolicyRefusal`.

    `protocol`: the one that is to answer; empty: the planner chooses.
    """
    check_purpose(purpose)
    sources = sqltext.parse(sql).sources
    others = [s for s in sources if s.participant != node.id]
    if len(others) != 1:
        raise QueryError(
            "query.participants",
            "a query names exactly one dataset of another participant"
            + ("; your own data alone needs no data space" if not others else " and at most one of your own"),
        )
    agreement = node.agreement_about(others[0].participant, others[0].dataset)
    own = next((node.own_offer(s.dataset) for s in sources if s.participant == node.id), None)
    catalogue: dict[str, DatasetInfo] = {agreement.full_name: agreement.dataset}
    policies: dict[str, tuple[Policy, Agreement | None]] = {
        agreement.full_name: (agreement.policy, agreement)
    }
    if own is not None:
        catalogue[own.dataset.full_name] = own.dataset
        policies[own.dataset.full_name] = (own.policy, None)
    demands = {agreement.full_name: obligations(agreement.policy)}
    prepared = prepare(sql, node.id, catalogue, candidates(protocol), demands)
    template = template_of(agreement, sql, node.id)
    answered = repeats.known(node.store, agreement, prepared.plan)
    decisions = _decisions(node, prepared, purpose, policies, template, answered=answered)
    return Inquiry(sql, purpose, agreement, own, prepared, decisions, template, (), answered, protocol)


def check_purpose(purpose: str) -> None:
    """Raise `QueryError` for a purpose that evidence could not state."""
    try:
        checked_purpose(purpose)
    except FormatError as error:
        raise QueryError("query.purpose", str(error)) from None


def _decisions(
    node: Node,
    prepared: Prepared,
    purpose: str,
    policies: Mapping[str, tuple[Policy, Agreement | None]],
    template: str | None,
    *,
    answered: bool,
) -> dict[str, Decision]:
    requests = prepared.requests(
        recipients=frozenset({node.id}),
        purpose=purpose or None,
        at=node.now(),
        witnesses=len(node.evidence.witnesses),
        processing=frozenset({node.jurisdiction_of(node.id), node.jurisdiction_of(prepared.plan.owner)}),
        receiving=frozenset({node.jurisdiction_of(node.id)}),
        query_template=template,
    )
    return {
        name: node.decide(policies[name][0], request, policies[name][1], answered=answered)
        for name, request in requests.items()
    }


def ask(
    node: Node,
    inquiry: Inquiry,
    progress: Progress,
    stop: Stop,
    trace: str,
) -> tuple[str, Answer, dict[str, int]]:
    """Ask the owner. Returns the exchange's id, the answer, and the bytes and frames of both directions."""
    terms = opened(node, inquiry, opening_of(node, inquiry, trace))
    exchange = terms.opening.exchange
    if not inquiry.decision.permitted:
        record_refusal(node, terms, inquiry.decision)
        raise PolicyRefusal(inquiry.decision)
    try:
        with node.stoppable(exchange, inquiry.agreement, stop):
            answer, figures = _exchanged(node, inquiry, terms, progress, stop, trace)
    except BaseException:
        # where it broke off before the first frame: nothing was said, so there is nothing to record
        node.evidence.in_the_end(lambda: node.store.close_exchange(exchange, "failed"))
        raise
    return exchange, answer, figures


def opened(node: Node, inquiry: Inquiry, opening: Opening) -> Terms:
    """Open an exchange: whatever comes of it becomes evidence."""
    terms = _terms(node, inquiry, opening)
    node.store.open_exchange(
        opening.exchange,
        inquiry.agreement.digest,
        inquiry.agreement.provider,
        "consumer",
        "query",
        terms.trace_id,
        opening.exchange_key,
    )
    return terms


def _exchanged(
    node: Node,
    inquiry: Inquiry,
    terms: Terms,
    progress: Progress,
    stop: Stop,
    trace: str,
) -> tuple[Answer, dict[str, int]]:
    """Compute our side of the join, then talk to the owner."""
    exchange = terms.opening.exchange
    with node.telemetry.span("local part", trace, exchange=exchange):
        local = _local(node, inquiry, stop.interrupt)
    headers = Headers()
    question = question_of(inquiry)
    role = Asking(node, terms, inquiry.prepared, local, headers, progress, question=question).run()
    del local  # the role's, and gone before the answer is made
    answer = called(
        node, inquiry, exchange, role, headers, lambda call: stop.on_fire(call.cancel), stop, trace
    )
    return answer, headers.figures()


def called(
    node: Node,
    inquiry: Inquiry,
    exchange: str,
    role: Role[Answer],
    headers: Headers,
    on_call: Callable[[Any], object],
    stop: Stop,
    trace: str,
) -> Answer:
    """Talk to the owner."""
    stub = query_pb2_grpc.JointQueryStub(node.peers.channel(inquiry.agreement.provider))
    timeout = node.config.limits.frame_timeout_seconds
    protocol = inquiry.prepared.plan.protocol
    with node.telemetry.span("exchange", trace, exchange=exchange, protocol=protocol) as span:
        answer = call(role, headers, stub.Run, inquiry.agreement.provider, timeout, on_call, stop)
        for name, count in headers.figures().items():
            span.set(name, count)
    return answer


def question_of(inquiry: Inquiry, own: Offered | None = None, together: Sequence[Agreement] = ()) -> str:
    """Under what name the answer of this exchange is kept; "" where it is not."""
    ours = inquiry.own if inquiry.own is not None else own
    joined, policy = (None, None) if ours is None else (ours.dataset, ours.policy)
    return kept_answers.question_of(
        inquiry.agreement, inquiry.prepared.plan, inquiry.purpose, joined, together, policy
    )


def _local(node: Node, inquiry: Inquiry, interrupt: threading.Event) -> LocalInput | None:
    if inquiry.own is None:
        return None
    local = node.own_input(inquiry.prepared, inquiry.own.dataset.full_name, None, interrupt)
    if not isinstance(local, LocalInput):
        raise AssertionError("our side of a join is a join input")
    # What the protocol would refuse of our data is refused before it costs a use.
    inquiry.prepared.protocol.check(inquiry.prepared.plan, local)
    return local


def opening_of(node: Node, inquiry: Inquiry, trace: str) -> Opening:
    """What the owner is told first, with fresh salts and nonce."""
    return Opening(
        exchange=node.entropy(16).hex(),
        exchange_key=node.entropy(32),
        agreement=inquiry.agreement.digest,
        members=node.members.digest,
        sql=inquiry.sql,
        purpose=inquiry.purpose,
        dataset=inquiry.own.dataset if inquiry.own is not None else None,
        plan_digest=inquiry.prepared.plan.digest,
        query_salt=node.entropy(32),
        plan_salt=node.entropy(32),
        nonce=node.entropy(32),
        build=node.build,
        clock=milliseconds(node.now()),
        trace=trace,
        federation=inquiry.parts,
        protocol=inquiry.protocol,
    )


def _terms(node: Node, inquiry: Inquiry, opening: Opening) -> Terms:
    provider = inquiry.agreement.provider
    return Terms(
        space=node.space,
        opening=opening,
        agreement=inquiry.agreement,
        plan=inquiry.prepared.plan,
        asker=side_of(node, node.id, node.key.public, node.build, opening.clock),
        # the build is zeros until the owner states its own
        owner=side_of(node, provider, node.key_of(provider), "0" * 64, opening.clock),
    )


def record_refusal(node: Node, terms: Terms, decision: Decision) -> None:
    """Keep our own statement that a policy refused this question."""
    sealed = terms.refusal(decision.because[0].code, terms.asker).seal(node.entropy)
    node.evidence.keep(
        terms.opening.exchange,
        sealed,
        countersigned(sealed, node.key, None, None),
        "refused",
        terms.openings(),
    )


# --- explain ------------------------------------------------------------------------------------------


def explanation(node: Node, inquiry: Inquiry, language: Language) -> dict[str, Any]:
    """What `explain` shows, as JSON values: plan, verdict per column, who learns what, cost, budgets."""
    plan, prepared = inquiry.prepared.plan, inquiry.prepared
    cost = prepared.protocol.cost(plan)
    names = {Party.RECEIVER: node.id, Party.SENDER: inquiry.agreement.provider}
    return {
        "verdict": "permit" if inquiry.decision.permitted else "refuse",
        "reasons": [asdict(reason) for reason in inquiry.decision.because],
        "protocol": {
            "name": plan.protocol,
            "version": plan.protocol_version,
            "disclosure": plan.level.word,
            "threat_model": threat_model(prepared.protocol, language),
            "gates": sorted(prepared.protocol.gates),
            "named": bool(inquiry.protocol),
        },
        "kind": plan.kind,
        "template": inquiry.template,
        "plan": _sides(inquiry),
        "columns": _columns(inquiry),
        "learns": [
            {**event.as_json(), "who": names[event.to], "sentence": sentence(event, names, language)}
            for event in plan.reveals
        ],
        "noise": deviations(plan),
        "cost": {"seconds": round(cost.seconds, 2), "bytes": cost.bytes},
        "transfer": transfer_of(inquiry.agreement),
        "declared": declared(inquiry.agreement.policy),
        "budget": budget(node, inquiry),
        "evidence": {
            "witnesses": list(node.evidence.witnesses),
            "demanded": obligations(inquiry.agreement.policy).witnesses,
        },
        "agreement": inquiry.agreement.digest,
    }


def _sides(inquiry: Inquiry) -> list[dict[str, Any]]:
    plan = inquiry.prepared.plan
    return [
        {
            "dataset": side.dataset,
            "keys": list(side.keys),
            "filters": len(side.filters),
            "groups_by": [d.sql for d in side.dimensions] if plan.kind == "aggregate" else [],
            "lists": [d.sql for d in side.dimensions] if plan.kind == "list" else [],
            "padded": {d.sql: d.width for d in side.dimensions if d.width},
            "measures": [m.sql for m in side.partials],
            "rows_at_most": side.rows_bound,
            "keys_padded_to": side.keys_bound,
        }
        for side in (plan.receiver, plan.sender)
        if side is not None
    ]


def _columns(inquiry: Inquiry) -> list[dict[str, Any]]:
    return [
        {
            "dataset": dataset,
            "column": use.column,
            "uses": _uses(use),
            "mask": inquiry.mask(dataset, use.column),
            "known": _known(inquiry, dataset, use),
            "verdict": "refuse" if reasons else "permit",
            "reasons": [asdict(reason) for reason in reasons],
        }
        for dataset, uses in inquiry.prepared.uses.items()
        for use in uses
        for reasons in [_about(inquiry.decisions[dataset], use.column)]
    ]


def _known(inquiry: Inquiry, dataset: str, use: ColumnUse) -> dict[str, tuple[str, ...]]:
    """Who learns of a column in which ways; of our own nobody but ourselves receives anything."""
    own = inquiry.own is not None and dataset == inquiry.own.dataset.full_name
    plan = inquiry.prepared.plan
    together = {name.split(".", 1)[0] for name in plan.federation}  # a column of theirs, pooled
    return {} if own else becomes_known(use, plan.kind, plan.reveals, plan.asker, {plan.asker}, together)


def _about(decision: Decision, column: str) -> list[Reason]:
    return [reason for reason in decision.because if reason.column == column]


def _uses(use: Any) -> list[str]:
    said = [f"filtered ({kind})" for kind in sorted(use.filtered)]
    said += [f"aggregated ({measure})" for measure in sorted(use.aggregated)]
    said += [f"through {function}" for function in sorted(use.functions)]
    said += [
        word
        for word in ("joined", "grouped", "listed", "conditional", "selecting", "weighted")
        if getattr(use, word)
    ]
    return said


def budget(node: Node, inquiry: Inquiry) -> dict[str, Any]:
    """What the question costs, and what is left by our own account; the owner's decides."""
    return {
        **_uses_budget(node, inquiry),
        **_size_budgets(inquiry),
        **_privacy_budget(node, inquiry),
    }


def _size_budgets(inquiry: Inquiry) -> dict[str, Any]:
    """Rows and bytes that the query is charged, where they are limited; the owner knows how many are left."""
    uses, plan = inquiry.agreement.policy.uses, inquiry.prepared.plan
    if uses is None:
        return {}
    found = {"rows": (rows_at_most(plan), uses.rows), "bytes": (bytes_at_most(plan), uses.bytes)}
    return {
        what: {"costs": size, "limit": limit, "per": uses.per}
        for what, (size, limit) in found.items()
        if limit is not None
    }


def _privacy_budget(node: Node, inquiry: Inquiry) -> dict[str, Any]:
    """What noise costs and leaves, by our own account of our own queries; the owner's account decides."""
    noise = inquiry.agreement.policy.analysis.noise
    if noise is None:
        return {}
    lost, lifetime = node.losses_of(inquiry.agreement, node.now())
    costs = 0 if inquiry.answered else billionths(noise.rho_per_query)
    left = billionths(noise.budget.rho) - lost - costs
    total = noise.dataset_budget
    return {
        "privacy": {
            "mechanism": noise.mechanism,
            "costs_rho": rho(costs),
            "answered_before": inquiry.answered,
            "spent_rho": rho(lost),
            "limit_rho": rho(billionths(noise.budget.rho)),
            "per": noise.budget.per,
            "left_after_rho": rho(left),
            "dataset_lifetime_rho": rho(lifetime),
            "dataset_limit_rho": None if total is None else rho(billionths(total.rho)),
        }
    }


def _uses_budget(node: Node, inquiry: Inquiry) -> dict[str, Any]:
    uses = inquiry.agreement.policy.uses
    used = node.uses_of(inquiry.agreement)
    limit = uses.count if uses is not None else None
    return {
        "uses": {
            "used": used,
            "costs": 1,
            "limit": limit,
            "per": uses.per if uses is not None else "agreement",
            "left_after": None if limit is None else max(0, limit - used - 1),
        }
    }
