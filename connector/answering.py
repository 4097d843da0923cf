"""The owner's end of one query, as a role without sockets: admit, record, compute, gate, release.

It trusts nothing the asker derived: plan and decision are its own, from the query text, the agreement and the
two dataset descriptions. Nothing that depends on data leaves before the intent is signed by both and, where
the policy demands it, witnessed; the answer leaves sealed, and its key only for the asker's signature on the
receipt. Every refusal and every failure becomes evidence; a use once charged is never refunded. An agreement
that ends, is suspended or runs out meanwhile ends the exchange at once, and our own people may (`stopping`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compute import engine, pooling
from compute import sql as sqltext
from compute.dataset import DatasetInfo
from compute.errors import BayspaceError, DataError, PeerViolation, PolicyRefusal, Unavailable
from compute.facts import Prepared, bytes_at_most, rows_at_most
from compute.federation import Member
from compute.inputs import Context, Gate, LocalInput, Summary, unwatched
from compute.planner import prepare
from compute.pooling import Part
from compute.protocols import candidates, protocol_named
from compute.protocols.base import Frame, Gather, Receive, Role, receive
from compute.session import Transcript
from connector import companions, repeats
from connector.contract import Agreement
from connector.differencing import leaving
from connector.firewall import reasons_to_json
from connector.node import UNLIMITED, Node
from connector.opening import Acceptance, Opening, RefusalNotice, SignedRecord
from connector.records import check_clock, countersigned, signature
from connector.references import template_of
from connector.releases import Sealer
from connector.state.rows import AnswerRecord
from connector.statements import charged
from connector.stopping import Stop
from connector.telemetry import Span
from connector.terms import Terms, milliseconds, side_of
from connector.transport import Headers
from policy_enforcer.disclosure import Party
from policy_enforcer.facts import Decision, Request
from policy_enforcer.obligations import obligations
from witness.dsse import Envelope
from witness.keys import KeyInvalid, SignatureInvalid
from witness.record import Sealed

UNANSWERABLE = (
    "the owner's own data allows no answer; its operator finds why in the evidence of this exchange"
)
MOST_PEER_KEYS = 1 << 26
"""Keys an asker may bring whatever the policy says: about 1 GiB of tags at the owner."""


@dataclass(frozen=True, slots=True)
class _Admitted:
    """An opening that was accepted: what both sides now work on."""

    terms: Terms
    prepared: Prepared
    sid: bytes
    intent: Sealed


class Answering:
    """Answers one query of `asker`, who is authenticated already."""

    def __init__(self, node: Node, asker: str, headers: Headers, stop: Stop) -> None:
        self._node, self._asker, self._headers, self._stop = node, asker, headers, stop
        self._terms: Terms | None = None
        self._question, self._kept = "", cast(AnswerRecord | None, None)  # what it is, and what was answered
        self._agreed, self._charged = False, False  # both signed an intent; a use was counted for it

    def run(self) -> Role[None]:
        """The whole exchange. Whatever goes wrong after the opening is recorded before it is raised."""
        opening = Opening.parse((yield from receive("open")))
        engine.warm()
        try:
            terms, prepared = self._derive(self._opened(opening))
            with (
                self._node.telemetry.span(
                    "answer", opening.trace, exchange=opening.exchange, peer=self._asker
                ) as span,
                self._node.running(opening.exchange, terms.agreement, self._stop),
            ):
                self._decide(terms, prepared)
                yield from self._answer(terms, prepared, span)
        except PolicyRefusal as refusal:
            if self._agreed:  # both signed an intent: now it is a failure of what they agreed to do
                self._failed(refusal.code)
                raise
            yield from self._refuse(refusal)
        except DataError as error:
            # Which check failed depends on our data, so the asker learns only that one did.
            self._failed(error.code)
            raise DataError("data.unanswerable", UNANSWERABLE) from None
        except BayspaceError as error:
            self._failed(error.code)
            raise
        except GeneratorExit:
            self._failed("peer.gone")
            raise
        except BaseException:
            self._failed("internal")
            raise

    # --- admission ------------------------------------------------------------------------------------

    def _opened(self, opening: Opening) -> Terms:
        """Open the exchange: from here on, whatever comes of it becomes evidence."""
        node = self._node
        now = milliseconds(node.now())
        check_clock(opening.clock, now)
        if node.store.exchange(opening.exchange) is not None:
            raise PeerViolation("peer.replay", "this exchange was opened before")
        if opening.members != node.members.digest:
            raise Unavailable(
                "members.differ", "the participants hold different member lists: install the latest on both"
            )
        agreement = node.known_agreement(opening.agreement, role="provider", peer=self._asker)
        terms = Terms(
            space=node.space,
            opening=opening,
            agreement=agreement,
            plan=None,
            asker=side_of(node, self._asker, node.key_of(self._asker), opening.build, opening.clock),
            owner=side_of(node, node.id, node.key_of(node.id), node.build, now),
        )
        node.check_uncharged(self._asker, agreement)
        node.store.open_exchange(
            opening.exchange,
            agreement.digest,
            self._asker,
            "provider",
            "query",
            terms.trace_id,
            opening.exchange_key,
        )
        self._terms = terms
        return terms

    def _derive(self, terms: Terms) -> tuple[Terms, Prepared]:
        """Our own plan of the question, under an agreement that is in force."""
        opening = terms.opening
        agreement = self._node.agreement(opening.agreement, role="provider", peer=self._asker)
        asked = self._asked(agreement, opening)
        catalogue = {asked.full_name: asked}
        if opening.dataset is not None:
            if opening.dataset.participant != self._asker:
                raise PeerViolation("peer.dataset", "the asker describes data that is not its own")
            if opening.dataset.keys_bound > MOST_PEER_KEYS:
                raise PeerViolation("peer.keys", f"the asker brings more than {MOST_PEER_KEYS} keys")
            catalogue[opening.dataset.full_name] = opening.dataset
        demands = {asked.full_name: obligations(agreement.policy)}
        able = candidates(opening.protocol)
        prepared = prepare(opening.sql, self._asker, catalogue, able, demands, opening.federation)
        if prepared.plan.sender.dataset != asked.full_name:
            raise PeerViolation("peer.dataset", "the query does not ask about the agreement's dataset")
        if prepared.plan.digest != opening.plan_digest:
            raise PeerViolation(
                "peer.plan-digest", "the two connectors derive different plans for this query"
            )
        if repeats.repeatable(prepared.plan):
            consents = repeats.consents_of(agreement.policy, self._node.config.policies_folder)
            self._question = repeats.question_of(agreement, prepared.plan, consents)
            self._kept = self._node.store.answer(self._question)
        first = self._kept.digest if self._kept else ""
        self._terms = replace(terms, plan=prepared.plan, repeats=first)
        return self._terms, prepared

    def _asked(self, agreement: Agreement, opening: Opening) -> DatasetInfo:
        """What the query asks about: the agreement's dataset, or the federation that it is a part of."""
        if not opening.federation:
            return agreement.dataset
        if Part(agreement.full_name, agreement.dataset.rows_bound) not in opening.federation:
            raise PeerViolation("peer.federation", "the federation does not hold our dataset as it is")
        if any(part.participant == self._asker for part in opening.federation):
            raise PeerViolation("peer.federation", "the asker stands among those that protect each other")
        name = sqltext.parse(opening.sql).sources[0].dataset.casefold()
        return pooling.pooled(name, agreement.dataset, opening.federation)

    def _decide(self, terms: Terms, prepared: Prepared) -> None:
        decision = self._decision(terms, prepared)
        if not decision.permitted:
            raise PolicyRefusal(decision)
        companions.check(self._node.store, terms.agreement, terms.opening.federation)

    def _in_force(self, admitted: _Admitted) -> None:
        """Raise `PolicyRefusal` once the agreement has been ended or suspended, or its time is over."""
        terms = admitted.terms
        self._node.agreement(terms.agreement.digest, role="provider", peer=self._asker)
        late = self._node.untimely(self._request(terms, admitted.prepared), terms.agreement)
        if late:
            raise PolicyRefusal(Decision(late))

    def _decision(self, terms: Terms, prepared: Prepared) -> Decision:
        request, answered = self._request(terms, prepared), self._kept is not None
        return self._node.decide(terms.agreement.policy, request, terms.agreement, answered=answered)

    def _request(self, terms: Terms, prepared: Prepared) -> Request:
        others = {self._node.jurisdiction_of(part.participant) for part in terms.opening.federation}
        return prepared.requests(
            recipients=frozenset({self._asker}),
            purpose=terms.opening.purpose or None,
            at=self._node.now(),
            witnesses=len(self._node.evidence.witnesses),
            processing=frozenset({terms.owner.jurisdiction, terms.asker.jurisdiction, *others}),
            receiving=frozenset({terms.asker.jurisdiction}),
            query_template=template_of(terms.agreement, terms.opening.sql, self._asker),
            part=terms.agreement.full_name if others else None,
        )[terms.agreement.full_name]

    def _refuse(self, refusal: PolicyRefusal) -> Role[None]:
        terms = self._terms
        if terms is None:
            raise refusal
        sealed = terms.refusal(refusal.code, terms.owner).seal(self._node.entropy)
        try:
            self._keep_end(terms, sealed, "refused", refusal.code)
        except Unavailable as error:  # a full disk, say: told, and recorded once there is room
            self._failed(error.code)
            raise
        record = SignedRecord.of(sealed, signature(sealed, self._node.key))
        yield Frame("refuse", RefusalNotice(reasons_to_json(refusal.decision), record).to_bytes())

    # --- the exchange ---------------------------------------------------------------------------------

    def _answer(self, terms: Terms, prepared: Prepared, span: Span) -> Role[None]:
        node = self._node
        admitted = yield from self._accept(terms, prepared)
        yield from self._start(admitted)
        sealer = Sealer(node.entropy, admitted.sid, keeping=bool(self._question) and self._kept is None)
        if self._kept is not None:
            with node.telemetry.span("answer again", span.traceparent):
                summary = yield from self._again(admitted, self._kept, sealer)
        else:
            with node.telemetry.span("local part", span.traceparent), self._ending():
                agreement = terms.agreement
                local = node.own_input(prepared, agreement.full_name, agreement, self._stop.interrupt)
                audit = self._guarded(admitted)
            with node.telemetry.span("protocol", span.traceparent, protocol=prepared.plan.protocol):
                summary = yield from self._protocol(admitted, local, sealer, audit)
        yield from self._release(admitted, sealer, summary)
        for name, count in self._headers.figures().items():
            span.set(name, count)

    def _accept(
        self, terms: Terms, prepared: Prepared
    ) -> Generator[Frame | Receive, Frame | None, _Admitted]:
        node = self._node
        nonce = node.entropy(32)
        sid = terms.session_id(nonce)
        sealed = terms.intent(sid).seal(node.entropy)
        record = SignedRecord.of(sealed, signature(sealed, node.key))
        accepted = Acceptance(nonce, node.build, terms.owner.clock, record, terms.repeats)
        yield Frame("accept", accepted.to_bytes())
        self._headers.bind(Transcript(sid, Party.SENDER))
        return _Admitted(terms, prepared, sid, sealed)

    def _start(self, admitted: _Admitted) -> Role[None]:
        """Charge and record the intent in one transaction; then wait for the witness if it is demanded."""
        node, terms = self._node, admitted.terms
        confirmation = yield from receive("confirm", node.key_of(self._asker).signature_size)
        envelope = countersigned(admitted.intent, node.key, node.key_of(self._asker), confirmation)
        try:
            self._in_force(admitted)
            with node.store.atomic():
                plan, again = admitted.prepared.plan, self._kept is not None
                node.charge(terms.agreement, rows_at_most(plan), bytes_at_most(plan), again=again)
                node.store.add_charge(charged(terms))
                self._keep_intent(admitted, envelope)
            self._agreed = self._charged = True
        except PolicyRefusal:  # the last use went to another query, say: both signed, so it is on record
            self._keep_intent(admitted, envelope)
            self._agreed = True
            raise
        demanded = obligations(terms.agreement.policy).witnesses
        yield Frame("start", node.evidence.witnessed(terms.opening.exchange, 0, demanded))

    def _guarded(self, admitted: _Admitted) -> Callable[[pa.Table], None] | None:
        """The differencing guard's look at what is to leave; of a join it judges our candidates, now."""
        guard = self._node.guard(admitted.terms)
        if guard is None:
            return None
        members = self._node.membership(admitted.prepared, admitted.terms.agreement, self._stop.interrupt)
        if admitted.prepared.plan.receiver is None:
            return lambda cells: guard.admit(members, leaving(members, cells))
        guard.admit(members, np.full(members.cells(), fill_value=True))
        return None

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """A local part that was interrupted says why."""
        try:
            yield
        except Unavailable:
            self._stop.check()
            raise

    def _again(self, admitted: _Admitted, kept: AnswerRecord, sealer: Sealer) -> Role[Summary]:
        """What left in answer to this question leaves once more, from the dataset that is still agreed."""
        self._in_force(admitted)
        self._node.check_offer(admitted.terms.agreement)
        for body in repeats.frames_of(kept):
            yield sealer.seal(Frame("release", body))
        return Summary(kept.released, kept.suppressed)

    def _protocol(
        self,
        admitted: _Admitted,
        local: LocalInput | pa.Table,
        sealer: Sealer,
        audit: Callable[[pa.Table], None] | None,
    ) -> Generator[Frame | Receive, Frame | None, Summary]:
        """Run the protocol's sender; its release frames leave sealed, the mask commitment is noted."""
        self._in_force(admitted)
        node, plan = self._node, admitted.prepared.plan
        demands = obligations(admitted.terms.agreement.policy)
        member = self._member(admitted)
        # where a minimum is of totals, the round's gate applies it (compute/federation.py)
        minimum = 1 if member and member.entry.identities > 1 else demands.minimum_identities
        scratch = node.config.scratch_folder
        context = Context(
            admitted.sid,
            plan,
            node.entropy,
            unwatched,
            minimum,
            demands.complementary,
            scratch,
            audit,
            member,
        )
        role = protocol_named(plan.protocol).sender(context, local, _gate(minimum))
        room = self._room(admitted)
        try:
            item = role.send(None)
            while True:
                if isinstance(item, Frame):
                    if item.kind == "release" and (room := room - len(item.body)) < 0:
                        raise DataError("data.release-too-large", "the answer is larger than was charged for")
                    yield sealer.seal(item) if item.kind == "release" else item
                    item = role.send(None)
                elif isinstance(item, Gather):
                    raise AssertionError("only an asker gathers")
                else:
                    frame = yield item
                    self._in_force(admitted)
                    sealer.observe(frame)
                    item = role.send(frame)
        except StopIteration as end:
            return cast(Summary, end.value)
        finally:
            role.close()

    @staticmethod
    def _room(admitted: _Admitted) -> int:
        """Bytes that may leave: as were charged. Over a federation what leaves is not yet an answer."""
        uses, plan = admitted.terms.agreement.policy.uses, admitted.prepared.plan
        limited = uses is not None and uses.bytes is not None and not plan.federation
        return bytes_at_most(plan) if limited else UNLIMITED

    def _member(self, admitted: _Admitted) -> Member | None:
        """Our place in a federated round: keys of it are signed and checked with evidence keys."""
        parts = admitted.terms.opening.federation
        if not parts:
            return None
        entry = admitted.terms.entry(admitted.sid)
        names = tuple(part.participant for part in parts)
        return Member(
            entry, names, self._node.key.sign, self._verified, lambda: self._contributing(admitted.terms)
        )

    def _contributing(self, terms: Terms) -> None:
        """From here on the asker may learn totals that we are in, whatever becomes of the round."""
        store, opening = self._node.store, terms.opening
        with store.atomic():
            companions.note(store, terms.agreement, opening.federation, opening.exchange)

    def _verified(self, participant: str, message: bytes, signed: bytes) -> None:
        """Raise `PeerViolation` unless all of the participant's evidence keys signed the message."""
        try:
            for key, part in self._node.key_of(participant).split(signed):
                key.verify(message, part)
        except (SignatureInvalid, KeyInvalid):
            raise PeerViolation(
                "peer.round-key", f"a key of this round is not signed by {participant}"
            ) from None

    def _release(self, admitted: _Admitted, sealer: Sealer, summary: Summary) -> Role[None]:
        node, terms = self._node, admitted.terms
        self._in_force(admitted)
        statement = terms.release(
            admitted.sid,
            admitted.intent.digest,
            sealer.commitment,
            sealer.digests(self._headers.transcript.digest()),
            terms.figures(summary.released, summary.suppressed, summary.weights),
        )
        sealed = statement.seal(node.entropy)
        yield Frame("outcome", SignedRecord.of(sealed, signature(sealed, node.key)).to_bytes())
        receipt = yield from receive("receipt", node.key_of(self._asker).signature_size)
        envelope = countersigned(sealed, node.key, node.key_of(self._asker), receipt)
        self._in_force(admitted)
        with node.store.atomic():
            node.evidence.keep(terms.opening.exchange, sealed, envelope, "released", [sealer.evidence])
            self._keep_answer(terms, sealed, sealer, summary)
        yield Frame("key", sealer.opening)

    def _keep_answer(self, terms: Terms, sealed: Sealed, sealer: Sealer, summary: Summary) -> None:
        if not self._question or self._kept is not None:
            return
        first, counts = (terms.opening.exchange, sealed.digest), (summary.released, summary.suppressed)
        now = self._node.now()
        repeats.keep(self._node.store, self._question, terms.agreement, first, sealer.bodies, counts, now)

    # --- evidence -------------------------------------------------------------------------------------

    def _keep_intent(self, admitted: _Admitted, envelope: Envelope) -> None:
        terms = admitted.terms
        self._node.evidence.keep(terms.opening.exchange, admitted.intent, envelope, openings=terms.openings())

    def _failed(self, code: str) -> None:
        terms = self._terms
        if terms is not None:
            self._node.evidence.in_the_end(lambda: self._keep_failure(terms, code))

    def _keep_failure(self, terms: Terms, code: str) -> None:
        """Unless the exchange has an end already."""
        node, exchange = self._node, terms.opening.exchange
        if node.evidence.is_open(exchange):
            failure = terms.failure(code, terms.owner, *node.evidence.following(exchange))
            self._keep_end(terms, failure.seal(node.entropy), "failed", code)

    def _keep_end(self, terms: Terms, sealed: Sealed, status: str, code: str) -> None:
        """The last record of an exchange, signed by us alone."""
        node, envelope = self._node, countersigned(sealed, self._node.key, None, None)
        with node.store.atomic():
            node.evidence.keep(terms.opening.exchange, sealed, envelope, status)
            if not (self._charged or _own_trouble(code)):
                node.note_uncharged(self._asker, code)


def _own_trouble(code: str) -> bool:
    """Whether a query ended for something of ours: a busy state, a defect, our own people."""
    return code in {"internal", "query.stopped"} or code.startswith("state.")


def _gate(minimum: int) -> Gate:
    """The owner's release gate: a cell leaves when it counts at least `minimum` identities."""

    def gate(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        return counts >= minimum

    return gate
