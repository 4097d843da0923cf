"""Sums over N participants under pairwise masks (Bonawitz et al. 2017, without recovery of dropouts).

The asker's connector learns the totals of every cell: identities and participants before the total gate,
measures of released cells; so do all participants of the former. Nobody learns another's contribution,
unless all but one other collude: the sum of two honest contributions is then what remains. Semi-honest
participants. An asker that deviates can announce wrong totals; it gets sums over the whole roster only.

    k_ij = HKDF-SHA256(X25519(x_i, X_j), salt: roster digest, info: label, ids in order)
    m_i  = v_i + sum over j > i of PRG(k_ij) - sum over j < i of PRG(k_ij)       modulo 2**128
    sum of all m_i = sum of all v_i

PRG is ChaCha20 from block 0 under a key used once: X25519 keys live for one round, and each vector has its
own label. A participant that vanishes leaves sums that nobody can unmask: the round has failed, and the
next one is a new query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from compute import federation as f
from compute import pooling
from compute.errors import PeerViolation
from compute.federation import Contribution, Member, Roster, Shape, TotalGate, Totals
from compute.frames import Frame, Role, receive, receive_blob, send_blob
from compute.inputs import Entropy
from compute.plan import Plan, Side
from compute.protocols import _federated as federated
from compute.protocols._release import malformed, receive_release, send_release
from compute.protocols.base import Cost

SCHEME = "masked_sum v1"
KEY_BYTES = 32


def participant(member: Member, shape: Shape, own: Contribution, entropy: Entropy) -> Role[list[bool]]:
    """A participant's side: returns which cells it filled."""
    roster = yield from f.receive_roster(member)
    masks = yield from _agreed(member, roster, entropy)
    member.contributing()
    yield from send_blob("counts", masks.masked("counts", f.words(own.counted())))
    totals = yield from receive_blob("totals", f.WORD_BYTES * shape.counted)
    released = TotalGate.of(roster).released(shape, f.integers(totals))
    yield from send_release(masks.masked("measures", f.words(own.measured(released))))
    return released


def coordinator(roster: Roster, shape: Shape) -> Role[Totals]:
    """The asker's side of the exchange with one participant; all of a round run side by side."""
    yield from f.send_roster(roster)
    key = yield from receive("round-key")
    yield from f.send_sized("round-keys", (yield from f.together("round-keys", key, f.joined)))
    counts = yield from receive_blob("counts", f.WORD_BYTES * shape.counted)
    counted = yield from f.together("counts", counts, f.added)
    yield from send_blob("totals", counted)
    release = yield from receive_release()
    if len(release) != f.WORD_BYTES * shape.measured:
        raise malformed()
    measured = yield from f.together("measures", release, f.added)
    return Totals.of(shape, f.integers(counted), f.integers(measured))


@dataclass(frozen=True, slots=True)
class _Masks:
    """One participant's pairwise secrets of a round."""

    own: str
    secrets: tuple[tuple[str, bytes], ...]  # (other participant, shared X25519 secret)
    salt: bytes

    def __repr__(self) -> str:
        return "<masks>"

    def masked(self, label: str, vector: bytes) -> bytes:
        """The vector under this participant's masks for one label. INVARIANT: once per label."""
        pads = [self._pad(other, secret, label, len(vector)) for other, secret in self.secrets]
        return f.added([vector, *pads]) if vector else b""

    def _pad(self, other: str, secret: bytes, label: str, length: int) -> bytes:
        pair = [label.encode(), *sorted([self.own.encode(), other.encode()])]
        info = SCHEME.encode() + b"\0" + f.joined(pair)
        key = HKDF(hashes.SHA256(), 32, self.salt, info).derive(secret)
        stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(length))
        return stream if self.own < other else f.negated(stream)


def _agreed(member: Member, roster: Roster, entropy: Entropy) -> Role[_Masks]:
    """Exchange signed keys of this round through the asker."""
    private = X25519PrivateKey.from_private_bytes(entropy(KEY_BYTES))
    public = private.public_key().public_bytes_raw()
    yield Frame("round-key", f.signed_key(member, SCHEME, roster, public))
    most = len(roster.entries) * (4 + f.signed_key_bytes(KEY_BYTES))
    bodies = f.split((yield from f.receive_sized("round-keys", most)))
    keys = f.checked_keys(member, SCHEME, roster, bodies, public)
    return _Masks(member.participant, _secrets(member, roster, private, keys), roster.digest)


def _secrets(
    member: Member, roster: Roster, private: X25519PrivateKey, keys: Sequence[bytes]
) -> tuple[tuple[str, bytes], ...]:
    others = [
        (entry.participant, key)
        for entry, key in zip(roster.entries, keys, strict=True)
        if entry.participant != member.participant
    ]
    try:
        return tuple(
            (other, private.exchange(X25519PublicKey.from_public_bytes(key))) for other, key in others
        )
    except ValueError:  # a point of small order gives the all-zero secret (RFC 7748, section 6.1)
        raise PeerViolation("peer.round-key", "a participant's key gives no shared secret") from None


def _cost(plan: Plan) -> Cost:
    """A pad for every pair and vector, about 200 MB a second."""
    shape, n = pooling.shape(plan), len(plan.federation)
    size = f.WORD_BYTES * (shape.counted + shape.measured)
    return Cost(0.05 + n * n * (0.0004 + size / 2e8), n * (size + f.WORD_BYTES * shape.counted))


def _parameters(receiver: Side | None, sender: Side, maximum_cells: int) -> dict[str, Any]:  # noqa: ARG001
    federated.check_release(f.WORD_BYTES * len(sender.partials) * maximum_cells)
    return {}


def _coordinated(plan: Plan, roster: Roster) -> Role[Totals]:
    return coordinator(roster, pooling.shape(plan))


def _taken(plan: Plan, member: Member, own: Contribution, entropy: Entropy) -> Role[list[bool]]:
    return participant(member, pooling.shape(plan), own, entropy)


PROTOCOL = federated.protocol(
    name="masked_sum",
    version=1,
    threat_model=(
        "All connectors follow the protocol and may study what they see; all but two participants may pool "
        "it. A deviating asker can announce wrong totals to the gate; it gets sums over all of them only."
    ),
    coordinator=_coordinated,
    participant=_taken,
    cost=_cost,
    parameters=_parameters,
)
