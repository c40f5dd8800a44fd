"""Deleting images so that nothing else is harmed, over every backend.

A tag goes alone and its siblings stay. What an index is made of stays as long as the index. What refers to a subject
(signatures, bills of materials, attestations) goes with it and never before it: an artifact with a ``subject`` when the
subject's manifest goes, a tag such as ``sha256-….sig`` also when nothing tagged leads to the subject any more.

Where the records are the truth, all of that is one transaction, and no push gets between. Another registry deletes one
thing at a time: each is promised beforehand, and whoever finds the promise later goes on with what belonged to it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final, Protocol

from sqlalchemy import Text, bindparam, delete, select

from gateway.core import logs
from gateway.core.database import Database, Query, Rows, Writer
from gateway.core.dropping import Dropping
from gateway.core.index import IndexedStore
from gateway.core.maintenance import Maintenance
from gateway.core.manifests import read
from gateway.core.metadata import MetadataStore, among
from gateway.core.retention import COMPANIONS, stem
from gateway.core.schema import manifests, references, repositories, tags
from gateway.core.tasks import DatabaseTasks
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import Digest, Reference, RepositoryName, Tag
from gateway.plugins import DELETION_BEGUN, By, Client, Event, Manifest, ManifestStore, Task

KIND: Final = "delete what belongs"
"""The task that goes on with a deletion."""
_PAGE: Final = 1000
_AT_ONCE: Final = 500
"""What goes in one transaction, more or less; more than that is left to a task."""
_LATER: Final = 120.0
"""Seconds after which somebody looks whether a deletion in another registry came to its end."""
_WITH_IT: Final = ", with its subject"

_digest = bindparam("digest", type_=Text())
_own = select(repositories.c.id).where(repositories.c.path == bindparam("path", type_=Text())).scalar_subquery()
_of_name = manifests.c.repository_id == _own
# No manifest is put meanwhile: whoever puts one holds the row too.
_HELD: Final = select(repositories.c.id).where(repositories.c.path == bindparam("path")).with_for_update()
_POINTED: Final = Query(
    select(manifests.c.digest)
    .select_from(tags.join(manifests, manifests.c.id == tags.c.manifest_id))
    .where(tags.c.repository_id == _own, tags.c.name == bindparam("tag", type_=Text()))
)
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
_SUBJECT: Final = Query(
    select(manifests.c.subject).where(_of_name, manifests.c.digest == _digest, manifests.c.subject.is_not(None))
)
_MADE_OF: Final = Query(
    select(references.c.digest)
    .select_from(manifests.join(references, references.c.manifest_id == manifests.c.id))
    .where(_of_name, references.c.kind == "manifest", manifests.c.digest == _digest)
)
_REFERRING: Final = Query(select(manifests.c.digest).where(_of_name, manifests.c.subject == _digest))
_UNTAGGED: Final = delete(tags).where(tags.c.repository_id == _own, tags.c.name == bindparam("tag", type_=Text()))
_DELETED: Final = delete(manifests).where(_of_name, manifests.c.digest == _digest)


def companions(digest: str) -> list[Tag]:
    """The tags that clients give to what belongs to *digest*."""
    return [Tag(f"{stem(digest)}{ending}") for ending in COMPANIONS]


class Planned(Protocol):
    """What a plan says of a tag."""

    @property
    def digest(self) -> str:
        """What it pointed at."""
        ...


Within = Mapping[str, Planned]
"""The tags that may go, by name."""
Ask = Callable[..., Awaitable[Rows]]
"""Reads the rows of a Query, with its parameters by name."""


@dataclass(frozen=True, slots=True)
class _Expected:
    digest: str


@dataclass(frozen=True, slots=True)
class _Gone:
    """What went: *tag* of *digest*, or (None) the manifest *digest* with its *tags*, to which *referring* referred.

    *promise* is the number of the task that goes on with what belonged to it. *said*: that it went is said already.
    """

    digest: Digest | None
    tag: Tag | None = None
    tags: Sequence[str] = ()
    referring: Sequence[Digest] = ()
    promise: int | None = None
    said: bool = False

    @property
    def reference(self) -> Reference:
        """By what it was deleted."""
        found = self.digest if self.tag is None else self.tag
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class _Belonging:
    """The tag *name* belongs to *subject*."""

    name: Tag
    subject: Digest


class _Hands(Protocol):
    """What deletes one thing at a time in the repository *name*, and knows what is there."""

    @property
    def name(self) -> RepositoryName:
        """The repository."""
        ...

    async def ask(self, query: Query, **values: Any) -> Rows:
        """What is recorded."""
        ...

    async def untag(self, tag: Tag, expected: Digest | None) -> _Gone | None:
        """Delete a tag; with *expected* only while it points there. None: there is no such tag."""
        ...

    async def delete(self, digest: Digest) -> _Gone | None:
        """Delete a manifest with its tags. None: there is none. RegistryError 409 where an index is made of it."""
        ...

    async def refresh(self) -> bool:
        """Record what others changed past us; False where they can't, or where it was done."""
        ...


