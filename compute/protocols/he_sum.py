"""Sums over N participants under a threshold key that nobody holds (BFV, N of N; compute/threshold.py).

The asker's connector learns the totals of every cell: identities and participants before the total gate,
measures of released cells; so do all participants of the former. Nobody learns another's contribution,
unless all but one other collude: the sum of two honest contributions is then what remains. Semi-honest
participants. An asker that deviates can announce wrong totals. It cannot have anything opened but the sum
over the whole roster: each participant adds up the signed ciphertexts itself before it gives its share.

    i -> all  H(p_i, c1_i, c1'_i);  then p_i, c1_i, c1'_i, signed         b = sum of p_i;  ': of the measures
    i -> asker  c0_i;  d_i = (sum of c1_j) s_i + flood                    counts
    i -> asker  c0'_i; d'_i = (sum of c1'_j) s_i + flood, as its release  measures, once the totals are known

c1 = a u + e1 depends on no message, so all of it is committed to before any is shown: who speaks last can
choose neither the key (p - sum of p_j) nor what is opened (one c1 in place of the sum). It can still show
a c1 that is none: docs/explanation/federation.md says what that gives it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compute import _native, pooling, threshold
from compute import federation as f
from compute.errors import PeerViolation, QueryError
from compute.extremes import ANY
from compute.federation import Contribution, Member, Roster, Shape, TotalGate, Totals
from compute.frames import Role, receive_blob, send_blob
from compute.inputs import Entropy
from compute.plan import Plan, Side
from compute.protocols import _federated as federated
from compute.protocols._release import receive_release, send_release
from compute.protocols.base import Cost
from compute.threshold import Parameters

SCHEME = "he_sum v2"
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
    part = _Part.fresh(parameters, shape, roster, entropy)
    agreed = _Agreed.of(part, (yield from f.disclosed(member, SCHEME, roster, part.shown)))
    member.contributing()
    c0, share = agreed.contributed(0, own.counted())
    yield from send_blob("counts-c0", c0)
    yield from send_blob("counts-share", share)
    totals = yield from receive_blob("totals", f.WORD_BYTES * shape.counted)
    released = TotalGate.of(roster).released(shape, f.integers(totals))
    c0, share = agreed.contributed(1, own.measured(released))
    yield from send_blob("measures-c0", c0)
    yield from send_release(share)
    return released


def coordinator(roster: Roster, shape: Shape, parameters: Parameters) -> Role[Totals]:
    """The asker's side of the exchange with one participant; all of a round run side by side."""
    counts, measures = map(parameters.ciphertext_bytes, (shape.counted, shape.measured))
    yield from f.send_roster(roster)
    yield from f.relay_disclosed(parameters.polynomial_bytes + counts + measures)
    c0 = yield from receive_blob("counts-c0", counts)
    share = yield from receive_blob("counts-share", counts)
    totals = yield from _opened(parameters, "counts", c0, share, shape.counted)
    yield from send_blob("totals", totals)
    c0 = yield from receive_blob("measures-c0", measures)
    share = yield from receive_release()
    if len(share) != measures:
        raise PeerViolation("peer.malformed-release", "the peer's release is not in the agreed form")
    sums = yield from _opened(parameters, "measures", c0, share, shape.measured)
    return Totals.of(shape, f.integers(totals), f.integers(sums))


def _opened(parameters: Parameters, label: str, c0: bytes, share: bytes, length: int) -> Role[bytes]:
    """The sums of one vector. Each exchange checks and adds what its own participant sent."""
    ring = parameters.ring()

    def reduce(columns: list[bytes]) -> bytes:
        return f.words(threshold.opened(ring, parameters, columns, length))

    return (yield from f.together(label, _added(ring, [c0, share]), reduce))


