"""The append-only log: an RFC 6962 tree over public leaves, as C2SP tiles with signed checkpoints.

Order of a durable append (after Sunlight), each step done before the next begins:

    sequence and stage -> move the lock to the signed checkpoint -> write tiles -> publish the checkpoint
        -> drop the staging mark

Two heads that contradict each other can never both be published, since a checkpoint leaves this file only
after the lock moved from its predecessor. On start it refuses to run on anything that looks like a
rollback, and finishes a batch that was interrupted. After any failure inside an append the instance
refuses further appends: only a restart, which checks everything, may go on.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from witness import checkpoint as checkpoints
from witness import leaf as leaves
from witness import merkle, note, tiles
from witness.checkpoint import Checkpoint, CheckpointInvalid
from witness.database import Database, Row, Staged
from witness.files import Folder
from witness.keys import PrivateKey
from witness.leaf import Leaf
from witness.merkle import leaf_hash
from witness.note import Note, NoteInvalid, verifier_key
from witness.tlog_proof import TlogProof

_PUBLISHED = "checkpoint"


class LogRefused(RuntimeError):
    """The log does not run: its parts contradict each other, or an append failed half-way."""


@dataclass(frozen=True)
class Submission:
    """An envelope (canonical bytes and their SHA-256) and its tag, to be recorded."""

    digest: bytes
    envelope: bytes
    tag: bytes


def _no_step(_name: str) -> None:
    """The hook that tests replace in order to crash between two steps."""


class Log:
    """One log in one folder. `append` may be called from one thread at a time, the rest from any.

    folder: holds `public/` (the tiles and the checkpoint) and, by default, the database.
    clock: milliseconds since 1970. database: SQLAlchemy URL.
    """

    def __init__(
        self,
        folder: Path,
        origin: str,
        key: PrivateKey,
        clock: Callable[[], int],
        database: str | None = None,
        step: Callable[[str], None] = _no_step,
    ) -> None:
        self.origin = note.check_name(origin)
        self.vkey = verifier_key(origin, key.public)
        self._key, self._clock, self._step = key, clock, step
        self.public = Folder(folder / "public")
        self._exclusive = _lock_folder(folder)
        self._database = Database(database or f"sqlite:///{folder / 'witness.sqlite'}")
        self._appending = threading.Lock()
        self._published = threading.Condition()
        self._broken = False
        try:
            self._head, self._edge, self._bundle = self._recover()
            self._last_time = self._time_of(self._size - 1)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of the folder and the database."""
        self._database.close()
        os.close(self._exclusive)

    # What is published

    @property
    def head(self) -> Note:
        """The published checkpoint."""
        return self._head

    @property
    def size(self) -> int:
        """The number of published entries."""
        return self._size

    @property
    def _size(self) -> int:
        return checkpoints.parse(self._head.text).size

    @property
    def database(self) -> Database:
        """The tables, for those who read records by digest."""
        return self._database

    def wait(self, size: int, timeout: float) -> None:
        """Returns when at least `size` entries are published, or after `timeout` seconds."""
        with self._published:
            self._published.wait_for(lambda: self._size >= size, timeout)

    def wait_newer(self, head: Note, timeout: float) -> None:
        """Returns when another checkpoint than `head` is published, or after `timeout` seconds."""
        with self._published:
            self._published.wait_for(lambda: self._head != head, timeout)

    def prove(self, index: int) -> TlogProof:
        """The proof that entry `index` is in the published tree. Raises ProofInvalid beyond it."""
        head = self._head
        size = checkpoints.parse(head.text).size
        path = merkle.inclusion_proof(index, size, tiles.TileHashes(self._read_tile, size))
        return TlogProof(index, tuple(path), head, self._database.leaf(index))

    def prove_consistency(self, old: int) -> list[bytes]:
        """The proof that the tree of size `old` is a prefix of the published one."""
        size = self._size
        return merkle.consistency_proof(old, size, tiles.TileHashes(self._read_tile, size))

    def _read_tile(self, path: str) -> bytes:
        try:
            return self.public.read(path)
        except FileNotFoundError:
            # The partial tile was full by the time it was asked for, and has gone: take its beginning.
            tile = tiles.parse_path(path)
            full = self.public.read(tiles.Tile(tile.level, tile.n).path)
            return full[: tile.width * merkle.HASH_SIZE]

    # Appending

    def append(self, batch: Sequence[Submission]) -> list[int]:
        """Records a batch; returns the index of each when all are durable and published.

        An envelope that is recorded already (or twice in the batch) gets its first index again.
        Raises LogRefused when this or an earlier append failed half-way.
        """
        with self._appending:
            if self._broken:
                raise LogRefused("an append failed half-way; restart the witness to check the log")
            known = self._database.indexes([s.digest for s in batch])
            fresh: dict[bytes, Submission] = {}
            for submission in batch:
                if submission.digest not in known:
                    fresh.setdefault(submission.digest, submission)
            if fresh:
                self._broken = True
                known |= self._record(list(fresh.values()))
                self._broken = False
        return [known[s.digest] for s in batch]

    def _record(self, fresh: Sequence[Submission]) -> dict[bytes, int]:
        first = self._size
        now = self._last_time = max(self._clock(), self._last_time)
        rows = [
            Row(first + i, s.digest, Leaf(s.digest, s.tag, now).to_bytes(), s.envelope)
            for i, s in enumerate(fresh)
        ]
        edge, _ = self._edge.grow([leaf_hash(row.leaf) for row in rows])
        head = checkpoints.sign(Checkpoint(self.origin, edge.size, edge.root), self._key)
        staged = Staged(first, edge.size, str(head))
        self._database.stage(rows, staged)
        self._step("staged")
        self._finish(staged, [row.leaf for row in rows])
        return {row.digest: row.index for row in rows}

    def _finish(self, staged: Staged, entries: Sequence[bytes]) -> None:
        """From a staged batch to a published one. Every step may be repeated after a crash."""
        edge, changed = self._edge.grow([leaf_hash(entry) for entry in entries])
        head = note.parse(staged.checkpoint)
        if checkpoints.parse(head.text) != Checkpoint(self.origin, edge.size, edge.root):
            raise LogRefused("the staged entries do not make the tree that was signed for them")
        if self._database.locked() != staged.checkpoint:
            self._database.advance(str(self._head), staged.checkpoint)
        self._step("locked")
        for tile, hashes in changed.items():
            self._write_tile(tile, b"".join(hashes))
        bundle = self._write_bundles(staged.first, entries)
        self._step("tiled")
        self.public.write(_PUBLISHED, str(head).encode())
        self._step("published")
        with self._published:
            self._head, self._edge, self._bundle = head, edge, bundle
            self._published.notify_all()
        self._database.drop_staged()
        self._step("dropped")
        self._delete_partials(changed)

    def _write_bundles(self, first: int, entries: Sequence[bytes]) -> list[bytes]:
        row, n = [*self._bundle, *entries], first // tiles.WIDTH
        for at in range(0, len(row), tiles.WIDTH):
            part = row[at : at + tiles.WIDTH]
            self._write_tile(tiles.Tile(-1, n + at // tiles.WIDTH, len(part)), tiles.encode_bundle(part))
        return row[len(row) - len(row) % tiles.WIDTH :]

    def _write_tile(self, tile: tiles.Tile, data: bytes) -> None:
        self.public.write(tile.path, data)
        self._step("tile")

    def _delete_partials(self, changed: dict[tiles.Tile, list[bytes]]) -> None:
        """Partial tiles whose full tile is published may go (tlog-tiles, Partial Tiles)."""
        for tile in changed:
            if tile.width == tiles.WIDTH:
                self.public.delete(tile.path + ".p")
                if tile.level == 0:
                    self.public.delete(tiles.Tile(-1, tile.n).path + ".p")

    # Starting

    def _recover(self) -> tuple[Note, tiles.Edge, list[bytes]]:
        published, locked = self._read_published(), self._database.locked()
        if locked is None:
            if published is not None or self._database.count():
                raise LogRefused("the database has lost the tree head that is published: a rollback")
            locked = str(checkpoints.sign(Checkpoint(self.origin, 0, merkle.EMPTY_ROOT), self._key))
            self._database.create(locked)
            self._step("created")
        if published is None:
            if self._own(locked).size or (self.public.root / "tile").exists():
                raise LogRefused("the published checkpoint is gone: a rollback of the tiles")
            self.public.write(_PUBLISHED, locked.encode())
            published = locked
        self._check_heads(self._own(published), self._own(locked))
        self._head = note.parse(published)
        self._edge, self._bundle = self._read_edge(self._own(published))
        self._replay(locked)
        if self._database.count() != self._size:
            raise LogRefused("the database does not hold the entries of the published tree: a rollback")
        return self._head, self._edge, self._bundle

    def _read_published(self) -> str | None:
        try:
            return self.public.read(_PUBLISHED).decode()
        except FileNotFoundError:
            return None

    def _own(self, text: str) -> Checkpoint:
        try:
            return checkpoints.open_checkpoint(note.parse(text), [self.vkey])
        except (NoteInvalid, CheckpointInvalid) as error:
            raise LogRefused("a checkpoint that this log's key did not sign") from error

    @staticmethod
    def _check_heads(published: Checkpoint, locked: Checkpoint) -> None:
        if published.size > locked.size:
            raise LogRefused("published beyond the locked tree head: a rollback of the database")
        if published.size == locked.size and published.root != locked.root:
            raise LogRefused("two signed roots for one tree size: a fork")

    def _read_edge(self, head: Checkpoint) -> tuple[tiles.Edge, list[bytes]]:
        try:
            edge = tiles.read_edge(self._read_tile, head.size)
            bundle = self._read_bundle(head.size)
        except (FileNotFoundError, tiles.TileInvalid) as error:
            raise LogRefused("tiles of the published tree are missing or damaged") from error
        if edge.root != head.root:
            raise LogRefused("the tiles do not make the published tree")
        return edge, bundle

    def _read_bundle(self, size: int) -> list[bytes]:
        """The last entry bundle, checked against its hashes; its entries when it is still partial."""
        if not size:
            return []
        tile = tiles.tile_of(-1, (size - 1) // tiles.WIDTH, size)
        hashes = tiles.decode_hashes(self._read_tile(tiles.Tile(0, tile.n, tile.width).path), tile.width)
        entries = tiles.decode_bundle(self._bundle_bytes(tile))[: tile.width]
        if [leaf_hash(entry) for entry in entries] != hashes:
            raise tiles.TileInvalid("the last entry bundle does not hash to its tile")
        return entries if tile.width < tiles.WIDTH else []

    def _bundle_bytes(self, tile: tiles.Tile) -> bytes:
        try:
            return self.public.read(tile.path)
        except FileNotFoundError:
            return self.public.read(tiles.Tile(-1, tile.n).path)

    def _replay(self, locked: str) -> None:
        staged, size = self._database.staged(), self._size
        if staged is not None and staged.size > size:
            if staged.first != size or locked not in (str(self._head), staged.checkpoint):
                raise LogRefused("the staged batch does not follow the published tree: a rollback")
            self._own(staged.checkpoint)
            self._finish(staged, self._database.leaves(staged.first, staged.size))
        elif self._own(locked).size != size:
            raise LogRefused("the locked tree head was never staged: a rollback of the database or the tiles")
        else:
            self._database.drop_staged()

    def _time_of(self, index: int) -> int:
        entry = self._database.leaf(index)
        return 0 if entry is None else leaves.parse(entry).received_at


def _lock_folder(folder: Path) -> int:
    """One process per log: the lock lives as long as the descriptor."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "in-use", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LogRefused("another process is running this log") from error
    return descriptor
