"""Bodies in and out: never whole in memory, never faster than the other side, never waiting for ever."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from gateway.errors import ErrorCode, RegistryError
from gateway.oci import ByteRange
from gateway.plugins import OpenBlob

SENDFILE_MIN: Final = 64 * 1024
"""Bytes from which ``sendfile`` is worth a second descriptor of the socket."""
_STEP: Final = 1024 * 1024
"""Bytes that one call hands to the kernel: at 2 GB/s half a millisecond of the event loop."""


class BodyError(RegistryError):
    """The client stopped sending before its body was complete."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.SIZE_INVALID, "the body ended before its announced length")


async def body(request: web.BaseRequest, stall: float) -> AsyncIterator[bytes]:
    """The body of *request* as it comes in. Asks for it first where the client waits to be asked.

    Raises BodyError where it ends early, RegistryError 408 where nothing comes for *stall* seconds.
    """
    await proceed(request)
    stream = request.content
    try:
        while True:
            async with asyncio.timeout(stall):
                chunk = await stream.readany()
            if not chunk:
                return
            yield chunk
    except TimeoutError as error:
        raise RegistryError(ErrorCode.UNKNOWN, f"no byte of the body came for {stall:g} s", status=408) from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise BodyError from error


async def proceed(request: web.BaseRequest) -> None:
    """Say ``100 Continue`` to a client that waits for it: only once it is decided that its body is wanted."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # Or the response would count as begun.
        request.writer.output_size = 0


async def read_bounded(request: web.BaseRequest, limit: int, stall: float) -> bytes:
    """The whole body if it is at most *limit* bytes. Raises RegistryError 413 for more, as soon as that is known."""
    announced = request.content_length
    too_long = RegistryError(
        ErrorCode.SIZE_INVALID, f"a manifest has at most {limit} bytes", status=413, headers={"Connection": "close"}
    )
    if announced is not None and announced > limit:
        raise too_long
    parts: list[bytes] = []
    length = 0
    async for chunk in body(request, stall):
        length += len(chunk)
        if length > limit:
            raise too_long
        parts.append(chunk)
    return b"".join(parts)


async def send(
    request: web.BaseRequest, response: web.StreamResponse, blob: OpenBlob, part: ByteRange, stall: float
) -> None:
    """Send *part* of *blob* as the body of *response*. Raises ConnectionError where the client is gone or stalls.

    What a backend raises before its first chunk is raised while an error can still be said.
    """
    descriptor = blob.fileno
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    plain = transport.get_extra_info("sslcontext") is None
    if descriptor is not None and plain and len(part) >= SENDFILE_MIN:
        await response.prepare(request)
        request.writer.send_headers()
        await _drained(transport, stall)
        await _sendfile(transport, descriptor, part, stall)
    else:
        async with contextlib.aclosing(blob.read(part)) as chunks:
            first = await anext(chunks, b"")
            await response.prepare(request)
            await _write(response, first, stall)
            async for chunk in chunks:
                await _write(response, chunk, stall)
    await response.write_eof()


async def _write(response: web.StreamResponse, chunk: bytes, stall: float) -> None:
    try:
        async with asyncio.timeout(stall):
            await response.write(chunk)
    except TimeoutError as error:
        raise ConnectionAbortedError(f"the client took no byte for {stall:g} s") from error


async def _drained(transport: asyncio.Transport, stall: float) -> None:
    """Wait until the head of the response has left: the file's bytes go to the socket behind the transport's back."""
    low, high = transport.get_write_buffer_limits()
    if transport.get_write_buffer_size() == 0:
        return
    transport.set_write_buffer_limits(0, 0)
    loop = asyncio.get_running_loop()
    try:
        deadline = loop.time() + stall
        while transport.get_write_buffer_size():
            if transport.is_closing() or loop.time() > deadline:
                raise ConnectionAbortedError(f"the client took no byte for {stall:g} s")
            await asyncio.sleep(0.001)
    finally:
        transport.set_write_buffer_limits(high, low)


async def _sendfile(transport: asyncio.Transport, descriptor: int, part: ByteRange, stall: float) -> None:
    """Hand *part* of the file to the socket.

    uvloop has no sendfile of its own and allows nobody else to watch its descriptors: the socket is watched through a
    duplicate. What is not in the page cache is sent from a thread, so that a cold disk doesn't hold up everybody.
    """
    loop = asyncio.get_running_loop()
    connection = transport.get_extra_info("socket")
    socket = os.dup(connection.fileno())
    position = part.first
    try:
        while position < part.stop:
            if transport.is_closing():
                raise ConnectionResetError
            count = min(_STEP, part.stop - position)
            try:
                if _cached(descriptor, position, count):
                    sent = os.sendfile(socket, descriptor, position, count)
                    # Let others have their turn.
                    await asyncio.sleep(0)
                else:
                    sent = await loop.run_in_executor(None, os.sendfile, socket, descriptor, position, count)
            except BlockingIOError:
                await _writable(loop, socket, stall)
                continue
            if sent == 0:
                raise OSError("the blob's file ended early")
            position += sent
    finally:
        os.close(socket)


def _cached(descriptor: int, position: int, count: int) -> bool:
    """Whether the first and last byte of a stretch can be read without waiting for the disk."""
    try:
        return all(
            os.preadv(descriptor, [bytearray(1)], place, os.RWF_NOWAIT) for place in (position, position + count - 1)
        )
    except OSError:
        # Not in memory, or a file system that can't tell.
        return False


async def _writable(loop: asyncio.AbstractEventLoop, socket: int, stall: float) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(socket, wake)
    try:
        async with asyncio.timeout(stall):
            await ready
    except TimeoutError as error:
        raise ConnectionAbortedError(f"the client took no byte for {stall:g} s") from error
    finally:
        loop.remove_writer(socket)


async def drain_body(request: web.BaseRequest, stall: float) -> None:
    """Read and drop what is left of a small body that nobody needs."""
    with contextlib.suppress(RegistryError):
        async for _ in body(request, stall):
            pass
