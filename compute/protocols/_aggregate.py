"""The second half of both joint aggregates: groups, selection sum, gate, release.

After the key exchange the receiver knows, for each group of its own, which of the sender's slots it
selects, and the sender where in its order each of its keys stands. Both bring their groups in a fresh
order, so that numbers and positions say nothing about labels. Refused: more cells than the plan has, a
peer's answer that no honest run gives, figures about weights that contradict what the owner counted.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import isqrt
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compute import selection_sum
from compute.errors import DataError, PeerViolation
from compute.inputs import Cells, Context, Gate, LocalInput, Summary, WeightFigures
from compute.plan import Plan, Side
from compute.protocols import psi
from compute.protocols._release import (
    SUM_TYPE,
    Gated,
    Kept,
    codes_of,
    decode_table,
    encode_table,
    malformed,
    receive_release,
    scales,
    send_release,
)
from compute.protocols._suppression import Codes
from compute.protocols.base import Cost, Frame, Role, receive
from compute.selection_sum import Parameters, ReceiverGroup, SenderGroup, Shape, SumBound
from compute.types import parse_type
from policy_enforcer.disclosure import Party

Indices = NDArray[np.int64]

OwnSums = Mapping[str, Sequence[int]]
"""Figures that the receiver sums over its matched rows by itself: name -> a number for each of its groups."""

NOMINAL_GROUPS = 10
"""Groups assumed for a side that groups when a cost is estimated: their number is data."""

ENCRYPT_SECONDS = 0.0004
MULTIPLY_SECONDS = 0.0001

WEIGHT_FIGURES = "weight-figures"
_SHARE_BYTES = 8

_HEAD = struct.Struct(">QQ")  # suppressed cells, length of the answers


def derive(receiver: Side | None, sender: Side, maximum_cells: int) -> Parameters:
    """The selection sum's parameters: every sum of any group is exact, every answer is flooded."""
    assert receiver is not None
    return Parameters.derive(
        slots=sender.keys_bound,
        selected=sender.keys_bound if sender.kept else receiver.keys_bound,
        returned=maximum_cells * Shape(1, 1, len(receiver.weights)).vectors,
        bounds=[SumBound(p.row_bound * sender.rows_bound, p.tail) for p in sender.partials],
        weight_bound=receiver.weight_bound if receiver.weights else None,
        valued=int(any(partial.counts_values for partial in sender.partials)),
    )


def parameters(receiver: Side | None, sender: Side, maximum_cells: int) -> dict[str, Any]:
    """What of them enters the plan digest."""
    return derive(receiver, sender, maximum_cells).canonical()


def send_groups(party: Party, count: int) -> Role[None]:
    """Announce how many groups this side has. The kinds differ: a reflected count is out of order."""
    yield Frame(f"{party.value}-groups", count.to_bytes(4, "big"))


def receive_groups(context: Context, party: Party) -> Role[int]:
    """Take the peer's number of groups; no honest peer has more than the plan has cells."""
    count = int.from_bytes((yield from receive(f"{party.value}-groups", 4)), "big")
    return checked_groups(context, count)


def checked_groups(context: Context, count: int) -> int:
    """The peer's number of groups, within the plan."""
    if count > context.plan.maximum_cells:
        raise PeerViolation("peer.too-many-groups", "the peer has more groups than the plan has cells")
    return count


def shape(context: Context, receiver_groups: int, sender_groups: int) -> Shape | None:
    """The table of cells, None when a side has no group at all: then there is nothing to ask.

    Rows of a kept sender without a match are the first row of it, and all there is in an anti join.
    """
    if context.plan.sender.kept:
        receiver_groups = 1 if context.plan.join == "anti" else receiver_groups + 1
    if receiver_groups * sender_groups > context.plan.maximum_cells:
        raise DataError(
            "data.too-many-cells", "the groups of both sides make more cells than the plan allows"
        )
    if not (receiver_groups and sender_groups):
        return None
    return Shape(receiver_groups, sender_groups, _weight_columns(context.plan))


def _weight_columns(plan: Plan) -> int:
    return len(plan.receiver.weights) if plan.receiver is not None else 0


def send_nothing() -> Role[Summary]:
    """The release when a side has no group: no cell exists."""
    yield from send_release(_HEAD.pack(0, 0))
    return Summary(0, 0)


