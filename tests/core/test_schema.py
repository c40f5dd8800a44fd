"""The migrations make the schema that the code speaks of, on both engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.config import DatabaseConfig
from gateway.core.database import migrate
from gateway.core.schema import schema
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseConfig:
    """Name an empty database on each engine."""
    if request.param == "sqlite":
        return DatabaseConfig(url=SecretStr(f"sqlite:///{tmp_path / 'gateway.db'}"))
    return DatabaseConfig(url=SecretStr(request.getfixturevalue("postgres").database()))


def _engine(config: DatabaseConfig) -> AsyncEngine:
    url = config.url.get_secret_value()
    return create_async_engine(
        url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:")
    )


def _differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), schema))


async def test_the_migrations_make_the_schema(database: DatabaseConfig) -> None:
    """A migration that nobody wrote is found here."""
    await migrate(database)
    engine = _engine(database)
    async with engine.connect() as connection:
        found = await connection.run_sync(_differences)
    await engine.dispose()
    assert found == []


async def test_migrating_twice_changes_nothing(database: DatabaseConfig) -> None:
    """Every start migrates, and all but the first find their work done."""
    await migrate(database)
    await migrate(database)
    engine = _engine(database)
    async with engine.connect() as connection:
        rows = (await connection.execute(text("SELECT count(*) FROM alembic_version"))).scalar_one()
    await engine.dispose()
    assert rows == 1


async def test_a_database_of_a_newer_gateway_is_refused(database: DatabaseConfig) -> None:
    """A revision that this version does not know stops the start with one line, and nothing is changed."""
    await migrate(database)
    engine = _engine(database)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await engine.dispose()
    with pytest.raises(ConfigError) as caught:
        await migrate(database)
    (line,) = caught.value.problems
    assert line.startswith("database.url: the database belongs to a newer version of the gateway")
    assert "\n" not in line


async def test_a_database_that_can_t_be_opened_is_one_line(tmp_path: Path) -> None:
    """A file that is no database stops the start with one line."""
    path = tmp_path / "gateway.db"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError) as caught:
        await migrate(DatabaseConfig(url=SecretStr(f"sqlite:///{path}")))
    (line,) = caught.value.problems
    assert line.startswith("database.url: cannot open or migrate the database: ")