class Deletion:
    """Deletes, and says in the log what went, by whom, and how.

    *store* gives who knows the manifests of a repository, *refresh* records where its tags point now, where others may
    move them; *tell* tells the plugins.
    """

    def __init__(
        self,
        database: Database,
        metadata: MetadataStore,
        *,
        store: Callable[[RepositoryName], Awaitable[ManifestStore]],
        refresh: Callable[[RepositoryName], Awaitable[None]],
        tasks: DatabaseTasks,
        tell: Callable[[Event], None],
        maintenance: Maintenance,
        log: Any,
    ) -> None:
        self._database = database
        self._store = store
        self._refresh = refresh
        self._tasks = tasks
        self._tell = tell
        self._maintenance = maintenance
        self._log = log
        self._named = Query(
            select(tags.c.name, manifests.c.digest)
            .select_from(tags.join(manifests, manifests.c.id == tags.c.manifest_id))
            .where(tags.c.repository_id == _own, among(database.dialect, tags.c.name, "names"))
            .order_by(tags.c.name)
        )
        tasks.handle(KIND, self._go_on)
        whole = Dropping(database, metadata, store=store, tasks=tasks, told=self.told, maintenance=maintenance, log=log)
        self.order = whole.order

    async def remove(self, name: RepositoryName, reference: Reference, by: By) -> bool:
        """Delete a tag, or a manifest with all its tags, as the registry protocol has it; False: there is none."""
        if isinstance(reference, Digest):
            return await self.manifest(name, reference, by)
        return await self.tag(name, reference, by)

    async def tag(
        self, name: RepositoryName, tag: Tag, by: By, expected: Digest | None = None, *, within: Within | None = None
    ) -> bool:
        """Delete a tag alone; with *expected* only while that is what it points at. False: there is no such tag.

        *expected* is empty for a tag whose manifest another registry has lost. What belongs to an image goes with its
        last tag; with *within* only what is among these tags, and points where they say.
        Raises RegistryError: 503 while the registry is read-only, as everything here does.
        """
        await self._maintenance.require_writable()
        store = await self._store(name)
        if isinstance(store, IndexedStore):
            there = self._there(store, name, by, within)
            return await self._elsewhere(there, await there.untag(tag, expected))
        # Looked for before all others have to wait.
        ask = self._database.rows
        digest = expected or next((Digest(row[0]) for row in await ask(_POINTED, path=name, tag=tag)), None)
        known = {} if digest is None else {digest: await self._belonging(ask, name, digest)}
        return await self._in_records(name, lambda hands: hands.untag(tag, expected), by, within, known)

    async def manifest(self, name: RepositoryName, digest: Digest, by: By) -> bool:
        """Delete a manifest with its tags, and then what refers to it. False: there is none.

        Raises RegistryError 409 where an index of the repository is made of it, as GitLab's registry does.
        """
        await self._maintenance.require_writable()
        store = await self._store(name)
        if isinstance(store, IndexedStore):
            there = self._there(store, name, by, None)
            # What an index is made of that nobody recorded nobody knows.
            await there.refresh()
            return await self._elsewhere(there, await there.delete(digest))
        return await self._in_records(name, lambda hands: hands.delete(digest), by)

    # -- where the records are the truth ----------------------------------------------------------------

    async def _in_records(
        self,
        name: RepositoryName,
        first: Callable[[_Records], Awaitable[_Gone | None]],
        by: By,
        within: Within | None = None,
        known: Mapping[Digest, Sequence[_Belonging]] | None = None,
    ) -> bool:
        """Delete what *first* does and what belongs to it; *known* is what belonged to a tag's digest just now."""
        async with self._database.write() as writer:
            await writer.rows(_HELD, {"path": name})
            hands = _Records(writer, name)
            gone = await first(hands)
            found = [gone] if gone is not None else []
            await self._follow(hands, found, by, within, known or {})
        self._tasks.wake()
        for number, one in enumerate(found):
            self._say(name, one, _with_it(by) if number else by)
        return gone is not None

    async def _follow(
        self,
        hands: _Records,
        found: list[_Gone],
        by: By,
        within: Within | None,
        known: Mapping[Digest, Sequence[_Belonging]],
    ) -> None:
        """Delete what belonged to what was *found* to be gone, and add it there; too much of it becomes a task."""
        most = len(found) + _AT_ONCE
        for number, gone in enumerate(found):
            if len(found) > most:
                payload = _payload(found[number:], by, within)
                await self._tasks.add_within(hands.writer, KIND, hands.name, payload, by.subject)
                return
            found += await self._next(hands, gone, within, known.get(gone.digest) if gone.digest else None)

    # -- in another registry ----------------------------------------------------------------------------

    def _there(self, store: IndexedStore, name: RepositoryName, by: By, within: Within | None) -> _There:
        return _There(self._database, self._tasks, self._refresh, self._belonging, store, name, by, within)

    async def _elsewhere(self, hands: _There, gone: _Gone | None) -> bool:
        """Go on with what belonged to *gone*. What fails of that is promised, and no failure of who asked."""
        if gone is None:
            return False
        self._say(hands.name, gone, hands.by)
        hands.by = _with_it(hands.by)
        found = [gone]
        for one in found:
            try:
                following = await self._next(hands, one, hands.within)
            except RegistryError as error:
                why = error.why or error.message
                self._log.warning("what belongs to something deleted goes later", repository=hands.name, why=why)
                break
            for other in following:
                self._say(hands.name, other, hands.by)
            found += following
            await hands.followed(one)
        return True

    async def _go_on(self, task: Task) -> None:
        """Go on with a deletion that somebody began, if anything went."""
        name, payload = RepositoryName(task.subject), task.payload
        by = _with_it(By(task.by, *(str(payload[key]) for key in ("how", "address", "request_id"))))
        planned = payload["within"]
        within = None if planned is None else {tag: _Expected(digest) for tag, digest in planned.items()}
        begun = [_read(item) for item in payload["gone"]]
        store = await self._store(name)
        if isinstance(store, IndexedStore):
            hands = self._there(store, name, by, within)
            for one in begun:
                if await hands.completed(one):
                    self._say(name, replace(one, said=False), by)
                for other in await self._next(hands, one, within) if await hands.is_gone(one) else ():
                    await self._elsewhere(hands, other)
            return
        found = list(begun)
        async with self._database.write() as writer:
            await writer.rows(_HELD, {"path": name})
            await self._follow(_Records(writer, name), found, by, within, {})
        self._tasks.wake()
        for one in found[len(begun) :]:
            self._say(name, one, by)

    # -- what belongs to what ---------------------------------------------------------------------------

    async def _next(
        self, hands: _Hands, gone: _Gone, within: Within | None, belonging: Sequence[_Belonging] | None = None
    ) -> list[_Gone]:
        """Delete what belonged to *gone* itself; *belonging* is what belonged to a tag's digest, if that is known."""
        if not gone.digest:
            return []
        if gone.tag is None:
            return await self._referring(hands, gone.digest, gone.referring)
        if belonging is None:
            belonging = await self._belonging(hands.ask, hands.name, gone.digest)
        left = await _left(hands, belonging, within)
        if left and await hands.refresh():
            # Somebody may have pushed a tag that leads there past the gateway.
            left = await _left(hands, await self._belonging(hands.ask, hands.name, gone.digest), within)
        found = [
            await hands.untag(one.name, None if within is None else Digest(within[one.name].digest)) for one in left
        ]
        return [one for one in found if one is not None]

    async def _referring(self, hands: _Hands, subject: Digest, referring: Sequence[Digest]) -> list[_Gone]:
        found: list[_Gone | None] = []
        for tag, digest in await hands.ask(self._named, path=hands.name, names=json.dumps(companions(subject))):
            others = {row[0] for row in await hands.ask(_TAGS_OF, path=hands.name, digest=digest)}
            alone = others == {tag} and not await hands.ask(_PARENTS, path=hands.name, digest=digest)
            found.append(await (_unless_part(hands, Digest(digest)) if alone else hands.untag(Tag(tag), None)))
        found += [await _unless_part(hands, digest) for digest in referring[:_AT_ONCE]]
        if len(referring) > _AT_ONCE:
            found.append(_Gone(subject, referring=referring[_AT_ONCE:], said=True))
        return [one for one in found if one is not None]

    async def _belonging(self, ask: Ask, name: RepositoryName, digest: Digest) -> list[_Belonging]:
        """The tags of what belongs to *digest*, or to what it leads to: its children, its referrers, and theirs."""
        reached, seen = [digest], {digest}
        for one in reached:
            for query in (_MADE_OF, _REFERRING):
                fresh = {Digest(row[0]) for row in await ask(query, path=name, digest=one)} - seen
                reached += sorted(fresh)
                seen |= fresh
        subjects = {tag: one for one in reached for tag in companions(one)}
        rows = await ask(self._named, path=name, names=json.dumps(list(subjects)))
        return [_Belonging(Tag(tag), subjects[Tag(tag)]) for tag, _ in rows]

    # -- what is said -----------------------------------------------------------------------------------

    def _say(self, name: RepositoryName, gone: _Gone, by: By) -> None:
        if not gone.said:
            self.told(name, by, digest=gone.digest, tag=gone.tag, tags=gone.tags)

    def told(
        self, name: RepositoryName, by: By, *, digest: Digest | None, tag: Tag | None = None, tags: Sequence[str] = ()
    ) -> None:
        """Say in the log, and to the plugins, that *tag* or the manifest *digest* with its *tags* was deleted."""
        self._log.info(
            logs.DELETED,
            repository=name,
            tags=[tag] if tag is not None else list(tags),
            digest=digest,
            what="tag" if tag is not None else "manifest",
            how=by.how,
            subject=by.subject,
            client=by.address,
            request_id=by.request_id,
        )
        client = Client(by.address, by.request_id)
        self._tell(Event("delete", name, by.subject, client, tag=tag, digest=None if tag is not None else digest))


