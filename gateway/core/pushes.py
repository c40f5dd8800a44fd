"""Which repositories are being pushed to: written down before the answer, so that none of their garbage is swept.

A push is many requests, and nothing refers to its blobs before the last of them. Who asks what a repository has, or
sends it something, relies on what it holds until the manifest comes: as long as no more than some minutes pass from one
request to the next, a collection of garbage leaves the repository alone. A note is one small write for each repository
and some minutes, and no pull makes any.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from cachetools import LRUCache
from sqlalchemy import update

from gateway.core.database import Database
from gateway.core.schema import repositories
from gateway.oci import RepositoryName

_SHARE: Final = 10
"""A note is made anew after this share of the time for which it counts."""
_REMEMBERED: Final = 10_000


class Pushes:
    """Makes the notes of one worker. *quiet* is for how many seconds one counts; None: nobody wants any."""

    def __init__(self, database: Database, quiet: float | None, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._every = None if quiet is None else quiet / _SHARE
        self._clock = clock
        self._running: Counter[RepositoryName] = Counter()
        self._noted: LRUCache[RepositoryName, float] = LRUCache(_REMEMBERED)

    @asynccontextmanager
    async def going_on(self, name: RepositoryName) -> AsyncIterator[None]:
        """Note that *name* is pushed to while the block runs. Raises RegistryError where the note can't be made."""
        if self._every is None:
            yield
            return
        self._running[name] += 1
        try:
            await self.note(name)
            yield
        finally:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]

    async def note(self, name: RepositoryName) -> None:
        """Note that somebody asked what *name* has, in order to push."""
        now = self._clock()
        if self._every is None or now - self._noted.get(name, 0.0) < self._every:
            return
        noted = update(repositories).where(repositories.c.path == name).values(active_at=int(now * 1000))
        async with self._database.write(durable=False) as writer:
            known = await writer.run(noted)
        if known:
            self._noted[name] = now

    async def run(self) -> None:
        """Renew the notes of requests that take long, for ever."""
        while self._every is not None:
            await asyncio.sleep(self._every)
            for name in list(self._running):
                # A database that can't answer now may answer next time; the last note still counts.
                with contextlib.suppress(Exception):
                    await self.note(name)
