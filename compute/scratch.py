"""A packed column that fills in order: in memory while it is small, beyond that in a file without a name.

Only tags are kept so. A tag is a hash of a point under both parties' session scalars, and no scalar ever
touches the disk: to whoever finds freed blocks afterwards a tag is random bytes, though tags that occur twice
tell how many keys the two sets share. The file has no name before its first byte is written, so that nothing
is left behind however the process ends. Refuses: more or fewer bytes than announced.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pyarrow as pa

from compute.errors import ConfigError

IN_MEMORY = 512 << 20
"""Bytes up to which a column stays in memory: the tags of some forty million keys."""


class Column:
    """`length` elements of `width` bytes. `scratch` names the directory of the file; None: never a file."""

    def __init__(self, width: int, length: int, scratch: Path | None, in_memory: int = IN_MEMORY) -> None:
        self._width, self._size, self._filled = width, width * length, 0
        self._bytes, self._file = bytearray(), None
        if scratch is None or self._size <= in_memory:
            self._bytes = bytearray(self._size)
        else:
            self._file = _nameless(scratch)

    def append(self, data: bytes | memoryview) -> None:
        """The next bytes, which need not end where an element does."""
        end = self._filled + len(data)
        if end > self._size:
            raise ValueError("more bytes than the column holds")
        if self._file is None:
            self._bytes[self._filled : end] = data
        else:
            _write(self._file, data)
        self._filled = end

    def array(self) -> pa.FixedSizeBinaryArray:
        """The column as Arrow, without a copy; a file's pages come and go as the system sees fit."""
        if self._filled != self._size:
            raise ValueError("fewer bytes than the column holds")
        held = self._bytes if self._file is None else _mapped(self._file)
        buffers = [None, pa.py_buffer(held)]
        return pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(self._width), self._size // self._width, buffers
        )


def _nameless(directory: Path) -> IO[bytes]:
    try:
        return TemporaryFile(dir=directory)
    except OSError:
        raise _unusable() from None


def _write(file: IO[bytes], data: bytes | memoryview) -> None:
    # Written, not stored through the map: on a full disk a store would kill the process.
    try:
        file.write(data)
        file.flush()
    except OSError:
        raise _unusable() from None


def _mapped(file: IO[bytes]) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _unusable() -> ConfigError:
    return ConfigError("config.scratch", "the folder for temporary files cannot be written to, or is full")
