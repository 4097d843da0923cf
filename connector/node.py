"""One connector's standing facilities: who it is, what it knows, what it has agreed, what it can compute.

Sessions and services ask the node; only the node touches configuration, store, engine, clock and the
operating system's generator. Refuses work under an agreement that is not in force.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa

from compute import local
from compute.dataset import DatasetInfo
from compute.engine import Limits
from compute.errors import ConfigError, PeerViolation, PolicyRefusal, Unavailable
from compute.facts import Prepared
from compute.inputs import LocalInput
from compute.members import Membership
from connector import datasets, references, transfer_lists
from connector.config import ConnectorConfig
from connector.contract import Agreement
from connector.differencing import Guard, asker_side_of, layout_of
from connector.enrolment import Members
from connector.evidence import Evidence, Witness, checked_quorum, demanded_quorum
from connector.identity import (
    channel_credentials,
    channel_options,
    load_signing_keys,
    peer_participant,
    utc_now,
)
from connector.peers import RECONNECTING, Peers
from connector.records import Statement, countersigned
from connector.state.rows import AgreementRecord, NegotiationRecord, OfferRecord
from connector.stopping import Stop, Stops
from connector.storage import Store
from connector.telemetry import Telemetry
from connector.terms import Terms, milliseconds, moment
from connector.v1 import catalog_pb2, catalog_pb2_grpc
from policy_enforcer import odrl
from policy_enforcer.decide import decide, overspent
from policy_enforcer.facts import Decision, LedgerView, Reason, Request
from policy_enforcer.model import Policy
from policy_enforcer.moments import Period, period_start
from policy_enforcer.obligations import NOTHING_DEMANDED, obligations
from policy_enforcer.privacy import billionths
from policy_enforcer.problems import PolicyError
from witness import dsse
from witness.client import WitnessClient
from witness.encoding import Entropy, system_entropy
from witness.keys import PrivateKeys, PublicKeys
from witness.members import MemberList
from witness.record import Data, Exchange, Outcome, Record, Sensitive
from witness.schema import TEXT

UNLIMITED = 2**62
CROWDED = "uses.concurrent"
SHOWN_SECONDS = 0.02
"""How old a catalogue may be when it is shown: asked two thousand times a second, it is read fifty times."""


@dataclass(frozen=True)
class Offered:
    """An offer as its catalogue entry describes it."""

    name: str
    participant: str
    dataset: DatasetInfo
    policy: Policy
    entry: bytes
    policy_text: str
    documents: Mapping[str, str] = field(default_factory=dict)  # what the policy names by digest

    @cached_property
    def policy_digest(self) -> bytes:
        """SHA-256 over the policy's canonical form."""
        return odrl.digest(self.policy)

    @cached_property
    def message(self) -> catalog_pb2.Offer:
        """The offer as the catalogue sends it."""
        return catalog_pb2.Offer(
            participant=self.participant,
            name=self.name,
            dataset=self.entry,
            policy=odrl.canonical(self.policy),
            policy_digest=self.policy_digest,
            policy_text=self.policy_text,
        )


