"""Running policies: each in one place at a time, each repository planned, and what is planned applied."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
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
_LEASE: Final = 40.0
"""Seconds after which a run that was killed no longer stands in the way of the next."""
_LOOK: Final = 5.0
"""Seconds after which one looks again for what is due, or run elsewhere."""
_WATCH: Final = timedelta(seconds=10)
"""How often one looks whether somebody else runs a policy, to go on with it if they are killed."""

RUNS: Final = Counter(
    "registry_gateway_cleanup_runs",
    "Runs of cleanup policies over a repository, by how they ended: finished, unfinished, stopped or failed.",
    ("outcome",),
)

Watch = Callable[[RepositoryRecord, Applied], None]
"""Hears how far a repository is."""
Status = Literal["finished", "unfinished", "stopped", "failed"]


class BusyError(RuntimeError):
    """Somebody else runs the project's policy now."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did with one repository: *planned* of its *total* tags were to go, *removed* are gone.

    *stayed* are those that moved since they were planned. *plan*, *total* and *bytes*, which go with all that was
    planned, are those of its first turn. *why* it stopped or failed.
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

    @property
    def goes_on(self) -> bool:
        """Whether its repository shall have another turn: it got somewhere, and there is more to do."""
        return self.status == "unfinished" and self.removed > 0

    def behind(self, earlier: Outcome) -> Outcome:
        """Both turns as one."""
        removed, stayed = earlier.removed + self.removed, earlier.stayed + self.stayed
        planned = earlier.removed + earlier.stayed + self.planned
        return replace(
            self,
            plan=earlier.plan,
            total=earlier.total,
            planned=planned,
            removed=removed,
            stayed=stayed,
            bytes=earlier.bytes,
        )

    def then(self, watch: Watch) -> Watch:
        """Have *watch* hear of the next turn as if it belonged to this one."""

        def told(record: RepositoryRecord, state: Applied) -> None:
            planned = self.removed + self.stayed + state.planned
            removed, stayed = self.removed + state.removed, self.stayed + state.stayed
            watch(record, replace(state, planned=planned, removed=removed, stayed=stayed))

        return told

    def as_json(self) -> dict[str, Any]:
        """The outcome for programs."""
        return asdict(self)


def _nobody(record: RepositoryRecord, state: Applied) -> None:
    del record, state


