"""Blobs and uploads of the upstream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp

from gateway.plugins import (
    ByteRange,
    Chunks,
    Digest,
    DigestMismatchError,
    ErrorCode,
    Held,
    Metadata,
    OffsetError,
    OpenBlob,
    Progress,
    RegistryError,
    RepositoryName,
    UploadBusyError,
    UploadRecords,
    UploadUnknownError,
)
from plugins.backend_distribution.answers import Answer, UpstreamError, content_range
from plugins.backend_distribution.client import RegistryClient
from plugins.backend_distribution.config import is_private
from plugins.backend_distribution.names import Names, fits
from plugins.backend_distribution.spool import Spool
from plugins.backend_distribution.tokens import Scopes

_GRACE: Final = 5.0
"""Seconds that an upload which broke off may take to be ended well upstream."""
_COMMIT: Final = 10
"""An object store copies the whole blob before it answers: so many times longer it may be silent then."""
_SENDS_ELSEWHERE: Final = frozenset({302, 303, 307})
_NO_DELETION: Final = (
    "the registry behind this one does not delete; in Distribution, set storage.delete.enabled to true"
)


def pull(name: str) -> Scopes:
    """The scope for reading the upstream's repository *name*."""
    return (f"repository:{name}:pull",)


def push(name: str) -> Scopes:
    """The scope for writing to it."""
    return (f"repository:{name}:pull,push",)


def delete(name: str) -> Scopes:
    """The scope for deleting in it, as Distribution asks for it."""
    return (f"repository:{name}:delete",)


def unexpected(answer: Answer, code: ErrorCode = ErrorCode.UNKNOWN) -> RegistryError:
    """The error for a status that nothing else is to be made of: a refusal with the upstream's words, or nonsense."""
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        words = f": {answer.said()}" if answer.said() else ""
        return RegistryError(ErrorCode.UNSUPPORTED, f"the registry behind this one does not do that{words}")
    if answer.has(ErrorCode.NAME_UNKNOWN.name):
        return RegistryError(ErrorCode.NAME_UNKNOWN, answer.said())
    if answer.status >= HTTPStatus.BAD_REQUEST and answer.errors() and code is not ErrorCode.UNKNOWN:
        return RegistryError(code, f"the registry behind this one refuses it: {answer.said()}", status=answer.status)
    return UpstreamError(502, f"{answer.summary}, which is no answer to this request")


def not_deleted(answer: Answer) -> RegistryError:
    """The error for a deletion that was not done."""
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED or answer.has(ErrorCode.UNSUPPORTED.name):
        return RegistryError(ErrorCode.UNSUPPORTED, _NO_DELETION)
    return unexpected(answer)


async def begun(client: RegistryClient, there: str) -> str:
    """Where a new upload goes on that the upstream has begun. Raises RegistryError."""
    answer = await client.fetch("POST", client.at(there, "blobs/uploads/"), push(there), body=b"")
    if answer.status != HTTPStatus.ACCEPTED:
        raise unexpected(answer, ErrorCode.BLOB_UPLOAD_INVALID)
    return client.location(answer)


async def finished(client: RegistryClient, there: str, state: str, digest: Digest, content: bytes = b"") -> Answer:
    """The answer to the end of the upload *state*, whose last bytes are *content*."""
    url = f"{state}{'&' if '?' in state else '?'}digest={quote(digest, safe='')}"
    return await client.fetch("PUT", url, push(there), body=content, patience=client.patience * _COMMIT)


