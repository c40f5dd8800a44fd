"""What exists: repositories, the blobs they link, manifests and tags. The truth for backends that only hold bytes.

Every read is one indexed query that sees all earlier commits of every process, so no worker serves a stale tag; every
write is one transaction. A manifest's bytes lie in its row: bounded at 4 MiB, they become visible with its links and
tags in the same commit, and need no file of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from cachetools import LRUCache
from sqlalchemy import (
    JSON,
    BigInteger,
    Delete,
    Select,
    Table,
    Text,
    Update,
    bindparam,
    cast,
    column,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import TableValuedAlias

from gateway.core.database import Database, Query, Writer
from gateway.core.manifests import EMPTY_CONFIG, platforms
from gateway.core.schema import blobs, documents, manifests, references, repositories, tags
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import Descriptor, Digest, ManifestDetails, Reference, RepositoryName, Tag
from gateway.plugins import Identity, Manifest, MissingContentError, TagPage, TagQuery

T = TypeVar("T")

_AT_ONCE: Final = 500
"""Digests in one question; engines bound the parameters of a statement."""
_ALL: Final = 2**31 - 1
_MOST_BYTES: Final = 2**63 - 1

_path = bindparam("path", type_=Text())
_digest = bindparam("digest", type_=Text())
_last = bindparam("last", type_=Text())
_limit = bindparam("limit", type_=BigInteger())

_in_repository = repositories.c.path == _path

_REPOSITORY: Final = Query(select(repositories.c.id).where(_in_repository))
# No garbage of the repository is swept until the transaction ends; others may write to it.
_HELD_REPOSITORY: Final = _REPOSITORY.statement.with_for_update(read=True, key_share=True)
_VERSION: Final = Query(select(repositories.c.version).where(_in_repository))
_BY_TAG: Final = Query(
    select(manifests.c.digest, manifests.c.media_type, manifests.c.size, manifests.c.id)
    .select_from(repositories.join(tags, tags.c.repository_id == repositories.c.id).join(manifests))
    .where(_in_repository, tags.c.name == bindparam("tag"))
)
_BY_DIGEST: Final = Query(
    select(manifests.c.digest, manifests.c.media_type, manifests.c.size, manifests.c.id)
    .select_from(repositories.join(manifests, manifests.c.repository_id == repositories.c.id))
    .where(_in_repository, manifests.c.digest == _digest)
)
# Asked with the digest too: SQLite gives the number of a deleted row to the next one.
_CONTENT: Final = Query(
    select(manifests.c.content).where(
        manifests.c.id == bindparam("id", type_=BigInteger()), manifests.c.digest == _digest
    )
)
_LINK: Final = Query(
    select(blobs.c.size, blobs.c.upload)
    .select_from(repositories.join(blobs))
    .where(_in_repository, blobs.c.digest == _digest)
)
_REFERRED: Final = Query(
    select(references.c.size)
    .select_from(
        repositories.join(manifests, manifests.c.repository_id == repositories.c.id).join(
            references, references.c.manifest_id == manifests.c.id
        )
    )
    .where(_in_repository, references.c.digest == _digest, references.c.kind != "manifest")
    .limit(1)
)
_STORED_AS: Final = Query(
    select(manifests.c.stored_as, manifests.c.held)
    .select_from(repositories.join(manifests, manifests.c.repository_id == repositories.c.id))
    .where(_in_repository, manifests.c.digest == _digest)
)
_MANIFESTS: Final = Query(
    select(manifests.c.digest)
    .select_from(repositories.join(manifests, manifests.c.repository_id == repositories.c.id))
    .where(_in_repository)
)
# By what digest an upstream has a manifest.
_there: Final = func.coalesce(manifests.c.stored_as, manifests.c.digest)
_SAID_OF_TAG: Final = Query(
    select(_there, manifests.c.held)
    .select_from(repositories.join(tags, tags.c.repository_id == repositories.c.id).join(manifests))
    .where(_in_repository, tags.c.name == bindparam("tag"))
)
_KNOWN_AS: Final = Query(
    select(manifests.c.digest)
    .select_from(repositories.join(manifests, manifests.c.repository_id == repositories.c.id))
    .where(_in_repository, or_(manifests.c.digest == _digest, manifests.c.stored_as == _digest), ~manifests.c.held)
)
_ALIASES: Final = Query(
    select(manifests.c.digest)
    .select_from(repositories.join(manifests, manifests.c.repository_id == repositories.c.id))
    .where(_in_repository, manifests.c.stored_as == _digest)
)
_POINTING: Final = Query(
    select(tags.c.name, _there, manifests.c.held)
    .select_from(repositories.join(tags, tags.c.repository_id == repositories.c.id).join(manifests))
    .where(_in_repository)
)
_CRAWLED: Final = Query(select(repositories.c.crawled_at).where(_in_repository))
_HELD_TAGS: Final = Query(
    select(tags.c.name)
    .select_from(repositories.join(tags, tags.c.repository_id == repositories.c.id).join(manifests))
    .where(_in_repository, manifests.c.held)
)
_LINKS: Final = Query(
    select(repositories.c.path).select_from(repositories.join(blobs)).where(blobs.c.digest == _digest)
)
_TAGS: Final = Query(
    select(tags.c.name)
    .select_from(repositories.join(tags, tags.c.repository_id == repositories.c.id))
    .where(_in_repository, tags.c.name > _last)
    .order_by(tags.c.name)
    .limit(_limit)
)
_REFERRERS: Final = (
    select(
        manifests.c.media_type,
        manifests.c.digest,
        manifests.c.size,
        manifests.c.artifact_type,
        manifests.c.annotations,
    )
    .select_from(repositories.join(manifests))
    .where(_in_repository, manifests.c.subject == bindparam("subject"), manifests.c.digest > _last)
    .order_by(manifests.c.digest)
    .limit(_limit)
)
_ALL_REFERRERS: Final = Query(_REFERRERS)
_TYPED_REFERRERS: Final = Query(_REFERRERS.where(manifests.c.artifact_type == bindparam("artifact_type")))
_CATALOG: Final = (
    select(repositories.c.path)
    .where(repositories.c.path > _last, exists().where(manifests.c.repository_id == repositories.c.id))
    .order_by(repositories.c.path)
    .limit(_limit)
)


def among(dialect: str, member: ColumnElement[Any], parameter: str = "projects") -> ColumnElement[bool]:
    """Whether *member* is in the JSON list *parameter*: one value, however long the list."""
    return member.in_(select(_listed(dialect, parameter).c.value))


def _listed(dialect: str, parameter: str) -> TableValuedAlias:
    """The JSON list *parameter* as a table of one column, ``value``."""
    listed, value = bindparam(parameter, type_=Text()), column("value", Text)
    if dialect == "sqlite":
        return func.json_each(listed).table_valued(value)
    return func.json_array_elements_text(cast(listed, JSON)).table_valued(value).render_derived()


def _unowned(dialect: str) -> Select[Any]:
    """The repositories of nobody that lie at or below one of some projects, each with the project."""
    project, path = _listed(dialect, "projects"), repositories.c.path
    # A slash is followed by a zero.
    below = (path > project.c.value + literal("/")) & (path < project.c.value + literal("0"))
    return (
        select(path, project.c.value)
        .select_from(repositories.join(project, (path == project.c.value) | below))
        .where(repositories.c.project == "")
    )


def catalog(dialect: str) -> Select[tuple[str]]:
    """The statement for a page of the repositories of some projects: each is looked up by its project."""
    return _CATALOG.where(among(dialect, repositories.c.project))


@dataclass(frozen=True, slots=True)
class Seen:
    """How a manifest came to be recorded: *pushed* by somebody, or only seen in an upstream.

    *version* is that of the repository before the upstream was asked: what was changed since is not overwritten.
    *stored_as* is the digest by which the upstream has it; *held*: it refused it, and only we have it.
    """

    by: str = ""
    pushed: bool = False
    version: int | None = None
    stored_as: Digest | None = None
    held: bool = False


class MetadataStore:
    """The tables, and in front of them the manifests whose bytes were read lately.

    *cached_bytes* bounds that memory. A cached manifest is served only after the row that links it was read.
    """

    def __init__(
        self, database: Database, *, cached_bytes: int = 64 * 1024 * 1024, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._clock = clock
        self._contents: LRUCache[str, bytes] = LRUCache(cached_bytes, getsizeof=len)
        self._insert: Callable[[Table], Any] = sqlite.insert if database.dialect == "sqlite" else postgresql.insert
        self._all_repositories = Query(_CATALOG)
        self._some_repositories = Query(catalog(database.dialect))
        self._unowned = Query(_unowned(database.dialect))

    def _now(self) -> int:
        return int(self._clock() * 1000)

    # -- reading --------------------------------------------------------------------------------------

    async def known(self, name: RepositoryName) -> bool:
        """Whether there is a record of the repository."""
        return bool(await self._database.rows(_REPOSITORY, path=name))

    async def manifest(self, name: RepositoryName, reference: Reference, *, head: bool = False) -> Manifest | None:
        """The manifest that *reference* stands for now, or None."""
        if isinstance(reference, Digest):
            rows = await self._database.rows(_BY_DIGEST, path=name, digest=reference)
        else:
            rows = await self._database.rows(_BY_TAG, path=name, tag=reference)
        if not rows:
            return None
        digest, media_type, size, key = rows[0]
        content = self._contents.get(digest)
        if content is None and not head:
            found = await self._database.rows(_CONTENT, id=key, digest=digest)
            if not found:
                return None
            content = bytes(found[0][0])
            if size <= self._contents.maxsize:
                self._contents[digest] = content
        return Manifest(Digest(digest), media_type, size, content)

    async def linked(self, name: RepositoryName, digest: Digest) -> int | None:
        """The size of a blob that the repository links, or None."""
        rows = await self._database.rows(_LINK, path=name, digest=digest)
        return rows[0][0] if rows else None

    async def referred(self, name: RepositoryName, digest: Digest) -> int | None:
        """The size of a blob that a manifest of the repository names, or None."""
        rows = await self._database.rows(_REFERRED, path=name, digest=digest)
        return rows[0][0] if rows else None

    async def stored_as(self, name: RepositoryName, digest: Digest) -> tuple[Digest, bool] | None:
        """How the upstream calls a manifest, and whether it is held here alone; None where there is no record."""
        rows = await self._database.rows(_STORED_AS, path=name, digest=digest)
        return (Digest(rows[0][0] or digest), bool(rows[0][1])) if rows else None

    async def said(self, name: RepositoryName, reference: Reference) -> Digest | None:
        """By what digest the upstream has what *reference* stands for, if the record is right; None: it has nothing."""
        if isinstance(reference, Digest):
            return reference if await self.known_as(name, reference) else None
        rows = await self._database.rows(_SAID_OF_TAG, path=name, tag=reference)
        return Digest(rows[0][0]) if rows and not rows[0][1] else None

    async def known_as(self, name: RepositoryName, digest: Digest) -> Digest | None:
        """By what digest a manifest is recorded that the upstream calls *digest*; None where it is not."""
        found = {row[0] for row in await self._database.rows(_KNOWN_AS, path=name, digest=digest)}
        return Digest(digest if digest in found else min(found)) if found else None

    async def has_alias(self, name: RepositoryName, digest: Digest) -> bool:
        """Whether what an upstream has under *digest* was pushed here by another digest."""
        return bool(await self._database.rows(_ALIASES, path=name, digest=digest))

    async def pointing(self, name: RepositoryName) -> Mapping[Tag, tuple[Digest, bool]]:
        """Every recorded tag: by what digest an upstream has its manifest, and whether it is held here alone."""
        rows = await self._database.rows(_POINTING, path=name)
        return {Tag(tag): (Digest(digest), bool(held)) for tag, digest, held in rows}

    async def complete(self, name: RepositoryName) -> bool:
        """Whether all of the repository was recorded once, as an upstream had it."""
        rows = await self._database.rows(_CRAWLED, path=name)
        return bool(rows) and rows[0][0] is not None

    async def held_tags(self, name: RepositoryName) -> Sequence[Tag]:
        """The tags that point at manifests which the upstream refused."""
        return [Tag(row[0]) for row in await self._database.rows(_HELD_TAGS, path=name)]

    async def digests(self, name: RepositoryName) -> Sequence[Digest]:
        """Every manifest that is recorded of the repository, by its own digest."""
        return [Digest(row[0]) for row in await self._database.rows(_MANIFESTS, path=name)]

    async def version(self, name: RepositoryName) -> int:
        """Counts the changes made through us; -1 where there is no record."""
        rows = await self._database.rows(_VERSION, path=name)
        return rows[0][0] if rows else -1

    async def linked_by(self, name: RepositoryName, digest: Digest, upload: str) -> bool:
        """Whether the upload *upload* made the repository's link to the blob."""
        rows = await self._database.rows(_LINK, path=name, digest=digest)
        return bool(rows) and rows[0][1] == upload

    async def linking(self, digest: Digest) -> Sequence[str]:
        """The repositories that link a blob."""
        return [row[0] for row in await self._database.rows(_LINKS, digest=digest)]

    async def tags(self, name: RepositoryName, query: TagQuery) -> TagPage | None:
        """A page of tags, or None where the repository is not known."""
        limit = _ALL if query.limit is None else query.limit + 1
        rows = await self._database.rows(_TAGS, path=name, last=query.last, limit=limit)
        if not rows and not await self.known(name):
            return None
        found = tuple(Tag(row[0]) for row in rows)
        return TagPage(found, more=False) if len(found) < limit else TagPage(found[:-1], more=True)

    async def referrers(
        self, name: RepositoryName, subject: Digest, artifact_type: str | None, last: str, limit: int
    ) -> Sequence[Descriptor]:
        """Manifests whose subject is *subject*, by digest."""
        wanted = {"path": name, "subject": subject, "last": last, "limit": limit}
        if artifact_type is None:
            rows = await self._database.rows(_ALL_REFERRERS, **wanted)
        else:
            rows = await self._database.rows(_TYPED_REFERRERS, **wanted, artifact_type=artifact_type)
        return [
            Descriptor(media_type, Digest(digest), size, type_, json.loads(annotations) if annotations else None)
            for media_type, digest, size, type_, annotations in rows
        ]

    async def repositories(self, projects: frozenset[str] | None, last: str, limit: int) -> Sequence[str]:
        """Repositories that hold a manifest, in order; of *projects* if given."""
        if projects is None:
            rows = await self._database.rows(self._all_repositories, last=last, limit=limit)
        else:
            listed = json.dumps(sorted(projects))
            rows = await self._database.rows(self._some_repositories, last=last, limit=limit, projects=listed)
        return [row[0] for row in rows]

    # -- writing --------------------------------------------------------------------------------------

    async def adopt(self, projects: Iterable[str]) -> None:
        """Record as a project's own what lies at or below it and is recorded as nobody's.

        *projects* are known to exist: then nothing else lies there (semantics 5.1). GitLab before 16 does not say which
        project an image belongs to, nor does any for what was found in a registry and never asked for.
        """
        listed = json.dumps(sorted({project.lower() for project in projects}))
        found = await self._database.rows(self._unowned, projects=listed)
        if found:
            async with self._database.write() as writer:
                for path, project in found:
                    own = (repositories.c.path == path, repositories.c.project == "")
                    await writer.run(update(repositories).where(*own).values(project=project))

    async def record(self, projects: Mapping[RepositoryName, str]) -> None:
        """Make sure that each repository has a record, as GitLab has from push authorisation on (semantics 3.3.8).

        *projects* has the lower-case path of the project that each belongs to.
        """
        fresh = {name: project for name, project in projects.items() if not await self.known(name)}
        if fresh:
            async with self._database.write() as writer:
                for name, project in fresh.items():
                    await self._repository(writer, name, project)

    async def link(
        self,
        name: RepositoryName,
        project: str,
        digest: Digest,
        size: int,
        upload: str | None,
        *,
        durable: bool = True,
    ) -> None:
        """The repository has the blob from now on. Not *durable*: another registry has it, and knows that itself."""
        async with self._database.write(durable=durable) as writer:
            await self._link(writer, await self._repository(writer, name, project), digest, size, upload)

    async def mount(self, source: RepositoryName, target: RepositoryName, project: str, digest: Digest) -> bool:
        """Link the blob of *source* in *target* too; False where *source* doesn't link it."""
        async with self._database.write() as writer:
            found = await writer.rows(_LINK.statement, {"path": source, "digest": digest})
            if found:
                key = await self._repository(writer, target, project)
                await self._link(writer, key, digest, found[0][0], None)
        return bool(found)

    async def drop(self, writer: Writer, key: int, *only: ColumnElement[bool]) -> bool:
        """Drop the record of a repository with all that hangs on it, if *only* holds; its number is never another's."""
        if not await writer.run(delete(repositories).where(repositories.c.id == key, *only)):
            return False
        if self._database.dialect == "sqlite":
            record = self._insert(documents).values(
                **_LAST, value=str(key), version=1, changed_at=self._now(), changed_by=""
            )
            older = cast(documents.c.value, BigInteger) < key
            again = {"value": record.excluded.value, "changed_at": record.excluded.changed_at}
            await writer.run(record.on_conflict_do_update(index_elements=list(_LAST), set_=again, where=older))
        return True

    async def unlink(self, name: RepositoryName, digest: Digest) -> bool:
        """The repository no longer has the blob; False where it had none."""
        of_name = select(repositories.c.id).where(repositories.c.path == name).scalar_subquery()
        async with self._database.write() as writer:
            gone = delete(blobs).where(blobs.c.repository_id == of_name, blobs.c.digest == digest)
            return await writer.run(gone) > 0

    async def put_manifest(
        self, name: RepositoryName, references: Sequence[Reference], manifest: Manifest, by: Identity
    ) -> None:
        """Store a manifest and point tags at it, in one transaction. The repository has a record by then."""
        assert manifest.details is not None
        async with self._database.write() as writer:
            held = await writer.rows(_HELD_REPOSITORY, {"path": name})
            if not held:
                gone = "the repository was deleted just now; push again"
                raise RegistryError(ErrorCode.UNAVAILABLE, gone, headers={"Retry-After": "1"})
            key = held[0][0]
            missing = await self._missing(writer, key, manifest.details.required)
            if missing:
                raise MissingContentError(sorted(missing))
            row = await self._store(writer, key, manifest, Seen(by.subject, pushed=True))
            pointed = {reference: row for reference in references if isinstance(reference, Tag)}
            await self._point(writer, key, pointed, Seen(by.subject, pushed=True))

    async def note(
        self, name: RepositoryName, project: str, references: Sequence[Reference], manifest: Manifest, seen: Seen
    ) -> bool:
        """Record a manifest that an upstream has, whatever it refers to, and the tags that point at it there.

        False where the repository was changed through us since *seen* was read: what was seen may be old.
        """
        same = [] if seen.version is None else [repositories.c.version == max(seen.version, 0)]
        async with self._database.write(durable=seen.pushed) as writer:
            key = await self._repository(writer, name, project)
            current = update(repositories).where(repositories.c.id == key, *same)
            if not await writer.run(current.values(version=repositories.c.version + int(seen.pushed))):
                return False
            row = await self._store(writer, key, manifest, seen)
            pointed = {reference: row for reference in references if isinstance(reference, Tag)}
            for tag in [] if seen.pushed else list(pointed):
                # Who pushed it stays known; also where it was pushed by a digest that the upstream has not.
                if await writer.rows(_SAID_OF_TAG.statement, {"path": name, "tag": tag}) == [(manifest.digest, False)]:
                    del pointed[tag]
            await self._point(writer, key, pointed, seen)
        return True

    async def reconcile(
        self,
        name: RepositoryName,
        project: str,
        there: Mapping[Tag, Digest],
        lost: Sequence[Digest],
        version: int,
    ) -> bool:
        """Make the recorded tags those of the upstream, whose manifests are recorded already, and drop those *lost*.

        False as in ``note``, and then nothing is changed. What is held here alone stays.
        """
        async with self._database.write() as writer:
            key = await self._repository(writer, name, project)
            same = update(repositories).where(repositories.c.id == key, repositories.c.version == max(version, 0))
            seen = {"crawled_at": self._now()} | ({"project": project} if project else {})
            if not await writer.run(same.values(seen)):
                return False
            of_key = select(manifests.c.id, manifests.c.digest, _there).where(manifests.c.repository_id == key)
            rows = await writer.rows(of_key)
            ours = {called: number for number, _, called in rows} | {digest: number for number, digest, _ in rows}
            pointing = select(tags.c.name, _there, manifests.c.held).select_from(tags.join(manifests))
            recorded = {
                tag: (digest, held)
                for tag, digest, held in await writer.rows(pointing.where(tags.c.repository_id == key))
            }
            moved = {
                tag: ours[digest]
                for tag, digest in there.items()
                if digest in ours and recorded.get(tag) != (digest, False)
            }
            gone = [tag for tag, (_, held) in recorded.items() if not held and tag not in there]
            if moved or gone or lost:
                # What somebody read before and has yet to record is as old as what was recorded.
                bumped = update(repositories).where(repositories.c.id == key)
                await writer.run(bumped.values(version=repositories.c.version + 1))
            await self._point(writer, key, moved, Seen())
            for part in _parts(gone):
                await writer.run(delete(tags).where(tags.c.repository_id == key, tags.c.name.in_(part)))
            for part in _parts(lost):
                await writer.run(
                    delete(manifests).where(manifests.c.repository_id == key, manifests.c.digest.in_(part))
                )
        return True

    async def forget(self, name: RepositoryName, references: Iterable[Reference]) -> None:
        """Drop the records of tags and manifests, so that the upstream is asked; what was read before is old."""
        async with self._database.write() as writer:
            await writer.run(_bumped(name))
            for item in references:
                await writer.run(_dropped(name, item))

    async def forget_unless(
        self, name: RepositoryName, there: Mapping[Reference, Digest | None], version: int | None = None
    ) -> bool:
        """Drop the records that say otherwise than *there*, by the upstream's digests; None: it has nothing.

        What is held here alone stays. False where the repository has another version than *version*.
        """
        for part in _parts(sorted(there)):
            async with self._database.write() as writer:
                if not await writer.run(_bumped(name, version)) and version is not None:
                    return False
                for item in part:
                    digest = there[item]
                    if digest is None:
                        await writer.run(_dropped(name, item, ~manifests.c.held))
                    elif isinstance(item, Tag):
                        await writer.run(_dropped(name, item, ~manifests.c.held, _there != digest))
            version = None if version is None else version + 1
        return True

    async def forget_if(self, name: RepositoryName, reference: Reference, digest: Digest) -> None:
        """Drop the record of *reference* if it still says *digest*: somebody may have changed it meanwhile."""
        async with self._database.write() as writer:
            await writer.run(_bumped(name))
            await writer.run(_dropped(name, reference, ~manifests.c.held, _there == digest))

    async def delete_manifest(self, name: RepositoryName, reference: Reference) -> bool:
        """Delete a tag alone, or a manifest with every tag that points at it, whatever is made of it."""
        async with self._database.write() as writer:
            return await writer.run(_dropped(name, reference)) > 0

    # -- steps of a transaction -------------------------------------------------------------------------

    async def _repository(self, writer: Writer, name: RepositoryName, project: str) -> int:
        row = {"path": name, "project": project, "created_at": self._now()}
        # SQLite would give the number of the last repository that was deleted to the next one.
        number = {} if self._database.dialect != "sqlite" else {"id": _NEXT_NUMBER}
        record = self._insert(repositories).values(**row, **number)
        # A crawl may have found the repository while nobody could say whose it is.
        unowned = repositories.c.project == ""
        await writer.run(
            record.on_conflict_do_update(index_elements=["path"], set_={"project": project}, where=unowned)
            if project
            else record.on_conflict_do_nothing(index_elements=["path"])
        )
        return int((await writer.rows(_REPOSITORY.statement, {"path": name}))[0][0])

    async def _link(self, writer: Writer, key: int, digest: Digest, size: int, upload: str | None) -> None:
        row = {"repository_id": key, "digest": digest, "size": size, "linked_at": self._now(), "upload": upload}
        record = self._insert(blobs).values(row)
        again = {name: record.excluded[name] for name in ("upload", "linked_at", "unreferenced_at")}
        await writer.run(record.on_conflict_do_update(index_elements=["repository_id", "digest"], set_=again))

    async def _missing(self, writer: Writer, key: int, required: frozenset[Digest]) -> set[Digest]:
        """Those of *required* that the repository lacks. The others are garbage no longer."""
        missing = set(required)
        for part in _parts(sorted(required)):
            for table in (blobs, manifests):
                those = (table.c.repository_id == key, table.c.digest.in_(part))
                rows = await writer.rows(select(table.c.digest, table.c.unreferenced_at).where(*those))
                missing -= {Digest(row[0]) for row in rows}
                if any(row[1] for row in rows):
                    await writer.run(update(table).where(*those).values(unreferenced_at=None))
        return missing

    async def _store(self, writer: Writer, key: int, manifest: Manifest, seen: Seen) -> int:
        details = manifest.details
        assert details is not None
        row = {
            "repository_id": key,
            "digest": manifest.digest,
            "media_type": manifest.media_type,
            "size": manifest.size,
            "content": manifest.content,
            "artifact_type": details.artifact_type,
            "annotations": json.dumps(dict(details.annotations)) if details.annotations else None,
            "subject": details.subject,
            "stored_as": seen.stored_as,
            "held": seen.held,
            "pushed_at": self._now(),
            "pushed_by": seen.by,
            **_image(manifest, details),
        }
        record = self._insert(manifests).values(row)
        # Only a push is a new time; what was merely seen keeps what is known of its push.
        fresh = (
            ("media_type", "pushed_at", "pushed_by", "stored_as", "held", "unreferenced_at")
            if seen.pushed
            else ("media_type",)
        )
        again = {name: record.excluded[name] for name in fresh}
        stored = record.on_conflict_do_update(index_elements=["repository_id", "digest"], set_=again)
        number = int((await writer.rows(stored.returning(manifests.c.id)))[0][0])
        if not await writer.rows(select(references.c.position).where(references.c.manifest_id == number).limit(1)):
            named = (
                *((("config", details.config),) if details.config else ()),
                *(("layer", layer) for layer in details.layers),
                *(("manifest", child) for child in details.manifests),
            )
            rows = [
                {
                    "manifest_id": number,
                    "position": position,
                    "kind": kind,
                    "digest": item.digest,
                    "media_type": item.media_type,
                    "size": item.size,
                }
                for position, (kind, item) in enumerate(named)
            ]
            if rows:
                await writer.run(references.insert(), rows)
        return number

    async def _point(self, writer: Writer, key: int, pointed: Mapping[Tag, int], seen: Seen) -> None:
        """Point tags at manifests, by the numbers of their rows."""
        now = self._now()
        facts: dict[int, tuple[int, int]] = {}
        for part in _parts(sorted(set(pointed.values()))):
            asked = select(manifests.c.id, manifests.c.created_at, manifests.c.layers_size)
            for number, created, size in await writer.rows(asked.where(manifests.c.id.in_(part))):
                facts[number] = (-1 if created is None else created, -1 if size is None else size)
        rows = [
            {
                "repository_id": key,
                "name": tag,
                "manifest_id": manifest,
                "created_at": now,
                "pushed_at": now,
                "pushed_by": seen.by,
                "image_created_at": facts[manifest][0],
                "image_size": facts[manifest][1],
            }
            for tag, manifest in pointed.items()
        ]
        record = self._insert(tags)
        fresh = ("manifest_id", "pushed_at", "pushed_by", "image_created_at", "image_size")
        again = {name: record.excluded[name] for name in fresh}
        if rows:
            await writer.run(record.on_conflict_do_update(index_elements=["repository_id", "name"], set_=again), rows)


