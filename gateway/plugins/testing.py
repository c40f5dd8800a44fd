"""The kit for plugin authors: what the core expects of a backend and of an authenticator, as tests.

Subclass a contract in your tests and give it your plugin by a fixture; pytest-asyncio has to be in ``auto`` mode::

    class TestMyStore(BackendContract):
        @pytest.fixture
        async def backend(self, tmp_path):
            ...
            yield store
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final

import pytest
from pydantic import SecretStr

from gateway.errors import InvalidCredentialError
from gateway.oci import ByteRange, Descriptor, Digest, ManifestDetails, MediaType, Reference, RepositoryName, Tag
from gateway.plugins.protocols import (
    Backend,
    DigestMismatchError,
    Manifest,
    ManifestStore,
    MissingContentError,
    OffsetError,
    Progress,
    UploadBusyError,
    UploadUnknownError,
)
from gateway.plugins.types import (
    ALL_ACTIONS,
    ANONYMOUS,
    Client,
    Credential,
    Identity,
    TagPage,
    TagQuery,
    Unknown,
)

NAME: Final = RepositoryName("acme/app")
OTHER_NAME: Final = RepositoryName("acme/other")
LARGE: Final = 3 * 1024 * 1024 + 17
"""Bytes of a body that no backend takes in one piece."""
CLIENT: Final = Client("192.0.2.1", "contract")
_HELD_AT_ONCE: Final = 16 * 1024 * 1024

Upload = Callable[[bytes], Awaitable[object]]
"""Makes bytes a blob of the repository NAME."""
OCI_MANIFEST: Final = str(MediaType.OCI_MANIFEST)
OCI_INDEX: Final = str(MediaType.OCI_INDEX)

HOSTILE_UPLOADS: Final = ("../x", "..", ".", "", "/etc/passwd", "a/b", "x\0y", "x" * 300, "\u0663" * 32)
"""Ids that the core never made."""


def content(size: int, seed: str = "") -> bytes:
    """*size* bytes that look random, and are the same for the same *seed*."""
    return hashlib.shake_256(seed.encode()).digest(size)


def new_upload() -> str:
    """An id for an upload, as the core makes them."""
    return str(uuid.uuid4())


async def chunks(content: bytes, size: int = 64 * 1024) -> AsyncIterator[bytes]:
    """*content* as a body that comes in pieces of *size* bytes."""
    for start in range(0, len(content), size):
        await asyncio.sleep(0)
        yield content[start : start + size]


class BrokenBodyError(ConnectionError):
    """The client went away."""


async def broken(content: bytes) -> AsyncIterator[bytes]:
    """A body that fails after *content*."""
    async for chunk in chunks(content):
        yield chunk
    raise BrokenBodyError


class Stalled:
    """A body that stops after *first* until it is told to go on."""

    def __init__(self, first: bytes, rest: bytes = b"") -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self._pieces = (first, rest)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body."""
        yield self._pieces[0]
        self.reached.set()
        await self.go_on.wait()
        yield self._pieces[1]


async def upload_blob(
    backend: Backend, content: bytes, digest: Digest | None = None, *, name: RepositoryName = NAME
) -> Digest:
    """Upload *content* to the repository *name*; the answer is its digest."""
    digest = digest or Digest.of(content)
    upload = new_upload()
    progress = await backend.begin_upload(name, upload)
    progress = await backend.write_upload(name, upload, progress, chunks(content), at=None)
    assert await backend.finish_upload(name, upload, progress, digest) == len(content)
    return digest


async def read_blob(
    backend: Backend, digest: Digest, part: ByteRange | None = None, *, name: RepositoryName = NAME
) -> bytes:
    """The bytes of a blob, or of *part* of it."""
    async with backend.open_blob(name, digest) as blob:
        return b"".join([chunk async for chunk in blob.read(ByteRange(0, blob.size) if part is None else part)])


