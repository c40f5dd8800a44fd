"""The management of images as plugins have it, over every backend: reads from records, and changes that harm nothing.

What another registry has is recorded when somebody wants to see it: its list of tags is asked for where others may
write to it, its manifests only for tags that are not recorded yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from cachetools import TTLCache

from gateway.core.dating import Dating
from gateway.core.deletion import Deletion
from gateway.core.index import Index, owner
from gateway.core.listing import Listing
from gateway.core.manifests import read
from gateway.core.metadata import MetadataStore, Seen
from gateway.core.planning import Planning, Told, apply
from gateway.core.reading import Reading
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import Digest, RepositoryName, Tag
from gateway.plugins import (
    Applied,
    By,
    CleanupRules,
    CleanupState,
    Identity,
    Plan,
    RepositoryRecord,
    TagRecord,
    TagSearch,
)
from gateway.plugins.manager import Plugins
from gateway.plugins.protocols import nobody_watches
from gateway.plugins.together import together

_ATTEMPTS: Final = 3
_NEWS: Final = 30.0
"""Seconds for which it is believed where the tags of another registry point, once all were looked at."""
_REPOSITORIES: Final = 10_000
_AT_ONCE: Final = 4
"""Repositories, and parts of one, that are read from another registry at the same time."""


class ManagedImages:
    """Images, over the records and whatever backend has the repository.

    *index* gives the index of a repository whose backend is another registry, None for others.
    """

    def __init__(
        self,
        plugins: Callable[[], Plugins],
        metadata: MetadataStore,
        listing: Listing,
        dating: Dating,
        index: Callable[[RepositoryName], Awaitable[Index | None]],
        *,
        planning: Planning,
    ) -> None:
        self._plugins = plugins
        self._metadata = metadata
        self._listing = listing
        self._dating = dating
        self._index = index
        self._planning = planning
        self._looked: TTLCache[str, bool] = TTLCache(_REPOSITORIES, _NEWS)
        self.deletion: Deletion

    # -- repositories ---------------------------------------------------------------------------------

    async def repositories(
        self, identity: Identity, projects: Sequence[str], *, offset: int = 0, limit: int | None = None
    ) -> tuple[Sequence[RepositoryRecord], int]:
        """The repositories of *projects* that *identity* sees, by number, and how many there are."""
        await self._metadata.adopt(projects)
        if not self._plugins().hides_repositories(identity):
            return await self._listing.repositories(projects, offset, limit)
        found, _ = await self._listing.repositories(projects, 0, None)
        seen = set(await self._plugins().seen_repositories(identity, [record.path for record in found]))
        shown = [record for record in found if record.path in seen]
        return shown[offset : None if limit is None else offset + limit], len(shown)

    async def repository(self, identity: Identity, number: int) -> RepositoryRecord | None:
        """The repository that has the number, if *identity* sees it."""
        found = await self._listing.repository(number)
        return found if found and await self._plugins().seen_repositories(identity, [found.path]) else None

    async def named(self, name: RepositoryName) -> RepositoryRecord | None:
        """The repository of that name."""
        return await self._listing.repository(name)

    async def size(self, name: RepositoryName) -> int:
        """Bytes of the layers and configs that its tags lead to, each counted once."""
        await self.refresh([name])
        return await self._listing.size(name)

    async def has_tags(self, projects: Sequence[str]) -> bool:
        """Whether any repository of *projects* has a tag now."""
        await self._metadata.adopt(projects)
        await self.refresh(await self._listing.paths(projects))
        return await self._listing.any_tag(projects)

    # -- tags -----------------------------------------------------------------------------------------

    async def tags(
        self, identity: Identity, name: RepositoryName, search: TagSearch
    ) -> tuple[Sequence[TagRecord], int]:
        """A page of the tags that *identity* sees, and how many there are that *search* fits."""
        await self.refresh([name])
        if search.dated or search.order == "created" or search.platform is not None:
            await self._dating.date(name)
        if not self._plugins().hides_tags:
            return await self._listing.tags(name, search)
        total = len(await self._seen(identity, name, await self._listing.names(name, replace(search, after=None))))
        names = await self._seen(identity, name, await self._listing.names(name, search))
        return await self._listing.some(name, names[search.offset : search.offset + search.limit]), total

    async def tag_names(self, identity: Identity, names: Sequence[RepositoryName]) -> Mapping[str, Sequence[str]]:
        """All tags of several repositories that *identity* sees, by byte."""
        await self.refresh(names)
        found = await self._listing.tag_names(names)
        if not self._plugins().hides_tags:
            return found
        return {name: await self._seen(identity, RepositoryName(name), tags) for name, tags in found.items()}

    async def tag_counts(self, identity: Identity, names: Sequence[RepositoryName]) -> Mapping[str, int]:
        """How many tags of several repositories *identity* sees."""
        if self._plugins().hides_tags:
            return {name: len(tags) for name, tags in (await self.tag_names(identity, names)).items()}
        await self.refresh(names)
        return await self._listing.tag_counts(names)

    async def seen(self, identity: Identity, name: RepositoryName) -> Mapping[str, str] | None:
        """The tags that *identity* sees, with their digests; None: nothing is hidden from anybody."""
        if not self._plugins().hides_tags:
            return None
        await self.refresh([name])
        there = await self._listing.pointing(name)
        return {tag: there[tag] for tag in await self._seen(identity, name, list(there))}

    async def tag(self, identity: Identity, name: RepositoryName, tag: Tag) -> TagRecord | None:
        """One tag as it is now, with its date."""
        if not await self._plugins().sees_tag(identity, name, tag):
            return None
        await self._read_again(name, tag)
        await self._dating.date(name, [tag])
        found = await self._listing.some(name, [tag])
        return found[0] if found else None

    async def _seen(self, identity: Identity, name: RepositoryName, tags: Sequence[str]) -> Sequence[str]:
        return await self._plugins().seen_tags(identity, name, tags)

    # -- changing ---------------------------------------------------------------------------------------

    async def delete_tag(self, name: RepositoryName, tag: Tag, by: By) -> bool:
        """Delete a tag alone, and with the last of an image what is tagged as its signatures."""
        return await self.deletion.tag(name, tag, by)

    async def delete_repository(self, number: int, by: By) -> bool:
        """Have the whole repository deleted."""
        return await self.deletion.order(number, by)

    # -- cleaning up ------------------------------------------------------------------------------------

    async def repositories_of(self, projects: Sequence[str]) -> Sequence[RepositoryRecord]:
        """All repositories of *projects*, by number."""
        await self._metadata.adopt(projects)
        return (await self._listing.repositories(projects, 0, None))[0]

    async def plan(
        self,
        name: RepositoryName,
        rules: CleanupRules,
        *,
        now: datetime | None = None,
        only: Mapping[str, str] | None = None,
    ) -> Plan:
        """Decide about every tag, and remove none."""
        broken = await self._look(name)
        return await self._planning.plan(name, rules, now or datetime.now(UTC), only, broken)

    async def apply(self, plan: Plan, by: By, told: Told = nobody_watches, *, seconds: float | None = None) -> Applied:
        """Remove what *plan* says, tag by tag, for at most *seconds*."""
        return await apply(plan, by, told, deletion=self.deletion, listing=self._listing, seconds=seconds)

    async def mark_cleanup(self, number: int, state: CleanupState, *, deleted: int | None = None) -> None:
        """Record how the cleanup of a repository stands."""
        await self._planning.mark(number, state, deleted)

    # -- what another registry has ----------------------------------------------------------------------

    async def refresh(self, names: Sequence[RepositoryName]) -> None:
        """Make sure that the recorded tags are those that there are, where others may change them."""
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(name: RepositoryName) -> None:
            index = await self._index(name)
            if index is not None and not (index.upstream.exclusive and await self._metadata.complete(name)):
                async with turn:
                    await index.merged.ask(("refresh", name), lambda: self._refreshed(index, name))

        await together([one(name) for name in names])

    async def look_again(self, name: RepositoryName) -> None:
        """Make sure that the recorded tags are those that there are, and point where they did some seconds ago."""
        if name in self._looked:
            await self.refresh([name])
        else:
            await self._look(name)

    async def _look(self, name: RepositoryName) -> Sequence[Tag]:
        """Look where each tag points, for others may move them; give those whose manifest the registry has lost."""
        index = await self._index(name)
        if index is None or (index.upstream.exclusive and await self._metadata.complete(name)):
            return ()
        broken: Sequence[Tag] = await index.merged.ask(("look", name), lambda: self._refreshed(index, name, moved=True))
        self._looked[name] = True
        return broken

    async def _refreshed(self, index: Index, name: RepositoryName, *, moved: bool = False) -> Sequence[Tag]:
        """Record the tags that are not recorded yet, or may have *moved*, drop those that are gone; give the broken."""
        for _ in range(_ATTEMPTS):
            version = await self._metadata.version(name)
            project = await owner(self._plugins(), name)
            reading = Reading(index.upstream, self._metadata, name, project, version)
            listed = await reading.tags()
            if listed is None and version < 0:
                return ()
            recorded = await self._metadata.pointing(name)
            known = {} if moved else recorded
            there = {tag: known[tag][0] for tag in listed or () if tag in known and not known[tag][1]}
            unread = [tag for tag in listed or () if tag not in there]
            found = await _read_some_at_once(reading, unread)
            gone = [tag for tag, (_, held) in recorded.items() if not held and tag not in there and tag not in found]
            index.forget(name, gone)
            if not found and not gone and await self._metadata.complete(name):
                return reading.broken
            if await self._metadata.reconcile(name, project, {**there, **found}, (), version):
                return reading.broken
        raise RegistryError(
            ErrorCode.UNAVAILABLE, "the repository is changed all the time; try again", headers={"Retry-After": "1"}
        )

    async def _read_again(self, name: RepositoryName, tag: Tag) -> None:
        """Record what another registry has under one tag now."""
        index = await self._index(name)
        if index is None or (index.upstream.exclusive and await self._metadata.said(name, tag) is not None):
            return
        version = await self._metadata.version(name)
        reading = Reading(index.upstream, self._metadata, name, await owner(self._plugins(), name), version)
        found, _ = await reading.read([tag])
        ours = await self._metadata.known_as(name, found[tag]) if tag in found else None
        manifest = await self._metadata.manifest(name, ours) if ours else None
        if manifest is None or manifest.content is None:
            await self._metadata.forget_unless(name, {tag: None})
            return
        _, details = read(manifest.content, manifest.media_type)
        seen = Seen(version=version)
        await self._metadata.note(name, reading.project, [tag], replace(manifest, details=details), seen)


async def _read_some_at_once(reading: Reading, tags: Sequence[Tag]) -> dict[Tag, Digest]:
    parts = [tags[start::_AT_ONCE] for start in range(min(_AT_ONCE, len(tags)))]
    return {
        tag: digest
        for found, _ in await together([reading.read(part) for part in parts])
        for tag, digest in found.items()
    }
