"""Who is who and may do what in the fake GitLab (semantics 2, 4 and 5), over a directory as of DESIGN 4.3."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Release = Literal["current", "14.x"]
Actions = frozenset[str]

ALL: Actions = frozenset({"pull", "push", "delete", "*"})
PULL: Actions = frozenset({"pull"})
NONE: Actions = frozenset()
ROLES = {"guest": 10, "planner": 15, "reporter": 20, "developer": 30, "maintainer": 40, "owner": 50}
CEILINGS: Mapping[str, Actions] = {
    "api": ALL,
    "read_api": PULL,
    "read_registry": PULL,
    "write_registry": frozenset({"push"}),
}
REGISTRY_SCOPES = {"read_registry", "write_registry"}
PERSONAL = ("personal_access_token", "project_access_token", "group_access_token")
OAUTH, DEPLOY, JOB = "oauth_token", "deploy_token", "ci_job_token"
ORDER = (JOB, OAUTH, *PERSONAL, DEPLOY)
AUTH_TYPES = {**dict.fromkeys(PERSONAL, "personal_access_token"), OAUTH: "oauth", DEPLOY: "deploy_token", JOB: "build"}
NAMES: Mapping[Release, re.Pattern[str]] = {
    "current": re.compile(r"[a-z0-9]+(([._/]|__|-*)[a-z0-9])*"),
    # At least one dash where GitLab has at least none: the same names, and no backtracking without end.
    "14.x": re.compile(r"[a-z0-9]+((?:[._/]|__|-{1,10})[a-z0-9]+)*"),
}


@dataclass(frozen=True)
class Person:
    """A user, or the bot behind a project's or group's token."""

    id: int
    username: str
    email: str = ""
    password: str = ""
    admin: bool = False
    external: bool = False
    state: str = "active"
    two_factor: bool = False
    bot: bool = False


@dataclass(frozen=True)
class Group:
    """A group, with its path as it is spelt."""

    id: int
    path: str
    visibility: str

    @property
    def key(self) -> str:
        """The path by which it is found."""
        return self.path.lower()

    @property
    def line(self) -> list[str]:
        """The group and those above it, the outermost first."""
        return list(itertools.accumulate(self.key.split("/"), lambda above, name: f"{above}/{name}"))


@dataclass(frozen=True)
class Project:
    """A project, with its path as it is spelt."""

    id: int
    path: str
    visibility: str
    level: str
    archived: bool
    allowlist: frozenset[str] | None

    @property
    def key(self) -> str:
        """The path by which it is found."""
        return self.path.lower()

    @property
    def ancestors(self) -> list[str]:
        """The namespaces above it, the outermost first."""
        return list(itertools.accumulate(self.key.split("/")[:-1], lambda above, name: f"{above}/{name}"))


@dataclass(frozen=True)
class Token:
    """A token of any kind; `place` is the project or group that it belongs to."""

    id: int
    kind: str
    name: str
    scopes: tuple[str, ...]
    owner: Person | None
    place: str
    username: str
    expires_at: dt.date | None
    revoked: bool
    status: str

    @property
    def active(self) -> bool:
        """Whether it is neither revoked nor expired; on the day of its expiry it is dead."""
        return not self.revoked and (self.expires_at is None or self.expires_at > dt.datetime.now(dt.UTC).date())

    def covers(self, project: Project) -> bool:
        """Tell whether a deploy token belongs to the project or to a group above it."""
        return f"{project.key}/".startswith(f"{self.place}/")


@dataclass(frozen=True)
class Caller:
    """Whoever asks at the token endpoint."""

    auth_type: str
    ceiling: Actions
    person: Person | None = None
    token: Token | None = None

    @property
    def deploy(self) -> Token | None:
        """The deploy token that it is."""
        return self.token if self.token is not None and self.token.kind == DEPLOY else None

    @property
    def job(self) -> Token | None:
        """The job token that it is."""
        return self.token if self.token is not None and self.token.kind == JOB else None


NOBODY = Caller("none", PULL)


class Ids:
    """Numbers for what has none of its own, the same ones for as long as a fake lives."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, str], int] = {}
        self._numbers = itertools.count(1001)

    def __call__(self, kind: str, key: str) -> int:
        """Give the number of a thing."""
        if (kind, key) not in self._given:
            self._given[kind, key] = next(self._numbers)
        return self._given[kind, key]


