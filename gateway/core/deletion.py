"""Deleting images so that nothing else is harmed, over every backend.

A tag goes alone and its siblings stay. What an index is made of stays as long as the index. What refers to a subject
(signatures, bills of materials, attestations) goes with it and never before it: an artifact with a ``subject`` when the
subject's manifest goes, a tag such as ``sha256-….sig`` also when nothing tagged leads to the subject any more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import BigInteger, Text, bindparam, exists, func, select, update
from sqlalchemy.sql.functions import coalesce

from gateway.core import logs
from gateway.core.database import Database, Query
from gateway.core.index import IndexedStore
from gateway.core.listing import Listing
from gateway.core.maintenance import Maintenance
from gateway.core.metadata import MetadataStore
from gateway.core.retention import COMPANIONS, stem
from gateway.core.schema import blobs, manifests, references, repositories, tags
from gateway.core.tasks import DatabaseTasks
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import Digest, Reference, RepositoryName, Tag
from gateway.plugins import By, Client, Event, ManifestStore, TagQuery, Task

_PAGE: Final = 1000
KIND: Final = "delete repository"

_path = bindparam("path", type_=Text())
_digest = bindparam("digest", type_=Text())
_of_name = manifests.c.repository_id == select(repositories.c.id).where(repositories.c.path == _path).scalar_subquery()
_TAGS_OF: Final = Query(
    select(tags.c.name)
    .select_from(manifests.join(tags, tags.c.manifest_id == manifests.c.id))
    .where(_of_name, manifests.c.digest == _digest)
    .order_by(tags.c.name)
)
_PARENTS: Final = Query(
    select(manifests.c.digest)
    .select_from(references.join(manifests, manifests.c.id == references.c.manifest_id))
    .where(_of_name, references.c.kind == "manifest", references.c.digest == _digest)
)
_MADE_OF: Final = Query(
    select(references.c.digest)
    .select_from(manifests.join(references, references.c.manifest_id == manifests.c.id))
    .where(_of_name, references.c.kind == "manifest", manifests.c.digest == _digest)
)
_REFERRING: Final = Query(select(manifests.c.digest).where(_of_name, manifests.c.subject == _digest))
_SUBJECT: Final = Query(
    select(manifests.c.subject).where(_of_name, manifests.c.digest == _digest, manifests.c.subject.is_not(None))
)
_latest = select(func.max(tags.c.pushed_at)).where(tags.c.manifest_id == manifests.c.id).scalar_subquery()
_GRAPH: Final = Query(select(manifests.c.digest, manifests.c.subject, manifests.c.pushed_at, _latest).where(_of_name))
_CHILDREN: Final = Query(
    select(manifests.c.digest, references.c.digest)
    .select_from(manifests.join(references, references.c.manifest_id == manifests.c.id))
    .where(_of_name, references.c.kind == "manifest")
)
_number = bindparam("number", type_=BigInteger())
_STATUS: Final = Query(select(repositories.c.path, repositories.c.status).where(repositories.c.id == _number))


def companions(digest: Digest) -> list[Tag]:
    """The tags that clients give to what belongs to *digest*."""
    return [Tag(f"{stem(digest)}{ending}") for ending in COMPANIONS]


class Deletion:
    """Deletes, and says in the log what went, by whom, and how.

    *store* gives who knows the manifests of a repository, *refresh* records what others changed there; *tell* tells the
    plugins.
    """

    def __init__(
        self,
        database: Database,
        metadata: MetadataStore,
        listing: Listing,
        *,
        store: Callable[[RepositoryName], Awaitable[ManifestStore]],
        refresh: Callable[[Sequence[RepositoryName]], Awaitable[None]],
        tasks: DatabaseTasks,
        tell: Callable[[Event], None],
        maintenance: Maintenance,
        log: Any,
    ) -> None:
        self._database = database
        self._metadata = metadata
        self._listing = listing
        self._store = store
        self._refresh = refresh
        self._tasks = tasks
        self._tell = tell
        self._maintenance = maintenance
        self._log = log
        tasks.handle(KIND, self._delete_repository, self._failed)

    # -- one tag, one manifest ------------------------------------------------------------------------

    async def remove(self, name: RepositoryName, reference: Reference, by: By) -> bool:
        """Delete a tag, or a manifest with all its tags, as the registry protocol has it; False: there is none."""
        if isinstance(reference, Digest):
            return await self.manifest(name, reference, by)
        return await self.tag(name, reference, by)

    async def tag(
        self,
        name: RepositoryName,
        tag: Tag,
        by: By,
        expected: Digest | None = None,
        *,
        within: Container[str] | None = None,
    ) -> bool:
        """Delete a tag alone; with *expected* only while that is what it points at. False: there is no such tag.

        What belongs to an image goes with its last tag; with *within* only what is among these tags.
        Raises RegistryError: 503 while the registry is read-only, as everything here does.
        """
        await self._maintenance.require_writable()
        store = await self._store(name)
        if expected is None:
            digest = await _pointed(store, name, tag)
            gone = await store.delete_manifest(name, tag)
        else:
            digest = expected
            gone = await _delete_unless_moved(store, name, tag, expected)
        if not gone:
            return False
        self._told(name, by, tag=tag, digest=digest)
        with_it = replace(by, how=f"{by.how}, with its subject")
        for companion in [] if digest is None else await self._belonging(name, digest):
            if within is None or companion in within:
                await self.tag(name, companion, with_it, within=within)
        return True

    async def manifest(self, name: RepositoryName, digest: Digest, by: By) -> bool:
        """Delete a manifest with its tags, and then what refers to it. False: there is none.

        Raises RegistryError 409 where an index of the repository is made of it, as GitLab's registry does.
        """
        await self._maintenance.require_writable()
        parents = await self._database.rows(_PARENTS, path=name, digest=digest)
        if parents:
            message = f"the index {parents[0][0]} is made of it: delete that first"
            raise RegistryError(ErrorCode.MANIFEST_REFERENCED_IN_LIST, message)
        store = await self._store(name)
        pointing = [row[0] for row in await self._database.rows(_TAGS_OF, path=name, digest=digest)]
        # Asked before it goes: afterwards nobody may know.
        referring = await _referrers(store, name, digest)
        if not await store.delete_manifest(name, digest):
            return False
        self._told(name, by, digest=digest, tags=pointing)
        await self._delete_referrers(name, digest, referring, replace(by, how=f"{by.how}, with its subject"))
        return True

    async def _delete_referrers(
        self, name: RepositoryName, subject: Digest, referring: Sequence[Digest], by: By
    ) -> None:
        for record in await self._listing.some(name, companions(subject)):
            others = {row[0] for row in await self._database.rows(_TAGS_OF, path=name, digest=record.digest)}
            if others == {record.name} and not await self._database.rows(_PARENTS, path=name, digest=record.digest):
                await self.manifest(name, record.digest, by)
            else:
                await self.tag(name, Tag(record.name), by)
        for digest in referring:
            if not await self._database.rows(_PARENTS, path=name, digest=digest):
                await self.manifest(name, digest, by)

    async def _belonging(self, name: RepositoryName, digest: Digest) -> Sequence[Tag]:
        """The tags of what belonged to *digest*, or to what it leads to, where no tag leads there any more."""

        async def found() -> Sequence[Tag]:
            wanted = [companion for one in await self._left(name, digest) for companion in companions(one)]
            return [Tag(record.name) for record in await self._listing.some(name, wanted)] if wanted else []

        if not await found():
            return []
        # Somebody may have pushed a tag that leads there past the gateway.
        await self._refresh([name])
        return await found()

    async def _left(self, name: RepositoryName, digest: Digest) -> Sequence[Digest]:
        """*digest* and what it leads to (its children, its referrers), as far as no tag does."""
        found: dict[Digest, None] = {}
        waiting = [digest]
        while waiting:
            one = waiting.pop()
            if one not in found and not await self._is_led_to(name, one):
                found[one] = None
                for query in (_MADE_OF, _REFERRING):
                    waiting += [Digest(row[0]) for row in await self._database.rows(query, path=name, digest=one)]
        return list(found)

    async def _is_led_to(self, name: RepositoryName, digest: Digest) -> bool:
        """Whether a tag leads to the manifest: it points at it, or leads to an index of it or to its subject."""
        waiting, seen = [digest], {digest}
        while waiting:
            found = waiting.pop()
            if await self._database.rows(_TAGS_OF, path=name, digest=found):
                return True
            above = [*await self._database.rows(_PARENTS, path=name, digest=found)]
            above += await self._database.rows(_SUBJECT, path=name, digest=found)
            parents = {Digest(row[0]) for row in above} - seen
            seen |= parents
            waiting += parents
        return False

    def _told(
        self, name: RepositoryName, by: By, *, digest: Digest | None, tag: Tag | None = None, tags: Sequence[str] = ()
    ) -> None:
        gone = [tag] if tag is not None else list(tags)
        self._log.info(
            logs.DELETED,
            repository=name,
            tags=gone,
            digest=digest,
            what="tag" if tag is not None else "manifest",
            how=by.how,
            subject=by.subject,
            client=by.address,
            request_id=by.request_id,
        )
        client = Client(by.address, by.request_id)
        self._tell(Event("delete", name, by.subject, client, tag=tag, digest=None if tag is not None else digest))

    # -- a whole repository -----------------------------------------------------------------------------

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

    async def _delete_repository(self, task: Task) -> None:
        """Delete what was there when it was ordered: parents before children, subjects before what refers to them."""
        if not await self._mark(task, "delete_ongoing"):
            return
        name = RepositoryName(task.subject)
        how, address, request = (str(task.payload[key]) for key in ("how", "address", "request_id"))
        by = By(task.by, how, address, request)
        store = await self._store(name)
        ordered = int(task.ordered_at.timestamp() * 1000)
        for digest in await self._doomed(name, ordered):
            pointing = [row[0] for row in await self._database.rows(_TAGS_OF, path=name, digest=digest)]
            if await store.delete_manifest(name, digest):
                self._told(name, by, digest=digest, tags=pointing)
        recorded = set((await self._listing.tag_names([name]))[name])
        # What a registry has that nobody recorded was there before; what is recorded still was pushed since.
        for tag in [tag async for tag in _listed(store, name)]:
            if tag not in recorded and await store.delete_manifest(name, tag):
                self._told(name, by, tag=tag, digest=None)
        await self._drop(task, ordered)

    async def _doomed(self, name: RepositoryName, ordered: int) -> Sequence[Digest]:
        """The manifests that go, in the order in which they may: all but those pushed since, and what these need."""
        rows = await self._database.rows(_GRAPH, path=name)
        children: dict[str, list[str]] = {}
        for parent, child in await self._database.rows(_CHILDREN, path=name):
            children.setdefault(parent, []).append(child)
        referring: dict[str, list[str]] = {}
        for digest, subject, _, _ in rows:
            if subject is not None:
                referring.setdefault(subject, []).append(digest)
        fresh = [digest for digest, _, pushed, tagged in rows if max(pushed, tagged or 0) > ordered]
        kept = set(_reached(fresh, children))
        going = {digest for digest, *_ in rows} - kept
        followers = {digest: [*children.get(digest, ()), *referring.get(digest, ())] for digest in going}
        return [Digest(digest) for digest in _in_order(going, followers)]

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


async def _pointed(store: ManifestStore, name: RepositoryName, tag: Tag) -> Digest | None:
    """What a tag points at; None where there is nothing, or nothing that a client of today could pull."""
    try:
        found = await store.manifest(name, tag, head=True)
    except RegistryError as error:
        if error.status != ErrorCode.MANIFEST_UNKNOWN.status:
            raise
        return None
    return found.digest if found else None


async def _delete_unless_moved(store: ManifestStore, name: RepositoryName, tag: Tag, expected: Digest) -> bool:
    """Delete a tag that points at *expected*: at once where the records are the truth, else right after a look."""
    if isinstance(store, MetadataStore):
        return await store.delete_manifest(name, tag, expected=expected)
    aliases = {expected}
    if isinstance(store, IndexedStore):
        # What was believed of the tag may be old; and the registry may know the manifest by another digest.
        store.index.forget(name, [tag])
        stored = await store.index.metadata.stored_as(name, expected)
        aliases |= {stored[0]} if stored else set()
    return await _pointed(store, name, tag) in aliases and await store.delete_manifest(name, tag)


async def _referrers(store: ManifestStore, name: RepositoryName, subject: Digest) -> list[Digest]:
    found: list[Digest] = []
    while True:
        page = await store.referrers(name, subject, None, found[-1] if found else "", _PAGE)
        found += [descriptor.digest for descriptor in page]
        if len(page) < _PAGE:
            return found


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
