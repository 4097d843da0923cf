"""What the owner's connector must do when a query is permitted: gate, clamp, pad labels, record.

The decision says *whether*; these figures say *how*. A runtime that cannot meet one must not run the query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from policy_enforcer.model import LogDuty, Policy


@dataclass(frozen=True, slots=True)
class Obligations:
    """One policy's demands on the release. The defaults demand nothing."""

    identity: str | None  # the column whose distinct values a cell's minimum counts
    minimum_identities: int  # cells with fewer are suppressed; 1: only empty cells are
    bounds: Mapping[str, tuple[Decimal, Decimal]]  # values are clamped to these before they are summed
    domains: Mapping[str, tuple[str | bool | int, ...]]  # labels of suppressed cells may be shown only here
    witnesses: int  # how many must have recorded the intent before anything leaves


def obligations(policy: Policy) -> Obligations:
    """The demands of one policy."""
    analysis = policy.analysis
    return Obligations(
        identity=analysis.identity,
        minimum_identities=analysis.minimum_identities or 1,
        bounds=analysis.bounds,
        domains=analysis.domains,
        witnesses=max((d.minimum_witnesses for d in policy.duties if isinstance(d, LogDuty)), default=0),
    )
