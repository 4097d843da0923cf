"""Some clients of one connector's catalogue, in a process of their own.

`calling.py FOLDER CLIENTS CALLS [PORT]` says `ready` when every client is connected, waits for a line, makes
its calls, and prints their seconds. With a PORT it calls the floor instead, which `calling.py FOLDER BYTES`
serves: the same gRPC library over the same mutual TLS, answering as many bytes and doing nothing else.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from connector.api import connect
from connector.config import load
from connector.identity import channel_credentials, channel_options, server_credentials

NOTHING = "Nothing"
THREADS = 64


def main(folder: Path, clients: int, calls: int, port: str = "") -> None:
    """Connect, wait, call."""
    call = _floor(folder, port) if port else _catalogue(folder)
    callers = [call() for _ in range(clients)]

    def one(caller: Callable[[], object]) -> list[float]:
        walls = []
        for _ in range(calls // clients):
            start = time.perf_counter()
            caller()
            walls.append(time.perf_counter() - start)
        return walls

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda caller: caller(), callers))
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps([wall for walls in pool.map(one, callers) for wall in walls]), flush=True)


def _catalogue(folder: Path) -> Callable[[], Callable[[], object]]:
    own = load(folder).participant

    def client() -> Callable[[], object]:
        space = connect(folder)
        return lambda: space.catalogue(own)

    return client


def _floor(folder: Path, port: str) -> Callable[[], Callable[[], object]]:
    config = load(folder)
    credentials, options = channel_credentials(config.tls), channel_options(config.space, config.participant)

    def client() -> Callable[[], object]:
        channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options)
        call: Any = channel.unary_unary(f"/{NOTHING}/{NOTHING}")
        return lambda: call(b"")

    return client


def serve(folder: Path, size: int) -> None:
    """Answer every call with `size` bytes until a line comes; print the port first."""
    reply = bytes(size)

    def nothing(request: bytes, context: Any) -> bytes:  # noqa: ARG001
        return reply

    server = grpc.server(ThreadPoolExecutor(THREADS))
    handlers: dict[str, Any] = {NOTHING: grpc.unary_unary_rpc_method_handler(nothing)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(NOTHING, handlers)])
    print(server.add_secure_port("127.0.0.1:0", server_credentials(load(folder).tls)), flush=True)
    server.start()
    sys.stdin.readline()
    server.stop(None)


def run(arguments: Sequence[str]) -> None:
    """`serve` with a folder and a size, `main` with more."""
    folder, number, *rest = arguments
    if rest:
        main(Path(folder), int(number), int(rest[0]), *rest[1:])
    else:
        serve(Path(folder), int(number))


if __name__ == "__main__":
    run(sys.argv[1:])
