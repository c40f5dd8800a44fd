"""``/v2/<name>/blobs/<digest>`` (end-2, end-10)."""

from __future__ import annotations

from aiohttp import web

from gateway.core import logs
from gateway.core.handlers.base import Exchange, matches
from gateway.core.rendering import API_VERSION
from gateway.core.streaming import send
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import ByteRange, Digest, UnsatisfiableRangeError, parse_range
from gateway.plugins import OpenBlob


async def get(exchange: Exchange) -> web.StreamResponse:
    """The blob, or a part of it; only a repository that links it has it."""
    digest = exchange.route.digest
    assert digest is not None
    backend = await exchange.backend()
    size: int | None = None
    if backend.metadata == "truth":
        size = await exchange.core.metadata.linked(exchange.name, digest)
        if size is None:
            raise _unknown(exchange)
        if exchange.request.method == "HEAD":
            return _head(exchange, digest, size)
    try:
        async with backend.open_blob(exchange.name, digest) as blob:
            if size is not None and blob.size != size:
                raise RegistryError(ErrorCode.UNKNOWN, "the blob is damaged: push it again")
            return await _serve(exchange, digest, blob)
    except LookupError as error:
        if size is None:
            raise _unknown(exchange) from error
        raise RegistryError(ErrorCode.UNKNOWN, "the blob's bytes are missing: push it again") from error


def _headers(digest: Digest) -> dict[str, str]:
    return {
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        # A digest names the same bytes for ever; who may read them is asked every time.
        "Cache-Control": "private, max-age=31536000",
        "Content-Type": "application/octet-stream",
    }


def _head(exchange: Exchange, digest: Digest, size: int) -> web.Response:
    headers = _headers(digest)
    if matches(exchange.request.headers.get("If-None-Match"), headers["ETag"]):
        return web.Response(status=304, headers=headers)
    return web.Response(headers={**headers, "Content-Length": str(size)})


async def _serve(exchange: Exchange, digest: Digest, blob: OpenBlob) -> web.StreamResponse:
    request, size = exchange.request, blob.size
    headers = _headers(digest)
    if request.method == "HEAD" or matches(request.headers.get("If-None-Match"), headers["ETag"]):
        return _head(exchange, digest, size)
    if blob.location is not None:
        # Whoever holds such a URL may read the bytes: they were allowed to, and nobody else shall keep it.
        sent = {**headers, "Location": blob.location, "Cache-Control": "no-store"}
        return web.Response(status=307, headers=sent)
    part, status = ByteRange(0, size), 200
    wanted = _range(exchange, headers["ETag"], size)
    if wanted is not None:
        part, status = wanted, 206
        headers["Content-Range"] = f"bytes {part.first}-{part.stop - 1}/{size}"
    headers["Content-Length"] = str(len(part))
    # This answer leaves from here, before the pipeline could add what stands on every other.
    common = {**API_VERSION, "X-Request-Id": exchange.client.request_id}
    response = web.StreamResponse(status=status, headers={**headers, **common})
    await send(request, response, blob, part, exchange.core.stall)
    exchange.tell("pull", digest=digest, size=size)
    return response


async def delete(exchange: Exchange) -> web.StreamResponse:
    """The repository no longer has the blob, unless a manifest of it needs it; others that link it keep it."""
    digest, core = exchange.route.digest, exchange.core
    assert digest is not None
    backend = await exchange.backend()
    if backend.metadata == "truth" and not await core.pushes.unlink(exchange.name, digest):
        raise _unknown(exchange) if await core.metadata.linked(exchange.name, digest) is None else _needed(digest)
    if backend.metadata == "index" and await core.metadata.referred(exchange.name, digest) is not None:
        raise _needed(digest)
    try:
        await backend.delete_blob(exchange.name, digest)
    except LookupError as error:
        raise _unknown(exchange) from error
    finally:
        if backend.metadata == "index":
            await core.metadata.unlink(exchange.name, digest)
    logs.get("gateway").info(
        logs.DELETED,
        repository=exchange.name,
        tags=[],
        digest=digest,
        what="blob",
        how="registry",
        subject=exchange.caller.identity.subject,
        client=exchange.client.address,
        request_id=exchange.client.request_id,
    )
    exchange.tell("delete", digest=digest)
    return web.Response(status=202)


def _range(exchange: Exchange, etag: str, size: int) -> ByteRange | None:
    """The part that is asked for (RFC 9110 section 14.2), if the client's copy is still this blob (13.1.5)."""
    header = exchange.request.headers.get("Range")
    condition = exchange.request.headers.get("If-Range")
    if header is None or (condition is not None and condition.strip() != etag):
        return None
    try:
        return parse_range(header, size)
    except UnsatisfiableRangeError as error:
        raise RegistryError(
            ErrorCode.RANGE_INVALID, f"the blob has {size} bytes", headers={"Content-Range": f"bytes */{size}"}
        ) from error


def _needed(digest: Digest) -> RegistryError:
    """405, as the specification has it for what can't be deleted (end-10)."""
    message = "a manifest of the repository refers to the blob: delete that first"
    return RegistryError(ErrorCode.UNSUPPORTED, message, detail={"digest": digest}, headers={"Allow": "GET, HEAD"})


def _unknown(exchange: Exchange) -> RegistryError:
    return RegistryError(ErrorCode.BLOB_UNKNOWN, detail={"digest": exchange.route.digest})
