"""Pages of repositories and tags, with what is recorded of each: a constant number of queries for a page of any size.

Each order has an index, so that a page costs what it shows and not what there is; a manifest is looked up only for the
tags of the page.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import BigInteger, Select, Text, bindparam, exists, func, literal, or_, select
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import coalesce

from gateway.core.database import Database, Query, Rows
from gateway.core.metadata import among
from gateway.core.schema import manifests, references, repositories, tags
from gateway.oci import Digest, RepositoryName
from gateway.plugins import RepositoryRecord, TagRecord, TagSearch

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ALL: Final = 2**31 - 1

_path = bindparam("path", type_=Text())
_of_repository = select(repositories.c.id).where(repositories.c.path == _path).scalar_subquery()

_ORDERS: Final[Mapping[str, tuple[ColumnElement[Any], ...]]] = {
    "name": (tags.c.name,),
    "created": (tags.c.image_created_at, tags.c.name),
    "size": (tags.c.image_size, tags.c.name),
    "pushed": (tags.c.pushed_at, tags.c.name),
}
_DETAILS: Final = (
    manifests.c.digest,
    manifests.c.media_type,
    manifests.c.config,
    manifests.c.layers_size,
    manifests.c.created_at,
    manifests.c.platforms,
)

_COLUMNS: Final = (
    repositories.c.id,
    repositories.c.path,
    repositories.c.project,
    repositories.c.created_at,
    repositories.c.status,
    repositories.c.cleanup_state,
    repositories.c.cleanup_started_at,
    repositories.c.cleanup_completed_at,
    repositories.c.cleanup_deleted,
)
_BY_NUMBER: Final = Query(select(*_COLUMNS).where(repositories.c.id == bindparam("number", type_=BigInteger())))
_BY_NAME: Final = Query(select(*_COLUMNS).where(repositories.c.path == _path))
_POINTING: Final = Query(
    select(tags.c.name, manifests.c.digest)
    .select_from(tags.join(manifests, manifests.c.id == tags.c.manifest_id))
    .where(tags.c.repository_id == _of_repository)
    .order_by(tags.c.name)
)

_tagged = (
    select(tags.c.manifest_id.label("id")).where(tags.c.repository_id == _of_repository).cte("kept", recursive=True)
)
_child = manifests.alias("child")
_KEPT: Final = _tagged.union(
    select(_child.c.id)
    .select_from(_tagged.join(references, references.c.manifest_id == _tagged.c.id))
    .join(_child, (_child.c.repository_id == _of_repository) & (_child.c.digest == references.c.digest))
    .where(references.c.kind == "manifest")
)
_BLOBS: Final = (
    select(func.max(references.c.size).label("size"))
    .select_from(_KEPT.join(references, references.c.manifest_id == _KEPT.c.id))
    .where(references.c.kind != "manifest")
    .group_by(references.c.digest)
    .subquery()
)
_SIZE: Final = Query(select(coalesce(func.sum(_BLOBS.c.size), 0)))


class Listing:
    """Reads for people: repositories and tags as they are recorded."""

    def __init__(self, database: Database) -> None:
        self._database = database
        own = among(database.dialect, repositories.c.project, "projects")
        self._page = Query(
            select(*_COLUMNS)
            .where(own)
            .order_by(repositories.c.id)
            .limit(bindparam("limit", type_=BigInteger()))
            .offset(bindparam("offset", type_=BigInteger()))
        )
        self._total = Query(select(func.count()).select_from(repositories).where(own))
        self._paths = Query(select(repositories.c.path).where(own).order_by(repositories.c.id))
        self._any = Query(
            select(repositories.c.id).where(own, exists().where(tags.c.repository_id == repositories.c.id)).limit(1)
        )
        named = among(database.dialect, repositories.c.path, "names")
        self._names = Query(
            select(repositories.c.path, tags.c.name)
            .select_from(repositories.join(tags, tags.c.repository_id == repositories.c.id))
            .where(named)
            .order_by(repositories.c.path, tags.c.name)
        )
        self._counts = Query(
            select(repositories.c.path, func.count())
            .select_from(repositories.join(tags, tags.c.repository_id == repositories.c.id))
            .where(named)
            .group_by(repositories.c.path)
        )
        some = among(database.dialect, tags.c.name, "names")
        self._some = Query(
            select(tags.c.name, *_DETAILS, tags.c.pushed_at, tags.c.pushed_by)
            .select_from(tags.join(manifests))
            .where(tags.c.repository_id == _of_repository, some)
        )

    # -- repositories ---------------------------------------------------------------------------------

    async def repositories(
        self, projects: Iterable[str], offset: int, limit: int | None
    ) -> tuple[Sequence[RepositoryRecord], int]:
        """A page of the repositories of *projects*, by number, and how many there are."""
        listed = json.dumps(sorted(set(projects)))
        rows = await self._database.rows(
            self._page, projects=listed, offset=offset, limit=_ALL if limit is None else limit
        )
        total = len(rows) if limit is None else (await self._database.rows(self._total, projects=listed))[0][0]
        return [_repository(row) for row in rows], total

    async def paths(self, projects: Iterable[str]) -> Sequence[RepositoryName]:
        """The names of the repositories of *projects*, by number."""
        rows = await self._database.rows(self._paths, projects=json.dumps(sorted(set(projects))))
        return [RepositoryName(row[0]) for row in rows]

    async def repository(self, key: int | RepositoryName) -> RepositoryRecord | None:
        """The repository of that number or name."""
        if isinstance(key, str):
            rows = await self._database.rows(_BY_NAME, path=key)
        else:
            rows = await self._database.rows(_BY_NUMBER, number=key) if 0 < key <= _MOST else []
        return _repository(rows[0]) if rows else None

    async def any_tag(self, projects: Iterable[str]) -> bool:
        """Whether any repository of *projects* has a tag."""
        return bool(await self._database.rows(self._any, projects=json.dumps(sorted(set(projects)))))

    async def size(self, name: RepositoryName) -> int:
        """Bytes of what the repository's tags lead to, each blob counted once."""
        return int((await self._database.survey(_SIZE, path=name))[0][0])

    # -- tags -----------------------------------------------------------------------------------------

    async def tags(self, name: RepositoryName, search: TagSearch) -> tuple[Sequence[TagRecord], int]:
        """A page of tags, and how many *search* fits."""
        values = _values(search)
        page, count = _statements(_kind(search))
        # What no index leads to takes long where there are many: no request waits for it.
        ask = self._database.survey if values.keys() - {"after"} else self._database.rows
        rows = await ask(page, path=name, offset=search.offset, limit=search.limit, **values)
        values.pop("after", None)
        return [_tag(row) for row in rows], (await ask(count, path=name, **values))[0][0]

    async def names(self, name: RepositoryName, search: TagSearch) -> Sequence[str]:
        """The names of all tags that *search* fits, in its order."""
        values = _values(search)
        return [row[0] for row in await self._database.survey(_all_names(_kind(search)), path=name, **values)]

    async def some(self, name: RepositoryName, names: Sequence[str]) -> Sequence[TagRecord]:
        """The tags called *names*, in that order."""
        rows = await self._database.rows(self._some, path=name, names=json.dumps(list(names)))
        found = {row[0]: _tag(row) for row in rows}
        return [found[tag] for tag in names if tag in found]

    async def tag_names(self, names: Sequence[RepositoryName]) -> Mapping[str, Sequence[str]]:
        """The tags of several repositories, sorted by byte: one question for all."""
        rows = await self._database.survey(self._names, names=json.dumps(list(names)))
        return await asyncio.to_thread(_grouped, names, rows)

    async def tag_counts(self, names: Sequence[RepositoryName]) -> Mapping[str, int]:
        """How many tags several repositories have: one question for all."""
        rows = await self._database.survey(self._counts, names=json.dumps(list(names)))
        return {**dict.fromkeys(names, 0), **{str(path): int(count) for path, count in rows}}

    async def pointing(self, name: RepositoryName) -> Mapping[str, str]:
        """All tags of a repository, sorted by byte, with the digest of each."""
        return {str(tag): str(digest) for tag, digest in await self._database.survey(_POINTING, path=name)}


