"""The hooks of ``backend_local``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

from gateway.plugins import Backend, Health, Job, Services, hookimpl
from plugins.backend_local import config
from plugins.backend_local.store import LocalStore


class Plugin:
    """Offers one store, under the plugin's name."""

    Config = config.Config

    def __init__(self, config: config.Config, services: Services) -> None:
        self._name = services.name
        self._store = LocalStore(config.root, config.expire_after.total_seconds(), config.gc.rules())

    @hookimpl
    def gateway_lifespan(self) -> AbstractAsyncContextManager[None]:
        """Make the folders; end the threads when the gateway ends."""

        @asynccontextmanager
        async def life() -> AsyncIterator[None]:
            self._store.open()
            try:
                yield
            finally:
                self._store.close()

        return life()

    @hookimpl
    def gateway_backends(self) -> Mapping[str, Backend]:
        """The store."""
        return {self._name: self._store}

    @hookimpl
    def gateway_jobs(self) -> Iterable[Job]:
        """Drop abandoned uploads."""
        return [Job("expire uploads", timedelta(minutes=10), self._store.expire, removes=True)]

    @hookimpl
    async def gateway_health(self) -> Health:
        """Whether a blob could be stored now."""
        problem = await self._store.problem()
        return Health(ok=problem is None, message=problem or "")