_LAST: Final = {"plugin": "gateway", "kind": "last number", "key": "repositories"}
"""The document that has the greatest number of a repository that was deleted."""
_of_last = [documents.c[name] == value for name, value in _LAST.items()]
_NEXT_NUMBER: Final = select(
    func.max(
        func.coalesce(select(func.max(repositories.c.id)).scalar_subquery(), 0),
        func.coalesce(select(cast(documents.c.value, BigInteger)).where(*_of_last).scalar_subquery(), 0),
    )
    + 1
).scalar_subquery()


def _image(manifest: Manifest, details: ManifestDetails) -> dict[str, Any]:
    """What the manifest alone says of its image; the rest stands in the config."""
    if details.config is None:
        assert manifest.content is not None
        return {"platforms": ",".join(platforms(manifest.content)), "dated": True}
    return {
        "config": details.config.digest,
        # Descriptors may lie: what the engines can't count is as good as endless.
        "layers_size": min(sum(layer.size for layer in details.layers), _MOST_BYTES),
        "dated": details.config.media_type == EMPTY_CONFIG,
    }


def _bumped(name: RepositoryName, version: int | None = None) -> Update:
    """Count a change of the repository, which must have *version* if that is given."""
    same = [] if version is None else [repositories.c.version == version]
    return update(repositories).where(repositories.c.path == name, *same).values(version=repositories.c.version + 1)


def _dropped(name: RepositoryName, item: Reference, *only: ColumnElement[bool]) -> Delete:
    """Drop the record of a tag or manifest, if *only* holds for its row of the table of manifests."""
    of_name = select(repositories.c.id).where(repositories.c.path == name).scalar_subquery()
    if isinstance(item, Digest):
        called = or_(manifests.c.digest == item, manifests.c.stored_as == item)
        return delete(manifests).where(manifests.c.repository_id == of_name, called, *only)
    pointed = [exists().where(manifests.c.id == tags.c.manifest_id, *only)] if only else []
    return delete(tags).where(tags.c.repository_id == of_name, tags.c.name == item, *pointed)


def _parts(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))
