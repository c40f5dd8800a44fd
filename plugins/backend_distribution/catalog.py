"""The repositories that an upstream lists, by our names for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

from gateway.plugins import ErrorCode, RegistryError, RepositoryName
from plugins.backend_distribution.answers import Answer
from plugins.backend_distribution.client import RegistryClient
from plugins.backend_distribution.names import LONGEST, Names

_PAGE: Final = 1000
_MOST: Final = 100_000
_STALE: Final = 10
"""Pages in a row without a name that is new, before the list is taken for one without an end."""
_MAX_PAGE: Final = 4 * 1024 * 1024


async def repositories(client: RegistryClient, names: Names) -> AsyncIterator[RepositoryName]:
    """Every repository of the catalog that has a name here, once. Raises RegistryError where there is no catalog."""
    first = f"{client.url}/v2/_catalog?n={_PAGE}"
    seen: set[str] = set()
    stale = 0
    async for answer in client.pages(first, ("registry:catalog:*",), limit=_MAX_PAGE, most=_MOST):
        fresh = dict.fromkeys(name for name in _listed(answer) if name not in seen)
        stale = 0 if fresh else stale + 1
        if stale > _STALE:
            raise answer.wrong("a catalog without an end")
        seen.update(fresh)
        for there in fresh:
            here = names.here(there)
            if here is not None:
                yield here


def _listed(answer: Answer) -> list[str]:
    """The names of one page, as far as they can be names. RegistryError where it is none."""
    if answer.status != HTTPStatus.OK:
        raise RegistryError(ErrorCode.UNSUPPORTED, why=f"{answer.summary} to GET /v2/_catalog")
    document = answer.document()
    listed = document.get("repositories") if isinstance(document, dict) else None
    if not isinstance(listed, list | None):
        raise answer.wrong("no list of repositories")
    return [name for name in listed or () if isinstance(name, str) and len(name) <= LONGEST]
