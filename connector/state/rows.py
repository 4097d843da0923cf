"""The rows of a connector's state, as frozen values. What is secret in one does not print."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """One version of a registered table. `master_salt` opens its commitment and never leaves."""

    name: str
    version: int
    source: str  # JSON of the source specification, without credentials
    entry: bytes  # canonical JSON: the description that offers publish
    commitment: str
    master_salt: bytes
    rows: int
    at: str

    def __repr__(self) -> str:
        return f"DatasetRecord({self.name!r}, version={self.version})"


@dataclass(frozen=True, slots=True)
class OfferRecord:
    """One version of an offer: a dataset version under a policy."""

    name: str
    version: int
    dataset: str
    dataset_version: int
    entry: bytes  # canonical JSON of the catalogue entry, as peers see it
    policy: bytes  # canonical form, which `policy_digest` is over
    policy_text: str  # the owner's YAML
    policy_digest: str
    withdrawn: bool
    at: str


@dataclass(frozen=True, slots=True)
class NegotiationRecord:
    """One contract negotiation, in a state of the Dataspace Protocol."""

    id: str
    role: str  # "provider" | "consumer"
    peer: str
    offer: str
    policy_digest: str
    state: str
    document: bytes | None  # the agreement under negotiation
    evidence: bytes | None  # the record exchanged so far
    agreement: str | None
    code: str | None  # why it was terminated
    at: str


@dataclass(frozen=True, slots=True)
class ProposalRecord:
    """Terms that one side put on the table of a negotiation."""

    negotiation: str
    sequence: int
    author: str  # "provider" | "consumer"
    policy_digest: str
    document: bytes
    published: bool  # the offer's own terms
    at: str


@dataclass(frozen=True, slots=True)
class UnsentRecord:
    """A message of a negotiation that the other side did not confirm yet."""

    negotiation: str
    method: str
    body: bytes
    at: str


@dataclass(frozen=True, slots=True)
class AgreementRecord:
    """A signed agreement. `state` is active, suspended or terminated; that it ran out its policy says."""

    id: str
    role: str
    peer: str
    offer: str
    document: bytes
    digest: str
    state: str
    at: str


@dataclass(frozen=True, slots=True)
class ChargeRecord:
    """What one exchange was charged under its agreement; at the asker: what the owner may charge for it."""

    exchange: str
    agreement: str
    clock: int  # the owner's, ms since 1970, as the intent states it
    rows: int
    bytes: int
    loss: int  # billionths of rho


@dataclass(frozen=True, slots=True)
class RunningRecord:
    """A query that is running now."""

    query: str
    agreement: str
    at: str


@dataclass(frozen=True, slots=True)
class ComparedRecord:
    """What one query was about, as the differencing guard compares it with later ones."""

    ledger: str
    exchange: str
    layout: str  # digest of the columns that rows were named by
    asker_side: str  # digest of what the asker brought and did to its own data; "": nothing
    cells: bytes
    at: str

    def __repr__(self) -> str:
        return f"ComparedRecord({self.exchange!r})"


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """What left in answer to a question, for when it is asked again. An asker keeps no `body`."""

    question: str
    agreement: str
    exchange: str
    digest: str  # of the release record
    body: bytes
    released: int
    suppressed: int
    size: int
    until: str | None  # when it is deleted; None: when the agreement is terminated
    at: str

    def __repr__(self) -> str:
        return f"AnswerRecord({self.exchange!r})"


@dataclass(frozen=True, slots=True)
class ExchangeRecord:
    """One exchange with a peer: what its evidence records hang on."""

    id: str
    agreement: str | None
    peer: str
    role: str
    kind: str
    trace_id: str
    key: bytes  # finds the exchange's leaves in a public log; shown to nobody else
    status: str  # "open" | "released" | "refused" | "failed" | ...
    at: str

    def __repr__(self) -> str:
        return f"ExchangeRecord({self.id!r}, status={self.status!r})"


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """One evidence record of an exchange. `envelope` and `disclosures` are None once erased."""

    exchange: str
    sequence: int
    event: str
    digest: str
    envelope: bytes | None
    disclosures: bytes | None
    at: str


@dataclass(frozen=True, slots=True)
class OutboxRecord:
    """What one witness has still to be told, or has confirmed: `index` and `proof` once delivered."""

    exchange: str
    sequence: int
    witness: str
    status: str  # "pending" | "delivered" | "rejected": refused for good
    attempts: int
    index: int | None
    proof: bytes | None
    at: str
