"""Private set intersection over a prime-order curve (DH-PSI): the core of both joint aggregates.

The receiver learns which of its keys match, the slot of each match in the sender's secret order, and
the sender's padded set size; the sender learns the receiver's padded set size. Semi-honest.

    R -> S   { a·H(x) } in R's secret order          S -> R   { b·H(y) } in S's secret order
    S -> R   tags of { b·(a·H(x)) }, as received     R        tags of { a·(b·H(y)) }, and compares

H maps into the group by RFC 9380 with the session id in its tag, `a` and `b` are fresh scalars, a tag is
SHA-256(sid, point) truncated. Refused: points that are not canonical, of small order or repeated (after
masking, where points that differ only by a small-order part have become equal), and any other length
or number of frames than the padded sizes give.

Order of frames. Both sides stream their points at once, in chunks of 32,768 (one mebibyte). Each sends
its chunk i before it takes the peer's chunk i - WINDOW, so both compute at the same time and neither
runs further ahead. INVARIANT for the transport: it reads while its role sends, and holds at least
2 * WINDOW + 2 frames for it; then two roles can never both be stuck in a send. When one side has no
chunks left the other streams against the transport's back-pressure. Tags follow at the end, after S
has seen every point: a repeated point is noticed before anything of S's scalar is given back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compute import kernel
from compute.errors import DataError, PeerViolation
from compute.inputs import Context, Entropy
from compute.protocols.base import FRAME_BYTES, Frame, Role, receive, send_blob
from compute.scratch import Column
from policy_enforcer.disclosure import Party

POINT_BYTES = kernel.POINT_BYTES
CHUNK = FRAME_BYTES // POINT_BYTES
WINDOW = 2
"""How many chunks a side may send ahead of what it has taken. Two absorb jitter; more only buffers."""

MASKS_PER_SECOND = 250_000
"""On two cores of the reference machine (AVX-512 IFMA), hashing included. Not of the machine at hand:
both parties choose the protocol by its cost, each alone, and must choose the same."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Padded numbers of keys: public, from the plan."""

    receiver: int
    sender: int

    @classmethod
    def of(cls, context: Context) -> Sizes:
        """The catalogue's unfiltered bounds; a plan without a receiver's side has no join."""
        assert context.plan.receiver is not None
        return cls(context.plan.receiver.keys_bound, context.plan.sender.keys_bound)

    @property
    def tag_width(self) -> int:
        """Bytes of a tag: collisions of different keys stay below 2^-40 over the whole exchange."""
        return kernel.tag_width(self.receiver, self.sender)


@dataclass(frozen=True, slots=True)
class Matches:
    """Pairs (own key index, slot in the sender's order), each of both at most once."""

    keys: Indices
    slots: Indices


def receiver(context: Context, keys: pa.LargeBinaryArray) -> Role[Matches]:
    """R's side: returns which of its keys match and the slot of each."""
    sizes = Sizes.of(context)
    order = padded_order(len(keys), sizes.receiver, context.entropy)
    sent_tags, slot_tags = yield from receiver_tags(context, keys, order)
    positions, slots = match(sent_tags, slot_tags)
    return matches(order[positions], slots, len(keys))


def sender(context: Context, keys: pa.LargeBinaryArray) -> Role[Indices]:
    """S's side: returns the key index in each slot, or an index >= len(keys) where a dummy stands."""
    order, tags = yield from sender_tags(context, keys)
    yield from send_tags(tags)
    return order


@dataclass(slots=True)
class Kept:
    """Points of one exchange that its protocol needs afterwards, in the order of their frames."""

    sent: list[bytes] = field(default_factory=list, repr=False)  # own points as they left
    doubled: list[pa.FixedSizeBinaryArray] = field(default_factory=list, repr=False)  # the peer's, times ours


@dataclass(frozen=True, slots=True)
class Exchanged:
    """One side's end of an exchange of points: the peer's points as tags, and the scalar behind them."""

    tags: pa.FixedSizeBinaryArray
    scalar: bytes = field(repr=False)


def exchange(
    context: Context, role: Party, keys: pa.LargeBinaryArray, order: Indices, kept: Kept | None = None
) -> Role[Exchanged]:
    """Send keys in `order`, take the peer's points; nothing is given back for them yet.

    `kept` collects 32 bytes a point of both sides, for protocols that go on with them.
    """
    sizes = Sizes.of(context)
    own = _masked(context, role, keys, order)
    mine, theirs = (sizes.receiver, sizes.sender)[:: 1 if role is Party.RECEIVER else -1]
    return Exchanged((yield from _exchange(context, own, mine, theirs, kept)), own.scalar)


