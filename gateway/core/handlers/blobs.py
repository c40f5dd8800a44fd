"""``/v2/<name>/blobs/<digest>`` (end-2, end-10)."""

from __future__ import annotations

from aiohttp import web

from gateway.core.handlers.base import Exchange, matches
from gateway.core.rendering import API_VERSION
from gateway.core.streaming import send
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import ByteRange, UnsatisfiableRangeError, parse_range


async def get(exchange: Exchange) -> web.StreamResponse:
    """The blob, or a part of it; only a repository that links it has it."""
    request, digest = exchange.request, exchange.route.digest
    assert digest is not None
    size = await exchange.core.metadata.linked(exchange.name, digest)
    if size is None:
        raise _unknown(exchange)
    etag = f'"{digest}"'
    headers = {
        "Docker-Content-Digest": digest,
        "ETag": etag,
        "Accept-Ranges": "bytes",
        # A digest names the same bytes for ever; who may read them is asked every time.
        "Cache-Control": "private, max-age=31536000",
        "Content-Type": "application/octet-stream",
    }
    if matches(request.headers.get("If-None-Match"), etag):
        return web.Response(status=304, headers=headers)
    if request.method == "HEAD":
        return web.Response(headers={**headers, "Content-Length": str(size)})
    part, status = ByteRange(0, size), 200
    wanted = _range(exchange, etag, size)
    if wanted is not None:
        part, status = wanted, 206
        headers["Content-Range"] = f"bytes {part.first}-{part.stop - 1}/{size}"
    headers["Content-Length"] = str(len(part))
    backend = await exchange.backend()
    try:
        async with backend.open_blob(exchange.name, digest) as blob:
            # This answer leaves from here, before the pipeline could add what stands on every other.
            common = {**API_VERSION, "X-Request-Id": exchange.client.request_id}
            response = web.StreamResponse(status=status, headers={**headers, **common})
            if blob.size != size:
                raise RegistryError(ErrorCode.UNKNOWN, "the blob is damaged: push it again")
            await send(request, response, blob, part, exchange.core.stall)
    except LookupError as error:
        raise RegistryError(ErrorCode.UNKNOWN, "the blob's bytes are missing: push it again") from error
    exchange.tell("pull", digest=digest, size=size)
    return response


async def delete(exchange: Exchange) -> web.StreamResponse:
    """The repository no longer has the blob; others that link it keep it."""
    digest = exchange.route.digest
    assert digest is not None
    if not await exchange.core.metadata.unlink(exchange.name, digest):
        raise _unknown(exchange)
    await (await exchange.backend()).delete_blob(exchange.name, digest)
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


def _unknown(exchange: Exchange) -> RegistryError:
    return RegistryError(ErrorCode.BLOB_UNKNOWN, detail={"digest": exchange.route.digest})
