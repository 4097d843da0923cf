"""Just as much DER (X.690) as an RFC 3161 timestamp needs: elements of definite length, read once, in order.

Refuses lengths that are indefinite or not the shortest, tags beyond 30, an element that ends beyond its
parent, and, where a reader is closed, anything left over.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

INTEGER, OCTETS, NULL, OID, UTC_TIME, GENERALIZED_TIME = 0x02, 0x04, 0x05, 0x06, 0x17, 0x18
SEQUENCE, SET = 0x30, 0x31
_LARGEST_ARC = 1 << 128  # of an object identifier; UUIDs have that many bits


def context(number: int, *, constructed: bool = True) -> int:
    """The tag of a context-specific element."""
    return 0x80 | (0x20 if constructed else 0) | number


class DerInvalid(ValueError):
    """Not DER of the expected structure."""


@dataclass(frozen=True)
class Element:
    """One element: its tag, its content, and its whole encoding."""

    tag: int
    content: bytes = field(repr=False)
    encoded: bytes = field(repr=False)


class Reader:
    """The elements inside `data`, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __iter__(self) -> Iterator[Element]:
        while self.more():
            yield self._next()

    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def any(self) -> Element:
        """The next element, whatever it is."""
        return self._next()

    def take(self, tag: int) -> Element:
        """The next element, which has this tag."""
        element = self._next()
        if element.tag != tag:
            raise DerInvalid("an element of another type than expected")
        return element

    def inside(self, tag: int) -> "Reader":
        """A reader of the next element's content."""
        return Reader(self.take(tag).content)

    def optional(self, tag: int) -> Element | None:
        """The next element when it has this tag."""
        return self._next() if self.more() and self._data[self._at] == tag else None

    def integer(self) -> int:
        """The next element, an INTEGER."""
        content = self.take(INTEGER).content
        if not content or (len(content) > 1 and content[0] in (0x00, 0xFF) and _padded(content)):
            raise DerInvalid("an integer not in its shortest form")
        return int.from_bytes(content, "big", signed=True)

    def oid(self) -> str:
        """The next element, an OBJECT IDENTIFIER, in dotted form."""
        return _dotted(self.take(OID).content)

    def end(self) -> None:
        """Refuses anything left over."""
        if self.more():
            raise DerInvalid("more than the structure has")

    def _next(self) -> Element:
        start = self._at
        tag, length = self._byte(), self._length()
        if tag & 0x1F == 0x1F or length > len(self._data) - self._at:
            raise DerInvalid("a tag beyond 30, or an element that ends beyond its parent")
        self._at += length
        return Element(tag, self._data[self._at - length : self._at], self._data[start : self._at])

    def _length(self) -> int:
        first = self._byte()
        if first < 0x80:
            return first
        count = first & 0x7F
        if not 1 <= count <= 4:
            raise DerInvalid("an indefinite or excessive length")
        length = int.from_bytes(bytes(self._byte() for _ in range(count)), "big")
        if length < 0x80 or length < 1 << (8 * (count - 1)):
            raise DerInvalid("a length not in its shortest form")
        return length

    def _byte(self) -> int:
        if not self.more():
            raise DerInvalid("it ends inside an element")
        self._at += 1
        return self._data[self._at - 1]


def only(data: bytes, tag: int) -> Reader:
    """A reader of the content of the one element in `data`."""
    outer = Reader(data)
    inner = outer.inside(tag)
    outer.end()
    return inner


def element(tag: int, *parts: bytes) -> bytes:
    """The encoding of an element with these contents."""
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def integer(value: int) -> bytes:
    """The encoding of a whole number, zero or more."""
    return element(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _padded(content: bytes) -> bool:
    return (content[0] == 0x00) == (content[1] < 0x80)


def _dotted(content: bytes) -> str:
    if not content or content[-1] & 0x80:
        raise DerInvalid("not an object identifier")
    arcs, value, fresh = [], 0, True
    for byte in content:
        if value > _LARGEST_ARC or (fresh and byte == 0x80):
            raise DerInvalid("an arc that is too large, or not in its shortest form")
        fresh = not byte & 0x80
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))
