"""The commands of plugins: found when they are called, and given the gateway's parts without its server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

from gateway import app, launcher
from gateway.core import keys, logs
from gateway.core.database import migrate
from gateway.errors import ConfigError, PluginFailedError, RegistryError
from gateway.plugins import NoCache
from gateway.plugins.manager import installed

_ASKED: Final = (
    "gateway_backends",
    "gateway_choose_backend",
    "gateway_event",
    "gateway_expiration_policy",
    "gateway_project",
    "gateway_resolve",
)
"""Who answers one of these is opened beside the plugin itself."""


def of(name: str) -> typer.Typer | None:
    """The commands that the installed plugin *name* offers. Raises ConfigError where it can't be imported."""
    for plugin in installed():
        if plugin.name == name:
            try:
                found = getattr(plugin.load(), "commands", None)
            except Exception as error:
                raise ConfigError([f"{name}: cannot be imported from {plugin.distribution}: {error!r}"]) from error
            return found if isinstance(found, typer.Typer) else None
    return None


@dataclass(frozen=True, slots=True)
class Opening:
    """Opens the plugin *use* as a configuration has it."""

    use: str

    @asynccontextmanager
    async def opened(self, config: Path) -> AsyncIterator[Any]:
        """The first plugin of that kind. Raises ConfigError, also in place of a RegistryError of the block."""
        # What goes wrong is said once, by the command; what it deletes is logged as the gateway would.
        logs.configure("deletions")
        checked = launcher.check(config)
        name = next((item.name for item in checked.plugins if item.use == self.use), None)
        if name is None:
            raise ConfigError([f"{config} does not enable {self.use}: add `- use: {self.use}` to its plugins"])
        signing = checked.tokens.signing_key_file.exists()
        own = keys.load(checked.tokens, shared=checked.database.shared, create=False) if signing else keys.ephemeral()
        parts = app.build(checked, own, NoCache())
        await migrate(checked.database)
        await parts.database.open()
        telling = asyncio.create_task(parts.events.run())
        try:
            async with parts.plugins.lifespan(_ASKED, name):
                yield parts.plugins.plugin(name)
                await parts.events.told()
        except RegistryError as error:
            words = str(error) if isinstance(error, PluginFailedError) else error.why or error.message
            raise ConfigError([words]) from error
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await parts.database.close()
