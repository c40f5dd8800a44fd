"""The composition root: configuration, plugins and core become one worker. The only module that knows all three."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

from gateway.config import Config
from gateway.core import keys as key_files
from gateway.core import logs
from gateway.core.access import AccessControl
from gateway.core.cache import AnswerCache
from gateway.core.database import Database
from gateway.core.handlers.base import Core
from gateway.core.health import Admin
from gateway.core.history import History
from gateway.core.index import Index, owner
from gateway.core.issuers import Issuers
from gateway.core.keys import Keys, Sealer
from gateway.core.metadata import MetadataStore
from gateway.core.metrics import JOB_FAILURES, PLUGIN_FAILURES
from gateway.core.pipeline import Pipeline, Protocol, Server
from gateway.core.tokens import Tokens
from gateway.core.tokenserver import TokenServer
from gateway.core.uploadrecords import DatabaseUploads
from gateway.core.uploads import Sessions
from gateway.oci import Digest, Reference, RepositoryName
from gateway.plugins import Cache, Event, Job, Services
from gateway.plugins.manager import Plugins
from gateway.plugins.manager import load as load_plugins
from gateway.plugins.protocols import nobody_hears

Changed = Callable[[RepositoryName, Mapping[Reference, Digest | None]], Awaitable[None]]

MAX_HEADER: Final = 64 * 1024
"""Bytes of a request line or header: tokens and scope lists of 12 KiB and more are legal."""
_READ_BUFFER: Final = 256 * 1024
"""Bytes of a request body that may wait to be hashed: with 1 MiB, 32 transfers took 189 MiB instead of 124."""
_EVENTS: Final = 10_000
_CROSSING: Final = 1.0
"""Seconds for which a connection without a request is still open at the end: one may be on its way."""


def build(
    config: Config, keys: Keys, cache: Cache, changed: Changed = nobody_hears
) -> tuple[Plugins, Database, MetadataStore]:
    """The plugins and what they are lent, unopened. Raises ConfigError with everything that is wrong."""
    database = Database(config.database)
    metadata = MetadataStore(database)
    uploads = DatabaseUploads(database)

    def services(name: str, facts: Plugins) -> Services:
        log = logs.get(f"plugins.{name}")
        return Services(name, facts, metadata, log, keys.derive(f"plugin {name}"), cache, uploads, changed=changed)

    return load_plugins(config, services), database, metadata


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
            for error in await self._plugins.tell(await self._queue.get()):
                PLUGIN_FAILURES.labels(error.where.partition(":")[0]).inc()
                self._log.error("a plugin failed", where=error.where)


async def _periodically(job: Job, log: Any) -> None:
    while True:
        try:
            await job.run()
        except Exception:
            JOB_FAILURES.labels(job.name).inc()
            log.exception("a job failed", job=job.name)
        await asyncio.sleep(job.interval.total_seconds())


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

    async def changed(name: RepositoryName, there: Mapping[Reference, Digest | None]) -> None:
        index = indexes.get(id(await plugins.backend(name)))
        if index is not None:
            await index.changed(name, there, lambda: owner(plugins, name))

    plugins, database, metadata = build(config, keys, cache, changed)
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
    events = Events(plugins, log)
    stall = config.server.stall_timeout.total_seconds()
    indexes = {id(backend): Index(backend, metadata, log) for backend in plugins.upstreams()}
    core = Core(plugins, access, metadata, sessions, stall, events.tell, indexes)
    own_jobs = (Job("forget uploads", timedelta(hours=1), DatabaseUploads(database).forget),)
    token_server = TokenServer(access, tokens, keys, metadata, log, service=config.tokens.service)
    pipeline = Pipeline(config, core, token_server, History(cache), log)
    watched = Admin(plugins, database, lambda: pipeline.draining)
    try:
        await database.open()
        async with (
            trusted.watched(),
            cache.opened(),
            plugins.lifespan(),
            _recording(indexes.values()),
            _background(
                asyncio.create_task(events.run()),
                asyncio.create_task(pipeline.meter.run()),
                *(asyncio.create_task(_periodically(job, log)) for job in (*own_jobs, *plugins.jobs())),
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
