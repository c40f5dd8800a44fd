"""Running policies: each in one place at a time, each repository planned, and what is planned applied."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from prometheus_client import Counter

from gateway.plugins import (
    Applied,
    By,
    CleanupRules,
    CleanupState,
    ExpirationPolicy,
    InvalidSettingError,
    Plan,
    Project,
    RegistryError,
    RepositoryName,
    RepositoryRecord,
    Services,
    Task,
    Visibility,
)
from plugins.cleanup import rules
from plugins.cleanup.config import Config
from plugins.cleanup.policies import Policies, StoppedPlans

KIND: Final = "run cleanup policy"
"""The task that somebody orders."""
HOW: Final = "cleanup policy"
_LEASE: Final = 60.0
"""Seconds after which a run that was killed no longer stands in the way of the next."""
_LOOK: Final = 5.0
"""Seconds after which one looks again for what is run elsewhere."""

RUNS: Final = Counter(
    "registry_gateway_cleanup_runs",
    "Runs of cleanup policies over a repository, by how they ended: finished, unfinished, stopped or failed.",
    ("outcome",),
)

Status = Literal["finished", "unfinished", "stopped", "failed"]


class BusyError(RuntimeError):
    """Somebody else runs the project's policy now."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did with one repository: *planned* of its *total* tags were to go, *removed* are gone.

    *stayed* are those that moved since they were planned. *bytes* go with all that was planned. *why* it stopped or
    failed.
    """

    repository: str
    status: Status
    plan: str = ""
    total: int = 0
    planned: int = 0
    removed: int = 0
    stayed: int = 0
    bytes: int = 0
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """The outcome for programs."""
        return asdict(self)


Watch = Callable[[RepositoryRecord, Applied], None]
"""Hears how far a repository is."""


def _nobody(record: RepositoryRecord, state: Applied) -> None:
    del record, state


class Runs:
    """Plans and applies policies over the repositories of projects."""

    def __init__(self, config: Config, services: Services, policies: Policies, stopped: StoppedPlans) -> None:
        self._config = config
        self._services = services
        self._policies = policies
        self._stopped = stopped

    # -- the periodic job -----------------------------------------------------------------------------

    async def run_due(self) -> None:
        """Run what is due and go on with what was begun, of some projects at a time.

        What is run elsewhere is looked at again until it has ended there, or whoever runs it is gone.
        """
        busy = await self._round(None)
        while busy:
            await asyncio.sleep(_LOOK)
            busy = await self._round(busy)

    async def _round(self, only: frozenset[str] | None) -> frozenset[str]:
        """Run what is due, of *only* these projects; which of them are run elsewhere."""
        policies = await self._policies.enabled()
        repositories: dict[str, list[RepositoryRecord]] = {}
        for record in await self._services.images.repositories_of(list(policies)):
            repositories.setdefault(record.project, []).append(record)
        for project in policies:
            if project not in repositories:
                await self._policies.switch_off(project, "the project has no repositories")
        waiting = iter(
            [
                project
                for project, records in repositories.items()
                if (only is None or project in only)
                and (rules.is_due(policies[project], _now()) or rules.begun(policies[project], records))
            ]
        )
        busy: set[str] = set()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._config.concurrency):
                group.create_task(self._run_some(waiting, busy))
        return frozenset(busy)

    async def _run_some(self, projects: Iterator[str], busy: set[str]) -> None:
        for project in projects:
            try:
                async with self.alone(project):
                    await self._run_one(project)
            except BusyError:
                busy.add(project)
            except Exception as error:
                self._services.log.exception("a cleanup policy could not be run", project=project, why=str(error))

    @asynccontextmanager
    async def alone(self, project: str) -> AsyncIterator[None]:
        """Run the policy of *project* in no other place while the block does. Raises BusyError."""
        async with self._services.leases.held(f"{HOW} {project}", _LEASE) as mine:
            if not mine:
                raise BusyError(project)
            yield

    async def _run_one(self, project: str) -> None:
        policy, now = await self._policies.of(project), _now()
        records = await self._services.images.repositories_of([project])
        waiting = rules.due(policy, records, now)
        for record in waiting:
            await self._services.images.mark_cleanup(record.id, "scheduled")
        started = {record.id for record in waiting}
        # Whoever began them is gone, since the policy is run here.
        begun = deque(record for record in rules.begun(policy, records) if record.id not in started)
        for record in waiting:
            if await self._again(project, policy, record):
                begun.append(record)
        if rules.is_due(policy, now):
            await self._policies.move_on(project, policy, _now())
        while begun:
            record = begun.popleft()
            if await self._again(project, policy, record):
                begun.append(record)

    async def _again(self, project: str, policy: ExpirationPolicy, record: RepositoryRecord) -> bool:
        """Clean a repository by the policy as it is now; whether it has to have another turn."""
        current = await self._policies.of(project)
        if not current.enabled:
            return False
        # The time of the next run alone may have moved on.
        policy = replace(current, next_run_at=policy.next_run_at)
        done = await self.clean(record, policy, By("", HOW))
        return done.status == "unfinished" and done.removed > 0

    # -- what is ordered ------------------------------------------------------------------------------

    async def order(self, project: Project, by: str, repositories: Sequence[str] | None = None) -> None:
        """Have the policy run soon, over *repositories* or all."""
        named = {"path": project.path, "id": project.id, "source": project.source}
        payload = {"project": named, "repositories": None if repositories is None else list(repositories)}
        await self._services.tasks.add(KIND, project.path.lower(), payload, by)

    async def do(self, task: Task) -> None:
        """Run a policy that somebody ordered; where it runs already, that is what was wanted."""
        named, only = task.payload["project"], task.payload["repositories"]
        project = Project(named["path"], Visibility.PRIVATE, id=named["id"], source=named["source"])
        policy = await self._services.facts.expiration_policy(project)
        if policy is None or not policy.enabled:
            self._services.log.warning("a cleanup policy that is not enabled was to run", project=project.path)
            return
        try:
            async with self.alone(task.subject):
                await self.run(project, policy, By(task.by, HOW), only=only)
        except BusyError:
            self._services.log.info("a cleanup policy that was to run is running", project=project.path)

    async def run(
        self,
        project: Project,
        policy: ExpirationPolicy,
        by: By,
        *,
        only: Sequence[str] | None = None,
        plans: Mapping[str, Mapping[str, str]] | None = None,
        force: bool = False,
        watch: Watch = _nobody,
    ) -> Sequence[Outcome]:
        """Run a policy now over the repositories *only*, or all; the caller runs it ``alone``.

        With *plans*, by repository the tags and their digests, nothing else goes. *force*: nothing has to be confirmed.
        """
        path = project.path.lower()
        records = [one for one in await self._services.images.repositories_of([path]) if one.status is None]
        chosen = [one for one in records if only is None or one.path in only]
        done = []
        for record in chosen:
            tags = None if plans is None else plans.get(record.path, {})
            done.append(await self.clean(record, policy, by, tags=tags, force=force, watch=watch))
        kept = await self._policies.of(path)
        if rules.is_due(kept, _now()) and len(chosen) == len(records):
            await self._policies.move_on(path, kept, _now())
        return done

    # -- one repository -------------------------------------------------------------------------------

    async def plan(
        self, record: RepositoryRecord, policy: ExpirationPolicy, tags: Mapping[str, str] | None = None
    ) -> Plan:
        """What the policy would remove now, of *tags* (with their digests) where they are given."""
        limit = self._config.max_list_size
        return await self._services.images.plan(RepositoryName(record.path), CleanupRules.of(policy, limit), only=tags)

    async def clean(
        self,
        record: RepositoryRecord,
        policy: ExpirationPolicy,
        by: By,
        *,
        tags: Mapping[str, str] | None = None,
        force: bool = False,
        watch: Watch = _nobody,
    ) -> Outcome:
        """Plan and apply. What can't be done now leaves the repository unfinished, for the next run."""
        state = Applied(0)

        def told(now: Applied) -> None:
            nonlocal state
            state = now
            watch(record, now)

        await self._services.images.mark_cleanup(record.id, "ongoing")
        try:
            done = await self._clean(record, policy, by, tags=tags, force=force, told=told)
        except (RegistryError, InvalidSettingError) as error:
            why = (error.why or error.message) if isinstance(error, RegistryError) else str(error)
            done = Outcome(record.path, "failed", planned=state.planned, removed=state.removed, why=why)
        RUNS.labels(done.status).inc()
        ended: CleanupState = "unscheduled" if done.status == "finished" else "unfinished"
        await self._services.images.mark_cleanup(record.id, ended, deleted=done.removed)
        tell = self._services.log.error if done.status == "failed" else self._services.log.info
        tell("a repository was cleaned up", subject=by.subject, **done.as_json())
        return done

    async def _clean(
        self,
        record: RepositoryRecord,
        policy: ExpirationPolicy,
        by: By,
        *,
        tags: Mapping[str, str] | None,
        force: bool,
        told: Callable[[Applied], None],
    ) -> Outcome:
        stopped = await self._stopped.get(record.path)
        confirmed = stopped is not None and stopped.confirmed_by is not None
        if stopped is not None and confirmed and tags is None and not force:
            tags = stopped.tags
        plan = await self.plan(record, policy, tags)
        planned = Outcome(
            record.path, "finished", plan.id, total=len(plan.tags), planned=len(plan.removed), bytes=plan.bytes
        )
        if not (force or confirmed):
            percent = await self._percent(record, policy, plan)
            most = self._config.max_delete_percent
            if most is not None and percent > most:
                await self._stopped.keep(plan)
                why = f"{percent:.1f} % of the tags would go, max_delete_percent is {most}: somebody has to confirm it"
                return replace(planned, status="stopped", why=why)
        seconds = self._config.delete_timeout.total_seconds()
        done = await self._services.images.apply(plan, by, told, seconds=seconds)
        finished = done.finished and not plan.cut
        if finished and stopped is not None:
            await self._stopped.forget(record.path)
        status: Status = "finished" if finished else "unfinished"
        return replace(planned, status=status, removed=done.removed, stayed=done.stayed)

    async def _percent(self, record: RepositoryRecord, policy: ExpirationPolicy, plan: Plan) -> float:
        """The share of the tags that go in all, also where one run looks at some of them alone."""
        if not plan.cut or self._config.max_delete_percent is None:
            return plan.percent
        whole = await self._services.images.plan(RepositoryName(record.path), CleanupRules.of(policy))
        return whole.percent


def _now() -> datetime:
    return datetime.now(UTC)
