"""`witness fsck`: everything the log keeps, read again and compared, with nothing running.

Every entry is hashed from its bundle up: bundles, tiles of all levels and those of earlier sizes that are
still served, root, signed checkpoint, cosigned checkpoint, the database's sequence and contents, its member
lists, and what it cosigned of other logs. Contradictions that logs signed are an alarm of their own. It
changes nothing; opening the log before finishes what a crash interrupted, as a start does.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from witness import checkpoint as checkpoints
from witness import dsse, note, tiles
from witness import leaf as leaves
from witness.checkpoint import CheckpointInvalid
from witness.cosignature import cosigned_at
from witness.encoding import format_time
from witness.files import Folder
from witness.leaf import LeafInvalid
from witness.log import Log
from witness.members import MemberList
from witness.memory import known_loss
from witness.merkle import leaf_hash
from witness.note import NoteInvalid, VerifierKey
from witness.schema import FormatError
from witness.tiles import Edge, Tile, TileInvalid

STEP = tiles.WIDTH
MOST_FINDINGS = 100


@dataclass(frozen=True)
class Report:
    """What was looked at, what is wrong, and what logs signed that cannot both be true."""

    origin: str
    size: int
    contents: int
    findings: tuple[str, ...]
    forks: tuple[str, ...]
    cosigned: tuple[str, ...] = ()

    def __str__(self) -> str:
        state = "clean" if not self.findings else f"DAMAGED: {len(self.findings)} findings"
        lines = [f"{self.origin}: {self.size} entries, {self.contents} contents kept; {state}"]
        lines += [f"  {finding}" for finding in self.findings]
        lines += [f"  {said}" for said in self.cosigned]
        return "\n".join([*lines, *(f"  ALARM: {fork}" for fork in self.forks)])


def check(log: Log, cosigner: Sequence[VerifierKey] = ()) -> Report:
    """Reads everything of an open log that takes no entries meanwhile. cosigner: this witness's own keys."""
    findings: list[str] = []
    for finding in _findings(log, cosigner):
        findings.append(finding)
        if len(findings) == MOST_FINDINGS:
            findings.append("there is more; the list ends here")
            break
    forks = tuple(
        f"log {fork.origin} " + ("signed two trees of one size" if fork.proved else "did not show growth")
        for fork in log.database.forks()
    )
    contents, cosigned = log.database.count_contents(), tuple(_cosigned(log, cosigner))
    return Report(log.origin, log.size, contents, tuple(findings), forks, cosigned)


def _cosigned(log: Log, cosigner: Sequence[VerifierKey]) -> Iterator[str]:
    """What is remembered of each other log, since when. Only that log can tell whether it is the newest."""
    for origin, kept in sorted(log.database.all_cosigned().items()):
        with contextlib.suppress(NoteInvalid, CheckpointInvalid):  # said already
            signed = note.parse(kept)
            size = checkpoints.parse(signed.text, extensions=True).size
            times = [at for key in cosigner if (at := cosigned_at(signed, key)) is not None]
            when = format_time(max(times) * 1000) if times else "with keys that are not its own now"
            yield f"cosigned log {origin} last at size {size}, {when}"


def _findings(log: Log, cosigner: Sequence[VerifierKey]) -> Iterator[str]:
    size = log.size
    yield from _check_entries(log, size)
    yield from _check_tiles(log, size)
    yield from _check_earlier_tiles(log, size)
    yield from _check_memory(log)
    loss = known_loss(Folder(log.public.root.parent), cosigner, log.database)
    if loss is not None:
        yield f"what was cosigned of other logs may be an old copy: {loss}"
    if log.database.count() != size:
        yield "the database holds another number of entries than the published tree"
    head = log.witnessed
    if head is not None and log.root_at(log.witnessed_size) != checkpoints.parse(head.text).root:
        yield "the cosigned checkpoint is of another tree"


