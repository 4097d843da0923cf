"""The rules about one column of a query: what may be joined, grouped, filtered, measured, listed.

COUNT(*) is a use of the column `*`: it needs `measures: {"*": [count]}` like every other measure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType

from policy_enforcer.facts import ColumnUse, Reason
from policy_enforcer.model import Analysis, Policy

DIMENSION_FILTERS = frozenset({"equality", "membership", "null"})
"""How a dimension may be filtered without being named in `filters`: that selects among shown groups."""

IMPLIED_FILTERS: Mapping[str, frozenset[str]] = MappingProxyType({"range": frozenset({"range", "equality"})})
"""A range from x to x is an equality, so refusing the latter would protect nothing."""

ColumnRule = Callable[[Policy, ColumnUse], Iterator[Reason]]


def allowed_filters(analysis: Analysis, column: str) -> frozenset[str]:
    """The ways in which this column may be compared."""
    if column == analysis.identity:
        return frozenset()
    implied = DIMENSION_FILTERS if column in analysis.dimensions else frozenset()
    return named_filters(analysis, column) | implied


def named_filters(analysis: Analysis, column: str) -> frozenset[str]:
    """Those of them that `filters` names."""
    named = analysis.filters.get(column, ())
    return frozenset(kind for word in named for kind in IMPLIED_FILTERS.get(word, {word}))


def join_column(policy: Policy, use: ColumnUse) -> Iterator[Reason]:
    """Only named columns are joined. Also applies to the asker's own dataset."""
    allowed = policy.analysis.join.columns if policy.analysis.join else ()
    if use.joined and use.column not in allowed:
        rule = "analysis.join.columns"
        yield Reason(
            "join.column-not-allowed",
            rule,
            f"{use.column} may not be joined",
            use.column,
            _words(allowed, "no join"),
        )


def _words(values: Collection[str], otherwise: str = "") -> str:
    return ", ".join(sorted(values)) or otherwise


def _used_somehow(_policy: Policy, use: ColumnUse) -> Iterator[Reason]:
    ways = (use.filtered, use.compared_with_literal, use.compared_with_column, use.joined, use.grouped)
    others = (use.listed, use.aggregated, use.conditional, use.selecting, use.weighted)
    if not any(ways) and not any(others):
        sentence = f"{use.column} is read in a way this policy has no word for"
        yield Reason("column.use-unknown", "analysis", sentence, use.column)


def _grouped(policy: Policy, use: ColumnUse) -> Iterator[Reason]:
    analysis, rule = policy.analysis, "analysis.dimensions"
    if not use.grouped:
        return
    allowed = _words(analysis.dimensions, "figures without groups of this dataset's columns")
    if use.column == analysis.identity:
        sentence = f"grouping by {use.column} shows single identities"
        yield Reason("identity.grouped", "analysis.identity", sentence, use.column, allowed)
    elif analysis.join and use.column in analysis.join.columns:
        sentence = f"{use.column} is a join column, which is never output"
        yield Reason("join.column-output", "analysis.join.columns", sentence, use.column, allowed)
    elif use.column not in analysis.dimensions:
        yield Reason("dimension.not-allowed", rule, f"{use.column} may not group", use.column, allowed)


_UNFILTERED = "no comparison: ask about all rows"


def _filtered(policy: Policy, use: ColumnUse) -> Iterator[Reason]:
    kinds = use.filtered
    if not (kinds or use.compared_with_literal):
        return
    allowed = allowed_filters(policy.analysis, use.column)
    if use.column == policy.analysis.identity:
        return  # `_identity` says why
    if not allowed:
        filterable = _words({*policy.analysis.filters, *policy.analysis.dimensions}, _UNFILTERED)
        sentence = f"{use.column} may not be filtered"
        yield Reason("filter.not-allowed", "analysis.filters", sentence, use.column, filterable)
        return
    for kind in sorted(kinds - allowed):
        sentence = f"{use.column} may not be filtered by {kind}"
        yield Reason("filter.kind-not-allowed", "analysis.filters", sentence, use.column, _words(allowed))


def _identity(policy: Policy, use: ColumnUse) -> Iterator[Reason]:
    analysis = policy.analysis
    if use.column != analysis.identity or not (use.compared_with_literal or use.filtered):
        return
    filterable = _words({*analysis.filters, *analysis.dimensions}, _UNFILTERED)
    sentence = f"{use.column} is an identity and may not be compared"
    yield Reason("identity.compared-with-literal", "analysis.identity", sentence, use.column, filterable)


