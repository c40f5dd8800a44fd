"""The routes of repositories and tags (semantics 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from gateway.plugins import (
    Ability,
    About,
    Access,
    Asking,
    CredentialKind,
    Group,
    Identity,
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
_SHORTEST: Final = 2
"""Components of the shortest path of a project (semantics 5.1)."""

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
            return [_of_project(await self._found(asking), *abilities)]

        return needs

    async def renaming(self, asking: Asking) -> Sequence[Access]:
        """The accesses of the question whether a project can be renamed: whoever sees its images may know.

        Where its registry is disabled nobody sees them, and they stand in the way of whoever may rename it.
        """
        project = await self._found(asking)
        renames = project.registry is RegistryLevel.DISABLED and asking.identity.kind is not CredentialKind.JOB_TOKEN
        return [_of_project(project, Ability.ADMIN if renames else Ability.READ_IMAGES)]

    async def _found(self, asking: Asking) -> Project:
        project = await self._facts.find_project(asking.identity, asked.key(asking.parts["id"]))
        if project is None:
            raise _nothing(asking, errors.NO_PROJECT)
        return project

    async def group(self, asking: Asking) -> Sequence[Access]:
        """The accesses of a route below a group."""
        group = await self._facts.find_group(asking.identity, asked.key(asking.parts["id"]))
        if group is None:
            raise errors.missing(errors.NO_GROUP)
        return [Access("group", group.path.lower(), (Ability.READ, Ability.READ_IMAGES), group=group)]

    async def repository(self, asking: Asking) -> Sequence[Access]:
        """The accesses of the route of a single repository, whose project only its record names."""
        record = await self._images.repository(asking.identity, asked.number("id", asking.parts["id"]))
        project = await self._owner(asking.identity, record) if record is not None else None
        if project is None:
            raise _nothing(asking, errors.NOT_FOUND)
        return [_of_project(project, Ability.READ_IMAGES)]

    async def _owner(self, identity: Identity, record: RepositoryRecord) -> Project | None:
        """The project of a repository; where none is recorded, the lowest that there is at its path or above."""
        for path in (record.project,) if record.project else _at_or_above(record.path):
            project = await self._facts.find_project(identity, path)
            # From a path that a project had once GitLab leads to the one that it has now, where it has other images.
            if project is not None and project.path.lower() == path:
                return project
        return None

    # -- what it is about -----------------------------------------------------------------------------

    def about(self, part: str) -> Callable[[Asking], Awaitable[About]]:
        """The repository whose number is a *part* of the path, if it is one of the project that was decided about."""

        async def about(asking: Asking) -> About:
            record = await self._images.repository(asking.identity, asked.number(part, asking.parts[part]))
            project = _project(asking).path.lower()
            if record is None or not _is_of(record, project):
                raise errors.missing()
            return About(replace(record, project=project))

        return about

    async def about_tag(self, asking: Asking) -> About:
        """One tag of it. What can be no tag's name is a tag that is not there."""
        about = await self.about("repository_id")(asking)
        try:
            return replace(about, tag=Tag.parse(asked.part(asking.parts["tag_name"])))
        except ValueError as error:
            raise errors.missing(errors.NO_TAG) from error

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
        tags, counts = await self._tags_of(asking, records, wanted)
        host, headers = self._lent.host(asking), paging.headers(asking, wanted, total)

        def shown() -> web.Response:
            listed = [
                models.Repository.of(record, numbers[record.project], host, **_counted(record, tags, counts, host))
                for record in records
            ]
            return many(models.Repository, listed, headers)

        # Of many thousand tags each, others would wait.
        return await asyncio.to_thread(shown) if wanted.tags else shown()

    async def show(self, asking: Asking) -> web.StreamResponse:
        """One repository, wherever it is; who may delete it reads how."""
        wanted = read(ShowRepository, asked.parameters(asking.request))
        project, record, host = _project(asking), _repository(asking), self._lent.host(asking)
        tags, counts = await self._tags_of(asking, [record], wanted)
        more = _counted(record, tags, counts, host)
        if wanted.size:
            async with reaching():
                more["size"] = await self._images.size(RepositoryName(record.path))
        if await self._may_delete(asking, project):
            path = f"projects/{project.id}/registry/repositories/{record.id}"
            more["delete_api_path"] = f"{asking.base}{PREFIX}{path}"
        return one(models.Repository.of(record, project.id or 0, host, **more))

    async def _may_delete(self, asking: Asking, project: Project) -> bool:
        answers = await self._facts.decide(asking.identity, [_of_project(project, Ability.ADMIN_IMAGES)])
        return isinstance(answers, tuple) and not any(answer.missing for answer in answers)

    async def delete(self, asking: Asking) -> web.StreamResponse:
        """Promise that a repository goes, with all that is in it."""
        if not await self._images.delete_repository(_repository(asking).id, self._lent.by(asking)):
            raise errors.missing()
        return done(HTTPStatus.ACCEPTED)

    async def _tags_of(
        self, asking: Asking, records: Sequence[RepositoryRecord], wanted: ListRepositories | ShowRepository
    ) -> tuple[Mapping[str, Sequence[str]], Mapping[str, int]]:
        """The tags of each repository and how many there are, each as far as it was asked for."""
        names = [RepositoryName(record.path) for record in records]
        async with reaching():
            tags = await self._images.tag_names(asking.identity, names) if wanted.tags else {}
            if not wanted.tags_count:
                return tags, {}
            if wanted.tags:
                return tags, {name: len(listed) for name, listed in tags.items()}
            return tags, await self._images.tag_counts(asking.identity, names)

    # -- tags -----------------------------------------------------------------------------------------

    async def list_tags(self, asking: Asking) -> web.StreamResponse:
        """A page of a repository's tags."""
        record = _repository(asking)
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
        name, tag = _named(asking)
        async with reaching():
            found = await self._images.tag(asking.identity, name, tag)
        if found is None:
            raise errors.missing(errors.NO_TAG)
        return one(models.TagDetails.of(name, found, self._lent.host(asking)))

    async def delete_tag(self, asking: Asking) -> web.StreamResponse:
        """Delete one tag; others of the same image stay."""
        name, tag = _named(asking)
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
        """Promise that tags go by rules; once an hour for each repository (trap 29). What is hidden stays."""
        record = _repository(asking)
        wanted = read(BulkDelete, await asked.all_parameters(asking))
        async with reaching():
            seen = await self._images.seen(asking.identity, RepositoryName(record.path))
        lease = f"bulk delete {record.id} {record.path}"
        holder = await self._leases.take(lease, LEASE)
        if holder is None:
            raise errors.said(HTTPStatus.BAD_REQUEST, errors.LEASED)
        try:
            who = {"address": asking.client.address, "request_id": asking.client.request_id}
            payload = {"repository": record.id, "seen": seen, **wanted.payload, **who}
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


