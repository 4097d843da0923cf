"""A question over a federation: one inquiry for each participant, asked side by side, answered together.

`FROM federation.<name>` stands for the datasets of all agreements in force whose policies name that
federation. Every participant gets an exchange of its own: its own opening, intent, charge and records. Where
we have published a dataset into the federation ourselves, its rows are added here to what the round released:
they are in no exchange. Refuses a federation whose policies or descriptions would make different plans, and
one of whose participants refuses.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa

from compute import pooling
from compute import sql as sqltext
from compute.demands import MOST_SUM
from compute.errors import PolicyRefusal, QueryError
from compute.facts import Prepared
from compute.federation import MOST_PARTICIPANTS
from compute.inputs import Progress, unwatched
from compute.plan import Plan
from compute.planner import prepare
from compute.pooling import FEDERATION, Part
from compute.protocols import candidates
from connector import inquiry as single
from connector import kept_answers
from connector.alike import unlike
from connector.asking import Answer, Asking
from connector.contract import Agreement
from connector.inquiry import Inquiry
from connector.kept_answers import Kept
from connector.meeting import Meeting, Place, named
from connector.node import Node, Offered
from connector.references import template_of
from connector.stopping import Stop
from connector.terms import Terms
from connector.transport import Headers
from policy_enforcer.facts import Decision, Reason
from policy_enforcer.obligations import obligations


@dataclass(frozen=True, slots=True)
class Round:
    """A question to every participant of a federation, in the order of their ids; all have one plan."""

    inquiries: tuple[Inquiry, ...]
    own: Offered | None = None  # our own dataset in the federation

    @property
    def prepared(self) -> Prepared:
        """The plan that all share."""
        return self.inquiries[0].prepared

    @property
    def decision(self) -> Decision:
        """The meet of all policies; a reason that not all give names its participant."""
        given: dict[Reason, list[Inquiry]] = {}
        for inquiry in self.inquiries:
            for reason in inquiry.decision.because:
                given.setdefault(reason, []).append(inquiry)
        found: list[Reason] = []
        for reason, by in given.items():
            alone = () if len(by) == len(self.inquiries) else by
            found += [r for i in alone for r in named(i.agreement.provider, Decision((reason,))).because]
            found += () if alone else [reason]
        return Decision(tuple(found))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question gave: its exchanges, the answer, and bytes and frames of both directions."""

    exchanges: tuple[str, ...]
    answer: Answer
    figures: dict[str, int]
    kept: Kept | None = None  # what our own connector had, where nothing was asked


def inquire(node: Node, sql: str, purpose: str, protocol: str = "") -> Inquiry | Round:
    """Resolve, plan and judge a question. Raises as `connector.inquiry.inquire`."""
    sources = sqltext.parse(sql).sources
    if all(source.participant.casefold() != FEDERATION for source in sources):
        return single.inquire(node, sql, purpose, protocol)
    single.check_purpose(purpose)
    if len(sources) > 1:
        raise QueryError(
            "query.federation", f"a question over {FEDERATION}.<name> names nothing else in FROM"
        )
    return _round(node, sources[0].dataset.casefold(), sql, purpose, protocol)


def _round(node: Node, name: str, sql: str, purpose: str, protocol: str) -> Round:
    agreements, own = _agreements(node, name), _own(node, name)
    parts = tuple(Part(a.full_name, a.dataset.rows_bound) for a in agreements)
    inquiries = _inquiries(node, _Question(name, sql, purpose, parts, protocol), agreements)
    plan, columns = inquiries[0].prepared.plan, _columns_of(inquiries[0])
    for inquiry in inquiries:
        if inquiry.prepared.plan.digest != plan.digest:
            raise _differing(inquiry.agreement.full_name, inquiry.agreement, agreements[0], columns)
    if own is not None and plan.logistic is not None:
        raise QueryError(
            "query.logistic",
            f"our own rows cannot be added to a fit once it is made: withdraw {own.dataset.full_name} to ask "
            "for that of the others",
        )
    if own is not None:
        ours = prepared_by(node, name, sql, own, parts, protocol).plan
        if ours.digest != plan.digest:
            raise _differing(own.dataset.full_name, own, agreements[0], columns)
        _check_own(own, plan, parts)
        _check_figures(node, name, sql, own, parts)
    return Round(tuple(inquiries), own)


@dataclass(frozen=True, slots=True)
class _Question:
    """What all participants of a federation are asked."""

    federation: str
    sql: str
    purpose: str
    parts: tuple[Part, ...]
    protocol: str  # "": the planner's choice


def _inquiries(node: Node, question: _Question, agreements: Sequence[Agreement]) -> list[Inquiry]:
    """The question as every participant plans it. What not all of them would refuse alike says who does."""
    found: list[Inquiry] = []
    refused: dict[str, QueryError] = {}
    for agreement in agreements:
        try:
            found.append(_inquiry(node, question, agreement))
        except QueryError as error:
            refused[agreement.full_name] = error
    if not refused:
        return found
    first = next(iter(refused.values()))
    by = [who for who, error in refused.items() if str(error) == str(first)]
    if len(by) == len(agreements):
        raise first
    raise QueryError(first.code, f"{', '.join(by)}: {first.sentence}")


