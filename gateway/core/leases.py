"""What only one may do at a time, of all workers and replicas: a lease is a row, and its holder keeps it by word."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.core.database import Database
from gateway.core.schema import leases


class LeaseLostError(RuntimeError):
    """Nobody could extend the lease in time, or somebody else holds it: what it protects must end."""


class Leases:
    """Leases by name, of at most 512 characters. *clock* gives seconds since 1970; those of all replicas agree."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._insert: Any = sqlite.insert if database.dialect == "sqlite" else postgresql.insert

    def _in(self, seconds: float) -> int:
        return int((self._clock() + seconds) * 1000)

    async def take(self, name: str, seconds: float) -> str | None:
        """Take the lease if nobody holds it, or its time is over: the holder's secret, else None."""
        holder = str(uuid.uuid4())
        mine = {"holder": holder, "held_until": self._in(seconds)}
        record = self._insert(leases).values(name=name, **mine)
        over = leases.c.held_until < self._in(0)
        async with self._database.write() as writer:
            taken = await writer.run(record.on_conflict_do_update(index_elements=["name"], set_=mine, where=over))
        return holder if taken else None

    async def extend(self, name: str, holder: str, seconds: float) -> bool:
        """Hold it for *seconds* from now; False where *holder* has lost it."""
        held = update(leases).where(leases.c.name == name, leases.c.holder == holder)
        async with self._database.write() as writer:
            return await writer.run(held.values(held_until=self._in(seconds))) > 0

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
            async with asyncio.timeout_at(began + seconds) as limit:
                staying = asyncio.create_task(self._stay(name, holder, seconds, limit))
                try:
                    yield True
                finally:
                    staying.cancel()
                    await asyncio.gather(staying, return_exceptions=True)
        except TimeoutError as error:
            if limit.expired():
                raise LeaseLostError(name) from error
            raise
        finally:
            # A database that can't answer now leaves it to its time.
            with contextlib.suppress(Exception):
                await asyncio.shield(self.release(name, holder))

    async def _stay(self, name: str, holder: str, seconds: float, limit: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds / 3)
            asked = loop.time()
            # A database that can't answer now may answer next time; until then the lease stands.
            with contextlib.suppress(Exception):
                limit.reschedule(asked + seconds if await self.extend(name, holder, seconds) else loop.time())
