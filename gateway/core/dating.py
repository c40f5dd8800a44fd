"""What the configs of images say of them (when they were built, for which platform): read once each, and remembered.

A manifest does not say it. The config is a blob of some kilobytes, which another registry has to be asked for; so it is
read where somebody wants to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import BigInteger, Text, bindparam, exists, select, update

from gateway.core.database import Database, Query, Rows
from gateway.core.manifests import platform, platforms
from gateway.core.metadata import among
from gateway.core.schema import manifests, repositories, tags
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import ByteRange, Digest, RepositoryName
from gateway.plugins import Backend
from gateway.plugins.together import together

MAX_CONFIG: Final = 8 * 1024 * 1024
"""Bytes of a config that is looked at; Docker's own limit for what it reads into memory is half of it."""
_AT_ONCE: Final = 8
"""Configs of one repository that are read at the same time."""
_PART: Final = 200
"""Manifests whose dates are written in one transaction."""

_UNDATED: Final = (
    select(manifests.c.id, manifests.c.config)
    .select_from(repositories.join(manifests, manifests.c.repository_id == repositories.c.id))
    .where(
        repositories.c.path == bindparam("path", type_=Text()),
        ~manifests.c.dated,
        exists().where(tags.c.manifest_id == manifests.c.id),
    )
)
_ANY: Final = Query(_UNDATED.limit(_PART))
_CONTENT: Final = Query(select(manifests.c.content).where(manifests.c.id == bindparam("id")))

# One statement for many rows: a statement each took ten times as long.
_number = bindparam("number", type_=BigInteger())
_created = bindparam("created", type_=BigInteger())
_DATED: Final = (
    update(manifests)
    .where(manifests.c.id == _number, ~manifests.c.dated)
    .values(created_at=_created, platforms=bindparam("built_for", type_=Text()), dated=True)
)
_POINTING: Final = update(tags).where(tags.c.manifest_id == _number).values(image_created_at=_created)


@dataclass(frozen=True, slots=True)
class _Said:
    """What one manifest's config says. *created_at* is in milliseconds since 1970."""

    id: int
    created_at: int | None = None
    platforms: str = ""


class Dating:
    """Reads configs from whatever holds them."""

    def __init__(self, database: Database, backend: Callable[[RepositoryName], Awaitable[Backend]]) -> None:
        self._database = database
        self._backend = backend
        listed = among(database.dialect, tags.c.name, "names")
        named = exists().where(tags.c.manifest_id == manifests.c.id, tags.c.repository_id == repositories.c.id, listed)
        self._some = Query(_UNDATED.where(named).limit(_PART))

    async def date(self, name: RepositoryName, names: Sequence[str] | None = None) -> None:
        """Have a date for all tagged images of the repository, or for those under the tags *names*, that have one.

        A config that is missing, too large or no JSON says nothing, for good. Raises RegistryError where the registry
        that has it can't be asked.
        """
        while True:
            if names is None:
                rows = await self._database.rows(_ANY, path=name)
            else:
                rows = await self._database.rows(self._some, path=name, names=json.dumps(list(names)))
            if not rows:
                return
            await self._remember(await self._read_all(name, rows))

    async def _read_all(self, name: RepositoryName, rows: Rows) -> Sequence[_Said]:
        backend = await self._backend(name)
        turn = asyncio.Semaphore(_AT_ONCE)

        async def read(number: int, config: str | None) -> _Said:
            async with turn:
                return await self._read(backend, name, number, config)

        return await together([read(*row) for row in rows])

    async def _read(self, backend: Backend, name: RepositoryName, number: int, config: str | None) -> _Said:
        if config is None:
            # An index that was recorded before its platforms were.
            rows = await self._database.rows(_CONTENT, id=number)
            try:
                return _Said(number, None, ",".join(platforms(bytes(rows[0][0])))) if rows else _Said(number)
            except RegistryError:
                return _Said(number)
        content = await _blob(backend, name, Digest(config))
        try:
            document = json.loads(content or b"null")
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            return _Said(number)
        return _Said(number, milliseconds(document.get("created")), platform(document))

    async def _remember(self, said: Sequence[_Said]) -> None:
        dated = [{"number": one.id, "created": one.created_at} for one in said if one.created_at is not None]
        async with self._database.write(durable=False) as writer:
            found = [{"number": one.id, "created": one.created_at, "built_for": one.platforms} for one in said]
            await writer.run(_DATED, found)
            if dated:
                await writer.run(_POINTING, dated)


async def _blob(backend: Backend, name: RepositoryName, digest: Digest) -> bytes | None:
    """A small blob; None where it is missing or too large."""
    try:
        async with backend.open_blob(name, digest) as blob:
            if blob.size > MAX_CONFIG:
                return None
            async with contextlib.aclosing(blob.read(ByteRange(0, blob.size))) as chunks:
                return b"".join([chunk async for chunk in chunks])
    except LookupError:
        return None
    except OSError as error:
        raise RegistryError(ErrorCode.UNAVAILABLE, f"the config {digest} could not be read whole: {error}") from error


def milliseconds(created: object) -> int | None:
    """The moment that a config's ``created`` names (RFC 3339), in milliseconds since 1970; None where it is none."""
    if not isinstance(created, str) or len(created) < len("2006-01-02T15:04:05Z"):
        return None
    try:
        moment = datetime.fromisoformat(created.upper())
        return int(moment.timestamp() * 1000) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
