"""The member lists that a witness has known, and where in its log each is on record: rows, and a bundle.

A list from before this witness recorded them, or that came and went between two looks, has no entry of its
own: the lists after it name it by its digest. A bundle holds what is on record and proved, and verifies.
"""

import hashlib
from typing import Any

from witness import bundle as bundles
from witness import dsse
from witness.bundle import Item
from witness.console.health import Standing
from witness.database import Database
from witness.encoding import format_time
from witness.leaf import parse as parse_leaf
from witness.list_records import exchange_of
from witness.members import MemberList


class Unproved(Exception):
    """No member list is on record yet under a checkpoint that counts."""


def rows(standing: Standing, database: Database) -> list[dict[str, Any]]:
    """Every list known, newest first, with the entry that records it."""
    return [_row(members, database) for members in reversed(standing.members())]


def _row(members: MemberList, database: Database) -> dict[str, Any]:
    entry = _entry(members, database)
    leaf = None if entry is None else database.leaf(entry)
    return {
        "version": members.version,
        "digest": members.digest,
        "issued_at": format_time(members.issued_at),
        "members": len(members.participants),
        "operator_signs": [key.algorithm for key in members.operator_keys] or ["ed25519"],
        "entry": entry,
        "received_at": None if leaf is None else format_time(parse_leaf(leaf).received_at),
    }


def _entry(members: MemberList, database: Database) -> int | None:
    kept = database.own_record(exchange_of(members.digest))
    if kept is None:
        return None
    digest = hashlib.sha256(kept.envelope).digest()
    return database.indexes([digest]).get(digest)


def bundle(standing: Standing, database: Database) -> bytes:
    """The lists on record with their proofs, oldest first. Raises Unproved."""
    known = standing.members()  # read first: what comes meanwhile is not asked for
    kept_lists = map(dsse.parse, database.member_lists() if known else ())
    envelopes = {hashlib.sha256(envelope.payload).hexdigest(): envelope for envelope in kept_lists}
    items, lists = [], []
    for members in known:
        entry, kept = _entry(members, database), database.own_record(exchange_of(members.digest))
        proof = None if entry is None else standing.prove(entry)
        if kept is not None and proof is not None:
            items.append(Item(dsse.parse(kept.envelope), str(proof)))
            lists.append(envelopes[members.digest])
    if not items:
        raise Unproved("no member list is on record under a checkpoint that counts")
    return bundles.build(items, lists)
