"""A connector's client of the witness: submits envelopes, and believes a proof only after checking it.

Every call has a deadline, until which a witness that is too busy is asked again, but for `watch`. Raises
`WitnessUnavailable` when nothing is known and trying again is right, `WitnessRejected` when the witness says
no, and `WitnessDishonest` when its proof does not hold.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from witness import cose
from witness.checks import Requirement, VerificationFailed
from witness.inclusion import Included, check_inclusion
from witness.policy import Policy
from witness.v1 import witness_pb2 as pb
from witness.v1 import witness_pb2_grpc

_log = logging.getLogger(__name__)

DEADLINE = 10.0
PAUSE = 0.1
"""Seconds until a busy witness is asked again."""
LAST_TRY = 0.5
"""Seconds before the deadline: whoever asks later gets no answer in time."""
T = TypeVar("T")
_RETRY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    }
)


class WitnessUnavailable(Exception):
    """The witness did not answer, or not now. Submitting the same envelope again is safe."""


class Busy(WitnessUnavailable):
    """The witness has no place for the call now, or too many records wait."""


class Uncosigned(WitnessUnavailable):
    """Too few witnesses have cosigned yet: of those that the log needs, or that the caller demands."""


class WitnessRejected(Exception):
    """The witness refuses, with a stable `reason`. Submitting the same envelope again is pointless.

    But for two reasons that may pass: `members`, until the witness has the newer list that the record
    names, and `time`, until its clock has caught up.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason, self.sentence = reason, sentence


class WitnessDishonest(Exception):
    """The witness answered with a proof that does not hold: keep it, and raise an alarm."""


@dataclass(frozen=True)
class Recorded:
    """Where an envelope is recorded, or why it is not."""

    index: int | None
    rejection: WitnessRejected | None = None


