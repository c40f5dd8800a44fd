"""Who asks, and may they? The one place where a request is authorized.

The answer of the hooks is only ever narrowed: asked, within the credential's ceiling, within the policy, minus every
veto. A token of ours is such an answer, remembered; whoever brings one is judged by it and nobody is asked again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pydantic import SecretStr

from gateway.core.history import told, told_by_token
from gateway.core.router import Kind, Route
from gateway.core.tokens import Claims, ExpiredTokenError, InvalidTokenError, Tokens
from gateway.core.uploads import Sessions
from gateway.errors import ErrorCode, InvalidCredentialError, RegistryError
from gateway.oci import Action
from gateway.plugins import ANONYMOUS, Access, Client, Credential, Identity, Reason, Refusal, RequestFacts
from gateway.plugins.chain import HIDDEN, Answer
from gateway.plugins.manager import Plugins

CATALOG_SCOPE: Final = "registry:catalog:*"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. *claims* are those of the token they brought; without one the hooks decide."""

    identity: Identity
    claims: Claims | None = None


class AccessControl:
    """Identifies callers and admits routes."""

    def __init__(
        self,
        plugins: Plugins,
        tokens: Tokens,
        sessions: Sessions,
        *,
        service: str,
        anonymous: Literal["direct", "challenge"],
    ) -> None:
        self._plugins = plugins
        self._tokens = tokens
        self._sessions = sessions
        self._service = service
        self._anonymous_direct = anonymous == "direct"

    # -- who ------------------------------------------------------------------------------------------

    async def identify(self, header: str | None, route: Route, client: Client, realm: str) -> Caller:
        """Read the ``Authorization`` header. Raises RegistryError 401, with the challenge, for one that is no good."""
        if header is None:
            return Caller(replace(ANONYMOUS, address=client.address))
        scheme, _, value = header.partition(" ")
        match scheme.lower():
            case "bearer":
                return self._bearer(value.strip(), route, client, realm)
            case "basic":
                try:
                    return Caller(await self.basic(value.strip(), client))
                except InvalidCredentialError as error:
                    message = "the username, password or token is wrong"
                    raise self.challenge(route, realm, message=message, why=str(error)) from error
            case _:
                raise self.challenge(route, realm, message="use Basic or Bearer authentication")

    async def basic(self, value: str, client: Client) -> Identity:
        """Who the value of a Basic header stands for (RFC 7617, UTF-8). InvalidCredentialError says why nobody."""
        try:
            text = base64.b64decode(value, validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            raise InvalidCredentialError("the Basic header is not base64 of UTF-8") from None
        # Only the first colon separates: passwords may hold more.
        username, separator, password = text.partition(":")
        if not separator:
            raise InvalidCredentialError("the Basic header has no colon")
        return await self._plugins.authenticate(Credential(username, SecretStr(password)), client)

    def _bearer(self, token: str, route: Route, client: Client, realm: str) -> Caller:
        try:
            claims = self._tokens.verify(token)
        except ExpiredTokenError as expired:
            # A long push outlives its token: the upload it began goes on under it, to a ceiling, and nothing else does.
            if route.kind is Kind.UPLOAD and self._sessions.outlives(expired.claims, route):
                return Caller(expired.claims.identity, expired.claims)
            raise self.challenge(route, realm, error="invalid_token", message="the token has expired") from expired
        except InvalidTokenError as error:
            raise self.challenge(route, realm, error="invalid_token", message=str(error)) from error
        identity = claims.identity
        if route.kind is Kind.CATALOG:
            # The only route for which sources are asked under a token: its credential is gone, its bearer is not.
            identity = replace(identity, address=client.address)
        return Caller(identity, claims)

    # -- may they -------------------------------------------------------------------------------------

    async def admit(self, caller: Caller, route: Route, client: Client, realm: str) -> str:
        """Let *caller* through to *route*, or raise the refusal that they may hear.

        Returns the lower-case path of the project that the repository belongs to; empty for a route without one.
        """
        project = ""
        accesses: tuple[Access, ...] = ()
        if route.name is None:
            self._admit_base(caller, route, realm)
        else:
            accesses = (Access("repository", route.name, route.actions),)
            if caller.claims is not None:
                project = self._admit_by_token(caller.claims, route, realm)
            else:
                project = await self._admit_by_hooks(caller.identity, route, realm)
        if self._plugins.vetoes:
            reference = route.reference or route.digest
            facts = RequestFacts(route.method, route.kind, route.name, reference, accesses, client)
            self.veto(caller.identity, facts)
        return project

    def _admit_base(self, caller: Caller, route: Route, realm: str) -> None:
        """``GET /v2/`` is how clients log in: without a credential it is always the challenge."""
        if (
            caller.identity.anonymous
            and caller.claims is None
            and (route.kind is Kind.BASE or not self._anonymous_direct)
        ):
            raise self.challenge(route, realm)

    def _admit_by_token(self, claims: Claims, route: Route, realm: str) -> str:
        key = f"repository:{route.name}"
        granted = claims.granted(key)
        missing = [action for action in route.actions if action not in granted and Action.ALL not in granted]
        if not missing:
            return claims.projects.get(key, "")
        if key in claims.refusals:
            reason = claims.refusals[key]
            assert route.name is not None
            raise denied(missing, reason, told=told_by_token(route.name, route.actions, granted, reason))
        raise self.challenge(route, realm, error="insufficient_scope", message="the token does not cover this request")

    async def _admit_by_hooks(self, identity: Identity, route: Route, realm: str) -> str:
        assert route.name is not None
        if identity.anonymous and not self._anonymous_direct:
            raise self.challenge(route, realm)
        answer = await self.ask(identity, Access("repository", route.name, route.actions))
        if not answer.missing and answer.project is not None:
            return answer.project
        if identity.anonymous:
            raise self.challenge(route, realm, why=_told(answer.why), told=told(answer))
        raise denied(answer.missing, answer.reason, answer.why, told=told(answer))

    async def ask(self, identity: Identity, access: Access) -> Answer:
        """What the hooks say of one access. Raises RegistryError where they refuse the whole request."""
        answers = await self.decide(identity, [access])
        if isinstance(answers, Refusal):
            raise RegistryError(ErrorCode.DENIED, answers.message, status=answers.status)
        return answers[0]

    async def decide(self, identity: Identity, asked: Sequence[Access]) -> tuple[Answer, ...] | Refusal:
        """What the hooks say of all that is asked."""
        return await self._plugins.decide(identity, asked)

    async def allowed(self, caller: Caller, kind: str, name: str, actions: Sequence[str]) -> frozenset[str]:
        """What of *actions* the caller may do beside the route: what their token grants, or else what the hooks say."""
        if caller.claims is not None:
            granted = caller.claims.granted(f"{kind}:{name}")
            return frozenset(actions) if Action.ALL in granted else granted.intersection(actions)
        return frozenset((await self.ask(caller.identity, Access(kind, name, tuple(actions)))).allowed)

    async def may_read(self, caller: Caller, accesses: Sequence[Mapping[str, Any]]) -> bool:
        """Whether *caller* may read why *accesses* were refused: an administrator, or a maintainer of all of them."""
        kind, name, action = CATALOG_SCOPE.split(":")
        if await self.allowed(caller, kind, name, (action,)):
            return True
        return bool(accesses) and all(
            [
                access["type"] == "repository"
                and bool(await self.allowed(caller, "repository", access["name"], (Action.ALL,)))
                for access in accesses
            ]
        )

    async def admit_endpoint(self, caller: Caller, endpoint: RequestFacts, realm: str) -> None:
        """Let *caller* through to a plugin's endpoint: every access it needs, and no veto. Raises as ``admit`` does."""
        for access in endpoint.accesses:
            if not await self.allowed(caller, access.type, access.name, access.actions) >= set(access.actions):
                if caller.identity.anonymous:
                    raise self.challenge(Route(Kind.BASE, "GET"), realm)
                raise denied(access.actions, None)
        self.veto(caller.identity, endpoint)

    def veto(self, identity: Identity, facts: RequestFacts) -> None:
        """Ask every plugin for its veto. Raises RegistryError 403 with the reason of the first."""
        deny = self._plugins.admit_request(identity, facts)
        if deny is not None:
            raise denied([action for access in facts.accesses for action in access.actions], deny.reason)

    # -- how it is refused ------------------------------------------------------------------------------

    def challenge(
        self,
        route: Route,
        realm: str,
        *,
        error: str | None = None,
        message: str | None = None,
        why: str | None = None,
        told: Mapping[str, object] | None = None,
    ) -> RegistryError:
        """The 401 that tells a client where to get a token, and for what (RFC 6750; distribution token specification).

        No space follows the commas, and ``scope`` stands behind the realm and service: clients split at commas.
        *why* is for the log alone, *told* for those who may ask afterwards.
        """
        parts = [f'Bearer realm="{realm}"', f'service="{self._service}"']
        scope = _scope(route)
        if scope:
            parts.append(f'scope="{scope}"')
        if error:
            parts.append(f'error="{error}"')
        headers = {"WWW-Authenticate": ",".join(parts)}
        return RegistryError(ErrorCode.UNAUTHORIZED, message, headers=headers, why=why, told=told)


def _scope(route: Route) -> str:
    if route.kind is Kind.CATALOG:
        return CATALOG_SCOPE
    return f"repository:{route.name}:{','.join(route.actions)}" if route.name is not None else ""


def denied(
    actions: Sequence[str],
    reason: Reason | None,
    why: Reason | None = None,
    *,
    told: Mapping[str, object] | None = None,
) -> RegistryError:
    """The 403 with its reason and what to do about it; *why* and *told* are the whole reason, for operators.

    Without a reason the caller may not know more than that there is nothing for them here.
    """
    heard = reason or HIDDEN
    detail = {"reason": heard.code, "actions": list(actions) if reason else [], "next": heard.remedy}
    message = f"requested access to the resource is denied: {_told(heard)}"
    return RegistryError(ErrorCode.DENIED, message, detail=detail, why=_told(why), told=told)


def _told(reason: Reason | None) -> str | None:
    return "; ".join(filter(None, (reason.message, reason.remedy))) if reason else None
