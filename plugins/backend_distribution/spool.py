"""Blobs of the upstream on a disk of ours: fetched once however many pull them, kept until room is needed.

A partial file gets its last bytes only once its digest was verified. So its size alone tells the readers in all
processes what there is to read, and that the blob is right. One that was cut is wrong; one that was unlinked
unfinished was given up, for want of room.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final, TypeVar

from gateway.plugins import ByteRange, Chunks, Digest, OpenBlob, RegistryError
from plugins.backend_distribution.shelf import Shelf, locked

BATCH: Final = 1024 * 1024
"""Bytes that may wait for the thread that hashes and writes."""
_CHUNK: Final = 256 * 1024
_THREADS: Final = 8
_FLUSHING: Final = 2
"""Threads that wait for the disk to flush: reading must not have to wait for them."""
_POLL: Final = 0.015
"""Seconds after which a file that another process writes is looked at again."""
_PATIENCE: Final = 30.0
"""Seconds without a new byte from another process after which readers go to the upstream themselves."""
_PAUSE: Final = 30.0
"""Seconds for which nothing is spooled after the disk failed."""

Fetch = Callable[[ByteRange], AbstractAsyncContextManager[Chunks]]
"""Asks the upstream for a part of the blob. Raises RegistryError or OSError."""

T = TypeVar("T")


class _DiskError(Exception):
    """Our own disk failed, not the upstream: readers need not suffer for it."""


class _WrongError(OSError):
    """The bytes are not the blob's."""

    def __init__(self, why: str = "the upstream sent bytes that do not match the digest") -> None:
        super().__init__(errno.EIO, why)


class _Role(Enum):
    """How this process stands to a blob's file."""

    WRITER = auto()
    FOLLOWER = auto()
    DONE = auto()
    GONE = auto()


@dataclass(frozen=True, slots=True)
class SpooledBlob:
    """A blob that is kept, then with a *fileno*, or that comes as it is read."""

    size: int
    fileno: int | None
    reader: Callable[[ByteRange], AsyncGenerator[bytes, None]]
    location: None = None

    def read(self, part: ByteRange) -> AsyncGenerator[bytes, None]:
        """The bytes of *part*. RegistryError before the first where the upstream refuses; else OSError."""
        return self.reader(part)


