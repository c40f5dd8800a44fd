"""What the routes answer, in GitLab's JSON (semantics 6); the OpenAPI document shows these models.

A field that is only there on request is left out unless it was set; ours are marked so.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from gateway.plugins import Plan, Project, RegistryLevel, RepositoryRecord, TagRecord

_SHORT: Final = 9
"""Characters of a short revision."""


def _zulu(moment: datetime) -> str:
    # Not %Y, which writes the year 1 as one digit.
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _offset(moment: datetime) -> str:
    return _zulu(moment).removesuffix("Z") + "+00:00"


Zulu = Annotated[datetime, PlainSerializer(_zulu, when_used="json-unless-none")]
"""As GitLab writes what its database has: ``2019-01-10T13:38:57.391Z``."""
Moment = Annotated[datetime, PlainSerializer(_offset, when_used="json-unless-none")]
"""As GitLab writes what a registry says: ``2019-01-06T16:49:51.272+00:00``."""


class Answer(BaseModel):
    """A JSON object of an answer."""

    model_config = ConfigDict(frozen=True)


# -- refusals -------------------------------------------------------------------------------------------


class Refusal(Answer):
    """A refusal: `message` where the application says no, `error` where the framework below it does."""

    message: Any = None
    error: str | None = None
    error_description: str | None = None
    scope: str | None = None


# -- images ---------------------------------------------------------------------------------------------


class Tag(Answer):
    """A tag of a list. What stands below `location` is ours, and there with `with_details`."""

    name: str
    path: str
    location: str
    digest: str | None = Field(default=None, description="Ours: of the manifest.")
    media_type: str | None = Field(default=None, description="Ours: of the manifest.")
    created_at: Moment | None = Field(default=None, description="Ours: when the image was built; null for an index.")
    total_size: int | None = Field(default=None, description="Ours: bytes of the layers; null for an index.")
    platforms: tuple[str, ...] | None = Field(default=None, description="Ours: such as linux/arm64/v8.")
    pushed_at: Zulu | None = Field(default=None, description="Ours: when the tag was pushed last.")
    pushed_by: str | None = Field(default=None, description="Ours: by whom; null if past the gateway.")

    @classmethod
    def named(cls, repository: str, name: str, host: str) -> Tag:
        """The tag as GitLab lists it."""
        path = f"{repository}:{name}"
        return cls(name=name, path=path, location=f"{host}/{path}")

    @classmethod
    def detailed(cls, repository: str, record: TagRecord, host: str) -> Tag:
        """The same with what is recorded of it."""
        return cls(**Tag.named(repository, record.name, host).model_dump(exclude_unset=True), **_recorded(record))


class TagDetails(Answer):
    """One tag. An index of several platforms has neither config nor date nor size."""

    name: str
    path: str
    location: str
    revision: str | None = Field(description="The digest of the config, without its algorithm; null for an index.")
    short_revision: str | None = Field(description="Its first nine characters.")
    digest: str = Field(description="Of the manifest.")
    created_at: Moment | None = Field(description="When the image was built, as its config says.")
    total_size: int | None = Field(description="Bytes of the layers.")
    media_type: str = Field(description="Ours: of the manifest.")
    platforms: tuple[str, ...] = Field(description="Ours: such as linux/arm64/v8.")
    pushed_at: Zulu = Field(description="Ours: when the tag was pushed last.")
    pushed_by: str | None = Field(description="Ours: by whom; null if past the gateway.")

    @classmethod
    def of(cls, repository: str, record: TagRecord, host: str) -> TagDetails:
        """The tag as it is recorded."""
        revision = record.config.partition(":")[2] if record.config is not None else None
        return cls(
            **Tag.named(repository, record.name, host).model_dump(exclude_unset=True),
            revision=revision,
            short_revision=revision[:_SHORT] if revision is not None else None,
            **_recorded(record),
        )


def _recorded(record: TagRecord) -> Mapping[str, Any]:
    return {
        "digest": record.digest,
        "media_type": record.media_type,
        "created_at": record.created_at,
        "total_size": record.size,
        "platforms": record.platforms,
        "pushed_at": record.pushed_at,
        "pushed_by": record.pushed_by or None,
    }


class Repository(Answer):
    """A repository of images. `name` is what follows the project's path: nothing for the project's own image."""

    id: int
    name: str
    path: str
    project_id: int
    location: str
    created_at: Zulu
    cleanup_policy_started_at: Zulu | None
    status: str | None = Field(description="null, delete_scheduled, delete_ongoing or delete_failed.")
    tags_count: int | None = Field(default=None, description="With `tags_count`.")
    tags: tuple[Tag, ...] | None = Field(default=None, description="With `tags`.")
    size: int | None = Field(default=None, description="With `size`: bytes.")
    delete_api_path: str | None = Field(default=None, description="For who may delete it.")

    @classmethod
    def of(cls, record: RepositoryRecord, project_id: int, host: str, **more: Any) -> Repository:
        """The repository as it is recorded, with what was asked for beside."""
        return cls(
            id=record.id,
            name=record.path.removeprefix(record.project).strip("/"),
            path=record.path,
            project_id=project_id,
            location=f"{host}/{record.path}",
            created_at=record.created_at,
            cleanup_policy_started_at=record.cleanup_started_at,
            status=record.status,
            **more,
        )


class HasTags(Answer):
    """Ours: whether images stand in the way of a rename or transfer, and how GitLab says so."""

    has_tags: bool
    message: str | None = Field(description="null where nothing stands in the way.")


# -- what clients need around them ------------------------------------------------------------------------


class Version(Answer):
    """The GitLab whose API this is, and whose program answers."""

    version: str
    revision: str


class User(Answer):
    """The caller's user."""

    id: int
    username: str
    name: str
    state: str
    avatar_url: str | None
    web_url: str | None
    external: bool
    bot: bool
    email: str | None = Field(default=None, description="Where it is known.")
    is_admin: bool | None = Field(default=None, description="For administrators.")


