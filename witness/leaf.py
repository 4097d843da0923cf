"""The log's public leaf: 73 bytes that say nothing about who exchanged what.

    version (0x01) || SHA-256(envelope) || tag (32) || received-at (uint64, ms since 1970, big-endian)

The tag is HMAC(exchange key, sequence, author) and random to everybody else. Refuses other lengths and
versions.
"""

from dataclasses import dataclass

from witness.merkle import leaf_hash

VERSION = 1
TAG_SIZE = 32
SIZE = 1 + 32 + TAG_SIZE + 8


class LeafInvalid(ValueError):
    """Not a leaf of version 1."""


@dataclass(frozen=True)
class Leaf:
    """One entry of the log."""

    envelope: bytes
    tag: bytes
    received_at: int

    def to_bytes(self) -> bytes:
        """The entry as it stands in the log."""
        return bytes([VERSION]) + self.envelope + self.tag + self.received_at.to_bytes(8, "big")

    @property
    def hash(self) -> bytes:
        """RFC 6962 leaf hash of the entry."""
        return leaf_hash(self.to_bytes())


def parse(entry: bytes) -> Leaf:
    """The leaf with exactly these bytes. Raises LeafInvalid."""
    if len(entry) != SIZE or entry[0] != VERSION:
        raise LeafInvalid("the entry is not a leaf of version 1")
    return Leaf(entry[1:33], entry[33:65], int.from_bytes(entry[65:], "big"))
