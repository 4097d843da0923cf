"""The asker's end of one query, as a role without sockets: open, check, sign, compute, open the answer.

It signs nothing that it has not derived itself: the intent must state what its own plan states, and the
receipt names the sealed bytes that it received. Where the policy demands a witness it checks the proof before
its first frame that depends on data. Its own failures become evidence too.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import pyarrow as pa

from compute import engine, pooling
from compute.errors import BayspaceError, PeerViolation, PolicyRefusal
from compute.facts import Prepared
from compute.federation import Seat
from compute.finish import finish
from compute.inputs import Cells, Context, LocalInput, Progress
from compute.protocols import protocol_named
from compute.protocols.base import Frame, Gather, Receive, Role, receive
from compute.session import Transcript
from connector import kept_answers, repeats
from connector.firewall import reasons_from_json
from connector.meeting import Place
from connector.node import Node
from connector.opening import Acceptance, RefusalNotice, SignedRecord
from connector.records import Statement, agreed, check_clock, countersigned, reopen, signature
from connector.releases import Opener
from connector.statements import charged
from connector.terms import WEIGHTS_FEWEST, WEIGHTS_LARGEST, Terms, milliseconds
from connector.transport import Headers
from policy_enforcer.disclosure import Party
from policy_enforcer.obligations import obligations
from witness.bundle import Opening
from witness.record import Sealed, commit


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gave: its table, and how many cells were released and suppressed."""

    arrow: bytes  # the Arrow IPC stream that the result's commitment is over
    released: int
    suppressed: int | None  # None: the owner's policy hides how many


