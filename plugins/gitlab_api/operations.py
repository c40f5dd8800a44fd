"""Every route in one table: what answers it, and what the OpenAPI document says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import web
from pydantic import BaseModel

from gateway.plugins import Ability, About, Access, ApiEndpoint, Asking, Public
from plugins.gitlab_api import errors, models, parameters
from plugins.gitlab_api.accounts import Accounts
from plugins.gitlab_api.area import PREFIX, READING, WRITING, Door, Open
from plugins.gitlab_api.cleanup import Cleanup
from plugins.gitlab_api.events import Events
from plugins.gitlab_api.lent import Lent
from plugins.gitlab_api.registry import Registry

_PASSED: Final = Public("before a GitLab it is passed on and GitLab decides; else the handler asks the one decision")
_OWN: Final = Public("it shows a caller what is their own")
_REPOSITORY: Final = "projects/{id}/registry/repositories/{repository_id}"


@dataclass(frozen=True, slots=True)
class Operation:
    """A route: *path* is below the prefix, *statuses* are those of its refusals; *many*: it answers a list of *answer*.

    Without *answer* the body is the number of *status*. A list with a *query* comes in pages. *ours*: not GitLab's.
    *relayed*: a GitLab that is behind answers, with whatever status it has.
    """

    method: str
    path: str
    summary: str
    door: Door | Open
    needs: Public | Callable[[Asking], Awaitable[Sequence[Access]]]
    handler: Callable[[Asking], Awaitable[web.StreamResponse]]
    answer: type[BaseModel] | None = None
    many: bool = False
    status: int = HTTPStatus.OK
    statuses: Sequence[int] = ()
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    ours: bool = False
    relayed: bool = False
    about: Callable[[Asking], Awaitable[About]] | None = None

    def endpoints(self) -> Iterator[ApiEndpoint]:
        """What answers the route, and for each GET a HEAD as GitLab has it."""
        methods = ("GET", "HEAD") if self.method == "GET" else (self.method,)
        for method in methods:
            yield ApiEndpoint(method, PREFIX + self.path, self.door, self.needs, self.handler, self.about)


def operations(lent: Lent) -> tuple[Operation, ...]:
    """Every route but that of the document itself."""
    facts = lent.services.facts
    public = Door(facts)
    return (
        *_repositories(lent, Door(facts, jobs=True), Door(facts, WRITING, jobs=True)),
        *_cleanup(lent, Door(facts, jobs=True), Door(facts, WRITING, jobs=True)),
        *_around(lent, public, Door(facts, login=True)),
        Operation(
            "POST",
            "container_registry_event/events",
            "Hear of changes from a registry that notifies.",
            Open(),
            Public("the registry shows the secret of registry_event_token"),
            Events(lent).handle,
            statuses=(400, 401, 408, 413),
            body=models.Envelope,
        ),
    )


def _repositories(lent: Lent, reading: Door, writing: Door) -> tuple[Operation, ...]:
    registry = Registry(lent)
    read, about, facts = registry.project(Ability.READ_IMAGES), registry.about("repository_id"), lent.services.facts
    return (
        Operation(
            "GET",
            "projects/{id}/registry/repositories",
            "List the repositories of a project.",
            reading,
            read,
            registry.list_of_project,
            models.Repository,
            many=True,
            statuses=(400, 401, 403, 404),
            query=parameters.ListRepositories,
        ),
        Operation(
            "GET",
            "groups/{id}/registry/repositories",
            "List the repositories of a group and its subgroups.",
            Door(facts, hidden=errors.NO_GROUP),
            registry.group,
            registry.list_of_group,
            models.Repository,
            many=True,
            statuses=(400, 401, 403, 404),
            query=parameters.ListRepositories,
        ),
        Operation(
            "GET",
            "registry/repositories/{id}",
            "Show one repository.",
            Door(facts, jobs=True, login=True, hidden=errors.NOT_FOUND),
            registry.repository,
            registry.show,
            models.Repository,
            statuses=(400, 401, 403, 404),
            query=parameters.ShowRepository,
            about=registry.about("id"),
        ),
        Operation(
            "DELETE",
            _REPOSITORY,
            "Delete a repository with all of its images, soon.",
            writing,
            registry.project(Ability.READ_IMAGES, Ability.ADMIN_IMAGES),
            registry.delete,
            status=HTTPStatus.ACCEPTED,
            statuses=(400, 401, 403, 404),
            about=about,
        ),
        Operation(
            "GET",
            f"{_REPOSITORY}/tags",
            "List the tags of a repository.",
            reading,
            read,
            registry.list_tags,
            models.Tag,
            many=True,
            statuses=(400, 401, 403, 404),
            query=parameters.ListTags,
            about=about,
        ),
        Operation(
            "DELETE",
            f"{_REPOSITORY}/tags",
            "Delete tags by rules, soon; once an hour.",
            writing,
            registry.project(Ability.READ_IMAGES, Ability.ADMIN_IMAGES),
            registry.delete_tags,
            status=HTTPStatus.ACCEPTED,
            statuses=(400, 401, 403, 404, 408, 413, 415),
            query=parameters.BulkDelete,
            about=about,
        ),
        Operation(
            "GET",
            f"{_REPOSITORY}/tags/{{tag_name}}",
            "Show one tag.",
            reading,
            read,
            registry.show_tag,
            models.TagDetails,
            statuses=(400, 401, 403, 404),
            about=registry.about_tag,
        ),
        Operation(
            "DELETE",
            f"{_REPOSITORY}/tags/{{tag_name}}",
            "Delete one tag.",
            writing,
            registry.project(Ability.READ_IMAGES, Ability.DELETE_TAG),
            registry.delete_tag,
            statuses=(400, 401, 403, 404),
            about=registry.about_tag,
        ),
        Operation(
            "GET",
            "projects/{id}/registry/has_tags",
            "Say whether images stand in the way of renaming or transferring a project.",
            reading,
            registry.renaming,
            registry.project_has_tags,
            models.HasTags,
            statuses=(400, 401, 403, 404),
            ours=True,
        ),
        Operation(
            "GET",
            "groups/{id}/registry/has_tags",
            "Say whether images stand in the way of renaming or moving a group.",
            Door(facts, hidden=errors.NO_GROUP),
            registry.group,
            registry.group_has_tags,
            models.HasTags,
            statuses=(400, 401, 403, 404),
            ours=True,
        ),
    )


def _cleanup(lent: Lent, reading: Door, writing: Door) -> tuple[Operation, ...]:
    registry, cleanup = Registry(lent), Cleanup(lent)
    return (
        Operation(
            "GET",
            "projects/{id}/registry/cleanup/plan",
            "Show what the cleanup policy of a project would do with each tag.",
            reading,
            registry.project(Ability.READ_IMAGES, Ability.ADMIN_IMAGES),
            cleanup.plan,
            models.CleanupPlan,
            many=True,
            statuses=(400, 401, 403, 404),
            ours=True,
        ),
        *(
            Operation(
                "POST",
                f"projects/{{id}}/registry/cleanup/{word}",
                summary,
                writing,
                registry.project(Ability.READ_IMAGES, Ability.ADMIN_IMAGES),
                handler,
                models.CleanupRun,
                status=HTTPStatus.ACCEPTED,
                statuses=(400, 401, 403, 404),
                ours=True,
            )
            for word, summary, handler in (
                ("run", "Run the cleanup policy of a project, soon.", cleanup.run),
                ("confirm", "Confirm what a cleanup stopped at, and do it soon.", cleanup.confirm),
            )
        ),
    )


def _around(lent: Lent, public: Door, login: Door) -> tuple[Operation, ...]:
    accounts, facts = Accounts(lent), lent.services.facts
    return (
        Operation(
            "GET",
            "user",
            "Show the caller's user.",
            Door(facts, (*READING, "read_user"), login=True),
            _OWN,
            accounts.user,
            models.User,
            statuses=(400, 401, 403, 404),
            relayed=True,
        ),
        Operation(
            "GET",
            "personal_access_tokens/self",
            "Show the token that the caller came with, whatever its scopes.",
            Door(facts, None, login=True),
            _OWN,
            accounts.token,
            models.Token,
            statuses=(400, 401, 404),
            relayed=True,
        ),
        Operation(
            "GET",
            "version",
            "Show the version of GitLab whose API this is.",
            login,
            Public("whoever is signed in may know it"),
            accounts.version,
            models.Version,
            statuses=(400, 401, 403),
            relayed=True,
        ),
        Operation(
            "GET",
            "groups/{id}",
            "Show a group.",
            Door(facts, hidden=errors.NO_GROUP),
            _PASSED,
            accounts.group,
            models.GroupAnswer,
            statuses=(400, 401, 403, 404),
            relayed=True,
        ),
        Operation(
            "GET",
            "projects/{id}",
            "Show a project.",
            public,
            _PASSED,
            accounts.project,
            models.ProjectAnswer,
            statuses=(400, 401, 403, 404),
            relayed=True,
        ),
        Operation(
            "PUT",
            "projects/{id}",
            "Change who may use a project's images, and its cleanup policy.",
            Door(facts, WRITING, login=True),
            _PASSED,
            accounts.change_project,
            models.ProjectAnswer,
            statuses=(400, 401, 403, 404, 408, 413, 415),
            body=parameters.ChangeProject,
            relayed=True,
        ),
    )
