"""Evidence record, version 1: what one step of an exchange was, signed by those who took part.

A record is canonical JSON inside a DSSE envelope. It holds digests and commitments only: no data, no key
values, no cell values. Sensitive claims (purpose, legal basis, budgets, sizes, correlation id) stand in it
as salted digests in the manner of RFC 9901, always SEALED_CLAIMS of them with decoys among them, so that
neither their values nor their presence shows until a party hands over the disclosure. Refuses unknown
fields, events, roles and claims: a later need is version 2.

INVARIANT: `Record.parse(payload).to_payload() == payload`. The form never changes.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from witness import canonical
from witness.encoding import EncodingError, Entropy, b64, b64url, system_entropy, unb64url
from witness.schema import (
    DATE,
    DECIMAL,
    HEX16,
    HEX32,
    ID,
    NAME,
    TEXT,
    TOKEN,
    Fields,
    FormatError,
    counts,
    mapping,
    matching,
    present,
    text_list,
    utc,
)

PAYLOAD_TYPE = "application/vnd.bayspace.evidence.v1+json"
FORMAT = "bayspace-evidence/v1"
SALT_SIZE = NONCE_SIZE = 32
SEALED_CLAIMS = 16
MOST_PARTIES = 64
LARGEST_PAYLOAD = 64 * 1024

# Events that all their parties sign. Every other event is its first party's own statement: one signature
# is whole, and a countersignature is welcome.
TWO_SIGNED = frozenset(
    {
        "contract.request",
        "contract.offer",
        "contract.acceptance",
        "contract.agreement",
        "contract.termination",
        "query.intent",
        "query.release",
        "usage.statement",
    }
)
ONE_SIGNED = frozenset(
    {
        "member-list",
        "offer",
        "query.refusal",
        "query.result",
        "query.failure",
        "policy.change",
        "key.rotation",
        "document.commitment",
        "document.verification",
    }
)
EVENTS = TWO_SIGNED | ONE_SIGNED
ROLES = frozenset(
    {"provider", "consumer", "contributor", "aggregator", "issuer", "holder", "verifier", "operator"}
)
STATUSES = frozenset({"done", "refused", "failed"})

# What an event must commit to; without it the record would prove nothing.
REQUIRED_COMMITMENTS: Mapping[str, frozenset[str]] = {
    "query.intent": frozenset({"query", "plan"}),
    "query.release": frozenset({"release"}),
    "query.result": frozenset({"result"}),
    "query.refusal": frozenset({"query"}),
    "usage.statement": frozenset({"statement"}),
    "document.commitment": frozenset({"document"}),
    "document.verification": frozenset({"document"}),
}
# 32 bytes in base64url: the last character carries four bits, so only sixteen are canonical.
_SEALED_CLAIM = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_SEALED_CLAIMS = re.compile(rf"({_SEALED_CLAIM.pattern},){{{SEALED_CLAIMS - 1}}}{_SEALED_CLAIM.pattern}")
_STATUS_OF = {"query.refusal": "refused", "query.failure": "failed"}


@dataclass(frozen=True)
class Party:
    """One participant of the event: its evidence keys (all must sign), software and clock (ms since 1970)."""

    id: str
    role: str
    keys: tuple[str, ...]
    build: str
    clock: int

    def to_json(self) -> dict[str, Any]:
        """The party as it stands in the payload."""
        return {
            "build": self.build,
            "clock": utc(self.clock),
            "id": self.id,
            "keys": list(self.keys),
            "role": self.role,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Party":
        """Reads what `to_json` writes. Raises FormatError."""
        with Fields(value, "party") as f:
            party = cls(
                id=f.text("id", ID),
                role=f.text("role", ID),
                keys=text_list(f.take("keys"), HEX32, "party.keys"),
                build=f.text("build", HEX32),
                clock=f.time("clock"),
            )
        if party.role not in ROLES:
            raise FormatError("party.role is not a role that this version knows")
        if not party.keys or list(party.keys) != sorted(set(party.keys)):
            raise FormatError("party.keys are not sorted, distinct and at least one")
        return party


@dataclass(frozen=True)
class Exchange:
    """The exchange (16 random bytes in hexadecimal), the event's place in it, its predecessor's digest."""

    id: str
    sequence: int
    previous: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The exchange as it stands in the payload."""
        return present({"id": self.id, "previous": self.previous, "sequence": self.sequence})

    @classmethod
    def from_json(cls, value: Any) -> "Exchange":
        """Reads what `to_json` writes. Raises FormatError."""
        with Fields(value, "exchange") as f:
            exchange = cls(
                id=f.text("id", HEX16),
                sequence=f.integer("sequence"),
                previous=f.optional("previous", lambda name: f.text(name, HEX32)),
            )
        if (exchange.sequence == 0) != (exchange.previous is None):
            raise FormatError("only the first record of an exchange has no predecessor")
        return exchange


