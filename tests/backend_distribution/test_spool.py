"""The disk cache: one fetch for however many readers, nothing unverified to its end, and never too much room."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

from gateway.plugins import ByteRange, Chunks, Digest, ErrorCode, RegistryError
from plugins.backend_distribution import spool as spool_module
from plugins.backend_distribution.spool import Spool

KIB = 1024
MIB = 1024 * KIB
SIZE = 64 * MIB
"""Bytes that the spool of most tests may take."""
CHUNK = 64 * KIB
ROOT = Path(__file__).parents[2]
BLOB = random.Random(1).randbytes(4 * MIB)  # noqa: S311 - only its size matters

T = TypeVar("T")


async def soon(waiting: Awaitable[T]) -> T:
    """Wait, but not for ever."""
    async with asyncio.timeout(30):
        return await waiting


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what tells nobody, but not for ever."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.001)


class Log:
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, event: str, **values: object) -> None:
        """Remember a line."""
        self.lines.append(f"{event} {values}")


class Source:
    """An upstream: serves *content* as the blob *digest*, and notes what it is asked for.

    It stops at byte *hold* until `go` is set, and then may fail. `held` and `closed` tell what it came to.
    """

    def __init__(self, content: bytes = BLOB, *, hold: int | None = None, digest: Digest | None = None) -> None:
        self.content = content
        self.digest = digest or Digest.of(content)
        self.size = len(content)
        self.hold = hold
        self.failure: Exception | None = None
        self.parts: list[ByteRange] = []
        self.held = asyncio.Event()
        self.go = asyncio.Event()
        self.closed = asyncio.Event()

    @asynccontextmanager
    async def __call__(self, part: ByteRange) -> AsyncIterator[Chunks]:
        """Serve *part*."""
        self.parts.append(part)
        try:
            yield self._chunks(part)
        finally:
            self.closed.set()

    async def _chunks(self, part: ByteRange) -> AsyncGenerator[bytes, None]:
        position = part.first
        while position < part.stop:
            if position == self.hold:
                self.held.set()
                await self.go.wait()
                if self.failure is not None:
                    raise self.failure
            ends = [position + CHUNK, part.stop, *([self.hold] if self.hold and self.hold > position else [])]
            yield self.content[position : min(ends)]
            position = min(ends)
            await asyncio.sleep(0)


class Reader:
    """One pull in small steps. It ends with its block."""

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        self.chunks = chunks
        self.read = b""

    async def take(self, count: int) -> bytes:
        """Read until *count* bytes have come; whatever came then."""
        while len(self.read) < count:
            self.read += await soon(anext(self.chunks))
        return self.read

    async def rest(self) -> bytes:
        """Read to the end."""
        async for chunk in self.chunks:
            self.read += chunk
        return self.read


async def both(first: Reader, second: Reader) -> tuple[bytes, bytes]:
    """Read both to their ends."""
    one, other = await soon(asyncio.gather(first.rest(), second.rest()))
    return one, other


@asynccontextmanager
async def reading(spool: Spool, source: Source, part: ByteRange | None = None) -> AsyncIterator[Reader]:
    """Begin a pull."""
    async with (
        spool.blob(source.digest, source.size, source) as blob,
        aclosing(blob.read(part or ByteRange(0, source.size))) as chunks,
    ):
        yield Reader(chunks)


async def pull(spool: Spool, source: Source, part: ByteRange | None = None) -> bytes:
    """Read a blob, or a part of it."""
    async with reading(spool, source, part) as reader:
        return await soon(reader.rest())


async def settled(*spools: Spool) -> None:
    """Wait until nothing is under way in *spools*."""
    for spool in spools:
        await soon(asyncio.gather(*spool._tasks.values(), return_exceptions=True))


def tree(folder: Path) -> list[Path]:
    """All that is below a folder."""
    return sorted(folder.rglob("*"))


def files(folder: Path) -> list[Path]:
    """The blobs and partial blobs in a spool's folder."""
    return [path for path in tree(folder) if path.is_file() and path.name != "total"]


def kept(folder: Path) -> dict[str, bytes]:
    """The blobs that are kept, by their names."""
    return {path.name: path.read_bytes() for path in files(folder) if path.parent.name != "partial"}


