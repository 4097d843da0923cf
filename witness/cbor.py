"""Just as much CBOR (RFC 8949) as a COSE receipt needs, in its deterministic encoding (section 4.2.1).

Integers within 64 bits, byte and text strings, arrays, maps with integer keys, tags, null. Refuses
everything else: floats, indefinite lengths, other simple values, integers not in their shortest form, maps
whose keys are repeated or out of order, deep nesting, and anything behind the value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_NULL = 22
DEEPEST = 8


class CborInvalid(ValueError):
    """Not the deterministic encoding of a value of the subset."""


@dataclass(frozen=True)
class Tagged:
    """A value under a tag."""

    tag: int
    value: Any


def encode(value: Any) -> bytes:
    """The one encoding of a value. Raises CborInvalid outside the subset."""
    match value:
        case None:
            return bytes([_SIMPLE << 5 | _NULL])
        case bool():
            raise CborInvalid("a value outside the subset")
        case int():
            return _head(_UINT, value) if value >= 0 else _head(_NINT, -1 - value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            return _head(_TEXT, len(value.encode())) + value.encode()
        case list() | tuple():
            return _head(_ARRAY, len(value)) + b"".join(map(encode, value))
        case Mapping():
            pairs = sorted((encode(k), encode(v)) for k, v in value.items())
            return _head(_MAP, len(pairs)) + b"".join(k + v for k, v in pairs)
        case Tagged():
            return _head(_TAG, value.tag) + encode(value.value)
    raise CborInvalid("a value outside the subset")


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << (8 * size):
            return bytes([major << 5 | extra]) + argument.to_bytes(size, "big")
    raise CborInvalid("an integer beyond 64 bits")


def decode(data: bytes) -> Any:
    """The value with exactly this encoding. Raises CborInvalid."""
    reader = _Reader(data)
    value = reader.item(DEEPEST)
    if reader.at != len(data) or encode(value) != data:
        raise CborInvalid("not the deterministic encoding of one value")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def item(self, depth: int) -> Any:
        if depth < 0:
            raise CborInvalid("nested too deeply")
        major, argument = self._head()
        if major == _UINT:
            return argument
        if major == _NINT:
            return -1 - argument
        if major in (_BYTES, _TEXT):
            return self._string(major, argument)
        if major == _ARRAY:
            return [self.item(depth - 1) for _ in range(self._bearable(argument))]
        if major == _MAP:
            return dict(self._pair(depth - 1) for _ in range(self._bearable(argument)))
        if major == _TAG:
            return Tagged(argument, self.item(depth - 1))
        if argument != _NULL:
            raise CborInvalid("a simple value other than null")
        return None

    def _head(self) -> tuple[int, int]:
        first = self._take(1)[0]
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info
        if info > 27 or major == _SIMPLE:
            raise CborInvalid("an indefinite length, a float or a simple value")
        return major, int.from_bytes(self._take(1 << (info - 24)), "big")

    def _string(self, major: int, length: int) -> bytes | str:
        data = self._take(length)
        if major == _BYTES:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise CborInvalid("text that is not UTF-8") from error

    def _pair(self, depth: int) -> tuple[int, Any]:
        key = self.item(depth)
        if not isinstance(key, int):
            raise CborInvalid("a map key that is no integer")
        return key, self.item(depth)

    def _bearable(self, count: int) -> int:
        """Each item takes a byte at least: a larger count is a lie that would only cost time."""
        if count > len(self._data) - self.at:
            raise CborInvalid("it ends inside a value")
        return count

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise CborInvalid("it ends inside a value")
        self.at += size
        return self._data[self.at - size : self.at]
