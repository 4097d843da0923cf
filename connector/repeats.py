"""The same question again: the owner gives the answer that it gave, neither computed nor noised anew.

A question is the same when agreement, plan and the owner's consent set are: then dataset version, policy,
asker and all that is computed are the same. What left once is kept in the owner's state and leaves once more;
that tells nobody anything new, so it costs a use, rows and bytes, but no privacy. Averaging needs other
draws, and there are none.

Only where the owner computes alone. In a join and over a federation the answer is made for masks and keys
that the asker chose and the owner does not see: it is drawn and charged anew. Noise derived from the question
would be worse there: two askings with selections that differ by one key, which nobody sees, would carry equal
noise, and their difference would be exact (docs/decisions/repeated-questions.md).

Refuses nothing: what is not kept, or no longer, is a new question, which is charged as one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from compute.errors import ConfigError, DataError, PeerViolation
from compute.federation import joined, split
from compute.plan import Plan
from connector import consent
from connector.contract import Agreement
from connector.state.rows import AnswerRecord
from connector.storage import Store
from policy_enforcer.model import DeleteDuty, Policy
from policy_enforcer.moments import later

MOST_BYTES = 1 << 20
"""Largest answer that is kept."""

MOST_KEPT = 64 << 20
"""All of them together: the oldest go first."""

_NEVER = datetime(9999, 12, 31, tzinfo=UTC)


def repeatable(plan: Plan) -> bool:
    """Whether the answer depends on nothing that the asker brings."""
    return plan.receiver is None and not plan.federation


def question_of(agreement: Agreement, plan: Plan, consents: str = "") -> str:
    """What names the question. `consents`: the digest of the owner's consent set; an asker has none."""
    parts = (bytes.fromhex(agreement.digest), plan.digest, consents.encode())
    return hashlib.sha256(b"bayspace question v1\0" + b"".join(parts)).hexdigest()


def known(store: Store, agreement: Agreement, plan: Plan) -> bool:
    """The asker's memory: whether it was answered this question. What the owner still has, decides."""
    return repeatable(plan) and store.answer(question_of(agreement, plan)) is not None


def consents_of(policy: Policy, folder: Path) -> str:
    """The digest of the consent set as it stands now; "" where the policy names none."""
    name = policy.transfer.consent if policy.transfer is not None else None
    if name is None:
        return ""
    try:
        return hashlib.sha256(consent.path(folder, name).read_bytes()).hexdigest()
    except OSError:
        raise ConfigError("consent.missing", f"the consent set consents/{name}.txt cannot be read") from None


def keep(
    store: Store,
    question: str,
    agreement: Agreement,
    first: tuple[str, str],
    frames: Sequence[bytes],
    counts: tuple[int, int],
    now: datetime,
) -> None:
    """Keep an answer, unless one is kept already. `first`: its exchange and its release record's digest.

    In the transaction that keeps the release record. `counts`: cells released and suppressed.
    """
    body = joined(frames)
    if len(body) <= MOST_BYTES:
        until = deleted_at(agreement, now)
        store.keep_answer(question, agreement.digest, first, body, counts, until, MOST_KEPT)


def frames_of(answer: AnswerRecord) -> list[bytes]:
    """The release frames of a kept answer. Raises `DataError` when our state is damaged."""
    try:
        return split(answer.body)
    except PeerViolation:  # it breaks off; nobody sent it, we kept it
        raise DataError(
            "state.answer",
            "an answer that is kept in the state is damaged: `bayspace evidence erase` its exchange "
            f"{answer.exchange} and check the state's disk",
        ) from None


def deleted_at(agreement: Agreement, now: datetime) -> datetime | None:
    """When the policy has results deleted, at most when the agreement runs out; None: when it is ended."""
    ends = [later(now, duty.after) for duty in agreement.policy.duties if isinstance(duty, DeleteDuty)]
    if agreement.ends is not None:
        ends.append(agreement.ends)
    return min((end for end in ends if end < _NEVER), default=None)
