"""Files that survive a crash: written whole under a temporary name, synced, renamed, directory synced.

Refuses paths that leave their folder. A reader sees the old content or the new, never a part.
"""

import os
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
        target = self._inside(path)
        self._make(target.parent)
        temporary = target.with_name(f".{target.name}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
        sync_directory(target.parent)

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
        folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)

    def _inside(self, path: str) -> Path:
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError("a path that leaves its folder")
        return self.root / path


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
