"""Work that was promised and outlives whoever promised it: one row for each, done by whichever worker is free.

A task is claimed for some seconds at a time. Who dies loses the claim, and another goes on; who fails waits 2^n minutes
after the n-th time, and gives up after the tenth (GitLab's rule for deleting repositories, semantics 6).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import and_, bindparam, delete, select, update

from gateway.core.database import Database, Query, Writer
from gateway.core.maintenance import Maintenance
from gateway.core.metrics import TASK_FAILURES
from gateway.core.schema import tasks
from gateway.plugins import Task

MAX_FAILURES: Final = 10
_CLAIM: Final = 30.0
"""Seconds for which a worker is believed to be alive without word from it; it sends word three times as often."""
_LOOK: Final = 5.0
"""Seconds after which one looks for tasks of other workers, or whose time has come."""
_AT_ONCE: Final = 2
"""Tasks that one worker does at the same time."""

_DUE: Final = Query(
    select(tasks.c.id, tasks.c.kind)
    .where(tasks.c.due_at <= bindparam("now"), tasks.c.held_until < bindparam("now"))
    .order_by(tasks.c.due_at, tasks.c.id)
    .limit(500)
)

Do = Callable[[Task], Awaitable[None]]
Failed = Callable[[Task, bool], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Handler:
    do: Do
    failed: Failed | None


class DatabaseTasks:
    """Tasks over the metadata's database, and the part of one worker that does them."""

    def __init__(
        self, database: Database, maintenance: Maintenance, log: Any, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._maintenance = maintenance
        self._log = log
        self._clock = clock
        self._handlers: dict[str, _Handler] = {}
        self._added = asyncio.Event()

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def handle(self, kind: str, do: Do, failed: Failed | None = None) -> None:
        """Say how tasks of *kind* are done."""
        self._handlers[kind] = _Handler(do, failed)

    async def add(self, kind: str, subject: str, payload: Mapping[str, Any], by: str, *, after: float = 0) -> int:
        """Promise a task, which nobody begins within *after* seconds."""
        async with self._database.write() as writer:
            number = await self.add_within(writer, kind, subject, payload, by, after=after)
        self.wake()
        return number

    async def tick_off(self, number: int) -> None:
        """Whoever promised the task has done it."""
        # Where that is forgotten, it is done again.
        async with self._database.write(durable=False) as writer:
            await writer.run(delete(tasks).where(tasks.c.id == number))

    async def add_within(
        self, writer: Writer, kind: str, subject: str, payload: Mapping[str, Any], by: str, *, after: float = 0
    ) -> int:
        """Promise a task together with what else *writer*'s transaction changes; ``wake`` once it is committed."""
        now = self._now()
        row = {"kind": kind, "subject": subject, "payload": json.dumps(dict(payload)), "ordered_by": by}
        record = tasks.insert().values(**row, ordered_at=now, due_at=now + int(after * 1000)).returning(tasks.c.id)
        return int((await writer.rows(record))[0][0])

    def wake(self) -> None:
        """Look for tasks now."""
        self._added.set()

    async def run(self) -> None:
        """Do tasks, for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            try:
                task = await self._claimed()
            except Exception as error:  # noqa: BLE001 - a database that can't answer now may answer next time
                self._log.warning("no tasks could be looked for", why=str(error))
                task = None
            if task is not None:
                await self._try(*task)
                continue
            self._added.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._added.wait()

    async def _claimed(self) -> tuple[Task, str] | None:
        """A task that is due, ours for a while."""
        due = [number for number, kind in await self._database.rows(_DUE, now=self._now()) if kind in self._handlers]
        if not due or (await self._maintenance.mode()).read_only:
            # What is promised changes images; it waits until they may be changed.
            return None
        holder = str(uuid.uuid4())
        async with self._database.write(durable=False) as writer:
            now = self._now()
            for number in due:
                free = and_(tasks.c.id == number, tasks.c.held_until < now, tasks.c.due_at <= now)
                claim = update(tasks).where(free).values(holder=holder, held_until=now + int(_CLAIM * 1000))
                if await writer.run(claim):
                    return _task((await writer.rows(select(tasks).where(tasks.c.id == number)))[0]), holder
        return None

    async def _try(self, task: Task, holder: str) -> None:
        staying = asyncio.create_task(self._stay(task, holder))
        try:
            await self._handlers[task.kind].do(task)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
            await self._again(replace(task, attempts=task.attempts + 1), holder, error)
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back(task, holder))
            raise
        else:
            async with self._database.write() as writer:
                await writer.run(delete(tasks).where(tasks.c.id == task.id, tasks.c.holder == holder))
        finally:
            staying.cancel()

    async def _again(self, task: Task, holder: str, error: Exception) -> None:
        last = task.attempts >= MAX_FAILURES
        TASK_FAILURES.labels(task.kind).inc()
        self._log.error("a task failed", task=task.kind, about=task.subject, attempt=task.attempts, why=str(error))
        due = self._now() + 2**task.attempts * 60_000
        mine = update(tasks).where(tasks.c.id == task.id, tasks.c.holder == holder)
        try:
            failed = self._handlers[task.kind].failed
            if failed is not None:
                await failed(task, last)
            async with self._database.write() as writer:
                if last:
                    await writer.run(delete(tasks).where(tasks.c.id == task.id, tasks.c.holder == holder))
                else:
                    await writer.run(mine.values(attempts=task.attempts, due_at=due, holder=None, held_until=0))
        except Exception as second:  # noqa: BLE001 - the claim runs out, and it is tried again
            self._log.error("a task's failure could not be recorded", task=task.kind, why=str(second))

    async def _give_back(self, task: Task, holder: str) -> None:
        mine = update(tasks).where(tasks.c.id == task.id, tasks.c.holder == holder)
        with contextlib.suppress(Exception):
            async with self._database.write(durable=False) as writer:
                await writer.run(mine.values(holder=None, held_until=0))

    async def _stay(self, task: Task, holder: str) -> None:
        mine = update(tasks).where(tasks.c.id == task.id, tasks.c.holder == holder)
        while True:
            await asyncio.sleep(_CLAIM / 3)
            with contextlib.suppress(Exception):
                async with self._database.write(durable=False) as writer:
                    await writer.run(mine.values(held_until=self._now() + int(_CLAIM * 1000)))


def _task(row: tuple[Any, ...]) -> Task:
    number, kind, subject, payload, by, ordered_at, attempts, *_ = row
    when = datetime.fromtimestamp(ordered_at / 1000, UTC)
    return Task(number, kind, subject, json.loads(payload), by, when, attempts)
