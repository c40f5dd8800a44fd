"""The directory: its format, what can be wrong with it, and the index that questions are answered from.

No error line repeats a value that could be a secret; each names the key to mend.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias

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

from gateway.plugins import (
    ConfigError,
    Group,
    Model,
    Project,
    RegistryLevel,
    Role,
    Scheme,
    Standing,
    Visibility,
    problems,
    read_yaml,
)
from plugins.auth_local.numbers import numbered
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
JOB_USERNAME: Final = "gitlab-ci-token"
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
Number = Annotated[int, Field(ge=1)]
Scope = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Username = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,255}$")]
DeployUsername = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+_-]{1,255}$")]


class User(Model):
    """An account. Without a password it can still own tokens."""

    username: Username
    id: Number | None = None
    name: str | None = Field(default=None, min_length=1)
    email: str | None = Field(default=None, pattern=r"^[^@\s]+@[^@\s]+$")
    password: SecretStr | None = Field(default=None, min_length=1)
    password_hash: SecretStr | None = None
    two_factor: bool = False
    admin: bool = False
    external: bool = False
    state: Literal["active", "blocked", "ldap_blocked", "blocked_pending_approval", "deactivated", "banned"] = "active"

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


class GroupItem(Model):
    """A group and its direct members; members of a group are members of everything below."""

    path: ItemPath
    id: Number | None = None
    visibility: Visibility = Visibility.PRIVATE
    members: Mapping[str, Role] = Field(default_factory=dict)


class ProjectItem(Model):
    """A project and its direct members."""

    path: Annotated[ItemPath, AfterValidator(_project_path)]
    id: Number | None = None
    visibility: Visibility = Visibility.PRIVATE
    container_registry_access_level: RegistryLevel = RegistryLevel.ENABLED
    members: Mapping[str, Role] = Field(default_factory=dict)
    archived: bool = False
    job_token_allowlist: tuple[str, ...] | None = None

    def facts(self, number: int) -> Project:
        """The project as the hooks speak of it."""
        return Project(self.path, self.visibility, self.container_registry_access_level, self.archived, number)

    def lets_in(self, path: str) -> bool:
        """Whether the job token allowlist lets in jobs of the project at the lower-case *path* (semantics 2.5)."""
        if self.job_token_allowlist is None:
            return True
        return not {item.lower() for item in self.job_token_allowlist}.isdisjoint((path, *ancestors(path)))


class TokenItem(Model):
    """What all tokens have: a secret or its SHA-256, perhaps a name, a last day, or an early end."""

    kind: str
    token: SecretStr | None = Field(default=None, min_length=1)
    token_sha256: str | None = Field(default=None, pattern=r"^[0-9A-Fa-f]{64}$")
    name: str | None = None
    expires_at: Annotated[date, BeforeValidator(_date)] | None = None
    revoked: bool = False
    schemes: ClassVar[frozenset[Scheme]] = frozenset({Scheme.BASIC, Scheme.PRIVATE_TOKEN, Scheme.BEARER})
    """How a token of the kind may be presented (semantics 2.1 and 6)."""

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

    @property
    def fingerprint(self) -> str:
        """What tells the token from all others, and is no help in guessing it."""
        return self.digest[:16]

    @property
    def title(self) -> str:
        """What the token is called in an explanation."""
        return f"{self.kind.replace('_', ' ')}{f' {self.name!r}' if self.name else ''}"

    def fits(self, username: str) -> bool:  # noqa: ARG002 - most kinds ignore it
        """Whether the token may come under *username*: most kinds ignore it (semantics 2.1)."""
        return True

    def standing(self, index: Index, path: str) -> Standing:  # noqa: ARG002 - most kinds stand as their user does
        """How the token itself stands to the project at the lower-case *path*."""
        return Standing()

    def group_standing(self, index: Index, path: str) -> Standing:  # noqa: ARG002 - likewise
        """How the token itself stands to the group at the lower-case *path*."""
        return Standing()


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

    @property
    def place(self) -> str:
        """The path of the project or group that the bot is a member of."""
        return self.project

    def standing(self, index: Index, path: str) -> Standing:  # noqa: ARG002 - the base's question
        """Its role in its project."""
        return Standing(self.role if self.project.lower() == path else None)

    def group_standing(self, index: Index, path: str) -> Standing:  # noqa: ARG002 - the base's question
        """Whether its project is below the group."""
        return Standing(covered=path in ancestors(self.project.lower()))


class GroupAccessToken(TokenItem):
    """A token of a bot that is a member of one group."""

    kind: Literal["group_access_token"]
    group: str
    role: Role
    scopes: tuple[Scope, ...]

    @property
    def place(self) -> str:
        """The path of the project or group that the bot is a member of."""
        return self.group

    def standing(self, index: Index, path: str) -> Standing:  # noqa: ARG002 - the base's question
        """Its role in its group, which is inherited below."""
        return Standing(self.role if self.group.lower() in ancestors(path) else None)

    def group_standing(self, index: Index, path: str) -> Standing:
        """Its role in its group, inherited below; or whether projects of its group are below the other one."""
        own = self.group.lower()
        if own in {path, *ancestors(path)}:
            return Standing(self.role)
        return Standing(covered=path in ancestors(own) and bool(index.below(own)))


class DeployToken(TokenItem):
    """A token of a project or a group, with a username of its own."""

    kind: Literal["deploy_token"]
    project: str | None = None
    group: str | None = None
    username: DeployUsername
    scopes: tuple[Scope, ...] = Field(min_length=1)
    schemes: ClassVar[frozenset[Scheme]] = frozenset({Scheme.BASIC})

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.project is None) == (self.group is None):
            raise ValueError("a deploy token needs either `project` or `group`")
        return self

    @property
    def place(self) -> str:
        """The path of the project or group that it was made for."""
        return self.project or self.group or ""

    def standing(self, index: Index, path: str) -> Standing:  # noqa: ARG002 - the base's question
        """Whether it was made for the project, or for a group above it."""
        place = self.place.lower()
        return Standing(covered=place == path if self.project else place in ancestors(path))

    def fits(self, username: str) -> bool:
        """A deploy token comes under its own username and no other."""
        return username == self.username


class OauthToken(TokenItem):
    """A token that a user gave to an application."""

    kind: Literal["oauth_token"]
    user: str
    scopes: tuple[Scope, ...]
    schemes: ClassVar[frozenset[Scheme]] = frozenset({Scheme.BASIC, Scheme.BEARER})


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
    schemes: ClassVar[frozenset[Scheme]] = frozenset({Scheme.BASIC, Scheme.JOB_TOKEN})

    def fits(self, username: str) -> bool:
        """A job token comes under the one username that GitLab gives to jobs."""
        return username == JOB_USERNAME

    def standing(self, index: Index, path: str) -> Standing:
        """Whether the job runs in the project, its user's role there, and whether the allowlist lets it in."""
        username, own = self.user.lower(), self.project.lower()
        if not index.users[username].active:
            return Standing()
        return Standing(index.role(username, path), own == path, index.projects[path].lets_in(own))

    def group_standing(self, index: Index, path: str) -> Standing:
        """As its user stands there."""
        username = self.user.lower()
        return index.group_standing(username, path) if index.users[username].active else Standing()


