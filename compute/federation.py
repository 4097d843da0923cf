"""What all participants of one federated round agree on, and the vectors they add up.

A round's roster is frozen and its digest signed before anything else: who takes part, under which agreement,
with which version of its data, in which session. Keys of a round are signed over that digest, so whoever
coordinates can neither add, drop nor exchange a participant. Refused: a roster that does not hold our own
entry exactly once, other participants than the plan's, keys that their owner's identity key did not sign.

Vectors hold integers modulo 2**128 as 16 little-endian bytes each; a plan proves |sum| < 2**127.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import rfc8785
from numpy.typing import NDArray

from compute.errors import PeerViolation
from compute.frames import Frame, Gather, Role, receive, receive_blob, send_blob

WORD_BYTES = 16
MOST_PARTICIPANTS = 64
COMMITMENT_BYTES = 32
_MOST_SIGNATURE = 4096
_MOST_ROSTER = 1 << 16

Sign = Callable[[bytes], bytes]
Verify = Callable[[str, bytes, bytes], None]
"""(participant, message, signature): returns, or raises `PeerViolation`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One participant of a round; digests and ids are lower-case hexadecimal."""

    participant: str
    agreement: str
    commitment: str  # of the version of its dataset
    session: str  # the sid of its exchange: fresh, with a nonce of its own
    identities: int  # least identities that its policy demands of a total
    participants: int  # least participants behind one


@dataclass(frozen=True, slots=True)
class Roster:
    """The participants of one round, in the order of their ids."""

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        names = self.names
        if not 2 <= len(names) <= MOST_PARTICIPANTS or names != sorted(set(names)):
            raise PeerViolation("peer.roster", "a round has 2 to 64 different participants, in order")

    def canonical(self) -> bytes:
        """RFC 8785 bytes: the body of the "roster" frame."""
        return rfc8785.dumps([asdict(entry) for entry in self.entries])

    @property
    def names(self) -> list[str]:
        """The participants' ids."""
        return [entry.participant for entry in self.entries]

    @property
    def digest(self) -> bytes:
        """SHA-256 that every key of the round is signed over. Fresh, since sessions are."""
        return hashlib.sha256(b"bayspace roster v1\0" + self.canonical()).digest()

    @classmethod
    def parse(cls, body: bytes) -> Roster:
        """The roster with exactly these bytes. Raises `PeerViolation`."""
        try:
            items = json.loads(body)
            roster = cls(tuple(Entry(**item) for item in items)) if all(map(_shaped, items)) else None
            if roster is not None and roster.canonical() == body:
                return roster
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass  # not JSON, other members, half a surrogate pair
        raise PeerViolation("peer.roster", "the roster is not of the agreed form")


def _shaped(item: dict[str, object]) -> bool:
    return all(
        _least(value) if name in ("identities", "participants") else _text(value)
        for name, value in item.items()
    )


def _least(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 1 << 40


def _text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256


def together(kind: str, body: bytes, reduce: Callable[[list[bytes]], bytes]) -> Role[bytes]:
    """What `reduce` makes of everybody's bodies, in roster order: once for all exchanges of the round."""
    frame = yield Gather(kind, body, reduce)
    if frame is None or frame.kind != kind:
        raise AssertionError("a driver answers a Gather with what the bodies gave")
    return frame.body


def joined(bodies: Iterable[bytes]) -> bytes:
    """Bodies behind their lengths in four bytes each."""
    return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)


def split(data: bytes) -> list[bytes]:
    """The bodies that `joined` put together. Raises `PeerViolation`."""
    bodies, at = [], 0
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "big")
        if at > len(data) or len(data) < start:
            raise PeerViolation("peer.malformed", "a list of messages breaks off")
        bodies.append(data[start:at])
    return bodies


@dataclass(frozen=True, slots=True)
class Seat:
    """The asker's end of the exchange with one participant of the roster.

    `shared` gives what the first exchange makes of the round's totals to all others.
    """

    roster: Roster
    shared: Callable[[Callable[[], Any]], Any] = lambda make: make()


@dataclass(frozen=True, slots=True)
class Member:
    """What a participant's role needs to take part: its own entry, and how keys are signed and checked."""

    entry: Entry
    expected: tuple[str, ...]  # the participants the plan names, in order
    sign: Sign
    verify: Verify
    contributing: Callable[[], None]  # before anything about the rows leaves; may refuse

    @property
    def participant(self) -> str:
        """Its id."""
        return self.entry.participant

    def checked(self, roster: Roster) -> Roster:
        """The roster, if it is the one we agreed to."""
        if self.entry not in roster.entries or tuple(roster.names) != self.expected:
            raise PeerViolation("peer.roster", "the roster is not the one this participant agreed to")
        return roster


