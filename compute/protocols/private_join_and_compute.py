"""Aggregates over a join in which the receiver does not learn which of its rows matched.

The receiver learns how many of its keys matched in each of its groups (before any gate), the released
cells, how many cells were held back, and the sender's number of groups and padded set size. The sender
learns the match count of every cell (for its gate), the proportions of the receiver's groups under
opaque numbers, and the padded set size. Semi-honest; a receiver that masks every key with a scalar of
its own undoes the sender's permutation and learns its matches as in `psi_aggregate`.

As `psi`, but with R's points grouped and S's tags of them permuted inside each group:

    R -> S   group sizes; then { a·H(x) } group by group     S -> R   { b·H(y) } in S's secret order
    S -> R   tags of { b·(a·H(x)) }, permuted in each group

R then knows for each slot of S whether, and in which group, it matched: enough for its 0/1 masks.

A match count of none or all of a group tells R about each row in it, so groups below the owner's
minimum are never asked about: R leaves them out (they count as suppressed) and attests the minimum;
S refuses before anything of its data leaves if that is lower than its own. The sizes S sees are padded
to R's public bound: dummies are spread over the groups in proportion to their keys, so S learns how the
groups compare, not how many keys R's filter left. Keys of left-out groups are replaced by dummies.

A key in two groups of R would be a repeated point, recognisable to both: refused as R's data error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from compute import kernel
from compute.errors import DataError, PeerViolation
from compute.inputs import Cells, Context, Gate, LocalInput, Summary
from compute.plan import Plan
from compute.protocols import _aggregate as aggregate
from compute.protocols import psi
from compute.protocols.base import Cost, Frame, Protocol, Role, receive, receive_blob, send_blob
from compute.protocols.psi import Indices
from compute.selection_sum import ReceiverGroup
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party

SHUFFLE_SECONDS = 4e-7
"""Per key: arranging the groups at R and permuting inside them at S."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """R's padded set in the order it is sent: group after group, shuffled inside each."""

    groups: Indices  # own group of each part, in a fresh order
    real: Indices  # keys in each part
    sizes: Indices  # keys and dummies in each part; they add up to the padded size
    order: Indices  # key index of each place; >= number of keys: a dummy


def receiver(context: Context, own: LocalInput | None) -> Role[Cells]:
    """R's side."""
    assert own is not None
    _check(context.plan, own)
    parts = _arrange(context, own)
    labels, left_out = own.labels.take(pa.array(parts.groups)), own.groups - len(parts.groups)
    yield from aggregate.send_groups(Party.RECEIVER, len(parts.groups))
    yield from _send_sizes(context, parts.sizes)
    sender_groups = yield from aggregate.receive_groups(context, Party.SENDER)
    shape = aggregate.shape(context, len(parts.groups), sender_groups) if len(parts.groups) else None
    if shape is None:
        return (yield from aggregate.receive_nothing(context, labels, left_out))
    sent_tags, slot_tags = yield from psi.receiver_tags(context, own.keys, parts.order)
    groups = [ReceiverGroup(slots) for slots in _selections(parts, *psi.match(sent_tags, slot_tags))]
    if context.plan.sender.kept:
        labels, groups = _with_rest(context, own, parts, labels, groups)
    return (yield from aggregate.receive_sums(context, labels, groups, shape, left_out))


def sender(context: Context, own: LocalInput | pa.Table, gate: Gate) -> Role[Summary]:
    """S's side."""
    assert isinstance(own, LocalInput)
    receiver_groups = yield from aggregate.receive_groups(context, Party.RECEIVER)
    sizes = yield from _receive_sizes(context, receiver_groups)
    yield from aggregate.send_groups(Party.SENDER, own.groups)
    shape = aggregate.shape(context, receiver_groups, own.groups) if receiver_groups else None
    if shape is None:
        return (yield from aggregate.send_nothing())
    order, tags = yield from psi.sender_tags(context, own.keys)
    inside = _shuffled_within(np.repeat(np.arange(len(sizes)), sizes), context)
    yield from psi.send_tags(kernel.permute(tags, pa.array(inside)))
    return (yield from aggregate.send_sums(context, own, order, shape, gate))


def _with_rest(
    context: Context, own: LocalInput, parts: _Parts, labels: pa.Table, groups: list[ReceiverGroup]
) -> tuple[pa.Table, list[ReceiverGroup]]:
    """As in `_aggregate`; nothing is selected where some keys were not asked about: they may match."""
    labels, (rest, *others) = aggregate.with_rest(context.plan, own, labels, groups)
    known = int(parts.real.sum()) == len(own.keys)
    return labels, [rest if known else ReceiverGroup(np.empty(0, np.int64)), *others]


def _check(plan: Plan, own: LocalInput) -> None:
    aggregate.once_per_group(plan, own)
    _only_group(own)


