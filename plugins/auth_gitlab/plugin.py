"""Answer who presents a credential, and what they may do, by asking GitLab's token endpoint (``mode: jwt``).

GitLab decides; nothing is added to its answer. What it answered is remembered no longer than the answer's own life.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Final, TypeVar

import jwt
from cachetools import TTLCache

from gateway.plugins import (
    ALL_ACTIONS,
    Access,
    Action,
    ApiAnswer,
    ApiCall,
    Client,
    ConfigError,
    Credential,
    CredentialKind,
    Decision,
    ErrorCode,
    ExpirationPolicy,
    Group,
    Health,
    Identity,
    Names,
    Profile,
    Project,
    Recalled,
    Refusal,
    RegistryError,
    Remembered,
    RepositoryName,
    Scheme,
    Services,
    Standing,
    Step,
    Unknown,
    Verdict,
    Visible,
    hookimpl,
)
from plugins.auth_gitlab import rules
from plugins.auth_gitlab.api import Facts
from plugins.auth_gitlab.checks import Checks
from plugins.auth_gitlab.client import (
    GitLab,
    MisconfiguredError,
    Reply,
    ThrottledError,
    UnavailableError,
    certificate_key,
)
from plugins.auth_gitlab.config import Config as _Config
from plugins.auth_gitlab.config import IdTokenRule, IdTokens
from plugins.auth_gitlab.held import HERE, ITSELF, JOB_USERNAME, Asker, Held, asker_of, cache_key
from plugins.auth_gitlab.rest import Rest
from plugins.auth_gitlab.strangers import ADDRESSES, Strangers
from plugins.auth_gitlab.trail import told

T = TypeVar("T")

SCOPES_AT_ONCE: Final = 50
_QUERY: Final = 6000
"""Scopes, and characters of them, in one question: GitLab's web server takes a request line of some 8 KiB."""
_SCOPE_SIZE: Final = 70
"""Characters of a scope beside its name, and what its slashes and colons grow by when they are encoded."""
_LONGEST: Final = 5000
"""Characters of a username and password together: the web server before GitLab takes headers of 8 KiB, in base64."""
_FORBIDDEN: Final = "access forbidden"
_THROTTLED: Final = "GitLab takes no more requests from you for now; try again later"
_LATER: Final = "5"
"""Seconds after which one may ask again, where GitLab does not say."""
_KNOWN: Final = {HTTPStatus.OK, HTTPStatus.FORBIDDEN}
"""The statuses for a credential that GitLab recognises (semantics 3.2)."""
_KINDS: Final = {str(kind): kind for kind in CredentialKind}


@dataclass(frozen=True, slots=True)
class _Grant:
    """What GitLab grants of one access, and the project where it names it."""

    actions: frozenset[Action] = frozenset()
    project: str = ""
    project_id: int | None = None
    source: str = "asked"
    answered: str = ""


@dataclass(frozen=True, slots=True)
class _Ruled:
    """The rules that an ID token fits."""

    rules: tuple[IdTokenRule, ...]


