"""Facts about a query in, a decision with reasons out: the two ends of `decide`.

A request holds facts derived from the plan, never SQL text and never a literal: what the policy
cannot see here it cannot permit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from policy_enforcer.disclosure import Disclosure, Level


@dataclass(frozen=True, slots=True)
class ColumnUse:
    """Everything a query does with one column of one dataset."""

    column: str
    filtered: frozenset[str] = frozenset()  # "equality", "range", "pattern", "null", "membership"
    compared_with_literal: bool = False
    compared_with_column: bool = False
    joined: bool = False
    grouped: bool = False  # names a dimension: labels of released cells are shown
    listed: bool = False  # plain values of matched rows are returned (list analyses)
    aggregated: frozenset[str] = frozenset()  # "sum", "count", "count_distinct", "avg", "min", "var", ...
    conditional: bool = False  # decides inside an aggregate which value counts (CASE, COALESCE, …)
    selecting: bool = False  # decides inside an aggregate which rows count (FILTER, COUNT_IF)
    functions: frozenset[str] = frozenset()  # scalar functions applied to it
    weighted: bool = False  # multiplied with values of the other side


@dataclass(frozen=True, slots=True)
class ProtocolUse:
    """What the protocol chosen for this query discloses and can gate, straight from its declaration."""

    name: str
    version: int
    level: Level
    reveals: tuple[Disclosure, ...]
    gates: frozenset[str]  # "minimum-identities", "dominance", "differencing", "noise"


@dataclass(frozen=True, slots=True)
class FederationUse:
    """The sum over several participants' datasets that a query asks of one of them."""

    name: str
    participants: int
    others: frozenset[str] = frozenset()  # whose datasets stand beside this one


@dataclass(frozen=True, slots=True)
class TransferList:
    """A list of the law (white list, negative list, low-risk catalogue), as its issuer signed it."""

    kind: str  # the policy's word for it: "whitelist" | "negative_list" | "low_risk"
    issuer: str
    jurisdiction: str  # which the data leaves
    start: str  # first day or instant, as policies write them
    categories: frozenset[str]
    until: str | None = None
    recipients: frozenset[str] = frozenset()  # jurisdictions that it is about; empty: all


@dataclass(frozen=True, slots=True)
class Request:
    """One query, seen from one dataset's policy."""

    dataset: str  # participant.dataset
    owner: str
    asker: str
    recipients: frozenset[str]
    purpose: str | None
    at: datetime  # timezone-aware
    kind: str  # "aggregate" | "list"
    columns: tuple[ColumnUse, ...]
    protocol: ProtocolUse
    joint: bool  # data of another participant takes part
    asker_data: bool  # the asker's own data is joined
    join_operators: frozenset[str] = frozenset()  # "and", "or" between join conditions
    identity_columns: tuple[str, ...] = ()  # columns whose distinct values the protocol's count is about
    peer_keys: int = 0  # padded size of the other side's key set
    # participant -> what the member list certifies of it: "role:bank", "claim:..."
    standing: Mapping[str, frozenset[str]] = field(default_factory=dict)
    # participant -> ids of all evidence keys that the member list has of its connector now
    connectors: Mapping[str, frozenset[str]] = field(default_factory=dict)
    query_template: str | None = None  # reference (name@digest) of the template it is an instance of
    witnesses: int = 0  # witnesses that will record the exchange before anything leaves
    processing: frozenset[str] = frozenset()  # jurisdictions of the connectors that compute
    receiving: frozenset[str] = frozenset()  # jurisdictions of the recipients
    grades: Mapping[str, int] = field(default_factory=dict)  # column -> classification grade
    categories: Mapping[str, str] = field(default_factory=dict)  # column -> category, where one is declared
    origin: str = ""  # jurisdiction of the owner; "": not known
    # reference -> the list that it names, or the code of the reason why that is not to be trusted
    lists: Mapping[str, TransferList | str] = field(default_factory=dict)
    federation: FederationUse | None = None  # this dataset is one of several that are summed
    unmatched: bool = False  # rows of this dataset without a match in the asker's data are counted too
    rows_at_most: int = 0  # of the answer, or of this dataset's in a list; 0: not known
    bytes_at_most: int = 0  # of the answer as it leaves; 0: not known
    literals_on_total: bool = False  # a filter that can be computed from nothing but constants


@dataclass(frozen=True, slots=True)
class LedgerView:
    """What this dataset's agreement has used so far in the current period."""

    uses: int = 0
    running: int = 0
    agreed: datetime | None = (
        None  # timezone-aware: when the agreement was finalised; `when.elapsed` needs it
    )
    loss: int = 0  # privacy loss of the agreement in its budget's period, in billionths of rho (zCDP)
    dataset_loss: int = 0  # the same of the dataset, over all agreements, for ever
    rows_used: int = 0  # rows that the queries of the current period may have answered
    bytes_used: int = 0  # the same in bytes
    answered: bool = False  # the same question was answered before, and the same answer is given: no loss


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a policy refuses: a stable code, the rule's path in the policy, the column, the way out."""

    code: str  # e.g. "dimension.not-allowed"
    rule: str  # e.g. "analysis.dimensions"
    sentence: str
    column: str | None = None
    allowed: str | None = None  # what would be allowed instead, in words


@dataclass(frozen=True, slots=True)
class Decision:
    """Permit with no reasons, or refuse with at least one. Never anything between."""

    because: tuple[Reason, ...] = ()

    @property
    def permitted(self) -> bool:
        """True when no rule objects."""
        return not self.because

    def meet(self, other: Decision) -> Decision:
        """Both must permit: the most restrictive wins, and every reason is kept."""
        return Decision(self.because + other.because)
