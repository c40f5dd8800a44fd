"""The directory: its format, what can be wrong with it, and the index that questions are answered from.

No error line repeats a value that could be a secret; each names the key to mend.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

import argon2
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from gateway.plugins import ConfigError, Model, Project, RegistryLevel, Role, Visibility, problems, read_yaml
from plugins.auth_local.rules import ancestors

_PATH_PART: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*")
_KINDS: Final = (
    "personal_access_token",
    "project_access_token",
    "group_access_token",
    "deploy_token",
    "oauth_token",
    "ci_job_token",
)
_ITEM_KIND: Final = re.compile(rf"(?P<item>tokens\.[0-9]+)\.(?:{'|'.join(_KINDS)})(?=[.:])")
_ITEM_WITHOUT_KIND: Final = re.compile(r"(?P<item>tokens\.[0-9]+): (?:Input tag|Unable to extract tag)")


def _path(value: str) -> str:
    parts = value.split("/")
    if not all(_PATH_PART.fullmatch(part) for part in parts) or value.endswith((".git", ".atom")):
        raise ValueError(
            "expected names of letters, digits, '_', '-' and '.', joined by '/'; none begins with '-', "
            "and the last does not end in '.git' or '.atom'"
        )
    return value


def _project_path(value: str) -> str:
    if "/" not in value:
        raise ValueError("a project lies in a group or a user's namespace: expected NAMESPACE/PROJECT")
    return value


def _date(value: object) -> object:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError as error:
        raise ValueError("expected a date such as 2030-12-31") from error


ItemPath = Annotated[str, AfterValidator(_path)]
Scope = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Username = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,255}$")]
DeployUsername = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+_-]{1,255}$")]


class User(Model):
    """An account. Without a password it can still own tokens."""

    username: Username
    password: SecretStr | None = Field(default=None, min_length=1)
    password_hash: SecretStr | None = None
    admin: bool = False
    external: bool = False
    state: Literal["active", "blocked", "deactivated", "banned"] = "active"

    @property
    def active(self) -> bool:
        """Whether the account may be used."""
        return self.state == "active"

    @field_validator("password_hash")
    @classmethod
    def _argon2id(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                kind = argon2.extract_parameters(value.get_secret_value()).type
            except argon2.exceptions.InvalidHashError:
                kind = None
            if kind is not argon2.Type.ID:
                raise ValueError("expected an argon2id hash, which begins with $argon2id$")
        return value

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password is not None and self.password_hash is not None:
            raise ValueError("password and password_hash are both set; keep one")
        return self


class Group(Model):
    """A group and its direct members; members of a group are members of everything below."""

    path: ItemPath
    visibility: Visibility = Visibility.PRIVATE
    members: Mapping[str, Role] = Field(default_factory=dict)


class ProjectItem(Model):
    """A project and its direct members."""

    path: Annotated[ItemPath, AfterValidator(_project_path)]
    id: int | None = Field(default=None, ge=1)
    visibility: Visibility = Visibility.PRIVATE
    container_registry_access_level: RegistryLevel = RegistryLevel.ENABLED
    members: Mapping[str, Role] = Field(default_factory=dict)
    archived: bool = False
    job_token_allowlist: tuple[str, ...] | None = None

    def facts(self) -> Project:
        """The project as the hooks speak of it."""
        return Project(self.path, self.visibility, self.container_registry_access_level, self.archived, self.id)


class TokenItem(Model):
    """What all tokens have: a secret or its SHA-256, perhaps a name, a last day, or an early end."""

    token: SecretStr | None = Field(default=None, min_length=1)
    token_sha256: str | None = Field(default=None, pattern=r"^[0-9A-Fa-f]{64}$")
    name: str | None = None
    expires_at: Annotated[date, BeforeValidator(_date)] | None = None
    revoked: bool = False

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if (self.token is None) == (self.token_sha256 is None):
            raise ValueError("a token needs either `token` or `token_sha256`")
        return self

    @property
    def digest(self) -> str:
        """The SHA-256 of the secret, in hexadecimal."""
        if self.token is None:
            return (self.token_sha256 or "").lower()
        return secret_digest(self.token.get_secret_value())


class PersonalAccessToken(TokenItem):
    """A user's own token."""

    kind: Literal["personal_access_token"]
    user: str
    scopes: tuple[Scope, ...]


class ProjectAccessToken(TokenItem):
    """A token of a bot that is a member of one project."""

    kind: Literal["project_access_token"]
    project: str
    role: Role
    scopes: tuple[Scope, ...]


class GroupAccessToken(TokenItem):
    """A token of a bot that is a member of one group."""

    kind: Literal["group_access_token"]
    group: str
    role: Role
    scopes: tuple[Scope, ...]


class DeployToken(TokenItem):
    """A token of a project or a group, with a username of its own."""

    kind: Literal["deploy_token"]
    project: str | None = None
    group: str | None = None
    username: DeployUsername
    scopes: tuple[Scope, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.project is None) == (self.group is None):
            raise ValueError("a deploy token needs either `project` or `group`")
        return self

    def covers(self, path: str) -> bool:
        """Whether the token was made for the project at the lower-case *path*."""
        if self.project is not None:
            return self.project.lower() == path
        return (self.group or "").lower() in ancestors(path)


class OauthToken(TokenItem):
    """A token that a user gave to an application."""

    kind: Literal["oauth_token"]
    user: str
    scopes: tuple[Scope, ...]


class JobToken(TokenItem):
    """The token of a CI job, good while it runs."""

    kind: Literal["ci_job_token"]
    project: str
    user: str
    status: Literal[
        "created",
        "waiting_for_resource",
        "preparing",
        "waiting_for_callback",
        "pending",
        "running",
        "success",
        "failed",
        "canceling",
        "canceled",
        "skipped",
        "manual",
        "scheduled",
    ] = "running"


