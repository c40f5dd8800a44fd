"""Hears of writes that went past the gateway: the webhook that Distribution calls (its ``notifications.endpoints``).

Its own pushes come back this way too; what is recorded already is not looked at again.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aiohttp import web

from gateway.plugins import (
    Digest,
    Endpoint,
    ErrorCode,
    Identity,
    Public,
    Reference,
    RegistryError,
    Services,
    Tag,
)
from plugins.backend_distribution.names import Names

HEADER: Final = "X-Notifications-Token"
"""The header that Distribution is configured to send; ``Authorization`` is for people's credentials."""
MAX_BODY: Final = 4 * 1024 * 1024
_TURN: Final = 20
"""Repositories that are looked at before other requests have their turn."""
_MANIFESTS: Final = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)

Change = tuple[Reference, Digest | None]
"""A tag or digest, and what is there now; None: nothing."""


class Notifications:
    """The endpoint ``POST /notifications/NAME``, open to whoever shows *token*. ValueError where that is empty."""

    def __init__(self, services: Services, names: Names, token: str) -> None:
        if not token:
            raise ValueError("notifications_token is empty: everybody would know it")
        self._services = services
        self._names = names
        self._token = token.encode()

    def endpoint(self) -> Endpoint:
        """Where the upstream posts its events."""
        why = f"the upstream shows the secret of notifications_token in {HEADER}"
        return Endpoint("POST", f"/notifications/{self._services.name}", Public(why), self.handle)

    async def handle(self, request: web.BaseRequest, _: Identity, __: Mapping[str, str]) -> web.StreamResponse:
        """Take an envelope of events. RegistryError 401 without the secret, 400 for what is no envelope, 413."""
        # aiohttp hands over bytes that are no text as lone surrogates.
        shown = request.headers.get(HEADER, "").encode(errors="surrogateescape")
        if not hmac.compare_digest(shown, self._token):
            raise RegistryError(ErrorCode.UNAUTHORIZED, f"show the gateway's notifications_token in {HEADER}")
        there: dict[str, dict[Reference, Digest | None]] = {}
        for name, change in _changes(await _body(request)):
            there.setdefault(name, {}).update([change])
        for number, (name, changes) in enumerate(there.items()):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            here = self._names.here(name)
            if here is not None:
                await self._services.changed(here, changes)
        return web.Response(status=200)


async def _body(request: web.BaseRequest) -> object:
    parts: list[bytes] = []
    length = request.content_length or 0
    if length <= MAX_BODY:
        length = 0
        async for chunk in request.content.iter_any():
            length += len(chunk)
            if length > MAX_BODY:
                break
            parts.append(chunk)
    if length > MAX_BODY:
        raise RegistryError(ErrorCode.SIZE_INVALID, f"an envelope has at most {MAX_BODY} bytes", status=413)
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError) as error:
        raise RegistryError(ErrorCode.UNSUPPORTED, "no envelope of events in JSON", status=400) from error


def _changes(envelope: object) -> Iterator[tuple[str, Change]]:
    """The upstream's name of the repository, and what is changed there, by each event about a manifest or tag.

    Distribution, "Work with notifications": ``target`` has repository, digest, mediaType and, for a push by tag, tag.
    """
    events = envelope.get("events") if isinstance(envelope, dict) else None
    if not isinstance(events, list):
        raise RegistryError(ErrorCode.UNSUPPORTED, "an envelope has a list of events", status=400)
    for event in events:
        target = event.get("target") if isinstance(event, dict) else None
        if not isinstance(target, dict) or not isinstance(target.get("repository"), str):
            continue
        for change in _change(event.get("action"), target):
            yield target["repository"], change


def _change(action: object, target: Mapping[str, Any]) -> Iterator[Change]:
    digest, tag = _digest(target.get("digest")), _tag(target.get("tag"))
    if action == "push" and digest is not None and str(target.get("mediaType")) in _MANIFESTS:
        yield digest, digest
        if tag is not None:
            yield tag, digest
    elif action == "delete" and tag is not None:
        yield tag, None
    elif action == "delete" and digest is not None:
        # A blob's deletion looks the same, and no record has its digest.
        yield digest, None


def _digest(text: object) -> Digest | None:
    try:
        return Digest.parse(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _tag(text: object) -> Tag | None:
    try:
        return Tag.parse(text) if isinstance(text, str) else None
    except ValueError:
        return None