def _check_entries(log: Log, size: int) -> Iterator[str]:
    """Bundles against the level-0 tiles, against the database, and each content against its leaf."""
    last = 0
    for first in range(0, size, STEP):
        tile = tiles.tile_of(-1, first // STEP, size)
        entries = _entries(log, tile)
        rows = log.database.entries(first, first + tile.width)
        if entries is None or len(entries) != tile.width:
            yield f"entry bundle {tile.path} is missing or damaged"
            continue
        if [(first + i, entry) for i, entry in enumerate(entries)] != [(r[0], r[2]) for r in rows]:
            yield f"the database and entry bundle {tile.path} differ"
        contents = log.database.contents(first, first + tile.width)
        for index, digest, entry in rows:
            problem, last = _check_leaf(digest, entry, last)
            if problem or (digest in contents and not _fits(contents[digest], digest)):
                yield f"entry {index}: {problem or 'its content is not what its leaf commits to'}"


def _check_leaf(digest: bytes, entry: bytes, last: int) -> tuple[str, int]:
    try:
        leaf = leaves.parse(entry)
    except LeafInvalid as error:
        return str(error), last
    if leaf.envelope != digest:
        return "its leaf commits to another envelope than the database says", last
    if leaf.received_at < last:
        return "it is older than the entry before it", last
    return "", leaf.received_at


def _fits(content: bytes | None, digest: bytes) -> bool:
    return content is not None and hashlib.sha256(content).digest() == digest


def _check_tiles(log: Log, size: int) -> Iterator[str]:
    """The tree built again from its entries: every tile, and the root that was signed."""
    edge = Edge()
    for first in range(0, size, STEP):
        entries = _entries(log, tiles.tile_of(-1, first // STEP, size))
        if entries is None:
            return  # said already; what follows cannot be built
        edge, changed = edge.grow([leaf_hash(entry) for entry in entries])
        for tile, hashes in changed.items():
            if _final(tile, size) and _read(log, tile) != b"".join(hashes):
                yield f"{tile.path} is missing, or is not made of the entries"
    if edge.root != checkpoints.parse(log.head.text).root:
        yield "the entries do not make the root that the checkpoint signs"


def _check_earlier_tiles(log: Log, size: int) -> Iterator[str]:
    """Partial tiles of earlier sizes: they are served as long as they are there."""
    for file in sorted((log.public.root / "tile").rglob("*")):
        path = str(file.relative_to(log.public.root))
        if file.is_dir() or (
            file.name.startswith(".") and file.suffix == ".new"
        ):  # half written, never served
            continue
        try:
            tile = tiles.parse_path(path)
            present = tiles.tile_of(tile.level, tile.n, size)
        except TileInvalid:
            yield f"{path} is no tile of this tree"
            continue
        if tile != present and not _begins(log, tile, present, file.read_bytes()):
            yield f"{path} is not how the tree was at that size"


def _begins(log: Log, tile: Tile, present: Tile, data: bytes) -> bool:
    """Whether these bytes are a tile of its width, and the present tile goes on from there."""
    whole = _read(log, present)
    return tile.width < present.width and whole is not None and whole.startswith(data) and _whole(tile, data)


def _whole(tile: Tile, data: bytes) -> bool:
    """Whether the bytes are as wide as the path says."""
    try:
        if tile.level < 0:
            return len(tiles.decode_bundle(data)) == tile.width
        return len(tiles.decode_hashes(data, tile.width)) == tile.width
    except TileInvalid:
        return False


def _check_memory(log: Log) -> Iterator[str]:
    """What a start or a cosignature reads of the database beside the log's own tables."""
    for number, kept in enumerate(log.database.member_lists(), 1):
        try:
            MemberList.parse(dsse.parse(kept).payload)
        except (dsse.EnvelopeInvalid, FormatError):
            yield f"member list {number} of the database cannot be read"
    for origin, cosigned in log.database.all_cosigned().items():
        try:
            head = checkpoints.parse(note.parse(cosigned).text, extensions=True)
        except (NoteInvalid, CheckpointInvalid):
            head = None
        if head is None or head.origin != origin:
            yield f"what was cosigned last of log {origin} cannot be read: it must not be cosigned again"


def _final(tile: Tile, size: int) -> bool:
    """Whether this is how the published tree has the tile, and not how it was in between."""
    return tile == tiles.tile_of(tile.level, tile.n, size)


def _read(log: Log, tile: Tile) -> bytes | None:
    try:
        return log.read_tile(tile.path)
    except FileNotFoundError:
        return None


def _entries(log: Log, tile: Tile) -> list[bytes] | None:
    data = _read(log, tile)
    try:
        return None if data is None else tiles.decode_bundle(data)[: tile.width]
    except TileInvalid:
        return None
