"""The append-only log: an RFC 6962 tree over public leaves, as C2SP tiles with signed checkpoints.

Order of a durable append (after Sunlight), each step done before the next begins:

    sequence, stage and move the lock to the signed checkpoint, in one transaction -> write tiles
        -> publish the checkpoint (the next batch drops the staging mark)

Where the log needs a quorum of witnesses, an entry is *recorded* when it is published, and *witnessed* once
the quorum cosigned a checkpoint that covers it; proofs are made under witnessed checkpoints only.

Two heads that contradict each other can never both be published, since a checkpoint leaves this file only
after the lock moved from its predecessor. On start it refuses to run on anything that looks like a
rollback, and finishes a batch that was interrupted. After a failure inside an append the next one begins
with the checks of a start, and the disk must still hold what this process published and cosigners signed: so
a disk that was full and has room again needs nobody, and one that was set back meanwhile is refused for good.
"""

import fcntl
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from witness import checkpoint as checkpoints
from witness import cose, merkle, note, tiles
from witness import leaf as leaves
from witness.checkpoint import Checkpoint, CheckpointInvalid, LogKey
from witness.database import Database, Row, Staged
from witness.encoding import system_entropy
from witness.files import Folder
from witness.keys import ED25519, PrivateKeys
from witness.leaf import Leaf
from witness.merkle import ProofInvalid, leaf_hash
from witness.note import Note, NoteInvalid, NoteSignature, VerifierKey
from witness.policy import NONE, Policy
from witness.sm2 import Sm2PrivateKey
from witness.tlog_proof import TlogProof

