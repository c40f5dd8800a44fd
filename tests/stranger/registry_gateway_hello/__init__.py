"""A plugin by somebody else: closes one repository to everybody, and hides tags that begin with ``secret-``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from aiohttp import web

from gateway.plugins import (
    Access,
    Deny,
    Endpoint,
    Identity,
    Model,
    Names,
    Opener,
    Public,
    Reason,
    RequestFacts,
    Services,
    hookimpl,
)


class Keys(Model):
    """Which repository is closed."""

    closed: str


commands = typer.Typer(no_args_is_help=True, help="Greet by command.")


@commands.callback()
def _greet() -> None:
    """Greet by command."""


@commands.command()
def which(ctx: typer.Context, config: Annotated[Path, typer.Option("--config")]) -> None:
    """Say which repository is closed."""

    async def closed(opener: Opener) -> str:
        async with opener.opened(config) as plugin:
            return str(plugin.closed)

    typer.echo(f"hello, {asyncio.run(closed(ctx.obj))} is closed")


class Plugin:
    """Vetoes, hides and greets."""

    Config = Keys
    commands = commands

    def __init__(self, config: Keys, services: Services) -> None:
        self._config = config
        self._log = services.log

    @property
    def closed(self) -> str:
        """The closed repository."""
        return self._config.closed

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
