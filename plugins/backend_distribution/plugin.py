"""The hooks of ``backend_distribution``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from http import HTTPStatus

from gateway.plugins import Backend, ConfigError, Endpoint, Health, Job, RegistryError, Services, hookimpl
from plugins.backend_distribution import config
from plugins.backend_distribution.backend import DistributionBackend
from plugins.backend_distribution.client import RegistryClient, contexts
from plugins.backend_distribution.names import Names
from plugins.backend_distribution.notifications import Notifications
from plugins.backend_distribution.spool import Spool


class Plugin:
    """Offers one registry, under the plugin's name."""

    Config = config.Config

    def __init__(self, config: config.Config, services: Services) -> None:
        self._config = config
        self._services = services
        self._client = RegistryClient(config)
        self._names = Names(config.path_prefix, config.paths)
        kept = config.blob_cache
        self._spool = None if kept is None else Spool(kept.path, kept.size, services.log)
        self._backend = DistributionBackend(
            config,
            self._client,
            services.uploads,
            services.log,
            recorded=services.metadata,
            spool=self._spool,
        )

    @hookimpl
    def gateway_check(self) -> Iterator[str]:
        """What is wrong with the files that the item names."""
        try:
            contexts(self._config)
        except ConfigError as error:
            yield from (f"plugins.{self._services.name}.{problem}" for problem in error.problems)

    @hookimpl
    def gateway_lifespan(self) -> AbstractAsyncContextManager[None]:
        """Hold connections to the registry, and say at once in the log what is wrong with it; it need not be up."""
        return self._life()

    @asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        async with self._client.opened(), self._spooling():
            # Not waited for: the registry's token server may be this very gateway, which answers only from then on.
            looking = asyncio.create_task(self._look())
            try:
                yield
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    @asynccontextmanager
    async def _spooling(self) -> AsyncIterator[None]:
        if self._spool is None:
            yield
            return
        self._spool.open()
        try:
            yield
        finally:
            await self._spool.close()

    @hookimpl
    def gateway_jobs(self) -> Iterable[Job]:
        """Keep the blobs on disk within their size, also where another process left something behind."""
        return [] if self._spool is None else [Job("trim blob cache", timedelta(minutes=10), self._spool.trim)]

    async def _look(self) -> None:
        health = await self.gateway_health()
        if not health.ok:
            self._services.log.error("the registry can't be relied on yet", why=health.message)

    @hookimpl
    def gateway_backends(self) -> Mapping[str, Backend]:
        """The registry."""
        return {self._services.name: self._backend}

    @hookimpl
    def gateway_endpoints(self) -> Iterable[Endpoint]:
        """Where the registry tells of writes that go past the gateway, if it has the secret for it."""
        token = self._config.notifications_token
        if token is None:
            return []
        return [Notifications(self._services, self._names, token.get_secret_value()).endpoint()]

    @hookimpl
    async def gateway_health(self) -> Health:
        """Whether the registry answers now and accepts our credential."""
        try:
            async with asyncio.timeout(self._config.connect_timeout.total_seconds()):
                answer = await self._client.fetch("GET", f"{self._config.url}/v2/")
        except TimeoutError:
            return Health(ok=False, message=f"{self._config.url} did not answer GET /v2/ within connect_timeout")
        except RegistryError as error:
            return Health(ok=False, message=error.why or error.message)
        if answer.status == HTTPStatus.OK:
            return Health(ok=True)
        return Health(ok=False, message=f"{answer.summary} to GET /v2/; is `url` that of a registry?")
