"""A participant's own people and tools, towards their own connector: browse, explain, query, contracts.

Answers to this participant's certificate alone (the server checks). A query streams its progress; cancelling
the call cancels the owner's end too.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc

from compute import engine
from compute.errors import BayspaceError, ConfigError, PeerViolation, Unavailable
from connector import agreements
from connector.coalitions import explanation
from connector.inquiry import Inquiry
from connector.negotiating import Negotiating
from connector.node import Node
from connector.receipts import receipt_of
from connector.rounds import Asked, Round, ask, inquire, kept
from connector.statements import Statements
from connector.stopping import Stop
from connector.transfers import transfer, transfers
from connector.v1 import analyst_pb2, analyst_pb2_grpc, catalog_pb2
from policy_enforcer.explain import Language
from witness.members import CONNECTOR

RECEIPT_SECONDS = 5.0
"""How long a query waits for its last records to be witnessed before it answers with a pending receipt."""
STOPPED_SECONDS = 5.0
"""How long a stopped query has to be on record before its command answers with where it stands."""
PART_BYTES = 1 << 20


class Analyst(analyst_pb2_grpc.AnalystServicer):
    """The service behind `bayspace catalog|explain|query|contract` and `connector.connect`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._negotiating, self._statements = Negotiating(node), Statements(node)

    def Browse(self, request: Any, context: Any) -> analyst_pb2.BrowseResponse:  # noqa: N802, ARG002
        """Offers of one participant, or of every connector in the member list.

        Who does not answer, or not with a catalogue, is named; the others are shown all the same.
        """
        if request.participant:
            wanted = [request.participant]
        else:
            wanted = [p.id for p in self._node.members.participants if p.role == CONNECTOR]
        offers: list[catalog_pb2.Offer] = []
        unreachable = []
        for participant in wanted:
            try:
                offers += [o.message for o in self._node.offers_of(participant)]
            except (Unavailable, PeerViolation):
                if request.participant:
                    raise
                unreachable.append(participant)
        return analyst_pb2.BrowseResponse(offers=offers, unreachable=unreachable)

    def Explain(self, request: Any, context: Any) -> analyst_pb2.ExplainResponse:  # noqa: N802, ARG002
        """The verdict and everything behind it, before anything runs."""
        inquiry = inquire(self._node, request.sql, request.purpose, request.protocol)
        language: Language = "zh" if request.language == "zh" else "en"
        had = kept(self._node, inquiry)
        answered = None if had is None or had.kept is None else had.kept.at
        found = {"language": language, **explanation(self._node, inquiry, language), "answered_at": answered}
        return analyst_pb2.ExplainResponse(explanation=_json(found))

    def Query(self, request: Any, context: grpc.ServicerContext) -> Iterator[analyst_pb2.QueryEvent]:  # noqa: N802
        """Run a query in a thread of its own and pass on what it reports."""
        running = _Running(self._node, request)
        context.add_callback(running.cancel)
        yield from running.events()

    def Contract(self, request: Any, context: Any) -> analyst_pb2.ContractReply:  # noqa: N802, ARG002
        """Contract management; always answers with the contracts concerned."""
        return analyst_pb2.ContractReply(contracts=_json(self._contracts(request)))

    def _contracts(self, command: Any) -> list[dict[str, Any]]:
        node, negotiating, which = self._node, self._negotiating, command.agreement
        actions: dict[str, Callable[[], Any]] = {
            "request": lambda: negotiating.request(command.participant, command.offer, command.terms),
            "offer": lambda: negotiating.offer(command.participant, command.offer, command.terms),
            "counter": lambda: negotiating.counter(which, command.terms),
            "accept": lambda: negotiating.accept(which),
            "approve": lambda: negotiating.approve(which, command.policy),
            "resend": lambda: negotiating.resend(which),
            "reject": lambda: negotiating.terminate(which, "contract.rejected"),
            "terminate": lambda: negotiating.terminate(which, "contract.terminated"),
            "suspend": lambda: negotiating.suspend(which, suspended=True),
            "resume": lambda: negotiating.suspend(which, suspended=False),
            "show": lambda: negotiating.find(which),
        }
        if command.action == "state":
            return [self._statements.state(negotiating.find(which), command.start, command.end)]
        if command.action == "statements":
            return self._statements.kept(negotiating.find(which))
        if command.action == "stop":
            return [self._stopped(which)]
        if command.action == "transfers":
            agreement = negotiating.find(which).agreement if which else None
            return [] if which and agreement is None else transfers(node.store, agreement)
        if command.action == "list":
            found = node.store.negotiations()
        elif command.action in actions:
            found = [actions[command.action]()]
        else:
            raise ConfigError("contract.action", "no such contract command")
        if command.action == "show":
            return [agreements.shown(node, record) for record in found]
        return [agreements.summary(node, record) for record in found]

    def _stopped(self, which: str) -> dict[str, Any]:
        """End one running query, ours or a peer's, and say where its transfer stands then."""
        exchange = self._node.stops.end(which, self._node.id)
        late = time.monotonic() + STOPPED_SECONDS
        while self._node.evidence.is_open(exchange) and time.monotonic() < late:
            time.sleep(0.02)
        found = self._node.store.exchange(exchange)
        if found is None:
            raise AssertionError("a query that runs has an exchange")
        return transfer(self._node.store, found)


