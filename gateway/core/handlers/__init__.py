"""One file for each resource of the OCI distribution specification, one function for each of its methods."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from aiohttp import web

from gateway.core.handlers import blobs, catalog, manifests, referrers, tags, uploads
from gateway.core.handlers.base import Exchange, Handler
from gateway.core.router import NEEDS, Kind
from gateway.errors import RegistryError
from gateway.oci import Action

HANDLERS: dict[tuple[Kind, str], Handler] = {
    (Kind.BASE, "GET"): catalog.base,
    (Kind.BASE, "HEAD"): catalog.base,
    (Kind.CATALOG, "GET"): catalog.get,
    (Kind.TAGS, "GET"): tags.get,
    (Kind.TAGS, "HEAD"): tags.get,
    (Kind.MANIFEST, "GET"): manifests.get,
    (Kind.MANIFEST, "HEAD"): manifests.get,
    (Kind.MANIFEST, "PUT"): manifests.put,
    (Kind.MANIFEST, "DELETE"): manifests.delete,
    (Kind.BLOB, "GET"): blobs.get,
    (Kind.BLOB, "HEAD"): blobs.get,
    (Kind.BLOB, "DELETE"): blobs.delete,
    (Kind.UPLOADS, "POST"): uploads.post,
    (Kind.UPLOAD, "GET"): uploads.status,
    (Kind.UPLOAD, "HEAD"): uploads.status,
    (Kind.UPLOAD, "PATCH"): uploads.patch,
    (Kind.UPLOAD, "PUT"): uploads.put,
    (Kind.UPLOAD, "DELETE"): uploads.cancel,
    (Kind.REFERRERS, "GET"): referrers.get,
    (Kind.REFERRERS, "HEAD"): referrers.get,
}


async def answer(exchange: Exchange) -> web.StreamResponse:
    """What the handler of the route answers.

    What changes something asks first whether anything may be changed; what belongs to a push is noted as one.
    """
    core, route = exchange.core, exchange.route
    handler = HANDLERS[route.kind, route.method]
    if route.method == "HEAD" and route.name is not None and _might_push(exchange):
        # Whoever can't be noted can't push either; to pull they may look.
        with suppress(RegistryError):
            await core.pushes.note(route.name, partial(_may_push, exchange))
    if route.method in {"GET", "HEAD"}:
        return await handler(exchange)
    await core.maintenance.require_writable()
    if route.method == "DELETE":
        return await handler(exchange)
    async with core.pushes.going_on(exchange.name):
        return await handler(exchange)


def _might_push(exchange: Exchange) -> bool:
    """Whether the caller may look in order to push, as far as can be told without asking."""
    claims = exchange.caller.claims
    if claims is None:
        return not exchange.caller.identity.anonymous
    return not claims.granted(f"repository:{exchange.route.name}").isdisjoint((Action.PUSH, Action.ALL))


async def _may_push(exchange: Exchange) -> bool:
    """Whether the caller may push, to where garbage is collected.

    Without a token the hooks say, by the question that an upload would put: where it costs, its answer is remembered.
    """
    core = exchange.core
    if id(await exchange.backend()) not in core.collectables:
        return False
    actions = NEEDS[Kind.UPLOADS]["POST"]
    return Action.PUSH in await core.access.allowed(exchange.caller, "repository", exchange.name, actions)


__all__ = ["Exchange", "answer"]
