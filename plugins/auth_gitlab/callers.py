"""What GitLab's REST API shows a caller, asked under the caller's own credential and no other (semantics 6 and 13).

What GitLab does not show them is not there for them: nothing is added to that here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from gateway.plugins import (
    Cache,
    ErrorCode,
    Group,
    Project,
    RegistryError,
    RegistryLevel,
    Remembered,
    Visibility,
    together,
)
from plugins.auth_gitlab.client import GitLab, UnavailableError, shaped
from plugins.auth_gitlab.config import Config
from plugins.auth_gitlab.held import Asker, cache_key
from plugins.auth_gitlab.questions import facts_of, is_key
from plugins.auth_gitlab.strangers import Strangers
from plugins.auth_gitlab.trail import Trail

LONGEST: Final = timedelta(seconds=10)
"""For how long what a caller was shown is good."""
_PAGES: Final = 200
_PER_PAGE: Final = 50
"""Projects of one page; each has some 5 KiB."""
_AT_ONCE: Final = 8
"""Pages of one list that are read at the same time; fewer where that would leave no question for others."""
_PUBLIC: Final = {"visibility": "public", "container_registry_access_level": "enabled"}
"""What GitLab leaves out of a project that it shows to nobody in particular."""


class Callers:
    """Asks as the bearer of a credential, or as nobody."""

    def __init__(self, config: Config, gitlab: GitLab, cache: Cache, strangers: Strangers) -> None:
        self._config = config
        self._gitlab = gitlab
        self._cache = cache
        self._strangers = strangers

    async def project(self, trail: Trail, asker: Asker, wanted: int | str) -> Mapping[str, Any] | None:
        """The project of that number or path, with the number of the caller's own role in ``role``; None: not shown."""

        def kept(found: Mapping[str, Any], _: Mapping[str, str]) -> dict[str, Any]:
            told = {**_PUBLIC, **found} if asker.held is None else found
            return {**facts_of(told), "role": _role(found.get("permissions"))}

        if not is_key(wanted):
            return None
        path = f"projects/{quote(str(wanted), safe='')}"
        found: Mapping[str, Any] | None = await self._shown(trail, asker, path, kept)
        return found

    async def group(self, trail: Trail, asker: Asker, wanted: int | str) -> Group | None:
        """The group of that number or path; None: not shown."""

        def kept(found: Mapping[str, Any], _: Mapping[str, str]) -> dict[str, Any]:
            named = {"path": str(found["full_path"]), "id": int(found["id"]), "name": found.get("name") or ""}
            return {**named, "visibility": Visibility(found.get("visibility") or "public")}

        if not is_key(wanted):
            return None
        path = f"groups/{quote(str(wanted), safe='')}?with_projects=false"
        found = await self._shown(trail, asker, path, kept)
        if found is None:
            return None
        return Group(found["path"], Visibility(found["visibility"]), found["id"], found["name"], trail.steps)

    async def group_projects(self, trail: Trail, asker: Asker, number: int) -> list[Project]:
        """Every project of the group and its subgroups that the caller is shown."""
        base = f"groups/{number}/projects?include_subgroups=true&with_shared=false&order_by=id&per_page={_PER_PAGE}"
        at_once = asyncio.Semaphore(max(1, min(_AT_ONCE, self._config.concurrency - 1)))

        def kept(items: Sequence[Mapping[str, Any]], headers: Mapping[str, str]) -> dict[str, Any]:
            pages = headers.get("X-Total-Pages", "")
            return {"items": [facts_of(item) for item in items], "pages": int(pages) if pages.isdecimal() else None}

        async def page(which: int) -> Mapping[str, Any]:
            async with at_once:
                found = await self._shown(trail, asker, f"{base}&page={which}", kept)
            return found or {"items": [], "pages": None}

        first = await page(1)
        read, pages = [first], first["pages"]
        if pages is not None and pages <= _PAGES:
            read += await together([page(which) for which in range(2, pages + 1)])
        while pages is None and len(read[-1]["items"]) == _PER_PAGE and len(read) < _PAGES:
            # GitLab counts no list of more than 10,000.
            read.append(await page(len(read) + 1))
        if (pages or 0) > _PAGES or (pages is None and len(read[-1]["items"]) == _PER_PAGE):
            raise UnavailableError(f"the group {number} has more than {_PAGES * _PER_PAGE} projects")
        return [project_of(item) for one in read for item in one["items"]]

    async def lists(self, trail: Trail, asker: Asker, place: str) -> bool:
        """Whether GitLab lists the caller the images of *place*, a project or group as its REST path has it."""
        path = f"{place}/registry/repositories?per_page=1"
        return bool(await self._shown(trail, asker, path, lambda _, __: True, forbidden=False))

    async def _shown(
        self,
        trail: Trail,
        asker: Asker,
        path: str,
        kept: Callable[[Any, Mapping[str, str]], Any],
        *,
        forbidden: bool = True,
    ) -> Any:
        """What is *kept* of the answer at *path*, and of its headers; None: 404.

        403 is GitLab's answer to the whole request where *forbidden*, and else None too.
        """
        held, sent = asker.held, asker.headers
        if sent is None:
            return None

        async def ask() -> Remembered:
            status, headers, found = await self._gitlab.rest("GET", path, sent)
            with shaped(path.partition("?")[0]):
                some = kept(found, headers) if status == HTTPStatus.OK else None
            known = {"status": status, "kept": some, "said": _said(found)}
            life = min(LONGEST, self._config.remember)
            return Remembered(json.dumps(known).encode(), life.total_seconds(), stale=False)

        own = None if held is None else held.credential
        recalled = await self._strangers.remember(cache_key(b"rest", own, path), ask, asker)
        known = json.loads(recalled.value)
        trail.add([f"GET /{path.partition('?')[0]} → {known['status']}"], recalled.source)
        if known["status"] == HTTPStatus.UNAUTHORIZED and held is not None:
            # It was good a moment ago.
            await self._cache.forget(cache_key(b"rest login", held.credential))
            raise RegistryError(ErrorCode.UNAUTHORIZED, known["said"])
        if known["status"] == HTTPStatus.FORBIDDEN and forbidden:
            raise RegistryError(ErrorCode.DENIED, known["said"])
        return known["kept"]


def project_of(found: Mapping[str, Any], trail: Trail | None = None) -> Project:
    """The project as the hooks speak of it."""
    visibility, level = Visibility(found["visibility"]), RegistryLevel(found["level"])
    steps = trail.steps if trail is not None else tuple
    return Project(found["path"], visibility, level, found["archived"], found["id"], steps)


def _role(permissions: Any) -> int:
    """The higher of the two roles that GitLab tells its bearer, 0 for none; groups that were invited are missing."""
    found = permissions if isinstance(permissions, dict) else {}
    access = (found.get("project_access"), found.get("group_access"))
    return max((int(one["access_level"]) for one in access if one), default=0)


def _said(found: Any) -> str:
    """GitLab's words for a refusal."""
    if not isinstance(found, dict):
        return ""
    return str(found.get("message") or found.get("error_description") or found.get("error") or "")[:500]
