"""What binds the frames of one exchange to each other: the session id and the running transcript.

A frame that is reordered, duplicated, dropped, altered, reflected to its author or taken from another
session does not fit the transcript and raises `PeerViolation`. Authenticity of the peer itself is the
transport's part (mutual TLS), as is signing `sid` and the final digest.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from compute.errors import PeerViolation
from compute.protocols.base import Frame
from policy_enforcer.disclosure import Party

NONCE_BYTES = 32


def _prefixed(parts: Iterable[bytes]) -> bytes:
    """Each part after its length in eight bytes: no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def session_id(
    *,
    version: str,
    roles: tuple[Party, Party],
    participants: tuple[str, str],
    agreement: str,
    query_digest: bytes,
    plan_digest: bytes,
    nonces: tuple[bytes, bytes],
) -> bytes:
    """Return the 32-byte session id (protocols.md, "Session"); both parties sign it.

    `roles`, `participants` and `nonces` are in the same order on both sides: the receiver's first.
    Each nonce is 32 fresh bytes of its party, so neither can make two sessions share an id.
    """
    if any(len(nonce) != NONCE_BYTES for nonce in nonces) or nonces[0] == nonces[1]:
        raise PeerViolation("peer.nonce", "the two session nonces are not two different 32-byte values")
    parts = [version, *(role.value for role in roles), *participants, agreement]
    digest = hashlib.sha256(b"bayspace session v1\0")
    digest.update(_prefixed([*(part.encode() for part in parts), query_digest, plan_digest, *nonces]))
    return digest.digest()


@dataclass(frozen=True, slots=True)
class Header:
    """What travels beside a frame: its number in its direction, and the chain up to and with it."""

    sequence: int
    digest: bytes


class _Chain:
    """One direction's running hash: h0 = H(sid, author), h(i+1) = H(h(i), i, kind, body).

    One chain a direction, because both roles send before they have read: an order over both
    directions does not exist. The author is hashed in, so a reflected frame fits neither chain.
    """

    def __init__(self, sid: bytes, author: Party) -> None:
        self.sequence = 0
        self.digest = hashlib.sha256(b"bayspace transcript v1\0" + _prefixed([sid, author.encode()])).digest()

    def after(self, frame: Frame) -> bytes:
        running = hashlib.sha256(self.digest + self.sequence.to_bytes(8, "big"))
        running.update(_prefixed([frame.kind.encode()]) + len(frame.body).to_bytes(8, "big"))
        running.update(frame.body)
        return running.digest()

    def extend(self, digest: bytes) -> None:
        self.sequence, self.digest = self.sequence + 1, digest


class Transcript:
    """Both directions of one session, seen from `role`. The caller sends and receives in frame order."""

    def __init__(self, sid: bytes, role: Party) -> None:
        self._sid = sid
        self._chains = {party: _Chain(sid, party) for party in Party}
        self._own = self._chains[role]
        self._peer = self._chains[Party.SENDER if role is Party.RECEIVER else Party.RECEIVER]

    def sending(self, frame: Frame) -> Header:
        """Take the next frame of ours into the transcript and return the header it travels with."""
        header = Header(self._own.sequence, self._own.after(frame))
        self._own.extend(header.digest)
        return header

    def receiving(self, header: Header, frame: Frame) -> None:
        """Take the peer's next frame in; raise `PeerViolation` unless it is exactly the next one."""
        expected = self._peer.after(frame)
        if header.sequence != self._peer.sequence or not hmac.compare_digest(header.digest, expected):
            raise PeerViolation("peer.transcript", "a frame does not continue this session's transcript")
        self._peer.extend(expected)

    def digest(self) -> bytes:
        """SHA-256 over both chains, the same on both sides once every frame arrived; for evidence."""
        ends = [self._sid]
        for party in (Party.RECEIVER, Party.SENDER):
            chain = self._chains[party]
            ends += [chain.sequence.to_bytes(8, "big"), chain.digest]
        return hashlib.sha256(b"bayspace transcript end v1\0" + _prefixed(ends)).digest()