class _Fill:
    """A blob on its way, as this process sees it: one task sees to its file, and many readers tail that."""

    def __init__(self, digest: Digest, size: int, fetch: Fetch) -> None:
        self.digest = digest
        self.size = size
        self.fetch = fetch
        self.descriptor = -1
        self.began = 0
        self.available = 0
        self.failure: Exception | None = None
        self.ended = False
        self.readers = 0
        self.grown = time.monotonic()
        self.changed = asyncio.Event()

    def grow(self, available: int) -> None:
        """Let readers have the first *available* bytes."""
        if available > self.available:
            self.available = available
            self.grown = time.monotonic()
            self.tell()

    def tell(self) -> None:
        """Wake the readers."""
        self.changed.set()
        self.changed = asyncio.Event()

    def close(self) -> None:
        """Close the file, which frees its lock."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class _Intake:
    """Hands chunks to a thread and gathers while it works: slow bytes do not wait, and fast ones go in bulk."""

    def __init__(self, fill: _Fill, hashed: Any, pool: Executor) -> None:
        self._fill = fill
        self._hashed = hashed
        self._pool = pool
        self._batch: list[bytes] = []
        self._gathered = 0
        self._working: asyncio.Future[int] | None = None
        self._failure: BaseException | None = None

    async def take(self, chunk: bytes) -> None:
        """Take one chunk; waits while too many are gathered. Raises _DiskError."""
        self._batch.append(chunk)
        self._gathered += len(chunk)
        if self._working is None and self._failure is None:
            self._begin()
        if self._gathered >= BATCH or self._failure is not None:
            await self.drained(BATCH)

    async def drained(self, below: int = 0) -> None:
        """Wait until fewer than *below* bytes are gathered, without it until all are written. Raises _DiskError."""
        await _ended(lambda: None if self._gathered < below else self._working)
        if self._failure is not None:
            raise _DiskError from self._failure

    def _begin(self) -> None:
        batch, self._batch, self._gathered = self._batch, [], 0
        loop = asyncio.get_running_loop()
        self._working = loop.run_in_executor(self._pool, _append, self._fill.descriptor, batch, self._hashed)
        self._working.add_done_callback(self._done)

    def _done(self, working: asyncio.Future[int]) -> None:
        self._working = None
        self._failure = working.exception()
        if self._failure is None:
            self._fill.grow(working.result())
            if self._batch:
                self._begin()


class Spool:
    """A cache of blobs in the folder *path*, shared by all processes that use it; it takes at most *size* bytes.

    Where our disk doesn't do its part, blobs come straight from the upstream.
    """

    def __init__(self, path: Path, size: int, log: Any) -> None:
        self._shelf = Shelf(path, size)
        self._log = log
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="spool")
        self._flushing = ThreadPoolExecutor(_FLUSHING, thread_name_prefix="spool-flush")
        self._fills: dict[tuple[Digest, int], _Fill] = {}
        self._tasks: dict[_Fill, asyncio.Task[None]] = {}
        self._resume = 0.0

    def open(self) -> None:
        """Make the folders and tidy up after crashed workers. Raises OSError."""
        self._shelf.open()

    async def close(self) -> None:
        """End what is under way: its readers get an OSError."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pool.shutdown()
        self._flushing.shutdown()

    @asynccontextmanager
    async def blob(self, digest: Digest, size: int, fetch: Fetch) -> AsyncIterator[OpenBlob]:
        """Open the blob, which has *size* bytes; *fetch* is asked for what is not here once it is read.

        That the caller may read it was decided before. Raises ValueError for what is no digest.
        """
        digest = Digest.parse(digest)
        descriptor = self._shelf.kept(digest, size)
        if descriptor is None:
            yield SpooledBlob(size, None, lambda part: self._read(digest, size, fetch, part))
            return
        try:
            yield SpooledBlob(size, descriptor, lambda part: self._pieces(descriptor, part))
        finally:
            os.close(descriptor)

    async def trim(self) -> None:
        """Evict what was not wanted for longest until all is within the size, and what nobody goes on with."""
        await self._upkeep(self._shelf.trim)

    async def forget(self, digest: Digest) -> None:
        """Drop a kept blob; who reads it reads on. Raises ValueError for what is no digest."""
        await self._upkeep(self._shelf.forget, Digest.parse(digest))

    # -- reading --------------------------------------------------------------------------------------

    async def _pieces(self, descriptor: int, part: ByteRange) -> AsyncGenerator[bytes, None]:
        position = part.first
        while position < part.stop:
            chunk = await self._piece(descriptor, position, min(_CHUNK, part.stop - position))
            position += len(chunk)
            yield chunk

    async def _piece(self, descriptor: int, position: int, count: int) -> bytes:
        """At most *count* bytes, at once where they are in memory, else through a thread. Raises OSError for none."""
        if _cached(descriptor, position, count):
            chunk = os.pread(descriptor, count, position)
        else:
            chunk = await self._run(self._pool, os.pread, descriptor, count, position)
        if not chunk:
            raise OSError(errno.EIO, "the blob's file is shorter than it was")
        return chunk

    async def _read(self, digest: Digest, size: int, fetch: Fetch, part: ByteRange) -> AsyncGenerator[bytes, None]:
        """What the file has and gets, and from the upstream what it won't get."""
        position = part.first
        try:
            fill = self._join(digest, size, fetch, part.first) if len(part) else None
            if fill is not None:
                async with aclosing(self._tail(fill, part)) as chunks:
                    async for chunk in chunks:
                        position += len(chunk)
                        yield chunk
            if position < part.stop:
                async with fetch(ByteRange(position, part.stop)) as rest:
                    async for chunk in rest:
                        position += len(chunk)
                        if position > part.stop:
                            break
                        yield chunk
            if position != part.stop:
                raise _WrongError(f"the upstream sent another number of bytes than {part} has")
        except RegistryError as error:
            if position == part.first:
                raise
            raise OSError(errno.EIO, f"the upstream failed amid the blob: {error}") from error

    def _join(self, digest: Digest, size: int, fetch: Fetch, first: int) -> _Fill | None:
        """What this process has under way for the blob, if need be from now on; None where the spool is no help."""
        fill = self._fills.get((digest, size))
        if first > (fill.available if fill else 0) and first > self._shelf.partial_size(digest, size):
            return None
        if fill is None:
            if size > self._shelf.size or time.monotonic() < self._resume:
                return None
            fill = self._fills[digest, size] = _Fill(digest, size, fetch)
            task = self._tasks[fill] = asyncio.create_task(self._bring(fill))
            # Not in the task itself: one that is cancelled at once never begins.
            task.add_done_callback(lambda _: self._let_go(fill))
        fill.readers += 1
        return fill

    async def _tail(self, fill: _Fill, part: ByteRange) -> AsyncGenerator[bytes, None]:
        """The bytes of *part* as they come; ends early where the rest is to be had from the upstream alone."""
        position = part.first
        try:
            while position < part.stop:
                if position < fill.available:
                    count = min(_CHUNK, part.stop - position, fill.available - position)
                    chunk = await self._piece(fill.descriptor, position, count)
                    position += len(chunk)
                    yield chunk
                elif not fill.ended:
                    await fill.changed.wait()
                elif fill.failure is None:
                    return
                elif position == part.first:
                    # Many raise it, and each would add to its traceback.
                    raise fill.failure.with_traceback(None)
                else:
                    raise OSError(errno.EIO, f"the blob could not be fetched: {fill.failure}") from fill.failure
        finally:
            self._leave(fill)

    def _leave(self, fill: _Fill) -> None:
        fill.readers -= 1
        if fill.readers:
            return
        if fill.ended:
            fill.close()
        elif fill.available < fill.size:
            # Who comes now begins anew, and goes on with the file as soon as this task has let go of it.
            self._fills.pop((fill.digest, fill.size), None)
            self._tasks[fill].cancel()

    # -- filling --------------------------------------------------------------------------------------

    async def _bring(self, fill: _Fill) -> None:
        """Follow who writes the blob's file, or write it, until all is there or nothing more will be."""
        try:
            await self._fill(fill)
        except _DiskError as error:
            self._pause(error)
        except asyncio.CancelledError:
            fill.failure = OSError(errno.ECANCELED, "the transfer was ended")
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the readers are told
            fill.failure = error

    def _let_go(self, fill: _Fill) -> None:
        """Leave the file to others, though readers of ours may not have read all of it yet."""
        del self._tasks[fill]
        if self._fills.get((fill.digest, fill.size)) is fill:
            del self._fills[fill.digest, fill.size]
        fill.ended = True
        fill.tell()
        if not fill.readers:
            fill.close()
        elif fill.descriptor >= 0:
            fcntl.flock(fill.descriptor, fcntl.LOCK_UN)

    async def _fill(self, fill: _Fill) -> None:
        """Do that; where it fails, what is of no use to who comes next is dropped. Raises all that may fail."""
        try:
            if await self._role(fill) is _Role.WRITER:
                await self._write(fill)
        except BaseException as error:
            with suppress(_DiskError):
                await self._clean(fill, error)
            raise

    async def _clean(self, fill: _Fill, error: BaseException) -> None:
        if fill.descriptor < 0 or not locked(fill.descriptor):
            return
        size = os.fstat(fill.descriptor).st_size
        wrong, disk = isinstance(error, _WrongError), isinstance(error, _DiskError)
        # An upstream that can't go on from there must be asked for the whole next time.
        stuck = isinstance(error, Exception) and size <= fill.began
        if wrong:
            # First: who sees it unlinked but not cut takes it for given up, and trusts what was read.
            await self._disk(self._pool, os.ftruncate, fill.descriptor, 0)
        if (wrong or disk or stuck or not size) and self._is_partial(fill):
            await self._disk(self._pool, self._shelf.drop, fill.digest, fill.size)

    def _is_partial(self, fill: _Fill) -> bool:
        return self._shelf.is_partial(fill.descriptor, fill.digest, fill.size)

    async def _role(self, fill: _Fill) -> _Role:
        """Follow who writes the file until it is done or gone, or is ours to write. Raises _DiskError."""
        role = _Role.GONE
        while role in {_Role.GONE, _Role.FOLLOWER}:
            if time.monotonic() - fill.grown > _PATIENCE:
                return _Role.GONE
            if role is _Role.FOLLOWER:
                await asyncio.sleep(_POLL)
            elif fill.available or not await self._disk(self._pool, self._open, fill):
                return _Role.GONE
            role = self._look(fill)
        return role

    def _open(self, fill: _Fill) -> bool:
        """Open the blob's file, a new one if need be; False where there is no room."""
        fill.close()
        descriptor = self._shelf.claim(fill.digest, fill.size)
        if descriptor is not None:
            fill.descriptor = descriptor
        return descriptor is not None

    def _look(self, fill: _Fill) -> _Role:
        """How things stand with the file, which is ours to write if nobody else does. Raises _WrongError."""
        alone = locked(fill.descriptor)
        partial = self._is_partial(fill)
        # After that: a file that was renamed has all its bytes.
        size = os.fstat(fill.descriptor).st_size
        if size < fill.available:
            raise _WrongError
        if size == fill.size and not (alone and partial):
            fill.grow(size)
            return _Role.DONE
        if not partial:
            return _Role.GONE
        # Its writer may have been killed, even with all of it written: it is for us to verify then.
        fill.grow(min(size, fill.size - 1))
        return _Role.WRITER if alone else _Role.FOLLOWER

    async def _write(self, fill: _Fill) -> None:
        """Fetch what is missing, verify the whole, and only then let the last of it be read; keep it."""
        hashed = hashlib.new(fill.digest.algorithm)
        fill.began = os.fstat(fill.descriptor).st_size
        if fill.began:
            await self._disk(self._pool, _hash, fill.descriptor, hashed)
        last = await self._fetch(fill, hashed) if fill.began < fill.size else b""
        if not await self._disk(self._pool, _finish, fill.descriptor, last, hashed, fill.digest.encoded):
            raise _WrongError
        fill.grow(fill.size)
        await self._disk(self._flushing, self._shelf.keep, fill.descriptor, fill.digest, fill.size)

    async def _fetch(self, fill: _Fill, hashed: Any) -> bytes:
        """Hash and write what the upstream sends, but for the last of it, which is returned."""
        position, last = fill.began, b""
        intake = _Intake(fill, hashed, self._pool)
        try:
            async with fill.fetch(ByteRange(fill.began, fill.size)) as chunks:
                async for chunk in chunks:
                    position += len(chunk)
                    if position > fill.size:
                        break
                    if position < fill.size:
                        await intake.take(chunk)
                    elif chunk:
                        last = chunk
        finally:
            await intake.drained()
        if position != fill.size:
            raise _WrongError(f"the upstream sent another number of bytes than {fill.size - fill.began}")
        return last

    def _pause(self, error: _DiskError) -> None:
        """Spool nothing for a while."""
        if time.monotonic() >= self._resume:
            why = str(error.__cause__)
            self._log.warning("the blob cache's disk fails; blobs are not kept for a while", seconds=_PAUSE, why=why)
        self._resume = time.monotonic() + _PAUSE

    # -- how ------------------------------------------------------------------------------------------

    async def _upkeep(self, function: Callable[..., None], *arguments: object) -> None:
        """Run what only the cache needs: where the disk fails, that is told, and nobody suffers."""
        try:
            await self._disk(self._pool, function, *arguments)
        except _DiskError as error:
            self._pause(error)

    async def _disk(self, pool: Executor, function: Callable[..., T], *arguments: object) -> T:
        """Run in a thread; _DiskError for an OSError."""
        try:
            return await self._run(pool, function, *arguments)
        except OSError as error:
            raise _DiskError from error

    async def _run(self, pool: Executor, function: Callable[..., T], *arguments: object) -> T:
        future = asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
        # Who is cancelled does not hear of it.
        future.add_done_callback(asyncio.Future.exception)
        await _ended(lambda: None if future.done() else future)
        return future.result()


