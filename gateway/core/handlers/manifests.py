"""``/v2/<name>/manifests/<reference>`` (end-3, end-7, end-9)."""

from __future__ import annotations

from aiohttp import web

from gateway.core.access import denied
from gateway.core.handlers.base import Exchange, matches
from gateway.core.manifests import read
from gateway.core.streaming import read_bounded
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import MAX_MANIFEST, Digest, Reference, Tag
from gateway.plugins import By, Manifest, MissingContentError


async def get(exchange: Exchange) -> web.StreamResponse:
    """The manifest, byte for byte as it was pushed; only its head for HEAD."""
    reference = await _named(exchange)
    head = exchange.request.method == "HEAD"
    found = await (await exchange.store()).manifest(exchange.name, reference, head=head)
    if found is None:
        raise _unknown(exchange)
    etag = f'"{found.digest}"'
    headers = {"Docker-Content-Digest": found.digest, "ETag": etag}
    if matches(exchange.request.headers.get("If-None-Match"), etag):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = found.media_type
    if head:
        headers["Content-Length"] = str(found.size)
        return web.Response(headers=headers)
    exchange.tell("pull", digest=found.digest, tag=_tag(reference), media_type=found.media_type, size=found.size)
    return web.Response(body=found.content, headers=headers)


async def put(exchange: Exchange) -> web.StreamResponse:
    """Store a manifest under a tag, or under its digest and any ``tag`` parameters, all or nothing."""
    request, reference = exchange.request, exchange.route.reference
    assert reference is not None
    references = [reference, *_extra_tags(exchange)]
    content = await read_bounded(request, MAX_MANIFEST, exchange.core.stall)
    digest = Digest.of(content, reference.algorithm if isinstance(reference, Digest) else "sha256")
    if isinstance(reference, Digest) and digest != reference:
        raise RegistryError(ErrorCode.DIGEST_INVALID, "the manifest is not the one of the digest in its URL")
    media_type, details = read(content, request.headers.get("Content-Type"))
    deny = await exchange.core.plugins.admit_manifest(exchange.caller.identity, exchange.name, references, content)
    if deny is not None:
        raise denied(("push",), deny.reason)
    manifest = Manifest(digest, media_type, len(content), content, details)
    await exchange.core.metadata.record({exchange.name: exchange.project})
    try:
        store = await exchange.store()
        await store.put_manifest(exchange.name, references, manifest, exchange.caller.identity)
    except MissingContentError as error:
        raise RegistryError(
            ErrorCode.MANIFEST_BLOB_UNKNOWN,
            f"push what the manifest refers to first: {len(error.digests)} missing, such as {error.digests[0]}",
            detail={"digests": list(error.digests[:100])},
        ) from error
    for item in references:
        exchange.tell("push", digest=digest, tag=_tag(item), media_type=media_type, size=len(content))
    headers = {"Location": exchange.url(f"manifests/{reference}"), "Docker-Content-Digest": digest}
    if len(references) > 1:
        headers["OCI-Tag"] = ", ".join(references[1:])
    if details.subject is not None:
        headers["OCI-Subject"] = details.subject
    return web.Response(status=201, headers=headers)


async def delete(exchange: Exchange) -> web.StreamResponse:
    """Delete a tag and nothing else, or a manifest with the tags that point at it."""
    reference, client = await _named(exchange), exchange.client
    by = By(exchange.caller.identity.subject, "registry", client.address, client.request_id)
    if not await exchange.core.deletion.remove(exchange.name, reference, by):
        raise _unknown(exchange)
    return web.Response(status=202)


async def _named(exchange: Exchange) -> Reference:
    """What the route names. Raises RegistryError where that is nothing, or a tag that is hidden from the caller."""
    reference, identity = exchange.route.reference, exchange.caller.identity
    seen = not isinstance(reference, Tag) or await exchange.core.plugins.sees_tag(identity, exchange.name, reference)
    if reference is None or not seen:
        raise _unknown(exchange)
    return reference


def _extra_tags(exchange: Exchange) -> list[Tag]:
    values = exchange.route.parameters("tag")
    if values and not isinstance(exchange.route.reference, Digest):
        raise RegistryError(ErrorCode.MANIFEST_INVALID, "tag parameters go with a manifest that is pushed by digest")
    try:
        return [Tag.parse(value) for value in dict.fromkeys(values)]
    except ValueError as error:
        raise RegistryError(ErrorCode.MANIFEST_INVALID, str(error)) from error


def _tag(reference: Reference) -> str | None:
    return reference if isinstance(reference, Tag) else None


def _unknown(exchange: Exchange) -> RegistryError:
    return RegistryError(ErrorCode.MANIFEST_UNKNOWN, detail={"name": exchange.name})
