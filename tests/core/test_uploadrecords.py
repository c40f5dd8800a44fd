"""One truth about where uploads stand, for all workers and replicas, on both engines."""

from __future__ import annotations

import asyncio
import sys
import uuid
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from gateway.core.database import Database
from gateway.core.uploadrecords import CLAIM, KEPT, DatabaseUploads
from gateway.plugins import Progress, UploadBusyError, UploadUnknownError
from tests.support.databases import migrated
from tests.support.passing import pass_time
from tests.support.peers import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(params=["sqlite", "postgresql"])
async def workers(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[DatabaseUploads, DatabaseUploads]]:
    """Two workers, each with connections of its own to one database."""
    config = await migrated(request, request.param, tmp_path)
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(2):
            database = Database(config)
            await database.open()
            stack.push_async_callback(database.close)
            found.append(DatabaseUploads(database))
        yield found[0], found[1]


def _new() -> str:
    return str(uuid.uuid4())


async def test_what_one_worker_records_the_other_knows(workers: tuple[DatabaseUploads, DatabaseUploads]) -> None:
    """An upload stands where it was last let go, for every worker."""
    one, other = workers
    upload = _new()
    await one.begin(upload, Progress("a", 0))
    async with one.held(upload) as held:
        held.progress = Progress("b", 5)
    assert await other.progress(upload) == Progress("b", 5)
    async with other.held(upload) as held:
        assert held.progress == Progress("b", 5)


async def test_only_one_holds_it(workers: tuple[DatabaseUploads, DatabaseUploads]) -> None:
    """While one holds an upload it is busy for everybody, and free again afterwards."""
    one, other = workers
    upload = _new()
    await one.begin(upload, Progress("a", 0))
    async with one.held(upload):
        for worker in workers:
            with pytest.raises(UploadBusyError):
                async with worker.held(upload):
                    pass
    async with other.held(upload):
        pass


async def test_of_many_at_once_one_holds_it(workers: tuple[DatabaseUploads, DatabaseUploads]) -> None:
    """Of twenty who want an upload at the same time one gets it."""
    upload = _new()
    await workers[0].begin(upload, Progress("a", 0))
    let_go = asyncio.Event()

    async def want(worker: DatabaseUploads) -> bool:
        try:
            async with worker.held(upload):
                await let_go.wait()
        except UploadBusyError:
            return False
        return True

    wanting = {asyncio.create_task(want(workers[number % 2])) for number in range(20)}
    waiting, refused = wanting, 0
    while refused < len(wanting) - 1:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        refused += len(done)
    let_go.set()
    assert sorted(await asyncio.gather(*wanting)) == [False] * 19 + [True]


async def test_progress_survives_failure_and_cancellation(workers: tuple[DatabaseUploads, DatabaseUploads]) -> None:
    """What was set is kept however the block is left."""
    one, other = workers
    upload = _new()
    await one.begin(upload, Progress("a", 0))

    async def fail() -> None:
        async with one.held(upload) as held:
            held.progress = Progress("b", 5)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await fail()
    assert await other.progress(upload) == Progress("b", 5)
    entered = asyncio.Event()

    async def stay() -> None:
        async with one.held(upload) as held:
            held.progress = Progress("c", 7)
            entered.set()
            await asyncio.Event().wait()

    staying = asyncio.create_task(stay())
    await entered.wait()
    staying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await staying
    async with other.held(upload) as held:
        assert held.progress == Progress("c", 7)


async def test_a_dead_holder_is_believed_for_some_seconds(workers: tuple[DatabaseUploads, DatabaseUploads]) -> None:
    """A holder of whom nothing is heard loses the upload, and can't change it any more."""
    one, other = workers
    upload = _new()
    await one.begin(upload, Progress("a", 0))
    async with one.held(upload) as lost:
        lost.progress = Progress("lost", 9)
        await pass_time(one._database, CLAIM + 1)
        async with other.held(upload) as held:
            held.progress = Progress("b", 5)
    assert await other.progress(upload) == Progress("b", 5)


async def test_an_ended_upload_is_gone(workers: tuple[DatabaseUploads, DatabaseUploads]) -> None:
    """An upload that was ended is unknown to everybody."""
    one, other = workers
    upload = _new()
    await one.begin(upload, Progress("a", 0))
    async with one.held(upload) as held:
        held.ended = True
    with pytest.raises(UploadUnknownError):
        await other.progress(upload)
    with pytest.raises(UploadUnknownError):
        async with other.held(upload):
            pass


@pytest.mark.parametrize("upload", ["", "x", "x" * 300, "a\0b", "\u0663" * 36])
async def test_an_id_that_nobody_made_is_unknown(workers: tuple[DatabaseUploads, DatabaseUploads], upload: str) -> None:
    """Whatever comes as an id is at worst unknown."""
    with pytest.raises(UploadUnknownError):
        await workers[0].progress(upload)
    with pytest.raises(UploadUnknownError):
        async with workers[0].held(upload):
            pass


async def test_what_nobody_touches_is_forgotten(workers: tuple[DatabaseUploads, DatabaseUploads]) -> None:
    """After a week an upload is forgotten, and one that was touched since is not."""
    one, _ = workers
    old, touched = _new(), _new()
    await one.begin(old, Progress("a", 0))
    await one.begin(touched, Progress("a", 0))
    await pass_time(one._database, KEPT - 10)
    async with one.held(touched):
        pass
    await pass_time(one._database, 11)
    await one.forget()
    with pytest.raises(UploadUnknownError):
        await one.progress(old)
    assert await one.progress(touched) == Progress("a", 0)


AHEAD = """
import asyncio, sys, time
real = time.time
time.time = lambda: real() + 600
from gateway.config import DatabaseConfig
from gateway.core.database import Database
from gateway.core.uploadrecords import DatabaseUploads
from gateway.plugins import UploadBusyError

async def main():
    database = Database(DatabaseConfig(url=sys.argv[1]))
    try:
        async with DatabaseUploads(database).held(sys.argv[2]):
            print("taken")
    except UploadBusyError:
        print("busy")
    await database.close()

asyncio.run(main())
"""


async def test_no_workers_clock_counts(workers: tuple[DatabaseUploads, DatabaseUploads]) -> None:
    """A worker whose clock is ahead by more than a claim lasts takes no upload from the one that has it."""
    one, _ = workers
    upload, url = _new(), one._database._config.url.get_secret_value()
    await one.begin(upload, Progress("a", 0))
    async with one.held(upload):
        assert (await asyncio.to_thread(run, [sys.executable, "-c", AHEAD, url, upload])).stdout == "busy\n"