async def holds(backend: Backend, digest: Digest, *, name: RepositoryName = NAME) -> bool:
    """Whether the blob can be read in the repository *name*."""
    try:
        async with backend.open_blob(name, digest):
            return True
    except LookupError:
        return False


class BackendContract:
    """What every backend promises. A subclass gives the fixture ``backend``; ``other`` too, where there is one."""

    @pytest.fixture
    async def backend(self) -> Backend:
        """A backend that is ready, and empty."""
        raise NotImplementedError("override the fixture `backend`")

    @pytest.fixture
    async def other(self, backend: Backend) -> Backend:
        """A second backend over the same place, as another worker has it; by default the first again."""
        return backend

    # -- a blob -----------------------------------------------------------------------------------

    async def test_is_a_backend(self, backend: Backend) -> None:
        """It has every method of the protocol, and says who knows what exists."""
        assert isinstance(backend, Backend)
        assert backend.metadata in {"truth", "index"}

    @pytest.mark.parametrize("size", [1, 64 * 1024, 1024 * 1024, LARGE])
    async def test_upload_whole(self, backend: Backend, size: int) -> None:
        """What was uploaded in one body is read back, byte by byte."""
        digest = await upload_blob(backend, content(size))
        assert await read_blob(backend, digest) == content(size)

    async def test_upload_in_chunks(self, backend: Backend) -> None:
        """Several writes continue each other, and each says how far the upload is."""
        pieces = [content(size, str(size)) for size in (10, LARGE, 70_000)]
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        assert progress.offset == 0
        sent = 0
        for piece in pieces:
            progress = await backend.write_upload(NAME, upload, progress, chunks(piece), at=sent)
            sent += len(piece)
            assert progress.offset == sent
        digest = Digest.of(b"".join(pieces))
        assert await backend.finish_upload(NAME, upload, progress, digest) == sent
        assert await read_blob(backend, digest) == b"".join(pieces)

    async def test_upload_empty(self, backend: Backend) -> None:
        """A blob of no bytes is a blob."""
        digest = await upload_blob(backend, b"")
        assert await read_blob(backend, digest) == b""

    async def test_upload_without_a_write(self, backend: Backend) -> None:
        """An upload that nothing was written to finishes as the empty blob."""
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        assert await backend.finish_upload(NAME, upload, progress, Digest.of(b"")) == 0

    async def test_upload_with_empty_chunks(self, backend: Backend) -> None:
        """A write of no bytes changes nothing."""
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        for piece in (b"", b"abc", b""):
            progress = await backend.write_upload(NAME, upload, progress, chunks(piece), at=None)
        assert await backend.finish_upload(NAME, upload, progress, Digest.of(b"abc")) == len(b"abc")

    async def test_upload_by_sha512(self, backend: Backend) -> None:
        """A blob may be named by its sha512."""
        digest = await upload_blob(backend, content(LARGE), Digest.of(content(LARGE), "sha512"))
        assert await read_blob(backend, digest) == content(LARGE)

    async def test_upload_the_same_twice(self, backend: Backend) -> None:
        """Uploading a blob again is fine, and the blob is still there."""
        digest = await upload_blob(backend, content(1000))
        assert await upload_blob(backend, content(1000)) == digest
        assert await read_blob(backend, digest) == content(1000)

    async def test_uploads_at_once(self, backend: Backend) -> None:
        """Uploads at the same time do not disturb each other, not even of the same bytes."""
        bodies = [content(LARGE, seed) for seed in ("a", "b", "c", "a")]
        digests = await asyncio.gather(*(upload_blob(backend, body) for body in bodies))
        for digest, body in zip(digests, bodies, strict=True):
            assert await read_blob(backend, digest) == body

    # -- reading ----------------------------------------------------------------------------------

    async def test_missing_blob(self, backend: Backend) -> None:
        """A blob that is not there is a LookupError when it is opened."""
        with pytest.raises(LookupError):
            async with backend.open_blob(NAME, Digest.of(b"nobody pushed this")):
                pass

    @pytest.mark.parametrize(
        ("first", "stop"),
        [(0, 1), (0, LARGE), (1, 2), (262_143, 262_145), (LARGE - 1, LARGE), (5, LARGE - 5), (7, 7)],
    )
    async def test_ranges(self, backend: Backend, first: int, stop: int) -> None:
        """A part of a blob is exactly the bytes that were asked for."""
        digest = await upload_blob(backend, content(LARGE))
        assert await read_blob(backend, digest, ByteRange(first, stop)) == content(LARGE)[first:stop]

    async def test_size(self, backend: Backend) -> None:
        """An open blob knows its size."""
        digest = await upload_blob(backend, content(1234))
        async with backend.open_blob(NAME, digest) as blob:
            assert blob.size == len(content(1234))

    async def test_descriptor(self, backend: Backend) -> None:
        """A descriptor, where there is one, is of a regular file that holds the whole blob."""
        digest = await upload_blob(backend, content(LARGE))
        async with backend.open_blob(NAME, digest) as blob:
            if blob.fileno is None:
                pytest.skip("the backend has no files")
            assert stat.S_ISREG(os.fstat(blob.fileno).st_mode)
            assert os.pread(blob.fileno, LARGE + 1, 0) == content(LARGE)

    async def test_range_beyond_the_end(self, backend: Backend) -> None:
        """Bytes that are not there are an OSError, never a short answer."""
        digest = await upload_blob(backend, content(100))
        with pytest.raises(OSError):  # noqa: PT011 - which one is the backend's own
            await read_blob(backend, digest, ByteRange(0, 101))

    async def test_readers_at_once(self, backend: Backend) -> None:
        """One open blob serves several readers at the same time."""
        digest = await upload_blob(backend, content(LARGE))
        async with backend.open_blob(NAME, digest) as blob:

            async def read(first: int) -> bytes:
                return b"".join([chunk async for chunk in blob.read(ByteRange(first, LARGE))])

            answers = await asyncio.gather(*(read(first) for first in (0, 1, 100_000)))
        assert answers == [content(LARGE)[first:] for first in (0, 1, 100_000)]

    # -- an upload that does not go well ----------------------------------------------------------

    async def test_unfinished_is_not_readable(self, backend: Backend) -> None:
        """Nothing can be read before its upload is finished."""
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        await backend.write_upload(NAME, upload, progress, chunks(content(1000)), at=None)
        assert not await holds(backend, Digest.of(content(1000)))

    @pytest.mark.parametrize("at", [0, 4, 6, 2**40])
    async def test_wrong_offset(self, backend: Backend, at: int) -> None:
        """A write at another place than the end says where the end is, and changes nothing."""
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        progress = await backend.write_upload(NAME, upload, progress, chunks(b"12345"), at=0)
        with pytest.raises(OffsetError) as caught:
            await backend.write_upload(NAME, upload, progress, chunks(b"678"), at=at)
        assert caught.value.offset == len(b"12345")
        assert (await backend.upload_progress(NAME, upload, progress)).offset == len(b"12345")
        assert await backend.finish_upload(NAME, upload, progress, Digest.of(b"12345")) == len(b"12345")

    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    async def test_digest_mismatch(self, backend: Backend, algorithm: str) -> None:
        """Bytes that are not the digest's are refused; neither blob nor upload is left."""
        wrong, right = Digest.of(b"wrong", algorithm), Digest.of(b"right", algorithm)
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        progress = await backend.write_upload(NAME, upload, progress, chunks(b"right"), at=None)
        with pytest.raises(DigestMismatchError):
            await backend.finish_upload(NAME, upload, progress, wrong)
        assert not await holds(backend, wrong)
        assert not await holds(backend, right)
        with pytest.raises(UploadUnknownError):
            await backend.upload_progress(NAME, upload, progress)

    @pytest.mark.parametrize("size", [100, LARGE])
    async def test_broken_body(self, backend: Backend, size: int) -> None:
        """Bytes that came before a body failed stay, the failure is passed on, and the upload can go on."""
        whole = content(size + 1000)
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        with pytest.raises(BrokenBodyError):
            await backend.write_upload(NAME, upload, progress, broken(whole[:size]), at=0)
        progress = await backend.upload_progress(NAME, upload, progress)
        assert 0 <= progress.offset <= size
        rest = chunks(whole[progress.offset :])
        progress = await backend.write_upload(NAME, upload, progress, rest, at=progress.offset)
        digest = Digest.of(whole)
        assert await backend.finish_upload(NAME, upload, progress, digest) == len(whole)
        assert await read_blob(backend, digest) == whole

    async def test_cancelled_write(self, backend: Backend) -> None:
        """A write whose request was cancelled frees the upload, which can go on."""
        whole = content(LARGE)
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        body = Stalled(whole[:2_000_000])
        writing = asyncio.create_task(backend.write_upload(NAME, upload, progress, body.chunks(), at=0))
        await body.reached.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        progress = await backend.upload_progress(NAME, upload, progress)
        rest = chunks(whole[progress.offset :])
        progress = await backend.write_upload(NAME, upload, progress, rest, at=progress.offset)
        assert await backend.finish_upload(NAME, upload, progress, Digest.of(whole)) == LARGE

    async def test_busy(self, backend: Backend, other: Backend) -> None:
        """While one writes to an upload, nobody else writes to it or finishes it."""
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        body = Stalled(b"123", b"45")
        writing = asyncio.create_task(backend.write_upload(NAME, upload, progress, body.chunks(), at=0))
        await body.reached.wait()
        for one in (backend, other):
            with pytest.raises(UploadBusyError):
                await one.write_upload(NAME, upload, progress, chunks(b"xyz"), at=None)
        with pytest.raises(UploadBusyError):
            await other.finish_upload(NAME, upload, progress, Digest.of(b"123"))
        body.go_on.set()
        progress = await writing
        assert await backend.finish_upload(NAME, upload, progress, Digest.of(b"12345")) == len(b"12345")

    # -- the end of an upload ---------------------------------------------------------------------

    async def test_cancel(self, backend: Backend) -> None:
        """A cancelled upload is gone; to cancel it again says so."""
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        progress = await backend.write_upload(NAME, upload, progress, chunks(b"12345"), at=None)
        await backend.cancel_upload(NAME, upload, progress)
        await _assert_unknown(backend, upload, progress)

    async def test_finish_twice(self, backend: Backend) -> None:
        """A finished upload is gone, and its blob stays."""
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        progress = await backend.write_upload(NAME, upload, progress, chunks(b"12345"), at=None)
        await backend.finish_upload(NAME, upload, progress, Digest.of(b"12345"))
        await _assert_unknown(backend, upload, progress)
        assert await read_blob(backend, Digest.of(b"12345")) == b"12345"

    async def test_unknown_upload(self, backend: Backend) -> None:
        """An upload that never began is unknown to every question about it."""
        await _assert_unknown(backend, new_upload(), Progress("", 0))

    @pytest.mark.parametrize("upload", HOSTILE_UPLOADS)
    async def test_hostile_upload(self, backend: Backend, upload: str) -> None:
        """An id that the core never made is an unknown upload, and reaches nothing."""
        await _assert_unknown(backend, upload, Progress("", 0))

    # -- several repositories, several workers ----------------------------------------------------

    async def test_mount(self, backend: Backend) -> None:
        """A blob that was mounted is readable in its new repository."""
        digest = await upload_blob(backend, content(1000))
        if await backend.mount_blob(NAME, OTHER_NAME, digest):
            assert await read_blob(backend, digest, name=OTHER_NAME) == content(1000)
        else:
            assert backend.metadata == "index", "a backend that holds the bytes can mount them"

    async def test_mount_missing(self, backend: Backend) -> None:
        """What is not there can't be mounted."""
        assert await backend.mount_blob(NAME, OTHER_NAME, Digest.of(b"nobody pushed this")) is False

    async def test_delete(self, backend: Backend) -> None:
        """A blob deleted from one repository stays readable in another one that has it."""
        digest = await upload_blob(backend, content(1000))
        await upload_blob(backend, content(1000), name=OTHER_NAME)
        await backend.delete_blob(NAME, digest)
        assert await read_blob(backend, digest, name=OTHER_NAME) == content(1000)

    async def test_other_worker_reads(self, backend: Backend, other: Backend) -> None:
        """A blob finished by one worker is there for all."""
        digest = await upload_blob(backend, content(LARGE))
        assert await read_blob(other, digest) == content(LARGE)

    async def test_other_worker_continues(self, backend: Backend, other: Backend) -> None:
        """Workers may take turns at one upload, and any of them may finish it."""
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        whole = content(40_000)
        for turn, one in enumerate((backend, other, backend, other)):
            piece = whole[turn * 10_000 : (turn + 1) * 10_000]
            progress = await one.write_upload(NAME, upload, progress, chunks(piece), at=turn * 10_000)
        for one in (backend, other):
            assert (await one.upload_progress(NAME, upload, progress)).offset == len(whole)
        assert await backend.finish_upload(NAME, upload, progress, Digest.of(whole)) == len(whole)
        assert await read_blob(other, Digest.of(whole)) == whole

    async def test_a_slow_backend_slows_the_body(self, backend: Backend) -> None:
        """A body is not asked for faster than it is stored: memory stays bounded."""
        piece = content(1024 * 1024)
        count = 32
        upload = new_upload()
        progress = await backend.begin_upload(NAME, upload)
        ahead = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal ahead
            for number in range(count):
                held = (await backend.upload_progress(NAME, upload, progress)).offset
                ahead = max(ahead, number * len(piece) - held)
                yield piece

        if backend.metadata == "index":
            pytest.skip("an upstream says how far it is only after the request")
        progress = await backend.write_upload(NAME, upload, progress, body(), at=0)
        assert progress.offset == count * len(piece)
        assert ahead < _HELD_AT_ONCE