@dataclass(frozen=True, slots=True)
class RemoteBlob:
    """A blob of the upstream; each read is a request. *location* serves it to whoever holds that URL."""

    client: RegistryClient
    url: str
    scopes: Scopes
    size: int
    location: str | None = None

    @property
    def fileno(self) -> None:
        """No file of ours."""

    async def read(self, part: ByteRange) -> AsyncGenerator[bytes, None]:
        """The bytes of *part*, no more and no fewer. RegistryError before the first, ConnectionError after it."""
        if part.stop > self.size:
            raise OSError(f"the blob has {self.size} bytes")
        left = len(part)
        if not left:
            return
        whole = left == self.size
        headers = {} if whole else {"Range": f"bytes={part.first}-{part.stop - 1}"}
        try:
            async with self.client.stream(self.url, self.scopes, headers) as answer:
                skipped = self._skipped(answer, part)
                # As they came from the socket: to join them would be a copy more.
                async for chunk, _ in answer.content.iter_chunks():
                    if skipped >= len(chunk):
                        skipped -= len(chunk)
                        continue
                    piece = chunk[skipped : skipped + left] if skipped or left < len(chunk) else chunk
                    skipped = 0
                    left -= len(piece)
                    yield piece
                    if not left:
                        return
        except RegistryError as error:
            if left == len(part):
                raise
            raise ConnectionError(error.why) from error
        raise ConnectionError(f"{left} bytes of {part} are missing")

    def _skipped(self, answer: aiohttp.ClientResponse, part: ByteRange) -> int:
        """How many bytes of *answer* come before *part*. UpstreamError where it does not hold the part."""
        heard = Answer(str(answer.url), answer.status, answer.headers)
        if answer.status == HTTPStatus.PARTIAL_CONTENT:
            if not content_range(answer.headers.get("Content-Range", ""), part, self.size):
                raise heard.wrong("another part than was asked for")
            expected, skipped = len(part), 0
        elif answer.status == HTTPStatus.OK:
            expected, skipped = self.size, part.first
        elif answer.status == HTTPStatus.NOT_FOUND:
            raise RegistryError(ErrorCode.BLOB_UNKNOWN)
        else:
            raise heard.wrong("no blob")
        if answer.headers.get("Content-Length", str(expected)) != str(expected):
            raise heard.wrong("another length than it told before")
        return skipped


class _Patch:
    """The body of a PATCH, handed from the client's task to that of the request by a queue of one.

    So the pace of the upstream is that of the client, and the body can be ended well where the client breaks off.
    """

    def __init__(self, first: bytes, patience: float) -> None:
        self.sent = 0
        self._first = first
        self._patience = patience
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(1)
        self._over = False

    async def body(self) -> AsyncIterator[bytes]:
        """What is sent."""
        chunk = self._first
        while chunk:
            self.sent += len(chunk)
            yield chunk
            chunk = await self._queue.get()

    async def feed(self, chunks: Chunks) -> None:
        """Hand over all of *chunks*, and the end. UpstreamError where none is taken for *patience* seconds."""
        async for chunk in chunks:
            if self._over:
                return
            if chunk:
                await self._hand_over(chunk)
        await self.end()

    async def end(self) -> None:
        """No more bytes."""
        if not self._over:
            await self._hand_over(b"")

    async def _hand_over(self, chunk: bytes) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await self._queue.put(chunk)
        except TimeoutError as error:
            raise UpstreamError(504, f"the registry took no byte of an upload for {self._patience:g} s") from error

    def let_go(self, request: asyncio.Task[Answer]) -> None:
        """The request is over: whoever waits to hand something to it need not."""
        self._over = True
        if not self._queue.empty():
            self._queue.get_nowait()
        if not request.cancelled():
            # Where it fails, nobody may be there to hear of it.
            request.exception()