@dataclass(frozen=True, slots=True)
class _Records:
    """The records, in the transaction of *writer*, which holds the repository."""

    writer: Writer
    name: RepositoryName

    async def ask(self, query: Query, **values: Any) -> Rows:
        """What is recorded."""
        return await self.writer.rows(query.statement, values)

    async def untag(self, tag: Tag, expected: Digest | None) -> _Gone | None:
        """Delete a tag that points where it should."""
        rows = await self.ask(_POINTED, path=self.name, tag=tag)
        if not rows or expected not in {None, rows[0][0]}:
            return None
        await self.writer.run(_UNTAGGED, {"path": self.name, "tag": tag})
        return _Gone(Digest(rows[0][0]), tag)

    async def delete(self, digest: Digest) -> _Gone | None:
        """Delete a manifest with its tags."""
        await _refuse_part(self, digest)
        pointing = [row[0] for row in await self.ask(_TAGS_OF, path=self.name, digest=digest)]
        if not await self.writer.run(_DELETED, {"path": self.name, "digest": digest}):
            return None
        referring = [Digest(row[0]) for row in await self.ask(_REFERRING, path=self.name, digest=digest)]
        return _Gone(digest, tags=pointing, referring=referring)

    async def refresh(self) -> bool:
        """Nobody changes these past us."""
        return False


