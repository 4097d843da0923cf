"""What `masked_sum` and `he_sum` share, and `logistic_steps` in part: declaration, and the ends of roles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from compute import extremes, pooling
from compute.errors import PeerViolation, QueryError
from compute.federation import Contribution, Member, Roster, Seat, TotalGate, Totals
from compute.frames import Role
from compute.inputs import Cells, Context, Entropy, Gate, LocalInput, Summary
from compute.plan import Plan, Side
from compute.protocols._release import RELEASE_BYTES, noised
from compute.protocols.base import Cost, Protocol
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party

REVEALS = (
    Disclosure(Party.RECEIVER, Fact.RELEASED_CELLS, gated=True),
    Disclosure(Party.RECEIVER, Fact.SUPPRESSED_CELLS),
    Disclosure(Party.RECEIVER, Fact.TOTAL_COUNTS),
    Disclosure(Party.SENDER, Fact.TOTAL_COUNTS),
)
"""Of both federated protocols. The sender is any participant; gated, since each fills released cells only."""

GATES = frozenset({"minimum-identities", "minimum-participants", "noise"})
"""Of all federated protocols. Sums of cells have `dominance` besides: a cell can be left out, a step not."""


def protocol(
    *,
    name: str,
    version: int,
    threat_model: str,
    coordinator: Callable[[Plan, Roster], Role[Totals]],
    participant: Callable[[Plan, Member, Contribution, Entropy], Role[list[bool]]],
    cost: Callable[[Plan], Cost],
    parameters: Callable[[Side | None, Side, int], Mapping[str, Any]],
) -> Protocol:
    """The declaration of a federated protocol: both ends are the same but for these two roles."""

    def receiver(context: Context, own: LocalInput | None) -> Role[Cells]:
        assert own is None
        ours = seat(context)
        totals = yield from coordinator(context.plan, ours.roster)
        made: Cells = ours.shared(lambda: answered(context, totals))
        return made

    def sender(context: Context, own: LocalInput | pa.Table, gate: Gate) -> Role[Summary]:
        part = own_part(context, own, gate)
        return summary((yield from participant(context.plan, member(context), part, context.entropy)))

    return Protocol(
        name=name,
        version=version,
        level=Level.HIDDEN,
        joint=False,
        kinds=frozenset({"federated"}),
        threat_model=threat_model,
        reveals=REVEALS,
        gates=GATES | {"dominance"},
        weighted=False,
        cost=cost,
        parameters=parameters,
        receiver=receiver,
        sender=sender,
    )


def check_release(size: int) -> None:
    """Raise `QueryError` for a plan whose vectors of measures no release can carry."""
    if size > RELEASE_BYTES:
        raise QueryError(
            "plan.sums-too-large",
            "the figures of all cells are more than one answer may hold; ask for fewer of either",
        )


def seat(context: Context) -> Seat:
    """The asker's place in the round."""
    if not isinstance(context.federated, Seat):
        raise AssertionError("the asker's role of a round has a seat")
    return context.federated


def member(context: Context) -> Member:
    """A participant's place in the round."""
    if not isinstance(context.federated, Member):
        raise AssertionError("a participant's role of a round has a member")
    return context.federated


def own_part(context: Context, own: LocalInput | pa.Table, gate: Gate) -> Contribution:
    """What this participant contributes, with its noise, after its own gate."""
    assert isinstance(own, pa.Table)
    plan, entropy = context.plan, context.entropy
    return extremes.hidden(plan, pooling.contribution(plan, noised(plan, own, entropy, 1), gate), entropy)


def summary(released: list[bool]) -> Summary:
    """What a participant records: the answer's cells, as the asker counts them.

    How many of them it has rows in, and how many its own gate left out, is nobody else's to know.
    """
    return Summary(sum(released), 0)


def answered(context: Context, totals: Totals) -> Cells:
    """The answer's cells: those that the same rule lets out which the participants applied."""
    plan, gate = context.plan, TotalGate.of(seat(context).roster)
    totals = extremes.opened(plan, totals)
    check_bounds(plan, totals.measures, totals.identities)
    released = gate.released(pooling.shape(plan), [*totals.identities, *totals.participants])
    hidden = [shown or not any(column) for *column, shown in zip(*totals.measures, released, strict=True)]
    if not all(hidden):
        raise PeerViolation("peer.totals", "a participant filled a cell that its totals do not let out")
    return pooling.cells(plan, totals, released)


def check_bounds(plan: Plan, figures: Sequence[Sequence[int]], identities: Sequence[int] = ()) -> None:
    """Refuse totals, column by column, that no rows give: what is made of them could not hold them."""
    side, participants = plan.sender, len(plan.federation)
    bounds = [pooling.bound(side, partial, participants) for partial in side.partials]
    bounds.append(pooling.counts_bound(side, participants))
    columns = zip(bounds, [*figures, identities], strict=True)
    if any(abs(total) > bound for bound, column in columns for total in column):
        raise PeerViolation("peer.totals", "the totals are beyond what the catalogues declare")
