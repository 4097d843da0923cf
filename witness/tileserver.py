"""The public face of the witness over plain HTTP: its log's checkpoint and tiles (C2SP tlog-tiles), and,
when it cosigns other logs, `POST /add-checkpoint` and their newest checkpoints (C2SP tlog-witness).

Serves `/checkpoint`, well-formed tile paths and `/<origin hash>/checkpoint` to GET and HEAD; everything else
is 404, 405 or 501. The path of a request never becomes a file path: it is parsed into a tile, and the tile's
own path is read. A client gets one thread, for as long as it keeps talking; there is a limit to them.
"""

import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from witness.cosigner import LARGEST_REQUEST, Answer, Cosigner
from witness.tiles import TileInvalid, parse_path

_log = logging.getLogger(__name__)
_CHECKPOINT = ("text/plain; charset=utf-8", "no-cache")
_TILE = ("application/octet-stream", "public, max-age=31536000, immutable")
_COSIGNED = re.compile(r"([0-9a-f]{64})/checkpoint")
MOST_CLIENTS = 128
LONGEST_BODY_SECONDS = 10.0


class TileServer(ThreadingHTTPServer):
    """Serves what `read` returns for `checkpoint` and for tile paths (FileNotFoundError: 404)."""

    daemon_threads = True

    def __init__(
        self, host: str, port: int, read: Callable[[str], bytes], cosigner: Cosigner | None = None
    ) -> None:
        self.read, self.cosigner = read, cosigner
        self._places = threading.BoundedSemaphore(MOST_CLIENTS)
        super().__init__((host, port), _Handler)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """One more client, or one too many, which is cut off."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The client's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no error of ours."""
        del request, client_address
        _log.debug("a client's request ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: TileServer
    server_version, sys_version = "bayspace-witness", ""
    protocol_version = "HTTP/1.1"  # logs keep their connections to witnesses open
    timeout = 10  # seconds a silent client may hold a thread

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        if self.server.cosigner is None or self.path != "/add-checkpoint":
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        body = self._body()
        if body is None:
            return
        try:
            answer = self.server.cosigner.add_checkpoint(body)
        except Exception:  # noqa: BLE001  a full disk, say: nothing unforeseen reaches the wire in its own words
            _log.exception("a checkpoint could not be cosigned")
            answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error\n")
        self._send(answer)

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED)
        elif len(length) > 9 or int(length) > LARGEST_REQUEST:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            return self._read_body(int(length))
        return None

    def _read_body(self, length: int) -> bytes | None:
        """The body, unless it comes so slowly that others would wait for this thread."""
        body, deadline = b"", time.monotonic() + LONGEST_BODY_SECONDS
        while len(body) < length:
            part = self.rfile.read1(length - len(body))
            if not part or time.monotonic() > deadline:
                self.close_connection = True
                return None
            body += part
        return body

    def _answer(self, *, body: bool) -> None:
        try:
            path = self.path.removeprefix("/")
            data = self._content(path)
        except (TileInvalid, FileNotFoundError):
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        kind, caching = _TILE if path.startswith("tile/") else _CHECKPOINT
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", caching)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _content(self, path: str) -> bytes:
        cosigned = _COSIGNED.fullmatch(path)
        if cosigned is None:
            return self.server.read(path if path == "checkpoint" else parse_path(path).path)
        found = None if self.server.cosigner is None else self.server.cosigner.checkpoint(cosigned[1])
        if found is None:
            raise FileNotFoundError(path)
        return found

    def _refuse(self, status: HTTPStatus) -> None:
        self.close_connection = True  # a body that was not read would be taken for the next request
        self.send_error(status)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        _log.debug(format, *args)
