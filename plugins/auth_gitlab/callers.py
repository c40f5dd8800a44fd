"""What GitLab's REST API shows a caller, asked under the caller's own credential and no other (semantics 6 and 13).

What GitLab does not show them is not there for them: nothing is added to that here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from gateway.plugins import (
    Cache,
    ErrorCode,
    Group,
    Identity,
    Project,
    RegistryError,
    RegistryLevel,
    Remembered,
    Visibility,
)
from plugins.auth_gitlab.client import GitLab, UnavailableError
from plugins.auth_gitlab.config import Config
from plugins.auth_gitlab.held import HERE, Held, cache_key
from plugins.auth_gitlab.questions import facts_of
from plugins.auth_gitlab.trail import Trail

LONGEST: Final = timedelta(seconds=10)
"""For how long what a caller was shown is good."""
_PAGES: Final = 200
_PER_PAGE: Final = 50
"""Projects of one page; each has some 5 KiB."""
_PUBLIC: Final = {"visibility": "public", "container_registry_access_level": "enabled"}
"""What GitLab leaves out of a project that it shows to nobody in particular."""


class Callers:
    """Asks as the bearer of a credential, or as nobody."""

    def __init__(self, config: Config, gitlab: GitLab, cache: Cache) -> None:
        self._config = config
        self._gitlab = gitlab
        self._cache = cache

    async def project(self, trail: Trail, asking: Identity, wanted: int | str) -> Mapping[str, Any] | None:
        """The project of that number or path, with the number of the caller's own role in ``role``; None: not shown."""

        def kept(found: Mapping[str, Any]) -> dict[str, Any]:
            told = {**_PUBLIC, **found} if asking.anonymous else found
            return {**facts_of(told), "role": _role(found.get("permissions"))}

        path = f"projects/{quote(str(wanted), safe='')}"
        found: Mapping[str, Any] | None = await self._shown(trail, asking, path, kept)
        return found

    async def group(self, trail: Trail, asking: Identity, wanted: int | str) -> Group | None:
        """The group of that number or path; None: not shown."""

        def kept(found: Mapping[str, Any]) -> dict[str, Any]:
            named = {"path": found["full_path"], "id": found["id"], "name": found.get("name") or ""}
            return {**named, "visibility": found.get("visibility") or "public"}

        path = f"groups/{quote(str(wanted), safe='')}?with_projects=false"
        found = await self._shown(trail, asking, path, kept)
        if found is None:
            return None
        return Group(found["path"], Visibility(found["visibility"]), found["id"], found["name"], trail.steps)

    async def group_projects(self, trail: Trail, asking: Identity, number: int) -> list[Project]:
        """Every project of the group and its subgroups that the caller is shown."""
        found: list[Project] = []
        base = f"groups/{number}/projects?include_subgroups=true&with_shared=false&order_by=id&per_page={_PER_PAGE}"
        for page in range(1, _PAGES + 1):
            items = await self._shown(
                trail, asking, f"{base}&page={page}", lambda items: [facts_of(it) for it in items]
            )
            found += [project_of(item) for item in items or ()]
            if len(items or ()) < _PER_PAGE:
                return found
        raise UnavailableError(f"the group {number} has more than {_PAGES * _PER_PAGE} projects")

    async def lists(self, trail: Trail, asking: Identity, place: str) -> bool:
        """Whether GitLab lists the caller the images of *place*, a project or group as its REST path has it."""
        path = f"{place}/registry/repositories?per_page=1"
        return bool(await self._shown(trail, asking, path, lambda _: True, forbidden=False))

    async def _shown(
        self,
        trail: Trail,
        asking: Identity,
        path: str,
        kept: Callable[[Any], Any],
        *,
        forbidden: bool = True,
    ) -> Any:
        """What is *kept* of the answer at *path*; None: 404.

        403 is GitLab's answer to the whole request where *forbidden*, and else None too.
        """
        held = asking.credential if isinstance(asking.credential, Held) else None
        headers = {} if asking.anonymous else held.headers if held is not None else None
        if headers is None:
            return None
        sent = {**headers, "X-Forwarded-For": held.address if held is not None else HERE}

        async def ask() -> Remembered:
            status, found = await self._gitlab.rest("GET", path, sent)
            known = {"status": status, "kept": kept(found) if status == HTTPStatus.OK else None, "said": _said(found)}
            life = min(LONGEST, self._config.remember)
            return Remembered(json.dumps(known).encode(), life.total_seconds(), stale=False)

        own = None if held is None else held.credential
        recalled = await self._cache.remember(cache_key(b"rest", own, path), ask, on=UnavailableError)
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
