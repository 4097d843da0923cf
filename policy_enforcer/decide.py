"""The decision: policy, facts and ledger in; permit, or every reason to refuse, out. Pure and total.

One small function per rule. A rule objects or stays silent; silence of all rules permits. Every rule asks
whether what it sees is *named* in the policy, so whatever nobody thought of is refused: an unknown filter,
measure, function, kind, level or disclosure is in no list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from policy_enforcer.check import errors
from policy_enforcer.columns import COLUMN_RULES, DIMENSION_FILTERS, NOISED, join_column, named_filters
from policy_enforcer.disclosure import Disclosure, Fact, Level
from policy_enforcer.facts import Decision, FederationUse, LedgerView, Reason, Request
from policy_enforcer.known import unseen
from policy_enforcer.model import ANY, Budget, Federation, LogDuty, Policy, plain
from policy_enforcer.moments import end_instant, first_instant, later
from policy_enforcer.privacy import billionths, rho
from policy_enforcer.problems import dotted
from policy_enforcer.references import name_of
from policy_enforcer.transfer_lists import list_reasons, within

Rule = Callable[[Policy, Request, LedgerView], Iterator[Reason]]


def decide(policy: Policy, request: Request, ledger: LedgerView) -> Decision:
    """Judge one query from one dataset's policy.

    *Own use*: when owner and asker are the same and the asker alone gets the result, nothing of the
    dataset is shown to anybody but its owner, so only the rules that protect its keys from the peer
    apply; without a peer none does.
    """
    if request.asker == request.owner and request.recipients == {request.owner}:
        rules = (*_ALWAYS, *(_OWN_USE if request.joint else ()))
    else:
        rules = (*_ALWAYS, *_RULES)
    return Decision(tuple(reason for rule in rules for reason in rule(policy, request, ledger)))


def _words(values: Collection[str], otherwise: str = "nothing") -> str:
    return ", ".join(sorted(values)) or otherwise


def _instead(policy: Policy) -> str:
    """What may be asked about the dataset that is no join."""
    named = policy.analysis.federation
    return "queries over this dataset alone" if named is None else f"sums over federation.{named.name}"


def _countable(policy: Policy) -> str:
    """Where identities can be counted before the release."""
    if policy.analysis.federation is not None:
        return _instead(policy)
    return f"a join on {policy.analysis.identity} alone, or a query over this dataset alone"


_OWNERS = "nothing under this policy: its owner takes the word out, or publishes a second offer"
"""Under a word that no federation can keep to, in a policy that answers in a federation only."""


# -- the policy itself


def _enforceable(policy: Policy, _request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    # `load` has refused this already; a policy built in any other way must not slip through
    for _code, path, sentence, _hint in errors(policy):
        yield Reason("policy.not-enforceable", dotted(path), sentence)


def _same_dataset(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    if request.dataset != policy.dataset or request.owner != policy.owner:
        sentence = "this policy is about another dataset"
        yield Reason("dataset.mismatch", "dataset", sentence, allowed=policy.dataset)


# -- who, why, where, when, how often


def _named(policy: Policy, request: Request, who: str) -> bool:
    """By its id, or by a role or claim that the member list certifies."""
    return policy.assignee == ANY or bool({who, *request.standing.get(who, ())} & set(policy.assignee))


def _assignee(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    if not _named(policy, request, request.asker):
        sentence = f"{request.asker} is not among those who may ask"
        yield Reason("assignee.not-allowed", "assignee", sentence, allowed=_words(policy.assignee))


def _recipients(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    others = request.recipients - {request.owner}
    if not request.recipients or not all(_named(policy, request, other) for other in others):
        sentence = "the result would go to somebody who is not named"
        yield Reason("recipient.not-allowed", "assignee", sentence, allowed=_words(policy.assignee))


def _others(request: Request) -> list[str]:
    """Whoever asks or receives, the owner aside."""
    return sorted((request.recipients | {request.asker}) - {request.owner})


def _connectors(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    named = policy.conditions.connectors if policy.conditions else None
    if named is None:
        return
    for who in _others(request):
        keys = {f"{who}@{key}" for key in request.connectors.get(who, ())}
        # a connector with a second key is another one, until the owner says otherwise
        if not keys or not keys <= set(named):
            sentence = f"the connector of {who} has a key that this policy does not name"
            allowed = "connectors that it names; after a change of keys, a new version of it by its owner"
            yield Reason("connector.not-allowed", "conditions.connectors", sentence, allowed=allowed)


def _security_level(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    least = policy.conditions.security_level if policy.conditions else None
    if least is None:
        return
    for who in _others(request):
        level = security_level(request.standing.get(who, ()))
        if level < least:
            sentence = f"{who} is certified at {f'security level {level}' if level else 'no security level'}"
            allowed = f"level {least} or higher; the space's operator certifies it"
            yield Reason("security-level.too-low", "conditions.security_level", sentence, allowed=allowed)


def security_level(certified: Collection[str]) -> int:
    """The highest N of `claim:security-level-N`; 0 where there is none."""
    found = (_LEVEL.fullmatch(word) for word in certified)
    return max((int(match[1]) for match in found if match), default=0)


_LEVEL = re.compile(r"claim:security-level-([1-9][0-9]?)", re.ASCII)


def _purpose(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    if policy.purpose == ANY:
        return
    allowed = _words(policy.purpose)
    if request.purpose is None:
        yield Reason("purpose.missing", "purpose", "no purpose was declared", allowed=allowed)
    elif request.purpose not in policy.purpose:
        sentence = f"the purpose {request.purpose!r} is not among those allowed"
        yield Reason("purpose.not-allowed", "purpose", sentence, allowed=allowed)


def _window(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    when = policy.when
    if when is None or (when.start is None and when.until is None):
        return
    if request.at.tzinfo is None:
        yield Reason("time.unknown", "when", "the request's time has no time zone")
        return
    if when.start is not None and request.at < first_instant(when.start):
        yield Reason(
            "time.too-early", "when.from", "the permission has not begun", allowed=f"from {when.start}"
        )
    if when.until is not None and request.at >= end_instant(when.until):
        yield Reason("time.expired", "when.until", "the permission has ended", allowed=f"until {when.until}")


def _elapsed(policy: Policy, request: Request, ledger: LedgerView) -> Iterator[Reason]:
    if policy.when is None or policy.when.elapsed is None:
        return
    if request.at.tzinfo is None or ledger.agreed is None or ledger.agreed.tzinfo is None:
        yield Reason("time.unknown", "when.elapsed", "it is not known how long the agreement has run")
        return
    try:
        end = later(ledger.agreed, policy.when.elapsed)
    except (OverflowError, ValueError):
        yield Reason("time.unknown", "when.elapsed", "the end of the permission is beyond the calendar")
        return
    if request.at >= end:
        sentence = "the agreement has run its time"
        yield Reason("time.expired", "when.elapsed", sentence, allowed=f"{policy.when.elapsed} from signing")
    elif request.at < ledger.agreed:
        yield Reason("time.too-early", "when.elapsed", "the agreement has not begun")


def _uses(policy: Policy, _request: Request, ledger: LedgerView) -> Iterator[Reason]:
    uses = policy.uses
    if uses is not None and uses.count is not None and not 0 <= ledger.uses < uses.count:
        sentence = f"all {uses.count} uses per {uses.per} are spent"
        yield Reason("uses.exhausted", "uses.count", sentence, allowed=f"{uses.count} per {uses.per}")


def _sizes(policy: Policy, request: Request, ledger: LedgerView) -> Iterator[Reason]:
    uses = policy.uses
    if uses is None:
        return
    for what, limit, size, used in (
        ("rows", uses.rows, request.rows_at_most, ledger.rows_used),
        ("bytes", uses.bytes, request.bytes_at_most, ledger.bytes_used),
    ):
        left = max(0, limit - used) if limit is not None and used >= 0 else 0
        if limit is not None and not 0 < size <= left:
            sentence = f"this query may answer {size} {what}, and {left} are left"
            allowed = f"{limit} {what} per {uses.per}"
            yield Reason(f"{what}.exhausted", f"uses.{what}", sentence, allowed=allowed)


def _concurrent(policy: Policy, _request: Request, ledger: LedgerView) -> Iterator[Reason]:
    most = policy.uses.max_concurrent if policy.uses else None
    if most is not None and not 0 <= ledger.running < most:
        sentence = f"{ledger.running} queries of this agreement are running: wait for one to end"
        yield Reason("uses.concurrent", "uses.max_concurrent", sentence, allowed=f"{most} at once")


def _witnesses(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    for duty in policy.duties:
        if isinstance(duty, LogDuty) and request.witnesses < duty.minimum_witnesses:
            rule, least = "duties.log.minimum_witnesses", duty.minimum_witnesses
            sentence = f"too few witnesses would record the exchange: the connectors have {request.witnesses}"
            yield Reason("witness.too-few", rule, sentence, allowed=f"at least {least}")


def _places(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    if policy.where is None:
        return
    for code, allowed, actual in (
        ("processing", policy.where.processing, request.processing),
        ("recipients", policy.where.recipients, request.receiving),
    ):
        if allowed is not None and not (actual and all(within(place, allowed) for place in actual)):
            outside = sorted(place for place in actual if not within(place, allowed))
            what = "would be computed in" if code == "processing" else "would go to"
            sentence = f"it {what} {_words(outside, 'a jurisdiction that is not known')}"
            yield Reason(f"where.{code}", f"where.{code}", sentence, allowed=_words(allowed))


# -- kind, join, protocol


def _kind(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    kinds = policy.analysis.kinds
    if request.kind not in kinds:
        sentence = f"analyses of the kind {request.kind!r} are not allowed"
        yield Reason("kind.not-allowed", "analysis.kinds", sentence, allowed=_words(kinds))


def _join(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    if not request.joint:
        return
    if policy.analysis.join is None:
        sentence = "this dataset may not be joined with another participant's"
        yield Reason("join.not-allowed", "analysis.join", sentence, allowed=_instead(policy))
    if not any(use.joined for use in request.columns):
        sentence = "another participant's data takes part without a join"
        named = policy.analysis.join.columns if policy.analysis.join else ()
        allowed = f"a join on {_words(named, 'no column: this dataset may not be joined')}"
        yield Reason("join.missing", "analysis.join.columns", sentence, allowed=allowed)


def _join_columns(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    for use in request.columns:
        yield from join_column(policy, use)


def _required(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    join, rule = policy.analysis.join, "analysis.join.required"
    if join is None or join.required != "asker":
        return
    if not (request.joint and request.asker_data):
        sentence = "the query must join the asker's own data"
        yield Reason("join.required", rule, sentence, allowed=f"a join on {_words(join.columns)}")
    elif request.unmatched:
        # what did not match is the total less what did: a question about this dataset alone
        sentence = "rows that match nothing of the asker's would be counted"
        yield Reason("join.required", rule, sentence, allowed="rows that match: JOIN, SEMI JOIN, EXISTS")


def _operators(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    allowed = policy.analysis.join.operators if policy.analysis.join else ()
    instead = _words(
        allowed, "one condition alone; the owner may add `operators: [and]` to the policy's `join`"
    )
    if policy.analysis.join is None:
        instead = f"{_instead(policy)}: it may not be joined at all"
    for operator in sorted(request.join_operators - set(allowed)):
        sentence = f"join conditions may not be combined with {operator!r}"
        yield Reason("join.operator-not-allowed", "analysis.join.operators", sentence, allowed=instead)


_LEAST_LEVEL = {
    Fact.RELEASED_CELLS: Level.HIDDEN,
    Fact.SUPPRESSED_CELLS: Level.HIDDEN,
    Fact.PADDED_SIZE: Level.HIDDEN,
    Fact.TOTAL_COUNTS: Level.HIDDEN,
    Fact.STEP_TOTALS: Level.HIDDEN,
    Fact.GROUP_COUNT: Level.CARDINALITY,
    Fact.GROUP_SIZES: Level.CARDINALITY,
    Fact.CELL_MATCH_COUNTS: Level.CARDINALITY,
    Fact.WEIGHT_FIGURES: Level.RECEIVER,
    Fact.OWN_MATCHES: Level.RECEIVER,
    Fact.MATCHED_ROWS: Level.ROWS,
}
"""The strictest level at which an event may happen at all (protocols.md, "Disclosure levels")."""


def least_level(fact: Fact) -> Level:
    """The strictest level at which an event may happen."""
    return _LEAST_LEVEL[fact]


def _level(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    join = policy.analysis.join
    tolerated = Level.parse(join.disclosure) if join else Level.HIDDEN
    protocol = request.protocol
    known = [event for event in protocol.reveals if event.fact in _LEAST_LEVEL]
    if len(known) < len(protocol.reveals) or protocol.level not in set(Level):
        sentence = f"{protocol.name} discloses something this policy has no word for"
        rule, allowed = "analysis.join.disclosure", "a protocol that both connectors' versions know"
        yield Reason("protocol.disclosure-unknown", rule, sentence, allowed=allowed)
        return
    actual = max([Level(protocol.level), *(_LEAST_LEVEL[event.fact] for event in known)])
    if actual > tolerated:
        sentence = f"{protocol.name} discloses at level {actual.word}"
        allowed = f"a protocol at level {tolerated.word}" + (" or stricter" if tolerated else "")
        yield Reason("protocol.level", "analysis.join.disclosure", sentence, allowed=allowed)


def _peer_keys(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    most = policy.analysis.maximum_peer_keys
    if most is None or not request.joint:
        return
    rule = "analysis.maximum_peer_keys"
    if request.peer_keys <= 0:
        yield Reason("peer-keys.unknown", rule, "the size of the other side's key set is not known")
    elif request.peer_keys > most:
        sentence = f"the other side's padded key set has {request.peer_keys} entries"
        yield Reason("peer-keys.too-many", rule, sentence, allowed=f"at most {most}")


def _minimum_identities(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    analysis = policy.analysis
    if analysis.minimum_identities is None:
        return
    countable = analysis.identity in request.identity_columns
    if "minimum-identities" in request.protocol.gates and countable and _gated(request.protocol.reveals):
        return
    yield Reason(
        "gate.minimum-identities.unavailable",
        "analysis.minimum_identities",
        f"{request.protocol.name} cannot count {analysis.identity} for this query before it releases",
        column=analysis.identity,
        allowed=_countable(policy),
    )


def _dominance(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    if policy.analysis.dominance is None:
        return
    code, rule, name = "gate.dominance.unavailable", "analysis.dominance", request.protocol.name
    if request.joint or "dominance" not in request.protocol.gates or not _gated(request.protocol.reveals):
        sentence = f"{name} shows the owner no identity's share of a cell before it releases"
        pooled = request.federation is not None and policy.analysis.federation is not None
        allowed = _SHARED if pooled else _instead(policy)
        yield Reason(code, rule, sentence, allowed=allowed)
    elif request.federation is not None:
        federation = policy.analysis.federation
        if federation is not None and federation.scope == "total":
            sentence = f"{name} shows no participant a total of figures before it is released"
            yield Reason(code, rule, sentence, allowed="`scope: local`: shares of this dataset's own cells")
        for use in request.columns:
            if {"min", "max"} & use.aggregated:
                sentence = f"nobody holds a share of the largest or smallest {use.column}"
                yield Reason(code, rule, sentence, use.column, _SHARED)


_SHARED = "sums, counts and what is computed from them"


def _differencing(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    # what earlier answers were about is compared once the rows are known: connector/differencing.py
    if policy.analysis.differencing is None or policy.analysis.noise is not None:
        return
    if "differencing" in request.protocol.gates and _gated(request.protocol.reveals):
        return
    sentence = f"{request.protocol.name} has no place to compare this query with earlier ones"
    open_to = "aggregates over this dataset alone, or joined with the asker's"
    allowed = _OWNERS if policy.analysis.federation is not None else open_to
    yield Reason("gate.differencing.unavailable", "analysis.differencing", sentence, allowed=allowed)


def _noise(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    analysis = policy.analysis
    if analysis.noise is None:
        return
    bounded = analysis.identity in request.identity_columns
    if not ("noise" in request.protocol.gates and bounded and _gated(request.protocol.reveals)):
        yield Reason(
            "gate.noise.unavailable",
            "analysis.noise",
            f"{request.protocol.name} cannot add noise that hides one {analysis.identity} in this query",
            column=analysis.identity,
            allowed=_countable(policy),
        )
    for use in request.columns if request.joint else ():
        if use.grouped or "histogram" in use.aggregated:
            sentence = f"{use.column} may not group a joint query under noise: its exact counts would be seen"
            yield Reason(
                "noise.joint-dimension", "analysis.noise", sentence, use.column, "the asker's own columns"
            )
        if "count_distinct" in use.aggregated:
            sentence = "the number of matched identities leaves a joint query exactly, without noise"
            yield Reason("noise.measure", "analysis.noise", sentence, use.column, _words(NOISED))


def _budget(policy: Policy, _request: Request, ledger: LedgerView) -> Iterator[Reason]:
    yield from overspent(policy, ledger)


def overspent(policy: Policy, ledger: LedgerView) -> Iterator[Reason]:
    """Why one more query would lose more privacy than a budget has left."""
    noise = policy.analysis.noise
    if noise is None or ledger.answered:
        return
    cost, budget, total = billionths(noise.rho_per_query), noise.budget, noise.dataset_budget
    left = billionths(budget.rho) - ledger.loss
    if ledger.loss < 0 or cost > left:
        sentence = f"this query costs rho {rho(cost)}, and {rho(left)} of {_rho_per(budget)} is left"
        yield Reason("budget.exhausted", "analysis.noise.budget", sentence, allowed=_rho_per(budget))
    left = 0 if total is None else billionths(total.rho) - ledger.dataset_loss
    if total is not None and (ledger.dataset_loss < 0 or cost > left):
        sentence = f"this query costs rho {rho(cost)}, and {rho(left)} is left of the dataset's, for ever"
        rule = "analysis.noise.dataset_budget"
        yield Reason("budget.dataset-exhausted", rule, sentence, allowed=f"rho {plain(total.rho)} in all")


def _rho_per(budget: Budget) -> str:
    return f"rho {plain(budget.rho)} per {budget.per}"


def _gated(reveals: Collection[Disclosure]) -> bool:
    """Nothing that shows values may leave without the owner's gate before it."""
    return all(event.gated for event in reveals if event.fact in {Fact.RELEASED_CELLS, Fact.MATCHED_ROWS})


