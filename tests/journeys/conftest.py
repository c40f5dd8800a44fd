"""The journeys of clients, before the bundled store, before a registry in each of its ways, and before a gateway."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.distribution import LOGIN, distribution, htpasswd, trusting
from tests.support.gateway import GatewayProcess
from tests.support.peers import free_port
from tests.support.people import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCAL, REGISTRY, PASSWORDS, TOKENS, GATEWAY = "local", "registry", "with passwords", "with our tokens", "a gateway"
EVERYWHERE = {
    "tests.journeys.test_ci_deletion",
    "tests.journeys.test_docker",
    "tests.journeys.test_mounts",
    "tests.journeys.test_podman",
    "tests.journeys.test_skopeo",
    "tests.journeys.test_strangers",
}
"""The modules whose journeys are the same wherever the bytes are."""
EVERY_WAY = {"tests.journeys.test_mounts", "tests.journeys.test_skopeo"}
"""Those that are also the same however the gateway shows the registry who it is."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the journeys that are the same everywhere over each."""
    if metafunc.module.__name__ in EVERYWHERE and "gateway" in metafunc.fixturenames:
        ways = (PASSWORDS, TOKENS, GATEWAY) if metafunc.module.__name__ in EVERY_WAY else ()
        metafunc.parametrize("gateway", (LOCAL, REGISTRY, *ways), indirect=True, scope="session")


@pytest.fixture(scope="session")
def gateway(
    request: pytest.FixtureRequest, gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """Take the session's gateway, or serve what another registry holds, for the modules that want both."""
    way = getattr(request, "param", LOCAL)
    if way == LOCAL:
        yield gateway
        return
    folder = tmp_path_factory.mktemp("over-registry")
    port = free_port()
    login = LOGIN if way == PASSWORDS else ROOT
    account = {} if way == REGISTRY else {"username": login.username, "password": login.password}
    item = {"use": "backend_distribution", "url": f"http://127.0.0.1:{port}", **account}
    process = GatewayProcess(folder / "gateway", backend=item)
    with _upstream(way, folder, port, process):
        process.start()
        yield process
        process.end()


@contextmanager
def _upstream(way: str, folder: Path, port: int, process: GatewayProcess) -> Iterator[None]:
    """Run what is to be behind *process*, on *port*."""
    if way == GATEWAY:
        behind = GatewayProcess(folder / "behind", port=port)
        behind.start()
        yield
        behind.end()
        return
    auth = None
    if way == PASSWORDS:
        auth = htpasswd(folder)
    if way == TOKENS:
        process.write_signing_key()
        auth = trusting(process)
    with distribution(folder, auth=auth, port=port):
        yield