def used(folder: Path) -> int:
    """Bytes that the spool's files take."""
    total = 0
    for path in files(folder):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Name the spool's folder."""
    return tmp_path / "cache"


@pytest.fixture
def log() -> Log:
    """Listen to the spools."""
    return Log()


Workers = Callable[..., Spool]


@pytest.fixture
async def worker(folder: Path, log: Log) -> AsyncIterator[Workers]:
    """Open spools over one folder, as workers have it: a lock is held by a file that was opened, not by a process."""
    spools: list[Spool] = []

    def start(size: int = SIZE) -> Spool:
        spools.append(Spool(folder, size, log))
        spools[-1].open()
        return spools[-1]

    yield start
    for spool in spools:
        await soon(spool.close())


@pytest.fixture
def spool(worker: Workers) -> Spool:
    """Open one spool."""
    return worker()


# -- kept ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(1, id="one-byte"),
        pytest.param(CHUNK, id="one-chunk"),
        pytest.param(CHUNK + 1, id="one-byte-over"),
        pytest.param(4 * MIB, id="many-chunks"),
    ],
)
async def test_second_pull(spool: Spool, folder: Path, algorithm: str, size: int) -> None:
    """A blob is fetched once, kept under its digest, and then a file that sendfile can serve."""
    source = Source(BLOB[:size], digest=Digest.of(BLOB[:size], algorithm))
    assert await pull(spool, source) == BLOB[:size]
    await settled(spool)
    assert kept(folder) == {source.digest.encoded: BLOB[:size]}
    async with spool.blob(source.digest, size, source) as blob:
        assert (blob.size, blob.location) == (size, None)
        assert blob.fileno is not None
        assert os.pread(blob.fileno, size, 0) == BLOB[:size]
        assert [len(chunk) async for chunk in blob.read(ByteRange(size - 1, size))] == [1]
    assert source.parts == [ByteRange(0, size)]


async def test_empty_blob(spool: Spool, folder: Path) -> None:
    """An empty blob needs nobody."""
    source = Source(b"")
    assert await pull(spool, source) == b""
    assert (source.parts, files(folder)) == ([], [])


async def test_lazy(spool: Spool, folder: Path) -> None:
    """A blob that is opened but not read, as for HEAD, is not fetched."""
    source = Source()
    async with spool.blob(source.digest, source.size, source) as blob:
        assert (blob.size, blob.fileno) == (source.size, None)
    assert (source.parts, files(folder)) == ([], [])


async def test_modes(spool: Spool, folder: Path) -> None:
    """Nobody but the gateway's user can read what is kept, or on its way."""
    source = Source(hold=MIB)
    other = Source(BLOB[:100])
    await pull(spool, other)
    async with reading(spool, source) as reader:
        await reader.take(MIB)
        found = [folder, *tree(folder)]
        assert {path.stat().st_mode & 0o777 for path in found if path.is_dir()} == {0o700}
        assert {path.stat().st_mode & 0o777 for path in found if path.is_file()} == {0o600}
        assert len(files(folder)) == 2


async def test_other_size(spool: Spool, folder: Path) -> None:
    """A kept file that has another size than the blob is fetched anew."""
    source = Source()
    await pull(spool, source)
    await settled(spool)
    (path,) = files(folder)
    os.truncate(path, 1000)
    assert await pull(spool, source) == BLOB
    await settled(spool)
    assert kept(folder) == {source.digest.encoded: BLOB}
    assert source.parts == [ByteRange(0, source.size)] * 2


async def test_forget(spool: Spool, folder: Path) -> None:
    """A forgotten blob is gone, but for who has it open; to forget what isn't there is no error."""
    source = Source()
    await pull(spool, source)
    await settled(spool)
    async with reading(spool, source) as reader:
        await spool.forget(source.digest)
        await spool.forget(source.digest)
        assert files(folder) == []
        assert await reader.rest() == BLOB
    assert (folder / "total").read_bytes() == b"0" * 20


@pytest.mark.parametrize("digest", ["sha256:../../../escape", "sha256:" + "/" * 64, "../x:" + "a" * 64, "md5:aa"])
async def test_hostile_digest(spool: Spool, tmp_path: Path, digest: str) -> None:
    """What is no digest never becomes a path."""
    source = Source(digest=Digest(digest))
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="digest"):
        await pull(spool, source)
    with pytest.raises(ValueError, match="digest"):
        await spool.forget(source.digest)
    assert tree(tmp_path) == before


