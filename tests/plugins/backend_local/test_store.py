"""What is the local store's own: crashes, full disks, damaged files, abandoned uploads."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.plugins import (
    Backend,
    ByteRange,
    Digest,
    ErrorCode,
    Health,
    Job,
    Progress,
    RegistryError,
    Services,
    StorageFullError,
    UploadUnknownError,
)
from gateway.plugins.testing import (
    LARGE,
    NAME,
    BrokenBodyError,
    Stalled,
    broken,
    chunks,
    content,
    holds,
    new_upload,
    read_blob,
    upload_blob,
)
from plugins.backend_local import Plugin
from plugins.backend_local.store import BATCH, LocalStore

START = Progress("", 0)
MIB = 1024 * 1024


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The store's folder."""
    return tmp_path / "registry"


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[LocalStore]:
    """Open a store, as a worker does when it starts."""
    store = LocalStore(root, timedelta(hours=24).total_seconds())
    store.open()
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
async def store(root: Path) -> AsyncIterator[LocalStore]:
    """One worker's store."""
    async with opened(root) as store:
        yield store


def blob_file(root: Path, digest: Digest) -> Path:
    """Where a blob lies."""
    return root / "blobs" / digest.algorithm / digest.encoded[:2] / digest.encoded


def files(root: Path) -> set[Path]:
    """Every file of the store that holds somebody's bytes."""
    return {path for path in root.rglob("*") if path.is_file() and path.parent != root / "locks"}


# -- crashes -----------------------------------------------------------------------------------------


async def test_resumes_what_a_killed_process_left(root: Path) -> None:
    """A process is killed in the middle of an upload; the next one goes on where the file ends."""
    upload, whole = new_upload(), content(LARGE)
    script = """
import asyncio, os, signal, sys
from pathlib import Path
from gateway.plugins import Progress
from gateway.plugins.testing import NAME, Stalled, content
from plugins.backend_local.store import LocalStore

async def main():
    store = LocalStore(Path(sys.argv[1]), 3600)
    store.open()
    await store.begin_upload(NAME, sys.argv[2])
    body = Stalled(content(int(sys.argv[3]))[:1_500_000])
    writing = asyncio.create_task(store.write_upload(NAME, sys.argv[2], Progress("", 0), body.chunks(), at=0))
    await body.reached.wait()
    while (await store.upload_progress(NAME, sys.argv[2], Progress("", 0))).offset == 0:
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    arguments = [sys.executable, "-c", script, str(root), upload, str(LARGE)]
    ended = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, check=False)
    assert ended.returncode == -9, ended.stderr.decode()
    async with opened(root) as store:
        progress = await store.upload_progress(NAME, upload, START)
        assert 0 < progress.offset <= 1_500_000
        rest = chunks(whole[progress.offset :])
        progress = await store.write_upload(NAME, upload, progress, rest, at=progress.offset)
        assert await store.finish_upload(NAME, upload, progress, Digest.of(whole)) == LARGE
        assert await read_blob(store, Digest.of(whole)) == whole


async def test_a_restart_keeps_everything(root: Path) -> None:
    """Blobs and open uploads are there after a restart."""
    upload = new_upload()
    async with opened(root) as store:
        digest = await upload_blob(store, content(1000))
        await store.begin_upload(NAME, upload)
        await store.write_upload(NAME, upload, START, chunks(b"12345"), at=0)
    async with opened(root) as store:
        assert await read_blob(store, digest) == content(1000)
        assert await store.finish_upload(NAME, upload, START, Digest.of(b"12345")) == 5


async def test_bytes_that_somebody_else_changed_are_found(store: LocalStore, root: Path) -> None:
    """The hash kept in memory counts only while the file has the size that it covers."""
    upload = new_upload()
    await store.begin_upload(NAME, upload)
    await store.write_upload(NAME, upload, START, chunks(b"12345"), at=0)
    with (root / "uploads" / upload).open("ab") as file:
        file.write(b"6")
    await store.write_upload(NAME, upload, START, chunks(b"7"), at=6)
    assert await store.finish_upload(NAME, upload, START, Digest.of(b"1234567")) == 7


async def test_heals_a_damaged_blob(store: LocalStore, root: Path) -> None:
    """Pushing a blob again replaces a file that has rotted."""
    digest = await upload_blob(store, content(1000))
    path = blob_file(root, digest)
    path.write_bytes(bytes(1000))
    await upload_blob(store, content(1000))
    assert await read_blob(store, digest) == content(1000)


async def test_a_truncated_blob_fails_while_it_is_read(store: LocalStore, root: Path) -> None:
    """Bytes that are gone are an error and never a short answer."""
    digest = await upload_blob(store, content(LARGE))
    async with store.open_blob(NAME, digest) as blob:
        os.truncate(blob_file(root, digest), 300_000)
        with pytest.raises(OSError, match="shorter"):
            [chunk async for chunk in blob.read(ByteRange(0, LARGE))]


async def test_nothing_but_the_blob_is_left(store: LocalStore, root: Path) -> None:
    """After an upload there is one file, where the layout says."""
    digest = await upload_blob(store, content(1000))
    assert files(root) == {blob_file(root, digest)}


async def test_the_order_of_durability(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are flushed before the blob appears, and its folder before anybody hears of it."""
    seen: list[tuple[Path, bool]] = []
    digest = Digest.of(content(1000))
    path = blob_file(root, digest)
    flush = os.fsync

    def watched(descriptor: int) -> None:
        seen.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.exists()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    await upload_blob(store, content(1000))
    assert seen[0][0].parent == root / "uploads"
    assert seen[1:] == [
        (root / "blobs", False),
        (root / "blobs" / "sha256", False),
        (path.parent, True),
    ]


