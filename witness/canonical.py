"""Canonical JSON (RFC 8785) for the closed subset that evidence uses.

Values are strings, integers within +-2^53, booleans, null, lists, and objects with ASCII names. Refuses
everything else: floats, other integers, duplicate names, lone surrogates, deep nesting. `parse` accepts
only the bytes that `serialise` writes, so a value has exactly one encoding and a digest over it is safe.
"""

import json
from typing import Any

LARGEST_INTEGER = 2**53
DEEPEST = 16


class CanonicalError(ValueError):
    """The value lies outside the subset, or the bytes are not its canonical form."""


def serialise(value: Any) -> bytes:
    """RFC 8785 bytes of `value`. Raises CanonicalError outside the subset."""
    _check(value, DEEPEST)
    return _dump(value)


def parse(data: bytes) -> Any:
    """The value whose canonical form is `data`. Raises CanonicalError for any other bytes."""
    try:
        value = _DECODER.decode(data.decode())
        # INVARIANT: what this skips of _check cannot come from a decoder, or changes the bytes: a repeated
        # name is lost, and with it the equality below.
        (_check_depth if data.isascii() else _check)(value, DEEPEST)
        if _dump(value) == data:
            return value
    except (ValueError, RecursionError):
        pass
    _load(data)  # raises with the reason, when there is a better one
    raise CanonicalError("not in canonical form (RFC 8785)")


def _dump(value: Any) -> bytes:
    # Within the subset the encoder is RFC 8785: the same escapes, and ASCII names sort alike in UTF-16.
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError as error:
        raise CanonicalError("a string holds half of a surrogate pair") from error


def parse_strict(data: bytes) -> Any:
    """A value of the subset from JSON with free spacing and order, for files that people edit."""
    value = _load(data)
    _dump(value)  # refuses half of a surrogate pair, which could not be encoded later
    return value


def _load(data: bytes) -> Any:
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
    except CanonicalError:
        raise
    except RecursionError as error:
        raise CanonicalError("nested too deeply") from error
    except ValueError as error:
        raise CanonicalError("not JSON") from error
    _check(value, DEEPEST)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CanonicalError("an object repeats a name")
    return found


def _refuse(_text: str) -> Any:
    raise CanonicalError("a number that is not a plain integer")


def _integer(text: str) -> int:
    value = int(text)
    _check_integer(value)
    return value


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_refuse, parse_constant=_refuse)
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False
)


def _check_depth(value: Any, depth: int) -> None:
    if type(value) not in _CONTAINERS:
        return
    if depth <= 1 and value:  # its items would be one deeper
        raise CanonicalError("nested too deeply")
    for item in value.values() if type(value) is dict else value:
        if type(item) in _CONTAINERS:
            _check_depth(item, depth - 1)


_CONTAINERS = frozenset({dict, list})


def _check(value: Any, depth: int) -> None:
    if depth == 0:
        raise CanonicalError("nested too deeply")
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        _check_integer(value)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth - 1)
    elif isinstance(value, dict):
        _check_object(value, depth)
    else:
        raise CanonicalError(f"a {type(value).__name__} has no canonical form here")


def _check_integer(value: int) -> None:
    if abs(value) > LARGEST_INTEGER:
        raise CanonicalError("an integer beyond 2^53")


def _check_object(value: dict[Any, Any], depth: int) -> None:
    for name, item in value.items():
        if not isinstance(name, str) or not name.isascii():
            raise CanonicalError("an object name that is not an ASCII string")
        _check(item, depth - 1)
