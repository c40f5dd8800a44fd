"""``GET /jwt/auth``: the token endpoint, with GitLab's statuses and bodies (semantics 3), and ``/jwt/keys``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import web

from gateway.core.access import AccessControl
from gateway.core.keys import Keys
from gateway.core.metadata import MetadataStore
from gateway.core.rendering import error_response, json_response
from gateway.core.tokens import Tokens
from gateway.errors import ErrorCode, RegistryError
from gateway.oci import Action, RepositoryName, Scope
from gateway.plugins import ANONYMOUS, Access, Client, Identity, Refusal, Verdict

MAX_SCOPES: Final = 1000
"""Scopes of one request; the header limit allows some more, no client asks for a tenth."""

_WRONG_CREDENTIAL: Final = (
    "HTTP Basic: Access denied. The provided password or token is incorrect or your account has 2FA enabled and you "
    "must use a personal access token instead of a password. See the registry's documentation on authentication."
)


class TokenServer:
    """Grants what the hooks allow of what is asked for, and signs it."""

    def __init__(
        self, access: AccessControl, tokens: Tokens, keys: Keys, metadata: MetadataStore, *, service: str
    ) -> None:
        self._access = access
        self._tokens = tokens
        self._metadata = metadata
        self._service = service
        self._jwks = keys.jwks()

    async def auth(  # noqa: PLR0911 - the steps of semantics 3.2, each with its own end
        self, request: web.BaseRequest, client: Client
    ) -> web.Response:
        """Answer a client that followed the challenge."""
        if request.method != "GET":
            # containerd tries OAuth2's POST first and goes on with GET after exactly this (semantics 3.1).
            return error_response(RegistryError(ErrorCode.UNSUPPORTED, "this endpoint answers GET only", status=404))
        identity = await self._identify(request, client)
        if identity is None:
            return error_response(RegistryError(ErrorCode.UNAUTHORIZED, _WRONG_CREDENTIAL))
        query = parse_qsl(request.raw_path.partition("?")[2], keep_blank_values=True)
        if next((value for key, value in query if key == "service"), None) != self._service:
            return web.Response(status=404)
        if not identity.ceiling:
            return _forbidden()
        scopes = [scope for key, value in query if key == "scope" for scope in value.split(" ")][:MAX_SCOPES]
        asked = _united([parsed for scope in scopes if (parsed := Scope.parse(scope)) is not None])
        accesses, answer = await self._access.decide(identity, asked)
        if isinstance(answer, Refusal):
            return error_response(
                RegistryError(ErrorCode.DENIED, answer.message, status=answer.status), {"http_status": answer.status}
            )
        if identity.anonymous and not any(verdict.allowed for verdict in answer.verdicts):
            return _forbidden()
        await self._record(accesses, answer.verdicts)
        token, issued = self._tokens.sign(identity, accesses, answer.verdicts)
        return json_response(
            {
                "token": token,
                "access_token": token,
                "expires_in": int(self._tokens.ttl),
                "issued_at": datetime.fromtimestamp(issued, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
            {"Cache-Control": "no-store"},
        )

    async def keys(self, request: web.BaseRequest, client: Client) -> web.Response:
        """The public keys that verify our tokens."""
        del request, client
        return json_response(self._jwks, {"Cache-Control": "max-age=300"})

    async def _identify(self, request: web.BaseRequest, client: Client) -> Identity | None:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        # A Bearer header is not a way in: GitLab looks at Basic alone.
        return await self._access.basic(value.strip(), client) if scheme.lower() == "basic" else ANONYMOUS

    async def _record(self, accesses: list[Access], verdicts: tuple[Verdict, ...]) -> None:
        for access, verdict in zip(accesses, verdicts, strict=True):
            if access.repository is not None and Action.PUSH in verdict.allowed and Action.PUSH in access.actions:
                await self._metadata.record(access.repository.name, access.repository.project.path.lower())


def _united(scopes: list[Scope]) -> list[Access]:
    """One access for each name, its actions in the order of the request. Names are lower-cased, as GitLab does.

    What can't be a repository's name is dropped, as a name that no project owns would be.
    """
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for scope in scopes:
        name = scope.name.lower() if scope.type == "repository" else scope.name
        if scope.type == "repository":
            try:
                RepositoryName.parse(name)
            except ValueError:
                continue
        key = (scope.type, name)
        found[key] = found.get(key, ()) + scope.actions
    return [Access(kind, name, actions) for (kind, name), actions in found.items()]


def _forbidden() -> web.Response:
    return error_response(RegistryError(ErrorCode.DENIED, "access forbidden"), {"http_status": 403})
