"""The OCI distribution protocol, over every backend and database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.oci.client import EVERYTHING, SHA512_MOUNTS, Registry
from tests.contracts.oci.suite import OCIProtocolContract
from tests.support.distribution import LOGIN, distribution, htpasswd, trusting
from tests.support.gateway import GatewayProcess
from tests.support.peers import free_port
from tests.support.people import ALICE, ROOT
from tests.support.postgres import Postgres

OVER_DISTRIBUTION = EVERYTHING - {SHA512_MOUNTS}


def _registry(gateway: GatewayProcess, supports: frozenset[str] = EVERYTHING) -> Registry:
    return Registry(gateway.base_url, "conf/project", "conf/other", ALICE.username, ALICE.password, supports)


@pytest.fixture(scope="module")
def on_postgresql(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serve with two workers on a PostgreSQL database of their own."""
    process = GatewayProcess(tmp_path_factory.mktemp("postgresql"), workers=2, database_url=postgres.database())
    process.start()
    yield process
    process.end()


@contextmanager
def _over(folder: Path, url: str, **keys: Any) -> Iterator[GatewayProcess]:
    process = GatewayProcess(folder, backend={"use": "backend_distribution", "url": url, **keys}, workers=2)
    process.start()
    try:
        yield process
    finally:
        process.end()


@pytest.fixture(scope="module")
def over_distribution(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serve what a registry holds that trusts the tokens of this very gateway."""
    folder = tmp_path_factory.mktemp("over-distribution")
    port = free_port()
    backend = {
        "use": "backend_distribution",
        "url": f"http://127.0.0.1:{port}",
        "username": ROOT.username,
        "password": ROOT.password,
    }
    process = GatewayProcess(folder / "gateway", backend=backend, workers=2)
    process.write_signing_key()
    with distribution(folder, auth=trusting(process), port=port):
        process.start()
        yield process
        process.end()


@pytest.fixture(scope="module")
def over_exclusive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serve what a registry holds that wants a password, to which nobody else writes, from a cache where possible."""
    folder = tmp_path_factory.mktemp("over-exclusive")
    keys = {
        "username": LOGIN.username,
        "password": LOGIN.password,
        "exclusive": True,
        "paths": {"conf": "they"},
        "blob_cache": {"path": str(folder / "blobs"), "size": "1GiB"},
    }
    with (
        distribution(folder, auth=htpasswd(folder)) as upstream,
        _over(folder / "gateway", upstream.url, **keys) as process,
    ):
        yield process


@pytest.fixture(scope="module")
def over_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serve what another gateway holds, with the password of somebody who may do everything there."""
    folder = tmp_path_factory.mktemp("over-gateway")
    behind = GatewayProcess(folder / "behind")
    behind.start()
    try:
        with _over(folder / "front", behind.base_url, username=ROOT.username, password=ROOT.password) as process:
            yield process
    finally:
        behind.end()


class TestLocalOnSQLite(OCIProtocolContract):
    """The bundled store with its metadata in SQLite."""

    @pytest.fixture
    def registry(self, gateway: GatewayProcess) -> Registry:
        """Take the session's gateway."""
        return _registry(gateway)


class TestLocalOnPostgreSQL(OCIProtocolContract):
    """The bundled store with its metadata in PostgreSQL, served by two workers."""

    @pytest.fixture
    def registry(self, on_postgresql: GatewayProcess) -> Registry:
        """Take the gateway on PostgreSQL."""
        return _registry(on_postgresql)


class TestOverDistribution(OCIProtocolContract):
    """Distribution 2.8 that trusts the gateway's own tokens, beside others who write to it."""

    @pytest.fixture
    def registry(self, over_distribution: GatewayProcess) -> Registry:
        """Take the gateway over it."""
        return _registry(over_distribution, OVER_DISTRIBUTION)


class TestOverExclusiveDistribution(OCIProtocolContract):
    """Distribution 2.8 with passwords, under other names, written to by the gateway alone, with blobs cached."""

    @pytest.fixture
    def registry(self, over_exclusive: GatewayProcess) -> Registry:
        """Take the gateway over it."""
        return _registry(over_exclusive, OVER_DISTRIBUTION)


class TestOverAnotherGateway(OCIProtocolContract):
    """A gateway over a gateway."""

    @pytest.fixture
    def registry(self, over_gateway: GatewayProcess) -> Registry:
        """Take the one in front."""
        return _registry(over_gateway)
