"""Evidence leaves through an outbox: kept with the state change it proves, delivered until it is recorded.

`keep` writes a signed record and its deliveries in one transaction. A courier thread hands them to the
witnesses; `witnessed` does so at once where a policy demands a witness before anything leaves. A proof counts
only after its signature, inclusion and tag were checked here, and the cosignatures that the configuration
demands. Nothing is delivered twice under another index: the witness answers a repeated envelope with the same
one.

The courier outlives every failure: a witness that does not answer is left alone until the next round, and a
record that a witness refuses for good is set aside, so that neither holds up the others.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compute.errors import ConfigError, PeerViolation, Unavailable
from connector.config import ConnectorConfig
from connector.state.rows import EvidenceRecord, ExchangeRecord, OutboxRecord
from connector.storage import Store
from witness import canonical, dsse
from witness.bundle import Opening
from witness.checks import VerificationFailed
from witness.client import (
    Uncosigned,
    WitnessClient,
    WitnessDishonest,
    WitnessRejected,
    WitnessUnavailable,
    required_of,
)
from witness.inclusion import check_inclusion
from witness.note import NoteInvalid, parse_vkey
from witness.policy import NONE, Policy, PolicyInvalid
from witness.policy import read as read_policy
from witness.record import Record, Sealed, exchange_tag
from witness.tlog_proof import parse as parse_proof

_log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
IDLE_SECONDS = 30.0
"""Another process of this participant's, such as `document commit`, may have left something in the outbox."""
MOST_ATTEMPTS_LOGGED = 3
PASSING = frozenset({"members", "time"})
"""Reasons of a witness's refusal that may pass: its member list or its clock has to catch up."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness this connector submits to: how to reach it, its log's verifier keys, who must cosign."""

    client: WitnessClient
    logs: tuple[str, ...]
    quorum: Policy | None = None


def demanded_quorum(config: ConnectorConfig) -> Policy | None:
    """Whose cosignatures this connector demands; None when it demands none. Raises `ConfigError`."""
    path = config.quorum_path
    if path is None:
        return None
    try:
        policy = read_policy(path.read_bytes())
    except (OSError, PolicyInvalid) as error:
        why = error if isinstance(error, PolicyInvalid) else "it cannot be read"
        raise ConfigError("evidence.quorum", f"{path}: {why}") from None
    if policy.logs or policy.quorum == NONE:
        why = "it names witnesses and a quorum of them, and no logs: those come from the member list"
        raise ConfigError("evidence.quorum", f"{path}: {why}")
    return policy