class Blobs:
    """The blobs of one upstream: a Backend, but that it says nothing of manifests."""

    def __init__(
        self,
        client: RegistryClient,
        names: Names,
        uploads: UploadRecords,
        log: Any,
        *,
        redirects: tuple[str, ...] = (),
        recorded: Metadata | None = None,
        spool: Spool | None = None,
        exclusive: bool = False,
    ) -> None:
        self._client = client
        self._names = names
        self._uploads = uploads
        self._log = log
        self._redirects = redirects
        self._recorded = recorded
        self._spool = spool
        self._alone = exclusive

    # -- reading --------------------------------------------------------------------------------------

    def open_blob(self, name: RepositoryName, digest: Digest) -> AbstractAsyncContextManager[OpenBlob]:
        """Open a blob for reading. Raises LookupError where there is none."""
        return self._opened(name, digest)

    @asynccontextmanager
    async def _opened(self, name: RepositoryName, digest: Digest) -> AsyncIterator[OpenBlob]:
        there = self._names.upstream(name)
        url = self._client.at(there, f"blobs/{digest}")
        size = await self._linked(name, there, digest)
        if size is None:
            raise LookupError(digest)
        location = await self._elsewhere(there, url) if any(fits(each, name) for each in self._redirects) else None
        remote = RemoteBlob(self._client, url, pull(there), size, location)
        if location is not None or self._spool is None:
            yield remote
            return
        async with self._spool.blob(digest, size, lambda part: aclosing(remote.read(part))) as blob:
            yield blob

    async def _linked(self, name: RepositoryName, there: str, digest: Digest) -> int | None:
        """The size of a blob that the repository has; None where it has none.

        The upstream is asked, unless it was pushed here and nobody else could have deleted it. While it can't be asked
        what was recorded counts: the bytes may be on our disk.
        """
        if self._recorded is not None and self._alone:
            # While the database can't answer, the upstream can.
            with suppress(RegistryError):
                pushed = await self._recorded.linked(name, digest)
                if pushed is not None:
                    return pushed
        try:
            return await self._size(there, digest)
        except UpstreamError:
            if self._recorded is None or self._spool is None:
                raise
            found = await self._recorded.linked(name, digest) or await self._recorded.referred(name, digest)
            if found is None:
                raise
            return found

    async def _size(self, there: str, digest: Digest) -> int | None:
        answer = await self._client.fetch("HEAD", self._client.at(there, f"blobs/{digest}"), pull(there), follow=True)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if answer.status != HTTPStatus.OK:
            raise unexpected(answer)
        return answer.length()

    async def _elsewhere(self, there: str, url: str) -> str | None:
        """Where the upstream sends who wants the blob; None where it serves it itself. One byte of it is asked for."""
        answer = await self._client.fetch("GET", url, pull(there), headers={"Range": "bytes=0-0"}, limit=1 << 20)
        if answer.status not in _SENDS_ELSEWHERE:
            return None
        target = self._client.location(answer)
        return target if is_private(target) else None

    # -- uploads --------------------------------------------------------------------------------------

    async def begin_upload(self, name: RepositoryName, upload: str) -> Progress:
        """Begin one of the upstream's uploads, and record where it goes on."""
        await self._uploads.begin(upload, Progress(await begun(self._client, self._names.upstream(name)), 0))
        return Progress("", 0)

    async def write_upload(
        self, name: RepositoryName, upload: str, progress: Progress, chunks: Chunks, *, at: int | None
    ) -> Progress:
        """Append *chunks* upstream. Distribution 2.8 looks at no Content-Range, so the offset is held to here."""
        del progress
        there = self._names.upstream(name)
        async with self._uploads.held(upload) as held:
            if at is not None and at != held.progress.offset:
                raise OffsetError(held.progress.offset)
            async for first in chunks:
                # An upload in one piece ends with a request that has no bytes: the upstream isn't asked to take none.
                if first:
                    await self._append(there, held, first, chunks)
                    break
            return Progress("", held.progress.offset)

    async def _append(self, there: str, held: Held, first: bytes, chunks: Chunks) -> None:
        """Send *first* and *chunks* in one PATCH, and record where the upload stands then, also where *chunks* fail."""
        patch = _Patch(first, self._client.patience)
        request = asyncio.create_task(self._client.fetch("PATCH", held.progress.state, push(there), body=patch.body()))
        request.add_done_callback(patch.let_go)
        try:
            await patch.feed(chunks)
            await asyncio.wait({request})
        except BaseException:
            # Where this task is cancelled too: the upstream keeps what came, and says where to go on.
            with suppress(TimeoutError, UpstreamError):
                async with asyncio.timeout(_GRACE):
                    await patch.end()
                    await asyncio.wait({request})
            if request.done() and not request.cancelled() and request.exception() is None:
                self._appended(held, request.result(), patch.sent)
            raise
        finally:
            request.cancel()
        answer = request.result()
        if self._appended(held, answer, patch.sent):
            return
        if not _is_lost(answer):
            raise unexpected(answer, ErrorCode.BLOB_UPLOAD_INVALID)
        held.progress = Progress(await begun(self._client, there), 0)
        raise OffsetError(0)

    def _appended(self, held: Held, answer: Answer, sent: int) -> bool:
        """Record where an upload stands to which *sent* bytes were sent; False where *answer* did not take them."""
        if answer.status not in {HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT}:
            return False
        expected, told = held.progress.offset + sent, answer.held()
        offset = expected if told is None or (told == 0 and expected == 1) else told
        held.progress = Progress(self._goes_on(held, answer), offset)
        if offset != expected:
            raise answer.wrong(f"{offset} bytes of an upload that was sent {expected}")
        return True

    def _goes_on(self, held: Held, answer: Answer) -> str:
        return self._client.location(answer) if "Location" in answer.headers else held.progress.state

    async def upload_progress(self, name: RepositoryName, upload: str, progress: Progress) -> Progress:
        """Where it stands upstream; where a request is writing to it, where it stood before."""
        del progress
        there = self._names.upstream(name)
        try:
            async with self._uploads.held(upload) as held:
                await self._ask(there, held)
                return Progress("", held.progress.offset)
        except UploadBusyError:
            # To ask with an old Location would end it: Distribution 2.8 drops an upload whose offset is another.
            return Progress("", (await self._uploads.progress(upload)).offset)

    async def _ask(self, there: str, held: Held) -> None:
        """Record what the upstream says of an upload. What it has lost begins anew, from the first byte."""
        known = held.progress.offset
        answer = await self._client.fetch("GET", held.progress.state, push(there))
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            return
        if answer.status in {HTTPStatus.NO_CONTENT, HTTPStatus.ACCEPTED, HTTPStatus.OK}:
            offset = answer.held()
            if offset == 0 and known == 1:
                offset = 1
            held.progress = Progress(self._goes_on(held, answer), known if offset is None else offset)
        elif _is_lost(answer):
            held.progress = Progress(await begun(self._client, there), 0)
        else:
            raise unexpected(answer)

    async def finish_upload(self, name: RepositoryName, upload: str, progress: Progress, digest: Digest) -> int:
        """Let the upstream verify the bytes and keep them."""
        del progress
        there = self._names.upstream(name)
        async with self._uploads.held(upload) as held:
            size = held.progress.offset
            answer = await finished(self._client, there, held.progress.state, digest)
            if answer.status in {HTTPStatus.CREATED, HTTPStatus.NO_CONTENT}:
                held.ended = True
            elif answer.has(ErrorCode.DIGEST_INVALID.name):
                held.ended = True
                await self._drop(there, held.progress.state)
                raise DigestMismatchError(digest)
            elif _is_lost(answer):
                held.ended = True
                # An earlier request for the same may have been answered, and the answer lost on the way.
                if await self._size(there, digest) != size:
                    raise UploadUnknownError(upload)
            else:
                raise unexpected(answer, ErrorCode.BLOB_UPLOAD_INVALID)
        return size

    async def cancel_upload(self, name: RepositoryName, upload: str, progress: Progress) -> None:
        """Drop the upload here and, if it can be asked now, upstream."""
        del progress
        there = self._names.upstream(name)
        async with self._uploads.held(upload) as held:
            held.ended = True
            await self._drop(there, held.progress.state)

    async def _drop(self, there: str, state: str) -> None:
        """Have an upload dropped upstream, which would do so by itself after some days."""
        try:
            answer = await self._client.fetch("DELETE", state, delete(there))
        except RegistryError as error:
            self._log.warning("an upload could not be dropped in the registry", repository=there, why=error.why)
        else:
            if answer.status != HTTPStatus.NO_CONTENT and not _is_lost(answer):
                why = str(unexpected(answer))
                self._log.warning("an upload was not dropped in the registry", repository=there, why=why)

    # -- several repositories -------------------------------------------------------------------------

    async def mount_blob(self, source: RepositoryName, target: RepositoryName, digest: Digest) -> bool:
        """Have the upstream link the blob; the upload that it may begin instead is dropped."""
        origin, there = self._names.upstream(source), self._names.upstream(target)
        query = urlencode({"mount": digest, "from": origin})
        answer = await self._client.fetch(
            "POST", self._client.at(there, f"blobs/uploads/?{query}"), push(there) + pull(origin), body=b""
        )
        if answer.status == HTTPStatus.CREATED:
            # Distribution 2.8 links a blob by sha256, whatever digest it was asked to mount.
            return digest.algorithm == "sha256" or await self._size(there, digest) is not None
        if answer.status == HTTPStatus.ACCEPTED:
            await self._drop(there, self._client.location(answer))
        elif not HTTPStatus.BAD_REQUEST <= answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise unexpected(answer)
        return False

    async def delete_blob(self, name: RepositoryName, digest: Digest) -> None:
        """Unlink the blob upstream. LookupError where it isn't; RegistryError UNSUPPORTED where that can't be done."""
        there = self._names.upstream(name)
        answer = await self._client.fetch("DELETE", self._client.at(there, f"blobs/{digest}"), delete(there))
        if answer.status == HTTPStatus.NOT_FOUND:
            raise LookupError(digest)
        if answer.status not in {HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT, HTTPStatus.OK}:
            raise not_deleted(answer)


def _is_lost(answer: Answer) -> bool:
    """Whether the upstream knows nothing of an upload, or not at this offset."""
    lost = {HTTPStatus.NOT_FOUND, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}
    return answer.status in lost or answer.has(ErrorCode.BLOB_UPLOAD_UNKNOWN.name, ErrorCode.BLOB_UPLOAD_INVALID.name)