class Company:
    """One directory, read; a change of the directory makes another one."""

    def __init__(self, directory: Mapping[str, Any], release: Release, ids: Ids) -> None:
        self.release = release
        self.ids = ids
        self._members: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self.users: dict[str, Person] = {}
        self.groups: dict[str, Group] = {}
        self.projects: dict[str, Project] = {}
        self._tokens: defaultdict[str, list[Token]] = defaultdict(list)
        for entry in directory.get("users") or ():
            self._add_user(entry)
        for entry in directory.get("groups") or ():
            key = entry["path"].lower()
            number = entry.get("id") or self.ids("group", key)
            self.groups[key] = Group(number, entry["path"], entry.get("visibility", "private"))
            self._add_members(entry)
        for entry in directory.get("projects") or ():
            self._add_project(entry)
            self._add_members(entry)
        for entry in directory.get("tokens") or ():
            self._add_token(entry)

    # -- reading --------------------------------------------------------------------------------------

    def _add_user(self, entry: Mapping[str, Any]) -> None:
        known = ("username", "email", "password", "admin", "external", "state", "two_factor")
        fields = {name: entry[name] for name in known if entry.get(name) is not None}
        key = entry["username"].lower()
        self.users[key] = Person(id=entry.get("id") or self.ids("user", key), **fields)

    def _add_members(self, entry: Mapping[str, Any]) -> None:
        for username, role in (entry.get("members") or {}).items():
            self._members[entry["path"].lower()][username.lower()] = ROLES[role]

    def _add_project(self, entry: Mapping[str, Any]) -> None:
        key, allowlist = entry["path"].lower(), entry.get("job_token_allowlist")
        self.projects[key] = Project(
            id=entry.get("id") or self.ids("project", key),
            path=entry["path"],
            visibility=entry.get("visibility", "private"),
            level=entry.get("container_registry_access_level", "enabled"),
            archived=entry.get("archived", False),
            allowlist=None if allowlist is None else frozenset(path.lower() for path in allowlist),
        )

    def _add_token(self, entry: Mapping[str, Any]) -> None:
        digest = entry.get("token_sha256") or hashlib.sha256(entry["token"].encode()).hexdigest()
        kind, place = entry["kind"], (entry.get("project") or entry.get("group") or "").lower()
        owner = self.users.get(entry.get("user", "").lower())
        if kind in {"project_access_token", "group_access_token"}:
            owner = self._add_bot(kind, place, digest, entry["role"])
        expires_at = entry.get("expires_at")
        self._tokens[digest.lower()].append(
            Token(
                id=self.ids("token", digest),
                kind=kind,
                name=entry.get("name", f"{kind}-{digest[:6]}"),
                scopes=tuple(entry.get("scopes", ())),
                owner=owner,
                place=place,
                username=entry.get("username", ""),
                expires_at=dt.date.fromisoformat(expires_at) if isinstance(expires_at, str) else expires_at,
                revoked=entry.get("revoked", False),
                status=entry.get("status", "running"),
            )
        )

    def _add_bot(self, kind: str, place: str, digest: str, role: str) -> Person:
        word = kind.partition("_")[0]
        number = self.projects[place].id if place in self.projects else self.group_id(place)
        username = f"{word}_{number}_bot_{digest[:12]}"
        self.users[username] = Person(id=self.ids("user", username), username=username, bot=True)
        self._members[place][username] = ROLES[role]
        return self.users[username]

    # -- finding --------------------------------------------------------------------------------------

    def tokens(self, secret: str) -> list[Token]:
        """Give the tokens with this secret, the dead among them."""
        return self._tokens.get(hashlib.sha256(secret.encode()).hexdigest(), [])

    def deploy_tokens(self, place: str) -> list[Token]:
        """List the deploy tokens of a project or group."""
        every = itertools.chain.from_iterable(self._tokens.values())
        return [token for token in every if token.kind == DEPLOY and token.place == place]

    def alive(self, secret: str) -> Iterator[Token]:
        """Give those of them that still open anything (2.2)."""
        for token in self.tokens(secret):
            placed = not token.place or token.place in self.projects or token.place in self.groups
            owned = token.kind == DEPLOY or (token.owner is not None and token.owner.state == "active")
            if token.active and placed and owned and (token.kind != JOB or token.status == "running"):
                yield token

    def authenticate(self, username: str, secret: str, *, registry: bool) -> Caller | None:
        """Recognise a Basic credential, in GitLab's order (2.1)."""
        found = [
            token
            for token in self.alive(secret)
            # Without a registry, its scopes are unknown ones (2.3).
            if registry or token.kind == JOB or set(token.scopes) - REGISTRY_SCOPES
        ]
        for kind in ORDER:
            for token in found:
                if token.kind == kind and self._fits(token, username):
                    return Caller(AUTH_TYPES[kind], self._ceiling(token), token.owner, token)
        return self._by_password(username, secret)

    def _fits(self, token: Token, username: str) -> bool:
        if token.kind == JOB:
            return username == "gitlab-ci-token"
        if token.kind == OAUTH:
            return self.release == "current" or (username == "oauth2" and "api" in token.scopes)
        return token.kind != DEPLOY or username == token.username

    @staticmethod
    def _ceiling(token: Token) -> Actions:
        if token.kind == JOB:
            return ALL - {"*"}
        return NONE.union(*(CEILINGS.get(scope, NONE) for scope in token.scopes))

    def _by_password(self, username: str, secret: str) -> Caller | None:
        login = username.lower()
        for person in self.users.values():
            named = login and login in {person.username.lower(), person.email.lower()}
            good = secret and secret == person.password and person.state == "active" and not person.two_factor
            if named and good:
                return Caller("gitlab_or_ldap", ALL, person)
        return None

    def project_of(self, name: str) -> Project | None:
        """Find the project of an image, unless the name is none (5.1)."""
        parts = name.split("/")
        if not NAMES[self.release].fullmatch(name) or not 2 <= len(parts) < 20:
            return None
        candidates = ("/".join(parts[: len(parts) - extra]) for extra in range(3))
        return next((self.projects[path] for path in candidates if path in self.projects), None)

    def group_id(self, path: str) -> int:
        """Give the number of a group, or of a user's namespace."""
        return self.groups[path].id if path in self.groups else self.ids("group", path)

    def below(self, group: Group) -> list[Project]:
        """List the projects of a group and its subgroups."""
        return [project for project in self.projects.values() if group.key in project.ancestors]

    # -- judging --------------------------------------------------------------------------------------

    def direct_role(self, person: Person, project: Project) -> int:
        """Give the role in the project itself; whoever has a personal project owns it."""
        namespace = project.ancestors[0]
        if namespace == person.username.lower() and namespace not in self.groups:
            return ROLES["owner"]
        return self._members[project.key].get(person.username.lower(), 0)

    def group_role(self, person: Person, project: Project) -> int:
        """Give the highest role in the groups above the project."""
        return max(self._members[path].get(person.username.lower(), 0) for path in project.ancestors)

    def role(self, person: Person | None, project: Project) -> int:
        """Give the role that counts, 0 for none."""
        if person is None:
            return 0
        return max(self.direct_role(person, project), self.group_role(person, project))

    def sees(self, person: Person | None, project: Project) -> bool:
        """Tell whether the project exists for them."""
        if project.visibility == "public":
            return True
        if person is None:
            return False
        open_to_them = project.visibility == "internal" and not person.external
        return open_to_them or person.admin or self.role(person, project) > 0

    def role_in(self, person: Person, group: Group) -> int:
        """Give the role in a group, inherited from those above it; 0 for none."""
        return max(self._members[path].get(person.username.lower(), 0) for path in group.line)

    def sees_group(self, person: Person | None, group: Group) -> bool:
        """Tell whether the group exists for them: members of a project below may know of it."""
        if group.visibility == "public":
            return True
        if person is None:
            return False
        open_to_them = group.visibility == "internal" and not person.external
        member = self.role_in(person, group) or any(self.role(person, project) for project in self.below(group))
        return open_to_them or person.admin or bool(member)

    def lists_group(self, person: Person | None, group: Group) -> bool:
        """Tell whether they may list the images of a group: its reporters and admins (4, notes)."""
        return person is not None and (person.admin or self.role_in(person, group) >= ROLES["reporter"])

    def reads_images(self, person: Person | None, project: Project) -> bool:
        """Tell whether they may list the images of a project."""
        return project.level != "disabled" and "pull" in self._actions_of_person(person, project)

    def maintains(self, person: Person | None, project: Project) -> bool:
        """Tell whether they may change the project's settings."""
        return person is not None and (person.admin or self.role(person, project) >= ROLES["maintainer"])

    def actions(self, caller: Caller, project: Project) -> Actions:
        """Judge what a caller may do to the images of a project (4)."""
        if project.level == "disabled":
            return NONE
        if caller.job is not None:
            return self._actions_of_job(caller.job, project)
        if caller.deploy is not None and caller.deploy.covers(project):
            return caller.ceiling & (PULL if project.archived else {"pull", "push"})
        return caller.ceiling & self._actions_of_person(caller.person, project)

    def _actions_of_person(self, person: Person | None, project: Project) -> Actions:
        role = ROLES["owner"] if person is not None and person.admin else self.role(person, project)
        found = set()
        if role >= ROLES["reporter"] or self._open(person, role, project):
            found.add("pull")
        if role >= ROLES["developer"] and not project.archived:
            found.add("push")
        if role >= ROLES["maintainer"] and not project.archived:
            found |= {"delete", "*"}
        return frozenset(found)

    def _open(self, person: Person | None, role: int, project: Project) -> bool:
        if project.level != "enabled" or project.visibility == "private":
            return False
        if project.visibility == "public":
            return True
        # A guest who is external: not in 14.x.
        return person is not None and (not person.external or (role > 0 and self.release == "current"))

    def _actions_of_job(self, job: Token, project: Project) -> Actions:
        if job.place == project.key:
            return ALL - {"*"}
        if self._open(job.owner, 0, project):
            return PULL
        # In 14.x nobody lists whose jobs may come.
        listed = self.release == "14.x" or project.allowlist is None or job.place in project.allowlist
        return PULL if listed and self.role(job.owner, project) >= ROLES["reporter"] else NONE