async def _ended(pending: Callable[[], asyncio.Future[Any] | None]) -> None:
    """Wait until nothing is *pending*. Who is cancelled waits for it too: a thread still uses the file."""
    cancelled: asyncio.CancelledError | None = None
    while (future := pending()) is not None:
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _append(descriptor: int, batch: list[bytes], hashed: Any) -> int:
    """Write and hash *batch*; returns how many bytes the file has then."""
    piece = b"".join(batch)
    # Free before the answer is heard: otherwise a third batch would be in memory with this one.
    batch.clear()
    _write_all(descriptor, piece)
    hashed.update(piece)
    return os.fstat(descriptor).st_size


def _finish(descriptor: int, last: bytes, hashed: Any, encoded: str) -> bool:
    """Write *last* if with it the hash is *encoded*."""
    hashed.update(last)
    if hashed.hexdigest() != encoded:
        return False
    _write_all(descriptor, last)
    return True


def _write_all(descriptor: int, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(descriptor, left) :]


def _hash(descriptor: int, hashed: Any) -> None:
    position = 0
    while piece := os.pread(descriptor, BATCH, position):
        hashed.update(piece)
        position += len(piece)


def _cached(descriptor: int, position: int, count: int) -> bool:
    """Whether the first and last byte of a stretch can be read without waiting for the disk."""
    try:
        return all(
            os.preadv(descriptor, [bytearray(1)], place, os.RWF_NOWAIT) for place in (position, position + count - 1)
        )
    except OSError:
        # Not in memory, or a file system that can't tell.
        return False
