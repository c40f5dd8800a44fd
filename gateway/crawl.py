"""Reading an existing registry into the records, and making them true again: ``registry-gateway crawl``.

Polite: so many repositories at a time, in each one question after the other, and all wait where the registry is busy.
What was recorded already is not fetched again, a run that was broken off goes on where it was, and nothing is forgotten
because of a failure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeVar

from gateway import app, launcher
from gateway.core import keys, logs
from gateway.core.crawls import Crawls
from gateway.core.database import Database, migrate
from gateway.core.index import owner
from gateway.core.metadata import MetadataStore
from gateway.core.reading import Reading
from gateway.errors import ConfigError, PluginFailedError, RegistryError
from gateway.oci import Digest, RepositoryName
from gateway.plugins import Capability, NoCache, Upstream
from gateway.plugins.manager import Plugins

T = TypeVar("T")

_ASKED: Final = ("gateway_backends", "gateway_resolve", "gateway_project", "gateway_choose_backend")
_ATTEMPTS: Final = 5
_LONGEST_WAIT: Final = 60.0
"""Seconds for which a busy registry is waited for; one that wants more rest is left alone."""
_DEAD: Final = 10
"""Repositories that fail one after the other, before the registry is taken for down and the run is left."""


@dataclass(slots=True)
class Report:
    """What a crawl did with one backend. *failed* has a line for each problem, *listed* is how many are to be read."""

    backend: str
    resumed: bool = False
    listed: int = 0
    visited: int = 0
    repositories: int = 0
    tags: int = 0
    recorded: int = 0
    forgotten: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)

    def as_text(self) -> str:
        """The report in one line."""
        resumed = ", going on where the last run was broken off" if self.resumed else ""
        skipped = f", {self.skipped} left out that no client of today can pull" if self.skipped else ""
        return (
            f"{self.backend}: {self.repositories} repositories with {self.tags} tags read{resumed}; "
            f"{self.recorded} manifests recorded, {self.forgotten} forgotten{skipped}"
        )


Tell = Callable[[Report, RepositoryName], None]
"""Told after each repository."""


async def crawl(path: Path, only: Sequence[str], repositories: Sequence[str], at_once: int, tell: Tell) -> list[Report]:
    """Crawl the backends named *only*, or all, of the configuration at *path*; of them *repositories*, or all.

    Raises ConfigError where the configuration is no good or has no such backend.
    """
    names = [_name(text) for text in dict.fromkeys(repositories)]
    async with _opened(path, only) as (plugins, database, metadata, chosen):
        crawls = Crawls(database)
        return [
            await _Crawl(Report(name), backend, plugins, metadata, crawls, at_once, tell).run(names)
            for name, backend in chosen.items()
        ]


async def probe(path: Path, backend: str, repository: str) -> Sequence[Capability]:
    """What the registry behind *backend* can; raises ConfigError as ``crawl`` does, and where it can't be asked."""
    name = _name(repository)
    async with _opened(path, [backend]) as (_, _, _, chosen):
        try:
            return await chosen[backend].probe(name)
        except RegistryError as error:
            raise ConfigError([f"{backend}: {_words(error)}"]) from error


def _name(text: str) -> RepositoryName:
    try:
        return RepositoryName.parse(text)
    except ValueError as error:
        raise ConfigError([f"--repository: {error}"]) from error


def _words(error: RegistryError) -> str:
    """What an operator may know of *error*, in one line."""
    return str(error) if isinstance(error, PluginFailedError) else error.why or error.message


@asynccontextmanager
async def _opened(
    path: Path, only: Sequence[str]
) -> AsyncIterator[tuple[Plugins, Database, MetadataStore, Mapping[str, Upstream]]]:
    # What goes wrong is said once, by the command.
    logs.configure("none")
    config = launcher.check(path)
    signing = config.tokens.signing_key_file.exists()
    own = keys.load(config.tokens, shared=config.database.shared, create=False) if signing else keys.ephemeral()
    parts = app.build(config, own, NoCache())
    plugins, database, metadata = parts.plugins, parts.database, parts.metadata
    known = {name: backend for name, backend in plugins.backends.items() if isinstance(backend, Upstream)}
    if not known:
        raise ConfigError(["no backend of the configuration is another registry"])
    wrong = [name for name in only if name not in known]
    if wrong:
        has = ", ".join(known)
        raise ConfigError([f"there is no backend {name!r} that is another registry; there is {has}" for name in wrong])
    await migrate(config.database)
    await database.open()
    try:
        async with plugins.lifespan(_ASKED):
            yield plugins, database, metadata, {name: known[name] for name in only or known}
    finally:
        await database.close()


