"""Who stands beside our rows: a federation that we were in keeps its participants, under one agreement.

Two rounds over different participants give, by subtraction, what some of them hold: of the one that vanished
before a round was asked again, everything. The asker may have a round's totals as soon as our vector has
left, whatever becomes of the round. So from then on questions over any other set are refused until the asker
has a new agreement, which is its owner's consent to the new company. Under noise each part is protected by
itself, and nothing is refused. docs/decisions/one-company-per-agreement.md
"""

from __future__ import annotations

from collections.abc import Sequence

from compute.errors import PolicyRefusal
from compute.pooling import Part
from connector.contract import Agreement
from connector.storage import Store
from policy_enforcer.facts import Decision, Reason

CHANGED = "federation.participants-changed"


def check(store: Store, agreement: Agreement, parts: Sequence[Part]) -> None:
    """Raise `PolicyRefusal` where we were in a round with other participants under this agreement."""
    if not parts or agreement.policy.analysis.noise is not None:
        return
    if any(earlier.asker_side != _names(parts) for earlier in store.compared(_ledger(agreement))):
        raise PolicyRefusal(
            Decision(
                (
                    Reason(
                        CHANGED,
                        "analysis.federation",
                        "this dataset was in a round with other participants under this agreement, and both "
                        "rounds together would give what some of them hold",
                        allowed="the same participants, or a new agreement",
                    ),
                )
            )
        )


def note(store: Store, agreement: Agreement, parts: Sequence[Part], exchange: str) -> None:
    """Keep who takes part, before our vector leaves. Raises as `check`: two rounds may run at once."""
    if parts:
        store.take_turn(_ledger(agreement))
        check(store, agreement, parts)
        if not store.compared(_ledger(agreement)):
            store.add_compared(_ledger(agreement), exchange, "participants", _names(parts), b"")


def _ledger(agreement: Agreement) -> str:
    return f"federation {agreement.digest}"


def _names(parts: Sequence[Part]) -> str:
    return " ".join(part.dataset for part in parts)