class _Running:
    """One query in its own thread, reporting into a queue."""

    def __init__(self, node: Node, request: analyst_pb2.QueryRequest) -> None:
        self._node, self._request = node, request
        self._events: queue.SimpleQueue[analyst_pb2.QueryEvent | BaseException | None] = queue.SimpleQueue()
        self._stop = Stop()
        self._thread = threading.Thread(target=self._run, name="query", daemon=True)

    def events(self) -> Iterator[analyst_pb2.QueryEvent]:
        """Everything the query reports, until its outcome; raises what it raised."""
        self._thread.start()
        while (event := self._events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event

    def cancel(self) -> None:
        """The analyst is gone, or does not want the answer any more."""
        self._stop.fire(partial(Unavailable, "asker.cancelled", "the analyst cancelled the query"))

    def _run(self) -> None:
        try:
            self._ask()
        except Exception as error:  # noqa: BLE001  carried to the handler's thread, which the firewall guards
            self._events.put(self._stop.error or error)
        finally:
            self._events.put(None)

    def _ask(self) -> None:
        node = self._node
        with node.telemetry.query_span(self._request.traceparent) as trace:
            self._progress("plan", 0, 1)
            engine.warm()
            request = self._request
            inquiry = inquire(node, request.sql, request.purpose, request.protocol)
            had = None if request.again else kept(node, inquiry)
            asked = had or ask(node, inquiry, self._progress, self._stop, trace)
        for part in _parts(asked.answer.arrow):
            self._events.put(analyst_pb2.QueryEvent(arrow=part))
        self._progress("evidence", 0, 1)
        self._events.put(analyst_pb2.QueryEvent(outcome=self._outcome(asked, trace, inquiry)))

    def _outcome(self, asked: Asked, trace: str, inquiry: Inquiry | Round) -> analyst_pb2.Outcome:
        node, answer = self._node, asked.answer
        late = time.monotonic() + (RECEIPT_SECONDS if node.evidence.witnesses else 0)
        for exchange in asked.exchanges:
            node.evidence.settle(exchange, max(0.0, late - time.monotonic()))
        summary: dict[str, Any] = {
            "cells_released": answer.released,
            "cells_suppressed": answer.suppressed,
            "exchange": asked.exchanges[0],
            "exchanges": asked.exchanges,
            **asked.figures,
            "answered_at": None if asked.kept is None else asked.kept.at,
            "protocol": inquiry.prepared.plan.protocol,
            "disclosure": inquiry.prepared.plan.level.word,
        }
        try:
            bundle = receipt_of(asked.exchanges, node.store)
        except BayspaceError as error:
            bundle, summary["receipt"] = b"", error.code
        return analyst_pb2.Outcome(
            receipt=bundle,
            cells_suppressed=answer.suppressed or 0,
            trace_id=trace.split("-")[1] if asked.kept is None else asked.kept.trace_id,
            summary=_json(summary),
        )

    def _progress(self, stage: str, done: int, total: int) -> None:
        progress = analyst_pb2.Progress(stage=stage, done=done, total=total)
        self._events.put(analyst_pb2.QueryEvent(progress=progress))


def _parts(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PART_BYTES):
        yield data[start : start + PART_BYTES]


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()
