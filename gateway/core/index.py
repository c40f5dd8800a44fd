"""The manifests of another registry: its own answers decide, and what passes through is recorded and remembered.

What is added to a registry that lacks it: referrers, digests other than sha256, manifests that are legal and that it
refuses, and answers while it is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final

from cachetools import LRUCache

from gateway.core.manifests import read
from gateway.core.metadata import MetadataStore, Seen
from gateway.core.metrics import PLUGIN_FAILURES
from gateway.errors import RegistryError
from gateway.oci import Descriptor, Digest, Reference, RepositoryName, Tag
from gateway.plugins import Access, Identity, Manifest, MissingContentError, TagPage, TagQuery, Upstream
from gateway.plugins.manager import Plugins

_REMEMBERED: Final = 100_000
_BYTES: Final = 64 * 1024 * 1024
_WAITING: Final = 10_000
_LAST: Final = 5.0
_TURN: Final = 50
"""Points of one list that are looked at before others have their turn."""
_PAUSES: Final = (0.1, 0.4, 1.6)
"""Seconds before one looks again whether a registry did what it told of."""


async def owner(plugins: Plugins, name: RepositoryName) -> str:
    """The lower-case path of the project that owns a repository; empty where nobody says which it is."""
    found = (await plugins.resolved(Access("repository", name, ()))).repository
    return found.project.path.lower() if found else ""


class Merged:
    """Questions of which many come at once. Each is answered by one that began no earlier than it came."""

    def __init__(self) -> None:
        self._asking: dict[object, asyncio.Task[Any]] = {}
        self._next: dict[object, asyncio.Task[Any]] = {}

    async def ask(self, key: object, question: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to *question*, or to the next one that is asked for *key*."""
        running = self._asking.get(key)
        if running is None:
            task = self._begin(key, question, None)
        else:
            task = self._next.get(key) or self._begin(key, question, running)
        return await asyncio.shield(task)

    def _begin(
        self, key: object, question: Callable[[], Awaitable[Any]], behind: asyncio.Task[Any] | None
    ) -> asyncio.Task[Any]:
        async def run() -> Any:
            if behind is not None:
                await asyncio.wait([behind])
                del self._next[key]
                self._asking[key] = task
            try:
                return await question()
            finally:
                if self._asking.get(key) is task:
                    del self._asking[key]

        task = asyncio.ensure_future(run())
        # Whoever waited may be gone when it fails.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        if behind is None:
            self._asking[key] = task
        else:
            self._next[key] = task
        return task


@dataclass(frozen=True, slots=True)
class _Seen:
    """The upstream had *manifest* under *reference* when the repository had *version*."""

    name: RepositoryName
    project: str
    reference: Reference
    manifest: Manifest
    version: int | None


@dataclass(frozen=True, slots=True)
class _Missed:
    """The upstream no longer has *digest* under *reference*."""

    name: RepositoryName
    reference: Reference
    digest: Digest


Owner = Callable[[], Awaitable[str]]
"""Says which project owns a repository."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What the upstream has under *reference* is to be found out at *due*; it is said to be *digest*, None: nothing."""

    name: RepositoryName
    reference: Reference
    digest: Digest | None
    owner: Owner
    due: float = 0.0
    before: int = 0