def _nothing(asking: Asking, message: str) -> RegistryError:
    """To a job whatever is not its own project's is one answer, also what does not exist."""
    if asking.identity.kind is CredentialKind.JOB_TOKEN:
        return errors.forbidden(errors.FOREIGN_JOB)
    return errors.missing(message)


def _is_of(record: RepositoryRecord, project: str) -> bool:
    """Whether a repository belongs to *project*: where none is recorded, what lies there does (semantics 5.1)."""
    if record.project:
        return record.project == project
    return f"{record.path}/".startswith(f"{project}/")


def _at_or_above(path: str) -> Iterator[str]:
    """The paths that a project of the repository at *path* can have, longest first."""
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(len(parts), _SHORTEST - 1, -1))


def _project(asking: Asking) -> Project:
    project = asking.answers[0].access.project
    assert project is not None
    return project


def _group(asking: Asking) -> Group:
    group = asking.answers[0].access.group
    assert group is not None
    return group


def _repository(asking: Asking) -> RepositoryRecord:
    assert asking.about is not None
    return asking.about.repository


def _named(asking: Asking) -> tuple[RepositoryName, Tag]:
    assert asking.about is not None
    assert asking.about.tag is not None
    return RepositoryName(asking.about.repository.path), asking.about.tag


def _counted(
    record: RepositoryRecord, tags: Mapping[str, Sequence[str]], counts: Mapping[str, int], host: str
) -> dict[str, Any]:
    """What of a repository's tags was asked for."""
    more = dict[str, Any]()
    if record.path in counts:
        more["tags_count"] = counts[record.path]
    if record.path in tags:
        more["tags"] = tuple(models.Tag.named(record.path, name, host) for name in tags[record.path])
    return more