@dataclass(slots=True)
class _There:
    """Another registry, with what is recorded of it. Each deletion is promised before it is asked for."""

    database: Database
    tasks: DatabaseTasks
    record: Callable[[RepositoryName], Awaitable[None]]
    belonging: Callable[[Ask, RepositoryName, Digest], Awaitable[Sequence[_Belonging]]]
    store: IndexedStore
    name: RepositoryName
    by: By
    within: Within | None
    fresh: bool = False

    async def ask(self, query: Query, **values: Any) -> Rows:
        """What is recorded."""
        return await self.database.rows(query, **values)

    async def refresh(self) -> bool:
        """Record what others changed there, once."""
        if self.fresh:
            return False
        await self.record(self.name)
        self.fresh = True
        return True

    async def untag(self, tag: Tag, expected: Digest | None) -> _Gone | None:
        """Delete a tag, right after a look where it points."""
        digest = await _pointed(self.store, self.name, tag) if expected is None else expected
        async with self._promised(_Gone(digest, tag)) as gone:
            moved = expected is not None and not await self._points_at(tag, expected)
            done = not moved and await self.store.delete_manifest(self.name, tag)
        if done:
            return gone
        await self.followed(gone)
        return None

    async def delete(self, digest: Digest) -> _Gone | None:
        """Delete a manifest with its tags."""
        await _refuse_part(self, digest)
        pointing = [row[0] for row in await self.ask(_TAGS_OF, path=self.name, digest=digest)]
        # Asked before it goes: afterwards nobody may know.
        referring = await _referrers(self.store, self.name, digest)
        async with self._promised(_Gone(digest, tags=pointing, referring=referring)) as gone:
            done = await self.store.delete_manifest(self.name, digest)
        if done:
            return gone
        await self.followed(gone)
        return None

    async def followed(self, gone: _Gone) -> None:
        """Nothing more is to be done about *gone*: all that belonged to it is gone, or promised itself."""
        if gone.promise is not None:
            await self.tasks.tick_off(gone.promise)

    async def is_gone(self, gone: _Gone) -> bool:
        """Whether what was to be deleted is gone. For a tag always: where tags lead says what goes with it."""
        index, reference = self.store.index, gone.reference
        stored = await index.metadata.stored_as(self.name, reference) if isinstance(reference, Digest) else None
        if stored is not None and stored[1]:
            return False
        if await _pulled(index.upstream.manifest(self.name, reference if stored is None else stored[0])) is not None:
            # What is recorded of it may be older than what was begun.
            self.store.doubt(self.name, reference)
            return gone.tag is not None
        index.forget(self.name, [reference])
        await index.metadata.forget_unless(self.name, {reference: None})
        return True

    async def completed(self, gone: _Gone) -> bool:
        """Complete the deletion of a tag that a registry which deletes by digest alone has half done, if it is one."""
        if gone.tag is None:
            return False
        found = await _pulled(self.store.index.upstream.manifest(self.name, gone.tag))
        if found is None or found.content is None:
            return False
        _, details = read(found.content, found.media_type)
        return dict(details.annotations) == dict(DELETION_BEGUN) and await self.store.delete_manifest(
            self.name, gone.tag
        )

    @asynccontextmanager
    async def _promised(self, gone: _Gone) -> AsyncIterator[_Gone]:
        """Ask for a deletion under a promise to go on with it, which a refusal takes back."""
        within = self.within
        if within is not None and gone.digest:
            belonging = await self.belonging(self.ask, self.name, gone.digest)
            within = {one.name: within[one.name] for one in belonging if one.name in within}
        payload = _payload([gone], self.by, within)
        number = await self.tasks.add(KIND, self.name, payload, self.by.subject, after=_LATER)
        try:
            yield replace(gone, promise=number)
        except BaseException as error:
            if isinstance(error, RegistryError) and error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                await self.tasks.tick_off(number)
            else:
                # It may have been done all the same.
                self.store.doubt(self.name, gone.reference)
            raise

    async def _points_at(self, tag: Tag, expected: Digest) -> bool:
        # What was believed of the tag may be old; and the registry may know the manifest by another digest.
        self.store.index.forget(self.name, [tag])
        if not expected:
            return await _pointed(self.store, self.name, tag) is None
        stored = await self.store.index.metadata.stored_as(self.name, expected)
        return await _pointed(self.store, self.name, tag) in {expected, expected if stored is None else stored[0]}


