"""A joint question again: the asker shows the answer that it has. Nothing leaves, nothing is charged.

In a join and over a federation the owners cannot give an answer again, for none of them has it: it was made
for masks and keys of the asker's. The asker has it, in its evidence. So the same question is neither computed
nor noised anew, unless somebody asks anew on purpose. Which one is the same: agreements, plan (which holds
every filter and output), purpose, and our own dataset as it is.

It ends as an owner's kept answers do (`repeats`): with the first `delete: result` duty, with any of its
agreements, when it is erased. Refuses to keep where a policy names a consent set: somebody may have withdrawn
since, which an asker cannot know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import rfc8785

from compute.dataset import DatasetInfo
from compute.plan import Plan
from connector import repeats
from connector.contract import Agreement
from connector.evidence import openings_of
from connector.state.rows import AnswerRecord
from connector.storage import Store
from policy_enforcer.model import Policy
from witness import dsse
from witness.record import Record

RELEASE, RESULT = "query.release", "query.result"
_COUNTS = ("uses.", "rows.", "bytes.", "budget.")


@dataclass(frozen=True, slots=True)
class Kept:
    """What was answered, in which exchanges, and when."""

    exchanges: tuple[str, ...]
    arrow: bytes
    released: int
    suppressed: int
    trace_id: str
    at: str


def question_of(
    agreement: Agreement,
    plan: Plan,
    purpose: str,
    own: DatasetInfo | None,
    together: Sequence[Agreement] = (),
    own_policy: Policy | None = None,
) -> str:
    """What names the question, for its exchange under `agreement`; "" where its answer is not kept.

    `together`: all agreements of a federated round. `own`: the dataset of ours that it joins or adds.
    `own_policy`: that of our own offer, whose consents may be withdrawn as any owner's.
    """
    agreements = together or (agreement,)
    policies = [one.policy for one in agreements] + ([] if own_policy is None else [own_policy])
    if repeats.repeatable(plan) or any(map(_consented, policies)):
        return ""
    named = {
        "agreement": agreement.digest,
        "agreements": sorted(one.digest for one in agreements),
        "own": None if own is None else own.as_json(),
        "plan": plan.digest.hex(),
        "purpose": purpose,
    }
    return hashlib.sha256(b"bayspace kept answer v1\0" + rfc8785.dumps(named)).hexdigest()


def keep(
    store: Store,
    question: str,
    agreement: Agreement,
    first: tuple[str, str],
    counts: tuple[int, int],
    now: datetime,
) -> None:
    """Note what answers the question now. `first`: its exchange, its release record's digest.

    In the transaction that keeps the result. `counts`: rows released, cells suppressed.
    """
    store.forget_answer(question)
    repeats.keep(store, question, agreement, first, (), counts, now)


def kept(store: Store, questions: Sequence[str]) -> Kept | None:
    """What answered the question, when every one of its exchanges is still on record, and of one round."""
    answers = [store.answer(question) for question in questions]
    found = [answer for answer in answers if answer is not None]
    if not found or len(found) != len(questions):
        return None
    first = found[0]
    rounds = {_round(store, answer.exchange) for answer in found}
    body, asked = _result(store, first), store.exchange(first.exchange)
    if body is None or asked is None or None in rounds or len(rounds) != 1:
        return None
    exchanges = tuple(answer.exchange for answer in found)
    return Kept(exchanges, body, first.released, first.suppressed, asked.trace_id, first.at)


def charges(code: str) -> bool:
    """Whether a refusal of this code is about what another asking would use up."""
    return code.startswith(_COUNTS)


def _consented(policy: Policy) -> bool:
    transfer = policy.transfer
    return transfer is not None and transfer.consent is not None


def _round(store: Store, exchange: str) -> str | None:
    """What names the round of an exchange: its roster's digest, as both signed it; None once it is erased.

    Every round has a roster of its own. A join has none: it is one exchange.
    """
    for record in store.evidence(exchange):
        if record.event == RELEASE and record.envelope is not None:
            release = Record.parse(dsse.parse(record.envelope).payload)
            return release.data.digests.get("roster", exchange)
    return None


def _result(store: Store, answer: AnswerRecord) -> bytes | None:
    """The answer as Arrow, out of the evidence; None once that is erased."""
    for record in store.evidence(answer.exchange):
        if record.event == RESULT:
            found = openings_of(record)
            return next((bytes(opening.value) for opening in found if opening.name == "result"), None)
    return None
