"""Plain HTTP: who drips, keeps silent or opens many connections keeps nobody else out."""

import contextlib
import socket
import threading
import time

import pytest

from tests.waiting import settled
from witness import plainhttp
from witness.cosigner import Answer
from witness.metrics import MetricsServer
from witness.tileserver import TileServer

GET = b"GET /checkpoint HTTP/1.1\r\n\r\n"
POST = b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"


class Cosigns:
    def add_checkpoint(self, body):
        return Answer(200, body)


class Figures:
    def text(self):
        return "bayspace_witness_log_size 0\n"


@contextlib.contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.port
    server.shutdown()
    thread.join()
    server.server_close()


def tiles():
    return running(TileServer("127.0.0.1", 0, lambda _path: b"the checkpoint", Cosigns()))


@pytest.fixture
def port():
    with tiles() as port:
        yield port


def client(port, address="127.0.0.1"):
    return contextlib.closing(socket.create_connection(("127.0.0.1", port), 5, (address, 0)))


def served(connection):
    """Whether a request is answered; or the connection was cut off."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        connection.sendall(GET)
        while not answer.endswith(b"the checkpoint") and (part := connection.recv(4096)):
            answer += part
    return answer.endswith(b"the checkpoint")


@pytest.mark.parametrize("begin", [b"", b"GET /checkpoint HTTP/1.1\r\nX-Drip: ", POST, GET])
def test_a_request_that_drips_in_is_cut_off(port, monkeypatch, begin):
    monkeypatch.setattr(plainhttp, "LONGEST_REQUEST", 0.2)
    drips(port, begin)


def test_the_metrics_are_held_up_by_nobody(monkeypatch):
    monkeypatch.setattr(plainhttp, "MOST_CLIENTS_EACH", 1)
    with running(MetricsServer("127.0.0.1", 0, Figures())) as port:
        with client(port, "127.0.0.2") as silent:
            silent.sendall(b"GET /met")
            with client(port, "127.0.0.2") as second, contextlib.suppress(ConnectionError):
                assert second.recv(1) == b""
            with client(port) as scraper:
                scraper.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                assert b"bayspace_witness_log_size 0" in scraper.makefile("rb").read()
        monkeypatch.setattr(plainhttp, "LONGEST_REQUEST", 0.2)
        drips(port, b"GET /metrics HTTP/1.1\r\nX-Drip: ")


def drips(port, begin):
    """Returns once the connection is cut off, within two seconds."""
    with client(port) as connection:
        connection.sendall(begin)
        connection.settimeout(0.02)
        deadline = time.monotonic() + 2
        with contextlib.suppress(ConnectionError):
            while True:
                assert time.monotonic() < deadline
                connection.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(4096):
                        break


def test_a_request_in_parts_is_answered_and_so_is_the_next(port):
    with client(port) as connection:
        for part in (POST[:20], POST[20:], b"y" * 400, b"y" * 600):
            connection.sendall(part)
            time.sleep(0.01)
        answer = connection.makefile("rb")
        while answer.readline() != b"\r\n":
            pass
        assert answer.read(1000) == b"y" * 1000
        assert served(connection)


SECOND = b"GET /tile/0/000 HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize(
    "first",
    [
        b"GET /checkpoint HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(SECOND),
        b"HEAD /checkpoint HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(SECOND),
        b"GET /checkpoint HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n",
    ],
)
def test_a_body_that_is_not_read_is_not_the_next_request(port, first):
    with client(port) as connection:
        connection.sendall(first + SECOND)
        answer = b""
        with contextlib.suppress(ConnectionError):  # what lay unread resets it
            while part := connection.recv(4096):
                answer += part
    assert answer.count(b"HTTP/1.1 ") == 1


def test_an_address_has_its_share_of_the_places_and_no_more(monkeypatch):
    monkeypatch.setattr(plainhttp, "MOST_CLIENTS_EACH", 2)
    monkeypatch.setattr(plainhttp, "MOST_CLIENTS", 3)
    with tiles() as port, client(port) as first, client(port, "127.0.0.2") as other:
        with client(port) as second:
            assert served(first)
            assert served(second)
            with client(port) as third:
                assert not served(third)
            assert served(other)
            with client(port, "127.0.0.3") as beyond_all:
                assert not served(beyond_all)

        def served_again():
            with client(port) as again:
                return served(again)

        assert settled(served_again)  # the place is free again once the server has seen its end
