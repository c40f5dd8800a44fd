"""One gateway that serves the company to every table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.semantics import company
from tests.support.gateway import GatewayProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serve `company.directory()` on SQLite with one worker; nothing that a test does changes an answer of another."""
    process = GatewayProcess(tmp_path_factory.mktemp("company"), directory=company.directory())
    process.start()
    yield process
    process.end()
