"""How one worker's connections are shared: who waits for whom, and what is said where that takes too long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, literal, select

from gateway.config import DatabaseConfig
from gateway.core import database as database_module
from gateway.core.database import Database, Query
from gateway.core.schema import repositories
from gateway.errors import RegistryError
from tests.support.databases import migrated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_counted = select(literal(1).label("n")).cte(recursive=True)
_all = _counted.union_all(select(_counted.c.n + 1).where(_counted.c.n < 2_000_000))
LONG = Query(select(func.count()).select_from(_all))
SHORT = Query(select(repositories.c.id))


@pytest.fixture(params=["sqlite", "postgresql"])
async def config(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseConfig:
    """Name a migrated, empty database of each engine."""
    return await migrated(request, request.param, tmp_path)


@pytest.fixture
async def database(config: DatabaseConfig) -> AsyncIterator[Database]:
    """One worker's connections."""
    database = Database(config)
    await database.open()
    yield database
    await database.close()


async def test_a_survey_waits_for_no_other(database: Database) -> None:
    """While a survey takes seconds, as those of a collection of garbage may, another is answered."""
    long = asyncio.create_task(database.survey(LONG))
    await asyncio.sleep(0)
    assert await database.survey(SHORT) == []
    assert not long.done()
    assert await long == [(2_000_000,)]


async def test_a_survey_has_every_row(database: Database) -> None:
    """However many rows there are, they all come, in order."""
    some = select(_all.c.n).where(_all.c.n <= 2500).order_by(_all.c.n)
    rows = await database.survey(Query(some))
    assert rows == [(number,) for number in range(1, 2501)]


@pytest.mark.parametrize("config", ["sqlite"], indirect=True)
async def test_who_waits_too_long_hears_so(config: DatabaseConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write whose turn doesn't come is 503 with the time after which to come again, as where the file is locked."""
    monkeypatch.setattr(database_module, "_TURN", 0.1)
    database = Database(config)
    try:
        async with database.write():
            with pytest.raises(RegistryError) as refused:
                async with database.write():
                    pass
    finally:
        await database.close()
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
