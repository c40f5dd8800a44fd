"""The journeys of clients, before the bundled store and before a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.distribution import distribution
from tests.support.gateway import GatewayProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCAL, REGISTRY = "local", "registry"
EVERYWHERE = {
    "tests.journeys.test_docker",
    "tests.journeys.test_mounts",
    "tests.journeys.test_podman",
    "tests.journeys.test_skopeo",
    "tests.journeys.test_strangers",
}
"""The modules whose journeys are the same wherever the bytes are."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the journeys that are the same everywhere over each."""
    if metafunc.module.__name__ in EVERYWHERE and "gateway" in metafunc.fixturenames:
        metafunc.parametrize("gateway", (LOCAL, REGISTRY), indirect=True, scope="session")


@pytest.fixture(scope="session")
def gateway(
    request: pytest.FixtureRequest, gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """Take the session's gateway, or serve what a registry holds, for the modules that want both."""
    if getattr(request, "param", LOCAL) == LOCAL:
        yield gateway
        return
    folder = tmp_path_factory.mktemp("over-registry")
    with distribution(folder) as upstream:
        process = GatewayProcess(folder / "gateway", backend={"use": "backend_distribution", "url": upstream.url})
        process.start()
        yield process
        process.end()
