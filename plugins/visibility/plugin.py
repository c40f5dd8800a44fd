"""Answer what may be done, by the tables of ``rules`` and ``rest`` and the facts of the identity's own source."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.plugins import Access, Decision, Identity, Project, Services, Standing, Verdict, Visible, hookimpl
from plugins.visibility import rest, rules
from plugins.visibility.config import Config as _Config


class Plugin:
    """Decides as GitLab does: by visibility, registry level, role and the credential's ceiling."""

    Config = _Config

    def __init__(self, config: _Config, services: Services) -> None:
        self._config = config
        self._services = services

    @hookimpl
    async def gateway_authorize(self, identity: Identity, accesses: Sequence[Access]) -> Decision:
        """One verdict for each access."""
        return Decision(tuple([await self._verdict(identity, access) for access in accesses]))

    @hookimpl
    async def gateway_visible_projects(self, identity: Identity) -> Visible:
        """The projects whose images *identity* may pull."""
        known = await self._services.facts.projects(identity)
        return Visible(
            projects=frozenset(
                project.path.lower() for project, standing in known if rules.may_pull(identity, project, standing)
            )
        )

    async def _verdict(self, identity: Identity, access: Access) -> Verdict:
        if access.type == "registry" and access.name == "catalog":
            return rules.catalog(identity, access.actions)
        if access.type == "project" and access.project is not None:
            standing = await self._standing(identity, access.project)
            return rest.project_verdict(identity, access.project, standing, access.actions)
        if access.type == "group" and access.group is not None:
            standing = Standing()
            if not identity.anonymous:
                standing = await self._services.facts.group_standing(identity, access.group)
            return rest.group_verdict(identity, access.group, standing, access.actions)
        if access.repository is None:
            return Verdict()
        return rules.verdict(identity, access, await self._standing(identity, access.repository.project))

    async def _standing(self, identity: Identity, project: Project) -> Standing:
        return Standing() if identity.anonymous else await self._services.facts.standing(identity, project)
