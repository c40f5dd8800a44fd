"""The composition root: configuration, plugins and core become one worker. The only module that knows all three."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from gateway.config import Config
from gateway.core import keys as key_files
from gateway.core import logs
from gateway.core.access import AccessControl
from gateway.core.cache import AnswerCache
from gateway.core.collector import Collector
from gateway.core.database import Database
from gateway.core.dating import Dating
from gateway.core.deletion import Deletion
from gateway.core.documents import DatabaseDocuments
from gateway.core.handlers.base import Core
from gateway.core.health import Admin
from gateway.core.history import History
from gateway.core.images import ManagedImages
from gateway.core.index import Index, IndexedStore, owner
from gateway.core.issuers import Issuers
from gateway.core.keys import Keys, Sealer
from gateway.core.leases import Leases as DatabaseLeases
from gateway.core.listing import Listing
from gateway.core.maintenance import Maintenance
from gateway.core.metadata import MetadataStore
from gateway.core.metrics import JOB_FAILURES, PLUGIN_FAILURES
from gateway.core.pipeline import Pipeline, Protocol, Server
from gateway.core.planning import KIND, BulkDeletion, Planning
from gateway.core.pushes import Pushes
from gateway.core.tasks import DatabaseTasks
from gateway.core.tokens import Tokens
from gateway.core.tokenserver import TokenServer
from gateway.core.uploadrecords import DatabaseUploads
from gateway.core.uploads import Sessions
from gateway.oci import Digest, Reference, RepositoryName
from gateway.plugins import Backend, Cache, Event, Job, ManifestStore, Services
from gateway.plugins.manager import Plugins
from gateway.plugins.manager import load as load_plugins

MAX_HEADER: Final = 64 * 1024
"""Bytes of a request line or header: tokens and scope lists of 12 KiB and more are legal."""
_READ_BUFFER: Final = 256 * 1024
"""Bytes of a request body that may wait to be hashed: with 1 MiB, 32 transfers took 189 MiB instead of 124."""
_EVENTS: Final = 10_000
_ANEW: Final = 1.0
"""Seconds after which work in the background that failed begins anew."""
_CROSSING: Final = 1.0
"""Seconds for which a connection without a request is still open at the end: one may be on its way."""


class Events:
    """A bounded queue in front of the plugins that listen; when it is full, events are dropped and counted."""

    def __init__(self, plugins: Plugins, log: Any) -> None:
        self._plugins = plugins
        self._log = log
        self._queue: asyncio.Queue[Event] = asyncio.Queue(_EVENTS)

    def tell(self, event: Event) -> None:
        """Queue *event* without waiting."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            PLUGIN_FAILURES.labels("events dropped").inc()

    async def run(self) -> None:
        """Hand events on, for ever."""
        while True:
            event = await self._queue.get()
            try:
                for error in await self._plugins.tell(event):
                    PLUGIN_FAILURES.labels(error.where.partition(":")[0]).inc()
                    self._log.error("a plugin failed", where=error.where)
            finally:
                self._queue.task_done()

    async def told(self) -> None:
        """Wait until everything that was queued has been handed on."""
        await self._queue.join()


@dataclass(frozen=True, slots=True)
class Parts:
    """What a gateway is made of, unopened: the plugins and what they are lent."""

    plugins: Plugins
    database: Database
    metadata: MetadataStore
    indexes: Mapping[int, Index]
    images: ManagedImages
    tasks: DatabaseTasks
    events: Events
    maintenance: Maintenance


def build(config: Config, keys: Keys, cache: Cache) -> Parts:
    """The parts of a gateway. Raises ConfigError with everything that is wrong."""
    log = logs.get("gateway")
    database = Database(config.database)
    metadata = MetadataStore(database)
    uploads = DatabaseUploads(database)
    maintenance = Maintenance(config.maintenance, database)
    tasks = DatabaseTasks(database, maintenance, log)
    listing = Listing(database)
    indexes: dict[int, Index] = {}

    async def index(name: RepositoryName) -> Index | None:
        return indexes.get(id(await plugins.backend(name)))

    async def store(name: RepositoryName) -> ManifestStore:
        found = await index(name)
        return metadata if found is None else IndexedStore(found, await owner(plugins, name))

    async def backend(name: RepositoryName) -> Backend:
        return await plugins.backend(name)

    async def changed(name: RepositoryName, there: Mapping[Reference, Digest | None]) -> None:
        found = await index(name)
        if found is not None:
            await found.changed(name, there, lambda: owner(plugins, name))

    dating = Dating(database, backend)
    planning = Planning(database, listing, dating)
    images = ManagedImages(lambda: plugins, metadata, listing, dating=dating, index=index, planning=planning)

    def services(name: str, facts: Plugins) -> Services:
        return Services(
            name,
            facts,
            metadata,
            logs.get(f"plugins.{name}"),
            keys.derive(f"plugin {name}"),
            cache,
            uploads,
            images=images,
            tasks=tasks,
            documents=DatabaseDocuments(database, name),
            leases=DatabaseLeases(database),
            external_url=config.server.external_url,
            changed=changed,
        )

    plugins = load_plugins(config, services)
    indexes |= {id(backend): Index(backend, metadata, log) for backend in plugins.upstreams()}
    events = Events(plugins, log)
    images.deletion = Deletion(
        database,
        metadata,
        store=store,
        refresh=images.look_again,
        tasks=tasks,
        tell=events.tell,
        maintenance=maintenance,
        log=log,
    )
    tasks.handle(KIND, BulkDeletion(images, log).do)
    return Parts(plugins, database, metadata, indexes, images, tasks, events, maintenance)


