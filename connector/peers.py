"""Channels to other participants: one per peer, kept open, each able to reach that participant only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc

from compute.errors import Unavailable
from connector.firewall import error_of
from connector.identity import TlsPaths, channel_credentials, channel_options
from connector.transport import WIRE_BYTES
from witness.members import MemberList

UNARY_SECONDS = 20.0
CATALOGUE_BYTES = 8 << 20
"""Largest catalogue of a participant: fifty offers of a thousand columns each."""
RECONNECTING: tuple[tuple[str, Any], ...] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""A participant that comes back is noticed within a second, not after gRPC's default of two minutes."""
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", CATALOGUE_BYTES),
    ("grpc.max_send_message_length", WIRE_BYTES + 65536),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    *RECONNECTING,
)


class Peers:
    """Dials participants at the addresses in the member list."""

    def __init__(self, tls: TlsPaths, space: str, members: Callable[[], MemberList]) -> None:
        self._credentials = channel_credentials(tls)
        self._space, self._members = space, members
        self._channels: dict[tuple[str, str], grpc.Channel] = {}
        self._lock = threading.Lock()

    def channel(self, participant: str) -> grpc.Channel:
        """The channel to a member. Raises `Unavailable` when the member list does not know it."""
        member = self._members().participant(participant)
        if member is None:
            raise Unavailable("peer.unknown", f"the member list names no participant {participant!r}")
        with self._lock:
            key = (participant, member.address)
            if key not in self._channels:
                options = [*_OPTIONS, *channel_options(self._space, participant)]
                self._channels[key] = grpc.secure_channel(member.address, self._credentials, options)
            return self._channels[key]

    def unary(self, participant: str, method: Callable[..., Any], message: Any) -> Any:
        """One call with a deadline; a failure becomes one of our errors."""
        try:
            return method(message, timeout=UNARY_SECONDS)
        except grpc.RpcError as error:
            raise error_of(error, participant) from None

    def close(self) -> None:
        """Close every channel."""
        with self._lock:
            for channel in self._channels.values():
                channel.close()
            self._channels.clear()