ORDER = 2**252 + 27742317777372353535851937790883648493
"""The prime order of curve25519's large subgroup (RFC 7748 section 4.1)."""


def inverse(scalar: bytes) -> bytes:
    """The clamped scalar k that undoes `scalar`: mask(mask(P, scalar), k) is P for P in the prime subgroup.

    A clamped scalar is a = 8a'. With r = (8a)^-1 modulo the order, k = 8r gives k·a = 1, and k = 8(order - r)
    gives -1: the same x-coordinate. The larger of r and order - r lies in [2^251, 2^252), so that k is
    clamped already, but for a share of 2^-127 of all scalars. Points outside the subgroup are not recovered.
    Raises ValueError for that share: draw another scalar.
    """
    a = int.from_bytes(scalar, "little") & ~(1 << 255) & ~7 | 1 << 254
    r = pow(8 * a, -1, ORDER)
    k = 8 * max(r, ORDER - r)
    if k >> 255:
        raise ValueError("this scalar has no clamped inverse")
    return k.to_bytes(32, "little")


def receiver_tags(
    context: Context, keys: pa.LargeBinaryArray, order: Indices
) -> Role[tuple[pa.FixedSizeBinaryArray, pa.FixedSizeBinaryArray]]:
    """Send keys in `order`; return the tags S gave back for them, and those of S's slots."""
    sizes = Sizes.of(context)
    own = _masked(context, Party.RECEIVER, keys, order)
    slot_tags = yield from _exchange(context, own, sizes.receiver, sizes.sender)
    return (yield from receive_tags(context, "tags", sizes.receiver)), slot_tags


def sender_tags(context: Context, keys: pa.LargeBinaryArray) -> Role[tuple[Indices, pa.FixedSizeBinaryArray]]:
    """Send own keys in a fresh order; return that order and the tags of R's points as they came."""
    sizes = Sizes.of(context)
    order = padded_order(len(keys), sizes.sender, context.entropy)
    own = _masked(context, Party.SENDER, keys, order)
    tags = yield from _exchange(context, own, sizes.sender, sizes.receiver)
    return order, tags


def receive_tags(context: Context, kind: str, count: int) -> Role[pa.FixedSizeBinaryArray]:
    """Take as many tags, all of them different, as `send_blob` sends packed."""
    column = Column(Sizes.of(context).tag_width, count, context.scratch)
    total = count * Sizes.of(context).tag_width
    for start in range(0, total, FRAME_BYTES):
        column.append((yield from receive(kind, min(FRAME_BYTES, total - start))))
    return distinct(column.array())


def send_tags(tags: pa.FixedSizeBinaryArray) -> Role[None]:
    """Give R the tags of its points, in whatever order the protocol has."""
    yield from send_blob("tags", packed(tags))


def match(sent_tags: pa.FixedSizeBinaryArray, slot_tags: pa.FixedSizeBinaryArray) -> tuple[Indices, Indices]:
    """Positions in R's sending order and in S's order that hold the same key."""
    left, right = kernel.match(sent_tags, slot_tags)
    return np.asarray(left), np.asarray(right)


def matches(keys: Indices, slots: Indices, real: int) -> Matches:
    """The matched pairs; a match of a dummy, which nobody can know, means forged tags."""
    if keys.size and int(keys.max()) >= real:
        raise PeerViolation("peer.forged-tags", "the peer's tags match a value that no party holds")
    return Matches(keys, slots)


def padded_order(real: int, padded: int, entropy: Entropy) -> Indices:
    """A uniform order of `padded` places; index >= `real` is a dummy."""
    within_bound(real, padded)
    return permutation(padded, entropy)


def within_bound(real: int, padded: int) -> None:
    """Refuse a set that its padding cannot hide."""
    if real > padded:
        raise DataError("data.keys-bound", "the table has more distinct keys than its catalogue declares")


def permutation(n: int, entropy: Entropy) -> Indices:
    """A uniform permutation: the order of n random 64-bit numbers, drawn again should two be equal."""
    while True:
        draws = np.frombuffer(entropy(8 * n), dtype="<u8")
        order = np.argsort(draws)
        ordered = draws[order]
        if not np.any(ordered[1:] == ordered[:-1]):
            return order.astype(np.int64, copy=False)


def packed(column: pa.FixedSizeBinaryArray) -> memoryview:
    """The bytes of a packed column without NULLs."""
    width = column.type.byte_width
    return memoryview(column.buffers()[1])[column.offset * width : (column.offset + len(column)) * width]


