"""A plugin by somebody else: closes one repository to everybody, and hides tags that begin with ``secret-``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aiohttp import web

from gateway.plugins import (
    Access,
    Deny,
    Endpoint,
    Identity,
    Model,
    Names,
    Public,
    Reason,
    RequestFacts,
    Services,
    hookimpl,
)


class Keys(Model):
    """Which repository is closed."""

    closed: str


class Plugin:
    """Vetoes, hides and greets."""

    Config = Keys

    def __init__(self, config: Keys, services: Services) -> None:
        self._config = config
        self._log = services.log

    @hookimpl
    def gateway_admit_request(self, identity: Identity, request: RequestFacts) -> Deny | None:
        """Let nobody near the closed repository."""
        if request.repository != self._config.closed:
            return None
        return Deny(Reason("closed", f"hello {identity.subject}, this repository is closed"))

    @hookimpl
    async def gateway_filter_tags(self, tags: Names) -> Names:
        """Hide the secret ones."""
        return [tag for tag in tags if not tag.startswith("secret-")]

    @hookimpl
    def gateway_endpoints(self) -> Iterable[Endpoint]:
        """Greet anybody, and by the name of a project whoever may push to it."""

        async def greet(_: web.BaseRequest, identity: Identity, parts: Mapping[str, str]) -> web.Response:
            return web.Response(text=f"hello {identity.subject}, from {parts.get('project', 'everywhere')}")

        def push(parts: Mapping[str, str]) -> Access:
            return Access("repository", f"conf/{parts['project']}", ("push",))

        return [
            Endpoint("GET", "/hello", Public("greetings are no secret"), greet),
            Endpoint("GET", "/hello/{project}", push, greet),
        ]