class Plugin:
    """Relays credentials and scopes to GitLab, and believes what it grants."""

    Config = _Config
    anonymous = "challenge"

    def __init__(self, config: _Config, services: Services) -> None:
        self._config = config
        self._services = services
        self._gitlab = GitLab(config)
        self._checks = Checks(config, self._gitlab, services.log)
        self._strangers = Strangers(config, services.cache)
        self._facts = Facts(config, self._gitlab, self._strangers, services.name) if config.mode == "api" else None
        self._rest = Rest(config, services, self._gitlab, self._facts, self._grants, strangers=self._strangers)
        self._failed: TTLCache[str, int] = TTLCache(ADDRESSES, config.failed_logins_within.total_seconds())

    # -- start-up -----------------------------------------------------------------------------------

    @hookimpl
    def gateway_check(self) -> Iterator[str]:
        """What is wrong with the files that the item names."""
        try:
            certificate_key(self._config)
        except ConfigError as error:
            yield from (f"plugins.{self._services.name}.{problem}" for problem in error.problems)
        if self._config.ca_file is not None and not self._config.ca_file.is_file():
            yield f"plugins.{self._services.name}.ca_file: cannot read {self._config.ca_file}"

    @hookimpl
    def gateway_lifespan(self) -> AbstractAsyncContextManager[None]:
        """Hold connections to GitLab, and say at once in the log what is wrong with it; it need not be up."""
        return self._life()

    @asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        async with self._gitlab.opened():
            health = await self.gateway_health()
            if not health.ok:
                self._services.log.error("GitLab can't be relied on yet", why=health.message)
            yield

    @hookimpl
    async def gateway_health(self) -> Health:
        """Whether GitLab can be relied on now, and if not, why."""
        return await self._checks.health()

    # -- a request ----------------------------------------------------------------------------------

    @hookimpl
    async def gateway_authenticate(self, credential: Credential, client: Client) -> Identity | Unknown | None:
        """Ask for a token without a scope: whoever gets one is somebody, and whoever is forbidden is too (3.2).

        An ID token of a CI job is judged here, by the operator's rules on its claims.
        """
        if len(credential.username) + len(credential.password.get_secret_value()) > _LONGEST:
            return None
        if credential.scheme is not Scheme.BASIC:
            return await self._available(
                self._rest.identity(
                    credential,
                    client,
                    before=lambda: self._refuse_throttled(credential, client),
                    after=lambda good: self._forgive(client) if good else self._count_failure(client),
                )
            )
        if self._config.id_tokens is not None and _is_from(credential, self._issuer):
            return await self._by_id_token(credential.password.get_secret_value(), self._config.id_tokens)
        if self._facts is not None:
            return await self._by_facts(self._facts, credential, client)

        asker = Asker(None, client.address or HERE)

        async def ask() -> Remembered:
            self._refuse_throttled(credential, client)
            reply = await self._gitlab.ask(credential, (), asker.address)
            if reply.status not in _KNOWN:
                await self._count_failure(client)
                negative = self._config.remember_refusals.total_seconds()
                return Remembered(_json({"status": reply.status}), negative, stale=False)
            await self._forgive(client)
            known = {
                "status": reply.status,
                "message": reply.message,
                "sub": reply.claims.get("sub") or "",
                "kind": reply.claims.get("auth_type"),
            }
            return Remembered(_json(known), _life(reply, self._config))

        recalled = await self._remembered(cache_key(b"login", credential), ask, asker)
        found = json.loads(recalled.value)

        def steps() -> tuple[Step]:
            return (told(self._services.name, f"{_question()} → {_answer(found)}", recalled.source),)

        if found["status"] not in _KNOWN:
            # Not "wrong": another source may know it.
            return Unknown(steps)
        kind = _KINDS.get(str(found["kind"]), CredentialKind.UNKNOWN)
        subject = str(found["sub"] or (credential.username if kind is CredentialKind.DEPLOY_TOKEN else ""))
        return Identity(
            source=self._services.name,
            kind=kind,
            subject=subject,
            id=f"{kind}:{subject}" if subject else f"credential:{self._fingerprint(credential)}",
            # GitLab applies the credential's own ceiling to each answer; one without any registry ability has none.
            ceiling=ALL_ACTIONS if found["status"] == HTTPStatus.OK else frozenset(),
            title=f"{kind.label} of {subject}, {_SAID[recalled.source]}",
            credential=Held(credential, client.address, kind),
            steps=steps,
        )

    async def _by_facts(self, facts: Facts, credential: Credential, client: Client) -> Identity | Unknown:
        return await self._available(
            facts.identity(
                credential,
                cache_key(b"api login", credential),
                client.address or HERE,
                before=lambda: self._refuse_throttled(credential, client),
                after=lambda good: self._forgive(client) if good else self._count_failure(client),
            )
        )

    @hookimpl
    async def gateway_project(self, candidates: Sequence[str], identity: Identity | None) -> Project | Unknown | None:
        """In mode ``api`` the project at the first of *candidates* that GitLab has."""
        if self._facts is None:
            return None
        asker = asker_of(identity) if identity is not None else None
        return await self._available(self._facts.project(candidates, asker or ITSELF))

    @hookimpl
    async def gateway_standing(self, identity: Identity, project: Project) -> Standing | None:
        """In mode ``api`` the effective role in GitLab, in a project of GitLab's: numbers of others mean others."""
        if (
            self._facts is None
            or project.source != self._services.name
            or isinstance(identity.credential, _Ruled)
            or identity.id.startswith("id_token:")
        ):
            return None
        return await self._available(self._facts.standing(identity, project))

    @hookimpl
    async def gateway_group_standing(self, identity: Identity, group: Group) -> Standing | None:
        """In mode ``api`` the effective role in GitLab, in a group of GitLab's."""
        if self._facts is None or group.source != self._services.name:
            return None
        return await self._available(self._facts.group_standing(identity, group))

    @hookimpl
    async def gateway_find_project(self, identity: Identity, key: int | str) -> Project | None:
        """The project that has the number or the path *key*, where GitLab shows it to the caller."""
        return await self._available(self._rest.find_project(identity, key))

    @hookimpl
    async def gateway_find_group(self, identity: Identity, key: int | str) -> Group | None:
        """The group that has the number or the path *key*, where GitLab shows it to the caller."""
        return await self._available(self._rest.find_group(identity, key))

    @hookimpl
    async def gateway_group_projects(self, identity: Identity, group: Group) -> Sequence[Project]:
        """The projects below *group* that GitLab shows the caller."""
        return await self._available(self._rest.group_projects(identity, group))

    @hookimpl
    async def gateway_profile(self, identity: Identity) -> Profile | None:
        """What GitLab told the bearer of user and token."""
        return identity.credential.profile if isinstance(identity.credential, Held) else None

    @hookimpl
    async def gateway_relay(self, identity: Identity, call: ApiCall) -> ApiAnswer | None:
        """GitLab's own answer, to the caller's own credential."""
        return await self._available(self._rest.relay(identity, call))

    @hookimpl
    async def gateway_expiration_policy(self, project: Project) -> ExpirationPolicy | None:
        """The policy that GitLab keeps of a project of its own, where the service token is shown it."""
        return await self._available(self._rest.policy(project))

    @property
    def _issuer(self) -> str:
        configured = self._config.id_tokens.issuer if self._config.id_tokens is not None else None
        return configured or self._config.url

    async def _by_id_token(self, token: str, known: IdTokens) -> Identity:
        try:
            claims = await self._gitlab.id_token(token, known.audience, self._issuer)
        except UnavailableError as error:
            raise self._unavailable(error) from error
        found = rules.matching(known.rules, claims)
        project = claims.get("project_path", "?")
        return Identity(
            source=self._services.name,
            kind=CredentialKind.JOB_TOKEN,
            subject=str(claims.get("user_login") or claims["sub"]),
            id=f"id_token:{claims['sub']}",
            ceiling=rules.ceiling(found),
            title=f"CI ID token of {project}, which fits {len(found)} of {len(known.rules)} rules",
            credential=_Ruled(found),
        )

    @hookimpl
    async def gateway_authorize(self, identity: Identity, accesses: Sequence[Access]) -> Decision | Refusal | None:
        """Ask once for all *accesses*, at most 50 in a question; what the answer does not name is not allowed."""
        if identity.source not in {self._services.name, None}:
            return None
        if isinstance(identity.credential, _Ruled):
            return Decision(tuple(_ruled(identity.credential, access) for access in accesses))
        if self._facts is not None:
            return None
        granted: dict[tuple[str, str], _Grant] = {}
        asked = [access for access in accesses if _is_askable(access)]
        for part in _batches(asked):
            found = await self._granted(asker_of(identity), part)
            if isinstance(found, Refusal):
                return found
            granted |= found
        return Decision(tuple([await self._verdict(identity, access, granted) for access in accesses]))

    async def _verdict(self, identity: Identity, access: Access, granted: Mapping[tuple[str, str], _Grant]) -> Verdict:
        if access.type in {"project", "group"}:
            return await self._available(self._rest.verdict(identity, access))
        return _verdict(self._services.name, access, granted.get((access.type, access.name)))

    async def _grants(self, identity: Identity, name: str, action: Action) -> bool:
        """Whether GitLab's token endpoint grants *identity* one action on one repository."""
        access = Access("repository", name, (action,))
        if not _is_askable(access):
            return False
        found = await self._granted(asker_of(identity), [access])
        return not isinstance(found, Refusal) and action in found.get((access.type, access.name), _NONE).actions

    async def _granted(
        self, asker: Asker | None, accesses: Sequence[Access]
    ) -> Mapping[tuple[str, str], _Grant] | Refusal:
        if asker is None:
            return {}
        # Never an action that the client did not ask for: asking for push makes repository records in GitLab.
        scopes = sorted({_scope(access) for access in accesses})
        credential = asker.held.basic if asker.held is not None else None

        async def ask() -> Remembered:
            reply = await self._gitlab.ask(credential, scopes, asker.address)
            if reply.status == HTTPStatus.OK:
                known: dict[str, Any] = {"status": 200, "access": reply.claims.get("access", [])}
                return Remembered(_json(known), _life(reply, self._config), stale=_only_pulls(scopes))
            negative = self._config.remember_refusals.total_seconds()
            return Remembered(_json({"status": reply.status, "message": reply.message}), negative, stale=False)

        recalled = await self._remembered(cache_key(b"grant", credential, *scopes), ask, asker)
        found = json.loads(recalled.value)
        if found["status"] == HTTPStatus.FORBIDDEN and found["message"] not in {"", _FORBIDDEN}:
            # GitLab ends a request as a whole for a protected path (semantics 3.2.7).
            asked = f"{_question(*scopes)} → {_answer(found)}"
            return Refusal(
                403, "DENIED", found["message"], lambda: (told(self._services.name, asked, recalled.source),)
            )
        if found["status"] not in _KNOWN and credential is not None:
            await self._services.cache.forget(cache_key(b"login", credential))
        nothing = _Grant(source=recalled.source, answered=_answer(found))
        return _entries(found.get("access", []), accesses, nothing)

    @hookimpl
    async def gateway_visible_projects(self, identity: Identity) -> Visible | None:
        """GitLab can't name them: every repository of a page is asked for, by ``gateway_filter_repositories``."""
        if identity.source not in {self._services.name, None}:
            return None
        return Visible(all=True, by_name=self._facts is not None and not identity.id.startswith("id_token:"))

    @hookimpl
    async def gateway_filter_repositories(self, identity: Identity, names: Names) -> Names | None:
        """Those that GitLab lets *identity* pull; under a token, whose credential is gone, what is public."""
        if identity.source not in {self._services.name, None}:
            return None
        if isinstance(identity.credential, _Ruled):
            return [name for name in names if Action.PULL in rules.allowed(identity.credential.rules, name)]
        if self._facts is not None:
            return [] if identity.id.startswith("id_token:") else None
        asker = asker_of(identity) or Asker(None, identity.address or HERE)
        shown: list[str] = []
        for part in _batches([Access("repository", name, (Action.PULL,)) for name in names]):
            found = await self._granted(asker, part)
            if not isinstance(found, Refusal):
                shown += [
                    access.name
                    for access in part
                    if Action.PULL in found.get((access.type, access.name), _NONE).actions
                ]
        return shown

    # -- asking ---------------------------------------------------------------------------------------

    async def _available(self, answer: Awaitable[T]) -> T:
        """*answer*, or 503 where GitLab can't be asked for it, and 429 where it has heard too much of the caller."""
        try:
            return await answer
        except UnavailableError as error:
            raise self._unavailable(error) from error

    async def _remembered(self, key: bytes, ask: Callable[[], Any], asker: Asker) -> Recalled:
        stale = self._config.stale_if_error.total_seconds()
        return await self._available(self._strangers.remember(key, ask, asker, stale=stale))

    def _unavailable(self, error: UnavailableError) -> RegistryError:
        if isinstance(error, ThrottledError):
            headers = {"Retry-After": error.retry_after or _LATER}
            return RegistryError(ErrorCode.TOOMANYREQUESTS, _THROTTLED, headers=headers, why=str(error))
        level = self._services.log.error if isinstance(error, MisconfiguredError) else self._services.log.warning
        level("GitLab could not be asked", why=str(error))
        return RegistryError(ErrorCode.UNAVAILABLE, headers={"Retry-After": _LATER}, why=str(error))

    def _refuse_throttled(self, credential: Credential, client: Client) -> None:
        """GitLab bans an address that fails too often; whoever fails here too often does not reach it (2.6)."""
        job = credential.username == JOB_USERNAME or credential.scheme is Scheme.JOB_TOKEN
        if job or self._failed.get(client.address, 0) < self._config.failed_logins:
            return
        wait = str(int(self._config.failed_logins_within.total_seconds()))
        message = f"too many failed logins from your address; try again in {wait} s"
        raise RegistryError(ErrorCode.TOOMANYREQUESTS, message, headers={"Retry-After": wait})

    async def _count_failure(self, client: Client) -> None:
        """One more failure of the address; with Redis those at other replicas count too."""
        window = self._config.failed_logins_within.total_seconds()
        everywhere = await self._services.cache.count(_failures(client), window)
        self._failed[client.address] = max(self._failed.get(client.address, 0) + 1, everywhere)

    async def _forgive(self, client: Client) -> None:
        if self._failed.pop(client.address, 0):
            await self._services.cache.forget(_failures(client))

    def _fingerprint(self, credential: Credential) -> str:
        return hmac.digest(self._services.key, cache_key(b"id", credential), sha256).hex()[:16]


