"""Sums over N participants under a threshold key that nobody holds (BFV, N of N; compute/threshold.py).

The asker's connector learns the totals of every cell: identities and participants before the total gate,
measures of released cells; so do all participants of the former. Nobody learns another's contribution,
unless all but one other collude: the sum of two honest contributions is then what remains. Semi-honest
participants. An asker that deviates can announce wrong totals. It cannot have anything opened but the sum
over the whole roster: each participant adds up the signed ciphertexts itself before it gives its share.

    i -> all  H(p_i, c1_i, c1'_i, X_i);  then p_i, c1_i, c1'_i, X_i, signed    b = sum of p_i;  ': of measures
    i -> asker  c0_i  + (sum of c1_j)  s_i + flood + mask_i                    counts
    i -> asker  c0'_i + (sum of c1'_j) s_i + flood + mask'_i, as its release   measures, after the totals

c1 = a u + e1 depends on no message, so all of it is committed to before any is shown: who speaks last can
choose neither the key (p - sum of p_j) nor what is opened (one c1 in place of the sum). It can still show
a c1 that is none, and then the sum of the secrets is opened. That is no use to it: ciphertexts leave under
pairwise masks alone (compute/protocols/_masks.py, X_i their keys), so nobody sees one, only their sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from compute import _native, extremes, pooling, threshold
from compute import federation as f
from compute.errors import PeerViolation, QueryError
from compute.federation import Contribution, Member, Roster, Shape, TotalGate, Totals
from compute.frames import Role, receive_blob, send_blob
from compute.inputs import Entropy
from compute.plan import Plan, Side
from compute.protocols import _federated as federated
from compute.protocols._masks import KEY_BYTES, Masks, fresh
from compute.protocols._release import malformed, receive_release, send_release
from compute.protocols.base import Cost
from compute.threshold import Parameters

SCHEME = "he_sum v3"
VECTORS = ("counts", "measures")
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
    parts = yield from f.disclosed(member, SCHEME, roster, part.shown)
    agreed = _Agreed.of(part, member, roster, parts)
    member.contributing()
    yield from send_blob("counts", agreed.contributed("counts", own.counted()))
    totals = yield from receive_blob("totals", f.WORD_BYTES * shape.counted)
    released = TotalGate.of(roster).released(shape, f.integers(totals))
    yield from send_release(agreed.contributed("measures", own.measured(released)))
    return released


def coordinator(roster: Roster, shape: Shape, parameters: Parameters) -> Role[Totals]:
    """The asker's side of the exchange with one participant; all of a round run side by side."""
    halves = sum(map(parameters.ciphertext_bytes, (shape.counted, shape.measured)))
    yield from f.send_roster(roster)
    yield from f.relay_disclosed(parameters.polynomial_bytes + halves + KEY_BYTES)
    counts = yield from receive_blob("counts", parameters.residue_bytes(shape.counted))
    totals = yield from _opened(parameters, "counts", counts, shape.counted)
    yield from send_blob("totals", totals)
    measures = yield from receive_release()
    if len(measures) != parameters.residue_bytes(shape.measured):
        raise malformed()
    sums = yield from _opened(parameters, "measures", measures, shape.measured)
    return Totals.of(shape, f.integers(totals), f.integers(sums))


def _opened(parameters: Parameters, label: str, vector: bytes, length: int) -> Role[bytes]:
    """The sums of one vector, from everybody's."""

    def reduce(vectors: list[bytes]) -> bytes:
        total = sum((_residues(one) for one in vectors[1:]), _residues(vectors[0]))
        moduli = np.array(parameters.moduli, np.uint64)[:, np.newaxis]
        found = total.reshape(-1, len(parameters.moduli), parameters.degree) % moduli
        return f.words(threshold.opened(parameters, found, length))

    return (yield from f.together(label, vector, reduce))


