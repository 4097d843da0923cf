"""Aggregates over a join: the receiver learns which of its own rows matched, and the released cells.

The receiver learns, before any gate, which of its keys the sender holds, and the sender's number of
groups and padded set size; then the sums of released cells, and how many cells were held back. The
sender learns the exact match count of every cell (for its gate) under opaque group numbers, and the
receiver's padded set size. Semi-honest.

    both   number of groups
    psi    R learns its matches and their slots in S's secret order
    R -> S the largest share that one weight has in a group (only where the plan has weights)
    sums   per cell (g, h): Σ_slots w_g · v_h, where w_g is R's 0/1 mask and v_h S's column; S gates on
           the counts before it releases anything

Weights: for each of the plan's weight columns w_g is also R's sum over the rows of a key, an integer. The
sender then learns, per cell, how many of these are not zero (it gates on the fewest), and the share above.
What needs nothing of the sender's but the matches, R sums by itself; a group of its in which fewer values
than the owner's minimum are not zero it does not ask about, since its sum would tell which of them matched.
Without row counts a key in two rows of a receiver's group is refused as the asker's data error.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from compute.errors import DataError
from compute.inputs import Cells, Context, Gate, LocalInput, Summary
from compute.plan import Plan
from compute.protocols import _aggregate as aggregate
from compute.protocols import psi
from compute.protocols.base import Cost, Protocol, Role
from compute.protocols.psi import Indices, Matches
from compute.selection_sum import ReceiverGroup
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party


def receiver(context: Context, own: LocalInput | None) -> Role[Cells]:
    """R's side."""
    assert own is not None
    _check(context.plan, own)
    numbering = psi.permutation(own.groups, context.entropy)
    labels = own.labels.take(pa.array(numbering))
    yield from aggregate.send_groups(Party.RECEIVER, own.groups)
    sender_groups = yield from aggregate.receive_groups(context, Party.SENDER)
    shape = aggregate.shape(context, own.groups, sender_groups)
    if shape is None:
        return (yield from aggregate.receive_nothing(context, labels))
    matches = yield from psi.receiver(context, own.keys)
    groups, sums, left_out = _selections(context, own, matches, numbering)
    weighed = list(groups)
    if context.plan.sender.kept:
        labels, groups = aggregate.with_rest(context.plan, own, labels, groups)
    return (yield from aggregate.receive_sums(context, labels, groups, shape, left_out, sums, weighed))


def sender(context: Context, own: LocalInput | pa.Table, gate: Gate) -> Role[Summary]:
    """S's side."""
    assert isinstance(own, LocalInput)
    _check_unique(context.plan, own)
    yield from aggregate.send_groups(Party.SENDER, own.groups)
    receiver_groups = yield from aggregate.receive_groups(context, Party.RECEIVER)
    shape = aggregate.shape(context, receiver_groups, own.groups)
    if shape is None:
        return (yield from aggregate.send_nothing())
    order = yield from psi.sender(context, own.keys)
    return (yield from aggregate.send_sums(context, own, order, shape, gate))


def _check(plan: Plan, own: LocalInput) -> None:
    assert plan.receiver is not None
    if not plan.receiver.repeats:
        aggregate.once_per_group(plan, own)
    aggregate.one_group_per_key(plan, own)


def _check_unique(plan: Plan, own: LocalInput) -> None:
    """What R sums by itself relies on one row for each of S's keys, where the catalogue says so."""
    assert plan.receiver is not None
    keyed = aggregate.column(own, "key") < len(own.keys)
    repeated = np.any(aggregate.column(own, "rows")[keyed] != 1)
    if plan.receiver.partials and plan.sender.unique and repeated:
        raise DataError("data.not-unique", "a key that the catalogue declares unique occurs in several rows")


def _selections(
    context: Context, own: LocalInput, matches: Matches, numbering: Indices
) -> tuple[list[ReceiverGroup], aggregate.OwnSums, int]:
    """Per own group in `numbering`'s order: the slots of its matched keys, ascending; the sums over them.

    And how many groups that matched are not asked about.
    """
    plan = context.plan
    assert plan.receiver is not None
    slot_of = np.full(len(own.keys), -1, np.int64)
    slot_of[matches.keys] = matches.slots
    slots = slot_of[aggregate.column(own, "key")]
    matched = np.flatnonzero(slots >= 0)
    slots, groups = slots[matched], aggregate.column(own, "group")[matched]
    by = aggregate.by_group(groups, slots, own.groups)
    edges = np.searchsorted(groups[by], np.arange(own.groups + 1))
    parts = [by[edges[g] : edges[g + 1]] for g in numbering]
    values = {p.name: aggregate.column(own, p.name)[matched] for p in plan.receiver.partials}
    weights = [values[name] for name in plan.receiver.weights]
    selections = [ReceiverGroup(slots[part], tuple(w[part] for w in weights)) for part in parts]
    summed = {name: of for name, of in values.items() if name not in plan.receiver.weights}
    sums = {name: [aggregate.exact_sum(of[part]) for part in parts] for name, of in summed.items()}
    few = [i for i, part in enumerate(parts) if _too_few(context, [of[part] for of in summed.values()])]
    left_out = sum(len(selections[i].positions) > 0 for i in few)
    for i in few:
        nothing = selections[i].positions[:0]
        selections[i] = ReceiverGroup(nothing, (nothing,) * len(weights))
    # Where each group is a cell, matched or not, the sender counts it as held back.
    grouped = plan.receiver.dimensions and not plan.receiver.totals
    return selections, sums, left_out if grouped else 0


def _too_few(context: Context, summed: list[Indices]) -> bool:
    """Whether a figure of ours rests on fewer values than identities may be told apart."""
    least = context.minimum_group
    return least > 1 and any(np.count_nonzero(values) < least for values in summed)


def _cost(plan: Plan) -> Cost:
    return aggregate.cost(plan, group_frames=8)


PROTOCOL = Protocol(
    name="psi_aggregate",
    version=1,
    level=Level.RECEIVER,
    joint=True,
    kinds=frozenset({"aggregate"}),
    threat_model=(
        "Both connectors follow the protocol and may study what they see. A deviating receiver can ask "
        "about keys it does not hold and can select other slots than those that matched, with weights "
        "of its choice; over some hundreds of cells it can work out every value of the sender's columns."
    ),
    reveals=(
        Disclosure(Party.RECEIVER, Fact.RELEASED_CELLS, gated=True),
        Disclosure(Party.RECEIVER, Fact.SUPPRESSED_CELLS),
        Disclosure(Party.RECEIVER, Fact.OWN_MATCHES),
        Disclosure(Party.RECEIVER, Fact.GROUP_COUNT),
        Disclosure(Party.RECEIVER, Fact.PADDED_SIZE),
        Disclosure(Party.SENDER, Fact.CELL_MATCH_COUNTS),
        Disclosure(Party.SENDER, Fact.GROUP_COUNT),
        Disclosure(Party.SENDER, Fact.PADDED_SIZE),
    ),
    gates=frozenset({"minimum-identities", "noise", "differencing"}),
    weighted=True,
    cost=_cost,
    parameters=aggregate.parameters,
    receiver=receiver,
    sender=sender,
    check=_check,
    reveals_weighted=(Disclosure(Party.SENDER, Fact.WEIGHT_FIGURES),),
)
