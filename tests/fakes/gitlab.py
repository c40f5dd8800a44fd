"""A small GitLab on a loopback socket: its token endpoint and the REST calls about credentials (semantics 3, 13)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Self
from urllib.parse import parse_qsl, unquote, urlencode

import jwt
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from multidict import CIMultiDictProxy

from tests.fakes.gitlab_rules import (
    DEPLOY,
    JOB,
    NOBODY,
    OAUTH,
    PERSONAL,
    PULL,
    Caller,
    Company,
    Group,
    Ids,
    Person,
    Project,
    Release,
    Token,
)
from tests.support.peers import free_port

if TYPE_CHECKING:
    from types import TracebackType

Mode = Literal["ok", "slow", "down", "429", "500", "503", "garbage", "redirect", "maintenance"]

ISSUER = "gitlab-issuer"
SERVICE = "container_registry"
LIFETIME = 300
VERSIONS: Mapping[Release, str] = {"current": "18.5.1", "14.x": "14.10.5"}
DENIALS: Mapping[Release, str] = {
    "current": "HTTP Basic: Access denied. The password or token is incorrect, expired, or improperly scoped. See ",
    "14.x": "HTTP Basic: Access denied. The password or token is incorrect, or the account has two factors. See ",
}
READS = ("read_user", "read_api", "api")
READS_ALL = ("read_api", "api")
ELSEWHERE = (
    "Forbidden - This project's CI/CD job token cannot be used to authenticate with the container registry of a "
    "different project."
)
CADENCES = {"1d": 1, "7d": 7, "14d": 14, "1month": 30, "3month": 90}
"""Days of each cadence of an expiration policy (7.1)."""
POLICY: Mapping[str, Any] = {
    "cadence": "1d",
    "enabled": False,
    "keep_n": 10,
    "older_than": "90d",
    "name_regex": ".*",
    "name_regex_keep": None,
    "next_run_at": "2024-01-02T00:00:00.000Z",
}
SERVANT = "gitlab-service"
"""The admin whose token `service_token` is."""


class Asked(NamedTuple):
    """A request as it came; the path is not decoded, the username is that of a Basic header."""

    method: str
    path: str
    query: list[tuple[str, str]]
    username: str | None
    forwarded_for: str | None
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class _Call:
    asked: Asked
    headers: CIMultiDictProxy[str]
    body: bytes
    company: Company

    def parameter(self, name: str) -> str | None:
        return dict(self.asked.query).get(name)

    def basic(self) -> tuple[str, str] | None:
        """Read the Basic header; one that cannot be read is a bad credential."""
        return _basic(self.headers)

    def bearer(self) -> str | None:
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        return value.strip() if scheme.lower() == "bearer" else None


class _RefusalError(Exception):
    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def _refuse(status: int, words: str) -> NoReturn:
    raise _RefusalError(status, {"message": f"{status} {words}"})


def _basic(headers: Mapping[str, str]) -> tuple[str, str] | None:
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        pair = base64.b64decode(value, validate=True).decode(errors="replace")
    except binascii.Error:
        return "", ""
    username, colon, password = pair.partition(":")
    return (username, password) if colon else ("", "")


def fingerprint(key: rsa.RSAPublicKey) -> str:
    """Spell the libtrust fingerprint of a key."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    spelt = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(spelt[start : start + 4] for start in range(0, len(spelt), 4))


def _certificate(key: rsa.RSAPrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ISSUER)])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=30))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _errors(status: int, code: str, message: str) -> _RefusalError:
    return _RefusalError(status, {"errors": [{"code": code, "message": message}], "http_status": status})


