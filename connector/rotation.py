"""A rotation of evidence keys, on record: who signs with new keys says so in the log, and names the old ones.

The record is the participant's own statement, signed with the new keys under the member list in which the
operator gave it both; from then on an auditor of the log sees the change without asking anybody. Records from
before stand on the member lists of their time and verify as ever.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from connector import own_records
from witness.record import Data

if TYPE_CHECKING:
    from connector.node import Node

EVENT, KIND, HOLDER = "key.rotation", "rotation", "holder"


def record(node: Node) -> str | None:
    """Keep the record of the rotation to our present keys; its exchange, or None without one."""
    before = _ended(node)
    if not node.evidence.witnesses or not before or _recorded_once(node):
        return None
    data = Data(digests={f"before-{n}": key for n, key in enumerate(before)})
    with own_records.once(node, f"rotation {_keys(node)}") as exchange:
        if exchange is not None:
            own_records.keep(node, EVENT, KIND, HOLDER, exchange, data)
    return exchange


def _ended(node: Node) -> list[str]:
    """The ids of the keys that the member list gave us before the present ones, when those are in force."""
    member = node.members.participant(node.id)
    listed = {key.id for key in member.keys} if member is not None else set()
    own = set(node.key.public.ids)
    return sorted(listed - own) if own <= listed else []


def _recorded_once(node: Node) -> bool:
    """Under an exchange id made from the keys, as was done at first."""
    found = node.store.exchange(_keys(node))
    return found is not None and found.kind == KIND


def _keys(node: Node) -> str:
    """One name for each set of keys, so that their rotation is recorded once."""
    return hashlib.sha256("\n".join(["bayspace rotation v1", *node.key.public.ids]).encode()).hexdigest()[:32]
