"""What a well-formed policy may still get wrong: words nothing can enforce, and contradictions.

A duty that the runtime cannot enforce is refused unless it says that it is declared only: a policy that
demands it must not run as if it did not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from policy_enforcer.disclosure import Level
from policy_enforcer.known import allowed_by
from policy_enforcer.model import ANY, OF_THEIR_OWN, Analysis, LogDuty, Policy, plain
from policy_enforcer.moments import end_instant, first_instant
from policy_enforcer.privacy import words_apart
from policy_enforcer.problems import Path, Problem, dotted

Finding = tuple[str, Path, str, str]  # code, path, sentence, suggestion


def unenforceable(policy: Policy) -> Iterator[Finding]:
    """Everything this policy demands and the runtime cannot give."""
    for duty in policy.duties:
        if not isinstance(duty, LogDuty) and not duty.declared:
            hint = "Add `declared: true`: it is then recorded and shown, and law alone enforces it."
            yield (
                "policy.not-enforceable",
                ("duties", duty.word),
                "the runtime cannot enforce this duty",
                hint,
            )


def contradictions(policy: Policy) -> Iterator[Finding]:
    """Everything in it that cannot be meant: one half would allow what the other always refuses."""
    for rule in _CONTRADICTIONS:
        for path, sentence, hint in rule(policy):
            yield "policy.contradiction", path, sentence, hint
    if _joint_without_limit(policy):
        yield (
            "policy.joint-unlimited",
            ("analysis", "join"),
            "an offer that may be joined needs a limit against differencing: uses.count, noise or templates",
            "Add for example `uses: {count: 200, per: month}`.",
        )


Contradiction = tuple[Path, str, str]


def _joint_without_limit(policy: Policy) -> bool:
    analysis = policy.analysis
    counted = policy.uses is not None and policy.uses.count is not None
    return analysis.join is not None and not (counted or analysis.noise or analysis.templates)


def _any_alone(policy: Policy) -> Iterator[Contradiction]:
    for word in ("assignee", "purpose"):
        named = getattr(policy, word)
        if "any" in named and named != ANY:
            hint = f"Write `{word}: any`, or the entries without it."
            yield (word,), "`any` stands alone: it makes the other entries meaningless", hint


def _empty_groups(policy: Policy) -> Iterator[Contradiction]:
    for word in ("where", "when", "uses", "conditions", "transfer"):
        group = getattr(policy, word)
        if group is not None and not group.model_dump(exclude_none=True, exclude={"per"}):
            yield (word,), "this limits nothing", f"Say what {word!r} limits, or remove it."
    declared = policy.conditions.declared if policy.conditions else None
    if declared is not None and not declared.model_dump(exclude_none=True):
        yield ("conditions", "declared"), "this declares nothing", "Name an application, event or state."


def _window(policy: Policy) -> Iterator[Contradiction]:
    when = policy.when
    if when and when.start and when.until and first_instant(when.start) >= end_instant(when.until):
        yield ("when", "until"), "the time ends before it begins", f"Write a day after {when.start}."


def _counted_identity(policy: Policy) -> Iterator[Contradiction]:
    analysis = policy.analysis
    if analysis.minimum_identities is not None and analysis.identity is None:
        hint = "Add `identity: <column>`."
        yield (
            ("analysis", "minimum_identities"),
            "a minimum counts identities: say which column they are",
            hint,
        )


def _consenting(policy: Policy) -> Iterator[Contradiction]:
    if policy.transfer is not None and policy.transfer.consent and policy.analysis.identity is None:
        hint = "Add `identity: <column>`."
        yield ("transfer", "consent"), "consent is given by identities: say which column they are", hint


def _exempting(policy: Policy) -> Iterator[Contradiction]:
    transfer = policy.transfer
    if transfer is not None and transfer.low_risk is not None and transfer.whitelist is None:
        hint = "Write it as `whitelist` if only what it names may leave."
        yield ("transfer", "low_risk"), "it exempts from a white list, and none is named", hint


def _keys(analysis: Analysis) -> set[str]:
    joined = set(analysis.join.columns) if analysis.join else set()
    return joined | ({analysis.identity} if analysis.identity else set())


def _keys_never_shown(policy: Policy) -> Iterator[Contradiction]:
    analysis = policy.analysis
    keys = _keys(analysis)
    for word in ("dimensions", "payload"):
        for column in getattr(analysis, word):
            if column in keys:
                hint = f"Remove {column} here: the asker of a join sees its own."
                yield ("analysis", word, column), "identities and join columns are never output", hint
    for column in analysis.filters:
        if column == analysis.identity:
            hint = f"Remove {column} here, or make another column the identity."
            yield ("analysis", "filters", column), "identities are never compared with literals", hint
    for column, measures in analysis.measures.items():
        if column in keys and not set(measures) <= {"count", "count_distinct"}:
            hint = "Only count and count_distinct are possible."
            yield ("analysis", "measures", column), "identities and join columns may only be counted", hint
        if column == "*" and measures != ("count",):
            sentence = "'*' stands for rows, which can only be counted"
            yield ("analysis", "measures", column), sentence, 'Write "*": [count].'


def _masks(policy: Policy) -> Iterator[Contradiction]:
    keys = _keys(policy.analysis)
    for column in policy.masking:
        if column in keys:
            hint = "Remove the mask: join columns and identities are never output."
            yield ("masking", column), "a join or a count of identities needs the value itself", hint


def _ranges(policy: Policy) -> Iterator[Contradiction]:
    for column, (low, high) in policy.analysis.bounds.items():
        if low > high:
            sentence = "the lower bound is above the upper one"
            yield ("analysis", "bounds", column), sentence, f"Write [{plain(high)}, {plain(low)}]."
    for column in policy.analysis.domains:
        if column not in policy.analysis.dimensions:
            hint = f"Add {column} to `dimensions`, or remove its domain."
            yield ("analysis", "domains", column), "a domain belongs to a dimension", hint


def _companions(policy: Policy) -> Iterator[Contradiction]:
    federation = policy.analysis.federation
    named = set(federation.participants or ()) - {policy.owner} if federation is not None else set()
    if federation is None or federation.participants is None or any(":" in who for who in named):
        return
    if len(named) + 1 < federation.minimum_participants:
        sentence = f"{len(named)} others may take part, too few for minimum_participants"
        yield ("analysis", "federation", "participants"), sentence, "Name more, or demand fewer."


def _known(policy: Policy) -> Iterator[Contradiction]:
    for column, entries in policy.analysis.column_disclosure.items():
        for who, ways in entries.items():
            path = ("analysis", "column_disclosure", column, who)
            alone = {"plaintext", "never"} & set(ways)
            if alone and len(ways) > 1:
                sentence = f"`{min(alone)}` stands alone: it makes the other ways meaningless"
                yield path, sentence, f"Write `{min(alone)}`, or the other ways."
            if who == policy.owner:
                yield path, "the owner sees its own data anyway: this limits nothing", "Remove it."


def _matches_hidden(policy: Policy) -> Iterator[Contradiction]:
    """No protocol hides matches where groups of one are shown, whose labels are the asker's keys."""
    analysis = policy.analysis
    joined = analysis.join.columns if analysis.join is not None else ()
    if analysis.noise is not None or analysis.minimum_identities not in (None, 1):
        return
    for column in joined:
        for who, ways in analysis.column_disclosure.get(column, {}).items():
            if "join-hidden" in allowed_by(ways) and "after-join" not in allowed_by(ways):
                yield (
                    ("analysis", "column_disclosure", column, who),
                    "where groups of one are shown, those by the asker's own key are a list of what matches",
                    "Add `minimum_identities: 10`, or `noise`; or allow `after-join`.",
                )


