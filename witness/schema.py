"""Reading closed JSON objects: every field is taken once with its type, and what is left over is refused.

Writers use the same patterns, so nothing can be signed that could not be read back.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from witness.encoding import EncodingError, format_time, parse_time, unb64

T = TypeVar("T")

ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # participants, spaces, exchanges, roles
NAME = re.compile(r"[a-z][a-z0-9._-]{0,63}")  # names of commitments, digests, figures
TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+@-]{0,127}")  # versions, reason codes, jurisdictions
HEX16 = re.compile(r"[0-9a-f]{32}")
HEX32 = re.compile(r"[0-9a-f]{64}")
DECIMAL = re.compile(r"(?!-0\Z)-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17}[1-9]|\.[1-9])?")
DATE = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")
# Short text for people, in any script, but nothing that could rewrite a terminal's or a page's line.
TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]{1,512}")
LINE = re.compile(r"[!-~]{1,256}")  # addresses and the like: printable ASCII, no spaces
VKEY = re.compile(r"[!-~]{1,4096}")  # a verifier key; one of ML-DSA-44 has some 1,800 characters
LONGEST_LIST = 1024


class FormatError(ValueError):
    """A document does not have the form that its version prescribes. Never quotes a value."""


class Fields:
    """The fields of one JSON object, each to be taken once."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{where} is not an object")
        self._left, self._where = dict(value), where

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._left:
            raise FormatError(f"{self._where} has fields that this version does not know")

    def take(self, name: str) -> Any:
        """The field's raw value. Raises FormatError when it is missing."""
        if name not in self._left:
            raise FormatError(f"{self._where} lacks {name}")
        return self._left.pop(name)

    def text(self, name: str, pattern: re.Pattern[str]) -> str:
        """A string that `pattern` matches whole."""
        return matching(self.take(name), pattern, f"{self._where}.{name}")

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        """`read(name)` when the field is there; absent is the only form of nothing."""
        return read(name) if name in self._left else None

    def integer(self, name: str) -> int:
        """A whole number, zero or more."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise FormatError(f"{self._where}.{name} is not a whole number")
        return value

    def items(self, name: str) -> list[Any]:
        """A list of at most LONGEST_LIST items."""
        return items(self.take(name), f"{self._where}.{name}")

    def time(self, name: str) -> int:
        """A UTC time, as milliseconds since 1970."""
        return _converted(parse_time, self.take(name), f"{self._where}.{name}")

    def base64(self, name: str) -> bytes:
        """Bytes in standard base64."""
        return _converted(unb64, self.take(name), f"{self._where}.{name}")

    def literal(self, name: str, value: str) -> None:
        """A field that can hold one value only."""
        if self.take(name) != value:
            raise FormatError(f"{self._where}.{name} is not {value}")


def matching(value: Any, pattern: re.Pattern[str], where: str) -> str:
    """`value` when it is a string that `pattern` matches whole."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise FormatError(f"{where} does not have its form")
    return value


def items(value: Any, where: str) -> list[Any]:
    """`value` when it is a list of bearable length."""
    if not isinstance(value, list) or len(value) > LONGEST_LIST:
        raise FormatError(f"{where} is not a list of at most {LONGEST_LIST}")
    return value


def text_list(value: Any, pattern: re.Pattern[str], where: str) -> tuple[str, ...]:
    """A list of matching strings."""
    return tuple(matching(item, pattern, where) for item in items(value, where))


def mapping(value: Any, pattern: re.Pattern[str], where: str) -> dict[str, str]:
    """An object from NAMEs to strings that `pattern` matches."""
    if not isinstance(value, dict):
        raise FormatError(f"{where} is not an object")
    return {
        matching(name, NAME, where): matching(item, pattern, f"{where}.{name}")
        for name, item in value.items()
    }


def counts(value: Any, where: str) -> dict[str, int]:
    """An object from NAMEs to whole numbers."""
    if not isinstance(value, dict):
        raise FormatError(f"{where} is not an object")
    with Fields(value, where) as fields:
        return {matching(name, NAME, where): fields.integer(name) for name in value}


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are there: None is written by leaving the field out."""
    return {name: value for name, value in fields.items() if value is not None}


def utc(milliseconds: int) -> str:
    """A time as every document writes it. Raises FormatError outside the years 1970 to 9999."""
    try:
        return format_time(milliseconds)
    except (OverflowError, ValueError) as error:
        raise FormatError("a time out of range") from error


def _converted(convert: Callable[[str], T], value: Any, where: str) -> T:
    if not isinstance(value, str):
        raise FormatError(f"{where} is not a string")
    try:
        return convert(value)
    except EncodingError as error:
        raise FormatError(f"{where} is {error}") from error
