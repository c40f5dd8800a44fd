"""A gateway's parts without its server: over SQLite, over PostgreSQL, and before another registry."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import structlog

from gateway import app
from gateway.config import load
from gateway.core import keys
from gateway.core.database import migrate
from gateway.core.manifests import read
from gateway.oci import Digest, RepositoryName, Tag
from gateway.plugins import By, CredentialKind, Identity, Manifest, ManifestStore, NoCache, TagSearch
from tests.contracts.oci import content
from tests.support.distribution import distribution
from tests.support.gateway import GatewayProcess, Options

if TYPE_CHECKING:
    from pathlib import Path

ALICE = Identity("auth_local", CredentialKind.PASSWORD, "alice", "user:alice")
BY = By("alice", "test", "192.0.2.1", "request-1")
APP = RepositoryName("acme/app")


@dataclass(frozen=True)
class Rig:
    """The parts of one gateway, open, and the lines that it logged."""

    parts: app.Parts
    lines: list[dict[str, Any]]

    async def store(self, name: RepositoryName = APP) -> ManifestStore:
        """Who knows the manifests of a repository."""
        return await self.parts.images.deletion._store(name)

    async def push(self, manifest: content.Manifest, *tags: str, name: RepositoryName = APP) -> Digest:
        """Push a manifest with all that belongs to it, under *tags*, and by its digest where there is none."""
        backend = await self.parts.plugins.backend(name)
        for member in manifest.family:
            for blob in member.blobs:
                await self._upload(backend, name, blob)
            references = [Tag(tag) for tag in tags] if member is manifest and tags else [Digest(member.digest)]
            _, details = read(member.content, member.media_type)
            stored = Manifest(Digest(member.digest), member.media_type, len(member.content), member.content, details)
            await (await self.store(name)).put_manifest(name, references, stored, ALICE)
        return Digest(manifest.digest)

    async def _upload(self, backend: Any, name: RepositoryName, blob: content.Blob) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield blob.content

        upload = str(uuid4())
        progress = await backend.begin_upload(name, upload)
        progress = await backend.write_upload(name, upload, progress, chunks(), at=None)
        await backend.finish_upload(name, upload, progress, Digest(blob.digest))
        await self.parts.metadata.link(name, "acme/app", Digest(blob.digest), len(blob.content), upload)

    async def tags(self, name: RepositoryName = APP) -> list[str]:
        """The names of all tags, as they are listed."""
        found, total = await self.parts.images.tags(ALICE, name, TagSearch(limit=1000))
        assert total == len(found)
        return [tag.name for tag in found]

    async def has(self, digest: str, name: RepositoryName = APP) -> bool:
        """Whether the repository has a manifest."""
        return await (await self.store(name)).manifest(name, Digest(digest)) is not None

    @property
    def deleted(self) -> list[dict[str, Any]]:
        """What the log has of deletions."""
        return [line for line in self.lines if line["event"] == "deleted"]


@asynccontextmanager
async def rig(folder: Path, **options: Any) -> AsyncIterator[Rig]:
    """Open the parts of a gateway that is configured as a test's would be."""
    chosen: Options = options  # type: ignore[assignment]
    place = GatewayProcess(folder, **chosen)
    config = load(place.config)
    await migrate(config.database)
    lines: list[dict[str, Any]] = []

    def keep(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        lines.append(dict(line))
        return line

    structlog.configure(
        processors=[keep, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.ReturnLoggerFactory(),
    )
    try:
        parts = app.build(config, keys.ephemeral(), NoCache())
        await parts.database.open()
        try:
            async with parts.plugins.lifespan():
                yield Rig(parts, lines)
        finally:
            await parts.database.close()
    finally:
        structlog.reset_defaults()


@pytest.fixture(params=["sqlite", "postgresql", "registry"])
async def images(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """The parts of a gateway over each engine, and before a registry that can't delete by tag."""
    options: dict[str, Any] = {}
    if request.param == "postgresql":
        options["database_url"] = request.getfixturevalue("postgres").database()
    async with AsyncExitStack() as stack:
        if request.param == "registry":
            folder = tmp_path / "registry"
            folder.mkdir()
            registry = stack.enter_context(distribution(folder))
            options["backend"] = {"use": "backend_distribution", "url": registry.url}
        yield await stack.enter_async_context(rig(tmp_path / "gateway", **options))


@pytest.fixture(params=["sqlite", "postgresql"])
async def local(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """The parts of a gateway with a store of its own, over each engine."""
    options: dict[str, Any] = {}
    if request.param == "postgresql":
        options["database_url"] = request.getfixturevalue("postgres").database()
    async with rig(tmp_path / "gateway", **options) as opened:
        yield opened