class Asking:
    """Asks one query whose terms are fixed; `local` is our side of the join, None in a single domain.

    `place`: where it meets the other exchanges of a federated round. `added`: our own cells, which are added
    to what the round released. `question`: under which the answer is kept, for when it is asked again.
    """

    def __init__(
        self,
        node: Node,
        terms: Terms,
        prepared: Prepared,
        local: LocalInput | None,
        headers: Headers,
        progress: Progress,
        place: Place | None = None,
        added: pa.Table | None = None,
        question: str = "",
    ) -> None:
        self._node, self._terms, self._prepared, self._added = node, terms, prepared, added
        self._question = question
        self._place, self._seat = place, cast(Seat | None, None)
        self._local, self._headers, self._progress = local, headers, progress
        self._stated: dict[str, int] = {}  # the release record's figures

    def run(self) -> Role[Answer]:
        """The whole exchange; raises `PolicyRefusal` with the owner's reasons when it refuses."""
        try:
            yield Frame("open", self._terms.opening.to_bytes())
            sid, intent = yield from self._accepted()
            yield from self._started()
            opener = Opener(sid)
            cells, release = yield from self._protocol(sid, intent, opener)
            return self._finished(cells, release, opener.answer)
        except BayspaceError as error:
            self._failed(error.code)
            raise
        except GeneratorExit:
            self._failed("asker.cancelled")
            raise
        except BaseException:
            self._failed("internal")
            raise

    # --- handshake ------------------------------------------------------------------------------------

    def _accepted(self) -> Role[tuple[bytes, Sealed]]:
        frame = yield Receive("accept")
        if frame is not None and frame.kind == "refuse":
            self._refused(RefusalNotice.parse(frame.body))
        if frame is None or frame.kind != "accept":
            raise PeerViolation("peer.frame-out-of-order", "the owner neither accepted nor refused")
        acceptance = Acceptance.parse(frame.body)
        check_clock(milliseconds(self._node.now()), acceptance.clock)
        self._check_repeated(acceptance.repeats)
        self._terms = self._terms.accepted(acceptance)
        sid = self._terms.session_id(acceptance.nonce)
        intent = self._checked(acceptance.intent, self._terms.intent(sid))
        if self._place is not None:
            # nobody is charged before everybody has accepted
            self._seat = self._place.seat(self._terms.entry(sid))
        self._headers.bind(Transcript(sid, Party.RECEIVER))
        # Kept first: the owner charges for it as soon as it has our signature.
        with self._node.store.atomic():
            self._keep(intent, acceptance.intent.signature, self._terms.openings())
            self._node.store.add_charge(charged(self._terms))
        yield Frame("confirm", signature(intent, self._node.key))
        return sid, intent

    def _check_repeated(self, first: str) -> None:
        """The owner may only repeat what we have a record of, and nothing that we took part in computing."""
        if not first:
            return
        known = self._node.store.released(self._terms.agreement.digest, first)
        if not (known and repeats.repeatable(self._prepared.plan)):
            raise PeerViolation("peer.repeats", "the owner repeats an answer that it never gave")

    def _started(self) -> Role[None]:
        """Wait for the owner's start; believe in the witness only what its own signature proves."""
        engine.warm()  # for the answer, while the owner works
        proof = yield from receive("start")
        demanded = obligations(self._terms.agreement.policy).witnesses
        self._node.evidence.proven(self._terms.opening.exchange, 0, proof, demanded)
        if not self._terms.repeats:
            self._node.note_loss(self._terms.agreement)

    def _refused(self, notice: RefusalNotice) -> None:
        """Keep the owner's record of its refusal, then raise it."""
        decision = reasons_from_json(notice.reasons)
        terms = self._terms
        sealed, stated = reopen(notice.record)
        check_clock(milliseconds(self._node.now()), stated.parties[0].clock)
        owner = replace(terms.owner, build=stated.parties[0].build, clock=stated.parties[0].clock)
        expected = replace(terms, owner=owner).refusal(decision.because[0].code, owner)
        agreed(expected, stated)
        envelope = countersigned(
            sealed, self._node.key, self._node.key_of(terms.owner.id), notice.record.signature
        )
        self._node.evidence.keep(terms.opening.exchange, sealed, envelope, "refused")
        raise PolicyRefusal(decision)

    # --- protocol and release -------------------------------------------------------------------------

    def _protocol(self, sid: bytes, intent: Sealed, opener: Opener) -> Role[tuple[Cells, Sealed]]:
        """Run the protocol's receiver. Where it waits for the release, exchange receipt for key first."""
        plan, node = self._prepared.plan, self._node
        minimum = self._terms.agreement.policy.analysis.minimum_identities or 1
        context = Context(
            sid,
            plan,
            node.entropy,
            self._progress,
            minimum,
            scratch=node.config.scratch_folder,
            federated=self._seat,
        )
        # The role alone holds our rows: they go when it ends, before the answer is made.
        own, self._local = self._local, None
        role = protocol_named(plan.protocol).receiver(context, own)
        del own
        opened, release = deque[Frame](), None
        try:
            item = role.send(None)
            while True:
                if isinstance(item, Frame):
                    opener.observe(item)
                    yield item
                    item = role.send(None)
                    continue
                if isinstance(item, Gather):
                    item = role.send(self._gathered(item))
                    continue
                if item.kind == "release" and release is None:
                    release, opened = yield from self._exchange_receipt(sid, intent, opener)
                item = role.send(_next(opened) if item.kind == "release" else (yield item))
        except StopIteration as end:
            if release is None or opened:
                raise PeerViolation("peer.release", "the answer is not what the protocol releases") from None
            return cast(Cells, end.value), release
        finally:
            role.close()

    def _gathered(self, item: Gather) -> Frame:
        if self._place is None:
            raise AssertionError("one exchange alone gathers nothing")
        return Frame(item.kind, self._place.together(item.kind, item.body, item.reduce))

    def _exchange_receipt(
        self, sid: bytes, intent: Sealed, opener: Opener
    ) -> Role[tuple[Sealed, deque[Frame]]]:
        """Collect the sealed answer, sign for exactly these bytes, and open it with the key that follows."""
        digest = self._headers.transcript.digest
        before = digest()
        frame = yield Receive("sealed")
        while frame is not None and frame.kind == "sealed":
            opener.collect(frame)
            before = digest()  # the transcript up to the last sealed frame, which is what the owner states
            frame = yield Receive("sealed")
        if frame is None or frame.kind != "outcome":
            raise PeerViolation("peer.frame-out-of-order", "the sealed answer does not end with its record")
        outcome = SignedRecord.parse(frame.body)
        sealed, stated = reopen(outcome)
        figures = dict(stated.sensitive.figures or {})
        if set(figures) != self._terms.counted:
            raise PeerViolation("peer.evidence", "the release record counts something else than cells")
        self._check_weights(figures, opener.largest_weight)
        expected = self._terms.release(
            sid, intent.digest, stated.data.commitments.get("release", ""), opener.digests(before), figures
        )
        release = self._checked(outcome, expected)
        # Kept first: an owner that has the receipt may repeat this answer, which we allow by our own record.
        self._keep(release, outcome.signature)
        yield Frame("receipt", signature(release, self._node.key))
        self._stated = figures
        opening = yield from receive("key", 64)
        return sealed, opener.open(opening, stated.data.commitments["release"])

    def _check_weights(self, figures: Mapping[str, int], attested: int | None) -> None:
        """Sign only for what we attested of our weights, and for no cell with fewer than the minimum."""
        if figures.get(WEIGHTS_LARGEST) != attested:
            raise PeerViolation(
                "peer.evidence", "the release record misstates what we attested of our weights"
            )
        minimum = self._terms.agreement.policy.analysis.minimum_identities or 1
        fewest = max(1, figures.get(WEIGHTS_FEWEST, 0))  # none at all is judged like one
        if attested is not None and figures["cells-released"] and fewest < minimum:
            raise PeerViolation(
                "peer.evidence", "the owner released a cell of fewer weights than its minimum"
            )

    def _finished(self, cells: Cells, release: Sealed, answer: bytes) -> Answer:
        """Turn released cells into the table and assert its salted commitment under our name alone.

        `answer` is what the owner committed to, where it can be recomputed from our masks.
        """
        node, terms = self._node, self._terms
        # we signed for these counts before we could count
        if self._stated != {**self._stated, **terms.counts(cells.released)}:
            raise PeerViolation("peer.figures", "the owner released another number of cells than it stated")
        table = self._table(cells)
        body = arrow_bytes(table)
        # what we may open some day: the result, and what it can be recomputed from (`recomputing`)
        inputs = {} if cells.masks is None else {"answer": answer, "masks": cells.masks}
        shown = {"result": body, **inputs}
        openings = [Opening(name, node.entropy(32), value) for name, value in shown.items()]
        committed = {o.name: commit(o.name, o.salt, o.value) for o in openings}
        sealed = terms.result(release.digest, committed, milliseconds(node.now())).seal(node.entropy)
        envelope = countersigned(sealed, node.key, None, None)
        with node.store.atomic():
            node.evidence.keep(terms.opening.exchange, sealed, envelope, "released", openings)
            self._note_answered(release, (cells.table.num_rows, cells.suppressed))
        told = terms.plan is not None and terms.plan.says_suppressed
        return Answer(body, cells.table.num_rows, cells.suppressed if told else None)

    def _note_answered(self, release: Sealed, counts: tuple[int, int]) -> None:
        """Remember that the question was answered, for when it is asked again. In a transaction."""
        node, terms, plan = self._node, self._terms, self._prepared.plan
        first = (terms.opening.exchange, release.digest)
        if self._question:
            kept_answers.keep(node.store, self._question, terms.agreement, first, counts, node.now())
        elif repeats.repeatable(plan) and not terms.repeats:
            question = repeats.question_of(terms.agreement, plan)
            repeats.keep(node.store, question, terms.agreement, first, (), (0, 0), node.now())

    def _table(self, cells: Cells) -> pa.Table:
        plan = self._prepared.plan
        if self._place is None:
            return finish(plan, cells)
        return self._place.answer(lambda: finish(plan, pooling.with_own(plan, cells, self._added)))

    # --- evidence -------------------------------------------------------------------------------------

    def _checked(self, record: SignedRecord, expected: Statement) -> Sealed:
        sealed, stated = reopen(record)
        agreed(expected, stated)
        return sealed

    def _keep(self, sealed: Sealed, peer_signature: bytes, openings: Sequence[Opening] = ()) -> None:
        node, terms = self._node, self._terms
        envelope = countersigned(sealed, node.key, node.key_of(terms.owner.id), peer_signature)
        node.evidence.keep(terms.opening.exchange, sealed, envelope, openings=openings)

    def _failed(self, code: str) -> None:
        code = code if self._place is None else self._place.blamed(code)
        self._node.evidence.in_the_end(lambda: self._keep_failure(code))

    def _keep_failure(self, code: str) -> None:
        """Unless the exchange has an end already."""
        node, terms, exchange = self._node, self._terms, self._terms.opening.exchange
        if node.evidence.is_open(exchange):
            failure = terms.failure(code, terms.asker, *node.evidence.following(exchange))
            sealed = failure.seal(node.entropy)
            node.evidence.keep(exchange, sealed, countersigned(sealed, node.key, None, None), "failed")


def arrow_bytes(table: pa.Table) -> bytes:
    """The Arrow IPC stream of a table in one batch: what a result commitment is over."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def _next(frames: deque[Frame]) -> Frame:
    if not frames:
        raise PeerViolation("peer.release", "the sealed answer holds fewer frames than the protocol releases")
    return frames.popleft()
