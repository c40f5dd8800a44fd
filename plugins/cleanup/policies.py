"""Where policies are kept, and the plans that wait for somebody's word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final

from gateway.plugins import Document, Documents, ExpirationPolicy, InvalidSettingError, Plan
from plugins.cleanup import rules

_POLICY: Final = "policy"
_STOPPED: Final = "stopped"
_ATTEMPTS: Final = 5


class Policies:
    """The policies by the lower-case paths of their projects."""

    def __init__(self, documents: Documents, log: Any) -> None:
        self._documents = documents
        self._log = log

    async def of(self, project: str) -> ExpirationPolicy:
        """That of one project. One that makes no sense is shown as it would be without, and never enabled."""
        found = await self._documents.get(_POLICY, project)
        try:
            return rules.DEFAULT if found is None else rules.of_json(found.value)
        except InvalidSettingError:
            return rules.DEFAULT

    async def change(self, project: str, attributes: Mapping[str, object], by: str, now: datetime) -> ExpirationPolicy:
        """Change that of one project. Raises InvalidSettingError."""
        for _ in range(_ATTEMPTS):
            found = await self._documents.get(_POLICY, project)
            policy = rules.changed(await self.of(project), attributes, now)
            version = found.version if found is not None else 0
            if await self._documents.put(_POLICY, project, rules.as_json(policy), by, version=version):
                return policy
        raise RuntimeError(f"the policy of {project} is changed all the time")

    async def enabled(self) -> Mapping[str, ExpirationPolicy]:
        """Those that are enabled; one that makes no sense is switched off (semantics 7.3)."""
        found = {}
        for document in await self._documents.all(_POLICY):
            try:
                policy = rules.of_json(document.value)
            except InvalidSettingError as error:
                await self._switch_off(document, rules.DEFAULT, str(error))
                continue
            if policy.enabled:
                found[document.key] = policy
        return found

    async def switch_off(self, project: str, why: str) -> None:
        """Let that of one project run no more, and say why in the log."""
        found = await self._documents.get(_POLICY, project)
        if found is not None:
            await self._switch_off(found, await self.of(project), why)

    async def _switch_off(self, document: Document, policy: ExpirationPolicy, why: str) -> None:
        given = document.value if isinstance(document.value, dict) else {}
        if given.get("enabled") is False:
            return
        # What makes no sense is kept as it is, for whoever mends it.
        value = {**rules.as_json(policy), **given, "enabled": False}
        if await self._documents.put(_POLICY, document.key, value, "cleanup", version=document.version):
            self._log.warning("a cleanup policy was switched off", project=document.key, why=why)

    async def move_on(self, project: str, seen: ExpirationPolicy, now: datetime) -> None:
        """Set the time of the next run, unless the policy was changed since it was *seen*: then it has one."""
        found = await self._documents.get(_POLICY, project)
        if found is not None and found.value == rules.as_json(seen):
            fresh = replace(seen, next_run_at=now + rules.CADENCES[seen.cadence])
            value = rules.as_json(fresh)
            await self._documents.put(_POLICY, project, value, found.changed_by, version=found.version)


@dataclass(frozen=True, slots=True)
class Stopped:
    """A plan that would delete more than may go unasked: *remove* of *total* tags, those of *tags* with their digests.

    *at* is ISO 8601. *confirmed_by*: somebody has confirmed it, and it is carried out. *cut*: not all tags were looked
    at.
    """

    id: str
    at: str
    remove: int
    total: int
    tags: Mapping[str, str]
    confirmed_by: str | None = None
    cut: bool = False


class StoppedPlans:
    """The plans that wait, by the names of their repositories."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def get(self, repository: str) -> Stopped | None:
        """That of one repository."""
        found = await self._documents.get(_STOPPED, repository)
        return Stopped(**found.value) if found is not None else None

    async def keep(self, plan: Plan) -> bool:
        """Have *plan* wait in place of what waited; False where it waits already, or another is confirmed by now."""
        found = await self._documents.get(_STOPPED, plan.repository)
        if found is not None and (found.value["id"] == plan.id or found.value["confirmed_by"] is not None):
            return False
        tags = {name: str(tag.digest) for name, tag in plan.removed.items()}
        waits = Stopped(plan.id, plan.made_at.isoformat(), len(tags), len(plan.tags), tags, cut=plan.cut)
        version = found.version if found is not None else 0
        return await self._documents.put(_STOPPED, plan.repository, asdict(waits), "cleanup", version=version)

    async def confirm(self, repositories: Sequence[str], by: str) -> Mapping[str, Stopped]:
        """Confirm what waits for *repositories*: what was confirmed, by repository."""
        confirmed = {}
        for repository in repositories:
            found = await self._documents.get(_STOPPED, repository)
            if found is None:
                continue
            value = {**found.value, "confirmed_by": by}
            if await self._documents.put(_STOPPED, repository, value, by, version=found.version):
                confirmed[repository] = Stopped(**value)
        return confirmed

    async def waiting(self, repositories: Sequence[str]) -> Mapping[str, Stopped]:
        """What waits for *repositories* and nobody has confirmed."""
        found = {repository: await self.get(repository) for repository in repositories}
        return {name: one for name, one in found.items() if one is not None and one.confirmed_by is None}

    async def forget(self, repository: str) -> None:
        """Nothing of the repository waits any more."""
        await self._documents.remove(_STOPPED, repository)