async def periodically(job: Job, maintenance: Maintenance, log: Any) -> None:
    """Run *job* whenever it is time, for ever; what it raises is logged and counted."""
    while True:
        try:
            if not (job.removes and (await maintenance.mode()).read_only):
                await job.run()
        except Exception:
            JOB_FAILURES.labels(job.name).inc()
            log.exception("a job failed", job=job.name)
        await asyncio.sleep(job.interval.total_seconds())


async def always(name: str, run: Callable[[], Awaitable[None]], log: Any) -> None:
    """Run what shall run as long as the worker; should it raise all the same, that is logged and counted as a job's."""
    while True:
        try:
            return await run()
        except Exception:
            JOB_FAILURES.labels(name).inc()
            log.exception("work in the background failed, and begins anew", job=name)
        await asyncio.sleep(_ANEW)


@asynccontextmanager
async def _background(*tasks: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _recording(indexes: Iterable[Index]) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for index in indexes:
            await stack.enter_async_context(index.recording())
        yield


@asynccontextmanager
async def serving(config: Config, public: socket.socket, admin: socket.socket) -> AsyncIterator[None]:
    """One worker, answering on both sockets while the block runs; leaving it drains first (``server.drain``)."""
    log = logs.get("gateway")
    keys = key_files.load(config.tokens, shared=config.database.shared, create=False)
    cache = AnswerCache(config.cache, keys, log)
    parts = build(config, keys, cache)
    plugins, database, metadata, indexes, events = (
        parts.plugins,
        parts.database,
        parts.metadata,
        parts.indexes,
        parts.events,
    )
    trusted = Issuers(config.tokens.trusted_issuers, log)
    tokens = Tokens(
        keys,
        issuer=config.tokens.issuer,
        service=config.tokens.service,
        ttl=config.tokens.ttl.total_seconds(),
        trusted=trusted,
    )
    sessions = Sessions(Sealer(keys.derive("uploads")), config.uploads.ceiling.total_seconds())
    anonymous = config.anonymous or plugins.anonymous
    access = AccessControl(plugins, tokens, sessions, service=config.tokens.service, anonymous=anonymous)
    stall = config.server.stall_timeout.total_seconds()
    collector = Collector(plugins, database, log)
    collectables = {id(backend): backend for backend in collector.backends.values()}
    quiet = min((one.garbage.quiet.total_seconds() for one in collectables.values()), default=None)
    pushes, maintenance = Pushes(database, quiet), parts.maintenance
    core = Core(
        plugins=plugins,
        access=access,
        metadata=metadata,
        sessions=sessions,
        stall=stall,
        tell=events.tell,
        indexes=indexes,
        collectables=collectables,
        pushes=pushes,
        maintenance=maintenance,
        deletion=parts.images.deletion,
    )
    own_jobs = (
        Job("forget uploads", timedelta(hours=1), DatabaseUploads(database).forget, removes=True),
        *collector.jobs(maintenance),
    )
    token_server = TokenServer(access, tokens, keys, metadata, log, service=config.tokens.service)
    pipeline = Pipeline(config, core, token_server, History(cache), log)
    work = {
        "tell plugins": events.run,
        "hand on metrics": pipeline.meter.run,
        "note pushes": pushes.run,
        "do tasks": parts.tasks.run,
    }
    watched = Admin(plugins, database, maintenance, collector, lambda: pipeline.draining)
    try:
        await database.open()
        async with (
            trusted.watched(),
            cache.opened(),
            plugins.lifespan(),
            _recording(indexes.values()),
            _background(
                *(asyncio.create_task(always(name, run, log)) for name, run in work.items()),
                *(asyncio.create_task(periodically(job, maintenance, log)) for job in (*own_jobs, *plugins.jobs())),
            ),
            _listening(Server(watched.handle, access_log=None), admin),
            _listening(_public(pipeline), public, pipeline, config.server.drain.total_seconds()),
        ):
            log.info("ready", public=str(config.server.listen), admin=str(config.admin.listen))
            yield
    finally:
        await database.close()


def _public(pipeline: Pipeline) -> Server:
    return Server(
        pipeline.handle,
        access_log=None,
        max_line_size=MAX_HEADER,
        max_field_size=MAX_HEADER,
        auto_decompress=False,
        read_bufsize=_READ_BUFFER,
        keepalive_timeout=75,
        lingering_time=5,
    )


@asynccontextmanager
async def _listening(
    server: Server, listener: socket.socket, pipeline: Pipeline | None = None, drain: float = 0
) -> AsyncIterator[None]:
    accepting = await asyncio.get_running_loop().create_server(server, sock=listener, backlog=1024)
    try:
        yield
    finally:
        accepting.close()
        if pipeline is not None:
            pipeline.retire()
            if server.connections:
                # Who keeps connections hears of the end with an answer, so that no request is lost on a closed one.
                await asyncio.sleep(_CROSSING)
        for connection in server.connections:
            if isinstance(connection, Protocol):
                connection.close_if_idle()
        if pipeline is not None:
            await pipeline.drain(drain)
        with contextlib.suppress(TimeoutError):
            await server.shutdown(1)
