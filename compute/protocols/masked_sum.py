"""Sums over N participants under pairwise masks (Bonawitz et al. 2017, without recovery of dropouts).

The asker's connector learns the totals of every cell: identities and participants before the total gate,
measures of released cells; so do all participants of the former. Nobody learns another's contribution,
unless all but one other collude: the sum of two honest contributions is then what remains. Semi-honest
participants. An asker that deviates can announce wrong totals; it gets sums over the whole roster only.

    m_i = v_i + masks (compute/protocols/_masks.py);    sum of all m_i = sum of all v_i

Each vector has a label of its own. A participant that vanishes leaves sums that nobody can unmask: the round
has failed, and the next one is a new query.
"""

from __future__ import annotations

from typing import Any

from compute import federation as f
from compute import pooling
from compute.federation import Contribution, Member, Roster, Shape, TotalGate, Totals
from compute.frames import Role, receive_blob, send_blob
from compute.inputs import Entropy
from compute.plan import Plan, Side
from compute.protocols import _federated as federated
from compute.protocols._masks import agreed, relay_keys
from compute.protocols._release import malformed, receive_release, send_release
from compute.protocols.base import Cost

SCHEME = "masked_sum v1"


def participant(member: Member, shape: Shape, own: Contribution, entropy: Entropy) -> Role[list[bool]]:
    """A participant's side: returns which cells it filled."""
    roster = yield from f.receive_roster(member)
    masks = yield from agreed(member, SCHEME, roster, entropy)
    member.contributing()
    yield from send_blob("counts", masks.masked("counts", f.words(own.counted())))
    totals = yield from receive_blob("totals", f.WORD_BYTES * shape.counted)
    released = TotalGate.of(roster).released(shape, f.integers(totals))
    yield from send_release(masks.masked("measures", f.words(own.measured(released))))
    return released


def coordinator(roster: Roster, shape: Shape) -> Role[Totals]:
    """The asker's side of the exchange with one participant; all of a round run side by side."""
    yield from f.send_roster(roster)
    yield from relay_keys()
    counts = yield from receive_blob("counts", f.WORD_BYTES * shape.counted)
    counted = yield from f.together("counts", counts, f.added)
    yield from send_blob("totals", counted)
    release = yield from receive_release()
    if len(release) != f.WORD_BYTES * shape.measured:
        raise malformed()
    measured = yield from f.together("measures", release, f.added)
    return Totals.of(shape, f.integers(counted), f.integers(measured))


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
        "it. A deviating asker can announce wrong totals to the gate; it gets sums over all of them only. "
        "A deviating participant can contribute anything, and pass minima of totals with identities that it "
        "does not have."
    ),
    coordinator=_coordinated,
    participant=_taken,
    cost=_cost,
    parameters=_parameters,
)
