"""Who, which project, what role: facts from GitLab's REST API (``mode: api``), where its registry integration is off.

Nothing is decided here: the plugin that knows the matrix does that, from these facts.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from gateway.plugins import (
    DEPLOY_TOKEN_SCOPES,
    JOB_CEILING,
    Cache,
    Credential,
    CredentialKind,
    Identity,
    InvalidCredentialError,
    Project,
    RegistryLevel,
    Remembered,
    Role,
    Standing,
    Visibility,
    ceiling,
)
from plugins.auth_gitlab.client import GitLab, UnavailableError
from plugins.auth_gitlab.config import Config

JOB_USERNAME: Final = "gitlab-ci-token"
_ROLES: Final = {role.level: role for role in Role}
_PAGES: Final = 20
_RELEASE: Final = (15, 5)
"""Since when a token can ask about itself (semantics 13)."""


class Facts:
    """Asks for one fact at a time, and remembers it as long as the operator allows."""

    def __init__(self, config: Config, gitlab: GitLab, cache: Cache, source: str) -> None:
        assert config.service_token is not None
        self._config = config
        self._gitlab = gitlab
        self._cache = cache
        self._source = source
        self._servant = {"PRIVATE-TOKEN": config.service_token.get_secret_value()}

    async def check(self) -> None:
        """Ask something that only the service token opens. Raises UnavailableError with the fix."""
        status, found = await self._servants("version")
        release = tuple(int(part) for part in str((found or {}).get("version", "")).split(".")[:2] if part.isdecimal())
        if status == HTTPStatus.OK and release < _RELEASE:
            raise UnavailableError(
                f"GitLab {found['version']} does not tell a token's scopes, which mode api needs (15.5): use mode jwt"
            )

    # -- who ------------------------------------------------------------------------------------------

    async def identity(
        self,
        credential: Credential,
        key: bytes,
        *,
        before: Callable[[], None],
        after: Callable[[bool], Awaitable[None]],
    ) -> Identity | None:
        """Who presents *credential*; InvalidCredentialError says what this GitLab or service token can't tell.

        *before* may refuse to ask GitLab, and *after* hears whether it recognised the credential.
        """

        async def ask() -> Remembered:
            before()
            found = await self._recognised(credential)
            await after(found is not None)
            seconds = self._config.remember if found else self._config.remember_refusals
            return Remembered(json.dumps(found).encode(), seconds.total_seconds(), stale=False)

        found = json.loads((await self._cache.remember(key, ask, on=UnavailableError)).value)
        if found is None:
            return None
        if "refused" in found:
            raise InvalidCredentialError(found["refused"])
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
        )

    async def _recognised(self, credential: Credential) -> dict[str, Any] | None:
        secret = credential.password.get_secret_value()
        if not secret.isascii() or not secret.isprintable():
            # No token is like that, and no header could carry it.
            return None
        if credential.username == JOB_USERNAME:
            status, job = await self._gitlab.rest("GET", "job", {"JOB-TOKEN": secret})
            if status == HTTPStatus.OK and job.get("status") == "running" and job.get("user"):
                number = job["pipeline"]["project_id"]
                return await self._user(job["user"]["id"], CredentialKind.JOB_TOKEN, (), f"job:{{id}}:{number}")
        status, token = await self._gitlab.rest("GET", "/oauth/token/info", {"Authorization": f"Bearer {secret}"})
        if status == HTTPStatus.OK:
            scopes = token.get("scope") or token.get("scopes") or ()
            return await self._user(token["resource_owner_id"], CredentialKind.OAUTH, scopes, "user:{id}")
        status, token = await self._gitlab.rest("GET", "personal_access_tokens/self", {"PRIVATE-TOKEN": secret})
        if status == HTTPStatus.OK and token.get("active"):
            return await self._user(
                token["user_id"], CredentialKind.PERSONAL_ACCESS_TOKEN, token["scopes"], "user:{id}"
            )
        if status == HTTPStatus.NOT_FOUND:
            return {"refused": "this GitLab is older than 15.5 and does not tell a token's scopes: use mode jwt"}
        return await self._deploy_token(credential)

    async def _user(self, number: int, kind: CredentialKind, scopes: Sequence[str], name: str) -> dict[str, Any] | None:
        status, user = await self._gitlab.rest("GET", f"users/{int(number)}", self._servant)
        if status != HTTPStatus.OK or user.get("state") != "active":
            return None
        if "external" not in user:
            raise UnavailableError("the service token is not an administrator's: GitLab hides who is external from it")
        return {
            "kind": kind,
            "username": user["username"],
            "id": name.format(id=int(number)),
            "scopes": list(scopes),
            "external": bool(user["external"]),
            "admin": bool(user.get("is_admin")),
        }

    async def _deploy_token(self, credential: Credential) -> dict[str, Any] | None:
        body = {"token": credential.password.get_secret_value()}
        status, token = await self._gitlab.rest("POST", "admin/token", self._servant, body)
        if status in {HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED}:
            return {
                "refused": "deploy tokens need a service token of an administrator: GitLab shows them to nobody else"
            }
        if status != HTTPStatus.OK or "user_id" in token or token.get("username") != credential.username:
            return None
        if token.get("revoked") or token.get("expired"):
            return None
        return {
            "kind": CredentialKind.DEPLOY_TOKEN,
            "username": token["username"],
            "id": f"deploy_token:{int(token['id'])}",
            "scopes": token["scopes"],
        }

    # -- projects and roles -----------------------------------------------------------------------------

    async def project(self, candidates: Sequence[str]) -> Project | None:
        """The project at the first of *candidates* that GitLab has."""
        for path in candidates:
            found = await self._remembered(f"project {path}", partial(self._project, path))
            if found is not None:
                return Project(
                    found["path"],
                    Visibility(found["visibility"]),
                    RegistryLevel(found["level"]),
                    found["archived"],
                    found["id"],
                )
        return None

    async def _project(self, path: str) -> dict[str, Any] | None:
        status, found = await self._servants(f"projects/{quote(path, safe='')}")
        if status != HTTPStatus.OK or found["path_with_namespace"].lower() != path:
            # GitLab leads a renamed project's old path to the new one; an image's name does not move with it.
            return None
        return {
            "path": found["path_with_namespace"],
            "visibility": found["visibility"],
            "level": found.get("container_registry_access_level", "disabled"),
            "archived": bool(found.get("archived")),
            "id": found["id"],
        }

    async def standing(self, identity: Identity, project: Project) -> Standing:
        """The effective role, inherited and invited groups included; what a deploy or job token has to do with it."""
        kind, _, rest = identity.id.partition(":")
        if kind == "deploy_token":
            return Standing(covered=await self._covers(int(rest), project))
        number, _, home = rest.partition(":")
        level = await self._remembered(f"role {project.id} {int(number)}", lambda: self._level(project, int(number)))
        role = _ROLES.get(level or 0)
        if kind != "job":
            return Standing(role)
        covered = int(home) == project.id
        return Standing(role, covered, covered or await self._lets_in(project, int(home)))

    async def _level(self, project: Project, number: int) -> int:
        status, member = await self._servants(f"projects/{project.id}/members/all/{number}")
        return int(member["access_level"]) if status == HTTPStatus.OK else 0

    async def _covers(self, number: int, project: Project) -> bool:
        parts = project.path.split("/")
        groups = ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
        for place in (f"projects/{project.id}", *(f"groups/{quote(group, safe='')}" for group in groups)):
            held = await self._remembered(f"deploy tokens {place}", partial(self._ids, f"{place}/deploy_tokens"))
            if number in (held or ()):
                return True
        return False

    async def _ids(self, path: str) -> list[int]:
        return [int(item["id"]) for item in await self._pages(path)]

    async def _lets_in(self, project: Project, home: int) -> bool:
        """Whether the project's allowlist names the job's project, or a group above it (semantics 2.5)."""
        listed = await self._remembered(f"allowlist {project.id}", lambda: self._allowlist(project))
        if listed is None:
            return True
        path = await self._remembered(f"path {home}", lambda: self._path(home))
        parts = (path or "").lower().split("/")
        return any("/".join(parts[:count]) in listed for count in range(1, len(parts) + 1))

    async def _allowlist(self, project: Project) -> list[str] | None:
        status, scope = await self._servants(f"projects/{project.id}/job_token_scope")
        if status == HTTPStatus.OK and not scope.get("inbound_enabled"):
            return None
        base = f"projects/{project.id}/job_token_scope"
        projects = [item["path_with_namespace"] for item in await self._pages(f"{base}/allowlist")]
        groups = [item.get("full_path", "") for item in await self._pages(f"{base}/groups_allowlist")]
        return [path.lower() for path in (*projects, *groups) if path]

    async def _path(self, number: int) -> str:
        status, found = await self._servants(f"projects/{number}")
        return str(found["path_with_namespace"]) if status == HTTPStatus.OK else ""

    # -- asking -----------------------------------------------------------------------------------------

    async def _servants(self, path: str) -> tuple[int, Any]:
        """Ask with the service token. It is for facts alone: no client's question is ever sent under it."""
        status, found = await self._gitlab.rest("GET", path, self._servant)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise UnavailableError(f"the service token may not read {path}: it needs read_api, of an administrator")
        return status, found

    async def _pages(self, path: str) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        for page in range(1, _PAGES + 1):
            status, items = await self._servants(f"{path}?per_page=100&page={page}")
            if status != HTTPStatus.OK:
                break
            found += items
            if len(items) < 100:  # noqa: PLR2004 - GitLab's largest page
                break
        return found

    async def _remembered(self, name: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        async def remember() -> Remembered:
            return Remembered(json.dumps(await ask()).encode(), self._config.remember.total_seconds(), stale=False)

        key = f"gitlab fact {self._config.url} {name}".encode()
        return json.loads((await self._cache.remember(key, remember, on=UnavailableError)).value)
