"""Records that a participant makes by itself: an exchange of one record, signed by nobody else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from connector.records import DONE, Statement, countersigned
from connector.terms import milliseconds
from witness.bundle import Opening
from witness.record import Contract, Data, Exchange, Outcome, Party, Sensitive

if TYPE_CHECKING:
    from connector.node import Node

_EVER = "ever"


@contextmanager
def once(node: Node, name: str) -> Iterator[str | None]:
    """The exchange of the one record of this name, in the transaction that keeps it; None where it is kept.

    The id is one that peers cannot foretell: they could take it before us.
    """
    with node.store.atomic():
        yield node.entropy(16).hex() if node.store.lose(f"recorded {name}", _EVER, 1, 1) else None


def recorded(node: Node, name: str) -> bool:
    """Whether the one record of this name is kept."""
    return node.store.lost(f"recorded {name}", _EVER) > 0


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