class Runs:
    """Plans and applies policies over the repositories of projects."""

    def __init__(self, config: Config, services: Services, policies: Policies, stopped: StoppedPlans) -> None:
        self._config = config
        self._services = services
        self._policies = policies
        self._stopped = stopped
        # By the loop's clock: when policies that are due were last looked for, and when a project is looked at again.
        self._looked: float | None = None
        self._not_before: dict[str, float] = {}

    # -- the periodic job -----------------------------------------------------------------------------

    @property
    def often(self) -> timedelta:
        """How often one has to ``watch``."""
        return min(self._config.interval, _WATCH)

    async def watch(self) -> None:
        """Once in an interval run what is due; in between only where somebody began a run and may be gone."""
        now = asyncio.get_running_loop().time()
        if self._looked is None or now - self._looked >= self._config.interval.total_seconds():
            self._looked = now
            await self.run_due()
        elif abandoned := await self._projects(abandoned=True):
            for project in abandoned:
                self._not_before.pop(project, None)
            await self._run_due()

    async def run_due(self) -> None:
        """Run what is due and go on with what was begun, of some projects at a time, and of each once.

        What becomes due meanwhile is run as well. What is run elsewhere is looked at again until it has ended there, or
        whoever runs it is gone.
        """
        self._not_before.clear()
        await self._run_due()

    async def _run_due(self) -> None:
        now = asyncio.get_running_loop().time
        found = await self._projects()
        looked = now()
        busy: set[str] = set()
        running: dict[str, asyncio.Task[bool]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                ready = [one for one in found if one not in running and self._not_before.get(one, 0) <= now()]
                for project in ready[: self._config.concurrency - len(running)]:
                    running[project] = group.create_task(self._run_alone(project))
                if not (running or busy):
                    return
                if running:
                    await asyncio.wait(running.values(), timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(_LOOK)
                for project in [one for one, task in running.items() if task.done()]:
                    ran = running.pop(project).result()
                    self._not_before[project] = now() + (self._config.interval.total_seconds() if ran else _LOOK)
                    (busy.discard if ran else busy.add)(project)
                if now() - looked >= _LOOK:
                    found, looked = await self._projects_again(found), now()
                    busy &= set(found)

    async def _projects_again(self, found: Sequence[str]) -> Sequence[str]:
        try:
            return await self._projects()
        except Exception as error:  # noqa: BLE001 - a database that can't answer now must not end what runs
            self._services.log.warning("cleanup policies that are due could not be looked for", why=str(error))
            return found

    async def _projects(self, *, abandoned: bool = False) -> Sequence[str]:
        """The projects with something to run; *abandoned*: those where somebody is in the middle, or was."""
        policies = await self._policies.enabled()
        repositories: dict[str, list[RepositoryRecord]] = {}
        for record in await self._services.images.repositories_of(list(policies)):
            repositories.setdefault(record.project, []).append(record)
        for project in policies:
            if project not in repositories:
                await self._policies.switch_off(project, "the project has no repositories")
        if abandoned:
            return [project for project, records in repositories.items() if rules.running(records)]
        return [
            project
            for project, records in repositories.items()
            if rules.is_due(policies[project], _now()) or rules.begun(policies[project], records)
        ]

    async def _run_alone(self, project: str) -> bool:
        """Run the policy of a project; False where it is run elsewhere."""
        try:
            async with self.alone(project):
                await self._run_one(project)
        except BusyError:
            return False
        except Exception as error:
            self._services.log.exception("a cleanup policy could not be run", project=project, why=str(error))
        return True

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
        begun = [record for record in rules.begun(policy, records) if record.id not in started]

        async def turn(record: RepositoryRecord) -> bool:
            # As it is by now; one that was switched off is not gone on with.
            current = await self._policies.of(project)
            try:
                return current.enabled and (await self.clean(record, current, By("", HOW))).goes_on
            except Exception as error:
                self._services.log.exception(
                    "a repository could not be cleaned up", repository=record.path, why=str(error)
                )
                return False

        begun += [record for record in waiting if await turn(record)]
        if rules.is_due(policy, now):
            await self._policies.move_on(project, policy, _now())
        await _in_turn(begun, turn)

    # -- what is ordered ------------------------------------------------------------------------------

    async def order(self, project: Project, by: str, repositories: Sequence[str] | None = None) -> None:
        """Have the policy run soon, over *repositories* or all."""
        named = {"path": project.path, "id": project.id, "source": project.source}
        payload = {"project": named, "repositories": None if repositories is None else list(repositories)}
        await self._services.tasks.add(KIND, project.path.lower(), payload, by)

    async def do(self, task: Task) -> None:
        """Run a policy that somebody ordered; while it is run elsewhere the order stands."""
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
            await self._services.tasks.add(KIND, task.subject, task.payload, task.by, after=_LOOK)

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
        """Run a policy now over the repositories *only*, or all, to its end; the caller runs it ``alone``.

        With *plans*, by repository the tags and their digests, nothing else goes. *force*: nothing has to be confirmed.
        """
        path = project.path.lower()
        records = [one for one in await self._services.images.repositories_of([path]) if one.status is None]
        chosen = [one for one in records if only is None or one.path in only]
        done: dict[str, Outcome] = {}

        async def turn(record: RepositoryRecord) -> bool:
            earlier = done.get(record.path)
            current = policy if earlier is None else await self._services.facts.expiration_policy(project)
            if current is None or not current.enabled:
                return False
            tags = None if plans is None else plans.get(record.path, {})
            told = watch if earlier is None else earlier.then(watch)
            ended = await self.clean(record, current, by, tags=tags, force=force, watch=told)
            done[record.path] = ended if earlier is None else ended.behind(earlier)
            return ended.goes_on

        begun = [record for record in chosen if await turn(record)]
        kept = await self._policies.of(path)
        if plans is None and rules.is_due(kept, _now()) and len(chosen) == len(records):
            await self._policies.move_on(path, kept, _now())
        await _in_turn(begun, turn)
        return list(done.values())

    # -- one repository -------------------------------------------------------------------------------

    async def plan(
        self, record: RepositoryRecord, policy: ExpirationPolicy, tags: Mapping[str, str] | None = None
    ) -> Plan:
        """What the policy would remove now, of *tags* (with their digests) where they are given."""
        # Of those that somebody has chosen all are looked at.
        rules = self.rules(policy) if tags is None else CleanupRules.of(policy)
        return await self._services.images.plan(RepositoryName(record.path), rules, only=tags)

    def rules(self, policy: ExpirationPolicy) -> CleanupRules:
        """What a run of the policy goes by. Raises InvalidSettingError where it makes no sense."""
        return CleanupRules.of(policy, self._config.max_list_size)

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
        """Plan and apply. What can't be done now leaves the repository unfinished, for the next run.

        With *tags* it leaves the repository as it was, however it ends: the next run would do more than was asked for.
        """
        state = Applied(0)

        def told(now: Applied) -> None:
            nonlocal state
            state = now
            watch(record, now)

        if tags is None:
            await self._services.images.mark_cleanup(record.id, "ongoing")
        try:
            done = await self._clean(record, policy, by, tags=tags, force=force, told=told)
        except (RegistryError, InvalidSettingError) as error:
            why = (error.why or error.message) if isinstance(error, RegistryError) else str(error)
            done = Outcome(record.path, "failed", planned=state.planned, removed=state.removed, why=why)
        except Exception:
            if tags is None:
                # Who finds it ongoing would begin again at once.
                await self._services.images.mark_cleanup(record.id, "unfinished", deleted=state.removed)
            raise
        RUNS.labels(done.status).inc()
        if tags is None:
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
        allowed = stopped.tags if stopped is not None and stopped.confirmed_by is not None else None
        if tags is None and not force:
            tags = allowed
        plan = await self.plan(record, policy, tags)
        planned = Outcome(
            record.path, "finished", plan.id, total=len(plan.tags), planned=len(plan.removed), bytes=plan.bytes
        )
        confirmed = tags is not None and allowed is not None and tags.items() <= allowed.items()
        if not (force or confirmed):
            percent = await self._percent(record, policy, plan)
            most = self._config.max_delete_percent
            if most is not None and percent > most:
                await self._stopped.keep(plan)
                why = f"{percent:.1f} % of the tags would go, max_delete_percent is {most}: somebody has to confirm it"
                return replace(planned, status="stopped", why=why)
        seconds = self._config.delete_timeout.total_seconds()
        done = await self._services.images.apply(plan, by, told, seconds=seconds)
        cut = plan.cut
        if stopped is not None and tags is not None and tags == allowed:
            # What was confirmed may have been a part.
            cut = stopped.cut
            if done.finished:
                await self._stopped.forget(record.path)
        elif stopped is not None and tags is None and done.finished and not cut:
            await self._stopped.forget(record.path)
        status: Status = "finished" if done.finished and not cut else "unfinished"
        if done.refused and (status == "finished" or not done.removed):
            status = "failed"
        return replace(planned, status=status, removed=done.removed, stayed=done.stayed, why=done.trouble)

    async def _percent(self, record: RepositoryRecord, policy: ExpirationPolicy, plan: Plan) -> float:
        """The share of the tags that go in all, also where one run looks at some of them alone."""
        if not plan.cut or self._config.max_delete_percent is None:
            return plan.percent
        whole = await self._services.images.plan(RepositoryName(record.path), CleanupRules.of(policy))
        return whole.percent


async def _in_turn(records: Iterable[RepositoryRecord], turn: Callable[[RepositoryRecord], Awaitable[bool]]) -> None:
    """Give each its turn, and again as long as *turn* says so."""
    waiting = deque(records)
    while waiting:
        record = waiting.popleft()
        if await turn(record):
            waiting.append(record)


def _now() -> datetime:
    return datetime.now(UTC)
