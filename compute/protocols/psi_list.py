"""Matched rows with agreed columns of the owner's: list queries, level `rows`.

The receiver learns, when the owner's gate lets the list pass, which of its keys the owner holds and the
agreed columns of exactly those rows; before, and otherwise, nothing. The sender learns how many keys match.
Both learn the other's padded set size. Semi-honest.

    both     the overlap, counted by S (`_overlap.py`); S gates on the count
    S -> R   E_j = row_j xor KDF(c·(b·Y_j)) for every slot, dummies too; random bytes when the gate says no
    S -> R   release: which places of R's order matched; for each the tag it matched and c·(b·(a·X_i))
    R        k·(c·(b·(a·X_i))) = c·(b·X_i), with k the inverse of a (`psi.inverse`): the key of that one slot

c is a second secret scalar of S. The key of a slot whose Y_j is none of R's X_i is a point that R never gets
multiplied by c. KDF(P) is SHA-256(tag, sid, block number, P), block after block; every key encrypts one row,
once. Nothing is authenticated twice: the frames are, and S may send what it likes in any case. Rows are
padded to one width by declared widths, and every slot has one. A list that shows none of the owner's columns
has no E_j and no points.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from compute import kernel
from compute.errors import DataError, PeerViolation, QueryError
from compute.inputs import Cells, Context, Gate, LocalInput, Summary
from compute.plan import Plan, Side
from compute.protocols import _aggregate as aggregate
from compute.protocols import _overlap as overlap
from compute.protocols import psi
from compute.protocols._overlap import Asked, Overlap
from compute.protocols._release import RELEASE_BYTES, Gated, malformed, receive_release, send_release
from compute.protocols._rows import Bytes, Layout
from compute.protocols.base import FRAME_BYTES, Cost, Frame, Protocol, Role, receive
from compute.protocols.psi import POINT_BYTES, Indices, Kept, Sizes
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party

_HEAD = struct.Struct(">Q")  # 1 when the list is held back
_TAG_BYTES = 4
_KDF = b"bayspace psi list v1 row\0"
_BLOCK = 32


def receiver(context: Context, own: LocalInput | None) -> Role[Cells]:
    """R's side."""
    assert own is not None
    layout = Layout.of(context.plan.sender)
    asked = yield from overlap.ask(context, own)
    sealed = yield from _receive_rows(layout.row_bytes, Sizes.of(context).sender)
    suppressed, places, tags, points = _read(context, layout, (yield from receive_release()))
    keys = asked.order[places]
    if keys.size and int(keys.max()) >= len(own.keys):
        raise PeerViolation("peer.forged-tags", "the peer's tags match a value that no party holds")
    rows = _opened(context, layout, asked, sealed, tags, points)
    return Cells(_joined(context.plan, own, keys, layout.decode(rows)), suppressed, len(keys))


def sender(context: Context, own: LocalInput | pa.Table, gate: Gate) -> Role[Summary]:
    """S's side."""
    assert isinstance(own, LocalInput)
    layout = Layout.of(context.plan.sender)
    kept = Kept() if layout.row_bytes else None
    found = yield from overlap.count(context, own, kept)
    gated = Gated(context.plan, gate)
    allowed = bool(gated(np.array([[found.size]], np.int64))[0, 0])
    scalar = context.entropy(32)
    yield from _send_rows(context, layout, own, found, kept, scalar if allowed else None)
    told = gated.suppressed if context.plan.says_suppressed else 0
    yield from send_release(_HEAD.pack(told) + _matches(context, found, kept, scalar, allowed))
    return Summary(found.size if allowed else 0, gated.suppressed)


# --- the rows, one under each slot's key