def send_roster(roster: Roster) -> Role[None]:
    """The coordinator's first frame."""
    body = roster.canonical()
    if len(body) > _MOST_ROSTER:
        raise PeerViolation("peer.roster", "the roster is larger than any honest one")
    yield Frame("roster", body)


def receive_roster(member: Member) -> Role[Roster]:
    """The roster of this round, checked."""
    return member.checked(Roster.parse((yield from receive("roster"))))


def signed_key(member: Member, scheme: str, roster: Roster, key: bytes) -> bytes:
    """A key of this round with the signature of its participant's identity key."""
    return joined([key, member.sign(_statement(scheme, roster.digest, member.participant, key))])


def checked_keys(
    member: Member, scheme: str, roster: Roster, bodies: Sequence[bytes], own: bytes
) -> list[bytes]:
    """Everybody's keys in roster order, each signed by its participant, our own among them unchanged."""
    keys, digest = [], roster.digest
    for name, key, signature in _signed(roster, bodies, len(own)):
        member.verify(name, _statement(scheme, digest, name, key), signature)
        keys.append(key)
    if keys[_place(member, roster)] != own or len(set(keys)) != len(keys):
        raise PeerViolation("peer.round-key", "a key of this round was exchanged or occurs twice")
    return keys


def _signed(roster: Roster, bodies: Sequence[bytes], length: int) -> Iterator[tuple[str, bytes, bytes]]:
    """(participant, key of this length, signature) of every body."""
    if len(bodies) != len(roster.entries):
        raise PeerViolation("peer.round-key", "there is not one key for each participant")
    for name, body in zip(roster.names, bodies, strict=True):
        parts = split(body)
        if len(parts) != 2 or len(parts[0]) != length:
            raise PeerViolation("peer.round-key", "a participant's key is not of the agreed form")
        yield name, parts[0], parts[1]


def send_sized(kind: str, data: bytes) -> Role[None]:
    """One blob behind its length."""
    yield Frame(f"{kind}-length", len(data).to_bytes(8, "big"))
    yield from send_blob(kind, data)


def receive_sized(kind: str, most: int) -> Role[bytes]:
    """What `send_sized` sent, at most `most` bytes."""
    length = int.from_bytes((yield from receive(f"{kind}-length", 8)), "big")
    if length > most:
        raise PeerViolation("peer.frame-oversized", f"{kind!r} is larger than any honest one")
    return (yield from receive_blob(kind, length))


def disclosed(member: Member, scheme: str, roster: Roster, own: bytes) -> Role[list[bytes]]:
    """Everybody's parts of one length, in roster order: each was fixed before any was shown.

    So none is a function of another. A part is as unguessable as the 256 fresh bits it is made from, so its
    commitment needs no salt. What a participant signs is all commitments, its own among them unchanged:
    whoever passes them on cannot show different ones, and nobody's part can be exchanged after that.
    """
    digest = roster.digest
    committed = _commitment(scheme, digest, member.participant, own)
    yield Frame("commitment", committed)
    commitments = yield from receive("commitments", COMMITMENT_BYTES * len(roster.entries))
    at = COMMITMENT_BYTES * _place(member, roster)
    if commitments[at : at + COMMITMENT_BYTES] != committed:
        raise PeerViolation("peer.round-key", "our own commitment was exchanged")
    seen = hashlib.sha256(commitments).digest()
    signature = member.sign(_statement(scheme, digest, member.participant, seen))
    yield from send_sized("part", joined([own, signature]))
    most = len(roster.entries) * (4 + signed_key_bytes(len(own)))
    bodies = split((yield from receive_sized("parts", most)))
    parts, shown = [], []
    for name, part, signature in _signed(roster, bodies, len(own)):
        member.verify(name, _statement(scheme, digest, name, seen), signature)
        parts.append(part)
        shown.append(_commitment(scheme, digest, name, part))
    if b"".join(shown) != commitments:
        raise PeerViolation("peer.round-key", "a participant showed another part than it had committed to")
    return parts


def relay_disclosed(length: int) -> Role[None]:
    """The asker's side of `disclosed`, for parts of this length."""
    own = yield from receive("commitment", COMMITMENT_BYTES)
    yield Frame("commitments", (yield from together("commitments", own, b"".join)))
    part = yield from receive_sized("part", signed_key_bytes(length))
    yield from send_sized("parts", (yield from together("parts", part, joined)))


def _commitment(scheme: str, digest: bytes, participant: str, part: bytes) -> bytes:
    text = joined([scheme.encode(), digest, participant.encode(), part])
    return hashlib.sha256(b"bayspace commitment v1\0" + text).digest()


def signed_key_bytes(length: int) -> int:
    """Most bytes of one `signed_key`."""
    return 8 + length + _MOST_SIGNATURE


