"""Which protocol answers: the cheapest that both datasets tolerate and that the sums fit.

Where the asker names a protocol it is the only candidate, and what is refused is said of that one.

Refused, with what would work: a disclosure level that an owner does not tolerate, a shape that no protocol
answers, sums that no parameters hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from compute.dataset import DatasetInfo
from compute.errors import QueryError
from compute.plan import Plan
from compute.protocols.base import Protocol
from policy_enforcer.disclosure import Level

JOINT_CELLS = (4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8)
"""Most cells of a joint answer: receiver groups x sender groups. The flooding bound and the receiver's
memory grow with it, so the largest of these that the protocol can hold is planned."""


def kind_of(plan: Plan) -> str:
    """Which of the kinds that protocols declare a plan is."""
    if plan.logistic is not None:
        return "logistic"
    return "federated" if plan.federation else plan.kind


def choose(draft: Plan, infos: Sequence[DatasetInfo], protocols: Sequence[Protocol]) -> tuple[Protocol, Plan]:
    """The cheapest protocol that both datasets tolerate and that the sums fit."""
    joint = draft.receiver is not None
    able = [p for p in protocols if p.joint == joint and kind_of(draft) in p.kinds]
    if draft.noise is not None:
        able = [p for p in able if "noise" in p.gates]
    limit = min(info.disclosure for info in infos)
    tolerated = [p for p in able if not joint or p.level <= limit]
    if not tolerated:
        raise _no_protocol(protocols, able, infos, limit)
    if draft.receiver is not None and draft.receiver.partials:
        tolerated = [p for p in tolerated if p.weighted]
        if not tolerated:
            raise _unweighted([p for p in able if p.weighted], infos, draft)
    candidates, refusals = [], []
    for protocol in tolerated:
        try:
            candidates.append((protocol, _with(draft, protocol)))
        except QueryError as refusal:
            refusals.append(refusal)
    if not candidates:
        raise _too_large(refusals[0])
    return min(candidates, key=lambda pair: (pair[0].cost(pair[1]).seconds, pair[0].name))


def _with(draft: Plan, protocol: Protocol) -> Plan:
    """The draft under this protocol, with as many cells as it can hold."""
    *larger, last = [n for n in JOINT_CELLS if n <= draft.maximum_cells] or [draft.maximum_cells]
    for cells in larger if draft.receiver is not None else ():
        with suppress(QueryError):
            return _of(replace(draft, maximum_cells=cells), protocol)
    return _of(draft if draft.receiver is None else replace(draft, maximum_cells=last), protocol)


def _of(draft: Plan, protocol: Protocol) -> Plan:
    return replace(
        draft,
        protocol=protocol.name,
        protocol_version=protocol.version,
        level=protocol.level,
        parameters=protocol.parameters(draft.receiver, draft.sender, draft.maximum_cells),
        reveals=protocol.reveals + (protocol.reveals_weighted if _weighs(draft) else ()),
    )


def _weighs(plan: Plan) -> bool:
    return plan.receiver is not None and bool(plan.receiver.weights)


def _unweighted(able: Sequence[Protocol], infos: Sequence[DatasetInfo], draft: Plan) -> QueryError:
    needed = min((protocol.level for protocol in able), default=Level.RECEIVER)
    names = ", ".join(protocol.name for protocol in able) or "psi_aggregate"
    strict = ", ".join(f"{i.full_name} ({i.disclosure.word})" for i in infos if i.disclosure < needed)
    instead = f"too strict: {strict}. Ask for an offer at that level" if strict else "name that one or none"
    return QueryError(
        "query.weighted-not-available",
        f"an aggregate reads {draft.asker}'s own columns, which needs {names} at disclosure level "
        f"{needed.word!r}; {instead}, or aggregate columns of {draft.sender.dataset} and group by your own",
    )


def _too_large(refusal: QueryError) -> QueryError:
    if refusal.code != "plan.selection-sum-does-not-fit":
        return refusal
    return QueryError(
        refusal.code,
        f"{refusal.sentence}; ask for fewer aggregates at a time, or for tighter bounds of what they read",
    )


def _no_protocol(
    protocols: Sequence[Protocol], able: Sequence[Protocol], infos: Sequence[DatasetInfo], limit: Level
) -> QueryError:
    named = protocols[0].name if len(protocols) == 1 else ""
    if named and not able:
        return QueryError(
            "protocol.none",
            f"{named} answers no question of this shape, or not with the noise that the owner's policy adds; "
            "name another protocol, or none",
        )
    if not able:
        return QueryError("protocol.none", "no protocol answers a question of this shape")
    needed = min(protocol.level for protocol in able)
    strict = ", ".join(info.full_name for info in infos if info.disclosure < needed)
    what, instead = (named, "name another") if named else ("this join", "ask a question over one dataset")
    return QueryError(
        "protocol.level",
        f"{what} needs disclosure level {needed.word!r}; {strict} tolerates at most {limit.word!r}. "
        f"Ask the owner for an offer at that level, or {instead}",
    )