class Node:
    """A connector's facilities. Close it when done."""

    def __init__(self, config: ConnectorConfig) -> None:
        self.config = config
        self.space, self.id = config.space, config.participant
        self.key: PrivateKeys = load_signing_keys(config.evidence_key_path)
        self.build = build_digest()
        self.store = Store.open(config.state_url)
        self.entropy: Entropy = system_entropy
        self._parsed: dict[tuple[str, int], Offered] = {}
        self.stops = Stops()
        self._shown: tuple[float, list[Offered]] = (-SHOWN_SECONDS, [])  # our catalogue, and when it was read
        self._members, self._kept = Members(config.seat.trust), ""
        self.peers = Peers(config.tls, config.space, self._members.current)
        self.evidence = Evidence(self.store, self._witnesses())
        self.telemetry = Telemetry.open(config)

    def close(self) -> None:
        """Stop delivering evidence, close channels and state."""
        self.evidence.close()
        self.peers.close()
        self.telemetry.close()
        self.store.close()

    @staticmethod
    def now() -> datetime:
        """The time, with its zone."""
        return utc_now()

    def recover(self) -> None:
        """At start-up: queries of a process that died have failed, and evidence says so."""
        self.store.clear_running()
        self.store.forget_answers()
        for found in self.store.exchanges(status="open", kind="query"):
            self._died(found.id)

    def _died(self, exchange: str) -> None:
        kept = self.store.evidence(exchange)
        if not kept or kept[-1].envelope is None:
            self.store.close_exchange(exchange, "failed")  # nothing was agreed yet, so nothing is owed
            return
        last = Statement.of(Record.parse(dsse.parse(kept[-1].envelope).payload), Sensitive())
        statement = replace(
            last,
            event="query.failure",
            exchange=Exchange(exchange, *self.evidence.following(exchange)),
            parties=tuple(sorted(last.parties, key=lambda party: party.id != self.id)),
            outcome=Outcome("failed", "process.died"),
            data=Data(),
        )
        sealed = statement.seal(self.entropy)
        self.evidence.keep(exchange, sealed, countersigned(sealed, self.key, None, None), "failed")

    # --- members --------------------------------------------------------------------------------------

    @property
    def members(self) -> MemberList:
        """The member list in force; every list ever seen is kept, for the receipts of its time."""
        members = self._members.current()
        if members.digest != self._kept:
            envelope = self.config.members_path.read_bytes()
            self.store.keep_members(members.digest, members.version, envelope)
            self._kept = members.digest
        return members

    def caller(self, context: grpc.ServicerContext) -> str:
        """The connector that calls. Raises `PeerViolation` for anybody who is not a member."""
        return peer_participant(context, self.space, self.members)

    def key_of(self, participant: str) -> PublicKeys:
        """The evidence keys a member signs with now. Raises `Unavailable` for a stranger."""
        member = self.members.participant(participant)
        now = milliseconds(self.now())
        valid = [key.public for key in member.keys if key.valid_at(now)] if member else []
        if not valid:
            raise Unavailable("peer.unknown", f"the member list names no valid key of {participant!r}")
        own = self.key.public
        if participant == self.id and set(own.keys) <= set(valid):
            return own
        return PublicKeys.of({key.algorithm: key for key in valid}.values())  # the newest of each

    def jurisdiction_of(self, participant: str) -> str:
        """Where a member computes and receives, as the space's operator certified it."""
        member = self.members.participant(participant)
        if member is None:
            raise Unavailable("peer.unknown", f"the member list names no participant {participant!r}")
        return member.jurisdiction

    def claims_of(self, participant: str) -> tuple[str, ...]:
        """What the space's operator certifies of a member: `role:bank`, `claim:iso-27001`."""
        member = self.members.participant(participant)
        return () if member is None else member.claims

    def _witnesses(self) -> dict[str, Witness]:
        found, demanded = {}, demanded_quorum(self.config)
        for configured in self.config.witness:
            member = self.members.participant(configured.id)
            if member is None or not member.logs:
                raise ConfigError("witness.unknown", f"the member list names no witness {configured.id!r}")
            quorum = checked_quorum(demanded, configured.id, member.logs)
            client = WitnessClient(
                configured.address or member.address,
                channel_credentials(self.config.tls),
                member.logs,
                (*channel_options(self.space, configured.id), *RECONNECTING),
                quorum=quorum,
            )
            found[configured.id] = Witness(client, member.logs, quorum)
        return found

    # --- offers and agreements ------------------------------------------------------------------------

    def own_offer(self, name: str) -> Offered:
        """One of our own offers. Raises `ConfigError` when there is none of that name."""
        record = self.store.offer(name)
        if record is None or record.withdrawn:
            raise ConfigError("offer.unknown", f"{self.id} offers nothing named {name!r}")
        return self._own(record)

    def _own(self, record: OfferRecord) -> Offered:
        """An offer's parsed form. A version never changes, so each is parsed once."""
        key = (record.name, record.version)
        if key not in self._parsed:
            entry = json.loads(record.entry)
            self._parsed[key] = Offered(
                name=record.name,
                participant=self.id,
                dataset=DatasetInfo.from_json(entry["dataset"]),
                policy=odrl.from_odrl(json.loads(record.policy)),
                entry=record.entry,
                policy_text=record.policy_text,
                documents=entry.get("documents", {}),
            )
        return self._parsed[key]

    def offers_of(self, participant: str) -> list[Offered]:
        """What a participant offers now, asked of its connector (or of our own store)."""
        if participant == self.id:
            return list(self._catalogue())
        stub = catalog_pb2_grpc.CatalogStub(self.peers.channel(participant))
        reply = self.peers.unary(participant, stub.ListOffers, catalog_pb2.ListOffersRequest())
        return [_offered(participant, offer) for offer in reply.offers]

    def _catalogue(self) -> list[Offered]:
        asked = time.monotonic()
        if asked - self._shown[0] >= SHOWN_SECONDS:
            self._shown = (asked, list(self._readable()))
        return self._shown[1]

    def _readable(self) -> Iterator[Offered]:
        """Our offers, but for those of an older version that this one refuses: our log names them."""
        for record in self.store.offers():
            with suppress(PolicyError, PeerViolation):
                yield self._own(record)

    def offer_of(self, participant: str, name: str) -> Offered:
        """One offer of a participant. Raises `ConfigError` when it offers nothing of that name."""
        found = next((o for o in self.offers_of(participant) if o.name == name), None)
        if found is None:
            raise ConfigError("offer.unknown", f"{participant} offers nothing named {name!r}")
        return found

    def agreement(self, digest: str, *, role: str, peer: str) -> Agreement:
        """The agreement, when it is in force between us and `peer`. Raises `PolicyRefusal`."""
        record = self._agreement_record(digest, role, peer)
        if record.state != "active":
            raise _not_in_force(record.state)
        return _agreement(record.document)

    def known_agreement(self, digest: str, *, role: str, peer: str) -> Agreement:
        """The agreement between us and `peer`, in force or not. Raises `PolicyRefusal` without one."""
        return _agreement(self._agreement_record(digest, role, peer).document)

    def _agreement_record(self, digest: str, role: str, peer: str) -> AgreementRecord:
        record = self.store.agreement(digest)
        if record is None or (record.role, record.peer) != (role, peer):
            raise _refused("agreement.unknown", "there is no such agreement between these participants")
        return record

    def agreement_about(self, participant: str, offer: str) -> Agreement:
        """Our newest agreement in force about `participant.offer`. Raises `PolicyRefusal`.

        A renewal that was signed ahead of its time does not replace what runs until then.
        """
        found = [_agreement(record.document) for record in self._held(participant, offer, "active")]
        if not found and self._held(participant, offer, "suspended"):
            raise _not_in_force("suspended")
        if not found:
            raise _refused(
                "agreement.none",
                f"{self.id} has no agreement in force about {participant}.{offer}",
                allowed=f"bayspace contract request {participant}.{offer}",
            )
        now = self.now()
        return next((a for a in reversed(found) if a.runs_at(now)), found[-1])

    def _held(self, participant: str, offer: str, state: str) -> list[AgreementRecord]:
        held = self.store.agreements(role="consumer", state=state)
        return [record for record in held if (record.peer, record.offer) == (participant, offer)]

    def agreements_in_force(self) -> list[Agreement]:
        """Those under which we may ask, from the oldest."""
        records = self.store.agreements(role="consumer", state="active")
        return [_agreement(record.document) for record in records]

    def standing(self, record: AgreementRecord) -> str:
        """active, suspended or terminated; or expired: not terminated, but its policy's time is over.

        As it is kept, where a newer version of us does not read the agreement any more.
        """
        if record.state == "terminated":
            return record.state
        try:
            ends = _agreement(record.document).ends
        except PeerViolation:
            return record.state
        return "expired" if ends is not None and ends <= self.now() else record.state

    def contract_json(self, record: NegotiationRecord) -> dict[str, Any]:
        """A contract as the command line shows it."""
        agreement = self.store.agreement(record.agreement) if record.agreement else None
        standing = None if agreement is None else self.standing(agreement)
        return {
            "negotiation": record.id,
            "agreement": record.agreement,
            "role": record.role,
            "peer": record.peer,
            "offer": record.offer,
            "state": record.state,
            "in_force": standing == "active",
            "agreement_state": standing,
            "policy_digest": record.policy_digest,
            "code": record.code,
            "at": record.at,
        }

    # --- deciding and charging ------------------------------------------------------------------------

    def decide(
        self,
        policy: Policy,
        request: Request,
        agreement: Agreement | None,
        *,
        answered: bool = False,
    ) -> Decision:
        """Judge one request with what member list and ledger say of its parties and agreement now.

        `answered`: the same question was answered before, and the same answer is given.
        """
        others = request.federation.others if request.federation is not None else ()
        who = {request.asker, *request.recipients, *others}
        found = {id_: self.members.participant(id_) for id_ in who}
        standing = {id_: frozenset(member.claims) for id_, member in found.items() if member is not None}
        named = agreement.documents if agreement is not None else {}
        request = replace(
            request,
            standing=standing,
            connectors={
                id_: frozenset(key.id for key in member.keys if key.valid_at(milliseconds(request.at)))
                for id_, member in found.items()
                if member is not None
            },
            origin=self.jurisdiction_of(policy.owner),
            lists=transfer_lists.stated(policy, named, self.members),
        )
        view = LedgerView()
        if agreement is not None:
            used = self.store.used(agreement.digest, _period(policy, request.at))
            # the query that is being judged is registered as running already
            running = max(0, len(self.store.running(agreement.digest)) - 1)
            loss, dataset_loss = self.losses_of(agreement, request.at)
            view = LedgerView(
                used,
                running,
                moment(agreement.agreed_at),
                loss,
                dataset_loss,
                self.rows_of(agreement, request.at),
                self.bytes_of(agreement, request.at),
                answered,
            )
        return decide(policy, request, view)

    def untimely(self, request: Request, agreement: Agreement) -> tuple[Reason, ...]:
        """Why the agreement's time is over, or has not begun. Asked at every frame: no ledger is read."""
        judged = decide(agreement.policy, request, LedgerView(agreed=moment(agreement.agreed_at)))
        return tuple(reason for reason in judged.because if reason.code.startswith("time."))

    def uses_of(self, agreement: Agreement) -> int:
        """Uses of an agreement in the current period: what was charged; as asker, what we signed for."""
        if agreement.provider == self.id:
            return self.store.used(agreement.digest, _period(agreement.policy, self.now()))
        uses = agreement.policy.uses
        start = period_start(uses.per, self.now()) if uses is not None else None
        since = 0 if start is None else milliseconds(start)
        return self.store.count_charges(agreement.digest, since)

    def rows_of(self, agreement: Agreement, at: datetime) -> int:
        """Rows that an agreement's queries may have answered in the period of `at`."""
        return self.store.lost(f"rows {agreement.digest}", _period(agreement.policy, at))

    def bytes_of(self, agreement: Agreement, at: datetime) -> int:
        """Bytes that an agreement's queries may have answered in the period of `at`."""
        return self.store.lost(f"bytes {agreement.digest}", _period(agreement.policy, at))

    def _charge_size(self, agreement: Agreement, code: str, size: int, limit: int | None) -> None:
        """Count the rows or bytes that a query may answer."""
        if limit is None:
            return
        what, period = code.split(".")[0], _period(agreement.policy, self.now())
        if not self.store.lose(f"{what} {agreement.digest}", period, size, limit):
            left = max(0, limit - self.store.lost(f"{what} {agreement.digest}", period))
            sentence = f"this query may answer {size} {what}, and {left} are left"
            raise _refused(code, sentence, rule=f"uses.{what}")

    def charge(self, agreement: Agreement, rows: int, size: int, *, again: bool = False) -> None:
        """Count one use, the rows and bytes it may answer, and what its noise costs; never refunded.

        `again`: an answer that was given is given once more, which costs no privacy. Raises `PolicyRefusal`
        when too little is left. Inside a transaction: what is refused charges nothing.
        """
        uses = agreement.policy.uses
        self._charge_size(agreement, "rows.exhausted", rows, uses.rows if uses is not None else None)
        self._charge_size(agreement, "bytes.exhausted", size, uses.bytes if uses is not None else None)
        limit = uses.count if uses is not None and uses.count is not None else UNLIMITED
        if not self.store.charge(agreement.digest, _period(agreement.policy, self.now()), limit):
            raise _refused("uses.exhausted", "no use is left", rule="uses.count")
        if again:
            return
        loss, dataset_loss = self.losses_of(agreement, self.now())
        if not self._lose(agreement, limited=True):
            over = tuple(overspent(agreement.policy, LedgerView(loss=loss, dataset_loss=dataset_loss)))
            raise PolicyRefusal(Decision(over)) if over else _refused("budget.exhausted", "nothing is left")

    def check_uncharged(self, peer: str, agreement: Agreement) -> None:
        """Raise `Unavailable` when as many of a peer's queries as may ended today before they were charged.

        What is refused costs the peer nothing, and is on record here and at the witnesses for ever. Those
        that only came while too many ran keep it out no longer than too many run.
        """
        most = self.config.limits.uncharged_queries_per_day
        if self.store.lost(*self._uncharged(peer, "")) >= most:
            sentence = f"{most} queries of {peer} were refused or broke off here today (UTC): no more today"
            raise Unavailable("query.too-many", sentence)
        if self.store.lost(*self._uncharged(peer, CROWDED)) >= most and self._crowded(agreement):
            raise Unavailable("query.too-many", "too many queries are running: ask again when one has ended")

    def note_uncharged(self, peer: str, code: str) -> None:
        """Count a query that ended with this code before it was charged."""
        self.store.lose(*self._uncharged(peer, code), 1, UNLIMITED)

    def _uncharged(self, peer: str, code: str) -> tuple[str, str]:
        counted = "crowded" if code == CROWDED else "uncharged"
        return f"{counted} {peer}", _named_period("day", self.now())

    def _crowded(self, agreement: Agreement) -> bool:
        most, total = self._most_running(agreement)
        return len(self.store.running(agreement.digest)) >= most or len(self.store.running()) >= total

    def _most_running(self, agreement: Agreement) -> tuple[int, int]:
        """At once, under the agreement and in all."""
        uses = agreement.policy.uses
        most = uses.max_concurrent if uses is not None and uses.max_concurrent is not None else UNLIMITED
        return most, self.config.limits.maximum_joint_queries

    def note_loss(self, agreement: Agreement) -> None:
        """The asker's own account of what its query cost; the owner's is the one that counts."""
        self._lose(agreement, limited=False)

    def losses_of(self, agreement: Agreement, at: datetime) -> tuple[int, int]:
        """Privacy lost by the agreement in its budget's period, and by the dataset for ever (billionths)."""
        noise = agreement.policy.analysis.noise
        if noise is None:
            return 0, 0
        period = _named_period(noise.budget.per, at)
        lost = self.store.lost(f"agreement {agreement.digest}", period)
        return lost, self.store.lost(self._dataset_ledger(agreement), "dataset")

    def _lose(self, agreement: Agreement, *, limited: bool) -> bool:
        """Charge both ledgers; False when either budget does not suffice. Inside the charge's transaction."""
        noise = agreement.policy.analysis.noise
        if noise is None:
            return True
        cost, total = billionths(noise.rho_per_query), noise.dataset_budget
        period = _named_period(noise.budget.per, self.now())
        own = billionths(noise.budget.rho) if limited else UNLIMITED
        most = billionths(total.rho) if limited and total is not None else UNLIMITED
        return self.store.lose(f"agreement {agreement.digest}", period, cost, own) and self.store.lose(
            self._dataset_ledger(agreement), "dataset", cost, most
        )

    def _dataset_ledger(self, agreement: Agreement) -> str:
        """Whose lifetime an agreement counts on: our table, whatever offers it has, or a peer's offer."""
        if agreement.provider != self.id:
            return f"offer {agreement.full_name}"
        offer = self.store.offer(agreement.full_name.split(".", 1)[1])
        if offer is None:
            raise _refused("agreement.unknown", "the dataset of this agreement is no longer registered")
        return f"dataset {offer.dataset}"

    @contextmanager
    def running(self, exchange: str, agreement: Agreement, stop: Stop) -> Iterator[None]:
        """Register a query of a peer's as running. Raises `PolicyRefusal` when too many run already."""
        if not self.store.start_query(exchange, agreement.digest, *self._most_running(agreement)):
            raise _refused(CROWDED, "too many queries are running", rule="uses.max_concurrent")
        ends = agreement.ends
        late = None if ends is None else (ends - self.now()).total_seconds()
        try:
            with self.stops.held(exchange, agreement.digest, stop, late):
                yield
        finally:
            self.evidence.in_the_end(lambda: self.store.finish_query(exchange))

    def stoppable(self, exchange: str, agreement: Agreement, stop: Stop) -> AbstractContextManager[None]:
        """While inside, our query is stopped when its agreement is ended or suspended, or our people say so.

        Its owner's clock stops it when its time is over, and says so: ours would only hang up.
        """
        return self.stops.held(exchange, agreement.digest, stop)

    def stop_queries(self, agreement: str) -> None:
        """End what runs here under an agreement that is not in force any more, as asker or as owner."""
        found = self.store.agreement(agreement)
        if found is not None and found.state != "active":
            self.stops.end_agreement(agreement, partial(_not_in_force, found.state))

    # --- computing ------------------------------------------------------------------------------------

    def own_input(
        self, prepared: Prepared, dataset: str, agreement: Agreement | None, interrupt: threading.Event
    ) -> LocalInput | pa.Table:
        """Our own local part of a plan over our dataset `dataset` (the offer's full name).

        Under an agreement it is the content that the agreement commits to, counted as its policy says.
        """
        plan = prepared.plan
        side = plan.sender if plan.federation or plan.sender.dataset == dataset else plan.receiver
        if side is None:
            raise AssertionError("a plan without a side for its dataset")
        committed = agreement.dataset.commitment if agreement is not None else None
        agreed = agreement.policy if agreement is not None else None
        published = datasets.open_offer(self.config, self.store, dataset.split(".", 1)[1], committed, agreed)
        limits = Limits(self.config.limits.threads, self.config.limits.memory_mib << 20, stop=interrupt)
        # bounds and all else as agreed: the offer's policy may be another by now, or always have been
        described = agreement.dataset if agreement is not None else published.dataset
        if plan.receiver is None:
            policy = agreement.policy if agreement is not None else published.policy
            demands = replace(obligations(policy), mask_salt=self._mask_salt(published, agreement))
            if plan.logistic is not None:
                return local.observations(side, plan.logistic, described, demands, published.source, limits)
            return local.aggregate(side, described, demands, published.source, limits)
        demands = NOTHING_DEMANDED
        if agreement is not None:
            demands = obligations(agreement.policy)
            demands = replace(demands, mask_salt=self._mask_salt(published, agreement))
        part = local.row_input if plan.kind == "list" else local.join_input
        return part(side, described, published.source, limits, demands)

    def check_offer(self, agreement: Agreement) -> None:
        """Raise unless our offer still stands over the content that the agreement commits to."""
        name, committed = agreement.full_name.split(".", 1)[1], agreement.dataset.commitment
        datasets.open_offer(self.config, self.store, name, committed, agreement.policy)

    def membership(self, prepared: Prepared, agreement: Agreement, interrupt: threading.Event) -> Membership:
        """Who stands behind each cell of our side of a plan."""
        name, committed = agreement.full_name.split(".", 1)[1], agreement.dataset.commitment
        published = datasets.open_offer(self.config, self.store, name, committed, agreement.policy)
        demands = replace(obligations(agreement.policy), mask_salt=self._mask_salt(published, agreement))
        limits = Limits(self.config.limits.threads, self.config.limits.memory_mib << 20, stop=interrupt)
        first = self.store.dataset(published.record.dataset, 1)  # its salt names rows over all versions
        if first is None:
            raise AssertionError("a dataset without its first version")
        key = hmac.digest(first.master_salt, b"bayspace members v1", "sha256")
        side = prepared.plan.sender
        return local.membership(side, agreement.dataset, demands, published.source, limits, key)

    def guard(self, terms: Terms) -> Guard | None:
        """The differencing guard of a query, where its policy has one and no noise that does its work."""
        analysis = terms.agreement.policy.analysis
        if analysis.differencing is None or analysis.noise is not None:
            return None
        if terms.plan is None:
            raise AssertionError("a query that runs has a plan")
        return Guard(
            store=self.store,
            rule=analysis.differencing,
            table=self._dataset_ledger(terms.agreement),
            who_asks=terms.asker.id,
            exchange=terms.opening.exchange,
            layout=layout_of(terms.agreement.dataset),
            asker_side=asker_side_of(terms.plan, terms.opening.dataset),
            now=self.now(),
        )

    def _mask_salt(self, published: datasets.Published, agreement: Agreement | None) -> bytes:
        """What hash masks are salted with: one salt for each agreement, which nobody else can compute."""
        record = self.store.dataset(published.record.dataset, published.record.dataset_version)
        if record is None or agreement is None:
            return b""  # a hash mask without a salt is refused where it is made
        label = b"bayspace mask v1\0" + bytes.fromhex(agreement.digest)
        return hmac.digest(record.master_salt, label, "sha256")