def _place(member: Member, roster: Roster) -> int:
    return roster.names.index(member.participant)


def _statement(scheme: str, roster: bytes, participant: str, key: bytes) -> bytes:
    name = participant.encode()
    return b"bayspace round key v1\0" + joined([scheme.encode(), roster, name, key])


# --- vectors ------------------------------------------------------------------------------------------


def words(values: Sequence[int]) -> bytes:
    """Integers modulo 2**128, 16 little-endian bytes each."""
    try:
        low = np.array(values, dtype="<i8")
    except OverflowError:  # a figure of more than 64 bits
        return b"".join([(value % (1 << 128)).to_bytes(WORD_BYTES, "little") for value in values])
    return np.stack([low, low >> 63], axis=1).astype("<i8", copy=False).tobytes()


def integers(data: bytes) -> list[int]:
    """The representatives in [-2**127, 2**127)."""
    limbs = np.frombuffer(data, dtype="<i8").reshape(-1, 2)
    low, high = limbs[:, 0], limbs[:, 1]
    if np.array_equal(high, low >> 63):
        found: list[int] = low.tolist()
        return found
    return [(h << 64) | x for h, x in zip(high.tolist(), low.view("<u8").tolist(), strict=True)]


def added(vectors: Sequence[bytes]) -> bytes:
    """The sum of vectors of one length, modulo 2**128 in every place."""
    total = _limbs(vectors[0]).copy()
    for vector in vectors[1:]:
        other = _limbs(vector)
        low = total[:, 0] + other[:, 0]
        total[:, 1] += other[:, 1] + (low < other[:, 0])
        total[:, 0] = low
    return total.tobytes()


def negated(vector: bytes) -> bytes:
    """Minus a vector: the complement plus one, with its carry."""
    flipped = ~_limbs(vector)
    low = flipped[:, 0] + np.uint64(1)
    flipped[:, 1] += low == 0
    flipped[:, 0] = low
    return flipped.tobytes()


def _limbs(vector: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(vector, dtype="<u8").reshape(-1, 2)


# --- what is contributed ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """A round's table: declared cells, and measures per cell."""

    cells: int
    measures: int
    noisy: bool = False  # identities carry noise: they may be below 0

    @property
    def counted(self) -> int:
        """Words of the first vector: identities, then contributing participants, of every cell."""
        return 2 * self.cells

    @property
    def measured(self) -> int:
        """Words of the second: measure after measure, of every cell."""
        return self.measures * self.cells


@dataclass(frozen=True, slots=True)
class Contribution:
    """One participant's own aggregates over the declared cells, after its local gate."""

    identities: tuple[int, ...]  # per cell; 0 where it has nothing or its gate left the cell out
    measures: tuple[tuple[int, ...], ...]  # per measure, per cell; 0 where identities are 0
    kept: tuple[bool, ...] | None = None  # under noise: the cells contributed to, with whatever count

    def counted(self) -> list[int]:
        """The first vector."""
        kept = [count > 0 for count in self.identities] if self.kept is None else self.kept
        return [*self.identities, *map(int, kept)]

    def measured(self, released: Sequence[bool]) -> list[int]:
        """The second, zero in every cell that the totals do not let out."""
        return [
            x if shown else 0 for column in self.measures for x, shown in zip(column, released, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class TotalGate:
    """The rule over totals that every participant applies alike: least identities and participants a cell.

    It is the strictest of all policies: were each to apply its own, a cell would hold the sum of some.
    """

    identities: int
    participants: int

    @classmethod
    def of(cls, roster: Roster) -> TotalGate:
        """The rule of a round."""
        return cls(max(e.identities for e in roster.entries), max(e.participants for e in roster.entries))

    def released(self, shape: Shape, totals: Sequence[int]) -> list[bool]:
        """Which cells may be filled. Raises `PeerViolation` for totals that no honest round has."""
        identities, participants = totals[: shape.cells], totals[shape.cells :]
        if any(
            not 0 <= p <= MOST_PARTICIPANTS or (i != 0 if p == 0 else i <= 0 and not shape.noisy)
            for i, p in zip(identities, participants, strict=True)
        ):
            raise PeerViolation("peer.totals", "the announced totals are not those of any round")
        return [
            i >= max(1, self.identities) and p >= self.participants
            for i, p in zip(identities, participants, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Totals:
    """What a round gives its asker."""

    identities: tuple[int, ...]
    participants: tuple[int, ...]
    measures: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: Shape, counted: Sequence[int], measured: Sequence[int]) -> Totals:
        """From both total vectors."""
        cells = shape.cells
        columns = (tuple(measured[at : at + cells]) for at in range(0, shape.measured, cells))
        return cls(tuple(counted[:cells]), tuple(counted[cells:]), tuple(columns))
