"""The REST API in front of a GitLab: who comes, what GitLab shows and lets them do, and what is passed on to it.

In mode ``jwt`` GitLab's own answers decide, in mode ``api`` the plugin that knows the matrix. Either way a caller gets
nothing that GitLab does not show them under their own credential; the service token is for facts about what it showed.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

from gateway.plugins import (
    ALL_ACTIONS,
    JOB_CEILING,
    Ability,
    Access,
    Action,
    ApiAnswer,
    ApiCall,
    Client,
    Credential,
    CredentialKind,
    ErrorCode,
    ExpirationPolicy,
    Group,
    Identity,
    InvalidCredentialError,
    Project,
    RegistryError,
    Remembered,
    Role,
    Services,
    Step,
    Unknown,
    Verdict,
    Visibility,
    ceiling,
)
from plugins.auth_gitlab.api import Facts
from plugins.auth_gitlab.callers import LONGEST, Callers, project_of
from plugins.auth_gitlab.client import GitLab, shaped
from plugins.auth_gitlab.config import Config
from plugins.auth_gitlab.held import HERE, ITSELF, Asker, Held, asker_of, cache_key, profile_of
from plugins.auth_gitlab.questions import Questions
from plugins.auth_gitlab.strangers import Strangers
from plugins.auth_gitlab.trail import Trail

Granted = Callable[[Identity, str, Action], Awaitable[bool]]
"""Whether GitLab's token endpoint grants an identity one action on the repository of that name."""

_PASSED_BACK: Final = (
    "Content-Type",
    "Link",
    "Retry-After",
    "X-Total",
    "X-Total-Pages",
    "X-Page",
    "X-Per-Page",
    "X-Next-Page",
    "X-Prev-Page",
)
"""The headers of GitLab's that its clients read (semantics 6)."""
_OF_IMAGES: Final = frozenset({Ability.READ_IMAGES, Ability.DELETE_TAG, Ability.ADMIN_IMAGES})
_API: Final = re.compile(r"<[^<>]*?/api/v4/")


