"""A registry in each of its modes, with two workers of the gateway before it."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import structlog
from pydantic import SecretStr

from gateway.config import DatabaseConfig
from gateway.core.database import Database, migrate
from gateway.core.uploadrecords import DatabaseUploads
from plugins.backend_distribution.backend import DistributionBackend
from plugins.backend_distribution.client import RegistryClient
from plugins.backend_distribution.config import Config
from tests.fakes.registry_tokens import TokenServer
from tests.support.distribution import LOGIN, Distribution, distribution, htpasswd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

MODES = ("anonymous", "basic", "bearer")


@dataclass
class Mode:
    """How a registry asks who is there, and what the gateway has to say for it."""

    auth: Mapping[str, Any] | None = None
    keys: dict[str, Any] = field(default_factory=dict)
    tokens: TokenServer | None = None


@pytest.fixture(scope="session")
def tokens() -> Iterator[TokenServer]:
    """Run a token server."""
    with TokenServer() as server:
        yield server


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, tmp_path: Path) -> Mode:
    """Take each way in which a registry asks who is there."""
    login = {"username": LOGIN.username, "password": SecretStr(LOGIN.password)}
    if request.param == "anonymous":
        return Mode()
    if request.param == "basic":
        return Mode(htpasswd(tmp_path), login)
    server: TokenServer = request.getfixturevalue("tokens")
    return Mode(server.section(tmp_path), login, server)


@pytest.fixture
def registry(mode: Mode, tmp_path: Path) -> Iterator[Distribution]:
    """Run a registry that is empty."""
    with distribution(tmp_path, auth=mode.auth) as running:
        yield running


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a database with nothing in its tables."""
    path = tmp_path_factory.mktemp("tables") / "gateway.db"
    asyncio.run(migrate(DatabaseConfig(url=SecretStr(f"sqlite:///{path}"))))
    return path


@asynccontextmanager
async def uploads(file: Path) -> AsyncIterator[tuple[DatabaseUploads, DatabaseUploads]]:
    """Open the records of uploads as two workers have them."""
    config = DatabaseConfig(url=SecretStr(f"sqlite:///{file}"))
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(2):
            database = Database(config)
            await database.open()
            stack.push_async_callback(database.close)
            found.append(DatabaseUploads(database))
        yield found[0], found[1]


class Make(Protocol):
    """Opens one more backend with the keys of an item."""

    async def __call__(self, clock: Callable[[], float] = ..., /, **keys: Any) -> DistributionBackend:
        """Open it."""
        ...


@pytest.fixture
async def records(tmp_path: Path, tables: Path) -> AsyncIterator[tuple[DatabaseUploads, DatabaseUploads]]:
    """Open the records of uploads of this test."""
    async with uploads(Path(shutil.copy(tables, tmp_path))) as found:
        yield found


@pytest.fixture
async def workers(records: tuple[DatabaseUploads, DatabaseUploads]) -> AsyncIterator[Make]:
    """Make backends over one database: the first, third … as one worker has it, the others as another has it."""
    async with AsyncExitStack() as stack:
        made = 0

        async def make(clock: Callable[[], float] = time.monotonic, /, **keys: Any) -> DistributionBackend:
            nonlocal made
            config = Config(**{"connect_timeout": "5s", "read_timeout": "10s", **keys})
            client = RegistryClient(config, clock)
            await stack.enter_async_context(client.opened())
            made += 1
            return DistributionBackend(config, client, records[made % 2], structlog.get_logger())

        yield make


@pytest.fixture
async def backend(workers: Make, registry: Distribution, mode: Mode) -> DistributionBackend:
    """Put a worker before the registry."""
    return await workers(url=registry.url, **mode.keys)


@pytest.fixture
async def other(workers: Make, registry: Distribution, mode: Mode, backend: DistributionBackend) -> DistributionBackend:
    """Put another worker before it."""
    del backend  # it is the first
    return await workers(url=registry.url, **mode.keys)
