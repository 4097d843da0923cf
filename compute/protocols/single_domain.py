"""Aggregates over one participant's data: no cryptography, no keys leave.

The receiver learns the cells that the owner's gate released and how many others exist; the sender
learns only the question. The owner computes alone, so nothing rests on the receiver's behaviour. How
many identities a cell has stays with the owner: nobody asked for it.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from compute.errors import DataError, PeerViolation
from compute.inputs import Cells, Context, Gate, LocalInput, Summary
from compute.plan import Plan, Side
from compute.protocols._release import (
    RELEASE_BYTES,
    Gated,
    codes_of,
    decode_table,
    encode_table,
    malformed,
    noised,
    receive_release,
    send_release,
)
from compute.protocols.base import Cost, Protocol, Role
from compute.protocols.psi import permutation
from compute.types import parse_type, sum_type
from policy_enforcer.disclosure import Disclosure, Fact, Level, Party

_HEAD = struct.Struct(">QQ")  # released cells, suppressed cells (0 where the policy hides how many)

_EVERYBODY = 2**62
"""Passes every gate."""


def receiver(context: Context, own: LocalInput | None) -> Role[Cells]:
    """Wait for the release and read it."""
    assert own is None
    data = yield from receive_release()
    if len(data) < _HEAD.size:
        raise malformed()
    released, suppressed = _HEAD.unpack_from(data)
    if suppressed and not context.plan.says_suppressed:
        raise malformed()
    if released + suppressed > context.plan.maximum_cells:
        raise PeerViolation("peer.too-many-cells", "the peer answered more cells than the plan has")
    table = decode_table(data[_HEAD.size :], schema(context.plan), released)
    return Cells(table, suppressed)


def sender(context: Context, own: LocalInput | pa.Table, gate: Gate) -> Role[Summary]:
    """Gate the cells of `own` (d*, identities, m*: compute/local.py) and release the rest."""
    assert isinstance(own, pa.Table)
    # where no minimum counts identities all cells leave, and there is somebody in each
    table = noised(context.plan, _shuffled(context, own), context.entropy, _EVERYBODY)
    labels = table.select([d.name for d in context.plan.sender.dimensions])
    gated = Gated(context.plan, gate, codes=codes_of(labels) if context.complementary else None)
    counts = table["identities"].to_numpy().astype(np.int64).reshape(1, -1)
    leaving = table.filter(pa.array(gated(counts)[0]))
    if context.audit is not None:
        context.audit(leaving)
    body = encode_table(_without_counts(leaving), schema(context.plan))
    suppressed = gated.suppressed if context.plan.says_suppressed else 0
    yield from send_release(_HEAD.pack(gated.released, suppressed) + body)
    return Summary(gated.released, gated.suppressed)


def schema(plan: Plan) -> pa.Schema:
    """Columns of the release: the owner's dimensions, identities, figures."""
    dimensions = [(d.name, parse_type(d.type).arrow) for d in plan.sender.dimensions]
    figures = [(m.name, sum_type(m.type)) for m in plan.sender.partials]
    return pa.schema([*dimensions, ("identities", pa.int64()), *figures])


def _without_counts(cells: pa.Table) -> pa.Table:
    """`identities` as 1 or 0: whether anybody is there decides between a sum of zero and NULL."""
    place = cells.schema.get_field_index("identities")
    return cells.set_column(place, "identities", pc.min_element_wise(cells["identities"], 1))


def _shuffled(context: Context, own: pa.Table) -> pa.Table:
    """The cells in an order that says nothing about the order of the rows behind them."""
    if own.num_rows > context.plan.maximum_cells:
        raise DataError("data.too-many-cells", "the answer has more cells than the plan allows")
    return own.take(pa.array(permutation(own.num_rows, context.entropy)))


def _cost(plan: Plan) -> Cost:
    """DuckDB scans about 20 million rows a second here; a cell takes at most 64 bytes a column."""
    columns = len(schema(plan))
    return Cost(0.01 + plan.sender.rows_bound / 2e7, min(64 * columns * plan.maximum_cells, RELEASE_BYTES))


def _parameters(receiver: Side | None, sender: Side, maximum_cells: int) -> dict[str, Any]:  # noqa: ARG001
    return {}


PROTOCOL = Protocol(
    name="single_domain",
    version=1,
    level=Level.HIDDEN,
    joint=False,
    kinds=frozenset({"aggregate"}),
    threat_model="The receiver may deviate at will: the owner computes and gates alone.",
    reveals=(
        Disclosure(Party.RECEIVER, Fact.RELEASED_CELLS, gated=True),
        Disclosure(Party.RECEIVER, Fact.SUPPRESSED_CELLS),
    ),
    gates=frozenset({"minimum-identities", "dominance", "noise", "differencing"}),
    weighted=False,
    cost=_cost,
    parameters=_parameters,
    receiver=receiver,
    sender=sender,
)
