"""How many keys both sides hold, and nothing else: COUNT over a join, at level `cardinality`.

The receiver learns the count when the owner's gate lets it pass, and nothing before; the sender learns the
count. Both learn the other's padded set size. Semi-honest; see `_overlap.py` for the steps. Refused as a
protocol for anything but rows that are keys: groups, sums, and counts over keys that repeat.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa

from compute.errors import DataError, QueryError
from compute.inputs import Cells, Context, Gate, LocalInput, Summary
from compute.plan import Partial, Plan, Side
from compute.protocols import _aggregate as aggregate
from compute.protocols import _overlap as overlap
from compute.protocols._release import SUM_TYPE, Gated, malformed, receive_release, send_release
from compute.protocols.base import Cost, Protocol, Role
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party

_RELEASE = struct.Struct(">QQ")  # 1 when the count is held back; the count, or 0


def receiver(context: Context, own: LocalInput | None) -> Role[Cells]:
    """R's side."""
    assert own is not None
    aggregate.once_per_group(context.plan, own)
    yield from overlap.ask(context, own)
    release = yield from receive_release()
    if len(release) != _RELEASE.size:
        raise malformed()
    suppressed, count = _RELEASE.unpack(release)
    most = min(len(own.keys), context.plan.sender.keys_bound)
    if suppressed > 1 or count > (0 if suppressed else most):
        raise malformed()
    return Cells(_table(context.plan, [count] if count else []), suppressed)


def sender(context: Context, own: LocalInput | pa.Table, gate: Gate) -> Role[Summary]:
    """S's side."""
    assert isinstance(own, LocalInput)
    if context.plan.noise is not None:
        raise DataError("data.without-noise", "a figure of this plan carries no noise; nothing is released")
    if context.plan.sender.partials and np.any(aggregate.column(own, "rows") != 1):
        raise DataError("data.not-unique", "a key that the catalogue declares unique occurs in several rows")
    found = yield from overlap.count(context, own)
    gated = Gated(context.plan, gate)
    allowed = bool(gated(np.array([[found.size]], np.int64))[0, 0])
    told = gated.suppressed if context.plan.says_suppressed else 0
    yield from send_release(_RELEASE.pack(told, found.size if allowed else 0))
    return Summary(int(allowed and found.size > 0), gated.suppressed)


def _table(plan: Plan, counts: list[int]) -> pa.Table:
    """The one cell: identities, and as many rows."""
    columns: dict[str, Any] = {"identities": pa.array(counts, pa.int64())}
    columns |= {partial.name: pa.array(counts, SUM_TYPE) for partial in plan.sender.partials}
    return pa.table(columns)


def _parameters(receiver: Side | None, sender: Side, maximum_cells: int) -> dict[str, Any]:  # noqa: ARG001
    assert receiver is not None
    counted = not receiver.partials and all(_counts_keys(p, sender) for p in sender.partials)
    if [receiver, sender] != [_plain(receiver), _plain(sender)] or not counted:
        raise QueryError("plan.not-a-count", "psi_count answers COUNT over keys that do not repeat only")
    return {}


def _plain(s: Side) -> Side:
    """What of a side this protocol does: whatever else one says, groups and weights included, refuses."""
    bounds = (s.keys_bound, s.rows_bound)
    # A key that repeats counts once all the same where the side says so.
    repeats = s.repeats and s.distinct
    return Side(
        s.dataset, s.keys, s.filters, (), s.partials, *bounds, s.distinct, repeats=repeats, unique=s.unique
    )


def _counts_keys(partial: Partial, sender: Side) -> bool:
    """COUNT(*) where every row of the owner's is a key of its own."""
    return partial == Partial(partial.name, "CAST(1 AS BIGINT)", 0, 1) and sender.unique


def _cost(plan: Plan) -> Cost:
    return Cost(overlap.seconds(plan), overlap.frame_bytes(plan))


PROTOCOL = Protocol(
    name="psi_count",
    version=1,
    level=Level.CARDINALITY,
    joint=True,
    kinds=frozenset({"aggregate"}),
    threat_model=(
        "Both connectors follow the protocol and may study what they see. A deviating receiver can ask about "
        "keys it does not hold; a deviating sender can learn match counts of parts of its own keys."
    ),
    reveals=(
        Disclosure(Party.RECEIVER, Fact.RELEASED_CELLS, gated=True),
        Disclosure(Party.RECEIVER, Fact.SUPPRESSED_CELLS),
        Disclosure(Party.RECEIVER, Fact.PADDED_SIZE),
        Disclosure(Party.SENDER, Fact.CELL_MATCH_COUNTS),
        Disclosure(Party.SENDER, Fact.PADDED_SIZE),
    ),
    gates=frozenset({"minimum-identities", "differencing"}),
    weighted=False,
    cost=_cost,
    parameters=_parameters,
    receiver=receiver,
    sender=sender,
)
