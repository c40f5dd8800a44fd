"""Which repositories a crawl has still to visit: runs are recorded, so that one that was broken off goes on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.core.database import Database, Query
from gateway.core.schema import crawls, repositories
from gateway.oci import RepositoryName

_PAGE: Final = 500

_RUN: Final = Query(select(crawls.c.started_at, crawls.c.ended_at).where(crawls.c.backend == bindparam("backend")))
_CRAWLED: Final = Query(select(repositories.c.crawled_at).where(repositories.c.path == bindparam("path")))
_BEHIND: Final = Query(
    select(repositories.c.path)
    .where(
        repositories.c.path > bindparam("last"),
        or_(repositories.c.crawled_at.is_(None), repositories.c.crawled_at < bindparam("started")),
    )
    .order_by(repositories.c.path)
    .limit(_PAGE)
)


class Crawls:
    """The runs of crawls over the backends, one at a time for each. Times are milliseconds since 1970."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._insert: Any = sqlite.insert if database.dialect == "sqlite" else postgresql.insert

    def _now(self) -> int:
        return int(self._clock() * 1000)

    async def begin(self, backend: str) -> tuple[int, bool]:
        """When the run over *backend* started, and whether it goes on with one that was broken off."""
        rows = await self._database.rows(_RUN, backend=backend)
        if rows and rows[0][1] is None:
            return rows[0][0], True
        started = self._now()
        record = self._insert(crawls).values(backend=backend, started_at=started, ended_at=None)
        again = {"started_at": started, "ended_at": None}
        async with self._database.write() as writer:
            await writer.run(record.on_conflict_do_update(index_elements=["backend"], set_=again))
        return started, False

    async def end(self, backend: str) -> None:
        """The run has visited everything."""
        async with self._database.write() as writer:
            await writer.run(update(crawls).where(crawls.c.backend == backend).values(ended_at=self._now()))

    async def visited(self, name: RepositoryName, started: int) -> bool:
        """Whether the run that began at *started* has been at the repository."""
        rows = await self._database.rows(_CRAWLED, path=name)
        return bool(rows) and rows[0][0] is not None and rows[0][0] >= started

    async def behind(self, started: int) -> AsyncIterator[RepositoryName]:
        """The recorded repositories that the run has not been at, of all backends."""
        last = ""
        while True:
            rows = await self._database.rows(_BEHIND, last=last, started=started)
            for (path,) in rows:
                yield RepositoryName(path)
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]