Bot: TypeAlias = ProjectAccessToken | GroupAccessToken
Token: TypeAlias = PersonalAccessToken | ProjectAccessToken | GroupAccessToken | DeployToken | OauthToken | JobToken


class Directory(Model):
    """The whole file."""

    users: tuple[User, ...] = ()
    groups: tuple[GroupItem, ...] = ()
    projects: tuple[ProjectItem, ...] = ()
    tokens: tuple[Annotated[Token, Field(discriminator="kind")], ...] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """A directory that is consistent, by the keys that questions come with; paths and usernames in lower case.

    *logins* has users by username and by e-mail address. *members* are those of groups and projects, *memberships* the
    same the other way round. *paths* are the projects', sorted; *open* are those whose images everybody may pull,
    *internal* those that every user but external ones may. *by_number* and *group_by_number* have the paths of projects
    and groups; *bots* the usernames of project and group tokens by their digests; *user_ids*, the bots' among them, and
    *token_ids* the numbers by username and digest.
    """

    users: Mapping[str, User]
    logins: Mapping[str, User]
    groups: Mapping[str, Group]
    projects: Mapping[str, ProjectItem]
    members: Mapping[str, Mapping[str, Role]]
    facts: Mapping[str, Project]
    tokens: Mapping[str, Token]
    fingerprints: Mapping[str, Token]
    memberships: Mapping[str, Sequence[str]]
    paths: Sequence[str]
    open: Sequence[str]
    internal: Sequence[str]
    by_number: Mapping[int, str]
    group_by_number: Mapping[int, str]
    bots: Mapping[str, str]
    user_ids: Mapping[str, int]
    token_ids: Mapping[str, int]

    @classmethod
    def of(cls, directory: Directory) -> Self:
        """Index *directory*."""
        projects = {item.path.lower(): item for item in directory.projects}
        groups = {item.path.lower(): item for item in directory.groups}
        users = {user.username.lower(): user for user in directory.users}
        holders: dict[str, GroupItem | ProjectItem] = {**groups, **projects}
        members = {path: _lowered(item.members) for path, item in holders.items()}
        memberships: dict[str, list[str]] = {}
        for path, roles in members.items():
            for username in roles:
                memberships.setdefault(username, []).append(path)
        project_ids = numbered("project", {path: item.id for path, item in projects.items()})
        group_ids = numbered("group", {path: item.id for path, item in groups.items()})
        facts = {path: project.facts(project_ids[path]) for path, project in projects.items()}
        bots = _bots(directory.tokens, project_ids, group_ids)
        user_ids = {name: user.id for name, user in users.items()} | dict.fromkeys(bots.values(), None)
        return cls(
            users=users,
            logins=users | {user.email.lower(): user for user in directory.users if user.email},
            groups={
                path: Group(item.path, item.visibility, group_ids[path], item.path.rpartition("/")[2])
                for path, item in groups.items()
            },
            projects=projects,
            members=members,
            facts=facts,
            tokens={token.digest: token for token in directory.tokens},
            fingerprints={token.fingerprint: token for token in directory.tokens},
            memberships=memberships,
            paths=sorted(projects),
            open=_enabled(facts, Visibility.PUBLIC),
            internal=_enabled(facts, Visibility.INTERNAL),
            by_number={number: path for path, number in project_ids.items()},
            group_by_number={number: path for path, number in group_ids.items()},
            bots=bots,
            user_ids=numbered("user", user_ids),
            token_ids=numbered("token", {token.digest: None for token in directory.tokens}),
        )

    def with_levels(self, levels: Mapping[str, RegistryLevel]) -> Self:
        """The same with other registry levels for the projects at some lower-case paths; others are left out."""
        if not levels:
            return self
        facts = {
            path: replace(project, registry=levels[path]) if path in levels else project
            for path, project in self.facts.items()
        }
        return replace(
            self,
            facts=facts,
            open=_enabled(facts, Visibility.PUBLIC),
            internal=_enabled(facts, Visibility.INTERNAL),
        )

    def token(self, secret: str) -> Token | None:
        """The token whose secret this is. What is compared are digests, which a caller can't choose byte by byte."""
        return self.tokens.get(secret_digest(secret))

    def role(self, username: str, path: str) -> Role | None:
        """The highest role that a user has in the project at *path*, its own members' and those of the groups above.

        A project in a user's own namespace, where no group is, is owned by that user.
        """
        above = ancestors(path)
        own = (Role.OWNER,) if above == (username,) and username not in self.groups else ()
        return self._highest(username, (path, *above), own)

    def group_standing(self, username: str, path: str) -> Standing:
        """How a user stands to the group at *path*, by the same rule; a stranger there may be a member further down."""
        role = self._highest(username, (path, *ancestors(path)))
        return Standing(role, covered=role is None and any(path in ancestors(below) for below in self.joined(username)))

    def _highest(self, username: str, places: Iterable[str], more: Sequence[Role] = ()) -> Role | None:
        holders = (self.members.get(place, {}) for place in places)
        roles = (*more, *(members[username] for members in holders if username in members))
        return max(roles, key=lambda role: role.level, default=None)

    def below(self, path: str) -> Sequence[str]:
        """The paths of the projects in the group at *path* and its subgroups; of a project, its own."""
        if path in self.projects:
            return (path,)
        # "0" is the character after "/".
        return self.paths[bisect_left(self.paths, f"{path}/") : bisect_left(self.paths, f"{path}0")]

    def joined(self, username: str) -> Iterator[str]:
        """The paths of the projects where a user has a role."""
        for path in (*self.memberships.get(username, ()), username):
            yield from self.below(path)


