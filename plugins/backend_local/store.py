"""Blobs on a local disk, by content: verified, flushed and renamed into place before anybody hears of them.

::

    blobs/<algorithm>/<first two of the hash>/<hash>     whole, verified, never changed
    uploads/<uuid>                                       what came so far; its size is the offset
    locks/<two of a hash>                                empty, for keeping links and removals apart

Any process may continue any upload: what it holds is what the file holds, and a lock on the file keeps writers apart.
Blobs whose hashes begin alike share a lock: whoever links one holds it with others, whoever removes one holds it alone.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import stat
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from cachetools import LRUCache

from gateway.plugins import (
    ByteRange,
    Chunks,
    Digest,
    DigestMismatchError,
    ErrorCode,
    GarbageRules,
    OffsetError,
    OpenBlob,
    Progress,
    RegistryError,
    RepositoryName,
    StorageFullError,
    StoredBlob,
    UploadBusyError,
    UploadUnknownError,
)

BATCH: Final = 1024 * 1024
"""Bytes that are gathered before a thread hashes and writes them."""
_CHUNK: Final = 256 * 1024
_THREADS: Final = 8
_LOCK_TRIES: Final = 20
_LOCK_PAUSE: Final = 0.05
_SHARE_WITHIN: Final = 30.0
"""Seconds for which whoever stores or links a blob waits for a removal, which takes as long as one file does."""
_OWN_WITHIN: Final = 2.0
"""Seconds for which a removal waits for them; it comes again."""
_TURN: Final = 0.005
_LISTED: Final = 500
_KEPT_HASHES: Final = 1024
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOW: Final = 16 * 1024 * 1024
"""Bytes of free space below which the store calls itself full."""

T = TypeVar("T")


@dataclass(slots=True)
class _Running:
    """The hash of the first *size* bytes of an upload: all that it holds if this process took every byte in order."""

    hash: Any
    size: int


class LocalBlob:
    """A blob's file, open for reading."""

    location = None

    def __init__(self, descriptor: int, run: Callable[..., Any]) -> None:
        self._descriptor = descriptor
        self._run = run
        self._size = os.fstat(descriptor).st_size

    @property
    def size(self) -> int:
        """Bytes of the whole blob."""
        return self._size

    @property
    def fileno(self) -> int:
        """The file's descriptor."""
        return self._descriptor

    async def read(self, part: ByteRange) -> AsyncGenerator[bytes, None]:
        """The bytes of *part*; from the page cache at once, from the disk through a thread."""
        position = part.first
        while position < part.stop:
            count = min(_CHUNK, part.stop - position)
            chunk = _read_cached(self._descriptor, count, position)
            if chunk is None:
                chunk = await self._run(os.pread, self._descriptor, count, position)
            if not chunk:
                raise OSError(errno.EIO, "the blob's file is shorter than it was")
            position += len(chunk)
            yield chunk