@lru_cache(maxsize=256)
def _agreement(document: bytes) -> Agreement:
    """An agreement parsed once: its bytes never change, and a running query asks for it at every frame."""
    return Agreement.parse(document)


@cache
def build_digest() -> str:
    """SHA-256 over the program's own files, in hexadecimal: which build signed a record.

    As they are when it is first asked for: what runs is what was loaded then.
    """
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for package in ("compute", "connector", "policy_enforcer", "witness"):
        for path in sorted((root / package).rglob("*")):
            if path.suffix in {".py", ".so", ".pyd"} and path.is_file():
                name = path.relative_to(root).as_posix().encode()
                digest.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _offered(participant: str, offer: catalog_pb2.Offer) -> Offered:
    try:
        policy = odrl.from_odrl(json.loads(offer.policy))
        entry = json.loads(offer.dataset)
        dataset = DatasetInfo.from_json(entry["dataset"])
        _check_shown(entry)
        documents = references.checked(policy, dict(entry.get("documents", {})))
    except (ValueError, KeyError, TypeError, AttributeError, PolicyError, RecursionError, ConfigError):
        raise PeerViolation("peer.offer", f"{participant} sent an offer that cannot be read") from None
    if dataset.full_name != f"{participant}.{offer.name}" or policy.dataset != dataset.full_name:
        raise PeerViolation("peer.offer", f"{participant} sent an offer of something else")
    return Offered(
        offer.name, participant, dataset, policy, bytes(offer.dataset), offer.policy_text, documents
    )


def _check_shown(entry: Any) -> None:
    """What of an entry is shown to people has the form they are shown. Raises ValueError or TypeError."""
    title, holder, fresh = entry["title"], entry["rights"]["holder"], entry["fresh"]
    words = (title["en"], title["zh"], holder, fresh or "")
    if not all(isinstance(word, str) and (not word or TEXT.fullmatch(word)) for word in words):
        raise ValueError("an entry's words are not short texts")


def _period(policy: Policy, at: datetime) -> str:
    return _named_period(policy.uses.per if policy.uses is not None else "agreement", at)


def _named_period(per: Period, at: datetime) -> str:
    start = period_start(per, at)
    return "agreement" if start is None else f"{per} {start.isoformat()}"


def _not_in_force(state: str) -> PolicyRefusal:
    return _refused(f"agreement.{state}", f"the agreement is {state}")


def _refused(code: str, sentence: str, rule: str = "agreement", allowed: str | None = None) -> PolicyRefusal:
    return PolicyRefusal(Decision((Reason(code, rule, sentence, allowed=allowed),)))
