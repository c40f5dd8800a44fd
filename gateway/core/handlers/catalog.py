"""``GET /v2/`` (end-1) and ``GET /v2/_catalog`` (Distribution's listing, cut to what the caller may pull)."""

from __future__ import annotations

from aiohttp import web

from gateway.core.access import CATALOG_SCOPE
from gateway.core.handlers.base import Exchange, next_page, page_size
from gateway.core.rendering import json_response
from gateway.oci import Action
from gateway.plugins import Access, Refusal, Visible


async def base(_: Exchange) -> web.StreamResponse:
    """The registry speaks this protocol, and the caller's credential is good."""
    return json_response({})


async def get(exchange: Exchange) -> web.StreamResponse:
    """Repositories that hold an image, in order; administrators who may list the catalog see all of them."""
    limit = page_size(exchange.route)
    visible = Visible(all=True)
    if not await _sees_everything(exchange):
        visible = await exchange.core.plugins.visible_projects(exchange.caller.identity)
    projects = None if visible.all else visible.projects
    shown: list[str] = []
    last = exchange.route.parameter("last") or ""
    more = limit > 0
    while more and len(shown) < limit:
        wanted = limit - len(shown) + 1
        found = list(await exchange.core.metadata.repositories(projects, last, wanted))
        more = len(found) == wanted
        found = found[: wanted - 1]
        if not found:
            break
        last = found[-1]
        if visible.by_name:
            found = await _pullable(exchange, found)
        shown += await exchange.core.plugins.filter_repositories(exchange.caller.identity, found)
    # The next page goes on behind the last name that is shown: one that is hidden must not stand in a link.
    headers = next_page(exchange.path("_catalog"), {"n": str(limit), "last": shown[-1]}) if more and shown else {}
    return json_response({"repositories": shown}, headers)


async def _pullable(exchange: Exchange, names: list[str]) -> list[str]:
    """Those of *names* that the hooks let the caller pull."""
    asked = [Access("repository", name, (Action.PULL,)) for name in names]
    answers = await exchange.core.access.decide(exchange.caller.identity, asked)
    if isinstance(answers, Refusal):
        return []
    return [answer.access.name for answer in answers if answer.allowed]


async def _sees_everything(exchange: Exchange) -> bool:
    kind, name, action = CATALOG_SCOPE.split(":")
    return bool(await exchange.core.access.allowed(exchange.caller, kind, name, (action,)))