class LocalStore:
    """A Backend whose metadata is the core's: it holds bytes, and says nothing about who has them."""

    metadata: Literal["truth", "index"] = "truth"

    def __init__(self, root: Path, expire_after: float, garbage: GarbageRules | None = None) -> None:
        self.garbage = garbage or GarbageRules()
        self._root = root
        self._blobs = root / "blobs"
        self._uploads = root / "uploads"
        self._locks = root / "locks"
        self._expire_after = expire_after
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._running: LRUCache[str, _Running] = LRUCache(_KEPT_HASHES)
        self._durable: set[Path] = set()

    def open(self) -> None:
        """Make the folders, and the locks: a full disk must not keep anybody from making room."""
        for folder in (self._blobs, self._uploads, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        for lock in (self._locks / f"{number:02x}" for number in range(256)):
            if not lock.exists():
                lock.touch(0o600)
        for folder in (self._root, self._root.parent):
            _flush(folder)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    # -- reading --------------------------------------------------------------------------------------

    def open_blob(self, name: RepositoryName, digest: Digest) -> AbstractAsyncContextManager[OpenBlob]:
        """Open a blob. Raises LookupError where its bytes are not here."""
        del name
        return self._opened(digest)

    @asynccontextmanager
    async def _opened(self, digest: Digest) -> AsyncIterator[OpenBlob]:
        try:
            descriptor = os.open(self._blob(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise LookupError(digest) from error
        try:
            yield LocalBlob(descriptor, self._run)
        finally:
            os.close(descriptor)

    # -- uploads --------------------------------------------------------------------------------------

    async def begin_upload(self, name: RepositoryName, upload: str) -> Progress:
        """Make the upload's file."""
        del name
        path = self._upload(upload)
        with _no_space():
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return Progress("", 0)

    async def write_upload(
        self, name: RepositoryName, upload: str, progress: Progress, chunks: Chunks, *, at: int | None
    ) -> Progress:
        """Append *chunks*, hashing and writing one batch in a thread while the next comes in."""
        del name, progress
        async with self._locked(upload) as descriptor:
            size = os.fstat(descriptor).st_size
            if at is not None and at != size:
                raise OffsetError(size)
            running = self._running.pop(upload, None)
            if size == 0:
                running = _Running(hashlib.sha256(), 0)
            elif running is not None and running.size != size:
                running = None
            try:
                await self._append(descriptor, chunks, running)
            finally:
                if running is not None:
                    self._running[upload] = running
            size = os.fstat(descriptor).st_size
        return Progress("", size)

    async def _append(self, descriptor: int, chunks: Chunks, running: _Running | None) -> None:
        """Take *chunks*; at most two batches are in memory, one with the thread and one coming in."""
        batch: list[bytes] = []
        gathered = 0
        writing: asyncio.Future[None] | None = None
        try:
            async for chunk in chunks:
                batch.append(chunk)
                gathered += len(chunk)
                if gathered >= BATCH:
                    if writing is not None:
                        await _settled(writing)
                    writing = self._start(_take, descriptor, batch, running)
                    batch, gathered = [], 0
        finally:
            # What came stays, also where the rest did not come: the client can ask where to go on.
            if writing is not None:
                await _settled(writing)
            if batch:
                await self._run(_take, descriptor, batch, running)

    async def upload_progress(self, name: RepositoryName, upload: str, progress: Progress) -> Progress:
        """The size of the upload's file."""
        del name, progress
        try:
            return Progress("", self._upload(upload).stat().st_size)
        except FileNotFoundError as error:
            raise UploadUnknownError(upload) from error

    async def finish_upload(self, name: RepositoryName, upload: str, progress: Progress, digest: Digest) -> int:
        """Verify, flush, rename, flush the folder. Nothing is visible before all of that is done."""
        del name, progress
        async with self._locked(upload) as descriptor:
            size = os.fstat(descriptor).st_size
            running = self._running.pop(upload, None)
            if running is not None and running.size == size and digest.algorithm == running.hash.name:
                found = running.hash.hexdigest()
            else:
                found = await self._run(_hash, descriptor, digest.algorithm)
            if found != digest.encoded:
                self._upload(upload).unlink(missing_ok=True)
                raise DigestMismatchError(digest)
            async with self._sharing(digest):
                await self._run(self._keep, descriptor, upload, self._blob(digest))
        return size

    def _keep(self, descriptor: int, upload: str, blob: Path) -> None:
        path = self._upload(upload)
        try:
            # The last byte may have come long ago; the blob is young from now on.
            os.utime(descriptor)
            os.fsync(descriptor)
        except OSError:
            # The kernel tells of lost writes once: to flush again would succeed, and prove nothing.
            path.unlink(missing_ok=True)
            raise
        for folder in (blob.parent.parent, blob.parent):
            # Another process may have made the folder, and not have flushed it yet: so once in each process.
            if folder not in self._durable:
                folder.mkdir(exist_ok=True)
                _flush(folder.parent)
                self._durable.add(folder)
        try:
            # Over an older copy too: the new one was verified just now, the old one may have rotted.
            path.replace(blob)
        except FileNotFoundError as error:
            if path.exists():
                # Somebody removed the folder under us: make it anew next time.
                self._durable.clear()
                raise
            raise UploadUnknownError(upload) from error
        _flush(blob.parent)

    async def cancel_upload(self, name: RepositoryName, upload: str, progress: Progress) -> None:
        """Remove the upload's file."""
        del name, progress
        self._running.pop(upload, None)
        try:
            self._upload(upload).unlink()
        except FileNotFoundError as error:
            raise UploadUnknownError(upload) from error

    async def mount_blob(self, source: RepositoryName, target: RepositoryName, digest: Digest) -> bool:
        """Whether the bytes are here; the core does the rest."""
        del source, target
        return self._blob(digest).exists()

    async def delete_blob(self, name: RepositoryName, digest: Digest) -> None:
        """Nothing: other repositories may link the same bytes."""

    # -- garbage ----------------------------------------------------------------------------------------

    async def stored(self) -> AsyncIterator[Sequence[StoredBlob]]:
        """Every blob, by folders."""
        for algorithm in await self._run(_names, self._blobs):
            for shard in await self._run(_names, self._blobs / algorithm):
                found = await self._run(_listed, self._blobs / algorithm / shard, algorithm)
                for start in range(0, len(found), _LISTED):
                    yield found[start : start + _LISTED]

    @asynccontextmanager
    async def pinned(self, digest: Digest) -> AsyncIterator[bool]:
        """Whether the blob is here; no process removes it while the block runs."""
        async with self._sharing(digest):
            yield self._blob(digest).exists()

    async def remove_blob(self, digest: Digest, before: float, linked: Callable[[], Awaitable[bool]]) -> bool:
        """Remove the blob's file, unless it is pinned, was put there since *before*, or is *linked*."""
        path = self._blob(digest)
        async with self._shard(digest, fcntl.LOCK_EX, _OWN_WITHIN) as alone:
            # Somebody else may have removed it.
            with suppress(FileNotFoundError):
                if alone and (await self._run(path.stat)).st_mtime <= before and not await linked():
                    await self._run(path.unlink)
                    return True
        return False

    @asynccontextmanager
    async def _sharing(self, digest: Digest) -> AsyncIterator[None]:
        async with self._shard(digest, fcntl.LOCK_SH, _SHARE_WITHIN) as shared:
            if not shared:
                busy = "the registry is busy removing garbage, try again"
                raise RegistryError(ErrorCode.UNAVAILABLE, busy, headers={"Retry-After": "5"})
            yield

    @asynccontextmanager
    async def _shard(self, digest: Digest, kind: int, within: float) -> AsyncIterator[bool]:
        """Hold the lock of the blobs whose hashes begin like *digest*'s; False where it can't be had in time."""
        with _no_space():
            descriptor = os.open(self._locks / digest.encoded[:2], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            held = _try_lock(descriptor, kind)
            for _ in range(round(within / _TURN)):
                if held:
                    break
                # Waiting in a thread could keep all threads from whoever is to let go.
                await asyncio.sleep(_TURN)
                held = _try_lock(descriptor, kind)
            yield held
        finally:
            os.close(descriptor)

    # -- upkeep -----------------------------------------------------------------------------------------

    async def expire(self) -> None:
        """Remove uploads that nobody continued for ``expire_after``; one that is being written to is left alone."""
        await self._run(self._expire)

    def _expire(self) -> None:
        limit = time.time() - self._expire_after
        with os.scandir(self._uploads) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    # Finished, cancelled or being written to: not ours to remove.
                    with suppress(FileNotFoundError, BlockingIOError):
                        _remove_if_older(Path(entry.path), limit)

    async def problem(self) -> str | None:
        """What keeps the store from taking blobs, in a sentence with the fix; None where nothing does."""

        def look() -> str | None:
            try:
                space = os.statvfs(self._uploads)
            except OSError as error:
                return f"{self._uploads}: {error.strerror}; make the folder reachable"
            if not os.access(self._uploads, os.W_OK):
                return f"{self._uploads} is not writable; give it to the gateway's user"
            if space.f_bavail * space.f_frsize < _LOW:
                return f"{self._uploads}: the disk is full; free some space"
            return None

        found: str | None = await self._run(look)
        return found

    # -- how ------------------------------------------------------------------------------------------

    def _blob(self, digest: Digest) -> Path:
        return self._blobs / digest.algorithm / digest.encoded[:2] / digest.encoded

    def _upload(self, upload: str) -> Path:
        """The upload's file; what is not a UUID in its usual spelling never becomes a path."""
        try:
            known = str(uuid.UUID(upload)) == upload
        except ValueError:
            known = False
        if not known:
            raise UploadUnknownError(upload)
        return self._uploads / upload

    @asynccontextmanager
    async def _locked(self, upload: str) -> AsyncIterator[int]:
        """The upload's file, open and locked against every other writer of any process."""
        path = self._upload(upload)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise UploadUnknownError(upload) from error
        try:
            for _ in range(_LOCK_TRIES):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    # A client that lost its connection comes back before we have noticed: give that a second.
                    await asyncio.sleep(_LOCK_PAUSE)
            else:
                raise UploadBusyError(upload)
            if not path.exists():
                # Finished or cancelled while we waited.
                raise UploadUnknownError(upload)
            with _no_space():
                yield descriptor
        finally:
            os.close(descriptor)

    def _start(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        return await _settled(self._start(function, *arguments))


async def _settled(future: asyncio.Future[T]) -> T:
    """The answer of a thread. Who is cancelled waits for it too: the thread still uses the caller's descriptor."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()
        raise cancelled
    return future.result()


@contextmanager
def _no_space() -> Iterator[None]:
    """Turn "no space left" into the refusal that the core knows."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL or isinstance(error, StorageFullError):
            raise
        raise StorageFullError(error.errno, error.strerror) from error


def _take(descriptor: int, batch: list[bytes], running: _Running | None) -> None:
    """Append one batch and hash it; what a full disk let in only half is undone."""
    size = os.fstat(descriptor).st_size
    try:
        for chunk in batch:
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise
    if running is not None:
        for chunk in batch:
            running.hash.update(chunk)
            running.size += len(chunk)
    # Free before the answer is heard: otherwise a third batch would be in memory with this one.
    batch.clear()


def _hash(descriptor: int, algorithm: str) -> str:
    hashed = hashlib.new(algorithm)
    position = 0
    while chunk := os.pread(descriptor, BATCH, position):
        hashed.update(chunk)
        position += len(chunk)
    return hashed.hexdigest()


def _remove_if_older(path: Path, limit: float) -> None:
    if path.stat().st_mtime >= limit:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Somebody may have gone on with it before we had the lock.
        if os.fstat(descriptor).st_mtime < limit:
            path.unlink()
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _listed(folder: Path, algorithm: str) -> list[StoredBlob]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            # Removed meanwhile, or no blob: not ours to judge.
            with suppress(FileNotFoundError, ValueError):
                digest = Digest.parse(f"{algorithm}:{entry.name}")
                state = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(state.st_mode):
                    found.append(StoredBlob(digest, state.st_size, state.st_mtime))
    return found


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_cached(descriptor: int, count: int, position: int) -> bytes | None:
    """What the page cache has, without waiting for a disk; None where it has nothing or can't say."""
    buffer = bytearray(count)
    try:
        held = os.preadv(descriptor, [buffer], position, os.RWF_NOWAIT)
    except OSError:
        return None
    with memoryview(buffer) as view:
        return bytes(view[:held])
