"""A registry that was filled before there was a gateway, and what is recorded of it."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import yaml
from pydantic import SecretStr
from sqlalchemy import text

from gateway import crawl
from gateway.config import DatabaseConfig
from gateway.core.database import Database
from tests.fakes.relay import Relay
from tests.support import people
from tests.support.distribution import Distribution, distribution
from tests.support.gateway import PROGRAM, GatewayProcess, Options
from tests.support.images import CONFIG, INDEX, MANIFEST, Blob, Image, _document, image, index
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

APP, DEEP, VAULT, CAMEL = "acme/app", "acme/open/deep", "acme/secret/vault", "acme/camel"
EMPTY, STRANGER, LONELY = "acme/internal", "stranger/thing", "lonely"
A, B, C, UNTAGGED = (image(text.encode()) for text in ("a", "b", "c", "untagged"))
MANY = index("many")


def directory() -> dict[str, Any]:
    """Write down the small company, with a project whose path has capitals."""
    found = people.directory()
    return {**found, "projects": [*found["projects"], {"path": "acme/Camel", "visibility": "private"}]}


def referrer(subject: Image) -> Blob:
    """Make a signature of an image."""
    return _document(
        MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.example.signature",
            "config": Blob(CONFIG, A.config.content).descriptor,
            "layers": [A.layers[0].descriptor],
            "subject": subject.manifest.descriptor,
        },
    )


SIGNATURE = referrer(B)
FALLBACK = _document(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": [SIGNATURE.descriptor]})
FALLBACK_TAG = B.manifest.digest.replace(":", "-")

TAGS: dict[str, dict[str, str]] = {
    APP: {
        "1": A.manifest.digest,
        "2": A.manifest.digest,
        "latest": B.manifest.digest,
        "many": MANY.manifest.digest,
        FALLBACK_TAG: FALLBACK.digest,
    },
    **{name: {"1": A.manifest.digest} for name in (DEEP, VAULT, CAMEL, STRANGER, LONELY)},
}
"""What is in the registry that `fill` filled, as far as it can be found out."""
PROJECTS = {
    APP: "acme/app",
    DEEP: "acme/open",
    VAULT: "acme/secret/vault",
    CAMEL: "acme/camel",
    EMPTY: "acme/internal",
    STRANGER: "",
    LONELY: "",
}


def push_index(registry: Wire, name: str, tag: str) -> None:
    """Push `MANY`."""
    for child in MANY.images:
        registry.push_image(name, child.manifest.digest, child)
    registry.put_manifest(name, tag, MANY.manifest).expect(201)


def fill(registry: Wire) -> None:
    """Push into several projects and into none: images, an index, a referrer, what lost its tags."""
    registry.push_image(APP, "1", A)
    registry.put_manifest(APP, "2", A.manifest).expect(201)
    registry.push_image(APP, "latest", B)
    push_index(registry, APP, "many")
    registry.put_manifest(APP, SIGNATURE.digest, SIGNATURE).expect(201)
    registry.put_manifest(APP, FALLBACK_TAG, FALLBACK).expect(201)
    registry.push_image(APP, UNTAGGED.manifest.digest, UNTAGGED)
    for name in (DEEP, VAULT, CAMEL, STRANGER, LONELY, EMPTY):
        registry.push_image(name, "1", A)
    registry.send("DELETE", f"/v2/{EMPTY}/manifests/{A.manifest.digest}").expect(202)


def repositories(folder: Path) -> Path:
    """Where a registry that serves *folder* keeps its repositories."""
    return folder / "store" / "docker" / "registry" / "v2" / "repositories"


def fill_many(registry: Wire, folder: Path, count: int) -> list[str]:
    """Put one image into so many repositories, and name them in the order in which they are listed."""
    names = [f"acme/app/r{number:02}" for number in range(count)]
    registry.push_image(names[0], "1", A)
    for name in names[1:]:
        shutil.copytree(repositories(folder) / names[0], repositories(folder) / name)
    return names


def read_by(registry: Distribution) -> list[str]:
    """Give the request lines of the registry's access log, such as `GET /v2/`."""
    return re.findall(r'"([A-Z]+ \S+) HTTP/1\.1" [0-9]{3} ', registry.peer.log)


def bodies(lines: Sequence[str]) -> list[str]:
    """Give those that fetch a manifest's bytes."""
    return [line for line in lines if line.startswith("GET ") and "/manifests/" in line]


@dataclass
class Records:
    """What the tables say."""

    tags: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    manifests: dict[str, dict[str, bytes]] = field(default_factory=lambda: defaultdict(dict))
    references: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    projects: dict[str, str] = field(default_factory=dict)
    pushed_by: dict[tuple[str, str], str] = field(default_factory=dict)
    """Who pushed a tag; nobody where it was only seen."""