def _send_rows(
    context: Context, layout: Layout, own: LocalInput, found: Overlap, kept: Kept | None, scalar: bytes | None
) -> Role[None]:
    """Without a scalar, random bytes: that nothing is released is told by the release alone."""
    if kept is None:
        return
    row_of = _row_of(own)
    sent = np.frombuffer(b"".join(kept.sent), np.uint8).reshape(-1, POINT_BYTES)
    for start, end in _spans(len(found.order), layout.row_bytes):
        if scalar is None:
            yield Frame("list-rows", context.entropy((end - start) * layout.row_bytes))
            continue
        padded = np.zeros((end - start, layout.row_bytes), np.uint8)
        real = np.flatnonzero(found.order[start:end] < len(own.keys))
        rows = row_of[found.order[start:end][real]]
        padded[real] = layout.encode(own.labels.take(pa.array(rows)))
        keys = kernel.mask(psi.unpacked(sent[start:end].tobytes(), POINT_BYTES), scalar)
        yield Frame("list-rows", (padded ^ _stream(context.sid, keys, layout.row_bytes)).tobytes())
        context.progress("rows", end, len(found.order))


def _receive_rows(row_bytes: int, slots: int) -> Role[Bytes]:
    parts = []
    for start, end in _spans(slots, row_bytes) if row_bytes else ():
        parts.append((yield from receive("list-rows", (end - start) * row_bytes)))
    return np.frombuffer(b"".join(parts), np.uint8).reshape(-1, row_bytes) if parts else _NOTHING


_NOTHING: Bytes = np.zeros((0, 0), np.uint8)