@dataclass(slots=True)
class _Crawl:
    """One run over one backend."""

    report: Report
    upstream: Upstream
    plugins: Plugins
    metadata: MetadataStore
    crawls: Crawls
    at_once: int
    tell: Tell
    busy_until: float = 0.0
    failures: int = 0

    async def run(self, names: Sequence[RepositoryName]) -> Report:
        """Visit *names*, or all that the upstream lists and all that were recorded of it."""
        report = self.report
        try:
            await self._require_health()
            if names:
                await self._visit_all(names)
                return report
            started, report.resumed = await self.crawls.begin(report.backend)
            listed = await self._listed()
            await self._visit_all([name for name in listed if not await self.crawls.visited(name, started)])
            # What it lists no more may be gone; what it never lists may be there all the same.
            known = set(listed)
            await self._visit_all([name async for name in self.crawls.behind(started) if name not in known])
            if not self.is_down:
                await self.crawls.end(report.backend)
        except RegistryError as error:
            report.failed.append(f"{report.backend}: {_words(error)}")
        if self.is_down:
            report.failed.append(
                f"{report.backend}: {_DEAD} repositories in a row could not be read, so it was left; run it again"
            )
        return report

    async def _require_health(self) -> None:
        """Raise RegistryError where this is no registry, or one that refuses us: its 404 means nothing then."""
        health = (await self.plugins.health()).get(self.report.backend)
        if health is not None and not health.ok:
            raise PluginFailedError(health.message)

    async def _listed(self) -> list[RepositoryName]:
        found: dict[RepositoryName, None] = {}
        try:
            async for name in self.upstream.repositories():
                found[name] = None
        except RegistryError as error:
            self.report.failed.append(
                f"{self.report.backend}: its repositories can't be listed, name them with --repository: {_words(error)}"
            )
        return list(found)

    @property
    def is_down(self) -> bool:
        """Whether so many repositories failed in a row that the rest is not worth trying."""
        return self.failures >= _DEAD

    async def _visit_all(self, names: Sequence[RepositoryName]) -> None:
        """Visit those of *names* that are this backend's, some at a time."""
        own = [name for name in names if await self.plugins.backend(name) is self.upstream]
        self.report.listed += len(own)
        waiting = iter(own)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.at_once, len(own))):
                group.create_task(self._visit_some(waiting))

    async def _visit_some(self, names: Iterator[RepositoryName]) -> None:
        for name in names:
            if self.is_down:
                return
            try:
                await self._visit(name)
                self.failures = 0
            except RegistryError as error:
                self.report.failed.append(f"{name}: {_words(error)}")
                self.failures += error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
            except Exception as error:  # noqa: BLE001 - whatever a registry's answer led to costs one repository
                self.report.failed.append(f"{name}: {error!r}")
            self.report.visited += 1
            self.tell(self.report, name)

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The upstream's answer; a busy one gets the rest that it wants, from all who ask it."""
        for _ in range(_ATTEMPTS):
            await asyncio.sleep(max(0.0, self.busy_until - time.monotonic()))
            try:
                return await question()
            except RegistryError as error:
                wanted = error.headers.get("Retry-After", "")
                if error.status != HTTPStatus.SERVICE_UNAVAILABLE or not wanted.isdecimal():
                    raise
                if int(wanted) > _LONGEST_WAIT:
                    raise
                self.busy_until = time.monotonic() + int(wanted)
        await asyncio.sleep(max(0.0, self.busy_until - time.monotonic()))
        return await question()

    async def _visit(self, name: RepositoryName) -> None:
        """Make the records of one repository those of the upstream; anew where it is changed through us meanwhile."""
        for _ in range(_ATTEMPTS):
            version = await self.metadata.version(name)
            project = await owner(self.plugins, name)
            reading = Reading(self.upstream, self.metadata, name, project, version, self._ask)
            tags = await reading.tags()
            if tags is None and version < 0:
                return
            there, found = await reading.read(tags or ())
            self.report.skipped += reading.skipped
            self.report.recorded += reading.recorded
            lost = await self._lost(name, found)
            if tags is None or lost:
                await self._require_health()
            if await self.metadata.reconcile(name, project, there, lost, version):
                self.report.repositories += 1
                self.report.tags += len(there)
                self.report.forgotten += len(lost)
                return
        self.report.failed.append(f"{name}: it was changed all the time; it will be recorded as it is used")

    async def _lost(self, name: RepositoryName, found: set[Digest]) -> list[Digest]:
        """The recorded manifests that no tag leads to and that the upstream has no more."""
        lost = []
        for digest in await self.metadata.digests(name):
            stored, held = await self.metadata.stored_as(name, digest) or (digest, True)
            if held or digest in found or stored in found:
                continue
            if await self._ask(partial(self.upstream.manifest, name, stored, head=True)) is None:
                lost.append(digest)
        return lost