def checked_quorum(quorum: Policy | None, witness: str, logs: Sequence[str]) -> Policy | None:
    """The quorum, when this witness's log can ever have it. Raises `ConfigError`."""
    try:
        return None if quorum is None else quorum.of_logs(logs)
    except (PolicyInvalid, NoteInvalid) as error:
        raise ConfigError("evidence.quorum", f"of the log of {witness}: {error}") from None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one witness needs to record one envelope."""

    envelope: bytes
    tag: bytes


def openings_of(record: EvidenceRecord) -> list[Opening]:
    """What opens the commitments of a record that is kept here; nothing once it is erased."""
    if record.disclosures is None:
        return []
    return [Opening.from_json(value) for value in json.loads(record.disclosures)["openings"]]


class Evidence:
    """A connector's evidence: kept in its store, delivered to its witnesses."""

    def __init__(self, store: Store, witnesses: Mapping[str, Witness]) -> None:
        self._store, self._witnesses = store, witnesses
        self._uncosigned: set[str] = set()  # witnesses whose last proof lacked the demanded cosignatures
        self._wake, self._stop = threading.Event(), threading.Event()
        self._moved, self._moves = threading.Condition(), 0  # deliveries tried so far
        self._owed: deque[Callable[[], object]] = deque()  # what the state had no room for when it happened
        self._courier = threading.Thread(target=self._run, name="evidence", daemon=True)

    @property
    def witnesses(self) -> tuple[str, ...]:
        """The witnesses this connector submits to."""
        return tuple(self._witnesses)

    # --- keeping --------------------------------------------------------------------------------------

    def is_open(self, exchange: str) -> bool:
        """Whether the exchange has no outcome yet."""
        found = self._store.exchange(exchange)
        return found is not None and found.status == "open"

    def following(self, exchange: str) -> tuple[int, str | None]:
        """Sequence and predecessor of an exchange's next record.

        By what is kept: a connection that breaks during a commit does not say whether it was one.
        """
        kept = self._store.evidence(exchange)
        return len(kept), kept[-1].digest if kept else None

    def keep(
        self,
        exchange: str,
        sealed: Sealed,
        envelope: dsse.Envelope,
        status: str | None = None,
        openings: Sequence[Opening] = (),
    ) -> None:
        """Keep a record for ever and put it into the outbox; `status` ends the exchange with it.

        `openings` of its commitments are kept beside the disclosures, for a receipt that shows them.
        """
        record = sealed.record
        private = {
            "disclosures": [d.encode() for d in sealed.disclosures],
            "openings": [o.to_json() for o in openings],
        }
        with self._store.atomic():
            self._store.add_evidence(
                exchange,
                record.exchange.sequence,
                record.event,
                sealed.digest,
                envelope.to_bytes(),
                canonical.serialise(private),
                self.witnesses,
            )
            if status is not None:
                self._store.close_exchange(exchange, status)
        self._store.after_commit(self.wake)  # woken before, the courier would find nothing, and sleep

    def in_the_end(self, write: Callable[[], object]) -> None:
        """Write how something ended now or, while the state cannot be written, as soon as it can.

        What is owed is written in its order. If the process dies first, the next start records it.
        """
        if not self._owed:
            try:
                write()
            except Unavailable:  # a full disk, say
                pass
            else:
                return
        self._owed.append(write)
        self.wake()

    # --- delivering -----------------------------------------------------------------------------------

    def witnessed(self, exchange: str, sequence: int, minimum: int) -> bytes:
        """Deliver one record now. Returns the proofs by witness id, for the peer.

        Raises `Unavailable` when fewer than `minimum` witnesses have recorded it.
        """
        for item in self._store.receipts(exchange):
            if item.sequence == sequence and item.status != "delivered":
                self._deliver(item, patient=minimum > 0)
        proofs = {
            item.witness: item.proof.decode()
            for item in self._store.receipts(exchange)
            if item.sequence == sequence and item.proof is not None
        }
        if len(proofs) < minimum:
            raise _too_few(minimum, len(proofs), uncosigned=bool(self._uncosigned))
        return canonical.serialise(proofs)

    def proven(self, exchange: str, sequence: int, proofs: bytes, minimum: int) -> None:
        """Check the proofs the owner sent for a record that we hold too. Raises unless enough hold."""
        delivery = self._delivery(exchange, sequence)
        held, uncosigned = 0, False
        for name, proof in self._parsed(proofs).items():
            witness = self._witnesses.get(name)
            if witness is None:
                continue  # not a witness that we know: its word does not count for us
            policy = (witness.quorum or Policy(())).of_logs(witness.logs)
            try:
                place = check_inclusion(proof, delivery.envelope, policy, required_of(policy))
            except VerificationFailed as error:
                if error.code == "quorum":  # the peer demands fewer cosignatures than we do: no fault of its
                    uncosigned = True
                    continue
                raise PeerViolation("peer.proof", "the witness's proof of the intent does not hold") from None
            if place.leaf.tag != delivery.tag:  # nobody would find the leaf by the exchange's key
                raise PeerViolation("peer.proof", "the intent is recorded under another tag than agreed")
            self._store.mark_delivered(exchange, sequence, name, place.index, proof.encode())
            held += 1
        if held < minimum:
            raise _too_few(minimum, held, uncosigned=uncosigned)

    def receipt(self, origin: str, envelope: bytes) -> tuple[str, bytes]:
        """A fresh proof of a recorded envelope and its COSE receipt, from the witness that runs this log.

        Raises `Unavailable` when that is none of ours, or does not answer.
        """
        for witness in self._witnesses.values():
            if any(parse_vkey(text).name == origin for text in witness.logs):
                try:
                    return witness.client.receipt(envelope)
                except (WitnessUnavailable, WitnessRejected, WitnessDishonest) as error:
                    raise Unavailable("witness.unavailable", f"no receipt: {error}") from None
        raise Unavailable("witness.other", "the receipt is of a log of no witness that is configured here")

    def settle(self, exchange: str, seconds: float, now: Callable[[], float] = time.monotonic) -> bool:
        """Wait until every record of the exchange is delivered, at most `seconds`; whether it is."""
        deadline = now() + seconds
        self.wake()
        seen = self._moves  # before looking: a delivery meanwhile is not waited for
        while any(item.status == "pending" for item in self._store.receipts(exchange)):
            if now() > deadline:
                return False
            with self._moved:
                self._moved.wait_for(lambda: self._moves != seen, 0.02)  # noqa: B023  called before the next turn
            seen = self._moves
        return True

    def wake(self) -> None:
        """There may be something to deliver."""
        self._wake.set()

    def start(self) -> None:
        """Begin delivering in the background; what a witness refused before is tried once more."""
        self._store.requeue()
        self._courier.start()

    def close(self) -> None:
        """Stop delivering; what is left waits in the outbox."""
        self._stop.set()
        self._wake.set()
        if self._courier.is_alive():
            self._courier.join(timeout=5)
        for witness in self._witnesses.values():
            witness.client.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                left = self._round()
            except Exception as error:  # noqa: BLE001  a full disk, say: without its courier nothing is delivered
                _log.error("evidence cannot be delivered now: %s", type(error).__name__)
                left = True
            self._wake.wait(RETRY_SECONDS if left else IDLE_SECONDS)

    def _round(self) -> bool:
        """Try everything once; whether something is left to try again."""
        self._write_owed()
        silent: set[str] = set()
        for item in self._store.outbox():
            if self._stop.is_set():
                return False
            if item.witness not in silent and not self._deliver(item, patient=False):
                silent.add(item.witness)
            with self._moved:
                self._moves += 1
                self._moved.notify_all()
        return bool(self._store.outbox())

    def _write_owed(self) -> None:
        """Raises `Unavailable` while the state still cannot be written."""
        while self._owed:
            try:
                self._owed[0]()
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001  one that can never be written must not stop the others
                _log.error("an end is not on record until the next start: %s", type(error).__name__)
            self._owed.popleft()

    def _deliver(self, item: OutboxRecord, *, patient: bool) -> bool:
        """Try to deliver one record; whether its witness answered at all. Who waits for it is patient."""
        witness = self._witnesses.get(item.witness)
        if witness is None:
            return False
        self._store.mark_attempt(item.exchange, item.sequence, item.witness)
        try:
            delivery = self._delivery(item.exchange, item.sequence)
        except Unavailable:  # erased before it was delivered: there is nothing left to deliver
            self._store.mark_rejected(item.exchange, item.sequence, item.witness)
            return True
        self._uncosigned.discard(item.witness)
        try:
            recorded = witness.client.submit([(delivery.envelope, delivery.tag)], patient=patient)[0]
            if recorded.rejection is not None:
                raise recorded.rejection
            proof = witness.client.await_proof(delivery.envelope, delivery.tag, patient=patient)
        except (WitnessUnavailable, WitnessRejected, WitnessDishonest) as error:
            if isinstance(error, Uncosigned):
                self._uncosigned.add(item.witness)
            if item.attempts < MOST_ATTEMPTS_LOGGED:
                why = error.reason if isinstance(error, WitnessRejected) else type(error).__name__
                _log.warning("evidence of exchange %s is not recorded yet: %s", item.exchange, why)
            if isinstance(error, WitnessRejected) and error.reason not in PASSING:
                self._store.mark_rejected(item.exchange, item.sequence, item.witness)
            return not isinstance(error, WitnessUnavailable)
        index = parse_proof(proof).index
        self._store.mark_delivered(item.exchange, item.sequence, item.witness, index, proof.encode())
        return True

    def _delivery(self, exchange: str, sequence: int) -> Delivery:
        found: ExchangeRecord | None = self._store.exchange(exchange)
        kept: EvidenceRecord = next(e for e in self._store.evidence(exchange) if e.sequence == sequence)
        if found is None or kept.envelope is None:
            raise Unavailable("evidence.erased", "the record has been erased and cannot be delivered again")
        author = Record.parse(dsse.parse(kept.envelope).payload).author
        return Delivery(kept.envelope, exchange_tag(found.key, sequence, author))

    @staticmethod
    def _parsed(proofs: bytes) -> dict[str, str]:
        try:
            value = json.loads(proofs)
            return {str(k): str(v) for k, v in value.items()}
        except (ValueError, AttributeError):
            raise PeerViolation("peer.malformed", "the peer sent proofs that cannot be read") from None


def _too_few(minimum: int, found: int, *, uncosigned: bool) -> Unavailable:
    said = f"the policy demands {minimum} witness(es) and {found} recorded the exchange"
    if uncosigned:  # the log's operator or ours demands them
        return Unavailable("witness.quorum", f"{said} with the cosignatures that are demanded")
    return Unavailable("witness.unavailable", said)
