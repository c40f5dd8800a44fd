"""What is promised is done: once, after a crash too, and again where it fails (semantics 6: repository deletion)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from pydantic import SecretStr

from gateway.config import DatabaseConfig
from gateway.core.database import Database, migrate
from gateway.core.maintenance import Maintenance
from gateway.core.tasks import MAX_FAILURES, DatabaseTasks
from gateway.plugins import Task

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        """Tell the time, in seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """One clock for all workers."""
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
async def workers(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[tuple[DatabaseTasks, DatabaseTasks]]:
    """Two workers, each with connections of its own to one database."""
    url = (
        f"sqlite:///{tmp_path / 'gateway.db'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres").database()
    )
    config = DatabaseConfig(url=SecretStr(url))
    await migrate(config)
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(2):
            database = Database(config)
            await database.open()
            stack.push_async_callback(database.close)
            found.append(DatabaseTasks(database, Maintenance(None, database), structlog.get_logger(), clock))
        yield found[0], found[1]


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


async def test_waits_grow(workers: tuple[DatabaseTasks, DatabaseTasks], clock: Clock) -> None:
    """After n failures it waits 2^n minutes; the tenth is the last, and says so."""
    worker, _ = workers
    done = Done(failures=100)
    worker.handle("paint", done.do, done.failed)
    await worker.add("paint", "acme/app", {}, "alice")
    for failures in range(1, MAX_FAILURES):
        assert await _once(worker)
        clock.now += 2**failures * 60 - 1
        assert not await _once(worker)
        clock.now += 2
    assert await _once(worker)
    clock.now += 10**9
    assert not await _once(worker)
    assert done.failures == [(number, number == 10) for number in range(1, 11)]


async def test_another_takes_over_from_the_dead(workers: tuple[DatabaseTasks, DatabaseTasks], clock: Clock) -> None:
    """A task whose worker gives no sign of life for half a minute is another's, and is done."""
    dead, alive = workers
    done = Done()
    for worker in workers:
        worker.handle("paint", done.do)
    await dead.add("paint", "acme/app", {}, "alice")
    assert await dead._claimed() is not None
    assert not await _once(alive)
    clock.now += 31
    assert await _once(alive)
    assert len(done.tasks) == 1


async def test_who_lost_a_claim_ends_nothing(workers: tuple[DatabaseTasks, DatabaseTasks], clock: Clock) -> None:
    """A worker that was thought dead does not take the task from the one that has it now."""
    slow, other = workers
    done = Done()
    for worker in workers:
        worker.handle("paint", done.do)
    await slow.add("paint", "acme/app", {}, "alice")
    lost = await slow._claimed()
    clock.now += 31
    assert await other._claimed() is not None
    assert lost is not None
    await slow._try(*lost)
    clock.now += 31
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