# -- merged -------------------------------------------------------------------------------------------


async def test_as_it_comes(spool: Spool) -> None:
    """Bytes of a slow upstream are passed on as they come; a second reader has at once what is there."""
    source = Source(hold=100)
    async with reading(spool, source) as first, reading(spool, source) as second:
        assert await first.take(100) == BLOB[:100]
        assert await second.take(100) == BLOB[:100]
        source.go.set()
        assert await both(first, second) == (BLOB, BLOB)
    assert len(source.parts) == 1


async def test_many_readers(spool: Spool) -> None:
    """Two hundred readers of twenty megabytes cost one fetch, and memory for a chunk each."""
    source = Source(BLOB * 5)

    async def check() -> int:
        position = 0
        async with reading(spool, source) as reader:
            async for chunk in reader.chunks:
                assert chunk == source.content[position : position + len(chunk)]
                position += len(chunk)
        return position

    tracemalloc.start()
    counts = await asyncio.gather(*(check() for _ in range(200)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts == [source.size] * 200
    assert source.parts == [ByteRange(0, source.size)]
    assert peak < 200 * 256 * KIB + 16 * MIB


async def test_leaving_reader(spool: Spool) -> None:
    """The one that began the fetch can leave; it goes on for who is left."""
    source = Source(hold=MIB)
    async with reading(spool, source) as second:
        async with reading(spool, source) as first:
            await first.take(MIB)
            await second.take(1)
        source.go.set()
        assert await soon(second.rest()) == BLOB
    assert len(source.parts) == 1


async def test_last_reader(spool: Spool) -> None:
    """When the last reader leaves, the upstream's transfer is closed."""
    source = Source(hold=MIB)
    async with reading(spool, source) as first, reading(spool, source) as second:
        await first.take(1)
        await second.take(1)
        assert not source.closed.is_set()
    await soon(source.closed.wait())
    await settled(spool)
    assert spool._fills == {}


async def test_left_at_once(spool: Spool, folder: Path) -> None:
    """A reader that is cancelled before anything was done leaves nothing behind, and the next is served."""
    source = Source()
    pulling = asyncio.create_task(pull(spool, source))
    await asyncio.sleep(0)
    pulling.cancel()
    await asyncio.gather(pulling, return_exceptions=True)
    await settled(spool)
    assert (spool._fills, spool._tasks, files(folder)) == ({}, {}, [])
    assert await pull(spool, source) == BLOB


async def test_come_back(spool: Spool, folder: Path) -> None:
    """Who comes after the last reader left goes on from what was fetched."""
    source = Source(hold=2 * MIB)
    async with reading(spool, source) as reader:
        await reader.take(2 * MIB)
    source.hold = None
    assert await pull(spool, source) == BLOB
    await settled(spool)
    assert source.parts == [ByteRange(0, source.size), ByteRange(2 * MIB, source.size)]
    assert kept(folder) == {source.digest.encoded: BLOB}


async def test_close(worker: Workers, folder: Path) -> None:
    """Closing ends the fetch, and its readers with an error; what is verified is kept."""
    spool, source, whole = worker(), Source(hold=MIB), Source(BLOB[:MIB])
    async with reading(spool, source) as reader, reading(spool, whole) as done:
        await reader.take(MIB)
        await done.take(MIB)
        await soon(spool.close())
        with pytest.raises(OSError, match="ended"):
            await reader.rest()
    assert source.closed.is_set()
    assert kept(folder) == {whole.digest.encoded: whole.content}


# -- parts --------------------------------------------------------------------------------------------


async def test_part_beyond(spool: Spool) -> None:
    """A part that begins beyond what is there comes straight from the upstream, and doesn't wait."""
    source = Source(hold=MIB)
    async with reading(spool, source) as reader:
        await reader.take(MIB)
        part = ByteRange(2 * MIB, 2 * MIB + 5)
        assert await pull(spool, source, part) == BLOB[part.first : part.stop]
        assert source.parts == [ByteRange(0, source.size), part]


async def test_part_alone(spool: Spool, folder: Path) -> None:
    """A part of a blob of which nothing is there is fetched alone."""
    source, part = Source(), ByteRange(1, source_stop := 2 * MIB)
    assert await pull(spool, source, part) == BLOB[1:source_stop]
    assert (source.parts, files(folder)) == ([part], [])


@pytest.mark.parametrize("part", [ByteRange(0, 10), ByteRange(MIB - 7, MIB + 7), ByteRange(MIB, 2 * MIB)])
async def test_part_within(spool: Spool, part: ByteRange) -> None:
    """A part that begins within what is there, or with the next byte, is no second fetch."""
    source = Source(hold=MIB)
    async with reading(spool, source) as reader:
        await reader.take(MIB)
        waiting = asyncio.create_task(pull(spool, source, part))
        source.go.set()
        assert await waiting == BLOB[part.first : part.stop]
    assert len(source.parts) == 1


# -- wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "size"),
    [
        pytest.param(BLOB[:-1] + b"?", len(BLOB), id="wrong-last-byte"),
        pytest.param(b"?" + BLOB[1:], len(BLOB), id="wrong-first-byte"),
        pytest.param(b"?" + BLOB[1:100], 100, id="wrong-and-small"),
        pytest.param(BLOB[:-1], len(BLOB), id="too-short"),
        pytest.param(BLOB + b"?", len(BLOB), id="too-long"),
    ],
)
async def test_wrong_bytes(worker: Workers, folder: Path, content: bytes, size: int) -> None:
    """Bytes that aren't the digest's are dropped, and no reader of any worker gets the last of them."""
    source = Source(content, digest=Digest.of(BLOB[:size]), hold=min(size // 2, 2 * MIB))
    source.size = size
    spools = [worker(), worker()]

    @asynccontextmanager
    async def whole(part: ByteRange) -> AsyncIterator[Chunks]:
        async with source(ByteRange(part.first, len(content))) as chunks:
            yield chunks

    async def read(spool: Spool) -> int:
        count = 0
        async with spool.blob(source.digest, size, whole) as blob, aclosing(blob.read(ByteRange(0, size))) as chunks:
            with suppress(OSError):
                async for chunk in chunks:
                    count += len(chunk)
        return count

    readers = [asyncio.create_task(read(spool)) for spool in spools for _ in range(2)]
    await soon(source.held.wait())
    source.go.set()
    counts = await soon(asyncio.gather(*readers))
    await settled(*spools)
    assert max(counts) < size
    assert files(folder) == []
    assert (folder / "total").read_bytes() == b"0" * 20
    assert await pull(spools[0], Source(BLOB[:size])) == BLOB[:size]


async def test_rotten_leftover(spool: Spool, folder: Path) -> None:
    """What is gone on with is verified from its first byte; after a failure all is fetched."""
    source = Source(hold=MIB)
    async with reading(spool, source) as reader:
        await reader.take(MIB)
    await settled(spool)
    (path,) = files(folder)
    with path.open("r+b") as file:
        file.write(b"?")
    source.hold = None
    with pytest.raises(OSError, match="match the digest"):
        await pull(spool, source)
    assert await pull(spool, source) == BLOB
    assert [part.first for part in source.parts] == [0, MIB, 0]


async def test_refused(spool: Spool, folder: Path) -> None:
    """What the upstream says before the first byte reaches every reader unchanged; the next pull asks again."""
    source = Source(hold=0)
    source.failure = RegistryError(ErrorCode.UNAVAILABLE, "it is down", status=502)
    pulls = [asyncio.create_task(pull(spool, source)) for _ in range(3)]
    await soon(source.held.wait())
    source.go.set()
    assert await soon(asyncio.gather(*pulls, return_exceptions=True)) == [source.failure] * 3
    await settled(spool)
    assert (len(source.parts), files(folder)) == (1, [])
    source.failure = None
    assert await pull(spool, source) == BLOB


@pytest.mark.parametrize(
    "failure", [RegistryError(ErrorCode.UNAVAILABLE, status=504), ConnectionResetError("gone")], ids=["504", "reset"]
)
async def test_broken_off(spool: Spool, failure: Exception) -> None:
    """A failure amid the blob is an OSError for who has begun; who comes then goes on from there."""
    source = Source(hold=MIB)
    source.failure = failure
    async with reading(spool, source) as reader:
        assert await reader.take(MIB) == BLOB[:MIB]
        source.go.set()
        with pytest.raises(OSError, match="could not be fetched"):
            await soon(reader.rest())
    source.hold = None
    assert await pull(spool, source) == BLOB
    assert [part.first for part in source.parts] == [0, MIB]


async def test_no_ranges(spool: Spool) -> None:
    """An upstream that can't go on from the middle is asked for the whole the next time."""
    source = Source(hold=MIB)
    async with reading(spool, source) as reader:
        await reader.take(MIB)
    await settled(spool)
    source.failure = RegistryError(ErrorCode.UNAVAILABLE, status=502)
    source.go.set()
    # The reader was given what is there: for it this is no refusal any more.
    with pytest.raises(OSError, match="could not be fetched"):
        await pull(spool, source)
    source.hold = None
    assert await pull(spool, source) == BLOB
    assert [part.first for part in source.parts] == [0, MIB, 0]


# -- room ---------------------------------------------------------------------------------------------


async def test_never_too_much(worker: Workers, folder: Path) -> None:
    """A stream of blobs through two workers never takes more than the size, whether whole or on their way."""
    size = 2 * MIB
    spools = [worker(size), worker(size)]
    dice = random.Random(2)  # noqa: S311 - sizes
    highest = 0

    async def one(number: int) -> None:
        nonlocal highest
        source = Source(dice.randbytes(dice.randrange(1, 400 * KIB)))
        async with reading(spools[number % 2], source) as reader:
            async for chunk in reader.chunks:
                reader.read += chunk
                highest = max(highest, used(folder))
        assert reader.read == source.content

    for start in range(0, 60, 3):
        await soon(asyncio.gather(*(one(start + number) for number in range(3))))
        await settled(*spools)
        assert used(folder) == int((folder / "total").read_bytes())
    assert size // 2 < highest <= size


async def test_oldest_first(worker: Workers, folder: Path) -> None:
    """What was not wanted for longest makes room, and goes on to be readable for who has it open."""
    spool = worker(7 * MIB // 2)
    sources = [Source(BLOB[number : number + MIB]) for number in range(4)]
    for age, source in enumerate(sources[:3]):
        await pull(spool, source)
        await settled(spool)
        path = folder / "sha256" / source.digest.encoded[:2] / source.digest.encoded
        os.utime(path, (time.time() - 1000 + age,) * 2)
    async with reading(spool, sources[1]) as reader:
        # Wanted just now.
        await pull(spool, sources[0])
        os.utime(folder / "sha256" / sources[1].digest.encoded[:2] / sources[1].digest.encoded, (1, 1))
        await pull(spool, sources[3])
        await settled(spool)
        assert set(kept(folder)) == {sources[number].digest.encoded for number in (0, 2, 3)}
        assert await soon(reader.rest()) == sources[1].content


async def test_trim(worker: Workers, folder: Path) -> None:
    """Trimming counts what is really there, and evicts the oldest until it is within the size."""
    spool = worker(2 * MIB)
    place = folder / "sha256" / "ab"
    place.mkdir(parents=True)
    for number in range(4):
        (place / f"ab{number}").write_bytes(bytes(MIB))
        os.utime(place / f"ab{number}", (number + 1,) * 2)
    await spool.trim()
    assert [path.name for path in files(folder)] == ["ab3"]
    assert int((folder / "total").read_bytes()) == MIB


@pytest.mark.parametrize("total", [b"", b"garbage garbage garbage", b"-0000000000000000001", None])
async def test_lost_total(worker: Workers, folder: Path, total: bytes | None) -> None:
    """A sum that can't be read is counted anew."""
    spool = worker(2 * MIB)
    await pull(spool, Source(BLOB[:MIB]))
    await settled(spool)
    if total is None:
        (folder / "total").unlink()
    else:
        (folder / "total").write_bytes(total)
    await pull(spool, Source(BLOB[1 : MIB + 2]))
    await settled(spool)
    assert used(folder) == MIB + 1
    assert (folder / "total").read_bytes()[:20] == b"%020d" % (MIB + 1)


async def test_too_large(worker: Workers, folder: Path) -> None:
    """A blob larger than the cache goes straight through, and costs nobody else's their place."""
    spool, small, large = worker(2 * MIB), Source(BLOB[:MIB]), Source()
    await pull(spool, small)
    await settled(spool)
    for _ in range(2):
        assert await pull(spool, large) == BLOB
    assert len(large.parts) == 2
    assert set(kept(folder)) == {small.digest.encoded}


async def test_no_room_now(worker: Workers, folder: Path) -> None:
    """Where blobs on their way have taken the room, the next goes straight through and evicts nothing."""
    spool = worker(5 * MIB)
    small, first, second = Source(BLOB[: MIB // 2]), Source(hold=MIB), Source(BLOB[::-1])
    await pull(spool, small)
    await settled(spool)
    async with reading(spool, first) as reader:
        await reader.take(MIB)
        assert await pull(spool, second) == second.content
        assert set(kept(folder)) == {small.digest.encoded}


async def test_leftovers(folder: Path, worker: Workers) -> None:
    """What crashed workers left is removed when the next opens; what somebody is writing is not."""
    spool, source = worker(), Source(hold=MIB)
    (folder / "partial" / "sha256-abc-123456").write_bytes(b"left")
    (folder / "partial" / "whatever").write_bytes(b"left")
    async with reading(spool, source) as reader:
        await reader.take(MIB)
        worker()
        assert [path.name for path in files(folder)] == [f"sha256-{source.digest.encoded}-{source.size}"]
        assert int((folder / "total").read_bytes()) == source.size
        source.go.set()
        assert await soon(reader.rest()) == BLOB


async def test_abandoned(spool: Spool, folder: Path) -> None:
    """The job removes what nobody goes on with, after a minute in which somebody might."""
    source = Source(hold=MIB)
    async with reading(spool, source) as reader:
        await reader.take(MIB)
    await settled(spool)
    await spool.trim()
    (path,) = files(folder)
    os.utime(path, (time.time() - 61,) * 2)
    await spool.trim()
    assert files(folder) == []


# -- the disk -----------------------------------------------------------------------------------------


async def test_removed_folder(spool: Spool, folder: Path, log: Log) -> None:
    """The folder may be removed at any time: who reads reads on, and the next blob is kept in a new one."""
    source, other = Source(hold=MIB), Source(BLOB[1:])
    async with reading(spool, source) as reader:
        await reader.take(MIB)
        shutil.rmtree(folder)
        assert await pull(spool, other) == other.content
        await settled_but(spool, source)
        assert set(kept(folder)) == {other.digest.encoded}
        source.go.set()
        assert await soon(reader.rest()) == BLOB
    await settled(spool)
    assert len(log.lines) == 1


async def test_broken_folder(spool: Spool, folder: Path, log: Log) -> None:
    """A folder that can't be used costs no reader anything, and the log one line; it is tried again after a while."""
    source = Source()
    (folder / "partial").rmdir()
    (folder / "partial").touch()
    for _ in range(2):
        assert await pull(spool, source) == BLOB
        await spool.trim()
    assert len(log.lines) == 1
    (folder / "partial").unlink()
    spool._resume = 0.0
    assert await pull(spool, source) == BLOB
    await settled(spool)
    assert kept(folder) == {source.digest.encoded: BLOB}


async def settled_but(spool: Spool, source: Source) -> None:
    """Wait until nothing but *source* is under way."""
    await soon(asyncio.gather(*(task for fill, task in spool._tasks.items() if fill.digest != source.digest)))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 32 MiB; where this machine does not let us, that is one skip."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={32 * MIB}", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine mounts no file system for us: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill_up(path: Path) -> None:
    """Make a file that takes all the room there is."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(MIB))


async def test_full_disk(small_disk: Path, log: Log) -> None:
    """A disk that fills amid a blob costs no reader a byte; then nothing is spooled for a while, and that is told."""
    spool, source = Spool(small_disk / "cache", SIZE, log), Source(hold=MIB)
    spool.open()
    async with reading(spool, source) as first, reading(spool, source) as second:
        await first.take(MIB)
        await second.take(1)
        fill_up(small_disk / "other")
        source.go.set()
        assert await both(first, second) == (BLOB, BLOB)
    await settled(spool)
    assert files(small_disk / "cache") == []
    (small_disk / "other").unlink()
    assert await pull(spool, source) == BLOB
    assert files(small_disk / "cache") == []
    assert len(log.lines) == 1
    assert os.strerror(errno.ENOSPC) in log.lines[0]
    await spool.close()


async def test_quarter(small_disk: Path, log: Log) -> None:
    """A blob that would take more than a quarter of what is free goes straight through."""
    spool = Spool(small_disk / "cache", SIZE, log)
    spool.open()
    for size, expected in ((9 * MIB, 0), (7 * MIB, 1)):
        source = Source((BLOB * 3)[:size])
        assert await pull(spool, source) == source.content
        await settled(spool)
        assert len(files(small_disk / "cache")) == expected
    await spool.close()
    assert log.lines == []


# -- workers ------------------------------------------------------------------------------------------


async def test_two_workers(worker: Workers, folder: Path) -> None:
    """Readers of another worker tail the same file, and a third that comes later has it whole."""
    one, other, source = worker(), worker(), Source(hold=MIB)
    async with reading(one, source) as first, reading(other, source) as second:
        await first.take(MIB)
        assert await second.take(MIB) == BLOB[:MIB]
        source.go.set()
        assert await both(first, second) == (BLOB, BLOB)
    await settled(one, other)
    assert await pull(worker(), source) == BLOB
    assert len(source.parts) == 1
    assert kept(folder) == {source.digest.encoded: BLOB}


async def test_other_goes_on(worker: Workers) -> None:
    """When the last reader of the worker that fetches leaves, a reader of another goes on from there."""
    one, other, source = worker(), worker(), Source(hold=MIB)
    async with reading(other, source) as second:
        async with reading(one, source) as first:
            await first.take(MIB)
            await second.take(MIB)
        source.hold = None
        assert await soon(second.rest()) == BLOB
    assert source.parts == [ByteRange(0, source.size), ByteRange(MIB, source.size)]


async def test_other_asks_itself(worker: Workers) -> None:
    """An upstream that fails one worker before the first byte is asked again by the other, whose readers wait still."""
    one, other = worker(), worker()
    down, up = Source(hold=0), Source()
    down.failure = RegistryError(ErrorCode.UNAVAILABLE, status=502)
    first = asyncio.create_task(pull(one, down))
    await soon(down.held.wait())
    second = asyncio.create_task(pull(other, up))
    await until(lambda: any(fill.descriptor >= 0 for fill in other._fills.values()))
    down.go.set()
    with pytest.raises(RegistryError):
        await soon(first)
    assert await soon(second) == BLOB
    assert (len(down.parts), len(up.parts)) == (1, 1)


async def test_hanging_worker(worker: Workers, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that hangs with a blob half written keeps nobody waiting for ever."""
    monkeypatch.setattr(spool_module, "_PATIENCE", 0.1)
    spool, source = worker(), Source()
    path = folder / "partial" / f"sha256-{source.digest.encoded}-{source.size}"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(BLOB[:MIB])
        file.flush()
        assert await pull(spool, source) == BLOB
    assert source.parts == [ByteRange(MIB, source.size)]


class Upstream:
    """An upstream on a socket that counts who asks. It stops after *hold* bytes of the whole until `go` is set."""

    def __init__(self, hold: int) -> None:
        self.hold = hold
        self.firsts: list[int] = []
        self.held = asyncio.Event()
        self.go = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for all that comes after a byte."""
        first = int(request.headers["Range"].removeprefix("bytes=").partition("-")[0])
        self.firsts.append(first)
        response = web.StreamResponse(status=206, headers={"Content-Length": str(len(BLOB) - first)})
        await response.prepare(request)
        if first < self.hold:
            await response.write(BLOB[first : self.hold])
        self.held.set()
        await self.go.wait()
        await response.write(BLOB[max(first, self.hold) :])
        return response


Starter = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(folder: Path) -> AsyncIterator[Starter]:
    """Start workers in processes of their own that pull the blob."""
    processes: list[Process] = []

    async def begin(server: BaseTestServer, *arguments: object) -> Process:
        words = [folder, server.make_url("/"), Digest.of(BLOB), len(BLOB), *arguments]
        module = "tests.backend_distribution.spool_worker"
        command = [sys.executable, "-m", module, *map(str, words)]
        processes.append(await asyncio.create_subprocess_exec(*command, stdout=PIPE, cwd=ROOT))
        return processes[-1]

    yield begin
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def serving(upstream: Upstream) -> AsyncIterator[BaseTestServer]:
    """Serve on a free port."""
    application = web.Application()
    application.router.add_get("/", upstream.serve)
    async with TestServer(application) as server:
        try:
            yield server
        finally:
            upstream.go.set()


async def line(process: Process) -> str:
    """What a worker says next."""
    assert process.stdout is not None
    return (await soon(process.stdout.readline())).decode().strip()


async def test_processes(start: Starter, folder: Path) -> None:
    """Two processes that pull the same blob at the same time ask the upstream once."""
    upstream = Upstream(MIB)
    async with serving(upstream) as server:
        one = await start(server)
        assert await line(one) == "began"
        other = await start(server)
        assert await line(other) == "began"
        upstream.go.set()
        assert {await line(one), await line(other)} == {f"read {Digest.of(BLOB).encoded}"}
        assert [await soon(one.wait()), await soon(other.wait())] == [0, 0]
    assert upstream.firsts == [0]
    assert kept(folder) == {Digest.of(BLOB).encoded: BLOB}


async def test_killed_writer(start: Starter, folder: Path) -> None:
    """When the process that fetches is killed, the other goes on where it was, and its reader notices nothing."""
    upstream = Upstream(MIB)
    async with serving(upstream) as server:
        one = await start(server)
        assert await line(one) == "began"
        other = await start(server)
        assert await line(other) == "began"
        os.kill(one.pid, signal.SIGKILL)
        await soon(one.wait())
        upstream.go.set()
        assert await line(other) == f"read {Digest.of(BLOB).encoded}"
        assert await soon(other.wait()) == 0
    assert len(upstream.firsts) == 2
    assert 0 < upstream.firsts[1] <= MIB
    assert kept(folder) == {Digest.of(BLOB).encoded: BLOB}


@pytest.mark.parametrize("hold", [0, 1, 2 * MIB, len(BLOB) - 1, len(BLOB)])
async def test_killed_anywhere(start: Starter, worker: Workers, folder: Path, hold: int) -> None:
    """Wherever a worker is killed, under a digest there is the whole blob or nothing; the next pull is right."""
    upstream = Upstream(hold)
    async with serving(upstream) as server:
        process = await start(server)
        await soon(upstream.held.wait())
        os.kill(process.pid, signal.SIGKILL)
        await soon(process.wait())
    assert set(kept(folder).values()) <= {BLOB}
    spool, source = worker(), Source()
    assert await pull(spool, source) == BLOB
    await settled(spool)
    assert kept(folder) == {source.digest.encoded: BLOB}
    assert used(folder) == int((folder / "total").read_bytes())


@pytest.mark.parametrize("there", [MIB, len(BLOB)], ids=["half", "whole"])
async def test_killed_and_taken_over(worker: Workers, folder: Path, there: int) -> None:
    """A file whose writer was killed is gone on with, even if only its last steps are missing: verified first."""
    spool, source = worker(), Source()
    path = folder / "partial" / f"sha256-{source.digest.encoded}-{source.size}"
    path.write_bytes(BLOB[:there])
    assert await pull(spool, source) == BLOB
    await settled(spool)
    assert source.parts == ([] if there == source.size else [ByteRange(there, source.size)])
    assert kept(folder) == {source.digest.encoded: BLOB}


async def test_file_size_limit(start: Starter, folder: Path) -> None:
    """A process that may not write so large a file serves the blob from the upstream, and says so once."""
    upstream = Upstream(MIB)
    upstream.go.set()
    async with serving(upstream) as server:
        process = await start(server, 2 * MIB)
        lines = [await line(process) for _ in range(3)]
        assert await soon(process.wait()) == 0
    assert sorted(text.split()[0] for text in lines) == ["began", "log", "read"]
    assert lines[-1] == f"read {Digest.of(BLOB).encoded}"
    assert files(folder) == []
    assert upstream.firsts[0] == 0