_NONE: Final = _Grant()


def _is_from(credential: Credential, issuer: str) -> bool:
    """Whether the password is a JSON Web Token that says it comes from *issuer*. Nothing is believed of it yet."""
    password = credential.password.get_secret_value()
    if password.count(".") != 2 or not password.startswith("eyJ"):  # noqa: PLR2004 - header, claims, signature
        return False
    try:
        return bool(jwt.decode(password, options={"verify_signature": False}).get("iss") == issuer)
    except (jwt.InvalidTokenError, RecursionError):
        return False


def _ruled(held: _Ruled, access: Access) -> Verdict:
    allowed = rules.allowed(held.rules, access.name) if access.type == "repository" else frozenset[Action]()
    missing = [action for action in Action if action in access.actions and action not in allowed]
    remedy = "" if not missing else f"let a rule of id_tokens allow {', '.join(missing)} in {access.name}"
    granted = ", ".join(action for action in Action if action in allowed) or "nothing"
    step = Step("id_token", passed=not missing, finding=f"the rules that it fits allow {granted} here", remedy=remedy)
    return Verdict(allowed, lambda: (step,), "" if allowed else None)


def _only_pulls(scopes: Sequence[str]) -> bool:
    return all(scope.rpartition(":")[2] == Action.PULL for scope in scopes)