def _residues(vector: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(vector, dtype="<u8")


@dataclass(frozen=True, slots=True)
class _Part:
    """What one member brings into a round: its share of the key, and the halves without a message."""

    parameters: Parameters
    ring: _native.SelectionRing
    secret: _native.ThresholdMember
    private: X25519PrivateKey
    seeds: dict[str, bytes]  # of the counts' ciphertexts and the measures'
    lengths: dict[str, int]  # bytes of their c1
    shown: bytes  # p_i, both c1_i and X_i
    entropy: Entropy

    def __repr__(self) -> str:
        return "<threshold part>"

    @classmethod
    def fresh(cls, parameters: Parameters, shape: Shape, roster: Roster, entropy: Entropy) -> _Part:
        """Everything but the messages, all of it new."""
        ring, words = parameters.ring(), dict(zip(VECTORS, (shape.counted, shape.measured), strict=True))
        common = hashlib.sha256(SCHEME.encode() + b" common\0" + roster.digest).digest()
        secret = _native.ThresholdMember(ring, entropy(_SEED_BYTES), common)
        seeds = {vector: entropy(_SEED_BYTES) for vector in VECTORS}
        halves = {
            vector: _native.threshold_second_halves(ring, common, seed, parameters.blocks(words[vector]))
            for vector, seed in seeds.items()
        }
        private, public = fresh(entropy)
        shown = b"".join([secret.key_share(), *halves.values(), public])
        lengths = {vector: len(half) for vector, half in halves.items()}
        return cls(parameters, ring, secret, private, seeds, lengths, shown, entropy)


@dataclass(frozen=True, slots=True)
class _Agreed:
    """A round's public key, everybody's masks and, of both vectors, the sum of everybody's c1."""

    part: _Part
    public: bytes
    sums: dict[str, bytes]
    masks: Masks

    @classmethod
    def of(cls, part: _Part, member: Member, roster: Roster, parts: Sequence[bytes]) -> _Agreed:
        """From all members' parts. Raises `PeerViolation`."""
        total, at = _added(part.ring, [one[:-KEY_BYTES] for one in parts]), part.parameters.polynomial_bytes
        public, sums = total[:at], {}
        for vector, length in part.lengths.items():
            sums[vector] = total[at : at + length]
            at += length
        keys = [one[-KEY_BYTES:] for one in parts]
        return cls(part, public, sums, Masks.between(SCHEME, member, roster, part.private, keys))

    def contributed(self, vector: str, words: list[int]) -> bytes:
        """Our c0 with our share of everybody's sum, under our masks. INVARIANT: once per vector.

        The asker adds all of them up: neither half of it, nor the sum of both, is anybody's to see.
        """
        part, parameters = self.part, self.part.parameters
        message = threshold.messages(parameters, words)
        c0 = _native.threshold_first_halves(
            part.ring, parameters.plain_bits, self.public, message, part.seeds[vector]
        )
        flood = part.entropy(_SEED_BYTES)
        share = part.secret.decryption_share(self.sums[vector], flood, parameters.flood_bits)
        total = threshold.residues(part.ring, [c0, share]).copy()
        for add, pad in self.masks.pads(vector, total.nbytes):
            total += _residues(pad) if add else -_residues(pad)
        return total.tobytes()


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
    vectors = parameters.residue_bytes(shape.counted) + parameters.residue_bytes(shape.measured)
    seconds = 0.1 + n * (n + 5) * (polynomial + whole) / 1.5e8 + n * n * vectors / 2e8
    return Cost(seconds, n * ((n + 1) * (whole + polynomial) + vectors + f.WORD_BYTES * shape.counted))


def _parameters(receiver: Side | None, sender: Side, maximum_cells: int) -> dict[str, Any]:  # noqa: ARG001
    if extremes.scaled(sender):
        raise QueryError(
            "plan.extreme-threshold",
            "MIN and MAX over a federation need words of 128 bits, which masked_sum adds and this does not",
        )
    parameters = pooling.threshold_parameters(sender, maximum_cells)
    federated.check_release(parameters.residue_bytes(len(sender.partials) * maximum_cells))
    return parameters.canonical()


PROTOCOL = federated.protocol(
    name="he_sum",
    version=3,
    threat_model=(
        "All connectors follow the protocol and may study what they see; all but two participants may pool "
        "it. A deviating asker can announce wrong totals to the gate; with participants that deviate too it "
        "gets sums over all of them only. A deviating participant can contribute anything, and pass minima "
        "of totals with identities that it does not have."
    ),
    coordinator=_coordinated,
    participant=_taken,
    cost=_cost,
    parameters=_parameters,
)
