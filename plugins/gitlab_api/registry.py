"""The routes of repositories and tags (semantics 6)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from gateway.plugins import (
    Ability,
    Access,
    Asking,
    CredentialKind,
    Group,
    Project,
    RegistryError,
    RegistryLevel,
    RepositoryName,
    RepositoryRecord,
    Tag,
)
from plugins.gitlab_api import asked, errors, models, paging
from plugins.gitlab_api.area import PREFIX
from plugins.gitlab_api.lent import Lent, done, many, one, reaching
from plugins.gitlab_api.parameters import BulkDelete, ListRepositories, ListTags, ShowRepository, read

TASK: Final = "delete tags"
"""The kind of the task that deletes tags by a bulk deletion's rules."""
LEASE: Final = 3600.0
"""Seconds between two bulk deletions of one repository."""
_HAS_TAGS: Final = "Project cannot be transferred, because tags are present in its container registry."
_GROUP_HAS_TAGS: Final = "Namespace cannot be moved because at least one project has tags in container registry."
"""The user guide's wording (semantics 10)."""

Needs = Callable[[Asking], Awaitable[Sequence[Access]]]


class Registry:
    """Lists, shows and deletes images."""

    def __init__(self, lent: Lent) -> None:
        self._lent = lent
        self._facts = lent.services.facts
        self._images = lent.services.images
        self._leases = lent.services.leases
        self._tasks = lent.services.tasks

    # -- what is needed -------------------------------------------------------------------------------

    def project(self, *abilities: Ability) -> Needs:
        """The accesses of a route below a project."""

        async def needs(asking: Asking) -> Sequence[Access]:
            project = await self._facts.find_project(asking.identity, asked.key(asking.parts["id"]))
            if project is None:
                raise _no_project(asking)
            return [_of_project(project, *abilities)]

        return needs

    async def group(self, asking: Asking) -> Sequence[Access]:
        """The accesses of a route below a group."""
        group = await self._facts.find_group(asking.identity, asked.key(asking.parts["id"]))
        if group is None:
            raise errors.missing(errors.NO_GROUP)
        return [Access("group", group.path.lower(), (Ability.READ, Ability.READ_IMAGES), group=group)]

    async def repository(self, asking: Asking) -> Sequence[Access]:
        """The accesses of the route of a single repository, whose project only its record names."""
        record = await self._single(asking)
        project = await self._facts.find_project(asking.identity, record.project)
        if project is None:
            raise errors.missing()
        return [_of_project(project, Ability.READ_IMAGES)]

    # -- repositories ---------------------------------------------------------------------------------

    async def list_of_project(self, asking: Asking) -> web.StreamResponse:
        """The repositories of a project."""
        return await self._list(asking, [_project(asking)])

    async def list_of_group(self, asking: Asking) -> web.StreamResponse:
        """The repositories of a group's projects whose registry is not disabled, also in its subgroups."""
        projects = await self._facts.group_projects(asking.identity, _group(asking))
        return await self._list(asking, [one for one in projects if one.registry is not RegistryLevel.DISABLED])

    async def _list(self, asking: Asking, projects: Sequence[Project]) -> web.StreamResponse:
        wanted = read(ListRepositories, asked.parameters(asking.request))
        numbers = {project.path.lower(): project.id or 0 for project in projects}
        records, total = await self._images.repositories(
            asking.identity, list(numbers), offset=wanted.offset, limit=wanted.limit
        )
        tags = await self._tags_of(asking, records) if wanted.tags or wanted.tags_count else {}
        host = self._lent.host(asking)
        listed = [
            models.Repository.of(record, numbers[record.project], host, **_counted(wanted, record, tags, host))
            for record in records
        ]
        return many(models.Repository, listed, paging.headers(asking, wanted, total))

    async def show(self, asking: Asking) -> web.StreamResponse:
        """One repository, wherever it is; who may delete it reads how."""
        wanted = read(ShowRepository, asked.parameters(asking.request))
        project = _project(asking)
        record = await self._single(asking)
        tags = await self._tags_of(asking, [record]) if wanted.tags or wanted.tags_count else {}
        host = self._lent.host(asking)
        more = _counted(wanted, record, tags, host)
        if wanted.size:
            async with reaching():
                more["size"] = await self._images.size(RepositoryName(record.path))
        if await self._may_delete(asking, project):
            path = f"projects/{project.id}/registry/repositories/{record.id}"
            more["delete_api_path"] = f"{asking.base}{PREFIX}{path}"
        return one(models.Repository.of(record, project.id or 0, host, **more))

    async def _single(self, asking: Asking) -> RepositoryRecord:
        """The repository of that number, whosever it is."""
        record = await self._images.repository(asked.number("id", asking.parts["id"]))
        if record is None:
            raise errors.missing()
        return record

    async def _may_delete(self, asking: Asking, project: Project) -> bool:
        answers = await self._facts.decide(asking.identity, [_of_project(project, Ability.ADMIN_IMAGES)])
        return isinstance(answers, tuple) and not any(answer.missing for answer in answers)

    async def delete(self, asking: Asking) -> web.StreamResponse:
        """Promise that a repository goes, with all that is in it."""
        record = await self._record(asking)
        if not await self._images.delete_repository(record.id, self._lent.by(asking)):
            raise errors.missing()
        return done(HTTPStatus.ACCEPTED)

    async def _tags_of(self, asking: Asking, records: Sequence[RepositoryRecord]) -> Mapping[str, Sequence[str]]:
        async with reaching():
            return await self._images.tag_names(asking.identity, [RepositoryName(record.path) for record in records])

    async def _record(self, asking: Asking) -> RepositoryRecord:
        """The repository that the path names, if it is one of the project that the path names."""
        record = await self._images.repository(asked.number("repository_id", asking.parts["repository_id"]))
        if record is None or record.project != _project(asking).path.lower():
            raise errors.missing()
        return record

    # -- tags -----------------------------------------------------------------------------------------

    async def list_tags(self, asking: Asking) -> web.StreamResponse:
        """A page of a repository's tags."""
        record = await self._record(asking)
        wanted = read(ListTags, asked.parameters(asking.request))
        async with reaching():
            found, total = await self._images.tags(asking.identity, RepositoryName(record.path), wanted.tag_search)
        shown = found[: wanted.limit]
        if wanted.keyset:
            headers = paging.keyset(asking, wanted, shown[-1].name if len(found) > len(shown) else None)
        else:
            headers = paging.headers(asking, wanted, total)
        host = self._lent.host(asking)
        tags = [
            models.Tag.detailed(record.path, tag, host)
            if wanted.with_details
            else models.Tag.named(record.path, tag.name, host)
            for tag in shown
        ]
        return many(models.Tag, tags, headers)

    async def show_tag(self, asking: Asking) -> web.StreamResponse:
        """One tag with its details."""
        record = await self._record(asking)
        name, tag = RepositoryName(record.path), _tag(asking)
        async with reaching():
            found = await self._images.tag(asking.identity, name, tag)
        if found is None:
            raise errors.missing(errors.NO_TAG)
        return one(models.TagDetails.of(record.path, found, self._lent.host(asking)))

    async def delete_tag(self, asking: Asking) -> web.StreamResponse:
        """Delete one tag; others of the same image stay."""
        record = await self._record(asking)
        name, tag = RepositoryName(record.path), _tag(asking)
        async with reaching():
            found = await self._images.tag(asking.identity, name, tag)
        try:
            gone = found is not None and await self._images.delete_tag(name, tag, self._lent.by(asking))
        except RegistryError as error:
            if asked.given_up(error):
                raise errors.trouble(error) from error
            raise errors.said(HTTPStatus.BAD_REQUEST, error.message) from error
        if not gone:
            raise errors.missing(errors.NO_TAG)
        return done(HTTPStatus.OK)

    async def delete_tags(self, asking: Asking) -> web.StreamResponse:
        """Promise that tags go by rules; once an hour for each repository (trap 29)."""
        record = await self._record(asking)
        wanted = read(BulkDelete, await asked.all_parameters(asking))
        lease = f"bulk delete {record.id} {record.path}"
        holder = await self._leases.take(lease, LEASE)
        if holder is None:
            raise errors.said(HTTPStatus.BAD_REQUEST, errors.LEASED)
        try:
            who = {"address": asking.client.address, "request_id": asking.client.request_id}
            payload = {"repository": record.id, **wanted.payload, **who}
            await self._tasks.add(TASK, record.path, payload, asking.identity.subject)
        except RegistryError:
            await self._leases.release(lease, holder)
            raise
        return done(HTTPStatus.ACCEPTED)

    # -- what stands in the way of a rename -----------------------------------------------------------

    async def project_has_tags(self, asking: Asking) -> web.StreamResponse:
        """Whether a project can't be renamed or transferred."""
        return await self._has_tags([_project(asking)], _HAS_TAGS)

    async def group_has_tags(self, asking: Asking) -> web.StreamResponse:
        """Whether a group can't be renamed or moved."""
        projects = await self._facts.group_projects(asking.identity, _group(asking))
        return await self._has_tags(projects, _GROUP_HAS_TAGS)

    async def _has_tags(self, projects: Sequence[Project], message: str) -> web.StreamResponse:
        async with reaching():
            found = await self._images.has_tags([project.path.lower() for project in projects])
        return one(models.HasTags(has_tags=found, message=message if found else None))