class Token(Answer):
    """The token that the caller came with."""

    id: int
    name: str
    revoked: bool
    created_at: str | None
    scopes: tuple[str, ...]
    user_id: int
    active: bool
    expires_at: str | None


class Policy(Answer):
    """A container expiration policy (semantics 7.1)."""

    cadence: str
    enabled: bool
    keep_n: int | None
    older_than: str | None
    name_regex: str | None
    name_regex_keep: str | None
    next_run_at: Zulu | None


class PlannedTag(Answer):
    """What a cleanup would do with one tag, and the rule that decides."""

    name: str
    digest: str
    decision: str = Field(description="keep or remove.")
    rule: str
    why: str
    created_at: Moment | None
    size: int | None
    bytes: int = Field(description="Bytes that nothing else needs.")


class CleanupPlan(Answer):
    """What a cleanup policy would do with the tags of a repository."""

    id: str = Field(description="The same for every plan that removes the same tags from the same images.")
    repository_id: int
    repository: str
    made_at: Moment
    percent: float = Field(description="The share of the tags that go.")
    bytes: int = Field(description="Bytes that nothing else needs, each counted once.")
    cut: bool = Field(description="Whether only some of the tags were looked at (max_list_size).")
    waiting: str | None = Field(description="The id of the plan that waits for a confirmation, if one does.")
    tags: tuple[PlannedTag, ...]

    @classmethod
    def of(cls, number: int, plan: Plan, seen: Container[str] | None, waiting: str | None) -> CleanupPlan:
        """The plan of the repository that has *number*, with the tags that the caller has *seen* (None: all)."""
        tags = tuple(
            PlannedTag(
                name=tag.name,
                digest=tag.digest,
                decision="remove" if tag.remove else "keep",
                rule=tag.rule,
                why=tag.why,
                created_at=tag.created_at,
                size=tag.size,
                bytes=tag.bytes,
            )
            for tag in plan.tags
            if seen is None or tag.name in seen
        )
        return cls(
            id=plan.id,
            repository_id=number,
            repository=plan.repository,
            made_at=plan.made_at,
            percent=round(plan.percent, 1),
            bytes=plan.bytes,
            cut=plan.cut,
            waiting=waiting,
            tags=tags,
        )


class CleanupRun(Answer):
    """What was promised: after a confirmation the plans that are done now, else those that still wait for one."""

    plans: dict[str, str] = Field(description="The plans' ids, by repository.")


class MemberAccess(Answer):
    """A role, by GitLab's number for it."""

    access_level: int


class Permissions(Answer):
    """How the caller stands to a project; the directory does not say by which line."""

    project_access: MemberAccess | None
    group_access: MemberAccess | None


class ProjectAnswer(Answer):
    """A project: what concerns its images."""

    model_config = ConfigDict(frozen=True, title="Project")

    id: int
    name: str
    path: str
    path_with_namespace: str
    name_with_namespace: str
    visibility: str
    archived: bool
    container_registry_enabled: bool
    container_registry_access_level: str
    container_registry_image_prefix: str
    container_expiration_policy: Policy | None = Field(default=None, description="Where a policy is kept.")
    permissions: Permissions | None = Field(default=None, description="For who is signed in.")

    @classmethod
    def of(cls, project: Project, host: str, **more: Any) -> ProjectAnswer:
        """The project's facts, with what is known beside."""
        return cls(
            id=project.id or 0,
            name=project.path.rpartition("/")[2],
            path=project.path.rpartition("/")[2],
            path_with_namespace=project.path,
            name_with_namespace=project.path.replace("/", " / "),
            visibility=project.visibility,
            archived=project.archived,
            container_registry_enabled=project.registry is not RegistryLevel.DISABLED,
            container_registry_access_level=project.registry,
            container_registry_image_prefix=f"{host}/{project.path.lower()}",
            **more,
        )


class GroupAnswer(Answer):
    """A group."""

    model_config = ConfigDict(frozen=True, title="Group")

    id: int
    name: str
    path: str
    full_path: str
    full_name: str
    visibility: str


# -- events -----------------------------------------------------------------------------------------------


class Target(BaseModel):
    """What an event is about, as Distribution's notifications say it."""

    repository: str | None = None
    digest: str | None = None
    tag: str | None = None
    mediaType: str | None = None  # noqa: N815 - Distribution's name


class RegistryEvent(BaseModel):
    """One event: a push or delete; others are not looked at."""

    action: str
    target: Target | None = None


class Envelope(BaseModel):
    """The events that a registry sends together."""

    events: tuple[RegistryEvent, ...]
