"""A relay in front of a registry, on a loopback socket: it counts, holds back, and answers in the registry's place."""

from __future__ import annotations

import http.client
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

from tests.support.peers import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

_OWN: frozenset[str] = frozenset({"connection", "keep-alive", "transfer-encoding", "date", "server"})


@dataclass(frozen=True)
class Said:
    """A whole answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Relay:
    """Hands each request on to the registry at *host*."""

    def __init__(self, host: str) -> None:
        self.asked: list[str] = []
        """Methods and targets, such as `GET /v2/`, in the order in which they came."""
        self.most = 0
        """How many requests were under way at the same time, at most, of those that count."""
        self.counts: Callable[[str], bool] = lambda _: True
        self.instead: Callable[[str], Said | None] = lambda _: None
        self.held = 0
        self._host = host
        self._hold: Callable[[str], bool] = lambda _: False
        self._now = 0
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def hold(self, which: Callable[[str], bool]) -> None:
        """Let the requests wait for which *which* is true, until `release`."""
        self._hold = which

    def wait_held(self, count: int = 1) -> None:
        """Wait until so many requests are held."""
        eventually(lambda: self.held >= count, f"{count} requests are held")

    def release(self) -> None:
        """Hand on all that are held, and hold none any more."""
        with self._changed:
            self._hold = lambda _: False
            self._changed.notify_all()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        line = f"{request.command} {request.path}"
        body = request.rfile.read(int(request.headers.get("Content-Length", "0")))
        with self._changed:
            self.asked.append(line)
            self._now += self.counts(line)
            self.most = max(self.most, self._now)
            if self._hold(line):
                self.held += 1
                self._changed.wait_for(lambda: not self._hold(line))
                self.held -= 1
        said = self.instead(line) or self._forwarded(request, body)
        with self._changed:
            # Before the answer: whoever has it may ask again at once.
            self._now -= self.counts(line)
        request.send_response(said.status)
        for name, value in {"Content-Length": str(len(said.body)), **said.headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(said.body)

    def _forwarded(self, request: BaseHTTPRequestHandler, body: bytes) -> Said:
        connection = http.client.HTTPConnection(self._host, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN}
            connection.request(request.command, request.path, body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN}
            return Said(answer.status, content, kept)
        except OSError:
            return Said(502)
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        serve = self._serve

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                with suppress(OSError):
                    serve(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815 - http.server's names

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
