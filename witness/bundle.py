"""The bundle: one file from which anybody verifies an exchange offline, years later.

Per record: the DSSE envelope, the disclosures its owner chose, openings of its commitments, and the
tlog-proof with its signed checkpoint. Beside them the member lists under which the keys stood. The file is
canonical JSON; its last check is a checksum over everything, so that even a byte which no signature covers
(a cosignature line of an unknown witness) cannot change unnoticed. Refuses unknown fields.

Version 2 is version 1 with optional parts: per record a COSE receipt, per bundle RFC 3161 timestamps of its
checkpoints. Version 3 is version 2 with the policies that its records name, in full. Each is written only
where there are such parts, and version 1 is read for ever.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from witness import canonical, dsse
from witness.dsse import Envelope, EnvelopeInvalid
from witness.encoding import EncodingError, b64, unb64
from witness.record import SALT_SIZE
from witness.schema import NAME, Fields, FormatError, present

FORMAT, FORMAT_2, FORMAT_3 = "bayspace-bundle/v1", "bayspace-bundle/v2", "bayspace-bundle/v3"
MOST_TIMESTAMPS = MOST_POLICIES = 64
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
    """One record: envelope, encoded disclosures, openings, the text of its tlog-proof, its COSE receipt."""

    envelope: Envelope
    proof: str = field(repr=False)
    disclosures: tuple[str, ...] = field(default=(), repr=False)
    openings: tuple[Opening, ...] = ()
    receipt: bytes | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The item as it stands in the bundle."""
        return present(
            {
                "disclosures": list(self.disclosures),
                "envelope": self.envelope.to_json(),
                "openings": [o.to_json() for o in self.openings],
                "proof": self.proof,
                "receipt": None if self.receipt is None else b64(self.receipt),
            }
        )

    @classmethod
    def from_json(cls, value: Any) -> "Item":
        """Reads what `to_json` writes. Raises FormatError."""
        with Fields(value, "item") as f:
            return cls(
                envelope=_envelope(f.take("envelope")),
                proof=_string(f.take("proof"), "item.proof"),
                disclosures=tuple(_string(d, "item.disclosures") for d in f.items("disclosures")),
                openings=tuple(Opening.from_json(o) for o in f.items("openings")),
                receipt=f.optional("receipt", f.base64),
            )


@dataclass(frozen=True)
class Bundle:
    """Records in the order in which they are to be read, and the signed member lists they stand on."""

    items: tuple[Item, ...]
    members: tuple[Envelope, ...]
    timestamps: tuple[bytes, ...] = field(default=(), repr=False)
    policies: tuple[str, ...] = field(default=(), repr=False)

    @property
    def format(self) -> str:
        """The oldest version that can say this."""
        if self.policies:
            return FORMAT_3
        more = self.timestamps or any(item.receipt is not None for item in self.items)
        return FORMAT_2 if more else FORMAT

    def to_bytes(self) -> bytes:
        """The file."""
        body = self._body()
        return canonical.serialise({**body, "checksum": _checksum(body)})

    def _body(self) -> dict[str, Any]:
        return present(
            {
                "format": self.format,
                "items": [item.to_json() for item in self.items],
                "members": [envelope.to_json() for envelope in self.members],
                "policies": list(self.policies) or None,
                "timestamps": [b64(token) for token in self.timestamps] or None,
            }
        )


def build(
    items: Sequence[Item],
    members: Sequence[Envelope],
    timestamps: Sequence[bytes] = (),
    policies: Sequence[str] = (),
) -> bytes:
    """A bundle's bytes. Raises FormatError when they would not be read back."""
    data = Bundle(tuple(items), tuple(members), tuple(timestamps), tuple(policies)).to_bytes()
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
        raise FormatError(str(error)) from error
    with Fields(value, "the bundle") as f:
        version = f.take("format")
        checksum = f.take("checksum")
        bundle = Bundle(
            items=tuple(Item.from_json(item) for item in f.items("items")),
            members=tuple(_envelope(e) for e in f.items("members")),
            timestamps=f.optional("timestamps", lambda name: _timestamps(f.items(name))) or (),
            policies=f.optional("policies", lambda name: _policies(f.items(name))) or (),
        )
    if not bundle.items:
        raise FormatError("the bundle holds no record")
    if version != bundle.format:
        raise FormatError("the bundle is of a version that this program does not know, or misnames its own")
    return bundle, checksum == _checksum({k: v for k, v in value.items() if k != "checksum"})


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical.serialise(body)).hexdigest()


def _policies(texts: list[Any]) -> tuple[str, ...]:
    if not 0 < len(texts) <= MOST_POLICIES:
        raise FormatError(f"a bundle has 1 to {MOST_POLICIES} policies, or no such field")
    return tuple(_string(text, "policies") for text in texts)


def _timestamps(tokens: list[Any]) -> tuple[bytes, ...]:
    if not 0 < len(tokens) <= MOST_TIMESTAMPS:
        raise FormatError(f"a bundle has 1 to {MOST_TIMESTAMPS} timestamps, or no such field")
    try:
        return tuple(unb64(_string(token, "timestamps")) for token in tokens)
    except EncodingError as error:
        raise FormatError(f"a timestamp is {error}") from error


def _envelope(value: Any) -> Envelope:
    try:
        return dsse.from_json(value)
    except EnvelopeInvalid as error:
        raise FormatError(f"an envelope is malformed: {error}") from error


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where} is not text")
    return value
