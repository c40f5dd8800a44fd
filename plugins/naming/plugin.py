"""Answer which repository a name stands for."""

from __future__ import annotations

from gateway.plugins import Repository, RepositoryName, Services, hookimpl
from plugins.naming import rules
from plugins.naming.config import Config as _Config


class Plugin:
    """Finds the project that owns an image, by asking the sources for the paths that GitLab would try."""

    Config = _Config

    def __init__(self, config: _Config, services: Services) -> None:
        self._config = config
        self._services = services

    @hookimpl
    async def gateway_resolve(self, name: RepositoryName) -> Repository | None:
        """The repository of *name*; None where GitLab forbids the name or no project owns it."""
        if rules.problem(name) is not None:
            return None
        project = await self._services.facts.project(rules.candidates(name))
        return None if project is None else Repository(name, project)