async def _assert_unknown(backend: Backend, upload: str, progress: Progress) -> None:
    with pytest.raises(UploadUnknownError):
        await backend.upload_progress(NAME, upload, progress)
    with pytest.raises(UploadUnknownError):
        await backend.write_upload(NAME, upload, progress, chunks(b"more"), at=None)
    with pytest.raises(UploadUnknownError):
        await backend.finish_upload(NAME, upload, progress, Digest.of(b""))
    with pytest.raises(UploadUnknownError):
        await backend.cancel_upload(NAME, upload, progress)


class ManifestStoreContract:
    """What every store of manifests and tags promises.

    A subclass gives the fixture ``store``, which is empty, and ``upload``, which makes a blob of the repository NAME.
    """

    @pytest.fixture
    async def store(self) -> ManifestStore:
        """A store that is ready, and empty."""
        raise NotImplementedError("override the fixture `store`")

    @pytest.fixture
    async def upload(self) -> Upload:
        """A function that uploads a blob to NAME."""
        raise NotImplementedError("override the fixture `upload`")

    async def test_is_a_store(self, store: ManifestStore) -> None:
        """It has every method of the protocol."""
        assert isinstance(store, ManifestStore)

    async def test_round_trip(self, store: ManifestStore, upload: Upload) -> None:
        """A manifest comes back byte for byte, by its tag and by its digest, and its head says what it is."""
        put = await push_image(store, upload, "one", "latest")
        for reference in (Tag("latest"), put.digest):
            found = await store.manifest(NAME, reference)
            assert found is not None
            assert (found.digest, found.media_type, found.content) == (put.digest, put.media_type, put.content)
            head = await store.manifest(NAME, reference, head=True)
            assert head is not None
            assert (head.digest, head.media_type, head.size) == (put.digest, put.media_type, put.size)

    @pytest.mark.parametrize("head", [False, True])
    async def test_missing(self, store: ManifestStore, upload: Upload, head: bool) -> None:  # noqa: FBT001 - a parameter
        """What is not there is None, in a repository that exists and in one that doesn't."""
        await push_image(store, upload, "one", "latest")
        for name in (NAME, OTHER_NAME):
            for reference in (Tag("nobody-pushed-this"), Digest.of(b"nor this")):
                assert await store.manifest(name, reference, head=head) is None

    async def test_by_digest_alone(self, store: ManifestStore, upload: Upload) -> None:
        """A manifest needs no tag."""
        put = await push_image(store, upload, "one")
        found = await store.manifest(NAME, put.digest)
        assert found is not None
        assert found.content == put.content

    async def test_a_tag_moves(self, store: ManifestStore, upload: Upload) -> None:
        """A tag points at what was put under it last; the manifest before is still there by its digest."""
        first = await push_image(store, upload, "one", "latest")
        second = await push_image(store, upload, "two", "latest")
        assert await digest_of(store, Tag("latest")) == second.digest
        assert await digest_of(store, first.digest) == first.digest

    async def test_several_tags_at_once(self, store: ManifestStore, upload: Upload) -> None:
        """One manifest may be put under several references."""
        put = await push_image(store, upload, "one", "a", "b", "c")
        for tag in "abc":
            assert await digest_of(store, Tag(tag)) == put.digest

    async def test_an_index(self, store: ManifestStore, upload: Upload) -> None:
        """An index of images comes back as it was put."""
        child = await push_image(store, upload, "one")
        descriptor = Descriptor(child.media_type, child.digest, child.size)
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor.as_json()]}
        content = json.dumps(document, indent=3).encode()
        details = ManifestDetails(None, {}, None, None, (), (descriptor,), frozenset({child.digest}))
        put = Manifest(Digest.of(content), OCI_INDEX, len(content), content, details)
        await store.put_manifest(NAME, [Tag("many")], put, ANONYMOUS)
        found = await store.manifest(NAME, Tag("many"))
        assert found is not None
        assert (found.media_type, found.content) == (OCI_INDEX, content)

    async def test_missing_content(self, store: ManifestStore, upload: Upload) -> None:
        """A manifest whose blobs are not there is refused, which are missing is said, and no tag points at it."""
        await upload(b"layer missing")
        put = image_manifest("missing")
        with pytest.raises(MissingContentError) as caught:
            await store.put_manifest(NAME, [put.digest, Tag("latest")], put, ANONYMOUS)
        assert caught.value.digests == (Digest.of(b'{"config": "missing"}'),)
        assert await store.manifest(NAME, Tag("latest")) is None

    async def test_delete_a_tag(self, store: ManifestStore, upload: Upload) -> None:
        """A tag is deleted alone: its siblings and the manifest stay."""
        put = await push_image(store, upload, "one", "a", "b", "c")
        assert await store.delete_manifest(NAME, Tag("b"))
        assert await store.manifest(NAME, Tag("b")) is None
        for reference in (Tag("a"), Tag("c"), put.digest):
            assert await digest_of(store, reference) == put.digest
        assert await store.tags(NAME, TagQuery()) == TagPage((Tag("a"), Tag("c")))
        assert not await store.delete_manifest(NAME, Tag("b"))

    async def test_delete_a_manifest(self, store: ManifestStore, upload: Upload) -> None:
        """A manifest is deleted with every tag that points at it, and no other."""
        put = await push_image(store, upload, "one", "a", "b")
        kept = await push_image(store, upload, "two", "c")
        assert await store.delete_manifest(NAME, put.digest)
        for reference in (Tag("a"), Tag("b"), put.digest):
            assert await store.manifest(NAME, reference) is None
        assert await digest_of(store, Tag("c")) == kept.digest
        assert not await store.delete_manifest(NAME, put.digest)

    async def test_delete_what_is_not_there(self, store: ManifestStore, upload: Upload) -> None:
        """To delete what is not there changes nothing and says so."""
        put = await push_image(store, upload, "one", "a")
        for reference in (Tag("b"), Digest.of(b"nobody pushed this")):
            assert not await store.delete_manifest(NAME, reference)
        assert await digest_of(store, Tag("a")) == put.digest

    async def test_put_again_after_a_deletion(self, store: ManifestStore, upload: Upload) -> None:
        """What was deleted may be pushed again."""
        put = await push_image(store, upload, "one", "a")
        assert await store.delete_manifest(NAME, Tag("a"))
        assert await store.delete_manifest(NAME, put.digest)
        await push_image(store, upload, "one", "a")
        assert await digest_of(store, Tag("a")) == put.digest

    async def test_tags_are_sorted_and_paged(self, store: ManifestStore, upload: Upload) -> None:
        """Tags come sorted by byte, in pages that say whether more follow."""
        names = ("B", "Z", "_", "a", "a.b", "a_b", "v1", "v10", "v2")
        await push_image(store, upload, "one", *reversed(names))
        tags = tuple(Tag(name) for name in names)
        assert await store.tags(NAME, TagQuery()) == TagPage(tags)
        assert await store.tags(NAME, TagQuery(len(tags))) == TagPage(tags)
        assert await store.tags(NAME, TagQuery(2)) == TagPage(tags[:2], more=True)
        assert await store.tags(NAME, TagQuery(3, "a")) == TagPage(tags[4:7], more=True)
        assert await store.tags(NAME, TagQuery(3, "a0")) == TagPage(tags[5:8], more=True)
        assert await store.tags(NAME, TagQuery(2, "v1")) == TagPage(tags[7:])
        assert await store.tags(NAME, TagQuery(2, "zzz")) == TagPage(())

    async def test_tags_of_nothing(self, store: ManifestStore, upload: Upload) -> None:
        """A repository that doesn't exist has no page; one without a tag has an empty one."""
        assert await store.tags(OTHER_NAME, TagQuery()) is None
        await push_image(store, upload, "one", "a")
        assert await store.delete_manifest(NAME, Tag("a"))
        assert await store.tags(NAME, TagQuery()) == TagPage(())

    async def test_no_referrers(self, store: ManifestStore, upload: Upload) -> None:
        """A manifest that nothing refers to has no referrers, nor has one that doesn't exist."""
        put = await push_image(store, upload, "one", "a")
        for subject in (put.digest, Digest.of(b"nobody pushed this")):
            assert list(await store.referrers(NAME, subject, None, "", 10)) == []


