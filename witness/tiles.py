"""C2SP tlog-tiles (c2sp.org/tlog-tiles): the tree as static files of 256 hashes, the entries as bundles.

    tile/<L>/<N>[.p/<W>]        hashes of level L, 32 bytes each; W < 256 of them when partial
    tile/entries/<N>[.p/<W>]    entries, each with a big-endian uint16 length before it

Pure functions over bytes and paths; the files are written by log.py. Refuses paths that are not the one
spelling of a tile, so that nothing else can be asked of a server.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from witness.merkle import EMPTY_ROOT, HASH_SIZE, node_hash, perfect_root

HEIGHT = 8
WIDTH = 1 << HEIGHT
ENTRIES = "entries"
_PATH = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<n>(x[0-9]{3}/){0,6}[0-9]{3})(\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


class TileInvalid(ValueError):
    """Not a tile's path, or not a tile's content."""


@dataclass(frozen=True)
class Tile:
    """The `n`-th tile of a level (-1: the entry bundles), `width` hashes or entries wide."""

    level: int
    n: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """The tile's path below the log's prefix."""
        name = ENTRIES if self.level < 0 else str(self.level)
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{name}/{_index_path(self.n)}{partial}"


def _index_path(n: int) -> str:
    """1234067 -> x001/x234/067."""
    path = f"{n % 1000:03d}"
    while n := n // 1000:
        path = f"x{n % 1000:03d}/{path}"
    return path


def parse_path(path: str) -> Tile:
    """The tile with exactly this path. Raises TileInvalid."""
    match = _PATH.fullmatch(path)
    if not match:
        raise TileInvalid("not the path of a tile")
    level = -1 if match["level"] == ENTRIES else int(match["level"])
    n = int(match["n"].replace("x", "").replace("/", ""))
    tile = Tile(level, n, int(match["width"] or WIDTH))
    if level > 63 or tile.width > WIDTH or tile.path != path:
        raise TileInvalid("not the path of a tile")
    return tile


def tile_of(level: int, n: int, size: int) -> Tile:
    """The tile as a tree of `size` has it: full, or partial at the right edge.

    Raises TileInvalid when the tree has no such tile.
    """
    width = min(WIDTH, (size >> (HEIGHT * max(level, 0))) - n * WIDTH)
    if width <= 0:
        raise TileInvalid("a tile beyond the tree")
    return Tile(level, n, width)


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """An entry bundle. Raises TileInvalid for an entry longer than a uint16 can say."""
    if any(len(entry) > 0xFFFF for entry in entries):
        raise TileInvalid("an entry longer than 65535 bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle. Raises TileInvalid for bytes that do not divide into entries."""
    entries, at = [], 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise TileInvalid("an entry bundle that ends inside an entry")
        entries.append(data[at + 2 : end])
        at = end
    return entries


def decode_hashes(data: bytes, width: int) -> list[bytes]:
    """The hashes of a tile of `width`. Raises TileInvalid for another length."""
    if len(data) != width * HASH_SIZE:
        raise TileInvalid("a tile of another width than its path says")
    return [data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)]


class TileHashes:
    """Perfect subtree hashes (a merkle.Node) of a tree of `size`, from tiles that `read` returns by path.

    Each tile is read and decoded once; an instance serves one proof or one right edge.
    """

    def __init__(self, read: Callable[[str], bytes], size: int) -> None:
        self._read, self._size = read, size
        self._tiles: dict[Tile, list[bytes]] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """The hash of the perfect subtree over leaves [index * 2^level, (index + 1) * 2^level)."""
        # A tile of level L holds hashes of height 8L; the heights between are folded from it.
        tile_level, height = divmod(level, HEIGHT)
        first = index << height
        hashes = self.tile(tile_of(tile_level, first // WIDTH, self._size))
        return perfect_root(hashes[first % WIDTH : first % WIDTH + (1 << height)])

    def tile(self, tile: Tile) -> list[bytes]:
        """The hashes of one tile."""
        if tile not in self._tiles:
            self._tiles[tile] = decode_hashes(self._read(tile.path), tile.width)
        return self._tiles[tile]


@dataclass(frozen=True)
class Edge:
    """The right edge of a tree: per level the hashes of the partial tile (none when it just filled up).

    It is all that appending needs: O(log size) hashes, from which new tiles and the root follow.
    """

    levels: tuple[tuple[bytes, ...], ...] = ()

    @property
    def size(self) -> int:
        """The number of leaves."""
        return sum(len(row) << (HEIGHT * level) for level, row in enumerate(self.levels))

    @property
    def root(self) -> bytes:
        """The RFC 6962 root: the perfect subtrees of the edge, folded from the right."""
        folded = None
        for row in self.levels:
            for run in reversed(_perfect_runs(row)):
                left = perfect_root(run)
                folded = left if folded is None else node_hash(left, folded)
        return EMPTY_ROOT if folded is None else folded

    def grow(self, leaf_hashes: Sequence[bytes]) -> tuple["Edge", dict[Tile, list[bytes]]]:
        """The edge after these leaves, and every tile that is new or wider."""
        size, level = self.size, 0
        carry, levels = list(leaf_hashes), []
        changed: dict[Tile, list[bytes]] = {}
        while carry or level < len(self.levels):
            old = self.levels[level] if level < len(self.levels) else ()
            first, row = (size >> (HEIGHT * level)) // WIDTH, [*old, *carry]
            cut = [row[i : i + WIDTH] for i in range(0, len(row), WIDTH)]
            if carry:
                changed |= {Tile(level, first + k, len(part)): part for k, part in enumerate(cut)}
            full = [part for part in cut if len(part) == WIDTH]
            carry = [perfect_root(part) for part in full]
            levels.append(tuple(row[len(full) * WIDTH :]))
            level += 1
        return Edge(tuple(levels)), changed


def _perfect_runs(row: Sequence[bytes]) -> list[Sequence[bytes]]:
    """`row` cut into runs of descending powers of two."""
    runs, at = [], 0
    while at < len(row):
        width = 1 << ((len(row) - at).bit_length() - 1)
        runs.append(row[at : at + width])
        at += width
    return runs


def read_edge(read: Callable[[str], bytes], size: int) -> Edge:
    """The right edge of a published tree of `size`, from its tiles."""
    levels, level = [], 0
    while size >> (HEIGHT * level):
        count = size >> (HEIGHT * level)
        width = count % WIDTH
        tile = Tile(level, count // WIDTH, width)
        levels.append(tuple(decode_hashes(read(tile.path), width)) if width else ())
        level += 1
    return Edge(tuple(levels))
