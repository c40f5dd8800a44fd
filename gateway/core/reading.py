"""Reading a repository of another registry into the records: its tags, what they point at, what that is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Protocol

from gateway.core.manifests import read
from gateway.core.metadata import MetadataStore, Seen
from gateway.errors import RegistryError
from gateway.oci import Digest, MediaType, RepositoryName, Tag
from gateway.plugins import Manifest, TagQuery, Upstream

_MANIFESTS: Final = frozenset(MediaType)


class Ask(Protocol):
    """Puts a question to the upstream, in a manner of its own."""

    async def __call__(self, question: Callable[[], Awaitable[Any]]) -> Any:
        """The answer."""
        ...


async def at_once(question: Callable[[], Awaitable[Any]]) -> Any:
    """Put a question without waiting for anybody."""
    return await question()


@dataclass(slots=True)
class Reading:
    """One reading of a repository that belongs to *project* and had *version* when it began.

    It counts the manifests that it recorded, and the tags that it *skipped*: those of manifests that no client of today
    can pull. *broken* are the tags whose manifest the upstream has lost.
    """

    upstream: Upstream
    metadata: MetadataStore
    name: RepositoryName
    project: str
    version: int
    ask: Ask = at_once
    recorded: int = 0
    skipped: int = 0
    broken: list[Tag] = field(default_factory=list)

    async def tags(self) -> list[Tag] | None:
        """All that the upstream lists; None where it has no such repository."""
        found: list[Tag] = []
        while True:
            query = TagQuery(last=found[-1] if found else "")
            page = await self.ask(partial(self.upstream.tags, self.name, query))
            if page is None:
                return found or None
            found += page.tags
            if not page.more or not page.tags:
                return found

    async def read(self, tags: Iterable[Tag]) -> tuple[dict[Tag, Digest], set[Digest]]:
        """Record what is under *tags*, and what that is an index of: where they point, and all that was found."""
        there: dict[Tag, Digest] = {}
        found: set[Digest] = set()
        unread: set[Digest] = set()
        for tag in tags:
            try:
                head = await self.ask(partial(self.upstream.manifest, self.name, tag, head=True))
            except RegistryError as error:
                _require_unknown(error)
                self.skipped += 1
                continue
            if head is None:
                self.broken.append(tag)
                continue
            waiting = [head.digest]
            while waiting:
                digest = waiting.pop()
                if digest in found or digest in unread:
                    continue
                children = await self._children(digest)
                if children is None:
                    unread.add(digest)
                    continue
                found.add(digest)
                # The upstream is asked for manifests by sha256 alone.
                waiting += [child for child in children if child.algorithm == "sha256"]
            if head.digest in found:
                there[tag] = head.digest
            else:
                self.skipped += 1
        return there, found

    async def _children(self, digest: Digest) -> Sequence[Digest] | None:
        """What the manifest that the upstream calls *digest* is an index of, once it is recorded; None: it can't be."""
        ours = await self.metadata.known_as(self.name, digest)
        manifest: Manifest | None = await self.metadata.manifest(self.name, ours) if ours else None
        recorded = manifest is not None
        try:
            manifest = manifest or await self.ask(partial(self.upstream.manifest, self.name, digest))
            if manifest is None or manifest.content is None:
                return None
            _, details = read(manifest.content, manifest.media_type)
        except RegistryError as error:
            # Nothing that is pushed through us; where it can be served it is.
            _require_unknown(error)
            return None
        if not recorded and await self._note(replace(manifest, details=details)):
            self.recorded += 1
        # BuildKit's caches are indexes of layers: of a layer Distribution fails to say that it is no manifest.
        return [child.digest for child in details.manifests if child.media_type in _MANIFESTS]

    async def _note(self, manifest: Manifest) -> bool:
        return await self.metadata.note(self.name, self.project, (), manifest, Seen(version=self.version))


def _require_unknown(error: RegistryError) -> None:
    """Raise *error* unless it says that there is nothing, in a form that anybody can use."""
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise error
