"""Gateways with the REST API: over the bundled store, and before a registry."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fakes.gitlab import FakeGitLab
from tests.rest.place import Place
from tests.support import people
from tests.support.distribution import distribution
from tests.support.gateway import GatewayProcess, Options
from tests.support.peers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
LOCAL, REGISTRY, GITLAB, FACTS = "local", "registry", "a GitLab", "a GitLab's facts"
EVERYWHERE = {"tests.rest.test_clients"}
"""The modules whose tests are the same wherever the bytes are and whoever knows the people."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is the same everywhere over each."""
    if metafunc.module.__name__ in EVERYWHERE and "place" in metafunc.fixturenames:
        metafunc.parametrize("place", (LOCAL, REGISTRY, GITLAB, FACTS), indirect=True, scope="module")


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Serve the tests' company, with what it has changed in a folder of the module's own."""
    folder = tmp_path_factory.mktemp("rest")
    way = getattr(request, "param", LOCAL)
    with ExitStack() as behind:
        gateway = GatewayProcess(folder / "gateway", **_options(way, folder, behind))
        gateway.start()
        yield Place(gateway)
        gateway.end()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Serve with a plugin that hides and vetoes, offered as if a distribution of its own did."""
    folder = tmp_path_factory.mktemp("guarded")
    offer = folder / "site" / "guard-1.0.dist-info"
    offer.mkdir(parents=True)
    (offer / "METADATA").write_text("Metadata-Version: 2.1\nName: guard\nVersion: 1.0\n")
    (offer / "entry_points.txt").write_text("[gateway.plugins]\nguard = tests.rest.guard:Plugin\n")
    directory = {"use": "auth_local", "directory": str(folder / "gateway" / "directory.yaml")}
    sources = [directory, {"use": "naming"}, {"use": "visibility"}, {"use": "guard"}]
    gateway = GatewayProcess(folder / "gateway", sources=sources)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join([str(offer.parent), str(ROOT)]))
        gateway.start()
    yield Place(gateway)
    gateway.end()


def _options(way: str, folder: Path, behind: ExitStack) -> Options:
    """Start what is to be behind a gateway, and say how it finds it."""
    if way == LOCAL:
        return {}
    if way == REGISTRY:
        port = free_port()
        behind.enter_context(distribution(folder, port=port))
        return {"backend": {"use": "backend_distribution", "url": f"http://127.0.0.1:{port}"}}
    fake = behind.enter_context(FakeGitLab(people.directory()))
    fake.registry_enabled = way == GITLAB
    source = {
        "use": "auth_gitlab",
        "url": fake.url,
        "mode": "jwt" if way == GITLAB else "api",
        "service_token": fake.service_token,
        "remember": "1s",
    }
    return {
        "sources": [source, {"use": "naming"}, {"use": "visibility"}],
        "extra": {"anonymous": "direct"},
    }
