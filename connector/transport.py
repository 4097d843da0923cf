"""Drives one role over a stream of frames: adds and checks headers, and turns a lost peer into an error.

Both ends use `exchange`; only where frames come from and go to differs. It refuses frames out of
sequence, with a wrong transcript, oversized, or after the end. A peer that neither sends nor reads within the
frame timeout has failed: it must not hold a thread.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeVar, cast

import grpc

from compute.errors import BayspaceError, PeerViolation, Unavailable
from compute.protocols.base import FRAME_BYTES, Frame, Role
from compute.session import Header, Transcript
from connector.firewall import error_of
from connector.stopping import Stop, after
from connector.v1 import frame_pb2

T = TypeVar("T")

WIRE_BYTES = FRAME_BYTES + 4096
"""Largest message on the wire: a sealed frame of `FRAME_BYTES` with its header."""


STOP_SECONDS = 2.0
"""That a stopped exchange has to say why."""
MOST_READ = 2
"""Frames that are read before the role asks for them."""
MOST_WAITING = 8
"""Frames that wait for the network. A role runs at most six ahead of its peer (`psi`, "Order of frames")."""


class Headers:
    """Sequence numbers from the first frame on; from `bind` on they restart, chained under the session id."""

    def __init__(self) -> None:
        self._sent = self._received = 0
        self._transcript: Transcript | None = None
        self._figures = dict.fromkeys(("bytes_sent", "bytes_received", "frames_sent", "frames_received"), 0)

    def figures(self) -> dict[str, int]:
        """Body bytes and frames of both directions so far."""
        return dict(self._figures)

    def bind(self, transcript: Transcript) -> None:
        """Chain every later frame under the session id."""
        self._transcript = transcript

    @property
    def transcript(self) -> Transcript:
        """The running transcript. INVARIANT: bound before any protocol frame."""
        if self._transcript is None:
            raise AssertionError("the session id is not agreed yet")
        return self._transcript

    def wrap(self, frame: Frame) -> frame_pb2.Frame:
        """Add the header of the next frame to send."""
        self._figures["frames_sent"] += 1
        self._figures["bytes_sent"] += len(frame.body)
        header = Header(self._sent, b"")
        if self._transcript is not None:
            header = self._transcript.sending(frame)
        else:
            self._sent += 1
        return frame_pb2.Frame(
            sequence=header.sequence, kind=frame.kind, transcript=header.digest, body=frame.body
        )

    def unwrap(self, wire: frame_pb2.Frame) -> Frame:
        """Check the header of the next frame received."""
        if len(wire.body) > WIRE_BYTES:
            raise PeerViolation("peer.frame-oversized", "a frame is larger than the wire allows")
        frame = Frame(wire.kind, wire.body)
        self._figures["frames_received"] += 1
        self._figures["bytes_received"] += len(frame.body)
        if self._transcript is not None:
            self._transcript.receiving(Header(wire.sequence, wire.transcript), frame)
        elif wire.sequence != self._received or wire.transcript:
            raise PeerViolation("peer.frame-out-of-order", "a frame of the handshake is out of sequence")
        else:
            self._received += 1
        return frame


def exchange(
    role: Role[T], headers: Headers, arrivals: Callable[[], frame_pb2.Frame]
) -> Generator[frame_pb2.Frame, None, T]:
    """Run `role`, yielding what it sends; `arrivals` blocks for the next frame or raises.

    The generator's return value is the role's. Whatever goes wrong, here or where the frames go to, is
    thrown into the role first, so that it can record the failure.
    """
    try:
        item = role.send(None)
        while True:
            try:
                if isinstance(item, Frame):
                    yield headers.wrap(item)
                    frame = None
                else:
                    frame = headers.unwrap(arrivals())
            except BayspaceError as error:
                item = role.throw(error)
            else:
                item = role.send(frame)
    except StopIteration as end:
        return cast(T, end.value)
    finally:
        role.close()


class Watchdog:
    """Calls `cancel` when a wait lasts longer than `seconds`: a stalled peer must not hold a thread."""

    def __init__(self, seconds: float, cancel: Callable[[], object]) -> None:
        self._seconds, self._cancel = seconds, cancel
        self._timer: threading.Timer | None = None
        self.fired = False

    def __enter__(self) -> Self:
        self._timer = after(self._seconds, self._fire)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _fire(self) -> None:
        self.fired = True
        self._cancel()


class _Inbox:
    """Reads the asker's frames in a thread of its own, so that waiting for one can be ended from outside."""

    def __init__(self, requests: Iterator[frame_pb2.Frame], stop: Stop) -> None:
        self._stop = stop
        self._frames: deque[frame_pb2.Frame] = deque()
        self._ended = self.closed = False
        self._changed = threading.Condition()
        stop.on_fire(self._wake)
        threading.Thread(target=self._read, args=(requests,), name="frames", daemon=True).start()

    def next(self, timeout: float) -> frame_pb2.Frame:
        """The next frame. Raises the reason of a stop, and `Unavailable` where none comes."""
        with self._changed:
            came = self._changed.wait_for(self._over, timeout)
            self._stop.check()
            if not came:
                raise _stalled("the asker")
            if not self._frames:
                raise gone()
            self._changed.notify_all()
            return self._frames.popleft()

    def close(self) -> None:
        """Nobody reads any more."""
        with self._changed:
            self._ended = self.closed = True
            self._frames.clear()
            self._changed.notify_all()

    def _over(self) -> bool:
        return bool(self._frames) or self._ended or self._stop.interrupt.is_set()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _read(self, requests: Iterator[frame_pb2.Frame]) -> None:
        with suppress(Exception):  # grpcio raises a bare Exception when the call is cancelled
            for frame in requests:
                if not self._taken(frame):
                    return
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _taken(self, frame: frame_pb2.Frame) -> bool:
        """Whether more are wanted, once there is room for them."""
        with self._changed:
            self._frames.append(frame)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ended or len(self._frames) < MOST_READ)
            return not self._ended