def _failures(client: Client) -> bytes:
    return b"gitlab failed logins " + client.address.encode("utf-8", "surrogatepass")


def _json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document).encode()


def _life(reply: Reply, config: _Config) -> float:
    """Seconds for which an answer is good: those that its token has left, and seconds for one without."""
    end = reply.claims.get("exp")
    if not isinstance(end, int | float):
        return config.remember_refusals.total_seconds()
    return max(0.0, min(float(end) - time.time(), config.remember.total_seconds()))


def _is_askable(access: Access) -> bool:
    """Whether GitLab could grant anything of it; what can't be a name is not sent on."""
    if not any(action in access.actions for action in Action):
        return False
    if access.type == "registry":
        return access.name == "catalog"
    try:
        RepositoryName.parse(access.name)
    except ValueError:
        return False
    return access.type == "repository"


def _batches(accesses: Sequence[Access]) -> Iterator[list[Access]]:
    """*accesses* in questions that GitLab's web server takes."""
    part: list[Access] = []
    size = 0
    for access in accesses:
        more = len(access.name) + _SCOPE_SIZE
        if part and (len(part) == SCOPES_AT_ONCE or size + more > _QUERY):
            yield part
            part, size = [], 0
        part.append(access)
        size += more
    if part:
        yield part


def _scope(access: Access) -> str:
    actions = ",".join(dict.fromkeys(action for action in access.actions if action in set(Action)))
    return f"{access.type}:{access.name}:{actions}"


