"""``GET /jwt/auth``: the token endpoint, with GitLab's statuses and bodies (semantics 3), and ``/jwt/keys``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import web

from gateway.core.access import AccessControl
from gateway.core.history import told
from gateway.core.keys import Keys
from gateway.core.logs import Trace
from gateway.core.metadata import MetadataStore
from gateway.core.rendering import json_response
from gateway.core.tokens import Tokens
from gateway.errors import ErrorCode, InvalidCredentialError, RegistryError
from gateway.oci import Action, RepositoryName, Scope
from gateway.plugins import ANONYMOUS, Access, Client, Identity, Refusal
from gateway.plugins.chain import Answer

MAX_ACCESSES: Final = 1000
"""Different accesses of one request; a request line could hold three times as many, no client asks for a tenth."""
_TOLD: Final = 20
"""Refused scopes of one request that are told of, in the log and afterwards."""

_WRONG_CREDENTIAL: Final = (
    "HTTP Basic: Access denied. The provided password or token is incorrect or your account has 2FA enabled and you "
    "must use a personal access token instead of a password. See the registry's documentation on authentication."
)


class TokenServer:
    """Grants what the hooks allow of what is asked for, and signs it."""

    def __init__(
        self, access: AccessControl, tokens: Tokens, keys: Keys, metadata: MetadataStore, log: Any, *, service: str
    ) -> None:
        self._access = access
        self._tokens = tokens
        self._metadata = metadata
        self._log = log
        self._service = service
        self._jwks = keys.jwks()

    async def auth(self, request: web.BaseRequest, client: Client, trace: Trace) -> web.Response:
        """Answer a client that followed the challenge: the steps of semantics 3.2, in their order."""
        if request.method != "GET":
            # containerd tries OAuth2's POST first and goes on with GET after exactly this (semantics 3.1).
            raise RegistryError(ErrorCode.UNSUPPORTED, "this endpoint answers GET only", status=404)
        identity = await self._identify(request, client)
        trace.subject, trace.kind = identity.subject, identity.kind
        query = parse_qsl(request.raw_path.partition("?")[2], keep_blank_values=True)
        if next((value for key, value in query if key == "service"), None) != self._service:
            return web.Response(status=404)
        if not identity.ceiling:
            raise _forbidden("the token has no scope of the registry")
        answers = await self.answer(identity, [value for key, value in query if key == "scope"])
        refused = [answer for answer in answers if answer.missing][:_TOLD]
        self._tell(refused, client)
        trace.told += [told(answer) for answer in refused]
        if identity.anonymous and not any(answer.allowed for answer in answers):
            raise _forbidden("nobody is logged in, and nothing of what was asked is public")
        await self._record(answers)
        token, issued = self._tokens.sign(identity, answers)
        return json_response(
            {
                "token": token,
                "access_token": token,
                "expires_in": int(self._tokens.ttl),
                "issued_at": _rfc3339(issued),
            },
            {"Cache-Control": "no-store"},
        )

    async def answer(self, identity: Identity, scopes: Iterable[str]) -> Sequence[Answer]:
        """What *identity* is granted of *scopes*, each of which may be a list separated by spaces (semantics 3.3).

        Raises RegistryError where the whole request is refused.
        """
        words = (word for text in scopes for word in text.split(" "))
        parsed = (scope for word in words if (scope := Scope.parse(word)) is not None)
        # What the REST API asks about is nothing that a token could hold.
        asked = _united(scope for scope in parsed if scope.type not in {"project", "group"})
        if len(asked) > MAX_ACCESSES:
            message = f"a token request has at most {MAX_ACCESSES} different scopes; ask for the others in another one"
            raise RegistryError(ErrorCode.UNSUPPORTED, message, status=400, members={"http_status": 400})
        answers = await self._access.decide(identity, asked)
        if isinstance(answers, Refusal):
            members = {"http_status": answers.status}
            raise RegistryError(ErrorCode.DENIED, answers.message, status=answers.status, members=members)
        return answers

    async def keys(self, request: web.BaseRequest, client: Client, trace: Trace) -> web.Response:
        """The public keys that verify our tokens."""
        del request, client, trace
        return json_response(self._jwks, {"Cache-Control": "max-age=300"})

    async def _identify(self, request: web.BaseRequest, client: Client) -> Identity:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        # A Bearer header is not a way in: GitLab looks at Basic alone.
        if scheme.lower() != "basic":
            return replace(ANONYMOUS, address=client.address)
        try:
            return await self._access.basic(value.strip(), client)
        except InvalidCredentialError as error:
            raise RegistryError(ErrorCode.UNAUTHORIZED, _WRONG_CREDENTIAL, why=str(error)) from error

    def _tell(self, refused: Sequence[Answer], client: Client) -> None:
        """One line for each scope that is not granted whole, as GitLab's auth log has it (semantics 3.3.6)."""
        for answer in refused:
            access, why = answer.access, answer.why
            self._log.warning(
                "Denied container registry permissions",
                request_id=client.request_id,
                scope_type=access.type[:255],
                requested_project_path=access.name[:255],
                requested_actions=access.actions[:_TOLD],
                authorized_actions=sorted(answer.allowed),
                username=answer.identity.subject,
                project_path=access.repository.project.path if access.repository else None,
                reason=f"{why.message}; {why.remedy}" if why else None,
            )

    async def _record(self, answers: Sequence[Answer]) -> None:
        granted = [answer for answer in answers if Action.PUSH in answer.allowed]
        await self._metadata.record(
            {RepositoryName(answer.access.name): answer.project for answer in granted if answer.project is not None}
        )


@lru_cache(maxsize=1)
def _rfc3339(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _united(scopes: Iterable[Scope]) -> list[Access]:
    """One access for each repository, its actions in the order of the request; what a scope adds to an earlier one.

    A name is lower-cased, as GitLab does. Scopes of other types stay by themselves: the catalog's is all or nothing.
    """
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for scope in scopes:
        if scope.type == "repository":
            key: tuple[str, ...] = (scope.type, scope.name.lower())
            known = found.get(key, ())
            found[key] = known + tuple(action for action in scope.actions if action not in known)
        else:
            found[scope.type, scope.name, *scope.actions] = scope.actions
    return [Access(kind, name, actions) for (kind, name, *_), actions in found.items()]


def _forbidden(why: str) -> RegistryError:
    return RegistryError(ErrorCode.DENIED, "access forbidden", members={"http_status": 403}, why=why)
