"""Registry levels that were set through the API: kept in the database, and laid over those of the directory's file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from gateway.plugins import Documents, RegistryLevel
from plugins.auth_local.directory import Index

_KIND: Final = "registry_level"
_KEY: Final = "projects"


class Levels:
    """Levels by the lower-case paths of projects, the same in every worker and replica.

    They are one document: a decision takes one small prepared read, however many there are, and a change is seen whole.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._kept: Mapping[str, Any] = {}
        self._read = False
        self._turn: object = None
        self._ended: asyncio.Event | None = None
        self._following: asyncio.Task[Mapping[str, Any]] | None = None
        self._below: Index | None = None
        self._over: Index | None = None
        self._laid: Mapping[str, Any] = {}

    async def laid_over(self, index: Index) -> Index:
        """*index* with the levels that were set. It is made anew where either of them has changed."""
        kept = await self._current()
        if self._over is None or self._below is not index or self._laid is not kept:
            levels = {path: RegistryLevel(level) for path, level in kept.items()}
            self._below, self._laid, self._over = index, kept, index.with_levels(levels)
        return self._over

    async def keep(self, path: str, level: RegistryLevel, by: str, *, written: RegistryLevel) -> None:
        """Keep *level* for the project at the lower-case *path*, or nothing where the file has it *written* so too."""
        kept = False
        while not kept:
            found = await self._documents.get(_KIND, _KEY)
            levels = dict(found.value) if found else {}
            levels.pop(path, None)
            if level is not written:
                levels[path] = level.value
            kept = await self._documents.put(_KIND, _KEY, levels, by, version=found.version if found else 0)

    async def _current(self) -> Mapping[str, Any]:
        """What is kept now: nobody is answered by a read that began before they asked.

        It is read once in a turn of the event loop, as the file is looked at. Where the database makes a read wait, all
        who ask meanwhile share the one that follows it.
        """
        if self._read:
            return self._kept
        if self._ended is None:
            self._ended = asyncio.Event()
            return await self._look()
        if self._following is None:
            self._following = asyncio.create_task(self._follow(self._ended))
            # Perhaps nobody waits for it to the end.
            self._following.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._following)

    async def _follow(self, ended: asyncio.Event) -> Mapping[str, Any]:
        await ended.wait()
        self._following = None
        return await self._look()

    async def _look(self) -> Mapping[str, Any]:
        turn = self._turn = object()
        asyncio.get_running_loop().call_soon(self._next_turn)
        ended = self._ended
        assert ended is not None
        try:
            found = await self._documents.get(_KIND, _KEY)
        finally:
            self._ended = None if self._following is None else asyncio.Event()
            ended.set()
        kept: Mapping[str, Any] = found.value if found else {}
        if kept != self._kept:
            self._kept = kept
        self._read = self._turn is turn
        return self._kept

    def _next_turn(self) -> None:
        self._read, self._turn = False, None
