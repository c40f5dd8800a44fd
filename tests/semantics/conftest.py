"""One gateway that serves the company to every table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from tests.gitlab_api.conftest import directory
from tests.semantics import company
from tests.semantics.abilities import Deciding
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


@pytest.fixture(scope="session")
def deciding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deciding]:
    """Ask `auth_local` and `visibility` about the company, in which every user has an `api` token too."""
    folder = tmp_path_factory.mktemp("deciding")
    (folder / "directory.yaml").write_text(yaml.safe_dump(directory()))
    local = {"use": "auth_local", "directory": str(folder / "directory.yaml")}
    with Deciding(folder, [local, {"use": "naming"}, {"use": "visibility"}]) as found:
        yield found