def _spans(slots: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Slots of each frame: whole rows."""
    step = FRAME_BYTES // row_bytes
    return ((start, min(start + step, slots)) for start in range(0, slots, step))


def _row_of(own: LocalInput) -> Indices:
    """The row of each key: there is one, or the catalogue's `unique` is wrong."""
    keys = aggregate.column(own, "key")
    if len(keys) != len(own.keys):
        raise DataError("data.not-unique", "a key that the catalogue declares unique occurs in several rows")
    rows = np.empty(len(keys), np.int64)
    rows[keys] = np.arange(len(keys))
    return rows


def _stream(sid: bytes, points: pa.FixedSizeBinaryArray, width: int) -> Bytes:
    """As many bytes for each point as a row has."""
    blocks = []
    for number, start in enumerate(range(0, width, _BLOCK)):
        size = min(_BLOCK, width - start)
        block = kernel.truncated_tags(points, _KDF + sid + number.to_bytes(4, "big"), size)
        blocks.append(np.frombuffer(psi.packed(block), np.uint8).reshape(-1, size))
    return np.concatenate(blocks, axis=1)


# --- the release


def _matches(context: Context, found: Overlap, kept: Kept | None, scalar: bytes, allowed: bool) -> bytes:
    """A bit for each place of R's order; then, for a list with rows, a tag's number and a point per match."""
    bits = np.zeros(Sizes.of(context).receiver, np.uint8)
    if not allowed:
        return np.packbits(bits).tobytes()
    bits[found.places] = 1
    if kept is None:
        return np.packbits(bits).tobytes()
    points = pa.concat_arrays(kept.doubled).take(pa.array(found.places))
    masked = psi.packed(kernel.mask(points, scalar)) if found.size else b""
    return b"".join([np.packbits(bits).tobytes(), found.tags.astype(">u4").tobytes(), masked])


def _read(
    context: Context, layout: Layout, release: bytes
) -> tuple[int, Indices, Indices, pa.FixedSizeBinaryArray | None]:
    """What `_matches` wrote: held back or not, places, tags' numbers, points."""
    sizes = Sizes.of(context)
    end = _HEAD.size + -(-sizes.receiver // 8)
    if len(release) < end:
        raise malformed()
    bits = np.unpackbits(np.frombuffer(release[_HEAD.size : end], np.uint8))
    places = np.flatnonzero(bits).astype(np.int64)
    each = _TAG_BYTES + POINT_BYTES if layout.row_bytes else 0
    suppressed = _HEAD.unpack_from(release)[0]
    if len(release) != end + each * len(places) or suppressed > (0 if len(places) else 1):
        raise malformed()
    if len(places) and int(places[-1]) >= sizes.receiver:
        raise malformed()
    middle = end + _TAG_BYTES * len(places) * bool(each)
    tags = np.frombuffer(release[end:middle], ">u4").astype(np.int64)
    if len(np.unique(tags)) < len(tags) or int(tags.max(initial=0)) >= sizes.sender:
        raise malformed()
    return suppressed, places, tags, psi.unpacked(release[middle:], POINT_BYTES) if each else None


def _opened(
    context: Context,
    layout: Layout,
    asked: Asked,
    sealed: Bytes,
    tags: Indices,
    points: pa.FixedSizeBinaryArray | None,
) -> Bytes:
    """The matched rows' bytes, in the order of the release."""
    if points is None or not len(tags):
        return np.zeros((len(tags), layout.row_bytes), np.uint8)
    try:
        keys = kernel.mask(points, psi.inverse(asked.scalar))
    except kernel.InvalidPoint:
        raise PeerViolation("peer.invalid-point", "the peer sent a value that is no point") from None
    return sealed[asked.slots[tags]] ^ _stream(context.sid, keys, layout.row_bytes)


def _joined(plan: Plan, own: LocalInput, keys: Indices, rows: pa.Table) -> pa.Table:
    """One row for each of R's rows that has a matched key: its columns, S's columns, `identities` 1."""
    assert plan.receiver is not None
    match_of = np.full(len(own.keys), -1, np.int64)
    match_of[keys] = np.arange(len(keys))
    matched = match_of[aggregate.column(own, "key")]
    mine = np.flatnonzero(matched >= 0)
    theirs = pa.array(matched[mine])
    columns: dict[str, Any] = {}
    for field in aggregate.label_schema(plan.receiver):
        columns[field.name] = own.labels[field.name].cast(field.type).take(pa.array(mine))
    columns |= {name: rows[name].take(theirs) for name in rows.schema.names}
    columns["identities"] = pa.array(np.ones(len(mine), np.int64))
    return pa.table(columns)


# --- the declaration


def _parameters(receiver: Side | None, sender: Side, maximum_cells: int) -> dict[str, Any]:  # noqa: ARG001
    assert receiver is not None
    layout = Layout.of(sender)
    padded = {column.name: column.width for column in layout.columns if column.width}
    each = _TAG_BYTES + POINT_BYTES if layout.row_bytes else 0
    most = min(receiver.keys_bound, sender.keys_bound)
    if _HEAD.size + -(-receiver.keys_bound // 8) + each * most > RELEASE_BYTES:
        raise QueryError(
            "plan.list-too-large",
            "more rows could match than one answer may hold; list fewer columns",
        )
    return {"padded": padded, "row_bytes": layout.row_bytes}


def _cost(plan: Plan) -> Cost:
    """One more multiplication for each of the owner's slots, one at each side for each match."""
    assert plan.receiver is not None
    width = Layout.of(plan.sender).row_bytes
    most = min(plan.receiver.keys_bound, plan.sender.keys_bound)
    more = (plan.sender.keys_bound + 2 * most) / psi.MASKS_PER_SECOND if width else 0.0
    return Cost(overlap.seconds(plan) + more, overlap.frame_bytes(plan) + width * plan.sender.keys_bound)


PROTOCOL = Protocol(
    name="psi_list",
    version=1,
    level=Level.ROWS,
    joint=True,
    kinds=frozenset({"list"}),
    threat_model=(
        "Both connectors follow the protocol and may study what they see. A deviating receiver can ask about "
        "keys it does not hold; a deviating sender can learn match counts of parts of its own keys."
    ),
    reveals=(
        Disclosure(Party.RECEIVER, Fact.MATCHED_ROWS, gated=True),
        Disclosure(Party.RECEIVER, Fact.OWN_MATCHES, gated=True),
        Disclosure(Party.RECEIVER, Fact.SUPPRESSED_CELLS),
        Disclosure(Party.RECEIVER, Fact.PADDED_SIZE),
        Disclosure(Party.SENDER, Fact.CELL_MATCH_COUNTS),
        Disclosure(Party.SENDER, Fact.PADDED_SIZE),
    ),
    gates=frozenset({"minimum-identities"}),
    weighted=False,
    cost=_cost,
    parameters=_parameters,
    receiver=receiver,
    sender=sender,
)