async def test_a_failed_flush_drops_the_upload(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells of lost writes once: a second attempt must not acknowledge them."""
    upload = new_upload()
    await store.begin_upload(NAME, upload)
    await store.write_upload(NAME, upload, START, chunks(b"12345"), at=0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            await store.finish_upload(NAME, upload, START, Digest.of(b"12345"))
    with pytest.raises(UploadUnknownError):
        await store.finish_upload(NAME, upload, START, Digest.of(b"12345"))
    assert files(root) == set()


# -- a full disk -------------------------------------------------------------------------------------


def _failing(number: int) -> Callable[..., int]:
    def fail(*arguments: object) -> int:
        del arguments
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_undoes_the_batch(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A batch that fits only half is undone; once there is room the upload goes on, and is right."""
    whole, upload, room = content(4 * MIB), new_upload(), 2 * MIB + 1000
    path = root / "uploads" / upload
    write = os.write

    def limited(descriptor: int, data: memoryview) -> int:
        left = room - os.fstat(descriptor).st_size
        if left <= 0:
            raise OSError(number, os.strerror(number))
        return write(descriptor, data[:left])

    await store.begin_upload(NAME, upload)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", limited)
        with pytest.raises(StorageFullError):
            await store.write_upload(NAME, upload, START, chunks(whole), at=0)
    progress = await store.upload_progress(NAME, upload, START)
    assert progress.offset == path.stat().st_size == 2 * BATCH
    assert path.read_bytes() == whole[: progress.offset]
    assert not await holds(store, Digest.of(whole))
    rest = chunks(whole[progress.offset :])
    progress = await store.write_upload(NAME, upload, progress, rest, at=progress.offset)
    assert await store.finish_upload(NAME, upload, progress, Digest.of(whole)) == len(whole)
    assert await read_blob(store, Digest.of(whole)) == whole


@pytest.mark.parametrize("call", ["open", "mkdir", "fsync", "replace"])
async def test_a_full_disk_at_any_step(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whatever finds no room, the push hears so, no blob appears, and the next push is fine."""
    digest = Digest.of(b"12345")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, _failing(errno.ENOSPC))
        with pytest.raises(StorageFullError):
            await upload_blob(store, b"12345")
    assert not blob_file(root, digest).exists()
    await upload_blob(store, b"12345")
    assert await read_blob(store, digest) == b"12345"


# -- bodies that end early ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, BATCH, LARGE])
async def test_every_byte_that_came_stays(store: LocalStore, size: int) -> None:
    """The batch that was being gathered when the body failed is written too."""
    upload = new_upload()
    await store.begin_upload(NAME, upload)
    with pytest.raises(BrokenBodyError):
        await store.write_upload(NAME, upload, START, broken(content(size)), at=0)
    assert (await store.upload_progress(NAME, upload, START)).offset == size


async def test_a_cancelled_write_waits_for_its_thread(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread writes to a descriptor that was closed, which may be another file's by then."""
    upload, whole = new_upload(), content(LARGE)
    await store.begin_upload(NAME, upload)
    write = os.write

    def slow(descriptor: int, data: memoryview) -> int:
        time.sleep(0.05)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", slow)
    body = Stalled(whole[:1_500_000])
    writing = asyncio.create_task(store.write_upload(NAME, upload, START, body.chunks(), at=0))
    await body.reached.wait()
    for _ in range(3):
        writing.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await writing
    progress = await store.upload_progress(NAME, upload, START)
    assert progress.offset == 1_500_000
    await store.write_upload(NAME, upload, START, chunks(whole[1_500_000:]), at=1_500_000)
    assert await store.finish_upload(NAME, upload, START, Digest.of(whole)) == LARGE


async def test_memory_is_constant(store: LocalStore) -> None:
    """A large upload costs no more memory than two batches and what is coming in."""
    piece = 64 * 1024

    async def body() -> AsyncIterator[bytes]:
        for _ in range(64 * MIB // piece):
            yield bytes(piece)

    upload = new_upload()
    await store.begin_upload(NAME, upload)
    tracemalloc.start()
    try:
        await store.write_upload(NAME, upload, START, body(), at=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * MIB


# -- the plugin ----------------------------------------------------------------------------------------


@pytest.fixture
async def plugin(root: Path) -> AsyncIterator[Plugin]:
    """The plugin, named ``images``, in its lifespan."""
    services = cast("Services", SimpleNamespace(name="images"))
    plugin = Plugin(Plugin.Config.model_validate({"root": str(root), "expire_after": "2h"}), services)
    async with plugin.gateway_lifespan():
        yield plugin


def _backend(plugin: Plugin) -> Backend:
    return dict(plugin.gateway_backends())["images"]


def _job(plugin: Plugin) -> Job:
    (job,) = plugin.gateway_jobs()
    return job


def _age(path: Path, age: timedelta) -> None:
    then = time.time() - age.total_seconds()
    os.utime(path, (then, then))


async def test_offers_one_backend_under_its_name(plugin: Plugin) -> None:
    """The backend is named as the item is."""
    assert list(plugin.gateway_backends()) == ["images"]
    assert _backend(plugin).metadata == "truth"


async def test_expires_old_uploads_alone(plugin: Plugin, root: Path) -> None:
    """An upload that nobody continued is dropped; a young one, a busy one, a folder and blobs are not."""
    backend = _backend(plugin)
    old, young, busy = new_upload(), new_upload(), new_upload()
    for upload in (old, young, busy):
        await backend.begin_upload(NAME, upload)
    digest = await upload_blob(backend, b"12345")
    folder = root / "uploads" / "lost+found"
    folder.mkdir()
    for path in (root / "uploads" / old, root / "uploads" / busy, blob_file(root, digest), folder):
        _age(path, timedelta(hours=3))
    _age(root / "uploads" / young, timedelta(hours=1))
    body = Stalled(b"")
    writing = asyncio.create_task(backend.write_upload(NAME, busy, START, body.chunks(), at=0))
    await body.reached.wait()

    job = _job(plugin)
    assert (job.name, job.interval) == ("expire uploads", timedelta(minutes=10))
    await job.run()

    assert files(root) == {root / "uploads" / young, root / "uploads" / busy, blob_file(root, digest)}
    with pytest.raises(UploadUnknownError):
        await backend.upload_progress(NAME, old, START)
    body.go_on.set()
    await writing
    assert await backend.finish_upload(NAME, busy, START, Digest.of(b"")) == 0


async def test_a_start_clears_nothing(plugin: Plugin, root: Path) -> None:
    """Another worker that starts leaves uploads and blobs alone."""
    upload = new_upload()
    await _backend(plugin).begin_upload(NAME, upload)
    before = files(root)
    async with opened(root):
        assert files(root) == before


async def test_healthy(plugin: Plugin) -> None:
    """A folder with room is healthy."""
    assert await plugin.gateway_health() == Health(ok=True)


@pytest.mark.parametrize(
    ("call", "answer", "words"),
    [
        ("access", lambda *_: False, "not writable"),
        ("statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096), "full"),
        ("statvfs", _failing(errno.EIO), "Input/output"),
    ],
)
async def test_unhealthy(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch, call: str, answer: Callable[..., Any], words: str
) -> None:
    """What keeps blobs from being stored is said, with the folder."""
    monkeypatch.setattr(os, call, answer)
    health = await plugin.gateway_health()
    assert not health.ok
    assert words in health.message
    assert "uploads" in health.message


# -- garbage -----------------------------------------------------------------------------------------


async def unlinked() -> bool:
    """Say that no repository links the blob."""
    return False


async def linked() -> bool:
    """Say that some repository links the blob."""
    return True


async def test_lists_blobs_and_nothing_else(store: LocalStore, root: Path) -> None:
    """Every blob is listed with its size and the time of its last push; uploads, locks and strangers are not."""
    digests = {await upload_blob(store, content(size)) for size in (10, 1000)}
    longer = await upload_blob(store, content(20), Digest.of(content(20), "sha512"))
    await store.begin_upload(NAME, new_upload())
    blob_file(root, longer).with_name("README").write_text("no blob")
    before = time.time() - 60
    found = [blob async for page in store.stored() for blob in page]
    assert {(blob.digest, blob.size) for blob in found} == {
        *((digest, blob_file(root, digest).stat().st_size) for digest in digests),
        (longer, 20),
    }
    assert all(before < blob.stored_at < time.time() + 60 for blob in found)


async def test_removes_what_nobody_links(store: LocalStore, root: Path) -> None:
    """A blob that is older than asked for and unlinked goes; the second time there is nothing."""
    digest = await upload_blob(store, content(10))
    assert await store.remove_blob(digest, time.time() + 60, unlinked)
    assert files(root) == set()
    assert not await store.remove_blob(digest, time.time() + 60, unlinked)


async def test_keeps_what_is_linked(store: LocalStore) -> None:
    """A blob that is linked meanwhile stays."""
    digest = await upload_blob(store, content(10))
    assert not await store.remove_blob(digest, time.time() + 60, linked)
    assert await holds(store, digest)


async def test_keeps_what_was_pushed_again(store: LocalStore, root: Path) -> None:
    """A blob is as young as its last push, also where the bytes of that came long before its closing request."""
    digest = await upload_blob(store, content(10))
    os.utime(blob_file(root, digest), (0, 0))
    upload, before = new_upload(), time.time() - 60
    await store.begin_upload(NAME, upload)
    await store.write_upload(NAME, upload, START, chunks(content(10)), at=0)
    os.utime(root / "uploads" / upload, (0, 0))
    await store.finish_upload(NAME, upload, START, digest)
    assert not await store.remove_blob(digest, before, unlinked)
    assert await holds(store, digest)


async def test_keeps_what_is_pinned(root: Path) -> None:
    """While one process makes a link, no process removes the bytes; nobody makes one to bytes that are gone."""
    async with opened(root) as one, opened(root) as other:
        digest = await upload_blob(one, content(10))
        async with one.pinned(digest) as here, other.pinned(digest) as too:
            assert (here, too) == (True, True)
            assert not await other.remove_blob(digest, time.time() + 60, unlinked)
        assert await other.remove_blob(digest, time.time() + 60, unlinked)
        async with one.pinned(digest) as here:
            assert not here


async def test_a_link_waits_for_a_removal(root: Path) -> None:
    """Whoever wants to link while the bytes are being removed hears that they are gone, not that they are there."""
    async with opened(root) as one, opened(root) as other:
        digest = await upload_blob(one, content(10))
        asked, answer = asyncio.Event(), asyncio.Event()

        async def hesitating() -> bool:
            asked.set()
            await answer.wait()
            return False

        async def link() -> bool:
            async with other.pinned(digest) as here:
                return here

        removing = asyncio.create_task(one.remove_blob(digest, time.time() + 60, hesitating))
        await asked.wait()
        linking = asyncio.create_task(link())
        done, _ = await asyncio.wait((linking,), timeout=0.1)
        assert not done
        answer.set()
        assert await removing
        assert not await linking


async def test_a_failing_question_removes_nothing(store: LocalStore) -> None:
    """Where nobody can say whether a blob is linked it stays, and the failure is heard."""
    digest = await upload_blob(store, content(10))

    async def failing() -> bool:
        raise RegistryError(ErrorCode.UNAVAILABLE)

    with pytest.raises(RegistryError):
        await store.remove_blob(digest, time.time() + 60, failing)
    assert await holds(store, digest)


async def test_a_full_disk_can_be_cleared(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk on which nothing can be made any more keeps nobody from removing."""
    digest = await upload_blob(store, content(10))
    make = os.open

    def full(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and not Path(path).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return make(path, flags, mode)

    monkeypatch.setattr(os, "open", full)
    assert await store.remove_blob(digest, time.time() + 60, unlinked)
