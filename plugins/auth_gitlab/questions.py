"""One fact at a time from GitLab's REST API (semantics 13), and what was asked and answered on the way to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from gateway.plugins import Credential, CredentialKind, Role
from plugins.auth_gitlab.client import GitLab, UnavailableError

JOB_USERNAME: Final = "gitlab-ci-token"
ROLES: Final = {role.level: role for role in Role}
_PAGES: Final = 20


class Questions:
    """Asks for one fact. *asked* holds each question with its answer, in words without a secret."""

    def __init__(self, gitlab: GitLab, service_token: str) -> None:
        self.asked: list[str] = []
        self._gitlab = gitlab
        self._servant = {"PRIVATE-TOKEN": service_token}

    # -- who ------------------------------------------------------------------------------------------

    async def recognised(self, credential: Credential) -> dict[str, Any] | None:
        """Who presents *credential*; under ``refused`` why this GitLab or service token can't tell."""
        secret = credential.password.get_secret_value()
        if not secret.isascii() or not secret.isprintable():
            # No token is like that, and no header could carry it.
            return None
        if credential.username == JOB_USERNAME:
            status, job = await self._ask("GET", "job", {"JOB-TOKEN": secret}, said=_job)
            if status == HTTPStatus.OK and job.get("status") == "running" and job.get("user"):
                number = job["pipeline"]["project_id"]
                return await self._user(job["user"]["id"], CredentialKind.JOB_TOKEN, (), f"job:{{id}}:{number}")
        status, token = await self._ask("GET", "/oauth/token/info", {"Authorization": f"Bearer {secret}"}, said=_scopes)
        if status == HTTPStatus.OK:
            scopes = token.get("scope") or token.get("scopes") or ()
            return await self._user(token["resource_owner_id"], CredentialKind.OAUTH, scopes, "user:{id}")
        status, token = await self._ask("GET", "personal_access_tokens/self", {"PRIVATE-TOKEN": secret}, said=_personal)
        if status == HTTPStatus.OK and token.get("active"):
            return await self._user(
                token["user_id"], CredentialKind.PERSONAL_ACCESS_TOKEN, token["scopes"], "user:{id}"
            )
        if status == HTTPStatus.NOT_FOUND:
            return {"refused": "this GitLab is older than 15.5 and does not tell a token's scopes: use mode jwt"}
        return await self._deploy_token(credential)

    async def _user(self, number: int, kind: CredentialKind, scopes: Sequence[str], name: str) -> dict[str, Any] | None:
        status, user = await self._ask("GET", f"users/{int(number)}", self._servant, said=_user)
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
        status, token = await self._ask("POST", "admin/token", self._servant, body, said=_deploy_token)
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

    async def project(self, path: str) -> dict[str, Any] | None:
        """The project at *path*, None where there is none."""

        def said(found: Mapping[str, Any]) -> str:
            if found["path_with_namespace"].lower() != path:
                return "a project that was renamed"
            archived = ", archived" if found.get("archived") else ""
            return f"{found['visibility']}, registry {_level(found)}{archived}"

        status, found = await self._servants(f"projects/{quote(path, safe='')}", said=said)
        if status != HTTPStatus.OK or found["path_with_namespace"].lower() != path:
            # GitLab leads a renamed project's old path to the new one; an image's name does not move with it.
            return None
        return {
            "path": found["path_with_namespace"],
            "visibility": found["visibility"],
            "level": _level(found),
            "archived": bool(found.get("archived")),
            "id": found["id"],
        }

    async def level(self, project: int | None, user: int) -> int:
        """The number of the role that counts for *user* in *project*, 0 for none."""
        status, member = await self._servants(f"projects/{project}/members/all/{user}", said=_role)
        return int(member["access_level"]) if status == HTTPStatus.OK else 0

    async def deploy_tokens(self, place: str) -> list[int]:
        """The numbers of the deploy tokens of *place*, a project or group as its REST path has it."""
        return [int(item["id"]) for item in await self._pages(f"{place}/deploy_tokens")]

    async def allowlist(self, project: int | None) -> list[str] | None:
        """The paths of the projects and groups whose jobs *project* lets in; None where it lets in all."""
        base = f"projects/{project}/job_token_scope"
        status, scope = await self._servants(base, said=_inbound)
        if status == HTTPStatus.OK and not scope.get("inbound_enabled"):
            return None
        projects = [item["path_with_namespace"] for item in await self._pages(f"{base}/allowlist")]
        groups = [item.get("full_path", "") for item in await self._pages(f"{base}/groups_allowlist")]
        return [path.lower() for path in (*projects, *groups) if path]

    async def path(self, project: int) -> str:
        """The path of a project by its number; empty where there is none."""
        status, found = await self._servants(
            f"projects/{project}", said=lambda found: str(found["path_with_namespace"])
        )
        return str(found["path_with_namespace"]) if status == HTTPStatus.OK else ""

    # -- asking -----------------------------------------------------------------------------------------

    async def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: object = None,
        *,
        said: Callable[[Any], str],
    ) -> tuple[int, Any]:
        status, found = await self._gitlab.rest(method, path, headers, body)
        words = said(found) if status == HTTPStatus.OK else ""
        self.asked.append(f"{method} /{path.partition('?')[0].removeprefix('/')} → {status} {words}".rstrip())
        return status, found

    async def _servants(self, path: str, said: Callable[[Any], str]) -> tuple[int, Any]:
        """Ask with the service token. It is for facts alone: no client's question is ever sent under it."""
        status, found = await self._ask("GET", path, self._servant, said=said)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise UnavailableError(f"the service token may not read {path}: it needs read_api, of an administrator")
        return status, found

    async def _pages(self, path: str) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        for page in range(1, _PAGES + 1):
            status, items = await self._servants(f"{path}?per_page=100&page={page}", said=_listed)
            if status != HTTPStatus.OK:
                break
            found += items
            if len(items) < 100:  # noqa: PLR2004 - GitLab's largest page
                break
        return found


# -- in words -------------------------------------------------------------------------------------------


def _scopes(token: Mapping[str, Any]) -> str:
    return f"scopes: {', '.join(token.get('scope') or token.get('scopes') or ()) or 'none'}"


def _personal(token: Mapping[str, Any]) -> str:
    return f"{'active' if token.get('active') else 'not active'}, {_scopes(token)}"


def _job(job: Mapping[str, Any]) -> str:
    return f"{job.get('status')}"


def _user(user: Mapping[str, Any]) -> str:
    kinds = ("external", user.get("external")), ("administrator", user.get("is_admin"))
    return ", ".join([str(user.get("state")), *(word for word, applies in kinds if applies)])


def _deploy_token(token: Mapping[str, Any]) -> str:
    if "user_id" in token or "username" not in token:
        return "no deploy token"
    over = next((f", {word}" for word in ("revoked", "expired") if token.get(word)), "")
    return f"deploy token of the username {token['username']}{over}, {_scopes(token)}"


def _level(project: Mapping[str, Any]) -> str:
    return str(project.get("container_registry_access_level", "disabled"))


def _role(member: Mapping[str, Any]) -> str:
    level = int(member["access_level"])
    return str(ROLES.get(level, level))


def _listed(items: Sequence[Any]) -> str:
    return f"{len(items)} listed"


def _inbound(scope: Mapping[str, Any]) -> str:
    return f"inbound {'limited' if scope.get('inbound_enabled') else 'open'}"
