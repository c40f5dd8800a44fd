"""What is promised is done: once, after a crash too, and again where it fails (semantics 6: repository deletion)."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy import select

from gateway.config import DatabaseConfig
from gateway.core import database as database_module
from gateway.core import tasks as tasks_module
from gateway.core.database import Database, Query, migrate
from gateway.core.maintenance import Maintenance
from gateway.core.metrics import TASK_FAILURES
from gateway.core.schema import tasks as table
from gateway.core.tasks import MAX_FAILURES, DatabaseTasks
from gateway.errors import ErrorCode, RegistryError
from gateway.plugins import Task
from tests.support.databases import migrated
from tests.support.passing import pass_time

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Place:
    """A database, and a worker with connections of its own for each time that one is opened."""

    config: DatabaseConfig
    stack: AsyncExitStack

    async def worker(self, *, ahead: float = 0) -> DatabaseTasks:
        """Open one, whose clock is *ahead* by some seconds."""
        database = Database(self.config)
        await database.open()
        self.stack.push_async_callback(database.close)
        maintenance = Maintenance(None, database)
        return DatabaseTasks(database, maintenance, structlog.get_logger(), lambda: time.time() + ahead)


@pytest.fixture(params=["sqlite", "postgresql"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """An empty database of each engine."""
    config = await migrated(request, request.param, tmp_path)
    async with AsyncExitStack() as stack:
        yield Place(config, stack)


@pytest.fixture
async def workers(place: Place) -> tuple[DatabaseTasks, DatabaseTasks]:
    """Two workers of one database."""
    return await place.worker(), await place.worker()


class Done:
    """Does what is asked, or fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.tasks: list[Task] = []
        self.failures: list[tuple[int, bool]] = []
        self._left = failures

    async def do(self, task: Task) -> None:
        """Do it, unless it has to fail."""
        self.tasks.append(task)
        if self._left:
            self._left -= 1
            raise ValueError("not this time")

    async def failed(self, task: Task, last: bool) -> None:  # noqa: FBT001 - the protocol's
        """Hear of a failure."""
        self.failures.append((task.attempts, last))


async def _once(worker: DatabaseTasks) -> bool:
    """Do one task that is due, if there is any."""
    claimed = await worker._claimed()
    if claimed is not None:
        await worker._try(*claimed)
    return claimed is not None


async def test_a_promise_is_kept_once(workers: tuple[DatabaseTasks, DatabaseTasks]) -> None:
    """One worker promises, another does it, with what it was told; then nothing is left."""
    promising, doing = workers
    done = Done()
    doing.handle("paint", done.do)
    number = await promising.add("paint", "acme/app", {"colour": "ünïcode"}, "alice")
    assert await _once(doing)
    assert not await _once(doing)
    (task,) = done.tasks
    assert (task.id, task.kind, task.subject, task.by, task.attempts) == (number, "paint", "acme/app", "alice", 0)
    assert task.payload == {"colour": "ünïcode"}


async def test_two_workers_never_do_the_same_task(workers: tuple[DatabaseTasks, DatabaseTasks]) -> None:
    """Of twenty tasks each is claimed by one."""
    for worker in workers:
        worker.handle("paint", Done().do)
    for place in range(20):
        await workers[0].add("paint", f"acme/{place}", {}, "alice")
    claims: list[Any] = []
    while found := [claim for claim in await asyncio.gather(*(worker._claimed() for worker in workers)) if claim]:
        claims += found
    assert sorted(task.subject for task, _ in claims) == sorted(f"acme/{place}" for place in range(20))


async def test_waits_grow(workers: tuple[DatabaseTasks, DatabaseTasks]) -> None:
    """After n failures it waits 2^n minutes; the tenth is the last, and says so."""
    worker, _ = workers
    done = Done(failures=100)
    worker.handle("paint", done.do, done.failed)
    await worker.add("paint", "acme/app", {}, "alice")
    for failures in range(1, MAX_FAILURES):
        assert await _once(worker)
        await pass_time(worker._database, 2**failures * 60 - 10)
        assert not await _once(worker)
        await pass_time(worker._database, 11)
    assert await _once(worker)
    await pass_time(worker._database, 10**9)
    assert not await _once(worker)
    assert done.failures == [(number, number == 10) for number in range(1, 11)]