def receive_nothing(context: Context, labels: pa.Table, left_out: int = 0) -> Role[Cells]:
    """Take that release."""
    if (yield from receive_release()) != _HEAD.pack(0, 0):
        raise malformed()
    none = label_schema(context.plan.sender).empty_table()
    return Cells(_table(context.plan, labels, none, {}, _no_sums(context.plan)), left_out)


def _no_sums(plan: Plan) -> OwnSums:
    assert plan.receiver is not None
    return {p.name: () for p in plan.receiver.partials if p.name not in plan.receiver.weights}


def send_sums(
    context: Context, own: LocalInput, order: Indices, announced: Shape, gate: Gate
) -> Role[Summary]:
    """S's side: `order` is the key index in each slot."""
    plan = context.plan
    numbering = psi.permutation(own.groups, context.entropy)
    parameters = derive(plan.receiver, plan.sender, plan.maximum_cells)
    kept = _kept(plan, own, numbering) if plan.sender.kept else None
    gated = Gated(plan, gate, kept, _codes(own, numbering, announced) if context.complementary else None)
    groups = _sender_groups(plan, own, order, numbering)
    largest = (yield from _receive_largest_share()) if announced.weight_columns else None
    answers = yield from selection_sum.sender(parameters, announced, groups, gated, context.entropy)
    weights = None if largest is None else _weight_figures(largest, answers, plan)
    if kept is not None:
        counts = answers.counts.copy()
        counts[0] = np.maximum(counts[0] - kept.keyless, 0)
        answers = replace(answers, counts=counts)
    answers = _noised(context, parameters, answers)
    encoded = answers.encode(parameters, announced)
    # A label leaves only with a released cell; the order of the others is not told either.
    shown = own.labels.take(pa.array(numbering[answers.released.any(axis=0)]))
    labels = encode_table(shown, label_schema(plan.sender))
    told = gated.suppressed if plan.says_suppressed else 0
    yield from send_release(_HEAD.pack(told, len(encoded)) + encoded + labels)
    return Summary(gated.released, gated.suppressed, weights)


def receive_sums(
    context: Context,
    labels: pa.Table,
    groups: Sequence[ReceiverGroup],
    announced: Shape,
    left_out: int = 0,
    sums: OwnSums | None = None,
    own: Sequence[ReceiverGroup] | None = None,
) -> Role[Cells]:
    """R's side: `groups` holds, per own group as in `labels`, the selected slots and their weights.

    `left_out` own groups were never asked about; each counts as one suppressed cell. `own`: the groups of R's
    rows, where `groups` has that of S's rows without a match as well.
    """
    plan = context.plan
    parameters = derive(plan.receiver, plan.sender, plan.maximum_cells)
    if announced.weight_columns:
        share = largest_share(groups if own is None else own, context.minimum_group)
        yield Frame(WEIGHT_FIGURES, share.to_bytes(_SHARE_BYTES, "big"))
    opening = yield from selection_sum.receiver(parameters, announced, groups, context.entropy)
    release = yield from receive_release()
    if len(release) < _HEAD.size:
        raise malformed()
    suppressed, length = _HEAD.unpack_from(release)
    encoded, rest = release[_HEAD.size : _HEAD.size + length], release[_HEAD.size + length :]
    cells = selection_sum.open_answers(parameters, announced, opening, encoded)
    _plausible(parameters, cells, groups, suppressed, announced)
    if not plan.says_suppressed:
        left_out = 0
        if suppressed:
            raise malformed()
    shown = {s: row for row, s in enumerate(sorted({s for _, s in cells}))}
    sender_labels = decode_table(rest, label_schema(plan.sender), len(shown))
    rows = {(r, shown[s]): sums for (r, s), sums in cells.items() if sums.count or _has_kept(plan)}
    table = _table(plan, labels, sender_labels, rows, sums or {})
    return Cells(table, suppressed + left_out, masks=opening.revealed)


def recomputed(
    plan: Mapping[str, Any], revealed: bytes, release: bytes
) -> list[selection_sum.CellSums | None]:
    """Every cell's sums, in the order of the protocol, from what the receiver opened and the release it got.

    plan: its canonical form, as a record's opened `plan` has it. Raises PeerViolation, KeyError, ValueError.
    """
    if len(release) < _HEAD.size:
        raise malformed()
    _, length = _HEAD.unpack_from(release)
    encoded = release[_HEAD.size : _HEAD.size + length]
    return selection_sum.recomputed(plan["parameters"], len(plan["receiver"]["weights"]), revealed, encoded)