def _arrange(context: Context, own: LocalInput) -> _Parts:
    """Leave out groups below the minimum, pad the others, shuffle: groups, and keys inside each."""
    group_of = _only_group(own)
    counts = np.bincount(group_of, minlength=own.groups)
    eligible = np.flatnonzero(counts >= max(context.minimum_group, 1))
    groups = eligible[psi.permutation(len(eligible), context.entropy)]
    real, padded = counts[groups], psi.Sizes.of(context).receiver
    psi.within_bound(len(own.keys), padded)
    sizes = _spread(real, padded)
    part_of = np.full(own.groups, -1)
    part_of[groups] = np.arange(len(groups))
    asked = np.flatnonzero(part_of[group_of] >= 0)
    parts = np.concatenate([part_of[group_of[asked]], np.repeat(np.arange(len(groups)), sizes - real)])
    items = np.concatenate([asked, len(own.keys) + np.arange(int((sizes - real).sum()))])
    return _Parts(groups, real, sizes, items[_shuffled_within(parts, context)])


def _only_group(own: LocalInput) -> Indices:
    """The group of each key. Two would send its point twice, and both sides would recognise it."""
    keys = aggregate.column(own, "key")
    if len(keys) != len(own.keys) or np.bincount(keys, minlength=1).max() > 1:
        raise DataError("data.key-in-several-groups", "a join key of the asker is in more than one group")
    group_of = np.empty(len(keys), np.int64)
    group_of[keys] = aggregate.column(own, "group")
    return group_of


def _spread(real: Indices, padded: int) -> Indices:
    """Padded sizes in proportion to `real`, adding up to `padded` (largest remainders)."""
    total = int(real.sum())
    if total == 0:
        return real
    sizes, remainders = np.divmod(real * padded, total)
    sizes[np.argsort(-remainders, kind="stable")[: padded - int(sizes.sum())]] += 1
    return sizes


def _shuffled_within(parts: Indices, context: Context) -> Indices:
    """A uniform order of the places of each part, part after part."""
    order = psi.permutation(len(parts), context.entropy)
    return order[np.argsort(parts[order], kind="stable")]


def _send_sizes(context: Context, sizes: Indices) -> Role[None]:
    """Attest the minimum that every group has in real keys, and give the padded sizes."""
    yield Frame("minimum-group", context.minimum_group.to_bytes(8, "big"))
    yield from send_blob("group-sizes", sizes.astype(">u8").tobytes())


def _receive_sizes(context: Context, groups: int) -> Role[Indices]:
    """Refuse an attested minimum below the owner's, and sizes that are not a padding of such groups."""
    attested = int.from_bytes((yield from receive("minimum-group", 8)), "big")
    sizes = np.frombuffer((yield from receive_blob("group-sizes", 8 * groups)), dtype=">u8")
    least, padded = max(context.minimum_group, 1), psi.Sizes.of(context).receiver
    fits = all(least <= size <= padded for size in sizes.tolist())
    if attested < context.minimum_group or not fits or sum(sizes.tolist()) != (padded if groups else 0):
        raise PeerViolation("peer.group-sizes", "the peer's groups are too small or not padded as agreed")
    return sizes.astype(np.int64)


def _selections(parts: _Parts, positions: Indices, slots: Indices) -> list[Indices]:
    """Per part, the slots of its matched keys, ascending: R cannot tell which key is in which slot."""
    edges = np.concatenate([[0], np.cumsum(parts.sizes)])
    part = np.searchsorted(edges, positions, side="right") - 1
    counts = np.bincount(part, minlength=len(parts.real))
    if np.any(counts > parts.real):
        raise PeerViolation("peer.forged-tags", "the peer's tags match values that no party holds")
    ordered = slots[aggregate.by_group(part, slots, len(parts.real))]
    return np.split(ordered, np.cumsum(counts)[:-1])


def _cost(plan: Plan) -> Cost:
    assert plan.receiver is not None
    base = aggregate.cost(plan, group_frames=16 + 8 * aggregate.nominal_shape(plan).receiver_groups)
    return Cost(base.seconds + SHUFFLE_SECONDS * plan.receiver.keys_bound, base.bytes)


PROTOCOL = Protocol(
    name="private_join_and_compute",
    version=1,
    level=Level.CARDINALITY,
    joint=True,
    kinds=frozenset({"aggregate"}),
    threat_model=(
        "Both connectors follow the protocol and may study what they see. A deviating receiver can learn "
        "which of its rows matched, can ask about keys it does not hold and can misstate its group sizes; "
        "over some hundreds of cells it can work out every value of the sender's columns."
    ),
    reveals=(
        Disclosure(Party.RECEIVER, Fact.RELEASED_CELLS, gated=True),
        Disclosure(Party.RECEIVER, Fact.SUPPRESSED_CELLS),
        Disclosure(Party.RECEIVER, Fact.CELL_MATCH_COUNTS),
        Disclosure(Party.RECEIVER, Fact.GROUP_COUNT),
        Disclosure(Party.RECEIVER, Fact.PADDED_SIZE),
        Disclosure(Party.SENDER, Fact.CELL_MATCH_COUNTS),
        Disclosure(Party.SENDER, Fact.GROUP_COUNT),
        Disclosure(Party.SENDER, Fact.GROUP_SIZES),
        Disclosure(Party.SENDER, Fact.PADDED_SIZE),
    ),
    gates=frozenset({"minimum-identities", "noise", "differencing"}),
    weighted=False,
    cost=_cost,
    parameters=aggregate.parameters,
    receiver=receiver,
    sender=sender,
    check=_check,
)
