"""The public face of the witness over plain HTTP: its log's checkpoint and tiles (C2SP tlog-tiles), and,
when it cosigns other logs, `POST /add-checkpoint` and their newest checkpoints (C2SP tlog-witness).

Serves `/checkpoint`, well-formed tile paths and `/<origin hash>/checkpoint` to GET and HEAD; everything else
is 404, 405 or 501. The path of a request never becomes a file path: it is parsed into a tile, and the tile's
own path is read. A client gets one thread for as long as it keeps its connection; there is a limit to them,
to those of one address, and to the time until the next request is here as a whole.
"""

import io
import logging
import re
import socket
import threading
import time
from collections import Counter
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
MOST_CLIENTS_EACH = 32
"""Of one address, behind which a proxy may pass on the requests of many."""
LONGEST_REQUEST = 10.0
"""Seconds until a request is here to its end, since the connection began or the last answer left."""


class TileServer(ThreadingHTTPServer):
    """Serves what `read` returns for `checkpoint` and for tile paths (FileNotFoundError: 404)."""

    daemon_threads = True

    def __init__(
        self, host: str, port: int, read: Callable[[str], bytes], cosigner: Cosigner | None = None
    ) -> None:
        self.read, self.cosigner = read, cosigner
        self._held, self._places = Counter[str](), threading.Lock()  # places, by address
        super().__init__((host, port), _Handler)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """One more client, or one too many, which is cut off."""
        if not self._take(client_address[0]):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except Exception:  # no thread could be started, which would have given the place back
            self._leave(client_address[0])
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The client's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(client_address[0])

    def _take(self, address: str) -> bool:
        with self._places:
            if self._held[address] >= MOST_CLIENTS_EACH or self._held.total() >= MOST_CLIENTS:
                return False
            self._held[address] += 1
            return True

    def _leave(self, address: str) -> None:
        with self._places:
            self._held[address] -= 1
            if not self._held[address]:
                del self._held[address]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no error of ours."""
        del request, client_address
        _log.debug("a client's request ended early", exc_info=True)


class _Incoming(io.RawIOBase):
    """What a client sends. Raises TimeoutError when the request is not here in time, however it drips in."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._until = connection, 0.0

    def begin(self) -> None:
        """The time of the next request runs from now on."""
        self._until = time.monotonic() + LONGEST_REQUEST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        left, answering = self._until - time.monotonic(), self._connection.gettimeout()
        if left <= 0:
            raise TimeoutError("the request is not here in time")
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(answering)


class _Handler(BaseHTTPRequestHandler):
    server: TileServer
    server_version, sys_version = "bayspace-witness", ""
    protocol_version = "HTTP/1.1"  # logs keep their connections to witnesses open
    timeout = 10  # seconds that a part of an answer may take to leave

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._incoming = _Incoming(self.connection)
        self.rfile = io.BufferedReader(self._incoming)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle_one_request(self) -> None:
        """One request, which is cut off when it is not here in time."""
        self._incoming.begin()
        super().handle_one_request()

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
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                return body
            self.close_connection = True  # the client has gone
        return None

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