class Rest:
    """Answers the hooks of the REST API."""

    def __init__(
        self,
        config: Config,
        services: Services,
        gitlab: GitLab,
        facts: Facts | None,
        granted: Granted,
        *,
        strangers: Strangers,
    ) -> None:
        self._config = config
        self._services = services
        self._source = services.name
        self._gitlab = gitlab
        self._facts = facts
        self._granted = granted
        self._strangers = strangers
        self._callers = Callers(config, gitlab, services.cache, strangers)
        token = config.service_token
        self._service_token = token.get_secret_value() if token is not None else None

    # -- who ------------------------------------------------------------------------------------------

    async def identity(
        self,
        credential: Credential,
        client: Client,
        *,
        before: Callable[[], None],
        after: Callable[[bool], Awaitable[None]],
    ) -> Identity | Unknown:
        """Who presents *credential*, which came in a header of the REST API; *before* and *after* as for a login."""

        async def ask(questions: Questions) -> Any:
            before()
            found = await questions.presented(credential, asker.address, facts=self._facts is not None)
            await after(found is not None)
            return found

        trail, asker = Trail(self._source), Asker(None, client.address or HERE)
        found = await self._asked(trail, cache_key(b"rest login", credential), ask, self._config.remember, asker)
        if found is None:
            return Unknown(trail.steps)
        if "refused" in found:
            raise InvalidCredentialError(found["refused"], trail.steps)
        return self._described(found, credential, client, trail)

    def _described(self, found: Mapping[str, Any], credential: Credential, client: Client, trail: Trail) -> Identity:
        kind = CredentialKind(found["kind"])
        job = kind is CredentialKind.JOB_TOKEN
        scopes = tuple(found["scopes"] or ())
        held = Held(
            credential,
            client.address,
            kind,
            profile_of(found["user"], found.get("token")),
            home=found["home"] if job else None,
            home_path=found["path"] if job else "",
        )
        # Where GitLab tells nobody a token's scopes, its answers keep to them.
        most = JOB_CEILING if job else ALL_ACTIONS if found["scopes"] is None else ceiling(scopes)
        return Identity(
            source=self._source,
            kind=kind,
            subject=found["username"],
            id=found["id"] or f"token:{self._fingerprint(credential)}",
            ceiling=most,
            admin=bool(found.get("admin")) and not job,
            external=bool(found.get("external")),
            scopes=scopes,
            credential=held,
            steps=trail.steps,
        )

    def _fingerprint(self, credential: Credential) -> str:
        return hmac.digest(self._services.key, cache_key(b"id", credential), sha256).hex()[:16]

    # -- facts ----------------------------------------------------------------------------------------

    async def find_project(self, identity: Identity, wanted: int | str) -> Project | None:
        """The project, where GitLab shows it to *identity*; in mode ``api`` with the facts of the service token."""
        trail, job = Trail(self._source), _job(identity)
        if job is not None and self._facts is not None:
            # A job is shown no project: whether its user may know of this one is decided by their role.
            return await self._known(trail, wanted)
        if job is not None and job.home_path and _is_home(job, wanted):
            return Project(job.home_path, Visibility.PRIVATE, id=job.home, steps=trail.steps)
        asker = _shown(identity)
        found = await self._callers.project(trail, asker, wanted) if asker is not None else None
        if asker is None or found is None or self._facts is None:
            return project_of(found, trail) if found is not None else None
        return await self._known(trail, found["id"], asker)

    async def _known(self, trail: Trail, wanted: int | str, asker: Asker = ITSELF) -> Project | None:
        """The project with all that the service token is shown of it."""
        ask = partial(Questions.project_at, key=str(wanted))
        found = await self._asked(trail, self._fact(f"project at {wanted}"), ask, LONGEST, asker)
        return project_of(found, trail) if found is not None else None

    async def find_group(self, identity: Identity, wanted: int | str) -> Group | None:
        """The group, where GitLab shows it to *identity*."""
        asker = _shown(identity)
        return await self._callers.group(Trail(self._source), asker, wanted) if asker is not None else None

    async def group_projects(self, identity: Identity, group: Group) -> Sequence[Project]:
        """The projects below *group* that GitLab shows *identity*: to who lists the group's images, all."""
        asker = _shown(identity)
        return await self._callers.group_projects(Trail(self._source), asker, group.id) if asker is not None else ()

    async def policy(self, project: Project) -> ExpirationPolicy | None:
        """The project's expiration policy, where the service token is shown one."""
        if self._service_token is None or project.source != self._source or project.id is None:
            return None
        ask = partial(Questions.policy, project=project.id)
        found = await self._asked(Trail(self._source), self._fact(f"policy {project.id}"), ask, LONGEST)
        if not isinstance(found, dict):
            return None
        with shaped(f"projects/{project.id}"):
            return _policy(found)

    # -- what may be done, in mode jwt ------------------------------------------------------------------

    async def verdict(self, identity: Identity, access: Access) -> Verdict:
        """The answer for one access of the type ``project`` or ``group``, by what GitLab answers its bearer."""
        wanted = frozenset(ability for ability in Ability if ability in access.actions)
        trail, allowed = Trail(self._source), frozenset[Ability]()
        if access.project is not None and access.project.source == self._source:
            allowed = await self._of_project(trail, identity, access.project, wanted)
        elif access.group is not None and access.group.source == self._source:
            allowed = await self._of_group(trail, identity, access.group, wanted)
        return Verdict(allowed, lambda: (*trail.steps(), _step(identity, access, wanted - allowed)))

    async def _of_project(
        self, trail: Trail, identity: Identity, project: Project, wanted: frozenset[Ability]
    ) -> frozenset[Ability]:
        job = _job(identity)
        if job is not None and job.home == project.id:
            role = await self._job_role(trail, identity)
            return frozenset({Ability.READ, *await self._of_images(trail, identity, project, role, wanted)})
        asker = _shown(identity)
        found = await self._callers.project(trail, asker, project.id or 0) if asker is not None else None
        if found is None or found["id"] != project.id:
            return frozenset()
        allowed = {Ability.READ}
        if job is None:
            shown, role = project_of(found), found["role"] if identity.scopes else None
            allowed |= await self._of_images(trail, identity, shown, role, wanted)
            if Ability.ADMIN in wanted and await self._administers(identity, shown, role):
                allowed.add(Ability.ADMIN)
        return frozenset(allowed)

    async def _of_images(
        self, trail: Trail, identity: Identity, project: Project, role: int | None, wanted: frozenset[Ability]
    ) -> set[Ability]:
        """Of what is wanted of the images, what GitLab allows. *role* is a number, None where it can't be relied on."""
        asker = asker_of(identity)
        if asker is None or not wanted & _OF_IMAGES:
            return set()
        if not await self._callers.lists(trail, asker, f"projects/{project.id}"):
            return set()
        allowed = {Ability.READ_IMAGES}
        if wanted <= allowed | {Ability.READ, Ability.ADMIN}:
            return allowed
        job = _job(identity) is not None
        if not job and role is not None and role >= Role.DEVELOPER.level and not project.archived:
            # A developer deletes tags over REST, and is granted no `delete` by the token endpoint (semantics 4).
            allowed.add(Ability.DELETE_TAG)
        if (Ability.ADMIN_IMAGES in wanted or Ability.DELETE_TAG not in allowed) and await self._granted(
            identity, project.path.lower(), Action.DELETE
        ):
            allowed |= _deletes(role) if job else {Ability.DELETE_TAG, Ability.ADMIN_IMAGES}
        return allowed

    async def _administers(self, identity: Identity, project: Project, role: int | None) -> bool:
        if role is not None and (identity.admin or role >= Role.MAINTAINER.level):
            return True
        return await self._granted(identity, project.path.lower(), Action.ALL)

    async def _job_role(self, trail: Trail, identity: Identity) -> int | None:
        """The role of a job's user in the job's project, where the service token sees it."""
        if self._service_token is None:
            return None
        user, home = (int(number) for number in identity.id.removeprefix("job:").split(":"))
        ask = partial(Questions.job_level, project=home, user=user)
        role: int | None = await self._asked(trail, self._fact(f"job role {home} {user}"), ask, LONGEST)
        return role

    async def _of_group(
        self, trail: Trail, identity: Identity, group: Group, wanted: frozenset[Ability]
    ) -> frozenset[Ability]:
        asker = _shown(identity)
        found = await self._callers.group(trail, asker, group.id) if asker is not None else None
        if asker is None or found is None or found.id != group.id:
            return frozenset()
        lists = Ability.READ_IMAGES in wanted and _job(identity) is None
        if lists and await self._callers.lists(trail, asker, f"groups/{group.id}"):
            return frozenset({Ability.READ, Ability.READ_IMAGES})
        return frozenset({Ability.READ})

    # -- what is passed on ------------------------------------------------------------------------------

    async def relay(self, identity: Identity, call: ApiCall) -> ApiAnswer | None:
        """GitLab's answer to *call* under the credential of *identity*; None where it has none for the REST API."""
        asker = asker_of(identity)
        headers = asker.headers if asker is not None else None
        if asker is None or headers is None:
            return None
        if not _stays_below(call.path):
            raise RegistryError(ErrorCode.UNSUPPORTED, "404 Not Found", status=HTTPStatus.NOT_FOUND)
        self._strangers.count(asker)
        status, found, body = await self._gitlab.relay(call, headers)
        if status == HTTPStatus.UNAUTHORIZED and asker.held is not None:
            await self._services.cache.forget(cache_key(b"rest login", asker.held.credential))
        back = {name: found[name] for name in _PASSED_BACK if name in found}
        if "Link" in back and self._services.external_url is not None:
            # GitLab's links lead to GitLab: the next page shall be asked for here.
            back["Link"] = _API.sub(lambda _: f"<{self._services.external_url}/api/v4/", back["Link"])
        return ApiAnswer(status, body, back)

    # -- asking ---------------------------------------------------------------------------------------

    def _fact(self, name: str) -> bytes:
        return f"gitlab rest {self._config.url} {name}".encode()

    async def _asked(
        self,
        trail: Trail,
        name: bytes,
        ask: Callable[[Questions], Awaitable[Any]],
        life: timedelta,
        asker: Asker = ITSELF,
    ) -> Any:
        """What *ask* finds, remembered with how it was found for *life* at most; nothing, for a time of its own."""

        async def remember() -> Remembered:
            questions = Questions(self._gitlab, self._service_token)
            with shaped("its REST API"):
                found = await ask(questions)
            longest = self._config.remember if found is not None else self._config.remember_refusals
            known = {"found": found, "asked": questions.asked}
            return Remembered(json.dumps(known).encode(), min(life, longest).total_seconds(), stale=False)

        recalled = await self._strangers.remember(name, remember, asker)
        known = json.loads(recalled.value)
        trail.add(known["asked"], recalled.source)
        return known["found"]


