"""Frames: what a role yields, waits for, and splits long bytes into.

A role is a generator. `yield Frame(...)` sends; `body = yield from receive("kind")` waits; `return`
gives the result. A frame of another kind or length than agreed raises `PeerViolation`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from compute.errors import PeerViolation

FRAME_BYTES = 1 << 20
"""Largest frame body. One mebibyte was the fastest over mTLS (dependencies.md)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of a protocol: a kind from the protocol's own closed list, and opaque bytes."""

    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Receive:
    """Yielded by a role that waits for the peer's next frame, which must be of this kind."""

    kind: str


@dataclass(frozen=True, slots=True)
class Gather:
    """Yielded by the asker's role of one exchange in a federated round: hand `body` in, wait for everybody's.

    The driver reduces the bodies, in roster order, once for all exchanges, and answers each with a frame of
    this kind that holds the result.
    """

    kind: str
    body: bytes
    reduce: Callable[[list[bytes]], bytes]


Role = Generator[Frame | Receive | Gather, Frame | None, T]


def receive(kind: str, length: int | None = None) -> Role[bytes]:
    """Wait for the next frame and return its body; refuse any other kind, or another length."""
    frame = yield Receive(kind)
    if frame is None or frame.kind != kind:
        raise PeerViolation("peer.frame-out-of-order", f"the peer sent another frame where {kind!r} was due")
    if len(frame.body) > FRAME_BYTES:
        raise PeerViolation("peer.frame-oversized", f"a {kind!r} frame is larger than {FRAME_BYTES} bytes")
    if length is not None and len(frame.body) != length:
        raise PeerViolation("peer.frame-length", f"a {kind!r} frame does not have the agreed length")
    return frame.body


def send_blob(kind: str, data: bytes | memoryview) -> Role[None]:
    """Send bytes of a length both sides know, in frames of at most `FRAME_BYTES`. Empty sends nothing."""
    view = memoryview(data)
    for start in range(0, len(view), FRAME_BYTES):
        yield Frame(kind, bytes(view[start : start + FRAME_BYTES]))


def receive_blob(kind: str, length: int) -> Role[bytes]:
    """Receive exactly `length` bytes sent by `send_blob`."""
    chunks = []
    for start in range(0, length, FRAME_BYTES):
        chunks.append((yield from receive(kind, min(FRAME_BYTES, length - start))))
    return b"".join(chunks)
