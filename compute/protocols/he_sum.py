"""Sums over N participants under a threshold key that nobody holds (BFV, N of N; compute/threshold.py).

The asker's connector learns the totals of every cell: identities and participants before the total gate,
measures of released cells; so do all participants of the former. Nobody learns another's contribution,
unless all but one other collude: the sum of two honest contributions is then what remains. Semi-honest
participants. An asker that deviates can announce wrong totals. It cannot have anything opened but the sum
over the whole roster: each participant adds up the signed ciphertexts itself before it gives its share.

    i -> all  p_i, signed               b = sum of p_i
    i -> all  c1_i, signed; -> asker c0_i        of its counts, later of its measures
    i -> asker  d_i = (sum of c1_j) s_i + flood  of its counts, later, as its release, of its measures
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from compute import _native, pooling, threshold
from compute import federation as f
from compute.errors import PeerViolation
from compute.federation import Contribution, Member, Roster, Shape, TotalGate, Totals
from compute.frames import Frame, Role, receive, receive_blob, send_blob
from compute.inputs import Cells, Context, Entropy, Gate, LocalInput, Summary
from compute.plan import Plan, Side
from compute.protocols import _federated as federated
from compute.protocols._release import receive_release, send_release
from compute.protocols.base import Cost, Protocol
from compute.threshold import Parameters
from policy_enforcer.disclosure import Level

SCHEME = "he_sum v1"
_SEED_BYTES = 32


def participant(
    member: Member,
    shape: Shape,
    parameters: Parameters,
    own: Contribution,
    entropy: Entropy,
) -> Role[list[bool]]:
    """A participant's side: returns which cells it filled."""
    roster = yield from f.receive_roster(member)
    key = yield from _agreed(member, roster, parameters, entropy)
    share = yield from key.contributed("counts", own.counted())
    yield from send_blob("counts-share", share)
    totals = yield from receive_blob("totals", f.WORD_BYTES * shape.counted)
    released = TotalGate.of(roster).released(shape, f.integers(totals))
    yield from send_release((yield from key.contributed("measures", own.measured(released))))
    return released


def coordinator(roster: Roster, shape: Shape, parameters: Parameters, place: int) -> Role[Totals]:
    """The asker's side of the exchange with the participant at `place`; all of a round run side by side."""
    ring = parameters.ring()
    yield from f.send_roster(roster)
    share = yield from receive("round-key")
    yield from f.send_bodies("round-keys", (yield from f.gather("round-keys", share)))
    c0 = yield from _ciphertexts(parameters, ring, "counts", shape.counted)
    part = yield from receive_blob("counts-share", parameters.ciphertext_bytes(shape.counted))
    shares = yield from f.gather("counts-share", part)
    opened = _opened(ring, parameters, c0, shares, shape.counted) if place == 0 else ()
    totals = (yield from f.gather("totals", f.words(opened)))[0]
    yield from send_blob("totals", totals)
    c0 = yield from _ciphertexts(parameters, ring, "measures", shape.measured)
    release = yield from receive_release()
    if len(release) != parameters.ciphertext_bytes(shape.measured):
        raise PeerViolation("peer.malformed-release", "the peer's release is not in the agreed form")
    shares = yield from f.gather("measures-share", release)
    opened = _opened(ring, parameters, c0, shares, shape.measured) if place == 0 else ()
    measured = (yield from f.gather("measured", f.words(opened)))[0]
    return Totals.of(shape, f.integers(totals), f.integers(measured))


def _ciphertexts(parameters: Parameters, ring: _native.SelectionRing, label: str, length: int) -> Role[bytes]:
    """Pass every c1 to everybody; return the total c0."""
    if not length:
        return b""
    most = parameters.ciphertext_bytes(length)
    own = yield from f.receive_bodies(f"{label}-c1", 4 + f.signed_key_bytes(most))
    if len(own) != 1:
        raise PeerViolation("peer.malformed", "a participant sent other than one ciphertext")
    yield from f.send_bodies(f"{label}-c1s", (yield from f.gather(f"{label}-c1s", own[0])))
    c0 = yield from receive_blob(f"{label}-c0", most)
    return _added(ring, (yield from f.gather(f"{label}-c0", c0)))