def image_manifest(seed: str) -> Manifest:
    """A manifest of two small blobs, with its details; its layout is nobody's usual one."""
    blobs = {"config": json.dumps({"config": seed}).encode(), "layer": f"layer {seed}".encode()}
    config, layer = (
        Descriptor(f"application/vnd.example.{kind}", Digest.of(blob), len(blob)) for kind, blob in blobs.items()
    )
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.as_json(),
        "layers": [layer.as_json()],
    }
    content = json.dumps(document, indent=3).encode() + b"\n"
    required = frozenset({config.digest, layer.digest})
    details = ManifestDetails(config.media_type, {}, None, config, (layer,), (), required)
    return Manifest(Digest.of(content), OCI_MANIFEST, len(content), content, details)


async def push_image(store: ManifestStore, upload: Upload, seed: str, *tags: str) -> Manifest:
    """Push `image_manifest` and its blobs to NAME, under *tags* or under its digest alone."""
    for blob in (json.dumps({"config": seed}).encode(), f"layer {seed}".encode()):
        await upload(blob)
    put = image_manifest(seed)
    await store.put_manifest(NAME, [Tag(tag) for tag in tags] or [put.digest], put, ANONYMOUS)
    return put


async def digest_of(store: ManifestStore, reference: Reference) -> Digest | None:
    """The digest of the manifest that *reference* stands for in NAME."""
    found = await store.manifest(NAME, reference)
    return found.digest if found else None