def _codes(own: LocalInput, numbering: Indices, announced: Shape) -> Codes:
    """Per dimension the label of each cell, as numbers; the receiver's labels are one dimension to S."""
    receivers, senders = np.indices((announced.receiver_groups, announced.sender_groups))
    labels = own.labels.take(pa.array(numbering)) if own.labels.num_columns else own.labels
    return [receivers.ravel(), *(code[senders.ravel()] for code in codes_of(labels))]


def _noised(
    context: Context, parameters: Parameters, answers: selection_sum.Answers
) -> selection_sum.Answers:
    """The answers with the owner's noise, drawn once. The plan's bounds have room for its tail."""
    if context.plan.noise is None:
        return answers
    found = scales(context.plan)
    return answers.noised(parameters, lambda _r, _s, _k: [scale.draw(context.entropy) for scale in found])


def one_group_per_key(plan: Plan, own: LocalInput) -> None:
    """Under noise a key counts in one cell only: an identity in more of them would need more noise."""
    keys = column(own, "key")
    if plan.noise is not None and len(np.unique(keys)) < len(keys):
        raise DataError(
            "data.key-in-several-groups",
            "the owner's policy adds noise, and a join key of the asker is in more than one group",
        )


def largest_share(groups: Sequence[ReceiverGroup], minimum: int) -> int:
    """Most that one |weight| is of a group's sum of |weights|, per mille, rounded up.

    Groups that have too few weights to be answered are left out.
    """
    share = 0
    for group in groups:
        for weights in group.weights:
            if np.count_nonzero(weights) >= max(minimum, 1):
                # |weight| < 2**60, so its absolute value fits; their sum may not.
                absolute = np.abs(weights)
                share = max(share, -(-1000 * int(absolute.max()) // exact_sum(absolute)))
    return share


def exact_sum(values: Indices) -> int:
    """The sum as a Python integer: the halves of 2^31 values cannot overflow."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


def _receive_largest_share() -> Role[int]:
    share = int.from_bytes((yield from receive(WEIGHT_FIGURES, _SHARE_BYTES)), "big")
    if share > 1000:
        raise _inconsistent()
    return share


def _weight_figures(largest: int, answers: selection_sum.Answers, plan: Plan) -> WeightFigures:
    """Hold R's word against S's counts: the largest of n weights is at least one n-th of their sum.

    Rows without a match, the first group where there is one, have no weight of R's: each counts once.
    """
    shown = np.asarray(answers.released.any(axis=1))
    shown[: plan.sender.kept] = False
    # A key may be in several of S's groups: these sums are at least the numbers of weights.
    supports = answers.supports.sum(axis=1)[shown]
    if np.any(largest * supports[supports > 0] < 1000):
        raise _inconsistent()
    fewest = answers.supports[answers.released]
    return WeightFigures(int(fewest.min()) if fewest.size else 0, largest)


def _inconsistent() -> PeerViolation:
    return PeerViolation("peer.weight-figures", "the peer's figures about its weights contradict each other")


def label_schema(side: Side) -> pa.Schema:
    """The columns of a side's labels."""
    return pa.schema([(d.name, parse_type(d.type).arrow) for d in side.dimensions])


def _own_schema(receiver: Side) -> pa.Schema:
    """The columns of the receiver's labels: of a kept side also what each of its groups has in all."""
    own = ["own_rows", "own_keys", *(f"all:{partial.name}" for partial in receiver.partials)]
    return pa.schema([*label_schema(receiver), *((name, SUM_TYPE) for name in own if receiver.totals)])


def cost(plan: Plan, group_frames: int) -> Cost:
    """Padded sizes, and ten groups for each side that groups: how many there are is not known before."""
    assert plan.receiver is not None
    nominal = nominal_shape(plan)
    sizes = psi.Sizes(plan.receiver.keys_bound, plan.sender.keys_bound)
    parameters = derive(plan.receiver, plan.sender, plan.maximum_cells)
    seconds = psi.seconds(sizes) + _sum_seconds(parameters, nominal)
    return Cost(seconds, psi.frame_bytes(sizes) + group_frames + sum_bytes(parameters, nominal))


def sum_bytes(parameters: Parameters, shape: Shape) -> int:
    """Body bytes of a selection sum in both directions, the release aside."""
    columns = shape.sender_groups * parameters.blocks * parameters.key_bytes
    answers = shape.selections * shape.sender_groups * parameters.answer_bytes
    figures = _SHARE_BYTES if shape.weight_columns else 0
    return 32 + parameters.key_bytes + columns + 32 + answers + figures


def nominal_shape(plan: Plan) -> Shape:
    """Ten groups on each side that groups, one on a side that does not, within the plan's cells."""
    assert plan.receiver is not None
    receiver, sender = (NOMINAL_GROUPS if side.dimensions else 1 for side in (plan.receiver, plan.sender))
    if receiver * sender > plan.maximum_cells:
        receiver, sender = min(receiver, isqrt(plan.maximum_cells)), min(sender, isqrt(plan.maximum_cells))
    return Shape(receiver, sender, _weight_columns(plan))


def _sum_seconds(parameters: Parameters, shape: Shape) -> float:
    """Encrypting a block, and multiplying it into every selection and prime."""
    blocks = shape.sender_groups * parameters.blocks * len(parameters.moduli) * (parameters.degree / 4096)
    return blocks * (ENCRYPT_SECONDS + MULTIPLY_SECONDS * shape.selections)


def with_rest(
    plan: Plan, own: LocalInput, labels: pa.Table, groups: list[ReceiverGroup]
) -> tuple[pa.Table, list[ReceiverGroup]]:
    """R's groups where a sender's rows without a match are answered too: these first.

    Their label is that of a row that is not there. Where rows that match have the same, SQL makes one
    group of both.
    """
    without = np.ones(plan.sender.keys_bound, np.bool_)
    for group in groups:
        without[group.positions] = False
    if plan.join == "anti":
        return labels, [ReceiverGroup(np.flatnonzero(without))]
    assert own.absent is not None
    rows = labels.to_pylist()
    # A row without a match counts once, one that matches as often as it does.
    weights = [np.ones(plan.sender.keys_bound, np.int64) for _ in range(_weight_columns(plan))]
    nothing = np.empty(0, np.int64)
    for place in [i for i, row in enumerate(rows) if [row] == own.absent.to_pylist()]:
        without[groups[place].positions] = True
        for whole, some in zip(weights, groups[place].weights, strict=True):
            whole[groups[place].positions] = some
        groups[place] = ReceiverGroup(nothing, (nothing,) * len(weights))
    rest = ReceiverGroup(np.flatnonzero(without), tuple(weight[without] for weight in weights))
    return pa.concat_tables([own.absent, labels]), [rest, *groups]


def _has_kept(plan: Plan) -> bool:
    return plan.sender.kept or (plan.receiver is not None and plan.receiver.totals)


def _with_values(plan: Plan, own: LocalInput) -> NDArray[np.bool_] | None:
    """Per cell of the long table, whether it has a value of every measure; None where all have.

    Rows without a key stand for nobody, so that nothing is asked of them.
    """
    counts = [column(own, p.name) != 0 for p in plan.sender.partials if p.counts_values]
    return np.logical_and.reduce(counts) | (column(own, "key") >= len(own.keys)) if counts else None


def _kept(plan: Plan, own: LocalInput, numbering: Indices) -> Kept:
    """The sender's own groups in `numbering`'s order. Every (key, group) pair is in its cells once."""
    group, keyed = column(own, "group"), column(own, "key") < len(own.keys)
    some = _with_values(plan, own)
    counted = keyed if some is None else keyed & some  # as what the receiver's rest is counted by
    identities, keyless = (np.bincount(group[rows], minlength=own.groups) for rows in (counted, ~keyed))
    return Kept(identities[numbering], np.minimum(keyless, 1)[numbering])


def _sender_groups(plan: Plan, own: LocalInput, order: Indices, numbering: Indices) -> list[SenderGroup]:
    """Per group in `numbering`'s order, its slots and their measures: views into one sorted table."""
    slot_of = np.empty(len(order), np.int64)
    slot_of[order] = np.arange(len(order))
    number_of = np.empty(own.groups, np.int64)
    number_of[numbering] = np.arange(own.groups)
    slots, groups = slot_of[column(own, "key")], number_of[column(own, "group")]
    by = by_group(groups, slots, own.groups)
    slots, edges = slots[by], np.searchsorted(groups[by], np.arange(own.groups + 1))
    measures = [column(own, partial.name)[by] for partial in plan.sender.partials]
    some = _with_values(plan, own)
    valued = [] if some is None else [some[by].astype(np.int64)]
    return [
        SenderGroup(
            slots[low:high],
            tuple(values[low:high] for values in measures),
            tuple(values[low:high] for values in valued),
        )
        for low, high in pairwise(edges)
    ]


def by_group(groups: Indices, slots: Indices, count: int) -> Indices:
    """The order by group, then slot. Sixteen bits a group let numpy use its radix sort."""
    by = np.argsort(slots)
    numbers = groups[by].astype(np.uint16 if count <= 1 << 16 else np.int64)
    return by[np.argsort(numbers, kind="stable")]


def column(own: LocalInput, name: str) -> Indices:
    """A column of the long table as int64."""
    values = own.cells[name].combine_chunks()
    if values.null_count:
        raise DataError("data.null-in-cells", "a local aggregate is NULL where a number is due")
    return np.ascontiguousarray(values.to_numpy(zero_copy_only=False), dtype=np.int64)


def once_per_group(plan: Plan, own: LocalInput) -> None:
    """The asker's side must be unique: a key in two rows of a group would count the owner's rows twice."""
    if np.any(column(own, "rows") != 1):
        kept = plan.sender.kept
        once = "" if kept else "; SEMI JOIN counts each row of the other participant once"
        raise DataError(
            "data.asker-key-not-unique",
            "the asker's join key occurs in more than one row of a group. Such rows are counted under an "
            "offer at level 'receiver' whose policy says `weighted: true`; else publish your dataset with "
            f"one row for each key, or group by what tells the rows apart{once}",
        )


def _plausible(
    parameters: Parameters,
    cells: dict[tuple[int, int], selection_sum.CellSums],
    groups: Sequence[ReceiverGroup],
    suppressed: int,
    shape: Shape,
) -> None:
    """Refuse answers outside what was declared: the table below could not hold them."""
    if suppressed > shape.receiver_groups * shape.sender_groups - len(cells):
        raise malformed()
    for (r, _), sums in cells.items():
        selected = len(groups[r].positions)
        within = sums.count <= selected and _bounded(parameters, sums.measures, 1)
        for weights, (total, *products) in zip(groups[r].weights, sums.weighted, strict=True):
            heaviest = int(np.abs(weights).max(initial=0))
            within &= abs(total) <= heaviest * selected and _bounded(parameters, products, heaviest)
        if not within:
            raise malformed()


def _bounded(parameters: Parameters, sums: Sequence[int], weight: int) -> bool:
    """Whether sums under weights up to this one are within what was declared."""
    return all(abs(x) <= weight * b.magnitude + b.tail for x, b in zip(sums, parameters.bounds, strict=True))


def _table(
    plan: Plan,
    labels: pa.Table,
    sender_labels: pa.Table,
    rows: dict[tuple[int, int], selection_sum.CellSums],
    own: OwnSums,
) -> pa.Table:
    """One row per released cell: dimensions of both sides, identities, sums, weighted and own ones."""
    assert plan.receiver is not None
    columns: dict[str, Any] = {}
    sides = ((_own_schema(plan.receiver), labels, 0), (label_schema(plan.sender), sender_labels, 1))
    for schema, table, at in sides:
        indices = pa.array([cell[at] for cell in rows], pa.int64())
        for field in schema:
            columns[field.name] = table[field.name].cast(field.type).take(indices)
    columns["identities"] = pa.array([sums.count for sums in rows.values()], pa.int64())
    for i, partial in enumerate(plan.sender.partials):
        columns[partial.name] = pa.array([sums.measures[i] for sums in rows.values()], SUM_TYPE)
    for k, weight in enumerate(plan.receiver.weights):
        for i, name in enumerate([weight, *(f"{weight}:{p.name}" for p in plan.sender.partials)]):
            columns[name] = pa.array([sums.weighted[k][i] for sums in rows.values()], SUM_TYPE)
    for name, totals in own.items():
        columns[name] = pa.array([totals[r] for r, _ in rows], SUM_TYPE)
    return pa.table(columns)