@dataclass(frozen=True)
class Contract:
    """Digest and version of the policy, and of the agreement where there is one yet."""

    policy: str
    version: str
    agreement: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The contract as it stands in the payload."""
        return present({"agreement": self.agreement, "policy": self.policy, "version": self.version})

    @classmethod
    def from_json(cls, value: Any) -> "Contract":
        """Reads what `to_json` writes. Raises FormatError."""
        with Fields(value, "contract") as f:
            return cls(
                policy=f.text("policy", HEX32),
                version=f.text("version", TOKEN),
                agreement=f.optional("agreement", lambda name: f.text(name, HEX32)),
            )


@dataclass(frozen=True)
class Dataset:
    """The salted Merkle root of a dataset's content version, and the participant that holds it."""

    holder: str
    commitment: str

    def to_json(self) -> dict[str, Any]:
        """The dataset as it stands in the payload."""
        return {"commitment": self.commitment, "holder": self.holder}

    @classmethod
    def from_json(cls, value: Any) -> "Dataset":
        """Reads what `to_json` writes. Raises FormatError."""
        with Fields(value, "dataset") as f:
            return cls(holder=f.text("holder", ID), commitment=f.text("commitment", HEX32))


@dataclass(frozen=True)
class Reveal:
    """A disclosure event of the protocol: which party learns what (the protocol's code for it)."""

    party: str
    what: str

    def to_json(self) -> dict[str, Any]:
        """The disclosure event as it stands in the payload."""
        return {"party": self.party, "what": self.what}

    @classmethod
    def from_json(cls, value: Any) -> "Reveal":
        """Reads what `to_json` writes. Raises FormatError."""
        with Fields(value, "reveal") as f:
            return cls(party=f.text("party", ID), what=f.text("what", TOKEN))


