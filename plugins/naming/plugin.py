"""Answer which repository a name stands for."""

from __future__ import annotations

from gateway.plugins import Identity, Project, Reason, Repository, RepositoryName, Services, Unresolved, hookimpl
from plugins.naming import rules
from plugins.naming.config import Config as _Config


class Plugin:
    """Finds the project that owns an image, by asking the sources for the paths that GitLab would try."""

    Config = _Config

    def __init__(self, config: _Config, services: Services) -> None:
        self._extra = config.extra_components
        self._services = services

    @hookimpl
    async def gateway_resolve(self, name: RepositoryName, identity: Identity | None) -> Repository | Unresolved:
        """The repository of *name*, or that GitLab forbids the name, or that no project owns it."""
        problem = rules.problem(name)
        if problem is not None:
            return Unresolved(Reason("naming", problem, "name an image after its project: GROUP/PROJECT"), public=True)
        tried = rules.candidates(name, self._extra)
        found = await self._services.facts.project(tried, identity)
        if isinstance(found, Project):
            return Repository(name, found)
        rule = f"an image lies at most {self._extra} names below its project"
        return Unresolved(
            Reason(
                "project", f"there is no project {' or '.join(tried)}", f"check the name, or create the project; {rule}"
            ),
            steps=found.steps if found else tuple,
        )
