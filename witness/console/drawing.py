"""The drawing of an inclusion path: from the leaf up to the root, with the sibling that joins at each level.

Geometry only; the template makes SVG of it. The running hash keeps to the middle, so that the eye follows one
line; a sibling stands left or right as the tree has it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from witness.merkle import node_hash

WIDTH, MIDDLE, SIDE = 760, 380, 245
BOX_WIDTH, BOX_HEIGHT, LEVEL = 190, 34, 66
MARGIN = 24


@dataclass(frozen=True)
class Box:
    """A hash: where its middle is, what it is (leaf, sibling, node, root), and its value in hexadecimal."""

    x: int
    y: int
    kind: str
    hash: str
    side: str = ""


@dataclass(frozen=True)
class Line:
    """A line between two boxes, as SVG's path data; `running` for the entry's own line."""

    path: str
    running: bool


def steps(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> list[tuple[str, bytes, bytes]]:
    """(side of the sibling, sibling, the hash above both), as RFC 9162 section 2.1.3.2 folds."""
    fn, sn, running, found = index, size - 1, leaf, []
    for sibling in path:
        left = bool(fn & 1) or fn == sn
        running = node_hash(sibling, running) if left else node_hash(running, sibling)
        found.append(("left" if left else "right", sibling, running))
        while left and not fn & 1 and fn:
            fn, sn = fn >> 1, sn >> 1
        fn, sn = fn >> 1, sn >> 1
    return found


def draw(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> dict[str, Any]:
    """Boxes and lines of the path, root at the top, and the drawing's size."""
    climbed = steps(index, size, leaf, path)
    height = MARGIN * 2 + BOX_HEIGHT + LEVEL * len(climbed)
    bottom = height - MARGIN - BOX_HEIGHT // 2
    boxes = [Box(MIDDLE, bottom, "leaf" if climbed else "root", leaf.hex())]
    lines = []
    for level, (side, sibling, above) in enumerate(climbed, 1):
        y, below = bottom - LEVEL * level, bottom - LEVEL * (level - 1)
        x = MIDDLE - SIDE if side == "left" else MIDDLE + SIDE
        kind = "root" if level == len(climbed) else "node"
        boxes += [Box(x, below, "sibling", sibling.hex(), side), Box(MIDDLE, y, kind, above.hex())]
        lines += [Line(_up(MIDDLE, below, y), running=True), Line(_across(x, below, y), running=False)]
    return {
        "width": WIDTH,
        "height": height,
        "box": {"width": BOX_WIDTH, "height": BOX_HEIGHT},
        "boxes": [asdict(box) for box in boxes],
        "lines": [asdict(line) for line in lines],
    }


def _up(x: int, below: int, above: int) -> str:
    return f"M{x} {below - BOX_HEIGHT // 2}V{above + BOX_HEIGHT // 2}"


def _across(x: int, below: int, above: int) -> str:
    turn = above + BOX_HEIGHT // 2 + (LEVEL - BOX_HEIGHT) // 2
    return f"M{x} {below - BOX_HEIGHT // 2}V{turn}H{MIDDLE}"