async def _left(hands: _Hands, belonging: Sequence[_Belonging], within: Within | None) -> list[_Belonging]:
    """Those of *belonging* whose subject no tag leads to."""
    led = {subject: await _is_led_to(hands, subject) for subject in dict.fromkeys(one.subject for one in belonging)}
    return [one for one in belonging if not led[one.subject] and (within is None or one.name in within)]


async def _is_led_to(hands: _Hands, digest: Digest) -> bool:
    """Whether a tag leads to the manifest: it points at it, or leads to an index of it or to its subject."""
    waiting, seen = [digest], {digest}
    while waiting:
        found = waiting.pop()
        if await hands.ask(_TAGS_OF, path=hands.name, digest=found):
            return True
        above = [*await hands.ask(_PARENTS, path=hands.name, digest=found)]
        above += await hands.ask(_SUBJECT, path=hands.name, digest=found)
        parents = {Digest(row[0]) for row in above} - seen
        seen |= parents
        waiting += parents
    return False


async def _refuse_part(hands: _Hands, digest: Digest) -> None:
    parents = await hands.ask(_PARENTS, path=hands.name, digest=digest)
    if parents:
        message = f"the index {parents[0][0]} is made of it: delete that first"
        raise RegistryError(ErrorCode.MANIFEST_REFERENCED_IN_LIST, message)