def _columns_of(inquiry: Inquiry) -> set[str]:
    """The columns that the question reads."""
    return {use.column for uses in inquiry.prepared.uses.values() for use in uses}


def _differing(name: str, one: Agreement | Offered, other: Agreement, columns: set[str]) -> QueryError:
    said = "; ".join(unlike(columns, one, other)) or "what they declare"
    return QueryError(
        "federation.differs",
        f"{name} and {other.full_name} make different plans of this question, as they differ in: {said}. "
        "Their owners agree on one template of description and policy",
    )


def _own(node: Node, name: str) -> Offered | None:
    """Our own dataset in the federation, if we have published one."""
    offers = node.offers_of(node.id)
    found = [o for o in offers if (f := o.policy.analysis.federation) is not None and f.name == name]
    if len(found) > 1:
        raise QueryError(
            "query.federation",
            f"{node.id} takes part in {FEDERATION}.{name} with {len(found)} datasets: withdraw all but one",
        )
    return found[0] if found else None


def _check_own(own: Offered, plan: Plan, parts: tuple[Part, ...]) -> None:
    """Our rows are added to the others' sums: only where they fit beside them."""
    rows = own.dataset.rows_bound
    for partial in plan.sender.partials:
        if pooling.bound(plan.sender, partial, len(parts)) + partial.row_bound * rows > MOST_SUM:
            raise QueryError("query.overflow", "with our own rows a sum may have more than 38 digits")


def _check_figures(node: Node, name: str, sql: str, own: Offered, parts: tuple[Part, ...]) -> None:
    """Arithmetic over figures is proved for the others' rows: with ours beside them it is proved anew."""
    first, *rest = parts
    more = replace(first, rows_bound=first.rows_bound + own.dataset.rows_bound)
    try:
        prepared_by(node, name, sql, own, (more, *rest))
    except QueryError as error:
        if error.code == "query.overflow":  # nothing else matters: only totals have our rows
            said = f"with the rows of {own.dataset.full_name}: {error.sentence}"
            raise QueryError(error.code, said) from None


def _agreements(node: Node, name: str) -> list[Agreement]:
    """The newest agreement that runs now with each participant, in the order of their ids."""
    found, idle, now = dict[str, Agreement](), dict[str, str](), node.now()
    for agreement in node.agreements_in_force():
        federation = agreement.policy.analysis.federation
        if federation is None or federation.name != name:
            continue
        if not agreement.runs_at(now):  # its time is over, or it was signed ahead of it
            idle[agreement.provider] = agreement.full_name
            continue
        earlier = found.get(agreement.provider, agreement)
        if earlier.full_name != agreement.full_name:
            raise QueryError(
                "query.federation",
                f"{agreement.provider} takes part in {FEDERATION}.{name} with two datasets: "
                f"end the agreement about {earlier.full_name} or {agreement.full_name}",
            )
        found[agreement.provider] = agreement
    if not 2 <= len(found) <= MOST_PARTICIPANTS:
        others = [full_name for who, full_name in sorted(idle.items()) if who not in found]
        outside = f"; over, or not begun: {', '.join(others)}" if others else ""
        raise QueryError(
            "query.federation",
            f"there are agreements in force with {len(found)} participants of {FEDERATION}.{name}: it takes "
            f"2 to {MOST_PARTICIPANTS}; ask those whom the catalogue shows in it for contracts{outside}",
        )
    return [found[participant] for participant in sorted(found)]


def _inquiry(node: Node, question: _Question, agreement: Agreement) -> Inquiry:
    """The question as this participant plans and judges it."""
    sql, purpose, parts, protocol = question.sql, question.purpose, question.parts, question.protocol
    prepared = prepared_by(node, question.federation, sql, agreement, parts, protocol)
    places = {node.jurisdiction_of(part.participant) for part in parts} | {node.jurisdiction_of(node.id)}
    template = template_of(agreement, sql, node.id)
    (request,) = prepared.requests(
        recipients=frozenset({node.id}),
        purpose=purpose or None,
        at=node.now(),
        witnesses=len(node.evidence.witnesses),
        processing=frozenset(places),
        receiving=frozenset({node.jurisdiction_of(node.id)}),
        query_template=template,
        part=agreement.full_name,
    ).values()
    decisions = {prepared.plan.sender.dataset: node.decide(agreement.policy, request, agreement)}
    return Inquiry(sql, purpose, agreement, None, prepared, decisions, template, parts, protocol=protocol)


def prepared_by(
    node: Node,
    name: str,
    sql: str,
    by: Agreement | Offered,
    parts: Sequence[Part],
    protocol: str = "",
) -> Prepared:
    """The question as the dataset and policy of one part make it, and under the protocol that is named."""
    info = pooling.pooled(name, by.dataset, parts)
    demands = {info.full_name: obligations(by.policy)}
    return prepare(sql, node.id, {info.full_name: info}, candidates(protocol), demands, parts)