async def test_another_takes_over_from_the_dead(workers: tuple[DatabaseTasks, DatabaseTasks]) -> None:
    """A task whose worker gives no sign of life for half a minute is another's, and is done."""
    dead, alive = workers
    done = Done()
    for worker in workers:
        worker.handle("paint", done.do)
    await dead.add("paint", "acme/app", {}, "alice")
    assert await dead._claimed() is not None
    assert not await _once(alive)
    await pass_time(workers[0]._database, 31)
    assert await _once(alive)
    assert len(done.tasks) == 1


async def test_who_lost_a_claim_ends_nothing(workers: tuple[DatabaseTasks, DatabaseTasks]) -> None:
    """A worker that was thought dead does not take the task from the one that has it now."""
    slow, other = workers
    done = Done()
    for worker in workers:
        worker.handle("paint", done.do)
    await slow.add("paint", "acme/app", {}, "alice")
    lost = await slow._claimed()
    await pass_time(workers[0]._database, 31)
    assert await other._claimed() is not None
    assert lost is not None
    await slow._try(*lost)
    await pass_time(workers[0]._database, 31)
    assert await _once(other)


async def test_a_worker_that_ends_gives_its_task_back(workers: tuple[DatabaseTasks, DatabaseTasks]) -> None:
    """At shutdown a running task is free at once for another worker."""
    ending, other = workers
    began = asyncio.Event()

    async def endless(_task: Task) -> None:
        began.set()
        await asyncio.Event().wait()

    done = Done()
    ending.handle("paint", endless)
    other.handle("paint", done.do)
    await ending.add("paint", "acme/app", {}, "alice")
    running = asyncio.create_task(ending.run())
    await began.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await _once(other)
    assert len(done.tasks) == 1


async def test_work_begins_at_once(workers: tuple[DatabaseTasks, DatabaseTasks]) -> None:
    """Whoever promises wakes its own worker: nobody waits for the next look around."""
    worker, _ = workers
    done = asyncio.Event()

    async def do(_task: Task) -> None:
        done.set()

    worker.handle("paint", do)
    running = asyncio.create_task(worker.run())
    await worker.add("paint", "acme/app", {}, "alice")
    async with asyncio.timeout(4):
        await done.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_nobody_can_do_waits(workers: tuple[DatabaseTasks, DatabaseTasks]) -> None:
    """A task of a plugin that is switched off stays until it is switched on again, and holds up nobody."""
    worker, _ = workers
    done = Done()
    worker.handle("paint", done.do)
    await worker.add("unknown", "acme/app", {}, "alice")
    await worker.add("paint", "acme/app", {}, "alice")
    assert await _once(worker)
    assert not await _once(worker)
    worker.handle("unknown", done.do)
    assert await _once(worker)


async def test_nothing_is_promised_by_half(workers: tuple[DatabaseTasks, DatabaseTasks]) -> None:
    """A promise within a transaction that fails was never made."""
    worker, _ = workers
    worker.handle("paint", Done().do)

    async def undone() -> None:
        async with worker._database.write() as writer:
            await worker.add_within(writer, "paint", "acme/app", {}, "alice")
            raise ValueError("undone")

    with pytest.raises(ValueError, match="undone"):
        await undone()
    assert not await _once(worker)


# -- when something is wrong -------------------------------------------------------------------------------


async def _shown(worker: DatabaseTasks) -> list[tuple[int, bool]]:
    """Of each task how often it failed, and whether somebody holds it."""
    held = select(table.c.attempts, table.c.holder.is_not(None)).order_by(table.c.id)
    return [(attempts, bool(is_held)) for attempts, is_held in await worker._database.rows(Query(held))]


async def test_no_workers_clock_counts(place: Place) -> None:
    """A worker whose clock is ahead of the others' takes no task that one of them does, and none before its time."""
    worker, ahead = await place.worker(), await place.worker(ahead=3600)
    for one in (worker, ahead):
        one.handle("paint", Done().do)
    await worker.add("paint", "acme/app", {}, "alice")
    assert await worker._claimed() is not None
    await ahead.add("paint", "acme/later", {}, "alice", after=60)
    assert await ahead._claimed() is None
    await pass_time(worker._database, 61)
    assert await worker._claimed() is not None