def _lists(policy: Policy) -> Iterator[Contradiction]:
    analysis = policy.analysis
    if "list" not in analysis.kinds:
        if analysis.payload:
            yield ("analysis", "payload"), "payload columns are for list analyses", "Add `list` to kinds."
        return
    if not analysis.payload:
        hint = "Add `payload: [<columns>]`."
        yield ("analysis", "kinds"), "a list analysis returns named payload columns: none is named", hint
    if analysis.join is None or Level.parse(analysis.join.disclosure) < Level.ROWS:
        hint = "Set `disclosure: rows`, or remove `list` from kinds."
        yield ("analysis", "kinds"), "a list analysis shows matched rows: that is disclosure level rows", hint


_CONTRADICTIONS: tuple[Callable[[Policy], Iterator[Contradiction]], ...] = (
    _any_alone,
    _empty_groups,
    _window,
    _counted_identity,
    _consenting,
    _exempting,
    _keys_never_shown,
    _ranges,
    _masks,
    _companions,
    _known,
    _matches_hidden,
    _lists,
    words_apart,
)


def warnings(policy: Policy) -> Iterator[Finding]:
    """What is allowed but seldom meant."""
    for rule in _WARNINGS:
        for path, sentence, hint in rule(policy):
            yield "policy.advice", path, sentence, hint