# -- federations


def _federation(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    asked, allowed = request.federation, policy.analysis.federation
    if asked is None:
        if allowed is not None:
            sentence = "nobody else's rows are summed with this dataset's, whose own figures are not shown"
            rule = "analysis.federation.minimum_participants"
            yield Reason("federation.too-few", rule, sentence, allowed=f"federation.{allowed.name}")
        return
    if allowed is None or allowed.name != asked.name:
        sentence = f"this dataset takes no part in the federation {asked.name}"
        instead = "queries over this dataset alone" if allowed is None else f"federation.{allowed.name}"
        yield Reason("federation.not-allowed", "analysis.federation", sentence, allowed=instead)
        return
    rule, least = "analysis.federation.minimum_participants", allowed.minimum_participants
    if asked.participants < least:
        sentence = f"{asked.participants} participants take part"
        yield Reason("federation.too-few", rule, sentence, allowed=f"at least {least}")
    yield from _companions(request, asked, allowed)
    if "minimum-participants" not in request.protocol.gates or not _gated(request.protocol.reveals):
        sentence = f"{request.protocol.name} cannot count the participants behind a cell before it releases"
        yield Reason("gate.minimum-participants.unavailable", rule, sentence, allowed="a federated protocol")


def _companions(request: Request, asked: FederationUse, allowed: Federation) -> Iterator[Reason]:
    if allowed.participants is None:
        return
    rule, words = "analysis.federation.participants", _words(allowed.participants)
    named = {who for who in asked.others if {who, *request.standing.get(who, ())} & {*allowed.participants}}
    for other in sorted(asked.others - named):
        sentence = f"{other} would take part beside this dataset"
        yield Reason("federation.participant-not-allowed", rule, sentence, allowed=words)
    if len(asked.others) != asked.participants - 1:
        sentence = "it is not known who takes part"
        yield Reason("federation.participant-not-allowed", rule, sentence, allowed=words)


def _complementary(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    suppressions = policy.analysis.suppressions
    if request.federation is not None and suppressions is not None and suppressions.complementary:
        sentence = "over a federation no second cell is held back where a margin would give the first"
        yield Reason(
            "gate.complementary.unavailable",
            "analysis.suppressions",
            sentence,
            allowed=_OWNERS if policy.analysis.federation is not None else _instead(policy),
        )


# -- columns


def _columns(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    for use in request.columns:
        for rule in COLUMN_RULES:
            yield from rule(policy, use)


def _known(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    yield from unseen(policy, request)


def _templates(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    reviewed = policy.analysis.templates
    if reviewed and request.query_template not in reviewed:
        sentence = "the query is not an instance of a reviewed template"
        allowed = _words([name_of(template) for template in reviewed])
        yield Reason("template.not-matched", "analysis.templates", sentence, allowed=allowed)


def _answers_something(_policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    # a count of rows that the facts do not mention would pass every other rule
    # the overlap itself is what a list returns, with or without columns of this dataset
    listed = request.kind == "list" and any(use.joined for use in request.columns)
    if not listed and not any(use.aggregated or use.grouped or use.listed for use in request.columns):
        sentence = "the facts do not say what the query returns"
        yield Reason(
            "column.use-unknown", "analysis", sentence, allowed="a listed measure, dimension or column"
        )


def _list_analysis(_policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    if request.kind == "list" and not (request.joint and any(use.joined for use in request.columns)):
        sentence = "a list analysis returns rows of the overlap only"
        yield Reason("list.join-required", "analysis.kinds", sentence, allowed="a join")
    if request.kind == "list":
        return
    for use in request.columns:
        if use.listed:
            sentence = f"{use.column} would be returned as plain values by an analysis that is no list"
            yield Reason("list.column-not-allowed", "analysis.kinds", sentence, use.column, "aggregates")


def _list_filters(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    # a dimension may be filtered since its groups are shown anyway; a list would show whose row has the label
    analysis = policy.analysis
    labels = set(analysis.dimensions) - set(analysis.payload) if request.kind == "list" else set()
    for use in request.columns:
        named = named_filters(analysis, use.column)
        unnamed = (use.filtered & DIMENSION_FILTERS) - named or (use.compared_with_literal and not named)
        if use.column in labels and unnamed:
            sentence = f"a list filtered by {use.column} shows which rows have a label of it"
            allowed = _words({*analysis.filters, *analysis.payload})
            yield Reason("filter.not-allowed", "analysis.filters", sentence, use.column, allowed)


def _constant_filters(_policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    # such a condition switches figures on and off at the asker's will: a differencing tool
    if request.literals_on_total:
        sentence = "a condition can be decided from constants alone"
        yield Reason("filter.constant", "analysis.filters", sentence, allowed="conditions on listed columns")


def _grades(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    most = policy.transfer.grade_at_most if policy.transfer else None
    if most is None:
        return
    rule = "transfer.grade_at_most"
    for column in sorted({use.column for use in request.columns} - {"*"}):
        grade = request.grades.get(column)
        if grade is None:
            sentence = f"the grade of {column} is not known"
            yield Reason("grade.unknown", rule, sentence, column, "columns to which the owner gave a grade")
        elif grade > most:
            sentence = f"{column} has grade {grade}"
            yield Reason("grade.above-maximum", rule, sentence, column, f"columns of grade {most} or lower")


def _lists(policy: Policy, request: Request, _ledger: LedgerView) -> Iterator[Reason]:
    yield from list_reasons(policy, request)


_ALWAYS: tuple[Rule, ...] = (_enforceable, _same_dataset)
_OWN_USE: tuple[Rule, ...] = (
    _window,
    _elapsed,
    _witnesses,
    _kind,
    _join,
    _join_columns,
    _level,
    _peer_keys,
)
_RULES: tuple[Rule, ...] = (
    _assignee,
    _recipients,
    _connectors,
    _security_level,
    _purpose,
    _window,
    _elapsed,
    _uses,
    _sizes,
    _concurrent,
    _witnesses,
    _places,
    _kind,
    _join,
    _join_columns,
    _required,
    _operators,
    _level,
    _peer_keys,
    _minimum_identities,
    _dominance,
    _differencing,
    _noise,
    _budget,
    _federation,
    _complementary,
    _columns,
    _known,
    _templates,
    _answers_something,
    _list_analysis,
    _list_filters,
    _constant_filters,
    _grades,
    _lists,
)