def _compared(policy: Policy, use: ColumnUse) -> Iterator[Reason]:
    if use.compared_with_column and "column" not in allowed_filters(policy.analysis, use.column):
        sentence = f"{use.column} may not be compared with another column"
        comparable = {c for c in policy.analysis.filters if "column" in allowed_filters(policy.analysis, c)}
        yield Reason(
            "filter.column-comparison",
            "analysis.filters",
            sentence,
            use.column,
            _words(comparable, _UNFILTERED),
        )


def _aggregated(policy: Policy, use: ColumnUse) -> Iterator[Reason]:
    rule, measures = "analysis.measures", policy.analysis.measures
    if not use.aggregated:
        return
    allowed = measures.get(use.column, ())
    if not allowed:
        sentence = "rows may not be counted" if use.column == "*" else f"{use.column} may not be aggregated"
        yield Reason("measure.not-allowed", rule, sentence, use.column, _words(measures, "no figures"))
        return
    for function in sorted(use.aggregated - set(allowed)):
        sentence = f"{use.column} may not be aggregated by {function}"
        yield Reason("measure.function-not-allowed", rule, sentence, use.column, _words(allowed))


def _conditional(policy: Policy, use: ColumnUse) -> Iterator[Reason]:
    # `selecting` leaves rows out, which a minimum then does not count; a value in place of another one is
    # counted with whoever it hides, so no switch permits that
    switch, rule = policy.analysis.conditional, "analysis.conditional"
    if use.conditional:
        sentence = f"{use.column} decides inside an aggregate which value counts"
        instead = "the condition in FILTER (WHERE …)" if switch else "the condition in WHERE"
        yield Reason("aggregate.conditional", rule, sentence, use.column, instead)
    elif use.selecting and not switch:
        sentence = f"{use.column} decides inside an aggregate which rows count"
        yield Reason("aggregate.conditional", rule, sentence, use.column, "the condition in WHERE")


def _functions(policy: Policy, use: ColumnUse) -> Iterator[Reason]:
    allowed = policy.analysis.scalar_functions
    for function in sorted(use.functions - set(allowed)):
        sentence = f"{function} may not be applied to {use.column}"
        yield Reason(
            "function.not-allowed",
            "analysis.scalar_functions",
            sentence,
            use.column,
            _words(allowed, "no function"),
        )


def _weighted(policy: Policy, use: ColumnUse) -> Iterator[Reason]:
    # a weight that is zero but for one row isolates that row
    if use.weighted and not policy.analysis.weighted:
        sentence = f"{use.column} may not be weighted with values of the other side"
        yield Reason(
            "weighted.not-allowed", "analysis.weighted", sentence, use.column, "sums without weights"
        )
    if use.weighted and not use.aggregated:
        sentence = f"{use.column} is weighted but not aggregated"
        yield Reason("column.use-unknown", "analysis.weighted", sentence, use.column)


def _listed(policy: Policy, use: ColumnUse) -> Iterator[Reason]:
    allowed = policy.analysis.payload
    if use.listed and use.column not in allowed:
        sentence = f"plain values of {use.column} may not be returned"
        yield Reason(
            "list.column-not-allowed", "analysis.payload", sentence, use.column, _words(allowed, "figures")
        )


NOISED = frozenset({"sum", "count", "avg", "var", "stddev", "covar", "corr", "regr", "histogram", "logistic"})
"""What noise can be added to: sums of bounded values, and what is computed from them."""


def _noised(policy: Policy, use: ColumnUse) -> Iterator[Reason]:
    analysis = policy.analysis
    if analysis.noise is None:
        return
    if use.grouped and (use.column not in analysis.domains or use.functions):
        # which labels there are would tell whether anybody is there
        yield Reason(
            "noise.domain-undeclared",
            "analysis.domains",
            f"{use.column} may group under noise only by its declared values as they stand",
            use.column,
            _words([column for column in analysis.domains if column in analysis.dimensions], "no groups"),
        )
    able = NOISED | ({"count_distinct"} if use.column == analysis.identity else set())
    for function in sorted(use.aggregated - able):
        sentence = f"{function} of {use.column} cannot be released with noise"
        yield Reason("noise.measure", "analysis.noise", sentence, use.column, _words(NOISED))


COLUMN_RULES: tuple[ColumnRule, ...] = (
    _used_somehow,
    _grouped,
    _filtered,
    _identity,
    _compared,
    _aggregated,
    _conditional,
    _functions,
    _weighted,
    _listed,
    _noised,
)
