"""What the hooks speak of: who asks, for what, and what may be answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from pydantic import SecretStr

from gateway.errors import RegistryError
from gateway.oci import Action, RepositoryName, Tag

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.plugins.chain import Answer
    from gateway.plugins.protocols import RepositoryRecord

ALL_ACTIONS: Final = frozenset(Action)
Steps = Callable[[], "Sequence[Step]"]
"""Called where somebody wants to read the steps, which most answers never see."""


class CredentialKind(StrEnum):
    """How a caller proved who they are; the values are GitLab's ``auth_type`` claim (semantics 2.2)."""

    PASSWORD = "gitlab_or_ldap"  # noqa: S105 - GitLab's word for the kind, not a secret
    PERSONAL_ACCESS_TOKEN = "personal_access_token"  # noqa: S105 - likewise
    OAUTH = "oauth"
    DEPLOY_TOKEN = "deploy_token"  # noqa: S105 - likewise
    JOB_TOKEN = "build"  # noqa: S105 - likewise
    UNKNOWN = "unknown"
    """Somebody, by a kind that whoever vouches for them did not name: GitLab before 15."""
    NONE = "none"

    @property
    def label(self) -> str:
        """What people call it."""
        return _LABELS[self]


_LABELS: Final = {
    CredentialKind.PASSWORD: "account password",
    CredentialKind.PERSONAL_ACCESS_TOKEN: "access token",
    CredentialKind.OAUTH: "OAuth access token",
    CredentialKind.DEPLOY_TOKEN: "deploy token",
    CredentialKind.JOB_TOKEN: "CI job token",
    CredentialKind.UNKNOWN: "credential",
    CredentialKind.NONE: "no credential",
}


class Role(StrEnum):
    """The roles of GitLab that can be given to a member (semantics 1)."""

    GUEST = "guest"
    PLANNER = "planner"
    REPORTER = "reporter"
    DEVELOPER = "developer"
    MAINTAINER = "maintainer"
    OWNER = "owner"

    @property
    def level(self) -> int:
        """GitLab's number for the role. A planner's (15) says nothing about the registry: see ``rules``."""
        return _LEVELS[self]


_LEVELS: Final = {
    Role.GUEST: 10,
    Role.PLANNER: 15,
    Role.REPORTER: 20,
    Role.DEVELOPER: 30,
    Role.MAINTAINER: 40,
    Role.OWNER: 50,
}


class Visibility(StrEnum):
    """Who may see that a project exists."""

    PRIVATE = "private"
    INTERNAL = "internal"
    PUBLIC = "public"


class RegistryLevel(StrEnum):
    """A project's ``container_registry_access_level``."""

    DISABLED = "disabled"
    PRIVATE = "private"
    ENABLED = "enabled"


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request comes from: the address behind any trusted proxies, and the request's id for logs."""

    address: str
    request_id: str = ""


class Scheme(StrEnum):
    """How a credential was presented: to the registry, or to the REST API (semantics 6)."""

    BASIC = "Basic"
    PRIVATE_TOKEN = "PRIVATE-TOKEN"  # noqa: S105 - the header's name
    BEARER = "Bearer"
    JOB_TOKEN = "JOB-TOKEN"  # noqa: S105 - likewise