_PUBLISHED = "checkpoint"
_WITNESSED = "witnessed"
REMEMBERED = 2**15


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
    keys: an Ed25519 key, and ML-DSA-44 beside it; a log may gain the second one later. clock:
    milliseconds since 1970. database: SQLAlchemy URL. quorum: the policy that witnesses have to satisfy. sm2:
    a key for one more signature on each checkpoint, which may come and go.
    """

    def __init__(
        self,
        folder: Path,
        origin: str,
        keys: PrivateKeys,
        clock: Callable[[], int],
        database: str | None = None,
        quorum: Policy | None = None,
        step: Callable[[str], None] = _no_step,
        sm2: Sm2PrivateKey | None = None,
    ) -> None:
        self.origin = note.check_name(origin)
        self._signing: tuple[LogKey, ...] = keys.keys if sm2 is None else (*keys.keys, sm2)
        self.vkeys: tuple[VerifierKey, ...] = tuple(checkpoints.log_key(origin, key) for key in self._signing)
        self._keys, self._clock, self._step = keys, clock, step
        self._quorum = quorum if quorum is not None and quorum.quorum != NONE else None
        self.public, self._private = Folder(folder / "public"), Folder(folder)
        self._exclusive = _lock_folder(folder)
        try:
            self._database = Database(database or sqlite_url(folder))
        except BaseException:
            os.close(self._exclusive)
            raise
        self._appending = threading.Lock()
        self._published = threading.Condition()
        self._broken = self._refused = False
        self._lately: dict[bytes, None] = {}  # digests, oldest first
        try:
            self._head, self._edge, self._bundle = self._recover()
            self._witnessed = self._recover_witnessed()
            self._last_time = self._time_of(self._size - 1)
            self._promised = checkpoints.parse(self._head.text)
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
    def needs_quorum(self) -> bool:
        """Whether entries have to be cosigned before they are proved."""
        return self._quorum is not None

    @property
    def witnessed(self) -> Note | None:
        """The newest checkpoint that counts: cosigned by the quorum, where the log needs one."""
        return self._head if self._quorum is None else self._witnessed

    @property
    def witnessed_size(self) -> int:
        """The number of entries that can be proved."""
        head = self.witnessed
        return 0 if head is None else checkpoints.parse(head.text).size

    @property
    def database(self) -> Database:
        """The tables, for those who read records by digest."""
        return self._database

    def read(self, path: str) -> bytes:
        """What anybody may read: the checkpoint that counts, and tiles. Raises FileNotFoundError."""
        if path != _PUBLISHED:
            return self.public.read(path)
        return str(self.witnessed or self._head).encode()

    def wait(self, size: int, timeout: float) -> None:
        """Returns when at least `size` entries are witnessed, or after `timeout` seconds."""
        with self._published:
            self._published.wait_for(lambda: self.witnessed_size >= size, timeout)

    def wait_newer(self, head: Note | None, timeout: float) -> None:
        """Returns when another checkpoint than `head` is witnessed, or after `timeout` seconds."""
        with self._published:
            self._published.wait_for(lambda: self.witnessed != head, timeout)

    def wait_published(self, head: Note, timeout: float) -> None:
        """Returns when another checkpoint than `head` is published, or after `timeout` seconds."""
        with self._published:
            self._published.wait_for(lambda: self._head != head, timeout)

    def cosigned(self, head: Note, lines: Sequence[NoteSignature]) -> bool:
        """Takes cosignatures of a checkpoint of ours; whether they make the quorum.

        Kept, and proofs are made under it, when they do and nothing larger is witnessed already. Raises
        NoteInvalid when a known witness's line does not hold.
        """
        known = {(key.name, key.id) for key in self._quorum.witnesses.values()} if self._quorum else set()
        counted = [line for line in lines if (line.name, line.key_id) in known]
        signed = Note(head.text, (*head.signatures, *counted))
        if self._quorum is None or not self._quorum.satisfied_by(self._quorum.cosigners(signed).keys()):
            return False
        with self._appending:
            size = checkpoints.parse(head.text).size
            if self._witnessed is None or size > self.witnessed_size:
                self._private.write(_WITNESSED, str(signed).encode())
                self._step("witnessed")
                with self._published:
                    self._witnessed = signed
                    self._published.notify_all()
        return True

    def prove(self, index: int) -> TlogProof:
        """The proof that entry `index` is in the witnessed tree. Raises ProofInvalid beyond it."""
        head = self.witnessed
        if head is None:
            raise ProofInvalid("no checkpoint is witnessed yet")
        size = checkpoints.parse(head.text).size
        path = merkle.inclusion_proof(index, size, tiles.TileHashes(self.read_tile, size))
        return TlogProof(index, tuple(path), head, self._database.leaf(index))

    def receipt(self, proof: TlogProof) -> bytes:
        """The COSE receipt (RFC 9942) of an entry, of the tree of its proof."""
        (key,) = (key for key in self._keys.keys if key.public.algorithm == ED25519)
        return cose.sign(proof, key)

    def prove_consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """The proof that the tree of size `old` is a prefix of the one of size `new` (or the published)."""
        size = self._size if new is None else new
        return merkle.consistency_proof(old, size, tiles.TileHashes(self.read_tile, size))

    def root_at(self, size: int) -> bytes:
        """The root that the tree had at an earlier size."""
        return merkle.root(size, tiles.TileHashes(self.read_tile, size))

    def head_at(self, size: int) -> Note:
        """The checkpoint of an earlier size, signed again.

        Not with ML-DSA-44: by tlog-cosignature that would say that no larger tree is known by now.
        """
        self._check_not_refused()
        keys = (key for key, vkey in zip(self._signing, self.vkeys, strict=True) if vkey.signs_text)
        return checkpoints.sign(Checkpoint(self.origin, size, self.root_at(size)), *keys)

    def read_tile(self, path: str) -> bytes:
        """A tile, or the entries of a bundle from its beginning on. Raises FileNotFoundError."""
        try:
            return self.public.read(path)
        except FileNotFoundError:
            # The partial tile was full by the time it was asked for, and has gone: take its beginning.
            tile = tiles.parse_path(path)
            full = self.public.read(tiles.Tile(tile.level, tile.n).path)
            return full if tile.level < 0 else full[: tile.width * merkle.HASH_SIZE]

    # Appending

    def refuse(self) -> None:
        """Takes no more entries: somebody holds a checkpoint that this tree contradicts."""
        self._refused = True  # for good: any thread may say so, at any moment of an append

    def append(self, batch: Sequence[Submission]) -> list[int]:
        """Records a batch; returns the index of each when all are durable and published.

        An envelope that is recorded already (or twice in the batch) gets its first index again.
        Raises LogRefused when an earlier append failed half-way, and the log cannot be put right yet.
        """
        with self._appending:
            self._check_not_refused()
            if self._broken:
                self._resume()
            known = self._database.indexes([s.digest for s in batch])
            fresh: dict[bytes, Submission] = {}
            for submission in batch:
                if submission.digest not in known:
                    fresh.setdefault(submission.digest, submission)
            if fresh:
                self._broken = True
                known |= self._record(list(fresh.values()))
                self._broken = False
            self._remember(known)
        return [known[s.digest] for s in batch]

    def _check_not_refused(self) -> None:
        if self._refused:
            raise LogRefused("the log has stopped; see why in what the witness wrote then")

    def _resume(self) -> None:
        """After an append that failed half-way: finishes or forgets it, as a start does.

        A disk may have room again. What a start would refuse stays refused.
        """
        try:
            self._database.reconnect()
            self._recover_again()
        except LogRefused:
            self.refuse()
            raise
        except (OSError, SQLAlchemyError) as error:
            raise LogRefused("an append failed half-way, and the disk or the database still fails") from error
        with self._published:
            self._published.notify_all()
        self._broken = False

    def _recover_again(self) -> None:
        """The checks of a start, and those that only a process can make that knows what it published.

        INVARIANT: the published head never shrinks: it is compared before anything is finished or signed.
        """
        published = self._read_published()
        self._check_kept(
            checkpoints.parse(self._head.text), 0 if published is None else self._own(published).size
        )
        self._head, self._edge, self._bundle = self._recover()
        self._check_kept(self._promised, self._size)
        kept = self._recover_witnessed()
        if kept is not None and checkpoints.parse(kept.text).size > self.witnessed_size:
            self._witnessed = kept
        self._last_time = self._time_of(self._size - 1)

    def _check_kept(self, ours: Checkpoint, size: int) -> None:
        """Refuses when a tree of `size` on the disk does not begin with one that we let out."""
        if size < ours.size or self._root_again(ours.size) != ours.root:
            raise LogRefused("the disk has lost what this log published since it started: a rollback")

    def recorded_lately(self, digest: bytes) -> bool:
        """Whether memory has it: both parties submit each envelope, one soon after the other."""
        return digest in self._lately

    def _remember(self, digests: Iterable[bytes]) -> None:
        self._lately |= dict.fromkeys(digests)
        for digest in list(itertools.islice(self._lately, max(0, len(self._lately) - REMEMBERED))):
            del self._lately[digest]

    def _record(self, fresh: Sequence[Submission]) -> dict[bytes, int]:
        first = self._size
        now = self._last_time = max(self._clock(), self._last_time)
        rows = [
            Row(first + i, s.digest, Leaf(s.digest, s.tag, now).to_bytes(), s.envelope, system_entropy(32))
            for i, s in enumerate(fresh)
        ]
        grown = self._edge.grow([leaf_hash(row.leaf) for row in rows])
        head = Checkpoint(self.origin, grown[0].size, grown[0].root)
        staged = Staged(first, head.size, str(self._sign(head, now)))
        self._database.stage(rows, staged, str(self._head))
        self._promised = head
        self._step("locked")
        self._publish(staged, [row.leaf for row in rows], *grown)
        return {row.digest: row.index for row in rows}

    def _sign(self, head: Checkpoint, now: int) -> Note:
        self._check_not_refused()
        return checkpoints.sign(head, *self._signing, timestamp=now // 1000)

    def _finish(self, staged: Staged, entries: Sequence[bytes]) -> None:
        """From a batch that a crash left staged to a published one. May itself be repeated."""
        edge, changed = self._edge.grow([leaf_hash(entry) for entry in entries])
        if self._own(staged.checkpoint) != Checkpoint(self.origin, edge.size, edge.root):
            raise LogRefused("the staged entries do not make the tree that was signed for them")
        if self._database.locked() != staged.checkpoint:
            self._database.advance(str(self._head), staged.checkpoint)
        self._step("locked")
        self.public.sync_above(tile.path for tile in changed)
        self._publish(staged, entries, edge, changed)

    def _publish(
        self,
        staged: Staged,
        entries: Sequence[bytes],
        edge: tiles.Edge,
        changed: Mapping[tiles.Tile, list[bytes]],
    ) -> None:
        """From a locked batch to a published one. Every step may be repeated after a crash."""
        head = note.parse(staged.checkpoint)
        bundles, open_bundle = self._bundles(staged.first, entries)
        hashes = {tile.path: b"".join(row) for tile, row in changed.items()}
        self.public.write_all(hashes | bundles)
        self._step("tiled")
        self.public.write(_PUBLISHED, str(head).encode())
        self._step("published")
        with self._published:
            self._head, self._edge, self._bundle = head, edge, open_bundle
            self._published.notify_all()
        self._delete_partials(changed)

    def _bundles(self, first: int, entries: Sequence[bytes]) -> tuple[dict[str, bytes], list[bytes]]:
        """The entry bundles that change, by path, and the entries of the one that stays partial."""
        row, n, files = [*self._bundle, *entries], first // tiles.WIDTH, {}
        for at in range(0, len(row), tiles.WIDTH):
            part = row[at : at + tiles.WIDTH]
            files[tiles.Tile(-1, n + at // tiles.WIDTH, len(part)).path] = tiles.encode_bundle(part)
        return files, row[len(row) - len(row) % tiles.WIDTH :]

    def _delete_partials(self, changed: Mapping[tiles.Tile, list[bytes]]) -> None:
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
            locked = str(self._sign(Checkpoint(self.origin, 0, merkle.EMPTY_ROOT), self._clock()))
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
        self._sign_again()
        if self._database.count() != self._size:
            raise LogRefused("the database does not hold the entries of the published tree: a rollback")
        return self._head, self._edge, self._bundle

    def _read_published(self) -> str | None:
        try:
            return self.public.read(_PUBLISHED).decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise LogRefused("the published checkpoint is damaged") from error

    def _own(self, text: str) -> Checkpoint:
        try:
            return checkpoints.open_checkpoint(note.parse(text), self.vkeys)
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
            edge = tiles.read_edge(self.read_tile, head.size)
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
        hashes = tiles.decode_hashes(self.read_tile(tiles.Tile(0, tile.n, tile.width).path), tile.width)
        entries = tiles.decode_bundle(self.read_tile(tile.path))[: tile.width]
        if [leaf_hash(entry) for entry in entries] != hashes:
            raise tiles.TileInvalid("the last entry bundle does not hash to its tile")
        return entries if tile.width < tiles.WIDTH else []

    def _replay(self, locked: str) -> None:
        staged, size = self._database.staged(), self._size
        if staged is not None and staged.size > size:
            if staged.first != size or locked not in (str(self._head), staged.checkpoint):
                raise LogRefused("the staged batch does not follow the published tree: a rollback")
            self._own(staged.checkpoint)
            self._finish(staged, self._database.leaves(staged.first, staged.size))
        elif self._own(locked).size != size:
            raise LogRefused("the locked tree head was never staged: a rollback of the database or the tiles")

    def _sign_again(self) -> None:
        """Adds the signature of a key that the log gained since: the same head, signed by all of its keys."""
        locked = note.parse(self._database.locked() or "")
        if locked != self._head:  # a crash between the two writes below
            self._publish_head(locked)
        if all(self._head.by(key) for key in self.vkeys):
            return
        head = self._sign(self._own(str(self._head)), self._clock())
        self._database.advance(str(self._head), str(head))
        self._step("signed again")
        self._publish_head(head)

    def _publish_head(self, head: Note) -> None:
        self.public.write(_PUBLISHED, str(head).encode())
        self._head = head

    def _recover_witnessed(self) -> Note | None:
        """The newest cosigned checkpoint, when it is of the published tree and the quorum still stands."""
        try:
            signed = note.parse(self._private.read(_WITNESSED).decode())
        except FileNotFoundError:
            return None
        except (NoteInvalid, UnicodeDecodeError) as error:
            raise LogRefused("the witnessed checkpoint is damaged") from error
        head = self._own(str(signed))
        if head.size > self._size:
            raise LogRefused("witnesses cosigned more than is published: a rollback of database and tiles")
        if self._root_again(head.size) != head.root:
            raise LogRefused("witnesses cosigned another tree than the published one: a fork")
        quorum = self._quorum
        still = quorum is not None and quorum.satisfied_by(quorum.cosigners(signed).keys())
        return signed if still else None

    def _root_again(self, size: int) -> bytes:
        try:
            return self.root_at(size)
        except (FileNotFoundError, tiles.TileInvalid) as error:
            raise LogRefused("tiles of the witnessed tree are missing or damaged") from error

    def _time_of(self, index: int) -> int:
        entry = self._database.leaf(index)
        return 0 if entry is None else leaves.parse(entry).received_at


def sqlite_url(folder: Path) -> str:
    """Where a log keeps its database unless it is told another place."""
    return f"sqlite:///{folder / 'witness.sqlite'}"


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
