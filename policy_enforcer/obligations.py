"""What the owner's connector must do when a query is permitted: gate, clamp, pad labels, record.

The decision says *whether*; these figures say *how*. A runtime that cannot meet one must not run the query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from policy_enforcer.known import allowed_by
from policy_enforcer.model import ANY, LogDuty, Policy
from policy_enforcer.privacy import billionths


@dataclass(frozen=True, slots=True)
class NoiseDemand:
    """Noise that each query's figures carry, and what the query costs in billionths of rho (zCDP)."""

    mechanism: Literal["discrete-gaussian", "discrete-laplace"]
    loss: int
    shares: int = 1  # over a federation, how many participants' noise together is what that takes


@dataclass(frozen=True, slots=True)
class Obligations:
    """One policy's demands on the release. The defaults demand nothing."""

    identity: str | None  # the column whose distinct values a cell's minimum counts
    minimum_identities: int  # cells with fewer are suppressed; 1: only empty cells are
    bounds: Mapping[str, tuple[Decimal, Decimal]]  # values are clamped to these before they are summed
    domains: Mapping[str, tuple[str | bool | int, ...]]  # labels of suppressed cells may be shown only here
    witnesses: int  # how many must have recorded the intent before anything leaves
    rows_per_identity: int | None = None  # most rows of one identity that enter any sum of a query
    cells_per_identity: int | None = None  # most cells of an answer that one identity counts in
    dominance: Fraction | None = None  # largest share of a figure that one identity of a cell may hold
    complementary: bool = False  # hold back a second cell where a margin would give the first
    suppressions_hidden: bool = False  # nobody is told how many cells were held back
    noise: NoiseDemand | None = None
    weighted: bool = False  # the asker's values may weight what is summed
    masking: Mapping[str, str] = field(default_factory=dict)  # column -> what stands in for its values
    answers_limited: bool = False  # rows or bytes of answers are counted: declared labels bound the groups
    # who must not learn which keys match (`any`: nobody may), so that a protocol that hides it is planned
    matches_hidden_from: frozenset[str] = frozenset()
    mask_salt: bytes = field(default=b"", repr=False)  # of one agreement, its owner's alone

    def hides_matches_from(self, asker: str) -> bool:
        """Must this asker not learn which keys match?"""
        return not self.matches_hidden_from.isdisjoint({asker, *ANY})


def obligations(policy: Policy) -> Obligations:
    """The demands of one policy."""
    analysis = policy.analysis
    dominance, suppressions = analysis.dominance, analysis.suppressions
    return Obligations(
        identity=analysis.identity,
        minimum_identities=analysis.minimum_identities or 1,
        bounds=analysis.bounds,
        domains=analysis.domains,
        witnesses=max((d.minimum_witnesses for d in policy.duties if isinstance(d, LogDuty)), default=0),
        rows_per_identity=analysis.max_rows_per_identity,
        cells_per_identity=analysis.max_cells_per_identity,
        dominance=None if dominance is None else Fraction(dominance.share_at_most),
        complementary=suppressions is not None and suppressions.complementary,
        suppressions_hidden=suppressions is not None and suppressions.count == "hidden",
        noise=_noise(policy),
        weighted=analysis.weighted,
        masking=policy.masking,
        matches_hidden_from=_matches_hidden_from(policy),
        answers_limited=policy.uses is not None and (policy.uses.rows or policy.uses.bytes) is not None,
    )


def _matches_hidden_from(policy: Policy) -> frozenset[str]:
    joined, limited = policy.analysis.join, policy.analysis.column_disclosure
    entries = [limited.get(column, {}) for column in joined.columns] if joined is not None else []
    return frozenset(
        who for named in entries for who, ways in named.items() if "after-join" not in allowed_by(ways)
    )


def _noise(policy: Policy) -> NoiseDemand | None:
    noise, federation = policy.analysis.noise, policy.analysis.federation
    if noise is None:
        return None
    honest = federation.honest_participants if federation is not None else None
    # one of them that studies the totals can take its own share off: the others' must be the whole
    shares = 1 if honest is None else honest - 1
    return NoiseDemand(noise.mechanism, billionths(noise.rho_per_query), shares)


NOTHING_DEMANDED = Obligations(None, 1, {}, {}, 0)
"""Of a dataset that is read for its own owner."""
