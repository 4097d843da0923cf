"""tlog-tiles: paths, partial tiles, bundles; and a tree grown by tiles is the tree of its leaves."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from witness import merkle, tiles
from witness.merkle import leaf_hash
from witness.tiles import Edge, Tile, TileHashes, TileInvalid


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 1234067), "tile/0/x001/x234/067"),
        (Tile(2, 5, 17), "tile/2/005.p/17"),
        (Tile(-1, 273, 112), "tile/entries/273.p/112"),
        (Tile(63, 999_000), "tile/63/x999/000"),
    ],
)
def test_paths(tile, path):
    assert tile.path == path
    assert tiles.parse_path(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/001/234",
        "tile/0/x000/001",
        "tile/0/x001/x234",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000/",
        "tile/data/000",
        "tile/0/../../secret",
        "tile/0/000\n",
        "tile/0/０００",
        "/tile/0/000",
        "tile/0/" + "x001/" * 7 + "000",
        "tile/0/" + "x001/" * 2000 + "000",
    ],
)
def test_wrong_paths(path):
    with pytest.raises(TileInvalid):
        tiles.parse_path(path)


def test_the_specifications_example_of_70000():
    size = 70_000
    assert tiles.tile_of(0, 272, size) == Tile(0, 272)
    assert tiles.tile_of(0, 273, size) == Tile(0, 273, 112)
    assert tiles.tile_of(1, 0, size) == Tile(1, 0)
    assert tiles.tile_of(1, 1, size) == Tile(1, 1, 17)
    assert tiles.tile_of(2, 0, size) == Tile(2, 0, 1)
    with pytest.raises(TileInvalid):
        tiles.tile_of(0, 274, size)
    with pytest.raises(TileInvalid):
        tiles.tile_of(3, 0, size)
    assert tiles.tile_of(1, 0, 256) == Tile(1, 0, 1)


def grown(sizes):
    """The tiles of a log that grew in these steps, its leaves and its edge."""
    files, leaves, edge = {}, [], Edge()
    for size in sizes:
        new = [leaf_hash(i.to_bytes(4, "big")) for i in range(len(leaves), size)]
        edge, changed = edge.grow(new)
        leaves += new
        files |= {tile.path: b"".join(hashes) for tile, hashes in changed.items()}
    return files, leaves, edge


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=5), st.data())
def test_a_tree_grown_by_tiles_is_the_tree_of_its_leaves(steps, data):
    sizes = sorted(steps)
    files, leaves, edge = grown(sizes)
    size = len(leaves)
    plain = merkle.nodes_of(leaves)
    assert (edge.size, edge.root) == (size, merkle.root(size, plain))
    assert tiles.read_edge(files.__getitem__, size) == edge
    if size:
        node = TileHashes(files.__getitem__, size)
        index = data.draw(st.integers(0, size - 1))
        assert merkle.inclusion_proof(index, size, node) == merkle.inclusion_proof(index, size, plain)
        old = data.draw(st.integers(1, size))
        assert merkle.consistency_proof(old, size, node) == merkle.consistency_proof(old, size, plain)


def test_three_levels():
    files, leaves, edge = grown([65_000, 65_536, 65_537 + 256])
    size = len(leaves)
    plain = merkle.nodes_of(leaves)
    assert edge.root == merkle.root(size, plain)
    assert len(files["tile/1/000"]) == 8192
    assert len(files["tile/2/000.p/1"]) == 32
    assert tiles.read_edge(files.__getitem__, size) == edge
    node = TileHashes(files.__getitem__, size)
    for index in (0, 65_535, 65_536, size - 1):
        merkle.verify_inclusion(
            leaves[index], index, size, merkle.inclusion_proof(index, size, node), edge.root
        )


def test_every_partial_tile_of_the_size_is_there():
    files, _, _ = grown([300])
    assert set(files) == {"tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"}


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_bundles_read_back(entries):
    assert tiles.decode_bundle(tiles.encode_bundle(entries)) == entries


def test_bundle_layout_and_limits():
    assert tiles.encode_bundle([b"ab", b""]) == b"\x00\x02ab\x00\x00"
    with pytest.raises(TileInvalid):
        tiles.encode_bundle([b"x" * 65_536])
    for wrong in (b"\x00", b"\x00\x02a", b"\x00\x00\x00"):
        with pytest.raises(TileInvalid):
            tiles.decode_bundle(wrong)


def test_a_tile_of_the_wrong_length():
    with pytest.raises(TileInvalid):
        tiles.decode_hashes(b"x" * 33, 1)