@dataclass(frozen=True, slots=True)
class _Part:
    """What one member brings into a round: its share of the key, and the halves without a message."""

    parameters: Parameters
    ring: _native.SelectionRing
    secret: _native.ThresholdMember
    seeds: tuple[bytes, bytes]  # of the counts' ciphertexts and the measures'
    vectors: tuple[int, int]  # bytes of their c1
    shown: bytes  # p_i and both c1_i
    entropy: Entropy

    def __repr__(self) -> str:
        return "<threshold part>"

    @classmethod
    def fresh(cls, parameters: Parameters, shape: Shape, roster: Roster, entropy: Entropy) -> _Part:
        """Everything but the messages, all of it new."""
        ring, lengths = parameters.ring(), (shape.counted, shape.measured)
        common = hashlib.sha256(b"bayspace he_sum v2 common\0" + roster.digest).digest()
        secret = _native.ThresholdMember(ring, entropy(_SEED_BYTES), common)
        seeds = entropy(_SEED_BYTES), entropy(_SEED_BYTES)
        halves = [
            _native.threshold_second_halves(ring, common, seed, parameters.blocks(length))
            for seed, length in zip(seeds, lengths, strict=True)
        ]
        shown = b"".join([secret.key_share(), *halves])
        return cls(parameters, ring, secret, seeds, (len(halves[0]), len(halves[1])), shown, entropy)


@dataclass(frozen=True, slots=True)
class _Agreed:
    """A round's public key and, of both vectors, the sum of everybody's c1."""

    part: _Part
    public: bytes
    sums: tuple[bytes, bytes]

    @classmethod
    def of(cls, part: _Part, parts: Sequence[bytes]) -> _Agreed:
        """From all members' parts."""
        total, key = _added(part.ring, parts), part.parameters.polynomial_bytes
        counts = key + part.vectors[0]
        return cls(part, total[:key], (total[key:counts], total[counts:]))

    def contributed(self, vector: int, words: list[int]) -> tuple[bytes, bytes]:
        """Our c0 of a vector, and our share of everybody's sum. INVARIANT: once per vector."""
        part, parameters = self.part, self.part.parameters
        c0 = _native.threshold_first_halves(
            part.ring,
            parameters.plain_bits,
            self.public,
            threshold.messages(parameters, words),
            part.seeds[vector],
        )
        flood = part.entropy(_SEED_BYTES)
        return c0, part.secret.decryption_share(self.sums[vector], flood, parameters.flood_bits)


def _added(ring: _native.SelectionRing, columns: Sequence[bytes]) -> bytes:
    try:
        return _native.threshold_add(ring, columns)
    except ValueError:
        raise PeerViolation(
            "peer.malformed", "a participant's ciphertext is not of the agreed form"
        ) from None


def _coordinated(plan: Plan, roster: Roster) -> Role[Totals]:
    return coordinator(roster, pooling.shape(plan), Parameters.planned(plan.parameters))


def _taken(plan: Plan, member: Member, own: Contribution, entropy: Entropy) -> Role[list[bool]]:
    return participant(member, pooling.shape(plan), Parameters.planned(plan.parameters), own, entropy)


def _cost(plan: Plan) -> Cost:
    """Everybody checks and adds up everybody's ciphertexts, about 150 MB a second."""
    shape, n, parameters = pooling.shape(plan), len(plan.federation), Parameters.planned(plan.parameters)
    polynomial = parameters.polynomial_bytes
    whole = parameters.ciphertext_bytes(shape.counted) + parameters.ciphertext_bytes(shape.measured)
    seconds = 0.1 + n * (n + 5) * (polynomial + whole) / 1.5e8
    return Cost(seconds, n * ((n + 1) * (whole + polynomial) + 2 * whole))


def _parameters(receiver: Side | None, sender: Side, maximum_cells: int) -> dict[str, Any]:  # noqa: ARG001
    if any(partial.function == ANY for partial in sender.partials):
        raise QueryError(
            "plan.extreme-threshold",
            "MIN and MAX over a federation need words of 128 bits, which masked_sum adds and this does not",
        )
    parameters = pooling.threshold_parameters(sender, maximum_cells)
    federated.check_release(parameters.ciphertext_bytes(len(sender.partials) * maximum_cells))
    return parameters.canonical()


PROTOCOL = federated.protocol(
    name="he_sum",
    version=2,
    threat_model=(
        "All participants follow the protocol and may study what they see; all but two may pool it. A "
        "deviating asker can announce wrong totals to the gate; nothing but sums over all participants opens."
    ),
    coordinator=_coordinated,
    participant=_taken,
    cost=_cost,
    parameters=_parameters,
)