@dataclass(frozen=True, slots=True)
class _Key:
    """One member's part of a round's key."""

    member: Member
    roster: Roster
    parameters: Parameters
    ring: _native.SelectionRing
    own: _native.ThresholdMember
    common_seed: bytes
    public: bytes
    entropy: Entropy

    def __repr__(self) -> str:
        return "<threshold key>"

    def contributed(self, label: str, words: list[int]) -> Role[bytes]:
        """Encrypt a vector, check and add everybody's, and return our share of the sum."""
        if not words:
            return b""
        c0, c1 = threshold.encrypt(
            self.ring, self.parameters, self.common_seed, self.public, words, self.entropy(_SEED_BYTES)
        )
        scheme = f"{SCHEME} {label}"
        yield from f.send_bodies(f"{label}-c1", [f.signed_key(self.member, scheme, self.roster, c1)])
        most = len(self.roster.entries) * (4 + f.signed_key_bytes(len(c1)))
        bodies = yield from f.receive_bodies(f"{label}-c1s", most)
        every = f.checked_keys(self.member, scheme, self.roster, bodies, len(c1), c1)
        yield from send_blob(f"{label}-c0", c0)
        seed = self.entropy(_SEED_BYTES)
        return self.own.decryption_share(_added(self.ring, every), seed, self.parameters.flood_bits)


def _agreed(member: Member, roster: Roster, parameters: Parameters, entropy: Entropy) -> Role[_Key]:
    """Make and exchange the shares of this round's key through the asker."""
    ring = parameters.ring()
    common = hashlib.sha256(b"bayspace he_sum v1 common\0" + roster.digest).digest()
    own = _native.ThresholdMember(ring, entropy(_SEED_BYTES), common)
    share = own.key_share()
    yield Frame("round-key", f.signed_key(member, SCHEME, roster, share))
    most = len(roster.entries) * (4 + f.signed_key_bytes(len(share)))
    bodies = yield from f.receive_bodies("round-keys", most)
    public = _added(ring, f.checked_keys(member, SCHEME, roster, bodies, len(share), share))
    return _Key(member, roster, parameters, ring, own, common, public, entropy)


def _added(ring: _native.SelectionRing, columns: list[bytes]) -> bytes:
    try:
        return _native.threshold_add(ring, columns)
    except ValueError:
        raise _malformed() from None


def _opened(
    ring: _native.SelectionRing, parameters: Parameters, c0: bytes, shares: list[bytes], length: int
) -> Sequence[int]:
    try:
        return threshold.opened(ring, parameters, c0, shares, length)
    except ValueError:
        raise _malformed() from None


def _malformed() -> PeerViolation:
    return PeerViolation("peer.malformed", "a participant's ciphertext is not of the agreed form")


def receiver(context: Context, own: LocalInput | None) -> Role[Cells]:
    """The asker's side, as a protocol's role."""
    assert own is None
    plan, seat = context.plan, federated.seat(context)
    parameters = pooling.threshold_parameters(plan.sender, plan.maximum_cells)
    totals = yield from coordinator(seat.roster, pooling.shape(plan), parameters, seat.place)
    return federated.answered(context, totals)


def sender(context: Context, own: LocalInput | pa.Table, gate: Gate) -> Role[Summary]:
    """A participant's side, as a protocol's role."""
    plan = context.plan
    part = federated.own_part(plan, own, gate)
    parameters = pooling.threshold_parameters(plan.sender, plan.maximum_cells)
    member, shape = federated.member(context), pooling.shape(plan)
    released = yield from participant(member, shape, parameters, part, context.entropy)
    return federated.summary(released)


def _cost(plan: Plan) -> Cost:
    """Everybody adds up everybody's ciphertexts: about 5 ms a polynomial."""
    shape, n = pooling.shape(plan), len(plan.federation)
    parameters = pooling.threshold_parameters(plan.sender, plan.maximum_cells)
    polynomial = parameters.polynomial_bytes
    whole = parameters.ciphertext_bytes(shape.counted) + parameters.ciphertext_bytes(shape.measured)
    seconds = 0.1 + 0.005 * n * (n + 5) * (1 + whole / polynomial)
    return Cost(seconds, n * (n + 3) * (whole + polynomial))


def _parameters(receiver: Side | None, sender: Side, maximum_cells: int) -> dict[str, Any]:  # noqa: ARG001
    return pooling.threshold_parameters(sender, maximum_cells).canonical()


PROTOCOL = Protocol(
    name="he_sum",
    version=1,
    level=Level.HIDDEN,
    joint=False,
    kinds=frozenset({"federated"}),
    threat_model=(
        "All participants follow the protocol and may study what they see; all but two may pool it. A "
        "deviating asker can announce wrong totals to the gate; nothing but sums over all participants opens."
    ),
    reveals=federated.REVEALS,
    gates=federated.GATES,
    weighted=False,
    cost=_cost,
    parameters=_parameters,
    receiver=receiver,
    sender=sender,
)