async def test_a_worker_outlives_a_database_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a task that is done can't be ticked off its worker goes on, and once the claim is over does it again."""
    monkeypatch.setattr(database_module, "_BUSY_WRITER", 0.1)
    config = DatabaseConfig(url=SecretStr(f"sqlite:///{tmp_path / 'gateway.db'}"))
    await migrate(config)
    async with AsyncExitStack() as stack:
        worker = await Place(config, stack).worker()
        done: list[Task] = []
        other = sqlite3.connect(config.sqlite_path, isolation_level=None)
        stack.callback(other.close)

        async def do(task: Task) -> None:
            done.append(task)
            if len(done) == 1:
                other.execute("BEGIN IMMEDIATE")

        worker.handle("paint", do)
        running = asyncio.create_task(worker.run())
        await worker.add("paint", "acme/app", {}, "alice")
        failures = TASK_FAILURES.labels("paint")._value
        before = failures.get()
        async with asyncio.timeout(20):
            while failures.get() == before:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
        other.execute("ROLLBACK")
        assert await _shown(worker) == [(0, True)]
        await pass_time(worker._database, 31)
        worker.wake()
        async with asyncio.timeout(20):
            while await _shown(worker):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
        assert len(done) == 2
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(None, id="it asks itself"),
        pytest.param(RegistryError(ErrorCode.UNAVAILABLE), id="its registry is stopped meanwhile"),
    ],
)
async def test_what_read_only_mode_stops_has_not_failed(
    workers: tuple[DatabaseTasks, DatabaseTasks], error: RegistryError | None
) -> None:
    """A task that is stopped because the registry became read-only is done as soon as it is writable again."""
    worker, _ = workers
    stopped = Done()

    async def do(_task: Task) -> None:
        await worker._maintenance.switch({"mode": "read_only"})
        if error is not None:
            raise error
        await worker._maintenance.require_writable()

    worker.handle("paint", do, stopped.failed)
    await worker.add("paint", "acme/app", {}, "alice")
    assert await _once(worker)
    assert (await _shown(worker), stopped.failures) == ([(0, False)], [])
    assert not await _once(worker)
    await worker._maintenance.switch({"mode": None})
    done = Done()
    worker.handle("paint", done.do)
    assert await _once(worker)
    assert len(done.tasks) == 1


async def test_who_lost_a_claim_stops(
    workers: tuple[DatabaseTasks, DatabaseTasks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose task another has taken over breaks off, and says nothing of how it ended."""
    monkeypatch.setattr(tasks_module, "_CLAIM", 0.3)
    slow, other = workers
    lost, done = Done(), Done()

    async def taken(_task: Task) -> None:
        await pass_time(other._database, 31)
        assert await other._claimed() is not None
        await asyncio.Event().wait()

    slow.handle("paint", taken, lost.failed)
    other.handle("paint", done.do)
    await slow.add("paint", "acme/app", {}, "alice")
    async with asyncio.timeout(20):
        assert await _once(slow)
    assert (await _shown(other), lost.failures) == ([(0, True)], [])


async def test_who_lost_a_claim_tells_of_no_failure(workers: tuple[DatabaseTasks, DatabaseTasks]) -> None:
    """What fails after another worker has taken it over is no failure of the task."""
    slow, other = workers
    lost = Done()

    async def fail(_task: Task) -> None:
        await pass_time(other._database, 31)
        assert await other._claimed() is not None
        raise ValueError("too late")

    slow.handle("paint", fail, lost.failed)
    other.handle("paint", Done().do)
    await slow.add("paint", "acme/app", {}, "alice")
    assert await _once(slow)
    assert (await _shown(other), lost.failures) == ([(0, True)], [])


async def test_many_of_a_plugin_that_is_gone_hold_up_nobody(workers: tuple[DatabaseTasks, DatabaseTasks]) -> None:
    """However many tasks wait for a plugin that is switched off, another's is done."""
    worker, _ = workers
    done = Done()
    worker.handle("paint", done.do)
    async with worker._database.write() as writer:
        for place in range(600):
            await worker.add_within(writer, "unknown", f"acme/{place}", {}, "alice")
    await worker.add("paint", "acme/app", {}, "alice")
    assert await _once(worker)
    assert [task.subject for task in done.tasks] == ["acme/app"]
