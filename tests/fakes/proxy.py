"""A forward proxy on a loopback socket (RFC 9110 section 9.3.6): absolute-form for http, CONNECT for the rest."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType


class ForwardProxy:
    """Forwards one request a connection, or a tunnel, and remembers the request lines."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.last: str | None = None
        """The beginning of a request line: once such a request was forwarded, no other is."""
        self.refuses = False
        """Whether it answers 403 to everybody."""
        self._over = False
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = client.recv(65536)
            if not chunk:
                return
            head += chunk
        line, rest = head.split(b"\r\n", 1)
        words = line.decode()
        self.asked.append(words)
        if self.last is None:
            self._over = False
        if self._over:
            return
        self._over = self.last is not None and words.startswith(self.last)
        if self.refuses:
            client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        method, target, _ = words.split(" ")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        with socket.create_connection((parts.hostname, parts.port or 80)) as server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = target.removeprefix(f"http://{parts.netloc}") or "/"
                server.sendall(f"{method} {path} HTTP/1.1\r\nConnection: close\r\n".encode() + rest)
            there = threading.Thread(target=_pass, args=(client, server), daemon=True)
            there.start()
            _pass(server, client)
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


def _pass(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until there are no more, in this direction."""
    with suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
    for one, way in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with suppress(OSError):
            one.shutdown(way)