class Index:
    """What one worker remembers of one upstream, and what it has yet to record."""

    def __init__(
        self, upstream: Upstream, metadata: MetadataStore, log: Any, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.upstream = upstream
        self.metadata = metadata
        self.merged = Merged()
        self.pushing: Counter[tuple[RepositoryName, Reference, Digest]] = Counter()
        """What is put upstream just now, and recorded then: the upstream may tell of it before that."""
        self._log = log
        self._clock = clock
        self._contents: LRUCache[str, Manifest] = LRUCache(_BYTES, getsizeof=lambda manifest: manifest.size + 512)
        self._latest: LRUCache[tuple[str, str], tuple[Digest, float]] = LRUCache(_REMEMBERED)
        self._recorded: LRUCache[tuple[str, str], Digest] = LRUCache(_REMEMBERED)
        self._notes: asyncio.Queue[_Seen | _Missed] = asyncio.Queue(_WAITING)
        self._looks: asyncio.Queue[tuple[RepositoryName, Reference]] = asyncio.Queue(_WAITING)
        self._wanted: dict[tuple[RepositoryName, Reference], _Look] = {}
        self._bytes = 0

    def content(self, digest: Digest) -> Manifest | None:
        """A manifest whose bytes are in memory; that some repository has it is not said."""
        return self._contents.get(digest)

    def latest(self, name: RepositoryName, reference: Reference) -> tuple[Manifest | None, bool]:
        """The manifest that was last seen under *reference*, if its bytes are in memory, and if that is news still."""
        digest, until = self._latest.get((name, reference), (None, 0.0))
        return (self._contents.get(digest) if digest else None), self._clock() < until

    def learn(self, name: RepositoryName, reference: Reference, manifest: Manifest) -> None:
        """Remember what is under *reference*, and the manifest's bytes."""
        self._latest[name, reference] = manifest.digest, self._clock() + self.upstream.tag_freshness
        self.keep(manifest)

    def keep(self, manifest: Manifest) -> None:
        """Keep a manifest's bytes in memory."""
        if manifest.content is not None and manifest.size < self._contents.maxsize // 2:
            self._contents[manifest.digest] = manifest

    def forget(self, name: RepositoryName, references: Iterable[Reference]) -> None:
        """Believe nothing of *references* that was learnt before."""
        for item in references:
            self._latest.pop((name, item), None)
            self._recorded.pop((name, item), None)

    # -- what is yet to be recorded -------------------------------------------------------------------

    def saw(
        self,
        name: RepositoryName,
        project: str,
        reference: Reference,
        manifest: Manifest,
        version: int | None = None,
    ) -> None:
        """Have it recorded, soon, that the upstream has *manifest* under *reference*."""
        if manifest.content is None or self._recorded.get((name, reference)) == manifest.digest:
            return
        # What is not recorded now is recorded when it is seen again, or by a crawl.
        if self._bytes + manifest.size <= _BYTES and self._note(_Seen(name, project, reference, manifest, version)):
            self._recorded[name, reference] = manifest.digest

    def missed(self, name: RepositoryName, reference: Reference) -> None:
        """Have it recorded that the upstream no longer has what it had under *reference*."""
        digest = self._recorded.pop((name, reference), None)
        if digest is not None:
            self._note(_Missed(name, reference, digest))

    def told(self, name: RepositoryName, project: str, digest: Digest) -> None:
        """Have the manifest *digest* recorded, of which the upstream told."""

        async def owner() -> str:
            return project

        if self._recorded.get((name, digest)) != digest:
            self._look(_Look(name, digest, digest, owner))

    async def changed(
        self, name: RepositoryName, there: Mapping[Reference, Digest | None], owner: Owner | None = None
    ) -> None:
        """The upstream says what is under some references now (None: nothing): find out, where it is not recorded.

        With ``exclusive``, none of them is believed to be something else from now on.
        """

        async def nobody() -> str:
            return ""

        unsure: dict[Reference, Digest | None] = {}
        wrong: dict[Reference, Digest | None] = {}
        for number, (reference, digest) in enumerate(there.items()):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            if digest is not None and self.pushing[name, reference, digest]:
                continue
            self._latest.pop((name, reference), None)
            said = await self.metadata.said(name, reference)
            if said != digest:
                unsure[reference] = digest
                if said is not None:
                    wrong[reference] = digest
        self.forget(name, unsure)
        if self.upstream.exclusive and wrong:
            await self.metadata.forget_unless(name, wrong)
        for reference, digest in unsure.items():
            self._look(_Look(name, reference, digest, owner or nobody))

    def doubt(self, name: RepositoryName, reference: Reference, owner: Owner) -> None:
        """Whether the upstream still has *reference* is not known: find out, and believe nothing of it until then."""
        self.forget(name, [reference])
        self._look(_Look(name, reference, None, owner))

    def _note(self, note: _Seen | _Missed) -> bool:
        try:
            self._notes.put_nowait(note)
        except asyncio.QueueFull:
            return False
        self._bytes += note.manifest.size if isinstance(note, _Seen) else 0
        return True

    def _look(self, look: _Look) -> None:
        """Look once, however often it is asked for until then."""
        key = look.name, look.reference
        with contextlib.suppress(asyncio.QueueFull):
            if key not in self._wanted:
                self._looks.put_nowait(key)
            self._wanted[key] = look

    async def recorded(self) -> None:
        """Wait until all that was seen is recorded."""
        await self._looks.join()
        await self._notes.join()

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        """Record what is seen while the block runs; leaving it records the rest, within some seconds."""
        tasks = [asyncio.create_task(self._record_notes()), asyncio.create_task(self._look_around())]
        try:
            yield
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST):
                    await self.recorded()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _record_notes(self) -> None:
        while True:
            note = await self._notes.get()
            try:
                if isinstance(note, _Missed):
                    await self.metadata.forget_if(note.name, note.reference, note.digest)
                elif not await self._record(note):
                    self._unrecord(note)
            except Exception as error:  # noqa: BLE001 - no answer depends on it, and it will be seen again
                self._failed("a manifest could not be recorded", note.name, str(error))
                if isinstance(note, _Seen):
                    self._unrecord(note)
            finally:
                self._bytes -= note.manifest.size if isinstance(note, _Seen) else 0
                self._notes.task_done()

    async def _record(self, seen: _Seen) -> bool:
        assert seen.manifest.content is not None
        _, details = read(seen.manifest.content, seen.manifest.media_type)
        manifest = replace(seen.manifest, details=details)
        return await self.metadata.note(seen.name, seen.project, [seen.reference], manifest, Seen(version=seen.version))

    def _unrecord(self, note: _Seen) -> None:
        if self._recorded.get((note.name, note.reference)) == note.manifest.digest:
            del self._recorded[note.name, note.reference]

    def _failed(self, what: str, name: RepositoryName, why: str) -> None:
        PLUGIN_FAILURES.labels("index").inc()
        self._log.warning(what, repository=name, why=why)

    async def _look_around(self) -> None:
        while True:
            key = await self._looks.get()
            look = self._wanted.pop(key)
            why = "it is changed all the time"
            try:
                await asyncio.sleep(max(0.0, look.due - self._clock()))
                sure = await self._looked(look)
            except Exception as error:  # noqa: BLE001 - no answer depends on it
                sure, why = False, str(error)
            try:
                if not sure:
                    await self._look_again(look, why)
            finally:
                self._looks.task_done()

    async def _look_again(self, look: _Look, why: str) -> None:
        if (look.name, look.reference) in self._wanted:
            # What was asked for meanwhile is newer.
            return
        if look.before < len(_PAUSES):
            self._look(replace(look, due=self._clock() + _PAUSES[look.before], before=look.before + 1))
            return
        self._failed("what was changed in the registry is not known", look.name, why)
        if self.upstream.exclusive:
            with contextlib.suppress(RegistryError):
                await self.metadata.forget_unless(look.name, {look.reference: look.digest})

    async def _looked(self, look: _Look) -> bool:
        """Record what the upstream has; False where it is worth looking again."""
        name, reference, metadata = look.name, look.reference, self.metadata
        version = await metadata.version(name)
        found = await self.upstream.manifest(name, reference, head=isinstance(reference, Tag))
        # Distribution tells of a push before it moves the tag.
        again = isinstance(reference, Tag) and look.before < len(_PAUSES)
        if (found.digest if found else None) != look.digest and again:
            return False
        if found is None:
            return version < 0 or await metadata.forget_unless(name, {reference: None}, version)
        if found.content is None:
            whole = self.content(found.digest) or await metadata.manifest(name, found.digest)
            found = whole or await self.upstream.manifest(name, found.digest)
        if found is None or found.content is None:
            return False
        self.keep(found)
        return await self._record(_Seen(name, await look.owner(), reference, found, version))


