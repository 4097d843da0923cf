"""Plain HTTP for strangers: a server that no client can hold up.

A client gets one thread for as long as it keeps its connection; there is a limit to them, to those of one
address, and to the time until the next request is here as a whole, however it drips in. What is over is cut
off.
"""

import io
import logging
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from witness.door import Places, Refusal

_log = logging.getLogger(__name__)
MOST_CLIENTS = 128
MOST_CLIENTS_EACH = 32
"""Of one address, behind which a proxy may pass on the requests of many."""
LONGEST_REQUEST = 10.0
"""Seconds until a request is here to its end, since the connection began or the last answer left."""


class BoundedServer(ThreadingHTTPServer):
    """Gives each client a thread, and so many clients a place."""

    daemon_threads = True

    def __init__(self, host: str, port: int, handler: "type[BoundedHandler]") -> None:
        self._places = Places(MOST_CLIENTS_EACH, MOST_CLIENTS)  # by address
        super().__init__((host, port), handler)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """One more client, or one too many, which is cut off."""
        try:
            self._places.take(client_address[0])
        except Refusal:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except Exception:  # no thread could be started, which would have given the place back
            self._places.leave(client_address[0])
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The client's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.leave(client_address[0])

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


class BoundedHandler(BaseHTTPRequestHandler):
    """Reads requests that are here in time. Says nothing of itself, and logs nothing of its clients."""

    server_version, sys_version = "bayspace-witness", ""
    timeout = 10  # seconds that a part of an answer may take to leave

    def setup(self) -> None:
        """Reads from here on through a clock."""
        super().setup()
        self.rfile.close()
        self._incoming = _Incoming(self.connection)
        self.rfile = io.BufferedReader(self._incoming)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle_one_request(self) -> None:
        """One request, which is cut off when it is not here in time."""
        self._incoming.begin()
        super().handle_one_request()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Nothing that anybody must read."""
        _log.debug(format, *args)
