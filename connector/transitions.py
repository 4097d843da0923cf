"""The Dataspace Protocol's state machines as tables: who may send what when, and where it leads.

Dataspace Protocol 2025-1, "Contract Negotiation Protocol" and "Transfer Process Protocol". Nothing here knows
how a message travels: `Machine.after` is the only place that allows a move, over gRPC or anything else.
One row is ours: an agreement in force can be ended, where the protocol ends with FINALIZED.
Refuses every state, message and sender together that are not in the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Generic, TypeVar

from compute.errors import PeerViolation

PROVIDER, CONSUMER = "provider", "consumer"
_BOTH = (PROVIDER, CONSUMER)

S = TypeVar("S", bound=StrEnum)
M = TypeVar("M", bound=StrEnum)


class State(StrEnum):
    """Where a negotiation stands."""

    REQUESTED = "REQUESTED"
    OFFERED = "OFFERED"
    ACCEPTED = "ACCEPTED"
    AGREED = "AGREED"
    VERIFIED = "VERIFIED"
    FINALIZED = "FINALIZED"
    TERMINATED = "TERMINATED"


class Message(StrEnum):
    """What a side of a negotiation sends."""

    REQUEST = "ContractRequestMessage"
    OFFER = "ContractOfferMessage"
    ACCEPTANCE = "ContractNegotiationEventMessage:ACCEPTED"
    AGREEMENT = "ContractAgreementMessage"
    VERIFICATION = "ContractAgreementVerificationMessage"
    FINALIZATION = "ContractNegotiationEventMessage:FINALIZED"
    TERMINATION = "ContractNegotiationTerminationMessage"


class TransferState(StrEnum):
    """Where the transfer of one answer stands."""

    REQUESTED = "REQUESTED"
    STARTED = "STARTED"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    TERMINATED = "TERMINATED"


class TransferMessage(StrEnum):
    """What a side of a transfer sends."""

    REQUEST = "TransferRequestMessage"
    START = "TransferStartMessage"
    SUSPENSION = "TransferSuspensionMessage"
    COMPLETION = "TransferCompletionMessage"
    TERMINATION = "TransferTerminationMessage"


@dataclass(frozen=True, slots=True)
class Machine(Generic[S, M]):
    """A table of moves. The state None is before the first message."""

    code: str  # of the refusal
    moves: Mapping[tuple[S | None, M, str], S]

    def after(self, state: S | None, message: M, sender: str) -> S:
        """The state after `sender` (provider or consumer) sent `message`. Raises `PeerViolation`."""
        found = self.moves.get((state, message, sender))
        if found is None:
            place = "before the first message" if state is None else f"in state {state.value}"
            raise PeerViolation(self.code, f"a {sender} may not send {message.value} {place}")
        return found

    def before(self, message: M, sender: str) -> tuple[S, ...]:
        """The states in which `sender` may send `message`."""
        return tuple(state for state, m, who in self.moves if state and (m, who) == (message, sender))

    def open_to(self, state: S, sender: str) -> tuple[M, ...]:
        """What `sender` may send in `state`."""
        return tuple(message for before, message, who in self.moves if (before, who) == (state, sender))


def _moves(
    rows: Iterable[tuple[Iterable[S | None], M, Iterable[str], S]],
) -> Iterator[tuple[tuple[S | None, M, str], S]]:
    for states, message, senders, after in rows:
        yield from (((state, message, sender), after) for state in states for sender in senders)


NEGOTIATION: Machine[State, Message] = Machine(
    "contract.out-of-order",
    MappingProxyType(
        dict(
            _moves(
                [
                    ((None, State.OFFERED), Message.REQUEST, (CONSUMER,), State.REQUESTED),
                    ((None, State.REQUESTED), Message.OFFER, (PROVIDER,), State.OFFERED),
                    ((State.OFFERED,), Message.ACCEPTANCE, (CONSUMER,), State.ACCEPTED),
                    ((State.REQUESTED, State.ACCEPTED), Message.AGREEMENT, (PROVIDER,), State.AGREED),
                    ((State.AGREED,), Message.VERIFICATION, (CONSUMER,), State.VERIFIED),
                    ((State.VERIFIED,), Message.FINALIZATION, (PROVIDER,), State.FINALIZED),
                    (
                        tuple(state for state in State if state is not State.TERMINATED),
                        Message.TERMINATION,
                        _BOTH,
                        State.TERMINATED,
                    ),
                ]
            )
        )
    ),
)

_T = TransferState
TRANSFER: Machine[TransferState, TransferMessage] = Machine(
    "transfer.out-of-order",
    MappingProxyType(
        dict(
            _moves(
                [
                    ((None,), TransferMessage.REQUEST, (CONSUMER,), _T.REQUESTED),
                    ((_T.REQUESTED,), TransferMessage.START, (PROVIDER,), _T.STARTED),
                    ((_T.SUSPENDED,), TransferMessage.START, _BOTH, _T.STARTED),
                    ((_T.STARTED,), TransferMessage.SUSPENSION, _BOTH, _T.SUSPENDED),
                    ((_T.STARTED,), TransferMessage.COMPLETION, _BOTH, _T.COMPLETED),
                    (
                        (_T.REQUESTED, _T.STARTED, _T.SUSPENDED),
                        TransferMessage.TERMINATION,
                        _BOTH,
                        _T.TERMINATED,
                    ),
                ]
            )
        )
    ),
)
