"""The routes of cleanup policies that GitLab has not: what one would remove, and running it (ours)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, TypeVar

from aiohttp import web

from gateway.plugins import Asking, CleanupRules, InvalidSettingError, Plan, Project, RepositoryName
from plugins.gitlab_api import errors, models
from plugins.gitlab_api.lent import Lent, many, one, reaching

_LONGEST_REST: Final = 5.0
"""Seconds: what takes long waits for another registry."""

T = TypeVar("T")
_NO_POLICY = "no cleanup policy is kept here"


class Cleanup:
    """Plans and runs the policy of a project; one plan at a time is made for who asks here."""

    def __init__(self, lent: Lent) -> None:
        self._lent = lent
        self._facts = lent.services.facts
        self._images = lent.services.images
        self._turn = asyncio.Lock()
        self._showing = asyncio.Lock()
        self._rested_at = 0.0
        self._planning: dict[tuple[RepositoryName, CleanupRules], asyncio.Task[Plan]] = {}

    async def plan(self, asking: Asking) -> web.StreamResponse:
        """What the policy would do with each tag now, whether it is enabled or not; a plan for each repository."""
        project = _project(asking)
        try:
            found = await self._facts.cleanup_rules(project)
        except InvalidSettingError as error:
            raise errors.said(HTTPStatus.BAD_REQUEST, str(error)) from error
        if found is None:
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
                    plan = await self._planned(name, found.rules)
                    seen = await self._images.seen(asking.identity, name)
            except InvalidSettingError as error:
                raise errors.said(HTTPStatus.BAD_REQUEST, str(error)) from error
            waiting = found.waiting.get(name)
            plans.append(await self._aside(models.CleanupPlan.of, record.id, plan, seen, waiting))
        return await self._aside(many, models.CleanupPlan, plans, {})

    async def _planned(self, name: RepositoryName, rules: CleanupRules) -> Plan:
        """The plan of a repository: one for all who ask at the same time."""
        asked = self._planning.get((name, rules))
        if asked is None:
            asked = asyncio.ensure_future(self._plan(name, rules))
            self._planning[name, rules] = asked
            asked.add_done_callback(lambda done: self._answered((name, rules), done))
        return await asyncio.shield(asked)

    async def _plan(self, name: RepositoryName, rules: CleanupRules) -> Plan:
        async with self._turn:
            # After each there is as long a rest: many thousand tags are a second of thinking, which pulls feel.
            clock = asyncio.get_running_loop().time
            await asyncio.sleep(self._rested_at - clock())
            began = clock()
            try:
                return await self._images.plan(name, rules)
            finally:
                self._rested_at = clock() + min(clock() - began, _LONGEST_REST)

    def _answered(self, key: tuple[RepositoryName, CleanupRules], done: asyncio.Task[Plan]) -> None:
        del self._planning[key]
        if not done.cancelled():
            # Whoever waited may be gone when it fails.
            done.exception()

    async def _aside(self, make: Callable[..., T], *arguments: object) -> T:
        async with self._showing:
            return await asyncio.to_thread(make, *arguments)

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
