"""bayspace from Python: connect to one's own connector, look around, explain, ask.

    space = connect("hk-bank/connector.toml")
    answer = space.query("SELECT ...", purpose="credit-risk")
    answer.table, answer.receipt.save("receipt.json")

Everything is done by the running connector; this is a thin client with that connector's certificate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
import pyarrow as pa

from compute.errors import ConfigError
from connector.config import ConnectorConfig, load
from connector.firewall import error_of
from connector.identity import channel_credentials, channel_options
from connector.peers import RECONNECTING
from connector.v1 import analyst_pb2, analyst_pb2_grpc

if TYPE_CHECKING:
    from compute.templates import Template

UNARY_SECONDS = 60.0
Watch = Callable[[str, int, int], None]
"""(stage, done, total): what a long query reports while it runs."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The evidence of one exchange, as one file that anybody verifies offline. Empty while not witnessed."""

    bundle: bytes = field(repr=False)

    def save(self, path: str | Path) -> None:
        """Write the bundle."""
        Path(path).write_bytes(self.bundle)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a query."""

    table: pa.Table = field(repr=False)
    receipt: Receipt
    suppressed: int | None  # cells the owner's gate held back; None where its policy hides how many
    trace_id: str
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer in a participant's catalogue."""

    participant: str
    name: str
    entry: dict[str, Any] = field(repr=False)
    policy: dict[str, Any] = field(repr=False)
    policy_text: str = field(repr=False)

    @property
    def full_name(self) -> str:
        """The name SQL uses."""
        return f"{self.participant}.{self.name}"


class Space:
    """A data space, seen from one's own connector. Use it as a context manager, or close it."""

    def __init__(self, config: ConnectorConfig) -> None:
        options = [
            *channel_options(config.space, config.participant),
            *RECONNECTING,
            ("grpc.max_receive_message_length", -1),  # our own connector; the catalogue of everybody is large
        ]
        credentials = channel_credentials(config.tls)
        self._channel = grpc.secure_channel(config.network.listen, credentials, options)
        self._stub = analyst_pb2_grpc.AnalystStub(self._channel)
        self._id, self._language = config.participant, config.language

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel to the connector."""
        self._channel.close()

    def catalogue(self, participant: str = "") -> tuple[list[Offer], list[str]]:
        """Offers of one participant or of all, and the participants that did not answer."""
        reply = self._unary(self._stub.Browse, analyst_pb2.BrowseRequest(participant=participant))
        offers = [
            Offer(o.participant, o.name, json.loads(o.dataset), json.loads(o.policy), o.policy_text)
            for o in reply.offers
        ]
        return offers, list(reply.unreachable)

    def explain(
        self, sql: str, purpose: str = "", language: str | None = None, *, protocol: str = ""
    ) -> dict[str, Any]:
        """Verdict, plan, who learns what, and cost of a question, before anything runs.

        `protocol`: the one that is to answer, instead of the cheapest.
        """
        request = analyst_pb2.QueryRequest(
            sql=sql, purpose=purpose, language=language or self._language, protocol=protocol
        )
        explanation: dict[str, Any] = json.loads(self._unary(self._stub.Explain, request).explanation)
        return explanation

    def query(
        self,
        sql: str,
        purpose: str = "",
        watch: Watch | None = None,
        *,
        again: bool = False,
        protocol: str = "",
    ) -> Answer:
        """Ask. Raises `PolicyRefusal` with reasons, or another of `compute.errors`.

        A joint question that was answered before is answered from what this connector has, without asking
        or charging anybody (`summary["answered_at"]`), unless `again`. `protocol`: the one that is to answer,
        instead of the cheapest; what another one answered is not shown for it.
        Interrupting it (Ctrl-C) cancels the query on both sides.
        """
        request = analyst_pb2.QueryRequest(sql=sql, purpose=purpose, again=again, protocol=protocol)
        call = self._stub.Query(request)
        parts: list[bytes] = []
        try:
            for event in self._events(call):
                if event.WhichOneof("event") == "arrow":
                    parts.append(event.arrow)
                elif event.WhichOneof("event") == "progress" and watch is not None:
                    watch(event.progress.stage, event.progress.done, event.progress.total)
                elif event.WhichOneof("event") == "outcome":
                    return _answer(parts, event.outcome)
        finally:
            call.cancel()
        raise AssertionError("a query ends with an outcome or an error")

    def contract(self, action: str, **which: str) -> list[dict[str, Any]]:
        """Manage contracts: request (participant, offer); list; and by agreement or negotiation id show,
        approve, reject, suspend, resume, terminate (agreement).
        """
        reply = self._unary(self._stub.Contract, analyst_pb2.ContractCommand(action=action, **which))
        contracts: list[dict[str, Any]] = json.loads(reply.contracts)
        return contracts

    def templates(self) -> list[tuple[str, Template]]:
        """The reviewed queries that agreements in force let this participant ask: (offer, template)."""
        from compute.templates import parse

        shown = [
            self.contract("show", agreement=contract["negotiation"])[0]
            for contract in self.contract("list")
            if contract["in_force"] and contract["role"] == "consumer"
        ]
        return [
            (f"{one['peer']}.{one['offer']}", parse(one["documents"][reference]))
            for one in shown
            for reference in one["templates"]
        ]

    def filled(self, template: str, values: Mapping[str, str]) -> str:
        """The query that a template is with these values. `template`: its name, or name@digest."""
        found = {t.reference: t for _, t in self.templates() if template in (t.name, t.reference)}
        if len(found) != 1:
            sentence = "no agreement in force has a template of this name, or several have different ones"
            raise ConfigError("template.unknown", sentence)
        return next(iter(found.values())).filled(values, self._id)

    def _unary(self, method: Callable[..., Any], message: Any) -> Any:
        try:
            return method(message, timeout=UNARY_SECONDS)
        except grpc.RpcError as error:
            raise error_of(error, self._name) from None

    def _events(self, call: Any) -> Iterator[analyst_pb2.QueryEvent]:
        try:
            yield from call
        except grpc.RpcError as error:
            raise error_of(error, self._name) from None

    @property
    def _name(self) -> str:
        return f"the connector of {self._id}"


def connect(config: str | Path | ConnectorConfig) -> Space:
    """Connect to the connector of this configuration (a `connector.toml`, its folder, or loaded)."""
    return Space(config if isinstance(config, ConnectorConfig) else load(Path(config)))


def _answer(parts: list[bytes], outcome: analyst_pb2.Outcome) -> Answer:
    table = pa.ipc.open_stream(b"".join(parts)).read_all()
    summary = json.loads(outcome.summary)
    suppressed = summary["cells_suppressed"]
    return Answer(table, Receipt(outcome.receipt), suppressed, outcome.trace_id, summary)
