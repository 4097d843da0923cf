"""The bundle, version 1: one file from which anybody verifies an exchange offline, years later.

Per record: the DSSE envelope, the disclosures its owner chose, openings of its commitments, and the
tlog-proof with its signed checkpoint. Beside them the member lists under which the keys stood. The file is
canonical JSON; its last check is a checksum over everything, so that even a byte which no signature covers
(a cosignature line of an unknown witness) cannot change unnoticed. Refuses unknown fields.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from witness import canonical, dsse
from witness.dsse import Envelope, EnvelopeInvalid
from witness.encoding import b64
from witness.record import SALT_SIZE
from witness.schema import NAME, Fields, FormatError

FORMAT = "bayspace-bundle/v1"
LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True)
class Opening:
    """The salt and value behind the commitment that the record calls `name`."""

    name: str
    salt: bytes = field(repr=False)
    value: bytes = field(repr=False)

    def to_json(self) -> dict[str, str]:
        """The opening as it stands in the bundle."""
        return {"name": self.name, "salt": b64(self.salt), "value": b64(self.value)}

    @classmethod
    def from_json(cls, value: Any) -> "Opening":
        """Reads what `to_json` writes. Raises FormatError."""
        with Fields(value, "opening") as f:
            opening = cls(name=f.text("name", NAME), salt=f.base64("salt"), value=f.base64("value"))
        if len(opening.salt) != SALT_SIZE:
            raise FormatError(f"opening.salt is not {SALT_SIZE} bytes")
        return opening


@dataclass(frozen=True)
class Item:
    """One record: envelope, encoded disclosures, openings, and the text of its tlog-proof."""

    envelope: Envelope
    proof: str = field(repr=False)
    disclosures: tuple[str, ...] = field(default=(), repr=False)
    openings: tuple[Opening, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The item as it stands in the bundle."""
        return {
            "disclosures": list(self.disclosures),
            "envelope": self.envelope.to_json(),
            "openings": [o.to_json() for o in self.openings],
            "proof": self.proof,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Item":
        """Reads what `to_json` writes. Raises FormatError."""
        with Fields(value, "item") as f:
            return cls(
                envelope=_envelope(f.take("envelope")),
                proof=_string(f.take("proof"), "item.proof"),
                disclosures=tuple(_string(d, "item.disclosures") for d in f.items("disclosures")),
                openings=tuple(Opening.from_json(o) for o in f.items("openings")),
            )


@dataclass(frozen=True)
class Bundle:
    """Records in the order in which they are to be read, and the signed member lists they stand on."""

    items: tuple[Item, ...]
    members: tuple[Envelope, ...]

    def to_bytes(self) -> bytes:
        """The file."""
        body = self._body()
        return canonical.serialise({**body, "checksum": _checksum(body)})

    def _body(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "items": [item.to_json() for item in self.items],
            "members": [envelope.to_json() for envelope in self.members],
        }


def build(items: Sequence[Item], members: Sequence[Envelope]) -> bytes:
    """A bundle's bytes. Raises FormatError when they would not be read back."""
    data = Bundle(tuple(items), tuple(members)).to_bytes()
    parse(data)
    return data


def parse(data: bytes) -> tuple[Bundle, bool]:
    """The bundle in `data`, and whether its checksum matches. Raises FormatError.

    The checksum is answered, not enforced: a verifier first says what is wrong with the evidence.
    """
    if len(data) > LARGEST:
        raise FormatError(f"a bundle is at most {LARGEST} bytes")
    try:
        value = canonical.parse(data)
    except canonical.CanonicalError as error:
        raise FormatError(f"the bundle is {error}") from error
    with Fields(value, "the bundle") as f:
        f.literal("format", FORMAT)
        checksum = f.take("checksum")
        bundle = Bundle(
            items=tuple(Item.from_json(item) for item in f.items("items")),
            members=tuple(_envelope(e) for e in f.items("members")),
        )
    if not bundle.items:
        raise FormatError("the bundle holds no record")
    return bundle, checksum == _checksum({k: v for k, v in value.items() if k != "checksum"})


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical.serialise(body)).hexdigest()


def _envelope(value: Any) -> Envelope:
    try:
        return dsse.from_json(value)
    except EnvelopeInvalid as error:
        raise FormatError(f"an envelope is malformed: {error}") from error


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where} is not text")
    return value
