"""A policy in sentences, for those who answer for data: what it allows, keeps back, opens, leaves to people.

What columns may be used for comes from the matrix, which asks the rules that decide; who learns what, from
the protocols' vocabulary. Figures and names are the policy's own; nothing here is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from policy_enforcer.decide import least_level
from policy_enforcer.describe import MatrixRow, matrix
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party
from policy_enforcer.explain import Language, sentence, spaced
from policy_enforcer.model import (
    ANY,
    Analysis,
    DeleteDuty,
    NotifyDuty,
    PassOnDuty,
    PaymentDuty,
    Policy,
    Uses,
    plain,
)
from policy_enforcer.obligations import obligations
from policy_enforcer.wording import SENTENCES, listing, mask, span, spoken

Paragraph = tuple[str, list[str]]
"""A heading and its sentences."""

Say = Callable[..., str]


def described(
    policy: Policy, grades: Mapping[str, int | None], lang: Language = "en"
) -> tuple[Paragraph, ...]:
    """The policy in paragraphs. `grades`: by column of the dataset; None where it has none."""

    def say(key: str, *values: object) -> str:
        return spaced(SENTENCES[key][lang == "zh"].format(*values))

    found = (
        ("who", [*_who(policy, lang, say)]),
        ("columns", [*_columns(policy, grades, lang, say)]),
        ("kept back", [*_kept_back(policy, lang, say)]),
        ("learns", [*_learns(policy, lang), *_unmatched(policy, say)]),
        ("federation", [*_federation(policy.analysis, lang, say)]),
        ("beware", [*_beware(policy, say)]),
        ("people", [*_people(policy, lang, say)]),
    )
    return tuple((say(heading), sentences) for heading, sentences in found if sentences)


def _who(policy: Policy, lang: Language, say: Say) -> Iterator[str]:
    where, conditions = policy.where, policy.conditions
    anybody, anything = policy.assignee == ANY, policy.purpose == ANY
    yield say("anybody") if anybody else say("assignee", ", ".join(policy.assignee))
    yield say("anything") if anything else say("purpose", ", ".join(policy.purpose))
    for word in ("processing", "recipients"):
        places = getattr(where, word, None)
        yield say(word, ", ".join(places)) if places else say(f"any {word}")
    yield from _when(policy, lang, say)
    yield from _how_often(policy.uses or Uses(), lang, say)
    if conditions is not None and conditions.security_level:
        yield say("security_level", conditions.security_level)
    if conditions is not None and conditions.connectors:
        yield say("connectors", ", ".join(f"{named[:-56]}…" for named in conditions.connectors))


def _when(policy: Policy, lang: Language, say: Say) -> Iterator[str]:
    when = policy.when
    for word in ("start", "until"):
        moment = getattr(when, word, None)
        if moment is not None:
            yield say(word, moment) if "T" in moment else say(f"{word} day", moment)
    if when is not None and when.elapsed is not None:
        yield say("elapsed", span(when.elapsed, lang))


def _how_often(uses: Uses, lang: Language, say: Say) -> Iterator[str]:
    if uses.count is None:
        yield say("any count")
    for word in ("count", "rows", "bytes"):
        if getattr(uses, word) is not None:
            yield say(word, getattr(uses, word), spoken(uses.per, lang))
    if uses.max_concurrent is not None:
        yield say("max_concurrent", uses.max_concurrent)


def _columns(policy: Policy, grades: Mapping[str, int | None], lang: Language, say: Say) -> Iterator[str]:
    most = None if policy.transfer is None else policy.transfer.grade_at_most
    # what lists of the law take away depends on the dataset's categories: the paragraph after this names them
    for row in matrix(policy.model_copy(update={"transfer": None}), grades):
        if most is not None and row.column != "*" and row.grade is None:
            yield say("no grade", row.column)
        elif most is not None and (row.grade or 0) > most:
            yield say("too high", row.column, row.grade)
        else:
            column = say("rows of the data") if row.column == "*" else row.column
            parties = ", ".join(say("anyone") if (who,) == ANY else who for who in row.parties)
            yield say("column", column, parties, say("and").join(_uses(row, lang, say)) or say("unused"))


def _uses(row: MatrixRow, lang: Language, say: Say) -> Iterator[str]:
    yield from (say(word) for word in ("joined", "grouped", "listed", "weighted") if getattr(row, word))
    if row.filtered:
        yield say("filtered", listing(row.filtered, lang))
    if row.measured:
        yield say("measured", listing(row.measured, lang))
    if row.usable and row.mask is not None:
        yield say("mask", mask(row.mask, lang))


def _kept_back(policy: Policy, lang: Language, say: Say) -> Iterator[str]:
    yield from _minimum(policy.analysis, say)
    yield from _gates(policy.analysis, lang, say)
    yield from _entering(policy.analysis, lang, say)
    yield from _bounds(policy, say)
    witnesses = obligations(policy).witnesses
    yield say("witnesses", witnesses) if witnesses else say("no witness")


def _minimum(analysis: Analysis, say: Say) -> Iterator[str]:
    least, federation = analysis.minimum_identities, analysis.federation
    if least is None or least < 2:
        return
    for kind in analysis.kinds:
        yield say(f"minimum of {kind}", least, analysis.identity)
    if federation is not None:
        yield say(f"minimum of {federation.scope}", federation.name, analysis.identity)


def _gates(analysis: Analysis, lang: Language, say: Say) -> Iterator[str]:
    federation = analysis.federation
    if federation is not None:
        yield say("minimum_participants", federation.name, federation.minimum_participants)
    if analysis.dominance:
        yield say("dominance", analysis.identity, plain(analysis.dominance.share_at_most))
        if federation is not None:
            yield say(f"dominance of {federation.scope}", federation.name)
    if analysis.suppressions and analysis.suppressions.complementary:
        yield say("complementary")
    if analysis.suppressions and analysis.suppressions.count == "hidden":
        yield say("count hidden")
    if analysis.differencing:
        yield say("differencing", analysis.differencing.minimum_difference)
        if analysis.differencing.window:
            yield say("window", span(analysis.differencing.window, lang))
    yield from _noise(analysis, lang, say)


def _noise(analysis: Analysis, lang: Language, say: Say) -> Iterator[str]:
    if analysis.noise:
        yield say("noise", analysis.identity, plain(analysis.noise.rho_per_query))
        yield say("budget", plain(analysis.noise.budget.rho), spoken(analysis.noise.budget.per, lang))
        if analysis.noise.dataset_budget:
            yield say("dataset_budget", plain(analysis.noise.dataset_budget.rho))


def _entering(analysis: Analysis, lang: Language, say: Say) -> Iterator[str]:
    """What enters a computation at all."""
    for word in ("max_rows_per_identity", "max_cells_per_identity"):
        if getattr(analysis, word):
            yield say(word, getattr(analysis, word), analysis.identity)
    for column, (low, high) in analysis.bounds.items():
        yield say("bounds", column, plain(low), plain(high))
    if analysis.domains and (analysis.noise or analysis.federation):
        yield say("domains", ", ".join(sorted(analysis.domains)))
    if analysis.scalar_functions:
        yield say("scalar_functions", ", ".join(analysis.scalar_functions))
    if analysis.conditional:
        yield say("selecting")
    if analysis.maximum_peer_keys:
        yield say("maximum_peer_keys", analysis.maximum_peer_keys)
    if analysis.join and analysis.join.operators:
        yield say("operators", listing(analysis.join.operators, lang))


def _bounds(policy: Policy, say: Say) -> Iterator[str]:
    analysis, transfer = policy.analysis, policy.transfer
    if analysis.templates:
        yield say("templates", ", ".join(name.partition("@")[0] for name in analysis.templates))
    if analysis.join and analysis.join.required:
        yield say("required")
    if transfer is not None and transfer.grade_at_most is not None:
        yield say("grade_at_most", transfer.grade_at_most)
    for word in ("whitelist", "negative_list", "low_risk", "consent"):
        named = getattr(transfer, word, None)
        if named is not None:
            yield say(word, named.partition("@")[0])


def _learns(policy: Policy, lang: Language) -> Iterator[str]:
    """What protocols may reveal to the asker's connector at the tolerated level, over a join."""
    join = policy.analysis.join
    tolerated = Level.parse(join.disclosure) if join else Level.HIDDEN
    if set(ANY) & obligations(policy).matches_hidden_from:
        tolerated = min(tolerated, Level.CARDINALITY)
    names = {Party.RECEIVER: _ASKER[lang == "zh"], Party.SENDER: policy.owner}
    # of lists alone the owner's gate decides before anything is learnt
    lists_alone = "aggregate" not in policy.analysis.kinds
    facts = (Fact.OWN_MATCHES, Fact.MATCHED_ROWS) if lists_alone else Fact
    for fact in facts if join is not None else ():
        level, gated = least_level(fact), lists_alone or fact is Fact.MATCHED_ROWS
        if Level.HIDDEN < level <= tolerated and fact is not Fact.WEIGHT_FIGURES:  # those are the owner's
            yield sentence(Disclosure(Party.RECEIVER, fact, gated), names, lang)


