"""Cleaning up a repository: what is recorded of it becomes a plan, and the plan is applied tag by tag.

A plan costs a constant number of queries, and the configs of images that nobody has read yet where dates matter. Where
tags go, each is looked at again: one that moved since is left alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from sqlalchemy import Text, bindparam, select, update

from gateway.core import retention
from gateway.core.database import Database, Query
from gateway.core.dating import Dating
from gateway.core.deletion import Deletion
from gateway.core.listing import Listing, time_of
from gateway.core.metrics import CLEANED_BYTES, CLEANED_TAGS
from gateway.core.retention import Contents, Tagged, paced
from gateway.core.schema import manifests, references, repositories, tags
from gateway.errors import ErrorCode, InvalidSettingError, RegistryError
from gateway.oci import RepositoryName, Tag
from gateway.plugins import DELETION_BEGUN, Applied, By, CleanupRules, CleanupState, Images, Plan, Task

KIND: Final = "delete tags"
"""The task of a bulk deletion (semantics 6)."""
_AIR: Final = 4.0
"""Seconds of rest after each second of deleting: pulls in this process are then slowed by much less than a fifth."""

_of_name = manifests.c.repository_id == (
    select(repositories.c.id).where(repositories.c.path == bindparam("path", type_=Text())).scalar_subquery()
)
_TAGS: Final = Query(
    select(tags.c.name, manifests.c.digest, manifests.c.created_at, manifests.c.layers_size)
    .select_from(tags.join(manifests, manifests.c.id == tags.c.manifest_id))
    .where(_of_name)
    .order_by(tags.c.name)
)
_begun = (manifests.c.annotations == json.dumps(dict(DELETION_BEGUN))) & (manifests.c.layers_size == 0)
_MANIFESTS: Final = Query(select(manifests.c.digest, manifests.c.subject, _begun).where(_of_name))
_REFERENCES: Final = Query(
    select(manifests.c.digest, references.c.kind, references.c.digest, references.c.size)
    .select_from(manifests.join(references, references.c.manifest_id == manifests.c.id))
    .where(_of_name)
    .order_by(manifests.c.id, references.c.position)
)

Told = Callable[[Applied], None]
"""Told after each tag."""


class Planning:
    """Plans over what is recorded."""

    def __init__(self, database: Database, listing: Listing, dating: Dating) -> None:
        self._database = database
        self._listing = listing
        self._dating = dating

    async def plan(
        self,
        name: RepositoryName,
        rules: CleanupRules,
        now: datetime,
        only: Mapping[str, str] | None,
        broken: Sequence[Tag] = (),
    ) -> Plan:
        """Decide about every recorded tag, and the *broken* ones, which have no manifest.

        Raises InvalidSettingError, and RegistryError where a date can't be had.
        """
        rules.check()
        if rules.by_date:
            named = (await self._listing.tag_names([name]))[name]
            _, undecided, _ = await asyncio.to_thread(retention.choose, named, replace(rules, max_list_size=0))
            await self._dating.date(name, undecided)
        found = await self._contents(name, broken)
        # A second of thinking about many thousand tags holds up nobody.
        return await asyncio.to_thread(retention.plan, name, found, rules, now, only)

    async def mark(self, number: int, state: CleanupState, deleted: int | None) -> None:
        """Record how the cleanup of a repository stands."""
        fresh: dict[str, Any] = {"cleanup_state": state}
        at = {"ongoing": "cleanup_started_at", "unscheduled": "cleanup_completed_at"}.get(state)
        if at is not None:
            fresh[at] = int(time.time() * 1000)
        if deleted is not None:
            fresh["cleanup_deleted"] = deleted
        async with self._database.write() as writer:
            await writer.run(update(repositories).where(repositories.c.id == number).values(fresh))

    async def _contents(self, name: RepositoryName, broken: Sequence[Tag]) -> Contents:
        tagged, recorded, named = [
            await self._database.survey(query, path=name) for query in (_TAGS, _MANIFESTS, _REFERENCES)
        ]
        return await asyncio.to_thread(_contents, tagged, recorded, named, broken)


def _contents(tagged: Any, recorded: Any, named: Any, broken: Sequence[Tag]) -> Contents:
    children: dict[str, list[str]] = {}
    blobs: dict[str, dict[str, int]] = {}
    for manifest, kind, digest, size in paced(named):
        if kind == "manifest":
            children.setdefault(manifest, []).append(digest)
        else:
            blobs.setdefault(manifest, {})[digest] = size
    found = [Tagged(tag, digest, time_of(created), size) for tag, digest, created, size in paced(tagged)]
    lost = {tag: Tagged(tag, "") for tag in broken} if broken else {}
    if lost:
        found = sorted([*(tag for tag in found if tag.name not in lost), *lost.values()])
    subjects = {digest: subject for digest, subject, _ in paced(recorded)}
    return Contents(found, subjects, children, blobs, frozenset(digest for digest, _, begun in recorded if begun))


async def apply(
    plan: Plan, by: By, told: Told, *, deletion: Deletion, listing: Listing, seconds: float | None = None
) -> Applied:
    """Delete what *plan* removes, for at most *seconds*; companions go with what they belong to.

    A tag that the registry refuses to delete is left, and the others go. Raises RegistryError where it can't or won't
    delete anything now; *told* has heard what was done until then.
    """
    began = time.monotonic()
    state = Applied(len(plan.removed))
    own = [tag for tag in plan.removed.values() if tag.rule != "companion"]
    companions = [tag.name for tag in plan.removed.values() if tag.rule == "companion"]
    before = {record.name for record in await listing.some(plan.repository, companions)}
    for tag in own:
        started = time.monotonic()
        # One that can go has its turn in any case: so every run gets somewhere.
        if state.removed + state.stayed and seconds is not None and started - began >= seconds:
            break
        try:
            if await deletion.tag(plan.repository, Tag(tag.name), by, tag.digest, within=plan.removed):
                state.removed += 1
                CLEANED_TAGS.labels(by.how).inc()
            else:
                state.stayed += 1
        except RegistryError as error:
            if not _is_refusal(error):
                raise
            state.refused.append(tag.name)
        told(state)
        await asyncio.sleep((time.monotonic() - started) * _AIR)
    else:
        state.finished = True
    left = {record.name for record in await listing.some(plan.repository, companions)}
    state.removed += len(before - left)
    # Those of what was refused stay with it.
    state.stayed += len(companions) - len(before - left) if state.finished and not state.refused else 0
    CLEANED_TAGS.labels(by.how).inc(len(before - left))
    if state.finished and not (state.stayed or state.refused):
        CLEANED_BYTES.labels(by.how).inc(plan.bytes)
    told(state)
    return state


def _is_refusal(error: RegistryError) -> bool:
    """Whether it is about the one tag: not that nobody may delete, or that nothing can be deleted now or at all."""
    always = {ErrorCode.UNAUTHORIZED, ErrorCode.UNSUPPORTED, ErrorCode.TOOMANYREQUESTS}
    return error.status < HTTPStatus.INTERNAL_SERVER_ERROR and error.code not in always


class BulkDeletion:
    """Does what the REST API's bulk deletions promised (semantics 6 and 7.2)."""

    def __init__(self, images: Images, log: Any) -> None:
        self._images = images
        self._log = log

    async def do(self, task: Task) -> None:
        """Delete by the rules of the payload, as old as things were when it was ordered."""
        name, given = RepositoryName(task.subject), task.payload
        record = await self._images.named(name)
        if record is None or record.id != given.get("repository", record.id):
            return
        span, pattern = given.get("older_than"), given.get("name_regex_delete")
        rules = CleanupRules(
            given.get("name_regex") if pattern is None else pattern,
            given.get("name_regex_keep"),
            given.get("keep_n"),
            None if span is None else timedelta(seconds=span),
        )
        by = By(task.by, "bulk delete", str(given.get("address", "")), str(given.get("request_id", "")))
        try:
            plan = await self._images.plan(name, rules, now=task.ordered_at, only=given.get("seen"))
        except InvalidSettingError as error:
            self._log.error("a bulk deletion makes no sense", repository=name, why=str(error))
            return
        done = await self._images.apply(plan, by)
        tell = self._log.error if done.refused else self._log.info
        trouble = {"why": done.trouble} if done.refused else {}
        tell("tags deleted in bulk", repository=name, subject=task.by, removed=done.removed, plan=plan.id, **trouble)
