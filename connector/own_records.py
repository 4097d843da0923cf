"""Records that a participant makes by itself: an exchange of one record, signed by nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from connector.records import DONE, Statement, countersigned
from connector.terms import milliseconds
from witness.bundle import Opening
from witness.record import Contract, Data, Exchange, Outcome, Party, Sensitive

if TYPE_CHECKING:
    from connector.node import Node


def keep(
    node: Node,
    event: str,
    kind: str,
    role: str,
    exchange: str,
    data: Data,
    *,
    outcome: Outcome = DONE,
    openings: Sequence[Opening] = (),
    sensitive: Sensitive | None = None,
    contract: Contract | None = None,
) -> None:
    """Seal and keep the record, with the exchange that it is all of, in one transaction."""
    sealed = Statement(
        event=event,
        space=node.space,
        members=node.members.digest,
        exchange=Exchange(exchange, 0),
        parties=(Party(node.id, role, node.key.public.ids, node.build, milliseconds(node.now())),),
        outcome=outcome,
        data=data,
        contract=contract,
        sensitive=sensitive or Sensitive(),
    ).seal(node.entropy)
    envelope = countersigned(sealed, node.key, None, None)
    with node.store.atomic():
        node.store.open_exchange(exchange, None, node.id, role, kind, "", node.entropy(32))
        node.evidence.keep(exchange, sealed, envelope, outcome.status, openings)
