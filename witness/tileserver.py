"""The public face of the witness over plain HTTP: its log's checkpoint and tiles (C2SP tlog-tiles), and,
when it cosigns other logs, `POST /add-checkpoint` and their newest checkpoints (C2SP tlog-witness).

Serves `/checkpoint`, well-formed tile paths and `/<origin hash>/checkpoint` to GET and HEAD; everything else
is 404, 405 or 501. The path of a request never becomes a file path: it is parsed into a tile, and the tile's
own path is read. A body that was left unread is never taken for the next request: the connection ends.
"""

import logging
import re
from collections.abc import Callable
from http import HTTPStatus

from witness.cosigner import LARGEST_REQUEST, Answer, Cosigner
from witness.plainhttp import BoundedHandler, BoundedServer
from witness.tiles import TileInvalid, parse_path

_log = logging.getLogger(__name__)
_CHECKPOINT = ("text/plain; charset=utf-8", "no-cache")
_TILE = ("application/octet-stream", "public, max-age=31536000, immutable")
_COSIGNED = re.compile(r"([0-9a-f]{64})/checkpoint")


class TileServer(BoundedServer):
    """Serves what `read` returns for `checkpoint` and for tile paths (FileNotFoundError: 404)."""

    def __init__(
        self, host: str, port: int, read: Callable[[str], bytes], cosigner: Cosigner | None = None
    ) -> None:
        self.read, self.cosigner = read, cosigner
        super().__init__(host, port, _Handler)


class _Handler(BoundedHandler):
    server: TileServer
    protocol_version = "HTTP/1.1"  # logs keep their connections to witnesses open

    def do_GET(self) -> None:  # noqa: N802  http.server names them so
        self._answer(body=True)

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(body=False)

    def do_POST(self) -> None:  # noqa: N802
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
        lengths = self.headers.get_all("Content-Length", [])
        length = lengths[0] if len(lengths) == 1 and "Transfer-Encoding" not in self.headers else ""
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
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True
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
