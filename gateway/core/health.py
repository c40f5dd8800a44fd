"""The admin listener: ``/metrics``, ``/livez``, ``/readyz``, ``/startupz``. It never answers on the public port."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from sqlalchemy import select

from gateway.core.database import Database, Query
from gateway.core.metrics import render
from gateway.core.rendering import json_response
from gateway.core.schema import repositories
from gateway.errors import RegistryError
from gateway.plugins import Health
from gateway.plugins.manager import Plugins

_ANY = Query(select(repositories.c.id).limit(1))


class Admin:
    """Answers machines that watch."""

    def __init__(self, plugins: Plugins, database: Database, draining: Callable[[], bool]) -> None:
        self._plugins = plugins
        self._database = database
        self._draining = draining

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        match request.raw_path.partition("?")[0]:
            case "/metrics":
                body, headers = render()
                return web.Response(body=body, headers=headers)
            case "/livez" | "/startupz":
                return json_response({"status": "ok"})
            case "/readyz":
                return await self._ready()
            case _:
                return json_response({"error": "see /metrics, /livez, /readyz and /startupz"}, status=404)

    async def _ready(self) -> web.Response:
        """200 where every part can do its work; else 503 with a sentence for each that can't."""
        parts = {"database": await self._database_health(), **await self._plugins.health()}
        if self._draining():
            parts["server"] = Health(ok=False, message="shutting down")
        ok = all(part.ok for part in parts.values())
        told = {name: "ok" if part.ok else part.message for name, part in parts.items()}
        return json_response({"status": "ok" if ok else "failing", "parts": told}, status=200 if ok else 503)

    async def _database_health(self) -> Health:
        try:
            await self._database.rows(_ANY)
        except RegistryError as error:
            return Health(ok=False, message=error.message)
        return Health(ok=True)