@dataclass(frozen=True)
class Data:
    """What the event was about, as commitments.

    `commitments` are values of `commit(name, salt, value)`: query, plan, release, result, masks, document,
    statement and whatever a later feature must commit to. `digests` are unsalted digests of bytes that
    nobody can guess, such as session and transcript.
    """

    datasets: tuple[Dataset, ...] = ()
    commitments: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    protocol: str | None = None
    reveals: tuple[Reveal, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The data section as it stands in the payload."""
        return present(
            {
                "commitments": dict(self.commitments),
                "datasets": [d.to_json() for d in self.datasets],
                "digests": dict(self.digests),
                "protocol": self.protocol,
                "reveals": [r.to_json() for r in self.reveals],
            }
        )

    @classmethod
    def from_json(cls, value: Any) -> "Data":
        """Reads what `to_json` writes. Raises FormatError."""
        with Fields(value, "data") as f:
            return cls(
                datasets=tuple(Dataset.from_json(d) for d in f.items("datasets")),
                commitments=mapping(f.take("commitments"), HEX32, "data.commitments"),
                digests=mapping(f.take("digests"), HEX32, "data.digests"),
                protocol=f.optional("protocol", lambda name: f.text(name, TOKEN)),
                reveals=tuple(Reveal.from_json(r) for r in f.items("reveals")),
            )


@dataclass(frozen=True)
class Outcome:
    """Whether it was done, refused or failed, and the stable code of the reason when it was not done."""

    status: str
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The outcome as it stands in the payload."""
        return present({"reason": self.reason, "status": self.status})

    @classmethod
    def from_json(cls, value: Any) -> "Outcome":
        """Reads what `to_json` writes. Raises FormatError."""
        with Fields(value, "outcome") as f:
            outcome = cls(
                status=f.text("status", ID),
                reason=f.optional("reason", lambda name: f.text(name, TOKEN)),
            )
        if outcome.status not in STATUSES:
            raise FormatError("outcome.status is not one that this version knows")
        if outcome.status != "done" and outcome.reason is None:
            raise FormatError("outcome lacks the reason")
        return outcome


@dataclass(frozen=True)
class Sensitive:
    """Claims that stand in the payload only as salted digests.

    They are what would tell the witness operator, or an auditor of something else, about the business:
    purpose and the legal block, sizes (`figures`, whole numbers), `budget` (decimal numbers as strings,
    since RFC 8785 floats are a trap) and the correlation id, which links to traces outside the evidence.
    None means not stated, and is invisible. Participant ids, event, contract digests and outcome stay
    open: signatures cannot be checked, nor exchanges supervised, without them.
    """

    correlation: str | None = None
    purpose: tuple[str, ...] | None = None
    data_categories: tuple[str, ...] | None = None
    recipient_categories: tuple[str, ...] | None = None
    source_jurisdictions: tuple[str, ...] | None = None
    destination_jurisdictions: tuple[str, ...] | None = None
    transfer_basis: str | None = None
    filing_number: str | None = None
    retain_until: str | None = None
    figures: Mapping[str, int] | None = None
    budget: Mapping[str, str] | None = None

    def claims(self) -> dict[str, Any]:
        """The stated claims by name, as JSON values. Raises FormatError for a value not of its form."""
        stated = present({f.name: getattr(self, f.name) for f in fields(self)})
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in stated.items()}
        return {name: _json(_claim(name, value)) for name, value in plain.items()}

    @classmethod
    def from_claims(cls, claims: Mapping[str, Any]) -> "Sensitive":
        """The disclosed claims; all others stay None. Raises FormatError."""
        return cls(**{name: _claim(name, value) for name, value in claims.items()})


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _claim(name: str, value: Any) -> Any:
    """The value of a sensitive claim, checked. Refuses names that version 1 does not have."""
    if name == "figures":
        return counts(value, name)
    if name == "budget":
        return mapping(value, DECIMAL, name)
    if name in _CLAIM_LISTS:
        return text_list(value, _CLAIM_LISTS[name], name)
    if name in _CLAIM_TEXTS:
        return matching(value, _CLAIM_TEXTS[name], name)
    raise FormatError("a disclosure names a claim that this version does not know")


_CLAIM_TEXTS = {"correlation": HEX16, "transfer_basis": TEXT, "filing_number": TEXT, "retain_until": DATE}
_CLAIM_LISTS = {
    "purpose": TEXT,
    "data_categories": TEXT,
    "recipient_categories": TEXT,
    "source_jurisdictions": TOKEN,
    "destination_jurisdictions": TOKEN,
}


@dataclass(frozen=True)
class Disclosure:
    """The opening of one sensitive claim: RFC 9901 section 4.2.1, `[salt, name, value]`."""

    salt: bytes = field(repr=False)
    name: str
    value: Any = field(repr=False)

    def encode(self) -> str:
        """base64url of the canonical JSON array."""
        return b64url(canonical.serialise([b64url(self.salt), self.name, self.value]))

    @property
    def digest(self) -> str:
        """What stands in `_sd`."""
        return disclosure_digest(self.encode())

    @classmethod
    def decode(cls, text: str) -> "Disclosure":
        """The disclosure with exactly this text. Raises FormatError."""
        try:
            value = canonical.parse(unb64url(text))
            if (
                not isinstance(value, list)
                or len(value) != 3
                or not all(isinstance(v, str) for v in value[:2])
            ):
                raise FormatError("a disclosure is not [salt, name, value]")
            salt = unb64url(value[0])
        except (canonical.CanonicalError, EncodingError) as error:
            raise FormatError(f"a disclosure is {error}") from error
        if len(salt) != SALT_SIZE:
            raise FormatError(f"a disclosure's salt is not {SALT_SIZE} bytes")
        return cls(salt, value[1], _json(_claim(value[1], value[2])))


def disclosure_digest(encoded: str) -> str:
    """base64url(SHA-256(ASCII(disclosure))), RFC 9901 section 4.2.3."""
    return b64url(hashlib.sha256(encoded.encode("ascii")).digest())