def serve(
    role: Role[None],
    headers: Headers,
    requests: Iterator[frame_pb2.Frame],
    cancel: Callable[[], object],
    timeout: float,
    stop: Stop,
) -> Iterator[frame_pb2.Frame]:
    """The owner's end of the stream: what a gRPC handler returns. `stop` ends it from outside."""
    waiting, inbox = Watchdog(timeout, cancel), _Inbox(requests, stop)
    running = exchange(role, headers, lambda: inbox.next(timeout))
    stop.on_fire(partial(_cut_off, inbox, cancel))
    try:
        for frame in running:
            with waiting:  # an asker that does not read stops us here
                yield frame
    except GeneratorExit:
        reason = stop.error or (_stalled("the asker") if waiting.fired else None)
        if reason is not None:
            with suppress(BayspaceError, StopIteration):
                running.throw(reason)
        raise
    finally:
        running.close()
        inbox.close()


def _cut_off(inbox: _Inbox, cancel: Callable[[], object]) -> None:
    """A stopped exchange has a moment to tell the asker why; one that does not take it is cancelled."""
    if inbox.closed:
        return
    after(STOP_SECONDS, lambda: None if inbox.closed else cancel())


def call(
    role: Role[T],
    headers: Headers,
    run: Callable[[Iterator[frame_pb2.Frame]], Any],
    peer: str,
    timeout: float,
    on_call: Callable[[Any], object],
    stop: Stop,
) -> T:
    """The asker's end: run `role` against the stub method `run` and return its result.

    `on_call` is handed the call object, to cancel it; `stop` says why somebody here did.
    """
    outgoing: queue.Queue[frame_pb2.Frame | None] = queue.Queue(MOST_WAITING)
    responses = run(iter(outgoing.get, None))
    on_call(responses)
    waiting = Watchdog(timeout, responses.cancel)

    def arrivals() -> frame_pb2.Frame:
        try:
            with waiting:
                return cast(frame_pb2.Frame, next(responses))
        except StopIteration:
            raise PeerViolation("peer.ended-early", f"{peer} ended the exchange before it was over") from None
        except grpc.RpcError as error:
            raise (stop.error or _failure(waiting, error, peer)) from None

    running = exchange(role, headers, arrivals)
    try:
        while True:
            frame = next(running)
            try:
                with waiting:
                    _put(outgoing, frame, responses)
            except _CallOver:
                running.throw(stop.error or (_stalled(peer) if waiting.fired else _outcome(responses, peer)))
    except StopIteration as end:
        with suppress(_CallOver):
            _put(outgoing, None, responses)
        _finish(responses)
        return cast(T, end.value)
    except BaseException:
        responses.cancel()
        running.close()
        raise
    finally:
        with suppress(queue.Full):
            outgoing.put_nowait(None)


class _CallOver(Exception):
    """The call ended while we had something to send."""


def _put(outgoing: queue.Queue[frame_pb2.Frame | None], frame: frame_pb2.Frame | None, call: Any) -> None:
    """Hand a frame to gRPC as soon as it takes one; a call that is over takes none."""
    while True:
        try:
            return outgoing.put(frame, timeout=0.2)
        except queue.Full:
            if not call.is_active():
                raise _CallOver from None


def _outcome(responses: Any, peer: str) -> BayspaceError:
    """Why a call is over: the status behind the frames that nobody reads any more."""
    try:
        for _ in responses:
            pass
    except grpc.RpcError as error:
        return error_of(error, peer)
    return PeerViolation("peer.ended-early", f"{peer} ended the exchange before it was over")


def _finish(responses: Any) -> None:
    """Let the owner end in peace; nothing may follow the last frame."""
    watchdog = Watchdog(1.0, responses.cancel)
    with watchdog:
        try:
            for _ in responses:
                responses.cancel()
        except grpc.RpcError:
            return


def _failure(waiting: Watchdog, error: grpc.RpcError, peer: str) -> BayspaceError:
    return _stalled(peer) if waiting.fired else error_of(error, peer)


def _stalled(peer: str) -> Unavailable:
    return Unavailable("peer.stalled", f"{peer} sent nothing within the frame timeout")


def gone() -> Unavailable:
    """The asker left before the exchange was over."""
    return Unavailable("peer.gone", "the asker cancelled the exchange or went away")