_TAGS = """SELECT path, name, digest, tags.pushed_by FROM tags JOIN manifests ON manifests.id = tags.manifest_id
    JOIN repositories ON repositories.id = tags.repository_id"""
_MANIFESTS = "SELECT path, digest, content FROM manifests JOIN repositories ON repositories.id = repository_id"
_REFERENCES = """SELECT path, manifests.digest, kind, manifest_references.digest FROM manifest_references
    JOIN manifests ON manifests.id = manifest_id JOIN repositories ON repositories.id = repository_id
    ORDER BY manifest_id, position"""


async def _recorded(url: str) -> Records:
    database = Database(DatabaseConfig(url=SecretStr(url)))
    await database.open()
    found = Records()
    try:
        async with database.write() as writer:
            for path, project in await writer.rows(text("SELECT path, project FROM repositories")):
                found.projects[path] = project
            for path, name, digest, by in await writer.rows(text(_TAGS)):
                found.tags[path][name] = digest
                found.pushed_by[path, name] = by
            for path, digest, content in await writer.rows(text(_MANIFESTS)):
                found.manifests[path][digest] = bytes(content)
            for path, digest, kind, item in await writer.rows(text(_REFERENCES)):
                found.references[path, digest].append((kind, item))
    finally:
        await database.close()
    return found


class Place:
    """A gateway's configuration before a registry; its process is started where a test needs one."""

    def __init__(self, folder: Path, url: str, *, database_url: str | None = None, **keys: Any) -> None:
        backend = {"use": "backend_distribution", "url": url, "attempts": 1, **keys}
        options: Options = {"backend": backend, "directory": directory()}
        if database_url is not None:
            options["database_url"] = database_url
        self.gateway = GatewayProcess(folder, **options)
        self.database_url = database_url or f"sqlite:///{self.gateway.data / 'gateway.db'}"
        self.told: list[str] = []

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.gateway.config

    def crawl(self, *names: str, at_once: int = 4) -> crawl.Report:
        """Crawl the registry in this process."""
        self.told.clear()
        run = crawl.crawl(self.config, [], names, at_once, lambda _, name: self.told.append(name))
        (report,) = asyncio.run(run)
        return report

    def command(self, name: str, *words: str) -> list[str | Path]:
        """Spell a command for this configuration."""
        return [PROGRAM, name, "--config", self.config, *words]

    def records(self) -> Records:
        """Read the tables."""
        return asyncio.run(_recorded(self.database_url))

    def configure(self, **keys: Any) -> None:
        """Change keys of the registry's item."""
        document = yaml.safe_load(self.config.read_text())
        document["plugins"][-1] |= keys
        self.config.write_text(yaml.safe_dump(document, sort_keys=False))


@pytest.fixture(autouse=True)
def _no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read none of the system's authorities, which takes longer than all else that a small crawl does."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Leave the logs of other tests as they were: a command sets up its own."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def filling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the store of a registry that was filled by `fill`."""
    folder = tmp_path_factory.mktemp("filling")
    with distribution(folder) as running:
        fill(Wire(running.url))
    return folder / "store"


@pytest.fixture
def filled(filling: Path, registry: Distribution, tmp_path: Path) -> None:
    """Fill the registry, which remembers nothing and looks at its disk each time."""
    del registry
    shutil.copytree(filling, tmp_path / "store", dirs_exist_ok=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Distribution]:
    """Run a registry that is empty."""
    with distribution(tmp_path) as running:
        yield running


@pytest.fixture
def there(registry: Distribution) -> Wire:
    """Talk to it past the gateway."""
    return Wire(registry.url)


@pytest.fixture
def place(registry: Distribution, tmp_path: Path) -> Iterator[Place]:
    """Put a gateway before it that does not run yet."""
    found = Place(tmp_path / "gateway", registry.url)
    yield found
    found.gateway.end()


@pytest.fixture
def relay(registry: Distribution) -> Iterator[Relay]:
    """Put a relay before it."""
    with Relay(registry.host) as running:
        yield running


@pytest.fixture
def behind(relay: Relay, tmp_path: Path) -> Iterator[Place]:
    """Put a gateway before the relay that does not run yet."""
    found = Place(tmp_path / "gateway", relay.url)
    yield found
    found.gateway.end()


def listed(wire: Wire) -> list[str]:
    """Give the catalog as somebody sees it."""
    answer: Mapping[str, list[str]] = wire.get("/v2/_catalog").expect(200).json()
    return answer["repositories"]
