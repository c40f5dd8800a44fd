"""An empty database of either engine, as a starting gateway leaves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from gateway.config import DatabaseConfig
from gateway.core.database import migrate

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def migrated(request: pytest.FixtureRequest, engine: str, folder: Path) -> DatabaseConfig:
    """Make a database of *engine* (sqlite or postgresql), and name it."""
    url = (
        request.getfixturevalue("postgres").database()
        if engine == "postgresql"
        else f"sqlite:///{folder / 'gateway.db'}"
    )
    config = DatabaseConfig(url=SecretStr(url))
    await migrate(config)
    return config
