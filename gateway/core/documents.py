"""What plugins keep in the database: small documents under kinds and keys of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.core.database import Database, Query
from gateway.core.schema import documents
from gateway.plugins import Document

_FOUND: Final = select(documents.c.key, documents.c.value, documents.c.version, documents.c.changed_by).where(
    documents.c.plugin == bindparam("plugin"), documents.c.kind == bindparam("kind")
)
_ONE: Final = Query(_FOUND.where(documents.c.key == bindparam("key")))
_ALL: Final = Query(_FOUND.order_by(documents.c.key))


class DatabaseDocuments:
    """Documents of one plugin."""

    def __init__(self, database: Database, plugin: str, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._plugin = plugin
        self._clock = clock
        self._insert: Any = sqlite.insert if database.dialect == "sqlite" else postgresql.insert

    async def get(self, kind: str, key: str) -> Document | None:
        """The document, or None."""
        rows = await self._database.rows(_ONE, plugin=self._plugin, kind=kind, key=key)
        return _document(rows[0]) if rows else None

    async def all(self, kind: str) -> Sequence[Document]:
        """Every document of *kind*, by key."""
        return [_document(row) for row in await self._database.rows(_ALL, plugin=self._plugin, kind=kind)]

    async def put(self, kind: str, key: str, value: Any, by: str, *, version: int | None = None) -> bool:
        """Keep *value*; with *version* (0: there is none yet) only over that one, else False."""
        place = {"plugin": self._plugin, "kind": kind, "key": key}
        fresh = {"value": json.dumps(value), "changed_at": int(self._clock() * 1000), "changed_by": by}
        where = [column == place[name] for name, column in documents.c.items() if name in place]
        async with self._database.write() as writer:
            if version:
                known = update(documents).where(*where, documents.c.version == version)
                return await writer.run(known.values(**fresh, version=version + 1)) > 0
            record = self._insert(documents).values(**place, **fresh, version=1)
            if version == 0:
                return await writer.run(record.on_conflict_do_nothing()) > 0
            again = {**fresh, "version": documents.c.version + 1}
            await writer.run(record.on_conflict_do_update(index_elements=list(place), set_=again))
            return True

    async def remove(self, kind: str, key: str) -> None:
        """Keep it no longer."""
        async with self._database.write() as writer:
            mine = (documents.c.plugin == self._plugin, documents.c.kind == kind, documents.c.key == key)
            await writer.run(delete(documents).where(*mine))


def _document(row: tuple[Any, ...]) -> Document:
    key, value, version, changed_by = row
    return Document(key, json.loads(value), version, changed_by)