@dataclass(frozen=True)
class Record:
    """One event, as all its signers see it. `parties[0]` is the author.

    `members` is the digest of the member list under which the keys stand; `sealed` holds the digests of
    the sensitive claims and of the decoys; `nonce` keeps the payload unguessable once it is erased.
    """

    event: str
    space: str
    members: str
    exchange: Exchange
    parties: tuple[Party, ...]
    outcome: Outcome
    sealed: tuple[str, ...]
    nonce: bytes = field(repr=False)
    data: Data = Data()
    contract: Contract | None = None

    @property
    def author(self) -> str:
        """The participant that wrote the record."""
        return self.parties[0].id

    def required_signers(self) -> tuple[str, ...]:
        """The participants without whose signatures the record is one-sided."""
        return tuple(p.id for p in self.parties) if self.event in TWO_SIGNED else (self.author,)

    def to_payload(self) -> bytes:
        """The canonical bytes that every party signs."""
        return canonical.serialise(
            present(
                {
                    "_sd": list(self.sealed),
                    "_sd_alg": "sha-256",
                    "contract": None if self.contract is None else self.contract.to_json(),
                    "data": self.data.to_json(),
                    "event": self.event,
                    "exchange": self.exchange.to_json(),
                    "format": FORMAT,
                    "members": self.members,
                    "nonce": b64(self.nonce),
                    "outcome": self.outcome.to_json(),
                    "parties": [p.to_json() for p in self.parties],
                    "space": self.space,
                }
            )
        )

    @classmethod
    def parse(cls, payload: bytes) -> "Record":
        """The record with exactly these bytes. Raises FormatError."""
        if len(payload) > LARGEST_PAYLOAD:
            raise FormatError(f"a record is at most {LARGEST_PAYLOAD} bytes")
        try:
            value = canonical.parse(payload)
        except canonical.CanonicalError as error:
            raise FormatError(str(error)) from error
        record = _read(value)
        _check(record)
        return record


def _read(value: Any) -> Record:
    with Fields(value, "record") as f:
        f.literal("format", FORMAT)
        f.literal("_sd_alg", "sha-256")
        return Record(
            event=f.text("event", NAME),
            space=f.text("space", ID),
            members=f.text("members", HEX32),
            exchange=Exchange.from_json(f.take("exchange")),
            parties=tuple(Party.from_json(p) for p in f.items("parties")),
            outcome=Outcome.from_json(f.take("outcome")),
            sealed=_sealed(f.items("_sd")),
            nonce=f.base64("nonce"),
            data=Data.from_json(f.take("data")),
            contract=f.optional("contract", lambda name: Contract.from_json(f.take(name))),
        )


def _sealed(value: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(claim, str) for claim in value) or not _SEALED_CLAIMS.fullmatch(",".join(value)):
        raise FormatError("_sd does not have its form")
    if value != sorted(set(value)):
        raise FormatError(f"_sd is not {SEALED_CLAIMS} sorted distinct digests")
    return tuple(value)


def _check(record: Record) -> None:
    """The rules that span several fields."""
    if record.event not in EVENTS:
        raise FormatError("event is not one that this version knows")
    if len(record.nonce) != NONCE_SIZE:
        raise FormatError(f"nonce is not {NONCE_SIZE} bytes")
    _check_parties(record)
    if _STATUS_OF.get(record.event, record.outcome.status) != record.outcome.status:
        raise FormatError("outcome.status contradicts the event")
    if not REQUIRED_COMMITMENTS.get(record.event, frozenset()) <= set(record.data.commitments):
        raise FormatError("data.commitments lacks what this event must commit to")
    if record.event in TWO_SIGNED:
        _check_contract(record)


def _check_contract(record: Record) -> None:
    if record.contract is None:
        raise FormatError("an event that both sides sign names no contract")
    # there may be no agreement yet, and never one
    before = {"contract.request", "contract.offer", "contract.acceptance", "contract.termination"}
    if record.event not in before and record.contract.agreement is None:
        raise FormatError("contract.agreement is missing from an event under an agreement")


