"""The routes of cleanup policies that GitLab has not: what one would remove, and running it (ours)."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from gateway.plugins import Asking, CleanupRules, InvalidSettingError, Project, RepositoryName
from plugins.gitlab_api import errors, models
from plugins.gitlab_api.lent import Lent, many, one, reaching

_NO_POLICY = "no cleanup policy is kept here"


class Cleanup:
    """Plans and runs the policy of a project."""

    def __init__(self, lent: Lent) -> None:
        self._lent = lent
        self._facts = lent.services.facts
        self._images = lent.services.images

    async def plan(self, asking: Asking) -> web.StreamResponse:
        """What the policy would do with each tag now, whether it is enabled or not; a plan for each repository."""
        project = _project(asking)
        policy = await self._facts.expiration_policy(project)
        if policy is None:
            raise errors.said(HTTPStatus.BAD_REQUEST, _NO_POLICY)
        records, _ = await self._images.repositories(asking.identity, [project.path.lower()])
        plans = []
        for record in records:
            if record.status is not None:
                # All of it goes, whatever a policy says.
                continue
            name = RepositoryName(record.path)
            try:
                async with reaching():
                    found = await self._images.plan(name, CleanupRules.of(policy))
                    seen = set((await self._images.tag_names(asking.identity, [name]))[name])
            except InvalidSettingError as error:
                raise errors.said(HTTPStatus.BAD_REQUEST, str(error)) from error
            plans.append(models.CleanupPlan.of(record.id, found, seen))
        return many(models.CleanupPlan, plans, {})

    async def run(self, asking: Asking) -> web.StreamResponse:
        """Promise to run the policy now; what it stopped at still waits for a confirmation."""
        return await self._run(asking, confirm=False)

    async def confirm(self, asking: Asking) -> web.StreamResponse:
        """Confirm what a run stopped at, and promise to do it."""
        return await self._run(asking, confirm=True)

    async def _run(self, asking: Asking, *, confirm: bool) -> web.StreamResponse:
        try:
            plans = await self._facts.run_cleanup(asking.identity, _project(asking), confirm=confirm)
        except InvalidSettingError as error:
            raise errors.said(HTTPStatus.BAD_REQUEST, str(error)) from error
        if plans is None:
            raise errors.said(HTTPStatus.BAD_REQUEST, _NO_POLICY)
        return one(models.CleanupRun(plans=dict(plans)), HTTPStatus.ACCEPTED)


def _project(asking: Asking) -> Project:
    project = asking.answers[0].access.project
    assert project is not None
    return project
