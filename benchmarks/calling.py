"""Some clients of one connector's catalogue, in a process of their own: `calling.py FOLDER CLIENTS CALLS`.

Says `ready` when every client is connected, waits for a line, makes its calls, and prints their seconds.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from connector.api import connect
from connector.config import load


def main(folder: str, clients: int, calls: int) -> None:
    """Connect, wait, call."""
    own = load(Path(folder)).participant
    spaces = [connect(Path(folder)) for _ in range(clients)]

    def one(number: int) -> list[float]:
        walls = []
        for _ in range(calls // clients):
            start = time.perf_counter()
            spaces[number].catalogue(own)
            walls.append(time.perf_counter() - start)
        return walls

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda space: space.catalogue(own), spaces))
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps([wall for walls in pool.map(one, range(clients)) for wall in walls]), flush=True)
    for space in spaces:
        space.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