def _wide_open(policy: Policy) -> Iterator[Contradiction]:
    if policy.assignee == ANY:
        yield ("assignee",), "every participant may ask", "Name them: ids, `role:…`, `claim:…`."
    if policy.purpose == ANY:
        yield ("purpose",), "every purpose is accepted, and none too", "Name those that you mean."
    if policy.where is None:
        yield (), "no jurisdiction is excluded", "Add `where: {processing: [...], recipients: [...]}`."
    if policy.when is None or (policy.when.until is None and policy.when.elapsed is None):
        yield (("when",) if policy.when else ()), "the permission never ends", "Add `when: {until: ...}`."
    if not any(isinstance(duty, LogDuty) for duty in policy.duties):
        yield (), "no witness is demanded: exchanges may run unrecorded", "Add `duties: [{log: witness}]`."


def _small_groups(policy: Policy) -> Iterator[Contradiction]:
    minimum = policy.analysis.minimum_identities
    if minimum is None:
        hint = "Add `identity` and `minimum_identities: 10`."
        yield ("analysis",), "no minimum of identities: a group of one is shown", hint
    elif minimum < 3:
        path = ("analysis", "minimum_identities")
        yield path, "below 3, a member of a group of two learns about the other", "Write 3 or more."


def _ungateable(policy: Policy) -> Iterator[Contradiction]:
    analysis = policy.analysis
    if analysis.join and analysis.minimum_identities and analysis.identity not in analysis.join.columns:
        yield (
            ("analysis", "identity"),
            "the identity is no join column, so joint queries cannot be gated and will be refused",
            "Join on the identity, or expect single-domain queries only.",
        )


def _enumerable(policy: Policy) -> Iterator[Contradiction]:
    join, most = policy.analysis.join, policy.analysis.maximum_peer_keys
    if join is not None and Level.parse(join.disclosure) >= Level.RECEIVER and most is None:
        sentence = "whoever brings every key that there may be learns which of them this dataset has"
        yield ("analysis", "join", "disclosure"), sentence, "Add `maximum_peer_keys: 100000`."


def _looked_up(policy: Policy) -> Iterator[Contradiction]:
    analysis = policy.analysis
    for column in analysis.join.columns if analysis.join is not None else ():
        if column in analysis.filters and column != analysis.identity:
            sentence = "a question may be about one key alone"
            yield ("analysis", "filters", column), sentence, f"Remove it, or add `identity: {column}`."


def _composite(policy: Policy) -> Iterator[Contradiction]:
    join = policy.analysis.join
    if join is not None and len(join.columns) > 1 and "and" not in join.operators:
        sentence = "several join columns and no `and`: a query joins on one of them alone"
        yield ("analysis", "join", "columns"), sentence, "Add `operators: [and]` where they are one key."