def _grouped(names: Sequence[RepositoryName], rows: Rows) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {name: [] for name in names}
    for path, tag in rows:
        found[path].append(tag)
    return found


_MOST: Final = 2**63 - 1
_Kind = tuple[str, bool, bool, bool, bool, bool]


def _kind(search: TagSearch) -> _Kind:
    """What the statement of a search depends on."""
    return (
        search.order,
        search.descending,
        bool(search.search),
        search.platform is not None,
        search.pushed_by is not None,
        search.after is not None,
    )


def _values(search: TagSearch) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if search.search:
        values["search"] = _like(search.search.lower())
    if search.platform is not None:
        wanted = _escaped(search.platform.lower())
        values["platform"] = f"%,{wanted},%"
        # A system and an architecture stand for each variant, of which linux/arm64 has one.
        values["variants"] = f"%,{wanted}/%" if wanted.count("/") == 1 else values["platform"]
    if search.pushed_by is not None:
        values["pushed_by"] = search.pushed_by
    if search.after is not None:
        values["after"] = search.after
    return values


def _like(text: str) -> str:
    return f"%{_escaped(text)}%"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _conditions(kind: _Kind) -> list[ColumnElement[bool]]:
    _, descending, searched, by_platform, by_pusher, after = kind
    found = [tags.c.repository_id == _of_repository]
    if searched:
        found.append(func.lower(tags.c.name).like(bindparam("search", type_=Text()), escape="\\"))
    if by_platform:
        listed = literal(",") + manifests.c.platforms + literal(",")
        fits = [listed.like(bindparam(name, type_=Text()), escape="\\") for name in ("platform", "variants")]
        found.append(exists().where(manifests.c.id == tags.c.manifest_id, or_(*fits)))
    if by_pusher:
        found.append(tags.c.pushed_by == bindparam("pushed_by", type_=Text()))
    if after:
        last = bindparam("after", type_=Text())
        found.append(tags.c.name < last if descending else tags.c.name > last)
    return found