@dataclass(frozen=True, slots=True)
class IndexedStore:
    """A ManifestStore for one request: the upstream, with what the index knows of it. *project* owns the repository."""

    index: Index
    project: str

    # -- reading --------------------------------------------------------------------------------------

    async def manifest(self, name: RepositoryName, reference: Reference, *, head: bool = False) -> Manifest | None:
        """What the upstream has under *reference*; while it can't be asked, what was recorded of it."""
        metadata = self.index.metadata
        if self.index.upstream.exclusive:
            # While the database can't answer, the upstream can.
            with contextlib.suppress(RegistryError):
                recorded = await metadata.manifest(name, reference, head=head)
                if recorded is not None:
                    return recorded
        try:
            found = await self._upstream(name, reference, head=head) if _is_askable(reference) else None
            return found or await self._own(name, reference, head=head)
        except RegistryError as error:
            recorded = await metadata.manifest(name, reference, head=head) if _is_failure(error) else None
            if recorded is None:
                raise
            return recorded

    async def _upstream(self, name: RepositoryName, reference: Reference, *, head: bool) -> Manifest | None:
        index = self.index
        known, news = index.latest(name, reference)
        if known is not None and news:
            return known
        version = await self._version(name)
        found = await self._ask(name, reference, head=head)
        if found is not None and found.content is None and not head:
            # By digest: the tag may be moved between the two questions.
            found = index.content(found.digest) or await self._ask(name, found.digest, head=False)
        if found is None:
            index.missed(name, reference)
            return None
        index.learn(name, reference, found)
        if version is not None or not index.upstream.exclusive:
            # Else it might be recorded over what is newer, and believed.
            index.saw(name, self.project, reference, found, version)
        return found

    async def _version(self, name: RepositoryName) -> int | None:
        """That of the repository, where records are believed; None too while the database can't answer."""
        if self.index.upstream.exclusive:
            with contextlib.suppress(RegistryError):
                return await self.index.metadata.version(name)
        return None

    async def _ask(self, name: RepositoryName, reference: Reference, *, head: bool) -> Manifest | None:
        """Ask for the bytes only where they are not in memory yet."""
        index = self.index

        async def question() -> Manifest | None:
            known = index.content(reference) if isinstance(reference, Digest) else index.latest(name, reference)[0]
            found = await index.upstream.manifest(name, reference, head=head or known is not None)
            if found is None:
                return None
            if found.content is not None:
                index.learn(name, reference, found)
            return known if known is not None and known.digest == found.digest else found

        found: Manifest | None = await index.merged.ask((name, reference, head), question)
        return found

    async def _own(self, name: RepositoryName, reference: Reference, *, head: bool) -> Manifest | None:
        """What the upstream knows under another digest, or refused."""
        metadata = self.index.metadata
        recorded = await metadata.manifest(name, reference, head=head)
        if recorded is None:
            return None
        stored = await metadata.stored_as(name, recorded.digest)
        if stored is None:
            return None
        digest, held = stored
        if held:
            return recorded
        # It was asked for by *reference* already, if it can be.
        other = isinstance(reference, Digest) and not (digest == reference and _is_askable(reference))
        return recorded if other and await self._ask(name, digest, head=True) else None

    async def tags(self, name: RepositoryName, query: TagQuery) -> TagPage | None:
        """The upstream's page, and in it the tags of manifests that it refused."""
        metadata = self.index.metadata
        page = await self.index.upstream.tags(name, query)
        held = [tag for tag in await metadata.held_tags(name) if tag > query.last]
        if page is None:
            if not held and not await metadata.known(name):
                return None
            page = TagPage(())
        if not held:
            return page
        within = [tag for tag in held if not page.more or tag < page.tags[-1]]
        found = sorted({*page.tags, *within})
        cut = found[: query.limit]
        return TagPage(tuple(cut), more=page.more or len(cut) < len(found))

    async def referrers(
        self, name: RepositoryName, subject: Digest, artifact_type: str | None, last: str, limit: int
    ) -> Sequence[Descriptor]:
        """Those that were recorded, and those that the upstream tells of, which are recorded from then on."""
        index = self.index
        own = await index.metadata.referrers(name, subject, artifact_type, last, limit)
        found = {descriptor.digest: descriptor for descriptor in own}
        try:
            told = await index.upstream.referrers(name, subject, artifact_type, last, limit)
        except RegistryError as error:
            if not found or not _is_failure(error):
                raise
            told = ()
        for descriptor in told:
            if descriptor.digest not in found and not await index.metadata.has_alias(name, descriptor.digest):
                found[descriptor.digest] = descriptor
                index.told(name, self.project, descriptor.digest)
        return [found[digest] for digest in sorted(found)][:limit]

    # -- writing --------------------------------------------------------------------------------------

    async def put_manifest(
        self, name: RepositoryName, references: Sequence[Reference], manifest: Manifest, by: Identity
    ) -> None:
        """Put it upstream, by sha256, and record it; what the upstream refuses though it is legal is held here."""
        assert manifest.details is not None
        assert manifest.content is not None
        index, metadata = self.index, self.index.metadata
        theirs = replace(manifest, digest=Digest.of(manifest.content, "sha256"))
        tags = [item for item in references if isinstance(item, Tag)]
        by_digest = [theirs.digest] if len(tags) < len(references) else []
        if index.upstream.exclusive:
            # What comes to an end between the two records must leave none that is wrong.
            await metadata.forget(name, tags)
        held = False
        with self._pushing(name, [theirs.digest, *tags], theirs.digest):
            try:
                await index.upstream.put_manifest(name, [*by_digest, *tags], theirs, by)
            except MissingContentError as error:
                needed = await self._needed(name, manifest.details.required.intersection(error.digests))
                if needed:
                    raise MissingContentError(needed) from error
                held = True
                for tag in tags:
                    # Else it would go on pointing at what it had before.
                    await index.upstream.delete_manifest(name, tag)
            finally:
                index.forget(name, [*references, theirs.digest])
            stored_as = theirs.digest if theirs.digest != manifest.digest else None
            seen = Seen(by.subject, pushed=True, stored_as=stored_as, held=held)
            await metadata.note(name, self.project, references, manifest, seen)
        index.keep(theirs)

    @contextmanager
    def _pushing(self, name: RepositoryName, references: Sequence[Reference], digest: Digest) -> Iterator[None]:
        """Let nobody look for what is pushed here while the block runs."""
        keys = [(name, reference, digest) for reference in references]
        pushing = self.index.pushing
        pushing.update(keys)
        try:
            yield
        finally:
            for key in keys:
                pushing[key] -= 1
                if not pushing[key]:
                    del pushing[key]

    async def _needed(self, name: RepositoryName, missing: Iterable[Digest]) -> Sequence[Digest]:
        """Those of *missing* that the repository has under no other digest either."""
        needed = []
        for digest in sorted(missing):
            stored = await self.index.metadata.stored_as(name, digest)
            if stored is None or stored == (digest, False):
                needed.append(digest)
        return needed

    async def delete_manifest(self, name: RepositoryName, reference: Reference) -> bool:
        """Delete it upstream, and then its record: one that is refused loses nothing.

        What comes to an end in between leaves a record of what is gone: see ``doubt``.
        """
        metadata = self.index.metadata
        recorded = await metadata.manifest(name, reference, head=True)
        stored = await metadata.stored_as(name, recorded.digest) if recorded else None
        digest, held = stored or (None, False)
        asked = digest if digest is not None and isinstance(reference, Digest) else reference
        gone = _is_askable(asked) and await self.index.upstream.delete_manifest(name, asked)
        # What was read of it before it went is old from now on.
        await metadata.forget(name, [reference, asked])
        self.index.forget(name, [reference, asked])
        return gone or held

    def doubt(self, name: RepositoryName, reference: Reference) -> None:
        """Find out, soon, whether *reference* was deleted."""

        async def owner() -> str:
            return self.project

        self.index.doubt(name, reference, owner)


def _is_askable(reference: Reference) -> bool:
    """Whether an upstream can be asked by *reference*: of digests every registry knows sha256."""
    return not isinstance(reference, Digest) or reference.algorithm == "sha256"


def _is_failure(error: RegistryError) -> bool:
    return error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