class AuthenticatorContract:
    """What every authenticator promises.

    A subclass gives the fixtures ``plugin`` (ready to be asked), ``good`` and ``wrong`` (credentials); and ``source``,
    the name in the plugin's ``Services``, which by default may be any.
    """

    @pytest.fixture
    async def plugin(self) -> Any:
        """A plugin whose lifespan was entered."""
        raise NotImplementedError("override the fixture `plugin`")

    @pytest.fixture
    def good(self) -> Credential:
        """A credential that is right."""
        raise NotImplementedError("override the fixture `good`")

    @pytest.fixture
    def wrong(self) -> Credential:
        """A credential that is not."""
        raise NotImplementedError("override the fixture `wrong`")

    @pytest.fixture
    def source(self) -> str | None:
        """The plugin's name; None where the test doesn't know it."""
        return None

    async def test_good(self, plugin: Any, good: Credential, source: str | None) -> None:
        """A right credential is an identity of this plugin's."""
        identity = await plugin.gateway_authenticate(credential=good, client=CLIENT)
        assert isinstance(identity, Identity)
        assert not identity.anonymous
        assert identity.source == (source or identity.source)
        assert identity.subject
        assert identity.id
        assert identity.ceiling <= ALL_ACTIONS

    async def test_good_again(self, plugin: Any, good: Credential) -> None:
        """The same credential is the same identity, also when it is presented many times at once."""
        asked = (plugin.gateway_authenticate(credential=good, client=CLIENT) for _ in range(5))
        identities = await asyncio.gather(*asked)
        assert all(identity == identities[0] for identity in identities)

    async def test_wrong(self, plugin: Any, wrong: Credential) -> None:
        """A wrong credential is nobody, and the refusal doesn't repeat the password."""
        await _assert_refused(plugin, [wrong])

    async def test_wrong_after_good(self, plugin: Any, good: Credential, wrong: Credential) -> None:
        """A wrong credential stays wrong after a right one was taken."""
        assert isinstance(await plugin.gateway_authenticate(credential=good, client=CLIENT), Identity)
        await _assert_refused(plugin, [wrong])

    async def test_nearly_good(self, plugin: Any, good: Credential) -> None:
        """A password that is nearly right is wrong."""
        password = good.password.get_secret_value()
        nearly = ("", password[:-1], password + "x", password + "\0", password.swapcase() + "x", "é\u2028" * 2000)
        await _assert_refused(plugin, [Credential(good.username, SecretStr(near)) for near in nearly])

    async def test_never_prints_the_password(self, plugin: Any, good: Credential) -> None:
        """Neither the plugin nor an identity shows a password where it is printed."""
        identity = await plugin.gateway_authenticate(credential=good, client=CLIENT)
        password = good.password.get_secret_value()
        assert all(password not in text for text in (repr(identity), str(identity), repr(plugin), repr(good)))


async def _assert_refused(plugin: Any, credentials: Iterable[Credential]) -> None:
    for credential in credentials:
        password = credential.password.get_secret_value()
        try:
            answer = await plugin.gateway_authenticate(credential=credential, client=CLIENT)
        except InvalidCredentialError as error:
            assert not password or password not in f"{error!s} {error!r}"  # noqa: PT017 - None is right as well
        else:
            assert answer is None or isinstance(answer, Unknown)