def _ordered(statement: Select[Any], kind: _Kind) -> Select[Any]:
    order, descending, *_ = kind
    return statement.order_by(*(column.desc() if descending else column for column in _ORDERS[order]))


@lru_cache(maxsize=256)
def _all_names(kind: _Kind) -> Query:
    return Query(_ordered(select(tags.c.name).where(*_conditions(kind)), kind))


@lru_cache(maxsize=256)
def _statements(kind: _Kind) -> tuple[Query, Query]:
    """The statements for a page and for the number of all. The page's manifests are looked up behind its limit."""
    conditions = _conditions(kind)
    chosen = (
        _ordered(select(tags).where(*conditions), kind)
        .limit(bindparam("limit", type_=BigInteger()))
        .offset(bindparam("offset", type_=BigInteger()))
        .subquery()
    )
    order, descending, *_ = kind
    columns = [chosen.c[str(column.key)] for column in _ORDERS[order]]
    page = (
        select(chosen.c.name, *_DETAILS, chosen.c.pushed_at, chosen.c.pushed_by)
        .select_from(chosen.join(manifests, manifests.c.id == chosen.c.manifest_id))
        .order_by(*(column.desc() if descending else column for column in columns))
    )
    counted = conditions[:-1] if kind[-1] else conditions
    return Query(page), Query(select(func.count()).select_from(tags).where(*counted))


def time_of(milliseconds: int | None) -> datetime | None:
    """A moment in UTC; years that no calendar of ours has are none."""
    if milliseconds is None:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None


def _repository(row: tuple[Any, ...]) -> RepositoryRecord:
    number, path, project, created, status, state, started, completed, deleted = row
    return RepositoryRecord(
        number,
        path,
        project,
        time_of(created) or _EPOCH,
        status,
        state,
        time_of(started),
        time_of(completed),
        deleted,
    )


def _tag(row: tuple[Any, ...]) -> TagRecord:
    name, digest, media_type, config, size, created, platforms, pushed_at, pushed_by = row
    return TagRecord(
        name,
        Digest(digest),
        media_type,
        Digest(config) if config else None,
        size,
        time_of(created),
        time_of(pushed_at) or _EPOCH,
        pushed_by,
        tuple(platforms.split(",")) if platforms else (),
    )