def _of_project(project: Project, *abilities: Ability) -> Access:
    return Access("project", project.path.lower(), (Ability.READ, *abilities), project=project)


def _no_project(asking: Asking) -> RegistryError:
    """To a job every project but its own is one answer, also those that do not exist."""
    if asking.identity.kind is CredentialKind.JOB_TOKEN:
        return errors.forbidden(errors.FOREIGN_JOB)
    return errors.missing(errors.NO_PROJECT)


def _project(asking: Asking) -> Project:
    project = asking.answers[0].access.project
    assert project is not None
    return project


def _group(asking: Asking) -> Group:
    group = asking.answers[0].access.group
    assert group is not None
    return group


def _tag(asking: Asking) -> Tag:
    """The tag that the path names. What can be no tag's name is a tag that is not there."""
    try:
        return Tag.parse(asked.part(asking.parts["tag_name"]))
    except ValueError as error:
        raise errors.missing(errors.NO_TAG) from error


def _counted(
    wanted: ListRepositories | ShowRepository,
    record: RepositoryRecord,
    tags: Mapping[str, Sequence[str]],
    host: str,
) -> dict[str, Any]:
    """What of a repository's tags was asked for."""
    names, more = tags.get(record.path, ()), dict[str, Any]()
    if wanted.tags_count:
        more["tags_count"] = len(names)
    if wanted.tags:
        more["tags"] = tuple(models.Tag.named(record.path, name, host) for name in names)
    return more
