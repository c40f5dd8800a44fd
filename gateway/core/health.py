"""The admin listener: metrics, health and the switch for maintenance. It never answers on the public port."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import web
from sqlalchemy import select

from gateway.core.collector import Collector
from gateway.core.database import Database, Query
from gateway.core.maintenance import Maintenance
from gateway.core.metrics import READ_ONLY, render
from gateway.core.rendering import json_response
from gateway.core.schema import repositories
from gateway.core.streaming import read_bounded
from gateway.errors import RegistryError
from gateway.plugins import Health
from gateway.plugins.manager import Plugins

_ANY = Query(select(repositories.c.id).limit(1))
_LONGEST_BODY: Final = 64 * 1024
_STALL: Final = 10.0


class Admin:
    """Answers machines that watch, and operators."""

    def __init__(
        self,
        plugins: Plugins,
        database: Database,
        maintenance: Maintenance,
        collector: Collector,
        draining: Callable[[], bool],
    ) -> None:
        self._plugins = plugins
        self._database = database
        self._maintenance = maintenance
        self._collector = collector
        self._draining = draining

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        match request.raw_path.partition("?")[0]:
            case "/metrics":
                return await self._metrics()
            case "/livez" | "/startupz":
                return json_response({"status": "ok"})
            case "/readyz":
                return await self._ready()
            case "/maintenance":
                return await self._mode(request)
            case _:
                known = "see /metrics, /livez, /readyz, /startupz and /maintenance"
                return json_response({"error": known}, status=404)

    async def _metrics(self) -> web.Response:
        with suppress(RegistryError):
            READ_ONLY.set((await self._maintenance.mode()).read_only)
            await self._collector.tell_metrics()
        body, headers = render()
        return web.Response(body=body, headers=headers)

    async def _mode(self, request: web.BaseRequest) -> web.Response:
        """``GET`` tells the mode, ``PUT`` switches it for every worker and replica."""
        try:
            if request.method == "PUT":
                mode = await self._maintenance.switch(_document(await read_bounded(request, _LONGEST_BODY, _STALL)))
            elif request.method == "GET":
                mode = await self._maintenance.mode()
            else:
                return json_response({"error": "GET or PUT /maintenance"}, {"Allow": "GET, PUT"}, status=405)
        except RegistryError as error:
            return json_response({"error": error.message}, error.headers, status=error.status)
        return json_response(mode.as_json())

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


def _document(content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