Token: TypeAlias = PersonalAccessToken | ProjectAccessToken | GroupAccessToken | DeployToken | OauthToken | JobToken


class Directory(Model):
    """The whole file."""

    users: tuple[User, ...] = ()
    groups: tuple[Group, ...] = ()
    projects: tuple[ProjectItem, ...] = ()
    tokens: tuple[Annotated[Token, Field(discriminator="kind")], ...] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """A directory that is consistent, by the keys that questions come with; paths and usernames in lower case."""

    users: Mapping[str, User]
    groups: Mapping[str, Group]
    projects: Mapping[str, ProjectItem]
    facts: Mapping[str, Project]
    tokens: Mapping[str, Token]
    deploy_tokens: Mapping[str, DeployToken]

    @classmethod
    def of(cls, directory: Directory) -> Self:
        """Index *directory*."""
        members = [item.model_copy(update={"members": _lowered(item.members)}) for item in directory.projects]
        groups = [item.model_copy(update={"members": _lowered(item.members)}) for item in directory.groups]
        return cls(
            users={user.username.lower(): user for user in directory.users},
            groups={group.path.lower(): group for group in groups},
            projects={project.path.lower(): project for project in members},
            facts={project.path.lower(): project.facts() for project in directory.projects},
            tokens={token.digest: token for token in directory.tokens},
            deploy_tokens={token.username: token for token in directory.tokens if isinstance(token, DeployToken)},
        )

    def token(self, secret: str) -> Token | None:
        """The token whose secret this is. What is compared are digests, which a caller can't choose byte by byte."""
        return self.tokens.get(secret_digest(secret))

    def role(self, username: str, path: str) -> Role | None:
        """The highest role that a user has in the project at *path*, its own members' and those of the groups above."""
        holders: list[ProjectItem | Group | None] = [self.projects.get(path)]
        holders += [self.groups.get(group) for group in ancestors(path)]
        roles = [item.members[username] for item in holders if item is not None and username in item.members]
        return max(roles, key=lambda role: role.level, default=None)


def secret_digest(secret: str) -> str:
    """The SHA-256 of a secret, in hexadecimal, as ``token_sha256`` has it."""
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def read(path: Path) -> Index:
    """Read the directory at *path*. ConfigError has one line for each thing that is wrong."""
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError([f"{path}: expected a mapping with users, groups, projects and tokens"])
    try:
        directory = Directory.model_validate(raw)
    except ValidationError as error:
        raise ConfigError([f"{path}: {_without_kind(line)}" for line in problems(error)]) from None
    wrong = [f"{path}: {line}" for line in _inconsistencies(directory)]
    if wrong:
        raise ConfigError(wrong)
    return Index.of(directory)


def _without_kind(line: str) -> str:
    if match := _ITEM_WITHOUT_KIND.match(line):
        return f"{match['item']}.kind: expected one of {', '.join(_KINDS)}"
    return _ITEM_KIND.sub(r"\g<item>", line, count=1)


def _lowered(members: Mapping[str, Role]) -> Mapping[str, Role]:
    return {username.lower(): role for username, role in members.items()}


def _inconsistencies(directory: Directory) -> Iterator[str]:
    users = {user.username.lower() for user in directory.users}
    groups = {group.path.lower() for group in directory.groups}
    projects = {project.path.lower() for project in directory.projects}
    yield from _repeated("users", "username", [user.username.lower() for user in directory.users])
    yield from _repeated("groups", "path", [group.path.lower() for group in directory.groups])
    yield from _repeated("projects", "path", [project.path.lower() for project in directory.projects])
    yield from _repeated("projects", "id", [project.id for project in directory.projects])
    yield from _repeated("tokens", "token", [token.digest for token in directory.tokens])
    names = [token.username if isinstance(token, DeployToken) else None for token in directory.tokens]
    yield from _repeated("tokens", "username", names)
    for place, group in enumerate(directory.groups):
        yield from _unknown_members(f"groups.{place}", group.members, users)
        yield from _below_a_project(f"groups.{place}", group.path, projects)
    for place, project in enumerate(directory.projects):
        where = f"projects.{place}"
        if project.path.lower() in groups:
            yield f"{where}.path: {project.path!r} is the path of a group too"
        yield from _unknown_members(where, project.members, users)
        yield from _below_a_project(where, project.path, projects)
        for number, path in enumerate(project.job_token_allowlist or ()):
            if path.lower() not in projects:
                yield f"{where}.job_token_allowlist.{number}: no such project {path!r}"
    known = {"user": users, "project": projects, "group": groups}
    for place, token in enumerate(directory.tokens):
        for key, names_of_kind in known.items():
            named: str | None = getattr(token, key, None)
            if named is not None and named.lower() not in names_of_kind:
                yield f"tokens.{place}.{key}: no such {key} {named!r}"


def _repeated(section: str, key: str, values: Sequence[Any]) -> Iterator[str]:
    first: dict[Any, int] = {}
    for place, value in enumerate(values):
        if value is not None and first.setdefault(value, place) != place:
            yield f"{section}.{place}.{key}: the same as {section}.{first[value]}.{key}"


def _unknown_members(where: str, members: Iterable[str], users: set[str]) -> Iterator[str]:
    seen: set[str] = set()
    for username in members:
        if username.lower() not in users:
            yield f"{where}.members.{username}: no such user {username!r}"
        if username.lower() in seen:
            yield f"{where}.members.{username}: the same user stands here twice"
        seen.add(username.lower())


def _below_a_project(where: str, path: str, projects: set[str]) -> Iterator[str]:
    for above in ancestors(path.lower()):
        if above in projects:
            yield f"{where}.path: {path!r} lies below the project {above!r}; only groups hold projects"
