"""The overlap, counted by the owner before anybody learns a match: what `psi_list` and `psi_count` share.

The receiver learns nothing here. The sender learns how many keys both sides hold, neither which of its own
nor, behind the receiver's secret order, which of the receiver's. Semi-honest; see threat-model.md for who
deviates.

    both     points as in psi: a·X_i in R's secret order, b·Y_j in S's
    R -> S   tags of a·(b·Y_j), in a fresh order of R's          (`receiver-tags`)
    S        tags of b·(a·X_i), and compares

In `psi` it is R that compares, so R knows its matches before any gate. Here S compares, and gives nothing
back that depends on its scalar before its gate has decided. R cannot make S count a match for a key that R
does not hold: it would have to know the tag of b·P, which takes b, or P's key and its place among S's points.
The steps are those of Huberman, Franklin and Hogg 1999 and of De Cristofaro, Gasti and Tsudik 2012, with the
roles exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from compute import kernel
from compute.inputs import Context, LocalInput
from compute.plan import Plan
from compute.protocols import psi
from compute.protocols.base import Role, send_blob
from compute.protocols.psi import Indices, Kept, Sizes
from policy_enforcer.disclosure import Party

TAGS = "receiver-tags"


@dataclass(frozen=True, slots=True)
class Asked:
    """R's end: the key in each place of its order, and the slot of S's behind each tag that it sent."""

    order: Indices
    slots: Indices
    scalar: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Overlap:
    """S's end: matched places of R's order, ascending, with the tag that each matched; S's slots' keys."""

    order: Indices
    places: Indices
    tags: Indices

    @property
    def size(self) -> int:
        """How many keys both sides hold."""
        return len(self.places)


def ask(context: Context, own: LocalInput) -> Role[Asked]:
    """R's side."""
    sizes = Sizes.of(context)
    order = psi.padded_order(len(own.keys), sizes.receiver, context.entropy)
    exchanged = yield from psi.exchange(context, Party.RECEIVER, own.keys, order)
    # S's order must not come back: it would tell S which of its keys a tag belongs to.
    slots = psi.permutation(sizes.sender, context.entropy)
    shuffled = kernel.permute(exchanged.tags, pa.array(slots))
    yield from send_blob(TAGS, psi.packed(shuffled))
    return Asked(order, slots, exchanged.scalar)


def count(context: Context, own: LocalInput, kept: Kept | None = None) -> Role[Overlap]:
    """S's side."""
    sizes = Sizes.of(context)
    order = psi.padded_order(len(own.keys), sizes.sender, context.entropy)
    exchanged = yield from psi.exchange(context, Party.SENDER, own.keys, order, kept)
    asked = yield from psi.receive_tags(context, TAGS, sizes.sender)
    places, tags = psi.match(exchanged.tags, asked)
    return Overlap(order, np.asarray(places), np.asarray(tags))


def frame_bytes(plan: Plan) -> int:
    """Body bytes of both directions."""
    assert plan.receiver is not None
    sizes = Sizes(plan.receiver.keys_bound, plan.sender.keys_bound)
    return psi.POINT_BYTES * (sizes.receiver + sizes.sender) + sizes.tag_width * sizes.sender


def seconds(plan: Plan) -> float:
    """Both parties' work on the reference machine."""
    assert plan.receiver is not None
    return psi.seconds(Sizes(plan.receiver.keys_bound, plan.sender.keys_bound))