# --- asking -------------------------------------------------------------------------------------------


def ask(
    node: Node,
    asked: Inquiry | Round,
    progress: Progress,
    stop: Stop,
    trace: str,
) -> Asked:
    """Ask the owner, or all of them. Raises `PolicyRefusal`, `Unavailable` and others of `compute.errors`."""
    if isinstance(asked, Inquiry):
        exchange, answer, figures = single.ask(node, asked, progress, stop, trace)
        return Asked((exchange,), answer, figures)
    _refused(node, asked, trace)
    return _Asking(node, asked, progress, stop, trace).run()


def kept(node: Node, asked: Inquiry | Round) -> Asked | None:
    """The answer that our own connector has to a joint question, if it is permitted still."""
    if any(not kept_answers.charges(reason.code) for reason in asked.decision.because):
        return None
    found = kept_answers.kept(node.store, questions_of(asked))
    if found is None:
        return None
    told = asked.prepared.plan.says_suppressed
    answer = Answer(found.arrow, found.released, found.suppressed if told else None)
    return Asked(found.exchanges, answer, Headers().figures(), found)


def questions_of(asked: Inquiry | Round) -> list[str]:
    """Under what names the answer is kept, by exchange."""
    if isinstance(asked, Inquiry):
        return [single.question_of(asked)]
    together = [inquiry.agreement for inquiry in asked.inquiries]
    return [single.question_of(inquiry, asked.own, together) for inquiry in asked.inquiries]


def _refused(node: Node, round_: Round, trace: str) -> None:
    """Record and raise what a policy refuses, before anything leaves."""
    for inquiry in round_.inquiries:
        if not inquiry.decision.permitted:
            terms = single.opened(node, inquiry, single.opening_of(node, inquiry, trace))
            single.record_refusal(node, terms, inquiry.decision)
    if not round_.decision.permitted:
        raise PolicyRefusal(round_.decision)


class _Asking:
    """One round in progress: an exchange a thread, all of them in one meeting."""

    def __init__(
        self,
        node: Node,
        round_: Round,
        progress: Progress,
        stop: Stop,
        trace: str,
    ) -> None:
        self._node, self._round, self._progress, self._trace = node, round_, progress, trace
        self._stop = stop
        # what is wrong with our data is found before a charge
        self._added = _own_cells(node, round_, stop.interrupt)
        names = [inquiry.agreement.provider for inquiry in round_.inquiries]
        self._meeting = Meeting(names, node.config.limits.frame_timeout_seconds)
        self._questions = questions_of(round_)
        stop.on_fire(self._meeting.cancel)

    def run(self) -> Asked:
        """Ask all; raises what the first failure was."""
        count = len(self._round.inquiries)
        with ThreadPoolExecutor(count, thread_name_prefix="round") as threads:
            found = list(threads.map(self._exchange, range(count)))
        self._meeting.raise_failure()
        done = [one for one in found if one is not None]
        figures = {name: sum(one.figures[name] for one in done) for name in done[0].figures}
        return Asked(tuple(e for one in done for e in one.exchanges), done[0].answer, figures)

    def _exchange(self, place: int) -> Asked | None:
        """One participant's exchange; None where the round failed, which the meeting tells."""
        node, inquiry = self._node, self._round.inquiries[place]
        terms = None
        try:
            terms = single.opened(node, inquiry, single.opening_of(node, inquiry, self._trace))
            with node.stoppable(terms.opening.exchange, inquiry.agreement, self._stop):
                return self._talk(place, inquiry, terms)
        except BaseException as error:  # noqa: BLE001  raised again by `run`, in the question's own thread
            self._meeting.fail(place, error)
            if terms is not None:
                exchange = terms.opening.exchange
                node.evidence.in_the_end(lambda: node.store.close_exchange(exchange, "failed"))
            return None

    def _talk(self, place: int, inquiry: Inquiry, terms: Terms) -> Asked:
        node, headers = self._node, Headers()
        watch = self._progress if place == 0 else unwatched  # one exchange reports for all
        met = Place(self._meeting, place)
        question, added = self._questions[place], self._added
        role = Asking(node, terms, inquiry.prepared, None, headers, watch, met, added, question).run()
        exchange = terms.opening.exchange
        answer = single.called(
            node, inquiry, exchange, role, headers, self._meeting.called, self._stop, self._trace
        )
        return Asked((exchange,), answer, headers.figures())


def _own_cells(node: Node, round_: Round, interrupt: threading.Event) -> pa.Table | None:
    if round_.own is None:
        return None
    plan, info = round_.prepared.plan, round_.own.dataset
    side = replace(plan.sender, rows_bound=info.rows_bound)
    found = node.own_input(
        replace(round_.prepared, plan=replace(plan, sender=side)), info.full_name, None, interrupt
    )
    if not isinstance(found, pa.Table):
        raise AssertionError("our part of a federation is cells")
    return found
