"""Relays credentials and scopes to another server's token endpoint, and believes what it grants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
import jwt

from gateway.plugins import (
    Access,
    Action,
    Credential,
    CredentialKind,
    Decision,
    Identity,
    Model,
    Services,
    Verdict,
    hookimpl,
)

_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


class Relay:
    """Knows nobody and decides nothing itself."""

    class Config(Model):
        """Where the other server gives out tokens, and for which service."""

        url: str
        service: str

    def __init__(self, config: Config, services: Services) -> None:
        self._config = config
        self._name = services.name
        self._session: aiohttp.ClientSession

    @hookimpl
    @asynccontextmanager
    async def gateway_lifespan(self) -> AsyncIterator[None]:
        """Hold connections to the other server."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as self._session:
            yield

    @hookimpl
    async def gateway_authenticate(self, credential: Credential) -> Identity | None:
        """Ask for a token without a scope: who gets one is somebody."""
        claims = await self._claims(credential, ())
        if claims is None:
            return None
        kind = CredentialKind(claims.get("auth_type", CredentialKind.PASSWORD))
        subject = claims.get("sub") or credential.username
        return Identity(self._name, kind, subject, subject, credential=credential)

    @hookimpl
    async def gateway_authorize(self, identity: Identity, accesses: Sequence[Access]) -> Decision | None:
        """Ask once for all *accesses*; what the token does not name is not allowed."""
        if identity.source not in {self._name, None}:
            return None
        credential = identity.credential if isinstance(identity.credential, Credential) else None
        claims = await self._claims(credential, accesses)
        granted: dict[tuple[str, str], set[str]] = {}
        for entry in (claims or {}).get("access", ()):
            granted.setdefault((entry["type"], entry["name"]), set()).update(entry["actions"])
        return Decision(tuple(_verdict(access, granted.get((access.type, access.name), set())) for access in accesses))

    async def _claims(self, credential: Credential | None, accesses: Sequence[Access]) -> dict[str, Any] | None:
        """The claims of the token that the other server gives for the question, or None where it gives none."""
        scopes = [("scope", f"{access.type}:{access.name}:{','.join(access.actions)}") for access in accesses]
        headers = {}
        if credential is not None:
            basic = aiohttp.encode_basic_auth(credential.username, credential.password.get_secret_value(), "utf-8")
            headers["Authorization"] = basic
        query = [("service", self._config.service), *scopes]
        async with self._session.get(self._config.url, params=query, headers=headers, allow_redirects=False) as answer:
            if answer.status in _REFUSED:
                return None
            if answer.status != HTTPStatus.OK:
                raise ConnectionError(f"the other server answered {answer.status}")
            # It came straight from the server that was asked; nobody else could have put it there.
            claims: dict[str, Any] = jwt.decode((await answer.json())["token"], options={"verify_signature": False})
            return claims


def _verdict(access: Access, granted: set[str]) -> Verdict:
    return Verdict(frozenset(action for action in Action if action in granted and action in access.actions))
