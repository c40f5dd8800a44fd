"""Work that was promised and outlives whoever promised it: one row for each, done by whichever worker is free.

A task is claimed for some seconds at a time, by the database's clock. Who dies loses the claim, and another goes on;
who fails waits 2^n minutes after the n-th time, and gives up after the tenth (GitLab's rule for deleting repositories,
semantics 6). While the registry is read-only none begins, and one that this stops has not failed.
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
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Delete, Update, and_, delete, select, update

from gateway.core.database import Database, Now, Query, Writer
from gateway.core.leases import LeaseLostError, kept
from gateway.core.maintenance import Maintenance, ReadOnlyError
from gateway.core.metadata import among
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

_CLAIMED_UNTIL: Final = Now() + round(_CLAIM * 1000)
_FREE: Final = and_(tasks.c.due_at <= Now(), tasks.c.held_until < Now())

Do = Callable[[Task], Awaitable[None]]
Failed = Callable[[Task, bool], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Handler:
    do: Do
    failed: Failed | None


class DatabaseTasks:
    """Tasks over the metadata's database, and the part of one worker that does them.

    *clock* (seconds since 1970) says when a task was ordered, as it says when an image was pushed; no more than that.
    """

    def __init__(
        self, database: Database, maintenance: Maintenance, log: Any, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._maintenance = maintenance
        self._log = log
        self._clock = clock
        self._handlers: dict[str, _Handler] = {}
        self._added = asyncio.Event()
        of_mine = among(database.dialect, tasks.c.kind, "kinds")
        self._due = Query(select(tasks.c.id).where(_FREE, of_mine).order_by(tasks.c.due_at, tasks.c.id).limit(100))

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
        row = {"kind": kind, "subject": subject, "payload": json.dumps(dict(payload)), "ordered_by": by}
        when = {"ordered_at": int(self._clock() * 1000), "due_at": Now() + round(after * 1000)}
        record = tasks.insert().values(**row, **when).returning(tasks.c.id)
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
                if task is not None:
                    await self._try(*task)
                    continue
            except Exception as error:  # noqa: BLE001 - a database that can't answer now may answer next time
                self._log.warning("no task could be done", why=str(error))
            self._added.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._added.wait()

    async def _claimed(self) -> tuple[Task, str] | None:
        """A task that is due, ours for a while."""
        due = [row[0] for row in await self._database.rows(self._due, kinds=json.dumps(list(self._handlers)))]
        if not due or (await self._maintenance.mode()).read_only:
            # What is promised changes images; it waits until they may be changed.
            return None
        holder = str(uuid.uuid4())
        async with self._database.write(durable=False) as writer:
            for number in due:
                claim = update(tasks).where(tasks.c.id == number, _FREE)
                if await writer.run(claim.values(holder=holder, held_until=_CLAIMED_UNTIL)):
                    return _task((await writer.rows(select(tasks).where(tasks.c.id == number)))[0]), holder
        return None

    async def _try(self, task: Task, holder: str) -> None:
        began = asyncio.get_running_loop().time()
        extend = partial(self._extend, task, holder)
        try:
            if await extend():
                async with kept(extend, _CLAIM, began):
                    await self._do(task, holder)
        except LeaseLostError:
            # Whoever has it now does it; where nobody has, it is due.
            self._log.warning("a task was broken off: its claim was lost", task=task.kind, about=task.subject)
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back(task, holder))
            raise

    async def _do(self, task: Task, holder: str) -> None:
        try:
            await self._handlers[task.kind].do(task)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
            if await self._is_stopped(error):
                self._log.info("a task waits: the registry is read-only", task=task.kind, about=task.subject)
                await self._give_back(task, holder)
                return
            end = self._again(replace(task, attempts=task.attempts + 1), holder, error)
        else:
            end = self._ticked_off(task, holder)
        try:
            await end
        except Exception as second:  # noqa: BLE001 - the claim runs out, and it is done again
            TASK_FAILURES.labels(task.kind).inc()
            self._log.error("how a task ended could not be recorded", task=task.kind, why=str(second))

    async def _is_stopped(self, error: Exception) -> bool:
        """Whether a task failed because the registry is read-only, as its backend then may be too."""
        if isinstance(error, ReadOnlyError):
            return True
        with contextlib.suppress(Exception):
            return (await self._maintenance.mode()).read_only
        return False

    async def _ticked_off(self, task: Task, holder: str) -> None:
        async with self._database.write() as writer:
            await writer.run(_mine(delete(tasks), task, holder))

    async def _again(self, task: Task, holder: str, error: Exception) -> None:
        last = task.attempts >= MAX_FAILURES
        TASK_FAILURES.labels(task.kind).inc()
        self._log.error("a task failed", task=task.kind, about=task.subject, attempt=task.attempts, why=str(error))
        if not await self._extend(task, holder):
            # Another does it, and says how that ends.
            return
        failed = self._handlers[task.kind].failed
        if failed is not None:
            await failed(task, last)
        due = Now() + 2**task.attempts * 60_000
        async with self._database.write() as writer:
            if last:
                await writer.run(_mine(delete(tasks), task, holder))
            else:
                fresh = {"attempts": task.attempts, "due_at": due, "holder": None, "held_until": 0}
                await writer.run(_mine(update(tasks), task, holder).values(fresh))

    async def _give_back(self, task: Task, holder: str) -> None:
        with contextlib.suppress(Exception):
            async with self._database.write(durable=False) as writer:
                await writer.run(_mine(update(tasks), task, holder).values(holder=None, held_until=0))

    async def _extend(self, task: Task, holder: str) -> bool:
        async with self._database.write(durable=False) as writer:
            return await writer.run(_mine(update(tasks), task, holder).values(held_until=_CLAIMED_UNTIL)) > 0


Changing = TypeVar("Changing", Update, Delete)


def _mine(statement: Changing, task: Task, holder: str) -> Changing:
    """*statement* about the task, as long as *holder* has it."""
    return statement.where(tasks.c.id == task.id, tasks.c.holder == holder)


def _task(row: tuple[Any, ...]) -> Task:
    number, kind, subject, payload, by, ordered_at, attempts, *_ = row
    when = datetime.fromtimestamp(ordered_at / 1000, UTC)
    return Task(number, kind, subject, json.loads(payload), by, when, attempts)