def unpacked(data: bytes, width: int) -> pa.FixedSizeBinaryArray:
    """A packed column from its bytes, without copying them."""
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(data) // width, [None, pa.py_buffer(data)]
    )


def distinct(tags: pa.FixedSizeBinaryArray) -> pa.FixedSizeBinaryArray:
    """The tags, unless one repeats: that would mark a key for both sides and count it twice."""
    if kernel.has_duplicates(tags):
        raise PeerViolation("peer.repeated-point", "the peer's key set holds the same point twice")
    return tags


@dataclass(frozen=True, slots=True)
class _Own:
    """One side's secret scalar, and its points in chunks as they leave."""

    role: Party
    scalar: bytes
    chunks: Iterator[bytes]


def _masked(context: Context, role: Party, keys: pa.LargeBinaryArray, order: Indices) -> _Own:
    """Hash and mask the padded set in `order`, chunk by chunk: no second copy of the set exists."""
    scalar = context.entropy(32)
    key_tag = b"bayspace psi v1 key\0" + context.sid
    dummy_tag = b"bayspace psi v1 dummy\0" + role.encode() + context.sid

    def chunk(indices: Indices) -> bytes:
        is_key = indices < len(keys)
        real = keys.take(pa.array(indices[is_key]))
        # A dummy is a random value under a tag of its own: no key of anybody's can equal it, and it
        # costs the same work, so that the pace of the frames does not tell how many there are.
        dummies = _random_keys(int(len(indices) - len(real)), context.entropy)
        points = pa.concat_arrays(
            [kernel.hash_to_group(real, key_tag), kernel.hash_to_group(dummies, dummy_tag)]
        )
        place = np.empty(len(indices), dtype=np.int64)
        place[np.concatenate([np.flatnonzero(is_key), np.flatnonzero(~is_key)])] = np.arange(len(indices))
        return bytes(packed(kernel.mask(kernel.permute(points, pa.array(place)), scalar)))

    return _Own(role, scalar, (chunk(order[start : start + CHUNK]) for start in range(0, len(order), CHUNK)))


def _random_keys(count: int, entropy: Entropy) -> pa.LargeBinaryArray:
    data = entropy(POINT_BYTES * count)
    offsets = np.arange(count + 1, dtype=np.int64) * POINT_BYTES
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def _exchange(
    context: Context, own: _Own, own_size: int, peer_size: int, kept: Kept | None = None
) -> Role[pa.FixedSizeBinaryArray]:
    """Stream own points, take the peer's; return the tags of the peer's points under both scalars."""
    width = Sizes.of(context).tag_width
    own_kind, peer_kind = _kinds(own.role)
    own_chunks, peer_chunks = _chunks(own_size), _chunks(peer_size)
    tags = Column(width, peer_size, context.scratch)
    for i in range(max(own_chunks, peer_chunks + WINDOW)):
        if i < own_chunks:
            chunk = next(own.chunks)
            if kept is not None:
                kept.sent.append(chunk)
            yield Frame(own_kind, chunk)
        if WINDOW <= i < peer_chunks + WINDOW:
            length = POINT_BYTES * min(CHUNK, peer_size - CHUNK * (i - WINDOW))
            body = yield from receive(peer_kind, length)
            doubled = _doubled(body, own.scalar)
            if kept is not None:
                kept.doubled.append(doubled)
            tags.append(packed(kernel.truncated_tags(doubled, context.sid, width)))
        context.progress("keys", min(own_size, CHUNK * (i + 1)), own_size)
    return distinct(tags.array())


def _kinds(role: Party) -> tuple[str, str]:
    """(own, peer's) kind of point frames: they differ, so a reflected frame is out of order."""
    kinds = ("receiver-points", "sender-points")
    return kinds if role is Party.RECEIVER else (kinds[1], kinds[0])


def _chunks(size: int) -> int:
    return -(-size // CHUNK)


def _doubled(body: bytes, scalar: bytes) -> pa.FixedSizeBinaryArray:
    try:
        return kernel.mask(unpacked(body, POINT_BYTES), scalar)
    except kernel.InvalidPoint:
        raise PeerViolation("peer.invalid-point", "the peer sent a value that is no point") from None


def seconds(sizes: Sizes) -> float:
    """Both parties' work on the two cores of the reference machine: each point is masked twice."""
    return 2 * (sizes.receiver + sizes.sender) / MASKS_PER_SECOND


def frame_bytes(sizes: Sizes) -> int:
    """Body bytes of one exchange in both directions."""
    return POINT_BYTES * (sizes.receiver + sizes.sender) + sizes.tag_width * sizes.receiver