async def _unless_part(hands: _Hands, digest: Digest) -> _Gone | None:
    """Delete a manifest, unless an index is made of it."""
    try:
        return await hands.delete(digest)
    except RegistryError as error:
        if error.code is not ErrorCode.MANIFEST_REFERENCED_IN_LIST:
            raise
        return None


async def _pointed(store: ManifestStore, name: RepositoryName, tag: Tag) -> Digest | None:
    """What a tag points at; None where there is nothing, or nothing that a client of today could pull."""
    found = await _pulled(store.manifest(name, tag, head=True))
    return found.digest if found else None


async def _pulled(asked: Awaitable[Manifest | None]) -> Manifest | None:
    try:
        return await asked
    except RegistryError as error:
        if error.status != ErrorCode.MANIFEST_UNKNOWN.status:
            raise
        return None


async def _referrers(store: ManifestStore, name: RepositoryName, subject: Digest) -> list[Digest]:
    found: list[Digest] = []
    while True:
        page = await store.referrers(name, subject, None, found[-1] if found else "", _PAGE)
        found += [descriptor.digest for descriptor in page]
        if len(page) < _PAGE:
            return found


def _with_it(by: By) -> By:
    return by if by.how.endswith(_WITH_IT) else replace(by, how=f"{by.how}{_WITH_IT}")


def _payload(gone: Sequence[_Gone], by: By, within: Within | None) -> dict[str, Any]:
    return {
        "gone": [{"digest": one.digest, "tag": one.tag, "referring": list(one.referring)} for one in gone],
        "within": None if within is None else {tag: planned.digest for tag, planned in within.items()},
        "how": by.how,
        "address": by.address,
        "request_id": by.request_id,
    }


def _read(item: Mapping[str, Any]) -> _Gone:
    digest, tag = item["digest"], item["tag"]
    referring = [Digest(one) for one in item["referring"]]
    return _Gone(Digest(digest) if digest else None, Tag(tag) if tag else None, referring=referring, said=True)
