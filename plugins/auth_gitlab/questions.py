"""One fact at a time from GitLab's REST API (semantics 13), and what was asked and answered on the way to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlsplit

from gateway.plugins import Credential, CredentialKind, RegistryLevel, Role, Scheme, Visibility
from plugins.auth_gitlab.client import GitLab, UnavailableError
from plugins.auth_gitlab.held import JOB_USERNAME, rest_headers

_TOO_OLD: Final = "this GitLab is older than 15.5 and does not tell a token's scopes: use mode jwt"
ROLES: Final = {role.level: role for role in Role}
_PAGES: Final = 20
_SHOWN: Final = ("id", "username", "name", "state", "email", "bot", "external", "is_admin")
"""What is kept of a user."""


class Questions:
    """Asks for one fact. *asked* holds each question with its answer, in words without a secret."""

    def __init__(self, gitlab: GitLab, service_token: str | None) -> None:
        self.asked: list[str] = []
        self._gitlab = gitlab
        self._servant = {"PRIVATE-TOKEN": service_token} if service_token is not None else {}

    # -- who ------------------------------------------------------------------------------------------

    async def recognised(self, credential: Credential, address: str) -> dict[str, Any] | None:
        """Who presents *credential* at *address*; under ``refused`` why this GitLab or service token can't tell."""
        secret = credential.password.get_secret_value()
        if not secret.isascii() or not secret.isprintable():
            # No token is like that, and no header could carry it.
            return None
        place = {"X-Forwarded-For": address}
        if credential.username == JOB_USERNAME:
            status, job = await self._ask("GET", "job", {"JOB-TOKEN": secret, **place}, said=_job)
            if status == HTTPStatus.OK and job.get("status") == "running" and job.get("user"):
                number = job["pipeline"]["project_id"]
                return await self._user(job["user"]["id"], CredentialKind.JOB_TOKEN, (), f"job:{{id}}:{number}")
        shown = {"Authorization": f"Bearer {secret}", **place}
        status, token = await self._ask("GET", "/oauth/token/info", shown, said=_scopes)
        if status == HTTPStatus.OK:
            scopes = token.get("scope") or token.get("scopes") or ()
            return await self._user(token["resource_owner_id"], CredentialKind.OAUTH, scopes, "user:{id}")
        shown = {"PRIVATE-TOKEN": secret, **place}
        status, token = await self._ask("GET", "personal_access_tokens/self", shown, said=_personal)
        if status == HTTPStatus.OK and token.get("active"):
            return await self._user(
                token["user_id"], CredentialKind.PERSONAL_ACCESS_TOKEN, token["scopes"], "user:{id}"
            )
        if status == HTTPStatus.NOT_FOUND:
            return {"refused": _TOO_OLD}
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
            "user": {key: user.get(key) for key in _SHOWN},
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

    # -- who comes to the REST API ------------------------------------------------------------------------

    async def presented(self, credential: Credential, address: str, *, facts: bool) -> dict[str, Any] | None:
        """Who presents *credential* to the REST API, as GitLab tells its bearer; None: GitLab does not take it.

        With *facts* the service token is asked for what only an administrator hears of the user. ``scopes`` is None
        where GitLab tells nobody a token's scopes (14.x). Of a job ``home`` and ``path`` are its project's.
        """
        headers = rest_headers(credential)
        if headers is None:
            return None
        headers = {**headers, "X-Forwarded-For": address}
        found = await (self._job(headers) if credential.scheme is Scheme.JOB_TOKEN else self._token(headers))
        if found is None or not facts:
            return found
        kind, scopes, number = CredentialKind(found["kind"]), found["scopes"], found["user"]["id"]
        if scopes is None or number is None:
            return {"refused": _TOO_OLD}
        told = await self._user(number, kind, scopes, found["id"])
        return {**found, **told} if told else None

    async def _job(self, headers: Mapping[str, str]) -> dict[str, Any] | None:
        status, job = await self._ask("GET", "job", headers, said=_job)
        if status != HTTPStatus.OK or job.get("status") != "running" or not job.get("user"):
            return None
        user, home = job["user"], int(job["pipeline"]["project_id"])
        # Its page is https://gitlab.example.com/GROUP/PROJECT/-/jobs/NUMBER, behind GitLab's own path where it has one.
        page, _, _ = urlsplit(str(job.get("web_url") or "")).path.partition("/-/jobs/")
        return {
            "kind": CredentialKind.JOB_TOKEN,
            "id": f"job:{int(user['id'])}:{home}",
            "scopes": [],
            "user": user,
            "username": user["username"],
            "home": home,
            "path": page.removeprefix(self._gitlab.root).strip("/"),
        }

    async def _token(self, headers: Mapping[str, str]) -> dict[str, Any] | None:
        kind, scopes, number = CredentialKind.PERSONAL_ACCESS_TOKEN, None, None
        record: Mapping[str, Any] | None = None
        if "Authorization" in headers:
            status, token = await self._ask("GET", "/oauth/token/info", headers, said=_scopes)
            if status == HTTPStatus.OK:
                kind, number = CredentialKind.OAUTH, token["resource_owner_id"]
                scopes = token.get("scope") or token.get("scopes") or []
        if scopes is None:
            status, token = await self._ask("GET", "personal_access_tokens/self", headers, said=_personal)
            if status == HTTPStatus.UNAUTHORIZED or (status == HTTPStatus.OK and not token.get("active")):
                return None
            if status == HTTPStatus.OK:
                record, scopes, number = token, token["scopes"], token["user_id"]
        status, user = await self._ask("GET", "user", headers, said=_user)
        if status == HTTPStatus.OK:
            number = int(user["id"])
        elif status == HTTPStatus.UNAUTHORIZED:
            return None
        else:
            # It is alive, and has no scope for this (trap 33): 14.x does not even say whose it is.
            scopes, user = scopes or [], {"id": number}
        return {
            "kind": kind,
            "id": f"user:{number}" if number else "",
            "scopes": scopes,
            "user": user,
            "username": user.get("username") or f"user {number or 'of an access token'}",
            "external": bool(user.get("external")),
            "admin": bool(user.get("is_admin")),
            "token": record,
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
        return facts_of(found)

    async def project_at(self, key: str) -> dict[str, Any] | None:
        """The project that has the number or the path *key*, wherever GitLab has moved it; None where there is none."""
        if not is_key(key):
            return None
        status, found = await self._servants(f"projects/{quote(key, safe='')}", said=_project)
        return facts_of(found) if status == HTTPStatus.OK else None

    async def policy(self, project: int) -> dict[str, Any] | None:
        """The project's expiration policy, None where the service token is not shown one."""
        status, found = await self._ask("GET", f"projects/{project}", self._servant, said=_project)
        return found.get("container_expiration_policy") if status == HTTPStatus.OK else None

    async def group_level(self, group: int, user: int) -> int:
        """The number of the role that counts for *user* in the group, 0 for none."""
        status, member = await self._servants(f"groups/{group}/members/all/{user}", said=_role)
        return int(member["access_level"]) if status == HTTPStatus.OK else 0

    async def job_level(self, project: int, user: int) -> int | None:
        """As ``level``; None where the service token is not one that sees it."""
        status, member = await self._ask("GET", f"projects/{project}/members/all/{user}", self._servant, said=_role)
        return int(member["access_level"]) if status == HTTPStatus.OK else None

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
        status, _, found = await self._gitlab.rest(method, path, headers, body)
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


def _project(found: Mapping[str, Any]) -> str:
    archived = ", archived" if found.get("archived") else ""
    return f"{found['path_with_namespace']}, {found.get('visibility')}, registry {_level(found)}{archived}"


def is_key(wanted: int | str) -> bool:
    """Whether *wanted* can name a project or group: no part of a path is empty or leads elsewhere."""
    return not any(part in {"", ".", ".."} for part in str(wanted).split("/"))


def facts_of(project: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a project as GitLab shows it. Raises what an answer of another shape leads to: see ``shaped``."""
    return {
        "path": str(project["path_with_namespace"]),
        "visibility": Visibility(project["visibility"]),
        "level": RegistryLevel(_level(project)),
        "archived": bool(project.get("archived")),
        "id": int(project["id"]),
    }


def _level(project: Mapping[str, Any]) -> str:
    return str(project.get("container_registry_access_level", "disabled"))


def _role(member: Mapping[str, Any]) -> str:
    level = int(member["access_level"])
    return str(ROLES.get(level, level))


def _listed(items: Sequence[Any]) -> str:
    return f"{len(items)} listed"


def _inbound(scope: Mapping[str, Any]) -> str:
    return f"inbound {'limited' if scope.get('inbound_enabled') else 'open'}"
