"""What only one may do at a time, of all workers and replicas: a lease is a row, and its holder keeps it by word."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.core.database import Database, Now
from gateway.core.schema import leases


class LeaseLostError(RuntimeError):
    """Nobody could extend the lease or claim in time, or somebody else holds it: what it protects must end."""


class Leases:
    """Leases by name, of at most 512 characters; how long they last goes by the database's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert: Any = sqlite.insert if database.dialect == "sqlite" else postgresql.insert

    async def take(self, name: str, seconds: float) -> str | None:
        """Take the lease if nobody holds it, or its time is over: the holder's secret, else None."""
        holder = str(uuid.uuid4())
        mine = {"holder": holder, "held_until": Now() + round(seconds * 1000)}
        record = self._insert(leases).values(name=name, **mine)
        over = leases.c.held_until < Now()
        async with self._database.write() as writer:
            taken = await writer.run(record.on_conflict_do_update(index_elements=["name"], set_=mine, where=over))
        return holder if taken else None

    async def extend(self, name: str, holder: str, seconds: float) -> bool:
        """Hold it for *seconds* from now; False where *holder* has lost it."""
        held = update(leases).where(leases.c.name == name, leases.c.holder == holder)
        async with self._database.write() as writer:
            return await writer.run(held.values(held_until=Now() + round(seconds * 1000))) > 0

    async def release(self, name: str, holder: str) -> None:
        """Give it back; nothing where *holder* has lost it."""
        async with self._database.write() as writer:
            await writer.run(delete(leases).where(leases.c.name == name, leases.c.holder == holder))

    @asynccontextmanager
    async def held(self, name: str, seconds: float) -> AsyncIterator[bool]:
        """Hold it, extended while the block runs; the block is told whether it was taken.

        A block that could not extend it for *seconds* is cancelled, since others may hold it then: LeaseLostError.
        """
        began = asyncio.get_running_loop().time()
        holder = await self.take(name, seconds)
        if holder is None:
            yield False
            return
        try:
            async with kept(partial(self.extend, name, holder, seconds), seconds, began):
                yield True
        except LeaseLostError as error:
            raise LeaseLostError(name) from error
        finally:
            # A database that can't answer now leaves it to its time.
            with contextlib.suppress(Exception):
                await asyncio.shield(self.release(name, holder))


@asynccontextmanager
async def kept(extend: Callable[[], Awaitable[bool]], seconds: float, since: float) -> AsyncIterator[None]:
    """Keep what was claimed for *seconds*, *since* a time of the event loop, while the block runs.

    *extend* makes the claim last for *seconds* from now on, and says whether it still was ours. A block that lost it,
    or could not extend it in time, is cancelled: LeaseLostError.
    """
    limit = asyncio.timeout_at(since + seconds)
    try:
        async with limit:
            staying = asyncio.create_task(_stay(extend, seconds, limit))
            try:
                yield
            finally:
                staying.cancel()
                await asyncio.gather(staying, return_exceptions=True)
    except TimeoutError as error:
        if limit.expired():
            raise LeaseLostError from error
        raise


async def _stay(extend: Callable[[], Awaitable[bool]], seconds: float, limit: asyncio.Timeout) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(seconds / 3)
        asked = loop.time()
        # A database that can't answer now may answer next time; until then the claim stands.
        with contextlib.suppress(Exception):
            limit.reschedule(asked + seconds if await extend() else loop.time())
