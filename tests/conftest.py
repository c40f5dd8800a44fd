"""The few things that many tests share: a gateway, and the peers around it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Unpack

import pytest
import structlog

from tests.support.containers import Containers
from tests.support.docker import Engine
from tests.support.docker import engine as running_engine
from tests.support.gateway import GatewayProcess, Options
from tests.support.postgres import Postgres
from tests.support.postgres import postgres as running_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class GatewayFactory:
    """Starts gateways for one test, each in a folder of its own, and ends them after it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[GatewayProcess] = []

    def __call__(self, **options: Unpack[Options]) -> GatewayProcess:
        """Start one."""
        gateway = GatewayProcess(self._folder / f"gateway-{len(self._started)}", **options)
        self._started.append(gateway)
        gateway.start()
        return gateway

    def close(self) -> None:
        """End whatever still runs."""
        with ExitStack() as stack:
            for gateway in self._started:
                stack.callback(gateway.end)


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Commands that a test runs in this process set up logs, whose standard error is closed after it."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serve `people.directory()` on SQLite with one worker; tests keep apart by their images' names."""
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"))
    process.start()
    yield process
    process.end()


@pytest.fixture
def gateway_factory(tmp_path: Path) -> Iterator[GatewayFactory]:
    """Start gateways as this test needs them."""
    factory = GatewayFactory(tmp_path)
    yield factory
    factory.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Run a PostgreSQL server; `postgres.database()` is the URL of a fresh, empty database."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Run a Docker Engine; `engine.client(folder)` is one person's `docker`."""
    with running_engine() as daemon:
        yield daemon


@pytest.fixture
def containers(tmp_path: Path) -> Containers:
    """Give one person podman, buildah and skopeo, without a login."""
    folder = tmp_path / "containers"
    folder.mkdir()
    return Containers(folder)
