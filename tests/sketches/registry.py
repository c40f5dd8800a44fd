"""Stores images in another registry, whose own answers decide what exists."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import urlencode, urljoin

import aiohttp
from yarl import URL

from gateway.plugins import (
    ByteRange,
    Chunks,
    Descriptor,
    Digest,
    DigestMismatchError,
    Identity,
    Manifest,
    OpenBlob,
    Progress,
    Reference,
    RepositoryName,
    Tag,
    TagPage,
    TagQuery,
    UploadUnknownError,
)


class RemoteBlob:
    """A blob of the upstream; each read is a request."""

    fileno = None
    location = None

    def __init__(self, backend: RegistryBackend, path: str, size: int) -> None:
        self.size = size
        self._backend = backend
        self._path = path

    async def read(self, part: ByteRange) -> AsyncGenerator[bytes, None]:
        """Read *part*, or fail."""
        if part.stop > self.size:
            raise OSError("the blob is shorter")
        if not len(part):
            return
        headers = {"Range": f"bytes={part.first}-{part.stop - 1}"}
        async with self._backend.ask("GET", self._path, headers=headers) as answer:
            if answer.status not in {200, 206} or answer.content_length != len(part):
                raise OSError(f"the upstream answered {answer.status}")
            async for chunk in answer.content.iter_any():
                yield chunk


class RegistryBackend:
    """A Backend and a ManifestStore over the distribution API."""

    metadata: Literal["truth", "index"] = "index"

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Send one request as it stands."""
        url = URL(urljoin(self._url, path), encoded=True)
        return self._session.request(method, url, allow_redirects=False, **options)

    @asynccontextmanager
    async def open_blob(self, name: RepositoryName, digest: Digest) -> AsyncIterator[OpenBlob]:
        """Ask for the head."""
        path = f"/v2/{name}/blobs/{digest}"
        yield RemoteBlob(self, path, await self._size(path))

    async def _size(self, path: str) -> int:
        """Ask again what is answered 500: Distribution 2.8 rewrites a blob's link in place when it is pushed again."""
        for last in (False, False, False, True):
            async with self.ask("HEAD", path) as answer:
                if answer.status == 404:
                    raise LookupError(path)
                if answer.status == 200 or last:
                    answer.raise_for_status()
                    return int(answer.headers["Content-Length"])
        raise AssertionError

    async def begin_upload(self, name: RepositoryName, upload: str) -> Progress:  # noqa: ARG002 - the upstream has its own
        """Begin one of the upstream's uploads."""
        async with self.ask("POST", f"/v2/{name}/blobs/uploads/") as answer:
            return _progress(answer, 202)

    async def write_upload(
        self, name: RepositoryName, upload: str, progress: Progress, chunks: Chunks, *, at: int | None
    ) -> Progress:
        """Pass the bytes on."""
        del name, upload, at
        headers = {"Content-Type": "application/octet-stream"}
        async with self.ask("PATCH", _state(progress), data=chunks, headers=headers) as answer:
            return _progress(answer, 202)

    async def upload_progress(self, name: RepositoryName, upload: str, progress: Progress) -> Progress:
        """Ask the upstream."""
        del name, upload
        async with self.ask("GET", _state(progress)) as answer:
            return _progress(answer, 204)

    async def finish_upload(self, name: RepositoryName, upload: str, progress: Progress, digest: Digest) -> int:
        """Let the upstream verify."""
        del upload
        state = _state(progress)
        joint = "&" if "?" in state else "?"
        async with self.ask("PUT", f"{state}{joint}{urlencode({'digest': digest})}") as answer:
            if answer.status == 400:
                raise DigestMismatchError(digest)
            _known(answer, 201)
        async with self.open_blob(name, digest) as blob:
            return blob.size

    async def cancel_upload(self, name: RepositoryName, upload: str, progress: Progress) -> None:
        """Drop it upstream."""
        del name, upload
        async with self.ask("DELETE", _state(progress)) as answer:
            _known(answer, 204)

    async def mount_blob(self, source: RepositoryName, target: RepositoryName, digest: Digest) -> bool:
        """Mount upstream; the upload that comes instead is dropped."""
        query = urlencode({"mount": digest, "from": source})
        async with self.ask("POST", f"/v2/{target}/blobs/uploads/?{query}") as answer:
            if answer.status == 201:
                return True
            begun = _progress(answer, 202)
        await self.cancel_upload(target, "", begun)
        return False

    async def delete_blob(self, name: RepositoryName, digest: Digest) -> None:
        """Delete upstream."""
        async with self.ask("DELETE", f"/v2/{name}/blobs/{digest}") as answer:
            if answer.status != 404:
                answer.raise_for_status()

    async def manifest(self, name: RepositoryName, reference: Reference, *, head: bool = False) -> Manifest | None:
        """Fetch it."""
        headers = {"Accept": "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"}
        async with self.ask("HEAD" if head else "GET", f"/v2/{name}/manifests/{reference}", headers=headers) as answer:
            if answer.status == 404:
                return None
            answer.raise_for_status()
            digest, size = Digest.parse(answer.headers["Docker-Content-Digest"]), int(answer.headers["Content-Length"])
            return Manifest(digest, answer.content_type, size, None if head else await answer.read())

    async def put_manifest(
        self, name: RepositoryName, references: Sequence[Reference], manifest: Manifest, by: Identity
    ) -> None:
        """Put it once for each reference: an upstream has no way to take all or nothing."""
        del by
        for reference in references:
            headers = {"Content-Type": manifest.media_type}
            path = f"/v2/{name}/manifests/{reference}"
            async with self.ask("PUT", path, data=manifest.content, headers=headers) as answer:
                answer.raise_for_status()

    async def delete_manifest(self, name: RepositoryName, reference: Reference) -> bool:
        """Delete it."""
        async with self.ask("DELETE", f"/v2/{name}/manifests/{reference}") as answer:
            if answer.status != 404:
                answer.raise_for_status()
            return bool(answer.status != 404)

    async def tags(self, name: RepositoryName, query: TagQuery) -> TagPage | None:
        """List all and cut the page here: Distribution 2.8 does not page tags."""
        async with self.ask("GET", f"/v2/{name}/tags/list") as answer:
            if answer.status == 404:
                return None
            answer.raise_for_status()
            after = sorted(tag for tag in (await answer.json())["tags"] or () if tag > query.last)
        page = after if query.limit is None else after[: query.limit]
        return TagPage(tuple(Tag(tag) for tag in page), len(page) < len(after))

    async def referrers(
        self, name: RepositoryName, subject: Digest, artifact_type: str | None, last: str, limit: int
    ) -> Sequence[Descriptor]:
        """Distribution 2.8 knows none."""
        del name, subject, artifact_type, last, limit
        return ()


def _state(progress: Progress) -> str:
    if not progress.state:
        raise UploadUnknownError
    return progress.state


def _known(answer: aiohttp.ClientResponse, status: int) -> None:
    if answer.status == 404:
        raise UploadUnknownError
    if answer.status != status:
        raise OSError(f"the upstream answered {answer.status}")


def _progress(answer: aiohttp.ClientResponse, status: int) -> Progress:
    _known(answer, status)
    last = int(answer.headers["Range"].partition("-")[2])
    return Progress(answer.headers["Location"], last + 1 if last else 0)