class FakeGitLab:
    """A GitLab of one release over a directory, in a thread of its own.

    `mode`, `delay`, `registry_enabled`, `version`, `directory`, `throttled` (the requests that are one too many of
    whoever sends them), `instead` (JSON for a path in place of its own answer) and `counts` (whether lists say how long
    they are) may be set while it runs. Of the modes, `slow` waits
    `delay` seconds and then answers, `down` breaks connections off (to refuse them, `stop`), `429`, `500` and `503`
    fail, `garbage` is 200 with half a JSON, `redirect` leads to the login page, and `maintenance` is GitLab's
    maintenance mode, which leaves `pull` of everything.
    """

    def __init__(self, directory: Mapping[str, Any], *, release: Release = "current") -> None:
        self.release: Release = release
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.mode: Mode = "ok"
        self.delay = 0.0
        self.throttled: Callable[[Asked], bool] = lambda _: False
        self.instead: dict[str, object] = {}
        self.counts = True
        self.most_at_once = 0
        """How many requests were under way at the same time, at most."""
        self._under_way = 0
        self.registry_enabled = True
        self.version = VERSIONS[release]
        self.requests: list[Asked] = []
        self.targets: list[str] = []
        """The path and query of each request to the letter."""
        self.repositories: set[str] = set()
        """The records that granted pushes made (3.3, step 8)."""
        self.service_token = f"glpat-{secrets.token_urlsafe(16)}"
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._id_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.kid = fingerprint(self._key.public_key())
        self.certificate_pem = _certificate(self._key)
        self.public_key_pem = (
            self._key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )
        self._ids = Ids()
        self._policies: dict[int, dict[str, Any]] = {}
        self.directory = directory
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._runner: web.ServerRunner | None = None
        self._routes = self._table()

    # -- its life -------------------------------------------------------------------------------------

    @property
    def directory(self) -> Mapping[str, Any]:
        """What it knows; set another one to revoke, and everything keeps its number."""
        return self._directory

    @directory.setter
    def directory(self, directory: Mapping[str, Any]) -> None:
        servant = {"username": SERVANT, "admin": True}
        token = {"kind": PERSONAL[0], "user": SERVANT, "token": self.service_token, "scopes": ["read_api"]}
        more = {
            "users": [*(directory.get("users") or ()), servant],
            "tokens": [*(directory.get("tokens") or ()), token],
        }
        self._company = Company({**directory, **more}, self.release, self._ids)
        self._directory = directory

    def start(self) -> None:
        """Serve on its port, the same one each time."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake GitLab", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(timeout=10)

    def stop(self) -> None:
        """Close the port and every connection; requests under way are broken off."""
        if self._loop is None or self._thread is None or self._runner is None:
            return
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()
        self._loop = self._thread = self._runner = None

    async def _open(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def count(self, path: str) -> int:
        """Count the requests for a path."""
        return sum(asked.path == path for asked in self.requests)

    # -- its numbers ----------------------------------------------------------------------------------

    def user_id(self, username: str) -> int:
        """Give a user's number."""
        return self._company.users[username.lower()].id

    def project_id(self, path: str) -> int:
        """Give a project's number."""
        return self._company.projects[path.lower()].id

    def group_id(self, path: str) -> int:
        """Give a group's number."""
        return self._company.groups[path.lower()].id

    def token_id(self, secret: str) -> int:
        """Give a token's number."""
        return self._company.tokens(secret)[0].id

    # -- its signatures -------------------------------------------------------------------------------

    def sign(self, claims: Mapping[str, Any], headers: Mapping[str, Any] | None = None) -> str:
        """Sign claims, whatever they are, with the key of its registry tokens."""
        return jwt.encode(dict(claims), self._key, algorithm="RS256", headers={"kid": self.kid, **(headers or {})})

    def sign_as(self, other: FakeGitLab) -> None:
        """Sign registry tokens with the key of another one from now on."""
        self._key, self.kid = other._key, other.kid

    def mint(self, access: Iterable[Mapping[str, Any]]) -> str:
        """Make a token as GitLab does for its own use, with just these entries (3.4)."""
        return self.sign({**_times(), "iss": ISSUER, "aud": SERVICE, "access": [dict(entry) for entry in access]})

    def mint_id_token(self, claims: Mapping[str, Any]) -> str:
        """Make an ID token of a job, with the key that is published at `/oauth/discovery/keys`."""
        headers = {"kid": fingerprint(self._id_key.public_key())}
        return jwt.encode({"iss": self.url, **_times(), **claims}, self._id_key, algorithm="RS256", headers=headers)

    # -- requests -------------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        raw, _, query = request.raw_path.partition("?")
        who = _basic(request.headers)
        body = await request.read()
        asked = Asked(
            request.method,
            raw,
            parse_qsl(query, keep_blank_values=True),
            None if who is None else who[0],
            request.headers.get("X-Forwarded-For"),
            body,
            request.headers.copy(),
        )
        self.requests.append(asked)
        self.targets.append(request.raw_path)
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            broken = await self._broken(request)
        finally:
            self._under_way -= 1
        if broken is not None:
            return broken
        if self.throttled(asked):
            return web.json_response({"message": "429 Too Many Requests"}, status=429, headers={"Retry-After": "42"})
        if raw in self.instead:
            return web.json_response(self.instead[raw])
        try:
            call = _Call(asked, request.headers, body, self._company)
            return self._dispatch(call)
        except _RefusalError as refusal:
            if refusal.body is None:
                return web.Response(status=refusal.status)
            return web.json_response(refusal.body, status=refusal.status)

    async def _broken(self, request: web.BaseRequest) -> web.Response | None:
        mode = self.mode
        if mode == "slow":
            await asyncio.sleep(self.delay)
        if mode == "down" and request.transport is not None:
            request.transport.abort()
        return {
            "down": lambda: web.Response(status=500),
            "429": lambda: web.Response(status=429, text="Retry later\n", headers={"Retry-After": "60"}),
            "500": lambda: web.json_response({"message": "500 Internal Server Error"}, status=500),
            "503": lambda: web.Response(status=503, text=_page("Deploy in progress"), content_type="text/html"),
            "garbage": lambda: web.Response(text='{"token": "ey', content_type="application/json"),
            "redirect": lambda: web.Response(status=302, headers={"Location": f"{self.url}/users/sign_in"}),
        }.get(mode, lambda: None)()

    def _table(self) -> list[tuple[str, list[str], Callable[..., web.Response]]]:
        table: dict[str, Callable[..., web.Response]] = {
            "GET /jwt/auth": self._jwt_auth,
            "POST /jwt/auth": self._nothing,
            "GET /users/sign_in": self._sign_in,
            "GET /oauth/token/info": self._token_info,
            "GET /oauth/discovery/keys": self._keys,
            "GET /api/v4/version": self._version,
            "GET /api/v4/user": self._user,
            "GET /api/v4/users": self._users,
            "GET /api/v4/users/*": self._user_by_id,
            "GET /api/v4/job": self._job,
            "GET /api/v4/projects/*/deploy_tokens": self._deploy_tokens,
            "GET /api/v4/groups/*/deploy_tokens": self._deploy_tokens,
            "GET /api/v4/projects/*/job_token_scope": self._job_token_scope,
            "GET /api/v4/projects/*/job_token_scope/allowlist": self._job_allowlist,
            "GET /api/v4/projects/*/job_token_scope/groups_allowlist": self._job_allowlist,
            "GET /api/v4/projects/*": self._project,
            "PUT /api/v4/projects/*": self._change_project,
            "GET /api/v4/projects/*/members/all/*": self._member,
            "GET /api/v4/projects/*/registry/repositories": self._project_images,
            "GET /api/v4/groups/*": self._group,
            "GET /api/v4/groups/*/projects": self._group_projects,
            "GET /api/v4/groups/*/members/all/*": self._group_member,
            "GET /api/v4/groups/*/registry/repositories": self._group_images,
        }
        if self.release == "current":
            table["GET /api/v4/personal_access_tokens/self"] = self._token_self
            table["POST /api/v4/admin/token"] = self._admin_token
        return [(*_split(line), handler) for line, handler in table.items()]

    def _dispatch(self, call: _Call) -> web.Response:
        parts = call.asked.path.split("/")
        for method, pattern, handler in self._routes:
            if method != call.asked.method or len(pattern) != len(parts):
                continue
            pairs = list(zip(pattern, parts, strict=True))
            if all(wanted in {"*", part} for wanted, part in pairs):
                return handler(call, *(unquote(part) for wanted, part in pairs if wanted == "*"))
        raise _RefusalError(404, {"error": "404 Not Found"})

    # -- the token endpoint (3) -----------------------------------------------------------------------

    def _nothing(self, _call: _Call) -> web.Response:
        raise _RefusalError(404, None)

    def _jwt_auth(self, call: _Call) -> web.Response:
        caller = self._basic_caller(call)
        if call.parameter("service") == "dependency_proxy":
            raise _errors(404, "UNAVAILABLE", "dependency proxy not enabled")
        if call.parameter("service") != SERVICE:
            raise _RefusalError(404, None)
        if not self.registry_enabled:
            raise _errors(404, "UNAVAILABLE", "registry not enabled")
        if not caller.ceiling:
            raise _errors(403, "DENIED", "access forbidden")
        access = [entry for scope in self._scopes(call) if (entry := self._entry(call.company, caller, scope))]
        if not access and caller is NOBODY:
            raise _errors(403, "DENIED", "access forbidden")
        return web.json_response({"token": self.sign(self._claims(caller, access))})

    def _basic_caller(self, call: _Call) -> Caller:
        credential = call.basic()
        if credential is None:
            return NOBODY
        caller = call.company.authenticate(*credential, registry=self.registry_enabled)
        if caller is None:
            message = f"{DENIALS[self.release]}{self.url}/help/topics/git/troubleshooting_git"
            raise _RefusalError(401, {"errors": [{"code": "UNAUTHORIZED", "message": message}]})
        return caller

    def _scopes(self, call: _Call) -> list[str]:
        values = [value for name, value in call.asked.query if name == "scope"]
        return values if self.release == "14.x" else [scope for value in values for scope in value.split()]

    def _entry(self, company: Company, caller: Caller, scope: str) -> dict[str, Any] | None:
        parts = scope.split(":", 2)
        if len(parts) < 3:
            raise _RefusalError(500, {"message": "500 Internal Server Error"})
        kind, name, actions = parts[0], parts[1], parts[2].split(",")
        if kind == "registry":
            admin = caller.person is not None and caller.person.admin
            return {"type": kind, "name": name, "actions": ["*"]} if admin and parts[1:] == ["catalog", "*"] else None
        name = name.lower()
        project = company.project_of(name) if kind == "repository" else None
        if project is None:
            return None
        may = company.actions(caller, project)
        granted = [action for action in actions if action in (may & PULL if self.mode == "maintenance" else may)]
        if not granted:
            return None
        if "push" in granted:
            self.repositories.add(name)
        entry: dict[str, Any] = {"type": kind, "name": name, "actions": granted}
        if self.release == "current":
            root = company.group_id(project.ancestors[0])
            entry["meta"] = {"project_path": project.key, "project_id": project.id, "root_namespace_id": root}
        return entry

    def _claims(self, caller: Caller, access: list[dict[str, Any]]) -> dict[str, Any]:
        subject = "" if caller.person is None else caller.person.username
        claims = {**_times(), "iss": ISSUER, "aud": SERVICE, "sub": subject, "access": access}
        if self.release == "14.x":
            return {**claims, "sub": caller.deploy.username} if caller.deploy else claims
        about: dict[str, Any] | None = None
        if caller.deploy is not None:
            about = {"username": caller.deploy.username, "deploy_token_id": caller.deploy.id}
        elif caller.person is not None:
            about = {"username": caller.person.username, "user_id": caller.person.id}
        info = None if about is None else {"token_type": caller.auth_type, **about}
        return {**claims, "auth_type": caller.auth_type, "user": self.sign({**_times(60), "user_info": info})}

    # -- REST (13) ------------------------------------------------------------------------------------

    def _token_of(self, call: _Call) -> Token | None:
        """Find the token of a REST call; None is nobody, and so is a job, which REST mostly does not know."""
        private = call.headers.get("PRIVATE-TOKEN") or call.parameter("private_token")
        bearer = call.bearer() or call.parameter("access_token")
        secret, kinds = (private, PERSONAL) if private else (bearer, (*PERSONAL, OAUTH))
        if not secret:
            return None
        found = next((token for token in call.company.alive(secret) if token.kind in kinds), None)
        return found or _refuse(401, "Unauthorized")

    def _person(self, call: _Call, scopes: Iterable[str]) -> Person | None:
        token = self._token_of(call)
        if token is None:
            return None
        if not set(scopes) & set(token.scopes):
            said = "The request requires higher privileges than provided by the access token."
            wanted = " ".join(scopes)
            raise _RefusalError(403, {"error": "insufficient_scope", "error_description": said, "scope": wanted})
        return token.owner

    def _somebody(self, call: _Call, scopes: Iterable[str]) -> Person:
        return self._person(call, scopes) or _refuse(401, "Unauthorized")

    def _version(self, call: _Call) -> web.Response:
        self._somebody(call, READS)
        return web.json_response({"version": self.version, "revision": "0a1b2c3d4e5"})

    def _user(self, call: _Call) -> web.Response:
        person = self._somebody(call, READS)
        return web.json_response(_full_user(person, person))

    def _users(self, call: _Call) -> web.Response:
        asking = self._somebody(call, READS)
        wanted = call.parameter("username")
        users = call.company.users
        found = users.values() if wanted is None else [users[wanted.lower()]] if wanted.lower() in users else []
        show: Callable[[Person], dict[str, Any]] = (lambda user: _full_user(user, asking)) if asking.admin else _user
        return self._page_of(call, [show(user) for user in found])

    def _user_by_id(self, call: _Call, wanted: str) -> web.Response:
        asking = self._somebody(call, READS)
        person = next((each for each in call.company.users.values() if wanted == str(each.id)), None)
        if person is None:
            _refuse(404, "User Not Found")
        return web.json_response(_full_user(person, asking) if asking.admin else _user(person))

    def _administrator(self, call: _Call) -> None:
        if not self._somebody(call, ("read_api", "api")).admin:
            _refuse(403, "Forbidden")

    def _deploy_tokens(self, call: _Call, wanted: str) -> web.Response:
        self._administrator(call)
        places = {str(project.id): project.key for project in call.company.projects.values()}
        place = places.get(wanted, wanted.lower())
        if place not in call.company.projects and place not in call.company.groups:
            _refuse(404, "Not Found")
        return web.json_response([_deploy(token) for token in call.company.deploy_tokens(place)])

    def _job_token_scope(self, call: _Call, wanted: str) -> web.Response:
        self._administrator(call)
        project = self._visible(call, self._person(call, READS), wanted)
        return web.json_response({"inbound_enabled": project.allowlist is not None, "outbound_enabled": False})

    def _job_allowlist(self, call: _Call, wanted: str) -> web.Response:
        self._administrator(call)
        project = self._visible(call, self._person(call, READS), wanted)
        groups = call.asked.path.endswith("groups_allowlist")
        known = set(call.company.groups if groups else call.company.projects)
        name = "full_path" if groups else "path_with_namespace"
        listed = [{"id": 0, name: path} for path in sorted((project.allowlist or frozenset()) & known)]
        return web.json_response([] if call.parameter("page") not in {None, "1"} else listed)

    def _token_self(self, call: _Call) -> web.Response:
        token = self._token_of(call)
        if token is None or token.kind == OAUTH:
            _refuse(401, "Unauthorized")
        return web.json_response(_personal(token))

    def _job_token(self, call: _Call) -> Token | None:
        """Find the job token of a REST call that takes some."""
        secret = call.headers.get("JOB-TOKEN") or call.parameter("job_token")
        if not secret:
            return None
        found = next((token for token in call.company.alive(secret) if token.kind == JOB), None)
        return found or _refuse(401, "Unauthorized")

    def _job(self, call: _Call) -> web.Response:
        token = self._job_token(call) or _refuse(401, "Unauthorized")
        return web.json_response(_job(token, call.company, self.url))

    def _visible(self, call: _Call, person: Person | None, wanted: str) -> Project:
        projects = call.company.projects.values()
        found = next((each for each in projects if wanted == str(each.id) or wanted.lower() == each.key), None)
        if found is None or not call.company.sees(person, found):
            _refuse(404, "Project Not Found")
        return found

    def _project(self, call: _Call, wanted: str) -> web.Response:
        person = self._person(call, READS_ALL)
        return web.json_response(self._shown(call.company, person, self._visible(call, person, wanted)))

    def _shown(self, company: Company, person: Person | None, project: Project) -> dict[str, Any]:
        shown = {
            "id": project.id,
            "name": project.path.rpartition("/")[2],
            "path": project.path.rpartition("/")[2],
            "path_with_namespace": project.path,
            "visibility": project.visibility,
            "archived": project.archived,
            "namespace": {
                "id": company.group_id(project.ancestors[-1]),
                "kind": "group" if project.ancestors[-1] in company.groups else "user",
                "full_path": project.path.rpartition("/")[0],
            },
            "container_registry_access_level": project.level,
            "container_registry_enabled": project.level != "disabled",
            "container_registry_image_prefix": f"registry.example.com/{project.key}",
            "container_expiration_policy": self._policies.get(project.id, dict(POLICY)),
        }
        if person is not None:
            shown["permissions"] = {
                "project_access": _access(company.direct_role(person, project)),
                "group_access": _access(company.group_role(person, project)),
            }
        return shown

    def _change_project(self, call: _Call, wanted: str) -> web.Response:
        """Change the settings of section 6; the directory of the fake is another one afterwards."""
        person = self._somebody(call, ("api",))
        project = self._visible(call, person, wanted)
        if not call.company.maintains(person, project):
            _refuse(403, "Forbidden")
        asked = _parameters(call)
        level = asked.get("container_registry_access_level")
        if level not in {None, "disabled", "private", "enabled"}:
            raise _RefusalError(400, {"error": "container_registry_access_level does not have a valid value"})
        attributes = asked.get("container_expiration_policy_attributes")
        if attributes is not None:
            self._policies[project.id] = self._changed_policy(project, attributes)
        if level is not None:
            projects = [
                {**entry, "container_registry_access_level": level} if entry["path"].lower() == project.key else entry
                for entry in self.directory["projects"]
            ]
            self.directory = {**self.directory, "projects": projects}
        changed = self._company.projects[project.key]
        return web.json_response(self._shown(self._company, person, changed))

    def _changed_policy(self, project: Project, attributes: Mapping[str, Any]) -> dict[str, Any]:
        policy = {**self._policies.get(project.id, POLICY), **attributes}
        if "name_regex_delete" in policy:
            policy["name_regex"] = policy.pop("name_regex_delete")
        if policy["cadence"] not in CADENCES:
            raise _RefusalError(400, {"error": "container_expiration_policy_attributes[cadence] is invalid"})
        following = dt.datetime.now(dt.UTC) + dt.timedelta(days=CADENCES[policy["cadence"]])
        return {**policy, "next_run_at": f"{following:%Y-%m-%dT%H:%M:%S.000Z}"}

    def _project_images(self, call: _Call, wanted: str) -> web.Response:
        job = self._job_token(call)
        person = job.owner if job is not None else self._person(call, READS_ALL)
        project = self._visible(call, person, wanted)
        if job is not None and job.place != project.key:
            _refuse(403, ELSEWHERE)
        if not call.company.reads_images(person, project):
            _refuse(403, "Forbidden")
        return self._page_of(call, self._images(call.company, {project.key}))

    def _images(self, company: Company, projects: Iterable[str]) -> list[dict[str, Any]]:
        """List the records of some projects; none is there but by a granted push."""
        wanted, found = set(projects), []
        for name in sorted(self.repositories):
            project = company.project_of(name)
            if project is not None and project.key in wanted:
                extra = name.removeprefix(project.key).strip("/")
                number = company.ids("repository", name)
                found.append({"id": number, "name": extra, "path": name, "project_id": project.id})
        return found

    # -- groups (6) -----------------------------------------------------------------------------------

    def _visible_group(self, call: _Call, person: Person | None, wanted: str) -> Group:
        groups = call.company.groups.values()
        found = next((each for each in groups if wanted == str(each.id) or wanted.lower() == each.key), None)
        if found is None or not call.company.sees_group(person, found):
            _refuse(404, "Group Not Found")
        return found

    def _group(self, call: _Call, wanted: str) -> web.Response:
        person = self._person(call, READS_ALL)
        group = self._visible_group(call, person, wanted)
        name, parent = group.path.rpartition("/")[2], group.key.rpartition("/")[0]
        return web.json_response(
            {
                "id": group.id,
                "name": name.title(),
                "path": name,
                "full_path": group.path,
                "visibility": group.visibility,
                "parent_id": call.company.group_id(parent) if parent else None,
            }
        )

    def _group_projects(self, call: _Call, wanted: str) -> web.Response:
        person = self._person(call, READS_ALL)
        group = self._visible_group(call, person, wanted)
        deep = call.parameter("include_subgroups") == "true"
        found = [
            self._shown(call.company, person, project)
            for project in call.company.below(group)
            if call.company.sees(person, project) and (deep or project.ancestors[-1] == group.key)
        ]
        return self._page_of(call, found)

    def _group_images(self, call: _Call, wanted: str) -> web.Response:
        person = self._person(call, READS_ALL)
        group = self._visible_group(call, person, wanted)
        if not call.company.lists_group(person, group):
            _refuse(403, "Forbidden")
        return self._page_of(call, self._images(call.company, (each.key for each in call.company.below(group))))

    def _group_member(self, call: _Call, wanted: str, user_id: str) -> web.Response:
        group = self._visible_group(call, self._somebody(call, READS_ALL), wanted)
        person = next((each for each in call.company.users.values() if user_id == str(each.id)), None)
        role = 0 if person is None else call.company.role_in(person, group)
        if person is None or not role:
            _refuse(404, "Not found")
        return web.json_response({**_user(person), "access_level": role, "expires_at": None})

    def _page_of(self, call: _Call, items: list[dict[str, Any]]) -> web.Response:
        """Answer a list by pages, with the headers of section 6; of the links, those to where there is something."""
        size = min(int(call.parameter("per_page") or 20), 100)
        page = int(call.parameter("page") or 1)
        pages = max(1, -(-len(items) // size))
        beside = {"first": 1, "last": pages, "prev": page - 1, "next": page + 1}
        there = {name: number for name, number in beside.items() if 1 <= number <= pages}
        query = {name: value for name, value in call.asked.query if name not in {"page", "per_page"}}
        links = [
            f'<{self.url}{call.asked.path}?{urlencode({**query, "page": number, "per_page": size})}>; rel="{name}"'
            for name, number in there.items()
        ]
        headers = {
            "X-Total": str(len(items)),
            "X-Total-Pages": str(pages),
            "X-Page": str(page),
            "X-Per-Page": str(size),
            "X-Next-Page": str(there.get("next", "")),
            "X-Prev-Page": str(there.get("prev", "")),
            "Link": ", ".join(links),
        }
        if not self.counts:
            # As GitLab does of more than 10,000 items.
            headers = {name: value for name, value in headers.items() if not name.startswith("X-Total")}
        return web.json_response(items[(page - 1) * size : page * size], headers=headers)

    def _member(self, call: _Call, wanted: str, user_id: str) -> web.Response:
        project = self._visible(call, self._somebody(call, ("read_api", "api")), wanted)
        person = next((each for each in call.company.users.values() if user_id == str(each.id)), None)
        role = call.company.role(person, project)
        if person is None or not role:
            _refuse(404, "Not found")
        return web.json_response({**_user(person), "access_level": role, "expires_at": None})

    def _admin_token(self, call: _Call) -> web.Response:
        given = self._token_of(call)
        servant = given is not None and given.owner is not None and given.owner.username == SERVANT
        asking = self._somebody(call, ("read_api", "api") if servant else ("api",))
        if not asking.admin:
            _refuse(403, "Forbidden")
        try:
            secret = str(json.loads(call.body)["token"])
        except ValueError:
            secret = dict(parse_qsl(call.body.decode())).get("token", "")
        except (KeyError, TypeError):
            secret = ""
        if not secret:
            raise _RefusalError(400, {"error": "token is missing"})
        found = (
            each for each in call.company.tokens(secret) if each.kind != JOB or each.place in call.company.projects
        )
        token = next(found, None) or _refuse(404, "Not found")
        if token.kind == OAUTH:
            _refuse(422, "Unprocessable Entity")
        if token.kind == JOB:
            return web.json_response(_job(token, call.company, self.url))
        return web.json_response(_deploy(token) if token.kind == DEPLOY else _personal(token))

    # -- OAuth and pages ------------------------------------------------------------------------------

    def _token_info(self, call: _Call) -> web.Response:
        found = call.company.alive(call.bearer() or "")
        token = next((token for token in found if token.kind == OAUTH), None)
        if token is None or token.owner is None:
            raise _RefusalError(401, {"error": "invalid_token", "error_description": "The access token is invalid"})
        left = 7200
        if token.expires_at is not None:
            end = dt.datetime.combine(token.expires_at, dt.time(), dt.UTC)
            left = int((end - dt.datetime.now(dt.UTC)).total_seconds())
        return web.json_response(
            {
                "resource_owner_id": token.owner.id,
                "scope": list(token.scopes),
                "scopes": list(token.scopes),
                "expires_in": left,
                "expires_in_seconds": left,
                "application": {"uid": hashlib.sha256(b"application").hexdigest()},
                "created_at": int(time.time()) - 60,
            }
        )

    def _keys(self, _call: _Call) -> web.Response:
        public = self._id_key.public_key()
        key = RSAAlgorithm.to_jwk(public, as_dict=True)
        shown = {name: key[name] for name in ("kty", "n", "e")}
        return web.json_response({"keys": [{**shown, "kid": fingerprint(public), "use": "sig", "alg": "RS256"}]})

    def _sign_in(self, _call: _Call) -> web.Response:
        return web.Response(text=_page("Sign in"), content_type="text/html")


def _split(line: str) -> tuple[str, list[str]]:
    method, _, path = line.partition(" ")
    return method, path.split("/")


def _page(title: str) -> str:
    return f"<!DOCTYPE html><title>{title} · GitLab</title><h1>{title}</h1>"


def _times(lifetime: int = LIFETIME) -> dict[str, Any]:
    now = int(time.time())
    return {"iat": now, "nbf": now - 5, "exp": now + lifetime, "jti": secrets.token_hex(16)}


def _access(role: int) -> dict[str, int] | None:
    return {"access_level": role, "notification_level": 3} if role else None


def _user(person: Person) -> dict[str, Any]:
    name = person.username.title()
    return {"id": person.id, "username": person.username, "name": name, "state": person.state}


def _full_user(person: Person, asking: Person) -> dict[str, Any]:
    more = {"is_admin": person.admin} if asking.admin else {}
    return {
        **_user(person),
        "email": person.email,
        "external": person.external,
        "bot": person.bot,
        "two_factor_enabled": person.two_factor,
        **more,
    }


def _record(token: Token) -> dict[str, Any]:
    end = None if token.expires_at is None else token.expires_at.isoformat()
    return {
        "id": token.id,
        "name": token.name,
        "revoked": token.revoked,
        "scopes": list(token.scopes),
        "expires_at": end,
    }


def _personal(token: Token) -> dict[str, Any]:
    return {
        **_record(token),
        "created_at": "2024-01-01T00:00:00.000Z",
        "description": None,
        "user_id": None if token.owner is None else token.owner.id,
        "last_used_at": None,
        "active": token.active,
    }


def _deploy(token: Token) -> dict[str, Any]:
    return {**_record(token), "username": token.username, "expired": not (token.active or token.revoked)}


def _parameters(call: _Call) -> dict[str, Any]:
    """Read a body as GitLab does: JSON, or a form in which brackets stand for what is inside."""
    if call.headers.get("Content-Type", "").startswith("application/json"):
        try:
            found: dict[str, Any] = json.loads(call.body)
        except ValueError:
            raise _RefusalError(400, {"error": "400 Bad Request"}) from None
        return found
    found = {}
    for name, value in parse_qsl(call.body.decode(), keep_blank_values=True):
        outer, bracket, inner = name.partition("[")
        read = {"true": True, "false": False}.get(value, value)
        if bracket:
            found.setdefault(outer, {})[inner.rstrip("]")] = read
        else:
            found[outer] = read
    return found


def _job(token: Token, company: Company, url: str) -> dict[str, Any]:
    project = company.projects[token.place]
    return {
        "id": token.id,
        "name": "build",
        "ref": "main",
        "status": token.status,
        "user": None if token.owner is None else _user(token.owner),
        "pipeline": {"id": company.ids("pipeline", str(token.id)), "project_id": project.id, "status": token.status},
        "project": {"id": project.id, "path_with_namespace": project.path},
        "web_url": f"{url}/{project.path}/-/jobs/{token.id}",
    }
