"""Time that passes for claims and leases: they go by the database's clock, which no test can move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import update

from gateway.core.schema import leases, tasks, uploads

if TYPE_CHECKING:
    from gateway.core.database import Database

_TIMED = (tasks.c.due_at, tasks.c.held_until, leases.c.held_until, uploads.c.held_until, uploads.c.changed_at)


async def pass_time(database: Database, seconds: float) -> None:
    """Let everything that the database's clock times be as it will be in *seconds*."""
    async with database.write() as writer:
        for column in _TIMED:
            await writer.run(update(column.table).values({column: column - round(seconds * 1000)}))