class WitnessClient:
    """One witness at `target`, whose log's verifier keys (vkeys, from the member list) are `logs`.

    A log with keys of two algorithms must have signed with both. options: gRPC channel options, for a
    caller that pins the server's name. quorum: without its cosignatures no proof counts.
    """

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials,
        logs: Sequence[str],
        options: Sequence[tuple[str, Any]] = (),
        deadline: float = DEADLINE,
        quorum: Policy | None = None,
    ) -> None:
        self._policy = (quorum or Policy(())).of_logs(logs)
        self._required = required_of(self._policy)
        self._channel = grpc.secure_channel(target, credentials, options=list(options))
        self._stub = witness_pb2_grpc.WitnessStub(self._channel)
        self._deadline, self._closed = deadline, threading.Event()

    def close(self) -> None:
        """Closes the channel."""
        self._closed.set()
        self._channel.close()

    def submit(self, submissions: Sequence[tuple[bytes, bytes]], *, patient: bool = True) -> list[Recorded]:
        """Submits 1 to 64 (envelope, tag) pairs; answers in order, once the accepted ones are durable.

        Who is not patient asks a busy witness once.
        """
        request = pb.SubmitBatchRequest(
            submissions=[pb.Submission(envelope=envelope, tag=tag) for envelope, tag in submissions]
        )
        response = self._ask(self._stub.SubmitBatch, request, patient=patient)
        if len(response.receipts) != len(submissions):
            raise WitnessDishonest("The witness answered for another number of submissions.")
        return [_recorded(receipt) for receipt in response.receipts]

    def await_proof(
        self, envelope: bytes, tag: bytes, deadline: float | None = None, *, patient: bool = True
    ) -> str:
        """The checked tlog-proof that the log holds this envelope.

        Whoever signed it too may have submitted it first, under another tag, or the witness changed the tag,
        which nobody signs. That proves no less; but the leaf is not found by the exchange's key, so it is
        said in the log.
        """
        digest = hashlib.sha256(envelope).digest()
        request = pb.AwaitProofRequest(envelope_digest=digest)
        response = self._ask(self._stub.AwaitProof, request, deadline, patient=patient)
        proof: str = response.proof
        if self._check(proof, envelope).leaf.tag != tag:
            _log.warning(
                "record %s is logged under another tag: "
                "a co-signer submitted it first, or the witness changed it",
                digest.hex(),
            )
        return proof

    def receipt(self, envelope: bytes) -> tuple[str, bytes]:
        """A checked tlog-proof of this envelope, and the checked COSE receipt of the same entry and tree."""
        digest = hashlib.sha256(envelope).digest()
        request = pb.AwaitProofRequest(envelope_digest=digest, receipt=True)
        response = self._ask(self._stub.AwaitProof, request)
        place = self._check(response.proof, envelope)
        try:
            receipt = cose.verify(response.receipt, place.leaf.hash, self._policy.logs)
        except cose.ReceiptInvalid as error:
            raise WitnessDishonest("The witness answered with a receipt that does not hold.") from error
        if (receipt.size, receipt.root) != (place.checkpoint.size, place.checkpoint.root):
            raise WitnessDishonest("The witness answered with a receipt of another tree than its proof's.")
        return response.proof, response.receipt

    def bundle(self, digest: bytes) -> tuple[bytes, str]:
        """The envelope with this digest and its checked proof, for a party of its record."""
        request = pb.GetBundleRequest(envelope_digest=digest)
        response = self._ask(self._stub.GetBundle, request)
        if hashlib.sha256(response.envelope).digest() != digest:
            raise WitnessDishonest("The witness returned another envelope than the one asked for.")
        self._check(response.proof, response.envelope)
        return response.envelope, response.proof

    def checkpoint(self) -> str:
        """The log's published checkpoint, as the witness says: a signed note, unchecked."""
        request = pb.GetCheckpointRequest()
        response = self._ask(self._stub.GetCheckpoint, request)
        text: str = response.checkpoint
        return text

    def watch(self, deadline: float) -> Iterator[str]:
        """Published checkpoints, as they come, until `deadline` seconds have passed."""
        request = pb.WatchCheckpointsRequest()
        stream = self._stub.WatchCheckpoints(request, timeout=deadline)
        while (response := _call(lambda: next(stream, None))) is not None:
            yield response.checkpoint

    def _ask(
        self,
        method: Callable[..., T],
        request: Message,
        deadline: float | None = None,
        *,
        patient: bool = True,
    ) -> T:
        until = time.monotonic() + (deadline or self._deadline)
        while True:
            try:
                return _call(lambda: method(request, timeout=max(0.0, until - time.monotonic())))
            except Busy:
                late = time.monotonic() + LAST_TRY > until
                if late or not patient or self._closed.wait(PAUSE):
                    raise

    def _check(self, proof: str, envelope: bytes) -> Included:
        try:
            return check_inclusion(proof, envelope, self._policy, self._required)
        except VerificationFailed as error:
            if error.code == "quorum":
                raise Uncosigned(error.sentence) from error
            raise WitnessDishonest(error.sentence) from error


def required_of(policy: Policy) -> tuple[Requirement, ...]:
    """What a log signs with now: every algorithm of which it has a key."""
    return tuple(Requirement(algorithm, 0) for algorithm in sorted({k.public.algorithm for k in policy.logs}))


def _recorded(receipt: pb.Receipt) -> Recorded:
    if receipt.WhichOneof("result") == "index":
        return Recorded(receipt.index)
    name = pb.RejectionReason.Name(receipt.rejection.reason)
    reason = name.removeprefix("REJECTION_REASON_").lower()
    return Recorded(None, WitnessRejected(reason, receipt.rejection.sentence))


def _call(call: Callable[[], T]) -> T:
    try:
        return call()
    except grpc.RpcError as error:
        raise _translated(error) from error


def _translated(error: Any) -> Exception:
    code: grpc.StatusCode = error.code()
    status = rpc_status.from_call(error)
    reason = _reason(status)
    if reason == "quorum":
        return Uncosigned(f"The log waits for its witnesses ({code.name}).")
    if reason == "busy":
        return Busy(f"{status.message} ({code.name})")
    if code in _RETRY and reason is not None:
        return WitnessUnavailable(f"{status.message} ({code.name})")
    if code in _RETRY:
        return WitnessUnavailable(f"The witness does not answer ({code.name}).")
    if reason is None:
        return WitnessRejected(code.name.lower(), "The witness refused the call.")
    return WitnessRejected(reason, status.message)


def _reason(status: Any) -> str | None:
    """The witness's stable word for why it refuses, in lower case."""
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason).lower()
    return None
