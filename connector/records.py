"""The evidence records of one exchange: what each step states, and the check that both sides state the same.

The owner seals a record (fresh salts, decoys, nonce); the asker signs it only when it says exactly what the
asker itself knows to be true. Holds digests and commitments; never SQL, keys or cells.

Nobody signs what it cannot read: the author shows every claim, and of every other digest that it is a decoy.
Otherwise it could later open one of them as a claim that the other side seems to have signed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from compute.errors import PeerViolation
from connector.opening import SignedRecord
from witness import dsse
from witness.encoding import Entropy
from witness.keys import KeyInvalid, PrivateKeys, PublicKeys, SignatureInvalid
from witness.record import (
    PAYLOAD_TYPE,
    Contract,
    Data,
    Disclosure,
    Exchange,
    Outcome,
    Party,
    Record,
    Sealed,
    Sensitive,
    decoy,
    open_disclosures,
    seal,
)
from witness.schema import FormatError

DONE = Outcome("done")
MOST_CLOCK_DIFFERENCE = 120_000  # ms between the clocks of two participants


@dataclass(frozen=True, slots=True)
class Statement:
    """Everything a record states, apart from salts, decoys and nonce."""

    event: str
    space: str
    members: str
    exchange: Exchange
    parties: tuple[Party, ...]
    outcome: Outcome
    data: Data
    contract: Contract | None
    sensitive: Sensitive

    @classmethod
    def of(cls, record: Record, sensitive: Sensitive) -> Statement:
        """What a record states, with these claims disclosed."""
        return cls(
            record.event,
            record.space,
            record.members,
            record.exchange,
            record.parties,
            record.outcome,
            record.data,
            record.contract,
            sensitive,
        )

    def with_build_of_author(self, stated: Statement) -> Statement:
        """The same, with the build that the author states of itself."""
        if not stated.parties:
            return self
        author = replace(self.parties[0], build=stated.parties[0].build)
        return replace(self, parties=(author, *self.parties[1:]))

    def seal(self, entropy: Entropy) -> Sealed:
        """A record of this statement with fresh salts."""
        return seal(
            event=self.event,
            space=self.space,
            members=self.members,
            exchange=self.exchange,
            parties=self.parties,
            outcome=self.outcome,
            data=self.data,
            contract=self.contract,
            sensitive=self.sensitive,
            entropy=entropy,
        )


def reopen(signed: SignedRecord) -> tuple[Sealed, Statement]:
    """Parse a record a peer sealed. `PeerViolation` when it is none, or when it hides a claim from us."""
    try:
        record = Record.parse(signed.payload)
        sensitive = open_disclosures(record, signed.disclosures)
        shown = tuple(Disclosure.decode(d) for d in signed.disclosures)
    except FormatError:
        raise PeerViolation("peer.evidence", "the peer's evidence record cannot be read") from None
    if sorted([*(d.digest for d in shown), *map(decoy, signed.decoys)]) != list(record.sealed):
        raise PeerViolation("peer.evidence", "the peer's evidence record holds claims that it does not show")
    return Sealed(record, signed.payload, shown, signed.decoys), Statement.of(record, sensitive)


def agreed(expected: Statement, stated: Statement) -> None:
    """Raise `PeerViolation` unless the peer's record states what we expect; clocks may differ a little."""
    if len(expected.parties) != len(stated.parties):
        raise PeerViolation("peer.evidence", "the peer's evidence record names other parties")
    for ours, theirs in zip(expected.parties, stated.parties, strict=True):
        check_clock(ours.clock, theirs.clock)
    aligned = tuple(replace(p, clock=q.clock) for p, q in zip(expected.parties, stated.parties, strict=True))
    if replace(expected, parties=aligned) != stated:
        raise PeerViolation("peer.evidence", "the peer's evidence record states something else than happened")


def check_clock(ours: int, theirs: int) -> None:
    """Raise `PeerViolation` when two clocks differ by more than two participants' may."""
    if abs(ours - theirs) > MOST_CLOCK_DIFFERENCE:
        raise PeerViolation("peer.clock", "the clocks of the two participants differ by too much")


def countersigned(
    sealed: Sealed, own: PrivateKeys, peer: PublicKeys | None, peer_signature: bytes | None
) -> dsse.Envelope:
    """The envelope of `sealed` with our signatures and, unless that is None, the peer's, all verified.

    Raises `PeerViolation` when the peer's signature does not hold; an empty one is none that holds.
    """
    envelope = dsse.sign(PAYLOAD_TYPE, sealed.payload, own.keys)
    if peer is None or peer_signature is None:
        return envelope
    try:
        parts = peer.split(peer_signature)
        envelope = envelope.with_signatures(dsse.Signature(key.id, part) for key, part in parts)
        for key in peer.keys:
            envelope.verify(key)
    except (SignatureInvalid, KeyInvalid):
        raise PeerViolation("peer.signature", "the peer's signature on the evidence does not hold") from None
    return envelope


def signature_in(envelope: dsse.Envelope, own: PublicKeys) -> bytes:
    """What `signature` gave when this envelope was made: ML-DSA draws randomness each time."""
    made = {s.keyid: s.sig for s in envelope.signatures}
    return b"".join(made[key.id] for key in own.keys)


def signature(sealed: Sealed, own: PrivateKeys) -> bytes:
    """Our signatures over a record's payload, by all of our keys, one after the other."""
    return own.sign(dsse.pae(PAYLOAD_TYPE, sealed.payload))
