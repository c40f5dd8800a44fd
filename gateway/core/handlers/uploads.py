"""``/v2/<name>/blobs/uploads/`` (end-4, end-11) and what its Location answers (end-5, end-6, end-13, end-14)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from aiohttp import web

from gateway.core.handlers.base import Exchange
from gateway.core.streaming import body, drain_body
from gateway.core.uploads import Session
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import ALGORITHMS, Action, Digest, RepositoryName, parse_content_range
from gateway.plugins import (
    Backend,
    DigestMismatchError,
    OffsetError,
    StorageFullError,
    UploadBusyError,
    UploadUnknownError,
)


async def post(exchange: Exchange) -> web.StreamResponse:
    """Begin an upload; with ``digest`` take the whole blob at once, with ``mount`` link one that is here already."""
    route = exchange.route
    algorithm = route.parameter("digest-algorithm")
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise RegistryError(ErrorCode.DIGEST_INVALID, "use sha256 or sha512 as digest-algorithm")
    mount, whole = route.parameter("mount"), route.parameter("digest")
    expected = _digest(whole) if whole is not None else None
    await exchange.core.metadata.record({exchange.name: exchange.project})
    if mount is not None and await _mount(exchange, _digest(mount), route.parameter("from")):
        return _created(exchange, _digest(mount))
    backend = await exchange.backend()
    session = exchange.core.sessions.begin(exchange.caller.identity, exchange.caller.claims)
    with _translated():
        progress = await backend.begin_upload(exchange.name, session.id)
        session = exchange.core.sessions.moved(session, progress, exchange.caller.claims)
        if expected is None:
            return _accepted(exchange, session, 202)
        try:
            session = await _append(exchange, backend, session, None)
        except BaseException:
            # Nobody was told where this upload is, so nobody can go on with it: whatever stopped it, its bytes go.
            with suppress(UploadUnknownError):
                await backend.cancel_upload(exchange.name, session.id, session.progress)
            raise
    return await _finish(exchange, backend, session, expected)


async def patch(exchange: Exchange) -> web.StreamResponse:
    """Append a chunk, or a stream of any length."""
    session = _session(exchange)
    backend = await exchange.backend()
    with _translated():
        at = await _expected_offset(exchange, backend, session)
        session = await _append(exchange, backend, session, at)
    return _accepted(exchange, session, 202)


async def put(exchange: Exchange) -> web.StreamResponse:
    """Append what is left, verify the whole and make it a blob of the repository. The same again is 201 again."""
    session = _session(exchange)
    text = exchange.route.parameter("digest")
    if text is None:
        raise RegistryError(ErrorCode.DIGEST_INVALID, "the closing request needs the parameter digest")
    digest = _digest(text)
    backend = await exchange.backend()
    if await exchange.core.metadata.linked_by(exchange.name, digest, session.id):
        await drain_body(exchange.request, exchange.core.stall)
        return _created(exchange, digest)
    with _translated():
        at = await _expected_offset(exchange, backend, session)
        session = await _append(exchange, backend, session, at)
    return await _finish(exchange, backend, session, digest)


async def status(exchange: Exchange) -> web.StreamResponse:
    """Where the upload stands, and where to go on."""
    session = _session(exchange)
    backend = await exchange.backend()
    with _translated():
        progress = await backend.upload_progress(exchange.name, session.id, session.progress)
    return _accepted(exchange, exchange.core.sessions.moved(session, progress, exchange.caller.claims), 204)


async def cancel(exchange: Exchange) -> web.StreamResponse:
    """Drop the upload."""
    session = _session(exchange)
    backend = await exchange.backend()
    with _translated():
        await backend.cancel_upload(exchange.name, session.id, session.progress)
    return web.Response(status=204)


async def _mount(exchange: Exchange, digest: Digest, source: str | None) -> bool:
    """Link a blob of another repository that the caller may pull from; without *source*, of one in their own token."""
    core = exchange.core
    if await _is_here(exchange, digest):
        return True
    for name in await _sources(exchange, digest, source):
        if not await core.access.allowed(exchange.caller, "repository", name, (Action.PULL,)):
            continue
        backend = await exchange.backend()
        if await core.plugins.backend(name) is not backend:
            continue
        async with _pinned(exchange, backend, digest) as here:
            if not here or not await backend.mount_blob(name, exchange.name, digest):
                continue
            if backend.metadata == "index" or await core.metadata.mount(name, exchange.name, exchange.project, digest):
                exchange.tell("mount", digest=digest)
                return True
    return False


async def _is_here(exchange: Exchange, digest: Digest) -> bool:
    """Whether the repository has the blob already. Another registry is asked: it may have lost what was recorded."""
    backend = await exchange.backend()
    if backend.metadata == "truth":
        return await exchange.core.metadata.linked(exchange.name, digest) is not None
    try:
        async with backend.open_blob(exchange.name, digest):
            return True
    except LookupError:
        return False


async def _sources(exchange: Exchange, digest: Digest, source: str | None) -> list[RepositoryName]:
    if source is not None:
        try:
            return [RepositoryName.parse(source)]
        except ValueError:
            return []
    claims = exchange.caller.claims
    if claims is None:
        return []
    granted = {key.removeprefix("repository:") for key in claims.grants}
    return [RepositoryName(name) for name in await exchange.core.metadata.linking(digest) if name in granted]


async def _expected_offset(exchange: Exchange, backend: Backend, session: Session) -> int | None:
    """The byte at which a chunk with ``Content-Range`` begins; its length must be that of the body."""
    header = exchange.request.headers.get("Content-Range")
    if header is None:
        return None
    try:
        part = parse_content_range(header)
    except ValueError as error:
        raise RegistryError(ErrorCode.BLOB_UPLOAD_INVALID, str(error)) from error
    announced = exchange.request.content_length
    if announced is not None and announced != len(part):
        raise RegistryError(ErrorCode.SIZE_INVALID, f"Content-Range has {len(part)} bytes, the body has {announced}")
    progress = await backend.upload_progress(exchange.name, session.id, session.progress)
    if progress.offset != part.first:
        raise OffsetError(progress.offset)
    return part.first


async def _append(exchange: Exchange, backend: Backend, session: Session, at: int | None) -> Session:
    chunks = body(exchange.request, exchange.core.stall)
    progress = await backend.write_upload(exchange.name, session.id, session.progress, chunks, at=at)
    return exchange.core.sessions.moved(session, progress, exchange.caller.claims)


async def _finish(exchange: Exchange, backend: Backend, session: Session, digest: Digest) -> web.StreamResponse:
    with _translated():
        size = await backend.finish_upload(exchange.name, session.id, session.progress, digest)
    durable = backend.metadata == "truth"
    async with _pinned(exchange, backend, digest) as here:
        if not here:
            raise RegistryError(ErrorCode.BLOB_UPLOAD_UNKNOWN, "the blob was removed before it was linked: push again")
        await exchange.core.metadata.link(exchange.name, exchange.project, digest, size, session.id, durable=durable)
    exchange.tell("push", digest=digest, size=size)
    return _created(exchange, digest)


@asynccontextmanager
async def _pinned(exchange: Exchange, backend: Backend, digest: Digest) -> AsyncIterator[bool]:
    """Whether there are bytes to link; they stay until the link is made."""
    collectable = exchange.core.collectables.get(id(backend))
    if collectable is None:
        yield True
        return
    async with collectable.pinned(digest) as here:
        yield here


def _session(exchange: Exchange) -> Session:
    session = exchange.core.sessions.open(exchange.route.session, exchange.name)
    if session is None:
        raise RegistryError(ErrorCode.BLOB_UPLOAD_UNKNOWN)
    return session


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except ValueError as error:
        raise RegistryError(ErrorCode.DIGEST_INVALID, str(error)) from error


def _accepted(exchange: Exchange, session: Session, status: int) -> web.Response:
    sealed = exchange.core.sessions.seal(session, exchange.name)
    return web.Response(
        status=status,
        headers={
            "Location": exchange.url(f"blobs/uploads/{sealed}"),
            "Range": f"0-{max(0, session.progress.offset - 1)}",
            "Docker-Upload-UUID": session.id,
        },
    )


def _created(exchange: Exchange, digest: Digest) -> web.Response:
    return web.Response(
        status=201, headers={"Location": exchange.url(f"blobs/{digest}"), "Docker-Content-Digest": digest}
    )


@contextmanager
def _translated() -> Iterator[None]:
    """A backend's refusals as the protocol's."""
    try:
        yield
    except UploadUnknownError as error:
        raise RegistryError(ErrorCode.BLOB_UPLOAD_UNKNOWN) from error
    except UploadBusyError as error:
        raise RegistryError(
            ErrorCode.BLOB_UPLOAD_INVALID, "another request is writing to this upload", status=409
        ) from error
    except OffsetError as error:
        held = f"0-{max(0, error.offset - 1)}"
        raise RegistryError(ErrorCode.RANGE_INVALID, str(error), headers={"Range": held}) from error
    except DigestMismatchError as error:
        raise RegistryError(ErrorCode.DIGEST_INVALID) from error
    except StorageFullError as error:
        raise RegistryError(
            ErrorCode.UNAVAILABLE, "the registry's disk is full", status=507, headers={"Retry-After": "60"}
        ) from error
