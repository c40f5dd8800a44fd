"""SIGTERM: running transfers end well, idle connections hold nothing up, and a stalled one is cut."""

from __future__ import annotations

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.images import Blob
from tests.support.peers import eventually
from tests.support.people import BOB, CAROL, PRIVATE
from tests.support.wire import authorization

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator

    from tests.conftest import GatewayFactory
    from tests.support.gateway import GatewayProcess

# More than the socket buffers of both ends hold together, so that it can't be sent before anybody reads.
CONTENT = images.noise(24 * 1024 * 1024)
DIGEST = images.sha256(CONTENT)
BLOB = Blob("application/octet-stream", CONTENT)


@contextmanager
def download(gateway: GatewayProcess) -> Iterator[http.client.HTTPResponse]:
    """Begin to pull the blob over a connection that takes in little at a time."""
    gateway.wire(CAROL).push_blob(PRIVATE, BLOB)
    with closing(gateway.wire(BOB).connect()) as connection:
        connection.sock = socket.socket()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        connection.sock.settimeout(60)
        connection.sock.connect(("127.0.0.1", gateway.port))
        connection.request("GET", f"/v2/{PRIVATE}/blobs/{DIGEST}", headers=authorization(BOB))
        with connection.getresponse() as response:
            assert response.status == 200
            yield response


def begin_to_stop(gateway: GatewayProcess) -> None:
    """Send SIGTERM and wait until the gateway no longer calls itself ready."""
    gateway.peer.send(signal.SIGTERM)
    eventually(lambda: not gateway.ready(), "the gateway is no longer ready")
    assert gateway.peer.running


def test_running_download_ends(gateway_factory: GatewayFactory) -> None:
    """A pull that runs at SIGTERM gets its last byte, and then the gateway ends with status 0."""
    gateway = gateway_factory()
    with download(gateway) as response:
        first = response.read(100_000)
        begin_to_stop(gateway)
        assert images.sha256(first + response.read()) == DIGEST
    assert gateway.peer.wait() == 0


def test_running_upload_ends(gateway_factory: GatewayFactory) -> None:
    """A push that runs at SIGTERM is acknowledged, and the blob is there after the restart."""
    gateway = gateway_factory()
    carol = gateway.wire(CAROL)
    location = carol.start_upload(PRIVATE)
    joint = "&" if "?" in location else "?"
    head = (
        f"PUT {location.removeprefix(gateway.base_url)}{joint}digest={DIGEST} HTTP/1.1\r\nHost: {gateway.host}\r\n"
        f"Authorization: {authorization(CAROL)['Authorization']}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(CONTENT)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(CONTENT[: len(CONTENT) // 2])
        begin_to_stop(gateway)
        connection.sendall(CONTENT[len(CONTENT) // 2 :])
        assert connection.recv(1024).startswith(b"HTTP/1.1 201 ")
    assert gateway.peer.wait() == 0
    gateway.restart()
    assert images.sha256(gateway.wire(BOB).get(f"/v2/{PRIVATE}/blobs/{DIGEST}").expect(200).body) == DIGEST


def test_no_new_connection(gateway_factory: GatewayFactory) -> None:
    """While the last transfers run, newcomers are turned away at the door."""
    gateway = gateway_factory()
    with download(gateway) as response:
        begin_to_stop(gateway)

        def turned_away() -> bool:
            try:
                return gateway.wire(BOB).get("/v2/").status == 503
            except OSError:
                return True

        eventually(turned_away, "a new connection is turned away")
        response.read()
    assert gateway.peer.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_is_lost(gateway_factory: GatewayFactory, workers: int) -> None:
    """Who asks one thing after the other over one connection has an answer to each, of which the last says it is."""
    gateway = gateway_factory(workers=workers)
    asking = threading.Barrier(9)

    def ask() -> int:
        answered = 0
        with closing(gateway.wire(BOB).connect()) as connection:
            while True:
                connection.request("GET", "/v2/", headers=authorization(BOB))
                with connection.getresponse() as answer:
                    assert answer.status == 200
                    answer.read()
                    if answer.will_close:
                        return answered
                if not answered:
                    asking.wait(30)
                answered += 1

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask) for _ in range(8)]
        asking.wait(30)
        gateway.peer.send(signal.SIGTERM)
        assert all(client.result() for client in clients)
    assert gateway.peer.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_idle_connection_holds_nothing_up(gateway_factory: GatewayFactory, workers: int) -> None:
    """A kept-alive connection without a request does not delay the end."""
    gateway = gateway_factory(workers=workers, extra={"server": {"drain": "10m"}})
    with closing(gateway.wire().connect()) as connection:
        connection.request("GET", "/v2/")
        connection.getresponse().read()
        assert gateway.stop(within=10) == 0


def test_stalled_transfer_is_cut(gateway_factory: GatewayFactory) -> None:
    """A pull whose reader stopped reading holds the gateway up no longer than `server.drain`."""
    gateway = gateway_factory(extra={"server": {"drain": "1s"}})
    with download(gateway):
        gateway.stop(within=15)
