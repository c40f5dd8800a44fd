"""A way to a server on which a transfer can be held up in the middle, for as long as a test needs."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from tests.support.peers import PeerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_PIECE = 256 * 1024


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    # With the default of five, who connects with many others waits for seconds until the kernel tries again.
    request_queue_size = 1024


class Bottleneck:
    """Passes connections on to a `host:port`, whole and at once but for those that are `held_up`."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._limit: int | None = None
        self._reached = threading.Event()
        self._open = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def held_up(self, after: int) -> Iterator[None]:
        """Hold up who sends more than so many bytes over a connection from now on, until the block is left."""
        self._reached.clear()
        self._open.clear()
        self._limit = after
        try:
            yield
        finally:
            self._limit = None
            self._open.set()

    def wait(self, within: float = 60) -> None:
        """Wait until somebody is held up."""
        if not self._reached.wait(within):
            raise PeerError(f"within {within:g} s nobody sent more than {self._limit} bytes")

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        passed = 0
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                limit = self._limit
                passed = 0 if limit is None else passed + len(piece)
                if limit is not None and passed > limit:
                    self._reached.set()
                    self._open.wait()
                target.sendall(piece)
        _end(source, target)

    def _serve(self, client: socket.socket) -> None:
        with socket.create_connection(self._target) as server:
            there = threading.Thread(target=self._pass, args=(client, server), daemon=True)
            there.start()
            self._pass(server, client)
            there.join()

    def _handler(self) -> type[socketserver.BaseRequestHandler]:
        serve = self._serve

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    serve(self.request)

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _end(source: socket.socket, target: socket.socket) -> None:
    """Tell both ends that in this direction no more comes."""
    for one, way in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with suppress(OSError):
            one.shutdown(way)
