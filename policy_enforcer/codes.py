"""Every reason code a decision can carry, and its meaning. Stable: scripts and evidence hold them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

REASONS: Mapping[str, str] = MappingProxyType(
    {
        "policy.not-enforceable": "the policy contradicts itself, or demands what nothing here enforces",
        "dataset.mismatch": "the policy is about another dataset or owner",
        "assignee.not-allowed": "the asker is not named in `assignee`",
        "recipient.not-allowed": "somebody who would get the result is not named in `assignee`",
        "purpose.missing": "no purpose was declared",
        "purpose.not-allowed": "the declared purpose is not in the list",
        "time.unknown": "the time of the request is not known exactly",
        "time.too-early": "the permission has not begun",
        "time.expired": "the permission has ended",
        "uses.exhausted": "no use is left in this period",
        "uses.concurrent": "too many queries of this agreement are running",
        "witness.too-few": "fewer witnesses than demanded will record the exchange",
        "where.processing": "a connector that computes is in a jurisdiction not allowed, or not known",
        "where.recipients": "a recipient is in a jurisdiction not allowed, or not known",
        "kind.not-allowed": "this kind of analysis (aggregate, list) is not allowed, or not known",
        "join.not-allowed": "the dataset may not be joined with another participant's",
        "join.missing": "another participant's data takes part without a join on a column of this dataset",
        "join.column-not-allowed": "this column may not be joined",
        "join.column-output": "a join column would be output",
        "join.required": "the query must join the asker's own data",
        "join.operator-not-allowed": "join conditions may not be combined like this",
        "protocol.level": "the protocol discloses more about the join keys than the policy tolerates",
        "protocol.disclosure-unknown": "the protocol discloses something the policy language has no word for",
        "dimension.not-allowed": "this column may not group",
        "filter.not-allowed": "this column may not be filtered or compared",
        "filter.kind-not-allowed": "this column may not be filtered like this",
        "filter.column-comparison": "this column may not be compared with another column",
        "filter.constant": "a condition can be decided from constants alone",
        "identity.compared-with-literal": "an identity would be compared with a literal",
        "identity.grouped": "the query would group by identities",
        "measure.not-allowed": "this column may not be aggregated",
        "measure.function-not-allowed": "this column may not be aggregated by this function",
        "aggregate.conditional": "a predicate is hidden inside an aggregate",
        "function.not-allowed": "this scalar function is not in the list",
        "weighted.not-allowed": "the asker's values may not weight this column",
        "list.column-not-allowed": "plain values of this column may not be returned",
        "list.join-required": "a list analysis returns rows of the overlap only",
        "column.use-unknown": "the column is read in a way the policy language has no word for",
        "grade.above-maximum": "the column's classification grade is above the maximum",
        "grade.unknown": "the column's classification grade is not known",
        "peer-keys.too-many": "the other side's key set is larger than the maximum",
        "peer-keys.unknown": "the size of the other side's key set is not known",
        "gate.minimum-identities.unavailable": "the protocol cannot count the identities before the release",
    }
)
