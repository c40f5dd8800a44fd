"""Deleting a whole repository: promised at once, done in the background, resumed by whoever finds it unfinished.

What was there when it was ordered goes, parents before children and subjects before what refers to them. What was
pushed since stays, with all that it leads to; that is looked at again for each manifest right before it goes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from sqlalchemy import BigInteger, Text, bindparam, delete, exists, func, select, update
from sqlalchemy.sql.functions import coalesce

from gateway.core.database import Database, Query, Rows, Writer
from gateway.core.index import IndexedStore
from gateway.core.maintenance import Maintenance
from gateway.core.metadata import MetadataStore
from gateway.core.retention import COMPANIONS
from gateway.core.schema import blobs, manifests, references, repositories, tags
from gateway.core.tasks import DatabaseTasks
from gateway.oci import Digest, RepositoryName, Tag
from gateway.plugins import By, ManifestStore, TagQuery, Task

KIND: Final = "delete repository"
_PAGE: Final = 1000
_PART: Final = 20
"""Manifests that go in one transaction: pushes wait no longer."""
_RECORDED: Final = 1.0
"""Seconds within which is recorded what another worker pushed to a registry."""

_number = bindparam("number", type_=BigInteger())
_digest = bindparam("digest", type_=Text())
_here = manifests.c.repository_id == _number
_latest = select(func.max(tags.c.pushed_at)).where(tags.c.manifest_id == manifests.c.id).scalar_subquery()
_STATUS: Final = Query(select(repositories.c.path, repositories.c.status).where(repositories.c.id == _number))
_ACTIVE: Final = Query(select(repositories.c.active_at).where(repositories.c.id == _number))
# No manifest is put meanwhile: whoever puts one holds the row too.
_HELD: Final = _STATUS.statement.with_for_update()
_GRAPH: Final = Query(select(manifests.c.digest, manifests.c.subject, manifests.c.pushed_at, _latest).where(_here))
_CHILDREN: Final = Query(
    select(manifests.c.digest, references.c.digest)
    .select_from(manifests.join(references, references.c.manifest_id == manifests.c.id))
    .where(_here, references.c.kind == "manifest")
)
_TAGS: Final = Query(
    select(tags.c.name, manifests.c.digest)
    .select_from(tags.join(manifests, manifests.c.id == tags.c.manifest_id))
    .where(tags.c.repository_id == _number)
)
_TAGS_OF: Final = Query(
    select(tags.c.name)
    .select_from(manifests.join(tags, tags.c.manifest_id == manifests.c.id))
    .where(_here, manifests.c.digest == _digest)
    .order_by(tags.c.name)
)
_PUSHED: Final = Query(
    select(manifests.c.pushed_at, _latest, manifests.c.subject).where(_here, manifests.c.digest == _digest)
)
_PARENTS: Final = Query(
    select(manifests.c.digest)
    .select_from(references.join(manifests, manifests.c.id == references.c.manifest_id))
    .where(_here, references.c.kind == "manifest", references.c.digest == _digest)
)
_BEGINNING: Final = Query(
    select(manifests.c.digest).where(
        _here, manifests.c.digest >= _digest, manifests.c.digest < bindparam("after", type_=Text())
    )
)
_KNOWN_TAG: Final = Query(
    select(tags.c.name).where(tags.c.repository_id == _number, tags.c.name == bindparam("tag", type_=Text()))
)
_DELETED: Final = delete(manifests).where(_here, manifests.c.digest == _digest)
_COMPANION: Final = re.compile(rf"([a-z0-9]{{1,32}})-([0-9a-f]{{1,64}})(?:{'|'.join(map(re.escape, COMPANIONS))})")

Ask = Callable[..., Awaitable[Rows]]
"""Reads the rows of a Query, with its parameters by name."""


class Told(Protocol):
    """Says that something was deleted."""

    def __call__(
        self, name: RepositoryName, by: By, *, digest: Digest | None, tag: Tag | None = None, tags: Sequence[str] = ()
    ) -> None:
        """Say it."""
        ...


class Dropping:
    """Deletes repositories. *told* says what went; *store* gives who knows the manifests of a repository."""

    def __init__(
        self,
        database: Database,
        metadata: MetadataStore,
        *,
        store: Callable[[RepositoryName], Awaitable[ManifestStore]],
        tasks: DatabaseTasks,
        told: Told,
        maintenance: Maintenance,
        log: Any,
    ) -> None:
        self._database = database
        self._metadata = metadata
        self._store = store
        self._tasks = tasks
        self._told = told
        self._maintenance = maintenance
        self._log = log
        tasks.handle(KIND, self._do, self._failed)

    async def order(self, number: int, by: By) -> bool:
        """Promise to delete the whole repository; once more is no other promise. False: there is none."""
        await self._maintenance.require_writable()
        free = (
            repositories.c.id == number,
            repositories.c.status.is_(None) | (repositories.c.status == "delete_failed"),
        )
        async with self._database.write() as writer:
            rows = await writer.rows(_STATUS.statement, {"number": number})
            if not rows:
                return False
            if await writer.run(update(repositories).where(*free).values(status="delete_scheduled")):
                payload = {"number": number, "how": by.how, "address": by.address, "request_id": by.request_id}
                await self._tasks.add_within(writer, KIND, rows[0][0], payload, by.subject)
        self._tasks.wake()
        self._log.info("deletion of a repository ordered", repository=rows[0][0], how=by.how, subject=by.subject)
        return True

    async def _failed(self, task: Task, last: bool) -> None:  # noqa: FBT001 - the protocol's
        await self._mark(task, "delete_failed" if last else "delete_scheduled")

    async def _mark(self, task: Task, status: str | None) -> bool:
        own = (repositories.c.id == task.payload["number"], repositories.c.path == task.subject)
        async with self._database.write() as writer:
            return await writer.run(update(repositories).where(*own).values(status=status)) > 0

    async def _do(self, task: Task) -> None:
        """Delete what was there when it was ordered."""
        if not await self._mark(task, "delete_ongoing"):
            return
        name = RepositoryName(task.subject)
        by = By(task.by, *(str(task.payload[key]) for key in ("how", "address", "request_id")))
        number, ordered = int(task.payload["number"]), int(task.ordered_at.timestamp() * 1000)
        store = await self._store(name)
        doomed = await self._doomed(number, ordered)
        if isinstance(store, IndexedStore):
            await self._elsewhere(store, name, by, doomed, number=number, ordered=ordered)
        else:
            await self._in_records(name, by, doomed, number=number, ordered=ordered)
        await self._drop(task, ordered)

    async def _doomed(self, number: int, ordered: int) -> Sequence[Digest]:
        """The manifests that go, in the order in which they may: all but those pushed since, and what these lead to."""
        rows, children, tagged = [
            await self._database.survey(query, number=number) for query in (_GRAPH, _CHILDREN, _TAGS)
        ]
        return await asyncio.to_thread(_doomed, rows, children, tagged, ordered)

    async def _in_records(
        self, name: RepositoryName, by: By, doomed: Sequence[Digest], *, number: int, ordered: int
    ) -> None:
        for start in range(0, len(doomed), _PART):
            await self._maintenance.require_writable()
            gone: list[tuple[Digest, list[str]]] = []
            async with self._database.write() as writer:
                if await writer.rows(_HELD, {"number": number}) != [(name, "delete_ongoing")]:
                    return
                for digest in doomed[start : start + _PART]:
                    if await _stays(_reading(writer), number, digest, ordered):
                        continue
                    this = {"number": number, "digest": digest}
                    pointing = [row[0] for row in await writer.rows(_TAGS_OF.statement, this)]
                    if await writer.run(_DELETED, this):
                        gone.append((digest, pointing))
            for digest, pointing in gone:
                self._told(name, by, digest=digest, tags=pointing)

    async def _elsewhere(
        self,
        store: IndexedStore,
        name: RepositoryName,
        by: By,
        doomed: Sequence[Digest],
        *,
        number: int,
        ordered: int,
    ) -> None:
        ask, pushing = self._database.rows, store.index.pushing

        async def may_go(reference: Digest | Tag) -> bool:
            """Whether it is the same repository still, and nobody pushes *reference* just now."""
            await self._maintenance.require_writable()
            same = await ask(_STATUS, number=number) == [(name, "delete_ongoing")]
            return same and not any(key[:2] == (name, reference) for key in pushing)

        for digest in doomed:
            if await may_go(digest) and not await _stays(ask, number, digest, ordered):
                pointing = [row[0] for row in await ask(_TAGS_OF, number=number, digest=digest)]
                if await store.delete_manifest(name, digest):
                    self._told(name, by, digest=digest, tags=pointing)
        # What a registry has that nobody recorded was there before; what is recorded still was pushed since.
        listed = [tag async for tag in _listed(store, name)]
        active = (await ask(_ACTIVE, number=number) or [(0,)])[0][0] or 0
        if listed and active > ordered:
            await asyncio.sleep(_RECORDED)
        for tag in listed:
            recorded = await ask(_KNOWN_TAG, number=number, tag=tag)
            if not recorded and await may_go(tag) and await store.delete_manifest(name, tag):
                self._told(name, by, tag=tag, digest=None)

    async def _drop(self, task: Task, ordered: int) -> None:
        """The record goes with the rest, and with its links to blobs, unless somebody pushes there since.

        Who does may have found a blob that is linked for long: what is left then is for garbage collection.
        """
        key = task.payload["number"]
        own = repositories.c.id == key
        left = (
            exists().where(manifests.c.repository_id == key),
            exists().where(tags.c.repository_id == key),
            exists().where(blobs.c.repository_id == key, blobs.c.linked_at > ordered),
            coalesce(repositories.c.active_at, 0) > ordered,
        )
        async with self._database.write() as writer:
            # Whoever puts a manifest holds the row: it is there before this, or finds no repository.
            await writer.rows(select(repositories.c.id).where(own).with_for_update())
            await self._metadata.drop(writer, key, *(~some for some in left))
        await self._mark(task, None)


def _reading(writer: Writer) -> Ask:
    async def ask(query: Query, **values: Any) -> Rows:
        return await writer.rows(query.statement, values)

    return ask


async def _stays(ask: Ask, number: int, digest: str, ordered: int) -> bool:
    """Whether the manifest was pushed or tagged since *ordered*, or something that was leads to it."""
    waiting, seen = [digest], {digest}
    while waiting:
        this = {"number": number, "digest": waiting.pop()}
        above = [row[0] for row in await ask(_PARENTS, **this)]
        for pushed, tagged, subject in await ask(_PUSHED, **this):
            if max(pushed, tagged or 0) > ordered:
                return True
            above += [subject] if subject is not None else []
        for (tag,) in await ask(_TAGS_OF, **this):
            companion = _COMPANION.fullmatch(tag)
            if companion is not None:
                first = f"{companion[1]}:{companion[2]}"
                above += [row[0] for row in await ask(_BEGINNING, number=number, digest=first, after=f"{first}g")]
        fresh = set(above) - seen
        seen |= fresh
        waiting += fresh
    return False


def _doomed(rows: Rows, children: Rows, tagged: Rows, ordered: int) -> list[Digest]:
    leads: dict[str, list[str]] = {}
    for parent, child in children:
        leads.setdefault(parent, []).append(child)
    for digest, subject, _, _ in rows:
        if subject is not None:
            leads.setdefault(subject, []).append(digest)
    begins = {_beginning(digest): digest for digest, *_ in rows}
    for tag, digest in tagged:
        companion = _COMPANION.fullmatch(tag)
        subject = begins.get(f"{companion[1]}:{companion[2]}") if companion is not None else None
        if subject is not None:
            leads.setdefault(subject, []).append(digest)
    fresh = [digest for digest, _, pushed, latest in rows if max(pushed, latest or 0) > ordered]
    going = {digest for digest, *_ in rows} - set(_reached(fresh, leads))
    return [Digest(digest) for digest in _in_order(going, leads)]


def _beginning(digest: str) -> str:
    """What a companion's tag can say of *digest*."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}:{encoded[:64]}"


async def _listed(store: ManifestStore, name: RepositoryName) -> AsyncIterator[Tag]:
    last = ""
    while True:
        page = await store.tags(name, TagQuery(_PAGE, last))
        for tag in page.tags if page else ():
            yield tag
        if page is None or not page.more or not page.tags:
            return
        last = page.tags[-1]


def _reached(start: Sequence[str], edges: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """*start* and all that it leads to, each once."""
    waiting, seen = list(start), set(start)
    while waiting:
        found = waiting.pop()
        yield found
        fresh = set(edges.get(found, ())) - seen
        seen |= fresh
        waiting += fresh


def _in_order(items: set[str], edges: Mapping[str, Sequence[str]]) -> list[str]:
    """*items*, each before those that *edges* lead to; where they lead in a circle, it is cut somewhere."""
    done: list[str] = []
    seen: set[str] = set()
    for first in sorted(items):
        stack = [(first, iter(edges.get(first, ())))] if first not in seen else []
        seen.add(first)
        while stack:
            found, following = stack[-1]
            after = next((item for item in following if item in items and item not in seen), None)
            if after is None:
                done.append(found)
                stack.pop()
            else:
                seen.add(after)
                stack.append((after, iter(edges.get(after, ()))))
    return done[::-1]
