"""The gRPC face of the witness: submit evidence, await its proof, fetch it back, watch checkpoints.

Every call needs an mTLS identity that the member list knows. A record is taken only from one of its
parties and only when its signatures hold; each item of a batch is answered by itself.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.rpc import code_pb2

from witness import dsse, note
from witness import record as records
from witness.database import Database
from witness.door import PeerIdentity, Places, Refusal, guarded
from witness.leaf import TAG_SIZE
from witness.log import Log, LogRefused, Submission
from witness.quota import Quota
from witness.registry import Registry
from witness.sequencer import Busy, Sequencer
from witness.tlog_proof import TlogProof
from witness.v1 import witness_pb2 as pb
from witness.v1 import witness_pb2_grpc
from witness.verifiers import Overloaded, Verdict, Verifiers

_log = logging.getLogger(__name__)

LARGEST_BATCH = 64
LARGEST_ENVELOPE = 128 * 1024
LONGEST_WAIT = 30.0
LOOK = 0.5
"""Seconds after which a call that waits looks whether the witness stops."""
# A call holds a place and a thread of the server's; no member, and no kind of waiting, may hold all places.
# The last third is for members that hold none. The threads beyond the places are there to refuse.
PLACES = 96
THREADS = PLACES + 8
KEPT_CALLS = 32
MOST_CALLS_EACH = 16
MOST_WAITING_CALLS = 48
KEPT_WAITING_CALLS = 16
MOST_WAITING_CALLS_EACH = 8
MOST_WATCHERS = 12
KEPT_WATCHERS = 4
MOST_WATCHERS_EACH = 2

Clock = Callable[[], int]
R = TypeVar("R")

_REASONS = {
    "format": pb.REJECTION_REASON_FORMAT,
    "signature": pb.REJECTION_REASON_SIGNATURE,
    "members": pb.REJECTION_REASON_MEMBERS,
    "key": pb.REJECTION_REASON_KEY,
    "party": pb.REJECTION_REASON_PARTY,
    "time": pb.REJECTION_REASON_TIME,
}


@dataclass(frozen=True)
class Admission:
    """Decides whether a submission may be recorded."""

    registry: Registry
    log: Log
    verifiers: Verifiers
    clock: Clock

    def check(self, peer: str, asked: Sequence[Submission], timeout: float) -> list[Verdict]:
        """Of each submission, in order, why it may not be recorded; None when it may. Raises TimeoutError.

        What is recorded already was checked then: lately, and it is not checked again; or long ago, and it
        is not refused for a key that has run out since.
        """
        verdicts = [_form(submission) for submission in asked]
        fresh = [n for n, s in enumerate(asked) if not verdicts[n] and not self.log.recorded_lately(s.digest)]
        found = self.verifiers.verdicts(
            [asked[n].envelope for n in fresh], peer, self.registry.lists(), self.clock(), timeout
        )
        refused = {asked[n].digest for n, verdict in zip(fresh, found, strict=True) if verdict}
        known = self.log.database.indexes(list(refused)) if refused else {}
        for n, verdict in zip(fresh, found, strict=True):
            verdicts[n] = None if asked[n].digest in known else verdict
        return verdicts


def _form(submission: Submission) -> Verdict:
    if len(submission.envelope) > LARGEST_ENVELOPE or len(submission.tag) != TAG_SIZE:
        return "format", "The envelope is too long, or the tag is not 32 bytes."
    return None


def members_only(identify: PeerIdentity, registry: Registry) -> PeerIdentity:
    """Refuses callers that the newest member list does not name: certificates outlive memberships."""

    def identified(context: grpc.ServicerContext) -> str:
        peer, lists = identify(context), registry.lists()
        if not lists or lists[-1].participant(peer) is None:
            raise Refusal(code_pb2.PERMISSION_DENIED, "member", "The member list does not name the caller.")
        return peer

    return identified


class Service(witness_pb2_grpc.WitnessServicer):
    """One log behind gRPC. confirmed: whether the quorum has seen the log since its start."""

    def __init__(
        self,
        log: Log,
        sequencer: Sequencer,
        admission: Admission,
        quota: Quota,
        identify: PeerIdentity,
        confirmed: Callable[[], bool] | None = None,
    ) -> None:
        self._log, self._sequencer, self._admission = log, sequencer, admission
        self._quota, self._identify = quota, identify
        self._confirmed = confirmed or (lambda: True)
        self._waits = Places(MOST_WAITING_CALLS_EACH, MOST_WAITING_CALLS, KEPT_WAITING_CALLS)
        self._watches = Places(MOST_WATCHERS_EACH, MOST_WATCHERS, KEPT_WATCHERS)
        self._stopped = False

    def stop(self) -> None:
        """Lets the calls that wait end, so that a server can stop without waiting for them."""
        self._stopped = True

    def SubmitBatch(  # noqa: N802  gRPC names its methods so
        self, request: pb.SubmitBatchRequest, context: grpc.ServicerContext
    ) -> pb.SubmitBatchResponse:
        """Records what is in order and says of the rest why not."""
        return self._for_member(context, lambda peer: self._submit(peer, request, context))

    def AwaitProof(  # noqa: N802
        self, request: pb.AwaitProofRequest, context: grpc.ServicerContext
    ) -> pb.AwaitProofResponse:
        """Proves an entry as soon as it is in a published checkpoint."""
        return self._for_member(context, lambda peer: self._await(peer, request, context))

    def GetBundle(  # noqa: N802
        self, request: pb.GetBundleRequest, context: grpc.ServicerContext
    ) -> pb.GetBundleResponse:
        """The envelope and its proof, for a party."""
        return self._for_member(context, lambda peer: self._bundle(peer, request.envelope_digest, context))

    def GetCheckpoint(  # noqa: N802
        self, request: pb.GetCheckpointRequest, context: grpc.ServicerContext
    ) -> pb.GetCheckpointResponse:
        """The newest checkpoint that counts; before there is one, the published."""
        del request
        return self._for_member(
            context, lambda _peer: pb.GetCheckpointResponse(checkpoint=self._log.read("checkpoint").decode())
        )

    def WatchCheckpoints(  # noqa: N802
        self, request: pb.WatchCheckpointsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchCheckpointsResponse]:
        """The checkpoint that counts and each newer one, until the caller or the server ends it."""
        del request
        peer = guarded(context, lambda: self._enter_watch(context))
        try:
            yield from self._checkpoints(context)
        finally:
            self._watches.leave(peer)

    def _enter_watch(self, context: grpc.ServicerContext) -> str:
        peer = self._identify(context)
        self._watches.take(peer)
        return peer

    def _checkpoints(self, context: grpc.ServicerContext) -> Iterator[pb.WatchCheckpointsResponse]:
        last: note.Note | None = None
        while context.is_active() and not self._stopped:
            head = self._log.witnessed
            if head is not None and head != last:
                yield pb.WatchCheckpointsResponse(checkpoint=str(head))
            last = head
            self._log.wait_newer(head, LOOK)

    def _for_member(self, context: grpc.ServicerContext, answer: Callable[[str], R]) -> R:
        return guarded(context, lambda: answer(self._identify(context)))

    def _submit(
        self, peer: str, request: pb.SubmitBatchRequest, context: grpc.ServicerContext
    ) -> pb.SubmitBatchResponse:
        if not 0 < len(request.submissions) <= LARGEST_BATCH:
            raise Refusal(
                code_pb2.INVALID_ARGUMENT, "batch", f"A batch has 1 to {LARGEST_BATCH} submissions."
            )
        asked = [Submission(_digest(s.envelope), s.envelope, s.tag) for s in request.submissions]
        with _taken_in():
            with self._sequencer.coming():
                verdicts = self._admission.check(peer, asked, _patience(context))
                admitted = [s for s, wrong in zip(asked, verdicts, strict=True) if wrong is None]
                recording = self._recording(peer, admitted)
            indexes = iter(self._indexes(recording, context))
        return pb.SubmitBatchResponse(
            receipts=[
                pb.Receipt(index=next(indexes)) if wrong is None else pb.Receipt(rejection=_rejection(wrong))
                for wrong in verdicts
            ]
        )

    def _recording(self, peer: str, admitted: Sequence[Submission]) -> Future[list[int]] | None:
        """The indexes to come; None when there is nothing to record."""
        if not admitted:
            return None
        if not self._confirmed():  # what was restored may be older than what witnesses have seen
            raise Refusal(
                code_pb2.UNAVAILABLE, "quorum", "The quorum has not confirmed this log since its start."
            )
        count = sum(len(s.envelope) for s in admitted if not self._log.recorded_lately(s.digest))
        self._quota.take(peer, count)
        try:
            recording = self._sequencer.submit(admitted, peer)
        except Busy:
            self._quota.give_back(peer, count)
            raise
        recording.add_done_callback(
            lambda done: self._quota.give_back(peer, count) if done.exception() else None
        )
        return recording

    @staticmethod
    def _indexes(recording: Future[list[int]] | None, context: grpc.ServicerContext) -> list[int]:
        if recording is None:
            return []
        try:
            return recording.result(_patience(context))
        except LogRefused as error:
            _log.exception("the log refused an append")
            raise Refusal(code_pb2.UNAVAILABLE, "log", "The log does not take entries now.") from error

    def _await(
        self, peer: str, request: pb.AwaitProofRequest, context: grpc.ServicerContext
    ) -> pb.AwaitProofResponse:
        by_index = request.WhichOneof("entry") == "index"
        digest = request.envelope_digest
        index = request.index if by_index else self._database.indexes([digest]).get(digest)
        if index is None:
            raise Refusal(code_pb2.NOT_FOUND, "unknown", "No such envelope is recorded here.")
        proof = self._prove(peer, index, context)
        receipt = self._log.receipt(proof) if request.receipt else b""
        return pb.AwaitProofResponse(proof=str(proof), receipt=receipt)

    def _bundle(self, peer: str, digest: bytes, context: grpc.ServicerContext) -> pb.GetBundleResponse:
        data = self._database.envelope(digest)
        # The same answer to strangers as for nothing, so that digests cannot be probed.
        if data is None or peer not in _parties(data):
            raise Refusal(code_pb2.NOT_FOUND, "unknown", "No such envelope of the caller's is recorded here.")
        index = self._database.indexes([digest])[digest]
        return pb.GetBundleResponse(envelope=data, proof=str(self._prove(peer, index, context)))

    @property
    def _database(self) -> Database:
        return self._log.database

    def _prove(self, peer: str, index: int, context: grpc.ServicerContext) -> TlogProof:
        if index >= self._log.witnessed_size:
            with self._waits.taken(peer):
                self._wait(index + 1, context)
        if index >= self._log.size:
            raise Refusal(code_pb2.NOT_FOUND, "unknown", "No such entry is published yet.")
        if index >= self._log.witnessed_size:
            raise Refusal(
                code_pb2.UNAVAILABLE,
                "quorum",
                "It is recorded; too few witnesses have cosigned it yet.",
            )
        return self._log.prove(index)

    def _wait(self, size: int, context: grpc.ServicerContext) -> None:
        until = time.monotonic() + _patience(context)
        while self._log.witnessed_size < size and context.is_active() and not self._stopped:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._log.wait(size, min(LOOK, left))


def _parties(envelope: bytes) -> set[str]:
    return {p.id for p in records.Record.parse(dsse.parse(envelope).payload).parties}


def _digest(envelope: bytes) -> bytes:
    return hashlib.sha256(envelope).digest()


def _rejection(wrong: tuple[str, str]) -> pb.Rejection:
    return pb.Rejection(reason=_REASONS[wrong[0]], sentence=wrong[1])


@contextmanager
def _taken_in() -> Iterator[None]:
    """Refuses what comes on top of too much that waits, and what was not done in time."""
    try:
        yield
    except (Busy, Overloaded) as error:
        raise Refusal(code_pb2.RESOURCE_EXHAUSTED, "busy", "The witness is busy; try again.") from error
    except FutureTimeout as error:
        raise Refusal(code_pb2.DEADLINE_EXCEEDED, "slow", "Not recorded in time; submit again.") from error


def _patience(context: grpc.ServicerContext) -> float:
    """How long a call may wait: until shortly before its deadline, at most LONGEST_WAIT seconds."""
    left = context.time_remaining()
    return LONGEST_WAIT if left is None else max(0.0, min(LONGEST_WAIT, left - 0.1))