def _check_parties(record: Record) -> None:
    ids = [p.id for p in record.parties]
    keys = [k for p in record.parties for k in p.keys]
    if not 0 < len(ids) <= MOST_PARTIES or len(set(ids)) != len(ids) or len(set(keys)) != len(keys):
        raise FormatError(f"parties are not 1 to {MOST_PARTIES} distinct participants with distinct keys")
    if record.event in TWO_SIGNED and len(ids) < 2:
        raise FormatError("an event that both sides sign names one party")


@dataclass(frozen=True)
class Sealed:
    """A finished record: the bytes to sign, the disclosures that its parties keep, and the decoys' seeds.

    The seeds show to whoever shall sign that no further claim hides among the digests.
    """

    record: Record
    payload: bytes = field(repr=False)
    disclosures: tuple[Disclosure, ...] = field(repr=False)
    decoys: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def digest(self) -> str:
        """What the exchange's next record names as its predecessor."""
        return payload_digest(self.payload)


def seal(
    *,
    event: str,
    space: str,
    members: str,
    exchange: Exchange,
    parties: Sequence[Party],
    outcome: Outcome,
    data: Data | None = None,
    contract: Contract | None = None,
    sensitive: Sensitive | None = None,
    entropy: Entropy = system_entropy,
) -> Sealed:
    """A record of these facts with fresh salts, decoys and nonce. Raises FormatError."""
    claims = (sensitive or Sensitive()).claims()
    disclosures = tuple(Disclosure(entropy(SALT_SIZE), name, value) for name, value in claims.items())
    decoys = tuple(entropy(SALT_SIZE) for _ in range(SEALED_CLAIMS - len(disclosures)))
    record = Record(
        event=event,
        space=space,
        members=members,
        exchange=exchange,
        parties=tuple(parties),
        outcome=outcome,
        sealed=tuple(sorted([*(d.digest for d in disclosures), *map(decoy, decoys)])),
        nonce=entropy(NONCE_SIZE),
        data=data or Data(),
        contract=contract,
    )
    payload = record.to_payload()
    return Sealed(Record.parse(payload), payload, disclosures, decoys)


def open_disclosures(record: Record, encoded: Sequence[str]) -> Sensitive:
    """The claims that these disclosures open. Raises FormatError when one does not belong to the record."""
    claims: dict[str, Any] = {}
    for text in encoded:
        disclosure = Disclosure.decode(text)
        if disclosure.digest not in record.sealed:
            raise FormatError("a disclosure does not belong to this record")
        if disclosure.name in claims:
            raise FormatError("a claim is disclosed twice")
        claims[disclosure.name] = disclosure.value
    return Sensitive.from_claims(claims)


def decoy(seed: bytes) -> str:
    """The digest that a decoy's seed gives. The zero byte keeps it apart from every disclosure's digest."""
    return b64url(hashlib.sha256(b"bayspace/decoy/v1\x00" + seed).digest())


def payload_digest(payload: bytes) -> str:
    """SHA-256 of a record's payload, in hexadecimal. The nonce inside makes it a hiding commitment."""
    return hashlib.sha256(payload).hexdigest()


def commit(label: str, salt: bytes, value: bytes) -> str:
    """SHA-256(label || salt || value) in hexadecimal: results and SQL texts can be guessed, salts cannot.

    The label is a NAME, which never contains a byte that could continue it ambiguously: the salt has a
    fixed 32 bytes, so two labels of different length would need a salt that begins with the difference;
    the zero byte after the label rules that out.
    """
    matching(label, NAME, "a commitment's label")
    if len(salt) != SALT_SIZE:
        raise FormatError(f"a commitment's salt is not {SALT_SIZE} bytes")
    return hashlib.sha256(b"bayspace/commit/v1/" + label.encode() + b"\x00" + salt + value).hexdigest()


def exchange_tag(exchange_key: bytes, sequence: int, author: str) -> bytes:
    """HMAC-SHA256(exchange key, sequence, author): who holds the key finds the exchange's public leaves.

    The author is part of it because both sides may each record an event of the same sequence (two
    failures, say), and equal tags would publish that these leaves belong together.
    """
    message = b"bayspace/tag/v1\x00" + sequence.to_bytes(8, "big") + author.encode()
    return hmac.digest(exchange_key, message, "sha256")
