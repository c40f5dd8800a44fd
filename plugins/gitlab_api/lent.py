"""What every route needs: the services, what images are called, and answers as JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import BaseModel, TypeAdapter

from gateway.plugins import Asking, By, RegistryError, Services
from plugins.gitlab_api import errors
from plugins.gitlab_api.config import Config

_HEADERS: Final = {"Content-Type": "application/json", "Cache-Control": "max-age=0, private, must-revalidate"}


@dataclass(frozen=True, slots=True)
class Lent:
    """The plugin's configuration and what the core lends it."""

    config: Config
    services: Services

    def host(self, asking: Asking) -> str:
        """The host, with its port if it has one, that stands before images' names."""
        known = self.config.location_host or urlsplit(self.services.external_url or "").netloc
        return known or urlsplit(asking.base).netloc

    def by(self, asking: Asking) -> By:
        """Who changes something, for the log."""
        client = asking.client
        return By(asking.identity.subject, "rest", address=client.address, request_id=client.request_id)


@asynccontextmanager
async def reaching() -> AsyncIterator[None]:
    """Says what GitLab says where the block can't ask the registry."""
    try:
        yield
    except RegistryError as error:
        raise errors.trouble(error) from error


def one(answer: BaseModel, status: int = HTTPStatus.OK) -> web.Response:
    """One object; what was not set is left out."""
    return web.Response(status=status, body=answer.model_dump_json(exclude_unset=True).encode(), headers=_HEADERS)


def many(kind: type[BaseModel], answers: Sequence[BaseModel], headers: Mapping[str, str]) -> web.Response:
    """A list of objects."""
    body = _list_of(kind).dump_json(list(answers), exclude_unset=True)
    return web.Response(body=body, headers={**_HEADERS, **headers})


def done(status: int) -> web.Response:
    """Something was done or promised: GitLab's answer is the number of its status."""
    return web.Response(status=status, body=str(int(status)).encode(), headers=_HEADERS)


@cache
def _list_of(kind: type[BaseModel]) -> TypeAdapter[Any]:
    return TypeAdapter(list[kind])  # type: ignore[valid-type]  # each model once
