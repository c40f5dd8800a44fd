"""The hooks of ``cleanup``, and its commands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime

from gateway.plugins import Cleanup, ExpirationPolicy, Identity, InvalidSettingError, Job, Project, Services, hookimpl
from plugins.cleanup.commands import commands
from plugins.cleanup.config import Config as _Config
from plugins.cleanup.policies import Policies, StoppedPlans
from plugins.cleanup.runs import KIND, Runs


class Plugin:
    """Keeps the policies of projects, and runs them."""

    Config = _Config
    commands = commands

    def __init__(self, config: _Config, services: Services) -> None:
        self.config = config
        self.services = services
        self.stopped = StoppedPlans(services.documents)
        self._policies = Policies(services.documents, services.log)
        self.runs = Runs(config, services, self._policies, self.stopped)

    @hookimpl
    def gateway_lifespan(self) -> AbstractAsyncContextManager[None]:
        """Say how the runs are done that somebody orders."""

        @asynccontextmanager
        async def life() -> AsyncIterator[None]:
            self.services.tasks.handle(KIND, self.runs.do)
            yield

        return life()

    @hookimpl
    def gateway_jobs(self) -> Iterable[Job]:
        """Run what is due; not at all with a concurrency of 0 (semantics 7.3)."""
        if not self.config.concurrency:
            return []
        return [Job("run cleanup policies", self.runs.often, self.runs.watch, removes=True)]

    @hookimpl
    async def gateway_expiration_policy(self, project: Project) -> ExpirationPolicy:
        """The project's policy; one that nobody has saved yet is GitLab's for a new project, and not enabled."""
        return await self._policies.of(project.path.lower())

    @hookimpl
    async def gateway_set_expiration_policy(
        self, identity: Identity, project: Project, attributes: Mapping[str, object]
    ) -> ExpirationPolicy:
        """Keep the project's policy; its interval begins anew."""
        return await self._policies.change(project.path.lower(), attributes, identity.subject, datetime.now(UTC))

    @hookimpl
    async def gateway_cleanup_rules(self, project: Project) -> Cleanup | None:
        """The rules of the project's policy, and what waits for a confirmation."""
        policy = await self.services.facts.expiration_policy(project)
        if policy is None:
            return None
        records = await self.services.images.repositories_of([project.path.lower()])
        waiting = await self.stopped.waiting([record.path for record in records])
        return Cleanup(self.runs.rules(policy), {name: one.id for name, one in waiting.items()})

    @hookimpl
    async def gateway_run_cleanup(
        self,
        identity: Identity,
        project: Project,
        confirm: bool,  # noqa: FBT001 - the hook's
    ) -> Mapping[str, str] | None:
        """Promise a run, of what waits for a confirmation where this is one."""
        policy = await self.services.facts.expiration_policy(project)
        if policy is None:
            return None
        if not policy.enabled:
            raise InvalidSettingError(f"the cleanup policy of {project.path} is not enabled")
        records = await self.services.images.repositories_of([project.path.lower()])
        paths = [record.path for record in records]
        if not confirm:
            await self.runs.order(project, identity.subject)
            return {name: one.id for name, one in (await self.stopped.waiting(paths)).items()}
        confirmed = await self.stopped.confirm(paths, identity.subject)
        if confirmed:
            await self.runs.order(project, identity.subject, list(confirmed))
        return {name: one.id for name, one in confirmed.items()}