def _question(*scopes: str) -> str:
    return "".join(("GET /jwt/auth", *(f" scope={scope}" for scope in scopes)))


def _answer(found: Mapping[str, Any]) -> str:
    """The status, and GitLab's words where they say more: those for a wrong credential are the same for all."""
    said = found.get("message", "") if found["status"] == HTTPStatus.FORBIDDEN else ""
    return f"{found['status']} {said}".rstrip()


_SAID: Final = {
    "asked": "as GitLab says now",
    "memory": "as GitLab said a moment ago (in memory)",
    "redis": "as GitLab said a moment ago (in Redis)",
    "stale": "as GitLab said while it could be asked (stale)",
}


def _entries(entries: Sequence[Any], accesses: Sequence[Access], nothing: _Grant) -> dict[tuple[str, str], _Grant]:
    """What is granted of *accesses*, with the project's path where GitLab names it; anything else is not ours."""
    found = {(access.type, access.name): nothing for access in accesses}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("actions"), list):
            continue
        key = (str(entry.get("type")), str(entry.get("name")))
        if key in found:
            meta = entry["meta"] if isinstance(entry.get("meta"), dict) else {}
            number = meta.get("project_id")
            found[key] = _Grant(
                found[key].actions | {action for action in Action if action in entry["actions"]},
                str(meta.get("project_path") or "").lower(),
                number if isinstance(number, int) else None,
                nothing.source,
                nothing.answered,
            )
    return found


def _verdict(plugin: str, access: Access, found: _Grant | None) -> Verdict:
    grant = found or _NONE
    allowed = grant.actions
    asked = [action for action in Action if action in access.actions]
    missing = [action for action in asked if action not in allowed]

    def steps() -> Iterator[Step]:
        granted = ", ".join(action for action in asked if action in allowed) or "nothing"
        finding = f"asked for {', '.join(asked) or 'nothing'}, GitLab grants {granted}, {_SAID[grant.source]}"
        remedy = f"see what GitLab lets you do in the project of {access.name}, and what the token's scopes are"
        if grant.answered:
            access_granted = f", access: {granted}" if grant.answered == "200" else ""
            yield told(plugin, f"{_question(_scope(access))} → {grant.answered}{access_granted}", grant.source)
        yield Step("gitlab", passed=not missing, finding=finding, remedy=remedy if missing else "")

    return Verdict(allowed, lambda: tuple(steps()), grant.project if allowed else None, grant.project_id)