@dataclass(frozen=True, slots=True)
class Credential:
    """What a caller presented, and how. The username may be empty; the password never prints itself.

    Only Basic has a username. The REST API takes access, OAuth and job tokens, and no password and no deploy token.
    """

    username: str
    password: SecretStr
    scheme: Scheme = Scheme.BASIC


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks.

    *source* names the plugin that authenticated them and the only one to supply facts about them (None: nobody).
    *subject* is the username that logs and tokens show; *id* is the source's own key of the credential's owner.
    *ceiling* is the most that the credential may ever do (semantics 2.2 and 2.3).
    *title* and *scopes* are for people to read, in an explanation: what the credential is called, and the scopes that
    its ceiling comes from; *steps* say what the source asked elsewhere to know this. They and *credential*, which is
    for the source that made the identity and nobody else, do not survive into a token. *address* is where a nobody is,
    for sources that ask elsewhere as them; what somebody came with, and from where, only their source knows.
    """

    source: str | None
    kind: CredentialKind
    subject: str
    id: str
    ceiling: frozenset[Action] = ALL_ACTIONS
    admin: bool = False
    external: bool = False
    title: str = field(default="", compare=False)
    scopes: tuple[str, ...] = field(default=(), compare=False)
    credential: object = field(default=None, repr=False, compare=False)
    steps: Steps = field(default=tuple, repr=False, compare=False)
    address: str = field(default="", compare=False)

    @property
    def anonymous(self) -> bool:
        """Whether nobody presented a credential."""
        return self.source is None


ANONYMOUS: Final = Identity(None, CredentialKind.NONE, "", "", frozenset({Action.PULL}))
"""Nobody: the caller who presents no credential. May at most pull (semantics 2.2). That of a request has an address."""


@dataclass(frozen=True, slots=True)
class Project:
    """The facts about a project that decide who may use its images. *path* keeps GitLab's capitals.

    *steps* say what its source asked elsewhere to know them. *source* is the plugin that knows it, set by the manager:
    *id* is that source's own, and another may have a project of the same number.
    """

    path: str
    visibility: Visibility
    registry: RegistryLevel = RegistryLevel.ENABLED
    archived: bool = False
    id: int | None = None
    steps: Steps = field(default=tuple, repr=False, compare=False)
    source: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Group:
    """The facts about a group that decide who may list its images. *path* keeps GitLab's capitals."""

    path: str
    visibility: Visibility
    id: int
    name: str = ""
    steps: Steps = field(default=tuple, repr=False, compare=False)
    source: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Standing:
    """How an identity stands to one project, or to one group.

    *role* is the highest that its user holds there as a member (for a job: the user who runs it). *covered* says that
    a deploy token was made for the project or a group above it, or that a job runs in it; of a group, that its user is
    a member of a project below it, as far as the source can tell. *listed* says of a job of another project whether
    this one's job token allowlist lets it in (semantics 2.5). *steps* say what the source asked elsewhere to know it.
    """

    role: Role | None = None
    covered: bool = False
    listed: bool = True
    steps: Steps = field(default=tuple, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Unknown:
    """No opinion, as None is, from a source that asked elsewhere: *steps* say what."""

    steps: Steps


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository's name and the project that it belongs to."""

    name: RepositoryName
    project: Project


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an action is refused: a word for programs, a sentence for people, and what to do about it."""

    code: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Why no project owns a name. *public*: the reason depends on the name alone, so that everybody may hear it.

    *steps* say what sources asked elsewhere to know that, for operators.
    """

    reason: Reason
    public: bool = False
    steps: Steps = field(default=tuple, repr=False, compare=False)


class Ability(StrEnum):
    """What the REST API asks about, by GitLab's own names (semantics 1): of a project, and the first two of a group.

    A group's ``read_container_image`` lets list the images of all that is below it, and is for its reporters.
    """

    READ = "read"
    """To know that it exists."""
    READ_IMAGES = "read_container_image"
    DELETE_TAG = "destroy_container_image"
    ADMIN_IMAGES = "admin_container_image"
    ADMIN = "admin_project"
    """To change its settings."""


@dataclass(frozen=True, slots=True)
class Access:
    """One access of a request.

    Of the type ``repository`` or ``registry`` it is a scope, with the repository that it stands for or why no project
    owns that name. Of the type ``project`` or ``group``, which no token can hold, *name* is the lower-case path,
    *actions* are an Ability's and *project* or *group* is what they are about.
    """

    type: str
    name: str
    actions: tuple[str, ...]
    repository: Repository | None = None
    unresolved: Unresolved | None = None
    project: Project | None = None
    group: Group | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the chain that leads to an answer: what was looked at, what was found, and whether that lets it pass.

    *remedy* says of a step that does not pass what would change that.
    """

    name: str
    passed: bool
    finding: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an authorizer says of one access: all that the identity's standing allows, and the steps that led there.

    *allowed* need not be cut to what was asked or to the credential's ceiling: the core does that. *steps* is called
    where somebody wants to read them, which most answers never see; they are for operators and may say everything, and
    the core decides what the caller hears of them. *project* is the lower-case path of the project where the authorizer
    alone knows that there is one, such as a server that decides by name; empty where it does not say which.
    *project_id* is that project's number.
    """

    allowed: frozenset[Action | Ability] = frozenset()
    steps: Steps = tuple
    project: str | None = None
    project_id: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """One verdict for each access of the question, in its order."""

    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The end of the whole request, as GitLab does for some (semantics 3.2): an HTTP status, code and message.

    *steps* led there; they are for operators.
    """

    status: int
    code: str
    message: str
    steps: Steps = field(default=tuple, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Deny:
    """A veto, with the reason that the caller hears."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Visible:
    """The projects whose images an identity may pull: all of them, or those of the lower-case paths in *projects*.

    With *all* and *by_name* the source can't name them: pull is decided for each repository of a page.
    """

    all: bool = False
    by_name: bool = False
    projects: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TagQuery:
    """A page of a tag listing: at most *limit* names (None: all), after *last*, in *order*.

    ``tags/list`` asks for the order ``name`` alone, as the specification fixes it (sorted by byte).
    """

    limit: int | None = None
    last: str = ""
    order: str = "name"


@dataclass(frozen=True, slots=True)
class TagPage:
    """Tags in the order that was asked for, and whether more follow."""

    tags: tuple[Tag, ...]
    more: bool = False


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a veto can see of a request: its method, route, repository, reference and the accesses it needs.

    Also of the REST API *accesses* are those of a registry, such as ``delete`` of a repository. A request there that is
    about all images of a project, or of a group, has that path as its repository.
    """

    method: str
    route: str
    repository: str | None
    reference: str | None
    accesses: tuple[Access, ...]
    client: Client


@dataclass(frozen=True, slots=True)
class Public:
    """Says of an endpoint that anybody may call it, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An HTTP endpoint outside ``/v2/``.

    *path* is a template such as ``/api/v4/projects/{id}``; a part in braces stands for one path segment, still
    percent-encoded. *access* says how the parts become the access that the caller needs, or that none is needed; the
    core checks it before *handler* runs.
    """

    method: str
    path: str
    access: Public | Callable[[Mapping[str, str]], Access]
    handler: Callable[[web.BaseRequest, Identity, Mapping[str, str]], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Asking:
    """A request to an ApiEndpoint: *identity* asks, *parts* are those of the path, still percent-encoded."""

    request: web.BaseRequest
    client: Client
    identity: Identity
    parts: Mapping[str, str]
    base: str
    """The URL by which the client reached the gateway."""
    read: Callable[[int], Awaitable[bytes]]
    """Reads the body, of at most that many bytes. Raises RegistryError: 413 for more, 400 where it breaks off, 408."""
    answers: tuple[Answer, ...] = ()
    """What was decided of the accesses that the endpoint needs, in their order; all are granted."""
    about: About | None = None
    """The image that it is about, where it is about one."""


@dataclass(frozen=True, slots=True)
class About:
    """What a request to an ApiEndpoint is about, which vetoes are shown: a repository, or one tag of it."""

    repository: RepositoryRecord
    tag: Tag | None = None


class Area(Protocol):
    """A family of endpoints below one path that recognise callers and say no in a way of their own."""

    prefix: str
    """Such as ``/api/v4/``: what no endpoint answers below it is refused in its way too."""

    async def identify(self, request: web.BaseRequest, client: Client) -> Identity:
        """Who asks. Raises RegistryError where the credential is no good."""
        ...

    def refusal(self, asking: Asking) -> RegistryError:
        """How a caller hears that some of *asking*'s answers are not what the endpoint needs."""
        ...

    def render(self, error: RegistryError) -> web.StreamResponse:
        """Any refusal or failure, as its clients read it."""
        ...


@dataclass(frozen=True, slots=True)
class ApiEndpoint:
    """An HTTP endpoint of an Area.

    *needs* finds out which accesses the request needs (Public: none, and why), *about* then, once they are granted,
    which image it is about (None: whatever the accesses name). Both may raise RegistryError where there is nothing. The
    core decides in between, and asks for vetoes before *handler* runs.
    """

    method: str
    path: str
    area: Area
    needs: Public | Callable[[Asking], Awaitable[Sequence[Access]]]
    handler: Callable[[Asking], Awaitable[web.StreamResponse]]
    about: Callable[[Asking], Awaitable[About]] | None = None


@dataclass(frozen=True, slots=True)
class ApiCall:
    """A request to GitLab's REST API: *path* is what follows ``/api/v4/``, percent-encoded, with its query."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """GitLab's answer to an ApiCall, for its client."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """What ``GET /user`` says of an identity's user, and ``GET /personal_access_tokens/self`` of its token.

    *token* has GitLab's keys: id, name, revoked, created_at, scopes, user_id, active, expires_at; None where the
    identity did not come with such a token.
    """

    id: int
    username: str
    name: str
    state: str = "active"
    admin: bool = False
    external: bool = False
    bot: bool = False
    email: str | None = None
    token: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class ExpirationPolicy:
    """A container expiration policy (semantics 7.1). *next_run_at* is in UTC; it is read-only."""

    enabled: bool = False
    cadence: str = "1d"
    keep_n: int | None = 10
    older_than: str | None = "90d"
    name_regex: str | None = ".*"
    name_regex_keep: str | None = None
    next_run_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Work done every *interval*. It never overlaps itself in one process; a failure is logged and counted.

    One that *removes* what somebody sent waits while the registry is read-only.
    """

    name: str
    interval: timedelta
    run: Callable[[], Awaitable[None]]
    removes: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a repository: ``push``, ``pull``, ``mount`` or ``delete`` of a manifest, tag or blob."""

    action: str
    repository: str
    subject: str
    client: Client
    tag: str | None = None
    digest: str | None = None
    media_type: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a part can do its work, and if not, one sentence with the fix."""

    ok: bool
    message: str = ""


Names = Sequence[str]
"""Tag names or repository names, in the order in which they will be shown."""
