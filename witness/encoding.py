"""Bytes as text, one way only: strict base64, base64url without padding, and lower-case hexadecimal.

Refuses every text that does not encode back to itself (loose padding bits, line breaks, capitals in
hexadecimal), so that no byte of a signed or bundled file can change unnoticed.
"""

import base64
import binascii
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Entropy = Callable[[int], bytes]
system_entropy: Entropy = os.urandom

_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EncodingError(ValueError):
    """The text is not the one encoding of any bytes."""


def b64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def unb64(text: str) -> bytes:
    """Bytes of standard base64; only the canonical encoding is accepted."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EncodingError("not base64") from error
    if b64(data) != text:
        raise EncodingError("base64 that does not encode back to itself")
    return data


def b64url(data: bytes) -> str:
    """base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64url(text: str) -> bytes:
    """Bytes of unpadded base64url; only the canonical encoding is accepted."""
    try:
        data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise EncodingError("not base64url") from error
    if b64url(data) != text:
        raise EncodingError("base64url that does not encode back to itself")
    return data


def unhex(text: str, size: int) -> bytes:
    """Exactly `size` bytes of lower-case hexadecimal."""
    if len(text) != 2 * size or not _HEX.fullmatch(text):
        raise EncodingError(f"not {size} bytes of lower-case hexadecimal")
    return bytes.fromhex(text)


def system_clock() -> int:
    """Milliseconds since 1970, by this machine's clock."""
    return time.time_ns() // 1_000_000


def format_time(milliseconds: int) -> str:
    """Milliseconds since 1970 as `2026-11-21T19:24:39.123Z`, always with three decimals."""
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def parse_time(text: str) -> int:
    """Milliseconds since 1970 of a time in exactly the form that `format_time` writes."""
    try:
        milliseconds = (
            (datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND if _TIME.fullmatch(text) else -1
        )
    except ValueError as error:
        raise EncodingError("not a UTC time with milliseconds") from error
    if milliseconds < 0:
        raise EncodingError("not a UTC time with milliseconds")
    return milliseconds
