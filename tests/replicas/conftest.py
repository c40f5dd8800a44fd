"""Two gateways before one registry: one address outside, one signing key, one database, one Redis, nothing sticky."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.support.bottleneck import Bottleneck
from tests.support.distribution import Distribution, distribution
from tests.support.gateway import GatewayProcess
from tests.support.nginx import configured, self_signed
from tests.support.peers import free_port
from tests.support.postgres import Postgres
from tests.support.postgres import postgres as running_postgres
from tests.support.redis import RedisServer
from tests.support.redis import redis as running_redis
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tests.support.wire import Credential

DEPLOY = Path(__file__).parents[2] / "deploy"


@dataclass(frozen=True)
class Replicas:
    """The two gateways, and what they share; *outside* is the port that clients see in each address."""

    first: GatewayProcess
    second: GatewayProcess
    registry: Distribution
    way: Bottleneck
    database: Postgres
    folder: Path
    outside: int

    def wires(self, credential: Credential = None) -> tuple[Wire, Wire]:
        """Talk to each of the two as somebody."""
        return self.first.wire(credential), self.second.wire(credential)

    def begun(self, repository: str) -> int:
        """How many bytes of a repository's open uploads have come to the registry."""
        files = (self.folder / "store" / "docker/registry/v2/repositories" / repository / "_uploads").glob("*/data")
        return sum(file.stat().st_size for file in files)

    @property
    def both(self) -> tuple[GatewayProcess, GatewayProcess]:
        """The two gateways."""
        return self.first, self.second

    def mend(self) -> None:
        """Start again whatever a test ended."""
        self.database.start()
        together(gateway.start for gateway in self.both if not gateway.peer.running)


def together(actions: Iterable[Callable[[], object]]) -> None:
    """Do several things at once, and wait for all of them."""
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(action) for action in actions]:
            done.result()


@dataclass(frozen=True)
class Front:
    """What clients see of replicas behind nginx."""

    behind: Replicas
    certificate: Path

    @property
    def host(self) -> str:
        """Where nginx listens."""
        return f"127.0.0.1:{self.behind.outside}"

    def trusted(self, folder: Path) -> Path:
        """Make a folder of certificates with which podman, buildah and skopeo believe nginx."""
        trust = folder / "trusted"
        trust.mkdir()
        shutil.copy(self.certificate, trust / "ca.crt")
        return trust

    def wire(self, credential: Credential = None) -> Wire:
        """Talk to nginx as somebody."""
        return Wire(f"https://{self.host}", credential, certificate=self.certificate)


def inside(location: str) -> str:
    """The path of an address, which is asked for at whichever replica."""
    parts = urlsplit(location)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


@contextmanager
def running(folder: Path, database: Postgres, redis: RedisServer, keys: Mapping[str, Any]) -> Iterator[Replicas]:
    """Run two gateways before a registry of their own."""
    outside = free_port()
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        registry = stack.enter_context(distribution(folder))
        way = stack.enter_context(Bottleneck(registry.host))
        url = database.database()
        key = folder / "gateway-1" / "data" / "signing-key.pem"
        gateways = [
            GatewayProcess(
                folder / f"gateway-{number}",
                backend={"use": "backend_distribution", "url": way.url, **keys},
                database_url=url,
                external_url=f"https://127.0.0.1:{outside}",
                trusted_proxies=["127.0.0.1"],
                workers=number,
                extra={"cache": {"url": redis.url}, "tokens": {"signing_key_file": str(key)}},
            )
            for number in (1, 2)
        ]
        stack.callback(lambda: together(gateway.end for gateway in gateways))
        # At once, as after a power cut: one of them migrates the database, the other waits for it.
        together(gateway.start for gateway in gateways)
        yield Replicas(gateways[0], gateways[1], registry, way, database, folder, outside)


@contextmanager
def in_front(pair: Replicas, folder: Path, *, all_to_the_first: bool = False) -> Iterator[Front]:
    """Run nginx as `deploy/nginx.conf` has it but for the addresses, and maybe with a second gateway for need alone."""
    certificate = self_signed(folder)
    text = (DEPLOY / "nginx.conf").read_text()
    for there, here in {
        "listen 443 ssl": f"listen 127.0.0.1:{pair.outside} ssl",
        "gateway-1:5000": pair.first.host,
        "gateway-2:5000": pair.second.host + (" backup" if all_to_the_first else ""),
        "/run/secrets/tls_certificate": str(certificate),
        "/run/secrets/tls_key": str(folder / "key.pem"),
        "/run/nginx.pid": str(folder / "nginx.pid"),
    }.items():
        assert there in text
        text = text.replace(there, here)
    with configured(folder, text, port=pair.outside):
        yield Front(pair, certificate)


@pytest.fixture(scope="package")
def database() -> Iterator[Postgres]:
    """Run a PostgreSQL server that tests may stop."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="package")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Run a Redis server."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="package")
def plain_ones(tmp_path_factory: pytest.TempPathFactory, database: Postgres, redis: RedisServer) -> Iterator[Replicas]:
    """Run replicas that know nothing of who else writes to their registry."""
    with running(tmp_path_factory.mktemp("plain"), database, redis, {}) as pair:
        yield pair


@pytest.fixture(scope="package")
def exclusive_ones(
    tmp_path_factory: pytest.TempPathFactory, database: Postgres, redis: RedisServer
) -> Iterator[Replicas]:
    """Run replicas before a registry to which nobody else writes."""
    with running(tmp_path_factory.mktemp("exclusive"), database, redis, {"exclusive": True}) as pair:
        yield pair


@pytest.fixture
def plain(plain_ones: Replicas) -> Iterator[Replicas]:
    """Take the plain replicas, and leave them as they were."""
    yield plain_ones
    plain_ones.mend()


@pytest.fixture(
    params=[pytest.param("plain_ones", id="plain"), pytest.param("exclusive_ones", id="exclusive")],
)
def replicas(request: pytest.FixtureRequest) -> Iterator[Replicas]:
    """Take each kind of replicas, and leave them as they were."""
    pair: Replicas = request.getfixturevalue(request.param)
    yield pair
    pair.mend()


@pytest.fixture
def front(plain: Replicas, tmp_path: Path) -> Iterator[Front]:
    """Put nginx before the plain replicas."""
    with in_front(plain, tmp_path) as seen:
        yield seen
