"""The OCI distribution protocol, over every backend and database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contracts.oci.client import Registry
from tests.contracts.oci.suite import OCIProtocolContract
from tests.support.gateway import GatewayProcess
from tests.support.people import ALICE
from tests.support.postgres import Postgres


def _registry(gateway: GatewayProcess) -> Registry:
    return Registry(gateway.base_url, "conf/project", "conf/other", username=ALICE.username, password=ALICE.password)


@pytest.fixture(scope="module")
def on_postgresql(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serve with two workers on a PostgreSQL database of their own."""
    process = GatewayProcess(tmp_path_factory.mktemp("postgresql"), workers=2, database_url=postgres.database())
    process.start()
    yield process
    process.end()


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
