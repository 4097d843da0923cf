"""The public face of the log: checkpoint and tiles over plain HTTP, read-only (C2SP tlog-tiles).

Serves `/checkpoint` and well-formed tile paths, to GET and HEAD; everything else is 404 or 501. The path
of a request never becomes a file path: it is parsed into a tile, and the tile's own path is read.
"""

import logging
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from witness.tiles import TileInvalid, parse_path

_log = logging.getLogger(__name__)
_CHECKPOINT = ("text/plain; charset=utf-8", "no-cache")
_TILE = ("application/octet-stream", "public, max-age=31536000, immutable")


class TileServer(ThreadingHTTPServer):
    """Serves what `read` returns for `checkpoint` and for tile paths (FileNotFoundError: 404)."""

    daemon_threads = True

    def __init__(self, host: str, port: int, read: Callable[[str], bytes]) -> None:
        self.read = read
        super().__init__((host, port), _Handler)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: TileServer
    server_version, sys_version = "bayspace-witness", ""
    timeout = 10  # seconds a silent client may hold a thread

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        try:
            path = self.path.removeprefix("/")
            data = self.server.read(path if path == "checkpoint" else parse_path(path).path)
        except (TileInvalid, FileNotFoundError):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, caching = _CHECKPOINT if path == "checkpoint" else _TILE
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", caching)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        _log.debug(format, *args)
