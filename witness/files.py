"""Files that survive a crash: written whole under a temporary name, synced, renamed, directory synced.

Refuses paths that leave their folder. A reader sees the old content or the new, never a part.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path


class Folder:
    """A folder whose files are replaced durably."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def read(self, path: str) -> bytes:
        """The content of a file. Raises FileNotFoundError."""
        return self._inside(path).read_bytes()

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Replaces a file. When this returns, the content survives a power cut."""
        self.write_all({path: data}, mode)

    def write_all(self, files: Mapping[str, bytes], mode: int = 0o644) -> None:
        """Replaces several files, each whole; all survive a power cut once this returns.

        Each folder is synced once. A crash in between leaves some new and some old, none in part.
        """
        targets = {self._inside(path): data for path, data in files.items()}
        for target, data in targets.items():
            self._make(target.parent)
            _write_synced(_temporary(target), data, mode)
        for target in targets:
            os.replace(_temporary(target), target)  # noqa: PTH105  as every call here: through os
        for folder in {target.parent for target in targets}:
            sync_directory(folder)

    def sync_above(self, paths: Iterable[str]) -> None:
        """Syncs every folder on the way to these files: after a crash nobody knows which ones were."""
        above = {p for path in paths for p in self._inside(path).parents if p.is_relative_to(self.root)}
        for folder in sorted(above, reverse=True):
            if folder.is_dir():
                sync_directory(folder)

    def delete(self, path: str) -> None:
        """Deletes a file, or a folder of files, if it is there. Not durable: a leftover does no harm."""
        target = self._inside(path)
        if target.is_dir():
            for child in target.iterdir():
                child.unlink(missing_ok=True)
            target.rmdir()
        else:
            target.unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make(folder.parent)
        os.mkdir(folder)  # noqa: PTH102
        sync_directory(folder.parent)

    def _inside(self, path: str) -> Path:
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError("a path that leaves its folder")
        return self.root / path


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.new")


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(folder: Path) -> None:
    """Makes renames and creations inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