def _declared(policy: Policy) -> Iterator[Contradiction]:
    said = policy.conditions.declared if policy.conditions else None
    paths: list[Path] = [
        ("duties", d.word) for d in policy.duties if not isinstance(d, LogDuty) and d.declared
    ]
    paths += [("transfer", word) for word in ("basis", "filing") if getattr(policy.transfer, word, None)]
    paths += [
        ("conditions", "declared", word)
        for word in ("application", "event", "state")
        if getattr(said, word, None)
    ]
    for path in paths:
        yield path, "declared only: recorded and shown, enforced by law alone", "See to it by other means."


def _unused(policy: Policy) -> Iterator[Contradiction]:
    analysis = policy.analysis
    used = {*analysis.dimensions, *analysis.filters, *analysis.measures, *analysis.payload}
    for column in policy.masking:
        if column not in used:
            hint = "Remove the mask, or permit a use of the column."
            yield ("masking", column), "this masks a column that no query may use", hint
    used |= set(analysis.join.columns) if analysis.join else set()
    for column in analysis.column_disclosure:
        if column not in used:
            path = ("analysis", "column_disclosure", column)
            yield path, "this limits a column that no query may use", "The lists permit; this only limits."
    if "aggregate" not in analysis.kinds:
        for word in ("dimensions", "measures"):
            if getattr(analysis, word):
                sentence = "groups and figures are of aggregates, which `kinds` does not name"
                yield ("analysis", word), sentence, "Add `aggregate` to kinds, or remove this."
    if "aggregate" in analysis.kinds and not analysis.measures:
        hint = 'Name measures, for example `measures: {amount: [sum], "*": [count]}`.'
        yield ("analysis",), "no measure is named, so no aggregate can be asked", hint
    if analysis.weighted and not (analysis.join and Level.parse(analysis.join.disclosure) >= Level.RECEIVER):
        sentence = "weights need disclosure level receiver, so none will be used"
        yield ("analysis", "weighted"), sentence, "Write `disclosure: receiver`, or remove this."


def _unknown_recipients(policy: Policy) -> Iterator[Contradiction]:
    ids = {who for who in policy.assignee if ":" not in who}
    for column, entries in policy.analysis.column_disclosure.items():
        for who, ways in entries.items():
            path = ("analysis", "column_disclosure", column, who)
            if "rank-only" in ways:
                sentence = "nothing here shows an order without the values, so `rank-only` allows nothing"
                yield path, sentence, "Remove it, or allow the values to be listed."
            listed = policy.assignee != ANY and ids == set(policy.assignee)
            if listed and who not in {*ids, *ANY, policy.owner} and ":" not in who:
                yield path, "nobody of this name may ask or receive", f"Known here: {', '.join(sorted(ids))}."


def _selecting(policy: Policy) -> Iterator[Contradiction]:
    """One answer with and without a condition shows whoever the condition leaves out."""
    if policy.analysis.conditional and policy.analysis.noise is None:
        sentence = "one query shows a sum and the same sum over some rows: the difference may be one identity"
        hint = "Remove it, or add `noise`. `minimum_identities` counts those who meet the condition only."
        yield ("analysis", "conditional"), sentence, hint


def _noise(policy: Policy) -> Iterator[Contradiction]:
    analysis = policy.analysis
    if analysis.noise is None:
        return
    for column, measures in analysis.measures.items():
        if column not in analysis.bounds and {"sum", "avg"} & set(measures):
            sentence = "noise grows with the bounds; none stand here, so the dataset's count"
            yield ("analysis", "measures", column), sentence, f"Add `bounds: {{{column}: [least, most]}}`."
    if analysis.noise.dataset_budget is None:
        sentence = "every new agreement begins with a new privacy budget"
        yield ("analysis", "noise"), sentence, "Add `dataset_budget: {rho: 4.0}`."
    for column in analysis.dimensions:
        if column not in analysis.domains:
            sentence = "under noise nobody can group by a column whose values are not declared"
            yield ("analysis", "dimensions", column), sentence, f"Add `domains: {{{column}: [...]}}`."


