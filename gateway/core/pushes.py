"""Which repositories are being pushed to: written down before the answer, so that none of their garbage is swept.

A push is many requests, and nothing refers to its blobs before the last of them. Who asks what a repository has, or
sends it something, relies on what it holds until the manifest comes: as long as no more than some minutes pass from one
request to the next, a collection of garbage leaves the repository alone. A note is one small write for each repository
and some minutes, and no pull makes any. Only of a repository that is being deleted each request is noted: its record
stays where somebody began to push after the order.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from cachetools import LRUCache
from sqlalchemy import Text, bindparam, delete, or_, select, update

from gateway.core.database import Database, Query
from gateway.core.garbage import referred
from gateway.core.schema import blobs, repositories
from gateway.oci import Digest, RepositoryName

_SHARE: Final = 10
"""A note is made anew after this share of the time for which it counts."""
_REMEMBERED: Final = 10_000
_being_deleted = or_(repositories.c.status == "delete_scheduled", repositories.c.status == "delete_ongoing")
_BEING_DELETED: Final = Query(
    select(repositories.c.id).where(repositories.c.path == bindparam("path", type_=Text()), _being_deleted)
)


async def _surely() -> bool:
    return True


class Pushes:
    """Makes the notes of one worker, and takes from a repository only what no push relies on.

    *quiet* is for how many seconds a note counts; None: nobody wants any.
    """

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

    async def note(self, name: RepositoryName, may_push: Callable[[], Awaitable[bool]] = _surely) -> None:
        """Note that somebody asked what *name* has, in order to push; *may_push* is asked only where that counts."""
        if self._every is None or not (self._is_due(name) or await self._database.rows(_BEING_DELETED, path=name)):
            return
        if not await may_push():
            return
        now = self._clock()
        # Rounded up: it is later than any order that came before it.
        noted = update(repositories).where(repositories.c.path == name).values(active_at=math.ceil(now * 1000))
        async with self._database.write(durable=False) as writer:
            known = await writer.run(noted)
        if known:
            self._noted[name] = now

    def _is_due(self, name: RepositoryName) -> bool:
        return self._every is not None and self._clock() - self._noted.get(name, 0.0) >= self._every

    async def unlink(self, name: RepositoryName, digest: Digest) -> bool:
        """The repository no longer has the blob; False where it had none, or a manifest of it refers to the blob."""
        async with self._database.write() as writer:
            # Whoever puts a manifest holds the row: it is there before this, or misses the blob.
            held = select(repositories.c.id).where(repositories.c.path == name).with_for_update()
            for (key,) in await writer.rows(held):
                mine = (blobs.c.repository_id == key, blobs.c.digest == digest)
                return await writer.run(delete(blobs).where(*mine, ~referred(key))) > 0
        return False

    async def run(self) -> None:
        """Renew the notes of requests that take long, for ever."""
        while self._every is not None:
            await asyncio.sleep(self._every)
            for name in list(self._running):
                # A database that can't answer now may answer next time; the last note still counts.
                with contextlib.suppress(Exception):
                    await self.note(name)