def _bots(tokens: Iterable[Token], projects: Mapping[str, int], groups: Mapping[str, int]) -> Mapping[str, str]:
    """The usernames of the users that GitLab makes for project and group tokens, by the tokens' digests."""
    found: dict[str, str] = {}
    for token in tokens:
        if isinstance(token, ProjectAccessToken):
            found[token.digest] = f"project_{projects[token.project.lower()]}_bot_{token.fingerprint}"
        elif isinstance(token, GroupAccessToken):
            found[token.digest] = f"group_{groups[token.group.lower()]}_bot_{token.fingerprint}"
    return found


def _enabled(facts: Mapping[str, Project], visibility: Visibility) -> Sequence[str]:
    """The paths of the projects of that visibility whose registry is open to whoever sees them."""
    return [
        path
        for path, project in facts.items()
        if project.visibility is visibility and project.registry is RegistryLevel.ENABLED
    ]


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
    yield from _repeated("groups", "id", [group.id for group in directory.groups])
    yield from _repeated("users", "id", [user.id for user in directory.users])
    yield from _repeated("tokens", "token", [token.digest for token in directory.tokens])
    yield from _repeated("users", "email", [user.email.lower() if user.email else None for user in directory.users])
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
            if path.lower() not in projects | groups:
                yield f"{where}.job_token_allowlist.{number}: no such project or group {path!r}"
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
