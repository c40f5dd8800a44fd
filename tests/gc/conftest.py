"""A registry in one process, and a clock that a test moves."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import bindparam, select

from gateway.config import DatabaseConfig
from gateway.core.database import Database, Query
from gateway.core.garbage import Permit, Report, Sweep, always
from gateway.core.manifests import read
from gateway.core.metadata import MetadataStore
from gateway.core.schema import blobs, repositories
from gateway.oci import MediaType
from gateway.plugins import ANONYMOUS, Digest, GarbageRules, Manifest, Progress, Reference, RepositoryName, Tag
from gateway.plugins.testing import chunks, new_upload
from plugins.backend_local.store import LocalStore
from tests.support.databases import migrated

PROJECT = "acme"
START = Progress("", 0)
_MEDIA_TYPES = ("application/vnd.oci.image.config.v1+json", *["application/vnd.oci.image.layer.v1.tar"] * 50)
_LINKS_OF = Query(
    select(blobs.c.digest).select_from(repositories.join(blobs)).where(repositories.c.path == bindparam("path"))
)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        """Tell the time, in seconds since 1970."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """One clock for all."""
    return Clock()


EACH_ENGINE = pytest.mark.parametrize("database_config", ["sqlite", "postgresql"], indirect=True)
"""For what a transaction or a query of its own does; the rest runs on SQLite alone."""


@pytest.fixture
async def database_config(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseConfig:
    """Name a migrated, empty database."""
    return await migrated(request, getattr(request, "param", "sqlite"), tmp_path)


@pytest.fixture
async def database(database_config: DatabaseConfig) -> AsyncIterator[Database]:
    """One worker's connections."""
    database = Database(database_config)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def other_database(database_config: DatabaseConfig) -> AsyncIterator[Database]:
    """Another worker's connections to the same database."""
    database = Database(database_config)
    await database.open()
    yield database
    await database.close()


class Registry:
    """The core's tables and a local store, as one worker has them; a test makes images in it and collects garbage.

    Its files are as old as the test's clock says.
    """

    def __init__(self, database: Database, root: Path, clock: Clock, backend: str = "store") -> None:
        self.database = database
        self.root = root
        self.clock = clock
        self.backend = backend
        self.metadata = MetadataStore(database, clock=clock)
        self.store = LocalStore(root, 3600)
        self.store.open()

    async def blob(self, name: str, content: bytes) -> Digest:
        """Upload a blob and link it."""
        upload, digest = new_upload(), Digest.of(content)
        await self.store.begin_upload(RepositoryName(name), upload)
        progress = await self.store.write_upload(RepositoryName(name), upload, START, chunks(content), at=0)
        await self.store.finish_upload(RepositoryName(name), upload, progress, digest)
        os.utime(self.file(digest), (self.clock.now, self.clock.now))
        await self.metadata.link(RepositoryName(name), PROJECT, digest, len(content), None)
        return digest

    async def image(self, name: str, text: str, *tags: str, subject: Digest | None = None) -> Digest:
        """Push an image with a config and a layer of its own, under tags or by digest."""
        config, layer = f"config of {text}".encode(), f"layer of {text}".encode()
        for content in (config, layer):
            await self.blob(name, content)
        return await self.manifest(name, text, (config, layer), *tags, subject=subject)

    async def manifest(
        self, name: str, text: str, contents: Sequence[bytes], *tags: str, subject: Digest | None = None
    ) -> Digest:
        """Put the manifest of an image whose blobs, the config first, are *contents*."""
        config, *layers = (
            {"mediaType": media_type, "digest": Digest.of(content), "size": len(content)}
            for media_type, content in zip(_MEDIA_TYPES, contents, strict=False)
        )
        document = {"config": config, "layers": layers, "annotations": {"text": text}}
        if subject is not None:
            document["subject"] = {"mediaType": MediaType.OCI_MANIFEST, "digest": subject, "size": 1}
        return await self._put(name, MediaType.OCI_MANIFEST, document, tags)

    async def index(
        self, name: str, text: str, children: Sequence[Digest], *tags: str, subject: Digest | None = None
    ) -> Digest:
        """Put an index of what is there already."""
        entries = [{"mediaType": MediaType.OCI_MANIFEST, "digest": child, "size": 1} for child in children]
        document: dict[str, Any] = {"manifests": entries, "annotations": {"text": text}}
        if subject is not None:
            document["subject"] = {"mediaType": MediaType.OCI_MANIFEST, "digest": subject, "size": 1}
        return await self._put(name, MediaType.OCI_INDEX, document, tags)

    async def _put(self, name: str, media_type: str, document: dict[str, Any], tags: Sequence[str]) -> Digest:
        content = json.dumps({"schemaVersion": 2, "mediaType": media_type, **document}).encode()
        _, details = read(content, media_type)
        manifest = Manifest(Digest.of(content), media_type, len(content), content, details)
        await self.metadata.record({RepositoryName(name): PROJECT})
        references: list[Reference] = [*(Tag(tag) for tag in tags)] or [manifest.digest]
        await self.metadata.put_manifest(RepositoryName(name), references, manifest, ANONYMOUS)
        return manifest.digest

    async def delete(self, name: str, reference: str) -> None:
        """Delete a tag, or a manifest with its tags."""
        item = Digest(reference) if ":" in reference else Tag(reference)
        assert await self.metadata.delete_manifest(RepositoryName(name), item)

    async def collect(self, *, dry_run: bool = False, owned: str = "", permit: Permit = always, **rules: Any) -> Report:
        """Run one collection over the repositories whose names begin with *owned*."""

        async def owns(name: RepositoryName) -> bool:
            return name.startswith(owned)

        def tell(report: Report, what: str) -> None:
            del report, what

        report = Report(self.backend, dry_run=dry_run)
        given = (self.database, report, self.store, GarbageRules(**rules), owns, tell)
        return await Sweep(*given, structlog.get_logger(), self.clock, permit).run()

    def later(self, **span: float) -> None:
        """Let time pass."""
        self.clock.now += timedelta(**span).total_seconds()

    def file(self, digest: Digest) -> Path:
        """Where a blob lies."""
        return self.root / "blobs" / digest.algorithm / digest.encoded[:2] / digest.encoded

    def files(self) -> set[str]:
        """The digests of all blobs that lie on the disk."""
        return {f"{path.parent.parent.name}:{path.name}" for path in self.root.glob("blobs/*/*/*")}

    async def manifests(self, name: str) -> set[str]:
        """The digests of all manifests of a repository."""
        return set(await self.metadata.digests(RepositoryName(name)))

    async def links(self, name: str) -> set[str]:
        """The digests of all blobs that a repository links."""
        return {row[0] for row in await self.database.rows(_LINKS_OF, path=name)}


@pytest.fixture
def registry(database: Database, tmp_path: Path, clock: Clock) -> Iterator[Registry]:
    """An empty registry."""
    registry = Registry(database, tmp_path / "registry", clock)
    yield registry
    registry.store.close()