def _job(identity: Identity) -> Held | None:
    """What a job came with; None: it is no job."""
    held = identity.credential
    return held if isinstance(held, Held) and held.home is not None else None


def _shown(identity: Identity) -> Asker | None:
    """As whom GitLab is asked for a project or group: to a job it shows what it shows to nobody."""
    asker = asker_of(identity)
    return asker if asker is None or _job(identity) is None else replace(asker, held=None)


def _is_home(job: Held, wanted: int | str) -> bool:
    return wanted == job.home if isinstance(wanted, int) else wanted.lower() == job.home_path.lower()


def _deletes(role: int | None) -> set[Ability]:
    """What a job that its token lets delete does over REST: by its user's role (semantics 6).

    Where that is not known, what every job may do with the registry itself in its own project: delete an image.
    """
    if role is None:
        return {Ability.DELETE_TAG}
    found = {Ability.DELETE_TAG: Role.DEVELOPER, Ability.ADMIN_IMAGES: Role.MAINTAINER}
    return {ability for ability, needed in found.items() if role >= needed.level}


def _step(identity: Identity, access: Access, missing: frozenset[Ability]) -> Step:
    job, project = _job(identity), access.project
    if job is not None and missing & _OF_IMAGES and (project is None or project.id != job.home):
        finding = f"the job runs in another project, and the images of {access.name} are not for it"
        return Step("job_token", passed=False, finding=finding, remedy="use an access token")
    words = ", ".join(ability for ability in Ability if ability in missing)
    finding = f"GitLab does not allow {words} here" if missing else "GitLab allows it"
    remedy = f"see what GitLab lets you do in {access.name}, and what the token's scopes are" if missing else ""
    return Step("gitlab", passed=not missing, finding=finding, remedy=remedy)


def _stays_below(path: str) -> bool:
    """Whether *path* can't lead out of the API, and is one that a request line holds."""
    plain = path.isascii() and path.isprintable() and " " not in path and "\\" not in path and "#" not in path
    return plain and not any(unquote(part) in {".", ".."} for part in path.partition("?")[0].split("/"))


def _policy(found: Mapping[str, Any]) -> ExpirationPolicy:
    following = found.get("next_run_at")
    return ExpirationPolicy(
        enabled=bool(found.get("enabled")),
        cadence=str(found.get("cadence") or "1d"),
        keep_n=found.get("keep_n"),
        older_than=found.get("older_than"),
        name_regex=found.get("name_regex"),
        name_regex_keep=found.get("name_regex_keep"),
        next_run_at=datetime.fromisoformat(following).astimezone(UTC) if following else None,
    )
