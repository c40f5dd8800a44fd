"""Who, which project, what role: facts from GitLab's REST API (``mode: api``), where its registry integration is off.

Nothing is decided here: the plugin that knows the matrix does that, from these facts.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

from gateway.plugins import (
    DEPLOY_TOKEN_SCOPES,
    JOB_CEILING,
    Credential,
    CredentialKind,
    Group,
    Identity,
    InvalidCredentialError,
    Project,
    RegistryLevel,
    Remembered,
    Standing,
    Unknown,
    Visibility,
    ceiling,
)
from plugins.auth_gitlab.client import GitLab, shaped
from plugins.auth_gitlab.config import Config
from plugins.auth_gitlab.held import ITSELF, Asker, Held, profile_of
from plugins.auth_gitlab.questions import ROLES, Questions
from plugins.auth_gitlab.strangers import Strangers
from plugins.auth_gitlab.trail import Trail


class Facts:
    """Asks for one fact at a time, and remembers it as long as the operator allows."""

    def __init__(self, config: Config, gitlab: GitLab, strangers: Strangers, source: str) -> None:
        assert config.service_token is not None
        self._config = config
        self._gitlab = gitlab
        self._strangers = strangers
        self._source = source
        self._service_token = config.service_token.get_secret_value()

    # -- who ------------------------------------------------------------------------------------------

    async def identity(
        self,
        credential: Credential,
        key: bytes,
        address: str,
        *,
        before: Callable[[], None],
        after: Callable[[bool], Awaitable[None]],
    ) -> Identity | Unknown:
        """Who presents *credential*; InvalidCredentialError says what this GitLab or service token can't tell.

        *before* may refuse to ask GitLab, and *after* hears whether it recognised the credential.
        """

        async def ask(questions: Questions) -> Any:
            before()
            found = await questions.recognised(credential, asker.address)
            await after(found is not None)
            return found

        trail, asker = Trail(self._source), Asker(None, address)
        found = await self._known(trail, key, ask, asker, nothing=self._config.remember_refusals)
        if found is None:
            return Unknown(trail.steps)
        if "refused" in found:
            raise InvalidCredentialError(found["refused"], trail.steps)
        kind, scopes = CredentialKind(found["kind"]), tuple(found["scopes"])
        most = JOB_CEILING if kind is CredentialKind.JOB_TOKEN else ceiling(scopes)
        if kind is CredentialKind.DEPLOY_TOKEN:
            most = ceiling(scopes, DEPLOY_TOKEN_SCOPES)
        return Identity(
            source=self._source,
            kind=kind,
            subject=found["username"],
            id=found["id"],
            ceiling=most,
            admin=found.get("admin", False) and kind is not CredentialKind.JOB_TOKEN,
            external=found.get("external", False),
            scopes=scopes,
            credential=_held(found, credential, address),
            steps=trail.steps,
        )

    # -- projects and roles -----------------------------------------------------------------------------

    async def project(self, candidates: Sequence[str], asker: Asker = ITSELF) -> Project | Unknown:
        """The project at the first of *candidates* that GitLab has. *asker* causes the questions."""
        trail = Trail(self._source)
        for path in candidates:
            found = await self._fact(trail, f"project {path}", partial(Questions.project, path=path), asker)
            if found is not None:
                return Project(
                    found["path"],
                    Visibility(found["visibility"]),
                    RegistryLevel(found["level"]),
                    found["archived"],
                    found["id"],
                    trail.steps,
                )
        return Unknown(trail.steps)

    async def standing(self, identity: Identity, project: Project) -> Standing:
        """The effective role, inherited and invited groups included; what a deploy or job token has to do with it."""
        trail = Trail(self._source)
        kind, _, rest = identity.id.partition(":")
        if kind == "deploy_token":
            return Standing(covered=await self._covers(trail, int(rest), project), steps=trail.steps)
        number, _, home = rest.partition(":")
        ask = partial(Questions.level, project=project.id, user=int(number))
        role = ROLES.get(await self._fact(trail, f"role {project.id} {int(number)}", ask))
        if kind != "job":
            return Standing(role, steps=trail.steps)
        covered = int(home) == project.id
        listed = covered or await self._lets_in(trail, project, int(home))
        return Standing(role, covered, listed, trail.steps)

    async def group_standing(self, identity: Identity, group: Group) -> Standing:
        """The effective role in the group, inherited from those above it; a deploy token has none."""
        trail = Trail(self._source)
        kind, _, rest = identity.id.partition(":")
        if kind not in {"user", "job"}:
            return Standing()
        number = int(rest.partition(":")[0])
        ask = partial(Questions.group_level, group=group.id, user=number)
        level = await self._fact(trail, f"group role {group.id} {number}", ask)
        return Standing(ROLES.get(level), steps=trail.steps)

    async def _covers(self, trail: Trail, number: int, project: Project) -> bool:
        parts = project.path.split("/")
        groups = ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
        for place in (f"projects/{project.id}", *(f"groups/{quote(group, safe='')}" for group in groups)):
            ask = partial(Questions.deploy_tokens, place=place)
            if number in await self._fact(trail, f"deploy tokens {place}", ask):
                return True
        return False

    async def _lets_in(self, trail: Trail, project: Project, home: int) -> bool:
        """Whether the project's allowlist names the job's project, or a group above it (semantics 2.5)."""
        listed = await self._fact(trail, f"allowlist {project.id}", partial(Questions.allowlist, project=project.id))
        if listed is None:
            return True
        path = await self._fact(trail, f"path {home}", partial(Questions.path, project=home))
        parts = path.lower().split("/")
        return any("/".join(parts[:count]) in listed for count in range(1, len(parts) + 1))

    # -- asking -----------------------------------------------------------------------------------------

    async def _fact(
        self, trail: Trail, name: str, ask: Callable[[Questions], Awaitable[Any]], asker: Asker = ITSELF
    ) -> Any:
        return await self._known(trail, f"gitlab fact {self._config.url} {name}".encode(), ask, asker)

    async def _known(
        self,
        trail: Trail,
        key: bytes,
        ask: Callable[[Questions], Awaitable[Any]],
        asker: Asker,
        nothing: timedelta | None = None,
    ) -> Any:
        """What *ask* finds, remembered with how it was found; nothing is remembered for a time of its own."""

        async def remember() -> Remembered:
            questions = Questions(self._gitlab, self._service_token)
            with shaped("its REST API"):
                found = await ask(questions)
            life = self._config.remember if found or nothing is None else nothing
            known = {"found": found, "asked": questions.asked}
            return Remembered(json.dumps(known).encode(), life.total_seconds(), stale=False)

        recalled = await self._strangers.remember(key, remember, asker)
        known = json.loads(recalled.value)
        trail.add(known["asked"], recalled.source)
        return known["found"]


def _held(found: Mapping[str, Any], credential: Credential, address: str) -> Held:
    kind = CredentialKind(found["kind"])
    home = int(found["id"].rpartition(":")[2]) if kind is CredentialKind.JOB_TOKEN else None
    return Held(credential, address, kind, profile_of(found.get("user", {})), home)