def _unmatched(policy: Policy, say: Say) -> Iterator[str]:
    """Who learns less than that."""
    hidden = obligations(policy).matches_hidden_from - set(ANY)
    if policy.analysis.join is None:
        yield say("alone")
    elif hidden:
        yield say("unmatched", ", ".join(sorted(hidden)))


def _federation(analysis: Analysis, lang: Language, say: Say) -> Iterator[str]:
    """Beside whom the data is summed, and what their connectors learn."""
    federation = analysis.federation
    if federation is None:
        return
    named = ", ".join(federation.participants or ())
    yield say("beside", federation.name, named) if named else say("beside anybody", federation.name)
    yield say("sums alone")
    names = dict.fromkeys(Party, _OTHERS[lang == "zh"])
    yield sentence(Disclosure(Party.SENDER, Fact.TOTAL_COUNTS), names, lang)
    if any("logistic" in measures for measures in analysis.measures.values()):
        yield sentence(Disclosure(Party.SENDER, Fact.STEP_TOTALS, gated=True), names, lang)


def _beware(policy: Policy, say: Say) -> Iterator[str]:
    analysis: Analysis = policy.analysis
    if (analysis.minimum_identities or 1) < 2 and analysis.noise is None:
        yield say("no minimum")
    join = analysis.join
    if join and Level.parse(join.disclosure) >= Level.RECEIVER and analysis.maximum_peer_keys is None:
        yield say("any keys")
    if analysis.conditional and analysis.noise is None:
        yield say("conditional")
    if analysis.federation is not None and analysis.federation.honest_participants is not None:
        yield say("shares", analysis.federation.honest_participants)
    if analysis.weighted:
        yield say("weights")
    if "product" in analysis.scalar_functions:
        yield say("product")
    measured = {measure for measures in analysis.measures.values() for measure in measures}
    if {"min", "max"} & measured and analysis.noise is None:
        yield say("extremes")
    if analysis.noise is not None and analysis.noise.dataset_budget is None:
        yield say("new budgets")
    if policy.when is None or (policy.when.until is None and policy.when.elapsed is None):
        yield say("for ever")


def _people(policy: Policy, lang: Language, say: Say) -> Iterator[str]:
    """What is declared: recorded and shown, kept by people."""
    stated = policy.conditions.declared if policy.conditions is not None else None
    for group, words in ((policy.transfer, ("basis", "filing")), (stated, ("application", "event", "state"))):
        for word in words:
            text = getattr(group, word, None)
            if text is not None:
                yield say(word, text)
    for duty in policy.duties:
        match duty:
            case NotifyDuty():
                yield say("notify")
            case DeleteDuty():
                yield say("delete", span(duty.after, lang))
            case PassOnDuty():
                yield say("pass_on")
            case PaymentDuty():
                yield say("payment", duty.payment)


_ASKER = ("the asker", "提问方")
_OTHERS = ("every other participant", "其他每个参与方")
