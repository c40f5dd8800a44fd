"""Where uploads stand whose backend can't be asked by everybody: in the database, one row for each.

What a power cut undoes of it is found out from the backend, as after any other end of a gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import bindparam, delete, or_, select, update

from gateway.core.database import Database, Now, Query
from gateway.core.schema import uploads
from gateway.plugins import Held, Progress, UploadBusyError, UploadUnknownError

CLAIM: Final = 6.0
"""Seconds for which a writer is believed to be alive without word from it; it sends word three times as often."""
KEPT: Final = 7 * 24 * 3600.0
"""Seconds after which an upload that nobody touches is forgotten; registries purge theirs after a week."""

_CLAIMED_UNTIL: Final = Now() + round(CLAIM * 1000)
_STANDING: Final = Query(select(uploads.c.state, uploads.c.offset).where(uploads.c.id == bindparam("upload")))


class DatabaseUploads:
    """UploadRecords over the metadata's database, whose clock times them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, upload: str, progress: Progress) -> None:
        """Record it as free."""
        row = {"id": upload, "state": progress.state, "offset": progress.offset, "held_until": 0}
        async with self._database.write(durable=False) as writer:
            await writer.run(uploads.insert().values(**row, changed_at=Now()))

    async def progress(self, upload: str) -> Progress:
        """Where it stood when it was last let go. Raises UploadUnknownError."""
        _require_ours(upload)
        rows = await self._database.rows(_STANDING, upload=upload)
        if not rows:
            raise UploadUnknownError(upload)
        return Progress(*rows[0])

    @asynccontextmanager
    async def held(self, upload: str) -> AsyncIterator[Held]:
        """Hold it alone. Raises UploadUnknownError, UploadBusyError."""
        _require_ours(upload)
        holder = str(uuid.uuid4())
        held = Held(await self._claim(upload, holder))
        staying = asyncio.create_task(self._stay(upload, holder))
        try:
            yield held
        finally:
            staying.cancel()
            await asyncio.shield(self._release(upload, holder, held))

    async def forget(self) -> None:
        """Drop what nobody touched for a week."""
        async with self._database.write(durable=False) as writer:
            await writer.run(delete(uploads).where(uploads.c.changed_at < Now() - round(KEPT * 1000)))

    async def _claim(self, upload: str, holder: str) -> Progress:
        free = or_(uploads.c.held_until < Now(), uploads.c.holder.is_(None))
        claim = update(uploads).where(uploads.c.id == upload, free)
        async with self._database.write(durable=False) as writer:
            claimed = await writer.run(claim.values(holder=holder, held_until=_CLAIMED_UNTIL))
            rows = await writer.rows(_STANDING.statement, {"upload": upload})
        if not rows:
            raise UploadUnknownError(upload)
        if not claimed:
            raise UploadBusyError(upload)
        return Progress(*rows[0])

    async def _stay(self, upload: str, holder: str) -> None:
        mine = update(uploads).where(uploads.c.id == upload, uploads.c.holder == holder)
        while True:
            await asyncio.sleep(CLAIM / 3)
            # A database that can't answer now may answer next time; until then the claim stands.
            with contextlib.suppress(Exception):
                async with self._database.write(durable=False) as writer:
                    await writer.run(mine.values(held_until=_CLAIMED_UNTIL))

    async def _release(self, upload: str, holder: str, held: Held) -> None:
        mine = (uploads.c.id == upload, uploads.c.holder == holder)
        kept = {"state": held.progress.state, "offset": held.progress.offset, "holder": None}
        async with self._database.write(durable=False) as writer:
            if held.ended:
                await writer.run(delete(uploads).where(*mine))
            else:
                await writer.run(update(uploads).where(*mine).values(**kept, held_until=0, changed_at=Now()))


def _require_ours(upload: str) -> None:
    """PostgreSQL takes a NUL for an error, and no id of ours looks like anything but a UUID."""
    try:
        uuid.UUID(upload)
    except ValueError:
        raise UploadUnknownError(upload) from None
