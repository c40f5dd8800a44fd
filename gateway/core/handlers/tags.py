"""``GET /v2/<name>/tags/list`` (end-8a, end-8b)."""

from __future__ import annotations

from aiohttp import web

from gateway.core.handlers.base import Exchange, next_page, page_size
from gateway.core.rendering import json_response
from gateway.errors import ErrorCode, RegistryError
from gateway.plugins import TagPage, TagQuery


async def get(exchange: Exchange) -> web.StreamResponse:
    """The tags that the caller sees, sorted by byte, after ``last``, at most ``n``."""
    limit = page_size(exchange.route)
    query = TagQuery(max(limit, 1), exchange.route.parameter("last") or "")
    page = await exchange.core.plugins.tags(exchange.caller.identity, exchange.name, query, await exchange.store())
    if page is not None and limit == 0:
        # The specification wants an empty list and no Link; that the repository exists was asked all the same.
        page = TagPage(())
    if page is None:
        raise RegistryError(ErrorCode.NAME_UNKNOWN, detail={"name": exchange.name})
    headers = {}
    if page.more:
        headers = next_page(exchange.path(f"{exchange.name}/tags/list"), {"n": str(limit), "last": page.tags[-1]})
    return json_response({"name": exchange.name, "tags": list(page.tags)}, headers)
