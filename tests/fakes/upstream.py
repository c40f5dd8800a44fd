"""A registry that does wrong what a test wants it to do wrong, byte by byte, on a loopback socket."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from tests.support.peers import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

After = Literal["keep", "close", "reset", "hang", "repeat", "stuck"]


@dataclass(frozen=True)
class Asked:
    """A request as it came, with all of its body that came; header names are lower-case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Turn:
    """What is answered to one request.

    Bytes, and then: keep the connection, close it, reset it, send nothing more until the other side leaves, repeat
    *tail* until then, or neither send nor read. *early*: without having read the request's body.
    """

    content: bytes = b""
    after: After = "keep"
    tail: bytes = b""
    early: bool = False


HANGS = Turn(after="hang")
RESETS = Turn(after="reset")
CLOSES = Turn(after="close")


def answer(
    status: int,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    length: int | None = None,
    after: After = "keep",
    early: bool = False,
) -> Turn:
    """Make an answer of a status; its Content-Length is *length* if that is to be another than the body's."""
    lines = {"Content-Length": str(len(body) if length is None else length), **(headers or {})}
    head = f"HTTP/1.1 {status} {http.client.responses.get(status, 'Odd')}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return Turn(head.encode("latin-1") + b"\r\n" + body, after, early=early)


def error(status: int, code: str, message: str = "no", headers: Mapping[str, str] | None = None) -> Turn:
    """Make an answer with an error in the form of the specification."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return answer(status, body, {"Content-Type": "application/json", **(headers or {})})


def endless(head: bytes, piece: bytes) -> Turn:
    """Make an answer that has no end."""
    return Turn(head, "repeat", piece)


class FaultyUpstream:
    """Answers each method and path with its turns, one after the other, and for ever with the last of them."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.left = 0
        """Connections that the other side closed while an answer to it was not over."""
        self.connections = 0
        self._turns: defaultdict[tuple[str, str], list[Turn]] = defaultdict(list)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._end: asyncio.Event
        self.port = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def on(self, method: str, target: str, *turns: Turn) -> None:
        """Answer *method* for *target*, which has no query, with *turns*."""
        self._turns[method, target] = list(turns)

    def requests(self, method: str, target: str) -> list[Asked]:
        """Give the requests that came for it."""
        return [one for one in self.asked if (one.method, one.target.partition("?")[0]) == (method, target)]

    async def wait_left(self, count: int = 1) -> None:
        """Wait until so many connections were closed on the other side in the middle of an answer."""
        await asyncio.to_thread(eventually, lambda: self.left >= count, "the other side has left")

    def _next(self, method: str, target: str) -> Turn:
        turns = self._turns[method, target.partition("?")[0]]
        if not turns:
            return answer(200) if target == "/v2/" else error(404, "NAME_UNKNOWN")
        return turns.pop(0) if len(turns) > 1 else turns[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
                while await self._exchange(reader, writer):
                    pass
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request and answer it; tell whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        turn = self._next(method, target)
        body = b"" if turn.early else await _body(reader, headers)
        self.asked.append(Asked(method, target, headers, body))
        writer.write(turn.content if method != "HEAD" else turn.content.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        if turn.after == "reset":
            writer.transport.abort()
            return False
        await writer.drain()
        try:
            while turn.after == "repeat":
                writer.write(turn.tail)
                await writer.drain()
        except ConnectionError:
            self.left += 1
            return False
        if turn.after == "stuck":
            await self._end.wait()
        if turn.after == "hang":
            await reader.read()
            self.left += 1
            return False
        return turn.after == "keep"

    def _run(self) -> None:
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        # A connection that is just being accepted becomes one more task.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        # What was aborted is closed in the next turn of the loop.
        await asyncio.sleep(0)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(parts)


def manifest_headers(**more: Any) -> dict[str, str]:
    """Make the headers of an OCI manifest."""
    return {"Content-Type": "application/vnd.oci.image.manifest.v1+json", **more}