def _dominance(policy: Policy) -> Iterator[Contradiction]:
    if policy.analysis.dominance is not None and policy.analysis.join is not None:
        sentence = "no joint protocol shows shares, so joint queries will be refused"
        yield ("analysis", "dominance"), sentence, "Expect single-domain queries only, or remove it."


def _federation(policy: Policy) -> Iterator[Contradiction]:
    federation, path = policy.analysis.federation, ("analysis", "federation")
    if federation is None:
        return
    if policy.analysis.dominance is not None and federation.scope == "total":
        sentence = "nobody sees a share of a total before it is released: with `dominance` all is refused"
        yield (*path, "scope"), sentence, "Write `scope: local`, or remove `dominance`."
    suppressions = policy.analysis.suppressions
    if suppressions is not None and suppressions.complementary:
        sentence = "over a federation no second cell is held back: with `complementary` all is refused"
        yield ("analysis", "suppressions", "complementary"), sentence, "Remove it, or `federation`."
    if policy.analysis.differencing is not None and policy.analysis.noise is None:
        sentence = (
            "nobody compares the sums of a federation: with `differencing` and no `noise` all is refused"
        )
        yield ("analysis", "differencing"), sentence, "Set `noise`, or remove `differencing` or `federation`."
    if policy.analysis.join is not None:
        sentence = "its datasets are asked about in its sums alone, so joint queries will be refused"
        yield (*path, "name"), sentence, "Remove `join`, or publish a second offer with a policy of its own."
    if federation.scope == "total" and policy.analysis.minimum_identities is None:
        yield (*path, "scope"), "there is no minimum for it to speak of", "Add `minimum_identities: 10`."
    if federation.scope == "total" and federation.minimum_participants == 2:
        sentence = "of two participants behind a cell, each can subtract itself and see the other"
        yield (*path, "minimum_participants"), sentence, "Write 3 or more."
    fits = any("logistic" in named for named in policy.analysis.measures.values())
    if fits and federation.minimum_participants == 2 and policy.analysis.noise is None:
        sentence = "of two participants in a logistic regression, each sees the other's sums at every step"
        yield (*path, "minimum_participants"), sentence, "Write 3 or more, or set `noise`."


_WARNINGS: tuple[Callable[[Policy], Iterator[Contradiction]], ...] = (
    _wide_open,
    _small_groups,
    _ungateable,
    _enumerable,
    _looked_up,
    _composite,
    _declared,
    _unused,
    _unknown_recipients,
    _selecting,
    _noise,
    _dominance,
    _federation,
)


def errors(policy: Policy) -> tuple[Finding, ...]:
    """Everything because of which this policy must not be loaded."""
    return (*unenforceable(policy), *contradictions(policy))


def meaningless(policy: Policy) -> Iterator[Finding]:
    """Words that stand for nobody and nowhere, however they are meant. No new policy may say them.

    Agreements from before this was refused may. They are read, and the words refuse: that permits nothing.
    """
    for word in ("processing", "recipients"):
        for code in sorted(OF_THEIR_OWN & {*(getattr(policy.where, word, None) or ())}):
            sentence = "it goes by its own code, and is no part of CN here"
            yield "policy.bad-value", ("where", word, code), sentence, f"Write {code.partition('-')[2]}."
    federation = policy.analysis.federation
    if federation is not None and {*ANY} & {*(federation.participants or ())}:
        path, hint = ("analysis", "federation", "participants"), "Remove it: any member then takes part."
        yield "policy.contradiction", path, "no participant is called `any`", hint


def as_problem(finding: Finding, *, line: int = 0, column: int = 0, warning: bool = False) -> Problem:
    """A finding with the place it was found at."""
    code, path, sentence, hint = finding
    return Problem(code, sentence, dotted(path), line, column, hint, warning)
