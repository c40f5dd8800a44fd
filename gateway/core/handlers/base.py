"""What every handler is given, and what several of them share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from aiohttp import web

from gateway.core.access import AccessControl, Caller
from gateway.core.deletion import Deletion
from gateway.core.index import Index, IndexedStore
from gateway.core.maintenance import Maintenance
from gateway.core.metadata import MetadataStore
from gateway.core.pushes import Pushes
from gateway.core.router import Route
from gateway.core.uploads import Sessions
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import RepositoryName
from gateway.plugins import Backend, Client, Collectable, Event, ManifestStore
from gateway.plugins.manager import Plugins

PAGE: Final = 10_000
"""Names of one page where the client asks for no number, or for more."""


@dataclass(frozen=True, slots=True)
class Core:
    """The parts of the engine, one of each in a worker. *stall* is how long a silent client is waited for (seconds).

    *indexes* has one for each backend that is another registry, by the backend's ``id``; *collectables* the backends
    whose garbage is collected, likewise.
    """

    plugins: Plugins
    access: AccessControl
    metadata: MetadataStore
    sessions: Sessions
    stall: float
    tell: Callable[[Event], None]
    indexes: Mapping[int, Index]
    collectables: Mapping[int, Collectable]
    pushes: Pushes
    maintenance: Maintenance
    deletion: Deletion


@dataclass(frozen=True, slots=True)
class Exchange:
    """One admitted request under ``/v2/``. *base* is the URL by which the client reached the registry."""

    core: Core
    request: web.BaseRequest
    route: Route
    caller: Caller
    client: Client
    project: str
    base: str

    @property
    def name(self) -> RepositoryName:
        """The repository of the route."""
        assert self.route.name is not None
        return self.route.name

    async def backend(self) -> Backend:
        """The backend that holds the repository's bytes."""
        return await self.core.plugins.backend(self.name)

    async def store(self) -> ManifestStore:
        """Who knows the repository's manifests and tags: the core's tables, or another registry and its index."""
        backend = await self.backend()
        if backend.metadata == "truth":
            return self.core.metadata
        return IndexedStore(self.core.indexes[id(backend)], self.project)

    def url(self, path: str) -> str:
        """An absolute URL below the repository, such as ``blobs/sha256:…``."""
        return f"{self.base}/v2/{self.name}/{path}"

    def path(self, path: str) -> str:
        """The path of a URL below ``/v2/``, as the client has to ask for it."""
        return f"{urlsplit(self.base).path}/v2/{path}"

    def tell(self, action: str, **facts: object) -> None:
        """Tell the plugins that something happened, without waiting for them."""
        if self.core.plugins.listeners:
            self.core.tell(Event(action, self.name, self.caller.identity.subject, self.client, **facts))  # type: ignore[arg-type]


Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]


def page_size(route: Route) -> int:
    """The parameter ``n``: how many names the client wants, at most PAGE. RegistryError where it is no number."""
    text = route.parameter("n")
    if text is None:
        return PAGE
    if not text.isascii() or not text.isdecimal():
        raise RegistryError(ErrorCode.PAGINATION_NUMBER_INVALID, "n is a number of results, zero or more")
    return min(int(text[:9]), PAGE)


def next_page(path: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """The ``Link`` header to the next page (RFC 8288)."""
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in parameters.items())
    return {"Link": f'<{path}?{query}>; rel="next"'}


def matches(header: str | None, etag: str) -> bool:
    """Whether an ``If-None-Match`` header names *etag* (RFC 9110 section 13.1.2, weak comparison)."""
    if header is None:
        return False
    return any(item.strip().removeprefix("W/") in {etag, "*"} for item in header.split(","))
