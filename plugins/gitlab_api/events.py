"""Hears of changes from a registry that notifies as GitLab's does (semantics 12).

Repositories are named as they are called here. What is recorded already is not looked at again.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final, TypeVar

from aiohttp import web
from pydantic import ValidationError

from gateway.plugins import Asking, Digest, Reference, RepositoryName, Tag
from plugins.gitlab_api import errors
from plugins.gitlab_api.lent import Lent, done
from plugins.gitlab_api.models import Envelope, RegistryEvent

MAX_BODY: Final = 4 * 1024 * 1024
"""Bytes of an envelope."""
CONTENT_TYPE: Final = "application/vnd.docker.distribution.events.v1+json"
_MANIFESTS: Final = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)

V = TypeVar("V", bound=Digest | Tag | RepositoryName)


class Events:
    """``POST /container_registry_event/events``, open to whoever shows the secret."""

    def __init__(self, lent: Lent) -> None:
        self._services = lent.services
        token = lent.config.registry_event_token
        self._token = token.get_secret_value().encode() if token is not None else None

    async def handle(self, asking: Asking) -> web.StreamResponse:
        """Take an envelope of events. ApiError 401 without the secret, 400 for what is no envelope, 413."""
        # aiohttp hands over bytes that are no text as lone surrogates.
        shown = asking.request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if self._token is None or not hmac.compare_digest(shown, self._token):
            raise errors.unauthorized("the registry's notification secret is wrong, or none is configured")
        there: dict[RepositoryName, dict[Reference, Digest | None]] = {}
        for event in _envelope(await asking.read(MAX_BODY)).events:
            name = _parsed(RepositoryName, event.target.repository) if event.target is not None else None
            if name is not None:
                there.setdefault(name, {}).update(_changes(event))
        for name, changes in there.items():
            if changes:
                await self._services.changed(name, changes)
        return done(HTTPStatus.OK)


def _envelope(body: bytes) -> Envelope:
    try:
        return Envelope.model_validate_json(body)
    except ValidationError as error:
        raise errors.invalid("events is invalid") from error


def _changes(event: RegistryEvent) -> Iterator[tuple[Reference, Digest | None]]:
    """What is under the tag and digest of *event* now; None: nothing."""
    target = event.target
    if target is None:
        return
    digest, tag = _parsed(Digest, target.digest), _parsed(Tag, target.tag)
    if event.action == "push" and digest is not None and target.mediaType in _MANIFESTS:
        yield digest, digest
        if tag is not None:
            yield tag, digest
    elif event.action == "delete" and tag is not None:
        yield tag, None
    elif event.action == "delete" and digest is not None:
        # A blob's deletion looks the same, and no record has its digest.
        yield digest, None


def _parsed(kind: type[V], text: str | None) -> V | None:
    try:
        return kind.parse(text) if text is not None else None  # type: ignore[return-value]  # each gives its own kind
    except ValueError:
        return None
